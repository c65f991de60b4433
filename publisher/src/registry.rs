//! A repository of a registry. The device's client logs in and reads, with its limits and its rules for logins; `oci-client`
//! uploads blobs and manifests, with the token that the device's client got.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use sha2::Digest as _;
use tokio::runtime::Runtime;

use crate::credentials;
use crate::failure::{describe, may_pass, status};
use crate::read;
use kubesolo_update::base::console::progress::{self, Progress as _, Shown};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, json, limits, text};
use kubesolo_update::fetch::answer::Answer;
use kubesolo_update::fetch::blob::BlobBody;
use kubesolo_update::fetch::body::Body as _;
use kubesolo_update::fetch::client as reader;
use kubesolo_update::fetch::login::Login;
use kubesolo_update::fetch::options::{Authentication, FetchOptions};
use kubesolo_update::fetch::tls::use_ring;
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
/// One attempt to connect, with TLS.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(15);
/// How often an operation is tried that failed for a reason that may pass.
const TRIES: u32 = 4;
/// Wait before the second try; doubles with each.
const RETRY_WAIT: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 256 << 10;
/// The most tags of a repository, those of signatures included.
const TAG_NAMES: usize = 10_000;
/// Tags that one request asks for. A registry may send more.
const TAGS_OF_A_PAGE: usize = 500;
/// The most pages of a list of referrers, each of at most 256 KiB.
const REFERRER_PAGES: usize = 64;
/// The largest answer to it, in bytes: all names of 128 characters, which is the longest.
const TAG_PAGE_BYTES: u64 = 2 << 20;

/// As servers see this program.
pub(crate) const USER_AGENT: &str = concat!("kubesolo-release/", env!("CARGO_PKG_VERSION"));

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Registries (`host[:port]`) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// PEM file with certificates to trust beside the system's.
    pub registry_ca: Option<PathBuf>,
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
}

/// One repository.
pub struct Registry {
    reader: Rc<reader::Client>,
    /// Where it is.
    root: Url,
    access: Access,
    /// Logged in by the first upload.
    writer: RefCell<Option<Client>>,
    runtime: Runtime,
    reference: Reference,
    tag: Option<String>,
    /// The login is a token, which expires.
    token: Cell<bool>,
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context(Reason::NoRuntime, "start the network runtime")?;
        let registry = parsed.resolve_registry();
        let reader = reader::Client::new(&FetchOptions {
            registry_ca: access.registry_ca.clone(),
            plain_http: access.plain_http.clone(),
            authentication: access.authentication(registry, rights)?,
            ..FetchOptions::default()
        })?;
        let root = reader.root(registry)?;
        let (reader, access) = (Rc::new(reader), access.clone());
        Ok(Self {
            reader,
            root,
            access,
            writer: RefCell::default(),
            runtime,
            reference: parsed,
            tag,
            token: Cell::new(false),
        })
    }

    /// Logs the writer in. A new client each time: the old one would keep an old token.
    fn log_in(&self) -> Result<Client> {
        let login = self.reader.authorized(&self.root, self.reference.repository());
        let (auth, token) = match login.map_err(|e| self.as_publisher(e))? {
            Some(Login::Password { user, password }) => (RegistryAuth::Basic(user, password), false),
            Some(Login::Bearer(token)) => (RegistryAuth::Bearer(token), true),
            Some(Login::Identity(_)) | None => (RegistryAuth::Anonymous, false),
        };
        let client = client(&self.access)?;
        let operation = client.auth(&self.reference, &auth, RegistryOperation::Push);
        let done = self.runtime.block_on(async { tokio::time::timeout(REQUEST_TIME, operation).await });
        match done {
            Ok(done) => done.map_err(|e| self.explain("log in to", &e))?,
            Err(_) => return Err(self.too_slow("log in to", REQUEST_TIME)),
        };
        self.token.set(token);
        self.writer.replace(Some(client.clone()));
        Ok(client)
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

    /// A tag or digest of this repository. A digest goes where a tag does: the path in the registry is the same, and the
    /// client panics on a digest when the answer to a push has no `Location`.
    fn at(&self, tag_or_digest: &str) -> Reference {
        Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            tag_or_digest.to_owned(),
        )
    }

    /// Uploads bytes, unless they are there.
    pub fn put_bytes(&self, what: &str, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if !self.has(&blob, what)? {
            let bytes = Bytes::copy_from_slice(bytes);
            let uploaded = self.timed(REQUEST_TIME, &format!("upload the {what} to"), async |client| {
                uploaded(client.push_blob(&self.reference, bytes.clone(), &blob.digest.to_string()).await)
            })?;
            self.placed(uploaded, &blob, what)?;
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
        let uploaded = self.timed(time, &format!("upload the {what} {} to", path.display()), async |client| {
            let stream = futures_util::stream::iter(Chunks::open(what, path, blob.size)?);
            let digest = blob.digest.to_string();
            uploaded(client.push_blob_stream(&self.reference, stream, &digest, Some(blob.size)).await)
        })?;
        self.placed(uploaded, blob, what).map(|()| true)
    }

    fn has(&self, blob: &Blob, what: &str) -> Result<bool> {
        let url = self.url("blobs", &blob.digest.to_string());
        let what = format!("the {what} in {}", self.name());
        self.reader.exists(&url, &what, self.reader.deadline()).map_err(|e| self.as_publisher(e))
    }

    /// A registry need not say where it put a blob: that it has it is what counts.
    fn placed(&self, uploaded: Uploaded, blob: &Blob, what: &str) -> Result<()> {
        match uploaded {
            Uploaded::Told => Ok(()),
            Uploaded::Untold if self.has(blob, what)? => Ok(()),
            Uploaded::Untold => {
                let message = format!("{} took the {what}, and does not have it", self.name());
                Err(Error::new(Reason::RegistryFailed, message))
            }
        }
    }

    /// Writes a manifest or index under a tag, or under its own digest. Returns the digest.
    pub fn put_manifest(&self, tag: Option<&str>, raw: &[u8], media_type: &'static str) -> Result<Digest> {
        let digest = Digest::of(raw);
        let target = self.at(tag.unwrap_or(&digest.to_string()));
        let raw = Bytes::copy_from_slice(raw);
        self.timed(REQUEST_TIME, &format!("write {} to", target.tag().unwrap_or_default()), async |client| {
            let media_type = HeaderValue::from_static(media_type);
            client.push_manifest_raw(&target, raw.clone(), media_type).await.map(|_| ())
        })?;
        Ok(digest)
    }

    fn url(&self, kind: &str, reference: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.reference.repository()));
        url
    }

    /// Fetches a document of this repository, whatever its status is.
    fn document(&self, url: &Url, accept: &str, limit: u64, what: &str) -> Result<Answer> {
        let request = reader::Request { url, accept, limit, what };
        self.reader.document(&request, self.reader.deadline()).map_err(|e| self.as_publisher(e))
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
        let mut body = BlobBody::open(self.reader.clone(), url, blob.size, what.clone()).map_err(as_publisher)?;
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
        let options = [
            ("registry_auth_hosts=", "--registry-auth-host "),
            ("registry_ca=", "--registry-ca"),
            ("registry_ca", "--registry-ca"),
            ("plain_http=", "--plain-http"),
        ];
        e.remedy = options.into_iter().fold(e.remedy, |text, (setting, option)| text.replace(setting, option));
        // The first bytes that a TLS client reads from a server without TLS.
        if e.message.contains("InvalidContentType") {
            return e.remedy(self.no_tls());
        }
        e
    }

    fn log_in_by(&self) -> String {
        let (user, password) = (credentials::USER, credentials::PASSWORD);
        format!("Log in: set {user} and {password}, or run `docker login {}`.", self.host())
    }

    fn no_tls(&self) -> String {
        format!("If this registry has no TLS, use --plain-http {}.", self.host())
    }

    /// Runs one upload with its time limit, and again if its failure may pass.
    fn timed<T>(
        &self,
        time: Duration,
        what: &str,
        operation: impl AsyncFn(&Client) -> Result<T, OciDistributionError>,
    ) -> Result<T> {
        let mut wait = RETRY_WAIT;
        let mut renewed = false;
        for left in (0..TRIES).rev() {
            let known = self.writer.borrow().clone();
            let client = known.map_or_else(|| self.log_in(), Ok)?;
            let result = self.runtime.block_on(async { tokio::time::timeout(time, operation(&client)).await });
            let why = match result {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) => e,
                Err(_) => return Err(self.too_slow(what, time)),
            };
            if status(&why) == Some(401) && self.token.get() && !renewed && left > 0 {
                renewed = true;
                self.log_in()?;
                continue;
            }
            if !may_pass(&why) || left == 0 {
                return Err(self.explain(what, &why));
            }
            log::warn!("cannot {what} {}: {}; trying again", self.name(), describe(&why));
            std::thread::sleep(wait);
            wait *= 2;
        }
        unreachable!("the last try returns")
    }

    fn too_slow(&self, what: &str, time: Duration) -> Error {
        let message = format!("cannot {what} {}: no answer within {} s", self.name(), time.as_secs());
        Error::new(Reason::RegistryTooSlow, message)
    }

    fn explain(&self, what: &str, e: &OciDistributionError) -> Error {
        let message = format!("cannot {what} {}: {}", self.name(), describe(e));
        match status(e) {
            Some(401 | 403) => Error::new(Reason::RegistryDenied, message).remedy(self.log_in_by()),
            // The first bytes that a TLS client reads from a server without TLS.
            _ if message.contains("InvalidContentType") => {
                Error::new(Reason::RegistryFailed, message).remedy(self.no_tls())
            }
            _ => Error::new(Reason::RegistryFailed, message),
        }
    }
}

/// The end of an upload: `Untold` where the answer has no `Location`, which the specification wants and some registries omit.
enum Uploaded {
    Told,
    Untold,
}

fn uploaded(result: Result<String, OciDistributionError>) -> Result<Uploaded, OciDistributionError> {
    match result {
        Ok(_) => Ok(Uploaded::Told),
        Err(OciDistributionError::RegistryNoLocationError) => Ok(Uploaded::Untold),
        Err(e) => Err(e),
    }
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

fn client(access: &Access) -> Result<Client> {
    use_ring();
    let mut extra_root_certificates = vec![];
    if let Some(path) = &access.registry_ca {
        let data = files::read_data(path, limits::AUTHORITIES_BYTES)
            .context(Reason::BadCa, format!("read {}", path.display()))?;
        extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
    }
    Client::try_from(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(access.plain_http.clone()),
        extra_root_certificates,
        // One PUT with the whole blob is what every registry takes; some do not take chunks.
        use_monolithic_push: true,
        connect_timeout: Some(CONNECT_TIME),
        user_agent: USER_AGENT,
        ..ClientConfig::default()
    })
    .map_err(|e| Error::new(Reason::NoClient, format!("cannot set up the registry client: {}", describe(&e))))
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
    type Item = Result<Bytes, OciDistributionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&self.file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Err(e) => return Some(Err(e.into())),
            Ok(0) => return None,
            Ok(read) => self.progress.advance(read as u64),
        }
        Some(Ok(chunk.into()))
    }
}
