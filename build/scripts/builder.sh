#!/bin/sh
# Packs a commit in a container made from build/Dockerfile.builder: target/builder/dist.
# Needs no container engine and no image registry: the base image is made from Debian's packages.
#
#   [ARCH='amd64 arm64'] build/scripts/builder.sh [COMMIT]     (default: HEAD)
set -eu
cd "$(dirname "$0")/../.."
umask 022

commit=$(git rev-parse --verify "${1:-HEAD}^{commit}")
here=$PWD/target/builder
suite=bookworm
rm -rf "$here/src"
mkdir -p "$here/src" "$here/crates"

# Storage of its own, away from the images of whoever works here. A chroot needs no runtime, and no privileges but user
# namespaces.
image() {
    tool=$1
    shift
    buildah --root "$here/storage" --runroot "$here/run" --storage-driver vfs "$tool" "$@"
}
clean() {
    image rm --all >/dev/null 2>&1 || true
    # What belongs to other users of a user namespace can only be removed inside.
    if [ "$(id -u)" = 0 ]; then rm -rf "$here/storage"; else buildah unshare rm -rf "$here/storage"; fi
    rm -rf "$here/run"
}
trap clean EXIT
trap 'exit 130' INT TERM

if [ ! -e "$here/base.tar" ]; then
    echo 'builder: making a base of Debian 12'
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 'Origin: Debian' |
        sort -u | sed -n "/ $suite/p" >"$here/sources.list"
    mmdebstrap --quiet --format=tar --variant=minbase $suite "$here/base.new" "$here/sources.list"
    mv "$here/base.new" "$here/base.tar"
fi
base=$(image from scratch)
image add --quiet "$base" "$here/base.tar" / >/dev/null
image commit --quiet "$base" localhost/debian >/dev/null

# A machine behind a proxy may trust authorities of its own.
authorities=/etc/ssl/certs/ca-certificates.crt
echo 'builder: building the image'
image bud --quiet --isolation chroot --build-arg BASE=localhost/debian --file build/Dockerfile.builder \
    --tag localhost/kubesolo-update-builder build >"$here/image.log" 2>&1 || { tail -n 20 "$here/image.log" >&2; exit 1; }

echo "builder: packing $commit in it"
git archive "$commit" | tar -x -C "$here/src"
container=$(image from localhost/kubesolo-update-builder)
image run --isolation chroot --volume "$here/src:/src" --volume "$here/crates:/root/.cargo/registry" \
    --volume "$authorities:$authorities:ro" --env "SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")" \
    --env "ARCH=${ARCH:-amd64 arm64}" "$container" -- build/scripts/dist.sh
rm -rf "$here/dist"
mv "$here/src/target/dist" "$here/dist"
rm -rf "$here/src"
