//! A lock file that no other account can hold.
//!
//! `flock` needs only a descriptor that is open for reading. So only the owner can open the file (mode 0600). [`take`]
//! replaces a file that others can open: an earlier descriptor then refers to a file without a name.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, process};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// Mode of a lock file.
const MODE: u32 = 0o600;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Names for the new file, tried in order. In a shared folder another account can take some of them first.
const NAMES: u32 = 64;
/// Tries to take a lock whose file other programs change at the same time.
const CHANGES: u32 = 64;

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Held {
    /// The lock file, open for reading and writing.
    pub file: File,
    /// The file that was in its place.
    pub replaced: Option<Replaced>,
}

/// A file in the place of a lock that another account could hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The place.
    pub path: PathBuf,
    /// Its owner's user id.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner was neither root nor this user, or it was no regular file.
    pub foreign: bool,
    /// Another program had locked it.
    pub held: bool,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, owner, mode, .. } = self;
        let held = if self.held { "held, and " } else { "" };
        write!(f, "replaced the lock {}: it was {held}open to others (user {owner}, mode {mode:04o})", path.display())
    }
}

/// Takes a lock, and creates its file if it is missing. Waits at most `patience` for another holder.
///
/// Replaces a link, a pipe or another account's file at once. Replaces a file of root or this user that others can open as
/// soon as it is free, at the latest after `patience`.
///
/// # Errors
/// [`ErrorKind::WouldBlock`] when a program of root or this user holds it; all errors of the filesystem.
pub fn take(path: &Path, patience: Duration) -> io::Result<Held> {
    let end = Instant::now() + patience;
    let mut replaced = None;
    for _ in 0..CHANGES {
        match attempt(path, end)? {
            Attempt::Locked(file) => return Ok(Held { file, replaced }),
            Attempt::Replaced(old) => replaced = Some(old),
            Attempt::Changed => {}
        }
    }
    Err(io::Error::other("another program keeps changing it"))
}

enum Attempt {
    Locked(File),
    Replaced(Replaced),
    /// Another program made, removed or replaced the file at the same time.
    Changed,
}

fn attempt(path: &Path, end: Instant) -> io::Result<Attempt> {
    let Some(meta) = look(path)? else {
        return match create(path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            _ => Ok(Attempt::Changed),
        };
    };
    let foreign = !is_own(&meta);
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let old = Replaced { path: path.to_owned(), owner, mode, foreign, held: false };
    if foreign {
        replace(path)?;
        return Ok(Attempt::Replaced(old));
    }
    let file = match open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Attempt::Changed),
        opened => opened?,
    };
    let held = !lock(&file, end)?;
    if mode & OTHERS != 0 {
        // The old file stays locked until the rename is done.
        replace(path)?;
        return Ok(Attempt::Replaced(Replaced { held, ..old }));
    }
    if held {
        return Err(ErrorKind::WouldBlock.into());
    }
    let in_place = look(path)?.is_some_and(|now| is_same(&file, &now));
    Ok(if in_place { Attempt::Locked(file) } else { Attempt::Changed })
}

/// Takes the lock before `end`; false if that fails.
fn lock(file: &File, end: Instant) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
}

/// True if the file is regular and belongs to root or this user.
fn is_own(meta: &Metadata) -> bool {
    meta.is_file() && (meta.uid() == 0 || meta.uid() == geteuid().as_raw())
}

fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock, which is replaced if others can open it")]
fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: opening a pipe must not block.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
}

/// Creates an empty file. `create_new` follows no link.
#[expect(clippy::disallowed_methods, reason = "a lock, created as a new file")]
fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map(drop)
}

/// Replaces the file with a new one, by a rename, so that another program finds one or the other.
fn replace(path: &Path) -> io::Result<()> {
    for n in 0..NAMES {
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}-{n}", process::id()));
        match create(Path::new(&new)) {
            Ok(()) => {
                return fs::rename(&new, path).inspect_err(|_| {
                    let _ = fs::remove_file(&new); // the first error is the one that counts
                });
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// True if an open file is the one of this metadata.
#[must_use]
pub fn is_same(file: &File, meta: &Metadata) -> bool {
    file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}
