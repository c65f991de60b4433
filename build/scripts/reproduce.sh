#!/bin/sh
# Packs one commit twice, as unlike as it can be on one machine, and compares every byte: two folders, two copies of the
# crates and of the libraries for arm64, another time zone, language, umask and number of jobs.
#
#   build/scripts/reproduce.sh [COMMIT]     (default: HEAD)
set -eu
cd "$(dirname "$0")/../.."

commit=$(git rev-parse --verify "${1:-HEAD}^{commit}")
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
here=$PWD/target/reproduce
one=$here/one two=$here/the/other/folder
rm -rf "$here"
mkdir -p "$one/target" "$two/target"
# Each has a target folder of its own; rustup's toolchains are found from a home that is not ours, too.
unset CARGO_TARGET_DIR
export RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}"

for folder in "$one" "$two"; do
    git archive "$commit" | tar -x -C "$folder"
    mkdir "$folder/target/arm64"
    for libraries in target/arm64/libc6-dev target/arm64/rust-*; do
        [ ! -d "$libraries" ] || cp -r "$libraries" "$folder/target/arm64/"
    done
done
cargo fetch --quiet --locked
mkdir "$here/cargo"
cp -r "${CARGO_HOME:-$HOME/.cargo}/registry" "$here/cargo/"
for conf in config config.toml; do
    [ ! -e "${CARGO_HOME:-$HOME/.cargo}/$conf" ] || cp "${CARGO_HOME:-$HOME/.cargo}/$conf" "$here/cargo/"
done

echo "reproduce: packing $commit in $one"
(umask 022 && cd "$one" && build/scripts/dist.sh)
echo "reproduce: packing it again in $two"
(umask 077 && cd "$two" && CARGO_HOME=$here/cargo CARGO_BUILD_JOBS=1 TZ=Pacific/Kiritimati LANG=C.UTF-8 build/scripts/dist.sh)

# The binaries too: they say where it differs.
differ=0
(cd "$one/target/dist" && find . -type f | sort) >"$here/files"
while read -r file; do
    cmp "$one/target/dist/$file" "$two/target/dist/$file" || differ=1
done <"$here/files"
[ $differ = 0 ] || { echo "reproduce: not the same; both are kept in $here" >&2; exit 1; }
echo "reproduce: the same bytes twice:"
(cd "$one/target/dist" && sha256sum -- */kubesolo-* && cat SHA256SUMS)
rm -rf "$here"
