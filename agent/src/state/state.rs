//! `state.json`: where an update stands.

use std::collections::BTreeSet;
use std::path::Path;

use bootenv::TrialId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Exit, Reason, Result};
use crate::base::words::{Recorded, words};
use crate::base::{files, limits};
use crate::schedule::rollout::Wariness;
use crate::state::file::{self, SCHEMA};
use crate::state::format::{as_text, optional_seconds, seconds};
use crate::state::freshness;
use crate::state::history::{Attempt, Entry, Origins, TrialOutcome};
use crate::state::identity::Identity;
use crate::state::phase::Phase;
use crate::state::trust::FailedRelease;
use crate::trust::signature::Fingerprint;

/// Where the state is unless `--state` says otherwise.
pub const STATE_FILE: &str = "/var/lib/kubesolo/update/state.json";

/// `state.json`. Everything but the schema may be missing, as in the files of the Go agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    schema: u32,
    phase: Phase,
    /// The phase that `checking` returns to if an update is not possible now.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase_before: Option<Phase>,
    /// The attempt that had this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt_before: Option<Attempt>,
    /// The current or last attempt.
    #[serde(flatten, with = "members_of_attempt")]
    pub attempt: Attempt,
    /// The release that the attempts are counted for, after an attempt that ended before it knew its release.
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<Digest>,
    /// Attempts for this release, this one included.
    pub attempt_count: u32,
    /// All attempts of this device, whatever they were for.
    pub attempts_total: u64,
    /// When this file was changed last.
    #[serde(with = "optional_seconds")]
    pub updated_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed, and what to do; empty when it did not.
    pub last_error: String,
    /// How the trial of the attempt ended; `None` before its end, after an attempt without a trial, and in files of version
    /// 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Recorded<TrialOutcome>>,
    /// Why the last run did nothing.
    pub last_skip: Option<Skip>,
    /// How the last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
    /// When a trial last showed that agent and bootloader use the same environment: its id came back on the kernel command
    /// line, and its tries were counted.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub link_shown: Option<DateTime<Utc>>,
    /// Drawn once, for a device without an id of its own; empty until the first run.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_id: String,
    /// The wave that this device waits for, so that it need not read the same release again until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// A server asked not to be asked before this time.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// The trial, noted before it is in the boot environment.
    pub trial: Option<Trial>,
    /// Releases whose trial was never seen to start, once, the latest first. The second time counts as a failure.
    pub not_started: Vec<Digest>,
    /// Offer of the last attempt without an error, so that the next one needs a single request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_offer: Option<LastOffer>,
    /// Freshness of the last offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<freshness::FreshnessReport>,
    /// Consecutive failed health runs within one boot.
    pub health_failures: u32,
    /// The boot that they were in, by the kernel's boot id.
    pub health_boot: String,
}

/// The members of the attempt lie beside those of the state, and its id is `attempt_id` there.
mod members_of_attempt {
    use super::{Attempt, DateTime, Deserialize, Digest, Origins, Serialize, Utc, optional_seconds};

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Members {
        attempt_id: String,
        #[serde(with = "optional_seconds")]
        started_at: Option<DateTime<Utc>>,
        from_version: String,
        to_version: String,
        to_release: Option<Digest>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<Origins>,
    }

    pub(super) fn serialize<S: serde::Serializer>(attempt: &Attempt, serializer: S) -> Result<S::Ok, S::Error> {
        let Attempt { id, started_at, from_version, to_version, to_release, bytes } = attempt.clone();
        Members { attempt_id: id, started_at, from_version, to_version, to_release, bytes }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Attempt, D::Error> {
        let Members { attempt_id, started_at, from_version, to_version, to_release, bytes } =
            Members::deserialize(deserializer)?;
        Ok(Attempt { id: attempt_id, started_at, from_version, to_version, to_release, bytes })
    }
}

/// The release of that document, and the wariness of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Digest of the document on offer.
    pub document: Digest,
    /// As in the settings, `0..=100`.
    pub wariness: u8,
    /// When the wave comes.
    #[serde(with = "seconds")]
    pub until: DateTime<Utc>,
    /// For people.
    pub message: String,
}

words! {
    /// How a run ended: as `check` or `apply` report it, or with an error.
    pub enum Outcome {
        /// The running release is the one on offer, or nothing is on offer.
        UpToDate = "up-to-date",
        /// `check` found a release that may be installed.
        UpdateAvailable = "update-available",
        /// `check` cannot determine whether the release on offer is newer.
        Unknown = "unknown",
        /// `apply --dry-run` would write the release.
        WouldStage = "would-stage",
        /// The release is complete in the free slot.
        Staged = "staged",
        /// The bootloader will try the release.
        Activated = "activated",
        /// A gate holds the release back: exit code 75 of a run, either code of a check.
        Held = "held",
        /// The release is not allowed on this device: exit code 77.
        Refused = "refused",
        /// A step failed: any other exit code.
        Failed = "failed",
    }
}

/// How a run ended, whether or not it was an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// By the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// How it ended.
    pub outcome: Recorded<Outcome>,
    /// Why, when it did not do what it was called for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Recorded<Reason>>,
}

/// A document that a source had, and the release that it led to. A hint: nothing is trusted because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOffer {
    /// As of `Source::look`.
    pub document: Digest,
    /// The release.
    pub release: Digest,
}

/// Why a run did nothing, though nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// By the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// The gate or error that was the cause.
    pub reason: Recorded<Reason>,
    /// For people.
    pub message: String,
}

/// A trial, as noted before it is in the boot environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// As in the environment and on the kernel command line.
    #[serde(with = "as_text")]
    pub id: TrialId,
    /// The slot on trial.
    #[serde(with = "as_text")]
    pub slot: bootenv::SlotId,
    /// Of the release.
    pub version: String,
    /// Of the release.
    #[serde(flatten)]
    pub identity: Identity,
    /// True if a boot of it was seen.
    pub started: bool,
    /// Changes that its commit will make permanent; `None` for an unsigned release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// The attempt that it belongs to; others may have come and failed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
}

/// Verified facts about a release at its activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Of the release.
    pub security_epoch: u64,
    /// By the release.
    pub revoked_keys: BTreeSet<Fingerprint>,
    /// The keys were those of the image that ran then, not of the settings.
    pub image_keys: bool,
}

impl Trial {
    /// How this trial is remembered when it failed.
    #[must_use]
    pub fn failure(&self, reason: &str, now: DateTime<Utc>) -> FailedRelease {
        FailedRelease {
            identity: self.identity,
            version: self.version.clone(),
            failed_at: now,
            reason: reason.to_owned(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            phase: Phase::Idle,
            phase_before: None,
            attempt_before: None,
            attempt: Attempt::default(),
            counted: None,
            attempt_count: 0,
            attempts_total: 0,
            updated_at: None,
            last_error: String::new(),
            outcome: None,
            last_skip: None,
            last_run: None,
            link_shown: None,
            device_id: String::new(),
            waiting: None,
            not_before: None,
            trial: None,
            not_started: vec![],
            last_offer: None,
            freshness: None,
            health_failures: 0,
            health_boot: String::new(),
        }
    }
}

impl State {
    /// Reads the bytes of a `state.json`; `None` if it is damaged.
    ///
    /// # Errors
    /// 78 when it was written by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        Ok(file::parse(bytes, "state.json", SCHEMA)?.document())
    }

    /// The same, to be written in the schema of this version.
    pub(super) fn of_this_schema(self) -> Self {
        Self { schema: SCHEMA, ..self }
    }

    /// Where the update stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Goes to another phase.
    pub fn enter(&mut self, next: Phase, now: DateTime<Utc>) -> Result<()> {
        if !self.phase.leads_to(next) {
            let message = format!("the phase {} cannot follow {}", next, self.phase);
            return Err(Error::new(Reason::IllegalPhase, message));
        }
        self.set(next, now);
        Ok(())
    }

    fn set(&mut self, next: Phase, now: DateTime<Utc>) {
        self.phase = next;
        (self.phase_before, self.attempt_before) = (None, None);
        self.updated_at = Some(now);
    }

    /// Draws an id for this device if it has none.
    ///
    /// # Errors
    /// 70 when there are no random numbers.
    pub fn identify(&mut self) -> Result<()> {
        if self.device_id.is_empty() {
            self.device_id = (0..4).map(|_| Ok(format!("{:08x}", random()?))).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Id of this device: the id in the file, as of `machine-id(5)`, else the agent's own; `None` before the
    /// first run. A file in memory has another id at each boot, or that of the OS image, so the agent's own comes first then.
    #[must_use]
    pub fn device_id(&self, file: &Path, in_memory: bool) -> Option<String> {
        let own = Some(self.device_id.clone()).filter(|id| !id.is_empty());
        if in_memory {
            return own;
        }
        let read = files::read_linked(file, limits::MACHINE_ID_BYTES, Reason::UnsafeFile).unwrap_or_else(|why| {
            log::warn!("machine id ignored: {why}");
            None
        });
        let text = String::from_utf8(read.unwrap_or_default()).unwrap_or_default();
        let id = text.trim();
        let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
        if is_id { Some(id.to_owned()) } else { own }
    }

    /// The id of this device towards servers: the machine-id itself stays here, as machine-id(5) demands.
    #[must_use]
    pub fn public_id(&self, file: &Path, in_memory: bool) -> Option<String> {
        let id = self.device_id(file, in_memory)?;
        let mut digits = Digest::of(format!("kubesolo-update public id\n{id}\n").as_bytes()).hex();
        digits.truncate(32);
        Some(digits)
    }

    /// The wave that this device waits for, as long as the same document is on offer and the wave has not come.
    #[must_use]
    pub fn waits(&self, document: Digest, wariness: Wariness, now: DateTime<Utc>) -> Option<&Waiting> {
        let same = |waiting: &&Waiting| waiting.document == document && waiting.wariness == wariness.percent();
        self.waiting.as_ref().filter(same).filter(|waiting| now < waiting.until)
    }

    /// Begins an attempt: the phase is `checking`. [`State::aim`] adds its release as soon as it is known.
    pub fn begin(&mut self, attempt_id: String, now: DateTime<Utc>) {
        // An attempt that was killed while it asked leaves the phase before it to go back to; one that was killed while
        // it wrote left nothing that counts.
        let before = match self.phase_before.unwrap_or(self.phase) {
            Phase::Checking | Phase::Downloading => Phase::Idle,
            before => before,
        };
        let attempt_before = self.attempt_before.take().unwrap_or_else(|| self.attempt.clone());
        self.set(Phase::Checking, now);
        (self.phase_before, self.attempt_before) = (Some(before), Some(attempt_before));
        (self.attempt.id, self.attempt.started_at, self.attempt.bytes) = (attempt_id, Some(now), None);
    }

    /// Sets the release of the attempt, and counts the attempt. The count begins again with another release.
    pub fn aim(&mut self, from: Option<&semver::Version>, to: &semver::Version, release: Digest) {
        if self.attempt.to_release.or(self.counted.take()) != Some(release) {
            self.attempt_count = 0;
        }
        self.attempt_before = None;
        self.attempt_count = self.attempt_count.saturating_add(1);
        self.attempts_total = self.attempts_total.saturating_add(1);
        self.attempt.from_version = from.map(ToString::to_string).unwrap_or_default();
        self.target(to.to_string(), release);
    }

    fn target(&mut self, version: String, release: Digest) {
        (self.attempt.to_version, self.attempt.to_release) = (version, Some(release));
        self.last_error.clear();
        self.outcome = None;
        self.last_skip = None;
    }

    /// True if this release is staged, so that another attempt at it would find nothing to do.
    #[must_use]
    pub fn has_staged(&self, release: Digest) -> bool {
        self.phase_before.unwrap_or(self.phase) == Phase::Staged && self.attempt.to_release == Some(release)
    }

    /// Notes a trial that is about to begin. It belongs to the attempt that staged it, or is one of its own if the state
    /// has lost that one.
    pub fn note(&mut self, trial: Trial, now: DateTime<Utc>) {
        if self.attempt.to_release != Some(trial.identity.release) {
            (self.attempt.id, self.attempt.started_at) = (trial.id.to_string(), Some(now));
        }
        self.target(trial.version.clone(), trial.identity.release);
        self.trial = Some(Trial { attempt: Some(self.attempt.clone()), ..trial });
    }

    /// Restores the attempt that a trial belongs to: its outcome is not that of attempts that failed meanwhile.
    pub fn follow(&mut self, trial: &Trial) {
        if let Some(attempt) = trial.attempt.clone() {
            self.attempt = attempt;
        }
        // Version 0.1 notes the attempt of a trial without its target.
        self.target(trial.version.clone(), trial.identity.release);
    }

    /// Ends the noted trial: the attempt is its own, and ended so.
    pub fn end_trial(&mut self, trial: &Trial, outcome: TrialOutcome) {
        self.trial = None;
        self.follow(trial);
        self.outcome = Some(outcome.into());
    }

    /// Begins the attempt to go back to what a slot held before.
    pub fn turn_back(&mut self, from: Option<&semver::Version>, to: &Trial, now: DateTime<Utc>) {
        self.begin(to.id.to_string(), now);
        self.attempt_before = None;
        self.attempt_count = 1;
        self.attempts_total = self.attempts_total.saturating_add(1);
        self.attempt.from_version = from.map(ToString::to_string).unwrap_or_default();
        self.target(to.version.clone(), to.identity.release);
    }

    /// Ends an attempt that found nothing to do. Phase and attempt are what they were before, but for a failure, which is
    /// over.
    pub fn stand_down(&mut self, now: DateTime<Utc>) {
        self.go_back(now);
        if self.phase == Phase::Failed {
            self.phase = Phase::Idle;
        }
        if self.phase == Phase::Idle {
            self.last_error.clear();
        }
        self.last_skip = None;
    }

    fn go_back(&mut self, now: DateTime<Utc>) {
        let phase = self.phase_before.unwrap_or(self.phase);
        // A run that found nothing is no attempt: a later trial belongs to the attempt that activated it.
        if let Some(before) = self.attempt_before.take() {
            (self.attempt.id, self.attempt.started_at) = (before.id, before.started_at);
        }
        self.set(phase, now);
    }

    /// Ends the attempt in `failed`, with an error that a person can act on.
    pub fn fail(&mut self, error: &Error, now: DateTime<Utc>) {
        if self.phase == Phase::Checking {
            // The offer is not known, and it need not be that of an earlier attempt.
            self.attempt.to_version.clear();
            self.counted = self.attempt.to_release.take().or(self.counted);
        }
        self.set(Phase::Failed, now);
        self.last_error = told(error);
        self.outcome = None;
        self.last_skip = None;
    }

    /// Notes that now is not the time. The phase is what it was before the attempt.
    pub fn skip(&mut self, error: &Error, now: DateTime<Utc>) {
        self.go_back(now);
        self.put_off(error, now);
    }

    /// Notes that now is not the time for the next step of an attempt, which goes on.
    pub fn put_off(&mut self, error: &Error, now: DateTime<Utc>) {
        self.last_skip = Some(Skip { at: now, reason: error.reason.into(), message: told(error) });
    }

    /// Notes how a run ended.
    pub fn ran(&mut self, outcome: Outcome, reason: Option<Reason>, now: DateTime<Utc>) {
        self.last_run = Some(LastRun { at: now, outcome: outcome.into(), reason: reason.map(Recorded::Known) });
    }

    /// Notes how a run ended that did not do what it was called for.
    pub fn ran_into(&mut self, error: &Error, now: DateTime<Utc>) {
        let outcome = match error.exit() {
            Exit::NotNow => Outcome::Held,
            Exit::NotAllowed => Outcome::Refused,
            _ => Outcome::Failed,
        };
        self.ran(outcome, Some(error.reason), now);
    }

    /// The attempt and its outcome so far, for the history.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let error = if matches!(self.phase, Phase::Failed | Phase::RolledBack) { &*self.last_error } else { "" };
        Entry {
            attempt: self.attempt.clone(),
            updated_at: self.updated_at,
            phase: self.phase,
            outcome: self.outcome.clone(),
            error: error.to_owned(),
            times: 1,
        }
    }
}

fn told(error: &Error) -> String {
    if error.remedy.is_empty() { error.message.clone() } else { format!("{}. {}", error.message, error.remedy) }
}

/// A number that nobody can guess and that does not repeat: for attempt and trial ids. Early in the first boot it waits
/// until the kernel has entropy; `/dev/urandom` would give every such device the same number.
pub fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom::getrandom(&mut bytes).context(Reason::NoRandomNumbers, "get a random number")?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_id_in_memory_does_not_count_and_the_own_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine-id");
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let mut state = State::default();
        assert_eq!(state.device_id(&file, true), None, "the first run creates one");
        state.identify().unwrap();
        let own = state.device_id.clone();
        fs::write(&file, "fedcba9876543210fedcba9876543210\n").unwrap();
        state.identify().unwrap();
        assert_eq!(state.device_id(&file, true), Some(own));
        assert_eq!(state.device_id(&file, false).as_deref(), Some("fedcba9876543210fedcba9876543210"));
    }
}
