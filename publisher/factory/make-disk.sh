#!/bin/sh
# Makes a bootable disk image from the folder of this script, which `kubesolo-release factory` made. Needs no root.
#
#   make-disk.sh DISK.img
#
#   DATA=DIR     files of the data partition (empty)
#   SLOT_B=DIR   files of slot B, which stays void (empty)
#   LOADER=DIR   GRUB, as make-loader.sh makes it (made by it)
#
# Edit disk.sfdisk for other sizes: a slot needs room for the largest future release. Write the image to a device with
#   dd if=DISK.img of=/dev/DEVICE bs=4M conv=fsync
# Each image has partition identities of its own. Give copies of one image theirs: sfdisk --part-uuid, or sgdisk -G.
set -eu
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "make-disk: $1" >&2
    exit "${2:-1}"
}

[ $# = 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 64; }
output=$1
here=$(cd "$(dirname "$0")" && pwd)
architecture='' boot=''
# shellcheck source=/dev/null # made with this script
. "$here/factory.conf"
for folder in "DATA=${DATA:-$here}" "SLOT_B=${SLOT_B:-$here}" "LOADER=${LOADER:-$here}"; do
    [ -d "${folder#*=}" ] || fail "$folder is not a folder" 64
done
needs='sfdisk=fdisk mformat=mtools mke2fs=e2fsprogs dd=coreutils'
[ "$boot" = grub ] || needs="$needs mkimage=u-boot-tools"
missing=''
for need in $needs; do
    command -v "${need%=*}" >/dev/null || missing="$missing ${need#*=}"
done
if [ -z "${LOADER:-}" ] && [ "$boot" = grub ]; then
    missing=$missing$(ARCH=$architecture "$here/make-loader.sh" --missing)
fi
# All at once.
[ -z "$missing" ] || fail "programs are missing: apt-get install$missing" 69

work=$(mktemp -d)
new=''
trap 'rm -rf "$work" ${new:+"$new"}' EXIT
loader=${LOADER:-$work/loader}
if [ -z "${LOADER:-}" ] && [ "$boot" = grub ]; then
    ARCH=$architecture "$here/make-loader.sh" "$loader"
fi

# partition NAME: sets $first and $sectors
partition() {
    place=$(sed -n "s/^.*start= *\([0-9]*\), *size= *\([0-9]*\),.*name=\"\{0,1\}$1\"\{0,1\}\$/\1 \2/p" "$here/disk.sfdisk")
    case $place in
        [0-9]*' '[0-9]*) first=${place% *} sectors=${place#* } ;;
        *) fail "$here/disk.sfdisk has no line with start=, size= and at its end name=$1" 65 ;;
    esac
}

# --- Partitions ---
end=0
for name in KSOLOEFI KSOLOA KSOLOB KSOLODATA $([ "$boot" = grub ] || echo KSOLOENV); do
    partition "$name"
    [ "$((first % 2048)) $((sectors % 2048))" = '0 0' ] || fail "disk.sfdisk: $name is not at whole MiB (2048 sectors)" 65
    [ "$end" -gt $((first + sectors)) ] || end=$((first + sectors))
done
disk=$work/disk.img
truncate -s $(((end + 2048) * 512)) "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" <"$here/disk.sfdisk" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "sfdisk refuses $here/disk.sfdisk" 65; }

if [ "$boot-$architecture" = grub-amd64 ]; then
    # --- GRUB for BIOS: each part learns the sector of the next one ---
    partition BIOSBOOT
    [ "$(wc -c <"$loader/core.img")" -le $((sectors * 512)) ] || fail "$loader/core.img is too big for the partition BIOSBOOT"
    # patch FILE OFFSET BYTES: bytes as octal escapes
    patch() {
        # shellcheck disable=SC2059 # the bytes are escapes
        printf "$3" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc status=none
    }
    # number N: as eight bytes, little-endian
    number() {
        printf '\\%03o\\%03o\\%03o\\%03o\\0\\0\\0\\0' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255))
    }
    cp "$loader/boot.img" "$loader/core.img" "$work/"
    chmod u+w "$work/boot.img" "$work/core.img"
    patch "$work/boot.img" 0x5c "$(number "$first")"
    patch "$work/boot.img" 0x66 '\220\220' # do not take the drive from the partition table
    patch "$work/core.img" 0x1f4 "$(number $((first + 1)))"
    # The partition table of the protective MBR stays as sfdisk wrote it.
    dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core.img" of="$disk" bs=512 seek="$first" conv=notrunc status=none
fi

# --- U-Boot's environment ---
if [ "$boot" = uboot ]; then
    partition KSOLOENV
    dd if="$here/uboot-env.img" of="$disk" bs=512 seek="$first" conv=notrunc,sparse status=none
fi

# --- Boot partition ---
partition KSOLOEFI
# FAT32 has at least 65525 clusters, and tables of them: the largest cluster that leaves as many. With more than one sector
# in a cluster each file of the environment is in one piece.
[ "$sectors" -ge 69632 ] || fail "disk.sfdisk: KSOLOEFI is smaller than 34 MiB, and FAT32 needs that" 65
cluster=1
while [ $cluster -lt 8 ] && [ "$sectors" -ge $((cluster * 2 * 69632)) ]; do cluster=$((cluster * 2)); done
export MTOOLS_SKIP_CHECK=1
fat=$disk@@$((first * 512))
mformat -i "$fat" -F -c "$cluster" -T "$sectors" -h 64 -s 32 -H "$first" -v KSOLOEFI ::
cp -R "$here/boot" "$work/boot"
if [ "$boot" = uboot ]; then
    mkimage -A arm64 -T script -C none -n 'A/B slot protocol' -d "$here/boot.cmd" "$work/boot/boot.scr" >/dev/null
else
    mkdir -p "$work/boot/EFI/BOOT"
    cp "$loader"/*.EFI "$work/boot/EFI/BOOT/"
fi
mcopy -i "$fat" -s "$work"/boot/* ::/

# --- Slots and data ---
# ext4 NAME DIR OPTION...
ext4() {
    partition "$1"
    name=$1 from=$2
    shift 2
    mke2fs -q -F -t ext4 -L "$name" -m 0 -d "$from" -E "offset=$((first * 512)),root_owner=0:0" "$@" \
        "$disk" "$((sectors / 2))k" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; fail "mke2fs could not fill $name: do the files fit into $((sectors / 2048)) MiB?"; }
}
mkdir "$work/empty"
# No journal, which no bootloader replays, and no features that older GRUBs cannot read.
ext4 KSOLOA "$here/slot-a" -O '^has_journal,^metadata_csum_seed'
ext4 KSOLOB "${SLOT_B:-$work/empty}" -O '^has_journal,^metadata_csum_seed'
# Blocks that only root can use, so that another account cannot keep the agent from writing. The last -m counts.
ext4 KSOLODATA "${DATA:-$work/empty}" -m 5

# Whole or not at all, never through a link that lies there, and as sparse as it was made.
new=$(mktemp "$(dirname "$output")/.make-disk.XXXXXX")
cp --sparse=always "$disk" "$new"
chmod "$(printf %o $((0666 & ~0$(umask))))" "$new"
sync "$new"
mv -T "$new" "$output"
sync "$(dirname "$output")"
case $boot-$architecture in grub-amd64) how='BIOS and UEFI' ;; grub-arm64) how=UEFI ;; *) how=U-Boot ;; esac
echo "make-disk: $output: $((end / 2048 + 1)) MiB, boots slot A through $how"
