//! Signing where the key is: what is to be signed goes there, and signatures come back. openssl signs.

use bootenv::SlotId;

use super::*;
use crate::cli_support::Device;
use crate::common::nginx::Nginx;
use crate::common::registry::find;

/// Runs a tool in `folder`.
fn tool(name: &str, folder: &TempDir, arguments: &str) -> Vec<u8> {
    let program = find(name).unwrap_or_else(|| panic!("{name} is needed: build/scripts/setup.sh test"));
    let ran = Command::new(program).args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
    assert!(ran.status.success(), "{name} {arguments}: {}", text(&ran.stderr));
    ran.stdout
}

/// Runs `kubesolo-release` in `folder`.
fn ours(folder: &TempDir, arguments: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    let ran = command.args(arguments.split(' ')).current_dir(folder.path()).env("DOCKER_CONFIG", "/nonexistent");
    let ran = ran.output().unwrap();
    (ran.status.code().unwrap(), text(&ran.stdout) + &text(&ran.stderr))
}

#[track_caller]
fn good(folder: &TempDir, arguments: &str) -> String {
    let (code, said) = ours(folder, arguments);
    assert_eq!(code, 0, "{arguments}: {said}");
    said
}

/// Keys `alice`, `bob` and `eve`, of openssl; the public halves of the first two in `known`.
fn signers(folder: &TempDir) {
    std::fs::create_dir(folder.path().join("known")).unwrap();
    for name in ["alice", "bob", "eve"] {
        tool("openssl", folder, &format!("genpkey -algorithm ed25519 -out {name}"));
        let place = if name == "eve" { "eve.pub".into() } else { format!("known/{name}") };
        tool("openssl", folder, &format!("pkey -in {name} -pubout -out {place}"));
    }
}

fn signed(folder: &TempDir, name: &str, file: &str) -> String {
    let signature = format!("{name}-{}.sig", file.replace('/', "-"));
    tool("openssl", folder, &format!("pkeyutl -sign -rawin -inkey {name} -in {file} -out {signature}"));
    signature
}

#[test]
fn several_sign_a_release_in_a_registry_one_after_the_other() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    signers(&folder);
    publish(&registry, "1.0.0", &both(&folder), &[]).unwrap();
    let (place, plain) = (format!("{}/os:stable", registry.address), format!("--plain-http {}", registry.address));
    let said = good(&folder, &format!("payload {place} --output out {plain}"));
    for architecture in ["amd64", "arm64"] {
        let raw = std::fs::read(folder.path().join(format!("out/{architecture}.json"))).unwrap();
        assert!(said.contains(&format!("{architecture}      {}", Digest::of(&raw))), "{said}");
        let release = release::Release::from_oci_manifest(&raw).unwrap();
        assert!(said.contains(&release.kernel.digest.to_string()), "{said}");
    }
    // Nothing is attached unless all of it fits, and is by a known key.
    let (alice, eve) = (signed(&folder, "alice", "out/amd64.json"), signed(&folder, "eve", "out/arm64.json"));
    let of_nothing = signed(&folder, "alice", "known/alice");
    std::fs::write(folder.path().join("short"), b"short").unwrap();
    let attach = format!("attach {place} {plain} --pubkey known --signature");
    for (wrong, code, word) in
        [(&eve, 77, "no known key"), (&of_nothing, 77, "no known key"), (&"short".into(), 65, "short")]
    {
        let (found, said) = ours(&folder, &format!("{attach} {alice} --signature {wrong}"));
        assert!(found == code && said.contains(word), "{wrong}: {found} {said}");
    }
    let keys = KeySet::load(&folder.path().join("known")).unwrap();
    assert!(look(&registry, "os:stable", &keys).unwrap().manifests.iter().all(|m| m.signatures.is_empty()));

    // Which architecture a signature is of is found out.
    let said = good(&folder, &format!("{attach} {alice} --signature {}", signed(&folder, "alice", "out/arm64.json")));
    assert!(said.contains("signed amd64") && said.contains("signed arm64"), "{said}");
    let bob = signed(&folder, "bob", "out/amd64.json");
    good(&folder, &format!("{attach} {bob}"));
    good(&folder, &format!("{attach} {bob}"));
    let found = look(&registry, "os:stable", &keys).unwrap();
    assert_eq!(found.manifests.iter().map(|m| m.signatures.len()).collect::<Vec<_>>(), [2, 1], "each once");
    found.trusted().unwrap();
    let device = Device::new();
    std::fs::copy(folder.path().join("known/bob"), device.path("K")).unwrap();
    device.from(&registry, &["apply"]).code(0);
}

#[test]
fn several_sign_a_tree_of_files_one_after_the_other() {
    let folder = TempDir::new().unwrap();
    signers(&folder);
    let www = folder.path().join("www");
    let options = publisher::http::Options::default();
    publisher::http::publish(&www, &metadata("1.0.0"), &both(&folder), &[], &options).unwrap();
    let here = Architecture::current().to_string();
    std::os::unix::fs::symlink(&here, www.join("os")).unwrap();
    let server = Nginx::start(&www, "");
    let device = Device::new();
    std::fs::copy(folder.path().join("known/bob"), device.path("K")).unwrap();
    device.over_http(&server, &["apply", "--json"]).refused(77, "signature-missing");

    good(&folder, "payload --http www --output out");
    let document = std::fs::read(www.join(&here).join("latest.json")).unwrap();
    assert_eq!(std::fs::read(folder.path().join(format!("out/{here}.json"))).unwrap(), document);
    let (alice, bob) =
        (signed(&folder, "alice", &format!("out/{here}.json")), signed(&folder, "bob", &format!("out/{here}.json")));
    let eve = signed(&folder, "eve", &format!("out/{here}.json"));
    assert_eq!(ours(&folder, &format!("attach --http www --pubkey known --signature {eve}")).0, 77);
    good(&folder, &format!("attach --http www --pubkey known --signature {alice}"));
    device.over_http(&server, &["apply", "--json"]).refused(77, "signature-unknown-key");
    good(&folder, &format!("attach --http www --pubkey known --signature {bob}"));
    good(&folder, &format!("attach --http www --pubkey known --signature {bob}"));
    // As lines that both kinds of readers know; the document itself did not change.
    let lines = std::fs::read_to_string(www.join(&here).join("latest.json.sig")).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert_eq!(std::fs::read(www.join(&here).join("latest.json")).unwrap(), document);
    device.over_http(&server, &["apply"]).code(0);
    assert_eq!(device.version_in(SlotId::B).as_deref(), Some("1.0.0"));
}

#[test]
fn revoked_keys_are_named_as_openssl_and_sha256sum_name_them() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    signers(&folder);
    let [one, _] = both(&folder);
    let der = tool("openssl", &folder, "pkey -in eve -pubout -outform DER");
    let eve = Digest::of(&der[der.len() - 32..]).hex();
    let zero = "0".repeat(64);
    let publish = |revoked: &str| {
        let place = format!("publish {}/os --plain-http {} --version 1.0.0", registry.address, registry.address);
        let images = format!("--channel stable --amd64 {} {}", path(&one.kernel), path(&one.initramfs));
        ours(&folder, &format!("{place} {images} --unsigned {revoked}"))
    };
    let (code, said) = publish(&format!("--revoke-key eve.pub --revoke-key {zero}"));
    assert_eq!(code, 0, "{said}");
    good(&folder, &format!("payload {}/os:stable --plain-http {} --output out", registry.address, registry.address));
    let raw = std::fs::read(folder.path().join("out/amd64.json")).unwrap();
    let release = release::Release::from_oci_manifest(&raw).unwrap();
    assert_eq!(release.revoked_keys.iter().map(ToString::to_string).collect::<Vec<_>>(), [zero, eve]);
    for wrong in ["--revoke-key eve", "--revoke-key nothing", &format!("--revoke-key {}", "A".repeat(64))] {
        let (code, said) = publish(wrong);
        assert_eq!(code, 78, "{wrong}: {said}");
    }
}

#[test]
fn a_statement_of_freshness_is_one_artifact_that_the_standard_tools_read() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    signers(&folder);
    let published = publish(&registry, "1.0.0", &both(&folder), &[]).unwrap();
    let (place, plain) = (format!("{}/os:stable", registry.address), format!("--plain-http {}", registry.address));
    let said = good(&folder, &format!("freshness {place} {plain} --key alice --key bob --days 7"));
    assert!(said.contains(&published.manifests[1].1.to_string()), "{said}");
    tool("oras", &folder, &format!("pull --plain-http {place}.freshness -o pulled"));
    let raw = std::fs::read(folder.path().join("pulled/freshness.json")).unwrap();
    let statement = kubesolo_update::release::statement::Statement::parse(&raw).unwrap();
    assert_eq!(statement.latest(Arm64), Some(published.manifests[1].1));
    assert_eq!((statement.not_after - statement.issued).num_days(), 7);
    let manifest: serde_json::Value = serde_json::from_slice(&registry.read("os", "stable.freshness")).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for (layer, name) in layers[1..].iter().zip(["alice", "bob"]) {
        let signature: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
        std::fs::copy(registry.blob_file(signature), folder.path().join("sig")).unwrap();
        let key = format!("-verify -rawin -inkey {name} -sigfile sig");
        tool("openssl", &folder, &format!("pkeyutl {key} -in pulled/freshness.json"));
    }
    // Its number only grows.
    let low = format!("freshness {place} {plain} --key alice --serial {}", statement.serial);
    let (code, said) = ours(&folder, &low);
    assert!(code == 64 && said.contains("not above"), "{code} {said}");
    good(&folder, &format!("freshness {place} {plain} --key alice"));

    // Signed elsewhere.
    good(&folder, &format!("freshness {place} {plain} --output s.json"));
    let (alice, eve) = (signed(&folder, "alice", "s.json"), signed(&folder, "eve", "s.json"));
    let publish = format!("freshness {place} {plain} --statement s.json --pubkey known --signature");
    assert_eq!(ours(&folder, &format!("{publish} {eve}")).0, 77);
    good(&folder, &format!("{publish} {alice}"));
    let now = std::fs::read(folder.path().join("s.json")).unwrap();
    tool("oras", &folder, &format!("pull --plain-http {place}.freshness -o again"));
    assert_eq!(std::fs::read(folder.path().join("again/freshness.json")).unwrap(), now);
    // An old one does not come back.
    std::fs::write(folder.path().join("old.json"), raw).unwrap();
    let old = signed(&folder, "alice", "old.json");
    let (code, said) =
        ours(&folder, &format!("freshness {place} {plain} --statement old.json --pubkey known --signature {old}"));
    assert!(code == 65 && said.contains("not above"), "{code} {said}");
}

#[test]
fn a_statement_of_freshness_lies_in_each_folder_of_a_tree() {
    let folder = TempDir::new().unwrap();
    signers(&folder);
    let www = folder.path().join("www");
    let options = publisher::http::Options::default();
    let published = publisher::http::publish(&www, &metadata("1.0.0"), &both(&folder), &[], &options).unwrap();
    good(&folder, "freshness --http www --key alice");
    for (architecture, digest) in published {
        let raw = std::fs::read(www.join(format!("{architecture}/freshness.json"))).unwrap();
        let statement = kubesolo_update::release::statement::Statement::parse(&raw).unwrap();
        assert_eq!(statement.latest(architecture), Some(digest));
        let verify = format!("pkeyutl -verify -rawin -inkey alice -sigfile www/{architecture}/freshness.json.sig");
        tool("openssl", &folder, &format!("{verify} -in www/{architecture}/freshness.json"));
    }
    assert_eq!(ours(&folder, "freshness --http www --key alice --serial 1").0, 64);
}

#[test]
fn the_publisher_explains_the_reason_of_its_error() {
    let folder = TempDir::new().unwrap();
    let (code, said) = ours(&folder, "sign 127.0.0.1:1/os:stable --key nowhere");
    assert_eq!(code, 78, "{said}");
    assert!(said.ends_with("  More: kubesolo-release explain key-unreadable\n"), "{said}");
    assert!(good(&folder, "explain key-unreadable").starts_with("key-unreadable (exit code 78: configuration)\n"));
}
