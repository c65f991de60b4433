//! Each transition alone: from any state, sensible or not, it is the right one or refused for its own reason.

use crate::common;

use bootenv::protocol::{BootState, Booted, FallbackBlock, Foreign, Illegal, SlotState, TRIES};
use bootenv::{Fallback, SlotId, TrialId};
use common::{slot, state, trial};
use proptest::prelude::*;

const ID: TrialId = TrialId(7);

fn on_trial() -> BootState {
    let staged = BootState::committed(SlotId::A).invalidate(SlotId::A).expect("B is free");
    staged.activate(Booted::ordinary(SlotId::A), ID).expect("B is free")
}

proptest! {
    #[test]
    fn only_the_boot_of_its_own_trial_ends_it(state in state(), slot in slot(), trial in trial(), fell in any::<bool>()) {
        let booted = Booted { slot, trial, fallback: fell.then_some(Fallback::Load) };
        let own = !state.success && slot == state.active && trial == state.trial && trial != TrialId::NONE;
        prop_assert_eq!(state.commit(booted).is_ok(), own);
        prop_assert_eq!(state.revert(booted).is_ok(), own);
        if let Ok(next) = state.commit(booted) {
            prop_assert_eq!((next.active, next.success, next.good, next.trial), (slot, true, slot, TrialId::NONE));
        }
        if let Ok(next) = state.revert(booted) {
            prop_assert_eq!((next.active, next.success, next.trial), (state.good, true, trial));
            prop_assert_eq!(next.slot(state.good.other()), SlotState::Fail);
        }
    }

    #[test]
    fn what_is_written_is_neither_booted_nor_the_last_good_one(state in state(), booted in slot()) {
        match state.target(booted) {
            Ok(target) => prop_assert!(target != booted && target != state.good),
            Err(why) => prop_assert_eq!(why, Illegal::NoFreeSlot { booted, good: state.good }),
        }
        if let Ok(void) = state.invalidate(booted) {
            let target = state.target(booted).expect("it was invalidated");
            prop_assert_eq!(void.slot(target), SlotState::Void);
            prop_assert_eq!((void.good, void.slot(state.good)), (state.good, state.slot(state.good)));
            prop_assert!(void.active != target, "a void slot is not active");
        }
    }

    #[test]
    fn a_second_file_is_lowered_before_and_raised_after(state in state(), next in state()) {
        let (old, new) = (FallbackBlock::of(&state), FallbackBlock::of(&next));
        let between = old.before(&next);
        for slot in SlotId::BOTH {
            let good = |second: FallbackBlock| second.slot(slot) == SlotState::Good;
            prop_assert!(!good(between) || (good(old) && good(new)));
        }
        prop_assert_eq!(between.before(&next), between, "once is enough");
    }
}

#[test]
fn an_activation_fills_the_counter_once() {
    let used = BootState { counter: 1, ..on_trial() };
    assert_eq!(on_trial().counter, TRIES);
    assert_eq!(used.activate(Booted::ordinary(SlotId::A), TrialId(8)), Ok(used));
}

#[test]
fn what_is_illegal_says_why() {
    let (a, b) = (Booted::ordinary(SlotId::A), Booted::ordinary(SlotId::B));
    let committed = BootState::committed(SlotId::A);
    let cannot_save = Booted { fallback: Some(Fallback::Save), ..a };
    let tried = BootState { counter: 2, ..on_trial() };
    let both = BootState { b: SlotState::Good, ..committed };
    let no_slot = Illegal::NoFreeSlot { booted: SlotId::B, good: SlotId::A };
    assert_eq!(committed.activate(b, ID), Err(no_slot));
    assert_eq!(committed.invalidate(SlotId::B), Err(no_slot));
    assert_eq!(committed.activate(a, TrialId::NONE), Err(Illegal::ZeroTrial));
    assert_eq!(committed.activate(cannot_save, ID), Err(Illegal::CannotCount));
    // States that no store of ours makes: the last good slot itself is to be tried.
    let itself = BootState { success: false, ..committed };
    assert_eq!(itself.activate(a, ID), Err(Illegal::TrialPending(SlotId::A)));
    assert_eq!(itself.cancel(SlotId::A), Err(Illegal::NothingPending));
    assert_eq!(both.rollback(cannot_save, ID), Err(Illegal::CannotCount));
    assert_eq!(committed.commit(a), Err(Illegal::NotThisTrial));
    assert_eq!(tried.invalidate(SlotId::A), Err(Illegal::TrialPending(SlotId::B)));
    assert_eq!(tried.cancel(SlotId::A), Err(Illegal::NothingPending));
    assert_eq!(tried.take_over(SlotId::A), Err(Illegal::TrialPending(SlotId::B)));
    assert_eq!(tried.rollback(b, ID), Err(Illegal::TrialPending(SlotId::B)));
    assert_eq!(committed.take_over(SlotId::A), Err(Illegal::NothingPending));
    assert_eq!(committed.rollback(a, ID), Err(Illegal::NotGood(SlotId::B, SlotState::Void)));
    assert_eq!(both.rollback(b, ID), Err(Illegal::NotActive { booted: SlotId::B, active: SlotId::A }));
    let foreign = Foreign { active: SlotId::A, success: true, counter: 3, fail: [false; 2], has_seal: true };
    assert_eq!(foreign.adopt(SlotId::B), Err(Illegal::NotActive { booted: SlotId::B, active: SlotId::A }));
    assert_eq!(foreign.take_over(SlotId::A), Err(Illegal::NothingPending));
}

#[test]
fn a_trial_is_settled_only_after_a_try() {
    let pending = on_trial();
    let boot = |fallback| Booted { fallback, ..Booted::ordinary(SlotId::A) };
    let over = Some(pending.back_to_good());
    assert_eq!(pending.settle(boot(None)), None);
    assert_eq!(pending.settle(boot(Some(Fallback::Load))), None, "that was another one: loading uses up a try");
    assert_eq!(pending.settle(boot(Some(Fallback::Save))), over, "a try that could not be counted");
    assert_eq!(BootState { counter: 2, ..pending }.settle(boot(None)).map(|s| s.active), Some(SlotId::A));
    assert_eq!(pending.settle(Booted { slot: SlotId::B, ..boot(Some(Fallback::Save)) }), None);
    assert_eq!(BootState::committed(SlotId::A).settle(boot(Some(Fallback::Load))), None);
}
