//! Parts that several test programs need: a real registry, and releases to put in it.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

pub mod fault;
pub mod front;
pub mod images;
pub mod line;
pub mod nginx;
pub mod proxy;
pub mod registry;
pub mod schema;
pub mod servers;
pub mod tls;
pub mod token_server;

use ed25519_dalek::{Signer, SigningKey};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::{self, Architecture};
use kubesolo_update::release::statement::STATEMENT_TYPE;
use kubesolo_update::trust::sigstore;
use serde_json::{Value, json};

/// A JSON descriptor of `bytes`.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// The manifest of a release, as a publisher makes it.
pub fn manifest(version: &str, architecture: Architecture, kernel: &[u8], initramfs: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": "application/vnd.kubesolo.os.release.v1",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor(release::KERNEL_TYPE, kernel), descriptor(release::INITRAMFS_TYPE, initramfs)],
        "annotations": {
            release::VERSION: version,
            release::ARCHITECTURE: architecture.to_string(),
            release::CHANNEL: "stable",
        },
    })
}

/// An index with one entry per manifest.
pub fn index(entries: &[(&str, &[u8])]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(architecture, manifest)| {
            let mut entry = descriptor(release::OCI_MANIFEST_TYPE, manifest);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": entries})
}

/// The manifest that attaches `signature` to `signed`.
pub fn signature_manifest(signed: &[u8], signature: &[u8], key_id: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": release::SIGNATURE_TYPE,
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor(release::SIGNATURE_TYPE, signature)],
        "subject": descriptor(release::OCI_MANIFEST_TYPE, signed),
        "annotations": {release::KEY_ID: key_id},
    })
}

/// A statement of freshness with its signatures, as it stands in a registry.
pub fn statement_manifest(statement: &[u8], signatures: &[&[u8]]) -> Value {
    let mut layers = vec![descriptor(STATEMENT_TYPE, statement)];
    layers.extend(signatures.iter().map(|signature| descriptor(release::SIGNATURE_TYPE, signature)));
    json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": STATEMENT_TYPE,
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": layers,
    })
}

/// An index of signature manifests, as it stands under a fallback tag.
pub fn referrers(manifests: &[&[u8]]) -> Value {
    let entries: Vec<Value> = manifests
        .iter()
        .map(|manifest| {
            let mut entry = descriptor(release::OCI_MANIFEST_TYPE, manifest);
            entry["artifactType"] = json!(release::SIGNATURE_TYPE);
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": release::OCI_INDEX_TYPE, "manifests": entries})
}

/// A signing key made from one byte, so that runs are alike.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// 16 hex digits.
pub fn key_id(key: &SigningKey) -> String {
    kubesolo_update::trust::signature::KeyId::of(key.verifying_key().as_bytes()).to_string()
}

/// A signature and the hint at its key.
pub fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    key.sign(message).to_bytes().to_vec()
}

/// The JSON text of `value`.
pub fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// The payload that cosign signs in the place of `signed`.
pub fn cosign_payload(signed: &[u8]) -> Vec<u8> {
    bytes(&json!({
        "critical": {
            "identity": {"docker-reference": "registry.example/os"},
            "image": {"docker-manifest-digest": Digest::of(signed)},
            "type": "cosign container image signature",
        },
        "optional": null,
    }))
}

/// The in-toto statement that cosign 3 signs in the place of a manifest, with this predicate.
pub fn statement_of(signed: &[u8], predicate: &str) -> Vec<u8> {
    bytes(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": Digest::of(signed).hex()}, "annotations": {}}],
        "predicateType": predicate,
        "predicate": {},
    }))
}

/// The predicate of a statement that approves a manifest.
pub const COSIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// A sigstore bundle as cosign 3 makes it: a statement in a DSSE envelope, and a signature over it.
pub fn sigstore_bundle(key: &SigningKey, statement: &[u8]) -> Value {
    let text = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    json!({
        "mediaType": sigstore::BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "hint"}},
        "dsseEnvelope": {
            "payload": text(statement),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": text(&sign(key, &sigstore::pae(statement)))}],
        },
    })
}

/// The manifest that attaches such a bundle to `signed`.
pub fn sigstore_manifest(signed: &[u8], bundle: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "artifactType": sigstore::BUNDLE_TYPE,
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor(sigstore::BUNDLE_TYPE, bundle)],
        "subject": descriptor(release::OCI_MANIFEST_TYPE, signed),
    })
}

/// The content of cosign's tag: payloads, and a signature over each.
pub fn cosign_manifest(signatures: &[(&[u8], &[u8])]) -> Value {
    let layers: Vec<Value> = signatures
        .iter()
        .map(|(payload, signature)| {
            let mut layer = descriptor("application/vnd.dev.cosign.simplesigning.v1+json", payload);
            let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature);
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": text});
            layer
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": layers,
    })
}
