//! Writes of a device, counted by the kernel of the guest at its disk: with the blocks, journal and flushes of its filesystems.

use std::collections::BTreeMap;

use super::device::{Bench, Flaw, HEALTHY, succeeded};
use crate::Result;
use crate::machine::Machine;
use crate::runner::Run;

/// Prints the counters of the disk once everything is on it.
const COUNT: &str = "count() { sync; echo \"wear: $1 $(cat /sys/block/vda/stat)\"; }; ";
/// Seconds in which nothing happens: longer than the kernel keeps changed pages (30 s) and than ext4 its journal (5 s).
const REST: u64 = 60;

/// Counters of the disk since the kernel started (Documentation/block/stat.rst).
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sectors: u64,
    flushes: u64,
}

/// Reads the line of a mark.
fn counters(machine: &mut Machine, mark: &str) -> Result<Counters> {
    let line = machine.wait_for(&format!("wear: {mark} "))?;
    let (_, stat) = line.split_once(&format!("wear: {mark} ")).ok_or("no counters")?;
    let all: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
    match (all.get(6), all.get(15)) {
        (Some(sectors), Some(flushes)) => Ok(Counters { sectors: *sectors, flushes: *flushes }),
        _ => Err(format!("{line}: the kernel counts no flushes").into()),
    }
}

pub(super) fn wear(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let initramfs = bench.publish("2.0.0", Flaw::None)?;
    let images = std::fs::metadata(initramfs)?.len() + std::fs::metadata(bench.kernel())?.len();
    let before = format!(
        "{COUNT}count begin; sleep {REST}; count rest; kubesolo-update check; count check; kubesolo-update apply; \
         count apply; kubesolo-update activate; count activate; kubesolo-update run; count idle-run; \
         kubesolo-update data; kubesolo-update healthcheck --no-reboot; count idle-health; reboot"
    );
    let after = format!("{COUNT}count trial");
    let mut machine = bench.power_on(&[("1.0.0", &before), ("2.0.0", &after)])?;
    machine.wait_for(HEALTHY)?;
    let mut last = counters(&mut machine, "begin")?;
    let mut worn = BTreeMap::new();
    for mark in ["rest", "check", "apply", "activate", "idle-run", "idle-health"] {
        let now = counters(&mut machine, mark)?;
        let (kib, flushes) = ((now.sectors - last.sectors) / 2, now.flushes - last.flushes);
        println!("      {mark}: {kib} KiB, {flushes} flushes");
        worn.insert(mark, (kib, flushes));
        last = now;
    }
    machine.wait_for("ks: boot slot=B try")?;
    let trial = counters(&mut machine, "trial")?;
    println!("      trial, from power-on to its commit: {} KiB, {} flushes", trial.sectors / 2, trial.flushes);
    succeeded(&mut machine)?;
    machine.power_cut()?;
    println!("      images: {} KiB", images / 1024);
    // One flush of each is that of `sync` itself. An activation reserves 768 KiB for the evidence of its tries.
    for (mark, kib) in [("rest", 16), ("check", 16), ("idle-run", 128), ("idle-health", 128), ("activate", 2048)] {
        if worn[mark].0 > kib {
            return Err(format!("{mark} writes {} KiB, more than {kib} KiB", worn[mark].0).into());
        }
    }
    let more = worn["apply"].0.saturating_sub(images / 1024);
    if more > images / 1024 / 20 + 1024 {
        return Err(format!("apply writes {more} KiB beside the images").into());
    }
    Ok(())
}
