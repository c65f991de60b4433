#!/bin/sh
# Unpacks standard tools for OCI artifacts from Debian 13 into target/tools, without installing them and without root:
# oracles for the tests, and what docs/releasing.md uses. They run on Debian 12 too, which does not have them.
#
#   build/scripts/fetch-release-tools.sh [oras] [cosign]     (default: oras)
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

suite=trixie

[ $# -gt 0 ] || set -- oras
missing=
for tool; do
    case $tool in
        oras | cosign) [ -x "target/tools/usr/bin/$tool" ] || missing="$missing $tool" ;;
        *) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 64 ;;
    esac
done
[ -n "$missing" ] || exit 0

apt_root=$PWD/target/apt-$suite
. build/scripts/apt-root.sh
apt_only deb "$suite"

echo "setup: unpacking$missing from Debian $suite into target/tools, without installing it"
# shellcheck disable=SC2086 # a list of package names
apt_unpack target/tools $missing
