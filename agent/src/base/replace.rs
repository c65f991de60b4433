//! The one way to write a file: the old content or the new one is there, wherever the power goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::libc;

/// Names for the temporary file, tried in order. In a shared folder another account can take some of them first.
const NAMES: u32 = 16;

/// A new file that takes the place of another one once it is complete. Without [`Replacement::finish`] nothing changes.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    /// The temporary file; `None` once it has its name.
    new: Option<PathBuf>,
    target: PathBuf,
}

impl Replacement {
    /// Creates a temporary file beside `target`, with this mode (0600, 0644), and follows no link.
    ///
    /// # Errors
    /// Errors of the filesystem; [`ErrorKind::InvalidInput`] if `target` is a link, a folder or a device.
    pub fn begin(target: &Path, mode: u32) -> io::Result<Self> {
        check_target(target)?;
        let (file, new) = create_beside(target, mode)?;
        Ok(Self { file, new: Some(new), target: target.to_owned() })
    }

    /// The temporary file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file, renames it over the target, and syncs the folder.
    ///
    /// # Errors
    /// Any of these steps. The old file is then still there, unless only the sync of the folder failed.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(new) = &self.new {
            fs::rename(new, &self.target)?;
            self.new = None;
        }
        sync_folder(&self.target)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let _ = self.new.as_deref().map(remove); // the error that led here is the one that counts
    }
}

/// Replaces a file with these bytes, as [`Replacement`] does. For one writer at a time.
///
/// # Errors
/// As [`Replacement::begin`] and [`Replacement::finish`].
pub fn replace(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut replacement = Replacement::begin(target, mode)?;
    replacement.file().write_all(bytes)?;
    replacement.finish()
}

/// Writes a file that does not exist yet.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is anything of that name, also a link that leads nowhere; errors of the filesystem.
pub fn create(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = open_new(target, mode)?;
    if let Err(e) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        let _ = remove(target); // the first error is the one that counts
        return Err(e);
    }
    sync_folder(target)
}

/// A rename would replace a device such as `/dev/null`, or a link that somebody made on purpose.
fn check_target(target: &Path) -> io::Result<()> {
    let refuse = |why: &str| Err(io::Error::new(ErrorKind::InvalidInput, why));
    match target.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => refuse("it is a symbolic link; name the file that it points to"),
        Ok(meta) if !meta.is_file() => refuse("it is not a regular file"),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// `.new`, so that the next write removes what a power cut leaves; with the process id where that name is taken.
fn create_beside(target: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let first = with_suffix(target, ".new");
    if remove(&first).is_ok() {
        match open_new(&first, mode) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            opened => return Ok((opened?, first)),
        }
    }
    for n in 0..NAMES {
        let new = with_suffix(target, &format!(".new-{}-{n}", process::id()));
        match open_new(&new, mode) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            opened => return Ok((opened?, new)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Creates a file that does not exist yet, for writing. `create_new` follows no link.
///
/// # Errors
/// As [`create`].
#[expect(clippy::disallowed_methods, reason = "this is the one way to create a file")]
pub fn open_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if file.metadata()?.permissions().mode() & 0o7777 != mode {
        // A umask took something away. FAT keeps modes of its own, and refuses others.
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
    Ok(file)
}

/// Opens the console of the system, to write to it. Does not wait for one that nobody reads.
///
/// # Errors
/// Errors of the filesystem: a container has none.
#[expect(clippy::disallowed_methods, reason = "a device, which keeps nothing")]
pub fn open_console() -> io::Result<File> {
    OpenOptions::new().append(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open("/dev/console")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a rename in the folder of this file last.
///
/// # Errors
/// Errors of the filesystem.
pub fn sync_folder(file: &Path) -> io::Result<()> {
    open_folder(folder_of(file))?.sync_all()
}

/// Opens a folder, to sync it or its filesystem.
///
/// # Errors
/// Errors of the filesystem.
#[expect(clippy::disallowed_methods, reason = "a folder, which is only synced")]
pub fn open_folder(folder: &Path) -> io::Result<File> {
    File::open(folder)
}

/// Creates the folder `below` a tree, and those between, where they are missing. A person named the tree, which may be a link;
/// a link inside leads out of it, and is refused.
///
/// # Errors
/// Errors of the filesystem; [`ErrorKind::InvalidInput`] for a link or any other thing in the place of a folder.
pub fn create_folders(tree: &Path, below: &Path) -> io::Result<()> {
    fs::create_dir_all(tree)?;
    let mut folder = tree.to_owned();
    for part in below {
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let kind = folder.symlink_metadata()?.file_type();
        if !kind.is_dir() {
            let what = if kind.is_symlink() { "a symbolic link" } else { "no folder" };
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} is {what}", folder.display())));
        }
    }
    Ok(())
}

/// The folder that a file is in.
#[must_use]
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        replace(&target, b"old", 0o644).unwrap();
        let mut replacement = Replacement::begin(&target, 0o600).unwrap();
        replacement.file().write_all(b"half").unwrap();
        assert_eq!(names(folder.path()), ["file", "file.new"]);
        drop(replacement);
        assert_eq!((fs::read(&target).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["file".into()]));
        replace(&target, b"new", 0o600).unwrap();
        assert_eq!((fs::read(&target).unwrap(), names(folder.path())), (b"new".to_vec(), vec!["file".into()]));
        assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o600, "the mode is that of the new file");
    }

    #[test]
    fn no_write_follows_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (target, precious) = (folder.path().join("file"), folder.path().join("precious"));
        fs::write(&precious, "kept").unwrap();
        symlink(&precious, &target).unwrap();
        for written in [replace(&target, b"new", 0o644), create(&target, b"new", 0o644)] {
            assert!(matches!(written.unwrap_err().kind(), ErrorKind::InvalidInput | ErrorKind::AlreadyExists));
        }
        fs::remove_file(&target).unwrap();
        // In the place of the temporary file, also one that cannot be removed.
        symlink(&precious, folder.path().join("file.new")).unwrap();
        replace(&target, b"new", 0o644).unwrap();
        fs::create_dir(folder.path().join("file.new")).unwrap();
        replace(&target, b"newer", 0o644).unwrap();
        assert_eq!((fs::read(&target).unwrap(), fs::read(&precious).unwrap()), (b"newer".to_vec(), b"kept".to_vec()));
        assert_eq!(names(folder.path()), ["file", "file.new", "precious"]);
    }

    #[test]
    fn no_device_folder_or_existing_file_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        for odd in [Path::new("/dev/null"), folder.path()] {
            assert_eq!(replace(odd, b"new", 0o644).unwrap_err().kind(), ErrorKind::InvalidInput, "{}", odd.display());
        }
        let target = folder.path().join("file");
        create(&target, b"first", 0o600).unwrap();
        assert_eq!(create(&target, b"second", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        symlink("nowhere", folder.path().join("link")).unwrap();
        assert_eq!(create(&folder.path().join("link"), b"", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"first");
    }
}
