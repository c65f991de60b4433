#!/bin/sh
# Installs the built programs and everything beside them: units, init stage, bootloader's files, man pages, completions,
# docs and examples. `make install` and the packages use it.
#
#   build/scripts/install.sh PART...   of device, initramfs, release, doc (packages), archive (doc of the archive)
#     DESTDIR=               folder in front of every path
#     PREFIX=/usr            units and init stage get the new paths. The hook of initramfs-tools needs /usr
#     ARCH=amd64             or arm64
#     DIST=target/dist       the programs, in a folder for each ARCH: build/scripts/build-agent.sh
#     GENERATED=target/generated  man pages, completions, licences: cargo run -p generate
set -eu
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C
prefix=${PREFIX:-/usr} arch=${ARCH:-amd64} built=${DIST:-target/dist} generated=${GENERATED:-target/generated}
prefix=${prefix%/}
root=${DESTDIR:-}/
case $prefix in
    /*) prefix=${prefix#/} ;;
    *) echo "install: PREFIX=$prefix is not an absolute path" >&2; exit 64 ;;
esac

# put MODE FILE PATH: below $root
put() {
    mkdir -p "$(dirname "$root$3")"
    install -m "$1" "$2" "$root$3"
}

# put_all MODE PATH FILE...
put_all() {
    mode=$1 path=$2
    shift 2
    for file; do
        put "$mode" "$file" "$path/$(basename "$file")"
    done
}

# A folder with its modes.
put_tree() {
    for file in $(cd "$1" && find . -type f | sort); do
        mode=644
        [ ! -x "$1/$file" ] || mode=755
        put "$mode" "$1/$file" "$2/${file#./}"
    done
}

# documents PROGRAM MAN...: man pages and completions by the program's name
documents() {
    program=$1
    shift
    for page; do
        put 644 "$page" "$prefix/share/man/man${page##*.}/$(basename "$page")"
    done
    for shell in bash-completion/completions:bash/$program zsh/vendor-completions:zsh/_$program \
        fish/vendor_completions.d:fish/$program.fish; do
        [ ! -e "$generated/completions/${shell#*:}" ] ||
            put_all 644 "$prefix/share/${shell%%:*}" "$generated/completions/${shell#*:}"
    done
}

# These name the programs and each other by their path.
paths() {
    [ "$prefix" = usr ] || find "$root$prefix/lib/systemd/system" "$root$prefix/lib/kubesolo-update" -type f \
        -exec sed -i "s#/usr/\(bin/kubesolo\|lib/kubesolo-update\)#/$prefix/\1#g" {} +
}

device() {
    put_all 755 "$prefix/bin" "$built/$arch/kubesolo-update" "$built/$arch/kubesolo-cloudinit"
    documents kubesolo-update "$generated"/man/kubesolo-update*.8 "$generated"/man/kubesolo-cloudinit.8 \
        "$generated"/man/update.conf.5
    examples=$prefix/share/doc/kubesolo-update/examples
    put_all 644 "$examples" docs/update.conf
    put_tree initramfs-hooks/usr/share "$prefix/share"
    put_all 644 "$examples/cloud-init" cloud-init/examples/*
    put_tree initramfs-hooks/usr/lib "$prefix/lib"
    put_all 644 "$prefix/share/kubesolo-update/loader" bootenv/loader/*
    put_all 644 "$prefix/lib/systemd/system" agent/systemd/*
    put_all 644 "$prefix/lib/udev/rules.d" agent/udev/*
    paths
    mkdir -p "${root}etc/kubesolo/health.d"
}

initramfs() {
    if [ "$prefix" = usr ]; then
        put_tree initramfs-hooks/etc/initramfs-tools usr/share/initramfs-tools
    else
        echo 'install: without the hook of initramfs-tools, which needs PREFIX=/usr' >&2
    fi
}

release() {
    put_all 755 "$prefix/bin" "$built/$arch/kubesolo-release"
    put_all 755 "$prefix/share/kubesolo-release" build/scripts/push-oci-artifact.sh
    documents kubesolo-release "$generated"/man/kubesolo-release*.1 "$generated"/man/kubesolo-release.7
}

# The pages name files of the sources: pages PLACE TOP puts them into PLACE with the installed paths, which begin with TOP.
pages() {
    place=$1 top=$2
    moved=''
    for pair in initramfs-hooks/usr/share:share initramfs-hooks/usr/lib:lib \
        initramfs-hooks/etc/initramfs-tools:share/initramfs-tools cloud-init/examples:share/doc/kubesolo-update/examples/cloud-init \
        agent/systemd:lib/systemd/system agent/udev:lib/udev/rules.d bootenv/loader:share/kubesolo-update/loader \
        build/scripts/push-oci-artifact.sh:share/kubesolo-release/push-oci-artifact.sh; do
        moved="$moved;s#\](\(\.\./\)*${pair%%:*}#](@UP@$prefix/${pair#*:}#g;s#${pair%%:*}#$top$prefix/${pair#*:}#g"
    done
    # Links to sources that are in no package become text.
    moved="$moved;s#\[\([^]]*\)\](\(\.\./\)*\(tests\|agent\|publisher\|build\|fuzz\)/[^)]*)#\1#g"
    put_tree docs "$place/docs"
    put_tree fleet "$place/fleet"
    put_all 644 "$place" README.md CHANGELOG.md SECURITY.md CONTRIBUTING.md RELEASE-CHECKLIST.md
    find "$root$place" -name '*.md' | while read -r page; do
        up=$top
        if [ -z "$top" ]; then
            up=$(dirname "${page#"$root$place"}" | sed 's#^/*\.*##; s#[^/][^/]*#..#g; s#$#/#; s#^/$##')
        fi
        sed -i "${moved#;};s#@UP@#$up#g" "$page"
    done
}

for part; do
    case $part in
        device | initramfs | release) "$part" ;;
        doc) pages "$prefix/share/doc/kubesolo-update-doc" / ;;
        archive) pages . '' && put_all 644 . LICENSE ;;
        *) echo "install: $part is none of device, initramfs, release, doc, archive" >&2; exit 64 ;;
    esac
done
