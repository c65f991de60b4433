//! Releases that a device accepts, and those that it never accepts again: m of n keys, revoked keys, security epochs.
//! The real program, a real registry.

use crate::{cli_support, common};

use std::fs;
use std::process::Command;

use bootenv::SlotId;
use bootenv::grub::Block;
use bootenv::protocol::{Booted, SlotState};
use cli_support::{Device, Ran, key};
use common::images;
use common::registry::Registry;
use kubesolo_release::key::PublicFormat;
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Metadata, Options};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::trust::signature::Fingerprint;
use serde_json::Value;
use tempfile::TempDir;

/// A device whose settings name the folder `keys` with these keys, and `more`.
fn device(keys: &[u8], more: &str) -> Device {
    let device = Device::new();
    give(&device, "keys", keys);
    device.write("conf", format!("pubkey=keys\n{more}").as_bytes());
    device
}

/// Makes the folder the public keys of these, and no others.
fn give(device: &Device, folder: &str, keys: &[u8]) {
    let _ = fs::remove_dir_all(device.path(folder));
    fs::create_dir(device.path(folder)).unwrap();
    for seed in keys {
        device.write(&format!("{folder}/{seed}.pub"), key(*seed).public_text(PublicFormat::Pem).unwrap().as_bytes());
    }
}

fn fingerprint(seed: u8) -> Fingerprint {
    let hex = key(seed).public_text(PublicFormat::Hex).unwrap();
    Fingerprint::of(&hex::decode(hex.trim()).unwrap().try_into().unwrap())
}

struct Release<'a> {
    version: &'a str,
    epoch: Option<u64>,
    revokes: &'a [u8],
    by: &'a [u8],
}

impl<'a> Release<'a> {
    fn new(version: &'a str, by: &'a [u8]) -> Self {
        Self { version, epoch: None, revokes: &[], by }
    }

    fn epoch(self, epoch: u64) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    fn revoking(self, revokes: &'a [u8]) -> Self {
        Self { revokes, ..self }
    }

    /// As `os:stable`. The images of each version differ.
    fn publish(self, registry: &Registry) -> Digest {
        let folder = TempDir::new().unwrap();
        let salt = Digest::of(self.version.as_bytes()).0[0];
        let images = images::files(folder.path(), Architecture::current(), salt);
        let mut metadata = Metadata::new(self.version.parse().unwrap(), "stable");
        metadata.security_epoch = self.epoch;
        metadata.revoked_keys = self.revokes.iter().map(|seed| fingerprint(*seed)).collect();
        let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
        let keys: Vec<_> = self.by.iter().map(|seed| key(*seed)).collect();
        let reference = format!("{}/os:stable", registry.address);
        // Devices must refuse on their own.
        let options = Options { access, replace: true, ..Options::default() };
        publisher::release(&reference, &metadata, &[images], &keys, &options).unwrap().manifests[0].1
    }
}

fn apply(device: &Device, registry: &Registry, more: &[&'static str]) -> Ran {
    device.run(&device.asking(registry, &[&["apply", "--json"], more].concat()))
}

fn healthcheck(device: &Device) -> Ran {
    device.run(&device.local(&["healthcheck", "--json", "--data-dir", "data", "--health-dir", "health.d"]))
}

/// Applies, activates and commits what is on offer.
fn install(device: &Device, registry: &Registry) {
    apply(device, registry, &["--activate"]).code(0);
    device.power_on();
    assert_eq!(healthcheck(device).code(0).json()["outcome"], "committed");
}

fn rolled_back(device: &Device) {
    device.run(&device.local(&["rollback"])).code(0).says(&["boots next, on trial"]);
    device.power_on();
    assert_eq!(healthcheck(device).code(0).json()["outcome"], "committed");
}

fn trust(device: &Device) -> Value {
    serde_json::from_slice(&fs::read(device.path("S/trust.json")).unwrap()).unwrap()
}

/// The refusal left slots and boot environment as they were.
#[track_caller]
fn refused(device: &Device, run: impl FnOnce() -> Ran, code: i32, reason: &str) -> Value {
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let error = run().refused(code, reason);
    assert!((device.tree("A"), device.tree("B"), device.env_bytes()) == before);
    error
}

#[test]
fn a_release_takes_signatures_by_as_many_keys_as_the_threshold_says() {
    let (registry, device) = (Registry::start(), device(&[1, 2, 3], "signature_threshold=2\n"));
    for (by, reason) in
        [(&[][..], "signature-missing"), (&[9, 8], "signature-unknown-key"), (&[2], "signatures-too-few")]
    {
        Release::new("1.0.0", by).publish(&registry);
        refused(&device, || apply(&device, &registry, &["--force", "--allow-downgrade"]), 77, reason);
    }
    Release::new("2.0.0", &[3, 9, 1]).publish(&registry);
    install(&device, &registry);
    give(&device, "keys", &[1]);
    let error = refused(&device, || apply(&device, &registry, &[]), 78, "too-few-keys");
    assert!(error["message"].as_str().unwrap().contains("signature_threshold=2"));
}

#[test]
fn what_is_staged_is_measured_again_when_it_is_activated() {
    let (registry, device) = (Registry::start(), device(&[1, 2], ""));
    Release::new("1.0.0", &[1]).epoch(4).publish(&registry);
    apply(&device, &registry, &[]).code(0);
    let activate = || device.run(&device.local(&["activate", "--json", "--allow-downgrade"]));
    let with = |trust: String| {
        device.write("S/trust.json", trust.as_bytes());
        activate()
    };
    let revoked = |seed| format!("{{\"schema\":1,\"revoked_keys\":[\"{}\"]}}", fingerprint(seed));
    refused(&device, || with("{\"schema\":1,\"security_epoch\":5}".into()), 77, "security-epoch");
    refused(&device, || with(revoked(1)), 77, "signature-revoked-key");
    with(revoked(2)).code(0);
}

#[test]
fn signatures_that_were_added_since_are_looked_for() {
    let (registry, device) = (Registry::start(), device(&[1, 2], ""));
    Release::new("1.0.0", &[1]).publish(&registry);
    apply(&device, &registry, &[]).code(0);
    // The slot has what is on offer, and not what it takes from now on.
    give(&device, "keys", &[2]);
    refused(&device, || apply(&device, &registry, &[]), 77, "signature-unknown-key");
    Release::new("1.0.0", &[2]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
}

#[test]
fn no_command_goes_below_a_committed_epoch() {
    let (registry, device) = (Registry::start(), device(&[1], ""));
    Release::new("1.0.0", &[1]).epoch(2).publish(&registry);
    install(&device, &registry);
    assert_eq!(trust(&device)["security_epoch"], 2);
    Release::new("2.0.0", &[1]).epoch(3).publish(&registry);
    install(&device, &registry);
    assert_eq!(trust(&device)["security_epoch"], 3);
    Release::new("3.0.0", &[1]).epoch(2).publish(&registry);
    let all = ["--force", "--allow-downgrade", "--retry-failed"];
    let gate = || {
        let check = device.run(&device.asking(&registry, &["check", "--json"])).code(0).json();
        check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "security-epoch").unwrap()["open"].clone()
    };
    // Even if the record of the commit is lost: the slot that runs says it too.
    for lost in [false, true] {
        for _ in 0..2 {
            refused(&device, || apply(&device, &registry, &all), 77, "security-epoch");
            let error = refused(&device, || device.run(&device.local(&["rollback", "--json"])), 77, "security-epoch");
            assert!(error["message"].as_str().unwrap().contains("epoch 2, and this device committed 3"));
            assert_eq!(gate(), false);
            if lost {
                fs::remove_file(device.path("S/trust.json")).unwrap();
            }
        }
    }
    Release::new("3.1.0", &[1]).epoch(3).publish(&registry);
    assert_eq!(gate(), true);
    install(&device, &registry);
    // Nor where another program says which slot is good.
    fs::remove_file(device.path("S/trust.json")).unwrap();
    device.set_env(&format!("active_slot={}\nboot_success=1\nboot_counter=3\n", device.env().active));
    Release::new("4.0.0", &[1]).epoch(2).publish(&registry);
    refused(&device, || apply(&device, &registry, &all), 77, "security-epoch");
}

#[test]
fn an_epoch_goes_up_by_a_thousand_at_most_from_the_highest_that_the_device_knows() {
    let (registry, device) = (Registry::start(), device(&[1], ""));
    let offer = |version, epoch| Release::new(version, &[1]).epoch(epoch).publish(&registry);
    let refused_above = |known: u64| {
        for lifted in [&["--force", "--allow-downgrade", "--retry-failed"][..], &[]] {
            let error = refused(&device, || apply(&device, &registry, lifted), 77, "epoch-jump");
            let remedy = error["remedy"].as_str().unwrap();
            assert!(remedy.contains(&format!("up to {} first", known + 1000)), "{remedy}");
        }
    };
    // A device that knows no epoch takes any: its factory's slot names none.
    offer("1.0.0", 5000);
    install(&device, &registry);
    offer("2.0.0", 6001);
    refused_above(5000);
    offer("2.0.0", u64::MAX);
    refused_above(5000);
    // A lost file does not make it forget.
    fs::remove_file(device.path("S/trust.json")).unwrap();
    refused_above(5000);
    offer("2.0.0", 6000);
    install(&device, &registry);
    // Nor does a slot without a manifest.
    fs::remove_file(device.path("B/manifest.json")).unwrap();
    offer("3.0.0", 7001);
    refused_above(6000);
    // A slot that an agent without this rule staged is not activated; it does not vouch for itself.
    device.write("S/trust.json", b"{\"schema\":1,\"security_epoch\":6500}");
    offer("3.0.0", 7500);
    apply(&device, &registry, &["--allow-downgrade"]).code(0);
    device.write("S/trust.json", b"{\"schema\":1,\"security_epoch\":6400}");
    refused(&device, || device.run(&device.local(&["activate", "--json", "--allow-downgrade"])), 77, "epoch-jump");
}

#[test]
fn an_epoch_counts_once_its_release_is_committed_and_the_fallback_below_it_is_told() {
    let (registry, device) = (Registry::start(), device(&[1], ""));
    Release::new("1.0.0", &[1]).epoch(1).publish(&registry);
    install(&device, &registry);
    Release::new("2.0.0", &[1]).epoch(9).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    // A release that waits for its trial is checked again, and counts for nothing yet.
    device.run(&device.local(&["activate"])).code(0);
    assert_eq!(trust(&device)["security_epoch"], 1);
    device.power_on();
    device.run(&device.local(&["rollback"])).code(0);
    assert_eq!(trust(&device)["security_epoch"], 1, "it was never committed");
    device.power_on();

    Release::new("3.0.0", &[1]).epoch(9).publish(&registry);
    install(&device, &registry);
    let status = || device.run(&device.local(&["status", "--json"])).code(0).json();
    assert_eq!((&status()["security_epoch"], &status()["below_security_epoch"]), (&9.into(), &false.into()));
    // Its kernel rots: the bootloader starts the older release, which nobody could have installed.
    let running = device.env().active;
    device.write(&format!("{running}/vmlinuz"), b"rotten");
    assert_ne!(device.power_on().start.unwrap().slot, running);
    assert_eq!((&status()["security_epoch"], &status()["below_security_epoch"]), (&9.into(), &true.into()));
    device.run(&device.local(&["status"])).code(0).says(&["below the committed security epoch 9"]);
    device.run(&device.local(&["verify"])).says(&["1.0.0, below security epoch 9, signed by"]);
}

#[test]
fn a_revoked_key_is_worth_nothing_whatever_is_lost_or_rolled_back() {
    let (registry, device) = (Registry::start(), device(&[1, 2], ""));
    Release::new("1.0.0", &[1]).publish(&registry);
    install(&device, &registry);
    Release::new("2.0.0", &[1, 2]).revoking(&[1]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    assert!(!device.path("S/trust.json").exists(), "it counts once it is committed");
    device.power_on();
    healthcheck(&device).code(0);
    assert_eq!(trust(&device)["revoked_keys"][0], fingerprint(1).to_string());

    Release::new("3.0.0", &[1]).publish(&registry);
    let still = || refused(&device, || apply(&device, &registry, &["--force"]), 77, "signature-revoked-key");
    still();
    fs::remove_file(device.path("S/trust.json")).unwrap();
    still();
    assert_eq!(trust(&device)["revoked_keys"][0], fingerprint(1).to_string(), "read from the slot again, and kept");
    fs::remove_file(device.path("S/trust.json")).unwrap();
    rolled_back(&device);
    assert_eq!(device.version_in(device.env().active).as_deref(), Some("1.0.0"));
    still();
    let status = device.run(&device.local(&["status", "--json"])).code(0).json();
    assert_eq!(status["revoked_keys"][0], key(1).id().to_string());
    Release::new("3.1.0", &[1, 2]).publish(&registry);
    install(&device, &registry);
}

#[test]
fn nothing_is_raised_by_what_nobody_vouches_for() {
    let (registry, device) = (Registry::start(), Device::new());
    device.write("conf", b"allow_unsigned=yes\n");
    Release::new("1.0.0", &[]).epoch(7).revoking(&[1, 2]).publish(&registry);
    install(&device, &registry);
    Release::new("1.1.0", &[]).publish(&registry);
    apply(&device, &registry, &[]).code(0);
    give(&device, "keys", &[1]);
    device.write("conf", b"pubkey=keys\n");
    Release::new("2.0.0", &[1]).publish(&registry);
    apply(&device, &registry, &[]).code(0);
}

#[test]
fn a_commit_that_would_leave_too_few_keys_reverts() {
    let (registry, device) = (Registry::start(), device(&[1, 2], "signature_threshold=2\n"));
    Release::new("1.0.0", &[1, 2]).publish(&registry);
    install(&device, &registry);
    let good = device.env().active;
    Release::new("2.0.0", &[1, 2]).revoking(&[1]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    device.power_on();
    let judged = healthcheck(&device).code(1).json();
    assert_eq!((&judged["outcome"], &judged["healthy"]), (&"reverted".into(), &false.into()));
    assert!(judged["message"].as_str().unwrap().contains("1 of 2 keys"), "{judged}");
    let env = device.env();
    assert_eq!((env.active, env.success, env.slot(good.other())), (good, true, SlotState::Fail));
    assert!(trust(&device).get("revoked_keys").is_none());
    assert_eq!(device.phase(), "rolled_back");
    device.power_on();
    refused(&device, || apply(&device, &registry, &[]), 75, "failed-before");
    // The same with the note of the trial lost: the slot says which keys it revokes.
    Release::new("2.1.0", &[1, 2]).revoking(&[2]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    fs::remove_file(device.path("S/state.json")).unwrap();
    device.power_on();
    assert_eq!(healthcheck(&device).code(1).json()["outcome"], "reverted");
    device.power_on();
    Release::new("2.2.0", &[1, 2]).publish(&registry);
    install(&device, &registry);
}

#[test]
fn a_release_that_revokes_more_keys_than_are_remembered_is_not_committed() {
    let (registry, device) = (Registry::start(), device(&[1], ""));
    let remembered = |n: usize| {
        let names: Vec<String> = (0..n).map(|n| format!("\"{}\"", Digest::of(&n.to_be_bytes()).hex())).collect();
        device.write("S/trust.json", format!("{{\"schema\":1,\"revoked_keys\":[{}]}}", names.join(",")).as_bytes());
    };
    for (before, outcome) in [(1024, "reverted"), (1023, "committed")] {
        remembered(before);
        Release::new(&format!("1.{before}.0"), &[1]).revoking(&[9]).publish(&registry);
        apply(&device, &registry, &["--activate", "--allow-downgrade"]).code(0);
        device.power_on();
        assert_eq!(healthcheck(&device).json()["outcome"], outcome);
        assert_eq!(trust(&device)["revoked_keys"].as_array().unwrap().len(), 1024);
        device.power_on();
    }
}

#[test]
fn a_commit_that_was_cut_off_before_it_was_noted_is_noted_at_the_next_run() {
    let (registry, device) = (Registry::start(), device(&[1, 2], ""));
    Release::new("1.0.0", &[1]).epoch(4).revoking(&[2]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    let trial = device.power_on().start.unwrap();
    // The store of the commit, and then the power went.
    let booted = Booted { slot: trial.slot, trial: trial.trial, fallback: None };
    let committed = device.env().commit(booted).unwrap().variables();
    let block = Block::parse(&device.env_bytes()).unwrap().with(&committed).unwrap();
    device.write("grubenv", block.bytes());
    assert!(!device.path("S/trust.json").exists());
    // The key that signed the release is not even known any more.
    give(&device, "keys", &[3]);
    healthcheck(&device).code(0);
    assert_eq!(trust(&device)["security_epoch"], 4);
    assert_eq!(trust(&device)["revoked_keys"][0], fingerprint(2).to_string());
}

#[test]
fn no_password_of_settings_or_environment_is_shown() {
    let device = Device::new();
    let secret = "hunter2";
    let shown = |settings: &str, arguments: &[&str]| {
        device.write("conf", settings.as_bytes());
        let mut command = device.command(&device.local(arguments));
        for name in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"] {
            command.env(name, format!("http://admin:{secret}@127.0.0.1:9"));
        }
        let ran = Ran::from(command.output().unwrap());
        assert_ne!(ran.code, Some(0), "{settings}: {ran:?}");
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains(secret) && !text.contains("admin"), "{settings} {arguments:?}: {ran:?}");
        }
    };
    for settings in [
        "server=https://admin:hunter2@host.example/os",
        "server=ftp://admin:hunter2@host.example/os",
        "server=admin:hunter2@host.example/os",
        "registry=https://admin:hunter2@host.example/os",
        "registry=admin:hunter2@host.example/os:tag",
        "plain_http=admin:hunter2@host.example:80",
        "https://admin:hunter2@host.example/os",
        "registry=host.invalid/os",
        "server=https://host.invalid/os",
        "bootenv=http://admin:hunter2@host",
    ] {
        for arguments in [&["check", "--json", "-vvvv"][..], &["apply", "-v"], &["doctor"]] {
            shown(settings, arguments);
        }
    }
    for flag in ["--server", "--registry"] {
        shown("", &["check", "-vvvv", flag, "https://admin:hunter2@host.invalid/os"]);
    }
}

#[test]
fn programs_that_others_may_write_are_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let device = device(&[1], "pre_update_dir=hooks\n");
    let registry = Registry::start();
    Release::new("1.0.0", &[1]).publish(&registry);
    fs::create_dir(device.path("hooks")).unwrap();
    for folder in ["hooks", "health.d"] {
        device.write(&format!("{folder}/10-x"), b"#!/bin/sh\ntouch ran\n");
        fs::set_permissions(device.path(&format!("{folder}/10-x")), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let error = apply(&device, &registry, &[]).refused(77, "hook-refused");
    assert!(error["message"].as_str().unwrap().contains("chmod go-w"), "{error}");
    let checked = healthcheck(&device).code(1).json();
    assert!(checked["checks"][1]["message"].as_str().unwrap().contains("writable by others"), "{checked}");
    assert!(!device.path("ran").exists());
}

#[test]
fn keys_that_cannot_be_read_are_a_failed_check_and_no_reason_to_revert_at_once() {
    let (registry, device) = (Registry::start(), device(&[1], ""));
    Release::new("1.0.0", &[1]).publish(&registry);
    apply(&device, &registry, &["--activate"]).code(0);
    device.power_on();
    device.write("keys/2.pub", b"damaged");
    assert_eq!(healthcheck(&device).code(1).json()["outcome"], "waiting");
    fs::remove_file(device.path("keys/2.pub")).unwrap();
    assert_eq!(healthcheck(&device).code(0).json()["outcome"], "committed");
}

/// The image's own folder of keys, in a mount namespace of its own; `None` where that is not allowed.
fn in_image(device: &Device, folder: &str, arguments: &[&str]) -> Option<Ran> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: nothing can be mounted here");
        return None;
    }
    let script = "mount -t tmpfs image /usr/share && mkdir -p /usr/share/kubesolo && cp -r \"$0\" /usr/share/kubesolo/keys && \
                  exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_kubesolo-update");
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", script, folder, program]).args(arguments).current_dir(device.dir.path());
    Some(unshare.output().unwrap().into())
}

#[test]
fn keys_are_rotated_through_the_images() {
    let (registry, device) = (Registry::start(), Device::new());
    for (folder, keys) in [("v0", &[1][..]), ("v1", &[1]), ("v2", &[1, 2]), ("v3", &[2]), ("v4", &[])] {
        give(&device, folder, keys);
    }
    fs::remove_dir(device.path("v4")).unwrap();
    let install = |from: &str, to: &str, outcome: &str| {
        let all = device.asking(&registry, &["apply", "--json", "--activate"]);
        in_image(&device, from, &all)?.code(0);
        device.power_on();
        let all = device.local(&["healthcheck", "--json", "--data-dir", "data", "--health-dir", "health.d"]);
        let ran = if device.path(to).exists() { in_image(&device, to, &all)? } else { device.run(&all) };
        assert_eq!(ran.json()["outcome"], outcome, "{ran:?}");
        Some(())
    };
    let offered = |image: &str| in_image(&device, image, &device.asking(&registry, &["apply", "--json"])).unwrap();

    Release::new("1.0.0", &[1]).publish(&registry);
    if install("v0", "v1", "committed").is_none() {
        return;
    }
    Release::new("2.0.0", &[2]).publish(&registry);
    offered("v1").refused(77, "signature-unknown-key");
    // Signed with the old and the new key until no slot holds the old ones.
    Release::new("2.1.0", &[1, 2]).publish(&registry);
    install("v1", "v2", "committed");
    Release::new("3.0.0", &[1, 2]).revoking(&[1]).publish(&registry);
    install("v2", "v3", "committed");
    Release::new("3.1.0", &[1]).publish(&registry);
    offered("v3").refused(77, "signature-unknown-key");
    // Back in the image that has both, the old key stays revoked.
    in_image(&device, "v3", &device.local(&["rollback"])).unwrap().code(0);
    device.power_on();
    let all = device.local(&["healthcheck", "--data-dir", "data", "--health-dir", "health.d"]);
    in_image(&device, "v2", &all).unwrap().code(0).says(&["committed"]);
    offered("v2").refused(77, "signature-revoked-key");
    // An image whose only key is revoked, and one that forgot its keys, would be the last ones.
    Release::new("4.0.0", &[2]).publish(&registry);
    install("v2", "v1", "reverted");
    device.power_on();
    Release::new("4.1.0", &[2]).publish(&registry);
    install("v2", "v4", "reverted");
    device.power_on();
    assert_eq!(device.version_in(device.env().active).as_deref(), Some("2.1.0"));
    assert_eq!(
        device.env().good,
        if device.version_in(SlotId::A).as_deref() == Some("2.1.0") { SlotId::A } else { SlotId::B }
    );
}

#[test]
fn a_rollback_to_an_image_without_keys_comes_back() {
    let (registry, device) = (Registry::start(), Device::new());
    give(&device, "v1", &[1]);
    Release::new("1.0.0", &[1]).publish(&registry);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    let judge = ["healthcheck", "--json", "--data-dir", "data", "--health-dir", "health.d"];
    let Some(ran) = in_image(&device, "v1", &device.local(&judge)) else { return };
    assert_eq!(ran.code(0).json()["outcome"], "committed");
    // The factory's image never needed a key of its own.
    in_image(&device, "v1", &device.local(&["rollback"])).unwrap().code(0).says(&["boots next, on trial"]);
    device.power_on();
    assert_eq!(device.run(&device.local(&judge)).code(1).json()["outcome"], "reverted");
    assert_eq!(device.version_in(device.env().active).as_deref(), Some("1.0.0"));
}

#[test]
fn settings_keys_and_state_that_others_may_write_are_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (registry, device) = (Registry::start(), device(&[1], ""));
    Release::new("1.0.0", &[1]).publish(&registry);
    let mode = |name: &str, mode| fs::set_permissions(device.path(name), fs::Permissions::from_mode(mode)).unwrap();
    let names = ["conf", "keys/1.pub", "keys", "S/state.json", "S/trust.json", "S/lock", "S", "A", "A/vmlinuz"];
    apply(&device, &registry, &[]).code(0);
    device.write("S/trust.json", b"{\"schema\":1}");
    // A staged release is not activated then, and written again by the next run.
    for name in ["B/manifest.json", "B/vmlinuz"] {
        mode(name, 0o646);
        let error = device.run(&device.local(&["activate", "--json"])).code(78).json()["error"].clone();
        assert!(error["remedy"].as_str().unwrap().contains("chmod go-w"), "{name}: {error}");
        assert_eq!(apply(&device, &registry, &[]).code(0).json()["written"], true);
    }
    for name in names {
        let was = device.path(name).metadata().unwrap().permissions().mode();
        mode(name, was | 0o002);
        let ran = device.run(&device.asking(&registry, &["apply", "--json"]));
        if name == "A/vmlinuz" {
            // A file that the bootloader reads and nothing here relies on.
            ran.code(0);
        } else {
            let error = ran.code(78).json()["error"].clone();
            let words = format!("{} {}", error["message"], error["remedy"]);
            assert!(words.contains("chmod go-w"), "{name}: {words}");
        }
        mode(name, was);
    }
    for name in ["conf", "keys/1.pub", "S/state.json", "S/trust.json", "S/lock"] {
        fs::rename(device.path(name), device.path("elsewhere")).unwrap();
        symlink(device.path("elsewhere"), device.path(name)).unwrap();
        let error = apply(&device, &registry, &[]).code(78).json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("symbolic link"), "{name}: {error}");
        fs::remove_file(device.path(name)).unwrap();
        fs::rename(device.path("elsewhere"), device.path(name)).unwrap();
    }
    apply(&device, &registry, &[]).code(0);
}
