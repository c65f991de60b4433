//! Small files that are replaced whole: the old content or the new one is there, wherever the power goes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit, Result};
use crate::replace::{folder_of, replace, sync_folder, with_suffix};
use crate::{files, json};

/// Longest file that is read, in bytes; what is longer was not written here.
const FILE_BYTES: u64 = 256 * 1024;
/// Damaged files that are kept for a person to look at.
const DAMAGED_KEPT: u32 = 5;

/// Reason of an error in a file that others could have put there.
const UNUSABLE: &str = "state-unusable";

/// What was found under a name.
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
    // An array would pass for a struct, its members taken for the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Ok(Found::Damaged("it is not a JSON object".into()));
    }
    match json::parse::<Schema>(bytes, name) {
        Ok(Schema { schema }) if schema > known => {
            let message = format!("{name} has schema {schema}, and only schemas up to {known} are known");
            return Err(Error::new(Exit::Config, "newer-schema", message).remedy(
                "It was written by a newer version of this agent and was left as it is: use that version, or move the file away.",
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

/// Replaces a document. Only for who holds the lock.
pub(super) fn write(path: &Path, document: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(document).expect("strings, numbers and lists only");
    bytes.push(b'\n');
    if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        return Err(symlink(path));
    }
    replace(path, &bytes).map_err(|e| write_error(&format!("write {}", path.display()), &e))
}

/// Opens, and makes if need be, the lock file and the folders above it.
pub(super) fn open_lock(path: &Path) -> Result<File> {
    let folder = folder_of(path);
    let cannot_make = |e: io::Error| write_error(&format!("make the folder {}", folder.display()), &e);
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(cannot_make)?;
    files::check_folder(&folder.metadata().map_err(cannot_make)?, folder, UNUSABLE)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    let file =
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => symlink(path),
            _ => write_error(&format!("open {}", path.display()), &e),
        })?;
    files::check(&file, path, UNUSABLE)?;
    Ok(file)
}

fn symlink(path: &Path) -> Error {
    Error::new(Exit::Config, UNUSABLE, format!("{} is a symbolic link", path.display()))
        .remedy("Put a plain file there, or name the place that it points to with --state.")
}

pub(super) fn write_error(what: &str, e: &io::Error) -> Error {
    let (reason, remedy) = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ("state-no-space", "Make room on the data partition."),
        Some(libc::EROFS) => {
            ("state-read-only", "Mount the data partition for writing; if it turned read-only by itself, see dmesg.")
        }
        Some(libc::EIO) => ("state-io-error", "See the kernel log (dmesg): the medium may be failing."),
        Some(libc::EACCES | libc::EPERM) => {
            ("state-not-permitted", "Run it as root, or name a place that you may write with --state.")
        }
        _ => ("state-not-writable", ""),
    };
    Error::new(Exit::CannotWrite, reason, format!("cannot {what}: {e}")).remedy(remedy)
}
