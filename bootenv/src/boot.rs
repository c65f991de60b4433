//! The bootloader's side of the protocol: which slot a power-on boots, and what it stores before.
//!
//! `loader/grub.cfg` implements this in GRUB's language. Tests replay both against each other, so a change here is
//! a change there.

use crate::protocol::{BootState, FOREIGN_SEAL, FallbackBlock, Foreign, SlotState, View};
use crate::{Fallback, SlotId, TrialId};

/// Files of a slot, as the bootloader finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Files {
    /// Both files are there, and both match their non-empty hash files. The additions of the release (`extras`) are whole, or
    /// there are none.
    Hold,
    /// Both files can be loaded, but a hash file is missing, empty or does not match, or an addition of the release is damaged.
    Load,
    /// A file is missing, or the kernel is none.
    Broken,
}

/// Everything that a power-on sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PowerOn {
    /// The main block.
    pub main: View,
    /// The second file, if it is valid.
    pub second: Option<FallbackBlock>,
    /// The files of slot A, slot B.
    pub files: [Files; 2],
    /// True if the bootloader can write the main block.
    pub can_save: bool,
}

/// The kernel that is started, and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Start {
    /// `kubesolo.slot=`.
    pub slot: SlotId,
    /// `ks.trial=`.
    pub trial: TrialId,
    /// `ks.fallback=`, if any.
    pub fallback: Option<Fallback>,
}

/// The outcome of a power-on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The one store that was made, as the variables that differ from before. Empty: nothing was written.
    pub stored: Vec<(&'static str, String)>,
    /// The start; `None`: nothing loads, the bootloader retries after a delay.
    pub start: Option<Start>,
    /// Why, in words.
    pub reason: &'static str,
}

/// Decides a power-on.
#[must_use]
pub fn decide(on: &PowerOn) -> Decision {
    match on.main {
        View::Ours(state) => ours(on, state),
        View::Foreign(foreign) => decide_foreign(on, foreign),
        View::Invalid => match on.second {
            Some(second) => fall(
                on,
                Fallback::Env,
                second.good,
                [second.a, second.b],
                "boot environment invalid, its second file counts",
            ),
            None => {
                fall(on, Fallback::Env, SlotId::A, [SlotState::Good; 2], "both files of the boot environment invalid")
            }
        },
    }
}

/// As [`decide`], for a main block in which not every store holds: `holds` shows that one does. A bootloader that cannot
/// store continues without it.
#[must_use]
pub fn decide_with(on: &PowerOn, holds: impl FnOnce(&[(&'static str, String)]) -> bool) -> Decision {
    let decision = decide(on);
    if decision.stored.is_empty() || holds(&decision.stored) {
        decision
    } else {
        decide(&PowerOn { can_save: false, ..*on })
    }
}

fn ours(on: &PowerOn, state: BootState) -> Decision {
    let states = [state.a, state.b];
    if state.success {
        return boot(on, vec![], &Choice::ordinary(state.active, states, "committed"));
    }
    let (next, trial, reason) = match state.counter {
        0 => (state.back_to_good(), TrialId::NONE, "no tries left: back to the last good slot"),
        left => (BootState { counter: left - 1, ..state }, state.trial, "trial: one more try"),
    };
    if !on.can_save {
        return fall(on, Fallback::Save, state.good, states, "the boot environment cannot be saved");
    }
    let stored = difference(&state, &next);
    boot(on, stored, &Choice { slot: next.active, trial, states: [next.a, next.b], reason })
}

fn decide_foreign(on: &PowerOn, env: Foreign) -> Decision {
    let states = env.fail.map(|failed| if failed { SlotState::Fail } else { SlotState::Good });
    if env.success {
        return boot(on, vec![], &Choice::ordinary(env.active, states, "foreign environment, confirmed"));
    }
    let other = env.active.other();
    let (active, counter, reason) = match env.counter {
        0 if on.files[other as usize] == Files::Hold => (other, 2, "foreign environment: no tries left, other slot"),
        0 => {
            let choice = Choice::ordinary(env.active, states, "foreign environment: no other slot can be booted");
            return boot(on, vec![], &choice);
        }
        left => (env.active, left - 1, "foreign environment: one more try"),
    };
    if !on.can_save {
        return fall(on, Fallback::Save, env.active, states, "the boot environment cannot be saved");
    }
    let mut stored = vec![("boot_counter", counter.to_string())];
    if active != env.active {
        stored.insert(0, ("active_slot", active.to_string()));
    }
    if env.has_seal {
        stored.push(("ks_seal", FOREIGN_SEAL.to_owned()));
    }
    boot(on, stored, &Choice::ordinary(active, states, reason))
}

/// The slot that the environment asks for.
struct Choice {
    slot: SlotId,
    trial: TrialId,
    /// The states of slot A, slot B after the store.
    states: [SlotState; 2],
    reason: &'static str,
}

impl Choice {
    fn ordinary(slot: SlotId, states: [SlotState; 2], reason: &'static str) -> Self {
        Self { slot, trial: TrialId::NONE, states, reason }
    }
}

/// Starts the chosen slot if it is good and complete, else falls back.
fn boot(on: &PowerOn, stored: Vec<(&'static str, String)>, choice: &Choice) -> Decision {
    let Choice { slot, trial, states, reason } = *choice;
    if states[slot as usize] == SlotState::Good && on.files[slot as usize] == Files::Hold {
        return Decision { stored, start: Some(Start { slot, trial, fallback: None }), reason };
    }
    Decision { stored, ..fall(on, Fallback::Load, slot, states, "the active slot cannot be booted") }
}

/// Looks for anything to start, `first` before the other slot: a good slot that holds, a void one that holds, a failed
/// one that holds, one that merely loads. Such a boot is never a trial, and stores nothing.
fn fall(on: &PowerOn, fallback: Fallback, first: SlotId, states: [SlotState; 2], reason: &'static str) -> Decision {
    let order = [first, first.other()];
    let holds = |slot: SlotId, state| states[slot as usize] == state && on.files[slot as usize] == Files::Hold;
    let find = |test: &dyn Fn(SlotId) -> bool| order.into_iter().find(|slot| test(*slot));
    let slot = find(&|slot| holds(slot, SlotState::Good))
        .or_else(|| find(&|slot| holds(slot, SlotState::Void)))
        .or_else(|| find(&|slot| holds(slot, SlotState::Fail)))
        .or_else(|| find(&|slot| on.files[slot as usize] != Files::Broken));
    Decision {
        stored: vec![],
        start: slot.map(|slot| Start { slot, trial: TrialId::NONE, fallback: Some(fallback) }),
        reason: if slot.is_some() { reason } else { "nothing can be loaded: retry after a delay" },
    }
}

fn difference(before: &BootState, after: &BootState) -> Vec<(&'static str, String)> {
    let before = before.variables();
    after.variables().into_iter().zip(before).filter(|(new, old)| new != old).map(|(new, _)| new).collect()
}
