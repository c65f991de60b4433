//! Signatures at cosign's tag: when they are looked for, which count, and what is refused.

use kubesolo_release::key::PublicFormat;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::base::limits;
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::{Architecture, SIGNATURE_TYPE};
use kubesolo_update::source::source::{self, Source};
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::sigstore;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::cli_support;
use crate::common::fault::{World, reply};
use crate::common::{self, bytes, cosign_manifest, cosign_payload, key, sign};

fn tag(signed: &[u8]) -> String {
    format!("sha256-{}.sig", Digest::of(signed).hex())
}

/// The set with the one key of this seed.
pub(super) fn keys(seed: u8) -> KeySet {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, cli_support::key(seed).public_text(PublicFormat::Hex).unwrap()).unwrap();
    KeySet::load(&file).unwrap()
}

/// A release without raw signatures, and these at cosign's tag of `subject`.
fn world(subject: impl Fn(&World) -> Vec<u8>, signatures: &[(Vec<u8>, Vec<u8>)]) -> World {
    let mut world = World::new(10);
    let fallback = world.fallback_tag();
    world.files.remove(&format!("/v2/os/manifests/{fallback}"));
    let subject = subject(&world);
    put(&mut world, &subject, signatures);
    world
}

fn put(world: &mut World, subject: &[u8], signatures: &[(Vec<u8>, Vec<u8>)]) {
    let pairs: Vec<(&[u8], &[u8])> = signatures.iter().map(|(p, s)| (p.as_slice(), s.as_slice())).collect();
    for (payload, _) in &pairs {
        world.blob(payload);
    }
    world.tag(&tag(subject), &bytes(&cosign_manifest(&pairs)));
}

fn manifest_of(world: &World) -> Vec<u8> {
    world.manifest.clone()
}

/// By this key, over a payload for what it should be.
fn good(seed: u8) -> (Vec<u8>, Vec<u8>) {
    let payload = cosign_payload(&World::new(10).manifest);
    let signature = sign(&key(seed), &payload);
    (payload, signature)
}

fn ask(world: &World, keys: &KeySet) -> (Result<Offer, Error>, Fault) {
    let server = broken(world, "nothing", |_, _| ());
    (source::offer(&mut source(&server), Architecture::Amd64, Some(keys)), server)
}

fn vouched(world: &World, keys: &KeySet) -> Result<usize, Error> {
    let offer = ask(world, keys).0?;
    keys.verify(&offer.signed, &offer.signatures).map(|by| by.len())
}

#[test]
fn a_payload_that_names_the_manifest_vouches_for_it() {
    let world = world(manifest_of, &[good(1), good(2)]);
    for seed in [1, 2] {
        assert_eq!(vouched(&world, &keys(seed)).unwrap(), 1);
    }
    refused(vouched(&world, &keys(3)), Reason::SignatureUnknownKey);
    // Both are of one payload, which is fetched once.
    let (_, server) = ask(&world, &keys(2));
    assert_eq!(server.count(&World::path(&good(1).0)), 1);
}

#[test]
fn cosigns_tag_is_only_asked_for_where_no_raw_signature_does() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    put(&mut world, &signed, &[good(2)]);
    let (offer, server) = ask(&world, &keys(1));
    assert_eq!((offer.unwrap().signatures.len(), server.count(&tag(&world.manifest))), (1, 0));
    let (offer, server) = ask(&world, &keys(2));
    assert_eq!(
        (offer.unwrap().signatures.len(), server.count(&tag(&world.manifest))),
        (2, 1),
        "beside the raw one of another key"
    );
    // An optional signature needs no key.
    let server = broken(&world, "nothing", |_, _| ());
    source::offer(&mut source(&server), Architecture::Amd64, None).unwrap();
    assert_eq!(server.count(&tag(&world.manifest)), 0);
}

#[test]
fn a_layer_that_does_not_vouch_for_the_manifest_is_told_as_what_it_is() {
    let (payload, signature) = good(1);
    let other = cosign_payload(b"another manifest");
    let of_another = (other.clone(), sign(&key(1), &other));
    let kind = String::from_utf8(payload.clone()).unwrap().replace("cosign container", "atomic container").into_bytes();
    let of_another_type = (kind.clone(), sign(&key(1), &kind));
    let raw = (payload.clone(), sign(&key(1), &World::new(10).manifest));
    let manifest = World::new(10).manifest;
    let itself = (manifest.clone(), sign(&key(1), &manifest));
    let ecdsa = (payload.clone(), vec![0x30; 71]);
    let swapped = (payload.clone(), of_another.1.clone());
    for (name, one, reason) in [
        ("another manifest", &of_another, Reason::SignatureMissing),
        ("of another type", &of_another_type, Reason::MalformedCosignPayload),
        ("over the manifest and not the payload", &raw, Reason::SignatureUnknownKey),
        ("the manifest as payload", &itself, Reason::MalformedJson),
        ("another kind of key", &ecdsa, Reason::SignatureForm),
        ("of another payload", &swapped, Reason::SignatureUnknownKey),
    ] {
        println!("{name}");
        refused(vouched(&world(manifest_of, std::slice::from_ref(one)), &keys(1)), reason);
        // And it is in nobody's way.
        let with_a_good_one = world(manifest_of, &[one.clone(), (payload.clone(), signature.clone())]);
        assert_eq!(vouched(&with_a_good_one, &keys(1)).unwrap(), 1);
    }
    let mut changed = world(manifest_of, &[good(1)]);
    // It names the same manifest, but in other bytes.
    changed.files.insert(World::path(&payload), (String::new(), [&payload[..], b"\n"].concat()));
    refused(vouched(&changed, &keys(1)), Reason::DigestMismatch);
    changed.files.remove(&World::path(&payload));
    refused(vouched(&changed, &keys(1)), Reason::NotFound);
}

#[test]
fn a_payload_has_a_limit() {
    let padded = |size: u64| {
        let mut payload = good(1).0;
        payload.resize(size as usize, b' ');
        let signature = sign(&key(1), &payload);
        world(manifest_of, &[(payload, signature)])
    };
    assert_eq!(vouched(&padded(limits::COSIGN_PAYLOAD_BYTES), &keys(1)).unwrap(), 1);
    let large = padded(limits::COSIGN_PAYLOAD_BYTES + 1);
    refused(vouched(&large, &keys(1)), Reason::LimitExceeded);
    assert_eq!(ask(&large, &keys(1)).1.count("/blobs/"), 0, "it is not even fetched");
}

#[test]
fn a_signature_of_the_index_alone_is_told_with_its_remedy() {
    let index_of = |world: &World| world.files["/v2/os/manifests/stable"].1.clone();
    let index = index_of(&World::new(10));
    let payload = cosign_payload(&index);
    let signature = sign(&key(1), &payload);
    let of_index = world(index_of, &[(payload, signature)]);
    let error = refused(vouched(&of_index, &keys(1)), Reason::SignatureOfIndex);
    assert!(error.remedy.contains("cosign sign --recursive"), "{}", error.remedy);
    // With both, as --recursive makes them, all is well.
    let mut both = of_index;
    let manifest = both.manifest.clone();
    put(&mut both, &manifest, &[good(1)]);
    assert_eq!(vouched(&both, &keys(1)).unwrap(), 1);
}

#[test]
fn a_server_that_fails_is_not_a_release_without_cosign() {
    let signed = world(manifest_of, &[good(1)]);
    for part in [tag(&signed.manifest), World::path(&good(1).0)] {
        let server = broken(&signed, &part, |_, out| reply(out, 500, "", b""));
        let offer = source::offer(&mut source(&server), Architecture::Amd64, Some(&keys(1)));
        refused(offer, Reason::ServerError);
    }
}

#[test]
fn a_key_that_signs_in_both_ways_counts_once() {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    put(&mut world, &signed, &[good(1)]);
    let mut source = source(&broken(&world, "nothing", |_, _| ()));
    let mut offer = source.offer(Architecture::Amd64).unwrap();
    let more = source.more_signatures().unwrap();
    offer.signatures.extend(more);
    assert_eq!(offer.signatures.len(), 2);
    assert_eq!(keys(1).verify(&offer.signed, &offer.signatures).unwrap().len(), 1);
}

/// The content of a slot is proven by the payload that the slot keeps.
#[test]
fn a_device_asks_once_when_nothing_is_new() {
    let world = world(manifest_of, &[good(1)]);
    let server = broken(&world, "nothing", |_, _| ());
    let device = cli_support::Device::new();
    device.from(&server, &["apply"]).code(0);
    // The cost of cosign: its tag, and a payload.
    assert_eq!((server.count(&tag(&world.manifest)), server.count(&World::path(&good(1).0))), (1, 1));
    let before = server.requests().len();
    device.from(&server, &["check"]).code(0).says(&["signed:"]);
    device.from(&server, &["apply"]).code(0).says(&["already complete in slot B"]);
    assert_eq!(
        server.requests()[before..].iter().map(|r| r.path.as_str()).collect::<Vec<_>>(),
        ["/v2/os/manifests/stable"; 2]
    );
}

// ---- cosign 3

/// A release whose only attachments are these bundles, in the fallback tag with entries of this artifact type.
fn bundled(bundles: &[Value], entry_type: &Value) -> World {
    let mut world = World::new(10);
    let signed = world.manifest.clone();
    let attached: Vec<Vec<u8>> = bundles
        .iter()
        .map(|bundle| {
            let bundle = bytes(bundle);
            let manifest = bytes(&common::sigstore_manifest(&signed, &bundle));
            world.blob(&bundle);
            world.manifest(&manifest);
            manifest
        })
        .collect();
    let mut list = common::referrers(&attached.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for entry in list["manifests"].as_array_mut().unwrap() {
        entry["artifactType"] = entry_type.clone();
    }
    world.tag(&world.fallback_tag(), &bytes(&list));
    world
}

/// By this key, for what it should be.
fn good_bundle(seed: u8) -> Value {
    common::sigstore_bundle(&key(seed), &common::statement_of(&World::new(10).manifest, common::COSIGN_PREDICATE))
}

#[test]
fn a_sigstore_bundle_vouches_whatever_type_its_entry_bears() {
    for entry_type in [
        json!(sigstore::BUNDLE_TYPE),
        json!("application/vnd.oci.empty.v1+json"),
        json!(null),
        json!(""),
        json!("application/spdx+json"),
        json!(SIGNATURE_TYPE),
    ] {
        let world = bundled(&[good_bundle(3), good_bundle(1), good_bundle(2)], &entry_type);
        for seed in [1, 2] {
            assert_eq!(vouched(&world, &keys(seed)).map_err(|e| format!("{entry_type}: {e}")).unwrap(), 1);
        }
        refused(vouched(&world, &keys(4)), Reason::SignatureUnknownKey);
    }
    // By the interface, which leaves out what was not asked for.
    let world = bundled(&[good_bundle(1)], &json!(sigstore::BUNDLE_TYPE));
    let list = world.files[&format!("/v2/os/manifests/{}", world.fallback_tag())].1.clone();
    let mut without_tag = world.clone();
    without_tag.files.remove(&format!("/v2/os/manifests/{}", world.fallback_tag()));
    let server = broken(&without_tag, "/referrers/", move |request, out| {
        let typed = request.path.contains("artifactType");
        let headers = if typed { "OCI-Filters-Applied: artifactType\r\n" } else { "" };
        reply(out, 200, headers, if typed { br#"{"schemaVersion":2,"manifests":[]}"# } else { &list });
    });
    let offer = source::offer(&mut source(&server), Architecture::Amd64, Some(&keys(1))).unwrap();
    keys(1).verify(&offer.signed, &offer.signatures).unwrap();
}

#[test]
fn a_bundle_that_does_not_approve_the_manifest_is_told_as_what_it_is() {
    let manifest = World::new(10).manifest;
    let of =
        |signed: &[u8], predicate: &str| common::sigstore_bundle(&key(1), &common::statement_of(signed, predicate));
    let with = |path: &str, value: Value| {
        let mut bundle = good_bundle(1);
        *bundle.pointer_mut(path).unwrap() = value;
        bundle
    };
    let keyless = with("/verificationMaterial", json!({"certificate": {"rawBytes": "AAAA"}}));
    let ecdsa = with("/dsseEnvelope/signatures/0/sig", json!("MEUCIQD0"));
    let foreign = with("/dsseEnvelope/payloadType", json!("application/json"));
    let mut large = good_bundle(1);
    large["verificationMaterial"]["tlogEntries"] = json!(["x".repeat(16 * 1024)]);
    let other = common::sigstore_bundle(&key(1), b"{}");
    for (name, bundle, reason) in [
        ("another manifest", of(b"another manifest", common::COSIGN_PREDICATE), Reason::SignatureMissing),
        ("provenance", of(&manifest, "https://slsa.dev/provenance/v1"), Reason::SignatureMissing),
        ("a bill of materials", of(&manifest, "https://spdx.dev/Document"), Reason::SignatureMissing),
        ("no statement", other, Reason::MalformedJson),
        ("a certificate", keyless, Reason::SignatureForm),
        ("another kind of key", ecdsa, Reason::SignatureForm),
        ("another kind of payload", foreign, Reason::MalformedSignature),
        ("a large one", large, Reason::LimitExceeded),
    ] {
        println!("{name}");
        refused(vouched(&bundled(std::slice::from_ref(&bundle), &json!(null)), &keys(1)), reason);
        // And it is in nobody's way.
        assert_eq!(vouched(&bundled(&[bundle, good_bundle(1)], &json!(null)), &keys(1)).unwrap(), 1);
    }
    // The statement is signed with its type and length, and is none of another form.
    let statement = common::statement_of(&manifest, common::COSIGN_PREDICATE);
    let mut bare = good_bundle(1);
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sign(&key(1), &statement));
    bare["dsseEnvelope"]["signatures"][0]["sig"] = json!(text);
    refused(vouched(&bundled(&[bare], &json!(null)), &keys(1)), Reason::SignatureUnknownKey);
}

fn fixtures() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sigstore-js.json")
}

/// Recorded from `build/scripts/sigstore-js.sh`, with the key of seed 1.
#[test]
fn a_recorded_bundle_of_sigstore_js_vouches() {
    let bundle: Value = serde_json::from_slice(&std::fs::read(fixtures()).unwrap()).unwrap();
    assert_eq!(vouched(&bundled(std::slice::from_ref(&bundle), &json!(null)), &keys(1)).unwrap(), 1);
    refused(vouched(&bundled(&[bundle], &json!(null)), &keys(2)), Reason::SignatureUnknownKey);
}

/// `RECORD=1` replaces the recorded one. Ed25519 is deterministic, so both are equal.
#[test]
#[ignore = "takes a library of npm: part of make test-all"]
fn a_new_bundle_of_sigstore_js_is_the_recorded_one() {
    let folder = TempDir::new().unwrap();
    let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[1; 32]].concat();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    std::fs::write(folder.path().join("key"), pem).unwrap();
    let statement = common::statement_of(&World::new(10).manifest, common::COSIGN_PREDICATE);
    std::fs::write(folder.path().join("statement"), statement).unwrap();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/scripts/sigstore-js.sh");
    let made =
        std::process::Command::new(script).args(["key", "statement"]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    if std::env::var_os("RECORD").is_some() {
        std::fs::write(fixtures(), &made.stdout).unwrap();
    }
    assert_eq!(String::from_utf8(made.stdout).unwrap(), std::fs::read_to_string(fixtures()).unwrap());
}

#[test]
fn logs_and_time_stamps_of_a_bundle_are_ignored() {
    let mut bundle = good_bundle(1);
    bundle["verificationMaterial"]["tlogEntries"] = json!([{"logIndex": "1"}]);
    bundle["verificationMaterial"]["timestampVerificationData"] = json!({"rfc3161Timestamps": []});
    assert_eq!(vouched(&bundled(&[bundle], &json!(null)), &keys(1)).unwrap(), 1);
}

#[test]
fn a_bundle_of_the_index_alone_is_told_with_its_remedy() {
    let mut world = World::new(10);
    world.files.remove(&format!("/v2/os/manifests/{}", world.fallback_tag()));
    let index = world.files["/v2/os/manifests/stable"].1.clone();
    let bundle = bytes(&common::sigstore_bundle(&key(1), &common::statement_of(&index, common::COSIGN_PREDICATE)));
    let manifest = bytes(&common::sigstore_manifest(&index, &bundle));
    world.blob(&bundle);
    world.manifest(&manifest);
    world.tag(&format!("sha256-{}", Digest::of(&index).hex()), &bytes(&common::referrers(&[&manifest])));
    let error = refused(vouched(&world, &keys(1)), Reason::SignatureOfIndex);
    assert!(error.remedy.contains("cosign sign --recursive"), "{}", error.remedy);
}

/// The slot keeps the statement, in a member of its own that agents before 0.2 do not know.
#[test]
fn a_slot_keeps_a_bundle_and_bears_it_for_an_agent_of_0_1() {
    let world = bundled(&[good_bundle(1)], &json!("application/vnd.oci.empty.v1+json"));
    let server = broken(&world, "nothing", |_, _| ());
    let device = cli_support::Device::new();
    device.from(&server, &["apply"]).code(0);
    let before = server.requests().len();
    device.from(&server, &["check"]).code(0).says(&["signed:"]);
    assert_eq!(server.requests().len(), before + 1, "proven from the slot");
    device.here(&["activate"]).code(0);
    let manifest: Value = serde_json::from_slice(&std::fs::read(device.path("B/manifest.json")).unwrap()).unwrap();
    // Version 0.1 reads a list without signatures: unsigned to it, and not damaged.
    assert_eq!((&manifest["schema"], &manifest["signatures"]), (&json!(1), &json!([])));
    assert_eq!(manifest["statements"].as_array().map(Vec::len), Some(1));
}

/// Agent 0.1 may start from the other slot, or judge the trial of this one.
#[test]
#[ignore = "takes the binary of 0.1: `make test-all` builds it and runs this"]
fn agent_0_1_commits_and_keeps_a_slot_with_a_bundle() {
    let world = bundled(&[good_bundle(1)], &json!("application/vnd.oci.empty.v1+json"));
    let server = broken(&world, "nothing", |_, _| ());
    let mut device = cli_support::Device::new();
    device.from(&server, &["apply"]).code(0);
    device.here(&["activate"]).code(0);
    device.power_on();
    let manifest = std::fs::read(device.path("B/manifest.json")).unwrap();
    let new = device.program.clone();
    device.program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/0.1/kubesolo-update");
    assert!(device.program.exists(), "0.1 is not built: call build/scripts/agent-0.1.sh");
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["problems"], json!([]));
    device.here(&["healthcheck"]).code(0).says(&["is committed"]);
    // It sees a release without a signature, and touches nothing.
    let verify = device.here(&["verify", "--json"]).code(0).json();
    assert_eq!((&verify["slots"][1]["holds"], &verify["slots"][1]["signed_by"]), (&json!(true), &Value::Null));
    device.from(&server, &["apply", "--json"]).refused(77, "signature-missing");
    assert_eq!(std::fs::read(device.path("B/manifest.json")).unwrap(), manifest);
    assert_eq!(device.env().good, bootenv::SlotId::B);
    device.program = new;
    device.here(&["verify"]).code(0).says(&["slot B holds: 1.0.0, signed by"]);
    device.from(&server, &["check"]).code(0).says(&["up to date: 1.0.0"]);
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["problems"], json!([]));
}
