//! A source, as an update uses it, of any kind.

use chrono::{DateTime, Utc};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::fetch::body::{Body, Parts, Start};
use crate::release::devicetree;
use crate::release::offer::Offer;
use crate::release::release::{Architecture, Blob, Image, Release};
use crate::release::statement::Published;
use crate::state::fetches::Tagged;
use crate::trust::keys::KeySet;
use crate::trust::signature::{Fingerprint, Signature};

/// The release on offer, with as many signatures as `keys` require. The source looks for more signatures only while those
/// that were found do not suffice.
///
/// # Errors
/// Any failure to read the offer. For a release without signature, or with too few: what kept the source from reading
/// signatures, if anything did. The caller verifies the rest.
pub fn offer(source: &mut dyn Source, architecture: Architecture, keys: Option<&KeySet>) -> Result<Offer> {
    let mut offer = source.offer(architecture)?;
    let found = std::mem::take(&mut offer.signatures);
    gather(&mut offer, found, keys);
    let Some(keys) = keys.filter(|_| offer.file_signatures.is_none()) else { return Ok(offer) };
    while let Err(refusal) = keys.verify(&offer.signed, &offer.signatures) {
        let Some(more) = source.more_signatures() else {
            let missing = matches!(refusal.reason, Reason::SignatureMissing | Reason::SignaturesTooFew);
            return match source.hindrance().filter(|_| missing) {
                Some(hindrance) => Err(hindrance),
                None => Ok(offer),
            };
        };
        gather(&mut offer, more, Some(keys));
    }
    Ok(offer)
}

/// Adds signatures to an offer, within the limits of one manifest. One signature of each known key always has room: others
/// can neither keep it out nor push it out.
fn gather(offer: &mut Offer, more: Vec<Signature>, keys: Option<&KeySet>) {
    let by = |signature: &Signature| keys.and_then(|keys| keys.signer(&offer.signed, signature));
    let mut kept: Vec<(Option<Fingerprint>, Signature)> = vec![];
    for signature in offer.signatures.iter().cloned().chain(more) {
        let key = by(&signature);
        let doubled = |(k, s): &(Option<Fingerprint>, Signature)| *s == signature || key.is_some() && *k == key;
        if !kept.iter().any(doubled) {
            kept.push((key, signature));
        }
    }
    kept.sort_by_key(|(key, _)| key.is_none());
    let mut payloads = 0;
    kept.retain(|(_, signature)| {
        let bytes = signature.payload.as_ref().map_or(0, |payload| payload.bytes().len());
        let fits = payloads + bytes <= limits::PAYLOADS_BYTES;
        payloads += if fits { bytes } else { 0 };
        fits
    });
    kept.truncate(limits::SIGNATURES);
    offer.signatures = kept.into_iter().map(|(_, signature)| signature).collect();
}

/// A small file of the release as a whole, proven by its digest. `spent` grows by the bytes that came for it.
///
/// # Errors
/// Those of the source, 65 for other bytes.
pub fn whole(source: &mut dyn Source, blob: &Blob, what: &str, spent: &mut u64) -> Result<Vec<u8>> {
    let (mut body, mut bytes) = (source.open(blob)?, vec![]);
    let mut read = || {
        while let Some(chunk) = body.chunk()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let result = read();
    *spent += body.fetched();
    result?;
    if Digest::of(&bytes) != blob.digest {
        return Err(Error::new(Reason::DigestMismatch, format!("{what} has other bytes than the release says")));
    }
    Ok(bytes)
}

/// The device tree of a release, if it has one: its bytes, and no tree that a kernel cannot use.
///
/// # Errors
/// Those of the source, 65 for other bytes or none that are a tree.
pub fn devicetree(source: &mut dyn Source, release: &Release, spent: &mut u64) -> Result<Option<Vec<u8>>> {
    let Some(blob) = release.devicetree else { return Ok(None) };
    let tree = whole(source, &blob, "the device tree", spent)?;
    devicetree::check(&tree)?;
    Ok(Some(tree))
}

/// The knowledge of a caller before it looks, so that a server need not send it again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Documents whose offers the caller has, proven.
    pub documents: &'a [Digest],
    /// The document of an earlier look.
    pub tagged: Option<&'a Tagged>,
    /// The time.
    pub now: DateTime<Utc>,
}

/// A server or a file with releases.
pub trait Source {
    /// Digest of the document that names the current release, by one request where the server permits that. With the same
    /// digest the offer is the same as before. A document that is known is not fetched, if the server can name it in a
    /// cheaper way.
    fn look(&mut self, known: &Known<'_>) -> Result<Digest>;

    /// Hands over the document of the last look, where the caller has its bytes.
    fn recall(&mut self, _document: &[u8]) {}

    /// The document of the last look and its `ETag`, for the next look.
    fn tagged(&self) -> Option<Tagged> {
        None
    }

    /// Requests that the server still permits, by its last answer with a limit.
    fn ratelimit_remaining(&self) -> Option<u64> {
        None
    }

    /// The release that was looked at, or is now, and its signatures; no image is fetched.
    fn offer(&mut self, architecture: Architecture) -> Result<Offer>;

    /// Further signatures of the release of the last offer, from the next place that has some; `None` after the last place.
    fn more_signatures(&mut self) -> Option<Vec<Signature>> {
        None
    }

    /// The cause of missing signatures, if it is another one than an unsigned release: a place that failed, a signature that
    /// cannot be read, a signature of the index.
    fn hindrance(&mut self) -> Option<Error> {
        None
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

    /// The same to fetch parts of it, by requests that follow; `None` where nothing is gained by that.
    fn parts(&mut self, _blob: &Blob) -> Result<Option<Box<dyn Parts>>> {
        Ok(None)
    }

    /// True if images come over a network, so that the memory of downloads concerns them.
    fn is_remote(&self) -> bool {
        true
    }

    /// The last image had wrong bytes. True if mirrors gave some of them: these are not asked again, so that another attempt
    /// makes sense.
    fn distrust(&mut self) -> bool {
        false
    }

    /// The same for an image that has begun, from `start` or from its first byte; the body has the position.
    fn resume(&mut self, blob: &Blob, _start: &Start) -> Result<Box<dyn Body>> {
        self.open(blob)
    }
}
