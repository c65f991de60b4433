# Never built by the authors of kubesolo-update.
SUMMARY = "An OS image that is its initramfs"
LICENSE = "Apache-2.0"

inherit core-image

IMAGE_INSTALL = "packagegroup-core-boot kernel-modules kubesolo-update"
IMAGE_FSTYPES = "cpio.gz"
# The kernel starts /init. A device makes its machine-id at its first boot.
ROOTFS_POSTPROCESS_COMMAND += "whole_system; "
whole_system() {
    ln -sf sbin/init ${IMAGE_ROOTFS}/init
    rm -f ${IMAGE_ROOTFS}${sysconfdir}/machine-id
}
