//! The OCI source against a server that breaks every promise.

mod common;

use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fault::{Fault, Request, World, chunk, head, reply, send};
use common::{bytes, key, sign};
use kubesolo_update::error::{Error, Exit};
use kubesolo_update::fetch::{FetchOptions, Patience};
use kubesolo_update::limits;
use kubesolo_update::release::{self, Architecture, Blob, Digest};
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::{Offer, Source};
use serde_json::json;

fn impatient() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        documents: Duration::from_secs(20),
        idle: Duration::from_secs(5),
        retry_pause: Duration::from_millis(10),
        retry_after_max: Duration::from_secs(3),
        ..Patience::default()
    }
}

fn options(hosts: &[&str]) -> FetchOptions {
    let plain_http = hosts.iter().map(|&host| host.to_owned()).collect();
    FetchOptions { plain_http, proxies: false, patience: impatient(), registry_ca: None }
}

fn source_with(server: &Fault, options: &FetchOptions) -> OciSource {
    OciSource::new(options, &format!("{}/os", server.address), None, "stable").unwrap()
}

fn source(server: &Fault) -> OciSource {
    source_with(server, &options(&[&server.address]))
}

fn offer(server: &Fault) -> Result<Offer, Error> {
    source(server).offer(Architecture::Amd64)
}

fn refused<T>(result: Result<T, Error>, exit: Exit, reason: &str) -> Error {
    let e = result.map(|_| "accepted").unwrap_err();
    assert_eq!((e.exit, e.reason), (exit, reason), "{e}");
    assert!(e.message.is_ascii() && !e.message.bytes().any(|b| b.is_ascii_control()), "{}", e.message);
    e
}

fn fetch(source: &mut OciSource, blob: &Blob) -> Result<Vec<u8>, Error> {
    let mut body = source.open(blob)?;
    let mut all = vec![];
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
        assert!(all.len() as u64 <= blob.size, "never more than the size");
    }
    Ok(all)
}

/// The release of the world, but for paths that contain `part`, which `answer` answers.
fn broken(world: &World, part: &str, answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
    let (world, part) = (world.clone(), part.to_owned());
    Fault::start(move |request, out| match request.path.contains(&part) {
        true => answer(request, out),
        false => world.answer(request, out),
    })
}

fn initramfs(world: &World) -> Blob {
    Blob { digest: Digest::of(&world.initramfs), size: world.initramfs.len() as u64 }
}

/// Downloads the initramfs from a server that answers so.
fn download(
    world: &World,
    answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static,
) -> (Result<Vec<u8>, Error>, Fault) {
    let server = broken(world, "/blobs/", answer);
    (fetch(&mut source(&server), &initramfs(world)), server)
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

// ---- documents

#[test]
fn the_honest_server_is_believed() {
    let world = World::new(100_000);
    let server = broken(&world, "nothing", |_, _| ());
    let mut source = source(&server);
    let offer = source.offer(Architecture::Amd64).unwrap();
    assert_eq!((offer.signed, offer.signatures.len()), (world.manifest.clone(), 1));
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert_eq!(server.count("manifests/stable"), 1, "the tag is looked up once");
}

#[test]
fn an_endless_document_ends_at_the_limit() {
    let world = World::new(10);
    let sent = Arc::new(Mutex::new(0));
    let counter = sent.clone();
    let server = broken(&world, "manifests/stable", move |_, out| {
        head(out, 200, &format!("{CHUNKED}Content-Type: {}\r\n", release::OCI_INDEX_TYPE));
        while chunk(out, &[b' '; 4096]) {
            *counter.lock().unwrap() += 4096;
        }
    });
    refused(offer(&server), Exit::Data, "limit-exceeded");
    // The rest is what the sockets hold.
    assert!(*sent.lock().unwrap() < limits::INDEX_BYTES + 8 * 1024 * 1024);
}

#[test]
fn the_size_of_a_document_has_a_limit() {
    let padded = |world: &World, size: u64| {
        let mut index = bytes(&common::index(&[("amd64", &world.manifest)]));
        index.resize(size as usize, b' ');
        index
    };
    let mut world = World::new(10);
    world.tag("stable", &padded(&world, limits::INDEX_BYTES));
    offer(&broken(&world, "nothing", |_, _| ())).unwrap();
    world.tag("stable", &padded(&world, limits::INDEX_BYTES + 1));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "limit-exceeded");
}

#[test]
fn a_manifest_is_as_large_as_its_descriptor_says_and_within_the_limit() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", &world.manifest)]);
    index["manifests"][0]["size"] = json!(world.manifest.len() + 1);
    world.tag("stable", &bytes(&index));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "size-mismatch");
    index["manifests"][0]["size"] = json!(limits::MANIFEST_BYTES + 1);
    world.tag("stable", &bytes(&index));
    let server = broken(&world, "nothing", |_, _| ());
    refused(offer(&server), Exit::Data, "limit-exceeded");
    assert_eq!(server.requests().len(), 1, "refused before it is fetched");
}

#[test]
fn a_changed_manifest_is_refused_by_its_digest() {
    let world = World::new(10);
    let mut changed = world.manifest.clone();
    let at = changed.windows(6).position(|w| w == b"v1.0.0").unwrap();
    changed[at + 1] = b'9';
    let path = format!("manifests/{}", Digest::of(&world.manifest));
    let server = broken(&world, &path, move |_, out| reply(out, 200, "", &changed));
    refused(offer(&server), Exit::Data, "digest-mismatch");
}

#[test]
fn a_tag_whose_digest_header_is_of_other_bytes_is_refused() {
    let world = World::new(10);
    let index = bytes(&common::index(&[("amd64", &world.manifest)]));
    let server = broken(&world, "manifests/stable", move |_, out| {
        reply(out, 200, &format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other")), &index);
    });
    refused(offer(&server), Exit::Data, "digest-mismatch");
}

#[test]
fn entries_of_an_index_have_a_limit() {
    let mut world = World::new(10);
    let entries = |count: usize| {
        let entry = ("amd64", &world.manifest[..]);
        bytes(&common::index(&vec![entry; count]))
    };
    let (full, more) = (entries(limits::INDEX_ENTRIES), entries(limits::INDEX_ENTRIES + 1));
    world.tag("stable", &full);
    offer(&broken(&world, "nothing", |_, _| ())).unwrap();
    world.tag("stable", &more);
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "limit-exceeded");
}

#[test]
fn a_slow_document_ends_at_the_deadline() {
    let server = Fault::start(|_, out| {
        head(out, 200, CHUNKED);
        while chunk(out, b" ") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut options = options(&[&server.address]);
    options.patience.documents = Duration::from_millis(700);
    let begin = Instant::now();
    refused(source_with(&server, &options).offer(Architecture::Amd64), Exit::Unavailable, "timeout");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_deadline_is_one_for_all_documents_together() {
    let world = World::new(10);
    let server = Fault::start(move |request, out| {
        std::thread::sleep(Duration::from_millis(400));
        world.answer(request, out);
    });
    let mut options = options(&[&server.address]);
    options.patience.documents = Duration::from_secs(1);
    refused(source_with(&server, &options).offer(Architecture::Amd64), Exit::Unavailable, "timeout");
    assert!(server.requests().len() <= 3);
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left() {
    let server = Fault::start(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let mut options = options(&[&server.address]);
    options.patience.documents = Duration::from_millis(300);
    refused(source_with(&server, &options).offer(Architecture::Amd64), Exit::Unavailable, "timeout");
}

#[test]
fn what_is_no_http_is_unreachable() {
    let server = Fault::start(|_, out| {
        send(out, b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    refused(offer(&server), Exit::Unavailable, "unreachable");
}

#[test]
fn what_is_neither_manifest_nor_index_is_refused() {
    for body in ["", "[]", "{}", "null", r#"{"mediaType":"text/html"}"#, "<html>"] {
        let server = Fault::start(move |_, out| reply(out, 200, "Content-Type: application/json\r\n", body.as_bytes()));
        assert_eq!(offer(&server).unwrap_err().exit, Exit::Data, "{body}");
    }
}

#[test]
fn an_index_that_is_a_manifest_too_is_refused() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", &world.manifest)]);
    index["layers"] = json!([]);
    world.tag("stable", &bytes(&index));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "malformed-index");
}

/// A document without a type of its own has the one that its server says.
#[test]
fn the_type_of_an_untyped_document_comes_from_the_server() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", &world.manifest)]);
    index.as_object_mut().unwrap().remove("mediaType");
    world.tag("stable", &bytes(&index));
    offer(&broken(&world, "nothing", |_, _| ())).unwrap();
    let index = bytes(&index);
    let untyped = broken(&world, "manifests/stable", move |_, out| reply(out, 200, "", &index));
    refused(offer(&untyped), Exit::Data, "malformed-manifest");
}

// ---- statuses

#[test]
fn a_passing_error_is_tried_again() {
    let world = World::new(10);
    for status in [429, 500, 502, 503, 504] {
        let honest = world.clone();
        let server = broken(&world, "manifests/stable", move |request, out| match request.earlier {
            0 => reply(out, status, "", b"busy"),
            1 => drop(out.shutdown(std::net::Shutdown::Both)),
            _ => honest.answer(request, out),
        });
        offer(&server).unwrap();
    }
}

#[test]
fn a_lasting_error_ends_the_attempts() {
    let server = Fault::start(|_, out| reply(out, 500, "", b"\x1b[2Jdatabase\n\xff down"));
    let e = refused(offer(&server), Exit::Unavailable, "server-error");
    assert!(e.message.contains("500") && e.message.contains("database"), "{e}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn the_body_of_an_error_is_not_read_to_its_end() {
    let server = Fault::start(|_, out| {
        head(out, 403, CHUNKED);
        while chunk(out, &[b'x'; 1024]) {}
    });
    let e = refused(offer(&server), Exit::Unavailable, "access-denied");
    assert!(e.message.len() < 1000);
}

#[test]
fn retry_after_is_honoured_as_seconds_and_as_date() {
    let world = World::new(10);
    for header in
        ["Retry-After: 1\r\n", "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:28:01 GMT\r\n"]
    {
        let honest = world.clone();
        let server = broken(&world, "manifests/stable", move |request, out| match request.earlier {
            0 => reply(out, 429, header, b""),
            _ => honest.answer(request, out),
        });
        let begin = Instant::now();
        offer(&server).unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(1), "{header}");
    }
}

#[test]
fn a_long_retry_after_is_reported_not_waited_for() {
    let begin = Instant::now();
    for status in [429, 503] {
        let server = Fault::start(move |_, out| reply(out, status, "Retry-After: 86400\r\n", b""));
        let reason = if status == 429 { "rate-limited" } else { "server-error" };
        let e = refused(offer(&server), Exit::Unavailable, reason);
        assert!(e.message.contains("wait 86400 s"), "{e}");
        assert_eq!(server.requests().len(), 1);
    }
    let (result, server) = download(&World::new(10), |_, out| reply(out, 429, "Retry-After: 4294967295\r\n", b""));
    refused(result, Exit::Unavailable, "rate-limited");
    assert_eq!(server.requests().len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_missing_tag_is_told_from_a_missing_server() {
    let server = Fault::start(|_, out| reply(out, 404, "", b""));
    assert!(refused(offer(&server), Exit::Unavailable, "tag-not-found").message.contains("os:stable"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let e = OciSource::new(&options(&[&closed]), &format!("{closed}/os"), None, "stable")
        .unwrap()
        .offer(Architecture::Amd64);
    assert!(refused(e, Exit::Unavailable, "unreachable").message.contains("refused"));
}

// ---- redirects and tokens

fn redirect(out: &mut TcpStream, to: &str) {
    reply(out, 307, &format!("Location: {to}\r\n"), b"");
}

#[test]
fn redirects_have_a_limit() {
    let world = World::new(10);
    let chain = |length: usize| {
        let honest = world.clone();
        broken(&world, "stable", move |request, out| {
            let step: usize = request.path.split("step=").nth(1).map_or(0, |n| n.parse().unwrap());
            if step < length {
                return redirect(out, &format!("/v2/os/manifests/stable?step={}", step + 1));
            }
            honest.answer(&Request { path: "/v2/os/manifests/stable".into(), ..request.clone() }, out);
        })
    };
    offer(&chain(limits::REDIRECTS)).unwrap();
    let server = chain(limits::REDIRECTS + 1);
    refused(offer(&server), Exit::Data, "limit-exceeded");
    let server = Fault::start(|request, out| redirect(out, &request.path));
    refused(offer(&server), Exit::Data, "limit-exceeded");
    assert_eq!(server.requests().len(), limits::REDIRECTS + 1);
}

#[test]
fn a_redirect_leads_to_plain_http_only_where_that_is_listed() {
    let world = World::new(1000);
    let store = broken(&world, "nothing", |_, _| ());
    let elsewhere = store.address.clone();
    let server = broken(&world, "/blobs/", move |request, out| {
        redirect(out, &format!("http://{elsewhere}{}?X-Amz-Signature=secret", request.path));
    });
    let e = refused(fetch(&mut source(&server), &initramfs(&world)), Exit::Unavailable, "not-https");
    assert!(!e.message.contains("secret"), "{e}");
    assert!(store.requests().is_empty());
    let world_store = world.clone();
    let store = Fault::start(move |request, out| {
        let path = request.path.split('?').next().unwrap().to_owned();
        world_store.answer(&Request { path, ..request.clone() }, out);
    });
    let elsewhere = store.address.clone();
    let server = broken(&world, "/blobs/", move |request, out| {
        redirect(out, &format!("http://user:password@{elsewhere}{}?X-Amz-Signature=secret", request.path));
    });
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert!(store.requests().iter().all(|r| r.header("authorization").is_none()), "a Location gives no credentials");
}

#[test]
fn a_redirect_to_nowhere_is_refused() {
    for to in ["http://", "mailto:nobody@example.org", "file:///etc/passwd", "data:,x"] {
        let server = Fault::start(move |_, out| redirect(out, to));
        offer(&server).map(|_| to).unwrap_err();
    }
}

/// A registry that wants a token from itself; `token` answers for it.
fn guarded(world: &World, token: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
    let world = world.clone();
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return token(request, out);
        }
        if request.header("authorization") == Some("Bearer good") {
            return world.answer(request, out);
        }
        let realm = own.lock().unwrap().clone();
        let challenge =
            format!("Bearer realm=\"http://{realm}/token\",service=\"the service\",scope=\"repository:os:pull\"");
        reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
    });
    *address.lock().unwrap() = server.address.clone();
    server
}

#[test]
fn a_token_is_fetched_once_and_used_for_everything() {
    for name in ["token", "access_token"] {
        let world = World::new(1000);
        let server = guarded(&world, move |_, out| reply(out, 200, "", format!("{{\"{name}\":\"good\"}}").as_bytes()));
        let mut source = source(&server);
        assert_eq!(source.offer(Architecture::Amd64).unwrap().signatures.len(), 1);
        assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
        assert_eq!(server.count("/token"), 1);
        assert_eq!(server.requests()[1].path, "/token?service=the+service&scope=repository%3Aos%3Apull");
    }
}

#[test]
fn an_expired_token_is_renewed_in_the_middle_of_a_download() {
    let world = World::new(100_000);
    let (honest, blob) = (world.clone(), World::path(&world.initramfs));
    let valid = Arc::new(Mutex::new(1));
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        let mut valid = valid.lock().unwrap();
        if request.path.starts_with("/token") {
            return reply(out, 200, "", format!("{{\"token\":\"t{valid}\"}}").as_bytes());
        }
        if request.header("authorization") != Some(format!("Bearer t{valid}").as_str()) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", own.lock().unwrap());
            return reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        }
        if request.path == blob && request.from().is_none() {
            *valid += 1;
            head(out, 200, "Content-Length: 100000\r\n");
            send(out, &honest.initramfs[..30_000]);
            return;
        }
        honest.answer(request, out);
    });
    *address.lock().unwrap() = server.address.clone();
    assert_eq!(fetch(&mut source(&server), &initramfs(&world)).unwrap(), world.initramfs);
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_token_goes_to_nobody_else() {
    let world = World::new(1000);
    let store = broken(&world, "nothing", |_, _| ());
    let elsewhere = store.address.clone();
    let mut with_redirect = world.clone();
    with_redirect.files.retain(|path, _| !path.contains("/blobs/"));
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return reply(out, 200, "", b"{\"token\":\"good\"}");
        }
        if request.header("authorization") != Some("Bearer good") {
            let challenge = format!("Bearer realm=\"http://{}/token\"", own.lock().unwrap());
            return reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        }
        redirect(out, &format!("http://{elsewhere}{}", request.path));
    });
    *address.lock().unwrap() = server.address.clone();
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert!(!store.requests().is_empty());
    assert!(store.requests().iter().all(|r| r.header("authorization").is_none()));
}

/// The store of a registry that redirects must not be able to collect tokens by asking for them.
#[test]
fn a_challenge_after_a_redirect_is_not_answered() {
    let world = World::new(1000);
    let store = Fault::start(|_, out| {
        reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b"");
    });
    let elsewhere = store.address.clone();
    let server =
        broken(&world, "/blobs/", move |request, out| redirect(out, &format!("http://{elsewhere}{}", request.path)));
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    refused(fetch(&mut source, &initramfs(&world)), Exit::Unavailable, "access-denied");
    assert_eq!(store.count("/token"), 0);
}

#[test]
fn the_answer_of_a_token_server_has_a_limit() {
    let world = World::new(10);
    let answer = |size: u64| {
        let mut answer = b"{\"token\":\"good\"}".to_vec();
        answer.resize(size as usize, b' ');
        answer
    };
    let (full, more) = (answer(limits::TOKEN_BYTES), answer(limits::TOKEN_BYTES + 1));
    offer(&guarded(&world, move |_, out| reply(out, 200, "", &full))).unwrap();
    refused(offer(&guarded(&world, move |_, out| reply(out, 200, "", &more))), Exit::Data, "limit-exceeded");
}

#[test]
fn a_token_that_is_none_is_a_refused_access() {
    let world = World::new(10);
    for body in ["{}", "{\"token\":\"\"}", "{\"token\":\"a\\nInjected: header\"}", "{\"token\":\"wrong\"}"] {
        let server = guarded(&world, move |_, out| reply(out, 200, "", body.as_bytes()));
        refused(offer(&server), Exit::Unavailable, "access-denied");
        assert!(server.requests().iter().all(|r| r.header("injected").is_none()));
    }
    refused(offer(&guarded(&world, |_, out| reply(out, 403, "", b""))), Exit::Unavailable, "access-denied");
    refused(offer(&guarded(&world, |_, out| reply(out, 200, "", b"<html>"))), Exit::Data, "malformed-json");
}

#[test]
fn challenges_that_cannot_be_met_are_a_refused_access() {
    for challenge in
        ["Basic realm=\"registry\"", "Bearer service=\"no realm\"", "Bearer realm=\"http://[\"", "Bearer", ",,=", ""]
    {
        let server = Fault::start(move |_, out| reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b""));
        refused(offer(&server), Exit::Unavailable, "access-denied");
    }
    let elsewhere = Fault::start(|_, out| reply(out, 200, "", b"{\"token\":\"t\"}"));
    let realm = elsewhere.address.clone();
    let server = Fault::start(move |_, out| {
        reply(out, 401, &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\"\r\n"), b"");
    });
    refused(offer(&server), Exit::Unavailable, "not-https");
    assert!(elsewhere.requests().is_empty());
}

// ---- images

#[test]
fn a_blob_of_another_size_is_refused_before_anything_is_erased() {
    let world = World::new(1000);
    for size in [999, 1001] {
        let server = broken(&world, "/blobs/", move |_, out| reply(out, 200, "", &vec![0; size]));
        let opened = source(&server).open(&initramfs(&world)).map(|_| ());
        refused(opened, Exit::Data, "size-mismatch");
    }
    let server = broken(&world, "/blobs/", |_, out| reply(out, 404, "", b""));
    refused(source(&server).open(&initramfs(&world)).map(|_| ()), Exit::Unavailable, "not-found");
    assert_eq!(server.requests().len(), 1, "a 404 is not tried again");
}

#[test]
fn one_byte_too_many_is_refused_and_never_handed_on() {
    let world = World::new(1000);
    let all = world.initramfs.clone();
    let (result, _) = download(&world, move |_, out| {
        head(out, 200, CHUNKED);
        chunk(out, &all);
        chunk(out, b"x");
        chunk(out, b"");
    });
    refused(result, Exit::Data, "size-mismatch");
    let (result, server) = download(&world, |_, out| {
        head(out, 200, CHUNKED);
        while chunk(out, &[0; 4096]) {}
    });
    refused(result, Exit::Data, "size-mismatch");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_blob_that_ends_early_by_its_own_word_is_refused() {
    let world = World::new(1000);
    let part = world.initramfs[..999].to_vec();
    let (result, server) = download(&world, move |_, out| {
        head(out, 200, CHUNKED);
        chunk(out, &part);
        chunk(out, b"");
    });
    refused(result, Exit::Data, "size-mismatch");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let world = World::new(1_000_000);
    for framing in ["Content-Length: 1000000\r\n", CHUNKED, ""] {
        let honest = world.clone();
        let (result, server) = download(&world, move |request, out| match request.from() {
            None => {
                head(out, 200, framing);
                match framing {
                    CHUNKED => chunk(out, &honest.initramfs[..300_000]),
                    _ => send(out, &honest.initramfs[..300_000]),
                };
            }
            Some(from) if from < 700_000 => {
                let range =
                    format!("Content-Range: bytes {from}-999999/1000000\r\nContent-Length: {}\r\n", 1_000_000 - from);
                head(out, 206, &range);
                send(out, &honest.initramfs[from..from + 300_000]);
            }
            _ => honest.answer(request, out),
        });
        assert_eq!(result.unwrap(), world.initramfs, "{framing}");
        let ranges: Vec<_> = server.requests().iter().map(Request::from).collect();
        assert!(ranges.len() >= 3 && ranges[1].is_some(), "{ranges:?}");
    }
}

#[test]
fn a_server_that_does_not_resume_is_skipped_through() {
    let world = World::new(500_000);
    let all = world.initramfs.clone();
    let (result, _) = download(&world, move |request, out| {
        head(out, 200, "Content-Length: 500000\r\n");
        send(out, &all[..if request.earlier == 0 { 200_000 } else { 500_000 }]);
    });
    assert_eq!(result.unwrap(), world.initramfs);
}

#[test]
fn a_part_that_was_not_asked_for_is_refused() {
    let world = World::new(1000);
    for range in
        ["bytes 0-999/1000", "bytes 99-999/1000", "bytes 100-998/1000", "bytes 100-999/1001", "bytes */1000", ""]
    {
        let all = world.initramfs.clone();
        let (result, _) = download(&world, move |request, out| match request.from() {
            None => {
                head(out, 200, "Content-Length: 1000\r\n");
                send(out, &all[..100]);
            }
            Some(from) => reply(out, 206, &format!("Content-Range: {range}\r\n"), &all[from..]),
        });
        refused(result, Exit::Data, "range-mismatch");
    }
    // Nobody asked for a part at all.
    let (result, _) = download(&world, |_, out| reply(out, 206, "Content-Range: bytes 0-999/1000\r\n", &[0; 1000]));
    refused(result, Exit::Unavailable, "server-error");
}

#[test]
fn a_connection_that_keeps_breaking_is_given_up() {
    let world = World::new(1000);
    let (result, server) = download(&world, |_, out| {
        head(out, 200, "Content-Length: 1000\r\n");
    });
    let e = refused(result, Exit::Unavailable, "unreachable");
    assert!(e.message.contains("after 0 of 1000 bytes"), "{e}");
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn progress_makes_up_for_broken_connections() {
    let world = World::new(2_000_000);
    let honest = world.clone();
    let (result, server) = download(&world, move |request, out| {
        let from = request.from().unwrap_or(0);
        let range = format!("Content-Range: bytes {from}-1999999/2000000\r\nContent-Length: {}\r\n", 2_000_000 - from);
        head(out, if from == 0 { 200 } else { 206 }, &range);
        send(out, &honest.initramfs[from..(from + 200_000).min(2_000_000)]);
    });
    assert_eq!(result.unwrap(), world.initramfs);
    assert!(server.requests().len() > 6);
}

#[test]
fn a_download_that_stalls_is_taken_up_again() {
    let world = World::new(1000);
    let honest = world.clone();
    let server = broken(&world, "/blobs/", move |request, out| match request.from() {
        None => {
            head(out, 200, "Content-Length: 1000\r\n");
            send(out, &honest.initramfs[..500]);
            std::thread::sleep(Duration::from_secs(30));
        }
        _ => honest.answer(request, out),
    });
    let mut options = options(&[&server.address]);
    options.patience.idle = Duration::from_millis(300);
    assert_eq!(fetch(&mut source_with(&server, &options), &initramfs(&world)).unwrap(), world.initramfs);
}

#[test]
fn a_download_that_drips_is_given_up() {
    let world = World::new(100_000);
    let server = broken(&world, "/blobs/", |_, out| {
        head(out, 200, "Content-Length: 100000\r\n");
        while send(out, &[0; 10]) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut options = options(&[&server.address]);
    options.patience.rate_window = Duration::from_millis(500);
    options.patience.rate_min = 10_000;
    let begin = Instant::now();
    refused(fetch(&mut source_with(&server, &options), &initramfs(&world)), Exit::Unavailable, "too-slow");
    assert!(begin.elapsed() < Duration::from_secs(5));
    options.patience.rate_min = 20;
    let mut source = source_with(&server, &options);
    let mut body = source.open(&initramfs(&world)).unwrap();
    let end = Instant::now() + Duration::from_millis(1700);
    while Instant::now() < end {
        body.chunk().unwrap();
    }
}

/// A slow disk is not a slow server.
#[test]
fn time_between_the_chunks_is_not_held_against_the_server() {
    let world = World::new(3_000_000);
    let server = broken(&world, "nothing", |_, _| ());
    let mut options = options(&[&server.address]);
    options.patience.rate_window = Duration::from_millis(500);
    options.patience.rate_min = 100_000_000;
    let mut source = source_with(&server, &options);
    let mut body = source.open(&initramfs(&world)).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    while body.chunk().unwrap().is_some() {}
}

#[test]
fn foreign_urls_of_layers_are_never_followed() {
    let elsewhere = Fault::start(|_, out| reply(out, 200, "", b"kernel"));
    let mut world = World::new(1000);
    let mut manifest = common::manifest("v1.0.0", Architecture::Amd64, b"kernel", &world.initramfs);
    manifest["layers"][0]["urls"] = json!([format!("http://{}/kernel", elsewhere.address)]);
    let raw = bytes(&manifest);
    world.manifest(&raw);
    world.tag("stable", &bytes(&common::index(&[("amd64", &raw)])));
    world.files.remove(&World::path(b"kernel"));
    let server = broken(&world, "nothing", |_, _| ());
    let mut source = source_with(&server, &options(&[&server.address, &elsewhere.address]));
    let release = source.offer(Architecture::Amd64).unwrap().release;
    refused(fetch(&mut source, &release.kernel), Exit::Unavailable, "not-found");
    assert!(elsewhere.requests().is_empty());
}

// ---- signatures

fn signatures(world: &World) -> usize {
    offer(&broken(world, "nothing", |_, _| ())).unwrap().signatures.len()
}

/// The release with this list of referrers at its fallback tag.
fn listed(world: &mut World, manifests: &[&[u8]]) {
    world.tag(&world.fallback_tag(), &bytes(&common::referrers(manifests)));
}

#[test]
fn a_bad_signature_among_good_ones_is_left_out() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let good = world.signature(&signed, 2);
    let gone = bytes(&common::signature_manifest(&signed, &[1; 64], "0"));
    let of_another = world.signature(b"another manifest", 1);
    let short = bytes(&common::signature_manifest(&signed, &[1; 63], "0"));
    world.blob(&[1; 63]);
    world.manifest(&short);
    let without_blob = bytes(&common::signature_manifest(&signed, &[2; 64], "0"));
    world.manifest(&without_blob);
    let changed = bytes(&common::signature_manifest(&signed, &[3; 64], "0"));
    world.manifest(&changed);
    world.files.insert(World::path(&[3; 64]), (String::new(), vec![4; 64]));
    let no_json = b"no json".to_vec();
    world.manifest(&no_json);
    let release_instead = signed.clone();
    listed(&mut world, &[&gone, &of_another, &short, &without_blob, &changed, &no_json, &release_instead, &good]);
    let offer = offer(&broken(&world, "nothing", |_, _| ())).unwrap();
    assert_eq!(offer.signatures.len(), 1);
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(2), &signed));
}

#[test]
fn a_server_that_fails_is_not_an_unsigned_release() {
    let world = World::new(10);
    for part in [world.fallback_tag(), World::path(&sign(&key(1), &world.manifest)), "/referrers/".into()] {
        let server = broken(&world, &part, |_, out| reply(out, 500, "", b""));
        refused(offer(&server), Exit::Unavailable, "server-error");
    }
}

#[test]
fn signatures_and_referrers_have_limits() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let many: Vec<Vec<u8>> = (0..=limits::SIGNATURES as u8).map(|seed| world.signature(&signed, seed)).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    listed(&mut world, &many[..limits::SIGNATURES]);
    assert_eq!(signatures(&world), limits::SIGNATURES);
    listed(&mut world, &many);
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "limit-exceeded");

    // Referrers of other kinds are not fetched, but there must not be too many either.
    let flood = |count: usize| {
        let mut list = common::referrers(&[many[0]]);
        let mut other = list["manifests"][0].clone();
        other["artifactType"] = json!("application/spdx+json");
        for _ in 1..count {
            list["manifests"].as_array_mut().unwrap().insert(0, other.clone());
        }
        bytes(&list)
    };
    world.tag(&world.fallback_tag(), &flood(limits::REFERRERS));
    assert_eq!(signatures(&world), 1);
    world.tag(&world.fallback_tag(), &flood(limits::REFERRERS + 1));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "limit-exceeded");
    world.tag(&world.fallback_tag(), &flood(5000));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "limit-exceeded");
}

#[test]
fn the_same_signature_listed_often_is_fetched_once() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let one = world.signature(&signed, 2);
    listed(&mut world, &[&one[..]; 100]);
    assert_eq!(signatures(&world), 1);
}

/// Answers the referrers interface with `list`, and everything else as the world does.
fn with_referrers(world: &World, list: impl Fn(&Request) -> (String, Vec<u8>) + Send + Sync + 'static) -> Fault {
    broken(world, "/referrers/", move |request, out| {
        let (headers, body) = list(request);
        reply(out, 200, &format!("Content-Type: {}\r\n{headers}", release::OCI_INDEX_TYPE), &body);
    })
}

#[test]
fn the_referrers_interface_is_asked_for_signatures_only() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let signature = world.signature(&signed, 3);
    let server = with_referrers(&world, move |_| (String::new(), bytes(&common::referrers(&[&signature]))));
    let offer = offer(&server).unwrap();
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(3), &signed));
    let asked = format!(
        "/v2/os/referrers/{}?artifactType=application%2Fvnd.kubesolo.os.signature.v1%2Bed25519",
        Digest::of(&signed)
    );
    assert_eq!(server.requests().iter().filter(|r| r.path == asked).count(), 1);
    assert_eq!(server.count("sha256-"), 0, "no need for the fallback tag");
}

#[test]
fn pages_of_referrers_are_followed_within_the_limits_and_the_server() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let all = [world.signature(&signed, 3), world.signature(&signed, 4)];
    let pages = all.clone();
    let server = with_referrers(&world, move |request| match request.path.contains("page=2") {
        false => ("Link: <?page=2>; rel=\"next\"\r\n".into(), bytes(&common::referrers(&[&pages[0]]))),
        true => (String::new(), bytes(&common::referrers(&[&pages[1]]))),
    });
    assert_eq!(offer(&server).unwrap().signatures.len(), 2);

    // Pages without end, each with something else.
    let server = with_referrers(&world, |request| {
        let page: usize = request.path.split("page=").nth(1).map_or(0, |n| n.parse().unwrap());
        let mut list = common::referrers(&[b"x"]);
        list["manifests"][0]["artifactType"] = json!("application/spdx+json");
        (format!("Link: <?page={}>; rel=\"next\"\r\n", page + 1), bytes(&list))
    });
    refused(offer(&server), Exit::Data, "limit-exceeded");
    assert!(server.count("page=") <= limits::REFERRERS);

    let elsewhere = Fault::start(|_, out| reply(out, 404, "", b""));
    let link = format!("Link: <http://{}/next>; rel=\"next\"\r\n", elsewhere.address);
    let server = with_referrers(&world, move |_| (link.clone(), bytes(&common::referrers(&[&all[0]]))));
    source_with(&server, &options(&[&server.address, &elsewhere.address])).offer(Architecture::Amd64).unwrap();
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn the_fallback_tag_is_read_when_the_interface_has_nothing() {
    let world = World::new(10);
    let empty = with_referrers(&world, |_| (String::new(), bytes(&common::referrers(&[]))));
    assert_eq!(offer(&empty).unwrap().signatures.len(), 1);
    for status in [400, 404, 405, 406] {
        let server = broken(&world, "/referrers/", move |_, out| reply(out, status, "", b""));
        assert_eq!(offer(&server).unwrap().signatures.len(), 1, "{status}");
    }
    let page = broken(&world, "/referrers/", |_, out| reply(out, 200, "Content-Type: text/html\r\n", b"<html>"));
    assert_eq!(offer(&page).unwrap().signatures.len(), 1);
}

#[test]
fn a_list_of_referrers_that_is_none_is_refused() {
    let mut world = World::new(10);
    world.tag(&world.fallback_tag(), b"no json");
    refused(offer(&broken(&world, "nothing", |_, _| ())), Exit::Data, "malformed-json");
}
