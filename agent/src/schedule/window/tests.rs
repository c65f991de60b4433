use proptest::prelude::*;

use super::*;

fn window(text: &str) -> Window {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn open(text: &str, day: Weekday, time: &str) -> bool {
    window(text).contains(day, minute(time).unwrap())
}

fn zone(name: &str) -> Zone {
    Zone::open(Some(name)).unwrap()
}

fn at(time: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(time).unwrap().to_utc()
}

#[test]
fn a_table_of_windows_days_and_times() {
    use Weekday::{Fri, Mon, Sat, Sun, Thu, Wed};
    for (text, day, time, expected) in [
        // The first minute is in and the last is out.
        ("02:00-04:30", Mon, "01:59", false),
        ("02:00-04:30", Mon, "02:00", true),
        ("02:00-04:30", Sun, "04:29", true),
        ("02:00-04:30", Mon, "04:30", false),
        // A window may wrap midnight.
        ("23:30-01:00", Wed, "23:29", false),
        ("23:30-01:00", Wed, "23:30", true),
        ("23:30-01:00", Thu, "00:59", true),
        ("23:30-01:00", Thu, "01:00", false),
        // It belongs to the day on which it begins then.
        ("Sat 23:00-02:00", Sat, "22:59", false),
        ("Sat 23:00-02:00", Sat, "23:00", true),
        ("Sat 23:00-02:00", Sun, "01:59", true),
        ("Sat 23:00-02:00", Sun, "23:00", false),
        ("Sat 23:00-02:00", Sat, "01:00", false),
        ("Sun 23:00-02:00", Mon, "01:00", true),
        // Days, ranges of days over the end of the week, several windows.
        ("Sat,Sun 01:00-05:00", Fri, "03:00", false),
        ("Sat,Sun 01:00-05:00", Sat, "03:00", true),
        ("Sat,Sun 01:00-05:00", Sun, "03:00", true),
        ("Fri-Mon 01:00-05:00", Fri, "03:00", true),
        ("Fri-Mon 01:00-05:00", Mon, "03:00", true),
        ("Fri-Mon 01:00-05:00", Wed, "03:00", false),
        ("Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00", Wed, "03:30", true),
        ("Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00", Wed, "04:30", false),
        ("Sat,Sun 01:00-05:00;Mon-Fri 03:00-04:00", Sat, "04:30", true),
        ("sat 01:00 - 05:00", Sat, "04:30", true),
        ("Mon-Sun 01:00-05:00", Thu, "04:30", true),
        ("02:00-03:00; 14:00-15:00", Thu, "14:30", true),
        // Whole days, always, and never.
        ("Sat 00:00-24:00", Sat, "00:00", true),
        ("Sat 00:00-24:00", Sat, "23:59", true),
        ("Sat 00:00-24:00", Sun, "00:00", false),
        ("", Sun, "12:00", true),
        ("03:00-03:00", Sun, "03:00", false),
        ("Mon 03:00-03:00; 14:00-15:00", Sun, "14:00", true),
    ] {
        assert_eq!(open(text, day, time), expected, "{text} on {day} at {time}");
    }
}

#[test]
fn what_is_not_a_window_is_refused() {
    let many = ["01:00-02:00"; limits::WINDOW_SPANS + 1].join(";");
    for text in [
        "02:00",
        "2:00-4:00",
        "02:00-25:00",
        "24:00-01:00",
        "02:60-03:00",
        "02:00-24:01",
        "a-b",
        "+2:00-04:00",
        "Sat",
        "Sat,Sun",
        "Sat, Sun 01:00-02:00",
        "Saturday 01:00-02:00",
        "Sat..Sun 01:00-02:00",
        "Sat- 01:00-02:00",
        ",Sat 01:00-02:00",
        "01:00-02:00 Sat",
        "01:00-02:00;",
        ";",
        "01:00-02:00,03:00-04:00",
        &many,
    ] {
        assert!(text.parse::<Window>().is_err(), "{text}");
    }
}

#[test]
fn the_clock_of_the_zone_decides() {
    for (name, time, expected) in [
        // Berlin is an hour ahead in winter, two in summer.
        ("Europe/Berlin", "2026-01-15T00:59:00Z", false),
        ("Europe/Berlin", "2026-01-15T01:00:00Z", true),
        ("Europe/Berlin", "2026-07-15T00:00:00Z", true),
        ("Europe/Berlin", "2026-07-15T01:00:00Z", false),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-01-15T01:00:00Z", true),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-07-15T00:00:00Z", true),
        ("Asia/Kolkata", "2026-01-14T20:30:00Z", true),
        ("Asia/Kolkata", "2026-01-14T21:30:00Z", false),
        ("UTC", "2026-01-15T02:00:00Z", true),
        ("UTC", "2026-01-15T03:00:00Z", false),
    ] {
        assert_eq!(window("02:00-03:00").is_open(&zone(name), at(time)), expected, "{name} {time}");
    }
    // The day is that of the zone, too: it is Saturday in Auckland already.
    let saturday = window("Sat 01:00-02:00");
    assert!(saturday.is_open(&zone("Pacific/Auckland"), at("2026-01-16T12:30:00Z")));
    assert!(!saturday.is_open(&zone("UTC"), at("2026-01-16T12:30:00Z")));
    assert!(saturday.is_open(&zone("America/Los_Angeles"), at("2026-01-17T09:30:00Z")));
}

/// When it is open between two times, to the minute.
fn openings(text: &str, name: &str, from: &str, hours: i64) -> Vec<String> {
    let (window, zone, from) = (window(text), zone(name), at(from));
    let mut edges = vec![];
    let mut before = false;
    for n in 0..hours * 60 {
        let now = from + TimeDelta::minutes(n);
        if window.is_open(&zone, now) != before {
            before = !before;
            edges.push(format!("{}{}", if before { "+" } else { "-" }, now.format("%d %H:%M")));
        }
    }
    edges
}

#[test]
fn in_spring_what_lies_in_the_skipped_hour_does_not_open_and_the_rest_is_cut() {
    // 2026-03-29 in Berlin: 01:59 is followed by 03:00, at 01:00 UTC.
    let spring = |text| openings(text, "Europe/Berlin", "2026-03-28T22:00:00Z", 12);
    assert_eq!(spring("02:15-02:45"), [""; 0]);
    assert_eq!(spring("01:30-02:30"), ["+29 00:30", "-29 01:00"]);
    assert_eq!(spring("02:30-04:00"), ["+29 01:00", "-29 02:00"]);
    assert_eq!(spring("01:00-05:00"), ["+29 00:00", "-29 03:00"]);
    // It opens the day after.
    let next = window("02:15-02:45").opens_at(&zone("Europe/Berlin"), at("2026-03-28T22:00:00Z"));
    assert_eq!(next, Some(at("2026-03-30T00:15:00Z")));
    // A weekly one a week later.
    let next = window("Sun 02:15-02:45").opens_at(&zone("Europe/Berlin"), at("2026-03-28T22:00:00Z"));
    assert_eq!(next, Some(at("2026-04-05T00:15:00Z")));
}

#[test]
fn in_autumn_what_lies_in_the_repeated_hour_opens_twice() {
    // 2026-10-25 in Berlin: 02:59 is followed by 02:00, at 01:00 UTC.
    let autumn = |text| openings(text, "Europe/Berlin", "2026-10-24T22:00:00Z", 12);
    assert_eq!(autumn("02:15-02:45"), ["+25 00:15", "-25 00:45", "+25 01:15", "-25 01:45"]);
    assert_eq!(autumn("01:30-02:30"), ["+24 23:30", "-25 00:30", "+25 01:00", "-25 01:30"]);
    assert_eq!(autumn("02:30-04:00"), ["+25 00:30", "-25 01:00", "+25 01:30", "-25 03:00"]);
    assert_eq!(autumn("01:00-05:00"), ["+24 23:00", "-25 04:00"]);
}

#[test]
fn the_next_opening_is_told() {
    for (text, name, now, expected) in [
        ("", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-15T12:34:56Z")),
        ("12:00-13:00", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-15T12:34:56Z")),
        ("13:00-14:00", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-15T13:00:00Z")),
        ("12:00-12:30", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-16T12:00:00Z")),
        ("Sat,Sun 01:00-05:00", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-17T01:00:00Z")),
        ("Thu 01:00-05:00", "UTC", "2026-01-15T12:34:56Z", Some("2026-01-22T01:00:00Z")),
        ("03:00-04:00", "Asia/Kolkata", "2026-01-15T12:34:56Z", Some("2026-01-15T21:30:00Z")),
        ("03:00-03:00", "UTC", "2026-01-15T12:34:56Z", None),
    ] {
        assert_eq!(window(text).opens_at(&zone(name), at(now)), expected.map(at), "{text} {name} {now}");
    }
}

proptest! {
    #[test]
    fn a_window_and_its_complement_cover_the_day_once(from in 0..DAY, to in 0..DAY, day in 0..7u8, minute in 0..DAY) {
        prop_assume!(from != to);
        let (one, other) = (Span { days: EVERY_DAY, from, to }, Span { days: EVERY_DAY, from: to, to: from });
        let day = Weekday::try_from(day).unwrap();
        prop_assert!(one.contains(day, minute) != other.contains(day, minute));
    }

    #[test]
    fn a_window_reads_back_what_it_shows(spans in prop::collection::vec((1..=EVERY_DAY, 0..DAY, 0..=DAY), 1..5)) {
        let spans = spans.into_iter().map(|(days, from, to)| Span { days, from, to }).collect();
        let window = Window { spans };
        prop_assert_eq!(window.to_string().parse::<Window>(), Ok(window));
    }

    #[test]
    fn an_opening_that_is_told_is_one(days in 1..=EVERY_DAY, from in 0..DAY, length in 1..DAY, now in 0..10_000_000i64) {
        let window = Window { spans: vec![Span { days, from, to: (from + length) % DAY }] };
        let zone = zone("America/New_York");
        let now = at("2026-03-01T00:00:00Z") + TimeDelta::seconds(now);
        let opens = window.opens_at(&zone, now).unwrap();
        prop_assert!(window.is_open(&zone, opens));
        prop_assert!(opens == now || !window.is_open(&zone, opens - TimeDelta::minutes(1)) || opens - now < TimeDelta::minutes(1));
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let _ = text.parse::<Window>();
    }
}
