//! Is this the latest release? Statements by the real publisher, in a real registry and on an HTTP server.

use crate::{cli_support, common};

use std::collections::BTreeMap;
use std::fs;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use cli_support::{Device, key, publish};
use common::fault::{self, Fault, World};
use common::registry::Registry;
use kubesolo_release::freshness::Place;
use kubesolo_release::registry::Access;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::release::statement::Statement;
use serde_json::Value;

fn days(n: i64) -> DateTime<Utc> {
    Utc::now().trunc_subsecs(0) + TimeDelta::days(n)
}

fn statement(serial: u64, digest: Digest, not_after: DateTime<Utc>) -> Statement {
    let digests = BTreeMap::from([(Architecture::current().to_string(), digest)]);
    Statement { channel: "stable".into(), serial, issued: not_after - TimeDelta::days(14), not_after, digests }
}

/// Publishes a statement for `os:stable`, signed with this key.
fn state(registry: &Registry, statement: &Statement, seed: u8) {
    let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
    Place::Registry(format!("{}/os:stable", registry.address), access).publish(statement, &[key(seed)]).unwrap();
}

/// A device with these settings, which runs 0.1.0.
fn device(settings: &str) -> Device {
    let device = Device::new();
    set(&device, settings);
    device
}

fn set(device: &Device, settings: &str) {
    device.write("version", b"0.1.0");
    device.write("conf", format!("version_file=version\n{settings}\n").as_bytes());
}

/// The verdict of `check`, and what it says of freshness.
fn check(device: &Device, registry: &Registry) -> (String, Value) {
    let check = device.from(registry, &["check", "--json"]).code(0).json();
    (check["verdict"].as_str().unwrap().to_owned(), check["freshness"].clone())
}

fn word(freshness: &Value) -> (&str, Option<&str>) {
    (freshness["verdict"].as_str().unwrap(), freshness["reason"].as_str())
}

fn serial(device: &Device) -> u64 {
    let trust: Value = serde_json::from_slice(&fs::read(device.path("S/trust.json")).unwrap()).unwrap();
    assert_eq!(trust["serials"].as_array().unwrap().len(), 1);
    trust["serials"][0]["serial"].as_u64().unwrap()
}

#[test]
fn a_statement_proves_the_latest_release_and_one_of_another_release_is_a_warning() {
    let (registry, device) = (Registry::start(), device(""));
    let digest = publish(&registry, "1.0.0", 1);
    assert_eq!(check(&device, &registry), ("update-available".into(), Value::Null), "without any, nothing is said");
    state(&registry, &statement(5, digest, days(7)), 1);
    let (verdict, freshness) = check(&device, &registry);
    assert_eq!(
        (verdict.as_str(), word(&freshness), &freshness["serial"]),
        ("update-available", ("fresh", None), &5.into())
    );
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(serial(&device), 5);
    let status = device.here(&["status", "--json"]).code(0).json();
    assert_eq!(word(&status["freshness"]), ("fresh", None));

    // The tag is held back while the publisher has moved on.
    state(&registry, &statement(6, Digest([7; 32]), days(7)), 1);
    let (verdict, freshness) = check(&device, &registry);
    assert_eq!((verdict.as_str(), word(&freshness)), ("update-available", ("stale", Some("not-the-latest"))));
    let ran = device.from(&registry, &["apply"]).code(0);
    assert!(ran.stderr.contains("the latest release is sha256:0707"), "{ran:?}");
    device.here(&["status"]).code(0).says(&["latest:       stale: the latest release is"]);
}

#[test]
fn a_device_that_was_off_for_a_year_still_updates_and_require_fresh_waits() {
    let (registry, device) = (Registry::start(), device(""));
    let digest = publish(&registry, "1.0.0", 1);
    state(&registry, &statement(5, digest, days(-365)), 1);
    assert_eq!(word(&check(&device, &registry).1), ("stale", Some("expired")));
    set(&device, "require_fresh=yes");
    let before = device.tree("B");
    device.from(&registry, &["apply", "--json", "--force"]).refused(75, "not-fresh");
    assert_eq!(check(&device, &registry).0, "held");
    assert!(device.tree("B") == before);
    set(&device, "");
    let ran = device.from(&registry, &["apply"]).code(0);
    assert!(ran.stderr.contains("the last freshness statement ended on"), "{ran:?}");
    state(&registry, &statement(6, digest, days(1)), 1);
    set(&device, "require_fresh=yes");
    device.from(&registry, &["apply"]).code(0);
}

#[test]
fn whatever_is_no_proof_leaves_it_unknown_and_holds_nothing_back() {
    let (registry, device) = (Registry::start(), device(""));
    let digest = publish(&registry, "1.0.0", 1);
    let fine = statement(5, digest, days(7));
    let with = |change: &dyn Fn(&mut Statement), seed: u8| {
        let mut other = fine.clone();
        change(&mut other);
        state(&registry, &other, seed);
        let (verdict, freshness) = check(&device, &registry);
        assert_eq!(verdict, "update-available");
        let (word, reason) = word(&freshness);
        assert_eq!(word, "unknown", "{freshness}");
        reason.unwrap().to_owned()
    };
    assert_eq!(with(&|_| (), 9), "statement-not-proven");
    assert_eq!(with(&|s| s.channel = "beta".into(), 1), "other-channel");
    assert_eq!(with(&|s| s.digests = BTreeMap::from([("riscv64".into(), digest)]), 1), "other-architecture");
    assert_eq!(with(&|s| (s.issued, s.not_after) = (days(2), days(9)), 1), "clock");
    set(&device, "freshness=yes");
    let other = Registry::start();
    publish(&other, "1.0.0", 1);
    assert_eq!(word(&check(&device, &other).1), ("unknown", Some("no-statement")));
    set(&device, "freshness=no");
    state(&registry, &fine, 1);
    assert_eq!(check(&device, &registry).1, Value::Null);
    set(&device, "freshness=no\nrequire_fresh=yes");
    device.from(&registry, &["check", "--json"]).refused(78, "bad-config");
}

#[test]
fn a_clock_set_back_makes_no_expired_statement_valid_again() {
    let (registry, device) = (Registry::start(), device(""));
    let digest = publish(&registry, "1.0.0", 1);
    let hours = |n| Utc::now().trunc_subsecs(0) + TimeDelta::hours(n);
    state(&registry, &Statement { issued: hours(-2), ..statement(5, digest, hours(10)) }, 1);
    let trust = || serde_json::from_slice::<Value>(&fs::read(device.path("S/trust.json")).unwrap()).unwrap();
    let known = |time: DateTime<Utc>| {
        let mut trust = trust();
        trust["last_seen"] = time.to_rfc3339().into();
        device.write("S/trust.json", trust.to_string().as_bytes());
    };
    let last_seen = || trust()["last_seen"].as_str().map(|time| time.parse::<DateTime<Utc>>().unwrap());
    fs::create_dir_all(device.path("S")).unwrap();
    device.write("S/trust.json", br#"{"schema": 1}"#);
    let far = hours(25);
    for (time, expected) in
        [(hours(9), ("fresh", None)), (hours(11), ("stale", Some("expired"))), (far, ("unknown", Some("clock")))]
    {
        known(time);
        assert_eq!(word(&check(&device, &registry).1), expected, "{time}");
        let finding = device.here(&["doctor", "--json"]);
        let finding: Value = serde_json::from_str(&finding.stdout).unwrap();
        let clock = finding.as_array().unwrap().iter().find(|one| one["name"] == "clock").unwrap().clone();
        let set_back = clock["message"].as_str().unwrap().contains("set back");
        assert_eq!(
            (set_back, clock["verdict"] == "fail"),
            (expected.0 == "unknown", expected.0 == "unknown"),
            "{clock}"
        );
    }
    set(&device, "require_fresh=yes");
    device.from(&registry, &["apply", "--json"]).refused(75, "not-fresh");
    assert_eq!(last_seen(), Some(far), "and nothing lowers what was known");

    // Only a person does, who has looked at the clock.
    let reset = device.here(&["trust", "reset-time", "--json"]).code(0).json();
    assert_eq!(reset["before"], far.to_rfc3339_opts(SecondsFormat::Secs, true));
    assert_eq!(last_seen().map(|time| time <= Utc::now()), Some(true));
    assert_eq!(word(&check(&device, &registry).1), ("fresh", None));

    // The time of issue is known, as far as the clock can show that it may be past.
    set(&device, "");
    known(hours(-100));
    device.from(&registry, &["apply"]).code(0);
    assert!(last_seen() >= Some(hours(-3)));
    known(hours(0));
    state(&registry, &Statement { issued: hours(23), ..statement(6, digest, hours(90)) }, 1);
    assert_eq!(word(&check(&device, &registry).1), ("fresh", None));
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(last_seen().map(|time| time > hours(22)), Some(true));
    state(&registry, &Statement { issued: hours(25), ..statement(7, digest, hours(90)) }, 1);
    assert_eq!(word(&check(&device, &registry).1), ("unknown", Some("clock")));
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(last_seen().map(|time| time < hours(24)), Some(true), "a key of statements brings no day forward");
}

#[test]
fn a_serial_that_goes_back_is_refused_for_each_key_and_channel_by_itself() {
    let (registry, device) = (Registry::start(), device("freshness_pubkey=F"));
    device.save_key(&key(2), "F");
    let digest = publish(&registry, "1.0.0", 1);
    state(&registry, &statement(8, digest, days(7)), 2);
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(serial(&device), 8);
    let old = statement(7, digest, days(9));
    state(&registry, &old, 2);
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    device.from(&registry, &["apply", "--json", "--force"]).refused(77, "serial-went-back");
    assert!((device.tree("A"), device.tree("B"), device.env_bytes()) == before);
    let checked = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!((&checked["verdict"], &checked["reason"]), (&"held".into(), &"serial-went-back".into()));
    assert_eq!(serial(&device), 8);
    // Nor is what runs called up to date by it.
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.from(&registry, &["apply", "--json"]).refused(77, "serial-went-back");
    let checked = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!((&checked["verdict"], &checked["reason"]), (&"held".into(), &"serial-went-back".into()));
    // The same statement again, and a later one.
    for serial_now in [8, 9] {
        state(&registry, &statement(serial_now, digest, days(7)), 2);
        device.from(&registry, &["apply"]).code(0);
        assert_eq!(serial(&device), serial_now);
    }
    // Another key has a count of its own, so that a stolen one locks nobody out.
    device.save_key(&key(3), "F");
    state(&registry, &old, 3);
    device.from(&registry, &["apply"]).code(0);
}

#[test]
fn a_statement_of_another_channel_leaves_nothing_behind() {
    let (registry, device) = (Registry::start(), device("channel=stable"));
    let digest = publish(&registry, "1.0.0", 1);
    state(&registry, &statement(8, digest, days(7)), 1);
    device.from(&registry, &["apply"]).code(0);
    let trust = fs::read(device.path("S/trust.json")).unwrap();
    state(&registry, &Statement { channel: "beta".into(), ..statement(9, digest, days(7)) }, 1);
    assert_eq!(word(&check(&device, &registry).1), ("unknown", Some("other-channel")));
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(fs::read(device.path("S/trust.json")).unwrap(), trust);
}

#[test]
fn a_device_that_only_checks_remembers_serials_too() {
    let (registry, device) = (Registry::start(), device("auto=check"));
    let digest = publish(&registry, "1.0.0", 1);
    state(&registry, &statement(8, digest, days(7)), 1);
    let run = || device.from(&registry, &["run", "--json"]).code(0).json();
    assert_eq!(word(&run()["freshness"]), ("fresh", None));
    assert_eq!(serial(&device), 8);
    state(&registry, &statement(7, digest, days(9)), 1);
    assert_eq!(run()["reason"], "serial-went-back");
    assert_eq!(serial(&device), 8);
    let page = device.here(&["metrics"]).code(0);
    page.says(&["kubesolo_update_freshness{verdict=\"stale\"} 1", "kubesolo_update_freshness{verdict=\"fresh\"} 0"]);
}

#[test]
fn the_key_of_statements_vouches_for_no_release_and_that_of_releases_for_no_statement() {
    let (registry, device) = (Registry::start(), device("freshness_pubkey=F"));
    device.save_key(&key(2), "F");
    let digest = publish(&registry, "1.0.0", 1);
    state(&registry, &statement(5, digest, days(7)), 1);
    assert_eq!(word(&check(&device, &registry).1), ("unknown", Some("statement-not-proven")));
    state(&registry, &statement(5, digest, days(7)), 2);
    assert_eq!(word(&check(&device, &registry).1), ("fresh", None));
    device.save_key(&key(7), "K");
    device.from(&registry, &["apply", "--json"]).refused(77, "signature-unknown-key");
}

#[test]
fn a_statement_is_asked_for_with_a_new_release_and_at_every_look_once_one_was_seen() {
    let mut world = World::new(1000);
    let device = device("");
    let quiet = world.clone();
    let plain = Fault::start(move |request, out| quiet.answer(request, out));
    device.from(&plain, &["apply"]).code(0);
    assert_eq!(plain.count("freshness"), 1);
    device.from(&plain, &["apply"]).code(0);
    assert_eq!(plain.count("freshness"), 1, "nothing is new");

    let raw = statement(5, Digest::of(&world.manifest), days(7)).encode();
    let signature = common::sign(&common::key(1), &raw);
    let manifest = common::statement_manifest(&raw, &[&signature]);
    world.blob(&raw);
    world.blob(&signature);
    world.files.insert(
        "/v2/os/manifests/stable.freshness".into(),
        ("application/vnd.oci.image.manifest.v1+json".into(), common::bytes(&manifest)),
    );
    let stating = Fault::start(move |request, out| world.answer(request, out));
    set(&device, "freshness=yes");
    device.from(&stating, &["apply"]).code(0);
    set(&device, "");
    let before = stating.requests().len();
    device.from(&stating, &["apply"]).code(0);
    assert_eq!(stating.requests().len() - before, 4, "the tag, the statement's tag, statement and signature");
}

#[test]
fn statements_of_an_http_server_lie_beside_latest_json() {
    let manifest = |digest: &str| {
        format!(
            "{{\"version\":\"1.0.0\",\"channel\":\"stable\",\"architecture\":\"{}\",\"vmlinuz_url\":\"k\",\
             \"vmlinuz_sha256\":\"{digest}\",\"initramfs_url\":\"i\",\"initramfs_sha256\":\"{digest}\"}}",
            Architecture::current()
        )
    };
    let latest = manifest(&Digest([1; 32]).hex()).into_bytes();
    let raw = statement(3, Digest::of(&latest), days(7)).encode();
    let sign = |bytes: &[u8]| common::sign(&common::key(1), bytes);
    let mut files = BTreeMap::from([
        ("/os/latest.json", latest.clone()),
        ("/os/latest.json.sig", sign(&latest)),
        ("/os/freshness.json", raw.clone()),
        ("/os/freshness.json.sig", hex::encode(sign(&raw)).into_bytes()),
    ]);
    let device = device("");
    let serve = |files: &BTreeMap<&'static str, Vec<u8>>| {
        let files = files.clone();
        Fault::start(move |request, out| match files.get(request.path.as_str()) {
            Some(body) => fault::reply(out, 200, "", body),
            None => fault::reply(out, 404, "", b""),
        })
    };
    let verdict = |files: &BTreeMap<&'static str, Vec<u8>>| {
        let check = device.over_http(&serve(files), &["check", "--json"]).code(0).json();
        (check["freshness"]["verdict"].clone(), check["freshness"]["reason"].clone())
    };
    assert_eq!(verdict(&files), ("fresh".into(), Value::Null));
    files.remove("/os/freshness.json.sig");
    assert_eq!(verdict(&files), ("unknown".into(), "statement-not-proven".into()));
    files.remove("/os/freshness.json");
    assert_eq!(verdict(&files), (Value::Null, Value::Null));
}
