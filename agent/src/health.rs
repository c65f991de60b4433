//! Is this boot healthy? The data partition takes a write, and every executable in `health.d` ends with 0.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;

use crate::text;

/// Bytes written, synced and read back on the data partition, as KubeSolo OS's agent does.
const PROBE: usize = 1024;
/// Bytes of a check's output that are kept for the message.
const OUTPUT: u64 = 4096;
/// How often a running check is looked at.
const POLL: Duration = Duration::from_millis(20);

/// One check and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// `data`, or the file's name in `health.d`.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// Why not; escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Runs all checks; none is left out after a failure, so that one run shows everything that is wrong.
#[must_use]
pub fn run(data: &Path, checks: &Path, budget: Duration) -> Vec<Check> {
    let mut all = vec![verdict("data", data_partition(data))];
    match executables(checks) {
        Ok(files) => all.extend(files.iter().map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            verdict(&text::shown(&name), executable(file, budget))
        })),
        Err(why) => all.push(verdict("health.d", Err(why))),
    }
    all
}

fn verdict(name: &str, result: Result<(), String>) -> Check {
    Check { name: name.to_owned(), passed: result.is_ok(), message: result.err().unwrap_or_default() }
}

fn data_partition(folder: &Path) -> Result<(), String> {
    let file = folder.join(".health-probe");
    let probe = || -> std::io::Result<bool> {
        let _ = fs::remove_file(&file);
        let written = [0x5a; PROBE];
        let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        handle.write_all(&written)?;
        handle.sync_all()?;
        Ok(fs::read(&file)? == written)
    };
    let result = probe();
    let _ = fs::remove_file(&file);
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{} does not keep what is written", folder.display())),
        Err(cause) => Err(format!("cannot write to {}: {cause}", folder.display())),
    }
}

/// The executables of the folder in the order of their names; a missing folder has none.
fn executables(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let why = |cause: std::io::Error| format!("cannot read {}: {cause}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
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

fn executable(file: &Path, budget: Duration) -> Result<(), String> {
    // A file instead of a pipe: a check that prints much, or leaves a child behind, must not block the hook.
    let mut output = unnamed_file().map_err(|cause| format!("cannot keep its output: {cause}"))?;
    let handles = output.try_clone().and_then(|out| Ok((out, output.try_clone()?)));
    let (out, err) = handles.map_err(|cause| format!("cannot keep its output: {cause}"))?;
    let mut child = Command::new(file)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|cause| format!("cannot start: {cause}"))?;
    let status = wait(&mut child, budget);
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}{}", said(&mut output))),
        None => {
            let _ = child.wait();
            Err(format!("not done after {} s{}", budget.as_secs(), said(&mut output)))
        }
    }
}

fn wait(child: &mut Child, budget: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + budget;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
            _ => return None,
        }
    }
}

fn unnamed_file() -> std::io::Result<fs::File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    Ok(fs::File::from(memfd_create(c"health-check", MFdFlags::MFD_CLOEXEC)?))
}

fn said(output: &mut fs::File) -> String {
    use std::io::Seek;
    let mut bytes = vec![];
    let read = output.rewind().and_then(|()| output.take(OUTPUT).read_to_end(&mut bytes));
    let words = String::from_utf8_lossy(&bytes);
    if read.is_err() || words.trim().is_empty() { String::new() } else { format!(": {}", text::shown(words.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &Path, name: &str, script: &str) {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn verdicts(folder: &Path) -> Vec<(String, bool, String)> {
        let all = run(folder, folder, Duration::from_millis(500));
        all.into_iter().map(|c| (c.name, c.passed, c.message)).collect()
    }

    #[test]
    fn every_executable_is_run_in_order_and_a_failure_says_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "20-ok", "exit 0");
        check(folder.path(), "10-bad", "echo 'disk \x1b[31mgone'; exit 3");
        fs::write(folder.path().join("README"), "not executable").unwrap();
        let all = verdicts(folder.path());
        assert_eq!(all[0], ("data".into(), true, String::new()));
        assert_eq!(all[1], ("10-bad".into(), false, "exit status: 3: disk \\u{1b}[31mgone".into()));
        assert_eq!(all[2], ("20-ok".into(), true, String::new()));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_check_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "hang", "sleep 600 & echo waiting; sleep 600");
        assert_eq!(verdicts(folder.path())[1].2, "not done after 0 s: waiting");
    }

    #[test]
    fn a_data_folder_that_is_not_there_is_unhealthy() {
        let folder = tempfile::tempdir().unwrap();
        let all = run(&folder.path().join("gone"), folder.path(), Duration::from_secs(1));
        assert!(!all[0].passed && all[0].message.contains("gone"));
    }
}
