//! The work of the timer: the real program, run unattended, on a device of folders.

use crate::{cli_support, common};

use std::fs;
use std::time::Duration;

use bootenv::SlotId;
use chrono::{DateTime, TimeDelta, Utc};
use cli_support::{Device, Ran, publish};
use common::fault::{self, Fault, World};
use common::registry::Registry;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::config::{Config, Overrides};
use kubesolo_update::device::boot::Boot;
use kubesolo_update::schedule::clock::build_date;
use kubesolo_update::state::state::Outcome;
use kubesolo_update::update::attempt::by_timer;
use kubesolo_update::update::records::LockedRecords;
use kubesolo_update::update::unattended::{self, Done};
use serde_json::{Value, json};

/// One unattended run with this setting, from `os:stable`.
fn run(device: &Device, server: &impl AsRef<str>, setting: &str) -> Ran {
    device.write("conf", format!("{setting}\n").as_bytes());
    device.from(server, &["run", "--json"])
}

/// Settings for runs in this process, with paths that need no working directory: `os:stable` of this server.
pub fn config(device: &Device, server: &impl AsRef<str>, more: &str) -> Config {
    let path = |name: &str| device.path(name).display().to_string();
    let conf = format!(
        "registry={0}/os\ntag=stable\nplain_http={0}\npubkey={1}\nslot_a={2}\nslot_b={3}\nbootenv=grub:{4}\n\
         auto=activate\n{more}",
        server.as_ref(),
        path("K"),
        path("A"),
        path("B"),
        path("grubenv")
    );
    device.write("conf-here", conf.as_bytes());
    Config::load(&device.path("conf-here"), &Overrides::default()).unwrap()
}

/// The work of the timer in this process, at this time.
pub fn hour(device: &Device, config: &Config, now: DateTime<Utc>) -> Result<Done, Error> {
    let find = || Boot::find(config, None, Some(&device.path("cmdline")));
    let mut records = loop {
        // A child of another test holds the lock between its fork and its exec.
        match LockedRecords::lock(&device.path("S/state.json")) {
            Err(error) if error.reason == Reason::Locked => std::thread::yield_now(),
            records => break records.unwrap(),
        }
    };
    by_timer(config, &mut records, find, &|| now)
}

fn let_it_prove_itself(device: &Device) {
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
}

#[test]
fn it_goes_as_far_as_the_settings_say_and_no_further() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let (slots, env) = ((device.tree("A"), device.tree("B")), device.env_bytes());

    let checked = run(&device, &registry, "auto=check").code(0).json();
    assert_eq!((&checked["offered"]["version"], &checked["verdict"]), (&json!("1.0.0"), &json!("unknown")));
    assert_eq!((device.tree("A"), device.tree("B")), slots);
    assert_eq!((device.env_bytes(), device.phase().as_str()), (env.clone(), "idle"));
    assert_eq!(device.state()["last_run"]["outcome"], "unknown");

    // Without a word, and with it.
    for setting in ["", "auto=stage"] {
        assert_eq!(run(&device, &registry, setting).code(0).json()["outcome"], "staged");
        assert_eq!((device.env().active, device.phase().as_str()), (SlotId::A, "staged"), "{setting}");
    }
    let activated = run(&device, &registry, "auto=activate").code(0).json();
    assert_eq!((&activated["outcome"], &activated["written"]), (&json!("activated"), &json!(false)));
    assert_eq!((device.env().active, device.phase().as_str()), (SlotId::B, "activated"));
    let trial = device.env().trial;

    // Until the reboot, nothing more happens.
    let again = run(&device, &registry, "auto=activate").code(0).json();
    assert_eq!((&again["outcome"], device.env().trial), (&json!("activated"), trial));
    assert_eq!(device.phase(), "activated");
    let_it_prove_itself(&device);
    assert_eq!(run(&device, &registry, "auto=activate").code(0).json()["outcome"], "up-to-date");
    assert_eq!((device.phase().as_str(), &device.state()["last_run"]["outcome"]), ("success", &json!("up-to-date")));
}

#[test]
fn what_failed_its_trial_is_not_tried_again_unless_a_person_says_so_and_a_fixed_one_goes_through() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    run(&device, &registry, "auto=activate").code(0);
    let_it_prove_itself(&device);

    publish(&registry, "2.0.0", 2);
    run(&device, &registry, "auto=activate").code(0);
    device.fails_its_trial_and_is_back();
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    for _ in 0..3 {
        run(&device, &registry, "auto=activate").refused(75, "failed-before");
    }
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    assert_eq!(device.phase(), "rolled_back");
    let last = &device.state()["last_run"];
    assert_eq!((&last["outcome"], &last["reason"]), (&json!("held"), &json!("failed-before")));

    // A person: it fails once more, and is held again.
    device.from(&registry, &["apply", "--retry-failed", "--activate"]).code(0);
    device.fails_its_trial_and_is_back();
    run(&device, &registry, "auto=activate").refused(75, "failed-before");

    publish(&registry, "2.0.1", 3);
    assert_eq!(run(&device, &registry, "auto=activate").code(0).json()["outcome"], "activated");
    let_it_prove_itself(&device);
    assert_eq!(device.version_in(device.env().good).unwrap(), "2.0.1");
}

#[test]
fn no_flag_lifts_a_rule() {
    let device = Device::new();
    for flag in ["--force", "--retry-failed", "--allow-downgrade", "--ignore-rollout", "--activate", "--reboot"] {
        device.here(&["run", flag]).code(64);
    }
}

#[test]
fn outside_the_window_nobody_is_asked_and_nothing_changes() {
    let world = World::new(1000);
    let device = Device::new();
    let server = Fault::start(move |request, out| world.answer(request, out));
    let window = "auto=activate\nmaintenance_window=03:00-03:00";
    run(&device, &server, window).refused(75, "window");
    assert_eq!(server.requests().len(), 0);
    assert_eq!((device.phase().as_str(), &device.state()["last_run"]["reason"]), ("idle", &json!("window")));
    // The zone decides; one that is not there is a mistake in the settings.
    run(&device, &server, "maintenance_window=00:00-24:00\nmaintenance_zone=Nowhere/Land").refused(78, "bad-zone");
    assert_eq!(server.requests().len(), 0);
    run(&device, &server, "maintenance_window=00:00-24:00\nmaintenance_zone=Asia/Kolkata").code(0);
}

/// A download that takes longer than the window is staged; the next window activates it.
#[test]
fn what_was_fetched_for_too_long_is_not_activated_outside_the_window() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let config = config(&device, &registry, "maintenance_window=02:00-04:00\n");
    let run = |hours: &[i64]| {
        let hours = std::cell::RefCell::new(hours.iter());
        let clock = || build_date() + TimeDelta::minutes(60 * hours.borrow_mut().next().unwrap() + 30);
        let mut boot = Boot::find(&config, Some(SlotId::A), None).unwrap();
        device.wait_for_lock();
        let mut records = LockedRecords::lock(&device.path("S/state.json")).unwrap();
        unattended::run(&config, &mut boot, &mut records, &clock)
    };
    // The day of the build, at midnight: half past one, three, and four.
    let early = run(&[1, 1]).unwrap_err();
    assert_eq!(early.reason, Reason::Window);
    let late = run(&[3, 3, 4]).unwrap_err();
    assert_eq!(late.reason, Reason::Window);
    assert_eq!((device.phase().as_str(), device.env().active), ("staged", SlotId::A));
    let Done::Applied(applied) = run(&[26, 26, 27]).unwrap() else { panic!("it only asked") };
    assert_eq!((applied.outcome, applied.written, device.env().active), (Outcome::Activated, false, SlotId::B));
}

/// A medium without room for the state: nothing is changed before that is known, and the next run goes on.
#[test]
fn a_full_data_partition_stops_a_run_before_it_changes_anything() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.write("conf", b"auto=activate\n");
    let arguments = [&device.asking(&registry, &["run", "--json"])[..], &["--pubkey", "K"]].concat();
    let slots = (device.tree("A"), device.tree("B"), device.env_bytes());
    let full = "mount -t tmpfs -o size=8k,nr_inodes=16 tiny S && head -c 8192 /dev/zero >S/filler; \"$@\"; code=$?; ls S >listing; exit $code";
    let program = device.command(&arguments);
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["-rm", "sh", "-c", full, "sh"]).arg(program.get_program()).args(&arguments);
    let output = unshare.current_dir(device.dir.path()).output().unwrap();
    let ran = Ran::from(output);
    if ran.stderr.contains("unshare failed") || ran.stderr.contains("mount:") {
        println!("skipped: no filesystem can be mounted here");
        return;
    }
    let error = ran.refused(73, "state-no-space");
    assert!(error["remedy"].as_str().unwrap().contains("Make room on the data partition."), "{error}");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), slots);
    device.from(&registry, &["run"]).code(0).says(&["boots next"]);
}

/// A download that a shutdown ended: the next run goes on.
#[test]
fn a_run_that_is_ended_by_a_signal_leaves_nothing_that_disturbs_the_next() {
    // Not INT: a shell has its background jobs ignore it, and what they start does too.
    for signal in ["TERM", "KILL"] {
        let (world, device) = (World::new(600_000), Device::new());
        let (served, image) = (world.clone(), World::path(&world.initramfs));
        let server = Fault::start(move |request, out| {
            if request.path == image && request.earlier == 0 {
                fault::head(out, 200, &format!("Content-Length: {}\r\n", served.initramfs.len()));
                fault::send(out, &served.initramfs[..served.initramfs.len() / 2]);
                std::thread::sleep(Duration::from_secs(30));
            } else {
                served.answer(request, out);
            }
        });
        device.write("conf", b"auto=activate\n");
        let arguments = [&device.asking(&server, &["run"])[..], &["--pubkey", "K"]].concat();
        let mut child = device.command(&arguments).spawn().unwrap();
        while !fs::metadata(device.path("B/kubesolo-os.gz.part")).is_ok_and(|part| part.len() > 100_000) {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!((device.env().active, device.env().success), (SlotId::A, true), "{signal}");
        device.from(&server, &["run"]).code(0).says(&["boots next"]);
        let_it_prove_itself(&device);
        assert_eq!(device.here(&["history", "--json"]).code(0).json().as_array().unwrap().len(), 2, "{signal}");
    }
}

/// A fault in the settings is reported with its line, to monitors too, before anything else happens.
#[test]
fn wrong_settings_stop_a_run_and_unknown_ones_do_not() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    for (setting, words) in [
        ("maintenance_window=night", "conf:1: maintenance_window"),
        ("maintenance_window=Caturday 01:00-02:00", "conf:1: maintenance_window"),
        ("auto=yes", "conf:1: auto"),
        ("wariness=200", "conf:1: wariness"),
        ("auto", "conf:1: not of the form key=value"),
    ] {
        let before = device.tree("A");
        let error = run(&device, &registry, setting).refused(78, "bad-config");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(device.tree("A"), before);
        let state = device.state();
        assert_eq!(state["phase"], "failed");
        assert!(state["last_error"].as_str().unwrap().contains(words), "{state}");
    }
    let ran = run(&device, &registry, "maintenance_windows=03:00-03:00").code(0);
    assert!(ran.stderr.contains("conf:1: unknown key \"maintenance_windows\""), "{ran:#?}");
}

/// Refuses the first requests with 429 and the given `Retry-After`.
fn busy(world: World, refusals: usize, retry_after: &'static str) -> Fault {
    let refused = std::sync::atomic::AtomicUsize::new(0);
    Fault::start(move |request, out| {
        if refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < refusals {
            fault::reply(out, 429, &format!("Retry-After: {retry_after}\r\n"), b"slow down, please");
        } else {
            world.answer(request, out);
        }
    })
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_left_alone_until_then() {
    let device = Device::new();
    let server = busy(World::new(1000), 1, "3600");
    let error = run(&device, &server, "").refused(69, "rate-limited");
    assert!(error["message"].as_str().unwrap().contains("3600 s"), "{error}");
    assert_eq!(server.requests().len(), 1);
    let until: DateTime<Utc> = device.state()["not_before"].as_str().unwrap().parse().unwrap();
    let wait = until - Utc::now();
    assert!((3590..7210).contains(&wait.num_seconds()), "{wait}");

    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    for setting in ["", "auto=check", "auto=activate"] {
        let held = run(&device, &server, setting).refused(75, "not-before");
        assert!(held["message"].as_str().unwrap().contains("in effect until"), "{held}");
    }
    assert_eq!(server.requests().len(), 1, "not one request more");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);

    let check = device.from(&server, &["check", "--json"]).code(0).json();
    let gate = check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "not-before").unwrap();
    assert_eq!((&gate["open"], &gate["opens_at"]), (&json!(false), &device.state()["not_before"]));
    assert_eq!((&check["verdict"], &check["reason"]), (&json!("held"), &json!("not-before")));

    // A person is not kept from asking, and an answer ends it.
    device.from(&server, &["apply"]).code(0);
    assert_eq!(device.state()["not_before"], Value::Null);
    run(&device, &server, "auto=check").code(0);
}

#[test]
fn a_wish_that_is_over_is_no_hindrance() {
    let device = Device::new();
    let server = busy(World::new(1000), 1, "3600");
    run(&device, &server, "").code(69);
    let mut state = device.state();
    state["not_before"] = json!("2026-01-01T00:00:00Z");
    device.write("S/state.json", state.to_string().as_bytes());
    run(&device, &server, "").code(0);
}

#[test]
fn only_asking_leaves_the_phase_even_if_nobody_answers() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    run(&device, &registry, "auto=stage").code(0);
    let address = registry.address.clone();
    drop(registry);
    run(&device, &address, "auto=check").refused(69, "unreachable");
    assert_eq!((device.phase().as_str(), &device.state()["last_error"]), ("staged", &json!("")));
    let last = &device.state()["last_run"];
    assert_eq!((&last["outcome"], &last["reason"]), (&json!("failed"), &json!("unreachable")));
    run(&device, &address, "auto=stage").refused(69, "unreachable");
    assert_eq!(device.phase(), "failed");
}

/// Two timers, or a timer and a person: one does the work, the other says that it does.
#[test]
fn two_at_once_do_not_disturb_each_other() {
    let device = Device::new();
    let world = World::new(300_000);
    let slow = Fault::start(move |request, out| {
        std::thread::sleep(Duration::from_millis(300));
        world.answer(request, out);
    });
    device.write("conf", b"auto=activate\n");
    let arguments = [&device.asking(&slow, &["run", "--json"])[..], &["--pubkey", "K"]].concat();
    let start = || {
        let mut command = device.command(&arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| Ran::from(child.wait_with_output().unwrap()));
    let mut codes = both.iter().map(|ran| ran.code.unwrap()).collect::<Vec<_>>();
    codes.sort_unstable();
    assert_eq!(codes, [0, 75], "{both:#?}");
    let sent_away = both.iter().find(|ran| ran.code == Some(75)).unwrap();
    assert_eq!(sent_away.json()["error"]["reason"], "locked");
    assert_eq!((device.phase().as_str(), device.env().active), ("activated", SlotId::B));
    let_it_prove_itself(&device);
}

/// Files that KubeSolo OS or an old version left in the folder of the state, or that a bad medium made of it.
#[test]
fn damaged_files_of_the_state_are_set_aside_and_the_run_goes_on() {
    for name in ["state.json", "trust.json", "history.json"] {
        let (registry, device) = (Registry::start(), Device::new());
        publish(&registry, "1.0.0", 1);
        device.write(&format!("S/{name}"), b"{\"schema\": 1, \"phase\"");
        let ran = run(&device, &registry, "auto=activate").code(0);
        assert!(ran.stderr.contains(&format!("{name} is damaged")), "{ran:#?}");
        assert!(device.path(&format!("S/{name}.damaged-1")).exists());
        let_it_prove_itself(&device);
    }
    for name in ["state.json", "trust.json"] {
        let (registry, device) = (Registry::start(), Device::new());
        publish(&registry, "1.0.0", 1);
        device.write(&format!("S/{name}"), b"{\"schema\": 99}");
        let before = (device.tree("A"), device.tree("B"), device.env_bytes());
        run(&device, &registry, "auto=activate").refused(78, "newer-schema");
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
        assert_eq!(fs::read(device.path(&format!("S/{name}"))).unwrap(), b"{\"schema\": 99}");
    }
}
