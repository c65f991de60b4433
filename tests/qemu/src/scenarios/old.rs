//! Devices that come from KubeSolo OS: its loader file, its environment, and the way over.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bootenv::SlotId;
use bootenv::grub::{Block, SECTOR};
use bootenv::loader::{self, FileId, Stage};
use bootenv::protocol::{BootState, FallbackBlock, SlotState, View};

use super::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED, commits, succeeded};
use super::{expect, state};
use crate::image::{Content, Disk, INITRAMFS, KERNEL, Plan, hash_line};
use crate::initramfs::{self, Then};
use crate::machine::{Device, Machine};
use crate::prove::judge::Judge;
use crate::prove::log::Log;
use crate::prove::replay::Replay;
use crate::runner::Run;
use crate::{Result, kernel, root};

/// The argument that this loader file passes to the kernel, and no other.
const OWN_ARGUMENT: &str = "kubesolo.device=field-7";

fn old_loader() -> PathBuf {
    root().join("bootenv/tests/kubesolo-os.cfg")
}

/// An environment as KubeSolo OS's agent writes it.
fn theirs(active: SlotId, success: u8, counter: u8) -> Result<Block> {
    let variables = [
        ("active_slot", active.to_string()),
        ("boot_success", success.to_string()),
        ("boot_counter", counter.to_string()),
    ];
    Block::create(&variables).map_err(|e| e.to_string().into())
}

/// A disk without anything that KubeSolo OS does not write.
fn make_old(disk: &Disk) -> Result<()> {
    disk.set_env(&theirs(SlotId::A, 1, 3)?)?;
    disk.remove_esp_file("grub/ksenv2")?;
    for name in [KERNEL, INITRAMFS] {
        disk.remove_slot_file(SlotId::A, &format!("{name}.sha256"))?;
    }
    Ok(())
}

fn old_device(run: &Run) -> Result<Bench<'_>> {
    let bench = Bench::build_as(run, Some(old_loader()))?;
    make_old(&bench.disk)?;
    bench.disk.remove_slot_file(SlotId::A, "manifest.json")?;
    Ok(bench)
}

/// Two boots by the old loader file, then the way over, then an update.
pub(super) fn adopt(run: &Run) -> Result<()> {
    let bench = old_device(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let script = "if grep -q ks.proto=1 /proc/cmdline; then kubesolo-update apply --activate --reboot; else \
        kubesolo-update apply; echo \"refused: $?\"; \
        mkdir /run/esp; mount -t vfat /dev/vda1 /run/esp; kubesolo-update adopt; echo \"mounted: $?\"; umount /run/esp; \
        kubesolo-update adopt --reboot; fi";
    let mut machine = bench.power_on(&[("1.0.0", script), ("2.0.0", "cat /proc/cmdline; kubesolo-update status")])?;
    machine.wait_for("old loader: slot A counter 2")?;
    machine.wait_for("confirmed this boot for the old loader file")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("refused: 78")?;
    machine.wait_for("is mounted elsewhere or in use")?;
    machine.wait_for("mounted: 73")?;
    machine.wait_for("the new loader file is in place")?;
    machine.wait_for("ks: boot slot=A committed")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(OWN_ARGUMENT)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)?;
    let script = fs::read(old_loader())?;
    let now = bench.disk.esp_file("grub/grub.cfg")?;
    expect("the rest of grub.cfg", &&now[SECTOR..], &&script[SECTOR..])
}

/// Every cut of an adoption, from power-on to its end.
pub(super) fn cut_points(run: &Run) -> Result<()> {
    let bench = old_device(run)?;
    let before = fs::read(&bench.disk.path)?;
    let mut device = bench.device(&[("1.0.0", "kubesolo-update adopt; sync; echo over")])?;
    device.writes = Some(run.write("writes.log", &[])?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("the new loader file is in place")?;
    machine.wait_for(SCRIPT_ENDED)?;
    machine.power_cut()?;

    let log = Log::read(&run.file("writes.log"))?;
    let old = Old {
        judge: Judge::new(bench.disk.clone(), vec![]),
        loader: fs::read(old_loader())?,
        images: [KERNEL, INITRAMFS].map(|name| bench.disk.slot_file(SlotId::A, name).unwrap_or_default()),
    };
    let (place, size) = old.judge.place(SlotId::A);
    let (mut seen, mut slots) = (HashMap::<&str, usize>::new(), HashMap::new());
    let mut replay = Replay::new(&log, before);
    let cuts = Replay::cuts(&log, 1, 8);
    for cut in &cuts {
        let version = Replay::version(&log, *cut, place, place + size);
        let how = replay.at(*cut, |disk| {
            let known = version.and_then(|version| slots.get(&version).copied());
            let slot = known.unwrap_or_else(|| old.slot(disk));
            version.map(|version| slots.insert(version, slot));
            old.look(disk, slot).map_err(|why| format!("cut {cut}: {why}"))
        })??;
        *seen.entry(how).or_default() += 1;
    }
    println!("      {} cuts of an adoption: {seen:?}", cuts.len());
    if seen.len() < 3 {
        return Err("the cuts do not show both loader files, and the old one by both ways".into());
    }
    Ok(())
}

/// The content of a device's slot.
#[derive(Clone, Copy, PartialEq)]
enum Files {
    /// Both images are as they were.
    Images,
    /// And their hash files fit.
    Hold,
    /// An image is not what it was.
    Broken,
}

struct Old {
    judge: Judge,
    loader: Vec<u8>,
    images: [Vec<u8>; 2],
}

impl Old {
    fn slot(&self, disk: &[u8]) -> Files {
        let file = |name: &str| self.judge.slot_file(disk, SlotId::A, name);
        let names = [KERNEL, INITRAMFS];
        if names.iter().zip(&self.images).any(|(name, image)| file(name).as_ref() != Some(image)) {
            return Files::Broken;
        }
        let fits = |(name, image): (&&str, &Vec<u8>)| {
            file(&format!("{name}.sha256")).as_deref() == Some(hash_line(name, image).as_bytes())
        };
        if names.iter().zip(&self.images).all(fits) { Files::Hold } else { Files::Images }
    }

    /// Which loader file runs, if it boots slot A as it should.
    fn look(&self, disk: &[u8], slot: Files) -> std::result::Result<&'static str, String> {
        let file = |name: &str| self.judge.esp_file(disk, name);
        let is = |name: &str, wanted: &[u8]| match file(name) {
            Some(bytes) if bytes == wanted => Ok(()),
            other => Err(format!("{name}: {:?} bytes", other.map(|bytes| bytes.len()))),
        };
        let main = file("GRUBENV").and_then(|bytes| Block::parse(&bytes).ok()).ok_or("the environment is no block")?;
        let grub_cfg = file("GRUB    CFG").ok_or("there is no grub.cfg")?;
        let active = match main.view() {
            View::Ours(state) => state.active,
            View::Foreign(foreign) => foreign.active,
            View::Invalid => return Err("the environment is not valid".into()),
        };
        if active != SlotId::A || slot == Files::Broken {
            return Err("slot A would not boot as it was".into());
        }
        if grub_cfg == self.loader {
            return Ok("the old loader file");
        }
        is("GRUB    CFG", &[&loader::stage1()[..], &self.loader[SECTOR..]].concat())?;
        is("KSL1    CFG", &self.loader)?;
        is("KSL1    SUM", hash_line(FileId::First.script(), &self.loader).as_bytes())?;
        let stage = file("KSSTAGE").and_then(|bytes| Stage::read(&Block::parse(&bytes).ok()?));
        if stage == Some(Stage::settled(FileId::First)) {
            return Ok("the old loader file, by the first sector");
        }
        expect("ksstage", &stage, &Some(TRIED)).map_err(|e| e.to_string())?;
        is("KSL2    CFG", loader::TEXT.as_bytes())?;
        is("KSL2    SUM", hash_line(FileId::Second.script(), loader::TEXT.as_bytes()).as_bytes())?;
        let arguments = loader::arguments(&format!("console=ttyS0,115200n8 quiet {OWN_ARGUMENT}"))?;
        is("KERNEL~1CFG", arguments.as_bytes())?;
        let committed = BootState::committed(SlotId::A);
        let second = file("KSENV2").and_then(|bytes| Block::parse(&bytes).ok()?.as_second());
        if main.view() != View::Ours(committed) || second != Some(FallbackBlock::of(&committed)) || slot != Files::Hold
        {
            return Err("the new loader file would not find what it needs".into());
        }
        Ok("the new loader file")
    }
}

/// KubeSolo OS's agent has activated slot A under our loader file, which counts its tries; our agent takes over.
pub(super) fn env(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    bench.disk.set_env(&theirs(SlotId::A, 0, 3)?)?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("ks: boot slot=A foreign, try counter=2")?;
    machine.wait_for("took over the boot environment, slot A committed")?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()?;
    expect("the environment afterwards", &state(&bench.disk)?, &BootState::committed(SlotId::A))?;
    bench.stays_in("1.0.0", SlotId::A)
}

/// The loader file of 0.1, which stays on its device: a release of today is committed, and a bad one comes back.
pub(super) fn loader_0_1(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let script = fs::read(root().join("tests/fixtures/0.1/loader/grub.cfg"))?;
    bench.disk.put_esp_file("grub/grub.cfg", &script)?;
    commits(&bench)?;

    bench.publish("3.0.0", Flaw::Panics)?;
    let script = "kubesolo-update apply --activate --reboot; echo \"refused: $?\"";
    let mut machine = bench.power_on(&[("2.0.0", script)])?;
    machine.wait_for("ks: boot slot=B committed")?;
    for counter in [2, 1, 0] {
        machine.wait_for(&format!("ks: boot slot=A try counter={counter}"))?;
    }
    machine.wait_for("ks: no tries left for slot A: back to slot B")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("refused: 75")?;
    machine.power_cut()?;
    expect("slot A", &state(&bench.disk)?.a, &SlotState::Fail)?;
    expect(
        "the loader file",
        &bench.disk.esp_file("grub/grub.cfg")?,
        &fs::read(root().join("tests/fixtures/0.1/loader/grub.cfg"))?,
    )
}

/// The bootloader alone, on a device that version 0.1 adopted, with a stick in front that has a slot A of its own. The first
/// sector of 0.1 searches without a hint, and hides slot A; the one of today does not search.
pub(super) fn switch(run: &Run) -> Result<()> {
    let initramfs = |name: &str| -> Result<PathBuf> { run.write(name, &initramfs::make(name, Then::Idle)?) };
    let content = |name: &str| -> Result<Content> { Ok(Content::new(&kernel()?, &initramfs(name)?)) };
    let mut plan = Plan { b: Some(content("v2")?), ..Plan::new(content("v1")?) };
    plan.grub_cfg = Some(old_loader());
    plan.kernel_args = Some("console=ttyS0,115200n8 quiet".to_owned());
    let disk = plan.build(&run.file("disk.img"))?;
    let stick = Plan::new(content("v9")?).build(&run.file("stick.img"))?;
    let boots = |disk: &Disk, stick: Option<&Disk>, lines: &[&str]| -> Result<()> {
        let front_disk = stick.map(|stick| stick.path.clone());
        let mut machine = Machine::power_on(&Device { front_disk, ..Device::new(run.firmware, &disk.path) }, &run.dir)?;
        lines.iter().try_for_each(|line| machine.wait_for(line).map(drop))?;
        machine.power_cut()
    };
    let of_0_1 = fs::read(root().join("tests/fixtures/0.1/loader/grub.cfg"))?;
    put_switch_of_0_1(&disk, &of_0_1)?;
    boots(&disk, None, &["ks: boot slot=A committed", "test: release=v1"])?;
    boots(&disk, Some(&stick), &["ks: boot slot=B fallback=load", "test: release=v2"])?;

    put_stage1(&disk, &of_0_1, Stage::settled(FileId::First))?;
    boots(&disk, Some(&stick), &["ks: boot slot=A committed", "test: release=v1"])?;
    put_stage1(&disk, &of_0_1, TRIED)?;
    boots(&disk, Some(&stick), &["ks: boot slot=A committed", "test: release=v1"])?;
    let stage = Block::parse(&disk.esp_file("grub/ksstage")?).map_err(|e| e.to_string())?;
    expect("ksstage", &Stage::read(&stage), &Some(Stage::settled(FileId::First)))?;

    // A GRUB that lacks a command of the new file.
    let script = fs::read_to_string(root().join("publisher/factory/make-loader.sh"))?;
    for without in [" hashsum gcry_sha256", " regexp"] {
        let script = run.write("make-loader", script.replacen(without, "", 1).as_bytes())?;
        let lame = run.file("loader");
        crate::run(Command::new("sh").arg(&script).arg(&lame))?;
        plan.loader = Some(lame);
        let disk = plan.build(&run.file("lame.img"))?;
        put_stage1(&disk, &fs::read(old_loader())?, TRIED)?;
        boots(&disk, None, &["ks: this GRUB lacks commands", "old loader: slot A", "test: release=v1"])?;
    }
    Ok(())
}

const TRIED: Stage = Stage { good: FileId::First, tried: Some(FileId::Second) };

fn put_switch_of_0_1(disk: &Disk, file: &[u8]) -> Result<()> {
    let old = fs::read(old_loader())?;
    let sector = fs::read(root().join("bootenv/loader/switch-0.1.cfg"))?;
    let mut entry = old.clone();
    entry[..SECTOR].fill(b'#');
    entry[..sector.len()].copy_from_slice(&sector);
    let put = |name: &str, bytes: &[u8]| disk.put_esp_file(&format!("grub/{name}"), bytes);
    put(loader::FILE, file)?;
    put(loader::SUM, hash_line(loader::FILE, file).as_bytes())?;
    put(loader::BEFORE, &old)?;
    put(loader::ENTRY, &entry)
}

/// As the agent does it: the old file first, the new one second.
fn put_stage1(disk: &Disk, old: &[u8], stage: Stage) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| disk.put_esp_file(&format!("grub/{name}"), bytes);
    for (file, script) in [(FileId::First, old), (FileId::Second, loader::TEXT.as_bytes())] {
        put(file.script(), script)?;
        put(file.sum(), hash_line(file.script(), script).as_bytes())?;
    }
    put(loader::STAGE, stage.block().bytes())?;
    put(loader::ENTRY, &loader::stage1())
}
