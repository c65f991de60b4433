//! Data that go back with the slot: whole cycles on folders, with the bootloader's decision in between.

use crate::{cli_support, common};

use std::fs;
use std::process::{Child, Command, Stdio};

use bootenv::protocol::SlotState;
use bootenv::{SlotId, TrialId};
use cli_support::{Device, Ran, publish, publish_as};
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_update::release::release::DATA_LAYOUT;

/// A device with a datastore, whose first boot is done.
fn device() -> Device {
    let device = Device::new();
    fs::create_dir(device.path("kine")).unwrap();
    device.write("kine/state", b"old");
    device.write("cmdline", b"kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
    // The boot environment of a factory is another program's.
    boot(&device, 0).says(&["data: ordinary"]);
    device.here(&["healthcheck"]).code(0);
    device
}

/// The bootloader alone: the step before any service did not run yet.
fn power_on(device: &Device) {
    let _ = fs::remove_file(device.path("S/data-step"));
    device.power_on();
}

/// The bootloader, then the step before any service.
fn boot(device: &Device, code: i32) -> Ran {
    power_on(device);
    device.here(&["data", "--json"]).code(code);
    device.here(&["data"]).code(code)
}

fn activate(device: &Device, registry: &Registry) {
    device.from(registry, &["apply", "--activate"]).code(0);
}

/// Such a device, whose next boot is the first one of a trial of 2.0.0.
fn before_a_trial() -> (Registry, Device) {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "2.0.0", 2);
    activate(&device, &registry);
    (registry, device)
}

/// Such a device after its first update, to 1.0.0.
fn updated() -> (Registry, Device) {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    activate(&device, &registry);
    boot(&device, 0);
    device.here(&["healthcheck"]).code(0);
    (registry, device)
}

/// The services of a system that migrates the data.
fn migrate(device: &Device, to: &str) {
    device.write("kine/state", to.as_bytes());
    device.write("kine/migrated", b"");
}

fn data(device: &Device) -> String {
    fs::read_to_string(device.path("kine/state")).unwrap()
}

fn marks(device: &Device) -> Vec<String> {
    let names = if device.path("S/data").exists() { device.names("S/data") } else { vec![] };
    names.into_iter().filter(|name| name != "trash").map(|name| name.split_once('.').unwrap().1.to_owned()).collect()
}

fn fail(device: &Device) {
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["reverted"]);
    device.make_healthy();
}

#[test]
fn a_trial_that_fails_leaves_the_old_system_its_data() {
    let (_registry, device) = before_a_trial();
    assert_eq!(marks(&device), ["note"]);
    boot(&device, 0).says(&["data: checkpoint of kine: 3 B"]);
    assert_eq!(marks(&device), ["held"]);
    migrate(&device, "new");
    // A power cut: the second try goes on with its own data.
    boot(&device, 0).says(&["ordinary"]);
    assert_eq!(data(&device), "new");
    fail(&device);
    boot(&device, 0).says(&["data: kine back to what unknown left at"]);
    assert_eq!((data(&device).as_str(), device.path("kine/migrated").exists()), ("old", false));
    device.here(&["healthcheck"]).code(0);
    assert_eq!(device.names("S/data"), [""; 0]);
    boot(&device, 0).says(&["ordinary"]);
}

/// The bootloader gives the trial up by itself.
#[test]
fn a_trial_that_never_judges_itself_leaves_the_old_system_its_data() {
    let (_registry, device) = before_a_trial();
    for _ in 0..3 {
        boot(&device, 0);
        migrate(&device, "new");
    }
    boot(&device, 0).says(&["kine back to"]);
    assert_eq!((data(&device).as_str(), device.env().b), ("old", SlotState::Fail));
}

/// The slot rots during its trial: the old system starts while the trial is pending, on its own data in the same boot.
#[test]
fn a_fallback_during_a_trial_settles_it_and_starts_on_old_data() {
    let (_registry, device) = before_a_trial();
    boot(&device, 0);
    migrate(&device, "new");
    device.write("B/vmlinuz", b"rotten");
    boot(&device, 0).says(&["kine back to"]);
    assert_eq!(data(&device), "old");
    assert_eq!((device.env().success, device.env().b), (true, SlotState::Fail), "the trial does not come again");
}

#[test]
fn data_of_a_committed_release_go_back_only_on_demand() {
    let (registry, device) = (Registry::start(), device());
    for (version, salt, content) in [("1.0.0", 1, "one"), ("2.0.0", 2, "two")] {
        publish(&registry, version, salt);
        activate(&device, &registry);
        boot(&device, 0);
        migrate(&device, content);
        device.here(&["healthcheck"]).code(0).says(&["committed"]);
    }
    assert_eq!((marks(&device), data(&device).as_str()), (vec!["kept".to_owned()], "two"));
    boot(&device, 0).says(&["ordinary"]);
    let plan = device.here(&["rollback", "--with-data", "--json"]).refused(64, "usage");
    assert!(plan["message"].as_str().unwrap().contains("puts back kine as 1.0.0 left it at"), "{plan}");
    assert_eq!(marks(&device), ["kept"]);
    // Forth: the data of 1.0.0, and back, because that trial fails.
    device.here(&["rollback", "--with-data", "--yes"]).code(0).says(&["1.0.0", "with the data that it left"]);
    boot(&device, 0).says(&["kine back to what 1.0.0 left"]);
    assert_eq!((data(&device).as_str(), device.env().active), ("one", SlotId::B));
    migrate(&device, "one and more");
    fail(&device);
    boot(&device, 0).says(&["kine back to what 2.0.0 left"]);
    assert_eq!((data(&device).as_str(), device.env().active), ("two", SlotId::A));
    device.here(&["healthcheck"]).code(0);
    device.here(&["rollback", "--with-data", "--yes", "--json"]).refused(75, "nothing-to-roll-back");
}

#[test]
fn a_rollback_that_is_cancelled_leaves_no_checkpoint_that_nobody_can_use() {
    let (_registry, device) = updated();
    // The factory slot is named by its two images.
    device.here(&["rollback", "--with-data", "--yes"]).code(0);
    assert_eq!(marks(&device).len(), 2);
    device.here(&["rollback"]).code(0).says(&["cancelled"]);
    // The slot of the previous release is void from now on.
    assert_eq!(marks(&device), [""; 0]);
}

#[test]
fn data_that_are_kept_can_be_dropped() {
    let (_registry, device) = updated();
    device.here(&["data", "status"]).code(0).says(&[".kept: data of unknown from"]);
    device.here(&["data", "check"]).code(0).says(&["a checkpoint of kine needs"]);
    device.here(&["data", "drop"]).code(0).says(&["dropped"]);
    assert_eq!(marks(&device), [""; 0]);
    device.here(&["rollback", "--with-data", "--json"]).refused(75, "no-checkpoint");
}

/// A program that has a file of the datastore open.
fn user(device: &Device) -> Child {
    let file = fs::File::open(device.path("kine/state")).unwrap();
    Command::new("sleep").arg("60").stdin(file).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_trial_whose_data_cannot_be_saved_is_withdrawn_and_its_release_not_blamed() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "2.0.0", 2);
    for _ in 0..2 {
        activate(&device, &registry);
        power_on(&device);
        let mut user = user(&device);
        let error = device.here(&["data", "--json"]).refused(75, "data-checkpoint");
        assert!(error["message"].as_str().unwrap().contains("sleep"), "{error}");
        user.kill().unwrap();
        user.wait().unwrap();
        let env = device.env();
        assert_eq!((env.active, env.success, env.b, env.trial), (SlotId::A, true, SlotState::Void, TrialId::NONE));
        boot(&device, 0).says(&["ordinary"]);
        device.here(&["healthcheck"]).code(0);
        assert_eq!((device.names("S/data").len(), data(&device).as_str()), (0, "old"));
        let attempt = device.here(&["history", "--last", "--json"]).code(0).json()["attempt"].clone();
        let finding = &attempt["findings"][0];
        assert_eq!((&finding["exit_code"], &finding["reason"]), (&75.into(), &"data-checkpoint".into()), "{attempt}");
        let message = finding["message"].as_str().unwrap();
        let cause = "the trial of 2.0.0 was withdrawn, because its data could not be saved: data are in use: ";
        assert!(message.starts_with(cause) && message.contains("sleep"), "{message}");
        assert_eq!(device.state()["last_error"], message);
        assert!(
            !device.path("S/trust.json").exists() || device.here(&["status"]).code(0).stdout.contains("failed: none")
        );
    }
    device.from(&registry, &["apply", "--activate", "--json"]).refused(75, "data-checkpoint");
    device.from(&registry, &["apply", "--activate", "--retry-failed"]).code(0);
    boot(&device, 0).says(&["checkpoint of kine"]);
}

#[test]
fn nothing_is_written_where_no_folder_goes_back() {
    let (registry, device) = (Registry::start(), device());
    device.write("conf", b"state_paths=none\n");
    publish(&registry, "2.0.0", 2);
    device.write("conf", format!("state_paths=none\nplain_http={}\n", registry.address).as_bytes());
    activate(&device, &registry);
    boot(&device, 0).says(&["ordinary"]);
    migrate(&device, "new");
    fail(&device);
    boot(&device, 0).says(&["ordinary"]);
    assert_eq!(data(&device), "new");
    assert!(!device.path("S/data").exists());
}

#[test]
fn nothing_is_announced_where_nobody_would_put_it_back() {
    let (registry, device) = (Registry::start(), device());
    fs::remove_file(device.path("S/data-step")).unwrap();
    publish(&registry, "2.0.0", 2);
    activate(&device, &registry);
    assert!(!device.path("S/data").exists());
}

#[test]
fn settings_that_cannot_be_used_hold_no_boot_without_checkpoints() {
    let (_registry, device) = before_a_trial();
    device.write("conf", b"state_paths=../etc\n");
    power_on(&device);
    device.here(&["data", "--json"]).refused(78, "bad-config");
    assert_eq!(marks(&device), ["note"]);
    fs::remove_dir_all(device.path("S/data")).unwrap();
    device.here(&["data"]).code(0).says(&["ordinary"]);
}

#[test]
fn an_ordinary_boot_changes_nothing_on_the_disk() {
    let (_registry, device) = updated();
    boot(&device, 0);
    fs::remove_file(device.path("S/data-step")).unwrap();
    let before = device.tree("");
    device.here(&["data"]).code(0).says(&["ordinary"]);
    fs::remove_file(device.path("S/data-step")).unwrap();
    let mut after = device.tree("");
    // The record of the step is in memory on a device.
    after.insert(device.path("S"), before[&device.path("S")].clone());
    assert_eq!(after, before);
}

#[test]
fn an_incomplete_checkpoint_holds_all_services() {
    let (registry, device) = before_a_trial();
    boot(&device, 0);
    migrate(&device, "new");
    fail(&device);
    let held = device.names("S/data").into_iter().find(|name| name.ends_with("held")).unwrap();
    fs::remove_file(device.path(&format!("S/data/{held}/tree/0/state"))).unwrap();
    power_on(&device);
    device.here(&["data", "--json"]).refused(73, "data-incomplete");
    device.here(&["data", "--json"]).refused(73, "data-incomplete");
    assert_eq!(data(&device), "new");
    device.here(&["healthcheck"]).code(1).says(&["failed: checkpoint: data of the last good system wait"]);
    device.from(&registry, &["apply", "--activate", "--retry-failed", "--json"]).refused(75, "data-unsettled");
    device.here(&["data", "drop", "--accept-newer"]).code(0);
    device.here(&["data"]).code(0).says(&["ordinary"]);
}

/// The program ends before one of its calls that change the disk. After each cut the next boot has the old data.
#[test]
fn a_restore_survives_being_killed_at_each_call() {
    let (_registry, device) = before_a_trial();
    boot(&device, 0);
    migrate(&device, "new");
    fail(&device);
    power_on(&device);
    let mut cuts = 0;
    for call in ["rename", "fsync", "mkdir"] {
        cuts += (1..100).take_while(|number| is_killed(&device, call, *number)).count();
    }
    assert!(cuts >= 10, "{cuts}");
}

/// Kills the step at a call, on a copy of the device, and lets the next boot end it.
fn is_killed(device: &Device, call: &str, number: u32) -> bool {
    let work = tempfile::tempdir().unwrap();
    let mut copy = Command::new("cp");
    copy.args(["-a", "."]).arg(work.path()).current_dir(device.dir.path());
    assert!(copy.status().unwrap().success());
    let inject = format!("inject=/^{call}:signal=SIGKILL:when={number}");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &inject]).arg(&device.program).args(device.local(&["data"]));
    let status = strace.current_dir(work.path()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    finishes(work.path());
    !status.success()
}

fn finishes(folder: &std::path::Path) {
    let arguments = ["--conf", "/dev/null", "--state", "S/state.json", "data", "--slot-a", "A", "--slot-b", "B"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-update"));
    command.args(arguments).args(["--bootenv", "grub:grubenv", "--cmdline", "cmdline"]).current_dir(folder);
    let ran: Ran = command.output().unwrap().into();
    ran.code(0);
    assert_eq!(fs::read_to_string(folder.join("kine/state")).unwrap(), "old");
    assert!(!folder.join("kine/migrated").exists());
}

/// As an activation would refuse it, which comes days later. A release is fetched all the same.
#[test]
fn check_shows_the_gates_that_protect_the_data() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "2.0.0", 2);
    let gate = |name: &str| {
        let check = device.from(&registry, &["check", "--json"]).code(0).json();
        let gates = check["gates"].as_array().unwrap();
        gates.iter().find(|gate| gate["name"] == name).map(|gate| (gate["reason"].clone(), gate["message"].to_string()))
    };
    let (reason, message) = gate("data-space").unwrap();
    assert!(reason.is_null() && message.contains("about 0 s of 300 s"), "{message}");
    // The rate of a copy is not known yet: 8 MiB/s, and no block is in use.
    fs::File::create(device.path("kine/big")).unwrap().set_len(8 << 30).unwrap();
    assert_eq!(gate("data-space").unwrap().0, "data-time");
    device.from(&registry, &["apply"]).code(0);
    device.here(&["activate", "--json"]).refused(73, "data-time");
    fs::remove_file(device.path("kine/big")).unwrap();

    fs::create_dir_all(device.path("S/data/1234abcd.held")).unwrap();
    assert_eq!(gate("data-unsettled").unwrap().0, "data-unsettled");
    device.here(&["activate", "--json"]).refused(75, "data-unsettled");
    fs::remove_dir(device.path("S/data/1234abcd.held")).unwrap();

    assert!(gate("data-unprotected").unwrap().1.contains("does not say that its agent saves the data"));

    // Where no boot calls the step, nobody would put a checkpoint back.
    fs::remove_file(device.path("S/data-step")).unwrap();
    let (reason, message) = gate("data-space").unwrap();
    assert!(reason.is_null() && message.contains("did not run in this boot"), "{message}");
}

/// Publishes a release with an agent that saves data.
fn publish_saving(registry: &Registry, version: &str, salt: u8) {
    let plain = Metadata::new(version.parse().unwrap(), "stable");
    publish_as(registry, salt, Metadata { data_layout: Some(1), ..plain }, "os:stable");
}

/// Its agent may know no checkpoints: a trial of it would change the data for good.
#[test]
fn a_release_that_saves_no_data_takes_a_persons_word_where_folders_were_chosen() {
    let (registry, device) = (Registry::start(), device());
    publish(&registry, "1.0.0", 1);
    // The default of the settings is nobody's choice.
    let ran = device.from(&registry, &["apply", "--activate"]).code(0);
    assert!(ran.stderr.contains("data-unprotected: the release does not say that its agent saves the data"), "{ran:?}");
    boot(&device, 0);
    device.here(&["healthcheck"]).code(0);
    device.write("conf", b"state_paths=kine\n");
    let before = device.env();
    device.here(&["rollback", "--json"]).refused(77, "data-unprotected");
    device.here(&["rollback", "--with-data", "--yes", "--json"]).refused(77, "data-unprotected");
    assert_eq!(device.env(), before);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply"]).code(0);
    let error = device.here(&["activate", "--json"]).refused(77, "data-unprotected");
    assert!(error["remedy"].as_str().unwrap().contains("--data-layout 1"), "{error}");
    let ran = device.here(&["activate", "--allow-unprotected-data"]).code(0);
    assert!(ran.stderr.contains("--allow-unprotected-data is in effect"), "{ran:?}");
    boot(&device, 0).says(&["checkpoint of kine"]);
    device.here(&["healthcheck"]).code(0);
    let ran = device.here(&["rollback", "--allow-unprotected-data"]).code(0);
    assert!(ran.stderr.contains("--allow-unprotected-data is in effect"), "{ran:?}");
    device.here(&["rollback"]).code(0).says(&["cancelled"]);
    // One that says so needs no word.
    publish_saving(&registry, "3.0.0", 3);
    device.from(&registry, &["apply", "--activate"]).code(0);
}

/// By this the publisher knows that an image has an agent that saves data.
#[test]
fn the_program_names_the_annotation() {
    let program = fs::read(env!("CARGO_BIN_EXE_kubesolo-update")).unwrap();
    assert!(program.windows(DATA_LAYOUT.len()).any(|bytes| bytes == DATA_LAYOUT.as_bytes()));
}

#[test]
fn checkpoints_are_shown_and_measured() {
    let (registry, device) = (Registry::start(), device());
    let shown = || {
        let status = device.here(&["status", "--json"]).code(0).json();
        let metrics = device.here(&["metrics"]).code(0).stdout;
        let metric = metrics.lines().find_map(|line| line.strip_prefix("kubesolo_update_checkpoint_bytes ")).unwrap();
        (status["data"].clone(), metric.to_owned())
    };
    let found = |verdict: &str, words: &str| {
        let doctor = device.run(&device.local(&["doctor", "--json"])).json();
        let finding =
            doctor.as_array().unwrap().iter().find(|finding| finding["name"] == "checkpoint").unwrap().clone();
        assert!(finding["verdict"] == verdict && finding["message"].as_str().unwrap().contains(words), "{finding}");
    };
    let (data, metric) = shown();
    assert_eq!(
        (&data["paths"][0], data["checkpoints"].as_array().unwrap().len(), metric.as_str()),
        (&"kine".into(), 0, "0")
    );
    assert_eq!((&data["limit"], data["space"].as_u64() > Some(16 << 20)), (&300.into(), true), "{data}");
    found("ok", "a checkpoint of kine needs");
    publish(&registry, "2.0.0", 2);
    activate(&device, &registry);
    boot(&device, 0);
    let (data, metric) = shown();
    assert!(data["checkpoints"][0].as_str().unwrap().ends_with(".held"), "{data}");
    assert_eq!((&data["bytes"], metric.as_str()), (&3.into(), "3"));
    device.here(&["status"]).code(0).says(&["data:", "3 B in checkpoints, see `data status`"]);
    device.here(&["-v", "status"]).code(0).says(&["next data:", "a checkpoint of kine needs"]);
    fs::create_dir(device.path("kine/big")).unwrap();
    fs::File::create(device.path("kine/big/file")).unwrap().set_len(8 << 30).unwrap();
    found("fail", "a checkpoint takes about");
    fs::remove_file(device.path("S/data-step")).unwrap();
    found("warn", "did not run in this boot. Add the step `data` to the boot");
    device.write("conf", b"state_paths=none\n");
    found("ok", "no data go back with a release: state_paths=none");
}
