//! The proof that no power cut leaves a device without a release to boot.
//!
//! A device runs a whole update while QEMU records every write and flush ([`cycle`], [`log`]). Every disk that a power
//! cut could have left is made again from that ([`replay`]) and judged: what boots, and whether it is a published release
//! ([`judge`], [`read`]). Of the disks that differ in anything that matters, a sample is read by GRUB's or U-Boot's own code,
//! gone on from by the agent, and booted ([`next`]). Beside that, running devices lose their power at random moments ([`cuts`]),
//! and one device goes through years of updates ([`years`]).

pub mod cuts;
pub mod cycle;
pub mod data;
pub mod judge;
pub mod log;
pub mod next;
pub mod read;
pub mod replay;
pub mod years;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use bootenv::SlotId;

use self::cycle::{Cycle, Recording};
use self::judge::{Judge, Seen};
use self::log::Request;
use self::replay::{Cut, Left, Replay};
use crate::cells::Seeded;
use crate::machine::Firmware;
use crate::runner::Run;
use crate::{Result, root};

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Random numbers.
    pub seed: u64,
    /// Seeded cuts beside each prefix that has unflushed requests.
    pub variants: usize,
    /// Disks that the bootloader's tools read and the agent goes on from, beside one of each kind.
    pub sample: usize,
    /// Disks that are booted.
    pub boots: usize,
}

impl Effort {
    /// The number of cuts that a scenario of `make test` can afford.
    pub const SHORT: Effort = Effort { seed: 1, variants: 4, sample: 0, boots: 0 };
    /// The number of cuts of `make prove`.
    pub const FULL: Effort = Effort { seed: 1, variants: 24, sample: 8, boots: 4 };
}

/// The cuts that were tried, all of them with a good end.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests of the device, flushes among them.
    pub requests: usize,
    /// Flushes.
    pub flushes: usize,
    /// Disks that were judged: prefixes, torn requests, parts of what was not flushed.
    pub cuts: [usize; 3],
    /// Disks that differ in environment or slots.
    pub kinds: usize,
    /// How many cuts end in each decision of the bootloader.
    pub decisions: Vec<(String, usize)>,
    /// Disks that the bootloader's tools read alike, that the agent went on from, that were booted.
    pub sampled: [usize; 3],
    /// How many of these agents went on with a download that the cut had interrupted.
    pub resumed: usize,
    /// How many cuts it took until a disk that takes no notice of flushes was found out: the rig can fail.
    pub found_out: usize,
    /// Why the agent was not run.
    pub skipped: Option<String>,
}

/// Records a cycle and tries every cut of it.
///
/// # Errors
/// The first cut that ends in anything but a good boot, with its name; its disk is kept in the run's folder.
pub fn prove(run: &Run, cycle: Cycle, effort: Effort) -> Result<Report> {
    let recording = cycle::record(run, cycle)?;
    try_cuts(run, &recording, effort)
}

fn try_cuts(run: &Run, recording: &Recording, effort: Effort) -> Result<Report> {
    let log = &recording.log;
    let flushes = log.requests.iter().filter(|request| **request == Request::Flush).count();
    let mut report = Report { requests: log.requests.len(), flushes, ..Report::default() };
    let mut judge = Judge::new(recording.bench.disk.clone(), recording.published.clone());
    let cuts = Replay::cuts(log, effort.seed, effort.variants);
    let mut replay = Replay::new(log, recording.before.clone());
    let mut kinds: HashMap<[u8; 32], (Cut, usize)> = HashMap::new();
    let mut decisions: HashMap<String, usize> = HashMap::new();
    let mut failures = vec![];
    for cut in &cuts {
        let places = SlotId::BOTH.map(|slot| judge.place(slot));
        let version = |slot: SlotId| {
            let (at, size) = places[slot as usize];
            Replay::version(log, *cut, at, at + size)
        };
        match replay.at(*cut, |disk| judge.look(disk, version))? {
            Ok(seen) => {
                kinds.entry(seen.key).or_insert((*cut, 0)).1 += 1;
                let slot = seen.decision.start.map_or("none".to_owned(), |start| start.slot.to_string());
                *decisions.entry(format!("slot {slot}: {}", seen.decision.reason)).or_default() += 1;
            }
            Err(why) => failures.push((*cut, why)),
        }
        report.cuts[match cut.left {
            Left::Whole => 0,
            Left::Torn(_) => 1,
            Left::Some(_) => 2,
        }] += 1;
    }
    report.kinds = kinds.len();
    report.decisions = decisions.into_iter().collect();
    report.decisions.sort();
    if let Some((cut, why)) = failures.first() {
        let kept = run.file(&format!("cut-{cut}.disk"));
        Replay::new(log, recording.before.clone()).at(*cut, |disk| next::save(disk, &kept))??;
        let others = failures.len() - 1;
        return Err(format!("cut {cut}: {why} ({others} others failed). Kept: {}", kept.display()).into());
    }

    report.found_out = finds_out_lost_flushes(recording, &mut judge, effort.seed)?;

    let mut chosen: Vec<Cut> = kinds.into_values().map(|(cut, _)| cut).collect();
    chosen.sort_by_key(|cut| cut.after);
    let mut random = Seeded::new(effort.seed);
    if effort.sample > 0 {
        chosen.extend((0..effort.sample).map(|_| cuts[random.below(cuts.len())]));
        sample(run, recording, &mut judge, &chosen, effort, &mut report)?;
    }
    Ok(report)
}

/// The same device with a disk that takes no notice of flushes cannot keep its promises. A rig that sees nothing then would
/// see nothing if the agent left a sync out.
fn finds_out_lost_flushes(recording: &Recording, judge: &mut Judge, seed: u64) -> Result<usize> {
    const TRIES: usize = 200;
    let log = recording.log.without_flushes();
    let late = log.requests.len() / 2;
    let cuts =
        Replay::cuts(&log, seed, 1).into_iter().filter(|cut| cut.after > late && matches!(cut.left, Left::Some(_)));
    let mut replay = Replay::new(&log, recording.before.clone());
    for (number, cut) in cuts.take(TRIES).enumerate() {
        if replay.at(cut, |disk| judge.look(disk, |_| None))?.is_err() {
            return Ok(number + 1);
        }
    }
    Err("a disk that takes no notice of flushes was not found out: the rig sees nothing".into())
}

/// Goes on from the chosen cuts.
fn sample(
    run: &Run,
    recording: &Recording,
    judge: &mut Judge,
    chosen: &[Cut],
    effort: Effort,
    report: &mut Report,
) -> Result<()> {
    report.skipped = next::cannot_mount();
    // Spread over the cycle.
    let every = chosen.len().div_ceil(effort.boots.max(1));
    for (number, cut) in chosen.iter().enumerate() {
        let image = run.file("cut.img");
        let mut replay = Replay::new(&recording.log, recording.before.clone());
        let seen = replay.at(*cut, |disk| -> Result<Seen> {
            let seen = judge.look(disk, |_| None)?;
            next::save(disk, &image)?;
            next::tools_read_the_same(run, judge, disk, &image, &seen)?;
            Ok(seen)
        })?;
        let gone_on = seen.and_then(|seen| {
            report.sampled[0] += 1;
            if number % every == every / 2 {
                next::boots(run, recording, &image, &seen)?;
                report.sampled[2] += 1;
                replay.at(*cut, |disk| next::save(disk, &image))??;
            }
            if report.skipped.is_none() {
                report.resumed += usize::from(next::agent_goes_on(run, recording, &image, &seen)?);
                report.sampled[1] += 1;
            }
            Ok(())
        });
        gone_on.map_err(|why| {
            let kept = run.file(&format!("cut-{cut}.disk"));
            let saved = replay.at(*cut, |disk| next::save(disk, &kept));
            format!("cut {cut}: {why}. Kept: {} ({saved:?})", kept.display())
        })?;
    }
    Ok(())
}

/// A folder of its own for a part of the proof.
///
/// # Errors
/// It cannot be made.
pub fn run(name: &str, firmware: Firmware) -> Result<Run> {
    let dir: PathBuf = root().join("target/prove").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(Run { dir, firmware, jobs: 1 })
}

/// The folder of a device that outlives a call.
///
/// # Errors
/// It cannot be made.
pub fn lasting(name: &str, firmware: Firmware) -> Result<Run> {
    let dir: PathBuf = root().join("target").join(name).join(firmware.as_str());
    fs::create_dir_all(&dir)?;
    Ok(Run { dir, firmware, jobs: 1 })
}

/// As a scenario: one cycle, every cut, no sample.
///
/// # Errors
/// As [`prove`].
pub fn scenario(run: &Run) -> Result<()> {
    prove(run, Cycle::Commit, Effort::SHORT).map(drop)
}
