//! A gate: one condition of an update, its state, and the options that bypass it.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::base::error::{Error, Reason, Result};

/// Options that bypass gates. Their use is logged, and none is a setting.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Lifted {
    /// Bypass the maintenance window, the block label of the node, an upgrade of KubeSolo and the FleetLock server, and nothing
    /// else.
    #[arg(long)]
    pub force: bool,
    /// Try a release that failed on this device again.
    #[arg(long)]
    pub retry_failed: bool,
    /// Accept an older version, or another release of the running version.
    #[arg(long)]
    pub allow_downgrade: bool,
    /// Do not wait for the wave of this device.
    #[arg(long)]
    pub ignore_rollout: bool,
    /// Unsafe: continue with a single copy of U-Boot's environment, which a power cut may damage.
    #[arg(long)]
    pub allow_single_copy: bool,
    /// Unsafe: start a trial of a release that may not save the data before it changes them.
    #[arg(long)]
    pub allow_unprotected_data: bool,
}

/// The verdict of one gate.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    /// Subject of the gate: `maintenance-window`, `channel`, `architecture`, and so on.
    pub name: &'static str,
    /// True if the update may pass.
    pub open: bool,
    /// True if the gate is open only because the agent could not find out its state.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// Why it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    pub message: String,
    /// When it opens by itself, if it does and that is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub opens_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    remedy: String,
    /// Of the error that closed it.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Gate {
    /// A gate that lets the update pass.
    pub fn open(name: &'static str, message: impl Into<String>) -> Self {
        Self {
            name,
            open: true,
            unknown: false,
            reason: None,
            message: message.into(),
            opens_at: None,
            remedy: String::new(),
            retry_after: None,
        }
    }

    /// A gate that lets the update pass, although its state is unknown.
    pub fn unknown(name: &'static str, message: impl Into<String>) -> Self {
        Self { unknown: true, ..Self::open(name, message) }
    }

    /// A gate that does not; `remedy` says what would open it.
    pub fn closed(name: &'static str, reason: Reason, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { open: false, reason: Some(reason), remedy: remedy.into(), ..Self::open(name, message) }
    }

    /// A gate that is open unless something was refused.
    pub fn unless(name: &'static str, refused: Result<impl Into<String>>) -> Self {
        match refused {
            Ok(message) => Self::open(name, message),
            Err(error) => {
                let retry_after = error.retry_after;
                Self { retry_after, ..Self::closed(name, error.reason, error.message, error.remedy) }
            }
        }
    }

    /// Adds when it opens by itself.
    #[must_use]
    pub fn opening(self, opens_at: Option<DateTime<Utc>>) -> Self {
        Self { opens_at, ..self }
    }

    /// The refusal of a closed gate.
    #[must_use]
    pub fn refusal(&self) -> Option<Error> {
        let refusal = Error::new(self.reason?, self.message.clone()).remedy(self.remedy.clone());
        Some(Error { retry_after: self.retry_after, ..refusal })
    }
}

/// The first closed gate's refusal.
///
/// # Errors
/// That refusal: 75 or 77.
pub fn pass(gates: &[Gate]) -> Result<()> {
    gates.iter().find_map(Gate::refusal).map_or(Ok(()), Err)
}

fn seconds<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).serialize(serializer)
}
