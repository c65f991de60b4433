//! An update by patches, which a publisher made for the booted release, as the real program does it.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::LazyLock;

use bootenv::SlotId;
use kubesolo_release::{Images, Metadata, Options, http, registry::Access};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::limits;
use kubesolo_update::delta::cutter::hash;
use kubesolo_update::delta::index::Index;
use kubesolo_update::delta::pack::{Entry, Table};
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::release::{self, Architecture, Patches};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_support::{self, Device};
use crate::common::fault::{Fault, Request, World, chunk, head, send};
use crate::common::registry::Registry;
use crate::common::{self, images};

const KIB: usize = 1024;
/// The memory that an agent may take for its data, in KiB: that of its promise.
const MOST_KIB: usize = 12 * 1024;
/// Bytes of the one file of the initramfs that the new release changes: each in a piece of its own.
const CHANGED: [usize; 3] = [300 * KIB, 1000 * KIB, 1700 * KIB];

fn initramfs(changed: &[usize]) -> Vec<u8> {
    let mut init = images::noise(1, 2 * KIB * KIB);
    changed.iter().for_each(|at| init[*at] ^= 1);
    images::repacked(&init)
}

static OLDER: LazyLock<Vec<u8>> = LazyLock::new(|| initramfs(&[100 * KIB, 1000 * KIB]));
static OLD: LazyLock<Vec<u8>> = LazyLock::new(|| initramfs(&[]));
static NEW: LazyLock<Vec<u8>> = LazyLock::new(|| initramfs(&CHANGED));
static INDEX: LazyLock<Index> = LazyLock::new(|| Index::of(&NEW[..]).unwrap().unwrap());
/// The patches that the publisher makes from the old image to the new one.
static MADE: LazyLock<Pack> = LazyLock::new(made);

/// A layer of patches.
#[derive(Clone)]
struct Pack {
    about: Patches,
    bytes: Vec<u8>,
}

fn files(folder: &Path, initramfs: &[u8], salt: u8) -> [Images; 1] {
    let files = images::files(folder, Architecture::current(), salt);
    fs::write(&files.initramfs, initramfs).unwrap();
    [files]
}

fn made() -> Pack {
    let folder = TempDir::new().unwrap();
    let tree = |name: &str| folder.path().join(name);
    let publish = |name: &str, version: &str, initramfs: &[u8], salt, from: &[&str]| {
        let delta_from = from.iter().map(|from| tree(from).display().to_string()).collect();
        let options = http::Options { delta_from, ..http::Options::default() };
        let metadata = Metadata::new(version.parse().unwrap(), "stable");
        let images = files(folder.path(), initramfs, salt);
        http::publish(&tree(name), &metadata, &images, &[cli_support::key(1)], &options).unwrap();
    };
    publish("old", "1.0.0", &OLD, 1, &[]);
    publish("new", "2.0.0", &NEW, 2, &["old"]);
    let place = tree("new").join(Architecture::current().to_string());
    let latest = Latest::parse(&fs::read(place.join("latest.json")).unwrap()).unwrap();
    let about = latest.release().unwrap().patches.remove(0);
    let bytes = fs::read(place.join(latest.url_of(about.blob.digest).unwrap().unwrap())).unwrap();
    Pack { about, bytes }
}

impl Pack {
    /// Other bytes, signed as they are.
    fn signed(table: &[u8], patches: &[u8]) -> Self {
        let bytes = [table, patches].concat();
        let blob = |bytes: &[u8]| release::Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let about = Patches { blob: blob(&bytes), table: blob(table), ..MADE.about.clone() };
        Self { about, bytes }
    }

    fn table(&self) -> Table {
        let table = self.bytes[..self.about.table.size as usize].to_vec();
        Table::parse(table, &INDEX, self.bytes.len() as u64).unwrap()
    }

    /// A server with the new release and these patches. The registry has such bytes for them.
    fn world(&self, encoder: &str, sent: &[u8]) -> World {
        self.world_of(&NEW, &INDEX.encode(), encoder, sent)
    }

    /// The same with this image and this index of it.
    fn world_of(&self, image: &[u8], index: &[u8], encoder: &str, sent: &[u8]) -> World {
        let mut manifest = common::manifest("2.0.0", Architecture::current(), b"kernel", image);
        let Patches { from, from_version, table, .. } = &self.about;
        let mut layer = common::descriptor(release::PATCHES_TYPE, &self.bytes);
        layer["annotations"] = json!({
            release::PATCHES_FROM: from, release::PATCHES_FROM_VERSION: from_version.to_string(),
            release::PATCHES_TABLE: format!("{}:{}", table.size, table.digest), release::PATCHES_ENCODER: encoder,
        });
        let layers = manifest["layers"].as_array_mut().unwrap();
        layers.extend([common::descriptor(release::PIECES_TYPE, index), layer]);
        let mut world = World::of_manifest(&manifest, image.to_vec());
        world.blob(index);
        world.files.insert(World::path(&self.bytes), ("application/octet-stream".into(), sent.to_vec()));
        world
    }

    fn server(&self) -> Fault {
        serve(self.world(release::ENCODER, &self.bytes))
    }

    fn path(&self) -> String {
        World::path(&self.bytes)
    }
}

fn serve(world: World) -> Fault {
    Fault::start(move |request, out| world.answer(request, out))
}

/// A device that runs this image, which it installed as version 1.0.0.
fn device(image: &[u8]) -> Device {
    let device = Device::new();
    let world = World::of(image.to_vec(), "v1.0.0");
    device.from(&serve(world), &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    device
}

/// The report of an update to the new release, whose image is the right one in each case.
#[track_caller]
fn applied(device: &Device, server: &Fault) -> Value {
    let report = device.from(server, &["apply", "--json"]).code(0).json();
    assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == *NEW);
    assert_eq!(device.version_in(SlotId::A).as_deref(), Some("2.0.0"));
    report
}

/// Pieces of the new image that the old one lacks, in bytes.
fn missing(old: &[u8]) -> u64 {
    let old = Index::of(old).unwrap().unwrap();
    let known = |hash| old.pieces().iter().any(|piece| piece.hash == hash);
    INDEX.pieces().iter().filter(|piece| !known(piece.hash)).map(|piece| piece.len as u64).sum()
}

/// Requests for the image itself.
fn ranges(server: &Fault) -> usize {
    server.count(&World::path(&NEW))
}

/// Bytes of the index and the patches.
fn small(pack: &Pack) -> u64 {
    (INDEX.encode().len() + pack.bytes.len()) as u64
}

#[test]
fn patches_for_the_booted_release_cost_no_part_of_the_image() {
    let (device, server) = (device(&OLD), MADE.server());
    let report = applied(&device, &server);
    assert_eq!((ranges(&server), server.count(&MADE.path())), (0, 1));
    assert_eq!(report["bytes_fetched"], small(&MADE), "{report}");
    assert_eq!(report["bytes_patched"], missing(&OLD), "{report}");
    assert_eq!(report["pieces_fell_back"], Value::Null);
    assert!(small(&MADE) * 50 < NEW.len() as u64, "{} of {} bytes", small(&MADE), NEW.len());
}

#[test]
fn a_real_registry_sends_patches() {
    let registry = Registry::start();
    let device = updated_registry(&registry, &["v1.0.0"]);
    let report = device.from(&registry.address, &["apply", "--json"]).code(0).json();
    assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == *NEW);
    assert_eq!(report["bytes_fetched"], kernel() + small(&MADE), "{report}");
    assert_eq!(report["bytes_patched"], missing(&OLD), "{report}");
}

/// Publishes the old release and returns a device that runs it; then publishes the new one.
fn updated_registry(registry: &Registry, from: &[&str]) -> Device {
    let folder = TempDir::new().unwrap();
    let release = |version: &str, initramfs: &[u8], salt, from: &[&str]| {
        let metadata = Metadata::new(version.parse().unwrap(), "stable");
        let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
        let delta_from = from.iter().map(|tag| format!("{}/os:{tag}", registry.address)).collect();
        let options = Options { access, also_tags: vec![format!("v{version}")], delta_from, ..Options::default() };
        let (reference, key) = (format!("{}/os:stable", registry.address), [cli_support::key(1)]);
        kubesolo_release::release(&reference, &metadata, &files(folder.path(), initramfs, salt), &key, &options)
            .unwrap();
    };
    release("1.0.0", &OLD, 1, &[]);
    let device = Device::new();
    device.from(&registry.address, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    release("2.0.0", &NEW, 2, from);
    device
}

/// The kernel of the new release.
fn kernel() -> u64 {
    images::kernel(Architecture::current(), 2).len() as u64
}

#[test]
fn patches_continue_on_a_line_that_breaks() {
    let (device, pack, world) = (device(&OLD), MADE.clone(), MADE.world(release::ENCODER, &MADE.bytes));
    let server = Fault::start(move |request: &Request, out: &mut TcpStream| {
        if request.path != pack.path() || request.from().is_some() {
            return world.answer(request, out);
        }
        head(out, 200, &format!("Content-Length: {}\r\n", pack.bytes.len()));
        send(out, &pack.bytes[..pack.bytes.len() - 700]);
    });
    let report = applied(&device, &server);
    assert_eq!((ranges(&server), server.count(&MADE.path())), (0, 2));
    assert_eq!((&report["bytes_fetched"], &report["bytes_patched"]), (&json!(small(&MADE)), &json!(missing(&OLD))));
    assert_eq!(report["pieces_fell_back"], Value::Null, "{report}");
}

#[test]
fn a_pull_through_cache_sends_patches_and_at_first_the_whole_for_a_part() {
    let (upstream, without) = (Registry::start(), Registry::start());
    let device = updated_registry(&upstream, &["v1.0.0"]);
    let report = device.from(&Registry::cache(&upstream.address).address, &["apply", "--json"]).code(0).json();
    assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == *NEW);
    assert_eq!(report["bytes_fetched"], kernel() + small(&MADE), "{report}");
    // Without patches. A cache that does not have the image yet answers a range with all of it.
    let (device, cache) = (updated_registry(&without, &[]), Registry::cache(&without.address));
    let documents = kernel() + INDEX.encode().len() as u64;
    let [first, then] = [(); 2].map(|()| {
        let report = device.from(&cache.address, &["apply", "--json"]).code(0).json();
        assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == *NEW);
        device.write("A/manifest.json", b"");
        while !has(&cache.address) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        report["bytes_fetched"].as_u64().unwrap()
    });
    assert!(first <= documents + NEW.len() as u64, "{first}");
    assert_eq!(then, documents + missing(&OLD));
}

/// True once a registry sends a part of the new image, and not all of it.
fn has(registry: &str) -> bool {
    let mut stream = TcpStream::connect(registry).unwrap();
    let path = World::path(&NEW);
    send(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: {registry}\r\nRange: bytes=0-9\r\n\r\n").as_bytes());
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    status.ends_with(b"206")
}

#[test]
fn a_damaged_source_costs_the_pieces_that_need_it() {
    let (device, server) = (device(&OLD), MADE.server());
    let mut rotten = OLD.clone();
    rotten[CHANGED[1] + 100] ^= 1;
    device.write("B/kubesolo-os.gz", &rotten);
    let report = applied(&device, &server);
    let patched = report["bytes_patched"].as_u64().unwrap();
    assert!((1..missing(&OLD)).contains(&patched), "{report}");
    assert!((1..=2).contains(&ranges(&server)), "{} parts", ranges(&server));
}

/// The index with the most pieces of `image`.
fn largest_index(image: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = image.chunks(image.len().div_ceil(limits::PIECES)).collect();
    assert_eq!(pieces.len(), limits::PIECES);
    let mut index = [&b"KSPIECE1"[..], &(image.len() as u64).to_le_bytes()].concat();
    index.extend((pieces.len() as u32).to_le_bytes());
    for piece in pieces {
        index.extend(hash(piece));
        index.extend(&(piece.len() as u32).to_le_bytes()[..3]);
    }
    index
}

/// The largest index and table. Each patch has the longest sources, and is none. The memory of the agent is bounded from
/// outside: one that takes more ends with an error.
#[test]
fn the_largest_index_and_patches_signed_by_mistake_cost_bounded_memory_and_requests() {
    let zeros = images::repacked(&vec![0; 8 << 20]);
    let zero = Index::of(&zeros[..]).unwrap().unwrap().pieces()[5];
    assert!(zero.len < 1000, "128 KiB of zeros are {} bytes", zero.len);
    let (mut device, image) = (device(&zeros), images::noise(9, 12 << 20));
    let sources = vec![zero.hash; limits::SOURCE_BYTES / (128 << 10)];
    let (mut table, mut patches) = (vec![], vec![]);
    let body = [3; 20];
    for piece in 0.. {
        let entry =
            Entry { piece, sources: &sources, raw: limits::PIECE_RAW_BYTES, len: body.len(), hash: hash(&body) };
        let before = table.len();
        entry.write(&mut table);
        if table.len() as u64 > limits::PATCH_TABLE_BYTES {
            table.truncate(before);
            break;
        }
        patches.extend(body);
    }
    let mut pack = Pack::signed(&table, &patches);
    pack.about.from = Digest::of(&zeros);
    let server = serve(pack.world_of(&image, &largest_index(&image), release::ENCODER, &pack.bytes));
    let script = format!("#!/bin/sh\nulimit -d {MOST_KIB}\nexec {} \"$@\"\n", device.program.display());
    device.write("bounded", script.as_bytes());
    fs::set_permissions(device.path("bounded"), fs::Permissions::from_mode(0o755)).unwrap();
    device.program = device.path("bounded");
    let report = device.from(&server, &["apply", "--json"]).code(0).json();
    assert!(fs::read(device.path("A/kubesolo-os.gz")).unwrap() == image);
    assert!(server.count(&World::path(&image)) <= limits::RANGES + 1);
    assert!(report["pieces_fell_back"]["source-limit"].as_u64() > Some(1000), "{report}");
    assert!(report["bytes_fetched"].as_u64().unwrap() <= limits::fetch_budget(image.len() as u64), "{report}");
}

#[test]
fn a_changed_byte_of_the_patches_costs_its_piece() {
    let table = MADE.about.table.size as usize;
    let device = device(&OLD);
    for at in [0, table - 1] {
        let mut sent = MADE.bytes.clone();
        sent[at] ^= 4;
        let server = serve(MADE.world(release::ENCODER, &sent));
        let report = applied(&device, &server);
        assert!(ranges(&server) > 0 && report["bytes_patched"].is_null(), "{report}");
        assert!(report["bytes_fetched"].as_u64().unwrap() < NEW.len() as u64 / 2, "{report}");
        device.write("A/manifest.json", b"");
    }
    let mut sent = MADE.bytes.clone();
    sent[table] ^= 4;
    let server = serve(MADE.world(release::ENCODER, &sent));
    let report = applied(&device, &server);
    assert_eq!((ranges(&server), &report["pieces_fell_back"]), (1, &json!({"patch-differs": 1})), "{report}");
}

#[test]
fn patches_that_end_early_are_followed_by_parts() {
    let device = device(&OLD);
    let (table, pack) = (MADE.about.table.size as usize, MADE.clone());
    let first = MADE.table().entries().next().unwrap().len;
    let world = MADE.world(release::ENCODER, &MADE.bytes);
    // Ends behind the first patch, and says that this is the end.
    let server = Fault::start(move |request: &Request, out: &mut TcpStream| {
        if request.path != pack.path() {
            return world.answer(request, out);
        }
        head(out, 200, "Transfer-Encoding: chunked\r\n");
        chunk(out, &pack.bytes[..table + first]);
        send(out, b"0\r\n\r\n");
    });
    let report = applied(&device, &server);
    assert!(ranges(&server) > 0, "{report}");
    assert!(report["bytes_patched"].as_u64().unwrap() < missing(&OLD), "{report}");
    assert!(report["pieces_fell_back"]["patches-ended"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn patches_of_another_encoder_are_ignored() {
    let device = device(&OLD);
    let server = serve(MADE.world("deflate-9", &MADE.bytes));
    let report = applied(&device, &server);
    assert_eq!(server.count(&MADE.path()), 0);
    assert_eq!(report["bytes_fetched"], INDEX.encode().len() as u64 + missing(&OLD), "{report}");
}

#[test]
fn a_device_of_another_release_patches_the_pieces_whose_sources_it_has() {
    let device = device(&OLDER);
    let server = MADE.server();
    let report = applied(&device, &server);
    assert!(ranges(&server) > 0 && report["pieces_fell_back"].is_null(), "{report}");
    assert!(report["bytes_patched"].as_u64().unwrap() > 0, "{report}");
    let whole = INDEX.encode().len() as u64 + missing(&OLDER);
    assert!(report["bytes_fetched"].as_u64().unwrap() < whole, "{report}");
}

/// As a device that was filled by an earlier agent.
#[test]
fn a_booted_slot_without_a_manifest_has_its_patches_all_the_same() {
    let (device, server) = (device(&OLD), MADE.server());
    fs::remove_file(device.path("B/manifest.json")).unwrap();
    let report = applied(&device, &server);
    assert_eq!((ranges(&server), &report["bytes_patched"]), (0, &json!(missing(&OLD))), "{report}");
}

#[test]
fn patches_that_save_nothing_are_counted() {
    // Made for this device by their name, but all their sources are others.
    let (mut pack, other) = (MADE.clone(), initramfs(&CHANGED.map(|at| at + 1)));
    pack.about.from = Digest::of(&other);
    let (device, server) = (device(&other), pack.server());
    let report = applied(&device, &server);
    let others = INDEX.encode().len() as u64 + missing(&other);
    let fetched = report["bytes_fetched"].as_u64().unwrap();
    assert!((others + pack.about.table.size..=others + pack.bytes.len() as u64).contains(&fetched), "{report}");
}

#[test]
fn patches_signed_by_mistake_cost_no_more_than_their_pieces() {
    let device = device(&OLD);
    let good = MADE.table();
    let patches = &MADE.bytes[MADE.about.table.size as usize..];
    // Not a table.
    let junk = Pack::signed(&[7; 1000], patches);
    let server = junk.server();
    let report = applied(&device, &server);
    assert!(ranges(&server) > 0 && report["bytes_patched"].is_null(), "{report}");
    device.write("A/manifest.json", b"");
    let (mut table, mut bodies) = (vec![], vec![]);
    for entry in good.entries().filter(|entry| entry.raw > 0) {
        let body = vec![3; 100];
        Entry { raw: entry.raw, len: body.len(), hash: hash(&body), ..entry }.write(&mut table);
        bodies.extend(body);
    }
    let wrong = Pack::signed(&table, &bodies);
    let server = wrong.server();
    let report = applied(&device, &server);
    let count = good.entries().filter(|entry| entry.raw > 0).count() as u64;
    assert_eq!(report["pieces_fell_back"], json!({"patch-broken": count}), "{report}");
}
