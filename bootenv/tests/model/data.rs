//! Data that go back with the slot: checkpoints, trials and restores on a device that loses power at any step, with any
//! part of the renames that were not synced yet. Every decision is made by `bootenv::data`, as on the device.

use std::collections::BTreeMap;

use bootenv::boot::{Files, PowerOn, decide};
use bootenv::data::{
    Act, Checkpoint, Found, Mark, Move, Name, OrElse, Place, is_ordinary, layout, put_back, step, tidy,
};
use bootenv::protocol::{BootState, Booted, FallbackBlock, SlotState, View};
use bootenv::{SlotId, TrialId};
use stateright::{Model, Property};

use super::world::Main;

/// Folders below the data partition that belong to a checkpoint. The second one is not there at first.
const PATHS: usize = 2;

/// The device, and how much of it is explored.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Faults that may happen.
    pub faults: u8,
    /// Trials in all.
    pub trials: u8,
    /// Releases whose agent knows no checkpoints, as bits; the device begins with release 0.
    pub old: u8,
    /// Releases whose agent writes layout 2 and reads both layouts, as bits; the others know layout 1 alone.
    pub newer: u8,
    pub mutation: Option<Mutation>,
}

/// One mistake. The model must find what each of them breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A fallback boot while the trial is pending is not taken for its end.
    WaitsForTheVerdict,
    NeverSettles,
    /// A trial does not end a restore that began.
    TrialLeavesBegunRestore,
    /// The checkpoint goes to the trash only after services have started.
    FinishesAfterServices,
    /// A checkpoint of another trial is restored in a trial, not dropped.
    RestoresInAnotherTrial,
    TakesAtEachTry,
    /// `T.none` is forgotten, and the next try takes its own data.
    TakesAfterNone,
    /// A folder that was not there stays.
    AbsentStays,
    /// A commit is no reason to keep the checkpoint from a restore.
    RestoresOverACommit,
    NeverWithdraws,
    /// A slot that is started without its trial takes no checkpoint.
    OnlyTrialsTake,
    /// The announcement is forgotten when the copy begins.
    ForgetsTheNote,
    /// A trial writes the latest layout that it knows, and not one that the announcement permits.
    WritesItsOwnLayout,
    /// This sync is left out.
    Unsynced(Sync),
}

/// Every mistake with one layout, how many faults it takes to show, and the old agents.
pub const MUTATIONS: &[(Mutation, u8, u8)] = &[
    (Mutation::WaitsForTheVerdict, 1, 0),
    (Mutation::NeverSettles, 1, 0),
    (Mutation::TrialLeavesBegunRestore, 0, 0),
    (Mutation::FinishesAfterServices, 0, 0),
    (Mutation::RestoresInAnotherTrial, 0, 0b001),
    (Mutation::TakesAtEachTry, 0, 0),
    (Mutation::TakesAfterNone, 1, 0b001),
    (Mutation::AbsentStays, 0, 0),
    (Mutation::RestoresOverACommit, 1, 0),
    (Mutation::NeverWithdraws, 1, 0),
    (Mutation::OnlyTrialsTake, 1, 0),
    (Mutation::ForgetsTheNote, 2, 0),
    (Mutation::Unsynced(Sync::Copied), 0, 0),
    (Mutation::Unsynced(Sync::Held), 0, 0),
    (Mutation::Unsynced(Sync::PutBack), 0, 0),
    (Mutation::Unsynced(Sync::Finished), 0, 0),
];

/// The writes after which a sync stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sync {
    Noted,
    Begun,
    Copied,
    Held,
    Back,
    SetAside,
    PutBack,
    Finished,
    Other,
}

/// Content of a folder, as far as a rule speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// All that committed systems have written is in it.
    latest: bool,
    /// Trials without a commit that wrote into it, as bits.
    written_by: u8,
    /// The second folder belongs to it.
    both: bool,
}

/// The copy of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Copy {
    Part,
    Absent,
    Whole(Data),
    /// It was put back.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Folder {
    mark: Mark,
    slot: SlotId,
    base: u8,
    noted: bool,
    layout: u32,
    tree: [Copy; PATHS],
    aside: [bool; PATHS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Disk {
    /// By trial.
    folders: BTreeMap<TrialId, Folder>,
    live: [Option<Data>; PATHS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    Make { trial: TrialId, slot: SlotId, base: u8, noted: bool, layout: u32 },
    Mark(TrialId, Mark),
    Remove(TrialId),
    Empty(TrialId),
    Copy(TrialId, u32),
    Move(TrialId, usize, Move),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Write(Write),
    Sync(Sync),
    Main(BootState),
    Second(FallbackBlock),
    Fill(SlotId, u8),
    /// The agent clears away, until nothing is left to clear.
    Tidy,
    Services,
    Reboot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Power {
    Off,
    /// Before services.
    Begins(Booted),
    Runs(Booted),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    /// `None`: nothing was ever written.
    release: Option<u8>,
    rotten: bool,
}

/// Values that no device stores, but rules speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ghost {
    good: SlotId,
    proven: [bool; 2],
    /// The trial that starts with other data on purpose.
    wish: TrialId,
    /// A fault that excuses a trial without checkpoint.
    excused: bool,
    /// A declared limit: what follows shows nothing.
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    main: Main,
    second: Option<FallbackBlock>,
    slots: [Content; 2],
    disk: Disk,
    /// Writes that are in memory and not on the disk yet.
    unsynced: Vec<Write>,
    power: Power,
    pub todo: Vec<Op>,
    settle_failed: bool,
    faults: u8,
    trials: u8,
    releases: u8,
    ghost: Ghost,
    broken: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    PowerOn,
    /// The same, but the environment cannot be saved.
    FailSave,
    /// The power goes; of the writes that were not synced, these stay.
    PowerOff(u8),
    /// The next step of the boot, or of the command that runs.
    Next,
    /// The disk is full when the copy is made.
    TakeFails,
    StoreFails,
    Health,
    Revert,
    Apply,
    Activate,
    Rollback {
        with_data: bool,
    },
    /// A committed system makes the second folder.
    Grow,
    TearMain,
    TearSecond,
    Rot(SlotId),
    LoseNote,
    Foreign(SlotId, bool),
}

/// The rules, in the order of their bits.
const RULES: [&str; 8] = [
    "a committed system never starts on data of a trial that was not committed",
    "a trial never starts services without a complete checkpoint",
    "nothing starts on data that are half restored",
    "data of a committed release never go back by themselves",
    "a trial that starts with other data on purpose does so",
    "an ordinary boot writes nothing",
    "in the end every checkpoint but one that is kept is gone, and services run",
    "no boot is held by a checkpoint that can be read",
];
const COMMITTED: usize = 0;
const CHECKPOINT: usize = 1;
const WHOLE: usize = 2;
const LATEST: usize = 3;
const WISHED: usize = 4;
const ORDINARY: usize = 5;
const REST: usize = 6;
const HELD: usize = 7;

fn bit(trial: TrialId) -> u8 {
    1 << trial.0
}

impl Disk {
    fn write(&mut self, write: Write) {
        match write {
            Write::Make { trial, slot, base, noted, layout } => {
                let folder = Folder {
                    mark: if noted { Mark::Note } else { Mark::New },
                    slot,
                    base,
                    noted,
                    layout,
                    tree: [Copy::Part; PATHS],
                    aside: [false; PATHS],
                };
                self.folders.insert(trial, folder);
            }
            Write::Remove(trial) => _ = self.folders.remove(&trial),
            Write::Mark(trial, mark) => {
                if let Some(folder) = self.folders.get_mut(&trial) {
                    folder.mark = mark;
                }
            }
            Write::Empty(trial) => {
                if let Some(folder) = self.folders.get_mut(&trial) {
                    folder.tree = [Copy::Part; PATHS];
                }
            }
            Write::Copy(trial, layout) => {
                let copies = self.live.map(|live| live.map_or(Copy::Absent, Copy::Whole));
                if let Some(folder) = self.folders.get_mut(&trial) {
                    (folder.tree, folder.layout) = (copies, layout);
                }
            }
            Write::Move(trial, path, step) => {
                let Some(folder) = self.folders.get_mut(&trial) else { return };
                match (step, folder.tree[path], self.live[path]) {
                    (Move::SetAside, _, Some(_)) => {
                        self.live[path] = None;
                        folder.aside[path] = true;
                    }
                    // A rename never replaces a folder that has something in it.
                    (Move::PutBack, Copy::Whole(data), None) => {
                        self.live[path] = Some(data);
                        folder.tree[path] = Copy::Gone;
                    }
                    _ => {}
                }
            }
        }
    }

    /// The next rename of a restore.
    fn next_move(&self, trial: TrialId, mutation: Option<Mutation>) -> Option<(usize, Move)> {
        let folder = &self.folders[&trial];
        (0..PATHS).find_map(|path| {
            let place = Place {
                was_there: folder.tree[path] != Copy::Absent,
                copy: matches!(folder.tree[path], Copy::Whole(_) | Copy::Part),
                live: self.live[path].is_some(),
                set_aside: folder.aside[path],
            };
            if !place.was_there && mutation == Some(Mutation::AbsentStays) {
                return None;
            }
            put_back(place).map(|step| (path, step))
        })
    }

    /// Each set of data, wherever it is.
    fn all(&mut self) -> impl Iterator<Item = &mut Data> {
        let copies = self.folders.values_mut().flat_map(|folder| &mut folder.tree).filter_map(|copy| match copy {
            Copy::Whole(data) => Some(data),
            _ => None,
        });
        copies.chain(self.live.iter_mut().flatten())
    }
}

impl World {
    fn new(limits: Limits) -> Self {
        let state = BootState::committed(SlotId::A);
        let data = Data { latest: true, written_by: 0, both: false };
        Self {
            main: Main::of(&state),
            second: Some(FallbackBlock::of(&state)),
            slots: [Content { release: Some(0), rotten: false }, Content { release: None, rotten: false }],
            disk: Disk { folders: BTreeMap::new(), live: [Some(data), None] },
            unsynced: vec![],
            power: Power::Off,
            todo: vec![],
            settle_failed: false,
            faults: limits.faults,
            trials: 0,
            releases: 0,
            ghost: Ghost { good: SlotId::A, proven: [true, false], wish: TrialId::NONE, excused: false, over: false },
            broken: 0,
        }
    }

    fn content(&self, slot: SlotId) -> Content {
        self.slots[slot as usize]
    }

    fn files(&self, slot: SlotId) -> Files {
        match self.content(slot) {
            Content { release: None, .. } => Files::Broken,
            Content { rotten: true, .. } => Files::Load,
            Content { .. } => Files::Hold,
        }
    }

    fn unless(&mut self, holds: bool, rule: usize) {
        if !holds {
            self.broken |= 1 << rule;
        }
    }

    /// The disk with all that was written, as a running system sees it.
    fn seen(&self) -> Disk {
        let mut disk = self.disk.clone();
        self.unsynced.iter().for_each(|write| disk.write(*write));
        disk
    }

    fn sync(&mut self) {
        self.disk = self.seen();
        self.unsynced.clear();
    }

    /// The latest layout that the agent in this slot knows.
    fn layout(&self, slot: SlotId, limits: Limits) -> u32 {
        let newer = |release: u8| limits.newer & (1 << release) != 0;
        if self.content(slot).release.is_some_and(newer) { 2 } else { 1 }
    }

    fn checkpoints(&self, disk: &Disk, booted: SlotId, limits: Limits) -> Vec<Checkpoint> {
        let one = |(trial, folder): (&TrialId, &Folder)| Checkpoint {
            name: Name { trial: *trial, mark: folder.mark },
            slot: folder.slot,
            of_booted: self.content(booted).release == Some(folder.base),
            noted: folder.noted,
            readable: folder.layout <= self.layout(booted, limits),
        };
        disk.folders.iter().map(one).collect()
    }

    fn ours(&self) -> Option<BootState> {
        match self.main.view() {
            View::Ours(state) => Some(state),
            View::Foreign(_) | View::Invalid => None,
        }
    }

    /// The steps of one store: the second file is lowered before, and raised after.
    fn store(&self, next: BootState) -> Vec<Op> {
        let before = self.second.map(|second| Op::Second(second.before(&next)));
        before.into_iter().chain([Op::Main(next), Op::Second(FallbackBlock::of(&next))]).collect()
    }

    fn power_on(&mut self, can_save: bool) {
        let on = PowerOn {
            main: self.main.view(),
            second: self.second,
            files: SlotId::BOTH.map(|slot| self.files(slot)),
            can_save,
        };
        let decision = decide(&on);
        if can_save {
            self.main.set_all(&decision.stored);
        }
        let start = decision.start.filter(|start| self.files(start.slot) == Files::Hold);
        if let Some(start) = start {
            self.settle_failed = false;
            self.power = Power::Begins(Booted { slot: start.slot, trial: start.trial, fallback: start.fallback });
        }
    }

    fn off(&mut self, kept: u8) {
        for (place, write) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            if kept & (1 << place) != 0 {
                self.disk.write(write);
            }
        }
        self.power = Power::Off;
        self.todo.clear();
    }

    fn is_old(&self, slot: SlotId, limits: Limits) -> bool {
        self.content(slot).release.is_some_and(|release| limits.old & (1 << release) != 0)
    }

    /// The act that the product asks for in this boot.
    fn act(&self, booted: Booted, limits: Limits) -> Act {
        let disk = self.seen();
        let checkpoints = self.checkpoints(&disk, booted.slot, limits);
        let settle_failed = self.settle_failed || limits.mutation == Some(Mutation::NeverSettles);
        let found = Found { checkpoints: &checkpoints, booted, env: self.main.view(), legacy: false, settle_failed };
        mistaken(&found, &disk, limits.mutation)
    }

    /// The steps of one act.
    fn begin(&mut self, booted: Booted, limits: Limits) {
        let act = self.act(booted, limits);
        let disk = self.seen();
        let names: Vec<Name> =
            disk.folders.iter().map(|(trial, folder)| Name { trial: *trial, mark: folder.mark }).collect();
        self.unless(act == Act::Go || !is_ordinary(&names, booted), ORDINARY);
        self.todo = match act {
            Act::Go => vec![Op::Services],
            Act::Hold(_) => {
                self.unless(false, HELD);
                vec![]
            }
            Act::Withdraw => self.withdraw(booted),
            Act::Settle(next) => self.store(next),
            Act::Begin(name) => marked(name.trial, Mark::Back, Sync::Back),
            Act::Keep(name, _) => marked(name.trial, Mark::Kept, Sync::Other),
            Act::Drop(name, _) => vec![Op::Write(Write::Remove(name.trial)), Op::Sync(Sync::Other)],
            Act::Finish(name) => match disk.next_move(name.trial, limits.mutation) {
                Some((path, step)) => {
                    let sync = if step == Move::PutBack { Sync::PutBack } else { Sync::SetAside };
                    vec![Op::Write(Write::Move(name.trial, path, step)), Op::Sync(sync)]
                }
                None => vec![Op::Write(Write::Remove(name.trial)), Op::Sync(Sync::Finished)],
            },
            Act::Take { trial, .. } => self.take(trial, booted, &disk, limits),
        };
        self.todo.retain(|op| !matches!((op, limits.mutation), (Op::Sync(sync), Some(Mutation::Unsynced(left_out))) if *sync == left_out));
    }

    fn withdraw(&self, booted: Booted) -> Vec<Op> {
        let next = self.ours().and_then(|state| state.withdraw(booted).ok());
        next.map_or(vec![], |next| self.store(next)).into_iter().chain([Op::Reboot]).collect()
    }

    /// The release that the data belong to, where no announcement says it: the last good one.
    fn base(&self, booted: SlotId) -> u8 {
        let good = self.ours().map_or(booted.other(), |state| state.good);
        self.content(good).release.unwrap_or(0)
    }

    /// A folder that no activation announced.
    fn make(&self, trial: TrialId, booted: Booted) -> Op {
        let (slot, base) = (booted.slot, self.base(booted.slot));
        Op::Write(Write::Make { trial, slot, base, noted: false, layout: 1 })
    }

    fn folder_for(&self, trial: TrialId, mark: Mark, booted: Booted, disk: &Disk) -> Vec<Op> {
        let make = self.make(trial, booted);
        let known = disk.folders.contains_key(&trial);
        let make = (!known).then_some(make);
        make.into_iter().chain([Op::Write(Write::Mark(trial, mark)), Op::Sync(Sync::Begun)]).collect()
    }

    fn take(&self, trial: TrialId, booted: Booted, disk: &Disk, limits: Limits) -> Vec<Op> {
        let mut ops = match limits.mutation {
            Some(Mutation::ForgetsTheNote) => {
                vec![self.make(trial, booted), Op::Sync(Sync::Begun)]
            }
            _ => self.folder_for(trial, Mark::New, booted, disk),
        };
        let own = self.layout(booted.slot, limits);
        let announced = disk.folders.get(&trial).filter(|folder| folder.noted).map(|folder| folder.layout);
        let layout = match limits.mutation {
            Some(Mutation::WritesItsOwnLayout) => own,
            _ => layout(own, announced),
        };
        ops.extend([Op::Write(Write::Empty(trial)), Op::Write(Write::Copy(trial, layout)), Op::Sync(Sync::Copied)]);
        ops.extend(marked(trial, Mark::Held, Sync::Held));
        ops
    }

    /// The copy fails: the disk is full.
    fn take_fails(&mut self, booted: Booted, limits: Limits) {
        let Act::Take { trial, or } = self.act(booted, limits) else { return };
        let disk = self.seen();
        self.todo = match or {
            OrElse::Withdraw if limits.mutation == Some(Mutation::NeverWithdraws) => vec![Op::Services],
            OrElse::Withdraw => self.withdraw(booted),
            OrElse::GoWithout => {
                let good = self.ours().map_or(booted.slot.other(), |state| state.good);
                // Declared, too: the bootloader starts a slot without its trial because nothing else holds.
                let excused = self.ghost.excused || self.is_old(good, limits) || booted.trial.is_none();
                self.unless(excused, CHECKPOINT);
                // Declared: no announcement, or no trial to withdraw, and no space.
                self.ghost.over = !self.is_old(good, limits);
                let without = self.folder_for(trial, Mark::None, booted, &disk);
                without.into_iter().chain([Op::Services]).collect()
            }
        };
    }

    fn services(&mut self, booted: Booted, limits: Limits) {
        self.power = Power::Runs(booted);
        let disk = self.seen();
        let old = self.is_old(booted.slot, limits);
        let [Some(first), second] = disk.live else { return self.unless(false, WHOLE) };
        self.unless(second == first.both.then_some(first), WHOLE);
        let trial =
            match disk.folders.iter().find(|(_, folder)| folder.slot == booted.slot && folder.mark == Mark::Held) {
                _ if !booted.trial.is_none() => booted.trial,
                _ if booted.slot == self.ghost.good => TrialId::NONE,
                Some((trial, _)) => *trial,
                None if self.ghost.proven[booted.slot as usize] => TrialId::NONE,
                // Declared: nothing was activated there, and something started it all the same.
                None => {
                    let announces = |folder: &Folder| folder.noted && matches!(folder.mark, Mark::Note | Mark::New);
                    self.ghost.over =
                        !disk.folders.values().any(|folder| folder.slot == booted.slot && announces(folder));
                    self.unless(self.ghost.over, CHECKPOINT);
                    return;
                }
            };
        if trial.is_none() {
            if !old {
                self.unless(first.written_by == 0, COMMITTED);
                self.unless(first.latest, LATEST);
            }
            self.write_live(|data| Data { latest: true, written_by: 0, ..data }, true);
        } else if old {
            self.write_live(|data| data, false);
        } else {
            self.starts_trial(trial, booted, first, limits);
            self.write_live(|data| Data { written_by: data.written_by | bit(trial), both: true, ..data }, false);
        }
    }

    fn starts_trial(&mut self, trial: TrialId, booted: Booted, live: Data, limits: Limits) {
        let disk = self.seen();
        // Declared: an old agent in the last good slot ends no trial in a fallback boot, and restores nothing.
        let unused = self.is_old(self.ghost.good, limits);
        let whole = |folder: &Folder| match folder.tree {
            [Copy::Whole(data), second] => {
                let both = if data.both { Copy::Whole(data) } else { Copy::Absent };
                (data.latest || unused) && data.written_by == 0 && second == both
            }
            _ => false,
        };
        let none = |folder: &Folder| folder.mark == Mark::None;
        let held = disk.folders.get(&trial);
        self.unless(held.is_some_and(|folder| folder.mark == Mark::Held && whole(folder) || none(folder)), CHECKPOINT);
        self.unless(live.written_by & !bit(trial) == 0, COMMITTED);
        let wished = self.ghost.wish == trial;
        // Started without its trial by a foreign writer, it goes on with the data that are there.
        if !(wished && booted.trial.is_none()) {
            self.unless(live.latest != wished, if wished { WISHED } else { LATEST });
        }
    }

    /// Services write, all at once and synced.
    fn write_live(&mut self, change: impl Fn(Data) -> Data, outdates: bool) {
        self.each_disk(|disk| {
            if outdates {
                disk.all().for_each(|data| data.latest = false);
            }
            let Some(data) = disk.live[0].map(&change) else { return };
            disk.live = [Some(data), data.both.then_some(data)];
        });
    }

    fn each_disk(&mut self, change: impl Fn(&mut Disk)) {
        // Renames that are not synced yet do not matter to what services write into a folder.
        let mut seen = self.seen();
        change(&mut seen);
        change(&mut self.disk);
        if self.unsynced.is_empty() {
            self.disk = seen;
        }
    }

    fn commits(&mut self, slot: SlotId, booted: Booted) {
        let of_slot = |disk: &Disk| {
            let trials = disk.folders.iter().filter(|(_, folder)| folder.slot == slot).map(|(trial, _)| bit(*trial));
            trials.fold(bit(booted.trial), |all, one| all | one)
        };
        let committed = of_slot(&self.seen());
        self.ghost.good = slot;
        self.ghost.proven[slot as usize] = true;
        self.each_disk(|disk| {
            disk.all().for_each(|data| {
                data.latest = false;
                data.written_by &= !committed;
            });
            disk.live.iter_mut().flatten().for_each(|data| data.latest = true);
        });
    }

    fn perform(&mut self, op: Op, limits: Limits) {
        let (Power::Begins(booted) | Power::Runs(booted)) = self.power else { return };
        match op {
            Op::Write(write) => self.unsynced.push(write),
            Op::Sync(_) => self.sync(),
            Op::Second(second) => self.second = Some(second),
            Op::Main(next) => {
                let before = self.main.view();
                self.main.set_all(&next.variables());
                let moved = next.success && (next.good != self.ghost.good);
                let ended = matches!(before, View::Ours(was) if was.commit(booted) == Ok(next));
                if moved || ended {
                    self.commits(next.good, booted);
                }
            }
            Op::Fill(slot, release) => {
                self.slots[slot as usize] = Content { release: Some(release), rotten: false };
                self.ghost.proven[slot as usize] = false;
            }
            Op::Tidy => self.tidy(booted, limits),
            Op::Services => self.services(booted, limits),
            Op::Reboot => {
                self.sync();
                self.off(0);
            }
        }
    }

    fn next_tidy(&self, booted: Booted, limits: Limits) -> Option<Act> {
        let checkpoints = self.checkpoints(&self.seen(), booted.slot, limits);
        let env = self.main.view();
        tidy(&Found { checkpoints: &checkpoints, booted, env, legacy: false, settle_failed: false })
    }

    /// The agent clears away before it activates.
    fn clears_away(&self, booted: Booted, limits: Limits) -> bool {
        self.next_tidy(booted, limits).is_some()
    }

    fn tidy(&mut self, booted: Booted, limits: Limits) {
        let mut ops = match self.next_tidy(booted, limits) {
            Some(Act::Drop(name, _)) => vec![Op::Write(Write::Remove(name.trial)), Op::Sync(Sync::Other), Op::Tidy],
            Some(Act::Keep(name, _)) => {
                let mut ops = marked(name.trial, Mark::Kept, Sync::Other);
                ops.push(Op::Tidy);
                ops
            }
            _ => return,
        };
        ops.append(&mut self.todo);
        self.todo = ops;
    }

    /// The steps of a command; empty if it does nothing.
    fn command(&self, action: Action, booted: Booted, limits: Limits) -> Vec<Op> {
        let old = self.is_old(booted.slot, limits);
        let tidies = |mut ops: Vec<Op>| {
            if !old {
                ops.push(Op::Tidy);
            }
            ops
        };
        let stored = |next: Option<BootState>| next.map(|next| self.store(next));
        let ops = match (action, self.main.view()) {
            (Action::Health, View::Ours(state)) => {
                let rotten = booted.slot != state.active && self.files(state.active) != Files::Hold;
                let over = || state.take_over(booted.slot).ok().filter(|_| rotten);
                stored(state.commit(booted).ok().or_else(|| state.settle(booted)).or_else(over)).or(Some(vec![]))
            }
            (Action::Health, View::Foreign(env)) => {
                let over = self.files(env.active) != Files::Hold || env.fail[env.active as usize];
                stored(
                    env.adopt(booted.slot).or_else(|why| if over { env.take_over(booted.slot) } else { Err(why) }).ok(),
                )
            }
            (Action::Health, View::Invalid) => stored(Some(FallbackBlock::rebuild(self.second, booted.slot))),
            (Action::Revert, View::Ours(state)) => {
                stored(state.revert(booted).ok()).map(|ops| [ops, vec![Op::Reboot]].concat())
            }
            (Action::Apply, View::Ours(state)) => stored(state.invalidate(booted.slot).ok()).map(|ops| {
                let fill = Op::Fill(booted.slot.other(), self.releases + 1);
                [tidies(ops), vec![fill]].concat()
            }),
            (Action::Activate, View::Ours(state)) => self.activate(state, booted, limits),
            (Action::Rollback { with_data }, View::Ours(state)) => self.rollback(state, booted, with_data, limits),
            _ => None,
        };
        let tidied = !matches!(action, Action::Revert | Action::Activate | Action::Apply);
        ops.map_or(vec![], |ops| if tidied && !ops.contains(&Op::Reboot) { tidies(ops) } else { ops })
    }

    /// No checkpoint may be in use.
    fn is_settled(&self) -> bool {
        self.seen().folders.values().all(|folder| matches!(folder.mark, Mark::Kept | Mark::None))
    }

    fn note(&self, trial: TrialId, slot: SlotId, booted: Booted, limits: Limits) -> Vec<Op> {
        let (base, layout) = (self.content(booted.slot).release.unwrap_or(0), self.layout(booted.slot, limits));
        vec![Op::Write(Write::Make { trial, slot, base, noted: true, layout }), Op::Sync(Sync::Noted)]
    }

    fn activate(&self, state: BootState, booted: Booted, limits: Limits) -> Option<Vec<Op>> {
        let target = state.target(booted.slot).ok()?;
        let trial = TrialId(u32::from(self.trials) + 1);
        let staged = self.files(target) == Files::Hold && state.slot(target) == SlotState::Void;
        let next = state.activate(booted, trial).ok().filter(|next| staged && state.success && *next != state)?;
        if self.is_old(booted.slot, limits) {
            return Some(self.store(next));
        }
        if self.clears_away(booted, limits) {
            return Some(vec![Op::Tidy]);
        }
        self.is_settled().then(|| [self.note(trial, target, booted, limits), self.store(next)].concat())
    }

    fn rollback(&self, state: BootState, booted: Booted, with_data: bool, limits: Limits) -> Option<Vec<Op>> {
        if let Ok(next) = state.cancel(booted.slot) {
            return (!with_data).then(|| self.store(next));
        }
        let trial = TrialId(u32::from(self.trials) + 1);
        let other = booted.slot.other();
        let next = state.rollback(booted, trial).ok().filter(|_| self.files(other) == Files::Hold)?;
        if self.is_old(booted.slot, limits) {
            return (!with_data).then(|| self.store(next));
        }
        if self.clears_away(booted, limits) {
            return Some(vec![]);
        }
        let disk = self.seen();
        let kept = disk.folders.iter().find(|(_, folder)| {
            folder.mark == Mark::Kept && folder.slot == booted.slot && Some(folder.base) == self.content(other).release
        });
        if !self.is_settled() {
            return None;
        }
        let mut ops = self.note(trial, other, booted, limits);
        if with_data {
            ops.extend(marked(*kept?.0, Mark::For(trial), Sync::Noted));
        }
        ops.extend(self.store(next));
        Some(ops)
    }

    /// A fault hits data that were committed, and whose checkpoint was not put away yet.
    fn hits_a_cut_commit(&self) -> bool {
        self.disk.folders.values().any(|folder| folder.mark == Mark::Held && folder.slot == self.ghost.good)
    }

    /// Nothing goes wrong any more: the device is switched on again and again, and runs its health hook.
    fn rests(&self, limits: Limits) -> bool {
        let mut now = World { faults: 0, broken: 0, ..self.clone() };
        let mut ran = false;
        for _ in 0..8 {
            now.power_on(true);
            let mut judged = false;
            let mut steps = 0;
            while now.power != Power::Off {
                steps += 1;
                if steps == 200 {
                    return false;
                }
                match (now.power, now.todo.is_empty()) {
                    (Power::Begins(booted), true) => now.begin(booted, limits),
                    (Power::Runs(_), true) if judged => break,
                    (Power::Runs(booted), true) => {
                        (ran, judged) = (true, true);
                        now.todo = now.command(Action::Health, booted, limits);
                    }
                    _ => {
                        let op = now.todo.remove(0);
                        now.perform(op, limits);
                    }
                }
                if now.broken != 0 || now.ghost.over {
                    return true;
                }
            }
            now.sync();
            now.off(0);
        }
        let left = now.disk.folders.len() <= 1 && now.disk.folders.values().all(|folder| folder.mark == Mark::Kept);
        let bootable = SlotId::BOTH.iter().any(|slot| self.files(*slot) == Files::Hold);
        !bootable || ran && (left || !matches!(now.main.view(), View::Ours(_)))
    }
}

fn marked(trial: TrialId, mark: Mark, sync: Sync) -> Vec<Op> {
    vec![Op::Write(Write::Mark(trial, mark)), Op::Sync(sync)]
}

/// The act of the product, unless it is one that gets it wrong.
fn mistaken(found: &Found<'_>, disk: &Disk, mutation: Option<Mutation>) -> Act {
    let act = step(found);
    let trial = found.booted.trial;
    let without = |mark: Mark| {
        let rest: Vec<Checkpoint> = found.checkpoints.iter().filter(|one| one.name.mark != mark).copied().collect();
        step(&Found { checkpoints: &rest, ..*found })
    };
    match (mutation, act) {
        (Some(Mutation::WaitsForTheVerdict), Act::Settle(_) | Act::Begin(_)) if matches!(found.env, View::Ours(env) if !env.success) => {
            Act::Go
        }
        (Some(Mutation::TrialLeavesBegunRestore), Act::Finish(_)) if !trial.is_none() => without(Mark::Back),
        (Some(Mutation::FinishesAfterServices), Act::Finish(name)) if disk.next_move(name.trial, None).is_none() => {
            Act::Go
        }
        (Some(Mutation::RestoresInAnotherTrial), Act::Drop(name, _)) if !trial.is_none() => Act::Begin(name),
        (Some(Mutation::TakesAtEachTry), Act::Go) if !trial.is_none() => match disk.folders.get(&trial) {
            Some(folder) if folder.mark == Mark::Held && folder.tree.contains(&Copy::Absent) => {
                Act::Take { trial, or: OrElse::Withdraw }
            }
            _ => Act::Go,
        },
        (Some(Mutation::TakesAfterNone), Act::Go) if !trial.is_none() => without(Mark::None),
        (Some(Mutation::RestoresOverACommit), Act::Keep(name, _))
            if found.booted.slot != disk.folders[&name.trial].slot =>
        {
            Act::Begin(name)
        }
        (Some(Mutation::OnlyTrialsTake), Act::Take { .. }) if trial.is_none() => Act::Go,
        _ => act,
    }
}

/// A device with its limits, as `stateright` explores it.
pub struct Device(pub Limits);

impl Model for Device {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.0)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken != 0 || world.ghost.over {
            return;
        }
        let faulty = world.faults > 0;
        match world.power {
            Power::Off => {
                actions.push(Action::PowerOn);
                if faulty {
                    actions.push(Action::FailSave);
                }
            }
            Power::Begins(_) | Power::Runs(_) => {
                actions.extend((0..1 << world.unsynced.len()).map(Action::PowerOff));
                if !world.todo.is_empty() {
                    actions.push(Action::Next);
                    if faulty && matches!(world.power, Power::Begins(_)) && matches!(world.todo[0], Op::Main(_)) {
                        actions.push(Action::StoreFails);
                    }
                } else if let Power::Begins(_) = world.power {
                    actions.push(Action::Next);
                    if faulty {
                        actions.push(Action::TakeFails);
                    }
                } else {
                    let rollbacks = [false, true].map(|with_data| Action::Rollback { with_data });
                    actions.extend([Action::Health, Action::Revert, Action::Apply, Action::Activate, Action::Grow]);
                    actions.extend(rollbacks);
                }
            }
        }
        if faulty {
            actions.extend([Action::TearMain, Action::TearSecond, Action::LoseNote]);
            actions.extend(SlotId::BOTH.map(Action::Rot));
            if !matches!(world.power, Power::Off) && world.todo.is_empty() {
                for slot in SlotId::BOTH {
                    actions.extend([true, false].map(|success| Action::Foreign(slot, success)));
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let limits = self.0;
        let mut world = last.clone();
        match action {
            Action::PowerOn => world.power_on(true),
            Action::PowerOff(kept) => world.off(kept),
            Action::Next => match (world.power, world.todo.is_empty()) {
                (Power::Begins(booted), true) if world.is_old(booted.slot, limits) => world.services(booted, limits),
                (Power::Begins(booted), true) => world.begin(booted, limits),
                _ => {
                    let op = world.todo.remove(0);
                    world.perform(op, limits);
                }
            },
            Action::Grow => {
                let committed = matches!(world.power, Power::Runs(booted) if booted.slot == world.ghost.good && booted.trial.is_none());
                if committed {
                    world.write_live(|data| Data { both: true, ..data }, true);
                    world.write_live(|data| Data { latest: true, ..data }, false);
                }
            }
            Action::Health | Action::Revert | Action::Apply | Action::Activate | Action::Rollback { .. } => {
                let Power::Runs(booted) = world.power else { return None };
                world.todo = world.command(action, booted, limits);
                self.count(&mut world, action)?;
            }
            fault => {
                world.faults -= 1;
                self.fault(&mut world, fault);
            }
        }
        if world.power == Power::Off && world.broken == 0 && !world.ghost.over && limits.old == 0 {
            let rests = world.rests(limits);
            world.unless(rests, REST);
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! rule {
            ($($number:literal),*) => { vec![$(Property::always(RULES[$number], |_, world: &World| world.broken & (1 << $number) == 0)),*] };
        }
        rule!(0, 1, 2, 3, 4, 5, 6, 7)
    }
}

impl Device {
    /// New trials and releases, as far as they are explored.
    fn count(&self, world: &mut World, action: Action) -> Option<()> {
        let starts = world.todo.iter().find_map(|op| match op {
            Op::Main(next) if !next.success && !matches!(action, Action::Health) => Some(next.trial),
            _ => None,
        });
        if let Some(trial) = starts {
            world.trials += 1;
            if action == (Action::Rollback { with_data: true }) {
                world.ghost.wish = trial;
            }
        }
        if action == Action::Apply && !world.todo.is_empty() {
            world.releases += 1;
        }
        (world.trials <= self.0.trials && world.releases <= self.0.trials && !world.todo.is_empty()).then_some(())
    }

    fn fault(&self, world: &mut World, fault: Action) {
        match fault {
            Action::FailSave => world.power_on(false),
            Action::TakeFails => {
                if let Power::Begins(booted) = world.power {
                    world.take_fails(booted, self.0);
                }
            }
            Action::StoreFails => {
                world.settle_failed = true;
                world.todo.clear();
                // A store that withdraws: the try is counted, and the boot ends.
                if let Power::Begins(booted) = world.power
                    && !booted.trial.is_none()
                {
                    world.off(0);
                }
            }
            Action::TearMain => {
                world.ghost.over |= world.hits_a_cut_commit();
                world.ghost.excused = true;
                world.main = Main::TORN;
            }
            Action::TearSecond => world.second = None,
            Action::Rot(slot) => world.slots[slot as usize].rotten = world.content(slot).release.is_some(),
            Action::LoseNote => {
                let noted = |folder: &Folder| folder.mark == Mark::Note;
                world.sync();
                world.disk.folders.retain(|_, folder| !noted(folder));
                world.ghost.excused = true;
            }
            Action::Foreign(active, success) => {
                world.ghost.over |= world.hits_a_cut_commit();
                world.ghost.excused = true;
                world.main.set("active_slot", active.as_str());
                world.main.set("boot_success", if success { "1" } else { "0" });
                world.main.set("boot_counter", "3");
                world.main.set("ks_seal", "--");
            }
            _ => {}
        }
    }
}
