//! Checkpoints of data, at each call that the step of a boot makes on the disk: what a fault there leaves, and what is on the
//! medium before the next name counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::SlotId;

use super::cli_support::trace::{calls, can_trace, traced_of};
use super::cli_support::{Device, publish_as};
use super::common::registry::Registry;
use kubesolo_release::Metadata;

/// Everything that reads or changes a file of the device.
const CALLS: &str = "openat,write,pwrite64,fsync,syncfs,rename,mkdir,unlink,unlinkat,rmdir,ftruncate,ioctl,link,linkat,symlink,\
                     symlinkat,lchown,chmod,utimensat";
const FAULTS: [&str; 4] = ["signal=SIGKILL", "error=ENOSPC", "error=EIO", "error=EROFS"];
/// The data that 1.0.0 leaves, and those that 2.0.0 makes of them.
const OLD: &str = "old";
const NEW: &str = "new";

/// A device whose first boot is done, with a datastore, and with a folder of the settings that is not there.
fn device(registry: &Registry) -> Device {
    let device = Device::new();
    fs::create_dir_all(device.path("kine/sub")).unwrap();
    device.write("kine/state", OLD.as_bytes());
    fs::hard_link(device.path("kine/state"), device.path("kine/sub/again")).unwrap();
    std::os::unix::fs::symlink("state", device.path("kine/link")).unwrap();
    device.write("conf", format!("state_paths=kine etcd\nplain_http={}\n", registry.address).as_bytes());
    boots(&device, Some(0));
    device.here(&["healthcheck"]).code(0);
    device
}

/// The bootloader, then the step before any service, which must end so.
fn boots(device: &Device, code: Option<i32>) {
    power_on(device);
    let ran = device.here(&["data"]);
    assert_eq!(ran.code, code, "{ran:?}");
}

fn power_on(device: &Device) -> SlotId {
    let _ = fs::remove_file(device.path("S/data-step"));
    device.power_on().start.unwrap().slot
}

/// At the first boot of a trial of 2.0.0, before its step.
fn on_trial() -> Device {
    let registry = Registry::start();
    let device = device(&registry);
    let plain = Metadata::new("2.0.0".parse().unwrap(), "stable");
    publish_as(&registry, 2, Metadata { data_layout: Some(1), ..plain }, "os:stable");
    device.from(&registry, &["apply", "--activate"]).code(0);
    assert_eq!(power_on(&device), SlotId::B);
    device
}

/// 2.0.0 ran and failed; this boot is 1.0.0, before its step.
fn failed() -> Device {
    let device = on_trial();
    device.here(&["data"]).code(0);
    migrates(&device);
    reverts(&device);
    assert_eq!(power_on(&device), SlotId::A);
    device
}

/// 2.0.0 was committed.
fn committed() -> Device {
    let device = on_trial();
    device.here(&["data"]).code(0);
    migrates(&device);
    device.here(&["healthcheck"]).code(0);
    device
}

/// The services of 2.0.0.
fn migrates(device: &Device) {
    device.write("kine/state", NEW.as_bytes());
    device.write("kine/migrated", b"");
    fs::create_dir_all(device.path("etcd")).unwrap();
    device.write("etcd/member", NEW.as_bytes());
}

fn reverts(device: &Device) {
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    device.make_healthy();
}

/// A folder with the data of one system, complete, and nothing of the other.
fn is(device: &Device, folder: &str, data: &str, case: &str) {
    let read = |name: &str| fs::read_to_string(device.path(&format!("{folder}/{name}"))).ok();
    let wanted = Some(data.to_owned());
    assert_eq!([read("state"), read("sub/again"), read("link")], [wanted.clone(), wanted.clone(), wanted], "{case}");
    assert_eq!(read("migrated").is_some(), data == NEW, "{case}");
}

fn marks(device: &Device) -> Vec<String> {
    let names = if device.path("S/data").exists() { device.names("S/data") } else { vec![] };
    names.into_iter().filter(|name| name != "trash").collect()
}

/// As an init stage: restarts until the step says that services may start. Gives the slot.
fn until_services(device: &Device, mut code: Option<i32>, mut slot: SlotId, case: &str) -> SlotId {
    for _ in 0..5 {
        if code == Some(0) {
            return slot;
        }
        slot = power_on(device);
        code = device.here(&["data"]).code;
    }
    panic!("{case}: no services after five boots");
}

/// The data of 1.0.0 were not written by anybody, and come back after all that 2.0.0 does.
fn taken(device: &Device, code: Option<i32>, case: &str) {
    is(device, "kine", OLD, case);
    let slot = until_services(device, code, SlotId::B, case);
    is(device, "kine", OLD, case);
    if slot == SlotId::B {
        let [held] = &marks(device)[..] else { panic!("{case}: {:?}", marks(device)) };
        assert!(held.ends_with(".held"), "{case}: {held}");
        is(device, &format!("S/data/{held}/tree/0"), OLD, case);
        migrates(device);
        reverts(device);
        until_services(device, None, slot, case);
    }
    back(device, case);
}

/// Services of 1.0.0 may start, on what it left.
fn restored(device: &Device, code: Option<i32>, case: &str) {
    let slot = until_services(device, code, SlotId::A, case);
    assert_eq!(slot, SlotId::A, "{case}");
    back(device, case);
}

fn back(device: &Device, case: &str) {
    is(device, "kine", OLD, case);
    assert!(!device.path("etcd").exists(), "{case}: a folder that was not there");
    device.here(&["healthcheck"]).code(0);
    assert_eq!(marks(device), [""; 0], "{case}");
}

/// A person repeats it, and no data change.
fn dropped(device: &Device, code: Option<i32>, case: &str) {
    is(device, "kine", NEW, case);
    if code != Some(0) {
        device.here(&["data", "drop"]).code(0);
    }
    is(device, "kine", NEW, case);
    assert_eq!(marks(device), [""; 0], "{case}");
    boots(device, Some(0));
}

/// The same device once more.
fn copy(device: &Device) -> Device {
    let copy = Device::new();
    let mut cp = Command::new("cp");
    cp.args(["-a", "."]).arg(copy.dir.path()).current_dir(device.dir.path());
    assert!(cp.status().unwrap().success());
    copy
}

/// Every so manieth pair of a call and a fault, such that neighbours get different faults.
fn cross(device: &Device, arguments: &[&str], every: usize, goal: impl Fn(&Device, Option<i32>, &str)) {
    let ordinary = copy(device);
    let output = traced_of(&ordinary, CALLS, &ordinary.local(arguments), &[]);
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(ordinary.path("trace")).unwrap();
    let here = ordinary.dir.path().to_str().unwrap();
    let (mut counts, mut tried) = (BTreeMap::<&str, usize>::new(), 0);
    for (place, line) in trace.lines().enumerate() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let number = counts.entry(call).or_default();
        *number += 1;
        let elsewhere = ["\"/proc", "\"/dev", "\"/sys", "\"/etc", "</dev", "<pipe", "<socket"];
        if !rest.contains(here) || elsewhere.iter().any(|part| rest.contains(part)) {
            continue;
        }
        for (_, fault) in FAULTS.iter().enumerate().filter(|(fault, _)| (place + fault) % every == 0) {
            let case = format!("{fault} at {}", line.chars().take(160).collect::<String>());
            let work = copy(device);
            let output =
                traced_of(&work, CALLS, &work.local(arguments), &[format!("inject={call}:{fault}:when={number}")]);
            let code = output.status.code();
            assert!(matches!(code, None | Some(0 | 70 | 73 | 75 | 78 | 137)), "{case}: {output:?}");
            goal(&work, code, &case);
            tried += 1;
        }
    }
    assert!(tried > 5, "{tried}");
    eprintln!("{arguments:?}: {} calls, {tried} faults", trace.lines().count());
}

/// Each fault at every so manieth call.
pub fn each(every: usize) {
    if !can_trace() {
        return;
    }
    cross(&on_trial(), &["data"], every, taken);
    cross(&failed(), &["data"], every, restored);
    cross(&committed(), &["data", "drop"], every, dropped);
}

/// Follows what is on the medium for sure. A name of a checkpoint, and the place of a folder of the settings, change only when
/// everything before is on the medium; in the end everything is.
fn in_order(device: &Device, arguments: &[&str]) -> usize {
    let output = traced_of(device, CALLS, &device.local(arguments), &[]);
    assert!(output.status.success(), "{output:?}");
    let here = device.dir.path().to_str().unwrap().to_owned();
    let parent = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
    let is_of_device = |path: &str| {
        let not =
            ["S/lock", "S/data-step", "S/data/trash"].iter().any(|name| path.starts_with(&format!("{here}/{name}")));
        path.starts_with(&here) && !not
    };
    let (mut dirty, mut names) = (BTreeSet::<String>::new(), 0);
    for call in calls(device) {
        let plain = |path: &String| Path::new(path).components().collect::<PathBuf>().display().to_string();
        let paths: Vec<_> = call.paths.iter().map(plain).filter(|path| is_of_device(path)).collect();
        match call.name.as_str() {
            "write" | "pwrite64" | "ftruncate" | "ioctl" if is_of_device(&call.descriptor) => {
                dirty.insert(call.descriptor.clone());
            }
            "openat" if call.rest.contains("O_CREAT") => dirty.extend(paths.iter().map(|path| parent(path))),
            "mkdir" | "symlink" | "symlinkat" | "link" | "linkat" | "unlink" | "unlinkat" | "rmdir" => {
                dirty.extend(paths.last().map(|path| parent(path)));
            }
            "lchown" | "chmod" | "utimensat" => dirty.extend(paths),
            "rename" if paths.iter().all(|path| path.contains("/about.json")) => {
                dirty.extend(paths.iter().map(|path| parent(path)));
            }
            "rename" => {
                assert!(dirty.is_empty(), "{} while {dirty:?} may be lost", call.rest);
                dirty.extend(paths.iter().map(|path| parent(path)));
                names += 1;
            }
            "fsync" => drop(dirty.remove(&plain(&call.descriptor))),
            "syncfs" => dirty.clear(),
            _ => {}
        }
    }
    assert!(dirty.is_empty(), "not on the medium in the end: {dirty:?}");
    names
}

#[test]
fn a_checkpoint_is_on_the_medium_before_it_counts() {
    if can_trace() {
        assert_eq!(in_order(&on_trial(), &["data"]), 2, "announced, being copied, complete");
    }
}

#[test]
fn a_restore_is_over_on_the_medium_before_services_start() {
    if can_trace() {
        assert_eq!(in_order(&failed(), &["data"]), 5, "begun, two folders aside, one back, over");
    }
}

/// Each boot waits for this step.
#[test]
fn an_ordinary_boot_opens_neither_boot_environment_nor_slots() {
    if !can_trace() {
        return;
    }
    let device = device(&Registry::start());
    power_on(&device);
    let output = traced_of(&device, "openat", &device.local(&["data"]), &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "data: ordinary\n");
    let opened: Vec<String> = calls(&device).into_iter().flat_map(|call| call.paths).collect();
    let of_the_boot = ["/grubenv", "/ksenv2", "/A/", "/B/"];
    assert!(opened.iter().any(|path| path.ends_with("/cmdline")), "{opened:?}");
    assert!(!opened.iter().any(|path| of_the_boot.iter().any(|part| path.contains(part))), "{opened:?}");
}

#[test]
fn a_checkpoint_survives_a_fault_at_any_call() {
    each(16);
}
