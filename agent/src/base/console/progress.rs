//! Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere. Always on stderr.

use std::io::{self, IsTerminal, Write as _};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::{console, sys};

/// How often a bar is drawn.
const EVERY_BAR: Duration = Duration::from_millis(100);
/// The seconds whose rate a bar shows.
const RATE_SECONDS: f64 = 5.0;
/// Moves to the start of the line and erases it (ECMA-48, CR and EL).
const ERASE: &str = "\r\x1b[2K";
/// How often a plain line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
/// How often a line of JSON is printed.
const EVERY_JSON: Duration = Duration::from_secs(1);
/// Columns of everything in a line but the bar itself.
const AROUND_BAR: usize = 56;
/// Columns of a line with numbers alone.
const NUMBERS: usize = 36;
/// Columns of the longest and of the shortest bar.
const BAR: RangeInclusive<usize> = 5..=30;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A bar on a terminal that can move the cursor, else plain lines.
    #[default]
    Auto,
    /// A plain line every 5 s.
    Plain,
    /// A line of JSON every second, the first at once and the last at the end.
    Json,
    /// Nothing.
    None,
}

static MODE: OnceLock<Mode> = OnceLock::new();

/// Sets the mode of this process. The first call counts.
pub fn choose(mode: Mode) {
    let _ = MODE.set(mode);
}

/// Counts bytes as they are done.
pub trait Progress {
    /// `bytes` more are done.
    fn advance(&mut self, bytes: u64);
}

/// Nobody watches.
impl Progress for () {
    fn advance(&mut self, _bytes: u64) {}
}

/// One line of `--progress json`, on standard error.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Version of this document.
    pub schema: u32,
    /// The work: `fetching`, and so on.
    pub progress: &'static str,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Progress for a person, a serial console or a program.
#[derive(Debug)]
pub struct Shown {
    what: &'static str,
    total: u64,
    done: u64,
    last: Instant,
    mode: Mode,
    /// Bytes at the last drawing of the bar, and the rate until then in bytes per second.
    drawn: u64,
    rate: f64,
}

impl Shown {
    /// Starts to show `what` of `total` bytes.
    #[must_use]
    pub fn new(what: &'static str, total: u64) -> Self {
        let mode = match MODE.get().copied().unwrap_or_default() {
            // `--quiet` is for errors.
            _ if !log::log_enabled!(log::Level::Warn) => Mode::None,
            Mode::Auto if !can_move_the_cursor() => Mode::Plain,
            mode => mode,
        };
        let shown = Self { what, total, done: 0, last: Instant::now(), mode, drawn: 0, rate: 0.0 };
        if mode == Mode::Json {
            shown.print_json();
        }
        shown
    }

    fn print_json(&self) {
        let step = Step { schema: 1, progress: self.what, done: self.done, total: self.total };
        let line = serde_json::to_string(&step).unwrap_or_default();
        // Without the priority of the journal: the line is for a program.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }

    /// Draws the bar over the line before, after this time.
    fn draw(&mut self, passed: Duration) {
        let passed = passed.as_secs_f64();
        let now = (self.done - self.drawn) as f64 / passed;
        let weight = if self.drawn == 0 { 1.0 } else { (passed / RATE_SECONDS).min(1.0) };
        self.rate += (now - self.rate) * weight;
        self.drawn = self.done;
        let columns = sys::columns(&io::stderr()).filter(|columns| *columns > 0).map_or(80, usize::from);
        let _ = io::stderr().write_all(format!("{ERASE}{}", self.bar(columns)).as_bytes());
    }

    /// A bar that never needs a second line: on a narrow terminal it has numbers alone.
    fn bar(&self, columns: usize) -> String {
        let Self { what, total, done, .. } = *self;
        let (share, part) = (percent(done, total), part(done, total));
        match columns.saturating_sub(AROUND_BAR).min(*BAR.end()) {
            _ if columns < NUMBERS => format!("{what} {share}"),
            length if length < *BAR.start() => format!("{what} {share} {part}"),
            length => {
                let full = (done as f64 / total as f64 * length as f64) as usize;
                let bar: String = "=".repeat(full.min(length)) + if full < length { ">" } else { "" };
                let rest = rest_of_time(total.saturating_sub(done) as f64 / self.rate);
                format!("{what} [{bar:length$}] {part} {}/s {rest}", size(self.rate as u64))
            }
        }
    }

    /// True once in that time, and at the end.
    fn is_due(&mut self, every: Duration) -> bool {
        let due = self.last.elapsed() >= every;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

impl Progress for Shown {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        let mode = self.mode;
        match mode {
            Mode::Auto => {
                let passed = self.last.elapsed();
                if self.is_due(EVERY_BAR) {
                    self.draw(passed);
                }
            }
            Mode::Plain if self.is_due(EVERY) => {
                let line =
                    format!("{} {}, {}\n", self.what, percent(self.done, self.total), part(self.done, self.total));
                console::print_note(log::Level::Info, &line);
            }
            Mode::Json if self.done >= self.total || self.is_due(EVERY_JSON) => self.print_json(),
            Mode::Plain | Mode::Json | Mode::None => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.drawn > 0 {
            let _ = io::stderr().write_all(ERASE.as_bytes());
        }
    }
}

/// A time in its largest unit: at most three characters.
fn rest_of_time(seconds: f64) -> String {
    let units = [("d", 86_400.0), ("h", 3600.0), ("m", 60.0)];
    let (unit, length) = units.into_iter().find(|(_, length)| seconds >= 1.5 * length).unwrap_or(("s", 1.0));
    format!("{:.0}{unit}", (seconds / length).min(99.0))
}

/// A serial console is a terminal too, but what it shows is usually a log.
fn can_move_the_cursor() -> bool {
    let name = nix::unistd::ttyname(io::stderr()).unwrap_or_default();
    let name = name.to_string_lossy();
    let screen = name.strip_prefix("/dev/tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    io::stderr().is_terminal() && !console::is_dumb() && (screen || name.starts_with("/dev/pts/"))
}

fn percent(done: u64, total: u64) -> String {
    format!("{} %", done.saturating_mul(100).checked_div(total).unwrap_or(100))
}

/// Both numbers in the unit of the larger one: `4.0 of 136.0 MiB`.
fn part(done: u64, total: u64) -> String {
    let unit = unit(total);
    format!("{} of {} {}", in_unit(done, unit), in_unit(total, unit), UNITS[unit])
}

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// The largest unit of which there is one.
fn unit(bytes: u64) -> usize {
    (1..UNITS.len()).rev().find(|unit| bytes >> (10 * unit) > 0).unwrap_or_default()
}

fn in_unit(bytes: u64, unit: usize) -> String {
    if unit == 0 { bytes.to_string() } else { format!("{:.1}", bytes as f64 / 1024_f64.powi(unit as i32)) }
}

/// A size for people: binary units, one decimal.
#[must_use]
pub fn size(bytes: u64) -> String {
    let unit = unit(bytes);
    format!("{} {}", in_unit(bytes, unit), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(done: u64, total: u64, rate: f64) -> Shown {
        let (what, last, mode) = ("fetching", Instant::now(), Mode::Auto);
        Shown { what, total, done, last, mode, drawn: 0, rate }
    }

    #[test]
    fn a_line_of_progress_fits_into_the_terminal() {
        const MOST: u64 = (1 << 30) - 1;
        for columns in 16..200 {
            for done in [0, MOST / 2, MOST] {
                let line = shown(done, MOST, MOST as f64).bar(columns);
                assert!(line.len() <= columns, "{columns}: {line}");
            }
        }
        let of = |columns| shown(7 << 20, 16 << 20, f64::from(4 << 20)).bar(columns);
        assert_eq!(of(30), "fetching 43 %");
        assert_eq!(of(40), "fetching 43 % 7.0 of 16.0 MiB");
        assert_eq!(of(80), "fetching [==========>             ] 7.0 of 16.0 MiB 4.0 MiB/s 2s");
        assert_eq!(of(200), "fetching [=============>                ] 7.0 of 16.0 MiB 4.0 MiB/s 2s");
        assert!(shown(5, 5, 1.0).bar(80).contains("[========================] "));
    }

    #[test]
    fn a_rest_of_time_is_short() {
        let rests = [0.0, 2.4, 89.0, 91.0, 5400.0, 130_000.0, 1e12, f64::INFINITY, f64::NAN].map(rest_of_time);
        assert_eq!(rests, ["0s", "2s", "89s", "2m", "2h", "2d", "99d", "99d", "99s"]);
    }

    #[test]
    fn one_size_has_one_unit() {
        assert_eq!(
            (size(0), size(1023), size(1024), size(1536)),
            ("0 B".into(), "1023 B".into(), "1.0 KiB".into(), "1.5 KiB".into())
        );
        assert_eq!((size(136 << 20), size(u64::MAX)), ("136.0 MiB".into(), "16777216.0 TiB".into()));
        assert_eq!(part(512 << 10, 136 << 20), "0.5 of 136.0 MiB");
        assert_eq!((percent(1, 3), percent(0, 0)), ("33 %".into(), "100 %".into()));
    }
}
