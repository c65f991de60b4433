//! Releases in a file: made by our tool and by others, and every trick that an archive can play.

use crate::{cli_support, common};

use std::fs;
use std::path::Path;
use std::process::Command;

use cli_support::before::{Before, Left, Left::Untouched};
use cli_support::{Device, Ran};
use common::fault::World;
use common::registry::{Registry, find};
use common::{bytes, descriptor, images, referrers};
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Metadata, Options, bundle::bundle};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::limits;
use kubesolo_update::release::release::{Architecture, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, SIGNATURE_TYPE};
use kubesolo_update::release::statement::TAG_SUFFIX;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A file of an archive: name, type, content.
pub(crate) type File = (String, u8, Vec<u8>);

/// A tar archive with these files, as POSIX has it, and its end mark.
pub(crate) fn tar(files: &[File]) -> Vec<u8> {
    let mut out = vec![];
    for (name, kind, content) in files {
        out.extend(header(name, *kind, &format!("{:011o}\0", content.len())));
        out.extend(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn header(name: &str, kind: u8, size: &str) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..124 + size.len()].copy_from_slice(size.as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    if matches!(kind, b'1' | b'2') {
        header[157..168].copy_from_slice(b"/etc/passwd");
    }
    sum(&mut header);
    header
}

fn sum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn plain(name: &str, content: &[u8]) -> File {
    (name.to_owned(), b'0', content.to_vec())
}

pub(crate) fn blob_name(content: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(content).hex())
}

/// An entry of `index.json` with a name.
fn named(media_type: &str, content: &[u8], name: &str) -> Value {
    let mut entry = descriptor(media_type, content);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

/// The entries of `index.json` for the release of `world` and its signature.
pub(crate) fn entries(world: &World) -> Vec<Value> {
    let index = &world.files["/v2/os/manifests/stable"].1;
    let mut signed = world.clone();
    let signature = signed.signature(&world.manifest, 1);
    let mut entries = vec![named(OCI_INDEX_TYPE, index, "stable")];
    entries.extend(referrers(&[&signature])["manifests"].as_array().unwrap().clone());
    entries
}

/// The archive of `world` with this `index.json`.
pub(crate) fn files(world: &World, entries: &[Value]) -> Vec<File> {
    let index = bytes(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX_TYPE, "manifests": entries}));
    let mut files = vec![plain("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), plain("index.json", &index)];
    let mut names = vec![];
    for (_, content) in world.files.values() {
        if !names.contains(&blob_name(content)) {
            names.push(blob_name(content));
            files.push(plain(&blob_name(content), content));
        }
    }
    files
}

pub(crate) fn good(world: &World) -> Vec<File> {
    files(world, &entries(world))
}

/// `apply` and the like from the file `bundle.tar` of the device.
pub(crate) fn from_bundle(device: &Device, arguments: &[&str]) -> Ran {
    device.run(&[&device.local(arguments)[..], &["--bundle", "bundle.tar", "--pubkey", "K"]].concat())
}

/// A device whose free slot holds a release that is worth keeping.
fn with_staged() -> Device {
    let device = Device::new();
    device.write("bundle.tar", &tar(&good(&World::new(5))));
    from_bundle(&device, &["apply"]).code(0);
    device
}

/// `apply` of this archive, which must be refused like this.
#[track_caller]
fn refused(archive: &[u8], expected: (i32, &str), words: &[&str], left: Left) {
    let device = with_staged();
    device.write("bundle.tar", archive);
    let before = Before::of(&device);
    let ran = from_bundle(&device, &["apply", "--json"]);
    before.holds(&device, ran, expected, words, left);
}

#[test]
fn what_is_wrong_with_an_archive_is_refused_before_anything_is_touched() {
    let world = World::new(3000);
    let good = good(&world);
    let whole = tar(&good);
    let with = |more: File| tar(&[&good[..], &[more]].concat());
    let malformed = (65, "malformed-bundle");
    let mut wrong_sum = whole.clone();
    wrong_sum[512 * 2 + 3] ^= 1;
    let mut huge = header("blobs/huge", b'0', "77777777777\0").to_vec();
    huge.extend(&whole);
    let mut binary = header("blobs/huge", b'0', "\0\0\0\0\0\0\0\0\0\0\0\0");
    let no_size = [&binary[..], &whole].concat();
    binary[124] = 0x80;
    sum(&mut binary);
    let flood: Vec<File> = (0..limits::BUNDLE_ENTRIES).map(|n| plain(&format!("x{n}"), b"")).collect();
    let empty_index = |size: usize| {
        let mut files = files(&world, &[]);
        files[1].2.resize(size, b' ');
        tar(&files)
    };
    // A long name in two fields, as POSIX has it.
    let in_two = |folder: &str, name: &str| {
        let mut archive = header(name, b'0', "00000000000\0");
        archive[345..345 + folder.len()].copy_from_slice(folder.as_bytes());
        sum(&mut archive);
        [&archive[..], &whole].concat()
    };
    let records = |text: &str| with(("PaxHeaders/x".into(), b'x', text.as_bytes().to_vec()));
    let twice = with(good[2].clone());
    for (name, archive, expected, words) in [
        ("nothing", vec![], malformed, &["shorter than a tar archive"][..]),
        ("another type", vec![b'x'; 4096], malformed, &["no header of a tar archive at byte 0"]),
        ("compressed", images::gzip(&whole), malformed, &["compressed"]),
        ("cut in a file", whole[..512 * 3 + 100].to_vec(), malformed, &["in the middle of a file"]),
        ("cut after a file", whole[..whole.len() - 1024].to_vec(), malformed, &["without its end mark"]),
        ("cut in a header", whole[..512 + 512 + 100].to_vec(), malformed, &["end mark"]),
        ("a changed header", wrong_sum, malformed, &["no header of a tar archive at byte 1024"]),
        ("a size beyond the file", huge, malformed, &["in the middle of a file"]),
        ("a size that is not octal", binary.to_vec(), malformed, &["not octal"]),
        ("no size at all", no_size, malformed, &["not octal"]),
        ("a folder with content", with(("blobs/x".into(), b'5', b"x".to_vec())), malformed, &["neither file"]),
        ("a symbolic link", with((blob_name(b"x"), b'2', vec![])), malformed, &["neither file nor folder", "\"2\""]),
        ("a hard link", with((blob_name(b"x"), b'1', vec![])), malformed, &["neither file nor folder"]),
        ("a device", with(("blobs/null".into(), b'3', vec![])), malformed, &["neither file nor folder"]),
        ("a FIFO", with(("blobs/fifo".into(), b'6', vec![])), malformed, &["neither file nor folder"]),
        ("a sparse file", with(("blobs/s".into(), b'S', vec![])), malformed, &["neither file nor folder"]),
        ("a long name of GNU's", with(("././@LongLink".into(), b'L', b"x".to_vec())), malformed, &["neither file"]),
        ("a way out", with(plain("blobs/../../etc/passwd", b"x")), malformed, &["leaves the archive"]),
        ("an absolute name", with(plain("/etc/passwd", b"x")), malformed, &["leaves the archive"]),
        ("a way out in two fields", in_two("blobs/..", "../etc/passwd"), malformed, &["blobs/../../etc/passwd leaves"]),
        ("a terminal", with(plain("\x1b[2J\n/../x", b"x")), malformed, &["\\u{1b}[2J\\n/../x"]),
        ("a blob twice", twice, malformed, &["two files blobs/sha256/"]),
        ("two index.json", with(plain("./index.json", b"{}")), malformed, &["two files index.json"]),
        ("two oci-layout", with(plain("./oci-layout", b"{}")), malformed, &["two files oci-layout"]),
        ("a second name in two fields", in_two(".", "index.json"), malformed, &["two files index.json"]),
        ("a record of another name", records("20 path=index.json\n"), malformed, &["long names or sizes"]),
        ("a record of another size", records("12 size=12\n"), malformed, &["long names or sizes"]),
        ("long records", records(&"x".repeat(4097)), (65, "limit-exceeded"), &["4096 bytes"]),
        ("too many entries", tar(&[&flood[..], &good].concat()), (65, "limit-exceeded"), &["1024 entries"]),
        ("no index.json", tar(&[&good[..1], &good[2..]].concat()), malformed, &["index.json is missing"]),
        ("no oci-layout", tar(&good[1..]), malformed, &["oci-layout or index.json is missing"]),
        ("a huge index.json", empty_index(256 * 1024 + 1), (65, "limit-exceeded"), &["262144 bytes"]),
        ("an empty index.json", empty_index(256 * 1024), (69, "tag-not-found"), &["no release \"stable\""]),
    ] {
        println!("{name}");
        refused(&archive, expected, words, Untouched);
    }
}

#[test]
fn an_archive_has_as_many_entries_as_the_limit_says() {
    let good = good(&World::new(3000));
    let with = |count: usize| {
        let more = (good.len()..count).map(|n| plain(&format!("x{n}"), b""));
        tar(&good.iter().cloned().chain(more).collect::<Vec<_>>())
    };
    let device = with_staged();
    device.write("bundle.tar", &with(limits::BUNDLE_ENTRIES));
    from_bundle(&device, &["apply"]).code(0);
    refused(&with(limits::BUNDLE_ENTRIES + 1), (65, "limit-exceeded"), &["1024 entries"], Untouched);
}

#[test]
fn what_is_wrong_with_the_release_in_an_archive_is_refused() {
    let world = World::new(3000);
    let index = world.files["/v2/os/manifests/stable"].1.clone();
    let all = entries(&world);
    let replaced = |old: &[u8], new: &[u8]| {
        let mut files = good(&world);
        files.iter_mut().find(|file| file.0 == blob_name(old)).unwrap().2 = new.to_vec();
        tar(&files)
    };
    let without = |old: &[u8]| tar(&good(&world).into_iter().filter(|f| f.0 != blob_name(old)).collect::<Vec<_>>());
    let changed = |old: &[u8]| {
        let mut new = old.to_vec();
        new[0] ^= 1;
        replaced(old, &new)
    };
    // A second release, complete and signed, under a name or without.
    let second = World::new(4000);
    let second_index = second.files["/v2/os/manifests/stable"].1.clone();
    let both = |entries: &[Value]| {
        let mut files = files(&world, entries);
        let other = good(&second).into_iter().skip(2);
        let new: Vec<File> = other.filter(|file| files.iter().all(|known| known.0 != file.0)).collect();
        files.extend(new);
        tar(&files)
    };
    let same_name = [all[0].clone(), named(OCI_INDEX_TYPE, &second_index, "stable")];
    let other_names = [named(OCI_INDEX_TYPE, &index, "v1"), named(OCI_INDEX_TYPE, &second_index, "v2")];
    let no_names = [descriptor(OCI_INDEX_TYPE, &index), descriptor(OCI_INDEX_TYPE, &second_index)];
    let deep = format!(r#"{{"schemaVersion":2,"manifests":[],"x":{}1{}}}"#, "[".repeat(20), "]".repeat(20));
    let mut nested = good(&world);
    nested[1].2 = deep.into_bytes();
    let hidden = |count: usize| {
        let mut entries = all.clone();
        for n in 0..count {
            let mut other = descriptor(OCI_MANIFEST_TYPE, format!("{n}").as_bytes());
            other["artifactType"] = json!("application/spdx+json");
            entries.insert(1, other);
        }
        tar(&files(&world, &entries))
    };
    let mut of_another = all.clone();
    of_another[1] = referrers(&[&second.clone().signature(&second.manifest, 1)])["manifests"][0].clone();
    let strange = referrers(&[&world.clone().signature(&world.manifest, 2)])["manifests"][0].clone();
    let mut by_strange = files(&world, &[all[0].clone(), strange]);
    let mut strange_world = world.clone();
    let strange_manifest = strange_world.signature(&world.manifest, 2);
    by_strange.push(plain(&blob_name(&strange_manifest), &strange_manifest));
    by_strange.push(plain(
        &blob_name(&common::sign(&common::key(2), &world.manifest)),
        &common::sign(&common::key(2), &world.manifest),
    ));
    let shorter = world.initramfs[1..].to_vec();
    let mut of_another_size = all.clone();
    of_another_size[0]["size"] = json!(index.len() + 1);
    let large = vec![b' '; limits::MANIFEST_BYTES as usize + 1];
    let mut too_large = files(&world, &[named(OCI_INDEX_TYPE, &large, "stable")]);
    too_large.push(plain(&blob_name(&large), &large));
    let cosigned = |subject: &[u8]| {
        let payload = common::cosign_payload(subject);
        let manifest = bytes(&common::cosign_manifest(&[(&payload, &common::sign(&common::key(1), &payload))]));
        let tag = format!("sha256-{}.sig", Digest::of(subject).hex());
        let mut files = files(&world, &[all[0].clone(), named(OCI_MANIFEST_TYPE, &manifest, &tag)]);
        files.extend([plain(&blob_name(&payload), &payload), plain(&blob_name(&manifest), &manifest)]);
        tar(&files)
    };
    // As many good signatures as this, by themselves or under the name that copies of registries have for their list.
    let signed = |count: u8, in_a_list: bool| {
        let mut world = world.clone();
        let signatures: Vec<Vec<u8>> = (1..=count).map(|seed| world.signature(&world.manifest.clone(), seed)).collect();
        let list = referrers(&signatures.iter().map(Vec::as_slice).collect::<Vec<_>>());
        world.tag("list", &bytes(&list));
        let more = match in_a_list {
            true => vec![named(OCI_INDEX_TYPE, &bytes(&list), &world.fallback_tag())],
            false => list["manifests"].as_array().unwrap().clone(),
        };
        tar(&files(&world, &[&all[..1], &more].concat()))
    };
    let most = limits::SIGNATURES as u8;
    for (name, archive, expected, words, left) in [
        ("a changed kernel", changed(b"kernel"), (65, "digest-mismatch"), &["vmlinuz: the digest"][..], Untouched),
        (
            "a changed initramfs",
            changed(&world.initramfs),
            (65, "digest-mismatch"),
            &["kubesolo-os.gz: the digest"],
            Untouched,
        ),
        (
            "a shorter initramfs",
            replaced(&world.initramfs, &shorter),
            (65, "size-mismatch"),
            &["2999", "3000"],
            Untouched,
        ),
        ("no kernel", without(b"kernel"), (69, "not-found"), &["lacks image"], Untouched),
        ("a shorter kernel", replaced(b"kernel", b"kerne"), (65, "size-mismatch"), &["5 bytes", "6"], Untouched),
        ("a changed manifest", changed(&world.manifest), (65, "digest-mismatch"), &["manifest for amd64"], Untouched),
        ("a changed index", changed(&index), (65, "digest-mismatch"), &["bundle.tar"], Untouched),
        ("no manifest", without(&world.manifest), (69, "not-found"), &["lacks manifest"], Untouched),
        ("two releases of one name", both(&same_name), (65, "malformed-bundle"), &["two releases"], Untouched),
        ("two names, none wanted", both(&other_names), (69, "tag-not-found"), &["v1, v2"], Untouched),
        ("two without a name", both(&no_names), (69, "tag-not-found"), &["no release"], Untouched),
        ("nested json", tar(&nested), (65, "malformed-json"), &["nested"], Untouched),
        ("no signature", tar(&files(&world, &all[..1])), (77, "signature-missing"), &["not signed"], Untouched),
        ("of another release", both(&of_another), (77, "signature-missing"), &["not signed"], Untouched),
        ("by another key", tar(&by_strange), (77, "signature-unknown-key"), &["no known key"], Untouched),
        ("another size", tar(&files(&world, &of_another_size)), (65, "size-mismatch"), &["bytes, not"], Untouched),
        ("a huge index", tar(&too_large), (65, "limit-exceeded"), &["262144 bytes"], Untouched),
        ("the index cosigned", cosigned(&index), (77, "signature-of-index"), &["the index"], Untouched),
        ("hidden among many", hidden(limits::REFERRERS - 1), (65, "limit-exceeded"), &["256 entries"], Untouched),
    ] {
        println!("{name}");
        refused(&archive, expected, words, left);
    }
    // The trick was refused above, not the release; and as many others as the limit allows hide nothing.
    // Beside a signature of which the file is missing, and of one that is none.
    let mut in_the_way = all.clone();
    in_the_way.splice(1..1, referrers(&[b"not there", &index])["manifests"].as_array().unwrap().clone());
    for archive in [
        tar(&good(&world)),
        hidden(limits::REFERRERS - 2),
        both(&[all.clone(), vec![other_names[1].clone()]].concat()),
        cosigned(&world.manifest),
        signed(most, false),
        signed(most + 1, false),
        signed(most + 1, true),
        tar(&files(&world, &in_the_way)),
    ] {
        let device = with_staged();
        device.write("bundle.tar", &archive);
        from_bundle(&device, &["apply"]).code(0).says(&["written into slot B"]);
    }
    let device = with_staged();
    device.write("bundle.tar", &both(&[&other_names[..], &all[1..]].concat()));
    from_bundle(&device, &["apply", "--tag", "v1"]).code(0);
    from_bundle(&device, &["apply", "--tag", "v2", "--json"]).refused(77, "signature-missing");
}

#[test]
fn the_release_is_found_by_its_name_or_as_the_only_one() {
    let (world, second) = (World::new(3000), World::new(4000));
    let index = world.files["/v2/os/manifests/stable"].1.clone();
    let other = second.files["/v2/os/manifests/stable"].1.clone();
    let signature = entries(&world).pop().unwrap();
    let unnamed = |content: &[u8]| descriptor(OCI_INDEX_TYPE, content);
    let release = |name: &str| named(OCI_INDEX_TYPE, &index, name);
    let strange = named("application/vnd.example.chart.v1", &other, "stable");
    let attached =
        [named(OCI_INDEX_TYPE, &other, "sha256-00"), named(OCI_MANIFEST_TYPE, &other, &format!("v7{TAG_SUFFIX}"))];
    let device = with_staged();
    for (entries, tag, found) in [
        (vec![unnamed(&index)], None, true),
        (vec![release("v7")], None, true),
        (vec![release("v7")], Some("v7"), true),
        (vec![release("registry.example:5000/os:v7")], Some("v7"), true),
        (vec![release("v7"), unnamed(&other)], None, true),
        ([&attached[..], &[release("v7")]].concat(), None, true),
        (vec![release("stable"), strange], None, true),
        (vec![release("v7")], Some("v8"), false),
        (vec![unnamed(&index)], Some("v7"), false),
    ] {
        device.write("bundle.tar", &tar(&files(&world, &[&entries[..], std::slice::from_ref(&signature)].concat())));
        let check = [&["check", "--json"][..], &tag.map_or(vec![], |tag| vec!["--tag", tag])].concat();
        match found {
            true => {
                assert_eq!(from_bundle(&device, &check).code(0).json()["offered"]["version"], "1.0.0", "{entries:?}");
            }
            false => drop(from_bundle(&device, &check).refused(69, "tag-not-found")),
        }
    }
}

#[test]
fn what_is_no_file_does_not_hold_the_agent_up() {
    let device = with_staged();
    fs::remove_file(device.path("bundle.tar")).unwrap();
    let refused = |words: &[&str]| {
        let before = Before::of(&device);
        let ran = from_bundle(&device, &["apply", "--json"]);
        before.holds(&device, ran, (69, "bundle-unreadable"), words, Untouched);
    };
    refused(&["bundle.tar", "No such file"]);
    fs::create_dir(device.path("bundle.tar")).unwrap();
    refused(&["bundle.tar", "not a regular file"]);
    fs::remove_dir(device.path("bundle.tar")).unwrap();
    assert!(Command::new("mkfifo").arg(device.path("bundle.tar")).status().unwrap().success());
    refused(&["bundle.tar", "not a regular file"]);
    from_bundle(&device, &["apply", "--json", "--registry", "a.example/os"]).code(64);
}

/// A signed release for both architectures at `os:stable`.
fn released(registry: &Registry, keys: &[publisher::key::PrivateKey]) -> (String, Access) {
    let folder = TempDir::new().unwrap();
    let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
    let images =
        [images::files(folder.path(), Architecture::Amd64, 1), images::files(folder.path(), Architecture::Arm64, 2)];
    let options = Options { access: access.clone(), ..Options::default() };
    let place = format!("{}/os:stable", registry.address);
    publisher::release(&place, &Metadata::new("1.2.0".parse().unwrap(), "stable"), &images, keys, &options).unwrap();
    (place, access)
}

fn tool(name: &str, folder: &Path, arguments: &[&str]) {
    let program = find(name).unwrap_or_else(|| panic!("{name} is needed: build/scripts/setup.sh test"));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("HOME", folder).env("COSIGN_PASSWORD", "");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_device_is_updated_from_our_bundle_without_a_network() {
    let registry = Registry::start();
    let (place, access) = released(&registry, &[cli_support::key(1)]);
    let (both, one) = (Device::new(), Device::new());
    let all = bundle(&place, &both.path("bundle.tar"), None, &access).unwrap();
    assert_eq!(all.len(), 2);
    bundle(&place, &one.path("bundle.tar"), Some(Architecture::current()), &access).unwrap();
    bundle(&place, &one.path("again.tar"), Some(Architecture::current()), &access).unwrap();
    let whole = fs::read(one.path("bundle.tar")).unwrap();
    assert_eq!(whole, fs::read(one.path("again.tar")).unwrap(), "the same release is the same file");
    assert!(whole.len() < fs::read(both.path("bundle.tar")).unwrap().len());
    drop(registry);
    for device in [&both, &one] {
        from_bundle(device, &["check"]).code(0).says(&["offered:      1.2.0 from bundle bundle.tar"]);
        let arguments = device.local(&["apply", "--activate", "--bundle", "bundle.tar", "--pubkey", "K"]);
        let traced = Command::new("strace")
            .args(["-f", "-e", "trace=%network", "-o", "trace", env!("CARGO_BIN_EXE_kubesolo-update")])
            .args(arguments)
            .current_dir(device.dir.path())
            .output()
            .unwrap();
        assert!(traced.status.success(), "{traced:?}");
        let calls = fs::read_to_string(device.path("trace")).unwrap();
        assert!(calls.contains("exited with 0") && !calls.contains("socket"), "{calls}");
        device.power_on();
        device.here(&["healthcheck"]).code(0).says(&["committed"]);
        device.here(&["verify"]).says(&["slot B holds: 1.2.0, signed by"]);
        from_bundle(device, &["check"]).code(0).says(&["up to date: 1.2.0"]);
    }
}

#[test]
fn bundles_by_oras_and_skopeo_are_taken_and_ours_by_oras() {
    let registry = Registry::start();
    let (place, access) = released(&registry, &[cli_support::key(1)]);
    let device = Device::new();
    let dir = device.dir.path();
    // Without -r first: 1.2 with -r alone forgets the index.
    let copy = ["cp", "--from-plain-http", "--to-oci-layout", &place, "layout:stable"];
    tool("oras", dir, &copy);
    tool("tar", dir, &["-C", "layout", "-cf", "bundle.tar", "."]);
    from_bundle(&device, &["apply", "--json"]).refused(77, "signature-missing");
    tool("oras", dir, &[&copy[..], &["-r"]].concat());
    for format in ["gnu", "pax", "ustar"] {
        tool("tar", dir, &["-C", "layout", "--format", format, "-cf", "bundle.tar", "."]);
        from_bundle(&device, &["check"])
            .code(0)
            .says(&["offered:      1.2.0", &format!("signed:       {}", cli_support::key(1).id())]);
    }
    from_bundle(&device, &["apply"]).code(0);

    let fixed = ["copy", "--insecure-policy", "--src-tls-verify=false", "--all"];
    let (from, to) = (format!("docker://{place}"), "oci-archive:bundle.tar:stable");
    tool("skopeo", dir, &[&fixed[..], &[&from, to]].concat());
    let unsigned = Device::new();
    fs::copy(device.path("bundle.tar"), unsigned.path("bundle.tar")).unwrap();
    from_bundle(&unsigned, &["apply", "--json"]).refused(77, "signature-missing");

    bundle(&place, &device.path("bundle.tar"), None, &access).unwrap();
    let target = format!("{}/again:stable", registry.address);
    let copy = ["cp", "--from-oci-layout", "--to-plain-http", "bundle.tar:stable", &target];
    tool("oras", dir, &copy);
    tool("oras", dir, &[&copy[..], &["-r"]].concat());
    let again = publisher::inspect::inspect(&target, None, &access).unwrap();
    assert!(again.manifests.iter().all(|m| m.signatures.len() == 1), "{again}");
}

#[test]
fn signatures_by_cosign_are_in_our_bundle() {
    let registry = Registry::start();
    let (place, access) = released(&registry, &[]);
    let device = Device::new();
    let dir = device.dir.path();
    tool("openssl", dir, &["genpkey", "-algorithm", "ed25519", "-out", "key"]);
    tool("openssl", dir, &["pkey", "-in", "key", "-pubout", "-out", "K"]);
    tool("cosign", dir, &["import-key-pair", "--key", "key", "--output-key-prefix", "cosign"]);
    let sign = ["sign", "--key", "cosign.key", "--tlog-upload=false", "--allow-http-registry", "--yes", "--recursive"];
    tool("cosign", dir, &[&sign[..], &[&place]].concat());
    bundle(&place, &device.path("bundle.tar"), None, &access).unwrap();
    from_bundle(&device, &["apply"]).code(0);
    let entries = fs::read(device.path("bundle.tar")).unwrap();
    assert!(!entries.windows(SIGNATURE_TYPE.len()).any(|w| w == SIGNATURE_TYPE.as_bytes()), "no raw signature helped");
}
