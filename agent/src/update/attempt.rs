//! The record of a run: which failures end an attempt, and what is skipped, counted and kept.

use chrono::{DateTime, Utc};

use crate::base::error::{Error, Exit, Reason, Result};
use crate::config::{Auto, Config};
use crate::device::boot::Boot;
use crate::policy::gate::Lifted;
use crate::state::phase::Phase;
use crate::state::records::AskedBy;
use crate::state::state::{self, Outcome};
use crate::update::records::LockedRecords;
use crate::update::unattended::{self, Done};
use crate::update::update::{ApplyReport, Update};

/// The kind of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// An attempt at an update.
    Attempt,
    /// The end of an attempt: an activation.
    Activation,
    /// A question, which is no attempt.
    Question,
}

/// The outcome of a run that went well, and why it did not do more.
pub trait Ended {
    /// Outcome and reason.
    fn outcome(&self) -> (Outcome, Option<Reason>);

    /// True if a source was asked, so that an earlier Retry-After is over.
    fn asked(&self) -> bool {
        true
    }
}

impl Ended for ApplyReport {
    fn outcome(&self) -> (Outcome, Option<Reason>) {
        (self.outcome, None)
    }
}

impl Ended for Done {
    fn asked(&self) -> bool {
        !matches!(self, Self::NoStick)
    }

    fn outcome(&self) -> (Outcome, Option<Reason>) {
        match self {
            Self::Checked(checked) => (checked.verdict, checked.reason),
            Self::Applied(applied) => applied.outcome(),
            Self::NoStick => (Outcome::UpToDate, None),
        }
    }
}

/// The work of the timer: one attempt with its record, then the tasks that no update may fail for.
///
/// # Errors
/// Those of [`unattended::run`], and of `find`.
pub fn by_timer(
    config: &Config,
    records: &mut LockedRecords,
    find: impl FnOnce() -> Result<Boot>,
    clock: &dyn Fn() -> DateTime<Utc>,
) -> Result<Done> {
    records.asked_by(AskedBy::Timer);
    let called = if config.auto == Auto::Check { Called::Question } else { Called::Attempt };
    let mut boot = None;
    let ran = recorded(records, called, clock, |records| unattended::run(config, boot.insert(find()?), records, clock));
    if let Some(boot) = &mut boot {
        let failure = ran.as_ref().err().map(Error::exit);
        let mut update = Update { config, boot, records, lifted: Lifted::default(), now: clock() };
        update.send_events();
        update.report_node();
        // Also where the source is gone: a slot to fall back to counts most then. Not without room for the result: each run
        // would read both slots again.
        if failure != Some(Exit::CannotWrite) {
            update.scrub(failure != Some(Exit::Unavailable));
        }
    }
    ran
}

/// Runs `f` and records how it ended, at the time of `clock` then.
///
/// # Errors
/// Those of `f`.
pub fn recorded<T: Ended>(
    records: &mut LockedRecords,
    called: Called,
    clock: &dyn Fn() -> DateTime<Utc>,
    f: impl FnOnce(&mut LockedRecords) -> Result<T>,
) -> Result<T> {
    let before = records.state.attempt.id.clone();
    let result = f(records);
    match &result {
        Ok(done) => succeeded(records, done, clock()),
        Err(error) => failed(records, called, Failed { before: &before, error, now: clock() }),
    }
    result
}

/// Records a run that failed before it could begin.
pub fn failed_early(records: &mut LockedRecords, called: Called, error: &Error) {
    let before = records.state.attempt.id.clone();
    failed(records, called, Failed { before: &before, error, now: Utc::now() });
}

/// Records that the restart into an activated trial was put off: the attempt goes on with the next one.
pub fn put_off(records: &mut LockedRecords, error: &Error) {
    let now = Utc::now();
    records.state.ran_into(error, now);
    records.state.put_off(error, now);
    records.record_failure(error);
    if let Err(error) = records.save() {
        log::error!("{error}");
    }
}

fn succeeded(records: &mut LockedRecords, done: &impl Ended, now: DateTime<Utc>) {
    let (outcome, reason) = done.outcome();
    records.state.ran(outcome, reason, now);
    if done.asked() {
        records.state.not_before = None;
    }
    if let Err(error) = records.save() {
        log::error!("{error}");
    }
}

/// The end of a run that failed.
struct Failed<'a> {
    /// The attempt of the state before the run.
    before: &'a str,
    error: &'a Error,
    now: DateTime<Utc>,
}

/// A refusal or a failed step ends the attempt; "not now" and a question leave the phase as it is. A wrong command line is no
/// run at all.
fn failed(records: &mut LockedRecords, called: Called, Failed { before, error, now }: Failed<'_>) {
    if error.exit() == Exit::Usage {
        return;
    }
    let state = &mut records.state;
    state.ran_into(error, now);
    if let Some(until) = unattended::not_before(error, now) {
        state.not_before = Some(until);
    }
    if called == Called::Question || error.exit() == Exit::NotNow {
        state.skip(error, now);
    } else {
        // A failure before the start is an attempt of its own, not the end of the one before.
        let goes_on = called == Called::Activation && matches!(state.phase(), Phase::Staged | Phase::Failed);
        if state.attempt.id == before && !goes_on {
            state.begin(format!("{:08x}", state::random().unwrap_or_default()), now);
        }
        state.fail(error, now);
        records.record_failure(error);
    }
    if let Err(second) = records.save()
        && error.message != second.message
    {
        log::error!("{second}");
    }
}
