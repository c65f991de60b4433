//! Receipts that were collected from devices.

use std::fs;
use std::path::Path;

use kubesolo_update::state::receipt::{RECEIPT_TYPE, Receipt, SignedReceipt};
use kubesolo_update::trust::device_key::DeviceKey;
use kubesolo_update::trust::signature::Fingerprint;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two devices, and a folder for what they say.
pub(crate) struct Fleet {
    pub(crate) dir: TempDir,
    keys: [DeviceKey; 2],
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let keys = ["a", "b"].map(|name| DeviceKey::load_or_make(&dir.path().join(name)).unwrap());
        fs::create_dir_all(dir.path().join("devices")).unwrap();
        fs::create_dir_all(dir.path().join("collected/stick")).unwrap();
        for (name, key) in ["edge-1.pub", "edge-2.pub"].into_iter().zip(&keys) {
            fs::write(dir.path().join("devices").join(name), key.public()).unwrap();
        }
        Self { dir, keys }
    }

    fn signed(&self, device: usize, version: &str, outcome: &str, day: u32) -> SignedReceipt {
        self.of(&self.keys[device], self.keys[device].device(), version, outcome, day)
    }

    fn of(&self, key: &DeviceKey, device: Fingerprint, version: &str, outcome: &str, day: u32) -> SignedReceipt {
        let said = json!({
            "type": RECEIPT_TYPE, "device": device, "release": format!("sha256:{}", "1a".repeat(32)), "version": version,
            "outcome": outcome, "trial": format!("0000{day:04x}"), "ended_at": format!("2026-03-{day:02}T04:00:00Z"),
            "agent": "0.2.0",
        });
        serde_json::from_value::<Receipt>(said).unwrap().sign(key).unwrap()
    }

    pub(crate) fn put(&self, name: &str, document: &impl serde::Serialize) {
        fs::write(self.path("collected").join(name), serde_json::to_vec(document).unwrap()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Good ones of both devices: files of a stick, and a list as `receipt --json` prints it.
    pub(crate) fn collect(&self) {
        self.put("stick/1.json", &self.signed(0, "1.0.0", "committed", 1));
        self.put("stick/2.json", &self.signed(0, "2.0.0", "failed", 2));
        self.put("of-edge-2.json", &[self.signed(1, "1.0.0", "committed", 1), self.signed(1, "2.0.0", "committed", 3)]);
        // The same receipt came twice.
        self.put("again.json", &self.signed(0, "1.0.0", "committed", 1));
        fs::write(self.path("collected/README"), "not read").unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let [collected, devices] = ["collected", "devices"].map(|name| self.path(name));
        let all = ["receipts", super::path(&collected), "--devices", super::path(&devices)];
        let output = super::run(&[&all[..], arguments].concat(), &[]);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn the_table_tells_which_device_has_what() {
    let fleet = Fleet::new();
    fleet.collect();
    let (code, text) = fleet.run(&[]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, 0, "{text}");
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[1][..4], ["edge-1", "1.0.0", "committed", "yes"], "{text}");
    assert_eq!(lines[2][..4], ["edge-1", "2.0.0", "failed", "no"], "{text}");
    assert_eq!(lines[3][..4], ["edge-2", "1.0.0", "committed", "no"], "{text}");
    assert_eq!(lines[4][..4], ["edge-2", "2.0.0", "committed", "yes"], "{text}");
    let (_, csv) = fleet.run(&["--csv"]);
    let first: Vec<_> = csv.split("\r\n").nth(1).unwrap().split(',').collect();
    assert_eq!(first[..5], ["edge-1", "1.0.0", "committed", "yes", "2026-03-01T04:00:00Z"], "{csv}");
    let (_, document) = fleet.run(&["--json"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((document["receipts"].as_array().unwrap().len(), &document["refused"]), (4, &json!([])));
}

/// The person who carries receipts may be the attacker.
#[test]
fn no_receipt_counts_that_its_device_did_not_sign() {
    let fleet = Fleet::new();
    let path = |name: &str| fleet.path(name);
    let refused = |reason: &str, code: i32| {
        let (found, document) = fleet.run(&["--json"]);
        // The error follows the table.
        let document: Value = serde_json::Deserializer::from_str(&document).into_iter().next().unwrap().unwrap();
        assert_eq!(document["receipts"], json!([]), "{document:#}");
        assert_eq!(document["refused"][0]["error"]["reason"], reason, "{document:#}");
        assert_eq!(found, code, "{document:#}");
    };
    let stranger = DeviceKey::load_or_make(&path("c")).unwrap();
    // A key that is not known, a known device that another key signed for, and a changed word.
    fleet.put("x.json", &fleet.of(&stranger, stranger.device(), "2.0.0", "committed", 1));
    refused("signature-unknown-key", 77);
    fleet.put("x.json", &fleet.of(&stranger, fleet.keys[0].device(), "2.0.0", "committed", 1));
    refused("signature-invalid", 77);
    let mut changed = serde_json::to_value(fleet.signed(0, "2.0.0", "failed", 1)).unwrap();
    changed["receipt"] = serde_json::to_value(fleet.signed(0, "2.0.0", "committed", 1)).unwrap()["receipt"].clone();
    fleet.put("x.json", &changed);
    refused("signature-invalid", 77);
    // Another document that the key may have signed.
    let mut other = serde_json::to_value(fleet.signed(0, "2.0.0", "failed", 1)).unwrap();
    other["receipt"] = json!("e30=");
    fleet.put("x.json", &other);
    refused("malformed-receipt", 65);
    fs::write(path("collected/x.json"), "{").unwrap();
    refused("malformed-receipt", 65);
    fs::write(path("collected/x.json"), vec![b' '; 300 * 1024]).unwrap();
    refused("limit-exceeded", 65);
}

#[test]
fn values_of_a_device_are_data_in_every_form() {
    let fleet = Fleet::new();
    fs::rename(fleet.path("devices/edge-1.pub"), fleet.path("devices/=cmd(),x.pub")).unwrap();
    fleet.put("x.json", &fleet.signed(0, "1.0.0\u{1b}[2J", "committed", 1));
    let (code, csv) = fleet.run(&["--csv"]);
    assert_eq!(code, 0, "{csv}");
    assert!(csv.contains("\" =cmd(),x\",1.0.0\\u{1b}[2J,committed"), "{csv:?}");
    assert!(!fleet.run(&[]).1.contains('\u{1b}'));
    let missing = |folder: &str| fs::remove_dir_all(Path::new(&fleet.path(folder))).unwrap();
    missing("collected");
    assert_eq!(fleet.run(&[]).0, 69);
}
