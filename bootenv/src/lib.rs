//! The A/B slot protocol of a device whose OS is a kernel plus an initramfs.
//!
//! Layers, each usable alone:
//!
//! * [`protocol`]: what the variables mean and which change of them is legal. Pure: state in, state out.
//! * [`grub`]: the bytes of GRUB's environment block. Pure: bytes in, bytes out.
//! * [`data`]: checkpoints of data, and what a boot does with them before services start. Pure.
//! * [`extras`]: the files in a slot with the kernel arguments and the device tree of a release. Pure.
//! * [`medium`]: one atomic write of such a block in place, synced and read back.
//! * [`rpi`]: the bytes of a Raspberry Pi's `autoboot.txt`.
//! * [`lock`]: a lock file that no other account can hold.
//! * [`step`]: the steps by which an agent changes a device, as it logs them and the model explores them.
//! * [`uboot`]: the bytes of U-Boot's environment, where they lie, and a store that leaves the old copy alone.
//!
//! [`loader`] is the bootloader's script in one text, and how a device with another one is switched to it.
//!
//! [`boot`] is the bootloader's side of the same protocol, as `loader/grub.cfg` and `loader/boot.cmd` implement it: tests
//! compare the two, and `status` uses it to report what the next power-on would do.
#![warn(unreachable_pub)]
// Bounds of a function: see clippy.toml.
#![warn(clippy::too_many_arguments, clippy::too_many_lines)]
// Files that decide something are opened by the agent's rule; each exception here has its reason.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod boot;
pub mod data;
pub mod extras;
pub mod grub;
pub mod loader;
pub mod lock;
pub mod medium;
pub mod protocol;
pub mod rpi;
pub mod step;
mod sys;
pub mod uboot;

use std::fmt;
use std::str::FromStr;

/// One of the two places that hold a kernel and an initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotId {
    /// The first slot, partition `KSOLOA`.
    A,
    /// The second slot, partition `KSOLOB`.
    B,
}

impl SlotId {
    /// Both, in the order in which a bootloader without any knowledge tries them.
    pub const BOTH: [SlotId; 2] = [SlotId::A, SlotId::B];

    /// The slot that is not this one.
    #[must_use]
    pub fn other(self) -> SlotId {
        match self {
            SlotId::A => SlotId::B,
            SlotId::B => SlotId::A,
        }
    }

    /// `A` or `B`, as the environment and the kernel command line spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SlotId::A => "A",
            SlotId::B => "B",
        }
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SlotId {
    type Err = OutsideAlphabet;

    fn from_str(s: &str) -> Result<Self, OutsideAlphabet> {
        match s {
            "A" => Ok(SlotId::A),
            "B" => Ok(SlotId::B),
            _ => Err(OutsideAlphabet),
        }
    }
}

/// A value that its variable cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideAlphabet;

impl fmt::Display for OutsideAlphabet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a value that this variable can have")
    }
}

impl std::error::Error for OutsideAlphabet {}

/// Names one trial, so that only the boot that was started for it can commit it. `00000000` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct TrialId(pub u32);

impl TrialId {
    /// No trial.
    pub const NONE: TrialId = TrialId(0);

    /// True if this is [`TrialId::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for TrialId {
    type Err = OutsideAlphabet;

    /// Exactly eight lower-case hex digits: a fixed width keeps the layout of the block.
    fn from_str(s: &str) -> Result<Self, OutsideAlphabet> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if s.len() != 8 || !s.bytes().all(lower_hex) {
            return Err(OutsideAlphabet);
        }
        u32::from_str_radix(s, 16).map(TrialId).map_err(|_| OutsideAlphabet)
    }
}

/// Why a bootloader did not boot what the environment asked for: `ks.fallback=` on the kernel command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// The slot could not be loaded: void, a file missing, a hash wrong.
    Load,
    /// The counter of a trial could not be saved.
    Save,
    /// The main block was invalid.
    Env,
}

impl Fallback {
    /// The value on the kernel command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Fallback::Load => "load",
            Fallback::Save => "save",
            Fallback::Env => "env",
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fallback {
    type Err = OutsideAlphabet;

    fn from_str(s: &str) -> Result<Self, OutsideAlphabet> {
        match s {
            "load" => Ok(Fallback::Load),
            "save" => Ok(Fallback::Save),
            "env" => Ok(Fallback::Env),
            _ => Err(OutsideAlphabet),
        }
    }
}
