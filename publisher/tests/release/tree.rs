//! `kubesolo-release publish --http`, as devices, OpenSSL and old agents see it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use std::collections::BTreeMap;

use crate::common::images;
use crate::common::nginx::Nginx;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::config::proxy::ProxySetting;
use kubesolo_update::fetch::options::FetchOptions;
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::http::HttpSource;
use kubesolo_update::source::source::Source as _;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::Signature;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with images of both architectures and a key.
fn workshop() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (architecture, suffix) in [(Architecture::Amd64, ""), (Architecture::Arm64, "-arm64")] {
        let files = images::files(folder.path(), architecture, 1);
        std::fs::rename(files.kernel, folder.path().join(format!("vmlinuz{suffix}"))).unwrap();
        std::fs::rename(files.initramfs, folder.path().join(format!("kubesolo-os{suffix}.gz"))).unwrap();
    }
    run(&folder, "keygen keys");
    run(&folder, "keygen more");
    folder
}

fn try_run(folder: &TempDir, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    command.args(arguments.split(' ')).current_dir(folder.path()).env_remove("SOURCE_DATE_EPOCH").output().unwrap()
}

#[test]
fn a_report_that_does_not_arrive_is_a_failure() {
    let folder = workshop();
    let publish = format!("{PUBLISH} --version 1.0.0 --key keys/private.pem");
    for arguments in [&publish, "keygen further", "explain env-full", "--help"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command.args(arguments.split(' ')).current_dir(folder.path()).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(73), "{arguments}: {said}");
        assert!(arguments == "--help" || said.contains("standard output"), "{arguments}: {said}");
    }
    assert!(folder.path().join("www/amd64/latest.json").exists(), "the release is published all the same");
}

fn run(folder: &TempDir, arguments: &str) -> String {
    let output = try_run(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The initramfs of the release on offer.
fn fetch(source: &mut HttpSource, offer: &Offer) -> Vec<u8> {
    let blob = source.locate(offer.release.initramfs).unwrap();
    let mut body = source.open(&blob).unwrap();
    let mut all = vec![];
    while let Some(chunk) = body.chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

const PUBLISH: &str = "publish --http www --channel stable --amd64 vmlinuz kubesolo-os.gz";

fn read(folder: &TempDir, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).unwrap()
}

#[test]
fn devices_of_both_architectures_take_what_it_writes() {
    let folder = workshop();
    let said = run(
        &folder,
        &format!(
            "{PUBLISH} --arm64 vmlinuz-arm64 kubesolo-os-arm64.gz --version 1.2.0 --key keys/private.pem --key more/private.pem \
             --min-compatible-version 1.0.0 --release-notes Faster. --security-epoch 3 --board edge-1"
        ),
    );
    let server = Nginx::start(&folder.path().join("www"), "");
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        let url = format!("http://{}/{architecture}", server.address);
        let mut source = HttpSource::new(
            &FetchOptions { proxy: Some(ProxySetting::Direct), ..FetchOptions::default() },
            &url,
            false,
        )
        .unwrap();
        let offer = source.offer(architecture).unwrap();
        assert!(
            said.contains(&format!("{architecture}      {} www/{architecture}/latest.json", offer.release.digest)),
            "{said}"
        );
        for keys in ["keys", "more"] {
            let keys = KeySet::load(&folder.path().join(keys).join("public.pem")).unwrap();
            keys.verify(&offer.signed, &offer.signatures).unwrap();
        }
        let release = &offer.release;
        assert_eq!((release.version.to_string().as_str(), release.security_epoch), ("1.2.0", 3));
        assert_eq!((release.board.as_deref(), release.channel.as_deref()), (Some("edge-1"), Some("stable")));
        let suffix = if architecture == Architecture::Arm64 { "-arm64" } else { "" };
        assert_eq!(fetch(&mut source, &offer), read(&folder, &format!("kubesolo-os{suffix}.gz")));
    }
}

#[test]
fn openssl_and_old_agents_find_their_signatures() {
    let folder = workshop();
    run(&folder, &format!("{PUBLISH} --version 1.2.0 --key keys/private.pem --url https://updates.example/os"));
    let raw = read(&folder, "www/amd64/latest.json");
    let document: Value = serde_json::from_slice(&raw).unwrap();
    let below = |member: &str| -> String {
        let url = document[member].as_str().unwrap();
        format!("www/{}", url.strip_prefix("https://updates.example/os/").unwrap())
    };
    for (file, signature) in [
        (below("vmlinuz_url"), below("vmlinuz_sig_url")),
        (below("initramfs_url"), below("initramfs_sig_url")),
        ("www/amd64/latest.json".into(), below("metadata_sig_url")),
        ("www/amd64/latest.json".into(), "www/amd64/latest.json.sig".into()),
    ] {
        let verified = Command::new("openssl")
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "keys/public.pem", "-in", &file])
            .args(["-sigfile", &signature])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(verified.status.success(), "{file}: {}", String::from_utf8_lossy(&verified.stdout));
    }
    assert_eq!(document["vmlinuz_sha256"], Digest::of(&read(&folder, "vmlinuz")).hex());
}

#[test]
fn nothing_that_a_device_reads_now_changes_until_the_document_does() {
    let folder = workshop();
    run(&folder, &format!("{PUBLISH} --version 1.0.0 --key keys/private.pem"));
    let files = |folder: &TempDir| -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder.path().join("www/amd64/files")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.map(|name| (name.clone(), read(folder, &format!("www/amd64/files/{name}")))).collect()
    };
    let (first, document) = (files(&folder), read(&folder, "www/amd64/latest.json"));
    images::files(folder.path(), Architecture::Amd64, 7);
    std::fs::rename(folder.path().join("vmlinuz-amd64-7"), folder.path().join("vmlinuz")).unwrap();
    run(&folder, &format!("{PUBLISH} --version 1.1.0 --key keys/private.pem"));
    let second = files(&folder);
    assert!(first.iter().all(|(name, content)| second.get(name) == Some(content)), "{:?}", second.keys());
    // The old document is still whole, with its own signature.
    let old = Latest::parse(&document).unwrap();
    let signature = read(&folder, &format!("www/amd64/{}", old.signature_url().unwrap()));
    let keys = KeySet::load(&folder.path().join("keys/public.pem")).unwrap();
    keys.verify(&document, &Signature::parse_file(&signature).unwrap()).unwrap();
    assert_ne!(read(&folder, "www/amd64/latest.json"), document);
    // Nothing half-written is left, and doing it again changes nothing.
    let again = read(&folder, "www/amd64/latest.json");
    let date = serde_json::from_slice::<Value>(&again).unwrap()["release_date"].as_str().unwrap().to_owned();
    run(&folder, &format!("{PUBLISH} --version 1.1.0 --key keys/private.pem --release-date {date}"));
    assert_eq!((read(&folder, "www/amd64/latest.json"), files(&folder)), (again, second));
}

#[test]
fn what_no_device_would_take_is_not_written() {
    let folder = workshop();
    std::fs::write(folder.path().join("text"), "not a kernel").unwrap();
    let refused = |arguments: &str, code: i32| {
        let output = try_run(&folder, arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!Path::exists(&folder.path().join("www")));
    };
    refused("publish --http www --channel stable --amd64 text kubesolo-os.gz --version 1.0.0 --unsigned", 65);
    refused(&format!("{PUBLISH} --version 1.0.0"), 64);
    refused(&format!("{PUBLISH} --version 1.0.0 --unsigned --url ftp://host/"), 64);
    refused(&format!("{PUBLISH} --version 1.0.0 --unsigned --also-tag x"), 64);
    refused(&format!("{PUBLISH} --version 1.0.0 --unsigned --board {}", "x".repeat(4097)), 65);
    refused("publish --channel stable --amd64 vmlinuz kubesolo-os.gz --version 1.0.0 --unsigned", 64);
    // Unsigned, it names where its signature will be, and an old one does not stay beside it.
    run(&folder, &format!("{PUBLISH} --version 1.0.0 --key keys/private.pem"));
    run(&folder, &format!("{PUBLISH} --version 1.1.0 --unsigned"));
    let text = String::from_utf8(read(&folder, "www/amd64/latest.json")).unwrap();
    let (_, named) = text.split_once("\"metadata_sig_url\": \"").unwrap();
    let named = named.split('"').next().unwrap();
    assert!(!text.contains("vmlinuz_sig_url") && named.starts_with("files/latest.json-"), "{text}");
    for absent in [named, "latest.json.sig"] {
        assert!(!folder.path().join("www/amd64").join(absent).exists(), "{absent}");
    }
}

#[test]
fn a_tree_never_goes_back_or_changes_the_images_of_a_version_by_accident() {
    let folder = workshop();
    let publish = |more: &str| {
        let output = try_run(&folder, &format!("{PUBLISH} --unsigned {more}"));
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let before = || read(&folder, "www/amd64/latest.json");
    assert_eq!(publish("--version 1.2.0 --dry-run").0, 0);
    assert!(!folder.path().join("www").exists());
    assert_eq!(publish("--version 1.2.0").0, 0);
    let first = before();
    let (code, words) = publish("--version 1.1.0");
    assert!(code == 77 && words.contains("explain version-lower"), "{words}");
    assert_eq!(publish("--version 1.2.0 --rollout 100%@1h --dry-run").0, 0);
    assert!(before() == first);
    let other = images::files(folder.path(), Architecture::Amd64, 9);
    std::fs::rename(other.initramfs, folder.path().join("kubesolo-os.gz")).unwrap();
    let (code, words) = publish("--version 1.2.0");
    assert!(code == 77 && words.contains("explain version-published"), "{words}");
    assert!(before() == first);
    assert_eq!(publish("--version 1.2.0 --replace").0, 0);
    assert!(before() != first);
}

#[test]
fn a_link_in_the_place_of_a_folder_of_the_tree_is_refused() {
    let publish = format!("{PUBLISH} --version 1.0.0 --key keys/private.pem");
    for (link, target) in [("www/amd64", "../elsewhere"), ("www/amd64/files", "../../elsewhere")] {
        let folder = workshop();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::fs::create_dir_all(at(link).parent().unwrap()).unwrap();
        symlink(target, at(link)).unwrap();
        let output = try_run(&folder, &publish);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains("symbolic link")), (Some(73), true), "{link}: {said}");
        assert_eq!(std::fs::read_dir(at("elsewhere")).unwrap().count(), 0, "{link}");
    }
    // A person may name the tree itself by a link.
    let folder = workshop();
    std::fs::create_dir(folder.path().join("served")).unwrap();
    symlink("served", folder.path().join("www")).unwrap();
    run(&folder, &publish);
    // Signatures are added to a tree, and payloads are written, by the same rule.
    run(&folder, "payload --http www --output out");
    let sign = "openssl pkeyutl -sign -rawin -inkey more/private.pem -in out/amd64.json -out amd64.sig";
    assert!(Command::new("sh").args(["-c", sign]).current_dir(folder.path()).status().unwrap().success());
    let files = folder.path().join("www/amd64/files");
    std::fs::rename(&files, folder.path().join("moved")).unwrap();
    symlink("../../moved", &files).unwrap();
    let before = tree(&folder.path().join("moved"));
    let output = try_run(&folder, "attach --http www --pubkey more/public.pem --signature amd64.sig");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.contains("symbolic link")), (Some(73), true), "{said}");
    assert_eq!(tree(&folder.path().join("moved")), before);
    std::fs::rename(folder.path().join("out"), folder.path().join("other")).unwrap();
    symlink("other", folder.path().join("out")).unwrap();
    assert_eq!(try_run(&folder, "payload --http www --output out").status.code(), Some(73));
}

/// Names and content of the files in a folder.
fn tree(folder: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}
