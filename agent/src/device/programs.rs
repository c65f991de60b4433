//! Executables of the image that are asked for a verdict: a folder of them, bounded in time and in what they may say.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, PipeReader, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::base::error::Reason;
use crate::base::{files, replace, text};

/// Bytes of a program's output that are kept for the message; the rest is read and forgotten.
const OUTPUT: usize = 4096;
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it did not end in time, and was ended with all its children.
    pub status: Option<ExitStatus>,
    /// The beginning of what it printed, escaped.
    pub said: String,
}

/// The executables of a folder in the order of their names; a missing folder has none.
///
/// # Errors
/// Why the folder cannot be read.
pub fn executables(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let why = |cause: std::io::Error| format!("cannot read {}: {cause}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(why)?,
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(why)?.path();
        let runs = path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if runs && !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The name of a program, as it is shown.
#[must_use]
pub fn name(file: &Path) -> String {
    text::shown(&file.file_name().unwrap_or_default().to_string_lossy())
}

/// Runs a program to its end, or for as long as the budget lasts.
///
/// # Errors
/// Why it cannot be started.
pub fn run<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    file: &Path,
    budget: Duration,
    environment: impl IntoIterator<Item = (K, V)>,
) -> Result<Ended, String> {
    ours(file)?;
    let unheard = |cause: std::io::Error| format!("cannot read its output: {cause}");
    let (reader, writer) = std::io::pipe().map_err(unheard)?;
    let mut output = Output::new(reader).map_err(unheard)?;
    let mut child = Command::new(file)
        .stdin(Stdio::null())
        .stderr(writer.try_clone().map_err(unheard)?)
        .stdout(writer)
        .envs(environment)
        .process_group(0)
        .spawn()
        .map_err(|cause| format!("cannot start: {cause}"))?;
    let status = wait(&mut child, budget, &mut output);
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    if status.is_none() {
        let _ = child.wait();
    }
    output.take_in();
    Ok(Ended { status, said: output.said() })
}

/// What others can write is not run: it would do what they want, as root.
fn ours(file: &Path) -> Result<(), String> {
    let folder = replace::folder_of(file);
    let look = |path: &Path| path.metadata().map_err(|e| format!("cannot inspect {}: {e}", path.display()));
    let (folder_meta, meta) = (look(folder)?, look(file)?);
    let checked = files::check_folder(&folder_meta, folder, Reason::UnsafeFile)
        .and_then(|()| files::check_owner(&meta, file, Reason::UnsafeFile));
    checked.map_err(|e| format!("{}. {}", e.message, e.remedy))
}

fn wait(child: &mut Child, budget: Duration, output: &mut Output) -> Option<ExitStatus> {
    let end = Instant::now() + budget;
    loop {
        let talks = output.take_in();
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() >= end => return None,
            Ok(None) if talks => {}
            Ok(None) => std::thread::sleep(POLL),
            Err(_) => return None,
        }
    }
}

/// What a program says. It is never waited for: one that leaves a child behind must not hold up whoever asks.
struct Output {
    pipe: PipeReader,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: PipeReader) -> std::io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe, kept: vec![] })
    }

    /// Reads what is there, so that a program that prints much goes on; true if that was something. Not more than a pipe
    /// holds, so that one that prints without end does not keep this from looking at the time.
    fn take_in(&mut self) -> bool {
        let mut buffer = [0; 4096];
        for n in 0..16 {
            let Ok(read @ 1..) = self.pipe.read(&mut buffer) else { return n > 0 };
            let room = OUTPUT - self.kept.len();
            self.kept.extend_from_slice(&buffer[..read.min(room)]);
        }
        true
    }

    fn said(&self) -> String {
        text::shown(String::from_utf8_lossy(&self.kept).trim())
    }
}
