//! Indexes and manifests, and what servers answer instead.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Exit, Reason};
use kubesolo_update::base::limits;
use kubesolo_update::release::release::{self, Architecture};
use kubesolo_update::source::source::{self, Source};
use serde_json::json;

use super::*;
use crate::common::fault::{Fault, World, chunk, head, reply, send};
use crate::common::{self, bytes};

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
    refused(offer(&server), Reason::LimitExceeded);
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
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);
}

#[test]
fn a_manifest_is_as_large_as_its_descriptor_says_and_within_the_limit() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", &world.manifest)]);
    index["manifests"][0]["size"] = json!(world.manifest.len() + 1);
    world.tag("stable", &bytes(&index));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::SizeMismatch);
    index["manifests"][0]["size"] = json!(limits::MANIFEST_BYTES + 1);
    world.tag("stable", &bytes(&index));
    let server = broken(&world, "nothing", |_, _| ());
    refused(offer(&server), Reason::LimitExceeded);
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
    refused(offer(&server), Reason::DigestMismatch);
}

#[test]
fn a_tag_whose_digest_header_is_of_other_bytes_is_refused() {
    let world = World::new(10);
    let index = bytes(&common::index(&[("amd64", &world.manifest)]));
    let server = broken(&world, "manifests/stable", move |_, out| {
        reply(out, 200, &format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other")), &index);
    });
    refused(offer(&server), Reason::DigestMismatch);
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
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);
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
    refused(source_with(&server, &options).offer(Architecture::Amd64), Reason::Timeout);
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
    let keys = cosign::keys(1);
    let offer = source::offer(&mut source_with(&server, &options), Architecture::Amd64, Some(&keys));
    refused(offer, Reason::Timeout);
    assert!(server.requests().len() <= 3);
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left() {
    let server = Fault::start(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let mut options = options(&[&server.address]);
    options.patience.documents = Duration::from_millis(300);
    refused(source_with(&server, &options).offer(Architecture::Amd64), Reason::Timeout);
}

#[test]
fn what_is_no_http_is_unreachable() {
    let server = Fault::start(|_, out| {
        send(out, b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    refused(offer(&server), Reason::Unreachable);
}

#[test]
fn what_is_neither_manifest_nor_index_is_refused() {
    for body in ["", "[]", "{}", "null", r#"{"mediaType":"text/html"}"#] {
        let server = Fault::start(move |_, out| reply(out, 200, "Content-Type: application/json\r\n", body.as_bytes()));
        assert_eq!(offer(&server).unwrap_err().exit(), Exit::Data, "{body}");
    }
}

#[test]
fn an_index_that_is_a_manifest_too_is_refused() {
    let good = common::index(&[("amd64", &World::new(10).manifest)]);
    for (key, value) in [("layers", json!([])), ("config", json!({})), ("schemaVersion", json!(1))] {
        let (mut world, mut index) = (World::new(10), good.clone());
        index[key] = value;
        world.tag("stable", &bytes(&index));
        refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::MalformedIndex);
    }
    // Nor does a manifest pass for a list of referrers.
    let mut world = World::new(10);
    let mut list = common::referrers(&[&world.manifest]);
    list["mediaType"] = json!(release::OCI_MANIFEST_TYPE);
    world.tag(&world.fallback_tag(), &bytes(&list));
    assert!(offer(&broken(&world, "nothing", |_, _| ())).unwrap().signatures.is_empty());
}

#[test]
fn an_entry_that_is_no_manifest_is_passed_over() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", b"another index"), ("amd64", &world.manifest)]);
    index["manifests"][0]["mediaType"] = json!(release::OCI_INDEX_TYPE);
    world.tag("stable", &bytes(&index));
    assert_eq!(offer(&broken(&world, "nothing", |_, _| ())).unwrap().signed, world.manifest);
}

/// A document without a type of its own is known by its members, whatever its server says.
#[test]
fn the_type_of_an_untyped_document_comes_from_its_members() {
    let mut world = World::new(10);
    let mut index = common::index(&[("amd64", &world.manifest)]);
    index.as_object_mut().unwrap().remove("mediaType");
    let index = bytes(&index);
    let mut manifest = common::manifest("v1.0.0", Architecture::Amd64, b"kernel", &world.initramfs);
    manifest.as_object_mut().unwrap().remove("mediaType");
    let manifest = bytes(&manifest);
    for said in [
        "",
        "Content-Type: application/json\r\n",
        "Content-Type: Application/VND.OCI.image.index.v1+JSON; charset=utf-8\r\n",
        "Content-Type: application/octet-stream\r\n",
        "Content-Type: application/vnd.docker.distribution.manifest.v2+json\r\n",
    ] {
        let answer = index.clone();
        let untyped = broken(&world, "manifests/stable", move |_, out| reply(out, 200, said, &answer));
        offer(&untyped).map(|_| said).unwrap();
        let answer = manifest.clone();
        let untyped = broken(&world, "manifests/stable", move |_, out| reply(out, 200, said, &answer));
        let docker = said.contains("docker");
        let expected = if docker { release::DOCKER_MANIFEST_TYPE } else { release::OCI_MANIFEST_TYPE };
        assert_eq!(offer(&untyped).unwrap().signed_type, expected, "{said}");
    }
    for neither in [&b"{}"[..], br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, b"[]"] {
        world.tag("stable", neither);
        let e = offer(&broken(&world, "nothing", |_, _| ())).map(drop).unwrap_err();
        assert_eq!(e.exit(), Exit::Data, "{e}");
    }
    let mut capitals = common::index(&[("amd64", &world.manifest)]);
    capitals["mediaType"] = json!(release::OCI_INDEX_TYPE.to_uppercase());
    capitals["manifests"][0]["mediaType"] = json!(release::OCI_MANIFEST_TYPE.replace("oci", "OCI"));
    world.tag("stable", &bytes(&capitals));
    offer(&broken(&world, "nothing", |_, _| ())).unwrap();
}

/// Entries of others: attestations, artifacts without a platform.
#[test]
fn incomplete_platforms_of_other_entries_do_not_matter() {
    let mut world = World::new(10);
    for platform in [
        json!({}),
        json!({"architecture": "amd64"}),
        json!({"os": "linux"}),
        json!({"os": null, "architecture": null}),
        json!({"os": "", "architecture": ""}),
        json!(null),
    ] {
        let mut index = common::index(&[("amd64", b"another"), ("amd64", &world.manifest)]);
        index["manifests"][0]["platform"] = platform.clone();
        world.tag("stable", &bytes(&index));
        assert_eq!(offer(&broken(&world, "nothing", |_, _| ())).unwrap().signed, world.manifest, "{platform}");
        index["manifests"].as_array_mut().unwrap().pop();
        world.tag("stable", &bytes(&index));
        refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::NoSuchArchitecture);
    }
}

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
    let e = refused(offer(&server), Reason::ServerError);
    assert!(e.message.contains("500") && e.message.contains("database"), "{e}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn the_body_of_an_error_is_not_read_to_its_end() {
    let server = Fault::start(|_, out| {
        head(out, 403, CHUNKED);
        while chunk(out, &[b'x'; 1024]) {}
    });
    let e = refused(offer(&server), Reason::AccessDenied);
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
        let reason = if status == 429 { Reason::RateLimited } else { Reason::ServerError };
        let e = refused(offer(&server), reason);
        assert!(e.message.contains("Retry-After is 86400 s"), "{e}");
        assert_eq!(server.requests().len(), 1);
    }
    let (result, server) = download(&World::new(10), |_, out| reply(out, 429, "Retry-After: 4294967295\r\n", b""));
    refused(result, Reason::RateLimited);
    assert_eq!(server.requests().len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_missing_tag_is_told_from_a_missing_server() {
    let server = Fault::start(|_, out| reply(out, 404, "", b""));
    assert!(refused(offer(&server), Reason::TagNotFound).message.contains("os:stable"));
    // Nobody listens there. A port that was just given back may be another test's server by now.
    let closed = "127.0.0.1:1";
    let e = OciSource::new(&options(&[closed]), &format!("{closed}/os"), None, "stable")
        .unwrap()
        .offer(Architecture::Amd64);
    assert!(refused(e, Reason::Unreachable).message.contains("refused"));
}
