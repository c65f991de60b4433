//! Small files that are replaced whole: the old content or the new one is there, wherever the power goes.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootenv::lock;
use nix::libc;
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Reason, Result};
use crate::base::replace::{folder_of, replace, sync_folder, with_suffix};
use crate::base::{files, json};

/// The schema of all three documents that is written. A newer one is refused and kept; the Go agent's files have none.
pub(super) const SCHEMA: u32 = 1;
/// Longest file that is read, in bytes; what is longer was not written here.
const FILE_BYTES: u64 = 256 * 1024;
/// Damaged files that are kept for a person to look at.
const DAMAGED_KEPT: u32 = 5;

/// Mode of a file that every account may read.
pub(super) const PUBLIC: u32 = 0o644;
/// Mode of a file for its owner alone.
pub(super) const PRIVATE: u32 = 0o600;

/// Reason of an error in a file that others could have put there.
const UNUSABLE: Reason = Reason::StateUnusable;

/// Kind of the file under a name.
pub(super) enum Found<T> {
    Nothing,
    Document(T),
    /// Why it cannot be used.
    Damaged(String),
}

impl<T> Found<T> {
    pub(super) fn document(self) -> Option<T> {
        match self {
            Self::Document(document) => Some(document),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Schema {
    /// The Go agent writes none.
    #[serde(default)]
    schema: u32,
}

/// Reads a document of at most this schema. A newer one is an error, and stays as it is.
pub(super) fn read<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Found<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(Found::Nothing) };
    parse(&bytes, &path.display().to_string(), known)
}

/// The same of bytes, which are called `name` in messages.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], name: &str, known: u32) -> Result<Found<T>> {
    if bytes.len() as u64 > FILE_BYTES {
        return Ok(Found::Damaged(format!("it is longer than {FILE_BYTES} bytes")));
    }
    match json::parse::<Schema>(bytes, name) {
        Ok(Schema { schema }) if schema > known => {
            let message = format!("{name} has schema {schema}, and this agent supports up to {known}");
            return Err(Error::new(Reason::NewerSchema, message).remedy(
                "A newer version of the agent wrote it, and it is unchanged: use that version, or move the file away.",
            ));
        }
        Ok(_) => {}
        Err(e) => return Ok(Found::Damaged(e.message)),
    }
    Ok(match json::parse(bytes, name) {
        Ok(document) => Found::Document(document),
        Err(e) => Found::Damaged(e.message),
    })
}

fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = files::open(path, UNUSABLE)? else { return Ok(None) };
    let mut bytes = vec![];
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| files::not_opened(path, UNUSABLE, &e))?;
    Ok(Some(bytes))
}

/// Renames a damaged file out of the way, for a person to look at. The last name is used again and again: a medium that
/// damages every file does not fill the disk.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf> {
    let name = |n: u32| with_suffix(path, &format!(".damaged-{n}"));
    let free = (1..DAMAGED_KEPT).map(name).find(|path| path.symlink_metadata().is_err());
    let aside = free.unwrap_or_else(|| name(DAMAGED_KEPT));
    fs::rename(path, &aside).map_err(|e| write_error(&format!("set aside {}", path.display()), &e))?;
    sync_folder(path).map_err(|e| write_error(&format!("sync the folder of {}", path.display()), &e))?;
    Ok(aside)
}

/// Replaces a document, with this mode. Only for the holder of the lock.
pub(super) fn write(path: &Path, document: &impl Serialize, mode: u32) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(document).expect("strings, numbers and lists only");
    bytes.push(b'\n');
    if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        return Err(symlink(path));
    }
    replace(path, &bytes, mode).map_err(|e| write_error(&format!("write {}", path.display()), &e))
}

/// The path of a file in a folder that only its owner may enter. Makes the folder, or takes it from other accounts.
pub(super) fn in_private_folder(folder: &Path, name: &str) -> Result<PathBuf> {
    let failed = |e: io::Error| write_error(&format!("make the folder {}", folder.display()), &e);
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.and_then(|()| sync_folder(folder)).map_err(failed)?,
    }
    let meta = folder.symlink_metadata().map_err(failed)?;
    if !meta.is_dir() {
        return Err(Error::new(UNUSABLE, format!("{} is not a folder", folder.display())).remedy("Move it away."));
    }
    files::check_folder(&meta, folder, UNUSABLE)?;
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(folder.join(name))
}

/// Removes a document, so that no power cut brings it back.
pub(super) fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path)
        .and_then(|()| sync_folder(path))
        .map_err(|e| write_error(&format!("remove {}", path.display()), &e))
}

/// Writes these bytes over a file of their length, in place: that takes no new block. Another file is replaced, by one of mode
/// 0600.
pub(super) fn write_kept(path: &Path, bytes: &[u8]) -> Result<()> {
    let is_kept = |file: &File| file.metadata().is_ok_and(|meta| files::keeps(&meta, bytes.len()));
    let kept = files::open(path, UNUSABLE)?.is_some_and(|file| is_kept(&file));
    let written = if kept { files::write_in_place(path, bytes) } else { replace(path, bytes, PRIVATE) };
    written.map_err(|e| write_error(&format!("write {}", path.display()), &e))
}

/// Takes the lock, and makes its file and the folders above it if they are missing.
pub(super) fn take_lock(path: &Path) -> Result<File> {
    let folder = folder_of(path);
    let cannot_make = |e: io::Error| write_error(&format!("make the folder {}", folder.display()), &e);
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(cannot_make)?;
    files::check_folder(&folder.metadata().map_err(cannot_make)?, folder, UNUSABLE)?;
    if let Some(file) = open_unfollowed(path)? {
        files::check(&file, path, UNUSABLE)?;
        // The lock of 0.1 is open to others, and is replaced even while somebody holds it. Not while an agent does.
        let held = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if held && holder(&file).is_some_and(is_agent) {
            return Err(locked(&file));
        }
    }
    let held = lock::take(path, Duration::ZERO).map_err(|e| match (e.kind(), open_unfollowed(path)) {
        (io::ErrorKind::WouldBlock, Ok(Some(file))) => locked(&file),
        _ => write_error(&format!("lock {}", path.display()), &e),
    })?;
    if let Some(replaced) = held.replaced {
        log::warn!("{replaced}");
    }
    // For messages, in place: a full disk must not keep the lock from being taken.
    let _ = held.file.write_all_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0);
    Ok(held.file)
}

fn open_unfollowed(path: &Path) -> Result<Option<File>> {
    match files::open_unfollowed(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(symlink(path)),
        Err(e) => Err(write_error(&format!("open {}", path.display()), &e)),
    }
}

fn locked(file: &File) -> Error {
    let pid = holder(file).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Error::new(Reason::Locked, format!("another kubesolo-update is running{pid}")).remedy("Try again when it ends.")
}

/// The process id that the last holder wrote.
fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// True if this process is an agent of root or of this user. No other account can imitate one.
fn is_agent(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let owner = process.metadata().map(|meta| meta.uid());
    let name = files::read_kernel(&process.join("comm")).unwrap_or_default();
    pid != std::process::id()
        && owner.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw())
        && name.trim_end() == "kubesolo-update"
}

/// Takes a file from other accounts that an older agent let them read.
pub(super) fn make_private(path: &Path) -> Result<()> {
    let Some(file) = open_unfollowed(path)? else { return Ok(()) };
    let cannot = |e: io::Error| write_error(&format!("change the mode of {}", path.display()), &e);
    let meta = file.metadata().map_err(cannot)?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE)).map_err(cannot)?;
    }
    Ok(())
}

fn symlink(path: &Path) -> Error {
    Error::new(UNUSABLE, format!("{} is a symbolic link", path.display()))
        .remedy("Put a regular file there, or name the target of the link with --state.")
}

pub(super) fn write_error(what: &str, e: &io::Error) -> Error {
    let (reason, remedy) = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => (Reason::StateNoSpace, "Make room on the data partition."),
        Some(libc::EROFS) => (
            Reason::StateReadOnly,
            "Mount the data partition for writing; if it turned read-only by itself, see dmesg.",
        ),
        Some(libc::EIO) => (Reason::StateIoError, "See the kernel log (dmesg): the medium may be failing."),
        Some(libc::EACCES | libc::EPERM) => {
            (Reason::StateNotPermitted, "Run the command as root, or name a writable place with --state.")
        }
        _ => (Reason::StateNotWritable, ""),
    };
    Error::new(reason, format!("cannot {what}: {e}")).remedy(remedy)
}
