#!/bin/sh
# Builds an initramfs by the recipe for dracut, with Debian's dracut unpacked into an overlay of this machine in a namespace, so
# that nothing of this machine changes: the package conflicts with initramfs-tools. Needs root.
#
#   build/scripts/build-dracut.sh OUT [KERNEL_DIR]   [target/kernels/cloud]
set -eu
cd "$(dirname "$0")/../.."

if [ "${1:-}" != --inside ]; then
    [ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 64; }
    mkdir -p "$(dirname "$1")"
    if [ ! -d target/dracut ]; then
        . build/scripts/apt-root.sh
        apt_unpack target/dracut dracut-core
    fi
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

# /lib is a link into /usr here.
for folder in target/dracut/*; do
    cp -r "$folder/." "/mnt/root/${folder##*/}/"
done
cp -r initramfs-hooks/usr/lib/kubesolo-update /mnt/root/usr/lib/
cp -r docs/recipes/dracut/90kubesolo-update /mnt/root/usr/lib/dracut/modules.d/
cp target/dist/amd64/kubesolo-update target/dist/amd64/kubesolo-cloudinit /mnt/root/usr/bin/
mkdir -p /mnt/root/lib/modules
mount --bind "$modules" /mnt/root/lib/modules
chroot /mnt/root dracut --quiet --no-hostonly --gzip --kver "$release" --modules kubesolo-update /var/tmp/out
cat /mnt/root/var/tmp/out >"$out"
echo "$out: $(($(stat -c %s "$out") / 1024)) KiB, kernel $release"
