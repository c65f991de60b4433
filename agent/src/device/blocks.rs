//! Block devices by label, and what the bootloader said on the kernel command line. Without udev: a bare initramfs has none.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bootenv::{Fallback, Slot, TrialId};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::text;

/// Label of the EFI system partition, with GRUB and its environment block.
pub const ESP_LABEL: &str = "KSOLOEFI";
/// Label of slot A.
pub const SLOT_A_LABEL: &str = "KSOLOA";
/// Label of slot B.
pub const SLOT_B_LABEL: &str = "KSOLOB";
/// Label of the data partition.
pub const DATA_LABEL: &str = "KSOLODATA";

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
}

impl Default for System {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into() }
    }
}

impl System {
    /// The one block device with this filesystem label or GPT partition name. None at all, or more than one, is
    /// [`Exit::Config`]: guessing would overwrite somebody's disk.
    pub fn find(&self, label: &str) -> Result<PathBuf> {
        let (found, unreadable) = self.labelled(&[label])?;
        if let Some(device) = the_only(&found, label)? {
            return Ok(device);
        }
        let mut message = format!("there is no block device with the label {label}");
        if !unreadable.is_empty() {
            message += &format!(" (cannot read {})", unreadable.join(", "));
        }
        Err(Error::new(Reason::DeviceNotFound, message)
            .remedy("Name the place on the command line or in update.conf, or label the filesystem or partition."))
    }

    /// The one block device with any of these labels, if there is one. More than one is [`Exit::Config`].
    pub fn find_any(&self, labels: &[&str]) -> Result<Option<PathBuf>> {
        the_only(&self.labelled(labels)?.0, &labels.join(" or "))
    }

    /// All that have one of these labels, and why others could not be looked at.
    fn labelled(&self, labels: &[&str]) -> Result<(Vec<PathBuf>, Vec<String>)> {
        let wanted = |label: &Option<String>| label.as_deref().is_some_and(|label| labels.contains(&label));
        let (mut found, mut unreadable) = (vec![], vec![]);
        for name in self.block_devices()? {
            let Some(device) = candidate(&name) else { continue };
            let path = self.dev.join(&device.node);
            let labelled = wanted(&device.part_name)
                || match File::open(&path).and_then(|mut file| filesystem_label(&mut file)) {
                    Ok(label) => wanted(&label),
                    Err(e) => {
                        unreadable.push(format!("{}: {e}", path.display()));
                        false
                    }
                };
            if labelled {
                found.push(path);
            }
        }
        Ok((found, unreadable))
    }

    /// Whether somebody who stands before the device could have brought this one: the kernel calls its disk removable, or
    /// it hangs on USB, or is an SD card; and whatever cannot be told. Never the disk that the data partition is on: who
    /// can write there need bring nothing.
    #[must_use]
    pub fn is_removable(&self, device: &Path) -> bool {
        let Some(disk) = self.disk(device) else { return true };
        if self.find(DATA_LABEL).ok().and_then(|data| self.disk(&data)) == Some(disk.clone()) {
            return false;
        }
        let says = |file: &str| fs::read_to_string(disk.join(file)).unwrap_or_default();
        let on_usb = disk.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
        says("removable").trim() != "0" || says("device/type").trim() == "SD" || on_usb
    }

    /// Where the kernel shows the whole disk of a device.
    fn disk(&self, device: &Path) -> Option<PathBuf> {
        let shown = fs::canonicalize(self.sys.join("class/block").join(device.file_name()?)).ok()?;
        if shown.join("partition").exists() { shown.parent().map(Path::to_owned) } else { Some(shown) }
    }

    /// What the bootloader said.
    pub fn command_line(&self) -> Result<String> {
        let path = self.proc.join("cmdline");
        let mut bytes = vec![];
        File::open(&path)
            .and_then(|file| file.take(COMMAND_LINE_BYTES).read_to_end(&mut bytes))
            .context(Reason::NoCommandLine, format_args!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn block_devices(&self) -> Result<Vec<PathBuf>> {
        let class = self.sys.join("class/block");
        let reading = || format!("list block devices in {}", class.display());
        let entries = fs::read_dir(&class).context(Reason::NoSysfs, reading())?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
            .context(Reason::NoSysfs, reading())?;
        names.sort();
        Ok(names)
    }
}

/// `None` for what cannot be a labelled partition, or must not be opened.
fn candidate(sysfs: &Path) -> Option<Candidate> {
    let uevent = fs::read_to_string(sysfs.join("uevent")).ok()?;
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let empty = fs::read_to_string(sysfs.join("size")).is_ok_and(|size| size.trim() == "0");
    // The disk below a mapping or an array has the same label as the device above it.
    let below_another = fs::read_dir(sysfs.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
    let floppy = value("MAJOR") == Some("2"); // opening one without a disk in it takes seconds
    // A boot sector that passes for a partition table, or that of a hybrid disc: it is the disk once more.
    let all_of_the_disk = fs::read_to_string(sysfs.join("start")).is_ok_and(|start| start.trim() == "0");
    if empty || below_another || floppy || all_of_the_disk {
        return None;
    }
    Some(Candidate { node: value("DEVNAME")?.to_owned(), part_name: value("PARTNAME").map(str::to_owned) })
}

/// `None` for none; more than one is an error.
fn the_only(found: &[PathBuf], label: &str) -> Result<Option<PathBuf>> {
    if found.len() < 2 {
        return Ok(found.first().cloned());
    }
    let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
    let message = format!("more than one block device has the label {label}: {}", names.join(", "));
    Err(Error::new(Reason::DeviceAmbiguous, message)
        .remedy("Remove the other disk, change its label, or name the device itself."))
}

struct Candidate {
    node: String,
    part_name: Option<String>,
}

/// The label of an ext2, ext3, ext4, FAT or ISO 9660 filesystem; `None` if it is another one, or has no label.
pub fn filesystem_label(device: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut start = [0; 2048];
    let length = read_at(device, 0, &mut start)?;
    let label = ext_label(&start[..length]).or(fat_label(device, &start[..length])?);
    if label.is_some() { Ok(label) } else { iso_label(device) }
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

fn read_at(device: &mut (impl Read + Seek), at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    device.seek(SeekFrom::Start(at))?;
    let mut length = 0;
    while length < buffer.len() {
        match device.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// What the bootloader said: to this system, or in a file that stands for `/proc/cmdline`.
pub fn command_line(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else { return System::default().command_line() };
    fs::read_to_string(file).context(Reason::NoCommandLine, format!("read {}", file.display()))
}

/// What a bootloader with our loader file puts on the kernel command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// `kubesolo.slot=`: the booted slot.
    pub slot: Result<Slot, Odd>,
    /// `ks.trial=`: [`TrialId::NONE`] when this boot is no trial. Absent or odd is never a trial of ours.
    pub trial: Result<TrialId, Odd>,
    /// `ks.fallback=`: why the bootloader did not boot what it was asked to; [`Odd::Absent`] is the ordinary case.
    pub fallback: Result<Fallback, Odd>,
    /// `ks.proto=`; anything but 1 means that the old loader file is still installed.
    pub proto: Result<u32, Odd>,
    /// `kubesolo.seed=removable`: settings may come from a medium that somebody brings along.
    pub removable_seed: bool,
}

/// Why a parameter of the kernel command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Odd {
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
        Self {
            slot: parameter(line, "kubesolo.slot"),
            trial: parameter(line, "ks.trial"),
            fallback: parameter(line, "ks.fallback"),
            proto: parameter(line, "ks.proto"),
            removable_seed: parameter::<String>(line, "kubesolo.seed").is_ok_and(|seed| seed == "removable"),
        }
    }

    /// The booted slot, or the error for who cannot do without it.
    pub fn booted(&self) -> Result<Slot> {
        self.slot.clone().map_err(|odd| {
            let why = match odd {
                Odd::Absent => "kubesolo.slot= is not on the kernel command line".to_owned(),
                Odd::Repeated => "kubesolo.slot= is on the kernel command line more than once".to_owned(),
                Odd::Value(value) => format!("kubesolo.slot=\"{}\" is neither A nor B", text::shown(&value)),
            };
            Error::new(Reason::BootedSlotUnknown, format!("the booted slot is not known: {why}"))
                .remedy("Install the loader file of this agent; for slots in folders, name the slot with --booted.")
        })
    }
}

fn parameter<T: std::str::FromStr>(line: &str, key: &str) -> Result<T, Odd> {
    let mut values = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    match (values.next(), values.next()) {
        (None, _) => Err(Odd::Absent),
        (Some(_), Some(_)) => Err(Odd::Repeated),
        (Some(value), None) => value.parse().map_err(|_| Odd::Value(value.to_owned())),
    }
}
