//! The content of a published release, and the moment of its publication.

use super::*;

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
        assert_eq!(error.reason.as_str(), *reason, "case {at}: {error}");
        assert!(error.remedy.contains("Nothing was published"), "case {at}: {}", error.remedy);
    }
    assert!(!registry.storage().join("repositories").exists(), "something was uploaded");
    let twice = [good.clone(), good];
    assert_eq!(publish(&registry, "1.0.0", &twice, &[]).unwrap_err().exit(), Exit::Usage);
    assert_eq!(publish(&registry, "1.0.0", &[], &[]).unwrap_err().exit(), Exit::Usage);
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
