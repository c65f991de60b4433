//! Facts for the hooks at one moment of an update. Those of a trial that has ended are kept in `memory.json` until its hooks ran.

use serde::{Deserialize, Serialize};

use crate::state::state::Trial;

/// When hooks run: each has a folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before the agent writes a slot, and before it activates a release.
    PreUpdate,
    /// Before the agent restarts the device.
    PreReboot,
    /// After a trial was committed.
    PostCommit,
    /// In the last good slot, after a trial failed.
    PostRevert,
}

/// The step that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A slot is to be written.
    Stage,
    /// The staged release becomes the one that boots next.
    Activate,
    /// The device restarts into a trial.
    Trial,
    /// The device restarts into the last good slot.
    Revert,
}

/// The facts, as each hook reads them on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The moment.
    pub moment: Moment,
    /// The step that comes next; none after the end of a trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The version before the update; empty if it is not known.
    #[serde(default)]
    pub from: String,
    /// The version of the update.
    pub to: String,
    /// Digest of the release.
    pub digest: String,
    /// The trial: 8 hex digits; empty before an activation.
    #[serde(default)]
    pub trial: String,
    /// The slot of the update: `A` or `B`; empty before an activation.
    #[serde(default)]
    pub slot: String,
    /// The attempt, as in the history; empty if it is not known.
    #[serde(default)]
    pub attempt: String,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PreUpdate, Self::PreReboot, Self::PostCommit, Self::PostRevert];

    /// Its name, which is also that of its folder, without `.d`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreUpdate => "pre-update",
            Self::PreReboot => "pre-reboot",
            Self::PostCommit => "post-commit",
            Self::PostRevert => "post-revert",
        }
    }
}

impl Step {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Trial => "trial",
            Self::Revert => "revert",
        }
    }
}

impl Facts {
    /// The facts of a trial.
    #[must_use]
    pub fn of_trial(trial: &Trial, moment: Moment, step: Option<Step>) -> Self {
        let attempt = trial.attempt.clone().unwrap_or_default();
        Self {
            moment,
            step,
            from: attempt.from_version,
            to: trial.version.clone(),
            digest: trial.identity.release.to_string(),
            trial: trial.id.to_string(),
            slot: trial.slot.to_string(),
            attempt: attempt.id,
        }
    }
}
