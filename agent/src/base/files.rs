//! Files that decide what this program does: settings, keys, state. They are opened without following links, and count only
//! if nobody could have written them but root and the user who runs this.

use std::fmt::Display;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::unistd::{getegid, geteuid};

use crate::base::error::{Error, Reason, Result};
use crate::base::limits;

/// The device that has nothing in it, for `--conf /dev/null`: major 1, minor 3 (kernel, admin-guide/devices.txt).
const NULL: (u32, u32) = (1, 3);
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Opens a regular file for reading; `None` if nothing has that name. `reason` is the error's, if it cannot be relied on.
///
/// # Errors
/// 78 for a link, anything that is no regular file, and a file that others own or may write.
pub fn open(path: &Path, reason: Reason) -> Result<Option<File>> {
    // O_NONBLOCK: a FIFO of that name must not hold the agent up.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(not_opened(path, reason, &e)),
    };
    check(&file, path, reason)?;
    Ok(Some(file))
}

/// The error of an `open` with `O_NOFOLLOW`.
pub fn not_opened(path: &Path, reason: Reason, e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ELOOP) => distrust(path, reason, "it is a symbolic link", "Name the file that it points to."),
        _ => Error::new(reason, format!("cannot read {}: {e}", path.display()))
            .remedy("Run the command as root, or name a file that this user can read."),
    }
}

/// Whether an open file can be relied on.
///
/// # Errors
/// As for [`open`].
pub fn check(file: &File, path: &Path, reason: Reason) -> Result<()> {
    let meta = file.metadata().map_err(|e| not_opened(path, reason, &e))?;
    let device = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    if meta.file_type().is_char_device() && device == NULL {
        return Ok(());
    }
    if !meta.is_file() {
        return Err(distrust(path, reason, "it is not a regular file", "Put a regular file there."));
    }
    check_owner(&meta, path, reason)
}

/// Whether the files in a folder can be relied on to be those that were put there.
///
/// # Errors
/// 78 when others own it, or may write it without owning what is in it.
pub fn check_folder(meta: &Metadata, path: &Path, reason: Reason) -> Result<()> {
    // As in /tmp: others may add files, and not replace ours.
    if meta.mode() & STICKY != 0 && meta.uid() == 0 { Ok(()) } else { check_owner(meta, path, reason) }
}

/// Whether root or the user who runs this owns it, and nobody else may write it.
///
/// # Errors
/// 78 if not.
pub fn check_owner(meta: &Metadata, path: &Path, reason: Reason) -> Result<()> {
    let shown = path.display();
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        let remedy = format!("Change its owner to the user of this command: chown {} {shown}", geteuid());
        return Err(distrust(path, reason, format_args!("it belongs to user {}", meta.uid()), &remedy));
    }
    // A group of one's own is what many systems give every user, with a mask that lets it write.
    let foreign_group = meta.gid() != getegid().as_raw() && meta.mode() & GROUP_WRITES != 0;
    if foreign_group || meta.mode() & OTHERS_WRITE != 0 {
        let why = format!("writable by others (mode {:04o})", meta.mode() & 0o7777);
        return Err(distrust(path, reason, why, &format!("Remove that permission: chmod go-w {shown}")));
    }
    Ok(())
}

fn distrust(path: &Path, reason: Reason, why: impl Display, remedy: &str) -> Error {
    Error::new(reason, format!("{} is not trusted: {why}", path.display())).remedy(remedy)
}

/// The whole of a small file; `None` if nothing has that name.
///
/// # Errors
/// As for [`open`]; 65 when it is longer than `limit` bytes.
pub fn read(path: &Path, limit: u64, reason: Reason) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path, reason)? else { return Ok(None) };
    let mut bytes = vec![];
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| not_opened(path, reason, &e))?;
    if bytes.len() as u64 > limit {
        let error = limits::exceeded(path.display(), format_args!("{limit} bytes"));
        return Err(error.remedy("Make it shorter, or name another file."));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    const REASON: Reason = Reason::UnsafeFile;

    fn folder() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        (folder, file)
    }

    fn refused(path: &Path) -> String {
        let e = read(path, 100, REASON).unwrap_err();
        assert_eq!(e.reason, REASON, "{e}");
        assert!(!e.remedy.is_empty());
        format!("{} {}", e.message, e.remedy)
    }

    #[test]
    fn a_plain_file_of_ours_is_read_and_a_missing_one_is_none() {
        let (folder, file) = folder();
        assert_eq!(read(&file, 7, REASON).unwrap().unwrap(), b"content");
        assert_eq!(read(&folder.path().join("none"), 7, REASON).unwrap(), None);
        assert_eq!(read(Path::new("/dev/null"), 7, REASON).unwrap().unwrap(), b"");
        assert!(read(&file, 6, REASON).unwrap_err().message.contains("6 bytes"));
    }

    #[test]
    fn no_link_folder_pipe_or_device_passes_for_a_file() {
        let (folder, file) = folder();
        let path = |name: &str| folder.path().join(name);
        symlink(&file, path("link")).unwrap();
        assert!(refused(&path("link")).contains("symbolic link"));
        symlink(path("nowhere"), path("dangling")).unwrap();
        assert!(refused(&path("dangling")).contains("symbolic link"));
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for odd in [path("pipe"), folder.path().into(), "/dev/zero".into()] {
            assert!(refused(&odd).contains("not a regular file"), "{}", odd.display());
        }
    }

    #[test]
    fn what_others_may_write_does_not_count() {
        let (folder, file) = folder();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for others in [0o646, 0o666, 0o602] {
            mode(&file, others);
            assert!(refused(&file).contains("chmod go-w"), "{others:o}");
        }
        // The group of this user is this user's; any other is not.
        mode(&file, 0o664);
        read(&file, 7, REASON).unwrap();
        let check = |path: &Path| check_folder(&path.metadata().unwrap(), path, REASON);
        mode(folder.path(), 0o777);
        assert!(check(folder.path()).unwrap_err().remedy.contains("chmod go-w"));
        check(Path::new("/tmp")).unwrap();
        if geteuid().is_root() {
            chown(&file, Some(0), Some(65534)).unwrap();
            assert!(refused(&file).contains("chmod go-w"));
            mode(&file, 0o644);
            chown(&file, Some(65534), Some(65534)).unwrap();
            assert!(refused(&file).contains("belongs to user 65534"));
        }
    }
}
