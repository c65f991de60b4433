//! The main job, shown on the terminal: a device updates itself, and a release that migrates the data and fails does not stay.
//! The device is back on the data of before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bootenv::SlotId;
use bootenv::protocol::SlotState;

use super::data::{CREATE, DATA_MIB, device};
use super::device::{Bench, Flaw};
use super::{expect, state};
use crate::machine::{Firmware, Machine, plain};
use crate::runner::Run;
use crate::{Architecture, Result};

/// The commands of the device before the update. On a real one a timer runs `kubesolo-update run`.
const BEFORE: &[&str] =
    &["kubesolo-update check", "kubesolo-update apply", "kubesolo-update status", "kubesolo-update activate --reboot"];
/// Waits for the bad release.
const WAIT: &str =
    "until kubesolo-update check >/run/check 2>/dev/null && grep -q 'offered: *2.0.0' /run/check; do sleep 1; done";
/// The commands for the bad release. The version that they are for starts twice: after its trial, and after the revert.
const AFTER: &[&str] = &["kubesolo-update apply --activate --reboot", "kubesolo-update history --last"];
/// How a person looks at the database. Read-only, or its log would be merged into it.
const DATABASE: &[&str] = &[
    "cd /var/lib/kubesolo/kine; wc -c state.db state.db-wal",
    "sqlite3 -readonly state.db \"SELECT name, count(*) FROM kine GROUP BY name\"",
];

/// A script that shows each command before its output, as if a person typed it.
fn typed(commands: &[&str]) -> String {
    let lines: Vec<_> = commands.iter().map(|command| format!("echo; echo '# {command}'; {command}")).collect();
    lines.join("; ")
}

/// Shows the demo.
///
/// # Errors
/// A step that does not happen.
pub fn show(run: &Run) -> Result<()> {
    say("A registry on loopback, a signing key, and release 1.0.0: a Debian kernel, and an initramfs with the agent.");
    // Debian's sqlite3 is that of this machine.
    let database = run.firmware.architecture() == Architecture::Amd64;
    let bench = bench(run, database)?;
    let loader = if run.firmware == Firmware::UBoot { "U-Boot" } else { "GRUB" };
    say(&format!(
        "A disk for the device, as a factory makes it: {loader}, 1.0.0 in slot A, slot B empty.\n\
         Release 1.1.0 is published to the registry, signed with the key whose public half the device carries. It has\n\
         patches for the devices that run 1.0.0."
    ));
    let image = fs::metadata(bench.publish_patches("1.1.0")?)?.len() + fs::metadata(bench.kernel())?.len();

    say(&format!(
        "Power on. {loader} reads its environment, checks both files of slot A, and boots it. On its console, `check` asks\n\
         the registry, and `apply` verifies signature and digests, writes 1.1.0 into slot B, and reads it back: it copies\n\
         what did not change from slot A, and makes the rest with the patches. `activate` makes B the next to boot.",
    ));
    let screen = Screen::follow(&run.file("serial.log"));
    let look = if database { format!("{}; cd /; ", typed(DATABASE)) } else { String::new() };
    // 2.0.0 is to fail after its migration.
    let create = if database { format!("{CREATE} && echo fail >/var/lib/kubesolo/end; ") } else { String::new() };
    let before = format!("{create}{}", typed(BEFORE));
    let after = format!("{}; {look}{WAIT}; {}; echo demo: the end", typed(&["kubesolo-update status"]), typed(AFTER));
    let mut machine = bench.power_on(&[("1.0.0", &before), ("1.1.0", &after)])?;
    machine.wait_for("boots next, on trial")?;
    updates(&bench, &mut machine, loader, image)?;
    fails(&bench, &mut machine, database)?;
    machine.power_cut()?;
    screen.end();

    let environment = state(&bench.disk)?;
    expect("the active slot", &environment.active, &SlotId::B)?;
    expect("the last good slot", &environment.good, &SlotId::B)?;
    expect("slot A", &environment.a, &SlotState::Fail)?;
    let data = if database { " on its own data" } else { "" };
    say(&format!(
        "Done: the device runs 1.1.0{data}, and 2.0.0 is recorded as failed. The log of its serial line:\n{}",
        run.file("serial.log").display()
    ));
    Ok(())
}

/// A device with KubeSolo's stand-in and its database, or without.
fn bench(run: &Run, database: bool) -> Result<Bench<'_>> {
    if !database {
        return Bench::build(run);
    }
    Bench::with(run, device(DATA_MIB)?)
}

/// The update that stays.
fn updates(bench: &Bench, machine: &mut Machine, loader: &str, image: u64) -> Result<()> {
    pause();
    let carried = bench.line.carried()?;
    say(&format!(
        "The update took {carried} bytes over the network: {:.2} % of the {image} bytes of kernel and initramfs. All\n\
         documents, and the check before it, are among them.\n\
         The device reboots into slot B, on trial: {loader} counts the try down before it loads anything.\n\
         If this boot hangs, panics or is unhealthy, the device returns to 1.0.0 without help.",
        carried as f64 * 100.0 / image as f64
    ));
    expect("an update for a tenth of its bytes", &(carried < image / 10), &true)?;
    machine.wait_for("ks: boot slot=B try")?;
    machine.wait_for("slot B is committed").map(drop)
}

/// The update that does not stay.
fn fails(bench: &Bench, machine: &mut Machine, database: bool) -> Result<()> {
    pause();
    if database {
        say(
            "Healthy: the health run has committed 1.1.0. A stand-in for KubeSolo has 100 rows in a SQLite database, half of\n\
             them only in its write-ahead log. Now release 2.0.0 is published. It is signed and complete, but it migrates the\n\
             database, and fails then.",
        );
        bench.publish("2.0.0", Flaw::None)?;
        machine.wait_for("1.0.0|100")?;
    } else {
        say(
            "Healthy: the health run has committed 1.1.0. Now release 2.0.0 is published. It is signed and complete, but its\n\
             application does not work.",
        );
        bench.publish("2.0.0", Flaw::Unhealthy)?;
    }
    machine.wait_for("ks: boot slot=A try")?;
    if database {
        machine.wait_for("data: checkpoint of kine")?;
        machine.wait_for("kubesolo 2.0.0: migrated: 2, rows: 1.0.0|20 2.0.0|81")?;
    }
    machine.wait_for("is reverted after failed run")?;
    machine.wait_for("ks: boot slot=B committed")?;
    pause();
    let data = if database { ", on the data that it left" } else { "" };
    say(&format!(
        "The health run of 2.0.0 found the device unhealthy and reverted: 1.1.0 is back, without help{data}.\n\
         The registry still offers 2.0.0. The agent has recorded its failure, and `apply` does not take it.\n\
         `history --last` shows why, with what the release left in its trial."
    ));
    if database {
        machine.wait_for("data: kine back to what 1.1.0 left at")?;
        machine.wait_for("1.0.0|100")?;
    }
    machine.wait_for("failed on this device")?;
    machine.wait_for("demo: the end")?;
    pause();
    Ok(())
}

fn say(text: &str) {
    println!("\n== {}", text.replace('\n', "\n   "));
}

/// Lets the screen catch up with the device.
fn pause() {
    thread::sleep(Duration::from_millis(600));
}

/// Shows the serial line of the device, without the lines of its kernel and firmware.
struct Screen {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Screen {
    fn follow(log: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (log, stop): (PathBuf, _) = (log.to_owned(), over.clone());
        let thread = thread::spawn(move || {
            let mut shown = 0;
            while !stop.load(Ordering::Relaxed) {
                let bytes = fs::read(&log).unwrap_or_default();
                let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                for line in plain(&String::from_utf8_lossy(&bytes[shown.min(whole)..whole])).lines() {
                    if is_story(line) {
                        println!("   device | {line}");
                    }
                }
                shown = shown.max(whole);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self { over, thread }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

/// Lines of U-Boot itself, and of each command of the script.
const UBOOT: &[&str] = &[
    "U-Boot 2",
    "DRAM:",
    "Core:",
    "Flash:",
    "Loading ",
    "In:",
    "Out:",
    "Err:",
    "Net:",
    "Hit any key",
    "fatal: no kernel",
    "Command ",
    "starting USB",
    "No working",
    "USB is",
    "scanning bus",
    "Scanning ",
    "Found U-Boot",
    "Device 0:",
    "Type:",
    "Capacity:",
    "... is now",
    "## ",
    "virtio ",
    "ks_",
    "crc32 for",
    "Total of",
    "Booting using",
    "Working FDT",
    "Starting kernel",
];

fn is_story(line: &str) -> bool {
    let line = line.trim();
    let noise = [
        "[",
        "BdsDxe",
        "===",
        "guest:",
        "vmlinuz",
        "kubesolo-os.gz",
        "Welcome to GRUB",
        "error: no suitable video",
        "Booting in blind",
    ];
    !line.is_empty()
        && !line.contains(" bytes read in ")
        && !noise.iter().chain(UBOOT).any(|start| line.starts_with(start))
}
