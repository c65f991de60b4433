//! The cost of a look and of an update for each kind of source, as the servers count it.

use crate::cli_support::Device;
use crate::common;
use crate::http::Site;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chrono::{SubsecRound, TimeDelta, Utc};
use common::fault::{self, Fault, Request, World, reply};
use common::{bytes, key, sign};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::release::statement::Statement;
use serde_json::json;

/// The credentials that a server wants to see before it gives anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Nobody,
    Basic,
    Token,
}

/// One kind of source with two releases, of which it shows one.
struct Origin {
    server: Fault,
    second: Arc<Mutex<bool>>,
    sent: Arc<Mutex<Sent>>,
    is_http: bool,
    login: Login,
}

/// Sums over the answers that the relay has passed on.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    answers: usize,
    /// Bytes of answers, without images.
    bytes: u64,
}

/// Sums over requests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    requests: usize,
    bytes: u64,
    units: usize,
}

fn is_image(path: &str) -> bool {
    let images = ["kernel".to_owned(), "v1.0.0".repeat(200), "v2.0.0".repeat(200)];
    let digests = images.map(|image| Digest::of(image.as_bytes()).to_string());
    ["/vmlinuz", "/kubesolo-os.gz"].iter().any(|name| path.ends_with(name))
        || digests.iter().any(|digest| path.ends_with(digest))
}

const BASIC: &str = "Basic Y2k6aHVudGVyMi1zZWNyZXQ=";

/// Passes a request on, and gives the size of the answer.
fn relay(behind: &str, request: &Request, out: &mut TcpStream) -> u64 {
    let mut stream = TcpStream::connect(behind).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.path);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    std::io::copy(&mut stream, out).unwrap_or_default()
}

fn allowed(login: Login, request: &Request, out: &mut TcpStream) -> bool {
    let authorization = request.header("authorization");
    let host = request.header("host").unwrap();
    let refuse = |challenge: String, out: &mut TcpStream| {
        reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        false
    };
    match login {
        Login::Token if request.path.starts_with("/token") => {
            reply(out, 200, "", b"{\"token\":\"ticket\"}");
            false
        }
        Login::Token if authorization != Some("Bearer ticket") => {
            refuse(format!("Bearer realm=\"http://{host}/token\",service=\"s\""), out)
        }
        Login::Basic if authorization != Some(BASIC) => refuse("Basic realm=\"r\"".into(), out),
        _ => true,
    }
}

fn statement(digest: Digest) -> Vec<u8> {
    let digests = BTreeMap::from([(Architecture::current().to_string(), digest)]);
    let issued = Utc::now().trunc_subsecs(0);
    let not_after = issued + TimeDelta::days(7);
    Statement { channel: "stable".into(), serial: 5, issued, not_after, digests }.encode()
}

fn world(version: &str, stated: bool) -> World {
    let mut world = World::of(version.as_bytes().repeat(200), version);
    world.tag("stable", &bytes(&common::index(&[(&Architecture::current().to_string(), &world.manifest)])));
    if stated {
        let raw = statement(Digest::of(&world.manifest));
        let signature = sign(&key(1), &raw);
        world.blob(&raw);
        world.blob(&signature);
        world.tag("stable.freshness", &bytes(&common::statement_manifest(&raw, &[&signature])));
    }
    world
}

fn site(version: &str, stated: bool) -> Site {
    let mut site = Site::new(version, b"kernel", &version.as_bytes().repeat(200));
    if stated {
        let raw = statement(Digest::of(site.get("latest.json")));
        site.put("freshness.json", &raw);
        site.put("freshness.json.sig", &sign(&key(1), &raw));
    }
    site
}

impl Origin {
    fn registry(login: Login, stated: bool) -> Self {
        let worlds = ["v1.0.0", "v2.0.0"].map(|version| world(version, stated));
        Self::start(false, login, move |second, request, out| worlds[usize::from(second)].answer(request, out))
    }

    fn http(stated: bool) -> Self {
        let sites = ["1.0.0", "2.0.0"].map(|version| site(version, stated));
        Self::start(true, Login::Nobody, move |second, request, out| sites[usize::from(second)].answer(request, out))
    }

    fn start(
        is_http: bool,
        login: Login,
        answer: impl Fn(bool, &Request, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let second = Arc::<Mutex<bool>>::default();
        let shown = second.clone();
        let behind = Fault::start(move |request, out| {
            if allowed(login, request, out) {
                answer(*shown.lock().unwrap(), request, out);
            }
        });
        let sent = Arc::<Mutex<Sent>>::default();
        let sum = sent.clone();
        let server = Fault::start(move |request, out| {
            let bytes = relay(&behind.address, request, out);
            let mut sum = sum.lock().unwrap();
            sum.answers += 1;
            sum.bytes += if is_image(&request.path) { 0 } else { bytes };
        });
        Self { server, second, sent, is_http, login }
    }

    /// A client has an answer before the relay has counted it.
    fn sent(&self) -> Sent {
        for _ in 0..2000 {
            let sent = *self.sent.lock().unwrap();
            if sent.answers == self.server.requests().len() {
                return sent;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the relay has not counted every answer");
    }

    fn run(&self, device: &Device, arguments: &[&str]) -> Cost {
        let before = self.sent();
        let ran =
            if self.is_http { device.over_http(&self.server, arguments) } else { device.from(&self.server, arguments) };
        ran.code(0);
        let after = self.sent();
        let requests = self.server.requests()[before.answers..].to_vec();
        let is_unit = |request: &&Request| request.method == "GET" && request.path.contains("/manifests/");
        Cost {
            requests: requests.len(),
            bytes: after.bytes - before.bytes,
            units: requests.iter().filter(is_unit).count(),
        }
    }

    /// The costs of a look that finds nothing new, and of an update to the second release.
    fn costs(&self) -> [Cost; 2] {
        let device = Device::new();
        device.write("conf", b"registry_auth=logins\n");
        let login = json!({"auths": {(self.server.address.clone()): {"auth": "Y2k6aHVudGVyMi1zZWNyZXQ="}}});
        let logins = if self.login == Login::Basic { login } else { json!({}) };
        device.write("logins", logins.to_string().as_bytes());
        fs::set_permissions(device.path("logins"), fs::Permissions::from_mode(0o600)).unwrap();
        let start = |device: &Device| {
            device.here(&["activate"]).code(0);
            device.power_on();
            device.here(&["healthcheck"]).code(0);
        };
        self.run(&device, &["apply"]);
        start(&device);
        *self.second.lock().unwrap() = true;
        let update = self.run(&device, &["apply"]);
        start(&device);
        // The run that keeps the answer, and the one after it.
        self.run(&device, &["apply"]);
        [self.run(&device, &["check"]), update]
    }
}

/// Rows of the table in docs/performance.md.
#[test]
fn the_table_of_requests_is_what_the_servers_get() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md")).unwrap();
    let mut wrong = vec![];
    for (name, origin) in [
        ("registry without login", Origin::registry(Login::Nobody, false)),
        ("registry with Basic", Origin::registry(Login::Basic, false)),
        ("registry with a token server", Origin::registry(Login::Token, false)),
        ("HTTP server", Origin::http(false)),
        ("registry with freshness statements", Origin::registry(Login::Nobody, true)),
        ("HTTP server with freshness statements", Origin::http(true)),
    ] {
        let [look, update] = origin.costs();
        let cell = |cost: &Cost| format!("{} | {:.1} KiB | {}", cost.requests, cost.bytes as f64 / 1024.0, cost.units);
        let row = format!("| {name} | {} | {} |", cell(&look), cell(&update));
        if !page.contains(&row) {
            wrong.push(row);
        }
    }
    assert!(wrong.is_empty(), "rows that docs/performance.md lacks:\n{}", wrong.join("\n"));
}

/// The server does not know HEAD, or answers it in a way of its own: a GET decides.
#[test]
fn a_registry_with_an_odd_head_costs_one_request_more_and_is_believed_in_nothing() {
    type Answer = fn(&mut TcpStream);
    let odd: [(&str, Answer); 6] = [
        ("no such method", |out| reply(out, 405, "", b"")),
        ("not there", |out| reply(out, 404, "", b"")),
        ("no digest", |out| fault::head(out, 200, "Content-Length: 100\r\n")),
        ("another digest", |out| {
            fault::head(out, 200, &format!("Docker-Content-Digest: {}\r\n", Digest([7; 32])));
        }),
        ("not a digest", |out| fault::head(out, 200, "Docker-Content-Digest: md5:00\r\n")),
        ("no answer", |_| ()),
    ];
    for (name, answer) in odd {
        let world = world("v1.0.0", false);
        let server = Fault::start(move |request, out| match &*request.method {
            "HEAD" => answer(out),
            _ => world.answer(request, out),
        });
        let device = Device::new();
        device.from(&server, &["apply"]).code(0);
        let before = server.requests().len();
        device.from(&server, &["apply"]).code(0).says(&["already complete in slot B"]);
        let asked: Vec<_> = server.requests()[before..].iter().map(|r| format!("{} {}", r.method, r.path)).collect();
        assert_eq!(asked, ["HEAD /v2/os/manifests/stable", "GET /v2/os/manifests/stable"], "{name}");
    }
}

/// The digest of HEAD is that of an offer which the device has, proven; the keys of now decide about it.
#[test]
fn a_digest_that_is_only_named_installs_nothing() {
    let worlds = [world("v1.0.0", false), world("v2.0.0", false)];
    let named = Digest::of(&worlds[0].files["/v2/os/manifests/stable"].1);
    let shown = worlds[1].clone();
    // HEAD names the old release, GET has the new one.
    let server = Fault::start(move |request, out| match &*request.method {
        "HEAD" => fault::head(out, 200, &format!("Docker-Content-Digest: {named}\r\n")),
        _ => shown.answer(request, out),
    });
    let device = Device::new();
    let report = device.from(&server, &["check", "--json"]).code(0).json();
    assert_eq!(report["offered"]["version"], "2.0.0", "nothing is known, so HEAD is not asked");
    let first = worlds[0].clone();
    let old = Fault::start(move |request, out| first.answer(request, out));
    device.from(&old, &["apply"]).code(0);
    let report = device.from(&server, &["check", "--json"]).code(0).json();
    assert_eq!(report["offered"]["version"], "1.0.0", "as if the registry had kept the tag");
    // A slot whose offer counts no more is no answer.
    device.save_key(&crate::cli_support::key(2), "K");
    device.from(&server, &["check", "--json"]).refused(77, "signature-unknown-key");
}

#[test]
fn an_unchanged_latest_json_is_not_sent_again() {
    let origin = Origin::http(false);
    let device = Device::new();
    let asked = |arguments: &[&str]| {
        let before = origin.server.requests().len();
        device.over_http(&origin.server, arguments).code(0);
        origin.server.requests()[before..].to_vec()
    };
    asked(&["apply"]);
    let again = asked(&["apply"]);
    assert!(again.len() == 1 && again[0].header("if-none-match").is_some(), "{again:?}");
    assert_eq!(again[0].header("cache-control"), Some("no-cache"));
    // The free slot has rotted: where the images are is known from the offer in it.
    device.write("B/vmlinuz", b"rotten");
    let repaired = asked(&["apply"]);
    assert_eq!(repaired.iter().filter(|r| r.path.ends_with("latest.json")).count(), 1, "{repaired:?}");
    // An ETag of yesterday does not count: servers make it of size and time.
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(device.path("S/fetch.json")).unwrap()).unwrap();
    record["tagged"]["read_at"] = json!("2020-01-01T00:00:00Z");
    device.write("S/fetch.json", record.to_string().as_bytes());
    let whole = asked(&["check"]);
    assert!(whole.len() == 1 && whole[0].header("if-none-match").is_none(), "{whole:?}");
    // A record of another offer: 304 does not turn one release into another.
    asked(&["apply"]);
    *origin.second.lock().unwrap() = true;
    let report = device.over_http(&origin.server, &["check", "--json"]).code(0).json();
    assert_eq!(report["offered"]["version"], "2.0.0");
}

#[test]
fn the_requests_that_are_left_are_shown_and_kept_for_monitoring() {
    let world = world("v1.0.0", false);
    let server = Fault::start(move |request, out| match request.path.ends_with("/manifests/stable") {
        true => {
            let (kind, body) = &world.files[&request.path];
            let limits = "ratelimit-limit: 100;w=21600\r\nratelimit-remaining: 76;w=21600\r\n";
            reply(out, 200, &format!("Content-Type: {kind}\r\n{limits}"), body);
        }
        false => world.answer(request, out),
    });
    let device = Device::new();
    device.from(&server, &["check"]).code(0).says(&["limit:        76 requests left at the source"]);
    assert_eq!(device.from(&server, &["check", "--json"]).code(0).json()["ratelimit_remaining"], 76);
    assert!(!device.here(&["metrics"]).code(0).stdout.contains("ratelimit_remaining"));
    device.from(&server, &["apply"]).code(0);
    device.here(&["metrics"]).code(0).says(&["kubesolo_update_ratelimit_remaining 76\n"]);
}
