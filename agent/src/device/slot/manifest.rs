//! `manifest.json` of a slot: which release it holds, with everything that is needed to prove it again without a network.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::DAMAGED_REMEDY;
use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};
use crate::release::latest::Latest;
use crate::release::offer::Offer;
use crate::release::release::{
    Architecture, Blob, DOCKER_MANIFEST_TYPE, Image, LATEST_JSON_TYPE, OCI_MANIFEST_TYPE, Release,
};
use crate::state::identity::Identity;
use crate::trust::signature::{FileSignatures, Payload, Signature};

/// The schema that is written. A newer one is refused.
const SCHEMA: u32 = 1;
/// Longest `manifest.json`, in bytes: a manifest of the largest size and the payloads of all signatures in base64, 32
/// signatures, and the rest.
pub(super) const MANIFEST_JSON_BYTES: u64 = limits::MANIFEST_BYTES.div_ceil(3) * 4
    + limits::SIGNATURES as u64 * limits::COSIGN_PAYLOAD_BYTES.div_ceil(3) * 4
    + 16 * 1024;

/// Which release a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotManifest {
    /// SemVer.
    pub version: semver::Version,
    /// Of `signed`: the identity of the release.
    pub digest: Digest,
    /// The exact bytes that the signatures are over.
    pub signed: Vec<u8>,
    /// Media type of `signed`.
    pub signed_type: String,
    /// As they were published. Not proven by being here: the slot may have been written by anybody.
    pub signatures: Vec<Signature>,
    /// Signatures of the images from an old server; `signed` is only a claim then.
    pub file_signatures: Option<FileSignatures>,
    /// `vmlinuz`
    pub kernel: Blob,
    /// `kubesolo-os.gz`
    pub initramfs: Blob,
    /// When the slot was completed, by the device's clock; whole seconds.
    pub written_at: DateTime<Utc>,
    /// True if kernel arguments or a device tree of the release are in the slot. An agent before 0.2 writes none, whatever the
    /// release has.
    pub extras: bool,
}

/// The JSON. All members but `signed` follow from `signed`. They are there for people and scripts, and the agent compares them.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    version: String,
    release: Digest,
    kernel: Blob,
    initramfs: Blob,
    written_at: String,
    signed_type: String,
    signed: String,
    signatures: Vec<SignatureDocument>,
    /// Signatures of cosign 3. Agents before 0.2 ignore them: the release is unsigned for such an agent, unless it has another
    /// signature too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    statements: Vec<StatementDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file_signatures: Option<FileSignaturesDocument>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    extras: bool,
}

#[derive(Serialize, Deserialize)]
struct FileSignaturesDocument {
    kernel: Vec<SignatureDocument>,
    initramfs: Vec<SignatureDocument>,
}

#[derive(Serialize, Deserialize)]
struct SignatureDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StatementDocument {
    signature: String,
    statement: String,
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

impl SlotManifest {
    /// For a slot that was filled with what is on offer; its images have these sizes.
    #[must_use]
    pub fn new(offer: &Offer, [kernel, initramfs]: [Blob; 2], written_at: DateTime<Utc>) -> Self {
        Self {
            version: offer.release.version.clone(),
            digest: offer.release.digest,
            signed: offer.signed.clone(),
            signed_type: offer.signed_type.clone(),
            signatures: offer.signatures.clone(),
            file_signatures: offer.file_signatures.clone(),
            kernel,
            initramfs,
            written_at,
            extras: offer.release.has_extras(),
        }
    }

    /// Identity of the release.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let images = Identity {
            release: self.digest,
            kernel: self.kernel.digest,
            initramfs: self.initramfs.digest,
            extras: None,
        };
        // The signed bytes were read before: the manifest was compared with them.
        if self.extras { self.release().map_or(images, |release| release.identity()) } else { images }
    }

    /// True if the release has kernel arguments or a device tree, and the slot lacks them: an older agent filled it.
    #[must_use]
    pub fn lacks_extras(&self) -> bool {
        !self.extras && self.release().is_ok_and(|release| release.has_extras())
    }

    /// All that the release says about itself.
    pub fn release(&self) -> Result<Release> {
        match self.signed_type.as_str() {
            OCI_MANIFEST_TYPE | DOCKER_MANIFEST_TYPE if self.file_signatures.is_none() => {
                Release::from_oci_manifest(&self.signed)
            }
            LATEST_JSON_TYPE => {
                let latest = Latest::parse(&self.signed)?;
                let release = match &self.file_signatures {
                    None => latest.release()?,
                    Some(_) => latest.claimed(Architecture::current())?,
                };
                Ok(Release {
                    kernel: sized(release.kernel, self.kernel)?,
                    initramfs: sized(release.initramfs, self.initramfs)?,
                    ..release
                })
            }
            other => Err(malformed(format_args!("unknown signed_type \"{}\"", text::escape(other)))),
        }
    }

    /// The offer as it would be if the server still had this release.
    pub fn offer(self, origin: String) -> Result<Offer> {
        let release = self.release()?;
        let Self { signed, signed_type, signatures, file_signatures, .. } = self;
        Ok(Offer { release, signed, signed_type, signatures, file_signatures, origin })
    }

    /// The bytes of `manifest.json`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            schema: SCHEMA,
            version: self.version.to_string(),
            release: self.digest,
            kernel: self.kernel,
            initramfs: self.initramfs,
            written_at: self.written_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            signed_type: self.signed_type.clone(),
            signed: BASE64.encode(&self.signed),
            signatures: documents(&self.signatures),
            statements: self.signatures.iter().filter_map(StatementDocument::of).collect(),
            file_signatures: self.file_signatures.as_ref().map(|files| FileSignaturesDocument {
                kernel: documents(&files.kernel),
                initramfs: documents(&files.initramfs),
            }),
            extras: self.extras,
        };
        let mut bytes = serde_json::to_vec_pretty(&document).expect("strings and numbers only");
        bytes.push(b'\n');
        bytes
    }

    /// Reads `manifest.json`, and checks that it agrees with the signed bytes in it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map_err(|error| match error.remedy.as_str() {
            "" => error.remedy("Run `kubesolo-update apply`, which fills the slot again unless it is the booted one."),
            _ => error,
        })
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MANIFEST_JSON_BYTES {
            return Err(limits::exceeded("manifest.json", format_args!("{MANIFEST_JSON_BYTES} bytes")));
        }
        let Schema { schema } = json::parse(bytes, "manifest.json")?;
        if schema != SCHEMA {
            let message = format!("manifest.json has schema {schema}, and this agent supports only {SCHEMA}");
            return Err(Error::new(Reason::SlotNewerSchema, message).remedy(
                "Another version of the agent wrote it: use that version, or run `kubesolo-update apply` \
                    again.",
            ));
        }
        let document: Document = json::parse(bytes, "manifest.json")?;
        let signatures = [read(document.signatures)?, read(document.statements)?].concat();
        let manifest = Self {
            version: crate::release::release::version(&document.version)?,
            digest: document.release,
            signed: BASE64.decode(&document.signed).map_err(|_| malformed("signed is not base64"))?,
            signed_type: document.signed_type,
            signatures: within_limit(signatures)?,
            file_signatures: document
                .file_signatures
                .map(|files| {
                    let read = |documents| within_limit(read(documents)?);
                    Ok(FileSignatures { kernel: read(files.kernel)?, initramfs: read(files.initramfs)? })
                })
                .transpose()?,
            kernel: document.kernel,
            initramfs: document.initramfs,
            written_at: DateTime::parse_from_rfc3339(&document.written_at)
                .map_err(|_| malformed("written_at is not a time in the form of RFC 3339"))?
                .to_utc(),
            extras: document.extras,
        };
        let release = manifest.release()?;
        let same = Digest::of(&manifest.signed) == manifest.digest
            && release.version == manifest.version
            && release.kernel.is(&manifest.kernel)
            && release.initramfs.is(&manifest.initramfs);
        if same { Ok(manifest) } else { Err(malformed("it differs from the signed bytes in it")) }
    }
}

fn documents(signatures: &[Signature]) -> Vec<SignatureDocument> {
    signatures.iter().filter_map(SignatureDocument::of).collect()
}

fn read<T>(documents: Vec<T>) -> Result<Vec<Signature>>
where
    Signature: TryFrom<T, Error = Error>,
{
    documents.into_iter().map(Signature::try_from).collect()
}

fn within_limit(signatures: Vec<Signature>) -> Result<Vec<Signature>> {
    match signatures.len() {
        0..=limits::SIGNATURES => Ok(signatures),
        _ => Err(limits::exceeded("manifest.json: signatures", limits::SIGNATURES)),
    }
}

fn signature_bytes(document: &str) -> Result<[u8; 64]> {
    let bytes = BASE64.decode(document).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| malformed("a signature is not 64 bytes in base64"))
}

impl SignatureDocument {
    /// `None` for a signature that has its own form, [`StatementDocument`].
    fn of(signature: &Signature) -> Option<Self> {
        let payload = match &signature.payload {
            None => None,
            Some(Payload::Simple(payload)) => Some(BASE64.encode(payload)),
            Some(Payload::Statement(_)) => return None,
        };
        Some(Self { key_id: signature.key_id.clone(), signature: BASE64.encode(signature.bytes), payload })
    }
}

impl StatementDocument {
    fn of(signature: &Signature) -> Option<Self> {
        let Some(Payload::Statement(statement)) = &signature.payload else { return None };
        Some(Self { signature: BASE64.encode(signature.bytes), statement: BASE64.encode(statement) })
    }
}

impl TryFrom<StatementDocument> for Signature {
    type Error = Error;

    fn try_from(document: StatementDocument) -> Result<Self> {
        let statement = BASE64.decode(&document.statement).map_err(|_| malformed("a statement is not base64"))?;
        let payload = Some(Payload::Statement(statement));
        Ok(Self { key_id: None, bytes: signature_bytes(&document.signature)?, payload })
    }
}

impl TryFrom<SignatureDocument> for Signature {
    type Error = Error;

    fn try_from(document: SignatureDocument) -> Result<Self> {
        let payload = document.payload.map(|payload| BASE64.decode(payload)).transpose();
        let payload = payload.map_err(|_| malformed("the payload of a signature is not base64"))?;
        let bytes = signature_bytes(&document.signature)?;
        Ok(Self { key_id: document.key_id, bytes, payload: payload.map(Payload::Simple) })
    }
}

/// An image of a release that does not say how large it is, as it lies in the slot.
fn sized(image: Image, here: Blob) -> Result<Image> {
    if image.is(&here) { Ok(here.into()) } else { Err(malformed("it differs from the signed bytes in it")) }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::MalformedSlotManifest, format!("manifest.json is not valid: {why}")).remedy(DAMAGED_REMEDY)
}
