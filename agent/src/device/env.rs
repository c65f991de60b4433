//! The boot environment of this device: what it says, and the stores that change it. Each kind of bootloader keeps it in
//! its own way.

mod grub;
mod rpi;
mod uboot;

use std::path::Path;

use bootenv::medium::Medium;
use bootenv::protocol::{Booted, Second, State, View};

use crate::base::error::{Error, Reason, Result};
use crate::device::blocks::System;
use grub::Grub;
pub(crate) use grub::create;
pub use grub::{MAIN, SECOND};
use rpi::Rpi;
use uboot::UBoot;

/// The boot environment, read once; stores keep what was read in step.
#[derive(Debug)]
pub struct BootEnv(Kind);

#[derive(Debug)]
enum Kind {
    Grub(Grub),
    UBoot(UBoot),
    Rpi(Rpi),
}

impl BootEnv {
    /// GRUB's environment in a file, with `ksenv2` beside it; that one is made by the first store if it is missing.
    ///
    /// # Errors
    /// 78 when the file is not there or cannot be read.
    pub fn file(path: &Path) -> Result<Self> {
        Grub::file(path).map(|grub| Self(Kind::Grub(grub)))
    }

    /// GRUB's environment in the given places.
    ///
    /// # Errors
    /// 78 when the main block cannot be read at all. A damaged one is no error here: see [`BootEnv::usable`].
    pub fn open(main: Medium, second: Option<Medium>) -> Result<Self> {
        Grub::open(main, second).map(|grub| Self(Kind::Grub(grub)))
    }

    /// U-Boot's environment, where this `fw_env.config` says.
    ///
    /// # Errors
    /// 78 when it names no place that can be read. Damage is no error here: see [`BootEnv::usable`].
    pub fn uboot(config: &Path, devices: &System) -> Result<Self> {
        UBoot::open(config, devices).map(|uboot| Self(Kind::UBoot(uboot)))
    }

    /// Makes the locks that U-Boot's tools share with this program, and takes them from other accounts.
    ///
    /// # Errors
    /// 75 when another program holds one; 73 when one cannot be made.
    pub fn make_uboot_locks() -> Result<()> {
        uboot::make_locks()
    }

    /// `autoboot.txt` of a Raspberry Pi, in the folder where its first partition is mounted.
    ///
    /// # Errors
    /// 78 when it cannot be read.
    pub fn rpi(folder: &Path) -> Result<Self> {
        Rpi::open(folder).map(|rpi| Self(Kind::Rpi(rpi)))
    }

    /// What the firmware says of this boot, if it is one that does.
    #[must_use]
    pub fn booted(&self, proc: &Path) -> Option<Booted> {
        match &self.0 {
            Kind::Rpi(rpi) => rpi.booted(proc),
            Kind::Grub(_) | Kind::UBoot(_) => None,
        }
    }

    /// Before a reboot: what the firmware has to be told so that it tries the active slot.
    ///
    /// # Errors
    /// 73 when that cannot be noted.
    pub fn arm(&mut self) -> Result<Option<&'static str>> {
        match &mut self.0 {
            Kind::Rpi(rpi) => rpi.arm(),
            Kind::Grub(_) | Kind::UBoot(_) => Ok(None),
        }
    }

    /// What it says.
    #[must_use]
    pub fn view(&self) -> View {
        match &self.0 {
            Kind::Grub(grub) => grub.view(),
            Kind::UBoot(uboot) => uboot.view(),
            Kind::Rpi(rpi) => rpi.view(),
        }
    }

    /// What GRUB's second file says; `None` when it is missing or damaged. U-Boot's second copy is no other knowledge.
    #[must_use]
    pub fn second(&self) -> Option<Second> {
        match &self.0 {
            Kind::Grub(grub) => grub.second(),
            Kind::UBoot(_) | Kind::Rpi(_) => None,
        }
    }

    /// Where it lies, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.0 {
            Kind::Grub(grub) => grub.place(),
            Kind::UBoot(uboot) => uboot.place(),
            Kind::Rpi(rpi) => rpi.place(),
        }
    }

    /// Why it is not usable.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let damage = match &self.0 {
            Kind::Grub(grub) => grub.damage(),
            Kind::UBoot(uboot) => uboot.damage(),
            Kind::Rpi(_) => None,
        };
        let outside =
            || "it lacks active_slot, boot_success or boot_counter, or has values outside their alphabet".to_owned();
        damage.or_else(|| (self.view() == View::Invalid).then(outside))
    }

    /// Refuses a damaged environment, as `apply` and `activate` do.
    ///
    /// # Errors
    /// 78 with the damage.
    pub fn usable(&self) -> Result<View> {
        let Some(damage) = self.damage() else { return Ok(self.view()) };
        let message = format!("boot environment {} is not valid: {damage}", self.place());
        let remedy = match &self.0 {
            Kind::Grub(_) => {
                "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot; otherwise make it anew: grub-editenv FILE create."
            }
            Kind::UBoot(_) | Kind::Rpi(_) if self.can_be_rebuilt() => {
                "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot."
            }
            Kind::UBoot(_) | Kind::Rpi(_) => uboot::REMEDY,
        };
        Err(Error::new(Reason::EnvInvalid, message).remedy(remedy))
    }

    /// Whether a store may be made where nothing valid is: never over what may be somebody else's variables.
    #[must_use]
    pub fn can_be_rebuilt(&self) -> bool {
        match &self.0 {
            Kind::Grub(_) | Kind::Rpi(_) => true,
            Kind::UBoot(uboot) => uboot.damage().is_none(),
        }
    }

    /// Whether there is no other copy, so that a store that is cut off may leave nothing.
    #[must_use]
    pub fn is_single(&self) -> bool {
        match &self.0 {
            Kind::Grub(_) | Kind::Rpi(_) => false,
            Kind::UBoot(uboot) => uboot.is_single(),
        }
    }

    /// Makes `next` the state, in the order that survives a power cut after any step.
    ///
    /// # Errors
    /// 73 when a store fails or reads back differently. Old or new state then, never a mixture. 75 when another program
    /// holds or changes it.
    pub fn store(&mut self, next: &State) -> Result<()> {
        match &mut self.0 {
            Kind::Grub(grub) => grub.store(next),
            Kind::UBoot(uboot) => uboot.store(next),
            Kind::Rpi(rpi) => rpi.store(next),
        }
    }

    /// The fallback says what it may say now. Part of each store, and the correction at each run of the agent.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn raise_second(&mut self, state: &State) -> Result<()> {
        match &mut self.0 {
            Kind::Grub(grub) => grub.raise_second(state),
            Kind::UBoot(uboot) => uboot.raise(),
            // One sector has everything.
            Kind::Rpi(_) => Ok(()),
        }
    }

    /// Confirms a boot for KubeSolo OS's old grub.cfg, which counts down on every boot.
    ///
    /// # Errors
    /// 73 when the store fails.
    pub fn confirm_legacy(&mut self) -> Result<()> {
        let confirmed = [("boot_success", "1".to_owned()), ("boot_counter", "3".to_owned())];
        match &mut self.0 {
            Kind::Grub(grub) => grub.confirm_legacy(),
            Kind::UBoot(uboot) => uboot.set(&confirmed),
            // Its firmware counts nothing.
            Kind::Rpi(_) => Ok(()),
        }
    }
}

fn describe(state: &State) -> String {
    state.variables().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
