//! A data partition that others filled: a real ext4 on a loop device, without a block for root. Without root, or where there are
//! no loop devices, these tests say that they were skipped.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::alone;
use crate::cli_support::{Device, publish};
use crate::common::registry::Registry;

/// A device whose state and data are on a partition of their own, in the mount namespace of this thread.
struct FullDisk {
    device: Device,
    registry: Registry,
}

impl FullDisk {
    /// 4 MiB; slot B has release 1.0.0, on trial.
    fn new() -> Option<Self> {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            eprintln!("skipped: no right to mount");
            return None;
        }
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let (device, registry) = (Device::new(), Registry::start());
        let image = device.path("data.img");
        File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0"]).arg(&image).status().unwrap();
        assert!(made.success());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(device.path("S")).status().unwrap();
        if !mounted.success() {
            eprintln!("skipped: no loop device to be had");
            return None;
        }
        fs::create_dir(device.path("S/mounted")).unwrap();
        mount(Some(&device.path("S/mounted")), &device.path("data"), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        let disk = Self { device, registry };
        disk.device.here(&["healthcheck"]).code(0);
        publish(&disk.registry, "1.0.0", 1);
        disk.device.from(&disk.registry, &["apply", "--activate"]).code(0);
        disk.device.power_on();
        Some(disk)
    }

    /// Until the last block is gone.
    fn fill(&self) {
        let mut filler = File::create(self.device.path("S/filler")).unwrap();
        for size in [64 << 10, 1024] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
        filler.sync_all().unwrap();
        fs::write(self.device.path("S/more"), "x").unwrap_err();
    }

    fn free(&self) {
        fs::remove_file(self.device.path("S/filler")).unwrap();
        fs::remove_file(self.device.path("S/more")).unwrap();
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        for place in ["data", "S"] {
            let _ = umount(&self.device.path(place));
        }
    }
}

#[test]
fn a_healthy_trial_is_committed_on_a_full_partition_and_recorded_later() {
    let _alone = alone();
    let Some(disk) = FullDisk::new() else { return };
    disk.fill();
    let judged = disk.device.here(&["healthcheck", "--json"]).code(0);
    assert!(judged.stderr.contains("a later run writes the records"), "{judged:#?}");
    assert_eq!(judged.json()["outcome"], "committed");
    let env = disk.device.env();
    assert_eq!((env.success, env.good), (true, SlotId::B));
    assert_eq!(disk.device.phase(), "activated", "no block for another state");
    // Each boot until there is room again.
    disk.device.power_on();
    disk.device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    // A change of a slot or of the environment waits for its records.
    disk.device.from(&disk.registry, &["apply", "--json"]).refused(73, "state-no-space");
    disk.free();
    disk.device.here(&["healthcheck"]).code(0);
    assert_eq!((disk.device.phase().as_str(), &disk.device.state()["trial"]), ("success", &json!(null)));
}

#[test]
fn an_unhealthy_trial_is_reverted_on_a_full_partition_and_remembered_later() {
    let _alone = alone();
    let Some(disk) = FullDisk::new() else { return };
    disk.device.make_unhealthy();
    disk.fill();
    disk.device.here(&["healthcheck"]).code(1).says(&["failed run 1"]);
    disk.device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["slot B is reverted"]);
    assert_eq!((disk.device.env().active, disk.device.env().b), (SlotId::A, SlotState::Fail));
    disk.device.make_healthy();
    disk.device.power_on();
    disk.device.here(&["healthcheck"]).code(0);
    disk.free();
    disk.device.from(&disk.registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_run_that_finds_the_partition_full_and_no_probe_neither_reverts_nor_counts() {
    let _alone = alone();
    let Some(disk) = FullDisk::new() else { return };
    // As after 0.1, which kept no probe.
    fs::remove_file(disk.device.path("data/.health-probe")).unwrap();
    disk.fill();
    for _ in 0..3 {
        let before = (disk.device.env_bytes(), disk.device.state());
        let judged = disk.device.here(&["healthcheck", "--json", "--auto-rollback-after", "1"]).code(73).json();
        assert_eq!((&judged["healthy"], &judged["outcome"]), (&json!(false), &json!("waiting")));
        assert_eq!((&judged["checks"][0]["name"], &judged["checks"][0]["unknown"]), (&json!("data"), &json!(true)));
        assert_eq!((disk.device.env_bytes(), disk.device.state()), before);
        disk.device.power_on();
    }
    assert_eq!((disk.device.env().active, disk.device.env().b), (SlotId::A, SlotState::Fail));
    disk.free();
    disk.device.here(&["healthcheck"]).code(0);
    let error = disk.device.state()["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("was not judged") && error.contains("No space left"), "{error}");
    disk.device.from(&disk.registry, &["apply", "--activate"]).code(0).says(&["boots next"]);
}

#[test]
fn a_check_that_fails_counts_whatever_another_one_cannot_tell() {
    let _alone = alone();
    let Some(disk) = FullDisk::new() else { return };
    fs::remove_file(disk.device.path("data/.health-probe")).unwrap();
    disk.device.make_unhealthy();
    disk.fill();
    disk.device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["slot B is reverted"]);
}

#[test]
fn doctor_tells_of_a_partition_that_keeps_no_blocks_for_root() {
    let _alone = alone();
    let Some(disk) = FullDisk::new() else { return };
    let told = |verdict: &str, words: &str| {
        let findings = disk.device.here(&["doctor", "--json"]).json();
        let one = findings.as_array().unwrap().iter().find(|one| one["name"] == "data reserve").unwrap();
        assert_eq!(one["verdict"], verdict, "{one}");
        assert!(one["message"].as_str().unwrap().contains(words), "{one}");
    };
    told("warn", "tune2fs -m");
    let image = disk.device.path("data.img");
    for place in ["data", "S"] {
        umount(&disk.device.path(place)).unwrap();
    }
    assert!(Command::new("tune2fs").args(["-m", "5"]).arg(&image).status().unwrap().success());
    assert!(
        Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.device.path("S")).status().unwrap().success()
    );
    told("ok", "kept for root");
}
