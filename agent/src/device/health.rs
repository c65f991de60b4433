//! Is this boot healthy? The data partition takes a write, `healthcheck_url` answers, every executable in `health.d` ends
//! with 0, and Kubernetes is well. The optional checks in `health.d/wanted` run too, and only warn.
//!
//! A full data partition is not the fault of this boot: the check of it has no result then.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bootenv::medium::read_past_cache;
use serde::Serialize;

use crate::base::error::{Error, Reason};
use crate::base::{files, replace};
use crate::config::Config;
use crate::device::programs::{self, Unusable};
use crate::fetch::probe;

/// The longest that `healthcheck_url` is waited for: it is on this device, or near.
const URL_TIME: Duration = Duration::from_secs(10);
/// The file that is written, synced and read back on the data partition. It stays there.
const PROBE_FILE: &str = ".health-probe";
/// Its size in bytes: one block of most filesystems.
const PROBE: usize = 4096;
/// Reason of an error in that file.
const UNSAFE: Reason = Reason::UnsafeFile;

/// The folder in `health.d` with checks that may fail.
pub const WANTED: &str = "wanted";

/// One check and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// `data`, `healthcheck_url`, `kubernetes`, or the file's name in `health.d`.
    pub name: String,
    /// True if it passed.
    pub passed: bool,
    /// A failure is only a warning: the boot is healthy nevertheless.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wanted: bool,
    /// It could not be made, and the cause does not speak against this boot: neither healthy nor unhealthy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// Why not; escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Output of its program, in one escaped line, for the evidence of a trial.
    #[serde(skip)]
    pub output: String,
}

impl Check {
    /// A check with this result, which counts.
    #[must_use]
    pub fn of(name: &str, result: Result<(), String>) -> Self {
        let message = result.as_ref().err().cloned().unwrap_or_default();
        Self {
            name: name.to_owned(),
            passed: result.is_ok(),
            wanted: false,
            unknown: false,
            message,
            output: String::new(),
        }
    }

    /// True if the boot is unhealthy for it.
    #[must_use]
    pub fn condemns(&self) -> bool {
        !self.passed && !self.wanted && !self.unknown
    }
}

/// The conditions of a check that runs after others.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Time that is left for it, and for all that follow.
    pub left: Duration,
    /// One before it failed, so this boot is unhealthy already.
    pub condemned: bool,
}

/// Runs all checks; none is left out after a failure, so that one run shows everything that is wrong. But `health_timeout` is
/// for all of them together, since the deadline of a trial is. `platform` is the check of the layers above this one.
#[must_use]
pub fn run(config: &Config, platform: impl FnOnce(&Room) -> Option<Check>) -> Vec<Check> {
    let end = Instant::now() + config.health_timeout;
    let left = || end.saturating_duration_since(Instant::now());
    let mut all = vec![data_partition(&config.data_dir)];
    if let Some(url) = &config.healthcheck_url {
        let answered = probe::answers(url, config.registry_ca.as_deref(), left().min(URL_TIME));
        all.push(Check::of("healthcheck_url", answered.map_err(|error| error.message)));
    }
    let run = |folder: &Path| match programs::folder(folder) {
        Ok(found) => {
            let programs = found.programs.iter();
            let total = config.health_timeout.as_secs();
            let ran = programs.map(|file| executable(file, left(), total));
            ran.chain(found.unusable.into_iter().map(unusable)).collect()
        }
        Err(why) => vec![Check::of("health.d", Err(why))],
    };
    all.extend(run(&config.health_dir));
    all.extend(platform(&Room { left: left(), condemned: all.iter().any(Check::condemns) }));
    // Last, so that they take no time from those that count.
    all.extend(run(&config.health_dir.join(WANTED)).into_iter().map(|check| Check { wanted: true, ..check }));
    all
}

/// Version 0.1 passed over such an entry, so it does not condemn a boot. But it was meant as a check.
fn unusable(entry: Unusable) -> Check {
    Check { wanted: true, ..Check::of(&files::name(&entry.file), Err(entry.why)) }
}

fn data_partition(folder: &Path) -> Check {
    let probed = probe(&folder.join(PROBE_FILE));
    // Only where there is no probe to write over.
    let full = probed.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
    let result = match probed {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{} does not keep the written bytes", folder.display())),
        Err(cause) => Err(format!("cannot write to {}: {cause}", folder.display())),
    };
    Check { unknown: full, ..Check::of("data", result) }
}

/// Writes the probe over itself, so that it needs no new block when the partition is full, and reads it from the medium.
fn probe(path: &Path) -> io::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = now.as_nanos().to_le_bytes().repeat(PROBE / size_of::<u128>());
    let untrusted = |e: Error| io::Error::other(e.message);
    let is_kept = |file: File| file.metadata().is_ok_and(|meta| files::keeps(&meta, PROBE));
    let kept = files::open(path, UNSAFE).is_ok_and(|file| file.is_some_and(is_kept));
    if kept {
        files::write_in_place(path, &written)?;
    } else {
        // Not there yet, cut off, or something else of that name.
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => replace::replace(path, &written, 0o600)?,
        }
    }
    let file = files::open(path, UNSAFE).map_err(untrusted)?.ok_or(ErrorKind::NotFound)?;
    let mut read = vec![0; PROBE];
    read_past_cache(&file, 0, &mut read)?;
    Ok(read == written)
}

fn executable(file: &Path, left: Duration, budget: u64) -> Check {
    let name = files::name(file);
    if left.is_zero() {
        return Check::of(&name, Err(format!("not started: the {budget} s for all checks are over")));
    }
    let ended = match programs::run(file, left, [("", ""); 0]) {
        Ok(ended) => ended,
        Err(why) => return Check::of(&name, Err(why)),
    };
    let said = if ended.said.is_empty() { String::new() } else { format!(": {}", ended.said) };
    let result = match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}{said}")),
        None => Err(format!("not finished within the {budget} s for all checks{said}")),
    };
    Check { output: ended.output, ..Check::of(&name, result) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::config::{Conf, Overrides};

    fn check(folder: &Path, name: &str, script: &str) {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn config(folder: &Path, budget: Duration) -> Config {
        let defaults = Config::resolve(&Conf::default(), &Overrides::default()).unwrap();
        Config { data_dir: folder.into(), health_dir: folder.into(), health_timeout: budget, ..defaults }
    }

    fn all(config: &Config) -> Vec<Check> {
        run(config, |_| None)
    }

    fn told(all: Vec<Check>) -> Vec<(String, bool, String)> {
        all.into_iter().map(|c| (c.name, c.passed, c.message)).collect()
    }

    fn verdicts(folder: &Path) -> Vec<(String, bool, String)> {
        told(all(&config(folder, Duration::from_millis(500))))
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
    fn a_check_that_cannot_run_is_reported_at_every_run_and_condemns_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "10-ok", "exit 0");
        fs::write(folder.path().join("20-no-bit"), "#!/bin/sh\nexit 1\n").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("30-dangling")).unwrap();
        check(folder.path(), "40-old.bak", "exit 1");
        let all = all(&config(folder.path(), Duration::from_secs(20)));
        let names: Vec<_> = all.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["data", "10-ok", "20-no-bit", "30-dangling"]);
        assert!(all[2..].iter().all(|check| !check.passed && check.wanted && check.message.starts_with("not run")));
        assert!(!all.iter().any(Check::condemns));
    }

    #[test]
    fn a_check_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "hang", "sleep 600 & echo waiting; sleep 600");
        assert_eq!(verdicts(folder.path())[1].2, "not finished within the 0 s for all checks: waiting");
    }

    #[test]
    fn all_checks_together_have_one_time() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10-hang", "20-hang", "30-hang"] {
            check(folder.path(), name, "sleep 600");
        }
        let begin = Instant::now();
        let all = verdicts(folder.path());
        assert!(begin.elapsed() < Duration::from_millis(950), "{:?}", begin.elapsed());
        assert!(all[1].2.starts_with("not finished within"), "{all:?}");
        assert!(all[2..].iter().all(|(_, passed, why)| !passed && why.starts_with("not started")), "{all:?}");
    }

    #[test]
    fn a_healthy_device_answers_200_at_its_url_and_nothing_else_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let url = Some(format!("http://{address}/healthz?token=secret"));
        let url_check = |budget| {
            let config = Config { healthcheck_url: url.clone(), ..config(folder.path(), budget) };
            told(all(&config)).swap_remove(1)
        };
        let answering = std::thread::spawn(move || {
            // A large page is as good as a small one.
            let page = "x".repeat(100_000);
            for answer in ["404 Not Found", "204 No Content", "200 OK"] {
                let (mut client, _) = server.accept().unwrap();
                let _ = client.read(&mut [0; 4096]);
                let body = if answer.starts_with("204") { "" } else { &page };
                let _ = write!(client, "HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
            server
        });
        for code in ["404", "204"] {
            let (name, passed, message) = url_check(Duration::from_secs(20));
            assert!(name == "healthcheck_url" && !passed && message.contains(code), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        assert!(url_check(Duration::from_secs(20)).1);
        // Nobody accepts any more; then nobody listens.
        let server = answering.join().unwrap();
        assert!(url_check(Duration::from_millis(300)).2.contains("not finished after"));
        drop(server);
        assert!(url_check(Duration::from_secs(20)).2.contains("refused"));
    }

    #[test]
    fn a_check_that_prints_without_end_is_heard_only_at_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "chatty", "yes 0123456789 | head -c 1000000; exit 4");
        let message = &all(&config(folder.path(), Duration::from_secs(30)))[1].message;
        assert!(message.starts_with("exit status: 4: 0123456789\\n0123") && message.len() < 600, "{message}");
    }

    #[test]
    fn what_a_check_leaves_behind_does_not_hold_it_up() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "daemon", "setsid sleep 3 & exit 0");
        let begin = Instant::now();
        assert!(verdicts(folder.path())[1].1);
        assert!(begin.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn the_probe_is_kept_and_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(PROBE_FILE);
        let look = || (fs::read(&file).unwrap(), file.metadata().unwrap().ino());
        assert!(data_partition(folder.path()).passed);
        let first = look();
        assert!(data_partition(folder.path()).passed);
        let second = look();
        assert_eq!((first.0.len(), first.1), (PROBE, second.1), "the file stays, and its blocks");
        assert_ne!(first.0, second.0, "a medium that keeps the last probe is found");
        // One that was cut off, and one that was put there.
        let precious = folder.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        for spoil in ["truncate -s 10 \"$0\"", "ln -sf precious \"$0\"", "rm \"$0\"; mkfifo \"$0\""] {
            assert!(std::process::Command::new("sh").args(["-c", spoil]).arg(&file).status().unwrap().success());
            assert!(data_partition(folder.path()).passed, "{spoil}");
            assert_eq!(look().0.len(), PROBE, "{spoil}");
        }
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
    }

    #[test]
    fn a_data_folder_that_is_not_there_is_unhealthy() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("gone");
        let all = all(&Config { data_dir, ..config(folder.path(), Duration::from_secs(1)) });
        assert!(!all[0].passed && all[0].message.contains("gone"));
    }
}
