//! `trust reset-time`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::base::error::Result;
use crate::cli::args::Cli;
use crate::cli::call;
use crate::cli::output::print;
use crate::schedule::clock::Clock;
use crate::state::format::{optional_seconds, seconds};

/// The result of `trust reset-time`.
#[derive(Debug, Serialize)]
struct ResetDocument {
    /// The latest known time before; null if there was none.
    #[serde(with = "optional_seconds")]
    before: Option<DateTime<Utc>>,
    /// The latest known time now: that of the clock.
    #[serde(with = "seconds")]
    last_seen: DateTime<Utc>,
}

/// A person vouches for the clock.
pub(in crate::cli) fn reset_time(cli: &Cli) -> Result<u8> {
    let mut records = call::lock(cli)?;
    let clock = Clock::system(Utc::now(), None);
    let report = ResetDocument { before: records.trust.last_seen, last_seen: clock.believed()? };
    records.reset_time(report.last_seen)?;
    print(cli, &report, || {
        let words = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let before = report.before.map_or("not known".into(), words);
        format!("the latest known time is {}; it was {before}\n", words(report.last_seen))
    });
    Ok(0)
}
