//! Signatures as cosign 2 keeps them in a registry: one manifest at the tag `sha256-<hex>.sig`, each layer a payload, with
//! the signature over it as an annotation. cosign 3 keeps them so with `--new-bundle-format=false`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::{json, limits};
use crate::release::release::{Descriptor, Manifest};
use crate::source::artifact::malformed_signature;
use crate::trust::signature::{Payload, Signature};
use crate::trust::{cosign, sigstore};

/// Layer with a payload.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// On such a layer: base64 of the signature over it.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// On such a layer: the certificate of a signer without a key.
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";

/// Where the signatures of `subject` are.
#[must_use]
pub fn tag(subject: Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

/// The signatures of `subject` in the manifest `raw` from its tag: for each layer a signature, or why it has none. A signature of
/// another manifest is `None`.
///
/// `fetch` gives the bytes of a payload, at most as many as its second argument.
///
/// # Errors
/// 65 when `raw` is not a manifest.
pub fn signatures(
    raw: &[u8],
    subject: Digest,
    mut fetch: impl FnMut(Digest, u64, &str) -> Result<Vec<u8>>,
) -> Result<Vec<Result<Option<Signature>>>> {
    let what = format!("cosign signatures of {subject}");
    let mut payloads: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut read = |layer: Result<Layer>| {
        let Layer { payload: digest, signature } = layer?;
        // Several keys sign the same payload.
        let payload = match payloads.get(&digest) {
            Some(known) => known.clone(),
            None => fetch(digest, limits::COSIGN_PAYLOAD_BYTES, &what)?,
        };
        payloads.insert(digest, payload.clone());
        if cosign::subject(&payload)? != subject {
            log::warn!("ignoring a signature: {what}: a payload is for another manifest");
            return Ok(None);
        }
        Ok(Some(Signature { key_id: None, bytes: signature, payload: Some(Payload::Simple(payload)) }))
    };
    Ok(layers(raw, &what)?.into_iter().map(&mut read).collect())
}

/// A layer with a signature.
pub(crate) struct Layer {
    payload: Digest,
    signature: [u8; 64],
}

/// Each payload with its signature, or why it has none.
pub(crate) fn layers(raw: &[u8], what: &str) -> Result<Vec<Result<Layer>>> {
    let manifest: Manifest = json::parse(raw, what)?;
    manifest.check()?;
    let payloads = manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD_TYPE);
    Ok(payloads.map(|layer| Layer::of(layer, what)).collect())
}

impl Layer {
    fn of(layer: &Descriptor, what: &str) -> Result<Self> {
        if layer.annotations.contains_key(CERTIFICATE) {
            return Err(sigstore::other_form("it is made with a certificate (keyless), not with a key"));
        }
        if layer.size > limits::COSIGN_PAYLOAD_BYTES {
            return Err(limits::exceeded(what, format_args!("{} bytes in a payload", limits::COSIGN_PAYLOAD_BYTES)));
        }
        let text = layer.annotations.get(SIGNATURE);
        let bytes = text.and_then(|text| BASE64.decode(text).ok());
        let bytes = bytes.ok_or_else(|| malformed_signature(what, "a payload has no signature"))?;
        Ok(Self { payload: layer.digest.parse()?, signature: sigstore::ed25519(bytes)? })
    }
}
