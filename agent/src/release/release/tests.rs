use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn layer(media_type: &str, byte: u8, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": Digest([byte; 32]), "size": size})
}

fn good() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST_TYPE,
        "config": layer("application/vnd.oci.empty.v1+json", 0, 2),
        "layers": [layer(KERNEL_TYPE, 1, 10), layer(INITRAMFS_TYPE, 2, 20)],
        "annotations": {VERSION: "v1.2.3-rc.1+build", ARCHITECTURE: "arm64"},
    })
}

fn parse(manifest: &Value) -> Result<Release> {
    Release::from_oci_manifest(&serde_json::to_vec(manifest).unwrap())
}

/// Changes the good manifest and expects a refusal with this reason.
fn refused(reason: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut manifest = good();
    change(&mut manifest);
    let e = parse(&manifest).unwrap_err();
    assert_eq!(e.reason.as_str(), reason, "{e}");
    e.message
}

fn accepted(change: impl FnOnce(&mut Value)) -> Release {
    let mut manifest = good();
    change(&mut manifest);
    parse(&manifest).unwrap()
}

fn annotate(key: &str, value: impl Into<Value>) -> impl FnOnce(&mut Value) {
    let (key, value) = (key.to_owned(), value.into());
    move |manifest| manifest["annotations"][key] = value
}

#[test]
fn the_least_release_has_version_architecture_and_two_images() {
    let release = parse(&good()).unwrap();
    assert_eq!(release.version.to_string(), "1.2.3-rc.1+build");
    assert_eq!(release.architecture, Architecture::Arm64);
    assert_eq!(release.kernel.blob(), Some(Blob { digest: Digest([1; 32]), size: 10 }));
    assert_eq!(release.initramfs.blob(), Some(Blob { digest: Digest([2; 32]), size: 20 }));
    assert_eq!((release.security_epoch, release.channel, release.board), (0, None, None));
}

#[test]
fn every_annotation_is_read() {
    let release = accepted(|m| {
        m["annotations"] = json!({
            VERSION: "2.0.0", ARCHITECTURE: "amd64", CHANNEL: "edge", MIN_COMPATIBLE_VERSION: "v1.0.0",
            RELEASE_NOTES: "notes", RELEASE_DATE: "2026-01-02T03:04:05Z", SUPPORTED_UNTIL: "2030-01-01T01:00:00+01:00", SECURITY_EPOCH: "7", BOARD: "board",
            INITRAMFS_UNPACKED_SIZE: "123456", ROLLOUT: "5%@0h,100%@72h", "other": "",
        });
    });
    assert_eq!(release.channel.as_deref(), Some("edge"));
    assert_eq!(release.min_compatible_version, Some(semver::Version::new(1, 0, 0)));
    assert_eq!(release.release_notes.as_deref(), Some("notes"));
    assert_eq!(release.release_date.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(release.supported_until.unwrap().to_rfc3339(), "2030-01-01T00:00:00+00:00");
    assert_eq!((release.security_epoch, release.initramfs_unpacked_size), (7, Some(123_456)));
    assert_eq!(release.board.as_deref(), Some("board"));
    let rollout = release.rollout.unwrap();
    assert_eq!((rollout.waves.to_string().as_str(), rollout.start.timestamp()), ("5%@0h,100%@72h", 1_767_323_045));
}

#[test]
fn waves_are_strict_and_count_from_a_date() {
    let waves = |waves: &str, date: &str| {
        let (waves, date) = (waves.to_owned(), date.to_owned());
        move |m: &mut Value| {
            m["annotations"][ROLLOUT] = json!(waves);
            m["annotations"][RELEASE_DATE] = json!(date);
        }
    };
    for (text, date) in [("5%", "2026-01-02T03:04:05Z"), ("5%@0h", ""), ("5%@0h", "2026-01-02"), ("5%@0h", "soon")] {
        assert!(refused("malformed-manifest", waves(text, date)).contains(ROLLOUT), "{text} {date}");
    }
    assert_eq!(accepted(waves("", "soon")).rollout, None, "a date alone is for people");
    let abroad = accepted(waves("5%@0h", "2026-01-02T05:04:05+02:00")).rollout.unwrap();
    assert_eq!(abroad.start.timestamp(), 1_767_323_045);
}

#[test]
fn the_end_of_support_is_a_date_or_absent() {
    for wrong in ["2030-01-01", "soon", "1893456000"] {
        assert!(refused("malformed-manifest", annotate(SUPPORTED_UNTIL, wrong)).contains(SUPPORTED_UNTIL), "{wrong}");
    }
    assert_eq!(accepted(annotate(SUPPORTED_UNTIL, "")).supported_until, None);
}

/// The Go publisher writes every annotation, empty if it has no value.
#[test]
fn an_empty_annotation_is_an_absent_one() {
    let release = accepted(|m| {
        for key in [CHANNEL, MIN_COMPATIBLE_VERSION, SECURITY_EPOCH] {
            m["annotations"][key] = json!("");
        }
    });
    assert_eq!((release.channel, release.min_compatible_version, release.security_epoch), (None, None, 0));
    assert!(refused("malformed-manifest", annotate(VERSION, "")).contains(VERSION));
    assert!(refused("malformed-manifest", annotate(ARCHITECTURE, "")).contains(ARCHITECTURE));
}

#[test]
fn each_image_is_there_exactly_once_and_unknown_layers_are_ignored() {
    assert!(
        refused("malformed-manifest", |m| m["layers"] = json!([layer(KERNEL_TYPE, 1, 1)])).contains("no initramfs")
    );
    assert!(
        refused("malformed-manifest", |m| m["layers"] = json!([layer(INITRAMFS_TYPE, 1, 1)])).contains("no kernel")
    );
    for media_type in [KERNEL_TYPE, INITRAMFS_TYPE] {
        let message = refused("malformed-manifest", |m| {
            m["layers"].as_array_mut().unwrap().push(layer(media_type, 1, 10));
        });
        assert!(message.contains("more than one"), "{message}");
    }
    accepted(|m| m["layers"].as_array_mut().unwrap().insert(0, layer("text/plain", 9, 0)));
    accepted(|m| {
        let odd = json!({"mediaType": "text/plain", "digest": "sha512:odd", "size": 1});
        m["layers"].as_array_mut().unwrap().push(odd);
    });
}

fn patches(byte: u8) -> Value {
    let mut layer = layer(PATCHES_TYPE, byte, 3000);
    layer["annotations"] = json!({
        PATCHES_FROM: Digest([byte + 1; 32]), PATCHES_FROM_VERSION: "v1.2.2", PATCHES_ENCODER: "deflate-1",
        PATCHES_TABLE: format!("120:{}", Digest([9; 32])),
    });
    layer
}

/// A release with an index of pieces and these layers of patches.
fn pieced(layers: &[Value]) -> impl FnOnce(&mut Value) + use<> {
    let more = [&[layer(PIECES_TYPE, 30, 500)], layers].concat();
    move |m| m["layers"].as_array_mut().unwrap().extend(more)
}

#[test]
fn pieces_and_patches_are_read() {
    let release = accepted(pieced(&[patches(40), patches(50)]));
    assert_eq!(release.pieces, Some(Blob { digest: Digest([30; 32]), size: 500 }));
    let from: Vec<Digest> = release.patches.iter().map(|one| one.from).collect();
    assert_eq!(from, [Digest([41; 32]), Digest([51; 32])]);
    let one = &release.patches[0];
    assert_eq!(one.blob, Blob { digest: Digest([40; 32]), size: 3000 });
    assert_eq!(one.table, Blob { digest: Digest([9; 32]), size: 120 });
    assert_eq!(one.from_version, semver::Version::new(1, 2, 2));
    let plain = accepted(|_| ());
    assert_eq!((plain.pieces, plain.patches), (None, vec![]));
}

#[test]
fn patches_for_an_unknown_encoder_are_ignored() {
    let mut unknown = patches(40);
    unknown["annotations"] = json!({PATCHES_ENCODER: "deflate-9", PATCHES_TABLE: "of another form"});
    assert_eq!(accepted(pieced(&[unknown, patches(50)])).patches.len(), 1);
    assert_eq!(accepted(pieced(&[layer(PATCHES_TYPE, 40, 1)])).patches, vec![]);
}

#[test]
fn pieces_and_patches_are_strict() {
    let twice = refused("malformed-manifest", pieced(&[layer(PIECES_TYPE, 31, 500)]));
    assert!(twice.contains("more than one"), "{twice}");
    let alone = refused("malformed-manifest", |m| m["layers"].as_array_mut().unwrap().push(patches(40)));
    assert!(alone.contains("no index of pieces"), "{alone}");
    assert!(refused("malformed-manifest", pieced(&[patches(40), patches(40)])).contains("same initramfs"));
    let changed = |key: &str, value: Value| {
        let mut layer = patches(40);
        layer["annotations"][key] = value;
        pieced(&[layer])
    };
    refused("malformed-digest", changed(PATCHES_FROM, json!("41".repeat(32))));
    refused("malformed-version", changed(PATCHES_FROM_VERSION, json!("older")));
    let table = Digest([9; 32]);
    for wrong in [format!("{table}"), format!("0:{table}"), format!("+5:{table}"), "5:".into(), "5:sha256:00".into()] {
        assert!(refused("malformed-manifest", changed(PATCHES_TABLE, json!(wrong))).contains(PATCHES_TABLE));
    }
    let longer = refused("malformed-manifest", changed(PATCHES_TABLE, json!(format!("3001:{table}"))));
    assert!(longer.contains("longer than the patches"), "{longer}");
    for key in [PATCHES_FROM, PATCHES_FROM_VERSION, PATCHES_TABLE] {
        let mut layer = patches(40);
        layer["annotations"].as_object_mut().unwrap().remove(key);
        assert!(refused("malformed-manifest", pieced(&[layer])).contains(key));
    }
}

#[test]
fn pieces_and_patches_have_limits() {
    let index = |size: u64| move |m: &mut Value| m["layers"].as_array_mut().unwrap().push(layer(PIECES_TYPE, 30, size));
    accepted(index(limits::PIECES_BYTES));
    refused("limit-exceeded", index(limits::PIECES_BYTES + 1));
    let many: Vec<Value> = (0..=limits::PATCHES as u8).map(|n| patches(40 + 2 * n)).collect();
    accepted(pieced(&many[1..]));
    refused("limit-exceeded", pieced(&many));
    let mut large = patches(40);
    large["size"] = json!(limits::PATCH_TABLE_BYTES * 2);
    let mut sized = |bytes: u64| {
        large["annotations"][PATCHES_TABLE] = json!(format!("{bytes}:{}", Digest([9; 32])));
        pieced(&[large.clone()])
    };
    accepted(sized(limits::PATCH_TABLE_BYTES));
    refused("limit-exceeded", sized(limits::PATCH_TABLE_BYTES + 1));
}

/// A release with this layer beside its images.
fn beside(layer: Value) -> impl FnOnce(&mut Value) {
    move |m| m["layers"].as_array_mut().unwrap().push(layer)
}

#[test]
fn all_that_boots_is_in_the_release() {
    let tree = layer(DEVICETREE_TYPE, 60, 4000);
    let release = accepted(|m| {
        beside(tree.clone())(m);
        m["annotations"][KERNEL_ARGS] = json!("console=ttyS1 quiet");
        m["annotations"][REQUIRES] = json!("kernel-args  devicetree\nloader-3 tpm");
        m["annotations"][AGENT_SETTINGS] = json!("region!\ndelta=yes");
    });
    assert_eq!(release.kernel_args.unwrap().as_str(), "console=ttyS1 quiet");
    assert_eq!(release.devicetree, Some(Blob { digest: Digest([60; 32]), size: 4000 }));
    let needs: Vec<String> = release.requires.iter().map(ToString::to_string).collect();
    assert_eq!(needs, ["kernel-args", "devicetree", "loader-3", "tpm"]);
    let keys: Vec<_> = release.agent_settings.as_ref().unwrap().iter().map(|one| (&*one.key, one.required)).collect();
    assert_eq!(keys, [("region", true), ("delta", false)]);
    let plain = accepted(|m| {
        for key in [KERNEL_ARGS, REQUIRES, AGENT_SETTINGS] {
            m["annotations"][key] = json!("");
        }
    });
    assert_eq!((plain.kernel_args, plain.devicetree, plain.agent_settings), (None, None, None));
    assert!(plain.requires.is_empty());
}

#[test]
fn the_largest_release_has_twelve_layers() {
    let packs: Vec<Value> = (0..limits::PATCHES as u8).map(|n| patches(70 + 2 * n)).collect();
    let mut layers = 0;
    let release = accepted(|m| {
        pieced(&packs)(m);
        beside(layer(DEVICETREE_TYPE, 60, 4000))(m);
        layers = m["layers"].as_array().unwrap().len();
    });
    assert_eq!((layers, release.patches.len(), release.devicetree.is_some()), (12, 8, true));
}

#[test]
fn kernel_arguments_and_trees_are_refused_where_they_are_taken() {
    for wrong in ["a=\"b\"", "a\nb", "ks.trial=1", " a", &"a".repeat(2048)] {
        refused("malformed-kernel-args", annotate(KERNEL_ARGS, wrong));
    }
    let tree = |size| layer(DEVICETREE_TYPE, 60, size);
    accepted(beside(tree(limits::DEVICETREE_BYTES)));
    refused("limit-exceeded", beside(tree(limits::DEVICETREE_BYTES + 1)));
    refused("malformed-manifest", beside(tree(0)));
    let twice = refused("malformed-manifest", |m| {
        beside(tree(10))(m);
        beside(tree(10))(m);
    });
    assert!(twice.contains("more than one device tree"), "{twice}");
    refused("malformed-devicetree", |m| {
        beside(tree(10))(m);
        m["annotations"][ARCHITECTURE] = json!("amd64");
    });
    assert!(refused("malformed-manifest", annotate(AGENT_SETTINGS, "A=1")).contains(AGENT_SETTINGS));
    refused("limit-exceeded", annotate(REQUIRES, (0..17).map(|n| format!("x{n} ")).collect::<String>()));
}

#[test]
fn sizes_and_digests_of_images_are_plausible() {
    refused("malformed-manifest", |m| m["layers"][0]["size"] = json!(0));
    refused("malformed-json", |m| m["layers"][0]["size"] = json!(-1));
    refused("malformed-json", |m| m["layers"][0]["size"] = json!(1.5));
    refused("malformed-json", |m| m["layers"][0]["size"] = json!("10"));
    accepted(|m| m["layers"][1]["size"] = json!(limits::IMAGE_BYTES));
    refused("limit-exceeded", |m| m["layers"][1]["size"] = json!(limits::IMAGE_BYTES + 1));
    for digest in
        ["", "sha256:", "sha256:00", &format!("sha256:{}", "A".repeat(64)), &format!("sha512:{}", "0".repeat(128))]
    {
        refused("malformed-digest", |m| m["layers"][0]["digest"] = json!(digest));
    }
}

#[test]
fn versions_are_semantic() {
    assert_eq!(version("v1.0.0").unwrap(), version("1.0.0").unwrap());
    for text in ["", "v", "1", "1.2", "vv1.0.0", "V1.0.0", " 1.0.0", "1.0.0 ", "01.0.0", "1.0.0-", "latest", "1.0.0\n"]
    {
        let e = version(text).unwrap_err();
        assert_eq!(e.reason, Reason::MalformedVersion, "{text:?}");
    }
    refused("malformed-version", annotate(VERSION, "one"));
    assert!(refused("malformed-version", annotate(MIN_COMPATIBLE_VERSION, "one")).contains(MIN_COMPATIBLE_VERSION));
}

#[test]
fn numbers_are_decimal() {
    for value in ["-1", "+1", "0x1", "1.0", " 1", "18446744073709551616"] {
        refused("malformed-manifest", annotate(SECURITY_EPOCH, value));
        refused("malformed-manifest", annotate(INITRAMFS_UNPACKED_SIZE, value));
    }
    refused("malformed-json", annotate(SECURITY_EPOCH, 1));
}

#[test]
fn revoked_keys_are_whole_fingerprints() {
    let key = |n: u8| hex::encode([n; 32]);
    let list = [key(1), key(2), key(1)].join(",");
    let release = accepted(annotate(REVOKED_KEYS, list.as_str()));
    assert_eq!(release.revoked_keys.iter().map(ToString::to_string).collect::<Vec<_>>(), [key(1), key(2)]);
    assert!(accepted(annotate(REVOKED_KEYS, "")).revoked_keys.is_empty());
    for wrong in [
        key(1)[..16].to_owned(),
        key(0xab).to_uppercase(),
        format!("{},", key(1)),
        format!("{}, {}", key(1), key(2)),
        format!("sha256:{}", key(1)),
        "all".into(),
    ] {
        refused("malformed-fingerprint", annotate(REVOKED_KEYS, wrong.as_str()));
    }
    let many = |n| (0..n).map(key).collect::<Vec<_>>().join(",");
    assert_eq!(accepted(annotate(REVOKED_KEYS, many(32))).revoked_keys.len(), limits::REVOKED_KEYS);
    refused("limit-exceeded", annotate(REVOKED_KEYS, many(33)));
}

#[test]
fn another_architecture_is_not_allowed_rather_than_malformed() {
    refused("wrong-architecture", annotate(ARCHITECTURE, "riscv64"));
    refused("wrong-architecture", annotate(ARCHITECTURE, "x86_64"));
}

#[test]
fn nothing_else_that_is_signed_passes_for_a_release() {
    refused("malformed-manifest", |m| m["schemaVersion"] = json!(1));
    refused("malformed-manifest", |m| m["mediaType"] = json!(OCI_INDEX_TYPE));
    refused("malformed-manifest", |m| m["artifactType"] = json!(SIGNATURE_TYPE));
    refused("malformed-manifest", |m| m["config"]["mediaType"] = json!(SIGNATURE_TYPE));
    refused("malformed-manifest", |m| m["subject"] = layer(OCI_MANIFEST_TYPE, 5, 5));
    refused("malformed-manifest", |m| m["manifests"] = json!([]));
    refused("malformed-json", |m| {
        m.as_object_mut().unwrap().remove("config");
    });
    assert!(Release::from_oci_manifest(br#"{"critical":{"image":{}}}"#).is_err());
    assert!(Release::from_oci_manifest(br#"{"version":"1.0.0","vmlinuz_sha256":""}"#).is_err());
}

#[test]
fn docker_manifests_and_those_without_a_type_are_read_too() {
    accepted(|m| m["mediaType"] = json!(DOCKER_MANIFEST_TYPE));
    accepted(|m| {
        m.as_object_mut().unwrap().remove("mediaType");
    });
    // Go's encoder.
    assert!(refused("malformed-manifest", |m| m["annotations"] = json!(null)).contains(VERSION));
}

#[test]
fn every_limit_is_the_last_value_that_is_accepted() {
    let long = |length: usize| "x".repeat(length);
    accepted(annotate(BOARD, long(limits::ANNOTATION_BYTES)));
    assert!(refused("limit-exceeded", annotate(BOARD, long(limits::ANNOTATION_BYTES + 1))).contains(BOARD));
    accepted(annotate(RELEASE_NOTES, long(limits::RELEASE_NOTES_BYTES)));
    refused("limit-exceeded", annotate(RELEASE_NOTES, long(limits::RELEASE_NOTES_BYTES + 1)));
    accepted(annotate(&long(limits::ANNOTATION_BYTES), ""));
    refused("limit-exceeded", annotate(&long(limits::ANNOTATION_BYTES + 1), ""));

    let version = |length: usize| format!("1.0.0-{}", long(length - 6));
    accepted(annotate(VERSION, version(limits::VERSION_BYTES)));
    refused("limit-exceeded", annotate(VERSION, version(limits::VERSION_BYTES + 1)));

    let annotations = |count: usize| {
        move |m: &mut Value| {
            for n in 2..count {
                m["annotations"][format!("n{n}")] = json!("");
            }
        }
    };
    accepted(annotations(limits::ANNOTATIONS));
    refused("limit-exceeded", annotations(limits::ANNOTATIONS + 1));

    let layers = |count: usize| {
        move |m: &mut Value| {
            for _ in 2..count {
                m["layers"].as_array_mut().unwrap().push(layer("text/plain", 3, 1));
            }
        }
    };
    accepted(layers(limits::MANIFEST_LAYERS));
    refused("limit-exceeded", layers(limits::MANIFEST_LAYERS + 1));

    let mut raw = serde_json::to_vec(&good()).unwrap();
    raw.resize(limits::MANIFEST_BYTES as usize, b' ');
    Release::from_oci_manifest(&raw).unwrap();
    raw.push(b' ');
    assert_eq!(Release::from_oci_manifest(&raw).unwrap_err().reason, Reason::LimitExceeded);
}

#[test]
fn a_repeated_annotation_is_refused() {
    let text = serde_json::to_string(&good()).unwrap();
    let twice = text.replacen(
        "\"io.kubesolo.os.version\"",
        "\"io.kubesolo.os.version\":\"9.9.9\",\"io.kubesolo.os.version\"",
        1,
    );
    assert_eq!(Release::from_oci_manifest(twice.as_bytes()).unwrap_err().reason, Reason::MalformedJson);
}

#[test]
fn digests_have_one_spelling() {
    let digest = Digest::of(b"");
    assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    assert_eq!(serde_json::from_value::<Digest>(json!(digest)).unwrap(), digest);
    assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
    assert!(digest.hex().parse::<Digest>().is_err());
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Release::from_oci_manifest(&bytes);
    }

    /// Random bytes hardly get past the first brace: cut, or change, something good.
    #[test]
    fn no_damage_of_a_manifest_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut raw = serde_json::to_vec(&good()).unwrap();
        let at = at.index(raw.len());
        if cut { raw.truncate(at) } else { raw[at] = byte }
        let _ = Release::from_oci_manifest(&raw);
    }

    #[test]
    fn any_annotation_is_read_back_or_refused(value in ".{0,40}") {
        for key in [VERSION, ARCHITECTURE, CHANNEL, MIN_COMPATIBLE_VERSION, SECURITY_EPOCH, REVOKED_KEYS, INITRAMFS_UNPACKED_SIZE] {
            let mut manifest = good();
            manifest["annotations"][key] = json!(value);
            if let Err(e) = parse(&manifest) {
                prop_assert!(e.message.is_ascii() && !e.message.bytes().any(|b| b.is_ascii_control()), "{}", e.message);
            }
        }
    }
}
