//! Where releases come from. Each kind of source is one file; all that an update sees of it is [`Source`].

pub mod artifact;
pub mod bundle;
pub mod cosign;
mod guarded;
pub mod http;
pub mod oci;
pub mod reference;
pub(crate) mod statement;

use bytes::Bytes;

use crate::config::{Config, DEFAULT_TAG, Origin};
use crate::digest::Digest;
use crate::error::{Error, Exit, Result};
use crate::fetch::FetchOptions;
use crate::freshness;
use crate::release::{Architecture, Blob, Image, Release};
use crate::trust::{FileSignatures, KeySet, Signature};

pub use guarded::Guarded;

/// What a source has for one architecture. The metadata is parsed strictly, and proven only once
/// [`KeySet::verify`](crate::trust::KeySet::verify) accepts `signed` with `signatures`.
#[derive(Clone, Debug)]
pub struct Offer {
    /// `signed`, parsed.
    pub release: Release,
    /// Of `signed`: the identity of the release.
    pub digest: Digest,
    /// The exact bytes that the signatures are over.
    pub signed: Vec<u8>,
    /// Media type of `signed`.
    pub signed_type: String,
    /// All that were published; proven is none.
    pub signatures: Vec<Signature>,
    /// What an old server has instead; `signed` is a mere claim then.
    pub file_signatures: Option<FileSignatures>,
    /// What was asked for, for messages: `host/repository:tag`.
    pub origin: String,
}

/// The source that the settings name.
///
/// # Errors
/// 78 when they name none, or one that cannot be used.
pub fn open(config: &Config) -> Result<Box<dyn Source>> {
    let options = FetchOptions {
        registry_ca: config.registry_ca.clone(),
        plain_http: config.plain_http.clone(),
        ..FetchOptions::default()
    };
    match &config.source {
        Some(Origin::Oci(reference)) => {
            let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
            Ok(Box::new(oci::OciSource::new(&options, reference, config.tag.as_deref(), default_tag)?))
        }
        Some(Origin::Http(server)) => {
            Ok(Box::new(http::HttpSource::new(&options, server, config.legacy_file_signatures)?))
        }
        Some(Origin::Bundle(file)) => {
            let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
            Ok(Box::new(bundle::BundleSource::open(file, config.tag.as_deref(), default_tag)?))
        }
        None => Err(Error::new(Exit::Config, "no-source", "no source of releases is named")
            .remedy("Give --registry host/path, --server URL or --bundle FILE, or set registry= or server= in the configuration.")),
    }
}

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
    fn freshness(&mut self) -> Result<Option<freshness::Published>> {
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

/// An image on its way. Its size is enforced here; its digest is not: whoever takes the bytes has to hash them.
pub trait Body {
    /// The next bytes, or `None` after exactly as many as the blob has. Fewer or more are an error, the latter before the
    /// first surplus byte is returned.
    fn chunk(&mut self) -> Result<Option<Bytes>>;
}

/// Refuses what was made for another architecture.
pub(crate) fn made_for(architecture: Architecture, release: &Release, origin: &str, remedy: &str) -> Result<()> {
    if release.architecture == architecture {
        return Ok(());
    }
    let message = format!("{origin} is for {}, not for {architecture}", release.architecture);
    Err(Error::new(Exit::NotAllowed, "wrong-architecture", message).remedy(remedy))
}
