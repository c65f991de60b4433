#!/bin/sh
# Unpacks the bootloaders of the next Debian (GRUB 2.12 or later, U-Boot 2025.01 or later) into target/next, without
# installing them and without root. LOADERS=target/next starts virtual devices with them.
#
#   build/scripts/fetch-loaders.sh
set -eu
cd "$(dirname "$0")/../.."

suite=trixie
dir=target/next
uboot=$dir/usr/lib/u-boot/qemu_arm64/u-boot.bin

if [ ! -e "$dir/complete" ]; then
    apt_root=$PWD/target/apt-$suite
    . build/scripts/apt-root.sh
    apt_only deb "$suite"
    echo "setup: unpacking GRUB and U-Boot from Debian $suite into $dir, without installing them"
    apt_unpack "$dir" grub-pc-bin grub-efi-amd64-bin u-boot-qemu
    touch "$dir/complete"
fi

# at_least NAME VERSION FOUND
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$3" | sort -V | head -n1)" = "$2" ] && return 0
    echo "fetch-loaders: $1 in $dir is ${3:-unknown}, older than $2: remove $dir and name a later suite in this script" >&2
    exit 65
}

grub=$(sed -n 's/^grub_version="\(.*\)"$/\1/p' "$dir/usr/lib/grub/i386-pc/modinfo.sh")
at_least GRUB 2.12 "$grub"
at_least U-Boot 2025.01 "$(grep -a -o -m1 'U-Boot 20[0-9.]*' "$uboot" | head -n1 | cut -d' ' -f2)"
