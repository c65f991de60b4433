//! Trials that no health run can judge: the cause is the device's, and the release is tried once more.

use crate::{cli_support, common};

use std::fs::{self, File};

use bootenv::SlotId;
use bootenv::grub::Block;
use bootenv::protocol::{BootState, SlotState};
use cli_support::{Device, Ran, publish};
use common::registry::Registry;
use serde_json::{Value, json};

/// Why a health run cannot look.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// Another run has the lock.
    Lock,
    /// A line of the settings is wrong.
    Settings,
}

impl Cause {
    /// The message of a run that could not look.
    fn words(self) -> &'static str {
        match self {
            Self::Lock => "another kubesolo-update is running",
            Self::Settings => "not of the form key=value",
        }
    }

    /// A health run that cannot look, and may neither revert nor count.
    fn run(self, device: &Device) {
        let before = (device.env_bytes(), device.state());
        let words = ["healthcheck", "--json", "--auto-rollback-after", "1"];
        match self {
            Self::Lock => {
                let held = File::options().write(true).open(device.path("S/lock")).unwrap();
                device.wait_for_lock();
                held.lock().unwrap();
                device.here(&words).refused(75, "locked");
                held.unlock().unwrap();
            }
            Self::Settings => {
                device.write("conf", b"nonsense\n");
                device.here(&words).refused(78, "bad-config");
                fs::remove_file(device.path("conf")).unwrap();
            }
        }
        assert_eq!((device.env_bytes(), device.state()), before, "{self:?}");
    }

    /// All tries of a trial, and the first boot after it; what its health run says.
    fn tries(self, device: &Device) -> Ran {
        for _ in 0..3 {
            assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
            self.run(device);
        }
        back(device)
    }
}

/// The tries are over: slot A boots, and settles.
fn back(device: &Device) -> Ran {
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
    assert_eq!(device.env().b, SlotState::Fail);
    device.wait_for_lock();
    device.here(&["healthcheck"]).code(0)
}

fn activated(version: &str) -> (Registry, Device) {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, version, 1);
    device.here(&["healthcheck"]).code(0);
    device.from(&registry, &["apply", "--activate"]).code(0);
    (registry, device)
}

/// The end of the last trial, in `status`, in `state.json` and in the last entry of `history` alike.
fn outcome(device: &Device) -> Value {
    let status = device.here(&["status", "--json"]).code(0).json();
    let history = device.here(&["history", "--json"]).code(0).json();
    let last = history.as_array().unwrap().last().unwrap().clone();
    assert_eq!(status["outcome"], last["outcome"]);
    status["outcome"].clone()
}

#[test]
fn the_end_of_a_trial_is_a_word_until_the_next_attempt() {
    let (registry, device) = activated("1.0.0");
    assert_eq!(outcome(&device), Value::Null, "on trial");
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(outcome(&device), "committed");
    device.from(&registry, &["apply"]).code(0).says(&["nothing to do"]);
    assert_eq!(outcome(&device), "committed", "a run that finds nothing is no attempt");
    publish(&registry, "2.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!(outcome(&device), Value::Null);
    device.fails_its_trial_and_is_back();
    assert_eq!(outcome(&device), "failed");
    // The words of other versions are kept, and a file without any is that of version 0.1.
    let mut state = device.state();
    state["outcome"] = "of another version".into();
    device.write("S/state.json", state.to_string().as_bytes());
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["outcome"], "of another version");
    state.as_object_mut().unwrap().remove("outcome");
    device.write("S/state.json", state.to_string().as_bytes());
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["outcome"], Value::Null);
}

#[test]
fn a_trial_that_never_started_has_a_word_of_its_own() {
    let (_registry, device) = activated("1.0.0");
    // Somebody put another environment there: slot A starts, and nothing is marked.
    device.write("grubenv", Block::main(&BootState::committed(SlotId::A)).bytes());
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(outcome(&device), "not-started");
}

fn failed(device: &Device) -> Value {
    device.here(&["status", "--json"]).code(0).json()["failed"].clone()
}

#[test]
fn a_release_that_no_health_run_could_judge_is_tried_once_more() {
    for cause in [Cause::Lock, Cause::Settings] {
        let (registry, device) = activated("1.0.0");
        cause.tries(&device);
        let error = device.state()["last_error"].as_str().unwrap().to_owned();
        assert!(error.contains("the trial of 1.0.0 was not judged: ") && error.contains(cause.words()), "{error}");
        assert_eq!((device.phase().as_str(), failed(&device)), ("rolled_back", json!([])), "{cause:?}");
        device.here(&["history"]).code(0).says(&["rolled_back (not-judged)", "was not judged", cause.words()]);
        assert_eq!(outcome(&device), "not-judged");

        device.from(&registry, &["apply", "--activate"]).code(0).says(&["boots next"]);
        cause.tries(&device);
        let why = failed(&device)[0].as_str().unwrap().to_owned();
        assert!(why.contains("without a verdict, twice") && why.contains(cause.words()), "{why}");
        assert_eq!(outcome(&device), "failed");
        device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    }
}

#[test]
fn a_second_trial_is_judged_like_any_other() {
    let (registry, device) = activated("1.0.0");
    Cause::Lock.tries(&device);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    let memory: Value = serde_json::from_slice(&fs::read(device.path("S/memory.json")).unwrap()).unwrap();
    assert_eq!(memory, json!({"schema": 1, "not_judged": []}));

    let (registry, device) = activated("1.0.0");
    Cause::Lock.tries(&device);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.fails_its_trial();
    back(&device);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_run_that_looks_takes_back_that_one_could_not() {
    let (registry, device) = activated("1.0.0");
    device.power_on();
    Cause::Lock.run(&device);
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "0"]).code(1);
    device.make_healthy();
    // From then on nothing comes so far as a health run: that is the fault of the release.
    device.power_on();
    device.power_on();
    back(&device);
    assert!(failed(&device)[0].as_str().unwrap().contains("it started, and was not committed"));
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_trial_that_never_reached_its_health_check_failed_at_once() {
    let (registry, device) = activated("1.0.0");
    for _ in 0..3 {
        device.power_on();
    }
    back(&device);
    assert!(failed(&device)[0].as_str().unwrap().contains("never reached its health check"));
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_release_that_nobody_judged_has_not_failed_when_its_slot_is_written_over_or_the_state_is_lost() {
    let (registry, device) = activated("1.0.0");
    for _ in 0..3 {
        device.power_on();
        Cause::Settings.run(&device);
    }
    // The trial is known from the mark in the environment and the manifest in the slot.
    fs::remove_file(device.path("S/state.json")).unwrap();
    back(&device);
    assert_eq!(failed(&device), json!([]));
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply"]).code(0).says(&["2.0.0 is written into slot B"]);
    assert_eq!(failed(&device), json!([]));
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    // Its second trial.
    Cause::Settings.tries(&device);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_run_that_cannot_look_after_the_verdict_says_nothing() {
    let (registry, device) = activated("1.0.0");
    device.power_on();
    let copy = fs::read(device.path("S/state.json")).unwrap();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["slot B is reverted"]);
    device.make_healthy();
    Cause::Lock.run(&device);
    // As if the power had gone before the revert was recorded.
    device.write("S/state.json", &copy);
    fs::remove_file(device.path("S/trust.json")).unwrap();
    back(&device);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn what_a_person_rolled_back_is_not_taken_for_a_release_that_nobody_judged() {
    let (registry, device) = activated("1.0.0");
    device.power_on();
    Cause::Lock.run(&device);
    let copy = fs::read(device.path("S/state.json")).unwrap();
    device.here(&["rollback"]).code(0);
    // As if the power had gone right after the store.
    device.write("S/state.json", &copy);
    fs::remove_file(device.path("S/trust.json")).unwrap();
    back(&device);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}
