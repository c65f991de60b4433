#!/bin/sh
# Fetches a Debian kernel into target/kernels/FLAVOUR without installing it: vmlinuz and lib/modules.
#
#   build/scripts/fetch-kernel.sh cloud|full|cloud-arm64|full-arm64
#     cloud        small, made for virtual machines
#     full         has drivers for hardware watchdogs
#     cloud-arm64, full-arm64  the same for arm64
set -eu
cd "$(dirname "$0")/../.."
case ${1:-} in *-arm64) apt_architecture=arm64 ;; esac
. build/scripts/apt-root.sh
PATH=$PATH:/usr/sbin:/sbin

case ${1:-} in
    cloud) meta=linux-image-cloud-amd64 ;;
    full) meta=linux-image-amd64 ;;
    cloud-arm64) meta=linux-image-cloud-arm64:arm64 ;;
    full-arm64) meta=linux-image-arm64:arm64 ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
into=target/kernels/$1
[ -e "$into/vmlinuz" ] && exit 0

apt_lists
package=$(apt_ours apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n1)
[ -n "$package" ] || { echo "fetch-kernel: no package $meta in this machine's apt sources" >&2; exit 1; }
echo "setup: unpacking Debian's kernel $package into $into, without installing it"
rm -rf "$into.new" "$into"
apt_unpack "$into.new" "$package"
version=${package#linux-image-}
version=${version%:arm64}
depmod -b "$into.new" "$version"
mv "$into.new/boot/vmlinuz-$version" "$into.new/vmlinuz"
mv "$into.new" "$into"
