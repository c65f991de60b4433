//! A repository of a registry, for writing: blobs and manifests, over `oci-client`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use tokio::runtime::Runtime;

use crate::credentials;
use crate::failure::{describe, is_absent, is_connect, may_pass, status};
use crate::login::Login;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits, text};
use kubesolo_update::fetch::tls::use_ring;
use kubesolo_update::release::release::{
    Blob, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE,
};
use kubesolo_update::source::reference;

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
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

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
}

/// One repository, with a login to it.
pub struct Registry {
    client: RefCell<Client>,
    access: Access,
    operation: RegistryOperation,
    runtime: Runtime,
    reference: Reference,
    tag: Option<String>,
    reached: Cell<bool>,
    /// The login is a token, which expires.
    token: Cell<bool>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.reference()).finish()
    }
}

impl Registry {
    /// Parses `HOST[:PORT]/PATH[:TAG|@DIGEST]`, finds the credentials and logs in.
    pub fn open(reference: &str, access: &Access, operation: RegistryOperation) -> Result<Self> {
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
        let registry = Self {
            client: RefCell::new(client(access)?),
            access: access.clone(),
            operation,
            runtime,
            reference: parsed,
            tag,
            reached: Cell::new(false),
            token: Cell::new(false),
        };
        registry.log_in()?;
        Ok(registry)
    }

    /// Logs in, with a new client: the old one would keep an old token.
    fn log_in(&self) -> Result<()> {
        self.token.set(false);
        let mut auth = credentials::find(self.host())?;
        if let RegistryAuth::Basic(user, password) = &auth {
            let (registry, repository) = (self.host(), self.reference.repository());
            let login = Login { access: &self.access, registry, repository, operation: self.operation };
            auth = self.timed(REQUEST_TIME, "log in to", async |_| login.exchange(user, password).await)??;
        }
        self.client.replace(client(&self.access)?);
        self.timed(REQUEST_TIME, "log in to", async |client| {
            client.auth(&self.reference, &auth, self.operation).await.map(|_| ())
        })?;
        self.token.set(matches!(auth, RegistryAuth::Bearer(_)));
        Ok(())
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
            self.timed(REQUEST_TIME, &format!("upload the {what} to"), async |client| {
                client.push_blob(&self.reference, bytes.clone(), &blob.digest.to_string()).await.map(|_| ())
            })?;
        }
        Ok(blob)
    }

    /// Uploads a file in one pass with bounded memory, unless it is there. The registry refuses it if its bytes are no
    /// longer those of `blob`.
    pub fn put_file(&self, what: &str, blob: &Blob, path: &Path) -> Result<()> {
        if self.has(blob, what)? {
            log::info!("{what}: {} bytes are already uploaded", blob.size);
            return Ok(());
        }
        let time = REQUEST_TIME + Duration::from_secs(blob.size / UPLOAD_RATE_MIN);
        self.timed(time, &format!("upload the {what} {} to", path.display()), async |client| {
            let stream = futures_util::stream::iter(Chunks::open(what, path, blob.size)?);
            let digest = blob.digest.to_string();
            client.push_blob_stream(&self.reference, stream, &digest, Some(blob.size)).await.map(|_| ())
        })
    }

    fn has(&self, blob: &Blob, what: &str) -> Result<bool> {
        let digest = blob.digest.to_string();
        self.timed(REQUEST_TIME, &format!("look for the {what} in"), async |client| {
            client.blob_exists(&self.reference, &digest).await
        })
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

    /// Reads a manifest or index; `None` if there is none.
    pub fn manifest(&self, tag_or_digest: &str) -> Result<Option<Bytes>> {
        let types = [OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE];
        let target = self.at(tag_or_digest);
        let login = RegistryAuth::Anonymous; // not used: `open` stored the real one
        let shown = text::escape(tag_or_digest);
        let found = self.timed(REQUEST_TIME, &format!("read {shown} of"), async |client| {
            match client.pull_manifest_raw(&target, &login, &types).await {
                Ok((raw, _)) => Ok(Some(raw)),
                Err(e) if is_absent(&e) => Ok(None),
                Err(e) => Err(e),
            }
        })?;
        if let (Some(raw), Ok(expected)) = (&found, tag_or_digest.parse::<Digest>())
            && Digest::of(raw) != expected
        {
            let message = format!("{} sends other bytes than {shown}", self.name());
            return Err(Error::new(Reason::DigestMismatch, message));
        }
        Ok(found)
    }

    /// Reads a small blob, of at most `limit` bytes.
    pub fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let name = digest.to_string();
        self.timed(REQUEST_TIME, &format!("read {name} of"), async |client| {
            let mut stream = client.pull_blob_stream(&self.reference, name.as_str()).await?;
            let mut bytes = vec![];
            // The client checks the digest at the end of the stream.
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
                if bytes.len() as u64 > limit {
                    return Err(std::io::Error::other(format!("it has more than {limit} bytes")).into());
                }
            }
            Ok(bytes)
        })
    }

    /// Appends a blob of this size to a file, in one pass with bounded memory. The file ends where it did if that fails.
    pub fn blob_to(&self, what: &str, blob: &Blob, mut file: &File) -> Result<()> {
        let start = file.stream_position().context(Reason::NotWritten, "write the file")?;
        let time = REQUEST_TIME + Duration::from_secs(blob.size / UPLOAD_RATE_MIN);
        let name = blob.digest.to_string();
        self.timed(time, &format!("read the {what} of"), async |client| {
            let mut out = file;
            out.set_len(start)?;
            out.seek(SeekFrom::Start(start))?;
            let mut stream = client.pull_blob_stream(&self.reference, name.as_str()).await?;
            let mut size = 0;
            // The client checks the digest at the end of the stream.
            while let Some(chunk) = stream.next().await {
                let chunk = chunk?;
                size += chunk.len() as u64;
                if size > blob.size {
                    break;
                }
                out.write_all(&chunk)?;
            }
            if size == blob.size {
                return Ok(());
            }
            Err(std::io::Error::other(format!("it does not have the {} bytes of the manifest", blob.size)).into())
        })
    }

    /// Digests of the referrers of `subject` that the registry lists, or the fallback tag where it has no such list.
    pub fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<String>> {
        let target = Reference::with_digest(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            subject.to_string(),
        );
        let listed = self.timed(REQUEST_TIME, "list the signatures in", async |client| {
            client.pull_referrers(&target, Some(artifact_type)).await
        })?;
        // A registry may ignore the filter.
        let wanted = listed.manifests.into_iter().filter(|entry| entry.artifact_type.as_deref() == Some(artifact_type));
        Ok(wanted.map(|entry| entry.digest).collect())
    }

    /// Runs one operation with its time limit, and again if its failure may pass.
    fn timed<T>(
        &self,
        time: Duration,
        what: &str,
        operation: impl AsyncFn(&Client) -> Result<T, OciDistributionError>,
    ) -> Result<T> {
        let mut wait = RETRY_WAIT;
        let mut renewed = false;
        for left in (0..TRIES).rev() {
            let client = self.client.borrow().clone();
            let result = self.runtime.block_on(async { tokio::time::timeout(time, operation(&client)).await });
            let (why, may_pass) = match result {
                Ok(Ok(value)) => {
                    self.reached.set(true);
                    return Ok(value);
                }
                // A registry that was never reached is more likely misspelt than down for a moment.
                Ok(Err(e)) => {
                    let may_pass = may_pass(&e) && (self.reached.get() || !is_connect(&e));
                    (e, may_pass)
                }
                Err(_) => {
                    let message = format!("cannot {what} {}: no answer within {} s", self.name(), time.as_secs());
                    return Err(Error::new(Reason::RegistryTooSlow, message));
                }
            };
            if status(&why) == Some(401) && self.token.get() && !renewed && left > 0 {
                renewed = true;
                self.log_in()?;
                continue;
            }
            if !may_pass || left == 0 {
                return Err(self.explain(what, &why));
            }
            log::warn!("cannot {what} {}: {}; trying again", self.name(), describe(&why));
            std::thread::sleep(wait);
            wait *= 2;
        }
        unreachable!("the last try returns")
    }

    fn explain(&self, what: &str, e: &OciDistributionError) -> Error {
        let message = format!("cannot {what} {}: {}", self.name(), describe(e));
        match status(e) {
            Some(401 | 403) => Error::new(Reason::RegistryDenied, message).remedy(format!(
                "Log in: set {} and {}, or run `docker login {}`.",
                credentials::USER,
                credentials::PASSWORD,
                self.host()
            )),
            // What a TLS client reads from a server that speaks plain HTTP.
            _ if message.contains("InvalidContentType") => Error::new(Reason::RegistryFailed, message)
                .remedy(format!("If this registry has no TLS, use --plain-http {}.", self.host())),
            _ => Error::new(Reason::RegistryFailed, message),
        }
    }
}

/// The file of `--registry-ca`.
pub(crate) fn authorities(path: &Path) -> std::io::Result<Vec<u8>> {
    files::read_data(path, limits::AUTHORITIES_BYTES)
}

fn client(access: &Access) -> Result<Client> {
    use_ring();
    let mut extra_root_certificates = vec![];
    if let Some(path) = &access.registry_ca {
        let data = authorities(path).context(Reason::BadCa, format!("read {}", path.display()))?;
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

/// A file in pieces. Tells about its progress, since a kernel over a slow line takes a while.
struct Chunks {
    what: String,
    file: File,
    size: u64,
    sent: u64,
    told: Instant,
}

impl Chunks {
    fn open(what: &str, path: &Path, size: u64) -> std::io::Result<Self> {
        log::info!("{what}: uploading {size} bytes");
        Ok(Self { what: what.to_owned(), file: files::open_data(path)?, size, sent: 0, told: Instant::now() })
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, OciDistributionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&self.file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Err(e) => return Some(Err(e.into())),
            Ok(0) => return None,
            Ok(read) => self.sent += read as u64,
        }
        if self.told.elapsed() >= PROGRESS_EVERY {
            log::info!("{}: {} of {} bytes", self.what, self.sent, self.size);
            self.told = Instant::now();
        }
        Some(Ok(chunk.into()))
    }
}
