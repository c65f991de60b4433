//! The download of one image: resumed after a broken connection, ended when it is too slow, too long or too dear.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};

use crate::base::error::{Error, Reason, Result};
use crate::base::{interrupt, limits, text};
use crate::fetch::answer::{Failure, captive_portal, cause, entity_tag, is_html, is_page, passing, refusal};
use crate::fetch::body::{Body, Parts, Start};
use crate::fetch::client::Client;
use crate::fetch::url::origin;

/// So much progress makes up for all failed attempts before it.
const PROGRESS_BYTES: u64 = 64 * 1024;
/// Names the answer in place of an image.
const PAGE: &str = "a web page";

/// A download of known size.
pub struct BlobBody {
    client: Rc<Client>,
    url: Url,
    what: String,
    size: u64,
    /// The end of the part that is wanted.
    end: u64,
    /// Parts are wanted, and not all that is missing.
    parts: bool,
    /// The place at another server that the last part came from, by a redirect. The next part is asked for there: a redirect
    /// costs a request.
    moved: Option<Url>,
    /// Of the first answer, where the name of a file says nothing about its content.
    version: Option<HeaderValue>,
    by_name: bool,
    received: u64,
    /// The received bytes came in an earlier run, of which only a record is left.
    begun: bool,
    /// A stream went on after received bytes.
    in_pieces: bool,
    /// The place of an answer that is a web page by its type. An image whose digest is right is none all the same.
    html: Option<Url>,
    /// The same by its first bytes.
    page: Option<Url>,
    /// Bytes that came, each as often as it came.
    spent: u64,
    ask: Ask,
    /// True if the last answer to a range was the rest, if there was one.
    resumes: Option<bool>,
    stream: Option<Stream>,
    /// Since the last progress.
    failures: u32,
    /// In place of those of the patience: this download can be had elsewhere.
    attempts: Option<u32>,
    failed_at: u64,
    rate: Rate,
}

/// How to ask for the rest of an image that has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// By a range.
    Range,
    /// The same once more: the registry redirects to a new URL, and a cache may have the image by now.
    RangeAgain,
    /// Without a range: the server begins at 0, and what is known is skipped.
    Whole,
}

/// Answer of a server to a request for an image.
enum Answered {
    Stream(Stream),
    /// Not the rest that a range asked for, and why.
    Other(String),
    /// The file is another one than an earlier attempt began.
    Replaced,
}

struct Stream {
    response: Response,
    /// The length was announced, or the end is marked: an early end is the server's statement, not an accident.
    framed: bool,
    /// Known already or not wanted, and sent by a server that does not resume.
    skip: u64,
    /// Bytes that came behind the part that is wanted.
    rest: Bytes,
    /// Where in the image it ends: a server may send a part of a range.
    end: u64,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlobBody").field(&self.what).finish()
    }
}

impl BlobBody {
    /// Sends the request; returns when the server answered that it has the blob, and not of another size.
    ///
    /// # Errors
    /// 69 when the server does not give it; 65 when it has another size.
    pub fn open(client: Rc<Client>, url: Url, size: u64, what: String) -> Result<Self> {
        Self::new(client, url, size, what).begin(&Start::default())
    }

    /// A blob that its URL names by digest. No request is sent yet.
    pub(crate) fn new(client: Rc<Client>, url: Url, size: u64, what: String) -> Self {
        let rate = Rate::new(client.options.patience.rate_window, client.options.patience.rate_min);
        Self {
            client,
            url,
            what,
            size,
            end: size,
            parts: false,
            moved: None,
            version: None,
            by_name: false,
            received: 0,
            begun: false,
            in_pieces: false,
            html: None,
            page: None,
            spent: 0,
            ask: Ask::Range,
            resumes: None,
            stream: None,
            failures: 0,
            attempts: None,
            failed_at: 0,
            rate,
        }
    }

    /// A file that can be replaced under its name: a download is only resumed in the same file.
    pub(crate) fn named(self) -> Self {
        Self { by_name: true, ..self }
    }

    /// After so many bytes from elsewhere, which count for the budget.
    pub(crate) fn after(self, spent: u64) -> Self {
        Self { spent, ..self }
    }

    /// With so many attempts to begin, and to go on without progress.
    pub(crate) fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts: Some(attempts), ..self }
    }

    /// Sends the request, for what comes behind the start; returns when the server answered that it has the blob, and not of
    /// another size.
    pub(crate) fn begin(mut self, start: &Start) -> Result<Self> {
        (self.received, self.failed_at, self.spent) = (start.offset, start.offset, start.spent);
        self.begun = start.offset > 0;
        if self.by_name {
            self.version = start.version.as_ref().and_then(|version| HeaderValue::from_str(version).ok());
        }
        while self.stream.is_none() && self.received < self.size {
            self.connect()?;
        }
        Ok(self)
    }

    /// To fetch parts of the blob. No request is sent yet.
    pub(crate) fn parts(self) -> Self {
        Self { parts: true, end: 0, ..self }
    }

    /// True if the next request is for less than all.
    fn is_range(&self) -> bool {
        self.ask != Ask::Whole && (self.received > 0 || self.end < self.size)
    }

    /// One attempt to get a stream that goes on after what was received; `Ok` without one means: try again.
    fn connect(&mut self) -> Result<()> {
        let end = Instant::now() + self.client.options.patience.idle;
        let begin = self.client.now();
        let moved = self.moved.take();
        let attempt = self.client.within(end, self.request(moved.as_ref()));
        self.rate.add(self.client.now().saturating_sub(begin), 0);
        match attempt {
            Some(Ok(Answered::Stream(stream))) => {
                if self.by_name && self.version.is_none() {
                    self.version = entity_tag(stream.response.headers());
                }
                self.in_pieces |= self.received > 0;
                let from = stream.response.url();
                if is_html(stream.response.headers()) {
                    self.html = Some(from.clone());
                }
                self.moved = Some(from.clone()).filter(|from| self.parts && origin(from) != origin(&self.url));
                if self.is_range() {
                    self.resumes = Some(stream.skip == 0);
                }
                self.stream = Some(stream);
                Ok(())
            }
            Some(Ok(Answered::Other(why))) => {
                let again = self.ask == Ask::Range && !self.parts;
                self.ask = if again { Ask::RangeAgain } else { Ask::Whole };
                let next = if again { "asking once more" } else { "beginning at its first byte" };
                log::info!("{} after {} of {} bytes: {why}; {next}", self.what, self.received, self.size);
                Ok(())
            }
            Some(Ok(Answered::Replaced)) => {
                log::info!("{}: the server has another file by now; beginning at its first byte", self.what);
                (self.received, self.failed_at, self.begun, self.version) = (0, 0, false, None);
                Ok(())
            }
            Some(Err(Failure::Final(e))) => Err(e),
            Some(Err(Failure::Passing(e, wish))) => self.failed(e, wish),
            None => {
                interrupt::check()?;
                self.failed(self.broken("no answer"), None)
            }
        }
    }

    /// The answer to a request with these headers: of the place that a redirect led to before, if it sends bytes; else of the
    /// URL, as a signed place expires.
    async fn ask(&self, moved: Option<&Url>, headers: &HeaderMap) -> Result<Response, Failure> {
        if let Some(moved) = moved {
            match self.client.answer_elsewhere(moved, headers, &self.what).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                _ => log::debug!("{}: {} sends no more of it, asking again", self.what, origin(moved)),
            }
        }
        self.client.answer(Method::GET, &self.url, headers, &self.what).await
    }

    async fn request(&self, moved: Option<&Url>) -> Result<Answered, Failure> {
        let ranged = self.is_range();
        let mut headers = HeaderMap::new();
        if ranged {
            // With its end: some registries refuse an open range.
            let range = HeaderValue::try_from(format!("bytes={}-{}", self.received, self.end - 1));
            headers.extend(range.ok().map(|range| (header::RANGE, range)));
            headers.extend(self.version.clone().map(|version| (header::IF_RANGE, version)));
        }
        let mut response = self.ask(moved, &headers).await?;
        let (status, url) = (response.status(), response.url());
        if let Some(failure) = passing(status, url, response.headers(), b"", &self.what) {
            return Err(failure);
        }
        let now = entity_tag(response.headers());
        if self.received > 0 && status.is_success() && self.version.is_some() && now.is_some() && now != self.version {
            if self.begun {
                return Ok(Answered::Replaced);
            }
            let message = format!("{} changed during the download from {}", self.what, origin(url));
            return Err(Error::new(Reason::FileReplaced, message)
                .remedy("Try again: the publisher replaced it in the meantime.")
                .into());
        }
        let other = |why: String| Ok(Answered::Other(format!("{} {why}", origin(url))));
        let (skip, end) = match status.as_u16() {
            200 if self.ask == Ask::Range && self.received > 0 && !self.parts => {
                return other("sends all of it".into());
            }
            200 => (self.received, self.size),
            206 if ranged => match rest(response.headers(), self.received, self.size) {
                Some(end) if end <= self.end => (0, end),
                _ => {
                    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                    return other(format!("sends another part: {}", text::escape(range.unwrap_or("unnamed"))));
                }
            },
            status if ranged => return other(format!("answers {status} to a range")),
            _ => return Err(refusal(status, url, b"", &self.what).into()),
        };
        let told = response.content_length();
        let expected = end - self.received + skip;
        if let Some(told) = told.filter(|told| *told != expected) {
            if ranged {
                return other(format!("sends {told} bytes, not the expected {expected}"));
            }
            let message = format!("{}: {} sends {told} bytes, not the expected {expected}", self.what, origin(url));
            let url = url.clone();
            if is_html(response.headers())
                || response.chunk().await.is_ok_and(|first| first.is_some_and(|b| is_page(&b)))
            {
                return Err(captive_portal(&url, &self.what, PAGE).into());
            }
            return Err(Error::new(Reason::SizeMismatch, message).into());
        }
        let framed = told.is_some() || response.headers().contains_key(header::TRANSFER_ENCODING);
        Ok(Answered::Stream(Stream { response, framed, skip, rest: Bytes::new(), end }))
    }

    /// Counts a failed attempt and waits, or gives up.
    fn failed(&mut self, error: Error, wish: Option<Duration>) -> Result<()> {
        self.stream = None;
        // One that sends all of it, asked twice, is taken at its word.
        self.ask = if self.resumes == Some(false) { Ask::RangeAgain } else { Ask::Range };
        if self.received - self.failed_at >= PROGRESS_BYTES {
            self.failures = 0;
        }
        self.failures += 1;
        self.failed_at = self.received;
        let patience = &self.client.options.patience;
        let attempts = if self.received == 0 || self.begun { patience.blob_attempts } else { patience.resume_attempts };
        let attempts = self.attempts.unwrap_or(attempts);
        let pause = self.client.pause(self.failures, wish);
        if self.failures >= attempts || pause > patience.retry_after_max {
            let (received, size) = (self.received, self.size);
            return Err(error.context(format_args!("gave up after {received} of {size} bytes")));
        }
        log::warn!("{error}; continuing in {pause:.1?}");
        interrupt::sleep(pause)?;
        self.rate.add(pause, 0);
        self.check_rate()
    }

    fn broken(&self, why: &str) -> Error {
        let message = format!("cannot fetch {} from {}: {why}", self.what, origin(&self.url));
        Error::new(Reason::Unreachable, message).remedy("Check the connection to the server, then try again.")
    }

    fn check_rate(&mut self) -> Result<()> {
        if self.rate.enough() {
            return Ok(());
        }
        let Rate { window, min, .. } = self.rate;
        let why = format!("slower than {min} bytes per second over {window:.0?}");
        Err(Error { reason: Reason::TooSlow, ..self.broken(&why) })
    }

    fn surplus(&self) -> Error {
        let message = format!("{} has more than the announced {} bytes", self.what, self.size);
        self.explain(Error::new(Reason::SizeMismatch, message))
    }

    /// The bytes of a chunk that are wanted. All of them count for the budget.
    fn new_of(&mut self, bytes: Bytes) -> Result<Bytes> {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.received == 0 && is_page(&bytes)) {
            self.page = Some(stream.response.url().clone());
        }
        self.spent += bytes.len() as u64;
        self.begun = false;
        let bytes = self.wanted(bytes)?;
        let budget = limits::fetch_budget(self.size);
        if self.spent > budget && self.received < self.size {
            let message = format!(
                "cannot fetch {} from {}: {} bytes came, and {} of {} are still missing",
                self.what,
                origin(&self.url),
                self.spent,
                self.size - self.received,
                self.size
            );
            return Err(Error::new(Reason::ByteBudget, message).remedy(format!(
                "The server or a cache in between cuts downloads and does not resume them; one run takes at most {budget} \
                 bytes for this image. Fix the server, or use another one."
            )));
        }
        Ok(bytes)
    }

    /// Passes over what is known, and keeps what lies behind the part.
    fn wanted(&mut self, mut bytes: Bytes) -> Result<Bytes> {
        let Some(stream) = &mut self.stream else { return Ok(bytes) };
        let known = stream.skip.min(bytes.len() as u64);
        stream.skip -= known;
        // At most its length.
        drop(bytes.split_to(known as usize));
        if bytes.len() as u64 > stream.end - self.received {
            return Err(self.surplus());
        }
        let wanted = (self.end - self.received).min(bytes.len() as u64);
        stream.rest = bytes.split_off(wanted as usize);
        self.received += wanted;
        Ok(bytes)
    }

    /// The end of the part is reached, and that of the stream if it was for this part; one of unknown length must end now. The
    /// connection is free for the next part then.
    fn end(&mut self) -> Result<()> {
        let Some(mut stream) = self.stream.take_if(|stream| stream.end == self.received) else { return Ok(()) };
        while stream.response.content_length().is_none() || self.parts {
            let end = Instant::now() + self.client.options.patience.idle;
            match self.client.within(end, stream.response.chunk()) {
                Some(Ok(Some(more))) if more.is_empty() => {}
                Some(Ok(Some(_))) => return Err(self.surplus()),
                // All bytes are here; how the connection ends is no concern.
                _ => break,
            }
        }
        Ok(())
    }
}

/// Where a `Content-Range` ends that begins at `from`, if it is part of this image. Nexus leaves the unit out.
fn rest(headers: &HeaderMap, from: u64, size: u64) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = range.strip_prefix("bytes ").unwrap_or(range).trim().split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    let here = first.parse() == Ok(from) && (from..size).contains(&last);
    (here && (total == "*" || total.parse() == Ok(size))).then_some(last + 1)
}

impl Body for BlobBody {
    fn position(&self) -> u64 {
        self.received
    }

    fn version(&self) -> Option<String> {
        self.version.as_ref().and_then(|version| version.to_str().ok()).map(str::to_owned)
    }

    fn in_pieces(&self) -> bool {
        self.in_pieces
    }

    fn explain(&self, wrong: Error) -> Error {
        self.page.as_ref().or(self.html.as_ref()).map_or(wrong, |url| captive_portal(url, &self.what, PAGE))
    }

    fn fetched(&self) -> u64 {
        self.spent
    }

    fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.received < self.end {
            let Some(stream) = &mut self.stream else {
                self.connect()?;
                continue;
            };
            if !stream.rest.is_empty() {
                let rest = std::mem::take(&mut stream.rest);
                let bytes = self.wanted(rest)?;
                if !bytes.is_empty() {
                    return Ok(Some(bytes));
                }
                continue;
            }
            let begin = self.client.now();
            let (idle, left) = (self.client.options.patience.idle, self.rate.left());
            let next = self.client.within(Instant::now() + idle.min(left), stream.response.chunk());
            if next.is_none() {
                interrupt::check()?;
            }
            let arrived = next.as_ref().map_or(0, |next| next.as_ref().map_or(0, |c| c.as_ref().map_or(0, Bytes::len)));
            self.rate.add(self.client.now().saturating_sub(begin), arrived as u64);
            // Not part of the time that the rate is about: a limit does not make a line slow.
            self.client.keep_pace(arrived);
            match next {
                Some(Ok(Some(bytes))) => {
                    let bytes = self.new_of(bytes)?;
                    self.check_rate()?;
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Ok(None)) if self.received == stream.end => self.stream = None,
                Some(Ok(None)) if stream.framed => {
                    let message =
                        format!("{} ends after {} of the announced {} bytes", self.what, self.received, self.size);
                    return Err(self.explain(Error::new(Reason::SizeMismatch, message)));
                }
                // A page that ends with its connection is complete.
                Some(Ok(None)) if self.page.is_some() => return Err(self.explain(self.broken("it ends early"))),
                Some(Ok(None)) => self.failed(self.broken("the connection was closed"), None)?,
                Some(Err(e)) => self.failed(self.broken(&cause(&e)), None)?,
                // A window ended; it says nothing about the connection unless it was too slow.
                None if left < idle => self.check_rate()?,
                None => self.failed(self.broken("no byte for too long"), None)?,
            }
        }
        self.end()?;
        Ok(None)
    }
}

impl Parts for BlobBody {
    fn part(&mut self, from: u64, end: u64) -> Result<()> {
        if from >= end || end > self.size {
            return Err(Error::new(Reason::Internal, "no such part of an image"));
        }
        // None: the first part that was planned is asked for before anything changes, and one before it may be missing, too.
        let gap = from.checked_sub(self.received);
        match (&mut self.stream, gap) {
            // It sends everything: what lies between the parts is passed over.
            (Some(stream), Some(gap)) if stream.end == self.size && (gap == 0 || stream.end > self.end) => {
                stream.skip += gap;
            }
            _ => self.stream = None,
        }
        self.failed_at = gap.map_or(from, |gap| self.failed_at + gap);
        (self.received, self.end) = (from, end);
        while self.stream.is_none() {
            self.connect()?;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.ask == Ask::Whole
            || self.stream.as_ref().is_some_and(|stream| stream.end == self.size && self.end < self.size)
    }
}

/// Bytes over time, in windows one after the other. Time spent elsewhere, writing to a slow disk, is not counted.
struct Rate {
    window: Duration,
    min: u64,
    waited: Duration,
    bytes: u64,
}

impl Rate {
    fn new(window: Duration, min: u64) -> Self {
        Self { window, min, waited: Duration::ZERO, bytes: 0 }
    }

    fn add(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
    }

    fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited).max(Duration::from_millis(1))
    }

    /// False when a window is over and had too little; starts the next one when it had enough.
    fn enough(&mut self) -> bool {
        if self.waited < self.window {
            return true;
        }
        let enough = u128::from(self.bytes) * 1000 >= u128::from(self.min) * self.waited.as_millis();
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::fetch::options::{FetchOptions, Patience};
    use crate::fetch::tokens::Clock;

    #[test]
    fn the_rate_is_measured_over_whole_windows() {
        let mut rate = Rate::new(Duration::from_secs(600), 256);
        rate.add(Duration::from_secs(599), 0);
        assert!(rate.enough(), "the window is not over");
        rate.add(Duration::from_secs(1), 2 * 256 * 600);
        assert!(rate.enough());
        rate.add(Duration::from_secs(600), 256 * 600 - 1);
        assert!(!rate.enough(), "what came before does not count");
    }

    /// Stands still but for the pauses.
    #[derive(Clone, Default)]
    struct TestClock(Rc<std::cell::Cell<Duration>>);

    impl Clock for TestClock {
        fn now(&self) -> Duration {
            self.0.get()
        }

        fn sleep(&self, time: Duration) {
            self.0.set(self.0.get() + time);
        }
    }

    #[test]
    fn a_limit_holds_for_an_image_and_does_not_make_its_line_slow() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n").unwrap();
            stream.write_all(&[7; 102_400]).unwrap();
        });
        let url = Url::parse(&format!("http://{host}/image")).unwrap();
        // With the pauses, it would be far slower than this.
        let patience = Patience { rate_window: Duration::from_secs(5), rate_min: 100_000, ..Patience::default() };
        let options =
            FetchOptions { plain_http: vec![host], max_rate: Some(4096), patience, ..FetchOptions::default() };
        let clock = TestClock::default();
        let mut client = Client::new(&options).unwrap();
        client.clock = Box::new(clock.clone());
        let mut body = BlobBody::open(Rc::new(client), url, 102_400, "image".into()).unwrap();
        while body.chunk().unwrap().is_some() {}
        // 100 KiB at 4 KiB per second; a chunk may lose a part of a nanosecond.
        let slept = clock.now().as_micros();
        assert!((24_999_000..=25_000_000).contains(&slept), "{slept}");
    }
}
