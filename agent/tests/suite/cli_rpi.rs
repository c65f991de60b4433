//! A Raspberry Pi on folders: `autoboot.txt` follows an update. Its firmware is played by what its documentation says.

use crate::{cli_support, common};

use std::fs;

use bootenv::SlotId;
use bootenv::protocol::{BootState, SlotState, View};
use bootenv::rpi::{render, view};
use cli_support::{Device, publish};
use common::registry::Registry;

fn bench() -> (Registry, Device) {
    let mut device = Device::new();
    device.bootenv = "rpi:.";
    fs::remove_file(device.path("grubenv")).unwrap();
    device.write("autoboot.txt", &render(&BootState::committed(SlotId::A)));
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    (registry, device)
}

pub(crate) fn state(device: &Device) -> BootState {
    match view(&fs::read(device.path("autoboot.txt")).unwrap()) {
        View::Ours(state) => state,
        other => panic!("{other:?}"),
    }
}

/// The partitions of an ordinary boot and of a try.
fn boots(device: &Device) -> [u32; 2] {
    let text = fs::read_to_string(device.path("autoboot.txt")).unwrap();
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.strip_prefix("boot_partition=")?.parse().ok()).collect();
    numbers.try_into().unwrap()
}

pub(crate) fn boot(device: &Device, slot: SlotId) {
    let state = state(device);
    let trial = if state.on_trial() == Some(slot) { state.trial } else { bootenv::TrialId::NONE };
    device.write("cmdline", format!("panic=5 kubesolo.slot={slot} ks.trial={trial} ks.proto=1\n").as_bytes());
}

#[test]
fn a_try_that_is_healthy_changes_the_partition_of_every_boot() {
    let (registry, device) = bench();
    boot(&device, SlotId::A);
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!((boots(&device), state(&device).on_trial()), ([2, 3], Some(SlotId::B)));
    // The note of the agent before it asks the firmware for a try.
    device.write("autoboot.txt", &render(&BootState { counter: 0, ..state(&device) }));
    boot(&device, SlotId::B);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    assert_eq!((boots(&device), state(&device).good), ([3, 2], SlotId::B));
    let before = fs::read(device.path("autoboot.txt")).unwrap();
    boot(&device, SlotId::B);
    device.here(&["healthcheck"]).code(0);
    device.here(&["status", "-v"]).code(0).says(&["environment:  ours (./autoboot.txt)"]);
    assert_eq!(fs::read(device.path("autoboot.txt")).unwrap(), before);
}

#[test]
fn a_try_that_came_back_is_over_and_remembered() {
    let (registry, device) = bench();
    boot(&device, SlotId::A);
    device.from(&registry, &["apply", "--activate"]).code(0);
    // An ordinary reboot is no try: the activation waits.
    boot(&device, SlotId::A);
    device.here(&["healthcheck"]).code(0).says(&["slot B will be tried"]);
    // The note of the agent before it asks the firmware for a try.
    device.write("autoboot.txt", &render(&BootState { counter: 0, ..state(&device) }));
    boot(&device, SlotId::A);
    device.here(&["healthcheck"]).code(0).says(&["the trial of the other slot ended"]);
    assert_eq!((boots(&device), state(&device).b), ([2, 3], SlotState::Fail));
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn a_file_as_a_person_writes_it_is_taken_over_after_a_healthy_boot() {
    let (registry, device) = bench();
    device.write("autoboot.txt", b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n");
    boot_plain(&device);
    device.here(&["healthcheck"]).code(0).says(&["took over the boot environment, slot A committed"]);
    assert_eq!((boots(&device), state(&device)), ([2, 3], BootState::committed(SlotId::A)));
    assert!(!device.path("autoboot.txt.new").exists());
    device.from(&registry, &["apply"]).code(0);
}

fn boot_plain(device: &Device) {
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
}

#[test]
fn what_the_firmware_would_not_read_whole_is_refused() {
    let (registry, device) = bench();
    device.write("autoboot.txt", &[b'#'; 600]);
    device.from(&registry, &["apply", "--json"]).refused(78, "env-unreadable");
    assert_eq!(fs::read(device.path("autoboot.txt")).unwrap(), [b'#'; 600]);
    fs::remove_file(device.path("autoboot.txt")).unwrap();
    device.from(&registry, &["apply", "--json"]).refused(78, "env-unreadable");
    assert_eq!(device.names("B"), Vec::<String>::new());
}
