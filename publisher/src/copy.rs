//! Releases on their way between registries: an OCI image layout in a folder, with all that belongs to them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bundle::OCI_LAYOUT;
use super::contents::{Contents, Document, Entry, REF_NAME};
use super::registry::{Access, Registry, Rights};
use super::{blob, referrer};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Exit, Reason, Result};
use kubesolo_update::base::replace::{self, Replacement, replace};
use kubesolo_update::base::{files, limits, text};
use kubesolo_update::release::release::{Blob, DOCKER_INDEX_TYPE, OCI_INDEX_TYPE};
use kubesolo_update::release::statement::TAG_SUFFIX;

/// `index.json` of a layout, in bytes. A folder may have many releases, each with its attachments.
const INDEX_BYTES: u64 = 4 << 20;
/// Entries in it.
const ENTRIES: usize = 4096;
const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";

/// The result of a copy.
#[derive(Debug)]
pub struct Copied {
    /// Each release by its name, with the digest that it stands for.
    pub releases: Vec<(String, Digest)>,
    /// Files of the releases: manifests, images, attachments.
    pub files: usize,
    /// Files that were there already.
    pub present: usize,
}

/// True for a folder that is an OCI image layout.
#[must_use]
pub fn is_layout(folder: &Path) -> bool {
    folder.join(MARK).is_file()
}

/// Copies releases into a layout. Releases with other names stay, and so does all that is attached to them; files that no
/// release needs any more are deleted at the end.
///
/// # Errors
/// 64 for two releases of one name, or for a folder with other content; 69 where a registry does not answer; 73.
pub fn fill(references: &[String], folder: &Path, access: &Access) -> Result<Copied> {
    let layout = Layout::prepare(folder)?;
    let (old, mut new) = (layout.entries()?, Contents::default());
    let mut copied = Copied { releases: vec![], files: 0, present: 0 };
    for reference in references {
        let registry = Registry::open(reference, access, Rights::Pull)?;
        let (contents, collected) = Contents::collect(&registry, None)?;
        let names: BTreeSet<&String> = contents.entries.iter().filter_map(|entry| entry.name.as_ref()).collect();
        let other = |entry: &Entry| {
            let named = contents.entries.iter().find(|one| one.name == entry.name);
            named.is_some_and(|one| one.digest != entry.digest)
        };
        if let Some(twice) = new.entries.iter().find(|e| e.name.as_ref().is_some_and(|n| names.contains(n)) && other(e))
        {
            let name = text::escape(twice.name.as_deref().unwrap_or_default());
            let message = format!("{reference}: another reference of this command has a release \"{name}\"");
            return Err(Error::new(Reason::Usage, message).remedy("Copy it into another folder."));
        }
        for (digest, size) in &contents.blobs {
            copied.count(layout.fetch(&registry, &Blob { digest: *digest, size: *size })?);
        }
        for (digest, raw) in &contents.documents {
            copied.count(layout.put(*digest, raw)?);
        }
        let release = contents.entries.iter().find(|entry| entry.name.as_deref() == Some(&collected.name));
        copied.releases.extend(release.map(|entry| (collected.name.clone(), entry.digest)));
        new.merge(contents);
    }
    layout.switch(&old, new)?;
    Ok(copied)
}

/// Copies releases of a layout into a repository: all of them, or the one with the tag of `reference`. Signatures and other
/// attachments come first, tags last.
///
/// # Errors
/// 64 for a digest, 65 for a layout that is not complete, 69 where the registry does not answer.
pub fn push(folder: &Path, reference: &str, access: &Access) -> Result<Copied> {
    let layout = Layout { folder: folder.to_owned() };
    let registry = Registry::open(reference, access, Rights::Push)?;
    if registry.digest().is_some() {
        return Err(Error::new(Reason::Usage, format!("{}: copy writes tags", registry.reference()))
            .remedy("Name a repository, or one of the releases in the folder by its tag."));
    }
    let contents = layout.complete(registry.tag())?;
    let releases: Vec<&Entry> = contents.entries.iter().filter(|entry| entry.is_release()).collect();
    if releases.is_empty() {
        let tag = registry.tag().map_or(String::new(), |tag| format!(" \"{tag}\""));
        let names: Vec<String> =
            layout.entries()?.into_iter().filter(Entry::is_release).filter_map(|e| e.name).collect();
        let message = format!("{} has no release{tag}; it has: {}", folder.display(), text::escape(&names.join(", ")));
        return Err(
            Error::new(Reason::TagNotFound, message).remedy("Name one of them as the tag, or leave the tag out.")
        );
    }
    for entry in &contents.entries {
        entry.name.as_deref().map_or(Ok(()), |name| registry.check_tag(name))?;
    }
    let files = contents.blobs.len() + contents.documents.len();
    let mut copied = Copied { releases: vec![], files, present: 0 };
    for (digest, size) in &contents.blobs {
        let blob = Blob { digest: *digest, size: *size };
        copied.present += usize::from(!registry.put_file(&digest.to_string(), &blob, &layout.file(digest))?);
    }
    for digest in &contents.order {
        let raw = &contents.documents[digest];
        registry.put_manifest(None, raw, Document::parse(raw)?.media_type())?;
    }
    for digest in &contents.order {
        list(&registry, &contents.documents[digest])?;
    }
    let mut named: Vec<(&String, &Entry)> =
        contents.entries.iter().filter_map(|entry| Some((entry.name.as_ref()?, entry))).collect();
    named.sort_by_key(|(_, entry)| entry.is_release());
    for (name, entry) in named {
        tag(&registry, name, &contents.documents[&entry.digest])?;
        copied.releases.extend(entry.is_release().then(|| (name.clone(), entry.digest)));
    }
    Ok(copied)
}

impl Copied {
    fn count(&mut self, written: bool) {
        self.files += 1;
        self.present += usize::from(!written);
    }
}

/// Lists a document as a referrer of its subject.
fn list(registry: &Registry, raw: &[u8]) -> Result<()> {
    let document = Document::parse(raw)?;
    let Some(subject) = &document.subject else { return Ok(()) };
    let entry = json!({
        "mediaType": document.media_type(),
        "artifactType": document.artifact_type(),
        "digest": Digest::of(raw),
        "size": raw.len(),
        "annotations": document.annotations,
    });
    let what = document.artifact_type().map_or("an attachment".into(), text::escape);
    referrer::list(registry, subject.digest.parse()?, &entry, &what)
}

/// Moves a tag, unless it is a list of referrers: the registry's own list may have more.
fn tag(registry: &Registry, name: &str, raw: &[u8]) -> Result<()> {
    let media_type = Document::parse(raw)?.media_type();
    if is_list(name) && matches!(media_type, OCI_INDEX_TYPE | DOCKER_INDEX_TYPE) {
        return Ok(());
    }
    if name.starts_with("sha256-")
        && let Some(old) = registry.manifest(name)?.filter(|old| *old != raw)
    {
        log::warn!("{name} of {} was {}, and is replaced", registry.name(), Digest::of(&old));
    }
    registry.put_manifest(Some(name), raw, media_type).map(drop)
}

/// True for the name of a list of referrers: `sha256-HEX`.
fn is_list(name: &str) -> bool {
    subject_of(name).is_some() && !name.contains('.')
}

/// The manifest that a tag of attachments is about.
fn subject_of(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("sha256-")?.get(..64)?).parse().ok()
}

/// A folder with an OCI image layout.
/// <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>
struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// Makes a new folder a layout, or takes one that is a layout already.
    fn prepare(folder: &Path) -> Result<Self> {
        let failed = || format!("write {}", folder.display());
        let content = fs::read_dir(folder).map(|mut content| content.next().is_some());
        if content.unwrap_or(false) && !is_layout(folder) {
            let message = format!("{} has other files, and is no OCI image layout", folder.display());
            return Err(Error::new(Reason::Usage, message).remedy("Name a new folder, an empty one or a layout."));
        }
        fs::create_dir_all(folder.join(BLOBS)).context(Reason::NotWritten, failed())?;
        if !is_layout(folder) {
            replace(&folder.join(MARK), OCI_LAYOUT, 0o644).context(Reason::NotWritten, failed())?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.folder.join(BLOBS).join(digest.hex())
    }

    fn has(&self, digest: &Digest) -> bool {
        blob(&self.file(digest)).is_ok_and(|found| found.digest == *digest)
    }

    /// Entries of `index.json`; none without that file.
    fn entries(&self) -> Result<Vec<Entry>> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Value>,
        }
        let path = self.folder.join(INDEX);
        let raw = match files::read_data(&path, INDEX_BYTES + 1) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            read => read.context(Reason::BundleUnreadable, format!("read {}", path.display()))?,
        };
        let malformed = |why: String| {
            Error::new(Reason::MalformedBundle, format!("{} is not the index of a layout: {why}", path.display()))
        };
        let index: Index = serde_json::from_slice(&raw).map_err(|e| malformed(e.to_string()))?;
        if raw.len() as u64 > INDEX_BYTES || index.manifests.len() > ENTRIES {
            return Err(limits::exceeded(path.display(), format_args!("{INDEX_BYTES} bytes or {ENTRIES} entries")));
        }
        let entry = |value: Value| {
            let digest = value["digest"].as_str().and_then(|digest| digest.parse().ok());
            // skopeo and oras write the tag alone, others the whole reference.
            let name = value["annotations"][REF_NAME].as_str();
            let name = name.map(|name| name.rsplit(['/', ':']).next().unwrap_or(name).to_owned());
            let digest = digest.ok_or_else(|| malformed("an entry has no digest".into()))?;
            Ok(Entry { name, digest, value })
        };
        index.manifests.into_iter().map(entry).collect()
    }

    /// A manifest or an index; `None` if it is not there.
    fn document(&self, digest: &Digest) -> Result<Option<Bytes>> {
        let path = self.file(digest);
        let raw = match files::read_data(&path, limits::MANIFEST_BYTES + 1) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.context(Reason::BundleUnreadable, format!("read {}", path.display()))?,
        };
        if raw.len() as u64 > limits::MANIFEST_BYTES {
            return Err(limits::exceeded(path.display(), format_args!("{} bytes", limits::MANIFEST_BYTES)));
        }
        if Digest::of(&raw) != *digest {
            let message = format!("{} has other bytes than its name says", path.display());
            return Err(Error::new(Reason::DigestMismatch, message).remedy("Copy the folder again."));
        }
        Ok(Some(raw.into()))
    }

    /// Adds an entry with all that it names.
    fn add(&self, contents: &mut Contents, entry: &Entry) -> Result<()> {
        let raw = self.document(&entry.digest)?.ok_or_else(|| {
            let message = format!("{} has an entry without its file, {}", self.folder.display(), entry.digest);
            Error::new(Reason::MalformedBundle, message).remedy("Copy the folder again.")
        })?;
        contents.add(&raw, &|digest| self.document(digest))?;
        contents.entries.push(entry.clone());
        Ok(())
    }

    /// The releases of the layout, or one of them, and all that is attached to them.
    fn complete(&self, tag: Option<&str>) -> Result<Contents> {
        let (mut contents, mut left) = (Contents::default(), vec![]);
        let wanted = |name: &str| tag.is_none_or(|tag| name == tag || name.strip_suffix(TAG_SUFFIX) == Some(tag));
        for entry in self.entries()? {
            match &entry.name {
                Some(name) if subject_of(name).is_none() => {
                    if wanted(name) {
                        self.add(&mut contents, &entry)?;
                    }
                }
                _ => left.push(entry),
            }
        }
        self.attach(&mut contents, left)?;
        for (digest, size) in &contents.blobs {
            let found = fs::metadata(self.file(digest)).map(|meta| meta.len()).ok();
            if found != Some(*size) {
                let found = found.map_or("missing".into(), |found| format!("{found} bytes, not {size}"));
                let message = format!("{}: {digest} is {found}", self.folder.display());
                return Err(Error::new(Reason::MalformedBundle, message).remedy("Copy the folder again."));
            }
        }
        Ok(contents)
    }

    /// Adds those entries that are about something in `contents`, and those about them.
    fn attach(&self, contents: &mut Contents, mut left: Vec<Entry>) -> Result<()> {
        loop {
            let mut rest = vec![];
            let before = contents.documents.len();
            for entry in left {
                match self.subject(&entry)? {
                    Some(subject) if contents.documents.contains_key(&subject) => self.add(contents, &entry)?,
                    _ => rest.push(entry),
                }
            }
            if contents.documents.len() == before {
                return Ok(());
            }
            left = rest;
        }
    }

    /// The manifest that an entry is about.
    fn subject(&self, entry: &Entry) -> Result<Option<Digest>> {
        if let Some(subject) = entry.name.as_deref().and_then(subject_of) {
            return Ok(Some(subject));
        }
        let Some(raw) = self.document(&entry.digest)? else { return Ok(None) };
        let subject = Document::parse(&raw).ok().and_then(|document| document.subject);
        Ok(subject.and_then(|subject| subject.digest.parse().ok()))
    }

    /// Fetches a file, unless it is there. True if it was fetched.
    fn fetch(&self, registry: &Registry, blob: &Blob) -> Result<bool> {
        if self.has(&blob.digest) {
            return Ok(false);
        }
        let path = self.file(&blob.digest);
        let failed = || format!("write {}", path.display());
        let mut replacement = Replacement::begin(&path, 0o644).context(Reason::NotWritten, failed())?;
        registry.blob_to("file", blob, replacement.file())?;
        replacement.finish().context(Reason::NotWritten, failed())?;
        Ok(true)
    }

    fn put(&self, digest: Digest, raw: &[u8]) -> Result<bool> {
        if self.has(&digest) {
            return Ok(false);
        }
        let path = self.file(&digest);
        replace(&path, raw, 0o644).context(Reason::NotWritten, format!("write {}", path.display()))?;
        Ok(true)
    }

    /// Replaces `index.json`: the new releases, and the old ones of other names. Then deletes what only the old ones needed.
    fn switch(&self, old: &[Entry], new: Contents) -> Result<()> {
        let mut live = new;
        let known = |live: &Contents, entry: &Entry| {
            live.entries.iter().any(|one| one.name == entry.name && (one.name.is_some() || one.digest == entry.digest))
        };
        let mut left = vec![];
        for entry in old {
            let is_attached = entry.name.as_deref().is_none_or(|name| subject_of(name).is_some());
            if known(&live, entry) {
                continue;
            }
            // An entry without a name and without a subject is of another tool: it stays.
            match is_attached && self.subject(entry).is_ok_and(|subject| subject.is_some()) {
                true => left.push(entry.clone()),
                false => self.keep(&mut live, entry)?,
            }
        }
        self.attach(&mut live, left)?;
        let path = self.folder.join(INDEX);
        replace(&path, &Contents::index(&live.entries), 0o644)
            .context(Reason::NotWritten, format!("write {}", path.display()))?;
        self.delete(old, &live)
    }

    /// Keeps an old entry. One that lacks a file stays as it is.
    fn keep(&self, live: &mut Contents, entry: &Entry) -> Result<()> {
        match self.add(live, entry) {
            Err(e) if matches!(e.exit(), Exit::Data | Exit::Unavailable) => {
                log::warn!("{e}");
                live.entries.push(entry.clone());
                Ok(())
            }
            added => added,
        }
    }

    /// Deletes the files that old entries named and no new one does. Files that no entry named are not ours.
    fn delete(&self, old: &[Entry], live: &Contents) -> Result<()> {
        let mut was = Contents::default();
        for entry in old {
            // The files of an incomplete release stay.
            let _ = self.add(&mut was, entry);
        }
        let is_live = |digest: &Digest| live.documents.contains_key(digest) || live.blobs.contains_key(digest);
        for digest in was.documents.keys().chain(was.blobs.keys()).filter(|digest| !is_live(digest)) {
            let path = self.file(digest);
            match fs::remove_file(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                removed => removed.context(Reason::NotWritten, format!("delete {}", path.display()))?,
            }
        }
        replace::sync_folder(&self.file(&Digest::of(b""))).context(Reason::NotWritten, "sync the folder")
    }
}
