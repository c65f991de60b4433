//! The boot environment of this device: what it says, and the stores that change it. Each bootloader keeps it in its own way,
//! in a file of its own below; nothing above this module asks which bootloader it is.

mod grub;
mod rpi;
mod uboot;

use std::fmt::Debug;
use std::path::Path;

use bootenv::medium::Medium;
use bootenv::protocol::{BootState, Booted, FallbackBlock, View};

use crate::base::error::{Error, Reason, Result};
use crate::config::{BootEnv as Place, Config};
use crate::device::blocks::{self, System};
use crate::device::mount::{Filesystem, Mounted};
pub(crate) use grub::create;
pub use grub::{MAIN, SECOND};

/// Commands of a bootloader, as messages name them, with the modules that have them.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// Compares the files of a slot with their hashes.
    pub hash: &'static str,
    /// Names the booted partition, for `ks.part=`.
    pub part: &'static str,
}

/// A bootloader: where it keeps the state, and what is special about it. To add one, implement this for it, and name it in
/// the functions of this module that read the settings.
trait Bootloader: Debug {
    /// The commands of its script that some builds of it lack.
    fn commands(&self) -> Commands {
        Commands { hash: "the command that compares hashes", part: "the command that names a partition" }
    }

    /// The state.
    fn view(&self) -> View;

    /// Where the environment lies, for messages.
    fn place(&self) -> String;

    /// Makes `next` the state, in the order that survives a power cut after any step.
    fn store(&mut self, next: &BootState) -> Result<()>;

    /// Why nothing can be read, if so.
    fn damage(&self) -> Option<String> {
        None
    }

    /// The next step for a damaged boot environment.
    fn remedy(&self) -> &'static str {
        "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot."
    }

    /// True if a store may be made where nothing valid is: never over what may be somebody else's variables.
    fn can_be_rebuilt(&self) -> bool {
        true
    }

    /// True if there is no other copy, so that a store that is cut off may leave nothing.
    fn is_single(&self) -> bool {
        false
    }

    /// Content of the second file, which promises less than the first; `None` if it is missing or damaged.
    fn second(&self) -> Option<FallbackBlock> {
        None
    }

    /// Brings the fallback in step with the state.
    fn raise_second(&mut self, _state: &BootState) -> Result<()> {
        Ok(())
    }

    /// The firmware's description of this boot, if there is one.
    fn booted(&self, _proc: &Path) -> Option<Booted> {
        None
    }

    /// The argument of the reboot without which the firmware would not try the active slot.
    fn arm(&mut self) -> Result<Option<&'static str>> {
        Ok(None)
    }

    /// Refuses an environment that has no room for the variables of the slot protocol.
    fn room(&self) -> Result<()> {
        Ok(())
    }

    /// True if a store that the bootloader makes would hold.
    fn holds(&self, _stored: &[(&'static str, String)]) -> bool {
        true
    }

    /// Why the bootloader may not be able to store in an environment that it can read.
    fn flaw(&self) -> Option<String> {
        None
    }

    /// Removes the flaw. The state stays.
    fn repair(&mut self) -> Result<()> {
        Ok(())
    }

    /// Confirms a boot for a loader file that counts down on every boot.
    fn confirm_legacy(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The boot environment, read once; stores keep what was read in step.
#[derive(Debug)]
pub struct BootEnv(Box<dyn Bootloader>);

/// Opens the environment that the settings name, else GRUB's on the EFI partition. That partition stays mounted for writing
/// where the environment can only be written through its filesystem.
///
/// # Errors
/// 78 when there is none that can be read. Damage is no error here: see [`BootEnv::usable`].
pub fn find(config: &Config, devices: &System) -> Result<(BootEnv, Option<Mounted>)> {
    let named: Box<dyn Bootloader> = match &config.bootenv {
        None => return on_esp(devices),
        Some(Place::Grub(file)) => Box::new(grub::Grub::file(file)?),
        Some(Place::UBoot(file)) => Box::new(uboot::UBoot::open(file, devices)?),
        Some(Place::Rpi(folder)) => Box::new(rpi::Rpi::open(folder)?),
    };
    Ok((BootEnv(named), None))
}

/// True if the bootloader compares CRC-32 in place of SHA-256, because it cannot hash.
#[must_use]
pub fn compares_checksums(config: &Config) -> bool {
    matches!(config.bootenv, Some(Place::UBoot(_)))
}

/// True if the bootloader reads a loader file beside its environment, which `adopt` can replace.
#[must_use]
pub fn has_loader_file(config: &Config) -> bool {
    matches!(config.bootenv, None | Some(Place::Grub(_)))
}

/// True if the firmware names the booted slot and its trial, and not the kernel command line.
#[must_use]
pub fn names_boot(config: &Config) -> bool {
    matches!(config.bootenv, Some(Place::Rpi(_)))
}

/// The file of the environment that `adopt` has its loader file beside; `None`: on the EFI partition.
#[must_use]
pub fn file_beside_loader(config: &Config) -> Option<&Path> {
    match &config.bootenv {
        Some(Place::Grub(file)) => Some(file),
        None | Some(Place::UBoot(_) | Place::Rpi(_)) => None,
    }
}

/// Makes the locks that the bootloader's own tools share with this program, and takes them from other accounts.
///
/// # Errors
/// 75 when another program holds one; 73 when one cannot be made.
pub fn make_locks(config: &Config) -> Result<()> {
    match config.bootenv {
        Some(Place::UBoot(_)) => uboot::make_locks(),
        None | Some(Place::Grub(_) | Place::Rpi(_)) => Ok(()),
    }
}

/// Around the filesystem if the kernel reports the place of the files: the EFI partition then stays read-only, and a store
/// changes one sector of the medium and nothing else.
fn on_esp(devices: &System) -> Result<(BootEnv, Option<Mounted>)> {
    let partition = devices.find(blocks::ESP_LABEL)?;
    let esp = Mounted::read_only(&partition, Filesystem::Vfat)?;
    let main = esp.path().join(MAIN);
    let second = main.with_file_name(SECOND);
    let mapped = Medium::map(&main, &partition);
    let mapped_second = Medium::map(&second, &partition);
    esp.unmount()?;
    let open = |main, second| Ok((BootEnv(Box::new(grub::Grub::open(main, second)?)), None));
    match (mapped, mapped_second) {
        (Ok(main), Ok(second)) => open(main, Some(second)),
        // Before a device is adopted it has no second file, and needs none.
        (Ok(main), Err(_)) if !is_ours(&main) => open(main, None),
        // A second file that is gone is made by the next store, or health run, which takes a filesystem.
        (Ok(_), Err(why)) | (Err(why), _) => {
            log::info!("boot environment through its filesystem: {why}");
            let esp = Mounted::read_write(&partition, Filesystem::Vfat)?;
            let env = grub::Grub::file(&esp.path().join(MAIN))?;
            Ok((BootEnv(Box::new(env)), Some(esp)))
        }
    }
}

fn is_ours(main: &Medium) -> bool {
    main.load().is_ok_and(|block| matches!(block.view(), View::Ours(_)))
}

impl BootEnv {
    /// The commands of the bootloader's script that some builds of it lack.
    #[must_use]
    pub fn commands(&self) -> Commands {
        self.0.commands()
    }

    /// The firmware's description of this boot, if there is one.
    #[must_use]
    pub fn booted(&self, proc: &Path) -> Option<Booted> {
        self.0.booted(proc)
    }

    /// Before a reboot: the argument without which the firmware would not try the active slot.
    ///
    /// # Errors
    /// 73 when that cannot be noted.
    pub fn arm(&mut self) -> Result<Option<&'static str>> {
        self.0.arm()
    }

    /// The state.
    #[must_use]
    pub fn view(&self) -> View {
        self.0.view()
    }

    /// Content of the second file, which promises less than the first; `None` if it is missing or damaged, or the
    /// bootloader has none.
    #[must_use]
    pub fn second(&self) -> Option<FallbackBlock> {
        self.0.second()
    }

    /// Where it lies, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.place()
    }

    /// Why it is not usable.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let outside =
            || "it lacks active_slot, boot_success or boot_counter, or has values outside their alphabet".to_owned();
        self.0.damage().or_else(|| (self.view() == View::Invalid).then(outside))
    }

    /// Refuses a damaged environment, as `apply` and `activate` do.
    ///
    /// # Errors
    /// 78 with the damage.
    pub fn usable(&self) -> Result<View> {
        let Some(damage) = self.damage() else { return Ok(self.view()) };
        let message = format!("boot environment {} is not valid: {damage}", self.place());
        Err(Error::new(Reason::EnvInvalid, message).remedy(self.0.remedy()))
    }

    /// Refuses an environment that has no room for the variables of the slot protocol.
    ///
    /// # Errors
    /// 73 with the variables that are in the way.
    pub fn room(&self) -> Result<()> {
        self.0.room()
    }

    /// True if a store that the bootloader makes would hold: one that cannot store goes on without it.
    #[must_use]
    pub fn holds(&self, stored: &[(&'static str, String)]) -> bool {
        self.0.holds(stored)
    }

    /// Why the bootloader may not be able to store in an environment that it can read, if so. Each store removes the cause.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        self.0.flaw()
    }

    /// Removes the flaw; the state and the variables of others stay.
    ///
    /// # Errors
    /// As of [`BootEnv::store`].
    pub fn repair(&mut self) -> Result<()> {
        self.0.repair()
    }

    /// True if a store may be made where nothing valid is: never over what may be somebody else's variables.
    #[must_use]
    pub fn can_be_rebuilt(&self) -> bool {
        self.0.can_be_rebuilt()
    }

    /// True if there is no other copy, so that a store that is cut off may leave nothing.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.0.is_single()
    }

    /// Makes `next` the state, in the order that survives a power cut after any step.
    ///
    /// # Errors
    /// 73 when a store fails or reads back differently. Old or new state then, never a mixture. 75 when another program
    /// holds or changes it.
    pub fn store(&mut self, next: &BootState) -> Result<()> {
        self.0.store(next)
    }

    /// Brings the fallback in step with the state. Part of each store, and the correction at each run of the agent.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn raise_second(&mut self, state: &BootState) -> Result<()> {
        self.0.raise_second(state)
    }

    /// Confirms a boot for KubeSolo OS's old grub.cfg, which counts down on every boot.
    ///
    /// # Errors
    /// 73 when the store fails.
    pub fn confirm_legacy(&mut self) -> Result<()> {
        self.0.confirm_legacy()
    }
}

fn describe(state: &BootState) -> String {
    state.variables().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
