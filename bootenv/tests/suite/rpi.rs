//! `autoboot.txt`, held against the documentation of the firmware.

use crate::common;

use bootenv::protocol::{BootState, Booted, SlotState, View};
use bootenv::rpi::{SIZE, render, view};
use bootenv::{SlotId, TrialId};
use proptest::prelude::*;

/// The folder that the firmware boots, read from the file as its documentation says.
fn firmware(bytes: &[u8], tryboot: bool) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut applies, mut partition, mut a_b) = (true, None, false);
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line {
            "[all]" => applies = true,
            "[tryboot]" => applies = tryboot,
            _ if line.starts_with('[') => applies = false,
            "tryboot_a_b=1" if applies => a_b = true,
            _ if applies => partition = line.strip_prefix("boot_partition=").map_or(partition, |n| n.parse().ok()),
            _ => {}
        }
    }
    partition.filter(|_| a_b || !tryboot)
}

fn partition(slot: SlotId) -> u32 {
    if slot == SlotId::A { 2 } else { 3 }
}

proptest! {
    #[test]
    fn the_firmware_boots_the_last_good_slot_and_tries_the_other_one(state in common::state()) {
        let bytes = render(&state);
        prop_assert_eq!(bytes.len(), SIZE);
        prop_assert_eq!(firmware(&bytes, false), Some(partition(state.good)));
        prop_assert_eq!(firmware(&bytes, true), Some(partition(state.good.other())));
        prop_assert_eq!(view(&bytes), View::Ours(state));
    }

    #[test]
    fn any_bytes_have_some_meaning(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = view(&bytes);
    }
}

#[test]
fn a_cycle_changes_what_is_booted_at_its_end_only() {
    let trial = Booted { slot: SlotId::B, trial: TrialId(9), fallback: None };
    let staged = BootState::committed(SlotId::A).invalidate(SlotId::A).expect("B is free");
    let activated = staged.activate(Booted::ordinary(SlotId::A), TrialId(9)).expect("B is free");
    let committed = activated.commit(trial).expect("the trial runs");
    let reverted = activated.revert(trial).expect("the trial runs");
    let boots = |state: &BootState| firmware(&render(state), false).expect("a partition");
    assert_eq!([staged, activated, committed, reverted].map(|state| boots(&state)), [2, 2, 3, 2]);
}

#[test]
fn what_somebody_else_wrote_is_foreign_and_confirmed() {
    let plain = b"[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n";
    let View::Foreign(foreign) = view(plain) else { panic!("{:?}", view(plain)) };
    assert_eq!((foreign.active, foreign.success, foreign.has_seal), (SlotId::B, true, false));
    // A person changed the partition and left our comments.
    let state = BootState { b: SlotState::Fail, ..BootState::committed(SlotId::A) };
    let text = String::from_utf8(render(&state)).expect("ASCII");
    let changed = text.replacen("boot_partition=2", "boot_partition=3", 1);
    let View::Foreign(foreign) = view(changed.as_bytes()) else { panic!("{:?}", view(changed.as_bytes())) };
    assert_eq!((foreign.active, foreign.fail), (SlotId::B, [false, true]));
    // Or what makes the firmware look at the other partition, so that no try would ever be one.
    let changed = text.replacen("tryboot_a_b=1", "tryboot_a_b=0", 1);
    let View::Foreign(foreign) = view(changed.as_bytes()) else { panic!("{:?}", view(changed.as_bytes())) };
    assert_eq!((foreign.active, foreign.has_seal), (SlotId::A, true));
    for odd in [
        &b""[..],
        b"[all]\nboot_partition=1\n",
        b"[tryboot]\nboot_partition=2\n",
        b"[all]\nboot_partition=two\n",
        &[0xff; 20],
    ] {
        assert_eq!(view(odd), View::Invalid, "{}", odd.escape_ascii());
    }
    assert_eq!(view(&[&render(&state)[..], b"#"].concat()), View::Invalid, "the firmware would not read all of it");
}
