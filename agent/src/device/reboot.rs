//! Restarting the device.

use std::convert::Infallible;
use std::path::Path;

use nix::sys::reboot::{RebootMode, reboot};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::sys;
use crate::device::programs;

/// There when systemd is process 1: it then stops the services in order.
const SYSTEMD: &str = "/run/systemd/system";

/// Restarts the device: through systemd where that runs, else at once after a sync.
///
/// # Errors
/// 70 when the kernel refuses.
pub fn now(why: &str) -> Result<()> {
    with(why, None)
}

/// True if systemd is process 1.
pub fn under_systemd() -> bool {
    Path::new(SYSTEMD).exists()
}

/// The same, with an argument for the firmware.
///
/// # Errors
/// 70 when the kernel refuses.
pub fn with(why: &str, argument: Option<&str>) -> Result<()> {
    log::warn!("rebooting: {why}");
    if under_systemd() {
        let argument = argument.map(|argument| format!("--reboot-argument={argument}"));
        match programs::tool("systemctl").map(|mut command| command.arg("reboot").args(argument).status()) {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(_) => {}
            Err(why) => log::warn!("systemd is not asked: {why}"),
        }
    }
    nix::unistd::sync();
    let by_hand = |error: Error| error.remedy("The next boot is stored: reboot the device.");
    if let Some(argument) = argument {
        return sys::reboot_with(argument).context(Reason::Reboot, "reboot").map_err(by_hand);
    }
    let refused: Result<Infallible, _> = reboot(RebootMode::RB_AUTOBOOT);
    refused.map(drop).context(Reason::Reboot, "reboot").map_err(by_hand)
}
