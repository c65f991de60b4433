//! Releases between our publisher and the standard tools: openssl, skopeo, oras and cosign.

use std::path::Path;
use std::process::Command;

use crate::cli_support::Device;
use crate::common::registry::{Registry, find};
use crate::common::{self, bytes, images};
use kubesolo_release::inspect::inspect;
use kubesolo_release::key::{PrivateKey, PublicFormat};
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Metadata, Options, Published, sign};
use kubesolo_update::Exit;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::{
    ARCHITECTURE, Architecture, CHANNEL, INITRAMFS_TYPE, KERNEL_TYPE, OCI_INDEX_TYPE, SIGNATURE_TYPE, VERSION,
};
use kubesolo_update::trust::keys::KeySet;
use serde_json::Value;
use tempfile::TempDir;

use Architecture::{Amd64, Arm64};

/// Runs a tool in `folder`, with no configuration of the user's, and returns what it printed.
pub(super) fn tool(name: &str, folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let program = find(name).unwrap_or_else(|| panic!("{name} is needed: build/scripts/setup.sh test"));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("COSIGN_PASSWORD", "")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
}

fn access(registry: &Registry) -> Access {
    Access { plain_http: vec![registry.address.clone()], ..Access::default() }
}

/// A signed release for both architectures at `os:stable`, its key as `key` and `key.pub` in `folder`.
fn released(registry: &Registry, folder: &TempDir) -> (Published, KeySet) {
    let key = PrivateKey::generate().unwrap();
    let public = folder.path().join("key.pub");
    key.save(&folder.path().join("key"), &public, PublicFormat::Pem).unwrap();
    let images = [images::files(folder.path(), Amd64, 1), images::files(folder.path(), Arm64, 2)];
    let options = Options { access: access(registry), ..Options::default() };
    let metadata = Metadata::new("1.2.0".parse().unwrap(), "stable");
    let published =
        publisher::release(&format!("{}/os", registry.address), &metadata, &images, &[key], &options).unwrap();
    (published, KeySet::load(&public).unwrap())
}

#[test]
fn openssl_reads_our_keys_and_verifies_our_signatures() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (published, _) = released(&registry, &folder);
    let dir = folder.path();
    let public = tool("openssl", dir, &["pkey", "-in", "key", "-pubout"]).unwrap();
    assert_eq!(public, std::fs::read(dir.join("key.pub")).unwrap());

    for (_, digest) in published.manifests {
        let list = json(&registry.read("os", &digest.to_string().replace(':', "-")));
        let attached = json(&registry.read("os", list["manifests"][0]["digest"].as_str().unwrap()));
        let signature: Digest = attached["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
        std::fs::copy(registry.blob_file(signature), dir.join("sig")).unwrap();
        std::fs::write(dir.join("manifest"), registry.read("os", &digest.to_string())).unwrap();
        let verify =
            ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub", "-sigfile", "sig", "-in", "manifest"];
        tool("openssl", dir, &verify).unwrap();
        std::fs::write(dir.join("manifest"), b"something else").unwrap();
        tool("openssl", dir, &verify).unwrap_err();
    }
}

#[test]
fn keys_and_signatures_of_openssl_are_accepted() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let dir = folder.path();
    let (published, _) = released(&registry, &folder);
    tool("openssl", dir, &["genpkey", "-algorithm", "ed25519", "-out", "o"]).unwrap();
    tool("openssl", dir, &["pkey", "-in", "o", "-pubout", "-out", "o.pub"]).unwrap();
    let keys = KeySet::load(&dir.join("o.pub")).unwrap();
    let key = PrivateKey::load(&dir.join("o")).unwrap();
    assert_eq!(keys.ids().collect::<Vec<_>>(), [key.id()]);

    // The signatures of openssl and of this program are the same, to the byte.
    let digest = published.manifests[0].1;
    let manifest = registry.read("os", &digest.to_string());
    std::fs::write(dir.join("manifest"), &manifest).unwrap();
    tool("openssl", dir, &["pkeyutl", "-sign", "-rawin", "-inkey", "o", "-in", "manifest", "-out", "sig"]).unwrap();
    assert_eq!(std::fs::read(dir.join("sig")).unwrap(), key.sign(&manifest));
    let reference = format!("{}/os@{digest}", registry.address);
    sign::attach_files(&reference, &[dir.join("sig")], &keys, &access(&registry)).unwrap();
    inspect(&reference, Some(&keys), &access(&registry)).unwrap().trusted().unwrap();

    // Other kinds of keys are refused, with a word about it.
    tool("openssl", dir, &["genpkey", "-algorithm", "x25519", "-out", "x"]).unwrap();
    tool("openssl", dir, &["pkey", "-in", "o", "-aes256", "-passout", "pass:p", "-out", "e"]).unwrap();
    for (name, word) in [("x", "not a usable private key"), ("e", "encrypted"), ("o.pub", "not a usable private key")] {
        let Err(error) = PrivateKey::load(&dir.join(name)) else { panic!("{name} was accepted") };
        assert_eq!(error.exit(), Exit::Config, "{name}");
        assert!(error.message.contains(word), "{name}: {error}");
    }
}

#[test]
fn skopeo_inspects_and_copies_our_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (published, keys) = released(&registry, &folder);
    let dir = folder.path();
    let from = |reference: &str| format!("docker://{}/{reference}", registry.address);
    let raw = tool("skopeo", dir, &["inspect", "--raw", "--tls-verify=false", &from("os:stable")]).unwrap();
    assert_eq!(Digest::of(&raw), published.index);

    let copy = |options: &[&str], source: &str, target: &str| {
        let fixed = ["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];
        let ends = [from(source), from(target)];
        tool("skopeo", dir, &[&fixed, options, &[ends[0].as_str(), ends[1].as_str()]].concat()).unwrap()
    };
    // Everything, with the signatures of both: what docs/releasing.md says.
    copy(&["--all", "--preserve-digests"], "os:stable", "mirror:stable");
    for (_, digest) in &published.manifests {
        let tag = digest.to_string().replace(':', "-");
        // Not the same digest: skopeo before 1.14 loses the types of the entries here.
        copy(&["--all"], &format!("os:{tag}"), &format!("mirror:{tag}"));
    }
    let mirrored = inspect(&format!("{}/mirror:stable", registry.address), Some(&keys), &access(&registry)).unwrap();
    assert_eq!(mirrored.index, Some(published.index));
    mirrored.trusted().unwrap();

    // One architecture: the same manifest, so the same signature.
    copy(&["--override-arch", "arm64", "--preserve-digests"], "os:stable", "arm:stable");
    let tag = published.manifests[1].1.to_string().replace(':', "-");
    copy(&["--all"], &format!("os:{tag}"), &format!("arm:{tag}"));
    let arm = inspect(&format!("{}/arm:stable", registry.address), Some(&keys), &access(&registry)).unwrap();
    assert_eq!((arm.index, arm.manifests[0].digest), (None, published.manifests[1].1));
    arm.trusted().unwrap();
}

#[test]
fn oras_reads_and_copies_our_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (published, keys) = released(&registry, &folder);
    let dir = folder.path();
    let reference = |rest: &str| format!("{}/{rest}", registry.address);
    let index = tool("oras", dir, &["manifest", "fetch", "--plain-http", &reference("os:stable")]).unwrap();
    assert_eq!(Digest::of(&index), published.index);

    let digest = published.manifests[0].1;
    let one = reference(&format!("os@{digest}"));
    let found =
        tool("oras", dir, &["discover", "--plain-http", "--format", "json", "--artifact-type", SIGNATURE_TYPE, &one])
            .unwrap();
    let found = json(&found);
    assert_eq!(found["manifests"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["manifests"][0]["artifactType"], SIGNATURE_TYPE);

    let ends = [reference("os:stable"), reference("mirror:stable")];
    let copy = ["cp", "--from-plain-http", "--to-plain-http", &ends[0], &ends[1]];
    tool("oras", dir, &copy).unwrap();
    // oras 1.2 alone with -r copies the signatures and forgets the index, so it comes second.
    tool("oras", dir, &[&copy[..], &["-r"]].concat()).unwrap();
    inspect(&ends[1], Some(&keys), &access(&registry)).unwrap().trusted().unwrap();

    tool("oras", dir, &["pull", "--plain-http", "--platform", "linux/amd64", "-o", "pulled", &ends[0]]).unwrap();
    let kernel = std::fs::read(dir.join("pulled/vmlinuz")).unwrap();
    assert_eq!(kernel, images::kernel(Amd64, 1));
}

#[test]
fn a_release_made_with_oras_and_openssl_alone_is_valid() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let dir = folder.path();
    let architecture = Architecture::current();
    std::fs::write(dir.join("vmlinuz"), images::kernel(architecture, 1)).unwrap();
    std::fs::write(dir.join("kubesolo-os.gz"), images::gzip(&images::archive(b"init"))).unwrap();
    tool("openssl", dir, &["genpkey", "-algorithm", "ed25519", "-out", "key"]).unwrap();
    tool("openssl", dir, &["pkey", "-in", "key", "-pubout", "-out", "key.pub"]).unwrap();
    let tag = format!("{}/os:stable", registry.address);
    let annotation = |key: &str, value: &str| format!("--annotation={key}={value}");
    tool(
        "oras",
        dir,
        &[
            "push",
            "--plain-http",
            &tag,
            "--artifact-type=application/vnd.kubesolo.os.release.v1",
            &annotation(VERSION, "1.0.0"),
            &annotation(CHANNEL, "stable"),
            &annotation(ARCHITECTURE, &architecture.to_string()),
            &format!("vmlinuz:{KERNEL_TYPE}"),
            &format!("kubesolo-os.gz:{INITRAMFS_TYPE}"),
        ],
    )
    .unwrap();
    let manifest = tool("oras", dir, &["manifest", "fetch", "--plain-http", &tag]).unwrap();
    std::fs::write(dir.join("manifest"), &manifest).unwrap();
    tool("openssl", dir, &["pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "manifest", "-out", "sig"]).unwrap();
    let layer = format!("sig:{SIGNATURE_TYPE}");
    tool("oras", dir, &["attach", "--plain-http", "--artifact-type", SIGNATURE_TYPE, &tag, &layer]).unwrap();

    let keys = KeySet::load(&dir.join("key.pub")).unwrap();
    let found = inspect(&tag, Some(&keys), &access(&registry)).unwrap();
    found.trusted().unwrap();
    assert_eq!(found.manifests[0].digest, Digest::of(&manifest));
    assert_eq!(found.manifests[0].version, "1.0.0");

    // A device takes it: the real program, on folders, with the key that openssl made.
    let device = Device::new();
    device.write("K", &std::fs::read(dir.join("key.pub")).unwrap());
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(device.version_in(bootenv::SlotId::B).as_deref(), Some("1.0.0"));

    // A second signature beside the one that oras attached.
    let ours = PrivateKey::generate().unwrap();
    sign::sign(&tag, &[ours], &access(&registry)).unwrap();
    let found = inspect(&tag, Some(&keys), &access(&registry)).unwrap();
    assert_eq!(found.manifests[0].signatures.len(), 2);
    found.trusted().unwrap();

    // The same below an index that oras pushed: what was signed is the manifest in it.
    let index = bytes(&common::index(&[("riscv64", &manifest), (&architecture.to_string(), &manifest)]));
    std::fs::write(dir.join("index"), index).unwrap();
    tool("oras", dir, &["manifest", "push", "--plain-http", "--media-type", OCI_INDEX_TYPE, &tag, "index"]).unwrap();
    let device = Device::new();
    device.write("K", &std::fs::read(dir.join("key.pub")).unwrap());
    device.from(&registry, &["apply"]).code(0);
    assert_eq!(device.version_in(bootenv::SlotId::B).as_deref(), Some("1.0.0"));
}

/// With a key of openssl, which cosign keeps in a form of its own.
#[test]
fn signatures_by_the_real_cosign_are_accepted_and_ours_verified_by_it() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let dir = folder.path();
    tool("openssl", dir, &["genpkey", "-algorithm", "ed25519", "-out", "key"]).unwrap();
    tool("openssl", dir, &["pkey", "-in", "key", "-pubout", "-out", "key.pub"]).unwrap();
    let cosign = |arguments: &[&str]| tool("cosign", dir, arguments);
    cosign(&["import-key-pair", "--key", "key", "--output-key-prefix", "cosign"]).unwrap();
    let images = [images::files(dir, Amd64, 1), images::files(dir, Arm64, 2)];
    let options = Options { access: access(&registry), ..Options::default() };
    let metadata = Metadata::new("1.2.0".parse().unwrap(), "stable");
    let tag = format!("{}/os", registry.address);
    let published = publisher::release(&tag, &metadata, &images, &[], &options).unwrap();
    let device = Device::new();
    device.write("K", &std::fs::read(dir.join("key.pub")).unwrap());
    device.from(&registry, &["apply", "--json"]).refused(77, "signature-missing");

    let index = format!("{tag}@{}", published.index);
    let sign = ["sign", "--key", "cosign.key", "--tlog-upload=false", "--allow-http-registry", "--yes"];
    cosign(&[&sign[..], &[&index]].concat()).unwrap();
    let error = device.from(&registry, &["apply", "--json"]).refused(77, "signature-of-index");
    assert!(error["remedy"].as_str().unwrap().contains("cosign sign --recursive"), "{error}");

    cosign(&[&sign[..], &["--recursive", &index]].concat()).unwrap();
    device.from(&registry, &["apply"]).code(0);
    // The content of the slot is proven again without the registry, by the payload that it keeps.
    device.here(&["verify"]).says(&["slot B holds: 1.2.0, signed by"]);
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    device.from(&registry, &["check"]).code(0).says(&["up to date: 1.2.0"]);
    let keys = KeySet::load(&dir.join("key.pub")).unwrap();
    inspect(&format!("{tag}:stable"), Some(&keys), &access(&registry)).unwrap().trusted().unwrap();

    // A signature of ours is one that cosign makes of a file, to the byte, and so it verifies it.
    let digest = published.manifests[0].1;
    let manifest = registry.read("os", &digest.to_string());
    std::fs::write(dir.join("manifest"), &manifest).unwrap();
    let ours = PrivateKey::load(&dir.join("key")).unwrap().sign(&manifest);
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ours);
    std::fs::write(dir.join("ours"), &text).unwrap();
    let verify = ["verify-blob", "--key", "key.pub", "--insecure-ignore-tlog", "--signature", "ours", "manifest"];
    cosign(&verify).unwrap();
    let theirs = cosign(&["sign-blob", "--key", "cosign.key", "--tlog-upload=false", "--yes", "manifest"]).unwrap();
    assert_eq!(String::from_utf8(theirs).unwrap().trim(), text);
    std::fs::write(dir.join("manifest"), b"something else").unwrap();
    cosign(&verify).unwrap_err();
}

/// cosign 3 of Debian's unstable suite: its bundle, and its old format, which is Ed25519ph.
#[test]
fn signatures_by_the_real_cosign_3_are_accepted_in_both_forms() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let dir = folder.path();
    tool("openssl", dir, &["genpkey", "-algorithm", "ed25519", "-out", "key"]).unwrap();
    tool("openssl", dir, &["pkey", "-in", "key", "-pubout", "-out", "key.pub"]).unwrap();
    let cosign = |arguments: &[&str]| tool("cosign3", dir, arguments).unwrap();
    cosign(&["import-key-pair", "--key", "key", "--output-key-prefix", "cosign"]);
    cosign(&["signing-config", "create", "--out", "none.json"]);
    let keys = KeySet::load(&dir.join("key.pub")).unwrap();
    let bundle = ["--signing-config", "none.json"];
    let old = ["--tlog-upload=false", "--new-bundle-format=false", "--use-signing-config=false"];
    for (name, form) in [("bundle", &bundle[..]), ("old", &old[..])] {
        let images = [images::files(dir, Amd64, 1), images::files(dir, Arm64, 2)];
        let options = Options { access: access(&registry), ..Options::default() };
        let metadata = Metadata::new("1.2.0".parse().unwrap(), "stable");
        let tag = format!("{}/{name}", registry.address);
        let published = publisher::release(&tag, &metadata, &images, &[], &options).unwrap();
        let index = format!("{tag}@{}", published.index);
        let sign = ["sign", "--key", "cosign.key", "--allow-http-registry", "--yes", "--recursive"];
        cosign(&[&sign[..], form, &[&index]].concat());
        inspect(&format!("{tag}:stable"), Some(&keys), &access(&registry)).unwrap().trusted().unwrap();

        let device = Device::new();
        device.write("K", &std::fs::read(dir.join("key.pub")).unwrap());
        let arguments = ["apply", "--registry", &tag, "--plain-http", &registry.address, "--pubkey", "K"];
        device.run(&device.local(&arguments)).code(0);
        // The slot keeps what proves it.
        device.here(&["verify"]).says(&["slot B holds: 1.2.0, signed by"]);
        device.here(&["activate"]).code(0);
        // A bundle file takes the signatures along.
        let file = dir.join(format!("{name}.tar"));
        publisher::bundle::bundle(&format!("{tag}:stable"), &file, None, &access(&registry)).unwrap();
        let device = Device::new();
        device.write("K", &std::fs::read(dir.join("key.pub")).unwrap());
        let file = file.to_str().unwrap();
        device.run(&device.local(&["apply", "--bundle", file, "--pubkey", "K"])).code(0);
    }
}
