//! The decision table of the slot protocol, replayed on real GRUB and held against the model in `bootenv::boot`.
//!
//! A cell is an environment, the content of two slots, and whether the disk can be written. Each is one power-on of a
//! device whose kernels are stubs. The kernel that GRUB started, its arguments, and every byte of the disk afterwards
//! must be what the model says.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use bootenv::boot::{Decision, Files, PowerOn, decide, decide_with};
use bootenv::extras::{self, ARGUMENTS, LIST, LIST_OF, RELEASE_BYTES};
use bootenv::grub::{Block, SIGNATURE, SIZE};
use bootenv::protocol::{BootState, FOREIGN_SEAL, FallbackBlock, SlotState, View};
use bootenv::{SlotId, TrialId};

use crate::cells::{Seeded, covering};
use crate::image::{Content, Disk, INITRAMFS, KERNEL, Plan, Size};
use crate::machine::{Device, Firmware, Machine};
use crate::runner::Run;
use crate::{Result, stub};

const SLOTS: [SlotId; 2] = SlotId::BOTH;
const STATES: [SlotState; 3] = [SlotState::Good, SlotState::Void, SlotState::Fail];
const CLASSES: [Files; 3] = [Files::Hold, Files::Load, Files::Broken];
const TRIAL: TrialId = TrialId(0xbeef_0001);
/// Prints GRUB's decision with the stub's exit; `ks_delay` lets a retry come at once.
const SETTINGS: &str = "set ks_args=\"table\"\nset ks_delay=0\n";

/// One way in which a slot's files can be.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) class: Files,
    /// Kernel arguments of the release that the kernel gets if the slot holds.
    pub(crate) arguments: &'static str,
    pub(crate) spoil: fn(&Disk, SlotId) -> Result<()>,
}

const VARIANTS: &[Variant] = &[
    Variant { name: "whole", class: Files::Hold, arguments: "", spoil: |_, _| Ok(()) },
    Variant {
        name: "kernel changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file(slot, KERNEL, &stub::kernel(&format!("\nks-stub: changed {slot}: "))),
    },
    Variant {
        name: "initramfs changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file(slot, INITRAMFS, b" changed\n\0"),
    },
    Variant {
        name: "kernel's hash file missing",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.remove_slot_file(slot, "vmlinuz.sha256"),
    },
    Variant {
        name: "kernel's hash file empty",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file(slot, "vmlinuz.sha256", b""),
    },
    Variant {
        name: "initramfs' hash file empty",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file(slot, "kubesolo-os.gz.sha256", b""),
    },
    Variant {
        name: "hash file without a hash",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file(slot, "kubesolo-os.gz.sha256", b"kubesolo-os.gz\n"),
    },
    Variant {
        name: "kernel missing",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| disk.remove_slot_file(slot, KERNEL),
    },
    Variant {
        name: "initramfs missing",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| disk.remove_slot_file(slot, INITRAMFS),
    },
    Variant {
        name: "kernel is none, with a fitting hash",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file_and_hash(slot, KERNEL, b"This is no kernel.\n"),
    },
    Variant {
        name: "initramfs empty, with a fitting hash",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| disk.put_slot_file_and_hash(slot, INITRAMFS, b""),
    },
    Variant {
        name: "filesystem destroyed",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| {
            let (at, _) = disk.slot(slot);
            Ok(File::options().write(true).open(&disk.path)?.write_all_at(&[0x5a; 65536], at)?)
        },
    },
    Variant {
        name: "arguments of the release",
        class: Files::Hold,
        arguments: SHORT,
        spoil: |disk, slot| disk.put_extras(slot, Some(SHORT), None),
    },
    Variant {
        name: "the longest arguments of the release",
        class: Files::Hold,
        arguments: LONGEST,
        spoil: |disk, slot| disk.put_extras(slot, Some(LONGEST), None),
    },
    Variant {
        name: "arguments with other variables",
        class: Files::Hold,
        arguments: SHORT,
        spoil: |disk, slot| {
            let lines = format!("ks_why=load\nks_args=odd\nks_slot_args={SHORT}\nks_id=00000001\n");
            disk.put_extras_of(slot, &[(ARGUMENTS, block(&lines))])
        },
    },
    Variant {
        name: "arguments, list of hash files changed",
        class: Files::Hold,
        arguments: SHORT,
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.put_slot_file(slot, LIST_OF, b"odd\n")
        },
    },
    Variant {
        name: "arguments that an older agent left",
        class: Files::Hold,
        arguments: "",
        spoil: |disk, slot| {
            let kernel = disk.slot_file(slot, KERNEL)?;
            disk.put_slot_file_and_hash(slot, KERNEL, b"An earlier kernel.\n")?;
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.put_slot_file_and_hash(slot, KERNEL, &kernel)
        },
    },
    Variant {
        name: "arguments, no lists",
        class: Files::Hold,
        arguments: "",
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.remove_slot_file(slot, LIST)?;
            disk.remove_slot_file(slot, LIST_OF)
        },
    },
    Variant {
        name: "arguments changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.put_slot_file(slot, ARGUMENTS, &extras::grub("other=1"))
        },
    },
    Variant {
        name: "arguments missing",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.remove_slot_file(slot, ARGUMENTS)
        },
    },
    Variant {
        name: "arguments, list missing",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.remove_slot_file(slot, LIST)
        },
    },
    Variant {
        name: "arguments, list empty",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            disk.put_extras(slot, Some(SHORT), None)?;
            disk.put_slot_file(slot, LIST, b"")
        },
    },
    Variant {
        name: "arguments and a device tree, which GRUB for PCs cannot pass on",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_extras(slot, Some(SHORT), Some(&stub::tree("release"))),
    },
    Variant {
        name: "arguments with a word of the bootloader",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.put_extras(slot, Some("quiet ks.trial=beef0001"), None),
    },
];

/// Kernel arguments of a release.
pub(crate) const SHORT: &str = "release.word=1 loglevel=3";
/// As many bytes as a release may have.
pub(crate) const LONGEST: &str = {
    const BYTES: [u8; RELEASE_BYTES] = {
        let mut bytes = [b'r'; RELEASE_BYTES];
        let mut at = 15;
        while at < RELEASE_BYTES {
            bytes[at] = b' ';
            at += 16;
        }
        bytes[RELEASE_BYTES - 1] = b'l';
        bytes
    };
    match str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("these are letters and blanks"),
    }
};

/// An environment block with these lines.
fn block(lines: &str) -> Vec<u8> {
    let mut bytes = [SIGNATURE, lines.as_bytes()].concat();
    bytes.resize(SIZE, b'#');
    bytes
}

/// The largest file of an environment in the table, in bytes.
const MAX_SIZE: usize = 2048;

/// The content of one of the two files of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EnvFile {
    /// These bytes, [`MAX_SIZE`] at most.
    Bytes(Vec<u8>),
    /// The file has no bytes.
    Empty,
    /// There is no file.
    Missing,
}

/// One power-on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) main: EnvFile,
    second: EnvFile,
    /// Indices into the variants, slot A and B.
    pub(crate) files: [usize; 2],
    pub(crate) can_save: bool,
}

impl Cell {
    /// The main block, if GRUB reads one.
    fn block(&self) -> Option<Block> {
        match &self.main {
            EnvFile::Bytes(bytes) => Block::parse(bytes).ok(),
            EnvFile::Empty | EnvFile::Missing => None,
        }
    }

    /// The decision of the model, and the bytes of the main block afterwards if they are others.
    fn decide(&self) -> (Decision, Option<Vec<u8>>) {
        let on = self.power_on();
        let Some(block) = self.block() else { return (decide(&on), None) };
        let tried = decide(&on).stored;
        let after = (!tried.is_empty()).then(|| block.saved(&tried).bytes);
        (decide_with(&on, |stored| block.saved(stored).holds), after)
    }

    fn power_on(&self) -> PowerOn {
        let block = |content: &EnvFile| match content {
            EnvFile::Bytes(bytes) => Block::parse(bytes).ok(),
            _ => None,
        };
        PowerOn {
            main: self.block().map_or(View::Invalid, |b| b.view()),
            second: block(&self.second).and_then(|b| b.as_second()),
            files: self.files.map(|f| VARIANTS[f].class),
            can_save: self.can_save,
        }
    }

    /// For a person.
    fn describe(&self) -> String {
        let content = |content: &EnvFile| match content {
            EnvFile::Bytes(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let lines = text.trim_end_matches('#').lines().skip(1);
                lines.collect::<Vec<_>>().join(" ").escape_default().to_string()
            }
            other => format!("{other:?}"),
        };
        let [a, b] = self.files.map(|f| VARIANTS[f].name);
        format!(
            "    grubenv  {}\n    ksenv2   {}\n    slot A   {a}\n    slot B   {b}\n    can save {}",
            content(&self.main),
            content(&self.second),
            self.can_save
        )
    }
}

/// A part of the table: any two conditions together.
///
/// # Errors
/// A cell in which GRUB and the model differ.
pub fn quick(run: &Run) -> Result<()> {
    replay(run, &[table(2, VARIANTS), odd_cells(1)].concat())
}

/// The table: any three conditions together, and all single-file damages.
///
/// # Errors
/// A cell in which GRUB and the model differ.
pub fn all(run: &Run) -> Result<()> {
    replay(run, &[table(3, VARIANTS), odd_cells(4)].concat())
}

/// The cells in which one image of the active slot was changed, and nothing else is wrong: a few seconds.
///
/// # Errors
/// As [`all`].
pub fn changed(run: &Run) -> Result<()> {
    replay(run, &only(VARIANTS, |variant| ["kernel changed", "initramfs changed"].contains(&variant.name)))
}

/// The cells in which the active slot has kernel arguments of its release, whole, damaged or left by an older agent.
///
/// # Errors
/// As [`all`].
pub fn arguments(run: &Run) -> Result<()> {
    replay(run, &only(VARIANTS, |variant| variant.name.contains("arguments")))
}

/// A committed slot A in each of these ways, beside a whole one.
pub(crate) fn only(variants: &[Variant], wanted: fn(&Variant) -> bool) -> Vec<Cell> {
    let state = BootState::committed(SlotId::A);
    let [main, second] = [Block::main(&state), Block::second(&FallbackBlock::of(&state))]
        .map(|block| EnvFile::Bytes(block.bytes().to_vec()));
    let cell = |variant| Cell { main: main.clone(), second: second.clone(), files: [variant, 0], can_save: true };
    (0..variants.len()).filter(|v| wanted(&variants[*v])).map(cell).collect()
}

/// Cells in which every combination of values of any `strength` conditions occurs, and every outcome of the model.
pub(crate) fn table(strength: usize, variants: &[Variant]) -> Vec<Cell> {
    let random = &mut Seeded::new(2026);
    let mut turn = [0; 3];
    // Each class of file damage in turn, so that all of them occur.
    let mut files = |class: usize| {
        let of_class: Vec<usize> = (0..variants.len()).filter(|v| variants[*v].class == CLASSES[class]).collect();
        turn[class] += 1;
        of_class[turn[class] % of_class.len()]
    };
    let mut cells = Vec::new();
    let second = |good: usize, a: usize, b: usize| FallbackBlock { good: SLOTS[good], a: STATES[a], b: STATES[b] };
    let good = EnvFile::Bytes(Block::second(&second(0, 0, 1)).bytes().to_vec());

    // Ours.
    for r in covering(&[2, 2, 4, 2, 3, 3, 2, 3, 3, 2], strength, random) {
        let state = BootState {
            active: SLOTS[r[0]],
            success: r[1] == 1,
            counter: r[2] as u8,
            good: SLOTS[r[3]],
            a: STATES[r[4]],
            b: STATES[r[5]],
            trial: if r[6] == 1 { TRIAL } else { TrialId::NONE },
        };
        let main = EnvFile::Bytes(Block::main(&state).bytes().to_vec());
        cells.push(Cell { main, second: good.clone(), files: [files(r[7]), files(r[8])], can_save: r[9] == 1 });
    }
    // Foreign: without our variables; with a seal that is not right, or `--`, or without one.
    for r in covering(&[2, 2, 4, 4, 3, 3, 3, 3, 2], strength, random) {
        let state = BootState {
            active: SLOTS[r[0]],
            success: r[1] == 1,
            counter: r[2] as u8,
            a: STATES[r[4]],
            b: STATES[r[5]],
            trial: TRIAL,
            ..BootState::committed(SlotId::B)
        };
        let stale = format!("{}{}", state.active.other(), u8::from(state.success));
        let keep = |name: &str| match r[3] {
            0 => ["active_slot", "boot_success", "boot_counter"].contains(&name),
            1 => name != "ks_seal",
            _ => true,
        };
        let seal = if r[3] == 2 { FOREIGN_SEAL.to_owned() } else { stale };
        let reseal = |(name, value)| if name == "ks_seal" { (name, seal.clone()) } else { (name, value) };
        let variables: Vec<_> = state.variables().into_iter().filter(|(n, _)| keep(n)).map(reseal).collect();
        let main = EnvFile::Bytes(created(&variables));
        cells.push(Cell { main, second: good.clone(), files: [files(r[6]), files(r[7])], can_save: r[8] == 1 });
    }
    // Main block invalid, second file valid.
    let invalid = invalid_contents(&BootState::committed(SlotId::A).variables());
    let mut kind = 0;
    for r in covering(&[2, 3, 3, 3, 3], strength, random) {
        kind += 1;
        let second = EnvFile::Bytes(Block::second(&second(r[0], r[1], r[2])).bytes().to_vec());
        let main = invalid[kind % invalid.len()].clone();
        cells.push(Cell { main, second, files: [files(r[3]), files(r[4])], can_save: kind % 2 == 0 });
    }
    // Both invalid.
    let seconds =
        invalid_contents(&FallbackBlock { good: SlotId::B, a: SlotState::Void, b: SlotState::Good }.variables());
    for r in covering(&[seconds.len(), 3, 3], strength - 1, random) {
        kind += 1;
        let main = invalid[kind % invalid.len()].clone();
        cells.push(Cell { main, second: seconds[r[0]].clone(), files: [files(r[1]), files(r[2])], can_save: true });
    }
    // The slot that comes first is the worse one, and both are whole.
    let whole = 0;
    for (worse, better) in [(1, 0), (2, 0), (2, 1)] {
        for (good, a, b) in [(0, worse, better), (1, better, worse)] {
            let second = EnvFile::Bytes(Block::second(&second(good, a, b)).bytes().to_vec());
            cells.push(Cell { main: EnvFile::Empty, second, files: [whole, whole], can_save: true });
        }
    }
    // Each single damage of the slot that is wanted, beside a whole one.
    if strength > 2 {
        let trial = BootState {
            active: SlotId::B,
            success: false,
            b: SlotState::Good,
            trial: TRIAL,
            ..BootState::committed(SlotId::A)
        };
        let main = EnvFile::Bytes(Block::main(&trial).bytes().to_vec());
        let damaged =
            |variant| Cell { main: main.clone(), second: good.clone(), files: [whole, variant], can_save: true };
        cells.extend((0..variants.len()).map(damaged));
    }
    let mut seen = HashSet::new();
    cells.retain(|cell| seen.insert(cell.clone()));
    cells
}

fn created(variables: &[(&'static str, String)]) -> Vec<u8> {
    Block::create(variables).expect("the protocol's variables fit").bytes().to_vec()
}

/// Cells with blocks that GRUB reads and no tool of its own writes, each of them in so many of the four tries of a trial.
fn odd_cells(tries: usize) -> Vec<Cell> {
    let second = FallbackBlock { good: SlotId::A, a: SlotState::Good, b: SlotState::Void };
    let second = EnvFile::Bytes(Block::second(&second).bytes().to_vec());
    let cell = |counter: u8, number: usize| {
        let (active, b, trial) = (SlotId::B, SlotState::Good, TRIAL);
        let state = BootState { active, success: false, counter, b, trial, ..BootState::committed(SlotId::A) };
        Some(Cell {
            main: odd_blocks(&state).into_iter().nth(number)?,
            second: second.clone(),
            files: [0, 0],
            can_save: true,
        })
    };
    let of_block =
        |number: usize| (0..tries).map_while(|at| cell(((number + at) % 4) as u8, number)).collect::<Vec<_>>();
    (0..).map(of_block).take_while(|cells| !cells.is_empty()).flatten().collect()
}

/// Blocks of `state` that GRUB reads, as they were found in the field. In some it cannot store.
fn odd_blocks(state: &BootState) -> Vec<EnvFile> {
    let text: String = state.variables().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let block = |before: &str, behind: &str, size: usize, end: &[u8]| {
        let mut bytes = [SIGNATURE, before.as_bytes(), text.as_bytes(), behind.as_bytes()].concat();
        bytes.resize(size - end.len(), b'#');
        EnvFile::Bytes([&bytes, end].concat())
    };
    vec![
        block("", "vendor=1\n", 1025, b""),
        block("", "vendor=1\n", 2048, b""),
        block("", "vendor=1\n", 600, b""),
        block("", "vendor=1\n", SIZE, b"\n"),
        block("", "vendor=1\n", 2048, b"\nvendor_b=2\n"),
        block("", "vendor=1\n", SIZE, &[0; 400]),
        block("", "vendor=1\n", SIZE, b"x"),
        block("", "stray\nvendor=1\n", SIZE, b""),
        block("", "\nvendor=1\n", SIZE, b""),
        block("vendor=1\n# a comment\nstray\nvendor_b=2\n", "", SIZE, b""),
        // The stray line takes the name of the first variable of ours with it.
        block("stray\n", "", SIZE, b""),
        block("", "boot_counter=1\n", SIZE, b""),
        block("boot_counter=3\n", "", SIZE, b""),
        block("", "ks_a=good\nvendor=1\n", SIZE, b""),
        block("", "boot_success=1\n", SIZE, b""),
        block("", "vendor=1\n", SIZE, b"\nks_seal=B0\n#####"),
    ]
}

/// Ways in which a file with these variables can be invalid.
fn invalid_contents(variables: &[(&'static str, String)]) -> Vec<EnvFile> {
    let whole = created(variables);
    let mut no_signature = whole.clone();
    no_signature[2] = b'g';
    let with = |name: &str, value: &str| {
        let set = |(n, v): &(&'static str, String)| (*n, if *n == name { value.to_owned() } else { v.clone() });
        EnvFile::Bytes(created(&variables.iter().map(set).collect::<Vec<_>>()))
    };
    let without = |name: &str| {
        let kept = variables.iter().filter(|(n, _)| *n != name).cloned();
        EnvFile::Bytes(created(&kept.collect::<Vec<_>>()))
    };
    vec![
        EnvFile::Missing,
        EnvFile::Empty,
        EnvFile::Bytes(no_signature),
        EnvFile::Bytes(vec![0; SIZE]),
        EnvFile::Bytes(vec![0xff; SIZE]),
        without("ks_end"),
        without("ks_v"),
        without("ks_good"),
        with("ks_v", "2"),
        with("ks_end", "0"),
        with("ks_good", "C"),
        with("ks_a", "gone"),
        with("ks_b", "good "),
    ]
    .into_iter()
    .chain(
        variables
            .iter()
            .any(|(n, _)| *n == "active_slot")
            .then(|| {
                vec![
                    without("active_slot"),
                    without("boot_counter"),
                    with("active_slot", "a"),
                    with("boot_success", "2"),
                    with("boot_counter", "4"),
                    with("boot_counter", "33"),
                    with("ks_trial", "BEEF0001"),
                    with("ks_trial", "beef001"),
                ]
            })
            .into_iter()
            .flatten(),
    )
    .collect()
}

/// The disk without an environment and slots, and what can be put there.
struct Parts {
    size: Size,
    /// All bytes of a disk whose slots are whole.
    disk: Vec<u8>,
    /// Offsets of the blocks of `grubenv` and `ksenv2`, and of their directory entries.
    blocks: [usize; 2],
    entries: [usize; 2],
    /// For each slot, each variant's partition.
    slots: [Vec<Vec<u8>>; 2],
    /// Identity of each slot's partition.
    part_ids: [String; 2],
}

impl Parts {
    fn build(run: &Run) -> Result<Self> {
        let file = |name: &str, bytes: &[u8]| run.write(name, bytes);
        let content = |slot: SlotId| -> Result<Content> {
            let kernel = file(&format!("kernel-{slot}"), &stub::kernel(&format!("\nks-stub: kernel {slot}: ")))?;
            let initramfs = file(&format!("initramfs-{slot}"), format!(" initramfs {slot}\n\0").as_bytes())?;
            Ok(Content::new(&kernel, &initramfs))
        };
        let mut plan = Plan::new(content(SlotId::A)?);
        plan.b = Some(content(SlotId::B)?);
        plan.size = Size { esp: 34, slot: 2, data: 2 };
        let disk = plan.build(&run.file("template.img"))?;
        disk.put_esp_file("grub/kernel-args.cfg", SETTINGS.as_bytes())?;
        let names = ["grub/grubenv", "grub/ksenv2"];
        // Room for the largest one, in clusters that follow one another.
        for (name, letter) in names.into_iter().zip([b'1', b'2']) {
            disk.put_esp_file(name, &[letter; MAX_SIZE])?;
        }
        let bytes = fs::read(&disk.path)?;
        let esp = &bytes[..usize::try_from(disk.slot(SlotId::A).0)?];
        let blocks = [b'1', b'2'].map(|letter| position(esp, &[letter; MAX_SIZE], 512));
        let entries = [b"GRUBENV    ", b"KSENV2     "].map(|name| position(esp, name, 32));
        let mut slots = [vec![], vec![]];
        for slot in SLOTS {
            for variant in VARIANTS {
                let spoiled = Disk { path: run.file("spoiled.img"), size: disk.size, firmware: disk.firmware };
                fs::copy(&disk.path, &spoiled.path)?;
                (variant.spoil)(&spoiled, slot)?;
                let (at, size) = disk.slot(slot);
                let mut partition = vec![0; usize::try_from(size)?];
                File::open(&spoiled.path)?.read_exact_at(&mut partition, at)?;
                slots[slot as usize].push(partition);
            }
        }
        let [Some(b0), Some(b1)] = blocks else { return Err("the environment is not where it can be found".into()) };
        let [Some(e0), Some(e1)] = entries else { return Err("the directory is not where it can be found".into()) };
        let part_ids = [disk.part_id(SlotId::A)?, disk.part_id(SlotId::B)?];
        Ok(Self { size: disk.size, disk: bytes, blocks: [b0, b1], entries: [e0, e1], slots, part_ids })
    }

    /// All bytes of a cell's disk.
    fn disk(&self, cell: &Cell) -> Vec<u8> {
        let mut disk = self.disk.clone();
        for (content, (block, entry)) in
            [&cell.main, &cell.second].into_iter().zip(self.blocks.into_iter().zip(self.entries))
        {
            match content {
                EnvFile::Bytes(bytes) => {
                    disk[block..block + bytes.len()].copy_from_slice(bytes);
                    let size = u32::try_from(bytes.len()).expect("a small file");
                    disk[entry + 28..entry + 32].copy_from_slice(&size.to_le_bytes());
                }
                // Of a directory entry of FAT: the size, and the mark of a deleted one.
                EnvFile::Empty => disk[entry + 28..entry + 32].fill(0),
                EnvFile::Missing => disk[entry] = 0xe5,
            }
        }
        let layout = Disk { path: "".into(), size: self.size, firmware: Firmware::Bios };
        for slot in SLOTS {
            let at = layout.slot(slot).0 as usize;
            let partition = &self.slots[slot as usize][cell.files[slot as usize]];
            disk[at..at + partition.len()].copy_from_slice(partition);
        }
        disk
    }
}

fn position(bytes: &[u8], wanted: &[u8], step: usize) -> Option<usize> {
    (0..bytes.len() - wanted.len()).step_by(step).find(|at| bytes[*at..].starts_with(wanted))
}

fn replay(run: &Run, cells: &[Cell]) -> Result<()> {
    let parts = Parts::build(run)?;
    each(run, cells, |number, cell, disk| {
        one(run, &parts, cell, disk, &run.file(&format!("cell-{number:03}")))
            .map_err(|difference| format!("{}\n{difference}", cell.describe()).into())
    })
}

/// Plays all cells, as many at once as the run has jobs: `play` gets a cell, its number, and a file for its disk.
pub(crate) fn each(run: &Run, cells: &[Cell], play: impl Fn(usize, &Cell, &Path) -> Result<()> + Sync) -> Result<()> {
    println!("      {} cells of the table", cells.len());
    let queue = Mutex::new(cells.iter().enumerate());
    let differences = Mutex::new(Vec::new());
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..run.jobs)
            .map(|worker| {
                let (queue, differences, play) = (&queue, &differences, &play);
                scope.spawn(move || -> Result<()> {
                    let disk = run.file(&format!("worker-{worker}.img"));
                    loop {
                        let next = queue.lock().map_err(|_| "a worker panicked")?.next();
                        let Some((number, cell)) = next else { return Ok(()) };
                        if let Err(difference) = play(number, cell, &disk) {
                            let mut differences = differences.lock().map_err(|_| "a worker panicked")?;
                            differences.push(format!("cell {number}: {difference}"));
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })?;
    let differences = differences.into_inner()?;
    if differences.is_empty() {
        return Ok(());
    }
    // The first ones are enough.
    let shown = differences[..differences.len().min(5)].join("\n");
    Err(format!("{} of {} cells differ\n{shown}", differences.len(), cells.len()).into())
}

/// Plays one cell and compares.
fn one(run: &Run, parts: &Parts, cell: &Cell, file: &Path, dir: &Path) -> Result<()> {
    let (decision, stored) = cell.decide();
    let before = parts.disk(cell);
    write_sparse(file, &before)?;
    let mut device = Device::new(run.firmware, file);
    device.memory = 64;
    device.read_only = !cell.can_save;
    device.end_on_reset = true;
    device.more = stub::DEVICE.map(str::to_owned).to_vec();
    let mut machine = Machine::power_on(&device, dir)?;
    let ended = machine.wait_for_end()?;
    let said = machine.said()?;
    let seen = said.lines().find_map(|line| line.split_once("ks-stub: ")).map(|(_, started)| started.trim().to_owned());
    let stub_ended = ended.code() == Some(stub::EXIT);
    let wanted = wanted(cell, &decision, &parts.part_ids);
    let explain = |what: String| format!("    model    {decision:?}\n    {what}\n{}", machine.tail());
    if seen != wanted || stub_ended != wanted.is_some() {
        return Err(explain(format!("wanted   {wanted:?}\n    seen     {seen:?} ({ended})")).into());
    }
    if wanted.is_none() && !said.contains("ks: nothing can be loaded") {
        return Err(explain("ended without saying that nothing can be loaded".to_owned()).into());
    }
    let mut after = before;
    if let Some(stored) = stored {
        after[parts.blocks[0]..parts.blocks[0] + stored.len()].copy_from_slice(&stored);
    }
    let on_disk = fs::read(file)?;
    if on_disk != after {
        let at = on_disk.iter().zip(&after).position(|(seen, wanted)| seen != wanted).unwrap_or_default();
        let block =
            String::from_utf8_lossy(&on_disk[parts.blocks[0]..parts.blocks[0] + SIZE]).escape_default().to_string();
        let what = format!("the disk differs at byte {at}; the block is at {}: {block}", parts.blocks[0]);
        return Err(explain(what).into());
    }
    Ok(())
}

/// The stub's line when GRUB decides as the model; `None`: nothing is started.
fn wanted(cell: &Cell, decision: &Decision, part_ids: &[String; 2]) -> Option<String> {
    let start = decision.start?;
    let slot = start.slot;
    let variant = &VARIANTS[cell.files[slot as usize]];
    let (kernel, initramfs) = match variant.name {
        "kernel changed" => (format!("changed {slot}"), format!("initramfs {slot}")),
        "initramfs changed" => (format!("kernel {slot}"), "changed".to_owned()),
        _ => (format!("kernel {slot}"), format!("initramfs {slot}")),
    };
    let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
    let partition = if slot == SlotId::A { 2 } else { 3 };
    let release = if variant.arguments.is_empty() { String::new() } else { format!(" {}", variant.arguments) };
    Some(format!(
        "{kernel}: BOOT_IMAGE=(hd0,gpt{partition})/vmlinuz kubesolo.slot={slot} ks.trial={} ks.proto=1 ks.part={} \
         ks.loader=1{fallback} panic=5{release} table {initramfs}",
        start.trial, part_ids[slot as usize]
    ))
}

/// Writes a file that takes room only where it is not zero.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) -> Result<()> {
    const CHUNK: usize = 64 * 1024;
    let zero = vec![0; CHUNK];
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        if chunk != &zero[..chunk.len()] {
            file.write_all_at(chunk, (number * CHUNK) as u64)?;
        }
    }
    Ok(())
}
