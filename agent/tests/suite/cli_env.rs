//! A boot environment in a state that no run of ours left: damaged, or changed by another program.

use crate::{cli_support, common};

use std::fs;
use std::path::Path;

use bootenv::SlotId;
use bootenv::grub::{Block, MAX_SIZE, SIZE};
use bootenv::protocol::{BootState, SlotState, View};
use cli_support::{Device, publish};
use common::registry::Registry;

/// Runs the checks of a boot that may not be judged: the environment stays as it is, to the byte.
#[track_caller]
fn left_so(device: &Device, words: &[&str]) {
    let before = device.env_bytes();
    device.here(&["healthcheck"]).says(words);
    assert_eq!(device.env_bytes(), before);
}

#[test]
fn a_damaged_environment_is_rebuilt_after_a_healthy_boot_and_its_trial_has_failed() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.write("grubenv", &[0xa0; SIZE]);
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.fallback=env ks.proto=1\n");
    let before = device.env_bytes();
    device.from(&registry, &["apply", "--json"]).refused(78, "env-invalid");
    assert_eq!(device.env_bytes(), before);
    device.make_unhealthy();
    left_so(&device, &["the boot environment is damaged", "unhealthy: not rebuilt"]);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["rebuilt the damaged boot environment"]);
    assert_eq!((device.env().active, device.env().success, device.env().good), (SlotId::A, true, SlotId::A));
    // How that trial would have ended, nobody knows.
    let error = device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
    assert!(error["message"].as_str().unwrap().contains("lost before a verdict"), "{error}");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
}

/// A device that runs 1.0.0 from slot B.
fn committed() -> Device {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    device
}

/// The same after another program made slot A the active one.
fn changed_by_another(lines: &str) -> Device {
    let device = committed();
    device.set_env(&format!("active_slot=A\nboot_success=1\nboot_counter=3\n{lines}"));
    device
}

#[test]
fn an_active_slot_of_another_program_is_given_up_only_if_the_bootloader_passed_it_over() {
    let ours = |device: &Device| {
        device.make_unhealthy();
        left_so(device, &["unhealthy: another program changed the boot environment"]);
        device.make_healthy();
        device.here(&["healthcheck"]).code(0).says(&["took over the boot environment, slot B committed"]);
        device.env()
    };
    // The file that it wrote is damaged since.
    let device = changed_by_another("");
    device.write("A/vmlinuz", b"something else");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    assert_eq!(ours(&device), BootState { a: SlotState::Void, ..BootState::committed(SlotId::B) });
    // It failed its trial before.
    let device =
        changed_by_another("ks_v=1\nks_a=fail\nks_b=good\nks_good=B\nks_trial=00000000\nks_seal=--\nks_end=1\n");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    assert_eq!(ours(&device).a, SlotState::Fail);
    // Nothing is wrong with it: why the other slot was booted, a person may know.
    let device = changed_by_another("");
    device.write("cmdline", b"panic=5 kubesolo.slot=B ks.trial=00000000 ks.proto=1\n");
    left_so(&device, &["another program changed the boot environment: "]);
}

#[test]
fn a_committed_slot_is_given_up_only_if_it_is_damaged_and_the_other_one_healthy() {
    let device = committed();
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
    left_so(&device, &["slot A runs in place of the active slot B"]);
    let complete = || device.here(&["status", "--json"]).code(0).json()["slots"][1]["complete"].clone();
    let hash_file = fs::read(device.path("B/vmlinuz.sha256")).unwrap();
    assert_eq!(complete(), true);
    fs::remove_file(device.path("B/vmlinuz.sha256")).unwrap();
    assert_eq!(complete(), false);
    device.write("B/vmlinuz.sha256", &hash_file);
    device.write("B/vmlinuz", b"rotten");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
    device.make_unhealthy();
    left_so(&device, &["slot A runs in place of the active slot B"]);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["slot B is damaged; slot A is active now"]);
    let env = device.env();
    assert_eq!((env.active, env.success, env.good, env.b), (SlotId::A, true, SlotId::A, SlotState::Void));
}

/// The environment of a device of version 1.0.0, sealed, with lines of others behind it, and these last bytes.
fn sealed(lines: &str, size: usize, end: &[u8]) -> Vec<u8> {
    let main = Block::main(&BootState::committed(SlotId::A));
    let used = main.bytes().iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let mut block = [&main.bytes()[..used], lines.as_bytes()].concat();
    block.resize(size - end.len(), b'#');
    [block, end.to_vec()].concat()
}

#[test]
fn a_block_that_grub_reads_is_updated_in_its_own_size_and_keeps_what_others_have_in_it() {
    let zeros = [0; 300];
    let blocks: [(&str, Vec<u8>, usize); 9] = [
        ("1025 bytes", sealed("vendor=1\n", 1025, b""), 1025),
        ("2048 bytes", sealed("vendor=1\n", 2048, b""), 2048),
        ("a line feed at its end", sealed("vendor=1\n", SIZE, b"\n"), SIZE),
        ("NUL at its end", sealed("vendor=1\n", SIZE, &zeros), SIZE),
        ("a stray line", sealed("stray\n#\nx=1\nvendor=1\n", SIZE, b""), SIZE),
        ("a stray line at its end", sealed("vendor=1\nstray\n", SIZE, b""), SIZE),
        ("600 bytes", sealed("vendor=1\n", 600, b""), SIZE),
        ("a double", sealed("vendor=1\nboot_counter=3\n", SIZE, b""), SIZE),
        ("a double at its end", sealed("vendor=1\n", SIZE, b"\nboot_counter=3\n"), SIZE),
    ];
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    for (name, block, size) in blocks {
        let device = Device::new();
        device.write("grubenv", &block);
        let said = device.from(&registry, &["apply", "--activate"]);
        assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        assert!(!device.env().success && device.env().active == SlotId::B, "{name}");
        let start = device.power_on().start.unwrap();
        assert_eq!((start.slot, start.fallback), (SlotId::B, None), "{name}: GRUB counts the trial");
        device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
        let bytes = device.env_bytes();
        assert_eq!((bytes.len(), Block::parse(&bytes).unwrap().get("vendor")), (size, Some("1")), "{name}");
        assert_eq!(Block::parse(&bytes).unwrap().repairs(), Ok(vec![]), "{name}");
    }
}

#[test]
fn a_healthy_boot_drops_the_double_of_a_variable_of_ours() {
    let device = committed();
    let (mut bytes, state) = (device.env_bytes(), device.env());
    let double = b"\nboot_counter=1\n#";
    let at = bytes.len() - double.len();
    bytes[at..].copy_from_slice(double);
    device.write("grubenv", &bytes);
    assert_eq!(device.env(), BootState { counter: 1, ..state }, "GRUB reads the last one");
    device.here(&["doctor"]).says(&["may not store in it", "a healthy boot repairs it"]);
    device.make_unhealthy();
    left_so(&device, &["is committed"]);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    let block = Block::parse(&device.env_bytes()).unwrap();
    assert_eq!(block.variables().filter(|(name, _)| *name == b"boot_counter").count(), 1);
    assert_eq!((block.get("other"), block.repairs()), (Some("kept"), Ok(vec![])));
}

#[test]
fn variables_of_others_that_leave_no_room_are_named_with_the_way_out() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let vendor = format!("vendor_a={}\nvendor_b={}\nlast=1\n", "x".repeat(250), "y".repeat(200));
    device.set_env(&format!("active_slot=A\nboot_success=1\nboot_counter=3\n{vendor}"));
    let (slot, environment) = (device.tree("B"), device.env_bytes());
    let error = device.from(&registry, &["apply", "--json"]).refused(73, "env-full");
    assert!(error["message"].as_str().unwrap().contains("vendor_a vendor_b"), "{error}");
    let remedy = error["remedy"].as_str().unwrap();
    let command = remedy.split(": ").nth(1).unwrap().split('.').next().unwrap();
    assert_eq!(command, "grub-editenv grubenv unset vendor_a vendor_b");
    assert_eq!((device.tree("B"), device.env_bytes()), (slot, environment), "nothing was written");
    let told = device.here(&["healthcheck"]).code(73);
    assert!(told.stderr.contains("vendor_a vendor_b"), "{}", told.stderr);
    let told = device.here(&["doctor"]);
    assert!(told.stdout.contains(command), "{}", told.stdout);
    assert!(told.stdout.lines().any(|line| line.contains("FAIL") && line.contains("environment")), "{}", told.stdout);
    // Its remedy helps, and nothing is lost for good.
    device.shell(command, Path::new(""));
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.shell(
        &format!("grub-editenv grubenv set vendor_a={} vendor_b={}", "x".repeat(250), "y".repeat(200)),
        Path::new(""),
    );
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::B);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    assert_eq!(Block::parse(&device.env_bytes()).unwrap().get("vendor_b"), Some(&*"y".repeat(200)));
}

#[test]
fn a_rebuilt_environment_has_the_size_of_the_damaged_one_and_what_others_had_in_it() {
    for (size, wanted) in [(SIZE, SIZE), (2048, 2048), (700, SIZE), (0, SIZE)] {
        let device = committed();
        let mut bytes = device.env_bytes();
        bytes.resize(size, b'#');
        bytes.get_mut(2..4).into_iter().for_each(|letters| letters.fill(0xff));
        device.write("grubenv", &bytes);
        device.here(&["healthcheck"]).code(0).says(&["rebuilt the damaged boot environment"]);
        let bytes = device.env_bytes();
        let block = Block::parse(&bytes).unwrap();
        assert_eq!((bytes.len(), block.get("other")), (wanted, (size > 0).then_some("kept")), "{size}");
        assert!(matches!(block.view(), View::Ours(_)));
        device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    }
}

#[test]
fn an_environment_that_is_too_large_for_the_agent_is_left_to_grub() {
    let registry = Registry::start();
    publish(&registry, "2.0.0", 1);
    let device = committed();
    let (mut bytes, second) = (device.env_bytes(), fs::read(device.path("ksenv2")).unwrap());
    bytes.resize(MAX_SIZE + 1, b'#');
    device.write("grubenv", &bytes);
    left_so(&device, &["it has 65537 bytes", "not overwritten"]);
    let error = device.from(&registry, &["apply", "--json"]).refused(78, "env-invalid");
    assert!(error["remedy"].as_str().unwrap().contains("truncate"), "{error}");
    assert_eq!((device.env_bytes(), fs::read(device.path("ksenv2")).unwrap()), (bytes, second));
    // Its remedy helps, and keeps the variables.
    device.shell("truncate -s 1024 grubenv", Path::new(""));
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    assert_eq!(Block::parse(&device.env_bytes()).unwrap().get("other"), Some("kept"));
}
