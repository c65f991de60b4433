//! Servers that sign only the files.

use super::*;
use crate::cli_support::{self, Device};
use crate::common::key;
use bootenv::protocol::SlotState;

/// The documents of such a server: no signature, and no word of architecture or channel.
fn old(site: &Site) -> Site {
    let mut old = site.with(json!({"architecture": null, "channel": null, "security_epoch": 9}));
    old.files.remove("/os/latest.json.sig");
    old
}

fn tolerant() -> Device {
    let device = Device::new();
    device.write("conf", b"legacy_file_signatures=yes\n");
    device
}

#[test]
fn it_is_updated_from_when_the_settings_say_so_and_every_step_tells() {
    let site = old(&Site::small());
    let (server, device) = (site.serve(), tolerant());
    let check = device.over_http(&server, &["check", "--json"]).code(0);
    assert!(check.stderr.contains("legacy_file_signatures=yes"), "{check:?}");
    let offered = check.json()["offered"].clone();
    assert_eq!((&offered["claimed"], &offered["signed_by"]), (&json!(true), &json!([])));
    device.over_http(&server, &["check"]).code(0).says(&["signed:       claimed"]);
    device.over_http(&server, &["apply"]).code(0).says(&["1.0.0 is written into slot B"]);
    device.here(&["verify"]).says(&["slot B holds: 1.0.0, signed by"]);
    // Without the setting, what such a server gave is not activated; with it, its signatures are proven again.
    device.write("conf", b"");
    device.here(&["activate", "--json"]).refused(77, "signature-missing");
    device.write("conf", b"legacy_file_signatures=yes\n");
    device.save_key(&cli_support::key(2), "K");
    device.here(&["activate", "--json"]).refused(77, "signature-invalid");
    device.save_key(&cli_support::key(1), "K");
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    let before = server.requests().len();
    device.over_http(&server, &["apply"]).code(0).says(&["1.0.0 is running"]);
    assert_eq!(paths(&server)[before..], ["/os/latest.json"]);
}

#[test]
fn a_signature_of_the_document_is_still_enough_and_then_needed_to_fit() {
    let site = Site::small();
    let device = tolerant();
    let report = device.over_http(&site.serve(), &["check", "--json"]).code(0).json();
    assert_eq!(report["offered"].get("claimed"), None);
    let mut foreign = site.clone();
    foreign.put("latest.json.sig", &sign(&key(2), site.get("latest.json")));
    device.over_http(&foreign.serve(), &["apply", "--json"]).refused(77, "signature-unknown-key");
}

#[test]
fn what_is_signed_as_a_whole_since_is_written_again() {
    let (site, device) = (Site::small(), tolerant());
    let mut before = site.clone();
    before.files.remove("/os/latest.json.sig");
    device.over_http(&before.serve(), &["apply"]).code(0).says(&["written into slot B"]);
    device.write("conf", b"");
    device.here(&["activate", "--json"]).refused(77, "signature-missing");
    device.over_http(&site.serve(), &["apply"]).code(0).says(&["written into slot B"]);
    device.here(&["activate"]).code(0);
}

#[test]
fn a_missing_file_signature_costs_nothing_and_a_wrong_one_leaves_the_slot_void() {
    let site = old(&Site::small());
    let before = |device: &Device| (device.tree("A"), device.tree("B"), device.env_bytes());
    for name in ["vmlinuz", "kubesolo-os.gz"] {
        let file = format!("{name}.sig");
        let member = if name == "vmlinuz" { "vmlinuz_sig_url" } else { "initramfs_sig_url" };
        let mut unnamed = site.with(json!({member: null}));
        unnamed.files.remove("/os/latest.json.sig");
        for site in [site.without(&file), unnamed] {
            let device = tolerant();
            let untouched = before(&device);
            device.over_http(&site.serve(), &["apply", "--json"]).refused(77, "signature-missing");
            assert!(before(&device) == untouched);
        }
        // By another key, of other bytes, or with an R that fits anything.
        let mut weak = [0; 64];
        weak[0] = 1;
        for wrong in [sign(&key(2), site.get(name)), sign(&key(1), b"something else")] {
            let mut site = site.clone();
            site.put(&file, &wrong);
            let device = tolerant();
            device.over_http(&site.serve(), &["apply", "--json"]).refused(77, "signature-invalid");
            assert_eq!(device.env().b, SlotState::Void);
            assert!(device.names("B").iter().all(|name| name == "vmlinuz"), "{:?}", device.names("B"));
        }
        let mut weakly = site.clone();
        weakly.put(&file, &weak);
        let device = tolerant();
        let untouched = before(&device);
        device.over_http(&weakly.serve(), &["apply", "--json"]).refused(77, "signature-invalid");
        assert!(before(&device) == untouched);
    }
}

#[test]
fn a_file_changed_in_the_slot_after_it_was_written_is_not_activated() {
    let site = old(&Site::small());
    let device = tolerant();
    device.over_http(&site.serve(), &["apply"]).code(0);
    // With its hash file and manifest, as somebody who can write there would do it.
    let (was, is) = (Digest::of(b"kernel"), Digest::of(b"KERNEL"));
    device.write("B/vmlinuz", b"KERNEL");
    device.write("B/vmlinuz.sha256", format!("{}  vmlinuz\n", is.hex()).as_bytes());
    let manifest = std::fs::read_to_string(device.path("B/manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    let signed = BASE64.decode(manifest["signed"].as_str().unwrap()).unwrap();
    let signed = String::from_utf8(signed).unwrap().replace(&was.hex(), &is.hex());
    manifest["signed"] = BASE64.encode(&signed).into();
    manifest["release"] = Digest::of(signed.as_bytes()).to_string().into();
    manifest["kernel"]["digest"] = is.to_string().into();
    device.write("B/manifest.json", manifest.to_string().as_bytes());
    device.here(&["activate", "--json"]).refused(77, "signature-invalid");
}
