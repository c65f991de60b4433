# shellcheck shell=sh
# $1 URL of the bundle, $2 of the chunks, $3 the old archive, $4 the slot to fill, $5 folder for its state, $6 public key. RAUC is a
# service on D-Bus: both run for as long as the update takes. Slots are block devices: two loop devices.
cd "$5" || exit
old=$(losetup --find --show --read-only "$3")
new=$(losetup --find --show "$4")
trap 'kill $service $bus; wait; losetup --detach "$old" "$new"' EXIT
mkdir mnt
printf '[system]\ncompatible=bench\nbootloader=noop\nmountprefix=%s/mnt\nstatusfile=%s/status\n[keyring]\npath=%s\n[casync]\nstorepath=%s\n' \
    "$5" "$5" "$6" "$2" >system.conf
printf '[slot.os.%s]\ndevice=%s\ntype=raw\nbootname=%s\n' 0 "$old" A 1 "$new" B >>system.conf
export DBUS_SESSION_BUS_ADDRESS="unix:path=$5/bus" DBUS_STARTER_BUS_TYPE=session
dbus-daemon --session --nofork --nopidfile --address="$DBUS_SESSION_BUS_ADDRESS" &
bus=$!
until [ -S bus ]; do sleep 0.1; done
rauc --conf=system.conf service --override-boot-slot=A &
service=$!
until rauc --conf=system.conf status >/dev/null 2>&1; do sleep 0.1; done
rauc --conf=system.conf install "$1"
sync
