#!/bin/sh
# Buildroot calls it with the root filesystem, before it is packed.
set -eu

ln -sf /usr/lib/kubesolo-update/inittab "$1/etc/inittab"
ln -sf sbin/init "$1/init"
rm -f "$1/etc/machine-id"
mkdir -p "$1/var/lib/kubesolo"
