#!/bin/sh
# Everything that is checked without running it.
set -eu
cd "$(dirname "$0")/../.."

# Scripts are known by their first line, wherever they lie.
scripts=$(git ls-files | xargs awk 'FNR == 1 && /^#( shellcheck shell=|!.*[\/ ](ba)?sh$)/ { print FILENAME }')
# shellcheck disable=SC2086 # a list of file names
shellcheck -x $scripts
build/scripts/lint-words.sh
for script in bootenv/loader/*.cfg; do grub-script-check "$script"; done
# A patch that does not apply any more breaks nothing, and no test would notice that before `make prove`.
for patch in tests/mutations/*.patch; do
    git apply --check "$patch" || { echo "lint: fit $patch to the code that it breaks" >&2; exit 1; }
done
# The fuzz targets have a lock file of their own, which no build of the workspace reads.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null ||
    { echo "lint: the dependencies changed: cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null" >&2; exit 1; }
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
# The interface for scripts: a change of a type must be meant.
rm -rf target/schema
cargo run --locked --quiet -p generate -- schemas target/schema
diff -r docs/schema target/schema ||
    { echo "lint: run make schemas, and check that no member lost its place or its meaning" >&2; exit 1; }
