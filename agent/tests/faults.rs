//! Every step of the program on the disk fails once, in each way: strace makes system call after system call fail, or kills
//! the program there. The next run goes on, nothing is lost, and nothing is left over.
//!
//! Nothing of this is in the program: what is tested is what is shipped. Without strace these tests say that they were
//! skipped.
#![allow(clippy::unwrap_used)]

mod cli_support;
mod common;
#[path = "faults/data.rs"]
mod data;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;

use bootenv::SlotId;
use bootenv::boot::{Files, PowerOn, decide};
use bootenv::grub::Block;
use bootenv::loader::{self, FileId, Kind, Stage};
use bootenv::protocol::{BootState, SlotState, View};
use cli_support::trace::{can_trace, traced};
use cli_support::{Device, key, publish};
use common::fault::{Fault as Server, World};
use common::images;
use common::registry::Registry;
use kubesolo_release::registry::Access;
use kubesolo_release::{Metadata, Options};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::device::slot::{Place, Slot as SlotPlace};
use kubesolo_update::release::release::Architecture;
use tempfile::TempDir;

/// Ways in which a step fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The step says so, with this error.
    Error(&'static str),
    /// The program is gone before the step.
    Signal(&'static str),
    /// A write says that it is done, by this part; nothing was.
    Lie(f64),
}

use Fault::{Error, Lie, Signal};

/// One system call of an ordinary run.
struct Step {
    call: String,
    /// Its number among its like.
    number: usize,
    /// Its result.
    result: f64,
    line: String,
}

/// The first release runs in slot A, the second was committed before, so that slot B has something to lose. The third one
/// is on offer.
struct Bench {
    device: Device,
    registry: Registry,
}

impl Bench {
    fn new() -> Option<Self> {
        if !can_trace() {
            return None;
        }
        let bench = Self { device: Device::new(), registry: Registry::start() };
        publish(&bench.registry, "1.0.0", 1);
        bench.device.from(&bench.registry, &["apply", "--activate"]).code(0);
        bench.device.power_on();
        bench.device.here(&["healthcheck"]).code(0);
        Some(bench)
    }
}

/// Everything of a device, to start again from.
type Copy = Vec<(std::path::PathBuf, Vec<u8>)>;

fn save(device: &Device) -> Copy {
    let files = device.tree("").into_iter().filter(|(path, _)| path.is_file());
    files.map(|(path, (content, ..))| (path, content)).collect()
}

fn restore(device: &Device, copy: &Copy) {
    for (path, _) in device.tree("").into_iter().filter(|(path, _)| path.is_file()) {
        if copy.iter().all(|(known, _)| *known != path) {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, content) in copy {
        if fs::read(path).ok().as_ref() != Some(content) {
            // Its folder is gone with the evidence of a trial.
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }
}

/// The steps of an ordinary run that have to do with the device's own files.
fn steps(device: &Device, arguments: &[&str]) -> Vec<Step> {
    let output = traced(device, arguments, &[]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let here = device.dir.path().to_str().unwrap().to_owned();
    let (mut counts, mut steps) = (BTreeMap::<String, usize>::new(), vec![]);
    for line in fs::read_to_string(device.path("trace")).unwrap().lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let number = counts.entry(call.to_owned()).or_default();
        *number += 1;
        let reads = call == "openat" && !rest.contains("O_WRONLY") && !rest.contains("O_RDWR");
        // Relative names are those of the device: it is the working directory.
        let of_device = rest.contains(&here) || rest.starts_with("AT_FDCWD<") || rest.starts_with('"');
        let elsewhere =
            ["\"/", "<socket", "<anon_inode", "<pipe", "</dev", "<UNIX", "<TCP"].iter().any(|p| rest.contains(p));
        if of_device && !reads && (!elsewhere || rest.contains(&format!("\"{here}"))) {
            let result = line.rsplit_once("= ").and_then(|(_, result)| result.parse().ok()).unwrap_or(0.0);
            steps.push(Step { call: call.to_owned(), number: *number, result, line: line.chars().take(120).collect() });
        }
    }
    steps
}

/// The rules that hold whenever the power may go or a run ends, and the slot that the bootloader would start.
fn holds(device: &Device, case: &str) -> SlotId {
    let block = Block::parse(&device.env_bytes()).unwrap_or_else(|e| panic!("{case}: {e}"));
    let View::Ours(state) = block.view() else { panic!("{case}: {:?}", block.view()) };
    let second = fs::read(device.path("ksenv2")).ok().and_then(|bytes| Block::parse(&bytes).ok()?.as_second());
    let files = SlotId::BOTH.map(|slot| if held(device, slot) { Files::Hold } else { Files::Broken });
    for slot in SlotId::BOTH {
        if state.slot(slot) == SlotState::Good || second.is_some_and(|second| second.slot(slot) == SlotState::Good) {
            assert_eq!(files[slot as usize], Files::Hold, "{case}: slot {slot} is marked good: {state:?}, {second:?}");
        }
    }
    let start = decide(&PowerOn { main: block.view(), second, files, can_save: true }).start.unwrap();
    assert_eq!(start.fallback, None, "{case}: {state:?}");
    start.slot
}

fn held(device: &Device, slot: SlotId) -> bool {
    SlotPlace { id: slot, place: Place::Folder(device.path(slot.as_str())), checksums: false }.hashes().is_ok()
}

/// Nothing but what belongs there, and such files as an earlier run left.
fn tidy(device: &Device, earlier: &Copy, case: &str) {
    for (folder, known) in [
        ("A", &["kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "vmlinuz", "vmlinuz.sha256"][..]),
        ("B", &["kubesolo-os.gz", "kubesolo-os.gz.sha256", "manifest.json", "vmlinuz", "vmlinuz.sha256"]),
        // A file that a lost write has damaged is kept for a person to see.
        (
            "S",
            &[
                "lock",
                "fetch.json",
                "history.json",
                "state.json",
                "trust.json",
                "memory.json",
                "unjudged.json",
                "evidence",
                "records",
                "receipts",
                "device.key",
                "fetch.json.damaged-1",
                "history.json.damaged-1",
                "memory.json.damaged-1",
                "state.json.damaged-1",
                "trust.json.damaged-1",
            ],
        ),
    ] {
        for name in device.names(folder) {
            let path = device.path(folder).join(&name);
            let here = known.contains(&name.as_str()) || earlier.iter().any(|(known, _)| *known == path);
            assert!(here, "{case}: {folder}/{name} is left over");
        }
    }
    for name in device.names("").into_iter().chain(device.names("S/records")) {
        assert!(!name.ends_with(".new"), "{case}: {name} is left over");
    }
}

/// Each step with each fault; or, to be quick, with every so manieth, such that neighbours get different ones.
fn cross(arguments: &[&str], every: usize, prepare: impl Fn(&Bench), goal: impl Fn(&Bench, &str)) {
    cross_holding(arguments, every, prepare, |device, case| _ = holds(device, case), goal);
}

/// The same where something else holds at every moment.
fn cross_holding(
    arguments: &[&str],
    every: usize,
    prepare: impl Fn(&Bench),
    holds: impl Fn(&Device, &str),
    goal: impl Fn(&Bench, &str),
) {
    let Some(bench) = Bench::new() else { return };
    prepare(&bench);
    let device = &bench.device;
    let (before, faults) = (save(device), FAULTS);
    let all = [&device.asking(&bench.registry, arguments)[..], &["--pubkey", "K"]].concat();
    let local = [&device.local(arguments)[..], &["--data-dir", "data", "--health-dir", "health.d"]].concat();
    let all = match arguments[0] {
        "healthcheck" => local,
        "adopt" => device.local(arguments),
        _ => all,
    };
    let steps = steps(device, &all);
    assert!(steps.len() > 5, "{} steps", steps.len());
    let mut tried = 0;
    for (place, Step { call, number, result, line }) in steps.iter().enumerate() {
        let chosen = faults.iter().enumerate().filter(|(number, _)| every == 1 || (place + number) % every == 0);
        for (_, fault) in chosen {
            let how = match fault {
                Error(errno) => format!("error={errno}"),
                Signal(signal) => format!("signal={signal}"),
                // The network decides in which pieces an image arrives: no more than any piece has.
                Lie(_) if line.contains(".part>, \"") && *result > 512.0 => "retval=1".to_owned(),
                Lie(part) if call.contains("write") => format!("retval={}", (result * part).ceil()),
                Lie(_) => continue,
            };
            let case = format!("{how} at {line}");
            restore(device, &before);
            let output = traced(device, &all, &[format!("inject={call}:{how}:when={number}")]);
            tried += 1;
            match fault {
                // Held back during a download.
                Signal("SIGTERM") if output.status.code() == Some(75) => {}
                Signal(_) => {
                    assert!(output.status.signal().is_some() || output.status.code() > Some(128), "{case}: {output:?}");
                }
                // A harmless error is no failure; any other is reported with its code.
                _ => assert!(matches!(output.status.code(), Some(0 | 1 | 70 | 73 | 78)), "{case}: {output:?}"),
            }
            fs::remove_file(device.path("trace")).unwrap();
            holds(device, &case);
            if !matches!(fault, Signal(_)) && !line.contains("unlink") {
                tidy(device, &before, &case);
            }
            goal(&bench, &case);
            tidy(device, &vec![], &case);
        }
    }
    eprintln!("{} steps of {arguments:?}, {tried} faults", steps.len());
}

const FAULTS: [Fault; 7] =
    [Signal("SIGKILL"), Signal("SIGTERM"), Error("ENOSPC"), Error("EIO"), Error("EROFS"), Lie(0.5), Lie(1.0)];

/// The next run, without a fault, and a boot of what it staged.
fn next_apply(bench: &Bench, case: &str) {
    let device = &bench.device;
    let ran = device.from(&bench.registry, &["apply", "--activate"]);
    assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
    assert_eq!(device.version_in(SlotId::A).as_deref(), Some("2.0.0"), "{case}");
    assert_eq!(holds(device, case), SlotId::A, "{case}");
    device.power_on();
    let ran = device.here(&["healthcheck"]);
    assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
    let BootState { good, success, .. } = device.env();
    assert_eq!((good, success), (SlotId::A, true), "{case}");
    assert_eq!(device.phase(), "success", "{case}");
}

fn update(every: usize) {
    let second = |bench: &Bench| _ = publish(&bench.registry, "2.0.0", 2);
    cross(&["apply", "--activate"], every, second, next_apply);
}

/// Two releases of pieces that differ in three places. The kernel is the same.
fn pieces() -> [Vec<u8>; 2] {
    let old = images::noise(1, 700_000);
    let mut new = old.clone();
    [100_000, 300_000, 600_000].into_iter().for_each(|at| new[at] ^= 1);
    [old, new].map(|init| images::repacked(&init))
}

/// Publishes a release with this initramfs, with patches from such earlier ones.
fn publish_pieces(registry: &Registry, version: &str, initramfs: &[u8], from: &[&str]) {
    let folder = TempDir::new().unwrap();
    let files = images::files(folder.path(), Architecture::current(), 1);
    fs::write(&files.initramfs, initramfs).unwrap();
    let (metadata, access) = (Metadata::new(version.parse().unwrap(), "stable"), Access::default());
    let options = Options {
        access: Access { plain_http: vec![registry.address.clone()], ..access },
        also_tags: vec![format!("v{version}")],
        delta_from: from.iter().map(|version| format!("{}/os:v{version}", registry.address)).collect(),
        ..Options::default()
    };
    let reference = format!("{}/os:stable", registry.address);
    kubesolo_release::release(&reference, &metadata, &[files], &[key(1)], &options).unwrap();
}

/// A device with a release of pieces in both slots, and the next one on offer: with patches, or by parts alone.
fn with_pieces(bench: &Bench, by_patches: bool) {
    let (device, [old, new]) = (&bench.device, pieces());
    for version in ["1.0.1", "1.0.2"] {
        publish_pieces(&bench.registry, version, &old, &[]);
        device.from(&bench.registry, &["apply", "--activate"]).code(0);
        device.power_on();
        device.here(&["healthcheck"]).code(0);
    }
    publish_pieces(&bench.registry, "2.0.0", &new, if by_patches { &["1.0.2"] } else { &[] });
    let planned = device.from(&bench.registry, &["apply", "--dry-run", "--json"]).code(0).json();
    assert!(planned["bytes_to_reuse"].as_u64() > Some(200_000), "{planned}");
    assert_eq!(planned["bytes_to_patch"].as_u64() > Some(0), by_patches, "{planned}");
}

/// The same, and a run that was asked to end in the middle of the image.
fn with_pieces_begun(bench: &Bench) {
    with_pieces(bench, true);
    let device = &bench.device;
    let (before, apply) =
        (save(device), [&device.asking(&bench.registry, &["apply"])[..], &["--pubkey", "K"]].concat());
    let steps = steps(device, &apply);
    let writes: Vec<_> = steps.iter().filter(|step| step.line.contains("kubesolo-os.gz.part>, ")).collect();
    let Step { call, number, .. } = writes[writes.len() / 2];
    restore(device, &before);
    let ended = traced(device, &apply, &[format!("inject={call}:signal=SIGTERM:when={number}")]);
    assert_eq!(ended.status.code(), Some(75), "{ended:?}");
    fs::remove_file(device.path("trace")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(device.path("S/fetch.json")).unwrap()).unwrap();
    assert!(record["partial"].is_object(), "{record}");
}

fn delta(every: usize) {
    let right = |bench: &Bench, case: &str| {
        next_apply(bench, case);
        assert!(fs::read(bench.device.path("A/kubesolo-os.gz")).unwrap() == pieces()[1], "{case}: another image");
    };
    cross(&["apply", "--activate"], every, |bench| with_pieces(bench, true), right);
    // The disk sees the same steps: each with one of the faults is enough.
    cross(&["apply", "--activate"], every.max(7), |bench| with_pieces(bench, false), right);
    cross(&["apply", "--activate"], every, with_pieces_begun, right);
}

/// A boot of 2.0.0 on trial.
fn on_trial(bench: &Bench) {
    publish(&bench.registry, "2.0.0", 2);
    bench.device.from(&bench.registry, &["apply", "--activate"]).code(0);
    bench.device.power_on();
}

fn commit(every: usize) {
    cross(&["healthcheck"], every, on_trial, |bench, case| {
        let ran = bench.device.here(&["healthcheck"]);
        assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
        let BootState { good, success, .. } = bench.device.env();
        assert_eq!((good, success), (SlotId::A, true), "{case}");
        // A lost write of state.json loses what it said, and nothing else.
        assert!(bench.device.phase() == "success" || case.starts_with("retval"), "{case}: {}", bench.device.phase());
    });
}

fn revert(every: usize) {
    let unhealthy = |bench: &Bench| {
        on_trial(bench);
        bench.device.make_unhealthy();
    };
    cross(&["healthcheck", "--auto-rollback-after", "1"], every, unhealthy, |bench, case| {
        let device = &bench.device;
        // Until the trial is over: what was cut off is tried again, as the init stage does.
        while device.power_on().start.unwrap().slot == SlotId::A {
            device.here(&["healthcheck", "--auto-rollback-after", "1"]);
        }
        device.make_healthy();
        device.here(&["healthcheck"]);
        let ran = device.from(&bench.registry, &["apply", "--json"]);
        assert_eq!(ran.code, Some(75), "{case}: {ran:#?}");
        device.make_unhealthy();
        assert_eq!(holds(device, case), SlotId::B, "{case}");
    });
}

/// Slot B runs, confirmed, and KubeSolo OS's own loader file boots it, with the Go agent's environment and no hash files.
fn old_loader(bench: &Bench) {
    let device = &bench.device;
    device.write("grub.cfg", OLD_LOADER);
    device.write("cmdline", b"kubesolo.slot=B quiet\n");
    device.set_env("active_slot=B\nboot_success=1\nboot_counter=3\n");
    fs::remove_file(device.path("ksenv2")).unwrap();
    for slot in ["A", "B"] {
        for file in ["vmlinuz.sha256", "kubesolo-os.gz.sha256"] {
            fs::remove_file(device.path(slot).join(file)).unwrap();
        }
    }
}

const OLD_LOADER: &[u8] = include_bytes!("../../bootenv/tests/kubesolo-os.cfg");

/// GRUB would boot slot B: by the old loader file, or by the whole new one with an environment of ours.
fn boots_by_either_loader(device: &Device, case: &str) {
    let block = Block::parse(&device.env_bytes()).unwrap_or_else(|e| panic!("{case}: {e}"));
    match next_loader(device, OLD_LOADER, case) {
        Some(FileId::Second) => {
            let arguments = fs::read(device.path("kernel-args.cfg")).unwrap_or_default();
            assert_eq!(arguments, b"set ks_args=\"quiet\"\n", "{case}");
            assert_eq!(holds(device, case), SlotId::B, "{case}");
        }
        _ => {
            let get = |name| block.get(name);
            let confirmed = (get("active_slot"), get("boot_success"), get("boot_counter"));
            assert_eq!(confirmed, (Some("B"), Some("1"), Some("3")), "{case}");
        }
    }
}

/// The loader file that GRUB runs, which must be whole: `None` where `grub.cfg` is as it was. The old one is never lost.
fn next_loader(device: &Device, old: &[u8], case: &str) -> Option<FileId> {
    let read = |name: &str| fs::read(device.path(name)).unwrap_or_default();
    let entry = read("grub.cfg");
    if loader::kind(&entry) != Kind::Staged {
        assert!(entry == old, "{case}: grub.cfg is neither the old nor the new one");
        return None;
    }
    let matches = |file: FileId| {
        read(file.sum()) == format!("{}  {}\n", Digest::of(&read(file.script())).hex(), file.script()).as_bytes()
    };
    assert!(read("ksl1.cfg") == old && matches(FileId::First), "{case}: the old loader file is lost");
    let stage = Block::parse(&read(loader::STAGE)).ok().and_then(|block| Stage::read(&block));
    let next = Stage::next(stage, matches);
    if next == FileId::Second {
        assert!(read("ksl2.cfg") == loader::TEXT.as_bytes(), "{case}: the new loader file is not whole");
    }
    Some(next)
}

fn adoption(every: usize) {
    cross_holding(&["adopt"], every, old_loader, boots_by_either_loader, |bench, case| {
        let device = &bench.device;
        let ran = device.here(&["adopt"]);
        assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
        boots_by_either_loader(device, case);
        assert_eq!(next_loader(device, OLD_LOADER, case), Some(FileId::Second), "{case}");
        assert_eq!(device.power_on().start.unwrap().slot, SlotId::B, "{case}");
        let ran = device.here(&["healthcheck"]);
        assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
    });
}

const LOADER_0_1: &[u8] = include_bytes!("../../tests/fixtures/0.1/loader/grub.cfg");

/// A health run that replaces the loader file of 0.1.
fn loader_update(every: usize) {
    let arguments = ["healthcheck"];
    let prepare = |bench: &Bench| {
        let device = &bench.device;
        device.write("grub.cfg", LOADER_0_1);
        device.power_on();
        assert_eq!(device.here(&["healthcheck"]).code, Some(0));
        device.write("conf", b"loader_update=auto\n");
    };
    let either = |device: &Device, case: &str| {
        next_loader(device, LOADER_0_1, case);
        holds(device, case);
    };
    cross_holding(&arguments, every, prepare, either, |bench, case| {
        let device = &bench.device;
        for _ in 0..2 {
            let ran = device.here(&arguments);
            assert_eq!(ran.code, Some(0), "{case}: {ran:#?}");
            either(device, case);
            device.power_on();
        }
        assert_eq!(device.here(&arguments).code, Some(0), "{case}");
        assert_eq!(next_loader(device, LOADER_0_1, case), Some(FileId::Second), "{case}: it is not the good one");
    });
}

/// The path of a descriptor in a traced call.
fn descriptor(call: &str) -> &str {
    call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path)
}

/// The outcome of a store for a variable.
fn stored(call: &str, name: &str) -> String {
    call.split_once(&format!("\\n{name}="))
        .map_or(String::new(), |(_, rest)| rest.split('\\').next().unwrap().to_owned())
}

/// Which slots a main block calls good: not the one on trial.
fn good(say: impl Fn(&str) -> String) -> [bool; 2] {
    [("A", "ks_a"), ("B", "ks_b")]
        .map(|(slot, state)| say(state) == "good" && (say("boot_success") == "1" || say("active_slot") != slot))
}

/// Follows what is on the medium for sure. Before each store of the environment everything else is, and after it the store
/// is before anything else changes; a file is before it gets its name; the second file never promises more than the first.
/// Gives how often the main block was stored.
fn order(bench: &Bench, arguments: &[&str]) -> usize {
    let device = &bench.device;
    let main = Block::parse(&device.env_bytes()).unwrap();
    let mut promised = good(|name| main.get(name).unwrap_or_default().to_owned());
    let output = traced(device, arguments, &[]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let here = device.dir.path().to_str().unwrap();
    let full = |name: &str| if name.starts_with('/') { name.to_owned() } else { format!("{here}/{name}") };
    let (mut dirty, mut stores) = (BTreeSet::<String>::new(), 0);
    for line in fs::read_to_string(device.path("trace")).unwrap().lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let quoted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
        let named = |name: &str| match rest.starts_with("AT_FDCWD") || rest.starts_with('"') {
            true => full(name),
            false => format!("{}/{name}", descriptor(rest)),
        };
        let path = descriptor(rest).to_owned();
        match call {
            "write" | "pwrite64" if path.starts_with(here) && !path.ends_with("/lock") => {
                if path.ends_with("/grubenv") {
                    assert!(dirty.is_empty(), "stored while {dirty:?} may be lost: {line}");
                    stores += 1;
                    promised = good(|name| stored(rest, name));
                } else {
                    assert!(!dirty.iter().any(|path| path.ends_with("/grubenv")), "the store may be lost: {line}");
                }
                if path.ends_with("/fetch.json.new") {
                    let image = dirty.iter().find(|path| path.ends_with(".part"));
                    assert_eq!(image, None, "recorded before it is on the medium: {line}");
                }
                if path.ends_with("/ksenv2") {
                    let second = ["ks_a", "ks_b"].map(|name| stored(rest, name) == "good");
                    assert!((0..2).all(|slot| promised[slot] || !second[slot]), "it promises more: {line}");
                }
                dirty.insert(path);
            }
            "rename" | "renameat" | "renameat2" => {
                let (old, new) = (named(quoted[0]), named(quoted[1]));
                assert!(!dirty.contains(&old), "named before it is on the medium: {line}");
                dirty.insert(new.rsplit_once('/').unwrap().0.to_owned());
            }
            "unlink" | "unlinkat" if line.ends_with("= 0") && !named(quoted[0]).ends_with("/S/evidence") => {
                dirty.insert(named(quoted[0]).rsplit_once('/').unwrap().0.to_owned());
            }
            "fsync" | "fdatasync" => drop(dirty.remove(&path)),
            _ => {}
        }
        // The files that the health check tries to write there are removed again. Evidence that a power cut brings back is
        // deleted again.
        dirty.retain(|path| ["data", "S/evidence"].iter().all(|own| !path.starts_with(&format!("{here}/{own}"))));
    }
    assert!(dirty.is_empty(), "not on the medium in the end: {dirty:?}");
    stores
}

#[test]
fn a_download_is_recorded_only_as_far_as_it_is_on_the_medium() {
    let Some(bench) = Bench::new() else { return };
    let world = World::of(World::new(9_000_000).initramfs, "v2.0.0");
    let server = Server::start(move |request, out| world.answer(request, out));
    let device = &bench.device;
    let arguments = [&device.asking(&server, &["apply"])[..], &["--pubkey", "K"]].concat();
    assert_eq!(order(&bench, &arguments), 1, "void");
    let trace = fs::read_to_string(device.path("trace")).unwrap();
    // At least one on the way, and the one that the download is over.
    let records = trace.lines().filter(|line| line.starts_with("rename") && line.contains("fetch.json\"")).count();
    assert!(records >= 2, "{records}");
}

#[test]
fn nothing_counts_before_it_is_on_the_medium_and_each_change_is_one_store() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    publish(&bench.registry, "2.0.0", 2);
    let apply = [&device.asking(&bench.registry, &["apply", "--activate"])[..], &["--pubkey", "K"]].concat();
    assert_eq!(order(&bench, &apply), 2, "void, activated");
    device.power_on();
    let judge =
        |verb: &[&'static str]| [&device.local(verb)[..], &["--data-dir", "data", "--health-dir", "health.d"]].concat();
    let before = save(device);
    assert_eq!(order(&bench, &judge(&["healthcheck"])), 1, "committed");
    assert_eq!(order(&bench, &judge(&["healthcheck"])), 0, "an ordinary boot");
    restore(device, &before);
    device.make_unhealthy();
    assert_eq!(order(&bench, &judge(&["healthcheck", "--auto-rollback-after", "1"])), 1, "reverted");
}

#[test]
fn an_update_goes_on_after_a_fault_at_any_step() {
    update(7);
}

#[test]
fn an_update_by_pieces_goes_on_after_a_fault_at_any_step() {
    delta(42);
}

#[test]
fn a_commit_goes_on_after_a_fault_at_any_step() {
    commit(7);
}

#[test]
fn a_revert_goes_on_after_a_fault_at_any_step_and_is_remembered() {
    revert(7);
}

#[test]
fn an_adoption_goes_on_after_a_fault_at_any_step() {
    adoption(7);
}

#[test]
fn a_replaced_loader_file_goes_on_after_a_fault_at_any_step() {
    loader_update(7);
}

#[test]
#[ignore = "minutes: `make prove` runs it"]
fn every_fault_at_every_step() {
    adoption(1);
    loader_update(1);
    update(1);
    delta(1);
    commit(1);
    revert(1);
    data::each(1);
}
