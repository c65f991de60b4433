//! An update that nobody watches: as far as the settings allow, and no further.

use chrono::{DateTime, TimeDelta, Utc};

use crate::base::error::{Error, Result};
use crate::config::{Auto, Config};
use crate::device::boot::Boot;
use crate::policy::gate::{self, Lifted};
use crate::policy::rules;
use crate::schedule::clock::Clock;
use crate::state::state;
use crate::state::state::Outcome;
use crate::update::apply::{self, Applied, Apply, Checked};
use crate::update::memory::Memory;

/// What a run did.
#[derive(Debug)]
pub enum Done {
    /// With `auto=check`.
    Checked(Box<Checked>),
    /// With the other ones.
    Applied(Applied),
}

/// Asks, stages or activates, as `auto` says. No rule can be lifted here: whoever wants that watches.
///
/// `clock` is asked again after a long download: what may not start outside the window may not be activated there either.
///
/// # Errors
/// Those of `check`, `apply` and `activate`; 75 while a server wants to be left alone.
pub fn run(config: &Config, boot: &mut Boot, memory: &mut Memory, clock: &dyn Fn() -> DateTime<Utc>) -> Result<Done> {
    may_ask(memory.state.not_before, clock())?;
    memory.state.identify()?;
    let lifted = Lifted::default();
    if config.auto == Auto::Check {
        let checked = apply::check(config, boot, memory, lifted, clock())?;
        memory.keep_look(&Clock::system(clock(), memory.trust.last_seen), checked.seen.as_ref())?;
        return Ok(Done::Checked(Box::new(checked)));
    }
    let staged = apply::apply(config, boot, memory, Apply::default(), clock())?;
    if config.auto == Auto::Stage || staged.outcome != Outcome::Staged {
        return Ok(Done::Applied(staged));
    }
    let now = clock();
    gate::pass(&[rules::window(config, lifted, &Clock::system(now, memory.trust.last_seen))?])?;
    let activated = apply::activate(config, boot, memory, lifted, now)?;
    Ok(Done::Applied(Applied { written: staged.written, ..activated }))
}

fn may_ask(not_before: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<()> {
    gate::pass(&[rules::not_before(not_before, now)])
}

/// When the server may be asked again after this error: a little later than it wishes, each device by another little, so
/// that a fleet that was sent away together does not come back together.
#[must_use]
pub fn not_before(error: &Error, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let wish = error.retry_after?.min(rules::PAUSE_MAX / 2);
    let chance = f64::from(state::random().unwrap_or_default()) / f64::from(u32::MAX);
    Some(now + TimeDelta::from_std(wish + wish.mul_f64(chance)).unwrap_or_default())
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
