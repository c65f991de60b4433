//! Output of both commands for people and scripts, on standard output and standard error.
//!
//! `println!`, `eprintln!` and loggers made of them panic once nobody reads: a console that hung up, a journal that was
//! restarted or `| head` must not end an update in its middle, and a trial without a commit.

use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use bootenv::step::{self, Step};
use log::{Level, Log, Metadata, Record};
use nix::sys::stat::fstat;
use simple_logger::SimpleLogger;

use crate::base::error::{Error, Reason, Result};
use crate::base::{replace, sys};

pub mod progress;

/// The first error of standard output.
static LOST: OnceLock<String> = OnceLock::new();

/// Columns of a terminal that does not know them: a serial line.
const USUAL_COLUMNS: usize = 80;

/// Abilities of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Columns, where text is to break; `None`: no terminal.
    pub columns: Option<usize>,
    /// True if words may have colours.
    pub colours: bool,
}

impl Terminal {
    /// Standard output as it is. `colours` decides about colours; without it they need a terminal with a `TERM` other than
    /// `dumb`, and no `NO_COLOR` (<https://no-color.org>).
    #[must_use]
    pub fn of_output(colours: Option<bool>) -> Self {
        let columns = sys::columns(&io::stdout()).map(|columns| match columns {
            0 => USUAL_COLUMNS,
            columns => usize::from(columns),
        });
        let plain = is_set("NO_COLOR") || is_dumb();
        Self { columns, colours: colours.unwrap_or(columns.is_some() && !plain) }
    }
}

/// True if this terminal only shows text, by `TERM`.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// To standard output. A reader that went away has what it wanted; any other error is kept for [`all_printed`].
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    note_output(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Keeps an error of standard output for [`all_printed`].
pub fn note_output(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error.to_string()); // the first error is the one that counts
    }
}

/// Checks that everything printed so far has arrived. A command that only reports fails with this error.
///
/// # Errors
/// 73 for a standard output that took less, such as a file on a full disk.
pub fn all_printed() -> Result<()> {
    match LOST.get() {
        None => Ok(()),
        Some(why) => Err(Error::new(Reason::Output, format!("cannot write to standard output: {why}"))
            .remedy("Make room there, or name another place.")),
    }
}

/// To standard error, as an error. A failure to write there cannot be reported.
pub fn print_error(text: &str) {
    print_note(Level::Error, text);
}

/// To standard error. If that is the journal, each line has its priority (`sd-daemon(3)`).
pub(crate) fn print_note(level: Level, text: &str) {
    let marked: String = match is_journal() {
        true => text.lines().map(|line| format!("<{}>{line}\n", priority(level))).collect(),
        false => text.to_owned(),
    };
    let _ = io::stderr().write_all(marked.as_bytes());
}

/// For a person in front of the device: to standard error, and to the console of the system if that is another place.
pub(crate) fn announce(text: &str) {
    let line = format!("kubesolo-update: {text}\n");
    print_note(Level::Info, &line);
    let console = |fd: BorrowedFd<'_>| fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let Ok(system) = replace::open_console() else { return };
    if console(io::stderr().as_fd()) != console(system.as_fd()) {
        let _ = (&system).write_all(line.as_bytes());
    }
}

/// Priorities of `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// True if standard error is the stream to the journal that systemd made, by device and inode in `JOURNAL_STREAM`
/// (`systemd.exec(5)`).
fn is_journal() -> bool {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_JOURNAL.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let found = fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        found.is_ok_and(|found| found == stream)
    })
}

/// Logs a step that is done. A test compares the order of these records with the model of the slot protocol, and with the
/// system calls between them.
pub(crate) fn log_step(step: Step) {
    log::debug!(target: step::TARGET, "{step}");
}

/// Logs to standard error from now on, by the levels of this logger.
pub fn log_to_stderr(levels: SimpleLogger) {
    log::set_max_level(levels.max_level());
    // An error means that this was done before.
    let _ = log::set_boxed_logger(Box::new(Unbreakable(levels)));
}

struct Unbreakable(SimpleLogger);

impl Log for Unbreakable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // In one piece, so that lines of two processes are not mixed.
            print_note(record.level(), &line(record));
        }
    }

    fn flush(&self) {}
}

/// A record for people. Only a debug record names its module.
fn line(record: &Record<'_>) -> String {
    match record.level() {
        Level::Error => format!("error: {}\n", record.args()),
        Level::Warn => format!("warning: {}\n", record.args()),
        Level::Info => format!("{}\n", record.args()),
        level => format!("{level:<5} [{}] {}\n", record.target(), record.args()),
    }
}
