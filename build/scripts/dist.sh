#!/bin/sh
# Packs a release: target/dist/*.tar.gz, *.deb and their SHA256SUMS. The same commit gives the same
# bytes, with the same compilers.
#
#   build/scripts/dist.sh
#     ARCH='amd64 arm64'
#     SOURCE_DATE_EPOCH        time of every file; the commit's, when git is there to ask
#     DEBFULLNAME, DEBEMAIL    who answers for the packages
set -eu
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C

: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
maintainer="${DEBFULLNAME:-kubesolo-update maintainers} <${DEBEMAIL:-maintainers@example.com}>"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1)
# 1.0.0-rc.1 is before 1.0.0 for SemVer, and with a tilde for Debian.
debian_version=$(echo "$version" | tr - '~')
dist=target/dist
generated=target/generated

architectures=${ARCH:-amd64 arm64}
PROFILE=release ARCH=$architectures build/scripts/build-agent.sh
rm -rf "$generated" "$dist/root"
cargo run --quiet --locked -p generate -- "$generated"
rm -f "$dist"/*.tar.gz "$dist"/*.deb "$dist/SHA256SUMS"
mkdir -p "$dist/root"

# put MODE FILE PATH: below $root
put() {
    mkdir -p "$(dirname "$root/$3")"
    install -m "$1" "$2" "$root/$3"
}

# put_all MODE PATH FILE...
put_all() {
    mode=$1 path=$2
    shift 2
    for file; do
        put "$mode" "$file" "$path/$(basename "$file")"
    done
}

# A folder of the image, with its modes.
put_tree() {
    for file in $(cd "$1" && find . -type f); do
        mode=644
        [ ! -x "$1/$file" ] || mode=755
        put "$mode" "$1/$file" "$2/$file"
    done
}

# put_documents PACKAGE MAN...: man pages and completions by the program's name
put_documents() {
    package=$1
    shift
    for page; do
        put 644 "$page" "usr/share/man/man${page##*.}/$(basename "$page")"
    done
    for shell in bash-completion/completions:bash/$package zsh/vendor-completions:zsh/_$package \
        fish/vendor_completions.d:fish/$package.fish; do
        [ ! -e "$generated/completions/${shell#*:}" ] || put_all 644 "usr/share/${shell%%:*}" "$generated/completions/${shell#*:}"
    done
    doc=usr/share/doc/$package
    put 644 CHANGELOG.md "$doc/CHANGELOG.md"
    put 644 "$generated/third-party-licences" "$doc/third-party-licences"
    copyright >"$root/$doc/copyright"
}

copyright() {
    cat <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: $(date -u -d "@$SOURCE_DATE_EPOCH" +%Y) the authors of kubesolo-update
License: Apache-2.0

License: Apache-2.0
 On Debian systems the text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
Comment:
 The programs are linked statically with the Rust crates that
 third-party-licences lists, with the standard library of Rust
 (MIT or Apache-2.0), and with the GNU C library (LGPL-2.1-or-later, see
 /usr/share/common-licenses/LGPL-2.1). With the sources of this package they
 can be linked again with another version of each.
TEXT
}

device_tree() {
    put_all 755 usr/bin "$dist/$1/kubesolo-update" "$dist/$1/kubesolo-cloudinit"
    put_documents kubesolo-update "$generated"/man/kubesolo-update*.8 "$generated"/man/kubesolo-cloudinit.8 \
        "$generated"/man/update.conf.5
    put_all 644 usr/share/doc/kubesolo-update/examples docs/update.conf initramfs-hooks/etc/kubesolo/health.d/*
    put_tree initramfs-hooks/usr usr
    put_all 644 usr/share/kubesolo-update/loader bootenv/loader/*
    put_all 644 usr/lib/systemd/system agent/systemd/*
    mkdir -p "$root/etc/kubesolo/health.d"
}

initramfs_tree() {
    put_tree initramfs-hooks/etc/initramfs-tools usr/share/initramfs-tools
}

release_tree() {
    put_all 755 usr/bin "$dist/$1/kubesolo-release"
    put_documents kubesolo-release "$generated"/man/kubesolo-release*.1
}

same_time() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# deb PACKAGE ARCH: of $root; the fields and the description come on stdin
deb() {
    printf '%s (%s) unstable; urgency=medium\n\n  * Version %s: see CHANGELOG.md.\n\n -- %s  %s\n' "$1" "$debian_version" \
        "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" >"$root/usr/share/doc/$1/changelog"
    find "$root/usr/share" -type f \( -path '*/man/*' -o -name changelog -o -name '*.md' -o -name third-party-licences \) \
        -exec gzip -9n {} +
    mkdir -p "$root/usr/share/lintian/overrides" "$root/DEBIAN"
    # One binary that needs nothing else is the point.
    [ "$2" = all ] || printf "$1: %s [usr/bin/*]\n" statically-linked-binary shared-library-lacks-prerequisites \
        >"$root/usr/share/lintian/overrides/$1"
    rmdir --ignore-fail-on-non-empty "$root/usr/share/lintian/overrides" "$root/usr/share/lintian"
    (cd "$root" && find . -path ./DEBIAN -prune -o -type f -print | sort | sed 's|^\./||' | xargs md5sum) >"$root/DEBIAN/md5sums"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: %s\n' "$1" "$debian_version" "$2" "$maintainer"
        printf 'Installed-Size: %s\nSection: admin\nPriority: optional\n' "$(du -sk --apparent-size "$root" | cut -f1)"
        cat
    } >"$root/DEBIAN/control"
    same_time "$root"
    # With several threads xz cuts the data where it likes.
    dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$root" "$dist/$1_${debian_version}_$2.deb" >/dev/null
}

root=$dist/root/kubesolo-update-initramfs
initramfs_tree
put_documents kubesolo-update-initramfs
rm "$root/usr/share/doc/kubesolo-update-initramfs/third-party-licences"
deb kubesolo-update-initramfs all <<EOT
Depends: kubesolo-update (>= $debian_version), initramfs-tools, busybox-static
Description: A/B image updates: a system that is its initramfs
 Puts kubesolo-update, its keys, its settings and its init stage into every
 initramfs that initramfs-tools makes here, and makes that initramfs the root
 filesystem. For the machine or folder where an image is made: a computer
 with a root filesystem of its own does not find it any more.
EOT

for arch in $architectures; do
    root=$dist/root/$arch/kubesolo-update
    device_tree "$arch"
    deb kubesolo-update "$arch" <<'EOT'
Recommends: e2fsprogs
Description: A/B image updates: the agent on the device
 Takes a release (a kernel and an initramfs) from an OCI registry, an HTTP
 server or a file, checks its signature and digests, writes it to the boot
 slot that is not in use, and boots it on trial. A release that does not turn
 out healthy is left again, without help.
 .
 No unit is enabled: what a device runs is decided where its image is made.
EOT

    root=$dist/root/$arch/kubesolo-release
    release_tree "$arch"
    deb kubesolo-release "$arch" <<'EOT'
Recommends: ca-certificates
Description: A/B image updates: makes, signs and publishes releases
 Makes keys, publishes a kernel and an initramfs for kubesolo-update to an OCI
 registry or as a tree for an HTTP server, signs them, and shows what is
 published and whether its signatures are right.
EOT

    name=kubesolo-update-$version-linux-$arch
    root=$dist/root/$name
    device_tree "$arch"
    initramfs_tree
    release_tree "$arch"
    put_all 644 . README.md LICENSE CHANGELOG.md SECURITY.md
    put_all 644 docs docs/*
    same_time "$root"
    tar --create --directory "$dist/root" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
        --mtime="@$SOURCE_DATE_EPOCH" --mode=u=rwX,go=rX "$name" | gzip -9n >"$dist/$name.tar.gz"
done
rm -rf "$dist/root"
(cd "$dist" && sha256sum ./*.deb ./*.tar.gz | sed 's| \./| |' >SHA256SUMS && cat SHA256SUMS)
