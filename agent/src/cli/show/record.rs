//! `history --last` for people: what the attempt was, what failed, where, and its last words.

use chrono::Utc;

use crate::base::console::Terminal;
use crate::base::text;
use crate::base::words::Recorded;
use crate::cli::show::screen::{Screen, Tone};
use crate::schedule::clock;
use crate::state::history::TrialOutcome;
use crate::state::phase::Phase;
use crate::state::records::{CheckRun, Evidence, HookRun, Record, Step, Try};

/// Lines of the kernel log, of a panic and of an output that are shown without `-v`.
const LINES: usize = 12;

/// The last attempt in full. `whole`: with every line of logs and outputs.
pub(in crate::cli) fn record(record: Option<&Record>, terminal: Terminal, whole: bool) -> String {
    let Some(record) = record else { return "no attempt yet\n".into() };
    let mut report = Report { screen: Screen::new(terminal), lines: if whole { usize::MAX } else { LINES } };
    report.headline(record);
    report.screen.part();
    report.attempt(record);
    if !record.steps.is_empty() {
        report.screen.part();
        report.steps(&record.steps);
    }
    if let Some(evidence) = &record.evidence {
        report.screen.part();
        report.evidence(evidence);
    }
    report.screen.finish()
}

struct Report {
    screen: Screen,
    lines: usize,
}

/// The version of a release, which may not be known.
fn known(version: &str) -> String {
    if version.is_empty() { "an unknown release".into() } else { text::escape(version) }
}

impl Report {
    fn headline(&mut self, record: &Record) {
        let entry = &record.entry;
        let to = known(&entry.attempt.to_version);
        let outcome = entry.outcome.as_ref().and_then(Recorded::known);
        let (tone, word, rest) = match (entry.phase, outcome) {
            (Phase::Success, _) if record.is_rollback() => (Tone::Good, "rolled back", format!("{to} is committed")),
            (Phase::Success, _) => (Tone::Good, "succeeded", format!("{to} is committed")),
            (Phase::Failed, _) => (Tone::Bad, "failed", format!("the update to {to} ended before its trial")),
            (Phase::RolledBack, Some(TrialOutcome::Failed)) => (Tone::Bad, "failed", format!("{to} failed its trial")),
            (Phase::RolledBack, Some(TrialOutcome::Withdrawn)) => {
                (Tone::Held, "withdrawn", format!("the data could not be saved before the trial of {to}"))
            }
            (Phase::RolledBack, Some(TrialOutcome::NotStarted)) => {
                (Tone::Held, "not started", format!("no boot of {to} was seen"))
            }
            (Phase::RolledBack, Some(TrialOutcome::NotJudged)) => {
                (Tone::Held, "not judged", format!("no health run could judge {to}"))
            }
            (Phase::RolledBack, _) => (Tone::Held, "taken back", format!("the activation of {to}")),
            (phase, _) => (Tone::Held, phase.as_str(), format!("{to}, no outcome yet")),
        };
        let word = self.screen.paint(tone, word);
        self.screen.plain(&format!("{word}: {rest}"));
    }

    fn attempt(&mut self, record: &Record) {
        let entry = &record.entry;
        let now = Utc::now();
        if let Some(at) = entry.updated_at {
            self.screen.line("ended:", &clock::ago(at, now));
        }
        if let Some(at) = entry.attempt.started_at {
            self.screen.line("started:", &clock::ago(at, now));
        }
        if let Some(who) = &record.asked_by {
            self.screen.line("asked by:", &text::escape(&who.to_string()));
        }
        let from = known(&entry.attempt.from_version);
        self.screen.line("update:", &format!("{from} to {}", known(&entry.attempt.to_version)));
        if let Some(release) = entry.attempt.to_release {
            self.screen.line("release:", &release.to_string());
        }
        if entry.times > 1 {
            self.screen.line("times:", &format!("{} in a row", entry.times));
        }
        // The finding says it with its code.
        let said = record.findings.last().is_some_and(|last| last.message == entry.error);
        if !entry.error.is_empty() && !said {
            self.screen.toned("error:", Tone::Bad, &text::escape(&entry.error));
        }
        for finding in &record.findings {
            let (reason, message) = (text::escape(&finding.reason.to_string()), text::escape(&finding.message));
            self.screen.toned("finding:", Tone::Bad, &format!("{} {reason}: {message}", finding.exit_code));
            self.screen.line("  next:", &text::escape(&finding.remedy));
        }
    }

    fn steps(&mut self, steps: &[Step]) {
        for (n, step) in steps.iter().enumerate() {
            let label = if n == 0 { "steps:" } else { "" };
            let name = text::escape(&step.step.to_string());
            self.screen.line(label, &format!("{}  {name}", clock::shown(step.at)));
        }
    }

    fn evidence(&mut self, evidence: &Evidence) {
        if let Some(verdict) = &evidence.verdict {
            self.screen.line("verdict:", &text::escape(verdict));
        }
        if let Some(trial) = &evidence.trial {
            let slot = evidence.slot.as_ref().map_or(String::new(), |slot| format!(" in slot {}", text::escape(slot)));
            self.screen.line("trial:", &format!("{}{slot}", text::escape(trial)));
        }
        for Try { number, stage, shown_by, seconds } in &evidence.tries {
            let span = seconds.map_or(String::new(), |seconds| format!(", after {}", clock::span(seconds)));
            let by = if shown_by.is_empty() { String::new() } else { format!(" (by {})", shown_by.join(", ")) };
            self.screen.line(&format!("try {number}:"), &text::escape(&format!("{stage}{span}{by}")));
        }
        for CheckRun { name, passed, message, output } in &evidence.checks {
            let (tone, word) = if *passed { (Tone::Good, "passed") } else { (Tone::Bad, "failed") };
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            self.screen.toned("check:", tone, &text::escape(&format!("{word}: {name}{message}")));
            self.tail("  output:", output);
        }
        for HookRun { step, name, ended, output } in &evidence.hooks {
            self.screen.line("hook:", &text::escape(&format!("{step}/{name}: {ended}")));
            self.tail("  output:", output);
        }
        if let Some(data) = &evidence.data {
            self.screen.line("data:", &text::escape(&format!("{}: {}", data.outcome, data.message)));
        }
        self.tail("panic:", evidence.panic.as_deref().unwrap_or_default());
        self.tail("last words:", evidence.log.as_deref().unwrap_or_default());
        for missing in &evidence.missing {
            self.screen.toned("missing:", Tone::Held, &text::escape(missing));
        }
    }

    /// The end of a text of several lines.
    fn tail(&mut self, label: &str, text: &str) {
        let all: Vec<_> = text.lines().collect();
        for (n, line) in all[all.len().saturating_sub(self.lines)..].iter().enumerate() {
            self.screen.line(if n == 0 { label } else { "" }, &text::escape(line));
        }
    }
}
