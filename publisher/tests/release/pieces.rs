//! The index of pieces that `kubesolo-release publish` adds to a release.

use std::fs;

use kubesolo_update::delta::index::Index;
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::release::{PIECES_TYPE, Release};
use kubesolo_update::source::bundle::BundleSource;

use super::*;

/// Images of amd64 with a repacked initramfs of 2 MiB.
fn repacked(folder: &TempDir) -> Images {
    let files = images::files(folder.path(), Amd64, 1);
    fs::write(&files.initramfs, images::repacked(&images::noise(1, 2 << 20))).unwrap();
    files
}

/// Everything that a source has of a file.
fn fetched(source: &mut dyn Source, blob: &release::Blob) -> Vec<u8> {
    let (mut body, mut all) = (source.open(blob).unwrap(), vec![]);
    while let Some(chunk) = body.chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

fn index(source: &mut dyn Source) -> Index {
    let release = source.offer(Amd64).unwrap().release;
    let bytes = fetched(source, &release.pieces.unwrap());
    Index::parse(&bytes, source.locate(release.initramfs).unwrap().size).unwrap()
}

#[test]
fn a_registry_and_a_bundle_have_the_index_of_a_repacked_initramfs() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let files = repacked(&folder);
    let expected = Index::of(&fs::read(&files.initramfs).unwrap()[..]).unwrap().unwrap();
    assert!(expected.pieces().len() >= 16, "{}", expected.pieces().len());
    publish(&registry, "1.0.0", &[files], &[]).unwrap();
    let options = FetchOptions { plain_http: vec![registry.address.clone()], ..FetchOptions::default() };
    let name = format!("{}/os", registry.address);
    assert_eq!(index(&mut OciSource::new(&options, &name, None, "stable").unwrap()), expected);

    let bundle = folder.path().join("bundle.tar");
    let place = ["--plain-http", &registry.address];
    let made = run(&[&["bundle", &format!("{name}:stable"), path(&bundle)], &place[..]].concat(), &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(index(&mut BundleSource::open(&bundle, None, "stable").unwrap()), expected);

    let shown = run(&[&["inspect", &format!("{name}:stable")], &place[..]].concat(), &[]);
    let bytes = expected.encode().len();
    assert!(text(&shown.stdout).contains(&format!("pieces      index of {bytes} bytes")), "{}", text(&shown.stdout));
    let shown = run(&[&["inspect", &format!("{name}:stable"), "--json"], &place[..]].concat(), &[]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["manifests"][0]["initramfs_pieces"]["size"], bytes);
}

#[test]
fn a_tree_of_files_has_the_index_of_a_repacked_initramfs() {
    let folder = TempDir::new().unwrap();
    let files = repacked(&folder);
    let www = folder.path().join("www");
    let (metadata, options) = (metadata("1.0.0"), publisher::http::Options::default());
    publisher::http::publish(&www, &metadata, std::slice::from_ref(&files), &[], &options).unwrap();
    let raw = fs::read(www.join("amd64/latest.json")).unwrap();
    let latest = Latest::parse(&raw).unwrap();
    let pieces = latest.release().unwrap().pieces.unwrap();
    let bytes = fs::read(www.join("amd64").join(latest.url_of(pieces.digest).unwrap().unwrap())).unwrap();
    assert_eq!(release::Blob::of(&bytes), pieces);
    let initramfs = fs::read(&files.initramfs).unwrap();
    assert_eq!(Index::parse(&bytes, initramfs.len() as u64).unwrap(), Index::of(&initramfs[..]).unwrap().unwrap());
}

#[test]
fn an_initramfs_without_restart_points_has_no_index() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let files = images::files(folder.path(), Amd64, 1);
    for (init, version) in [(images::noise(1, 3 << 20), "1.0.0"), (b"small".to_vec(), "1.1.0")] {
        fs::write(&files.initramfs, images::gzip(&images::archive(&init))).unwrap();
        let published = publish(&registry, version, std::slice::from_ref(&files), &[]).unwrap();
        let raw = registry.read("os", &published.manifests[0].1.to_string());
        assert_eq!(Release::from_oci_manifest(&raw).unwrap().pieces, None);
        assert!(!text(&raw).contains(PIECES_TYPE));
        let shown =
            run(&["inspect", &format!("{}/os:stable", registry.address), "--plain-http", &registry.address], &[]);
        assert!(text(&shown.stdout).contains("pieces      none"), "{}", text(&shown.stdout));
    }
}
