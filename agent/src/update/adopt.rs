//! From KubeSolo OS's old loader file to the slot protocol, on a device in the field.
//!
//! All that is new is put beside the old `grub.cfg`, synced, and read back from the medium, while GRUB still reads the old
//! one. Then one store of the environment, and one sector of `grub.cfg` is the switch: `bootenv::loader`. Wherever the power
//! goes, the device boots as before, or as wanted; called again, it goes on.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bootenv::grub::{Block, MAX_SIZE, SECTOR};
use bootenv::loader::{self, Kind};
use bootenv::medium::{Medium, drop_cache};
use bootenv::protocol::{BootState, FallbackBlock, View};
use serde::Serialize;

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;
use crate::base::replace::folder_of;
use crate::config::Config;
use crate::device::blocks::{self, CommandLine, System};
use crate::device::boot::{Boot, BootedBasis};
use crate::device::env;
use crate::device::mount::{self, Filesystem, Mounted};

/// A larger `grub.cfg` is not one that is known here. In bytes.
const SCRIPT_BYTES: u64 = 256 * 1024;
/// Arguments of the bootloader itself on the kernel command line, up to `=`.
const OF_LOADER: [&str; 8] =
    // `panic=` has its own value there: with another one a kernel that panics may hang for ever.
    ["BOOT_IMAGE", "initrd", "kubesolo.slot", "ks.trial", "ks.fallback", "ks.proto", "ks.part", "panic"];

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
    /// The same, and the first sector that version 0.1 stored was replaced.
    Renewed,
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

/// Switches this device over to the slot protocol.
///
/// # Errors
/// 65 when the booted slot's files do not fit their hashes, 73 when something cannot be written, 75 when this boot is not
/// confirmed, 78 when the loader file or the kernel arguments are not ones that can be taken over. The device boots as before
/// then.
pub fn adopt(mut folder: Folder, boot: &mut Boot, options: &Options) -> Result<Adopted> {
    folder.shared = boot.holds_esp();
    boot.alone()?;
    if boot.folders() && boot.basis != BootedBasis::CommandLine {
        return Err(Error::new(Reason::AdoptWithFolders, "adopt needs a device, and these slots are folders")
            .remedy("Give a kernel command line with --cmdline to try adopt on folders."));
    }
    if !boot.legacy {
        return renew_switch(&folder);
    }
    let new = new_loader(options)?;
    let before = folder.reading(|dir| read(&dir.join(loader::ENTRY), SCRIPT_BYTES))?.ok_or_else(|| {
        let message = format!("{} is missing", folder.shown(loader::ENTRY));
        Error::new(Reason::NoGrubCfg, message)
            .remedy("Name the folder that GRUB reads with --bootenv grub:FOLDER/grubenv.")
    })?;
    let state = adopted_state(boot)?;
    let kind = loader::kind(&before);
    admit(&folder, kind, &before, options)?;

    let mut files = vec![
        (loader::FILE, new.clone()),
        (loader::SUM, format!("{}  {}\n", Digest::of(&new).hex(), loader::FILE).into_bytes()),
    ];
    if kind != Kind::Switched {
        files.push((loader::BEFORE, before.clone()));
    }
    let arguments = folder.reading(|dir| kernel_arguments(dir, options))?;
    if let Some(line) = &arguments {
        files.push((loader::ARGUMENTS, line_of(line)?));
    }
    if folder.reading(|dir| Ok(valid_second(&dir.join(env::SECOND)).is_none()))? {
        files.push((env::SECOND, Block::second(&FallbackBlock::of(&state)).bytes().to_vec()));
    }
    // The bootloader will ask for the hashes of what it boots; KubeSolo OS wrote none.
    boot.slots.get(boot.booted.slot).complete_hashes()?;
    folder.put(&files)?;
    boot.env.store(&state)?;
    let switched = kind == Kind::Switched;
    if !switched {
        folder.switch(&before)?;
    }
    let how = if switched {
        "the new loader file is already in place, but the old one started this boot. If a reboot does not change \
         that, the GRUB of this device lacks commands of the new file (hashsum, regexp): install GRUB again"
    } else {
        "the new loader file is in place; the old one is kept as ksbefore.cfg, and boots the device if this GRUB \
         cannot run the new one"
    };
    Ok(Adopted {
        outcome: if switched { AdoptOutcome::Placed } else { AdoptOutcome::Adopted },
        reboot: true,
        message: format!("{how}\nslot {} is committed, slot {} is void", state.good, state.good.other()),
        kernel_args: arguments,
    })
}

/// On a device that was switched before: replaces a first sector of version 0.1 by the current one.
fn renew_switch(folder: &Folder) -> Result<Adopted> {
    let done = |outcome: AdoptOutcome, message: &str| Adopted {
        outcome,
        reboot: false,
        kernel_args: None,
        message: message.into(),
    };
    let before = folder.reading(|dir| read(&dir.join(loader::ENTRY), SCRIPT_BYTES))?.unwrap_or_default();
    if !loader::is_outdated_switch(&before) {
        let message =
            "the loader file of the slot protocol started this boot; nothing to do\nnext: kubesolo-update check";
        return Ok(done(AdoptOutcome::InUse, message));
    }
    folder.switch(&before)?;
    let message = "the first sector of grub.cfg is up to date: another disk cannot hide the slots any more\nnext: \
                   kubesolo-update check";
    Ok(done(AdoptOutcome::Renewed, message))
}

/// True if version 0.1 switched this device, so that a disk that GRUB finds first can hide the slots. `adopt` corrects it.
///
/// # Errors
/// 73 or 78 when `grub.cfg` cannot be read.
pub fn has_outdated_switch(config: &Config, boot: &Boot) -> Result<bool> {
    let Some(folder) = folder_of_loader(config, boot)? else { return Ok(false) };
    let script = folder.reading(|dir| read(&dir.join(loader::ENTRY), SCRIPT_BYTES))?;
    Ok(script.is_some_and(|script| loader::is_outdated_switch(&script)))
}

/// GRUB's folder; `None` where the bootloader is another one.
fn folder_of_loader(config: &Config, boot: &Boot) -> Result<Option<Folder>> {
    if !env::has_loader_file(config) {
        return Ok(None);
    }
    Ok(Some(Folder { shared: boot.holds_esp(), ..Folder::locate(config)? }))
}

/// Whose loader file GRUB reads at the next boot; `None` where that is not GRUB, or `grub.cfg` is not beside the environment.
/// A file that was switched over counts as the old one if it would turn to it.
///
/// # Errors
/// 73 or 78 when it cannot be read.
pub fn next_loader(config: &Config, boot: &Boot) -> Result<Option<Kind>> {
    let Some(folder) = folder_of_loader(config, boot)? else { return Ok(None) };
    folder.reading(|dir| {
        let Some(script) = read(&dir.join(loader::ENTRY), SCRIPT_BYTES)? else { return Ok(None) };
        let kind = loader::kind(&script);
        if kind != Kind::Switched {
            return Ok(Some(kind));
        }
        let [file, sum] = [loader::FILE, loader::SUM].map(|name| read(&dir.join(name), SCRIPT_BYTES));
        let holds = file?.zip(sum?).is_some_and(|(file, sum)| sum.starts_with(Digest::of(&file).hex().as_bytes()));
        Ok(Some(if holds { Kind::Switched } else { Kind::KubeSoloOs }))
    })
}

/// States that the device still boots, the first question of a reader.
pub(crate) fn boots_as_before(error: Error) -> Error {
    let remedy = format!("{} The device boots as before.", error.remedy);
    error.remedy(remedy.trim_start().to_owned())
}

fn new_loader(options: &Options) -> Result<Vec<u8>> {
    let Some(path) = &options.loader_file else { return Ok(loader::TEXT.into()) };
    let bytes = read(path, SCRIPT_BYTES)?.unwrap_or_default();
    if loader::kind(&bytes) == Kind::Ours {
        return Ok(bytes);
    }
    let message = format!(
        "{} is not a loader file of the slot protocol: it does not pass ks.proto=1 to the kernel",
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

fn admit(folder: &Folder, kind: Kind, script: &[u8], options: &Options) -> Result<()> {
    let shown = folder.shown(loader::ENTRY);
    match kind {
        Kind::Switched | Kind::KubeSoloOs => {}
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
                 file as ksbefore.cfg.",
            ));
        }
        Kind::Ours => {
            let message = format!("{shown} is a loader file of the slot protocol, but another one started this boot");
            return Err(Error::new(Reason::LoaderNotInUse, message).remedy(
                "Reboot. If the error remains, GRUB reads another folder: name it with --bootenv \
                    grub:FOLDER/grubenv.",
            ));
        }
    }
    if script.len() < SECTOR {
        let message = format!("{shown} has only {} bytes, less than the one sector that adopt replaces", script.len());
        return Err(Error::new(Reason::UnknownGrubCfg, message)
            .remedy(format!("Append comment lines to it until it has {SECTOR} bytes.")));
    }
    Ok(())
}

/// The arguments to be passed on: `None` if the device has its own file for that already.
fn kernel_arguments(dir: &Path, options: &Options) -> Result<Option<String>> {
    if let Some(line) = &options.kernel_args {
        return Ok(Some(line.clone()));
    }
    if dir.join(loader::ARGUMENTS).exists() {
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

fn valid_second(path: &Path) -> Option<FallbackBlock> {
    let bytes = files::read(path, MAX_SIZE as u64, Reason::LoaderUnreadable).ok()??;
    Block::parse(&bytes).ok()?.as_second()
}

/// GRUB's folder.
#[derive(Debug)]
pub struct Folder {
    place: FolderPlace,
    /// File name of the main block.
    environment: String,
    /// This process has the partition mounted for writing already.
    shared: bool,
}

#[derive(Debug)]
enum FolderPlace {
    Path(PathBuf),
    /// On the EFI partition, which nobody else may have mounted.
    Partition(PathBuf),
}

impl Folder {
    /// Finds it beside the environment.
    ///
    /// # Errors
    /// 73 when the EFI partition is mounted elsewhere, 78 when there is none, or it is not GRUB's.
    pub fn find(config: &Config) -> Result<Self> {
        let folder = Self::locate(config)?;
        if let FolderPlace::Partition(partition) = &folder.place {
            // Another mount could write its cache over the new bytes.
            mount::claim(partition, true)?;
        }
        Ok(folder)
    }

    fn locate(config: &Config) -> Result<Self> {
        if !env::has_loader_file(config) {
            let message =
                "adopt is for GRUB: an image for U-Boot or a Raspberry Pi's firmware already contains its loader file";
            return Err(Error::new(Reason::BootenvKind, message));
        }
        let (place, environment) = match env::file_beside_loader(config) {
            Some(file) => (FolderPlace::Path(folder_of(file).to_owned()), file),
            None => (FolderPlace::Partition(System::default().find(blocks::ESP_LABEL)?), Path::new(env::MAIN)),
        };
        let environment = environment.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { place, environment, shared: false })
    }

    /// Makes the main block of the environment where a device has none at all, so that it can be found.
    ///
    /// # Errors
    /// 73 when it cannot be written, 78 when no slot is named on the kernel command line.
    pub fn make_missing_environment(&self, cmdline: Option<&Path>) -> Result<()> {
        // Without a grub.cfg this is not the folder that GRUB reads.
        let there = |dir: &Path, name: &str| dir.join(name).try_exists().unwrap_or(true);
        if self.reading(|dir| Ok(there(dir, &self.environment) || !there(dir, loader::ENTRY)))? {
            return Ok(());
        }
        let booted = CommandLine::parse(&blocks::command_line(cmdline)?).booted()?;
        self.put(&[(&self.environment, Block::main(&BootState::committed(booted)).bytes().to_vec())])
    }

    fn shown(&self, name: &str) -> String {
        match &self.place {
            FolderPlace::Path(path) => path.join(name).display().to_string(),
            FolderPlace::Partition(partition) => {
                format!("{} on {}", in_partition(Path::new("")).join(name).display(), partition.display())
            }
        }
    }

    fn reading<T>(&self, f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        // A second mount of a partition is for reading and writing if the first one is.
        self.with(if self.shared { Mounted::read_write } else { Mounted::read_only }, f)
    }

    fn with<T>(
        &self,
        mount: fn(&Path, Filesystem) -> Result<Mounted>,
        f: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        match &self.place {
            FolderPlace::Path(path) => f(path),
            FolderPlace::Partition(partition) => {
                let mounted = mount(partition, Filesystem::Vfat)?;
                let result = f(&in_partition(mounted.path()));
                mounted.unmount().and(result)
            }
        }
    }

    /// Puts files there that are not in use, and reads them back from the medium.
    fn put(&self, files: &[(&str, Vec<u8>)]) -> Result<()> {
        let differ = |dir: &Path| -> Result<Vec<usize>> {
            let same = |(name, bytes): &(&str, Vec<u8>)| Ok(read_from_medium(&dir.join(name))?.as_ref() == Some(bytes));
            let same = files.iter().map(same).collect::<Result<Vec<bool>>>()?;
            Ok((0..files.len()).filter(|at| !same[*at]).collect())
        };
        let missing = self.reading(differ)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.with(Mounted::read_write, |dir| {
            missing.iter().try_for_each(|at| env::create(&dir.join(files[*at].0), &files[*at].1))
        })?;
        match &self.place {
            FolderPlace::Partition(partition) if !self.shared => mount::claim(partition, false)?,
            _ => {}
        }
        let wrong = self.reading(differ)?;
        let Some(first) = wrong.first() else { return Ok(()) };
        // The next run takes what is there for settings of the device.
        let removed = self.with(Mounted::read_write, |dir| {
            wrong.iter().try_for_each(|at| {
                let gone = fs::remove_file(dir.join(files[*at].0));
                let gone = gone.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) });
                gone.context(Reason::ReadBackFailed, "remove the written files")
            })
        });
        if let Err(left) = removed {
            log::warn!("{left}");
        }
        let message = format!("the bytes read back from {} differ from the written ones", self.shown(files[*first].0));
        Err(Error::new(Reason::ReadBackFailed, message)
            .remedy("The old loader file is unchanged. See the kernel log (dmesg): the medium may be failing."))
    }

    /// The one sector.
    fn switch(&self, before: &[u8]) -> Result<()> {
        let mut current = [0; SECTOR];
        current.copy_from_slice(&before[..SECTOR]);
        let store = |medium: &Medium| {
            medium.store_sector(&current, &loader::switch()).map_err(|e| {
                let message = format!("cannot store the first sector of {}: {e}", self.shown(loader::ENTRY));
                Error::new(Reason::LoaderWrite, message).remedy("Run `kubesolo-update adopt` again.")
            })
        };
        let FolderPlace::Partition(partition) = &self.place else {
            return self.with(Mounted::read_write, |dir| store(&Medium::File(dir.join(loader::ENTRY))));
        };
        let mapped = self.reading(|dir| Ok(Medium::map_sector(&dir.join(loader::ENTRY), partition)))?;
        match mapped {
            Ok(medium) => store(&medium),
            Err(why) => {
                log::info!("the loader file through its filesystem: {why}");
                self.with(Mounted::read_write, |dir| store(&Medium::File(dir.join(loader::ENTRY))))
            }
        }
    }
}

fn in_partition(root: &Path) -> PathBuf {
    root.join(env::MAIN).parent().map(Path::to_owned).unwrap_or_default()
}

/// A whole file; `None` if it is not there.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = files::open(path, Reason::LoaderUnreadable)? else { return Ok(None) };
    let mut bytes = vec![];
    let what = || format!("read {}", path.display());
    file.take(limit + 1).read_to_end(&mut bytes).context(Reason::LoaderUnreadable, what())?;
    if bytes.len() as u64 > limit {
        let message = format!("{} has more than {limit} bytes", path.display());
        return Err(Error::new(Reason::UnknownGrubCfg, message));
    }
    Ok(Some(bytes))
}

/// The same past the cache. A file of an unexpected size differs.
fn read_from_medium(path: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(file) = files::open(path, Reason::LoaderUnreadable)? {
        let what = format_args!("drop the page cache of {}", path.display());
        drop_cache(&file).context(Reason::ReadBackFailed, what)?;
    }
    read(path, SCRIPT_BYTES)
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
