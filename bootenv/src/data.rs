//! Checkpoints of data: what a boot does with them before any service runs, and what the agent clears away later.
//!
//! Pure: the names of the folders in `update/data/`, this boot and the boot environment go in, one act comes out. The
//! caller does it, syncs, looks again, and asks for the next one until the answer is [`Act::Go`] or [`Act::Hold`]. Each act
//! is one transition, and the state of a checkpoint is its name, so that a power cut between two acts loses nothing.

use std::fmt;
use std::str::FromStr;

use crate::protocol::{BootState, Booted, SlotState, View};
use crate::{OutsideAlphabet, SlotId, TrialId};

/// The layout of a checkpoint that this version writes, and the highest that it reads.
pub const LAYOUT: u32 = 1;

/// The layout of a checkpoint that a trial writes, of those up to `own`: the announcing system must be able to read it.
/// `announced` is the highest one that it reads; without an announcement it may know only the first.
#[must_use]
pub fn layout(own: u32, announced: Option<u32>) -> u32 {
    own.min(announced.unwrap_or(1))
}

/// The state of a checkpoint: the part of its name behind the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// `T.note`: the activation of trial T announces it.
    Note,
    /// `T.new`: being copied. No service of the trial has run.
    New,
    /// `T.none`: trial T went on without a checkpoint.
    None,
    /// `T.held`: complete. Services of the trial may have written since.
    Held,
    /// `T.back`: its restore began.
    Back,
    /// `T.kept`: trial T was committed; the data before it are kept for a person.
    Kept,
    /// `T.for-U`: as kept, and trial U starts with it.
    For(TrialId),
}

/// The name of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The trial before which its data were taken.
    pub trial: TrialId,
    /// Its state.
    pub mark: Mark,
}

impl Name {
    /// The same checkpoint in another state.
    #[must_use]
    pub fn with(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Note => "note",
            Mark::New => "new",
            Mark::None => "none",
            Mark::Held => "held",
            Mark::Back => "back",
            Mark::Kept => "kept",
            Mark::For(trial) => return write!(f, "{}.for-{trial}", self.trial),
        };
        write!(f, "{}.{mark}", self.trial)
    }
}

impl FromStr for Name {
    type Err = OutsideAlphabet;

    fn from_str(s: &str) -> Result<Self, OutsideAlphabet> {
        let (trial, mark) = s.split_once('.').ok_or(OutsideAlphabet)?;
        let mark = match mark {
            "note" => Mark::Note,
            "new" => Mark::New,
            "none" => Mark::None,
            "held" => Mark::Held,
            "back" => Mark::Back,
            "kept" => Mark::Kept,
            other => Mark::For(other.strip_prefix("for-").ok_or(OutsideAlphabet)?.parse()?),
        };
        Ok(Self { trial: trial.parse()?, mark })
    }
}

/// A checkpoint as a boot finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// Its name.
    pub name: Name,
    /// The slot of its trial.
    pub slot: SlotId,
    /// Its data belong to the system that runs now, by the digests of both images.
    pub of_booted: bool,
    /// An activation announced it. A `T.new` without this was made by the trial alone.
    pub noted: bool,
    /// This version can read it. One that it cannot read is neither restored nor removed.
    pub readable: bool,
}

/// Everything that decides.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The checkpoints.
    pub checkpoints: &'a [Checkpoint],
    /// This boot.
    pub booted: Booted,
    /// The main block of the boot environment.
    pub env: View,
    /// The loader file that started this boot does not know the slot protocol.
    pub legacy: bool,
    /// In this boot, the store that settles a trial has failed.
    pub settle_failed: bool,
}

/// The next act of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Services may start.
    Go,
    /// No service may start: nobody knows what this checkpoint says.
    Hold(Name),
    /// The trial ends before it began: store [`BootState::withdraw`], then reboot.
    Withdraw,
    /// End the restore of `T.back`, then move the checkpoint to the trash.
    Finish(Name),
    /// Count the entries, then rename to `T.back`. A `T.for-U` that does not count withdraws the trial; a `T.held` holds.
    Begin(Name),
    /// Store this: the trial has ended. If the store fails, ask again with [`Found::settle_failed`].
    Settle(BootState),
    /// Move to the trash.
    Drop(Name, Why),
    /// Rename to `T.kept`.
    Keep(Name, Why),
    /// Copy the data to `T.new`, then rename it to `T.held`.
    Take {
        /// The trial that is about to write.
        trial: TrialId,
        /// The act if the copy fails.
        or: OrElse,
    },
}

/// The act after a copy that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrElse {
    /// As [`Act::Withdraw`].
    Withdraw,
    /// Make `T.none` and go: nobody could put the data back, or nobody could withdraw the trial.
    GoWithout,
}

/// Why a checkpoint is kept or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its trial was committed.
    Committed,
    /// Its trial was committed, and the bootloader passed its slot over: this system runs on newer data.
    PassedOver,
    /// Another system than the one that it was taken from runs now.
    OtherSystem,
    /// A system that knows no checkpoints ran since.
    OlderAgent,
    /// No trial waits for it.
    NoTrial,
    /// The release that it belongs to cannot boot any more.
    BaseGone,
    /// The release that it belongs to is the good one again.
    Superseded,
}

/// True if a boot has nothing to decide: the boot environment need not be opened.
#[must_use]
pub fn is_ordinary(names: &[Name], booted: Booted) -> bool {
    let idle = |name: &Name| matches!(name.mark, Mark::Kept | Mark::For(_) | Mark::None);
    booted.trial.is_none() && names.iter().all(idle)
}

/// The next act of this boot, before any service.
#[must_use]
pub fn step(found: &Found<'_>) -> Act {
    if let Some(begun) = found.marked(Mark::Back) {
        return if begun.readable { Act::Finish(begun.name) } else { Act::Hold(begun.name) };
    }
    if found.legacy {
        return Act::Go;
    }
    if found.booted.trial.is_none() { found.outside_a_trial() } else { found.in_a_trial() }
}

/// The next act of the agent once services run: `None` if there is nothing to clear away.
#[must_use]
pub fn tidy(found: &Found<'_>) -> Option<Act> {
    let View::Ours(env) = found.env else { return None };
    if !env.success || found.legacy {
        return None;
    }
    found.checkpoints.iter().filter(|one| one.readable).find_map(|one| match one.name.mark {
        Mark::Note | Mark::New | Mark::None => Some(Act::Drop(one.name, Why::NoTrial)),
        Mark::For(_) => Some(Act::Keep(one.name, Why::NoTrial)),
        Mark::Held if env.good == one.slot => Some(Act::Keep(one.name, Why::Committed)),
        // A person goes back from the slot that is good now, to the other one.
        Mark::Kept if env.good != one.slot => Some(Act::Drop(one.name, Why::Superseded)),
        Mark::Kept if env.slot(one.slot.other()) == SlotState::Void => Some(Act::Drop(one.name, Why::BaseGone)),
        Mark::Held | Mark::Back | Mark::Kept => None,
    })
}

impl<'a> Found<'a> {
    fn marked(&self, mark: Mark) -> Option<&'a Checkpoint> {
        self.checkpoints.iter().find(|one| one.name.mark == mark)
    }

    fn has(&self, trial: TrialId, mark: Mark) -> bool {
        self.checkpoints.iter().any(|one| one.name == Name { trial, mark })
    }

    /// The trial of this slot was committed.
    fn is_committed(&self, slot: SlotId) -> bool {
        matches!(self.env, View::Ours(env) if env.good == slot)
    }

    /// Its announcement, also while it is being copied.
    fn announcement(&self, test: impl Fn(&Checkpoint) -> bool) -> Option<&'a Checkpoint> {
        let announces = |one: &&Checkpoint| match one.name.mark {
            Mark::Note => true,
            Mark::New => one.noted,
            _ => false,
        };
        self.checkpoints.iter().filter(announces).find(|one| test(one))
    }

    fn in_a_trial(&self) -> Act {
        let Booted { trial, slot, .. } = self.booted;
        let held = |one: &&Checkpoint| one.name.mark == Mark::Held;
        if self.checkpoints.iter().filter(held).any(|one| !one.readable) {
            return Act::Withdraw;
        }
        let own = |one: &Checkpoint| one.name.trial == trial && one.slot == slot;
        if let Some(other) = self.checkpoints.iter().filter(held).find(|one| !own(one)) {
            return Act::Drop(other.name, Why::OlderAgent);
        }
        let wished = self.marked(Mark::For(trial));
        if self.has(trial, Mark::Held) {
            // The second and third try go on with their own data, as after a power cut.
            return wished
                .map_or(Act::Go, |wished| if wished.readable { Act::Begin(wished.name) } else { Act::Withdraw });
        }
        if self.has(trial, Mark::None) {
            return Act::Go;
        }
        let announced = self.announcement(|one| one.name.trial == trial).is_some();
        Act::Take { trial, or: if announced || wished.is_some() { OrElse::Withdraw } else { OrElse::GoWithout } }
    }

    fn outside_a_trial(&self) -> Act {
        let booted = self.booted.slot;
        let held = self.checkpoints.iter().filter(|one| one.name.mark == Mark::Held);
        for one in held {
            let act = self.of_held(one);
            if act != Act::Go {
                return if one.readable { act } else { Act::Hold(one.name) };
            }
        }
        // A foreign writer, or damage, started this slot without its trial.
        let here = |one: &Checkpoint| one.slot == booted && !self.has(one.name.trial, Mark::None);
        match self.announcement(here) {
            Some(note) if !self.is_committed(booted) => Act::Take { trial: note.name.trial, or: OrElse::GoWithout },
            _ => Act::Go,
        }
    }

    /// The act for a checkpoint whose trial is not this boot.
    fn of_held(&self, one: &Checkpoint) -> Act {
        let committed = matches!(self.env, View::Ours(env) if env.success && env.good == one.slot);
        match (one.slot == self.booted.slot, committed) {
            (true, true) => Act::Keep(one.name, Why::Committed),
            // These are its own data.
            (true, false) => Act::Go,
            (false, true) => Act::Keep(one.name, Why::PassedOver),
            (false, false) if !one.of_booted => Act::Drop(one.name, Why::OtherSystem),
            (false, false) => match self.settled() {
                Some(next) if one.readable => Act::Settle(next),
                _ => Act::Begin(one.name),
            },
        }
    }

    /// Without this store the trial could come again after its checkpoint was used up.
    fn settled(&self) -> Option<BootState> {
        match self.env {
            View::Ours(env) if !self.settle_failed => env.settle(self.booted),
            _ => None,
        }
    }
}

/// State of one path of a checkpoint while it is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The folder was there when the checkpoint was taken.
    pub was_there: bool,
    /// The copy is still in the checkpoint.
    pub copy: bool,
    /// Something has the name of the folder.
    pub live: bool,
    /// The data of the trial were set aside.
    pub set_aside: bool,
}

/// The next rename for one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// The folder to the data of the trial that failed.
    SetAside,
    /// The copy to the place of the folder.
    PutBack,
}

/// The next rename for one path; `None` if it is done. Each one is synced before the next.
#[must_use]
pub fn put_back(place: Place) -> Option<Move> {
    match (place.was_there, place.copy) {
        (true, true) if place.live => Some(Move::SetAside),
        (true, true) => Some(Move::PutBack),
        (true, false) => None,
        (false, _) => (place.live && !place.set_aside).then_some(Move::SetAside),
    }
}
