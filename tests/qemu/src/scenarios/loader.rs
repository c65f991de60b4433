//! Stories of the bootloader on slots that were filled by hand; this side stores what the agent would store.

use std::fs;
use std::process::Command;
use std::str::FromStr;

use bootenv::grub::Block;
use bootenv::protocol::{BootState, Booted, FallbackBlock, Foreign, SlotState, View};
use bootenv::{Fallback, SlotId, TrialId};

use super::expect;
use crate::image::{Content, Disk, INITRAMFS, KERNEL, Plan};
use crate::initramfs::{self, Then};
use crate::machine::{Device, Machine};
use crate::prove::{self, judge::Judge, log::Log, replay::Replay};
use crate::runner::Run;
use crate::{Result, kernel, root};

const TRIAL: TrialId = TrialId(0x1234_abcd);

/// The line of userspace in a test initramfs about its boot.
struct Up {
    release: String,
    booted: Booted,
}

impl Up {
    fn wait(machine: &mut Machine) -> Result<Self> {
        let line = machine.wait_for("test: release=")?;
        let word = |name: &str| {
            let mut found = line.split_whitespace().filter_map(|word| word.strip_prefix(name));
            match (found.next(), found.next()) {
                (found, None) => Ok(found),
                _ => Err(format!("{name} twice: {line}")),
            }
        };
        if word("ks.proto=")? != Some("1") {
            return Err(format!("no ks.proto=1: {line}").into());
        }
        Ok(Self {
            release: word("release=")?.ok_or("no release")?.to_owned(),
            booted: Booted {
                slot: read(word("kubesolo.slot=")?, &line)?,
                trial: read(word("ks.trial=")?, &line)?,
                fallback: word("ks.fallback=")?.map(|f| read(Some(f), &line)).transpose()?,
            },
        })
    }
}

fn read<T: FromStr>(word: Option<&str>, line: &str) -> Result<T> {
    word.and_then(|word| word.parse().ok()).ok_or_else(|| format!("missing or odd: {line}").into())
}

/// A device with release v1 in slot A, good, and release v2 in slot B.
struct Pair {
    disk: Disk,
    device: Device,
}

impl Pair {
    fn build(run: &Run, v2: Then) -> Result<Self> {
        let disk = Self::plan(run, v2)?.build(&run.file("disk.img"))?;
        let device = Device::new(run.firmware, &disk.path);
        Ok(Self { disk, device })
    }

    fn plan(run: &Run, v2: Then) -> Result<Plan> {
        let kernel = kernel()?;
        let v1 = run.write("v1.gz", &initramfs::make("v1", Then::Idle)?)?;
        let v2 = run.write("v2.gz", &initramfs::make("v2", v2)?)?;
        let mut plan = Plan::new(Content::new(&kernel, &v1));
        plan.b = Some(Content::new(&kernel, &v2));
        // The last panic= counts.
        plan.kernel_args = Some("console=ttyS0,115200n8 quiet panic=1".to_owned());
        Ok(plan)
    }

    fn power_on(&self, run: &Run) -> Result<Machine> {
        Machine::power_on(&self.device, &run.dir)
    }

    fn state(&self) -> Result<BootState> {
        super::state(&self.disk)
    }

    /// Stores what the agent would store.
    fn store(&self, next: &BootState) -> Result<()> {
        let block = self.disk.env()?.with(&next.variables()).map_err(|e| e.to_string())?;
        self.disk.set_env(&block)?;
        self.disk.set_second(&Block::second(&FallbackBlock::of(next)))
    }

    /// Makes the filled slot B the active one, on trial.
    fn activate(&self) -> Result<BootState> {
        let next = self.state()?.activate(Booted::ordinary(SlotId::A), TRIAL).map_err(|e| e.to_string())?;
        self.store(&next)?;
        Ok(next)
    }
}

fn expect_up(machine: &mut Machine, release: &str, booted: Booted) -> Result<()> {
    let up = Up::wait(machine)?;
    expect("release", &up.release.as_str(), &release)?;
    expect("boot", &up.booted, &booted)
}

pub(super) fn commit(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let before = pair.disk.env()?;
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v1", Booted::ordinary(SlotId::A))?;
    machine.power_cut()?;
    expect("the environment after an ordinary boot", &pair.disk.env()?, &before)?;

    let activated = pair.activate()?;
    let trial = Booted { trial: TRIAL, ..Booted::ordinary(SlotId::B) };
    let mut machine = pair.power_on(run)?;
    machine.wait_for("ks: boot slot=B try counter=2 trial=1234abcd")?;
    expect_up(&mut machine, "v2", trial)?;
    machine.power_cut()?;
    expect("the environment in the trial", &pair.state()?, &BootState { counter: 2, ..activated })?;

    pair.store(&pair.state()?.commit(trial).map_err(|e| e.to_string())?)?;
    let committed = pair.disk.env()?;
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v2", Booted::ordinary(SlotId::B))?;
    // A reset is no power cut, and no try either.
    machine.reset()?;
    expect_up(&mut machine, "v2", Booted::ordinary(SlotId::B))?;
    machine.power_cut()?;
    expect("the environment after committed boots", &pair.disk.env()?, &committed)
}

/// Powers the device on after an activation and sees it use up three tries and come back to v1.
fn tries_run_out(run: &Run, pair: &Pair, sign: &str) -> Result<()> {
    let activated = pair.activate()?;
    let mut machine = pair.power_on(run)?;
    for counter in [2, 1, 0] {
        machine.wait_for(&format!("ks: boot slot=B try counter={counter} trial=1234abcd"))?;
        machine.wait_for(sign)?;
    }
    machine.wait_for("ks: no tries left for slot B: returning to slot A")?;
    expect_up(&mut machine, "v1", Booted::ordinary(SlotId::A))?;
    machine.power_cut()?;
    let back = BootState { counter: 0, ..activated }.back_to_good();
    expect("the environment after the last try", &pair.state()?, &back)
}

pub(super) fn panic(run: &Run) -> Result<()> {
    tries_run_out(run, &Pair::build(run, Then::Panic)?, "test: release=v2")
}

pub(super) fn truncated_initramfs(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let whole = pair.disk.slot_file(SlotId::B, INITRAMFS)?;
    pair.disk.put_slot_file_and_hash(SlotId::B, INITRAMFS, &whole[..whole.len() / 2])?;
    tries_run_out(run, &pair, "Kernel panic")
}

pub(super) fn corrupt_kernel(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let mut kernel = pair.disk.slot_file(SlotId::B, KERNEL)?;
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    pair.disk.put_slot_file(SlotId::B, KERNEL, &kernel)?;
    let activated = pair.activate()?;
    let mut machine = pair.power_on(run)?;
    machine.wait_for("ks: slot B cannot be used")?;
    machine.wait_for("ks: boot slot=A fallback=load")?;
    let fell = Booted { fallback: Some(Fallback::Load), ..Booted::ordinary(SlotId::A) };
    expect_up(&mut machine, "v1", fell)?;
    machine.power_cut()?;
    // The bootloader counted the try before it looked at the kernel, and stored nothing else.
    let counted = BootState { counter: 2, ..activated };
    expect("the environment after the fallback", &pair.state()?, &counted)?;

    let settled = counted.settle(fell).ok_or("userspace would not end this trial")?;
    pair.store(&settled)?;
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v1", Booted::ordinary(SlotId::A))
}

pub(super) fn empty_kernel(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    pair.disk.put_slot_file_and_hash(SlotId::B, KERNEL, b"")?;
    let activated = pair.activate()?;
    let mut machine = pair.power_on(run)?;
    machine.wait_for("ks: slot B cannot be used")?;
    expect_up(&mut machine, "v1", Booted { fallback: Some(Fallback::Load), ..Booted::ordinary(SlotId::A) })?;
    machine.power_cut()?;
    expect("the environment afterwards", &pair.state()?, &BootState { counter: 2, ..activated })
}

/// Nothing is good: what holds boots, the active slot first, and nothing is stored.
pub(super) fn both_void(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let void = BootState { a: SlotState::Void, b: SlotState::Void, ..BootState::committed(SlotId::A) };
    pair.store(&void)?;
    let fell = |slot| Booted { fallback: Some(Fallback::Load), ..Booted::ordinary(slot) };
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v1", fell(SlotId::A))?;
    machine.power_cut()?;
    let mut initramfs = pair.disk.slot_file(SlotId::A, INITRAMFS)?;
    initramfs[1000] ^= 1;
    pair.disk.put_slot_file(SlotId::A, INITRAMFS, &initramfs)?;
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v2", fell(SlotId::B))?;
    machine.power_cut()?;
    expect("the environment afterwards", &pair.state()?, &void)
}

/// A second disk with all labels in front of the device's own: GRUB boots its own disk and says which partition that was. A
/// GRUB without the module `probe` boots as well, and says nothing.
pub(super) fn second_disk(run: &Run) -> Result<()> {
    let mut pair = Pair::build(run, Then::Idle)?;
    let other = Run { dir: run.file("other"), ..*run };
    fs::create_dir_all(&other.dir)?;
    let foreign = run.write("v9.gz", &initramfs::make("v9", Then::Idle)?)?;
    let foreign = Plan::new(Content::new(&kernel()?, &foreign)).build(&other.file("disk.img"))?;
    pair.device.front_disk = Some(foreign.path);
    let boots = |pair: &Pair, part: Option<&str>| -> Result<()> {
        let mut machine = pair.power_on(run)?;
        let line = machine.wait_for("test: release=")?;
        machine.power_cut()?;
        let said = line.split_whitespace().find_map(|word| word.strip_prefix("ks.part="));
        expect("release v1", &line.contains("release=v1"), &true)?;
        expect("ks.part", &said, &part)
    };
    boots(&pair, Some(&pair.disk.part_id(SlotId::A)?))?;

    let script = fs::read_to_string(root().join("publisher/factory/make-loader.sh"))?;
    let script = run.write("make-loader", script.replacen(" probe", "", 1).as_bytes())?;
    let lame = run.file("loader");
    crate::run(Command::new("sh").arg(&script).arg(&lame))?;
    let plan = Plan { loader: Some(lame), ..Pair::plan(run, Then::Idle)? };
    pair.disk = plan.build(&pair.disk.path)?;
    boots(&pair, None)
}

/// All that GRUB writes while it counts a try, cut at each point.
pub(super) fn cut_in_save(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let activated = pair.activate()?;
    let before = fs::read(&pair.disk.path)?;
    let mut device = pair.device.clone();
    device.writes = Some(run.write("writes.log", &[])?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.power_cut()?;
    let log = Log::read(&run.file("writes.log"))?;
    let (mut replay, judge) = (Replay::new(&log, before), Judge::new(pair.disk.clone(), vec![]));
    let (mut old, mut new) = (None, None);
    for cut in Replay::cuts(&log, 1, 16) {
        replay.at(cut, |disk| -> Result<()> {
            let bytes = judge.esp_file(disk, "GRUBENV").ok_or("the environment is gone")?;
            let block = Block::parse(&bytes).map_err(|e| format!("cut {cut}: {e}"))?;
            match block.view() {
                View::Ours(state) if state == activated => old = Some((cut, disk.to_vec())),
                View::Ours(state) if state == (BootState { counter: 2, ..activated }) => {
                    new = Some((cut, disk.to_vec()));
                }
                other => return Err(format!("cut {cut}: {other:?}").into()),
            }
            let second = judge.esp_file(disk, "KSENV2").and_then(|bytes| Block::parse(&bytes).ok()?.as_second());
            expect("the second file", &second, &Some(FallbackBlock::of(&activated)))
        })??;
    }
    for (left, counter) in [(old, 2), (new, 1)] {
        let (cut, disk) = left.ok_or("no cut came before the store, or none after it")?;
        prove::next::save(&disk, &pair.disk.path)?;
        let mut machine = pair.power_on(run)?;
        machine.wait_for(&format!("ks: boot slot=B try counter={counter}")).map_err(|e| format!("cut {cut}: {e}"))?;
        expect_up(&mut machine, "v2", Booted { trial: TRIAL, ..Booted::ordinary(SlotId::B) })?;
        machine.power_cut()?;
    }
    Ok(())
}

pub(super) fn power_cuts(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let activated = pair.activate()?;
    let mut machine = pair.power_on(run)?;
    machine.wait_for("ks: hashing slot=B")?;
    machine.power_cut()?;
    expect("the environment in the first try", &pair.state()?, &BootState { counter: 2, ..activated })?;
    for counter in [1, 0] {
        let mut machine = pair.power_on(run)?;
        expect_up(&mut machine, "v2", Booted { trial: TRIAL, ..Booted::ordinary(SlotId::B) })?;
        machine.power_cut()?;
        expect("the environment in the trial", &pair.state()?, &BootState { counter, ..activated })?;
    }
    let back = BootState { counter: 0, ..activated }.back_to_good();
    for _ in 0..2 {
        let mut machine = pair.power_on(run)?;
        expect_up(&mut machine, "v1", Booted::ordinary(SlotId::A))?;
        machine.power_cut()?;
        expect("the environment afterwards", &pair.state()?, &back)?;
    }
    Ok(())
}

pub(super) fn foreign_env(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let theirs = [("boot_success", "0".to_owned()), ("boot_counter", "0".to_owned())];
    pair.disk.set_env(&pair.disk.env()?.with(&theirs).map_err(|e| e.to_string())?)?;
    let mut machine = pair.power_on(run)?;
    expect_up(&mut machine, "v2", Booted::ordinary(SlotId::B))?;
    machine.power_cut()?;
    let foreign = Foreign { active: SlotId::B, success: false, counter: 2, fail: [false; 2], has_seal: true };
    expect("the environment afterwards", &pair.disk.env()?.view(), &View::Foreign(foreign))
}

pub(super) fn variable_twice(run: &Run) -> Result<()> {
    let pair = Pair::build(run, Then::Idle)?;
    let activated = pair.activate()?;
    // GRUB reads the last boot_counter and writes the first one: its store would never count anything down.
    let text = String::from_utf8_lossy(Block::main(&activated).bytes()).into_owned();
    let line = format!("boot_counter={}\n", activated.counter);
    let (begin, end) = text.split_once(&line).ok_or("no boot_counter")?;
    let twice = format!("{begin}{line}{line}{}", &end[..end.len() - line.len()]);
    pair.disk.overwrite("grubenv", twice.as_bytes())?;
    let mut machine = pair.power_on(run)?;
    machine.wait_for("ks: the boot environment cannot be saved")?;
    expect_up(&mut machine, "v1", Booted { fallback: Some(Fallback::Save), ..Booted::ordinary(SlotId::A) })
}
