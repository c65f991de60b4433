//! The maintenance window: when an update may start.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, DurationRound, TimeDelta, Utc, Weekday};

use crate::base::limits;
use crate::schedule::zone::Zone;

const DAY: u16 = 24 * 60;
/// How far ahead the next opening is looked for. A week is not enough: the only one may fall into an hour that a zone skips.
const LOOK_AHEAD: TimeDelta = TimeDelta::days(15);
const WEEK: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EVERY_DAY: u8 = 0x7f;

/// When an update may start: while a clock on the wall shows a time in one of the spans. No span at all: always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    spans: Vec<Span>,
}

/// From the first minute up to, but not including, the second, on certain days. The second may be the smaller one: the span
/// then wraps midnight, and belongs to the day on which it begins. Equal ones make a span that is never open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// A bit for each day on which it begins, Monday the lowest.
    days: u8,
    /// Minutes after midnight.
    from: u16,
    /// Minutes after midnight; 24:00 is allowed.
    to: u16,
}

impl Span {
    fn contains(self, day: Weekday, minute: u16) -> bool {
        let begins_on = |day: Weekday| self.days & (1 << day.num_days_from_monday()) != 0;
        if self.from <= self.to {
            return begins_on(day) && (self.from..self.to).contains(&minute);
        }
        begins_on(day) && minute >= self.from || begins_on(day.pred()) && minute < self.to
    }
}

impl Window {
    /// Open at any time.
    #[must_use]
    pub fn always() -> Self {
        Self::default()
    }

    /// True if the window is open on this day at this minute of it, `0..1440`.
    #[must_use]
    pub fn contains(&self, day: Weekday, minute: u16) -> bool {
        self.spans.is_empty() || self.spans.iter().any(|span| span.contains(day, minute))
    }

    /// True if it is open at this time in this zone.
    #[must_use]
    pub fn is_open(&self, zone: &Zone, at: DateTime<Utc>) -> bool {
        let (day, minute) = zone.wall_clock(at);
        self.contains(day, minute)
    }

    /// The next minute in which it is open; `None` if it never is.
    #[must_use]
    pub fn opens_at(&self, zone: &Zone, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.is_open(zone, after) {
            return Some(after);
        }
        // Minute by minute: an opening is found by the rule that also decides, whatever the zone's clocks do in between.
        let minute = TimeDelta::minutes(1);
        let first = after.duration_trunc(minute).ok()? + minute;
        (0..LOOK_AHEAD.num_minutes()).map(|n| first + minute * n as i32).find(|at| self.is_open(zone, *at))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.spans.is_empty() {
            return f.write_str("always");
        }
        for (n, Span { days, from, to }) in self.spans.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            if *days != EVERY_DAY {
                let names = (0..7).filter(|day| days & (1 << day) != 0).map(|day| WEEK[day]);
                write!(f, "{} ", names.collect::<Vec<_>>().join(","))?;
            }
            write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)?;
        }
        Ok(())
    }
}

impl FromStr for Window {
    type Err = &'static str;

    /// Reads `[DAYS ]HH:MM-HH:MM`, several separated by `;`. `DAYS` are `Mon` to `Sun`, with commas between them, or ranges
    /// like `Fri-Sun`. Empty is always.
    fn from_str(window: &str) -> Result<Self, &'static str> {
        if window.trim().is_empty() {
            return Ok(Self::always());
        }
        if window.split(';').count() > limits::WINDOW_SPANS {
            return Err("it has too many parts");
        }
        Ok(Self { spans: window.split(';').map(|span| span.trim().parse()).collect::<Result<_, _>>()? })
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(span: &str) -> Result<Self, &'static str> {
        let (days, times) = match span.split_once([' ', '\t']) {
            Some((days, times)) if days.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                (self::days(days).ok_or("days are of the form Mon,Tue or Fri-Sun")?, times)
            }
            _ => (EVERY_DAY, span),
        };
        let parsed = times.split_once('-').and_then(|(from, to)| {
            Some(Self { days, from: minute(from.trim()).filter(|m| *m < DAY)?, to: minute(to.trim())? })
        });
        parsed.ok_or("it is not of the form HH:MM-HH:MM, with days before it if need be (Sat,Sun 01:00-05:00)")
    }
}

fn days(names: &str) -> Option<u8> {
    let day = |name: &str| WEEK.iter().position(|known| known.eq_ignore_ascii_case(name));
    let mut days = 0;
    for part in names.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days |= 1 << at;
        while at != last {
            at = (at + 1) % WEEK.len();
            days |= 1 << at;
        }
    }
    Some(days)
}

fn minute(time: &str) -> Option<u16> {
    let (hours, minutes) = time.split_once(':')?;
    let two_digits = |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u16>().ok());
    let (hours, minutes) = (two_digits(hours)??, two_digits(minutes)??);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests;
