//! Records of a run: the phase of the update, and the failed releases.
//!
//! The boot environment has the outcome of a trial, `state.json` its release. This module joins them, so that a failed
//! release is not installed again by itself.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use bootenv::data::{Mark, Name};
use bootenv::protocol::{BootState, SlotState, View};
use bootenv::{SlotId, TrialId};
use chrono::{DateTime, Utc};

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::text;
use crate::base::words::Recorded;
use crate::device::boot::Boot;
use crate::device::data::Data;
use crate::device::evidence::Traces;
use crate::device::slot::SlotManifest;
use crate::policy::freshness::FreshnessFinding;
use crate::policy::rules;
use crate::schedule::clock::Clock;
use crate::source::source::Source;
use crate::state::fetches::Fetches;
use crate::state::fleetlock::FleetLock;
use crate::state::history::TrialOutcome;
use crate::state::intake::{Finding, Intake};
use crate::state::memory::{Memory, NotJudged, Unjudged, Withdrawn};
use crate::state::outbox::Event;
use crate::state::phase::Phase;
use crate::state::receipt::KeptReceipt;
use crate::state::records::{AskedBy, Evidence, Record, Step, StepName};
use crate::state::state::{State, Trial};
use crate::state::store::{Loaded, Lock, Store};
use crate::state::trust::{FailedRelease, Trust};
use crate::trust::signature::Fingerprint;

/// How many releases whose trial never started are kept in mind.
const NOT_STARTED_KEPT: usize = 8;

/// State and trust, for a command that only reads them.
#[derive(Debug)]
pub struct Records {
    /// `state.json`.
    pub state: State,
    /// `trust.json`.
    pub trust: Trust,
    /// `fetch.json`.
    pub fetches: Fetches,
    path: PathBuf,
}

/// The same with the lock: the one way to change and write them.
#[derive(Debug)]
pub struct LockedRecords {
    lock: Lock,
    records: Records,
    /// The party that called for this run, where it may begin an attempt.
    asked_by: Option<AskedBy>,
    /// Each step is an event for a receiver elsewhere.
    announces: bool,
}

impl Records {
    /// Reads both.
    ///
    /// # Errors
    /// 78 when the files cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        Store::new(path).read().map(|found| Self::of(path, found))
    }

    /// The path of `state.json`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoints of the data.
    #[must_use]
    pub fn data(&self) -> Data {
        Data::beside(&self.path)
    }

    /// The traces of a trial.
    #[must_use]
    pub fn traces(&self) -> Traces {
        Traces::beside(&self.path)
    }

    /// How often a trial of this release was withdrawn.
    #[must_use]
    pub fn times_withdrawn(&self, release: Digest) -> usize {
        Store::new(&self.path).read_memory().times_withdrawn(release)
    }

    fn of(path: &Path, found: Loaded) -> Self {
        found.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Self { state: found.state, trust: found.trust, fetches: found.fetches, path: path.to_owned() }
    }
}

impl Deref for LockedRecords {
    type Target = Records;

    fn deref(&self) -> &Records {
        &self.records
    }
}

impl DerefMut for LockedRecords {
    fn deref_mut(&mut self) -> &mut Records {
        &mut self.records
    }
}

impl LockedRecords {
    /// Takes the lock and reads; for a command that changes something.
    ///
    /// # Errors
    /// 75 when another run has the lock, 73 and 78 when the files cannot be used.
    pub fn lock(path: &Path) -> Result<Self> {
        let lock = Store::new(path).lock()?;
        let records = Records::of(path, lock.load()?);
        Ok(Self { lock, records, asked_by: None, announces: false })
    }

    /// Says who called for this run: an attempt that it begins was asked for by them.
    pub fn asked_by(&mut self, who: AskedBy) {
        self.asked_by = Some(who);
    }

    /// Says that each step is an event for a receiver elsewhere.
    pub fn announce_steps(&mut self) {
        self.announces = true;
    }

    /// Numbers and files of the events that wait, the oldest first.
    pub fn pending_events(&self) -> Vec<(u64, PathBuf)> {
        Store::new(&self.path).pending_events().unwrap_or_default()
    }

    /// An event that waits; `None` for one that cannot be read.
    pub fn event(&self, path: &Path) -> Option<Event> {
        self.lock.event(path)
    }

    /// Ends the wait of an event.
    ///
    /// # Errors
    /// 73 when its file cannot be renamed.
    pub fn event_sent(&self, path: &Path) -> Result<()> {
        self.lock.event_sent(path)
    }

    /// The evidence of an attempt, as far as it is there.
    pub fn evidence(&self, attempt: &str) -> Option<Evidence> {
        Store::new(&self.path).read_record(attempt).ok()??.evidence
    }

    /// True if a health run came in the trial of an attempt.
    pub fn was_judged(&self, attempt: &str) -> bool {
        let record = Store::new(&self.path).read_record(attempt).ok().flatten();
        let came = |step: &Step| step.step.known() == Some(StepName::HealthChecking);
        record.is_some_and(|record| record.steps.iter().any(came))
    }

    /// Writes `state.json`.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn save(&self) -> Result<()> {
        self.lock.save_state(&self.records.state)
    }

    /// Writes `fetch.json`. No update fails for the sake of it: without it, more is fetched.
    pub fn save_fetches(&self) {
        if let Err(error) = self.lock.save_fetches(&self.records.fetches) {
            log::warn!("the record of downloads is out of date: {error}");
        }
    }

    /// Reads `memory.json`.
    ///
    /// # Errors
    /// 73 and 78 when it cannot be used.
    pub fn memory(&self) -> Result<Memory> {
        self.lock.load_memory()
    }

    /// Replaces `memory.json`.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn keep_memory(&self, memory: &Memory) -> Result<()> {
        self.lock.save_memory(memory)
    }

    /// Keeps the record of a bundle that is examined.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn keep_intake(&self, intake: &Intake) -> Result<()> {
        self.lock.save_intake(intake)
    }

    /// Deletes the record of a bundle.
    ///
    /// # Errors
    /// 64 without such a record, 73 when it cannot be deleted.
    pub fn drop_intake(&self, id: &str) -> Result<()> {
        self.lock.drop_intake(id)
    }

    /// The lock of a FleetLock server that this device has, or may have.
    ///
    /// # Errors
    /// 78 when the file cannot be used.
    pub fn fleetlock(&self) -> Result<Option<FleetLock>> {
        self.lock.load_fleetlock()
    }

    /// Remembers a lock, or that there is none any more.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn keep_fleetlock(&self, lock: Option<&FleetLock>) -> Result<()> {
        self.lock.save_fleetlock(lock)
    }

    /// Enters a phase and writes it.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn enter(&mut self, phase: Phase, now: DateTime<Utc>) -> Result<()> {
        self.state.enter(phase, now)?;
        self.record();
        self.save()
    }

    /// Puts the attempt as it stands into the history: before the state, so that a run that is cut off in between does it
    /// again. No update fails for the sake of its record.
    pub fn record(&self) {
        self.record_with(|_| {});
    }

    /// The same with the error that ends the run.
    pub fn record_failure(&self, error: &Error) {
        self.record_with(|record| record.add_finding(Finding::from(error)));
    }

    /// A person goes back to the previous release: the first step of this attempt.
    pub fn record_rollback(&self, now: DateTime<Utc>) {
        self.edit_record(&self.records.state.attempt.id, |record| {
            record.entry = self.records.state.entry();
            record.asked_by = self.asked_by.map(Recorded::Known);
            record.add(StepName::RollbackStarted, now);
            true
        });
    }

    /// Adds to the evidence of the trial of this attempt. Nothing fails for the sake of it.
    pub fn add_evidence(&self, attempt: &str, add: impl FnOnce(&mut Evidence)) {
        self.edit_record(attempt, |record| {
            let before = record.evidence.clone();
            add(record.evidence.get_or_insert_default());
            record.evidence != before
        });
    }

    /// Puts the facts about a trial into the record of its attempt, beside hooks that are known already; true if they are there.
    pub fn put_evidence(&self, attempt: &str, facts: &Evidence) -> bool {
        self.add_evidence(attempt, |known| {
            let hooks = std::mem::take(&mut known.hooks);
            *known = Evidence { hooks, ..facts.clone() };
        });
        let kept =
            Store::new(&self.records.path).read_record(attempt).ok().flatten().and_then(|record| record.evidence);
        kept.is_some_and(|kept| kept.trial == facts.trial)
    }

    fn record_with(&self, add: impl FnOnce(&mut Record)) {
        let entry = self.records.state.entry();
        if let Err(error) = self.lock.record(entry.clone()) {
            log::warn!("the history lacks this attempt: {error}");
        }
        self.edit_record(&self.records.state.attempt.id, |record| {
            let before = record.clone();
            record.follow(entry);
            if record.asked_by.is_none() {
                record.asked_by = self.asked_by.map(Recorded::Known);
            }
            add(record);
            *record != before
        });
    }

    fn edit_record(&self, attempt: &str, change: impl FnOnce(&mut Record) -> bool) {
        // An event comes first: the step that it announces is recorded once.
        let announced = |record: &mut Record| {
            let before = record.steps.last().map_or(0, |last| last.number);
            let changed = change(record);
            let new = record.steps.iter().filter(|step| self.announces && step.number > before);
            new.for_each(|step| self.announce(record, step));
            changed
        };
        if let Err(error) = self.lock.edit_record(attempt, announced) {
            log::warn!("the record of attempt {attempt} is incomplete: {error}");
        }
    }

    fn announce(&self, record: &Record, step: &Step) {
        if let Err(error) = self.lock.add_event(&Event::of(record, step)) {
            log::warn!("the event of a step is lost: {error}");
        }
    }

    /// Notes where the device arrived after a trial that ended without a commit.
    fn arrive(&self, boot: &Boot, now: DateTime<Utc>) {
        let View::Ours(env) = boot.env.view() else { return };
        if self.state.phase() != Phase::RolledBack || env.on_trial().is_some() {
            return;
        }
        let step = match boot.booted.slot == env.active {
            true => StepName::RolledBack,
            // The boot of the trial itself, before its reboot.
            false if !boot.booted.trial.is_none() => return,
            false => StepName::RollbackFailed,
        };
        self.edit_record(&self.state.attempt.id, |record| {
            let under_way = record.last_step() == Some(StepName::RollbackStarted);
            if under_way {
                record.add(step, now);
            }
            under_way
        });
    }

    /// Remembers a release that failed, and writes it.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn remember(&mut self, failed: FailedRelease) -> Result<()> {
        log::warn!("{} is recorded as failed: {}", failed.version, failed.reason);
        self.trust.remember(failed);
        self.lock.save_trust(&self.records.trust)
    }

    /// Remembers what was committed, and writes it if it changed anything.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn raise(&mut self, epoch: u64, revoked: &BTreeSet<Fingerprint>) -> Result<()> {
        if self.trust.raise(epoch, revoked) { self.lock.save_trust(&self.records.trust) } else { Ok(()) }
    }

    /// Remembers the time of a look at the source, and how far the freshness statements have come. Neither goes back.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn keep_look(&mut self, clock: &Clock, freshness: Option<&FreshnessFinding>) -> Result<()> {
        let mut changed = false;
        let issued = freshness.and_then(|seen| seen.issued);
        let expired = freshness.filter(|seen| seen.verdict.reason == Some(Reason::Expired.into()));
        let expired = expired.and_then(|seen| seen.verdict.not_after);
        if let Some(time) = clock.to_keep(expired).max(issued).filter(|time| Some(*time) > self.trust.last_seen) {
            self.trust.last_seen = Some(time);
            changed = true;
        }
        for serial in freshness.into_iter().flat_map(|seen| &seen.serials) {
            changed |= self.trust.note_serial(serial.clone());
        }
        self.state.freshness = freshness.map(|seen| seen.verdict.clone());
        if changed { self.lock.save_trust(&self.records.trust) } else { Ok(()) }
    }

    /// Remembers the answer of the source: it makes the next look cheaper, and monitoring shows it.
    pub fn keep_answer(&mut self, source: &dyn Source) {
        let (tagged, remaining) = (source.tagged(), source.ratelimit_remaining());
        let fetches = &mut self.records.fetches;
        if fetches.tagged != tagged || fetches.ratelimit_remaining != remaining {
            (fetches.tagged, fetches.ratelimit_remaining) = (tagged, remaining);
            self.save_fetches();
        }
    }

    /// Replaces the latest time known, which nothing else lowers, and writes it.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn reset_time(&mut self, now: DateTime<Utc>) -> Result<()> {
        log::warn!("trust reset-time was called: the latest time known is {now} from now on");
        self.trust.last_seen = Some(now);
        self.lock.save_trust(&self.records.trust)
    }

    /// The noted trial ended in a failure, for this cause.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn failed(&mut self, trial: &Trial, cause: &Error, now: DateTime<Utc>) -> Result<()> {
        self.remember(trial.failure(&cause.message, now))?;
        self.end_trial(trial, TrialOutcome::Failed, now);
        self.state.health_failures = 0;
        let message = format!("{} failed its trial: {}", trial.version, cause.message);
        self.state.last_error.clone_from(&message);
        self.state.enter(Phase::RolledBack, now)?;
        self.record_failure(&Error::new(cause.reason, message).remedy(rules::AFTER_FAILURE));
        self.save()
    }

    /// Ends the noted trial, and signs a receipt of it. No verdict depends on the receipt.
    fn end_trial(&mut self, trial: &Trial, outcome: TrialOutcome, now: DateTime<Utc>) {
        self.state.end_trial(trial, outcome);
        if let Err(error) = self.lock.leave_receipt(trial, outcome, now) {
            log::warn!("there is no receipt of this trial: {error}");
        }
    }

    /// Makes the key of this device, if there is none: it is to be enrolled before the first receipt.
    pub fn make_device_key(&self) {
        if let Err(error) = self.lock.make_device_key() {
            log::warn!("this device cannot sign receipts: {error}");
        }
    }

    /// Remembers the medium that a release comes on. Without it, its receipt is not written there.
    pub fn carry(&self, release: Digest, medium: &str) {
        let kept = self.lock.load_memory().and_then(|mut memory| match memory.carry(release, medium) {
            true => self.lock.save_memory(&memory),
            false => Ok(()),
        });
        kept.unwrap_or_else(|error| log::warn!("no receipt will be written to the medium: {error}"));
    }

    /// The receipts that are to be written to this medium.
    ///
    /// # Errors
    /// 73, 78 when they cannot be read.
    pub fn receipts_for(&self, medium: &str) -> Result<Vec<KeptReceipt>> {
        let mut all = Store::new(&self.path).read_receipts()?;
        all.retain(|receipt| receipt.medium.as_deref() == Some(medium));
        Ok(all)
    }

    /// Remembers that a receipt was written to its medium.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn delivered(&self, trial: TrialId, receipt: KeptReceipt) -> Result<()> {
        self.lock.save_receipt(trial, &KeptReceipt { medium: None, ..receipt })
    }

    /// Draws the conclusion from how the noted trial ended, if it has. Files that decide more than `state.json` come first: what
    /// is cut off in between is concluded again.
    ///
    /// # Errors
    /// 73 when the state cannot be written.
    pub fn conclude(&mut self, boot: &Boot, now: DateTime<Utc>) -> Result<()> {
        self.conclude_trial(boot, now)?;
        self.arrive(boot, now);
        Ok(())
    }

    fn conclude_trial(&mut self, boot: &Boot, now: DateTime<Utc>) -> Result<()> {
        let View::Ours(env) = boot.env.view() else { return Ok(()) };
        if let Some(trial) = self.state.trial.clone() {
            if env.on_trial() == Some(trial.slot) && env.trial == trial.id {
                return Ok(());
            }
            match self.ending(&env, &trial) {
                Ending::Committed => self.keep_commit(&trial, now)?,
                Ending::Failed(why) => return self.failed(&trial, &Error::new(Reason::TrialFailed, why), now),
                Ending::NotStarted => self.without_verdict(&trial, None, now)?,
                Ending::Withdrawn => self.withdrawn(&trial, now)?,
                Ending::NotJudged(cause) => self.without_verdict(&trial, Some(cause), now)?,
            }
        }
        // A mark without a note: state.json was lost. The slot itself says what failed.
        let other = env.good.other();
        if env.slot(other) == SlotState::Fail {
            self.remember_content(boot, other, now)?;
        }
        Ok(())
    }

    fn ending(&self, env: &BootState, trial: &Trial) -> Ending {
        let marked = env.slot(trial.slot) == SlotState::Fail && env.trial == trial.id;
        if env.success && env.good == trial.slot {
            return Ending::Committed;
        }
        match (marked, trial.started) {
            (true, started) => match self.lock.unjudged(trial.id) {
                Some(cause) => Ending::NotJudged(cause),
                None if started => Ending::Failed("it started, and was not committed"),
                None => Ending::Failed("it never reached its health check"),
            },
            (false, true) => Ending::Failed("it started, and the boot environment was lost before a verdict"),
            (false, false) if self.is_withdrawn(env, trial) => Ending::Withdrawn,
            (false, false) => Ending::NotStarted,
        }
    }

    /// The noted trial was committed: what that makes permanent.
    fn keep_commit(&mut self, trial: &Trial, now: DateTime<Utc>) -> Result<()> {
        if let Some(proof) = &trial.proof {
            self.raise(proof.security_epoch, &proof.revoked_keys)?;
        }
        // A release that a second trial found healthy is no failed release any more.
        if self.trust.forget(&trial.identity) {
            self.lock.save_trust(&self.records.trust)?;
        }
        let mut memory = self.lock.load_memory()?;
        if memory.forget(trial.identity.release) {
            self.lock.save_memory(&memory)?;
        }
        self.end_trial(trial, TrialOutcome::Committed, now);
        self.state.not_started.retain(|release| *release != trial.identity.release);
        self.state.enter(Phase::Success, now).or_else(|_| self.committed(now))?;
        self.record();
        self.save()
    }

    /// The noted trial ended, and nobody judged the release: it never started, or no health run could look for this cause. One
    /// more attempt is possible; the second time counts as a failure.
    fn without_verdict(&mut self, trial: &Trial, cause: Option<String>, now: DateTime<Utc>) -> Result<()> {
        let release = trial.identity.release;
        let what = cause.as_ref().map_or("never started".to_owned(), |cause| format!("was not judged: {cause}"));
        let mut memory = self.lock.load_memory()?;
        if self.state.not_started.contains(&release) || memory.not_judged(release).is_some() {
            let why = format!("its trial ended without a verdict, twice: it {what}");
            return self.failed(trial, &Error::new(Reason::TrialFailed, why), now);
        }
        log::warn!("the trial of {} {what}; one more attempt is possible", trial.version);
        let outcome = if cause.is_some() { TrialOutcome::NotJudged } else { TrialOutcome::NotStarted };
        match cause {
            Some(cause) => {
                let version = trial.version.clone();
                memory.remember(NotJudged { release, version, trial: trial.id, at: now, cause });
                self.lock.save_memory(&memory)?;
            }
            None => {
                // Not only the last one: two releases in turn would be tried for ever.
                self.state.not_started.insert(0, release);
                self.state.not_started.truncate(NOT_STARTED_KEPT);
            }
        }
        self.end_trial(trial, outcome, now);
        self.state.last_error = format!("the trial of {} {what}", trial.version);
        self.state.enter(Phase::RolledBack, now)?;
        self.record();
        self.save()
    }

    /// A boot of the trial began to copy the data, and took the activation back.
    fn is_withdrawn(&self, env: &BootState, trial: &Trial) -> bool {
        let taken_back = env.success && env.trial.is_none() && env.slot(trial.slot) == SlotState::Void;
        let began = Name { trial: trial.id, mark: Mark::New };
        taken_back && self.data().find().is_ok_and(|found| found.names.contains(&began))
    }

    /// The release is not to blame, and no attempt is used up; but nobody tries it again and again.
    fn withdrawn(&mut self, trial: &Trial, now: DateTime<Utc>) -> Result<()> {
        let mut memory = self.lock.load_memory()?;
        if memory.withdraw(Withdrawn { release: trial.identity.release, trial: trial.id }) {
            self.lock.save_memory(&memory)?;
        }
        let new = Name { trial: trial.id, mark: Mark::New };
        let why = self.data().about(new).ok().flatten().map_or(String::new(), |about| about.why);
        let why = if why.is_empty() { why } else { format!(": {}", text::escape(&why)) };
        let message = format!("the trial of {} was withdrawn, because its data could not be saved{why}", trial.version);
        log::warn!("{message}");
        self.end_trial(trial, TrialOutcome::Withdrawn, now);
        self.state.last_error.clone_from(&message);
        self.state.enter(Phase::RolledBack, now)?;
        let remedy = "`kubesolo-update data check` shows what a checkpoint needs. The next attempt follows by itself.";
        self.record_failure(&Error::new(Reason::DataCheckpoint, message).remedy(remedy));
        self.save()
    }

    fn committed(&mut self, now: DateTime<Utc>) -> Result<()> {
        self.state.enter(Phase::Verifying, now)?;
        self.state.enter(Phase::Success, now)
    }

    /// Before a failed slot is overwritten, its content is remembered.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn remember_content(&mut self, boot: &Boot, slot: SlotId, now: DateTime<Utc>) -> Result<()> {
        let Ok(Some(content)) = boot.slots.get(slot).manifest() else { return Ok(()) };
        if self.trust.failure(&content.identity()).is_some() || self.is_not_judged(boot, &content, now)? {
            return Ok(());
        }
        self.remember(failure(&content, "its slot is marked as failed", now))
    }

    /// True if the failed slot was marked for a trial without a verdict.
    fn is_not_judged(&self, boot: &Boot, content: &SlotManifest, now: DateTime<Utc>) -> Result<bool> {
        let View::Ours(env) = boot.env.view() else { return Ok(false) };
        let (release, trial) = (content.identity().release, env.trial);
        let mut memory = self.lock.load_memory()?;
        match memory.not_judged(release) {
            Some(known) => Ok(known.trial == trial),
            None => {
                let Some(cause) = self.lock.unjudged(trial) else { return Ok(false) };
                memory.remember(NotJudged { release, version: content.version.to_string(), trial, at: now, cause });
                self.lock.save_memory(&memory)?;
                Ok(true)
            }
        }
    }

    /// Says that a health run of this boot can look. No verdict depends on it: without it, a trial that nobody judges counts as
    /// failed.
    pub fn can_look(&self, trial: TrialId) {
        if let Err(error) = self.lock.clear_unjudged(trial) {
            log::warn!("{error}");
        }
    }

    /// Says that this health run of a trial could not look, and why.
    pub fn could_not_look(&self, trial: TrialId, cause: &str) {
        if let Err(error) = self.lock.leave_unjudged(&Unjudged::new(trial, cause)) {
            log::warn!("{error}");
        }
    }

    /// Notes the trial that is about to be stored in the environment.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn note(&mut self, trial: Trial, now: DateTime<Utc>) -> Result<()> {
        self.state.note(trial, now);
        self.save()
    }

    /// The store of the noted trial was refused. Where nothing was written there is no trial, and none that did not start.
    ///
    /// # Errors
    /// That refusal.
    pub fn not_stored(&mut self, refusal: Error) -> Result<()> {
        if refusal.exit() == Exit::NotNow {
            self.state.trial = None;
            if let Err(error) = self.save() {
                log::error!("{error}");
            }
        }
        Err(refusal)
    }
}

/// How a failed content of a slot is remembered.
#[must_use]
pub fn failure(content: &SlotManifest, reason: &str, now: DateTime<Utc>) -> FailedRelease {
    FailedRelease {
        identity: content.identity(),
        version: content.version.to_string(),
        failed_at: now,
        reason: reason.to_owned(),
    }
}

enum Ending {
    Committed,
    Failed(&'static str),
    NotStarted,
    /// Its data could not be saved, and it ended before it began.
    Withdrawn,
    /// For this cause.
    NotJudged(String),
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::schedule::clock::build_date;
    use crate::state::freshness::{FreshnessReport, FreshnessVerdict};

    #[test]
    fn a_statement_that_expired_stays_expired_when_the_clock_goes_back_by_hours() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = LockedRecords::lock(&folder.path().join("state.json")).unwrap();
        let end = build_date() + TimeDelta::days(100);
        let stated = FreshnessReport::new(FreshnessVerdict::Fresh, None, "fresh").with(Some(1), Some(end));
        let mut look = |hours: i64| {
            let shown = end + TimeDelta::hours(hours);
            let clock = Clock { shown, synchronised: true, last_seen: records.trust.last_seen };
            let verdict = stated.clone().by_now(&clock);
            let finding = FreshnessFinding { verdict: verdict.clone(), serials: vec![], issued: None };
            records.keep_look(&clock, Some(&finding)).unwrap();
            (verdict.reason.and_then(|reason| reason.known()), Records::read(&folder.path().join("state.json")))
        };
        assert_eq!(look(-2).0, None);
        let (expired, kept) = look(1);
        assert_eq!(expired, Some(Reason::Expired));
        assert_eq!(kept.unwrap().trust.last_seen, Some(end + TimeDelta::hours(1)), "it was written");
        assert_eq!(look(-3).0, Some(Reason::Expired), "a time server set the clock back");
        assert_eq!(look(5).1.unwrap().trust.last_seen, Some(end + TimeDelta::hours(1)), "written once");
    }
}
