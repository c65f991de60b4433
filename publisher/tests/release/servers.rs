//! Real registries, one after the other: a release is published, read back, checked, and applied over a connection that breaks in
//! the middle of an image. Each test holds a row of the table in docs/releasing.md.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use super::common::line::Line;
use super::common::servers::Kind;
use super::common::token_server::{Guarded, PAIR, PASSWORD, USER};
use super::*;
use crate::cli_support::Device;

const MIB: u64 = 1024 * 1024;

/// A registry, and how it is reached.
struct Tried<'a> {
    /// `host:port` that the publisher writes to.
    upload: &'a str,
    /// `host:port` that devices read from.
    read: &'a str,
    /// Token servers of it.
    others: Vec<String>,
    /// It wants the account of the tests.
    login: bool,
}

/// The way of a release over a registry.
#[derive(Debug)]
struct Way {
    /// The place where the device found the signatures.
    signatures: &'static str,
    size: u64,
    /// Bytes of images that came, after one break in the middle of the larger one.
    fetched: u64,
}

impl Way {
    fn resume(&self) -> &'static str {
        if self.fetched == self.size { "continues" } else { "begins again" }
    }
}

impl<'a> Tried<'a> {
    /// One without a login.
    fn open(address: &'a str) -> Self {
        Self { upload: address, read: address, others: vec![], login: false }
    }

    fn guarded(server: &'a Guarded) -> Self {
        let others = server.tokens.iter().map(|tokens| tokens.address.clone()).collect();
        Self { others, login: true, ..Self::open(&server.registry.address) }
    }

    /// Publishes, reads back, checks and applies.
    fn way(&self) -> Way {
        let folder = TempDir::new().unwrap();
        let (_, _) = key(&folder, "key");
        let public = folder.path().join("key.pub");
        let images = large(folder.path());
        self.publish(&images, &folder.path().join("key"));
        let tag = format!("{}/os:stable", self.upload);
        self.publisher(&["inspect", &tag, "--pubkey", path(&public)]);

        let line = Line::broken_once(self.read, MIB + 300_000);
        let device = self.device(&line, &public);
        let on = |arguments: &[&str]| device.run(&[&device.local(arguments)[..], &["--pubkey", "K", "-vv"]].concat());
        let checked = on(&["check"]).code(0).says(&["offered:      1.0.0"]);
        let applied = on(&["apply", "--json"]).code(0);
        assert!(applied.stderr.contains("continuing in"), "the connection did not break: {applied:?}");
        assert_eq!(device.version_in(bootenv::SlotId::B).as_deref(), Some("1.0.0"));
        let by_tag = checked.stderr.contains("/os/manifests/sha256-");
        Way {
            signatures: if by_tag { "fallback tag" } else { "referrers interface" },
            size: [&images.kernel, &images.initramfs].map(|file| fs::metadata(file).unwrap().len()).iter().sum(),
            fetched: applied.json()["bytes_fetched"].as_u64().unwrap(),
        }
    }

    fn publish(&self, images: &Images, private: &Path) {
        let (reference, architecture) = (format!("{}/os", self.upload), format!("--{}", images.architecture));
        let release = ["publish", &reference, "--version", "1.0.0", "--channel", "stable", "--key", path(private)];
        self.publisher(&[&release[..], &[&architecture, path(&images.kernel), path(&images.initramfs)]].concat());
    }

    fn publisher(&self, arguments: &[&str]) {
        let plain = self.others.iter().map(String::as_str).chain([self.upload]);
        let plain: Vec<&str> = plain.flat_map(|host| ["--plain-http", host]).collect();
        let account = [("KUBESOLO_RELEASE_USER", USER), ("KUBESOLO_RELEASE_PASSWORD", PASSWORD)];
        let done = run(&[arguments, &plain].concat(), if self.login { &account } else { &[] });
        assert!(done.status.success(), "{arguments:?} {}", text(&done.stderr));
    }

    /// A device that follows `os:stable` over this line.
    fn device(&self, line: &Line, key: &Path) -> Device {
        let device = Device::new();
        device.write("K", &fs::read(key).unwrap());
        let mut conf = format!("registry={}/os\nplain_http={} {}\n", line.address, line.address, self.others.join(" "));
        if self.login {
            let file = device.path("auth.json");
            device
                .write("auth.json", json!({"auths": {(line.address.clone()): {"auth": PAIR}}}).to_string().as_bytes());
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            conf.push_str(&format!("registry_auth={}\n", file.display()));
        }
        device.write("conf", conf.as_bytes());
        device
    }
}

/// Images for this machine, of which the larger one has 2 MiB.
fn large(folder: &Path) -> Images {
    let images = images::files(folder, Architecture::current(), 1);
    let noise = |n: u64| Digest::of(&n.to_le_bytes()).0;
    let content: Vec<u8> = (0..2 * MIB / 32).flat_map(noise).collect();
    fs::write(&images.initramfs, images::gzip(&images::archive(&content))).unwrap();
    images
}

/// docs/releasing.md has a row with these cells.
fn is_a_row(cells: &[&str]) {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/releasing.md")).unwrap();
    let row = format!("| {} |", cells.join(" | "));
    assert!(page.lines().any(|line| line == row), "docs/releasing.md lacks the row\n{row}");
}

/// A registry that everything goes to and comes from.
fn serves_publisher_and_device(name: &str, login: &str, tried: &Tried<'_>) {
    let way = tried.way();
    is_a_row(&[name, login, "yes", way.signatures, "yes", way.resume()]);
}

#[test]
fn docker_registry_serves_publisher_and_device() {
    let registry = Registry::start();
    serves_publisher_and_device("docker-registry 2.8 of Debian", "none", &Tried::open(&registry.address));
}

#[test]
fn docker_registry_with_htpasswd_serves_publisher_and_device() {
    let server = Guarded::basic();
    serves_publisher_and_device("the same with htpasswd", "Basic", &Tried::guarded(&server));
}

#[test]
fn docker_registry_with_a_token_server_serves_publisher_and_device() {
    let server = Guarded::with_tokens();
    let login = "token by GET with the password, or by POST with a refresh token";
    serves_publisher_and_device("the same with a token server of the tests", login, &Tried::guarded(&server));
}

#[test]
fn crane_serves_publisher_and_device() {
    let server = Kind::Crane.start();
    serves_publisher_and_device("`crane registry serve` 0.20", "none", &Tried::open(&server.address));
}

#[test]
#[ignore = "takes a registry that is built for it: `make test-all` does that and runs this"]
fn ferro_serves_publisher_and_device() {
    let server = Kind::Ferro.start();
    serves_publisher_and_device("ferro-oci-server 1.0", "none", &Tried::open(&server.address));
}

/// Status of a request for the second half of an image.
fn half(address: &str, digest: Digest, size: u64) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /v2/os/blobs/{digest} HTTP/1.0\r\nHost: {address}\r\nRange: bytes={}-{}\r\n\r\n",
        size / 2,
        size - 1
    )
    .unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    text(&answer[..12]).rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Over a cache that has nothing yet, and whose own connection breaks too.
fn a_cache_serves_devices(name: &str, upstream: &str) {
    let behind = Line::broken_once(upstream, MIB);
    let cache = Registry::cache(&behind.address);
    let way = Tried { read: &cache.address, ..Tried::open(upstream) }.way();
    // One break here and one there.
    assert!((way.size..=3 * way.size).contains(&way.fetched), "{way:?}");
    // A range of an image that an empty cache does not have, and the same once it has the image.
    let folder = TempDir::new().unwrap();
    let initramfs = fs::read(large(folder.path()).initramfs).unwrap();
    let (digest, size) = (Digest::of(&initramfs), initramfs.len() as u64);
    let empty = Registry::cache(upstream);
    assert_eq!(half(&empty.address, digest, size), 200);
    let has_it = || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        half(&empty.address, digest, size) == 206
    };
    assert!((0..1000).any(|_| has_it()), "the cache does not keep the image");
    let resume = "begins again until the cache has the image";
    is_a_row(&[name, "none", "no: to its upstream", way.signatures, "yes", resume]);
}

#[test]
fn a_pull_through_cache_serves_devices() {
    let upstream = Registry::start();
    a_cache_serves_devices("docker-registry 2.8 as a pull-through cache", &upstream.address);
}

/// The referrers interface of the upstream is lost in the cache, the tag is not.
#[test]
#[ignore = "takes a registry that is built for it: `make test-all` does that and runs this"]
fn a_pull_through_cache_of_ferro_serves_devices() {
    let upstream = Kind::Ferro.start();
    a_cache_serves_devices("docker-registry 2.8 as a pull-through cache", &upstream.address);
}

/// As a copy, as a pull-through cache, and empty.
#[test]
fn a_real_registry_serves_as_mirror_and_an_empty_one_is_passed_over() {
    use kubesolo_update::config::RegistryMirror;
    use kubesolo_update::source::source::Known;
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (secret, keys) = key(&folder, "key");
    let files = images::files(folder.path(), Amd64, 1);
    let whole = fs::read(&files.initramfs).unwrap();
    publish(&registry, "1.0.0", &[files], &[secret]).unwrap();
    let read = |from: &str, mirror: &Registry| {
        let place = format!("{}/os", mirror.address);
        let options = FetchOptions {
            plain_http: vec![from.to_owned(), mirror.address.clone(), registry.address.clone()],
            registry_mirrors: vec![RegistryMirror { place, resolve: from != registry.address, ns: false }],
            ..FetchOptions::default()
        };
        let mut source = OciSource::new(&options, &format!("{from}/os"), None, "stable")?;
        source.look(&Known::default())?;
        let offer = source.offer(Amd64)?;
        keys.verify(&offer.signed, &offer.signatures)?;
        let mut body = source.open(&offer.release.initramfs.blob().unwrap())?;
        let mut received = vec![];
        while let Some(chunk) = body.chunk()? {
            received.extend_from_slice(&chunk);
        }
        Ok::<_, Error>(received)
    };
    // Without an answer of the registry, all comes from the mirror: the tag, the signatures, the images.
    let nobody = "127.0.0.1:1";
    assert!(read(nobody, &registry.sibling("")).unwrap() == whole);
    let cache = Registry::cache(&registry.address);
    assert!(read(nobody, &cache).unwrap() == whole);
    // An empty one leaves all to the registry, and alone it is no source.
    let empty = Registry::start();
    assert!(read(&registry.address, &empty).unwrap() == whole);
    read(nobody, &empty).unwrap_err();
}
