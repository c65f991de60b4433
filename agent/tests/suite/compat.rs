//! Agent 0.1 may be in the other slot of a device: each agent reads what the other one writes, and means the same.
//! `tests/fixtures/0.1` has what 0.1 writes. The same with 0.1 itself takes its binary, so `make test-all` runs that.

mod matrix;

use crate::{cli_rpi, cli_support, cli_uboot};

use std::fs;
use std::path::{Path, PathBuf};

use bootenv::loader::{self, Kind};
use bootenv::protocol::{BootState, SlotState};
use bootenv::{SlotId, TrialId};
use cli_support::{Device, Ran};
use kubesolo_release::extras::Extras;
use kubesolo_release::registry::Access;
use kubesolo_release::{Metadata, Options};
use kubesolo_update::device::slot::SlotManifest;
use kubesolo_update::release::extras::AgentSettings;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::state::store::Store;
use kubesolo_update::trust::signature::Fingerprint;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::images;
use crate::common::nginx::Nginx;
use crate::common::registry::Registry;

/// Moments of a device with GRUB.
const MOMENTS: [&str; 10] = [
    "failed",
    "staged",
    "activated",
    "verifying",
    "success",
    "activated-again",
    "rolled-back",
    "refused",
    "not-started",
    "waiting",
];
/// Moments of a device with U-Boot, and of a Raspberry Pi.
const UBOOT: &str = "u-boot-activated";
const RASPBERRY_PI: &str = "raspberry-pi-activated";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// Copies the files of a folder, as far as they are there.
fn copy(from: &Path, names: &[&str], device: &Device, folder: &str) {
    for name in names {
        if let Ok(bytes) = fs::read(from.join(name)) {
            device.write(&format!("{folder}{name}"), &bytes);
        }
    }
}

/// A device as 0.1 left it.
fn device(moment: &str) -> Device {
    let (mut device, all, place) = (Device::new(), fixtures(), fixtures().join("moments").join(moment));
    copy(&all, &["conf", "version", "K.pem", "F.pem", "bundle.tar"], &device, "");
    copy(&place, &["state.json", "trust.json", "history.json"], &device, "S/");
    copy(&place, &["grubenv", "ksenv2", "env", "fw_env.config", "autoboot.txt", "cmdline"], &device, "");
    for line in fs::read_to_string(place.join("slots")).unwrap().lines() {
        let (slot, release) = line.split_once(' ').unwrap();
        for name in device.names(slot) {
            fs::remove_file(device.path(slot).join(name)).unwrap();
        }
        let files =
            ["vmlinuz", "vmlinuz.sha256", "kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "crc32.txt"];
        copy(&all.join("releases").join(release), &files, &device, &format!("{slot}/"));
    }
    let other = match moment {
        UBOOT => Some("uboot:fw_env.config"),
        RASPBERRY_PI => Some("rpi:."),
        _ => None,
    };
    if let Some(bootenv) = other {
        fs::remove_file(device.path("grubenv")).unwrap();
        device.bootenv = bootenv;
    }
    device
}

/// `new` says all that `old` says; it may say more.
fn includes(new: &Value, old: &Value) -> Result<(), String> {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => old.iter().try_for_each(|(name, value)| {
            let found = new.get(name).ok_or_else(|| format!("{name} is missing"))?;
            includes(found, value).map_err(|why| format!("{name}: {why}"))
        }),
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            new.iter().zip(old).try_for_each(|(new, old)| includes(new, old))
        }
        _ if new == old => Ok(()),
        _ => Err(format!("{new} in place of {old}")),
    }
}

fn store(device: &Device) -> Store {
    Store::new(&device.path("S/state.json"))
}

#[test]
fn every_file_of_0_1_is_read_and_kept_whole() {
    for moment in MOMENTS.iter().chain(&[UBOOT, RASPBERRY_PI]) {
        let (device, place) = (device(moment), fixtures().join("moments").join(moment));
        let lock = store(&device).lock().unwrap();
        let found = lock.load().unwrap();
        assert_eq!((found.warnings, found.state_lost), (vec![], false), "{moment}");
        let history = serde_json::to_value(store(&device).read_history().unwrap()).unwrap();
        includes(&history, &read_json(&place.join("history.json"))).unwrap_or_else(|e| panic!("{moment}: {e}"));
        lock.save_state(&found.state).unwrap();
        lock.save_trust(&found.trust).unwrap();
        for name in ["state.json", "trust.json"] {
            // A device that no release was committed on has no trust.json.
            if place.join(name).exists() {
                let (new, old) = (read_json(&device.path("S").join(name)), read_json(&place.join(name)));
                includes(&new, &old).unwrap_or_else(|e| panic!("{moment}, {name}: {e}"));
                assert_eq!(new["schema"], 1, "{moment}, {name}");
            }
        }
    }
    for release in ["1.0.0", "1.0.0-crc32", "2.0.0", "3.0.0"] {
        let bytes = fs::read(fixtures().join("releases").join(release).join("manifest.json")).unwrap();
        assert_eq!(SlotManifest::parse(&bytes).unwrap().encode(), bytes, "{release}");
    }
}

/// Texts for people may have better words by now; knowledge that was valid when 0.1 looked may have expired.
fn without_words(mut status: Value) -> Value {
    for name in ["agent", "freshness"] {
        status.as_object_mut().unwrap().remove(name);
    }
    for part in ["next_boot", "environment"] {
        for name in ["reason", "damage", "place"] {
            status[part].as_object_mut().unwrap().remove(name);
        }
    }
    status
}

fn status(device: &Device) -> Value {
    device.here(&["status", "--json"]).code(0).json()
}

#[test]
fn the_status_of_a_device_is_that_of_0_1() {
    for moment in MOMENTS.iter().chain(&[UBOOT, RASPBERRY_PI]) {
        let old = without_words(read_json(&fixtures().join("moments").join(moment).join("status.json")));
        includes(&without_words(status(&device(moment))), &old).unwrap_or_else(|e| panic!("{moment}: {e}"));
    }
}

#[test]
fn an_unknown_word_or_member_damages_no_file() {
    let device = device("waiting");
    for name in ["state.json", "trust.json", "history.json"] {
        let mut document = read_json(&device.path("S").join(name));
        unknown(&mut document);
        device.write(&format!("S/{name}"), document.to_string().as_bytes());
    }
    let lock = store(&device).lock().unwrap();
    let found = lock.load().unwrap();
    assert_eq!(found.warnings, Vec::<String>::new());
    store(&device).read_history().unwrap();
    lock.save_state(&found.state).unwrap();
    lock.save_trust(&found.trust).unwrap();
    drop(lock);
    device.wait_for_lock();
    // Words stay as they are, so that the agent that knows them finds them again.
    let kept = read_json(&device.path("S/state.json"));
    for (part, member) in
        [("last_run", "outcome"), ("last_run", "reason"), ("last_skip", "reason"), ("freshness", "reason")]
    {
        assert_eq!(kept[part][member], "of-tomorrow", "{part}.{member}");
    }
    assert_eq!(read_json(&device.path("S/trust.json"))["failed"][0]["reason"], "of-tomorrow");
    for command in [&["status"][..], &["history"], &["metrics"], &["healthcheck"]] {
        device.here(command).code(0);
    }
    assert!(device.names("S").iter().all(|name| !name.contains("damaged")), "{:?}", device.names("S"));
}

/// Every reason and outcome becomes one that nobody knows, and every object has a member more.
fn unknown(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match name.as_str() {
                    "reason" | "outcome" => *value = json!("of-tomorrow"),
                    _ => unknown(value),
                }
            }
            if members.contains_key("verdict") {
                members.insert("reason".into(), json!("of-tomorrow"));
            }
            members.insert("of_tomorrow".into(), json!({"schema": 2}));
        }
        Value::Array(values) => values.iter_mut().for_each(unknown),
        _ => {}
    }
}

#[test]
fn what_0_1_committed_and_heard_still_counts() {
    let trust = store(&device("waiting")).read().unwrap().trust;
    let key: Fingerprint =
        serde_json::from_value(json!("6a3803d5f059902a1c6dafbc9ba4729212f7caac08634cc3ae76b27529f03827")).unwrap();
    assert_eq!((trust.security_epoch, trust.serial("stable", &key)), (3, Some(11)));
    assert_eq!((trust.revoked_keys.len(), trust.failed.len()), (1, 1));
}

#[test]
fn a_trial_that_0_1_began_is_committed_with_what_0_1_noted() {
    for (moment, slot, version, epoch) in
        [("activated", SlotId::B, "1.0.0", 2), ("activated-again", SlotId::A, "2.0.0", 3)]
    {
        let device = device(moment);
        assert_eq!(device.power_on().start.unwrap().slot, slot);
        device.here(&["healthcheck"]).code(0).says(&["is committed"]);
        let status = status(&device);
        assert_eq!((&status["phase"], &status["booted"]["version"]), (&json!("success"), &json!(version)));
        assert_eq!((device.env().good, status["security_epoch"].as_u64()), (slot, Some(epoch)));
    }
}

#[test]
fn a_trial_that_0_1_began_is_reverted_and_remembered() {
    let device = device("activated-again");
    device.power_on();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    assert_eq!((device.phase().as_str(), device.env().a), ("rolled_back", SlotState::Fail));
    assert!(status(&device)["failed"][0].as_str().unwrap().starts_with("2.0.0 "));
}

/// `apply` of release 3.0.0.
fn apply(device: &Device, more: &[&str]) -> Ran {
    let all = [&device.local(&["apply", "--json"])[..], &["--bundle", "bundle.tar"], more].concat();
    device.run(&all)
}

#[test]
fn a_bundle_of_0_1_is_applied() {
    let device = device("success");
    apply(&device, &["--activate"]).code(0);
    assert_eq!(device.version_in(SlotId::A).as_deref(), Some("3.0.0"));
    assert_eq!(device.env().on_trial(), Some(SlotId::A));
}

#[test]
fn a_release_that_failed_under_0_1_is_not_installed_again() {
    for moment in ["rolled-back", "refused", "not-started"] {
        let device = device(moment);
        device.power_on();
        apply(&device, &[]).refused(75, "failed-before");
    }
}

#[test]
fn a_trial_that_0_1_began_under_u_boot_is_committed() {
    let device = device(UBOOT);
    assert_eq!(cli_uboot::power_on(&device).start.unwrap().slot, SlotId::B);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    let environment = &status(&device)["environment"];
    assert_eq!((&environment["kind"], &environment["good"]), (&json!("ours"), &json!("B")));
}

#[test]
fn a_trial_that_0_1_began_on_a_raspberry_pi_is_committed() {
    let device = device(RASPBERRY_PI);
    // The note of the agent before it asks the firmware for a try.
    let tried = BootState { counter: 0, ..cli_rpi::state(&device) };
    device.write("autoboot.txt", &bootenv::rpi::render(&tried));
    cli_rpi::boot(&device, SlotId::B);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    assert_eq!(cli_rpi::state(&device).good, SlotId::B);
}

#[test]
fn the_loader_files_of_0_1_are_known() {
    let read = |name: &str| fs::read(fixtures().join(name)).unwrap();
    assert_eq!(loader::kind(&read("loader/grub.cfg")), Kind::Ours);
    assert_eq!(loader::kind(&read("adopted/grub.cfg")), Kind::Switched);
    let script = read("loader/boot.scr");
    for word in ["kubesolo.slot=", "ks.trial=", "ks.fallback=", "ks.proto=1"] {
        assert!(script.windows(word.len()).any(|bytes| bytes == word.as_bytes()), "{word}");
    }
}

#[test]
fn a_device_that_0_1_adopted_goes_on() {
    let device = Device::new();
    let files = ["grub.cfg", "ksloader.sum", "ksbefore.cfg", "kernel-args.cfg", "grubenv", "ksenv2"];
    copy(&fixtures().join("adopted"), &files, &device, "");
    device.write("ksloader.cfg", &fs::read(fixtures().join("loader/grub.cfg")).unwrap());
    assert_eq!(device.env(), BootState::committed(SlotId::A));
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["adopt"]).code(0);
    assert_eq!(loader::kind(&fs::read(device.path("grub.cfg")).unwrap()), Kind::Staged);
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
}

/// Which agent makes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Old,
    New,
}

/// Both agents say the same of this device, and neither finds a damaged file.
fn both_mean_the_same(device: &mut Device, programs: &[PathBuf; 2], case: &str) {
    let [old, new] = programs.each_ref().map(|program| {
        device.program.clone_from(program);
        without_words(status(device))
    });
    includes(&new, &old).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(new["problems"], json!([]), "{case}");
    assert!(device.names("S").iter().all(|name| !name.contains("damaged")), "{case}: {:?}", device.names("S"));
}

/// An update from `success` on, each step by the given agent.
fn update([stage, activate, judge]: [By; 3], healthy: bool) {
    let case = format!("staged by {stage:?}, activated by {activate:?}, judged by {judge:?}, healthy: {healthy}");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/0.1/kubesolo-update");
    assert!(old.exists(), "0.1 is not built: call build/scripts/agent-0.1.sh");
    let programs = [old, Device::new().program.clone()];
    let mut device = device("success");
    let by = |device: &mut Device, agent: By| device.program.clone_from(&programs[agent as usize]);

    by(&mut device, stage);
    apply(&device, &[]).code(0);
    both_mean_the_same(&mut device, &programs, &case);
    by(&mut device, activate);
    device.here(&["activate"]).code(0);
    both_mean_the_same(&mut device, &programs, &case);
    assert_ne!(device.env().trial, TrialId::NONE, "{case}");
    device.power_on();
    if !healthy {
        device.make_unhealthy();
    }
    by(&mut device, judge);
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(i32::from(!healthy));
    both_mean_the_same(&mut device, &programs, &case);
    let start = device.power_on().start.unwrap();
    assert_eq!((start.slot, start.fallback), (if healthy { SlotId::A } else { SlotId::B }, None), "{case}");

    // The agent in the other slot, and the one that comes after it.
    for agent in [By::Old, By::New, By::Old] {
        by(&mut device, agent);
        if healthy {
            device.here(&["healthcheck"]).code(0);
            let ran = apply(&device, &[]).code(0).json();
            assert_eq!(ran["outcome"], "up-to-date", "{case}, {agent:?}");
        } else {
            apply(&device, &[]).refused(75, "failed-before");
        }
        both_mean_the_same(&mut device, &programs, &case);
    }
}

#[test]
#[ignore = "takes the binary of 0.1: `make test-all` builds it and runs this"]
fn each_agent_goes_on_where_the_other_one_stopped() {
    for healthy in [true, false] {
        for steps in 0..8 {
            let by = |step: u8| if steps & 1 << step == 0 { By::Old } else { By::New };
            update([by(0), by(1), by(2)], healthy);
        }
    }
}

#[test]
#[ignore = "takes the binary of 0.1: `make test-all` builds it and runs this"]
fn a_rollback_of_either_agent_is_understood_by_the_other() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/0.1/kubesolo-update");
    let programs = [old, Device::new().program.clone()];
    for (first, second) in [(0, 1), (1, 0)] {
        let mut device = device("activated-again");
        device.power_on();
        device.program.clone_from(&programs[first]);
        device.here(&["healthcheck"]).code(0);
        device.program.clone_from(&programs[second]);
        // Under a lower security epoch nobody goes back.
        device.here(&["rollback", "--json"]).refused(77, "security-epoch");
        both_mean_the_same(&mut device, &programs, "refused");
    }
}

/// Index of pieces, and patches from eight releases: 11 layers. The one that 0.1 takes also has kernel arguments, a need that 0.1
/// does not have, and the settings of its agent: 0.1 ignores them.
#[test]
#[ignore = "takes the binary of 0.1: `make test-all` builds it and runs this"]
fn a_release_with_all_of_a_delta_is_a_whole_image_for_0_1_and_a_source_for_the_next_agent() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/0.1/kubesolo-update");
    assert!(old.exists(), "0.1 is not built: call build/scripts/agent-0.1.sh");
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let www = folder.path().join("www");
    let image = |version: usize| {
        let mut init = images::noise(1, 400_000);
        init[100_000 + 10 * version] ^= 1;
        images::repacked(&init)
    };
    let release = |version: usize, from: std::ops::Range<usize>| {
        let files = images::files(folder.path(), Architecture::current(), 1);
        fs::write(&files.initramfs, image(version)).unwrap();
        let (tag, files, key) = (format!("v{version}.0.0"), [files], [cli_support::key(1)]);
        let access = || Access { plain_http: vec![registry.address.clone()], ..Access::default() };
        let extras = Extras {
            kernel_args: Some("quiet".parse().unwrap()),
            requires: ["loader-99".into()].into(),
            agent_settings: Some(AgentSettings::own()),
            ..Extras::default()
        };
        let extras = if version == 9 { extras } else { Extras::default() };
        let metadata = Metadata { extras, ..Metadata::new(tag[1..].parse().unwrap(), "stable") };
        let delta_from: Vec<_> = from.map(|from| format!("{}/os:v{from}.0.0", registry.address)).collect();
        let own =
            kubesolo_release::http::Options { delta_from: delta_from.clone(), access: access(), ..Default::default() };
        kubesolo_release::http::publish(&www, &metadata, &files, &key, &own).unwrap();
        let own = Options { access: access(), also_tags: vec![tag], delta_from, ..Options::default() };
        kubesolo_release::release(&format!("{}/os:stable", registry.address), &metadata, &files, &key, &own).unwrap();
    };
    (0..8).for_each(|version| release(version + 1, 0..0));
    release(9, 1..9);
    let bundle = folder.path().join("9.tar");
    let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
    kubesolo_release::bundle::bundle(&format!("{}/os:stable", registry.address), &bundle, None, &access).unwrap();
    std::os::unix::fs::symlink(Architecture::current().to_string(), www.join("os")).unwrap();
    let server = Nginx::start(&www, "");

    let mut devices = [(); 3].map(|()| Device::new());
    devices.iter_mut().for_each(|device| device.program.clone_from(&old));
    devices[0].from(&registry, &["apply", "--activate"]).code(0);
    devices[1].over_http(&server, &["apply", "--activate"]).code(0);
    let from_bundle =
        [&devices[2].local(&["apply", "--activate"])[..], &["--bundle", bundle.to_str().unwrap()]].concat();
    devices[2].run(&[&from_bundle[..], &["--pubkey", "K"]].concat()).code(0);
    release(10, 1..9);
    for mut device in devices {
        assert!(fs::read(device.path("B/kubesolo-os.gz")).unwrap() == image(9));
        device.power_on();
        device.here(&["healthcheck"]).code(0);
        // The agent of the image that 0.1 installed.
        device.program = Device::new().program.clone();
        let report = device.from(&registry, &["apply", "--json"]).code(0).json();
        assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == image(10));
        let fetched = report["bytes_fetched"].as_u64().unwrap();
        assert!(fetched < image(10).len() as u64 / 2, "{report}");
    }
}
