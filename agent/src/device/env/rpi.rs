//! `autoboot.txt` of a Raspberry Pi: one sector of a FAT file, which the firmware reads and never writes.
//!
//! Never booted by this project: it follows the documentation of the firmware, and is tested on files.

use std::path::{Path, PathBuf};

use bootenv::medium::read_past_cache;
use bootenv::protocol::{BootState, Booted, TRIES, View};
use bootenv::step::Step;
use bootenv::{SlotId, TrialId, rpi};

use super::Bootloader;
use crate::base::console;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;

/// The file in the first partition.
const FILE: &str = "autoboot.txt";
/// The firmware's description of this boot, below `/proc`.
const FIRMWARE: &str = "device-tree/chosen/bootloader";

#[derive(Debug)]
pub(super) struct Rpi {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Rpi {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let bytes = read(&file)
            .map_err(|e| e.remedy("Name the folder in which the first partition is mounted with --bootenv rpi:DIR."))?;
        Ok(Self { file, bytes })
    }
}

impl Bootloader for Rpi {
    fn view(&self) -> View {
        rpi::view(&self.bytes)
    }

    fn place(&self) -> String {
        self.file.display().to_string()
    }

    fn store(&mut self, next: &BootState) -> Result<()> {
        let bytes = rpi::render(next);
        if bytes != self.bytes {
            let what = || format!("store the boot environment {}", self.place());
            if self.bytes.len() == bytes.len() {
                files::write_in_place(&self.file, &bytes).context(Reason::EnvWrite, what())?;
            } else {
                // Of another size: as a person or the image's builder wrote it. Never in two halves.
                super::grub::create(&self.file, &bytes)?;
            }
            if read(&self.file)? != bytes {
                let message = format!("cannot {}: the bytes read back differ from the written ones", what());
                return Err(Error::new(Reason::EnvWrite, message));
            }
            self.bytes = bytes;
            console::log_step(Step::Main(*next));
            log::info!("boot environment stored: {}", super::describe(next));
        }
        Ok(())
    }

    fn arm(&mut self) -> Result<Option<&'static str>> {
        match self.view() {
            View::Ours(state) if !state.success && state.counter == TRIES && state.active != state.good => {
                self.store(&BootState { counter: 0, ..state })?;
                Ok(Some(rpi::TRYBOOT))
            }
            _ => Ok(None),
        }
    }

    fn booted(&self, proc: &Path) -> Option<Booted> {
        booted(&proc.join(FIRMWARE), self.view())
    }
}

/// A boot of the other partition that was asked for is the trial that is noted.
fn booted(firmware: &Path, view: View) -> Option<Booted> {
    let number =
        |name: &str| Some(u32::from_be_bytes(files::read_data(&firmware.join(name), 5).ok()?.try_into().ok()?));
    let slot: SlotId = rpi::slot(number("partition")?)?;
    let trial = match view {
        View::Ours(state) if number("tryboot") == Some(1) && state.on_trial() == Some(slot) => state.trial,
        _ => TrialId::NONE,
    };
    Some(Booted { slot, trial, fallback: None })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let what = || format!("boot environment: read {}", file.display());
    let missing = || Error::new(Reason::EnvUnreadable, format!("cannot {}: it is not there", what()));
    let opened = files::open(file, Reason::EnvUnreadable)?.ok_or_else(missing)?;
    let size = opened.metadata().context(Reason::EnvUnreadable, what())?.len();
    if size > rpi::SIZE as u64 {
        let message = format!("boot environment {}: it has {size} bytes, and the firmware reads 512", file.display());
        return Err(Error::new(Reason::EnvUnreadable, message));
    }
    let mut bytes = vec![0; size as usize];
    read_past_cache(&opened, 0, &mut bytes).context(Reason::EnvUnreadable, what())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_firmware_names_the_slot_and_the_trial_of_this_boot() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, number: u32| fs::write(folder.path().join(name), number.to_be_bytes()).expect("a file");
        let trial = TrialId(7);
        let state =
            BootState { active: SlotId::B, success: false, counter: 0, trial, ..BootState::committed(SlotId::A) };
        let booted = |view| booted(folder.path(), view);
        assert_eq!(booted(View::Ours(state)), None, "another firmware");
        put("partition", 3);
        put("tryboot", 1);
        assert_eq!(booted(View::Ours(state)), Some(Booted { slot: SlotId::B, trial, fallback: None }));
        put("tryboot", 0);
        assert_eq!(booted(View::Ours(state)), Some(Booted::ordinary(SlotId::B)), "nobody asked for a try");
        put("partition", 2);
        put("tryboot", 1);
        assert_eq!(booted(View::Ours(state)), Some(Booted::ordinary(SlotId::A)));
        put("partition", 1);
        assert_eq!(booted(View::Ours(state)), None, "no slot of ours");
    }
}
