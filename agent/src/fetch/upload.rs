//! Requests that write to a registry, for the publisher: by the rules of every other request for logins, redirects, proxies
//! and certificates.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, Url};

use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::fetch::answer::{Answer, Failure};
use crate::fetch::client::{Client, Content, Sent};
use crate::fetch::url::origin;

/// One request that writes.
#[allow(missing_debug_implementations)]
pub struct Write<'a> {
    /// `POST` or `PUT`.
    pub method: Method,
    /// Any URL of the repository: its account is used, and for its origin only.
    pub repository: &'a Url,
    /// The place to write to. A registry may name one on another host, which gets no login.
    pub url: &'a Url,
    /// Headers of the content, with its length.
    pub headers: &'a HeaderMap,
    /// Makes the content, for each attempt.
    pub body: &'a dyn Fn() -> Result<reqwest::Body>,
    /// Names the content in messages.
    pub what: &'a str,
}

impl Client {
    /// Sends one request that writes, within `time`. The content of an answer is read only if it is a refusal.
    ///
    /// # Errors
    /// No answer, or a status that may pass; every other status is an [`Answer`].
    pub fn write(&self, write: &Write<'_>, time: Duration) -> Result<Answer, Failure> {
        let Write { repository, url, headers, what, .. } = *write;
        let mut sent = Sent::new(write.method.clone(), url, headers);
        sent.content = Content::Upload(write.body);
        let done = self.within(Instant::now() + time, async {
            let response = if origin(url) == origin(repository) {
                self.answer_as(&self.access(repository), sent, what).await?
            } else {
                self.redirected(&sent, what).await?
            };
            if !response.status().is_success() {
                return self.whole(response, limits::ERROR_BODY_BYTES, what).await;
            }
            let (url, status, headers) = (response.url().clone(), response.status(), response.headers().clone());
            Ok(Answer { url, status, headers, body: vec![] })
        });
        done.unwrap_or_else(|| {
            let message = format!("cannot fetch {what}: {} did not take it within {} s", origin(url), time.as_secs());
            Err(Error::new(Reason::RegistryTooSlow, message).into())
        })
    }
}
