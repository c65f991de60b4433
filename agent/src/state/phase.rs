//! The phases of an update, and which may follow which.

use serde::{Deserialize, Serialize};

/// Where an update stands. The names and their order are those of KubeSolo OS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was attempted yet.
    #[default]
    Idle,
    /// Asking the source.
    Checking,
    /// Writing a slot.
    Downloading,
    /// A slot is complete and verified, and not activated.
    Staged,
    /// The bootloader will try the slot.
    Activated,
    /// The slot is on trial.
    Verifying,
    /// The trial was committed.
    Success,
    /// The device is back in the slot it came from.
    RolledBack,
    /// An attempt was refused, or a step of it failed.
    Failed,
}

impl Phase {
    /// All of them, in the order of an update.
    pub const ALL: [Phase; 9] = [
        Phase::Idle,
        Phase::Checking,
        Phase::Downloading,
        Phase::Staged,
        Phase::Activated,
        Phase::Verifying,
        Phase::Success,
        Phase::RolledBack,
        Phase::Failed,
    ];

    /// As in `state.json` and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Downloading => "downloading",
            Self::Staged => "staged",
            Self::Activated => "activated",
            Self::Verifying => "verifying",
            Self::Success => "success",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }

    /// Whether an update can go from here to `next`. State can be lost while slots and bootloader keep theirs, so what they
    /// tell (staged, activated, on trial) may follow anything but its own undoing.
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

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
