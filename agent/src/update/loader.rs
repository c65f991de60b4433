//! Loader files that are replaced in the field, on trial.
//!
//! A new file is put beside the one that boots, with its hash. Then one sector, `ksstage`, says that it is to be tried once. A
//! healthy boot by the new file makes it the good one; after any other boot the old one is still good, and the failure is
//! remembered. The same steps bring a device without stage 1 there: see [`Change`].
//!
//! None of this is a part of the verdict on a release: a health run does it afterwards, and its failure is only a warning.

use bootenv::grub::SECTOR;
use bootenv::loader::{self, FileId, Kind, Stage};
use bootenv::protocol::View;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::device::blocks::CommandLine;
use crate::device::boot::{Boot, BootedBasis};
use crate::device::loader::{Folder, NewFile, Scripts, files_of};
use crate::state::memory::{LOADER_FAILURES, Memory};
use crate::update::records::LockedRecords;
use crate::update::update::Update;

/// The way from the scripts of a device to a new loader file. Its steps are called in the order in which they stand here; a
/// power cut between any two of them leaves a device that boots, and the next run goes on.
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// GRUB's folder.
    pub(super) folder: &'a Folder,
    /// The scripts as they were read; `None` if `grub.cfg` is missing.
    pub(super) scripts: Option<&'a Scripts>,
    /// The new loader file.
    pub(super) new: &'a [u8],
}

impl Change<'_> {
    fn stage(&self) -> Stage {
        self.scripts.and_then(Scripts::stage).unwrap_or(Stage::settled(FileId::First))
    }

    /// True if a try is stored for the next boot.
    pub(super) fn is_due(&self) -> bool {
        self.scripts.and_then(Scripts::stage).is_some_and(|stage| stage.tried.is_some())
    }

    /// True if the new file is later than those of this boot and of the next one, and can be tried here.
    pub(super) fn is_later(&self, boot: &Boot) -> bool {
        let (Some(scripts), new) = (self.scripts, loader::number(self.new)) else { return false };
        match scripts.kind {
            Kind::Staged => new > started_by(boot) && new > scripts.number(self.stage().good),
            // They are of version 0.1. A device of KubeSolo OS is switched by a person.
            Kind::Ours | Kind::Switched => !boot.legacy && new > started_by(boot),
            Kind::KubeSoloOs | Kind::Unknown => false,
        }
    }

    /// Puts the new file beside the one that boots, and what else is new. Without stage 1: both of them.
    pub(super) fn place(&self, legacy: bool, more: Vec<NewFile>) -> Result<()> {
        let Some(scripts) = self.scripts else { return Ok(()) };
        if scripts.kind != Kind::Staged {
            let before = before_of(self.folder, scripts, legacy)?;
            let stage = (loader::STAGE, Stage::settled(FileId::First).block().bytes().to_vec());
            let scripts = [files_of(FileId::First, &before), files_of(FileId::Second, self.new)].concat();
            return self.folder.put(&[scripts, vec![stage], more].concat());
        }
        let file = self.stage().good.other();
        if !scripts.is(file, self.new) {
            // Without its hash the file is not run while it is written.
            self.folder.remove(&[file.sum()])?;
            let [script, sum] = files_of(file, self.new);
            self.folder.put(&[script])?;
            self.folder.put(&[sum])?;
        }
        self.folder.put(&more)
    }

    /// Makes the first sector of `grub.cfg` stage 1, which runs what ran before.
    pub(super) fn switch(&self) -> Result<()> {
        match self.scripts {
            Some(scripts) if scripts.kind != Kind::Staged => self.folder.store_stage1(&scripts.entry),
            _ => Ok(()),
        }
    }

    /// Says that the next boot tries the new file. Noted before it is stored: a try that nobody knows of could fail for ever.
    pub(super) fn begin_try(&self, records: &mut LockedRecords) -> Result<()> {
        let Some(now) = self.folder.scripts()? else { return Ok(()) };
        let stage = now.stage().unwrap_or(Stage::settled(FileId::First));
        let mut memory = records.memory()?;
        if memory.loader_tried(Digest::of(self.new)) {
            records.keep_memory(&memory)?;
        }
        self.folder.store_stage(&now, Stage { tried: Some(stage.good.other()), ..stage })
    }
}

/// The script that boots this device today, where there is no stage 1.
pub(super) fn before_of(folder: &Folder, scripts: &Scripts, legacy: bool) -> Result<Vec<u8>> {
    if scripts.entry.len() < SECTOR {
        let shown = folder.shown(loader::ENTRY);
        let bytes = scripts.entry.len();
        let message = format!("{shown} has only {bytes} bytes, less than the one sector that adopt replaces");
        return Err(Error::new(Reason::UnknownGrubCfg, message)
            .remedy(format!("Append comment lines to it until it has {SECTOR} bytes.")));
    }
    if scripts.kind != Kind::Switched {
        return Ok(scripts.entry.clone());
    }
    let name = if legacy { loader::BEFORE } else { loader::FILE };
    folder.read(name)?.ok_or_else(|| {
        let message = format!("{} is missing, and grub.cfg runs it", folder.shown(name));
        Error::new(Reason::NoGrubCfg, message).remedy("Reboot, then run `kubesolo-update doctor`.")
    })
}

/// Number of the loader file that started this boot: 0 for one of version 0.1, `None` for one without the slot protocol.
#[must_use]
pub fn started_by(boot: &Boot) -> Option<u32> {
    let line = CommandLine::parse(boot.line.as_deref().unwrap_or_default());
    (!boot.legacy).then(|| line.loader.unwrap_or_default())
}

/// True if the file on trial started this boot, and no health run has concluded that yet.
pub(super) fn is_tried_now(scripts: &Scripts, boot: &Boot) -> bool {
    let started = |file| started_by(boot).is_some() && scripts.number(file) == started_by(boot);
    scripts.stage().is_some_and(|stage| stage.tried.is_none() && started(stage.good.other()) && !started(stage.good))
}

/// Digest of the loader file that this agent carries.
#[must_use]
pub fn carried() -> Digest {
    Digest::of(loader::TEXT.as_bytes())
}

impl Update<'_> {
    /// After the verdict of a healthy boot: concludes a try of a loader file, and begins the next one where the settings allow
    /// it.
    pub fn renew_loader(&mut self) {
        if let Err(error) = self.conclude_loader().and_then(|()| self.try_loader()) {
            log::warn!("the loader file is not updated: {error}");
        }
    }

    /// A healthy boot by the file on trial makes it the good one. Any other boot after the try is a failure of it.
    fn conclude_loader(&mut self) -> Result<()> {
        let Some((folder, scripts)) = self.staged_scripts()? else { return Ok(()) };
        let started = started_by(self.boot);
        let Some(stage) = scripts.stage() else {
            let of = |file| started.is_some() && scripts.number(file) == started;
            let good = if of(FileId::Second) && !of(FileId::First) { FileId::Second } else { FileId::First };
            log::warn!("{} was damaged, and is written again", folder.shown(loader::STAGE));
            folder.claim()?;
            return folder.store_stage(&scripts, Stage::settled(good));
        };
        if stage.tried.is_some() {
            return Ok(());
        }
        let other = stage.good.other();
        if is_tried_now(&scripts, self.boot) {
            folder.claim()?;
            folder.store_stage(&scripts, Stage::settled(other))?;
            log::info!("loader file {} is good now", started.unwrap_or_default());
            return self.change_memory(|memory| memory.loader_good(scripts.digest(other)));
        }
        self.change_memory(|memory| {
            let failed = memory.loader_failed();
            if let Some(failures) = failed {
                log::warn!("the boot by the new loader file did not become healthy: failure {failures}");
            }
            failed.is_some()
        })
    }

    fn try_loader(&mut self) -> Result<()> {
        let new = loader::TEXT.as_bytes();
        if !self.may_try_loader() || self.records.memory()?.loader_failures(carried()) >= LOADER_FAILURES {
            return Ok(());
        }
        let Some(folder) = Folder::of(self.config, self.boot)? else { return Ok(()) };
        let scripts = folder.scripts()?;
        let change = Change { folder: &folder, scripts: scripts.as_ref(), new };
        if change.is_due() || !change.is_later(self.boot) {
            return Ok(());
        }
        folder.claim()?;
        change.place(false, vec![])?;
        change.switch()?;
        change.begin_try(self.records)?;
        log::info!("loader file {} is tried at the next boot", loader::number(new).unwrap_or_default());
        Ok(())
    }

    /// True in a committed boot without any trial: of two trials in one power-on, nobody could say which one failed.
    fn may_try_loader(&self) -> bool {
        let View::Ours(env) = self.boot.env.view() else { return false };
        let booted = self.boot.booted;
        self.config.loader_update
            && self.boot.basis == BootedBasis::CommandLine
            && self.boot.twins.is_empty()
            && env.success
            && [env.active, env.good] == [booted.slot; 2]
            && booted.fallback.is_none()
    }

    /// Before a trial of a release is stored: takes back a try of a loader file, so that no boot has both.
    ///
    /// # Errors
    /// 75 while the loader file of this boot is on trial: the next boot would run the other one, which may not pass on what the
    /// release needs. 73 or 78 when it cannot be read or stored.
    pub(super) fn put_off_loader(&mut self) -> Result<()> {
        let Some((folder, scripts)) = self.staged_scripts()? else { return Ok(()) };
        if is_tried_now(&scripts, self.boot) {
            let message = "the loader file of this boot is on trial, and no health run has kept it yet";
            return Err(Error::new(Reason::NotConfirmed, message)
                .remedy("Run `kubesolo-update healthcheck`, then this command again."));
        }
        let Some(stage) = scripts.stage().filter(|stage| stage.tried.is_some()) else { return Ok(()) };
        folder.claim()?;
        folder.store_stage(&scripts, Stage::settled(stage.good))?;
        self.change_memory(Memory::loader_put_off)
    }

    /// With `--retry-failed`: the next healthy boot tries a loader file again that failed before.
    pub fn retry_loader(&self) {
        if self.lifted.retry_failed
            && let Err(error) = self.change_memory(Memory::forget_loader_failures)
        {
            log::warn!("{error}");
        }
    }

    fn staged_scripts(&self) -> Result<Option<(Folder, Scripts)>> {
        let Some(folder) = Folder::of(self.config, self.boot)? else { return Ok(None) };
        let scripts = folder.scripts()?.filter(|scripts| scripts.kind == Kind::Staged);
        Ok(scripts.map(|scripts| (folder, scripts)))
    }

    /// Writes `memory.json` if the change is one.
    fn change_memory(&self, change: impl FnOnce(&mut Memory) -> bool) -> Result<()> {
        let mut memory = self.records.memory()?;
        if change(&mut memory) { self.records.keep_memory(&memory) } else { Ok(()) }
    }
}
