#!/bin/sh
# Makes GRUB for BIOS and UEFI from the machine's GRUB modules, without root.
#
#   build/scripts/build-loader.sh DIR
#
# DIR/boot.img     first sector of the disk, BIOS
# DIR/core.img     for the BIOS boot partition; build-image.sh tells both where it lies
# DIR/BOOTX64.EFI  for the EFI partition
#
# Both read grub/grub.cfg from the first partition of the disk that they were started from, and never end at a prompt.
set -eu

fail() {
    echo "build-loader: $1" >&2
    exit "${2:-1}"
}

[ $# = 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 64; }
dir=$1
lib=${GRUB_LIB:-/usr/lib/grub}
for need in i386-pc/boot.img i386-pc/hashsum.mod x86_64-efi/hashsum.mod; do
    [ -e "$lib/$need" ] || fail "$lib/$need is missing: install grub-pc-bin and grub-efi-amd64-bin" 69
done
mkdir -p "$dir"

# The rescue parser reads this: plain commands only. What fails is reported, and the next line runs.
cat >"$dir/early-efi.cfg" <<'END'
configfile $prefix/grub.cfg
echo "ks: there is no usable grub.cfg, trying again in 30 s"
sleep 30
reboot
END
# Without the serial line here it would stay silent if grub.cfg cannot be read. UEFI's console is where UEFI says.
{ printf 'serial --unit=0 --speed=115200\nterminal_output console serial\n'; cat "$dir/early-efi.cfg"; } >"$dir/early-pc.cfg"

# Only what grub.cfg uses. gcry_sha256 is loaded by name: nothing depends on it. all_video: a screen for the kernel.
modules='part_gpt part_msdos fat ext2 normal configfile echo test true loadenv hashsum gcry_sha256 linux boot search
    multiboot search_label regexp sleep reboot serial terminal'
# shellcheck disable=SC2086 # a list of module names
{
    grub-mkimage -d "$lib/i386-pc" -O i386-pc -o "$dir/core.img" -p '(,gpt1)/grub' -c "$dir/early-pc.cfg" \
        biosdisk $modules
    grub-mkimage -d "$lib/x86_64-efi" -O x86_64-efi -o "$dir/BOOTX64.EFI" -p '(,gpt1)/grub' -c "$dir/early-efi.cfg" \
        all_video $modules
}
cp "$lib/i386-pc/boot.img" "$dir/boot.img"
