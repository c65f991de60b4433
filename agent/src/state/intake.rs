//! Records of bundles that were examined: `intake/ID.json`, one file each.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::limits;
use crate::base::words::{Recorded, words};
use crate::state::format::seconds;
use crate::state::identity::Identity;

words! {
    /// The result of an examination.
    pub enum IntakeVerdict {
        /// A finding rejects the bundle, or the examination did not end.
        Rejected = "rejected",
        /// Nothing rejects it. A gate may hold it back for now.
        Accepted = "accepted",
    }
}

/// The record of one bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intake {
    /// 8 hex digits.
    pub id: String,
    /// Path of the file.
    pub source: String,
    /// Bytes of the file; absent if it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Time of the examination, by the device's clock.
    #[serde(with = "seconds")]
    pub at: DateTime<Utc>,
    /// `accepted` or `rejected`.
    pub verdict: Recorded<IntakeVerdict>,
    /// All findings, in the order of the examination: at most [`limits::INTAKE_FINDINGS`].
    pub findings: Vec<Finding>,
    /// The release, if the bundle has one that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Examined>,
}

/// One fault of a bundle, or one gate that does not let it pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The exit code of a command that ends for this reason.
    pub exit_code: u8,
    /// The cause as a word.
    pub reason: Recorded<Reason>,
    /// The fault, or the cause that closes the gate.
    pub message: String,
    /// The next step.
    pub remedy: String,
}

/// The release of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// SemVer.
    pub version: String,
    /// Its digests. They are proven only if `signed_by` is not empty.
    #[serde(flatten)]
    pub identity: Identity,
    /// Ids of the keys of this device that signed it.
    pub signed_by: Vec<String>,
}

impl Finding {
    /// True if it rejects the bundle: what holds an update back for now does not.
    #[must_use]
    pub fn rejects(&self) -> bool {
        self.exit_code != Exit::NotNow.code()
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        let error = error.advised();
        let Error { reason, message, remedy, .. } = error;
        Self { exit_code: reason.exit().code(), reason: reason.into(), message, remedy }
    }
}

impl From<&Error> for Finding {
    fn from(error: &Error) -> Self {
        let Error { reason, message, remedy, .. } = error;
        Self::from(Error::new(*reason, message.clone()).remedy(remedy.clone()))
    }
}

impl Intake {
    /// A record before the examination. It is rejected until the end.
    #[must_use]
    pub fn begun(id: u32, source: String, at: DateTime<Utc>) -> Self {
        let interrupted = Error::new(Reason::Interrupted, "the examination did not end")
            .remedy("Run `kubesolo-update intake add` again.");
        Self {
            id: format!("{id:08x}"),
            source,
            size: None,
            at,
            verdict: IntakeVerdict::Rejected.into(),
            findings: vec![interrupted.into()],
            release: None,
        }
    }

    /// Ends the examination.
    #[must_use]
    pub fn ended(self, findings: Vec<Error>, release: Option<Examined>) -> Self {
        let findings: Vec<Finding> = findings.into_iter().take(limits::INTAKE_FINDINGS).map(Finding::from).collect();
        let proven = release.is_some() && !findings.iter().any(Finding::rejects);
        let verdict = if proven { IntakeVerdict::Accepted } else { IntakeVerdict::Rejected };
        Self { verdict: verdict.into(), findings, release, ..self }
    }

    /// Refuses a bundle that was rejected.
    ///
    /// # Errors
    /// The first finding that rejects it.
    pub fn pass(&self) -> Result<()> {
        if self.verdict.known() == Some(IntakeVerdict::Accepted) {
            return Ok(());
        }
        let first = self.findings.iter().find(|finding| finding.rejects());
        let refused = first.and_then(|first| {
            let Finding { reason, message, remedy, .. } = first;
            Some(Error::new(reason.known()?, message.clone()).remedy(remedy.clone()))
        });
        Err(refused.unwrap_or_else(|| Error::new(Reason::MalformedBundle, "the bundle was not proven")))
    }
}
