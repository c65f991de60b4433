//! Signatures: made over the exact bytes of a manifest, and attached to it as OCI 1.1 referrers.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::key::PrivateKey;
use super::referrer::Referrer;
use super::registry::{Access, Registry, Rights};
use super::{descriptor, read};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::replace::{self, replace};
use kubesolo_update::base::{files, limits};
use kubesolo_update::release::release::{self, Architecture, Release};
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::{KeyId, Signature};

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
    let signature = registry.put_bytes("signature", signature)?;
    let layer = descriptor(release::SIGNATURE_TYPE, &signature, "signature");
    let annotations = json!({ (release::KEY_ID): id.to_string() });
    let referrer = Referrer::new(manifest, release::SIGNATURE_TYPE, layer, &annotations);
    referrer.put(registry, &format!("the signature by key {id}"))?;
    log::info!("signed {} with key {id}", Digest::of(manifest));
    Ok(())
}
