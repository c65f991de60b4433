//! The phases of an update, and which may follow which.

use serde::{Deserialize, Deserializer};

use crate::base::words::words;

words! {
    /// Where an update stands. The names and their order are those of KubeSolo OS.
    #[derive(Default)]
    pub enum Phase {
        /// Nothing was attempted yet.
        #[default]
        Idle = "idle",
        /// Asking the source.
        Checking = "checking",
        /// Writing a slot.
        Downloading = "downloading",
        /// A slot is complete and verified, and not activated.
        Staged = "staged",
        /// The bootloader will try the slot.
        Activated = "activated",
        /// The slot is on trial.
        Verifying = "verifying",
        /// The trial was committed.
        Success = "success",
        /// The device is back in the slot it came from.
        RolledBack = "rolled_back",
        /// An attempt was refused, or a step of it failed.
        Failed = "failed",
    }
}

/// A phase that only another version of the agent knows reads as `idle`: it makes no file damaged.
impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().unwrap_or_default())
    }
}

impl Phase {
    /// True if an update can go from here to `next`. The state can be lost while slots and bootloader keep theirs, so their
    /// phases (staged, activated, verifying) may follow any phase except their own end.
    #[must_use]
    pub fn leads_to(self, next: Phase) -> bool {
        match next {
            Self::Checking | Self::Verifying | Self::RolledBack | Self::Failed | Self::Idle => true,
            Self::Downloading => self == Self::Checking,
            Self::Staged => self != Self::Verifying,
            Self::Activated => !matches!(self, Self::Verifying | Self::Downloading),
            Self::Success => matches!(self, Self::Verifying | Self::Success),
        }
    }
}
