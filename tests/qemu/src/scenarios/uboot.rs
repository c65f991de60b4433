//! Stories of devices that boot by an unmodified U-Boot, and of both architectures beside each other.

use std::fs;

use bootenv::SlotId;
use bootenv::protocol::{BootState, View};

use super::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED, succeeded};
use super::{expect, stage, state};
use crate::image::{KERNEL, UBOOT_SIZE, uboot_view};
use crate::machine::{Firmware, Machine};
use crate::runner::Run;
use crate::{Architecture, Result};

pub(super) fn missing_kernel(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    bench.disk.remove_slot_file(SlotId::B, KERNEL)?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    machine.wait_for("ks: slot B cannot be used")?;
    bench.is_back_and_remembers(machine, activated)
}

pub(super) fn env_damaged(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    // Slot B is committed, so that slot A is not what boots without any knowledge.
    bench.publish("2.0.0", Flaw::None)?;
    let mut machine = bench
        .power_on(&[("1.0.0", "kubesolo-update apply --activate --reboot"), ("2.0.0", "kubesolo-update status")])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let committed = state(&bench.disk)?;
    expect("the last good slot", &committed.good, &SlotId::B)?;
    let whole = bench.disk.copies()?;

    for damaged in [0, 1] {
        bench.disk.put_copy(damaged, &[0xa5; 700])?;
        let mut machine = bench.power_on(&[("2.0.0", "kubesolo-update status")])?;
        machine.wait_for("ks: boot slot=B committed")?;
        machine.wait_for(HEALTHY)?;
        succeeded(&mut machine)?;
        machine.power_cut()?;
        expect("the environment afterwards", &state(&bench.disk)?, &committed)?;
        // The hook brought the damaged copy in step: the other one may be damaged next.
        bench.stays_in("2.0.0", SlotId::B)?;
    }

    for copy in [0, 1] {
        bench.disk.put_copy(copy, &[0xa5; 700])?;
    }
    let damaged = bench.disk.copies()?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    machine.wait_for("ks: no copy of the boot environment is valid")?;
    machine.wait_for("ks: boot slot=A fallback=env: it is good, and its files match")?;
    machine.wait_for("not overwritten")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("{SCRIPT_ENDED}78"))?;
    machine.power_cut()?;
    expect("both copies afterwards", &(bench.disk.copies()? == damaged), &true)?;
    // A person writes it again.
    bench.disk.put_copy(0, &whole[0])?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("ks: boot slot=B committed")?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()
}

/// The disk while U-Boot stores: the old copy, and any sectors of the new one.
pub(super) fn cut_in_save(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    let counted = BootState { counter: 2, ..activated };
    let old = bench.disk.copies()?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("virtio write:")?;
    machine.power_cut()?;
    let seen = state(&bench.disk)?;
    if seen != activated && seen != counted {
        return Err(format!("neither the old state nor the new one: {seen:?}").into());
    }
    // Once more to the end, for the bytes of the whole store.
    for (copy, bytes) in old.iter().enumerate() {
        bench.disk.put_copy(copy, bytes)?;
    }
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("ks: checking slot=B")?;
    machine.power_cut()?;
    let new = bench.disk.copies()?;
    let written = usize::from(new[0] == old[0]);
    expect("the copy that counted is as it was", &(new[1 - written] == old[1 - written]), &true)?;
    expect("the environment after the store", &state(&bench.disk)?, &counted)?;

    // Every prefix and every suffix of its sectors leaves the old state, but for the whole.
    let (before, after) = (&old[written], &new[written]);
    for at in (0..=UBOOT_SIZE).step_by(512) {
        for torn in [[&after[..at], &before[at..]].concat(), [&before[..at], &after[at..]].concat()] {
            let mut copies = old.clone();
            copies[written] = torn;
            let wanted = if copies[written] == *after { counted } else { activated };
            expect(&format!("torn at byte {at}"), &uboot_view(&copies), &View::Ours(wanted))?;
        }
    }
    // And U-Boot thinks so too. All that differs is in one sector: this is worse than what a disk leaves.
    bench.disk.put_copy(written, &[&after[..100], &before[100..]].concat())?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for(&format!("ks: boot slot=B try counter=2 trial={}", activated.trial))?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()?;
    bench.stays_in("2.0.0", SlotId::B)
}

/// Debian's kernel for clouds drives no watchdog that QEMU's `virt` board can have; its full one does. The hang is in the
/// kernel itself: nothing but the hardware ends that.
pub(super) fn watchdog(run: &Run) -> Result<()> {
    let bench = Bench::with_watchdog(run, stage::kernel("full-arm64")?.join("vmlinuz"))?;
    let activated = bench.activate(Flaw::Hangs)?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    // The arguments of a kernel that will not reboot by itself.
    machine.wait_for("end Kernel panic - not syncing")?;
    machine.wait_for("ks: boot slot=B try counter=1")?;
    machine.power_cut()?;
    expect("the environment in the trial", &state(&bench.disk)?, &BootState { counter: 1, ..activated })
}

pub(super) fn one_tag(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let beside = Run { dir: run.file("amd64"), firmware: Firmware::Uefi, jobs: 1 };
    fs::create_dir_all(&beside.dir)?;
    let other = Bench::beside(&beside, &bench)?;
    let [arm64, amd64] = [bench.initramfs("2.0.0", Flaw::None)?, other.initramfs("2.0.0", Flaw::None)?];
    bench.push("2.0.0", &[(Architecture::Arm64, &arm64), (Architecture::Amd64, &amd64)])?;
    let script =
        [("1.0.0", "kubesolo-update apply --activate --reboot"), ("2.0.0", "uname -m; kubesolo-update status")];
    let mut machines = [(&bench, "aarch64"), (&other, "x86_64")]
        .into_iter()
        .map(|(bench, machine)| Ok((bench.power_on(&script)?, machine)))
        .collect::<Result<Vec<(Machine, &str)>>>()?;
    for (device, machine) in &mut machines {
        device.wait_for("ks: boot slot=B try counter=2")?;
        device.wait_for(HEALTHY)?;
        device.wait_for(machine)?;
        succeeded(device)?;
    }
    machines.into_iter().try_for_each(|(device, _)| device.power_cut())?;
    for bench in [&bench, &other] {
        expect("the last good slot", &state(&bench.disk)?.good, &SlotId::B)?;
        bench.stays_in("2.0.0", SlotId::B)?;
    }
    Ok(())
}
