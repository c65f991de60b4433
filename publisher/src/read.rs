//! A release published under a reference, read with the credentials of the publisher and chosen as a device chooses.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::registry::Registry;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Exit, Reason, Result};
use kubesolo_update::base::{json, limits, text};
use kubesolo_update::release::release::{
    Architecture, Blob, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE, Descriptor, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE,
    Release, SIGNATURE_TYPE,
};
use kubesolo_update::source::artifact::{Index, SIGNATURE_BYTES, attached, may_be_signature};
use kubesolo_update::source::cosign;
use kubesolo_update::trust::signature::Signature;

/// A published release.
pub(super) struct Found {
    /// Of what the reference names: an index, or the one manifest.
    pub(super) digest: Digest,
    /// Its bytes.
    pub(super) raw: Bytes,
    /// Its media type.
    pub(super) media_type: &'static str,
    /// True if it is an index.
    pub(super) is_index: bool,
    /// One for each architecture, at least one.
    pub(super) manifests: Vec<Manifest>,
}

/// The manifest of one architecture: what is signed.
pub(super) struct Manifest {
    pub(super) release: Release,
    pub(super) raw: Bytes,
}

/// Reads what the reference of `registry` names. The tag is looked up once; the rest goes by digest.
pub(super) fn read(registry: &Registry) -> Result<Found> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
    }
    let name = registry.digest().or(registry.tag()).ok_or_else(|| {
        let message = format!("{} has neither tag nor digest", registry.name());
        Error::new(Reason::Usage, message).remedy("Write HOST[:PORT]/PATH:TAG or …/PATH@sha256:DIGEST.")
    })?;
    let raw = needed(registry, name)?;
    let origin = format!("{} of {}", text::escape(name), registry.name());
    let digest = Digest::of(&raw);
    let kind: Kind = json::parse(&raw, &origin)?;
    // Without a type here it is OCI's; the parsers below refuse any other.
    let media_type = match (kind.media_type.as_deref(), kind.manifests.is_some()) {
        (Some(DOCKER_INDEX_TYPE), true) => DOCKER_INDEX_TYPE,
        (Some(DOCKER_MANIFEST_TYPE), false) => DOCKER_MANIFEST_TYPE,
        (_, true) => OCI_INDEX_TYPE,
        (_, false) => OCI_MANIFEST_TYPE,
    };
    if kind.manifests.is_none() {
        let manifests = vec![Manifest { release: Release::from_oci_manifest(&raw)?, raw: raw.clone() }];
        return Ok(Found { digest, raw, media_type, is_index: false, manifests });
    }
    let index = Index::parse(&raw, &origin, limits::INDEX_ENTRIES)?;
    let mut manifests = vec![];
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        let Some(entry) = index.choose(architecture) else { continue };
        let digest: Digest = entry.digest.parse()?;
        let raw = needed(registry, &entry.digest)?;
        let release = Release::from_oci_manifest(&raw).map_err(|e| e.context(digest))?;
        if release.architecture != architecture {
            let message = format!(
                "{digest} is for {architecture} in the index, but for {} in its manifest",
                release.architecture
            );
            return Err(Error::new(Reason::WrongArchitecture, message));
        }
        manifests.push(Manifest { release, raw });
    }
    if manifests.is_empty() {
        let message = format!("{origin} has a manifest for neither amd64 nor arm64");
        return Err(Error::new(Reason::NoSuchArchitecture, message));
    }
    Ok(Found { digest, raw, media_type, is_index: true, manifests })
}

/// The architectures that devices find under a tag; none if there is no such index.
pub(super) fn architectures(registry: &Registry, tag: &str) -> Result<Vec<Architecture>> {
    let Some(raw) = registry.manifest(tag)? else { return Ok(vec![]) };
    let Ok(index) = Index::parse(&raw, tag, limits::INDEX_ENTRIES) else { return Ok(vec![]) };
    Ok([Architecture::Amd64, Architecture::Arm64].into_iter().filter(|a| index.choose(*a).is_some()).collect())
}

/// The signatures attached to a manifest. Other attachments are left out with a warning, as a device leaves them out.
pub(super) fn signatures(registry: &Registry, subject: Digest) -> Result<Vec<Signature>> {
    let mut signatures = vec![];
    for digest in attachments(registry, subject)? {
        let mut add = || -> Result<()> {
            let what = format!("signature {}", text::escape(&digest));
            for (blob, key_id) in attached(&needed(registry, &digest)?, subject, &what)? {
                let bytes = registry.blob(&blob, SIGNATURE_BYTES)?;
                let bytes = bytes
                    .try_into()
                    .map_err(|_| Error::new(Reason::MalformedSignature, format!("{what} ends too early")))?;
                signatures.push(Signature { key_id, bytes, payload: None });
            }
            Ok(())
        };
        match add() {
            Err(e) if e.exit() == Exit::Data || e.reason == Reason::NotFound => log::warn!("ignoring a signature: {e}"),
            other => other?,
        }
    }
    if let Some(raw) = registry.manifest(&cosign::tag(subject))? {
        let fetch = |blob: Blob, _: &str| registry.blob(&blob.digest, limits::COSIGN_PAYLOAD_BYTES);
        signatures.extend(cosign::signatures(&raw, subject, fetch)?);
    }
    Ok(signatures)
}

/// Digests of the manifests that may be signatures of `subject`.
pub(super) fn attachments(registry: &Registry, subject: Digest) -> Result<Vec<String>> {
    let mut entries = registry.referrers(&subject, SIGNATURE_TYPE)?;
    if entries.is_empty()
        && let Some(raw) = registry.manifest(&fallback_tag(&subject))?
    {
        let listed: Vec<Descriptor> = Index::parse(&raw, "the list of referrers", limits::REFERRERS)?.manifests;
        entries = listed
            .into_iter()
            .filter(|entry| may_be_signature(entry.artifact_type.as_deref()))
            .map(|entry| entry.digest)
            .collect();
    }
    entries.truncate(limits::SIGNATURES);
    Ok(entries)
}

/// Where referrers of `subject` are listed in a registry that does not list them itself (OCI 1.1).
pub(super) fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

pub(super) fn needed(registry: &Registry, name: &str) -> Result<Bytes> {
    registry.manifest(name)?.ok_or_else(|| {
        let message = format!("{} has no {}", registry.name(), text::escape(name));
        Error::new(Reason::NotFound, message)
            .remedy("Compare the reference with the published one; if it is right, log in to the registry.")
    })
}
