//! `records/ATTEMPT.json`: each attempt with its steps, who asked for it, its findings and its evidence.

use crate::{cli_support, common};

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cli_support::{Device, publish};
use common::registry::Registry;
use kubesolo_update::base::limits;
use kubesolo_update::state::records::{CheckRun, Evidence, Record};
use kubesolo_update::state::state::State;
use kubesolo_update::state::store::Store;
use kubesolo_update::update::records::LockedRecords;
use serde_json::{Value, json};

/// The last attempt.
fn last(device: &Device) -> Value {
    device.here(&["history", "--last", "--json"]).code(0).json()["attempt"].clone()
}

fn steps(attempt: &Value) -> Vec<&str> {
    attempt["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

/// The record of the last attempt as a file.
fn file_of(device: &Device) -> PathBuf {
    device.path("S/records").join(format!("{}.json", last(device)["id"].as_str().unwrap()))
}

/// A device whose 1.0.0 is committed, and the offer of 2.0.0.
fn committed() -> (Registry, Device) {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    publish(&registry, "2.0.0", 2);
    (registry, device)
}

/// 2.0.0 fails its trial by a check.
fn failed_trial(registry: &Registry, device: &Device) {
    device.from(registry, &["apply", "--activate"]).code(0);
    device.fails_its_trial();
}

#[test]
fn each_step_of_an_attempt_is_recorded_with_its_time_and_who_asked_for_it() {
    let (registry, device) = (Registry::start(), Device::new());
    assert_eq!(last(&device), Value::Null);
    assert_eq!(device.here(&["history", "--last"]).code(0).stdout, "no attempt yet\n");

    publish(&registry, "1.0.0", 1);
    device.write("conf", b"auto=stage\n");
    device.from(&registry, &["run"]).code(0);
    device.here(&["activate"]).code(0);
    device.power_on();
    for _ in 0..2 {
        device.here(&["healthcheck"]).code(0);
    }
    let attempt = last(&device);
    assert_eq!(steps(&attempt), ["applying", "staged", "activated", "health-checking", "succeeded"]);
    assert_eq!((&attempt["asked_by"], &attempt["to_version"]), (&json!("timer"), &json!("1.0.0")));
    let numbers: Vec<_> = attempt["steps"].as_array().unwrap().iter().map(|step| step["number"].as_u64()).collect();
    assert_eq!(numbers, (1..=5).map(Some).collect::<Vec<_>>());

    publish(&registry, "2.0.0", 2);
    failed_trial(&registry, &device);
    let expected = ["applying", "staged", "activated", "health-checking", "failed", "rollback-started"];
    assert_eq!(steps(&last(&device)), expected);
    device.power_on();
    for _ in 0..2 {
        device.here(&["healthcheck"]).code(0);
    }
    assert_eq!(steps(&last(&device)), [&expected[..], &["rolled-back"]].concat());
    assert_eq!(last(&device)["asked_by"], "console");
    let report = device.here(&["history", "--last"]).code(0).stdout;
    let said =
        ["failed: 2.0.0 failed its trial\n", "asked by:     console\n", "unhealthy: 10-node\n", "UTC  rolled-back\n"];
    said.iter().for_each(|words| assert!(report.contains(words), "{words:?} is not in {report}"));
}

#[test]
fn a_trial_that_the_bootloader_gave_up_has_its_steps_too() {
    let (registry, device) = committed();
    device.from(&registry, &["apply", "--activate"]).code(0);
    for _ in 0..4 {
        device.power_on();
    }
    device.here(&["healthcheck"]).code(0);
    let attempt = last(&device);
    assert_eq!(steps(&attempt), ["applying", "staged", "activated", "failed", "rollback-started", "rolled-back"]);
}

#[test]
fn a_rollback_is_an_attempt_that_ends_rolled_back_or_failed() {
    let (registry, device) = committed();
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["rollback"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(steps(&last(&device)), ["rollback-started", "activated", "health-checking", "rolled-back"]);
    assert_eq!(last(&device)["asked_by"], "console");
    device.here(&["history", "--last"]).code(0).says(&["rolled back: 1.0.0 is committed"]);

    device.here(&["rollback"]).code(0);
    device.fails_its_trial_and_is_back();
    assert_eq!(steps(&last(&device)), ["rollback-started", "activated", "health-checking", "rollback-failed"]);

    // An activation that is taken back before its first boot.
    publish(&registry, "3.0.0", 3);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.here(&["rollback"]).code(0);
    assert_eq!(steps(&last(&device)), ["applying", "staged", "activated", "rolled-back"]);
}

#[test]
fn an_attempt_that_fails_has_its_finding_with_code_reason_and_next_step() {
    let (registry, device) = (Registry::start(), Device::new());
    let address = registry.address.clone();
    drop(registry);
    for _ in 0..2 {
        device.from(&address, &["run"]).code(69);
    }
    assert_eq!(device.names("S/records").len(), 1, "attempts that fail alike have one record");
    let attempt = last(&device);
    assert_eq!(steps(&attempt), ["failed"]);
    let finding = &attempt["findings"][0];
    assert_eq!((&finding["exit_code"], &finding["reason"]), (&json!(69), &json!("unreachable")));
    device.here(&["history", "--last"]).code(0).says(&["finding:      69 unreachable: ", "times:        2 in a row"]);
}

#[test]
fn a_trial_that_fails_has_its_finding_with_code_reason_and_next_step() {
    let finding = |device: &Device| {
        let attempt = last(device);
        let all = attempt["findings"].as_array().unwrap().clone();
        assert_eq!(all.len(), 1, "{attempt}");
        all[0].clone()
    };
    let (registry, device) = committed();
    failed_trial(&registry, &device);
    let judged = finding(&device);
    assert_eq!((&judged["exit_code"], &judged["reason"]), (&json!(77), &json!("unhealthy")));
    assert_eq!(judged["message"], "2.0.0 failed its trial: unhealthy: 10-node");
    let shown =
        device.here(&["history", "--last"]).code(0).says(&["finding:      77 unhealthy: 2.0.0 failed its trial"]);
    assert_eq!(shown.stdout.matches("failed its trial: unhealthy").count(), 1, "said once: {}", shown.stdout);

    // Given up by the bootloader.
    device.power_on();
    device.from(&registry, &["apply", "--activate", "--retry-failed"]).code(0);
    for _ in 0..4 {
        device.power_on();
    }
    device.here(&["healthcheck"]).code(0);
    let gone = finding(&device);
    assert_eq!((&gone["exit_code"], &gone["reason"]), (&json!(77), &json!("trial-failed")));
    assert_eq!(gone["remedy"], "Publish a fixed release, or run `kubesolo-update apply --retry-failed`.");
}

#[test]
fn a_record_that_cannot_be_written_or_read_stops_nothing() {
    let (registry, device) = committed();
    let bytes = fs::read(file_of(&device)).unwrap();
    assert_eq!(fs::metadata(file_of(&device)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(device.path("S/records")).unwrap().permissions().mode() & 0o777, 0o700);
    // A record of a later version: words and members that this one does not know.
    let mut later: Value = serde_json::from_slice(&bytes).unwrap();
    later["asked_by"] = json!("satellite");
    later["steps"][0]["step"] = json!("warming-up");
    later["mood"] = json!({"good": true});
    fs::write(file_of(&device), later.to_string()).unwrap();
    device.here(&["history", "--last"]).code(0).says(&["asked by:     satellite", "warming-up"]);
    fs::write(file_of(&device), &bytes[1..]).unwrap();
    let ran = device.here(&["history", "--last"]).code(0);
    assert!(ran.stderr.contains("is damaged") && ran.stdout.contains("succeeded: 1.0.0 is committed"), "{ran:?}");

    fs::remove_dir_all(device.path("S/records")).unwrap();
    device.write("S/records", b"");
    failed_trial(&registry, &device);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["history"]).code(0).says(&["rolled_back 1.0.0 to 2.0.0"]);
    device.here(&["history", "--last"]).code(0).says(&["failed: 2.0.0 failed its trial"]);
}

/// A state whose current attempt has this id.
fn attempt(id: u32) -> State {
    let mut state = State::default();
    state.begin(format!("{id:08x}"), chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(id.into()));
    state
}

#[test]
fn the_number_of_records_their_size_and_their_evidence_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let mut records = LockedRecords::lock(&path).unwrap();
    let last = limits::RECORDS as u32 + 9;
    let id = |n: u32| format!("{n:08x}");
    for n in 0..=last {
        // JSON escapes these bytes: the texts are longer in the file.
        let noise = "\u{1b}[2J \"quoted\"\n".repeat(if n > last - 3 { 8_000 } else { 8 });
        if n == 1 {
            // A run was killed while it wrote.
            fs::write(folder.path().join("records/0000abcd.json.new"), b"{").unwrap();
        }
        records.state = attempt(n);
        records.record();
        records.add_evidence(&id(n), |evidence: &mut Evidence| {
            let run = || CheckRun { name: "10-node".into(), output: noise.clone(), ..CheckRun::default() };
            evidence.checks = vec![run(), run()];
            evidence.log = Some(noise.clone() + "the last line");
        });
    }
    let files: Vec<_> = fs::read_dir(folder.path().join("records")).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), limits::RECORDS);
    let sizes = files.iter().map(|file| file.metadata().unwrap().len());
    assert!(sizes.max().unwrap() <= limits::RECORD_BYTES as u64);
    let store = Store::new(&path);
    let of = |n: u32| store.read_record(&id(n)).unwrap();
    assert_eq!(of(9).map(|record: Record| record.entry.attempt.id), None, "the oldest is forgotten");
    let with: Vec<u32> = (10..=last).filter(|n| of(*n).unwrap().evidence.is_some()).collect();
    assert_eq!(with, (last + 1 - limits::EVIDENCES as u32..=last).collect::<Vec<_>>());
    assert!(of(last).unwrap().evidence.unwrap().log.unwrap().ends_with("the last line"), "the end of a text stays");
}

#[test]
fn the_id_of_a_state_that_others_wrote_names_no_file_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut records = LockedRecords::lock(&folder.path().join("S/state.json")).unwrap();
    for id in ["../../escaped", "../escaped", "", "a", "/etc/escaped"] {
        records.state = State::default();
        records.state.begin(id.into(), chrono::Utc::now());
        records.record();
    }
    assert!(!folder.path().join("S/records").exists());
    assert!(fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().file_name() == "S"));
}
