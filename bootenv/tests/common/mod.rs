//! Parts that several tests of this crate need.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod uboot;

use bootenv::grub::SIGNATURE;
use bootenv::protocol::{BootState, NAMES, SlotState};
use bootenv::{SlotId, TrialId};
use proptest::prelude::*;

/// Either slot.
pub fn slot() -> impl Strategy<Value = SlotId> {
    prop_oneof![Just(SlotId::A), Just(SlotId::B)]
}

/// Any knowledge of a slot.
pub fn slot_state() -> impl Strategy<Value = SlotState> {
    prop_oneof![Just(SlotState::Good), Just(SlotState::Void), Just(SlotState::Fail)]
}

/// Few enough ids that equal ones meet.
pub fn trial() -> impl Strategy<Value = TrialId> {
    prop_oneof![Just(TrialId::NONE), Just(TrialId(1)), Just(TrialId(0xdead_beef))]
}

/// Any state that the alphabets allow, sensible or not.
pub fn state() -> impl Strategy<Value = BootState> {
    (slot(), any::<bool>(), 0..=3u8, slot(), slot_state(), slot_state(), trial()).prop_map(
        |(active, success, counter, good, a, b, trial)| BootState { active, success, counter, good, a, b, trial },
    )
}

/// A line that is not ours: its bytes as they stand in a block, without the line feed.
pub fn stranger() -> impl Strategy<Value = Vec<u8>> {
    let comment = "#[ -~]{0,20}".prop_map(|text| escape(&text));
    let variable = ("[a-z][a-z_]{0,7}", value())
        .prop_filter("this one has a meaning", |(name, _)| name != "env_block")
        .prop_map(|(name, value)| [b"x_", name.as_bytes(), b"=", &escape(&value)].concat());
    prop_oneof![1 => comment, 3 => variable]
}

/// A value with all that may surprise a parser.
pub fn value() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![4 => "[a-zA-Z0-9.]", 1 => "[\\\\\n#= é]"], 0..10)
        .prop_map(|parts| parts.concat())
}

/// As GRUB writes a value into a block.
pub fn escape(value: &str) -> Vec<u8> {
    value.replace('\\', "\\\\").replace('\n', "\\\n").into_bytes()
}

/// A block of these lines, padded.
pub fn block(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"# GRUB Environment Block\n".to_vec();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    assert!(bytes.len() < 1024, "the generated lines leave room for padding");
    bytes.resize(1024, b'#');
    bytes
}

/// A block as no tool writes it: of any size, with lines without `=`, empty ones, doubles of ours, and any end.
pub fn odd() -> impl Strategy<Value = Vec<u8>> {
    let ours = (proptest::sample::select(&NAMES[..]), "[AB0-3]|good|fail|00000001")
        .prop_map(|(name, value)| format!("{name}={value}").into_bytes());
    let line = prop_oneof![
        6 => stranger(),
        2 => ours,
        1 => Just(b"stray".to_vec()),
        1 => Just(vec![]),
        1 => Just(b"active_slot\0x=B".to_vec()),
        1 => "x_l=y{90}".prop_map(String::into_bytes),
    ];
    let lines = || proptest::collection::vec(line.clone(), 0..5);
    let end = prop_oneof![
        4 => Just(b"#".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"=".to_vec()),
        1 => Just(vec![0]),
        1 => Just(b"x_end=unended#".to_vec()),
    ];
    let size = prop_oneof![4 => Just(1024_usize), 1 => 26..2100_usize, 1 => Just(2048)];
    let (state, filler) = (proptest::option::of(state()), prop_oneof![Just(0), 0..600_usize]);
    (lines(), state, lines(), filler, lines(), end, size).prop_map(|(a, state, b, filler, c, end, size)| {
        let ours = state.map_or(vec![], |state| main_lines(&state));
        let filler = if filler > 0 { vec![vec![b'#'; filler]] } else { vec![] };
        let mut bytes = SIGNATURE.to_vec();
        [a, ours, b, filler, c].concat().iter().for_each(|line| bytes.extend([line, &b"\n"[..]].concat()));
        bytes.extend(end.iter().chain(end.last().into_iter().cycle()).take(size.saturating_sub(bytes.len())));
        bytes.truncate(size);
        bytes
    })
}

/// The lines of a complete main block.
pub fn main_lines(state: &BootState) -> Vec<Vec<u8>> {
    state.variables().into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect()
}
