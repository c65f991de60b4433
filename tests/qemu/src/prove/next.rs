//! The time after a cut: read by the code of the bootloader's own project, gone on from by the agent, booted for real.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::SlotId;
use bootenv::protocol::View;
use bootenv::uboot::config::Place;
use bootenv::uboot::store::Store;

use super::cycle::Recording;
use super::judge::{Judge, Seen};
use crate::image::{Disk, INITRAMFS, KERNEL, UBOOT_SIZE, uboot_view};
use crate::machine::{Device, Firmware, Machine};
use crate::runner::Run;
use crate::scenarios::device::HEALTHY;
use crate::{Result, built, tool};

/// Puts a disk in a file, sparse.
///
/// # Errors
/// It cannot be written.
pub fn save(disk: &[u8], path: &Path) -> Result<()> {
    const PIECE: usize = 64 * 1024;
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let file = File::create(path)?;
    file.set_len(disk.len() as u64)?;
    for (number, piece) in disk.chunks(PIECE).enumerate() {
        if piece != &ZEROS[..piece.len()] {
            file.write_all_at(piece, (number * PIECE) as u64)?;
        }
    }
    Ok(())
}

/// The tools that GRUB or U-Boot has for it read from this disk what the rig read.
///
/// # Errors
/// They do not, or cannot be run.
pub fn tools_read_the_same(run: &Run, judge: &Judge, disk: &[u8], image: &Path, seen: &Seen) -> Result<()> {
    if run.firmware == Firmware::UBoot {
        return uboot_reads_the_same(run, judge.layout(), disk, image);
    }
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
    for slot in SlotId::BOTH.into_iter().filter(|slot| seen.contents[*slot as usize].is_some()) {
        for name in [KERNEL, INITRAMFS, "vmlinuz.sha256", "kubesolo-os.gz.sha256"] {
            same(format!("(loop0,gpt{})/{name}", 2 + slot as u8), judge.slot_file(disk, slot, name))?;
        }
    }
    Ok(())
}

fn uboot_reads_the_same(run: &Run, layout: &Disk, disk: &[u8], image: &Path) -> Result<()> {
    let lines: String =
        [0, 1].map(|copy| format!("{} {:#x} {UBOOT_SIZE:#x}\n", image.display(), layout.copy(copy))).concat();
    let config = run.write("fw_env.config", lines.as_bytes())?;
    let mut printenv = Command::new(built("target/tools/u-boot/fw_printenv", "build/scripts/setup.sh qemu-arm64")?);
    let theirs = String::from_utf8(crate::run(printenv.arg("-l").arg(&run.dir).arg("-c").arg(config))?)?;
    let theirs = View::read(|name| theirs.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')));
    let copies = [0, 1].map(|copy| disk[layout.copy(copy) as usize..][..UBOOT_SIZE].to_vec());
    let ours = uboot_view(&copies);
    if theirs == ours { Ok(()) } else { Err(format!("U-Boot's tool reads {theirs:?}, the rig {ours:?}").into()) }
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
/// the bootloader decided on, then the update from the start. Both must end in a state that is known, and leave nothing behind.
///
/// True if the update went on with a download that the cut had interrupted.
///
/// # Errors
/// With what they said.
pub fn agent_goes_on(run: &Run, recording: &Recording, image: &Path, seen: &Seen) -> Result<bool> {
    let work = run.file("agent");
    fs::create_dir_all(&work)?;
    let start = seen.decision.start.ok_or("nothing boots")?;
    let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
    fs::write(
        work.join("cmdline"),
        format!("kubesolo.slot={} ks.trial={}{fallback} panic=5 ks.proto=1\n", start.slot, start.trial),
    )?;
    let disk = Disk { path: image.to_owned(), ..recording.bench.disk.clone() };
    let uboot = run.firmware == Firmware::UBoot;
    if uboot {
        // The copy that U-Boot stores before it starts a kernel.
        let place = |copy| Place { device: image.to_owned(), offset: disk.copy(copy) as i64, size: UBOOT_SIZE };
        let store = Store::new([0, 1].map(place).to_vec()).with_system(&[], &work);
        if !seen.decision.stored.is_empty() {
            let loaded = store.load().map_err(|e| e.to_string())?;
            let next = loaded.environment.with(&seen.decision.stored);
            store.store(&loaded, &next).map_err(|e| e.to_string())?;
        }
    } else {
        let block = seen.block.as_ref().ok_or("this is no environment of GRUB")?;
        let booted = block.with(&seen.decision.stored).map_err(|e| e.to_string())?;
        // A host's kernel may have no FAT: the files lie in a folder.
        fs::create_dir_all(work.join("esp"))?;
        fs::write(work.join("esp/grubenv"), booted.bytes())?;
        fs::write(work.join("esp/ksenv2"), &seen.second)?;
    }
    let host = recording.bench.registry.host();
    fs::write(
        work.join("conf"),
        format!(
            "registry={host}/os\nchannel=stable\nplain_http={host}\npubkey={}\n",
            run.file("keys/public.pem").display()
        ),
    )?;
    let data = Disk::ESP + (disk.size.esp + 2 * disk.size.slot) * 1024 * 1024;
    let (a, size) = disk.slot(SlotId::A);
    let (b, _) = disk.slot(SlotId::B);
    let mut script = Command::new("unshare");
    script.args(["--mount", "--propagation", "private", "sh", "-c", AGENT_RUNS, "agent-runs"]).arg(&work).arg(image);
    script.args([a, b, size, data].map(|n| n.to_string()));
    script.arg(if uboot { disk.copy(0).to_string() } else { String::new() });
    // On a host of another kind an emulator comes first. It emulates only the processor: the agent's system calls are
    // those of the kernel here.
    let agent = run.firmware.architecture().agent_here()?;
    let script = script.arg(agent.get_program()).args(agent.get_args()).output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if script.status.success() {
        return Ok(said(&script.stdout).contains("resumed"));
    }
    Err(format!("the agent does not go on: {}\n{}{}", script.status, said(&script.stdout), said(&script.stderr)).into())
}

const AGENT_RUNS: &str = r#"
work=$1 image=$2 a=$3 b=$4 size=$5 data=$6 copies=$7
shift 7
printf '#!/bin/sh\nexec %s "$@"\n' "$*" >"$work/agent"
chmod +x "$work/agent"
cd "$work" || exit 1
mkdir -p data health.d
slot_a='' slot_b='' env=''
trap '{ umount data; losetup -d $slot_a; losetup -d $slot_b; losetup -d $env; } 2>/dev/null' EXIT
fail() { echo "$*" >&2; exit 1; }
# The locks of U-Boot's tools are for this machine, and so are those who hold them.
mount -t tmpfs tmpfs /run || exit 1
mount -t ext4 -o "loop,offset=$data" "$image" data || fail 'the data partition cannot be mounted'
slot_a=$(losetup --find --show --offset "$a" --sizelimit "$size" "$image") || exit 1
slot_b=$(losetup --find --show --offset "$b" --sizelimit "$size" "$image") || exit 1
bootenv=grub:esp/grubenv
if [ -n "$copies" ]; then
    env=$(losetup --find --show --offset "$copies" --sizelimit 1048576 "$image") || exit 1
    printf '%s 0x0 0x4000\n' "$env" >fw_env.config
    printf '%s 0x80000 0x4000\n' "$env" >>fw_env.config
    bootenv=uboot:fw_env.config
fi
agent() {
    ./agent --conf conf --state data/update/state.json --slot-a "$slot_a" --slot-b "$slot_b" \
        --bootenv "$bootenv" --cmdline cmdline "$@"
}
agent healthcheck --data-dir data --health-dir health.d
code=$?
[ $code = 0 ] || fail "healthcheck ended with $code"
agent status --json >status.json || fail "status ended with $?"
agent apply --activate -v 2>apply.log
code=$?
cat apply.log >&2
grep -q 'going on after' apply.log && echo resumed
# 75: it failed before, and is remembered.
case $code in 0 | 75) ;; *) fail "apply ended with $code" ;; esac
for file in data/update/*; do
    case $file in data/update/lock | data/update/state.json | data/update/trust.json | data/update/history.json | \
        data/update/records | data/update/evidence | data/update/data | data/update/receipts | data/update/device.key | \
        data/update/fetch.json | data/update/memory.json | data/update/unjudged.json) ;; *) fail "left behind: $file" ;; esac
done
[ -n "$copies" ] || [ "$(ls esp)" = "$(printf 'grubenv\nksenv2')" ] || fail "left behind: $(ls esp)"
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
