#!/bin/sh
# Packs a release: target/dist/*.tar.gz, *.deb and their SHA256SUMS. The same commit gives the same
# bytes, with the same compilers.
#
#   build/scripts/dist.sh
#     ARCH='amd64 arm64'
#     PROFILE=release          dev packs binaries that are quick to build, to try the packing
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
PROFILE=${PROFILE:-release} ARCH=$architectures build/scripts/build-agent.sh
rm -rf "$generated" "$dist/root"
cargo run --quiet --locked -p generate -- "$generated"
rm -f "$dist"/*.tar.gz "$dist"/*.deb "$dist/SHA256SUMS"
mkdir -p "$dist/root"

# install_into FOLDER PART...
install_into() {
    into=$1
    shift
    DESTDIR=$into PREFIX=/usr ARCH=${arch:-} build/scripts/install.sh "$@"
}

# policy PACKAGE: the files that Debian wants of each package
policy() {
    doc=$root/usr/share/doc/$1
    mkdir -p "$doc"
    install -m 644 CHANGELOG.md "$doc/CHANGELOG.md"
    copyright >"$doc/copyright"
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

same_time() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# deb PACKAGE ARCH: of $root; the fields and the description come on stdin
deb() {
    printf '%s (%s) unstable; urgency=medium\n\n  * Version %s: see CHANGELOG.md.\n\n -- %s  %s\n' "$1" "$debian_version" \
        "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" >"$root/usr/share/doc/$1/changelog"
    # Pages of the manual link to each other, so they stay as they are.
    find "$root/usr/share" -type f \( -path '*/man/*' -o -name changelog -o -name third-party-licences \
        -o -path "*/doc/$1/CHANGELOG.md" \) -not -path '*/kubesolo-update-doc/CHANGELOG.md' -exec gzip -9n {} +
    mkdir -p "$root/DEBIAN"
    [ ! -e "build/lintian/$1" ] || install -D -m 644 "build/lintian/$1" "$root/usr/share/lintian/overrides/$1"
    (cd "$root" && find . -path ./DEBIAN -prune -o -type f -print | sort | sed 's|^\./||' | xargs md5sum) >"$root/DEBIAN/md5sums"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: %s\n' "$1" "$debian_version" "$2" "$maintainer"
        section='admin'
        [ "$1" != kubesolo-update-doc ] || section=doc
        printf 'Installed-Size: %s\nSection: %s\nPriority: optional\n' "$(du -sk --apparent-size "$root" | cut -f1)" $section
        cat
    } >"$root/DEBIAN/control"
    same_time "$root"
    # With several threads xz cuts the data where it likes.
    dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$root" "$dist/$1_${debian_version}_$2.deb" >/dev/null
}

root=$dist/root/kubesolo-update-initramfs
install_into "$root" initramfs
policy kubesolo-update-initramfs
deb kubesolo-update-initramfs all <<EOT
Depends: kubesolo-update (>= $debian_version), initramfs-tools, busybox-static
Description: A/B image updates: a system that is its initramfs
 Puts kubesolo-update, its keys, its settings and its init stage into every
 initramfs that initramfs-tools makes here, and makes that initramfs the root
 filesystem. For the machine or folder where an image is made: a computer
 with a root filesystem of its own does not find it any more.
EOT

root=$dist/root/kubesolo-update-doc
install_into "$root" doc
policy kubesolo-update-doc
deb kubesolo-update-doc all <<EOT
Description: A/B image updates: guides, reference and recipes
 The pages of kubesolo-update and kubesolo-release: integration, releases,
 operation, trust, recovery, recipes for image builders, and the files for a
 fleet (alerts, a dashboard, an Ansible role).
EOT

for arch in $architectures; do
    root=$dist/root/$arch/kubesolo-update
    install_into "$root" device
    policy kubesolo-update
    cp "$generated/third-party-licences" "$doc/"
    deb kubesolo-update "$arch" <<'EOT'
Recommends: e2fsprogs
Suggests: kubesolo-update-doc
Description: A/B image updates: the agent on the device
 Takes a release (a kernel and an initramfs) from an OCI registry, an HTTP
 server or a file, checks its signature and digests, writes it to the boot
 slot that is not in use, and boots it on trial. A release that does not turn
 out healthy is left again, without help.
 .
 No unit is enabled: what a device runs is decided where its image is made.
EOT

    root=$dist/root/$arch/kubesolo-release
    install_into "$root" release
    policy kubesolo-release
    cp "$generated/third-party-licences" "$doc/"
    deb kubesolo-release "$arch" <<'EOT'
Recommends: ca-certificates
Suggests: kubesolo-update-doc
Description: A/B image updates: makes, signs and publishes releases
 Makes keys, publishes a kernel and an initramfs for kubesolo-update to an OCI
 registry or as a tree for an HTTP server, signs them, and shows what is
 published and whether its signatures are right.
EOT

    name=kubesolo-update-$version-linux-$arch
    root=$dist/root/$name
    install_into "$root" device initramfs release archive
    cp "$generated/third-party-licences" "$root/"
    same_time "$root"
    tar --create --directory "$dist/root" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
        --mtime="@$SOURCE_DATE_EPOCH" --mode=u=rwX,go=rX "$name" | gzip -9n >"$dist/$name.tar.gz"
done
rm -rf "$dist/root"
if command -v lintian >/dev/null; then
    # Letters that machine code happens to contain look like misspelt words.
    lintian --allow-root --suppress-tags spelling-error-in-binary --tag-display-limit 0 --display-info --fail-on error,warning,info "$dist"/*.deb
else
    echo 'dist: there is no lintian, so nothing judges the packages'
fi
(cd "$dist" && sha256sum ./*.deb ./*.tar.gz | sed 's| \./| |' >SHA256SUMS && cat SHA256SUMS)
