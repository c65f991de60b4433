//! Devices in trouble of two kinds at once, hour by hour for a week: what they do, what they ask of the line and of the medium,
//! and which words they have for a person. `docs/recovery.md` has the table.
//!
//! The timer runs in this process, with a clock that is set forward by an hour for each run. All other commands are the real
//! program.

use std::fs;
use std::sync::{Arc, RwLock};

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use chrono::{DateTime, TimeDelta, Utc};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::Reason;
use kubesolo_update::release::release::{Architecture, RELEASE_DATE, ROLLOUT};
use kubesolo_update::schedule::clock::build_date;

use crate::cli_support::{self, Device};
use crate::cli_unattended::{self, hour as hour_of};
use crate::common;
use crate::common::fault::{self, Fault, World};
use crate::security;
use crate::tmpfs::mount_tmpfs;

const HOURS: usize = 168;
/// Bytes of the answers to the requests of one run, at most.
const BYTES: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    /// One bit of each initramfs is wrong. The system runs, from memory.
    BothSlotsBad,
    /// The server knows no release.
    SourceGone,
    /// The publisher lost its key, and signs with a new one that this device does not know.
    KeysLost,
    /// Others filled the data partition to the last byte.
    DiskFull,
    /// 1970 at each start, and nothing sets the clock.
    ClockDead,
}
use Trouble::{BothSlotsBad, ClockDead, DiskFull, KeysLost, SourceGone};

/// The server, which changes while it runs.
struct Source {
    server: Fault,
    world: Arc<RwLock<Option<World>>>,
    earlier: World,
}

impl Source {
    /// Without a release.
    fn new() -> Self {
        let world: Arc<RwLock<Option<World>>> = Arc::default();
        let shared = world.clone();
        let server = Fault::start(move |request, out| match &*shared.read().unwrap() {
            Some(world) => world.answer(request, out),
            None => fault::reply(out, 404, "", b"404 page not found"),
        });
        Self { server, world, earlier: World::of(vec![], "v0.0.0") }
    }

    /// The tag names this release, signed by this key, in waves; earlier releases stay where they are.
    fn offers(&mut self, version: u8, key: u8) {
        let image = common::images::noise(version.into(), 4000);
        let mut manifest = common::manifest(&format!("v{version}.0.0"), Architecture::Amd64, b"kernel", &image);
        manifest["annotations"][ROLLOUT] = "100%@0h".into();
        manifest["annotations"][RELEASE_DATE] = "2026-11-01T00:00:00Z".into();
        let mut world = World::signed_by(&manifest, image, key);
        for (path, file) in &self.earlier.files {
            world.files.entry(path.clone()).or_insert_with(|| file.clone());
        }
        self.earlier = world.clone();
        *self.world.write().unwrap() = Some(world);
    }

    /// Bytes of the answers to all requests from the given one on.
    fn bytes(&self, from: usize) -> usize {
        let world = self.world.read().unwrap();
        let files = world.as_ref().map(|world| &world.files);
        let size = |path: &str| files.and_then(|files| files.get(path)).map_or(18, |(_, body)| body.len());
        let all = self.server.requests();
        all[from..].iter().filter(|request| request.method == "GET").map(|request| size(&request.path)).sum()
    }
}

struct Plight {
    device: Device,
    source: Source,
    troubles: [Trouble; 2],
}

impl Plight {
    /// A device that runs 2.0.0 in slot A, with 1.0.0 in slot B, and is offered 3.0.0; then both troubles come. `None` where no
    /// filesystem can be mounted for a full disk.
    fn new(troubles: [Trouble; 2]) -> Option<Self> {
        let mut plight = Self { device: Device::new(), source: Source::new(), troubles };
        let device = &plight.device;
        // Also where no disk is full: nobody waits for a thousand syncs.
        if mount_tmpfs(&device.path("S"), "size=2m").is_none() && troubles.contains(&DiskFull) {
            eprintln!("skipped: not root");
            return None;
        }
        device.write("conf", b"auto=activate\n");
        for version in 1..=2 {
            plight.source.offers(version, 1);
            device.from(&plight.source.server, &["run"]).code(0);
            device.power_on();
            device.here(&["healthcheck"]).code(0).says(&["committed"]);
        }
        device.power_on();
        plight.source.offers(3, if plight.has(KeysLost) { 2 } else { 1 });
        if plight.has(BothSlotsBad) {
            ["A", "B"].iter().for_each(|slot| plight.rot(slot));
        }
        if plight.has(SourceGone) {
            *plight.source.world.write().unwrap() = None;
        }
        if plight.has(DiskFull) {
            plight.device.shell("head -c 4M /dev/zero >\"$0\" 2>/dev/null || true", &plight.device.path("S/filler"));
        }
        Some(plight)
    }

    fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    fn rot(&self, slot: &str) {
        let path = self.device.path(slot).join("kubesolo-os.gz");
        let mut bytes = fs::read(&path).unwrap();
        bytes[2000] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// One run an hour, each with this result, and with so many requests at most.
    fn week(&self, reason: Reason, requests: usize) {
        let config = cli_unattended::config(&self.device, &self.source.server, "");
        // The slots were read when they were filled, by the clock of this machine.
        let later = build_date().max(Utc::now()) + TimeDelta::days(31);
        let begin = if self.has(ClockDead) { DateTime::UNIX_EPOCH } else { later };
        let server = &self.source.server;
        let mut kept = vec![];
        for hour in 0..HOURS {
            let before = server.requests().len();
            let ran = hour_of(&self.device, &config, begin + TimeDelta::hours(hour as i64));
            assert_eq!(ran.map_err(|error| error.reason).err(), Some(reason), "hour {hour}");
            let (asked, bytes) = (server.requests().len() - before, self.source.bytes(before));
            // A repair of a slot comes on top, once.
            let most = if hour == 0 { (requests + 8, BYTES) } else { (requests, BYTES) };
            assert!(asked <= most.0 && bytes <= most.1, "hour {hour}: {asked} requests, {bytes} bytes");
            kept.push(self.device.tree("S").values().map(|(content, ..)| content.len()).sum::<usize>());
        }
        // A number may get a digit more.
        let (day, week) = (kept[23], kept[HOURS - 1]);
        assert!(week <= day + 64, "{day} bytes are kept after a day, {week} after a week");
    }

    /// The device is up, starts again, and says what a person must do.
    fn is_reachable_and_says(&self, words: &[&str]) {
        let device = &self.device;
        let said = ["status", "doctor"].map(|command| device.here(&[command]).stdout).concat();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        words.iter().for_each(|words| assert!(said.contains(words), "no \"{words}\" in {said}"));
        let slot = device.power_on().start.map(|start| start.slot);
        assert!(slot.is_some());
        device.here(&["healthcheck"]).code(0);
        // Nothing asks for a restart of a boot that is healthy.
        assert_eq!(device.env().active, slot.unwrap());
    }

    /// Both troubles end, each by what a person does about it, and the device goes on by itself.
    fn goes_on(mut self) {
        if self.has(DiskFull) {
            fs::remove_file(self.device.path("S/filler")).unwrap();
        }
        if self.has(KeysLost) {
            self.device.save_key(&cli_support::key(2), "K");
        }
        let key = if self.has(KeysLost) { 2 } else { 1 };
        self.source.offers(4, key);
        // In folders, nothing remembers which slot this boot was asked to start.
        self.device.power_on();
        self.device.from(&self.source.server, &["run"]).code(0).says(&["boots next"]);
        self.device.power_on();
        self.device.here(&["healthcheck"]).code(0).says(&["committed"]);
        let running = self.device.env().good;
        assert_eq!(self.device.version_in(running).as_deref(), Some("4.0.0"));
    }
}

/// A week with both troubles. `fallback`: whether slot B is whole at its end.
fn week(troubles: [Trouble; 2], (reason, requests): (Reason, usize), fallback: bool, words: &[&str]) {
    let Some(plight) = Plight::new(troubles) else { return };
    let device = &plight.device;
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    plight.week(reason, requests);
    assert_eq!(device.tree("A"), before.0);
    let is_whole = ["vmlinuz", "kubesolo-os.gz"].iter().all(|name| {
        let sum = fs::read_to_string(device.path(&format!("B/{name}.sha256"))).unwrap();
        sum.starts_with(&Digest::of(&fs::read(device.path(&format!("B/{name}"))).unwrap()).hex())
    });
    assert_eq!((is_whole, device.env().b), (fallback, SlotState::Good));
    assert_eq!(device.version_in(SlotId::B).as_deref(), Some("1.0.0"));
    if !plight.has(BothSlotsBad) || !fallback {
        assert_eq!((device.tree("B"), device.env_bytes()), (before.1, before.2), "nothing is written for nothing");
    }
    plight.is_reachable_and_says(words);
    plight.goes_on();
}

const NO_RELEASE: &str = "Check registry, tag and channel";
const KEY: &str = "install its public key if you trust it";
const ROOM: &str = "Make room on the data partition";
const CLOCK: &str = "Set the clock";
const RUNNING: &str = "the running slot was damaged";
const FALLBACK: &str = "the slot to fall back to was damaged";

#[test]
fn both_slots_bad_and_the_source_gone() {
    week([BothSlotsBad, SourceGone], (Reason::TagNotFound, 2), false, &[NO_RELEASE, RUNNING, FALLBACK]);
}

#[test]
fn both_slots_bad_and_the_keys_lost() {
    week([BothSlotsBad, KeysLost], (Reason::SignatureUnknownKey, 8), true, &[KEY, RUNNING]);
}

#[test]
fn both_slots_bad_and_the_disk_full() {
    week([BothSlotsBad, DiskFull], (Reason::StateNoSpace, 0), false, &[ROOM]);
}

#[test]
fn both_slots_bad_and_the_clock_dead() {
    week([BothSlotsBad, ClockDead], (Reason::Clock, 8), true, &[CLOCK, RUNNING]);
}

#[test]
fn the_source_gone_and_the_keys_lost() {
    week([SourceGone, KeysLost], (Reason::TagNotFound, 2), true, &[NO_RELEASE]);
}

#[test]
fn the_source_gone_and_the_disk_full() {
    week([SourceGone, DiskFull], (Reason::StateNoSpace, 0), true, &[ROOM]);
}

#[test]
fn the_source_gone_and_the_clock_dead() {
    week([SourceGone, ClockDead], (Reason::TagNotFound, 2), true, &[NO_RELEASE]);
}

#[test]
fn the_keys_lost_and_the_disk_full() {
    week([KeysLost, DiskFull], (Reason::StateNoSpace, 0), true, &[ROOM]);
}

#[test]
fn the_keys_lost_and_the_clock_dead() {
    week([KeysLost, ClockDead], (Reason::SignatureUnknownKey, 8), true, &[KEY]);
}

#[test]
fn the_disk_full_and_the_clock_dead() {
    week([DiskFull, ClockDead], (Reason::StateNoSpace, 0), true, &[ROOM]);
}

#[test]
fn the_table_of_despair_names_each_pair_and_its_test() {
    let head = "| trouble | each hour of a week | requests an hour | action for a person | test |";
    let rows = security::rows_with_tests::<5>("docs/recovery.md", head);
    let own = include_str!("despair.rs");
    let tests = own.matches("#[test]\n").count() - 1;
    let named: std::collections::BTreeSet<_> = rows.iter().map(|row| row[4].clone()).collect();
    assert_eq!((rows.len(), named.len()), (tests, tests));
}
