//! Releases in an OCI registry.

use std::rc::Rc;

use oci_client::Reference;
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Body, Offer, Source, cosign, made_for, reference};
use crate::error::{Error, Exit, Result};
use crate::fetch::{self, Answer, BlobBody, Client, Deadline, FetchOptions};
use crate::release::{self, Architecture, Blob, Descriptor, Digest, Image, Manifest, Release, SIGNATURE_TYPE};
use crate::trust::Signature;
use crate::{json, limits, text};

/// What is asked for when manifests are: every type that is understood, or registries convert or refuse.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry, at one tag or digest.
pub struct OciSource {
    client: Rc<Client>,
    root: Url,
    repository: String,
    wanted: Wanted,
    origin: String,
    looked: Option<(Answer, Deadline)>,
    /// Of the last offer: the index that led to it, if one did, and the time for all documents.
    offered: Option<(Option<Digest>, Deadline)>,
}

enum Wanted {
    Tag(String),
    Digest(Digest),
}

impl OciSource {
    /// `text` is `host/path`, `host/path:tag` or `host/path@sha256:…`. A `tag` counts more than the reference's own;
    /// `default_tag` (the channel) is for when there is neither. No request is sent yet.
    pub fn new(options: &FetchOptions, text: &str, tag: Option<&str>, default_tag: &str) -> Result<Self> {
        // Somebody may have put a password there.
        let safe = match text.rsplit_once('@') {
            Some((_, rest)) if !rest.starts_with("sha") => rest,
            _ => text,
        };
        let bad = |why: &str| {
            let message = format!("registry \"{}\": {why}", text::shown(safe));
            Error::new(Exit::Config, "bad-reference", message).remedy(
                "Write it as host.name/path, host:port/path:tag or host.name/path@sha256:...; a host has a dot or a port.",
            )
        };
        let parts = reference::parse(text).map_err(bad)?;
        let (host, repository) = (parts.host.to_owned(), parts.repository.to_owned());
        let (wanted, reference) = match (parts.digest, tag) {
            (Some(_), Some(_)) => return Err(bad("it has a digest, so there can be no tag")),
            (Some(digest), None) => {
                let digest: Digest = digest.parse().map_err(|e: Error| bad(&e.message))?;
                (Wanted::Digest(digest), Reference::with_digest(host, repository, digest.to_string()))
            }
            (None, tag) => {
                let tag = tag.or(parts.tag).unwrap_or(default_tag).to_owned();
                if !reference::is_tag(&tag) {
                    let message = format!("\"{}\" cannot be a tag", text::shown(&tag));
                    return Err(Error::new(Exit::Config, "bad-tag", message)
                        .remedy("Name the tag: up to 128 letters, digits, dots, dashes and underscores."));
                }
                (Wanted::Tag(tag.clone()), Reference::with_tag(host, repository, tag))
            }
        };
        let client = Client::new(options)?;
        let root = client.root(reference.resolve_registry())?;
        Ok(Self {
            client: Rc::new(client),
            root,
            wanted,
            origin: reference.whole(),
            repository: reference.repository().to_owned(),
            looked: None,
            offered: None,
        })
    }

    fn url(&self, kind: &str, reference: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.repository));
        url
    }

    /// The one look at the tag: everything after it goes by digest.
    fn resolve(&self, deadline: Deadline) -> Result<Answer> {
        let reference = match &self.wanted {
            Wanted::Tag(tag) => tag.clone(),
            Wanted::Digest(digest) => digest.to_string(),
        };
        let limit = limits::INDEX_BYTES.max(limits::MANIFEST_BYTES);
        let answer =
            self.client.document(&self.url("manifests", &reference), MANIFESTS, limit, &self.origin, deadline)?;
        if answer.status == 404 {
            let what = if matches!(self.wanted, Wanted::Tag(_)) { "tag" } else { "digest" };
            let message = format!("{}: the registry has no such {what}", self.origin);
            return Err(Error::new(Exit::Unavailable, "tag-not-found", message)
                .remedy("Check registry, tag and channel against what was published."));
        }
        let answer = answer.good(&self.origin)?;
        let expected = match &self.wanted {
            Wanted::Digest(digest) => Some(*digest),
            Wanted::Tag(_) => fetch::digest_of(&answer.headers),
        };
        if let Some(expected) = expected {
            check_digest(&answer.body, expected, &self.origin)?;
        }
        Ok(answer)
    }

    /// Fetches the manifest that `entry` describes, and nothing else.
    fn manifest(&self, entry: &Descriptor, what: &str, deadline: Deadline) -> Result<Answer> {
        let digest: Digest = entry.digest.parse()?;
        if entry.size > limits::MANIFEST_BYTES {
            return Err(limits::exceeded(what, format_args!("{} bytes", limits::MANIFEST_BYTES)));
        }
        let url = self.url("manifests", &digest.to_string());
        let answer = self.client.document(&url, MANIFESTS, limits::MANIFEST_BYTES, what, deadline)?.good(what)?;
        check_size(&answer.body, entry.size, what)?;
        check_digest(&answer.body, digest, what)?;
        Ok(answer)
    }

    /// All signatures published for a manifest. A bad one among them is left out: whoever can add to a registry must not
    /// be able to stop an update by adding nonsense.
    fn signatures(&self, subject: Digest, deadline: Deadline) -> Result<Vec<Signature>> {
        let mut entries = self.referrers(subject, deadline)?;
        if entries.is_empty() {
            // No such interface here; or the registry got it after the signatures were pushed.
            entries = self.tagged_referrers(subject, deadline)?;
        }
        let mut signatures = vec![];
        for entry in entries {
            match self.signature(&entry, subject, deadline) {
                Ok(more) => signatures.extend(more),
                Err(e) if e.exit == Exit::Data || e.reason == "not-found" => log::debug!("signature left out: {e}"),
                Err(e) => return Err(e),
            }
        }
        if signatures.len() > limits::SIGNATURES {
            return Err(limits::exceeded(format_args!("signatures of {subject}"), limits::SIGNATURES));
        }
        Ok(signatures)
    }

    /// Signatures by the referrers interface; none if the registry does not have it.
    fn referrers(&self, subject: Digest, deadline: Deadline) -> Result<Vec<Descriptor>> {
        let what = format!("list of referrers of {subject}");
        let mut next = Some(self.url("referrers", &subject.to_string()));
        if let Some(url) = &mut next {
            url.query_pairs_mut().append_pair("artifactType", SIGNATURE_TYPE);
        }
        let (mut list, mut room) = (Listed::default(), limits::REFERRERS_BYTES);
        while let Some(url) = next {
            let answer = self.client.document(&url, release::OCI_INDEX_TYPE, room, &what, deadline)?;
            if answer.status.is_client_error() || answer.media_type() != Some(release::OCI_INDEX_TYPE) {
                log::debug!("no referrers interface: {} {:?}", answer.status.as_u16(), answer.media_type());
                break;
            }
            let answer = answer.good(&what)?;
            room = room.saturating_sub(answer.body.len() as u64);
            list.add(&answer.body, &what)?;
            next = next_page(&answer);
        }
        Ok(list.signatures)
    }

    /// Signatures by the fallback tag, an index that publishers keep where there is no referrers interface.
    fn tagged_referrers(&self, subject: Digest, deadline: Deadline) -> Result<Vec<Descriptor>> {
        let tag = format!("sha256-{}", subject.hex());
        let what = format!("list of referrers at tag {tag}");
        let url = self.url("manifests", &tag);
        let answer = self.client.document(&url, release::OCI_INDEX_TYPE, limits::REFERRERS_BYTES, &what, deadline)?;
        let mut list = Listed::default();
        if answer.status != 404 {
            list.add(&answer.good(&what)?.body, &what)?;
        }
        Ok(list.signatures)
    }

    fn signature(&self, entry: &Descriptor, subject: Digest, deadline: Deadline) -> Result<Vec<Signature>> {
        let what = format!("signature {}", text::shown(&entry.digest));
        let answer = self.manifest(entry, &what, deadline)?;
        let mut signatures = vec![];
        for (digest, key_id) in attached(&answer.body, subject, &what)? {
            let url = self.url("blobs", &digest.to_string());
            let raw = self.client.document(&url, "*/*", SIGNATURE_BYTES, &what, deadline)?.good(&what)?.body;
            check_digest(&raw, digest, &what)?;
            let bytes = raw.try_into().map_err(|_| malformed_signature(&what, "it has not 64 bytes"))?;
            signatures.push(Signature { key_id, bytes, payload: None });
        }
        Ok(signatures)
    }

    /// What cosign keeps for a manifest or an index, as it is in the registry.
    fn cosign(&self, subject: Digest, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        let tag = cosign::tag(subject);
        let what = format!("cosign signatures at tag {tag}");
        let url = self.url("manifests", &tag);
        let answer = self.client.document(&url, MANIFESTS, limits::MANIFEST_BYTES, &what, deadline)?;
        if answer.status == 404 { Ok(None) } else { Ok(Some(answer.good(&what)?.body)) }
    }
}

/// An Ed25519 signature, in bytes.
pub(crate) const SIGNATURE_BYTES: u64 = 64;

/// The signatures in a manifest attached to `subject`: each layer, with the key that it names.
pub(crate) fn attached(raw: &[u8], subject: Digest, what: &str) -> Result<Vec<(Digest, Option<String>)>> {
    let manifest: Manifest = json::parse(raw, what)?;
    manifest.check()?;
    if !manifest.is_of_type(SIGNATURE_TYPE) {
        return Err(malformed_signature(what, "it is something else"));
    }
    if manifest.subject.as_ref().is_some_and(|s| s.digest != subject.to_string()) {
        return Err(malformed_signature(what, "it is of another manifest"));
    }
    let layers = manifest.layers.iter().filter(|layer| layer.media_type == SIGNATURE_TYPE);
    layers
        .map(|layer| {
            if layer.size != SIGNATURE_BYTES {
                return Err(malformed_signature(what, "it has not 64 bytes"));
            }
            let key_id = manifest.annotations.get(release::KEY_ID).or(layer.annotations.get(release::KEY_ID));
            let key_id =
                key_id.filter(|id| id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            Ok((layer.digest.parse()?, key_id.cloned()))
        })
        .collect()
}

fn malformed_signature(what: &str, why: &str) -> Error {
    Error::new(Exit::Data, "malformed-signature", format!("{what}: {why}"))
}

impl Source for OciSource {
    fn look(&mut self) -> Result<Digest> {
        let deadline = self.client.deadline();
        let answer = self.resolve(deadline)?;
        let digest = Digest::of(&answer.body);
        self.looked = Some((answer, deadline));
        Ok(digest)
    }

    fn offer(&mut self, architecture: Architecture) -> Result<Offer> {
        let (mut answer, deadline) = match self.looked.take() {
            Some(looked) => looked,
            None => {
                let deadline = self.client.deadline();
                (self.resolve(deadline)?, deadline)
            }
        };
        let mut signed_type = document_type(&answer, &self.origin)?;
        let mut index_digest = None;
        if matches!(signed_type.as_str(), release::OCI_INDEX_TYPE | release::DOCKER_INDEX_TYPE) {
            let index = Index::parse(&answer.body, &self.origin, limits::INDEX_ENTRIES)?;
            let entry = index.choose(architecture).ok_or_else(|| {
                let message = format!("{} has nothing for {architecture}, only for {}", self.origin, index.platforms());
                Error::new(Exit::NotAllowed, "no-such-architecture", message)
                    .remedy(format!("Publish the release for {architecture} too, or choose another tag."))
            })?;
            let what = format!("manifest for {architecture} of {}", self.origin);
            index_digest = Some(Digest::of(&answer.body));
            answer = self.manifest(entry, &what, deadline)?;
            signed_type = document_type(&answer, &what)?;
        }
        let release = Release::from_oci_manifest(&answer.body).map_err(|e| e.context(&self.origin))?;
        let remedy = "Publish an index with one manifest for each architecture, or choose another tag.";
        made_for(architecture, &release, &self.origin, remedy)?;
        let digest = Digest::of(&answer.body);
        let signatures = self.signatures(digest, deadline)?;
        self.offered = Some((index_digest, deadline));
        let (signed, origin) = (answer.body, self.origin.clone());
        Ok(Offer { release, digest, signed, signed_type, signatures, file_signatures: None, origin })
    }

    /// At one more request, two where there is nothing; and one for each payload.
    fn more_signatures(&mut self, offer: &Offer) -> Result<Vec<Signature>> {
        let (index, deadline) = self.offered.unwrap_or_else(|| (None, self.client.deadline()));
        let mut found = vec![];
        if let Some(raw) = self.cosign(offer.digest, deadline)? {
            found = cosign::signatures(&raw, offer.digest, |blob, what| {
                let url = self.url("blobs", &blob.digest.to_string());
                Ok(self.client.document(&url, "*/*", limits::COSIGN_PAYLOAD_BYTES, what, deadline)?.good(what)?.body)
            })?;
        }
        if found.is_empty()
            && offer.signatures.is_empty()
            && let Some(index) = index
            && self.cosign(index, deadline)?.is_some()
        {
            let message = format!(
                "{}: cosign signed the index {index} alone, not the release in it {}",
                self.origin, offer.digest
            );
            return Err(Error::new(Exit::NotAllowed, "signature-of-index", message)
                .remedy("Sign the manifest of each architecture: `cosign sign --recursive`."));
        }
        Ok(found)
    }

    fn locate(&mut self, image: Image) -> Result<Blob> {
        image.blob().ok_or_else(|| Error::new(Exit::Internal, "size-unknown", "a manifest without sizes was accepted"))
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>> {
        let what = format!("image {} of {}", blob.digest, self.origin);
        let url = self.url("blobs", &blob.digest.to_string());
        Ok(Box::new(BlobBody::open(self.client.clone(), url, blob.size, what)?))
    }
}

/// The type that a document says it has, else the one its server says.
fn document_type(answer: &Answer, what: &str) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let typed: Typed = json::parse(&answer.body, what)?;
    let found = typed.media_type.or(answer.media_type().map(str::to_owned)).unwrap_or_default();
    match found.as_str() {
        release::OCI_INDEX_TYPE
        | release::DOCKER_INDEX_TYPE
        | release::OCI_MANIFEST_TYPE
        | release::DOCKER_MANIFEST_TYPE => Ok(found),
        other => {
            let message = format!("{what} is neither manifest nor index, but \"{}\"", text::shown(other));
            Err(Error::new(Exit::Data, "malformed-manifest", message))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u64,
    media_type: Option<String>,
    #[serde(deserialize_with = "release::null_is_empty")]
    pub(crate) manifests: Vec<Descriptor>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

impl Index {
    pub(crate) fn parse(raw: &[u8], what: &str, entries: usize) -> Result<Self> {
        let index: Self = json::parse(raw, what)?;
        let known =
            matches!(index.media_type.as_deref(), None | Some(release::OCI_INDEX_TYPE | release::DOCKER_INDEX_TYPE));
        // One document that can be read as manifest and as index is two documents.
        if index.schema_version != 2 || !known || index.config.is_some() || index.layers.is_some() {
            return Err(Error::new(Exit::Data, "malformed-index", format!("{what} is not a valid index")));
        }
        if index.manifests.len() > entries {
            return Err(limits::exceeded(what, format_args!("{entries} entries")));
        }
        Ok(index)
    }

    /// The first entry that this device can run, as OCI has it. Entries of no platform (attestations are `unknown`) are
    /// none of ours; a variant is only accepted if every processor of the architecture has it.
    pub(crate) fn choose(&self, architecture: Architecture) -> Option<&Descriptor> {
        let variants: &[&str] = match architecture {
            Architecture::Amd64 => &["", "v1"],
            Architecture::Arm64 => &["", "v8"],
        };
        self.manifests.iter().find(|entry| {
            matches!(entry.media_type.as_str(), release::OCI_MANIFEST_TYPE | release::DOCKER_MANIFEST_TYPE)
                && entry.platform.as_ref().is_some_and(|p| {
                    p.os == "linux"
                        && p.architecture == architecture.to_string()
                        && variants.contains(&p.variant.as_deref().unwrap_or_default())
                })
        })
    }

    fn platforms(&self) -> String {
        let platforms = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let names: Vec<String> = platforms.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
        if names.is_empty() { "no platform at all".into() } else { text::shown(&names.join(", ")) }
    }
}

/// Whether an entry in a list of referrers is worth a look. Copies made by skopeo before 1.14 have lost the types of the
/// entries; the type of the manifest itself counts in any case.
pub(crate) fn may_be_signature(artifact_type: Option<&str>) -> bool {
    artifact_type.is_none_or(|found| found == SIGNATURE_TYPE)
}

/// The signatures in a list of referrers, which can come in pages.
#[derive(Default)]
struct Listed {
    entries: usize,
    signatures: Vec<Descriptor>,
}

impl Listed {
    fn add(&mut self, raw: &[u8], what: &str) -> Result<()> {
        let index = Index::parse(raw, what, limits::REFERRERS - self.entries)?;
        self.entries += index.manifests.len();
        for entry in index.manifests {
            let known = self.signatures.iter().any(|s| s.digest == entry.digest);
            if may_be_signature(entry.artifact_type.as_deref()) && !known {
                self.signatures.push(entry);
            }
        }
        if self.signatures.len() > limits::SIGNATURES {
            return Err(limits::exceeded(what, format_args!("{} signatures", limits::SIGNATURES))
                .remedy("Remove signatures of this manifest from the registry that nobody needs."));
        }
        Ok(())
    }
}

/// The next page of a list (RFC 8288), on the same server.
fn next_page(answer: &Answer) -> Option<Url> {
    let link = answer.headers.get(reqwest::header::LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let next = answer.url.join(target).ok()?;
    (rest.contains("rel=\"next\"") && next.origin() == answer.url.origin()).then_some(next)
}

fn check_digest(bytes: &[u8], expected: Digest, what: &str) -> Result<()> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    let message = format!("{what}: the digest is {found}, not {expected}");
    Err(Error::new(Exit::Data, "digest-mismatch", message)
        .remedy("The registry, or something on the way, changed the bytes; publish again or find out who did."))
}

fn check_size(bytes: &[u8], expected: u64, what: &str) -> Result<()> {
    if bytes.len() as u64 == expected {
        return Ok(());
    }
    let message = format!("{what}: it has {} bytes, not {expected}", bytes.len());
    Err(Error::new(Exit::Data, "size-mismatch", message))
}

/// Reads bytes as each kind of document that only registries have.
pub(crate) fn read_as_any(raw: &[u8]) -> [Result<()>; 4] {
    [
        Index::parse(raw, "index", limits::INDEX_ENTRIES).map(|index| {
            for architecture in [Architecture::Amd64, Architecture::Arm64] {
                let _ = index.choose(architecture);
            }
            let _ = index.platforms();
        }),
        Listed::default().add(raw, "list of referrers"),
        attached(raw, Digest([0; 32]), "signature").map(drop),
        cosign::layers(raw, "cosign signatures").map(drop),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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
        let _ = Listed::default().add(raw, "test");
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
