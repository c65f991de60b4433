//! The follower: copies the kernel log (kernel: ABI/testing/dev-kmsg) and the lines of health runs into the log of a try.
//!
//! The log is a ring in a file of fixed length. A NUL marks its end, which is also its beginning once it is full; no line has
//! one.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::mem;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bootenv::TrialId;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{OURS, Traces, VERDICT};
use crate::base::interrupt::{self, Held};
use crate::base::{files, limits, text};
use crate::device::blocks::System;

/// The least time between two syncs.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest record of the kernel log, in bytes: `PRINTKRB_RECORD_MAX` (kernel/printk/internal.h) with room to spare.
const RECORD: usize = 16 * 1024;
/// Hangs become panics in a trial: nothing else of them is left after a reset. The checks of the kernel are off by default.
const HANGS: [(&str, &str); 3] =
    [("softlockup_panic", "1"), ("hung_task_timeout_secs", "300"), ("hung_task_panic", "1")];

impl Traces {
    /// Follows this try until a health run decides, or until SIGTERM. `first` are lines about it.
    ///
    /// # Errors
    /// Errors of the filesystem, also if the activation made no log for this try.
    pub fn follow(&self, trial: TrialId, number: u8, first: &[String]) -> io::Result<()> {
        let log = Log::open(files::open_existing(&self.log(trial, number))?)?;
        let pipe = self.open_pipe()?;
        // Keeps the end of one health run from being the end of the pipe.
        let writer = files::open_existing(&self.pipe)?;
        let hangs = self.panic_on_hangs();
        let held = Held::begin().map_err(io::Error::other)?;
        let kernel = Source::new(files::open_stream(&self.kmsg)?);
        let mut follower = Follower {
            log,
            kernel,
            health: Source::new(pipe),
            fresh: String::new(),
            next: None,
            known: vec![],
            synced: None,
        };
        follower.ours(&format!("trial {trial} try {number}"));
        first.iter().for_each(|line| follower.ours(line));
        let followed = follower.run();
        drop((held, writer));
        for (name, before) in hangs {
            self.set_kernel(name, &before);
        }
        let _ = std::fs::remove_file(&self.pipe); // it is in memory, and nothing is lost
        followed
    }

    fn open_pipe(&self) -> io::Result<File> {
        match std::fs::remove_file(&self.pipe) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => mkfifo(&self.pipe, Mode::from_bits_truncate(0o600))?,
        }
        files::open_stream(&self.pipe)
    }

    /// Gives the values before.
    fn panic_on_hangs(&self) -> Vec<(&'static str, String)> {
        let set = |(name, value): (&'static str, &str)| {
            let before = files::read_kernel(&self.kernel.join(name)).ok()?.trim().to_owned();
            self.set_kernel(name, value);
            Some((name, before))
        };
        // Backwards at the end: the time of a hung task comes last.
        HANGS.into_iter().filter_map(set).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn set_kernel(&self, name: &str, value: &str) {
        let path = self.kernel.join(name);
        let written = files::open_existing(&path).and_then(|file| file.write_all_at(value.as_bytes(), 0));
        written.unwrap_or_else(|e| log::info!("cannot set {}: {e}", path.display()));
    }
}

struct Follower {
    log: Log,
    kernel: Source,
    health: Source,
    /// Lines that are not in the log yet.
    fresh: String,
    /// Number of the next record of the kernel.
    next: Option<u64>,
    /// The last line of each check, by its beginning: a health run repeats it every few seconds.
    known: Vec<(String, String)>,
    synced: Option<Instant>,
}

impl Follower {
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.read_kernel()?;
            let decided = self.read_health()?;
            let ends = decided || interrupt::came();
            let due = self.synced.is_none_or(|synced| synced.elapsed() >= PAUSE);
            if !self.fresh.is_empty() && (due || ends) {
                self.log.append(&mem::take(&mut self.fresh))?;
                self.synced = Some(Instant::now());
            }
            if ends {
                return Ok(());
            }
            self.wait();
        }
    }

    /// True if a second's share of the log is used up: the kernel keeps the rest, or counts what it could not.
    fn is_full(&self) -> bool {
        self.fresh.len() >= limits::EVIDENCE_RATE_BYTES
    }

    fn wait(&self) {
        let due = self.synced.map_or(Duration::ZERO, |synced| PAUSE.saturating_sub(synced.elapsed()));
        let most = if self.fresh.is_empty() { interrupt::POLL } else { due.min(interrupt::POLL) };
        let mut sources = vec![];
        if !self.health.ended {
            sources.push(PollFd::new(self.health.file.as_fd(), PollFlags::POLLIN));
        }
        if !self.kernel.ended && !self.is_full() {
            sources.push(PollFd::new(self.kernel.file.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut sources, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO));
    }

    fn read_kernel(&mut self) -> io::Result<()> {
        while !self.is_full() {
            let Some(lines) = self.kernel.lines()? else { break };
            for line in lines.lines() {
                self.of_kernel(line);
            }
        }
        Ok(())
    }

    /// A record: `priority,number,microseconds,flags;text`. A line that begins with a blank is about its device.
    fn of_kernel(&mut self, line: &str) {
        if line.starts_with(' ') || line.is_empty() {
            return;
        }
        let record = line.split_once(';').and_then(|(head, text)| {
            let mut head = head.split(',').skip(1);
            Some((head.next()?.parse::<u64>().ok()?, head.next()?.parse::<u64>().ok()?, text))
        });
        let Some((number, time, text)) = record else {
            self.fresh += &format!("[    ?.??????] {}\n", text::printable(line));
            return;
        };
        let left_out = self.next.map_or(0, |next| number.saturating_sub(next));
        if left_out > 0 {
            self.ours(&format!("left out {left_out} lines of the kernel log: they came too fast"));
        }
        self.next = Some(number + 1);
        let (seconds, rest) = (time / 1_000_000, time % 1_000_000);
        self.fresh += &format!("[{seconds:5}.{rest:06}] {}\n", text::printable(text));
    }

    /// True once a health run decided.
    fn read_health(&mut self) -> io::Result<bool> {
        let mut decided = false;
        while let Some(lines) = self.health.lines()? {
            for line in lines.lines() {
                decided |= line.split(' ').next() == Some(VERDICT);
                if !self.is_known(line) {
                    self.ours(line);
                }
            }
        }
        Ok(decided)
    }

    /// True if the last line about the same check, or another subject of two words, was this one.
    fn is_known(&mut self, line: &str) -> bool {
        let subject = line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        match self.known.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, last)) if last == line => true,
            Some((_, last)) => {
                line.clone_into(last);
                false
            }
            None => {
                self.known.push((subject, line.to_owned()));
                self.known.drain(..self.known.len().saturating_sub(limits::EVIDENCE_CHECKS));
                false
            }
        }
    }

    fn ours(&mut self, line: &str) {
        let uptime = System::default().uptime().unwrap_or_default();
        self.fresh += &format!("{OURS}{uptime:.1} {}\n", text::printable(line));
    }
}

/// Lines of a file that never makes its reader wait.
struct Source {
    file: File,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    /// Nothing more comes. Neither the kernel log nor a pipe that somebody has open ever ends.
    ended: bool,
}

impl Source {
    fn new(file: File) -> Self {
        Self { file, rest: vec![], ended: false }
    }

    /// Whole lines; `None` if there are none for now.
    fn lines(&mut self) -> io::Result<Option<String>> {
        let mut buffer = [0; RECORD];
        let read = match self.file.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            // The record was overwritten before it was read; the next one shows how many were.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) || e.kind() == ErrorKind::Interrupted => {
                return Ok(Some(String::new()));
            }
            Err(e) => return Err(e),
        };
        self.ended = read == 0;
        self.rest.extend_from_slice(&buffer[..read]);
        let whole = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.ended || self.rest.len() >= RECORD => self.rest.len(),
            None => 0,
        };
        let lines = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        self.rest.drain(..whole);
        Ok((!self.ended || !lines.is_empty()).then_some(lines))
    }
}

/// The file of a try.
pub(super) struct Log {
    file: File,
    /// Where the next line goes.
    at: u64,
    size: u64,
}

impl Log {
    pub(super) fn open(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0).min(limits::EVIDENCE_LOG_BYTES)];
        file.read_exact_at(&mut bytes, 0)?;
        let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(0) as u64;
        if size == limits::EVIDENCE_LOG_BYTES as u64 {
            Ok(Self { file, at, size })
        } else {
            Err(ErrorKind::InvalidData.into())
        }
    }

    /// Writes lines over what is there, and the mark behind them, and syncs.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<()> {
        let mut bytes = lines.as_bytes().to_vec();
        bytes.push(0);
        let room = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let (first, rest) = bytes.split_at(bytes.len().min(room));
        self.file.write_all_at(first, self.at)?;
        self.file.write_all_at(rest, 0)?;
        self.at = (self.at + lines.len() as u64) % self.size;
        self.file.sync_data()
    }
}

/// The lines of a log, the latest last. The oldest one may be cut where the log is full.
pub(super) fn unrolled(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (new, old) = bytes.split_at(end);
    let old: Vec<u8> = old.iter().copied().filter(|byte| *byte != 0).collect();
    let old = old.iter().position(|byte| *byte == b'\n').map_or(&[][..], |cut| &old[cut + 1..]);
    let text = String::from_utf8_lossy(&[old, new].concat()).into_owned();
    let is_plain = |line: &str| line.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let shown = |line: &str| if is_plain(line) { line.to_owned() } else { text::printable(line) };
    text.lines().map(|line| shown(line) + "\n").collect()
}
