//! Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere. Always on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::base::console;

/// How often a plain line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Counts bytes as they are done.
pub trait Progress {
    /// `bytes` more are done.
    fn advance(&mut self, bytes: u64);
}

/// Nobody watches.
impl Progress for () {
    fn advance(&mut self, _bytes: u64) {}
}

/// Progress for a person or a serial console.
#[derive(Debug)]
pub struct Shown {
    what: &'static str,
    total: u64,
    done: u64,
    last: Instant,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// Starts to show `what` of `total` bytes.
    #[must_use]
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = (wanted() && can_move_the_cursor()).then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            let bar = ProgressBar::new(total).with_message(what);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self { what, total, done: 0, last: Instant::now(), bar }
    }
}

impl Progress for Shown {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if wanted() && self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            let percent = self.done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
            console::print_error(&format!("{}: {percent} % of {} done\n", self.what, size(self.total)));
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

/// Not with `--quiet`, which is for errors.
fn wanted() -> bool {
    log::log_enabled!(log::Level::Warn)
}

/// A serial console is a terminal too, but what it shows is usually a log.
fn can_move_the_cursor() -> bool {
    let name = nix::unistd::ttyname(std::io::stderr()).unwrap_or_default();
    let name = name.to_string_lossy();
    let screen = name.strip_prefix("/dev/tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    std::io::stderr().is_terminal() && (screen || name.starts_with("/dev/pts/"))
}

/// A size for people: binary units, one decimal.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
