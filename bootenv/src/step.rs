//! The steps by which an agent changes a device. Power may go between any two of them.
//!
//! The model in `tests/model` explores every order of them that it knows, and the agent logs each one when it is done. A test
//! of the agent compares the two, so that neither changes alone.

use std::fmt;

use crate::protocol::{BootState, FallbackBlock};
use crate::{SlotId, TrialId};

/// Target of the agent's log records of steps, at level debug.
pub const TARGET: &str = "bootenv::step";

/// One step: it happens whole or not at all, or it reads and decides whether the job continues. The text of a step is what the
/// agent logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// GRUB's second file is stored.
    Second(FallbackBlock),
    /// The main block is stored; with U-Boot, one of the two copies.
    Main(BootState),
    /// `state.json` is replaced.
    Notes(Notes),
    /// `history.json` is replaced. Nothing depends on it.
    History,
    /// The record of an attempt is replaced. Nothing depends on it.
    Record,
    /// The key of the device is made. Nothing depends on it.
    Key,
    /// The receipt of a trial is written. Nothing depends on it.
    Receipt,
    /// `trust.json` is replaced, with so many failed releases.
    Trust(usize),
    /// `memory.json` is replaced, with so many trials that nobody judged.
    Memory(usize),
    /// `unjudged.json` is written over: the trial whose last health run could not look, or none.
    Unjudged(TrialId),
    /// Hash files and manifest of the slot are gone from the medium.
    Unhash(SlotId),
    /// The images of the slot are gone from the medium.
    Erase(SlotId),
    /// The first image of the slot is created, under a temporary name.
    Begin(SlotId),
    /// Both images of the slot are on the medium and have their names.
    Images(SlotId),
    /// The hash files of the slot are on the medium.
    Hashes(SlotId),
    /// The manifest of the slot is on the medium.
    Manifest(SlotId),
    /// The slot was read from the medium and holds what its manifest names.
    ReadBack(SlotId),
}

/// The part of `state.json` that says how trials end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The noted trial.
    pub trial: Option<Noted>,
    /// Number of releases whose trial was once not seen to start.
    pub not_started: usize,
}

/// A trial as it is noted before the boot environment names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// As in the boot environment.
    pub id: TrialId,
    /// The slot on trial.
    pub slot: SlotId,
    /// True if a boot of it reached userspace.
    pub started: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables = |variables: Vec<(&str, String)>| {
            variables.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>()
        };
        match self {
            Step::Second(second) => write!(f, "second{}", variables(second.variables())),
            Step::Main(state) => write!(f, "main{}", variables(state.variables())),
            Step::Notes(notes) => write!(f, "notes{notes}"),
            Step::History => f.write_str("history"),
            Step::Record => f.write_str("record"),
            Step::Key => f.write_str("key"),
            Step::Receipt => f.write_str("receipt"),
            Step::Trust(failed) => write!(f, "trust failed={failed}"),
            Step::Memory(not_judged) => write!(f, "memory not_judged={not_judged}"),
            Step::Unjudged(trial) => write!(f, "unjudged trial={trial}"),
            Step::Unhash(slot) => write!(f, "unhash {slot}"),
            Step::Erase(slot) => write!(f, "erase {slot}"),
            Step::Begin(slot) => write!(f, "begin {slot}"),
            Step::Images(slot) => write!(f, "images {slot}"),
            Step::Hashes(slot) => write!(f, "hashes {slot}"),
            Step::Manifest(slot) => write!(f, "manifest {slot}"),
            Step::ReadBack(slot) => write!(f, "read-back {slot}"),
        }
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Noted { id, slot, started }) = self.trial {
            write!(f, " trial={id} slot={slot} started={}", u8::from(started))?;
        }
        write!(f, " not_started={}", self.not_started)
    }
}
