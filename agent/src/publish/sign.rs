//! Signatures: made over the exact bytes of a manifest, and attached to it as OCI 1.1 referrers.

use bytes::Bytes;
use oci_client::RegistryOperation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::key::PrivateKey;
use super::registry::{Access, Registry};
use super::{EMPTY, descriptor, document, empty_config};
use crate::error::{Error, Exit, Result};
use crate::release::{self, Architecture, Descriptor, Digest, Release};
use crate::{limits, text};

/// How often the list of referrers is written again when another signer writes it at the same time.
const LIST_TRIES: u32 = 3;

/// Signs `manifest` and attaches the signature. Ed25519 is deterministic and so is the attached manifest: the same key
/// signs the same release once, however often this is called.
pub fn attach(registry: &Registry, manifest: &[u8], key: &PrivateKey) -> Result<()> {
    let subject = Digest::of(manifest);
    let id = key.id();
    registry.put_bytes("config", EMPTY)?;
    let signature = registry.put_bytes("signature", &key.sign(manifest))?;
    let annotations = json!({ (release::KEY_ID): id.to_string() });
    let referrer = document(&json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": release::SIGNATURE_TYPE,
        "config": empty_config(),
        "layers": [descriptor(release::SIGNATURE_TYPE, &signature, "signature")],
        "subject": { "mediaType": release::OCI_MANIFEST_TYPE, "digest": subject, "size": manifest.len() },
        "annotations": annotations,
    }));
    let digest = registry.put_manifest(None, &referrer, release::OCI_MANIFEST_TYPE)?;
    // Asking as a reader asks tells best whether the registry lists referrers itself.
    for _ in 0..LIST_TRIES {
        if registry.lists(&subject, &digest)? {
            log::info!("signed {subject} with key {id}");
            return Ok(());
        }
        list(
            registry,
            &subject,
            &json!({
                "mediaType": release::OCI_MANIFEST_TYPE,
                "artifactType": release::SIGNATURE_TYPE,
                "digest": digest,
                "size": referrer.len(),
                "annotations": annotations,
            }),
        )?;
    }
    let message = format!("the signature by key {id} was uploaded, but {} does not list it", registry.name());
    Err(Error::new(Exit::Unavailable, "signature-not-listed", message)
        .remedy("If another signer is at work, wait for it and sign again."))
}

/// Adds an entry to the referrers tag `sha256-<hex>`, for registries that list no referrers themselves. The entries of
/// others stay as they are.
fn list(registry: &Registry, subject: &Digest, entry: &Value) -> Result<()> {
    let tag = format!("sha256-{}", subject.hex());
    let foreign = || {
        let message = format!("the tag {tag} of {} is not a list of referrers", registry.name());
        Error::new(Exit::Data, "malformed-referrers", message)
            .remedy("Find out who wrote it; delete the tag, and sign again.")
    };
    let mut index = match registry.manifest(&tag)? {
        Some(raw) => serde_json::from_slice(&raw).map_err(|_| foreign())?,
        None => json!({ "schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": [] }),
    };
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(foreign)?;
    if !entries.iter().any(|known| known.get("digest") == entry.get("digest")) {
        entries.push(entry.clone());
    }
    let entries = entries.len();
    let raw = document(&index);
    if entries > limits::REFERRERS || raw.len() as u64 > limits::REFERRERS_BYTES {
        let message = format!("the list of referrers of {subject} is full: {entries} entries, {} bytes", raw.len());
        return Err(Error::new(Exit::Data, "limit-exceeded", message)
            .remedy("Delete entries that are not needed; devices read no longer lists."));
    }
    registry.put_manifest(Some(&tag), &raw, release::OCI_INDEX_TYPE).map(|_| ())
}

/// Signs what `reference` names, by tag or digest: a release manifest, or each one in an index. Returns what was signed.
pub fn sign(reference: &str, keys: &[PrivateKey], access: &Access) -> Result<Vec<(Architecture, Digest)>> {
    let registry = Registry::open(reference, access, RegistryOperation::Push)?;
    let manifests = manifests(&registry)?;
    // All are read before the first is signed: a broken one must not leave a half-signed release.
    for (_, raw) in &manifests {
        for key in keys {
            attach(&registry, raw, key)?;
        }
    }
    Ok(manifests.iter().map(|(release, raw)| (release.architecture, Digest::of(raw))).collect())
}

/// Reads the release manifests that the reference of `registry` names.
fn manifests(registry: &Registry) -> Result<Vec<(Release, Bytes)>> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let name = registry.digest().or(registry.tag()).ok_or_else(|| {
        Error::new(Exit::Usage, "bad-reference", format!("{} has neither tag nor digest", registry.name()))
    })?;
    let read = |name: &str| -> Result<Bytes> {
        registry.manifest(name)?.ok_or_else(|| {
            let message = format!("{} has no {}", registry.name(), text::shown(name));
            Error::new(Exit::Unavailable, "not-found", message)
        })
    };
    let parse = |raw: Bytes| Ok((Release::from_oci_manifest(&raw)?, raw));
    let raw = read(name)?;
    if serde_json::from_slice::<Value>(&raw).is_ok_and(|value| value.get("manifests").is_none()) {
        return Ok(vec![parse(raw)?]);
    }
    let index: Index = crate::json::parse(&raw, "index")?;
    let releases = index.manifests.iter().filter(|entry| {
        entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture.parse::<Architecture>().is_ok())
    });
    let found: Vec<_> = releases
        .map(|entry| parse(read(&entry.digest)?).map_err(|e| e.context(text::shown(&entry.digest))))
        .collect::<Result<_>>()?;
    if found.is_empty() {
        let message = format!("{} has no manifest for amd64 or arm64", text::shown(name));
        return Err(Error::new(Exit::Unavailable, "no-architecture", message));
    }
    Ok(found)
}
