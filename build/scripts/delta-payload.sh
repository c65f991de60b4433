#!/bin/sh
# Makes three OS images from Debian packages, to measure what an update to a similar release costs: DIR/v1, v2s and v2k,
# each with vmlinuz and initramfs.gz (compressed with gzip -6, for `kubesolo-release repack`). Nothing is installed.
#
#   build/scripts/delta-payload.sh DIR [small|full]
#     v1   packages of the release, the kernel modules before the last
#     v2s  the same with the newest security updates of these packages
#     v2k  v2s with a newer kernel: every module is another one
#     small  110 MB unpacked (the default)
#     full   with a container runtime, and as large as a whole OS image
set -eu
cd "$(dirname "$0")/../.."
. build/scripts/apt-root.sh
PATH=$PATH:/usr/sbin:/sbin:$PWD/target/tools/usr/bin:$PWD/target/tools/bin

out=${1:?the folder for the images}
mkdir -p "$out"
out=$(cd "$out" && pwd)
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
# These are in the release and, newer, in its security updates. One that is not newer is the same in all images.
updated='openssl libssl3 libexpat1 perl-base python3.11-minimal libpython3.11-stdlib libpython3.11-minimal nginx bind9-libs
    xz-utils libssh2-1 jq rsync'
# These stay.
stays='busybox-static bash coreutils util-linux iproute2 iptables e2fsprogs dosfstools procps runc libc-bin'
case ${2:-small} in
    small) ;;
    full) stays="$stays docker.io libglib2.0-0 git vim-runtime" ;;
    *) sed -n '5,10s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac

apt_lists
kernels=$(apt_ours apt-cache pkgnames linux-image-6.1.0- | grep -- '-[0-9]*-cloud-amd64$' | sort -V)
new=$(echo "$kernels" | tail -n1)
old=$(echo "$kernels" | tail -n3 | head -n1)
echo "delta-payload: $old and $new"

# debs DIR PACKAGE...
debs() {
    [ -e "$1.made" ] && return 0
    rm -rf "$1"
    into=$1
    shift
    # shellcheck disable=SC2086 # lists of packages
    apt_unpack "$into" "$@"
    rm -rf "$into/usr/share/doc" "$into/usr/share/man" "$into/usr/share/locale"
    touch "$into.made"
}

parts=$out/parts
mkdir -p "$parts"
# shellcheck disable=SC2046,SC2086 # lists of packages
{
    debs "$parts/stays" $stays
    debs "$parts/release" $(for package in $updated; do echo "$package/$suite"; done)
    debs "$parts/security" $updated
    debs "$parts/old" "$old"
    debs "$parts/new" "$new"
}

# image NAME PART...: joins the parts. The last one is the kernel.
image() {
    name=$1
    shift
    rm -rf "$out/tree" "${out:?}/$name"
    mkdir -p "$out/tree" "$out/$name"
    for part in "$@"; do
        cp -a "$parts/$part/." "$out/tree/"
    done
    rm -rf "$out/tree/boot"
    cp "$parts/$part"/boot/vmlinuz-* "$out/$name/vmlinuz"
    printf '#!/bin/sh\nexec /bin/busybox sh\n' >"$out/tree/init"
    chmod 755 "$out/tree/init"
    touch -d @1700000000 "$out/tree/init"
    # A build keeps the times of folders, too: they are part of their headers.
    find "$out/tree" -type d -exec touch -d @1700000000 {} +
    (cd "$out/tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible | gzip -6n) >"$out/$name/initramfs.gz"
    echo "$name: $(find "$out/tree" | wc -l) files, $(stat -c %s "$out/$name/initramfs.gz") bytes"
    rm -rf "$out/tree"
}

image v1 stays release old
image v2s stays security old
image v2k stays security new
