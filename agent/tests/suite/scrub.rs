//! Slots that rot where nobody reads them: the real program, on a device of folders.

use crate::{cli_support, common};

use std::fs;

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use cli_support::{Device, Ran, publish};
use common::registry::Registry;
use kubesolo_update::base::digest::Digest;
use serde_json::json;

const IMAGE: &str = "kubesolo-os.gz";

/// A device that runs 2.0.0 in slot A; slot B has 1.0.0, committed before.
struct Shelf {
    registry: Registry,
    device: Device,
    previous: Digest,
}

impl Shelf {
    fn new() -> Self {
        let (registry, device) = (Registry::start(), Device::new());
        let shelf = |version, salt| {
            let digest = publish(&registry, version, salt);
            device.write("conf", b"auto=activate\n");
            device.from(&registry, &["run"]).code(0);
            device.power_on();
            device.here(&["healthcheck"]).code(0).says(&["committed"]);
            digest
        };
        let previous = shelf("1.0.0", 1);
        shelf("2.0.0", 2);
        device.power_on();
        Self { registry, device, previous }
    }

    /// A flash cell lost a bit.
    fn rot(&self, slot: &str) {
        let path = self.device.path(slot).join(IMAGE);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// The image of the previous release is no longer at the source.
    fn withdraw_previous(&self) {
        let manifest: serde_json::Value =
            serde_json::from_slice(&self.registry.read("os", &self.previous.to_string())).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let _ = fs::remove_file(self.registry.blob_file(digest));
        }
    }

    /// An unattended run, long after the last time that the slots were read.
    fn months_later(&self, settings: &str) -> Ran {
        self.device.forget_scrub();
        self.run(settings)
    }

    /// A repair of slot B with this release was cut off.
    fn cut_off(&self, release: Digest) {
        let scrub = json!({"at": "2001-02-03T04:05:06Z", "refill": release.to_string()});
        self.device.remember(&json!({"schema": 1, "scrub": scrub}));
    }

    fn run(&self, settings: &str) -> Ran {
        self.device.write("conf", format!("{settings}\n").as_bytes());
        self.device.from(&self.registry, &["run"])
    }

    fn memory(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.device.path("S/memory.json")).unwrap()).unwrap()
    }

    /// Slot A runs, nothing is on trial, and slot B has this release, whole.
    fn is_whole(&self, version: &str) {
        let env = self.device.env();
        assert_eq!((env.active, env.good, env.success, env.b), (SlotId::A, SlotId::A, true, SlotState::Good));
        assert_eq!(self.device.version_in(SlotId::B).as_deref(), Some(version));
        let sums = "cd \"$0\" && sha256sum --quiet --check vmlinuz.sha256 kubesolo-os.gz.sha256";
        self.device.shell(sums, &self.device.path("B"));
        let scrub = &self.memory()["scrub"];
        assert!(scrub["fallback"].is_null() && scrub["refill"].is_null(), "{scrub}");
    }
}

#[track_caller]
fn warns(ran: &Ran, words: &[&str]) {
    words.iter().for_each(|word| assert!(ran.stderr.contains(word), "no \"{word}\" in {ran:#?}"));
}

#[test]
fn a_rotten_fallback_gets_its_release_again_and_can_be_rolled_back_to() {
    let shelf = Shelf::new();
    shelf.rot("B");
    warns(
        &shelf.months_later("").code(0),
        &["slot B, to which this device falls back, is damaged", "holds 1.0.0 again"],
    );
    shelf.is_whole("1.0.0");
    shelf.device.here(&["doctor"]).says(&["slots read", "and whole"]);

    // A whole slot stays untouched, and is not read before the next time.
    let before = (shelf.device.tree("B"), shelf.device.env_bytes(), shelf.memory());
    shelf.run("").code(0);
    assert_eq!((shelf.device.tree("B"), shelf.device.env_bytes(), shelf.memory()), before);
    shelf.months_later("").code(0);
    assert_eq!((shelf.device.tree("B"), shelf.device.env_bytes()), (before.0, before.1));

    shelf.device.here(&["rollback"]).code(0).says(&["1.0.0 in slot B boots next"]);
    shelf.device.power_on();
    shelf.device.here(&["healthcheck"]).code(0).says(&["committed"]);
}

#[test]
fn where_the_source_lost_the_release_the_running_one_is_copied() {
    let shelf = Shelf::new();
    shelf.withdraw_previous();
    shelf.rot("B");
    warns(&shelf.months_later("").code(0), &["gets a copy of the running release", "holds 2.0.0 again"]);
    shelf.is_whole("2.0.0");
    // No way back that is none.
    warns(&shelf.device.here(&["rollback"]).code(75), &["both slots hold the same release"]);

    // The device boots from it once its other slot rots as well.
    shelf.rot("A");
    assert_eq!(shelf.device.power_on().start.map(|start| start.slot), Some(SlotId::B));
    shelf.device.here(&["healthcheck"]).code(0).says(&["slot A is damaged; slot B is active now"]);
}

#[test]
fn a_source_that_is_gone_keeps_no_fallback_from_its_repair() {
    let Shelf { registry, device, previous } = Shelf::new();
    let nobody = registry.address.clone();
    drop(registry);
    let shelf = Shelf { registry: Registry::start(), device, previous };
    shelf.rot("B");
    shelf.device.forget_scrub();
    shelf.device.write("conf", b"");
    warns(&shelf.device.from(&nobody, &["run"]).code(69), &["holds 2.0.0 again"]);
    shelf.is_whole("2.0.0");
}

#[test]
fn a_rotten_running_slot_is_told_and_nothing_is_activated_or_copied() {
    let shelf = Shelf::new();
    let before = (shelf.device.tree("B"), shelf.device.env_bytes());
    shelf.rot("A");
    warns(&shelf.months_later("").code(0), &["slot A runs, and is damaged"]);
    assert_eq!((shelf.device.tree("B"), shelf.device.env_bytes()), before);
    shelf.device.here(&["doctor"]).says(&["the running slot was damaged"]);
    shelf.device.here(&["metrics"]).code(0).says(&["kubesolo_update_slot_damaged{slot=\"running\"} 1"]);
}

#[test]
fn where_both_slots_are_bad_the_fallback_comes_from_the_source() {
    // Its own release, and, where the source lost that, the one that runs.
    for (lost, version) in [(false, "1.0.0"), (true, "2.0.0")] {
        let shelf = Shelf::new();
        ["A", "B"].iter().for_each(|slot| shelf.rot(slot));
        if lost {
            shelf.withdraw_previous();
        }
        let running = shelf.device.tree("A");
        warns(&shelf.months_later("").code(0), &["slot A runs, and is damaged", &format!("holds {version} again")]);
        shelf.is_whole(version);
        assert_eq!(shelf.device.tree("A"), running);
        assert_eq!(shelf.device.power_on().start.map(|start| start.slot), Some(SlotId::B));
    }
}

#[test]
fn where_both_slots_are_bad_and_no_source_answers_nothing_changes_and_the_next_day_tries_again() {
    let Shelf { registry, device, previous } = Shelf::new();
    let nobody = Registry::start().address.clone();
    let shelf = Shelf { registry, device, previous };
    ["A", "B"].iter().for_each(|slot| shelf.rot(slot));
    let before = (shelf.device.tree("A"), shelf.device.tree("B"), shelf.device.env_bytes());
    let damage = |ran: &Ran| ran.stderr.contains("to which this device falls back, is damaged");
    shelf.device.forget_scrub();
    shelf.device.write("conf", b"");
    assert!(damage(&shelf.device.from(&nobody, &["run"]).code(69)));
    assert!(!damage(&shelf.run("").code(0)), "not at each run");
    assert_eq!((shelf.device.tree("A"), shelf.device.tree("B"), shelf.device.env_bytes()), before);

    let mut memory = shelf.memory();
    memory["scrub"]["at"] = json!(chrono::Utc::now() - chrono::TimeDelta::hours(25));
    shelf.device.remember(&memory);
    warns(&shelf.run("").code(0), &["holds 1.0.0 again"]);
    shelf.is_whole("1.0.0");
}

#[test]
fn nothing_is_read_outside_the_window_or_repaired_by_a_device_that_only_checks() {
    let shelf = Shelf::new();
    shelf.rot("B");
    let before = (shelf.device.tree("B"), shelf.device.env_bytes());
    shelf.months_later("scrub_days=0").code(0);
    assert_eq!(shelf.memory()["scrub"]["at"], "2001-02-03T04:05:06Z");
    shelf.months_later("auto=activate\nmaintenance_window=03:00-03:00").code(75);
    assert_eq!(shelf.memory()["scrub"]["at"], "2001-02-03T04:05:06Z");
    warns(&shelf.months_later("auto=check").code(0), &["auto=check permits no repair"]);
    assert_eq!((shelf.device.tree("B"), shelf.device.env_bytes()), before);
    assert!(shelf.memory()["scrub"]["fallback"].is_string());
}

#[test]
fn a_repair_that_was_cut_off_goes_on_at_the_next_run() {
    let shelf = Shelf::new();
    // Void, and half of it written.
    shelf.device.shell("cd \"$0\" && rm manifest.json *.sha256 && truncate -s 1000 vmlinuz", &shelf.device.path("B"));
    let void = shelf.device.env().invalidate(SlotId::A).unwrap();
    let lines: Vec<String> = void.variables().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    shelf.device.set_env(&lines.concat());
    shelf.cut_off(shelf.previous);
    warns(&shelf.run("").code(0), &["holds 2.0.0 again"]);
    shelf.is_whole("2.0.0");
}

#[test]
fn a_release_that_is_staged_after_a_repair_was_cut_off_stays() {
    let shelf = Shelf::new();
    publish(&shelf.registry, "3.0.0", 3);
    shelf.cut_off(shelf.previous);
    shelf.run("auto=stage").code(0);
    assert_eq!(shelf.device.version_in(SlotId::B).as_deref(), Some("3.0.0"));
    assert_eq!(shelf.device.env().b, SlotState::Void, "no release is good before its trial");
    assert!(shelf.memory()["scrub"]["refill"].is_null());
}
