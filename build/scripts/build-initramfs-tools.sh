#!/bin/sh
# Builds an initramfs as a user of initramfs-tools would: installs initramfs-hooks into the root filesystem and runs
# mkinitramfs. Needs root; the root filesystem is an overlay in a namespace, so that nothing of this machine changes.
#
#   build/scripts/build-initramfs-tools.sh OUT [KERNEL_DIR]   [target/kernels/cloud]
set -eu
cd "$(dirname "$0")/../.."

if [ "${1:-}" != --inside ]; then
    [ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 64; }
    mkdir -p "$(dirname "$1")"
    unshare --mount "$0" --inside "$(realpath "$1")" "${2:-target/kernels/cloud}"
    exit
fi

out=$2
modules=$(realpath "$3/lib/modules")
release=$(basename "$modules"/*)
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
mount --rbind /proc /mnt/root/proc
mount --rbind /dev /mnt/root/dev
mount -t tmpfs tmpfs /mnt/root/var/tmp

cp -r initramfs-hooks/. /mnt/root/
cp target/dist/amd64/kubesolo-update target/dist/amd64/kubesolo-cloudinit /mnt/root/usr/bin/
mkdir -p /mnt/root/lib/modules
mount --bind "$modules" /mnt/root/lib/modules
cp "$3/boot/config-$release" /mnt/root/boot/
chroot /mnt/root mkinitramfs -o /var/tmp/out "$release"
cat /mnt/root/var/tmp/out >"$out"
echo "$out: $(($(stat -c %s "$out") / 1024)) KiB, kernel $release"
