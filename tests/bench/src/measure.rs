//! The cost of one command. It runs below a process of its own, because peak memory and the like are those of all
//! children that a process ever had.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use qemu_tests::Result;
use serde::{Deserialize, Serialize};

/// The agent's debug message between writing and reading back.
pub const READ_BACK: &str = "reading back";

/// The cost of one run, with all its child processes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Cost {
    /// Processor seconds, user and system.
    pub cpu: f64,
    /// Seconds from start to end.
    pub wall: f64,
    /// Peak resident size of its largest process, in KiB.
    pub peak: u64,
    /// Bytes that went to a medium, or will (`write_bytes` of proc_pid_io(5), less what was cancelled).
    pub written: u64,
    /// Processor seconds and seconds until [`READ_BACK`] was said.
    pub before_read_back: Option<(f64, f64)>,
}

/// Measures a command below a process of its own. Its output goes to `log`.
///
/// # Errors
/// It cannot be started, or fails; the message has what it said.
pub fn below(command: &[String], log: &Path) -> Result<Cost> {
    let output = Command::new(std::env::current_exe()?)
        .arg("measure")
        .arg(log)
        .args(command)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{}", fs::read_to_string(log).unwrap_or_default()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Measures a command, in the process made for it.
///
/// # Errors
/// It cannot be started, or fails.
pub fn here(command: &[String], log: &Path) -> Result<Cost> {
    let [program, arguments @ ..] = command else { return Err("nothing to measure".into()) };
    let mut log = File::create(log)?;
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut before_read_back = None;
    for line in BufReader::new(child.stderr.take().ok_or("no standard error")?).lines() {
        let line = line?;
        if line.contains(READ_BACK) {
            before_read_back = Some((cpu_of(child.id())?, begin.elapsed().as_secs_f64()));
        }
        writeln!(log, "{line}")?;
    }
    let status = child.wait()?;
    let wall = begin.elapsed().as_secs_f64();
    if !status.success() {
        return Err(status.to_string().into());
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
    // Counts children that were waited for; what this process itself wrote is one log.
    let io = fs::read_to_string("/proc/self/io")?;
    let count =
        |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
    let written = count("write_bytes:").saturating_sub(count("cancelled_write_bytes:"));
    Ok(Cost { cpu, wall, peak: u64::try_from(usage.max_rss())?, written, before_read_back })
}

/// Processor seconds of all threads of a running process, from the scheduler's own clock.
fn cpu_of(process: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}
