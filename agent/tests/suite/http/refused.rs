//! A device against a server that is wrong: exit code, reason, and the parts that stay untouched.

use std::fs;

use bootenv::SlotId;
use bootenv::protocol::SlotState;

use super::*;
use crate::cli_support::{self, Device, Tree};
use crate::common::fault::{Fault, chunk, head, reply};

/// A device whose free slot holds a release that is worth keeping.
fn with_staged() -> Device {
    let device = Device::new();
    let older = Site::new("0.1.0", b"old kernel", b"old initramfs").serve();
    device.over_http(&older, &["apply"]).code(0);
    device
}

fn things(device: &Device) -> (Tree, Tree, Vec<u8>) {
    (device.tree("A"), device.tree("B"), device.env_bytes())
}

/// `apply` is refused before anything is touched.
#[track_caller]
fn untouched(server: &Fault, code: i32, reason: &str) {
    let device = with_staged();
    let before = things(&device);
    let error = device.over_http(server, &["apply", "--json"]).refused(code, reason);
    assert!(error["remedy"].as_str().unwrap().contains("No slot was changed."), "{error}");
    assert!(things(&device) == before, "{error}");
    assert_eq!(device.phase(), "failed");
}

/// `apply` fails in the middle: the free slot is void, the other one boots.
#[track_caller]
fn void(server: &Fault, code: i32, reason: &str) {
    let device = with_staged();
    let active = device.tree("A");
    let error = device.over_http(server, &["apply", "--json"]).refused(code, reason);
    assert!(error["remedy"].as_str().unwrap().contains("Slot B is void; slot A is unchanged"), "{error}");
    assert!(device.tree("A") == active && device.env().b == SlotState::Void, "{error}");
    assert!(device.names("B").iter().all(|name| name == "vmlinuz"), "{:?}", device.names("B"));
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
}

#[test]
fn a_document_that_is_not_proven_costs_nothing_and_no_image_is_asked_for() {
    let site = Site::small();
    let mut foreign = site.clone();
    foreign.put("latest.json.sig", &sign(&key(2), site.get("latest.json")));
    let mut changed = site.clone();
    let raw = String::from_utf8(site.get("latest.json").to_vec()).unwrap().replace("1.0.0", "9.0.0");
    changed.put("latest.json", raw.as_bytes());
    let mut old_style = site.without("latest.json.sig").with(json!({"channel": null}));
    old_style.files.remove("/os/latest.json.sig");
    for (name, site, reason) in [
        ("no signature", site.without("latest.json.sig"), "signature-missing"),
        ("an unknown key", foreign, "signature-unknown-key"),
        ("a changed document", changed, "signature-unknown-key"),
        ("only the files are signed", old_style, "signature-missing"),
    ] {
        println!("{name}");
        let server = site.serve();
        untouched(&server, 77, reason);
        assert!(server.requests().iter().all(|r| r.path.contains("latest.json")), "{:?}", paths(&server));
    }
}

#[test]
fn a_document_that_is_wrong_or_of_another_device_costs_nothing() {
    let site = Site::small();
    let other = match Architecture::current() {
        Architecture::Amd64 => "arm64",
        Architecture::Arm64 => "amd64",
    };
    for (change, code, reason) in [
        (json!({"architecture": other}), 77, "wrong-architecture"),
        (json!({"architecture": null}), 65, "malformed-latest-json"),
        (json!({"vmlinuz_sha256": null}), 65, "malformed-latest-json"),
        (json!({"initramfs_sha256": ""}), 65, "malformed-latest-json"),
        (json!({"min_compatible_version": "0.0"}), 65, "malformed-version"),
    ] {
        println!("{change}");
        untouched(&site.with(change).serve(), code, reason);
    }
    untouched(&site.without("latest.json").serve(), 69, "not-found");
    let mut twice = site.clone();
    let raw = String::from_utf8(site.get("latest.json").to_vec()).unwrap();
    twice.put("latest.json", raw.replacen('{', "{\"version\":\"1.0.0\",", 1).as_bytes());
    let signature = sign(&key(1), twice.get("latest.json"));
    twice.put("latest.json.sig", &signature);
    untouched(&twice.serve(), 65, "malformed-json");
}

#[test]
fn images_that_are_not_there_or_too_large_are_known_before_anything_is_erased() {
    let site = Site::small();
    for image in ["vmlinuz", "kubesolo-os.gz"] {
        untouched(&site.without(image).serve(), 69, "not-found");
        let size = |size: u64| site.broken(image, move |_, out| head(out, 200, &format!("Content-Length: {size}\r\n")));
        untouched(&size(0), 65, "size-mismatch");
        untouched(&size((16 << 30) + 1), 65, "limit-exceeded");
    }
}

#[test]
fn room_is_asked_for_before_anything_is_fetched_or_erased() {
    let server = Site::new("1.0.0", b"kernel", &vec![7; 1_500_000]).serve();
    let device = Device::new();
    let url = format!("http://{}/os", server.address);
    let all = [&device.local(&["apply", "--json"])[..], &["--server", &url, "--pubkey", "K"]].concat();
    let before = (device.tree("A"), device.env_bytes());
    let Some(ran) = cli_support::on_tiny_slot(&device, "size=1M", &all, "echo kept >B/vmlinuz") else { return };
    ran.refused(73, "no-space");
    assert_eq!(fs::read_to_string(device.path("listing")).unwrap(), "vmlinuz\n");
    assert!((device.tree("A"), device.env_bytes()) == before);
    assert!(server.requests().iter().all(|r| r.method == "HEAD" || r.path.contains(".json")));
}

#[test]
fn an_image_that_is_not_the_signed_one_leaves_the_slot_void() {
    let site = Site::small();
    for image in ["vmlinuz", "kubesolo-os.gz"] {
        let mut changed = site.clone();
        let mut bytes = site.get(image).to_vec();
        bytes[0] ^= 1;
        changed.put(image, &bytes);
        void(&changed.serve(), 65, "digest-mismatch");
        // Shorter from the beginning, or by its own word in the middle.
        let mut short = site.clone();
        short.put(image, &bytes[1..]);
        void(&short.serve(), 65, "digest-mismatch");
    }
    let all = site.get("kubesolo-os.gz").to_vec();
    let short = all.clone();
    let early = site.broken("kubesolo-os.gz", move |request, out| match &request.method[..] {
        "HEAD" => reply(out, 200, "", &short),
        _ => {
            head(out, 200, "Transfer-Encoding: chunked\r\n");
            chunk(out, &short[1..]);
            chunk(out, b"");
        }
    });
    void(&early, 65, "size-mismatch");
    let endless = site.broken("kubesolo-os.gz", move |request, out| match &request.method[..] {
        "HEAD" => reply(out, 200, "", &all),
        _ => {
            head(out, 200, "Transfer-Encoding: chunked\r\n");
            chunk(out, &all);
            while chunk(out, &[0; 4096]) {}
        }
    });
    void(&endless, 65, "size-mismatch");
}

#[test]
fn a_server_without_tls_is_only_the_one_that_was_named() {
    let site = Site::small();
    let elsewhere = site.serve();
    let target = format!("Location: http://{}/os/latest.json\r\n", elsewhere.address);
    let server = site.broken("latest.json", move |_, out| reply(out, 302, &target, b""));
    untouched(&server, 69, "not-https");
    let url = format!("http://{}/os/vmlinuz", elsewhere.address);
    untouched(&site.with(json!({"vmlinuz_url": url})).serve(), 69, "not-https");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn a_document_that_differs_from_what_runs_in_name_only_is_another_release() {
    let device = Device::new();
    let site = Site::small();
    device.over_http(&site.serve(), &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    let before = things(&device);
    let server = site.with(json!({"release_notes": "new words"})).serve();
    device.over_http(&server, &["apply", "--json"]).refused(77, "same-version");
    // A slot whose manifest was changed does not stand in for what the server has.
    let manifest = fs::read_to_string(device.path("B/manifest.json")).unwrap();
    device.write("B/manifest.json", manifest.replace("1.0.0", "8.0.0").as_bytes());
    let check = device.over_http(&site.serve(), &["check", "--json"]).code(0).json();
    assert_eq!(check["offered"]["version"], "1.0.0", "{check}");
    device.write("B/manifest.json", manifest.as_bytes());
    assert_eq!((device.tree("A"), device.env_bytes()), (before.0, before.2));
    // Neither does one that the keys of this device do not vouch for.
    device.save_key(&cli_support::key(2), "K");
    device.over_http(&site.serve(), &["check", "--json"]).refused(77, "signature-unknown-key");
}
