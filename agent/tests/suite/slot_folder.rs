//! Slots in folders: what is there after a write that went well, and after one that did not.

use crate::{slot_support, tmpfs};

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kubesolo_update::base::console::progress::Progress;
use kubesolo_update::base::error::{Error, Exit, Reason};
use kubesolo_update::config::{Conf, Config, Overrides};
use kubesolo_update::device::blocks::System;
use kubesolo_update::device::slot::{Part, Place, Slot, SlotManifest, Slots, Watch};
use slot_support::{Images, Pieces, blob, fill, now, offer};
use tmpfs::mount_tmpfs;

const FILES: [&str; 5] = ["kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "vmlinuz", "vmlinuz.sha256"];

struct Folder {
    dir: tempfile::TempDir,
    slot: Slot,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slot = slot_in(dir.path());
        Self { dir, slot }
    }

    fn filled(images: &Images) -> Self {
        let folder = Self::new();
        fill(&folder.slot, images, &images.manifest("2.0.0")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

fn slot_in(folder: &Path) -> Slot {
    Slot { id: bootenv::SlotId::B, place: Place::Folder(folder.to_owned()), checksums: false }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn small() -> Images {
    Images::new(1, 300_000, 1_000_001)
}

fn is_void(slot: &Slot) {
    let error = slot.verify().unwrap_err();
    assert_eq!(error.reason, Reason::SlotIncomplete, "{error}");
    assert!(!slot.facts().unwrap().hash_files && slot.manifest().unwrap().is_none());
}

#[test]
fn a_filled_slot_holds_the_images_their_hashes_and_the_manifest() {
    let images = small();
    let folder = Folder::filled(&images);
    assert_eq!(folder.names(), FILES);
    assert_eq!(fs::read(folder.path("vmlinuz")).unwrap(), images.kernel);
    assert_eq!(fs::read(folder.path("kubesolo-os.gz")).unwrap(), images.initramfs);
    assert_eq!(folder.slot.verify().unwrap(), images.manifest("2.0.0"));
    assert_eq!(folder.slot.manifest().unwrap().unwrap(), images.manifest("2.0.0"));
    assert_eq!(folder.slot.hashes().unwrap(), [blob(&images.kernel), blob(&images.initramfs)]);
    assert!(folder.slot.facts().unwrap().looks_complete());
    for name in FILES {
        assert_eq!(fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777, 0o644, "{name}");
    }
}

#[test]
fn sha256sum_agrees_with_the_hash_files() {
    let folder = Folder::filled(&small());
    let sum = Command::new("sha256sum")
        .args(["--check", "--strict", "vmlinuz.sha256", "kubesolo-os.gz.sha256"])
        .current_dir(folder.dir.path())
        .output()
        .unwrap();
    assert!(sum.status.success(), "{sum:?}");
}

#[test]
fn images_of_awkward_sizes_come_back_unchanged() {
    for (seed, size) in [(1, 1), (2, 511), (3, 4096), (4, 256 * 1024), (5, 256 * 1024 + 1), (6, 8 * 1024 * 1024 + 4097)]
    {
        let images = Images::new(seed, size, 12 * 1024 * 1024 - size);
        let folder = Folder::filled(&images);
        assert_eq!(folder.slot.verify().unwrap().kernel.size, size as u64);
    }
}

#[test]
fn progress_counts_every_byte_once() {
    struct Count(u64);
    impl Progress for Count {
        fn advance(&mut self, bytes: u64) {
            self.0 += bytes;
        }
    }
    impl Watch for Count {}
    let (folder, images, mut count) = (Folder::new(), small(), Count(0));
    let mut writer = folder.slot.writer().unwrap();
    writer.part(Part::Kernel, &blob(&images.kernel), &mut Pieces::of(&images.kernel), &mut count).unwrap();
    assert_eq!(count.0, images.kernel.len() as u64);
}

#[test]
fn a_slot_is_void_from_the_first_moment_of_a_write() {
    let folder = Folder::filled(&small());
    fs::write(folder.path("vmlinuz.part"), "left by a power cut").unwrap();
    let _writer = folder.slot.writer().unwrap();
    is_void(&folder.slot);
    assert_eq!(folder.names(), [""; 0]);
}

/// Until an image is proven it must not have the name that a bootloader would try as a last resort.
#[test]
fn an_image_has_its_name_only_once_it_is_proven() {
    struct Guard(PathBuf, usize);
    impl Watch for Guard {}
    impl Progress for Guard {
        fn advance(&mut self, _: u64) {
            assert!(!self.0.exists());
            self.1 += 1;
        }
    }
    let (folder, images) = (Folder::new(), small());
    let mut writer = folder.slot.writer().unwrap();
    let mut watch = Guard(folder.path("vmlinuz"), 0);
    writer.part(Part::Kernel, &blob(&images.kernel), &mut Pieces::of(&images.kernel), &mut watch).unwrap();
    assert!(watch.1 > 0 && folder.path("vmlinuz").exists() && !folder.path("vmlinuz.sha256").exists());
}

fn refused_part(body: &mut Pieces, images: &Images) -> Error {
    let folder = Folder::filled(&small());
    let mut writer = folder.slot.writer().unwrap();
    let error = writer.part(Part::Kernel, &blob(&images.kernel), body, &mut ()).unwrap_err();
    drop(writer);
    is_void(&folder.slot);
    assert_eq!(folder.names(), [""; 0], "nothing unproven is kept");
    error
}

#[test]
fn changed_bytes_are_refused_and_not_kept() {
    let images = small();
    let mut changed = images.kernel.clone();
    changed[299_999] ^= 1;
    let error = refused_part(&mut Pieces::of(&changed), &images);
    assert_eq!(error.reason, Reason::DigestMismatch);
    assert!(error.message.contains("vmlinuz") && error.message.contains(&blob(&changed).digest.to_string()), "{error}");
}

#[test]
fn too_few_and_too_many_bytes_are_refused() {
    let images = small();
    let error = refused_part(&mut Pieces::of(&images.kernel[..299_999]), &images);
    assert_eq!(error.reason, Reason::SizeMismatch);
    assert!(error.message.contains("299999 of 300000"), "{error}");
    let endless: Vec<u8> = images.kernel.iter().chain(&images.kernel).copied().collect();
    let error = refused_part(&mut Pieces::of(&endless), &images);
    assert_eq!(error.reason, Reason::SizeMismatch);
}

#[test]
fn a_lost_connection_keeps_its_own_exit_code() {
    let images = small();
    let error = refused_part(&mut Pieces::then_broken(&images.kernel[..1000]), &images);
    assert_eq!(error.reason, Reason::Unreachable);
}

#[test]
fn a_slot_cannot_be_finished_with_other_images_than_its_manifest_tells() {
    let (folder, images, other) = (Folder::new(), small(), Images::new(7, 10, 10));
    let mut writer = folder.slot.writer().unwrap();
    writer.part(Part::Kernel, &blob(&images.kernel), &mut Pieces::of(&images.kernel), &mut ()).unwrap();
    assert_eq!(writer.finish(&images.manifest("2.0.0")).unwrap_err().exit(), Exit::Internal);
    is_void(&folder.slot);
    assert_eq!(fill(&folder.slot, &other, &other.manifest("1.0.0")).map_err(|e| e.exit()), Ok(()));
}

#[test]
fn every_damage_to_a_filled_slot_is_found() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    for name in FILES {
        let folder = Folder::filled(&small());
        flip(&folder.path(name));
        assert_eq!(folder.slot.verify().unwrap_err().exit(), Exit::Data, "{name} changed");
        let folder = Folder::filled(&small());
        fs::remove_file(folder.path(name)).unwrap();
        let error = folder.slot.verify().unwrap_err();
        assert_eq!(error.reason, Reason::SlotIncomplete, "{name} removed");
        assert!(error.message.contains(name), "{error}");
        let folder = Folder::filled(&small());
        fs::File::options().write(true).open(folder.path(name)).unwrap().set_len(0).unwrap();
        assert_eq!(folder.slot.verify().unwrap_err().exit(), Exit::Data, "{name} emptied");
    }
}

#[test]
fn images_that_agree_with_their_hash_files_but_not_with_the_manifest_are_found() {
    let folder = Folder::filled(&small());
    let other = Images::new(9, 300_000, 1_000_001);
    fs::write(folder.path("vmlinuz"), &other.kernel).unwrap();
    fs::write(folder.path("vmlinuz.sha256"), Part::Kernel.hash_line(&blob(&other.kernel).digest)).unwrap();
    folder.slot.hashes().unwrap(); // all that the bootloader sees
    assert_eq!(folder.slot.verify().unwrap_err().reason, Reason::SlotDamaged);
}

#[test]
fn a_symbolic_link_in_a_slot_is_neither_read_nor_written_through() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    for name in FILES {
        let folder = Folder::filled(&small());
        fs::copy(folder.path(name), outside.path()).unwrap();
        fs::remove_file(folder.path(name)).unwrap();
        symlink(outside.path(), folder.path(name)).unwrap();
        let error = folder.slot.verify().unwrap_err();
        assert!(error.exit() == Exit::Data && error.message.contains("symbolic link"), "{error}");
    }
    let folder = Folder::new();
    fs::write(outside.path(), "precious").unwrap();
    for name in FILES {
        symlink(outside.path(), folder.path(name)).unwrap();
        symlink(outside.path(), folder.path(&format!("{name}.part"))).unwrap();
    }
    fill(&folder.slot, &small(), &small().manifest("2.0.0")).unwrap();
    assert_eq!(folder.names(), FILES);
    assert_eq!(fs::read(outside.path()).unwrap(), b"precious");
}

#[test]
fn a_fifo_in_a_slot_does_not_hold_the_agent_up() {
    let folder = Folder::filled(&small());
    fs::remove_file(folder.path("vmlinuz")).unwrap();
    nix::unistd::mkfifo(&folder.path("vmlinuz"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(folder.slot.verify().unwrap_err().message.contains("not a regular file"));
    assert_eq!(folder.slot.facts().unwrap().kernel, None);
}

fn locate(a: &str, b: &str) -> Result<Slots, Error> {
    let conf = Conf::parse(format!("slot_a={a}\nslot_b={b}\n").as_bytes(), "test.conf").unwrap();
    Slots::locate(&Config::resolve(&conf, &Overrides::default()).unwrap(), &System::default())
}

#[test]
fn what_is_no_folder_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink(dir.path().join("b"), dir.path().join("link")).unwrap();
    assert_eq!(locate(&at("a"), &at("b")).unwrap().b.place, Place::Folder(dir.path().join("b")));
    for (b, why) in [
        ("missing", "No such file"),
        ("file", "neither a folder nor a block device"),
        ("link", "symbolic link"),
        ("a", "same place"),
        ("b/../a", "same place"),
    ] {
        let error = locate(&at("a"), &at(b)).unwrap_err();
        assert!(error.exit() == Exit::Config && error.message.contains(why), "{b}: {error}");
        assert!(!error.remedy.is_empty(), "{b}");
    }
}

#[test]
fn room_is_asked_for_before_anything_is_erased_and_counts_the_old_images_as_free() {
    let folder = Folder::new();
    let Some(()) = mount_tmpfs(folder.dir.path(), "size=6m") else { return eprintln!("skipped: not root") };
    let old = Images::new(1, 1 << 20, 3 << 20);
    folder.slot.check_room(old.need()).unwrap();
    fill(&folder.slot, &old, &old.manifest("1.0.0")).unwrap();
    folder.slot.check_room(old.need()).unwrap();
    let error = folder.slot.check_room(6 << 20).unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace);
    let place = folder.dir.path().display().to_string();
    for part in [&place, "needs 7.0 MiB", "has 6.0 MiB ("] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    folder.slot.verify().unwrap();
    // A second name keeps the blocks of an image: they do not become free.
    fs::hard_link(folder.path("kubesolo-os.gz"), folder.path("kept")).unwrap();
    assert_eq!(folder.slot.check_room(old.need()).unwrap_err().reason, Reason::NoSpace);
}

#[test]
fn a_slot_that_runs_full_says_so_and_is_void() {
    let folder = Folder::new();
    let Some(()) = mount_tmpfs(folder.dir.path(), "size=2m") else { return eprintln!("skipped: not root") };
    let images = Images::new(1, 1 << 20, 3 << 20);
    let error = fill(&folder.slot, &images, &images.manifest("2.0.0")).unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace);
    assert!(error.message.contains("kubesolo-os.gz"), "{error}");
    is_void(&folder.slot);
    assert!(!folder.path("kubesolo-os.gz.part").exists());
}

#[test]
fn a_slot_without_room_for_its_manifest_is_emptied() {
    let folder = Folder::new();
    let Some(()) = mount_tmpfs(folder.dir.path(), "size=1m,nr_inodes=4") else { return eprintln!("skipped: not root") };
    let images = Images::new(1, 100, 100);
    let error = fill(&folder.slot, &images, &images.manifest("2.0.0")).unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_read_only_slot_is_refused_and_left_alone() {
    let folder = Folder::new();
    let Some(()) = mount_tmpfs(folder.dir.path(), "size=6m") else { return eprintln!("skipped: not root") };
    let images = small();
    fill(&folder.slot, &images, &images.manifest("1.0.0")).unwrap();
    use nix::mount::{MsFlags, mount};
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    // A child of another test has every open file of this process until it starts its program.
    while let Err(error) = mount(None::<&str>, folder.dir.path(), None::<&str>, read_only, None::<&str>) {
        assert_eq!(error, nix::errno::Errno::EBUSY);
        std::thread::yield_now();
    }
    for error in [folder.slot.check_room(10).unwrap_err(), folder.slot.writer().unwrap_err()] {
        assert_eq!(error.reason, Reason::ReadOnly, "{error}");
    }
    folder.slot.verify().unwrap();
}

#[test]
fn a_folder_of_somebody_else_is_refused_and_left_alone() {
    let images = small();
    let folder = Folder::filled(&images);
    let nobody = nix::unistd::Uid::from_raw(65534);
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: not root");
    }
    // Of this thread only: it loses the right to override permissions, too.
    nix::unistd::setfsuid(nobody);
    let error = folder.slot.writer().unwrap_err();
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
    assert_eq!(error.reason, Reason::NotPermitted, "{error}");
    folder.slot.verify().unwrap();
}

#[test]
fn a_slot_manifest_reads_back_what_was_written() {
    let manifest = small().manifest("2.0.0-rc.1+build.5");
    assert_eq!(SlotManifest::parse(&manifest.encode()).unwrap(), manifest);
    let release = manifest.release().unwrap();
    assert_eq!((release.version, release.kernel.blob().unwrap()), (manifest.version, manifest.kernel));
}

#[test]
fn a_slot_manifest_that_contradicts_its_signed_bytes_is_refused() {
    let manifest = small().manifest("2.0.0");
    let text = String::from_utf8(manifest.encode()).unwrap();
    let other = blob(b"other");
    for (from, to) in [
        ("\"2.0.0\"".to_owned(), "\"2.0.1\"".to_owned()),
        (manifest.digest.to_string(), other.digest.to_string()),
        (manifest.kernel.digest.to_string(), other.digest.to_string()),
        (manifest.initramfs.digest.to_string(), other.digest.to_string()),
        ("300000".to_owned(), "300001".to_owned()),
    ] {
        let changed = text.replacen(&from, &to, 1);
        assert_ne!(changed, text, "{from}");
        let error = SlotManifest::parse(changed.as_bytes()).unwrap_err();
        assert!(
            error.exit() == Exit::Data && error.message.contains("differs from the signed bytes"),
            "{from}: {error}"
        );
    }
}

#[test]
fn a_malformed_slot_manifest_is_refused() {
    let text = String::from_utf8(small().manifest("2.0.0").encode()).unwrap();
    let newer = text.replacen("\"schema\": 1", "\"schema\": 2", 1);
    assert_eq!(SlotManifest::parse(newer.as_bytes()).unwrap_err().reason, Reason::SlotNewerSchema);
    for changed in [
        String::new(),
        "{}".into(),
        text.clone() + "{}",
        text.replacen("\"schema\": 1", "\"schema\": 1, \"schema\": 1", 1),
        text.replacen("\"signed\": \"", "\"signed\": \"*", 1),
        text.replacen("\"signature\": \"", "\"signature\": \"AAAA", 1),
        text.replacen("application/vnd.oci.image.manifest.v1+json", "text/plain", 1),
        text.replacen("2026-03-04T", "someday", 1),
    ] {
        assert_ne!(changed, text);
        assert_eq!(SlotManifest::parse(changed.as_bytes()).unwrap_err().exit(), Exit::Data, "{changed:.60}");
    }
}

#[test]
fn an_oversized_slot_manifest_is_not_read() {
    let folder = Folder::filled(&small());
    fs::write(folder.path("manifest.json"), vec![b' '; 1 << 20]).unwrap();
    let error = folder.slot.manifest().unwrap_err();
    assert_eq!(error.reason, Reason::LimitExceeded);
    assert!(matches!(folder.slot.facts().unwrap().manifest, Some(Err(_))));
}

#[test]
fn the_largest_release_fits_its_slot_manifest() {
    let images = small();
    let mut offer = offer("2.0.0", &blob(&images.kernel), &blob(&images.initramfs));
    let room = 256 * 1024 - offer.signed.len();
    offer.signed.extend(std::iter::repeat_n(b' ', room));
    offer.release.digest = blob(&offer.signed).digest;
    offer.signatures = vec![offer.signatures[0].clone(); 16];
    let manifest =
        SlotManifest::new(&offer, [offer.release.kernel, offer.release.initramfs].map(|i| i.blob().unwrap()), now());
    assert_eq!(SlotManifest::parse(&manifest.encode()).unwrap(), manifest);
}
