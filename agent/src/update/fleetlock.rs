//! A lock of a FleetLock server: it permits a reboot into a trial, so that not all devices of a group restart together.
//!
//! The protocol is that of Zincati (<https://coreos.github.io/zincati/development/fleetlock/protocol/>): two POSTs with a
//! header, the name of the device and its group. The server counts the locks of a group, and grants a device the same lock
//! again.

use std::time::Duration;

use bootenv::protocol::View;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::text;
use crate::fetch::client::{Client, Request};
use crate::fetch::options::{FetchOptions, Patience};
use crate::fetch::url::shown;
use crate::source::open;
use crate::state::fleetlock::FleetLock;
use crate::update::update::Update;

/// For each question; the activation waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer, in bytes.
const ANSWER_BYTES: u64 = 16 * 1024;
/// Group of a device whose settings name none.
const DEFAULT_GROUP: &str = "default";
/// Without this header a server must refuse the request.
const PROTOCOL: &str = "fleet-lock-protocol";

/// The two questions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Take the lock.
    PreReboot,
    /// Release it.
    SteadyState,
}

/// A refusal, as servers word it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    kind: String,
    value: String,
}

impl Update<'_> {
    /// Takes the lock before an activation, if the settings name a server. It is remembered before it is asked for: after a
    /// power cut it is released, whether or not it was granted.
    ///
    /// # Errors
    /// 75 when the server does not grant it; with `--force` that is only logged.
    pub(super) fn take_fleetlock(&mut self) -> Result<()> {
        let Some(url) = self.config.fleetlock_url.clone() else { return Ok(()) };
        let group = self.config.fleetlock_group.as_deref().unwrap_or(DEFAULT_GROUP);
        self.records.state.identify()?;
        let id = self.session().public_id().ok_or_else(|| {
            Error::new(Reason::Fleetlock, "no lock of the FleetLock server: this device has no id")
                .remedy("Set machine_id_file= to a file with an id of this device alone.")
        })?;
        let lock = FleetLock::new(&url, group, &id, self.now);
        self.records.keep_fleetlock(Some(&lock))?;
        match self.ask(&lock, Question::PreReboot) {
            Ok(()) => {
                log::info!("the FleetLock server gives group {group} a lock for this device");
                Ok(())
            }
            Err(error) if self.lifted.force => {
                log::warn!("--force: {error}; the update continues without a lock");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Releases the lock of an earlier activation once this boot is that of the active slot and no trial is pending. A server
    /// that does not answer is asked again by the next run.
    pub fn release_fleetlock(&mut self) {
        if let Err(error) = self.released() {
            log::warn!("{error}");
        }
    }

    fn released(&mut self) -> Result<()> {
        let Some(lock) = self.records.fleetlock()? else { return Ok(()) };
        // An environment that is not ours has none of our trials.
        if let View::Ours(env) = self.boot.env.view()
            && (env.on_trial().is_some() || env.active != self.boot.booted.slot)
        {
            return Ok(());
        }
        self.ask(&lock, Question::SteadyState)?;
        log::info!("the lock of group {} is released", text::escape(&lock.group));
        self.records.keep_fleetlock(None)
    }

    fn ask(&self, lock: &FleetLock, question: Question) -> Result<()> {
        let refused =
            |message: String, remedy: &str| Err(Error::new(Reason::Fleetlock, message).remedy(remedy.to_owned()));
        let base = Url::parse(&lock.url).context(Reason::BadConfig, "read fleetlock_url=")?;
        let server = shown(&base);
        match self.post(base, lock, question) {
            Err(error) => refused(
                format!("the FleetLock server {server} does not answer: {}", error.message),
                "Check fleetlock_url= and its server; the next run asks again. `kubesolo-update activate --force` \
                 continues without a lock.",
            ),
            Ok(None) => Ok(()),
            Ok(Some(why)) => refused(
                format!("the FleetLock server {server} refuses group {}: {why}", text::escape(&lock.group)),
                "If another device of the group restarts now, wait: the next run asks again. `kubesolo-update activate \
                 --force` continues without a lock.",
            ),
        }
    }

    /// Why the server refuses, if it does.
    fn post(&self, mut url: Url, lock: &FleetLock, question: Question) -> Result<Option<String>> {
        let (end, what) = match question {
            Question::PreReboot => ("v1/pre-reboot", "a lock for the reboot"),
            Question::SteadyState => ("v1/steady-state", "the release of the lock"),
        };
        if !url.path().ends_with('/') {
            let folder = format!("{}/", url.path());
            url.set_path(&folder);
        }
        let url = url.join(end).context(Reason::BadConfig, "read fleetlock_url=")?;
        let options = open::network(self.config);
        let patience = Patience { documents: PATIENCE, ..Patience::default() };
        let client = Client::new(&FetchOptions { patience, ..options })?;
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static(PROTOCOL), HeaderValue::from_static("true")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let body = json!({"client_params": {"id": lock.id, "group": lock.group}}).to_string();
        let wanted = Request { url: &url, accept: "", limit: ANSWER_BYTES, what };
        let answer = client.post(&wanted, &headers, &body, client.deadline())?;
        if answer.status.is_success() {
            return Ok(None);
        }
        let Refusal { kind, value } = serde_json::from_slice(&answer.body).unwrap_or_default();
        let words = [kind, value].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": ");
        Ok(Some(format!("{} {}", answer.status.as_u16(), text::escape(&words)).trim_end().to_owned()))
    }
}
