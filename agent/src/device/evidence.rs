//! Evidence of a trial: `update/evidence/`. Why a release failed must be known after the device went back, and its own system
//! may not have lived to say so.
//!
//! | name | content |
//! |---|---|
//! | `T.json` | the trial that the evidence is for, and its attempt; made by the activation |
//! | `T.N.log` | kernel log and stages of try N; made by the activation, with all its blocks |
//! | `T.N.panic` | last words of the kernel in try N, from pstore |
//!
//! The folder is empty while no trial is due, so an ordinary boot finds out with one look that it has nothing to do.

mod follow;
mod pstore;

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use bootenv::protocol::TRIES;
use bootenv::{SlotId, TrialId};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::Reason;
use crate::base::replace::{folder_of, replace};
use crate::base::words::words;
use crate::base::{files, json, limits, text};
use crate::device::blocks::RUN;
use crate::state::format::as_text;
use crate::state::state::STATE_FILE;

/// Begins each line of this program in a log. A line of the kernel begins with its time in brackets.
const OURS: &str = "# ";
/// The line that ends a log.
const VERDICT: &str = "verdict";
/// The line of each health run.
const HEALTH: &str = "health";

words! {
    /// How far a try of a trial came.
    pub enum Stage {
        /// Nothing is known of it: the bootloader or the kernel ended it.
        NoTrace = "loader or kernel: no trace",
        /// A health run came, and the step `evidence` did not run: the stage is not known.
        NotFollowed = "not followed",
        /// The kernel panicked before the step `evidence`.
        Kernel = "kernel",
        /// The step `evidence` ran, and no health run.
        Services = "services",
        /// A health run judged it.
        Health = "health",
        /// A health run decided about the trial.
        Verdict = "verdict",
    }
}

/// `T.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// The trial.
    #[serde(with = "as_text")]
    pub trial: TrialId,
    /// The slot on trial.
    #[serde(with = "as_text")]
    pub slot: SlotId,
    /// The release on trial.
    pub release: Digest,
    /// Id of the attempt that the trial belongs to.
    pub attempt: String,
}

/// Traces of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 1, 2 or 3.
    pub number: u8,
    /// Kernel log and lines of this program, the latest last.
    pub log: String,
    /// Last words of the kernel, if it left any.
    pub panic: String,
}

impl Trace {
    /// Lines of this program that begin with this word, each without it.
    pub fn said(&self, word: &str) -> impl Iterator<Item = &str> {
        let ours = self.log.lines().filter_map(|line| line.strip_prefix(OURS)?.split_once(' '));
        ours.filter_map(move |(_, line)| line.strip_prefix(word)?.strip_prefix(' '))
    }

    /// How far it came.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.said(VERDICT).next().is_some() {
            Stage::Verdict
        } else if self.said(HEALTH).next().is_some() {
            Stage::Health
        } else if !self.log.is_empty() {
            Stage::Services
        } else if !self.panic.is_empty() {
            Stage::Kernel
        } else {
            Stage::NoTrace
        }
    }

    /// The last time in the log, in seconds since the start of the kernel.
    #[must_use]
    pub fn seconds(&self) -> Option<u64> {
        let time = |line: &str| line.trim_start_matches(['#', '[', ' ']).split(['.', ']', ' ']).next()?.parse().ok();
        self.log.lines().rev().find_map(time)
    }
}

/// Traces of a trial, and the places that they come from.
#[derive(Clone, Debug)]
pub struct Traces {
    folder: PathBuf,
    /// The kernel log.
    kmsg: PathBuf,
    /// Records that the kernel kept over a reset.
    pstore: PathBuf,
    /// Settings of the kernel.
    kernel: PathBuf,
    /// Health runs talk to the follower here.
    pipe: PathBuf,
}

impl Traces {
    /// The evidence beside a `state.json`. Beside any but that of a device, files of that folder stand for those of the kernel.
    #[must_use]
    pub fn beside(state: &Path) -> Self {
        let update = folder_of(state);
        let folder = update.join("evidence");
        if state == Path::new(STATE_FILE) {
            let pipe = Path::new(RUN).join("evidence");
            return Self {
                folder,
                kmsg: "/dev/kmsg".into(),
                pstore: "/sys/fs/pstore".into(),
                kernel: "/proc/sys/kernel".into(),
                pipe,
            };
        }
        let beside = |name: &str| update.join(name);
        Self {
            folder,
            kmsg: beside("kmsg"),
            pstore: beside("pstore"),
            kernel: beside("sys-kernel"),
            pipe: beside("evidence-pipe"),
        }
    }

    /// The trial that evidence is kept for; `None` in an ordinary boot.
    #[must_use]
    pub fn announced(&self) -> Option<Announced> {
        let names = fs::read_dir(&self.folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let name = names.into_iter().find(|name| name.ends_with(".json"))?;
        let path = self.folder.join(&name);
        let read = files::read(&path, limits::EVIDENCE_ABOUT_BYTES, Reason::StateUnusable);
        let about = read.and_then(|bytes| json::parse(&bytes.unwrap_or_default(), "the announcement of a trial"));
        about.inspect_err(|error| log::warn!("{error}")).ok()
    }

    /// Makes room for the evidence of a trial, and empties pstore, so that a panic found later belongs to it. Traces of an
    /// earlier trial are deleted.
    ///
    /// # Errors
    /// The cause if the evidence will not be complete.
    pub fn announce(&self, announced: &Announced) -> io::Result<()> {
        self.clear()?;
        // The records of the trial come first.
        let free = statvfs(folder_of(&self.folder)).map(|stat| stat.blocks_available() * stat.fragment_size())?;
        if free < limits::EVIDENCE_FREE_BYTES {
            return Err(ErrorKind::StorageFull.into());
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for number in 1..=TRIES {
            // Blocks of its own: later writes need no room, and no change of the filesystem's tables.
            replace(&self.log(announced.trial, number), &vec![0; limits::EVIDENCE_LOG_BYTES], 0o600)?;
        }
        let path = self.folder.join(format!("{}.json", announced.trial));
        // The first try does it where this may not.
        pstore::clear(&self.pstore).unwrap_or_else(|e| log::info!("cannot empty {}: {e}", self.pstore.display()));
        replace(&path, &serde_json::to_vec(announced)?, 0o600)
    }

    /// Deletes the evidence, after it is in a record or because nobody needs it. Files that a power cut brings back
    /// are deleted again.
    ///
    /// # Errors
    /// Errors of the filesystem.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn log(&self, trial: TrialId, number: u8) -> PathBuf {
        self.folder.join(format!("{trial}.{number}.log"))
    }

    fn panic(&self, trial: TrialId, number: u8) -> PathBuf {
        self.folder.join(format!("{trial}.{number}.panic"))
    }

    /// Number of tries whose log was begun. For a boot whose counter cannot be read.
    #[must_use]
    pub fn begun(&self, trial: TrialId) -> u8 {
        (1..=TRIES).rev().find(|number| !self.read_log(trial, *number).is_empty()).unwrap_or(0)
    }

    /// Moves what the kernel kept over a reset into the evidence of this try, and makes room for the next panic. 0: it belongs to
    /// no try, and is deleted.
    ///
    /// # Errors
    /// Errors of the filesystem; the kernel's records are still there.
    pub fn harvest(&self, trial: TrialId, number: u8) -> io::Result<()> {
        let Some(text) = pstore::read(&self.pstore) else { return Ok(()) };
        if number > 0 {
            let path = self.panic(trial, number);
            let whole = self.read_panic(trial, number) + &text;
            replace(&path, tail(&whole, limits::PANIC_BYTES).as_bytes(), 0o600)?;
            log::warn!("the kernel left its last words in try {number} of trial {trial}");
        }
        pstore::clear(&self.pstore)
    }

    /// The traces of each try.
    #[must_use]
    pub fn tries(&self, trial: TrialId) -> Vec<Trace> {
        let one = |number| Trace { number, log: self.read_log(trial, number), panic: self.read_panic(trial, number) };
        (1..=TRIES).map(one).collect()
    }

    fn read_log(&self, trial: TrialId, number: u8) -> String {
        let path = self.log(trial, number);
        let bytes = files::read(&path, limits::EVIDENCE_LOG_BYTES as u64, Reason::StateUnusable);
        follow::unrolled(&bytes.ok().flatten().unwrap_or_default())
    }

    fn read_panic(&self, trial: TrialId, number: u8) -> String {
        let path = self.panic(trial, number);
        let bytes = files::read(&path, limits::PANIC_BYTES as u64, Reason::StateUnusable);
        String::from_utf8_lossy(&bytes.ok().flatten().unwrap_or_default()).into_owned()
    }

    /// Adds a line to the log of this try, if a trial is followed. Never a reason for a command to fail.
    pub fn say(&self, line: &str) {
        let is_pipe = self.pipe.symlink_metadata().is_ok_and(|meta| meta.file_type().is_fifo());
        if !is_pipe {
            return;
        }
        // One write of this length reaches the reader whole (pipe(7)).
        let line = cut(&text::printable(line), limits::EVIDENCE_LINE_BYTES).to_owned() + "\n";
        let written = files::open_existing(&self.pipe).and_then(|mut pipe| pipe.write_all(line.as_bytes()));
        written.unwrap_or_else(|e| log::debug!("the log of this try lacks a line: {e}"));
    }

    /// Says how a health run begins, or what keeps it from looking.
    pub fn health(&self, how: &str) {
        self.say(&format!("{HEALTH} {how}"));
    }

    /// Says that a health run decided, which ends the log.
    pub fn end(&self, verdict: &str) {
        self.say(&format!("{VERDICT} {verdict}"));
    }
}

/// The end of a text, from the start of a line, with at most this many bytes.
#[must_use]
pub fn tail(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let from = (text.len() - most..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let end = &text[from..];
    end.split_once('\n').map_or(end, |(_, whole)| whole)
}

/// The beginning of an ASCII text.
fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or(text)
}

#[cfg(test)]
mod tests;
