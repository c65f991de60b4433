#!/bin/sh
# Unpacks standard tools for OCI artifacts from Debian 13 into target/tools, without installing them and without root:
# oracles for the tests, and what docs/releasing.md uses. They run on Debian 12 too, which does not have them. cosign3 is
# cosign 3 of Debian's unstable suite, under that name; crane, which is also a registry, is of that suite too.
#
#   build/scripts/fetch-release-tools.sh [oras] [cosign] [cosign3] [crane]     (default: oras)
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

[ $# -gt 0 ] || set -- oras
missing=
cosign3=
crane=
for tool; do
    case $tool in
        cosign3) [ -x target/tools/usr/bin/cosign3 ] || cosign3=yes ;;
        crane) [ -x target/tools/usr/bin/crane ] || crane=yes ;;
        oras | cosign) [ -x "target/tools/usr/bin/$tool" ] || missing="$missing $tool" ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 64 ;;
    esac
done

# unpack SUITE DIR PACKAGE...
unpack() (
    suite=$1 place=$2
    shift 2
    apt_root=$PWD/target/apt-$suite
    . build/scripts/apt-root.sh
    apt_only deb "$suite"
    echo "setup: unpacking $* from Debian $suite into $place, without installing it"
    apt_unpack "$place" "$@"
)

# shellcheck disable=SC2086 # a list of package names
[ -z "$missing" ] || unpack trixie target/tools $missing
if [ -n "$cosign3" ]; then
    unpack sid target/tools/cosign3 cosign
    ln -f target/tools/cosign3/usr/bin/cosign target/tools/usr/bin/cosign3
fi
[ -z "$crane" ] || unpack sid target/tools crane
