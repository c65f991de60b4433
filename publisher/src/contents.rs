//! Everything that belongs to a release: its index and manifests, their files, and all that is attached to them, of known and
//! of unknown types. A bundle and a copy carry it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::read;
use super::registry::Registry;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Exit, Reason, Result};
use kubesolo_update::base::{json as strict, limits, text};
use kubesolo_update::release::release::{
    Architecture, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE, Descriptor, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE,
};
use kubesolo_update::release::statement::TAG_SUFFIX;
use kubesolo_update::source::artifact::Index;
use kubesolo_update::source::signatures::fallback_tag;

/// The annotation of an entry of `index.json` with its tag, by the OCI image layout specification.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Tags of cosign 2 for what it attaches to a manifest, behind `sha256-HEX`.
const COSIGN_TAGS: [&str; 3] = [".sig", ".att", ".sbom"];
/// How far attachments of attachments are followed: the signature of a bill of materials is at 2.
const LEVELS: usize = 4;

/// A manifest or an index of any artifact, as far as it leads to other files.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    /// For lists of referrers.
    pub(super) annotations: Option<Value>,
    /// The document that this one is attached to.
    pub(super) subject: Option<Descriptor>,
}

impl Document {
    /// # Errors
    /// 65 for anything else than a manifest or an index.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        let document: Self = strict::parse(raw, "manifest or index")?;
        match document.media_type {
            Some(ref other) if known_type(other).is_none() => {
                let message = format!("neither manifest nor index, but {}", text::escape(other));
                Err(Error::new(Reason::MalformedManifest, message))
            }
            _ => Ok(document),
        }
    }

    /// The type that the document has, or that its members show.
    pub(super) fn media_type(&self) -> &'static str {
        let otherwise = if self.manifests.is_some() { OCI_INDEX_TYPE } else { OCI_MANIFEST_TYPE };
        self.media_type.as_deref().and_then(known_type).unwrap_or(otherwise)
    }

    /// The type of the artifact. Before OCI 1.1 it was the type of the config.
    pub(super) fn artifact_type(&self) -> Option<&str> {
        let config = self.config.as_ref().map(|config| config.media_type.as_str());
        let config = config.filter(|kind| !matches!(*kind, "" | super::EMPTY_TYPE));
        self.artifact_type.as_deref().or(config.filter(|_| self.subject.is_some()))
    }

    /// Bytes of its files.
    pub(super) fn size(&self) -> u64 {
        self.layers.iter().flatten().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }
}

fn known_type(name: &str) -> Option<&'static str> {
    [OCI_MANIFEST_TYPE, OCI_INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_INDEX_TYPE].into_iter().find(|one| *one == name)
}

/// An entry of `index.json`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The tag, if it has one.
    pub(super) name: Option<String>,
    /// The manifest or index.
    pub(super) digest: Digest,
    /// The entry, with members that this program does not know.
    pub(super) value: Value,
}

impl Entry {
    fn new(raw: &[u8], document: &Document, name: Option<String>) -> Self {
        let digest = Digest::of(raw);
        let mut value = json!({ "mediaType": document.media_type(), "digest": digest, "size": raw.len() });
        if let Some(name) = &name {
            value["annotations"] = json!({ (REF_NAME): name });
        } else if let Some(kind) = document.artifact_type() {
            value["artifactType"] = json!(kind);
        }
        Self { name, digest, value }
    }

    /// True if the name is that of a release: not one for what is attached to it.
    pub(super) fn is_release(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !name.starts_with("sha256-") && !name.ends_with(TAG_SUFFIX))
    }
}

/// Files of one or more releases.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Entries of `index.json`.
    pub(super) entries: Vec<Entry>,
    /// Manifests and indexes.
    pub(super) documents: BTreeMap<Digest, Bytes>,
    /// The same in an order in which a registry takes them: an index after its manifests.
    pub(super) order: Vec<Digest>,
    /// Sizes of all other files, in bytes.
    pub(super) blobs: BTreeMap<Digest, u64>,
}

/// A release that was collected.
pub(super) struct Collected {
    /// Its name in `index.json`.
    pub(super) name: String,
    /// The digest of each manifest.
    pub(super) manifests: Vec<(Architecture, Digest)>,
}

/// Reads a manifest or an index; `None` if it is not there.
pub(super) type Fetch<'a> = dyn Fn(&Digest) -> Result<Option<Bytes>> + 'a;

impl Contents {
    /// Collects the release that the reference of `registry` names, for all architectures or one, with all that is attached.
    ///
    /// # Errors
    /// 69 when the registry does not answer, 77 without a release for this architecture.
    pub(super) fn collect(registry: &Registry, architecture: Option<Architecture>) -> Result<(Self, Collected)> {
        let mut found = read::read(registry)?;
        found.manifests.retain(|manifest| architecture.is_none_or(|wanted| manifest.release.architecture == wanted));
        let Some(first) = found.manifests.first() else {
            let message = format!("{} has nothing for the requested architecture", registry.reference());
            return Err(Error::new(Reason::NoSuchArchitecture, message));
        };
        let channel = first.release.channel.clone();
        let name = registry.tag().map(str::to_owned).or(channel).unwrap_or_else(|| "stable".to_owned());
        let whole = found.is_index && architecture.is_none();
        let raw = if whole { &found.raw } else { &first.raw };
        let mut all = Self::default();
        let fetch = |digest: &Digest| registry.manifest(&digest.to_string());
        all.add(raw, &fetch)?;
        all.entries.push(Entry::new(raw, &Document::parse(raw)?, Some(name.clone())));
        for digest in all.order.clone() {
            all.attached(registry, digest, LEVELS)?;
        }
        // Statements are about a tag.
        if let Some(tag) = registry.tag() {
            all.tagged(registry, &format!("{tag}{TAG_SUFFIX}"))?;
        }
        let manifests = found.manifests.iter().map(|one| (one.release.architecture, one.release.digest)).collect();
        Ok((all, Collected { name, manifests }))
    }

    /// Adds a document, and all that it names.
    ///
    /// # Errors
    /// 65 for one that is malformed, 69 for one that is missing, and those of `fetch`.
    pub(super) fn add(&mut self, raw: &Bytes, fetch: &Fetch<'_>) -> Result<()> {
        let digest = Digest::of(raw);
        if self.documents.insert(digest, raw.clone()).is_some() {
            return Ok(());
        }
        let document = Document::parse(raw).map_err(|e| e.context(digest))?;
        for part in document.layers.iter().flatten().chain(&document.config) {
            self.blobs.insert(part.digest.parse()?, part.size);
        }
        for entry in document.manifests.iter().flatten() {
            let digest: Digest = entry.digest.parse()?;
            if known_type(&entry.media_type).is_none() {
                self.blobs.insert(digest, entry.size);
                continue;
            }
            let raw = fetch(&digest)?.ok_or_else(|| missing(digest))?;
            self.add(&raw, fetch)?;
        }
        self.order.push(digest);
        Ok(())
    }

    /// Adds all that is attached to a manifest or index, and what is attached to that.
    fn attached(&mut self, registry: &Registry, subject: Digest, levels: usize) -> Result<()> {
        let before = self.entries.len();
        let mut failure = None;
        for digest in referrers(registry, subject, &mut failure) {
            if self.entries.iter().any(|entry| entry.digest == digest && entry.name.is_none()) {
                continue;
            }
            if self.entries.len() >= limits::REFERRERS {
                let limit = format_args!("{} attachments", limits::REFERRERS);
                return Err(limits::exceeded(registry.reference(), limit).remedy("Delete those that nobody needs."));
            }
            match self.attachment(registry, digest) {
                Ok(()) if levels > 1 => self.attached(registry, digest, levels - 1)?,
                Ok(()) => {}
                Err(e) if e.exit() == Exit::Data || e.reason == Reason::NotFound => {
                    log::warn!("leaving out an attachment of {subject}: {e}");
                }
                Err(e) => return Err(e),
            }
        }
        if levels == LEVELS {
            for suffix in COSIGN_TAGS {
                let tag = format!("{}{suffix}", fallback_tag(subject));
                failure = self.tagged(registry, &tag).err().or(failure);
            }
        }
        match failure {
            Some(e) if self.entries.len() == before => Err(e),
            Some(e) => {
                log::warn!("a place of attachments cannot be read: {e}");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn attachment(&mut self, registry: &Registry, digest: Digest) -> Result<()> {
        let fetch = |digest: &Digest| registry.manifest(&digest.to_string());
        let raw = fetch(&digest)?.ok_or_else(|| missing(digest))?;
        // All of it or nothing: a part that cannot be read must not stay.
        let mut part = Self::default();
        part.add(&raw, &fetch)?;
        part.entries.push(Entry::new(&raw, &Document::parse(&raw)?, None));
        self.merge(part);
        Ok(())
    }

    /// Adds the document at a tag, under this name, if there is one.
    fn tagged(&mut self, registry: &Registry, tag: &str) -> Result<()> {
        let Some(raw) = registry.manifest(tag)? else { return Ok(()) };
        let mut part = Self::default();
        part.add(&raw, &|digest| registry.manifest(&digest.to_string()))?;
        part.entries.push(Entry::new(&raw, &Document::parse(&raw)?, Some(tag.to_owned())));
        self.merge(part);
        Ok(())
    }

    /// Adds other contents. Documents in both stand where they were.
    pub(super) fn merge(&mut self, other: Self) {
        let known: BTreeSet<Digest> = self.order.iter().copied().collect();
        self.order.extend(other.order.into_iter().filter(|digest| !known.contains(digest)));
        let twice = |one: &Entry, all: &[Entry]| all.iter().any(|e| (&e.name, e.digest) == (&one.name, one.digest));
        other.entries.into_iter().for_each(|entry| {
            if !twice(&entry, &self.entries) {
                self.entries.push(entry);
            }
        });
        self.documents.extend(other.documents);
        self.blobs.extend(other.blobs);
        for digest in self.documents.keys() {
            self.blobs.remove(digest);
        }
    }

    /// `index.json` of a layout with these entries.
    pub(super) fn index(entries: &[Entry]) -> Vec<u8> {
        super::document(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX_TYPE,
            "manifests": entries.iter().map(|entry| &entry.value).collect::<Vec<_>>(),
        }))
    }
}

fn missing(digest: Digest) -> Error {
    Error::new(Reason::NotFound, format!("{digest} is named, but is not there"))
        .remedy("Publish the release again, or copy it again.")
}

/// All that the referrers interface and the fallback tag list. A place that fails leaves its error in `failure`.
pub(super) fn referrers(registry: &Registry, subject: Digest, failure: &mut Option<Error>) -> Vec<Digest> {
    let mut listed = registry.listed(subject, None).unwrap_or_else(|e| {
        *failure = Some(e);
        None
    });
    let tag = fallback_tag(subject);
    match registry.manifest(&tag) {
        // Some registries take the tag for the digest, and answer with the manifest itself.
        Ok(Some(raw)) => {
            let entries = Index::parse(&raw, &tag, usize::MAX).map(|index| index.manifests);
            listed.get_or_insert_default().extend(entries.unwrap_or_default());
        }
        Ok(None) => {}
        Err(e) => *failure = Some(e),
    }
    let digests: BTreeSet<Digest> =
        listed.unwrap_or_default().iter().filter_map(|entry| entry.digest.parse().ok()).collect();
    digests.into_iter().collect()
}
