//! State of the device: this boot and the next one, the slots, and the last update. Nothing here changes anything.

use std::fmt;
use std::path::Path;

use bootenv::boot::{Files, PowerOn, decide_with};
use bootenv::protocol::{SlotState, View};
use bootenv::{Fallback, SlotId};
use chrono::{DateTime, SecondsFormat, Utc};
use nix::sys::statfs::{Statfs, statfs};
use nix::unistd::geteuid;
use semver::Version;
use serde::{Serialize, Serializer};

use crate::base::console::progress::size;
use crate::base::error::Result;
use crate::base::replace;
use crate::base::words::{Recorded, words};
use crate::config::Config;
use crate::device::blocks::CommandLine;
use crate::device::boot::{Boot, BootedBasis, is_out_of_sight};
use crate::device::cmdline::Origins;
use crate::device::data::Data;
use crate::device::loader::Folder;
use crate::device::slot::{Facts, SlotManifest, Slots};
use crate::policy::preflight::{self, Safety};
use crate::policy::trust_policy::TrustPolicy;
use crate::schedule::clock::Clock;
use crate::schedule::window::Window;
use crate::schedule::zone::Zone;
use crate::state::format::optional_seconds;
use crate::state::freshness;
use crate::state::history::TrialOutcome;
use crate::state::phase::Phase;
use crate::state::records::Evidence;
use crate::state::state::{LastRun, Skip, Waiting};
use crate::state::store::Store;
use crate::state::trust::Trust;
use crate::update::data::{self, Need};
use crate::update::loader;

/// The whole report. An unknown member is absent, and `problems` has the cause.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Version of this agent.
    pub agent: &'static str,
    /// The running slot.
    pub booted: Option<Booted>,
    /// Both slots.
    pub slots: Vec<SlotStatus>,
    /// The boot environment.
    pub environment: Option<Environment>,
    /// The slot that the next power-on would boot, if the hashes match.
    pub next_boot: Option<NextBoot>,
    /// Where the last update stands.
    pub phase: Phase,
    /// How its trial ended, if it had one that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Recorded<TrialOutcome>>,
    /// Evidence of that trial, if it left any; absent for an account that cannot read records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Time of the last change of the phase; absent before the first update.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// True if the phase is one of a run, and no run is at work: it was killed, or lost power.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// The version of the last attempt.
    pub to_version: String,
    /// Number of attempts to install that version.
    pub attempt_count: u32,
    /// Cause of the failure of the last attempt; empty without one.
    pub last_error: String,
    /// Why the last run did nothing.
    pub last_skip: Option<Skip>,
    /// How the last run ended.
    pub last_run: Option<LastRun>,
    /// Time before which no request is made, by the last Retry-After of a server.
    pub not_before: Option<String>,
    /// The wave that this device waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The data that go back with a slot; absent where they or the settings cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,
    /// The maintenance window; absent where the settings cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,
    /// The loader files; absent where the bootloader is not GRUB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader: Option<LoaderStatus>,
    /// Means that end a failed boot before userspace can; absent where no boot uses these slots.
    pub safety: Option<Safety>,
    /// When a trial last showed that agent and bootloader use the same environment.
    pub link_shown: Option<String>,
    /// The highest security epoch that was committed here.
    pub security_epoch: u64,
    /// True if the running release has a lower epoch, because the bootloader fell back to it.
    pub below_security_epoch: bool,
    /// Ids of the revoked keys.
    pub revoked_keys: Vec<String>,
    /// Freshness of the last offer, as of now.
    pub freshness: Option<freshness::FreshnessReport>,
    /// Releases that failed here: version and digest.
    pub failed: Vec<String>,
    /// Public half of the key that signs the receipts of this device, 64 hex digits; absent before the first receipt, and for
    /// an account that is not root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    /// Id of this device in its events and at a FleetLock server, 32 hex digits made from its machine-id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_id: Option<String>,
    /// True if this account is not root and cannot see the disks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_root: bool,
    /// Number of events that wait for their receiver; absent where this account may not look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_events: Option<u64>,
    /// Items that cannot be read.
    pub problems: Vec<String>,
}

/// The running slot.
#[derive(Debug, Serialize)]
pub struct Booted {
    /// `A` or `B`.
    pub slot: String,
    /// Its version.
    pub version: Option<String>,
    /// End of the support of its release; absent: unknown.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<DateTime<Utc>>,
    /// The basis of that slot: the kernel command line, an option, or an assumption.
    pub known: BootedBasis,
    /// The trial that this boot was started for; it may be over by now.
    pub trial: Option<String>,
    /// Why the bootloader did not boot what it was asked to.
    #[serde(serialize_with = "as_text")]
    pub fallback: Option<Fallback>,
    /// True if KubeSolo OS's own loader file started it: updates wait for `adopt`.
    pub old_loader: bool,
    /// The kernel command line, by the origin of its words; absent where nothing boots the slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_command_line: Option<Origins>,
}

/// Content of a slot, at a glance.
#[derive(Debug, Serialize)]
pub struct SlotStatus {
    /// `A` or `B`.
    pub slot: String,
    /// Folder or block device.
    pub place: String,
    /// Its state in the boot environment.
    #[serde(serialize_with = "as_text")]
    pub state: Option<SlotState>,
    /// The version it holds.
    pub version: Option<String>,
    /// The digest of that release.
    pub digest: Option<String>,
    /// True if all files are there with their sizes; see `verify` for their content.
    pub complete: bool,
    /// Both images are there, with or without a manifest.
    #[serde(skip)]
    pub has_images: bool,
}

/// The loader files of GRUB.
#[derive(Debug, Serialize)]
pub struct LoaderStatus {
    /// Number of the one that started this boot: 0 for one of version 0.1; absent for one of KubeSolo OS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booted: Option<u32>,
    /// Number of the one that boots next; absent where a device has no second one, or it is not of the slot protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<u32>,
    /// Number of the one that the next boot tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_trial: Option<u32>,
    /// How often a try of the one that this agent carries failed.
    pub failures: u32,
}

impl LoaderStatus {
    /// The same in words.
    #[must_use]
    pub fn words(&self) -> String {
        let booted = match self.booted {
            None => "of KubeSolo OS".to_owned(),
            Some(0) => "of version 0.1".to_owned(),
            Some(number) => format!("file {number}"),
        };
        let tried = self.on_trial.map_or(String::new(), |number| format!(", the next boot tries file {number}"));
        let failed = if self.failures > 0 { format!(", failed tries: {}", self.failures) } else { String::new() };
        format!("{booted}{tried}{failed}")
    }

    fn find(config: &Config, state: &Path, boot: &Boot) -> Result<Option<Self>> {
        let Some(folder) = Folder::of(config, boot)? else { return Ok(None) };
        let Some(scripts) = folder.scripts()? else { return Ok(None) };
        let stage = scripts.stage();
        Ok(Some(Self {
            booted: loader::started_by(boot),
            good: stage.and_then(|stage| scripts.number(stage.good)),
            on_trial: stage.and_then(|stage| scripts.number(stage.tried?)),
            failures: Store::new(state).read_memory().loader_failures(loader::carried()),
        }))
    }
}

/// The data that go back with a slot.
#[derive(Debug, Serialize)]
pub struct DataStatus {
    /// The folders of `state_paths=`, relative to the data partition.
    pub paths: Vec<String>,
    /// Why the next trial would get no checkpoint; absent if it gets one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unprotected: Option<String>,
    /// Space and time that a checkpoint needs.
    #[serde(flatten)]
    pub need: Need,
    /// Names of the checkpoints.
    pub checkpoints: Vec<String>,
    /// Length of the files in all checkpoints, in bytes.
    pub bytes: u64,
}

impl DataStatus {
    /// Looks at the checkpoints and at what the next one needs.
    ///
    /// # Errors
    /// 73 when they cannot be read, 78 when a folder of the settings cannot be part of a checkpoint.
    pub fn find(config: &Config, state: &Path, boot: Option<&Boot>) -> Result<Self> {
        let data = Data::beside(state);
        let names = data.find()?.names;
        let bytes = names.iter().filter_map(|name| data.about(*name).ok().flatten()).map(|about| about.bytes()).sum();
        Ok(Self {
            paths: data::paths(config, &data),
            unprotected: data::unprotected(state, config, &data),
            need: data::need(config, &data, boot)?,
            checkpoints: names.iter().map(ToString::to_string).collect(),
            bytes,
        })
    }

    /// The next checkpoint in words.
    #[must_use]
    pub fn words(&self) -> String {
        match &self.unprotected {
            Some(why) => format!("no data go back with a release: {why}"),
            None => format!("a checkpoint of {} needs {}", self.paths.join(", "), self.need.words()),
        }
    }
}

/// The maintenance window by now.
#[derive(Debug, Serialize)]
pub struct WindowStatus {
    /// Its spans and zone, as in the settings; `always` without a window.
    pub spans: String,
    /// True if an update may start now.
    pub open: bool,
    /// When it opens, if it is closed and that is known.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<DateTime<Utc>>,
}

words! {
    /// A boot environment as it was found.
    pub enum EnvKind {
        /// The agent wrote it last.
        Ours = "ours",
        /// Another program changed it.
        Foreign = "foreign",
        /// It is damaged, or is not there.
        Invalid = "invalid",
    }
}

/// The boot environment.
#[derive(Debug, Serialize)]
pub struct Environment {
    /// Where it is.
    pub place: String,
    /// Kind of the last writer, if the block is valid.
    pub kind: EnvKind,
    /// The damage, in words.
    pub damage: Option<String>,
    /// The active slot.
    pub active: Option<String>,
    /// The last good slot.
    pub good: Option<String>,
    /// The slot on trial.
    pub on_trial: Option<String>,
    /// Tries that it has left.
    pub tries_left: Option<u8>,
}

/// The next power-on.
#[derive(Debug, Serialize)]
pub struct NextBoot {
    /// `A` or `B`; absent if nothing boots.
    pub slot: Option<String>,
    /// The reason for this slot.
    pub reason: &'static str,
}

/// Free bytes of the data partition below which the records of an update may not be written any more.
pub(super) const SPACE_LEAST: u64 = 1 << 20;

/// Bytes of a filesystem that every account can fill.
pub(super) fn available(filesystem: &Statfs) -> u64 {
    let block = u64::try_from(filesystem.block_size()).unwrap_or(0);
    filesystem.blocks_available().saturating_mul(block)
}

/// The words for a folder without room for the records of an update; `None` while there is room.
pub(super) fn full(folder: &Path) -> Option<String> {
    let free = available(&statfs(folder).ok()?);
    let next = "too little for the records of an update. Make room on the data partition";
    (free < SPACE_LEAST).then(|| format!("{} free in {}, {next}", size(free), folder.display()))
}

/// Gathers the report.
#[must_use]
pub fn find(boot: Result<Boot>, slots: impl FnOnce() -> Result<Slots>, state: &Path) -> Status {
    let store = Store::new(state);
    let full = full(replace::folder_of(state));
    let (memory, unreadable) = store.read_each();
    let mut problems: Vec<_> =
        memory.warnings.iter().cloned().chain(unreadable.into_iter().map(|e| e.message)).collect();
    problems.extend(full);
    let needs_root = !geteuid().is_root() && boot.as_ref().is_err_and(is_out_of_sight);
    let boot = boot.inspect_err(|e| problems.push(e.message.clone())).ok();
    let (state, trust) = (memory.state, memory.trust);
    let mut status = Status {
        agent: env!("CARGO_PKG_VERSION"),
        booted: None,
        slots: vec![],
        environment: None,
        next_boot: None,
        phase: state.phase(),
        outcome: state.outcome.clone(),
        evidence: store.read_record(&state.attempt.id).ok().flatten().and_then(|record| record.evidence),
        since: state.updated_at,
        interrupted: matches!(state.phase(), Phase::Checking | Phase::Downloading) && !store.is_locked(),
        to_version: state.attempt.to_version,
        attempt_count: state.attempt_count,
        last_error: state.last_error,
        last_skip: state.last_skip,
        last_run: state.last_run,
        not_before: state.not_before.map(rfc3339),
        waiting: state.waiting,
        data: None,
        window: None,
        loader: None,
        safety: None,
        link_shown: state.link_shown.map(rfc3339),
        security_epoch: trust.security_epoch,
        below_security_epoch: false,
        revoked_keys: trust.revoked_keys.iter().map(|key| key.id().to_string()).collect(),
        freshness: state.freshness.map(|seen| seen.by_now(&Clock::system(Utc::now(), trust.last_seen))),
        failed: trust.failed.iter().map(|f| format!("{} ({}): {}", f.version, f.identity.release, f.reason)).collect(),
        device_key: store.device_public(),
        public_id: None,
        needs_root,
        pending_events: store.pending_events().map(|all| all.len() as u64),
        problems,
    };
    match boot {
        Some(boot) => status.describe(&boot),
        // One place that cannot be used does not hide the others.
        None => drop(slots().map(|slots| status.describe_slots(&slots, View::Invalid))),
    }
    status
}

impl Status {
    /// Adds the booted slot from the kernel command line, which every account can read, where the device is not seen.
    pub fn name_booted(&mut self, line: &str) {
        let origins = Origins::of(line, None);
        let line = CommandLine::parse(line);
        let Some(slot) = line.slot.ok().filter(|_| self.booted.is_none()) else { return };
        self.booted = Some(Booted {
            slot: slot.to_string(),
            version: None,
            supported_until: None,
            known: BootedBasis::CommandLine,
            trial: line.trial.ok().filter(|trial| !trial.is_none()).map(|trial| trial.to_string()),
            fallback: line.fallback.ok(),
            old_loader: line.proto != Ok(1),
            kernel_command_line: Some(origins),
        });
    }

    /// Adds the data that go back with a slot, where this account may see them.
    pub fn add_data(&mut self, config: &Config, state: &Path, boot: Option<&Boot>) {
        match DataStatus::find(config, state, boot) {
            _ if self.needs_root => {}
            Ok(data) => self.data = Some(data),
            Err(error) => self.problems.push(error.message),
        }
    }

    /// Adds the id of this device towards servers, where this account may see the disks.
    pub fn add_public_id(&mut self, config: &Config, state: &Path, boot: Option<&Boot>) {
        let file = &config.machine_id_file;
        let state = Store::new(state).read_each().0.state;
        self.public_id = boot.and_then(|boot| state.public_id(file, boot.loses(file)));
    }

    /// Adds the loader files, where the bootloader is GRUB and this account may see them.
    pub fn add_loader(&mut self, config: &Config, state: &Path, boot: Option<&Boot>) {
        match boot.map(|boot| LoaderStatus::find(config, state, boot)) {
            Some(Ok(loader)) => self.loader = loader,
            Some(Err(error)) => self.problems.push(error.message),
            None => {}
        }
    }

    /// Adds the maintenance window of the settings, by now.
    pub fn add_window(&mut self, config: &Config) {
        let (window, now) = (&config.maintenance_window, Utc::now());
        match Zone::open(config.maintenance_zone.as_deref()) {
            Ok(zone) => {
                let open = window.is_open(&zone, now);
                let opens_at = if open { None } else { window.opens_at(&zone, now) };
                let spans =
                    if *window == Window::always() { window.to_string() } else { format!("{window} {}", zone.name()) };
                self.window = Some(WindowStatus { spans, open, opens_at });
            }
            Err(error) => self.problems.push(error.message),
        }
    }

    /// Adds the running version from elsewhere, where the booted slot does not have it.
    pub fn name_running(&mut self, version: impl FnOnce() -> Result<Option<Version>>) {
        let Some(booted) = self.booted.as_mut().filter(|booted| booted.version.is_none()) else { return };
        match version() {
            Ok(version) => booted.version = version.map(|version| version.to_string()),
            Err(error) => self.problems.push(error.message),
        }
    }

    fn describe_slots(&mut self, slots: &Slots, view: View) -> [Files; 2] {
        SlotId::BOTH.map(|id| {
            let slot = slots.get(id);
            let facts = slot.facts().inspect_err(|e| self.problems.push(e.message.clone())).ok();
            let manifest = facts.as_ref().and_then(|f| f.manifest.as_ref()?.as_ref().ok());
            self.slots.push(SlotStatus {
                slot: id.to_string(),
                place: slot.place.to_string(),
                state: match view {
                    View::Ours(env) => Some(env.slot(id)),
                    _ => None,
                },
                version: manifest.map(|m| m.version.to_string()),
                digest: manifest.map(|m| m.digest.to_string()),
                complete: facts.as_ref().is_some_and(Facts::looks_complete),
                has_images: facts.as_ref().is_some_and(|f| f.kernel.is_some() && f.initramfs.is_some()),
            });
            facts.as_ref().map_or(Files::Broken, at_a_glance)
        })
    }

    fn describe(&mut self, boot: &Boot) {
        let view = boot.env.view();
        let files = self.describe_slots(&boot.slots, view);
        let booted = boot.booted;
        self.safety = preflight::safety(boot);
        let running = boot.slots.get(booted.slot).manifest().ok().flatten();
        let kernel_command_line = Origins::find(boot, running.as_ref());
        let running = running.and_then(|content| content.release().ok());
        let epoch = running.as_ref().map_or(0, |release| release.security_epoch);
        self.below_security_epoch = epoch < self.security_epoch;
        self.booted = Some(Booted {
            slot: booted.slot.to_string(),
            version: self.slots[booted.slot as usize].version.clone(),
            supported_until: running.and_then(|release| release.supported_until),
            known: boot.basis,
            trial: (!booted.trial.is_none()).then(|| booted.trial.to_string()),
            fallback: booted.fallback,
            old_loader: boot.legacy,
            kernel_command_line,
        });
        self.environment = Some(environment(boot, view));
        self.next_boot = Some(match view {
            // Until adopt has written the whole environment it is the old one that boots next, too.
            View::Foreign(foreign) if boot.legacy => NextBoot {
                slot: Some(foreign.next_of_old_loader().to_string()),
                reason: "the loader file of KubeSolo OS",
            },
            _ => {
                let on = PowerOn { main: view, second: boot.env.second(), files, can_save: true };
                let decision = decide_with(&on, |stored| boot.env.holds(stored));
                NextBoot { slot: decision.start.map(|start| start.slot.to_string()), reason: decision.reason }
            }
        });
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn at_a_glance(facts: &Facts) -> Files {
    match (facts.kernel, facts.initramfs) {
        (Some(1..), Some(1..)) if facts.hash_files => Files::Hold,
        (Some(1..), Some(1..)) => Files::Load,
        _ => Files::Broken,
    }
}

fn environment(boot: &Boot, view: View) -> Environment {
    let mut environment = Environment {
        place: boot.env.place(),
        kind: EnvKind::Invalid,
        damage: boot.env.damage(),
        active: None,
        good: None,
        on_trial: None,
        tries_left: None,
    };
    match view {
        View::Ours(env) => {
            environment.kind = EnvKind::Ours;
            environment.active = Some(env.active.to_string());
            environment.good = Some(env.good.to_string());
            environment.on_trial = env.on_trial().map(|slot| slot.to_string());
            environment.tries_left = env.on_trial().map(|_| env.counter);
        }
        View::Foreign(foreign) => {
            environment.kind = EnvKind::Foreign;
            environment.active = Some(foreign.active.to_string());
        }
        View::Invalid => {}
    }
    environment
}

/// Result of reading a whole slot.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// `A` or `B`.
    pub slot: String,
    /// True if the bootloader may need it: it is the active, the last good or the booted one.
    pub needed: bool,
    /// True if both images are those of its manifest and hash files.
    pub holds: bool,
    /// Keys of this device that signed its release; absent when there is no key or the signatures do not hold.
    pub signed_by: Option<Vec<String>>,
    /// Version, or what is wrong.
    pub message: String,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "holds" } else { "damaged or incomplete" };
        write!(f, "slot {} {holds}: {}", self.slot, self.message)
    }
}

/// Reads both slots from the medium and compares them with their digests and signatures.
#[must_use]
pub fn verify(config: &Config, boot: &Boot, trust: &Trust) -> Vec<Verified> {
    let needed = match boot.env.view() {
        View::Ours(env) => vec![env.active, env.good, boot.booted.slot],
        View::Foreign(foreign) => vec![foreign.active, boot.booted.slot],
        View::Invalid => vec![boot.booted.slot],
    };
    let policy = TrustPolicy::find(config, boot, trust);
    let floor = TrustPolicy::remembered(config, boot, trust).epoch;
    // The bootloader may start it all the same.
    let called = |content: &SlotManifest| {
        let below = content.release().is_ok_and(|release| release.security_epoch < floor);
        let below = if below { format!(", below security epoch {floor}") } else { String::new() };
        format!("{}{below}", content.version)
    };
    let one = |id: SlotId| {
        let slot = boot.slots.get(id);
        let (slot_id, needed) = (id.to_string(), needed.contains(&id));
        let verified = |holds, signed_by, message| Verified { slot: slot_id, needed, holds, signed_by, message };
        let content = match slot.verify() {
            Ok(content) => content,
            // As a factory fills it: the bootloader boots it, though nobody vouches for it.
            Err(_) if matches!(slot.manifest(), Ok(None)) && slot.hashes().is_ok() => {
                return verified(true, None, "hashes only, it has no manifest".into());
            }
            Err(error) => {
                let why = error.message.strip_prefix(&format!("slot {id}: ")).unwrap_or(&error.message);
                return verified(false, None, why.to_owned());
            }
        };
        let called = called(&content);
        match policy.as_ref().map(|policy| &policy.keys) {
            Err(error) => verified(true, None, format!("{called}, signatures not checked: {error}")),
            Ok(None) => verified(true, None, format!("{called}, signatures not checked: no key on this device")),
            Ok(Some(keys)) => match slot.vouched(&content, keys) {
                Err(error) => verified(true, None, format!("{called}: {error}")),
                Ok(by) => {
                    let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                    let message = format!("{called}, signed by {}", by.join(", "));
                    verified(true, Some(by), message)
                }
            },
        }
    };
    SlotId::BOTH.into_iter().map(one).collect()
}
