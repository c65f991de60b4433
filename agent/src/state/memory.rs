//! Trials that no health run judged: `memory.json` remembers them, and `unjudged.json` is how such a run says so.
//!
//! A health run cannot look when another agent holds the lock, when the settings cannot be used, or when others filled the data
//! partition. None of this is the fault of the release. So the run leaves a note that needs neither the lock nor a new block,
//! and the last good slot reads it after the last try.

use bootenv::TrialId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::text;
use crate::state::file::{self, SCHEMA};
use crate::state::format::{as_text, seconds};
use crate::state::hooks::Facts;

/// Size of `unjudged.json` in bytes, filled up with blanks: one block, which is written over in place.
pub(super) const NOTE_BYTES: usize = 4096;

/// Trials without a verdict that are remembered; the oldest is forgotten for one more.
const NOT_JUDGED_KEPT: usize = 8;

/// Withdrawn trials that are remembered; the oldest is forgotten for one more.
const WITHDRAWN_KEPT: usize = 8;

/// Releases from removable media that are remembered; the oldest is forgotten for one more.
const CARRIED_KEPT: usize = 8;

/// Loader files that are remembered; the oldest is forgotten for one more.
const LOADER_FILES_KEPT: usize = 4;

/// Failed tries after which no run tries a loader file again by itself. A power cut in the boot of a try looks like a failure.
pub const LOADER_FAILURES: u32 = 2;

/// `memory.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    schema: u32,
    /// Trials that no health run judged, the latest first.
    pub not_judged: Vec<NotJudged>,
    /// Trials that were withdrawn because the data could not be saved, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<Withdrawn>,
    /// Releases that were taken from removable media, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<Carried>,
    /// The last time that both slots were read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// Loader files on trial, or that failed, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loader_files: Vec<LoaderFile>,
    /// A trial that ended and whose hooks have not run yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Facts>,
}

/// A loader file that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderFile {
    /// Digest of its bytes.
    pub file: Digest,
    /// How many tries of it ended without a healthy boot.
    #[serde(default)]
    pub failures: u32,
    /// True from the store of a try until a health run knows how it ended.
    #[serde(default)]
    pub tried: bool,
}

/// The result of reading both slots again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// When, by the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// Damage of the booted slot; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<String>,
    /// Damage of the slot to fall back to, which could not be repaired; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// The release that the slot to fall back to is being filled with. Without damage beside it, that is under way, or was cut
    /// off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refill: Option<Digest>,
}

impl Scrub {
    /// The damage of the slot to fall back to, also while it is filled again.
    #[must_use]
    pub fn fallback_damage(&self) -> Option<&str> {
        let unfinished = self.refill.map(|_| "it was not filled to the end");
        self.fallback.as_deref().or(unfinished)
    }
}

/// A release that came on a removable medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The manifest of the release.
    pub release: Digest,
    /// Identity of the medium's filesystem.
    pub medium: String,
}

/// A trial that was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The manifest of its release.
    pub release: Digest,
    /// As in the boot environment.
    #[serde(with = "as_text")]
    pub trial: TrialId,
}

/// A trial that no health run judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotJudged {
    /// The manifest of its release.
    pub release: Digest,
    /// Of the release.
    pub version: String,
    /// As in the boot environment.
    #[serde(with = "as_text")]
    pub trial: TrialId,
    /// When the last good slot found out, by the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// Why the last health run could not look; escaped.
    pub cause: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            not_judged: vec![],
            withdrawn: vec![],
            carried: vec![],
            scrub: None,
            loader_files: vec![],
            ended: None,
        }
    }
}

impl Memory {
    /// Reads the bytes of a `memory.json`; `None` if it is damaged.
    ///
    /// # Errors
    /// 78 when it was written by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        Ok(file::parse(bytes, "memory.json", SCHEMA)?.document())
    }

    /// The trial without a verdict of this release.
    #[must_use]
    pub fn not_judged(&self, release: Digest) -> Option<&NotJudged> {
        self.not_judged.iter().find(|one| one.release == release)
    }

    /// Remembers one, once for each release.
    pub fn remember(&mut self, one: NotJudged) {
        self.not_judged.retain(|known| known.release != one.release);
        self.not_judged.insert(0, one);
        self.not_judged.truncate(NOT_JUDGED_KEPT);
    }

    /// Forgets a release; whether there was anything.
    pub fn forget(&mut self, release: Digest) -> bool {
        let before = self.not_judged.len() + self.withdrawn.len();
        self.not_judged.retain(|one| one.release != release);
        self.withdrawn.retain(|one| one.release != release);
        self.not_judged.len() + self.withdrawn.len() < before
    }

    /// Remembers that this loader file is about to be tried; whether that is news.
    pub fn loader_tried(&mut self, file: Digest) -> bool {
        if self.loader_files.first().is_some_and(|known| known.file == file && known.tried) {
            return false;
        }
        self.loader_put_off();
        let failures = self.loader_failures(file);
        self.loader_files.retain(|known| known.file != file);
        self.loader_files.insert(0, LoaderFile { file, failures, tried: true });
        self.loader_files.truncate(LOADER_FILES_KEPT);
        true
    }

    /// Forgets a loader file that started a healthy boot; whether there was anything.
    pub fn loader_good(&mut self, file: Digest) -> bool {
        let before = self.loader_files.len();
        self.loader_files.retain(|known| known.file != file);
        self.loader_files.len() < before
    }

    /// Takes back a try before it began; whether there was one.
    pub fn loader_put_off(&mut self) -> bool {
        self.loader_files.iter_mut().map(|file| std::mem::take(&mut file.tried)).fold(false, |any, tried| any | tried)
    }

    /// Counts a failure of the loader file on trial, if there is one: its failures so far.
    pub fn loader_failed(&mut self) -> Option<u32> {
        let failed = self.loader_files.iter_mut().find(|file| file.tried)?;
        (failed.tried, failed.failures) = (false, failed.failures + 1);
        Some(failed.failures)
    }

    /// How often this loader file failed.
    #[must_use]
    pub fn loader_failures(&self, file: Digest) -> u32 {
        self.loader_files.iter().find(|known| known.file == file).map_or(0, |known| known.failures)
    }

    /// Forgets the failures of loader files; whether there were any.
    pub fn forget_loader_failures(&mut self) -> bool {
        let failed = self.loader_files.iter_mut().map(|file| std::mem::take(&mut file.failures));
        failed.fold(false, |any, failures| any | (failures > 0))
    }

    /// Remembers that this trial was withdrawn; false if that was known, as after a run that could not write all its records.
    pub fn withdraw(&mut self, one: Withdrawn) -> bool {
        if self.withdrawn.contains(&one) {
            return false;
        }
        self.withdrawn.insert(0, one);
        self.withdrawn.truncate(WITHDRAWN_KEPT);
        true
    }

    /// Remembers the medium that a release came on; whether that is news.
    pub fn carry(&mut self, release: Digest, medium: &str) -> bool {
        let one = Carried { release, medium: medium.to_owned() };
        if self.carried.first() == Some(&one) {
            return false;
        }
        self.carried.retain(|known| known.release != release);
        self.carried.insert(0, one);
        self.carried.truncate(CARRIED_KEPT);
        true
    }

    /// The medium that this release came on.
    #[must_use]
    pub fn medium_of(&self, release: Digest) -> Option<String> {
        self.carried.iter().find(|one| one.release == release).map(|one| one.medium.clone())
    }

    /// How often a trial of this release was withdrawn.
    #[must_use]
    pub fn times_withdrawn(&self, release: Digest) -> usize {
        self.withdrawn.iter().filter(|one| one.release == release).count()
    }
}

/// `unjudged.json`: the trial whose last health run could not look, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unjudged {
    schema: u32,
    /// [`TrialId::NONE`] if the last health run could look.
    #[serde(with = "as_text")]
    pub trial: TrialId,
    /// Why not; escaped.
    pub cause: String,
}

impl Unjudged {
    /// Reads the bytes of an `unjudged.json`; `None` if it is damaged.
    ///
    /// # Errors
    /// 78 when it was written by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        Ok(file::parse(bytes, "unjudged.json", SCHEMA)?.document())
    }

    /// A note on this trial.
    #[must_use]
    pub fn new(trial: TrialId, cause: &str) -> Self {
        Self { schema: SCHEMA, trial, cause: text::escape(cause) }
    }

    /// No trial: the file with its block, for a note to come.
    #[must_use]
    pub fn none() -> Self {
        Self::new(TrialId::NONE, "")
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("strings and numbers only");
        bytes.resize(NOTE_BYTES - 1, b' ');
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full data partition may keep a run from all records but this one; the next run concludes the same trial again.
    #[test]
    fn a_withdrawal_counts_once_however_often_it_is_concluded() {
        let (mut memory, release) = (Memory::default(), Digest::of(b"release"));
        let first = Withdrawn { release, trial: TrialId(1) };
        assert_eq!((memory.withdraw(first), memory.withdraw(first), memory.times_withdrawn(release)), (true, false, 1));
        assert!(memory.withdraw(Withdrawn { trial: TrialId(2), ..first }));
        assert_eq!(memory.times_withdrawn(release), 2);
    }
}
