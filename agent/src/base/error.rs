//! The one error type: what happened, what to do next, and the exit code that says so to a script.

mod reason;

use std::fmt;
use std::time::Duration;

pub use reason::Reason;
use serde::Serialize;

/// Exit codes of both commands. The numbers follow `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// Bytes are wrong: digest, size, format, or a limit exceeded.
    Data = 65,
    /// The source cannot be reached, or what was asked for is not there.
    Unavailable = 69,
    /// A fault of this program or of the system below it.
    Internal = 70,
    /// A slot or the boot environment cannot be written.
    CannotWrite = 73,
    /// Not now: window, block, trial, clock, failed before, lock.
    NotNow = 75,
    /// Not allowed: signature, channel, architecture, minimum version, downgrade, epoch.
    NotAllowed = 77,
    /// The configuration, a key or the boot environment is not usable as it is.
    Config = 78,
}

impl Exit {
    /// All exit codes of a failure, in order.
    pub const ALL: [Self; 8] = [
        Self::Usage,
        Self::Data,
        Self::Unavailable,
        Self::Internal,
        Self::CannotWrite,
        Self::NotNow,
        Self::NotAllowed,
        Self::Config,
    ];

    /// The meaning in a few words: the headings of `docs/troubleshooting.md`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Usage => "wrong command line",
            Self::Data => "wrong bytes",
            Self::Unavailable => "not reachable, or missing",
            Self::Internal => "internal",
            Self::CannotWrite => "cannot write",
            Self::NotNow => "not now",
            Self::NotAllowed => "not allowed",
            Self::Config => "configuration",
        }
    }

    /// The number that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A failed operation. `Display` gives one line: what happened and to which object, with its cause.
#[derive(Debug)]
pub struct Error {
    /// The cause as a word, which has the exit code: `reason` in `--json`.
    pub reason: Reason,
    /// Operation, object and cause.
    pub message: String,
    /// The next step, as a sentence; empty if there is none.
    pub remedy: String,
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// A failure, for scripts.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// Exit code of the program.
    pub exit_code: u8,
    /// The cause as a word; docs/troubleshooting.md lists all of them.
    pub reason: Reason,
    /// Operation, object and cause, for people.
    pub message: String,
    /// The next step, for people; empty if there is none.
    pub remedy: String,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a remedy.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), remedy: String::new(), retry_after: None }
    }

    /// The error for scripts: exit code, reason, message and next step.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self.report()).unwrap_or_default()
    }

    /// The same with its type.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        let Self { reason, message, remedy, .. } = self;
        let (message, remedy) = (message.clone(), remedy.clone());
        ErrorReport { exit_code: self.exit().code(), reason: *reason, message, remedy }
    }

    /// The exit code of the reason.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.reason.exit()
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Adds what to do next where nothing better is known than the exit code.
    #[must_use]
    pub fn advised(self) -> Self {
        if !self.remedy.is_empty() {
            return self;
        }
        let advice = match self.exit() {
            Exit::Usage => "See --help.",
            Exit::Data => "Create it again, or fetch it again.",
            Exit::Unavailable => "Check that it exists and is reachable, then try again.",
            Exit::Internal => "Try again with -vv, and report the output.",
            Exit::CannotWrite => "See the kernel log (dmesg): the medium may be failing or write-protected.",
            Exit::NotNow => "See `kubesolo-update status`, then try again.",
            Exit::NotAllowed => "See `kubesolo-update check`.",
            Exit::Config => "Correct it; `kubesolo-update doctor` checks every condition of an update.",
        };
        self.remedy(advice)
    }

    /// Puts what was being done in front of the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Turns an `io::Error` or the like into an [`Error`] that names operation and object.
pub trait Context<T> {
    /// `what` names operation and object: `write /mnt/vmlinuz`.
    fn context(self, reason: Reason, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, reason: Reason, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::new(reason, format!("cannot {what}: {e}")))
    }
}
