#!/bin/sh
# Makes a small Debian 12 with systemd, as the first archive of an initramfs: target/debian/root.cpio.gz. The virtual devices
# that show the systemd units run it. Made once; needs root, or user namespaces.
#
#   build/scripts/fetch-debian.sh
set -eu
cd "$(dirname "$0")/../.."
. build/scripts/apt-root.sh
PATH=$PATH:/usr/sbin:/sbin

suite=bookworm
packages=systemd,systemd-sysv,udev,kmod
out=$PWD/target/debian/root.cpio.gz
# What is made differently is another userland.
made=$(sed -n '/^suite=/,/^packages=/p; /^mkdir/,$p' build/scripts/fetch-debian.sh | sha256sum)
[ -e "$out" ] && [ "$(cat "$out.made" 2>/dev/null)" = "$made" ] && exit 0

command -v mmdebstrap >/dev/null || { echo 'fetch-debian: mmdebstrap is missing: build/scripts/setup.sh test-all installs it' >&2; exit 69; }
echo "setup: making a Debian $suite with systemd in target/debian, without installing it"
mirror=$(apt_mirror)
mkdir -p "$(dirname "$out")"
cat >"$out.pack" <<'PACK'
#!/bin/sh
# Called by mmdebstrap in its namespace: $1 is the root, OUT the archive.
set -e
cd "$1"
rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/i18n usr/lib/x86_64-linux-gnu/gconv usr/share/perl* \
    usr/lib/x86_64-linux-gnu/perl* usr/share/bash-completion usr/share/zsh usr/lib/udev/hwdb.* var/lib/dpkg var/lib/apt \
    var/cache/* var/log/* boot/* etc/machine-id etc/hostname etc/resolv.conf
# Known to be no initrd by this: systemd would wait for a root filesystem.
rm -f etc/initrd-release
find . -path './dev/*' -prune -o -path './proc/*' -prune -o -path './sys/*' -prune -o -print | LC_ALL=C sort | cpio --quiet --create --format=newc | gzip -1n >"$OUT.new"
PACK
chmod +x "$out.pack"
OUT=$out mmdebstrap --quiet --variant=essential --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='APT::Install-Recommends "false"' --customize-hook="$out.pack" "$suite" /dev/null "$mirror" \
    >target/debian/log 2>&1 || { tail -n 20 target/debian/log >&2; exit 1; }
mv "$out.new" "$out"
echo "$made" >"$out.made"
echo "$out: $(($(stat -c %s "$out") / 1024)) KiB"
