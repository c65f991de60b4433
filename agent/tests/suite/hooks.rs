//! Hooks at the moments of an update, as the real program runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bootenv::SlotId;
use serde_json::{Value, json};

use crate::cli_support::{Device, publish};
use crate::common::registry::Registry;

const MOMENTS: [&str; 4] = ["pre-update", "pre-reboot", "post-commit", "post-revert"];

/// A device whose hooks write down each moment with its facts, and with an update that is activated unattended.
fn device() -> Device {
    let device = Device::new();
    device.write("conf", b"hooks_dir=hooks\nhook_timeout=2\nauto=activate\n");
    for moment in MOMENTS {
        fs::create_dir_all(device.path(&format!("hooks/{moment}.d"))).unwrap();
        let script = "read -r facts && echo \"$KUBESOLO_UPDATE_MOMENT,$KUBESOLO_UPDATE_STEP,$KUBESOLO_UPDATE_TO,\
                      $KUBESOLO_UPDATE_TRIAL\" >>moments && echo \"$facts\" >>facts; echo heard";
        device.script(&format!("hooks/{moment}.d/10-note"), script);
    }
    device
}

/// The moments that were written down since the last call, each with its step.
fn moments(device: &Device) -> Vec<String> {
    let text = fs::read_to_string(device.path("moments")).unwrap_or_default();
    let _ = fs::remove_file(device.path("moments"));
    text.lines().map(|line| line.split(',').take(2).collect::<Vec<_>>().join(" ").trim_end().to_owned()).collect()
}

/// The hooks in the evidence of the last attempt.
fn record(device: &Device) -> Vec<Value> {
    let name = device.names("S/records").pop().unwrap();
    let record: Value = serde_json::from_slice(&fs::read(device.path(&format!("S/records/{name}"))).unwrap()).unwrap();
    record["evidence"]["hooks"].as_array().cloned().unwrap_or_default()
}

#[test]
fn hooks_run_at_each_moment_of_an_update_that_is_committed() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["run"]).code(0);
    assert_eq!(moments(&device), ["pre-update stage", "pre-update activate", "pre-reboot trial"]);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(moments(&device), ["post-commit"]);
    device.here(&["healthcheck"]).code(0);
    assert_eq!(moments(&device), [""; 0], "once");

    let facts = fs::read_to_string(device.path("facts")).unwrap();
    let facts: Vec<Value> = facts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (facts, moment) in facts.iter().zip(["pre-update", "pre-update", "pre-reboot", "post-commit"]) {
        assert_eq!((&facts["moment"], &facts["to"]), (&json!(moment), &json!("1.0.0")));
        assert!(facts["digest"].as_str().unwrap().starts_with("sha256:"), "{facts}");
    }
    assert_eq!((&facts[2]["step"], &facts[2]["slot"]), (&json!("trial"), &json!("B")));
    assert_eq!(facts[2]["trial"], facts[3]["trial"]);
    let hook = |moment: &str| json!({"step": moment, "name": "10-note", "ended": "exit 0", "output": "heard"});
    assert_eq!(record(&device), ["pre-update", "pre-update", "pre-reboot", "post-commit"].map(hook));
}

#[test]
fn after_a_revert_hooks_run_in_the_slot_that_is_back() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    let activate = || {
        device.from(&registry, &["apply", "--activate", "--retry-failed"]).code(0);
        moments(&device);
    };
    // By the health run of the trial, then by the bootloader after three tries.
    activate();
    device.power_on();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert_eq!(moments(&device), ["pre-reboot revert"]);
    device.power_on();
    device.here(&["healthcheck"]).code(1);
    assert_eq!(moments(&device), [""; 0], "not before a healthy boot");
    fs::remove_file(device.path("health.d/10-node")).unwrap();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(moments(&device), ["post-revert"]);

    activate();
    while device.power_on().start.unwrap().slot == SlotId::B {}
    let ran = device.here(&["healthcheck"]).code(0);
    device.here(&["healthcheck"]).code(0);
    assert_eq!(moments(&device), ["post-revert"], "{ran:?}");
}

#[test]
fn a_hook_can_put_off_the_restart_into_a_trial_and_no_other() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    device.script("hooks/pre-reboot.d/20-drain", "echo pods leave; exit 75");
    let error = device.from(&registry, &["run", "--json"]).refused(75, "hook-later");
    assert!(error["message"].as_str().unwrap().contains("pre-reboot.d/20-drain says \"later\": pods leave"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("The release is activated"), "{error}");
    assert_eq!(device.env().active, SlotId::B);
    let skip = device.state()["last_skip"].clone();
    assert_eq!(skip["reason"], "hook-later", "{skip}");
    let attempt = device.here(&["history", "--last", "--json"]).code(0).json()["attempt"].clone();
    assert_eq!((&attempt["phase"], &attempt["findings"][0]["exit_code"]), (&json!("activated"), &json!(75)));
    assert_eq!(attempt["findings"][0]["reason"], "hook-later");
    moments(&device);
    device.from(&registry, &["run"]).code(75);
    assert_eq!(moments(&device), ["pre-reboot trial"], "the next run asks again");

    // One that fails or hangs holds nothing up.
    for script in ["exit 1", "sleep 60", "kill -9 $$"] {
        device.script("hooks/pre-reboot.d/20-drain", script);
        let ran = device.from(&registry, &["run"]).code(0);
        assert!(ran.stderr.contains("pre-reboot.d/20-drain: "), "{ran:?}");
    }
    assert_eq!(record(&device).last().unwrap()["ended"], "signal 9");
    device.power_on();
    device.make_unhealthy();
    device.script("hooks/pre-reboot.d/20-drain", "exit 75");
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert_eq!(device.env().active, SlotId::A);
}

#[test]
fn no_hook_undoes_a_verdict() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    for script in ["exit 1", "sleep 60"] {
        device.script("hooks/post-commit.d/10-note", script);
        device.from(&registry, &["apply", "--activate", "--allow-downgrade"]).code(0);
        device.power_on();
        let ran = device.here(&["healthcheck"]).code(0);
        assert_eq!(device.env().on_trial(), None);
        assert!(ran.stderr.contains("post-commit.d/10-note: "), "{ran:?}");
        publish(&registry, "2.0.0", 2);
    }
}

/// Each moment trusts files as the agent trusts its health checks.
#[test]
fn a_hook_that_others_can_write_does_not_run() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    for moment in &MOMENTS[1..] {
        let hook = device.path(&format!("hooks/{moment}.d/10-note"));
        fs::set_permissions(hook, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ran = device.from(&registry, &["run"]).code(0);
    assert!(ran.stderr.contains("writable by others"), "{ran:?}");
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(moments(&device), ["pre-update stage", "pre-update activate"]);
    assert_eq!(record(&device).last().unwrap()["ended"], "not started");
    fs::set_permissions(device.path("hooks/pre-update.d/10-note"), fs::Permissions::from_mode(0o777)).unwrap();
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--json"]).refused(77, "hook-refused");
}

#[test]
fn the_old_settings_of_hooks_win_for_theirs() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    device.write("conf", b"hooks_dir=hooks\npre_update_dir=own\npre_update_timeout=1\nauto=activate\n");
    fs::create_dir(device.path("own")).unwrap();
    device.script("own/10-wait", "sleep 60");
    let error = device.from(&registry, &["apply", "--json"]).refused(77, "hook-refused");
    assert!(error["message"].as_str().unwrap().contains("no answer within the 1 s"), "{error}");
    device.script("own/10-wait", "exit 0");
    device.from(&registry, &["run"]).code(0);
    assert_eq!(moments(&device), ["pre-reboot trial"]);
}
