//! Receipts of trials: signed by the key of the device, kept, and written to the stick that the release came from.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kubesolo_update::base::limits;
use kubesolo_update::state::receipt::RECEIPT_TYPE;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli_support::{Device, publish};
use crate::common::registry::Registry;
use crate::disk::run;
use crate::sticks::{Bench, USB, bundle, stick};

const ON_STICK: &str = "kubesolo-receipts";

/// The receipts of a device, as it prints them.
fn receipts(device: &Device) -> Vec<Value> {
    device.here(&["receipt", "--json"]).code(0).json().as_array().unwrap().clone()
}

/// Verifies a receipt with openssl, and gives what it says.
fn verified(receipt: &Value, public: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let decoded = |member: &str| BASE64.decode(receipt[member].as_str().unwrap()).unwrap();
    fs::write(at("said"), decoded("receipt")).unwrap();
    fs::write(at("signature"), decoded("signature")).unwrap();
    // SubjectPublicKeyInfo of Ed25519 (RFC 8410, 4).
    let mut der = hex::decode("302a300506032b6570032100").unwrap();
    der.extend(hex::decode(public).unwrap());
    fs::write(at("key"), der).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey"]).arg(at("key"));
    let output = openssl.arg("-in").arg(at("said")).arg("-sigfile").arg(at("signature")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&fs::read(at("said")).unwrap()).unwrap()
}

fn public(device: &Device) -> String {
    device.here(&["status", "--json"]).json()["device_key"].as_str().unwrap().to_owned()
}

#[test]
fn each_trial_leaves_a_receipt_that_openssl_verifies() {
    let (registry, device) = (Registry::start(), Device::new());
    device.here(&["receipt"]).code(0).says(&["no receipt yet"]);
    assert!(device.here(&["status", "--json"]).json()["device_key"].is_null());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.fails_its_trial_and_is_back();

    let (all, public) = (receipts(&device), public(&device));
    let said: Vec<_> = all.iter().map(|receipt| verified(receipt, &public)).collect();
    let outcomes: Vec<_> = said.iter().map(|said| (said["version"].clone(), said["outcome"].clone())).collect();
    assert_eq!(outcomes, [(json!("1.0.0"), json!("committed")), (json!("2.0.0"), json!("failed"))]);
    let id = hex::encode(Sha256::digest(hex::decode(&public).unwrap()));
    for said in &said {
        assert_eq!((&said["type"], &said["device"]), (&json!(RECEIPT_TYPE), &json!(id)));
        assert_eq!(said["agent"], env!("CARGO_PKG_VERSION"));
        assert!(["release", "trial", "started_at", "ended_at"].iter().all(|one| said[one].is_string()), "{said:#}");
    }
    device.here(&["receipt"]).code(0).says(&["committed", "1.0.0", "failed", "2.0.0"]);
    let mode = |name: &str| fs::metadata(device.path(name)).unwrap().permissions().mode() & 0o777;
    let first = format!("S/receipts/{}.json", said[0]["trial"].as_str().unwrap());
    assert_eq!((mode("S/device.key"), mode("S/receipts"), mode(&first)), (0o600, 0o700, 0o600));
    // The key is one that openssl reads.
    run(Command::new("openssl").args(["pkey", "-noout", "-in"]).arg(device.path("S/device.key")));
}

/// The outcome does not depend on the receipt.
#[test]
fn a_damaged_key_costs_the_receipt_and_no_verdict() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    fs::write(device.path("S/device.key"), "damaged").unwrap();
    fs::set_permissions(device.path("S/device.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let ran = device.here(&["healthcheck"]).code(0);
    assert!(ran.stderr.contains("device.key is damaged"), "{ran:?}");
    ran.says(&["committed"]);
    assert_eq!(receipts(&device), Vec::<Value>::new());
    assert_eq!(fs::read(device.path("S/device.key")).unwrap(), b"damaged", "a person decides");
}

#[test]
fn receipts_are_bounded_and_a_damaged_one_hides_no_other() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let one = device.names("S/receipts")[0].clone();
    let text = fs::read_to_string(device.path(&format!("S/receipts/{one}"))).unwrap();
    let signed: Value = serde_json::from_str(&text).unwrap();
    let said: Value = serde_json::from_slice(&BASE64.decode(signed["receipt"].as_str().unwrap()).unwrap()).unwrap();
    for number in 0..limits::RECEIPTS + 5 {
        let mut other = (signed.clone(), said.clone());
        other.1["trial"] = json!(format!("{:08x}", number + 1));
        other.0["receipt"] = json!(BASE64.encode(other.1.to_string()));
        device.write(&format!("S/receipts/{:08x}.json", number + 1), other.0.to_string().as_bytes());
        run(Command::new("chmod").arg("600").arg(device.path(&format!("S/receipts/{:08x}.json", number + 1))));
    }
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(device.names("S/receipts").len(), limits::RECEIPTS);
    device.here(&["receipt"]).code(0).says(&["2.0.0"]);
    device.write("S/receipts/00000040.json", b"{");
    let ran = device.here(&["receipt", "--json"]).code(0);
    assert!(ran.stderr.contains("is damaged"), "{ran:?}");
    assert_eq!(ran.json().as_array().unwrap().len(), limits::RECEIPTS - 1);
}

/// A file of an ext4 image, read without a mount.
fn on_image(image: &Path, file: &str) -> Vec<u8> {
    let output = Command::new("debugfs").args(["-R", &format!("cat {file}")]).arg(image).output();
    output.unwrap().stdout
}

/// Names in the folder of receipts on an ext4 image.
fn names(image: &Path) -> Vec<String> {
    let output = Command::new("debugfs").args(["-R", &format!("ls -p {ON_STICK}")]).arg(image).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split('/').nth(5)).map(str::to_owned);
    names.filter(|name| !name.starts_with('.') && !name.is_empty()).collect()
}

const SETTINGS: &str = "auto=activate\nremovable_bundles=activate\nreceipts=yes\n";

/// A device with a release from this image on trial, which was committed.
fn committed(image: &Path) -> Option<Bench> {
    let mut bench = Bench::new(SETTINGS)?;
    bench.plug(USB, "sdb", image);
    assert_eq!(bench.run(&["stick", "sdb", "--json"]).code(0).json()["outcome"], "activated");
    bench.unplug("sdb");
    bench.device.power_on();
    bench.device.here(&["healthcheck"]).code(0).says(&["committed"]);
    fs::write(bench.machine.at("dev/console"), "").unwrap();
    Some(bench)
}

#[test]
fn the_receipt_goes_to_the_stick_that_the_release_came_from_once() {
    let image = stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0"))]);
    let Some(mut bench) = committed(image.path()) else { return };
    // Another stick gets nothing, and neither does this one as long as the settings say so.
    let other = stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0"))]);
    let unchanged = |bench: &mut Bench, image: &Path, settings: &str| {
        bench.device.write("conf", settings.as_bytes());
        let before = fs::read(image).unwrap();
        bench.plug(USB, "sdb", image);
        bench.run(&["stick", "sdb"]).code(0);
        bench.unplug("sdb");
        assert!(fs::read(image).unwrap() == before, "{settings}");
    };
    unchanged(&mut bench, other.path(), SETTINGS);
    unchanged(&mut bench, image.path(), &SETTINGS.replace("receipts=yes", "receipts=no"));

    // Also outside the window: it is no update.
    bench.device.write("conf", format!("{SETTINGS}maintenance_window=03:00-03:00\n").as_bytes());
    bench.plug(USB, "sdb", image.path());
    bench.run(&["stick", "sdb", "--json"]).refused(75, "window");
    bench.told(&["stick sdb: the receipt of 1.0.0 (committed) is written"]);
    bench.unplug("sdb");
    let receipt = &receipts(&bench.device)[0];
    let said = verified(receipt, &public(&bench.device));
    let name = format!("{}-{}.json", &said["device"].as_str().unwrap()[..16], said["trial"].as_str().unwrap());
    assert_eq!(names(image.path()), std::slice::from_ref(&name));
    let written: Value = serde_json::from_slice(&on_image(image.path(), &format!("{ON_STICK}/{name}"))).unwrap();
    assert_eq!(written, *receipt);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(image.path()));

    unchanged(&mut bench, image.path(), SETTINGS);
}

#[test]
fn a_stick_that_cannot_be_written_gets_its_receipt_later() {
    let image = stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0"))]);
    let Some(mut bench) = committed(image.path()) else { return };
    bench.plug_with(&["--read-only"], USB, "sdb", image.path());
    bench.run(&["stick", "sdb"]).code(0);
    bench.told(&["stick sdb: no receipt is written: ", "write-protected"]);
    bench.unplug("sdb");
    bench.plug(USB, "sdb", image.path());
    bench.run(&["stick", "sdb"]).code(0);
    bench.told(&["the receipt of 1.0.0 (committed) is written"]);
}

/// The folder of receipts on the stick is a link to a folder of the device.
#[test]
fn a_receipt_is_never_written_through_a_link_of_the_stick() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.tar"), bundle("1.0.0")).unwrap();
    symlink(outside.path(), folder.path().join(ON_STICK)).unwrap();
    let image = crate::sticks::ext4("KSOLOUPDATE", folder.path());
    let Some(mut bench) = committed(image.path()) else { return };
    bench.plug(USB, "sdb", image.path());
    bench.run(&["stick", "sdb"]).code(0);
    bench.told(&["stick sdb: no receipt is written: ", "symbolic link"]);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
