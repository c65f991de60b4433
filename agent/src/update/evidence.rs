//! Evidence of a trial: the activation makes room for it, health runs of the trial add their lines, and the last good system
//! puts it into the record of the attempt.

use std::path::Path;

use bootenv::protocol::{TRIES, View};

use crate::base::words::Recorded;
use crate::device::evidence::{Announced, Stage, Trace, Traces, tail};
use crate::device::health::Check;
use crate::state::history::TrialOutcome;
use crate::state::records::{CheckRun, DataRun, Evidence, Try};
use crate::state::state::Trial;
use crate::update::data::{self, StepReport};
use crate::update::trial::{HealthReport, Verdict};
use crate::update::update::Update;

/// Longest text of a log or a panic in a record, in bytes. The record itself has a bound, too.
const TEXT_BYTES: usize = 48 * 1024;

/// Lines at the head of a log: what the boot did before it.
#[must_use]
pub fn first_lines(state: &Path) -> Vec<String> {
    data::done(state).map(|step| line(&step)).into_iter().collect()
}

/// `data checkpoint of kine: 13 KiB, 0 s` or `data back: kine back to ...`: the first word is the deed.
fn line(step: &StepReport) -> String {
    let StepReport { did, message, .. } = step;
    if message.starts_with(did) { format!("data {message}") } else { format!("data {did}: {message}") }
}

/// Adds what the step for the data did.
pub fn add_step(state: &Path, step: &StepReport) {
    Traces::beside(state).say(&line(step));
}

/// Adds the checks of a health run to the log of its try.
pub fn add_checks(traces: &Traces, checks: &[Check]) {
    for check in checks {
        let result = match check {
            Check { passed: true, .. } => "passed",
            Check { unknown: true, .. } => "unknown",
            Check { wanted: true, .. } => "warned",
            _ => "failed",
        };
        // A name is one word here.
        let name = check.name.replace(' ', "_");
        traces.say(&format!("check {name} {result} {}", check.message));
        if !check.output.is_empty() {
            traces.say(&format!("output {name} {}", check.output));
        }
    }
}

/// Adds the verdict of a health run, which ends the log.
pub fn add_verdict(traces: &Traces, report: &HealthReport) {
    if matches!(report.verdict, Verdict::Committed | Verdict::Reverted) {
        traces.end(&report.message);
    }
}

impl Update<'_> {
    /// Makes room for the evidence of a trial. No trial is refused for the sake of it.
    pub(super) fn announce_evidence(&self, trial: &Trial) {
        let attempt = self.records.state.attempt.id.clone();
        let announced = Announced { trial: trial.id, slot: trial.slot, release: trial.identity.release, attempt };
        self.records.traces().announce(&announced).unwrap_or_else(|e| {
            log::warn!("if the trial fails, evidence will be missing: {e}");
        });
    }

    /// Puts the traces of a trial that ended without a commit into the record of its attempt, and deletes them. For a system
    /// whose services run; nothing fails for the sake of it.
    pub(super) fn conclude_evidence(&self) {
        let traces = self.records.traces();
        let (Some(announced), View::Ours(env)) = (traces.announced(), self.boot.env.view()) else { return };
        let trial = announced.trial;
        if env.on_trial().is_some() && env.trial == trial {
            return;
        }
        let tries = TRIES.saturating_sub(env.counter).max(traces.begun(trial));
        let committed = env.success && env.good == announced.slot;
        if !committed && tries > 0 {
            // Before the reboot of a revert, and where the step `evidence` is missing.
            if self.boot.booted.trial == trial {
                return;
            }
            traces.harvest(trial, tries).unwrap_or_else(|e| log::warn!("last words of the kernel are left out: {e}"));
            let facts = self.facts(&announced, &traces.tries(trial)[..usize::from(tries)]);
            if !self.records.put_evidence(&announced.attempt, &facts) {
                return;
            }
        }
        traces.clear().unwrap_or_else(|e| log::warn!("the evidence of trial {trial} is deleted later: {e}"));
    }

    fn facts(&self, announced: &Announced, tries: &[Trace]) -> Evidence {
        // A health run came, and no step `evidence` before it: the logs show nothing of how far a try came.
        let unfollowed = tries.iter().all(|one| one.log.is_empty()) && self.records.was_judged(&announced.attempt);
        let one_try = |trace: &Trace| Try {
            stage: if unfollowed { Stage::NotFollowed } else { trace.stage() }.to_string(),
            ..one_try(trace)
        };
        let missing = "the log of the kernel: a health run came, but the step `evidence` did not run before it";
        let last = |text: fn(&Trace) -> &String| {
            tries.iter().rev().map(text).find(|text| !text.is_empty()).map(|text| tail(text, TEXT_BYTES).to_owned())
        };
        let checked = tries.iter().rev().find(|one| one.said("check").next().is_some());
        let verdict = tries.last().and_then(|one| one.said("verdict").last()).map(ToOwned::to_owned);
        // Where nobody followed, or the bootloader went back by itself.
        let without = || self.records.state.last_error.clone();
        Evidence {
            trial: Some(announced.trial.to_string()),
            slot: Some(announced.slot.to_string()),
            release: Some(announced.release),
            tries: tries.iter().map(one_try).collect(),
            checks: checked.map(checks_of).unwrap_or_default(),
            panic: last(|one| &one.panic),
            log: last(|one| &one.log),
            data: self.data_of(tries),
            verdict: Some(verdict.unwrap_or_else(without)),
            missing: unfollowed.then(|| missing.to_owned()).into_iter().collect(),
            ..Evidence::default()
        }
    }

    fn data_of(&self, tries: &[Trace]) -> Option<DataRun> {
        let withdrawn = self.records.state.outcome.as_ref().and_then(Recorded::known);
        if withdrawn == Some(TrialOutcome::Withdrawn) {
            return Some(DataRun { outcome: "withdrawn".into(), message: self.records.state.last_error.clone() });
        }
        let restored = data::done(self.records.path()).filter(|step| step.did == "back").map(|step| step.message);
        if let Some(message) = restored {
            return Some(DataRun { outcome: "restored".into(), message });
        }
        let said = tries.iter().find_map(|one| one.said("data").find(|line| !line.starts_with("ordinary")))?;
        let (did, rest) = said.split_once(' ')?;
        let (outcome, message) = match did.strip_suffix(':') {
            Some(did) => (did, rest),
            None if did == "checkpoint" => ("taken", said),
            None => (did, said),
        };
        Some(DataRun { outcome: outcome.to_owned(), message: message.to_owned() })
    }
}

fn one_try(trace: &Trace) -> Try {
    let by = [("counter", true), ("log", !trace.log.is_empty()), ("panic", !trace.panic.is_empty())];
    Try {
        number: trace.number,
        stage: trace.stage().to_string(),
        shown_by: by.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()).collect(),
        seconds: trace.seconds(),
    }
}

/// The last result of each check.
fn checks_of(trace: &Trace) -> Vec<CheckRun> {
    let mut all: Vec<CheckRun> = vec![];
    for (name, rest) in trace.said("check").filter_map(|line| line.split_once(' ')) {
        let (result, message) = rest.split_once(' ').unwrap_or((rest, ""));
        let check = CheckRun {
            name: name.to_owned(),
            passed: result == "passed",
            message: message.to_owned(),
            output: String::new(),
        };
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = check,
            None => all.push(check),
        }
    }
    for (name, output) in trace.said("output").filter_map(|line| line.split_once(' ')) {
        if let Some(check) = all.iter_mut().find(|check| check.name == name) {
            check.output = output.replace("\\n", "\n");
        }
    }
    all
}
