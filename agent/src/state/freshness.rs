//! Freshness of the last offer, as `state.json` keeps it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use crate::base::error::Reason;
use crate::base::words::{Recorded, words};
use crate::schedule::clock::{Clock, shown};
use crate::state::format::optional_seconds;

words! {
    /// Verdict on the freshness of a release.
    pub enum FreshnessVerdict {
        /// A statement that holds today says so.
        Fresh = "fresh",
        /// There is a later one, or the last statement is too old: somebody may be keeping a later one back.
        Stale = "stale",
        /// There is no statement that counts, or no clock to measure it with.
        Unknown = "unknown",
    }
}

/// A word that only another version of the agent knows reads as `unknown`: it makes no file damaged.
impl<'de> Deserialize<'de> for FreshnessVerdict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().unwrap_or(Self::Unknown))
    }
}

/// The finding of one look at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessReport {
    /// The verdict.
    #[serde(rename = "verdict")]
    pub word: FreshnessVerdict,
    /// Why it is not fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Recorded<Reason>>,
    /// For people.
    pub message: String,
    /// Of the statement, if there is one that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// Until when it counts.
    #[serde(default, with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
}

impl FreshnessReport {
    pub(crate) fn new(word: FreshnessVerdict, reason: impl Into<Option<Reason>>, message: impl Into<String>) -> Self {
        Self {
            word,
            reason: reason.into().map(Recorded::Known),
            message: message.into(),
            serial: None,
            not_after: None,
        }
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(FreshnessVerdict::Unknown, reason, message)
    }

    /// The verdict by now: what was fresh at the last look may be stale.
    #[must_use]
    pub fn by_now(self, clock: &Clock) -> Self {
        match (self.word, self.not_after, clock.for_expiry()) {
            (FreshnessVerdict::Fresh, _, Err(e)) => {
                Self { word: FreshnessVerdict::Unknown, reason: Some(e.reason.into()), message: e.message, ..self }
            }
            (FreshnessVerdict::Fresh, Some(end), Ok(now)) if now > end => {
                Self::expired(end).with(self.serial, Some(end))
            }
            _ => self,
        }
    }

    pub(crate) fn expired(end: DateTime<Utc>) -> Self {
        Self::new(
            FreshnessVerdict::Stale,
            Reason::Expired,
            format!("the last freshness statement ended on {}", shown(end)),
        )
    }

    pub(crate) fn with(self, serial: Option<u64>, not_after: Option<DateTime<Utc>>) -> Self {
        Self { serial, not_after, ..self }
    }
}

impl fmt::Display for FreshnessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word.as_str(), self.message)
    }
}
