//! Years of one device: update cycles on its own disk, one after the other, beside a book of the slot and the release that must
//! run. Disk, book, key and registry stay in the folder of the run, and the next run continues there.

use std::fs;

use bootenv::SlotId;

use crate::Result;
use crate::cells::Seeded;
use crate::runner::Run;
use crate::scenarios::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED};

const BOOK: &str = "book.json";

/// The end of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cycle {
    Commit,
    CommitAfterPowerCut,
    Unhealthy,
    Panic,
}

/// The true state of the device.
#[derive(Clone, Debug)]
struct Book {
    /// Complete cycles.
    cycles: u64,
    /// The newest release: `N.0.0`.
    newest: u64,
    /// The release that runs, and its slot.
    running: u64,
    slot: SlotId,
    /// Of the line to the registry.
    port: u16,
}

impl Book {
    fn read(run: &Run) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(run.file(BOOK)) else { return Ok(None) };
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let number = |name: &str| value[name].as_u64().ok_or_else(|| format!("{BOOK}: {name} is missing"));
        Ok(Some(Self {
            cycles: number("cycles")?,
            newest: number("newest")?,
            running: number("running")?,
            slot: if value["slot"] == "B" { SlotId::B } else { SlotId::A },
            port: u16::try_from(number("port")?)?,
        }))
    }

    fn save(&self, run: &Run) -> Result<()> {
        let value = serde_json::json!({
            "cycles": self.cycles,
            "newest": self.newest,
            "running": self.running,
            "slot": self.slot.to_string(),
            "port": self.port,
        });
        run.write(BOOK, value.to_string().as_bytes()).map(drop)
    }
}

/// Runs so many more cycles of the device in the folder of this run, which is made if it is not there; prints each.
///
/// # Errors
/// The device is not as the book says.
pub fn live(run: &Run, seed: u64, cycles: u64) -> Result<()> {
    let (bench, mut book) = match Book::read(run)? {
        Some(book) => {
            let bench = Bench::resume(run, book.port)?;
            let book = found(run, &bench, book)?;
            (bench, book)
        }
        None => {
            let bench = Bench::build(run)?;
            let book = Book { cycles: 0, newest: 1, running: 1, slot: SlotId::A, port: bench.port() };
            (bench, book)
        }
    };
    book.save(run)?;
    for _ in 0..cycles {
        let cycle = match Seeded::new(seed.wrapping_add(book.cycles)).below(10) {
            0..6 => Cycle::Commit,
            6 => Cycle::CommitAfterPowerCut,
            7 | 8 => Cycle::Unhealthy,
            _ => Cycle::Panic,
        };
        let kept = one(run, &bench, &mut book, cycle)
            .map_err(|why| format!("cycle {}, {cycle:?}, seed {seed}: {why}", book.cycles))?;
        book.cycles += 1;
        book.save(run)?;
        println!("      {}: {cycle:?}; {}.0.0 runs in slot {}; {kept}", book.cycles, book.running, book.slot);
    }
    Ok(())
}

/// The book of a device whose last cycle may have been cut off: it runs the release of before, or the newest one.
fn found(run: &Run, bench: &Bench, book: Book) -> Result<Book> {
    let script =
        "echo \"up: $(cat /etc/kubesolo/version) in $(sed 's/.*kubesolo.slot=\\(.\\).*/\\1/' /proc/cmdline).\"";
    let newest = book.newest + 1;
    let versions = [book.running, book.newest, newest].map(|version| format!("{version}.0.0"));
    let mut machine = bench.power_on(&versions.each_ref().map(|version| (version.as_str(), script)))?;
    machine.wait_for(HEALTHY)?;
    let line = machine.wait_for("up: ")?;
    machine.power_cut()?;
    let known = [book.running, newest].into_iter().find(|version| line.contains(&format!("up: {version}.0.0 in")));
    let running = known.ok_or_else(|| format!("{line}: neither {}.0.0 nor {newest}.0.0 runs", book.running))?;
    let slot = if line.contains(" in B.") { SlotId::B } else { SlotId::A };
    let expected = if running == book.running { book.slot } else { book.slot.other() };
    if slot != expected {
        return Err(format!("{line}: slot {expected} should run it").into());
    }
    // A version is published once.
    let book = Book { running, slot, newest, ..book };
    book.save(run)?;
    Ok(book)
}

/// One cycle; gives what the device keeps.
fn one(run: &Run, bench: &Bench, book: &mut Book, cycle: Cycle) -> Result<String> {
    let (home, away, version) = (book.slot, book.slot.other(), book.newest + 1);
    // The registry has the newest release and no other: years of them would fill the disk.
    let content = run.file("registry/content");
    if content.exists() {
        fs::remove_dir_all(content)?;
    }
    let flaw = match cycle {
        Cycle::Commit | Cycle::CommitAfterPowerCut => Flaw::None,
        Cycle::Unhealthy => Flaw::Unhealthy,
        Cycle::Panic => Flaw::Panics,
    };
    fs::remove_file(bench.publish(&format!("{version}.0.0"), flaw)?)?;
    let update = "kubesolo-update apply --activate --reboot; echo \"ended: $?\"; \
        echo \"kept: $(du -sk /var/lib/kubesolo | cut -f1) KiB.\"";
    let tried = "echo \"kept: $(du -sk /var/lib/kubesolo | cut -f1) KiB.\"";
    let (here, there) = (format!("{}.0.0", book.running), format!("{version}.0.0"));
    let script = [(here.as_str(), update), (there.as_str(), tried)];
    let mut machine = bench.power_on(&script)?;
    machine.wait_for(&format!("ks: boot slot={home} committed"))?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("ks: boot slot={away} try counter=2"))?;
    match cycle {
        Cycle::Commit => {}
        Cycle::CommitAfterPowerCut => {
            machine.power_cut()?;
            machine = bench.power_on(&script)?;
            machine.wait_for(&format!("ks: boot slot={away} try counter=1"))?;
        }
        Cycle::Unhealthy | Cycle::Panic => {
            let tries = if cycle == Cycle::Panic { &[1, 0][..] } else { &[] };
            for counter in tries {
                machine.wait_for(&format!("ks: boot slot={away} try counter={counter}"))?;
            }
            machine.wait_for(&format!("ks: boot slot={home} committed"))?;
            machine.wait_for(HEALTHY)?;
            machine.wait_for("ended: 75")?;
        }
    }
    if flaw == Flaw::None {
        machine.wait_for(HEALTHY)?;
        (book.slot, book.running) = (away, version);
    }
    book.newest = version;
    let kept = machine.wait_for("kept: ")?;
    machine.wait_for(SCRIPT_ENDED)?;
    machine.power_cut()?;
    let (_, kept) = kept.split_once("kept: ").ok_or("no size")?;
    Ok(format!("{} are kept", kept.trim().trim_end_matches('.')))
}
