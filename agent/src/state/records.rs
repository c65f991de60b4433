//! `records/ATTEMPT.json`: one file per attempt, with its steps, its findings and the evidence of its trial.
//!
//! `history.json` stays the list of attempts, which agent 0.1 reads too. A record begins with the entry of that list.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::digest::Digest;
use crate::base::limits;
use crate::base::words::{Recorded, words};
use crate::state::format::seconds;
use crate::state::history::{Entry, TrialOutcome};
use crate::state::intake::Finding;
use crate::state::phase::Phase;

/// The least that a text of a record is cut to, in bytes.
const TEXT_BYTES_LEAST: usize = 256;

words! {
    /// A step of an attempt.
    pub enum StepName {
        /// The slot is being written.
        Applying = "applying",
        /// The release is complete in the free slot.
        Staged = "staged",
        /// The bootloader will try the slot.
        Activated = "activated",
        /// The first boot of the trial reached its health run.
        HealthChecking = "health-checking",
        /// The trial was committed.
        Succeeded = "succeeded",
        /// The attempt or its trial failed.
        Failed = "failed",
        /// The last good slot boots next, or a person went back to the previous release.
        RollbackStarted = "rollback-started",
        /// The release from before the attempt runs; after the rollback of a person, the previous release is committed.
        RolledBack = "rolled-back",
        /// Another slot than the last good one runs; after the rollback of a person, the previous release failed its trial.
        RollbackFailed = "rollback-failed",
    }
}

words! {
    /// The party that asked for an attempt.
    pub enum AskedBy {
        /// A person, or a program that calls `apply`, `activate` or `rollback`.
        Console = "console",
        /// The timer, by `run`.
        Timer = "timer",
        /// A stick that was plugged in.
        Stick = "stick",
    }
}

/// The record of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// As in the history.
    #[serde(flatten)]
    pub entry: Entry,
    /// The party that asked for the attempt first: `console`, `timer` or `stick`; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Recorded<AskedBy>>,
    /// The steps, the oldest first: at most [`limits::RECORD_STEPS`], the latest ones.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Errors that ended a run of this attempt, the oldest first: at most [`limits::RECORD_FINDINGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The evidence of its trial. Only the last [`limits::EVIDENCES`] attempts keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// One step of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number within the attempt, from 1.
    pub number: u32,
    /// Its time, by the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// The step.
    pub step: Recorded<StepName>,
}

/// Facts about a trial, gathered by the boots of the trial and by the last good slot after them. Each member is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// The trial: 8 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
    /// The slot on trial: `A` or `B`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// The release on trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Digest>,
    /// The boots of the trial, the first one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    /// The checks of the last health run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckRun>,
    /// The hooks that ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
    /// The end of the kernel's last panic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<String>,
    /// The end of the kernel log of the last try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The data of this trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRun>,
    /// The verdict and its cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Facts that could not be gathered, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// One boot of a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Try {
    /// Its number, from 1.
    pub number: u8,
    /// The last stage that it reached.
    pub stage: String,
    /// The evidence for the stage: the counter, the kernel log or a panic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shown_by: Vec<String>,
    /// How long it ran, as far as it is known, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// One check of a health run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckRun {
    /// As in the report of `healthcheck`.
    pub name: String,
    /// True if it passed.
    pub passed: bool,
    /// Why not; escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The end of its output.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// One run of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookRun {
    /// The folder of the hook, such as `pre-reboot`.
    pub step: String,
    /// Its file.
    pub name: String,
    /// How it ended: `exit 75`, `signal 9`, `timeout`.
    pub ended: String,
    /// The end of its output.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// The outcome for the data of a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRun {
    /// `taken`, `restored`, `withdrawn` or `unprotected`.
    pub outcome: String,
    /// The same in words, with the cause.
    pub message: String,
}

impl Record {
    /// Takes over where the attempt stands, and adds the steps that led there.
    pub fn follow(&mut self, entry: Entry) {
        // Equal failures in a row are one entry of the history. Its count is kept there.
        let at = entry.updated_at.unwrap_or_default();
        let steps = self.steps_to(&entry);
        self.entry = Entry { times: self.entry.times.max(entry.times), ..entry };
        let last: Vec<_> = self.steps.iter().rev().take(steps.len()).rev().map(|step| step.step.known()).collect();
        // A run that was cut off repeats a phase.
        if !steps.iter().copied().map(Some).eq(last) {
            steps.iter().for_each(|step| self.add(*step, at));
        }
    }

    /// Adds a step.
    pub fn add(&mut self, step: StepName, at: DateTime<Utc>) {
        let number = self.steps.last().map_or(0, |last| last.number).saturating_add(1);
        self.steps.push(Step { number, at, step: step.into() });
        let surplus = self.steps.len().saturating_sub(limits::RECORD_STEPS);
        self.steps.drain(..surplus);
    }

    /// Adds an error that ended a run.
    pub fn add_finding(&mut self, finding: Finding) {
        if self.findings.last() != Some(&finding) {
            self.findings.push(finding);
        }
        let surplus = self.findings.len().saturating_sub(limits::RECORD_FINDINGS);
        self.findings.drain(..surplus);
    }

    /// The last step, if this version knows it.
    #[must_use]
    pub fn last_step(&self) -> Option<StepName> {
        self.steps.last().and_then(|last| last.step.known())
    }

    /// True if a person went back to the previous release with this attempt.
    #[must_use]
    pub fn is_rollback(&self) -> bool {
        self.steps.first().and_then(|first| first.step.known()) == Some(StepName::RollbackStarted)
    }

    fn steps_to(&self, entry: &Entry) -> &'static [StepName] {
        use StepName::{
            Activated, Applying, Failed, HealthChecking, RollbackFailed, RollbackStarted, RolledBack, Staged, Succeeded,
        };
        let outcome = entry.outcome.as_ref().and_then(Recorded::known);
        match (entry.phase, outcome) {
            (Phase::Idle | Phase::Checking, _) => &[],
            (Phase::Downloading, _) => &[Applying],
            (Phase::Staged, _) => &[Staged],
            (Phase::Activated, _) => &[Activated],
            (Phase::Verifying, _) => &[HealthChecking],
            (Phase::Success, _) if self.is_rollback() => &[RolledBack],
            (Phase::Success, _) => &[Succeeded],
            (Phase::Failed, _) => &[Failed],
            // An activation that was taken back before its first boot.
            (Phase::RolledBack, None | Some(TrialOutcome::Committed)) => &[RolledBack],
            (Phase::RolledBack, Some(_)) if self.is_rollback() => &[RollbackFailed],
            (Phase::RolledBack, Some(TrialOutcome::Failed)) => &[Failed, RollbackStarted],
            (Phase::RolledBack, Some(_)) => &[RollbackStarted],
        }
    }

    /// The document of the file: at most [`limits::RECORD_BYTES`]. The longest texts lose their first half until it fits; a
    /// record that does not fit then loses its evidence.
    #[must_use]
    pub(super) fn fitted(&self) -> Value {
        let mut value = document(self);
        while length(&value) > limits::RECORD_BYTES {
            let Some(text) = longest(&mut value).filter(|text| text.len() > TEXT_BYTES_LEAST) else {
                return document(&Self { evidence: None, ..self.clone() });
            };
            let half = text.ceil_char_boundary(text.len() / 2);
            *text = format!("[cut] {}", &text[half..]);
        }
        value
    }
}

fn document(record: &Record) -> Value {
    serde_json::to_value(record).expect("strings, numbers and lists only")
}

fn length(value: &Value) -> usize {
    serde_json::to_vec_pretty(value).map_or(usize::MAX, |bytes| bytes.len() + 1)
}

/// The longest text anywhere in a value.
fn longest(value: &mut Value) -> Option<&mut String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(all) => all.iter_mut().filter_map(longest).max_by_key(|text| text.len()),
        Value::Object(all) => all.values_mut().filter_map(longest).max_by_key(|text| text.len()),
        _ => None,
    }
}
