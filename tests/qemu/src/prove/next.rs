//! What happens after a cut: read by GRUB's own code, gone on from by the agent, booted for real.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cycle::Recording;
use super::judge::{Judge, Seen};
use crate::image::{Disk, INITRAMFS, KERNEL};
use crate::machine::{Device, Machine};
use crate::runner::Run;
use crate::scenarios::device::{AGENT, BUILD, HEALTHY};
use crate::{Result, built, tool};

/// Puts a disk in a file, sparse.
///
/// # Errors
/// It cannot be written.
pub fn save(disk: &[u8], path: &Path) -> Result<()> {
    const PIECE: usize = 64 * 1024;
    let file = File::create(path)?;
    file.set_len(disk.len() as u64)?;
    for (number, piece) in disk.chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (number * PIECE) as u64)?;
        }
    }
    Ok(())
}

/// GRUB reads from this disk what the rig read.
///
/// # Errors
/// It does not, or cannot be run.
pub fn grub_reads_the_same(judge: &Judge, disk: &[u8], image: &Path, seen: &Seen) -> Result<()> {
    let same = |place: String, ours: Option<Vec<u8>>| -> Result<()> {
        let output = Command::new(tool("grub-fstest")?).arg(image).args(["cat", &place]).output()?;
        let theirs = output.status.success().then_some(output.stdout);
        if theirs != ours {
            let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
            return Err(format!("{place}: GRUB reads {:?} bytes, the rig {:?}", size(&theirs), size(&ours)).into());
        }
        Ok(())
    };
    same("(loop0,gpt1)/grub/grubenv".into(), judge.esp_file(disk, "GRUBENV"))?;
    same("(loop0,gpt1)/grub/ksenv2".into(), judge.esp_file(disk, "KSENV2"))?;
    for slot in bootenv::Slot::BOTH.into_iter().filter(|slot| seen.contents[*slot as usize].is_some()) {
        for name in [KERNEL, INITRAMFS, "vmlinuz.sha256", "kubesolo-os.gz.sha256"] {
            same(format!("(loop0,gpt{})/{name}", 2 + slot as u8), judge.slot_file(disk, slot, name))?;
        }
    }
    Ok(())
}

/// Why the agent cannot be run on real filesystems here, if so.
#[must_use]
pub fn cannot_mount() -> Option<String> {
    let probe = "test \"$(id -u)\" = 0 && losetup --find && unshare --mount true";
    match Command::new("sh").args(["-c", probe]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no root or no loop devices {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(error.to_string()),
    }
}

/// The agent's real code on the real filesystems of this disk, which the kernel mounts: the health run of the boot that
/// the bootloader decided on, then the update anew. Both must end in a state that is known, and leave nothing behind.
///
/// # Errors
/// With what they said.
pub fn agent_goes_on(run: &Run, recording: &Recording, image: &Path, seen: &Seen) -> Result<()> {
    let work = run.file("agent");
    fs::create_dir_all(&work)?;
    let start = seen.decision.start.ok_or("nothing boots")?;
    let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
    fs::write(
        work.join("cmdline"),
        format!("kubesolo.slot={} ks.trial={}{fallback} panic=5 ks.proto=1\n", start.slot, start.trial),
    )?;
    let block = seen.block.as_ref().ok_or("this is no environment of GRUB")?;
    let booted = block.with(&seen.decision.stored).map_err(|e| e.to_string())?;
    // A host's kernel may have no FAT: the files lie in a folder.
    fs::create_dir_all(work.join("esp"))?;
    fs::write(work.join("esp/grubenv"), booted.bytes())?;
    fs::write(work.join("esp/ksenv2"), &seen.second)?;
    let host = recording.bench.registry.host();
    fs::write(
        work.join("conf"),
        format!(
            "registry={host}/os\nchannel=stable\nplain_http={host}\npubkey={}\n",
            run.file("keys/public.pem").display()
        ),
    )?;
    let data = Disk::ESP + (recording.bench.disk.size.esp + 2 * recording.bench.disk.size.slot) * 1024 * 1024;
    let (a, size) = recording.bench.disk.slot(bootenv::Slot::A);
    let (b, _) = recording.bench.disk.slot(bootenv::Slot::B);
    let script = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", AGENT_RUNS, "agent-runs"])
        .arg(&work)
        .arg(image)
        .arg(built(AGENT, BUILD)?)
        .args([a, b, size, data].map(|n| n.to_string()))
        .output()?;
    if script.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("the agent does not go on: {}\n{}{}", script.status, said(&script.stdout), said(&script.stderr)).into())
}

const AGENT_RUNS: &str = r#"
work=$1 image=$2 program=$3 a=$4 b=$5 size=$6 data=$7
cd "$work" || exit 1
mkdir -p data health.d
slot_a='' slot_b=''
trap '{ umount data; losetup -d $slot_a; losetup -d $slot_b; } 2>/dev/null' EXIT
fail() { echo "$*" >&2; exit 1; }
mount -t ext4 -o "loop,offset=$data" "$image" data || fail 'the data partition cannot be mounted'
slot_a=$(losetup --find --show --offset "$a" --sizelimit "$size" "$image") || exit 1
slot_b=$(losetup --find --show --offset "$b" --sizelimit "$size" "$image") || exit 1
agent() {
    "$program" --conf conf --state data/update/state.json --slot-a "$slot_a" --slot-b "$slot_b" \
        --bootenv grub:esp/grubenv --cmdline cmdline "$@"
}
agent healthcheck --data-dir data --health-dir health.d
code=$?
[ $code = 0 ] || fail "healthcheck ended with $code"
agent status --json >status.json || fail "status ended with $?"
agent apply --activate
code=$?
# 75: it failed before, and is remembered.
case $code in 0 | 75) ;; *) fail "apply ended with $code" ;; esac
for file in data/update/*; do
    case $file in data/update/lock | data/update/state.json | data/update/trust.json | data/update/history.json) ;; *) fail "left behind: $file" ;; esac
done
[ "$(ls esp)" = "$(printf 'grubenv\nksenv2')" ] || fail "left behind: $(ls esp)"
for device in $slot_a $slot_b; do
    left=$(debugfs -R 'ls -p /' "$device" 2>/dev/null | grep '\.part/')
    [ -z "$left" ] || fail "left behind in a slot: $left"
done
agent verify
code=$?
# 65: the slot that is not booted may be void.
case $code in 0 | 65) ;; *) fail "verify ended with $code" ;; esac
agent status --json >status.json || fail "status ended with $?"
"#;

/// Boots this disk for real: the slot that the rig expects, and in the end a healthy system.
///
/// # Errors
/// It does not come up so.
pub fn boots(run: &Run, recording: &Recording, image: &Path, seen: &Seen) -> Result<()> {
    let start = seen.decision.start.ok_or("nothing boots")?;
    let device = Device { disk: PathBuf::from(image), ..recording.bench.device(&[])? };
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(&format!("ks: boot slot={}", start.slot))?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()
}
