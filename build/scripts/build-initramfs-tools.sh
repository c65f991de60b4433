#!/bin/sh
# Builds an initramfs as a user of initramfs-tools would: installs initramfs-hooks into an overlay of this machine and runs
# mkinitramfs there. Needs root.
#
#   build/scripts/build-initramfs-tools.sh OUT [KERNEL_DIR]   [target/kernels/cloud]
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 64; }
. build/scripts/overlay.sh

cp -r initramfs-hooks/. "$root/"
cp "$kernel/boot/config-$release" "$root/boot/"
make_initramfs mkinitramfs -o /var/tmp/out "$release"
