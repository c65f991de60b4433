//! Evidence of a failed trial, as the previous release shows it.

use std::process::Command;

use bootenv::SlotId;

use super::device::{Bench, Flaw, HEALTHY, succeeded};
use crate::Result;
use crate::runner::Run;

/// The last line of the kernel log that the application of 2.0.0 writes.
const WORDS: &str = "guest: the valve does not answer";

/// A release panics in its health check, in each try.
pub(super) fn panic(run: &Run) -> Result<()> {
    each_try_ends(Bench::build(run)?, "echo c >/proc/sysrq-trigger", "Kernel panic - not syncing: sysrq triggered")
}

/// A task that hangs in the kernel is a panic in a trial. This device has no UEFI: `ramoops` keeps the panic in a range of
/// memory.
pub(super) fn hang(run: &Run) -> Result<()> {
    const RANGE: &str = "memmap=1M$0x14000000 ramoops.mem_address=0x14000000 ramoops.mem_size=0x100000 \
                         ramoops.record_size=0x10000 ramoops.ecc=1";
    // A write to a frozen filesystem waits in the kernel. The agent permits 300 s.
    const HANG: &str = "echo 5 >/proc/sys/kernel/hung_task_timeout_secs; mkdir -p /run/frozen; \
                        mount -t ext4 $(kubesolo-update disk slot-b) /run/frozen; fsfreeze --freeze /run/frozen; \
                        touch /run/frozen/file";
    let bench = Bench::build(run)?;
    // The command that makes a disk permits no `$`.
    let file = "grub/kernel-args.cfg";
    let arguments = String::from_utf8(bench.disk.esp_file(file)?)?;
    let (start, rest) = arguments.split_once('"').ok_or("no arguments of the kernel")?;
    let (known, _) = rest.split_once('"').ok_or("no end of the arguments of the kernel")?;
    bench.disk.put_esp_file(file, format!("{start}'{known} {RANGE}'\n").as_bytes())?;
    each_try_ends(bench, HANG, "Kernel panic - not syncing: hung_task")
}

/// Each try of 2.0.0 ends in its health check by these commands, with these words of the kernel.
fn each_try_ends(mut bench: Bench, end: &str, panic: &str) -> Result<()> {
    // The log is synced once a second.
    let script = format!("#!/bin/sh\necho '{WORDS}' >/dev/kmsg\nsleep 3\n{end}\n");
    let check = bench.run.write("application", script.as_bytes())?;
    crate::run(Command::new("chmod").arg("755").arg(&check))?;
    bench.set_files(vec![(check, "etc/kubesolo/health.d/50-application".to_owned())]);
    bench.publish("2.0.0", Flaw::None)?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply --activate && sync")])?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;

    let last = "kubesolo-update history --last -v; \
                [ ! -e /var/lib/kubesolo/update/evidence ] && [ -z \"$(ls /sys/fs/pstore)\" ] && echo test: nothing else is left";
    let mut machine = bench.power_on(&[("1.0.0", last)])?;
    for counter in [2, 1, 0] {
        machine.wait_for(&format!("ks: boot slot=B try counter={counter}"))?;
        machine.wait_for("Kernel panic")?;
    }
    machine.wait_for("ks: no tries left for slot B: returning to slot A")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("2.0.0 failed its trial")?;
    for number in 1..=3 {
        let line = machine.wait_for(&format!("try {number}:"))?;
        if !line.contains("health") || !line.contains("(by counter, log, panic)") {
            return Err(format!("try {number} left less: {line}").into());
        }
    }
    machine.wait_for("panic:")?;
    machine.wait_for(WORDS)?;
    machine.wait_for(panic)?;
    machine.wait_for("last words:")?;
    machine.wait_for(WORDS)?;
    machine.wait_for("test: nothing else is left")?;
    machine.power_cut()?;
    bench.stays_in("1.0.0", SlotId::A)
}
