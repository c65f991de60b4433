//! `history`, `metrics` and `doctor`: the views of an operator of many devices.

use crate::{cli_support, common};

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use cli_support::{Device, Ran, publish, publish_as};
use common::registry::Registry;
use kubesolo_release::Metadata;
use serde_json::{Value, json};

fn history(device: &Device) -> Vec<Value> {
    device.here(&["history", "--json"]).code(0).json().as_array().unwrap().clone()
}

/// Version and phase of each attempt.
fn told(device: &Device) -> Vec<(String, String, u64)> {
    let word = |attempt: &Value, key: &str| attempt[key].as_str().unwrap().to_owned();
    let one =
        |attempt: &Value| (word(attempt, "to_version"), word(attempt, "phase"), attempt["times"].as_u64().unwrap());
    history(device).iter().map(one).collect()
}

#[test]
fn each_attempt_is_kept_with_what_became_of_it() {
    let (registry, device) = (Registry::start(), Device::new());
    assert_eq!(device.here(&["history"]).code(0).stdout, "no attempt yet\n");
    let line = |version: &str, phase: &str, times| (version.to_owned(), phase.to_owned(), times);

    publish(&registry, "1.0.0", 1);
    let id = || device.state()["attempt_id"].clone();
    device.from(&registry, &["apply"]).code(0);
    let first = id();
    for _ in 0..2 {
        device.from(&registry, &["run"]).code(0); // as a timer does until somebody activates it
    }
    assert_eq!(told(&device), [line("1.0.0", "staged", 1)]);
    assert_eq!((id(), &device.state()["attempt_count"]), (first, &json!(1)));
    device.here(&["activate"]).code(0);
    device.from(&registry, &["apply"]).code(0); // in vain, and no attempt
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.from(&registry, &["apply"]).code(0); // up to date, and no attempt
    assert_eq!(told(&device), [line("1.0.0", "success", 1)]);

    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.fails_its_trial_and_is_back();
    device.from(&registry, &["apply"]).code(75); // held back, and no attempt
    let all = history(&device);
    assert_eq!(all.len(), 2);
    assert_eq!((&all[1]["phase"], &all[1]["from_version"]), (&json!("rolled_back"), &json!("1.0.0")));
    assert!(all[1]["error"].as_str().unwrap().contains("10-node"), "{all:#?}");
    assert_ne!(all[0]["id"], all[1]["id"]);

    // A server that is away for long is one entry, which says how often.
    let address = registry.address.clone();
    drop(registry);
    for _ in 0..3 {
        device.from(&address, &["apply"]).code(69);
    }
    assert_eq!(told(&device)[2..], [line("", "failed", 3)]);

    // Back to the release before is an attempt of its own.
    let registry = Registry::start();
    publish(&registry, "3.0.0", 3);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["rollback"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(told(&device)[3..], [line("3.0.0", "success", 1), line("1.0.0", "success", 1)]);
    device
        .here(&["history"])
        .code(0)
        .says(&["rolled_back 1.0.0 to 2.0.0: 2.0.0 failed its trial", ", 3 times: cannot"]);
}

#[test]
fn a_file_that_cannot_be_used_does_not_hide_what_the_other_one_tells() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    device.write("S/trust.json", b"{\"schema\": 99}");
    let intact = fs::read(device.path("S/state.json")).unwrap();
    let status = device.here(&["status", "--json"]).code(0).json();
    assert_eq!((&status["phase"], &status["to_version"]), (&json!("staged"), &json!("1.0.0")));
    assert!(status["problems"][0].as_str().unwrap().contains("trust.json has schema 99"), "{status}");
    device
        .here(&["metrics"])
        .code(0)
        .says(&["kubesolo_update_phase{phase=\"staged\"} 1", "kubesolo_update_problems 1"]);
    // One that is damaged is reported where the others are, and set aside by the next run that changes something.
    device.write("S/state.json", &intact[1..]);
    let status = device.here(&["status", "--json"]).code(0).json();
    assert!(status["problems"][0].as_str().unwrap().contains("state.json is damaged"), "{status}");
    assert_eq!(status["problems"].as_array().unwrap().len(), 2, "{status}");
}

/// Between the activation and its trial a timer may call for updates that fail.
#[test]
fn what_fails_meanwhile_is_an_attempt_of_its_own_and_not_the_end_of_a_trial() {
    let (registry, device) = (Registry::start(), Device::new());
    let line = |version: &str, phase: &str| (version.to_owned(), phase.to_owned(), 1);
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    let (id, began) = (device.state()["attempt_id"].clone(), device.state()["started_at"].clone());
    device.from(&"127.0.0.1:1", &["run", "--json"]).refused(69, "unreachable");
    device.write("conf", b"auto=never\n");
    device.from(&registry, &["run", "--json"]).refused(78, "bad-config");
    fs::remove_file(device.path("conf")).unwrap();
    assert_eq!(device.phase(), "failed", "a monitor hears of settings that stop this device");
    assert_eq!(told(&device), [line("1.0.0", "activated"), line("", "failed"), line("", "failed")]);

    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let state = device.state();
    assert_eq!((&state["phase"], &state["to_version"]), (&json!("success"), &json!("1.0.0")));
    assert_eq!((&state["last_error"], &state["attempt_id"], &state["started_at"]), (&json!(""), &id, &began));
    assert_eq!(told(&device), [line("", "failed"), line("", "failed"), line("1.0.0", "success")]);

    // Nor is it the end of what was committed.
    device.write("conf", b"auto=never\n");
    device.from(&registry, &["apply", "--json"]).refused(78, "bad-config");
    assert_eq!(told(&device)[2..], [line("1.0.0", "success"), line("", "failed")]);
}

#[test]
fn the_history_is_bounded_and_a_damaged_one_is_told() {
    use kubesolo_update::state::history::{ATTEMPTS_KEPT, Attempt, Entry, History};
    let mut all = History::default();
    for n in 0..=ATTEMPTS_KEPT + 9 {
        all.add(Entry { attempt: Attempt { id: n.to_string(), ..Attempt::default() }, ..Entry::default() });
    }
    assert_eq!((all.attempts.len(), all.attempts[0].attempt.id.as_str()), (ATTEMPTS_KEPT, "10"));
    let device = Device::new();
    device.write("S/history.json", b"{");
    device.here(&["history", "--json"]).refused(78, "history-damaged");
    device.write("S/history.json", b"{\"schema\": 99}");
    device.here(&["history", "--json"]).refused(78, "newer-schema");
}

/// Name and labels of a series, and its value.
type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// A strict reader of the text format: every series belongs to the family before it, which has help and type and stands
/// once; no series stands twice.
fn parse(page: &str) -> Series {
    let (mut series, mut families, mut current) = (Series::new(), BTreeSet::new(), String::new());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && families.insert(name.to_owned()), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(matches!(kind, "gauge" | "counter") && (kind == "counter") == name.ends_with("_total"), "{line}");
            current = name.to_owned();
            assert!(lines.peek().is_some_and(|next| next.starts_with(name)), "no series of {name}");
            continue;
        }
        let (mut labels, mut rest) = (BTreeMap::new(), line.strip_prefix(&current).unwrap_or_else(|| panic!("{line}")));
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                let (name, after) = inner.split_once("=\"").unwrap();
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                let (mut value, mut chars) = (String::new(), after.char_indices());
                let end = loop {
                    match chars.next().unwrap() {
                        (at, '"') => break at,
                        (_, '\\') => match chars.next().unwrap().1 {
                            'n' => value.push('\n'),
                            c @ ('\\' | '"') => value.push(c),
                            c => panic!("\\{c} in {line}"),
                        },
                        (_, c) => value.push(c),
                    }
                };
                assert!(labels.insert(name.to_owned(), value).is_none(), "{line}");
                inner = &after[end + 1..];
                match inner.split_at(1) {
                    (",", more) => inner = more,
                    ("}", after) => {
                        rest = after;
                        break;
                    }
                    _ => panic!("{line}"),
                }
            }
        }
        let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
        assert!(series.insert((current.clone(), labels), value).is_none(), "twice: {line}");
    }
    assert!(page.ends_with('\n'));
    series
}

/// The page, read strictly, and by the real `promtool` where there is one.
fn metrics(device: &Device) -> Series {
    let page = device.here(&["metrics"]).code(0).stdout;
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    match promtool {
        Err(_) => println!("promtool is not here"),
        Ok(mut child) => {
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), page.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    parse(&page)
}

fn value(series: &Series, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    series.get(&(format!("kubesolo_update_{name}"), labels)).copied()
}

/// The page for operators names each series and each gate.
#[test]
fn the_documentation_names_every_metric_and_every_gate() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md")).unwrap();
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["run"]).code(0);
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    for (name, _) in metrics(&device).into_keys() {
        assert!(docs.contains(&format!("`{name}")), "{name}");
    }
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    for gate in check["gates"].as_array().unwrap() {
        let name = gate["name"].as_str().unwrap();
        assert!(docs.contains(&format!("| {name}")) || docs.contains(&format!(", {name}")), "{name}");
    }
}

#[test]
fn metrics_tell_where_an_update_stands() {
    let (registry, device) = (Registry::start(), Device::new());
    let fresh = metrics(&device);
    let phases: Vec<_> = fresh.iter().filter(|((name, _), _)| name == "kubesolo_update_phase").collect();
    assert_eq!((phases.len(), phases.iter().map(|(_, value)| **value).sum()), (9, 1.0));
    assert_eq!(value(&fresh, "phase", &[("phase", "idle")]), Some(1.0));
    assert_eq!(
        (value(&fresh, "attempts_total", &[]), value(&fresh, "last_run_timestamp_seconds", &[])),
        (Some(0.0), None)
    );

    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["run"]).code(0);
    device.here(&["activate"]).code(0);
    let activated = metrics(&device);
    assert_eq!(value(&activated, "phase", &[("phase", "activated")]), Some(1.0));
    assert_eq!(value(&activated, "trial_tries_left", &[]), Some(3.0));
    device.power_on();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    device.power_on();
    device.here(&["healthcheck"]).code(1);
    device.from(&registry, &["run"]).code(75);
    let held = metrics(&device);
    for (name, labels, expected) in [
        ("phase", &[("phase", "rolled_back")][..], 1.0),
        ("phase", &[("phase", "activated")], 0.0),
        ("attempts_total", &[], 1.0),
        ("failed_releases", &[], 1.0),
        ("held", &[], 1.0),
        ("last_run_info", &[("outcome", "held"), ("reason", "failed-before")], 1.0),
        ("slot_state", &[("slot", "B"), ("state", "fail")], 1.0),
        ("slot_state", &[("slot", "A"), ("state", "good")], 1.0),
        ("security_epoch", &[], 0.0),
        ("environment_ok", &[], 1.0),
        ("ends_itself", &[("boot", "panic")], 1.0),
        ("problems", &[], 0.0),
    ] {
        assert_eq!(value(&held, name, labels), Some(expected), "{name} {labels:?} in {held:#?}");
    }
    let now = chrono::Utc::now().timestamp() as f64;
    for name in ["last_run", "last_attempt", "env_link_shown"] {
        let at = value(&held, &format!("{name}_timestamp_seconds"), &[]).unwrap();
        assert!((now - 100.0..=now).contains(&at), "{name}: {at}");
    }
}

#[test]
fn the_end_of_support_is_shown_and_measured() {
    let (registry, device) = (Registry::start(), Device::new());
    let supported = |version: &str, salt, until: &str| {
        let supported_until = Some(until.parse().unwrap());
        let plain = Metadata::new(version.parse().unwrap(), "stable");
        publish_as(&registry, salt, Metadata { supported_until, ..plain }, "os:stable");
    };
    assert_eq!(value(&metrics(&device), "supported_until_timestamp_seconds", &[]), None);
    supported("1.0.0", 1, "2001-02-03T00:00:00Z");
    device.from(&registry, &["check"]).code(0).says(&["offered release until 2001-02-03", ", which is over"]);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(value(&metrics(&device), "supported_until_timestamp_seconds", &[]), Some(981_158_400.0));
    device.here(&["status"]).code(0).says(&["support:", "ended 2001-02-03"]);

    supported("2.0.0", 2, "2999-01-01T00:00:00Z");
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!(check["running_supported_until"], "2001-02-03T00:00:00Z", "{check:#}");
    assert_eq!(check["offered"]["supported_until"], "2999-01-01T00:00:00Z", "{check:#}");
    device
        .from(&registry, &["check"])
        .code(0)
        .says(&["running release until 2001-02-03", "offered release until 2999-01-01"]);
}

#[test]
fn a_file_that_somebody_wrote_cannot_forge_a_series() {
    let device = Device::new();
    let evil = "x\"} 1\nkubesolo_update_forged 1\n\\";
    let state = json!({"schema": 1, "last_run": {"at": "2026-01-01T00:00:00Z", "outcome": evil, "reason": "\u{202e}"}});
    device.write("S/state.json", state.to_string().as_bytes());
    let series = metrics(&device);
    assert_eq!(value(&series, "forged", &[]), None);
    assert_eq!(value(&series, "last_run_info", &[("outcome", evil), ("reason", "\u{fffd}")]), Some(1.0));
    // An unreadable file is no reason to say nothing.
    device.write("S/state.json", b"{\"schema\": 99}");
    assert!(value(&metrics(&device), "problems", &[]).unwrap() > 0.0);
    device.write("conf", b"nonsense\n");
    assert!(value(&metrics(&device), "problems", &[]).unwrap() > 0.0);
}

#[test]
fn metrics_go_into_a_file_that_is_always_whole() {
    let device = Device::new();
    fs::create_dir(device.path("textfile")).unwrap();
    let output = "textfile/kubesolo.prom";
    for _ in 0..2 {
        assert_eq!(device.here(&["metrics", "--output", output]).code(0).stdout, "");
    }
    assert_eq!(device.names("textfile"), ["kubesolo.prom"]);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(device.path(output)).unwrap());
    assert_eq!(mode & 0o777, 0o644, "node_exporter is another user");
    parse(&fs::read_to_string(device.path(output)).unwrap());
    device.here(&["metrics", "--json", "--output", "nowhere/x.prom"]).refused(73, "output");
}

/// Verdict of each line, by its name; the worst where there are several.
fn findings(device: &Device, code: i32) -> BTreeMap<String, String> {
    let all = device.here(&["doctor"]).code(code);
    let json = device.here(&["doctor", "--json"]).code(code).json();
    let mut worst = BTreeMap::<String, String>::new();
    for finding in json.as_array().unwrap() {
        let word = |key: &str| finding[key].as_str().unwrap().to_owned();
        let shown = if word("verdict") == "fail" { "FAIL".to_owned() } else { word("verdict") };
        // Other tests use the same disk meanwhile.
        let told = if word("name") == "data space" { String::new() } else { word("message") };
        assert!(all.stdout.contains(&format!("{shown:<5} {:<13} {told}", word("name"))), "{all:#?}");
        let rank = |verdict: &str| ["ok", "warn", "fail"].iter().position(|known| *known == verdict).unwrap();
        let verdict = word("verdict");
        let entry = worst.entry(word("name")).or_insert_with(|| verdict.clone());
        if rank(&verdict) > rank(entry) {
            *entry = verdict;
        }
    }
    worst
}

#[test]
fn entries_of_folders_that_do_not_count_are_reported() {
    let device = Device::new();
    for folder in ["keys", "health.d/wanted", "pre-update.d"] {
        fs::create_dir_all(device.path(folder)).unwrap();
    }
    for key in ["keys/release.pub", "keys/old.pub.bak", "keys/README"] {
        fs::copy(device.path("K"), device.path(key)).unwrap();
    }
    for program in ["health.d/10-check.sh", "health.d/20-check~", "health.d/wanted/#30-check#", "pre-update.d/10.orig"]
    {
        device.script(program, "exit 0");
    }
    device.write("health.d/40-check", b"#!/bin/sh\n");
    std::os::unix::fs::symlink("nowhere", device.path("health.d/50-check")).unwrap();
    device.write("conf", b"pubkey=keys\nhealth_dir=health.d\npre_update_dir=pre-update.d\n");
    device.here(&["doctor"]).says(&[
        "warn  keys          keys/README: not a key of this device because of its name",
        "warn  keys          keys/old.pub.bak: not a key",
        "ok    health checks 10-check.sh\n",
        "warn  health checks 20-check~: not run because of its name",
        "warn  health checks 40-check: not run: it is not executable. Run chmod +x",
        "warn  health checks 50-check: not run: it is a link to nowhere, which does not exist",
        "warn  health checks wanted/#30-check#: not run",
        "ok    pre-update    no hooks",
        "warn  pre-update    10.orig: not run because of its name",
    ]);
    device
        .here(&["healthcheck"])
        .says(&["failed (optional): 40-check: not run", "failed (optional): 50-check: not run"]);
}

/// No request shows it: a receiver without TLS that `plain_http=` does not list gets nothing.
#[test]
fn the_doctor_names_a_receiver_that_cannot_be_used() {
    let device = Device::new();
    for (key, name, verdict) in [("event_url", "events", "warn"), ("fleetlock_url", "fleetlock", "fail")] {
        for (settings, expected) in [
            (format!("{key}=http://hub.example.com/hook\n"), verdict),
            (format!("{key}=http://hub.example.com/hook\nplain_http=hub.example.com\n"), "ok"),
            (format!("{key}=https://user:word@hub.example.com/hook\n"), "ok"),
        ] {
            device.write("conf", settings.as_bytes());
            let all = device.here(&["doctor", "--json"]).json();
            let finding = all.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
            assert_eq!(finding["verdict"], expected, "{settings}: {finding}");
            let message = finding["message"].as_str().unwrap();
            assert!(message.contains("hub.example.com") && !message.contains("word"), "{message}");
        }
    }
}

#[test]
fn the_doctor_tells_one_thing_from_another() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let good = format!(
        "registry={0}/os\nplain_http={0}\npubkey=K\ndata_dir=data\nhealth_dir=health.d\nmachine_id_file=id\n",
        registry.address
    );
    device.write("id", b"0123456789abcdef0123456789abcdef\n");
    device.make_unhealthy(); // it need not be healthy, only checked
    device.write("conf", good.as_bytes());
    device.power_on();
    let before = device.tree("");
    let sound = findings(&device, 0);
    assert_eq!(device.tree(""), before, "it changes nothing");
    for (name, verdict) in [
        ("settings", "ok"),
        ("source", "warn"), // without TLS
        ("keys", "ok"),
        ("window", "ok"),
        ("health checks", "ok"),
        ("data", "ok"),
        ("pre-update", "ok"),
        ("device id", "ok"),
        ("state", "ok"),
        ("slots", ""),
        ("running", "ok"),
        ("loader", "ok"),
        ("free slot", "ok"),
    ] {
        assert_eq!(sound.get(name).map_or("", String::as_str), verdict, "{name} in {sound:#?}");
    }

    let warnings = device
        .here(&["doctor", "--json"])
        .json()
        .as_array()
        .unwrap()
        .iter()
        .fold(0, |sum, finding| sum + usize::from(finding["verdict"] == "warn"));
    device.here(&["doctor"]).says(&[&format!("\n0 failed, {warnings} warning")]);

    for (what, conf, name, verdict) in [
        (
            "a tag that no registry takes",
            "registry=r.example/os\ntag=no/tag\npubkey=K\ndata_dir=data\n",
            "source",
            "fail",
        ),
        (
            "authorities that are not there",
            "registry=r.example/os\nregistry_ca=gone\npubkey=K\ndata_dir=data\n",
            "source",
            "fail",
        ),
        ("no source", "pubkey=K\ndata_dir=data\n", "source", "fail"),
        ("no keys", "registry=r.example/os\ndata_dir=data\npubkey=gone\n", "keys", "fail"),
        ("a bad key", "registry=r.example/os\ndata_dir=data\npubkey=conf\n", "keys", "fail"),
        ("a key that is not known", "registry=r.example/os\ndata_dir=data\npubkey=K\nchanel=x\n", "settings", "warn"),
        ("a line that is none", "registry\n", "settings", "fail"),
        ("a bad window", "maintenance_window=night\n", "settings", "fail"),
        (
            "a window that never opens",
            "registry=r.example/os\npubkey=K\ndata_dir=data\nmaintenance_window=03:00-03:00\n",
            "window",
            "fail",
        ),
        (
            "a zone that is not there",
            "registry=r.example/os\npubkey=K\ndata_dir=data\nmaintenance_zone=Nowhere/Land\n",
            "window",
            "fail",
        ),
        ("no data folder", "registry=r.example/os\npubkey=K\ndata_dir=gone\n", "data", "fail"),
        (
            "no health checks",
            "registry=r.example/os\npubkey=K\ndata_dir=data\nhealth_dir=gone\n",
            "health checks",
            "warn",
        ),
    ] {
        device.write("conf", conf.as_bytes());
        let found = findings(&device, if verdict == "fail" { 78 } else { 0 });
        assert_eq!(found.get(name).map(String::as_str), Some(verdict), "{what}: {found:#?}");
    }

    device.write("conf", good.as_bytes());
    device.write("S/state.json", b"{");
    assert_eq!(findings(&device, 0)["state"], "warn");
    device.write("S/state.json", b"{\"schema\": 99}");
    assert_eq!(findings(&device, 78)["state"], "fail");
    fs::remove_file(device.path("S/state.json")).unwrap();
    device.write("cmdline", b"kubesolo.slot=A\n");
    assert_eq!(findings(&device, 78)["loader"], "fail");
    device.power_on();
    device.write("grubenv", b"nothing");
    assert_eq!(findings(&device, 78)["environment"], "fail");
    fs::remove_file(device.path("grubenv")).unwrap();
    assert_eq!(findings(&device, 78)["slots"], "fail");
}

#[test]
fn settings_that_refuse_the_running_release_are_a_warning() {
    let (registry, device) = (Registry::start(), Device::new());
    let board = Metadata { board: Some("rpi5".into()), ..Metadata::new("1.0.0".parse().unwrap(), "stable") };
    publish_as(&registry, 1, board, "os:stable");
    device.write("conf", b"board=rpi5\nchannel=stable\n");
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["doctor"]).says(&["ok    channel       stable\n", "ok    board         rpi5\n"]);
    device.write("conf", b"channel=beta\n");
    device.here(&["doctor"]).says(&[
        "warn  channel       by these settings the running release would be refused: the release is for channel stable",
        "warn  board         by these settings the running release would be refused: the release is for board rpi5",
    ]);
}

#[test]
fn config_show_prints_each_setting_in_effect_and_where_it_comes_from() {
    let device = Device::new();
    device.write("conf", b"server=https://me:secret@a.example/os\nchannel=beta\n");
    fs::create_dir(device.path("conf.d")).unwrap();
    device.write("conf.d/site.conf", b"channel=stable\nauto_rollback_after=\n");
    let show = |arguments: &[&str]| device.run(&[&["--conf", "conf", "config", "show"], arguments].concat());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();

    let all = show(&[]).code(0);
    let lines: Vec<_> = all.stdout.lines().map(words).collect();
    for line in [
        ["server", "https://***@a.example/os", "conf:1"],
        ["channel", "stable", "conf.d/site.conf:1"],
        ["auto", "stage", "default"],
        ["board", "(none)", "default"],
    ] {
        assert!(lines.contains(&line.map(str::to_owned).to_vec()), "{line:?} in {all:#?}");
    }
    assert!(!all.stdout.contains("secret"));

    // As the step health asks.
    assert_eq!(show(&["--set", "auto_rollback_after"]).code(0).stdout, "");
    device.write("conf.d/site.conf", b"auto_rollback_after = 0\n");
    assert_eq!(show(&["--set", "auto_rollback_after"]).code(0).stdout.lines().count(), 1);

    let replaced = show(&["--registry", "b.example/os", "--json", "server", "registry", "auto"]).code(0).json();
    assert_eq!(
        replaced,
        json!([
            {"key": "server", "value": null, "default": "none", "from": "default"},
            {"key": "registry", "value": "b.example/os", "default": "none", "from": "command-line"},
            {"key": "auto", "value": "stage", "default": "stage", "from": "default"},
        ])
    );
    let line = &show(&["--json", "--set"]).code(0).json()[0];
    assert_eq!((&line["from"], &line["file"], &line["line"]), (&json!("file"), &json!("conf"), &json!(1)));
    show(&["-v", "health_timeout"]).code(0).says(&["# Time limit for all health checks"]);
    assert!(show(&["chanel"]).code(64).stderr.contains("channel"));
    device.write("conf", b"auto=never\n");
    show(&["--json"]).refused(78, "bad-config");
}

#[test]
fn config_check_refuses_an_unknown_key_and_other_commands_only_warn() {
    let device = Device::new();
    device.write("conf", b"channel=beta\n\nchanel=beta\nauto_rebot=no\n");
    let check = |arguments: &[&str]| device.run(&[&["--conf", "conf", "config", "check"], arguments].concat());
    check(&[]).code(78).says(&["conf:3: unknown key \"chanel\"", "channel?", "conf:4: ", "auto_reboot?", "2 problems"]);
    let found = check(&["--json"]).code(78).json();
    let first = &found["problems"][0];
    assert_eq!((&first["file"], &first["line"], &found["settings"]), (&json!("conf"), &json!(3), &json!(1)));
    assert!(device.here(&["status"]).code(0).stderr.contains("conf:3: unknown key"));

    device.write("good", b"channel=beta\n");
    check(&["good"]).code(0).says(&["good: 1 setting, 0 problems"]);
    check(&["nowhere", "--json"]).refused(78, "bad-config");
    device.run(&["--conf", "/dev/null", "config", "check"]).code(0);
}

#[test]
fn an_error_ends_with_the_command_that_explains_its_reason() {
    let device = Device::new();
    device.write("conf", b"auto=never\n");
    let failed = device.run(&["--conf", "conf", "check"]).code(78);
    let command =
        failed.stderr.lines().last().unwrap().trim().strip_prefix("More: kubesolo-update ").unwrap().to_owned();
    assert_eq!(command, "explain bad-config");
    let words: Vec<_> = command.split(' ').collect();
    device.run(&words).code(0).says(&["bad-config (exit code 78: configuration)", "  A setting is wrong."]);
    device.run(&["explain", "75"]).code(0).says(&["exit code 75: not now", "  window\n"]);
    let one = &device.run(&["explain", "no-key", "--json"]).code(0).json()[0];
    assert_eq!((&one["reason"], &one["exit_code"]), (&json!("no-key"), &json!(77)));
    let unknown = device.run(&["explain", "no-kay"]).code(64).stderr;
    assert!(unknown.contains("'no-key'") && unknown.lines().count() < 8, "{unknown}");
}

#[test]
fn verbs_of_other_programs_lead_to_apply() {
    let device = Device::new();
    for verb in ["update", "upgrade", "install"] {
        let failed = device.run(&[verb]).code(64);
        assert!(failed.stderr.contains("did you mean 'kubesolo-update apply'?"), "{failed:#?}");
    }
    assert!(!device.run(&["instal"]).code(64).stderr.contains("did you mean 'kubesolo-update apply'?"));
}

#[test]
fn the_version_names_the_target_and_a_build_without_git_names_no_commit() {
    let ran = Device::new().run(&["--version"]).code(0);
    let target = format!("({}-linux)\n", std::env::consts::ARCH);
    assert_eq!(ran.stdout, format!("kubesolo-update {} {target}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_report_that_does_not_arrive_is_a_failure_and_a_reader_that_went_away_is_none() {
    let device = Device::new();
    device.here(&["healthcheck"]).code(0);
    let ran = |arguments: &[&str], out: Stdio| -> Ran {
        let mut command = device.command(&device.local(arguments));
        command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap().into()
    };
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    // Nobody reads from the other end any more.
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    for arguments in
        [&["status", "--json"][..], &["status"], &["metrics"], &["history"], &["config", "show"], &["explain"]]
    {
        let told = ran(arguments, full());
        assert_eq!(told.code, Some(73), "{arguments:?}: {told:?}");
        assert!(told.stderr.contains("cannot write to standard output"), "{arguments:?}: {told:?}");
        assert_eq!(ran(arguments, closed()).code, Some(0), "{arguments:?}");
    }
    assert_eq!(device.command(&["--help"]).stdout(full()).status().unwrap().code(), Some(73));
    // The verdict of a boot counts, with or without a reader.
    let healthcheck = ["healthcheck", "--data-dir", "data", "--health-dir", "health.d"];
    let told = ran(&healthcheck, full());
    assert!(told.code == Some(0) && told.stderr.contains("cannot write to standard output"), "{told:?}");
}

#[test]
fn a_page_of_metrics_can_be_read_by_the_collector_whatever_the_umask() {
    let device = Device::new();
    for umask in ["0777", "077", "0"] {
        let line = format!("umask {umask}; exec \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line, "sh"]).arg(&device.program).args(device.local(&["metrics", "--output", "page.prom"]));
        let told: Ran = shell.current_dir(device.dir.path()).output().unwrap().into();
        assert_eq!(told.code, Some(0), "{told:?}");
        let mode = fs::metadata(device.path("page.prom")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "umask {umask}");
    }
}
