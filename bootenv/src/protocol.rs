//! Meaning of the variables of the boot environment, and the legal changes of them.
//!
//! Nothing here reads or writes: a transition takes the state and what is known of this boot, and gives the
//! complete next state, to be stored at once. `docs/architecture.md` shows a whole cycle, store by store.

use std::fmt;

use crate::{Fallback, OutsideAlphabet, SlotId, TrialId};

/// The layout version that this crate writes, the value of `ks_v`.
pub const LAYOUT: &str = "1";
/// Tries that a trial has: `boot_counter` at activation.
pub const TRIES: u8 = 3;
/// The seal that a bootloader writes over an environment that somebody else changed.
pub const FOREIGN_SEAL: &str = "--";

/// All variables of the main block in the order in which they are written.
pub const NAMES: [&str; 10] =
    ["ks_v", "active_slot", "boot_success", "boot_counter", "ks_good", "ks_a", "ks_b", "ks_trial", "ks_seal", "ks_end"];

/// Knowledge of a slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// Complete and verified; committed once, or on trial now.
    Good,
    /// Being written, staged, or never filled.
    Void,
    /// A trial of it ended without commit.
    Fail,
}

impl SlotState {
    /// The value in the environment; all are four characters wide.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SlotState::Good => "good",
            SlotState::Void => "void",
            SlotState::Fail => "fail",
        }
    }

    fn parse(text: &str) -> Result<Self, OutsideAlphabet> {
        match text {
            "good" => Ok(SlotState::Good),
            "void" => Ok(SlotState::Void),
            "fail" => Ok(SlotState::Fail),
            _ => Err(OutsideAlphabet),
        }
    }
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The complete state of a sealed main block. The seal is derived, so a `State` is always ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootState {
    /// `active_slot`: what the bootloader boots next.
    pub active: SlotId,
    /// `boot_success`: false while a trial of `active` runs.
    pub success: bool,
    /// `boot_counter`: tries left, 3 to 0; without meaning while `success`.
    pub counter: u8,
    /// `ks_good`: the slot that was committed last.
    pub good: SlotId,
    /// `ks_a`.
    pub a: SlotState,
    /// `ks_b`.
    pub b: SlotState,
    /// `ks_trial`: the trial that runs, or the one that ended in a `fail`.
    pub trial: TrialId,
}

/// The second file `ksenv2`: what is known when the main block is unreadable. Never promises more than the main block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FallbackBlock {
    /// The slot that was committed last.
    pub good: SlotId,
    /// State of slot A.
    pub a: SlotState,
    /// State of slot B.
    pub b: SlotState,
}

/// An environment that somebody else changed last: only KubeSolo OS's variables count, and `fail` marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Foreign {
    /// `active_slot`.
    pub active: SlotId,
    /// `boot_success`.
    pub success: bool,
    /// `boot_counter`.
    pub counter: u8,
    /// True if slot A, slot B is marked `fail`.
    pub fail: [bool; 2],
    /// True if a `ks_seal` with a value is there, which the bootloader then overwrites with [`FOREIGN_SEAL`].
    pub has_seal: bool,
}

/// The main block as agent and bootloader see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Complete, every value in its alphabet, sealed.
    Ours(BootState),
    /// Readable, but the seal is missing or does not fit: the Go agent or a person wrote last.
    Foreign(Foreign),
    /// Not usable: damaged, incomplete, or a value outside its alphabet.
    Invalid,
}

/// This boot, as the kernel command line describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booted {
    /// `kubesolo.slot=`: where the running system came from.
    pub slot: SlotId,
    /// `ks.trial=`: the trial that this boot was started for.
    pub trial: TrialId,
    /// `ks.fallback=`.
    pub fallback: Option<Fallback>,
}

impl Booted {
    /// A boot of `slot` that is no trial and no fallback.
    #[must_use]
    pub fn ordinary(slot: SlotId) -> Self {
        Self { slot, trial: TrialId::NONE, fallback: None }
    }
}

/// A transition that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// The slot is the last good one or the booted one: it is never written.
    NoFreeSlot {
        /// The booted slot.
        booted: SlotId,
        /// The last good slot.
        good: SlotId,
    },
    /// A trial of this slot is pending or running.
    TrialPending(SlotId),
    /// No trial of the booted slot runs, or this boot was not started for it.
    NotThisTrial,
    /// There is nothing that could be cancelled: no activation is waiting for a reboot.
    NothingPending,
    /// The slot is not known to be good.
    NotGood(SlotId, SlotState),
    /// The running system did not come from the active slot.
    NotActive {
        /// The booted slot.
        booted: SlotId,
        /// The active slot.
        active: SlotId,
    },
    /// A trial needs an id that is not zero.
    ZeroTrial,
    /// The bootloader could not save the counter of a trial when this boot began.
    CannotCount,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Illegal::NoFreeSlot { booted, good } => {
                write!(f, "no slot is free: slot {booted} is booted and slot {good} is the last good one")
            }
            Illegal::TrialPending(slot) => write!(f, "a trial of slot {slot} is pending"),
            Illegal::NotThisTrial => f.write_str("this boot is not the trial that the boot environment names"),
            Illegal::NothingPending => f.write_str("no activation is waiting for a reboot"),
            Illegal::NotGood(slot, state) => write!(f, "slot {slot} is {state}, not good"),
            Illegal::NotActive { booted, active } => {
                write!(f, "the running system came from slot {booted}, but slot {active} is active")
            }
            Illegal::ZeroTrial => f.write_str("a trial needs an id other than 00000000"),
            Illegal::CannotCount => f.write_str("the bootloader could not save the counter of a trial at this boot"),
        }
    }
}

impl std::error::Error for Illegal {}

impl BootState {
    /// A device whose `slot` is committed and whose other slot was never filled.
    #[must_use]
    pub fn committed(slot: SlotId) -> Self {
        let state = Self {
            active: slot,
            success: true,
            counter: TRIES,
            good: slot,
            a: SlotState::Void,
            b: SlotState::Void,
            trial: TrialId::NONE,
        };
        state.with(slot, SlotState::Good)
    }

    /// State of `slot`.
    #[must_use]
    pub fn slot(&self, slot: SlotId) -> SlotState {
        match slot {
            SlotId::A => self.a,
            SlotId::B => self.b,
        }
    }

    fn with(mut self, slot: SlotId, state: SlotState) -> Self {
        match slot {
            SlotId::A => self.a = state,
            SlotId::B => self.b = state,
        }
        self
    }

    /// The slot whose trial is pending or running.
    #[must_use]
    pub fn on_trial(&self) -> Option<SlotId> {
        (!self.success).then_some(self.active)
    }

    /// The slot that may be written: neither the last good one nor the booted one.
    ///
    /// # Errors
    /// [`Illegal::NoFreeSlot`] when those are two.
    pub fn target(&self, booted: SlotId) -> Result<SlotId, Illegal> {
        if booted == self.good { Ok(self.good.other()) } else { Err(Illegal::NoFreeSlot { booted, good: self.good }) }
    }

    /// Before the first byte is written: the target becomes void, and a trial of it that has not started yet is
    /// cancelled in the same store.
    ///
    /// # Errors
    /// [`Illegal`] when no slot is free, or a try of the target was already counted: that trial has to be settled.
    pub fn invalidate(self, booted: SlotId) -> Result<BootState, Illegal> {
        let target = self.target(booted)?;
        let mut next = self.with(target, SlotState::Void);
        if self.active == target {
            if !self.success && self.counter < TRIES {
                return Err(Illegal::TrialPending(target));
            }
            next.active = self.good;
            next.success = true;
            next.trial = TrialId::NONE;
        }
        Ok(next)
    }

    /// Makes the verified target the active slot, on trial. A second call while the trial is pending changes nothing:
    /// the counter is not filled up again.
    ///
    /// # Errors
    /// [`Illegal`] when no slot is free, the id is zero, or the bootloader could not save at this boot: the trial
    /// could not be counted, and [`BootState::settle`] could not distinguish it from the one that this boot fell back from.
    pub fn activate(self, booted: Booted, trial: TrialId) -> Result<BootState, Illegal> {
        let target = self.target(booted.slot)?;
        if self.on_trial() == Some(target) {
            return Ok(self);
        }
        if let Some(other) = self.on_trial() {
            return Err(Illegal::TrialPending(other));
        }
        if trial.is_none() {
            return Err(Illegal::ZeroTrial);
        }
        if booted.fallback == Some(Fallback::Save) {
            return Err(Illegal::CannotCount);
        }
        Ok(BootState { active: target, success: false, counter: TRIES, trial, ..self.with(target, SlotState::Good) })
    }

    fn this_trial(&self, booted: Booted) -> Result<(), Illegal> {
        let same = !self.success && booted.slot == self.active && !self.trial.is_none() && booted.trial == self.trial;
        if same { Ok(()) } else { Err(Illegal::NotThisTrial) }
    }

    /// Ends the running trial: the booted slot is good from now on.
    ///
    /// # Errors
    /// [`Illegal::NotThisTrial`] unless this very boot was started for the trial.
    pub fn commit(self, booted: Booted) -> Result<BootState, Illegal> {
        self.this_trial(booted)?;
        Ok(BootState { success: true, good: self.active, trial: TrialId::NONE, ..self })
    }

    /// Ends the running trial: back to the last good slot, the booted one failed. The id stays, so that userspace
    /// knows the trial.
    ///
    /// # Errors
    /// [`Illegal::NotThisTrial`] unless this very boot was started for the trial.
    pub fn revert(self, booted: Booted) -> Result<BootState, Illegal> {
        self.this_trial(booted)?;
        Ok(self.back_to_good())
    }

    /// Ends the running trial before a service of it has run: the data could not be saved. The slot is void, the release
    /// is not to blame.
    ///
    /// # Errors
    /// [`Illegal::NotThisTrial`] unless this very boot was started for the trial.
    pub fn withdraw(self, booted: Booted) -> Result<BootState, Illegal> {
        self.this_trial(booted)?;
        let next = BootState { active: self.good, success: true, trial: TrialId::NONE, ..self };
        Ok(next.with(booted.slot, SlotState::Void))
    }

    /// The bootloader's store when no tries are left, and that of [`BootState::settle`] after a fallback.
    #[must_use]
    pub fn back_to_good(self) -> BootState {
        BootState { active: self.good, success: true, ..self.with(self.good.other(), SlotState::Fail) }
    }

    /// Takes back an activation that has not been tried yet. The slot stays staged.
    ///
    /// # Errors
    /// [`Illegal::NothingPending`] when there is none, or a try of it was counted.
    pub fn cancel(self, booted: SlotId) -> Result<BootState, Illegal> {
        if self.success || booted != self.good || self.active == self.good || self.counter != TRIES {
            return Err(Illegal::NothingPending);
        }
        let tried = self.active;
        Ok(BootState { active: self.good, success: true, trial: TrialId::NONE, ..self.with(tried, SlotState::Void) })
    }

    /// Back to the release before: a trial of the other slot, which was good when it was left. `ks_good` stays.
    ///
    /// # Errors
    /// [`Illegal`] when a trial is pending, the active slot is not the booted one, or the other slot is not good, and
    /// as for [`BootState::activate`].
    pub fn rollback(self, booted: Booted, trial: TrialId) -> Result<BootState, Illegal> {
        if let Some(slot) = self.on_trial() {
            return Err(Illegal::TrialPending(slot));
        }
        if booted.slot != self.active {
            return Err(Illegal::NotActive { booted: booted.slot, active: self.active });
        }
        let other = booted.slot.other();
        match self.slot(other) {
            SlotState::Good => self.activate(booted, trial),
            state => Err(Illegal::NotGood(other, state)),
        }
    }

    /// At each run of the health hook: whether a trial ended without this userspace. `None` means there is nothing to
    /// do. A pending activation (counter still full) is left alone, also in a boot that fell back before it was made:
    /// a slot that could not be loaded has used up a try.
    #[must_use]
    pub fn settle(self, booted: Booted) -> Option<BootState> {
        let tried = self.counter < TRIES || booted.fallback == Some(Fallback::Save);
        let over = booted.slot == self.good && !self.success && self.active != self.good && tried;
        over.then(|| self.back_to_good())
    }

    /// A healthy boot of a slot that is not the active one, whose files were found damaged on re-reading (the caller
    /// re-hashes): the booted slot becomes active and good, the other one void.
    ///
    /// # Errors
    /// [`Illegal`] when the booted slot is the active one or a trial is pending.
    pub fn take_over(self, booted: SlotId) -> Result<BootState, Illegal> {
        if let Some(slot) = self.on_trial() {
            return Err(Illegal::TrialPending(slot));
        }
        if booted == self.active {
            return Err(Illegal::NothingPending);
        }
        Ok(BootState { counter: self.counter, ..BootState::committed(booted) })
    }

    /// A slot whose content was damaged was made void, and holds a release again that was committed on this device, read back
    /// from the medium: it is good without a trial, as before.
    ///
    /// # Errors
    /// [`Illegal`] when a trial is pending, or the booted slot is not the active and last good one.
    pub fn refill(self, booted: SlotId) -> Result<BootState, Illegal> {
        if let Some(slot) = self.on_trial() {
            return Err(Illegal::TrialPending(slot));
        }
        if booted != self.active {
            return Err(Illegal::NotActive { booted, active: self.active });
        }
        Ok(self.with(self.target(booted)?, SlotState::Good))
    }

    /// `ks_seal`: `active_slot` followed by `boot_success`.
    #[must_use]
    pub fn seal(&self) -> String {
        format!("{}{}", self.active, u8::from(self.success))
    }

    /// The complete set of variables, in the order of [`NAMES`].
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let values = [
            LAYOUT.to_owned(),
            self.active.to_string(),
            u8::from(self.success).to_string(),
            self.counter.to_string(),
            self.good.to_string(),
            self.a.to_string(),
            self.b.to_string(),
            self.trial.to_string(),
            self.seal(),
            LAYOUT.to_owned(),
        ];
        NAMES.into_iter().zip(values).collect()
    }
}

impl Foreign {
    /// The slot that KubeSolo OS's own loader file boots next: three boots in a row that nobody confirmed swap the slots.
    #[must_use]
    pub fn next_of_old_loader(&self) -> SlotId {
        if !self.success && self.counter == 0 { self.active.other() } else { self.active }
    }

    /// After a healthy boot of the active slot: the environment becomes ours, with the booted slot committed.
    ///
    /// # Errors
    /// [`Illegal::NotActive`] when the running system came from the other slot.
    pub fn adopt(self, booted: SlotId) -> Result<BootState, Illegal> {
        if booted != self.active {
            return Err(Illegal::NotActive { booted, active: self.active });
        }
        Ok(self.committed(booted))
    }

    /// A healthy boot of the slot that is not active, because the active one cannot be booted: its files were found
    /// damaged on re-reading (the caller re-hashes), or it is marked as failed. The environment becomes ours, with
    /// the booted slot committed.
    ///
    /// # Errors
    /// [`Illegal::NothingPending`] when the running system came from the active slot.
    pub fn take_over(self, booted: SlotId) -> Result<BootState, Illegal> {
        if booted == self.active { Err(Illegal::NothingPending) } else { Ok(self.committed(booted)) }
    }

    fn committed(self, booted: SlotId) -> BootState {
        let other = booted.other();
        let failed = self.fail[other as usize];
        BootState::committed(booted).with(other, if failed { SlotState::Fail } else { SlotState::Void })
    }
}

impl FallbackBlock {
    /// The second file that belongs to `state`: a slot on trial is void in it.
    #[must_use]
    pub fn of(state: &BootState) -> Self {
        let shown = match state.on_trial() {
            Some(slot) if slot != state.good => state.with(slot, SlotState::Void),
            _ => *state,
        };
        Self { good: state.good, a: shown.a, b: shown.b }
    }

    /// Content of the second file before the main block becomes `next`: a slot is good only if it is good in both. The
    /// last good slot changes afterwards. A second file that is not valid promises nothing, and needs no such store.
    #[must_use]
    pub fn before(self, next: &BootState) -> Self {
        let next = FallbackBlock::of(next);
        let meet = |slot| match (self.slot(slot), next.slot(slot)) {
            (SlotState::Good, state) => state,
            (state, SlotState::Good) => state,
            (_, state) => state,
        };
        Self { good: self.good, a: meet(SlotId::A), b: meet(SlotId::B) }
    }

    /// State of `slot`.
    #[must_use]
    pub fn slot(&self, slot: SlotId) -> SlotState {
        match slot {
            SlotId::A => self.a,
            SlotId::B => self.b,
        }
    }

    /// The main block, rebuilt after it was found invalid, on a healthy boot of `booted`.
    #[must_use]
    pub fn rebuild(second: Option<FallbackBlock>, booted: SlotId) -> BootState {
        let other = booted.other();
        let known = second.map_or(SlotState::Void, |s| s.slot(other));
        BootState::committed(booted).with(other, known)
    }

    /// The variables of the second file in their order.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ks_v", LAYOUT.to_owned()),
            ("ks_good", self.good.to_string()),
            ("ks_a", self.a.to_string()),
            ("ks_b", self.b.to_string()),
            ("ks_end", LAYOUT.to_owned()),
        ]
    }

    /// Reads the second file's variables; `None` unless complete and within the alphabets.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        if get("ks_v")? != LAYOUT || get("ks_end")? != LAYOUT {
            return None;
        }
        Some(Self {
            good: get("ks_good")?.parse().ok()?,
            a: SlotState::parse(get("ks_a")?).ok()?,
            b: SlotState::parse(get("ks_b")?).ok()?,
        })
    }
}

impl View {
    /// Reads the main block's variables.
    ///
    /// A block with neither `ks_v` nor `ks_end` is foreign (the Go agent's); one with only one of them, or with any
    /// value outside its alphabet, is invalid.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self::try_read(get).unwrap_or(View::Invalid)
    }

    fn try_read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let active: SlotId = get("active_slot")?.parse().ok()?;
        let success = flag(get("boot_success")?)?;
        let counter = counter(get("boot_counter")?)?;
        let seal = get("ks_seal");
        let foreign = |fail| {
            View::Foreign(Foreign {
                active,
                success,
                counter,
                fail,
                has_seal: seal.is_some_and(|seal| !seal.is_empty()),
            })
        };
        match (get("ks_v"), get("ks_end")) {
            (None, None) => {
                let failed = |name| get(name) == Some(SlotState::Fail.as_str());
                Some(foreign([failed("ks_a"), failed("ks_b")]))
            }
            (Some(LAYOUT), Some(LAYOUT)) => {
                let state = BootState {
                    active,
                    success,
                    counter,
                    good: get("ks_good")?.parse().ok()?,
                    a: SlotState::parse(get("ks_a")?).ok()?,
                    b: SlotState::parse(get("ks_b")?).ok()?,
                    trial: get("ks_trial")?.parse().ok()?,
                };
                if seal == Some(state.seal().as_str()) {
                    Some(View::Ours(state))
                } else {
                    Some(foreign([state.a == SlotState::Fail, state.b == SlotState::Fail]))
                }
            }
            _ => None,
        }
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn counter(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [digit @ b'0'..=b'3'] => Some(digit - b'0'),
        _ => None,
    }
}
