//! The decision table of the slot protocol, replayed on a real U-Boot: the same cells as in [`crate::table`], with two
//! copies of an environment instead of two files, and checksums instead of hashes.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bootenv::SlotId;
use bootenv::boot::{Decision, Files, PowerOn, decide};
use bootenv::extras::{self, ARGUMENTS, TREE, UBOOT_BYTES};
use bootenv::grub::Block;
use bootenv::protocol::{BootState, NAMES, View};
use bootenv::uboot::{Environment, Format};

use crate::image::{Disk, INITRAMFS, KERNEL, UBOOT_SIZE};
use crate::machine::{Device, Machine};
use crate::runner::Run;
use crate::table::{Cell, EnvFile, LONGEST, SHORT, Variant, each, only, table, write_sparse};
use crate::{Result, stub};

const CHECKSUMS: &str = "crc32.txt";

fn put(disk: &Disk, slot: SlotId, name: &str, bytes: &[u8]) -> Result<()> {
    disk.put_slot_file(slot, name, bytes)
}

/// Puts a file into a slot, and checksums that fit it.
fn put_fitting(disk: &Disk, slot: SlotId, name: &str, bytes: &[u8]) -> Result<()> {
    put(disk, slot, name, bytes)?;
    let line = |variable: &str, file: &str| -> Result<String> {
        let mut checksum = flate2::Crc::new();
        checksum.update(&disk.slot_file(slot, file)?);
        Ok(format!("{variable}={:08x}\n", checksum.sum()))
    };
    let text = line("kernel_crc32", KERNEL)? + &line("initramfs_crc32", INITRAMFS)?;
    put(disk, slot, CHECKSUMS, text.as_bytes())
}

fn first_line(disk: &Disk, slot: SlotId) -> Result<String> {
    let text = String::from_utf8(disk.slot_file(slot, CHECKSUMS)?)?;
    Ok(text.lines().next().unwrap_or_default().to_owned() + "\n")
}

/// CRC-32 of both images of a slot.
fn checksums(disk: &Disk, slot: SlotId) -> Result<[u32; 2]> {
    let one = |name: &str| -> Result<u32> { Ok(crc(&disk.slot_file(slot, name)?)) };
    Ok([one(KERNEL)?, one(INITRAMFS)?])
}

fn crc(bytes: &[u8]) -> u32 {
    let mut checksum = flate2::Crc::new();
    checksum.update(bytes);
    checksum.sum()
}

/// Adds kernel arguments and a device tree of a release, as the agent does.
fn put_extras(disk: &Disk, slot: SlotId, arguments: Option<&str>, tree: Option<&[u8]>) -> Result<()> {
    put(disk, slot, ARGUMENTS, &extras::uboot(arguments, checksums(disk, slot)?, tree))?;
    tree.map_or(Ok(()), |tree| put(disk, slot, TREE, tree))
}

/// Adds the file with these variables, and a checksum that is right.
fn put_variables(disk: &Disk, slot: SlotId, variables: &[(&str, &str)]) -> Result<()> {
    let of = checksums(disk, slot)?;
    let mut all = vec![("ks_of", format!("{:08x}{:08x}", of[0], of[1]))];
    all.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    put(disk, slot, ARGUMENTS, &Environment::default().with(&all).encode(UBOOT_BYTES, Format::Single, 0)?)
}

const VARIANTS: &[Variant] = &[
    Variant { name: "whole", class: Files::Hold, arguments: "", spoil: |_, _| Ok(()) },
    Variant {
        name: "kernel changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            // The blank behind its name.
            let mut kernel = disk.slot_file(slot, KERNEL)?;
            let at = kernel.len() - 2;
            kernel[at] = b'!';
            put(disk, slot, KERNEL, &kernel)
        },
    },
    Variant {
        name: "initramfs changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put(disk, slot, INITRAMFS, b" changed\n\0"),
    },
    Variant {
        name: "checksums missing",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| disk.remove_slot_file(slot, CHECKSUMS),
    },
    Variant {
        name: "checksums empty",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put(disk, slot, CHECKSUMS, b""),
    },
    Variant {
        name: "one checksum only",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put(disk, slot, CHECKSUMS, first_line(disk, slot)?.as_bytes()),
    },
    Variant {
        name: "checksum with blanks",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            let line = first_line(disk, slot)?;
            put(disk, slot, CHECKSUMS, format!("{line}initramfs_crc32=0 -eq 0\n").as_bytes())
        },
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
        name: "kernel is none, with a fitting checksum",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| put_fitting(disk, slot, KERNEL, b"This is no kernel.\n"),
    },
    Variant {
        name: "initramfs empty, with a fitting checksum",
        class: Files::Broken,
        arguments: "",
        spoil: |disk, slot| put_fitting(disk, slot, INITRAMFS, b""),
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
        spoil: |disk, slot| put_extras(disk, slot, Some(SHORT), None),
    },
    Variant {
        name: "the longest arguments of the release",
        class: Files::Hold,
        arguments: LONGEST,
        spoil: |disk, slot| put_extras(disk, slot, Some(LONGEST), None),
    },
    Variant {
        name: "arguments with other variables",
        class: Files::Hold,
        arguments: SHORT,
        spoil: |disk, slot| {
            put_variables(
                disk,
                slot,
                &[("ks_why", "load"), ("ks_args", "odd"), ("ks_slot_args", SHORT), ("ks_id", "1")],
            )
        },
    },
    Variant {
        name: "arguments that an older agent left",
        class: Files::Hold,
        arguments: "",
        spoil: |disk, slot| put(disk, slot, ARGUMENTS, &extras::uboot(Some(SHORT), [1, 2], None)),
    },
    Variant {
        name: "arguments changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            put_extras(disk, slot, Some(SHORT), None)?;
            let mut bytes = disk.slot_file(slot, ARGUMENTS)?;
            bytes[UBOOT_BYTES - 1] ^= 1;
            put(disk, slot, ARGUMENTS, &bytes)
        },
    },
    Variant {
        name: "arguments cut off",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            put_extras(disk, slot, Some(SHORT), None)?;
            let bytes = disk.slot_file(slot, ARGUMENTS)?;
            put(disk, slot, ARGUMENTS, &bytes[..UBOOT_BYTES - 1])
        },
    },
    Variant {
        name: "arguments empty",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put(disk, slot, ARGUMENTS, b""),
    },
    Variant {
        name: "arguments with a word of the bootloader",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put_extras(disk, slot, Some("quiet ks.trial=beef0001"), None),
    },
    Variant {
        name: "arguments with a word of the slot",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put_extras(disk, slot, Some("kubesolo.slot=B"), None),
    },
    Variant {
        name: "device tree and arguments of the release",
        class: Files::Hold,
        arguments: SHORT,
        spoil: |disk, slot| put_extras(disk, slot, Some(SHORT), Some(&stub::tree("release"))),
    },
    Variant {
        name: "device tree of the release",
        class: Files::Hold,
        arguments: "",
        spoil: |disk, slot| put_extras(disk, slot, None, Some(&stub::tree("release"))),
    },
    Variant {
        name: "device tree changed",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            put_extras(disk, slot, None, Some(&stub::tree("release")))?;
            put(disk, slot, TREE, &stub::tree("another"))
        },
    },
    Variant {
        name: "device tree missing",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            put_extras(disk, slot, None, Some(&stub::tree("release")))?;
            disk.remove_slot_file(slot, TREE)
        },
    },
    Variant {
        name: "device tree longer",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| {
            let tree = stub::tree("release");
            put_extras(disk, slot, None, Some(&tree))?;
            put(disk, slot, TREE, &[&tree[..], b"more"].concat())
        },
    },
    Variant {
        name: "device tree is none, with a fitting checksum",
        class: Files::Load,
        arguments: "",
        spoil: |disk, slot| put_extras(disk, slot, None, Some(b"This is no device tree.\n")),
    },
];

/// The environment of a cell: the variables of the copy that counts, if any is valid.
fn variables(cell: &Cell) -> Option<Vec<(&'static str, String)>> {
    let EnvFile::Bytes(bytes) = &cell.main else { return None };
    let block = Block::parse(bytes).ok()?;
    Some(NAMES.into_iter().filter_map(|name| Some((name, block.get(name)?.to_owned()))).collect())
}

/// Both copies, and which one counts. The other one changes from cell to cell: never written, damaged, older.
fn copies(number: usize, cell: &Cell) -> ([Vec<u8>; 2], usize) {
    let current = number % 2;
    let encode = |variables: &[(&str, String)], flags: u8| {
        let environment = Environment::default().with(variables);
        environment.encode(UBOOT_SIZE, Format::Redundant, flags).expect("a few variables fit")
    };
    let older = BootState { counter: 1, ..BootState::committed(SlotId::B) }.variables();
    let flags = [7_u8, 255, 0][number % 3];
    let mut other = match (number / 2) % 4 {
        0 => vec![0xff; UBOOT_SIZE],
        1 => vec![0; UBOOT_SIZE],
        _ => encode(&older, flags.wrapping_sub(1)),
    };
    let main = match variables(cell) {
        Some(variables) => encode(&variables, flags),
        None => {
            // One bit anywhere in the data is enough.
            let mut bytes = encode(&older, flags);
            bytes[[5, 200, UBOOT_SIZE - 1][number % 3]] ^= 0x10;
            other.clone_from(&bytes);
            bytes
        }
    };
    (if current == 0 { [main, other] } else { [other, main] }, current)
}

fn power_on(cell: &Cell) -> PowerOn {
    let view = |variables: Vec<(&str, String)>| {
        View::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str()))
    };
    PowerOn {
        main: variables(cell).map_or(View::Invalid, view),
        second: None,
        files: cell.files.map(|f| VARIANTS[f].class),
        can_save: cell.can_save,
    }
}

/// Any three conditions together, and all single damages of a slot.
///
/// # Errors
/// A cell in which U-Boot and the model differ.
pub fn all(run: &Run) -> Result<()> {
    // Cells that differ in GRUB's second file only are one here.
    let mut seen = HashSet::new();
    let mut cells = table(3, VARIANTS);
    cells.retain(|cell| seen.insert((cell.main.clone(), cell.files, cell.can_save)));
    replay(run, &cells)
}

/// The cells in which the active slot has kernel arguments or a device tree of its release, whole, damaged or left by an older
/// agent.
///
/// # Errors
/// As [`all`].
pub fn extras(run: &Run) -> Result<()> {
    replay(run, &only(VARIANTS, |variant| variant.name.contains("arguments") || variant.name.contains("device tree")))
}

fn replay(run: &Run, cells: &[Cell]) -> Result<()> {
    let bench = Bench::build(run)?;
    each(run, cells, |number, cell, disk| {
        one(run, &bench, (number, cell), disk).map_err(|difference| {
            let [a, b] = cell.files.map(|f| VARIANTS[f].name);
            format!("{:?}, A {a}, B {b}\n{difference}", power_on(cell)).into()
        })
    })
}

/// The disk with whole slots, and what else can be in them.
struct Bench {
    layout: Disk,
    disk: Vec<u8>,
    slots: [Vec<Vec<u8>>; 2],
    /// Identity of each slot's partition.
    part_ids: [String; 2],
}

impl Bench {
    fn build(run: &Run) -> Result<Self> {
        let disk = stub::arm64_plan(run)?.build(&run.file("template.img"))?;
        disk.put_esp_file("kernel-args.txt", b"ks_args=table\nks_delay=0\n")?;
        let mut slots = [vec![], vec![]];
        for slot in SlotId::BOTH {
            for variant in VARIANTS {
                let spoiled = Disk { path: run.file("spoiled.img"), ..disk.clone() };
                fs::copy(&disk.path, &spoiled.path)?;
                (variant.spoil)(&spoiled, slot).map_err(|e| format!("{}: {e}", variant.name))?;
                let (at, size) = disk.slot(slot);
                let mut partition = vec![0; usize::try_from(size)?];
                File::open(&spoiled.path)?.read_exact_at(&mut partition, at)?;
                slots[slot as usize].push(partition);
            }
        }
        let part_ids = [disk.part_id(SlotId::A)?, disk.part_id(SlotId::B)?];
        Ok(Self { disk: fs::read(&disk.path)?, layout: disk, slots, part_ids })
    }

    fn disk(&self, cell: &Cell, copies: &[Vec<u8>; 2]) -> Vec<u8> {
        let mut disk = self.disk.clone();
        let mut put = |at: u64, bytes: &[u8]| disk[at as usize..][..bytes.len()].copy_from_slice(bytes);
        for slot in SlotId::BOTH {
            put(self.layout.slot(slot).0, &self.slots[slot as usize][cell.files[slot as usize]]);
        }
        for (number, copy) in copies.iter().enumerate() {
            put(self.layout.copy(number), copy);
        }
        disk
    }
}

/// Plays one cell and compares the kernel that was started, its arguments, and every byte of the disk.
fn one(run: &Run, bench: &Bench, (number, cell): (usize, &Cell), file: &Path) -> Result<()> {
    let decision = decide(&power_on(cell));
    let (copies, current) = copies(number, cell);
    let mut after = bench.disk(cell, &copies);
    write_sparse(file, &after)?;
    let mut device = Device::new(run.firmware, file);
    device.memory = 256;
    device.read_only = !cell.can_save;
    device.end_on_reset = true;
    let mut machine = Machine::power_on(&device, &run.file(&format!("cell-{number:03}")))?;
    machine.wait_for_end()?;
    let said = machine.said()?;
    let seen = said.lines().find_map(|line| line.split_once("ks-stub: ")).map(|(_, started)| started.trim().to_owned());
    let wanted = wanted(cell, &decision, &bench.part_ids);
    let explain = |what: String| format!("    model    {decision:?}\n    {what}\n{}", machine.tail());
    if seen != wanted {
        return Err(explain(format!("wanted   {wanted:?}\n    seen     {seen:?}")).into());
    }
    if wanted.is_none() && !said.contains("ks: nothing can be loaded") {
        return Err(explain("ended without saying that nothing can be loaded".to_owned()).into());
    }
    let on_disk = fs::read(file)?;
    if !decision.stored.is_empty() {
        let at = bench.layout.copy(1 - current) as usize;
        let range = at..at + UBOOT_SIZE;
        let (stored, flags) = Environment::parse(&on_disk[range.clone()], Format::Redundant)
            .map_err(|e| explain(format!("what was stored: {e}")))?;
        let mut expected: BTreeMap<&str, String> = variables(cell).unwrap_or_default().into_iter().collect();
        expected.extend(decision.stored.iter().cloned());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let stored: BTreeMap<String, String> =
            stored.variables().iter().map(|(name, value)| (text(name), text(value))).collect();
        let expected: BTreeMap<String, String> = expected.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        if stored != expected || flags != copies[current][4].wrapping_add(1) {
            return Err(explain(format!("stored {stored:?} with flags {flags}")).into());
        }
        after[range.clone()].copy_from_slice(&on_disk[range]);
    }
    // U-Boot 2025.01 keeps variables of UEFI in a file of the boot partition, `ubootefi.var`.
    let first = if crate::loaders().is_some() { bench.layout.slot(SlotId::A).0 as usize } else { 0 };
    let differs = |(at, (seen, wanted)): (usize, (&u8, &u8))| (seen != wanted).then_some(at);
    match on_disk.iter().zip(&after).enumerate().skip(first).find_map(differs) {
        None => Ok(()),
        Some(at) => Err(explain(format!("the disk differs at byte {at}")).into()),
    }
}

/// The stub's line when U-Boot decides as the model; `None`: nothing is started.
fn wanted(cell: &Cell, decision: &Decision, part_ids: &[String; 2]) -> Option<String> {
    let start = decision.start?;
    let slot = start.slot;
    let Variant { name: variant, arguments, .. } = VARIANTS[cell.files[slot as usize]];
    let behind = if variant == "kernel changed" { '!' } else { ' ' };
    let initramfs = if variant == "initramfs changed" { "changed".to_owned() } else { format!("initramfs {slot}") };
    let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
    let release = if arguments.is_empty() { String::new() } else { format!(" {arguments}") };
    let tree = if variant.contains("device tree") && VARIANTS[cell.files[slot as usize]].class == Files::Hold {
        " tree=release"
    } else {
        ""
    };
    Some(format!(
        "kernel {slot}:{behind}kubesolo.slot={slot} ks.trial={} ks.proto=1 ks.part={} ks.loader=1{fallback} \
         panic=5{release} table{tree} {initramfs}",
        start.trial, part_ids[slot as usize]
    ))
}
