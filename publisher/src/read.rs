//! A release published under a reference, read with the credentials of the publisher and chosen as a device chooses.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::registry::Registry;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Exit, Reason, Result};
use kubesolo_update::base::{json, limits, text};
use kubesolo_update::release::release::{
    Architecture, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, Release,
};
use kubesolo_update::source::artifact::Index;
use kubesolo_update::source::signatures::{Found, Search};
use kubesolo_update::trust::signature::Signature;

/// A published release.
pub(super) struct Published {
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

/// Reads the tag or digest in the reference of `registry`. The tag is looked up once; the rest goes by digest.
pub(super) fn read(registry: &Registry) -> Result<Published> {
    let name = registry.digest().or(registry.tag()).ok_or_else(|| {
        let message = format!("{} has neither tag nor digest", registry.name());
        Error::new(Reason::Usage, message).remedy("Write HOST[:PORT]/PATH:TAG or …/PATH@sha256:DIGEST.")
    })?;
    complete(registry, name, needed(registry, name)?)
}

/// Reads another tag of the repository; `None` if it does not exist.
pub(super) fn tagged(registry: &Registry, tag: &str) -> Result<Option<Published>> {
    registry.manifest(tag)?.map(|raw| complete(registry, tag, raw)).transpose()
}

/// Follows an index or manifest to the manifest of each architecture.
fn complete(registry: &Registry, name: &str, raw: Bytes) -> Result<Published> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
    }
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
        return Ok(Published { digest, raw, media_type, is_index: false, manifests });
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
    Ok(Published { digest, raw, media_type, is_index: true, manifests })
}

/// All signatures attached to a manifest. One that cannot be read is left out with a warning, as a device leaves it out.
pub(super) fn signatures(registry: &Registry, subject: Digest) -> Result<Vec<Signature>> {
    Ok(attachments(registry, subject)?.into_iter().flat_map(|found| found.signatures).collect())
}

/// All manifests with signatures of `subject`.
pub(super) fn attachments(registry: &Registry, subject: Digest) -> Result<Vec<Found>> {
    let mut search = Search::new(subject);
    let found: Vec<Found> = std::iter::from_fn(|| search.next(registry)).collect();
    match search.hindrance() {
        Some(e) if found.is_empty() && e.exit() == Exit::Unavailable && e.reason != Reason::NotFound => Err(e),
        _ => Ok(found),
    }
}

pub(super) fn needed(registry: &Registry, name: &str) -> Result<Bytes> {
    registry.manifest(name)?.ok_or_else(|| {
        let message = format!("{} has no {}", registry.name(), text::escape(name));
        Error::new(Reason::NotFound, message)
            .remedy("Compare the reference with the published one; if it is right, log in to the registry.")
    })
}
