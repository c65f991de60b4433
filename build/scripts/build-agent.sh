#!/bin/sh
# Builds the commands as static binaries that run in a bare initramfs: target/dist/ARCH/kubesolo-{update,
# release,cloudinit}.
#
#   build/scripts/build-agent.sh
#     ARCH=amd64       or arm64, or both: ARCH='amd64 arm64'
#     PROFILE=release  small and slow to build: what a device gets (the default). The same commit gives the same bytes, in
#                      whatever folder, if Rust and the C compiler are the same; `make reproduce` shows it
#     PROFILE=dev      quick; for amd64 with all programs of the workspace: what `make try`, `make demo` and `make test` run
#     ARM64_LIBRARIES=target/arm64  where setup.sh has unpacked what an arm64 binary is linked with
set -eu
cd "$(dirname "$0")/../.."
umask 022

profile=${PROFILE:-release}
case $profile in
    release | dev) ;;
    *) echo "build-agent: PROFILE=$profile is neither release nor dev" >&2; exit 64 ;;
esac

# The commit for --version: of the archive, which git fills in, or of the work tree. A build of neither has none. A quick build
# has none either: it would compile everything again after each commit.
commit=$(cat build/commit)
case $commit in *Format*) commit=$(git rev-parse HEAD 2>/dev/null) || commit='' ;; esac
[ "$profile" = release ] || commit=''
KUBESOLO_COMMIT=$(echo "$commit" | cut -c 1-12)
export KUBESOLO_COMMIT

# Static glibc: every toolchain has it, and since 2.34 its resolver needs no shared library. The explicit target keeps the
# flag away from build scripts and procedural macros.
static='-C target-feature=+crt-static'
unpacked=${ARM64_LIBRARIES:-$PWD/target/arm64}

# Paths of this machine are in panic messages, and must not be in what is released.
nowhere() {
    cargo fetch --quiet --locked --target "$1"
    for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        [ ! -d "$crates" ] || printf ' --remap-path-prefix=%s=/crates' "$crates"
    done
    printf ' --remap-path-prefix=%s=/rust --remap-path-prefix=%s=/build' "$(rustc --print sysroot)" "$PWD"
}

# What setup.sh has unpacked is named by commands of our own instead of RUSTFLAGS: cargo hashes those into every symbol, and
# the same commit would give other bytes in another folder.
for_arm64() {
    wrap cc aarch64-linux-gnu-gcc "-B$unpacked/libc6-dev/usr/lib/aarch64-linux-gnu"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$PWD/target/arm64/cc"
    if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
        sysroot=$unpacked/rust-$(rustc --version | cut -d' ' -f2)/usr
        ln -sfn "$(rustc --print target-libdir)/.." "$sysroot/lib/rustlib/x86_64-unknown-linux-gnu"
        wrap rustc "$(command -v rustc)" "--sysroot=$sysroot"
        export RUSTC="$PWD/target/arm64/rustc"
        flags="$flags --remap-path-prefix=$sysroot=/rust"
    fi
}

wrap() {
    mkdir -p target/arm64
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$2" "$3" >"target/arm64/$1"
    chmod +x "target/arm64/$1"
}

compile() {
    env "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_RUSTFLAGS=$flags" cargo build --locked --target "$target" "$@"
}

build() {
    case $1 in
        amd64) target=x86_64-unknown-linux-gnu tools='' ;;
        arm64) target=aarch64-unknown-linux-gnu tools=aarch64-linux-gnu- ;;
        *) echo "build-agent: ARCH=$1 is neither amd64 nor arm64" >&2; exit 64 ;;
    esac
    flags=$static
    [ "$1" = amd64 ] || for_arm64

    built=${CARGO_TARGET_DIR:-target}/$target
    case $profile in
        release)
            flags="$flags$(nowhere "$target")"
            # Without tables to unwind the stack a binary is 450 KiB smaller. The path is relative: see for_arm64.
            flags="$flags -Clink-arg=-Wl,-T,build/no-unwind.ld -Clink-arg=-Wl,--no-eh-frame-hdr"
            # Relocations of a static PIE take 170 KiB less. The linker for arm64 does not know them.
            [ "$1" != amd64 ] || flags="$flags -Clink-arg=-Wl,-z,pack-relative-relocs"
            # Apart: together, the device's programs would carry the features that only the publisher asks of a crate.
            compile --release -p kubesolo-update -p kubesolo-cloudinit --bins
            compile --release -p kubesolo-release --bins
            built=$built/release
            ;;
        dev)
            built=$built/debug
            # Examples ask for the features that tests have: what is compiled here is not compiled again for the tests.
            case $1 in
                amd64) compile --workspace --bins --examples ;;
                *) compile -p kubesolo-update -p kubesolo-cloudinit -p kubesolo-release --bins ;;
            esac
            ;;
    esac
    arch=$1

    into=target/dist/$arch
    mkdir -p "$into"
    for name in kubesolo-update kubesolo-release kubesolo-cloudinit; do
        # A dynamic binary names its loader; there is none on the device.
        if LC_ALL=C readelf --program-headers --wide "$built/$name" | grep -q INTERP; then
            echo "build-agent: $built/$name is not static" >&2
            exit 1
        fi
        # Unchanged binaries keep their time, so that images made from them are not made again.
        "${tools}strip" --remove-section=.comment -o "$into/$name.new" "$built/$name"
        if cmp -s "$into/$name.new" "$into/$name"; then rm "$into/$name.new"; else mv "$into/$name.new" "$into/$name"; fi
        echo "$into/$name: static, $(($(stat -c %s "$into/$name") / 1024)) KiB, $profile"
    done
}

for arch in ${ARCH:-amd64}; do
    build "$arch"
done
