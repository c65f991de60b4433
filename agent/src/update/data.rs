//! Data that go back with the slot: the step of each boot before any service, what an activation announces, and what the
//! agent clears away once services run. `bootenv::data` decides, `device::data` does it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootenv::data::{self, Act, LAYOUT, Mark, Name, OrElse, Why};
use bootenv::protocol::{Booted, View};
use bootenv::{SlotId, TrialId};
use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::base::console::progress;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::replace::{folder_of, replace};
use crate::base::{files, json, limits};
use crate::config::Config;
use crate::device::blocks::{CommandLine, RUN};
use crate::device::boot::Boot;
use crate::device::data::{About, Base, Data, Order, PathAbout, Size, copy};
use crate::device::health::Check;
use crate::device::slot::Slot;
use crate::state::state::STATE_FILE;

/// Differs from boot to boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Longest record of the step, in bytes.
const STAMP_BYTES: u64 = 64 * 1024;
/// Folder that goes back with the slot unless `state_paths=` says otherwise: KubeSolo's datastore.
const DEFAULT_PATH: &str = "kine";
/// Rate of a copy that is expected where none was measured, in bytes per second.
const RATE: u64 = 8 << 20;
/// Blocks for one entry of a copy, in bytes.
const ENTRY_BYTES: u64 = 4096;
/// Room for the filesystem's own blocks, in bytes.
const MARGIN_BYTES: u64 = 16 << 20;
/// Space that stays free beside a checkpoint: a share of the partition in percent, within these bounds in bytes. The lower
/// bound itself is at most another share, or a partition of that size could never take a checkpoint.
const SPARE_PERCENT: u64 = 5;
const SPARE_LEAST_BYTES: u64 = 64 << 20;
const SPARE_LEAST_PERCENT: u64 = 25;
const SPARE_MOST_BYTES: u64 = 1 << 30;
/// Least number of inodes that stay free.
const SPARE_INODES: u64 = 1024;
/// Trials of one release that may be withdrawn before a person has to ask for the next one.
const WITHDRAWN_MOST: usize = 2;

/// The result of the step of a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// `ordinary`, `checkpoint`, `back`, `unprotected` or `settled`.
    pub did: String,
    /// The folders.
    pub paths: Vec<String>,
    /// Length of their files.
    pub bytes: u64,
    /// Time that it took, in seconds.
    pub seconds: u64,
    /// The trial whose checkpoint it is.
    pub trial: Option<String>,
    /// The same in words.
    pub message: String,
}

impl StepReport {
    /// A boot that has nothing to do with checkpoints.
    #[must_use]
    pub fn ordinary() -> Self {
        Self::said("ordinary", "ordinary".into())
    }

    fn said(did: &str, message: String) -> Self {
        Self { did: did.into(), paths: vec![], bytes: 0, seconds: 0, trial: None, message }
    }

    fn of(did: &str, about: &About, message: String) -> Self {
        Self {
            paths: about.paths.iter().map(|one| one.path.clone()).collect(),
            bytes: about.bytes(),
            seconds: about.took,
            trial: Some(about.trial.to_string()),
            ..Self::said(did, message)
        }
    }
}

fn list(about: &About) -> String {
    about.paths.iter().map(|one| one.path.as_str()).collect::<Vec<_>>().join(", ")
}

/// The record of the step of this boot: in memory, so that an ordinary boot writes nothing to the disk.
#[derive(Serialize, Deserialize)]
struct Stamp {
    boot: String,
    report: StepReport,
}

fn stamp(state: &Path) -> PathBuf {
    if state == Path::new(STATE_FILE) { Path::new(RUN).join("seen/data") } else { folder_of(state).join("data-step") }
}

fn boot_id() -> String {
    files::read_kernel(Path::new(BOOT_ID)).unwrap_or_default().trim().to_owned()
}

/// The report of the step, if it ran in this boot.
#[must_use]
pub fn done(state: &Path) -> Option<StepReport> {
    let bytes = files::read(&stamp(state), STAMP_BYTES, Reason::StateUnusable).ok().flatten()?;
    let stamp: Stamp = json::parse(&bytes, "data-step").ok()?;
    (stamp.boot == boot_id()).then_some(stamp.report)
}

/// Records that the step of this boot is done: without it nothing is announced, because nobody would put it back.
pub fn record(state: &Path, report: &StepReport) {
    let path = stamp(state);
    let stamp = Stamp { boot: boot_id(), report: report.clone() };
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder_of(&path))
        .and_then(|()| replace(&path, &serde_json::to_vec(&stamp)?, 0o600));
    if let Err(error) = written {
        log::warn!("no checkpoint before the next trial: cannot write {}: {error}", path.display());
    }
}

/// The system in a slot, by its two images.
fn base(slot: &Slot) -> Option<Base> {
    if let Ok(Some(manifest)) = slot.manifest() {
        let (kernel, initramfs) = (manifest.kernel.digest, manifest.initramfs.digest);
        return Some(Base { kernel, initramfs, version: manifest.version.to_string() });
    }
    let [kernel, initramfs] = slot.hashes().ok()?.map(|image| image.digest);
    Some(Base { kernel, initramfs, version: "unknown".into() })
}

/// The folders of the settings.
#[must_use]
pub fn paths(config: &Config, data: &Data) -> Vec<String> {
    match &config.state_paths {
        Some(paths) => paths.clone(),
        None if data.is_there(DEFAULT_PATH).is_ok_and(|there| there) => vec![DEFAULT_PATH.to_owned()],
        None => vec![],
    }
}

/// The step of a boot, before any service.
///
/// # Errors
/// 75 when the trial is withdrawn: restart. 73 when data are not whole: no service may start. Others decide nothing.
pub fn step(config: &Config, boot: &mut Boot, data: &Data) -> Result<StepReport> {
    let booted = base(boot.slots.get(boot.booted.slot));
    let mut step = Step { config, boot, data, booted, settle_failed: false, report: StepReport::ordinary() };
    while step.act()? {}
    Ok(step.report)
}

struct Step<'a> {
    config: &'a Config,
    boot: &'a mut Boot,
    data: &'a Data,
    /// The system that runs.
    booted: Option<Base>,
    settle_failed: bool,
    report: StepReport,
}

impl Step<'_> {
    /// One transition; false once services may start.
    fn act(&mut self) -> Result<bool> {
        let found = self.data.find()?;
        if !found.unknown.is_empty() {
            let message = format!("a later version left checkpoints: {}", found.unknown.join(", "));
            return self.not_readable(&message);
        }
        let checkpoints = self.data.checkpoints(&found.names, self.booted.as_ref());
        let act = data::step(&data::Found {
            checkpoints: &checkpoints,
            booted: self.boot.booted,
            env: self.boot.env.view(),
            legacy: self.boot.legacy,
            settle_failed: self.settle_failed,
        });
        log::info!("data: {act:?}");
        match act {
            Act::Go => return Ok(false),
            Act::Hold(name) => return self.not_readable(&format!("the checkpoint {name} cannot be read")),
            Act::Withdraw => return self.not_readable("a checkpoint cannot be read"),
            Act::Finish(name) => self.finish(name)?,
            Act::Begin(name) => self.begin(name)?,
            Act::Settle(next) => {
                if let Err(error) = self.boot.env.store(&next) {
                    log::error!("the trial that ended is settled later: {error}");
                    self.settle_failed = true;
                }
            }
            Act::Drop(name, why) => self.drop(name, why)?,
            Act::Keep(name, why) => self.keep(name, why)?,
            Act::Take { trial, or } => return self.take(trial, or, &found.names),
        }
        Ok(true)
    }

    fn not_readable(&mut self, message: &str) -> Result<bool> {
        let error = Error::new(Reason::DataIncomplete, message.to_owned())
            .remedy("Boot the release that made it, or run `kubesolo-update data drop --accept-newer`.");
        if self.boot.booted.trial.is_none() { Err(error) } else { self.withdraw(error).map(|()| true) }
    }

    fn finish(&mut self, name: Name) -> Result<()> {
        let about = self.data.finish(name)?;
        let left = about.base.as_ref().map_or("the last good system", |base| base.version.as_str());
        let message = format!("{} back to what {left} left at {}", list(&about), about.at.format("%Y-%m-%d %H:%M"));
        log::warn!("{message}; what was written since is lost");
        self.report = StepReport::of("back", &about, message);
        Ok(())
    }

    /// A checkpoint that is not whole is left alone: the data of a trial that has not begun are better than half of it.
    fn begin(&mut self, name: Name) -> Result<()> {
        match (self.data.count(name), name.mark) {
            (Ok(()), _) => self.data.rename(name, Mark::Back),
            (Err(error), Mark::For(_)) => self.withdraw(error),
            (Err(error), _) => Err(error),
        }
    }

    fn drop(&mut self, name: Name, why: Why) -> Result<()> {
        let message = format!("the checkpoint of trial {} is dropped: {}", name.trial, words(why));
        log::warn!("{message}");
        self.report = StepReport::said("settled", message);
        self.data.drop(name)
    }

    fn keep(&mut self, name: Name, why: Why) -> Result<()> {
        let message = format!("the checkpoint of trial {} is not restored: {}", name.trial, words(why));
        log::warn!("{message}");
        self.report = StepReport::said("settled", message);
        keep(self.data, name, self.config)
    }

    /// False if there is nothing to take.
    fn take(&mut self, trial: TrialId, or: OrElse, names: &[Name]) -> Result<bool> {
        let note = names.iter().find(|name| name.trial == trial && matches!(name.mark, Mark::Note | Mark::New));
        let note = note.and_then(|name| self.data.about(*name).ok().flatten());
        let (about, paths) = self.order(trial, note);
        if paths.is_empty() {
            return Ok(false);
        }
        let limit = self.boot.line.as_deref().map_or(limits::DATA_SECONDS, |line| CommandLine::parse(line).data_limit);
        let order = Order { about: about.clone(), paths: &paths, limit: Duration::from_secs(limit) };
        match (self.data.take(order), or) {
            (Ok(taken), _) => {
                let (size, time) = (progress::size(taken.bytes()), taken.took);
                let message = format!("checkpoint of {}: {size}, {time} s", list(&taken));
                self.report = StepReport::of("checkpoint", &taken, message);
            }
            (Err(error), OrElse::Withdraw) => self.withdraw(error)?,
            (Err(error), OrElse::GoWithout) => self.go_without(&About { why: error.message, ..about }, names)?,
        }
        Ok(true)
    }

    /// The folders of the system that announced the trial, and of this one.
    fn order(&self, trial: TrialId, note: Option<About>) -> (About, Vec<String>) {
        let mut all: Vec<String> = note.iter().flat_map(|note| &note.paths).map(|one| one.path.clone()).collect();
        for path in paths(self.config, self.data) {
            if !all.iter().any(|known| Path::new(&path).starts_with(known)) {
                all.retain(|known| !Path::new(known).starts_with(&path));
                all.push(path);
            }
        }
        let good = match self.boot.env.view() {
            View::Ours(env) => env.good,
            View::Foreign(_) | View::Invalid => self.boot.booted.slot.other(),
        };
        let about = note.unwrap_or_else(|| About {
            layout: LAYOUT,
            trial,
            slot: self.boot.booted.slot,
            base: base(self.boot.slots.get(good)),
            noted: false,
            why: String::new(),
            paths: vec![],
            at: Utc::now(),
            took: 0,
        });
        // A try before this one may have left a cause.
        (About { at: Utc::now(), why: String::new(), ..about }, all)
    }

    /// Nobody could put the data back, or nobody could withdraw the trial.
    fn go_without(&mut self, about: &About, names: &[Name]) -> Result<()> {
        for name in names.iter().filter(|name| name.trial == about.trial) {
            self.data.drop(*name)?;
        }
        let new = Name { trial: about.trial, mark: Mark::New };
        if self.data.find()?.names.contains(&new) {
            self.data.drop(new)?;
        }
        let message = format!("unprotected: {}", about.why);
        log::warn!("{message}");
        self.data.announce(about, Mark::None)?;
        self.report = StepReport::of("unprotected", about, message);
        Ok(())
    }

    /// Takes the activation back: no service of the trial has run, and the release is not to blame.
    fn withdraw(&mut self, cause: Error) -> Result<()> {
        let View::Ours(env) = self.boot.env.view() else { return Err(cause.context("the trial cannot be withdrawn")) };
        let next = env.withdraw(self.boot.booted).map_err(|why| {
            Error::new(Reason::DataIncomplete, format!("the trial cannot be withdrawn ({why}): {}", cause.message))
        })?;
        // A disk may be full, and the withdrawal needs no write to it.
        let new = Name { trial: self.boot.booted.trial, mark: Mark::New };
        self.data.explain(new, &cause.message).unwrap_or_else(|e| log::debug!("the cause is not kept: {e}"));
        self.boot.env.store(&next)?;
        let message = format!("the trial of slot {} is withdrawn: {}", self.boot.booted.slot, cause.message);
        Err(Error::new(Reason::DataCheckpoint, message).remedy("Reboot: the last good slot starts."))
    }
}

fn words(why: Why) -> &'static str {
    match why {
        Why::Committed => "its trial was committed",
        Why::PassedOver => "its trial was committed, and the bootloader passed that slot over",
        Why::OtherSystem => "it belongs to another system than the one that runs",
        Why::OlderAgent => "a system that knows no checkpoints ran since",
        Why::NoTrial => "no trial waits for it",
        Why::BaseGone => "the release that it belongs to cannot boot any more",
        Why::Superseded => "the release that it belongs to is the good one again",
    }
}

fn keep(data: &Data, name: Name, config: &Config) -> Result<()> {
    if config.checkpoint_keep == 0 { data.drop(name) } else { data.rename(name, Mark::Kept) }
}

/// Clears away what no trial waits for, and deletes what was dropped. Never a reason for a command to fail.
pub fn tidy(config: &Config, boot: &Boot, data: &Data) {
    if let Err(error) = try_tidy(config, boot, data) {
        log::warn!("checkpoints are cleared away later: {error}");
    }
}

fn try_tidy(config: &Config, boot: &Boot, data: &Data) -> Result<()> {
    loop {
        let names = data.find()?.names;
        let act = data::tidy(&data::Found {
            checkpoints: &data.checkpoints(&names, None),
            booted: boot.booted,
            env: boot.env.view(),
            legacy: boot.legacy,
            settle_failed: false,
        });
        match act {
            Some(Act::Keep(name, Why::Committed)) => keep(data, name, config)?,
            Some(Act::Keep(name, _)) => data.rename(name, Mark::Kept)?,
            Some(Act::Drop(name, why)) => {
                log::info!("the checkpoint {name} is dropped: {}", words(why));
                data.drop(name)?;
            }
            _ => return data.empty_trash(),
        }
    }
}

/// Drops data before a committed trial that were kept as long as the settings say. For a clock that can be right.
pub fn expire(config: &Config, data: &Data, now: DateTime<Utc>) -> Result<()> {
    for name in data.find()?.names.into_iter().filter(|name| name.mark == Mark::Kept) {
        let Some(about) = data.about(name)? else { continue };
        if now - about.at > TimeDelta::days(config.checkpoint_keep.into()) {
            log::info!("the checkpoint {name} is dropped: it was kept for {} days", config.checkpoint_keep);
            data.drop(name)?;
        }
    }
    data.empty_trash()
}

/// Cost of a checkpoint of these folders, beside the space and the time that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Space on the data partition, in bytes.
    pub space: u64,
    /// Space that may be used, in bytes.
    pub free: u64,
    /// Space of data that are kept, or to be deleted, in bytes. An activation that needs it drops them.
    pub kept: u64,
    /// Files and folders.
    pub entries: u64,
    /// Inodes that may be used.
    pub free_entries: u64,
    /// Inodes of data that are kept, or to be deleted.
    pub kept_entries: u64,
    /// Expected time, in seconds.
    pub seconds: u64,
    /// The longest time that a boot has for it, in seconds.
    pub limit: u64,
}

/// Counts what a checkpoint would take, without taking one. A folder of the settings that is none is refused.
///
/// # Errors
/// 73 when a folder cannot be read, 78 when one cannot be part of a checkpoint.
pub fn need(config: &Config, data: &Data, boot: Option<&Boot>) -> Result<Need> {
    let mut all = Size::default();
    for path in paths(config, data) {
        let there = data.is_there(&path).map_err(|e| {
            Error::new(Reason::BadConfig, format!("state_paths=: {}", e.message))
                .remedy("Name folders of the data partition: no files, no links, no mount points.")
        })?;
        if there {
            all.add(copy::size(&data.live(&path)).map_err(|e| {
                Error::new(Reason::DataSpace, format!("cannot count {}: {e}", data.live(&path).display()))
            })?);
        }
    }
    let line = boot.and_then(|boot| boot.line.as_deref());
    let limit = line.map_or(limits::DATA_SECONDS, |line| CommandLine::parse(line).data_limit);
    let kept = data.spare()?;
    Ok(Need {
        space: all.allocated + all.entries * ENTRY_BYTES + MARGIN_BYTES,
        entries: all.entries,
        kept: kept.allocated,
        kept_entries: kept.entries,
        seconds: all.bytes / rate(data),
        limit,
        ..free(data)?
    })
}

/// Bytes and inodes that may be used. A filesystem without a fixed number of inodes has no bound.
fn free(data: &Data) -> Result<Need> {
    let stat = statvfs(&data.live("."))
        .map_err(|e| Error::new(Reason::DataSpace, format!("cannot ask for the space of the data partition: {e}")))?;
    let spare = spare(stat.blocks() * stat.fragment_size());
    let inodes = if stat.files() == 0 { u64::MAX } else { stat.files_available() };
    let free = (stat.blocks_available() * stat.fragment_size()).saturating_sub(spare);
    Ok(Need { free, free_entries: inodes.saturating_sub(SPARE_INODES), ..Need::default() })
}

/// Bytes of a partition of this size that stay free.
fn spare(partition: u64) -> u64 {
    let least = SPARE_LEAST_BYTES.min(partition / 100 * SPARE_LEAST_PERCENT);
    (partition / 100 * SPARE_PERCENT).clamp(least, SPARE_MOST_BYTES)
}

/// The rate of the last checkpoint that is still there.
fn rate(data: &Data) -> u64 {
    let names = data.find().map(|found| found.names).unwrap_or_default();
    let about = names.into_iter().rev().find_map(|name| data.about(name).ok().flatten().filter(|one| one.took > 0));
    about.map_or(RATE, |about| (about.bytes() / about.took).max(1))
}

impl Need {
    /// Data that are kept count as free.
    ///
    /// # Errors
    /// 73 `data-space`, `data-time`.
    pub fn fits(&self) -> Result<()> {
        let (bytes, entries) = (self.free + self.kept, self.free_entries.saturating_add(self.kept_entries));
        if self.space > bytes {
            let (need, free) = (progress::size(self.space), progress::size(bytes));
            let message = format!("a checkpoint of the data needs {need}, and {free} can be used");
            return Err(Error::new(Reason::DataSpace, message)
                .remedy("Free some space on the data partition, or name fewer folders in state_paths=."));
        }
        if self.entries > entries {
            let message = format!("a checkpoint needs {} inodes, and {entries} can be used", self.entries);
            return Err(Error::new(Reason::DataSpace, message).remedy("Delete files on the data partition."));
        }
        if self.seconds > self.limit {
            let message =
                format!("a checkpoint takes about {} s, and a boot has {} s for it", self.seconds, self.limit);
            return Err(Error::new(Reason::DataTime, message)
                .remedy("Raise ks.data_limit= on the kernel command line, or name fewer folders in state_paths=."));
        }
        Ok(())
    }

    /// The same where data that are kept stay.
    ///
    /// # Errors
    /// As [`Need::fits`].
    pub fn fits_beside(&self) -> Result<()> {
        Self { kept: 0, kept_entries: 0, ..*self }.fits()
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        let (space, free) = (progress::size(self.space), progress::size(self.free + self.kept));
        format!("{space} of {free}, and about {} s of {} s", self.seconds, self.limit)
    }
}

/// True if a boot has nothing to decide, so that neither boot environment nor slots are needed.
///
/// # Errors
/// 73 when the checkpoints cannot be read.
pub fn is_ordinary(config: &Config, data: &Data, trial: TrialId) -> Result<bool> {
    let found = data.find()?;
    let booted = Booted { trial, ..Booted::ordinary(SlotId::A) };
    let untouched = found.names.is_empty() && found.unknown.is_empty() && paths(config, data).is_empty();
    Ok(untouched || found.unknown.is_empty() && data::is_ordinary(&found.names, booted))
}

/// Why the data of this device do not go back with the slot; `None` if they do. A step that ran in this boot shows that
/// somebody would put a checkpoint back.
#[must_use]
pub fn unprotected(state: &Path, config: &Config, data: &Data) -> Option<String> {
    if paths(config, data).is_empty() {
        let why = if config.state_paths.is_some() { "state_paths=none" } else { "there is no folder kine" };
        return Some(why.into());
    }
    done(state).is_none().then(|| "the step `kubesolo-update data` did not run in this boot".into())
}

/// A check that fails while a restore that was promised is not done: services run on data of a trial, or on half of them.
#[must_use]
pub fn check(boot: &Boot, data: &Data) -> Option<Check> {
    let names = data.find().ok()?.names;
    let booted = names.iter().any(|name| name.mark == Mark::Held).then(|| base(boot.slots.get(boot.booted.slot)));
    let checkpoints = data.checkpoints(&names, booted.flatten().as_ref());
    let found = data::Found {
        checkpoints: &checkpoints,
        booted: boot.booted,
        env: boot.env.view(),
        legacy: boot.legacy,
        settle_failed: true,
    };
    let (Act::Finish(name) | Act::Begin(name) | Act::Hold(name)) = data::step(&found) else { return None };
    let promised = checkpoints.iter().any(|one| one.name == name && (one.noted || !one.readable));
    promised.then(|| Check {
        name: "checkpoint".into(),
        passed: false,
        wanted: false,
        unknown: false,
        message: format!("data of the last good system wait in {name}: run `kubesolo-update data`"),
        output: String::new(),
    })
}

/// Refuses an activation while data of an earlier trial wait for something.
///
/// # Errors
/// 75 `data-unsettled`.
pub fn settled(data: &Data) -> Result<()> {
    let found = data.find()?;
    let open = |name: &&Name| matches!(name.mark, Mark::New | Mark::Held | Mark::Back);
    let Some(name) = found.names.iter().find(open).map(ToString::to_string).or(found.unknown.first().cloned()) else {
        return Ok(());
    };
    Err(Error::new(Reason::DataUnsettled, format!("an earlier trial left the checkpoint {name}"))
        .remedy("Run `kubesolo-update healthcheck`, or reboot; see `kubesolo-update data status`."))
}

/// Drops data of an earlier release that are kept, if the next checkpoint needs their space.
///
/// # Errors
/// 73 when they cannot be dropped.
pub fn make_room(config: &Config, boot: &Boot, data: &Data) -> Result<()> {
    if need(config, data, Some(boot))?.fits_beside().is_ok() {
        return Ok(());
    }
    for name in data.find()?.names.into_iter().filter(|name| name.mark == Mark::Kept) {
        log::warn!("the checkpoint {name} is dropped: the next one needs its space");
        data.drop(name)?;
    }
    data.empty_trash()
}

/// Refuses a release whose trials were withdrawn before.
///
/// # Errors
/// 75 `data-checkpoint`.
pub fn not_withdrawn(times: usize) -> Result<()> {
    if times < WITHDRAWN_MOST {
        return Ok(());
    }
    let message = format!("{times} trials of this release were withdrawn: the data could not be saved");
    Err(Error::new(Reason::DataCheckpoint, message)
        .remedy("Find the cause with `kubesolo-update data check`, then run `kubesolo-update apply --retry-failed`."))
}

/// Announces the checkpoint of a trial that is about to be stored.
///
/// # Errors
/// 73 when it cannot be written.
pub fn announce(config: &Config, boot: &Boot, data: &Data, trial: TrialId, now: DateTime<Utc>) -> Result<()> {
    let paths = paths(config, data).into_iter().map(|path| PathAbout { path, folder: None }).collect();
    let about = About {
        layout: LAYOUT,
        trial,
        slot: boot.booted.slot.other(),
        base: base(boot.slots.get(boot.booted.slot)),
        noted: true,
        why: String::new(),
        paths,
        at: now,
        took: 0,
    };
    data.announce(&about, Mark::Note)
}

/// The data that a rollback of this boot can go back to.
///
/// # Errors
/// 75 `no-checkpoint`.
pub fn kept_for(boot: &Boot, data: &Data) -> Result<(Name, About)> {
    let none = || {
        Error::new(
            Reason::NoCheckpoint,
            format!("no data of the release in slot {} are kept", boot.booted.slot.other()),
        )
        .remedy("Run `kubesolo-update rollback` without --with-data: it goes back on the data as they are now.")
    };
    let other = base(boot.slots.get(boot.booted.slot.other())).ok_or_else(none)?;
    let kept = data.find()?.names.into_iter().filter(|name| name.mark == Mark::Kept);
    let fits = |about: &About| {
        about.slot == boot.booted.slot && about.is_readable() && about.base.as_ref().is_some_and(|base| base.is(&other))
    };
    kept.filter_map(|name| Some((name, data.about(name).ok().flatten()?)))
        .find(|(_, about)| fits(about))
        .ok_or_else(none)
}

/// The plan of a rollback with its data, and that it takes a person's word.
#[must_use]
pub fn plan(about: &About, now: DateTime<Utc>) -> Error {
    let version = about.base.as_ref().map_or("the previous release", |base| base.version.as_str());
    let message = format!(
        "rollback --with-data puts back {} as {version} left it at {}, {} h ago; what was written since is lost if that \
         trial is committed",
        list(about),
        about.at.format("%Y-%m-%d %H:%M"),
        (now - about.at).num_hours()
    );
    Error::new(Reason::Usage, message).remedy("Add --yes to do it.")
}

/// Drops what `data drop` names: data that are kept, and with `newer` also those that wait for a restore.
///
/// # Errors
/// 73 when they cannot be dropped.
pub fn drop(data: &Data, newer: bool) -> Result<Vec<String>> {
    let found = data.find()?;
    let goes = |name: &&Name| name.mark == Mark::Kept || newer && matches!(name.mark, Mark::Held | Mark::Back);
    let mut dropped = vec![];
    for name in found.names.iter().filter(goes) {
        data.drop(*name)?;
        dropped.push(name.to_string());
    }
    data.empty_trash()?;
    Ok(dropped)
}

/// An error of the step that is no verdict: not that of a trial that was withdrawn.
#[must_use]
pub fn no_verdict(error: Error) -> Error {
    if error.exit() != Exit::NotNow || error.reason == Reason::DataCheckpoint {
        return error;
    }
    Error::new(Reason::Internal, error.message).remedy(error.remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_partition_can_take_a_checkpoint() {
        for (partition, free) in [(32, 8), (64, 16), (128, 32), (256, 64), (1024, 64), (2000, 100), (100_000, 1024)] {
            let spare = spare(partition << 20);
            assert!((free << 20) - 4096 <= spare && spare <= free << 20, "{partition} MiB keep {spare}");
        }
    }
}
