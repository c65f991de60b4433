//! `trust.json`: what must not be forgotten, and never goes back.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::error::Result;
use crate::state::file::{self, SCHEMA};
use crate::state::format::{optional_seconds, seconds};
use crate::state::identity::Identity;
use crate::trust::signature::Fingerprint;

/// Failed releases that are remembered; the oldest is forgotten for one more.
pub const FAILED_KEPT: usize = 64;

/// Pairs of channel and key whose serials are kept.
pub const SERIALS_KEPT: usize = 64;

/// Memory that outlives every attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    pub(super) schema: u32,
    /// Highest security epoch that was ever committed.
    #[serde(default)]
    pub security_epoch: u64,
    /// Keys that a committed release revoked.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked_keys: BTreeSet<Fingerprint>,
    /// The highest serial of a statement of freshness, for each channel and key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<Serial>,
    /// The latest time known here: of a synchronised clock, or of a verified freshness statement. Only a person lowers it.
    #[serde(default, with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<DateTime<Utc>>,
    /// Releases that failed on this device, the oldest first.
    #[serde(default)]
    pub failed: Vec<FailedRelease>,
}

/// How far the statements of a channel by one key have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serial {
    /// As the statement names it.
    pub channel: String,
    /// The key that signed it.
    pub key: Fingerprint,
    /// The highest that was seen.
    pub serial: u64,
}

/// A release that failed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRelease {
    /// Of the release.
    #[serde(flatten)]
    pub identity: Identity,
    /// As the manifest spells it.
    pub version: String,
    /// By the device's clock.
    #[serde(with = "seconds")]
    pub failed_at: DateTime<Utc>,
    /// The event, for people.
    pub reason: String,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            security_epoch: 0,
            revoked_keys: BTreeSet::new(),
            serials: vec![],
            last_seen: None,
            failed: vec![],
        }
    }
}

impl Trust {
    /// Reads the bytes of a `trust.json`; `None` if it is damaged.
    ///
    /// # Errors
    /// 78 when it was written by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        Ok(file::parse(bytes, "trust.json", SCHEMA)?.document())
    }

    /// The failure that speaks against a release: of the same manifest, or of the same pair of images under another one.
    #[must_use]
    pub fn failure(&self, release: &Identity) -> Option<&FailedRelease> {
        self.failed.iter().rev().find(|failed| failed.identity.is_like(release))
    }

    /// Remembers a failure, once for each manifest.
    pub fn remember(&mut self, failed: FailedRelease) {
        self.failed.retain(|known| known.identity.release != failed.identity.release);
        self.failed.push(failed);
        let surplus = self.failed.len().saturating_sub(FAILED_KEPT);
        self.failed.drain(..surplus);
    }

    /// Forgets what speaks against a release; whether there was anything.
    pub fn forget(&mut self, release: &Identity) -> bool {
        let before = self.failed.len();
        self.failed.retain(|failed| !failed.identity.is_like(release));
        self.failed.len() < before
    }

    /// Notes a commit: an epoch, which never goes down, and revoked keys, which never come back. Returns true if that
    /// changed anything.
    pub fn raise(&mut self, epoch: u64, revoked: &BTreeSet<Fingerprint>) -> bool {
        let news = epoch > self.security_epoch || !revoked.is_subset(&self.revoked_keys);
        self.security_epoch = self.security_epoch.max(epoch);
        self.revoked_keys.extend(revoked);
        news
    }

    /// The highest serial seen of a channel's statements by this key.
    #[must_use]
    pub fn serial(&self, channel: &str, key: &Fingerprint) -> Option<u64> {
        self.serials.iter().find(|known| known.channel == channel && known.key == *key).map(|known| known.serial)
    }

    /// Notes the serial of a statement, and returns whether that changed anything.
    ///
    /// With [`SERIALS_KEPT`] entries, another channel or key takes the place of the last one that came. A key that signs for
    /// many channels thus cannot displace the channel that this device followed first.
    pub fn note_serial(&mut self, new: Serial) -> bool {
        let known = self.serials.iter_mut().find(|known| (&known.channel, known.key) == (&new.channel, new.key));
        match known {
            Some(known) if known.serial >= new.serial => return false,
            Some(known) => known.serial = new.serial,
            None => {
                self.serials.truncate(SERIALS_KEPT - 1);
                self.serials.push(new);
            }
        }
        true
    }
}
