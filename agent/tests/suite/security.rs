//! Attacks from outside, each on the real program: refused with its exit code, and slots and boot environment as they were.
//! docs/security.md has one row for each, and names the test.

use crate::{cli_support, common};

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bootenv::SlotId;
use cli_support::before::{Before, Left, Left::Untouched, Left::Void};
use cli_support::{Device, Ran};
use common::fault::{self, Fault, Request, World};
use common::{bytes, cosign_payload, descriptor, index, key, key_id, manifest, referrers, sign, signature_manifest};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::limits;
use kubesolo_update::release::release::{self, Architecture, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE};
use kubesolo_update::release::statement::STATEMENT_TYPE;
use serde_json::{Value, json};

/// A device whose free slot holds a release that is worth keeping.
fn with_staged() -> Device {
    let device = Device::new();
    let older = World::new(5);
    device.from(&Fault::start(move |request, out| older.answer(request, out)), &["apply"]).code(0);
    device
}

/// The release of `world`, but for paths that contain `part`, which `answer` answers.
fn served(world: &World, part: &str, answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
    let (world, part) = (world.clone(), part.to_owned());
    Fault::start(move |request, out| match request.path.contains(&part) {
        true => answer(request, out),
        false => world.answer(request, out),
    })
}

#[track_caller]
fn refused_on(device: &Device, server: &Fault, expected: (i32, &str), words: &[&str], left: Left) {
    let before = Before::of(device);
    let ran = device.from(server, &["apply", "--json"]);
    before.holds(device, ran, expected, words, left);
}

/// The offer of `server` is refused like this.
#[track_caller]
fn refused(server: &Fault, expected: (i32, &str), words: &[&str], left: Left) {
    refused_on(&with_staged(), server, expected, words, left);
}

/// The offer of `world` is refused like this, before anything is touched.
#[track_caller]
fn refused_offer(world: &World, expected: (i32, &str), words: &[&str]) {
    refused(&served(world, "nothing", |_, _| ()), expected, words, Untouched);
}

/// Puts `raw` where the manifest is, with these signatures: bytes, and the key that they name.
fn offer(world: &mut World, raw: &[u8], signatures: &[(Vec<u8>, String)]) {
    world.manifest = raw.to_vec();
    world.manifest(raw);
    world.tag("stable", &bytes(&index(&[(&Architecture::current().to_string(), raw)])));
    let mut attached = vec![];
    for (signature, id) in signatures {
        let manifest = bytes(&signature_manifest(raw, signature, id));
        world.blob(signature);
        world.manifest(&manifest);
        attached.push(manifest);
    }
    let attached: Vec<&[u8]> = attached.iter().map(Vec::as_slice).collect();
    world.tag(&world.fallback_tag(), &bytes(&referrers(&attached)));
}

/// Signed by the key that the device knows.
fn signed(raw: &[u8]) -> Vec<(Vec<u8>, String)> {
    vec![(sign(&key(1), raw), key_id(&key(1)))]
}

/// A release that was changed before it was signed.
fn made(change: impl FnOnce(&mut Value)) -> World {
    let mut world = World::new(3000);
    let mut manifest = serde_json::from_slice(&world.manifest).unwrap();
    change(&mut manifest);
    let raw = bytes(&manifest);
    offer(&mut world, &raw, &signed(&raw));
    world
}

#[test]
fn documents_changed_on_the_way_are_refused() {
    let world = World::new(3000);
    let digest = Digest::of(&world.manifest).to_string();
    let mut changed: Value = serde_json::from_slice(&world.manifest).unwrap();
    changed["annotations"][release::VERSION] = json!("v9.0.0");
    let changed = bytes(&changed);
    let body = changed.clone();
    let server = served(&world, &format!("/manifests/{digest}"), move |_, out| {
        fault::reply(out, 200, &format!("Content-Type: {OCI_MANIFEST_TYPE}\r\n"), &body);
    });
    // Of the same size, so that only the digest differs.
    refused(&server, (65, "digest-mismatch"), &["manifest for amd64"], Untouched);
    let body = bytes(&index(&[("amd64", &changed)]));
    let header = format!("Content-Type: {OCI_INDEX_TYPE}\r\nDocker-Content-Digest: {}\r\n", Digest::of(b"other"));
    let server = served(&world, "/manifests/stable", move |_, out| fault::reply(out, 200, &header, &body));
    refused(&server, (65, "digest-mismatch"), &["os:stable"], Untouched);
    // An index that leads to it, in which all digests are right: nobody signed it.
    let mut forged = world.clone();
    offer(&mut forged, &changed, &[]);
    refused_offer(&forged, (77, "signature-missing"), &["not signed"]);
    let old = sign(&key(1), &world.manifest);
    offer(&mut forged, &changed, &[(old, key_id(&key(1)))]);
    refused_offer(&forged, (77, "signature-invalid"), &[&key_id(&key(1))]);
}

#[test]
fn signatures_that_prove_nothing_are_refused() {
    let world = World::new(3000);
    let raw = world.manifest.clone();
    let (good, id) = signed(&raw).remove(0);
    let with = |signatures: &[(Vec<u8>, String)]| {
        let mut world = world.clone();
        offer(&mut world, &raw, signatures);
        world
    };
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    // The same value of S with the order of the group added: what a lax verifier takes for a second signature.
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let (mut malleated, mut carry) = (good.clone(), 0);
    for (byte, add) in malleated[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    // R of small order, S zero: fits weak keys.
    let mut small = vec![0; 64];
    small[0] = 1;
    for (name, bytes, named, reason) in [
        ("a flipped bit", flipped, id.clone(), "signature-invalid"),
        ("a malleated one", malleated, id.clone(), "signature-invalid"),
        ("of small order", small, id.clone(), "signature-invalid"),
        ("zeros", vec![0; 64], id.clone(), "signature-invalid"),
        ("of something else", sign(&key(1), b"something else"), id.clone(), "signature-invalid"),
        ("by a stranger", sign(&key(2), &raw), key_id(&key(2)), "signature-unknown-key"),
        ("by a stranger in our name", sign(&key(2), &raw), id, "signature-invalid"),
    ] {
        println!("{name}");
        refused_offer(&with(&[(bytes, named)]), (77, reason), &[]);
    }
    let cosign = {
        let mut world = with(&[]);
        let payload = cosign_payload(b"another manifest");
        world.blob(&payload);
        let manifest = common::cosign_manifest(&[(&payload, &sign(&key(1), &payload))]);
        world.tag(&format!("{}.sig", world.fallback_tag()), &bytes(&manifest));
        world
    };
    refused_offer(&cosign, (77, "signature-missing"), &["not signed"]);
}

#[test]
fn parts_of_two_releases_are_not_mixed() {
    let world = World::new(3000);
    let other = made(|manifest| manifest["annotations"][release::VERSION] = json!("2.0.0"));
    // The image of another release in the place of one of this, of the same size.
    let mut swapped = world.initramfs.clone();
    swapped.rotate_left(4);
    let server = served(&world, &World::path(&world.initramfs), move |_, out| fault::reply(out, 200, "", &swapped));
    refused(&server, (65, "digest-mismatch"), &["slot B, kubesolo-os.gz"], Void);
    // The signatures of one release at the other.
    let mut mixed = other.clone();
    let list = world.files[&format!("/v2/os/manifests/{}", world.fallback_tag())].1.clone();
    mixed.files.extend(world.files.clone().into_iter().filter(|(path, _)| !path.ends_with("/stable")));
    mixed.tag(&other.fallback_tag(), &list);
    refused_offer(&mixed, (77, "signature-missing"), &["not signed"]);
    // A manifest put together from both, each part of it signed somewhere.
    let mut both: Value = serde_json::from_slice(&world.manifest).unwrap();
    both["annotations"] = serde_json::from_slice::<Value>(&other.manifest).unwrap()["annotations"].clone();
    both["layers"][0] = descriptor(release::KERNEL_TYPE, b"kerne2");
    let mut composed = world.clone();
    let signatures = [(sign(&key(1), &world.manifest), key_id(&key(1))), signed(&other.manifest).remove(0)];
    offer(&mut composed, &bytes(&both), &signatures);
    refused_offer(&composed, (77, "signature-invalid"), &[]);
}

#[test]
fn releases_for_other_devices_or_of_another_time_are_refused() {
    let annotated = |name: &'static str, value: &'static str| made(|m| m["annotations"][name] = json!(value));
    let here = Architecture::current().to_string();
    let other = if here == "amd64" { "arm64" } else { "amd64" };
    for (name, conf, world, expected, words) in [
        (
            "channel",
            "channel=stable\n",
            annotated(release::CHANNEL, "beta"),
            (77, "other-channel"),
            &["beta", "stable"][..],
        ),
        ("board", "board=rpi5\n", annotated(release::BOARD, "rpi4"), (77, "other-board"), &["rpi4", "rpi5"]),
        ("no board", "", annotated(release::BOARD, "rpi4"), (77, "other-board"), &["rpi4", "is not set"]),
        ("architecture", "", annotated(release::ARCHITECTURE, other), (77, "wrong-architecture"), &[other]),
        ("minimum", "", annotated(release::MIN_COMPATIBLE_VERSION, "0.9.0"), (77, "too-old"), &["0.9.0", "0.5.0"]),
        ("older", "", annotated(release::VERSION, "0.4.9"), (77, "downgrade"), &["0.4.9", "0.5.0"]),
        ("pre-release", "", annotated(release::VERSION, "0.5.0-rc1"), (77, "downgrade"), &["0.5.0-rc1"]),
    ] {
        println!("{name}");
        let device = with_staged();
        device.write("version", b"0.5.0");
        device.write("conf", format!("version_file=version\n{conf}").as_bytes());
        refused_on(&device, &served(&world, "nothing", |_, _| ()), expected, words, Untouched);
        device.from(&served(&world, "nothing", |_, _| ()), &["check"]);
    }
    let device = with_staged();
    device.write("conf", b"board=rpi4\n");
    device.from(&served(&annotated(release::BOARD, "rpi4"), "nothing", |_, _| ()), &["apply"]).code(0);
}

#[test]
fn a_tag_that_moves_gains_nothing() {
    let world = World::new(3000);
    let other = {
        let mut other = World::new(4000);
        let raw = other.manifest.clone();
        offer(&mut other, &raw, &[]);
        other
    };
    let now = Arc::new(Mutex::new(world.clone()));
    let shown = now.clone();
    let server = Fault::start(move |request, out| shown.lock().unwrap().answer(request, out));
    // Between check and apply: `apply` judges its own offer again.
    let device = with_staged();
    device.from(&server, &["check"]).code(0).says(&["signed:"]);
    *now.lock().unwrap() = other.clone();
    refused_on(&device, &server, (77, "signature-missing"), &["not signed"], Untouched);
    // Between apply and activate: what was written is activated, and nobody is asked.
    *now.lock().unwrap() = world.clone();
    device.from(&server, &["apply"]).code(0);
    *now.lock().unwrap() = other.clone();
    let asked = server.requests().len();
    let digest = device.here(&["activate", "--json"]).code(0).json()["digest"].clone();
    assert_eq!((digest, server.requests().len()), (json!(Digest::of(&world.manifest)), asked));
    // While it is applied: the tag is read once, and all else goes by digest.
    let (first, then) = (world.clone(), other);
    let server = Fault::start(move |request, out| match request.path.ends_with("/stable") && request.earlier > 0 {
        true => then.answer(request, out),
        false => first.answer(request, out),
    });
    let device = with_staged();
    device.from(&server, &["apply"]).code(0);
    let read = |r: &&Request| r.method == "GET" && r.path.ends_with("/manifests/stable");
    assert_eq!(server.requests().iter().filter(read).count(), 1);
    let content: Value = serde_json::from_slice(&fs::read(device.path("B/manifest.json")).unwrap()).unwrap();
    assert_eq!(content["release"], json!(Digest::of(&world.manifest)));
}

/// A writer of the slot has root; still, the content is proven again before it can boot.
#[test]
fn a_slot_changed_between_apply_and_activate_is_not_activated() {
    let change = |device: &Device, change: &dyn Fn(&mut Value)| {
        let mut content: Value = serde_json::from_slice(&fs::read(device.path("B/manifest.json")).unwrap()).unwrap();
        change(&mut content);
        device.write("B/manifest.json", content.to_string().as_bytes());
    };
    let other = World::new(4000);
    let encoded = |raw: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, raw);
    type Change<'a> = Box<dyn Fn(&Device) + 'a>;
    let cases: Vec<(&str, i32, Change<'_>)> = vec![
        ("kernel", 65, Box::new(|device| device.write("B/vmlinuz", b"kernex"))),
        (
            "kernel and its hash file",
            65,
            Box::new(|device| {
                device.write("B/vmlinuz", b"kernex");
                device.write("B/vmlinuz.sha256", format!("{}  vmlinuz\n", Digest::of(b"kernex").hex()).as_bytes());
            }),
        ),
        ("no signatures", 77, Box::new(|device| change(device, &|c| c["signatures"] = json!([])))),
        ("signed bytes", 65, Box::new(|device| change(device, &|c| c["signed"] = json!(encoded(&other.manifest))))),
        (
            "another type",
            65,
            Box::new(|device| change(device, &|c| c["signed_type"] = json!(release::LATEST_JSON_TYPE))),
        ),
        ("another key", 77, Box::new(|device| device.save_key(&cli_support::key(2), "K"))),
    ];
    for (name, code, change) in cases {
        println!("{name}");
        let device = with_staged();
        change(&device);
        let before = (device.tree("A"), device.tree("B"), device.env_bytes());
        let ran = device.here(&["activate", "--json"]).code(code);
        assert!(!ran.json()["error"]["remedy"].as_str().unwrap().is_empty(), "{ran:?}");
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before, "{name}");
    }
}

#[test]
fn answers_without_end_or_measure_are_refused() {
    let world = World::new(3000);
    let endless = |part: &str| {
        served(&world, part, |_, out| {
            fault::head(out, 200, &format!("Content-Type: {OCI_INDEX_TYPE}\r\nTransfer-Encoding: chunked\r\n"));
            while fault::chunk(out, &[b' '; 65536]) {}
        })
    };
    let exceeded = (65, "limit-exceeded");
    for part in ["/manifests/stable", &Digest::of(&world.manifest).to_string(), &world.fallback_tag()] {
        println!("endless {part}");
        refused(&endless(part), exceeded, &["bytes"], Untouched);
    }
    let annotations = |count: usize| {
        made(|manifest| {
            for n in 3..count {
                manifest["annotations"][format!("x{n}")] = json!("");
            }
        })
    };
    let layers = |count: usize| {
        made(|manifest| {
            let more = descriptor("application/x", b"x");
            manifest["layers"].as_array_mut().unwrap().resize(count, more);
        })
    };
    let long = |name: &'static str, size: usize| made(|m| m["annotations"][name] = json!("x".repeat(size)));
    let entries = |count: usize| {
        let mut world = world.clone();
        let mut all = index(&[("amd64", &world.manifest)]);
        let mut foreign = all["manifests"][0].clone();
        foreign["platform"]["architecture"] = json!("riscv64");
        all["manifests"].as_array_mut().unwrap().resize(count, foreign);
        world.tag("stable", &bytes(&all));
        world
    };
    let hidden = |count: usize| {
        let mut world = world.clone();
        let mut list: Value =
            serde_json::from_slice(&world.files[&format!("/v2/os/manifests/{}", world.fallback_tag())].1).unwrap();
        let mut other = list["manifests"][0].clone();
        other["artifactType"] = json!("application/spdx+json");
        for _ in 1..count {
            list["manifests"].as_array_mut().unwrap().insert(0, other.clone());
        }
        world.tag(&world.fallback_tag(), &bytes(&list));
        world
    };
    let signatures = |count: u8| {
        let mut world = world.clone();
        let raw = world.manifest.clone();
        let all: Vec<_> = (1..=count).map(|seed| (sign(&key(seed), &raw), key_id(&key(seed)))).collect();
        offer(&mut world, &raw, &all);
        world
    };
    let nested = |depth: usize| made(|m| m["x"] = (1..depth).fold(json!(1), |inner, _| json!([inner])));
    let of_size = |size: u64| made(|m| m["layers"][1]["size"] = json!(size));
    // The last that is taken, and one more.
    for (name, last, more, words) in [
        ("annotations", annotations(limits::ANNOTATIONS), annotations(limits::ANNOTATIONS + 1), "64 annotations"),
        ("layers", layers(limits::MANIFEST_LAYERS), layers(limits::MANIFEST_LAYERS + 1), "16 layers"),
        ("an annotation", long("x", limits::ANNOTATION_BYTES), long("x", limits::ANNOTATION_BYTES + 1), "4096 bytes"),
        (
            "notes",
            long(release::RELEASE_NOTES, limits::RELEASE_NOTES_BYTES),
            long(release::RELEASE_NOTES, limits::RELEASE_NOTES_BYTES + 1),
            "16384 bytes",
        ),
        ("an index", entries(limits::INDEX_ENTRIES), entries(limits::INDEX_ENTRIES + 1), "64 entries"),
    ] {
        println!("{name}");
        let device = with_staged();
        device.from(&served(&last, "nothing", |_, _| ()), &["apply"]).code(0);
        refused_offer(&more, exceeded, &[words]);
    }
    // Lists of referrers are bounded by their bytes alone. Those of other kinds, and of other keys, hide nothing.
    for most in [hidden(900), signatures(200)] {
        with_staged().from(&served(&most, "nothing", |_, _| ()), &["apply"]).code(0);
    }
    refused_offer(&hidden(5000), exceeded, &[]);
    refused_offer(&long(release::VERSION, limits::VERSION_BYTES + 1), exceeded, &["version", "128 bytes"]);
    refused_offer(&of_size(limits::IMAGE_BYTES + 1), exceeded, &["initramfs"]);
    refused_offer(&of_size(0), (65, "malformed-manifest"), &["is empty"]);
    let device = with_staged();
    device.from(&served(&nested(limits::JSON_DEPTH), "nothing", |_, _| ()), &["apply"]).code(0);
    refused_offer(&nested(limits::JSON_DEPTH + 1), (65, "malformed-json"), &["nested"]);
    // Nobody reads it, and still no two programs may read it differently.
    let twice = [br#"{"x":1,"x":2,"#, &world.files["/v2/os/manifests/stable"].1[1..]].concat();
    for wrong in [b"[".repeat(200_000), br#"{"a":"#.repeat(40_000), twice] {
        let mut world = world.clone();
        world.tag("stable", &wrong);
        refused_offer(&world, (65, "malformed-json"), &["os:stable"]);
    }
}

#[test]
fn redirects_lead_nowhere_else() {
    let world = World::new(3000);
    let elsewhere = Fault::start(|_, out| fault::reply(out, 404, "", b""));
    let to = |location: String| {
        served(&world, "/manifests/stable", move |_, out| {
            fault::reply(out, 302, &format!("Location: {location}\r\n"), b"");
        })
    };
    for (name, location, expected, words) in [
        ("a circle", "/v2/os/manifests/stable".to_owned(), (65, "limit-exceeded"), &["5 redirects"][..]),
        ("a server without TLS", format!("http://{}/x", elsewhere.address), (69, "not-https"), &["has no TLS"]),
        ("a file", "file:///etc/passwd".to_owned(), (65, "bad-redirect"), &["without host"]),
        ("nothing", "http://".to_owned(), (65, "bad-redirect"), &["an invalid URL"]),
        ("another protocol", "ftp://127.0.0.1/x".to_owned(), (69, "not-https"), &["has no TLS"]),
        ("a terminal", "http://\x1b[2J/".to_owned(), (69, "unreachable"), &["invalid HTTP header"]),
    ] {
        println!("{name}");
        refused(&to(location), expected, words, Untouched);
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn foreign_urls_of_layers_are_not_asked() {
    let elsewhere = Fault::start(|_, out| fault::reply(out, 200, "", b"kernel"));
    let url = format!("http://{}/kernel", elsewhere.address);
    let mut world = made(|manifest| manifest["layers"][0]["urls"] = json!([url]));
    world.files.remove(&World::path(b"kernel"));
    refused_offer(&world, (69, "not-found"), &["answers 404"]);
    assert!(elsewhere.requests().is_empty());
}

/// All of these are signed by the key that the device knows: only the type differs.
#[test]
fn nothing_signed_passes_for_something_else() {
    let world = World::new(3000);
    let now = "2026-11-21T00:00:00Z";
    let statement = json!({
        "type": STATEMENT_TYPE, "channel": "stable", "serial": 1, "issued": now, "not_after": "2099-01-01T00:00:00Z",
        "digests": {"amd64": Digest::of(&world.manifest)},
    });
    let latest = json!({
        "version": "9.0.0", "channel": "stable", "architecture": Architecture::current().to_string(),
        "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": Digest::of(b"kernel").hex(),
        "initramfs_url": "initramfs", "initramfs_sha256": Digest::of(&world.initramfs).hex(),
    });
    let attached = signature_manifest(&world.manifest, &[7; 64], "0");
    let mut about = manifest("9.0.0", Architecture::current(), b"kernel", &world.initramfs);
    about["subject"] = descriptor(OCI_MANIFEST_TYPE, &world.manifest);
    let own_index = index(&[("amd64", &world.manifest)]);
    for (name, document) in [
        ("a statement of freshness", bytes(&statement)),
        ("latest.json", bytes(&latest)),
        ("a signature", bytes(&attached)),
        ("a manifest about another", bytes(&about)),
        ("an index", bytes(&own_index)),
        ("what cosign signs", cosign_payload(&world.manifest)),
    ] {
        println!("{name} as a manifest");
        let mut world = world.clone();
        offer(&mut world, &document, &signed(&document));
        let device = with_staged();
        let before = Before::of(&device);
        let ran = device.from(&served(&world, "nothing", |_, _| ()), &["apply", "--json"]);
        let reason = ran.json()["error"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("malformed-"), "{reason}");
        before.holds(&device, ran, (65, &reason), &[], Untouched);
    }
    for (name, document) in [
        ("a statement of freshness", bytes(&statement)),
        ("a manifest", world.manifest.clone()),
        ("an index", bytes(&own_index)),
        ("what cosign signs", cosign_payload(&world.manifest)),
    ] {
        println!("{name} as latest.json");
        let signature = sign(&key(1), &document);
        let server = Fault::start(move |request, out| match request.path.as_str() {
            "/os/latest.json" => fault::reply(out, 200, "", &document),
            "/os/latest.json.sig" => fault::reply(out, 200, "", &signature),
            _ => fault::reply(out, 404, "", b""),
        });
        let device = with_staged();
        let before = Before::of(&device);
        let ran = device.over_http(&server, &["apply", "--json"]);
        before.holds(&device, ran, (65, "malformed-latest-json"), &[], Untouched);
    }
}

/// Characters that act on a terminal, begin a new line in a log, or end a string.
const HOSTILE: &str = "\u{1b}]0;x\u{7}\u{1b}[2J\r\nactive_slot=B\n\u{0}\u{9b}31m\u{202e}\u{7f}'\"`$(reboot)";

#[track_caller]
fn printable(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert!(text.bytes().all(|b| b == b'\n' || matches!(b, b' '..=b'~')), "{ran:?}");
    }
    assert!(!ran.stdout.lines().chain(ran.stderr.lines()).any(|line| line.starts_with("active_slot")), "{ran:?}");
}

#[test]
fn texts_from_outside_act_on_nothing() {
    // In what is installed all the same: notes, date, and whatever the image's maker wrote there.
    let names = [release::RELEASE_NOTES, release::RELEASE_DATE, "io.example\u{1b}[2J\n"];
    let world = made(|manifest| names.iter().for_each(|name| manifest["annotations"][*name] = json!(HOSTILE)));
    let server = served(&world, "nothing", |_, _| ());
    let device = with_staged();
    let commands: [&[&str]; 4] = [&["check"], &["check", "--json"], &["-vv", "apply"], &["apply", "--json"]];
    for arguments in commands {
        printable(&device.from(&server, arguments).code(0));
    }
    for command in ["activate", "status", "history", "metrics", "verify"] {
        printable(&device.here(&[command]).code(0));
    }
    for command in ["status", "history", "verify"] {
        printable(&device.here(&[command, "--json"]).code(0));
    }
    let env = device.env();
    assert_eq!((env.active, env.good), (SlotId::B, SlotId::A), "as the activation set it");
    let lines = device.env_bytes().split(|b| *b == b'\n').filter(|l| l.starts_with(b"active_slot")).count();
    assert_eq!(lines, 1);
    assert_eq!(fs::read_dir(device.path("B")).unwrap().count(), 5, "no file of a name from outside");

    // In what is refused: wherever a message quotes it.
    let annotated = |name: &'static str| made(|manifest| manifest["annotations"][name] = json!(HOSTILE));
    for (name, reason) in [
        (release::VERSION, (65, "malformed-version")),
        (release::CHANNEL, (77, "other-channel")),
        (release::ARCHITECTURE, (77, "wrong-architecture")),
        (release::MIN_COMPATIBLE_VERSION, (65, "malformed-version")),
        (release::SECURITY_EPOCH, (65, "malformed-manifest")),
        (release::BOARD, (77, "other-board")),
    ] {
        println!("{name}");
        let device = with_staged();
        device.write("conf", b"channel=stable\nboard=b\n");
        let server = served(&annotated(name), "nothing", |_, _| ());
        printable(&device.from(&server, &["-vv", "check"]));
        let before = Before::of(&device);
        let ran = device.from(&server, &["apply", "--json"]);
        printable(&ran);
        before.holds(&device, ran, reason, &[], Untouched);
        for arguments in [&["status"][..], &["status", "--json"], &["history"], &["metrics"]] {
            printable(&device.here(arguments).code(0));
        }
    }
    // The body of an error, and the names of keys.
    let server = served(&world, "/manifests/stable", |_, out| fault::reply(out, 403, "", HOSTILE.as_bytes()));
    printable(&device.from(&server, &["-vv", "apply"]).code(69));
    let mut named = World::new(3000);
    let raw = named.manifest.clone();
    offer(&mut named, &raw, &[(sign(&key(2), &raw), HOSTILE.into())]);
    printable(&with_staged().from(&served(&named, "nothing", |_, _| ()), &["-vv", "apply"]).code(77));
}

/// Every path that a whole update opens for writing, makes or renames to, as strace saw it.
fn written(device: &Device, server: &Fault) -> BTreeSet<PathBuf> {
    let calls = "trace=openat,open,creat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat";
    let root = device.dir.path().canonicalize().unwrap();
    let mut paths = BTreeSet::new();
    for arguments in [
        [&device.asking(server, &["apply", "--activate"])[..], &["--pubkey", "K"]].concat(),
        device.local(&["rollback"]),
    ] {
        let ran = Command::new("strace")
            .args(["-f", "-y", "-o", "trace", "-e", calls, env!("CARGO_BIN_EXE_kubesolo-update")])
            .args(arguments)
            .current_dir(&root)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let trace = fs::read_to_string(root.join("trace")).unwrap();
        for line in trace.lines().filter(|line| !line.contains("O_RDONLY") && !line.contains("ENOENT")) {
            // renameat(5</folder>, "name", 5</folder>, "name"): each name belongs to the folder before it.
            let mut folder = root.clone();
            for (n, part) in line.split('"').enumerate() {
                match part.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')) {
                    Some((before, _)) if n % 2 == 0 => folder = root.join(before),
                    _ if n % 2 == 1 => drop(paths.insert(folder.join(part))),
                    _ => {}
                }
            }
        }
    }
    paths.into_iter().filter_map(|path| Some(path.strip_prefix(&root).ok()?.to_owned())).collect()
}

/// `/dev/urandom` and GRND_NONBLOCK also give bytes before the kernel has entropy: early in the first boot, every device of
/// a kind would get the same ids.
#[test]
fn ids_wait_for_the_entropy_of_the_kernel() {
    let (world, device) = (World::new(3000), Device::new());
    let server = served(&world, "nothing", |_, _| ());
    let ran = Command::new("strace")
        .args(["-f", "-o", "trace", "-e", "trace=getrandom,openat,open", env!("CARGO_BIN_EXE_kubesolo-update")])
        .args(device.asking(&server, &["apply", "--activate", "--pubkey", "K"]))
        .current_dir(&device.dir)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let trace = fs::read_to_string(device.path("trace")).unwrap();
    assert!(!trace.contains("urandom"), "{trace}");
    let waiting = trace.lines().filter(|line| line.contains("getrandom(") && line.contains(", 4, 0)"));
    assert!(waiting.count() >= 2, "the attempt and the trial: {trace}");
}

/// Somebody else's links where files will be: nothing is written through them.
#[test]
fn links_at_every_path_that_is_written_lead_nowhere() {
    let world = World::new(3000);
    let server = served(&world, "nothing", |_, _| ());
    let paths = written(&Device::new(), &server);
    let names: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    println!("{names:?}");
    for expected in ["B/vmlinuz", "B/manifest.json", "S/state.json", "grubenv", "ksenv2"] {
        assert!(names.contains(&Path::new(expected)), "{expected} in {names:?}");
    }
    for path in names {
        for target in ["victim", "absent"] {
            let device = Device::new();
            device.write("victim", b"precious");
            let link = device.path(path.to_str().unwrap());
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            match fs::symlink_metadata(&link) {
                Ok(meta) if meta.is_dir() => continue,
                Ok(_) => fs::remove_file(&link).unwrap(),
                Err(_) => {}
            }
            std::os::unix::fs::symlink(device.path(target), &link).unwrap();
            let ran = device.from(&server, &["apply", "--activate"]);
            assert!(matches!(ran.code, Some(0 | 73 | 78)), "{}: {ran:?}", path.display());
            assert_eq!(fs::read(device.path("victim")).unwrap(), b"precious", "{}", path.display());
            assert!(!device.path("absent").exists(), "{} made what it points to", path.display());
        }
    }
}

#[test]
fn secrets_in_urls_are_in_no_message() {
    let world = World::new(3000);
    let server = served(&world, "/manifests/stable", |_, out| {
        fault::reply(out, 302, "Location: http://user:s3cret@127.0.0.1:9/x?X-Amz-Signature=s3cret\r\n", b"");
    });
    let device = with_staged();
    let mut said = vec![device.from(&server, &["-vvv", "apply", "--plain-http", "127.0.0.1:9"])];
    for place in ["https://user:s3cret@127.0.0.1:9/os", "https://127.0.0.1:9/os?token=s3cret"] {
        let arguments = device.local(&["-vvv", "apply", "--json", "--server", place, "--pubkey", "K"]);
        said.push(device.run(&arguments).code(78));
    }
    let reference = device.local(&["apply", "--json", "--registry", "user:s3cret@127.0.0.1:9/os", "--pubkey", "K"]);
    said.push(device.run(&reference).code(78));
    let proxied = device.local(&["-vvv", "apply", "--registry", "r.example:1/os", "--pubkey", "K"]);
    let mut command = device.command(&proxied);
    said.push(command.env("HTTPS_PROXY", "http://user:s3cret@127.0.0.1:9").output().unwrap().into());
    for ran in said {
        assert_ne!(ran.code, Some(0));
        assert!(!ran.stdout.contains("s3cret") && !ran.stderr.contains("s3cret"), "{ran:?}");
    }
    let kept = device.tree("S");
    assert!(kept.values().all(|(content, ..)| !content.windows(6).any(|part| part == b"s3cret")));
}

/// Finds a story, or a test function by its file and name.
fn is_a_test(root: &Path, stories: &str, test: &str) -> Option<()> {
    if let Some(story) = test.strip_prefix("make qemu-") {
        return stories.contains(&format!("\"{story}\",")).then_some(());
    }
    let (file, name) = test.rsplit_once("::")?;
    let places = ["agent/tests/suite", "agent/tests/block_devices", "agent/tests", "publisher/tests", "agent", "."]
        .map(|place| root.join(place).join(format!("{file}.rs")));
    let source = places.iter().find_map(|file| fs::read_to_string(file).ok())?;
    let (before, _) = source.split_once(&format!("fn {name}("))?;
    before.trim_end().ends_with("#[test]").then_some(())
}

/// The cells of a table whose last column names its tests, which must be there.
pub fn rows_with_tests<const N: usize>(page: &str, head: &str) -> Vec<[String; N]> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join(page)).unwrap();
    let (_, table) = document.split_once(&format!("{head}\n|{}\n", "---|".repeat(N))).unwrap();
    let stories = fs::read_to_string(root.join("tests/qemu/src/scenarios/mod.rs")).unwrap();
    let cells = |row: &str| -> [String; N] {
        let cells: Vec<String> = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        for test in cells[N - 1].split(", ") {
            assert!(is_a_test(&root, &stories, test.trim_matches('`')).is_some(), "{test} in {row}");
        }
        cells.try_into().unwrap_or_else(|_| panic!("{row}"))
    };
    table.lines().take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Each row of the table has a test that exists, and no row is there twice.
#[test]
fn the_table_of_attacks_names_tests_that_there_are() {
    let rows = rows_with_tests::<3>("docs/security.md", "| attack | what happens | test |");
    assert!(rows.len() >= 40, "{}", rows.len());
    let mut attacks = BTreeSet::new();
    for [attack, happens, _] in rows {
        assert!(!happens.is_empty(), "{attack}");
        assert!(attacks.insert(attack.clone()), "{attack}");
    }
}

#[test]
fn the_table_of_networks_names_tests_that_there_are() {
    let head = "| server | login | publish | check, download | download after a broken connection | tests |";
    assert!(rows_with_tests::<6>("docs/releasing.md", head).len() >= 6);
}
