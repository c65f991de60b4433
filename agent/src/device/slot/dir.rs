//! The folder of a slot, held open, so that nothing in between can be exchanged for a symbolic link.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bootenv::medium::drop_cache;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::UnlinkatFlags;
use sha2::{Digest as _, Sha256};

use super::DAMAGED_REMEDY;
use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{files, limits};
use crate::release::release::Blob;

/// One read of an image, in bytes: few waits for the medium, and little memory. A multiple of every block size that O_DIRECT
/// asks for.
const READ_BYTES: usize = 512 * 1024;
/// Alignment of buffers for O_DIRECT, in bytes: the largest logical block of common media.
const ALIGNMENT: usize = 4096;

/// Reason of an error in what others could have put there.
const UNUSABLE: Reason = Reason::SlotUnusable;

/// Name of a file until it is complete and on the medium.
pub(super) fn part_name(name: &str) -> String {
    format!("{name}.part")
}

#[derive(Debug)]
pub(super) struct Dir {
    file: File,
    /// For messages: the place, as the user knows it.
    shown: String,
    /// True if the whole filesystem is ours, so that it is simplest and surest to sync all of it.
    own_filesystem: bool,
}

impl Dir {
    pub(super) fn folder(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            return Err(unusable(format!("slot folder {shown} is a symbolic link"))
                .remedy("Name the folder that it points to."));
        }
        Self::open(path, shown, false)
    }

    pub(super) fn mounted(path: &Path, device: &Path) -> Result<Self> {
        Self::open(path, device.display().to_string(), true)
    }

    #[expect(clippy::disallowed_methods, reason = "a folder, which is held open so that its files are opened in it")]
    fn open(path: &Path, shown: String, own_filesystem: bool) -> Result<Self> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
        let file = opened.map_err(|e| unusable(format!("cannot open the slot folder {shown}: {e}")))?;
        // The agent mounts a filesystem of its own where no other account can look, so the owners of its files do not matter.
        if !own_filesystem {
            let meta = file.metadata().map_err(|e| unusable(format!("cannot inspect the slot folder {shown}: {e}")))?;
            files::check_folder(&meta, path, UNUSABLE)?;
        }
        Ok(Self { file, shown, own_filesystem })
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    fn at(&self, name: &str) -> String {
        if self.own_filesystem { format!("{name} on {}", self.shown) } else { format!("{}/{name}", self.shown) }
    }

    fn cannot(&self, operation: &str, name: &str, e: impl Into<io::Error>) -> Error {
        write_error(&format!("{operation} {}", self.at(name)), &e.into())
    }

    pub(super) fn stat(&self, name: &str) -> Result<Option<FileStat>> {
        match nix::sys::stat::fstatat(&self.file, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(e) => Err(self.unreadable(name, e.desc())),
        }
    }

    pub(super) fn free(&self) -> Result<nix::sys::statvfs::Statvfs> {
        nix::sys::statvfs::fstatvfs(&self.file).map_err(|e| self.cannot("read the free space of", ".", e))
    }

    /// Opens a regular file; `None` if there is nothing of that name.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>> {
        // O_NONBLOCK: a FIFO of that name must not hold the agent up.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match nix::fcntl::openat(&self.file, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(nix::Error::ELOOP) => return Err(self.unreadable(name, "it is a symbolic link")),
            Err(e) => return Err(self.unreadable(name, e.desc())),
        };
        match file.metadata() {
            Ok(meta) if meta.is_file() => {
                if !self.own_filesystem {
                    files::check(&file, Path::new(&self.at(name)), UNUSABLE)?;
                }
                Ok(Some(file))
            }
            Ok(_) => Err(self.unreadable(name, "it is not a regular file")),
            Err(e) => Err(self.unreadable(name, e)),
        }
    }

    fn unreadable(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error::new(Reason::SlotUnreadable, format!("cannot read {}: {why}", self.at(name))).remedy(DAMAGED_REMEDY)
    }

    /// The whole of a small file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let _ = drop_cache(&file); // after the images it is all but gone anyway; what counts is compared in content
        let mut bytes = vec![];
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| self.unreadable(name, e))?;
        if bytes.len() as u64 > limit {
            return Err(limits::exceeded(self.at(name), format_args!("{limit} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Reads a file from the medium, not from memory, and hashes it. `also` sees all its bytes.
    pub(super) fn hash(&self, name: &str, also: impl FnMut(&[u8])) -> Result<Option<Blob>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        hash_from_medium(&file, also).map(Some).map_err(|e| self.unreadable(name, e))
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match nix::unistd::unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(nix::Error::EISDIR) => {
                log::warn!("removed the folder {}: a file of that name belongs there", self.at(name));
                // By the open folder, as everything here, and without following a link below it.
                let path = format!("/proc/self/fd/{}/{name}", self.file.as_raw_fd());
                std::fs::remove_dir_all(path).map_err(|e| self.cannot("remove", name, e))
            }
            Err(e) => Err(self.cannot("remove", name, e)),
        }
    }

    /// Makes a new file. Never opens an existing one: `remove` comes first.
    pub(super) fn create(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let file = nix::fcntl::openat(&self.file, name, flags, mode).map_err(|e| self.cannot("create", name, e))?;
        Ok(file.into())
    }

    /// Opens an image that an earlier run of this program left, to go on writing; `None` if there is nothing of that name, or
    /// what is there has a second name, under which it would change too.
    pub(super) fn reopen(&self, name: &str) -> Result<Option<File>> {
        let once = self.stat(name)?.is_some_and(|stat| super::is_regular(&stat) && stat.st_nlink == 1);
        if !once || self.open_file(name)?.is_none() {
            return Ok(None);
        }
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&self.file, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(e) => Err(self.cannot("open", name, e)),
        }
    }

    pub(super) fn write_error(&self, name: &str, e: io::Error) -> Error {
        self.cannot("write", name, e)
    }

    /// Gives a synced file its final name, durably.
    pub(super) fn publish(&self, name: &str) -> Result<()> {
        nix::fcntl::renameat(&self.file, part_name(name).as_str(), &self.file, name)
            .map_err(|e| self.cannot("rename to", name, e))?;
        self.sync()
    }

    /// Gives a file its temporary name back, if it is there. Durable with the next sync.
    pub(super) fn unpublish(&self, name: &str) -> Result<()> {
        match nix::fcntl::renameat(&self.file, name, &self.file, part_name(name).as_str()) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(e) => Err(self.cannot("rename", name, e)),
        }
    }

    /// Writes a small file: whole and on the medium, or not there.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let part = part_name(name);
        let mut file = self.create(&part)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| self.write_error(&part, e))?;
        drop(file);
        self.publish(name)
    }

    /// Puts what was made, renamed and removed here on the medium.
    pub(super) fn sync(&self) -> Result<()> {
        if self.own_filesystem {
            nix::unistd::syncfs(&self.file).map_err(|e| self.cannot("sync", ".", e))?;
        }
        self.file.sync_all().map_err(|e| self.cannot("sync", ".", e))
    }
}

fn unusable(message: String) -> Error {
    Error::new(UNUSABLE, message)
}

/// The error for a slot that cannot be written, with what to do about it.
pub(super) fn write_error(what: &str, e: &io::Error) -> Error {
    let (reason, remedy) = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => (Reason::NoSpace, "Make room there, or use a larger slot."),
        Some(libc::EROFS) => {
            (Reason::ReadOnly, "See the kernel log (dmesg): a filesystem turns read-only when its medium fails.")
        }
        Some(libc::EUCLEAN | libc::EBADMSG) => {
            (Reason::DamagedFilesystem, "Check the filesystem (fsck), or create it again.")
        }
        Some(libc::EIO) => (Reason::IoError, "See the kernel log (dmesg): the medium may be failing."),
        Some(libc::EACCES | libc::EPERM) => (Reason::NotPermitted, "Run the command as a user who can write there."),
        _ => (Reason::CannotWrite, ""),
    };
    Error::new(reason, format!("cannot {what}: {e}")).remedy(remedy)
}

fn hash_from_medium(mut file: &File, mut also: impl FnMut(&[u8])) -> io::Result<Blob> {
    let expected = file.metadata()?.len();
    let mut direct = set_direct(file, true).is_ok();
    if !direct {
        drop_cache(file)?;
    }
    let mut memory = vec![0; READ_BYTES + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + READ_BYTES];
    let (mut hasher, mut size) = (Sha256::new(), 0);
    // An unaligned read past the end would be an error with O_DIRECT.
    while size < expected {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                also(&buffer[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A filesystem without O_DIRECT may say so only now.
            Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) => {
                set_direct(file, false)?;
                drop_cache(file)?;
                direct = false;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Blob { digest: Digest(hasher.finalize().into()), size })
}

fn set_direct(file: &File, on: bool) -> nix::Result<()> {
    let flags = if on { OFlag::O_DIRECT } else { OFlag::empty() };
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFL(flags)).map(drop)
}
