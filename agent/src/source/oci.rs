//! Releases in an OCI registry.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use reqwest::Url;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::config::RegistryMirror;
use crate::fetch::answer::{self, Answer};
use crate::fetch::body::{Body, Parts, Start};
use crate::fetch::client::{Client, Deadline, Request};
use crate::fetch::options::FetchOptions;
use crate::release::offer::Offer;
use crate::release::release::{self, Architecture, Blob, Descriptor, Image};
use crate::release::statement::{Published, TAG_SUFFIX};
use crate::source::artifact::{
    self, Document, Index, SIGNATURE_BYTES, check_digest, check_size, choose, index_signed_alone,
};
use crate::source::mirrors::{self, AnyPlace, Place, Places, Purpose};
use crate::source::signatures::{self, Attachments, Referrers, Room, Search};
use crate::source::source::{Known, Source};
use crate::source::{reference, statement};
use crate::trust::signature::Signature;

/// Types of a request for a manifest: every known one, or registries convert or refuse.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry, at one tag or digest.
pub struct OciSource {
    client: Rc<Client>,
    places: Rc<Places>,
    wanted: Wanted,
    origin: String,
    looked: Option<Looked>,
    offered: Option<Offered>,
}

/// A document of a repository.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// `manifests` or `blobs`.
    kind: &'a str,
    /// A tag or a digest.
    reference: &'a str,
    accept: &'a str,
    limit: u64,
    what: &'a str,
}

/// The last look.
struct Looked {
    /// End of the time for all documents.
    deadline: Deadline,
    seen: Seen,
}

enum Seen {
    /// The document itself.
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
    /// One for each place, until it is over.
    searches: VecDeque<(usize, Search)>,
    /// Of the registry itself.
    hindrance: Option<Error>,
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
        let registry = Place::source(base(&client, parts.host, parts.repository)?);
        client.set_source(&registry.base)?;
        let mirror = |setting: &RegistryMirror| mirror(&client, setting, parts.host);
        let mirrors = options.registry_mirrors.iter().map(mirror).collect::<Result<_>>()?;
        let places = Rc::new(Places::new(mirrors, registry)?);
        let name = format!("{}/{}", parts.host, parts.repository);
        let origin = match &wanted {
            Wanted::Tag(tag) => format!("{name}:{tag}"),
            Wanted::Digest(digest) => format!("{name}@{digest}"),
        };
        Ok(Self { client: Rc::new(client), places, wanted, origin, looked: None, offered: None })
    }

    /// A document of one place, whatever the status. A mirror has one attempt: the next place is the second one.
    fn document(&self, place: &Place, asked: Asked<'_>, deadline: Deadline) -> Result<Answer> {
        let Asked { kind, reference, accept, limit, what } = asked;
        let request = Request { url: &place.url(&format!("{kind}/{reference}")), accept, limit, what };
        let deadline = place.deadline(deadline);
        if place.is_mirror() {
            self.client.document_once(&request, deadline)
        } else {
            self.client.document(&request, deadline)
        }
    }

    /// A document that `check` proves, of the first place that has it so.
    fn content(&self, asked: Asked<'_>, deadline: Deadline, check: impl Fn(&Answer) -> Result<()>) -> Result<Answer> {
        self.places.first(Purpose::Content, |place| {
            let answer = self.document(place, asked, deadline)?.good(asked.what)?;
            check(&answer)?;
            Ok(answer)
        })
    }

    /// The document itself. without what it stands for; `None` if the registry cannot say it so.
    fn named(&self, deadline: Deadline) -> Result<Option<Digest>> {
        for place in self.places.usable(Purpose::Tag) {
            let url = place.url(&format!("manifests/{}", self.wanted));
            let request = Request { url: &url, accept: MANIFESTS, limit: 0, what: &self.origin };
            let headers = match self.client.head(&request, place.deadline(deadline)) {
                Err(e) if place.is_mirror() => {
                    place.failed(&e);
                    None
                }
                answer => answer?,
            };
            if let Some(digest) = headers.and_then(|headers| answer::digest_of(&headers)) {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// The document of this digest at a mirror; the registry counts a GET of it.
    fn mirrored(&self, digest: Digest, deadline: Deadline) -> Option<Answer> {
        let reference = digest.to_string();
        self.places.usable(Purpose::Content).filter(|place| place.is_mirror()).find_map(|place| {
            let answer = self.read(place, &reference, deadline).and_then(|answer| {
                check_digest(&answer.body, digest, &self.origin)?;
                Ok(answer)
            });
            answer.map_err(|e| place.failed(&e)).ok()
        })
    }

    /// The document that a name or a digest stands for at one place.
    fn read(&self, place: &Place, reference: &str, deadline: Deadline) -> Result<Answer> {
        let limit = limits::INDEX_BYTES.max(limits::MANIFEST_BYTES);
        let asked = Asked { kind: "manifests", reference, accept: MANIFESTS, limit, what: &self.origin };
        self.document(place, asked, deadline)?.good(&self.origin)
    }

    /// The one read of the tag: everything after it goes by digest.
    fn resolve(&self, wanted: &Wanted, deadline: Deadline) -> Result<Answer> {
        let (purpose, what) = match wanted {
            Wanted::Tag(_) => (Purpose::Tag, "tag"),
            Wanted::Digest(_) => (Purpose::Content, "digest"),
        };
        let answer = self.places.first(purpose, |place| {
            let answer = self.read(place, &wanted.to_string(), deadline)?;
            let expected = match wanted {
                Wanted::Digest(digest) => Some(*digest),
                Wanted::Tag(_) => answer::digest_of(&answer.headers),
            };
            if let Some(expected) = expected {
                check_digest(&answer.body, expected, &self.origin)?;
            }
            Ok(answer)
        });
        answer.map_err(|e| match e.reason {
            Reason::NotFound => {
                let message = format!("{}: the registry has no such {what}", self.origin);
                Error::new(Reason::TagNotFound, message)
                    .remedy(format!("Check registry, tag and channel against what was published. {}", answer::HIDDEN))
            }
            _ => e,
        })
    }

    /// Fetches the manifest that `entry` describes, and nothing else.
    fn manifest(&self, entry: &Descriptor, what: &str, deadline: Deadline) -> Result<Answer> {
        let digest: Digest = entry.digest.parse()?;
        if entry.size > limits::MANIFEST_BYTES {
            return Err(limits::exceeded(what, format_args!("{} bytes", limits::MANIFEST_BYTES)));
        }
        let reference = digest.to_string();
        let limit = limits::MANIFEST_BYTES;
        let asked = Asked { kind: "manifests", reference: &reference, accept: MANIFESTS, limit, what };
        self.content(asked, deadline, |answer| {
            check_size(&answer.body, entry.size, what)?;
            check_digest(&answer.body, digest, what)
        })
    }

    /// A blob that is read whole: a signature, a payload, a statement.
    fn small_blob(&self, digest: Digest, limit: u64, what: &str, deadline: Deadline) -> Result<Vec<u8>> {
        let asked = Asked { kind: "blobs", reference: &digest.to_string(), accept: "*/*", limit, what };
        Ok(self.content(asked, deadline, |answer| check_digest(&answer.body, digest, what))?.body)
    }

    /// An image, at every place.
    fn image(&self, blob: &Blob) -> mirrors::Wanted {
        let what = format!("image {} of {}", blob.digest, self.origin);
        let urls = self.places.all().iter().map(|place| Some(place.url(&format!("blobs/{}", blob.digest)))).collect();
        mirrors::Wanted { client: self.client.clone(), urls, size: blob.size, what, named: false }
    }

    /// A place as the search for signatures uses it.
    fn attached(&self, at: usize, deadline: Deadline) -> Attached<'_> {
        Attached { source: self, place: &self.places.all()[at], deadline }
    }

    /// The error of an index that is signed, of a release that is not; if no signature of the release was found.
    fn signed_index(&self, offered: &Offered) -> Option<Error> {
        let index = offered.index.filter(|_| !offered.found)?;
        let registry = self.places.all().len() - 1;
        Search::new(index).next(&self.attached(registry, offered.deadline))?;
        Some(index_signed_alone(&self.origin, index, offered.release))
    }
}

/// The folder of a repository.
fn base(client: &Client, host: &str, repository: &str) -> Result<Url> {
    let mut base = client.root(reference::server(host))?;
    base.set_path(&format!("/v2/{repository}/"));
    Ok(base)
}

/// A mirror of the settings, for this registry.
fn mirror(client: &Client, setting: &RegistryMirror, registry: &str) -> Result<Place> {
    let bad = |why: &str| mirrors::bad(&format!("\"{}\": {why}", setting.place));
    let parts = reference::parse(&setting.place).map_err(bad)?;
    if parts.tag.is_some() || parts.digest.is_some() {
        return Err(bad("it has a tag or a digest"));
    }
    let mut place = Place::mirror(base(client, parts.host, parts.repository)?);
    (place.resolves, place.ns) = (setting.resolve, setting.ns.then(|| registry.to_owned()));
    Ok(place)
}

/// A place with the time that is left for its documents. Lists and tags are those of the place, and the rest, which has a
/// digest, comes from anywhere.
struct Attached<'a> {
    source: &'a OciSource,
    place: &'a Place,
    deadline: Deadline,
}

impl Attached<'_> {
    /// A mirror that does not answer is not asked again; a status of one place says nothing about the others.
    fn without_answer(&self, e: &Error) {
        if self.place.is_mirror() && matches!(e.reason, Reason::Unreachable | Reason::Timeout) {
            self.place.failed(e);
        }
    }

    /// One list of the referrers interface; `None` without such an interface.
    fn referrers_page(&self, url: &Url, limit: u64, what: &str) -> Result<Option<(Answer, Index)>> {
        let accept = release::OCI_INDEX_TYPE;
        let deadline = self.place.deadline(self.deadline);
        // The tag with the list is the better second attempt.
        let answer = self.source.client.document_once(&Request { url, accept, limit, what }, deadline);
        let answer = answer.inspect_err(|e| self.without_answer(e))?;
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
        let mut url = self.place.url(&format!("referrers/{subject}"));
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
        let asked = Asked { kind: "manifests", reference: tag, accept: MANIFESTS, limit, what };
        let answer = self.source.document(self.place, asked, self.deadline);
        let answer = answer.inspect_err(|e| self.without_answer(e))?;
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
        let asks = !known.documents.is_empty() || self.places.has_mirrors();
        let named = if asks { self.named(deadline)? } else { None };
        let (digest, seen) = match named {
            Some(digest) if known.documents.contains(&digest) => (digest, Seen::Digest(digest)),
            named => {
                let mirrored = named.and_then(|digest| self.mirrored(digest, deadline));
                let answer = mirrored.map_or_else(|| self.resolve(&self.wanted, deadline), Ok)?;
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
        let (release, index) = (chosen.release.digest, chosen.index);
        // All mirrors together read as much as the registry: none can make the others cost more, or use up its share.
        let (mirrored, own) = (Room::default(), Room::default());
        let room = |place: &Place| if place.is_mirror() { mirrored.clone() } else { own.clone() };
        let search = |place: &Place| Search::within(release, room(place));
        let searches = self.places.all().iter().map(search).enumerate().collect();
        let mut offered = Offered { release, index, deadline, searches, hindrance: None, found: false };
        let first = |(at, search): &mut (usize, Search)| search.first(&self.attached(*at, deadline));
        let asked = offered.searches.iter_mut().filter(|(at, _)| !self.places.all()[*at].is_out());
        let signatures = asked.map(first).find(|found| !found.is_empty()).unwrap_or_default();
        offered.found = !signatures.is_empty();
        self.offered = Some(offered);
        Ok(chosen.offer(signatures, self.origin.clone()))
    }

    fn more_signatures(&mut self) -> Option<Vec<Signature>> {
        let mut offered = self.offered.take()?;
        let mut found = None;
        while let Some((at, search)) = offered.searches.front_mut().filter(|_| found.is_none()) {
            let is_out = self.places.all()[*at].is_out();
            found = if is_out { None } else { search.next(&self.attached(*at, offered.deadline)) };
            if found.is_none() {
                offered.hindrance = search.hindrance();
                offered.searches.pop_front();
            }
        }
        offered.found |= found.is_some();
        self.offered = Some(offered);
        found.map(|found| found.signatures)
    }

    fn hindrance(&mut self) -> Option<Error> {
        let mut offered = self.offered.take()?;
        let hindrance = offered.hindrance.take().or_else(|| self.signed_index(&offered));
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
        let limit = limits::MANIFEST_BYTES;
        let asked = Asked { kind: "manifests", reference: &tag, accept: MANIFESTS, limit, what: &what };
        let read = |place: &Place| match self.document(place, asked, deadline)? {
            answer if answer.status == 404 && !place.is_mirror() => Ok(None),
            answer => answer.good(&what).map(Some),
        };
        let Some(answer) = self.places.first(Purpose::Tag, read)? else { return Ok(None) };
        let (statement, signatures) = statement::layers(&answer.body, &what)?;
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
        Ok(Box::new(AnyPlace::begin(self.places.clone(), self.image(blob), start)?))
    }

    fn distrust(&mut self) -> bool {
        self.places.distrust()
    }

    fn parts(&mut self, blob: &Blob) -> Result<Option<Box<dyn Parts>>> {
        Ok(Some(Box::new(AnyPlace::parts(self.places.clone(), self.image(blob))?)))
    }
}

impl From<Answer> for Document {
    fn from(answer: Answer) -> Self {
        Self { said: answer.media_type().map(str::to_owned), raw: answer.body }
    }
}
