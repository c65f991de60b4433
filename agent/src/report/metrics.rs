//! Metrics of this device, in the text format of Prometheus.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write as _;

use bootenv::protocol::SlotState;
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::report::status::{EnvKind, SlotStatus, Status};
use crate::state::freshness::FreshnessVerdict;
use crate::state::history::Origins;
use crate::state::memory::Memory;
use crate::state::phase::Phase;
use crate::state::state::{Outcome, State};
use crate::state::store::Loaded;
use crate::state::trust::Trust;

/// One series of the page.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Name of the metric.
    name: String,
    #[serde(skip)]
    kind: Kind,
    #[serde(skip)]
    help: &'static str,
    /// Its labels.
    #[serde(serialize_with = "as_map")]
    labels: Vec<(&'static str, String)>,
    /// Its value.
    value: u64,
}

fn as_map<S: Serializer>(labels: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(name, value)| (name, value)))
}

/// The page of these series.
#[must_use]
pub fn page(all: &[Series]) -> String {
    let mut page = String::new();
    for (n, Series { name, kind, help, labels, value }) in all.iter().enumerate() {
        if n == 0 || all[n - 1].name != *name {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(page, "{name}{labels} {value}");
    }
    page
}

/// All series, from the findings of `status` and the records.
#[must_use]
pub fn series(status: &Status, loaded: &Loaded, memory: &Memory) -> Vec<Series> {
    let Loaded { state, trust, fetches, .. } = loaded;
    let mut page = Page(vec![]);
    identity(&mut page, status);
    attempts(&mut page, state);
    runs(&mut page, status, state);
    if let Some(remaining) = fetches.ratelimit_remaining {
        let help = "Number of requests that the source still permits, by its last answer.";
        page.family("ratelimit_remaining", Kind::Gauge, help).is(&[], remaining);
    }
    releases(&mut page, status, trust);
    boots(&mut page, status, state);
    if let Some(scrub) = &memory.scrub {
        page.time("slots_read", "Last time that both slots were read again.", Some(scrub.at));
        let help = "1 if the running slot, or the one to fall back to, was damaged then and is not repaired.";
        let mut damaged = page.family("slot_damaged", Kind::Gauge, help);
        damaged.is(&[("slot", "running")], u64::from(scrub.booted.is_some()));
        damaged.is(&[("slot", "fallback")], u64::from(scrub.fallback_damage().is_some()));
    }
    if let Some(events) = status.pending_events {
        let help = "Number of events that wait for their receiver.";
        page.family("events_pending", Kind::Gauge, help).is(&[], events);
    }
    if let Some(number) = status.loader.as_ref().and_then(|loader| loader.booted) {
        let help = "Number of the loader file that started this boot; 0 for one of version 0.1.";
        page.family("loader_info", Kind::Gauge, help).is(&[("version", &number.to_string())], 1);
    }
    page.family("problems", Kind::Gauge, "Number of items that status cannot read.")
        .is(&[], status.problems.len() as u64);
    page.0
}

fn identity(page: &mut Page, status: &Status) {
    let booted = status.booted.as_ref();
    let version = booted.and_then(|booted| booted.version.as_deref()).unwrap_or_default();
    let slot = booted.map_or("", |booted| &booted.slot);
    page.family("info", Kind::Gauge, "Version of the agent, booted slot and running version.")
        .is(&[("agent", status.agent), ("slot", slot), ("version", version)], 1);
}

fn attempts(page: &mut Page, state: &State) {
    let mut phases = page.family("phase", Kind::Gauge, "Phase of the last update; one of these is 1.");
    for phase in Phase::ALL {
        phases.is(&[("phase", phase.as_str())], u64::from(phase == state.phase()));
    }
    page.family("attempts_total", Kind::Counter, "Number of attempts to install a release on this device.")
        .is(&[], state.attempts_total);
    page.family("attempts_for_release", Kind::Gauge, "Number of attempts for the last tried release.")
        .is(&[], state.attempt_count.into());
    if let Some(Origins { fetched, reused, patched }) = state.attempt.bytes {
        let help = "Bytes of the images of the last attempt: from the network, from the booted slot, from patches.";
        let mut bytes = page.family("last_fetch_bytes", Kind::Gauge, help);
        for (how, count) in [("fetched", fetched), ("reused", reused), ("patched", patched)] {
            bytes.is(&[("how", how)], count);
        }
    }
    page.time("last_attempt", "Start of the last attempt.", state.attempt.started_at);
}

fn runs(page: &mut Page, status: &Status, state: &State) {
    let last = status.last_run.as_ref();
    page.time("last_run", "End of the last run, with or without an attempt.", last.map(|run| run.at));
    if let Some(run) = last {
        let reason = run.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        page.family("last_run_info", Kind::Gauge, "Outcome of the last run, and the reason.")
            .is(&[("outcome", &run.outcome.to_string()), ("reason", &reason)], 1);
        page.family("held", Kind::Gauge, "1 if a gate stopped the last run: not now, or not allowed.")
            .is(&[], u64::from(matches!(run.outcome.known(), Some(Outcome::Held | Outcome::Refused))));
    }
    page.time("not_before", "End of the server's Retry-After.", state.not_before);
}

fn releases(page: &mut Page, status: &Status, trust: &Trust) {
    let help = "Number of releases that failed on this device and are not tried again.";
    page.family("failed_releases", Kind::Gauge, help).is(&[], trust.failed.len() as u64);
    let ends = status.booted.as_ref().and_then(|booted| booted.supported_until);
    page.time("supported_until", "End of the support of the running release.", ends);
    page.family("security_epoch", Kind::Gauge, "Highest committed security epoch.").is(&[], trust.security_epoch);
    let help = "1 if the running release is below the committed epoch, after a fallback.";
    page.family("below_security_epoch", Kind::Gauge, help).is(&[], status.below_security_epoch.into());
    page.family("revoked_keys", Kind::Gauge, "Number of revoked keys.").is(&[], trust.revoked_keys.len() as u64);
    if let Some(freshness) = &status.freshness {
        let mut verdicts = page.family("freshness", Kind::Gauge, "Freshness of the last offer; one of these is 1.");
        for word in FreshnessVerdict::ALL {
            verdicts.is(&[("verdict", word.as_str())], u64::from(freshness.word == word));
        }
        page.time("freshness_ends", "End of the last freshness statement.", freshness.not_after);
    }
}

fn boots(page: &mut Page, status: &Status, state: &State) {
    page.family("health_failures", Kind::Gauge, "Number of failed health runs in a row within this boot of a trial.")
        .is(&[], state.health_failures.into());
    if !status.slots.is_empty() {
        slots(page, &status.slots);
    }
    if let Some(data) = &status.data {
        let help = "Length of the files in the checkpoints of the data.";
        page.family("checkpoint_bytes", Kind::Gauge, help).is(&[], data.bytes);
    }
    if let Some(env) = &status.environment {
        page.family("trial_tries_left", Kind::Gauge, "Number of tries left in a trial; 0 without a trial.")
            .is(&[], env.tries_left.unwrap_or_default().into());
        let help = "1 if the boot environment is valid and not changed by another program.";
        page.family("environment_ok", Kind::Gauge, help)
            .is(&[], u64::from(env.kind == EnvKind::Ours && env.damage.is_none()));
    }
    let help = "Time of the last trial that showed that agent and bootloader use the same boot environment.";
    page.time("env_link_shown", help, state.link_shown);
    if let Some(safety) = &status.safety {
        let help = "1 if a panic reboots, and 1 if a hardware watchdog ends a hang.";
        let mut ends = page.family("ends_itself", Kind::Gauge, help);
        ends.is(&[("boot", "panic")], u64::from(safety.panic_seconds.is_some()));
        ends.is(&[("boot", "hang")], u64::from(safety.watchdog.is_some()));
    }
}

fn slots(page: &mut Page, slots: &[SlotStatus]) {
    let mut states = page.family("slot_state", Kind::Gauge, "State of each slot in the boot environment.");
    for slot in slots {
        for known in [SlotState::Good, SlotState::Void, SlotState::Fail] {
            states.is(&[("slot", &slot.slot), ("state", known.as_str())], u64::from(slot.state == Some(known)));
        }
    }
    let mut contents = page.family("slot_info", Kind::Gauge, "Version and digest of the release in each slot.");
    for SlotStatus { slot, version, digest, .. } in slots {
        let (version, digest) = (version.as_deref().unwrap_or_default(), digest.as_deref().unwrap_or_default());
        contents.is(&[("slot", slot), ("version", version), ("digest", digest)], 1);
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

struct Page(Vec<Series>);

impl Page {
    /// Begins a family of series; each family once.
    fn family(&mut self, name: &str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { page: self, name: format!("kubesolo_update_{name}"), kind, help }
    }

    /// A time in seconds since 1970, left out when there is none.
    fn time(&mut self, name: &str, help: &'static str, at: Option<DateTime<Utc>>) {
        let Some(seconds) = at.and_then(|at| u64::try_from(at.timestamp()).ok()) else { return };
        self.family(&format!("{name}_timestamp_seconds"), Kind::Gauge, help).is(&[], seconds);
    }
}

struct Family<'a> {
    page: &'a mut Page,
    name: String,
    kind: Kind,
    help: &'static str,
}

impl Family<'_> {
    fn is(&mut self, labels: &[(&'static str, &str)], value: u64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let Self { name, kind, help, .. } = self;
        self.page.0.push(Series { name: name.clone(), kind: *kind, help, labels, value });
    }
}

/// The three characters that the format escapes; the others of a file that anybody may have written are replaced.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for c in value.chars().take(crate::base::limits::SHOWN_CHARS) {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}
