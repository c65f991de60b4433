//! From the first power-on to an update, with nothing but a seed.

use std::fs;
use std::process::Command;

use bootenv::Slot;
use bootenv::protocol::{SlotState, State};

use super::device::{Bench, Flaw, HEALTHY, succeeded};
use super::{expect, state};
use crate::machine::Machine;
use crate::runner::Run;
use crate::{Result, tool};

/// The settings come from a volume with the label CIDATA. Outside the window an unattended run waits, and a person on the
/// console stages with `--force`; inside, the unattended run activates and reboots. The settings outlive all of it.
pub(super) fn seed(run: &Run) -> Result<()> {
    let (bench, settings) = Bench::unconfigured(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let block: String = settings.lines().map(|line| format!("  {line}\n")).collect();
    let user_data = format!(
        "#cloud-config\nhostname: edge-7\nupdates:\n{block}  maintenance_window: 02:00-04:00\n  auto: activate\n"
    );
    run.write("user-data", user_data.as_bytes())?;
    run.write("meta-data", b"instance-id: edge-7\n")?;
    let volume = run.file("seed.img");
    crate::run(Command::new(tool("mformat")?).args(["-C", "-f", "1440", "-v", "CIDATA", "-i"]).arg(&volume).arg("::"))?;
    let files = [run.file("user-data"), run.file("meta-data")];
    crate::run(Command::new(tool("mcopy")?).arg("-i").arg(&volume).args(files).arg("::"))?;

    let mut device = bench.device(&[
        (
            "1.0.0",
            "kubesolo-update run; echo \"test: run outside: $?\"; kubesolo-update apply; echo \"test: apply outside: $?\"; \
             kubesolo-update apply --force; echo \"test: apply --force: $?\"; \
             date -u -s \"$(date -u +%Y-%m-%d) 03:00:00\"; kubesolo-update run",
        ),
        ("2.0.0", "echo \"test: settings: $(grep -c registry= /etc/kubesolo/update.conf)\""),
    ])?;
    device.more_disks.push(volume);
    // Tomorrow, since no clock is believed that is behind the release.
    let noon = crate::run(Command::new("date").args(["-u", "-d", "tomorrow 12:00", "+%FT%T"]))?;
    device.more.extend(["-rtc".to_owned(), format!("base={}", String::from_utf8_lossy(&noon).trim())]);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("/var/lib/kubesolo/cloud-init/update.conf is written from /dev/vdc, instance edge-7")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: run outside: 75")?;
    machine.wait_for("test: apply outside: 75")?;
    machine.wait_for("test: apply --force: 0")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: settings: 1")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let said = fs::read(run.file("serial.log"))?;
    expect("times that user-data was applied", &String::from_utf8_lossy(&said).matches("is written from").count(), &1)?;
    let committed = State { a: SlotState::Good, counter: 2, ..State::committed(Slot::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)
}
