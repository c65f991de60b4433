//! Requests: redirects, tokens, retries and limits, the same for every document and image.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, json, limits, text};
use crate::fetch::challenge::{self, Bearer};
use crate::fetch::options::FetchOptions;

/// One HTTP client with one set of authorities, proxies and times, for everything that one command fetches.
pub(crate) struct Client {
    runtime: Runtime,
    tls: OnceCell<reqwest::Client>,
    /// Knows no authority: reading a certificate store costs more than all the rest of a check.
    clear: OnceCell<reqwest::Client>,
    pub(super) options: FetchOptions,
    plain: HashSet<(String, u16)>,
    /// By origin; a token is never sent anywhere else.
    tokens: RefCell<HashMap<String, HeaderValue>>,
}

/// When the documents of one check must be complete.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

/// An answer with its body, whatever its status.
pub(crate) struct Answer {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// As far as [`limits::ERROR_BODY_BYTES`] if the status is an error.
    pub(crate) body: Vec<u8>,
}

/// Why an attempt failed, and whether another one can help.
pub(super) enum Failure {
    Final(Error),
    /// The pause is the server's wish, if it has one.
    Passing(Error, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Final(e)
    }
}

/// Makes `ring` the cryptography of every TLS connection of this process.
pub fn use_ring() {
    // An error means that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Client {
    pub(crate) fn new(options: &FetchOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context(Reason::Runtime, "start the network runtime")?;
        let client = Self {
            runtime,
            tls: OnceCell::new(),
            clear: OnceCell::new(),
            plain: options.plain_http.iter().map(|host| plain_host(host)).collect::<Result<_>>()?,
            options: options.clone(),
            tokens: RefCell::default(),
        };
        // A wrong file is an error of the configuration, whether or not this run needs it.
        if options.registry_ca.is_some() {
            client.http("https")?;
        }
        Ok(client)
    }

    /// What speaks to servers of this scheme.
    fn http(&self, scheme: &str) -> Result<&reqwest::Client> {
        let secure = scheme == "https";
        let cell = if secure { &self.tls } else { &self.clear };
        if let Some(http) = cell.get() {
            return Ok(http);
        }
        let authorities = if secure {
            authorities(system_authorities(), self.options.registry_ca.as_deref())?
        } else {
            rustls::RootCertStore::empty()
        };
        let http = http(&self.options, authorities)?;
        Ok(cell.get_or_init(|| http))
    }

    /// The root URL of `host` or `host:port`: `https`, unless it is listed as plain.
    pub(crate) fn root(&self, host: &str) -> Result<Url> {
        let bad = |e| Error::new(Reason::BadHost, format!("\"{}\" is not a host: {e}", text::escape(host)));
        let plain = Url::parse(&format!("http://{host}/")).map_err(bad)?;
        if self.may_be_plain(&plain) { Ok(plain) } else { Url::parse(&format!("https://{host}/")).map_err(bad) }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.options.patience.documents)
    }

    /// Fetches a document of at most `limit` bytes, with retries, before the deadline. `what` names it in messages.
    pub(crate) fn document(
        &self,
        url: &Url,
        accept: &str,
        limit: u64,
        what: &str,
        deadline: Deadline,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).context(Reason::Header, "ask")?);
        self.retried(what, deadline, async || {
            let answer = self.answer(Method::GET, url, &headers, what).await?;
            self.whole(answer, limit, what).await
        })
    }

    /// Whether there is an answer with status 200; its body does not matter.
    pub(super) fn answers(&self, url: &Url, what: &str, deadline: Deadline) -> Result<()> {
        self.retried(what, deadline, async || {
            let answer = self.answer(Method::GET, url, &HeaderMap::new(), what).await?;
            match answer.status() {
                StatusCode::OK => Ok(()),
                status => Err(refusal(status, url, b"", what).into()),
            }
        })
    }

    /// How many bytes a file has, by the server's word, without fetching it.
    pub(crate) fn size(&self, url: &Url, what: &str, deadline: Deadline) -> Result<u64> {
        self.retried(what, deadline, async || {
            let answer = self.answer(Method::HEAD, url, &HeaderMap::new(), what).await?;
            let said =
                if answer.status() == StatusCode::OK { number(answer.headers(), header::CONTENT_LENGTH) } else { None };
            match said {
                Some(size) => Ok(size),
                None => self.size_by_range(url, what).await,
            }
        })
    }

    /// Access by a signed URL is often for GET alone, and some servers know no other method.
    async fn size_by_range(&self, url: &Url, what: &str) -> Result<u64, Failure> {
        let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-0"))]);
        let answer = self.answer(Method::GET, url, &headers, what).await?;
        let (status, headers, url) = (answer.status(), answer.headers(), answer.url());
        if let Some(failure) = passing(status, url, headers, b"", what) {
            return Err(failure);
        }
        let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let said = match status.as_u16() {
            200 => number(headers, header::CONTENT_LENGTH),
            206 => range.and_then(|range| range.rsplit_once('/')?.1.parse().ok()),
            _ => return Err(refusal(status, url, b"", what).into()),
        };
        said.ok_or_else(|| {
            let message = format!("{what}: {} does not report its size", origin(url));
            Error::new(Reason::SizeUnknown, message).remedy("Serve it as a plain file, with Content-Length.").into()
        })
    }

    /// Makes attempts before the deadline until one succeeds, or fails for good.
    fn retried<T>(&self, what: &str, deadline: Deadline, one: impl AsyncFn() -> Result<T, Failure>) -> Result<T> {
        let attempts = self.options.patience.document_attempts;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (error, wish) = match self.within(deadline.0, one()) {
                None => return Err(self.too_late(what)),
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(Failure::Final(e))) => return Err(e),
                Some(Err(Failure::Passing(e, wish))) => (e, wish),
            };
            let pause = self.pause(attempt, wish);
            if attempt >= attempts || pause > self.options.patience.retry_after_max {
                return Err(error);
            }
            if Instant::now() + pause >= deadline.0 {
                return Err(error.context(format_args!("no time for another attempt in {pause:.0?}")));
            }
            log::debug!("{error}; next attempt in {pause:.1?}");
            std::thread::sleep(pause);
        }
    }

    /// How long to wait after the given number of failed attempts: the server's wish, else twice as long each time; and a
    /// little more, so that a fleet that failed together does not come back together.
    pub(super) fn pause(&self, attempt: u32, wish: Option<Duration>) -> Duration {
        let pause = wish.unwrap_or(self.options.patience.retry_pause * 2u32.saturating_pow(attempt - 1).min(32));
        let chance = RandomState::new().hash_one(attempt) % 256;
        if wish.is_some_and(|wish| wish > self.options.patience.retry_after_max) {
            return pause;
        }
        (pause + pause.mul_f64(chance as f64 / 1024.0)).min(self.options.patience.retry_after_max)
    }

    /// Runs `work` until the time is over: `None`.
    pub(super) fn within<T>(&self, end: Instant, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout_at(end.into(), work).await.ok() })
    }

    fn too_late(&self, what: &str) -> Error {
        let time = self.options.patience.documents;
        Error::new(Reason::Timeout, format!("cannot fetch {what}: not finished after {time:.0?}"))
            .remedy("Try again later, or check the connection to the server.")
    }

    /// Sends one request and follows it to an answer that is neither a redirect nor, if that can be helped, a 401.
    pub(super) async fn answer(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, Failure> {
        let response = self.redirected(&method, url, headers, what).await?;
        if response.status() != StatusCode::UNAUTHORIZED || origin(response.url()) != origin(url) {
            return Ok(response);
        }
        // The token is missing, or it expired.
        self.tokens.borrow_mut().remove(&origin(url));
        let token = self.token(&response, what).await?;
        drop(response);
        self.tokens.borrow_mut().insert(origin(url), token);
        self.redirected(&method, url, headers, what).await
    }

    async fn redirected(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=limits::REDIRECTS {
            if url.scheme() != "https" && !self.may_be_plain(&url) {
                let message = format!("cannot fetch {what}: {} has no TLS", shown(&url));
                return Err(Error::new(Reason::NotHttps, message)
                    .remedy("Use https, or list this host and port in plain_http= if its network is trusted.")
                    .into());
            }
            let mut request = self.http(url.scheme())?.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(token) = self.tokens.borrow().get(&origin(&url)) {
                request = request.header(header::AUTHORIZATION, token.clone());
            }
            let response = request.send().await.map_err(|e| self.unreachable(&e, &url, what))?;
            log::debug!("{method} {} {}", shown(&url), response.status().as_u16());
            let next = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION),
                _ => None,
            };
            let Some(next) = next else { return Ok(response) };
            let next = next.to_str().ok().and_then(|next| url.join(next).ok());
            let Some(mut next) = next else {
                let message = format!("cannot fetch {what}: {} redirects to an invalid URL", shown(&url));
                return Err(Error::new(Reason::BadRedirect, message).into());
            };
            if url.scheme() == "https" && next.scheme() != "https" {
                let message =
                    format!("cannot fetch {what}: {} redirects to {}, which has no TLS", shown(&url), shown(&next));
                return Err(Error::new(Reason::InsecureRedirect, message)
                    .remedy("Fix the server: the agent never leaves https.")
                    .into());
            }
            if !without_login(&mut next) {
                let message = format!("cannot fetch {what}: {} redirects to a URL without host", shown(&url));
                return Err(Error::new(Reason::BadRedirect, message).into());
            }
            url = next;
        }
        Err(limits::exceeded(format_args!("cannot fetch {what}"), format_args!("{} redirects", limits::REDIRECTS))
            .into())
    }

    /// Asks the token server that a 401 names. Nobody's name is given: what is fetched here is public, and signed.
    async fn token(&self, refusal: &Response, what: &str) -> Result<HeaderValue, Failure> {
        let denied = |why: &str| {
            let message = format!("cannot fetch {what}: {} requires authentication, {why}", origin(refusal.url()));
            Error::new(Reason::AccessDenied, message)
                .remedy("Check the name of the repository, and allow anonymous pulls of it.")
        };
        let Some(Bearer { realm, service, scope }) = challenge::bearer(refusal.headers()) else {
            return Err(denied("and anonymous pull is not allowed").into());
        };
        let mut url = refusal.url().join(&realm).map_err(|_| denied("and names no token server"))?;
        if refusal.url().scheme() == "https" && url.scheme() != "https" {
            return Err(denied("and its token server has no TLS").into());
        }
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        let what = format!("a token for {what}");
        let response = self.redirected(&Method::GET, &url, &HeaderMap::new(), &what).await?;
        let answer = self.whole(response, limits::TOKEN_BYTES, &what).await?.good(&what)?;
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Token = json::parse(&answer.body, &what)?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let value = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut value = value.ok_or_else(|| denied("and its token server returns no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Reads a body to its end. Statuses that pass are failures, others are for the caller to judge.
    async fn whole(&self, mut response: Response, limit: u64, what: &str) -> Result<Answer, Failure> {
        let refused = !response.status().is_success();
        let (url, status, headers) = (response.url().clone(), response.status(), response.headers().clone());
        let limit = if refused { limits::ERROR_BODY_BYTES } else { limit };
        if !refused && response.content_length().is_some_and(|length| length > limit) {
            return Err(limits::exceeded(what, format_args!("{limit} bytes")).into());
        }
        let mut body = vec![];
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() as u64 + chunk.len() as u64 <= limit => body.extend_from_slice(&chunk),
                Ok(Some(_)) if !refused => return Err(limits::exceeded(what, format_args!("{limit} bytes")).into()),
                Err(e) if !refused => return Err(self.unreachable(&e, &url, what)),
                // What a refusal says matters less than that it is one.
                Ok(Some(chunk)) => {
                    let room = limits::ERROR_BODY_BYTES as usize - body.len();
                    body.extend_from_slice(&chunk[..room]);
                    break;
                }
                _ => break,
            }
        }
        let answer = Answer { url, status, headers, body };
        match answer.passing(what) {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    pub(super) fn unreachable(&self, e: &reqwest::Error, url: &Url, what: &str) -> Failure {
        let host = host(url);
        let message = format!("cannot fetch {what} from {}: {}", origin(url), cause(e));
        let remedy = if url.scheme() == "https" && e.is_connect() {
            format!(
                "Check that {host} is up and that a trusted authority (registry_ca) issued its certificate; list it \
                 in plain_http= only if it has no TLS and its network is trusted."
            )
        } else {
            format!("Check that {host} is up and reachable from here.")
        };
        let proxy = if self.options.proxies && proxy_named() {
            " A proxy is set (http_proxy, https_proxy, all_proxy): check that it allows this request."
        } else {
            ""
        };
        let error = Error::new(Reason::Unreachable, message).remedy(remedy + proxy);
        Failure::Passing(error, None)
    }

    fn may_be_plain(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        url.scheme() == "http" && url.host_str().zip(port).is_some_and(|(h, p)| self.plain.contains(&(h.to_owned(), p)))
    }
}

impl Answer {
    /// The media type, without parameters.
    pub(crate) fn media_type(&self) -> Option<&str> {
        let value = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        value.split(';').next().map(str::trim)
    }

    /// Refuses every status but 200.
    pub(crate) fn good(self, what: &str) -> Result<Self> {
        match self.status.as_u16() {
            200 => Ok(self),
            _ => Err(refusal(self.status, &self.url, &self.body, what)),
        }
    }

    fn passing(&self, what: &str) -> Option<Failure> {
        passing(self.status, &self.url, &self.headers, &self.body, what)
    }
}

/// The failure, if the status says that the same request may succeed later.
pub(super) fn passing(status: StatusCode, url: &Url, headers: &HeaderMap, body: &[u8], what: &str) -> Option<Failure> {
    if !matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
        return None;
    }
    let wish = retry_after(headers);
    let mut error = refusal(status, url, body, what);
    if let Some(wish) = wish {
        error.message.push_str(&format!("; Retry-After is {} s", wish.as_secs()));
        error.retry_after = Some(wish);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        error.reason = Reason::RateLimited;
        error.remedy = "Try again after that time, and less often.".into();
    }
    Some(Failure::Passing(error, wish))
}

/// The error of an answer that is not what was asked for.
pub(super) fn refusal(status: StatusCode, url: &Url, body: &[u8], what: &str) -> Error {
    let mut message = format!("cannot fetch {what}: {} answers {}", origin(url), status.as_u16());
    let said = String::from_utf8_lossy(body);
    if !said.trim().is_empty() {
        message.push_str(&format!(": {}", text::escape(said.trim())));
    }
    match status.as_u16() {
        404 | 410 => Error::new(Reason::NotFound, message),
        401 | 403 => Error::new(Reason::AccessDenied, message)
            .remedy("Check the name of the repository, and allow anonymous pulls of it."),
        _ => Error::new(Reason::ServerError, message).remedy("Try again later, or ask the operator of the server."),
    }
}

/// `Retry-After`: seconds, or a date. A date counts from the server's own `Date`, since the clock here may be wrong.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = |text: &str| chrono::DateTime::parse_from_rfc2822(text).ok();
    let now = date(headers.get(header::DATE)?.to_str().ok()?)?;
    Some((date(value)? - now).to_std().unwrap_or_default())
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The digest in a `Docker-Content-Digest` header, if it is one of ours.
pub(crate) fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Takes user name and password out of a URL that came from outside: they would become an Authorization header. False for
/// a URL without host.
pub(crate) fn without_login(url: &mut Url) -> bool {
    url.set_username("").and_then(|()| url.set_password(None)).is_ok()
}

/// A URL without what may be secret in it: user, password and the query, which can be a signature that gives access.
pub(crate) fn shown(url: &Url) -> String {
    text::escape(&format!("{}://{}{}", url.scheme(), host(url), url.path()))
}

pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// Scheme, host and port.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The innermost cause: "Connection refused" says more than "error sending request".
pub(super) fn cause(e: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = e;
    while let Some(source) = inner.source() {
        inner = source;
    }
    // Only the outermost one would print the URL, with its query.
    let cause = if e.source().is_none() { "the request failed".to_owned() } else { inner.to_string() };
    text::escape(&cause)
}

fn proxy_named() -> bool {
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    names.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn http(options: &FetchOptions, authorities: rustls::RootCertStore) -> Result<reqwest::Client> {
    use_ring();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context(Reason::Tls, "set up TLS")?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let mut http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // Followed in `answer`, which knows what may be sent where.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(options.patience.connect);
    if !options.proxies {
        http = http.no_proxy();
    }
    http.build().map_err(|e| Error::new(Reason::HttpClient, format!("cannot use the network: {}", cause(&e))))
}

fn plain_host(entry: &str) -> Result<(String, u16)> {
    let url = Url::parse(&format!("http://{entry}/")).ok();
    let url = url.filter(|url| url.path() == "/" && url.username().is_empty() && url.password().is_none());
    let url = url.filter(|url| url.query().is_none() && url.fragment().is_none());
    url.as_ref().and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?))).ok_or_else(|| {
        let message = format!("plain_http: \"{}\" is neither a host nor host:port", text::escape(entry));
        Error::new(Reason::BadHost, message)
    })
}

fn system_authorities() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for e in found.errors {
        log::debug!("certificate store: {}", text::escape(&e.to_string()));
    }
    found.certs
}

/// The system's certificate authorities, or those known to browsers where the system has none, and the given ones.
fn authorities(system: Vec<CertificateDer<'_>>, registry_ca: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(system);
    if store.is_empty() {
        log::debug!("no certificate store in this system: using the built-in one");
        store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    let Some(file) = registry_ca else { return Ok(store) };
    let bad = |why: &dyn fmt::Display| {
        let message = format!("registry_ca {}: {}", file.display(), text::escape(&why.to_string()));
        Error::new(Reason::BadCa, message).remedy("Name a PEM file with the certificate of the authority.")
    };
    // Certificate stores consist of links.
    let pem =
        files::read_linked(file, limits::AUTHORITIES_BYTES, Reason::BadCa)?.ok_or_else(|| bad(&"it is not there"))?;
    let mut added = false;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        store.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
        added = true;
    }
    if added { Ok(store) } else { Err(bad(&"no certificate in it")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Exit;
    use proptest::prelude::*;

    /// A minimal initramfs has no /etc/ssl.
    #[test]
    fn a_system_without_certificates_has_the_built_in_ones() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        assert_eq!(authorities(vec![], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![CertificateDer::from(vec![0])], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![built_in[0].clone()], None).unwrap().len(), 1);
    }

    fn client(plain_http: &[&str]) -> Client {
        let plain_http = plain_http.iter().map(|&host| host.to_owned()).collect();
        Client::new(&FetchOptions { plain_http, ..FetchOptions::default() }).unwrap()
    }

    #[test]
    fn plain_http_is_for_the_listed_host_and_port_only() {
        let client = client(&["Registry.lan:5000", "other.lan"]);
        let root = |host: &str| client.root(host).unwrap().to_string();
        assert_eq!(root("registry.lan:5000"), "http://registry.lan:5000/");
        assert_eq!(root("registry.lan:5001"), "https://registry.lan:5001/");
        assert_eq!(root("registry.lan"), "https://registry.lan/");
        assert_eq!(root("other.lan"), "http://other.lan/");
        assert_eq!(root("other.lan:80"), "http://other.lan/");
        assert_eq!(root("other.lan:443"), "https://other.lan/");
        assert_eq!(root("sub.other.lan"), "https://sub.other.lan/");
    }

    #[test]
    fn pauses_grow_and_stay_below_their_cap() {
        let client = client(&[]);
        let cap = client.options.patience.retry_after_max;
        assert!(client.pause(3, None) > client.pause(1, None));
        for attempt in [1, 2, 10, u32::MAX] {
            assert!(client.pause(attempt, None) <= cap);
        }
        assert!(client.pause(1, Some(cap)) == cap && client.pause(1, Some(cap + Duration::from_secs(1))) > cap);
    }

    #[test]
    fn what_is_secret_in_a_url_is_not_shown() {
        let url = Url::parse("https://user:password@host:8443/path?X-Amz-Signature=secret#part").unwrap();
        assert_eq!(shown(&url), "https://host:8443/path");
    }

    proptest! {
        #[test]
        fn any_retry_after_is_a_time_or_nothing(value in "\\PC{0,40}|[0-9]{0,30}|[A-Z][a-z]{2}, [0-9]{2} Oct [0-9]{1,9} 00:00:00 GMT") {
            let mut headers = HeaderMap::new();
            headers.insert(header::DATE, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(header::RETRY_AFTER, value);
                let _ = retry_after(&headers);
            }
        }

        #[test]
        fn any_list_entry_is_a_host_or_refused(entry in "\\PC{0,30}") {
            if let Err(e) = plain_host(&entry) {
                prop_assert_eq!(e.exit(), Exit::Config);
            }
        }
    }
}
