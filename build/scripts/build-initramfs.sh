#!/bin/sh
# Builds an initramfs that is a whole small system: busybox, kernel modules, the agent and the init stage. Needs no root;
# the same input gives the same bytes. kubesolo-release repacks it, once that is built.
#
#   build/scripts/build-initramfs.sh [OPTION...] OUT
#     --kernel DIR     vmlinuz and lib/modules/VERSION are in it   [target/kernels/cloud]
#     --agent FILE     the static agent                            [target/dist/amd64/kubesolo-update]
#                      kubesolo-cloudinit comes along if it lies beside it
#     --busybox FILE   a static one for the same architecture      [the machine's own]
#     --key FILE       a public key the image trusts; repeatable
#     --conf FILE      becomes /etc/kubesolo/update.conf
#     --version TEXT   goes into /etc/kubesolo/version
#     --module NAME    a kernel module beside the usual ones; repeatable
#     --base FILE      a packed archive with a whole userland that has systemd: comes first, in place of busybox
#     --test           for the test bench: runs the script that a second disk carries (tests/qemu/guest)
#     --add FILE:PATH  puts FILE at PATH with its mode, after everything else; repeatable
set -eu
cd "$(dirname "$0")/../.."
umask 022
PATH=$PATH:/usr/sbin:/sbin:$PWD/target/tools/sbin

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 64; }

kernel=target/kernels/cloud agent=target/dist/amd64/kubesolo-update version='' out='' modules='' base='' tests=''
busybox=$(command -v busybox) || busybox=''
mkdir -p target
root=$(mktemp -d target/initramfs.XXXXXX)
added=$root.added
trap 'rm -rf "$root" "$added"' EXIT
mkdir -p "$root/usr/bin" "$root/etc/kubesolo" "$root/usr/share/kubesolo/keys"
: >"$added"

while [ $# -gt 0 ]; do
    case $1 in
        --kernel) kernel=$2 ;;
        --agent) agent=$2 ;;
        --busybox) busybox=$2 ;;
        --module) modules="$modules $2" ;;
        --key) cp "$2" "$root/usr/share/kubesolo/keys/" ;;
        --conf) cp "$2" "$root/etc/kubesolo/update.conf" ;;
        --version) version=$2 ;;
        --base) base=$2 ;;
        --add) echo "$2" >>"$added" ;;
        --test)
            tests=1
            shift
            continue
            ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1; shift; continue ;;
    esac
    shift 2
done
[ -n "$out" ] || usage

# the agent and the init stage
cp "$agent" "$root/usr/bin/kubesolo-update"
cloudinit=$(dirname "$agent")/kubesolo-cloudinit
[ ! -x "$cloudinit" ] || cp "$cloudinit" "$root/usr/bin/"
cp -r initramfs-hooks/usr/lib "$root/usr/"
mkdir -p "$root/etc/kubesolo/health.d"
if [ -n "$base" ]; then
    # The agent's units, and what they call. /lib is a link in the archive that comes first.
    mkdir -p "$root/usr/lib/systemd/system" "$root/usr/lib/udev/rules.d"
    cp agent/systemd/* "$root/usr/lib/systemd/system/"
    cp agent/udev/* "$root/usr/lib/udev/rules.d/"
    ln -s usr/lib/systemd/systemd "$root/init"
    [ -z "$tests" ] || cp -r tests/qemu/guest/systemd/. "$root/"
    for unit in "$root"/usr/lib/systemd/system/*; do
        grep -q '^\[Install\]' "$unit" || continue
        systemctl --quiet --root="$root" enable "$(basename "$unit")"
    done
    into_modules=usr/lib/modules
else
    # busybox: a link per command, where Debian has them
    cp "$busybox" "$root/usr/bin/busybox"
    for link in $(busybox --list-full); do
        mkdir -p "$root/$(dirname "$link")"
        [ -e "$root/$link" ] || ln -s /usr/bin/busybox "$root/$link"
    done
    ln -s /usr/lib/kubesolo-update/inittab "$root/etc/inittab"
    ln -s /usr/bin/busybox "$root/init"
    if [ -n "$tests" ]; then
        echo tests/qemu/guest/inittab:/etc/inittab >>"$added"
        echo tests/qemu/guest/health-then-script:/usr/lib/guest/health-then-script >>"$added"
    fi
    # It repairs a data partition whose superblock a power cut tore. For the machine's own architecture only.
    if e2fsck=$(command -v e2fsck.static) && [ "$(readlink -f "$busybox")" = "$(readlink -f "$(command -v busybox)")" ]; then
        mkdir -p "$root/sbin"
        cp "$e2fsck" "$root/sbin/e2fsck"
    fi
    into_modules=lib/modules
fi
[ -z "$version" ] || echo "$version" >"$root/etc/kubesolo/version"
# An empty key folder is a mistake in an image; one without the folder only checks.
rmdir "$root/usr/share/kubesolo/keys" 2>/dev/null || true

# kernel modules that this kernel does not have built in, and what they need
release=$(basename "$kernel"/lib/modules/*)
for module in virtio_pci virtio_blk virtio_net ext4 vfat nls_cp437 nls_ascii isofs i6300esb efi_pstore ramoops $modules; do
    needs=$(modprobe -d "$kernel" -S "$release" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod //p') || true
    [ -n "$needs" ] || continue
    echo "$module" >>"$root/usr/lib/kubesolo-update/modules"
    for file in $needs; do
        into=$root/$into_modules/${file#*/lib/modules/}
        mkdir -p "$(dirname "$into")"
        cp "$file" "$into"
    done
done
if [ -d "$root/$into_modules" ]; then
    cp "$kernel/lib/modules/$release"/modules.builtin* "$kernel/lib/modules/$release/modules.order" "$root/$into_modules/$release/"
    depmod -b "$root/${into_modules%lib/modules}" "$release"
fi

while IFS=: read -r file path; do
    mkdir -p "$root/$(dirname "$path")"
    rm -f "$root/$path"
    cp "$file" "$root/$path"
done <"$added"

chmod -R u=rwX,go=rX "$root"
find "$root" -exec touch --no-dereference --date=@0 {} +
mkdir -p "$(dirname "$out")"
# /init comes last: the kernel starts what it could unpack, and half an archive must end in a panic, not in half a system.
{
    [ -z "$base" ] || cat "$base"
    (cd "$root" && { find . -mindepth 1 ! -path ./init | LC_ALL=C sort; echo ./init; } | cpio --quiet --create --format=newc --reproducible --owner=0:0) | gzip -n
} >"$out.new"
# As a publisher does it: devices boot what is released. The one for this machine repacks for every architecture.
publisher=target/dist/amd64/kubesolo-release
[ ! -x "$publisher" ] || "$publisher" --quiet repack "$out.new" "$out.new" >/dev/null
mv "$out.new" "$out"
echo "$out: $(($(stat -c %s "$out") / 1024)) KiB, kernel $release"
