//! The search for the signatures of a manifest, in every place where tools keep them.
//!
//! A failure in one place leads to the next one. It is the error of the search only if no place has a signature: between a
//! device and its registry there are caches, proxies and registries that lack the referrers interface in many ways.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{json, limits, text};
use crate::release::release::{Descriptor, Manifest, SIGNATURE_TYPE};
use crate::source::artifact::{self, Index, SIGNATURE_BYTES};
use crate::source::cosign;
use crate::trust::signature::{Payload, Signature};
use crate::trust::sigstore::{self, Approval};

/// A registry or a file, asked for what is attached to a manifest.
pub trait Attachments {
    /// Referrers of `subject` by the referrers interface; `None` without such an interface. `kind` is the artifact type to ask
    /// for; a registry may ignore it. The lists have at most `room` bytes.
    ///
    /// # Errors
    /// Any failure to read the first list.
    fn referrers(&self, subject: Digest, kind: Option<&str>, room: u64) -> Result<Option<Referrers>>;

    /// The manifest or index at a tag of at most `limit` bytes; `None` without such a tag. `what` names it in errors.
    ///
    /// # Errors
    /// Any failure to read it.
    fn tagged(&self, tag: &str, limit: u64, what: &str) -> Result<Option<Vec<u8>>>;

    /// The manifest that `entry` describes, of its size and digest.
    ///
    /// # Errors
    /// Any failure to read it.
    fn manifest(&self, entry: &Descriptor, what: &str) -> Result<Vec<u8>>;

    /// A blob of at most `limit` bytes, of this digest.
    ///
    /// # Errors
    /// Any failure to read it.
    fn blob(&self, digest: Digest, limit: u64, what: &str) -> Result<Vec<u8>>;
}

/// Referrers of one manifest.
#[derive(Debug, Default)]
pub struct Referrers {
    /// Entries of all lists that were read.
    pub entries: Vec<Descriptor>,
    /// Size of these lists in bytes, as [`charge`] counts them.
    pub bytes: u64,
    /// The registry left out entries of other types.
    pub filtered: bool,
    /// The failure to read a further page.
    pub failure: Option<Error>,
}

/// Signatures in one manifest.
#[derive(Debug)]
pub struct Found {
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// Its tag, if it was found by one.
    pub tag: Option<String>,
    /// Not verified.
    pub signatures: Vec<Signature>,
}

/// The next place to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The referrers interface, asked for our own type.
    Interface,
    /// The same without a type: cosign has others.
    WholeInterface,
    /// The tag with a list of referrers, for registries without the interface.
    FallbackTag,
    /// The tag of cosign 2.
    CosignTag,
    /// The interface again, if it failed in a way that may pass.
    InterfaceAgain,
    End,
}

/// A search for the signatures of one manifest.
#[derive(Debug)]
pub struct Search {
    subject: Digest,
    place: Place,
    entries: VecDeque<Descriptor>,
    seen: BTreeSet<String>,
    room: Room,
    /// The failure of the interface may pass.
    again: bool,
    failure: Option<Error>,
    unreadable: Option<Error>,
}

/// Bytes that may still be read, by one search or by several that share them.
#[derive(Clone, Debug)]
pub struct Room(Rc<Cell<u64>>);

impl Default for Room {
    fn default() -> Self {
        Self(Rc::new(Cell::new(limits::ATTACHED_BYTES)))
    }
}

impl Room {
    fn left(&self) -> u64 {
        self.0.get()
    }

    fn spend(&self, bytes: u64) {
        self.0.set(self.left().saturating_sub(bytes));
    }
}

/// Bytes that a document counts for. Many small documents cost time in the place of bytes.
#[must_use]
pub fn charge(bytes: usize) -> u64 {
    (bytes as u64).max(limits::ATTACHED_BYTES_LEAST)
}

impl Search {
    /// A search that begins with the referrers interface.
    #[must_use]
    pub fn new(subject: Digest) -> Self {
        Self::within(subject, Room::default())
    }

    /// A search that reads no more than there is room for.
    #[must_use]
    pub fn within(subject: Digest, room: Room) -> Self {
        Self {
            subject,
            place: Place::Interface,
            entries: VecDeque::new(),
            seen: BTreeSet::new(),
            room,
            again: false,
            failure: None,
            unreadable: None,
        }
    }

    /// The signatures of the first place that has some. More may follow, see [`next`](Self::next).
    pub fn first(&mut self, from: &dyn Attachments) -> Vec<Signature> {
        let mut signatures = vec![];
        while self.is_promising() || self.place < Place::CosignTag && signatures.is_empty() {
            signatures.extend(self.step(from).into_iter().flat_map(|found| found.signatures));
            if signatures.len() >= limits::SIGNATURES {
                break;
            }
        }
        signatures
    }

    /// The next manifest with signatures; `None` at the end of the search. Failures do not end it, see
    /// [`hindrance`](Self::hindrance).
    pub fn next(&mut self, from: &dyn Attachments) -> Option<Found> {
        while self.place != Place::End || !self.entries.is_empty() {
            let found = self.step(from);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Reads one entry, or looks into one place. Foreign types come last.
    fn step(&mut self, from: &dyn Attachments) -> Option<Found> {
        if self.room.left() < limits::ATTACHED_BYTES_LEAST {
            self.too_much();
            self.place = Place::End;
            return None;
        }
        if (self.is_promising() || self.place == Place::End)
            && let Some(entry) = self.entries.pop_front()
        {
            return Some(self.attached(&entry, from)).filter(|found| !found.signatures.is_empty());
        }
        match self.place {
            Place::Interface => self.interface(from, Some(SIGNATURE_TYPE), Place::FallbackTag),
            Place::WholeInterface => self.interface(from, None, Place::FallbackTag),
            Place::InterfaceAgain => self.interface(from, None, Place::End),
            Place::FallbackTag => self.fallback_tag(from),
            Place::CosignTag => return self.cosign_tag(from),
            Place::End => {}
        }
        None
    }

    /// The cause of a search without result, if it is another one than a release without signature: the first place that
    /// failed, else the first signature that cannot be read.
    pub fn hindrance(&mut self) -> Option<Error> {
        self.failure.take().or(self.unreadable.take())
    }

    /// The next entry is likely to be a signature.
    fn is_promising(&self) -> bool {
        self.entries.front().is_some_and(|entry| rank(entry) < FOREIGN)
    }

    fn interface(&mut self, from: &dyn Attachments, kind: Option<&str>, next: Place) {
        let listed = from.referrers(self.subject, kind, self.room.left().min(limits::REFERRERS_BYTES));
        self.place = next;
        match listed {
            Ok(None) => {}
            Ok(Some(mut referrers)) => {
                if referrers.filtered && kind.is_some() {
                    self.place = Place::WholeInterface;
                }
                self.room.spend(referrers.bytes);
                if let Some(e) = referrers.failure.take() {
                    self.failed(e);
                }
                self.list(referrers.entries);
            }
            Err(e) => {
                log::warn!("cannot use the referrers interface, looking for signatures elsewhere: {e}");
                self.again = matches!(e.reason, Reason::RateLimited | Reason::ServerError | Reason::Unreachable);
                self.failed(e);
            }
        }
    }

    fn fallback_tag(&mut self, from: &dyn Attachments) {
        self.place = Place::CosignTag;
        let tag = fallback_tag(self.subject);
        let what = format!("list of referrers at tag {tag}");
        match from.tagged(&tag, self.room.left().min(limits::REFERRERS_BYTES), &what) {
            Ok(None) => {}
            Ok(Some(raw)) => {
                self.room.spend(charge(raw.len()));
                // Some registries take the tag for the digest, and answer with the manifest itself.
                match Index::parse(&raw, &what, usize::MAX) {
                    Ok(index) => self.list(index.manifests),
                    Err(e) => log::debug!("no list of referrers: {e}"),
                }
            }
            Err(e) => self.failed(e),
        }
    }

    fn cosign_tag(&mut self, from: &dyn Attachments) -> Option<Found> {
        self.place = if self.again { Place::InterfaceAgain } else { Place::End };
        let tag = cosign::tag(self.subject);
        let what = format!("cosign signatures at tag {tag}");
        match from.tagged(&tag, self.room.left().min(limits::MANIFEST_BYTES), &what) {
            Ok(None) => None,
            Ok(Some(manifest)) => {
                self.room.spend(charge(manifest.len()));
                let mut signatures = vec![];
                let fetch = |digest, limit: u64, what: &str| from.blob(digest, limit, what);
                match cosign::signatures(&manifest, self.subject, fetch) {
                    Ok(read) => read.into_iter().for_each(|one| self.keep(one, &mut signatures)),
                    Err(e) => self.unread(e),
                }
                (!signatures.is_empty()).then_some(Found { manifest, tag: Some(tag), signatures })
            }
            Err(e) => {
                self.failed(e);
                None
            }
        }
    }

    /// Adds entries that are new, those of our own type first, those of types that can be anything behind, foreign types last.
    fn list(&mut self, entries: Vec<Descriptor>) {
        let mut new: Vec<Descriptor> =
            entries.into_iter().filter(|entry| self.seen.insert(entry.digest.clone())).collect();
        new.sort_by_key(rank);
        for entry in new.into_iter().rev() {
            match rank(&entry) {
                FOREIGN => self.entries.push_back(entry),
                _ => self.entries.push_front(entry),
            }
        }
    }

    /// The signatures in the manifest of an entry.
    fn attached(&mut self, entry: &Descriptor, from: &dyn Attachments) -> Found {
        let mut found = Found { manifest: vec![], tag: None, signatures: vec![] };
        let what = format!("signature {}", text::escape(&entry.digest));
        if entry.size > self.room.left() {
            self.too_much();
            return found;
        }
        let (parts, claims) = match self.parts(entry, from, &what) {
            Ok((manifest, parts, claims)) => {
                found.manifest = manifest;
                (parts, claims)
            }
            Err(e) => {
                self.unread_if(rank(entry) < UNKNOWN, e);
                return found;
            }
        };
        for part in parts {
            let read = part.read(from, self.subject, &what);
            self.room.spend(limits::ATTACHED_BYTES_LEAST);
            match read {
                Ok(Some(one)) => found.signatures.push(one),
                Ok(None) => {}
                Err(e) => self.unread_if(claims, e),
            }
        }
        found
    }

    /// The manifest of an entry, the layers with signatures, and whether it is one of signatures by its own word.
    fn parts(&mut self, entry: &Descriptor, from: &dyn Attachments, what: &str) -> Result<(Vec<u8>, Vec<Part>, bool)> {
        // One that fails costs a request, too.
        self.room.spend(entry.size.max(limits::ATTACHED_BYTES_LEAST));
        let raw = from.manifest(entry, what)?;
        let manifest: Manifest = json::parse(&raw, what)?;
        manifest.check()?;
        let ours = manifest.is_of_type(SIGNATURE_TYPE);
        let parts: Vec<Part> = manifest.layers.iter().filter_map(|layer| Part::of(layer, &manifest, ours)).collect();
        let claims = ours || !parts.is_empty();
        if claims && manifest.subject.as_ref().is_some_and(|s| s.digest != self.subject.to_string()) {
            log::debug!("ignoring a signature: {what}: it signs another manifest");
            return Ok((raw, vec![], false));
        }
        if ours && parts.is_empty() || !claims && rank(entry) == OURS {
            return Err(artifact::malformed_signature(what, "it has another type"));
        }
        Ok((raw, parts, claims))
    }

    fn keep(&mut self, one: Result<Option<Signature>>, signatures: &mut Vec<Signature>) {
        match one {
            Ok(one) => signatures.extend(one),
            Err(e) => self.unread_if(true, e),
        }
    }

    fn too_much(&mut self) {
        self.entries.clear();
        self.unread(limits::exceeded(
            format_args!("attachments of {}", self.subject),
            format_args!("{} bytes", limits::ATTACHED_BYTES),
        ));
    }

    fn unread_if(&mut self, claims: bool, e: Error) {
        let is_of_bytes = e.exit() == Exit::Data || matches!(e.reason, Reason::NotFound | Reason::SignatureForm);
        match (is_of_bytes, claims) {
            (true, true) => self.unread(e),
            (true, false) => log::debug!("no signature: {e}"),
            (false, _) => self.failed(e),
        }
    }

    fn unread(&mut self, e: Error) {
        log::warn!("ignoring a signature: {e}");
        self.unreadable.get_or_insert(e);
    }

    fn failed(&mut self, e: Error) {
        log::debug!("a place of signatures failed: {e}");
        self.failure.get_or_insert(e);
    }
}

/// Orders of entries by their artifact type: our own, that of cosign 3, one that can be anything, another one.
const OURS: u8 = 0;
const UNKNOWN: u8 = 2;
const FOREIGN: u8 = 3;

/// Tools leave the type out (skopeo before 1.14), or write the type of the empty config in its place (cosign 3).
fn rank(entry: &Descriptor) -> u8 {
    match entry.artifact_type.as_deref() {
        Some(SIGNATURE_TYPE) => OURS,
        Some(kind) if kind.starts_with(sigstore::BUNDLE_TYPES) => 1,
        None | Some("" | "application/vnd.oci.empty.v1+json") => UNKNOWN,
        Some(_) => FOREIGN,
    }
}

/// A layer with a signature.
struct Part {
    digest: String,
    key_id: Option<String>,
    bundle: Option<String>,
}

impl Part {
    fn of(layer: &Descriptor, manifest: &Manifest, ours: bool) -> Option<Self> {
        let bundle = layer.media_type.starts_with(sigstore::BUNDLE_TYPES);
        let raw = ours && layer.media_type == SIGNATURE_TYPE;
        (bundle || raw).then(|| Self {
            digest: layer.digest.clone(),
            key_id: artifact::key_id(&manifest.annotations).or(artifact::key_id(&layer.annotations)),
            bundle: bundle.then(|| layer.media_type.clone()),
        })
    }

    /// `None` for a statement that only describes the manifest, or that approves another one.
    fn read(self, from: &dyn Attachments, subject: Digest, what: &str) -> Result<Option<Signature>> {
        let digest: Digest = self.digest.parse()?;
        match self.bundle.as_deref() {
            None => artifact::signature(from.blob(digest, SIGNATURE_BYTES, what)?, self.key_id, what).map(Some),
            Some(sigstore::BUNDLE_TYPE) => {
                let raw = from.blob(digest, limits::SIGSTORE_BUNDLE_BYTES, what)?;
                let approval = sigstore::approval(&raw).map_err(|e| e.context(what))?;
                let Some(Approval { statement, signature }) = approval else { return Ok(None) };
                if sigstore::subject(&statement)? != subject {
                    log::warn!("ignoring a signature: {what}: it signs another manifest");
                    return Ok(None);
                }
                Ok(Some(Signature { key_id: None, bytes: signature, payload: Some(Payload::Statement(statement)) }))
            }
            Some(other) => Err(sigstore::other_form(&format!("it has the type \"{}\"", text::escape(other)))),
        }
    }
}

/// Tag of the list of referrers of `subject`, for registries that do not list them (OCI 1.1).
#[must_use]
pub fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}
