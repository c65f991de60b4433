#!/bin/sh
# Builds agent 0.1, which may be in the other slot of a device in the field, from its commit. It is built once and kept:
# target/0.1/{kubesolo-update,kubesolo-release,boot}.
#
#   build/scripts/agent-0.1.sh
#
# Tests run it beside the agent of today: each must read the files that the other one writes. The history must have the
# commit; nothing is fetched here.
set -eu
cd "$(dirname "$0")/../.."

commit=4ac025d61c82ece82ec77d71e37a803aa6aa4c09
out=$PWD/target/0.1
programs='kubesolo-update kubesolo-release examples/boot'

[ "$(cat "$out/made" 2>/dev/null)" != "$commit" ] || exit 0
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    echo "agent-0.1: this clone does not have the commit of 0.1, $commit" >&2
    echo '  If the clone is shallow, get the whole history: git fetch --unshallow' >&2
    exit 69
fi

echo "agent-0.1: building 0.1 from its commit into ${out#"$PWD"/}: some minutes, once"
rm -rf "$out/source"
mkdir -p "$out/source"
git archive "$commit" | tar -x -C "$out/source"
export CARGO_TARGET_DIR="$out/target" CARGO_INCREMENTAL=0
(cd "$out/source" && cargo build --quiet --locked -p kubesolo-update -p bootenv --bins --examples)
for program in $programs; do
    cp "$out/target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}debug/$program" "$out/"
done
rm -rf "$out/source" "$out/target"
echo "$commit" >"$out/made"
