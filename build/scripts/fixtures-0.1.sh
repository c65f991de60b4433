#!/bin/sh
# Makes again what tests/fixtures/0.1 holds: files that agent 0.1 leaves on a device, at each moment of an update. The agent
# and its publisher are those that agent-0.1.sh builds; the device is made of folders. Times, ids of attempts and trials, and
# the release with waves (its date must be near) differ from run to run. All other bytes are the same.
#
#   build/scripts/fixtures-0.1.sh DIR
set -eu
umask 022
cd "$(dirname "$0")/../.."
scripts=$PWD/build/scripts
PATH=$PATH:/usr/sbin:/sbin:$PWD/target/tools/usr/bin:$PWD/target/tools/bin

[ $# = 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 64; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
(cd "$out" && rm -rf moments releases adopted loader bundle.tar conf version ./*.pem)
build/scripts/agent-0.1.sh
bin=$PWD/target/0.1
work=$(mktemp -d)
git archive "$(cat "$bin/made")" bootenv | tar -x -C "$work"
stop() {
    [ -z "${registry_pid:-}" ] || kill "$registry_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT INT TERM
cd "$work"

# A key of one byte repeated, so that tests can sign for this device, too: the DER of RFC 8410 around the seed.
key() {
    { printf '\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040'; head -c 32 /dev/zero | tr '\0' "\\$2"; } |
        openssl pkey -inform DER -out "$1-private.pem"
    chmod 600 "$1-private.pem"
    openssl pkey -in "$1-private.pem" -pubout -out "$1.pem"
}
key K 001
key F 002
key revoked 003
key stranger 004

# shellcheck source=SCRIPTDIR/registry.sh
. "$scripts/registry.sh"
release="$bin/kubesolo-release --quiet"

# bundle VERSION KEY [OPTION...]: publishes a release with a statement of freshness, and writes it to VERSION.tar.
bundle() {
    version=$1 signer=$2
    shift 2
    mkdir -p root
    echo "release $version" >root/version
    touch -d @1700000000 root root/version
    (cd root && printf '%s\n' . ./version | cpio --quiet --reproducible -o -H newc | gzip -n >../initramfs.gz)
    echo "kernel of $version" >kernel
    $release publish "$registry/os" --version "$version" --channel stable --amd64 kernel initramfs.gz --key "$signer" \
        --unsafe-unchecked-kernel --plain-http "$registry" "$@"
    serial=$((${serial:-6} + 1))
    $release freshness "$registry/os:stable" --key F-private.pem --days 3650 --serial "$serial" --plain-http "$registry"
    $release bundle "$registry/os:stable" "$version.tar" --plain-http "$registry"
}
then='--release-date 2026-11-20T00:00:00Z'
# shellcheck disable=SC2086 # words of a command
{
    bundle 1.0.0 K-private.pem $then --security-epoch 2 --release-notes 'The first one.'
    bundle 2.0.0 K-private.pem $then --security-epoch 3 --revoke-key revoked.pem
    bundle 3.0.0 K-private.pem $then --security-epoch 3
    bundle 4.0.0 stranger-private.pem $then
} >/dev/null
bundle 5.0.0 K-private.pem --security-epoch 3 --rollout 1%@1h,100%@8760h >/dev/null

# device FOLDER: two slots, of which A holds what a factory put there, keys and settings.
device() {
    mkdir "$1" "$1/A" "$1/B" "$1/S" "$1/data" "$1/health.d"
    for file in vmlinuz kubesolo-os.gz; do
        echo 'factory image' >"$1/A/$file"
        (cd "$1/A" && sha256sum "$file" >"$file.sha256")
    done
    cp K.pem F.pem "$1/"
    cat >"$1/conf" <<'CONF'
channel=stable
pubkey=K.pem
freshness_pubkey=F.pem
slot_a=A
slot_b=B
data_dir=data
health_dir=health.d
machine_id_file=no-machine-id
version_file=version
CONF
    echo 0.9.0 >"$1/version"
}
agent() {
    command=$1
    shift
    [ ! -e cmdline ] || set -- --cmdline cmdline "$@"
    "$bin/kubesolo-update" --quiet --conf conf --state S/state.json "$command" --bootenv "$env" "$@" >/dev/null
}
# must CODE COMMAND...: the agent ends with this code.
must() {
    code=$1 found=0
    shift
    agent "$@" 2>agent.log || found=$?
    [ "$found" = "$code" ] || { cat agent.log >&2; echo "fixtures-0.1: $* ended with $found, not $code" >&2; exit 1; }
}
apply() {
    code=$1 version=$2
    shift 2
    must "$code" apply --bundle "../$version.tar" "$@"
}
power_on() {
    "$bin/boot" --store grubenv ksenv2 A B >boot.txt
    sed -n 's/^boots: /panic=5 /p' boot.txt >cmdline
}
# block LINE...: an environment block as grub-editenv makes it.
block() {
    { echo '# GRUB Environment Block'; printf '%s\n' "$@"; head -c 1024 /dev/zero | tr '\0' '#'; } | head -c 1024 >grubenv
}
# moment NAME: keeps the device as it is now. Slots are kept once for each release.
moment() {
    place=$out/moments/$1
    mkdir -p "$place"
    for file in S/state.json S/trust.json S/history.json grubenv ksenv2 env fw_env.config autoboot.txt cmdline; do
        [ ! -e "$file" ] || cp "$file" "$place/"
    done
    for slot in A B; do
        held=factory
        [ -e "$slot/vmlinuz" ] || held=nothing
        [ ! -e "$slot/manifest.json" ] || held=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' "$slot/manifest.json")
        [ ! -e "$slot/crc32.txt" ] || held=$held-crc32
        echo "$slot $held"
        [ -e "$out/releases/$held" ] || { mkdir -p "$out/releases/$held" && cp "$slot"/* "$out/releases/$held/" 2>/dev/null; } || true
    done >"$place/slots"
    set --
    [ ! -e cmdline ] || set -- --cmdline cmdline
    "$bin/kubesolo-update" --quiet --conf conf --state S/state.json status --json --bootenv "$env" "$@" >"$place/status.json"
}
health() {
    printf '#!/bin/sh\necho "the node is not ready"\nexit %s\n' "$1" >health.d/10-node
    chmod 755 health.d/10-node
}

device grub
cd grub
env=grub:grubenv
block active_slot=A boot_success=1 boot_counter=3 other=kept
power_on
must 0 healthcheck
apply 77 4.0.0
moment failed
apply 0 1.0.0
moment staged
must 0 activate
moment activated
power_on
health 1
must 1 healthcheck --auto-rollback-after 3
moment verifying
health 0
must 0 healthcheck
moment success
apply 75 2.0.0 --maintenance-window 00:00-00:00
apply 0 2.0.0 --activate
moment activated-again
power_on
must 0 healthcheck
apply 0 3.0.0 --activate
power_on
health 1
must 1 healthcheck --auto-rollback-after 1
moment rolled-back
power_on
health 0
must 0 healthcheck
apply 75 3.0.0
moment refused
# Another agent writes the environment over a trial that was not booted yet: whether it would have started is not known.
apply 0 3.0.0 --retry-failed --activate
block active_slot=A boot_success=1 boot_counter=3 other=kept
must 0 healthcheck
must 0 healthcheck
moment not-started
apply 75 5.0.0
moment waiting
cd ..

device u-boot
cd u-boot
env=uboot:fw_env.config
printf 'env 0x0 0x1000\nenv 0x1000 0x1000\n' >fw_env.config
for n in 1 2; do
    # shellcheck disable=SC2016 # U-Boot's own variable
    printf 'active_slot=A\nboot_success=1\nboot_counter=3\nbootcmd=run distro_bootcmd; echo $x\n' |
        mkenvimage -r -s 0x1000 -o "copy-$n" -
done
cat copy-1 copy-2 >./env
must 0 healthcheck --booted A
apply 0 1.0.0 --booted A --activate
moment u-boot-activated
cd ..

device raspberry-pi
cd raspberry-pi
env=rpi:.
printf '[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n' >autoboot.txt
echo 'panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1' >cmdline
must 0 healthcheck
apply 0 1.0.0 --activate
moment raspberry-pi-activated
cd ..

device before
cd before
env=grub:grubenv
block active_slot=A boot_success=1 boot_counter=3
cp "$work/bootenv/tests/kubesolo-os.cfg" grub.cfg
echo 'kubesolo.slot=A quiet' >cmdline
must 0 adopt --any-grub-cfg
mkdir -p "$out/adopted"
cp grub.cfg ksloader.sum ksbefore.cfg kernel-args.cfg grubenv ksenv2 "$out/adopted/"
mkdir -p "$out/loader"
cp ksloader.cfg "$out/loader/grub.cfg"
cd ..

SOURCE_DATE_EPOCH=1763752191 mkimage -A arm64 -T script -C none -n 'A/B slot protocol' -d "$work/bootenv/loader/boot.cmd" \
    "$out/loader/boot.scr" >/dev/null
cp K.pem F.pem grub/conf grub/version "$out/"
cp 3.0.0.tar "$out/bundle.tar"
