//! Answers of servers, and what went wrong when there is none: the error, the party at fault, and whether to try again.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::text;
use crate::fetch::certificate;
use crate::fetch::link;
use crate::fetch::url::{host, origin};

/// An answer with its body, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The place that gave it, after redirects.
    pub url: Url,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; as far as [`crate::base::limits::ERROR_BODY_BYTES`] if the status is an error.
    pub body: Vec<u8>,
}

/// Why an attempt failed, and whether another one can help.
#[derive(Debug)]
pub enum Failure {
    /// It would fail again.
    Final(Error),
    /// It may succeed later. The pause is the server's wish, if it has one.
    Passing(Error, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Final(e)
    }
}

impl Answer {
    /// The media type, without parameters.
    pub fn media_type(&self) -> Option<&str> {
        let value = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        value.split(';').next().map(str::trim)
    }

    /// The next page of a list, if there is one.
    pub fn next(&self) -> Option<Url> {
        link::next(&self.headers, &self.url)
    }

    /// Refuses every status but 200, and a web page.
    ///
    /// # Errors
    /// 69, with a reason for the status.
    pub fn good(self, what: &str) -> Result<Self> {
        match self.status.as_u16() {
            200 if is_page(&self.body) => Err(captive_portal(&self.url, what, "a web page")),
            200 => Ok(self),
            _ => Err(refusal(self.status, &self.url, &self.body, what)),
        }
    }

    /// The failure, if the same request may succeed later.
    pub(super) fn passing(&self, what: &str) -> Option<Failure> {
        passing(self.status, &self.url, &self.headers, &self.body, what)
    }
}

/// For a server that does not say whether it has something.
pub(crate) const HIDDEN: &str = "Either it is not there under this name, or it needs a login: servers hide by 401, 403 or \
                                 404 what a stranger may not see. Check the name; if it is right, give a login (registry_auth=), or \
                                 allow anonymous pulls.";

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
    // The words of nginx, which ends the handshake well and then refuses each request with 400.
    for (words, shown) in [("No required SSL certificate was sent", false), ("The SSL certificate error", true)] {
        if said.contains(words) {
            return certificate::client_certificate_wanted("status 400", shown).error(&origin(url), what);
        }
    }
    match status.as_u16() {
        404 | 410 => Error::new(Reason::NotFound, message).remedy(HIDDEN),
        401 | 403 => Error::new(Reason::AccessDenied, message).remedy(HIDDEN),
        511 => captive_portal(url, what, "status 511 (sign in to the network)"),
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

/// The failure of a request without an answer. `identified`: the server saw the client certificate of the settings.
pub(super) fn unreachable(e: &reqwest::Error, url: &Url, what: &str, identified: bool) -> Failure {
    let host = host(url);
    let server = origin(url);
    if let Some(explained) = certificate::explain(e, &host, identified) {
        return Failure::Passing(explained.error(&server, what), None);
    }
    let remedy = if url.scheme() == "https" && e.is_connect() {
        format!(
            "Check that {host} is up and has TLS there; list it in plain_http= only if it has none and its network is \
             trusted."
        )
    } else {
        format!("Check that {host} is up and reachable from here.")
    };
    let message = format!("cannot fetch {what} from {server}: {}", cause(e));
    Failure::Passing(Error::new(Reason::Unreachable, message).remedy(remedy), None)
}

/// The error of a network that answers in place of the server.
pub(super) fn captive_portal(url: &Url, what: &str, answer: &str) -> Error {
    let message = format!("cannot fetch {what}: {answer} came from {} in its place", origin(url));
    Error::new(Reason::CaptivePortal, message).remedy(
        "The network between this device and the server answers, as a rule, and neither server nor release is at fault: \
         sign in to the network, or have it let this device through. If the server itself sends that page, correct the \
         address in the settings.",
    )
}

/// True if an answer says that it is a web page.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
}

/// True if the text is HTML or XML. JSON never begins so, nor do the bytes of a signature.
pub(super) fn is_page(body: &[u8]) -> bool {
    let begin = body.trim_ascii_start();
    let begin = &begin[..begin.len().min(32)];
    begin.starts_with(b"<") && begin.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}

pub(super) fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The `ETag`, if it stands for every byte (RFC 9110: a weak one does not).
pub(crate) fn entity_tag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).cloned()
}

/// Requests that the server still permits: Docker Hub writes `ratelimit-remaining: 76;w=21600`.
pub(super) fn ratelimit_remaining(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("ratelimit-remaining")?.to_str().ok()?;
    value.split(';').next()?.trim().parse().ok()
}

/// The digest in a `Docker-Content-Digest` header, if it is one of ours.
pub(crate) fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    }
}
