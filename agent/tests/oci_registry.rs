//! The OCI source against a real registry.

mod common;

use common::registry::Registry;
use common::{bytes, key, key_id, sign};
use kubesolo_update::error::{Error, Exit};
use kubesolo_update::fetch::FetchOptions;
use kubesolo_update::release::{self, Architecture, Blob, Digest};
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::{Offer, Source};
use serde_json::json;

const KERNEL: &[u8] = b"kernel of the test";

fn options(registry: &Registry) -> FetchOptions {
    FetchOptions { plain_http: vec![registry.address.clone()], proxies: false, ..FetchOptions::default() }
}

fn source(registry: &Registry, reference: &str) -> OciSource {
    OciSource::new(&options(registry), &format!("{}/{reference}", registry.address), None, "stable").unwrap()
}

fn offer(registry: &Registry, reference: &str) -> Result<Offer, Error> {
    source(registry, reference).offer(Architecture::Amd64)
}

fn refused(registry: &Registry, reference: &str, exit: Exit, reason: &str) -> Error {
    let e = offer(registry, reference).unwrap_err();
    assert_eq!((e.exit, e.reason), (exit, reason), "{e}");
    e
}

fn fetch(source: &mut OciSource, blob: &Blob) -> Result<Vec<u8>, Error> {
    let mut body = source.open(blob)?;
    let mut all = vec![];
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
    }
    assert!(body.chunk()?.is_none(), "the end stays the end");
    Ok(all)
}

/// Pushes a release of one architecture, without a tag.
fn push(registry: &Registry, version: &str, architecture: Architecture, initramfs: &[u8]) -> Vec<u8> {
    let manifest = common::manifest(version, architecture, KERNEL, initramfs);
    registry.artifact("os", &manifest, &[KERNEL, initramfs])
}

/// Pushes a signature of `signed`, without a list that names it.
fn push_signature(registry: &Registry, signed: &[u8], seed: u8) -> Vec<u8> {
    let signature = sign(&key(seed), signed);
    let manifest = common::signature_manifest(signed, &signature, &key_id(&key(seed)));
    registry.artifact("os", &manifest, &[&signature])
}

fn fallback_tag(registry: &Registry, signed: &[u8], list: &[u8]) {
    registry.manifest("os", &format!("sha256-{}", Digest::of(signed).hex()), release::OCI_INDEX_TYPE, list);
}

#[test]
fn an_index_gives_the_manifest_of_the_architecture_with_its_signatures() {
    let registry = Registry::start();
    let initramfs = vec![7; 3_000_000];
    let amd64 = push(&registry, "v1.2.0", Architecture::Amd64, &initramfs);
    let arm64 = push(&registry, "v1.2.0", Architecture::Arm64, b"another");
    let signatures = [push_signature(&registry, &amd64, 1), push_signature(&registry, &amd64, 2)];
    fallback_tag(&registry, &amd64, &bytes(&common::referrers(&[&signatures[0], &signatures[1]])));
    let index = bytes(&common::index(&[("arm64", &arm64), ("amd64", &amd64)]));
    registry.manifest("os", "stable", release::OCI_INDEX_TYPE, &index);

    let mut source = source(&registry, "os");
    let offer = source.offer(Architecture::Amd64).unwrap();
    assert_eq!(offer.origin, format!("{}/os:stable", registry.address));
    assert_eq!(offer.signed, amd64);
    assert_eq!(offer.signed_type, release::OCI_MANIFEST_TYPE);
    assert_eq!(offer.digest, Digest::of(&amd64));
    assert_eq!(offer.release.version.to_string(), "1.2.0");
    assert_eq!(offer.signatures.len(), 2);
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(1), &amd64));
    assert_eq!(offer.signatures[1].key_id.as_deref(), Some(key_id(&key(2)).as_str()));
    assert_eq!(fetch(&mut source, &offer.release.kernel).unwrap(), KERNEL);
    assert_eq!(fetch(&mut source, &offer.release.initramfs).unwrap(), initramfs);

    let offer = source.offer(Architecture::Arm64).unwrap();
    assert_eq!(offer.signed, arm64);
    assert!(offer.signatures.is_empty());
}
