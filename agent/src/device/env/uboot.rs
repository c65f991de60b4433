//! U-Boot's environment: two copies, of which the one that does not count is the fallback.
//!
//! Every state is stored twice, so that both copies say the same before anything is done that depends on it: the copy
//! from before could promise a slot that is void by now. The model in `bootenv/tests/model` shows what one store breaks.

use std::cmp::Reverse;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use bootenv::SlotId;
use bootenv::lock::Replaced;
use bootenv::protocol::{BootState, NAMES, View};
use bootenv::step::Step;
use bootenv::uboot::bootcount;
use bootenv::uboot::config;
use bootenv::uboot::store::{Error as StoreError, Loaded, Store};
use bootenv::uboot::{Environment, Error as FormatError};

use super::{Bootloader, Commands};
use crate::base::console;
use crate::base::error::{Error, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::System;

/// The next step when no copy can be read.
const REMEDY: &str = "The agent does not overwrite it. Compare the geometry in fw_env.config with that of the \
    bootloader; if it is right, write the environment again, as the image builder does (mkenvimage).";
/// Variables that a message names when there is no room: the largest.
const NAMED: usize = 8;
const LABEL_REMEDY: &str = "Give the partition this label, or name its device.";

#[derive(Debug)]
pub(super) struct UBoot {
    store: Store,
    /// For messages.
    place: String,
    loaded: Result<Loaded, String>,
}

impl UBoot {
    pub(super) fn open(file: &Path, devices: &System) -> Result<Self> {
        let name = text::escape(&file.to_string_lossy());
        let missing = || {
            Error::new(Reason::FwEnvConfig, format!("cannot read {name}: it is not there"))
                .remedy("bootenv=uboot:FILE must name the fw_env.config with the place of U-Boot's environment.")
        };
        let bytes = files::read_linked(file, config::MAX_BYTES as u64 + 1, Reason::FwEnvConfig)?.ok_or_else(missing)?;
        let mut places = config::parse(&bytes).map_err(|e| {
            Error::new(Reason::FwEnvConfig, format!("{name}: {e}")).remedy(
                "Each line has a device, an offset, a size, and optionally a sector size and a number of sectors.",
            )
        })?;
        for place in &mut places {
            let found = devices.by_link(&place.device).map_err(|e| e.context(&name).remedy(LABEL_REMEDY))?;
            place.device = found.unwrap_or_else(|| place.device.clone());
            check_file(&place.device)?;
        }
        let shown: Vec<String> = places.iter().map(|place| text::escape(&place.to_string())).collect();
        let (store, place) = (Store::new(places), shown.join(" and "));
        if store.is_single() {
            log::warn!("boot environment {place}: a single copy, which a power cut during a store may damage");
        }
        let loaded = match store.load() {
            Ok(loaded) => {
                log_locks(&loaded.replaced_locks);
                Ok(loaded)
            }
            Err(why @ StoreError::Damaged(_)) => Err(why.to_string()),
            Err(why) => return Err(unreadable(&name, &place, &why)),
        };
        if let Ok(Loaded { damaged: Some(why), .. }) = &loaded {
            log::warn!("boot environment {place}: one copy is damaged ({why}), the other one is in use");
        }
        Ok(Self { store, place, loaded })
    }

    /// Brings the other copy in step with the one that counts.
    fn raise(&mut self) -> Result<()> {
        let behind = |loaded: &Loaded| loaded.older.as_ref() != Some(&loaded.environment);
        if self.store.is_single() || !self.loaded.as_ref().is_ok_and(behind) { Ok(()) } else { self.set(&[]) }
    }

    /// One store of these variables, all others kept.
    fn set(&mut self, variables: &[(&str, String)]) -> Result<()> {
        let current = match &self.loaded {
            Ok(current) => current,
            Err(damage) => return Err(self.cannot_store(damage).remedy(REMEDY)),
        };
        let next = current.environment.with(variables);
        let stored = self.store.store(current, &next).map_err(|why| match why {
            StoreError::Changed | StoreError::Locked(_) => {
                Error::new(Reason::EnvBusy, format!("cannot store the boot environment {}: {why}", self.place))
                    .remedy("The change of the other program stays. Try again.")
            }
            StoreError::Format(why) => self.without_room(&why, &current.environment, variables),
            _ => self.cannot_store(&why),
        })?;
        log_locks(&stored.replaced_locks);
        if let View::Ours(state) = stored.environment.view() {
            console::log_step(Step::Main(state));
        }
        self.loaded = Ok(stored);
        Ok(())
    }

    fn without_room(&self, why: &FormatError, environment: &Environment, ours: &[(&str, String)]) -> Error {
        let largest = largest(environment, ours);
        let message =
            format!("cannot store the boot environment {}: {why}; the largest of others: {largest}", self.place);
        Error::new(Reason::EnvFull, message).remedy(
            "Remove a variable that neither U-Boot nor the board needs: fw_setenv NAME. The boot environment is unchanged.",
        )
    }

    fn cannot_store(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(Reason::EnvWrite, format!("cannot store the boot environment {}: {cause}", self.place))
            .remedy("The boot environment has the old or the new state. See `kubesolo-update status`.")
    }
}

impl Bootloader for UBoot {
    fn commands(&self) -> Commands {
        Commands { hash: "crc32, itest or setexpr", part: "part" }
    }

    fn view(&self) -> View {
        self.loaded.as_ref().map_or(View::Invalid, |loaded| loaded.environment.view())
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn damage(&self) -> Option<String> {
        self.loaded.as_ref().err().cloned()
    }

    fn is_single(&self) -> bool {
        self.store.is_single()
    }

    fn store(&mut self, next: &BootState) -> Result<()> {
        if self.view() != View::Ours(*next) {
            let counted = self.loaded.as_ref().map(|loaded| bootcount::variables(&loaded.environment, next));
            self.set(&[next.variables(), counted.unwrap_or_default()].concat())?;
            log::info!("boot environment stored: {}", super::describe(next));
        }
        self.raise()
    }

    fn remedy(&self) -> &'static str {
        if self.can_be_rebuilt() {
            "On a device, `kubesolo-update healthcheck` rebuilds it after a healthy boot."
        } else {
            REMEDY
        }
    }

    /// An unreadable copy may have the variables of another program.
    fn can_be_rebuilt(&self) -> bool {
        self.damage().is_none()
    }

    fn raise_second(&mut self, _state: &BootState) -> Result<()> {
        self.raise()
    }

    fn room(&self) -> Result<()> {
        let Ok(current) = &self.loaded else { return Ok(()) };
        let state = BootState::committed(SlotId::A);
        let ours = [state.variables(), bootcount::variables(&current.environment, &state)].concat();
        let fits = self.store.fits(&current.environment.with(&ours));
        fits.map_err(|why| self.without_room(&why, &current.environment, &ours))
    }

    fn confirm_legacy(&mut self) -> Result<()> {
        self.set(&[("boot_success", "1".to_owned()), ("boot_counter", "3".to_owned())])
    }
}

pub(super) fn make_locks() -> Result<()> {
    let replaced = bootenv::uboot::store::make_locks().map_err(|why| match why {
        StoreError::Locked(_) => Error::new(Reason::EnvBusy, why.to_string()).remedy("Try again."),
        _ => Error::new(Reason::EnvWrite, format!("cannot create the locks of U-Boot's tools: {why}")),
    })?;
    log_locks(&replaced);
    Ok(())
}

/// The other programs make their lock readable by all: one of root's that is free is no cause for concern.
fn log_locks(replaced: &[Replaced]) {
    for lock in replaced {
        let level = if lock.foreign || lock.held { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{lock}");
    }
}

fn unreadable(config: &str, place: &str, why: &StoreError) -> Error {
    let message = format!("boot environment {place}: {why}");
    match why {
        StoreError::Locked(_) => Error::new(Reason::EnvBusy, message).remedy("Try again."),
        _ => Error::new(Reason::EnvUnreadable, message)
            .remedy(format!("Compare {config}, which bootenv= names, with the disk and with U-Boot's own settings.")),
    }
}

/// An environment in a regular file decides what boots, so no other account may write it. A device is opened as it is.
fn check_file(place: &Path) -> Result<()> {
    if place.metadata().is_ok_and(|meta| meta.file_type().is_block_device()) {
        return Ok(());
    }
    files::open(place, Reason::EnvUnreadable).map(drop)
}

/// Names of the variables that are not the agent's, the largest first, each with its size, for messages.
fn largest(environment: &Environment, ours: &[(&str, String)]) -> String {
    let is_ours = |name: &[u8]| NAMES.iter().chain(ours.iter().map(|(name, _)| name)).any(|own| own.as_bytes() == name);
    let variables = environment.variables().into_iter().filter(|(name, _)| !is_ours(name));
    let mut sizes: Vec<_> = variables.map(|(name, value)| (name.len() + value.len() + 2, name)).collect();
    sizes.sort_by_key(|(size, _)| Reverse(*size));
    let shown = sizes.iter().take(NAMED).map(|(size, name)| format!("{} ({size} bytes)", name.escape_ascii()));
    let more = if sizes.len() > NAMED { ", …" } else { "" };
    shown.collect::<Vec<_>>().join(", ") + more
}
