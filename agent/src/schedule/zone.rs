//! The time zone of the maintenance window.

use std::path::Path;

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc, Weekday};
use tz::{LocalTimeType, TimeZone};

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
    /// `None` is UTC. Hours of the string may be from -167 to 167.
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
        let rules = TimeZone::from_tz_data(&file_of_rules(name)).ok();
        // No rule at all would be UTC under another name.
        match rules.filter(|rules| rules.as_ref().extra_rule().is_some()) {
            Some(rules) => Ok(Self { name: shown, rules: Some(rules) }),
            None => Err(unusable(
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
        let offset = self.rules.as_ref().map_or(0, |rules| local_type(rules, at.timestamp()).ut_offset());
        TimeDelta::seconds(offset.into())
    }
}

/// The type of local time at this time, in seconds since 1970. A file can have no rule for the time after its last change; that
/// change then stays in effect, as in the C library.
fn local_type(rules: &TimeZone, at: i64) -> &LocalTimeType {
    let rules = rules.as_ref();
    let last = rules.transitions().last().map_or(0, tz::timezone::Transition::local_time_type_index);
    rules.find_local_time_type(at).unwrap_or(&rules.local_time_types()[last])
}

/// A zone's file with nothing but rules, given as a POSIX TZ string. Only the rules of a file of version 3 may have hours below 0
/// and above 24 (RFC 8536, section 3.3.1), which the C library takes everywhere.
fn file_of_rules(rules: &str) -> Vec<u8> {
    const COUNTS: [u32; 6] = [0, 0, 0, 0, 1, 4];
    let header: Vec<u8> =
        [&b"TZif3"[..], &[0; 15]].concat().into_iter().chain(COUNTS.map(u32::to_be_bytes).concat()).collect();
    // One type of local time: 4 bytes of offset, no summer time, the name at 0.
    let block = [&header[..], &[0; 6], b"UTC\0"].concat();
    [&block[..], &block, b"\n", rules.as_bytes(), b"\n"].concat()
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

    fn output(command: &mut Command) -> String {
        let output = command.env("LC_ALL", "C").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Compares the wall clock with that of `date`, whose zone is `tz`. Seconds do not count.
    fn agrees_with_date(ours: &Zone, tz: &str, times: &[i64]) {
        let asked: String = times.iter().map(|time| format!("@{time}\n")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), asked).unwrap();
        let said = output(Command::new("date").env("TZ", tz).arg("+%a %H:%M").arg("-f").arg(file.path()));
        assert_eq!(said.lines().count(), times.len());
        for (time, said) in times.iter().zip(said.lines()) {
            let (day, minute) = ours.wall_clock(DateTime::from_timestamp(*time, 0).unwrap());
            assert_eq!(format!("{day} {:02}:{:02}", minute / 60, minute % 60), said, "{tz} at {time}");
        }
    }

    /// Every 18 h of 2026 and some hours of the following year, each at second 30.
    fn times() -> Vec<i64> {
        (0..600).map(|n| 1_767_225_630 + n * 3 * 86_400 / 4 + n % 7 * 1800).collect()
    }

    #[test]
    fn the_wall_clock_is_that_of_the_c_library() {
        for zone in [
            "Europe/Berlin",
            "Australia/Lord_Howe",
            "Africa/Casablanca",
            "CET-1CEST,M3.5.0,M10.5.0/3",
            // Nuuk, Jerusalem, Gaza: hours of the day before and of later days.
            "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
            "IST-2IDT,M3.4.4/26,M10.5.0",
            "EET-2EEST,M3.4.4/50,M10.4.4/50",
        ] {
            agrees_with_date(&Zone::open(Some(zone)).unwrap(), zone, &times());
        }
    }

    fn zones(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder.join(below)).unwrap().flatten() {
            let name = Path::new(below).join(entry.file_name()).to_str().unwrap().to_owned();
            match entry.path().is_dir() {
                true => zones(folder, &name, found),
                false => found.push(name),
            }
        }
    }

    /// All zones of tzdata, compiled by `zic` with these options.
    fn compiled(options: &[&str]) -> (tempfile::TempDir, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        output(Command::new("zic").args(options).arg("-d").arg(folder.path()).arg("/usr/share/zoneinfo/tzdata.zi"));
        let mut found = vec![];
        zones(folder.path(), "", &mut found);
        found.sort();
        assert!(found.len() >= 100, "{found:?}");
        (folder, found)
    }

    #[test]
    fn all_zones_have_the_changes_of_the_c_library_for_three_years() {
        let (folder, names) = compiled(&[]);
        let open = |name: &str| Zone::open_in(Some(name), folder.path()).unwrap();
        let this_year = Utc::now().year();
        let years = format!("{this_year},{}", this_year + 4);
        let changes = output(Command::new("zdump").current_dir(folder.path()).args(["-V", "-c", &years]).args(&names));
        // "Europe/Berlin  Sun Mar 29 00:59:59 2026 UT = Sun Mar 29 01:59:59 2026 CET isdst=0 gmtoff=3600"
        for change in changes.lines() {
            let (name, rest) = change.split_once(' ').unwrap();
            let (at, local) = rest.split_once(" UT = ").unwrap();
            let at = chrono::NaiveDateTime::parse_from_str(at.trim(), "%a %b %e %H:%M:%S %Y").unwrap().and_utc();
            let offset: i64 = local.rsplit_once("gmtoff=").unwrap().1.parse().unwrap();
            assert_eq!(open(name).offset(at).num_seconds(), offset, "{change}");
        }
        assert!(changes.lines().count() > 1000, "{changes}");
        for name in names.iter().step_by(5) {
            let file = folder.path().join(name).display().to_string();
            agrees_with_date(&open(name), &file, &[Utc::now().timestamp()]);
        }
    }

    #[test]
    fn a_zone_without_a_rule_keeps_its_last_offset() {
        // Files that count leap seconds have no rule.
        let (folder, names) = compiled(&["-L", "/usr/share/zoneinfo/leapseconds"]);
        for name in names.iter().step_by(5) {
            let file = folder.path().join(name).display().to_string();
            agrees_with_date(&Zone::open_in(Some(name), folder.path()).unwrap(), &file, &times());
        }
        // Files of version 1, as old images have them: the first part of a file of today.
        for name in ["Asia/Kolkata", "America/Sao_Paulo", "Asia/Tokyo"] {
            let all = std::fs::read(Path::new(ZONES).join(name)).unwrap();
            let second = all.windows(4).rposition(|four| four == b"TZif").unwrap();
            let first = [b"TZif\0", &all[5..second]].concat();
            let file = folder.path().join("version-1");
            std::fs::write(&file, first).unwrap();
            let ours = Zone::open_in(Some("version-1"), folder.path()).unwrap();
            assert_ne!(ours.offset(Utc::now()), TimeDelta::zero(), "{name}");
            agrees_with_date(&ours, file.to_str().unwrap(), &times());
        }
    }
}
