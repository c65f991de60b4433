//! A U-Boot that counts boots itself (`CONFIG_BOOTCOUNT_ENV`), with the protocol's variables in its own environment: two
//! files of its FAT partition.
//!
//! Kernels are stubs that print their arguments. This program does to the environment what the agent does on a board, by
//! the same code.

use std::fs;
use std::path::PathBuf;

use bootenv::protocol::{BootState, Booted, View};
use bootenv::uboot::config::Place;
use bootenv::uboot::store::Store;
use bootenv::uboot::{Environment, Format, bootcount};
use bootenv::{SlotId, TrialId};

use super::expect;
use crate::image::Disk;
use crate::machine::{Device, Machine};
use crate::runner::Run;
use crate::{Result, built, root, stub};

/// Where this U-Boot keeps its environment.
const FILES: [&str; 2] = ["uboot.env", "uboot-2.env"];
const SIZE: usize = 0x4000;
/// This board's own values in `bootcount.env`: its disk, and the load addresses.
const DISK: (&str, &str) = ("load mmc 0:1", "load virtio 0:1");
const BOARD: [(&str, &str); 5] = [
    ("bootdelay", "-2"),
    ("scriptaddr", "0x40200000"),
    ("fdt_addr", "0x40000000"),
    ("kernel_addr_r", "0x40400000"),
    ("ramdisk_addr_r", "0x44000000"),
];

struct Board<'a> {
    run: &'a Run,
    disk: Disk,
    u_boot: PathBuf,
}

impl<'a> Board<'a> {
    fn build(run: &'a Run) -> Result<Self> {
        let disk = stub::arm64_plan(run)?.build(&run.file("disk.img"))?;
        // Nothing of it may be read or written.
        [0, 1].into_iter().try_for_each(|copy| disk.put_copy(copy, &[0xa5; 512]))?;

        let text = fs::read_to_string(root().join("bootenv/loader/bootcount.env"))?.replace(DISK.0, DISK.1);
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let pairs: Vec<(&str, String)> = lines.chain(BOARD).map(|(name, value)| (name, value.to_owned())).collect();
        let environment = Environment::default().with(&pairs);
        let u_boot = built("target/u-boot-counting/u-boot.bin", "build/scripts/build-uboot.sh counting")?;
        let first = environment.encode(SIZE, Format::Redundant, 1).map_err(|e| e.to_string())?;
        let second = environment.encode(SIZE, Format::Redundant, 0).map_err(|e| e.to_string())?;
        for (file, bytes) in FILES.iter().zip([first, second]) {
            disk.put_esp_file(file, &bytes)?;
        }
        Ok(Self { run, disk, u_boot })
    }

    /// The environment, in copies of the files.
    fn store(&self) -> Result<Store> {
        let place = |file: &&str| -> Result<Place> {
            Ok(Place { device: self.run.write(file, &self.disk.esp_file(file)?)?, offset: 0, size: SIZE })
        };
        let places = FILES.iter().map(place).collect::<Result<Vec<_>>>()?;
        Ok(Store::new(places).with_system(&[], &self.run.dir))
    }

    fn environment(&self) -> Result<Environment> {
        Ok(self.store()?.load().map_err(|e| e.to_string())?.environment)
    }

    fn state(&self) -> Result<BootState> {
        match self.environment()?.view() {
            View::Ours(state) => Ok(state),
            other => Err(format!("the environment is not ours: {other:?}").into()),
        }
    }

    /// The agent's way from one state to the next.
    fn set(&self, next: &BootState) -> Result<()> {
        let store = self.store()?;
        let current = store.load().map_err(|e| e.to_string())?;
        let variables = [next.variables(), bootcount::variables(&current.environment, next)].concat();
        store.store(&current, &current.environment.with(&variables)).map_err(|e| e.to_string())?;
        FILES.iter().try_for_each(|file| self.disk.put_esp_file(file, &fs::read(self.run.file(file))?))
    }

    /// One power-on: the slot whose kernel is started must get these arguments.
    fn boots(&self, slot: SlotId, trial: TrialId) -> Result<()> {
        let before = self.disk.copies()?;
        let mut device = Device::new(self.run.firmware, &self.disk.path);
        device.end_on_reset = true;
        // The last `-bios` counts.
        device.more = vec!["-bios".to_owned(), self.u_boot.display().to_string()];
        let mut machine = Machine::power_on(&device, &self.run.dir)?;
        let started = machine.wait_for("ks-stub: kernel")?;
        machine.wait_for_end()?;
        let told = format!("kernel {slot}:");
        let line = format!("kubesolo.slot={slot} ks.trial={trial} ks.proto=1");
        if !started.contains(&told) || !started.contains(&line) || started.contains("ks.fallback") {
            return Err(format!("started {started:?}, and not slot {slot} with trial {trial}").into());
        }
        expect("the partition for other boards", &(self.disk.copies()? == before), &true)
    }
}

pub(super) fn counting(run: &Run) -> Result<()> {
    let board = Board::build(run)?;
    let factory = board.environment()?;
    board.boots(SlotId::A, TrialId::NONE)?;
    expect("an ordinary boot stores nothing", &(board.environment()? == factory), &true)?;

    // Three tries, then U-Boot runs altbootcmd.
    let [first, second] = [TrialId(0x0bad_0001), TrialId(0x600d_0002)];
    let invalid = |state: BootState| state.invalidate(SlotId::A).map_err(|e| e.to_string());
    let activate = |id| -> Result<BootState> {
        let booted = Booted::ordinary(SlotId::A);
        let activated = invalid(board.state()?)?.activate(booted, id).map_err(|e| e.to_string())?;
        board.set(&activated)?;
        Ok(activated)
    };
    let activated = activate(first)?;
    for left in [2, 1, 0] {
        board.boots(SlotId::B, first)?;
        expect("tries left", &board.state()?, &BootState { counter: left, ..activated })?;
    }
    board.boots(SlotId::A, TrialId::NONE)?;
    let back = board.state()?;
    expect("after the last try", &back, &BootState { counter: back.counter, ..activated.back_to_good() })?;
    let stored = board.environment()?;
    board.boots(SlotId::A, TrialId::NONE)?;
    expect("and that is the end of it", &(board.environment()? == stored), &true)?;

    // Once more, and the second try commits.
    let activated = activate(second)?;
    for left in [2, 1] {
        board.boots(SlotId::B, second)?;
        expect("tries left", &board.state()?, &BootState { counter: left, ..activated })?;
    }
    let trial = Booted { slot: SlotId::B, trial: second, fallback: None };
    board.set(&board.state()?.commit(trial).map_err(|e| e.to_string())?)?;
    let committed = board.environment()?;
    for _ in 0..4 {
        board.boots(SlotId::B, TrialId::NONE)?;
    }
    expect("the last good slot", &board.state()?.good, &SlotId::B)?;
    expect("ordinary boots store nothing", &(board.environment()? == committed), &true)
}
