//! `trust.json`: what must not be forgotten, and never goes back.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::seconds;
use crate::error::Result;
use crate::release::Digest;

/// Failed releases that are remembered; the oldest is forgotten for one more.
pub const FAILED_KEPT: usize = 64;

/// Memory that outlives every attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    pub(super) schema: u32,
    /// Highest security epoch that was ever committed.
    #[serde(default)]
    pub security_epoch: u64,
    /// Releases that failed on this device, the oldest first.
    #[serde(default)]
    pub failed: Vec<FailedRelease>,
}

/// A release that failed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRelease {
    /// Of its manifest.
    pub release: Digest,
    /// Of its kernel.
    pub kernel: Digest,
    /// Of its initramfs.
    pub initramfs: Digest,
    /// As the manifest spells it.
    pub version: String,
    /// By the device's clock.
    #[serde(with = "seconds")]
    pub failed_at: DateTime<Utc>,
    /// What happened, for people.
    pub reason: String,
}

impl Default for Trust {
    fn default() -> Self {
        Self { schema: super::SCHEMA, security_epoch: 0, failed: vec![] }
    }
}

impl Trust {
    /// Reads the bytes of a `trust.json`; `None` if it is damaged.
    ///
    /// # Errors
    /// 78 when it was written by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        Ok(super::file::parse(bytes, "trust.json", super::SCHEMA)?.document())
    }

    /// The failure that speaks against a release: of the same manifest, or of the same pair of images under another one.
    #[must_use]
    pub fn failure(&self, release: &Digest, kernel: &Digest, initramfs: &Digest) -> Option<&FailedRelease> {
        let same = |f: &&FailedRelease| f.release == *release || (f.kernel, f.initramfs) == (*kernel, *initramfs);
        self.failed.iter().rev().find(same)
    }

    /// Remembers a failure, once for each manifest.
    pub fn remember(&mut self, failed: FailedRelease) {
        self.failed.retain(|known| known.release != failed.release);
        self.failed.push(failed);
        let surplus = self.failed.len().saturating_sub(FAILED_KEPT);
        self.failed.drain(..surplus);
    }

    /// Forgets what speaks against a release; whether there was anything.
    pub fn forget(&mut self, release: &Digest, kernel: &Digest, initramfs: &Digest) -> bool {
        let before = self.failed.len();
        self.failed.retain(|f| f.release != *release && (f.kernel, f.initramfs) != (*kernel, *initramfs));
        self.failed.len() < before
    }

    /// Notes a committed epoch. It never goes down.
    pub fn raise_epoch(&mut self, epoch: u64) {
        self.security_epoch = self.security_epoch.max(epoch);
    }
}
