//! Attempts, and `history.json`: the outcomes of past ones.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::limits;
use crate::base::words::{Recorded, words};
use crate::state::file::SCHEMA;
use crate::state::format::optional_seconds;
use crate::state::phase::Phase;

/// Attempts that are kept; the oldest is forgotten for one more.
pub const ATTEMPTS_KEPT: usize = limits::RECORDS;

/// One attempt: its time and its target, without the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// As in logs.
    pub id: String,
    /// Start, by the device's clock.
    #[serde(with = "optional_seconds")]
    pub started_at: Option<DateTime<Utc>>,
    /// The running version at the start; empty if it was not known.
    pub from_version: String,
    /// The version of the release; empty if the attempt ended before it was known.
    pub to_version: String,
    /// The release; `None` if the attempt ended before it was known.
    pub to_release: Option<Digest>,
    /// Where the bytes of its images came from; `None` if it wrote none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Origins>,
}

/// Where bytes of images came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origins {
    /// From the network, each byte as often as it came.
    pub fetched: u64,
    /// From the booted slot.
    pub reused: u64,
    /// From patches, with what the booted slot has.
    pub patched: u64,
}

words! {
    /// How a trial ended.
    pub enum TrialOutcome {
        /// A health run committed its release.
        Committed = "committed",
        /// The release failed: a health run reverted it, or no health run came so far.
        Failed = "failed",
        /// No boot of the trial was seen. The release may be tried once more.
        NotStarted = "not-started",
        /// No health run could look. The release may be tried once more.
        NotJudged = "not-judged",
        /// The data could not be saved before it. The release is not to blame.
        Withdrawn = "withdrawn",
    }
}

/// Past attempts, and the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    schema: u32,
    /// The oldest first.
    #[serde(default)]
    pub attempts: Vec<Entry>,
}

/// One attempt and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The attempt; the last one if several ended alike.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// Time of its last phase.
    #[serde(with = "optional_seconds")]
    pub updated_at: Option<DateTime<Utc>>,
    /// The last phase of it.
    pub phase: Phase,
    /// How its trial ended, if it had one that ended. Version 0.1 has no such member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Recorded<TrialOutcome>>,
    /// Cause of a failure, and the next step; empty without one.
    pub error: String,
    /// How often in a row it failed in the same way.
    pub times: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            attempt: Attempt::default(),
            updated_at: None,
            phase: Phase::Idle,
            outcome: None,
            error: String::new(),
            times: 1,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { schema: SCHEMA, attempts: vec![] }
    }
}

impl History {
    /// Adds an attempt, or the outcome of the last one. A server that is down for a month is one entry, not a hundred that
    /// push out all others. Returns the id of an attempt that failed in the same way, and whose place the new one takes.
    pub fn add(&mut self, mut entry: Entry) -> Option<String> {
        let alike = |last: &Entry| {
            last.phase == Phase::Failed
                && (entry.phase, &entry.error, entry.attempt.to_release)
                    == (last.phase, &last.error, last.attempt.to_release)
        };
        // A trial may end after attempts that failed meanwhile.
        let same = self.attempts.iter().rposition(|known| known.attempt.id == entry.attempt.id);
        let again = self.attempts.len().checked_sub(1).filter(|last| alike(&self.attempts[*last]));
        let mut replaced = None;
        if let Some(n) = same.or(again) {
            let known = self.attempts.remove(n);
            entry.times = if same.is_some() { known.times } else { known.times.saturating_add(1) };
            entry.attempt.started_at = known.attempt.started_at;
            replaced = same.is_none().then_some(known.attempt.id);
        }
        self.attempts.push(entry);
        let surplus = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..surplus);
        replaced
    }
}
