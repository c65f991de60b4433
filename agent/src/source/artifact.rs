//! The common part of registries and OCI image layouts: indexes, lists of referrers, and attachments of a manifest.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};
use crate::release::offer::{Offer, made_for};
use crate::release::release::{self, Architecture, Descriptor, Release};
use crate::trust::signature::Signature;

/// A manifest or an index as it was read.
pub(crate) struct Document {
    pub(crate) raw: Vec<u8>,
    /// Its type as the server states it; its own statement counts more.
    pub(crate) said: Option<String>,
}

/// The release for one architecture, and how it was found.
pub(crate) struct Chosen {
    pub(crate) release: Release,
    pub(crate) raw: Vec<u8>,
    pub(crate) media_type: &'static str,
    /// Of the index that led to it, if one did.
    pub(crate) index: Option<Digest>,
}

impl Chosen {
    /// The offer that it is, with the signatures that were found of its manifest.
    pub(crate) fn offer(self, signatures: Vec<Signature>, origin: String) -> Offer {
        Offer {
            release: self.release,
            signed: self.raw,
            signed_type: self.media_type.into(),
            signatures,
            file_signatures: None,
            origin,
        }
    }
}

/// Finds the release for `architecture` in what a name stands for: an index, or the manifest itself. `fetch` gives the
/// manifest that an entry of the index describes, of its size and digest.
pub(crate) fn choose(
    document: Document,
    architecture: Architecture,
    origin: &str,
    fetch: impl FnOnce(&Descriptor, &str) -> Result<Document>,
) -> Result<Chosen> {
    let mut media_type = document_type(&document, origin)?;
    let (mut raw, mut index) = (document.raw, None);
    if is_index(media_type) {
        let entries = Index::parse(&raw, origin, limits::INDEX_ENTRIES)?;
        let entry = entries.choose(architecture).ok_or_else(|| {
            let message = format!("{origin} has nothing for {architecture}, only for {}", entries.platforms());
            Error::new(Reason::NoSuchArchitecture, message)
                .remedy(format!("Publish the release for {architecture} too, or choose another tag."))
        })?;
        let what = format!("manifest for {architecture} of {origin}");
        let manifest = fetch(entry, &what)?;
        media_type = document_type(&manifest, &what)?;
        index = Some(Digest::of(&raw));
        raw = manifest.raw;
    }
    let release = Release::from_oci_manifest(&raw).map_err(|e| e.context(origin))?;
    let remedy = "Publish an index with one manifest for each architecture, or choose another tag.";
    made_for(architecture, &release, origin, remedy)?;
    Ok(Chosen { release, raw, media_type, index })
}

/// The error for an index that cosign signed without its manifests, cosign's default.
pub(crate) fn index_signed_alone(origin: &str, index: Digest, manifest: Digest) -> Error {
    let message = format!("{origin}: cosign signed the index {index} alone, not the release in it {manifest}");
    Error::new(Reason::SignatureOfIndex, message)
        .remedy("Sign the manifest of each architecture: `cosign sign --recursive`.")
}

/// The type of a document: the one that it has itself, else by its members. Servers give documents without a type in any
/// Content-Type, which only distinguishes OCI from Docker. Types are compared without regard to case, but for a manifest that has its own:
/// its bytes are signed, and every agent reads them.
fn document_type(document: &Document, what: &str) -> Result<&'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let typed: Typed = json::parse(&document.raw, what)?;
    let said = document.said.as_deref().unwrap_or_default();
    let docker = |kind: &str| said.eq_ignore_ascii_case(kind);
    let found = match (typed.media_type.as_deref(), typed.manifests.is_some(), typed.layers.is_some()) {
        (Some(kind), ..) if kind.eq_ignore_ascii_case(release::OCI_INDEX_TYPE) => release::OCI_INDEX_TYPE,
        (Some(kind), ..) if kind.eq_ignore_ascii_case(release::DOCKER_INDEX_TYPE) => release::DOCKER_INDEX_TYPE,
        (Some(release::OCI_MANIFEST_TYPE), ..) => release::OCI_MANIFEST_TYPE,
        (Some(release::DOCKER_MANIFEST_TYPE), ..) => release::DOCKER_MANIFEST_TYPE,
        (None, true, false) if docker(release::DOCKER_INDEX_TYPE) => release::DOCKER_INDEX_TYPE,
        (None, true, false) => release::OCI_INDEX_TYPE,
        (None, false, true) if docker(release::DOCKER_MANIFEST_TYPE) => release::DOCKER_MANIFEST_TYPE,
        (None, false, true) => release::OCI_MANIFEST_TYPE,
        (other, ..) => {
            let other = text::escape(other.unwrap_or(said));
            let message = format!("{what} is neither a manifest nor an index, but \"{other}\"");
            return Err(Error::new(Reason::MalformedManifest, message));
        }
    };
    Ok(found)
}

/// An OCI index or a Docker manifest list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u64,
    media_type: Option<String>,
    #[serde(deserialize_with = "release::null_is_empty")]
    /// Its entries.
    pub manifests: Vec<Descriptor>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

impl Index {
    /// Reads an index of at most `entries` entries; `what` names it in errors.
    ///
    /// # Errors
    /// 65 when it is not an index, also when it can be read as a manifest.
    pub fn parse(raw: &[u8], what: &str, entries: usize) -> Result<Self> {
        let index: Self = json::parse(raw, what)?;
        let known = index.media_type.as_deref().is_none_or(is_index);
        // One document that can be read as manifest and as index is two documents.
        if index.schema_version != 2 || !known || index.config.is_some() || index.layers.is_some() {
            return Err(Error::new(Reason::MalformedIndex, format!("{what} is not a valid index")));
        }
        if index.manifests.len() > entries {
            return Err(limits::exceeded(what, format_args!("{entries} entries")));
        }
        Ok(index)
    }

    /// The first entry that this device can run, as OCI has it. Entries of no platform (attestations are `unknown`) are
    /// none of ours; a variant is only accepted if every processor of the architecture has it.
    #[must_use]
    pub fn choose(&self, architecture: Architecture) -> Option<&Descriptor> {
        let variants: &[&str] = match architecture {
            Architecture::Amd64 => &["", "v1"],
            Architecture::Arm64 => &["", "v8"],
        };
        self.manifests.iter().find(|entry| {
            is_one_of(&entry.media_type, &[release::OCI_MANIFEST_TYPE, release::DOCKER_MANIFEST_TYPE])
                && entry.platform.as_ref().is_some_and(|p| {
                    p.os == "linux"
                        && p.architecture == architecture.to_string()
                        && variants.contains(&p.variant.as_deref().unwrap_or_default())
                })
        })
    }

    pub(crate) fn platforms(&self) -> String {
        let platforms = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let platforms = platforms.filter(|p| !p.architecture.is_empty());
        let variant = |name: &str| if name.is_empty() { String::new() } else { format!("/{name}") };
        let name = |p: &release::Platform| {
            format!("{}/{}{}", p.os, p.architecture, variant(p.variant.as_deref().unwrap_or_default()))
        };
        let names: Vec<String> = platforms.map(name).collect();
        if names.is_empty() { "no platform at all".into() } else { text::escape(&names.join(", ")) }
    }
}

/// Media types have no case.
fn is_one_of(kind: &str, known: &[&str]) -> bool {
    known.iter().any(|one| kind.eq_ignore_ascii_case(one))
}

fn is_index(kind: &str) -> bool {
    is_one_of(kind, &[release::OCI_INDEX_TYPE, release::DOCKER_INDEX_TYPE])
}

/// An Ed25519 signature, in bytes.
pub const SIGNATURE_BYTES: u64 = 64;

/// The key that annotations name, if they name one as they should.
pub(crate) fn key_id(annotations: &BTreeMap<String, String>) -> Option<String> {
    let named = annotations.get(release::KEY_ID)?;
    (named.len() == 16 && named.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then(|| named.clone())
}

/// The signature whose 64 bytes are in a layer.
pub(crate) fn signature(bytes: Vec<u8>, key_id: Option<String>, what: &str) -> Result<Signature> {
    let bytes = bytes.try_into().map_err(|_| malformed_signature(what, "it does not have 64 bytes"))?;
    Ok(Signature { key_id, bytes, payload: None })
}

/// The error of a signature that cannot be one.
pub(crate) fn malformed_signature(what: &str, why: &str) -> Error {
    Error::new(Reason::MalformedSignature, format!("{what}: {why}"))
}

pub(crate) fn check_digest(bytes: &[u8], expected: Digest, what: &str) -> Result<()> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    let message = format!("{what}: the digest is {found}, not {expected}");
    Err(Error::new(Reason::DigestMismatch, message)
        .remedy("The registry or the network changed the bytes: publish again, or find out who changed them."))
}

pub(crate) fn check_size(bytes: &[u8], expected: u64, what: &str) -> Result<()> {
    if bytes.len() as u64 == expected {
        return Ok(());
    }
    let message = format!("{what}: it has {} bytes, not {expected}", bytes.len());
    Err(Error::new(Reason::SizeMismatch, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::release::release::SIGNATURE_TYPE;

    fn good() -> Vec<u8> {
        let entry = json!({
            "mediaType": release::OCI_MANIFEST_TYPE, "digest": Digest([1; 32]), "size": 5, "artifactType": SIGNATURE_TYPE,
            "platform": {"os": "linux", "architecture": "amd64", "variant": "v1"}, "annotations": {},
        });
        let index = json!({"schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": [entry]});
        serde_json::to_vec(&index).unwrap()
    }

    fn read(raw: &[u8]) {
        if let Ok(index) = Index::parse(raw, "test", limits::INDEX_ENTRIES) {
            let _ = (index.choose(Architecture::Amd64), index.platforms());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
        }

        #[test]
        fn no_damage_of_an_index_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut raw = good();
            let at = at.index(raw.len());
            if cut { raw.truncate(at) } else { raw[at] = byte }
            read(&raw);
        }
    }

    #[test]
    fn null_is_an_empty_list() {
        let raw = br#"{"schemaVersion":2,"manifests":null}"#;
        assert!(Index::parse(raw, "test", 1).unwrap().choose(Architecture::Amd64).is_none());
        assert!(Index::parse(br#"{"schemaVersion":2}"#, "test", 1).is_err());
    }
}
