#!/bin/sh
# Makes GRUB for BIOS and UEFI from the machine's GRUB modules, without root.
#
#   build/scripts/build-loader.sh DIR
#
# DIR/boot.img     first sector of the disk, BIOS
# DIR/core.img     for the BIOS boot partition; build-image.sh tells both where it lies
# DIR/BOOTX64.EFI  for the EFI partition
#
# With ARCH=arm64 only DIR/BOOTAA64.EFI, for UEFI, from the modules of Debian's grub-efi-arm64-bin.
#
# Both read grub/grub.cfg from the first partition of the disk that they were started from, and never end at a prompt.
set -eu

fail() {
    echo "build-loader: $1" >&2
    exit "${2:-1}"
}

[ $# = 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 64; }
dir=$1
arch=${ARCH:-amd64}
lib=${GRUB_LIB:-/usr/lib/grub}
needs='i386-pc/boot.img i386-pc/hashsum.mod x86_64-efi/hashsum.mod' packages='grub-pc-bin and grub-efi-amd64-bin'
if [ "$arch" = arm64 ]; then
    # Of another architecture: unpacked by setup.sh, or installed.
    [ -n "${GRUB_LIB:-}" ] || [ -e "$lib/arm64-efi" ] || lib=$(dirname "$0")/../../target/arm64/usr/lib/grub
    needs=arm64-efi/hashsum.mod packages='grub-efi-arm64-bin:arm64, or run build/scripts/setup.sh qemu-arm64'
fi
for need in $needs; do
    [ -e "$lib/$need" ] || fail "$lib/$need is missing: install $packages" 69
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
    search_label probe regexp sleep reboot serial terminal'
# shellcheck disable=SC2086 # a list of module names
if [ "$arch" = arm64 ]; then
    # arm64 has no multiboot, and no kernel to forget with it.
    grub-mkimage -d "$lib/arm64-efi" -O arm64-efi -o "$dir/BOOTAA64.EFI" -p '(,gpt1)/grub' -c "$dir/early-efi.cfg" \
        all_video $modules
    exit
else
    modules="$modules multiboot"
    grub-mkimage -d "$lib/i386-pc" -O i386-pc -o "$dir/core.img" -p '(,gpt1)/grub' -c "$dir/early-pc.cfg" \
        biosdisk $modules
    grub-mkimage -d "$lib/x86_64-efi" -O x86_64-efi -o "$dir/BOOTX64.EFI" -p '(,gpt1)/grub' -c "$dir/early-efi.cfg" \
        all_video $modules
fi
cp "$lib/i386-pc/boot.img" "$dir/boot.img"
