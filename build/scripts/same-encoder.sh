#!/bin/sh
# Shows that the encoder `deflate-1` makes the same bytes on arm64 as on amd64: both programs repack the same initramfs.
# agent/src/delta/encoder.rs has the golden digest, which tests compare on amd64.
#
#   build/scripts/same-encoder.sh     after build-agent.sh with ARCH='amd64 arm64'
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:$PWD/target/tools/usr/bin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# Sources, a program and zeros: text, code, and a piece that needs few bytes.
mkdir "$work/root"
git archive HEAD agent docs | tar -x -C "$work/root"
cp target/dist/amd64/kubesolo-cloudinit "$work/root/"
head -c 1000000 /dev/zero >"$work/root/zeros"
(cd "$work/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -1 >../initramfs.gz)

target/dist/amd64/kubesolo-release --quiet repack "$work/initramfs.gz" "$work/amd64.gz"
qemu-aarch64-static target/dist/arm64/kubesolo-release --quiet repack "$work/initramfs.gz" "$work/arm64.gz"
cmp "$work/amd64.gz" "$work/arm64.gz"
echo "same-encoder: $(stat -c %s "$work/amd64.gz") bytes, the same on amd64 and arm64"
