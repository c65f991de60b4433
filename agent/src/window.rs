//! The maintenance window: the part of each day in which an update may start.

use std::fmt;
use std::str::FromStr;

const DAY: u16 = 24 * 60;

/// When an update may start, in minutes of the day. The caller decides on the clock and its zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// At any time.
    #[default]
    Always,
    /// From the first minute up to, but not including, the second. The second may be the smaller one: the window then wraps
    /// midnight. Equal ones make a window that is never open.
    Daily {
        /// Minutes after midnight.
        from: u16,
        /// Minutes after midnight; 24:00 is allowed.
        to: u16,
    },
}

impl Window {
    /// Whether the window is open in this minute of the day, `0..1440`.
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        match self {
            Self::Always => true,
            Self::Daily { from, to } if from <= to => (from..to).contains(&minute),
            Self::Daily { from, to } => minute >= from || minute < to,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Daily { from, to } => {
                write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
            }
        }
    }
}

impl FromStr for Window {
    type Err = &'static str;

    /// Reads `HH:MM-HH:MM`; empty is [`Window::Always`].
    fn from_str(window: &str) -> Result<Self, &'static str> {
        if window.is_empty() {
            return Ok(Self::Always);
        }
        let parsed = window.split_once('-').and_then(|(from, to)| {
            Some(Self::Daily { from: minute(from.trim()).filter(|m| *m < DAY)?, to: minute(to.trim())? })
        });
        parsed.ok_or("it is not of the form HH:MM-HH:MM")
    }
}

fn minute(time: &str) -> Option<u16> {
    let (hours, minutes) = time.split_once(':')?;
    let two_digits = |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u16>().ok());
    let (hours, minutes) = (two_digits(hours)??, two_digits(minutes)??);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_minute_is_in_and_the_last_is_out() {
        let night = window("02:00-04:30");
        assert!(!night.contains(119) && night.contains(120) && night.contains(269) && !night.contains(270));
    }

    #[test]
    fn a_window_may_wrap_midnight() {
        let night = window("23:30-01:00");
        assert!(night.contains(23 * 60 + 30) && night.contains(0) && night.contains(59));
        assert!(!night.contains(60) && !night.contains(12 * 60) && !night.contains(23 * 60 + 29));
    }

    #[test]
    fn empty_is_always_and_zero_length_is_never() {
        for minute in 0..DAY {
            assert!(window("").contains(minute));
            assert!(window("00:00-24:00").contains(minute));
            assert!(!window("03:00-03:00").contains(minute));
        }
    }

    #[test]
    fn what_is_not_a_window_is_refused() {
        for text in
            ["02:00", "2:00-4:00", "02:00-25:00", "24:00-01:00", "02:60-03:00", "02:00-24:01", "a-b", "+2:00-04:00"]
        {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_window_and_its_complement_cover_the_day_once(from in 0..DAY, to in 0..DAY, minute in 0..DAY) {
            prop_assume!(from != to);
            let (window, complement) = (Window::Daily { from, to }, Window::Daily { from: to, to: from });
            prop_assert!(window.contains(minute) != complement.contains(minute));
        }

        #[test]
        fn a_window_reads_back_what_it_shows(from in 0..DAY, to in 0..=DAY) {
            let daily = Window::Daily { from, to };
            prop_assert_eq!(daily.to_string().parse::<Window>(), Ok(daily));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Window>();
        }
    }
}
