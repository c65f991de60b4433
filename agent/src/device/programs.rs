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

use crate::base::error::{Error, Reason};
use crate::base::{files, text};

/// Where tools are if the environment has no `PATH`.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Reason of an error in a program.
const UNSAFE: Reason = Reason::UnsafeFile;
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
    text::escape(&file.file_name().unwrap_or_default().to_string_lossy())
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
    let mut command = command(file)?;
    let unheard = |cause: std::io::Error| format!("cannot read its output: {cause}");
    let (reader, writer) = std::io::pipe().map_err(unheard)?;
    let mut output = Output::new(reader).map_err(unheard)?;
    let mut child = command
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

/// A program that nobody but root and this user can have written. Its path is resolved once, and what was checked is run: no
/// link on the way can change in between.
///
/// # Errors
/// Why it is not run.
#[expect(clippy::disallowed_methods, reason = "this is the one way to run a program")]
pub fn command(file: &Path) -> Result<Command, String> {
    let untrusted = |e: Error| format!("{}. {}", e.message, e.remedy);
    let missing = || format!("{} is not there", file.display());
    let real = files::resolve(file, UNSAFE).map_err(untrusted)?.ok_or_else(missing)?;
    let meta = real.symlink_metadata().map_err(|e| format!("cannot inspect {}: {e}", real.display()))?;
    if !meta.is_file() {
        return Err(format!("{} is not a regular file", real.display()));
    }
    files::check_owner(&meta, &real, UNSAFE).map_err(untrusted)?;
    let mut command = Command::new(&real);
    // Some programs, such as those of busybox, go by the name that they were called by.
    command.arg0(file);
    Ok(command)
}

/// A tool of the system, from the first folder of `PATH` that has one that can be run.
///
/// # Errors
/// Why there is none.
pub fn tool(name: &str) -> Result<Command, String> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut why = format!("{name} is not there");
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        let file = folder.join(name);
        if file.symlink_metadata().is_ok() {
            match command(&file) {
                Ok(command) => return Ok(command),
                Err(untrusted) => why = untrusted,
            }
        }
    }
    Err(why)
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

/// Output of a program. The reader never waits for its end: a child that the program left behind must not block the agent.
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
        text::escape(String::from_utf8_lossy(&self.kept).trim())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A program `bin/PROGRAM` that says which file it is.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("program"), "#!/bin/sh\necho $0\n").unwrap();
        fs::set_permissions(bin.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn the_program_that_was_checked_is_the_one_that_runs() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        symlink("bin", path("alias")).unwrap();
        symlink("../bin/program", path("bin/10-check")).unwrap();
        let ended = run(&path("alias/10-check"), Duration::from_secs(20), [("", ""); 0]).unwrap();
        let real = path("bin/program").canonicalize().unwrap();
        assert_eq!(ended.said, text::escape(real.to_str().unwrap()), "no link is followed again");
        assert!(run(&path("bin/none"), Duration::from_secs(20), [("", ""); 0]).unwrap_err().contains("not there"));
    }

    #[test]
    fn no_program_runs_below_a_folder_that_others_can_write() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("checks")).unwrap();
        symlink("../bin/program", path("checks/10-check")).unwrap();
        // The folder of the link, that of the program, and one above both.
        for spoilt in ["checks", "bin", ""] {
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o777)).unwrap();
            let why = run(&path("checks/10-check"), Duration::from_secs(20), [("", ""); 0]).unwrap_err();
            assert!(why.contains("writable by others"), "{spoilt}: {why}");
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o755)).unwrap();
        }
        command(&path("checks/10-check")).unwrap();
        fs::set_permissions(path("bin/program"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(command(&path("checks/10-check")).unwrap_err().contains("writable by others"));
    }
}
