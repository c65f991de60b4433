use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::release::release::{ARCHITECTURE, Blob, INITRAMFS_TYPE, KERNEL_TYPE, VERSION};
use crate::trust::cosign;

fn good() -> Value {
    json!({
        "version": "v1.2.3", "architecture": "arm64",
        "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": "11".repeat(32),
        "initramfs_url": "https://cdn.example/i", "initramfs_sha256": "22".repeat(32),
    })
}

fn with(change: Value) -> Vec<u8> {
    let mut document = good();
    for (name, value) in change.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.to_string().into_bytes()
}

fn read(raw: &[u8]) -> Result<Release> {
    Latest::parse(raw)?.release()
}

fn refused(raw: &[u8], reason: &str) -> Error {
    let e = read(raw).map(|_| ()).unwrap_err();
    assert_eq!(e.reason.as_str(), reason, "{e}");
    e
}

#[test]
fn every_member_is_read() {
    let latest = Latest::parse(&with(json!({
        "channel": "beta", "min_compatible_version": "v1.0.0", "release_notes": "notes", "release_date": "2026-01-01",
        "security_epoch": 7, "board": "edge-1", "initramfs_unpacked_size": 1234, "vmlinuz_sig_url": "k.sig",
        "initramfs_sig_url": "i.sig", "metadata_sig_url": "m.sig", "supported_until": "2030-01-01T00:00:00Z",
        "something_else": {"kept": "out"},
    })))
    .unwrap();
    let release = latest.release().unwrap();
    assert_eq!((release.version.to_string().as_str(), release.architecture), ("1.2.3", Architecture::Arm64));
    assert_eq!((release.channel.as_deref(), release.board.as_deref()), (Some("beta"), Some("edge-1")));
    assert_eq!(release.min_compatible_version, Some(semver::Version::new(1, 0, 0)));
    assert_eq!((release.security_epoch, release.initramfs_unpacked_size), (7, Some(1234)));
    assert_eq!(
        (release.release_notes.as_deref(), release.release_date.as_deref()),
        (Some("notes"), Some("2026-01-01"))
    );
    assert_eq!(release.supported_until.unwrap().timestamp(), 1_893_456_000);
    assert_eq!(release.kernel, Image { digest: Digest([0x11; 32]), size: None });
    assert!(release.initramfs.is(&Blob { digest: Digest([0x22; 32]), size: 5 }));
    assert_eq!(latest.image_urls().unwrap(), ["vmlinuz", "https://cdn.example/i"]);
    assert_eq!(latest.image_signature_urls(), [Some("k.sig"), Some("i.sig")]);
    assert_eq!(latest.signature_url(), Some("m.sig"));
}

#[test]
fn an_end_of_support_without_a_date_is_refused() {
    let error = refused(&with(json!({"supported_until": "soon"})), "malformed-latest-json");
    assert!(error.message.contains("supported_until"), "{error}");
}

#[test]
fn an_empty_member_is_an_absent_one() {
    let empty = json!({"channel": "", "min_compatible_version": "", "metadata_sig_url": "", "vmlinuz_sig_url": null});
    let latest = Latest::parse(&with(empty)).unwrap();
    let release = latest.release().unwrap();
    assert_eq!((release.channel, release.min_compatible_version), (None, None));
    assert_eq!((latest.signature_url(), latest.image_signature_urls()), (None, [None, None]));
    for member in ["version", "architecture", "vmlinuz_sha256", "initramfs_sha256"] {
        let e = refused(&with(json!({member: ""})), "malformed-latest-json");
        assert!(e.message.ends_with(&format!("it has no {member}")), "{e}");
    }
}

#[test]
fn a_claim_needs_no_architecture_and_raises_no_epoch() {
    let raw = with(json!({"architecture": null, "security_epoch": 7}));
    refused(&raw, "malformed-latest-json");
    let claimed = Latest::parse(&raw).unwrap().claimed(Architecture::Amd64).unwrap();
    assert_eq!((claimed.architecture, claimed.security_epoch), (Architecture::Amd64, 0));
    let other = Latest::parse(&with(json!({"architecture": "arm64"}))).unwrap();
    assert_eq!(other.claimed(Architecture::Amd64).unwrap().architecture, Architecture::Arm64);
}

#[test]
fn all_that_boots_is_in_a_signed_document() {
    let extras = json!({
        "kernel_args": "console=ttyS1 quiet", "requires": "kernel-args loader-3", "agent_settings": "region!\ndelta=yes",
        "devicetree_url": "board.dtb", "devicetree_sha256": "77".repeat(32), "devicetree_size": 4000,
    });
    let latest = Latest::parse(&with(extras)).unwrap();
    let release = latest.release().unwrap();
    assert_eq!(release.kernel_args.unwrap().as_str(), "console=ttyS1 quiet");
    assert_eq!(release.devicetree, Some(Blob { digest: Digest([0x77; 32]), size: 4000 }));
    assert_eq!((release.requires.len(), release.agent_settings.unwrap().iter().count()), (2, 2));
    assert_eq!(latest.url_of(Digest([0x77; 32])).unwrap(), Some("board.dtb"));
    // A document that nobody signed decides nothing about a boot.
    let claimed = latest.claimed(Architecture::Arm64).unwrap();
    assert_eq!((claimed.kernel_args, claimed.devicetree, claimed.agent_settings), (None, None, None));
    assert!(claimed.requires.is_empty());
}

#[test]
fn kernel_arguments_and_trees_are_refused_where_they_are_taken() {
    for wrong in ["a=\"b\"", "a\nb", "ks.trial=1", &"a".repeat(2048)] {
        refused(&with(json!({"kernel_args": wrong})), "malformed-kernel-args");
    }
    let tree = |architecture: &str, size: Value| {
        let sha256 = "77".repeat(32);
        with(json!({
            "architecture": architecture, "devicetree_url": "t", "devicetree_sha256": sha256, "devicetree_size": size,
        }))
    };
    assert!(read(&tree("arm64", json!(limits::DEVICETREE_BYTES))).is_ok());
    refused(&tree("arm64", json!(limits::DEVICETREE_BYTES + 1)), "limit-exceeded");
    refused(&tree("arm64", json!(null)), "malformed-latest-json");
    refused(&tree("amd64", json!(10)), "malformed-devicetree");
    let settings = refused(&with(json!({"agent_settings": "A=1"})), "malformed-latest-json");
    assert!(settings.message.contains("agent_settings"), "{settings}");
}

fn pieced() -> Value {
    json!({
        "initramfs_pieces_url": "p", "initramfs_pieces_sha256": "33".repeat(32), "initramfs_pieces_size": 500,
        "initramfs_patches": [{
            "from": Digest([0x44; 32]), "from_version": "v1.2.2", "url": "patches-1.2.2", "sha256": "55".repeat(32),
            "size": 3000, "table_size": 120, "table_sha256": "66".repeat(32), "encoder": "deflate-1",
        }, {"encoder": "deflate-9", "form": "unknown"}],
    })
}

#[test]
fn pieces_and_patches_are_read() {
    let latest = Latest::parse(&with(pieced())).unwrap();
    let release = latest.release().unwrap();
    assert_eq!(release.pieces, Some(Blob { digest: Digest([0x33; 32]), size: 500 }));
    let expected = Patches {
        blob: Blob { digest: Digest([0x55; 32]), size: 3000 },
        from: Digest([0x44; 32]),
        from_version: semver::Version::new(1, 2, 2),
        table: Blob { digest: Digest([0x66; 32]), size: 120 },
    };
    assert_eq!(release.patches, [expected]);
    for (byte, url) in [(0x11, "vmlinuz"), (0x22, "https://cdn.example/i"), (0x33, "p"), (0x55, "patches-1.2.2")] {
        assert_eq!(latest.url_of(Digest([byte; 32])).unwrap(), Some(url));
    }
    assert_eq!(latest.url_of(Digest([0x44; 32])).unwrap(), None);
    // An unsigned document vouches for whole images at most.
    let claimed = latest.claimed(Architecture::Arm64).unwrap();
    assert_eq!((claimed.pieces, claimed.patches), (None, vec![]));
}

#[test]
fn pieces_and_patches_are_strict() {
    let without = |pointer: &str| {
        let mut change = pieced();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        change.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(member);
        with(change)
    };
    for member in ["/initramfs_pieces_sha256", "/initramfs_pieces_size", "/initramfs_pieces_url"] {
        refused(&without(member), "malformed-latest-json");
    }
    for member in ["from", "from_version", "url", "sha256", "size", "table_size", "table_sha256"] {
        refused(&without(&format!("/initramfs_patches/0/{member}")), "malformed-latest-json");
    }
    let changed = |pointer: &str, value: Value| {
        let mut change = pieced();
        *change.pointer_mut(pointer).unwrap() = value;
        with(change)
    };
    refused(&changed("/initramfs_pieces_size", json!(0)), "malformed-latest-json");
    refused(&changed("/initramfs_pieces_size", json!(limits::PIECES_BYTES + 1)), "limit-exceeded");
    refused(&changed("/initramfs_patches/0/table_size", json!(3001)), "malformed-latest-json");
    refused(&changed("/initramfs_patches/0/url", json!("x".repeat(limits::ANNOTATION_BYTES + 1))), "limit-exceeded");
    read(&changed("/initramfs_patches", Value::Null)).unwrap();
}

#[test]
fn one_spelling_of_a_digest() {
    for wrong in
        ["", "11", &"11".repeat(33), &"AA".repeat(32), &format!("sha256:{}", "11".repeat(32)), &"xx".repeat(32)]
    {
        refused(&with(json!({"vmlinuz_sha256": wrong})), "malformed-latest-json");
    }
}

#[test]
fn a_document_of_a_registry_is_none_and_neither_is_this_one_there() {
    let manifest = json!({
        "schemaVersion": 2, "config": {"mediaType": "x", "digest": Digest([0; 32]), "size": 2},
        "layers": [
            {"mediaType": KERNEL_TYPE, "digest": Digest([1; 32]), "size": 10},
            {"mediaType": INITRAMFS_TYPE, "digest": Digest([2; 32]), "size": 10},
        ],
        "annotations": {VERSION: "1.0.0", ARCHITECTURE: "arm64"},
    });
    // Even one that is complete as both.
    let mut both = good();
    both.as_object_mut().unwrap().extend(manifest.as_object().unwrap().clone());
    let both = both.to_string().into_bytes();
    Release::from_oci_manifest(&both).unwrap();
    refused(&both, "malformed-latest-json");
    refused(manifest.to_string().as_bytes(), "malformed-latest-json");
    assert!(Release::from_oci_manifest(&with(json!({}))).is_err());
}

#[test]
fn each_limit_is_the_last_value_that_is_taken() {
    let mut raw = with(json!({}));
    raw.resize(limits::LATEST_JSON_BYTES as usize, b' ');
    read(&raw).unwrap();
    raw.push(b' ');
    refused(&raw, "limit-exceeded");

    let text = |member: &str, length: usize| with(json!({member: "x".repeat(length)}));
    for member in
        ["channel", "release_date", "board", "vmlinuz_url", "initramfs_url", "vmlinuz_sig_url", "metadata_sig_url"]
    {
        read(&text(member, limits::ANNOTATION_BYTES)).unwrap();
        refused(&text(member, limits::ANNOTATION_BYTES + 1), "limit-exceeded");
    }
    read(&text("release_notes", limits::RELEASE_NOTES_BYTES)).unwrap();
    refused(&text("release_notes", limits::RELEASE_NOTES_BYTES + 1), "limit-exceeded");

    let version = |length: usize| with(json!({"version": format!("1.0.0-{}", "x".repeat(length - 6))}));
    read(&version(limits::VERSION_BYTES)).unwrap();
    refused(&version(limits::VERSION_BYTES + 1), "limit-exceeded");

    let nested = |depth: usize| {
        let more = format!(",\"more\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        String::from_utf8(with(json!({}))).unwrap().replacen('}', &more, 1).into_bytes()
    };
    read(&nested(limits::JSON_DEPTH)).unwrap();
    refused(&nested(limits::JSON_DEPTH + 1), "malformed-json");
}

#[test]
fn what_is_ambiguous_is_refused() {
    let raw = String::from_utf8(with(json!({}))).unwrap();
    refused(raw.replacen('{', "{\"version\":\"1.2.3\",", 1).as_bytes(), "malformed-json");
    refused(format!("{raw}{raw}").as_bytes(), "malformed-json");
    refused(b"[\"1.0.0\",null,null,\"arm64\"]", "malformed-json");
    refused(b"null", "malformed-json");
    refused(&with(json!({"version": 1})), "malformed-json");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }

    #[test]
    fn no_damage_of_a_document_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut raw = with(json!({"channel": "stable", "security_epoch": 1}));
        let at = at.index(raw.len());
        if cut { raw.truncate(at) } else { raw[at] = byte }
        let _ = read(&raw);
    }
}

#[test]
fn what_cosign_signs_is_no_release() {
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"x/os"}},"image":{{"docker-manifest-digest":"{}"}},"type":"cosign container image signature"}},"optional":null}}"#,
        Digest([1; 32])
    );
    assert_eq!(cosign::subject(payload.as_bytes()).unwrap(), Digest([1; 32]));
    Release::from_oci_manifest(payload.as_bytes()).unwrap_err();
    Latest::parse(payload.as_bytes()).unwrap().release().unwrap_err();
}
