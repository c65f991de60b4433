#!/bin/sh
# Builds an initramfs by the recipe for dracut, with Debian's dracut unpacked into an overlay of this machine: the package
# conflicts with initramfs-tools. Needs root.
#
#   build/scripts/build-dracut.sh OUT [KERNEL_DIR]   [target/kernels/cloud]
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 64; }
. build/scripts/overlay.sh

if [ ! -d target/dracut ]; then
    . build/scripts/apt-root.sh
    apt_unpack target/dracut dracut-core
fi
# /lib is a link into /usr here.
for folder in target/dracut/*; do
    cp -r "$folder/." "$root/${folder##*/}/"
done
cp -r initramfs-hooks/usr/lib/kubesolo-update "$root/usr/lib/"
cp -r docs/recipes/dracut/90kubesolo-update "$root/usr/lib/dracut/modules.d/"
make_initramfs dracut --quiet --no-hostonly --gzip --kver "$release" --modules kubesolo-update /var/tmp/out
