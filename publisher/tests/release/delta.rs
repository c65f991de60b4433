//! Index of pieces and patches: what `publish --delta-from` makes, applied by the device's code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kubesolo_release::repack::repack;
use kubesolo_release::{bundle, http};
use kubesolo_update::delta::cutter::Hash;
use kubesolo_update::delta::index::Index;
use kubesolo_update::delta::pack::{Maker, Pack, Sources};
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::release::{Blob, Patches, Release};
use kubesolo_update::source::bundle::BundleSource;
use serde_json::Value;

use super::*;
use crate::tools::tool;

/// A program: words that repeat, with a part that depends on the version.
fn program(seed: u32, version: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let mut bytes = vec![];
    while bytes.len() < len {
        match next() % 9 {
            0 => bytes.extend(next().to_le_bytes()),
            1 if next() % 40 == 0 => bytes.extend(format!("version {version}").bytes()),
            word => bytes.extend(format!("call {word} {:x};", next() % 977).bytes()),
        }
    }
    bytes.truncate(len);
    bytes
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The files of a version: a program that stays, modules that change and move to another folder, and keys that are new.
fn tree(version: u32) -> Vec<(String, Vec<u8>)> {
    let modules = (0..4).map(|n| {
        let name = format!("lib/modules/6.1.0-{}-amd64/module-{n}.ko", 54 + version);
        (name, program(100 + n, version, 40_000 * (n as usize + 1)))
    });
    let small =
        (0..40).map(|n| (format!("etc/conf-{n}"), format!("{n}={}\n", if n == 7 { version } else { 0 }).into_bytes()));
    let mut files = vec![
        ("init".to_owned(), b"#!/bin/sh\n".to_vec()),
        ("usr/bin/kubesolo".to_owned(), program(1, 0, 600_000)),
        ("usr/share/keys".to_owned(), noise(u64::from(version) + 1, 20_000)),
    ];
    files.extend(modules);
    files.extend(small);
    files
}

/// Kernel and repacked initramfs of a version.
fn images_of(folder: &Path, version: u32) -> Images {
    let Images { architecture, kernel, .. } = images::files(folder, Amd64, version as u8);
    let (root, plain) = (folder.join(format!("tree-{version}")), folder.join(format!("plain-{version}.gz")));
    for (name, content) in tree(version) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let script = format!(
        "set -e; chmod 755 init; find . -exec touch -h -d @1700000000 {{}} +; \
         find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -n >{}",
        plain.display()
    );
    tool("sh", &root, &["-c", &script]).unwrap();
    let initramfs = folder.join(format!("initramfs-{version}.gz"));
    repack(&plain, &initramfs).unwrap();
    Images { architecture, kernel, initramfs }
}

/// The pieces of an image on a device.
struct Slot(BTreeMap<Hash, Vec<u8>>);

impl Slot {
    fn new(image: &[u8]) -> Self {
        let index = Index::of(image).unwrap().unwrap();
        let part =
            |piece: &kubesolo_update::delta::index::Piece| image[piece.offset as usize..piece.end() as usize].to_vec();
        Self(index.pieces().iter().map(|piece| (piece.hash, part(piece))).collect())
    }
}

impl Sources for Slot {
    fn read(&mut self, source: &Hash, into: &mut Vec<u8>) -> bool {
        self.0.get(source).inspect(|piece| into.extend_from_slice(piece)).is_some()
    }
}

fn fetch(source: &mut dyn Source, blob: &Blob) -> Vec<u8> {
    let (mut body, mut all) = (source.open(blob).unwrap(), vec![]);
    while let Some(chunk) = body.chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    assert_eq!(all.len() as u64, blob.size);
    all
}

/// The image that a device makes of the slot's pieces and a pack, and the number of pieces that are missing from it.
fn made(source: &mut dyn Source, release: &Release, patches: &Patches, old: &[u8]) -> (Vec<u8>, usize) {
    let size = release.initramfs.size.unwrap_or_else(|| source.locate(release.initramfs).unwrap().size);
    let index = Index::parse(&fetch(source, &release.pieces.unwrap()), size).unwrap();
    let body = source.open(&patches.blob).unwrap();
    let mut pack = Pack::open(body, patches.blob.size, &patches.table, &index, &mut 0).unwrap();
    let (mut slot, mut maker) = (Slot::new(old), Maker::new(release.initramfs_unpacked_size.unwrap()));
    let (mut image, mut lost, mut bytes) = (vec![], 0, vec![]);
    for (at, piece) in index.pieces().iter().enumerate() {
        if slot.read(&piece.hash, &mut image) {
            continue;
        }
        let made = match pack.patch(at, &mut bytes) {
            Ok(Some(entry)) => maker.make(&entry, &bytes, piece, &mut slot).ok(),
            Ok(None) | Err(_) => None,
        };
        match made {
            Some(made) => image.extend_from_slice(made),
            None => {
                lost += 1;
                image.resize(piece.end() as usize, 0);
            }
        }
    }
    (image, lost)
}

struct Workshop {
    registry: Registry,
    folder: TempDir,
    images: Vec<Images>,
}

impl Workshop {
    /// A registry with the releases 1.0.0, 1.1.0 and so on, each with patches for those before it.
    fn new(versions: u32) -> Self {
        let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
        let images = (0..versions).map(|version| images_of(folder.path(), version)).collect();
        let workshop = Self { registry, folder, images };
        for version in 0..versions {
            let from: Vec<_> = (0..version).map(|old| workshop.tag(old)).collect();
            workshop.publish(&workshop.tag(version), version, &from).unwrap();
        }
        workshop
    }

    fn tag(&self, version: u32) -> String {
        format!("{}/os:v1.{version}.0", self.registry.address)
    }

    fn publish(&self, reference: &str, version: u32, from: &[String]) -> Result<Published, Error> {
        let options = Options { access: access(&self.registry), delta_from: from.to_vec(), ..Options::default() };
        let images = std::slice::from_ref(&self.images[version as usize]);
        publisher::release(reference, &metadata(&format!("1.{version}.0")), images, &[], &options)
    }

    fn source(&self, reference: &str) -> OciSource {
        let options = FetchOptions { plain_http: vec![self.registry.address.clone()], ..FetchOptions::default() };
        OciSource::new(&options, reference, None, "stable").unwrap()
    }

    fn image(&self, version: usize) -> Vec<u8> {
        fs::read(&self.images[version].initramfs).unwrap()
    }

    fn in_folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Publishes version 1 as a tree, with patches from these places.
    fn tree(&self, folder: &str, version: u32, from: &[String]) -> Result<(), Error> {
        let options =
            http::Options { delta_from: from.to_vec(), access: access(&self.registry), ..http::Options::default() };
        let images = std::slice::from_ref(&self.images[version as usize]);
        http::publish(&self.in_folder(folder), &metadata(&format!("1.{version}.0")), images, &[], &options).map(drop)
    }

    fn latest(&self, folder: &str) -> Value {
        serde_json::from_slice(&fs::read(self.in_folder(folder).join("amd64/latest.json")).unwrap()).unwrap()
    }
}

#[test]
fn patches_make_the_image_on_each_device_that_they_are_for() {
    let workshop = Workshop::new(3);
    let mut source = workshop.source(&workshop.tag(2));
    let release = source.offer(Amd64).unwrap().release;
    let image = workshop.image(2);
    let versions: Vec<_> = release.patches.iter().map(|patches| patches.from_version.to_string()).collect();
    assert_eq!(versions, ["1.0.0", "1.1.0"]);
    let found = inspect(&workshop.tag(2), None, &access(&workshop.registry)).unwrap();
    let fetched = release.pieces.unwrap().size + release.patches[1].blob.size;
    assert!(found.to_string().contains(&format!("from 1.1.0: devices fetch {fetched} bytes, ")), "{found}");
    for (version, patches) in release.patches.iter().enumerate() {
        let old = workshop.image(version);
        assert_eq!(patches.from, Digest::of(&old));
        assert!(made(&mut source, &release, patches, &old) == (image.clone(), 0), "from 1.{version}.0");
        // The keys are new in each release, and 2 % of it.
        assert!(patches.blob.size * 10 < image.len() as u64, "{} of {} bytes", patches.blob.size, image.len());
    }
    // A device that runs neither base: all that has its source in its slot is patched. The rest is fetched.
    let (other, lost) = made(&mut source, &release, &release.patches[1], &workshop.image(0));
    let count = Index::of(&image[..]).unwrap().unwrap().pieces().len();
    assert!(other.len() == image.len() && (1..count / 2).contains(&lost), "{lost} of {count} pieces");
}

#[test]
fn the_same_patches_are_made_each_time() {
    let workshop = Workshop::new(2);
    let again =
        |name: &str| workshop.publish(&format!("{}/{name}:a", workshop.registry.address), 1, &[workshop.tag(0)]);
    assert_eq!(again("one").unwrap().manifests, again("two").unwrap().manifests);
}

#[test]
fn a_bundle_carries_patches_and_is_a_base() {
    let workshop = Workshop::new(2);
    let access = access(&workshop.registry);
    let (old, new) = (workshop.in_folder("old.tar"), workshop.in_folder("new.tar"));
    bundle::bundle(&workshop.tag(0), &old, None, &access).unwrap();
    bundle::bundle(&workshop.tag(1), &new, None, &access).unwrap();
    let mut source = BundleSource::open(&new, None, "v1.1.0").unwrap();
    let release = source.offer(Amd64).unwrap().release;
    assert!(made(&mut source, &release, &release.patches[0], &workshop.image(0)) == (workshop.image(1), 0));
    workshop.tree("www", 1, &[old.to_str().unwrap().to_owned()]).unwrap();
    assert_eq!(workshop.latest("www")["initramfs_patches"][0]["sha256"], release.patches[0].blob.digest.hex());
}

#[test]
fn a_tree_has_patches_and_is_a_base() {
    let workshop = Workshop::new(2);
    workshop.tree("www", 0, &[]).unwrap();
    let base = workshop.in_folder("www").to_str().unwrap().to_owned();
    workshop.tree("www", 1, &[base]).unwrap();
    let raw = fs::read(workshop.in_folder("www/amd64/latest.json")).unwrap();
    let latest = Latest::parse(&raw).unwrap();
    let release = latest.release().unwrap();
    assert_eq!(release.patches.len(), 1);
    for blob in [release.pieces.unwrap(), release.patches[0].blob] {
        let name = latest.url_of(blob.digest).unwrap().unwrap();
        assert_eq!(Digest::of(&fs::read(workshop.in_folder("www/amd64").join(name)).unwrap()), blob.digest);
    }
    let of_registry = workshop.source(&workshop.tag(1)).offer(Amd64).unwrap().release;
    assert_eq!((release.pieces, release.patches), (of_registry.pieces, of_registry.patches));
}

#[test]
fn images_that_were_not_repacked_get_neither_index_nor_patches() {
    let mut workshop = Workshop::new(2);
    let (repacked, plain) = (workshop.images[1].clone(), workshop.in_folder("plain-1.gz"));
    // The base is as gzip made it.
    workshop.images[1].initramfs = plain;
    let reference = format!("{}/plain:stable", workshop.registry.address);
    workshop.publish(&reference, 1, &[workshop.tag(0)]).unwrap();
    let release = workshop.source(&reference).offer(Amd64).unwrap().release;
    assert_eq!((release.pieces, release.patches), (None, vec![]));
    workshop.images[1] = repacked;
    let other = format!("{}/other:stable", workshop.registry.address);
    workshop.publish(&other, 1, &[reference, workshop.tag(1), workshop.tag(0), workshop.tag(0)]).unwrap();
    let release = workshop.source(&other).offer(Amd64).unwrap().release;
    assert!(release.pieces.is_some());
    let from: Vec<_> = release.patches.iter().map(|patches| patches.from_version.to_string()).collect();
    assert_eq!(from, ["1.0.0"], "neither the image that was not repacked, nor the same one, nor one twice");
}

#[test]
fn a_pack_of_half_the_image_is_not_published() {
    let mut workshop = Workshop::new(2);
    let other = images::archive(&noise(77, 400_000));
    let (plain, packed) = (workshop.in_folder("noise.gz"), workshop.in_folder("noise-packed.gz"));
    fs::write(&plain, images::gzip(&other)).unwrap();
    repack(&plain, &packed).unwrap();
    workshop.images[1].initramfs = packed;
    let reference = format!("{}/noise:stable", workshop.registry.address);
    workshop.publish(&reference, 1, &[workshop.tag(0)]).unwrap();
    let release = workshop.source(&reference).offer(Amd64).unwrap().release;
    assert!(release.pieces.is_some() && release.patches.is_empty(), "{:?}", release.patches);
}

#[test]
fn a_base_that_is_not_there_is_an_error_before_anything_is_sent() {
    let workshop = Workshop::new(1);
    let reference = format!("{}/new:stable", workshop.registry.address);
    for (from, reason) in [
        (format!("{}/os:v0.9.0", workshop.registry.address), Reason::NotFound),
        (workshop.in_folder("tree-0").to_str().unwrap().to_owned(), Reason::NotFound),
        (workshop.in_folder("plain-0.gz").to_str().unwrap().to_owned(), Reason::MalformedBundle),
    ] {
        let e = workshop.publish(&reference, 0, std::slice::from_ref(&from)).unwrap_err();
        assert!(e.reason == reason && e.message.contains(&from), "{e} ({})", e.reason.as_str());
    }
    let e = workshop.publish(&reference, 0, &vec![workshop.tag(0); 9]).unwrap_err();
    assert_eq!(e.exit(), Exit::Usage, "{e}");
    assert!(!workshop.registry.storage().join("repositories/new").exists(), "something was sent");
}
