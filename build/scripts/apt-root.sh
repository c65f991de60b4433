# shellcheck shell=sh
# Sourced: Debian packages unpacked under target/, without root and without touching the machine's own apt state.
# The sources, keys and proxies are the machine's own; lists and cache are ours. With apt_architecture=ARCH set before it,
# there are packages of that architecture too: PACKAGE:ARCH.

apt_root=${apt_root:-$PWD/target/apt${apt_architecture:+-$apt_architecture}}

apt_ours() (
    tool=$1
    shift
    "$tool" -o Dir::State::lists="$apt_root/lists" -o Dir::Cache="$apt_root/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::Retries=3 ${apt_architecture:+-o "APT::Architectures::=$apt_architecture"} "$@"
)

# Lists older than a day name packages that the archive may have dropped since.
apt_lists() {
    mkdir -p "$apt_root/lists/partial" "$apt_root/cache/archives/partial"
    [ "${1:-}" != again ] && [ -n "$(find "$apt_root/fresh" -mmin -1440 2>/dev/null)" ] && return 0
    # One source out of order does not matter if another has what is wanted.
    apt_ours apt-get -qq update || echo "apt: some package lists could not be fetched, going on with the others" >&2
    touch "$apt_root/fresh"
}

# apt_unpack DIR PACKAGE...: downloads the packages (not their dependencies) and unpacks them into DIR. No hooks run.
apt_unpack() (
    into=$1
    shift
    apt_lists
    debs=$(mktemp -d "$apt_root/debs.XXXXXX")
    trap 'rm -rf "$debs"' EXIT
    (cd "$debs" && apt_ours apt-get -qq download "$@") ||
        (apt_lists again && cd "$debs" && apt_ours apt-get -qq download "$@") ||
        { echo "apt: cannot download $*: is the network up, and does 'apt-get update' work?" >&2; exit 1; }
    mkdir -p "$into"
    for deb in "$debs"/*.deb; do
        dpkg -x "$deb" "$into" || exit 1
    done
)

# Where this machine gets Debian from.
apt_mirror() {
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        sed -n "s/^$codename //p" | head -n1)
    [ -n "$mirror" ] || { echo "apt: no source of $codename on this machine" >&2; return 1; }
    echo "$mirror"
}

# apt_only TYPE SUITE: what follows takes packages (deb) or their sources (deb-src) from this suite of Debian alone, from
# where this machine gets its own.
apt_only() {
    mirror=$(apt_mirror) || return 1
    mkdir -p "$apt_root"
    echo "$1 [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $2 main" >"$apt_root/sources.list"
    # Read before the command line, whose other settings apt_ours gives.
    cat >"$apt_root/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt_root/sources.list";
Dir::Etc::sourceparts "-";
CONF
    export APT_CONFIG="$apt_root/apt.conf"
}
