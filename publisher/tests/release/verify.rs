//! `verify` says what a device says.

use super::*;
use crate::cli_support::{self, Device};
use crate::common::nginx::Nginx;

/// `kubesolo-release verify` in `folder`: exit code and words.
fn verify(folder: &Path, arguments: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    let ran = command.arg("verify").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    (ran.status.code().unwrap(), text(&ran.stdout) + &text(&ran.stderr))
}

#[track_caller]
fn says(folder: &Path, arguments: &str, code: i32, words: &[&str]) {
    let (found, said) = verify(folder, arguments);
    assert_eq!(found, code, "{arguments}: {said}");
    for word in words {
        assert!(said.contains(word), "no \"{word}\" in {said}");
    }
}

#[test]
fn a_registry_is_judged_as_a_device_judges_it() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let keys = [cli_support::key(1), cli_support::key(2)];
    let dir = folder.path();
    std::fs::create_dir(dir.join("keys")).unwrap();
    for (n, key) in keys.iter().enumerate() {
        let public = key.public_text(PublicFormat::Pem).unwrap();
        std::fs::write(dir.join(format!("keys/{n}")), &public).unwrap();
    }
    let published = publish(&registry, "1.0.0", &both(&folder), &keys[..1]).unwrap();
    let place = format!("{}/os:stable --plain-http {}", registry.address, registry.address);
    let device = Device::new();
    let [amd64, arm64] = [0, 1].map(|n| published.manifests[n].1.to_string());
    says(dir, &format!("{place} --pubkey keys"), 0, &["amd64", &amd64, "arm64", &arm64, "bytes, as signed"]);
    says(dir, &format!("{place} --pubkey keys --architecture arm64 --metadata-only"), 0, &[&arm64, "not fetched"]);
    device.from(&registry, &["check", "-v"]).code(0).says(&[&amd64]);

    // Each with the words and the code of the device.
    let agreed = |conf: &str, options: &str, code: i32, reason: &str| {
        std::fs::remove_dir_all(device.path("keys")).ok();
        std::fs::create_dir(device.path("keys")).unwrap();
        for name in ["0", "1"] {
            std::fs::copy(dir.join("keys").join(name), device.path("keys").join(name)).unwrap();
        }
        device.write("conf", conf.as_bytes());
        let asked = device.asking(&registry, &["apply", "--json"]);
        let error = device.run(&[&asked[..], &["--pubkey", "keys"]].concat()).refused(code, reason);
        let message = error["message"].as_str().unwrap().to_owned();
        let (found, said) = verify(dir, &format!("{place} --pubkey keys {options}"));
        assert!(found == code && said.contains(&message), "{options}: {found} {said}, not {message}");
    };
    agreed("signature_threshold=2\n", "--threshold 2", 77, "signatures-too-few");
    agreed("signature_threshold=3\n", "--threshold 3", 78, "too-few-keys");
    agreed("channel=beta\ntag=stable\n", "--channel beta", 77, "other-channel");
    agreed("require_fresh=yes\n", "--require-fresh", 75, "not-fresh");
    let (code, said) = verify(dir, &format!("{place} --pubkey nowhere"));
    assert!(code == 78 && said.contains("nowhere"), "{code} {said}");
    // A second line is no second setting.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    command.arg("verify").args(place.split(' ')).args(["--pubkey", "keys", "--board", "b\nallow_unsigned=yes"]);
    assert!(command.current_dir(dir).status().unwrap().success());

    let statement = format!("freshness {}/os:stable --plain-http {}", registry.address, registry.address);
    let key = dir.join("signer");
    keys[0].save(&key, &dir.join("signer.pub"), PublicFormat::Pem).unwrap();
    let arguments: Vec<&str> = statement.split(' ').chain(["--key", path(&key)]).collect();
    assert!(run(&arguments, &[]).status.success());
    says(dir, &format!("{place} --pubkey keys --require-fresh"), 0, &["freshness  fresh"]);

    // An image that rotted in the registry is found, unless only the metadata is asked for.
    let manifest: serde_json::Value = serde_json::from_slice(&registry.read("os", &arm64)).unwrap();
    let image = registry.blob_file(manifest["layers"][1]["digest"].as_str().unwrap().parse().unwrap());
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    says(dir, &format!("{place} --pubkey keys"), 65, &["arm64", "the digest of its bytes is"]);
    says(dir, &format!("{place} --pubkey keys --metadata-only"), 0, &[]);
    std::fs::remove_file(&image).unwrap();
    says(dir, &format!("{place} --pubkey keys"), 69, &["arm64"]);
    says(dir, &format!("{}/os:none --plain-http {} --pubkey keys", registry.address, registry.address), 69, &["none"]);
}

#[test]
fn trees_and_bundles_are_judged_too() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let dir = folder.path();
    let key = cli_support::key(1);
    std::fs::write(dir.join("K"), key.public_text(PublicFormat::Hex).unwrap()).unwrap();
    let keys = [key];
    let options = publisher::http::Options::default();
    let www = dir.join("www");
    publisher::http::publish(&www, &metadata("1.0.0"), &both(&folder), &keys, &options).unwrap();
    let server = Nginx::start(&www, "");
    for architecture in ["amd64", "arm64"] {
        let place = format!("http://{}/{architecture}", server.as_ref());
        says(dir, &format!("{place} --pubkey K"), 0, &[architecture, "as signed"]);
        std::fs::write(www.join(architecture).join("latest.json.sig"), [7; 64]).unwrap();
        let named = std::fs::read_dir(www.join(architecture).join("files")).unwrap().map(|e| e.unwrap().path());
        let named: Vec<_> = named.filter(|p| path(p).contains("latest.json-")).collect();
        std::fs::write(&named[0], [7; 64]).unwrap();
        says(dir, &format!("{place} --pubkey K"), 77, &["no known key"]);
    }

    publish(&registry, "1.0.0", &both(&folder), &keys).unwrap();
    let place = format!("{}/os:stable", registry.address);
    let terms = publisher::freshness::Terms { days: 7, serial: None };
    let releases = publisher::freshness::Place::Registry(place.clone(), access(&registry));
    releases.publish(&releases.statement(&terms, chrono::Utc::now()).unwrap(), &keys).unwrap();
    publisher::bundle::bundle(&place, &dir.join("b.tar"), None, &access(&registry)).unwrap();
    publisher::bundle::bundle(&place, &dir.join("arm64.tar"), Some(Arm64), &access(&registry)).unwrap();
    drop(registry);
    says(dir, "--bundle b.tar --pubkey K --require-fresh", 0, &["amd64", "arm64", "as signed", "fresh: "]);
    says(dir, "--bundle arm64.tar --pubkey K", 0, &["arm64"]);
    says(dir, "--bundle arm64.tar --pubkey K --architecture amd64", 77, &["is for arm64"]);
    std::fs::write(dir.join("other"), cli_support::key(2).public_text(PublicFormat::Hex).unwrap()).unwrap();
    says(dir, "--bundle b.tar --pubkey other", 77, &["no known key"]);
}
