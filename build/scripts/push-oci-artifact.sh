#!/bin/sh
# Publishes a release from a CI job: kubesolo-release publish, with its arguments from the environment.
#
#   REGISTRY=HOST[:PORT]/PATH[:TAG] VERSION=1.2.0 CHANNEL=stable KEY=FILE \
#   ARCH=amd64|arm64 KERNEL=FILE INITRAMFS=FILE build/scripts/push-oci-artifact.sh [OPTION...]
#
# For both architectures at once, which one tag needs, instead of the last three:
#   AMD64_KERNEL=FILE AMD64_INITRAMFS=FILE ARM64_KERNEL=FILE ARM64_INITRAMFS=FILE
# If set: MIN_COMPATIBLE_VERSION, RELEASE_NOTES, SECURITY_EPOCH, BOARD, PLAIN_HTTP, REGISTRY_CA, REGISTRY_AUTH_HOST,
# SOURCE_DATE_EPOCH, KUBESOLO_RELEASE_USER, KUBESOLO_RELEASE_PASSWORD and KUBESOLO_RELEASE_HOST, KUBESOLO_RELEASE (the
# program). An empty variable counts as unset.
# OPTIONs go to `kubesolo-release publish` as they are, a second --key for instance.
set -eu

usage() {
    echo "push-oci-artifact: $*" >&2
    sed -n '4,12s/^# \{0,1\}//p' "$0" >&2
    exit 64
}

for name in REGISTRY VERSION CHANNEL KEY; do
    eval "[ -n \"\${$name:-}\" ]" || usage "$name is not set"
done

case ${ARCH:-} in
    amd64) AMD64_KERNEL=${KERNEL:-} AMD64_INITRAMFS=${INITRAMFS:-} ;;
    arm64) ARM64_KERNEL=${KERNEL:-} ARM64_INITRAMFS=${INITRAMFS:-} ;;
    '') [ -z "${KERNEL:-}${INITRAMFS:-}" ] || usage 'ARCH is not set' ;;
    *) usage "ARCH is neither amd64 nor arm64: $ARCH" ;;
esac

given=0
images() {
    [ -n "$2$3" ] || return 0
    if [ -z "$2" ] || [ -z "$3" ]; then usage "$1 needs both a kernel and an initramfs"; fi
    given=1
}
images amd64 "${AMD64_KERNEL:-}" "${AMD64_INITRAMFS:-}"
images arm64 "${ARM64_KERNEL:-}" "${ARM64_INITRAMFS:-}"
[ $given = 1 ] || usage 'no KERNEL and INITRAMFS'

set -- "$REGISTRY" --version "$VERSION" --channel "$CHANNEL" --key "$KEY" \
    ${AMD64_KERNEL:+--amd64 "$AMD64_KERNEL" "$AMD64_INITRAMFS"} \
    ${ARM64_KERNEL:+--arm64 "$ARM64_KERNEL" "$ARM64_INITRAMFS"} \
    ${MIN_COMPATIBLE_VERSION:+--min-compatible-version "$MIN_COMPATIBLE_VERSION"} \
    ${RELEASE_NOTES:+--release-notes "$RELEASE_NOTES"} \
    ${SECURITY_EPOCH:+--security-epoch "$SECURITY_EPOCH"} \
    ${BOARD:+--board "$BOARD"} \
    ${PLAIN_HTTP:+--plain-http "$PLAIN_HTTP"} \
    ${REGISTRY_CA:+--registry-ca "$REGISTRY_CA"} \
    ${REGISTRY_AUTH_HOST:+--registry-auth-host "$REGISTRY_AUTH_HOST"} \
    "$@"

# A program that was named must be there; else the one that was built here, else the one on the PATH.
here=$(cd "$(dirname "$0")/../.." && pwd)
for program in ${KUBESOLO_RELEASE:+"$KUBESOLO_RELEASE"} "$here/target/dist/amd64/kubesolo-release" \
    "$here/target/release/kubesolo-release" "$here/target/debug/kubesolo-release" kubesolo-release; do
    if command -v "$program" >/dev/null; then
        exec "$program" publish "$@"
    fi
    [ -z "${KUBESOLO_RELEASE:-}" ] || usage "KUBESOLO_RELEASE is not a program: $program"
done
echo 'push-oci-artifact: no kubesolo-release; build it: cargo build --release -p kubesolo-release' >&2
exit 69
