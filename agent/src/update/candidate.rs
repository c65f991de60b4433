//! The release on offer, and the keys that signed it.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::device::slot::SlotManifest;
use crate::release::offer::Offer;
use crate::release::release::{Architecture, Release};
use crate::source::source::{self, Source};
use crate::state::state::LastOffer;
use crate::trust::keys::KeySet;
use crate::trust::signature::KeyId;

/// A source, and the release that it offers to this device.
pub struct Candidate {
    /// Where its images come from.
    pub source: Box<dyn Source>,
    /// The document that names the current release, as of `Source::look`.
    pub document: Digest,
    /// The release and its signatures.
    pub offer: Offer,
    /// The offer had to be fetched: no slot was filled from the same document.
    pub changed: bool,
    /// Keys of this device that signed it. None when the device has no key, or the offer is a claim.
    pub signed_by: Vec<KeyId>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("document", &self.document)
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// Reads what `source` offers by `document`, and proves it with the keys that count. `held` is a slot's copy of the same
    /// offer, which is as good: then nothing else is fetched.
    ///
    /// # Errors
    /// Those of the source, and 77 when the offer is not proven.
    pub fn read(
        mut source: Box<dyn Source>,
        document: Digest,
        held: Option<SlotManifest>,
        keys: Option<&KeySet>,
    ) -> Result<Self> {
        let (offer, changed) = match held {
            Some(content) => {
                source.recall(&content.signed);
                (content.offer(source.origin())?, false)
            }
            None => (source::offer(&mut *source, Architecture::current(), keys)?, true),
        };
        let signed_by = signed_by(&offer, keys)?;
        Ok(Self { source, document, offer, changed, signed_by })
    }

    /// The same for an examination: it goes on behind a release that is not proven, which is a finding. Never for an update.
    pub(super) fn examine(
        mut source: Box<dyn Source>,
        document: Digest,
        keys: Option<&KeySet>,
        findings: &mut Vec<Error>,
    ) -> Option<Self> {
        let (offer, refused) = match source::offer(&mut *source, Architecture::current(), keys) {
            Ok(offer) => (offer, false),
            Err(error) => {
                findings.push(error);
                // Its signatures may be what cannot be read.
                (source.offer(Architecture::current()).ok()?, true)
            }
        };
        let signed_by = if refused { Ok(vec![]) } else { signed_by(&offer, keys) };
        let signed_by = signed_by.unwrap_or_else(|error| {
            findings.push(error);
            vec![]
        });
        Some(Self { source, document, offer, changed: true, signed_by })
    }

    /// The release.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.offer.release
    }

    /// The record for the next look, which then costs one request.
    #[must_use]
    pub fn last_offer(&self) -> LastOffer {
        LastOffer { document: self.document, release: self.offer.release.digest }
    }
}

/// The keys that signed the metadata: as many as the policy needs, unless there is no key here, or the offer is a claim.
fn signed_by(offer: &Offer, keys: Option<&KeySet>) -> Result<Vec<KeyId>> {
    if offer.file_signatures.is_some() {
        log::warn!(
            "legacy_file_signatures=yes: the metadata of {} is a claim; only the images must be signed",
            offer.origin
        );
        return Ok(vec![]);
    }
    let Some(keys) = keys else { return Ok(vec![]) };
    let by = keys.verify(&offer.signed, &offer.signatures)?;
    let names: Vec<_> = by.iter().map(ToString::to_string).collect();
    log::info!("{} of {}: signed by {}", offer.release.version, offer.origin, names.join(", "));
    Ok(by)
}
