//! Years of a device in minutes: random cycles of the real program on folders, beside an independent book of what must be
//! true after each of them.
//!
//! `SOAK_CYCLES` and `SOAK_SEED` choose how many and which; `make soak` sets them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use chrono::{TimeDelta, Utc};
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Images, Metadata, Options, bundle::bundle};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::Architecture;

use crate::cli_support::{self, Device, Ran};
use crate::cli_unattended;
use crate::common::images;
use crate::common::registry::Registry;

/// Bytes of everything that the agent keeps beside the state, at most; and files.
const KEPT_BYTES: u64 = 2 << 20;
const KEPT_FILES: usize = 200;
/// A registry is thrown away after so many releases: it is not what is tried here.
const RELEASES: u64 = 500;
/// Bytes of the file in an initramfs that is similar to others.
const SIMILAR: usize = 400_000;
/// Files that a run may have open at once.
const OPEN_FILES: &str = "40";

/// The fate of the device in one cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cycle {
    Good,
    GoodAfterPowerCuts,
    GoodByBundle,
    GoodOfHigherEpoch,
    GoodByPatch,
    Unhealthy,
    Dead,
    Cancelled,
    RolledBack,
    RottenFallback,
    RottenTrial,
    DamagedFile,
    KilledRun,
    OtherKey,
    ClockJump,
    Idle,
}

const CYCLES: [Cycle; 16] = [
    Cycle::Good,
    Cycle::GoodAfterPowerCuts,
    Cycle::GoodByBundle,
    Cycle::GoodOfHigherEpoch,
    Cycle::GoodByPatch,
    Cycle::Unhealthy,
    Cycle::Dead,
    Cycle::Cancelled,
    Cycle::RolledBack,
    Cycle::RottenFallback,
    Cycle::RottenTrial,
    Cycle::DamagedFile,
    Cycle::KilledRun,
    Cycle::OtherKey,
    Cycle::ClockJump,
    Cycle::Idle,
];

/// The content of a slot, as the book has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    version: String,
    epoch: u64,
}

/// The true state, written down without asking the device.
struct Book {
    running: SlotId,
    content: [Option<Content>; 2],
    /// The other slot was committed once, and nothing happened to it since.
    fallback: bool,
    epoch: u64,
    data: String,
}

struct Soak {
    device: Device,
    registry: Registry,
    random: u64,
    releases: u64,
    key: u8,
    book: Book,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let device = Device::new();
        fs::create_dir(device.path("kine")).unwrap();
        device.write("kine/state", b"factory");
        device.write("conf", b"auto=activate\n");
        let book =
            Book { running: SlotId::A, content: [None, None], fallback: false, epoch: 0, data: "factory".into() };
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut soak = Self { device, registry: Registry::start(), random, releases: 0, key: 1, book };
        soak.boot();
        soak.device.here(&["healthcheck"]).code(0);
        // Both slots have a release of the book before it is compared.
        soak.act(Cycle::Good);
        soak.cycle(Cycle::Good);
        soak
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Publishes the next release, and returns its version.
    fn publish(&mut self, epoch: u64) -> String {
        self.publish_as(epoch, None)
    }

    /// The same. `similar_to`: most of the image is that of others, and patches lead here from the releases in these places.
    fn publish_as(&mut self, epoch: u64, similar_to: Option<Vec<String>>) -> String {
        self.releases += 1;
        if self.releases.is_multiple_of(RELEASES) {
            self.registry = Registry::start();
        }
        let version = format!("1.{}.0", self.releases);
        let metadata = Metadata { security_epoch: Some(epoch), ..Metadata::new(version.parse().unwrap(), "stable") };
        let folder = tempfile::TempDir::new().unwrap();
        let images = self.images(folder.path(), similar_to.is_some());
        let reference = format!("{}/os:stable", self.registry.address);
        let delta_from = similar_to.unwrap_or_default();
        let options = Options { delta_from, also_tags: vec![version.clone()], ..self.options() };
        publisher::release(&reference, &metadata, &[images], &[cli_support::key(self.key)], &options).unwrap();
        version
    }

    fn options(&self) -> Options {
        let access = Access { plain_http: vec![self.registry.address.clone()], ..Access::default() };
        Options { access, replace: true, ..Options::default() }
    }

    /// Images that no other release has; `similar`: most of the initramfs is that of all similar ones.
    fn images(&self, folder: &Path, similar: bool) -> Images {
        let mut kernel = images::kernel(Architecture::current(), 0);
        kernel[4000..4008].copy_from_slice(&self.releases.to_le_bytes());
        let initramfs = if similar {
            let mut init = images::noise(1, SIMILAR);
            init[SIMILAR / 2..][..8].copy_from_slice(&self.releases.to_le_bytes());
            images::repacked(&init)
        } else {
            images::gzip(&images::archive(&images::noise(self.releases, 20_000)))
        };
        let [kernel_path, initramfs_path] = ["vmlinuz", "initramfs.gz"].map(|name| folder.join(name));
        fs::write(&kernel_path, kernel).unwrap();
        fs::write(&initramfs_path, initramfs).unwrap();
        Images { architecture: Architecture::current(), kernel: kernel_path, initramfs: initramfs_path }
    }

    /// The bootloader, and the step before any service.
    fn boot(&self) {
        let _ = fs::remove_file(self.device.path("S/data-step"));
        self.device.power_on();
        self.device.here(&["data"]).code(0);
    }

    fn run(&self) -> Ran {
        let arguments = [&self.device.asking(&self.registry, &["run", "--json"])[..], &["--pubkey", "K"]].concat();
        let program = self.device.command(&arguments);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n $0 && exec \"$@\"", OPEN_FILES]).arg(program.get_program()).args(&arguments);
        let output = limited.current_dir(self.device.dir.path()).stdin(Stdio::null()).output().unwrap();
        output.into()
    }

    fn activated(&self) {
        assert_eq!(self.run().code(0).json()["outcome"], "activated");
    }

    /// Services of a trial migrate the data.
    fn migrate(&self, to: &str) {
        self.device.write("kine/state", to.as_bytes());
    }

    /// A healthy trial is committed.
    fn commit(&mut self, version: String, epoch: u64) {
        self.boot();
        self.migrate(&version);
        self.device.here(&["healthcheck"]).code(0).says(&["committed"]);
        let book = &mut self.book;
        book.running = book.running.other();
        (book.data, book.epoch) = (version.clone(), book.epoch.max(epoch));
        book.content[book.running as usize] = Some(Content { version, epoch });
        book.fallback = book.content[book.running.other() as usize].is_some();
    }

    /// The trial ended without commit.
    fn fell_back(&mut self) {
        self.boot();
        self.device.here(&["healthcheck"]).code(0);
        self.book.content[self.book.running.other() as usize] = None;
        self.book.fallback = false;
        assert_eq!(self.run().code(75).json()["error"]["reason"], "failed-before");
    }

    fn cycle(&mut self, cycle: Cycle) {
        self.act(cycle);
        self.agrees(cycle);
    }

    fn act(&mut self, cycle: Cycle) {
        let epoch = self.book.epoch;
        match cycle {
            Cycle::Good => {
                let version = self.publish(epoch);
                self.activated();
                self.commit(version, epoch);
            }
            Cycle::GoodAfterPowerCuts => {
                let version = self.publish(epoch);
                self.activated();
                for _ in 0..self.random(3) {
                    self.boot();
                    self.migrate("cut off");
                }
                self.commit(version, epoch);
            }
            Cycle::GoodByBundle => {
                let version = self.publish(epoch);
                let (device, address) = (&self.device, &self.registry.address);
                let reference = format!("{address}/os:stable");
                let _ = fs::remove_file(device.path("bundle.tar"));
                bundle(&reference, &device.path("bundle.tar"), None, &self.options().access).unwrap();
                let arguments = device.local(&["apply", "--activate", "--bundle", "bundle.tar", "--pubkey", "K"]);
                device.run(&arguments).code(0);
                self.commit(version, epoch);
            }
            Cycle::GoodOfHigherEpoch => {
                let version = self.publish(epoch + 1);
                self.activated();
                self.commit(version, epoch + 1);
            }
            Cycle::GoodByPatch => {
                let first = self.publish_as(epoch, Some(vec![]));
                self.activated();
                self.commit(first.clone(), epoch);
                // A registry that is thrown away now has nothing to begin with.
                if !(self.releases + 1).is_multiple_of(RELEASES) {
                    let from = format!("{}/os:{first}", self.registry.address);
                    let version = self.publish_as(epoch, Some(vec![from]));
                    let report = self.run().code(0).json();
                    assert_eq!(report["outcome"], "activated");
                    let fetched = report["bytes_fetched"].as_u64().unwrap();
                    assert!(fetched < SIMILAR as u64 / 2, "{report}");
                    self.commit(version, epoch);
                }
            }
            Cycle::Unhealthy => {
                self.publish(epoch);
                self.activated();
                self.boot();
                self.migrate("of a bad release");
                self.device.make_unhealthy();
                self.device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["reverted"]);
                self.device.make_healthy();
                self.fell_back();
            }
            Cycle::Dead => {
                self.publish(epoch);
                self.activated();
                for _ in 0..3 {
                    self.boot();
                    self.migrate("of a dead release");
                }
                self.fell_back();
            }
            Cycle::RottenTrial => {
                self.publish(epoch);
                self.activated();
                self.boot();
                self.migrate("of a rotten release");
                self.device.write(&format!("{}/vmlinuz", self.book.running.other()), b"rotten");
                self.fell_back();
                // Folders have no mark of the slot that this boot was asked to start.
                self.boot();
            }
            Cycle::Cancelled => {
                self.publish(epoch);
                self.activated();
                self.device.here(&["rollback"]).code(0).says(&["cancelled"]);
                self.fell_back();
            }
            Cycle::ClockJump => {
                let version = self.publish(epoch);
                let config = cli_unattended::config(&self.device, &self.registry, "");
                let days = [-20_000, 3_650, -1, 400][self.random(4) as usize];
                let jumped = Utc::now() + TimeDelta::days(days);
                let done = cli_unattended::hour(&self.device, &config, jumped);
                assert!(done.is_ok(), "{days} days: {done:?}");
                self.commit(version, epoch);
                // At the right time again.
                assert_eq!(self.run().code(0).json()["outcome"], "up-to-date");
            }
            Cycle::RolledBack => self.roll_back(),
            Cycle::RottenFallback => self.rot(),
            Cycle::DamagedFile => {
                let names = ["history.json", "fetch.json", "memory.json", "unjudged.json"];
                let name = names[self.random(4) as usize];
                let script = "install -m 600 /dev/null \"$0\" && head -c 3000 /dev/urandom >\"$0\"";
                self.device.shell(script, &self.device.path("S").join(name));
                self.device.here(&["healthcheck"]).code(0);
                self.act(Cycle::Good);
            }
            Cycle::KilledRun => {
                let version = self.publish(epoch);
                let mut arguments = self.device.asking(&self.registry, &["run"]);
                arguments.extend(["--pubkey", "K"]);
                let mut run =
                    self.device.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(self.random(60)));
                run.kill().unwrap();
                run.wait().unwrap();
                self.device.wait_for_lock();
                self.activated();
                self.commit(version, epoch);
            }
            Cycle::OtherKey => {
                self.key = 3 - self.key;
                self.publish(epoch);
                let outcome = self.run().code(77).json();
                assert_eq!(outcome["error"]["reason"], "signature-unknown-key");
                self.device.save_key(&cli_support::key(self.key), "K");
                self.act(Cycle::Good);
            }
            Cycle::Idle => {
                let before = (self.device.tree("A"), self.device.tree("B"), self.device.env_bytes());
                for command in [&["status"][..], &["doctor"], &["metrics"], &["history", "--last"], &["trust", "show"]]
                {
                    let ran = self.device.here(command);
                    assert!(!ran.stderr.contains("panicked") && ran.code != Some(70), "{ran:?}");
                }
                assert_eq!((self.device.tree("A"), self.device.tree("B"), self.device.env_bytes()), before);
            }
        }
    }

    fn roll_back(&mut self) {
        let other = self.book.running.other();
        let Some(content) = self.book.content[other as usize].clone().filter(|_| self.book.fallback) else {
            assert_eq!(
                self.device.here(&["rollback", "--json"]).code(75).json()["error"]["reason"],
                "nothing-to-roll-back"
            );
            return;
        };
        if self.book.content[self.book.running as usize].as_ref() == Some(&content) {
            self.device.here(&["rollback", "--json"]).code(75);
            return;
        }
        if content.epoch < self.book.epoch {
            self.device.here(&["rollback", "--json"]).code(77);
            return;
        }
        self.device.here(&["rollback"]).code(0).says(&["boots next"]);
        self.commit(content.version, content.epoch);
    }

    fn rot(&mut self) {
        let other = self.book.running.other();
        if !self.book.fallback {
            return;
        }
        let path = self.device.path(&other.to_string()).join("kubesolo-os.gz");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
        self.device.forget_scrub();
        // Where the registry was thrown away meanwhile, a copy of the running release stands in.
        self.run();
        let running = self.book.content[self.book.running as usize].clone();
        let own = self.book.content[other as usize].clone();
        let found = self.device.version_in(other);
        let known = [own, running].into_iter().flatten().find(|content| Some(&content.version) == found.as_ref());
        assert!(known.is_some(), "{found:?} is in slot {other}");
        self.book.content[other as usize] = known;
    }

    /// The device is as the book says, and keeps no more than it may.
    #[track_caller]
    fn agrees(&self, cycle: Cycle) {
        let (device, book) = (&self.device, &self.book);
        let env = device.env();
        assert_eq!((env.active, env.good, env.success), (book.running, book.running, true), "{cycle:?}");
        let other = book.running.other();
        assert_eq!(env.slot(other) == SlotState::Good, book.fallback, "{cycle:?}: {env:?}");
        let versions = |slot: SlotId| book.content[slot as usize].as_ref().map(|content| content.version.clone());
        assert_eq!(device.version_in(book.running), versions(book.running), "{cycle:?}");
        if book.fallback {
            assert_eq!(device.version_in(other), versions(other), "{cycle:?}");
        }
        for slot in SlotId::BOTH.into_iter().filter(|slot| *slot == book.running || book.fallback) {
            for file in ["vmlinuz", "kubesolo-os.gz"] {
                let content = fs::read(device.path(&format!("{slot}/{file}"))).unwrap();
                let line = fs::read_to_string(device.path(&format!("{slot}/{file}.sha256"))).unwrap();
                assert!(line.starts_with(&Digest::of(&content).hex()), "{cycle:?}: {file} of slot {slot}");
            }
        }
        assert_eq!(fs::read_to_string(device.path("kine/state")).unwrap(), book.data, "{cycle:?}");
        let status = device.here(&["status", "--json"]).code(0).json();
        assert_eq!(status["booted"]["version"].as_str(), versions(book.running).as_deref(), "{cycle:?}");
        let kept = device.tree("S");
        let bytes: u64 = kept.values().map(|(content, ..)| content.len() as u64).sum();
        assert!(bytes <= KEPT_BYTES && kept.len() <= KEPT_FILES, "{cycle:?}: {bytes} bytes in {} files", kept.len());
    }
}

/// The largest size of each kind of file that the agent keeps, in bytes, and the number of these files.
#[derive(Default)]
struct Kept(BTreeMap<String, (usize, usize)>);

impl Kept {
    fn look(&mut self, device: &Device) {
        let mut now: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let folder = device.path("S");
        for (path, (content, ..)) in device.tree("S").into_iter().filter(|(path, _)| path.is_file()) {
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            // Of a folder with a file for each attempt, all files count as one.
            let kind = name.split_once('/').map_or(name.clone(), |(folder, _)| format!("{folder}/"));
            let (bytes, files) = now.entry(kind).or_default();
            (*bytes, *files) = (*bytes + content.len(), *files + 1);
        }
        for (kind, (bytes, files)) in now {
            let most = self.0.entry(kind).or_default();
            *most = (most.0.max(bytes), most.1.max(files));
        }
    }
}

/// Runs cycles, and returns how long each took.
fn soak(seed: u64, cycles: usize) -> Vec<(Cycle, Duration)> {
    let mut soak = Soak::new(seed);
    let (mut all, mut kept) = (vec![], [Kept::default(), Kept::default()]);
    for number in 0..cycles {
        let cycle = CYCLES[soak.random(CYCLES.len() as u64) as usize];
        let begin = Instant::now();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| soak.cycle(cycle)));
        if let Err(panic) = ran {
            eprintln!("SOAK_SEED={seed}: cycle {number}, {cycle:?}");
            std::panic::resume_unwind(panic);
        }
        all.push((cycle, begin.elapsed()));
        kept[usize::from(number >= cycles / 2)].look(&soak.device);
    }
    let [first, second] = &kept;
    for (kind, most) in &second.0 {
        println!("{kind}: at most {:?} bytes and files in the first half, {most:?} in the second", first.0.get(kind));
    }
    let kept = soak.device.tree("S");
    let bytes: usize = kept.values().map(|(content, ..)| content.len()).sum();
    println!("seed {seed}: {cycles} cycles; {bytes} bytes in {} files are kept at the end", kept.len());
    all
}

#[test]
fn the_device_is_as_the_book_says_after_each_cycle() {
    soak(1, 16);
}

#[test]
#[ignore = "as long as SOAK_CYCLES says"]
fn the_device_is_as_the_book_says_after_years() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cycles, seed) = (number("SOAK_CYCLES", 200), number("SOAK_SEED", 1));
    let all = soak(seed, cycles as usize);
    let mut by_cycle: BTreeMap<Cycle, Vec<Duration>> = BTreeMap::new();
    for (cycle, time) in all {
        by_cycle.entry(cycle).or_default().push(time);
    }
    for (cycle, times) in by_cycle {
        let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_millis() / times.len().max(1) as u128;
        let (first, last) = times.split_at(times.len() / 2);
        println!(
            "{cycle:?}: {} times, {} ms in the first half, {} ms in the second",
            times.len(),
            mean(first),
            mean(last)
        );
    }
}
