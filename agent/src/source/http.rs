//! Releases on an HTTP server: a `latest.json` and the files that it names.

use std::fmt;
use std::rc::Rc;

use reqwest::{StatusCode, Url};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::answer::{self, Answer};
use crate::fetch::body::{Body, Parts, Start};
use crate::fetch::client::{Client, Deadline, Request};
use crate::fetch::options::FetchOptions;
use crate::fetch::url;
use crate::release::latest::Latest;
use crate::release::offer::{Offer, made_for};
use crate::release::release::{Architecture, Blob, Image, LATEST_JSON_TYPE};
use crate::release::statement::{self, Published};
use crate::source::mirrors::{self, AnyPlace, Place, Places, Wanted};
use crate::source::source::{Known, Source};
use crate::state::fetches::Tagged;
use crate::trust::signature::{FileSignatures, Signature};

const LATEST_JSON: &str = "latest.json";

/// One folder of a server.
pub struct HttpSource {
    client: Rc<Client>,
    /// Of images.
    places: Rc<Places>,
    /// Of `latest.json`, as it was configured: what it names resolves against this, wherever it is redirected to.
    document: Url,
    legacy: bool,
    origin: String,
    looked: Option<Rc<Looked>>,
    /// The document of the last look, if the server gave it an `ETag`.
    tagged: Option<Tagged>,
    /// End of the time for all documents.
    deadline: Option<Deadline>,
}

/// The server's answer.
struct Looked {
    raw: Vec<u8>,
    latest: Latest,
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSource").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl HttpSource {
    /// `server` is the URL of the folder. With plain `http` in it, its host and port are spoken to without TLS, as if
    /// `plain_http` listed them. `legacy` accepts servers that sign only the images. No request is sent yet.
    pub fn new(options: &FetchOptions, server: &str, legacy: bool) -> Result<Self> {
        let bad = |why: String| {
            Error::new(Reason::BadServer, format!("server {}: {why}", without_secrets(server)))
                .remedy("Write it as https://host.name/folder, the URL of the folder with latest.json.")
        };
        let folder = folder(server).map_err(bad)?;
        let document = folder.join(LATEST_JSON).map_err(|e| bad(e.to_string()))?;
        // An image that counts by its own signature has no digest that a mirror could be held to.
        let named = if legacy { &[][..] } else { &options.server_mirrors };
        let mirror = |named: &String| {
            self::folder(named).map_err(|why| mirrors::bad(&format!("{}: {why}", without_secrets(named))))
        };
        let mirrors: Vec<Url> = named.iter().map(mirror).collect::<Result<_>>()?;
        let mut options = options.clone();
        options.plain_http.extend(mirrors.iter().chain([&folder]).filter_map(plain));
        let mut client = Client::new(&options)?;
        client.set_source(&document)?;
        let places = Places::new(mirrors.into_iter().map(Place::mirror).collect(), Place::source(folder))?;
        let (client, places, origin) = (Rc::new(client), Rc::new(places), url::shown(&document));
        Ok(Self { client, places, origin, document, legacy, looked: None, tagged: None, deadline: None })
    }

    fn looked(&mut self) -> Result<Rc<Looked>> {
        if let Some(looked) = &self.looked {
            return Ok(looked.clone());
        }
        let answer = self.document(None)?;
        self.read(answer)
    }

    /// Fetches `latest.json`; with an `ETag`, the answer may be that it is still the same.
    fn document(&mut self, etag: Option<&str>) -> Result<Answer> {
        let deadline = self.deadline();
        let limit = limits::LATEST_JSON_BYTES;
        let request = Request { url: &self.document, accept: "application/json", limit, what: &self.origin };
        match etag {
            Some(etag) => self.client.document_unless(&request, etag, deadline),
            None => self.client.document(&request, deadline),
        }
    }

    fn read(&mut self, answer: Answer) -> Result<Rc<Looked>> {
        let raw = answer.good(&self.origin).map_err(|e| match e.reason {
            Reason::NotFound => e.remedy("Check the server in the settings: latest.json must be in that folder."),
            _ => e,
        })?;
        let latest = Latest::parse(&raw.body).map_err(|e| e.context(&self.origin))?;
        Ok(self.looked.insert(Rc::new(Looked { raw: raw.body, latest })).clone())
    }

    fn deadline(&mut self) -> Deadline {
        *self.deadline.get_or_insert_with(|| self.client.deadline())
    }

    /// A URL of the document, absolute.
    fn resolve(&self, named: &str) -> Result<Url> {
        let url = self.document.join(named).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.and_then(|mut url| url::without_login(&mut url).then_some(url));
        url.ok_or_else(|| {
            let message = format!("{}: \"{}\" is not an http(s) URL", self.origin, text::escape(named));
            Error::new(Reason::BadUrl, message).remedy("Publish it again with correct URLs.")
        })
    }

    /// Content of a `.sig` file; nothing if it is missing.
    fn signature_file(&self, url: &Url, deadline: Deadline) -> Result<Vec<Signature>> {
        let what = format!("signature {}", url::shown(url));
        let request = Request { url, accept: "*/*", limit: limits::SIGNATURE_FILE_BYTES, what: &what };
        let answer = self.client.document(&request, deadline)?;
        if matches!(answer.status.as_u16(), 404 | 410) {
            return Ok(vec![]);
        }
        Signature::parse_file(&answer.good(&what)?.body).map_err(|e| e.context(what))
    }

    /// The signatures over the document itself. An attacker who can change the document must not be able to place them on
    /// another server.
    fn signatures(&self, looked: &Looked, deadline: Deadline) -> Result<Vec<Signature>> {
        let beside = || self.resolve(&format!("{LATEST_JSON}.sig"));
        let url = match looked.latest.signature_url().map(|named| self.resolve(named)).transpose()? {
            Some(url) if url.origin() == self.document.origin() => url,
            Some(foreign) => {
                log::warn!(
                    "{}: ignoring metadata_sig_url, which names another server: {}",
                    self.origin,
                    url::shown(&foreign)
                );
                beside()?
            }
            None => beside()?,
        };
        self.signature_file(&url, deadline)
    }

    fn file_signatures(&self, looked: &Looked, deadline: Deadline) -> Result<FileSignatures> {
        let one = |named: Option<&str>| match named {
            Some(named) => self.signature_file(&self.resolve(named)?, deadline),
            None => Ok(vec![]),
        };
        let [kernel, initramfs] = looked.latest.image_signature_urls();
        Ok(FileSignatures { kernel: one(kernel)?, initramfs: one(initramfs)? })
    }

    /// An image by its URL at the server, and by that of the same file at each mirror, if it is in the folder of the server.
    fn wanted(&self, url: &Url, blob: &Blob, what: String) -> Wanted {
        let base = &self.places.source().base;
        let rest = url.path().strip_prefix(base.path()).filter(|_| url.origin() == base.origin());
        let at = |place: &Place| match (place.is_mirror(), rest) {
            (false, _) => Some(url.clone()),
            (true, Some(rest)) if url.query().is_none() => Some(place.url(rest)),
            (true, _) => None,
        };
        let urls = self.places.all().iter().map(at).collect();
        Wanted { client: self.client.clone(), urls, size: blob.size, what, named: true }
    }

    /// Where an image of the offered release is, or what belongs to it, and how it is called in messages.
    fn image(&mut self, digest: Digest) -> Result<(Url, String)> {
        let looked = self.looked()?;
        let url = looked.latest.url_of(digest)?;
        let url = url.ok_or_else(|| Error::new(Reason::NoSuchImage, format!("the offer does not have {digest}")))?;
        let url = self.resolve(url)?;
        let what = url::shown(&url);
        Ok((url, what))
    }
}

/// The URL of a folder in the settings.
fn folder(server: &str) -> Result<Url, String> {
    let mut folder = Url::parse(server).map_err(|e| e.to_string())?;
    if !matches!(folder.scheme(), "http" | "https") || folder.host_str().is_none_or(str::is_empty) {
        return Err("it is not an http(s) URL".into());
    }
    if !folder.username().is_empty() || folder.password().is_some() {
        return Err("it has a user name or password, which a redirect would send to another server".into());
    }
    if folder.query().is_some() || folder.fragment().is_some() {
        return Err("it has a query or a fragment".into());
    }
    if !folder.path().ends_with('/') {
        folder.set_path(&format!("{}/", folder.path()));
    }
    Ok(folder)
}

/// Host and port of a URL that says itself that they have no TLS.
fn plain(url: &Url) -> Option<String> {
    (url.scheme() == "http").then(|| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))?
}

/// The URL of the settings may have a password.
fn without_secrets(server: &str) -> String {
    match Url::parse(server) {
        Ok(url) => format!("\"{}\"", url::shown(&url)),
        Err(_) => "setting".into(),
    }
}

impl Source for HttpSource {
    fn look(&mut self, known: &Known<'_>) -> Result<Digest> {
        (self.looked, self.tagged, self.deadline) = (None, None, None);
        let is_known = |tagged: &&Tagged| tagged.url == self.origin && known.documents.contains(&tagged.document);
        let tagged = known.tagged.filter(is_known).filter(|tagged| tagged.counts(known.now));
        let answer = self.document(tagged.map(|tagged| &*tagged.etag))?;
        if let Some(tagged) = tagged.filter(|_| answer.status == StatusCode::NOT_MODIFIED) {
            self.tagged = Some(tagged.clone());
            return Ok(tagged.document);
        }
        let etag = answer::entity_tag(&answer.headers).and_then(|etag| etag.to_str().ok().map(str::to_owned));
        let document = Digest::of(&self.read(answer)?.raw);
        self.tagged = etag.and_then(|etag| Tagged::new(&self.origin, document, &etag, known.now));
        Ok(document)
    }

    /// The URLs of images are in the document.
    fn recall(&mut self, document: &[u8]) {
        let is_it = self.tagged.as_ref().is_some_and(|tagged| tagged.document == Digest::of(document));
        if let Ok(latest) = Latest::parse(document)
            && is_it
            && self.looked.is_none()
        {
            self.looked = Some(Rc::new(Looked { raw: document.to_owned(), latest }));
        }
    }

    fn tagged(&self) -> Option<Tagged> {
        self.tagged.clone()
    }

    fn distrust(&mut self) -> bool {
        self.places.distrust()
    }

    fn ratelimit_remaining(&self) -> Option<u64> {
        self.client.ratelimit_remaining()
    }

    fn offer(&mut self, architecture: Architecture) -> Result<Offer> {
        let looked = self.looked()?;
        let deadline = self.deadline();
        let signatures = self.signatures(&looked, deadline)?;
        let legacy = signatures.is_empty() && self.legacy;
        let release = if legacy { looked.latest.claimed(architecture) } else { looked.latest.release() };
        let release = release.map_err(|e| e.context(&self.origin))?;
        looked.latest.image_urls().map_err(|e| e.context(&self.origin))?;
        let remedy = "Name the folder for this architecture in the settings (server=).";
        made_for(architecture, &release, &self.origin, remedy)?;
        let file_signatures = legacy.then(|| self.file_signatures(&looked, deadline)).transpose()?;
        Ok(Offer {
            release,
            signed: looked.raw.clone(),
            signed_type: LATEST_JSON_TYPE.into(),
            signatures,
            file_signatures,
            origin: self.origin.clone(),
        })
    }

    fn freshness(&mut self) -> Result<Option<Published>> {
        let deadline = self.deadline();
        let url = self.resolve(statement::FILE)?;
        let what = format!("freshness statement {}", url::shown(&url));
        let request = Request { url: &url, accept: "application/json", limit: limits::FRESHNESS_BYTES, what: &what };
        let answer = self.client.document(&request, deadline)?;
        if matches!(answer.status.as_u16(), 404 | 410) {
            return Ok(None);
        }
        let statement = answer.good(&what)?.body;
        let signatures = self.signature_file(&self.resolve(&format!("{}.sig", statement::FILE))?, deadline)?;
        Ok(Some(Published { statement, signatures }))
    }

    fn locate(&mut self, image: Image) -> Result<Blob> {
        if let Some(blob) = image.blob() {
            return Ok(blob);
        }
        let (url, what) = self.image(image.digest)?;
        let size = self.client.size(&url, &what, self.client.deadline())?;
        match size {
            0 => Err(Error::new(Reason::SizeMismatch, format!("{what} is empty"))),
            size if size > limits::IMAGE_BYTES => {
                Err(limits::exceeded(what, format_args!("{} bytes", limits::IMAGE_BYTES)))
            }
            size => Ok(Blob { digest: image.digest, size }),
        }
    }

    fn open(&mut self, blob: &Blob) -> Result<Box<dyn Body>> {
        self.resume(blob, &Start::default())
    }

    fn resume(&mut self, blob: &Blob, start: &Start) -> Result<Box<dyn Body>> {
        let (url, what) = self.image(blob.digest)?;
        let wanted = self.wanted(&url, blob, what);
        Ok(Box::new(AnyPlace::begin(self.places.clone(), wanted, start)?))
    }

    fn parts(&mut self, blob: &Blob) -> Result<Option<Box<dyn Parts>>> {
        let (url, what) = self.image(blob.digest)?;
        let wanted = self.wanted(&url, blob, what);
        Ok(Some(Box::new(AnyPlace::parts(self.places.clone(), wanted)?)))
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }
}
