//! Signatures: made over the exact bytes of a manifest, and attached to it as OCI 1.1 referrers.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::key::PrivateKey;
use super::registry::{Access, Registry, Rights};
use super::{EMPTY, descriptor, document, empty_config, read};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::replace::{self, replace};
use kubesolo_update::base::{files, limits};
use kubesolo_update::release::release::{self, Architecture, Release};
use kubesolo_update::source::signatures::fallback_tag;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::{KeyId, Signature};

/// How often the list of referrers is written again when another signer writes it at the same time.
const LIST_TRIES: u32 = 3;

/// Signs what `reference` names, by tag or digest: the manifest of each architecture. Returns what was signed.
pub fn sign(reference: &str, keys: &[PrivateKey], access: &Access) -> Result<Vec<(Architecture, Digest)>> {
    let registry = Registry::open(reference, access, Rights::Push)?;
    // All are read before the first is signed: a broken one must not leave a half-signed release.
    let found = read::read(&registry)?;
    for manifest in &found.manifests {
        for key in keys {
            attach(&registry, &manifest.raw, &key.sign(&manifest.raw), key.id())?;
        }
    }
    Ok(found.manifests.iter().map(|manifest| (manifest.release.architecture, manifest.release.digest)).collect())
}

/// Attaches signatures that were made elsewhere, for instance by `openssl pkeyutl -sign -rawin` where there is no network, or
/// by a module that keeps the key to itself. Each must be by one of `keys`, over the manifest of one architecture; nothing
/// is attached unless all are.
pub fn attach_files(reference: &str, files: &[PathBuf], keys: &KeySet, access: &Access) -> Result<Vec<Attached>> {
    let registry = Registry::open(reference, access, Rights::Push)?;
    let found = read::read(&registry)?;
    let messages = found.manifests.iter().map(|m| (m.release.architecture, m.raw.to_vec())).collect::<Vec<_>>();
    let fitting = fitting(files, &messages, keys)?;
    for (at, signature, id) in &fitting {
        attach(&registry, &messages[*at].1, signature, *id)?;
    }
    Ok(fitting.into_iter().map(|(at, _, id)| (messages[at].0, Digest::of(&messages[at].1), id)).collect())
}

/// A signature that was attached: of what, and by which key.
pub type Attached = (Architecture, Digest, KeyId);

/// Finds for each signature in `files` the message that it is over, and the key that made it.
pub(super) fn fitting(
    signatures: &[PathBuf],
    messages: &[(Architecture, Vec<u8>)],
    keys: &KeySet,
) -> Result<Vec<(usize, [u8; 64], KeyId)>> {
    let mut fitting = vec![];
    for file in signatures {
        let read = files::read_data(file, limits::SIGNATURE_FILE_BYTES + 1);
        let bytes = read.context(Reason::SignatureUnreadable, format!("read {}", file.display()))?;
        for signature in Signature::parse_file(&bytes).map_err(|e| e.context(file.display()))? {
            let mut refusal = None;
            let fits = messages.iter().position(|(_, message)| {
                keys.verify(message, std::slice::from_ref(&signature)).map_err(|e| refusal = Some(e)).is_ok()
            });
            match (fits, refusal) {
                (Some(at), _) => {
                    for id in keys.verify(&messages[at].1, std::slice::from_ref(&signature))? {
                        fitting.push((at, signature.bytes, id));
                    }
                }
                (None, Some(refusal)) => return Err(refusal.context(file.display())),
                (None, None) => return Err(Error::new(Reason::NothingToSign, "nothing to sign")),
            }
        }
    }
    Ok(fitting)
}

/// Writes what is to be signed into `folder`, a file for each architecture: the manifest, byte for byte.
pub fn payload(reference: &str, folder: &Path, access: &Access) -> Result<Vec<Payload>> {
    let registry = Registry::open(reference, access, Rights::Pull)?;
    read::read(&registry)?.manifests.into_iter().map(|m| Payload::write(folder, m.release, m.raw.to_vec())).collect()
}

/// Bytes to sign for one architecture.
#[derive(Debug)]
pub struct Payload {
    /// The release.
    pub release: Release,
    /// Of the file: the identity of the release.
    pub digest: Digest,
    /// The file.
    pub file: PathBuf,
}

impl Payload {
    pub(super) fn write(folder: &Path, release: Release, raw: Vec<u8>) -> Result<Self> {
        let file = folder.join(format!("{}.json", release.architecture));
        let (tree, name) = (replace::folder_of(folder), folder.file_name().unwrap_or_default());
        replace::create_folders(tree, name.as_ref())
            .and_then(|()| replace(&file, &raw, 0o644))
            .context(Reason::NotWritten, format!("write {}", file.display()))?;
        Ok(Self { release, digest: Digest::of(&raw), file })
    }
}

/// Attaches a signature of `manifest`. The attachment depends on nothing else, and Ed25519 is deterministic: the same key
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
    let entry = json!({
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": release::SIGNATURE_TYPE,
        "digest": digest,
        "size": referrer.len(),
        "annotations": annotations,
    });
    // A pull-through cache has tags, but not the referrers interface of the registry behind it.
    let tagged = match registry.writes_fallback_tag() {
        true => list(registry, &subject, &entry),
        false => Err(not_listed(registry, id)),
    };
    if let Err(e) = tagged {
        let listed = registry.listed(subject, Some(release::SIGNATURE_TYPE)).ok().flatten().unwrap_or_default();
        if !listed.iter().any(|entry| entry.digest == digest.to_string()) {
            return Err(e);
        }
        if registry.writes_fallback_tag() {
            log::warn!("only the referrers interface lists the signature, and a cache in between may lack it: {e}");
        }
    }
    log::info!("signed {subject} with key {id}");
    Ok(())
}

fn not_listed(registry: &Registry, id: KeyId) -> Error {
    let message = format!("uploaded the signature by key {id}, but {} does not list it", registry.name());
    let next = match registry.writes_fallback_tag() {
        true => "If another signer is at work, wait for it and sign again.",
        false => "Sign again without --no-fallback-tag: the registry has no referrers interface.",
    };
    Error::new(Reason::SignatureNotListed, message).remedy(next)
}

/// Adds an entry to the tag with the list of referrers. The entries of others stay as they are. Another signer that writes
/// the list at the same time can remove the entry, so the list is read again.
fn list(registry: &Registry, subject: &Digest, entry: &Value) -> Result<()> {
    let tag = fallback_tag(*subject);
    for _ in 0..=LIST_TRIES {
        let mut index = listed(registry, &tag)?;
        let entries =
            index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(|| foreign(registry, &tag))?;
        if entries.iter().any(|known| known.get("digest") == entry.get("digest")) {
            return Ok(());
        }
        entries.push(entry.clone());
        let entries = entries.len();
        let raw = document(&index);
        if entries > limits::REFERRERS || raw.len() as u64 > limits::REFERRERS_BYTES {
            let message = format!("the list of referrers of {subject} is full: {entries} entries, {} bytes", raw.len());
            return Err(Error::new(Reason::LimitExceeded, message)
                .remedy("Delete unneeded entries: devices do not read longer lists."));
        }
        registry.put_manifest(Some(&tag), &raw, release::OCI_INDEX_TYPE)?;
    }
    let message = format!("{} does not keep the list of referrers at tag {tag}", registry.name());
    Err(Error::new(Reason::SignatureNotListed, message)
        .remedy("If another signer is at work, wait for it and sign again."))
}

/// The list of referrers at a tag; an empty one if there is none.
fn listed(registry: &Registry, tag: &str) -> Result<Value> {
    match registry.manifest(tag)? {
        Some(raw) => serde_json::from_slice(&raw).map_err(|_| foreign(registry, tag)),
        None => Ok(json!({ "schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": [] })),
    }
}

fn foreign(registry: &Registry, tag: &str) -> Error {
    let message = format!("the tag {tag} of {} is not a list of referrers", registry.name());
    Error::new(Reason::MalformedReferrers, message).remedy(
        "If the registry takes this tag for the digest of the release (GitLab), sign with cosign 2. Otherwise find out \
         who wrote it, delete the tag, and sign again.",
    )
}
