//! An update that nobody watches: as far as the settings allow, and no further.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::base::error::{Error, Result};
use crate::config::{Auto, Config, RemovableBundles};
use crate::device::boot::Boot;
use crate::policy::gate::{self, Lifted};
use crate::policy::rules;
use crate::state::state;
use crate::state::state::Outcome;
use crate::update::check::CheckReport;
use crate::update::records::LockedRecords;
use crate::update::session::Depth;
use crate::update::sticks;
use crate::update::update::{ApplyReport, Update};

/// Result of a run.
#[derive(Debug)]
pub enum Done {
    /// With `auto=check`.
    Checked(Box<CheckReport>),
    /// With the other ones.
    Applied(Box<ApplyReport>),
    /// There is no source but removable media, and none of them has another release than the one that runs.
    NoStick,
}

impl From<ApplyReport> for Done {
    fn from(report: ApplyReport) -> Self {
        Self::Applied(Box::new(report))
    }
}

/// Asks, stages or activates, as `auto` says. No gate can be bypassed here: that takes a person. Removable media come first,
/// where `removable_bundles` permits them.
///
/// `clock` is asked again after a long download: what may not start outside the window may not be activated there either.
///
/// # Errors
/// Those of `check`, `apply` and `activate`; 75 while a server's `Retry-After` is in effect.
pub fn run(
    config: &Config,
    boot: &mut Boot,
    records: &mut LockedRecords,
    clock: &dyn Fn() -> DateTime<Utc>,
) -> Result<Done> {
    let mut update = Update { config, boot, records, lifted: Lifted::default(), now: clock() };
    match sticks::take(&mut update, None, clock, &|update| go(update, clock)) {
        Ok(Some(done)) => return Ok(done),
        Ok(None) if config.source.is_none() && config.removable_bundles != RemovableBundles::No => {
            return Ok(Done::NoStick);
        }
        // Outside the window, the source is not asked either, or only by auto=check.
        Ok(None) => {}
        Err(error) if config.source.is_none() => return Err(error),
        Err(_) => {}
    }
    may_ask(update.records.state.not_before, clock())?;
    update.records.state.identify()?;
    update.expire_data();
    update.release_fleetlock();
    go(&mut update, clock)
}

/// The same with removable media alone, as `removable_bundles` permits: with all of them, or with the device `only`.
///
/// # Errors
/// As for [`run`], and those of the one stick.
pub fn run_sticks(
    config: &Config,
    boot: &mut Boot,
    records: &mut LockedRecords,
    only: Option<&Path>,
    clock: &dyn Fn() -> DateTime<Utc>,
) -> Result<Done> {
    let mut update = Update { config, boot, records, lifted: Lifted::default(), now: clock() };
    let taken = sticks::take(&mut update, only, clock, &|update| go(update, clock))?;
    Ok(taken.unwrap_or(Done::NoStick))
}

/// With the source of the settings, as far as `auto` says.
fn go(update: &mut Update<'_>, clock: &dyn Fn() -> DateTime<Utc>) -> Result<Done> {
    let auto = update.config.auto;
    if auto == Auto::Check {
        let session = update.session();
        let (clock, found) = (session.clock, session.evaluate(Depth::EveryGate)?);
        update.records.keep_look(&clock, found.freshness.as_ref())?;
        update.records.keep_answer(&*found.candidate.source);
        return Ok(Done::Checked(Box::new(CheckReport::of(found, update.config))));
    }
    let staged = update.apply(false)?;
    if auto == Auto::Stage || staged.outcome != Outcome::Staged {
        return Ok(staged.into());
    }
    update.now = clock();
    gate::pass(&[update.session().window()?])?;
    let activated = update.activate()?;
    Ok(ApplyReport { written: staged.written, costs: staged.costs, ..activated }.into())
}

fn may_ask(not_before: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<()> {
    gate::pass(&[rules::not_before(not_before, now)])
}

/// Time before which the server must not be asked again after this error. It is later than the server's Retry-After by a
/// random share, so that the devices of a fleet do not come back together.
#[must_use]
pub fn not_before(error: &Error, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let pause = error.retry_after?.min(rules::PAUSE_MAX / 2);
    let chance = f64::from(state::random().unwrap_or_default()) / f64::from(u32::MAX);
    Some(now + TimeDelta::from_std(pause + pause.mul_f64(chance)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::error::Reason;

    fn asked_to_wait(seconds: u64) -> Error {
        let mut error = Error::new(Reason::RateLimited, "429");
        error.retry_after = Some(Duration::from_secs(seconds));
        error
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_wishes_and_a_little_longer() {
        let now = DateTime::UNIX_EPOCH;
        let at = |seconds| now + TimeDelta::seconds(seconds);
        for _ in 0..100 {
            let until = not_before(&asked_to_wait(600), now);
            assert!((at(600)..=at(1200)).contains(&until.unwrap()));
            assert_eq!(may_ask(until, at(599)).unwrap_err().reason, Reason::NotBefore);
            may_ask(until, at(1200)).unwrap();
        }
        assert_eq!(not_before(&Error::new(Reason::Unreachable, ""), now), None);
        may_ask(None, now).unwrap();
    }

    #[test]
    fn no_server_and_no_clock_lock_a_device_out_for_more_than_a_day() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let until = not_before(&asked_to_wait(u64::MAX), now);
        assert!(until.unwrap() <= now + TimeDelta::hours(24));
        assert!(may_ask(until, now).is_err());
        // The clock went back by years.
        may_ask(until, DateTime::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn devices_that_were_sent_away_together_come_back_apart() {
        let back: std::collections::HashSet<_> =
            (0..50).map(|_| not_before(&asked_to_wait(3600), DateTime::UNIX_EPOCH)).collect();
        assert!(back.len() > 40, "{}", back.len());
    }
}
