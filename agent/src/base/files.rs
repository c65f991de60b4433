//! The one way to open a file. The functions differ in what makes its content count:
//!
//! | function | for | owner and mode | links |
//! |---|---|---|---|
//! | [`open`], [`read`] | settings, keys, state: files that decide what this program does | root or this user; writable by nobody else | none |
//! | [`read_linked`] | authorities, credentials, `fw_env.config` and others that tools install as links | the same, for each folder up to `/`, too | of root or this user |
//! | [`read_secret`] | passwords and private keys | the same, and readable by nobody else | of root or this user |
//! | [`read_on_volume`] | a seed on a volume that is mounted read-only: its maker chose them | any | none |
//! | [`open_data`], [`read_data`] | a release, an image, a disk: something else proves or judges the content | any | followed |
//! | [`read_kernel`] | `/proc` and `/sys` | the kernel's | followed |
//! | [`open_stream`] | the kernel log, a pipe between two runs | any | none |
//!
//! None of them waits for another process, and all but the kernel's files and `open_data` must be regular files.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};

use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};

/// The device that has nothing in it, for `--conf /dev/null`: major 1, minor 3 (kernel, admin-guide/devices.txt).
const NULL: (u32, u32) = (1, 3);
/// The kernel's `linux/magic.h`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// All permissions of group and others.
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;
/// Links that are followed in one path, as in the kernel (path_resolution(7)).
const LINKS: usize = 40;
/// Longest file of the kernel that is read, in bytes. The list of mounts is the longest; others have one page.
const KERNEL_BYTES: u64 = 1024 * 1024;

/// Opens a regular file for reading; `None` if nothing has that name. `reason` is that of the error if it is not trusted.
///
/// # Errors
/// 78 for a link, anything that is no regular file, and a file that others own or may write.
pub fn open(path: &Path, reason: Reason) -> Result<Option<File>> {
    let Some(file) = open_unchecked(path, reason)? else { return Ok(None) };
    check(&file, path, reason)?;
    Ok(Some(file))
}

fn open_unchecked(path: &Path, reason: Reason) -> Result<Option<File>> {
    match open_unfollowed(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(not_opened(path, reason, &e)),
    }
}

/// Opens whatever has this name for reading, if it is no link. Its content counts only after [`check`].
///
/// # Errors
/// Errors of the filesystem; `ELOOP` for a link.
pub fn open_unfollowed(path: &Path) -> io::Result<File> {
    open_with(path, libc::O_NOFOLLOW)
}

/// O_NONBLOCK: a pipe of that name must not hold this program up. O_NOCTTY: nor may a terminal take it over.
#[expect(clippy::disallowed_methods, reason = "this is the one way to open a file")]
fn open_with(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// The error of an `open` with `O_NOFOLLOW`.
pub fn not_opened(path: &Path, reason: Reason, e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ELOOP) => distrust(path, reason, "it is a symbolic link", "Name the file that it points to."),
        _ => Error::new(reason, format!("cannot read {}: {e}", path.display()))
            .remedy("Run the command as root, or name a file that this user can read."),
    }
}

/// Checks that an open file is trusted.
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
        return Err(irregular(path, reason));
    }
    check_owner(&meta, path, reason)
}

fn irregular(path: &Path, reason: Reason) -> Error {
    distrust(path, reason, "it is not a regular file", "Put a regular file there.")
}

/// Checks that no other account can replace the files in a folder.
///
/// # Errors
/// 78 when others own it, or may write it without owning what is in it.
pub fn check_folder(meta: &Metadata, path: &Path, reason: Reason) -> Result<()> {
    // As in /tmp: others may add files, and not replace ours.
    if meta.mode() & STICKY != 0 && meta.uid() == 0 { Ok(()) } else { check_owner(meta, path, reason) }
}

/// Checks that root or the user of the agent owns it, and that no other account may write it.
///
/// # Errors
/// 78 if not.
pub fn check_owner(meta: &Metadata, path: &Path, reason: Reason) -> Result<()> {
    let shown = path.display();
    check_user(meta, path, reason)?;
    // A group of one's own is what many systems give every user, with a mask that lets it write. The group of root is none:
    // containers run with it.
    let own_group = meta.gid() == getegid().as_raw() && !geteuid().is_root();
    if meta.mode() & GROUP_WRITES != 0 && !own_group || meta.mode() & OTHERS_WRITE != 0 {
        let why = format!("writable by others (mode {:04o})", meta.mode() & 0o7777);
        return Err(distrust(path, reason, why, &format!("Remove that permission: chmod go-w {shown}")));
    }
    Ok(())
}

fn check_user(meta: &Metadata, path: &Path, reason: Reason) -> Result<()> {
    if meta.uid() == 0 || meta.uid() == geteuid().as_raw() {
        return Ok(());
    }
    let remedy = format!("Change its owner to the user of this command: chown -h {} {}", geteuid(), path.display());
    Err(distrust(path, reason, format_args!("it belongs to user {}", meta.uid()), &remedy))
}

fn distrust(path: &Path, reason: Reason, why: impl Display, remedy: &str) -> Error {
    Error::new(reason, format!("{} is not trusted: {why}", path.display())).remedy(remedy)
}

/// The whole of a small file; `None` if nothing has that name.
///
/// # Errors
/// As for [`open`]; 65 when it is longer than `limit` bytes.
pub fn read(path: &Path, limit: u64, reason: Reason) -> Result<Option<Vec<u8>>> {
    open(path, reason)?.map(|file| whole(&file, path, limit, reason)).transpose()
}

/// As [`read`], through links; see [`resolve`].
///
/// # Errors
/// As for [`read`] and [`resolve`].
pub fn read_linked(path: &Path, limit: u64, reason: Reason) -> Result<Option<Vec<u8>>> {
    match resolve(path, reason)? {
        Some(real) => read(&real, limit, reason),
        None => Ok(None),
    }
}

/// As [`read_linked`], for a password or a private key: no other account may read it either.
///
/// # Errors
/// As for [`read_linked`]; 78 when group or others have any permission.
pub fn read_secret(path: &Path, limit: u64, reason: Reason) -> Result<Option<Vec<u8>>> {
    let Some(real) = resolve(path, reason)? else { return Ok(None) };
    let Some(file) = open(&real, reason)? else { return Ok(None) };
    let meta = file.metadata().map_err(|e| not_opened(&real, reason, &e))?;
    if meta.is_file() && meta.mode() & OTHERS != 0 {
        let why = format!("others can read it (mode {:04o})", meta.mode() & 0o7777);
        let remedy = format!("Run `chmod 600 {}`, and replace the secret if others may have read it.", real.display());
        return Err(distrust(&real, reason, why, &remedy));
    }
    whole(&file, &real, limit, reason).map(Some)
}

/// As [`read`], for any owner and mode.
///
/// # Errors
/// 78 for a link and anything that is no regular file; 65 when it is longer than `limit` bytes.
pub fn read_on_volume(path: &Path, limit: u64, reason: Reason) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_unchecked(path, reason)? else { return Ok(None) };
    let meta = file.metadata().map_err(|e| not_opened(path, reason, &e))?;
    if !meta.is_file() {
        return Err(irregular(path, reason));
    }
    whole(&file, path, limit, reason).map(Some)
}

fn whole(file: &File, path: &Path, limit: u64, reason: Reason) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| not_opened(path, reason, &e))?;
    if bytes.len() as u64 > limit {
        let error = limits::exceeded(path.display(), format_args!("{limit} bytes"));
        return Err(error.remedy("Make it shorter, or name another file."));
    }
    Ok(bytes)
}

/// Entries of a folder in which each file counts: keys, health checks, hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Entries that count, in the order of their names.
    pub entries: Vec<PathBuf>,
    /// Entries that do not count because of their names ([`is_leftover`]), in the same order.
    pub passed_over: Vec<PathBuf>,
}

/// Lists such a folder. Hidden entries do not count.
///
/// # Errors
/// Errors of the filesystem.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_leftover(&entry.file_name()) {
            listing.passed_over.push(entry.path());
        } else if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            listing.entries.push(entry.path());
        }
    }
    listing.entries.sort();
    listing.passed_over.sort();
    Ok(listing)
}

/// True if editors or package managers give this name to another version of a file: `x~`, `x.bak`, `x.orig`, `x.swp`, `#x#`,
/// `x.dpkg-old` (dpkg(1), conffiles) or `x.rpmsave` (rpm(8), configuration files).
#[must_use]
pub fn is_leftover(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let extension = name.rsplit(|b| *b == b'.').next().filter(|extension| extension.len() < name.len());
    let by_extension = extension.is_some_and(|extension| {
        [&b"bak"[..], b"orig", b"swp"].contains(&extension)
            || extension.starts_with(b"dpkg-")
            || extension.starts_with(b"rpm")
    });
    by_extension || name.ends_with(b"~") || name.len() > 1 && name.starts_with(b"#") && name.ends_with(b"#")
}

/// The last part of a path, escaped for messages.
#[must_use]
pub fn name(path: &Path) -> String {
    text::escape(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// The last parts of paths as a list for messages.
#[must_use]
pub fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| name(path)).collect::<Vec<_>>().join(", ")
}

/// Opens a regular file or a block device whose content something else proves or judges.
///
/// # Errors
/// Errors of the filesystem; [`io::ErrorKind::InvalidInput`] for anything else.
pub fn open_data(path: &Path) -> io::Result<File> {
    let file = open_with(path, 0)?;
    let kind = file.metadata()?.file_type();
    if kind.is_block_device() {
        return open_medium(&file);
    }
    if kind.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Opens a block device once more, without O_NONBLOCK: a drive without a medium fails here, silently (ENOMEDIUM). With that
/// flag it opens, and the kernel reports each read that fails on the console (kernel, `cdrom_open` of drivers/cdrom/cdrom.c).
#[expect(clippy::disallowed_methods, reason = "the same device, by its open file")]
fn open_medium(device: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", device.as_raw_fd()))
}

/// The first `most` bytes of such a file.
///
/// # Errors
/// As for [`open_data`].
pub fn read_data(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    open_data(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens the kernel log, or a pipe, for reading. A read finds nothing instead of waiting.
///
/// # Errors
/// Errors of the filesystem; `ELOOP` for a link.
pub fn open_stream(path: &Path) -> io::Result<File> {
    open_with(path, libc::O_NOFOLLOW)
}

/// Opens what is there for reading and writing in place, or only for writing where it cannot be read: a file that keeps its
/// blocks, a pipe with a reader, a setting of the kernel. Follows no link, makes and cuts off nothing, and waits for nobody.
///
/// # Errors
/// Errors of the filesystem; `ENXIO` for a pipe that nobody reads.
#[expect(clippy::disallowed_methods, reason = "the one way to write in place")]
pub fn open_existing(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let is_file = path.symlink_metadata()?.is_file();
    OpenOptions::new().read(is_file).write(true).custom_flags(flags).open(path)
}

/// Writes over the beginning of a regular file, which keeps its blocks, and syncs it. Follows no link.
///
/// # Errors
/// Errors of the filesystem; [`io::ErrorKind::InvalidInput`] for anything but a regular file.
pub fn write_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = open_existing(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

/// True if a file has this length, and blocks for it: it can be written over in place.
#[must_use]
pub fn keeps(meta: &Metadata, length: usize) -> bool {
    meta.is_file() && meta.len() == length as u64 && meta.blocks() > 0
}

/// The text of a file in `/proc` or `/sys`, at most 1 MiB of it.
///
/// # Errors
/// Errors of the kernel.
pub fn read_kernel(path: &Path) -> io::Result<String> {
    let mut bytes = vec![];
    open_with(path, 0)?.take(KERNEL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// True if a path, or the nearest folder above it that exists, is in memory and so lost at a reboot: in a tmpfs or ramfs, or
/// in an overlay, whose writable part the kernel does not name.
#[must_use]
pub fn is_in_memory(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    let kind = there.and_then(|path| statfs(path).ok()).map(|filesystem| filesystem.filesystem_type());
    kind.is_some_and(|kind| [TMPFS_MAGIC, RAMFS_MAGIC, OVERLAYFS_SUPER_MAGIC].contains(&kind))
}

/// The path without links; `None` if nothing has that name. Nobody but root and this user can have made it lead elsewhere, or
/// can do so later: each folder up to `/` and each link on the way is theirs, and nobody else can write these folders.
///
/// # Errors
/// 78 when that is not so.
pub fn resolve(path: &Path, reason: Reason) -> Result<Option<PathBuf>> {
    let failed = |e: &io::Error| not_opened(path, reason, e);
    let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<VecDeque<OsString>>();
    let mut left = parts(&std::path::absolute(path).map_err(|e| failed(&e))?);
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::CurDir) => continue,
            Some(Component::ParentDir) => _ = real.pop(),
            Some(Component::RootDir) => real = PathBuf::from("/"),
            _ => real.push(&part),
        }
        let meta = match real.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        if meta.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(failed(&io::Error::from_raw_os_error(libc::ELOOP)));
            }
            check_user(&meta, &real, reason)?;
            let target = real.read_link().map_err(|e| failed(&e))?;
            real.pop();
            let mut ahead = parts(&target);
            ahead.append(&mut left);
            left = ahead;
        } else if meta.is_dir() {
            check_folder(&meta, &real, reason)?;
        }
    }
    Ok(Some(real))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
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
    fn other_versions_of_a_file_do_not_count() {
        let folder = TempDir::new().unwrap();
        let passed_over = [
            "#10-check#",
            ".10-check.swp",
            "10-check.bak",
            "10-check.dpkg-dist",
            "10-check.dpkg-old",
            "10-check.orig",
            "10-check.rpmnew",
            "10-check.rpmsave",
            "10-check~",
        ];
        let entries = ["#", "10-check", "10-check.sh", "bak", "key.pem", "release.pub"];
        for name in passed_over.iter().chain(&entries).chain(&[".gitkeep"]) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let listing = list(folder.path()).unwrap();
        let names = |all: &[PathBuf]| {
            all.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&listing.entries), entries);
        assert_eq!(names(&listing.passed_over), passed_over);
    }

    #[test]
    fn what_others_may_write_does_not_count() {
        let (folder, file) = folder();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for others in [0o646, 0o666, 0o602] {
            mode(&file, others);
            assert!(refused(&file).contains("chmod go-w"), "{others:o}");
        }
        // The group of this user is this user's; any other is not. Other accounts may be in root's group.
        mode(&file, 0o664);
        match geteuid().is_root() {
            true => assert!(refused(&file).contains("writable by others (mode 0664)")),
            false => assert_eq!(read(&file, 7, REASON).unwrap().unwrap(), b"content"),
        }
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

    #[test]
    fn a_credential_may_be_a_link_through_folders_of_root() {
        let (folder, file) = folder();
        let path = |name: &str| folder.path().join(name);
        let read = |path: &Path| read_linked(path, 100, REASON).map(|read| read.map(|_| ()));
        fs::create_dir(path("store")).unwrap();
        symlink("../file", path("store/link")).unwrap();
        symlink("store", path("alias")).unwrap();
        assert_eq!(resolve(&path("alias/./link"), REASON).unwrap(), Some(file.canonicalize().unwrap()));
        assert_eq!(read(&path("alias/link")).unwrap(), Some(()));
        for absent in ["none", "none/none", "store/none"] {
            assert_eq!(read(&path(absent)).unwrap(), None, "{absent}");
        }
        symlink("circle", path("circle")).unwrap();
        read(&path("circle")).unwrap_err();
        // A folder that others can write on the way to the link, and one on the way from it to the file.
        for (spoilt, name) in [("store", "alias/link"), ("", "file"), ("", "store/link")] {
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o777)).unwrap();
            let error = read(&path(name)).unwrap_err();
            assert!(error.message.contains("writable by others"), "{spoilt} {name}: {error}");
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o755)).unwrap();
        }
        if geteuid().is_root() {
            lchown(path("alias"), Some(65534), None).unwrap();
            assert!(read(&path("alias/link")).unwrap_err().message.contains("belongs to user 65534"));
            fs::remove_file(path("alias")).unwrap();
            chown(path("store"), Some(65534), None).unwrap();
            assert!(read(&path("store/link")).unwrap_err().message.contains("belongs to user 65534"));
        }
    }

    #[test]
    fn a_secret_is_for_one_account_alone() {
        let (folder, file) = folder();
        let link = folder.path().join("link");
        symlink("file", &link).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            for name in [&file, &link] {
                let error = read_secret(name, 7, REASON).unwrap_err();
                assert!(error.remedy.contains("chmod"), "{mode:o} {error}");
            }
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret(&link, 7, REASON).unwrap().unwrap(), b"content");
        }
        assert_eq!(read_secret(&folder.path().join("none"), 7, REASON).unwrap(), None);
        read_secret(&file, 6, REASON).unwrap_err();
    }

    #[test]
    fn on_a_volume_owner_and_mode_do_not_count_and_the_rest_does() {
        let (folder, file) = folder();
        let read = |path: &Path, limit| read_on_volume(path, limit, REASON);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        if geteuid().is_root() {
            chown(&file, Some(65534), Some(65534)).unwrap();
        }
        assert_eq!(read(&file, 7).unwrap().unwrap(), b"content");
        assert_eq!(read(&folder.path().join("none"), 7).unwrap(), None);
        read(&file, 6).unwrap_err();
        symlink(&file, folder.path().join("link")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for odd in ["link", "pipe"] {
            read(&folder.path().join(odd), 7).unwrap_err();
        }
        let data = |name: &str| read_data(&folder.path().join(name), 4);
        assert_eq!(data("link").unwrap(), b"cont");
        assert_eq!(data("pipe").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(write_in_place(&folder.path().join("link"), b"x").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}
