//! What `kubesolo-release` publishes to a real registry, as a device and a person see it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::registry::Registry;
use common::{bytes, images};
use kubesolo_update::fetch::FetchOptions;
use kubesolo_update::publish::inspect::{Inspection, inspect};
use kubesolo_update::publish::key::{PrivateKey, PublicFormat};
use kubesolo_update::publish::registry::Access;
use kubesolo_update::publish::{self, Images, Metadata, Options, Published, sign};
use kubesolo_update::release::{self, Architecture, Digest};
use kubesolo_update::source::{Source, oci::OciSource};
use kubesolo_update::trust::KeySet;
use kubesolo_update::{Error, Exit};
use serde_json::json;
use tempfile::TempDir;

use Architecture::{Amd64, Arm64};

fn access(registry: &Registry) -> Access {
    Access { plain_http: vec![registry.address.clone()], registry_ca: None }
}

fn metadata(version: &str) -> Metadata {
    Metadata::new(version.parse().unwrap(), "stable")
}

/// Publishes to the repository `os`.
fn publish(registry: &Registry, version: &str, images: &[Images], keys: &[PrivateKey]) -> Result<Published, Error> {
    let options = Options { access: access(registry), ..Options::default() };
    publish::release(&format!("{}/os", registry.address), &metadata(version), images, keys, &options)
}

fn both(folder: &TempDir) -> [Images; 2] {
    [images::files(folder.path(), Amd64, 1), images::files(folder.path(), Arm64, 2)]
}

/// A new key, and the set of keys that a device with it has.
fn key(folder: &TempDir, name: &str) -> (PrivateKey, KeySet) {
    let key = PrivateKey::generate().unwrap();
    let public = folder.path().join(format!("{name}.pub"));
    key.save(&folder.path().join(name), &public, PublicFormat::Pem).unwrap();
    (key, KeySet::load(&public).unwrap())
}

fn look(registry: &Registry, reference: &str, keys: &KeySet) -> Result<Inspection, Error> {
    inspect(&format!("{}/{reference}", registry.address), Some(keys), &access(registry))
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    command.args(arguments).env_remove("SOURCE_DATE_EPOCH").env("DOCKER_CONFIG", "/nonexistent");
    command.envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_device_takes_what_was_published() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = both(&folder);
    let (key, keys) = key(&folder, "key");
    let mut metadata = metadata("1.2.3");
    metadata.min_compatible_version = Some("1.0.0".parse().unwrap());
    metadata.release_notes = Some("Faster.".into());
    metadata.security_epoch = Some(4);
    metadata.board = Some("edge-1".into());
    let options = Options { access: access(&registry), ..Options::default() };
    let reference = format!("{}/os", registry.address);
    let published = publish::release(&reference, &metadata, &images, &[key], &options).unwrap();
    assert_eq!(published.reference, format!("{reference}:stable"));

    for images in &images {
        let options = FetchOptions { plain_http: vec![registry.address.clone()], ..FetchOptions::default() };
        let mut source = OciSource::new(&options, &reference, None, "stable").unwrap();
        let offer = source.offer(images.architecture).unwrap();
        assert_eq!(keys.verify(&offer.signed, &offer.signatures).unwrap(), keys.ids().collect::<Vec<_>>());
        assert!(published.manifests.contains(&(images.architecture, offer.digest)));
        let release = offer.release;
        assert_eq!(release.version.to_string(), "1.2.3");
        assert_eq!(release.channel.as_deref(), Some("stable"));
        assert_eq!(release.min_compatible_version.unwrap().to_string(), "1.0.0");
        assert_eq!(release.release_notes.as_deref(), Some("Faster."));
        assert_eq!(release.release_date.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!((release.security_epoch, release.board.as_deref()), (4, Some("edge-1")));
        let unpacked = images::archive(&[0; 1000]).len() as u64;
        assert_eq!(release.initramfs_unpacked_size, Some(unpacked));
        for (blob, file) in [(release.kernel, &images.kernel), (release.initramfs, &images.initramfs)] {
            let mut body = source.open(&blob).unwrap();
            let mut received = vec![];
            while let Some(chunk) = body.chunk().unwrap() {
                received.extend_from_slice(&chunk);
            }
            assert_eq!(received, std::fs::read(file).unwrap());
        }
    }
}

#[test]
fn the_same_release_published_twice_is_the_same_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = both(&folder);
    let (key, keys) = key(&folder, "key");
    let keys_used = [key];
    let first = publish(&registry, "1.0.0", &images, &keys_used).unwrap();
    let second = publish(&registry, "1.0.0", &images, &keys_used).unwrap();
    assert_eq!((first.index, first.manifests), (second.index, second.manifests));
    let found = look(&registry, "os:stable", &keys).unwrap();
    assert!(found.manifests.iter().all(|m| m.signatures.len() == 1), "{found:?}");
}

#[test]
fn the_tag_moves_only_when_everything_is_signed() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = both(&folder);
    let (key, keys) = key(&folder, "key");
    let keys_used = [key];
    publish(&registry, "1.0.0", &images, &keys_used).unwrap();
    // Signing the second manifest of the next release will fail: the place of its signatures is taken.
    let options = Options { access: access(&registry), ..Options::default() };
    let elsewhere = format!("{}/elsewhere", registry.address);
    let next = publish::release(&elsewhere, &metadata("2.0.0"), &images, &[], &options).unwrap();
    let taken = registry.artifact("os", &common::manifest("0.0.1", Amd64, b"k", b"i"), &[b"k", b"i"]);
    let tag = next.manifests[1].1.to_string().replace(':', "-");
    registry.manifest("os", &tag, release::OCI_MANIFEST_TYPE, &taken);

    let error = publish(&registry, "2.0.0", &images, &keys_used).unwrap_err();
    assert!(error.message.contains(&tag), "{error}");
    assert_eq!(look(&registry, "os:stable", &keys).unwrap().manifests[0].version, "1.0.0");
}

#[test]
fn what_others_attached_stays_when_a_signature_is_added() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (first, first_keys) = key(&folder, "first");
    let (second, second_keys) = key(&folder, "second");
    let images = [images::files(folder.path(), Amd64, 1)];
    let published = publish(&registry, "1.0.0", &images, &[first]).unwrap();
    let subject = published.manifests[0].1;
    // Something of another type, as a tool that makes bills of materials attaches it, with a field we do not know.
    let tag = subject.to_string().replace(':', "-");
    let options = FetchOptions { plain_http: vec![registry.address.clone()], ..FetchOptions::default() };
    let mut list: serde_json::Value = serde_json::from_slice(&registry.read("os", &tag)).unwrap();
    let raw = registry.artifact("os", &common::manifest("0.0.1", Amd64, b"k", b"i"), &[b"k", b"i"]);
    let mut foreign = common::descriptor(release::OCI_MANIFEST_TYPE, &raw);
    foreign["artifactType"] = json!("application/spdx+json");
    foreign["x-unknown"] = json!({"kept": true});
    list["manifests"].as_array_mut().unwrap().push(foreign.clone());
    registry.manifest("os", &tag, release::OCI_INDEX_TYPE, &bytes(&list));

    sign::sign(&format!("{}/os:stable", registry.address), &[second], &access(&registry)).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&registry.read("os", &tag)).unwrap();
    assert!(list["manifests"].as_array().unwrap().contains(&foreign), "{list}");
    let mut source = OciSource::new(&options, &format!("{}/os", registry.address), None, "stable").unwrap();
    let offer = source.offer(Amd64).unwrap();
    for keys in [first_keys, second_keys] {
        keys.verify(&offer.signed, &offer.signatures).unwrap();
    }
}

#[test]
fn a_registry_that_lists_referrers_gets_no_fallback_tag() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (key, keys) = key(&folder, "key");
    let address = common::referrers::start(&registry);
    let options =
        Options { access: Access { plain_http: vec![address.clone()], registry_ca: None }, ..Options::default() };
    let reference = format!("{address}/os");
    publish::release(&reference, &metadata("1.0.0"), &both(&folder), &[key], &options).unwrap();
    let tags = std::fs::read_dir(registry.storage().join("repositories/os/_manifests/tags")).unwrap();
    assert_eq!(tags.map(|tag| tag.unwrap().file_name()).collect::<Vec<_>>(), ["stable"]);
    inspect(&format!("{reference}:stable"), Some(&keys), &options.access).unwrap().trusted().unwrap();
    let options = FetchOptions { plain_http: vec![address], ..FetchOptions::default() };
    let offer = OciSource::new(&options, &reference, None, "stable").unwrap().offer(Arm64).unwrap();
    keys.verify(&offer.signed, &offer.signatures).unwrap();
}

#[test]
fn an_authority_is_trusted_when_it_is_named() {
    let folder = TempDir::new().unwrap();
    let certificates = common::tls::certificates();
    let registry = Registry::start().sibling(&common::tls::section(&certificates));
    let images = [images::files(folder.path(), Amd64, 1)];
    let publish = |registry_ca| {
        let options = Options { access: Access { plain_http: vec![], registry_ca }, ..Options::default() };
        publish::release(&format!("{}/os", registry.address), &metadata("1.0.0"), &images, &[], &options)
    };
    let error = publish(None).unwrap_err();
    assert_eq!(error.exit, Exit::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");
    publish(Some(certificates.path().join("ca.pem"))).unwrap();
    assert_eq!(publish(Some(folder.path().join("none.pem"))).unwrap_err().exit, Exit::Config);
}

#[test]
fn unusable_files_are_refused_before_anything_is_sent() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let good = images::files(folder.path(), Amd64, 1);
    let write = |bytes: &[u8]| {
        let (_, path) = tempfile::NamedTempFile::new_in(folder.path()).unwrap().keep().unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let initramfs = std::fs::read(&good.initramfs).unwrap();
    let kernel = std::fs::read(&good.kernel).unwrap();
    let with_initramfs = |bytes: &[u8]| Images { initramfs: write(bytes), ..good.clone() };
    let with_kernel = |bytes: &[u8]| Images { kernel: write(bytes), ..good.clone() };
    let mut without_64_bits = kernel.clone();
    without_64_bits[0x236] = 0;
    let cases = [
        (with_initramfs(&initramfs[..initramfs.len() - 1]), "initramfs-broken"),
        (with_initramfs(&images::gzip(b"not an archive")), "initramfs-broken"),
        (with_initramfs(b""), "initramfs-broken"),
        (with_kernel(b"#!/bin/sh"), "kernel-unusable"),
        (with_kernel(&kernel[..4096]), "kernel-unusable"),
        (with_kernel(&without_64_bits), "kernel-unusable"),
        (with_kernel(&images::kernel(Arm64, 1)), "kernel-unusable"),
        (Images { architecture: Arm64, ..good.clone() }, "kernel-unusable"),
        (Images { kernel: good.initramfs.clone(), initramfs: good.kernel.clone(), ..good.clone() }, "kernel-unusable"),
    ];
    for (at, (images, reason)) in cases.iter().enumerate() {
        let error = publish(&registry, "1.0.0", std::slice::from_ref(images), &[]).unwrap_err();
        assert_eq!((error.exit, error.reason), (Exit::Data, *reason), "case {at}: {error}");
        assert!(error.remedy.contains("Nothing was published"), "case {at}: {}", error.remedy);
    }
    assert!(!registry.storage().join("repositories").exists(), "something was uploaded");
    let twice = [good.clone(), good];
    assert_eq!(publish(&registry, "1.0.0", &twice, &[]).unwrap_err().exit, Exit::Usage);
    assert_eq!(publish(&registry, "1.0.0", &[], &[]).unwrap_err().exit, Exit::Usage);
}

#[test]
fn what_no_device_would_take_is_not_published() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    let options = Options { access: access(&registry), ..Options::default() };
    let mut metadata = metadata("1.0.0");
    metadata.release_notes = Some("x".repeat(kubesolo_update::limits::RELEASE_NOTES_BYTES + 1));
    let reference = format!("{}/os", registry.address);
    let error = publish::release(&reference, &metadata, &images, &[], &options).unwrap_err();
    assert_eq!(error.exit, Exit::Data);
    assert!(error.message.contains("no device would take"), "{error}");
}

#[test]
fn a_tag_moves_only_to_what_is_signed() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (key, keys) = key(&folder, "key");
    let images = both(&folder);
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let tags = ["v1".to_owned(), "lts".to_owned()];
    let error = publish::retag(&reference, &tags, &keys, &access(&registry)).unwrap_err();
    assert_eq!((error.exit, error.reason), (Exit::NotAllowed, "signature-missing"));
    assert!(look(&registry, "os:v1", &keys).is_err());

    sign::sign(&reference, &[key], &access(&registry)).unwrap();
    let digest = publish::retag(&reference, &tags, &keys, &access(&registry)).unwrap();
    for tag in ["os:v1", "os:lts"] {
        let found = look(&registry, tag, &keys).unwrap();
        assert_eq!(found.index, Some(digest));
        found.trusted().unwrap();
    }
}

#[test]
fn a_signature_made_elsewhere_is_attached_only_if_it_fits() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (mine, keys) = key(&folder, "mine");
    let (other, _) = key(&folder, "other");
    let published = publish(&registry, "1.0.0", &both(&folder), &[]).unwrap();
    let reference = format!("{}/os@{}", registry.address, published.manifests[1].1);
    let manifest = registry.read("os", &published.manifests[1].1.to_string());
    let attach = |reference: &str, signature: &[u8]| {
        let file = folder.path().join("signature");
        std::fs::write(&file, signature).unwrap();
        sign::attach_file(reference, &file, &keys, &access(&registry))
    };
    let foreign = attach(&reference, &other.sign(&manifest)).unwrap_err();
    assert_eq!((foreign.exit, foreign.reason), (Exit::NotAllowed, "signature-unknown-key"));
    assert_eq!(attach(&reference, b"short").unwrap_err().exit, Exit::Data);
    let whole = format!("{}/os:stable", registry.address);
    assert_eq!(attach(&whole, &mine.sign(&manifest)).unwrap_err().reason, "ambiguous");
    assert!(look(&registry, "os:stable", &keys).unwrap().manifests.iter().all(|m| m.signatures.is_empty()));

    attach(&reference, &mine.sign(&manifest)).unwrap();
    let found = look(&registry, "os:stable", &keys).unwrap();
    assert_eq!(found.manifests.iter().map(|m| m.trusted).collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert_eq!(found.trusted().unwrap_err().exit, Exit::NotAllowed);
}

#[test]
fn inspect_tells_whose_signature_is_right() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (mine, my_keys) = key(&folder, "mine");
    let (_, other_keys) = key(&folder, "other");
    let id = mine.id().to_string();
    let images = [images::files(folder.path(), Amd64, 1)];
    let published = publish(&registry, "1.0.0", &images, &[mine]).unwrap();
    // A signature that names my key but is of something else.
    let manifest = registry.read("os", &published.manifests[0].1.to_string());
    let wrong = [7; 64];
    let attached = registry.artifact("os", &common::signature_manifest(&manifest, &wrong, &id), &[&wrong]);
    let tag = published.manifests[0].1.to_string().replace(':', "-");
    let mut list: serde_json::Value = serde_json::from_slice(&registry.read("os", &tag)).unwrap();
    list["manifests"]
        .as_array_mut()
        .unwrap()
        .extend(common::referrers(&[&attached])["manifests"].as_array().unwrap().clone());
    registry.manifest("os", &tag, release::OCI_INDEX_TYPE, &bytes(&list));

    let found = look(&registry, "os:stable", &my_keys).unwrap();
    assert_eq!(found.manifests[0].trusted, Some(true));
    assert_eq!(found.manifests[0].signatures.iter().map(|s| s.verified).collect::<Vec<_>>(), [Some(true), Some(false)]);
    let found = look(&registry, "os:stable", &other_keys).unwrap();
    assert_eq!(found.manifests[0].trusted, Some(false));
    assert!(found.to_string().contains("NOT by the given key"), "{found}");
}

#[test]
fn a_single_manifest_can_be_inspected_signed_and_tagged() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (key, keys) = key(&folder, "key");
    let raw = registry.artifact("os", &common::manifest("3.0.0", Arm64, b"k", b"i"), &[b"k", b"i"]);
    registry.manifest("os", "alone", release::OCI_MANIFEST_TYPE, &raw);
    let reference = format!("{}/os:alone", registry.address);
    assert_eq!(sign::sign(&reference, &[key], &access(&registry)).unwrap(), [(Arm64, Digest::of(&raw))]);
    publish::retag(&reference, &["next".into()], &keys, &access(&registry)).unwrap();
    let found = look(&registry, "os:next", &keys).unwrap();
    assert_eq!(found.index, None);
    found.trusted().unwrap();
}

#[test]
fn texts_of_a_release_cannot_act_on_a_terminal() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    let options = Options { access: access(&registry), ..Options::default() };
    let mut metadata = metadata("1.0.0");
    metadata.release_notes = Some("\u{1b}[2J\u{9b}2J\u{202e}😀".into());
    publish::release(&format!("{}/os", registry.address), &metadata, &images, &[], &options).unwrap();
    let found = inspect(&format!("{}/os:stable", registry.address), None, &access(&registry)).unwrap();
    for shown in [found.to_string(), found.json().unwrap()] {
        assert!(shown.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&found.json().unwrap()).unwrap();
    assert_eq!(json["manifests"][0]["release_notes"], "\u{1b}[2J\u{9b}2J\u{202e}😀");
}

#[test]
fn credentials_come_from_environment_or_docker_and_are_never_shown() {
    // htpasswd of user `ci`, password `hunter2-secret`
    const ENTRY: &str = "$2y$04$dnr762oOwwV7pDcEeTXveOWaB/IhESZWFvtMthpPC9JEeGHmTdGWu";
    let folder = TempDir::new().unwrap();
    let htpasswd = folder.path().join("htpasswd");
    std::fs::write(&htpasswd, format!("ci:{ENTRY}\n")).unwrap();
    let registry =
        Registry::start().sibling(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display()));
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", registry.address);
    let arguments = [
        "publish",
        &reference,
        "--version",
        "1.0.0",
        "--channel",
        "stable",
        "--unsigned",
        "--verbose",
        "--plain-http",
        &registry.address,
        "--amd64",
        path(&images.kernel),
        path(&images.initramfs),
    ];
    let docker = folder.path().join("docker");
    std::fs::create_dir(&docker).unwrap();
    // base64 of ci:hunter2-secret
    let config = json!({"auths": {(registry.address.clone()): {"auth": "Y2k6aHVudGVyMi1zZWNyZXQ="}}});
    std::fs::write(docker.join("config.json"), bytes(&config)).unwrap();

    let denied = run(&arguments, &[]);
    assert_eq!(denied.status.code(), Some(69), "{}", text(&denied.stderr));
    assert!(text(&denied.stderr).contains("KUBESOLO_RELEASE_USER"), "{}", text(&denied.stderr));
    let wrong = [("KUBESOLO_RELEASE_USER", "ci"), ("KUBESOLO_RELEASE_PASSWORD", "hunter2-wrong")];
    let refused = run(&arguments, &wrong);
    assert_eq!(refused.status.code(), Some(69));
    let by_environment = run(
        &arguments,
        &[("KUBESOLO_RELEASE_USER", "ci"), ("KUBESOLO_RELEASE_PASSWORD", "hunter2-secret"), ("RUST_LOG", "trace")],
    );
    assert!(by_environment.status.success(), "{}", text(&by_environment.stderr));
    let by_docker = run(&arguments, &[("DOCKER_CONFIG", path(&docker))]);
    assert!(by_docker.status.success(), "{}", text(&by_docker.stderr));
    for output in [denied, refused, by_environment, by_docker] {
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(!shown.contains("hunter2") && !shown.contains("Y2k6"), "{shown}");
    }
}

#[test]
fn a_large_image_needs_little_memory() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = images::files(folder.path(), Amd64, 1);
    // A sparse file: 300 MiB to hash and to send, none to store here.
    std::fs::File::options().write(true).open(&images.kernel).unwrap().set_len(300 << 20).unwrap();
    let reference = format!("{}/os", registry.address);
    // The limit is on all memory that is mapped, program and stacks included.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 150000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kubesolo-release"), "publish"])
        .args([
            &reference,
            "--version",
            "1.0.0",
            "--channel",
            "stable",
            "--unsigned",
            "--plain-http",
            &registry.address,
        ])
        .args(["--amd64", path(&images.kernel), path(&images.initramfs)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn without_certificate_authorities_in_the_system_it_works() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let none = folder.path().join("none");
    std::fs::create_dir(&none).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let arguments = ["inspect", &reference, "--plain-http", &registry.address];
    // Either variable alone replaces the store of the system.
    let output = run(&arguments, &[("SSL_CERT_DIR", path(&none)), ("SSL_CERT_FILE", "/dev/null")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn keys_are_never_overwritten_and_the_private_one_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    let made = run(&["keygen", path(&keys)], &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let private = keys.join("private.pem");
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&private).unwrap();
    let id = PrivateKey::load(&private).unwrap().id().to_string();
    assert!(text(&made.stdout).contains(&id));
    assert!(!text(&made.stdout).contains(text(&before).lines().nth(1).unwrap()));
    assert_eq!(KeySet::load(&keys.join("public.pem")).unwrap().ids().next().unwrap().to_string(), id);

    assert_eq!(run(&["keygen", path(&keys)], &[]).status.code(), Some(73));
    assert_eq!(std::fs::read(&private).unwrap(), before);
    // The public half is in the way: no new private key may be left lying about.
    let lone = folder.path().join("lone.pem");
    let public = keys.join("public.pem");
    let arguments = ["keygen", "--private", path(&lone), "--public", path(&public)];
    assert_eq!(run(&arguments, &[]).status.code(), Some(73));
    assert!(!lone.exists());
    // A dangling link is not followed.
    std::os::unix::fs::symlink(folder.path().join("target"), &lone).unwrap();
    let public = folder.path().join("p");
    let arguments = ["keygen", "--private", path(&lone), "--public", path(&public)];
    assert_eq!(run(&arguments, &[]).status.code(), Some(73));

    let hex = folder.path().join("hex");
    let made = run(&["keygen", path(&hex), "--public-format", "hex"], &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let public = std::fs::read_to_string(hex.join("public.hex")).unwrap();
    assert_eq!(public.trim().len(), 64);
    let id = PrivateKey::load(&hex.join("private.pem")).unwrap().id();
    assert_eq!(KeySet::load(&hex.join("public.hex")).unwrap().ids().collect::<Vec<_>>(), [id]);
}

#[test]
fn a_command_line_that_is_wrong_ends_with_64() {
    let publish = ["publish", "localhost:1/os", "--version", "1.0.0", "--channel", "c"];
    let lines: [&[&str]; 7] = [
        &[],
        &["keygen"],
        &["keygen", "dir", "--private", "a", "--public", "b"],
        &[&publish[..], &["--unsigned"]].concat(),
        &[&publish[..], &["--amd64", "k", "i"]].concat(),
        &[&publish[..], &["--amd64", "k", "--unsigned"]].concat(),
        &["sign", "localhost:1/os:t", "--signature", "s"],
    ];
    for line in lines {
        let output = run(line, &[]);
        assert_eq!(output.status.code(), Some(64), "{line:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{line:?}");
    }
    assert!(run(&["--help"], &[]).status.success());
}

#[test]
fn the_date_is_part_of_the_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", registry.address);
    let base = [
        "publish",
        &reference,
        "--version",
        "1.0.0",
        "--channel",
        "stable",
        "--unsigned",
        "--plain-http",
        &registry.address,
        "--amd64",
        path(&images.kernel),
        path(&images.initramfs),
    ];
    let digest = |more: &[&str], environment: &[(&str, &str)]| {
        let output = run(&[&base[..], more].concat(), environment);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().find(|l| l.starts_with("index")).unwrap().to_owned()
    };
    let given = digest(&["--release-date", "2001-09-09T01:46:40Z"], &[]);
    assert_eq!(digest(&[], &[("SOURCE_DATE_EPOCH", "1000000000")]), given);
    assert_ne!(digest(&[], &[]), given);
}
