//! Virtual devices that boot through a real bootloader.
//!
//! A scenario builds a disk with [`image`], powers it on with [`machine`], and holds what the serial line and the
//! disk say against what the slot protocol promises. [`table`] replays the protocol's decision table.

pub mod cells;
pub mod image;
pub mod initramfs;
pub mod machine;
pub mod prove;
pub mod registry;
pub mod runner;
pub mod scenarios;
pub mod stub;
pub mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whatever ends a scenario; its text is for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// See [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The root of the workspace, where scripts and `target` are.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace this was built from")
}

/// The kernel of the devices.
///
/// # Errors
/// It was not fetched.
pub fn kernel() -> Result<PathBuf> {
    built("target/kernels/cloud/vmlinuz", "build/scripts/fetch-kernel.sh cloud")
}

/// A file that a script of the project makes.
///
/// # Errors
/// It is not there; the message names the script.
pub fn built(file: &str, script: &str) -> Result<PathBuf> {
    let path = root().join(file);
    if path.exists() { Ok(path) } else { Err(format!("{file} is missing: run {script}").into()) }
}

/// Finds a tool in `PATH`, in the places of an administrator's tools, or unpacked under `target/tools`.
///
/// # Errors
/// It is in none of these.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), root().join("target/tools/usr/bin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{name} is not installed: run build/scripts/setup.sh test").into())
}

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// It cannot be started, or fails; the message has its whole standard error.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{said}", output.status).into());
    }
    Ok(output.stdout)
}
