//! The folder `update/data/`: checkpoints of the data, whose names are their states (`bootenv::data`).
//!
//! A rename within this folder and a sync of it is one transition. Nothing goes on before that sync.

pub mod about;
pub mod copy;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bootenv::data::{Checkpoint, LAYOUT, Mark, Move, Name, Place, layout, put_back};
use nix::unistd::syncfs;

pub use self::about::{About, Base, PathAbout};
pub use self::copy::Size;

use self::copy::Copier;
use crate::base::error::{Error, Reason, Result};
use crate::base::replace::{self, folder_of, open_folder, sync_folder};
use crate::base::{files, text};
use crate::state::state;

/// The description of a checkpoint.
const ABOUT: &str = "about.json";
/// Longest description, in bytes.
const ABOUT_BYTES: u64 = 64 * 1024;
/// Checkpoints that are to be deleted.
const TRASH: &str = "trash";

/// The checkpoints of a device.
#[derive(Clone, Debug)]
pub struct Data {
    folder: PathBuf,
    partition: PathBuf,
}

/// Everything in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// Checkpoints by their names.
    pub names: Vec<Name>,
    /// Entries that this version does not know: those of a later one.
    pub unknown: Vec<String>,
}

/// The data that a checkpoint takes.
#[derive(Debug)]
pub struct Order<'a> {
    /// The description, without sizes.
    pub about: About,
    /// The folders, relative to the data partition.
    pub paths: &'a [String],
    /// The copy must be done within this time.
    pub limit: Duration,
}

impl Data {
    /// The checkpoints beside a `state.json`, of the partition that its folder is on.
    #[must_use]
    pub fn beside(state: &Path) -> Self {
        let update = folder_of(state);
        Self { folder: update.join("data"), partition: folder_of(update).to_owned() }
    }

    /// Where a folder of the settings is.
    #[must_use]
    pub fn live(&self, path: &str) -> PathBuf {
        self.partition.join(path)
    }

    /// The names in the folder. Changes nothing.
    ///
    /// # Errors
    /// 73 when the folder cannot be read.
    pub fn find(&self) -> Result<Found> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(unreadable(&self.folder, &e)),
        };
        for entry in entries {
            let name = entry.map_err(|e| unreadable(&self.folder, &e))?.file_name();
            match name.to_str().map(str::parse) {
                _ if name == TRASH => {}
                Some(Ok(name)) => found.names.push(name),
                _ => found.unknown.push(text::escape(&name.to_string_lossy())),
            }
        }
        found.names.sort();
        Ok(found)
    }

    /// The checkpoints as a system with these images sees them. One without a description counts as one that nobody can read,
    /// but for a copy that was cut off.
    #[must_use]
    pub fn checkpoints(&self, names: &[Name], booted: Option<&Base>) -> Vec<Checkpoint> {
        let one = |name: &Name| {
            let about = self.about(*name).ok().flatten();
            let base = about.as_ref().and_then(|about| about.base.as_ref());
            Checkpoint {
                name: *name,
                slot: about.as_ref().map_or(bootenv::SlotId::A, |about| about.slot),
                of_booted: base.zip(booted).is_some_and(|(base, booted)| base.is(booted)),
                noted: about.as_ref().is_some_and(|about| about.noted),
                readable: about.as_ref().map_or(name.mark == Mark::New, About::is_readable),
            }
        };
        names.iter().map(one).collect()
    }

    /// The description of a checkpoint; `None` if it has none.
    ///
    /// # Errors
    /// 65, 73 and 78 when it cannot be used.
    pub fn about(&self, name: Name) -> Result<Option<About>> {
        let path = self.path(name).join(ABOUT);
        let bytes = files::read(&path, ABOUT_BYTES, Reason::StateUnusable)?;
        bytes.map(|bytes| About::parse(&bytes)).transpose()
    }

    /// Leaves the cause in a checkpoint that could not be made, for the system that records the end of its trial.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn explain(&self, name: Name, why: &str) -> Result<()> {
        let Some(about) = self.about(name)? else { return Ok(()) };
        let folder = self.path(name);
        write_about(&folder, &About { why: text::escape(why), ..about }).map_err(|e| unwritable(&folder, &e))
    }

    /// Size of data that an activation may drop: those that are kept, and those that wait to be deleted.
    ///
    /// # Errors
    /// 73 when they cannot be counted.
    pub fn spare(&self) -> Result<Size> {
        let kept = self.find()?.names.into_iter().filter(|name| name.mark == Mark::Kept).map(|name| self.path(name));
        let mut all = Size::default();
        for folder in kept.chain([self.folder.join(TRASH)]) {
            match copy::size(&folder) {
                Ok(size) => all.add(size),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(unreadable(&folder, &e)),
            }
        }
        Ok(all)
    }

    fn path(&self, name: Name) -> PathBuf {
        self.folder.join(name.to_string())
    }

    /// One transition.
    ///
    /// # Errors
    /// 73 when it cannot be made.
    pub fn rename(&self, name: Name, mark: Mark) -> Result<()> {
        let (from, to) = (self.path(name), self.path(name.with(mark)));
        fs::rename(&from, &to).and_then(|()| sync_folder(&from)).map_err(|e| unwritable(&from, &e))
    }

    /// Moves a checkpoint to the trash.
    ///
    /// # Errors
    /// 73 when it cannot be moved.
    pub fn drop(&self, name: Name) -> Result<()> {
        let trash = self.folder.join(TRASH);
        let from = self.path(name);
        let to = trash.join(format!("{name}-{:08x}", state::random()?));
        let moved = make(&trash)
            .and_then(|()| fs::rename(&from, &to))
            .and_then(|()| sync_folder(&from))
            .and_then(|()| open_folder(&trash)?.sync_all());
        moved.map_err(|e| unwritable(&from, &e))
    }

    /// Deletes what is in the trash. Never before services start: it takes time, and nothing waits for it.
    ///
    /// # Errors
    /// 73 when it cannot be deleted.
    pub fn empty_trash(&self) -> Result<()> {
        match fs::remove_dir_all(self.folder.join(TRASH)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(unwritable(&self.folder.join(TRASH), &e)),
            _ => Ok(()),
        }
    }

    /// Announces a checkpoint: complete under its name, or not there.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn announce(&self, about: &About, mark: Mark) -> Result<()> {
        let path = self.path(Name { trial: about.trial, mark });
        let new = self.folder.join(TRASH).join(format!("{}.announced", about.trial));
        let made = make(&self.folder.join(TRASH))
            .and_then(|()| remove(&new))
            .and_then(|()| make(&new))
            .and_then(|()| write_about(&new, about))
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| sync_folder(&path));
        made.map_err(|e| unwritable(&path, &e))
    }

    /// Takes the data before trial T writes: `T.new` is filled, then becomes `T.held`.
    ///
    /// # Errors
    /// 75 when the copy cannot be made, with the cause; the data are unchanged, and `T.new` stays behind.
    pub fn take(&self, order: Order<'_>) -> Result<About> {
        let began = Instant::now();
        let name = Name { trial: order.about.trial, mark: Mark::New };
        let new = self.path(name);
        self.empty_trash()?;
        self.begin(name, order.about.noted)?;
        let live: Vec<PathBuf> = order.paths.iter().map(|path| self.live(path)).collect();
        nobody_uses(&live)?;
        let mut copier = Copier::new(began + order.limit);
        let tree = new.join("tree");
        make(&tree).map_err(|e| not_taken(&tree, &e))?;
        let mut paths = vec![];
        for (number, (path, live)) in order.paths.iter().zip(&live).enumerate() {
            let copy = tree.join(number.to_string());
            let folder = self.is_there(path)?.then(|| {
                copier.folder(live, &copy)?;
                copy::size(&copy).map_err(|e| not_taken(&copy, &e))
            });
            paths.push(PathAbout { path: path.clone(), folder: folder.transpose()? });
        }
        copier.nothing_changed()?;
        nobody_uses(&live)?;
        for socket in &copier.left_out {
            log::info!("{} is a socket, and not in the checkpoint", socket.display());
        }
        open_folder(&new).and_then(|folder| Ok(syncfs(folder)?)).map_err(|e| not_taken(&new, &e))?;
        // Until the medium has it: the estimate for the next checkpoint is made from this time.
        let layout = layout(LAYOUT, order.about.noted.then_some(order.about.layout));
        let about = About { layout, paths, took: began.elapsed().as_secs(), ..order.about };
        write_about(&new, &about).map_err(|e| not_taken(&new, &e))?;
        self.rename(name, Mark::Held)?;
        Ok(about)
    }

    /// Makes `T.new` from the note, or a new one, and empties it of the rest of an earlier copy.
    fn begin(&self, name: Name, noted: bool) -> Result<()> {
        let note = self.path(name.with(Mark::Note));
        if noted && note.symlink_metadata().is_ok() {
            self.rename(name.with(Mark::Note), Mark::New)?;
        }
        let new = self.path(name);
        make(&self.folder)
            .and_then(|()| make(&new))
            .and_then(|()| remove(&new.join("tree")))
            .and_then(|()| sync_folder(&new))
            .map_err(|e| not_taken(&new, &e))
    }

    /// True if a folder of the settings is there.
    ///
    /// # Errors
    /// 75 for a link, a file or a mount point, here or on the way.
    pub fn is_there(&self, path: &str) -> Result<bool> {
        let refuse = |at: &Path, why: &str| Err(not_taken(at, &io::Error::other(why.to_owned())));
        let device = match self.partition.symlink_metadata() {
            Ok(meta) => std::os::unix::fs::MetadataExt::dev(&meta),
            Err(e) => return Err(not_taken(&self.partition, &e)),
        };
        let mut at = self.partition.clone();
        for part in Path::new(path) {
            at.push(part);
            match at.symlink_metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(not_taken(&at, &e)),
                Ok(meta) if !meta.is_dir() => return refuse(&at, "it is not a folder"),
                Ok(meta) if std::os::unix::fs::MetadataExt::dev(&meta) != device => {
                    return refuse(&at, "another filesystem is mounted there");
                }
                Ok(_) => {}
            }
        }
        Ok(true)
    }

    /// Compares what is still in a checkpoint with its description.
    ///
    /// # Errors
    /// 73 when something is missing.
    pub fn count(&self, name: Name) -> Result<()> {
        let about = self.described(name)?;
        for (number, one) in about.paths.iter().enumerate() {
            let copy = self.path(name).join("tree").join(number.to_string());
            let there = copy.symlink_metadata().is_ok();
            // Put back already.
            if !there && name.mark == Mark::Back {
                continue;
            }
            let found = there.then(|| copy::size(&copy)).transpose().map_err(|e| incomplete(&copy, &e))?;
            let counts = |size: Size| (size.entries, size.bytes);
            if found.map(counts) != one.folder.map(counts) {
                let why = format!("{found:?} found, {:?} expected", one.folder);
                return Err(incomplete(&copy, &io::Error::other(why)));
            }
        }
        Ok(())
    }

    fn described(&self, name: Name) -> Result<About> {
        let missing = || incomplete(&self.path(name).join(ABOUT), &io::Error::from(io::ErrorKind::NotFound));
        self.about(name)?.ok_or_else(missing)
    }

    /// Ends a restore that began, one rename after another, and moves the checkpoint to the trash.
    ///
    /// # Errors
    /// 73 when the data are not whole. The next call goes on.
    pub fn finish(&self, name: Name) -> Result<About> {
        self.count(name)?;
        let about = self.described(name)?;
        for (number, one) in about.paths.iter().enumerate() {
            let set = Restore {
                copy: self.path(name).join("tree").join(number.to_string()),
                live: self.live(&one.path),
                aside: self.path(name).join("failed").join(number.to_string()),
            };
            set.run(one.folder.is_some()).map_err(|e| incomplete(&set.live, &e))?;
        }
        self.drop(name)?;
        Ok(about)
    }
}

/// The places of one folder that is put back.
struct Restore {
    copy: PathBuf,
    live: PathBuf,
    aside: PathBuf,
}

impl Restore {
    fn run(&self, was_there: bool) -> io::Result<()> {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        loop {
            let place =
                Place { was_there, copy: there(&self.copy), live: there(&self.live), set_aside: there(&self.aside) };
            let (from, to) = match put_back(place) {
                None => return Ok(()),
                Some(Move::SetAside) => (&self.live, self.free()),
                Some(Move::PutBack) => (&self.copy, self.live.clone()),
            };
            make(folder_of(&to))?;
            fs::rename(from, &to)?;
            sync_folder(&to)?;
            sync_folder(from)?;
        }
    }

    /// A name that nothing has: a system that knows no checkpoints may have run between two parts of a restore.
    fn free(&self) -> PathBuf {
        let mut free = self.aside.clone();
        for number in 2.. {
            if free.symlink_metadata().is_err() {
                break;
            }
            free = replace::with_suffix(&self.aside, &format!(".{number}"));
        }
        free
    }
}

/// Makes a folder and those above it, for root alone; synced.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    sync_folder(folder)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn write_about(folder: &Path, about: &About) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(about)?;
    bytes.push(b'\n');
    replace::replace(&folder.join(ABOUT), &bytes, 0o600)
}

fn nobody_uses(folders: &[PathBuf]) -> Result<()> {
    let users = copy::users(folders).map_err(|e| not_taken(Path::new("/proc"), &e))?;
    if users.is_empty() {
        return Ok(());
    }
    let message = format!("data are in use: {}", text::escape(&users.join(", ")));
    Err(Error::new(Reason::DataCheckpoint, message)
        .remedy("Start these programs after kubesolo-update-data.service, or after the step data."))
}

fn not_taken(path: &Path, e: &io::Error) -> Error {
    Error::new(Reason::DataCheckpoint, format!("cannot take a checkpoint, at {}: {e}", path.display()))
        .remedy("The data are unchanged. `kubesolo-update data check` shows the cause.")
}

fn unwritable(path: &Path, e: &io::Error) -> Error {
    Error::new(Reason::StateNotWritable, format!("cannot change the checkpoint {}: {e}", path.display()))
}

fn unreadable(path: &Path, e: &io::Error) -> Error {
    Error::new(Reason::StateNotWritable, format!("cannot read the checkpoints in {}: {e}", path.display()))
}

fn incomplete(path: &Path, e: &io::Error) -> Error {
    Error::new(Reason::DataIncomplete, format!("cannot put data back, at {}: {e}", path.display())).remedy(
        "No service starts. Repair the filesystem, then run `kubesolo-update data`; or go on with the data that are there: \
         `kubesolo-update data drop --accept-newer`.",
    )
}

#[cfg(test)]
mod tests;
