//! Mirrors of a source: other servers that may have the same bytes.
//!
//! A mirror is trusted with nothing. All that comes from one is compared with a digest or a signature, and what a mirror lacks,
//! refuses or changes, the next one is asked for; the source itself comes last. A mirror that fails in another way than by
//! lacking something is not asked again in this run.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use reqwest::Url;

use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::blob::BlobBody;
use crate::fetch::body::{Body, Parts, Start};
use crate::fetch::client::{Client, Deadline};
use crate::fetch::url::shown;

/// A server that may have what the source has.
pub(crate) struct Place {
    /// The folder, or the repository below `/v2/`; ends with a slash.
    pub(crate) base: Url,
    /// The registry that this proxy gets by name.
    pub(crate) ns: Option<String>,
    /// The settings trust it to say what a tag stands for.
    pub(crate) resolves: bool,
    is_mirror: bool,
    /// Not asked again in this run.
    out: Cell<bool>,
    /// The log names what it lacks.
    told: Cell<bool>,
    /// It gave bytes of the current image.
    gave: Cell<bool>,
}

/// The purpose of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The digest that a tag stands for.
    Tag,
    /// Content that has a digest, or proves itself.
    Content,
}

impl Place {
    /// The source itself.
    pub(crate) fn source(base: Url) -> Self {
        let cell = Cell::default;
        Self { base, ns: None, resolves: true, is_mirror: false, out: cell(), told: cell(), gave: cell() }
    }

    /// A mirror, which resolves no tags and gets no name of a registry.
    pub(crate) fn mirror(base: Url) -> Self {
        Self { resolves: false, is_mirror: true, ..Self::source(base) }
    }

    /// A URL of it.
    pub(crate) fn url(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{rest}", self.base.path()));
        if let Some(ns) = &self.ns {
            url.query_pairs_mut().append_pair("ns", ns);
        }
        url
    }

    /// The time for one document: a mirror leaves time for the next one.
    pub(crate) fn deadline(&self, deadline: Deadline) -> Deadline {
        if self.is_mirror { deadline.half() } else { deadline }
    }

    pub(crate) fn is_mirror(&self) -> bool {
        self.is_mirror
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.get()
    }

    /// Logs a failure once, and takes the mirror out of the run unless it only lacks something.
    pub(crate) fn failed(&self, e: &Error) {
        let lacks = matches!(e.reason, Reason::NotFound | Reason::TagNotFound);
        if !self.told.replace(true) || !lacks {
            let then = if lacks { "asking elsewhere" } else { "asking elsewhere from now on" };
            log::warn!("mirror {}: {e}; {then}", shown(&self.base));
        }
        if !lacks {
            self.out.set(true);
        }
    }
}

/// The mirrors in their order, and the source as the last place.
pub(crate) struct Places(Vec<Place>);

impl Places {
    pub(crate) fn new(mirrors: Vec<Place>, source: Place) -> Result<Self> {
        if mirrors.len() > limits::MIRRORS {
            return Err(bad(&format!("there are {}, and at most {} are allowed", mirrors.len(), limits::MIRRORS)));
        }
        Ok(Self(mirrors.into_iter().chain([source]).collect()))
    }

    /// All places.
    pub(crate) fn all(&self) -> &[Place] {
        &self.0
    }

    /// The source itself.
    pub(crate) fn source(&self) -> &Place {
        &self.0[self.0.len() - 1]
    }

    /// The places to ask now.
    pub(crate) fn usable(&self, purpose: Purpose) -> impl Iterator<Item = &Place> {
        self.0.iter().filter(move |place| !place.is_out() && (purpose == Purpose::Content || place.resolves))
    }

    pub(crate) fn has_mirrors(&self) -> bool {
        self.0.iter().any(|place| place.is_mirror && !place.is_out())
    }

    /// The answer of the first place that has one.
    pub(crate) fn first<T>(&self, purpose: Purpose, ask: impl Fn(&Place) -> Result<T>) -> Result<T> {
        for place in self.usable(purpose).filter(|place| place.is_mirror) {
            match ask(place) {
                Ok(answer) => return Ok(answer),
                Err(e) if ends(&e) => return Err(e),
                Err(e) => place.failed(&e),
            }
        }
        ask(self.source())
    }

    /// The bytes of the last image were wrong: the mirrors that gave some are not asked again. True if there is such a mirror.
    pub(crate) fn distrust(&self) -> bool {
        let gave = |place: &&Place| place.is_mirror && place.gave.get() && !place.is_out();
        let wrong = Error::new(Reason::DigestMismatch, "an image with bytes from there has the wrong digest");
        self.0.iter().filter(gave).map(|place| place.failed(&wrong)).count() > 0
    }
}

/// No other server changes this.
fn ends(e: &Error) -> bool {
    matches!(e.reason, Reason::Interrupted | Reason::ByteBudget)
}

/// The error of a mirror in the settings that cannot be one.
pub(crate) fn bad(why: &str) -> Error {
    Error::new(Reason::BadMirror, format!("mirror {}", text::escape(why)))
        .remedy("Correct registry_mirror= or server_mirror=; docs/operating.md has the form.")
}

/// One image, and where it is.
pub(crate) struct Wanted {
    pub(crate) client: Rc<Client>,
    /// In the order of the places; `None` where a place cannot have it.
    pub(crate) urls: Vec<Option<Url>>,
    pub(crate) size: u64,
    pub(crate) what: String,
    /// The URLs name a file that can be replaced.
    pub(crate) named: bool,
}

/// A download that goes on at the next place when one fails. All places share the budget of bytes.
pub(crate) struct AnyPlace {
    places: Rc<Places>,
    wanted: Wanted,
    at: usize,
    body: BlobBody,
    /// The bytes come from more than one place.
    mixed: bool,
    /// Where the current part ends, if parts are fetched.
    end: Option<u64>,
}

impl Wanted {
    /// A download from one place, which has a URL for it. No request is sent yet.
    fn at(&self, place: &Place, url: &Url) -> BlobBody {
        let body = BlobBody::new(self.client.clone(), url.clone(), self.size, self.what.clone());
        let body = if self.named { body.named() } else { body };
        if place.is_mirror { body.with_attempts(limits::MIRROR_ATTEMPTS) } else { body }
    }

    /// The first place from `from` on that can be asked.
    fn next(&self, places: &Places, from: usize) -> Result<usize> {
        let can = |at: &usize| self.urls[*at].is_some() && !places.all()[*at].is_out();
        (from..self.urls.len()).find(can).ok_or_else(|| Error::new(Reason::Internal, "an image without a URL"))
    }
}

impl AnyPlace {
    /// Begins at the first place that has the image.
    ///
    /// # Errors
    /// Those of the source, the last place.
    pub(crate) fn begin(places: Rc<Places>, wanted: Wanted, start: &Start) -> Result<Self> {
        places.all().iter().for_each(|place| place.gave.set(false));
        let (at, body) = open(&places, &wanted, 0, start)?;
        Ok(Self { places, wanted, at, body, mixed: false, end: None })
    }

    /// To fetch parts of the image. No request is sent yet.
    pub(crate) fn parts(places: Rc<Places>, wanted: Wanted) -> Result<Self> {
        places.all().iter().for_each(|place| place.gave.set(false));
        let at = wanted.next(&places, 0)?;
        let body = part_of(&places, &wanted, at, 0);
        Ok(Self { places, wanted, at, body, mixed: false, end: Some(0) })
    }

    /// Goes on at the next place after this failure of a mirror.
    fn go_on(&mut self, e: &Error) -> Result<()> {
        let (offset, spent) = (self.body.position(), self.body.fetched());
        match self.end {
            None => {
                self.places.all()[self.at].failed(e);
                self.mixed = true;
                let start = Start { offset, spent, version: None };
                (self.at, self.body) = open(&self.places, &self.wanted, self.at + 1, &start)?;
                Ok(())
            }
            Some(end) => {
                self.next_for_parts(e)?;
                if offset < end { self.part(offset, end) } else { Ok(()) }
            }
        }
    }

    /// Turns to the next place after this failure of a mirror.
    fn next_for_parts(&mut self, e: &Error) -> Result<()> {
        self.places.all()[self.at].failed(e);
        self.mixed = true;
        self.at = self.wanted.next(&self.places, self.at + 1)?;
        self.body = part_of(&self.places, &self.wanted, self.at, self.body.fetched());
        Ok(())
    }

    /// True if another place may do better.
    fn may_go_on(&self, e: &Error) -> bool {
        self.places.all()[self.at].is_mirror && !ends(e)
    }
}

fn part_of(places: &Places, wanted: &Wanted, at: usize, spent: u64) -> BlobBody {
    let place = &places.all()[at];
    let url = wanted.urls[at].as_ref().unwrap_or(&place.base);
    wanted.at(place, url).after(spent).parts()
}

impl Parts for AnyPlace {
    fn part(&mut self, from: u64, end: u64) -> Result<()> {
        match self.body.part(from, end) {
            Err(e) if self.may_go_on(&e) => {
                self.next_for_parts(&e)?;
                self.part(from, end)
            }
            asked => {
                self.end = Some(end);
                asked
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.body.is_whole()
    }
}

/// A body of the first place from `from` on.
fn open(places: &Places, wanted: &Wanted, from: usize, start: &Start) -> Result<(usize, BlobBody)> {
    let last = places.all().len() - 1;
    for (at, place) in places.all().iter().enumerate().skip(from) {
        let Some(url) = wanted.urls[at].as_ref().filter(|_| !place.is_out()) else { continue };
        match wanted.at(place, url).begin(start) {
            Ok(body) => return Ok((at, body)),
            Err(e) if at == last || ends(&e) => return Err(e),
            Err(e) => place.failed(&e),
        }
    }
    Err(Error::new(Reason::Internal, "the source has no URL for an image"))
}

impl Body for AnyPlace {
    fn position(&self) -> u64 {
        self.body.position()
    }

    fn version(&self) -> Option<String> {
        self.body.version()
    }

    fn in_pieces(&self) -> bool {
        self.mixed || self.body.in_pieces()
    }

    fn explain(&self, wrong: Error) -> Error {
        self.body.explain(wrong)
    }

    fn fetched(&self) -> u64 {
        self.body.fetched()
    }

    fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.chunk() {
                Ok(Some(bytes)) => {
                    self.places.all()[self.at].gave.set(true);
                    return Ok(Some(bytes));
                }
                Err(e) if self.may_go_on(&e) => self.go_on(&e)?,
                end => return end,
            }
        }
    }
}
