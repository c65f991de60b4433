//! `kubesolo-release factory`: the start of a device, read by the device's agent and by the tools of each bootloader. The
//! stories on virtual devices boot its disks.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::tools::tool;

/// A published release for both architectures, and its key, below `folder`.
fn released(folder: &TempDir) -> Registry {
    let registry = Registry::start();
    let (key, _) = key(folder, "key");
    publish(&registry, "1.0.0", &both(folder), &[key]).unwrap();
    registry
}

fn make(folder: &TempDir, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    let ran = command.arg("factory").args(arguments).current_dir(folder.path()).env("DOCKER_CONFIG", "/nonexistent");
    let ran = ran.output().unwrap();
    (ran.status.code().unwrap(), text(&ran.stdout) + &text(&ran.stderr))
}

/// With small partitions: 34 MiB for the boot partition is the least that FAT32 takes.
const SMALL: [&str; 6] = ["--efi-mib", "34", "--slot-mib", "8", "--data-mib", "8"];

fn factory(folder: &TempDir, source: &[&str], architecture: &str, boot: &str) -> (i32, String) {
    let rest = ["--architecture", architecture, "--boot", boot, "--kernel-args", "console=ttyS0 quiet"];
    make(folder, &[&["device"], source, &rest, &SMALL].concat())
}

fn script(folder: &TempDir, script: &str) -> String {
    text(&tool("sh", folder.path(), &["-euc", &format!("PATH=$PATH:/usr/sbin:/sbin; {script}")]).unwrap())
}

/// The device's own agent proves slot A with the key, and finds the release in it.
fn proven(folder: &TempDir, bootenv: &str) {
    fs::create_dir_all(folder.path().join("empty")).unwrap();
    let agent = Path::new(env!("CARGO_BIN_EXE_kubesolo-release")).with_file_name("kubesolo-update");
    let arguments = format!(
        "--conf /dev/null --slot-a device/slot-a --slot-b empty --booted A --bootenv {bootenv} --pubkey key.pub --json verify"
    );
    let ran = Command::new(agent).args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let slot = &found["slots"][0];
    let said = slot["message"].as_str().unwrap();
    assert!(slot["holds"] == true && said.starts_with("1.0.0, signed by "), "{found:#}");
}

#[test]
fn a_device_with_grub_starts_with_a_published_release() {
    let folder = TempDir::new().unwrap();
    let registry = released(&folder);
    let reference = format!("{}/os:stable", registry.address);
    let source = [&reference, "--pubkey", "key.pub", "--plain-http", &registry.address];
    let (code, said) = factory(&folder, &source, "amd64", "grub");
    assert!(code == 0 && said.contains("slot A     1.0.0 sha256:"), "{said}");
    proven(&folder, "grub:device/boot/grub/grubenv");
    let list = |file: &str| script(&folder, &format!("grub-editenv device/boot/grub/{file} list"));
    assert_eq!(
        list("grubenv").lines().collect::<Vec<_>>().join(" "),
        "ks_v=1 active_slot=A boot_success=1 boot_counter=3 ks_good=A ks_a=good ks_b=void ks_trial=00000000 ks_seal=A1 ks_end=1"
    );
    assert_eq!(list("ksenv2").lines().collect::<Vec<_>>().join(" "), "ks_v=1 ks_good=A ks_a=good ks_b=void ks_end=1");
    script(
        &folder,
        "cd device/boot/grub; for file in *.cfg; do grub-script-check $file; done; sha256sum -c ksl1.sum ksl2.sum",
    );
    assert_eq!(list("ksstage").lines().collect::<Vec<_>>().join(" "), "g=1 t=0");

    // Another slot size, as an image builder would choose it.
    script(
        &folder,
        "sed -i 's/size=16384, type=linux, name=KSOLODATA/size=32768, type=linux, name=KSOLODATA/' device/disk.sfdisk",
    );
    let said = script(&folder, "device/make-disk.sh disk.img");
    assert!(said.contains("boots slot A through BIOS and UEFI"), "{said}");
    let table: serde_json::Value = serde_json::from_str(&script(&folder, "sfdisk --json disk.img")).unwrap();
    let parts: Vec<_> = table["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["name"].as_str().unwrap(), part["size"].as_u64().unwrap() / 2048))
        .collect();
    assert_eq!(parts, [("KSOLOEFI", 34), ("KSOLOA", 8), ("KSOLOB", 8), ("KSOLODATA", 16), ("BIOSBOOT", 0)]);
    for (part, path) in [("gpt1", "/grub/kernel-args.cfg"), ("gpt2", "/vmlinuz.sha256")] {
        let source = if part == "gpt1" { "device/boot/grub/kernel-args.cfg" } else { "device/slot-a/vmlinuz.sha256" };
        script(&folder, &format!("grub-fstest disk.img cmp '(loop0,{part}){path}' {source}"));
    }
}

#[test]
fn a_device_with_u_boot_starts_from_a_bundle_and_its_tools_read_the_environment() {
    let folder = TempDir::new().unwrap();
    let registry = released(&folder);
    let reference = format!("{}/os:stable", registry.address);
    let bundled =
        run(&["bundle", &reference, path(&folder.path().join("b.tar")), "--plain-http", &registry.address], &[]);
    assert!(bundled.status.success(), "{bundled:?}");
    drop(registry);
    let (code, said) = factory(&folder, &["--bundle", "b.tar", "--pubkey", "key.pub"], "arm64", "uboot");
    assert_eq!(code, 0, "{said}");
    script(
        &folder,
        "device/make-disk.sh disk.img; dd if=disk.img of=env.img bs=1M skip=$((1 + 34 + 8 + 8 + 8)) status=none",
    );
    let config = |at: &str| format!("{}/env.img {at} 0x4000\n", folder.path().display());
    fs::write(folder.path().join("fw_env.config"), config("0x0") + &config("0x80000")).unwrap();
    let said = script(&folder, "fw_printenv -c fw_env.config | LC_ALL=C sort");
    assert_eq!(
        said.lines().collect::<Vec<_>>().join(" "),
        "active_slot=A boot_counter=3 boot_success=1 ks_a=good ks_b=void ks_end=1 ks_good=A ks_seal=A1 ks_trial=00000000 ks_v=1"
    );
    proven(&folder, "uboot:fw_env.config");
    let said = script(
        &folder,
        "mtype -i disk.img@@1M ::/kernel-args.txt; mcopy -i disk.img@@1M ::/boot.scr .; mkimage -l boot.scr",
    );
    assert!(said.contains("ks_args=console=ttyS0 quiet") && said.contains("Script"), "{said}");
}

#[test]
fn a_factory_is_refused_with_a_reason_and_leaves_no_release_behind() {
    let folder = TempDir::new().unwrap();
    let registry = released(&folder);
    key(&folder, "other");
    let reference = format!("{}/os:stable", registry.address);
    let from = |key: &'static str| {
        [reference.clone(), "--pubkey".into(), key.into(), "--plain-http".into(), registry.address.clone()]
    };
    let run = |key: &'static str, rest: &[&str]| {
        let source = from(key);
        let source: Vec<&str> = source.iter().map(String::as_str).collect();
        make(&folder, &[&["device"], &source[..], rest].concat())
    };
    let amd64 = ["--architecture", "amd64", "--boot", "grub"];
    let (code, said) = run("other.pub", &amd64);
    assert!(code == 77 && !folder.path().join("device").exists(), "{said}");
    for (rest, code, words) in [
        (&["--architecture", "amd64", "--boot", "uboot"][..], 64, "only arm64 boots by uboot"),
        (&[&amd64[..], &["--kernel-args", "a=\"b\""]].concat(), 64, "a bootloader would change"),
        (&[&amd64[..], &["--efi-mib", "16"]].concat(), 64, "FAT32 needs at least 34"),
        (&[&amd64[..], &["--slot-mib", "1"]].concat(), 64, "the images of this release need 2"),
    ] {
        let (found, said) = run("key.pub", rest);
        assert!(found == code && said.contains(words), "{rest:?}: {found} {said}");
    }
    // A refused factory is no obstacle for the next one. A folder that was there stays.
    fs::create_dir(folder.path().join("device")).unwrap();
    assert_eq!(run("other.pub", &amd64).0, 77);
    assert_eq!(fs::read_dir(folder.path().join("device")).unwrap().count(), 0);
    assert_eq!(run("key.pub", &amd64).0, 0);
    assert!(!folder.path().join("device/release.tar").exists(), "the release is in slot A already");
    let (code, said) =
        make(&folder, &["device", &reference, "--pubkey", "key.pub", "--architecture", "amd64", "--boot", "grub"]);
    assert!(code == 73 && said.contains("device is not empty"), "{said}");
    let (code, said) = make(&folder, &["new", &reference, "--architecture", "amd64", "--boot", "grub"]);
    assert!(code == 64 && said.contains("--pubkey"), "a release is proven: {said}");
}

#[test]
fn make_disk_names_all_missing_packages_at_once() {
    let folder = TempDir::new().unwrap();
    let registry = released(&folder);
    let reference = format!("{}/os:stable", registry.address);
    let source = [&reference, "--pubkey", "key.pub", "--plain-http", &registry.address];
    assert_eq!(factory(&folder, &source, "amd64", "grub").0, 0);
    // A machine that has nothing but the shell and what every Debian has.
    script(&folder, "mkdir bin; for it in sh dirname dd; do ln -s \"$(command -v $it)\" bin/; done");
    script(&folder, "sed -i 's/^PATH=.*/PATH=$PWD\\/bin/' device/make-disk.sh");
    let said = script(&folder, "GRUB_LIB=/nowhere device/make-disk.sh disk.img 2>&1 || [ $? = 69 ]");
    assert_eq!(
        said,
        "make-disk: programs are missing: apt-get install fdisk mtools e2fsprogs grub-pc-bin grub-efi-amd64-bin grub-common\n"
    );
    assert!(!folder.path().join("disk.img").exists());
}
