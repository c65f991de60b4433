//! Signatures as cosign keeps them in a registry: one manifest at the tag `sha256-<hex>.sig`, each layer a payload, with the
//! signature over it as an annotation.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{json, limits};
use crate::release::release::{Blob, Manifest};
use crate::trust::cosign;
use crate::trust::signature::Signature;

/// Layer with a payload.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// On such a layer: base64 of the signature over it.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Where the signatures of `subject` are.
#[must_use]
pub fn tag(subject: Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

/// The signatures of `subject` in the manifest `raw` from its tag. A layer that is none, for instance by a key that is not
/// Ed25519, is left out: an account that can add to a registry must not be able to stop an update that way.
///
/// `fetch` gives the bytes of a payload, which it need not check.
///
/// # Errors
/// 65 when `raw` is not a manifest, and whatever keeps `fetch` from answering.
pub fn signatures(
    raw: &[u8],
    subject: Digest,
    mut fetch: impl FnMut(Blob, &str) -> Result<Vec<u8>>,
) -> Result<Vec<Signature>> {
    let what = format!("cosign signatures of {subject}");
    let mut payloads: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut signatures = vec![];
    for (blob, bytes) in layers(raw, &what)? {
        let mut read = || -> Result<Signature> {
            // Several keys sign the same payload.
            let payload = match payloads.get(&blob.digest) {
                Some(known) => known.clone(),
                None => fetch(blob, &what)?,
            };
            if Digest::of(&payload) != blob.digest {
                return Err(malformed(&what, "the digest of a payload does not match"));
            }
            payloads.insert(blob.digest, payload.clone());
            match cosign::subject(&payload)? {
                named if named == subject => Ok(Signature { key_id: None, bytes, payload: Some(payload) }),
                _ => Err(malformed(&what, "a payload is for another manifest")),
            }
        };
        match read() {
            Ok(signature) => signatures.push(signature),
            Err(e) if e.exit() == Exit::Data || e.reason == Reason::NotFound => log::warn!("ignoring a signature: {e}"),
            Err(e) => return Err(e),
        }
    }
    Ok(signatures)
}

/// Each payload with its signature.
pub(crate) fn layers(raw: &[u8], what: &str) -> Result<Vec<(Blob, [u8; 64])>> {
    let manifest: Manifest = json::parse(raw, what)?;
    manifest.check()?;
    let mut found = vec![];
    for layer in manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD_TYPE) {
        let bytes = layer.annotations.get(SIGNATURE).and_then(|text| BASE64.decode(text).ok()?.try_into().ok());
        match bytes {
            Some(_) if layer.size > limits::COSIGN_PAYLOAD_BYTES => log::warn!(
                "ignoring a signature: {what}: a payload has more than the limit of {} bytes",
                limits::COSIGN_PAYLOAD_BYTES
            ),
            Some(bytes) => found.push((Blob { digest: layer.digest.parse()?, size: layer.size }, bytes)),
            None => log::warn!("ignoring a signature: {what}: it does not have the 64 bytes of Ed25519"),
        }
    }
    Ok(found)
}

fn malformed(what: &str, why: &str) -> Error {
    Error::new(Reason::MalformedSignature, format!("{what}: {why}"))
}
