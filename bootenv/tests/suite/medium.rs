//! A block on real files: what cannot be stored is left alone.

use crate::common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use bootenv::SlotId;
use bootenv::grub::{Block, Error as BlockError, SECTOR, SIZE};
use bootenv::medium::{Error, Medium};
use bootenv::protocol::BootState;
use proptest::prelude::*;

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn with(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("grubenv");
        fs::write(&path, bytes).expect("a file");
        Self { _folder: folder, path }
    }

    fn medium(&self) -> Medium {
        Medium::File(self.path.clone())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("the file")
    }
}

fn blocks() -> (Block, Block) {
    (Block::main(&BootState::committed(SlotId::A)), Block::main(&BootState::committed(SlotId::B)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_stored_is_what_is_loaded(state in common::state(), next in common::state()) {
        let old = Block::main(&state);
        let place = Place::with(old.bytes());
        let before = fs::metadata(&place.path).expect("metadata");
        let new = place.medium().load().expect("a block").with(&next.variables()).expect("equal widths fit");
        place.medium().store(&old, &new).expect("stored");
        prop_assert_eq!(place.medium().load().expect("a block"), new);
        let after = fs::metadata(&place.path).expect("metadata");
        prop_assert_eq!((before.ino(), before.len()), (after.ino(), after.len()), "same file, same length");
    }

    #[test]
    fn any_bytes_are_loaded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let place = Place::with(&bytes);
        let _ = place.medium().load();
        prop_assert_eq!(place.bytes(), bytes);
    }
}

#[test]
fn a_symbolic_link_is_refused() {
    let (old, new) = blocks();
    let place = Place::with(old.bytes());
    let link = place.path.with_file_name("link");
    symlink(&place.path, &link).expect("a link");
    let medium = Medium::File(link);
    assert!(matches!(medium.load(), Err(Error::Io { operation: "open", .. })));
    assert!(matches!(medium.store(&old, &new), Err(Error::Io { operation: "open", .. })));
    assert_eq!(place.bytes(), old.bytes());
}

#[test]
fn a_folder_and_a_missing_file_are_refused() {
    let (old, new) = blocks();
    let place = Place::with(old.bytes());
    for path in [place.path.with_file_name("absent"), place.path.with_file_name(".")] {
        let medium = Medium::File(path.clone());
        assert!(matches!(medium.load(), Err(Error::Io { operation: "open", .. })), "{}", path.display());
        assert!(matches!(medium.store(&old, &new), Err(Error::Io { operation: "open", .. })));
        assert!(matches!(medium.replace(&new), Err(Error::Io { operation: "open", .. })));
    }
    assert!(!place.path.with_file_name("absent").exists(), "a missing environment is not made up");
}

#[test]
fn a_regular_file_is_no_device() {
    let (old, new) = blocks();
    let place = Place::with(old.bytes());
    let medium = Medium::Device { device: place.path.clone(), offset: 0, size: SIZE, file: "grubenv".into() };
    assert!(matches!(medium.store(&old, &new), Err(Error::Io { operation: "open", .. })));
    assert_eq!(place.bytes(), old.bytes());
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_stays() {
    let (old, new) = blocks();
    let place = Place::with(old.bytes());
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o444)).expect("permissions");
    if fs::OpenOptions::new().write(true).open(&place.path).is_ok() {
        // Root writes read-only files; a file that is running is one that nobody may write.
        let busy = Place::with(b"");
        fs::copy("/bin/sleep", &busy.path).expect("a program");
        fs::set_permissions(&busy.path, fs::Permissions::from_mode(0o755)).expect("permissions");
        let before = busy.bytes();
        let mut sleep = std::process::Command::new(&busy.path).arg("60").spawn().expect("a process");
        let stored = busy.medium().store(&old, &new);
        sleep.kill().and_then(|()| sleep.wait()).expect("ended");
        assert!(matches!(stored, Err(Error::Io { operation: "open", .. })));
        assert_eq!(busy.bytes(), before);
    } else {
        assert!(matches!(place.medium().store(&old, &new), Err(Error::Io { operation: "open", .. })));
    }
    assert_eq!(place.bytes(), old.bytes());
}

#[test]
fn a_medium_that_does_not_keep_what_is_written_is_noticed() {
    let (old, new) = blocks();
    let place = Place::with(old.bytes());
    // Something else changed the second sector meanwhile: what is read back is not what was meant.
    let mut changed = old.bytes().to_vec();
    changed[SECTOR + 1] = b'x';
    fs::write(&place.path, &changed).expect("a file");
    assert!(matches!(place.medium().store(&old, &new), Err(Error::ReadBack)));
    assert_eq!(place.bytes()[SECTOR..], changed[SECTOR..], "the second sector is never written");
}

#[test]
fn what_another_program_stored_meanwhile_is_left_alone() {
    let (old, new) = blocks();
    let theirs = old.with(&[("boot_counter", "1".to_owned())]).expect("equal widths fit");
    let place = Place::with(theirs.bytes());
    assert!(matches!(place.medium().store(&old, &new), Err(Error::Changed)));
    assert_eq!(place.bytes(), theirs.bytes());
}

#[test]
fn a_change_of_the_second_sector_is_never_stored() {
    let (old, _) = blocks();
    let place = Place::with(old.bytes());
    let mut lines = common::main_lines(&BootState::committed(SlotId::A));
    lines.push([b"x=".to_vec(), vec![b'y'; 500]].concat());
    let far = Block::parse(&common::block(&lines)).expect("a valid block");
    assert!(matches!(place.medium().store(&old, &far), Err(Error::Block(BlockError::Sectors))));
    assert_eq!(place.bytes(), old.bytes());
}

#[test]
fn an_equal_block_is_not_written_again() {
    let (old, _) = blocks();
    let place = Place::with(old.bytes());
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o444)).expect("permissions");
    let before = fs::metadata(&place.path).expect("metadata").mtime_nsec();
    place.medium().store(&old, &old).expect("nothing to store");
    assert_eq!(fs::metadata(&place.path).expect("metadata").mtime_nsec(), before);
}

#[test]
fn a_damaged_block_is_replaced_in_place() {
    let (_, new) = blocks();
    let place = Place::with(&[0; 1024]);
    let inode = fs::metadata(&place.path).expect("metadata").ino();
    assert!(matches!(place.medium().load(), Err(Error::Block(BlockError::Signature))));
    place.medium().replace(&new).expect("replaced");
    assert_eq!(place.medium().load().expect("a block"), new);
    assert_eq!(fs::metadata(&place.path).expect("metadata").ino(), inode);
}

#[test]
fn a_sector_that_somebody_else_changed_is_left_alone() {
    let [old, theirs, new] = [b'o', b't', b'n'].map(|byte| [byte; SECTOR]);
    let place = Place::with(&[&theirs[..], b"more"].concat());
    assert!(matches!(place.medium().store_sector(&old, &new), Err(Error::ReadBack)));
    assert_eq!(place.bytes(), [&theirs[..], b"more"].concat());
    place.medium().store_sector(&theirs, &new).expect("stored");
    assert_eq!(place.bytes(), [&new[..], b"more"].concat(), "the sector and nothing else");
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o444)).expect("permissions");
    let before = fs::metadata(&place.path).expect("metadata").mtime_nsec();
    place.medium().store_sector(&new, &new).expect("nothing to store");
    assert_eq!(fs::metadata(&place.path).expect("metadata").mtime_nsec(), before);
}

/// Runs a tool and gives its output.
fn run(tool: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(tool).args(args).output().expect("a tool of util-linux or e2fsprogs");
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_store_around_a_mounted_filesystem_changes_one_sector() {
    let (old, new) = blocks();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [image, content, mount] = ["image", "content", "mount"].map(|name| folder.path().join(name));
    let text = |path: &PathBuf| path.to_str().expect("a path of ASCII").to_owned();
    fs::create_dir_all(&content).and_then(|()| fs::create_dir(&mount)).expect("folders");
    fs::write(content.join("grubenv"), old.bytes()).expect("a file");
    run("mke2fs", &["-q", "-t", "ext2", "-b", "1024", "-d", &text(&content), &text(&image), "4M"]);
    let device = run("losetup", &["--find", "--show", &text(&image)]);
    run("mount", &["-t", "ext2", "-o", "ro", &device, &text(&mount)]);
    let before = fs::read(&image).expect("the image");

    let medium = Medium::map(&mount.join("grubenv"), device.as_ref()).expect("mapped");
    let stored = medium.load().and_then(|current| medium.store(&current, &new));
    let loaded = medium.load();
    run("umount", &[&text(&mount)]);
    run("losetup", &["--detach", &device]);
    stored.expect("stored");
    assert_eq!(loaded.expect("a block"), new);

    let Medium::Device { offset, .. } = medium else { panic!("mapped to {medium}") };
    let at = usize::try_from(offset).expect("a small image");
    let mut expected = before;
    expected[at..at + SECTOR].copy_from_slice(&new.bytes()[..SECTOR]);
    assert!(fs::read(&image).expect("the image") == expected, "one sector changed, and nothing else");
}
