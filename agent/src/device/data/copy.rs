//! Copies of whole folders: with owners, modes, times, extended attributes, holes and hard links.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Reason, Result};
use crate::base::{files, replace, sys};

/// One read, in bytes.
const CHUNK: usize = 1024 * 1024;

/// How much a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Entries, with the folder itself. Sockets do not count: no copy has them.
    pub entries: u64,
    /// Length of all regular files, in bytes; each hard link counts once.
    pub bytes: u64,
    /// Blocks of all regular files, in bytes; each hard link counts once. Not stored: another filesystem may need others.
    #[serde(skip)]
    pub allocated: u64,
}

impl Size {
    /// Adds another folder.
    pub fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.allocated += other.allocated;
    }
}

/// Counts a folder.
///
/// # Errors
/// Errors of the filesystem; another filesystem that is mounted inside.
pub fn size(folder: &Path) -> io::Result<Size> {
    let device = folder.symlink_metadata()?.dev();
    let mut size = Size::default();
    let (mut folders, mut linked) = (vec![folder.to_owned()], HashSet::new());
    while let Some(folder) = folders.pop() {
        size.entries += 1;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            on_same(&meta, device, &path)?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            if meta.file_type().is_socket() {
                continue;
            }
            size.entries += 1;
            if meta.is_file() && (meta.nlink() == 1 || linked.insert(meta.ino())) {
                size.bytes += meta.len();
                size.allocated += meta.blocks() * 512;
            }
        }
    }
    Ok(size)
}

fn on_same(meta: &Metadata, device: u64, path: &Path) -> io::Result<()> {
    if meta.dev() == device {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is on another filesystem, which is mounted there", path.display())))
}

/// A regular file as it was when its copy began.
#[derive(Debug, PartialEq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Copies one folder after another. Hard links between them stay.
#[derive(Debug)]
pub struct Copier {
    /// The copy must end by then.
    end: Instant,
    linked: HashMap<(u64, u64), PathBuf>,
    stamps: Vec<(PathBuf, Stamp)>,
    /// Sockets: a copy of one is of no use.
    pub left_out: Vec<PathBuf>,
}

impl Copier {
    /// `end`: a copy that takes longer fails.
    pub fn new(end: Instant) -> Self {
        Self { end, linked: HashMap::new(), stamps: vec![], left_out: vec![] }
    }

    /// Copies a folder to a place where nothing is yet.
    ///
    /// # Errors
    /// 75 with the path that cannot be copied.
    pub fn folder(&mut self, from: &Path, to: &Path) -> Result<()> {
        let device = from.symlink_metadata().map_err(|e| failed(from, &e))?.dev();
        let mut left = vec![(from.to_owned(), to.to_owned())];
        let mut made = vec![];
        while let Some((from, to)) = left.pop() {
            let inner = self.entries(&from, &to, device).map_err(|e| failed(&from, &e))?;
            for (from, to, meta) in inner {
                if meta.is_dir() {
                    left.push((from, to));
                } else {
                    self.entry(&from, &to, &meta).map_err(|e| failed(&from, &e))?;
                }
            }
            made.push((from, to));
        }
        // Times last: each entry that is made changes those of its folder.
        for (from, to) in made.iter().rev() {
            from.symlink_metadata().and_then(|meta| attributes(from, to, &meta)).map_err(|e| failed(from, &e))?;
        }
        Ok(())
    }

    fn entries(&self, from: &Path, to: &Path, device: u64) -> io::Result<Vec<(PathBuf, PathBuf, Metadata)>> {
        DirBuilder::new().mode(0o700).create(to)?;
        let mut entries = vec![];
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let meta = entry.path().symlink_metadata()?;
            on_same(&meta, device, &entry.path())?;
            entries.push((entry.path(), to.join(entry.file_name()), meta));
        }
        Ok(entries)
    }

    fn entry(&mut self, from: &Path, to: &Path, meta: &Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        if kind.is_socket() {
            self.left_out.push(from.to_owned());
            return Ok(());
        }
        if meta.nlink() > 1 {
            match self.linked.get(&(meta.dev(), meta.ino())) {
                Some(first) => return fs::hard_link(first, to),
                None => _ = self.linked.insert((meta.dev(), meta.ino()), to.to_owned()),
            }
        }
        if kind.is_symlink() {
            symlink(from.read_link()?, to)?;
        } else if kind.is_file() {
            self.stamps.push((from.to_owned(), Stamp::of(meta)));
            self.content(&files::open_unfollowed(from)?, &replace::open_new(to, 0o600)?, meta.len())?;
        } else {
            let flag = if kind.is_fifo() {
                SFlag::S_IFIFO
            } else if kind.is_block_device() {
                SFlag::S_IFBLK
            } else {
                SFlag::S_IFCHR
            };
            mknod(to, flag, Mode::from_bits_truncate(0o600), meta.rdev())?;
        }
        attributes(from, to, meta)
    }

    /// Shares the blocks where the filesystem can, else copies the data between the holes.
    fn content(&self, from: &File, to: &File, length: u64) -> io::Result<()> {
        self.in_time()?;
        if sys::clone_blocks(from, to).is_ok() {
            return Ok(());
        }
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK)).max(1)];
        let mut at = 0;
        while let Some((begin, end)) = data_from(from, at, length)? {
            at = begin;
            while at < end {
                self.in_time()?;
                let most = usize::try_from(end - at).unwrap_or(CHUNK).min(buffer.len());
                let read = from.read_at(&mut buffer[..most], at)?;
                if read == 0 {
                    return Err(io::Error::other("it became shorter while it was copied"));
                }
                to.write_all_at(&buffer[..read], at)?;
                at += read as u64;
            }
        }
        to.set_len(length)
    }

    fn in_time(&self) -> io::Result<()> {
        if Instant::now() < self.end { Ok(()) } else { Err(io::Error::other("the copy takes too long")) }
    }

    /// Compares every file with what it was when its copy began.
    ///
    /// # Errors
    /// 75 with a file that changed.
    pub fn nothing_changed(&self) -> Result<()> {
        for (path, stamp) in &self.stamps {
            let now = path.symlink_metadata().map_err(|e| failed(path, &e))?;
            if Stamp::of(&now) != *stamp {
                return Err(failed(path, &io::Error::other("it changed while it was copied")));
            }
        }
        Ok(())
    }
}

/// The next part of a file that is no hole; `None` if there is none.
fn data_from(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    match lseek(file, at.cast_signed(), Whence::SeekData) {
        Ok(begin) if begin.cast_unsigned() >= length => Ok(None),
        Ok(begin) => {
            let end = lseek(file, begin, Whence::SeekHole)?;
            Ok(Some((begin.cast_unsigned(), end.cast_unsigned().min(length))))
        }
        Err(Errno::ENXIO) => Ok(None),
        // The filesystem knows no holes.
        Err(Errno::EINVAL | Errno::ENOTSUP) => Ok(Some((at, length))),
        Err(e) => Err(e.into()),
    }
}

/// Owner first: a change of it takes capabilities and the set-user-id bit away.
fn attributes(from: &Path, to: &Path, meta: &Metadata) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.is_symlink() {
        fs::set_permissions(to, Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    sys::copy_xattrs(from, to)?;
    let time = |seconds, nanos| TimeSpec::new(seconds, nanos);
    let (accessed, modified) = (time(meta.atime(), meta.atime_nsec()), time(meta.mtime(), meta.mtime_nsec()));
    utimensat(AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

fn failed(path: &Path, e: &io::Error) -> Error {
    Error::new(Reason::DataCheckpoint, format!("cannot copy {}: {e}", path.display()))
        .remedy("The trial is withdrawn; the data are unchanged. `kubesolo-update data check` shows the cause.")
}

/// Programs that have a file below one of these folders open, for messages.
///
/// # Errors
/// Errors of the kernel.
pub fn users(folders: &[PathBuf]) -> io::Result<Vec<String>> {
    let folders: Vec<PathBuf> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    let own = std::process::id().to_string();
    let mut found = vec![];
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && **pid != own)
        else {
            continue;
        };
        // A process that ends meanwhile has nothing open.
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let targets = open.filter_map(|one| one.ok()?.path().read_link().ok());
        if let Some(file) = targets.into_iter().find(|file| folders.iter().any(|folder| file.starts_with(folder))) {
            let program = files::read_kernel(&process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid}) has {} open", program.trim_end(), file.display()));
        }
    }
    Ok(found)
}
