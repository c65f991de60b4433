//! Signatures, among all that can be attached to a manifest.

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::Reason;
use kubesolo_update::base::limits;
use kubesolo_update::release::release::{self, Architecture, SIGNATURE_TYPE};
use kubesolo_update::source::source::Source;
use serde_json::json;

use super::*;
use crate::common::fault::{Fault, Request, World, reply};
use crate::common::{self, bytes, key, sign};

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
    for part in [world.fallback_tag(), World::path(&sign(&key(1), &world.manifest)), "/referrers/".into()] {
        let server = broken(&world, &part, |_, out| reply(out, 500, "", b""));
        refused(offer(&server), Reason::ServerError);
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
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);

    // Referrers of other kinds are not fetched, but there must not be too many either.
    let flood = |count: usize| {
        let mut list = common::referrers(&[many[0]]);
        let mut other = list["manifests"][0].clone();
        other["artifactType"] = json!("application/spdx+json");
        other["digest"] = json!(Digest::of(b"a list of parts"));
        for _ in 1..count {
            list["manifests"].as_array_mut().unwrap().insert(0, other.clone());
        }
        bytes(&list)
    };
    world.tag(&world.fallback_tag(), &flood(limits::REFERRERS));
    let server = broken(&world, "nothing", |_, _| ());
    assert_eq!(offer(&server).unwrap().signatures.len(), 1);
    assert_eq!(server.count(&Digest::of(b"a list of parts").hex()), 0);
    world.tag(&world.fallback_tag(), &flood(limits::REFERRERS + 1));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);
    world.tag(&world.fallback_tag(), &flood(5000));
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::LimitExceeded);
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
    refused(offer(&server), Reason::LimitExceeded);
    assert!(server.count("page=") <= limits::REFERRERS);

    // Few entries, but pages full of nothing.
    let server = with_referrers(&world, |request| {
        let page: usize = request.path.split("page=").nth(1).map_or(0, |n| n.parse().unwrap());
        let mut list = bytes(&common::referrers(&[]));
        list.resize(limits::REFERRERS_BYTES as usize / 4, b' ');
        (format!("Link: <?page={}>; rel=\"next\"\r\n", page + 1), list)
    });
    refused(offer(&server), Reason::LimitExceeded);
    assert_eq!(server.count("page="), 4);

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
    refused(offer(&broken(&world, "nothing", |_, _| ())), Reason::MalformedJson);
}
