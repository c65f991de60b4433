#!/bin/sh
# Shows the agent on folders in half a minute: no root, no virtual device, a registry on loopback.
# Everything it makes is under target/try, from scratch each time. With ARCH=arm64 the device's agent is the one for arm64.
set -eu
cd "$(dirname "$0")/../.."
scripts=$PWD/build/scripts
PATH=$PATH:/usr/sbin:/sbin:$PWD/target/tools/usr/bin:$PWD/target/tools/bin

bin=${CARGO_TARGET_DIR:-$PWD/target}/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}debug
arch=${ARCH:-amd64}
case $arch in
    amd64) agent=$bin/kubesolo-update ;;
    arm64) agent="qemu-aarch64-static $PWD/target/dist/arm64/kubesolo-update" ;;
    *) echo "try: ARCH=$arch is neither amd64 nor arm64" >&2; exit 64 ;;
esac
here=$PWD/target/try
rm -rf "$here"
mkdir -p "$here/A" "$here/B" "$here/data" "$here/health.d" "$here/root"
cd "$here"

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
# A command of the device. On a real one, slots and boot environment are partitions, not folders and files.
device() {
    printf '$ kubesolo-update %s\n' "$*"
    command=$1
    shift
    [ ! -e cmdline ] || set -- --cmdline cmdline "$@"
    # shellcheck disable=SC2086 # words of a command
    $agent --conf update.conf --state data/update/state.json "$command" "$@"
}
# The bootloader at power-on: it decides, stores, and passes its arguments to the kernel. As grub.cfg does, so that a panic
# restarts.
power_on() {
    "$bin/examples/boot" --store grubenv ksenv2 A B | tee boot.txt
    sed -n 's/^boots: /panic=5 /p' boot.txt >cmdline
}
stop() {
    [ -z "${registry_pid:-}" ] || kill "$registry_pid" 2>/dev/null || true
}
trap stop EXIT INT TERM

say 'A registry on loopback, and a key for the releases'
# shellcheck source=SCRIPTDIR/registry.sh
. "$scripts/registry.sh"
show "$bin/kubesolo-release" --quiet keygen keys

say 'Three releases: 1.0.0, 2.0.0, and 3.0.0, which is bad'
release() {
    echo "release $1" >root/version
    printf '#!/bin/sh\n' >root/init
    chmod +x root/init
    (cd root && find . | cpio --quiet -o -H newc | gzip -n >../initramfs.gz)
    head -c 2000000 /dev/urandom >kernel
    "$bin/kubesolo-release" --quiet publish "$registry/os" --version "$1" --channel stable "--$arch" kernel initramfs.gz \
        --unsafe-unchecked-kernel --key keys/private.pem --plain-http "$registry"
}
release 1.0.0

say 'The device: two slots, an environment block, settings'
# As `grub-editenv grubenv set active_slot=A boot_success=1 boot_counter=3` makes it: 1024 bytes, padded with '#'.
{
    printf '# GRUB Environment Block\nactive_slot=A\nboot_success=1\nboot_counter=3\n'
    head -c 1024 /dev/zero | tr '\0' '#'
} | head -c 1024 >grubenv
cat >update.conf <<CONF
registry=$registry/os
channel=stable
plain_http=$registry
pubkey=keys/public.pem
slot_a=A
slot_b=B
bootenv=grub:grubenv
data_dir=data
health_dir=health.d
CONF
cat update.conf

say 'Update to 1.0.0: write it into slot B, boot it on trial, commit it'
device check
device apply --activate
power_on
device healthcheck

say 'Update to 2.0.0: stage it in slot A, then activate it'
release 2.0.0
device apply
device status
device activate
say 'The bootloader decides at power-on'
power_on
device healthcheck
device status

say '3.0.0 is signed and complete, but unhealthy: its trial is reverted to 2.0.0'
release 3.0.0
device apply --activate
power_on
printf '#!/bin/sh\necho "the node is not ready"\nexit 1\n' >health.d/10-node
chmod +x health.d/10-node
device healthcheck --auto-rollback-after 1 || echo "(exit code $?: unhealthy)"
rm health.d/10-node
power_on
device healthcheck
say 'The device remembers 3.0.0, and does not install it again'
device apply || echo "(exit code $?: not now)"
device status

say 'Done. All files are in target/try'
