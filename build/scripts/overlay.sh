# shellcheck shell=sh
# Sourced by scripts that make an initramfs by another tool: from here on the script runs in a mount namespace, and $root is
# this machine as an overlay, so that nothing of the machine changes. Needs root. The script's arguments are OUT [KERNEL_DIR].

if [ -z "${in_overlay:-}" ]; then
    mkdir -p "$(dirname "$1")"
    exec env in_overlay=1 unshare --mount "build/scripts/$(basename "$0")" "$@"
fi

out=$1 kernel=${2:-target/kernels/cloud}
modules=$(realpath "$kernel/lib/modules")
release=$(basename "$modules"/*)
mount -t tmpfs tmpfs /mnt
root=/mnt/root
mkdir /mnt/upper /mnt/work $root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work $root
mount --rbind /proc $root/proc
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/var/tmp
cp target/dist/amd64/kubesolo-update target/dist/amd64/kubesolo-cloudinit $root/usr/bin/
mkdir -p $root/lib/modules
mount --bind "$modules" $root/lib/modules

# make_initramfs COMMAND...: runs it in the overlay; it writes the initramfs to /var/tmp/out
make_initramfs() {
    chroot $root "$@"
    cat $root/var/tmp/out >"$out"
    echo "$out: $(($(stat -c %s "$out") / 1024)) KiB, kernel $release"
}
