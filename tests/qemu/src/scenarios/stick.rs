//! A device without a network, and a stick that a person carries between it and the publisher.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::SlotId;
use bootenv::protocol::{BootState, SlotState};

use super::device::{BUILD, Bench, Flaw, HEALTHY, More, PUBLISHER, SCRIPT_ENDED};
use super::{expect, stage, state};
use crate::machine::Machine;
use crate::runner::Run;
use crate::{Result, built, tool};

const SETTINGS: &str = "channel=stable\nauto_rollback_after=1\nauto=activate\nremovable_bundles=activate\nreceipts=yes\n\
    maintenance_window=02:00-04:00\n";
/// A stick as QEMU has it, which is plugged in later.
const PORT: [&str; 2] = ["-device", "qemu-xhci,id=usb"];
/// Drivers that the image does not have otherwise.
const MODULES: [&str; 4] = ["xhci_pci", "usb_storage", "sd_mod", "nls_iso8859_1"];

/// Waits for the kernel's events as the init stage does. Once the stick was left alone outside the window, the clock of the
/// device shows the window, and the hourly run comes.
const BEFORE: &str = r#"
setsid /usr/lib/kubesolo-update/stage/stick &
until kubesolo-update --json status | grep -q '"reason": "window"'; do sleep 1; done
echo "test: staged outside: $(kubesolo-update --json status | grep -c '"phase": "staged"')"
echo "test: key $(kubesolo-update --json status | sed -n 's/.*"device_key": "\(.*\)".*/\1/p')"
date -u -s "$(date -u +%Y-%m-%d) 03:00:00"
kubesolo-update run
"#;

/// A FAT filesystem with the label, without partitions.
fn stick(run: &Run) -> Result<PathBuf> {
    let image = run.file("stick.img");
    let mut format = Command::new(tool("mformat")?);
    format.args(["-C", "-T", "262144", "-h", "64", "-s", "32", "-v", "KSOLOUPDATE", "-i"]).arg(&image).arg("::");
    crate::run(&mut format)?;
    Ok(image)
}

/// Puts a bundle of the published release on the stick, under this name.
fn carry(bench: &Bench, stick: &Path, name: &str) -> Result<()> {
    let file = bench.run.file(name);
    let mut bundle = Command::new(built(PUBLISHER, BUILD)?);
    bundle.args(["--quiet", "bundle", &format!("{}/os:stable", bench.registry.host())]).arg(&file);
    crate::run(bundle.args(["--plain-http", &bench.registry.host()]))?;
    crate::run(Command::new(tool("mcopy")?).arg("-i").arg(stick).arg(&file).arg("::"))?;
    Ok(())
}

/// The device takes a release from the stick inside its window, and leaves it alone outside. It commits, and the stick has the
/// receipt. A bad release on the same stick comes back; the receipts that were collected show both.
pub(super) fn update(run: &Run) -> Result<()> {
    let more = More { settings: SETTINGS.to_owned(), modules: MODULES.to_vec(), ..More::default() };
    let bench = Bench::without_network(run, stage::kernel("full")?.join("vmlinuz"), more)?;
    let image = stick(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    carry(&bench, &image, "two.tar")?;
    let before = state(&bench.disk)?;

    let after = "/usr/lib/kubesolo-update/stage/stick & sleep 1000";
    let mut device = bench.device(&[("1.0.0", BEFORE), ("2.0.0", after)])?;
    device.network = false;
    let noon = crate::run(Command::new("date").args(["-u", "-d", "tomorrow 12:00", "+%FT%T"]))?;
    device.more.extend(PORT.map(str::to_owned));
    device.more.extend(["-rtc".to_owned(), format!("base={}", String::from_utf8_lossy(&noon).trim())]);
    let drive = format!("if=none,id=stick,format=raw,file={}", image.display());
    device.more.extend(["-drive".to_owned(), drive]);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("waits for removable media")?;
    machine.plug_in("usb-storage", "stick")?;
    machine.wait_for("stick sda: left alone")?;
    machine.wait_for("test: staged outside: 0")?;
    expect("the environment outside the window", &state(&bench.disk)?, &before)?;
    let key = machine.wait_for("test: key ")?;
    machine.wait_for("2.0.0 from two.tar is taken")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("stick sda: the receipt of 2.0.0 (committed) is written")?;
    machine.power_cut()?;
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)?;

    bench.publish("3.0.0", Flaw::Unhealthy)?;
    carry(&bench, &image, "three.tar")?;
    let script = "kubesolo-update run";
    let mut device = bench.device(&[("2.0.0", script)])?;
    device.network = false;
    let night = crate::run(Command::new("date").args(["-u", "-d", "2 days 02:30", "+%FT%T"]))?;
    device.more.extend(PORT.map(str::to_owned));
    device.more.extend(["-rtc".to_owned(), format!("base={}", String::from_utf8_lossy(&night).trim())]);
    device.more.extend(["-drive".to_owned(), format!("if=none,id=stick,format=raw,file={}", image.display())]);
    device.more.extend(["-device".to_owned(), "usb-storage,drive=stick".to_owned()]);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("3.0.0 from three.tar is taken")?;
    machine.wait_for("ks: boot slot=A try counter=2")?;
    machine.wait_for("the application does not answer")?;
    machine.wait_for("ks: boot slot=B")?;
    machine.wait_for("stick sda: the receipt of 3.0.0 (failed) is written")?;
    machine.wait_for("3.0.0 from three.tar is not taken")?;
    machine.wait_for(&format!("{SCRIPT_ENDED}0"))?;
    machine.power_cut()?;

    let key = key.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    tells_both(&bench, &image, &key)
}

/// The receipts on the stick, by the key that the device showed before it signed any.
fn tells_both(bench: &Bench, stick: &Path, key: &str) -> Result<()> {
    let (collected, devices) = (bench.run.file("collected"), bench.run.file("devices"));
    fs::create_dir_all(&collected)?;
    fs::create_dir_all(&devices)?;
    fs::write(devices.join("edge-7.pub"), format!("{key}\n"))?;
    let mut copy = Command::new(tool("mcopy")?);
    crate::run(copy.arg("-i").arg(stick).args(["-s", "-n", "::kubesolo-receipts"]).arg(&collected))?;
    let mut table = Command::new(built(PUBLISHER, BUILD)?);
    let told = crate::run(table.args(["--quiet", "receipts", "--csv"]).arg(&collected).arg("--devices").arg(&devices))?;
    let told = String::from_utf8_lossy(&told).into_owned();
    for wanted in ["edge-7,2.0.0,committed,yes", "edge-7,3.0.0,failed,no"] {
        if !told.lines().any(|line| line.starts_with(wanted)) {
            return Err(format!("the receipts do not show {wanted}:\n{told}").into());
        }
    }
    Ok(())
}
