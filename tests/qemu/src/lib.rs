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
pub mod server;
pub mod stub;
pub mod table;
pub mod table_stage1;
pub mod table_uboot;
pub mod views;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Any error that ends a scenario; its text is for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// See [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The root of the workspace, where scripts and `target` are.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace this was built from")
}

/// The instruction set of a device's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64, emulated on any host.
    Arm64,
}

impl Architecture {
    /// As Debian and releases spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    /// The kernel of its devices, with its modules beside it.
    ///
    /// # Errors
    /// It was not fetched.
    pub fn kernel(self) -> Result<PathBuf> {
        match self {
            Architecture::Amd64 => built("target/kernels/cloud/vmlinuz", "build/scripts/fetch-kernel.sh cloud"),
            Architecture::Arm64 => {
                built("target/kernels/cloud-arm64/vmlinuz", "build/scripts/fetch-kernel.sh cloud-arm64")
            }
        }
    }

    /// Static busybox for its devices.
    ///
    /// # Errors
    /// It is not there.
    pub fn busybox(self) -> Result<PathBuf> {
        match self {
            Architecture::Amd64 => tool("busybox"),
            Architecture::Arm64 => built("target/arm64/bin/busybox", "build/scripts/setup.sh qemu-arm64"),
        }
    }

    /// The agent for its devices.
    ///
    /// # Errors
    /// It was not built.
    pub fn agent(self) -> Result<PathBuf> {
        let name = self.as_str();
        built(&format!("target/dist/{name}/kubesolo-update"), &format!("ARCH={name} build/scripts/build-agent.sh"))
    }

    /// The agent as a command on this host.
    ///
    /// # Errors
    /// It was not built, or nothing runs it here.
    pub fn agent_here(self) -> Result<Command> {
        let agent = self.agent()?;
        if self.as_str() == Self::host() {
            return Ok(Command::new(agent));
        }
        let mut emulated = Command::new(tool("qemu-aarch64-static")?);
        emulated.arg(agent);
        Ok(emulated)
    }

    fn host() -> &'static str {
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
    }

    /// The serial line that its kernel writes to.
    #[must_use]
    pub fn console(self) -> &'static str {
        match self {
            Architecture::Amd64 => "console=ttyS0,115200n8",
            Architecture::Arm64 => "console=ttyAMA0,115200n8",
        }
    }
}

/// The kernel of the devices on amd64.
///
/// # Errors
/// It was not fetched.
pub fn kernel() -> Result<PathBuf> {
    Architecture::Amd64.kernel()
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

/// Where other bootloaders than the installed ones are unpacked, as `build/scripts/fetch-loaders.sh` does: `LOADERS=` of the
/// environment, from the root of the workspace.
#[must_use]
pub fn loaders() -> Option<PathBuf> {
    std::env::var_os("LOADERS").filter(|dir| !dir.is_empty()).map(|dir| root().join(dir))
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
