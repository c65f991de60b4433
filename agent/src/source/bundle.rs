//! A release in one file, for where there is no network: an OCI image layout in a tar archive, as `kubesolo-release bundle`,
//! `skopeo copy ... oci-archive:` and `oras cp --to-oci-layout` make it. Nothing is unpacked: the headers of the archive are
//! read once, and then each file where it lies.

mod medium;
mod tar;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::body::Body;
use crate::release::offer::Offer;
use crate::release::release::{self, Architecture, Blob, Descriptor, Image};
use crate::release::statement::{Published, TAG_SUFFIX};
use crate::source::artifact::{
    self, Document, Index, SIGNATURE_BYTES, check_digest, check_size, choose, index_signed_alone,
};
use crate::source::signatures::{Attachments, Referrers, Search};
use crate::source::source::{Known, Source};
use crate::source::statement;
use crate::trust::signature::Signature;
use medium::Medium;

/// The name of an entry of `index.json`, as every tool writes it: a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// An image on its way, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// A bundle that was opened.
pub struct BundleSource {
    file: Rc<Medium>,
    layout: Layout,
    tag: Option<String>,
    default_tag: String,
    origin: String,
    offered: Option<Offered>,
}

/// The last offer.
struct Offered {
    release: Digest,
    /// The index that led to it, if one did.
    index: Option<Digest>,
    search: Search,
    /// The release has a signature, by whatever key.
    found: bool,
}

/// Members of an archive and their places.
struct Layout {
    blobs: BTreeMap<Digest, tar::Extent>,
    /// `index.json`
    index: Index,
}

/// Reads what an archive of `size` bytes says about itself; no image is read.
fn layout(mut archive: impl Read + Seek, size: u64) -> Result<Layout> {
    let mut blobs = BTreeMap::new();
    let (mut index, mut marked) = (None, false);
    for entry in tar::entries(&mut archive, size)? {
        let extent = entry.extent;
        let first = match entry.name.as_str() {
            "index.json" => index.replace(extent).is_none(),
            "oci-layout" => !std::mem::replace(&mut marked, true),
            name => match name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok()) {
                Some(digest) => blobs.insert(digest, extent).is_none(),
                None => true,
            },
        };
        if !first {
            return Err(malformed(format_args!("it has two files {}", text::escape(&entry.name))));
        }
    }
    let (Some(index), true) = (index, marked) else {
        return Err(malformed("not an OCI image layout: oci-layout or index.json is missing"));
    };
    if index.size > limits::INDEX_BYTES {
        return Err(limits::exceeded("index.json of the bundle", format_args!("{} bytes", limits::INDEX_BYTES)));
    }
    let index = Index::parse(&tar::read(&mut archive, index)?, "index.json of the bundle", limits::REFERRERS)?;
    Ok(Layout { blobs, index })
}

/// Reads an archive as a device does before it looks at a release.
pub(crate) fn read(archive: impl Read + Seek, size: u64) -> Result<()> {
    layout(archive, size)?.release(None, "stable").map(drop)
}

impl Layout {
    /// The entry of `index.json` with the release: the only one that has a name of its own, or the one with this name; or
    /// the only one at all.
    fn release(&self, tag: Option<&str>, default_tag: &str) -> Result<&Descriptor> {
        let known = |entry: &&Descriptor| {
            let types = [
                release::OCI_INDEX_TYPE,
                release::DOCKER_INDEX_TYPE,
                release::OCI_MANIFEST_TYPE,
                release::DOCKER_MANIFEST_TYPE,
            ];
            types.contains(&entry.media_type.as_str())
                && entry.artifact_type.as_deref() != Some(release::SIGNATURE_TYPE)
        };
        let all: Vec<&Descriptor> = self.index.manifests.iter().filter(known).collect();
        let mut named: Vec<&Descriptor> = all.iter().copied().filter(|entry| is_release_name(name(entry))).collect();
        if named.is_empty() {
            named = all;
        }
        let distinct = |entries: &[&Descriptor]| entries.iter().any(|entry| entry.digest != entries[0].digest);
        if tag.is_some() || distinct(&named) {
            let wanted = tag.unwrap_or(default_tag);
            named.retain(|entry| name(entry) == Some(wanted));
        }
        match named.first() {
            Some(entry) if !distinct(&named) => Ok(entry),
            Some(_) => Err(malformed("it has two releases of one name")),
            None => {
                let names = self.index.manifests.iter().filter_map(name).filter(|n| is_release_name(Some(n)));
                let names = text::escape(&names.collect::<Vec<_>>().join(", "));
                let message = format!("the bundle has no release \"{}\"; it has: {names}", shown_tag(tag, default_tag));
                Err(Error::new(Reason::TagNotFound, message).remedy("Name one of them with --tag."))
            }
        }
    }

    fn named(&self, wanted: &str) -> Option<&Descriptor> {
        self.index.manifests.iter().find(|entry| name(entry) == Some(wanted))
    }
}

fn shown_tag(tag: Option<&str>, default_tag: &str) -> String {
    text::escape(tag.unwrap_or(default_tag))
}

/// skopeo and oras write the tag alone, others the whole reference.
fn name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(|name| name.rsplit(['/', ':']).next().unwrap_or(name))
}

/// Not one that a registry would have for what is attached to a release.
fn is_release_name(name: Option<&str>) -> bool {
    name.is_some_and(|name| !name.starts_with("sha256-") && !name.ends_with(TAG_SUFFIX))
}

impl fmt::Debug for BundleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleSource").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl BundleSource {
    /// Opens a bundle and reads its headers. A `tag` is needed only where it has several releases; `default_tag` is
    /// preferred then.
    ///
    /// # Errors
    /// 69 when it cannot be read, 65 when it is no bundle.
    pub fn open(path: &Path, tag: Option<&str>, default_tag: &str) -> Result<Self> {
        let origin = format!("bundle {}", text::escape(&path.display().to_string()));
        let unreadable = |why: String| {
            Error::new(Reason::BundleUnreadable, format!("cannot read {origin}: {why}"))
                .remedy("Name a file from `kubesolo-release bundle`, on a mounted medium.")
        };
        let file = Medium::open(path).map_err(|e| unreadable(e.to_string()))?;
        let layout = layout(file.reader(), file.length).map_err(|e| file.explain(e).context(&origin))?;
        let (tag, default_tag) = (tag.map(str::to_owned), default_tag.to_owned());
        Ok(Self { file: Rc::new(file), layout, tag, default_tag, origin, offered: None })
    }

    /// Compares every file of the archive with its digest, those of other architectures too. Returns those that differ.
    ///
    /// # Errors
    /// 65 for more than [`limits::BUNDLE_BYTES`], of which none is compared.
    pub fn damage(&self) -> Result<Vec<(Digest, Error)>> {
        let blobs = &self.layout.blobs;
        if blobs.values().fold(0, |sum: u64, extent| sum.saturating_add(extent.size)) > limits::BUNDLE_BYTES {
            return Err(limits::exceeded(&self.origin, format_args!("{} bytes in its files", limits::BUNDLE_BYTES)));
        }
        let compared =
            |(digest, extent): (&Digest, &tar::Extent)| Some((*digest, self.compare(*digest, *extent).err()?));
        Ok(blobs.iter().filter_map(compared).collect())
    }

    fn compare(&self, digest: Digest, extent: tar::Extent) -> Result<()> {
        let mut body = BundleBody { file: self.file.clone(), rest: extent, origin: self.origin.clone() };
        let mut hash = Sha256::new();
        while let Some(chunk) = body.chunk()? {
            hash.update(&chunk);
        }
        let found = Digest(hash.finalize().into());
        if found == digest {
            return Ok(());
        }
        Err(Error::new(Reason::DigestMismatch, format!("the digest is {found}, not {digest}"))
            .remedy("Copy the bundle again, or make it again."))
    }

    fn read(&self, digest: Digest, limit: u64, what: &str) -> Result<Vec<u8>> {
        let extent = self.extent(digest, what)?;
        if extent.size > limit {
            return Err(limits::exceeded(what, format_args!("{limit} bytes")));
        }
        let raw = tar::read(&mut self.file.reader(), extent).map_err(|e| e.context(&self.origin))?;
        check_digest(&raw, digest, what)?;
        Ok(raw)
    }

    fn extent(&self, digest: Digest, what: &str) -> Result<tar::Extent> {
        self.layout.blobs.get(&digest).copied().ok_or_else(|| {
            let message = format!("{} lacks {what} ({digest})", self.origin);
            Error::new(Reason::NotFound, message).remedy("Make the complete bundle again.")
        })
    }

    /// A manifest or an index, of its size and digest.
    fn document(&self, entry: &Descriptor, what: &str) -> Result<Document> {
        let raw = self.read(entry.digest.parse()?, limits::MANIFEST_BYTES, what)?;
        check_size(&raw, entry.size, what)?;
        Ok(Document { raw, said: Some(entry.media_type.clone()) })
    }
}

impl Attachments for BundleSource {
    /// All entries of the layout: a manifest in it says itself what it is attached to.
    fn referrers(&self, _: Digest, _: Option<&str>, _: u64) -> Result<Option<Referrers>> {
        Ok(Some(Referrers { entries: self.layout.index.manifests.clone(), ..Referrers::default() }))
    }

    fn tagged(&self, tag: &str, _: u64, what: &str) -> Result<Option<Vec<u8>>> {
        let entry = self.layout.named(tag);
        entry.map(|entry| Ok(self.document(entry, what)?.raw)).transpose()
    }

    fn manifest(&self, entry: &Descriptor, what: &str) -> Result<Vec<u8>> {
        Ok(self.document(entry, what)?.raw)
    }

    fn blob(&self, digest: Digest, limit: u64, what: &str) -> Result<Vec<u8>> {
        self.read(digest, limit, what)
    }
}

impl Source for BundleSource {
    fn look(&mut self, _: &Known<'_>) -> Result<Digest> {
        self.layout.release(self.tag.as_deref(), &self.default_tag).map_err(|e| e.context(&self.origin))?.digest.parse()
    }

    fn offer(&mut self, architecture: Architecture) -> Result<Offer> {
        let entry = self.layout.release(self.tag.as_deref(), &self.default_tag).map_err(|e| e.context(&self.origin))?;
        let document = self.document(entry, &self.origin)?;
        let chosen = choose(document, architecture, &self.origin, |entry, what| self.document(entry, what))?;
        let mut search = Search::new(chosen.release.digest);
        let signatures = search.first(self);
        let (release, index, found) = (chosen.release.digest, chosen.index, !signatures.is_empty());
        self.offered = Some(Offered { release, index, search, found });
        Ok(chosen.offer(signatures, self.origin.clone()))
    }

    fn more_signatures(&mut self) -> Option<Vec<Signature>> {
        let mut offered = self.offered.take()?;
        let found = offered.search.next(self);
        offered.found |= found.is_some();
        self.offered = Some(offered);
        found.map(|found| found.signatures)
    }

    fn hindrance(&mut self) -> Option<Error> {
        let offered = self.offered.as_mut()?;
        let hindrance = offered.search.hindrance();
        let (release, index) = (offered.release, offered.index.filter(|_| !offered.found));
        hindrance.or_else(|| {
            Search::new(index?).next(self)?;
            Some(index_signed_alone(&self.origin, index?, release))
        })
    }

    /// Of the release that is in the bundle, by the name that it has there.
    fn freshness(&mut self) -> Result<Option<Published>> {
        let release =
            self.layout.release(self.tag.as_deref(), &self.default_tag).map_err(|e| e.context(&self.origin))?;
        let tag = name(release).map(|tag| format!("{tag}{TAG_SUFFIX}"));
        let Some(entry) = tag.and_then(|tag| self.layout.named(&tag)) else { return Ok(None) };
        let what = "freshness statement";
        let (statement, signatures) = statement::layers(&self.document(entry, what)?.raw, what)?;
        let one = |(digest, key_id)| {
            let bytes = self.read(digest, SIGNATURE_BYTES, what)?;
            artifact::signature(bytes, key_id, what)
        };
        let signatures = signatures.into_iter().map(one).collect::<Result<_>>()?;
        Ok(Some(Published { statement: self.read(statement, limits::FRESHNESS_BYTES, what)?, signatures }))
    }

    fn locate(&mut self, image: Image) -> Result<Blob> {
        image.blob().ok_or_else(|| Error::new(Reason::Internal, "accepted a manifest without sizes"))
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>> {
        let what = format!("image {}", blob.digest);
        let extent = self.extent(blob.digest, &what)?;
        if extent.size != blob.size {
            let message = format!("{what} of {} has {} bytes, not {}", self.origin, extent.size, blob.size);
            return Err(Error::new(Reason::SizeMismatch, message));
        }
        Ok(Box::new(BundleBody { file: self.file.clone(), rest: extent, origin: self.origin.clone() }))
    }
}

/// An image, read where it lies.
struct BundleBody {
    file: Rc<Medium>,
    rest: tar::Extent,
    origin: String,
}

impl Body for BundleBody {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        // At most a chunk.
        let wanted = self.rest.size.min(CHUNK_BYTES as u64) as usize;
        if wanted == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; wanted];
        self.file.read_at(&mut bytes, self.rest.offset).map_err(|e| tar::failed(&e).context(&self.origin))?;
        self.rest = tar::Extent { offset: self.rest.offset + wanted as u64, size: self.rest.size - wanted as u64 };
        Ok(Some(bytes.into()))
    }
}

fn malformed(why: impl fmt::Display) -> Error {
    Error::new(Reason::MalformedBundle, format!("not a bundle: {why}"))
        .remedy("Make the bundle again with `kubesolo-release bundle`, and compare the copy with the original.")
}
