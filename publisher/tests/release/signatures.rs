//! Signatures and keys: attached, shown, and needed to move a tag.

use super::*;

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

/// A pull-through cache keeps tags, and loses the interface.
#[test]
fn the_fallback_tag_is_written_wherever_the_option_does_not_forbid_it() {
    for no_fallback_tag in [false, true] {
        let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
        let (key, keys) = key(&folder, "key");
        let address = common::front::start(&registry, 0);
        let access = Access { plain_http: vec![address.clone()], no_fallback_tag, ..Access::default() };
        let options = Options { access, ..Options::default() };
        let reference = format!("{address}/os");
        publisher::release(&reference, &metadata("1.0.0"), &both(&folder), &[key], &options).unwrap();
        let tags = std::fs::read_dir(registry.storage().join("repositories/os/_manifests/tags")).unwrap();
        let lists = tags.filter(|tag| tag.as_ref().unwrap().file_name() != "stable").count();
        assert_eq!(lists, if no_fallback_tag { 0 } else { 2 });
        inspect(&format!("{reference}:stable"), Some(&keys), &options.access).unwrap().trusted().unwrap();
        // With the interface, and without it, by a cache.
        let cache = Registry::cache(&address);
        for (address, found) in [(&address, true), (&cache.address, !no_fallback_tag)] {
            let fetch = FetchOptions { plain_http: vec![address.clone()], ..FetchOptions::default() };
            let mut source = OciSource::new(&fetch, &format!("{address}/os"), None, "stable").unwrap();
            let offer = source.offer(Arm64).unwrap();
            assert_eq!(keys.verify(&offer.signed, &offer.signatures).is_ok(), found);
        }
    }
    // Nothing lists the signature then, and the publisher hears of it.
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let access = Access { no_fallback_tag: true, ..access(&registry) };
    let options = Options { access, ..Options::default() };
    let reference = format!("{}/os", registry.address);
    let key = key(&folder, "key").0;
    let error = publisher::release(&reference, &metadata("1.0.0"), &both(&folder), &[key], &options).unwrap_err();
    assert_eq!(error.reason, Reason::SignatureNotListed);
    assert!(error.remedy.contains("--no-fallback-tag"), "{}", error.remedy);
}

#[test]
fn a_tag_moves_only_to_what_is_signed() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (key, keys) = key(&folder, "key");
    let images = both(&folder);
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let tags = ["v1".to_owned(), "lts".to_owned()];
    let error = publisher::retag(&reference, &tags, &keys, &access(&registry)).unwrap_err();
    assert_eq!(error.reason, Reason::SignatureMissing);
    assert!(look(&registry, "os:v1", &keys).is_err());

    sign::sign(&reference, &[key], &access(&registry)).unwrap();
    let digest = publisher::retag(&reference, &tags, &keys, &access(&registry)).unwrap();
    for tag in ["os:v1", "os:lts"] {
        let found = look(&registry, tag, &keys).unwrap();
        assert_eq!(found.index, Some(digest));
        found.trusted().unwrap();
    }
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
    publisher::retag(&reference, &["next".into()], &keys, &access(&registry)).unwrap();
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
    publisher::release(&format!("{}/os", registry.address), &metadata, &images, &[], &options).unwrap();
    let found = inspect(&format!("{}/os:stable", registry.address), None, &access(&registry)).unwrap();
    let as_json =
        |verb: &[&str]| text(&run(&[verb, &["--json", "--plain-http", &registry.address]].concat(), &[]).stdout);
    let json = as_json(&["inspect", &format!("{}/os:stable", registry.address)]);
    for shown in [found.to_string(), json.clone(), as_json(&["list", &format!("{}/os", registry.address)])] {
        assert!(shown.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["manifests"][0]["release_notes"], "\u{1b}[2J\u{9b}2J\u{202e}😀");
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
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unheard = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    let unheard = unheard.args(["keygen", path(&folder.path().join("unheard"))]).stdout(writer).status().unwrap();
    assert_eq!(unheard.code(), Some(0), "a person who does not want to read it still has the keys");
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
fn a_private_key_that_others_can_read_or_that_is_no_file_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let (_, file) = (key(&folder, "key"), folder.path().join("key"));
    for mode in [0o640, 0o604, 0o620, 0o610, 0o677] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let Err(error) = PrivateKey::load(&file) else { panic!("{mode:o} was accepted") };
        assert_eq!(error.reason, Reason::KeyExposed);
        assert!(error.remedy.contains("chmod 600"), "{}", error.remedy);
    }
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        PrivateKey::load(&file).unwrap();
    }
    // A person who gives the key itself hears so, without an echo of it.
    let pem = std::fs::read_to_string(&file).unwrap();
    for key in [&["--key", &pem][..], &[&format!("--key={pem}")]] {
        let ran = run(&[&["sign", "registry.example/os:stable"], key].concat(), &[]);
        assert_eq!(ran.status.code(), Some(64));
        let said = text(&ran.stdout) + &text(&ran.stderr);
        assert!(said.contains("Replace the key") && !said.contains(pem.lines().nth(1).unwrap()), "{said}");
    }
}
