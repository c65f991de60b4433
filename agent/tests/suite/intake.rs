//! Bundles that are examined before anything is touched, and the records of that.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use kubesolo_update::base::limits;
use kubesolo_update::release::release::{ARCHITECTURE, Architecture, BOARD, CHANNEL, VERSION};
use serde_json::{Value, json};

use crate::bundle::{File, blob_name, entries, files, from_bundle, good, plain, tar};
use crate::cli_support::before::{Before, Left};
use crate::cli_support::{Device, Ran};
use crate::common::fault::World;
use crate::common::{self};

fn examine(device: &Device, more: &[&str]) -> Ran {
    device
        .run(&[&device.local(&[&["intake", "add", "bundle.tar"][..], more].concat())[..], &["--pubkey", "K"]].concat())
}

/// Reasons of all findings.
fn reasons(record: &Value) -> Vec<&str> {
    let findings = record["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["reason"].as_str().unwrap()).collect()
}

fn without(files: Vec<File>, content: &[u8]) -> Vec<File> {
    files.into_iter().filter(|(name, ..)| *name != blob_name(content)).collect()
}

/// No slot and no boot environment changes.
fn untouched<T>(device: &Device, act: impl FnOnce() -> T) -> T {
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let result = act();
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    result
}

#[test]
fn all_findings_of_a_bundle_stand_in_one_record() {
    let device = Device::new();
    device.write("conf", b"channel=stable\nboard=edge-1\n");
    let mut manifest = common::manifest("1.0.0", Architecture::Amd64, b"kernel", &[7; 3000]);
    manifest["annotations"] = json!({VERSION: "1.0.0", ARCHITECTURE: "amd64", CHANNEL: "beta", BOARD: "other"});
    let world = World::of_manifest(&manifest, vec![7; 3000]);
    // No signature, no initramfs, another kernel; of another channel and board.
    let index = &entries(&world)[..1];
    let mut archive = without(without(files(&world, index), &[7; 3000]), b"kernel");
    archive.push((blob_name(b"kernel"), b'0', b"kernal".to_vec()));
    device.write("bundle.tar", &tar(&archive));

    let ran = untouched(&device, || examine(&device, &["--json"])).code(77);
    let record: Value = serde_json::from_str(&ran.stdout).unwrap();
    let expected = ["signature-missing", "other-channel", "other-board", "digest-mismatch", "not-found"];
    let found: BTreeSet<_> = reasons(&record).into_iter().collect();
    assert_eq!(found, BTreeSet::from(expected), "{record:#}");
    for finding in record["findings"].as_array().unwrap() {
        assert!(finding["exit_code"].as_u64().unwrap() >= 64, "{finding}");
        assert!(["message", "remedy"].iter().all(|text| !finding[text].as_str().unwrap().is_empty()), "{finding}");
    }
    assert_eq!(record["verdict"], "rejected");
    assert_eq!((&record["release"]["version"], &record["release"]["signed_by"]), (&json!("1.0.0"), &json!([])));
    assert!(["release", "kernel", "initramfs"].iter().all(|one| record["release"][one].is_string()), "{record:#}");
    assert_eq!(record["size"].as_u64().unwrap(), fs::metadata(device.path("bundle.tar")).unwrap().len());

    // The record is kept, for its owner alone, and shown to people.
    let id = record["id"].as_str().unwrap();
    assert_eq!(device.here(&["intake", "show", id, "--json"]).code(0).json(), record);
    let shown = device.here(&["intake", "show", id]).code(0);
    shown.says(&["rejected: bundle.tar", "77 other-board", "65 digest-mismatch", "not proven"]);
    device.here(&["intake", "list"]).code(0).says(&[id, "rejected", "1.0.0", "bundle.tar"]);
    let mode = |name: &str| fs::metadata(device.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("S/intake"), mode(&format!("S/intake/{id}.json"))), (0o700, 0o600));
    device.here(&["intake", "drop", id]).code(0);
    assert_eq!(device.here(&["intake", "list", "--json"]).code(0).json(), json!([]));
    device.here(&["intake", "show", id, "--json"]).refused(64, "usage");
    device.here(&["intake", "drop", "../state", "--json"]).refused(64, "usage");
}

#[test]
fn a_good_bundle_is_accepted_although_a_gate_holds_it_back() {
    let device = Device::new();
    device.write("bundle.tar", &tar(&good(&World::new(3000))));
    let record = untouched(&device, || examine(&device, &["--json"]).code(0).json());
    assert_eq!((&record["verdict"], &record["findings"]), (&json!("accepted"), &json!([])), "{record:#}");
    assert_eq!(record["release"]["signed_by"].as_array().unwrap().len(), 1, "{record:#}");

    device.write("conf", b"maintenance_window=00:00-00:00\n");
    let held = examine(&device, &["--json"]).code(0).json();
    assert_eq!((&held["verdict"], reasons(&held)), (&json!("accepted"), vec!["window"]), "{held:#}");
}

#[test]
fn apply_keeps_the_same_record_and_a_damaged_image_costs_no_slot() {
    let (device, world) = (Device::new(), World::new(3000));
    device.write("bundle.tar", &tar(&good(&World::new(5))));
    from_bundle(&device, &["apply"]).code(0);
    let last = || device.here(&["intake", "list", "--json"]).code(0).json().as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last()["verdict"], &last()["source"]), (&json!("accepted"), &json!("bundle.tar")));

    let mut damaged = world.initramfs.clone();
    damaged[2000] ^= 1;
    let mut archive = without(good(&world), &world.initramfs);
    archive.push((blob_name(&world.initramfs), b'0', damaged));
    device.write("bundle.tar", &tar(&archive));
    let before = Before::of(&device);
    let ran = from_bundle(&device, &["apply", "--json"]);
    before.holds(&device, ran, (65, "digest-mismatch"), &["the digest is"], Left::Untouched);
    assert_eq!((&last()["verdict"], reasons(&last())), (&json!("rejected"), vec!["digest-mismatch"]));
}

/// A file that is none of the device's architecture was damaged, too: the medium or the copy is bad.
#[test]
fn every_file_is_compared_with_its_digest_and_each_fault_stands_once() {
    let (device, world) = (Device::new(), World::new(3000));
    let other = plain(&blob_name(b"of another architecture"), b"damaged");
    device.write("bundle.tar", &tar(&[&good(&world)[..], &[other]].concat()));
    let record = examine(&device, &["--json"]).code(65).json();
    assert_eq!(reasons(&record), ["digest-mismatch"], "{record:#}");

    // The manifest itself: nothing else is known of the release.
    let mut archive = without(good(&world), &world.manifest);
    archive.push((blob_name(&world.manifest), b'0', b"{}".to_vec()));
    device.write("bundle.tar", &tar(&archive));
    let record = examine(&device, &["--json"]).code(65).json();
    assert!(record["release"].is_null() && record["verdict"] == "rejected", "{record:#}");
    device.write("bundle.tar", b"no archive");
    let record = examine(&device, &["--json"]).code(65).json();
    assert_eq!(reasons(&record), ["malformed-bundle"], "{record:#}");
    fs::remove_file(device.path("bundle.tar")).unwrap();
    let record = examine(&device, &["--json"]).code(69).json();
    assert!(reasons(&record) == ["bundle-unreadable"] && record["size"].is_null(), "{record:#}");
}

#[test]
fn records_are_bounded_and_a_damaged_one_hides_no_other() {
    let device = Device::new();
    device.write("bundle.tar", b"no archive");
    for _ in 0..limits::INTAKES + 3 {
        examine(&device, &[]).code(65);
    }
    let all = device.here(&["intake", "list", "--json"]).code(0).json();
    let all = all.as_array().unwrap();
    assert_eq!((all.len(), device.names("S/intake").len()), (limits::INTAKES, limits::INTAKES));
    let first = format!("S/intake/{}.json", all[0]["id"].as_str().unwrap());
    device.write(&first, b"{");
    let rest = device.here(&["intake", "list", "--json"]).code(0);
    assert!(rest.stderr.contains("is damaged"), "{rest:?}");
    assert_eq!(rest.json().as_array().unwrap().len(), limits::INTAKES - 1);
    // A link in the place of the folder is not followed.
    fs::remove_dir_all(device.path("S/intake")).unwrap();
    std::os::unix::fs::symlink(device.path("data"), device.path("S/intake")).unwrap();
    examine(&device, &["--json"]).refused(78, "state-unusable");
    assert_eq!(device.names("data"), Vec::<String>::new());
}
