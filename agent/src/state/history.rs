//! `history.json`: what became of past attempts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::state::file::SCHEMA;
use crate::state::format::optional_seconds;
use crate::state::phase::Phase;

/// Attempts that are kept; the oldest is forgotten for one more.
pub const ATTEMPTS_KEPT: usize = 64;

/// Past attempts, and the one that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    schema: u32,
    /// The oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// One attempt and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// As in `state.json` and in logs; of the last one, where several ended alike.
    pub id: String,
    /// By the device's clock.
    #[serde(with = "optional_seconds")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it came as far as it is.
    #[serde(with = "optional_seconds")]
    pub updated_at: Option<DateTime<Utc>>,
    /// The running version; empty if it was not known.
    pub from_version: String,
    /// The version of the release; empty if the attempt ended before it was known.
    pub to_version: String,
    /// The release that it was for.
    pub to_release: Option<Digest>,
    /// The last phase of it.
    pub phase: Phase,
    /// Why it failed, and what to do.
    pub error: String,
    /// How often in a row it failed in the same way.
    pub times: u32,
}

impl Default for Attempt {
    fn default() -> Self {
        Self {
            id: String::new(),
            started_at: None,
            updated_at: None,
            from_version: String::new(),
            to_version: String::new(),
            to_release: None,
            phase: Phase::Idle,
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
    /// Adds an attempt, or what became of the last one. A server that cannot be reached for a month is one entry, not a
    /// hundred that push out all others.
    pub fn add(&mut self, mut attempt: Attempt) {
        let alike = |last: &Attempt| {
            last.phase == Phase::Failed
                && (attempt.phase, &attempt.error, &attempt.to_release) == (last.phase, &last.error, &last.to_release)
        };
        // A trial may end after attempts that failed meanwhile.
        let same = self.attempts.iter().rposition(|known| known.id == attempt.id);
        let again = self.attempts.len().checked_sub(1).filter(|last| alike(&self.attempts[*last]));
        if let Some(n) = same.or(again) {
            let known = self.attempts.remove(n);
            attempt.times = if same.is_some() { known.times } else { known.times.saturating_add(1) };
            attempt.started_at = known.started_at;
        }
        self.attempts.push(attempt);
        let surplus = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..surplus);
    }
}
