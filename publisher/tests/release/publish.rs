//! The content of a published release, and the moment of its publication.

use super::*;
use kubesolo_update::release::latest::Latest;

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
    let published = publisher::release(&reference, &metadata, &images, &[key], &options).unwrap();
    assert_eq!(published.reference, format!("{reference}:stable"));

    for images in &images {
        let options = FetchOptions { plain_http: vec![registry.address.clone()], ..FetchOptions::default() };
        let mut source = OciSource::new(&options, &reference, None, "stable").unwrap();
        let offer = source.offer(images.architecture).unwrap();
        assert_eq!(keys.verify(&offer.signed, &offer.signatures).unwrap(), keys.ids().collect::<Vec<_>>());
        assert!(published.manifests.contains(&(images.architecture, offer.release.digest)));
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
            let mut body = source.open(&blob.blob().unwrap()).unwrap();
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
    let next = publisher::release(&elsewhere, &metadata("2.0.0"), &images, &[], &options).unwrap();
    let taken = registry.artifact("os", &common::manifest("0.0.1", Amd64, b"k", b"i"), &[b"k", b"i"]);
    let tag = next.manifests[1].1.to_string().replace(':', "-");
    registry.manifest("os", &tag, release::OCI_MANIFEST_TYPE, &taken);

    let error = publish(&registry, "2.0.0", &images, &keys_used).unwrap_err();
    assert!(error.message.contains(&tag), "{error}");
    assert_eq!(look(&registry, "os:stable", &keys).unwrap().manifests[0].version, "1.0.0");
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
    let without_init = String::from_utf8(images::archive(b"x")).unwrap().replace("init\0", "itin\0").into_bytes();
    let with_initramfs = |bytes: &[u8]| Images { initramfs: write(bytes), ..good.clone() };
    let with_kernel = |bytes: &[u8]| Images { kernel: write(bytes), ..good.clone() };
    let mut without_64_bits = kernel.clone();
    without_64_bits[0x236] = 0;
    let cases = [
        (with_initramfs(&initramfs[..initramfs.len() - 1]), "initramfs-broken"),
        (with_initramfs(&images::gzip(b"not an archive")), "initramfs-broken"),
        (with_initramfs(b"junk"), "initramfs-broken"),
        (with_initramfs(b""), "bad-initramfs"),
        (with_initramfs(&[0; 512]), "bad-initramfs"),
        (with_initramfs(&images::gzip(&without_init)), "bad-initramfs"),
        (with_initramfs(&[&without_init[..], &images::gzip(&without_init)].concat()), "bad-initramfs"),
        (with_kernel(b"#!/bin/sh"), "kernel-unusable"),
        (with_kernel(&kernel[..4096]), "kernel-unusable"),
        (with_kernel(&without_64_bits), "kernel-unusable"),
        (with_kernel(&images::kernel(Arm64, 1)), "kernel-unusable"),
        (Images { architecture: Arm64, ..good.clone() }, "kernel-unusable"),
        (Images { kernel: good.initramfs.clone(), initramfs: good.kernel.clone(), ..good.clone() }, "kernel-unusable"),
    ];
    for (at, (images, reason)) in cases.iter().enumerate() {
        let error = publish(&registry, "1.0.0", std::slice::from_ref(images), &[]).unwrap_err();
        assert_eq!(error.reason.as_str(), *reason, "case {at}: {error}");
        assert!(error.remedy.contains("Nothing was published"), "case {at}: {}", error.remedy);
    }
    assert!(!registry.storage().join("repositories").exists(), "something was uploaded");
    let twice = [good.clone(), good];
    assert_eq!(publish(&registry, "1.0.0", &twice, &[]).unwrap_err().exit(), Exit::Usage);
    assert_eq!(publish(&registry, "1.0.0", &[], &[]).unwrap_err().exit(), Exit::Usage);
}

/// The other compressions of Linux, by their own programs, alone and behind an early archive.
#[test]
fn another_compression_is_published_with_a_warning_that_names_it() {
    let folder = TempDir::new().unwrap();
    let files = images::files(folder.path(), Amd64, 1);
    let plain = images::archive(&[7; 5000]);
    std::fs::write(folder.path().join("plain"), &plain).unwrap();
    for (name, command) in [("zstd", "zstd -qc plain"), ("xz", "xz --check=crc32 -c plain"), ("lz4", "lz4 -lqc plain")]
    {
        let packed = tools::tool("sh", folder.path(), &["-c", command]).unwrap();
        for early in [&plain[..0], &plain[..]] {
            std::fs::write(&files.initramfs, [early, &packed].concat()).unwrap();
            let www = folder.path().join(format!("{name}-{}", early.len()));
            let release = ["publish", "--http", path(&www), "--version", "1.0.0", "--channel", "stable", "--unsigned"];
            let place = ["--amd64", path(&files.kernel), path(&files.initramfs)];
            let output = run(&[&release[..], &place].concat(), &[]);
            let words = format!("{name} from byte {} on, which cannot be looked into", early.len());
            assert!(output.status.success() && text(&output.stderr).contains(&words), "{output:?}");
            let latest = std::fs::read_to_string(www.join("amd64/latest.json")).unwrap();
            assert!(!latest.contains("initramfs_unpacked_size"), "{latest}");
        }
    }
}

/// Publishes version and images onto a tag, with more options, and returns the reason of the refusal.
fn onto(registry: &Registry, tag: &str, release: (&str, &Images), more: &[&str]) -> Result<String, String> {
    let reference = format!("{}/os:{tag}", registry.address);
    let (version, images) = release;
    let arguments = ["publish", &reference, "--version", version, "--channel", "stable", "--unsigned"];
    let place = ["--plain-http", &registry.address, "--amd64", path(&images.kernel), path(&images.initramfs)];
    let output = run(&[&arguments[..], &place, more].concat(), &[("SOURCE_DATE_EPOCH", "0")]);
    let words = text(&output.stderr);
    match words.lines().find_map(|line| line.trim().strip_prefix("More: kubesolo-release explain ")) {
        None => Ok(text(&output.stdout)),
        Some(reason) => {
            assert!(output.status.code() == Some(77) && words.contains("Nothing was published"), "{words}");
            Err(reason.to_owned())
        }
    }
}

#[test]
fn a_tag_never_goes_back_or_changes_the_images_of_a_version_by_accident() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (first, other) = (images::files(folder.path(), Amd64, 1), images::files(folder.path(), Amd64, 2));
    let refused = |tag, release, more: &[&str]| onto(&registry, tag, release, more).unwrap_err();
    let mut current = onto(&registry, "stable", ("1.2.0", &first), &["--also-tag", "v1.2.0"]).unwrap();
    let mut holds = |release, more: &[&str]| {
        current = onto(&registry, "stable", release, more).unwrap();
        let found = inspect(&format!("{}/os:stable", registry.address), None, &access(&registry)).unwrap();
        assert!(current.contains(&found.index.unwrap().to_string()), "{current}");
    };
    assert_eq!(refused("stable", ("1.2.0", &other), &[]), "version-published");
    assert_eq!(refused("stable", ("1.2.0+2", &other), &[]), "version-published");
    assert_eq!(refused("stable", ("1.1.9", &other), &[]), "version-lower");
    assert_eq!(refused("stable", ("1.2.0-rc.1", &first), &[]), "version-lower");
    // A second tag is moved, too.
    assert_eq!(refused("beta", ("1.0.0", &first), &["--also-tag", "v1.2.0"]), "version-lower");
    // Other waves for the same images, a higher version, and on purpose.
    holds(("1.2.0", &first), &["--rollout", "5%@0h,100%@24h"]);
    holds(("1.3.0", &other), &[]);
    holds(("1.3.0", &first), &["--replace"]);
    holds(("1.2.0", &other), &["--replace"]);
}

#[test]
fn a_release_for_another_architecture_may_join_its_version() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let [amd64, arm64] = both(&folder);
    publish(&registry, "1.0.0", std::slice::from_ref(&amd64), &[]).unwrap();
    publish(&registry, "1.0.0", &[amd64, arm64.clone()], &[]).unwrap();
    let changed = Images { initramfs: images::files(folder.path(), Amd64, 9).initramfs, ..arm64 };
    assert_eq!(publish(&registry, "1.0.0", &[changed], &[]).unwrap_err().reason, Reason::VersionPublished);
}

#[test]
fn a_tag_without_a_release_does_not_stop_a_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = images::files(folder.path(), Amd64, 1);
    let index = json!({ "schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": [] }).to_string();
    registry.manifest("os", "stable", release::OCI_INDEX_TYPE, index.as_bytes());
    onto(&registry, "stable", ("1.0.0", &images), &[]).unwrap();
}

#[test]
fn a_dry_run_refuses_the_same_and_writes_nothing() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (first, other) = (images::files(folder.path(), Amd64, 1), images::files(folder.path(), Amd64, 2));
    let would = onto(&registry, "stable", ("1.0.0", &first), &["--dry-run"]).unwrap();
    assert!(!registry.storage().join("repositories").exists(), "something was uploaded");
    let digest = |text: &str| text.lines().find(|line| line.starts_with("index")).unwrap().to_owned();
    let published = onto(&registry, "stable", ("1.0.0", &first), &[]).unwrap();
    assert_eq!(digest(&would), digest(&published));
    assert!(would.starts_with("would be") && published.starts_with("published"), "{would}{published}");
    assert_eq!(onto(&registry, "stable", ("1.0.0", &other), &["--dry-run"]).unwrap_err(), "version-published");
    assert_eq!(onto(&registry, "stable", ("0.9.0", &first), &["--dry-run"]).unwrap_err(), "version-lower");
    let higher = onto(&registry, "stable", ("2.0.0", &other), &["--dry-run"]).unwrap();
    assert_ne!(digest(&higher), digest(&published));
    let found = inspect(&format!("{}/os:stable", registry.address), None, &access(&registry)).unwrap();
    assert!(published.contains(&found.index.unwrap().to_string()));
}

#[test]
fn what_no_device_would_take_is_not_published() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    let options = Options { access: access(&registry), ..Options::default() };
    let mut metadata = metadata("1.0.0");
    metadata.release_notes = Some("x".repeat(kubesolo_update::base::limits::RELEASE_NOTES_BYTES + 1));
    let reference = format!("{}/os", registry.address);
    let error = publisher::release(&reference, &metadata, &images, &[], &options).unwrap_err();
    assert_eq!(error.exit(), Exit::Data);
    assert!(error.message.contains("no device would accept"), "{error}");
}

#[test]
fn the_date_is_part_of_the_release() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", registry.address);
    let base = unsigned(&registry, &reference, &images);
    let digest = |more: &[&str], environment: &[(&str, &str)]| {
        let output = run(&[&base[..], more].concat(), environment);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().find(|l| l.starts_with("index")).unwrap().to_owned()
    };
    let given = digest(&["--release-date", "2001-09-09T01:46:40Z"], &[]);
    assert_eq!(digest(&[], &[("SOURCE_DATE_EPOCH", "1000000000")]), given);
    assert_ne!(digest(&[], &[]), given);
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
        .args(["-c", "ulimit -v 150000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kubesolo-release")])
        .args(unsigned(&registry, &reference, &images))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A device trusts its data to a release only if that says so.
#[test]
fn a_release_says_that_its_agent_saves_data_if_it_has_one_or_if_a_person_says_so() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (tree, keys) = (folder.path().join("www"), key(&folder, "key").1);
    let plain = images::files(folder.path(), Amd64, 1);
    let with_agent = images::files(folder.path(), Amd64, 2);
    let agent = [&[7; 500][..], release::DATA_LAYOUT.as_bytes(), b"\n"].concat();
    std::fs::write(&with_agent.initramfs, images::gzip(&images::archive(&agent))).unwrap();
    for (files, option, expected) in [
        (&plain, None, 0),
        (&with_agent, None, 1),
        (&plain, Some("1"), 1),
        (&with_agent, Some("0"), 0),
        (&plain, Some("2"), 2),
    ] {
        let reference = format!("{}/os{expected}", registry.address);
        let option: Vec<&str> = option.into_iter().flat_map(|layout| ["--data-layout", layout]).collect();
        let release = ["--version", "1.0.0", "--channel", "stable", "--unsigned", "--replace"];
        let files = ["--amd64", path(&files.kernel), path(&files.initramfs)];
        let publish = |place: &[&str]| {
            let done = run(&[&["publish"], place, &release, &files, &option].concat(), &[]);
            assert!(done.status.success(), "{}", text(&done.stderr));
        };
        publish(&[&reference, "--plain-http", &registry.address]);
        let found = look(&registry, &format!("os{expected}:stable"), &keys).unwrap();
        assert_eq!(found.manifests[0].data_layout, expected, "{option:?}");
        publish(&["--http", path(&tree)]);
        let raw = std::fs::read(tree.join("amd64/latest.json")).unwrap();
        assert_eq!(Latest::parse(&raw).unwrap().release().unwrap().data_layout, expected, "{option:?}");
    }
}
