//! The device as the model sees it: what is on its disk, what runs, and what the rules need to remember.

use bootenv::boot::Files;
use bootenv::protocol::{BootState, Booted, FallbackBlock, NAMES, SlotState, View};
use bootenv::{SlotId, TrialId};

/// A release of the OS. Its behaviour is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// The first content of the device: healthy, older than the others.
    Home,
    /// Healthy.
    New,
    /// Panics, never starts its health hook, or is found unhealthy; at each boot another of these.
    Bad,
}

impl Release {
    pub fn healthy(self) -> bool {
        self != Release::Bad
    }

    /// Its place in a set of releases.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The files of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// No images.
    Nothing,
    /// Images that load and die: half written, or damaged.
    Junk,
    /// Both images, no hash files.
    Images(Release),
    /// Images and hash files, no manifest: not read back yet.
    Hashed(Release),
    /// All files. `verified`: they were read back from the medium and found right.
    Complete { release: Release, verified: bool },
    /// All files, and an image that does not match its hash any more.
    Rotten(Release),
}

impl Content {
    /// The content that the bootloader finds.
    pub fn files(self) -> Files {
        match self {
            Content::Nothing => Files::Broken,
            Content::Junk | Content::Images(_) | Content::Rotten(_) => Files::Load,
            Content::Hashed(_) | Content::Complete { .. } => Files::Hold,
        }
    }

    /// The content of the slot's manifest.
    pub fn manifest(self) -> Option<Release> {
        match self {
            Content::Complete { release, .. } | Content::Rotten(release) => Some(release),
            _ => None,
        }
    }

    /// The system that comes up when it is booted; `None` if the kernel dies.
    pub fn runs(self) -> Option<Release> {
        match self {
            Content::Nothing | Content::Junk | Content::Rotten(_) => None,
            Content::Images(release) | Content::Hashed(release) | Content::Complete { release, .. } => Some(release),
        }
    }

    pub fn is_verified(self) -> bool {
        matches!(self, Content::Complete { verified: true, .. })
    }

    pub fn rotten(self) -> Self {
        match self {
            Content::Nothing => Content::Nothing,
            Content::Junk | Content::Images(_) | Content::Hashed(_) => Content::Junk,
            Content::Complete { release, .. } | Content::Rotten(release) => Content::Rotten(release),
        }
    }
}

/// Every value that a variable of the model can have.
const VALUES: [&str; 20] = [
    "", "A", "B", "0", "1", "2", "3", "good", "void", "fail", "00000000", "00000001", "00000002", "00000003",
    "00000004", "A0", "A1", "B0", "B1", "--",
];

/// The variables of the main block, each as its place in [`VALUES`] (0: not set), in the order of [`NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Main([u8; NAMES.len()]);

impl Main {
    /// A block that is none any more.
    pub const TORN: Self = Self([0; NAMES.len()]);

    pub fn of(state: &BootState) -> Self {
        let mut main = Self::TORN;
        main.set_all(&state.variables());
        main
    }

    pub fn set(&mut self, name: &str, value: &str) {
        let variable = NAMES.iter().position(|n| *n == name).expect("a variable of the protocol");
        self.0[variable] = VALUES.iter().position(|v| *v == value).expect("a value of the model") as u8;
    }

    pub fn set_all(&mut self, variables: &[(&'static str, String)]) {
        variables.iter().for_each(|(name, value)| self.set(name, value));
    }

    pub fn get(&self, name: &str) -> Option<&'static str> {
        let variable = NAMES.iter().position(|n| *n == name)?;
        Some(VALUES[self.0[variable] as usize]).filter(|value| !value.is_empty())
    }

    /// As the real code reads it.
    pub fn view(&self) -> View {
        View::read(|name| self.get(name))
    }

    /// The id in `ks_trial`.
    pub fn trial(&self) -> TrialId {
        self.get("ks_trial").and_then(|id| id.parse().ok()).unwrap_or(TrialId::NONE)
    }
}

impl std::fmt::Debug for Main {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<&str> = NAMES.iter().map(|name| self.get(name).unwrap_or("?")).collect();
        f.write_str(&words.join(" "))
    }
}

/// A trial as state.json notes it, before the environment has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    pub id: TrialId,
    pub slot: SlotId,
    pub release: Release,
    /// A boot of it reached userspace.
    pub started: bool,
}

/// state.json.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notes {
    pub trial: Option<Note>,
    /// Releases whose trial was once not seen to start.
    pub not_started: u8,
}

/// A trial that no health run judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotJudged {
    pub id: TrialId,
    pub release: Release,
}

/// The running system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Power {
    Off,
    On { booted: Booted, release: Release },
}

/// One write that happens whole or not at all, or a reading that decides whether the job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The second file.
    Second(FallbackBlock),
    /// The main block.
    Main(BootState),
    /// The first three variables of the main block; only a broken agent does that.
    HalfMain(BootState),
    /// state.json.
    Notes(Notes),
    /// unjudged.json: the trial whose last health run could not look.
    Unjudged(Option<TrialId>),
    /// memory.json. One trial is enough here, as there are at most two faults: that of another release takes its place.
    Memory(Option<NotJudged>),
    /// memory.json: the slot to fall back to is being filled again, or no more.
    Refilling(bool),
    /// trust.json: this release failed.
    Remember(Release),
    /// Hash files and manifest are unlinked.
    Unhash(SlotId),
    /// The old images are unlinked.
    Erase(SlotId),
    /// The first bytes of an image.
    Begin(SlotId),
    /// Both images, synced.
    Images(SlotId, Release),
    /// The hash files.
    Hashes(SlotId),
    /// The manifest.
    Manifest(SlotId),
    /// The medium is read and compared; the job ends here if it differs.
    ReadBack(SlotId),
    Reboot,
}

impl Step {
    /// The slot that it writes.
    pub fn writes(self) -> Option<SlotId> {
        match self {
            Step::Unhash(slot) | Step::Erase(slot) | Step::Begin(slot) => Some(slot),
            Step::Images(slot, _) | Step::Hashes(slot) | Step::Manifest(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Values that no device stores, but rules speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The slot that was committed last.
    pub last_good: SlotId,
    /// Slots whose content was committed once: a healthy boot proves them, independent of their writer.
    pub proven: [bool; 2],
    /// The bootloader has counted, or tried to count, a try of the trial that runs.
    pub tried: bool,
    /// Releases whose trial ended in a `fail` mark: an unattended run must not install them again.
    pub owed: u8,
    /// Releases of which one trial ended in a `fail` mark, and its last health run could not look: that is excused once.
    pub excused: u8,
    /// How many trials of New, Bad were cut off by damage or a foreign writer.
    pub vanished: [u8; 2],
    /// A foreign writer was there.
    pub foreign: bool,
    /// A main block was torn.
    pub torn: bool,
}

/// How the environment is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One block, and a second file with less in it.
    Grub,
    /// Two copies with checksums, of which a store replaces the one that does not count.
    UBoot,
}

/// The whole device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub kind: Kind,
    /// The file that the bootloader reads first. With U-Boot the copy that counts.
    pub main: Main,
    /// GRUB's second file.
    pub second: Option<FallbackBlock>,
    /// U-Boot's other copy, if its checksum is right.
    pub older: Option<Main>,
    pub slots: [Content; 2],
    pub notes: Notes,
    /// The trial in unjudged.json.
    pub unjudged: Option<TrialId>,
    /// The trial in memory.json.
    pub not_judged: Option<NotJudged>,
    /// The slot to fall back to is being filled again, by memory.json.
    pub refilling: bool,
    /// Releases in trust.json.
    pub failed: u8,
    pub power: Power,
    /// The steps that the running job still has to do.
    pub todo: Vec<Step>,
    /// Faults that may still happen.
    pub faults: u8,
    pub ghost: Ghost,
    /// Rules that were broken, as bits; see `rules`.
    pub broken: u32,
}

impl World {
    /// A device as it leaves the factory, switched off.
    pub fn new(kind: Kind, faults: u8) -> Self {
        let state = BootState::committed(SlotId::A);
        Self {
            kind,
            main: Main::of(&state),
            second: (kind == Kind::Grub).then_some(FallbackBlock::of(&state)),
            older: (kind == Kind::UBoot).then_some(Main::of(&state)),
            slots: [Content::Complete { release: Release::Home, verified: true }, Content::Nothing],
            notes: Notes::default(),
            unjudged: None,
            not_judged: None,
            refilling: false,
            failed: 0,
            power: Power::Off,
            todo: vec![],
            faults,
            ghost: Ghost {
                last_good: SlotId::A,
                proven: [true, false],
                tried: false,
                owed: 0,
                excused: 0,
                vanished: [0; 2],
                foreign: false,
                torn: false,
            },
            broken: 0,
        }
    }

    pub fn slot(&self, slot: SlotId) -> Content {
        self.slots[slot as usize]
    }

    pub fn booted(&self) -> Option<(Booted, Release)> {
        match self.power {
            Power::Off => None,
            Power::On { booted, release } => Some((booted, release)),
        }
    }

    pub fn off(&mut self) {
        self.power = Power::Off;
        self.todo.clear();
    }

    /// Does one step of a job.
    pub fn perform(&mut self, step: Step) {
        let slot = step.writes();
        let content = slot.map_or(Content::Nothing, |slot| self.slot(slot));
        let mut put = |content| {
            if let Some(slot) = slot {
                self.slots[slot as usize] = content;
                self.ghost.proven[slot as usize] = false;
            }
        };
        match step {
            Step::Second(second) => self.second = Some(second),
            Step::Main(state) => {
                let before = self.main.view();
                self.put_main(&state.variables());
                self.after_store(before);
            }
            Step::HalfMain(state) => self.main.set_all(&state.variables()[..4]),
            Step::Notes(notes) => self.notes = notes,
            Step::Unjudged(trial) => self.unjudged = trial,
            Step::Memory(not_judged) => self.not_judged = not_judged,
            Step::Refilling(begun) => self.refilling = begun,
            Step::Remember(release) => self.failed |= release.bit(),
            Step::Unhash(_) => put(match content {
                Content::Hashed(release) | Content::Complete { release, .. } => Content::Images(release),
                Content::Rotten(_) => Content::Junk,
                other => other,
            }),
            Step::Erase(_) => put(Content::Nothing),
            Step::Begin(_) => put(Content::Junk),
            Step::Images(_, release) => put(match content {
                Content::Hashed(_) => Content::Hashed(release),
                Content::Complete { .. } => Content::Complete { release, verified: false },
                _ => Content::Images(release),
            }),
            Step::Hashes(_) => put(match content {
                Content::Images(release) => Content::Hashed(release),
                other => other,
            }),
            Step::Manifest(_) => put(match content {
                Content::Hashed(release) => Content::Complete { release, verified: false },
                other => other,
            }),
            Step::ReadBack(slot) => match self.slot(slot) {
                Content::Complete { release, .. } => {
                    self.slots[slot as usize] = Content::Complete { release, verified: true };
                }
                _ => self.todo.clear(),
            },
            Step::Reboot => self.off(),
        }
    }

    /// A store of the main block. With U-Boot the copy that counted is the other one from then on.
    pub fn put_main(&mut self, variables: &[(&'static str, String)]) {
        if self.kind == Kind::UBoot && self.main != Main::TORN {
            self.older = Some(self.main);
        }
        self.main.set_all(variables);
    }

    /// Brings what rules remember in step with a store of the main block.
    pub fn after_store(&mut self, before: View) {
        let View::Ours(now) = self.main.view() else { return };
        let was = match before {
            View::Ours(was) => Some(was),
            View::Foreign(_) | View::Invalid => None,
        };
        let same_trial = was.is_some_and(|was| was.on_trial() == now.on_trial() && was.trial == now.trial);
        if now.success || !same_trial {
            self.ghost.tried = false;
        }
        if now.success {
            self.ghost.last_good = now.good;
            self.ghost.proven[now.good as usize] = true;
        }
        for slot in SlotId::BOTH {
            let new_mark = now.slot(slot) == SlotState::Fail && was.is_some_and(|w| w.slot(slot) != SlotState::Fail);
            if let (true, Some(release)) = (new_mark, self.slot(slot).manifest()) {
                // A revert in a boot of the trial is a verdict, whatever was noted before.
                let judged = self.booted().is_some_and(|(booted, _)| booted.trial == now.trial);
                let noted = self.unjudged == Some(now.trial) && !judged;
                let excused = noted && self.ghost.excused & release.bit() == 0;
                let noted = if excused { &mut self.ghost.excused } else { &mut self.ghost.owed };
                *noted |= release.bit();
            }
            let committed = now.success && now.good == slot;
            if let (true, Some(release)) = (committed, self.slot(slot).manifest()) {
                self.ghost.owed &= !release.bit();
                self.ghost.excused &= !release.bit();
                if let Some(count) = self.ghost.vanished.get_mut((release as usize).wrapping_sub(1)) {
                    *count = 0;
                }
            }
        }
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let second = match (self.kind, self.second, self.older) {
            (Kind::Grub, Some(s), _) => format!("{} {} {}", s.good, s.a, s.b),
            (Kind::UBoot, _, Some(older)) => format!("{older:?}"),
            _ => "torn".to_owned(),
        };
        let [a, b] = self.slots;
        write!(f, "[{:?}] second [{second}] A {a:?} B {b:?}", self.main)?;
        if let Some(note) = self.notes.trial {
            let started = if note.started { " started" } else { "" };
            write!(f, " noted {} {} {:?}{started}", note.id, note.slot, note.release)?;
        }
        write!(
            f,
            " not-started {:03b} failed {:03b} owed {:03b} unjudged {:?} {:?}",
            self.notes.not_started, self.failed, self.ghost.owed, self.unjudged, self.not_judged
        )?;
        match self.power {
            Power::Off => f.write_str(" off")?,
            Power::On { booted, release } => {
                write!(f, " runs {release:?} from {} trial {} {:?}", booted.slot, booted.trial, booted.fallback)?;
            }
        }
        write!(f, " todo {:?}", self.todo)
    }
}
