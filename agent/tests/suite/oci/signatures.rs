//! Signatures, among all that can be attached to a manifest.

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::base::limits;
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::{self, Architecture, SIGNATURE_TYPE};
use kubesolo_update::source::source::{self, Source};
use serde_json::json;

use super::cosign::keys;
use super::*;
use crate::common::fault::{Fault, Request, World, head, reply};
use crate::common::{self, bytes, key, sign};

/// The offer, with all signatures that a device with the key of `World` looks for.
fn verified(server: &Fault) -> Result<Offer, Error> {
    let keys = keys(1);
    let offer = source::offer(&mut source(server), Architecture::Amd64, Some(&keys))?;
    keys.verify(&offer.signed, &offer.signatures)?;
    Ok(offer)
}

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
    let other_than = |part: &str, value: serde_json::Value| {
        let mut manifest = common::signature_manifest(&signed, &sign(&key(3), &signed), "0");
        manifest[part] = value;
        bytes(&manifest)
    };
    world.signature(&signed, 3);
    let of_another_type = other_than("artifactType", json!("application/spdx+json"));
    let of_many_layers = other_than("layers", json!(vec![common::descriptor(SIGNATURE_TYPE, &[5; 64]); 17]));
    let an_index_too = other_than("manifests", json!([]));
    let strange = [of_another_type, of_many_layers, an_index_too];
    strange.iter().for_each(|manifest| world.manifest(manifest));
    let mut all: Vec<&[u8]> = vec![&gone, &of_another, &short, &without_blob, &changed, &no_json, &release_instead];
    all.extend(strange.iter().map(Vec::as_slice));
    all.push(&good);
    listed(&mut world, &all);
    let offer = offer(&broken(&world, "nothing", |_, _| ())).unwrap();
    assert_eq!(offer.signatures.len(), 1);
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(2), &signed));
}

#[test]
fn a_server_that_fails_is_not_an_unsigned_release() {
    let world = World::new(10);
    for part in [world.fallback_tag(), World::path(&sign(&key(1), &world.manifest))] {
        let server = broken(&world, &part, |_, out| reply(out, 500, "", b""));
        refused(verified(&server), Reason::ServerError);
    }
}

#[test]
fn junk_before_a_good_signature_never_hides_it() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let good = world.signature(&signed, 1);
    // More than count, by keys that nobody knows.
    let mut all: Vec<Vec<u8>> = (2..60).map(|seed| world.signature(&signed, seed)).collect();
    // More than a device reads of its own kind at once, and none of it is there.
    all.extend((0..300u16).map(|n| bytes(&common::signature_manifest(&signed, &[1; 64], &n.to_string()))));
    all.push(good);
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    listed(&mut world, &all);
    let offer = verified(&broken(&world, "nothing", |_, _| ())).unwrap();
    assert_eq!(offer.signatures.len(), limits::SIGNATURES);
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(1), &signed), "the one that counts comes first");

    // Layers before it in the same manifest.
    let raw = sign(&key(1), &signed);
    let mut many = common::signature_manifest(&signed, &[9; 64], "0");
    let layers: Vec<_> =
        (0..limits::MANIFEST_LAYERS as u8 - 1).map(|n| common::descriptor(SIGNATURE_TYPE, &[n; 64])).collect();
    many["layers"] = json!([layers, vec![common::descriptor(SIGNATURE_TYPE, &raw)]].concat());
    let many = bytes(&many);
    world.manifest(&many);
    listed(&mut world, &[&many]);
    verified(&broken(&world, "nothing", |_, _| ())).unwrap();
}

#[test]
fn entries_of_foreign_kinds_do_not_count_and_are_read_last() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let good = world.signature(&signed, 1);
    let flood = |count: usize| {
        let mut list = common::referrers(&[&good]);
        for n in 0..count {
            let mut other = common::descriptor(release::OCI_MANIFEST_TYPE, format!("list of parts {n}").as_bytes());
            other["artifactType"] = json!("application/spdx+json");
            list["manifests"].as_array_mut().unwrap().insert(0, other);
        }
        bytes(&list)
    };
    let list = flood(1000);
    assert!(list.len() as u64 <= limits::REFERRERS_BYTES);
    world.tag(&world.fallback_tag(), &list);
    let server = broken(&world, "nothing", |_, _| ());
    verified(&server).unwrap();
    assert_eq!(server.requests().len(), 6, "none of them was fetched: {:?}", server.requests());
    // The bytes of a list have a limit.
    world.tag(&world.fallback_tag(), &flood(3000));
    refused(verified(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);
}

#[test]
fn the_search_for_signatures_has_a_limit() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let good = world.signature(&signed, 1);
    let mut all: Vec<Vec<u8>> = vec![];
    for n in 0..12u8 {
        let mut large = bytes(&common::signature_manifest(&signed, &[n; 64], "0"));
        large.resize(100_000, b' ');
        world.manifest(&large);
        all.push(large);
    }
    all.push(good);
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    listed(&mut world, &all[3..]);
    verified(&broken(&world, "nothing", |_, _| ())).unwrap();
    listed(&mut world, &all);
    let server = broken(&world, "nothing", |_, _| ());
    // Reported as the first signature that cannot be read.
    refused(verified(&server), Reason::NotFound);
    assert!(server.count("manifests/sha256:") <= 12);
}

#[test]
fn a_signature_that_is_there_and_cannot_be_read_is_told_as_that() {
    let world = World::new(10);
    let signed = world.manifest.clone();
    let raw = sign(&key(1), &signed);
    let attached = Digest::of(&bytes(&common::signature_manifest(&signed, &raw, &common::key_id(&key(1)))));
    let changed = |part: String, answer: &'static [u8], status: u16| {
        broken(&world, &part, move |_, out| reply(out, status, "", answer))
    };
    for (server, reason) in [
        (changed(World::path(&raw), b"", 404), Reason::NotFound),
        (changed(World::path(&raw), &[1; 64], 200), Reason::DigestMismatch),
        (changed(World::path(&raw), &[1; 65], 200), Reason::LimitExceeded),
        (changed(World::path(&raw), b"", 403), Reason::AccessDenied),
        (changed(format!("manifests/{attached}"), b"", 404), Reason::NotFound),
        (changed(format!("manifests/{attached}"), b"{}", 200), Reason::SizeMismatch),
    ] {
        refused(verified(&server), reason);
    }
}

#[test]
fn a_name_of_a_key_is_one_or_none() {
    for (named, taken) in [
        ("0123456789abcdef", true),
        ("0123456789ABCDEF", false),
        ("0123456789abcde", false),
        ("0123456789abcdef0", false),
        ("\u{1b}[2J\u{1b}[2J\u{1b}[2J\n\n\n\n", false),
    ] {
        let mut world = World::new(10);
        let signature = sign(&key(1), &world.manifest);
        let manifest = bytes(&common::signature_manifest(&world.manifest, &signature, named));
        world.manifest(&manifest);
        listed(&mut world, &[&manifest]);
        let found = offer(&broken(&world, "nothing", |_, _| ())).unwrap().signatures;
        assert_eq!((found[0].bytes.to_vec(), found[0].key_id.is_some()), (signature, taken), "{named:?}");
    }
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
    for link in
        ["<?page=2>; rel=\"next\"", "<?page=2>; rel=next", "</>; rel=\"first\", <?page=2>; title=\"a,b\"; rel=\"next\""]
    {
        let pages = all.clone();
        let server = with_referrers(&world, move |request| match request.path.contains("page=2") {
            false => (format!("Link: {link}\r\n"), bytes(&common::referrers(&[&pages[0]]))),
            true => (String::new(), bytes(&common::referrers(&[&pages[1]]))),
        });
        assert_eq!(offer(&server).unwrap().signatures.len(), 2, "{link}");
    }

    // Pages without end, each with something else; and with nothing.
    for full in [true, false] {
        let server = with_referrers(&world, move |request| {
            let page: usize = request.path.split("page=").nth(1).map_or(0, |n| n.parse().unwrap());
            let mut list = common::referrers(if full { &[b"x"] } else { &[] });
            if full {
                list["manifests"][0]["artifactType"] = json!("application/spdx+json");
            }
            (format!("Link: <?page={}>; rel=\"next\"\r\n", page + 1), bytes(&list))
        });
        // The fallback tag has the signature.
        verified(&server).unwrap();
        assert!(server.count("page=") as u64 <= limits::REFERRERS_BYTES / limits::ATTACHED_BYTES_LEAST);
    }

    // A page that fails does not take the ones before it along.
    let pages = all.clone();
    let server = broken(&world, "/referrers/", move |request, out| match request.path.contains("page=2") {
        false => reply(out, 200, "Link: <?page=2>; rel=next\r\n", &bytes(&common::referrers(&[&pages[0]]))),
        true => reply(out, 500, "", b""),
    });
    assert_eq!(offer(&server).unwrap().signatures.len(), 1);

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
    for status in [400, 401, 403, 404, 405, 406, 429, 500, 501, 503] {
        let server = broken(&world, "/referrers/", move |_, out| {
            reply(out, status, "Retry-After: 3\r\nContent-Type: text/html\r\n", b"<html>");
        });
        verified(&server).map(|_| status).unwrap();
        assert_eq!(server.count("/referrers/"), 1, "{status}: nobody waits for it");
    }
    let page = broken(&world, "/referrers/", |_, out| reply(out, 200, "Content-Type: text/html\r\n", b"<html>"));
    verified(&page).unwrap();
    let cut = broken(&world, "/referrers/", |_, out| head(out, 200, "Content-Length: 100\r\n"));
    verified(&cut).unwrap();
    // A redirect to a page, on another server, that answers anything.
    for status in [200, 404, 429] {
        let pages = Fault::start(move |_, out| reply(out, status, "Content-Type: text/html\r\n", b"<html>"));
        let location = format!("Location: http://{}/\r\n", pages.address);
        let server = broken(&world, "/referrers/", move |_, out| reply(out, 303, &location, b""));
        let options = options(&[&server.address, &pages.address]);
        let offer = source_with(&server, &options).offer(Architecture::Amd64).unwrap();
        assert_eq!((offer.signatures.len(), pages.requests().len()), (1, 1), "{status}");
    }
}

/// The tags say nothing, so what failed first is the error. It is no unsigned release.
#[test]
fn only_a_search_that_fails_everywhere_is_a_failure() {
    let mut world = World::new(10);
    world.files.remove(&format!("/v2/os/manifests/{}", world.fallback_tag()));
    for (status, reason) in [
        (401, Reason::AccessDenied),
        (403, Reason::AccessDenied),
        (404, Reason::SignatureMissing),
        (405, Reason::SignatureMissing),
        (429, Reason::RateLimited),
        (500, Reason::ServerError),
        (501, Reason::ServerError),
    ] {
        let server = broken(&world, "/referrers/", move |_, out| reply(out, status, "", b""));
        refused(verified(&server), reason);
        // The index may be signed alone.
        let extra = if reason == Reason::SignatureMissing { 2 } else { 0 };
        assert_eq!(server.count("manifests/sha256-"), 2 + extra, "{status}: both tags are asked");
    }
    // A failure that passes does not hide a signature that only the interface has.
    let list = bytes(&common::referrers(&[&world.signature(&world.manifest.clone(), 1)]));
    let server = broken(&world, "/referrers/", move |request, out| match request.earlier {
        0 => reply(out, 503, "", b""),
        _ => reply(out, 200, &format!("Content-Type: {}\r\n", release::OCI_INDEX_TYPE), &list),
    });
    verified(&server).map(drop).unwrap_err();
    verified(&server).unwrap();
}

/// GitLab takes the fallback tag for the digest.
#[test]
fn a_fallback_tag_that_is_no_list_means_no_referrers() {
    for body in [World::new(10).manifest, b"no json".to_vec(), b"[]".to_vec()] {
        let mut world = World::new(10);
        world.tag(&world.fallback_tag(), &body);
        refused(verified(&broken(&world, "nothing", |_, _| ())), Reason::SignatureMissing);
        let payload = common::cosign_payload(&world.manifest);
        world.blob(&payload);
        let tag = format!("sha256-{}.sig", Digest::of(&world.manifest).hex());
        world.tag(&tag, &bytes(&common::cosign_manifest(&[(&payload, &sign(&key(1), &payload))])));
        verified(&broken(&world, "nothing", |_, _| ())).unwrap();
    }
}
