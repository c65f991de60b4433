//! Releases in an OCI registry.

use std::fmt;
use std::rc::Rc;

use reqwest::Url;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::answer::{self, Answer};
use crate::fetch::blob::BlobBody;
use crate::fetch::body::{Body, Start};
use crate::fetch::client::{Client, Deadline, Request};
use crate::fetch::options::FetchOptions;
use crate::release::offer::Offer;
use crate::release::release::{self, Architecture, Blob, Descriptor, Image, SIGNATURE_TYPE};
use crate::release::statement::{Published, TAG_SUFFIX};
use crate::source::artifact::{
    self, Document, Listed, SIGNATURE_BYTES, attached, check_digest, check_size, choose, index_signed_alone,
};
use crate::source::source::Source;
use crate::source::{cosign, reference, statement};
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
    looked: Option<(Answer, Deadline)>,
    /// Of the last offer: the index that led to it, if one did, and the time for all documents.
    offered: Option<(Option<Digest>, Deadline)>,
}

enum Wanted {
    Tag(String),
    Digest(Digest),
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

    /// The one look at the tag: everything after it goes by digest.
    fn resolve(&self, deadline: Deadline) -> Result<Answer> {
        let reference = match &self.wanted {
            Wanted::Tag(tag) => tag.clone(),
            Wanted::Digest(digest) => digest.to_string(),
        };
        let limit = limits::INDEX_BYTES.max(limits::MANIFEST_BYTES);
        let request = Request { url: &self.url("manifests", &reference), accept: MANIFESTS, limit, what: &self.origin };
        let answer = self.client.document(&request, deadline)?;
        if answer.status == 404 {
            let what = if matches!(self.wanted, Wanted::Tag(_)) { "tag" } else { "digest" };
            let message = format!("{}: the registry has no such {what}", self.origin);
            return Err(Error::new(Reason::TagNotFound, message)
                .remedy(format!("Check registry, tag and channel against what was published. {}", answer::HIDDEN)));
        }
        let answer = answer.good(&self.origin)?;
        let expected = match &self.wanted {
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

    /// All signatures published for a manifest.
    fn signatures(&self, subject: Digest, deadline: Deadline) -> Result<Vec<Signature>> {
        let mut entries = self.referrers(subject, deadline)?;
        if entries.is_empty() {
            // No such interface here; or the registry got it after the signatures were pushed.
            entries = self.tagged_referrers(subject, deadline)?;
        }
        artifact::signatures(subject, &entries, |entry| self.signature(entry, subject, deadline))
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
            let request = Request { url: &url, accept: release::OCI_INDEX_TYPE, limit: room, what: &what };
            let answer = self.client.document(&request, deadline)?;
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
        let request =
            Request { url: &url, accept: release::OCI_INDEX_TYPE, limit: limits::REFERRERS_BYTES, what: &what };
        let answer = self.client.document(&request, deadline)?;
        let mut list = Listed::default();
        if answer.status != 404 {
            list.add(&answer.good(&what)?.body, &what)?;
        }
        Ok(list.signatures)
    }

    /// A blob that is a document; the caller checks its digest.
    fn small_blob(&self, digest: Digest, limit: u64, what: &str, deadline: Deadline) -> Result<Vec<u8>> {
        let url = self.url("blobs", &digest.to_string());
        let request = Request { url: &url, accept: "*/*", limit, what };
        Ok(self.client.document(&request, deadline)?.good(what)?.body)
    }

    fn signature(&self, entry: &Descriptor, subject: Digest, deadline: Deadline) -> Result<Vec<Signature>> {
        let what = format!("signature {}", text::escape(&entry.digest));
        let answer = self.manifest(entry, &what, deadline)?;
        let mut signatures = vec![];
        for (digest, key_id) in attached(&answer.body, subject, &what)? {
            let raw = self.small_blob(digest, SIGNATURE_BYTES, &what, deadline)?;
            check_digest(&raw, digest, &what)?;
            signatures.push(artifact::signature(raw, key_id, &what)?);
        }
        Ok(signatures)
    }

    /// Cosign's attachments of a manifest or an index, as they are in the registry.
    fn cosign(&self, subject: Digest, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        let tag = cosign::tag(subject);
        let what = format!("cosign signatures at tag {tag}");
        let url = self.url("manifests", &tag);
        let request = Request { url: &url, accept: MANIFESTS, limit: limits::MANIFEST_BYTES, what: &what };
        let answer = self.client.document(&request, deadline)?;
        if answer.status == 404 { Ok(None) } else { Ok(Some(answer.good(&what)?.body)) }
    }
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
        let (answer, deadline) = match self.looked.take() {
            Some(looked) => looked,
            None => {
                let deadline = self.client.deadline();
                (self.resolve(deadline)?, deadline)
            }
        };
        let chosen = choose(answer.into(), architecture, &self.origin, |entry, what| {
            Ok(self.manifest(entry, what, deadline)?.into())
        })?;
        let signatures = self.signatures(chosen.release.digest, deadline)?;
        self.offered = Some((chosen.index, deadline));
        Ok(chosen.offer(signatures, self.origin.clone()))
    }

    /// At one more request, two where there is nothing; and one for each payload.
    fn more_signatures(&mut self, offer: &Offer) -> Result<Vec<Signature>> {
        let (index, deadline) = self.offered.unwrap_or_else(|| (None, self.client.deadline()));
        let mut found = vec![];
        if let Some(raw) = self.cosign(offer.release.digest, deadline)? {
            found = cosign::signatures(&raw, offer.release.digest, |blob, what| {
                self.small_blob(blob.digest, limits::COSIGN_PAYLOAD_BYTES, what, deadline)
            })?;
        }
        if found.is_empty()
            && offer.signatures.is_empty()
            && let Some(index) = index
            && self.cosign(index, deadline)?.is_some()
        {
            return Err(index_signed_alone(&self.origin, index, offer.release.digest));
        }
        Ok(found)
    }

    /// At three requests and more; one where there is none.
    fn freshness(&mut self) -> Result<Option<Published>> {
        let Wanted::Tag(tag) = &self.wanted else { return Ok(None) };
        let tag = format!("{tag}{TAG_SUFFIX}");
        if !reference::is_tag(&tag) {
            return Ok(None);
        }
        let deadline = self.offered.map_or_else(|| self.client.deadline(), |(_, deadline)| deadline);
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
}

impl From<Answer> for Document {
    fn from(answer: Answer) -> Self {
        Self { said: answer.media_type().map(str::to_owned), raw: answer.body }
    }
}

/// The next page of a list (RFC 8288), on the same server.
fn next_page(answer: &Answer) -> Option<Url> {
    let link = answer.headers.get(reqwest::header::LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let next = answer.url.join(target).ok()?;
    (rest.contains("rel=\"next\"") && next.origin() == answer.url.origin()).then_some(next)
}
