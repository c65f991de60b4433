//! A release of random-looking images, and a body that delivers what a test wants.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses its part

use std::collections::VecDeque;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::device::slot::{Part, Slot, SlotManifest};
use kubesolo_update::fetch::body::Body;
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::{Blob, OCI_MANIFEST_TYPE, Release};
use kubesolo_update::trust::signature::Signature;

pub struct Images {
    pub kernel: Vec<u8>,
    pub initramfs: Vec<u8>,
}

impl Images {
    /// Incompressible bytes, different for each seed.
    pub fn new(seed: u64, kernel: usize, initramfs: usize) -> Self {
        Self { kernel: noise(seed, kernel), initramfs: noise(seed + 1_000_000, initramfs) }
    }

    pub fn of(&self, part: Part) -> &[u8] {
        match part {
            Part::Kernel => &self.kernel,
            Part::Initramfs => &self.initramfs,
        }
    }

    pub fn need(&self) -> u64 {
        (self.kernel.len() + self.initramfs.len()) as u64
    }

    pub fn manifest(&self, version: &str) -> SlotManifest {
        let images = [blob(&self.kernel), blob(&self.initramfs)];
        SlotManifest::new(&offer(version, &images[0], &images[1]), images, now())
    }
}

pub fn now() -> DateTime<Utc> {
    "2026-03-04T05:06:07Z".parse().unwrap()
}

pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

pub fn offer(version: &str, kernel: &Blob, initramfs: &Blob) -> Offer {
    let signed = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST_TYPE}",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},
        "layers":[
        {{"mediaType":"application/vnd.kubesolo.os.kernel.v1+octet-stream","digest":"{}","size":{}}},
        {{"mediaType":"application/vnd.kubesolo.os.initramfs.v1+gzip","digest":"{}","size":{}}}],
        "annotations":{{"io.kubesolo.os.version":"{version}","io.kubesolo.os.architecture":"amd64"}}}}"#,
        Digest::of(b"{}"),
        kernel.digest,
        kernel.size,
        initramfs.digest,
        initramfs.size,
    )
    .into_bytes();
    Offer {
        release: Release::from_oci_manifest(&signed).unwrap(),
        signed,
        signed_type: OCI_MANIFEST_TYPE.into(),
        signatures: vec![Signature { key_id: Some("0123456789abcdef".into()), bytes: [7; 64], payload: None }],
        file_signatures: None,
        origin: "registry.example/os:stable".into(),
    }
}

/// Delivers pieces, then the error if there is one.
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    error: Option<Error>,
}

impl Pieces {
    pub fn of(bytes: &[u8]) -> Self {
        Self { pieces: bytes.chunks(100_003).map(Bytes::copy_from_slice).collect(), error: None }
    }

    pub fn then_broken(bytes: &[u8]) -> Self {
        let error = Error::new(Reason::Unreachable, "the connection was lost");
        Self { error: Some(error), ..Self::of(bytes) }
    }
}

impl Body for Pieces {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self.pieces.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.error.take().map_or(Ok(None), Err),
        }
    }
}

/// Fills a slot as `apply` does.
pub fn fill(slot: &Slot, images: &Images, manifest: &SlotManifest) -> Result<()> {
    let mut writer = slot.writer()?;
    writer.part(Part::Kernel, &manifest.kernel, &mut Pieces::of(&images.kernel), &mut ())?;
    writer.part(Part::Initramfs, &manifest.initramfs, &mut Pieces::of(&images.initramfs), &mut ())?;
    writer.finish(manifest)
}
