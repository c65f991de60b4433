//! One whole update of a device, with every write and flush recorded.

use std::fs;

use bootenv::SlotId;
use bootenv::grub::Block;
use bootenv::protocol::{BootState, FallbackBlock, SlotState};
use bootenv::uboot::{Environment, Format};

use super::log::Log;
use crate::Result;
use crate::image::{INITRAMFS, KERNEL, UBOOT_SIZE};
use crate::machine::{Firmware, Machine};
use crate::runner::Run;
use crate::scenarios::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED};

/// How the update ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// The release is healthy.
    Commit,
    /// Its health check fails, and its own hook reverts.
    Revert,
    /// It panics until its tries are used up.
    Counter,
    /// The release is healthy, and comes by pieces and patches or not at all.
    Delta,
}

impl Cycle {
    /// All of them.
    pub const ALL: [Cycle; 4] = [Cycle::Commit, Cycle::Revert, Cycle::Counter, Cycle::Delta];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cycle::Commit => "commit",
            Cycle::Revert => "revert",
            Cycle::Counter => "counter",
            Cycle::Delta => "delta",
        }
    }

    fn flaw(self) -> Flaw {
        match self {
            Cycle::Commit | Cycle::Delta => Flaw::None,
            Cycle::Revert => Flaw::Unhealthy,
            Cycle::Counter => Flaw::Panics,
        }
    }
}

/// A device, what was on its disk before, and what it wrote since.
#[derive(Debug)]
pub struct Recording<'a> {
    /// The device.
    pub(crate) bench: Bench<'a>,
    /// Its disk before.
    pub before: Vec<u8>,
    /// The output of the cycle.
    pub log: Log,
    /// Both files of each published release, hashed together.
    pub published: Vec<[u8; 32]>,
}

/// Runs a device from 1.0.0 in slot A to the end of a trial of 2.0.0 in slot B.
///
/// Before, both slots are good: a slot that is written has something to lose then.
///
/// # Errors
/// The device does not do what the cycle is about.
pub fn record(run: &Run, cycle: Cycle) -> Result<Recording<'_>> {
    let bench = match cycle {
        Cycle::Delta => Bench::build_with(run, "delta=only\n")?,
        _ => Bench::build(run)?,
    };
    for name in [KERNEL, INITRAMFS, "manifest.json"] {
        let bytes = bench.disk.slot_file(SlotId::A, name)?;
        if name == "manifest.json" {
            bench.disk.put_slot_file(SlotId::B, name, &bytes)?;
        } else {
            bench.disk.put_slot_file_and_hash(SlotId::B, name, &bytes)?;
        }
    }
    let both_good = BootState { b: SlotState::Good, ..BootState::committed(SlotId::A) };
    if run.firmware == Firmware::UBoot {
        bench.disk.put_slot_file(SlotId::B, "crc32.txt", &bench.disk.slot_file(SlotId::A, "crc32.txt")?)?;
        let both = Environment::default().with(&both_good.variables());
        let both = both.encode(UBOOT_SIZE, Format::Redundant, 1).map_err(|e| e.to_string())?;
        [0, 1].into_iter().try_for_each(|copy| bench.disk.put_copy(copy, &both))?;
    } else {
        bench.disk.set_env(&Block::main(&both_good))?;
        bench.disk.set_second(&Block::second(&FallbackBlock::of(&both_good)))?;
    }
    let before = fs::read(&bench.disk.path)?;
    let old = bench.disk.slot_file(SlotId::A, INITRAMFS)?;
    let new = fs::read(match cycle {
        Cycle::Delta => bench.publish_patches("2.0.0")?,
        _ => bench.publish("2.0.0", cycle.flaw())?,
    })?;
    let kernel = fs::read(bench.kernel())?;

    let mut device = bench.device(&[
        // The second time it is back in 1.0.0, and remembers why.
        ("1.0.0", "kubesolo-update apply --activate --reboot; sync; echo over"),
        ("2.0.0", "sync; echo over"),
    ])?;
    device.writes = Some(run.write("writes.log", &[])?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("ks: boot slot=A committed")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    if cycle == Cycle::Counter {
        machine.wait_for("ks: boot slot=B try counter=1")?;
        machine.wait_for("ks: boot slot=B try counter=0")?;
    }
    if cycle.flaw() != Flaw::None {
        machine.wait_for("ks: boot slot=A committed")?;
    }
    machine.wait_for(HEALTHY)?;
    machine.wait_for("over")?;
    machine.wait_for(SCRIPT_ENDED)?;
    machine.power_cut()?;
    let log = Log::read(&run.file("writes.log"))?;
    let published = vec![super::judge::release(&kernel, &old), super::judge::release(&kernel, &new)];
    Ok(Recording { bench, before, log, published })
}
