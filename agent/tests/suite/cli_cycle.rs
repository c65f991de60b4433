//! The whole job on folders: the real program, a real registry, and the bootloader's decision in between.

use crate::{cli_support, common};

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use chrono::{Timelike, Utc};
use cli_support::{Device, Ran, key, publish, publish_as};
use common::fault::{self, Fault, World};
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_update::base::digest::Digest;
use serde_json::{Value, json};

/// Applies, activates and commits what is on offer.
fn install(device: &Device, registry: &Registry) {
    device.from(registry, &["apply", "--activate"]).code(0).says(&["boots next, on trial", "fetched "]);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
}

/// Applies what is on offer, and lets its trial fail.
fn install_bad(device: &Device, registry: &Registry) {
    device.from(registry, &["apply", "--activate"]).code(0);
    device.fails_its_trial_and_is_back();
}

fn metadata(version: &str) -> Metadata {
    Metadata::new(version.parse().unwrap(), "stable")
}

/// A window that is closed now, and stays so for the length of a test.
fn closed_window() -> String {
    let hour = Utc::now().hour();
    format!("{:02}:00-{:02}:00", (hour + 3) % 24, (hour + 4) % 24)
}

/// A console that hung up, a journal that was restarted.
#[test]
fn a_trial_is_committed_though_nobody_reads_what_is_said() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let arguments = device.local(&["-vv", "healthcheck", "--data-dir", "data", "--health-dir", "health.d"]);
    let mut unheard = device.command(&arguments);
    let status = unheard.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    assert_eq!((status.code(), device.phase().as_str()), (Some(0), "success"));
}

#[test]
fn a_release_that_does_not_answer_at_its_url_is_not_committed() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    // Nobody listens on the first; the registry answers on the second.
    device.write("conf", b"healthcheck_url=http://127.0.0.1:1/healthz\n");
    device.here(&["healthcheck"]).code(1).says(&["failed: healthcheck_url: cannot fetch http://127.0.0.1:1/healthz"]);
    assert!(!device.env().success);
    device.write("conf", format!("healthcheck_url=http://{}/v2/\n", registry.address).as_bytes());
    device.here(&["healthcheck"]).code(0).says(&["passed: healthcheck_url", "slot B is committed"]);
}

#[test]
fn an_ordinary_user_updates_folders_twice_and_gets_rid_of_a_bad_release() {
    let (registry, device) = (Registry::start(), Device::of_ordinary_user());
    let factory = device.tree("A");

    // The command of the documentation, word for word.
    publish(&registry, "1.0.0", 1);
    let line = format!(
        "--conf /dev/null --state S/state.json apply --registry {0}/os --tag stable --plain-http {0} --slot-a A --slot-b B \
         --bootenv grub:grubenv --pubkey K",
        registry.address
    );
    let staged = device.run(&line.split(' ').collect::<Vec<_>>()).code(0);
    let lines: Vec<_> = staged.stdout.lines().collect();
    assert_eq!(lines[0], "1.0.0 is written into slot B and verified");
    assert!(lines[1].starts_with("fetched 8.1 KiB in "), "{lines:?}");
    assert_eq!(lines[2..], ["next: kubesolo-update activate --reboot"]);
    assert_eq!(staged.stderr, "");
    assert_eq!(device.phase(), "staged");
    assert_eq!((device.env().active, device.env().b), (SlotId::A, SlotState::Void), "staged is not activated");
    assert_eq!(
        device.names("B"),
        ["kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "vmlinuz", "vmlinuz.sha256"]
    );

    device.here(&["activate"]).code(0).says(&["1.0.0 in slot B boots next", "next: reboot"]);
    assert_eq!((device.phase().as_str(), device.env().counter), ("activated", 3));
    assert_eq!(device.tree("A"), factory, "the active slot is not touched");
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed", "next:"]);
    assert_eq!((device.env().good, device.env().success), (SlotId::B, true));
    assert_eq!(device.phase(), "success");

    publish(&registry, "2.0.0", 2);
    install(&device, &registry);
    assert_eq!(device.env().good, SlotId::A);
    assert_eq!(device.version_in(SlotId::A).unwrap(), "2.0.0");

    // A bad one is reverted, remembered, and not installed again.
    publish(&registry, "3.0.0", 3);
    install_bad(&device, &registry);
    assert_eq!(
        (device.env().good, device.env().b, device.phase().as_str()),
        (SlotId::A, SlotState::Fail, "rolled_back")
    );
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let error = device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    assert!(error["message"].as_str().unwrap().contains("10-node"), "{error}");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    let state = device.state();
    assert_eq!((&state["phase"], &state["last_skip"]["reason"]), (&json!("rolled_back"), &json!("failed-before")));
    assert!(state["last_error"].as_str().unwrap().contains("3.0.0 failed its trial"), "{state}");
    device.here(&["status"]).code(0).says(&["3.0.0 failed its trial and was reverted", "failed:", "3.0.0"]);

    // A person may try it again; a repaired release is another one, and needs no word.
    device.from(&registry, &["apply", "--retry-failed", "--dry-run"]).code(0).says(&["3.0.0"]);
    publish(&registry, "3.0.1", 4);
    install(&device, &registry);
    let status = device.here(&["status", "--json"]).code(0).json();
    assert_eq!((&status["booted"]["version"], &status["phase"]), (&json!("3.0.1"), &json!("success")));

    // The foreign variable survived all of it, and nothing is left behind.
    assert!(String::from_utf8(device.env_bytes()).unwrap().contains("other=kept\n"));
    let kept = "device.key history.json lock receipts records state.json trust.json unjudged.json";
    assert_eq!(device.names("S").join(" "), kept);
    assert_eq!(device.names("data"), [".health-probe"]);
}

#[test]
fn a_person_can_retry_what_failed() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    install_bad(&device, &registry);
    device.from(&registry, &["apply"]).code(75);
    let retried = device.from(&registry, &["apply", "--retry-failed", "--activate"]).code(0);
    assert!(retried.stderr.contains("--retry-failed is in effect"), "{retried:?}");
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    assert_eq!(device.version_in(device.env().good).unwrap(), "1.0.0");
    let status = device.here(&["status", "--json"]).code(0).json();
    assert_eq!(status["failed"], json!([]), "what proved healthy has not failed any more");
}

#[test]
fn what_never_started_is_tried_once_more_and_then_remembered() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    // The trial is noted, and the power goes before the store.
    let lost = |words: &[&str]| {
        let before = device.env_bytes();
        device.here(&["activate"]).code(0).says(&["boots next"]);
        device.write("grubenv", &before);
        device.power_on();
        device.here(&["healthcheck"]).code(0);
        let state = device.state();
        assert_eq!(state["phase"], "rolled_back", "{state:#}");
        for word in words {
            assert!(state["last_error"].as_str().unwrap().contains(word), "{state:#}");
        }
    };
    lost(&["never started"]);
    lost(&["failed its trial", "without a verdict, twice", "never started"]);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    // Another release has its own two.
    publish(&registry, "1.0.1", 2);
    device.from(&registry, &["apply"]).code(0);
    lost(&["never started"]);
    device.from(&registry, &["apply", "--activate"]).code(0).says(&["boots next, on trial"]);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
}

#[test]
fn without_a_number_of_failed_runs_the_deadline_alone_ends_a_trial() {
    let (registry, device) = (Registry::start(), Device::new());
    device.write("conf", b"auto_rollback_after=0\n");
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.make_unhealthy();
    let before = device.env_bytes();
    for _ in 0..5 {
        device.here(&["healthcheck"]).code(1).says(&["the deadline ends the trial"]);
    }
    assert_eq!(device.env_bytes(), before);
}

#[test]
fn failed_runs_are_counted_within_one_boot() {
    let (registry, device) = (Registry::start(), Device::new());
    device.write("conf", b"auto_rollback_after=3\n");
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.make_unhealthy();
    let failed = |number: &str| device.here(&["healthcheck"]).code(1).says(&[number, "run 3 would revert it"]);
    failed("failed run 1");
    failed("failed run 2");
    // As if these two were of the boot before.
    let mut state = device.state();
    state["health_boot"] = json!("00000000-0000-0000-0000-000000000000");
    device.write("S/state.json", state.to_string().as_bytes());
    failed("failed run 1");
    failed("failed run 2");
    device.here(&["healthcheck"]).code(1).says(&["slot B is reverted after failed run 3"]);
    assert_eq!(device.env().b, SlotState::Fail);
}

#[test]
fn a_trial_that_the_bootloader_did_not_count_is_not_committed() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    let line = format!("panic=5 kubesolo.slot=B ks.trial={} ks.proto=1\n", device.env().trial);
    device.write("cmdline", line.as_bytes());
    let before = (device.env_bytes(), device.state());
    device.here(&["healthcheck", "--json"]).refused(78, "env-link");
    assert_eq!((device.env_bytes(), device.state()), before, "nothing is stored");
}

#[test]
fn rollback_ends_a_trial_takes_back_an_activation_or_tries_the_release_before() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let nothing = device.here(&["rollback", "--json"]).refused(75, "nothing-to-roll-back");
    assert!(nothing["message"].as_str().unwrap().contains("slot B is void"), "{nothing}");

    // In the trial.
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["rollback"]).code(0).says(&["next: reboot into slot A"]);
    assert_eq!(
        (device.env().active, device.env().b, device.phase().as_str()),
        (SlotId::A, SlotState::Fail, "rolled_back")
    );
    device.power_on();
    device.from(&registry, &["apply"]).code(75);

    // Activated, not booted.
    publish(&registry, "1.1.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.here(&["rollback"]).code(0).says(&["cancelled the activation of slot B", "next:"]);
    assert_eq!((device.env().active, device.env().success, device.env().b), (SlotId::A, true, SlotState::Void));
    assert_eq!(device.phase(), "rolled_back");
    device.power_on();
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");

    // Committed.
    publish(&registry, "1.2.0", 3);
    install(&device, &registry);
    publish(&registry, "1.3.0", 4);
    install(&device, &registry);
    let back = device.here(&["rollback", "--json"]).code(0).json();
    assert_eq!((&back["outcome"], &back["reboot"]), (&json!("trial-of-previous"), &json!(true)));
    assert_eq!(device.env().good, SlotId::A, "a trial: the release that is left stays the good one");
    assert_eq!(device.phase(), "activated");
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    assert_eq!(device.version_in(device.env().good).unwrap(), "1.2.0");
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn rollback_reaches_what_the_factory_put_into_a_slot_without_a_manifest() {
    let (registry, device) = (Registry::start(), Device::new());
    for (image, bytes) in [("vmlinuz", b"factory kernel".as_slice()), ("kubesolo-os.gz", b"factory initramfs")] {
        device.write(&format!("A/{image}"), bytes);
        device.write(&format!("A/{image}.sha256"), format!("{}  {image}\n", Digest::of(bytes).hex()).as_bytes());
    }
    publish(&registry, "1.0.0", 1);
    device.here(&["verify"]).code(0).says(&["slot A holds: hashes only"]);
    install(&device, &registry);
    device.here(&["rollback"]).code(0).says(&["unknown in slot A boots next, on trial"]);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot A is committed"]);

    // Damaged, it is not tried.
    device.from(&registry, &["apply", "--activate", "--retry-failed"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    device.write("A/vmlinuz", b"rotten");
    device.here(&["rollback", "--json"]).refused(65, "slot-damaged");
}

#[test]
fn what_is_only_wanted_is_told_and_ends_no_trial() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    fs::create_dir(device.path("health.d/wanted")).unwrap();
    device.script("health.d/wanted/10-metrics", "echo nobody collects; exit 1");
    device.script("health.d/wanted/20-hang", "sleep 600");
    device.script("health.d/30-node", "exit 0");
    device.write("conf", b"health_dir=health.d\nhealth_timeout=1\n");
    device.here(&["doctor"]).says(&["30-node, wanted/10-metrics, wanted/20-hang"]);
    let judged = device.here(&["healthcheck", "--json", "--auto-rollback-after", "1"]).code(0).json();
    assert_eq!((&judged["healthy"], &judged["outcome"]), (&json!(true), &json!("committed")));
    // Last, so that what hangs takes no time from those that count.
    let metrics =
        json!({"name": "10-metrics", "passed": false, "wanted": true, "message": "exit status: 1: nobody collects"});
    assert_eq!((&judged["checks"][1]["passed"], &judged["checks"][2]), (&json!(true), &metrics), "{judged}");
    device.here(&["healthcheck"]).code(0).says(&["failed (optional): 10-metrics: exit status: 1: nobody collects"]);
    device.script("health.d/30-node", "exit 1");
    device.here(&["healthcheck"]).code(1);
}

#[test]
fn activating_twice_is_the_same_as_once() {
    let (registry, device) = (Registry::start(), Device::new());
    device.here(&["activate", "--json"]).refused(75, "nothing-staged");
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    let (before, trial) = (device.env_bytes(), device.state()["trial"].clone());
    let again = device.here(&["activate", "--json"]).code(0).json();
    assert_eq!((&again["outcome"], &again["trial"]), (&json!("activated"), &trial["id"]));
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!((device.env_bytes(), &device.state()["trial"]), (before, &trial));

    // A try was counted, and the system of the other slot runs: whether the trial may go on is the hook's to say.
    let before = device.power_on();
    assert_eq!(before.start.unwrap().slot, SlotId::B);
    device.here(&["activate"]).code(75);
    assert_eq!(device.env().counter, 2, "the tries are not filled up again");
}

#[test]
fn what_is_staged_or_running_is_not_fetched_again() {
    let world = World::new(300_000);
    let (device, served) = (Device::new(), world.clone());
    device.save_key(&key(1), "K");
    let server = Fault::start(move |request, out| served.answer(request, out));
    device.from(&server, &["apply"]).code(0);
    let images = || server.count(&World::path(&world.initramfs)) + server.count(&World::path(b"kernel"));
    assert_eq!(images(), 2);
    let slot = device.tree("B");
    device.from(&server, &["apply"]).code(0).says(&["already complete in slot B", "next: kubesolo-update activate"]);
    assert_eq!((images(), device.tree("B")), (2, slot), "nothing is fetched or written twice");

    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let report = device.from(&server, &["apply", "--json"]).code(0).json();
    assert_eq!((&report["outcome"], &report["written"]), (&json!("up-to-date"), &json!(false)));
    device.from(&server, &["check"]).code(0).says(&["up to date: 1.0.0"]);
    assert_eq!((images(), device.phase().as_str()), (2, "success"));

    // A slot that rotted is not taken for staged: the hashes are read again.
    let device = Device::new();
    device.from(&server, &["apply"]).code(0);
    let kernel = fs::read(device.path("B/vmlinuz")).unwrap();
    device.write("B/vmlinuz", &vec![b'x'; kernel.len()]);
    device.here(&["activate", "--json"]).refused(65, "slot-damaged");
    device.from(&server, &["apply"]).code(0).says(&["written into slot B"]);
    assert_eq!(fs::read(device.path("B/vmlinuz")).unwrap(), kernel);
}

#[test]
fn a_newer_release_replaces_one_that_was_activated_and_not_booted() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply"]).code(0).says(&["2.0.0 is written into slot B"]);
    let env = device.env();
    assert_eq!((env.active, env.success, env.b, env.trial.is_none()), (SlotId::A, true, SlotState::Void, true));
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
    device.here(&["healthcheck"]).code(0);
    // The first one did not fail: it was never tried, and nothing waits for its end.
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["failed"], json!([]));
    assert_eq!((device.phase().as_str(), &device.state()["not_started"]), ("staged", &json!([])));
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    assert_eq!(device.version_in(SlotId::B).unwrap(), "2.0.0");
}

#[test]
fn check_and_a_dry_run_change_nothing_at_all() {
    let (registry, device) = (Registry::start(), Device::of_ordinary_user());
    publish(&registry, "1.0.0", 1);
    let before = device.tree("");
    device.from(&registry, &["apply", "--dry-run"]).code(0).says(&["would write 1.0.0 into slot B", "next:"]);
    device.from(&registry, &["apply", "--dry-run", "--activate"]).code(0);
    device.from(&registry, &["check"]).code(0);
    device.from(&registry, &["apply", "--dry-run", "--maintenance-window", &closed_window()]).code(75);
    device.here(&["status"]).code(0);
    device.here(&["verify"]).code(0).says(&["slot A holds: hashes only"]);
    assert_eq!(device.tree(""), before);

    install(&device, &registry);
    let before = device.tree("");
    device.from(&registry, &["apply", "--dry-run"]).code(0).says(&["nothing to do"]);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--dry-run", "--json"]).code(0);
    device.here(&["verify"]).code(0).says(&["slot B holds: 1.0.0, signed by"]);
    assert_eq!(device.tree(""), before);
}

#[test]
fn a_run_killed_while_it_downloads_leaves_nothing_that_disturbs_the_next() {
    let world = World::new(600_000);
    let (device, served) = (Device::new(), world.clone());
    // Half of the initramfs, then silence.
    let path = World::path(&world.initramfs);
    let server = Fault::start(move |request, out| {
        if request.path != path || request.earlier > 0 {
            return served.answer(request, out);
        }
        fault::head(out, 200, &format!("Content-Length: {}\r\n", served.initramfs.len()));
        fault::send(out, &served.initramfs[..served.initramfs.len() / 2]);
        std::thread::sleep(Duration::from_secs(60));
    });
    let factory = device.tree("A");
    let all = [&device.asking(&server, &["apply"])[..], &["--pubkey", "K"]].concat();
    let mut killed = device.command(&all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    // All that comes: from then on the killed run writes nothing more by itself.
    let half = world.initramfs.len() as u64 / 2;
    while !fs::metadata(device.path("B/kubesolo-os.gz.part")).is_ok_and(|part| part.len() >= half) {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not download");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Meanwhile a second one is sent away, and a look is free.
    let before = device.tree("");
    device.from(&server, &["apply", "--json"]).refused(75, "locked");
    device.here(&["healthcheck", "--json"]).refused(75, "locked");
    device.here(&["status"]).code(0).says(&["update:       downloading 1.0.0 now"]);
    device.from(&server, &["check"]).code(0);
    assert_eq!(device.tree(""), before);
    killed.kill().unwrap();
    killed.wait().unwrap();

    assert_eq!((device.tree("A"), device.env().b), (factory.clone(), SlotState::Void));
    assert!(!device.path("B/manifest.json").exists());
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
    device.from(&server, &["apply"]).code(0).says(&["1.0.0 is written into slot B"]);
    assert_eq!((device.tree("A"), device.phase().as_str()), (factory, "staged"));
    assert_eq!(
        device.names("B"),
        ["kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "vmlinuz", "vmlinuz.sha256"]
    );
    assert_eq!(device.names("S"), ["history.json", "lock", "records", "state.json"]);
}

#[test]
fn a_phase_that_is_over_is_not_shown_for_ever() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    install(&device, &registry);
    // A failure, and the killed run of the test above, end with the next run that finds all well.
    for phase in ["failed", "downloading", "checking"] {
        let state = json!({"phase": phase, "last_error": "it broke", "to_version": "2.0.0"});
        device.write("S/state.json", state.to_string().as_bytes());
        device.from(&registry, &["apply"]).code(0).says(&["1.0.0 is running"]);
        let state = device.state();
        assert_eq!((&state["phase"], &state["last_error"]), (&json!("idle"), &json!("")), "{phase}");
    }
}

#[test]
fn status_works_without_anything_to_look_at() {
    let device = Device::of_ordinary_user();
    fs::create_dir(device.path("empty")).unwrap();
    // No settings, no state, no slots, no environment, no /proc/cmdline of ours, no root.
    let bare = device.run(&["--conf", "nowhere/update.conf", "--state", "nowhere/state.json", "status"]).code(0);
    bare.says(&["running:      unknown", "update:       none yet", "not readable:"]);
    let report = device.run(&["--conf", "nowhere", "--state", "nowhere", "--json", "status"]).code(0).json();
    assert_eq!((&report["booted"], &report["phase"]), (&Value::Null, &json!("idle")));
    assert!(!report["problems"].as_array().unwrap().is_empty());

    // Settings that cannot be read are a problem to show, not a reason to show nothing.
    device.write("bad.conf", b"registry=h.example/os\nnonsense\n");
    device.run(&["--conf", "bad.conf", "--state", "S/state.json", "status"]).code(0).says(&["bad.conf:2"]);
    // One place that is missing does not hide the others.
    device.write("grubenv", b"not a block");
    device.here(&["status"]).code(0).says(&["not readable: boot environment grubenv", "slot A:"]);
    fs::remove_dir_all(device.path("B")).unwrap();
    device.here(&["status"]).code(0).says(&["not readable: slot B"]);
}

#[test]
fn json_is_one_document_on_stdout_and_all_else_is_on_stderr() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let verbose = |arguments: &[&'static str]| [arguments, &["--json", "-vv"]].concat();
    for arguments in [&["check"][..], &["apply", "--dry-run"], &["apply"]] {
        let ran = device.from(&registry, &verbose(arguments)).code(0);
        assert!(ran.json().is_object(), "{ran:?}");
        assert!(ran.stderr.contains("signed by") || arguments == ["check"], "{ran:?}");
    }
    device.here(&verbose(&["activate"])).code(0).json();
    device.power_on();
    for (arguments, code) in [(&["healthcheck"][..], 0), (&["status"], 0), (&["verify"], 0)] {
        let ran = device.here(&verbose(arguments)).code(code);
        ran.json();
    }
    for arguments in [&["history"][..], &["doctor"], &["metrics"]] {
        let ran = device.here(&[arguments, &["--json"]].concat());
        assert!(ran.json().as_array().is_some_and(|list| !list.is_empty()), "{ran:?}");
    }
    let metrics = device.here(&["metrics", "--json"]).json();
    let phase = json!({"name": "kubesolo_update_phase", "labels": {"phase": "success"}, "value": 1});
    assert!(metrics.as_array().unwrap().contains(&phase), "{metrics}");
    // So is a wrong command line, whatever it is.
    for wrong in [&["chek"][..], &["check", "--plain-http", "http://a.example"], &["status", "--booted", "C"]] {
        device.run(&[wrong, &["--json"]].concat()).refused(64, "usage");
    }
    assert_eq!(device.run(&["--json"]).code(64).json()["error"]["reason"], "usage");
    // A failure with findings is one document too.
    device.make_unhealthy();
    assert_eq!(device.here(&["healthcheck", "--json"]).code(1).json()["healthy"], json!(false));
    device.write("B/vmlinuz", b"rotten");
    let ran = device.here(&["verify", "--json"]).code(65);
    let report = ran.json();
    assert_eq!(report["slots"][1]["holds"], json!(false));
    assert_eq!(report["error"]["reason"], json!("slot-damaged"));
    assert!(ran.stderr.contains("slot B does not hold"), "{ran:?}");
    device.here(&verbose(&["rollback"])).code(0).json();
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let device = Device::new();
    for arguments in [&["status"][..], &["status", "--json"], &["rollback"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = device.command(&device.local(arguments));
        let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(if arguments == ["rollback"] { 75 } else { 0 }), "{arguments:?}");
    }
}

#[test]
fn help_shows_examples_and_exit_codes_and_fits_a_terminal() {
    let device = Device::new();
    let help = device.run(&["--help"]).code(0);
    for code in ["0", "1", "64", "65", "69", "70", "73", "75", "77", "78"] {
        assert!(help.stdout.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))), "{code}");
    }
    assert!(help.stdout.contains("Examples:\n"), "{help:?}");
    for arguments in [&["--help"][..], &["-h"], &["apply", "--help"], &["healthcheck", "--help"], &["rollback", "-h"]] {
        let narrow = device.command(arguments).env("COLUMNS", "80").output().unwrap();
        let wide = Ran::from(narrow).code(0).stdout.lines().find(|line| line.chars().count() > 80).map(str::to_owned);
        assert_eq!(wide, None, "{arguments:?}");
    }
    for arguments in [
        &[][..],
        &["update"],
        &["apply", "--nonsense"],
        &["apply", "--reboot"],
        &["apply", "--server", "https://a.example", "--registry", "a.example/os"],
        &["status", "--bootenv", "lilo:F"],
        &["status", "--booted", "C"],
        &["check", "--maintenance-window", "25:00-26:00"],
    ] {
        let wrong = device.run(arguments).code(64);
        assert_eq!(wrong.stdout, "");
        assert!(wrong.stderr.contains("--help"), "{wrong:?}");
    }
}

#[test]
fn slots_in_folders_never_restart_the_machine() {
    let (registry, device) = (Registry::start(), Device::of_ordinary_user());
    publish(&registry, "1.0.0", 1);
    let things = || (device.tree("A"), device.tree("B"), device.env_bytes());
    let before = things();
    device.from(&registry, &["apply", "--activate", "--reboot", "--json"]).refused(64, "reboot-with-folders");
    device.here(&["activate", "--reboot", "--json"]).refused(64, "reboot-with-folders");
    device.here(&["rollback", "--reboot", "--json"]).refused(64, "reboot-with-folders");
    assert_eq!(things(), before);
}

/// The verdict of each gate, in order.
fn gates(check: &Value) -> Vec<(String, bool)> {
    let gates = check["gates"].as_array().unwrap();
    gates.iter().map(|gate| (gate["name"].as_str().unwrap().to_owned(), gate["open"].as_bool().unwrap())).collect()
}

#[test]
fn check_shows_every_gate_whatever_an_earlier_one_says() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    install(&device, &registry);
    publish_as(
        &registry,
        2,
        Metadata {
            min_compatible_version: Some("1.5.0".parse().unwrap()),
            channel: "beta".into(),
            ..metadata("0.9.0")
        },
        "os:stable",
    );
    let before = device.tree("");
    let window = closed_window();
    let check = device.from(&registry, &["check", "--json", "--channel", "stable", "--maintenance-window", &window]);
    let check = check.code(0).json();
    let all = [
        ("maintenance-window", false),
        ("not-before", true),
        ("channel", false),
        ("architecture", true),
        ("board", true),
        ("minimum-version", false),
        ("requires", true),
        ("settings", true),
        ("security-epoch", true),
        ("version", false),
        ("failed-before", true),
        ("bytes-failed-before", true),
        ("freshness", true),
        ("node-block", true),
        ("kubesolo-upgrade", true),
        ("boot-environment", true),
        ("trial", true),
        ("clock", true),
        ("space", true),
        ("data-unsettled", true),
        ("data-checkpoint", true),
        ("data-unprotected", true),
        ("data-space", true),
        ("delta", true),
        ("memory", true),
        ("rollout", true),
        ("pre-update", true),
    ];
    assert_eq!(gates(&check), all.map(|(name, open)| (name.to_owned(), open)));
    assert_eq!((&check["verdict"], &check["reason"]), (&json!("held"), &json!("window")));
    assert_eq!((&check["running"], &check["offered"]["version"]), (&json!("1.0.0"), &json!("0.9.0")));
    assert_eq!(device.tree(""), before, "a check leaves no trace");
}

#[test]
fn a_closed_window_keeps_the_network_quiet_and_force_opens_only_that() {
    let world = World::new(100_000);
    let (device, served) = (Device::new(), world.clone());
    let server = Fault::start(move |request, out| served.answer(request, out));
    let window = closed_window();
    device.from(&server, &["apply", "--json", "--maintenance-window", &window]).refused(75, "window");
    assert_eq!(server.requests().len(), 0);
    let state = device.state();
    assert_eq!((&state["phase"], &state["last_skip"]["reason"]), (&json!("idle"), &json!("window")));
    device
        .from(&server, &["apply", "--json", "--channel", "beta", "--force", "--maintenance-window", &window])
        .refused(77, "other-channel");
    assert_eq!(device.state()["last_skip"], Value::Null, "the last run did not skip: it failed");
    let never = device.from(&server, &["apply", "--json", "--maintenance-window", "12:00-12:00"]).refused(75, "window");
    assert!(never["remedy"].as_str().unwrap().contains("never opens"), "{never}");
    let forced = device.from(&server, &["apply", "--force", "--maintenance-window", &window]).code(0);
    assert!(forced.stderr.contains("--force is in effect"), "{forced:?}");
}

#[test]
fn what_a_factory_filled_is_known_by_its_version() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.write("conf", b"version_file=version\n");
    device.write("version", b"v1.0.0\nbuilt on a Friday\n");
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!((&check["verdict"], &check["running"]), (&json!("up-to-date"), &json!("1.0.0")));
    device.here(&["status"]).code(0).says(&["running:      1.0.0 in slot A"]);
    device.here(&["metrics"]).code(0).says(&["slot=\"A\",version=\"1.0.0\"} 1"]);
    device.from(&registry, &["run"]).code(0).says(&["1.0.0 is running; nothing to do"]);
    assert_eq!((device.phase().as_str(), device.names("B").len()), ("idle", 0));
    device.from(&registry, &["apply", "--dry-run", "--allow-downgrade"]).code(0).says(&["would write 1.0.0"]);
    device.write("version", b"0.9.9");
    device.from(&registry, &["apply"]).code(0).says(&["1.0.0 is written into slot B"]);
    for wrong in ["", "1.0", "KubeSolo OS 1.0.0"] {
        device.write("version", wrong.as_bytes());
        device.from(&registry, &["apply", "--json"]).refused(78, "version-file");
        device.here(&["status"]).code(0).says(&["not readable: version_file=version: "]);
    }
}

#[test]
fn releases_that_may_not_be_installed_are_refused_with_their_reason() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.5.0", 1);
    install(&device, &registry);
    let minimum = |version: &str| Some(version.parse().unwrap());
    // The offer, a setting of the device, and how it is refused.
    let cases = [
        (Metadata { channel: "beta".into(), ..metadata("2.0.0") }, "stable", Err((77, "other-channel"))),
        (Metadata { min_compatible_version: minimum("1.6.0"), ..metadata("2.0.0") }, "stable", Err((77, "too-old"))),
        (Metadata { min_compatible_version: minimum("1.5.0"), ..metadata("2.0.0") }, "stable", Ok(())),
        (metadata("1.4.9"), "stable", Err((77, "downgrade"))),
        // Precedence: a pre-release comes before its release, numbers count as numbers, build metadata not at all.
        (metadata("1.5.0-rc.9"), "stable", Err((77, "downgrade"))),
        (metadata("1.5.0+other"), "stable", Err((77, "same-version"))),
        (metadata("1.10.0"), "stable", Ok(())),
        (metadata("1.5.1-rc.1"), "stable", Ok(())),
    ];
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    for (metadata, channel, expected) in cases {
        let case = format!("{metadata:?}");
        publish_as(&registry, 2, metadata, "os:stable");
        match expected {
            Ok(()) => drop(device.from(&registry, &["apply", "--dry-run", "--channel", channel]).code(0)),
            Err((code, reason)) => {
                let error = device.from(&registry, &["apply", "--json", "--channel", channel]).refused(code, reason);
                let state = device.state();
                assert_eq!(state["phase"], json!("failed"), "{case}");
                assert!(state["last_error"].as_str().unwrap().contains(error["remedy"].as_str().unwrap()), "{case}");
                let check = device.from(&registry, &["check", "--json", "--channel", channel]).code(0).json();
                assert_eq!((&check["verdict"], &check["reason"]), (&json!("held"), &json!(reason)), "{case}");
            }
        }
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before, "{case}");
    }
    publish_as(&registry, 2, metadata("1.4.9"), "os:stable");
    device.from(&registry, &["apply", "--allow-downgrade"]).code(0).says(&["1.4.9"]);
}

#[test]
fn what_is_no_file_under_the_name_of_one_is_removed_from_the_slot_that_is_filled() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let outside = device.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    for name in ["vmlinuz", "manifest.json", "kubesolo-os.gz.part"] {
        fs::create_dir_all(device.path(&format!("B/{name}/deep"))).unwrap();
        device.write(&format!("B/{name}/deep/file"), b"in the way");
        std::os::unix::fs::symlink(&outside, device.path(&format!("B/{name}/link"))).unwrap();
    }
    std::os::unix::fs::symlink(&outside, device.path("B/vmlinuz.sha256")).unwrap();
    nix::unistd::mkfifo(&device.path("B/kubesolo-os.gz"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(device.version_in(SlotId::B).as_deref(), Some("1.0.0"));
    device.here(&["verify"]).code(0);
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
}
