//! The limit that an administrator sets for the bytes of images per second.

use std::time::Duration;

/// A bucket that fills at the rate of the limit, up to what comes in one second.
#[derive(Debug)]
pub(super) struct Pace {
    /// In bytes per second; never 0.
    rate: u64,
    /// When the bytes so far are paid for, since the start of the clock.
    paid: Duration,
}

/// Time at the limit whose bytes may arrive at once.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid: Duration::ZERO }
    }

    /// The pause after these bytes, which came until `now`.
    pub(super) fn pause(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let price = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        // Time without a byte is not saved up for longer than the burst.
        self.paid = self.paid.max(now.saturating_sub(BURST)).saturating_add(price);
        self.paid.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The clock is that of the test: it stands still but for the pauses and the times between the chunks.
        #[test]
        fn no_more_comes_than_the_limit_and_one_burst(
            rate in 1u64..10_000_000,
            chunks in proptest::collection::vec((0u64..1_000_000, 0u64..3_000), 1..100),
        ) {
            let mut pace = Pace::new(rate);
            let (begin, mut now, mut all) = (Duration::from_secs(7), Duration::from_secs(7), 0u64);
            for (bytes, milliseconds) in chunks {
                now += Duration::from_millis(milliseconds);
                all += bytes;
                let pause = pace.pause(bytes, now);
                // Never longer than the bytes so far take.
                prop_assert!(pause.as_secs_f64() <= all as f64 / rate as f64);
                now += pause;
                let allowed = rate as f64 * (now - begin + BURST).as_secs_f64();
                prop_assert!(all as f64 <= allowed * 1.000_001 + 1.0, "{all} > {allowed}");
            }
        }
    }

    #[test]
    fn a_line_slower_than_the_limit_makes_no_pause() {
        let mut pace = Pace::new(1000);
        for second in 1..100 {
            assert_eq!(pace.pause(1000, Duration::from_secs(second)), Duration::ZERO);
        }
        // Then twice as much in a second: half of it is over.
        assert_eq!(pace.pause(3000, Duration::from_secs(100)), Duration::from_secs(2));
    }
}
