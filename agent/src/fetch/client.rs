//! Requests: redirects, tokens, retries and limits, the same for every document and image.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{interrupt, limits, text};
use crate::fetch::answer::{Answer, Failure, HIDDEN, number, passing, ratelimit_remaining, refusal, unreachable};
use crate::fetch::certificate::Verifier;
use crate::fetch::challenge::{Bearer, Challenge, challenge};
use crate::fetch::login::{Found, Login};
use crate::fetch::options::{Authentication, FetchOptions, Rights};
use crate::fetch::pace::Pace;
use crate::fetch::proxy::{self, Proxies};
use crate::fetch::realm::{self, Question, Token};
use crate::fetch::tls::{self, Peer};
use crate::fetch::tokens::{self, Clock, SinceBoot, Tokens, Use};
use crate::fetch::url::{PlainHosts, origin, repository, shown, without_login};

/// One HTTP client with one set of authorities, proxies and times, for everything that one command fetches.
pub struct Client {
    runtime: Runtime,
    /// Of all servers with TLS; made when it is needed.
    verifier: OnceCell<Arc<Verifier>>,
    /// By [`Peer`]; made when they are needed.
    http: [OnceCell<reqwest::Client>; 3],
    proxies: Arc<Proxies>,
    pace: RefCell<Option<Pace>>,
    /// Of downloads.
    pub(super) clock: Box<dyn Clock>,
    /// The origin that sees the client certificate.
    source: Option<String>,
    /// Requests that the source still permits, by its last answer with a limit.
    remaining: Cell<Option<u64>>,
    pub(super) options: FetchOptions,
    plain: PlainHosts,
    tokens: RefCell<Tokens>,
    /// By origin and repository.
    accesses: RefCell<HashMap<(String, String), Rc<Access>>>,
    /// No message may have them.
    secrets: RefCell<BTreeSet<String>>,
}

/// The account for one repository, and the key of its token.
pub(super) struct Access {
    of: Use,
    login: Option<Found>,
}

/// One request as it is sent.
pub(super) struct Sent<'a> {
    method: Method,
    url: &'a Url,
    headers: &'a HeaderMap,
    /// For the origin of `url`, and for no other one that a redirect leads to.
    authorization: Option<HeaderValue>,
    pub(super) content: Content<'a>,
    /// No redirect leads out of the origin.
    confined: bool,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Nothing,
    /// With a login.
    Form(&'a str),
    /// Made for each attempt.
    Upload(&'a dyn Fn() -> Result<reqwest::Body>),
}

/// A document to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The place.
    pub url: &'a Url,
    /// The media types that are understood, as in `Accept`.
    pub accept: &'a str,
    /// In bytes; a longer document is an error.
    pub limit: u64,
    /// Names the document in messages.
    pub what: &'a str,
}

/// When the documents of one check must be complete.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// Half of the time that is left, for what can be had elsewhere.
    pub(crate) fn half(self) -> Self {
        let now = Instant::now();
        Self(now + self.0.saturating_duration_since(now) / 2)
    }
}

impl<'a> Sent<'a> {
    pub(super) fn new(method: Method, url: &'a Url, headers: &'a HeaderMap) -> Self {
        Self { method, url, headers, authorization: None, content: Content::Nothing, confined: false }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client with these settings; sends nothing yet.
    ///
    /// # Errors
    /// 78 when a file that they name cannot be used.
    pub fn new(options: &FetchOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(interrupt::leave_to_others)
            .build()
            .context(Reason::Runtime, "start the network runtime")?;
        let client = Self {
            runtime,
            verifier: OnceCell::new(),
            http: Default::default(),
            source: None,
            remaining: Cell::default(),
            clock: Box::new(SinceBoot),
            pace: RefCell::new(options.max_rate.map(Pace::new)),
            proxies: Arc::new(Proxies::new(options)?),
            plain: PlainHosts::new(&options.plain_http)?,
            options: options.clone(),
            tokens: RefCell::new(Tokens::new(Box::new(SinceBoot), options.authentication.token_cache.as_deref())),
            accesses: RefCell::default(),
            secrets: RefCell::default(),
        };
        // A wrong file is an error of the configuration, whether or not this run needs it.
        if options.registry_ca.is_some() {
            client.verifier()?;
        }
        Ok(client)
    }

    /// Names the server that the releases come from: it alone sees the client certificate.
    ///
    /// # Errors
    /// 78 when the certificate or its key cannot be used.
    pub fn set_source(&mut self, url: &Url) -> Result<()> {
        self.source = Some(origin(url));
        // As with the authorities.
        if self.peer(url) == Peer::Source {
            self.http(Peer::Source)?;
        }
        Ok(())
    }

    fn peer(&self, url: &Url) -> Peer {
        match url.scheme() {
            "https" if self.options.client_certificate.is_some() && self.is_source(url) => Peer::Source,
            "https" => Peer::Any,
            _ => Peer::Plain,
        }
    }

    fn is_source(&self, url: &Url) -> bool {
        self.source.as_ref().is_some_and(|source| *source == origin(url))
    }

    fn verifier(&self) -> Result<Arc<Verifier>> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(verifier.clone());
        }
        let verifier = tls::verifier(&self.options)?;
        Ok(self.verifier.get_or_init(|| verifier).clone())
    }

    fn http(&self, peer: Peer) -> Result<&reqwest::Client> {
        let cell = &self.http[peer as usize];
        if let Some(http) = cell.get() {
            return Ok(http);
        }
        let plain = peer == Peer::Plain && !self.proxies.have_tls();
        let verifier = if plain { None } else { Some(self.verifier()?) };
        let http = tls::http(&self.options, &self.proxies, peer, verifier)?;
        Ok(cell.get_or_init(|| http))
    }

    /// The root URL of `host` or `host:port`: `https`, unless it is listed as plain.
    ///
    /// # Errors
    /// 78 when it is no host.
    pub fn root(&self, host: &str) -> Result<Url> {
        let bad = |e| Error::new(Reason::BadHost, format!("\"{}\" is not a host: {e}", text::escape(host)));
        let plain = Url::parse(&format!("http://{host}/")).map_err(bad)?;
        if self.plain.contain(&plain) { Ok(plain) } else { Url::parse(&format!("https://{host}/")).map_err(bad) }
    }

    /// When the documents of a check that starts now must be complete.
    pub fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.options.patience.documents)
    }

    /// Fetches a document, with retries, before the deadline, whatever its status is.
    ///
    /// # Errors
    /// 69 when there is no answer, and for a status that may pass; 65 when the document is longer than its limit.
    pub fn document(&self, wanted: &Request<'_>, deadline: Deadline) -> Result<Answer> {
        let one = self.attempt(wanted, accepting(wanted)?);
        self.retried(wanted.what, deadline, one)
    }

    /// The same for a document that is known by its `ETag`: with status 304 it is still the same.
    pub(crate) fn document_unless(&self, wanted: &Request<'_>, etag: &str, deadline: Deadline) -> Result<Answer> {
        let mut headers = accepting(wanted)?;
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(etag).context(Reason::Header, "ask")?);
        // A cache in between asks the server, too.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        self.retried(wanted.what, deadline, self.attempt(wanted, headers))
    }

    /// The headers of a document that is there, by a HEAD in one attempt; `None` if that gives no such answer. Not every server
    /// knows the method, so a GET decides then, and names what is wrong.
    ///
    /// # Errors
    /// 69 when the registry refuses the login, which a GET would not change.
    pub(crate) fn head(&self, wanted: &Request<'_>, deadline: Deadline) -> Result<Option<HeaderMap>> {
        let headers = accepting(wanted)?;
        let answer = self.answer(Method::HEAD, wanted.url, &headers, wanted.what);
        match self.within(deadline.half().0, answer) {
            Some(Ok(answer)) if answer.status() == StatusCode::OK => Ok(Some(answer.headers().clone())),
            Some(Err(Failure::Final(e))) if e.reason == Reason::LoginRefused => Err(e),
            _ => Ok(None),
        }
    }

    /// Requests that the source still permits, by its last answer with a limit.
    pub(crate) fn ratelimit_remaining(&self) -> Option<u64> {
        self.remaining.get()
    }

    /// One attempt at a document.
    fn attempt(&self, wanted: &Request<'_>, headers: HeaderMap) -> impl AsyncFn() -> Result<Answer, Failure> {
        let Request { url, limit, what, .. } = *wanted;
        async move || {
            let answer = self.answer(Method::GET, url, &headers, what).await?;
            self.whole(answer, limit, what).await
        }
    }

    /// The same in one attempt, for a document that can be found elsewhere.
    pub(crate) fn document_once(&self, wanted: &Request<'_>, deadline: Deadline) -> Result<Answer> {
        let one = self.attempt(wanted, accepting(wanted)?);
        match self.within(deadline.0, one()) {
            None => Err(self.too_late(wanted.what)),
            Some(Err(Failure::Final(e) | Failure::Passing(e, _))) => Err(e),
            Some(Ok(answer)) => Ok(answer),
        }
    }

    /// Checks that there is an answer with status 200; its body does not matter.
    pub(super) fn answers(&self, url: &Url, what: &str, deadline: Deadline) -> Result<()> {
        self.retried(what, deadline, async || {
            let answer = self.answer(Method::GET, url, &HeaderMap::new(), what).await?;
            match answer.status() {
                StatusCode::OK => Ok(()),
                status => Err(refusal(status, url, b"", what).into()),
            }
        })
    }

    /// True if a registry has something, by a HEAD.
    ///
    /// # Errors
    /// 69 when it answers neither 200 nor 404.
    pub fn exists(&self, url: &Url, what: &str, deadline: Deadline) -> Result<bool> {
        self.retried(what, deadline, async || {
            let answer = self.answer(Method::HEAD, url, &HeaderMap::new(), what).await?;
            let (status, url) = (answer.status(), answer.url());
            match status.as_u16() {
                200 => Ok(true),
                404 => Ok(false),
                _ => match passing(status, url, answer.headers(), b"", what) {
                    Some(failure) => Err(failure),
                    None => Err(refusal(status, url, b"", what).into()),
                },
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

    /// Pauses after so many bytes of an image, if they came faster than the settings allow.
    pub(super) fn keep_pace(&self, bytes: usize) {
        if let Some(pace) = self.pace.borrow_mut().as_mut() {
            self.clock.sleep(pace.pause(bytes as u64, self.clock.now()));
        }
    }

    /// The time by which downloads are measured.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Runs `work` until the time is over, or a signal asks to end: `None`.
    pub(super) fn within<T>(&self, end: Instant, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            let mut work = std::pin::pin!(work);
            loop {
                let pause = end.min(Instant::now() + interrupt::POLL);
                match tokio::time::timeout_at(pause.into(), &mut work).await {
                    Ok(done) => return Some(done),
                    Err(_) if pause == end || interrupt::came() => return None,
                    Err(_) => {}
                }
            }
        })
    }

    fn too_late(&self, what: &str) -> Error {
        let time = self.options.patience.documents;
        Error::new(Reason::Timeout, format!("cannot fetch {what}: not finished after {time:.0?}"))
            .remedy("Try again later, or check the connection to the server; registry_timeout= allows more time.")
    }

    /// Sends one request and follows it to an answer that is neither a redirect nor, if that can be helped, a 401. One renewal
    /// of a token must suffice: a server that refuses a fresh one refuses the account.
    pub(super) async fn answer(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, Failure> {
        let access = self.access(url);
        self.answer_as(&access, Sent::new(method, url, headers), what).await
    }

    /// Sends one request to a place that a redirect led to before. Nothing that proves an identity goes there.
    pub(super) async fn answer_elsewhere(
        &self,
        url: &Url,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, Failure> {
        self.redirected(&Sent::new(Method::GET, url, headers), what).await
    }

    pub(super) async fn answer_as(&self, access: &Access, mut sent: Sent<'_>, what: &str) -> Result<Response, Failure> {
        sent.authorization = self.tokens.borrow().get(&access.of);
        let unasked = sent.authorization.is_none();
        // A password goes to its registry at once: each look would cost a refused request more.
        sent.authorization = sent.authorization.or_else(|| access.login.as_ref()?.login.header());
        let mut response = self.redirected(&sent, what).await?;
        // A registry may refuse a scheme that it does not take, in the place of asking for its own.
        let small = !matches!(sent.content, Content::Upload(_));
        if unasked && small && sent.authorization.is_some() && matches!(response.status().as_u16(), 400 | 403) {
            sent.authorization = None;
            let asked = self.redirected(&sent, what).await?;
            if asked.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            response = asked;
        }
        if response.status() != StatusCode::UNAUTHORIZED || origin(response.url()) != origin(sent.url) {
            return Ok(response);
        }
        // The token is missing, or it expired.
        self.tokens.borrow_mut().drop(&access.of);
        let authorization = Some(self.renewed(&response, access, sent.authorization.as_ref(), what).await?);
        drop(response);
        self.redirected(&Sent { authorization, ..sent }, what).await
    }

    /// The account for a URL, looked up once.
    pub(super) fn access(&self, url: &Url) -> Rc<Access> {
        let (origin, repository) = (origin(url), repository(url).to_owned());
        let key = (origin, repository);
        if let Some(access) = self.accesses.borrow().get(&key) {
            return access.clone();
        }
        let authentication = &self.options.authentication;
        let login = authentication.logins.find(url, &key.1);
        let scope = match (key.1.as_str(), authentication.rights) {
            ("", _) => String::new(),
            (name, Rights::Pull) => format!("repository:{name}:pull"),
            (name, Rights::Push) => format!("repository:{name}:pull,push"),
        };
        if let Some(found) = &login {
            self.secrets.borrow_mut().extend(found.login.secrets());
        }
        let who = login.as_ref().map(|found| found.login.who()).unwrap_or_default();
        let of = Use { origin: key.0.clone(), repository: key.1.clone(), scope, who };
        let access = Rc::new(Access { of, login });
        self.accesses.borrow_mut().insert(key, access.clone());
        access
    }

    pub(super) async fn redirected(&self, sent: &Sent<'_>, what: &str) -> Result<Response, Failure> {
        let mut url = sent.url.clone();
        for _ in 0..=limits::REDIRECTS {
            let response = self.send(sent, &url, what).await?;
            // A write that is sent on as a GET would write nothing.
            let lost = matches!(sent.content, Content::Upload(_)) && matches!(response.status().as_u16(), 301..=303);
            match redirect(&response, &url, what)? {
                None => return Ok(response),
                Some(_) if lost => return Ok(response),
                Some(next)
                    if sent.confined && (matches!(sent.content, Content::Form(_)) || origin(&next) != origin(&url)) =>
                {
                    let message = format!(
                        "cannot fetch {what}: {} redirects to {}: the login was not sent there",
                        shown(&url),
                        shown(&next)
                    );
                    return Err(Error::new(Reason::ForeignTokenServer, message)
                        .remedy("Fix the configuration of the registry, or ask its operator.")
                        .into());
                }
                Some(next) => url = next,
            }
        }
        Err(limits::exceeded(format_args!("cannot fetch {what}"), format_args!("{} redirects", limits::REDIRECTS))
            .into())
    }

    /// Refuses a URL without TLS, unless the settings list its host.
    ///
    /// # Errors
    /// 69 for such a URL.
    pub(crate) fn permits(&self, url: &Url) -> Result<()> {
        if url.scheme() == "https" || self.plain.contain(url) {
            return Ok(());
        }
        Err(Error::new(Reason::NotHttps, format!("{} has no TLS", shown(url)))
            .remedy("Use https, or list this host and port in plain_http= if its network is trusted."))
    }

    /// Sends one request to `url`, which is that of `sent` or what a redirect made of it.
    async fn send(&self, sent: &Sent<'_>, url: &Url, what: &str) -> Result<Response, Failure> {
        self.permits(url).map_err(|error| error.context(format_args!("cannot fetch {what}")))?;
        let mut request =
            self.http(self.peer(url))?.request(sent.method.clone(), url.clone()).headers(sent.headers.clone());
        if let Some(authorization) = sent.authorization.as_ref().filter(|_| origin(url) == origin(sent.url)) {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        request = match sent.content {
            Content::Nothing => request,
            Content::Form(form) => request.body(form.to_owned()),
            Content::Upload(body) => request.body(body()?),
        };
        let response = request.send().await.map_err(|e| self.unreachable(&e, url, what))?;
        log::debug!("{} {} {}", sent.method, shown(url), response.status().as_u16());
        if let Some(remaining) = ratelimit_remaining(response.headers()).filter(|_| self.is_source(url)) {
            self.remaining.set(Some(remaining));
        }
        if let Some(proxy) = self.proxies.of(url)
            && url.scheme() == "http"
            && proxy::refuses(&response)
        {
            return Err(proxy::refused(proxy, response.status(), url, what));
        }
        Ok(response)
    }

    /// Sends a POST in one attempt, without a login. Follows no redirect; the caller judges the status. The content of an answer
    /// is read only if it is a refusal.
    ///
    /// # Errors
    /// 69 when there is no answer before the deadline, and for a status that may pass.
    pub(crate) fn post(
        &self,
        wanted: &Request<'_>,
        headers: &HeaderMap,
        body: &str,
        deadline: Deadline,
    ) -> Result<Answer> {
        let Request { url, limit, what, .. } = *wanted;
        let one = async {
            let sent = Sent { content: Content::Form(body), ..Sent::new(Method::POST, url, headers) };
            let response = self.send(&sent, url, what).await?;
            if !response.status().is_success() {
                return self.whole(response, limit, what).await;
            }
            let (url, status, headers) = (response.url().clone(), response.status(), response.headers().clone());
            Ok(Answer { url, status, headers, body: vec![] })
        };
        match self.within(deadline.0, one) {
            None => Err(self.too_late(what)),
            Some(answer) => answer.map_err(|(Failure::Final(e) | Failure::Passing(e, _))| e),
        }
    }

    fn unreachable(&self, e: &reqwest::Error, url: &Url, what: &str) -> Failure {
        match self.proxies.of(url).and_then(|proxy| proxy::failure(e, proxy, url, what)) {
            Some(failure) => failure,
            None => unreachable(e, url, what, self.peer(url) == Peer::Source),
        }
    }

    /// The header that satisfies a 401, after `sent` did not.
    async fn renewed(
        &self,
        refusal: &Response,
        access: &Access,
        sent: Option<&HeaderValue>,
        what: &str,
    ) -> Result<HeaderValue, Failure> {
        let Challenge { bearer, basic } = challenge(refusal.headers());
        match (bearer, &access.login) {
            (_, Some(found @ Found { login: Login::Bearer(_), .. })) => {
                Err(refused_login(refusal.url(), found, what).into())
            }
            (Some(bearer), _) => self.token(&bearer, refusal.url(), access, what).await,
            (None, Some(found)) => {
                let header = found.login.header().filter(|header| basic && sent != Some(header));
                header.ok_or_else(|| refused_login(refusal.url(), found, what).into())
            }
            (None, None) => Err(anonymous(refusal.url(), what).into()),
        }
    }

    /// Asks the token server that a 401 names, with the login where there is one.
    async fn token(&self, bearer: &Bearer, refused: &Url, access: &Access, what: &str) -> Result<HeaderValue, Failure> {
        let Authentication { token_hosts, rights, .. } = &self.options.authentication;
        let server = realm::server(bearer, refused, access.login.is_some(), token_hosts)?;
        // The challenge of a read says nothing about a later write.
        let asked = bearer.scope.as_deref().filter(|scope| !scope.is_empty() && *rights == Rights::Pull);
        let question =
            Question { server, service: bearer.service.as_deref(), scope: asked.unwrap_or(&access.of.scope) };
        let what = format!("a token for {what}");
        let answer = self.token_answer(&question, access.login.as_ref(), &what).await?;
        let Some(Token { token, life }) = realm::answer(&answer.body) else {
            let message = format!("cannot fetch {what}: {} returns no token", origin(&answer.url));
            return Err(Error::new(Reason::ServerError, message)
                .remedy("Check for a proxy or a login page in between; else ask the operator of the registry.")
                .into());
        };
        let header = tokens::header(&token).ok_or_else(|| anonymous(refused, &what))?;
        self.secrets.borrow_mut().insert(token.clone());
        self.tokens.borrow_mut().put(access.of.clone(), token, life);
        Ok(header)
    }

    /// A GET, as nearly every token server takes it; a POST for a refresh token, and where there is no GET.
    async fn token_answer(
        &self,
        question: &Question<'_>,
        found: Option<&Found>,
        what: &str,
    ) -> Result<Answer, Failure> {
        let login = found.map(|found| &found.login);
        let (none, mut form) = (HeaderMap::new(), HeaderMap::new());
        form.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body = login.and_then(|login| realm::form(login, question.service, question.scope)).unwrap_or_default();
        let url = &question.server;
        let confined = login.is_some();
        let post = || Sent { content: Content::Form(&body), confined, ..Sent::new(Method::POST, url, &form) };
        let answer = if matches!(login, Some(Login::Identity(_))) {
            self.redirected(&post(), what).await?
        } else {
            let url = &realm::question(question);
            let authorization = login.and_then(Login::header);
            let get = Sent { authorization, confined, ..Sent::new(Method::GET, url, &none) };
            let answer = self.redirected(&get, what).await?;
            let by_post = matches!(answer.status().as_u16(), 404 | 405) && login.is_some();
            if by_post { self.redirected(&post(), what).await? } else { answer }
        };
        let answer = self.whole(answer, limits::TOKEN_BYTES, what).await?;
        match (answer.status.as_u16(), found) {
            (400 | 401 | 403, Some(found)) => Err(refused_login(&answer.url, found, what).into()),
            _ => Ok(answer.good(what)?),
        }
    }

    /// The words of a server without the secrets of this run, which it may repeat.
    fn without_secrets(&self, body: &[u8]) -> Vec<u8> {
        let body = String::from_utf8_lossy(body).into_owned();
        let secrets = self.secrets.borrow();
        secrets.iter().filter(|secret| !secret.is_empty()).fold(body, |body, secret| body.replace(secret, "***")).into()
    }

    /// Reads a body to its end. Statuses that pass are failures, others are for the caller to judge.
    pub(super) async fn whole(&self, mut response: Response, limit: u64, what: &str) -> Result<Answer, Failure> {
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
                // The text of a refusal matters less than its kind.
                Ok(Some(chunk)) => {
                    let room = limits::ERROR_BODY_BYTES as usize - body.len();
                    body.extend_from_slice(&chunk[..room]);
                    break;
                }
                _ => break,
            }
        }
        if refused {
            body = self.without_secrets(&body);
        }
        let answer = Answer { url, status, headers, body };
        match answer.passing(what) {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }
}

fn accepting(wanted: &Request<'_>) -> Result<HeaderMap> {
    let accept = HeaderValue::from_str(wanted.accept).context(Reason::Header, "ask")?;
    Ok(HeaderMap::from_iter([(header::ACCEPT, accept)]))
}

/// The place that a redirect leads to; `None` for any other answer.
fn redirect(response: &Response, url: &Url, what: &str) -> Result<Option<Url>> {
    let next = match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION),
        _ => None,
    };
    let Some(next) = next else { return Ok(None) };
    let next = next.to_str().ok().and_then(|next| url.join(next).ok());
    let Some(mut next) = next else {
        let message = format!("cannot fetch {what}: {} redirects to an invalid URL", shown(url));
        return Err(Error::new(Reason::BadRedirect, message));
    };
    if url.scheme() == "https" && next.scheme() != "https" {
        let message = format!("cannot fetch {what}: {} redirects to {}, which has no TLS", shown(url), shown(&next));
        return Err(
            Error::new(Reason::InsecureRedirect, message).remedy("Fix the server: the agent never leaves https.")
        );
    }
    if !without_login(&mut next) {
        let message = format!("cannot fetch {what}: {} redirects to a URL without host", shown(url));
        return Err(Error::new(Reason::BadRedirect, message));
    }
    Ok(Some(next))
}

fn anonymous(refused: &Url, what: &str) -> Error {
    let message =
        format!("cannot fetch {what}: {} requires authentication, and anonymous pull is not allowed", origin(refused));
    Error::new(Reason::AccessDenied, message).remedy(HIDDEN)
}

fn refused_login(refused: &Url, found: &Found, what: &str) -> Error {
    let message = format!("cannot fetch {what}: {} refuses the login of {}", origin(refused), found.name);
    Error::new(Reason::LoginRefused, message).remedy(
        "Check user name and password, that they have not expired, and that this account may read the repository.",
    )
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
