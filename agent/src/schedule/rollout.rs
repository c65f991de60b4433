//! A release that a fleet takes in waves, without a server that keeps count.
//!
//! The release says which share of the devices may take it how long after its date. Each device draws a place between 0 and
//! 100 from its own id and the release's digest, and waits until the share is larger. The draw is new for each release, so
//! that it is not always the same devices that go first.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use crate::base::digest::Digest;
use crate::base::limits;

/// Makes the draw differ from every other hash of the same id.
const DRAW: &[u8] = b"io.kubesolo.os.rollout\0";
/// Places are counted in hundredths of a percent.
const ALL: u32 = 100 * 100;

/// The waves: `5%@0h,25%@24h,100%@72h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waves(Vec<Wave>);

/// So many percent of the devices, so many hours after the date of the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wave {
    percent: u8,
    hours: u16,
}

impl FromStr for Waves {
    type Err = &'static str;

    /// Shares and hours are whole numbers without leading zeros, and both grow. The last share need not be all: the rest
    /// waits for the same release to be published again with other waves.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.split(',').count() > limits::WAVES {
            return Err("it has too many waves");
        }
        let waves = text.split(',').map(wave).collect::<Option<Vec<_>>>();
        let waves = waves.ok_or("it is not of the form 5%@0h,25%@24h,100%@72h")?;
        if waves.windows(2).any(|pair| pair[1].percent <= pair[0].percent || pair[1].hours <= pair[0].hours) {
            return Err("shares and hours must grow from wave to wave");
        }
        if waves.iter().any(|wave| wave.percent > 100 || wave.hours > limits::ROLLOUT_HOURS) {
            return Err("no share is above 100%, and no wave starts after more than a year");
        }
        Ok(Self(waves))
    }
}

fn wave(text: &str) -> Option<Wave> {
    let (percent, hours) = text.strip_suffix('h')?.split_once("%@")?;
    Some(Wave { percent: number(percent)?, hours: number(hours)? })
}

/// One number has one spelling.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

impl fmt::Display for Waves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Wave { percent, hours }) in self.0.iter().enumerate() {
            write!(f, "{}{percent}%@{hours}h", if n > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// Waves and the time from which they count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The date of the release.
    pub start: DateTime<Utc>,
    /// The waves.
    pub waves: Waves,
}

impl Rollout {
    /// The share of the devices that may take the release at this time, in percent.
    #[must_use]
    pub fn share(&self, now: DateTime<Utc>) -> u8 {
        let begun = |wave: &&Wave| self.start + TimeDelta::hours(wave.hours.into()) <= now;
        self.waves.0.iter().rev().find(begun).map_or(0, |wave| wave.percent)
    }

    /// When a device at this place may take it; `None` if no wave reaches it.
    #[must_use]
    pub fn opens_at(&self, place: Place) -> Option<DateTime<Utc>> {
        let wave = self.waves.0.iter().find(|wave| place.is_within(wave.percent))?;
        Some(self.start + TimeDelta::hours(wave.hours.into()))
    }
}

/// Where a device stands in the line for one release: 0 first, 100 last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// The draw of the device with this id.
    #[must_use]
    pub fn draw(device: &str, release: Digest) -> Self {
        let hash = Sha256::new().chain_update(DRAW).chain_update(device).chain_update(release.0).finalize();
        let first = hash.iter().take(8).fold(0, |number, byte| number << 8 | u128::from(*byte));
        Self(((first * u128::from(ALL)) >> 64) as u32)
    }

    /// The same draw of a device that is more or less wary than others: 0 comes first and 100 last whatever it drew, 50
    /// keeps its place, and in between places are pressed together towards the one end or the other.
    #[must_use]
    pub fn shifted(self, wariness: Wariness) -> Self {
        let percent = u32::from(wariness.percent());
        Self(if percent <= 50 { self.0 * percent / 50 } else { ALL - (ALL - self.0) * (100 - percent) / 50 })
    }

    /// True if the device belongs to this share of all devices, in percent. 100 is all of them.
    #[must_use]
    pub fn is_within(self, percent: u8) -> bool {
        percent == 100 || self.0 < u32::from(percent) * 100
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

/// Place of a device in the order of all waves: 0 with the first, 100 with the last, 50 by its draw alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wariness(u8);

impl Wariness {
    /// As in the settings, `0..=100`.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }
}

impl Default for Wariness {
    fn default() -> Self {
        Self(50)
    }
}

impl FromStr for Wariness {
    type Err = &'static str;

    fn from_str(number: &str) -> Result<Self, &'static str> {
        number.parse().ok().filter(|percent| *percent <= 100).map(Self).ok_or("expected a number from 0 to 100")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rollout(waves: &str) -> Rollout {
        Rollout { start: DateTime::UNIX_EPOCH, waves: waves.parse().unwrap() }
    }

    fn hour(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    fn wary(percent: u8) -> Wariness {
        percent.to_string().parse().unwrap()
    }

    #[test]
    fn the_share_grows_wave_by_wave() {
        let plan = rollout("5%@0h,25%@24h,100%@72h");
        for (hours, share) in [(-1, 0), (0, 5), (23, 5), (24, 25), (71, 25), (72, 100), (9999, 100)] {
            assert_eq!(plan.share(hour(hours)), share, "{hours} h");
        }
        let late = rollout("10%@6h,20%@7h");
        assert_eq!([0, 5, 6, 7, 9999].map(|hours| late.share(hour(hours))), [0, 0, 10, 20, 20]);
    }

    #[test]
    fn a_place_opens_with_the_first_wave_that_reaches_it() {
        let plan = rollout("5%@0h,25%@24h,50%@72h");
        for (place, opens) in [(0, Some(0)), (499, Some(0)), (500, Some(24)), (2499, Some(24)), (4999, Some(72))] {
            assert_eq!(plan.opens_at(Place(place)), opens.map(hour), "{place}");
        }
        assert_eq!(plan.opens_at(Place(5000)), None);
    }

    #[test]
    fn what_is_not_a_plan_is_refused() {
        let many = (0..=limits::WAVES).map(|n| format!("{}%@{n}h", n + 1)).collect::<Vec<_>>().join(",");
        for text in [
            "",
            "5%",
            "5@0h",
            "5%@0",
            "5%@0h,",
            "5%@0h, 25%@24h",
            "5%@0h;25%@24h",
            "05%@0h",
            "5%@00h",
            "+5%@0h",
            "-5%@0h",
            "5.5%@0h",
            "101%@0h",
            "5%@8761h",
            "25%@0h,5%@24h",
            "5%@24h,25%@24h",
            "5%@24h,25%@0h",
            "5%@0h,5%@1h",
            "5%@1d",
            &many,
        ] {
            assert!(text.parse::<Waves>().is_err(), "{text}");
        }
        for text in ["0%@0h", "0%@0h,1%@1h", "100%@0h", "5%@0h,25%@24h,100%@72h"] {
            assert_eq!(text.parse::<Waves>().unwrap().to_string(), text);
        }
    }

    /// Devices, publishers and simulations of any version must draw alike.
    #[test]
    fn the_draw_is_fixed_for_all_time() {
        let draw = |id: &str, release: &[u8]| Place::draw(id, Digest::of(release)).0;
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!([draw(id, b"one"), draw(id, b"two"), draw("another", b"one")], [5041, 3556, 9734]);
    }

    #[test]
    fn a_fleet_is_spread_evenly_and_anew_for_each_release() {
        let ids: Vec<String> = (0..20_000).map(|n| format!("{n:032x}")).collect();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let first = |release| ids.iter().filter(move |id| Place::draw(id, release).is_within(5)).collect::<Vec<_>>();
        for percent in [1, 5, 25, 50, 99] {
            let within = ids.iter().filter(|id| Place::draw(id, one).is_within(percent)).count() as f64;
            let expected = ids.len() as f64 * f64::from(percent) / 100.0;
            // Five standard deviations.
            assert!((within - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{percent}%: {within}");
        }
        let again = first(two);
        let both = first(one).iter().filter(|id| again.contains(id)).count();
        assert!((10..120).contains(&both), "{both} of 1000 canaries are canaries again; chance makes it 50");
    }

    #[test]
    fn the_wary_come_last_and_canaries_first() {
        for drawn in [0, 1, 4999, 5000, 9999] {
            let shifted = |percent| Place(drawn).shifted(wary(percent));
            assert_eq!(shifted(50), Place(drawn));
            assert_eq!((shifted(0), shifted(100)), (Place(0), Place(ALL)));
            assert!(shifted(0).is_within(1) && !shifted(100).is_within(99) && shifted(100).is_within(100));
        }
        assert_eq!(Place(8000).shifted(wary(25)), Place(4000));
        assert_eq!(Place(8000).shifted(wary(75)), Place(9000));
        assert_eq!(Place(8000).to_string(), "80.00 %");
    }

    proptest! {
        #[test]
        fn more_wary_is_never_earlier(drawn in 0..ALL, less in 0..=100u8, more in 0..=100u8) {
            prop_assume!(less <= more);
            prop_assert!(Place(drawn).shifted(wary(less)) <= Place(drawn).shifted(wary(more)));
        }

        #[test]
        fn a_plan_is_read_as_it_is_shown(text in "[0-9]{1,3}%@[0-9]{1,4}h(,[0-9]{1,3}%@[0-9]{1,4}h){0,3}|.*") {
            if let Ok(waves) = text.parse::<Waves>() {
                prop_assert_eq!(waves.to_string(), text);
            }
        }

        #[test]
        fn what_is_open_stays_open(place in 0..=ALL, hours in 0..200i64, later in 0..200i64) {
            let plan = rollout("5%@10h,25%@24h,99%@72h,100%@100h");
            let open = |hours| Place(place).is_within(plan.share(hour(hours)));
            prop_assert!(!open(hours) || open(hours + later));
            prop_assert_eq!(open(hours), plan.opens_at(Place(place)).is_some_and(|at| at <= hour(hours)));
        }
    }
}
