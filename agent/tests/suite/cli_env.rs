//! A boot environment in a state that no run of ours left: damaged, or changed by another program.

use crate::{cli_support, common};

use std::fs;

use bootenv::SlotId;
use bootenv::grub::SIZE;
use bootenv::protocol::{BootState, SlotState};
use cli_support::{Device, publish};
use common::registry::Registry;

/// Runs the checks of a boot that may not be judged: the environment stays as it is, to the byte.
#[track_caller]
fn left_so(device: &Device, words: &[&str]) {
    let before = device.env_bytes();
    device.here(&["healthcheck"]).says(words);
    assert_eq!(device.env_bytes(), before);
}

#[test]
fn a_damaged_environment_is_rebuilt_after_a_healthy_boot_and_its_trial_has_failed() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.write("grubenv", &[0xa0; SIZE]);
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.fallback=env ks.proto=1\n");
    let before = device.env_bytes();
    device.from(&registry, &["apply", "--json"]).refused(78, "env-invalid");
    assert_eq!(device.env_bytes(), before);
    device.make_unhealthy();
    left_so(&device, &["the boot environment is damaged", "unhealthy: not rebuilt"]);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["rebuilt the damaged boot environment"]);
    assert_eq!((device.env().active, device.env().success, device.env().good), (SlotId::A, true, SlotId::A));
    // How that trial would have ended, nobody knows.
    let error = device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    assert!(error["message"].as_str().unwrap().contains("lost before a verdict"), "{error}");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
}

/// A device that runs 1.0.0 from slot B.
fn committed() -> Device {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    device
}

/// The same after another program made slot A the active one.
fn changed_by_another(lines: &str) -> Device {
    let device = committed();
    device.set_env(&format!("active_slot=A\nboot_success=1\nboot_counter=3\n{lines}"));
    device
}

#[test]
fn an_active_slot_of_another_program_is_given_up_only_if_the_bootloader_passed_it_over() {
    let ours = |device: &Device| {
        device.make_unhealthy();
        left_so(device, &["unhealthy: another program changed the boot environment"]);
        device.make_healthy();
        device.here(&["healthcheck"]).code(0).says(&["took over the boot environment, slot B committed"]);
        device.env()
    };
    // What it wrote is damaged since.
    let device = changed_by_another("");
    device.write("A/vmlinuz", b"something else");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    assert_eq!(ours(&device), BootState { a: SlotState::Void, ..BootState::committed(SlotId::B) });
    // It failed its trial before.
    let device =
        changed_by_another("ks_v=1\nks_a=fail\nks_b=good\nks_good=B\nks_trial=00000000\nks_seal=--\nks_end=1\n");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    assert_eq!(ours(&device).a, SlotState::Fail);
    // Nothing is wrong with it: why the other slot was booted, a person may know.
    let device = changed_by_another("");
    device.write("cmdline", b"panic=5 kubesolo.slot=B ks.trial=00000000 ks.proto=1\n");
    left_so(&device, &["another program changed the boot environment: "]);
}

#[test]
fn a_committed_slot_is_given_up_only_if_it_is_damaged_and_the_other_one_healthy() {
    let device = committed();
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
    left_so(&device, &["slot A runs in place of the active slot B"]);
    let complete = || device.here(&["status", "--json"]).code(0).json()["slots"][1]["complete"].clone();
    let hash_file = fs::read(device.path("B/vmlinuz.sha256")).unwrap();
    assert_eq!(complete(), true);
    fs::remove_file(device.path("B/vmlinuz.sha256")).unwrap();
    assert_eq!(complete(), false);
    device.write("B/vmlinuz.sha256", &hash_file);
    device.write("B/vmlinuz", b"rotten");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
    device.make_unhealthy();
    left_so(&device, &["slot A runs in place of the active slot B"]);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["slot B is damaged; slot A is active now"]);
    let env = device.env();
    assert_eq!((env.active, env.success, env.good, env.b), (SlotId::A, true, SlotId::A, SlotState::Void));
}
