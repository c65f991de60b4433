//! This boot, the slots and the boot environment: what the agent finds before it does anything.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bootenv::protocol::{BootState, Booted, TRIES, View};
use bootenv::{SlotId, TrialId};

use crate::base::error::{Error, Reason, Result};
use crate::base::files;
use crate::base::words::words;
use crate::config::Config;
use crate::device::blocks::{self, CommandLine};
use crate::device::env::{self, BootEnv};
use crate::device::mount::Mounted;
use crate::device::slot::{Place as SlotPlace, Slot, Slots};

words! {
    /// How it is known which slot runs.
    pub enum BootedBasis {
        /// From the kernel command line.
        CommandLine = "command-line",
        /// From `--booted`.
        Named = "told",
        /// It is the active slot; for slots in folders only.
        Assumed = "assumed",
    }
}

/// True if the slots or the boot environment of this machine are not seen, for a reason that an account without root has on
/// every device: only root can read disks.
#[must_use]
pub fn is_out_of_sight(error: &Error) -> bool {
    use Reason::{
        BootedSlotUnknown, DeviceNotFound, DiskNotReady, EnvUnreadable, NoSysfs, SlotUnreadable, SlotUnusable,
    };
    matches!(
        error.reason,
        BootedSlotUnknown | DeviceNotFound | DiskNotReady | EnvUnreadable | NoSysfs | SlotUnreadable | SlotUnusable
    )
}

/// The device as the agent finds it.
#[derive(Debug)]
pub struct Boot {
    /// Both slots.
    pub slots: Slots,
    /// The boot environment.
    pub env: BootEnv,
    /// The booted slot and its trial.
    pub booted: Booted,
    /// How that is known.
    pub basis: BootedBasis,
    /// KubeSolo OS's old grub.cfg started this boot: it counts down on every boot and knows nothing of `ks_good`.
    pub legacy: bool,
    /// The kernel command line of this boot; `None` where the slots are folders and nobody named one.
    pub line: Option<String>,
    /// Keeps the filesystem of the environment mounted where it has to be written through.
    esp: Option<Mounted>,
    /// Other disks that can be the booted one as well, plugged in since that was found.
    pub twins: Vec<String>,
    /// A Raspberry Pi's firmware started this boot: its slots are mounted folders, and yet a device.
    by_firmware: bool,
}

impl Boot {
    /// Finds everything. `told` is `--booted`, `cmdline` is `--cmdline`.
    ///
    /// # Errors
    /// 78 when a place is missing or the booted slot is not known.
    pub fn find(config: &Config, told: Option<SlotId>, cmdline: Option<&Path>) -> Result<Self> {
        let devices = blocks::System::default();
        let slots = Slots::locate(config, &devices)?;
        let folders = are_folders(&slots);
        let (env, esp) = env::find(config, &devices)?;
        let mut kept = None;
        let by_firmware = env.booted(&devices.proc);
        let (booted, basis, legacy) = match (told, cmdline, by_firmware) {
            (Some(_), ..) if !folders => {
                return Err(Error::new(
                    Reason::BootedWithDevices,
                    "--booted is for slots in folders: on a device the kernel command line names the booted slot",
                ));
            }
            (Some(slot), ..) => (Booted::ordinary(slot), BootedBasis::Named, false),
            (None, None, Some(booted)) => {
                kept = blocks::command_line(None).ok();
                (booted, BootedBasis::CommandLine, false)
            }
            (None, None, None) if folders => (Booted::ordinary(assumed(&env)?), BootedBasis::Assumed, false),
            (None, file, _) => {
                let line = CommandLine::parse(kept.insert(blocks::command_line(file)?));
                (booted(&line)?, BootedBasis::CommandLine, legacy(&line))
            }
        };
        let by_firmware = by_firmware.is_some();
        let twins = if folders { vec![] } else { twins(&devices)? };
        if let Some(line) = &kept {
            is_the_booted_partition(slots.get(booted.slot), &CommandLine::parse(line), &devices)?;
        }
        Ok(Self { slots, env, booted, basis, legacy, line: kept, esp, twins, by_firmware })
    }

    /// Refuses to change what boots while another disk can be the booted one as well: after a reboot that one may be it.
    ///
    /// # Errors
    /// 78 that names the other disks.
    pub fn alone(&self) -> Result<()> {
        if self.twins.is_empty() {
            return Ok(());
        }
        let message = format!("another disk can be the booted one as well: {}", self.twins.join(" and "));
        Err(Error::new(Reason::DeviceAmbiguous, message).remedy("Take it out."))
    }

    /// True if the filesystem of the environment is mounted here for writing.
    #[must_use]
    pub fn holds_esp(&self) -> bool {
        self.esp.is_some()
    }

    /// True if both slots are folders, so that nothing here is a real device.
    #[must_use]
    pub fn folders(&self) -> bool {
        are_folders(&self.slots) && !self.by_firmware
    }

    /// True if a file is lost at the next reboot of this device, because it is in memory.
    #[must_use]
    pub fn loses(&self, file: &Path) -> bool {
        !self.folders() && files::is_in_memory(file)
    }

    /// The active slot by the boot environment; `None` if the environment is damaged.
    #[must_use]
    pub fn active(&self) -> Option<SlotId> {
        match self.env.view() {
            View::Ours(state) => Some(state.active),
            View::Foreign(foreign) => Some(foreign.active),
            View::Invalid => None,
        }
    }

    /// The state for `apply`, `activate` and `rollback`: an environment that is ours, or in folders one that can be made
    /// ours by the next store.
    ///
    /// # Errors
    /// 78 for an old loader or a damaged environment, or while another disk can be the booted one, 75 where the health hook
    /// has to run first.
    pub fn state(&self) -> Result<BootState> {
        self.alone()?;
        if self.legacy {
            let message = "the loader file that started this boot does not know the slot protocol";
            return Err(Error::new(Reason::OldLoader, message)
                .remedy("Run `kubesolo-update adopt`, then reboot; until then health runs only confirm each boot."));
        }
        let booted = self.booted.slot;
        match self.env.usable()? {
            View::Ours(state) => Ok(state),
            View::Foreign(foreign) if self.folders() && foreign.success => {
                foreign.adopt(booted).map_err(|e| Error::new(Reason::ForeignEnvironment, e.to_string()))
            }
            View::Foreign(_) | View::Invalid => {
                let message = "another program changed the boot environment last";
                Err(Error::new(Reason::ForeignEnvironment, message).remedy(
                    "Run `kubesolo-update healthcheck` after a healthy boot: it takes over the boot \
                        environment.",
                ))
            }
        }
    }
}

/// The slot that the command line names is the partition that the bootloader says it booted, where it says so.
fn is_the_booted_partition(slot: &Slot, line: &CommandLine, devices: &blocks::System) -> Result<()> {
    let (SlotPlace::Device(device), Ok(id)) = (&slot.place, &line.part) else { return Ok(()) };
    let booted = devices.booted(id)?;
    let number = |path: &Path| path.metadata().map(|meta| meta.rdev()).ok();
    if number(device) == number(&booted) {
        return Ok(());
    }
    let message = format!(
        "slot {} is {}, and the bootloader booted {} ({id}) as this slot",
        slot.id,
        device.display(),
        booted.display()
    );
    Err(Error::new(Reason::SlotMismatch, message)
        .remedy("Correct slot_a= and slot_b=, or the labels of the partitions."))
}

/// Where every place is named by a person the disk may be unknown: nothing was looked for on it.
fn twins(devices: &blocks::System) -> Result<Vec<String>> {
    match devices.twins() {
        Err(e) if matches!(e.reason, Reason::DeviceNotFound | Reason::DiskNotReady) => Ok(vec![]),
        twins => twins,
    }
}

fn are_folders(slots: &Slots) -> bool {
    [&slots.a, &slots.b].iter().all(|slot| matches!(slot.place, SlotPlace::Folder(_)))
}

fn booted(line: &CommandLine) -> Result<Booted> {
    let trial = *line.trial.as_ref().unwrap_or(&TrialId::NONE);
    let fallback = line.fallback.as_ref().ok().copied();
    Ok(Booted { slot: line.booted()?, trial, fallback })
}

fn legacy(line: &CommandLine) -> bool {
    line.proto != Ok(1)
}

/// Folders boot nothing, so the active slot is taken for the running one; but a trial without a counted try has
/// certainly not been booted.
fn assumed(env: &BootEnv) -> Result<SlotId> {
    match env.usable()? {
        View::Ours(state) if !state.success && state.counter == TRIES => Ok(state.good),
        View::Ours(state) => Ok(state.active),
        View::Foreign(foreign) => Ok(foreign.active),
        View::Invalid => Err(Error::new(Reason::EnvInvalid, "the boot environment names no active slot")),
    }
}
