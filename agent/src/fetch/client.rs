//! Requests: redirects, tokens, retries and limits, the same for every document and image.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{json, limits, text};
use crate::fetch::answer::{Answer, Failure, number, passing, refusal, unreachable};
use crate::fetch::challenge::{self, Bearer};
use crate::fetch::options::FetchOptions;
use crate::fetch::tls;
use crate::fetch::url::{PlainHosts, origin, shown, without_login};

/// One HTTP client with one set of authorities, proxies and times, for everything that one command fetches.
pub(crate) struct Client {
    runtime: Runtime,
    tls: OnceCell<reqwest::Client>,
    /// Knows no authority: reading a certificate store costs more than all the rest of a check.
    clear: OnceCell<reqwest::Client>,
    pub(super) options: FetchOptions,
    plain: PlainHosts,
    /// By origin; a token is never sent anywhere else.
    tokens: RefCell<HashMap<String, HeaderValue>>,
}

/// A document to fetch.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) url: &'a Url,
    /// The media types that are understood, as in `Accept`.
    pub(crate) accept: &'a str,
    /// In bytes; a longer document is an error.
    pub(crate) limit: u64,
    /// Names the document in messages.
    pub(crate) what: &'a str,
}

/// When the documents of one check must be complete.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

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
            plain: PlainHosts::new(&options.plain_http)?,
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
        let http = tls::http(&self.options, secure)?;
        Ok(cell.get_or_init(|| http))
    }

    /// The root URL of `host` or `host:port`: `https`, unless it is listed as plain.
    pub(crate) fn root(&self, host: &str) -> Result<Url> {
        let bad = |e| Error::new(Reason::BadHost, format!("\"{}\" is not a host: {e}", text::escape(host)));
        let plain = Url::parse(&format!("http://{host}/")).map_err(bad)?;
        if self.plain.contain(&plain) { Ok(plain) } else { Url::parse(&format!("https://{host}/")).map_err(bad) }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.options.patience.documents)
    }

    /// Fetches a document, with retries, before the deadline.
    pub(crate) fn document(&self, wanted: &Request<'_>, deadline: Deadline) -> Result<Answer> {
        let Request { url, accept, limit, what } = *wanted;
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
            if url.scheme() != "https" && !self.plain.contain(&url) {
                let message = format!("cannot fetch {what}: {} has no TLS", shown(&url));
                return Err(Error::new(Reason::NotHttps, message)
                    .remedy("Use https, or list this host and port in plain_http= if its network is trusted.")
                    .into());
            }
            let mut request = self.http(url.scheme())?.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(token) = self.tokens.borrow().get(&origin(&url)) {
                request = request.header(header::AUTHORIZATION, token.clone());
            }
            let response = request.send().await.map_err(|e| unreachable(&self.options, &e, &url, what))?;
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
                Err(e) if !refused => return Err(unreachable(&self.options, &e, &url, what)),
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
