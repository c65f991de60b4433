//! Output of both commands for people and scripts, on standard output and standard error.
//!
//! `println!`, `eprintln!` and loggers made of them panic once nobody reads: a console that hung up, a journal that was
//! restarted or `| head` must not end an update in its middle, and a trial without a commit.

use std::io::{self, ErrorKind, Write as _};

use bootenv::step::{self, Step};
use log::{Log, Metadata, Record};
use simple_logger::SimpleLogger;

pub mod progress;

/// To standard output. A reader that went away has what it wanted.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        log::error!("cannot write to standard output: {error}");
    }
}

/// To standard error. A failure to write there cannot be reported.
pub fn print_error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
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
            print_error(&format!("{:<5} [{}] {}\n", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}
