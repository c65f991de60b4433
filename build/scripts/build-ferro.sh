#!/bin/sh
# Builds ferro-oci-server, a small registry with the referrers interface, from crates.io into target/tools/bin: some minutes,
# once. The tests of `make test-all` publish to it.
#
#   build/scripts/build-ferro.sh
set -eu
cd "$(dirname "$0")/../.."

version=1.0.0
[ ! -x target/tools/bin/ferro-oci-server ] || exit 0
echo "build-ferro: building ferro-oci-server $version into target/tools/bin: some minutes, once"
CARGO_TARGET_DIR=$PWD/target/ferro CARGO_INCREMENTAL=0 \
    cargo install --quiet --locked --debug --root target/tools --version "$version" ferro-oci-server
rm -rf target/ferro
