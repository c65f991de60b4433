//! Slots on block devices: real ext4 on loop devices. Without root, or where there are no loop devices, these tests say
//! that they were skipped.

use crate::{alone, slot_support};

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kubesolo_update::base::error::Reason;
use kubesolo_update::device::blocks::{System, filesystem_label};
use kubesolo_update::device::mount::{Filesystem, Mounted, claim};
use kubesolo_update::device::slot::{Part, Place, Slot};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use slot_support::{Images, Pieces, blob, fill};

struct Disk {
    _dir: tempfile::TempDir,
    image: PathBuf,
    device: PathBuf,
    slot: Slot,
}

impl Disk {
    /// An ext4 of so many MiB on a loop device.
    fn new(mib: u64, mke2fs: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("slot.img");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", "KSOLOTEST"]).args(mke2fs).arg(&image));
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().ok();
        let Some(output) = output.filter(|output| output.status.success()) else {
            eprintln!("skipped: no loop device to be had (root?)");
            return None;
        };
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let slot = Slot { id: bootenv::SlotId::B, place: Place::Device(device.clone()), checksums: false };
        Some(Self { _dir: dir, image, device, slot })
    }

    fn read_only(&self) {
        run(Command::new("blockdev").arg("--setro").arg(&self.device));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("blockdev").arg("--setrw").arg(&self.device));
        run(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The device, mounted in the mount namespace of another process.
struct MountedElsewhere(Child);

impl MountedElsewhere {
    fn new(device: &Path, options: &str) -> Self {
        let script = format!("mount -t ext4 -o {options} {} /mnt && echo mounted && read line", device.display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().unwrap();
        let mut line = [0; 8];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        Self(child)
    }
}

impl Drop for MountedElsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn images() -> Images {
    Images::new(1, 1 << 20, (9 << 20) + 13)
}

#[test]
fn a_filled_device_holds_a_clean_filesystem_with_the_release() {
    let _alone = alone();
    for options in [&["-O", "^has_journal"][..], &[]] {
        let Some(disk) = Disk::new(32, options) else { return };
        let (images, manifest) = (images(), images().manifest("2.0.0"));
        disk.slot.check_room(images.need()).unwrap();
        fill(&disk.slot, &images, &manifest).unwrap();
        assert_eq!(disk.slot.verify().unwrap(), manifest);
        assert!(disk.slot.facts().unwrap().looks_complete());
        // By other eyes than ours, from the file below the device.
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk.image));
        let line = run(Command::new("debugfs").args(["-R", "cat vmlinuz.sha256"]).arg(&disk.image));
        assert_eq!(line, Part::Kernel.hash_line(&manifest.kernel.digest));
        // And again, over the release that is there.
        let newer = Images::new(5, 2 << 20, 8 << 20);
        fill(&disk.slot, &newer, &newer.manifest("3.0.0")).unwrap();
        assert_eq!(disk.slot.manifest().unwrap().unwrap().version.to_string(), "3.0.0");
    }
}

/// The mounts that this thread sees.
fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn a_mount_is_seen_by_the_agent_alone_and_is_restricted() {
    let _alone = alone();
    let Some(disk) = Disk::new(16, &[]) else { return };
    let device = format!(" {} ", disk.device.display());
    // The host shares its mounts, as systemd makes it do; the agent is a thread of its own.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>).unwrap();
    let host = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), host.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let of_host = host.path().display().to_string();
    let (to_agent, from_host) = channel();
    let (to_host, from_agent) = channel();
    let path = disk.device.clone();
    let (seen_by_host, target, unmounted_by_host) = std::thread::scope(|scope| {
        let (device, of_host) = (&device, &of_host);
        let agent = scope.spawn(move || {
            let mounted = Mounted::read_only(&path, Filesystem::Ext4).unwrap();
            let target = mounted.path().to_owned();
            let of_ours = mounts().lines().find(|line| line.contains(device)).unwrap().to_owned();
            for option in ["ro,", "nosuid", "nodev", "noexec"] {
                assert!(of_ours.contains(option), "{of_ours}");
            }
            assert!(mounts().contains(of_host));
            to_host.send(()).unwrap();
            from_host.recv().unwrap();
            let unmounted_by_host = !mounts().contains(of_host);
            mounted.unmount().unwrap();
            assert!(!mounts().contains(device));
            (target, unmounted_by_host)
        });
        from_agent.recv().unwrap();
        let seen_by_host = mounts().contains(device);
        nix::mount::umount(host.path()).unwrap();
        to_agent.send(()).unwrap();
        let (target, unmounted_by_host) = agent.join().unwrap();
        (seen_by_host, target, unmounted_by_host)
    });
    assert!(!seen_by_host);
    assert!(unmounted_by_host, "the agent would hold up a shutdown");
    assert!(!target.exists());
}

#[test]
fn an_unmount_that_fails_is_an_error() {
    let _alone = alone();
    let Some(disk) = Disk::new(16, &[]) else { return };
    let mounted = Mounted::read_only(&disk.device, Filesystem::Ext4).unwrap();
    let open = File::open(mounted.path()).unwrap();
    let target = mounted.path().to_owned();
    assert_eq!(mounted.unmount().unwrap_err().reason, Reason::CannotUnmount);
    drop(open);
    nix::mount::umount(&target).unwrap();
    fs::remove_dir(target).unwrap();
}

#[test]
fn a_device_that_is_mounted_elsewhere_is_refused_before_anything_is_erased() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    let manifest = images().manifest("2.0.0");
    fill(&disk.slot, &images(), &manifest).unwrap();
    for options in ["rw", "ro"] {
        let elsewhere = MountedElsewhere::new(&disk.device, options);
        for error in [
            disk.slot.check_room(1).unwrap_err(),
            disk.slot.writer().unwrap_err(),
            disk.slot.verify().unwrap_err(),
            disk.slot.hashes().unwrap_err(),
        ] {
            assert_eq!(error.reason, Reason::DeviceBusy, "{options}: {error}");
            assert!(error.message.contains(&disk.device.display().to_string()), "{error}");
        }
        drop(elsewhere);
        assert_eq!(disk.slot.verify().unwrap(), manifest);
    }
}

#[test]
fn a_device_that_gets_mounted_during_the_write_does_not_count_as_filled() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    let (images, manifest) = (images(), images().manifest("2.0.0"));
    let mut writer = disk.slot.writer().unwrap();
    writer.part(Part::Kernel, &manifest.kernel, &mut Pieces::of(&images.kernel), &mut ()).unwrap();
    writer.part(Part::Initramfs, &manifest.initramfs, &mut Pieces::of(&images.initramfs), &mut ()).unwrap();
    let elsewhere = MountedElsewhere::new(&disk.device, "rw");
    let error = writer.finish(&manifest).unwrap_err();
    assert_eq!(error.reason, Reason::DeviceBusy, "{error}");
    drop(elsewhere);
}

/// As `status` and `metrics` do, which need no lock.
#[test]
fn who_looks_at_a_slot_for_a_moment_costs_no_update() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    let (images, manifest) = (images(), images().manifest("2.0.0"));
    let looks = || {
        let elsewhere = MountedElsewhere::new(&disk.device, "ro,noload");
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(elsewhere);
        })
    };
    let look = looks();
    disk.slot.check_room(images.need()).unwrap();
    look.join().unwrap();
    let look = looks();
    let mut writer = disk.slot.writer().unwrap();
    look.join().unwrap();
    writer.part(Part::Kernel, &manifest.kernel, &mut Pieces::of(&images.kernel), &mut ()).unwrap();
    writer.part(Part::Initramfs, &manifest.initramfs, &mut Pieces::of(&images.initramfs), &mut ()).unwrap();
    writer.finish(&manifest).unwrap();
    let look = looks();
    assert_eq!(disk.slot.verify().unwrap(), manifest);
    look.join().unwrap();
}

/// `status` and `metrics` are asked again and again while an update writes.
#[test]
fn who_looks_does_not_wait_for_who_writes() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    let elsewhere = MountedElsewhere::new(&disk.device, "rw");
    let begin = Instant::now();
    disk.slot.facts().unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(700), "{:?}", begin.elapsed());
    drop(elsewhere);
}

#[test]
fn a_write_protected_device_is_refused() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    let manifest = images().manifest("2.0.0");
    fill(&disk.slot, &images(), &manifest).unwrap();
    disk.read_only();
    for error in [disk.slot.check_room(1).unwrap_err(), disk.slot.writer().unwrap_err()] {
        assert_eq!(error.reason, Reason::ReadOnly, "{error}");
    }
    assert_eq!(disk.slot.verify().unwrap(), manifest, "reading it needs no write");
}

#[test]
fn rot_on_the_medium_is_found_although_the_right_bytes_were_read_before() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &["-O", "^has_journal"]) else { return };
    let images = images();
    fill(&disk.slot, &images, &images.manifest("2.0.0")).unwrap();
    disk.slot.verify().unwrap();
    // Where the middle of the kernel lies on the device.
    let blocks = run(Command::new("debugfs").args(["-R", "bmap vmlinuz 128"]).arg(&disk.image));
    let block: u64 = blocks.trim().parse().unwrap();
    let size = run(Command::new("dumpe2fs").arg("-h").arg(&disk.image));
    let size: u64 = size.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap().trim().parse().unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&disk.image).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(block * size)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(block * size)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.sync_all().unwrap();
    let error = disk.slot.verify().unwrap_err();
    assert_eq!(error.reason, Reason::SlotDamaged, "{error}");
    assert_eq!(disk.slot.hashes().unwrap_err().reason, Reason::SlotDamaged);
}

#[test]
fn reading_writes_nothing_to_the_device() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    fill(&disk.slot, &images(), &images().manifest("2.0.0")).unwrap();
    let before = fs::read(&disk.image).unwrap();
    disk.slot.verify().unwrap();
    disk.slot.facts().unwrap();
    disk.slot.manifest().unwrap();
    disk.slot.hashes().unwrap();
    disk.slot.check_room(1).unwrap();
    assert!(before == fs::read(&disk.image).unwrap());
}

/// A journal that was not replayed is left to the next writer: the bootloader does not replay it either.
#[test]
fn a_journal_is_not_replayed_by_reading() {
    let _alone = alone();
    let Some(disk) = Disk::new(32, &[]) else { return };
    fill(&disk.slot, &images(), &images().manifest("2.0.0")).unwrap();
    run(Command::new("debugfs").args(["-w", "-R", "feature needs_recovery"]).arg(&disk.image));
    claim(&disk.device, false).unwrap();
    let before = fs::read(&disk.image).unwrap();
    disk.slot.verify().unwrap();
    assert!(before == fs::read(&disk.image).unwrap());
}

/// As large a release as `check_room` lets through fits, and it does not refuse much that would.
#[test]
fn the_room_that_is_promised_is_there() {
    let _alone = alone();
    // The largest one keeps more blocks for itself than the margin covers.
    for (mib, options) in [(96, &["-O", "^has_journal", "-m", "0"][..]), (48, &["-m", "5"]), (48, &["-b", "1024"])] {
        let Some(disk) = Disk::new(mib, options) else { return };
        let (mut fits, mut refused) = (0, mib << 20);
        while refused - fits > 4096 {
            let middle = (fits + refused) / 2;
            match disk.slot.check_room(middle) {
                Ok(()) => fits = middle,
                Err(_) => refused = middle,
            }
        }
        assert!(fits > (mib - 14) << 20, "{options:?}: only {fits} bytes of a filesystem of {mib} MiB");
        let images = Images::new(1, 1 << 20, fits as usize - (1 << 20));
        fill(&disk.slot, &images, &images.manifest("2.0.0")).unwrap();
        disk.slot.check_room(fits).unwrap();
        let images = Images::new(2, 4 << 20, fits as usize - (4 << 20));
        fill(&disk.slot, &images, &images.manifest("3.0.0")).unwrap();
    }
}

#[test]
fn a_full_device_says_so_and_is_unmounted_and_void() {
    let _alone = alone();
    let Some(disk) = Disk::new(16, &[]) else { return };
    let images = Images::new(1, 1 << 20, 20 << 20);
    let error = fill(&disk.slot, &images, &images.manifest("2.0.0")).unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace, "{error}");
    assert_eq!(disk.slot.verify().unwrap_err().reason, Reason::SlotIncomplete);
    claim(&disk.device, true).unwrap();
}

#[test]
fn what_is_no_filesystem_is_a_clear_error() {
    let _alone = alone();
    let Some(disk) = Disk::new(16, &[]) else { return };
    File::options().write(true).open(&disk.image).unwrap().write_all(&[0; 4096]).unwrap();
    claim(&disk.device, false).unwrap();
    let error = disk.slot.facts().unwrap_err();
    assert_eq!(error.reason, Reason::DamagedFilesystem, "{error}");
    assert!(!error.remedy.is_empty());
}

#[test]
fn a_device_that_was_not_booted_is_found_by_its_path_and_never_by_its_label() {
    let _alone = alone();
    let Some(disk) = Disk::new(16, &[]) else { return };
    let label = format!("KS{}", &blob(disk.device.display().to_string().as_bytes()).digest.hex()[..10]);
    run(Command::new("tune2fs").args(["-L", &label]).arg(&disk.image));
    claim(&disk.device, false).unwrap();
    assert_eq!(filesystem_label(&mut File::open(&disk.device).unwrap()).unwrap().as_ref(), Some(&label));
    let by_label = Slot::locate(bootenv::SlotId::A, Some(&format!("LABEL={label}")), &System::default());
    // In the first 10 s after the first search the disk may still show up.
    let reason = by_label.unwrap_err().reason;
    assert!(matches!(reason, Reason::DeviceNotFound | Reason::DiskNotReady), "{reason:?}");
    let by_path = Slot::locate(bootenv::SlotId::A, disk.device.to_str(), &System::default()).unwrap();
    assert_eq!(by_path.place, Place::Device(disk.device.clone()));
}
