//! From KubeSolo OS's old loader file to the slot protocol, on a device in the field.
//!
//! All that is new is put beside the old `grub.cfg`, synced, and read back from the medium, while GRUB still reads the old
//! one. Then comes one store of the environment, and two stores of one sector: `grub.cfg` becomes stage 1, which runs the old
//! file, and `ksstage` says that the new one is to be tried (`bootenv::loader`). Wherever the power goes, the device boots as
//! before, or as wanted; called again, it goes on.

use std::path::PathBuf;

use bootenv::grub::Block;
use bootenv::loader::{self, FileId, Kind, Stage};
use bootenv::protocol::{BootState, FallbackBlock, View};
use serde::Serialize;

use crate::base::error::{Error, Reason, Result};
use crate::config::Config;
use crate::device::blocks;
use crate::device::boot::{Boot, BootedBasis};
use crate::device::env;
use crate::device::loader::{Folder, NewFile, Scripts, read};
use crate::update::loader::{Change, before_of, is_tried_now};
use crate::update::records::LockedRecords;

/// Arguments of the bootloader itself on the kernel command line, up to `=`.
const OF_LOADER: [&str; 9] =
    // `panic=` has its own value there: with another one a kernel that panics may hang for ever.
    [
        "BOOT_IMAGE",
        "initrd",
        "kubesolo.slot",
        "ks.trial",
        "ks.fallback",
        "ks.proto",
        "ks.part",
        "ks.loader",
        "panic",
    ];

/// Options of `adopt`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another loader file than the one that the agent carries.
    pub loader_file: Option<PathBuf>,
    /// Kernel arguments in place of those of the running system.
    pub kernel_args: Option<String>,
    /// Switch a `grub.cfg` that is not KubeSolo OS's.
    pub any_grub_cfg: bool,
    /// A file that stands for `/proc/cmdline`.
    pub cmdline: Option<PathBuf>,
}

/// How far `adopt` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdoptOutcome {
    /// This run put the new loader file in place.
    Adopted,
    /// An earlier run did, and no boot has shown it since.
    Placed,
    /// The new loader file started this boot: there is nothing to do.
    InUse,
}

/// The outcome of `adopt`.
#[derive(Debug, Serialize)]
pub struct Adopted {
    /// The result.
    pub outcome: AdoptOutcome,
    /// True if a reboot completes it.
    pub reboot: bool,
    /// The kernel arguments that the new loader file passes on, if they were written by this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// The same in words.
    pub message: String,
}

/// Switches this device over to the slot protocol, or to a later loader file.
///
/// # Errors
/// 65 when the booted slot's files do not fit their hashes, 73 when something cannot be written, 75 when this boot is not
/// confirmed, 78 when the loader file or the kernel arguments are not ones that can be taken over. The device boots as before
/// then.
pub fn adopt(folder: Folder, boot: &mut Boot, records: &mut LockedRecords, options: &Options) -> Result<Adopted> {
    let folder = folder.with_boot(boot);
    boot.alone()?;
    if boot.folders() && boot.basis != BootedBasis::CommandLine {
        return Err(Error::new(Reason::AdoptWithFolders, "adopt needs a device, and these slots are folders")
            .remedy("Give a kernel command line with --cmdline to try adopt on folders."));
    }
    let new = new_loader(options)?;
    let scripts = folder.scripts()?;
    if !boot.legacy {
        return renew(&Change { folder: &folder, scripts: scripts.as_ref(), new: &new }, boot, records);
    }
    let scripts = scripts.ok_or_else(|| {
        let message = format!("{} is missing", folder.shown(loader::ENTRY));
        Error::new(Reason::NoGrubCfg, message)
            .remedy("Name the folder that GRUB reads with --bootenv grub:FOLDER/grubenv.")
    })?;
    let state = adopted_state(boot)?;
    admit(&folder, &scripts, options)?;

    let (more, arguments) = more_files(&folder, options, &state)?;
    // The bootloader will ask for the hashes of what it boots; KubeSolo OS wrote none.
    boot.slots.get(boot.booted.slot).complete_hashes()?;
    let change = Change { folder: &folder, scripts: Some(&scripts), new: &new };
    let placed = is_placed(&scripts, &new);
    change.place(boot.legacy, more)?;
    boot.env.store(&state)?;
    change.switch()?;
    change.begin_try(records)?;
    let how = if placed {
        "the new loader file is already in place, but the old one started this boot. It is tried again. If a reboot does \
         not change that, the GRUB of this device lacks commands of the new file (hashsum, regexp): install GRUB again"
    } else {
        "the new loader file is in place and tried at the next boot; the old one is kept as ksl1.cfg, and boots the device if \
         this GRUB cannot run the new one"
    };
    Ok(Adopted {
        outcome: if placed { AdoptOutcome::Placed } else { AdoptOutcome::Adopted },
        reboot: true,
        message: format!("{how}\nslot {} is committed, slot {} is void", state.good, state.good.other()),
        kernel_args: arguments,
    })
}

/// True if an earlier run put this file in place.
fn is_placed(scripts: &Scripts, new: &[u8]) -> bool {
    let tried = scripts.stage().unwrap_or(Stage::settled(FileId::First)).good.other();
    scripts.kind == Kind::Staged && scripts.is(tried, new)
}

/// The settings and the second file of the environment, where they are missing; and the kernel arguments, if they are written.
fn more_files(folder: &Folder, options: &Options, state: &BootState) -> Result<(Vec<NewFile>, Option<String>)> {
    let mut more = vec![];
    let arguments = kernel_arguments(folder, options)?;
    if let Some(line) = &arguments {
        more.push((loader::ARGUMENTS, line_of(line)?));
    }
    if valid_second(folder.read(env::SECOND).ok().flatten()).is_none() {
        more.push((env::SECOND, Block::second(&FallbackBlock::of(state)).bytes().to_vec()));
    }
    Ok((more, arguments))
}

/// A device with the slot protocol gets a later loader file, or the script that can try one.
fn renew(change: &Change<'_>, boot: &Boot, records: &mut LockedRecords) -> Result<Adopted> {
    let done = |outcome, message: &str| Adopted {
        outcome,
        reboot: outcome != AdoptOutcome::InUse,
        kernel_args: None,
        message: message.into(),
    };
    if change.is_due() {
        return Ok(done(AdoptOutcome::Placed, "the new loader file is tried at the next boot"));
    }
    if !change.is_later(boot) {
        let message =
            "the loader file of the slot protocol started this boot; nothing to do\nnext: kubesolo-update check";
        return Ok(done(AdoptOutcome::InUse, message));
    }
    change.place(boot.legacy, vec![])?;
    change.switch()?;
    change.begin_try(records)?;
    let message = "a later loader file is in place, and is tried once at the next boot; the one of today boots after a \
                   failure";
    Ok(done(AdoptOutcome::Adopted, message))
}

/// True if version 0.1 switched this device, so that a disk that GRUB finds first can hide the slots. `adopt` corrects it.
///
/// # Errors
/// 73 or 78 when `grub.cfg` cannot be read.
pub fn has_outdated_switch(config: &Config, boot: &Boot) -> Result<bool> {
    let Some(folder) = Folder::of(config, boot)? else { return Ok(false) };
    Ok(folder.scripts()?.is_some_and(|scripts| scripts.kind == Kind::Switched))
}

/// Whose loader file GRUB reads at the next boot; `None` where that is not GRUB, or `grub.cfg` is not beside the environment.
/// A file that was switched over counts as the old one if it would turn to it. [`Kind::Staged`] while the file of this boot is
/// on trial.
///
/// # Errors
/// 73 or 78 when it cannot be read.
pub fn next_loader(config: &Config, boot: &Boot) -> Result<Option<Kind>> {
    let Some(folder) = Folder::of(config, boot)? else { return Ok(None) };
    let Some(scripts) = folder.scripts()? else { return Ok(None) };
    if is_tried_now(&scripts, boot) {
        return Ok(Some(Kind::Staged));
    }
    match scripts.next() {
        Kind::Switched if !folder.holds(loader::FILE, loader::SUM)? => Ok(Some(Kind::KubeSoloOs)),
        kind => Ok(Some(kind)),
    }
}

/// States that the device still boots, the first question of a reader.
pub(crate) fn boots_as_before(error: Error) -> Error {
    let remedy = format!("{} The device boots as before.", error.remedy);
    error.remedy(remedy.trim_start().to_owned())
}

fn new_loader(options: &Options) -> Result<Vec<u8>> {
    let Some(path) = &options.loader_file else { return Ok(loader::TEXT.into()) };
    let bytes = read(path)?.unwrap_or_default();
    if loader::number(&bytes).is_some_and(|number| number > 0) {
        return Ok(bytes);
    }
    let message = format!(
        "{} is not a loader file of the slot protocol: it does not begin with \"# kubesolo-update loader N\", or does not pass \
         ks.proto=1 to the kernel",
        path.display()
    );
    Err(Error::new(Reason::BadLoaderFile, message).remedy("Omit --loader-file: the agent contains a loader file."))
}

/// The environment that the new loader file begins with: the running system committed, for this boot was confirmed.
fn adopted_state(boot: &Boot) -> Result<BootState> {
    let booted = boot.booted.slot;
    let not_now = |why: String| {
        Error::new(Reason::NotConfirmed, why)
            .remedy("Run `kubesolo-update healthcheck`; if another slot is active, reboot first. Then run adopt again.")
    };
    match boot.env.view() {
        View::Ours(state) if state.success && state.active == booted && state.good == booted => Ok(state),
        View::Ours(state) if state.success && state.active == booted => Ok(BootState::committed(booted)),
        View::Ours(state) => Err(not_now(format!("slot {} is active, but not confirmed or not booted", state.active))),
        View::Foreign(foreign) if foreign.success => foreign.adopt(booted).map_err(|e| not_now(e.to_string())),
        View::Foreign(_) => Err(not_now(format!("this boot of slot {booted} is not confirmed as healthy"))),
        // Nothing is known that the running system could contradict.
        View::Invalid => Ok(FallbackBlock::rebuild(boot.env.second(), booted)),
    }
}

/// Refuses a script that nobody knows, and one that should not have started this boot.
fn admit(folder: &Folder, scripts: &Scripts, options: &Options) -> Result<()> {
    let shown = folder.shown(loader::ENTRY);
    let good = scripts.stage().unwrap_or(Stage::settled(FileId::First)).good;
    match scripts.kind {
        Kind::Unknown if options.any_grub_cfg => log::warn!(
            "--any-grub-cfg is in effect: {shown} is not the loader \
            file of KubeSolo OS"
        ),
        Kind::Unknown => {
            let message = format!(
                "{shown} is not the loader file of KubeSolo OS, so its other effects on this \
                device are unknown"
            );
            return Err(Error::new(Reason::UnknownGrubCfg, message).remedy(
                "Read it. If the slots boot without it, run `kubesolo-update adopt --any-grub-cfg`, which keeps the \
                 file as ksl1.cfg.",
            ));
        }
        Kind::Staged if scripts.number(good).is_none() => {}
        Kind::Ours | Kind::Staged => {
            let message = format!("{shown} is a loader file of the slot protocol, but another one started this boot");
            return Err(Error::new(Reason::LoaderNotInUse, message).remedy(
                "Reboot. If the error remains, GRUB reads another folder: name it with --bootenv \
                    grub:FOLDER/grubenv.",
            ));
        }
        Kind::Switched | Kind::KubeSoloOs => {}
    }
    before_of(folder, scripts, true).map(drop)
}

/// The arguments to be passed on: `None` if the device has its own file for that already.
fn kernel_arguments(folder: &Folder, options: &Options) -> Result<Option<String>> {
    if let Some(line) = &options.kernel_args {
        return Ok(Some(line.clone()));
    }
    if folder.read(loader::ARGUMENTS)?.is_some() {
        return Ok(None);
    }
    Ok(Some(without_those_of_the_loader(&blocks::command_line(options.cmdline.as_deref())?)))
}

fn without_those_of_the_loader(line: &str) -> String {
    let own = |word: &&str| !OF_LOADER.contains(&word.split('=').next().unwrap_or_default());
    line.split_ascii_whitespace().filter(own).collect::<Vec<_>>().join(" ")
}

fn line_of(arguments: &str) -> Result<Vec<u8>> {
    loader::arguments(arguments).map(String::into_bytes).map_err(|why| {
        let message = format!("the loader file cannot pass on the kernel arguments: {why}");
        Error::new(Reason::KernelArgs, message).remedy("Give all arguments with --kernel-args, without quotes.")
    })
}

fn valid_second(bytes: Option<Vec<u8>>) -> Option<FallbackBlock> {
    Block::parse(&bytes?).ok()?.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_the_device_are_kept_and_those_of_the_loader_are_not() {
        let line = "BOOT_IMAGE=(hd0,gpt2)/vmlinuz panic=0 console=ttyS0,115200n8 kubesolo.slot=A ks.trial=00000000 quiet kubesolo.data=LABEL=X\n";
        assert_eq!(without_those_of_the_loader(line), "console=ttyS0,115200n8 quiet kubesolo.data=LABEL=X");
    }
}
