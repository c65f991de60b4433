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

/// Of e2fsprogs, or of busybox.
const MKE2FS: &str = "mke2fs";
/// Of e2fsprogs; repairs a slot that lost power during a download, where it is.
const E2FSCK: &str = "e2fsck";
/// No journal, and nothing that older bootloaders cannot read. busybox takes no notice of features, and makes an ext2.
const OPTIONS: [&str; 10] =
    ["-q", "-F", "-m", "0", "-b", "4096", "-i", "65536", "-O", "^has_journal,^metadata_csum_seed,^resize_inode,extent"];
/// Where ext4 keeps its state, in bytes from the start of the device, and what it says after an unmount: the first bit
/// alone (`fs/ext4/ext4.h`: `s_state`, `EXT4_VALID_FS`).
const STATE_AT: u64 = 1024 + 58;
const UNMOUNTED: u16 = 1;

/// The superblock of ext2, ext3 and ext4 in bytes from the start of the device, and offsets in it (`fs/ext4/ext4.h`).
const SUPERBLOCK_AT: u64 = 1024;
const MAGIC_AT: usize = 56;
const MAGIC: u16 = 0xef53;
const INCOMPAT_AT: usize = 96;
const RO_COMPAT_AT: usize = 100;
/// Incompatible features that both GRUB 2.06 (`grub-core/fs/ext2.c`, with Debian's patches) and U-Boot (`fs/ext4`) read, or
/// can ignore: filetype, needs_recovery, extent, 64bit, mmp, flex_bg, metadata_csum_seed, large_dir, encrypt.
const READABLE: u32 = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000 | 0x1_0000;
/// bigalloc. By its place it matters to writers only, but GRUB does not read it.
const BIGALLOC: u32 = 0x200;
/// Names of the others, as `mke2fs -O` has them.
const UNREADABLE_NAMES: [(u32, &str); 7] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x8000, "inline_data"),
    (0x2_0000, "casefold"),
];

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

/// Refuses a filesystem that the kernel reads and a bootloader does not.
///
/// # Errors
/// 73 with the features and the command that makes it right.
pub(super) fn check_features(device: &Path) -> Result<()> {
    let mut superblock = [0; 104];
    let read = files::open_data(device).and_then(|file| file.read_exact_at(&mut superblock, SUPERBLOCK_AT));
    read.context(Reason::CannotOpenDevice, format_args!("read {}", device.display()))?;
    let features = unreadable_features(&superblock);
    if features.is_empty() {
        return Ok(());
    }
    let label = label(device).unwrap_or_else(|| "LABEL".into());
    let message =
        format!("bootloaders cannot read the filesystem on {}: it uses {}", device.display(), features.join(", "));
    let remedy = format!(
        "Nothing was written. If this is the right device, create the filesystem again: {MKE2FS} {} -L {label} {}",
        OPTIONS.join(" "),
        device.display()
    );
    Err(Error::new(Reason::FilesystemFeatures, message).remedy(remedy))
}

/// Names of the features that a bootloader may not know.
fn unreadable_features(superblock: &[u8; 104]) -> Vec<String> {
    let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| superblock[at + n]));
    if superblock[MAGIC_AT..MAGIC_AT + 2] != MAGIC.to_le_bytes() {
        return vec![];
    }
    let unknown = number(INCOMPAT_AT) & !READABLE;
    let name = |bit: u32| match UNREADABLE_NAMES.iter().find(|(known, _)| *known == bit) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("the unknown feature {bit:#x}"),
    };
    let mut names: Vec<_> = (0..u32::BITS).map(|n| 1 << n).filter(|bit| unknown & bit != 0).map(name).collect();
    if number(RO_COMPAT_AT) & BIGALLOC != 0 {
        names.push("bigalloc".to_owned());
    }
    names
}

/// Repairs the filesystem of a void slot that lost power, with `e2fsck`. False if the program is not there or fails: the
/// filesystem has to be recreated.
pub(super) fn repaired(device: &Path) -> bool {
    let repair = || {
        let mut command = programs::tool(E2FSCK)?;
        let output = command.args(["-f", "-y"]).arg(device).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        // 0: nothing to repair, 1: all of it repaired (e2fsck(8)).
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(text::escape(&format!("{}: {}", output.status, String::from_utf8_lossy(&output.stdout).trim()))),
        }
    };
    let repaired = repair();
    match &repaired {
        Ok(()) => log::warn!("{} lost power while it was written: {E2FSCK} checked its filesystem", device.display()),
        Err(why) => log::warn!("cannot check the filesystem on {}: {why}", device.display()),
    }
    repaired.is_ok()
}

/// Removes what `e2fsck` found without a name: it takes room, and no record is about it.
pub(super) fn clear_lost(mounted: &Path) {
    let entries = fs::read_dir(mounted.join("lost+found")).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if let Err(e) = fs::remove_file(&path) {
            log::warn!("cannot remove {}: {e}", path.display());
        }
    }
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A program that must be there.
    fn run(command: &mut Command) -> bool {
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}")).status.success()
    }

    #[test]
    fn a_filesystem_is_refused_if_and_only_if_grub_cannot_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let [content, image] = ["content", "image"].map(|name| folder.path().join(name));
        fs::create_dir(&content).unwrap();
        // With more than one extent, and with bytes that fit into an inode.
        fs::write(content.join("vmlinuz"), vec![7; 3_000_000]).unwrap();
        fs::write(content.join("vmlinuz.sha256"), "a line\n").unwrap();
        let (mut refused, mut taken) = (vec![], vec![]);
        for features in [
            "^has_journal",
            "inline_data",
            "bigalloc",
            "casefold",
            "ea_inode",
            "encrypt",
            "large_dir",
            "mmp",
            "64bit",
            "^64bit",
            "metadata_csum",
            "metadata_csum_seed",
            "verity",
            "quota",
            "project",
            "sparse_super2",
            "stable_inodes",
        ] {
            let _ = fs::remove_file(&image);
            let mut make = Command::new(MKE2FS);
            make.args(["-q", "-F", "-t", "ext4", "-O", features, "-d"]).arg(&content).arg(&image).arg("40M");
            assert!(run(&mut make), "{features}");
            let mut superblock = [0; 104];
            files::open_data(&image).unwrap().read_exact_at(&mut superblock, SUPERBLOCK_AT).unwrap();
            let names = unreadable_features(&superblock);
            let same = ["vmlinuz", "vmlinuz.sha256"].iter().all(|name| {
                let mut compare = Command::new("grub-fstest");
                run(compare.arg(&image).arg("cmp").arg(format!("(loop0)/{name}")).arg(content.join(name)))
            });
            assert_eq!(names.is_empty(), same, "{features}: {names:?}");
            if same { taken.push(features) } else { refused.push(names.join(" ")) }
        }
        assert_eq!(refused, ["inline_data", "bigalloc", "casefold", "ea_inode"]);
        assert_eq!(taken.len(), 13);
        // Features that are not known yet, and another filesystem.
        let mut superblock = [0; 104];
        superblock[INCOMPAT_AT..INCOMPAT_AT + 4].copy_from_slice(&0x8010_0010_u32.to_le_bytes());
        assert_eq!(unreadable_features(&superblock), Vec::<String>::new());
        superblock[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC.to_le_bytes());
        let unknown = ["meta_bg", "the unknown feature 0x100000", "the unknown feature 0x80000000"];
        assert_eq!(unreadable_features(&superblock), unknown);
    }

    #[test]
    fn the_filesystem_that_is_made_here_is_one_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        assert!(run(Command::new(MKE2FS).args(OPTIONS).arg(&image).arg("40M")));
        check_features(&image).unwrap();
    }
}
