//! Downloads that go on in a later run, as the real program does it. A SIGKILL at a given byte stands in for a power cut: what
//! a cut leaves on a real filesystem is tested on block devices and in virtual devices.

use crate::{cli_support, common};

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cli_support::{Device, Ran};
use common::fault::{Fault, Request, World, head, reply, send};
use kubesolo_update::base::digest::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;

/// A registry that sends its initramfs up to some byte, and then nothing.
struct Halting {
    server: Fault,
    path: String,
    halt: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl AsRef<str> for Halting {
    fn as_ref(&self) -> &str {
        &self.server.address
    }
}

impl Halting {
    fn new(world: &World) -> Self {
        let (halt, sent) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
        let (world, at, counter) = (world.clone(), halt.clone(), sent.clone());
        let path = World::path(&world.initramfs);
        let large = path.clone();
        let server = Fault::start(move |request, out| {
            if request.path != large {
                return world.answer(request, out);
            }
            let (from, size) = (request.from().unwrap_or(0), world.initramfs.len());
            let range = format!("Content-Range: bytes {from}-{}/{size}\r\n", size - 1);
            let (status, range) = if from > 0 { (206, range) } else { (200, String::new()) };
            head(out, status, &format!("{range}Content-Length: {}\r\n", size - from));
            let end = size.min(usize::try_from(at.load(Ordering::SeqCst)).unwrap_or(usize::MAX)).max(from);
            for piece in world.initramfs[from..end].chunks(64 * 1024) {
                counter.fetch_add(piece.len() as u64, Ordering::SeqCst);
                if !send(out, piece) {
                    return;
                }
            }
            if end < size {
                std::thread::sleep(Duration::from_secs(600));
            }
        });
        Self { server, path, halt, sent }
    }

    /// Runs `apply` until so many bytes of the initramfs are in the slot.
    fn until(&self, device: &Device, bytes: u64) -> Child {
        self.halt.store(bytes, Ordering::SeqCst);
        let arguments = [&device.asking(self, &["apply", "--json"])[..], &["--pubkey", "K"]].concat();
        let mut command = device.command(&arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begin = Instant::now();
        let there = || device.path("B/kubesolo-os.gz.part").metadata().map_or(0, |meta| meta.len());
        while self.requests() == 0 || (bytes > 0 && there() != bytes) {
            assert!(begin.elapsed() < Duration::from_secs(120), "{} of {bytes} bytes", there());
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn killed_at(&self, device: &Device, bytes: u64) {
        let mut child = self.until(device, bytes);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn terminated_at(&self, device: &Device, bytes: u64) -> Ran {
        let child = self.until(device, bytes);
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let output: Output = child.wait_with_output().unwrap();
        output.into()
    }

    /// How often the initramfs was asked for.
    fn requests(&self) -> usize {
        self.asked().len()
    }

    fn asked(&self) -> Vec<Option<usize>> {
        self.server.requests().iter().filter(|request| request.path == self.path).map(Request::from).collect()
    }

    fn completes(&self, device: &Device) {
        self.halt.store(u64::MAX, Ordering::SeqCst);
        device.from(self, &["apply"]).code(0).says(&["written into slot B"]);
    }
}

fn kernel() -> String {
    Digest::of(b"kernel").to_string()
}

fn initramfs(size: u64) -> Vec<u8> {
    let page = |n: u64| [n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(); 512].concat();
    let mut bytes: Vec<u8> = (0..size.div_ceil(4096)).flat_map(page).collect();
    bytes.truncate(size as usize);
    bytes
}

fn world(size: u64) -> World {
    World::of(initramfs(size), "v1.0.0")
}

fn record(device: &Device) -> Value {
    serde_json::from_slice(&fs::read(device.path("S/fetch.json")).unwrap()).unwrap()
}

/// By other eyes: the images, and nothing else that a download leaves.
fn is_filled(device: &Device, world: &World) {
    assert!(fs::read(device.path("B/kubesolo-os.gz")).unwrap() == world.initramfs);
    assert_eq!(fs::read(device.path("B/vmlinuz")).unwrap(), b"kernel");
    device.here(&["verify"]).code(0);
    assert!(!device.names("B").iter().any(|name| name.ends_with(".part")), "{:?}", device.names("B"));
    if device.path("S/fetch.json").exists() {
        assert_eq!(record(device), json!({"schema": 1}));
    }
}

#[test]
fn power_lost_five_times_costs_at_most_an_eighth_of_the_image() {
    let size = 135 * MIB;
    let (world, device) = (world(size), Device::new());
    let server = Halting::new(&world);
    for cut in [21, 43, 70, 97, 118] {
        server.killed_at(&device, cut * MIB + 777_777);
        assert_eq!(device.names("B"), ["kubesolo-os.gz.part", "vmlinuz"]);
    }
    server.completes(&device);
    is_filled(&device, &world);
    let twice = server.sent.load(Ordering::SeqCst) - size;
    assert!(twice * 100 <= 12 * size, "{twice} of {size} bytes were fetched twice");
    assert_eq!(server.requests(), 6);
}

#[test]
fn a_download_that_is_asked_to_end_goes_on_at_the_very_byte() {
    let (world, device) = (world(9 * MIB), Device::new());
    let server = Halting::new(&world);
    let error = server.terminated_at(&device, 6_000_001).refused(75, "interrupted");
    assert!(error["remedy"].as_str().unwrap().contains("it continues where it stopped"), "{error}");
    let beginning = &record(&device)["partial"]["images"][1];
    assert_eq!((&beginning["offset"], &beginning["size"]), (&json!(6_000_001), &json!(9 * MIB)));
    server.completes(&device);
    assert_eq!(server.asked(), [None, Some(6_000_001)]);
    assert_eq!(server.sent.load(Ordering::SeqCst), 9 * MIB);
    assert_eq!(server.server.count(&kernel()), 1, "the kernel was complete");
    is_filled(&device, &world);
}

#[test]
fn a_connection_that_is_lost_for_good_leaves_what_came() {
    let (world, device) = (world(3 * MIB), Device::new());
    let (honest, path) = (world.clone(), World::path(&world.initramfs));
    let server = Fault::start(move |request, out| match (request.path == path, request.from()) {
        (true, None) => {
            head(out, 200, &format!("Content-Length: {}\r\n", 3 * MIB));
            send(out, &honest.initramfs[..1_000_000]);
        }
        (true, Some(_)) if request.earlier == 1 => reply(out, 429, "Retry-After: 3600\r\n", b""),
        _ => honest.answer(request, out),
    });
    device.from(&server, &["apply", "--json"]).refused(69, "rate-limited");
    assert_eq!(record(&device)["partial"]["images"][1]["offset"], 1_000_000);
    device.from(&server, &["apply"]).code(0);
    assert_eq!(server.requests().last().unwrap().from(), Some(1_000_000));
    is_filled(&device, &world);
}

#[test]
fn a_second_cut_and_a_cut_at_the_first_byte_end_well() {
    let (world, device) = (world(9 * MIB), Device::new());
    let server = Halting::new(&world);
    server.killed_at(&device, 0);
    for _ in 0..2 {
        server.killed_at(&device, 5 * MIB + 1);
    }
    // Nothing came since the record.
    server.killed_at(&device, record(&device)["partial"]["images"][1]["offset"].as_u64().unwrap());
    server.completes(&device);
    is_filled(&device, &world);
    let asked = server.asked();
    assert!(
        asked[..2] == [None, None] && asked[2..].iter().all(|from| from.is_some_and(|from| from >= 4 << 20)),
        "{asked:?}"
    );
}

#[test]
fn another_release_in_the_meantime_gets_no_byte_of_the_first_but_its_own() {
    let (first, device) = (world(6 * MIB), Device::new());
    let server = Halting::new(&first);
    server.terminated_at(&device, 5 * MIB).code(75);
    let mut other = first.initramfs.clone();
    other[100] ^= 1;
    let second = World::of(other, "v1.1.0");
    let next = Halting::new(&second);
    next.completes(&device);
    assert_eq!(next.asked(), [None]);
    assert_eq!(next.server.count(&kernel()), 0, "both have the same kernel");
    is_filled(&device, &second);
}

/// A record says how far an earlier run came; a forged one can only cost a download.
#[test]
fn a_record_that_is_wrong_forged_or_ahead_of_the_disk_ends_in_the_right_image() {
    let world = world(6 * MIB);
    let evil = vec![0x66; 5 * MIB as usize];
    type Forge = fn(&Device, &mut Value, &[u8]);
    let cases: [(&str, Forge); 10] = [
        ("ahead of the disk", |_, image, _| image["offset"] = json!(5 * MIB + 4096)),
        ("behind the disk", |_, image, _| image["offset"] = json!(1)),
        ("of no byte", |_, image, _| image["offset"] = json!(0)),
        ("beyond the image", |_, image, _| image["offset"] = json!(u64::MAX)),
        ("of another size", |_, image, _| image["size"] = json!(u64::MAX)),
        ("of other bytes", |_, image, _| image["prefix"] = json!(Digest::of(b"other"))),
        ("of bytes that fit and are wrong", |device, image, evil| {
            device.write("B/kubesolo-os.gz.part", evil);
            image["prefix"] = json!(Digest::of(evil));
        }),
        ("of a whole image that is wrong", |device, image, evil| {
            let whole = [evil, &evil[..MIB as usize]].concat();
            device.write("B/kubesolo-os.gz.part", &whole);
            (image["prefix"], image["offset"]) = (json!(Digest::of(&whole)), json!(6 * MIB));
        }),
        ("of a link", |device, _, _| {
            fs::rename(device.path("B/kubesolo-os.gz.part"), device.path("elsewhere")).unwrap();
            symlink("../elsewhere", device.path("B/kubesolo-os.gz.part")).unwrap();
        }),
        ("of a file with two names", |device, _, _| {
            fs::hard_link(device.path("B/kubesolo-os.gz.part"), device.path("elsewhere")).unwrap();
        }),
    ];
    for (case, forge) in cases {
        let device = Device::new();
        let server = Halting::new(&world);
        server.terminated_at(&device, 5 * MIB).code(75);
        let elsewhere = fs::read(device.path("B/kubesolo-os.gz.part")).unwrap();
        let mut record = record(&device);
        forge(&device, &mut record["partial"]["images"][1], &evil);
        device.write("S/fetch.json", record.to_string().as_bytes());
        server.completes(&device);
        is_filled(&device, &world);
        if device.path("elsewhere").exists() {
            assert!(fs::read(device.path("elsewhere")).unwrap() == elsewhere, "{case}: it was written through");
        }
        let sent = server.sent.load(Ordering::SeqCst);
        assert!(sent <= 5 * MIB + 2 * 6 * MIB + MIB, "{case}: {sent}");
    }
}

#[test]
fn a_record_that_is_damaged_is_set_aside_and_one_of_somebody_else_is_refused() {
    let (world, device) = (world(5 * MIB), Device::new());
    let server = Halting::new(&world);
    for damaged in ["", "[]", "{\"schema\": 1, \"partial\": 7}", "{\"schema\": 1, \"wrong\": [{}]}"] {
        device.write("S/fetch.json", damaged.as_bytes());
        let ran = device.from(&server, &["apply", "--json", "--allow-downgrade"]).code(0);
        assert!(ran.stderr.contains("fetch.json is damaged"), "{damaged}: {ran:?}");
        fs::remove_dir_all(device.path("B")).unwrap();
        fs::create_dir(device.path("B")).unwrap();
    }
    device.write("S/fetch.json", b"{\"schema\": 1}");
    fs::set_permissions(device.path("S/fetch.json"), fs::Permissions::from_mode(0o666)).unwrap();
    device.from(&server, &["apply", "--json"]).refused(78, "state-unusable");
    // A question has an answer all the same.
    device.from(&server, &["check"]).code(0);
}

#[test]
fn wrong_bytes_are_not_fetched_again_at_every_run() {
    let (world, device) = (world(MIB), Device::new());
    let wrong = Arc::new(AtomicU64::new(1));
    let (honest, path, lies) = (world.clone(), World::path(&world.initramfs), wrong.clone());
    let server = Fault::start(move |request, out| match request.path == path && lies.load(Ordering::SeqCst) == 1 {
        true => reply(out, 200, "", &vec![7; MIB as usize]),
        false => honest.answer(request, out),
    });
    let fetched = || server.count(&World::path(&world.initramfs));
    device.from(&server, &["apply", "--json"]).refused(65, "digest-mismatch");
    let error = device.from(&server, &["run", "--json"]).refused(75, "bytes-failed-before");
    assert!(error["message"].as_str().unwrap().contains(&Digest::of(&world.initramfs).to_string()), "{error}");
    let check = device.from(&server, &["check", "--json"]).code(0).json();
    let gate = check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "bytes-failed-before").unwrap();
    let opens: chrono::DateTime<chrono::Utc> = gate["opens_at"].as_str().unwrap().parse().unwrap();
    let wait = (opens - chrono::Utc::now()).num_minutes();
    assert!((50..=60).contains(&wait), "{gate}");
    assert_eq!(fetched(), 1);
    // A person may, and twice as long is waited then.
    device.from(&server, &["apply", "--json", "--retry-failed"]).refused(65, "digest-mismatch");
    assert_eq!((fetched(), &record(&device)["wrong"][0]["times"]), (2, &json!(2)));
    wrong.store(0, Ordering::SeqCst);
    device.from(&server, &["apply", "--json"]).refused(75, "bytes-failed-before");
    device.from(&server, &["apply", "--retry-failed"]).code(0);
    is_filled(&device, &world);
}

/// As CNCF Distribution does it as a cache whose upstream fails: the answer was announced with the whole length.
#[test]
fn an_error_at_the_end_of_a_broken_answer_does_not_spoil_the_image() {
    let (world, device) = (world(MIB), Device::new());
    let (honest, path) = (world.clone(), World::path(&world.initramfs));
    let server = Fault::start(move |request, out| match (request.path == path, request.earlier) {
        (true, 0) => {
            head(out, 200, &format!("Content-Length: {MIB}\r\n"));
            send(out, &honest.initramfs[..500_000]);
            send(out, b"{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"unknown error\",\"detail\":{}}]}\n");
        }
        _ => honest.answer(request, out),
    });
    let ran = device.from(&server, &["apply"]).code(0);
    assert!(ran.stderr.contains("it came in pieces: fetching all of it once more"), "{ran:?}");
    assert_eq!(server.count(&World::path(&world.initramfs)), 3);
    is_filled(&device, &world);
    // A server whose bytes are wrong in one piece, too, is asked no more often than that.
    let (world, device) = (self::world(MIB), Device::new());
    let (honest, path) = (world.clone(), World::path(&world.initramfs));
    let server = Fault::start(move |request, out| match (request.path == path, request.earlier) {
        (true, 0) => {
            head(out, 200, &format!("Content-Length: {MIB}\r\n"));
            send(out, &[7; 500_000]);
        }
        (true, _) if request.from().is_none() => reply(out, 200, "", &vec![7; MIB as usize]),
        _ => honest.answer(request, out),
    });
    device.from(&server, &["apply", "--json"]).refused(65, "digest-mismatch");
    assert_eq!(server.count(&World::path(&world.initramfs)), 3);
    assert_eq!(record(&device)["wrong"][0]["times"], 1);
}

/// Slot B runs the first release, and the second one with the same kernel is on offer.
fn runs(first: &World, device: &Device) {
    let server = Halting::new(first);
    server.completes(device);
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
}

#[test]
fn an_image_that_the_booted_slot_has_is_copied_from_there_and_not_fetched() {
    let first = world(5 * MIB);
    let second = World::of(initramfs(3 * MIB), "v1.1.0");
    for rotten in [false, true] {
        let device = Device::new();
        runs(&first, &device);
        if rotten {
            device.write("B/vmlinuz", b"rotten");
        }
        let server = Halting::new(&second);
        let report = device.from(&server, &["apply", "--json"]).code(0).json();
        let (fetched, reused) = (&report["bytes_fetched"], &report["bytes_reused"]);
        assert_eq!(report["outcome"], "staged");
        assert_eq!(server.server.count(&kernel()), usize::from(rotten));
        assert_eq!(
            (fetched, reused),
            (&json!(3 * MIB + if rotten { 6 } else { 0 }), &json!(if rotten { 0 } else { 6 }))
        );
        assert_eq!(fs::read(device.path("A/vmlinuz")).unwrap(), b"kernel");
        assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == second.initramfs);
    }
}

/// The larger image too, also where the records of downloads would keep it, and then no request is for an image.
#[test]
fn a_release_with_the_images_of_the_running_one_costs_no_image() {
    let (first, device) = (world(5 * MIB), Device::new());
    runs(&first, &device);
    let server = Halting::new(&World::of(first.initramfs.clone(), "v1.1.0"));
    device.from(&server, &["apply"]).code(0).says(&["copied 5.0 MiB from the booted slot"]);
    assert_eq!((server.requests(), server.server.count(&kernel())), (0, 0));
    assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == first.initramfs);
    device.here(&["verify"]).code(0);
}
