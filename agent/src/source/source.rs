//! What an update sees of any kind of source.

use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::fetch::body::Body;
use crate::release::offer::Offer;
use crate::release::release::{Architecture, Blob, Image};
use crate::release::statement::Published;
use crate::trust::keys::KeySet;
use crate::trust::signature::Signature;

/// The release on offer, with all signatures that it takes: the source is only asked for more where the first ones do not do.
///
/// # Errors
/// Whatever makes the offer unreadable. Whether it is proven is the caller's to find out.
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
    /// Looks, in one request where the server lets it, at the document that names the current release: its digest. What was
    /// offered under the same digest before is still on offer.
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
    /// Whatever keeps it from being read.
    fn freshness(&mut self) -> Result<Option<Published>> {
        Ok(None)
    }

    /// An image of the offered release, with its size; the server is asked for it if the release does not say it.
    fn locate(&mut self, image: Image) -> Result<Blob>;

    /// What was asked for, for messages.
    fn origin(&self) -> String;

    /// Starts to fetch an image of the offered release. That the server has it, and of the right size, is known when this
    /// returns, so nothing needs to be erased before.
    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>>;
}
