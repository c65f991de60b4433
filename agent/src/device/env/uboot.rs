//! U-Boot's environment: two copies, of which the one that does not count is the fallback.
//!
//! Every state is stored twice, so that both copies say the same before anything is done that depends on it: the copy
//! from before could promise a slot that is void by now. The model in `bootenv/tests/model` shows what one store breaks.

use std::path::Path;

use bootenv::lock::Replaced;
use bootenv::protocol::{BootState, View};
use bootenv::step::Step;
use bootenv::uboot::bootcount;
use bootenv::uboot::config;
use bootenv::uboot::store::{Error as StoreError, Loaded, Store};

use super::Bootloader;
use crate::base::console;
use crate::base::error::{Error, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::System;

/// The next step when no copy can be read.
const REMEDY: &str = "The agent does not overwrite it. Compare the geometry in fw_env.config with that of the \
    bootloader; if it is right, write the environment again, as the image builder does (mkenvimage).";
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
            _ => self.cannot_store(&why),
        })?;
        log_locks(&stored.replaced_locks);
        if let View::Ours(state) = stored.environment.view() {
            console::log_step(Step::Main(state));
        }
        self.loaded = Ok(stored);
        Ok(())
    }

    fn cannot_store(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(Reason::EnvWrite, format!("cannot store the boot environment {}: {cause}", self.place))
            .remedy("The boot environment has the old or the new state. See `kubesolo-update status`.")
    }
}

impl Bootloader for UBoot {
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
