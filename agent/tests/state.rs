//! State, memory and lock on a real folder.
#![allow(clippy::unwrap_used)]

#[path = "common/tmpfs.rs"]
mod tmpfs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use bootenv::TrialId;
use chrono::{DateTime, TimeDelta, Utc};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Exit, Reason};
use kubesolo_update::policy::freshness::FreshnessFinding;
use kubesolo_update::schedule::clock::{Clock, build_date};
use kubesolo_update::state::freshness::{FreshnessReport, FreshnessVerdict};
use kubesolo_update::state::identity::Identity;
use kubesolo_update::state::phase::Phase;
use kubesolo_update::state::state::{State, Trial};
use kubesolo_update::state::store::{Lock, Store};
use kubesolo_update::state::trust::{FAILED_KEPT, FailedRelease, SERIALS_KEPT, Serial, Trust};
use kubesolo_update::trust::signature::Fingerprint;
use kubesolo_update::update::records::{LockedRecords, Records};
use proptest::prelude::*;
use serde_json::{Value, json};
use tmpfs::mount_tmpfs;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With this `state.json`.
    fn with(state: &[u8]) -> Self {
        let place = Self::new();
        fs::write(place.path("state.json"), state).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> Store {
        Store::new(&self.path("state.json"))
    }

    /// A program that another test starts holds every open file between its fork and its exec, this lock too: ask again.
    fn lock(&self) -> Lock {
        for _ in 0..500 {
            match self.store().lock() {
                Err(error) if error.reason == Reason::Locked => sleep(Duration::from_millis(10)),
                result => return result.unwrap(),
            }
        }
        panic!("the lock is held")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn now() -> DateTime<Utc> {
    "2026-03-04T05:06:07Z".parse().unwrap()
}

fn version(text: &str) -> semver::Version {
    text.parse().unwrap()
}

fn digest(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn refusal() -> Error {
    Error::new(Reason::SignatureMissing, "the release is not signed").remedy("Sign it.")
}

fn not_now() -> Error {
    Error::new(Reason::Window, "the window opens at 02:00")
}

fn busy() -> State {
    let mut state = State::default();
    state.begin("4f6a".into(), now());
    state.aim(Some(&version("1.0.0")), &version("2.0.0"), digest(2));
    state.trial = Some(Trial {
        attempt: None,
        id: TrialId(0x00c0_ffee),
        slot: bootenv::SlotId::B,
        version: "2.0.0".into(),
        identity: identity(2, 20, 21),
        started: false,
        proof: None,
    });
    state.health_failures = 2;
    state
}

fn identity(release: u32, kernel: u32, initramfs: u32) -> Identity {
    Identity { release: digest(release), kernel: digest(kernel), initramfs: digest(initramfs), extras: None }
}

fn failed(n: u32) -> FailedRelease {
    FailedRelease {
        identity: identity(n, n + 10_000, n + 20_000),
        version: format!("{n}.0.0"),
        failed_at: now() + TimeDelta::seconds(i64::from(n)),
        reason: "kernel panic".into(),
    }
}

#[test]
fn what_is_saved_is_read_again() {
    let place = Place::new();
    let lock = place.lock();
    let found = lock.load().unwrap();
    assert!(found.state_lost && found.trust_lost && found.warnings.is_empty());
    assert_eq!((found.state, found.trust.clone()), (State::default(), Trust::default()));
    let (mut state, mut trust) = (busy(), found.trust);
    state.fail(&refusal(), now());
    trust.remember(failed(1));
    trust.raise(3, &BTreeSet::new());
    lock.save_state(&state).unwrap();
    lock.save_trust(&trust).unwrap();
    for found in [lock.load().unwrap(), place.store().read().unwrap()] {
        assert!(!found.state_lost && !found.trust_lost);
        assert_eq!(found.trust.failed[0].identity.release, digest(1));
        assert_eq!(found.trust.security_epoch, 3);
        assert_eq!(found.state.trial, state.trial);
        assert_eq!((found.state.phase(), &found.state.last_error), (Phase::Failed, &state.last_error));
    }
    assert_eq!(place.names(), ["lock", "state.json", "trust.json"]);
}

/// Scripts and KubeSolo OS's own tools read these names.
#[test]
fn the_names_in_the_files_are_those_of_the_contract() {
    let place = Place::new();
    let (lock, mut state, mut trust) = (place.lock(), busy(), Trust::default());
    state.skip(&not_now(), now() + TimeDelta::milliseconds(890));
    trust.remember(failed(1));
    lock.save_state(&state).unwrap();
    lock.save_trust(&trust).unwrap();
    let expected = json!({
        "schema": 1, "phase": "idle", "from_version": "1.0.0", "to_version": "2.0.0", "to_release": digest(2).to_string(),
        "attempt_id": "4f6a", "attempt_count": 1, "attempts_total": 1, "started_at": "2026-03-04T05:06:07Z", "updated_at": "2026-03-04T05:06:07Z",
        "last_error": "", "last_skip": {"at": "2026-03-04T05:06:07Z", "reason": "window", "message": "the window opens at 02:00"},
        "trial": {"id": "00c0ffee", "slot": "B", "version": "2.0.0", "release": digest(2).to_string(),
            "kernel": digest(20).to_string(), "initramfs": digest(21).to_string(), "started": false},
        "not_started": [], "health_failures": 2, "health_boot": "",
    });
    assert_eq!(place.json("state.json"), expected);
    assert_eq!(place.json("trust.json")["failed"][0]["failed_at"], "2026-03-04T05:06:08Z");
    assert_eq!(place.json("trust.json")["schema"], 1);
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
    }
}

/// Another version of the agent may have outcomes, reasons and phases of its own.
#[test]
fn a_word_that_this_version_does_not_know_damages_no_file() {
    let state = json!({
        "schema": 1, "phase": "postponed", "device_id": "0123",
        "last_run": {"at": "2026-03-04T05:06:07Z", "outcome": "postponed", "reason": "full-moon"},
        "last_skip": {"at": "2026-03-04T05:06:07Z", "reason": "full-moon", "message": "the moon is full"},
        "freshness": {"verdict": "ripe", "reason": "full-moon", "message": "the moon is full"},
    });
    let place = Place::with(state.to_string().as_bytes());
    let found = place.lock().load().unwrap();
    assert!(found.warnings.is_empty() && !found.state_lost, "{:?}", found.warnings);
    assert_eq!((found.state.phase(), &*found.state.device_id), (Phase::Idle, "0123"));
    assert_eq!(found.state.freshness.as_ref().unwrap().word, FreshnessVerdict::Unknown);
    assert_eq!(found.state.last_run.as_ref().unwrap().outcome.known(), None);
    place.lock().save_state(&found.state).unwrap();
    let kept = place.json("state.json");
    assert_eq!((&kept["last_run"], &kept["last_skip"]), (&state["last_run"], &state["last_skip"]));
    assert_eq!(kept["freshness"]["reason"], "full-moon");

    let history = json!({"schema": 1, "attempts": [{"id": "1", "phase": "postponed", "to_version": "1.2.3"}]});
    fs::write(place.path("history.json"), history.to_string()).unwrap();
    let attempts = Store::new(&place.path("state.json")).read_history().unwrap().attempts;
    assert_eq!((attempts.len(), &*attempts[0].attempt.to_version), (1, "1.2.3"));
}

#[test]
fn a_state_of_the_go_agent_is_taken_over() {
    let place = Place::with(
        br#"{"phase":"activated","from_version":"0.3.0","to_version":"0.3.1","started_at":"2026-01-02T03:04:05.123456789+02:00",
            "updated_at":"0001-01-01T00:00:00Z","last_error":"","attempt_count":2,"something_of_its_own":7}"#,
    );
    let found = place.lock().load().unwrap();
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    assert_eq!((found.state.phase(), found.state.attempt_count), (Phase::Activated, 2));
    place.lock().save_state(&found.state).unwrap();
    assert_eq!(place.json("state.json")["schema"], 1);
}

#[test]
fn attempts_count_from_one_again_with_another_release() {
    let mut state = State::default();
    let mut attempt = |release| {
        state.begin("id".into(), now());
        state.aim(None, &version("2.0.0"), digest(release));
        state.attempt_count
    };
    assert_eq!([attempt(1), attempt(1), attempt(1), attempt(2), attempt(1)], [1, 2, 3, 1, 1]);
    // A server that is away for a while in between is no other release.
    let away = || Error::new(Reason::Unreachable, "nobody answers");
    let again = |release| {
        state.begin("id".into(), now());
        state.fail(&away(), now());
        state.begin("id".into(), now());
        state.fail(&away(), now());
        state.begin("id".into(), now());
        state.aim(None, &version("2.0.0"), digest(release));
        state.attempt_count
    };
    assert_eq!([1, 1, 2].map(again), [2, 3, 1]);
}

#[test]
fn not_now_leaves_the_phase_and_a_refusal_ends_in_failed() {
    for phase in Phase::ALL {
        let before: State = serde_json::from_value(json!({"phase": phase, "last_error": "old"})).unwrap();
        let mut state = before.clone();
        state.skip(&not_now(), now());
        assert_eq!((state.phase(), state.last_error.as_str()), (phase, "old"));
        let mut state = before.clone();
        state.begin("one".into(), now());
        state.begin("two".into(), now()); // the first was killed
        assert_eq!((state.phase(), state.last_error.as_str()), (Phase::Checking, "old"));
        state.skip(&not_now(), now());
        // A program that was killed while it wrote does not go on.
        let interrupted = matches!(phase, Phase::Checking | Phase::Downloading);
        assert_eq!((state.phase(), state.last_error.as_str()), (if interrupted { Phase::Idle } else { phase }, "old"));
        assert_eq!(state.last_skip.as_ref().map(|skip| skip.reason.clone()), Some(Reason::Window.into()));
        state.begin("three".into(), now());
        state.aim(None, &version("2.0.0"), digest(2));
        assert_eq!((state.last_skip.as_ref(), state.last_error.as_str()), (None, ""));
        state.fail(&refusal(), now());
        assert_eq!((state.phase(), state.last_error.as_str()), (Phase::Failed, "the release is not signed. Sign it."));
    }
}

#[test]
fn no_download_without_asking_and_no_success_without_a_trial() {
    for (from, to, legal) in [
        (Phase::Checking, Phase::Downloading, true),
        (Phase::Idle, Phase::Downloading, false),
        (Phase::Downloading, Phase::Staged, true),
        (Phase::Verifying, Phase::Staged, false),
        (Phase::Downloading, Phase::Activated, false),
        (Phase::Staged, Phase::Activated, true),
        (Phase::Activated, Phase::Verifying, true),
        (Phase::Activated, Phase::Success, false),
        (Phase::Staged, Phase::Success, false),
        (Phase::Verifying, Phase::Success, true),
    ] {
        let mut state: State = serde_json::from_value(json!({"phase": from})).unwrap();
        let result = state.enter(to, now());
        assert_eq!(result.is_ok(), legal, "{from} to {to}");
        assert_eq!(state.phase(), if legal { to } else { from });
    }
    // From every phase, one step leads back to a new attempt, and one to failed.
    for phase in Phase::ALL {
        assert!(phase.leads_to(Phase::Checking) && phase.leads_to(Phase::Failed));
    }
}

#[test]
fn a_release_that_failed_is_known_by_its_manifest_and_by_its_images() {
    let mut trust = Trust::default();
    trust.remember(failed(1));
    let (release, kernel, initramfs) = (1, 10_001, 20_001);
    let (other, new) = (7, 8);
    let known =
        |trust: &Trust, release, kernel, initramfs| trust.failure(&identity(release, kernel, initramfs)).is_some();
    assert!(known(&trust, release, new, new));
    assert!(known(&trust, other, kernel, initramfs), "published again under another manifest");
    assert!(!known(&trust, other, kernel, new), "one image of two is another release");
    assert!(!known(&trust, other, new, initramfs));
    assert!(!trust.forget(&identity(other, kernel, new)) && !trust.forget(&identity(other, new, initramfs)));
    assert!(trust.forget(&identity(release, kernel, initramfs)));
    assert!(!trust.forget(&identity(release, kernel, initramfs)));
    assert!(!known(&trust, release, kernel, initramfs));
    // By either of the two, as it is found.
    trust.remember(failed(1));
    assert!(trust.forget(&identity(other, kernel, initramfs)));
    trust.remember(failed(1));
    assert!(trust.forget(&identity(release, new, new)));
}

#[test]
fn the_memory_of_failures_is_bounded_and_loses_the_oldest_first() {
    let mut trust = Trust::default();
    let last = FAILED_KEPT as u32 + 9;
    for n in 0..=last {
        trust.remember(failed(n));
        trust.remember(failed(n)); // the same again takes no second place
    }
    assert_eq!(trust.failed.len(), FAILED_KEPT);
    assert_eq!(
        (trust.failed[0].identity.release, trust.failed[FAILED_KEPT - 1].identity.release),
        (digest(10), digest(last))
    );
}

#[test]
fn the_epoch_never_goes_down() {
    let mut trust = Trust::default();
    trust.raise(5, &BTreeSet::new());
    trust.raise(3, &BTreeSet::new());
    assert_eq!(trust.security_epoch, 5);
}

#[test]
fn what_is_revoked_stays_revoked_and_only_news_is_written() {
    let keys = |all: &[u8]| all.iter().map(|n| Fingerprint::of(&[*n; 32])).collect::<BTreeSet<_>>();
    let mut trust = Trust::default();
    assert!(trust.raise(0, &keys(&[1])) && trust.raise(0, &keys(&[2])) && trust.raise(1, &keys(&[])));
    assert_eq!((trust.security_epoch, &trust.revoked_keys), (1, &keys(&[1, 2])));
    assert!(!trust.raise(1, &keys(&[2, 1])) && !trust.raise(0, &keys(&[])));
    let written = serde_json::to_vec(&trust).unwrap();
    assert_eq!(Trust::parse(&written).unwrap().unwrap(), trust);
}

#[test]
fn serials_only_grow_and_no_other_channel_or_key_displaces_them() {
    let note = |trust: &mut Trust, channel: &str, key: u8, serial: u64| {
        trust.note_serial(Serial { channel: channel.into(), key: Fingerprint::of(&[key; 32]), serial })
    };
    let mut trust = Trust::default();
    assert!(note(&mut trust, "stable", 1, 5) && note(&mut trust, "stable", 2, 3) && note(&mut trust, "beta", 1, 4));
    assert!(!note(&mut trust, "stable", 1, 5) && !note(&mut trust, "stable", 1, 4) && note(&mut trust, "stable", 1, 6));
    let serial = |trust: &Trust, channel, key: u8| trust.serial(channel, &Fingerprint::of(&[key; 32]));
    assert_eq!(
        (
            serial(&trust, "stable", 1),
            serial(&trust, "stable", 2),
            serial(&trust, "beta", 1),
            serial(&trust, "beta", 2)
        ),
        (Some(6), Some(3), Some(4), None)
    );
    for n in 0..2 * SERIALS_KEPT {
        assert!(note(&mut trust, &format!("c{n}"), 1, 1));
    }
    assert_eq!((trust.serials.len(), serial(&trust, "stable", 1)), (SERIALS_KEPT, Some(6)));
    assert!(note(&mut trust, "stable", 1, 7) && note(&mut trust, "other", 1, 1));
    assert_eq!(serial(&trust, "stable", 1), Some(7));
}

#[test]
fn the_latest_time_of_a_synchronised_clock_or_a_verified_statement_is_remembered_and_never_goes_back() {
    let place = Place::new();
    let mut records = LockedRecords::lock(&place.path("state.json")).unwrap();
    let (shown, days) = (build_date() + TimeDelta::days(30), TimeDelta::days);
    let kept = |records: &mut LockedRecords, clock: Clock| {
        records.keep_look(&clock, None).unwrap();
        records.trust.last_seen
    };
    assert_eq!(kept(&mut records, Clock { synchronised: false, ..Clock::at(shown) }), None);
    assert_eq!(kept(&mut records, Clock::at(shown)), Some(shown));
    let clock = |now| Clock { last_seen: Some(shown), ..Clock::at(now) };
    assert_eq!(kept(&mut records, clock(shown + days(2))), Some(shown + days(2)));
    assert_eq!(kept(&mut records, clock(shown - days(9))), Some(shown + days(2)));
    let mut stated = |issued| {
        let verdict = FreshnessReport {
            word: FreshnessVerdict::Fresh,
            reason: None,
            message: String::new(),
            serial: None,
            not_after: None,
        };
        let seen = FreshnessFinding { verdict, serials: vec![], issued: Some(issued) };
        records.keep_look(&Clock { synchronised: false, ..clock(shown) }, Some(&seen)).unwrap();
        records.trust.last_seen
    };
    assert_eq!(stated(shown), Some(shown + days(2)));
    assert_eq!(stated(shown + days(3)), Some(shown + days(3)));
    drop(records);
    assert_eq!(Records::read(&place.path("state.json")).unwrap().trust.last_seen, Some(shown + days(3)));
}

#[test]
fn a_second_agent_is_told_who_has_the_lock() {
    let place = Place::new();
    let lock = place.lock();
    let error = place.store().lock().unwrap_err();
    assert_eq!(error.reason, Reason::Locked);
    assert!(error.message.contains(&format!("pid {}", std::process::id())), "{error}");
    place.store().read().unwrap(); // looking is free
    drop(lock);
    place.lock();
}

#[test]
fn the_lock_of_a_dead_agent_is_free() {
    let place = Place::new();
    drop(place.lock());
    // Another process takes it, and is killed while it has it.
    let script = format!("exec 9<>{}; flock 9; echo; exec sleep 60", place.path("lock").display());
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    assert_eq!(place.store().lock().unwrap_err().reason, Reason::Locked);
    child.kill().unwrap();
    child.wait().unwrap();
    place.lock();
}

/// Somebody who took the lock of 0.1, which everybody could read: another account where this one is root.
fn hold(place: &Place, program: &str) -> Child {
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let lock = place.path("lock");
    fs::write(&lock, "1\n").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    let script = format!("exec 9<{}; flock 9; echo $$; exec {program} 60", lock.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdout(Stdio::piped());
    if program == "sleep" && nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let mut child = command.spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut pid).unwrap();
    // Until then its name is that of the shell, which nobody takes for an agent.
    while fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().trim() == "sh" {
        std::thread::yield_now();
    }
    if program != "sleep" {
        fs::write(&lock, pid).unwrap();
        let name = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&name).unwrap() == "sh\n" {
            sleep(Duration::from_millis(5));
        }
    }
    child
}

#[test]
fn an_account_that_holds_the_lock_of_0_1_stops_nobody() {
    let place = Place::new();
    fs::write(place.path("history.json"), "{\"schema\":1}").unwrap();
    let mut holder = hold(&place, "sleep");
    let lock = place.lock();
    assert_eq!(place.store().lock().unwrap_err().reason, Reason::Locked);
    lock.record(busy().entry()).unwrap();
    lock.save_state(&busy()).unwrap();
    lock.save_trust(&Trust::default()).unwrap();
    drop(lock);
    place.lock();
    let mode = |name: &str| place.path(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(["lock", "history.json", "state.json", "trust.json"].map(mode), [0o600, 0o600, 0o644, 0o644]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Files that 0.1 in the other slot made readable become private again, before there is anything to record.
    fs::set_permissions(place.path("history.json"), fs::Permissions::from_mode(0o644)).unwrap();
    place.lock();
    assert_eq!(mode("history.json"), 0o600);
}

#[test]
fn an_agent_of_0_1_keeps_its_lock() {
    let place = Place::new();
    let program = place.path("kubesolo-update");
    symlink("/bin/sleep", &program).unwrap();
    let mut holder = hold(&place, program.to_str().unwrap());
    let error = place.store().lock().unwrap_err();
    assert_eq!(error.reason, Reason::Locked, "{error}");
    assert!(error.message.contains(&format!("pid {}", holder.id())), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    place.lock();
}

#[test]
fn a_damaged_file_is_kept_and_reported_and_the_other_still_counts() {
    for damage in
        [&b""[..], b"\0\0\0\0", b"{\"schema\":1,\"pha", b"[]", b"{\"phase\":7}", b"{\"schema\":1,\"schema\":1}"]
    {
        let place = Place::with(damage);
        let mut trust = Trust::default();
        trust.remember(failed(1));
        place.lock().save_trust(&trust).unwrap();
        let looked = place.store().read().unwrap();
        assert_eq!((looked.warnings.len(), looked.state_lost), (1, true));
        assert_eq!(fs::read(place.path("state.json")).unwrap(), damage, "looking changes nothing");
        let found = place.lock().load().unwrap();
        assert!(found.state_lost && !found.trust_lost && found.trust == trust);
        assert!(found.warnings[0].contains("state.json.damaged-1"), "{:?}", found.warnings);
        assert_eq!(fs::read(place.path("state.json.damaged-1")).unwrap(), damage);
        assert!(!place.path("state.json").exists());
        place.lock().save_state(&busy()).unwrap();
    }
}

#[test]
fn a_medium_that_damages_every_file_does_not_fill_the_disk() {
    let place = Place::new();
    for n in 0..20 {
        fs::write(place.path("trust.json"), format!("rot {n}")).unwrap();
        assert!(place.lock().load().unwrap().trust_lost);
    }
    assert_eq!(place.names().len(), 6, "{:?}", place.names());
    assert_eq!(fs::read(place.path("trust.json.damaged-1")).unwrap(), b"rot 0");
    assert_eq!(fs::read(place.path("trust.json.damaged-5")).unwrap(), b"rot 19");
}

#[test]
fn a_huge_file_is_damaged_not_read() {
    let place = Place::new();
    fs::File::create(place.path("state.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(place.lock().load().unwrap().warnings[0].contains("longer than"));
}

#[test]
fn a_newer_schema_is_refused_and_kept() {
    for name in ["state.json", "trust.json"] {
        let place = Place::new();
        // Of a shape that this version does not know.
        let newer = br#"{"schema":2,"phase":{"name":"staged"},"failed":"none"}"#;
        fs::write(place.path(name), newer).unwrap();
        for error in [place.lock().load().unwrap_err(), place.store().read().unwrap_err()] {
            assert_eq!(error.reason, Reason::NewerSchema);
            assert!(error.message.contains(name), "{error}");
        }
        assert_eq!(fs::read(place.path(name)).unwrap(), newer);
        assert!(place.names().iter().all(|name| !name.contains("damaged")));
    }
}

#[test]
fn a_symbolic_link_is_neither_read_nor_written_through() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "precious").unwrap();
    for name in ["state.json", "trust.json", "lock", "state.json.new", "trust.json.new"] {
        let place = Place::new();
        symlink(outside.path(), place.path(name)).unwrap();
        let all = place.store().lock().and_then(|lock| {
            lock.load()?;
            lock.save_state(&busy())?;
            lock.save_trust(&Trust::default())
        });
        if name.ends_with(".new") {
            all.unwrap(); // only a leftover in the way
        } else {
            let error = all.unwrap_err();
            assert!(error.exit() == Exit::Config && error.message.contains("symbolic link"), "{name}: {error}");
        }
        assert_eq!(fs::read(outside.path()).unwrap(), b"precious", "{name}");
    }
    // One that appears only after the file was read.
    let place = Place::new();
    let lock = place.lock();
    symlink(outside.path(), place.path("state.json")).unwrap();
    assert!(lock.save_state(&busy()).unwrap_err().message.contains("symbolic link"));
}

#[test]
fn a_fifo_or_a_folder_does_not_hold_the_agent_up() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.path("state.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(place.lock().load().unwrap_err().message.contains("not a regular file"));
    let place = Place::new();
    fs::create_dir(place.path("state.json")).unwrap();
    assert_eq!(place.lock().load().unwrap_err().exit(), Exit::Config);
    assert_eq!(place.lock().save_state(&busy()).unwrap_err().exit(), Exit::CannotWrite);
}

#[test]
fn missing_folders_are_made() {
    let place = Place::new();
    let store = Store::new(&place.path("a/b/state.json"));
    assert!(store.read().unwrap().state_lost);
    assert!(!place.path("a").exists(), "looking makes nothing");
    store.lock().unwrap().save_state(&busy()).unwrap();
    assert_eq!(store.read().unwrap().state, busy());
}

#[test]
fn a_full_partition_keeps_the_old_state() {
    let place = Place::new();
    let Some(()) = mount_tmpfs(place.dir.path(), "size=64k") else { return eprintln!("skipped: not root") };
    let lock = place.lock();
    lock.save_state(&busy()).unwrap();
    fs::write(place.path("filler"), [0; 1 << 20]).unwrap_err();
    let mut newer = busy();
    newer.fail(&refusal(), now());
    let error = lock.save_state(&newer).unwrap_err();
    assert_eq!(error.reason, Reason::StateNoSpace);
    assert!(error.message.contains("state.json") && !error.remedy.is_empty(), "{error}");
    assert_eq!(lock.load().unwrap().state, busy());
    assert_eq!(place.names(), ["filler", "lock", "state.json"]);
}

#[test]
fn a_read_only_partition_is_named() {
    use nix::mount::{MsFlags, mount};
    let place = Place::new();
    let Some(()) = mount_tmpfs(place.dir.path(), "size=64k") else { return eprintln!("skipped: not root") };
    let lock = place.lock();
    mount(None::<&str>, place.dir.path(), None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .unwrap_err(); // the lock is open for writing
    drop(lock);
    mount(None::<&str>, place.dir.path(), None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .unwrap();
    let error = place.store().lock().unwrap_err();
    assert_eq!(error.reason, Reason::StateReadOnly, "{error}");
    place.store().read().unwrap();
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_lost(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let place = Place::with(&bytes);
        if let Ok(found) = place.lock().load() {
            prop_assert_eq!(found.state_lost, place.path("state.json.damaged-1").exists());
        }
    }
}
