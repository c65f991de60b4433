#!/bin/sh
# Builds a disk that boots through BIOS, UEFI or U-Boot, from any kernel and initramfs, by `kubesolo-release factory`. Needs no
# root.
#
#   KERNEL=FILE INITRAMFS=FILE [NAME=VALUE...] build/scripts/build-image.sh
#
#   OUTPUT=FILE       the disk, raw and sparse (target/image/disk.img)
#   MANIFEST=FILE     manifest.json of slot A: version and signature of the release in it (none)
#   KERNEL_B=, INITRAMFS_B=, MANIFEST_B=
#                     content of slot B, which stays void all the same (empty)
#   KERNEL_ARGS=TEXT  kernel command line instead of grub.cfg's default (console=tty0 console=ttyS0,115200n8)
#   DATA=DIR          files of the data partition (empty)
#   ESP_MIB=, SLOT_MIB=, DATA_MIB=
#                     sizes of the EFI partition, of each slot, of the data partition (128, 256, 256)
#   ARCH=             amd64 or arm64 (amd64)
#   BOOT=             grub or uboot (grub)
#   GRUB_CFG=FILE     one script of GRUB in place of the two loader files and the sector that picks one of them
#   LOADER=DIR        GRUB, as publisher/factory/make-loader.sh makes it (made anew)
#   RELEASE=PROGRAM   kubesolo-release (the one that cargo built)
#
# Partitions: 1 KSOLOEFI (FAT32), 2 KSOLOA and 3 KSOLOB (ext4 without journal: GRUB does not replay one), 4 KSOLODATA
# (ext4), 5 GRUB for BIOS, or with U-Boot KSOLOENV, its environment: two copies, which fw_env.config names as
#   /dev/disk/by-partlabel/KSOLOENV 0x0 0x4000
#   /dev/disk/by-partlabel/KSOLOENV 0x80000 0x4000
# Slot A is active and good, slot B is void.
set -eu
PATH=$PATH:/usr/sbin:/sbin

root=$(cd "$(dirname "$0")/../.." && pwd)
output=${OUTPUT:-$root/target/image/disk.img}
arch=${ARCH:-amd64}
boot=${BOOT:-grub}
built=${CARGO_TARGET_DIR:-$root/target}/${CARGO_BUILD_TARGET:-x86_64-unknown-linux-gnu}
release=${RELEASE:-}
for profile in debug release; do
    [ -n "$release" ] || [ ! -x "$built/$profile/kubesolo-release" ] || release=$built/$profile/kubesolo-release
done

usage() { sed -n '2,28s/^# \{0,1\}//p' "$0"; }

fail() {
    echo "build-image: $1" >&2
    exit "${2:-1}"
}

need_file() { # VARIABLE FILE
    [ -n "$2" ] || { usage >&2; fail "$1= is missing" 64; }
    if [ ! -f "$2" ] || [ ! -r "$2" ] || [ ! -s "$2" ]; then
        fail "$1=$2 is not a readable file with something in it" 64
    fi
}

case ${1:-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument: $1" 64 ;;
esac
need_file KERNEL "${KERNEL:-}"
need_file INITRAMFS "${INITRAMFS:-}"
[ -z "${GRUB_CFG:-}" ] || need_file GRUB_CFG "$GRUB_CFG"
[ -z "${MANIFEST:-}" ] || need_file MANIFEST "$MANIFEST"
if [ -n "${KERNEL_B:-}${INITRAMFS_B:-}${MANIFEST_B:-}" ]; then
    need_file KERNEL_B "${KERNEL_B:-}"
    need_file INITRAMFS_B "${INITRAMFS_B:-}"
    [ -z "${MANIFEST_B:-}" ] || need_file MANIFEST_B "$MANIFEST_B"
fi
[ -n "$release" ] || fail 'kubesolo-release is missing: run cargo build -p kubesolo-release' 69

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
factory=$work/factory
make_factory() { # DIR KERNEL INITRAMFS
    "$release" --quiet factory "$1" --unsafe-unpublished "$2" "$3" --architecture "$arch" --boot "$boot" \
        --efi-mib "${ESP_MIB:-128}" --slot-mib "${SLOT_MIB:-256}" --data-mib "${DATA_MIB:-256}" \
        ${KERNEL_ARGS:+"--kernel-args=$KERNEL_ARGS"} >/dev/null
}
make_factory "$factory" "$KERNEL" "$INITRAMFS"
[ -z "${MANIFEST:-}" ] || cp "$MANIFEST" "$factory/slot-a/manifest.json"
if [ -n "${GRUB_CFG:-}" ] && [ "$boot" = grub ]; then
    rm "$factory"/boot/grub/ksl?.* "$factory/boot/grub/ksstage"
    cp "$GRUB_CFG" "$factory/boot/grub/grub.cfg"
fi
if [ -n "${KERNEL_B:-}" ]; then
    make_factory "$work/b" "$KERNEL_B" "$INITRAMFS_B"
    [ -z "${MANIFEST_B:-}" ] || cp "$MANIFEST_B" "$work/b/slot-a/manifest.json"
    export SLOT_B="$work/b/slot-a"
fi
# GRUB for the other architecture is unpacked by setup.sh, unless it is installed.
[ "$arch" = amd64 ] || [ -n "${GRUB_LIB:-}" ] || [ -e /usr/lib/grub/arm64-efi ] ||
    export GRUB_LIB="$root/target/arm64/usr/lib/grub"
mkdir -p "$(dirname "$output")"
"$factory/make-disk.sh" "$output"
