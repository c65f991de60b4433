//! GRUB's folder: `grub.cfg`, the loader files beside it, and the writes that replace them. Which file boots is decided by
//! `bootenv::loader`.
//!
//! A file that is in use never changes, but for two stores of one sector each: the first one of `grub.cfg`, and `ksstage`.
//! Everything else is put beside, synced, and read back from the medium.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bootenv::grub::{Block, SECTOR, SIZE};
use bootenv::loader::{self, FileId, Kind, Stage};
use bootenv::medium::{Error as MediumError, Medium, drop_cache};
use bootenv::protocol::BootState;

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;
use crate::base::replace::{folder_of, sync_folder};
use crate::config::Config;
use crate::device::blocks::{self, CommandLine, System};
use crate::device::boot::Boot;
use crate::device::env;
use crate::device::mount::{self, Filesystem, Mounted};

/// A larger script is not one that is known here. In bytes.
const SCRIPT_BYTES: u64 = 256 * 1024;

/// A file to be put into the folder: name and bytes.
pub type NewFile = (&'static str, Vec<u8>);

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

/// The scripts in the folder, as they were read.
#[derive(Debug)]
pub struct Scripts {
    /// `grub.cfg`.
    pub entry: Vec<u8>,
    /// Whose script it is.
    pub kind: Kind,
    block: Option<Block>,
    files: [Script; 2],
}

/// A loader file beside stage 1.
#[derive(Debug, Default)]
struct Script {
    bytes: Vec<u8>,
    /// Its hash is right.
    holds: bool,
}

impl Scripts {
    fn read(dir: &Path) -> Result<Option<Self>> {
        let Some(entry) = read(&dir.join(loader::ENTRY))? else { return Ok(None) };
        let kind = loader::kind(&entry);
        if kind != Kind::Staged {
            return Ok(Some(Self { entry, kind, block: None, files: Default::default() }));
        }
        let block = read(&dir.join(loader::STAGE))?.and_then(|bytes| Block::parse(&bytes).ok());
        let [first, second] = FileId::BOTH.map(|file| -> Result<Script> {
            let bytes = read(&dir.join(file.script()))?.unwrap_or_default();
            Ok(Script { holds: holds(dir, file.script(), file.sum())?, bytes })
        });
        Ok(Some(Self { entry, kind, block, files: [first?, second?] }))
    }

    /// The content of `ksstage`; `None` if it is missing or damaged.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        Stage::read(self.block.as_ref()?)
    }

    fn file(&self, file: FileId) -> &Script {
        &self.files[if file == FileId::First { 0 } else { 1 }]
    }

    /// True if the hash of a file is right.
    #[must_use]
    pub fn holds(&self, file: FileId) -> bool {
        self.file(file).holds
    }

    /// Number of a file whose hash is right; `None` also for one that is not of the slot protocol.
    #[must_use]
    pub fn number(&self, file: FileId) -> Option<u32> {
        Some(self.file(file)).filter(|file| file.holds).and_then(|file| loader::number(&file.bytes))
    }

    /// True if a file has these bytes, and its hash is right.
    #[must_use]
    pub fn is(&self, file: FileId, bytes: &[u8]) -> bool {
        self.holds(file) && self.file(file).bytes == bytes
    }

    /// Digest of a file.
    #[must_use]
    pub fn digest(&self, file: FileId) -> Digest {
        Digest::of(&self.file(file).bytes)
    }

    /// Whose loader file the next boot runs, through `grub.cfg` and beyond it.
    #[must_use]
    pub fn next(&self) -> Kind {
        match self.kind {
            Kind::Staged => loader::kind(&self.file(Stage::next(self.stage(), |file| self.holds(file))).bytes),
            kind => kind,
        }
    }
}

impl Folder {
    /// Finds it beside the environment, for a command that has not found the device yet.
    ///
    /// # Errors
    /// 73 when the EFI partition is mounted elsewhere, 78 when there is none, or it is not GRUB's.
    pub fn find(config: &Config) -> Result<Self> {
        if !env::has_loader_file(config) {
            let message =
                "adopt is for GRUB: an image for U-Boot or a Raspberry Pi's firmware already contains its loader file";
            return Err(Error::new(Reason::BootenvKind, message));
        }
        let folder = Self::locate(config)?;
        folder.claim()?;
        Ok(folder)
    }

    /// The folder of this device, to look at; `None` where the bootloader is another one.
    ///
    /// # Errors
    /// 78 when the EFI partition is missing.
    pub fn of(config: &Config, boot: &Boot) -> Result<Option<Self>> {
        if !env::has_loader_file(config) {
            return Ok(None);
        }
        Ok(Some(Self::locate(config)?.with_boot(boot)))
    }

    /// The same, once the device is found.
    #[must_use]
    pub fn with_boot(self, boot: &Boot) -> Self {
        Self { shared: boot.holds_esp(), ..self }
    }

    /// Before a write: another mount could write its cache over the new bytes.
    ///
    /// # Errors
    /// 73 when the EFI partition is mounted elsewhere.
    pub fn claim(&self) -> Result<()> {
        match &self.place {
            FolderPlace::Partition(partition) if !self.shared => mount::claim(partition, true),
            _ => Ok(()),
        }
    }

    fn locate(config: &Config) -> Result<Self> {
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
        let bytes = Block::main(&BootState::committed(booted)).bytes().to_vec();
        self.put_all(&[(self.environment.as_str(), bytes)])
    }

    /// The place of a file, for messages.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        match &self.place {
            FolderPlace::Path(path) => path.join(name).display().to_string(),
            FolderPlace::Partition(partition) => {
                format!("{} on {}", in_partition(Path::new("")).join(name).display(), partition.display())
            }
        }
    }

    /// Reads the scripts; `None` if there is no `grub.cfg`, so that this is not the folder that GRUB reads.
    ///
    /// # Errors
    /// 73 or 78 when they cannot be read.
    pub fn scripts(&self) -> Result<Option<Scripts>> {
        self.reading(Scripts::read)
    }

    /// Reads one file; `None` if it is not there.
    ///
    /// # Errors
    /// 73 or 78 when it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.reading(|dir| read(&dir.join(name)))
    }

    /// True if a file has the hash that is beside it.
    ///
    /// # Errors
    /// 73 or 78 when they cannot be read.
    pub fn holds(&self, file: &str, sum: &str) -> Result<bool> {
        self.reading(|dir| holds(dir, file, sum))
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

    /// Puts files there that are not in use, one after another, and reads them back from the medium.
    ///
    /// # Errors
    /// 73 when one cannot be written, or reads back differently; they are removed again then.
    pub fn put(&self, files: &[NewFile]) -> Result<()> {
        self.put_all(files)
    }

    fn put_all(&self, files: &[(&str, Vec<u8>)]) -> Result<()> {
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
        self.is_free()?;
        let wrong = self.reading(differ)?;
        let Some(first) = wrong.first() else { return Ok(()) };
        // The next run takes what is there for settings of the device.
        let wrong: Vec<&str> = wrong.iter().map(|at| files[*at].0).collect();
        if let Err(left) = self.remove(&wrong) {
            log::warn!("{left}");
        }
        let message = format!("the bytes read back from {} differ from the written ones", self.shown(files[*first].0));
        Err(Error::new(Reason::ReadBackFailed, message)
            .remedy("The old loader file is unchanged. See the kernel log (dmesg): the medium may be failing."))
    }

    /// Removes files that are not in use, and syncs.
    ///
    /// # Errors
    /// 73 when one cannot be removed.
    pub fn remove(&self, names: &[&str]) -> Result<()> {
        self.with(Mounted::read_write, |dir| {
            names.iter().try_for_each(|name| {
                let path = dir.join(name);
                let gone = match fs::remove_file(&path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                    gone => gone.and_then(|()| sync_folder(&path)),
                };
                gone.context(Reason::LoaderWrite, format_args!("remove {}", path.display()))
            })
        })?;
        self.is_free()
    }

    /// Nobody mounted the partition meanwhile, and its bytes are on the medium.
    fn is_free(&self) -> Result<()> {
        match &self.place {
            FolderPlace::Partition(partition) if !self.shared => mount::claim(partition, false),
            _ => Ok(()),
        }
    }

    /// Stores stage 1 as the first sector of a `grub.cfg` with these bytes.
    ///
    /// # Errors
    /// 73 when the store fails; the old or the new sector is there.
    pub fn store_stage1(&self, entry: &[u8]) -> Result<()> {
        let mut current = [0; SECTOR];
        current.copy_from_slice(&entry[..SECTOR]);
        self.store(loader::ENTRY, Medium::map_sector, |medium| medium.store_sector(&current, &loader::stage1()))
    }

    /// Stores `next` in `ksstage`, in place of what was read.
    ///
    /// # Errors
    /// 73 when the store fails; the old or the new values are there.
    pub fn store_stage(&self, scripts: &Scripts, next: Stage) -> Result<()> {
        let changed = scripts.block.as_ref().filter(|block| block.bytes().len() == SIZE);
        let changed = changed.and_then(|block| Some((block, block.with(&next.variables()).ok()?)));
        match changed {
            Some((block, changed)) => self.store(loader::STAGE, Medium::map, |medium| medium.store(block, &changed)),
            // Stage 1 reads nothing in what is there.
            None => self.put(&[(loader::STAGE, next.block().bytes().to_vec())]),
        }
    }

    /// One sector, around the filesystem where the kernel reports its place.
    fn store(
        &self,
        name: &str,
        map: fn(&Path, &Path) -> std::result::Result<Medium, MediumError>,
        store: impl Fn(&Medium) -> std::result::Result<(), MediumError>,
    ) -> Result<()> {
        let store = |medium: &Medium| {
            store(medium).map_err(|e| {
                let message = format!("cannot store the first sector of {}: {e}", self.shown(name));
                Error::new(Reason::LoaderWrite, message).remedy("Run `kubesolo-update adopt` again.")
            })
        };
        let FolderPlace::Partition(partition) = &self.place else {
            return self.with(Mounted::read_write, |dir| store(&Medium::File(dir.join(name))));
        };
        let mapped = self.reading(|dir| Ok(map(&dir.join(name), partition)))?;
        match mapped {
            Ok(medium) => store(&medium),
            Err(why) => {
                log::info!("{name} through its filesystem: {why}");
                self.with(Mounted::read_write, |dir| store(&Medium::File(dir.join(name))))
            }
        }
    }
}

/// The two files of a loader file: its script, then its hash.
#[must_use]
pub fn files_of(file: FileId, script: &[u8]) -> [NewFile; 2] {
    let sum = format!("{}  {}\n", Digest::of(script).hex(), file.script());
    [(file.script(), script.to_vec()), (file.sum(), sum.into_bytes())]
}

fn in_partition(root: &Path) -> PathBuf {
    root.join(env::MAIN).parent().map(Path::to_owned).unwrap_or_default()
}

fn holds(dir: &Path, file: &str, sum: &str) -> Result<bool> {
    let [file, sum] = [file, sum].map(|name| read(&dir.join(name)));
    Ok(file?.zip(sum?).is_some_and(|(file, sum)| sum.starts_with(Digest::of(&file).hex().as_bytes())))
}

/// A whole script; `None` if it is not there.
///
/// # Errors
/// 78 when it cannot be read, or is larger than any script that is known here.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = files::open(path, Reason::LoaderUnreadable)? else { return Ok(None) };
    let mut bytes = vec![];
    let what = || format!("read {}", path.display());
    file.take(SCRIPT_BYTES + 1).read_to_end(&mut bytes).context(Reason::LoaderUnreadable, what())?;
    if bytes.len() as u64 > SCRIPT_BYTES {
        let message = format!("{} has more than {SCRIPT_BYTES} bytes", path.display());
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
    read(path)
}
