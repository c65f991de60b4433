//! The system of bootloader, agent, power and faults, as `stateright` explores it.

use bootenv::SlotId;
use bootenv::boot::{Decision, Files, PowerOn, Start, decide};
use bootenv::protocol::{BootState, Booted, SlotState, TRIES, View};
use stateright::{Model, Property};

use super::agent::{self, Command};
use super::mutations::Mutation;
use super::rules::{self, Rule};
use super::world::{Content, Kind, Main, Notes, Power, Release, Step, World};

/// A device, with at most one mistake in its protocol.
pub struct Device {
    pub kind: Kind,
    /// How many faults may happen.
    pub faults: u8,
    pub mutation: Option<Mutation>,
}

/// The next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The bootloader runs. `survives`: until userspace runs; else the power goes after its store, or the kernel dies.
    PowerOn {
        survives: bool,
    },
    /// The power goes; a reboot is no different.
    PowerOff,
    /// A command begins: nothing is written yet.
    Call(Command),
    /// The next step of the command that runs.
    Step,
    /// The same power-on, but the environment cannot be saved.
    FailSave {
        survives: bool,
    },
    TearMain,
    TearSecond,
    /// An image in this slot changes.
    Rot(SlotId),
    /// A health check fails although the release is a good one.
    FailHealth,
    /// A health run cannot look, and says so.
    Blind,
    /// state.json is gone.
    LoseNotes,
    /// The Go agent, or a person, sets KubeSolo OS's three variables. `keeps`: the others stay.
    Foreign {
        active: SlotId,
        success: bool,
        keeps: bool,
    },
}

impl Model for Device {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.kind, self.faults)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // States behind a broken rule show nothing more.
        if world.broken != 0 {
            return;
        }
        match world.power {
            Power::Off => {
                actions.extend([Action::PowerOn { survives: true }, Action::PowerOn { survives: false }]);
                if world.faults > 0 {
                    actions.extend([Action::FailSave { survives: true }, Action::FailSave { survives: false }]);
                }
            }
            Power::On { .. } => {
                actions.push(Action::PowerOff);
                if world.todo.is_empty() {
                    actions.extend(Command::ALL.map(Action::Call));
                    if world.faults > 0 {
                        actions.extend([Action::FailHealth, Action::Blind]);
                    }
                } else {
                    actions.push(Action::Step);
                }
                if world.faults > 0 {
                    for (active, success) in SlotId::BOTH.into_iter().flat_map(|slot| [(slot, false), (slot, true)]) {
                        actions.extend([true, false].map(|keeps| Action::Foreign { active, success, keeps }));
                    }
                }
            }
        }
        if world.faults > 0 {
            actions.extend([Action::TearMain, Action::TearSecond, Action::LoseNotes]);
            actions.extend(SlotId::BOTH.map(Action::Rot));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::PowerOn { survives } => power_on(&mut world, true, survives, self.mutation),
            Action::PowerOff => world.off(),
            Action::Call(command) => {
                world.todo = agent::plan(last, command, true, self.mutation);
                world.broken |= rules::of_plan(last, command, &world.todo);
            }
            Action::Step => {
                let step = world.todo.remove(0);
                world.broken |= rules::of_write(last, step);
                world.perform(step);
            }
            fault => {
                world.faults -= 1;
                self.fault(&mut world, fault);
            }
        }
        world.broken |= rules::of_state(&world);
        if world.power == Power::Off {
            world.broken |= rules::of_rest(&world, self.mutation);
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::properties()
    }
}

impl Device {
    fn fault(&self, world: &mut World, fault: Action) {
        let before = world.main.view();
        if self.kind == Kind::UBoot && matches!(fault, Action::TearMain | Action::TearSecond | Action::Foreign { .. }) {
            // A store reads before it writes, and the job ends where the copies are not what it knew.
            let next = world.todo.iter().position(|step| matches!(step, Step::Main(_)));
            world.todo.truncate(next.unwrap_or(world.todo.len()));
        }
        match fault {
            Action::FailSave { survives } => power_on(world, false, survives, self.mutation),
            Action::TearMain => {
                world.main = world.older.take().unwrap_or(Main::TORN);
                world.ghost.torn = true;
                if let (Kind::UBoot, View::Ours(older)) = (self.kind, world.main.view()) {
                    counts_again(world, before, older);
                } else {
                    trial_vanishes(world, before, false);
                }
            }
            Action::TearSecond => (world.second, world.older) = (None, None),
            Action::Rot(slot) => {
                let content = &mut world.slots[slot as usize];
                *content = content.rotten();
            }
            Action::FailHealth => {
                world.todo = agent::plan(world, Command::Healthcheck, false, self.mutation);
                world.broken |= rules::of_plan(world, Command::Healthcheck, &world.todo);
            }
            Action::Blind => {
                // After a verdict, or beside an environment that another program changed, it says nothing.
                let undecided = |booted: &Booted| matches!(before, View::Ours(state) if state.commit(*booted).is_ok());
                let trial = world.booted().map(|(booted, _)| booted).filter(undecided).map(|booted| booted.trial);
                world.unjudged = trial.or(world.unjudged);
            }
            Action::LoseNotes => world.notes = Notes::default(),
            Action::Foreign { active, success, keeps } => {
                // `fw_setenv` writes nothing but its own defaults where no copy can be read: a person created it again.
                world.put_main(&[]);
                if !keeps {
                    world.main = Main::TORN;
                }
                world.main.set("active_slot", active.as_str());
                world.main.set("boot_success", if success { "1" } else { "0" });
                world.main.set("boot_counter", "3");
                world.ghost.foreign = true;
                if !matches!(world.main.view(), View::Ours(_)) {
                    trial_vanishes(world, before, keeps);
                }
            }
            Action::PowerOn { .. } | Action::PowerOff | Action::Call(_) | Action::Step => {}
        }
    }
}

/// The environment that knew of a trial, or of its end, is gone.
///
/// Declared limit: a mark that no run of the agent has read is gone with it. If userspace never saw that trial start, it
/// counts as not started, which is retried once.
fn trial_vanishes(world: &mut World, before: View, keeps_marks: bool) {
    // A job that read the environment before stores over the damage.
    let overwritten = world.todo.iter().any(|step| matches!(step, Step::Main(_)));
    let on_trial = match before {
        View::Ours(_) if overwritten => 0,
        View::Ours(state) => state.on_trial().and_then(|slot| world.slot(slot).manifest()).map_or(0, Release::bit),
        View::Foreign(_) | View::Invalid => 0,
    };
    let unread = if keeps_marks { 0 } else { world.ghost.owed & !world.failed };
    for (release, count) in [Release::New, Release::Bad].into_iter().zip(&mut world.ghost.vanished) {
        if (unread | on_trial) & release.bit() != 0 {
            *count += 1;
        }
    }
    world.ghost.owed &= !unread;
}

/// The copy that counted is damaged, and the one before counts again: what only the damaged one knew has not happened.
fn counts_again(world: &mut World, before: View, older: BootState) {
    world.ghost.last_good = older.good;
    if let Some(slot) = older.on_trial() {
        // Every end but a cancel came after a try.
        let ended =
            matches!(before, View::Ours(newer) if newer.on_trial().is_none() && newer.slot(slot) != SlotState::Void);
        world.ghost.tried |= older.counter < TRIES || ended;
    }
    if let View::Ours(newer) = before {
        // A mark that no run of the agent has read. Where the trial is still on, the bootloader makes it again.
        let lost = |slot: &SlotId| newer.slot(*slot) == SlotState::Fail && older.slot(*slot) != SlotState::Fail;
        let lost = SlotId::BOTH.into_iter().filter(lost).filter_map(|slot| world.slot(slot).manifest());
        let lost = lost.fold(0, |all, release| all | release.bit());
        world.ghost.owed &= !(lost & !world.failed);
        // The same trial once more, unless a run of the agent has read that nobody judged it.
        if world.not_judged.is_none_or(|one| one.id != newer.trial) {
            world.ghost.excused &= !lost;
        }
    }
    let known = |state: BootState| (state.on_trial(), state.trial);
    if let View::Ours(newer) = before
        && known(newer) != known(older)
        && older.on_trial().is_none()
    {
        trial_vanishes(world, before, false);
    }
}

/// The bootloader, from reset to the start of a kernel.
pub fn power_on(world: &mut World, can_save: bool, survives: bool, mutation: Option<Mutation>) {
    let on =
        PowerOn { main: world.main.view(), second: world.second, files: world.slots.map(Content::files), can_save };
    let decision = mistaken(&on, mutation);
    let before = world.main.view();
    if matches!(before, View::Ours(state) if !state.success) {
        world.ghost.tried = true;
    }
    let last = world.clone();
    if can_save {
        if !decision.stored.is_empty() {
            world.put_main(&decision.stored);
        }
        world.after_store(before);
    }
    world.broken |= rules::of_boot(&last, world, &on, &decision);
    let release = decision.start.and_then(|start| world.slot(start.slot).runs());
    if let (Some(start), Some(release), true) = (decision.start, release, survives) {
        let booted = Booted { slot: start.slot, trial: start.trial, fallback: start.fallback };
        world.power = Power::On { booted, release };
    }
}

/// The decision of the bootloader, unless it is one that gets it wrong.
fn mistaken(on: &PowerOn, mutation: Option<Mutation>) -> Decision {
    let right = decide(on);
    let Some(mutation) = mutation else { return right };
    let ours = match on.main {
        View::Ours(state) => Some(state),
        View::Foreign(_) | View::Invalid => None,
    };
    match (mutation, ours) {
        (Mutation::CounterSavedAfterLoading, Some(state)) if !state.success && state.counter > 0 => {
            Decision { stored: vec![], ..right }
        }
        (Mutation::CountsCommittedBoots, Some(state)) if state.success => {
            Decision { stored: vec![("boot_counter", state.counter.saturating_sub(1).to_string())], ..right }
        }
        (Mutation::BootsVoidWhileGoodHolds, Some(state)) => {
            let holds = |slot: SlotId| state.slot(slot) == SlotState::Void && on.files[slot as usize] == Files::Hold;
            let void = SlotId::BOTH.into_iter().find(|slot| holds(*slot));
            let start = right.start.map(|start| Start { slot: void.unwrap_or(start.slot), ..start });
            Decision { start, ..right }
        }
        (Mutation::BootsDamagedBeforeFailed, Some(state))
            if right.start.is_some_and(|start| {
                state.slot(start.slot) == SlotState::Fail
                    && on.files[start.slot as usize] == Files::Hold
                    && on.files[start.slot.other() as usize] == Files::Load
            }) =>
        {
            let start = right.start.map(|start| Start { slot: start.slot.other(), ..start });
            Decision { start, ..right }
        }
        (Mutation::BootsWithoutHashing, _) => {
            let files = on.files.map(|files| if files == Files::Load { Files::Hold } else { files });
            decide(&PowerOn { files, ..*on })
        }
        (Mutation::GivesUpWithoutMark, _) => {
            let stored = right.stored.into_iter().filter(|(name, _)| !matches!(*name, "ks_a" | "ks_b")).collect();
            Decision { stored, ..right }
        }
        (Mutation::StopsAtAPrompt, _) => {
            Decision { start: right.start.filter(|start| start.fallback.is_none()), ..right }
        }
        (Mutation::SealsForeign, None) => {
            let stored = right.stored.into_iter().map(|(name, value)| match (name, on.main) {
                ("ks_seal", View::Foreign(env)) => (name, format!("{}{}", env.active, u8::from(env.success))),
                _ => (name, value),
            });
            Decision { stored: stored.collect(), ..right }
        }
        (Mutation::IgnoresTheSecondFile, _) => decide(&PowerOn { second: None, ..*on }),
        (Mutation::BootsTheTrialWhenSavingFails, Some(state)) if !on.can_save && !state.success => {
            Decision { stored: vec![], ..decide(&PowerOn { can_save: true, ..*on }) }
        }
        _ => right,
    }
}

/// True if `rule` was broken in this world.
pub fn is_broken(world: &World, rule: Rule) -> bool {
    world.broken & rule.bit() != 0
}
