//! The output of `kubesolo-release` for people and for scripts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::common::fault::{Fault, reply};
use crate::common::schema::Documents;

/// Runs a command with `--json` and returns its exit code and the one object on standard output.
fn answer(arguments: &[&str]) -> (i32, Value) {
    let output = run(&[arguments, &["--json"]].concat(), &[]);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {arguments:?} {output:?}"));
    (output.status.code().unwrap(), json)
}

#[test]
fn every_command_has_an_answer_in_json_as_its_schema_says() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let at = |name: &str| path(&folder.path().join(name)).to_owned();
    let images = images::files(folder.path(), Amd64, 1);
    let (kernel, initramfs) = (path(&images.kernel), path(&images.initramfs));
    let (os, release) = (format!("{}/os", registry.address), format!("{}/os:stable", registry.address));
    let (private, public, unsigned) = (at("keys/private.pem"), at("keys/public.pem"), at("unsigned"));
    let (signature, bundle, tree, device) = (at("amd64.sig"), at("bundle.tar"), at("www"), at("factory"));
    let network = ["--plain-http", &registry.address];
    let (mut seen, mut documents) = (BTreeSet::new(), Documents::of("kubesolo-release"));
    let mut good = |arguments: &[&str], member: &str| {
        let (code, json) = answer(arguments);
        assert_eq!((code, &json["schema"]), (0, &json!(1)), "{arguments:?} {json}");
        assert!(!json[member].is_null(), "{arguments:?} {json}");
        documents.add(arguments[0], &json);
        seen.insert(arguments[0].to_owned());
        json
    };
    good(&["keygen", &at("keys")], "key_id");
    let publish = ["--version", "1.0.0", "--channel", "stable", "--amd64", kernel, initramfs, "--key", &private];
    let published = good(&[&["publish", &os][..], &publish, &network].concat(), "index");
    good(&[&["publish", "--http", &tree][..], &publish].concat(), "manifests");
    good(&[&["sign", &release, "--key", &private][..], &network].concat(), "signed");
    good(&[&["payload", &release, "--output", &unsigned][..], &network].concat(), "payloads");
    let key = PrivateKey::load(&folder.path().join("keys/private.pem")).unwrap();
    let payload = std::fs::read(folder.path().join("unsigned/amd64.json")).unwrap();
    std::fs::write(&signature, key.sign(&payload)).unwrap();
    let by = ["--signature", &signature, "--pubkey", &public];
    good(&[&["attach", &release][..], &by, &network].concat(), "signatures");
    good(&[&["freshness", &release, "--key", &private][..], &network].concat(), "serial");
    let pubkey = ["--pubkey", &public];
    let verified = good(&[&["verify", &release][..], &pubkey, &network].concat(), "releases");
    assert_eq!(verified["releases"][0]["digest"], published["manifests"]["amd64"]);
    good(&[&["inspect", &release][..], &pubkey, &network].concat(), "manifests");
    good(&[&["list", &os][..], &pubkey, &network].concat(), "releases");
    good(&[&["tag", &release, "v1"][..], &pubkey, &network].concat(), "tags");
    good(&[&["bundle", &release, &bundle][..], &network].concat(), "file");
    good(&[&["copy", &release, &at("layout")][..], &network].concat(), "releases");
    good(&["repack", initramfs, &at("repacked.gz")], "pieces");
    let made = ["factory", &device, "--bundle", &bundle, "--architecture", "amd64", "--boot", "grub"];
    good(&[&made[..], &pubkey].concat(), "slot_mib");
    let fleet = receipts::Fleet::new();
    fleet.collect();
    let [collected, devices] = ["collected", "devices"].map(|name| fleet.path(name));
    good(&["receipts", path(&collected), "--devices", path(&devices)], "receipts");
    good(&["explain", "no-key"], "reasons");
    documents.add("error", &answer(&["list", "127.0.0.1:9/os:stable"]).1);
    documents.judge(&[]);
    let all = kubesolo_release::cli::command();
    assert_eq!(seen, all.get_subcommands().map(|one| one.get_name().to_owned()).collect());
}

#[test]
fn an_error_is_one_object_with_its_reason() {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent");
    for (arguments, code, reason) in [
        (&["repack", path(&absent), "out.gz"][..], 69, "image-unreadable"),
        (&["repack"], 64, "usage"),
        (&["list", "127.0.0.1:9/os:stable"], 64, "usage"),
    ] {
        let (exit, json) = answer(arguments);
        assert_eq!((exit, &json["schema"]), (code, &json!(1)), "{json}");
        assert_eq!((&json["error"]["exit_code"], &json["error"]["reason"]), (&json!(code), &json!(reason)), "{json}");
    }
}

#[test]
fn an_answer_that_fails_is_one_object_with_its_error() {
    let fleet = receipts::Fleet::new();
    fleet.collect();
    std::fs::write(fleet.path("collected/broken.json"), "{}").unwrap();
    let [collected, devices] = ["collected", "devices"].map(|name| fleet.path(name));
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let ((signer, _), _) = (key(&folder, "key"), key(&folder, "other"));
    let reference = format!("{}/os:stable", registry.address);
    let options = Options { access: access(&registry), ..Options::default() };
    publisher::release(&reference, &metadata("1.0.0"), &both(&folder), &[signer], &options).unwrap();
    let other = folder.path().join("other.pub");
    let network = ["--plain-http", &registry.address];
    for (arguments, member, code) in [
        (&["receipts", path(&collected), "--devices", path(&devices)][..], "receipts", 65),
        (&["inspect", &reference, "--pubkey", path(&other), network[0], network[1]], "manifests", 77),
    ] {
        let (exit, json) = answer(arguments);
        assert_eq!((exit, &json["error"]["exit_code"]), (code, &json!(code)), "{json}");
        assert!(json[member].as_array().is_some_and(|all| !all.is_empty()), "{json}");
    }
}

/// A registry with two releases, one of them under two tags and signed by both keys for amd64 only, and other tags.
#[test]
fn list_shows_tags_versions_dates_and_signers() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = both(&folder);
    let ((key, keys), (other, others)) = (key(&folder, "key"), key(&folder, "other"));
    let reference = format!("{}/os", registry.address);
    let options = Options { access: access(&registry), also_tags: vec!["v1.2.0".into()], ..Options::default() };
    let first = publisher::release(&reference, &metadata("1.2.0"), &images, &[key], &options).unwrap();
    let digest = first.manifests[0].1;
    sign::sign(&format!("{reference}@{digest}"), &[other], &access(&registry)).unwrap();
    let beta = format!("{reference}:beta");
    let options = Options { access: access(&registry), ..Options::default() };
    publisher::release(&beta, &metadata("1.10.0"), &images[..1], &[], &options).unwrap();
    registry.manifest("os", "odd", release::OCI_INDEX_TYPE, br#"{"schemaVersion":2,"manifests":[]}"#);

    let list = |more: &[&str]| answer(&[&["list", &reference, "--plain-http", &registry.address], more].concat()).1;
    let listing = list(&["--pubkey", path(&folder.path().join("key.pub"))]);
    let [new, old] = &listing["releases"].as_array().unwrap()[..] else { panic!("{listing}") };
    assert_eq!((&new["version"], &new["tags"], &new["signers"]), (&json!("1.10.0"), &json!(["beta"]), &json!([])));
    assert_eq!((&old["version"], &old["tags"]), (&json!("1.2.0"), &json!(["stable", "v1.2.0"])));
    assert_eq!((&old["digest"], &old["release_date"]), (&json!(first.index), &json!("1970-01-01T00:00:00Z")));
    let [id, other_id] = [&keys, &others].map(|keys| keys.ids().next().unwrap().to_string());
    let signer = |id: &str, verified, of: &[&str]| json!({"key_id": id, "verified": verified, "architectures": of});
    assert_eq!(old["signers"], json!([signer(&id, true, &["amd64", "arm64"])]));
    assert_eq!(listing["other_tags"], json!(["odd"]));
    // Without a key every signer is named, and none is verified.
    let unchecked = list(&[]);
    let signers = unchecked["releases"][1]["signers"].as_array().unwrap();
    assert!(signers.contains(&signer(&other_id, false, &["amd64"])) && signers.len() == 2, "{unchecked}");

    let shown = text(&run(&["list", &reference, "--plain-http", &registry.address], &[]).stdout);
    assert!(shown.lines().count() == 4 && shown.contains(&format!("{other_id} (amd64 only) (not checked)")), "{shown}");
}

#[test]
fn pages_of_tags_are_followed_to_the_last_one_and_not_without_end() {
    let pages = |last: usize| {
        Fault::start(move |request, out| {
            let page = request.path.split("page=").nth(1).map_or(0, |page| page.parse::<usize>().unwrap());
            let link = format!("Link: <?page={}>; rel=\"next\"\r\n", page + 1);
            let body = json!({ "name": "os", "tags": [format!("tag-{page}"), format!("sha256-{page}")] }).to_string();
            match request.path.contains("/tags/list") {
                true => reply(out, 200, if page < last { &link } else { "" }, body.as_bytes()),
                false => reply(out, 404, "", b""),
            }
        })
    };
    let list = |server: &Fault| answer(&["list", &format!("{}/os", server.address), "--plain-http", &server.address]);
    assert_eq!(list(&pages(2)).1["other_tags"], json!(["tag-0", "tag-1", "tag-2"]));
    let (code, json) = list(&pages(usize::MAX));
    assert_eq!((code, &json["error"]["reason"]), (65, &json!("limit-exceeded")), "{json}");
}
