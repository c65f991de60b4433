//! Documents that are attached to a manifest: OCI 1.1 referrers, and the tag with their list for registries and caches that do
//! not list them.

use oci_client::manifest::OciDescriptor;
use serde_json::{Value, json};

use super::registry::Registry;
use super::{EMPTY, document, empty_config};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::limits;
use kubesolo_update::release::release;
use kubesolo_update::source::signatures::fallback_tag;

/// How often the list of referrers is written again when another publisher writes it at the same time.
const LIST_TRIES: u32 = 3;

/// The manifest of a document about another manifest.
pub(super) struct Referrer {
    raw: Vec<u8>,
    subject: Digest,
    /// For lists of referrers.
    entry: Value,
}

impl Referrer {
    /// Attaches `layer` to the manifest `subject`. The result depends on nothing else.
    pub(super) fn new(subject: &[u8], artifact_type: &str, layer: OciDescriptor, annotations: &Value) -> Self {
        let digest = Digest::of(subject);
        let raw = document(&json!({
            "schemaVersion": 2,
            "mediaType": release::OCI_MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": empty_config(),
            "layers": [layer],
            "subject": { "mediaType": release::OCI_MANIFEST_TYPE, "digest": digest, "size": subject.len() },
            "annotations": annotations,
        }));
        let entry = json!({
            "mediaType": release::OCI_MANIFEST_TYPE,
            "artifactType": artifact_type,
            "digest": Digest::of(&raw),
            "size": raw.len(),
            "annotations": annotations,
        });
        Self { raw, subject: digest, entry }
    }

    /// Uploads the manifest and lists it. The layer is there already; `what` names it in messages.
    ///
    /// # Errors
    /// 69 when the registry does not list it.
    pub(super) fn put(&self, registry: &Registry, what: &str) -> Result<()> {
        registry.put_bytes("config", EMPTY)?;
        registry.put_manifest(None, &self.raw, release::OCI_MANIFEST_TYPE)?;
        list(registry, self.subject, &self.entry, what)
    }
}

/// Lists an uploaded manifest as a referrer of `subject`: in the fallback tag too, because a pull-through cache has tags, but
/// not the referrers interface of the registry behind it.
pub(super) fn list(registry: &Registry, subject: Digest, entry: &Value, what: &str) -> Result<()> {
    let tagged = match registry.writes_fallback_tag() {
        true => add_to_tag(registry, &subject, entry),
        false => Err(not_listed(registry, what)),
    };
    let Err(e) = tagged else { return Ok(()) };
    let kind = entry.get("artifactType").and_then(Value::as_str);
    let listed = registry.listed(subject, kind).ok().flatten().unwrap_or_default();
    if !listed.iter().any(|known| Some(known.digest.as_str()) == entry.get("digest").and_then(Value::as_str)) {
        return Err(e);
    }
    if registry.writes_fallback_tag() {
        log::warn!("only the referrers interface lists {what}, and a cache in between may lack it: {e}");
    }
    Ok(())
}

fn not_listed(registry: &Registry, what: &str) -> Error {
    let message = format!("uploaded {what}, but {} does not list it", registry.name());
    let next = match registry.writes_fallback_tag() {
        true => "If another signer is at work, wait for it and sign again.",
        false => "Sign again without --no-fallback-tag: the registry has no referrers interface.",
    };
    Error::new(Reason::SignatureNotListed, message).remedy(next)
}

/// Adds an entry to the tag with the list of referrers. The entries of others stay as they are. Another signer that writes
/// the list at the same time can remove the entry, so the list is read again.
fn add_to_tag(registry: &Registry, subject: &Digest, entry: &Value) -> Result<()> {
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
