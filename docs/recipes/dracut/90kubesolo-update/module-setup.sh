#!/bin/bash
# A module of dracut: the initramfs is the whole system, with the init stage of kubesolo-update and busybox as init.
# Install it as /usr/lib/dracut/modules.d/90kubesolo-update.

# Only by name: it takes the place of dracut's own init.
check() {
    require_binaries busybox || return 1
    return 255
}

depends() {
    echo kernel-modules
}

# shellcheck disable=SC2154 # dracut sets initdir and moddir
install() {
    inst_multiple /usr/bin/kubesolo-update mke2fs e2fsck
    inst_multiple -o /usr/bin/kubesolo-cloudinit
    inst_binary "$(command -v busybox)" /bin/busybox
    local applet
    for applet in $("$initdir/bin/busybox" --list-full); do
        # Programs of the image win over applets.
        [ -e "$initdir/$applet" ] || [ "$applet" = bin/busybox ] || ln_r /bin/busybox "/$applet"
    done

    inst_simple "$moddir/init.sh" /init
    local folder file
    for folder in /usr/lib/kubesolo-update /etc/kubesolo /usr/share/kubesolo/keys; do
        [ -d "$folder" ] || continue
        find "$folder" -type f | while read -r file; do inst_simple "$file"; done
    done
    # Add the services of the image to a copy of this file.
    inst_simple /usr/lib/kubesolo-update/inittab /etc/inittab
    mkdir -p "$initdir"/{dev,proc,sys,run,tmp,var/lib/kubesolo}
}

# The disk, the slots and the EFI partition, the network, and any hardware watchdog.
installkernel() {
    hostonly='' instmods ext4 vfat nls_cp437 nls_ascii nls_iso8859-1 isofs sr_mod =drivers/watchdog =drivers/net/ethernet virtio_net
    # They keep the last words of the kernel over a reset.
    hostonly='' instmods efi_pstore ramoops
}
