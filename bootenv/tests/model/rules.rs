//! The rules of the protocol, each as a property of every reachable state. Declared limits are the exceptions that
//! stand in the code, each with its reason.

use std::cell::RefCell;
use std::collections::HashMap;

use bootenv::SlotId;
use bootenv::boot::{Decision, Files, PowerOn};
use bootenv::protocol::{BootState, FallbackBlock, SlotState, TRIES, View};
use stateright::Property;

use super::agent::{self, Command};
use super::device::{Device, is_broken, power_on};
use super::mutations::Mutation;
use super::world::{Content, Kind, Main, Power, Release, Step, World};

/// The rules that must never be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    VerifiedOnly,
    LastGoodIsNotWritten,
    VoidBeforeWriting,
    HealthyBecomesGood,
    WholeStores,
    SecondPromisesNoMore,
    BoundedTries,
    TrialsEndProperly,
    TrialsEndByThemselves,
    OrdinaryBootsWriteNothing,
    CommittedStays,
    OrderOfFallback,
    NothingStops,
    HealthyBootFollows,
    UpdatesStayPossible,
    FailuresAreRemembered,
    NotStartedIsRetriedOnce,
    OnlyAdoptionSeals,
    CopiesAgree,
    DamageIsLeft,
}

impl Rule {
    pub fn bit(self) -> u32 {
        1 << self as u32
    }
}

macro_rules! properties {
    ($($rule:ident: $name:literal,)*) => {
        vec![$(Property::always($name, |_: &Device, world: &World| !is_broken(world, Rule::$rule)),)*]
    };
}

/// One property for each rule.
pub fn properties() -> Vec<Property<Device>> {
    properties! {
        VerifiedOnly: "rule 1: only verified slots are booted and activated",
        LastGoodIsNotWritten: "rule 2: neither the last good nor the booted slot is written",
        VoidBeforeWriting: "rule 2: a slot is void before it is written",
        HealthyBecomesGood: "rule 2: only a slot that booted healthy becomes the last good one",
        WholeStores: "rule 3: every store is whole",
        SecondPromisesNoMore: "rule 3: the second file never promises more than the main block",
        BoundedTries: "rule 4: every try is counted, and none is given back",
        TrialsEndProperly: "rule 4: a trial ends by commit, revert, withdrawn, or cancelled before its first try",
        TrialsEndByThemselves: "rule 4: a trial ends by itself",
        OrdinaryBootsWriteNothing: "rule 5: an ordinary boot of a committed slot writes nothing",
        CommittedStays: "rule 5: a committed slot that holds is what boots",
        OrderOfFallback: "rule 6: good before void, holding before merely loading",
        NothingStops: "rule 6: whatever loads is started",
        HealthyBootFollows: "rule 6: a healthy boot follows where there is a healthy slot",
        UpdatesStayPossible: "rule 6: a healthy device can be updated again",
        FailuresAreRemembered: "rule 7: what failed is not installed again by itself",
        NotStartedIsRetriedOnce: "rule 7: what never started is retried once",
        CopiesAgree: "rule 3: after each run of the hook both copies say the same",
        DamageIsLeft: "rule 3: nothing is written over two copies that cannot be read",
        OnlyAdoptionSeals: "seal: the bootloader never seals what somebody else wrote",
    }
}

/// Collects broken rules.
struct Broken(u32);

impl Broken {
    fn unless(&mut self, holds: bool, rule: Rule) {
        if !holds {
            self.0 |= rule.bit();
        }
    }
}

/// The rules for every state.
pub fn of_state(world: &World) -> u32 {
    let mut broken = Broken(0);
    let View::Ours(state) = world.main.view() else {
        broken.unless(world.ghost.foreign || world.ghost.torn, Rule::WholeStores);
        return broken.0;
    };
    if let Some(second) = world.second {
        let allowed = FallbackBlock::of(&state);
        let promised = |slot| second.slot(slot) == SlotState::Good && allowed.slot(slot) != SlotState::Good;
        broken.unless(!SlotId::BOTH.into_iter().any(promised), Rule::SecondPromisesNoMore);
    }
    broken.0
}

/// The rules for every write, independent of the job so far.
pub fn of_write(world: &World, step: Step) -> u32 {
    let mut broken = Broken(0);
    let Some(slot) = step.writes() else { return 0 };
    let booted = world.booted().map(|(booted, _)| booted.slot);
    broken.unless(booted != Some(slot) && world.ghost.last_good != slot, Rule::LastGoodIsNotWritten);
    if let View::Ours(state) = world.main.view() {
        broken.unless(state.slot(slot) == SlotState::Void && state.active != slot, Rule::VoidBeforeWriting);
    }
    if let Some(second) = world.second {
        broken.unless(second.slot(slot) != SlotState::Good, Rule::VoidBeforeWriting);
    }
    if let Some(View::Ours(older)) = world.older.map(|older| older.view()) {
        broken.unless(older.slot(slot) == SlotState::Void && older.active != slot, Rule::VoidBeforeWriting);
    }
    broken.0
}

/// The rules for a whole job, by the knowledge of the agent when it began.
pub fn of_plan(world: &World, command: Command, steps: &[Step]) -> u32 {
    let mut broken = Broken(0);
    let Some((booted, release)) = world.booted() else { return 0 };
    let healthy = release.healthy();
    if command == Command::Healthcheck && is_settled(world) {
        broken.unless(steps.is_empty(), Rule::OrdinaryBootsWriteNothing);
    }
    let mut now = world.clone();
    for step in steps {
        if world.kind == Kind::UBoot && matches!(step, Step::Main(_)) {
            broken.unless(now.main != Main::TORN, Rule::DamageIsLeft);
        }
        match (*step, now.main.view()) {
            (Step::Main(next), View::Ours(state)) => {
                if let Some(slot) = next.on_trial() {
                    let same = state.on_trial() == Some(slot) && state.trial == next.trial;
                    let fresh = state.success && next.counter == TRIES && !next.trial.is_none();
                    let refilled = next.counter > state.counter;
                    broken
                        .unless(if same { !refilled } else { fresh && next.trial != state.trial }, Rule::BoundedTries);
                    broken.unless(next.good == state.good && slot != next.good, Rule::HealthyBecomesGood);
                    // A slot that rots after it was verified is for the bootloader to find.
                    let verified = now.slot(slot).is_verified() || matches!(now.slot(slot), Content::Rotten(_));
                    broken.unless(same || verified, Rule::VerifiedOnly);
                } else if let Some(slot) = state.on_trial() {
                    let ended = ends_properly(&now, command, slot, &state, &next);
                    broken.unless(ended, Rule::TrialsEndProperly);
                }
                if command == Command::Rollback && next != state {
                    let left = state.on_trial().unwrap_or(booted.slot);
                    let remembered = now.slot(left).manifest().is_none_or(|release| now.failed & release.bit() != 0);
                    let marked = next.slot(left) == SlotState::Fail;
                    broken.unless(remembered || marked, Rule::FailuresAreRemembered);
                }
                // A slot is good again without a trial only after it was read back, with a release that was committed here.
                let repaired = |slot: SlotId| {
                    let again = state.slot(slot) != SlotState::Good && next.slot(slot) == SlotState::Good;
                    again && next.on_trial() != Some(slot) && next.good != slot
                };
                for slot in SlotId::BOTH.into_iter().filter(|slot| repaired(*slot)) {
                    let content = now.slot(slot);
                    let healthy = content.manifest().is_some_and(Release::healthy);
                    let read = content.is_verified() || matches!(content, Content::Rotten(_));
                    broken.unless(healthy && read, Rule::VerifiedOnly);
                }
                let kept = next.good == state.good || (next.good == booted.slot && healthy);
                broken.unless(kept, Rule::HealthyBecomesGood);
            }
            (Step::HalfMain(_), _) => {
                broken.unless(false, Rule::WholeStores);
                return broken.0;
            }
            (Step::Main(next), View::Foreign(_) | View::Invalid) => {
                let right = next.success && next.good == booted.slot && next.active == booted.slot && healthy;
                broken.unless(right, Rule::HealthyBecomesGood);
            }
            _ => {}
        }
        let installs = match (command, *step) {
            (Command::Apply(_), Step::Images(_, release)) => Some(release),
            (Command::Activate, Step::Notes(notes)) => notes
                .trial
                .filter(|note| world.notes.trial.is_none_or(|old| old.id != note.id))
                .map(|note| note.release),
            _ => None,
        };
        if let Some(release) = installs {
            broken.unless(now.ghost.owed & release.bit() == 0, Rule::FailuresAreRemembered);
            let vanished = (release as usize).checked_sub(1).map_or(0, |at| now.ghost.vanished[at]);
            broken.unless(command != Command::Activate || vanished < 2, Rule::NotStartedIsRetriedOnce);
        }
        now.perform(*step);
    }
    let decided = matches!(now.main.view(), View::Ours(state) if state.success);
    if world.kind == Kind::UBoot && command == Command::Healthcheck && decided {
        broken.unless(now.older == Some(now.main), Rule::CopiesAgree);
    }
    broken.0
}

/// A boot after which nothing is left to write.
fn is_settled(world: &World) -> bool {
    let (Some((booted, _)), View::Ours(state)) = (world.booted(), world.main.view()) else { return false };
    let marked = SlotId::BOTH.into_iter().any(|slot| state.slot(slot) == SlotState::Fail);
    state.success
        && booted.slot == state.active
        && match world.kind {
            Kind::Grub => world.second == Some(FallbackBlock::of(&state)),
            Kind::UBoot => world.older == Some(world.main),
        }
        && world.notes.trial.is_none()
        && !marked
}

fn ends_properly(world: &World, command: Command, slot: SlotId, state: &BootState, next: &BootState) -> bool {
    let Some((booted, release)) = world.booted() else { return false };
    let of_this_boot = booted.slot == slot && booted.trial == state.trial && !state.trial.is_none();
    let committed = next.good == slot && of_this_boot && release.healthy();
    let marked = next.slot(slot) == SlotState::Fail && next.trial == state.trial && next.active == state.good;
    let cancelled = next.slot(slot) == SlotState::Void && next.trial.is_none() && next.good == state.good;
    // Declared limit: the seal does not cover the counter, so somebody else can make a trial look untried.
    // So can the damage of the copy that counted a try.
    let uncounted = world.ghost.foreign || (world.kind == Kind::UBoot && world.ghost.torn);
    let untried = !world.ghost.tried || (uncounted && state.counter == TRIES);
    let asked = command != Command::Healthcheck;
    let withdrawn = cancelled && of_this_boot && next.active == state.good && command == Command::Withdraw;
    // A boot of the trial is a try of it, also where damage brought back a copy from before a withdrawal.
    let tried = world.ghost.tried || of_this_boot;
    committed || (marked && tried) || (cancelled && untried && asked) || withdrawn
}

/// The rules for every power-on. `world` is as it was before, `after` has the stored values.
pub fn of_boot(world: &World, after: &World, on: &PowerOn, decision: &Decision) -> u32 {
    let mut broken = Broken(0);
    let Some(start) = decision.start else {
        broken.unless(on.files == [Files::Broken; 2], Rule::NothingStops);
        return broken.0;
    };
    let other = start.slot.other();
    let holds = |slot: SlotId| on.files[slot as usize] == Files::Hold;
    broken.unless(holds(start.slot) || !holds(other), Rule::OrderOfFallback);

    // Declared limits: a foreign writer is obeyed; with both files invalid an untried slot may come first.
    let known = match (on.main, on.second) {
        (View::Ours(_), _) => match after.main.view() {
            View::Ours(state) => Some([state.a, state.b]),
            View::Foreign(_) | View::Invalid => None,
        },
        (View::Invalid, Some(second)) => Some([second.a, second.b]),
        (View::Foreign(_), _) | (View::Invalid, None) => None,
    };
    if let Some(states) = known {
        let good = |slot: SlotId| states[slot as usize] == SlotState::Good && holds(slot);
        broken.unless(good(start.slot) || !good(other), Rule::OrderOfFallback);
        let proven = world.slot(start.slot).is_verified() || world.ghost.proven[start.slot as usize];
        broken.unless(proven || !world.slot(other).is_verified(), Rule::VerifiedOnly);
    }
    if let View::Ours(state) = on.main {
        if state.success {
            broken.unless(decision.stored.is_empty(), Rule::OrdinaryBootsWriteNothing);
            let fit = state.slot(state.active) == SlotState::Good && holds(state.active);
            let stays = start.slot == state.active && start.fallback.is_none() && start.trial.is_none();
            broken.unless(!fit || stays, Rule::CommittedStays);
        } else if start.slot != state.good && start.fallback.is_none() {
            let counted = matches!(after.main.view(), View::Ours(now) if now.counter < state.counter);
            broken.unless(counted, Rule::BoundedTries);
        }
        if let View::Ours(next) = after.main.view()
            && let (Some(slot), None) = (state.on_trial(), next.on_trial())
        {
            let marked = next.slot(slot) == SlotState::Fail && next.trial == state.trial && next.active == state.good;
            broken.unless(marked && state.counter == 0, Rule::TrialsEndProperly);
        }
    }
    if matches!(on.main, View::Foreign(_)) {
        broken.unless(matches!(after.main.view(), View::Foreign(_)), Rule::OnlyAdoptionSeals);
    }
    broken.0
}

/// Boots after which everything has come to rest: three tries, the way back, and as many of a foreign environment.
const BOOTS: usize = 12;

type Memo = HashMap<(Option<Mutation>, Kind, Main, Option<FallbackBlock>, Option<Main>, [Content; 2]), u32>;

thread_local! {
    static REST: RefCell<Memo> = RefCell::new(HashMap::new());
}

/// The rules once nothing goes wrong any more: the device is switched on again and again, and runs its health hook.
pub fn of_rest(world: &World, mutation: Option<Mutation>) -> u32 {
    let key = (mutation, world.kind, world.main, world.second, world.older, world.slots);
    if let Some(known) = REST.with(|memo| memo.borrow().get(&key).copied()) {
        return known;
    }
    // A bad release either dies or is found unhealthy.
    let broken = rest(world, mutation, true) | rest(world, mutation, false);
    REST.with(|memo| memo.borrow_mut().insert(key, broken));
    broken
}

fn rest(world: &World, mutation: Option<Mutation>, bad_survives: bool) -> u32 {
    let mut broken = Broken(0);
    let mut now = World { broken: 0, ..world.clone() };
    let mut healthy = false;
    for _ in 0..BOOTS {
        power_on(&mut now, true, true, mutation);
        if matches!(now.power, Power::On { release, .. } if !release.healthy()) && !bad_survives {
            now.off();
        }
        let mut up = now.booted().is_some_and(|(_, release)| release.healthy());
        for step in agent::plan(&now, Command::Healthcheck, true, mutation) {
            now.perform(step);
            up &= now.power != Power::Off;
        }
        if up {
            healthy = true;
            broken.unless(can_be_updated(&now), Rule::UpdatesStayPossible);
        }
        now.off();
    }
    let trial = matches!(now.main.view(), View::Ours(state) if !state.success);
    broken.unless(!trial, Rule::TrialsEndByThemselves);
    let exists = world
        .slots
        .iter()
        .any(|content| matches!(content, Content::Complete { release, verified: true } if release.healthy()));
    broken.unless(healthy || !exists || is_declared(&now), Rule::HealthyBootFollows);
    broken.0
}

/// Declared limits: a foreign `boot_success=1` on a slot that panics is obeyed, and so is the first slot that holds when
/// both files are invalid.
fn is_declared(world: &World) -> bool {
    let bad = |slot: SlotId| world.slot(slot).runs() == Some(Release::Bad) && world.slot(slot).files() == Files::Hold;
    match world.main.view() {
        View::Foreign(env) => env.success && bad(env.active),
        View::Invalid => world.second.is_none() && bad(SlotId::A),
        View::Ours(_) => false,
    }
}

/// True if a healthy device that has run its hook has a slot for the next release.
fn can_be_updated(world: &World) -> bool {
    let Some((booted, _)) = world.booted() else { return true };
    match world.main.view() {
        View::Ours(state) => state.success && state.target(booted.slot).is_ok(),
        // Declared limit: with both copies of U-Boot damaged a person has to create the environment again.
        View::Invalid => world.kind == Kind::UBoot && world.main == Main::TORN,
        View::Foreign(_) => false,
    }
}
