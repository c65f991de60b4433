//! The time, and the trust in it.
//!
//! Devices start in 1970, or at whatever a dead battery left. Three sources are compared: the system's clock, the date of
//! this build, and the latest time that this device ever knew. Only the first can say how late it is; the other two say
//! that it cannot be earlier.
//!
//! A time server is no authority. It may set the clock back to make an expired statement valid again, so the time for all
//! that expires ([`Clock::for_expiry`]) never goes back.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::base::error::{Error, Reason, Result};
use crate::base::sys;

/// No build of this source is older: 2026-11-01T00:00:00Z, in seconds since 1970. Raised with a release.
const SOURCE_DATE: i64 = 1_793_491_200;
/// How far a right clock may be behind the latest time that this device knew, and a publisher's clock ahead of this one.
pub const TOLERANCE: TimeDelta = TimeDelta::days(1);
/// File that systemd-timesyncd makes once it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// The time of one run, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Time of the system's clock.
    pub shown: DateTime<Utc>,
    /// True if a program sets that clock by a better one.
    pub synchronised: bool,
    /// The latest time that this device knew: of a synchronised clock, or of a verified freshness statement.
    pub last_seen: Option<DateTime<Utc>>,
}

/// When this program was built: `SOURCE_DATE_EPOCH` of the build, as reproducible builds have it, and never before its
/// source was written. No clock can be right that is behind it.
#[must_use]
pub fn build_date() -> DateTime<Utc> {
    let epoch = option_env!("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    DateTime::from_timestamp(epoch.unwrap_or(SOURCE_DATE).max(SOURCE_DATE), 0).unwrap_or_default()
}

/// A span of time for people, in the largest unit that keeps it to two digits: `45 s`, `12 min`, `30 h`, `5 d`.
#[must_use]
pub fn span(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds / 60),
        6_000..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A time for people, to the minute: `2026-11-28 02:00 UTC`.
#[must_use]
pub fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// The same for a time in the form of RFC 3339; any other text as it is.
#[must_use]
pub fn plain(time: &str) -> String {
    DateTime::parse_from_rfc3339(time).map_or_else(|_| time.to_owned(), |time| shown(time.to_utc()))
}

/// A time in the past, with its age: `2026-11-28 02:00 UTC (3 h ago)`. By a clock that was set back it may be ahead.
#[must_use]
pub fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match u64::try_from((now - time).num_seconds()) {
        Ok(seconds) => format!("{} ({} ago)", shown(time), span(seconds)),
        Err(_) => shown(time),
    }
}

impl Clock {
    /// The clock of this system, which shows `shown`. The kernel knows whether it is steered (`adjtimex`), as every NTP
    /// client reports it, except chrony without `rtcsync`.
    #[must_use]
    pub fn system(shown: DateTime<Utc>, last_seen: Option<DateTime<Utc>>) -> Self {
        let synchronised = sys::clock_is_synchronised() || Path::new(TIMESYNC).exists();
        Self { shown, synchronised, last_seen }
    }

    /// A synchronised clock that shows `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self { shown: now, synchronised: true, last_seen: None }
    }

    /// The best guess, for records: never before the build, and for a clock that nothing sets not before the latest time
    /// known.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.believed().unwrap_or_else(|_| self.shown.max(self.floor()))
    }

    /// The time, for decisions that depend on the time of day or on how late it is: windows and waves.
    ///
    /// A synchronised clock is believed unless it is behind the build. One that nothing sets must not be behind the latest
    /// time known either, by more than [`TOLERANCE`]: on a device without NTP the hardware clock is all there is.
    ///
    /// # Errors
    /// 75 `clock` when it must be wrong.
    pub fn believed(&self) -> Result<DateTime<Utc>> {
        let was_set_back = self.set_back().is_some() && !self.synchronised;
        if self.shown >= build_date() && !was_set_back {
            return Ok(self.shown);
        }
        let shown = self.shown.format("%Y-%m-%dT%H:%M:%SZ");
        let why = if self.shown < build_date() {
            "the build date of this program"
        } else {
            "the last known time of \
            this device"
        };
        Err(Error::new(Reason::Clock, format!("the clock must be wrong: it shows {shown}, before {why}"))
            .remedy("Set the clock, or let NTP do it."))
    }

    /// The time by which something is over that expires. It never goes back: the clock's, or the latest time known.
    ///
    /// # Errors
    /// 75 `clock` when the clock must be wrong, or was set back by more than [`TOLERANCE`]: then the time is not known.
    pub fn for_expiry(&self) -> Result<DateTime<Utc>> {
        if let Some(last_seen) = self.set_back() {
            let at = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ");
            let (shown, known) = (at(self.shown), at(last_seen));
            let message = format!("the clock was set back: it shows {shown}, and this device knew {known} before");
            return Err(Error::new(Reason::Clock, message)
                .remedy("Correct the clock. If it is right now, run `kubesolo-update trust reset-time`."));
        }
        Ok(self.believed()?.max(self.last_seen.unwrap_or_default()))
    }

    /// The latest time known, if the clock is behind it by more than [`TOLERANCE`].
    #[must_use]
    pub fn set_back(&self) -> Option<DateTime<Utc>> {
        self.last_seen.filter(|last_seen| self.shown < *last_seen - TOLERANCE)
    }

    /// True if a document can have been made at this time: not further ahead of the believed clock than [`TOLERANCE`].
    /// Measured by the clock alone: by what is known, each statement could bring the next day.
    #[must_use]
    pub fn may_be_past(&self, time: DateTime<Utc>) -> bool {
        self.believed().is_ok_and(|now| time <= now + TOLERANCE)
    }

    /// The time that is to be kept for later runs, when it says something new: once a day, which spares the medium, and as
    /// soon as `expired` is over, the end of a statement. It only goes up.
    #[must_use]
    pub fn to_keep(&self, expired: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let new = self.synchronised && self.believed().is_ok();
        let moved = |last: DateTime<Utc>| {
            let is_over = expired.is_some_and(|end| last <= end && end < self.shown);
            is_over || (self.shown - last).num_hours() >= 24
        };
        (new && self.last_seen.is_none_or(moved)).then_some(self.shown)
    }

    fn floor(&self) -> DateTime<Utc> {
        let last_seen = self.last_seen.filter(|_| !self.synchronised);
        build_date().max(last_seen.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn clock(days: i64, synchronised: bool, last_seen: Option<i64>) -> Clock {
        let at = |days| build_date() + TimeDelta::days(days);
        Clock { shown: at(days), synchronised, last_seen: last_seen.map(at) }
    }

    fn believed(clock: Clock) -> bool {
        match clock.believed() {
            Ok(time) => time == clock.shown && clock.now() == time,
            Err(e) => {
                assert_eq!(e.reason, Reason::Clock);
                assert!(clock.now() >= build_date() && clock.now() > clock.shown);
                false
            }
        }
    }

    #[test]
    fn no_clock_is_believed_that_is_behind_the_build() {
        for synchronised in [true, false] {
            assert!(!believed(clock(-1, synchronised, None)));
            assert!(!believed(clock(-1, synchronised, Some(-2))));
            assert!(believed(clock(0, synchronised, None)));
        }
        assert_eq!(build_date().timestamp() % 60, 0);
    }

    #[test]
    fn only_a_synchronised_clock_goes_back_behind_the_last_time_seen() {
        assert!(!believed(clock(10, false, Some(12))));
        assert!(believed(clock(10, false, Some(11))), "within a day");
        assert!(believed(clock(10, true, Some(12))));
        assert_eq!(clock(10, false, Some(12)).now(), clock(12, false, None).shown);
    }

    #[test]
    fn the_time_for_what_expires_never_goes_back() {
        let expiry = |clock: Clock| clock.for_expiry().map_err(|error| error.reason);
        for synchronised in [true, false] {
            let known = clock(11, synchronised, None).shown;
            assert_eq!(expiry(clock(11, synchronised, None)), Ok(known));
            assert_eq!(expiry(clock(11, synchronised, Some(3))), Ok(known));
            assert_eq!(expiry(clock(10, synchronised, Some(11))), Ok(known), "a clock may be a day behind");
            assert_eq!(expiry(clock(9, synchronised, Some(11))), Err(Reason::Clock));
            assert_eq!(expiry(clock(-1, synchronised, None)), Err(Reason::Clock));
        }
        let error = clock(9, true, Some(11)).for_expiry().unwrap_err();
        assert!(error.message.contains("set back") && error.remedy.contains("trust reset-time"), "{error:?}");
    }

    #[test]
    fn nothing_was_made_more_than_a_day_ahead_of_the_clock_itself() {
        assert!(clock(10, true, None).may_be_past(clock(11, true, None).shown));
        let far = clock(12, true, None).shown;
        assert!(!clock(10, true, None).may_be_past(far));
        assert!(!clock(10, true, Some(11)).may_be_past(far), "or statement after statement would bring the next day");
        assert!(
            !clock(-1, true, None).may_be_past(clock(-9, true, None).shown),
            "a clock that must be wrong proves nothing"
        );
    }

    #[test]
    fn the_last_time_seen_is_that_of_a_synchronised_clock() {
        assert_eq!(clock(400, false, None).to_keep(None), None, "a wrong hardware clock would lock the device out");
        assert_eq!(clock(-1, true, None).to_keep(None), None);
        assert_eq!(clock(3, true, None).to_keep(None), Some(clock(3, true, None).shown));
        assert_eq!(clock(3, true, Some(9)).to_keep(None), None, "it never goes back");
        assert_eq!(clock(9, true, Some(3)).to_keep(None), Some(clock(9, true, None).shown));
        assert_eq!(clock(3, true, Some(3)).to_keep(None), None, "not at every run");
        let hours = |n| clock(3, true, None).shown + TimeDelta::hours(n);
        let later = Clock { shown: hours(2), ..clock(3, true, Some(3)) };
        assert_eq!(later.to_keep(Some(hours(1))), Some(hours(2)), "what expired stays expired");
        assert_eq!(later.to_keep(Some(hours(-1))), None, "which is known already");
        assert_eq!(later.to_keep(Some(hours(3))), None, "and what did not expire needs nothing");
        assert_eq!(Clock { synchronised: false, ..later }.to_keep(Some(hours(1))), None);
    }
}
