//! Loader files that a health run replaces, on a device in folders that GRUB boots.

use crate::{cli_support, common};

use std::fs;

use bootenv::grub::Block;
use bootenv::loader::{self, FileId, Kind, Stage};
use cli_support::{Device, Ran, publish};
use common::registry::Registry;
use kubesolo_update::base::digest::Digest;

const OF_0_1: &[u8] = include_bytes!("../../../tests/fixtures/0.1/loader/grub.cfg");
const TRIED: Stage = Stage { good: FileId::First, tried: Some(FileId::Second) };

/// Slot A runs, committed, by the loader file of 0.1.
fn device() -> Device {
    let device = Device::new();
    device.write("grub.cfg", OF_0_1);
    device.set_env("active_slot=A\nboot_success=1\nboot_counter=3\n");
    for name in ["vmlinuz", "kubesolo-os.gz"] {
        let hash = Digest::of(&fs::read(device.path(&format!("A/{name}"))).unwrap());
        device.write(&format!("A/{name}.sha256"), format!("{}  {name}\n", hash.hex()).as_bytes());
    }
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device
}

fn health_run(device: &Device) -> Ran {
    device.write("conf", b"loader_update=auto\n");
    let ran = device.here(&["healthcheck"]);
    fs::remove_file(device.path("conf")).unwrap();
    ran
}

fn stage(device: &Device) -> Stage {
    Stage::read(&Block::parse(&fs::read(device.path(loader::STAGE)).unwrap()).unwrap()).unwrap()
}

fn put(device: &Device, file: FileId, script: &[u8]) {
    device.write(file.script(), script);
    device.write(file.sum(), format!("{}  {}\n", Digest::of(script).hex(), file.script()).as_bytes());
}

/// A power-on in which the file on trial ended, or hung until the power was cut.
fn fails(device: &Device) {
    device.power_on();
    device.write(loader::STAGE, Stage::settled(FileId::First).block().bytes());
    device.write("cmdline", b"kubesolo.slot=A ks.trial=00000000 panic=5 ks.proto=1\n");
}

#[test]
fn a_loader_file_of_0_1_is_replaced_by_a_health_run_and_kept_after_a_healthy_boot() {
    let device = device();
    health_run(&device).code(0);
    let entry = fs::read(device.path("grub.cfg")).unwrap();
    assert_eq!(entry, [&loader::stage1()[..], &OF_0_1[512..]].concat(), "one sector and nothing else");
    assert_eq!(fs::read(device.path("ksl1.cfg")).unwrap(), OF_0_1);
    assert_eq!(fs::read(device.path("ksl2.cfg")).unwrap(), loader::TEXT.as_bytes());
    assert_eq!(stage(&device), TRIED);
    device.here(&["status", "-v"]).code(0).says(&["loader file:  of version 0.1, the next boot tries file 1"]);
    // A second run in the same boot begins nothing.
    health_run(&device).code(0);
    assert_eq!(stage(&device), TRIED);

    device.power_on();
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    device.make_unhealthy();
    health_run(&device).code(1);
    assert_eq!(stage(&device), Stage::settled(FileId::First), "an unhealthy boot shows nothing");
    device.make_healthy();
    // The end of a try does not depend on the setting.
    device.here(&["healthcheck"]).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::Second));
    assert!(device.here(&["metrics"]).stdout.contains("kubesolo_update_loader_info{version=\"1\"} 1"));
    let files = ["grub.cfg", "ksl1.cfg", "ksl1.sum", "ksl2.cfg", "ksl2.sum", loader::STAGE];
    let files = || files.map(|name| fs::metadata(device.path(name)).unwrap().modified().unwrap());
    let before = files();
    health_run(&device).code(0);
    assert_eq!(files(), before, "the file that started this boot is not written again");
}

#[test]
fn without_the_setting_the_loader_file_stays() {
    let device = device();
    let before = device.names("");
    device.here(&["healthcheck"]).code(0);
    assert_eq!((device.names(""), fs::read(device.path("grub.cfg")).unwrap()), (before, OF_0_1.to_vec()));
}

#[test]
fn a_loader_file_that_failed_twice_is_not_tried_again_until_a_person_permits_it() {
    let device = device();
    for _ in 0..2 {
        health_run(&device).code(0);
        assert_eq!(stage(&device), TRIED);
        fails(&device);
    }
    assert!(health_run(&device).code(0).stderr.contains("failure 2"));
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    health_run(&device).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    assert_eq!(device.here(&["status", "--json"]).json()["loader"]["failures"], 2);
    device.here(&["doctor"]).says(&["warn  loader files", "--retry-failed"]);

    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--retry-failed"]).code(0);
    health_run(&device).code(0);
    assert_eq!(stage(&device), TRIED);
}

#[test]
fn an_activation_puts_off_the_try_of_a_loader_file() {
    let device = device();
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    health_run(&device).code(0);
    assert_eq!(stage(&device), TRIED);
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    health_run(&device).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::First), "none is tried beside the trial of a release");
    device.power_on();
    // The verdict comes first, and the slot is committed by it.
    health_run(&device).code(0).says(&["slot B is committed"]);
    assert_eq!(stage(&device), TRIED);
    assert_eq!(device.here(&["status", "--json"]).json()["loader"]["failures"], 0);
    device.power_on();
    device.here(&["rollback", "--json"]).refused(75, "not-confirmed");
    device.write(loader::STAGE, TRIED.block().bytes());
    // The same before a trial of the previous release.
    device.here(&["rollback"]).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::First));
}

#[test]
fn a_later_loader_file_replaces_the_one_that_is_not_in_use() {
    let device = device();
    device.write("grub.cfg", &loader::stage1());
    put(&device, FileId::First, b"# an older one\nks.proto=1\n");
    put(&device, FileId::Second, OF_0_1);
    device.write(loader::STAGE, Stage::settled(FileId::Second).block().bytes());
    device.power_on();
    health_run(&device).code(0);
    assert_eq!(fs::read(device.path("ksl1.cfg")).unwrap(), loader::TEXT.as_bytes());
    assert_eq!(fs::read(device.path("ksl2.cfg")).unwrap(), OF_0_1);
    assert_eq!(stage(&device), Stage { good: FileId::Second, tried: Some(FileId::First) });
    device.power_on();
    health_run(&device).code(0);
    assert_eq!(stage(&device), Stage::settled(FileId::First));
    assert_eq!(loader::kind(&fs::read(device.path("grub.cfg")).unwrap()), Kind::Staged);
}

#[test]
fn a_damaged_stage_is_written_again_after_a_healthy_boot() {
    for damage in [&b""[..], &[0; 1024], b"# GRUB Environment Block\ng=3\n"] {
        let device = device();
        health_run(&device).code(0);
        device.power_on();
        health_run(&device).code(0);
        assert_eq!(stage(&device), Stage::settled(FileId::Second));
        device.write(loader::STAGE, damage);
        device.here(&["doctor"]).says(&["warn  loader files", "ksstage is damaged"]);
        health_run(&device).code(0);
        assert_eq!(stage(&device), Stage::settled(FileId::Second), "the file that started this boot");
    }
}

#[test]
fn the_doctor_names_a_loader_file_that_does_not_match_its_hash() {
    let device = device();
    health_run(&device).code(0);
    device.power_on();
    health_run(&device).code(0);
    device.write("ksl1.cfg", b"rotten");
    device.here(&["doctor"]).says(&["warn  loader files", "ksl1.cfg does not match its hash"]);
}
