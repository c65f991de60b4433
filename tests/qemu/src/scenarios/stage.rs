//! The init stage when things go wrong. The kernel is started directly, and a script stands in for the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::expect;
use crate::machine::{Device, Firmware, Machine};
use crate::runner::Run;
use crate::{Result, root, tool};

const TRIAL: &str = "ks.trial=1234abcd";
const COMMITTED: &str = "ks.trial=00000000";

/// A device without bootloader.
struct Bare {
    device: Device,
    kernel: PathBuf,
    initramfs: PathBuf,
    /// Kernel arguments of this device, for the script that stands in for the agent.
    own: String,
}

impl Bare {
    /// `data` says whether there is a data partition.
    fn build(run: &Run, flavour: &str, data: bool) -> Result<Self> {
        let kernel = kernel(flavour)?;
        let initramfs = run.file("initramfs.gz");
        let agent = root().join("tests/qemu/guest/verdict");
        let mut script = Command::new(root().join("build/scripts/build-initramfs.sh"));
        script.arg("--kernel").arg(&kernel).arg("--agent").arg(agent);
        script.args(["--version", "1.0.0", "--test"]).arg(&initramfs);
        crate::run(&mut script)?;
        Self::with(run, &kernel, initramfs, data)
    }

    fn with(run: &Run, kernel: &Path, initramfs: PathBuf, data: bool) -> Result<Self> {
        let disk = run.file("disk.img");
        partitioned(&disk, &["KSOLOA", "KSOLOB"], if data { "KSOLODATA" } else { "OTHER" })?;
        let mut device = Device::new(Firmware::Bios, &disk);
        device.network = true;
        device.end_on_reset = true;
        let own = if data { "data=/dev/vda3".to_owned() } else { String::new() };
        Ok(Self { device, kernel: kernel.join("vmlinuz"), initramfs, own })
    }

    fn boot(&self, run: &Run, arguments: &[&str]) -> Result<Machine> {
        let mut device = self.device.clone();
        let path = |path: &Path| path.display().to_string();
        device.more.extend(["-kernel".to_owned(), path(&self.kernel), "-initrd".to_owned(), path(&self.initramfs)]);
        let line = format!("console=ttyS0,115200n8 quiet panic=5 {} {}", self.own, arguments.join(" "));
        device.more.extend(["-append".to_owned(), line]);
        Machine::power_on(&device, &run.dir)
    }
}

/// Makes a disk: empty partitions with these GPT names, then one with an ext4 filesystem of this label, and no name.
fn partitioned(disk: &Path, names: &[&str], label: &str) -> Result<()> {
    const MIB: u64 = 1024 * 1024;
    let first = 1 + names.len() as u64;
    fs::File::create(disk)?.set_len((first + 17) * MIB)?;
    let mut table = Command::new(tool("sgdisk")?);
    table.arg("--clear");
    for name in names {
        table.arg("--new=0:0:+1M").arg(format!("--change-name=0:{name}"));
    }
    crate::run(table.arg("--new=0:0:+16M").arg(disk))?;
    let mut filesystem = Command::new(tool("mke2fs")?);
    filesystem.args(["-q", "-F", "-t", "ext4", "-L", label]).arg("-E").arg(format!("offset={}", first * MIB));
    crate::run(filesystem.arg(disk).arg("16M"))?;
    Ok(())
}

/// The device has not ended, nor is it about to.
fn expect_on(machine: &mut Machine) -> Result<()> {
    let said = machine.said()?;
    if machine.is_on()? && !said.contains("restarting") {
        return Ok(());
    }
    Err(format!("it restarts though the trial is over: {said}").into())
}

/// Fetches a kernel of Debian's: the folder that it is in.
pub(super) fn kernel(flavour: &str) -> Result<PathBuf> {
    crate::run(Command::new(root().join("build/scripts/fetch-kernel.sh")).arg(flavour))?;
    Ok(root().join("target/kernels").join(flavour))
}

/// A trial that nobody decides ends by the deadline; a decided one does not.
pub(super) fn deadline(run: &Run) -> Result<()> {
    let bare = Bare::build(run, "cloud", true)?;
    let mut machine = bare.boot(run, &[TRIAL, "ks.deadline=3", "verdict=hang"])?;
    machine.wait_for("restarting: trial 1234abcd not decided within 3 s")?;
    machine.wait_for("guest: shuts down in order")?;
    machine.wait_for_end()?;

    let mut machine = bare.boot(run, &[TRIAL, "ks.deadline=10", "verdict=0"])?;
    machine.wait_for("kubesolo: healthy")?;
    thread::sleep(Duration::from_secs(15));
    expect_on(&mut machine)
}

/// A system that becomes healthy within the window is not reverted before, whatever the agent does by itself.
pub(super) fn late(run: &Run) -> Result<()> {
    let bare = Bare::build(run, "cloud", true)?;
    let mut machine = bare.boot(run, &[TRIAL, "verdict=late"])?;
    machine.wait_for("kubesolo: healthy")?;
    expect_on(&mut machine)?;
    machine.power_cut()
}

/// Unhealthy boots of a committed slot: four restarts, then the device stays up. A healthy one starts the count again.
pub(super) fn unhealthy(run: &Run) -> Result<()> {
    let bare = Bare::build(run, "cloud", true)?;
    let one = |verdict: &str| bare.boot(run, &[COMMITTED, "ks.health_window=0", verdict]);
    for boot in 1..=4 {
        let mut machine = one("verdict=1")?;
        machine.wait_for(&format!("restarting: unhealthy boot {boot} of 5"))?;
        machine.wait_for_end()?;
    }
    let mut machine = one("verdict=1")?;
    machine.wait_for("eth0 has 10.0.2.15")?;
    machine.wait_for("degraded: unhealthy boot 5 in a row")?;
    machine.wait_for("guest: health step ended with 1")?;
    machine.power_cut()?;

    let mut machine = bare.boot(run, &[COMMITTED, "verdict=0"])?;
    machine.wait_for("kubesolo: healthy")?;
    machine.wait_for("guest: health step ended with 0")?;
    machine.power_cut()?;
    let mut machine = one("verdict=1")?;
    machine.wait_for("restarting: unhealthy boot 1 of 5")?;
    machine.power_cut()
}

/// Without its data partition a device is up with network, keeps nothing in memory instead, and does not restart.
pub(super) fn no_data(run: &Run) -> Result<()> {
    let bare = Bare::build(run, "cloud", false)?;
    let mut machine = bare.boot(run, &[COMMITTED, "ks.health_window=0", "verdict=1"])?;
    machine.wait_for("degraded: no partition KSOLODATA")?;
    machine.wait_for("eth0 has 10.0.2.15")?;
    machine.wait_for("degraded: unhealthy, and the count of unhealthy boots cannot be written")?;
    machine.wait_for("guest: health step ended with 1")?;
    machine.power_cut()
}

/// During a trial the hardware watchdog resets a device that hangs; after the trial it is given up.
pub(super) fn watchdog(run: &Run) -> Result<()> {
    let mut bare = Bare::build(run, "full", true)?;
    bare.device.watchdog = true;
    let mut machine = bare.boot(run, &[TRIAL, "verdict=freeze"])?;
    machine.wait_for("guest: agent asked: healthcheck")?;
    // 60 s after it was last fed. The deadline is far away.
    machine.wait_for_end()?;

    let mut machine = bare.boot(run, &[TRIAL, "verdict=0"])?;
    machine.wait_for("kubesolo: healthy")?;
    thread::sleep(Duration::from_secs(80));
    expect_on(&mut machine)
}

/// An image made by the real mkinitramfs with our hook runs the init stage. Needs root.
pub(super) fn initramfs_tools(run: &Run) -> Result<()> {
    built_by(run, "build-initramfs-tools.sh")
}

/// An image made by the real dracut with the module of the recipe runs the init stage. Needs root.
pub(super) fn dracut(run: &Run) -> Result<()> {
    built_by(run, "build-dracut.sh")
}

fn built_by(run: &Run, script: &str) -> Result<()> {
    let (kernel, initramfs) = (kernel("cloud")?, run.file("initramfs.gz"));
    let mut script = Command::new(root().join("build/scripts").join(script));
    crate::run(script.arg(&initramfs).arg(&kernel))?;
    // The magic of gzip (RFC 1952, 2.3.1): the publisher looks into nothing else.
    expect("an initramfs packed by gzip", &fs::read(&initramfs)?.starts_with(&[0x1f, 0x8b]), &true)?;
    let mut bare = Bare::with(run, &kernel, initramfs, true)?;
    // The search for the disk, which lasts 10 s here, must not read a drive without a disc: the kernel reports each read.
    let drive = ["-device", "virtio-scsi-pci", "-device", "scsi-cd"];
    bare.device.more.extend(drive.map(str::to_owned));
    // The real agent: it refuses, for this device has no slots, and the deadline ends the trial.
    let mut machine = bare.boot(run, &[TRIAL, "ks.deadline=30"])?;
    machine.wait_for("has 10.0.2.15")?;
    machine.wait_for("KSOLO")?;
    machine.wait_for("restarting: trial 1234abcd not decided within 30 s")?;
    let said = machine.said()?;
    machine.wait_for_end()?;
    expect("the reports of the empty drive", &said.matches("error, dev sr0").count(), &0)
}
