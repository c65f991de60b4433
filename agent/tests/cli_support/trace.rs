//! The program under strace: which system calls change the disk, and in which order.

use std::fs;
use std::process::{Command, Output};

use super::Device;

/// System calls that change a disk, or say that it is changed.
pub const STEPS: &str =
    "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,ftruncate";

/// True if programs can be traced here; a line is printed if not.
pub fn can_trace() -> bool {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let can = probe.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: strace is not here, or may not trace");
    }
    can
}

/// Runs the program under strace, in its one thread that works on the disk, with these faults. The calls are in the file
/// `trace`.
pub fn traced(device: &Device, arguments: &[&str], injected: &[String]) -> Output {
    traced_of(device, STEPS, arguments, injected)
}

/// The same with other system calls.
pub fn traced_of(device: &Device, steps: &str, arguments: &[&str], injected: &[String]) -> Output {
    let program = device.command(arguments);
    let mut strace = Command::new("strace");
    strace
        .args(["-y", "-s", "600", "-e", &format!("trace={steps}"), "-e", "signal=none", "-o"])
        .arg(device.path("trace"));
    for fault in injected {
        strace.args(["-e", fault]);
    }
    strace.arg(program.get_program()).args(program.get_args()).current_dir(device.dir.path());
    strace.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap()
}

/// One system call of a trace.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// All of its line behind the name.
    pub rest: String,
    /// The path of its first descriptor.
    pub descriptor: String,
    /// Its names of files, as full paths.
    pub paths: Vec<String>,
}

/// The calls in the file `trace` that did not fail.
pub fn calls(device: &Device) -> Vec<Call> {
    let here = device.dir.path().to_str().unwrap();
    let trace = fs::read_to_string(device.path("trace")).unwrap();
    trace
        .lines()
        .filter(|line| !line.contains(" = -1 E"))
        .filter_map(|line| {
            let (name, rest) = line.split_once('(')?;
            let descriptor =
                rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
            let base = if rest.starts_with("AT_FDCWD") || rest.starts_with('"') { here } else { descriptor };
            let full = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
            let writes = name.contains("write");
            let paths = rest.split('"').skip(1).step_by(2).filter(|_| !writes).map(full).collect();
            Some(Call { name: name.to_owned(), rest: rest.to_owned(), descriptor: descriptor.to_owned(), paths })
        })
        .collect()
}
