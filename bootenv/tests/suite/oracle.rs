//! GRUB's own tools read what this crate writes, and the other way round.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use bootenv::SlotId;
use bootenv::grub::{Block, SECTOR, SIZE};
use bootenv::medium::Medium;
use bootenv::protocol::{BootState, Booted, NAMES, View};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Runs a tool that must be there.
fn run(package: &str, tool: &str, args: &[&str]) -> Output {
    match Command::new(tool).args(args).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {tool} ({error}): install the Debian package {package}"),
    }
}

fn succeed(package: &str, tool: &str, args: &[&str]) -> Vec<u8> {
    let output = run(package, tool, args);
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn editenv(file: &Path, args: &[&str]) -> Vec<u8> {
    let file = file.to_str().expect("a path of ASCII");
    succeed("grub-common", "grub-editenv", &[&[file], args].concat())
}

fn load(file: &Path) -> Block {
    Medium::File(file.to_owned()).load().expect("what grub-editenv wrote is a block")
}

/// One thing that somebody does to the file.
#[derive(Clone, Debug)]
enum Edit {
    Set(String, String),
    Unset(String),
    Ours(BootState),
}

fn edit() -> impl Strategy<Value = Edit> {
    // `grub-editenv set` takes everything up to the first `=` as the name.
    let name = "x_[a-c]{1,2}";
    prop_oneof![
        4 => (name, common::value()).prop_map(|(name, value)| Edit::Set(name, value)),
        1 => name.prop_map(Edit::Unset),
        2 => common::state().prop_map(Edit::Ours),
    ]
}

#[test]
fn grub_editenv_and_this_crate_read_and_write_alike() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("grubenv");
    let mut runner = TestRunner::deterministic();
    let cases = proptest::collection::vec(edit(), 1..6);
    for _ in 0..150 {
        let edits = cases.new_tree(&mut runner).expect("a case").current();
        fs::remove_file(&file).ok();
        editenv(&file, &["create"]);
        let mut expected = BTreeMap::new();
        for edit in &edits {
            match edit {
                Edit::Set(name, value) => {
                    editenv(&file, &["set", &format!("{name}={value}")]);
                    expected.insert(name.clone(), value.clone());
                }
                Edit::Unset(name) => {
                    editenv(&file, &["unset", name]);
                    expected.remove(name);
                }
                Edit::Ours(state) => {
                    let old = load(&file);
                    let new = old.with(&state.variables()).expect("a few short variables fit");
                    Medium::File(file.clone()).store(&old, &new).expect("stored");
                    expected.extend(state.variables().into_iter().map(|(name, value)| (name.to_owned(), value)));
                }
            }
        }
        let block = load(&file);
        for (name, value) in &expected {
            assert_eq!(block.get(name), Some(value.as_str()), "{name} after {edits:?}");
        }
        assert_eq!(block.get("x_zz"), None);
        let listed = String::from_utf8(editenv(&file, &["list"])).expect("UTF-8");
        let mut lines: Vec<String> = expected.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        for line in lines.drain(..) {
            assert!(format!("\n{listed}").contains(&format!("\n{line}")), "{line:?} in {listed:?} after {edits:?}");
        }
        let length: usize = expected.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        assert_eq!(listed.len(), length, "nothing else is listed after {edits:?}: {listed:?}");
    }
}

#[test]
fn a_store_of_ours_has_the_bytes_of_grub_s_own_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("grubenv");
    let mut runner = TestRunner::deterministic();
    let cases = (common::state(), common::state());
    for _ in 0..100 {
        let (state, next) = cases.new_tree(&mut runner).expect("a case").current();
        fs::write(&file, Block::main(&state).bytes()).expect("a file");
        let settings: Vec<String> = next.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        editenv(&file, &[&["set"], &settings.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
        let ours = Block::main(&state).with(&next.variables()).expect("equal widths fit");
        assert_eq!(load(&file), ours);
        assert_eq!(ours, Block::main(&next), "the layout depends on nothing but the names");
    }
}

#[test]
fn grub_reads_and_stores_in_a_block_that_no_tool_wrote_as_this_crate_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("grubenv");
    let path = file.to_str().expect("a path of ASCII");
    let mut runner = TestRunner::deterministic();
    let cases = (common::odd(), common::state());
    let (mut ours, mut stored, mut lost) = (0, 0, 0);
    for _ in 0..600 {
        let (bytes, next) = cases.new_tree(&mut runner).expect("a case").current();
        let block = Block::parse(&bytes).expect("GRUB reads it");
        fs::write(&file, &bytes).expect("a file");
        let line = |(name, value): (&[u8], &[u8])| [name, b"=", value, b"\n"].concat();
        let listed: Vec<u8> = block.variables().flat_map(line).collect();
        let shown = bytes.escape_ascii();
        assert_eq!(editenv(&file, &["list"]).escape_ascii().to_string(), listed.escape_ascii().to_string(), "{shown}");
        if !matches!(block.view(), View::Ours(_)) {
            continue;
        }
        ours += 1;
        let settings: Vec<String> = next.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let arguments: Vec<&str> = [path, "set"].into_iter().chain(settings.iter().map(String::as_str)).collect();
        let set = run("grub-common", "grub-editenv", &arguments).status.success();
        let saved = block.saved(&next.variables());
        let now = fs::read(&file).expect("the file");
        assert_eq!(now.escape_ascii().to_string(), saved.bytes.escape_ascii().to_string(), "{shown}");
        let again = Block::parse(&now).expect("still a block");
        let compared = |(name, _): &(&'static str, String)| !["ks_v", "ks_good", "ks_trial", "ks_end"].contains(name);
        let mut next_values = next.variables();
        next_values.retain(compared);
        let holds = set && next_values.iter().all(|(name, value)| again.get(name) == Some(value));
        assert_eq!(saved.holds, holds, "{shown}");
        *(if saved.holds { &mut stored } else { &mut lost }) += 1;
        // GRUB reads the values that this crate stores in it.
        let Ok(steps) = block.stores(&next.variables()) else { continue };
        fs::write(&file, steps.last().unwrap_or(&block).bytes()).expect("a file");
        let listed = String::from_utf8_lossy(&editenv(&file, &["list"])).into_owned();
        let absent = settings.iter().find(|setting| listed.lines().filter(|line| line == setting).count() != 1);
        assert_eq!(absent, None, "{listed}");
    }
    assert!(ours > 100 && stored > 50 && lost > 20, "{ours} of ours, {stored} stored, {lost} lost");
}

#[test]
fn what_grub_editenv_refuses_is_no_block() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("grubenv");
    for bytes in [vec![b'#'; SIZE], vec![0; SIZE], b"# GRUB Environment Blocks".to_vec()] {
        fs::write(&file, &bytes).expect("a file");
        let path = file.to_str().expect("a path of ASCII");
        let output = run("grub-common", "grub-editenv", &[path, "list"]);
        assert!(!output.status.success(), "grub-editenv refuses it");
        assert!(Block::parse(&bytes).is_err());
    }
}

/// A FAT32 filesystem as on a device, with an environment of ours in it; the number of the block's first byte.
fn esp(image: &Path, block: &Block) -> u64 {
    let (path, target) = (image.to_str().expect("a path of ASCII"), image.with_file_name("grubenv"));
    fs::write(&target, block.bytes()).expect("a file");
    fs::File::create(image).and_then(|f| f.set_len(40 << 20)).expect("an image");
    let mtools = |tool: &str, args: &[&str]| succeed("mtools", tool, args);
    mtools("mformat", &["-i", path, "-F", "-c", "1", "::"]);
    mtools("mmd", &["-i", path, "::/grub"]);
    mtools("mcopy", &["-i", path, target.to_str().expect("a path of ASCII"), "::/grub/grubenv"]);
    let bytes = fs::read(image).expect("the image");
    let found = |at: &usize| bytes[*at..].starts_with(block.bytes());
    (0..bytes.len()).step_by(SECTOR).find(found).expect("the block lies in whole sectors") as u64
}

fn grub_reads(image: &Path) -> Vec<u8> {
    let path = image.to_str().expect("a path of ASCII");
    succeed("grub-common", "grub-fstest", &[path, "cat", "(loop0)/grub/grubenv"])
}

#[test]
fn grub_reads_from_a_fat_filesystem_what_was_written_around_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("esp.img");
    let mut state = BootState::committed(SlotId::A);
    let mut block = Block::main(&state);
    let offset = esp(&image, &block);
    assert_eq!(grub_reads(&image), block.bytes());
    let device = fs::OpenOptions::new().write(true).open(&image).expect("the image");
    let id = bootenv::TrialId(0x0123_abcd);
    let trial = Booted { slot: SlotId::B, trial: id, fallback: None };
    type Step<'a> = &'a dyn Fn(BootState) -> BootState;
    let cycle: [Step; 3] = [
        &|state| state.invalidate(SlotId::A).expect("B is free"),
        &|state| state.activate(Booted::ordinary(SlotId::A), id).expect("B is free"),
        &|state| state.commit(trial).expect("the trial runs"),
    ];
    for step in cycle {
        state = step(state);
        block = block.with(&state.variables()).expect("equal widths fit");
        // Exactly what a store around the filesystem writes: one sector, at the block's own place.
        device.write_all_at(&block.bytes()[..SECTOR], offset).expect("written");
        assert_eq!(grub_reads(&image), block.bytes());
    }
    let read = Block::parse(&grub_reads(&image)).expect("a block");
    assert_eq!(NAMES.map(|name| read.get(name).map(str::len)), [1, 1, 1, 1, 1, 4, 4, 8, 2, 1].map(Some));
}
