//! The time zone of the maintenance window.

use std::path::Path;

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc, Weekday};
use tz::TimeZone;
use tz::timezone::TimeZoneSettings;

use crate::base::error::{Error, Reason, Result};
use crate::base::{files, limits, text};

/// Where an image has the zones, if it has them (package `tzdata`).
const ZONES: &str = "/usr/share/zoneinfo";
/// Reason of an error in a zone.
const BAD: Reason = Reason::BadZone;

/// A time zone: what a clock on the wall shows.
#[derive(Clone, Debug)]
pub struct Zone {
    name: String,
    /// `None`: UTC, which needs no file.
    rules: Option<TimeZone>,
}

impl Zone {
    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: "UTC".into(), rules: None }
    }

    /// The zone of that name in this image, else a POSIX TZ string (`CET-1CEST,M3.5.0,M10.5.0/3`), which needs no file;
    /// `None` is UTC.
    ///
    /// # Errors
    /// 78 when it is neither.
    pub fn open(name: Option<&str>) -> Result<Self> {
        Self::open_in(name, Path::new(ZONES))
    }

    fn open_in(name: Option<&str>, folder: &Path) -> Result<Self> {
        let Some(name) = name.filter(|name| *name != "UTC") else { return Ok(Self::utc()) };
        let shown = text::escape(name);
        if let Some(bytes) = file(folder, name)? {
            return Self::parse(&shown, &bytes);
        }
        let no_files = TimeZoneSettings::new(&[], |_| Err("not a TZ string".into()));
        match no_files.parse_posix_tz(name) {
            Ok(rules) => Ok(Self { name: shown, rules: Some(rules) }),
            Err(_) => Err(unusable(
                &shown,
                &format!("{} has no such zone, and it is not a POSIX TZ string", folder.display()),
            )),
        }
    }

    /// Reads the bytes of a zone's file.
    ///
    /// # Errors
    /// 78 when they are damaged.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        match TimeZone::from_tz_data(bytes) {
            Ok(rules) => Ok(Self { name: name.to_owned(), rules: Some(rules) }),
            Err(why) => Err(unusable(name, &format!("its file is damaged: {}", text::escape(&why.to_string())))),
        }
    }

    /// As it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Day and minute of the day, as a clock on the wall shows them.
    #[must_use]
    pub fn wall_clock(&self, at: DateTime<Utc>) -> (Weekday, u16) {
        let local = at + self.offset(at);
        let minute = local.hour() * 60 + local.minute();
        (local.weekday(), u16::try_from(minute).unwrap_or(0))
    }

    /// How far the zone is ahead of UTC.
    #[must_use]
    pub fn offset(&self, at: DateTime<Utc>) -> TimeDelta {
        let rules = self.rules.as_ref();
        let local = rules.and_then(|rules| rules.find_local_time_type(at.timestamp()).ok());
        TimeDelta::seconds(local.map_or(0, |local| local.ut_offset().into()))
    }
}

/// The bytes of a zone's file, if there is one. The name cannot lead out of the folder.
fn file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-_".contains(&b));
    if !name.split('/').all(plain) {
        return Ok(None);
    }
    files::read_linked(&folder.join(name), limits::ZONE_BYTES, BAD)
}

fn unusable(name: &str, why: &str) -> Error {
    Error::new(BAD, format!("maintenance_zone=\"{name}\": {why}")).remedy(
        "Put the file of the zone into the OS image (package tzdata), or write its rules as a POSIX TZ string: the \
         last line of that file.",
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_zone_that_is_not_in_the_image_is_named_with_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let error = Zone::open_in(Some("Europe/Berlin"), empty.path()).unwrap_err();
        assert_eq!(error.reason, Reason::BadZone);
        assert!(error.message.contains("Europe/Berlin") && error.message.contains("no such zone"), "{error}");
        assert!(error.remedy.contains("tzdata") && error.remedy.contains("POSIX TZ"));
        // UTC and rules need no file.
        assert_eq!(Zone::open_in(Some("UTC"), empty.path()).unwrap().name(), "UTC");
        assert_eq!(Zone::open_in(None, empty.path()).unwrap().name(), "UTC");
        Zone::open_in(Some("EST5EDT,M3.2.0,M11.1.0"), empty.path()).unwrap();
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let zones = outer.path().join("zones");
        std::fs::create_dir(&zones).unwrap();
        std::fs::copy("/usr/share/zoneinfo/Europe/Berlin", outer.path().join("Berlin")).unwrap();
        let absolute = outer.path().join("Berlin").display().to_string();
        for name in ["../Berlin", &absolute, "x/../../Berlin", "", "localtime", ":Europe/Berlin", "/etc/localtime"] {
            assert!(Zone::open_in(Some(name), &zones).is_err(), "{name}");
        }
    }

    #[test]
    fn damaged_files_are_refused_and_nothing_panics() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read("/usr/share/zoneinfo/Europe/Berlin").unwrap();
        for length in (0..whole.len()).step_by(7) {
            std::fs::write(folder.path().join("Cut"), &whole[..length]).unwrap();
            let error = Zone::open_in(Some("Cut"), folder.path()).unwrap_err();
            assert!(error.message.contains("damaged"), "{length}: {error}");
        }
    }

    /// The C library is asked the same, around the changes of some zones.
    #[test]
    fn the_wall_clock_is_that_of_the_c_library() {
        let posix = "CET-1CEST,M3.5.0,M10.5.0/3";
        for zone in
            ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca", posix]
        {
            let ours = Zone::open(Some(zone)).unwrap();
            let times: Vec<i64> = (0..600).map(|n| 1_767_225_600 + n * 3 * 86_400 / 4 + n % 7 * 1800).collect();
            let asked: String = times.iter().map(|time| format!("@{time}\n")).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), asked).unwrap();
            let mut date = Command::new("date");
            date.env("TZ", zone).env("LC_ALL", "C").arg("+%a %H:%M").arg("-f").arg(file.path());
            let said = String::from_utf8(date.output().unwrap().stdout).unwrap();
            assert_eq!(said.lines().count(), times.len());
            for (time, said) in times.iter().zip(said.lines()) {
                let (day, minute) = ours.wall_clock(DateTime::from_timestamp(*time, 0).unwrap());
                assert_eq!(format!("{day} {:02}:{:02}", minute / 60, minute % 60), said, "{zone} at {time}");
            }
        }
    }
}
