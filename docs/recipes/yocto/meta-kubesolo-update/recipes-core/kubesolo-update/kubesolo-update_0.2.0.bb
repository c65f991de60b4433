# Never built by the authors of kubesolo-update.
SUMMARY = "A/B updates of a kernel and an initramfs: the agent on the device"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

ARCHIVE_ARCH:x86-64 = "amd64"
ARCHIVE_ARCH:aarch64 = "arm64"
SRC_URI = "file://kubesolo-update-${PV}-linux-${ARCHIVE_ARCH}.tar.gz file://public.pem file://update.conf"
S = "${WORKDIR}/kubesolo-update-${PV}-linux-${ARCHIVE_ARCH}"

inherit systemd

SYSTEMD_SERVICE:${PN} = "kubesolo-update-mount.service kubesolo-update-data.service kubesolo-update-evidence.service \
    kubesolo-update.timer kubesolo-update-health.service kubesolo-update-deadline.timer kubesolo-cloudinit.service"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${bindir} ${D}${nonarch_libdir} ${D}${systemd_system_unitdir}
    install -m 0755 ${S}/usr/bin/kubesolo-update ${S}/usr/bin/kubesolo-cloudinit ${D}${bindir}/
    cp -R --no-dereference --preserve=mode ${S}/usr/lib/kubesolo-update ${D}${nonarch_libdir}/
    install -m 0644 ${S}/usr/lib/systemd/system/kubesolo-* ${D}${systemd_system_unitdir}/
    install -D -m 0644 ${WORKDIR}/public.pem ${D}${datadir}/kubesolo/keys/public.pem
    install -D -m 0644 ${WORKDIR}/update.conf ${D}${sysconfdir}/kubesolo/update.conf
}

FILES:${PN} += "${nonarch_libdir}/kubesolo-update ${systemd_system_unitdir} ${datadir}/kubesolo"
RDEPENDS:${PN} = "e2fsprogs-mke2fs e2fsprogs-e2fsck"
# Static binaries of another build.
INSANE_SKIP:${PN} = "already-stripped"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
