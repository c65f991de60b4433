//! The bytes of `autoboot.txt`, by which the firmware of a Raspberry Pi chooses between two boot partitions.
//!
//! Format: "autoboot.txt" and "tryboot_a_b" of the Raspberry Pi documentation: at most 512 bytes, sections `[all]` and
//! `[tryboot]`, `boot_partition=` in each. Without being asked the firmware boots the partition of `[all]`, and that of
//! `[tryboot]` once after `reboot "0 tryboot"`. It neither counts nor checks, and passes over comments: the state lies in
//! those, so that one sector has all of it.

use std::fmt::Write as _;

use crate::SlotId;
use crate::protocol::{BootState, Foreign, NAMES, SlotState, TRIES, View};

/// Size of the file as this crate writes it, in bytes: what the firmware reads at most, and one sector.
pub const SIZE: usize = 512;
/// Argument of a reboot that makes the firmware boot the other partition once.
pub const TRYBOOT: &str = "0 tryboot";

/// The boot partition of a slot: 2 and 3, after the one with `autoboot.txt`.
#[must_use]
pub fn partition(slot: SlotId) -> u32 {
    match slot {
        SlotId::A => 2,
        SlotId::B => 3,
    }
}

/// The slot of a boot partition.
#[must_use]
pub fn slot(partition: u32) -> Option<SlotId> {
    SlotId::BOTH.into_iter().find(|slot| self::partition(*slot) == partition)
}

/// The file for `state`: the last good slot for every boot, the other one for a try.
#[must_use]
pub fn render(state: &BootState) -> Vec<u8> {
    let mut text = String::new();
    let _ = writeln!(text, "[all]\ntryboot_a_b=1\nboot_partition={}", partition(state.good));
    let _ = writeln!(text, "[tryboot]\nboot_partition={}", partition(state.good.other()));
    for (name, value) in state.variables() {
        let _ = writeln!(text, "#{name}={value}");
    }
    let mut bytes = text.into_bytes();
    bytes.resize(SIZE - 1, b'#');
    bytes.push(b'\n');
    bytes
}

/// Content of the file. If the firmware would boot another slot than our comments name, another program wrote last.
#[must_use]
pub fn view(bytes: &[u8]) -> View {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|_| bytes.len() <= SIZE) else { return View::Invalid };
    let Some(active) = all_partition(text).and_then(slot) else { return View::Invalid };
    let comment =
        |name: &str| text.lines().find_map(|line| line.strip_prefix('#')?.strip_prefix(name)?.strip_prefix('='));
    match View::read(comment) {
        View::Ours(state) if state.good == active && text.lines().any(|line| line.trim() == "tryboot_a_b=1") => {
            View::Ours(state)
        }
        _ => {
            let failed = |name| comment(name) == Some(SlotState::Fail.as_str());
            let has_seal = NAMES.iter().any(|name| comment(name).is_some());
            let fail = [failed("ks_a"), failed("ks_b")];
            View::Foreign(Foreign { active, success: true, counter: TRIES, fail, has_seal })
        }
    }
}

/// `boot_partition=` of `[all]`, or before any section, which means the same.
fn all_partition(text: &str) -> Option<u32> {
    let mut section = "[all]";
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let (Some(number), "[all]") = (line.strip_prefix("boot_partition="), section) {
            found = number.trim().parse().ok();
        }
    }
    found
}
