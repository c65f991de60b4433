//! Signatures: made over the exact bytes of a manifest, and attached to it as OCI 1.1 referrers.

use std::path::Path;

use oci_client::RegistryOperation;
use serde_json::{Value, json};

use super::key::PrivateKey;
use super::registry::{Access, Registry};
use super::{EMPTY, descriptor, document, empty_config, read};
use crate::error::{Context as _, Error, Exit, Result};
use crate::limits;
use crate::release::{self, Architecture, Digest};
use crate::trust::{KeyId, KeySet, Signature};

/// How often the list of referrers is written again when another signer writes it at the same time.
const LIST_TRIES: u32 = 3;

/// Signs what `reference` names, by tag or digest: the manifest of each architecture. Returns what was signed.
pub fn sign(reference: &str, keys: &[PrivateKey], access: &Access) -> Result<Vec<(Architecture, Digest)>> {
    let registry = Registry::open(reference, access, RegistryOperation::Push)?;
    // All are read before the first is signed: a broken one must not leave a half-signed release.
    let found = read::read(&registry)?;
    for manifest in &found.manifests {
        for key in keys {
            attach(&registry, &manifest.raw, &key.sign(&manifest.raw), key.id())?;
        }
    }
    Ok(found.manifests.iter().map(|manifest| (manifest.release.architecture, manifest.digest)).collect())
}

/// Attaches a signature that was made elsewhere, for instance by `openssl pkeyutl -sign -rawin` where there is no network.
/// It is checked with `keys` first. `reference` must name one manifest.
pub fn attach_file(
    reference: &str,
    signature: &Path,
    keys: &KeySet,
    access: &Access,
) -> Result<Vec<(Architecture, Digest)>> {
    let place = signature.display();
    let bytes = std::fs::read(signature).context(Exit::Unavailable, "signature-unreadable", format!("read {place}"))?;
    let bytes = bytes.try_into().map_err(|_| {
        Error::new(Exit::Data, "malformed-signature", format!("{place} is not a raw Ed25519 signature of 64 bytes"))
    })?;
    let registry = Registry::open(reference, access, RegistryOperation::Push)?;
    let found = read::read(&registry)?;
    let [manifest] = &found.manifests[..] else {
        let message = format!("{} has several manifests, and a signature is of one", registry.reference());
        return Err(Error::new(Exit::Usage, "ambiguous", message)
            .remedy("Name the manifest by its digest, as `kubesolo-release inspect` shows it."));
    };
    for id in keys.verify(&manifest.raw, &[Signature { key_id: None, bytes, payload: None }])? {
        attach(&registry, &manifest.raw, &bytes, id)?;
    }
    Ok(vec![(manifest.release.architecture, manifest.digest)])
}

/// Attaches a signature of `manifest`. What is attached depends on nothing else, and Ed25519 is deterministic: the same key
/// signs the same release once, however often this is called.
pub(super) fn attach(registry: &Registry, manifest: &[u8], signature: &[u8; 64], id: KeyId) -> Result<()> {
    let subject = Digest::of(manifest);
    registry.put_bytes("config", EMPTY)?;
    let signature = registry.put_bytes("signature", signature)?;
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
        if registry.referrers(&subject, release::SIGNATURE_TYPE)?.contains(&digest.to_string()) {
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
    let tag = read::fallback_tag(subject);
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
