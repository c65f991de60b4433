//! The data of a device after every power cut in the boots that save them and put them back: a real SQLite database whose log is
//! not empty, a second folder, and one that only the trial made. The real kernel mounts each disk, the real agent goes on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bootenv::SlotId;
use bootenv::boot::{Files, PowerOn, decide};
use bootenv::grub::Block;

use super::Effort;
use super::judge::Judge;
use super::log::{Log, Request};
use super::next;
use super::replay::{Cut, Left, Replay};
use crate::Result;
use crate::image::{INITRAMFS, KERNEL};
use crate::machine::Machine;
use crate::runner::Run;
use crate::scenarios::data::{CREATE, NEW, OLD, activate, bench};
use crate::scenarios::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED};

/// Boots until services may start: a trial may be withdrawn in one of them.
const BOOTS: usize = 4;
/// The second folder as 1.0.0 leaves it, and the third, which is not there.
const LEFT: &str = "1.0.0 absent";

/// The cuts that were tried, all of them with a good end.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests of the device, and flushes among them.
    pub requests: [usize; 2],
    /// Cuts after which the old system starts on its own data, and after which the trial does, with a checkpoint of them.
    pub ended: [usize; 2],
    /// How many cuts it took until a disk that takes no notice of flushes was found out: the rig can fail.
    pub found_out: usize,
}

/// Records the boots and tries every cut of them.
///
/// # Errors
/// The first cut that ends in anything but the data of one system, with its name.
pub fn prove(run: &Run, effort: Effort) -> Result<Report> {
    if let Some(why) = next::cannot_mount() {
        return Err(why.into());
    }
    let bench = bench(run, "state_paths=kine more late\n", 64)?;
    bench.publish("2.0.0", Flaw::None)?;
    let more = "mkdir -p /var/lib/kubesolo/more && echo 1.0.0 >/var/lib/kubesolo/more/version";
    activate(&bench, &format!("{CREATE} && {more} &&"), "fail")?;
    let disk = fs::read(&bench.disk.path)?;
    let log = record(run, &bench)?;
    let mut rig = Rig::new(run, &bench, &disk)?;
    // Each disk is mounted: fewer ways to lose requests than where it is only read.
    let variants = effort.variants.div_ceil(6);
    let mut report = Report::default();
    let flushes = log.requests.iter().filter(|request| **request == Request::Flush).count();
    report.requests = [log.requests.len(), flushes];
    let mut replay = Replay::new(&log, disk.clone());
    for cut in Replay::cuts(&log, effort.seed, variants) {
        match replay.at(cut, |disk| rig.ends(disk))? {
            Ok(slot) => report.ended[slot as usize] += 1,
            Err(why) => {
                let kept = run.file(&format!("cut-{cut}.disk"));
                let saved = replay.at(cut, |disk| next::save(disk, &kept))?;
                return Err(format!("cut {cut}: {why}. Kept: {} ({saved:?})", kept.display()).into());
            }
        }
    }
    report.found_out = finds_out_lost_flushes(&mut rig, &log, disk, effort.seed)?;
    Ok(report)
}

/// The boot of 2.0.0 that takes the checkpoint, its migration and failure, and the boot of 1.0.0 that goes back.
fn record(run: &Run, bench: &Bench) -> Result<Log> {
    let mut device = bench.device(&[("1.0.0", "sync; echo over")])?;
    device.writes = Some(run.write("writes.log", &[])?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("data: checkpoint of kine")?;
    machine.wait_for("kubesolo 2.0.0: migrated: 2")?;
    machine.wait_for("data: kine, more, late back to what 1.0.0 left at")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(SCRIPT_ENDED)?;
    machine.power_cut()?;
    Log::read(&run.file("writes.log"))
}

/// As in the proof of the slots: a rig that sees nothing here would see nothing if the agent left a sync out.
fn finds_out_lost_flushes(rig: &mut Rig, log: &Log, disk: Vec<u8>, seed: u64) -> Result<usize> {
    const TRIES: usize = 200;
    let log = log.without_flushes();
    let late = log.requests.len() / 2;
    let some = |cut: &Cut| cut.after > late && matches!(cut.left, Left::Some(_));
    let mut replay = Replay::new(&log, disk);
    for (number, cut) in Replay::cuts(&log, seed, 1).into_iter().filter(some).take(TRIES).enumerate() {
        if replay.at(cut, |disk| rig.ends(disk))?.is_err() {
            return Ok(number + 1);
        }
    }
    Err("a disk that takes no notice of flushes was not found out: the rig sees nothing".into())
}

/// A folder in which the agent runs on a disk.
struct Rig {
    work: PathBuf,
    judge: Judge,
    agent: PathBuf,
    data: (usize, usize),
}

impl Rig {
    /// The slots do not change: they are folders.
    fn new(run: &Run, bench: &Bench, disk: &[u8]) -> Result<Self> {
        let (work, judge) = (run.file("boot"), Judge::new(bench.disk.clone(), vec![]));
        for slot in SlotId::BOTH {
            let folder = work.join(slot.as_str());
            fs::create_dir_all(&folder)?;
            for name in [KERNEL, INITRAMFS, "vmlinuz.sha256", "kubesolo-os.gz.sha256", "manifest.json"] {
                let content = judge.slot_file(disk, slot, name).ok_or_else(|| format!("slot {slot} lacks {name}"))?;
                fs::write(folder.join(name), content)?;
            }
        }
        for folder in ["esp", "data"] {
            fs::create_dir_all(work.join(folder))?;
        }
        fs::write(work.join("conf"), "state_paths=kine more late\n")?;
        let data = (usize::try_from(bench.disk.data())?, usize::try_from(bench.disk.size.data << 20)?);
        let agent = PathBuf::from(run.firmware.architecture().agent_here()?.get_program());
        Ok(Self { work, judge, agent: fs::canonicalize(agent)?, data })
    }

    /// Starts this disk until services may run, and judges their data. Gives the slot.
    fn ends(&mut self, disk: &[u8]) -> Result<SlotId> {
        for (name, file) in [("GRUBENV", "grubenv"), ("KSENV2", "ksenv2")] {
            let content = self.judge.esp_file(disk, name).ok_or_else(|| format!("there is no {file}"))?;
            fs::write(self.work.join("esp").join(file), content)?;
        }
        let (at, size) = self.data;
        next::save(disk.get(at..at + size).ok_or("the disk is too small")?, &self.work.join("data.img"))?;
        for _ in 0..BOOTS {
            let slot = self.power_on()?;
            let mut script = Command::new("unshare");
            script
                .args(["--mount", "--propagation", "private", "sh", "-c", BOOT, "boot"])
                .arg(&self.work)
                .arg(&self.agent);
            let output = script.output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            match said.lines().next() {
                Some("step 0") => return is_of_one_system(slot, &said).map(|()| slot),
                Some("step 75") => {}
                _ => return Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)).into()),
            }
        }
        Err(format!("no services after {BOOTS} boots").into())
    }

    /// The bootloader: it decides, stores, and passes the result to the kernel.
    fn power_on(&self) -> Result<SlotId> {
        let block = |name: &str| -> Result<Block> {
            Block::parse(&fs::read(self.work.join("esp").join(name))?).map_err(|e| format!("{name}: {e}").into())
        };
        let main = block("grubenv")?;
        let second = block("ksenv2")?.as_second();
        let on = PowerOn { main: main.view(), second, files: [Files::Hold; 2], can_save: true };
        let decision = decide(&on);
        let start = decision.start.ok_or("nothing boots")?;
        let stored = main.with(&decision.stored).map_err(|e| e.to_string())?;
        fs::write(self.work.join("esp/grubenv"), stored.bytes())?;
        let line = format!("kubesolo.slot={} ks.trial={} panic=5 ks.proto=1\n", start.slot, start.trial);
        fs::write(self.work.join("cmdline"), line)?;
        Ok(start.slot)
    }
}

/// The old system has its own data, all of them and nothing else. A trial has a checkpoint of them, and a database that is whole.
fn is_of_one_system(slot: SlotId, said: &str) -> Result<()> {
    let line = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let old = format!("{OLD} {LEFT}");
    let good = match slot {
        SlotId::A => line("live ") == Some(old.as_str()),
        SlotId::B => {
            let whole = line("live ").is_some_and(|live| live.starts_with(OLD) || live.starts_with(NEW));
            line("held ") == Some(old.as_str()) && whole
        }
    };
    if good { Ok(()) } else { Err(format!("slot {slot} starts with {said}").into()) }
}

const BOOT: &str = r#"
work=$1 agent=$2
cd "$work" || exit 1
mount -t tmpfs tmpfs /run || exit 1
# As the init stage: a torn superblock is repaired from a copy of it.
mount -t ext4 -o loop data.img data 2>/dev/null || {
    e2fsck -y data.img >/dev/null
    echo repaired >>../repaired
    mount -t ext4 -o loop data.img data || { echo 'the data partition cannot be mounted'; exit 1; }
}
trap 'umount data' EXIT
rm -f data/update/data-step
"$agent" --conf conf --state data/update/state.json --slot-a A --slot-b B --bootenv grub:esp/grubenv --cmdline cmdline data >log 2>&1
echo "step $?"
# look NAME DATABASE MORE LATE: on a copy, because reading a log can change it.
look() {
    rm -rf copy
    cp -a "$2" copy
    rows=$(sqlite3 copy/state.db 'PRAGMA integrity_check;' 'SELECT name, count(*) FROM kine GROUP BY name;' \
        'PRAGMA user_version;' 2>&1 | tr '\n' ' ')
    if [ -e "$4" ]; then late=present; else late=absent; fi
    echo "$1 $rows$(cat "$3/version") $late"
}
look live data/kine data/more data/late
for held in data/update/data/*.held; do
    [ ! -d "$held" ] || look held "$held/tree/0" "$held/tree/1" "$held/tree/2"
done
cat log
"#;
