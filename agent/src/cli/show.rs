//! Results of the commands, for people.

mod changes;
mod check;
mod record;
mod screen;
mod status;

use std::fmt::Write as _;
use std::time::Duration;

pub(super) use self::check::checked;
pub(super) use self::record::record;
pub(super) use self::status::status;

use self::screen::{Screen, Tone};
use crate::base::console::Terminal;
use crate::base::console::progress::size;
use crate::base::text;
use crate::base::words::Recorded;
use crate::config::report::{Checked as SettingsChecked, Effective};
use crate::device::health::Check;
use crate::report::doctor::{Finding, Findings, Verdict as Severity};
use crate::schedule::clock;
use crate::state::history::{History, TrialOutcome};
use crate::state::intake::{Intake, IntakeVerdict};
use crate::state::phase::Phase;
use crate::state::receipt::{Receipt, SignedReceipt};
use crate::state::state::Outcome;
use crate::update::trial::{HealthReport, Verdict};
use crate::update::update::{ApplyReport, Costs, Expected};

/// A phase, and how the trial ended that led to it, if the phase does not say so itself.
fn with_outcome(phase: &str, outcome: Option<&Recorded<TrialOutcome>>) -> String {
    match outcome {
        None | Some(Recorded::Known(TrialOutcome::Committed | TrialOutcome::Failed)) => phase.to_owned(),
        Some(other) => format!("{phase} ({})", text::escape(&other.to_string())),
    }
}

/// Records of bundles, one line each.
pub(super) fn intakes(all: &[Intake]) -> String {
    let mut out = String::new();
    for Intake { id, at, verdict, release, source, .. } in all {
        let version = release.as_ref().map_or("no release".into(), |release| text::escape(&release.version));
        let (at, verdict) = (clock::shown(*at), text::escape(&verdict.to_string()));
        let _ = writeln!(out, "{id}  {at}  {verdict:<8}  {version}  {}", text::escape(source));
    }
    if out.is_empty() { "no bundle was examined yet\n".into() } else { out }
}

/// A record with all findings.
pub(super) fn intake(intake: &Intake, terminal: Terminal) -> String {
    let mut screen = Screen::new(terminal);
    let verdict = match intake.verdict.known() {
        Some(IntakeVerdict::Accepted) => screen.paint(Tone::Good, "accepted"),
        _ => screen.paint(Tone::Bad, "rejected"),
    };
    let bytes = intake.size.map_or(String::new(), |bytes| format!(" ({})", size(bytes)));
    screen.plain(&format!("{verdict}: {}{bytes}", text::escape(&intake.source)));
    screen.line("record:", &format!("{} of {}", intake.id, clock::shown(intake.at)));
    if let Some(release) = &intake.release {
        screen.line("release:", &format!("{} {}", text::escape(&release.version), release.identity.release));
        let by = if release.signed_by.is_empty() { "not proven".into() } else { release.signed_by.join(", ") };
        screen.line("signed:", &text::escape(&by));
    }
    for finding in &intake.findings {
        let tone = if finding.rejects() { Tone::Bad } else { Tone::Held };
        let reason = text::escape(&finding.reason.to_string());
        screen.toned("finding:", tone, &format!("{} {reason}: {}", finding.exit_code, text::escape(&finding.message)));
        screen.line("  next:", &text::escape(&finding.remedy));
    }
    screen.finish()
}

/// Past attempts. An attempt that no run is `under_way` with ended without an outcome.
pub(super) fn history(history: &History, under_way: bool, terminal: Terminal) -> String {
    let mut screen = Screen::new(terminal);
    for entry in &history.attempts {
        let at = entry.updated_at.map_or("unknown time".into(), clock::shown);
        let known = |version: &str| if version.is_empty() { "unknown".to_owned() } else { text::escape(version) };
        let times = if entry.times > 1 { format!(", {} times", entry.times) } else { String::new() };
        let error = if entry.error.is_empty() { String::new() } else { format!(": {}", text::escape(&entry.error)) };
        let phase = match (entry.phase, under_way) {
            (Phase::Checking | Phase::Downloading, false) => "interrupted",
            (phase, _) => phase.as_str(),
        };
        let (from, to) = (known(&entry.attempt.from_version), known(&entry.attempt.to_version));
        let outcome = with_outcome(phase, entry.outcome.as_ref());
        let bytes = entry.attempt.bytes.map_or(String::new(), |bytes| {
            let here = bytes.reused + bytes.patched;
            let here = if here > 0 { format!(" and had {}", size(here)) } else { String::new() };
            format!(", fetched {}{here}", size(bytes.fetched))
        });
        screen.plain(&format!("{at}  {outcome:<11} {from} to {to}{times}{error}{bytes}"));
    }
    if history.attempts.is_empty() {
        screen.plain("no attempt yet");
    }
    screen.finish()
}

/// One line for each receipt.
pub(super) fn receipts(all: &[SignedReceipt]) -> String {
    let mut out = String::new();
    for receipt in all {
        match receipt.claimed("a receipt") {
            Ok(Receipt { ended_at, outcome, version, trial, .. }) => {
                let (outcome, version) = (text::escape(&outcome.to_string()), text::escape(&version));
                let _ = writeln!(out, "{}  {outcome:<11} {version}, trial {trial}", clock::shown(ended_at));
            }
            Err(error) => log::warn!("{error}"),
        }
    }
    if out.is_empty() { "no receipt yet\n".into() } else { out }
}

pub(super) fn findings(findings: &Findings, terminal: Terminal) -> String {
    let mut screen = Screen::new(terminal);
    for Finding { name, verdict, message } in &findings.0 {
        let (tone, word) = match verdict {
            Severity::Ok => (Tone::Good, "ok"),
            Severity::Warn => (Tone::Held, "warn"),
            Severity::Fail => (Tone::Bad, "FAIL"),
        };
        screen.item(tone, word, &format!("{name:<13} {message}"));
    }
    let warnings = count(findings.count(Severity::Warn), "warning");
    screen.plain(&format!("{} failed, {warnings}", findings.count(Severity::Fail)));
    screen.finish()
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Summary of a download that was not begun.
fn expected(expected: &Expected) -> String {
    let Expected { fetched, reused, patched } = expected;
    let mut parts = vec![format!("would fetch {}", size(*fetched))];
    if *reused > 0 {
        parts.push(format!("copy {} from the booted slot", size(*reused)));
    }
    if *patched > 0 {
        parts.push(format!("make {} with patches", size(*patched)));
    }
    format!("{}\n", parts.join(", "))
}

/// Summary of a download: bytes, time and rate.
fn costs_of(costs: &Costs, took: Duration) -> String {
    let mut parts = vec![];
    if costs.fetched > 0 {
        let seconds = took.as_secs().max(1);
        let (fetched, rate) = (size(costs.fetched), size(costs.fetched / seconds));
        parts.push(format!("fetched {fetched} in {} ({rate}/s)", clock::span(seconds)));
    }
    if costs.reused > 0 {
        parts.push(format!("copied {} from the booted slot", size(costs.reused)));
    }
    if costs.patched > 0 {
        parts.push(format!("made {} with patches", size(costs.patched)));
    }
    let fallbacks: u64 = costs.fallbacks.values().sum();
    if fallbacks > 0 {
        let why: Vec<&str> = costs.fallbacks.keys().copied().collect();
        parts.push(format!("fetched {} against the plan ({})", count(fallbacks as usize, "piece"), why.join(", ")));
    }
    if parts.is_empty() { String::new() } else { format!("{}\n", parts.join(", ")) }
}

/// The line with the next step; none where the command takes it.
pub(super) fn next(step: &str, taken: bool) -> String {
    if taken { String::new() } else { format!("next: {step}\n") }
}

/// The outcome of `apply --dry-run`.
pub(super) fn planned(planned: &ApplyReport, terminal: Terminal) -> String {
    if planned.outcome != Outcome::WouldStage {
        return applied(planned, Duration::ZERO, false);
    }
    let ApplyReport { version, slot, .. } = planned;
    let expected = planned.expected.as_ref().map_or(String::new(), expected);
    let mut screen = Screen::new(terminal);
    planned.changes.iter().for_each(|changes| changes::changes(&mut screen, changes, true));
    let changes = screen.finish();
    format!(
        "would write {version} into slot {slot}; nothing was changed\n{expected}{changes}next: kubesolo-update apply\n"
    )
}

/// The outcome of `apply` or `activate`, which took that long. `restarts`: the command restarts the device.
pub(super) fn applied(applied: &ApplyReport, took: Duration, restarts: bool) -> String {
    let ApplyReport { version, slot, .. } = applied;
    let costs = applied.costs.as_ref().map_or(String::new(), |costs| costs_of(costs, took));
    match applied.outcome {
        Outcome::UpToDate => format!("{version} is running; nothing to do\n"),
        Outcome::Staged => {
            let how = if applied.written { "written into" } else { "already complete in" };
            format!("{version} is {how} slot {slot} and verified\n{costs}next: kubesolo-update activate --reboot\n")
        }
        _ => format!(
            "{version} in slot {slot} boots next, on trial {}\n{costs}{}",
            applied.trial.as_deref().unwrap_or_default(),
            next("reboot; then kubesolo-update healthcheck commits or reverts it", restarts)
        ),
    }
}

/// `restarts`: the command restarts the device.
pub(super) fn health(judged: &HealthReport, checks: &[Check], restarts: bool) -> String {
    let mut out = String::new();
    for check in checks {
        let verdict = match (check.passed, check.wanted) {
            (true, _) => "passed",
            _ if check.unknown => "unknown",
            (false, false) => "failed",
            (false, true) => "failed (optional)",
        };
        let _ = writeln!(out, "{verdict}: {}{}{}", check.name, if check.passed { "" } else { ": " }, check.message);
    }
    let healthy = match (judged.healthy, judged.unknown) {
        (true, _) => "healthy",
        (false, true) => "unknown",
        (false, false) => "unhealthy",
    };
    let _ = writeln!(out, "{healthy}: {}", judged.message);
    let step = match judged.verdict {
        _ if judged.unknown => "make room on the data partition, then kubesolo-update healthcheck",
        Verdict::Reverted => "reboot",
        Verdict::Waiting => "kubesolo-update healthcheck; or end the trial: kubesolo-update rollback",
        Verdict::Committed => "kubesolo-update check",
        Verdict::Settled | Verdict::TakenOver | Verdict::Nothing => "kubesolo-update status",
    };
    out + &next(step, restarts)
}

pub(super) fn settings(settings: &[Effective], explained: bool) -> String {
    let mut out = String::new();
    let longest = |width: fn(&Effective) -> usize| settings.iter().map(width).max().unwrap_or_default();
    let (key, value) = (longest(|one| one.key.len()), longest(|one| one.text().len()));
    for setting in settings {
        if explained {
            let _ = writeln!(out, "# {}", setting.help);
        }
        let place = text::printable(&setting.place.to_string());
        let _ = writeln!(out, "{:<key$}  {:<value$}  {place}", setting.key, setting.text());
    }
    out
}

pub(super) fn settings_checked(checked: &SettingsChecked) -> String {
    let mut out = String::new();
    for problem in &checked.problems {
        let _ = writeln!(out, "{}\n  next: {}", text::printable(&problem.to_string()), problem.remedy);
    }
    let files = if checked.files.is_empty() { "no file, the defaults count".into() } else { checked.files.join(", ") };
    let (settings, problems) = (count(checked.settings, "setting"), count(checked.problems.len(), "problem"));
    let _ = writeln!(out, "{}: {settings}, {problems}", text::printable(&files));
    out
}
