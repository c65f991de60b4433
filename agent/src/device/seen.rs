//! Marks of this boot: which parts of the integration were at work, for `doctor`. They lie in `/run`, where only root writes,
//! and last as long as the boot.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use bootenv::SlotId;

use crate::base::error::Reason;
use crate::base::replace::{folder_of, replace};
use crate::base::words::words;
use crate::base::{files, text};
use crate::device::blocks::System;

/// Folder of the marks, below the folder for this program in `/run`.
const FOLDER: &str = "seen";
/// Name of the mark with the active slot.
const ACTIVE: &str = "active";
/// Longest mark that is read, in bytes.
const BYTES: u64 = 256;

words! {
    /// A part of the integration that leaves a mark. The init stage leaves that of the deadline.
    pub enum Step {
        /// `healthcheck` was called.
        Health = "health",
        /// `run` was called.
        Run = "run",
        /// A deadline is armed in each trial.
        Deadline = "deadline",
    }
}

/// The first call of a step in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Seconds since the start of the kernel.
    pub uptime: u64,
    /// Name of the calling program, escaped; empty if it is unknown.
    pub by: String,
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Self { uptime: value("uptime")?.parse().ok()?, by: text::escape(value("by").unwrap_or_default()) })
    }
}

/// The caller of this process, by the kernel.
struct Caller {
    parent: u32,
    /// A person called: the process has a controlling terminal, which the console of an init is not.
    at_terminal: bool,
}

impl Caller {
    /// Reads the text of `/proc/self/stat` (`proc_pid_stat(5)`): behind the name in parentheses are state, parent, process
    /// group, session and terminal.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        Some(Self { parent, at_terminal: fields.nth(2)? != "0" })
    }
}

impl System {
    /// Time since the start of the kernel, in seconds.
    #[must_use]
    pub fn uptime(&self) -> Option<f64> {
        files::read_kernel(&self.proc.join("uptime")).ok()?.split(' ').next()?.parse().ok()
    }

    /// Marks that a unit, a timer or an init called this step. A call of a person shows nothing about the integration, and
    /// leaves no mark.
    pub fn mark(&self, step: Step) {
        if self.marked(step).is_some() {
            return;
        }
        let stat = files::read_kernel(&self.proc.join("self/stat")).unwrap_or_default();
        let Some(caller) = Caller::parse(&stat).filter(|caller| !caller.at_terminal) else { return };
        let by = files::read_kernel(&self.proc.join(format!("{}/comm", caller.parent))).unwrap_or_default();
        let uptime = self.uptime().unwrap_or_default() as u64;
        let mark = format!("uptime={uptime}\nby={}\n", text::escape(by.trim()));
        self.keep_mark(step.as_str(), &mark).unwrap_or_else(|e| log::debug!("no mark of {step}: {e}"));
    }

    /// The mark of this step; `None` if nothing called it in this boot, or if only root can read it.
    #[must_use]
    pub fn marked(&self, step: Step) -> Option<Mark> {
        Mark::parse(&self.read_mark(step.as_str())?)
    }

    /// Keeps the active slot as the first command of this boot finds it: the slot that the bootloader was asked to start.
    pub fn keep_active(&self, slot: SlotId) {
        if self.first_active().is_none() {
            self.keep_mark(ACTIVE, slot.as_str()).unwrap_or_else(|e| log::debug!("no mark of the active slot: {e}"));
        }
    }

    /// The slot that the bootloader was asked to start, if a command of this boot kept it.
    #[must_use]
    pub fn first_active(&self) -> Option<SlotId> {
        self.read_mark(ACTIVE)?.parse().ok()
    }

    fn read_mark(&self, name: &str) -> Option<String> {
        let bytes = files::read(&self.place_of_mark(name), BYTES, Reason::UnsafeFile).unwrap_or_else(|e| {
            log::debug!("{e}");
            None
        });
        String::from_utf8(bytes?).ok()
    }

    fn keep_mark(&self, name: &str, text: &str) -> io::Result<()> {
        let file = self.place_of_mark(name);
        for folder in [&*self.run, folder_of(&file)] {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        replace(&file, text.as_bytes(), 0o600)
    }

    fn place_of_mark(&self, name: &str) -> PathBuf {
        self.run.join(FOLDER).join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn system(folder: &tempfile::TempDir, terminal: &str) -> System {
        let proc = folder.path().join("proc");
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(proc.join("41")).unwrap();
        fs::write(proc.join("uptime"), "12.34 56.78\n").unwrap();
        fs::write(proc.join("self/stat"), format!("42 (a) b) S 41 42 42 {terminal} -1\n")).unwrap();
        fs::write(proc.join("41/comm"), "health\n").unwrap();
        System { proc, run: folder.path().join("run"), ..System::default() }
    }

    #[test]
    fn the_first_call_of_a_boot_leaves_a_mark() {
        let folder = tempfile::tempdir().unwrap();
        let system = system(&folder, "0");
        assert_eq!(system.marked(Step::Health), None);
        system.mark(Step::Health);
        fs::write(system.proc.join("uptime"), "99.9 1\n").unwrap();
        system.mark(Step::Health);
        assert_eq!(system.marked(Step::Health), Some(Mark { uptime: 12, by: "health".into() }));
        assert_eq!(system.marked(Step::Run), None);
        let mode = |path: PathBuf| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o7777;
        assert_eq!((mode(system.run.join("seen")), mode(system.run.join("seen/health"))), (0o700, 0o600));
    }

    #[test]
    fn a_call_at_a_terminal_leaves_no_mark() {
        let folder = tempfile::tempdir().unwrap();
        let system = system(&folder, "1026");
        system.mark(Step::Run);
        assert_eq!(system.marked(Step::Run), None);
    }

    #[test]
    fn the_mark_of_the_init_stage_is_read() {
        assert_eq!(Mark::parse("uptime=3\n"), Some(Mark { uptime: 3, by: String::new() }));
        assert_eq!(Mark::parse("uptime=soon\n"), None);
    }

    #[test]
    fn the_active_slot_is_that_of_the_first_command() {
        let folder = tempfile::tempdir().unwrap();
        let system = system(&folder, "0");
        assert_eq!(system.first_active(), None);
        system.keep_active(SlotId::B);
        system.keep_active(SlotId::A);
        assert_eq!(system.first_active(), Some(SlotId::B));
    }
}
