//! Steps of attempts as CloudEvents 1.0, for the receiver of `event_url=`.
//!
//! Structured content mode over HTTP POST
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>), with the extension
//! `sequence` (<https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md>).

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{limits, text};
use crate::fetch::client::{Client, Deadline, Request};
use crate::fetch::options::{FetchOptions, Patience};
use crate::fetch::url::shown;
use crate::source::open;
use crate::state::format::seconds;
use crate::state::outbox::{Event, EventData};
use crate::state::records::{Evidence, StepName};
use crate::update::update::Update;

/// For all events that wait, together: the run or the boot that sends them goes on afterwards.
const PATIENCE: Duration = Duration::from_secs(20);

/// An event as the receiver gets it: a CloudEvent in JSON
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: &'a str,
    #[serde(with = "seconds")]
    time: DateTime<Utc>,
    /// In the order of the events; a gap stands for events that were lost.
    sequence: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    event: &'a EventData,
    /// Without texts of programs and of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
}

/// Evidence as it may leave the device: logs and outputs may have secrets in them.
fn public(evidence: Evidence) -> Evidence {
    let mut left = Evidence { panic: None, log: None, missing: vec![], ..evidence };
    for check in &mut left.checks {
        (check.message, check.output) = (String::new(), String::new());
    }
    left.hooks.iter_mut().for_each(|hook| hook.output.clear());
    left
}

impl Update<'_> {
    /// Sends the events that wait, in order, up to the first that the receiver does not take. Nothing depends on it, and the next
    /// run goes on.
    pub fn send_events(&mut self) {
        let Some(url) = self.config.event_url.clone() else { return };
        let pending = self.records.pending_events();
        if pending.is_empty() {
            return;
        }
        if let Err(error) = self.send_all(&url, &pending) {
            let left = self.records.pending_events().len();
            log::warn!("{left} events wait for their receiver: {error}");
        }
    }

    fn send_all(&mut self, url: &str, pending: &[(u64, PathBuf)]) -> Result<()> {
        let url = Url::parse(url).context(Reason::BadConfig, "read event_url=")?;
        if self.session().public_id().is_none() {
            self.records.state.identify()?;
            self.records.save()?;
        }
        let source = format!("/kubesolo-update/{}", self.session().public_id().unwrap_or_default());
        let options = open::network(self.config);
        let patience = Patience { documents: PATIENCE, ..Patience::default() };
        let client = Client::new(&FetchOptions { patience, ..options })?;
        let deadline = client.deadline();
        for (number, path) in pending {
            if let Some(event) = self.records.event(path) {
                let body = self.event_body(&event, *number, &source);
                post(&client, &url, &body, deadline)?;
            }
            self.records.event_sent(path)?;
        }
        Ok(())
    }

    fn event_body(&self, event: &Event, number: u64, source: &str) -> String {
        let step = &event.data.step;
        let ended = [StepName::Failed, StepName::RolledBack, StepName::RollbackFailed];
        let tells = step.known().is_some_and(|step| ended.contains(&step));
        let evidence = self.records.evidence(&event.data.attempt).filter(|_| tells).map(public);
        let cloud = |evidence| CloudEvent {
            specversion: "1.0",
            id: &event.id,
            source: source.to_owned(),
            kind: format!("io.kubesolo.update.{step}"),
            subject: &event.data.attempt,
            time: event.time,
            sequence: format!("{number:020}"),
            datacontenttype: "application/json",
            data: Data { event: &event.data, evidence },
        };
        let json = |evidence| text::ascii(&serde_json::to_string(&cloud(evidence)).expect("texts and numbers only"));
        Some(json(evidence)).filter(|body| body.len() <= limits::EVENT_BYTES).unwrap_or_else(|| json(None))
    }
}

/// Sends one event. Only an answer of the kind 2xx takes it.
fn post(client: &Client, url: &Url, body: &str, deadline: Deadline) -> Result<()> {
    let content = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, content)]);
    let wanted = Request { url, accept: "", limit: limits::ERROR_BODY_BYTES, what: "the receipt of an event" };
    let answer = client.post(&wanted, &headers, body, deadline)?;
    if answer.status.is_success() {
        return Ok(());
    }
    let message = format!("{} answers an event with {}", shown(url), answer.status.as_u16());
    Err(Error::new(Reason::ServerError, message).remedy("Check event_url= and the receiver."))
}
