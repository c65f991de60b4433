//! Lock files against accounts that are not root's.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootenv::lock::take;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lock");
    (folder, path)
}

fn make(path: &Path, mode: u32) {
    fs::write(path, "").expect("a file");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
}

fn names(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path()).expect("a folder").count()
}

#[test]
fn a_lock_file_is_for_its_owner_alone() {
    let (_folder, path) = place();
    let held = take(&path, Duration::ZERO).expect("a lock");
    assert!(held.replaced.is_none());
    assert_eq!(path.metadata().expect("a file").mode() & 0o7777, 0o600);
    assert_eq!(take(&path, Duration::ZERO).expect_err("held").kind(), ErrorKind::WouldBlock);
    drop(held);
    assert!(take(&path, Duration::ZERO).expect("free again").replaced.is_none());
}

#[test]
fn a_descriptor_from_when_the_file_was_open_to_others_holds_nothing_back() {
    let (folder, path) = place();
    make(&path, 0o644);
    let early = File::open(&path).expect("a file that all may read");
    early.try_lock().expect("its lock");
    let held = take(&path, Duration::ZERO).expect("a lock of another file");
    let replaced = held.replaced.as_ref().expect("the old one");
    assert!(replaced.held && !replaced.foreign, "{replaced}");
    assert_eq!((replaced.mode, path.metadata().expect("a file").mode() & 0o7777), (0o644, 0o600));
    assert_eq!(take(&path, Duration::ZERO).expect_err("held").kind(), ErrorKind::WouldBlock);
    drop(held);
    // The early one is still locked, and nobody asks.
    assert!(take(&path, Duration::ZERO).expect("free").replaced.is_none());
    // One that is locked only later.
    make(&path, 0o644);
    let early = File::open(&path).expect("a file");
    assert!(!take(&path, Duration::ZERO).expect("free").replaced.expect("the old one").held);
    early.try_lock().expect("its lock");
    take(&path, Duration::ZERO).expect("free");
    assert_eq!(names(&folder), 1, "nothing is left behind");
}

#[test]
fn a_link_a_pipe_and_a_file_of_another_account_are_replaced() {
    let (folder, path) = place();
    let elsewhere = folder.path().join("elsewhere");
    symlink(&elsewhere, &path).expect("a link");
    assert!(take(&path, Duration::ZERO).expect("a lock").replaced.expect("a link").foreign);
    assert!(!elsewhere.exists(), "nothing is made behind a link");

    fs::remove_file(&path).expect("removed");
    mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
    assert!(take(&path, Duration::ZERO).expect("a lock").replaced.expect("a pipe").foreign);
    assert!(path.symlink_metadata().expect("a file").is_file());

    if geteuid().is_root() {
        for mode in [0o600, 0o666] {
            make(&path, mode);
            chown(&path, Some(65534), Some(65534)).expect("another owner");
            let file = File::open(&path).expect("the file");
            file.try_lock().expect("its lock");
            let held = take(&path, Duration::from_secs(60)).expect("a lock, at once");
            let replaced = held.replaced.expect("the foreign file");
            assert_eq!((replaced.foreign, replaced.owner, replaced.mode), (true, 65534, mode));
            assert_eq!(path.metadata().expect("a file").uid(), 0);
        }
    }
}
