//! An update that fetches the pieces of an initramfs that the booted slot lacks, as the real program does it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bootenv::SlotId;
use kubesolo_release::{Images, Metadata, Options, http, registry::Access};
use kubesolo_update::base::limits;
use kubesolo_update::delta::index::Index;
use kubesolo_update::release::release::Architecture;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_support::{self, Device, Ran};
use crate::common::fault::{Fault, Request, World, head, reply, send};
use crate::common::images;
use crate::common::nginx::Nginx;
use crate::common::registry::Registry;

const KIB: usize = 1024;
/// Places in the one file of the initramfs that the new release changes: three pieces, none beside another.
const CHANGED: [usize; 3] = [300 * KIB, 1000 * KIB, 2900 * KIB];
/// These, and the checksum at the end.
const RANGES: usize = 4;

fn initramfs(changed: &[usize]) -> Vec<u8> {
    let mut init = images::noise(1, 3 * KIB * KIB);
    changed.iter().for_each(|at| init[*at] ^= 1);
    images::repacked(&init)
}

static OLD: LazyLock<Vec<u8>> = LazyLock::new(|| initramfs(&[]));
static NEW: LazyLock<Vec<u8>> = LazyLock::new(|| initramfs(&CHANGED));
static INDEX: LazyLock<Index> = LazyLock::new(|| Index::of(&NEW[..]).unwrap().unwrap());

/// The new release.
fn world() -> World {
    World::of_pieces(NEW.clone(), "v2.0.0", &INDEX.encode())
}

/// A device that runs the old one.
fn device() -> Device {
    let device = Device::new();
    device.write("A/kubesolo-os.gz", &OLD);
    device
}

/// Bytes of the pieces that the old image lacks.
fn missing() -> u64 {
    let old = Index::of(&OLD[..]).unwrap().unwrap();
    let known = |hash| old.pieces().iter().any(|piece| piece.hash == hash);
    INDEX.pieces().iter().filter(|piece| !known(piece.hash)).map(|piece| piece.len as u64).sum()
}

/// A registry that answers for the initramfs in its own way; others as ever.
fn server(world: &World, answer: impl Fn(&Request, &mut TcpStream, &World) + Send + Sync + 'static) -> Fault {
    let (world, path) = (world.clone(), World::path(&world.initramfs));
    Fault::start(move |request, out| match request.path == path {
        true => answer(request, out, &world),
        false => world.answer(request, out),
    })
}

fn honest(request: &Request, out: &mut TcpStream, world: &World) {
    world.answer(request, out);
}

/// First and last byte of each request for the initramfs; `None` for all of it.
fn asked(server: &Fault) -> Vec<Option<(usize, usize)>> {
    let path = World::path(&NEW);
    let of = |request: &Request| request.from().map(|from| (from, request.to().unwrap()));
    server.requests().iter().filter(|request| request.path == path).map(of).collect()
}

#[track_caller]
fn is_filled(device: &Device) {
    assert!(fs::read(device.path("B/kubesolo-os.gz")).unwrap() == *NEW);
    assert_eq!(device.version_in(SlotId::B).as_deref(), Some("2.0.0"));
    device.here(&["verify"]).says(&["slot B holds: 2.0.0"]);
}

fn applied(device: &Device, server: &Fault) -> (Value, Ran) {
    let ran = device.from(server, &["apply", "--json"]).code(0);
    is_filled(device);
    (ran.json(), ran)
}

#[test]
fn only_pieces_that_changed_are_fetched() {
    let (world, device) = (world(), device());
    let server = server(&world, honest);
    let (report, _) = applied(&device, &server);
    let index = INDEX.encode().len() as u64;
    assert_eq!(report["bytes_fetched"], b"kernel".len() as u64 + index + missing(), "{report}");
    assert_eq!(report["bytes_reused"], NEW.len() as u64 - missing(), "{report}");
    let asked = asked(&server);
    assert_eq!(asked.len(), RANGES, "{asked:?}");
    let sent: usize = asked.iter().map(|range| range.unwrap()).map(|(from, to)| to + 1 - from).sum();
    assert_eq!(sent as u64, missing());
    assert!(asked.is_sorted());
}

#[test]
fn a_real_registry_and_a_folder_on_nginx_send_pieces() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let www = folder.path().join("www");
    let release = |version: &str, initramfs: &[u8], salt| {
        let files = images::files(folder.path(), Architecture::current(), salt);
        fs::write(&files.initramfs, initramfs).unwrap();
        let files: [Images; 1] = [files];
        let (metadata, key) = (Metadata::new(version.parse().unwrap(), "stable"), [cli_support::key(1)]);
        let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
        let options = Options { access, ..Options::default() };
        let reference = format!("{}/os:stable", registry.address);
        kubesolo_release::release(&reference, &metadata, &files, &key, &options).unwrap();
        http::publish(&www, &metadata, &files, &key, &http::Options::default()).unwrap();
    };
    release("1.0.0", &OLD, 1);
    std::os::unix::fs::symlink(Architecture::current().to_string(), www.join("os")).unwrap();
    let server = Nginx::start(&www, "");
    let (by_registry, by_http) = (Device::new(), Device::new());
    let apply = |more: &[&str]| {
        let arguments = [&["apply", "--json"], more].concat();
        [by_registry.from(&registry.address, &arguments), by_http.over_http(&server, &arguments)]
            .map(|ran| ran.code(0).json())
    };
    apply(&["--activate"]);
    for device in [&by_registry, &by_http] {
        device.power_on();
        device.here(&["healthcheck"]).code(0).says(&["committed"]);
    }
    // Nginx makes an ETag of second and size: within one second, this latest.json needs another size.
    release("2.0.10", &NEW, 2);
    let cost = images::kernel(Architecture::current(), 2).len() as u64 + INDEX.encode().len() as u64 + missing();
    for report in apply(&[]) {
        assert_eq!(report["bytes_fetched"], cost, "{report}");
        assert_eq!(report["bytes_reused"], NEW.len() as u64 - missing());
    }
    for device in [&by_registry, &by_http] {
        assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == *NEW);
        device.here(&["verify"]).code(0);
    }
}

#[test]
fn the_cost_is_known_before_and_kept_after() {
    let (world, device) = (world(), device());
    let server = server(&world, honest);
    let checked = device.from(&server, &["check", "--json"]).code(0).json();
    assert_eq!(checked["delta"], json!({"index_size": INDEX.encode().len()}), "{checked}");
    assert_eq!((asked(&server), server.count(&World::path(&INDEX.encode()))), (vec![], 0), "a check scans nothing");
    let before = device.env_bytes();
    let expected = device.from(&server, &["apply", "--dry-run", "--json"]).code(0).json();
    assert_eq!((device.env_bytes(), device.names("B"), asked(&server)), (before, vec![], vec![]));
    device.from(&server, &["apply", "--dry-run"]).code(0).says(&["would fetch", "from the booted slot"]);
    let (report, _) = applied(&device, &server);
    for (planned, done) in [("bytes_to_fetch", "bytes_fetched"), ("bytes_to_reuse", "bytes_reused")] {
        assert_eq!(expected[planned], report[done], "{expected} {report}");
    }
    assert_eq!(expected["bytes_to_patch"], 0);
    let history = device.here(&["history", "--json"]).code(0).json();
    let bytes = &history[0]["bytes"];
    assert_eq!((&bytes["fetched"], &bytes["reused"]), (&report["bytes_fetched"], &report["bytes_reused"]), "{history}");
    let series = format!("kubesolo_update_last_fetch_bytes{{how=\"reused\"}} {}", report["bytes_reused"]);
    device.here(&["metrics"]).code(0).says(&[&series]);
}

#[test]
fn a_rotten_source_costs_its_pieces_alone() {
    let (world, device) = (world(), device());
    let mut rotten = OLD.clone();
    for at in [5, 700 * KIB, 2000 * KIB] {
        rotten[at] ^= 1;
    }
    device.write("A/kubesolo-os.gz", &rotten);
    let server = server(&world, honest);
    let (report, _) = applied(&device, &server);
    assert_eq!(asked(&server).len(), RANGES + 3);
    let reused = report["bytes_reused"].as_u64().unwrap();
    assert!(reused > NEW.len() as u64 / 2 && reused < NEW.len() as u64 - missing(), "{report}");
}

#[test]
fn a_server_that_sends_no_part_sends_the_whole_once() {
    let whole = |out: &mut TcpStream| reply(out, 200, "", &NEW);
    type Answer = Box<dyn Fn(&Request, &mut TcpStream) + Send + Sync>;
    let range = |from: usize| format!("Content-Range: bytes {from}-{}/{}\r\n", from + 999, NEW.len());
    let answers: [(&str, usize, Answer); 5] = [
        ("200", 1, Box::new(move |_, out| whole(out))),
        (
            "416",
            2,
            Box::new(move |request, out| if request.from().is_some() { reply(out, 416, "", b"") } else { whole(out) }),
        ),
        (
            "501",
            2,
            Box::new(move |request, out| if request.from().is_some() { reply(out, 501, "", b"") } else { whole(out) }),
        ),
        (
            "another range",
            2,
            Box::new(move |request, out| match request.from() {
                Some(from) => reply(out, 206, &range(from + 1), &NEW[from + 1..from + 1001]),
                None => whole(out),
            }),
        ),
        (
            "too much",
            2,
            Box::new(move |request, out| match request.from() {
                Some(from) => reply(
                    out,
                    206,
                    &format!("Content-Range: bytes {from}-{}/{}\r\n", NEW.len() - 1, NEW.len()),
                    &NEW[from..],
                ),
                None => whole(out),
            }),
        ),
    ];
    for (name, requests, answer) in answers {
        println!("{name}");
        let (world, device) = (world(), device());
        let server = server(&world, move |request, out, _| answer(request, out));
        let (report, _) = applied(&device, &server);
        assert_eq!(asked(&server).len(), requests, "{name}");
        let fetched = report["bytes_fetched"].as_u64().unwrap();
        assert!(fetched <= NEW.len() as u64 + 2000, "{name}: {report}");
    }
}

#[test]
fn a_server_that_cuts_ranges_is_asked_for_the_rest() {
    let (world, device) = (world(), device());
    let server = server(&world, |request, out, world| {
        let (from, to) = (request.from().unwrap(), request.to().unwrap());
        head(
            out,
            206,
            &format!("Content-Range: bytes {from}-{to}/{}\r\nContent-Length: {}\r\n", NEW.len(), to + 1 - from),
        );
        send(out, &world.initramfs[from..=to.min(from + 99 * KIB)]);
    });
    let (report, _) = applied(&device, &server);
    assert_eq!(report["bytes_reused"], NEW.len() as u64 - missing(), "{report}");
    let index = INDEX.encode().len() as u64;
    assert_eq!(report["bytes_fetched"], b"kernel".len() as u64 + index + missing(), "{report}");
}

/// A registry that redirects each request for the initramfs to a server of files, by a signed place that answers so many
/// requests. Returns both.
fn behind_a_redirect(world: &World, lasts: usize) -> (Fault, Fault) {
    let (files, path) = (world.clone(), World::path(&world.initramfs));
    let cdn = Fault::start(move |request, out| match request.earlier < lasts {
        true => files.answer(&Request { path: path.clone(), ..request.clone() }, out),
        false => reply(out, 403, "", b"expired"),
    });
    let (address, redirected) = (cdn.address.clone(), World::path(&world.initramfs));
    let world = world.clone();
    let registry = Fault::start(move |request, out| match request.path == redirected {
        true => reply(out, 307, &format!("Location: http://{address}/file?signed={}\r\n", request.earlier), b""),
        false => world.answer(request, out),
    });
    (registry, cdn)
}

#[test]
fn a_registry_that_redirects_is_asked_once_for_all_parts() {
    for (lasts, expired) in [(usize::MAX, 0), (2, 1)] {
        let (world, device) = (world(), device());
        let (registry, cdn) = behind_a_redirect(&world, lasts);
        // There is a login for that server. The registry alone decides who gets what is at a place that it signed.
        device.write("logins", json!({"auths": {&cdn.address: {"auth": "dTpw"}}}).to_string().as_bytes());
        fs::set_permissions(device.path("logins"), fs::Permissions::from_mode(0o600)).unwrap();
        device.write("conf", b"registry_auth=logins\n");
        let report = device.from(&registry, &["apply", "--json", "--plain-http", &cdn.address]).code(0).json();
        is_filled(&device);
        assert_eq!(registry.count(&World::path(&NEW)), 1 + expired);
        assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
        assert_eq!(cdn.count("/file"), RANGES + expired, "each part, and one refusal for each place that expired");
        let index = INDEX.encode().len() as u64;
        assert_eq!(report["bytes_fetched"], b"kernel".len() as u64 + index + missing(), "{report}");
    }
}

/// The release as an agent without deltas takes it.
#[test]
fn with_delta_no_the_image_comes_whole() {
    let (world, device) = (world(), device());
    device.write("conf", b"delta=no\n");
    let server = server(&world, honest);
    let (report, _) = applied(&device, &server);
    assert_eq!(report["bytes_fetched"], (b"kernel".len() + NEW.len()) as u64);
    assert_eq!((asked(&server), server.count(&World::path(&INDEX.encode()))), (vec![None], 0));
}

#[test]
fn with_delta_only_nothing_changes_where_no_delta_would_do() {
    let refused = |device: &Device, server: &Fault| {
        device.write("conf", b"delta=only\n");
        let before = device.env_bytes();
        let error = device.from(server, &["apply", "--json"]).refused(75, "delta-only");
        assert!(error["remedy"].as_str().unwrap().contains("No slot was changed"), "{error}");
        assert_eq!((device.env_bytes(), device.names("B")), (before, vec![]));
        error["message"].as_str().unwrap().to_owned()
    };
    let plain = World::of(NEW.clone(), "v2.0.0");
    let without = device();
    assert!(refused(&without, &server(&plain, honest)).contains("no index of pieces"));
    let checked = without.from(&server(&plain, honest), &["check", "--json"]).code(0).json();
    assert_eq!((&checked["verdict"], &checked["reason"]), (&json!("held"), &json!("delta-only")));
    let other = Device::new();
    other.write("conf", b"delta=only\n");
    let checked = other.from(&server(&world(), honest), &["check", "--json"]).code(0).json();
    assert_eq!(checked["verdict"], "unknown", "a check does not scan: {checked}");
    let world = world();
    let other = Device::new();
    assert!(refused(&other, &server(&world, honest)).contains("would fetch"));
    let whole = server(&world, |_, out, world| reply(out, 200, "", &world.initramfs));
    assert!(refused(&device(), &whole).contains("sends no part"));
    let broken = World::of_pieces(NEW.clone(), "v2.0.0", b"KSPIECE1 and nothing");
    assert!(refused(&device(), &server(&broken, honest)).contains("index of pieces is not valid"));
    // Where one does, it comes.
    let device = device();
    device.write("conf", b"delta=only\n");
    applied(&device, &server(&world, honest));
}

#[test]
fn an_index_that_is_none_costs_nothing_but_itself() {
    let (device, broken) = (device(), World::of_pieces(NEW.clone(), "v2.0.0", b"KSPIECE1 and nothing"));
    let server = server(&broken, honest);
    let (_, ran) = applied(&device, &server);
    assert!(ran.stderr.contains("index of pieces is not valid"), "{}", ran.stderr);
    assert_eq!(asked(&server), [None]);
}

#[test]
fn an_index_that_changed_on_its_way_is_not_read() {
    let (mut world, device, path) = (world(), device(), World::path(&INDEX.encode()));
    let index = &mut world.files.get_mut(&path).unwrap().1;
    *index.last_mut().unwrap() ^= 1;
    let server = server(&world, honest);
    let (_, ran) = applied(&device, &server);
    assert!(ran.stderr.contains("the index of pieces has other bytes than the release says"), "{}", ran.stderr);
    assert_eq!(asked(&server), [None]);
}

/// An index that the publisher signed by mistake: one of its pieces is that of the old image.
fn wrong_index() -> Vec<u8> {
    let mut wrong = INDEX.encode();
    let old = Index::of(&OLD[..]).unwrap().unwrap();
    let place = |at: usize| 20 + 19 * at;
    let at = INDEX.pieces().iter().position(|piece| !old.pieces().contains(piece)).unwrap();
    assert_eq!(INDEX.pieces()[at].len, old.pieces()[at].len);
    wrong[place(at)..place(at) + 16].copy_from_slice(&old.pieces()[at].hash);
    wrong
}

#[test]
fn an_image_of_wrong_pieces_is_fetched_whole_and_never_by_pieces_again() {
    let (device, world) = (device(), World::of_pieces(NEW.clone(), "v2.0.0", &wrong_index()));
    let server = server(&world, honest);
    let (report, ran) = applied(&device, &server);
    assert!(ran.stderr.contains("no delta of this image again"), "{}", ran.stderr);
    let fetched = report["bytes_fetched"].as_u64().unwrap();
    assert!(fetched > NEW.len() as u64 && fetched < 2 * NEW.len() as u64, "{report}");
    // Void again, as if the slot had rotted.
    device.write("B/vmlinuz", b"rotten");
    let before = asked(&server).len();
    applied(&device, &server);
    assert_eq!(asked(&server)[before..], [None]);
    let record: Value = serde_json::from_slice(&fs::read(device.path("S/fetch.json")).unwrap()).unwrap();
    assert_eq!(record["no_delta"], json!([kubesolo_update::base::digest::Digest::of(&NEW)]));
    // A person may want to try again.
    device.write("B/vmlinuz", b"rotten");
    let before = asked(&server).len();
    device.from(&server, &["apply", "--retry-failed"]).code(0);
    assert!(asked(&server)[before].is_some());
}

#[test]
fn with_delta_only_an_image_of_wrong_pieces_is_left_to_a_person() {
    let (device, world) = (device(), World::of_pieces(NEW.clone(), "v2.0.0", &wrong_index()));
    device.write("conf", b"delta=only\n");
    let server = server(&world, honest);
    let error = device.from(&server, &["apply", "--json"]).refused(65, "digest-mismatch");
    let remedy = error["remedy"].as_str().unwrap();
    assert!(remedy.contains("slot A is unchanged and boots. Set delta=yes"), "{remedy}");
    // Held back from then on, and not one byte more of the image comes.
    let before = asked(&server).len();
    let error = device.from(&server, &["apply", "--json"]).refused(75, "delta-only");
    assert!(error["message"].as_str().unwrap().contains("wrong bytes before"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("set delta=yes"), "{error}");
    assert_eq!(asked(&server).len(), before);
    device.write("conf", b"delta=yes\n");
    applied(&device, &server);
    assert_eq!(asked(&server)[before..], [None]);
}

#[test]
fn a_part_with_wrong_bytes_is_fetched_with_the_whole() {
    let (world, device) = (world(), device());
    let server = server(&world, |request, out, world| match (request.from(), request.to()) {
        (Some(from), Some(to)) => {
            let mut bytes = world.initramfs[from..=to].to_vec();
            bytes[7] ^= 1;
            reply(out, 206, &format!("Content-Range: bytes {from}-{to}/{}\r\n", NEW.len()), &bytes);
        }
        _ => world.answer(request, out),
    });
    applied(&device, &server);
    assert_eq!(asked(&server).last(), Some(&None));
}

/// Ends the first run by this signal, in the middle of the last large part, and returns the requests and the report of the
/// second one.
fn interrupted(device: &Device, signal: Signal) -> (Vec<Option<(usize, usize)>>, Value) {
    let last = INDEX.pieces().iter().rfind(|piece| piece.offset as usize <= CHANGED[2]).unwrap().offset as usize;
    let server = server(&world(), move |request, out, world| {
        if request.from().unwrap() == last && request.earlier == 2 {
            head(out, 206, &format!("Content-Range: bytes {last}-{}/{}\r\n", request.to().unwrap(), NEW.len()));
            send(out, &world.initramfs[last..last + 50 * KIB]);
            std::thread::sleep(Duration::from_secs(600));
        }
        world.answer(request, out);
    });
    let arguments = [&device.asking(&server, &["apply"])[..], &["--pubkey", "K"]].concat();
    let mut child = device.command(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    let there = || device.path("B/kubesolo-os.gz.part").metadata().map_or(0, |meta| meta.len());
    while there() < last as u64 {
        assert!(begin.elapsed() < Duration::from_secs(120), "{}", there());
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    child.wait().unwrap();
    let before = asked(&server).len();
    let (report, _) = applied(device, &server);
    (asked(&server)[before..].to_vec(), report)
}

#[test]
fn an_interrupted_update_goes_on_by_pieces_behind_what_is_there() {
    let (asked, report) = interrupted(&device(), Signal::SIGTERM);
    assert!(asked.len() == 2 && asked.iter().all(Option::is_some), "{asked:?}");
    assert!(report["bytes_fetched"].as_u64().unwrap() < missing(), "{report}");
    assert!(report["bytes_reused"].as_u64().unwrap() < 200 * KIB as u64, "{report}");
}

#[test]
fn a_killed_update_begins_again_by_pieces() {
    let (asked, report) = interrupted(&device(), Signal::SIGKILL);
    assert!(asked.len() == RANGES && asked.iter().all(Option::is_some), "{asked:?}");
    assert_eq!(report["bytes_reused"], NEW.len() as u64 - missing());
}

#[test]
fn a_server_that_never_comes_to_the_end_costs_the_budget_at_most() {
    let (world, device) = (world(), device());
    // It begins at the first byte each time, and gives up in the middle.
    let server = server(&world, |_, out, world| {
        head(out, 200, &format!("Content-Length: {}\r\n", world.initramfs.len()));
        send(out, &world.initramfs[..2 * KIB * KIB]);
    });
    let error = device.from(&server, &["apply", "--json"]).refused(69, "byte-budget");
    assert!(error["message"].as_str().unwrap().contains("are still missing"), "{error}");
    let sent = asked(&server).len() * 2 * KIB * KIB;
    assert!(sent as u64 <= limits::fetch_budget(NEW.len() as u64) + 2 * (KIB * KIB) as u64, "{sent}");
}
