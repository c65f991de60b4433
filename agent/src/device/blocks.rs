//! Labels of filesystems, and what the bootloader said on the kernel command line. Without udev: a bare initramfs has none.

use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use bootenv::{Fallback, SlotId, TrialId};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, limits, text};
use crate::device::mount::Filesystem;
use crate::device::table::{PartId, read_at};

/// Label of the EFI system partition, with GRUB and its environment block.
pub const ESP_LABEL: &str = "KSOLOEFI";
/// Label of slot A.
pub const SLOT_A_LABEL: &str = "KSOLOA";
/// Label of slot B.
pub const SLOT_B_LABEL: &str = "KSOLOB";
/// Label of a removable volume with releases.
pub const STICK_LABEL: &str = "KSOLOUPDATE";
/// Label of the data partition.
pub const DATA_LABEL: &str = "KSOLODATA";

/// Where mount points are made, and what this boot knows is kept; only root looks in.
pub const RUN: &str = "/run/kubesolo-update";
/// Time in seconds that a boot has to become healthy, as the step `health` has it: components of KubeSolo may take 600 s.
pub const HEALTH_WINDOW: u64 = 900;
/// Time in seconds until an undecided trial ends, as the step `deadline` and the timer unit have it.
pub const DEADLINE: u64 = 1500;
/// Seconds that the deadline leaves at least for the start and the end of a boot, beside health window and `health_timeout=`.
pub const DEADLINE_MARGIN: u64 = 300;
/// Longest kernel command line that is read, in bytes; the kernel's own limit is 4 KiB at most on both architectures.
const COMMAND_LINE_BYTES: u64 = 64 * 1024;

/// Where the kernel shows its devices.
#[derive(Clone, Debug)]
pub struct System {
    /// `/sys`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// The folder for this program in `/run`.
    pub run: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into(), run: RUN.into() }
    }
}

impl System {
    /// The bootloader's words.
    pub fn command_line(&self) -> Result<String> {
        let path = self.proc.join("cmdline");
        let what = format_args!("read {}", path.display());
        files::read_kernel(&path).context(Reason::NoCommandLine, what)
    }
}

/// A filesystem with a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its type.
    pub filesystem: Filesystem,
    /// Its label.
    pub label: String,
    /// The identity that its maker drew for it, in hex digits; empty for ISO 9660, which has none.
    pub id: String,
}

/// The label of an ext2, ext3, ext4, FAT or ISO 9660 filesystem; `None` if it is another one, or has no label.
pub fn filesystem_label(device: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    Ok(volume(device)?.map(|volume| volume.label))
}

/// The ext2, ext3, ext4, FAT or ISO 9660 filesystem on a device; `None` if it is another one, or has no label.
pub fn volume(device: &mut (impl Read + Seek)) -> io::Result<Option<Volume>> {
    let mut start = [0; 2048];
    let length = read_at(device, 0, &mut start)?;
    let start = &start[..length];
    if let Some(label) = ext_label(start) {
        return Ok(Some(Volume { filesystem: Filesystem::Ext4, label, id: hex::encode(&start[1128..1144]) }));
    }
    if let Some(label) = fat_label(device, start)? {
        // The place of the volume's serial number in the boot sector (Microsoft's FAT specification, 3.2 and 3.3).
        let id = if start[82..87] == *b"FAT32" { &start[67..71] } else { &start[39..43] };
        return Ok(Some(Volume { filesystem: Filesystem::Vfat, label, id: hex::encode(id) }));
    }
    Ok(iso_label(device)?.map(|label| Volume { filesystem: Filesystem::Iso9660, label, id: String::new() }))
}

/// The primary volume descriptor lies at 32768: magic at 1, label at 40 (ECMA-119, 8.4). `None` if it is none.
pub fn iso_label(device: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut descriptor = [0; 72];
    let length = read_at(device, 32 * 1024, &mut descriptor)?;
    let found = length == descriptor.len() && descriptor[..6] == *b"\x01CD001";
    Ok(named(&descriptor[40..]).filter(|_| found))
}

/// The superblock lies at 1024: magic at 56, label at 120 (kernel, `fs/ext4/ext4.h`).
fn ext_label(start: &[u8]) -> Option<String> {
    let superblock = start.get(1024..)?;
    if superblock.get(56..58)? != [0x53, 0xef] {
        return None;
    }
    let label = superblock.get(120..136)?.split(|b| *b == 0).next()?;
    named(label)
}

/// The volume entry of the root folder counts, as for GRUB; the copy in the boot sector only where there is none.
fn fat_label(device: &mut (impl Read + Seek), start: &[u8]) -> io::Result<Option<String>> {
    let Some(boot) = start.get(..512).filter(|boot| boot[510..] == [0x55, 0xaa]) else { return Ok(None) };
    let fat32 = boot[82..87] == *b"FAT32";
    if !fat32 && boot[54..58] != *b"FAT1" {
        return Ok(None);
    }
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let u32_at = |at: usize| u64::from(u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]));
    let (sector, cluster_sectors, reserved, fats) = (u16_at(11), u64::from(boot[13]), u16_at(14), u64::from(boot[16]));
    let (root_sector, bytes) = if fat32 {
        let data = reserved + fats * u32_at(36);
        // The first cluster is enough: the volume entry is the first one that a formatter makes.
        (data + u32_at(44).saturating_sub(2) * cluster_sectors, cluster_sectors * sector)
    } else {
        (reserved + fats * u16_at(22), u16_at(17) * 32)
    };
    let mut root = vec![0; bytes.min(64 * 1024) as usize];
    let length = read_at(device, root_sector * sector, &mut root)?;
    let entries = root[..length].chunks_exact(32).take_while(|entry| entry[0] != 0);
    // Attributes: volume label 8, and 15 for a piece of a long name.
    let volume = entries.filter(|entry| entry[0] != 0xe5 && entry[11] & 0x3f != 0x0f).find(|entry| entry[11] & 8 != 0);
    let copy = if fat32 { &boot[71..82] } else { &boot[43..54] };
    Ok(named(volume.map_or(copy, |entry| &entry[..11])).filter(|label| label != "NO NAME"))
}

fn named(label: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(label).trim_end().to_owned()).filter(|label| !label.is_empty())
}

/// The bootloader's words to this system, or in a file that stands for `/proc/cmdline`.
pub fn command_line(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else { return System::default().command_line() };
    let missing = || Error::new(Reason::NoCommandLine, format!("cannot read {}: it is not there", file.display()));
    let bytes = files::read(file, COMMAND_LINE_BYTES, Reason::NoCommandLine)?.ok_or_else(missing)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kernel command line that a bootloader with our loader file passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// `kubesolo.slot=`: the booted slot.
    pub slot: Result<SlotId, ParameterError>,
    /// `ks.trial=`: [`TrialId::NONE`] when this boot is no trial. Absent or odd is never a trial of ours.
    pub trial: Result<TrialId, ParameterError>,
    /// `ks.fallback=`: why the bootloader did not boot what it was asked to; [`ParameterError::Absent`] is the ordinary case.
    pub fallback: Result<Fallback, ParameterError>,
    /// `ks.proto=`; anything but 1 means that the old loader file is still installed.
    pub proto: Result<u32, ParameterError>,
    /// `ks.part=`: identity of the booted slot's partition. Bootloaders before 0.2 do not pass it.
    pub part: Result<PartId, ParameterError>,
    /// `ks.loader=`: number of the loader file. Loader files before 0.2 do not pass it, and those pass on nothing of a release.
    pub loader: Result<u32, ParameterError>,
    /// `kubesolo.seed=removable`: settings may come from a medium that somebody brings along.
    pub seed_removable: bool,
    /// `kubesolo.seed=fixed`: settings may come from another fixed disk on a device that was configured before.
    pub seed_fixed: bool,
    /// `ks.health_window=`: time in seconds that a boot has to become healthy; [`HEALTH_WINDOW`] if it is absent or odd. The
    /// last one counts, as for the init stage.
    pub health_window: u64,
    /// `ks.deadline=`: time in seconds until an undecided trial ends; [`DEADLINE`] if it is absent or odd. The last one counts.
    pub deadline: u64,
    /// `ks.data_limit=`: time in seconds for a checkpoint of the data; [`limits::DATA_SECONDS`] if it is absent or odd.
    pub data_limit: u64,
    /// `kubesolo.data=`: another place of the data partition. None if it is repeated.
    pub data: Option<String>,
    /// `root=`: the last one counts, as for the kernel.
    pub root: Option<String>,
}

/// Why a parameter of the kernel command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// It is not there.
    Absent,
    /// It is there more than once, even if with one value.
    Repeated,
    /// This is not a value that it can have.
    Value(String),
}

impl CommandLine {
    /// Reads the text of `/proc/cmdline`.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let seed = |wanted: &str| parameter::<String>(line, "kubesolo.seed").is_ok_and(|seed| seed == wanted);
        let seconds = |name: &str, default| {
            let last = values(line, name).last().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
            last.and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        Self {
            slot: parameter(line, "kubesolo.slot"),
            trial: parameter(line, "ks.trial"),
            fallback: parameter(line, "ks.fallback"),
            proto: parameter(line, "ks.proto"),
            part: parameter(line, "ks.part"),
            loader: parameter(line, "ks.loader"),
            seed_removable: seed("removable"),
            seed_fixed: seed("fixed"),
            health_window: seconds("ks.health_window", HEALTH_WINDOW),
            deadline: seconds("ks.deadline", DEADLINE),
            data_limit: seconds("ks.data_limit", limits::DATA_SECONDS),
            data: parameter(line, "kubesolo.data").ok(),
            root: values(line, "root").last().map(str::to_owned),
        }
    }

    /// The booted slot, or the error for who cannot do without it.
    pub fn booted(&self) -> Result<SlotId> {
        self.slot.clone().map_err(|odd| {
            let why = match odd {
                ParameterError::Absent => "kubesolo.slot= is not on the kernel command line".to_owned(),
                ParameterError::Repeated => "kubesolo.slot= is on the kernel command line more than once".to_owned(),
                ParameterError::Value(value) => {
                    format!("kubesolo.slot=\"{}\" is neither A nor B", text::escape(&value))
                }
            };
            Error::new(Reason::BootedSlotUnknown, format!("the booted slot is not known: {why}"))
                .remedy("Install the loader file of this agent; for slots in folders, name the slot with --booted.")
        })
    }
}

fn parameter<T: std::str::FromStr>(line: &str, key: &str) -> Result<T, ParameterError> {
    let mut values = values(line, key);
    match (values.next(), values.next()) {
        (None, _) => Err(ParameterError::Absent),
        (Some(_), Some(_)) => Err(ParameterError::Repeated),
        (Some(value), None) => value.parse().map_err(|_| ParameterError::Value(value.to_owned())),
    }
}

fn values<'a>(line: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    line.split_ascii_whitespace().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
}
