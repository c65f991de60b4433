//! `check`: an evaluation, for people and scripts.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::base::error::{Error, Reason, Result};
use crate::config::Config;
use crate::policy::gate::{Gate, Lifted};
use crate::policy::{rules, trust_policy};
use crate::release::release::{Patches, Release};
use crate::schedule::clock::Clock;
use crate::source::open;
use crate::source::source::Known;
use crate::state::format::optional_seconds;
use crate::state::freshness::FreshnessReport;
use crate::state::state::Outcome;
use crate::update::candidate::Candidate;
use crate::update::changes::Changes;
use crate::update::session::{Evaluation, advised};

/// The outcome of `check`.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// `up-to-date`, `update-available`, `held` or `unknown`.
    pub verdict: Outcome,
    /// The reason, when it is not `update-available`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The running version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// End of the support of the running release; absent: unknown.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub running_supported_until: Option<DateTime<Utc>>,
    /// The release on offer.
    pub offered: Offered,
    /// Differences to the running release; absent if it runs already, or where the device is not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// Freshness of this release; absent if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<FreshnessReport>,
    /// The part of the release that makes a delta possible; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaOffer>,
    /// Every gate.
    pub gates: Vec<Gate>,
    /// Why the device is not seen, and what to do; absent where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Requests that the source still permits, if it names a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratelimit_remaining: Option<u64>,
}

/// A release on offer, for people and scripts.
#[derive(Debug, Serialize)]
pub struct Offered {
    /// Its version.
    pub version: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Where it was found.
    pub origin: String,
    /// Bytes of both images, if the source reports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Keys of this device that signed it; empty when there is no key here.
    pub signed_by: Vec<String>,
    /// True if the server signs only the images, so that nothing else here is proven.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// End of its support; absent: unknown.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<DateTime<Utc>>,
    /// Release notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_notes: Option<String>,
}

/// The parts of a release for a delta. Nothing was scanned for it.
#[derive(Debug, Serialize)]
pub struct DeltaOffer {
    /// Size of the index of pieces, in bytes.
    pub index_size: u64,
    /// Version of the release that the fitting patches are from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches_from: Option<String>,
    /// Size of these patches, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches_size: Option<u64>,
}

impl DeltaOffer {
    fn of(release: &Release, patches: Option<&Patches>) -> Option<Self> {
        Some(Self {
            index_size: release.pieces?.size,
            patches_from: patches.map(|one| one.from_version.to_string()),
            patches_size: patches.map(|one| one.blob.size),
        })
    }
}

impl CheckReport {
    /// Says what was found.
    #[must_use]
    pub fn of(found: Evaluation, config: &Config) -> Self {
        let (verdict, reason) = verdict(&found);
        let changes = Changes::of(&found, config);
        let delta = DeltaOffer::of(found.candidate.release(), found.patches());
        let running = found.running.manifest.as_ref().and_then(|manifest| manifest.release().ok());
        Self {
            verdict,
            reason,
            offered: Offered::of(&found.candidate),
            running_supported_until: running.and_then(|release| release.supported_until),
            running: found.running.version.map(|version| version.to_string()),
            delta,
            changes,
            freshness: found.freshness.map(|seen| seen.verdict),
            gates: found.gates,
            device: None,
            ratelimit_remaining: found.candidate.source.ratelimit_remaining(),
        }
    }
}

/// The same on a machine that is no device, or for an account that cannot see its slots for the reason `why`: what is on
/// offer, by the keys of the settings, and the gates that need no device.
///
/// # Errors
/// Those that make the offer unreadable or unproven: 65, 69, 77, 78.
pub fn without_device(config: &Config, now: DateTime<Utc>, why: &Error) -> Result<CheckReport> {
    let none_revoked = BTreeSet::new();
    let keys = trust_policy::keys(config)?;
    let keys = keys.map(|keys| keys.needing(config.signature_threshold.keys(), &none_revoked)).transpose()?;
    let mut source = open::open(config)?;
    let document = source.look(&Known { now, ..Known::default() }).map_err(advised)?;
    let candidate = Candidate::read(source, document, None, keys.as_ref()).map_err(advised)?;
    let release = candidate.release();
    let gates = vec![
        rules::window(config, Lifted::default(), &Clock::system(now, None))?,
        rules::channel(release, config.channel.as_deref()),
        rules::architecture(release),
        rules::board(release, config.board.as_deref()),
    ];
    Ok(CheckReport {
        verdict: Outcome::Unknown,
        reason: Some(why.reason),
        running: None,
        running_supported_until: None,
        offered: Offered::of(&candidate),
        delta: DeltaOffer::of(release, None),
        changes: None,
        freshness: None,
        gates,
        device: Some(format!("{}. {}", why.message, why.remedy)),
        ratelimit_remaining: candidate.source.ratelimit_remaining(),
    })
}

impl Offered {
    fn of(candidate: &Candidate) -> Self {
        let offer = &candidate.offer;
        Self {
            version: offer.release.version.to_string(),
            digest: offer.release.digest.to_string(),
            origin: offer.origin.clone(),
            size: size(&offer.release),
            signed_by: candidate.signed_by.iter().map(ToString::to_string).collect(),
            claimed: offer.file_signatures.is_some(),
            supported_until: offer.release.supported_until,
            release_notes: offer.release.release_notes.clone(),
        }
    }
}

fn size(release: &Release) -> Option<u64> {
    Some(release.kernel.size?.saturating_add(release.initramfs.size?))
}

/// Effect of an update.
fn verdict(found: &Evaluation) -> (Outcome, Option<Reason>) {
    match found.admits() {
        Ok(false) => (Outcome::UpToDate, None),
        Ok(true) if found.running.version.is_none() => (Outcome::Unknown, Some(Reason::VersionUnknown)),
        Ok(true) => (Outcome::UpdateAvailable, None),
        Err(refusal) if refusal.reason == Reason::VersionUnknown => (Outcome::Unknown, Some(refusal.reason)),
        Err(refusal) => (Outcome::Held, Some(refusal.reason)),
    }
}
