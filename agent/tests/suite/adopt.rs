//! `adopt`, on a device in folders that KubeSolo OS's own loader file boots.

use crate::{cli_support, common};

use std::fs;

use bootenv::SlotId;
use bootenv::grub::{Block, SECTOR};
use bootenv::loader::{self, FileId, Kind, Stage, kind};
use bootenv::protocol::{BootState, FallbackBlock, View};
use cli_support::{Device, Ran, publish};
use common::registry::Registry;
use kubesolo_update::base::digest::Digest;

const OLD: &[u8] = include_bytes!("../../../bootenv/tests/kubesolo-os.cfg");

/// In slot A, confirmed, with the Go agent's environment, and without hash files.
fn old_device() -> Device {
    let device = Device::new();
    device.write("grub.cfg", OLD);
    device.write("cmdline", b"BOOT_IMAGE=/vmlinuz kubesolo.slot=A console=ttyS0,115200n8 panic=0 quiet\n");
    for file in ["vmlinuz.sha256", "kubesolo-os.gz.sha256"] {
        fs::remove_file(device.path("A").join(file)).unwrap();
    }
    device
}

fn adopt(device: &Device, more: &[&str]) -> Ran {
    device.here(&[&["adopt", "--json"], more].concat())
}

fn read(device: &Device, name: &str) -> Vec<u8> {
    fs::read(device.path(name)).unwrap()
}

/// All but the lock.
fn tree(device: &Device) -> cli_support::Tree {
    device.tree("").into_iter().filter(|(path, _)| !path.ends_with("lock") && !path.ends_with("S")).collect()
}

/// True if the next boot tries the new loader file, and the old one boots after a failure.
fn starts_the_new_loader(device: &Device) -> bool {
    let sum = |file: FileId| format!("{}  {}\n", Digest::of(&read(device, file.script())).hex(), file.script());
    kind(&read(device, "grub.cfg")) == Kind::Staged
        && stage(device) == Stage { good: FileId::First, tried: Some(FileId::Second) }
        && FileId::BOTH.into_iter().all(|file| read(device, file.sum()) == sum(file).as_bytes())
}

fn stage(device: &Device) -> Stage {
    Stage::read(&Block::parse(&read(device, loader::STAGE)).unwrap()).unwrap()
}

#[test]
fn an_old_device_is_switched_by_one_sector_and_updates_itself_then() {
    let device = old_device();
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let refused = device.from(&registry, &["apply", "--json"]).refused(78, "old-loader");
    assert!(refused["remedy"].as_str().unwrap().contains("kubesolo-update adopt"));
    device
        .here(&["status", "-v"])
        .code(0)
        .says(&["loader:       of KubeSolo OS", "next boot:    slot A (the loader file of KubeSolo OS"]);
    device.set_env("active_slot=A\nboot_success=1\nboot_counter=0\n");
    device.here(&["status", "-v"]).code(0).says(&["next boot:    slot A (the loader file of KubeSolo OS"]);
    device.set_env("active_slot=A\nboot_success=0\nboot_counter=0\n");
    device.here(&["status", "-v"]).code(0).says(&["next boot:    slot B (the loader file of KubeSolo OS"]);
    let before = device.env_bytes();
    device.make_unhealthy();
    device.here(&["healthcheck"]).code(1).says(&["the old loader file counts this boot as failed"]);
    assert_eq!(device.env_bytes(), before);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["for the old loader file"]);
    assert_ne!(device.env_bytes(), before);

    let adopted = adopt(&device, &[]).code(0).json();
    assert_eq!((adopted["outcome"].as_str(), adopted["reboot"].as_bool()), (Some("adopted"), Some(true)));
    assert!(starts_the_new_loader(&device));
    assert_eq!(read(&device, "ksl2.cfg"), loader::TEXT.as_bytes());
    assert_eq!(read(&device, "ksl1.cfg"), OLD);
    let grub_cfg = read(&device, "grub.cfg");
    assert_eq!((grub_cfg.len(), &grub_cfg[SECTOR..]), (OLD.len(), &OLD[SECTOR..]), "one sector and nothing else");
    assert_eq!(read(&device, "kernel-args.cfg"), b"set ks_args=\"console=ttyS0,115200n8 quiet\"\n");
    assert_eq!(device.env(), BootState::committed(SlotId::A));
    let second = Block::parse(&read(&device, "ksenv2")).unwrap().as_second();
    assert_eq!(second, Some(FallbackBlock::of(&BootState::committed(SlotId::A))));
    assert!(!device.names("").iter().any(|name| name.ends_with(".new")));

    // The bootloader asks for hash files now.
    let start = device.power_on().start.unwrap();
    assert_eq!((start.slot, start.fallback), (SlotId::A, None));
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    device.here(&["healthcheck"]).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::Second));
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
}

#[test]
fn calling_it_again_changes_nothing() {
    let device = old_device();
    adopt(&device, &[]).code(0);
    let before = tree(&device);
    assert_eq!(adopt(&device, &[]).code(0).json()["outcome"], "placed");
    assert_eq!(tree(&device), before);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let before = tree(&device);
    assert_eq!(adopt(&device, &[]).code(0).json()["outcome"], "in-use");
    assert_eq!(tree(&device), before);
}

/// The sector of 0.1 finds its slots by a search that another disk can answer first. Stage 1 searches nothing.
#[test]
fn a_device_that_version_0_1_switched_gets_the_sector_that_no_other_disk_can_hide_from() {
    let device = old_device();
    adopt(&device, &[]).code(0);
    device.power_on();
    let mut grub_cfg = OLD.to_vec();
    let before_0_2 = include_bytes!("../../../bootenv/loader/switch-0.1.cfg");
    grub_cfg[..SECTOR].fill(b'#');
    grub_cfg[..before_0_2.len()].copy_from_slice(before_0_2);
    let loader_0_1 = include_bytes!("../../../tests/fixtures/0.1/loader/grub.cfg");
    device.write("grub.cfg", &grub_cfg);
    device.write("ksloader.cfg", loader_0_1);
    device.write("ksloader.sum", format!("{}  ksloader.cfg\n", Digest::of(loader_0_1).hex()).as_bytes());
    device.power_on();
    device.here(&["doctor"]).says(&["warn  loader", "run `kubesolo-update adopt`"]);
    let renewed = adopt(&device, &[]).code(0).json();
    assert_eq!((renewed["outcome"].as_str(), renewed["reboot"].as_bool()), (Some("adopted"), Some(true)));
    assert_eq!(read(&device, "grub.cfg"), [&loader::stage1()[..], &OLD[SECTOR..]].concat());
    assert_eq!(read(&device, "ksl1.cfg"), loader_0_1);
    assert!(starts_the_new_loader(&device));
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::Second));
    assert_eq!(adopt(&device, &[]).code(0).json()["outcome"], "in-use");
}

#[test]
fn the_doctor_looks_at_the_file_that_starts_the_next_boot_too() {
    let device = old_device();
    let loader = || {
        let all = device.here(&["doctor", "--json"]).json();
        let found = all.as_array().unwrap().iter().find(|one| one["name"] == "loader").unwrap().clone();
        format!("{}: {}", found["verdict"].as_str().unwrap(), found["message"].as_str().unwrap())
    };
    assert!(loader().starts_with("fail: the old one") && loader().contains("adopt"), "{}", loader());
    adopt(&device, &[]).code(0);
    assert!(loader().starts_with("warn") && loader().ends_with("reboot"), "{}", loader());
    device.power_on();
    assert!(loader().starts_with("ok: a new file started this boot, on trial"), "{}", loader());
    device.here(&["healthcheck"]).code(0);
    assert_eq!(loader(), "ok: uses the slot protocol, version 1");
    // Stage 1 turns to the old file where the new one does not fit its hash.
    let [switched, new] = ["grub.cfg", "ksl2.cfg"].map(|name| read(&device, name));
    device.write("ksl2.cfg", &new[1..]);
    assert!(loader().starts_with("fail: one with the slot protocol started this boot"), "{}", loader());
    device.write("ksl2.cfg", &new);
    device.write("grub.cfg", OLD);
    assert!(loader().starts_with("fail"), "{}", loader());
    device.write("grub.cfg", b"reboot\n");
    assert!(loader().starts_with("warn"), "{}", loader());
    device.write("grub.cfg", &switched);
    assert!(loader().starts_with("ok"), "{}", loader());
}

#[test]
fn a_boot_that_nobody_confirmed_is_not_adopted() {
    let device = old_device();
    for env in ["active_slot=A\nboot_success=0\nboot_counter=2\n", "active_slot=B\nboot_success=1\nboot_counter=3\n"] {
        device.set_env(env);
        let before = tree(&device);
        let refused = adopt(&device, &[]).refused(75, "not-confirmed");
        assert!(refused["remedy"].as_str().unwrap().contains("The device boots as before"), "{refused}");
        assert_eq!(tree(&device), before);
    }
    device.set_env("active_slot=A\nboot_success=0\nboot_counter=2\n");
    device.here(&["healthcheck"]).code(0);
    adopt(&device, &[]).code(0);
    assert!(starts_the_new_loader(&device));
}

#[test]
fn a_loader_file_that_is_not_known_is_left_alone_unless_a_person_says_so() {
    let device = old_device();
    let theirs = [&b"menuentry Debian {\n linux /vmlinuz\n}\n"[..], &[b'#'; 600], b"\n"].concat();
    device.write("grub.cfg", &theirs);
    let before = tree(&device);
    adopt(&device, &[]).refused(78, "unknown-grub-cfg");
    assert_eq!(tree(&device), before);
    adopt(&device, &["--any-grub-cfg"]).code(0);
    assert!(starts_the_new_loader(&device));
    assert_eq!(read(&device, "ksl1.cfg"), theirs);

    let device = old_device();
    for (script, reason) in [
        (&OLD[..SECTOR - 1], "unknown-grub-cfg"),
        (loader::TEXT.as_bytes(), "loader-not-in-use"),
        (&vec![b'#'; 300_000], "unknown-grub-cfg"),
    ] {
        device.write("grub.cfg", script);
        adopt(&device, &["--any-grub-cfg"]).refused(78, reason);
        assert_eq!(read(&device, "grub.cfg"), script);
    }
    fs::remove_file(device.path("grub.cfg")).unwrap();
    adopt(&device, &["--any-grub-cfg"]).refused(78, "no-grub-cfg");
}

#[test]
fn kernel_arguments_that_cannot_be_passed_on_are_named() {
    let device = old_device();
    device.write("cmdline", b"kubesolo.slot=A quiet name=\"two words\"\n");
    let before = tree(&device);
    let refused = adopt(&device, &[]).refused(78, "kernel-args");
    assert!(refused["message"].as_str().unwrap().contains("name="), "{refused}");
    assert_eq!(tree(&device), before);
    adopt(&device, &["--kernel-args", "quiet name=two-words"]).code(0);
    assert_eq!(read(&device, "kernel-args.cfg"), b"set ks_args=\"quiet name=two-words\"\n");
}

#[test]
fn settings_that_the_device_has_already_are_kept() {
    let device = old_device();
    device.write("kernel-args.cfg", b"set ks_args=\"theirs\"\n");
    adopt(&device, &[]).code(0);
    assert_eq!(read(&device, "kernel-args.cfg"), b"set ks_args=\"theirs\"\n");
}

#[test]
fn files_that_do_not_fit_their_hashes_are_not_adopted() {
    let device = old_device();
    device.write("A/vmlinuz.sha256", format!("{}  vmlinuz\n", Digest::of(b"another").hex()).as_bytes());
    adopt(&device, &[]).refused(65, "slot-damaged");
    assert_eq!(read(&device, "grub.cfg"), OLD);
    assert_eq!(read(&device, "A/vmlinuz"), cli_support::FACTORY);
}

#[test]
fn an_environment_that_is_missing_or_damaged_is_recreated() {
    for damage in [None, Some(&b"not a block"[..]), Some(&[0; 1024])] {
        let device = old_device();
        fs::remove_file(device.path("grubenv")).unwrap();
        if let Some(bytes) = damage {
            device.write("grubenv", bytes);
        }
        adopt(&device, &[]).code(0);
        assert_eq!(device.env(), BootState::committed(SlotId::A));
        assert!(starts_the_new_loader(&device));
    }
}

#[test]
fn a_failed_slot_stays_failed() {
    let device = old_device();
    device.set_env("active_slot=A\nboot_success=1\nboot_counter=3\nks_b=fail\nks_seal=--\n");
    assert!(matches!(Block::parse(&device.env_bytes()).unwrap().view(), View::Foreign(_)));
    adopt(&device, &[]).code(0);
    assert_eq!(device.env().b, bootenv::protocol::SlotState::Fail);
}

#[test]
fn another_loader_file_must_be_one_of_the_protocol() {
    let device = old_device();
    device.write("other.cfg", b"reboot\n");
    adopt(&device, &["--loader-file", "other.cfg"]).refused(78, "bad-loader-file");
    assert_eq!(read(&device, "grub.cfg"), OLD);
    let unnumbered = [b"# other\n", loader::TEXT.as_bytes()].concat();
    device.write("other.cfg", &unnumbered);
    adopt(&device, &["--loader-file", "other.cfg"]).refused(78, "bad-loader-file");
    let other = [loader::TEXT.as_bytes(), b"# other\n"].concat();
    device.write("other.cfg", &other);
    adopt(&device, &["--loader-file", "other.cfg"]).code(0);
    assert_eq!(read(&device, "ksl2.cfg"), other);
    assert!(starts_the_new_loader(&device));
}
