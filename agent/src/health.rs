//! Is this boot healthy? The data partition takes a write, and every executable in `health.d` ends with 0.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::programs;

/// Bytes written, synced and read back on the data partition, as KubeSolo OS's agent does.
const PROBE: usize = 1024;

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
    match programs::executables(checks) {
        Ok(files) => {
            all.extend(files.iter().map(|file| verdict(&programs::name(file), executable(file, budget))));
        }
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

fn executable(file: &Path, budget: Duration) -> Result<(), String> {
    let ended = programs::run(file, budget, [("", ""); 0])?;
    let said = if ended.said.is_empty() { String::new() } else { format!(": {}", ended.said) };
    match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}{said}")),
        None => Err(format!("not done after {} s{said}", budget.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
    fn a_check_that_prints_without_end_is_heard_only_at_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "chatty", "yes 0123456789 | head -c 1000000; exit 4");
        let message = &run(folder.path(), folder.path(), Duration::from_secs(30))[1].message;
        assert!(message.starts_with("exit status: 4: 0123456789\\n0123") && message.len() < 600, "{message}");
    }

    #[test]
    fn what_a_check_leaves_behind_does_not_hold_it_up() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "daemon", "setsid sleep 3 & exit 0");
        let begin = std::time::Instant::now();
        assert!(verdicts(folder.path())[1].1);
        assert!(begin.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_data_folder_that_is_not_there_is_unhealthy() {
        let folder = tempfile::tempdir().unwrap();
        let all = run(&folder.path().join("gone"), folder.path(), Duration::from_secs(1));
        assert!(!all[0].passed && all[0].message.contains("gone"));
    }
}
