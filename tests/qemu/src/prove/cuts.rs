//! Power cuts of the running device at random moments, one update after the other.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use bootenv::SlotId;

use super::judge::{Judge, release};
use crate::Result;
use crate::cells::Seeded;
use crate::machine::Machine;
use crate::runner::Run;
use crate::scenarios::device::{Bench, Flaw, HEALTHY};

/// The longest time under power after a boot is healthy, in milliseconds: an update and the trial boot fit into it.
const LONGEST: usize = 40_000;
/// The same for cuts while the device boots.
const BOOT: usize = 12_000;

/// The counts.
#[derive(Debug, Default)]
pub struct Cuts {
    /// Power cuts.
    pub cuts: usize,
    /// Boots that became healthy.
    pub healthy: usize,
    /// Updates that were committed.
    pub updates: u64,
    /// The slot that would boot after each cut.
    pub decisions: BTreeMap<&'static str, usize>,
}

impl Cuts {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.cuts += other.cuts;
        self.healthy += other.healthy;
        self.updates += other.updates;
        for (reason, count) in other.decisions {
            *self.decisions.entry(reason).or_default() += count;
        }
        self
    }
}

/// Cuts the power of one device so many times while it updates itself again and again. After each cut the slot that would
/// boot must hold a published release, and every boot that is let run must become healthy.
///
/// # Errors
/// One of them does not.
pub fn cut(run: &Run, seed: u64, cuts: usize) -> Result<Cuts> {
    let bench = Bench::build(run)?;
    let mut random = Seeded::new(seed);
    let kernel = fs::read(bench.kernel())?;
    let first = bench.disk.slot_file(SlotId::A, crate::image::INITRAMFS)?;
    let mut published = vec![release(&kernel, &first)];
    let mut seen = Cuts::default();
    let mut newest = 1;
    let publish = |newest: u64, published: &mut Vec<[u8; 32]>| -> Result<()> {
        let initramfs = fs::read(bench.publish(&format!("{newest}.0.0"), Flaw::None)?)?;
        published.push(release(&kernel, &initramfs));
        Ok(())
    };
    let update = "kubesolo-update apply --activate --reboot";
    for number in 0..cuts {
        let disk = fs::read(&bench.disk.path)?;
        // No name is known twice: the disk changes with every cut.
        let mut judge = Judge::new(bench.disk.clone(), published.clone());
        let here = judge.look(&disk, |_| None).map_err(|why| format!("cut {number}, seed {seed}: {why}"))?;
        if number > 0 {
            seen.cuts += 1;
            *seen.decisions.entry(here.decision.reason).or_default() += 1;
        }
        let newest_content = published.last().copied();
        let committed = here.decision.reason == "committed"
            && here.decision.start.is_some_and(|start| {
                here.contents[start.slot as usize].is_some_and(|content| content.hash == newest_content)
            });
        if committed {
            seen.updates = newest - 1;
            newest += 1;
            publish(newest, &mut published)?;
        }
        drop(disk);
        let script: Vec<(String, &str)> = (1..=newest).map(|version| (format!("{version}.0.0"), update)).collect();
        let script: Vec<(&str, &str)> = script.iter().map(|(version, update)| (version.as_str(), *update)).collect();
        let mut machine = Machine::power_on(&bench.device(&script)?, &run.dir)?;
        // One cut in four while it boots.
        let wait = if random.below(4) == 0 {
            random.below(BOOT)
        } else {
            machine.wait_for(HEALTHY).map_err(|e| format!("after cut {number}, seed {seed}: {e}"))?;
            seen.healthy += 1;
            random.below(LONGEST)
        };
        thread::sleep(Duration::from_millis(wait as u64));
        machine.power_cut()?;
    }
    let disk = fs::read(&bench.disk.path)?;
    let last = Judge::new(bench.disk.clone(), published).look(&disk, |_| None);
    let last = last.map_err(|why| format!("last cut, seed {seed}: {why}"))?;
    seen.cuts += 1;
    *seen.decisions.entry(last.decision.reason).or_default() += 1;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for(HEALTHY).map_err(|e| format!("after the last cut, seed {seed}: {e}"))?;
    seen.healthy += 1;
    machine.power_cut()?;
    Ok(seen)
}
