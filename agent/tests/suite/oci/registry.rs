//! Releases that a real registry serves.

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Exit, Reason};
use kubesolo_update::fetch::options::FetchOptions;
use kubesolo_update::release::release::{self, Architecture};
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::source::Source;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fetch, offer, options, refused, source, source_with};
use crate::common::fault::{Fault, reply};
use crate::common::registry::Registry;
use crate::common::tls::{certificates, section as tls};
use crate::common::{self, bytes, key, key_id, sign};

const KERNEL: &[u8] = b"kernel of the test";

/// Pushes a release of one architecture, without a tag.
fn push(registry: &Registry, version: &str, architecture: Architecture, initramfs: &[u8]) -> Vec<u8> {
    let manifest = common::manifest(version, architecture, KERNEL, initramfs);
    registry.artifact("os", &manifest, &[KERNEL, initramfs])
}

/// Pushes a signature of `signed`, without a list that names it.
fn push_signature(registry: &Registry, signed: &[u8], seed: u8) -> Vec<u8> {
    let signature = sign(&key(seed), signed);
    let manifest = common::signature_manifest(signed, &signature, &key_id(&key(seed)));
    registry.artifact("os", &manifest, &[&signature])
}

fn fallback_tag(registry: &Registry, signed: &[u8], list: &[u8]) {
    registry.manifest("os", &format!("sha256-{}", Digest::of(signed).hex()), release::OCI_INDEX_TYPE, list);
}

#[test]
fn an_index_gives_the_manifest_of_the_architecture_with_its_signatures() {
    let registry = Registry::start();
    let initramfs = vec![7; 3_000_000];
    let amd64 = push(&registry, "v1.2.0", Architecture::Amd64, &initramfs);
    let arm64 = push(&registry, "v1.2.0", Architecture::Arm64, b"another");
    let signatures = [push_signature(&registry, &amd64, 1), push_signature(&registry, &amd64, 2)];
    fallback_tag(&registry, &amd64, &bytes(&common::referrers(&[&signatures[0], &signatures[1]])));
    let index = bytes(&common::index(&[("arm64", &arm64), ("amd64", &amd64)]));
    registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &index);

    let mut source = source(&registry);
    let offer = source.offer(Architecture::Amd64).unwrap();
    assert_eq!(offer.origin, format!("{}/os:stable", registry.address));
    assert_eq!(offer.signed, amd64);
    assert_eq!(offer.signed_type, release::OCI_MANIFEST_TYPE);
    assert_eq!(offer.release.digest, Digest::of(&amd64));
    assert_eq!(offer.release.version.to_string(), "1.2.0");
    assert_eq!(offer.signatures.len(), 2);
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(1), &amd64));
    assert_eq!(offer.signatures[1].key_id.as_deref(), Some(key_id(&key(2)).as_str()));
    assert_eq!(fetch(&mut source, &offer.release.kernel.blob().unwrap()).unwrap(), KERNEL);
    assert_eq!(fetch(&mut source, &offer.release.initramfs.blob().unwrap()).unwrap(), initramfs);

    let offer = source.offer(Architecture::Arm64).unwrap();
    assert_eq!(offer.signed, arm64);
    assert!(offer.signatures.is_empty());
}

/// A release at tag `stable` without an index, changed before it is pushed.
fn single(registry: &Registry, media_type: &str, change: impl FnOnce(&mut Value)) {
    let mut manifest = common::manifest("v1.0.0", Architecture::Amd64, KERNEL, b"initramfs");
    manifest["mediaType"] = json!(media_type);
    for blob in [b"{}", KERNEL, b"initramfs"] {
        registry.blob("os", blob);
    }
    change(&mut manifest);
    registry.manifest("os", "stable", media_type, &bytes(&manifest));
}

#[test]
fn oci_and_docker_say_the_same_in_their_own_types() {
    for (manifest_type, index_type) in [
        (release::OCI_MANIFEST_TYPE, release::OCI_INDEX_TYPE),
        (release::DOCKER_MANIFEST_TYPE, release::DOCKER_INDEX_TYPE),
    ] {
        let registry = Registry::start();
        single(&registry, manifest_type, |_| ());
        let alone = offer(&registry).unwrap();
        assert_eq!(alone.signed_type, manifest_type);
        let mut index = common::index(&[("amd64", &alone.signed)]);
        index["mediaType"] = json!(index_type);
        index["manifests"][0]["mediaType"] = json!(manifest_type);
        registry.manifest("os", "stable", index_type, &bytes(&index));
        let listed = offer(&registry).unwrap();
        assert_eq!((listed.release.digest, listed.signed_type), (alone.release.digest, alone.signed_type));
    }
}

#[test]
fn a_digest_pins_an_index_or_a_manifest() {
    let registry = Registry::start();
    let manifest = push(&registry, "v1.0.0", Architecture::Amd64, b"initramfs");
    let index = bytes(&common::index(&[("amd64", &manifest)]));
    registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &index);
    for pinned in [&manifest, &index] {
        let reference = format!("{}/os@{}", registry.address, Digest::of(pinned));
        let mut source = OciSource::new(&options(&[&registry.address]), &reference, None, "stable").unwrap();
        let offer = source.offer(Architecture::Amd64).unwrap();
        assert_eq!((offer.signed, offer.origin), (manifest.clone(), reference));
    }
    let reference = format!("{}/os@{}", registry.address, Digest::of(b"other"));
    let mut source = OciSource::new(&options(&[&registry.address]), &reference, None, "stable").unwrap();
    refused(source.offer(Architecture::Amd64), Reason::TagNotFound);
}

#[test]
fn the_tag_is_the_option_then_the_reference_then_the_channel() {
    let registry = Registry::start();
    for tag in ["option", "reference", "channel"] {
        single(&registry, release::OCI_MANIFEST_TYPE, |m| m["annotations"][release::CHANNEL] = json!(tag));
        let raw = offer(&registry).unwrap().signed;
        registry.manifest("os", tag, release::OCI_MANIFEST_TYPE, &raw);
    }
    let found = |reference: &str, tag: Option<&str>| {
        let reference = format!("{}/{reference}", registry.address);
        let mut source = OciSource::new(&options(&[&registry.address]), &reference, tag, "channel").unwrap();
        source.offer(Architecture::Amd64).unwrap().release.channel.unwrap()
    };
    assert_eq!(found("os:reference", Some("option")), "option");
    assert_eq!(found("os:reference", None), "reference");
    assert_eq!(found("os", None), "channel");
}

#[test]
fn references_that_cannot_be_meant_are_a_configuration_error() {
    let no_tag = [
        "os",
        "os:stable",
        "host/os",
        "library/os",
        "http://host:1/os",
        "host:1/OS",
        "host:1/os@sha256:00",
        "user:password@host/os",
        "",
    ];
    for reference in no_tag {
        let result = OciSource::new(&FetchOptions::default(), reference, None, "stable").map(|_| ());
        let e = refused(result, Reason::BadReference);
        assert!(!e.message.contains("password"), "{e}");
    }
    let digest = format!("host:1/os@{}", Digest::of(b""));
    refused(OciSource::new(&FetchOptions::default(), &digest, Some("tag"), "").map(|_| ()), Reason::BadReference);
    let sha512 = format!("host:1/os@sha512:{}", "0".repeat(128));
    refused(OciSource::new(&FetchOptions::default(), &sha512, None, "").map(|_| ()), Reason::BadReference);
    for tag in ["", "a/b", "a b", "../x", "a@b", &"x".repeat(129)] {
        refused(OciSource::new(&FetchOptions::default(), "host:1/os", Some(tag), "").map(|_| ()), Reason::BadTag);
    }
    for host in ["http://host", "host/path", "user@host", "", "host?x"] {
        let result = OciSource::new(&options(&[host]), "host:1/os", None, "stable").map(|_| ());
        refused(result, Reason::BadHost);
    }
}

#[test]
fn a_registry_without_the_tag_or_without_the_repository_says_so() {
    let registry = Registry::start();
    refused(offer(&registry), Reason::TagNotFound);
    push(&registry, "v1.0.0", Architecture::Amd64, b"initramfs");
    refused(offer(&registry), Reason::TagNotFound);
}

#[test]
fn nothing_for_this_architecture_is_told_from_the_wrong_one() {
    // Either device beside what is meant for the other one.
    for (asks, name, other, other_name) in [
        (Architecture::Amd64, "amd64", Architecture::Arm64, "arm64"),
        (Architecture::Arm64, "arm64", Architecture::Amd64, "amd64"),
    ] {
        let registry = Registry::start();
        let theirs = push(&registry, "v1.0.0", other, b"initramfs");
        let offer = || source(&registry).offer(asks);
        registry.manifest("os", "stable", release::OCI_MANIFEST_TYPE, &theirs);
        refused(offer(), Reason::WrongArchitecture);
        let index = bytes(&common::index(&[(other_name, &theirs)]));
        registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &index);
        let told = refused(offer(), Reason::NoSuchArchitecture).message;
        assert!(told.contains(&format!("linux/{other_name}")), "{told}");
        // The index is only a hint; the signed manifest counts.
        let index = bytes(&common::index(&[(name, &theirs)]));
        registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &index);
        refused(offer(), Reason::WrongArchitecture);
    }
}

#[test]
fn the_platform_is_chosen_among_attestations_variants_and_other_systems() {
    let registry = Registry::start();
    let amd64 = push(&registry, "v1.0.0", Architecture::Amd64, b"initramfs");
    let arm64 = push(&registry, "v1.0.0", Architecture::Arm64, b"initramfs");
    let other = push(&registry, "v9.9.9", Architecture::Amd64, b"other");
    let mut index = common::index(&[("amd64", &other[..]); 8]);
    for (entry, (os, architecture, variant)) in [
        ("unknown", "unknown", None),
        ("windows", "amd64", None),
        ("linux", "amd64", Some("v3")),
        ("linux", "arm", Some("v7")),
        ("linux", "arm64", Some("v9")),
    ]
    .iter()
    .enumerate()
    {
        index["manifests"][entry]["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
    }
    index["manifests"][5].as_object_mut().unwrap().remove("platform");
    index["manifests"][6] = common::index(&[("amd64", &amd64)])["manifests"][0].clone();
    index["manifests"][7] = common::index(&[("arm64", &arm64)])["manifests"][0].clone();
    index["manifests"][7]["platform"]["variant"] = json!("v8");
    registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &bytes(&index));
    assert_eq!(offer(&registry).unwrap().signed, amd64);
    assert_eq!(source(&registry).offer(Architecture::Arm64).unwrap().signed, arm64);
}

#[test]
fn missing_and_doubled_layers_are_refused() {
    let registry = Registry::start();
    for layers in [&[0][..], &[1], &[0, 0, 1], &[0, 1, 1]] {
        single(&registry, release::OCI_MANIFEST_TYPE, |m| {
            let all = m["layers"].clone();
            m["layers"] = layers.iter().map(|layer| all[*layer].clone()).collect();
        });
        refused(offer(&registry), Reason::MalformedManifest);
    }
}

#[test]
fn what_was_offered_is_fetched_even_if_the_tag_moves() {
    let registry = Registry::start();
    let old = push(&registry, "v1.0.0", Architecture::Amd64, b"old");
    let new = push(&registry, "v2.0.0", Architecture::Amd64, b"new");
    registry.manifest("os", "stable", release::OCI_MANIFEST_TYPE, &old);
    let mut source = source(&registry);
    let offer = source.offer(Architecture::Amd64).unwrap();
    registry.manifest("os", "stable", release::OCI_MANIFEST_TYPE, &new);
    assert_eq!(fetch(&mut source, &offer.release.initramfs.blob().unwrap()).unwrap(), b"old");
}

#[test]
fn a_blob_cut_short_or_lost_in_the_registry_is_refused_when_it_is_opened() {
    let registry = Registry::start();
    let initramfs = vec![1; 100_000];
    let manifest = push(&registry, "v1.0.0", Architecture::Amd64, &initramfs);
    registry.manifest("os", "stable", release::OCI_MANIFEST_TYPE, &manifest);
    let mut source = source(&registry);
    let offer = source.offer(Architecture::Amd64).unwrap();
    let file = registry.blob_file(offer.release.initramfs.digest);
    std::fs::write(&file, &initramfs[1..]).unwrap();
    refused(source.open(&offer.release.initramfs.blob().unwrap()).map(|_| ()), Reason::SizeMismatch);
    std::fs::remove_file(file).unwrap();
    refused(source.open(&offer.release.initramfs.blob().unwrap()).map(|_| ()), Reason::NotFound);
}

#[test]
fn a_registry_that_stops_is_unreachable() {
    let registry = Registry::start();
    single(&registry, release::OCI_MANIFEST_TYPE, |_| ());
    let mut source = source(&registry);
    source.offer(Architecture::Amd64).unwrap();
    drop(registry);
    refused(source.offer(Architecture::Amd64), Reason::Unreachable);
}

// ---- TLS

#[test]
fn tls_needs_an_authority_that_is_known() {
    let plain = Registry::start();
    single(&plain, release::OCI_MANIFEST_TYPE, |_| ());
    let certificates = certificates();
    let registry = plain.sibling(&tls(&certificates));
    let ca = certificates.path().join("ca.pem");

    let trusting = FetchOptions { registry_ca: Some(ca.clone()), ..options(&[]) };
    let mut source = source_with(&registry, &trusting);
    let release = source.offer(Architecture::Amd64).unwrap().release;
    assert_eq!(fetch(&mut source, &release.kernel.blob().unwrap()).unwrap(), KERNEL);

    let e = refused(source_with(&registry, &options(&[])).offer(Architecture::Amd64), Reason::CertificateUntrusted);
    assert!(e.message.contains("certificate") && e.remedy.contains("registry_ca"), "{e:?}");
    let plain_client = options(&[&registry.address]);
    assert_eq!(source_with(&registry, &plain_client).offer(Architecture::Amd64).unwrap_err().exit(), Exit::Unavailable);
    // And a registry without TLS is not spoken to unless it is listed.
    refused(source_with(&plain, &trusting).offer(Architecture::Amd64), Reason::Unreachable);
}

#[test]
fn an_authority_that_is_none_is_a_configuration_error() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.pem");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for content in [None, Some(""), Some("no certificate"), Some(damaged), Some(&damaged[..40])] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let options = FetchOptions { registry_ca: Some(file.clone()), ..options(&[]) };
        refused(OciSource::new(&options, "host:1/os", None, "stable").map(|_| ()), Reason::BadCa);
    }
    // Nor is one that others may write, even where a link leads to it; a link alone is how stores are made.
    let certificates = certificates();
    let (file, link) = (certificates.path().join("ca.pem"), folder.path().join("link.pem"));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let options = FetchOptions { registry_ca: Some(link), ..options(&[]) };
    OciSource::new(&options, "host:1/os", None, "stable").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    refused(OciSource::new(&options, "host:1/os", None, "stable").map(|_| ()), Reason::BadCa);
}

/// Registries redirect to their store; a store without TLS must not slip in that way, listed or not.
#[test]
fn a_redirect_never_leaves_tls() {
    let plain = Registry::start();
    single(&plain, release::OCI_MANIFEST_TYPE, |_| ());
    let certificates = certificates();
    let redirect = "middleware:\n  storage:\n    - name: redirect\n      options:\n        baseurl: ";
    let registry = plain.sibling(&format!("{}{redirect}http://{}/\n", tls(&certificates), plain.address));
    let ca = Some(certificates.path().join("ca.pem"));
    let options = FetchOptions { registry_ca: ca, ..options(&[&plain.address]) };
    let mut source = source_with(&registry, &options);
    let release = source.offer(Architecture::Amd64).unwrap().release;
    refused(fetch(&mut source, &release.kernel.blob().unwrap()), Reason::InsecureRedirect);
}

#[test]
fn a_token_is_not_asked_for_without_tls_where_the_registry_has_it() {
    let certificates = certificates();
    let tokens = Fault::start(|_, out| reply(out, 200, "", b"{\"token\":\"t\"}"));
    let ca = certificates.path().join("ca.pem");
    let auth = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: test\n    issuer: test\n    rootcertbundle: {}\n",
        tokens.address,
        ca.display()
    );
    let registry = Registry::start().sibling(&format!("{}{auth}", tls(&certificates)));
    let options = FetchOptions { registry_ca: Some(ca), ..options(&[&tokens.address]) };
    let error = refused(source_with(&registry, &options).offer(Architecture::Amd64), Reason::AccessDenied);
    assert!(error.message.contains("which has no TLS"), "{error}");
    assert!(tokens.requests().is_empty());
}
