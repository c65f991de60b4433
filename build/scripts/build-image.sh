#!/bin/sh
# Builds a disk that boots through BIOS, UEFI or U-Boot, from anybody's kernel and initramfs. Needs no root.
#
#   KERNEL=FILE INITRAMFS=FILE [NAME=VALUE...] build/scripts/build-image.sh
#
#   OUTPUT=FILE       the disk, raw and sparse (target/image/disk.img)
#   MANIFEST=FILE     manifest.json of slot A: version and signature of what is in it (none)
#   KERNEL_B=, INITRAMFS_B=, MANIFEST_B=
#                     content of slot B, which stays void all the same (empty)
#   KERNEL_ARGS=TEXT  kernel command line instead of grub.cfg's default (console=tty0 console=ttyS0,115200n8)
#   DATA=DIR          files of the data partition (empty)
#   ESP_MIB=, SLOT_MIB=, DATA_MIB=
#                     sizes of the EFI partition, of each slot, of the data partition (128, 256, 256)
#   ARCH=             amd64 or arm64 (amd64)
#   BOOT=             grub or uboot (grub)
#   GRUB_CFG=FILE     the bootloader's script (bootenv/loader/grub.cfg)
#   LOADER=DIR        what build-loader.sh made (made anew)
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
esp=${ESP_MIB:-128}
slot=${SLOT_MIB:-256}
data=${DATA_MIB:-256}
arch=${ARCH:-amd64}
boot=${BOOT:-grub}
grub_cfg=${GRUB_CFG:-$root/bootenv/loader/grub.cfg}

usage() { sed -n '2,26s/^# \{0,1\}//p' "$0"; }

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
need_file GRUB_CFG "$grub_cfg"
[ -z "${MANIFEST:-}" ] || need_file MANIFEST "$MANIFEST"
if [ -n "${KERNEL_B:-}${INITRAMFS_B:-}${MANIFEST_B:-}" ]; then
    need_file KERNEL_B "${KERNEL_B:-}"
    need_file INITRAMFS_B "${INITRAMFS_B:-}"
    [ -z "${MANIFEST_B:-}" ] || need_file MANIFEST_B "$MANIFEST_B"
fi
[ -z "${DATA:-}" ] || [ -d "$DATA" ] || fail "DATA=$DATA is not a folder" 64
for size in "ESP_MIB=$esp" "SLOT_MIB=$slot" "DATA_MIB=$data"; do
    case ${size#*=} in '' | *[!0-9]*) fail "$size is not a number of MiB" 64 ;; esac
done
# FAT32 has at least 65525 clusters of 512 bytes, and two tables of them.
[ "$esp" -ge 34 ] || fail "ESP_MIB=$esp: FAT32 needs at least 34" 64
if [ "$slot" -lt 2 ] || [ "$data" -lt 2 ]; then
    fail "SLOT_MIB and DATA_MIB: at least 2" 64
fi
case $boot-$arch in
    grub-amd64 | grub-arm64 | uboot-arm64) ;;
    *) fail "ARCH=$arch BOOT=$boot: amd64 boots by grub, arm64 by grub or uboot" 64 ;;
esac
tools='sgdisk mformat mcopy mmd mke2fs sha256sum dd' group=qemu
[ "$boot" = grub ] || tools="$tools mkimage mkenvimage gzip od" group=qemu-arm64
for tool in $tools; do
    command -v "$tool" >/dev/null || fail "$tool is missing: build/scripts/setup.sh $group installs it" 69
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
loader=${LOADER:-$work/loader}
[ -n "${LOADER:-}" ] || [ "$boot" = uboot ] || ARCH=$arch "$root/build/scripts/build-loader.sh" "$loader"

# --- Partitions, at whole MiB ---
mib=2048 # sectors
first_a=$((1 + esp))
first_b=$((first_a + slot))
first_data=$((first_b + slot))
end=$((first_data + data))
# The last partition: two copies of U-Boot's environment, or GRUB for BIOS before everything else.
last="--new=5:34:2047 --typecode=5:ef02 --change-name=5:BIOSBOOT"
first_env=$end
if [ "$boot" = uboot ]; then
    last="--new=5:$((first_env * mib)):+$mib --typecode=5:8300 --change-name=5:KSOLOENV"
    end=$((end + 1))
fi
mkdir -p "$(dirname "$output")"
disk=$work/disk.img
truncate -s $(((end + 1) * 1024 * 1024)) "$disk"
# Not --quiet: with it sgdisk writes nothing and exits 0.
# shellcheck disable=SC2086 # words of a command
sgdisk --clear --set-alignment=1 \
    --new=1:$mib:+$((esp * mib)) --typecode=1:ef00 --change-name=1:KSOLOEFI \
    --new=2:$((first_a * mib)):+$((slot * mib)) --typecode=2:8300 --change-name=2:KSOLOA \
    --new=3:$((first_b * mib)):+$((slot * mib)) --typecode=3:8300 --change-name=3:KSOLOB \
    --new=4:$((first_data * mib)):+$((data * mib)) --typecode=4:8300 --change-name=4:KSOLODATA \
    $last \
    "$disk" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "sgdisk could not partition the disk"; }

if [ "$boot-$arch" = grub-amd64 ]; then
    # --- GRUB for BIOS: each part learns the sector of the next one ---
    core_at=34
    [ "$(wc -c <"$loader/core.img")" -le $(((2048 - core_at) * 512)) ] || fail "$loader/core.img is too big for its partition"
    patch() { # FILE OFFSET BYTES(octal)
        # shellcheck disable=SC2059 # the bytes are escapes
        printf "$3" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc status=none
    }
    cp "$loader/boot.img" "$work/boot.img"
    cp "$loader/core.img" "$work/core.img"
    chmod u+w "$work/boot.img" "$work/core.img"
    # u64 little-endian: 34 and 35 fit into the first byte.
    patch "$work/boot.img" 0x5c "\\$(printf %o $core_at)\\0\\0\\0\\0\\0\\0\\0"
    patch "$work/boot.img" 0x66 '\220\220' # do not take the drive from the partition table
    patch "$work/core.img" 0x1f4 "\\$(printf %o $((core_at + 1)))\\0\\0\\0\\0\\0\\0\\0"
    # The partition table of the protective MBR stays as sgdisk wrote it.
    dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core.img" of="$disk" bs=512 seek=$core_at conv=notrunc status=none
fi

# --- U-Boot's environment: both copies alike ---
if [ "$boot" = uboot ]; then
    printf '%s\n' ks_v=1 active_slot=A boot_success=1 boot_counter=3 ks_good=A ks_a=good ks_b=void ks_trial=00000000 \
        ks_seal=A1 ks_end=1 >"$work/env.txt"
    mkenvimage -r -p 0 -s 0x4000 -o "$work/env.bin" "$work/env.txt"
    for at in 0 524288; do
        dd if="$work/env.bin" of="$disk" bs=4096 seek=$(((first_env * 1024 * 1024 + at) / 4096)) conv=notrunc status=none
    done
fi

# --- EFI partition ---
block() { # NAME=VALUE...: a GRUB environment block, padded to 1024 bytes
    text=$(printf '# GRUB Environment Block\n'; printf '%s\n' "$@"; echo .)
    text=${text%.}
    printf '%s' "$text"
    dd if=/dev/zero bs=$((1024 - ${#text})) count=1 status=none | tr '\0' '#'
}
block ks_v=1 active_slot=A boot_success=1 boot_counter=3 ks_good=A ks_a=good ks_b=void ks_trial=00000000 ks_seal=A1 \
    ks_end=1 >"$work/grubenv"
block ks_v=1 ks_good=A ks_a=good ks_b=void ks_end=1 >"$work/ksenv2"
# Sectors per cluster: FAT32 must have 65525 clusters; with more than one each file of the environment is in one piece.
if [ "$esp" -lt 68 ]; then cluster=1; elif [ "$esp" -lt 136 ]; then cluster=2; elif [ "$esp" -lt 272 ]; then cluster=4; else cluster=8; fi
export MTOOLS_SKIP_CHECK=1
fat=$disk@@1M
mformat -i "$fat" -F -c "$cluster" -T $((esp * mib)) -h 64 -s 32 -H $mib -v KSOLOEFI ::
if [ "$boot" = uboot ]; then
    mkimage -A arm64 -T script -C none -n 'A/B slot protocol' -d "$root/bootenv/loader/boot.cmd" "$work/boot.scr" >/dev/null
    mcopy -i "$fat" "$work/boot.scr" ::/boot.scr
else
    mmd -i "$fat" ::/EFI ::/EFI/BOOT ::/grub
    for program in "$loader"/*.EFI; do mcopy -i "$fat" "$program" ::/EFI/BOOT/; done
    mcopy -i "$fat" "$grub_cfg" ::/grub/grub.cfg
    mcopy -i "$fat" "$work/grubenv" "$work/ksenv2" ::/grub/
fi
if [ -n "${KERNEL_ARGS:-}" ]; then
    case $KERNEL_ARGS in *[\'\"\\\$]*) fail "KERNEL_ARGS: quotes, \$ and \\ are not possible" 64 ;; esac
    if [ "$boot" = uboot ]; then
        printf 'ks_args=%s\n' "$KERNEL_ARGS" >"$work/kernel-args.txt"
        mcopy -i "$fat" "$work/kernel-args.txt" ::/kernel-args.txt
    else
        printf 'set ks_args="%s"\n' "$KERNEL_ARGS" >"$work/kernel-args.cfg"
        mcopy -i "$fat" "$work/kernel-args.cfg" ::/grub/kernel-args.cfg
    fi
fi

# --- Slots and data ---
crc32() { # FILE: eight hex digits, from what gzip writes behind its data
    gzip -1 -c "$1" | tail -c 8 | od -A n -t x1 -N 4 | { read -r a b c d; echo "$d$c$b$a"; }
}
fill() { # DIR KERNEL INITRAMFS MANIFEST
    cp "$2" "$1/vmlinuz"
    cp "$3" "$1/kubesolo-os.gz"
    (cd "$1" && for file in vmlinuz kubesolo-os.gz; do sha256sum "$file" >"$file.sha256"; done)
    [ "$boot" != uboot ] ||
        printf 'kernel_crc32=%s\ninitramfs_crc32=%s\n' "$(crc32 "$2")" "$(crc32 "$3")" >"$1/crc32.txt"
    [ -z "$4" ] || cp "$4" "$1/manifest.json"
    chmod -R u=rwX,go=rX "$1"
}
ext4() { # LABEL FIRST-MIB MIB DIR OPTION...
    label=$1 first=$2 size=$3 from=$4
    shift 4
    mke2fs -q -F -t ext4 -L "$label" -m 0 -d "$from" -E "offset=$((first * 1024 * 1024)),root_owner=0:0" "$@" \
        "$disk" "${size}M" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; fail "mke2fs could not fill $label: does it fit into $size MiB?"; }
}
mkdir "$work/a" "$work/b" "$work/data"
fill "$work/a" "$KERNEL" "$INITRAMFS" "${MANIFEST:-}"
[ -z "${KERNEL_B:-}" ] || fill "$work/b" "$KERNEL_B" "$INITRAMFS_B" "${MANIFEST_B:-}"
# No features that older GRUBs cannot read.
ext4 KSOLOA "$first_a" "$slot" "$work/a" -O '^has_journal,^metadata_csum_seed'
ext4 KSOLOB "$first_b" "$slot" "$work/b" -O '^has_journal,^metadata_csum_seed'
# Blocks that only root can use, so that another account cannot keep the agent from writing. The last -m counts.
ext4 KSOLODATA "$first_data" "$data" "${DATA:-$work/data}" -m 5

# Whole or not at all, and as sparse as it was made.
case $boot-$arch in grub-amd64) how="BIOS and UEFI" ;; grub-arm64) how=UEFI ;; *) how=U-Boot ;; esac
cp --sparse=always "$disk" "$output.new"
mv "$output.new" "$output"
echo "build-image: $output: $((end + 1)) MiB, boots slot A through $how"
