//! Filesystem of a slot before a write: the agent inspects it, and recreates it if it is not trusted.
//!
//! A slot has no journal, since a bootloader would not replay it. After a power cut during a write, a block may belong to
//! two files, so the agent does not write into such a filesystem.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::{SLOT_A_LABEL, SLOT_B_LABEL, filesystem_label};
use crate::device::mount::{Filesystem, Mounted};
use crate::device::programs;

/// The one external program of the agent: of e2fsprogs, or of busybox.
const MKE2FS: &str = "mke2fs";
/// No journal, and nothing that older bootloaders cannot read. busybox takes no notice of features, and makes an ext2.
const OPTIONS: [&str; 10] =
    ["-q", "-F", "-m", "0", "-b", "4096", "-i", "65536", "-O", "^has_journal,^metadata_csum_seed,^resize_inode,extent"];
/// Where ext4 keeps its state, in bytes from the start of the device, and what it says after an unmount: the first bit
/// alone (`fs/ext4/ext4.h`: `s_state`, `EXT4_VALID_FS`).
const STATE_AT: u64 = 1024 + 58;
const UNMOUNTED: u16 = 1;

/// Condition of a filesystem.
#[derive(Debug)]
pub(super) enum Condition {
    /// It was unmounted after the last write.
    Sound,
    /// It was being written when the power went, or the kernel has found errors in it.
    Unclean,
    /// It cannot be mounted or read.
    Damaged(Error),
}

pub(super) fn condition(device: &Path) -> Result<Condition> {
    let looked = Mounted::read_only(device, Filesystem::Ext4).and_then(|mounted| {
        let read = fs::read_dir(mounted.path())
            .and_then(|mut entries| entries.try_for_each(|entry| entry?.metadata().map(drop)));
        mounted.unmount()?;
        Ok(read)
    });
    match looked {
        Err(e) if e.reason == Reason::DamagedFilesystem => return Ok(Condition::Damaged(e)),
        Ok(Err(e)) => {
            let message = format!("cannot read the filesystem on {}: {e}", device.display());
            return Ok(Condition::Damaged(Error::new(Reason::DamagedFilesystem, message)));
        }
        looked => _ = looked?,
    }
    let mut state = [0; 2];
    let read = files::open_data(device).and_then(|file| file.read_exact_at(&mut state, STATE_AT));
    read.context(Reason::CannotOpenDevice, format_args!("read {}", device.display()))?;
    Ok(if u16::from_le_bytes(state) == UNMOUNTED { Condition::Sound } else { Condition::Unclean })
}

/// Checks that a filesystem can be recreated here: the device says that it is a slot, and the program is there. Gives the
/// bytes that will be free.
pub(super) fn can_be_made(device: &Path) -> Result<u64> {
    let cannot = |why: String| {
        let message = format!("cannot recreate the filesystem on {}: {why}", device.display());
        Error::new(Reason::DamagedFilesystem, message)
            .remedy(format!("Create it by hand if this is the right device: mke2fs -L LABEL {}", device.display()))
    };
    // A mistake in the settings must not cost somebody's data.
    label(device).ok_or_else(|| cannot("neither filesystem nor partition has the label of a slot".into()))?;
    programs::tool(MKE2FS).map_err(cannot)?;
    let size =
        files::open_data(device).and_then(|mut file| file.seek(SeekFrom::End(0))).map_err(|e| cannot(e.to_string()))?;
    // Half of this is what ext4 keeps for itself, and most of the rest the inodes and bitmaps of each group.
    Ok(size - size / 24)
}

/// Recreates the filesystem of a slot, and destroys its content: only for a void slot.
pub(super) fn make(device: &Path) -> Result<()> {
    can_be_made(device)?;
    let label = label(device).unwrap_or_default();
    log::warn!("recreated the filesystem on {}", device.display());
    let failed = |why: String| {
        let message = format!("cannot create a filesystem on {}: {MKE2FS}: {}", device.display(), text::escape(&why));
        Error::new(Reason::DamagedFilesystem, message).remedy("See the kernel log (dmesg): the medium may be failing.")
    };
    let mut command = programs::tool(MKE2FS).map_err(failed)?;
    match command.args(OPTIONS).args(["-L", &label]).arg(device).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// The label that marks a slot, of the filesystem or of the partition.
fn label(device: &Path) -> Option<String> {
    let of_filesystem = files::open_data(device).and_then(|mut file| filesystem_label(&mut file)).ok().flatten();
    let of_partition = || {
        let number = fs::metadata(device).ok()?.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let uevent = files::read_kernel(Path::new(&format!("/sys/dev/block/{major}:{minor}/uevent"))).ok()?;
        uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned))
    };
    of_filesystem.or_else(of_partition).filter(|label| [SLOT_A_LABEL, SLOT_B_LABEL].contains(&label.as_str()))
}
