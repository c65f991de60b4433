//! Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere. Always on stderr.

use std::fmt;
use std::io::{IsTerminal, Write as _};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use crate::base::{console, sys};

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
    bar: Option<ProgressBar>,
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
        let bar = (mode == Mode::Auto).then(|| bar(what, total));
        let shown = Self { what, total, done: 0, last: Instant::now(), mode, bar };
        if mode == Mode::Json {
            shown.print_json();
        }
        shown
    }

    fn print_json(&self) {
        let step = Step { schema: 1, progress: self.what, done: self.done, total: self.total };
        let line = serde_json::to_string(&step).unwrap_or_default();
        // Without the priority of the journal: the line is for a program.
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
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
            Mode::Auto => self.bar.iter().for_each(|bar| bar.set_position(self.done)),
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
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar that never needs a second line: on a narrow terminal it has numbers alone.
fn bar(what: &'static str, total: u64) -> ProgressBar {
    let columns = sys::columns(&std::io::stderr()).filter(|columns| *columns > 0).map_or(80, usize::from);
    let template = template(columns);
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style
        .with_key("share", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = out.write_str(&percent(state.pos(), state.len().unwrap_or_default()));
        })
        .with_key("part", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = out.write_str(&part(state.pos(), state.len().unwrap_or_default()));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}/s", size(state.per_sec() as u64));
        });
    ProgressBar::new(total).with_message(what).with_style(style.progress_chars("=> "))
}

/// The parts that fit into so many columns.
fn template(columns: usize) -> String {
    match columns.saturating_sub(AROUND_BAR).min(*BAR.end()) {
        _ if columns < NUMBERS => "{msg} {share}".to_owned(),
        length if length < *BAR.start() => "{msg} {share} {part}".to_owned(),
        length => format!("{{msg}} [{{bar:{length}}}] {{part}} {{rate}} {{eta}}"),
    }
}

/// A serial console is a terminal too, but what it shows is usually a log.
fn can_move_the_cursor() -> bool {
    let name = nix::unistd::ttyname(std::io::stderr()).unwrap_or_default();
    let name = name.to_string_lossy();
    let screen = name.strip_prefix("/dev/tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    std::io::stderr().is_terminal() && !console::is_dumb() && (screen || name.starts_with("/dev/pts/"))
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

    #[test]
    fn a_line_of_progress_fits_into_the_terminal() {
        for columns in 16..200 {
            let template = template(columns);
            let longest = [
                ("{msg}", "fetching".to_owned()),
                ("{share}", percent(1, 1)),
                ("{part}", part((1 << 30) - 1, (1 << 30) - 1)),
                ("{rate}", format!("{}/s", size((1 << 30) - 1))),
                ("{eta}", "99d".to_owned()),
            ];
            let line = longest.iter().fold(template, |line, (key, text)| line.replace(key, text));
            let (before, bar) = line.split_once("{bar:").map_or((line.as_str(), 0), |(before, rest)| {
                (before, rest.split('}').next().unwrap().parse().unwrap())
            });
            let after = line.split_once("{bar:").map_or("", |(_, rest)| rest.split_once('}').unwrap().1);
            assert!(before.len() + bar + after.len() <= columns, "{columns}: {line}");
        }
        assert_eq!(template(40), "{msg} {share} {part}");
        assert!(template(80).contains("{bar:24}") && template(120).contains("{bar:30}"));
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
