//! Block devices as the kernel shows them in sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::error::{Context, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::{System, filesystem_label};
use crate::device::table::{Entry, Extent, PartId, Table};

/// Sizes of a disk's blocks that are believed, in bytes.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 512..=65536;
/// Floppy drives: opening one without a disk in it takes seconds (kernel, `admin-guide/devices.txt`).
const FLOPPY: &str = "2:";
/// SCSI peripheral type of optical drives.
const OPTICAL: &str = "5";
/// How deep mappings are followed, for example LUKS on LVM on a partition.
const DEPTH: u32 = 8;

/// A disk, a partition or a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its folder in sysfs, without links.
    sysfs: PathBuf,
    /// Its device node.
    pub(super) node: PathBuf,
    /// `MAJOR:MINOR`.
    pub(super) number: String,
    /// Its name in a GPT.
    part_name: Option<String>,
}

impl Block {
    /// The device that has this folder in sysfs; `None` if it has none of a block device.
    fn new(system: &System, folder: &Path) -> Option<Self> {
        let sysfs = fs::canonicalize(folder).ok()?;
        let uevent = files::read_kernel(&sysfs.join("uevent")).ok()?;
        let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let number = format!("{}:{}", value("MAJOR")?, value("MINOR")?);
        let node = system.dev.join(value("DEVNAME")?);
        Some(Self { node, number, part_name: value("PARTNAME").map(str::to_owned), sysfs })
    }

    /// The device with this `MAJOR:MINOR`.
    pub(super) fn by_number(system: &System, number: &str) -> Option<Self> {
        Self::new(system, &system.sys.join("dev/block").join(number))
    }

    /// The device with this node, by its name.
    pub(super) fn by_node(system: &System, node: &Path) -> Option<Self> {
        // The kernel writes a slash in the name of a device as an exclamation mark.
        let name = node.strip_prefix(&system.dev).ok()?.to_str()?.replace('/', "!");
        Self::new(system, &system.sys.join("class/block").join(name))
    }

    /// All that there are, in the order of their names.
    ///
    /// # Errors
    /// 78 without sysfs.
    pub(super) fn all(system: &System) -> Result<Vec<Self>> {
        let class = system.sys.join("class/block");
        let entries = fs::read_dir(&class).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let reading = format_args!("list block devices in {}", class.display());
        let mut folders: Vec<_> = entries.context(Reason::NoSysfs, reading)?;
        folders.sort_by_key(fs::DirEntry::file_name);
        Ok(folders.iter().filter_map(|folder| Self::new(system, &folder.path())).collect())
    }

    /// A file of its folder, without line feed; empty if it is not there.
    fn says(&self, file: &str) -> String {
        files::read_kernel(&self.sysfs.join(file)).unwrap_or_default().trim().to_owned()
    }

    /// The same as a number.
    fn counts(&self, file: &str) -> Option<u64> {
        self.says(file).parse().ok()
    }

    fn name(&self) -> String {
        self.sysfs.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.sysfs.join(folder)).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }

    /// True if a mapping, an array or a multipath device lies above it: that one shows the same content.
    fn is_covered(&self) -> bool {
        let uuid = self.says("dm/uuid");
        // The partitions of a multipath device are mappings too.
        let is_own_part = |holder: &PathBuf| {
            let of = files::read_kernel(&holder.join("dm/uuid")).unwrap_or_default();
            !uuid.is_empty() && of.trim().strip_prefix("part").is_some_and(|of| of.ends_with(&format!("-{uuid}")))
        };
        !self.entries("holders").iter().all(is_own_part)
    }

    /// True for a drive of optical discs. Its size says nothing about a disc: without one, it is that of an earlier one, or the
    /// driver's first guess (kernel, `sr_probe` of drivers/scsi/sr.c).
    fn is_optical(&self) -> bool {
        self.says("device/type") == OPTICAL
    }

    /// True if opening it is of use: a drive with a medium, as far as the kernel knows, and no floppy.
    fn has_medium(&self) -> bool {
        self.counts("size") != Some(0) && !self.number.starts_with(FLOPPY)
    }

    /// The kernel's serial number of this disk since power-on: it never gives one twice. Empty before Linux 5.15.
    pub(super) fn sequence(&self) -> String {
        self.says("diskseq")
    }

    /// True if this system can have been started from it: a whole disk of this machine, and what is seen when the parts of
    /// an array or the paths to a disk are put together.
    pub(super) fn is_boot_disk(&self, system: &System) -> bool {
        !self.is_partition()
            && self.has_medium()
            // No slot can be written on a disc.
            && !self.is_optical()
            && !self.is_covered()
            && self.says("hidden") != "1"
            && !self.is_remote()
            && (!self.is_virtual(system) || self.is_assembled())
    }

    fn is_partition(&self) -> bool {
        self.sysfs.join("partition").exists() || self.part_of_mapping().is_some()
    }

    fn is_virtual(&self, system: &System) -> bool {
        let devices = fs::canonicalize(&system.sys).unwrap_or_default().join("devices");
        self.sysfs.starts_with(devices.join("virtual")) || self.sysfs.starts_with(devices.join("rbd"))
    }

    /// A multipath device or an array. The head of an NVMe disk with several paths is no device of the machine's, either.
    fn is_assembled(&self) -> bool {
        self.says("dm/uuid").starts_with("mpath-")
            || self.sysfs.join("md").exists()
            || self.sysfs.components().any(|part| part.as_os_str() == "nvme-subsystem")
    }

    /// iSCSI has a session in its path. A controller of NVMe over fabrics says so; a head has links to all of its.
    fn is_remote(&self) -> bool {
        let session = |part: &str| part.strip_prefix("session").is_some_and(|n| n.parse::<u32>().is_ok());
        let controllers = self.entries("device").into_iter().filter(|path| path.join("transport").exists());
        let local = |folder: &Path| {
            let transport = files::read_kernel(&folder.join("transport")).unwrap_or_default();
            matches!(transport.trim(), "" | "pcie" | "apple-nvme")
        };
        self.sysfs.components().any(|part| part.as_os_str().to_str().is_some_and(session))
            || !local(&self.sysfs.join("device"))
            || controllers.into_iter().any(|controller| !local(&controller))
    }

    /// The number of a partition that the device mapper made of a multipath device, and the identity of that device.
    fn part_of_mapping(&self) -> Option<(u32, String)> {
        let uuid = self.says("dm/uuid");
        let (number, whole) = uuid.strip_prefix("part")?.split_once('-')?;
        Some((number.parse().ok()?, whole.to_owned())).filter(|(_, whole)| whole.starts_with("mpath-"))
    }

    /// True if all of this device lies on that disk: a partition of it, or a mapping of such ones.
    pub(super) fn lies_on(&self, system: &System, disk: &Self) -> bool {
        self.lies_on_within(system, disk, DEPTH)
    }

    fn lies_on_within(&self, system: &System, disk: &Self, depth: u32) -> bool {
        if self.sysfs == disk.sysfs || depth == 0 {
            return self.sysfs == disk.sysfs;
        }
        if self.sysfs.join("partition").exists() {
            let whole = self.sysfs.parent().and_then(|folder| Self::new(system, folder));
            return whole.is_some_and(|whole| whole.lies_on_within(system, disk, depth - 1));
        }
        let below: Vec<_> = self.entries("slaves").iter().map(|folder| Self::new(system, folder)).collect();
        let lies =
            |below: &Option<Self>| below.as_ref().is_some_and(|below| below.lies_on_within(system, disk, depth - 1));
        !below.is_empty() && below.iter().all(lies)
    }

    /// The array or multipath device that was put together from this disk since, or the disk itself.
    pub(super) fn assembled(self, system: &System) -> Self {
        let above: Vec<_> = self.entries("holders").iter().filter_map(|folder| Self::new(system, folder)).collect();
        match &above[..] {
            [whole] if whole.is_assembled() && !whole.is_partition() => whole.clone(),
            _ => self,
        }
    }

    /// The disk of a device that is one, a partition, or a mapping of one partition.
    pub(super) fn disk(&self, system: &System) -> Option<Self> {
        let mut at = self.clone();
        for _ in 0..DEPTH {
            at = if at.sysfs.join("partition").exists() {
                Self::new(system, at.sysfs.parent()?)?
            } else if let [below] = &at.entries("slaves")[..]
                && !at.is_assembled()
            {
                Self::new(system, below)?
            } else {
                return Some(at);
            };
        }
        None
    }

    /// True if a filesystem may be looked for on it.
    pub(super) fn is_volume(&self) -> bool {
        // A boot sector that passes for a partition table, or that of a hybrid disc: it is the disk once more.
        let all_of_the_disk = self.sysfs.join("partition").exists() && self.counts("start") == Some(0);
        self.has_medium() && !self.is_covered() && !all_of_the_disk
    }

    /// True if the partition has this name in a GPT, or the filesystem this label.
    ///
    /// # Errors
    /// The device cannot be read.
    pub(super) fn is_named(&self, labels: &[&str]) -> io::Result<bool> {
        let wanted = |name: Option<&str>| name.is_some_and(|name| labels.contains(&name));
        if wanted(self.part_name.as_deref()) {
            return Ok(true);
        }
        let label = filesystem_label(&mut files::open_data(&self.node)?)?;
        Ok(wanted(label.as_deref()))
    }

    /// The partitions of this disk with that identity, as far as the kernel and the table of the disk agree.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(super) fn partitions(&self, system: &System, id: &PartId) -> io::Result<Vec<Self>> {
        let block = self.counts("queue/logical_block_size");
        let block = block.filter(|bytes| BLOCK_BYTES.contains(bytes) && bytes.is_power_of_two()).unwrap_or(512);
        let Some(table) = Table::read(&mut files::open_data(&self.node)?, block)? else { return Ok(vec![]) };
        let named = table.named(id);
        if named.is_empty() {
            return Ok(vec![]);
        }
        let all = Self::all(system).unwrap_or_default();
        Ok(all.into_iter().filter(|part| named.iter().any(|entry| part.is_entry_of(self, entry))).collect())
    }

    fn is_entry_of(&self, disk: &Self, entry: &Entry) -> bool {
        let mapped = self.part_of_mapping();
        let (number, ours) = match &mapped {
            Some((number, whole)) => (Some(u64::from(*number)), *whole == disk.says("dm/uuid")),
            None => (self.counts("partition"), self.sysfs.parent() == Some(&disk.sysfs)),
        };
        let extent = || Some(Extent { start: self.counts("start")?, size: self.counts("size")? });
        let fits = match entry.extent {
            None => true,
            // Where a mapping begins is not shown.
            Some(wanted) if mapped.is_some() => self.counts("size") == Some(wanted.size),
            Some(wanted) => extent() == Some(wanted),
        };
        ours && number == Some(u64::from(entry.number)) && fits
    }

    /// True if a person in front of the machine could have brought a disk that this device lies on, or if that cannot be
    /// determined: an array or a mapping is removable if any device below it is.
    pub(super) fn is_removable(&self, system: &System) -> bool {
        self.is_removable_within(system, DEPTH)
    }

    fn is_removable_within(&self, system: &System, depth: u32) -> bool {
        let below = match self.sysfs.parent() {
            Some(whole) if self.sysfs.join("partition").exists() => vec![whole.to_owned()],
            _ => self.entries("slaves"),
        };
        if below.is_empty() {
            return self.is_removable_disk(system);
        }
        let removable = |folder: &PathBuf| {
            Self::new(system, folder).is_none_or(|below| depth == 0 || below.is_removable_within(system, depth - 1))
        };
        below.iter().any(removable)
    }

    /// True if the disk is on USB, an SD card or an optical drive, if the kernel calls it or a device that it is attached to
    /// removable, or if it is no device of this machine: a file, memory, or a disk of the network.
    fn is_removable_disk(&self, system: &System) -> bool {
        // The head of an NVMe disk with several paths is attached to all of its controllers.
        let controllers = self.entries("device").into_iter().filter(|path| path.join("transport").exists());
        let places: Vec<_> = match self.is_virtual(system) {
            true => controllers.filter_map(|controller| fs::canonicalize(controller).ok()).collect(),
            false => vec![self.sysfs.clone()],
        };
        places.is_empty()
            || places.iter().any(|place| is_pluggable(place))
            || self.is_remote()
            // An unreadable answer is neither yes nor no.
            || self.says("removable") != "0"
            || self.takes_media()
    }

    /// True if a person brought the disk that this volume lies on, without any doubt: a disk or a partition of one that is on
    /// USB, an SD card or an optical disc, or that the kernel calls removable. No file, array, mapping or disk of the network.
    pub(super) fn is_brought(&self, system: &System) -> bool {
        let partition = self.sysfs.join("partition").exists();
        let disk =
            if partition { self.sysfs.parent().and_then(|whole| Self::new(system, whole)) } else { Some(self.clone()) };
        disk.is_some_and(|disk| {
            let real = !disk.is_virtual(system) && !disk.is_remote() && disk.entries("slaves").is_empty();
            real && (is_pluggable(&disk.sysfs) || disk.says("removable") == "1" || disk.takes_media())
        })
    }

    fn takes_media(&self) -> bool {
        self.is_optical() || self.says("device/type") == "SD"
    }
}

/// True if a device at this place in sysfs is on USB, or if the kernel calls a device that it is attached to removable.
fn is_pluggable(place: &Path) -> bool {
    let says = |folder: &Path| {
        files::read_kernel(&folder.join("removable")).is_ok_and(|said| ["removable", "1"].contains(&said.trim()))
    };
    let on_usb = place.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    on_usb || place.ancestors().skip(1).any(says)
}

/// For a person, who has to find out which disk to take out.
impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let serial = ["serial", "device/serial", "device/cid"].iter().map(|file| self.says(file));
        let serial = serial.into_iter().find(|serial| !serial.is_empty());
        let path = self.sysfs.to_string_lossy();
        let (_, bus) = path.split_once("/devices/").unwrap_or(("", &path));
        let bus = bus.strip_suffix(&format!("/block/{}", self.name())).unwrap_or(bus);
        write!(f, "{} (", self.node.display())?;
        if let Some(serial) = serial {
            write!(f, "serial {}, ", text::escape(&serial))?;
        }
        write!(f, "at {})", text::escape(bus))
    }
}
