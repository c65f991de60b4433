//! Every way in which an update is refused or fails: its exit code, its reason, its words, and what stays untouched.

use crate::{cli_support, common};

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use cli_support::before::{Before, Left::Untouched, Left::Void, refused, with_staged};
use cli_support::{Device, on_tiny_slot, publish};
use common::fault::{self, Fault, Request, World};
use common::registry::Registry;
use common::{bytes, descriptor, index, manifest, referrers, sign, signature_manifest};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::{Architecture, INITRAMFS_TYPE, KERNEL_TYPE, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE};
use kubesolo_update::state::store::Store;
use serde_json::{Value, json};

#[test]
fn wrong_bytes_of_an_image_are_refused() {
    let registry = Registry::start();
    let world = World::new(300_000);
    type Answer = fn(&World, &[u8], &mut TcpStream);
    let changed: Answer = |_, blob, out| {
        let mut other = blob.to_vec();
        other[0] ^= 1;
        fault::reply(out, 200, "", &other);
    };
    let short: Answer = |_, blob, out| fault::reply(out, 200, "", &blob[1..]);
    let short_late: Answer = |_, blob, out| {
        fault::head(out, 200, "Transfer-Encoding: chunked\r\n");
        fault::chunk(out, &blob[1..]);
        fault::chunk(out, b"");
    };
    let endless: Answer = |_, blob, out| {
        fault::head(out, 200, "Transfer-Encoding: chunked\r\n");
        fault::chunk(out, blob);
        while fault::chunk(out, &[b'x'; 65536]) {}
    };
    let absent: Answer = |_, _, out| fault::reply(out, 404, "", b"");
    let (kernel, initramfs) = (&b"kernel"[..], &world.initramfs[..]);
    for (name, blob, answer, expected, words, left) in [
        ("changed kernel", kernel, changed, (65, "digest-mismatch"), &["slot B, vmlinuz"][..], Void),
        ("changed initramfs", initramfs, changed, (65, "digest-mismatch"), &["slot B, kubesolo-os.gz"], Void),
        // Nothing is erased for an image that is announced with another size, or is not there.
        ("short kernel", kernel, short, (65, "size-mismatch"), &["5 bytes", "6"], Untouched),
        ("absent kernel", kernel, absent, (69, "not-found"), &["answers 404"], Untouched),
        ("short initramfs", initramfs, short, (65, "size-mismatch"), &["299999 bytes", "300000"], Void),
        ("initramfs that ends early", initramfs, short_late, (65, "size-mismatch"), &["299999", "300000"], Void),
        ("absent initramfs", initramfs, absent, (69, "not-found"), &["answers 404"], Void),
        ("endless kernel", kernel, endless, (65, "size-mismatch"), &["more than the announced 6 bytes"], Void),
        (
            "endless initramfs",
            initramfs,
            endless,
            (65, "size-mismatch"),
            &["more than the announced 300000 bytes"],
            Void,
        ),
    ] {
        println!("{name}");
        let (served, path, blob) = (world.clone(), World::path(blob), blob.to_vec());
        let server = Fault::start(move |request: &Request, out| match request.path == path {
            true => answer(&served, &blob, out),
            false => served.answer(request, out),
        });
        let device = with_staged(&registry);
        refused(&device, &server, expected, words, left);
    }
}

#[test]
fn releases_that_are_malformed_or_not_for_this_device_are_refused() {
    let registry = Registry::start();
    let here = Architecture::current();
    let (other, other_name) = match here {
        Architecture::Amd64 => (Architecture::Arm64, "arm64"),
        Architecture::Arm64 => (Architecture::Amd64, "amd64"),
    };
    let put = |manifest: &Value| registry.artifact("os", manifest, &[b"kernel", b"initramfs"]);
    let good = manifest("1.0.0", here, b"kernel", b"initramfs");
    let layers = |types: &[&str]| {
        let mut changed = good.clone();
        changed["layers"] = types.iter().map(|media_type| descriptor(media_type, b"kernel")).collect();
        (OCI_MANIFEST_TYPE, put(&changed))
    };
    let arguments = |line: &str| {
        let mut changed = good.clone();
        changed["annotations"]["io.kubesolo.os.kernel_args"] = line.into();
        (OCI_MANIFEST_TYPE, put(&changed))
    };
    let long = "a".repeat(2048);
    let foreign = put(&manifest("1.0.0", other, b"kernel", b"initramfs"));
    for (name, (media_type, offered), expected, words) in [
        ("no initramfs", layers(&[KERNEL_TYPE]), (65, "malformed-manifest"), &["no initramfs", INITRAMFS_TYPE][..]),
        ("no kernel", layers(&[INITRAMFS_TYPE]), (65, "malformed-manifest"), &["no kernel"]),
        (
            "two kernels",
            layers(&[KERNEL_TYPE, INITRAMFS_TYPE, KERNEL_TYPE]),
            (65, "malformed-manifest"),
            &["more than one kernel"],
        ),
        (
            "two initramfs",
            layers(&[KERNEL_TYPE, INITRAMFS_TYPE, INITRAMFS_TYPE]),
            (65, "malformed-manifest"),
            &["more than one initramfs"],
        ),
        ("an argument with quotes", arguments("a=\"b\""), (65, "malformed-kernel-args"), &["character"]),
        ("an argument in a new line", arguments("a\nb"), (65, "malformed-kernel-args"), &["character"]),
        ("an argument of the loader", arguments("quiet ks.trial=1"), (65, "malformed-kernel-args"), &["ks.trial=1"]),
        ("arguments of 2 KiB", arguments(&long), (65, "malformed-kernel-args"), &["2048 bytes", "960"]),
        (
            "manifest of the other architecture",
            (OCI_MANIFEST_TYPE, foreign.clone()),
            (77, "wrong-architecture"),
            &[other_name],
        ),
        (
            "index without this architecture",
            (OCI_INDEX_TYPE, bytes(&index(&[(other_name, &foreign)]))),
            (77, "no-such-architecture"),
            &["nothing for", other_name],
        ),
        (
            "index that calls the other architecture ours",
            (OCI_INDEX_TYPE, bytes(&index(&[(&here.to_string(), &foreign)]))),
            (77, "wrong-architecture"),
            &[other_name],
        ),
    ] {
        println!("{name}");
        let device = with_staged(&registry);
        registry.manifest("os", "stable", media_type, &offered);
        refused(&device, &registry, expected, words, Untouched);
    }
}

#[test]
fn what_is_not_signed_by_a_known_key_is_refused() {
    let registry = Registry::start();
    let offer = manifest("1.0.0", Architecture::current(), b"kernel", b"initramfs");
    let another = bytes(&manifest("1.0.1", Architecture::current(), b"kernel", b"initramfs"));
    let raw = registry.artifact("os", &offer, &[b"kernel", b"initramfs"]);
    let (ours, strange) = (common::key(1), common::key(2));
    let id = common::key_id;
    let attach = |signatures: &[(Vec<u8>, String, &[u8])]| {
        let attached: Vec<Vec<u8>> = signatures
            .iter()
            .map(|(bytes, key_id, subject)| {
                registry.artifact("os", &signature_manifest(subject, bytes, key_id), &[bytes.as_slice()])
            })
            .collect();
        let list = bytes(&referrers(&attached.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        registry.manifest("os", &format!("sha256-{}", Digest::of(&raw).hex()), OCI_INDEX_TYPE, &list);
    };
    registry.artifact("os", &manifest("1.0.1", Architecture::current(), b"kernel", b"initramfs"), &[]);
    let (of_this, of_another, by_stranger) = (sign(&ours, &raw), sign(&ours, &another), sign(&strange, &raw));
    for (name, signatures, reason, words) in [
        ("none", vec![], "signature-missing", &["not signed"][..]),
        // As one that is moved to a release it was not made for.
        ("another manifest", vec![(of_another.clone(), id(&ours), &raw[..])], "signature-invalid", &[&id(&ours)]),
        ("attached to another manifest", vec![(of_another, id(&ours), &another)], "signature-missing", &["not signed"]),
        (
            "by another key",
            vec![(by_stranger.clone(), id(&strange), &raw)],
            "signature-unknown-key",
            &[&id(&strange), "K"],
        ),
        ("by another key in our name", vec![(by_stranger, id(&ours), &raw)], "signature-invalid", &[&id(&ours)]),
    ] {
        println!("{name}");
        let device = with_staged(&registry);
        registry.manifest("os", "stable", OCI_MANIFEST_TYPE, &raw);
        attach(&signatures);
        refused(&device, &registry, (77, reason), words, Untouched);
        // A check says the same, and leaves no trace.
        let before = device.tree("");
        device.from(&registry, &["check", "--json"]).refused(77, reason);
        assert_eq!(device.tree(""), before);
    }
    // The same release with the right signature is fine: it is the signature that was refused above.
    attach(&[(of_this, id(&ours), &raw)]);
    Device::new().from(&registry, &["apply"]).code(0);
}

#[test]
fn a_source_that_is_not_there_is_told_apart_from_one_without_the_tag() {
    let registry = Registry::start();
    let device = with_staged(&registry);
    let before = Before::of(&device);
    let ran = device.from(&registry, &["apply", "--json", "--channel", "stable", "--plain-http", "other.example"]);
    drop(ran.code(0));
    let elsewhere = format!("{}/nothing:stable", registry.address);
    let all = ["apply", "--json", "--registry", &elsewhere, "--plain-http", &registry.address, "--pubkey", "K"];
    before.holds(&device, device.run(&device.local(&all)), (69, "tag-not-found"), &[&elsewhere, "tag"], Untouched);

    let address = registry.address.clone();
    drop(registry);
    refused(&device, &address, (69, "unreachable"), &[&address], Untouched);
    let before = device.tree("");
    let check = device.from(&address, &["check", "--json"]);
    assert_eq!((&check.json()["verdict"], &check.json()["reason"]), (&json!("unknown"), &json!("unreachable")));
    check.refused(69, "unreachable");
    assert_eq!(device.tree(""), before);
}

#[test]
fn keys_that_prove_nothing_are_refused() {
    let registry = Registry::start();
    let device = with_staged(&registry);
    publish(&registry, "1.0.0", 1);
    device.write("weak", format!("01{}", "00".repeat(31)).as_bytes());
    device.write("malformed", "ab".repeat(31).as_bytes());
    device.write("binary", &[0xff; 32]);
    device.write("private", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    fs::create_dir(device.path("empty")).unwrap();
    fs::create_dir(device.path("mixed")).unwrap();
    fs::copy(device.path("K"), device.path("mixed/a")).unwrap();
    fs::copy(device.path("malformed"), device.path("mixed/b")).unwrap();
    for (place, word) in [
        ("weak", "weak key"),
        ("malformed", "64 hex digits"),
        ("binary", "not text"),
        ("private", "private key"),
        ("empty", "empty"),
        // One good key does not make up for a bad one.
        ("mixed", "mixed/b"),
        ("missing", "missing"),
    ] {
        println!("{place}");
        for command in ["apply", "check"] {
            let before = Before::of(&device);
            let all = [&device.asking(&registry, &[command, "--json"])[..], &["--pubkey", place]].concat();
            let ran = device.run(&all);
            match command {
                "apply" => before.holds(&device, ran, (78, "bad-key"), &[place, word], Untouched),
                _ => drop(ran.refused(78, "bad-key")),
            }
        }
    }
}

#[test]
fn without_any_key_a_check_works_and_nothing_is_installed() {
    let image_keys = Path::new("/usr/share/kubesolo/keys");
    if image_keys.exists() {
        println!("skipped: this machine has {}", image_keys.display());
        return;
    }
    let registry = Registry::start();
    let device = with_staged(&registry);
    publish(&registry, "1.0.0", 1);
    device.run(&device.asking(&registry, &["check"])).code(0).says(&["offered:      1.0.0", "not checked: no key"]);
    let before = Before::of(&device);
    let ran = device.run(&device.asking(&registry, &["apply", "--json"]));
    before.holds(&device, ran, (77, "no-key"), &["no public key"], Untouched);
    device.write("conf", b"allow_unsigned=yes\n");
    let mut allowed = device.asking(&registry, &["apply"]);
    allowed[1] = "conf";
    let ran = device.run(&allowed).code(0);
    assert!(ran.stderr.contains("allow_unsigned"), "a choice this dangerous is logged: {ran:?}");
    // It counts only when there is no key at all.
    fs::create_dir(device.path("empty")).unwrap();
    device.run(&[&allowed[..], &["--json", "--pubkey", "empty"]].concat()).refused(78, "bad-key");
}

#[test]
fn slots_that_cannot_take_the_release_are_refused_before_anything_is_erased() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);

    let device = Device::of_ordinary_user();
    fs::set_permissions(device.path("B"), fs::Permissions::from_mode(0o555)).unwrap();
    refused(&device, &registry, (73, "not-permitted"), &["slot B", "write in B"], Untouched);

    let device = Device::new();
    fs::remove_dir(device.path("B")).unwrap();
    refused(&device, &registry, (78, "slot-unusable"), &["slot B", "\"B\"", "No such file"], Untouched);
    device.write("B", b"a file");
    let before = device.env_bytes();
    device.from(&registry, &["apply", "--json"]).refused(78, "slot-unusable");
    fs::remove_file(device.path("B")).unwrap();
    std::os::unix::fs::symlink("A", device.path("B")).unwrap();
    device.from(&registry, &["apply", "--json"]).refused(78, "slot-unusable");
    let twice = device.asking(&registry, &["apply", "--json"]).into_iter().map(|a| if a == "B" { "A" } else { a });
    device.run(&twice.collect::<Vec<_>>()).refused(78, "slot-unusable");
    assert_eq!(device.env_bytes(), before);
}

#[test]
fn a_full_slot_and_a_read_only_one_are_refused_before_anything_is_fetched() {
    let world = World::new(1_500_000);
    let (device, served) = (Device::new(), world.clone());
    let server = Fault::start(move |request, out| served.answer(request, out));
    let all = [&device.asking(&server, &["apply", "--json"])[..], &["--pubkey", "K"]].concat();
    let before = Before::of(&device);
    let Some(ran) = on_tiny_slot(&device, "size=1M", &all, "echo kept >B/vmlinuz") else { return };
    before.holds(&device, ran, (73, "no-space"), &["slot B is too small", "B needs 2.4 MiB", "1.0 MiB"], Untouched);
    assert_eq!(fs::read_to_string(device.path("listing")).unwrap(), "vmlinuz\n");
    assert_eq!(server.count(&World::path(b"kernel")), 0, "nothing is fetched in vain");

    let before = Before::of(&device);
    let Some(ran) = on_tiny_slot(&device, "ro", &all, "") else { return };
    before.holds(&device, ran, (73, "read-only"), &["slot B", "Read-only file system"], Untouched);
}

#[test]
fn a_slot_that_fills_up_while_it_is_written_is_void() {
    let world = World::new(1_500_000);
    let (device, served) = (Device::new(), world.clone());
    let path = World::path(&world.initramfs);
    let full = device.path("full");
    // The second half comes when somebody else took what was free.
    let server = Fault::start(move |request, out| {
        if request.path != path {
            return served.answer(request, out);
        }
        fault::head(out, 200, &format!("Content-Length: {}\r\n", served.initramfs.len()));
        let (first, second) = served.initramfs.split_at(served.initramfs.len() / 2);
        fault::send(out, first);
        while !full.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        fault::send(out, second);
    });
    let all = [&device.asking(&server, &["apply", "--json"])[..], &["--pubkey", "K"]].concat();
    let fill = "(while ! [ -s B/kubesolo-os.gz.part ]; do sleep 0.02; done; head -c 9M /dev/zero >B/other 2>/dev/null; >full) &";
    let before = Before::of(&device);
    let Some(ran) = on_tiny_slot(&device, "size=3M", &all, fill) else { return };
    before.holds(&device, ran, (73, "no-space"), &["slot B, kubesolo-os.gz"], Void);
    assert_eq!(fs::read_to_string(device.path("listing")).unwrap(), "other\nvmlinuz\n");
}

#[test]
fn an_environment_that_is_no_valid_block_is_refused_and_left_as_it_is() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let device = Device::of_ordinary_user();
    let good = device.env_bytes();
    let lines = |lines: &str| {
        device.set_env(lines);
        device.env_bytes()
    };
    let basic = "active_slot=A\nboot_success=1\nboot_counter=3\n";
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    for (name, bytes, words) in [
        ("bad header", with(|b| b[2] = b'g'), &["# GRUB Environment Block"][..]),
        ("empty", vec![], &["0 bytes instead of 26 to 65536"]),
        ("no more than the first line", with(|b| b.truncate(25)), &["25 bytes"]),
        ("too long", with(|b| b.resize(65537, b'#')), &["65537 bytes"]),
        ("line without = that takes a name along", lines(&format!("nonsense\n{basic}")), &["active_slot"]),
        ("no active slot", lines("boot_success=1\nboot_counter=3\n"), &["active_slot"]),
        ("slot C", lines("active_slot=C\nboot_success=1\nboot_counter=3\n"), &["active_slot"]),
        ("torn", lines(&format!("ks_v=1\n{basic}")), &["alphabet"]),
    ] {
        println!("{name}");
        device.write("grubenv", &bytes);
        refused(&device, &registry, (78, "env-invalid"), &[&["grubenv"], words].concat(), Untouched);
        device.here(&["activate", "--json"]).refused(78, "env-invalid");
        device.here(&["rollback", "--json"]).refused(78, "env-invalid");
        assert_eq!(device.env_bytes(), bytes, "{name}");
        assert!(!device.path("ksenv2").exists());
    }

    fs::remove_file(device.path("grubenv")).unwrap();
    refused(&device, &registry, (78, "env-unreadable"), &["grubenv", "No such file"], Untouched);
    std::os::unix::fs::symlink("other", device.path("grubenv")).unwrap();
    device.write("other", &good);
    refused(&device, &registry, (78, "env-unreadable"), &["grubenv"], Untouched);
    fs::remove_file(device.path("grubenv")).unwrap();

    // A file that GRUB does not read is never written, not even to repair it.
    device.set_env(&format!("{basic}env_block=512+1\n"));
    let elsewhere = device.env_bytes();
    refused(&device, &registry, (78, "env-elsewhere"), &["grubenv", "env_block"], Untouched);
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1");
    device.here(&["healthcheck", "--json"]).refused(78, "env-elsewhere");
    assert_eq!(device.env_bytes(), elsewhere);
    fs::remove_file(device.path("cmdline")).unwrap();

    // Valid, and not writable: known before a byte of the slot changes.
    device.write("grubenv", &good);
    fs::set_permissions(device.path("grubenv"), fs::Permissions::from_mode(0o444)).unwrap();
    refused(&device, &registry, (73, "env-write"), &["grubenv", "Permission denied"], Untouched);
}

#[test]
fn while_no_slot_is_free_an_update_waits() {
    let registry = Registry::start();
    let device = with_staged(&registry);
    device.here(&["activate"]).code(0);
    device.power_on();
    publish(&registry, "1.0.0", 1);
    refused(&device, &registry, (75, "no-free-slot"), &["slot B is booted", "slot A is the last good one"], Untouched);
    device.from(&registry, &["check"]).code(0).says(&["closed trial", "held: ", "Slot B is on trial"]);

    // A trial that another program began is not ours to judge.
    let device = Device::new();
    device.set_env("active_slot=B\nboot_success=0\nboot_counter=2\n");
    refused(&device, &registry, (75, "foreign-environment"), &["another program"], Untouched);
}

#[test]
fn a_second_agent_is_sent_away() {
    let registry = Registry::start();
    let device = with_staged(&registry);
    publish(&registry, "1.0.0", 1);
    let lock = Store::new(&device.path("S/state.json")).lock().unwrap();
    let before = device.tree("");
    for arguments in [&["apply", "--json"][..], &["apply", "--json", "--force", "--activate"]] {
        let error = device.from(&registry, arguments).refused(75, "locked");
        assert!(error["message"].as_str().unwrap().contains(&format!("pid {}", std::process::id())), "{error}");
    }
    for command in ["activate", "rollback", "healthcheck"] {
        let error = device.here(&[command, "--json"]).refused(75, "locked");
        assert!(error["remedy"].as_str().unwrap().ends_with("No slot was changed."), "{error}");
    }
    assert_eq!(device.tree(""), before, "not even the state: it is the other one's");
    // A look is free.
    device.from(&registry, &["check"]).code(0);
    device.from(&registry, &["apply", "--dry-run"]).code(0);
    device.here(&["status"]).code(0);
    drop(lock);
    device.wait_for_lock();
    device.from(&registry, &["apply"]).code(0);
}

#[test]
fn state_that_cannot_be_kept_is_refused_before_anything_is_changed() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let device = Device::of_ordinary_user();
    let newer = json!({"schema": 99, "phase": "idle"}).to_string();
    device.write("S/state.json", newer.as_bytes());
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    device.from(&registry, &["apply", "--json"]).refused(78, "newer-schema");
    assert_eq!(fs::read_to_string(device.path("S/state.json")).unwrap(), newer);
    fs::remove_file(device.path("S/state.json")).unwrap();
    fs::set_permissions(device.path("S"), fs::Permissions::from_mode(0o555)).unwrap();
    device.from(&registry, &["apply", "--json"]).refused(73, "state-not-permitted");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
}

/// A bootloader without `hashsum` finds no slot complete, and starts the active one as if it were the last resort.
#[test]
fn a_bootloader_that_cannot_hash_gets_no_trial_and_a_damaged_slot_does_not_accuse_it() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    let environment = device.env_bytes();
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.fallback=load ks.proto=1\n");
    let error = device.here(&["activate", "--json"]).refused(78, "loader-cannot-hash");
    assert!(error["message"].as_str().unwrap().contains("lacks hashsum (modules hashsum and gcry_sha256)"), "{error}");
    assert_eq!(device.env_bytes(), environment, "nothing was stored");
    device
        .here(&["doctor"])
        .code(78)
        .says(&["FAIL  boot          the bootloader found slot A incomplete", "lacks hashsum"]);
    // The bootloader was right.
    device.write("A/vmlinuz", b"rotten");
    device.here(&["doctor"]).says(&["warn  boot          the bootloader fell back to slot A (ks.fallback=load)"]);
    device.here(&["activate"]).code(0);
}
