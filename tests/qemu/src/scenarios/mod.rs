//! The stories: of the bootloader alone, and of the whole device.

mod counting;
pub(crate) mod data;
pub mod demo;
pub(crate) mod device;
mod evidence;
mod extras;
mod first_boot;
mod keys;
mod loader;
mod old;
mod stage;
mod stick;
mod uboot;
mod wear;

use std::fmt::Debug;

use bootenv::protocol::{BootState, View};

use crate::Result;
use crate::image::Disk;
use crate::machine::Firmware::{self, Bios, UBoot, Uefi, UefiArm64};
use crate::runner::{Run, Scenario};
use crate::{prove, table, table_stage1, table_uboot, views};

const fn quick(name: &'static str, firmware: Firmware, about: &'static str, body: fn(&Run) -> Result<()>) -> Scenario {
    Scenario { name, about, firmware, only: None, quick: true, wide: false, body }
}

const fn long(name: &'static str, firmware: Firmware, about: &'static str, body: fn(&Run) -> Result<()>) -> Scenario {
    Scenario { name, about, firmware, only: None, quick: false, wide: false, body }
}

/// With U-Boot, which is what the story is about.
const fn arm64(name: &'static str, about: &'static str, body: fn(&Run) -> Result<()>) -> Scenario {
    only("it is a story of U-Boot", long(name, UBoot, about, body))
}

const fn only(why: &'static str, scenario: Scenario) -> Scenario {
    Scenario { only: Some(why), ..scenario }
}

/// Why the decision table is replayed through BIOS: a kernel of 1 KiB makes its hundreds of power-ons affordable.
const STUB: &str = "the kernel of this table is started by BIOS only";
/// Why the firmware does not matter to the init stage.
const BARE: &str = "QEMU starts the kernel itself, without a bootloader";
/// Why one firmware is enough for what begins long after it.
const ONCE: &str = "it is about the userland, which no firmware sees";

/// All of them, the longest first: nothing long is left over at the end.
pub const ALL: &[Scenario] = &[
    Scenario {
        wide: true,
        only: Some(STUB),
        ..quick("table-quick", Bios, "GRUB and the model decide alike, every pair of conditions", table::quick)
    },
    Scenario {
        wide: true,
        only: Some(STUB),
        ..long("table", Bios, "GRUB and the model decide alike, every three conditions", table::all)
    },
    Scenario {
        wide: true,
        ..quick(
            "loader-files",
            Bios,
            "of two loader files a broken one on trial ends in the good one, and a good one boots",
            table_stage1::all,
        )
    },
    Scenario {
        wide: true,
        ..only("it is `loader-files`", long("loader-files-uefi", Uefi, "the same through UEFI", table_stage1::all))
    },
    quick(
        "adopt",
        Uefi,
        "a device of KubeSolo OS is confirmed boot by boot, switched over by adopt, and updates itself then",
        old::adopt,
    ),
    quick(
        "adopt-cut-points",
        Bios,
        "after every power cut in an adoption the device boots by the old or the new loader file",
        old::cut_points,
    ),
    long(
        "power-cut-before-commit",
        Uefi,
        "power cuts between kernel and health check use up tries, and the last one can still commit",
        device::cut_before_commit,
    ),
    only(
        ONCE,
        long(
            "blank-slot",
            Bios,
            "a slot without a filesystem is refused, or recreated where mke2fs is",
            device::blank_slot,
        ),
    ),
    quick(
        "second-disk",
        Bios,
        "another disk with all labels changes nothing, whichever is found first; beside a copy the device changes nothing",
        device::second_disk,
    ),
    only(
        ONCE,
        quick(
            "torn-data",
            Bios,
            "a data partition whose superblock a power cut tore is repaired, keeps its files, and the boot is healthy",
            device::torn_data,
        ),
    ),
    long(
        "env-damaged",
        Uefi,
        "an environment with one or both files damaged boots and is rebuilt",
        device::env_damaged,
    ),
    only(
        ONCE,
        long(
            "systemd",
            Uefi,
            "in a Debian userland the timer updates the device inside its window, and waits outside",
            first_boot::systemd,
        ),
    ),
    only(
        ONCE,
        long(
            "crond",
            Bios,
            "without systemd crond updates the device inside its window, and waits outside",
            first_boot::crond,
        ),
    ),
    only(
        ONCE,
        long(
            "keys",
            Uefi,
            "two of three keys sign; one is rotated out and revoked, and stays so after a rollback to an image that has it",
            keys::rotation,
        ),
    ),
    long(
        "loader-0.1",
        Bios,
        "under the loader file of 0.1 a release is committed, and one that panics comes back",
        old::loader_0_1,
    ),
    only(
        ONCE,
        long("wear", Bios, "writes and flushes of the disk: at rest, for a check, an update, a trial", wear::wear),
    ),
    long("env-of-go-agent", Bios, "an environment written by KubeSolo OS's agent boots, and is taken over", old::env),
    only(
        ONCE,
        long(
            "local-account",
            Bios,
            "an account without rights opens no lock, and fills the data partition: the trial is judged and committed",
            device::local_account,
        ),
    ),
    only(
        ONCE,
        long(
            "slot-mounted-elsewhere",
            Bios,
            "a slot that somebody has mounted in another namespace is not written",
            device::mounted_elsewhere,
        ),
    ),
    quick(
        "evidence-panic",
        Uefi,
        "after a release that panics, the previous one shows its last words: kernel log of each try, and the panic",
        evidence::panic,
    ),
    long(
        "kernel-arguments",
        Uefi,
        "a release with another kernel argument is tried, fails, and the old one is back; a healthy one stays",
        extras::on_trial,
    ),
    long(
        "evidence-hang",
        Bios,
        "after a release that hangs, a range of memory that survives resets has its last words",
        evidence::hang,
    ),
    quick(
        "panic",
        Uefi,
        "a release that panics uses up its tries; the previous release is back, and the failure is recorded",
        device::panic,
    ),
    only(
        ONCE,
        quick(
            "power-cut-in-apply",
            Uefi,
            "power cuts while a slot is written cost only the write",
            device::cut_in_apply,
        ),
    ),
    quick(
        "truncated-initramfs",
        Uefi,
        "half an initramfs, with a fitting hash file, ends as a failed trial",
        device::truncated_initramfs,
    ),
    only(
        ONCE,
        long(
            "data-endings",
            Uefi,
            "after panics, hangs, resets, power cuts and rot in a trial the old release has its data",
            data::endings,
        ),
    ),
    only(
        ONCE,
        long(
            "data-first-release",
            Bios,
            "a release without the step for data is reverted to as before, on the newer data",
            data::first_release,
        ),
    ),
    only(
        ONCE,
        quick(
            "data-unhealthy",
            Uefi,
            "a release migrates a database and fails; the previous release is back on its own data",
            data::unhealthy,
        ),
    ),
    only(
        ONCE,
        long(
            "data-with-data",
            Bios,
            "a committed release goes back with the data of the previous one, and forth with its own",
            data::with_data,
        ),
    ),
    only(
        ONCE,
        long(
            "data-withdrawn",
            Bios,
            "a trial whose data cannot be saved is withdrawn, and its release is installed once there is room",
            data::withdrawn,
        ),
    ),
    only(
        ONCE,
        long(
            "data-slow-disk",
            Bios,
            "much data on a slow disk are saved within the time limits of a boot, or the trial is withdrawn",
            data::slow_disk,
        ),
    ),
    only(ONCE, long("data-absent", Bios, "a data folder that only the trial made is gone afterwards", data::absent)),
    only(
        ONCE,
        long(
            "stick",
            Bios,
            "a device without a network takes releases from a stick inside its window; the receipts on it name the good and the bad one",
            stick::update,
        ),
    ),
    long("unhealthy", Uefi, "a release whose health check fails is reverted by its own hook", device::unhealthy),
    only(
        ONCE,
        quick("delta", Uefi, "a device makes a release of its own pieces and patches, and boots it", device::delta),
    ),
    quick("commit", Uefi, "a device updates itself from a registry and keeps the release", device::commit),
    only("it is `commit`", quick("commit-bios", Bios, "the same through BIOS", device::commit)),
    only(
        ONCE,
        quick(
            "first-boot",
            Uefi,
            "a seed configures the agent, which updates only inside its window; --force is for the console",
            first_boot::seed,
        ),
    ),
    quick("cut-points", Uefi, "after every power cut in an update a published release boots", prove::scenario),
    quick(
        "corrupt-kernel",
        Uefi,
        "a kernel that rots after activation is never started, and its trial ends",
        device::corrupt_kernel,
    ),
    quick(
        "power-cut-after-activation",
        Uefi,
        "a power cut right after activation starts the trial",
        device::cut_after_activation,
    ),
    quick("loader-panic", Bios, "panics use up the tries, then the last good slot is back", loader::panic),
    quick("loader-commit", Uefi, "a trial boots, is committed, and later boots write nothing", loader::commit),
    quick(
        "loader-power-cuts",
        Bios,
        "a power cut in a trial counts, even one while the kernel is hashed",
        loader::power_cuts,
    ),
    long("loader-truncated-initramfs", Bios, "half an initramfs uses up the tries", loader::truncated_initramfs),
    long(
        "loader-corrupt-kernel",
        Uefi,
        "a kernel that does not match its hash is never started",
        loader::corrupt_kernel,
    ),
    long(
        "loader-variable-twice",
        Bios,
        "a try that cannot be counted is no try: the last good slot boots",
        loader::variable_twice,
    ),
    only(STUB, quick("loader-hash", Bios, "the bootloader starts no changed file", table::changed)),
    only(
        STUB,
        quick(
            "loader-arguments",
            Bios,
            "the bootloader passes the kernel arguments of a release, refuses damaged ones, and ignores those of another release",
            table::arguments,
        ),
    ),
    long(
        "loader-empty-kernel",
        Uefi,
        "a kernel without a byte is never started, whatever its hash",
        loader::empty_kernel,
    ),
    long(
        "loader-second-disk",
        Uefi,
        "with another disk in front, GRUB boots its own disk and names the partition",
        loader::second_disk,
    ),
    long("loader-both-void", Bios, "with both slots void the complete one boots", loader::both_void),
    long(
        "loader-cut-in-save",
        Bios,
        "a power cut while GRUB saves leaves the old or the new environment",
        loader::cut_in_save,
    ),
    only(
        "BIOS names the booted disk first",
        long(
            "loader-switch",
            Uefi,
            "a device adopted by 0.1 boots its slot beside a stick, and by its old loader file where the new one cannot run",
            old::switch,
        ),
    ),
    long("loader-foreign-env", Uefi, "a second kernel loaded by GRUB gets its own command line", loader::foreign_env),
    only(BARE, quick("stage-deadline", Bios, "a trial that nobody decides ends by the deadline", stage::deadline)),
    only(BARE, long("stage-late", Bios, "a trial that takes its time to become healthy is not reverted", stage::late)),
    only(
        BARE,
        quick("stage-no-data", Bios, "without its data partition a device stays up, with network", stage::no_data),
    ),
    only(
        BARE,
        long(
            "stage-watchdog",
            Bios,
            "the watchdog ends a trial that hangs, and is released afterwards",
            stage::watchdog,
        ),
    ),
    only(
        BARE,
        long(
            "stage-unhealthy",
            Bios,
            "four unhealthy boots of a committed release restart it, not five",
            stage::unhealthy,
        ),
    ),
    only(
        BARE,
        long("stage-initramfs-tools", Bios, "an image made with initramfs-tools; needs root", stage::initramfs_tools),
    ),
    only(BARE, long("stage-dracut", Bios, "an image made with dracut, by the recipe; needs root", stage::dracut)),
    Scenario {
        wide: true,
        ..arm64("arm64-table", "U-Boot and the model decide alike, every three conditions", table_uboot::all)
    },
    arm64(
        "arm64-kernel-arguments",
        "a release with another kernel argument and device tree is tried, fails, and the old ones are back",
        extras::on_trial,
    ),
    arm64(
        "arm64-extras",
        "U-Boot passes the kernel arguments and the device tree of a release, refuses damaged ones, and ignores others",
        table_uboot::extras,
    ),
    arm64("arm64-cut-points", "after every power cut in an update a published release boots", prove::scenario),
    arm64(
        "arm64-one-tag",
        "one tag serves a device on amd64 and one on arm64, each with its own images",
        uboot::one_tag,
    ),
    arm64("arm64-panic", "a release that panics uses up its tries; the previous release is back", device::panic),
    arm64("arm64-power-cut-in-apply", "power cuts while a slot is written cost nothing else", device::cut_in_apply),
    arm64(
        "arm64-env-damaged",
        "either copy of the environment replaces the other; without both slot A boots",
        uboot::env_damaged,
    ),
    arm64(
        "arm64-power-cut-before-commit",
        "power cuts in all three tries leave the trial to the last one",
        device::cut_before_commit,
    ),
    arm64(
        "arm64-power-cut-in-save",
        "a power cut while U-Boot counts a try leaves one state or the other",
        uboot::cut_in_save,
    ),
    arm64("arm64-watchdog", "the hardware watchdog ends a trial in which the kernel hangs", uboot::watchdog),
    arm64("arm64-unhealthy", "a release whose health check fails is reverted by its own hook", device::unhealthy),
    arm64(
        "arm64-second-disk",
        "another disk with all labels behind that of the device changes nothing; beside a copy nothing is stored",
        device::second_disk,
    ),
    arm64("arm64-delta", "a device with U-Boot makes a release of its own pieces and patches", device::delta),
    arm64("arm64-commit", "a device with U-Boot updates itself from a registry and keeps the release", device::commit),
    arm64("arm64-missing-kernel", "a slot without a kernel is passed over, and its trial ends", uboot::missing_kernel),
    arm64(
        "arm64-power-cut-after-activation",
        "a power cut right after activation starts the trial",
        device::cut_after_activation,
    ),
    arm64(
        "arm64-bootcount",
        "a U-Boot that counts boots itself starts three tries and goes back, or stays with what is committed",
        counting::counting,
    ),
    arm64(
        "arm64-env-views",
        "U-Boot, its tools, this project and libubootenv read hundreds of environments alike",
        views::agree,
    ),
    only(
        "it is `commit`",
        long(
            "arm64-grub",
            UefiArm64,
            "the same grub.cfg on EDK2 and GRUB for arm64: an update is committed",
            device::commit,
        ),
    ),
];

/// An error that names what was seen in place of what was wanted.
fn expect<T: PartialEq + Debug>(what: &str, seen: &T, wanted: &T) -> Result<()> {
    if seen == wanted {
        return Ok(());
    }
    Err(format!("{what}: {seen:?} instead of {wanted:?}").into())
}

fn state(disk: &Disk) -> Result<BootState> {
    match disk.view()? {
        View::Ours(state) => Ok(state),
        other => Err(format!("the environment is not ours: {other:?}").into()),
    }
}
