//! A source, as an update uses it, of any kind.

use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::fetch::body::{Body, Start};
use crate::release::offer::Offer;
use crate::release::release::{Architecture, Blob, Image};
use crate::release::statement::Published;
use crate::trust::keys::KeySet;
use crate::trust::signature::Signature;

/// The release on offer, with all signatures that it takes: the source is only asked for more where the first ones do not do.
///
/// # Errors
/// Each cause that makes the offer unreadable. The caller verifies the offer.
pub fn offer(source: &mut dyn Source, architecture: Architecture, keys: Option<&KeySet>) -> Result<Offer> {
    let mut offer = source.offer(architecture)?;
    let enough = |offer: &Offer| keys.is_none_or(|keys| keys.verify(&offer.signed, &offer.signatures).is_ok());
    if offer.file_signatures.is_none() && !enough(&offer) {
        let more = source.more_signatures(&offer)?;
        offer.signatures.extend(more);
    }
    Ok(offer)
}

/// A server or a file with releases.
pub trait Source {
    /// Digest of the document that names the current release, by one request where the server permits that. With the same
    /// digest the offer is the same as before.
    fn look(&mut self) -> Result<Digest>;

    /// The release that was looked at, or is now, and its signatures; no image is fetched.
    fn offer(&mut self, architecture: Architecture) -> Result<Offer>;

    /// Signatures of the same release that take more requests to find, for when those of the offer do not do.
    ///
    /// # Errors
    /// 77 when there are some that vouch for something else than devices verify; whatever keeps them from being read.
    fn more_signatures(&mut self, _offer: &Offer) -> Result<Vec<Signature>> {
        Ok(vec![])
    }

    /// The statement about which release is the latest; `None` if there is none.
    ///
    /// # Errors
    /// Each cause that makes it unreadable.
    fn freshness(&mut self) -> Result<Option<Published>> {
        Ok(None)
    }

    /// An image of the offered release, with its size; the server is asked for it if the release does not say it.
    fn locate(&mut self, image: Image) -> Result<Blob>;

    /// Name of the source, for messages.
    fn origin(&self) -> String;

    /// Starts to fetch an image of the offered release. That the server has it, and of the right size, is known when this
    /// returns, so nothing needs to be erased before.
    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>>;

    /// True if images come over a network, so that the memory of downloads concerns them.
    fn is_remote(&self) -> bool {
        true
    }

    /// The same for an image that has begun, from `start` or from its first byte; the body has the position.
    fn resume(&mut self, blob: &Blob, _start: &Start) -> Result<Box<dyn Body>> {
        self.open(blob)
    }
}
