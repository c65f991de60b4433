#!/bin/sh
# The first program of the system: loads the drivers of the hardware, and starts busybox as init.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
# Twice: a bus shows its devices once its driver is there.
for _ in 1 2; do
    find /sys/devices -name modalias -exec cat {} + | sort -u | while read -r alias; do modprobe -q "$alias"; done
done
modprobe -q -a ext4 vfat nls_cp437 nls_ascii nls_iso8859-1 efi_pstore ramoops
exec /sbin/init
