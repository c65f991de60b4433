//! `status` for people: the running release, the other slot and the update, each in a part of its own.

use chrono::{DateTime, Utc};

use super::screen::{Screen, Tone};
use crate::base::console::{Terminal, progress};
use crate::base::text;
use crate::base::words::Recorded;
use crate::report::status::{Booted, SlotStatus, Status};
use crate::schedule::clock;
use crate::state::freshness::FreshnessVerdict;
use crate::state::history::TrialOutcome;
use crate::state::phase::Phase;
use bootenv::protocol::SlotState;

/// The report at a time, with all details on demand.
pub(in crate::cli) fn status(status: &Status, terminal: Terminal, details: bool) -> String {
    let mut page = Page { status, screen: Screen::new(terminal), now: Utc::now(), details };
    page.running();
    if !status.slots.is_empty() {
        page.screen.part();
        page.other_slot();
    }
    page.screen.part();
    page.update();
    if details {
        page.screen.part();
        page.details();
    }
    for problem in &status.problems {
        page.screen.toned("not readable:", Tone::Bad, problem);
    }
    if status.needs_root {
        page.screen.line("next:", "run it as root: only root can read the disks of a device");
    }
    page.screen.finish()
}

struct Page<'a> {
    status: &'a Status,
    screen: Screen,
    now: DateTime<Utc>,
    details: bool,
}

fn or_unknown(text: Option<&String>) -> &str {
    text.map_or("unknown", String::as_str)
}

/// With 12 digits of a digest, which fit into a line: `-v` shows all of them.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 12;
    let whole = text.split_once("sha256:").and_then(|(before, rest)| Some((before, rest.split_at_checked(64)?)));
    match whole {
        Some((before, (digits, after))) => format!("{before}sha256:{}{after}", &digits[..SHOWN]),
        None => text.to_owned(),
    }
}

/// Name of the release in a slot. A slot without manifest was filled where the device was made.
fn release(version: Option<&String>, slot: Option<&SlotStatus>) -> String {
    match (version, slot) {
        (Some(version), _) => text::escape(version),
        (None, Some(slot)) if slot.state == Some(SlotState::Good) || slot.has_images => "the factory image".into(),
        _ => "an unknown release".into(),
    }
}

impl Page<'_> {
    fn slot(&self, id: &str) -> Option<&SlotStatus> {
        self.status.slots.iter().find(|slot| slot.slot == id)
    }

    fn running(&mut self) {
        let Some(booted) = &self.status.booted else { return self.screen.line("running:", "unknown") };
        let Booted { slot, version, .. } = booted;
        let release = release(version.as_ref(), self.slot(slot));
        let standing = self.standing(booted);
        self.screen.line("running:", &format!("{release} in slot {slot}{standing}"));
        if let Some(fallback) = booted.fallback {
            let words = format!("the bootloader fell back to this slot (ks.fallback={fallback})");
            self.screen.toned("warning:", Tone::Bad, &words);
        }
        match booted.supported_until.map(|ends| (clock::shown(ends), ends < self.now)) {
            Some((ended, true)) => self.screen.toned("support:", Tone::Bad, &format!("ended {ended}: update it")),
            Some((ends, false)) => self.screen.line("support:", &format!("until {ends}")),
            None => {}
        }
        if booted.old_loader {
            self.screen.line("loader:", "of KubeSolo OS; updates wait for `kubesolo-update adopt`");
        }
        if self.status.below_security_epoch {
            let floor = self.status.security_epoch;
            let words = format!("the running release is below the committed security epoch {floor}: update it");
            self.screen.toned("warning:", Tone::Bad, &words);
        }
    }

    /// True if this boot is one of the trial.
    fn is_tried(&self) -> bool {
        let on_trial = self.status.environment.as_ref().and_then(|env| env.on_trial.as_ref());
        self.status.booted.as_ref().is_some_and(|booted| booted.trial.is_some() && on_trial == Some(&booted.slot))
    }

    fn standing(&self, booted: &Booted) -> String {
        let env = self.status.environment.as_ref();
        if self.is_tried() {
            let left = env.and_then(|env| env.tries_left).unwrap_or_default();
            return format!(", {}, {left} tries left", self.screen.paint(Tone::Held, "on trial"));
        }
        match env.is_some_and(|env| env.good.as_ref() == Some(&booted.slot)) {
            true => format!(", {}", self.screen.paint(Tone::Good, "good")),
            false => String::new(),
        }
    }

    fn other_slot(&mut self) {
        let running = self.status.booted.as_ref().map(|booted| booted.slot.clone());
        for slot in self.status.slots.iter().filter(|slot| Some(&slot.slot) != running.as_ref()) {
            let release = release(slot.version.as_ref(), Some(slot));
            let on_trial = self.status.environment.as_ref().and_then(|env| env.on_trial.as_ref());
            let words = match slot.state {
                _ if on_trial == Some(&slot.slot) => format!("{release}, boots next on trial"),
                Some(SlotState::Good) => format!("{release}, the previous release: `rollback` returns to it"),
                Some(SlotState::Void) if slot.complete => format!("{release}, staged"),
                Some(SlotState::Void) => "empty".into(),
                Some(SlotState::Fail) => {
                    format!("{release}, {}", self.screen.paint(Tone::Bad, "failed its trial"))
                }
                None if slot.complete => release,
                None => "no complete release".into(),
            };
            self.screen.line(&format!("slot {}:", slot.slot), &words);
        }
    }

    fn update(&mut self) {
        let (label, words) = ("update:", self.progress());
        match self.status.phase {
            Phase::Failed => self.screen.toned(label, Tone::Bad, &words),
            _ => self.screen.line(label, &words),
        }
        if !self.status.last_error.is_empty() {
            self.screen.toned("last error:", Tone::Bad, &self.status.last_error);
        }
        if let Some(run) = &self.status.last_run {
            let reason = run.reason.as_ref().map_or(String::new(), |reason| format!(", {reason}"));
            let words = format!("{}: {}{reason}", clock::ago(run.at, self.now), run.outcome);
            self.screen.line("last run:", &words);
        }
        if let Some(skip) = &self.status.last_skip {
            self.screen.toned("held:", Tone::Held, &skip.message);
        }
        self.next_look();
        self.trust();
        if let Some(data) = self.status.data.as_ref().filter(|data| !data.checkpoints.is_empty()) {
            let words = format!("{} in checkpoints, see `data status`", progress::size(data.bytes));
            self.screen.line("data:", &words);
        }
        if let Some(next) = self.next() {
            self.screen.line("next:", next);
        }
    }

    /// The step for a person, if there is one.
    fn next(&self) -> Option<&'static str> {
        match self.status.phase {
            Phase::Staged => Some("kubesolo-update activate --reboot"),
            Phase::Activated if !self.is_tried() => Some("reboot"),
            Phase::RolledBack if !self.status.failed.is_empty() => {
                Some("Publish a fixed release, or run `kubesolo-update apply --retry-failed`.")
            }
            Phase::Failed => Some("kubesolo-update apply"),
            _ => None,
        }
    }

    /// Where the last update stands.
    fn progress(&self) -> String {
        let to = if self.status.to_version.is_empty() { "a release" } else { &self.status.to_version };
        let at = self.status.since.map_or(String::new(), |at| format!(", {}", clock::ago(at, self.now)));
        match (self.status.phase, self.status.interrupted) {
            (Phase::Idle, _) => "none yet".into(),
            (Phase::Checking, false) => "a run asks the source now".into(),
            (Phase::Checking, true) => format!("the last check was interrupted{at}"),
            (Phase::Downloading, false) => format!("downloading {to} now"),
            (Phase::Downloading, true) => {
                format!("the download of {to} was interrupted{at}; the next run continues it")
            }
            (Phase::Staged, _) => format!("{to} is staged{at}"),
            (Phase::Activated, _) if !self.is_tried() => format!("{to} boots next, on trial{at}"),
            (Phase::Activated | Phase::Verifying, _) => {
                format!("{to} is on trial{at}; the health run commits or reverts it")
            }
            (Phase::Success, _) => format!("{to} was committed{at}"),
            (Phase::RolledBack, _) => format!("{to} {}{at}", self.left()),
            (Phase::Failed, _) => format!("the update to {to} failed{at}"),
        }
    }

    /// How the release was left. An earlier agent wrote no outcome.
    fn left(&self) -> &'static str {
        match &self.status.outcome {
            Some(Recorded::Known(TrialOutcome::Failed)) => "failed its trial and was reverted",
            Some(Recorded::Known(TrialOutcome::NotStarted)) => "was not started",
            Some(Recorded::Known(TrialOutcome::NotJudged)) => "was not judged, and was reverted",
            Some(Recorded::Known(TrialOutcome::Withdrawn)) => "was withdrawn, because the data could not be saved",
            _ => "was left or reverted",
        }
    }

    fn next_look(&mut self) {
        if let Some(window) = &self.status.window {
            let words = match (window.open, window.opens_at) {
                (true, _) => format!("{}, open now", window.spans),
                (false, Some(at)) => format!("{}, opens {}", window.spans, clock::shown(at)),
                (false, None) => format!("{}, does not open", window.spans),
            };
            self.screen.line("window:", &words);
        }
        if let Some(until) = &self.status.not_before {
            let words = format!("not before {}, because of a Retry-After of the server", clock::plain(until));
            self.screen.line("next look:", &words);
        } else if let Some(waiting) = &self.status.waiting {
            self.screen.line("next wave:", &format!("{} ({})", clock::shown(waiting.until), waiting.message));
        }
    }

    /// Epoch, keys, freshness and failed releases, if there is anything to see.
    fn trust(&mut self) {
        if let Some(freshness) = &self.status.freshness {
            match freshness.word {
                FreshnessVerdict::Fresh => self.screen.line("latest:", &freshness.to_string()),
                _ => self.screen.toned("latest:", Tone::Held, &freshness.to_string()),
            }
        }
        if !self.status.revoked_keys.is_empty() {
            self.screen.line("revoked keys:", &self.status.revoked_keys.join(", "));
        }
        for failed in &self.status.failed {
            let words = if self.details { failed.clone() } else { shortened(failed) };
            self.screen.toned("failed:", Tone::Bad, &words);
        }
    }

    /// The kernel command line, a line for each origin of its words.
    fn command_line(&mut self, booted: &Booted) {
        let Some(origins) = &booted.kernel_command_line else { return };
        let release = origins.release.as_deref().unwrap_or("none");
        let parts = [("by loader:", &*origins.loader), ("by release:", release), ("by device:", &origins.device)];
        for (label, words) in parts {
            self.screen.line(label, &text::escape(words));
        }
    }

    /// The same facts in the terms of the slot protocol, and the places of everything.
    fn details(&mut self) {
        if let Some(booted) = &self.status.booted {
            let Booted { slot, known, .. } = booted;
            let trial = booted.trial.as_ref().map_or(String::new(), |trial| format!(", trial {trial}"));
            self.screen.line("booted:", &format!("slot {slot} ({known}){trial}"));
            self.command_line(booted);
        }
        for slot in &self.status.slots {
            let complete = if slot.complete { "complete" } else { "incomplete" };
            let state = slot.state.map_or("unknown", SlotState::as_str);
            let version = or_unknown(slot.version.as_ref());
            let words = format!("{state}, {complete}, version {version} in {}", slot.place);
            self.screen.line(&format!("slot {}:", slot.slot), &words);
        }
        if let Some(env) = &self.status.environment {
            let damage = env.damage.as_ref().map_or(String::new(), |damage| format!(": {damage}"));
            self.screen.line("environment:", &format!("{}{damage} ({})", env.kind, env.place));
        }
        if let Some(next) = &self.status.next_boot {
            let slot = next.slot.as_ref().map_or("nothing".into(), |slot| format!("slot {slot}"));
            self.screen.line("next boot:", &format!("{slot} ({})", next.reason));
        }
        if let Some(safety) = &self.status.safety {
            self.screen.line("on a hang:", &safety.words());
            let shown = self.status.link_shown.as_deref().map(clock::plain);
            self.screen.line("env link:", &shown.unwrap_or_else(|| "not yet, the next trial shows it".into()));
        }
        if let Some(loader) = &self.status.loader {
            self.screen.line("loader file:", &loader.words());
        }
        if let Some(data) = &self.status.data {
            self.screen.line("next data:", &data.words());
        }
        let phase = super::with_outcome(self.status.phase.as_str(), self.status.outcome.as_ref());
        self.screen.line("phase:", &format!("{phase}, attempt {}", self.status.attempt_count));
        self.screen.line("agent:", self.status.agent);
    }
}
