#!/bin/sh
# Installs on a Debian 12 machine what a part of the project needs, and says what and why. Does nothing when it is there.
#
#   build/scripts/setup.sh WHAT...
#     rust   Rust at least as new as Cargo.toml asks for, a C compiler and linker
#     arm64  rust, what builds for arm64 on amd64, and what runs it
#     try    docker-registry and cpio, unpacked under target/tools: needs no root
#     qemu   QEMU, UEFI firmware, GRUB, the tools that build a disk, a Debian kernel
#     qemu-arm64  qemu and arm64, U-Boot and UEFI for the virtual device on arm64, GRUB and busybox for it
#     lint   rustfmt, clippy, shellcheck, grub-script-check
#     bench  servers and the tools that the agent is compared with
#     builder  buildah and mmdebstrap
#     dist   lintian
#     test   rust, try and qemu, nginx, tinyproxy, squid, and other tools to compare with
#     fuzz   rust, and a C++ compiler for libFuzzer
#     test-all  test and lint, initramfs-tools and mmdebstrap
set -eu
cd "$(dirname "$0")/../.."
. build/scripts/apt-root.sh
PATH=$PATH:/usr/sbin:/sbin

packages='' reasons=''

say() { echo "setup: $*"; }

# want PACKAGE REASON
want() {
    case " $packages " in *" $1 "*) return 0 ;; esac
    packages="$packages $1"
    reasons="$reasons
setup:   $1: $2"
}

# need PROBE PACKAGE REASON: PROBE is a command, or a file when it begins with a slash.
need() {
    case $1 in
        /*) [ -e "$1" ] || want "$2" "$3" ;;
        *) command -v "$1" >/dev/null || want "$2" "$3" ;;
    esac
}

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

rust_is_new_enough() {
    command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
    # Either may be older than the other on a machine with two toolchains.
    for tool in cargo rustc; do
        found=$("$tool" --version | cut -d' ' -f2)
        [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1)" = "$wanted" ] || return 1
    done
}

need_rust() {
    need cc gcc 'C compiler and linker, for Rust'
    need /usr/include/stdlib.h libc6-dev 'C library, also the static one for the device'
    need /etc/ssl/certs/ca-certificates.crt ca-certificates 'to reach crates.io'
    rust_is_new_enough && return 0
    want cargo-web "Rust $wanted or newer"
    want rustc-web "Rust $wanted or newer"
}

need_arm64() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu 'C compiler and linker for arm64'
    need /usr/aarch64-linux-gnu/include/stdlib.h libc6-dev-arm64-cross 'headers of the C library, for arm64'
    need qemu-aarch64-static qemu-user-static 'runs the binaries for arm64 here'
}

# Once Rust is there: the libraries for arm64 that a binary is linked with.
libraries_for_arm64() {
    target=aarch64-unknown-linux-gnu
    # The one of Debian's cross compiler gets no security updates, and a static binary cannot get them later.
    unpack_arm64 libc6-dev libc6-dev
    [ ! -d "$(rustc --print target-libdir --target $target)" ] || return 0
    case $(rustc --print sysroot) in
        /usr)
            package=$(dpkg-query -S "$(readlink -f "$(command -v rustc)")" | cut -d: -f1)
            version=$(dpkg-query -W -f '${Version}' "$package")
            case $package in
                rustc) package=libstd-rust-dev ;;
                *) package=libstd-rust-${package#rustc-}-dev ;;
            esac
            unpack_arm64 "rust-$(rustc --version | cut -d' ' -f2)" "$package=$version"
            ;;
        *)
            if ! command -v rustup >/dev/null; then
                say "$(command -v rustc) has no standard library for $target: install it where you got Rust" >&2
                exit 1
            fi
            say "rustup target add $target: Rust's standard library for arm64"
            rustup --quiet target add $target
            ;;
    esac
}

# unpack_arm64 PLACE PACKAGE[=VERSION]
unpack_arm64() (
    place=target/arm64/$1 package=${2%%=*}
    [ ! -d "$place" ] || return 0
    apt_root='' apt_architecture=arm64
    . build/scripts/apt-root.sh
    say "unpacking $package for arm64 into $place, without installing it"
    rm -rf "$place.new"
    apt_unpack "$place.new" "$package:arm64${2#"$package"}"
    mv "$place.new" "$place"
)

need_try() {
    need_unpacked docker-registry cpio
}

# need_unpacked TOOL[=PACKAGE]...: each is a package, of the same name unless it is given, that runs from wherever it lies.
need_unpacked() {
    for tool in "$@"; do
        package=${tool#*=} tool=${tool%%=*}
        command -v "$tool" >/dev/null && continue
        for place in bin sbin usr/bin usr/sbin; do
            [ ! -x "target/tools/$place/$tool" ] || continue 2
        done
        say "unpacking $package into target/tools, without installing it"
        apt_unpack target/tools "$package"
    done
}

# Its libraries and pages are packages of their own.
need_squid() {
    ! command -v squid >/dev/null && [ ! -x target/tools/usr/sbin/squid ] || return 0
    say 'unpacking squid into target/tools, without installing it'
    apt_unpack target/tools squid squid-common squid-langpack libecap3 libltdl7
}

need_oracles() {
    need_unpacked nginx tinyproxy=tinyproxy-bin
    need_squid
    need openssl openssl 'makes and verifies signatures beside ours'
    need skopeo skopeo 'reads and copies releases beside ours'
    need xz xz-utils 'compresses an initramfs in another way'
    need zstd zstd 'the same'
    need lz4 lz4 'the same'
    need kubectl kubernetes-client 'reads a kubeconfig beside us'
    need dtc device-tree-compiler 'makes device trees, and reads them beside us'
    need mkenvimage u-boot-tools "makes U-Boot's environment beside us, and its scripts"
    need_uboot_tools
    need strace strace 'makes one system call after the other fail'
    need systemd-analyze systemd 'judges the units; nothing of it is started'
    need man man-db 'reads the pages of the manual'
    need zsh zsh 'completes command lines, as bash does'
    need fish fish 'completes command lines'
    /usr/bin/python3 -c 'import jsonschema' 2>/dev/null || want python3-jsonschema 'judges documents by their JSON Schemas'
    oracles=1
}

# The packages are pure Python, and each has to have its hash.
need_sdk() {
    [ ! -d target/tools/python/cloudevents ] || return 0
    /usr/bin/python3 -c 'import pip' 2>/dev/null || want python3-pip 'gets the SDK of CloudEvents'
    sdk=1
}

need_bench() {
    need nginx nginx-light 'serves releases over HTTP'
    need curl curl 'is compared with, in a script'
    need openssl openssl 'is compared with, in a script; signs for others'
    need skopeo skopeo 'is compared with'
    need swupdate swupdate 'is compared with'
    need mender mender-client 'is compared with'
    need mender-artifact mender-artifact 'makes what the Mender client fetches'
    need casync casync 'is compared with, by bytes fetched for a similar release'
    need zsync zsync 'is compared with, by bytes fetched for a similar release'
    need rauc rauc 'is compared with, by bytes fetched for a similar release'
    need mksquashfs squashfs-tools 'makes bundles of RAUC'
    need dbus-daemon dbus-daemon 'RAUC is a service on it'
    need zck zchunk 'makes and fetches the format of the deltas of SWUpdate: is compared with in the same way'
}

need_builder() {
    need mmdebstrap mmdebstrap 'makes the base image from packages'
    need buildah buildah 'builds images without a container engine'
    [ "$(id -u)" = 0 ] || need newuidmap uidmap 'lets it do so without root'
}

need_qemu() {
    need qemu-system-x86_64 qemu-system-x86 'the virtual device'
    need /usr/share/OVMF/OVMF_CODE_4M.fd ovmf 'its UEFI firmware'
    need grub-mkimage grub-common 'bootloader, and an oracle for the environment block'
    need /usr/lib/grub/i386-pc/boot.img grub-pc-bin 'bootloader for BIOS'
    need /usr/lib/grub/x86_64-efi/normal.mod grub-efi-amd64-bin 'bootloader for UEFI'
    need mcopy mtools 'fills the EFI partition without root'
    need mke2fs e2fsprogs 'fills the slots without root'
    need sfdisk fdisk 'partitions the disk image'
    need sgdisk gdisk 'makes disks of tests'
    need sqlite3 sqlite3 'the database of the application in the virtual device'
    need_initramfs
}

need_qemu_arm64() {
    need qemu-system-aarch64 qemu-system-arm 'the virtual device on arm64'
    need /usr/lib/u-boot/qemu_arm64/u-boot.bin u-boot-qemu 'its bootloader'
    need /usr/share/qemu-efi-aarch64/QEMU_EFI.fd qemu-efi-aarch64 'its UEFI firmware'
    need mkimage u-boot-tools "makes U-Boot's script and its environment"
    need_uboot_tools
    need bison bison 'to build a U-Boot that counts boots itself'
    need flex flex 'to build it'
    need /usr/include/openssl/evp.h libssl-dev 'to build it'
    need make make 'to build it'
    uboot_counting=1
}

need_uboot_tools() {
    need fw_printenv libubootenv-tool "reads and writes U-Boot's environment beside us"
    need cc gcc "C compiler, for U-Boot's own tools"
    need xz xz-utils 'unpacks their source'
    uboot_tools=1
}

# What runs in the device, for its own architecture.
unpack_for_arm64() {
    [ ! -e target/arm64/bin/busybox ] || [ ! -e target/arm64/usr/lib/grub/arm64-efi/normal.mod ] || return 0
    say 'unpacking busybox-static and grub-efi-arm64-bin for arm64 into target/arm64, without installing them'
    (
        apt_root='' apt_architecture=arm64
        . build/scripts/apt-root.sh
        apt_unpack target/arm64 busybox-static:arm64 grub-efi-arm64-bin:arm64
    )
}

need_initramfs() {
    need cpio cpio "packs the virtual device's initramfs"
    need depmod kmod 'kernel modules of that initramfs'
    # Both packages own /bin/busybox; only a static one runs in the initramfs.
    busybox_is_static || want busybox-static 'shell and tools of that initramfs'
    # Static, as busybox: the initramfs has no libraries.
    need_unpacked e2fsck.static=e2fsck-static
}

busybox_is_static() {
    command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

need_lint() {
    need shellcheck shellcheck 'checks the shell scripts'
    need grub-script-check grub-common 'checks grub.cfg'
    cargo fmt --version >/dev/null 2>&1 || want rustfmt-web 'checks the format of the Rust code'
    cargo clippy --version >/dev/null 2>&1 || want rust-web-clippy 'Rust linter'
}

# apt may have to remove a package that conflicts (qemu-utils from backports beside Debian 12's QEMU): never unannounced.
install_packages() {
    [ -n "$packages" ] || return 0
    say "missing, installing with apt-get:$reasons"
    root=''
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "needs root once. As root run: apt-get install --no-install-recommends$packages" >&2
            exit 1
        fi
        root=sudo
    fi
    $root apt-get -qq -o Acquire::Retries=3 update || say 'some package lists could not be fetched, going on'
    # shellcheck disable=SC2086 # a list of package names
    apt-get -s install --no-install-recommends $packages | sed -n 's/^Remv \([^ ]*\) \[\(.*\)\].*/setup:   conflicts, so apt removes it: \1 \2/p'
    # shellcheck disable=SC2086
    if ! $root env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends $packages >target/setup.log 2>&1; then
        tail -n 20 target/setup.log >&2
        say "apt-get failed, its whole output is in target/setup.log" >&2
        exit 1
    fi
    hash -r
    case "$packages " in
        *' cargo-web '*) rust_is_new_enough || {
            say "the Rust found first is still older than $wanted (cargo: $(command -v cargo))." >&2
            say "If it comes from rustup run 'rustup update'; if it is Debian's, add the bookworm-security suite to apt's sources." >&2
            exit 1
        } ;;
    esac
    say 'done'
}

[ $# -gt 0 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 64; }
mkdir -p target
for what in "$@"; do
    case $what in
        rust) need_rust ;;
        arm64) need_rust; need_arm64; arm64=1 ;;
        try) need_try ;;
        qemu) need_qemu; kernel=1 ;;
        qemu-arm64) need_rust; need_arm64; need_try; need_qemu; need_qemu_arm64; kernel=1 arm64=1 kernel_arm64=1 ;;
        lint) need_rust; need_lint ;;
        bench) need_try; need_bench ;;
        builder) need_builder ;;
        dist) need lintian lintian 'judges the Debian packages' ;;
        fuzz) need_rust; need c++ g++ 'C++ compiler, for libFuzzer' ;;
        test) need_rust; need_try; need_oracles; need_qemu; kernel=1 ;;
        test-all)
            need_rust; need_try; need_oracles; need_qemu; need_lint; kernel=1
            need lintian lintian 'judges the Debian packages'
            need mkinitramfs initramfs-tools-core 'makes an image as its users do'
            need_unpacked promtool=prometheus
            need npm npm 'gets a library that signs as cosign 3 does'
            need ansible-playbook ansible-core 'runs the Ansible role on a folder device'
            need_sdk
            need mmdebstrap mmdebstrap 'makes a Debian with systemd for the virtual device, and one with cloud-init'
            need genisoimage genisoimage 'makes a seed as an optical disc'
            ;;
        *) say "unknown: $what (rust, arm64, try, qemu, qemu-arm64, lint, bench, builder, dist, fuzz, test or test-all)" >&2; exit 64 ;;
    esac
done
install_packages
[ -z "${oracles:-}" ] || build/scripts/fetch-release-tools.sh oras cosign cosign3 crane
[ -z "${sdk:-}" ] || /usr/bin/python3 -m pip install --quiet --target target/tools/python --no-deps --only-binary :all: \
    --require-hashes --requirement build/scripts/cloudevents.txt
[ -z "${uboot_tools:-}" ] || build/scripts/build-uboot.sh tools
[ -z "${uboot_counting:-}" ] || build/scripts/build-uboot.sh counting
[ -z "${arm64:-}" ] || libraries_for_arm64
[ -z "${kernel:-}" ] || build/scripts/fetch-kernel.sh cloud
[ -z "${kernel_arm64:-}" ] || { unpack_for_arm64; build/scripts/fetch-kernel.sh cloud-arm64; }
