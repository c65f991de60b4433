#!/bin/sh
# Shows that the examples work with the real cloud-init, as root: its schema accepts them, and its write_files makes settings
# that the agent reads without a word. cloud-init runs in a root filesystem of its own, under target/cloud-init.
#
#   build/scripts/cloud-init.sh
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

root=target/cloud-init/root
bin=target/dist/amd64

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo 'cloud-init: needs root, for a namespace with mounts' >&2; exit 77; }
    if [ ! -e "$root/usr/bin/cloud-init" ]; then
        mirror=$(. build/scripts/apt-root.sh && apt_mirror)
        echo 'setup: making a Debian with cloud-init in target/cloud-init, without installing it'
        rm -rf "$root.new" "$root"
        mkdir -p target/cloud-init
        mmdebstrap --quiet --variant=essential --include=cloud-init --aptopt='APT::Install-Recommends "false"' \
            --dpkgopt='path-exclude=/usr/share/doc/*' bookworm "$root.new" "$mirror" >target/cloud-init/log 2>&1 ||
            { tail -n 20 target/cloud-init/log >&2; exit 1; }
        mv "$root.new" "$root"
    fi
    for example in cloud-init/examples/write-files*.yaml; do
        # It may set host name and network: those are its own, too.
        unshare --mount --uts --net "$0" --inside "$example"
    done
    exit
fi

# One example on a device that has never been on: what it changes is gone with the namespace.
example=$2
device=/mnt/device
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work "$device"
mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" "$device"
mount --rbind /proc "$device/proc"
mount --rbind /dev "$device/dev"
mount -t tmpfs tmpfs "$device/run"
mkdir -p "$device/var/lib/cloud/seed/nocloud"
cp "$example" "$device/var/lib/cloud/seed/nocloud/user-data"
echo 'instance-id: edge-7' >"$device/var/lib/cloud/seed/nocloud/meta-data"
cp "$bin/kubesolo-update" "$device/usr/bin/"
# The other modules set up users and keys, for which this small system has no tools.
echo 'cloud_init_modules: [write-files]' >"$device/etc/cloud/cloud.cfg.d/90-write-files-only.cfg"

in_device() { LC_ALL=C chroot "$device" "$@"; }
in_device cloud-init schema --config-file /var/lib/cloud/seed/nocloud/user-data
in_device cloud-init --version
{ in_device cloud-init init --local && in_device cloud-init init; } >/mnt/log 2>&1 || { cat /mnt/log >&2; exit 1; }

# It is there, as the example has it, and the agent has nothing to say about it.
written=$device/etc/kubesolo/update.conf
[ "$(stat -c '%a %U' "$written")" = '644 root' ]
said=$(in_device kubesolo-update status 2>&1 >/dev/null) || true
if [ -n "$said" ] || in_device kubesolo-update status | grep -q 'settings are not usable'; then
    echo "cloud-init: $example: the agent says: $said" >&2
    exit 1
fi
if [ "$example" = cloud-init/examples/write-files.yaml ]; then
    mkdir /mnt/seed
    cp cloud-init/examples/updates.yaml /mnt/seed/user-data
    : >/mnt/seed/meta-data
    "$bin/kubesolo-cloudinit" --seed /mnt/seed --check | grep -v '^#' | diff - "$written"
fi
echo "ok    $example: cloud-init wrote what the agent reads"
