//! `trust reset-time`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::base::error::Result;
use crate::cli::args::Cli;
use crate::cli::call;
use crate::cli::output::print;
use crate::schedule::clock::Clock;

/// A person vouches for the clock.
pub(in crate::cli) fn reset_time(cli: &Cli) -> Result<u8> {
    let mut records = call::lock(cli)?;
    let clock = Clock::system(Utc::now(), None);
    let (before, now) = (records.trust.last_seen, clock.believed()?);
    records.reset_time(now)?;
    let seconds = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let (before, now) = (before.map(seconds), seconds(now));
    print(cli, &json!({"before": before, "last_seen": now}), || {
        format!("the latest known time is {now}; it was {}\n", before.as_deref().unwrap_or("not known"))
    });
    Ok(0)
}
