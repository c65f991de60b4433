//! One call of the program, with its settings: what the commands share.

use std::time::Instant;

use chrono::{DateTime, Utc};
use nix::unistd::geteuid;

use crate::base::error::{Error, Reason, Result};
use crate::cli::args::Cli;
use crate::config::Config;
use crate::device::blocks::System;
use crate::device::boot::{Boot, BootedBasis, is_out_of_sight};
use crate::device::reboot;
use crate::device::seen::Step;
use crate::policy::gate::Lifted;
use crate::update::attempt;
use crate::update::records::{LockedRecords, Records};
use crate::update::update::{Update, no_slot_touched};

/// A command line, its settings and the time.
pub(super) struct Call<'a> {
    pub(super) cli: &'a Cli,
    pub(super) config: &'a Config,
    pub(super) now: DateTime<Utc>,
    /// The same by a clock that is never set, for the time that the call takes.
    pub(super) started: Instant,
}

impl Call<'_> {
    /// Finds the device.
    pub(super) fn find(&self) -> Result<Boot> {
        let found = Boot::find(self.config, self.cli.places.booted, self.cli.places.cmdline.as_deref());
        found.map_err(|error| {
            if geteuid().is_root() || !is_out_of_sight(&error) {
                return error;
            }
            let remedy = format!("Only root can read the disks of a device: run it as root. {}", error.remedy);
            error.remedy(remedy.trim_end())
        })
    }

    /// The same for a health run or an unattended run, which `doctor` looks for.
    pub(super) fn find_by(&self, step: Step) -> Result<Boot> {
        let boot = self.find_to_change(false)?;
        if !boot.folders() {
            System::default().mark(step);
        }
        Ok(boot)
    }

    /// The same for a command that changes something, and reboots on demand.
    pub(super) fn find_to_change(&self, reboot: bool) -> Result<Boot> {
        let boot = self.find().map_err(no_slot_touched)?;
        if let Some(active) = boot.active().filter(|_| !boot.folders()) {
            System::default().keep_active(active);
        }
        if reboot && boot.folders() {
            let message = "--reboot needs a device, and these slots are folders";
            return Err(Error::new(Reason::RebootWithFolders, message).remedy("Omit the option."));
        }
        if boot.basis == BootedBasis::Assumed {
            let slot = boot.booted.slot;
            log::info!("slot {slot} counts as booted, because it is active; --booted names another one");
        }
        Ok(boot)
    }

    /// Reads the records.
    pub(super) fn read(&self) -> Result<Records> {
        Records::read(&self.cli.state)
    }

    /// Locks the records, for a command that changes something.
    pub(super) fn lock(&self) -> Result<LockedRecords> {
        let mut records = lock(self.cli)?;
        if self.config.event_url.is_some() {
            records.announce_steps();
        }
        Ok(records)
    }

    /// An update of this device, with the gates that a person bypasses.
    pub(super) fn update<'b>(
        &'b self,
        boot: &'b mut Boot,
        records: &'b mut LockedRecords,
        lifted: Lifted,
    ) -> Update<'b> {
        Update { config: self.config, boot, records, lifted, now: self.now }
    }

    /// Runs the hooks of a restart into the trial that was activated.
    ///
    /// # Errors
    /// 75 when one puts it off.
    pub(super) fn before_trial(&self, records: &mut LockedRecords) -> Result<()> {
        before_trial(&mut self.update(&mut self.find()?, records, Lifted::default()))
    }

    /// Restarts into the active slot after an activation.
    pub(super) fn restart_into_trial(&self) -> Result<()> {
        restart(&mut self.find()?, "the new release starts on trial")
    }
}

/// Runs the hooks of a restart into the trial that was activated.
///
/// # Errors
/// 75 when one puts it off.
pub(super) fn before_trial(update: &mut Update<'_>) -> Result<()> {
    update.before_trial().map_err(|error| {
        let remedy = format!("{} The release is activated: any reboot starts it.", error.remedy);
        let error = error.remedy(remedy);
        attempt::put_off(update.records, &error);
        error
    })
}

/// Ends here, before the command has changed anything, if another one runs.
pub(super) fn lock(cli: &Cli) -> Result<LockedRecords> {
    LockedRecords::lock(&cli.state).map_err(no_slot_touched)
}

/// Restarts into the active slot.
pub(super) fn restart(boot: &mut Boot, why: &str) -> Result<()> {
    let argument = boot.env.arm()?;
    reboot::with(why, argument)
}

/// Logs each gate that a person bypasses.
pub(super) fn log_lifted(lifted: Lifted) {
    for (name, set) in [
        ("--force", lifted.force),
        ("--retry-failed", lifted.retry_failed),
        ("--allow-downgrade", lifted.allow_downgrade),
        ("--ignore-rollout", lifted.ignore_rollout),
        ("--allow-single-copy", lifted.allow_single_copy),
        ("--allow-unprotected-data", lifted.allow_unprotected_data),
    ] {
        if set {
            log::warn!("{name} is in effect");
        }
    }
}
