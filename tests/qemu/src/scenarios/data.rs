//! Data that go back with the slot: a "KubeSolo" with a real SQLite database, whose newer release migrates it.

use std::path::PathBuf;
use std::process::Command;

use bootenv::SlotId;

use super::device::{Bench, Flaw, HEALTHY, More, SCRIPT_ENDED, succeeded};
use super::expect;
use crate::image::KERNEL;
use crate::machine::Machine;
use crate::runner::Run;
use crate::{Result, root};

/// The stand-in in the image.
const KUBESOLO: &str = "etc/kubesolo/health.d/50-kubesolo";
pub(crate) const CREATE: &str = "/etc/kubesolo/health.d/50-kubesolo create";
const REPORT: &str = "/etc/kubesolo/health.d/50-kubesolo report";
/// The data of 1.0.0: integrity, rows by release, version of the tables.
pub(crate) const OLD: &str = "ok 1.0.0|100 0";
/// The same after the migration of 2.0.0.
pub(crate) const NEW: &str = "ok 1.0.0|20 2.0.0|81 2";
/// Size of the data partition in MiB, beside the share that a checkpoint leaves free.
pub(super) const DATA_MIB: u64 = 192;
/// The tries left as each try of a trial finds them.
const TRIES: [u8; 3] = [2, 1, 0];

/// `sqlite3` of this machine and its libraries, each with its place in the image.
fn sqlite() -> Result<Vec<(PathBuf, String)>> {
    let program = "/usr/bin/sqlite3";
    let listed = String::from_utf8(crate::run(Command::new("ldd").arg(program))?)?;
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(libraries.chain([program]).map(|path| (PathBuf::from(path), path.trim_start_matches('/').to_owned())).collect())
}

/// The stand-in, and `sqlite3` for it.
fn kubesolo() -> Result<Vec<(PathBuf, String)>> {
    let mut files = sqlite()?;
    files.push((root().join("tests/qemu/guest/kubesolo"), KUBESOLO.to_owned()));
    Ok(files)
}

/// A device with such a stand-in, and with room for a checkpoint and for what it leaves free.
pub(crate) fn bench<'a>(run: &'a Run, settings: &str, data_mib: u64) -> Result<Bench<'a>> {
    let (settings, kernel_args) = (settings.to_owned(), "ks.deadline=40".to_owned());
    Bench::with(run, More { settings, kernel_args, ..device(data_mib)? })
}

/// The same with the time limits of a device.
pub(super) fn device(data_mib: u64) -> Result<More> {
    Ok(More { files: kubesolo()?, data_mib: Some(data_mib), ..More::default() })
}

/// In 1.0.0, once it is healthy: runs these commands, then the plug is pulled.
fn in_old(bench: &Bench, commands: &str) -> Result<()> {
    let mut machine = bench.power_on(&[("1.0.0", commands)])?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()
}

/// Has 1.0.0 install 2.0.0, which is to end like this.
pub(crate) fn activate(bench: &Bench, before: &str, end: &str) -> Result<()> {
    let end = if end.is_empty() {
        "rm -f /var/lib/kubesolo/end".into()
    } else {
        format!("echo {end} >/var/lib/kubesolo/end")
    };
    in_old(bench, &format!("{before} {end}; kubesolo-update apply --activate --retry-failed && sync"))
}

/// The device is in 1.0.0 with these data, and healthy.
fn is_back(mut machine: Machine, data: &str) -> Result<()> {
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 1.0.0: {data}"))?;
    succeeded(&mut machine)?;
    machine.power_cut()
}

/// A release migrates the data and fails its health check.
pub(super) fn unhealthy(run: &Run) -> Result<()> {
    let bench = bench(run, "", DATA_MIB)?;
    bench.publish("2.0.0", Flaw::None)?;
    activate(&bench, &format!("{CREATE} &&"), "fail")?;
    let last = format!("{REPORT}; kubesolo-update apply; echo \"test: apply ended with $?\"");
    let mut machine = bench.power_on(&[("1.0.0", &last)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for("kubesolo 2.0.0: migrated: 2")?;
    machine.wait_for("no such table: leases")?;
    machine.wait_for("ks: boot slot=A")?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 1.0.0: {OLD}"))?;
    // 75: the release that failed is not installed again.
    machine.wait_for("test: apply ended with 75")?;
    machine.power_cut()?;
    bench.stays_in("1.0.0", SlotId::A)
}

/// The same, ended by a panic, a hang, resets, power cuts, and rot of the new slot in its trial.
pub(super) fn endings(run: &Run) -> Result<()> {
    let bench = bench(run, "", DATA_MIB)?;
    bench.publish("2.0.0", Flaw::None)?;
    let mut before = format!("{CREATE} &&");
    let tried = |machine: &mut Machine, counter: u8| -> Result<()> {
        machine.wait_for(&format!("ks: boot slot=B try counter={counter}"))?;
        machine.wait_for("kubesolo 2.0.0: migrated: 2").map(drop)
    };
    for (end, sign) in [("panic", "Kernel panic"), ("hang", "not decided within 40 s"), ("reset", "reboot: ")] {
        activate(&bench, &before, end)?;
        before.clear();
        let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
        for counter in TRIES {
            tried(&mut machine, counter)?;
            machine.wait_for(sign)?;
        }
        machine.wait_for("data: kine back to what 1.0.0 left at")?;
        is_back(machine, OLD)?;
    }

    activate(&bench, "", "cut")?;
    for counter in TRIES {
        let mut machine = bench.power_on(&[])?;
        tried(&mut machine, counter)?;
        machine.power_cut()?;
    }
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    is_back(machine, OLD)?;

    activate(&bench, "", "cut")?;
    let mut machine = bench.power_on(&[])?;
    tried(&mut machine, 2)?;
    machine.power_cut()?;
    let mut kernel = bench.disk.slot_file(SlotId::B, KERNEL)?;
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    bench.disk.put_slot_file(SlotId::B, KERNEL, &kernel)?;
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("ks: slot B cannot be used")?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    is_back(machine, OLD)
}

/// The disk fills up between activation and reboot: the trial is withdrawn before it began, and the release is not blamed.
pub(super) fn withdrawn(run: &Run) -> Result<()> {
    let bench = bench(run, "", DATA_MIB)?;
    bench.publish("2.0.0", Flaw::None)?;
    // A disk without a free block, but for the copy of the first folder.
    let fill = "dd if=/dev/urandom of=/var/lib/kubesolo/kine/big bs=1M count=40 2>/dev/null && \
                kubesolo-update apply --activate && \
                { dd if=/dev/zero of=/var/lib/kubesolo/fill bs=1M 2>/dev/null; sync; true; }";
    in_old(&bench, &format!("{CREATE} && {fill}"))?;
    let last = format!(
        "{REPORT}; kubesolo-update apply; echo \"test: apply ended with $?\"; rm /var/lib/kubesolo/fill; \
         kubesolo-update apply --activate && sync"
    );
    let mut machine = bench.power_on(&[("1.0.0", &last)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("restarting: the trial is withdrawn")?;
    machine.wait_for("ks: boot slot=A committed")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 1.0.0: {OLD}"))?;
    // It waits for room, 73, and is installed as soon as there is some.
    machine.wait_for("test: apply ended with 73")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let mut machine = bench.power_on(&[("2.0.0", REPORT)])?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 2.0.0: {NEW}"))?;
    machine.power_cut()
}

/// A folder that was not there is not there afterwards.
pub(super) fn absent(run: &Run) -> Result<()> {
    let bench = bench(run, "state_paths=kine\n", DATA_MIB)?;
    bench.publish("2.0.0", Flaw::None)?;
    activate(&bench, "", "fail")?;
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for("kubesolo 2.0.0: migrated: 2")?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    is_back(machine, "no data")
}

/// The release before has no step for data: it could put nothing back. The trial says so, and goes on.
pub(super) fn first_release(run: &Run) -> Result<()> {
    let mut files = kubesolo()?;
    let step = run.write("no-step", b"#!/bin/sh\n")?;
    crate::run(Command::new("chmod").arg("755").arg(&step))?;
    let whole = files.clone();
    files.push((step, "usr/lib/kubesolo-update/stage/checkpoint".to_owned()));
    let mut bench = Bench::with(run, More { files, data_mib: Some(DATA_MIB), ..More::default() })?;
    bench.set_files(whole);
    bench.publish("2.0.0", Flaw::None)?;
    activate(&bench, &format!("{CREATE} &&"), "fail")?;
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for("kubesolo 2.0.0: migrated: 2")?;
    machine.wait_for("ks: boot slot=A")?;
    // On the newer data, as before this agent.
    machine.wait_for("these tables are newer than this server")?;
    machine.power_cut()
}

/// A committed release goes back with the data that the previous one left, and forth again with its own.
pub(super) fn with_data(run: &Run) -> Result<()> {
    const BACK: &str = "kubesolo-update rollback --with-data; echo \"test: without --yes $?\"; \
                        kubesolo-update rollback --with-data --yes && sync";
    let bench = bench(run, "", DATA_MIB)?;
    bench.publish("2.0.0", Flaw::None)?;
    activate(&bench, &format!("{CREATE} &&"), "")?;
    let mut machine = bench.power_on(&[("2.0.0", &format!("{REPORT}; {BACK}"))])?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 2.0.0: {NEW}"))?;
    machine.wait_for("test: without --yes 64")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;

    let mut machine = bench.power_on(&[("1.0.0", &format!("{REPORT}; {BACK}"))])?;
    machine.wait_for("ks: boot slot=A try counter=2")?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 1.0.0: {OLD}"))?;
    machine.wait_for("test: without --yes 64")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;

    let mut machine = bench.power_on(&[("2.0.0", REPORT)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("data: kine back to what 2.0.0 left at")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("kubesolo 2.0.0: {NEW}"))?;
    machine.wait_for(SCRIPT_ENDED)?;
    machine.power_cut()
}

/// A sixteenth of 2 GiB on a disk of a sixteenth of the speed takes as long, and every time limit is that of a device. A copy
/// that its limit permits is made, however long before the health run it takes; one that is slower is given up.
pub(super) fn slow_disk(run: &Run) -> Result<()> {
    const MIB: u64 = 128;
    // Read and written: in 128 s, then in 512 s.
    const PERMITTED: u64 = ((2 * MIB) << 20) / 128;
    const TOO_SLOW: u64 = ((2 * MIB) << 20) / 512;
    let bench = Bench::with(run, device(2 * MIB + DATA_MIB)?)?;
    bench.publish("2.0.0", Flaw::None)?;
    let fill = format!("dd if=/dev/zero of=/var/lib/kubesolo/kine/big bs=1M count={MIB} 2>/dev/null &&");
    activate(&bench, &format!("{CREATE} && {fill}"), "fail")?;
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("restart unless it is decided within 1800 s")?;
    machine.slow_disk(PERMITTED)?;
    let line = machine.wait_for("data: checkpoint of kine")?;
    let seconds = line.trim_end().strip_suffix(" s").and_then(|line| line.rsplit(' ').next()?.parse().ok());
    expect("a time that has the sync in it", &seconds.map(|seconds: u64| (90..180).contains(&seconds)), &Some(true))?;
    machine.slow_disk(0)?;
    machine.wait_for("kubesolo 2.0.0: migrated: 2")?;
    machine.wait_for("data: kine back to what 1.0.0 left at")?;
    is_back(machine, OLD)?;

    activate(&bench, "", "fail")?;
    let mut machine = bench.power_on(&[("1.0.0", REPORT)])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for("restart unless it is decided within 1800 s")?;
    machine.slow_disk(TOO_SLOW)?;
    machine.patience *= 4;
    machine.wait_for("restarting: the trial is withdrawn")?;
    machine.slow_disk(0)?;
    machine.wait_for("ks: boot slot=A committed")?;
    is_back(machine, OLD)
}
