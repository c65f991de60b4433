//! A repository of a registry, read and written by the device's client: one set of rules for logins, redirects, proxies and
//! certificates. References, descriptors and the errors of registries have the types of `oci-client`. Its HTTP client is not
//! used: it sends the login to any host that a registry names for an upload, and knows no client certificate.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use oci_client::Reference;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use sha2::Digest as _;

use crate::credentials;
use crate::failure;
use crate::read;
use kubesolo_update::base::console::progress::{self, Progress as _, Shown};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, json, limits, text};
use kubesolo_update::fetch::answer::{Answer, Failure};
use kubesolo_update::fetch::blob::BlobBody;
use kubesolo_update::fetch::body::Body as _;
use kubesolo_update::fetch::client::{Client, Request};
use kubesolo_update::fetch::options::{Authentication, ClientCertificate, FetchOptions};
use kubesolo_update::fetch::upload::Write;
use kubesolo_update::release::release::{
    Blob, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE, Descriptor, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE,
};
use kubesolo_update::source::artifact::Index;
use kubesolo_update::source::reference;
use kubesolo_update::source::signatures::{Attachments, Referrers};

pub use kubesolo_update::fetch::options::Rights;

/// Time for one small request, with all its redirects and tokens.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// The slowest upload, in bytes per second over its whole length.
const UPLOAD_RATE_MIN: u64 = 16 << 10;
/// How often an operation is tried that failed for a reason that may pass.
const TRIES: u32 = 4;
/// Wait before the second try; doubles with each.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// The longest wait that a registry can ask for.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 256 << 10;
/// The most tags of a repository, those of signatures included.
const TAG_NAMES: usize = 10_000;
/// Tags that one request asks for. A registry may send more.
const TAGS_OF_A_PAGE: usize = 500;
/// The most pages of a list of referrers, each of at most 256 KiB.
const REFERRER_PAGES: usize = 64;
/// The largest answer to it, in bytes: all names of 128 characters, which is the longest.
const TAG_PAGE_BYTES: u64 = 2 << 20;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Registries (`host[:port]`) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// PEM file with certificates to trust beside the system's.
    pub registry_ca: Option<PathBuf>,
    /// Shown to the registry if its TLS asks for one, and to no other server.
    pub client_certificate: Option<ClientCertificate>,
    /// Hosts whose token servers may get the password, beside the registry's own.
    pub auth_hosts: Vec<String>,
    /// Write no tag with the list of referrers where the registry lists them itself.
    pub no_fallback_tag: bool,
}

impl Access {
    /// The settings of the device's client for commands on `registry` (`host[:port]`).
    ///
    /// # Errors
    /// 78 when a login cannot be used.
    pub fn authentication(&self, registry: &str, rights: Rights) -> Result<Authentication> {
        let (logins, token_hosts) = (credentials::logins(registry)?, self.auth_hosts.clone());
        Ok(Authentication { logins, token_hosts, token_cache: None, rights })
    }

    /// The device's client for `registry`. Proxies are those of the environment.
    fn client(&self, registry: &str, rights: Rights) -> Result<(Client, Url)> {
        let mut client = Client::new(&FetchOptions {
            registry_ca: self.registry_ca.clone(),
            client_certificate: self.client_certificate.clone(),
            plain_http: self.plain_http.clone(),
            authentication: self.authentication(registry, rights)?,
            ..FetchOptions::default()
        })?;
        let root = client.root(registry)?;
        client.set_source(&root)?;
        Ok((client, root))
    }
}

/// One repository.
pub struct Registry {
    client: Rc<Client>,
    /// Where it is.
    root: Url,
    access: Access,
    reference: Reference,
    tag: Option<String>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.reference()).finish()
    }
}

impl Registry {
    /// Parses `HOST[:PORT]/PATH[:TAG|@DIGEST]` and finds the login, for reading or for writing too. Sends nothing yet.
    pub fn open(reference: &str, access: &Access, rights: Rights) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(Reason::Usage, format!("\"{}\": {why}", text::escape(reference)))
                .remedy("Write HOST[:PORT]/PATH[:TAG|@sha256:DIGEST].")
        };
        let parts = reference::parse(reference).map_err(bad)?;
        let (host, repository) = (parts.host.to_owned(), parts.repository.to_owned());
        let tag = parts.tag.map(str::to_owned);
        let parsed = match parts.digest {
            Some(digest) => {
                let digest: Digest = digest.parse().map_err(|_| bad("its digest is not valid"))?;
                Reference::with_digest(host, repository, digest.to_string())
            }
            None => Reference::with_tag(host, repository, tag.clone().unwrap_or_default()),
        };
        let (client, root) = access.client(parsed.resolve_registry(), rights).map_err(as_option)?;
        Ok(Self { client: Rc::new(client), root, access: access.clone(), reference: parsed, tag })
    }

    /// `host[:port]` of the registry.
    #[must_use]
    pub fn host(&self) -> &str {
        self.reference.resolve_registry()
    }

    /// `host[:port]/path`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.host(), self.reference.repository())
    }

    /// The reference as it was given.
    #[must_use]
    pub fn reference(&self) -> String {
        match (self.digest(), self.tag()) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }

    /// Refuses what cannot be a tag of this repository.
    pub fn check_tag(&self, tag: &str) -> Result<()> {
        if reference::is_tag(tag) {
            return Ok(());
        }
        Err(Error::new(Reason::Usage, format!("\"{}\" is not a valid tag", text::escape(tag))).remedy(
            "Use up to 128 letters, digits, dots, dashes and underscores; a tag begins with a letter or digit.",
        ))
    }

    /// The tag that was written in the reference.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that was written in the reference.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.reference.digest()
    }

    /// Uploads bytes, unless they are there.
    pub fn put_bytes(&self, what: &str, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if !self.has(&blob, what)? {
            let bytes = Bytes::copy_from_slice(bytes);
            self.upload(what, &blob, REQUEST_TIME, &|| Ok(bytes.clone().into()))?;
        }
        Ok(blob)
    }

    /// Uploads a file in one pass with bounded memory, unless it is there. The registry refuses it if its bytes are no
    /// longer those of `blob`. True if it was uploaded.
    pub fn put_file(&self, what: &str, blob: &Blob, path: &Path) -> Result<bool> {
        if self.has(blob, what)? {
            log::info!("{what}: {} bytes are already uploaded", blob.size);
            return Ok(false);
        }
        let time = REQUEST_TIME + Duration::from_secs(blob.size / UPLOAD_RATE_MIN);
        self.upload(what, blob, time, &|| {
            let chunks = Chunks::open(what, path, blob.size)
                .context(Reason::ImageUnreadable, format!("read {}", path.display()))?;
            Ok(reqwest::Body::wrap_stream(futures_util::stream::iter(chunks)))
        })?;
        Ok(true)
    }

    /// Uploads a blob in one piece (OCI distribution specification, "POST then PUT"), which every registry takes.
    fn upload(&self, what: &str, blob: &Blob, time: Duration, body: &dyn Fn() -> Result<reqwest::Body>) -> Result<()> {
        let what_to = format!("the {what} to {}", self.name());
        let mut headers = content_headers("application/octet-stream");
        headers.insert(header::CONTENT_LENGTH, blob.size.into());
        let content = Content { headers, body, what: &what_to, time };
        let answer = self.tried(|| {
            let place = self.begin_upload(&what_to, &blob.digest)?;
            self.write(Method::PUT, &place, &content)
        })?;
        // A registry need not say where it put a blob: that it has it is what counts.
        if answer.headers.contains_key(header::LOCATION) || self.has(blob, what)? {
            return Ok(());
        }
        let message = format!("{} took the {what}, and does not have it", self.name());
        Err(Error::new(Reason::RegistryFailed, message))
    }

    /// The place that the registry names for the bytes of a blob.
    fn begin_upload(&self, what: &str, digest: &Digest) -> Result<Url, Failure> {
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, 0.into())]);
        let content = Content { headers, body: &|| Ok("".into()), what, time: REQUEST_TIME };
        let answer = self.write(Method::POST, &self.url("blobs", "uploads/"), &content)?;
        let named = answer.headers.get(header::LOCATION).and_then(|place| answer.url.join(place.to_str().ok()?).ok());
        let mut place = named.ok_or_else(|| {
            let message = format!("cannot upload {what}: the registry does not say where");
            Error::new(Reason::RegistryFailed, message).remedy("Check for a proxy in between; else ask its operator.")
        })?;
        // They would become an Authorization header.
        let without_login = place.set_username("").and_then(|()| place.set_password(None));
        without_login.map_err(|()| Error::new(Reason::RegistryFailed, "the registry names a place without host"))?;
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        Ok(place)
    }

    fn has(&self, blob: &Blob, what: &str) -> Result<bool> {
        let url = self.url("blobs", &blob.digest.to_string());
        let what = format!("the {what} in {}", self.name());
        self.client.exists(&url, &what, self.client.deadline()).map_err(|e| self.as_publisher(e))
    }

    /// Writes a manifest or index under a tag, or under its own digest. Returns the digest.
    pub fn put_manifest(&self, tag: Option<&str>, raw: &[u8], media_type: &'static str) -> Result<Digest> {
        let digest = Digest::of(raw);
        let name = tag.map_or(digest.to_string(), str::to_owned);
        let (what, url) = (format!("{name} to {}", self.name()), self.url("manifests", &name));
        let raw = Bytes::copy_from_slice(raw);
        let body = || Ok(raw.clone().into());
        let content = Content { headers: content_headers(media_type), body: &body, what: &what, time: REQUEST_TIME };
        self.tried(|| self.write(Method::PUT, &url, &content))?;
        Ok(digest)
    }

    fn url(&self, kind: &str, reference: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.reference.repository()));
        url
    }

    /// Fetches a document of this repository, whatever its status is.
    fn document(&self, url: &Url, accept: &str, limit: u64, what: &str) -> Result<Answer> {
        let request = Request { url, accept, limit, what };
        self.client.document(&request, self.client.deadline()).map_err(|e| self.as_publisher(e))
    }

    /// Names of all tags.
    ///
    /// # Errors
    /// 65 for more than 10,000 names, 69 when the registry does not answer.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let what = format!("the tags of {}", self.name());
        let mut url = self.url("tags", "list");
        url.query_pairs_mut().append_pair("n", &TAGS_OF_A_PAGE.to_string());
        let mut tags = vec![];
        for _ in 0..TAG_NAMES / TAGS_OF_A_PAGE {
            let answer = self.document(&url, "application/json", TAG_PAGE_BYTES, &what)?;
            let answer = answer.good(&what).map_err(|e| self.as_publisher(e))?;
            let page: Page = json::parse(&answer.body, &what)?;
            tags.extend(page.tags.unwrap_or_default());
            match answer.next().filter(|next| next.origin() == url.origin()) {
                _ if tags.len() > TAG_NAMES => break,
                Some(next) => url = next,
                None => return Ok(tags),
            }
        }
        Err(limits::exceeded("list of tags", format_args!("{TAG_NAMES} names")))
    }

    /// Reads a manifest or index; `None` if there is none.
    pub fn manifest(&self, tag_or_digest: &str) -> Result<Option<Bytes>> {
        let types = [OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE].join(", ");
        let shown = text::escape(tag_or_digest);
        let what = format!("{shown} of {}", self.name());
        let limit = limits::INDEX_BYTES.max(limits::MANIFEST_BYTES);
        let answer = self.document(&self.url("manifests", tag_or_digest), &types, limit, &what)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let raw = answer.good(&what).map_err(|e| self.as_publisher(e))?.body;
        if tag_or_digest.parse::<Digest>().is_ok_and(|expected| Digest::of(&raw) != expected) {
            let message = format!("{} sends other bytes than {shown}", self.name());
            return Err(Error::new(Reason::DigestMismatch, message));
        }
        Ok(Some(raw.into()))
    }

    /// Reads a small blob, of at most `limit` bytes.
    pub fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let what = format!("{digest} of {}", self.name());
        let answer = self.document(&self.url("blobs", &digest.to_string()), "*/*", limit, &what)?;
        let bytes = answer.good(&what).map_err(|e| self.as_publisher(e))?.body;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        Err(Error::new(Reason::DigestMismatch, format!("{} sends other bytes than {digest}", self.name())))
    }

    /// Appends a blob of this size to a file, in one pass with bounded memory. The file ends where it did if that fails.
    pub fn blob_to(&self, what: &str, blob: &Blob, mut file: &File) -> Result<()> {
        let start = file.stream_position().context(Reason::NotWritten, "write the file")?;
        let copied = self.copy(what, blob, file);
        if copied.is_err() {
            file.set_len(start).context(Reason::NotWritten, "write the file")?;
            file.seek(SeekFrom::Start(start)).context(Reason::NotWritten, "write the file")?;
        }
        copied
    }

    fn copy(&self, what: &str, blob: &Blob, mut file: &File) -> Result<()> {
        let what = format!("the {what} {} of {}", blob.digest, self.name());
        let url = self.url("blobs", &blob.digest.to_string());
        let as_publisher = |e| self.as_publisher(e);
        let mut body = BlobBody::open(self.client.clone(), url, blob.size, what.clone()).map_err(as_publisher)?;
        let mut hash = sha2::Sha256::new();
        while let Some(chunk) = body.chunk().map_err(as_publisher)? {
            hash.update(&chunk);
            file.write_all(&chunk).context(Reason::NotWritten, "write the file")?;
        }
        if Digest(hash.finalize().into()) == blob.digest {
            return Ok(());
        }
        let message = format!("{} sends other bytes than {}", self.name(), blob.digest);
        Err(self.as_publisher(body.explain(Error::new(Reason::DigestMismatch, message))))
    }

    /// Referrers of `subject` that the registry lists; `None` without the referrers interface. A registry may ignore the type
    /// that is asked for.
    pub fn listed(&self, subject: Digest, artifact_type: Option<&str>) -> Result<Option<Vec<Descriptor>>> {
        let what = format!("the list of signatures of {subject} in {}", self.name());
        let mut url = self.url("referrers", &subject.to_string());
        if let Some(kind) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let mut entries = None;
        for _ in 0..REFERRER_PAGES {
            let answer = self.document(&url, OCI_INDEX_TYPE, limits::REFERRERS_BYTES, &what)?;
            if answer.status.is_client_error() && !matches!(answer.status.as_u16(), 401 | 403) {
                return Ok(None);
            }
            let answer = answer.good(&what).map_err(|e| self.as_publisher(e))?;
            let Ok(index) = Index::parse(&answer.body, &what, usize::MAX) else { return Ok(entries) };
            entries.get_or_insert_with(Vec::new).extend(index.manifests);
            match answer.next().filter(|next| next.origin() == url.origin()) {
                Some(next) => url = next,
                None => return Ok(entries),
            }
        }
        Err(limits::exceeded(what, format_args!("{REFERRER_PAGES} pages")))
    }

    /// True if signatures go into the tag with the list of referrers, too.
    #[must_use]
    pub fn writes_fallback_tag(&self) -> bool {
        !self.access.no_fallback_tag
    }

    /// An error of the device's client in the terms of this program: options for settings, and its own ways to log in.
    fn as_publisher(&self, mut e: Error) -> Error {
        if matches!(e.reason, Reason::AccessDenied | Reason::LoginRefused) {
            e.reason = Reason::RegistryDenied;
            return e.remedy(self.log_in_by());
        }
        // The first bytes that a TLS client reads from a server without TLS.
        if e.message.contains("InvalidContentType") {
            return e.remedy(self.no_tls());
        }
        as_option(e)
    }

    /// The same for a write.
    fn as_upload(&self, mut e: Error) -> Error {
        if let Some(rest) = e.message.strip_prefix("cannot fetch ") {
            e.message = format!("cannot upload {rest}");
        }
        if matches!(e.reason, Reason::ServerError | Reason::NotFound) {
            e.reason = Reason::RegistryFailed;
        }
        self.as_publisher(e)
    }

    fn log_in_by(&self) -> String {
        let (user, password) = (credentials::USER, credentials::PASSWORD);
        format!("Log in: set {user} and {password}, or run `docker login {}`.", self.host())
    }

    fn no_tls(&self) -> String {
        format!("If this registry has no TLS, use --plain-http {}.", self.host())
    }

    /// Sends one request that writes.
    fn write(&self, method: Method, url: &Url, content: &Content<'_>) -> Result<Answer, Failure> {
        let Content { headers, body, what, time } = content;
        let repository = self.url("blobs", "");
        let answer = self.client.write(&Write { method, repository: &repository, url, headers, body, what }, *time)?;
        if answer.status.is_success() { Ok(answer) } else { Err(failure::refusal(&answer, what).into()) }
    }

    /// Writes, and again if the failure may pass.
    fn tried(&self, one: impl Fn() -> Result<Answer, Failure>) -> Result<Answer> {
        let mut wait = RETRY_WAIT;
        let mut left = TRIES;
        loop {
            left -= 1;
            match one() {
                Ok(answer) => return Ok(answer),
                Err(Failure::Passing(e, wish)) if left > 0 && wish.is_none_or(|wish| wish <= RETRY_WAIT_MAX) => {
                    let e = self.as_upload(e);
                    log::warn!("{e}; trying again");
                    std::thread::sleep(wish.unwrap_or(wait));
                    wait *= 2;
                }
                Err(Failure::Passing(e, _) | Failure::Final(e)) => return Err(self.as_upload(e)),
            }
        }
    }
}

/// The content of a write.
struct Content<'a> {
    headers: HeaderMap,
    /// Makes the body, for each attempt.
    body: &'a dyn Fn() -> Result<reqwest::Body>,
    /// Names it and the repository in messages.
    what: &'a str,
    time: Duration,
}

fn content_headers(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

/// An error of the device's client with options in the place of settings.
fn as_option(mut e: Error) -> Error {
    let options = [
        ("registry_auth_hosts=", "--registry-auth-host "),
        ("registry_ca=", "--registry-ca"),
        ("registry_ca", "--registry-ca"),
        ("registry_cert=", "--registry-cert"),
        ("registry_cert", "--registry-cert"),
        ("registry_key=", "--registry-key"),
        ("registry_key", "--registry-key"),
        ("plain_http=", "--plain-http"),
        (" proxy=", " https_proxy="),
        ("(proxy=", "(https_proxy="),
    ];
    let replaced = |text: &str| options.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    if matches!(e.reason, Reason::BadCa | Reason::BadCredentials | Reason::ClientCertificateWanted) {
        e.message = replaced(&e.message);
    }
    e.remedy = replaced(&e.remedy);
    e
}

impl Attachments for Registry {
    fn referrers(&self, subject: Digest, _: Option<&str>, _: u64) -> Result<Option<Referrers>> {
        let listed = self.listed(subject, None)?;
        Ok(listed.map(|entries| Referrers { entries, ..Referrers::default() }))
    }

    fn tagged(&self, tag: &str, limit: u64, what: &str) -> Result<Option<Vec<u8>>> {
        match self.manifest(tag)? {
            Some(raw) if raw.len() as u64 > limit => Err(limits::exceeded(what, format_args!("{limit} bytes"))),
            found => Ok(found.map(Into::into)),
        }
    }

    fn manifest(&self, entry: &Descriptor, _: &str) -> Result<Vec<u8>> {
        read::needed(self, &entry.digest).map(Into::into)
    }

    fn blob(&self, digest: Digest, limit: u64, _: &str) -> Result<Vec<u8>> {
        Self::blob(self, &digest, limit)
    }
}

/// A file in pieces. Shows progress, because an upload over a slow line takes minutes.
struct Chunks {
    file: File,
    progress: Shown,
}

impl Chunks {
    fn open(what: &str, path: &Path, size: u64) -> std::io::Result<Self> {
        log::info!("{what}: uploading {}", progress::size(size));
        Ok(Self { file: files::open_data(path)?, progress: Shown::new("uploading", size) })
    }
}

impl Iterator for Chunks {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&self.file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Err(e) => return Some(Err(e)),
            Ok(0) => return None,
            Ok(read) => self.progress.advance(read as u64),
        }
        Some(Ok(chunk.into()))
    }
}
