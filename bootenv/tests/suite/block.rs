//! Properties of the block's bytes: nothing that is in a block is lost or moved by a change, and what is no block is
//! refused for its own reason.

use crate::common;

use bootenv::grub::{Block, Error, MAX_SIZE, SECTOR, SIGNATURE, SIZE};
use bootenv::protocol::{BootState, Booted, FallbackBlock, NAMES, View};
use bootenv::{Fallback, SlotId, TrialId};
use common::{block, escape, main_lines, slot, state, stranger, trial, value};
use proptest::prelude::*;

/// Every transition from `state` that the protocol allows.
fn successors(state: BootState, booted: Booted, id: TrialId) -> Vec<BootState> {
    let results = [
        state.invalidate(booted.slot).ok(),
        state.activate(booted, id).ok(),
        state.commit(booted).ok(),
        state.revert(booted).ok(),
        state.cancel(booted.slot).ok(),
        state.rollback(booted, id).ok(),
        state.settle(booted),
        state.take_over(booted.slot).ok(),
        Some(state.back_to_good()),
    ];
    results.into_iter().flatten().collect()
}

fn booted() -> impl Strategy<Value = Booted> {
    let fallback = prop_oneof![Just(None), Just(Some(Fallback::Load)), Just(Some(Fallback::Save))];
    (slot(), trial(), fallback).prop_map(|(slot, trial, fallback)| Booted { slot, trial, fallback })
}

/// Our lines among strangers, as a Go agent, a person or an earlier layout may have left them.
fn main_among_strangers() -> impl Strategy<Value = (BootState, Vec<Vec<u8>>)> {
    let strangers = || proptest::collection::vec(stranger(), 0..4);
    (state(), strangers(), strangers(), any::<bool>(), any::<bool>()).prop_map(
        |(state, before, after, foreign, shuffled)| {
            let mut ours = main_lines(&state);
            if foreign {
                ours.retain(|line| !line.starts_with(b"ks_"));
            }
            if shuffled {
                ours.reverse();
            }
            (state, [before, ours, after].concat())
        },
    )
}

/// All lines of a block that are not ours, in order.
fn strangers(bytes: &[u8]) -> Vec<Vec<u8>> {
    let ours = |line: &[u8]| {
        BootState::committed(SlotId::A)
            .variables()
            .iter()
            .any(|(name, _)| line.starts_with(format!("{name}=").as_bytes()))
    };
    let mut lines = vec![vec![]];
    let mut escaped = false;
    for b in &bytes[SIGNATURE.len()..] {
        let end = *b == b'\n' && !escaped;
        escaped = *b == b'\\' && !escaped;
        match lines.last_mut() {
            Some(line) if !end => line.push(*b),
            _ => lines.push(vec![]),
        }
    }
    lines.pop();
    // Filling of a gap comes and goes.
    lines.retain(|line| !ours(line) && line.iter().any(|b| *b != b'#'));
    lines
}

/// How many sectors differ.
fn sectors(old: &Block, new: &Block) -> usize {
    assert_eq!(old.bytes().len(), new.bytes().len());
    old.bytes().chunks(SECTOR).zip(new.bytes().chunks(SECTOR)).filter(|(old, new)| old != new).count()
}

/// The variables of others, as GRUB reads them.
fn others(block: &Block) -> Vec<(Vec<u8>, Vec<u8>)> {
    let plain = |name: &[u8]| !name.contains(&b'\n') && !NAMES.iter().any(|ours| ours.as_bytes() == name);
    block.variables().filter(|(name, _)| plain(name)).map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_a_block_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2 * SIZE)) {
        let _ = Block::parse(&bytes);
    }

    #[test]
    fn any_bytes_after_the_first_line_are_a_block_or_an_error(
        text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), Just(b'#'), Just(b'\\'), any::<u8>()], 0..SIZE)
    ) {
        let mut bytes = [SIGNATURE, &text].concat();
        bytes.resize(SIZE, b'#');
        if let Ok(read) = Block::parse(&bytes) {
            prop_assert_eq!(read.bytes(), &bytes[..]);
            let _ = (read.view(), read.as_second());
            let _ = read.with(&BootState::committed(SlotId::A).variables());
        }
    }

    #[test]
    fn a_parsed_block_is_rendered_as_it_was((_, lines) in main_among_strangers()) {
        let bytes = block(&lines);
        prop_assert_eq!(Block::parse(&bytes).map(|b| b.bytes().to_vec()), Ok(bytes));
    }

    #[test]
    fn values_are_read_as_they_were_written(value in value(), other in value()) {
        let created = Block::create(&[("x", value.clone())]);
        let created = created.expect("short values fit");
        prop_assert_eq!(created.get("x"), Some(&*value));
        let by_hand = block(&[[b"x=", &escape(&value)[..]].concat()]);
        prop_assert_eq!(created.bytes(), &by_hand[..]);
        let changed = created.with(&[("x", other.clone())]).expect("short values fit");
        prop_assert_eq!(changed.get("x"), Some(&*other));
    }

    #[test]
    fn a_sealed_state_is_read_as_it_was_stored(state in state()) {
        prop_assert_eq!(Block::main(&state).view(), View::Ours(state));
        prop_assert_eq!(Block::second(&FallbackBlock::of(&state)).as_second(), Some(FallbackBlock::of(&state)));
    }

    #[test]
    fn every_transition_keeps_strangers_and_the_second_sector(
        (state, lines) in main_among_strangers(), booted in booted(), id in trial()
    ) {
        let before = Block::parse(&block(&lines)).expect("a valid block");
        for next in successors(state, booted, id) {
            match before.with(&next.variables()) {
                Ok(after) => {
                    prop_assert_eq!(after.view(), View::Ours(next));
                    prop_assert_eq!(strangers(after.bytes()), strangers(before.bytes()));
                    prop_assert_eq!(&after.bytes()[SECTOR..], &before.bytes()[SECTOR..]);
                }
                Err(Error::Sectors | Error::Full { .. } | Error::Double(_)) => {}
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }

    #[test]
    fn no_transition_changes_the_layout_of_a_complete_block(
        state in state(), after in proptest::collection::vec(stranger(), 0..8), booted in booted(), id in trial()
    ) {
        let before = Block::parse(&block(&[main_lines(&state), after].concat())).expect("a valid block");
        for next in successors(state, booted, id) {
            let stored = before.with(&next.variables()).expect("equal widths always fit");
            let moved = before.bytes().iter().zip(stored.bytes()).any(|(old, new)| (*old == b'\n') != (*new == b'\n'));
            prop_assert!(!moved, "line ends stay where they are");
            // Names lie outside of the values, so nothing of them may change.
            let value = |bytes: &[u8], at: usize| bytes[..at].iter().rev().take_while(|b| **b != b'\n').any(|b| *b == b'=');
            for at in (0..SIZE).filter(|at| before.bytes()[*at] != stored.bytes()[*at]) {
                prop_assert!(value(before.bytes(), at), "byte {} is not part of a value", at);
            }
        }
    }

    #[test]
    fn a_store_torn_between_sectors_is_old_or_new(
        (state, lines) in main_among_strangers(), booted in booted(), id in trial()
    ) {
        let before = Block::parse(&block(&lines)).expect("a valid block");
        for next in successors(state, booted, id) {
            let Ok(after) = before.with(&next.variables()) else { continue };
            for written in [[true, false], [false, true], [true, true], [false, false]] {
                let mut torn = before.bytes().to_vec();
                for (sector, _) in written.into_iter().enumerate().filter(|(_, written)| *written) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    torn[range.clone()].copy_from_slice(&after.bytes()[range]);
                }
                prop_assert!(torn == before.bytes() || torn == after.bytes());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_block_is_led_to_one_that_grub_can_store_in(bytes in common::odd(), next in state()) {
        let before = Block::parse(&bytes).expect("GRUB reads it");
        if bytes.len() < SIZE {
            prop_assert!(before.repairs().is_err());
            let Ok(Some(grown)) = before.grown() else { return Ok(()) };
            prop_assert_eq!((grown.bytes().len(), grown.view()), (SIZE, before.view()));
            prop_assert_eq!(others(&before).into_iter().find(|it| !others(&grown).contains(it)), None);
            return Ok(());
        }
        let Ok(steps) = before.stores(&next.variables()) else { return Ok(()) };
        let repairs = before.repairs().expect("a store begins with them");
        for (old, new) in [&before].into_iter().chain(&steps).zip(&steps) {
            prop_assert_eq!(sectors(old, new), 1);
            prop_assert_eq!(others(&before).into_iter().find(|it| !others(new).contains(it)), None, "in {}", new.bytes().escape_ascii());
        }
        for step in &repairs {
            let shown = || step.bytes().escape_ascii().to_string();
            prop_assert_eq!(step.view(), before.view(), "{} became {}", before.bytes().escape_ascii(), shown());
        }
        let after = steps.last().unwrap_or(&before);
        prop_assert_eq!(after.view(), View::Ours(next));
        prop_assert_eq!(after.repairs(), Ok(vec![]));
        prop_assert!(after.saved(&next.back_to_good().variables()).holds);
    }
}

#[test]
fn what_is_no_block_is_refused_for_its_own_reason() {
    let good = Block::main(&BootState::committed(SlotId::A)).bytes().to_vec();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Block::parse(&bytes)
    };
    assert_eq!(changed(&|b| b.truncate(25)), Err(Error::Size(25)));
    assert_eq!(changed(&|b| b.resize(MAX_SIZE + 1, b'#')), Err(Error::Size(MAX_SIZE + 1)));
    assert_eq!(changed(&|b| b.clear()), Err(Error::Size(0)));
    assert_eq!(changed(&|b| b[2] = b'g'), Err(Error::Signature));
    assert_eq!(changed(&|b| b.fill(0)), Err(Error::Signature));
    assert_eq!(Block::parse(&block(&[b"env_block=512+1".to_vec()])), Err(Error::Elsewhere));
    assert_eq!(Block::parse(&block(&[b"env_block=\xff".to_vec()])), Err(Error::Elsewhere));
}

#[test]
fn what_grub_reads_is_read_and_becomes_what_it_can_store_in() {
    let state = BootState { success: false, active: SlotId::B, counter: 2, ..BootState::committed(SlotId::A) };
    let main =
        |lines: &[&[u8]]| block(&[main_lines(&state), lines.iter().map(|line| line.to_vec()).collect()].concat());
    let sized = |size| {
        let mut bytes = main(&[b"x=1"]);
        bytes.resize(size, b'#');
        bytes
    };
    let ended = |end: &[u8]| [&main(&[b"x=1"])[..SIZE - end.len()], end].concat();
    let zeroed = [&main(&[b"x=1"])[..SECTOR], &[0; SECTOR]].concat();
    let cases = [
        ("1025 bytes", sized(1025), true),
        ("2048 bytes", sized(2048), true),
        ("a line feed at the end", ended(b"\n"), true),
        ("NUL at the end", ended(b"\0"), false),
        ("the second sector lost", zeroed, false),
        ("a line without =", main(&[b"stray", b"x=1"]), true),
        ("an empty line", main(&[b"", b"x=1"]), true),
        ("a double", main(&[b"x=1", b"boot_counter=2"]), false),
        ("a double with another value", [&main(&[])[..SIZE - 16], b"\nboot_counter=3\n"].concat(), false),
    ];
    for (name, bytes, holds) in cases {
        let before = Block::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(matches!(before.view(), View::Ours(_)), "{name}: {:?}", before.view());
        // The store of a first try: the same counter, and one less.
        let counted = [("boot_counter", "1".to_owned())];
        let next = BootState { counter: 1, ..state };
        assert_eq!(before.saved(&counted).holds, holds, "{name}");
        let steps = before.stores(&next.variables()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let after = steps.last().unwrap_or(&before);
        assert_eq!((after.bytes().len(), after.view()), (bytes.len(), View::Ours(next)), "{name}");
        assert!(after.saved(&counted).holds && after.saved(&state.variables()).holds, "{name}");
    }
}

#[test]
fn a_variable_set_twice_is_read_as_grub_reads_it_and_written_once() {
    let state = BootState::committed(SlotId::A);
    let twice = |line: &[u8]| {
        let lines = [main_lines(&state), vec![line.to_vec()]].concat();
        Block::parse(&block(&lines)).expect("GRUB reads it too")
    };
    let read = twice(b"boot_counter=0");
    assert_eq!(read.get("boot_counter"), Some("0"));
    assert_eq!(read.with(&state.variables()), Ok(Block::main(&state)));
    let unreadable = twice(b"active_slot=\xff");
    assert_eq!(unreadable.get("active_slot"), None);
    assert_eq!(unreadable.view(), View::Invalid);
}

#[test]
fn what_shows_completeness_comes_first_and_last_whatever_the_order_was() {
    let state = BootState::committed(SlotId::A);
    let reversed: Vec<Vec<u8>> = main_lines(&state).into_iter().rev().collect();
    let stored = Block::parse(&block(&reversed)).expect("a valid block").with(&state.variables()).expect("room");
    assert_eq!(stored.bytes(), block(&main_lines(&state)));
}

#[test]
fn a_second_file_of_another_layout_promises_nothing() {
    let second = FallbackBlock::of(&BootState::committed(SlotId::A));
    assert_eq!(Block::second(&second).as_second(), Some(second));
    for name in ["ks_v", "ks_end"] {
        let other = Block::second(&second).with(&[(name, "2".to_owned())]).expect("room");
        assert_eq!(other.as_second(), None, "{name}");
    }
}

#[test]
fn a_change_that_reaches_the_second_sector_is_refused() {
    let long = [b"x=".to_vec(), vec![b'y'; 600]].concat();
    let foreign = Block::parse(&block(&[b"active_slot=A".to_vec(), long])).expect("a valid block");
    let full = || Err(Error::Full { others: vec!["x".to_owned()] });
    assert_eq!(foreign.with(&BootState::committed(SlotId::A).variables()), full());
    let lines =
        [vec![[b"x=".to_vec(), vec![b'y'; 500]].concat()], main_lines(&BootState::committed(SlotId::A))].concat();
    let beyond = Block::parse(&block(&lines)).expect("a valid block");
    let next = BootState::committed(SlotId::B);
    assert_eq!(beyond.with(&next.variables()), full());
    assert_eq!(beyond.stores(&next.variables()), full().map(|block: Block| vec![block]));
    assert_eq!(beyond.with(&[("x", "z".repeat(1000))]), full());
}

#[test]
fn a_value_outside_its_alphabet_makes_the_block_invalid() {
    let lines = main_lines(&BootState::committed(SlotId::A));
    for (name, _) in BootState::committed(SlotId::A).variables() {
        for value in ["", "x", "C", "4", "goof", "0000000g", "0000000A", "000000000", "a", " 1", "1 "] {
            let mut lines = lines.clone();
            for line in &mut lines {
                if line.starts_with(format!("{name}=").as_bytes()) {
                    *line = format!("{name}={value}").into_bytes();
                }
            }
            let view = Block::parse(&block(&lines)).expect("a valid block").view();
            if name == "ks_seal" {
                assert!(matches!(view, View::Foreign(_)), "{name}={value} is somebody else's");
            } else {
                assert_eq!(view, View::Invalid, "{name}={value}");
            }
        }
        let mut cut = lines.clone();
        cut.retain(|line| !line.starts_with(format!("{name}=").as_bytes()));
        let view = Block::parse(&block(&cut)).expect("a valid block").view();
        assert!(!matches!(view, View::Ours(_)), "without {name} the block is not ours");
    }
}
