//! Removable volumes that a person brings, with releases on them.

use std::path::PathBuf;

use super::block::Block;
use crate::base::error::Result;
use crate::base::{files, limits};
use crate::device::blocks::{STICK_LABEL, System, Volume, volume};

/// A removable volume with the label [`STICK_LABEL`].
#[derive(Clone, Debug)]
pub struct Stick {
    /// The device node of the volume.
    pub device: PathBuf,
    /// Its filesystem.
    pub volume: Volume,
}

impl System {
    /// The removable volumes with releases, at most [`limits::STICKS`], in the order of their names. A volume of the disk that
    /// was booted is none, whatever that disk is. A device that cannot be read is left out.
    ///
    /// # Errors
    /// 78 without sysfs.
    pub fn sticks(&self) -> Result<Vec<Stick>> {
        let own = self.own_disk().inspect_err(|e| log::debug!("sticks: {e}")).ok();
        let brought = |block: &Block| {
            block.is_volume() && block.is_brought(self) && own.as_ref().is_none_or(|own| !block.lies_on(self, own))
        };
        let labelled = |block: Block| {
            let found = files::open_data(&block.node).and_then(|mut device| volume(&mut device));
            let found = found.inspect_err(|e| log::info!("cannot read {}: {e}", block.node.display())).ok()??;
            (found.label == STICK_LABEL).then_some(Stick { device: block.node, volume: found })
        };
        Ok(Block::all(self)?.into_iter().filter(brought).filter_map(labelled).take(limits::STICKS).collect())
    }
}

impl Stick {
    /// Its name for messages, as the kernel gave it.
    #[must_use]
    pub fn name(&self) -> String {
        files::name(&self.device)
    }
}
