//! A release on offer: the signed bytes, what they say, and their signatures.

use crate::base::error::{Error, Reason, Result};
use crate::release::release::{Architecture, Release};
use crate::trust::signature::{FileSignatures, Signature};

/// The release of a source for one architecture. The metadata is parsed strictly, and verified only once
/// [`KeySet::verify`](crate::trust::keys::KeySet::verify) accepts `signed` with `signatures`.
#[derive(Clone, Debug)]
pub struct Offer {
    /// `signed`, parsed.
    pub release: Release,
    /// The exact bytes that the signatures are over.
    pub signed: Vec<u8>,
    /// Media type of `signed`.
    pub signed_type: String,
    /// All that were published; proven is none.
    pub signatures: Vec<Signature>,
    /// Signatures of the images from an old server; `signed` is only a claim then.
    pub file_signatures: Option<FileSignatures>,
    /// Name of the request, for messages: `host/repository:tag`.
    pub origin: String,
}

/// Refuses what was made for another architecture.
pub(crate) fn made_for(architecture: Architecture, release: &Release, origin: &str, remedy: &str) -> Result<()> {
    if release.architecture == architecture {
        return Ok(());
    }
    let message = format!("{origin} is for {}, not for {architecture}", release.architecture);
    Err(Error::new(Reason::WrongArchitecture, message).remedy(remedy))
}
