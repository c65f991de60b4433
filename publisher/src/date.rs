//! The date of a release. It is part of what is signed, so a build that is to be reproduced gives it.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};

use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::text;

/// The date as RFC 3339: `given`, else `SOURCE_DATE_EPOCH` (seconds since 1970, reproducible-builds.org), else now.
pub fn release_date(given: Option<&str>) -> Result<String> {
    choose(given, std::env::var("SOURCE_DATE_EPOCH").ok().as_deref(), Utc::now())
}

fn choose(given: Option<&str>, epoch: Option<&str>, now: DateTime<Utc>) -> Result<String> {
    let usage = |what: &str, value: &str, form: &str| {
        let message = format!("{what} is \"{}\", not {form}", text::escape(value));
        Error::new(Reason::MalformedDate, message)
    };
    if let Some(date) = given {
        DateTime::parse_from_rfc3339(date)
            .map_err(|_| usage("--release-date", date, "a date like 2026-01-31T12:00:00Z"))?;
        return Ok(date.to_owned());
    }
    let date = match epoch {
        None => now,
        Some(epoch) => epoch
            .parse()
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
            .ok_or_else(|| usage("SOURCE_DATE_EPOCH", epoch, "a number of seconds"))?,
    };
    Ok(rfc3339(date))
}

/// A date on a command line: a day, which ends at midnight UTC, or a time as RFC 3339.
pub fn day_or_time(given: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(given).map(|time| time.to_utc()).ok();
    let day = || Some(given.parse::<NaiveDate>().ok()?.succ_opt()?.and_hms_opt(0, 0, 0)?.and_utc());
    time.or_else(day).ok_or_else(|| {
        let message = format!("\"{}\" is neither a day like 2030-01-31 nor a time like", text::escape(given));
        Error::new(Reason::MalformedDate, format!("{message} 2030-01-31T12:00:00Z"))
    })
}

/// The time as a release has it: UTC, in whole seconds.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubesolo_update::base::error::Exit;

    #[test]
    fn what_is_given_comes_first_then_the_environment_then_the_clock() {
        let now = DateTime::from_timestamp(1_000_000_000, 999).unwrap();
        let date = |given, epoch| choose(given, epoch, now).unwrap();
        assert_eq!(date(Some("2026-01-31T12:00:00+01:00"), Some("0")), "2026-01-31T12:00:00+01:00");
        assert_eq!(date(None, Some("0")), "1970-01-01T00:00:00Z");
        assert_eq!(date(None, None), "2001-09-09T01:46:40Z");
    }

    #[test]
    fn support_until_a_day_includes_that_day() {
        let shown = |given| day_or_time(given).map(rfc3339);
        assert_eq!(shown("2030-12-31").unwrap(), "2031-01-01T00:00:00Z");
        assert_eq!(shown("2030-12-31T12:00:00+02:00").unwrap(), "2030-12-31T10:00:00Z");
        for wrong in ["2030-02-30", "2030", "", "soon", "2030-12-31 12:00"] {
            assert_eq!(shown(wrong).unwrap_err().exit(), Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_malformed_date_is_refused() {
        for (given, epoch) in [(Some("yesterday"), None), (None, Some("")), (None, Some("1e9"))] {
            assert_eq!(choose(given, epoch, Utc::now()).unwrap_err().exit(), Exit::Usage);
        }
    }
}
