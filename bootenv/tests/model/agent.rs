//! The agent: what its commands write, step by step. The order is that of `update.rs`, `trial.rs`, `memory.rs` and
//! `env.rs` in the crate `kubesolo-update`, whose test `steps` compares both; every state that it stores comes from the real
//! transitions.

use bootenv::boot::Files;
use bootenv::protocol::{BootState, Booted, FallbackBlock, SlotState, View};
use bootenv::{Fallback, SlotId, TrialId};

use super::mutations::Mutation;
use super::world::{Content, Kind, Main, NotJudged, Note, Notes, Release, Step, World};

/// A call by a person or a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Healthcheck,
    Apply(Release),
    Activate,
    Rollback,
    /// The data of this trial could not be saved, before a service ran.
    Withdraw,
    /// The slot to fall back to is damaged: filled again with its release, or with a copy of the running one.
    Repair {
        own: bool,
    },
}

impl Command {
    pub const ALL: [Command; 8] = [
        Command::Healthcheck,
        Command::Apply(Release::New),
        Command::Apply(Release::Bad),
        Command::Activate,
        Command::Rollback,
        Command::Withdraw,
        Command::Repair { own: true },
        Command::Repair { own: false },
    ];
}

/// A job in the making. Every step is done on a copy of the world at once, so that what follows reads what the agent
/// would read.
pub struct Plan {
    world: World,
    booted: Booted,
    healthy: bool,
    mutation: Option<Mutation>,
    steps: Vec<Step>,
}

/// All steps of a command, called in `world`. `well`: whether the health checks can pass.
pub fn plan(world: &World, command: Command, well: bool, mutation: Option<Mutation>) -> Vec<Step> {
    let Some((booted, release)) = world.booted() else { return vec![] };
    let healthy = well && release.healthy();
    let mut plan = Plan { world: world.clone(), booted, healthy, mutation, steps: vec![] };
    // A refused call is no other case for the model: the steps before a refusal are made.
    let _ = match command {
        Command::Healthcheck => plan.healthcheck(),
        Command::Apply(release) => plan.apply(release),
        Command::Activate => plan.activate(),
        Command::Rollback => plan.rollback(),
        Command::Withdraw => plan.withdraw(),
        Command::Repair { own } => plan.repair(own),
    };
    plan.steps
}

impl Plan {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn step(&mut self, step: Step) {
        self.world.perform(step);
        self.steps.push(step);
    }

    fn ours(&self) -> Option<BootState> {
        match self.world.main.view() {
            View::Ours(state) => Some(state),
            View::Foreign(foreign) if self.is(Mutation::ForeignTakenForOurs) => foreign.adopt(foreign.active).ok(),
            View::Foreign(_) | View::Invalid => None,
        }
    }

    fn notes(&mut self, notes: Notes) {
        if notes != self.world.notes {
            self.step(Step::Notes(notes));
        }
    }

    /// The content of the fallback: GRUB's second file, or U-Boot's other copy.
    fn raise(&mut self, state: BootState) {
        match self.world.kind {
            Kind::Grub => self.second(FallbackBlock::of(&state)),
            Kind::UBoot if self.is(Mutation::StoresOneCopy) => {}
            Kind::UBoot if self.world.older != Some(self.world.main) => self.step(Step::Main(state)),
            Kind::UBoot => {}
        }
    }

    fn second(&mut self, second: FallbackBlock) {
        if self.world.second != Some(second) {
            self.step(Step::Second(second));
        }
    }

    /// `BootEnv::store`: the second file is lowered before and raised after.
    fn store(&mut self, next: BootState) {
        if let Some(second) = self.world.second.filter(|_| !self.is(Mutation::SecondFileAfterMain)) {
            self.second(second.before(&next));
        }
        if self.world.main.view() != View::Ours(next) {
            if self.is(Mutation::StoreInTwoSteps) {
                self.step(Step::HalfMain(next));
            }
            self.step(Step::Main(next));
        }
        self.raise(next);
    }

    fn new_trial(&self) -> TrialId {
        let world = &self.world;
        let noted = [world.notes.trial.map(|note| note.id), world.unjudged, world.not_judged.map(|one| one.id)];
        let used = [&[Some(world.main.trial()), Some(self.booted.trial)], &noted[..]].concat();
        (1..).map(TrialId).find(|id| !used.contains(&Some(*id))).unwrap_or(TrialId::NONE)
    }

    fn note(&self, id: TrialId, slot: SlotId, started: bool) -> Option<Note> {
        Some(Note { id, slot, release: self.world.slot(slot).manifest()?, started })
    }

    fn remember(&mut self, release: Release) {
        if self.world.failed & release.bit() == 0 && !self.is(Mutation::FailuresForgotten) {
            self.step(Step::Remember(release));
        }
    }

    fn commit(&self, state: BootState) -> Option<BootState> {
        let booted = match self.mutation {
            Some(Mutation::CommitWithoutTrialId) => Booted { trial: state.trial, ..self.booted },
            _ => self.booted,
        };
        state.commit(booted).ok()
    }

    fn healthcheck(&mut self) -> Option<()> {
        let healthy = self.healthy;
        self.can_look();
        match self.world.main.view() {
            View::Ours(state) if self.commit(state).is_some() => {
                self.seen(state);
                if healthy || self.is(Mutation::CommitUnhealthy) {
                    let next = self.commit(state)?;
                    self.store(next);
                    self.conclude();
                } else {
                    self.revert(state)?;
                }
            }
            View::Ours(_) => {
                self.settle();
                let state = self.ours()?;
                let pending = state.on_trial().is_some() && !self.is(Mutation::TakeOverWhilePending);
                let damaged = self.world.slot(state.active).files() != Files::Hold;
                let takes_over = healthy && damaged && !pending && !self.is(Mutation::NeverTakesOver);
                if takes_over && self.booted.slot != state.active {
                    let next = BootState { success: true, ..state }.take_over(self.booted.slot).ok()?;
                    self.store(next);
                }
            }
            View::Foreign(foreign) => {
                let booted = if self.is(Mutation::AdoptTheOtherSlot) { foreign.active } else { self.booted.slot };
                let passed_over =
                    self.world.slot(foreign.active).files() != Files::Hold || foreign.fail[foreign.active as usize];
                let next = match foreign.adopt(booted) {
                    Err(_) if passed_over => foreign.take_over(booted).ok()?,
                    adopted => adopted.ok()?,
                };
                if healthy || self.is(Mutation::AdoptUnhealthy) {
                    self.store(next);
                }
            }
            // Nothing is written over two copies that cannot be read.
            View::Invalid
                if self.world.kind == Kind::UBoot
                    && self.world.main == Main::TORN
                    && !self.is(Mutation::DefaultsOverDamage) => {}
            View::Invalid => {
                if (healthy || self.is(Mutation::RebuildUnhealthy)) && !self.is(Mutation::NeverRebuilds) {
                    self.store(FallbackBlock::rebuild(self.world.second, self.booted.slot));
                    let trial = self.world.notes.trial.map(|note| Note { started: true, ..note });
                    self.notes(Notes { trial, ..self.world.notes });
                    self.conclude();
                }
            }
        }
        Some(())
    }

    /// Ends the note that an earlier run of this trial left because it could not look.
    fn can_look(&mut self) {
        if self.world.unjudged == Some(self.booted.trial) && !self.is(Mutation::LooksWithoutTakingBack) {
            self.step(Step::Unjudged(None));
        }
    }

    /// A boot of the trial reached userspace.
    fn seen(&mut self, state: BootState) {
        let noted = self.world.notes.trial.filter(|note| note.id == state.trial);
        let trial = match noted {
            Some(note) => Some(Note { started: true, ..note }),
            None => self.note(state.trial, state.active, true),
        };
        self.notes(Notes { trial, ..self.world.notes });
    }

    fn revert(&mut self, state: BootState) -> Option<()> {
        let next = state.revert(self.booted).ok()?;
        self.store(match self.mutation {
            Some(Mutation::RevertLeavesNoMark) => with(next, state.active, SlotState::Good),
            _ => next,
        });
        self.conclude();
        self.step(Step::Reboot);
        Some(())
    }

    /// Ends what the bootloader gave up, corrects the second file, draws the conclusions.
    fn settle(&mut self) {
        let Some(state) = self.ours() else { return };
        let settled = match self.mutation {
            Some(Mutation::SettleRevertsPending) if self.booted.slot == state.good && !state.success => {
                Some(state.back_to_good())
            }
            Some(Mutation::SettleTrustsTheFallback) if self.booted.fallback.is_some() => {
                state.settle(Booted { fallback: Some(Fallback::Save), ..self.booted })
            }
            Some(Mutation::NeverSettles) => None,
            _ => state.settle(self.booted),
        };
        match settled {
            Some(next) => self.store(next),
            None if self.is(Mutation::OtherCopyLeftBehind) => {}
            None => self.raise(state),
        }
        self.conclude();
    }

    /// How the noted trial ended, and what that says about its release.
    fn conclude(&mut self) {
        let Some(state) = self.ours() else { return };
        let notes = self.world.notes;
        if let Some(note) = notes.trial {
            if state.on_trial() == Some(note.slot) && state.trial == note.id {
                return;
            }
            let marked = state.slot(note.slot) == SlotState::Fail && state.trial == note.id;
            let committed = state.success && state.good == note.slot;
            let not_judged = marked && self.world.unjudged == Some(note.id);
            let started = notes.not_started & note.release.bit() != 0 && !self.is(Mutation::NotStartedRetriedForEver);
            let judged = self.not_judged(note.release).is_some() && !self.is(Mutation::NotJudgedRetriedForEver);
            let mut not_started = notes.not_started;
            if committed {
                not_started &= !note.release.bit();
                if self.not_judged(note.release).is_some() {
                    self.step(Step::Memory(None));
                }
            } else if started || judged || (!not_judged && (marked || note.started)) {
                self.remember(note.release);
            } else if not_judged {
                self.step(Step::Memory(Some(NotJudged { id: note.id, release: note.release })));
            } else {
                not_started |= note.release.bit();
            }
            self.notes(Notes { trial: None, not_started });
        }
        let other = state.good.other();
        let read = state.slot(other) == SlotState::Fail && !self.is(Mutation::MarksWithoutNoteForgotten);
        if let Some(release) = self.world.slot(other).manifest().filter(|_| read) {
            match self.not_judged(release) {
                Some(id) if id == state.trial => {}
                None if self.world.unjudged == Some(state.trial) && !self.is_failed(release) => {
                    self.step(Step::Memory(Some(NotJudged { id: state.trial, release })));
                }
                _ => self.remember(release),
            }
        }
    }

    /// The trial of this release that no health run judged.
    fn not_judged(&self, release: Release) -> Option<TrialId> {
        self.world.not_judged.filter(|one| one.release == release).map(|one| one.id)
    }

    fn is_failed(&self, release: Release) -> bool {
        self.world.failed & release.bit() != 0
    }

    fn target(&self, state: BootState) -> Option<SlotId> {
        match self.mutation {
            Some(Mutation::WritesTheLastGoodSlot) => Some(self.booted.slot.other()),
            Some(Mutation::WritesTheBootedSlot) => Some(state.good.other()),
            _ => state.target(self.booted.slot).ok(),
        }
    }

    fn apply(&mut self, release: Release) -> Option<()> {
        self.settle();
        let state = self.ours()?;
        let target = self.target(state)?;
        let up_to_date = self.world.slot(self.booted.slot).manifest() == Some(release);
        let staged =
            self.world.slot(target).manifest() == Some(release) && self.world.slot(target).files() == Files::Hold;
        if up_to_date || staged || self.is_failed(release) {
            return None;
        }
        let next = match self.mutation {
            Some(Mutation::WritesTheLastGoodSlot | Mutation::WritesTheBootedSlot) => {
                with(state, target, SlotState::Void)
            }
            _ => state.invalidate(self.booted.slot).ok()?,
        };
        let first = [Step::Unhash(target), Step::Erase(target), Step::Begin(target)];
        let then = [Step::Images(target, release), Step::Hashes(target), Step::Manifest(target)];
        let mut steps = [first, then].concat();
        if self.is(Mutation::WritesBeforeInvalidating) {
            steps.into_iter().for_each(|step| self.step(step));
            steps = vec![];
        }
        if !self.is(Mutation::NeverInvalidates) {
            self.store(next);
            // A trial that was cancelled is no trial that did not start.
            if state.on_trial() == Some(target) {
                self.notes(Notes { trial: None, ..self.world.notes });
            }
        }
        steps.into_iter().for_each(|step| self.step(step));
        self.step(Step::ReadBack(target));
        Some(())
    }

    fn activate(&mut self) -> Option<()> {
        if !self.is(Mutation::ActivatesWithoutConcluding) {
            self.settle();
        }
        let state = self.ours()?;
        if self.is(Mutation::ActivationRefillsTheCounter) && state.on_trial() == Some(self.booted.slot) {
            self.store(BootState { counter: bootenv::protocol::TRIES, ..state });
        }
        let target = self.target(state)?;
        let content = self.world.slot(target);
        let whole = content.files() == Files::Hold && content.manifest().is_some();
        let release = match content {
            Content::Images(release) | Content::Hashed(release) if self.is(Mutation::ActivatesUnverified) => release,
            _ => content.manifest().filter(|_| whole)?,
        };
        // Older than what runs: held.
        if release == Release::Home || self.is_failed(release) {
            return None;
        }
        let trial = self.new_trial();
        let next = match self.mutation {
            _ if state.on_trial() == Some(target) => return None,
            Some(Mutation::ActivationChangesTheLastGood) => {
                BootState { good: target, ..state.activate(self.booted, trial).ok()? }
            }
            Some(Mutation::ActivatesWhereNothingIsCounted) => {
                state.activate(Booted { fallback: None, ..self.booted }, trial).ok()?
            }
            _ => state.activate(self.booted, trial).ok()?,
        };
        if !self.is(Mutation::ActivatesUnverified) {
            self.step(Step::ReadBack(target));
        }
        let note = Note { id: next.trial, slot: target, release, started: false };
        let notes = Notes { trial: Some(note), ..self.world.notes };
        if self.is(Mutation::NotedAfterTheStore) {
            self.store(next);
            self.notes(notes);
        } else {
            self.notes(notes);
            self.store(next);
        }
        Some(())
    }

    fn withdraw(&mut self) -> Option<()> {
        let next = self.ours()?.withdraw(self.booted).ok()?;
        self.store(next);
        self.step(Step::Reboot);
        Some(())
    }

    fn repair(&mut self, own: bool) -> Option<()> {
        let state = self.ours()?;
        let booted = self.booted.slot;
        let slot = booted.other();
        let rests = state.success && state.active == booted && state.good == booted && self.booted.fallback.is_none();
        let damaged = match (state.slot(slot), self.world.slot(slot)) {
            (SlotState::Good, content) => content.files() != Files::Hold,
            (SlotState::Void, _) => self.world.refilling,
            (SlotState::Fail, _) => false,
        };
        // A damaged running slot cannot be copied: only the source helps then.
        if !rests || !damaged || (self.world.slot(booted).files() != Files::Hold && !own) {
            return None;
        }
        let running = self.world.slot(booted).manifest()?;
        self.step(Step::ReadBack(booted));
        // A slot that an earlier run voided is filled with a copy.
        let own = self.world.slot(slot).manifest().filter(|_| own && state.slot(slot) == SlotState::Good);
        let release = own.unwrap_or(running);
        self.step(Step::Refilling(true));
        if !self.is(Mutation::RepairsWithoutInvalidating) {
            self.store(state.invalidate(booted).ok()?);
        }
        let good = self.ours()?.refill(booted).ok()?;
        let first = [Step::Unhash(slot), Step::Erase(slot), Step::Begin(slot)];
        let then = [Step::Images(slot, release), Step::Hashes(slot), Step::Manifest(slot)];
        [first, then].concat().into_iter().for_each(|step| self.step(step));
        if self.is(Mutation::RepairedBeforeReadBack) {
            self.store(good);
            self.step(Step::ReadBack(slot));
        } else {
            self.step(Step::ReadBack(slot));
            self.store(good);
        }
        self.step(Step::Refilling(false));
        Some(())
    }

    fn rollback(&mut self) -> Option<()> {
        self.settle();
        let state = self.ours()?;
        let booted = self.booted.slot;
        if state.revert(self.booted).is_ok() {
            self.can_look();
            self.seen(state);
            return self.revert(state);
        }
        if let Ok(next) = state.cancel(booted) {
            let left = self.world.slot(state.active).manifest();
            left.into_iter().for_each(|release| self.remember(release));
            self.store(next);
            self.notes(Notes { trial: None, ..self.world.notes });
            return Some(());
        }
        let id = self.new_trial();
        let next = state.rollback(self.booted, id).ok()?;
        let other = booted.other();
        if self.world.slot(booted).manifest().is_some_and(|left| self.world.slot(other).manifest() == Some(left)) {
            return None;
        }
        let trial = Some(self.note(id, other, false).filter(|_| self.world.slot(other).files() == Files::Hold)?);
        let left = self.world.slot(booted).manifest();
        self.step(Step::ReadBack(other));
        if self.is(Mutation::RollbackRemembersAfterTheStore) {
            self.notes(Notes { trial, ..self.world.notes });
            self.store(next);
        }
        left.into_iter().for_each(|release| self.remember(release));
        self.notes(Notes { trial, ..self.world.notes });
        self.store(next);
        Some(())
    }
}

/// The state with another knowledge of `slot`.
fn with(state: BootState, slot: SlotId, known: SlotState) -> BootState {
    match slot {
        SlotId::A => BootState { a: known, ..state },
        SlotId::B => BootState { b: known, ..state },
    }
}
