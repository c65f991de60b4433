//! `about.json` of a checkpoint: whose data it holds, and how much.

use bootenv::data::LAYOUT;
use bootenv::{SlotId, TrialId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::copy::Size;
use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::json;
use crate::state::format::{as_text, seconds};

/// A checkpoint. An activation writes one without sizes; the trial completes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The layout of the folder; in a note, the highest that the writer reads.
    pub layout: u32,
    /// The trial that writes next.
    #[serde(with = "as_text")]
    pub trial: TrialId,
    /// The slot of that trial.
    #[serde(with = "as_text")]
    pub slot: SlotId,
    /// The system that the data belong to; `None` if nobody could say.
    pub base: Option<Base>,
    /// An activation announced the checkpoint.
    #[serde(default)]
    pub noted: bool,
    /// Why there is no checkpoint; empty where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The folders, in the order of the copies.
    pub paths: Vec<PathAbout>,
    /// When it was written, by the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// Time that the copy took, in seconds.
    #[serde(default)]
    pub took: u64,
}

/// A system, by its two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Digest of the kernel.
    pub kernel: Digest,
    /// Digest of the initramfs.
    pub initramfs: Digest,
    /// Its version, for people.
    pub version: String,
}

impl Base {
    /// True if both are the same images.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (self.kernel, self.initramfs) == (other.kernel, other.initramfs)
    }
}

/// One folder of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathAbout {
    /// Relative to the data partition.
    pub path: String,
    /// Content of the copy; `None`: the folder was not there.
    pub folder: Option<Size>,
}

impl About {
    /// Reads the bytes of an `about.json`.
    ///
    /// # Errors
    /// 65 when it is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        json::parse(bytes, "about.json")
    }

    /// Length of the files in it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.paths.iter().filter_map(|one| one.folder).map(|size| size.bytes).sum()
    }

    /// True if this version can restore it.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.layout <= LAYOUT
    }
}
