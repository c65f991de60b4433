#!/bin/sh
# Builds the two commands as static binaries that run in a bare initramfs: target/dist/amd64/kubesolo-{update,release}.
#
#   build/scripts/build-agent.sh
#     PROFILE=release  small and slow to build: what a device gets (the default)
#     PROFILE=dev      quick, with all programs of the workspace: what `make try`, `make demo` and `make test` run
set -eu
cd "$(dirname "$0")/../.."

# Static glibc: every toolchain has it, and since 2.34 its resolver needs no shared library. The explicit target keeps the
# flag away from build scripts and procedural macros.
target=x86_64-unknown-linux-gnu
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static'

built=${CARGO_TARGET_DIR:-target}/$target
into=target/dist/amd64
mkdir -p "$into"

profile=${PROFILE:-release}
case $profile in
    release)
        cargo build --locked --release --target "$target" -p kubesolo-update --bins
        built=$built/release
        ;;
    dev)
        # Examples ask for the features that tests have: what is compiled here is not compiled again for the tests.
        cargo build --locked --target "$target" --workspace --bins --examples
        built=$built/debug
        ;;
    *) echo "build-agent: PROFILE=$profile is neither release nor dev" >&2; exit 64 ;;
esac

for name in kubesolo-update kubesolo-release; do
    # A dynamic binary names its loader; there is none on the device.
    if LC_ALL=C readelf --program-headers --wide "$built/$name" | grep -q INTERP; then
        echo "build-agent: $built/$name is not static" >&2
        exit 1
    fi
    # Unchanged binaries keep their time, so that images made from them are not made again.
    strip -o "$into/$name.new" "$built/$name"
    if cmp -s "$into/$name.new" "$into/$name"; then rm "$into/$name.new"; else mv "$into/$name.new" "$into/$name"; fi
    echo "$into/$name: static, $(($(stat -c %s "$into/$name") / 1024)) KiB, $profile"
done
