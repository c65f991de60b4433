//! The date of a release. It is part of what is signed, so a build that is to be reproduced gives it.

use chrono::{DateTime, SecondsFormat, Utc};

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
    Ok(date.to_rfc3339_opts(SecondsFormat::Secs, true))
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
    fn a_malformed_date_is_refused() {
        for (given, epoch) in [(Some("yesterday"), None), (None, Some("")), (None, Some("1e9"))] {
            assert_eq!(choose(given, epoch, Utc::now()).unwrap_err().exit(), Exit::Usage);
        }
    }
}
