//! `outbox/`: events that wait for their receiver, one file each, in the order of their numbers.
//!
//! An event is written before the step that it announces is recorded, and its file is renamed only after the receiver took
//! it. A power cut in between repeats the event with the same id, and loses none.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::replace::sync_folder;
use crate::base::words::Recorded;
use crate::base::{files, limits, text};
use crate::state::file::{self, PRIVATE, SCHEMA};
use crate::state::format::seconds;
use crate::state::history::TrialOutcome;
use crate::state::records::{AskedBy, Record, Step, StepName};

/// End of the name of an event that waits.
const PENDING: &str = "json";
/// End of the name of the event that was taken last. It keeps the number.
const SENT: &str = "sent";

/// A step of an attempt, for a receiver elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    schema: u32,
    /// Unique on this device: the attempt, and number and name of the step.
    pub id: String,
    /// Time of the step.
    #[serde(with = "seconds")]
    pub time: DateTime<Utc>,
    /// The content.
    pub data: EventData,
}

/// The content of an event: facts of the record, without texts of programs or of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventData {
    /// Id of the attempt.
    pub attempt: String,
    /// The step.
    pub step: Recorded<StepName>,
    /// Its number within the attempt.
    pub number: u32,
    /// The version at the start of the attempt; empty if it was not known.
    pub from_version: String,
    /// The version of the release; empty if it was not known.
    pub to_version: String,
    /// The release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Digest>,
    /// The party that asked for the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Recorded<AskedBy>>,
    /// How the trial ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Recorded<TrialOutcome>>,
    /// Cause of a failure, cut to [`limits::SHOWN_CHARS`] characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Reason of the last error that ended a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

impl Event {
    /// The event of a step.
    #[must_use]
    pub fn of(record: &Record, step: &Step) -> Self {
        let attempt = &record.entry.attempt;
        let failed = matches!(step.step.known(), Some(StepName::Failed));
        let finding = record.findings.last().filter(|_| failed);
        let data = EventData {
            attempt: attempt.id.clone(),
            step: step.step.clone(),
            number: step.number,
            from_version: attempt.from_version.clone(),
            to_version: attempt.to_version.clone(),
            release: attempt.to_release,
            asked_by: record.asked_by.clone(),
            outcome: record.entry.outcome.clone(),
            error: text::escape(&record.entry.error),
            reason: finding.map(|finding| finding.reason.to_string()),
            exit_code: finding.map(|finding| finding.exit_code),
        };
        Self { schema: SCHEMA, id: format!("{}.{}-{}", attempt.id, step.number, step.step), time: step.at, data }
    }
}

/// The folder of the events.
#[derive(Debug)]
pub(super) struct Outbox(pub(super) PathBuf);

impl Outbox {
    /// Numbers and files of the events that wait, the oldest first; `None` where this account may not look.
    pub(super) fn pending(&self) -> Option<Vec<(u64, PathBuf)>> {
        self.all().map(|mut all| {
            all.retain(|(_, path)| path.extension().is_some_and(|end| end == PENDING));
            all
        })
    }

    fn all(&self) -> Option<Vec<(u64, PathBuf)>> {
        let entries = match files::list(&self.0) {
            Ok(listing) => listing.entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
            Err(_) => return None,
        };
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let mut all: Vec<_> = entries.into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
        all.sort();
        Some(all)
    }

    /// Adds an event behind all others. The oldest above [`limits::EVENTS`] are deleted.
    pub(super) fn add(&self, event: &Event) -> Result<()> {
        let last = self.all().unwrap_or_default().last().map_or(0, |(number, _)| *number);
        let path = file::in_private_folder(&self.0, &format!("{:020}.{PENDING}", last.saturating_add(1)))?;
        file::write(&path, event, PRIVATE)?;
        let pending = self.pending().unwrap_or_default();
        let surplus = pending.len().saturating_sub(limits::EVENTS);
        pending[..surplus].iter().try_for_each(|(number, path)| {
            log::warn!("event {number} is lost: more than {} wait for the receiver", limits::EVENTS);
            file::remove(path)
        })
    }

    /// Ends the wait of an event.
    pub(super) fn sent(&self, path: &Path) -> Result<()> {
        let before = self.all().unwrap_or_default();
        let failed = |e| file::write_error(&format!("rename {}", path.display()), &e);
        fs::rename(path, path.with_extension(SENT)).and_then(|()| sync_folder(path)).map_err(failed)?;
        before
            .iter()
            .filter(|(_, path)| path.extension().is_some_and(|end| end == SENT))
            .try_for_each(|(_, path)| file::remove(path))
    }
}
