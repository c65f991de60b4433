//! Kernel arguments and device tree of a release, in its slot.

use crate::{cli_support, common, slot_support};

use std::fs;
use std::path::Path;
use std::process::Command;

use bootenv::extras::{ARGUMENTS, LIST, LIST_OF, TREE, UBOOT_BYTES};
use bootenv::grub::Block;
use bootenv::{SlotId, TrialId};
use cli_support::{Device, publish_as};
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_release::extras::Extras;
use kubesolo_update::base::error::Exit;
use kubesolo_update::device::slot::{Part, Place, Slot, SlotManifest};
use kubesolo_update::release::release::{DEVICETREE_TYPE, KERNEL_ARGS, Release};
use serde_json::{Value, json};
use slot_support::{Images, Pieces, blob, fill, now, offer};

const QUIET: &str = "quiet console=ttyS0,115200n8";
const BOARD: &[u8] = b"the bytes of a tree";

/// The manifest of a release with these additions.
fn manifest(images: &Images, arguments: Option<&str>, tree: Option<&[u8]>) -> SlotManifest {
    let blobs = [blob(&images.kernel), blob(&images.initramfs)];
    let mut offer = offer("2.0.0", &blobs[0], &blobs[1]);
    let mut document: Value = serde_json::from_slice(&offer.signed).unwrap();
    document["annotations"]["io.kubesolo.os.architecture"] = json!("arm64");
    if let Some(arguments) = arguments {
        document["annotations"][KERNEL_ARGS] = json!(arguments);
    }
    if let Some(tree) = tree.map(blob) {
        let layer = json!({"mediaType": DEVICETREE_TYPE, "digest": tree.digest.to_string(), "size": tree.size});
        document["layers"].as_array_mut().unwrap().push(layer);
    }
    offer.signed = document.to_string().into_bytes();
    offer.release = Release::from_oci_manifest(&offer.signed).unwrap();
    SlotManifest::new(&offer, blobs, now())
}

/// A slot with a release that adds something, in a folder.
fn filled(folder: &Path, checksums: bool, arguments: Option<&str>, tree: Option<&[u8]>) -> Slot {
    let slot = Slot { id: SlotId::B, place: Place::Folder(folder.to_owned()), checksums };
    let images = Images::new(1, 30_000, 100_001);
    let manifest = manifest(&images, arguments, tree);
    let mut writer = slot.writer().unwrap();
    writer.add_tree(tree.map(<[u8]>::to_vec));
    writer.part(Part::Kernel, &manifest.kernel, &mut Pieces::of(&images.kernel), &mut ()).unwrap();
    writer.part(Part::Initramfs, &manifest.initramfs, &mut Pieces::of(&images.initramfs), &mut ()).unwrap();
    writer.finish(&manifest).unwrap();
    slot
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_slot_has_what_its_release_adds_for_both_bootloaders() {
    let folder = tempfile::tempdir().unwrap();
    let slot = filled(folder.path(), false, Some(QUIET), Some(BOARD));
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read(TREE), BOARD);
    assert_eq!(Block::parse(&read(ARGUMENTS)).unwrap().get("ks_slot_args"), Some(QUIET));
    let check =
        |list| Command::new("sha256sum").args(["--check", "--strict", list]).current_dir(folder.path()).output();
    for (list, files) in [(LIST, 4), (LIST_OF, 2)] {
        let checked = check(list).unwrap();
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(String::from_utf8(checked.stdout).unwrap().lines().count(), files, "{list}");
    }
    assert!(slot.verify().unwrap().extras && slot.facts().unwrap().looks_complete());
    // The next writer takes them away before an image changes.
    drop(slot.writer().unwrap());
    assert_eq!(names(folder.path()), Vec::<String>::new());

    let slot = filled(folder.path(), true, None, Some(BOARD));
    assert_eq!((read(ARGUMENTS).len(), read(TREE).as_slice()), (UBOOT_BYTES, BOARD));
    assert!(!folder.path().join(LIST).exists());
    slot.verify().unwrap();
}

#[test]
fn a_slot_without_what_its_release_adds_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    for (checksums, names) in [(false, &[LIST, LIST_OF, ARGUMENTS, TREE][..]), (true, &[ARGUMENTS, TREE])] {
        for name in names {
            for damage in ["changed", "longer", "empty"] {
                let slot = filled(folder.path(), checksums, Some(QUIET), Some(BOARD));
                let path = folder.path().join(name);
                let mut bytes = fs::read(&path).unwrap();
                match damage {
                    "changed" => bytes[10] ^= 1,
                    "longer" => bytes.push(0),
                    _ => bytes.clear(),
                }
                fs::write(&path, bytes).unwrap();
                let refused = slot.verify().unwrap_err();
                assert_eq!(refused.exit(), Exit::Data, "{name} {damage}, checksums {checksums}: {refused}");
                // The list of hash files only matters once the other list is lost.
                assert_eq!(slot.hashes().is_ok(), *name == LIST_OF, "{name} {damage}, checksums {checksums}");
            }
            let slot = filled(folder.path(), checksums, Some(QUIET), Some(BOARD));
            fs::remove_file(folder.path().join(name)).unwrap();
            assert_eq!(slot.verify().unwrap_err().exit(), Exit::Data, "{name} missing, checksums {checksums}");
        }
    }
}

#[test]
fn what_an_older_agent_left_behind_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    for checksums in [false, true] {
        let slot = filled(folder.path(), checksums, Some(QUIET), Some(BOARD));
        let kept: Vec<_> = [ARGUMENTS, TREE, LIST, LIST_OF]
            .into_iter()
            .filter_map(|name| Some((name, fs::read(folder.path().join(name)).ok()?)))
            .collect();
        let images = Images::new(2, 30_001, 90_000);
        fill(&slot, &images, &images.manifest("3.0.0")).unwrap();
        for (name, bytes) in kept {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        assert!(!slot.verify().unwrap().extras);
        // The same where the older agent filled it with a release that adds something.
        let older = SlotManifest { extras: false, ..manifest(&images, Some("other=1"), None) };
        fs::write(folder.path().join("manifest.json"), older.encode()).unwrap();
        assert!(slot.verify().unwrap().lacks_extras());
    }
}

fn metadata(version: &str, arguments: Option<&str>) -> Metadata {
    let extras = Extras { kernel_args: arguments.map(|line| line.parse().unwrap()), ..Extras::default() };
    Metadata { extras, ..Metadata::new(version.parse().unwrap(), "stable") }
}

/// The bootloader's part: what the kernel of the chosen slot gets.
fn power_on(device: &Device) {
    let start = device.power_on().start.unwrap();
    let block = fs::read(device.path(&format!("{}/{ARGUMENTS}", start.slot))).ok();
    let release = block.and_then(|bytes| Some(Block::parse(&bytes).ok()?.get("ks_slot_args")?.to_owned()));
    let trial: TrialId = start.trial;
    let line = format!(
        "BOOT_IMAGE=/vmlinuz kubesolo.slot={} ks.trial={trial} ks.proto=1 ks.loader=1 panic=5 {} console=tty0\n",
        start.slot,
        release.unwrap_or_default()
    );
    device.write("cmdline", line.as_bytes());
}

fn origins(device: &Device) -> Value {
    device.here(&["status", "--json"]).code(0).json()["booted"]["kernel_command_line"].clone()
}

#[test]
fn arguments_are_on_trial_with_their_release_and_go_back_with_it() {
    let (registry, device) = (Registry::start(), Device::new());
    publish_as(&registry, 1, metadata("1.0.0", Some(QUIET)), "os:stable");
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    let shown = origins(&device);
    let parts = (&shown["loader_file"], &shown["release"], &shown["device"]);
    assert_eq!(parts, (&json!(1), &json!(QUIET), &json!("console=tty0")), "{shown}");
    device
        .here(&["status", "-v"])
        .code(0)
        .says(&["by release:   quiet console=ttyS0,115200n8", "by device:    console=tty0"]);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);

    // Another argument fails, and the old one is back.
    publish_as(&registry, 2, metadata("1.1.0", Some("panic_on_oops=1")), "os:stable");
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    assert_eq!(origins(&device)["release"], "panic_on_oops=1");
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    device.make_healthy();
    power_on(&device);
    assert_eq!(origins(&device)["release"], QUIET);
    device.here(&["verify"]).code(0).says(&["slot B holds"]);

    // A release that adds nothing leaves nothing.
    publish_as(&registry, 3, metadata("1.2.0", None), "os:stable");
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    assert_eq!(origins(&device).get("release"), None);
    assert!([ARGUMENTS, LIST, LIST_OF].iter().all(|name| !device.path(&format!("A/{name}")).exists()));
}

#[test]
fn the_same_images_with_other_arguments_are_another_release() {
    let (registry, device) = (Registry::start(), Device::new());
    publish_as(&registry, 1, metadata("1.0.0", Some("bad=1")), "os:stable");
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    power_on(&device);
    publish_as(&registry, 1, metadata("1.0.1", Some("bad=1")), "os:stable");
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    publish_as(&registry, 1, metadata("1.0.2", Some("good=1")), "os:stable");
    device.from(&registry, &["apply"]).code(0);
}

#[test]
fn a_release_that_an_older_agent_staged_is_written_again() {
    let (registry, device) = (Registry::start(), Device::new());
    publish_as(&registry, 1, metadata("1.0.0", Some(QUIET)), "os:stable");
    device.from(&registry, &["apply"]).code(0);
    let path = device.path("B/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(manifest.as_object_mut().unwrap().remove("extras"), Some(json!(true)));
    fs::write(&path, manifest.to_string()).unwrap();
    for name in [ARGUMENTS, LIST, LIST_OF] {
        fs::remove_file(device.path(&format!("B/{name}"))).unwrap();
    }
    device.here(&["activate", "--json"]).refused(75, "nothing-staged");
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert!(device.path(&format!("B/{LIST}")).exists());
}
