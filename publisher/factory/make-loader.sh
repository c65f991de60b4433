#!/bin/sh
# Makes GRUB for BIOS and UEFI from the GRUB modules of this machine. Needs no root.
#
#   make-loader.sh DIR
#   make-loader.sh --missing   prints the Debian packages that are not installed
#
#   ARCH=          amd64 or arm64 (amd64)
#   GRUB_LIB=DIR   GRUB's modules, a folder for each platform (/usr/lib/grub)
#
# DIR/boot.img      first sector of the disk, for BIOS; amd64 only
# DIR/core.img      for the BIOS boot partition; make-disk.sh writes its place into both; amd64 only
# DIR/BOOTX64.EFI   for the EFI partition; with arm64 BOOTAA64.EFI
#
# GRUB reads grub/grub.cfg from the first partition of the disk that it was started from, and never ends at a prompt.
set -eu

fail() {
    echo "make-loader: $1" >&2
    exit "${2:-1}"
}

[ $# = 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 64; }
dir=$1
arch=${ARCH:-amd64}
lib=${GRUB_LIB:-/usr/lib/grub}
needs='i386-pc/boot.img=grub-pc-bin x86_64-efi/hashsum.mod=grub-efi-amd64-bin'
[ "$arch" = amd64 ] || needs=arm64-efi/hashsum.mod=grub-efi-arm64-bin:arm64
missing=''
for need in $needs; do
    [ -e "$lib/${need%=*}" ] || missing="$missing ${need#*=}"
done
command -v grub-mkimage >/dev/null || missing="$missing grub-common"
if [ "$dir" = --missing ]; then
    echo "$missing"
    exit
fi
[ -z "$missing" ] || fail "GRUB is missing: apt-get install$missing; GRUB_LIB= names modules that are elsewhere than $lib" 69
mkdir -p "$dir"
work=$(mktemp -d "$dir/.make-loader.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The rescue parser reads this: plain commands only. What fails is reported, and the next line runs.
cat >"$work/early-efi.cfg" <<'END'
configfile $prefix/grub.cfg
echo "ks: there is no usable grub.cfg, trying again in 30 s"
sleep 30
reboot
END
# Without the serial line here it would stay silent if grub.cfg cannot be read. UEFI's console is where UEFI says.
{ printf 'serial --unit=0 --speed=115200\nterminal_output console serial\n'; cat "$work/early-efi.cfg"; } >"$work/early-pc.cfg"

# Only what grub.cfg uses. gcry_sha256 is loaded by name: nothing depends on it. all_video: a screen for the kernel.
modules='part_gpt part_msdos fat ext2 normal configfile echo test true loadenv hashsum gcry_sha256 linux boot search
    search_label probe regexp sleep reboot serial terminal'
# shellcheck disable=SC2086 # a list of module names
if [ "$arch" = arm64 ]; then
    # arm64 has no multiboot, and no kernel to forget with it. fdt: the device tree of a release.
    grub-mkimage -d "$lib/arm64-efi" -O arm64-efi -o "$work/BOOTAA64.EFI" -p '(,gpt1)/grub' -c "$work/early-efi.cfg" \
        all_video fdt $modules
else
    modules="$modules multiboot"
    grub-mkimage -d "$lib/i386-pc" -O i386-pc -o "$work/core.img" -p '(,gpt1)/grub' -c "$work/early-pc.cfg" \
        biosdisk $modules
    grub-mkimage -d "$lib/x86_64-efi" -O x86_64-efi -o "$work/BOOTX64.EFI" -p '(,gpt1)/grub' -c "$work/early-efi.cfg" \
        all_video $modules
    cp "$lib/i386-pc/boot.img" "$work/boot.img"
fi
# By rename, so that a link that lies there is replaced and not followed.
for file in "$work"/*; do
    sync "$file"
    mv -T "$file" "$dir/${file##*/}"
done
sync "$dir"
