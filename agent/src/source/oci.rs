//! Releases in an OCI registry.

use std::fmt;
use std::rc::Rc;

use reqwest::Url;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::answer::{self, Answer};
use crate::fetch::blob::BlobBody;
use crate::fetch::body::{Body, Parts, Start};
use crate::fetch::client::{Client, Deadline, Request};
use crate::fetch::options::FetchOptions;
use crate::release::offer::Offer;
use crate::release::release::{self, Architecture, Blob, Descriptor, Image};
use crate::release::statement::{Published, TAG_SUFFIX};
use crate::source::artifact::{
    self, Document, Index, SIGNATURE_BYTES, check_digest, check_size, choose, index_signed_alone,
};
use crate::source::signatures::{self, Attachments, Referrers, Search};
use crate::source::source::{Known, Source};
use crate::source::{reference, statement};
use crate::trust::signature::Signature;

/// Types of a request for a manifest: every known one, or registries convert or refuse.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry, at one tag or digest.
pub struct OciSource {
    client: Rc<Client>,
    root: Url,
    repository: String,
    wanted: Wanted,
    origin: String,
    looked: Option<Looked>,
    offered: Option<Offered>,
}

/// The last look.
struct Looked {
    /// End of the time for all documents.
    deadline: Deadline,
    seen: Seen,
}

enum Seen {
    /// What the name stands for.
    Document(Answer),
    /// Only its digest.
    Digest(Digest),
}

/// The last offer.
struct Offered {
    release: Digest,
    /// The index that led to it, if one did.
    index: Option<Digest>,
    /// End of the time for all documents.
    deadline: Deadline,
    search: Search,
    /// The release has a signature, by whatever key.
    found: bool,
}

enum Wanted {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Debug for OciSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciSource").field("origin", &self.origin).finish_non_exhaustive()
    }
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
            let message = format!("registry \"{}\": {why}", text::escape(safe));
            Error::new(Reason::BadReference, message).remedy(
                "Write it as host.name/path, host:port/path:tag or host.name/path@sha256:...; a host has a dot or a port.",
            )
        };
        let parts = reference::parse(text).map_err(bad)?;
        let wanted = match (parts.digest, tag) {
            (Some(_), Some(_)) => return Err(bad("it has a digest, so it cannot have a tag")),
            (Some(digest), None) => Wanted::Digest(digest.parse().map_err(|e: Error| bad(&e.message))?),
            (None, tag) => {
                let tag = tag.or(parts.tag).unwrap_or(default_tag).to_owned();
                if !reference::is_tag(&tag) {
                    let message = format!("\"{}\" is not a valid tag", text::escape(&tag));
                    return Err(Error::new(Reason::BadTag, message)
                        .remedy("Name the tag: up to 128 letters, digits, dots, dashes and underscores."));
                }
                Wanted::Tag(tag)
            }
        };
        let mut client = Client::new(options)?;
        let root = client.root(reference::server(parts.host))?;
        client.set_source(&root)?;
        let name = format!("{}/{}", parts.host, parts.repository);
        let origin = match &wanted {
            Wanted::Tag(tag) => format!("{name}:{tag}"),
            Wanted::Digest(digest) => format!("{name}@{digest}"),
        };
        Ok(Self {
            client: Rc::new(client),
            root,
            wanted,
            origin,
            repository: parts.repository.to_owned(),
            looked: None,
            offered: None,
        })
    }

    fn url(&self, kind: &str, reference: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.repository));
        url
    }

    /// The digest that the name stands for, without what it stands for; `None` if the registry cannot say it so.
    fn named(&self, deadline: Deadline) -> Result<Option<Digest>> {
        let url = self.url("manifests", &self.wanted.to_string());
        let request = Request { url: &url, accept: MANIFESTS, limit: 0, what: &self.origin };
        let headers = self.client.head(&request, deadline)?;
        Ok(headers.and_then(|headers| answer::digest_of(&headers)))
    }

    /// The one read of the tag: everything after it goes by digest.
    fn resolve(&self, wanted: &Wanted, deadline: Deadline) -> Result<Answer> {
        let limit = limits::INDEX_BYTES.max(limits::MANIFEST_BYTES);
        let url = self.url("manifests", &wanted.to_string());
        let request = Request { url: &url, accept: MANIFESTS, limit, what: &self.origin };
        let answer = self.client.document(&request, deadline)?;
        if answer.status == 404 {
            let what = if matches!(wanted, Wanted::Tag(_)) { "tag" } else { "digest" };
            let message = format!("{}: the registry has no such {what}", self.origin);
            return Err(Error::new(Reason::TagNotFound, message)
                .remedy(format!("Check registry, tag and channel against what was published. {}", answer::HIDDEN)));
        }
        let answer = answer.good(&self.origin)?;
        let expected = match wanted {
            Wanted::Digest(digest) => Some(*digest),
            Wanted::Tag(_) => answer::digest_of(&answer.headers),
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
        let request = Request { url: &url, accept: MANIFESTS, limit: limits::MANIFEST_BYTES, what };
        let answer = self.client.document(&request, deadline)?.good(what)?;
        check_size(&answer.body, entry.size, what)?;
        check_digest(&answer.body, digest, what)?;
        Ok(answer)
    }

    /// A blob that is read whole: a signature, a payload, a statement.
    fn small_blob(&self, digest: Digest, limit: u64, what: &str, deadline: Deadline) -> Result<Vec<u8>> {
        let request = Request { url: &self.url("blobs", &digest.to_string()), accept: "*/*", limit, what };
        let bytes = self.client.document(&request, deadline)?.good(what)?.body;
        check_digest(&bytes, digest, what)?;
        Ok(bytes)
    }

    /// This source as the search for signatures uses it.
    fn before(&self, deadline: Deadline) -> Attached<'_> {
        Attached { source: self, deadline }
    }

    /// The error of an index that is signed, of a release that is not; if no signature of the release was found.
    fn signed_index(&self, offered: &Offered) -> Option<Error> {
        let index = offered.index.filter(|_| !offered.found)?;
        Search::new(index).next(&self.before(offered.deadline))?;
        Some(index_signed_alone(&self.origin, index, offered.release))
    }
}

/// A source with the time that is left for its documents.
struct Attached<'a> {
    source: &'a OciSource,
    deadline: Deadline,
}

impl Attached<'_> {
    fn document(&self, url: &Url, accept: &str, limit: u64, what: &str) -> Result<Answer> {
        self.source.client.document(&Request { url, accept, limit, what }, self.deadline)
    }

    /// One list of the referrers interface; `None` without such an interface.
    fn referrers_page(&self, url: &Url, limit: u64, what: &str) -> Result<Option<(Answer, Index)>> {
        let accept = release::OCI_INDEX_TYPE;
        // The tag with the list is the better second attempt.
        let answer = self.source.client.document_once(&Request { url, accept, limit, what }, self.deadline)?;
        if answer.status.is_client_error() && !matches!(answer.status.as_u16(), 401 | 403) {
            log::debug!("no referrers interface: {}", answer.status.as_u16());
            return Ok(None);
        }
        let answer = answer.good(what)?;
        match Index::parse(&answer.body, what, usize::MAX) {
            Ok(index) => Ok(Some((answer, index))),
            Err(e) => {
                log::debug!("no referrers interface, but {:?}: {e}", answer.media_type());
                Ok(None)
            }
        }
    }
}

impl Attachments for Attached<'_> {
    fn referrers(&self, subject: Digest, kind: Option<&str>, room: u64) -> Result<Option<Referrers>> {
        let what = format!("list of referrers of {subject}");
        let mut url = self.source.url("referrers", &subject.to_string());
        if let Some(kind) = kind {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let Some((mut answer, index)) = self.referrers_page(&url, room, &what)? else { return Ok(None) };
        let mut found =
            Referrers { filtered: answer.headers.contains_key("oci-filters-applied"), ..Referrers::default() };
        let mut entries = index.manifests;
        loop {
            found.bytes += signatures::charge(answer.body.len());
            found.entries.append(&mut entries);
            let next = answer.next().filter(|next| next.origin() == answer.url.origin());
            let Some(next) = next else { return Ok(Some(found)) };
            match self.referrers_page(&next, room.saturating_sub(found.bytes), &what) {
                Ok(Some((page, index))) => (answer, entries) = (page, index.manifests),
                Ok(None) => return Ok(Some(found)),
                Err(e) => return Ok(Some(Referrers { failure: Some(e), ..found })),
            }
        }
    }

    fn tagged(&self, tag: &str, limit: u64, what: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.document(&self.source.url("manifests", tag), MANIFESTS, limit, what)?;
        if answer.status == 404 { Ok(None) } else { Ok(Some(answer.good(what)?.body)) }
    }

    fn manifest(&self, entry: &Descriptor, what: &str) -> Result<Vec<u8>> {
        Ok(self.source.manifest(entry, what, self.deadline)?.body)
    }

    fn blob(&self, digest: Digest, limit: u64, what: &str) -> Result<Vec<u8>> {
        self.source.small_blob(digest, limit, what, self.deadline)
    }
}

impl Source for OciSource {
    /// By HEAD, which registries do not count as a pull. Only a digest that is known is taken from it: some registries answer
    /// HEAD with the digest of another manifest.
    fn look(&mut self, known: &Known<'_>) -> Result<Digest> {
        let deadline = self.client.deadline();
        let named = if known.documents.is_empty() { None } else { self.named(deadline)? };
        let (digest, seen) = match named.filter(|digest| known.documents.contains(digest)) {
            Some(digest) => (digest, Seen::Digest(digest)),
            None => {
                let answer = self.resolve(&self.wanted, deadline)?;
                (Digest::of(&answer.body), Seen::Document(answer))
            }
        };
        self.looked = Some(Looked { deadline, seen });
        Ok(digest)
    }

    fn ratelimit_remaining(&self) -> Option<u64> {
        self.client.ratelimit_remaining()
    }

    fn offer(&mut self, architecture: Architecture) -> Result<Offer> {
        let looked = self.looked.take();
        let deadline = looked.as_ref().map_or_else(|| self.client.deadline(), |looked| looked.deadline);
        let answer = match looked.map(|looked| looked.seen) {
            Some(Seen::Document(answer)) => answer,
            Some(Seen::Digest(digest)) => self.resolve(&Wanted::Digest(digest), deadline)?,
            None => self.resolve(&self.wanted, deadline)?,
        };
        let chosen = choose(answer.into(), architecture, &self.origin, |entry, what| {
            Ok(self.manifest(entry, what, deadline)?.into())
        })?;
        let mut search = Search::new(chosen.release.digest);
        let signatures = search.first(&self.before(deadline));
        let (release, index, found) = (chosen.release.digest, chosen.index, !signatures.is_empty());
        self.offered = Some(Offered { release, index, deadline, search, found });
        Ok(chosen.offer(signatures, self.origin.clone()))
    }

    fn more_signatures(&mut self) -> Option<Vec<Signature>> {
        let mut offered = self.offered.take()?;
        let found = offered.search.next(&self.before(offered.deadline));
        offered.found |= found.is_some();
        self.offered = Some(offered);
        found.map(|found| found.signatures)
    }

    fn hindrance(&mut self) -> Option<Error> {
        let mut offered = self.offered.take()?;
        let hindrance = offered.search.hindrance().or_else(|| self.signed_index(&offered));
        self.offered = Some(offered);
        hindrance
    }

    /// At three requests and more; one where there is none.
    fn freshness(&mut self) -> Result<Option<Published>> {
        let Wanted::Tag(tag) = &self.wanted else { return Ok(None) };
        let tag = format!("{tag}{TAG_SUFFIX}");
        if !reference::is_tag(&tag) {
            return Ok(None);
        }
        let looked = self.looked.as_ref().map(|looked| looked.deadline);
        let deadline = self.offered.as_ref().map(|offered| offered.deadline).or(looked);
        let deadline = deadline.unwrap_or_else(|| self.client.deadline());
        let what = format!("freshness statement at tag {tag}");
        let url = self.url("manifests", &tag);
        let request = Request { url: &url, accept: MANIFESTS, limit: limits::MANIFEST_BYTES, what: &what };
        let answer = self.client.document(&request, deadline)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let (statement, signatures) = statement::layers(&answer.good(&what)?.body, &what)?;
        let fetch = |digest: Digest, limit| {
            let bytes = self.small_blob(digest, limit, &what, deadline)?;
            check_digest(&bytes, digest, &what)?;
            Ok::<_, Error>(bytes)
        };
        let one = |(digest, key_id)| {
            let bytes = fetch(digest, SIGNATURE_BYTES)?;
            artifact::signature(bytes, key_id, &what)
        };
        let signatures = signatures.into_iter().map(one).collect::<Result<_>>()?;
        Ok(Some(Published { statement: fetch(statement, limits::FRESHNESS_BYTES)?, signatures }))
    }

    fn locate(&mut self, image: Image) -> Result<Blob> {
        image.blob().ok_or_else(|| Error::new(Reason::Internal, "accepted a manifest without sizes"))
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>> {
        self.resume(blob, &Start::default())
    }

    fn resume(&mut self, blob: &Blob, start: &Start) -> Result<Box<dyn Body>> {
        let what = format!("image {} of {}", blob.digest, self.origin);
        let url = self.url("blobs", &blob.digest.to_string());
        Ok(Box::new(BlobBody::new(self.client.clone(), url, blob.size, what).begin(start)?))
    }

    fn parts(&mut self, blob: &Blob) -> Result<Option<Box<dyn Parts>>> {
        let what = format!("image {} of {}", blob.digest, self.origin);
        let url = self.url("blobs", &blob.digest.to_string());
        Ok(Some(Box::new(BlobBody::new(self.client.clone(), url, blob.size, what).parts())))
    }
}

impl From<Answer> for Document {
    fn from(answer: Answer) -> Self {
        Self { said: answer.media_type().map(str::to_owned), raw: answer.body }
    }
}
