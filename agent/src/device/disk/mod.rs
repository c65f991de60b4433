//! The disk that this system was started from, and the partitions on it.
//!
//! A disk that somebody plugs in can carry any label, and its data partition would bring programs, settings and keys. So
//! partitions are only looked for on the disk that was booted, and there is one answer for the agent, the init stage and the
//! units. The bootloader names the booted partition (`ks.part=`); without that, the disk is the one that carries the root
//! filesystem, or both slots. Where two disks fit, nothing is guessed.

mod block;
mod pin;
pub mod stick;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::device::table::PartId;
use block::Block;
use pin::{Pin, Pinned};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::{CommandLine, DATA_LABEL, ESP_LABEL, SLOT_A_LABEL, SLOT_B_LABEL, System};

/// Where the data partition is mounted.
pub const DATA_FOLDER: &str = "/var/lib/kubesolo";
/// Which instance was set up by user-data: a device with this file was configured.
pub const INSTANCE_RECORD: &str = "/var/lib/kubesolo/cloud-init/instance";
/// Label of the partition with U-Boot's environment.
pub const ENV_LABEL: &str = "KSOLOENV";
/// Labels of a seed volume: both spellings that cloud-init knows.
pub const SEED_LABELS: [&str; 2] = ["CIDATA", "cidata"];
/// How long a disk may take to show up after it was first looked for, in seconds.
const PATIENCE: f64 = 10.0;

const COPY_REMEDY: &str =
    "Take one of the disks out. If it is to stay, give the copy identities of its own on another machine: sgdisk -G.";

/// Purpose of a partition of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The data partition, which survives updates.
    Data,
    /// Slot A.
    SlotA,
    /// Slot B.
    SlotB,
    /// The EFI system partition, or the one with U-Boot's script.
    Efi,
    /// U-Boot's environment.
    Env,
    /// User-data for the first boot; it may be on another disk.
    Seed,
}

/// Which volume of user-data counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Found(PathBuf),
    /// None: there are only these, each with the reason that it does not count.
    Ignored(Vec<String>),
}

/// How a place is named on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    /// A label on the disk that was booted.
    Label(String),
    /// An identity, on any disk.
    Identity(PartId),
    /// A device node on the disk that was booted.
    Node(PathBuf),
}

/// All disks that the search found.
struct Search {
    found: Vec<Block>,
    /// Disks that cannot be read, with the reason.
    unreadable: Vec<String>,
}

impl System {
    /// The partition for this role.
    ///
    /// # Errors
    /// 75 when it is not there yet, 78 when it is not there or more than one has its name.
    pub fn partition(&self, role: Role) -> Result<PathBuf> {
        match role {
            Role::Data => self.data(),
            Role::SlotA => self.find(SLOT_A_LABEL),
            Role::SlotB => self.find(SLOT_B_LABEL),
            Role::Efi => self.find(ESP_LABEL),
            Role::Env => self.find(ENV_LABEL),
            Role::Seed => match self.seed(self.was_configured()?)? {
                Seed::Found(device) => Ok(device),
                Seed::Ignored(why) => {
                    let why = if why.is_empty() { "there is none".to_owned() } else { why.join("; ") };
                    Err(Error::new(Reason::DeviceNotFound, format!("no seed volume: {why}")))
                }
            },
        }
    }

    /// True if user-data set this device up before. Only our own data partition can say so.
    fn was_configured(&self) -> Result<bool> {
        self.check_data()?;
        Ok(Path::new(INSTANCE_RECORD).exists())
    }

    /// The block device that a path of the settings names; `None` if the path is none of udev's links by name, and is to be
    /// opened as it is. udev's links by name lead to any disk that carries the name: a label is looked for on the disk that
    /// was booted, a partition's identity on all disks, and the link of a filesystem's identity must lead to our disk.
    ///
    /// # Errors
    /// 75 when it is not there yet, 78 when it is not there, is ambiguous, or is on another disk.
    pub fn by_link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Ok(link) = path.strip_prefix("/dev/disk") else { return Ok(None) };
        let mut parts = link.iter().map(|part| part.to_str());
        let (Some(Some(kind)), Some(Some(name)), None) = (parts.next(), parts.next(), parts.next()) else {
            return Ok(None);
        };
        match kind {
            "by-label" | "by-partlabel" => self.find(name).map(Some),
            "by-partuuid" => {
                let id = name.to_ascii_lowercase().parse();
                self.identified(&id.map_err(|why| unusable_link(path, &why))?).map(Some)
            }
            "by-uuid" => self.on_own_disk(path, &self.dev.join("disk").join(link)).map(Some),
            _ => Ok(None),
        }
    }

    /// The device that a link leads to, if that is on the disk that was booted.
    fn on_own_disk(&self, named: &Path, link: &Path) -> Result<PathBuf> {
        let disk = self.own_disk()?;
        let dev = fs::canonicalize(&self.dev).unwrap_or_default();
        let real = fs::canonicalize(link).unwrap_or_default();
        let device = real.strip_prefix(&dev).ok().and_then(|node| Block::by_node(self, &self.dev.join(node)));
        match device {
            Some(device) if device.lies_on(self, &disk) => Ok(device.node),
            Some(device) => {
                let why = format!("it is {}, which is not on {disk}", device.node.display());
                Err(unusable_link(named, &why))
            }
            None => Err(self.not_yet(unusable_link(named, &"it leads to no block device"))),
        }
    }

    /// The disk that this system was started from, in words.
    ///
    /// # Errors
    /// As for [`Self::partition`].
    pub fn boot_disk(&self) -> Result<String> {
        self.own_disk().map(|disk| disk.to_string())
    }

    /// The one partition with this GPT name or filesystem label on the disk that was booted.
    ///
    /// # Errors
    /// 75 when it is not there yet, 78 when it is not there or more than one has this name.
    pub fn find(&self, label: &str) -> Result<PathBuf> {
        let disk = self.own_disk()?;
        let (mut found, mut unreadable) = (vec![], vec![]);
        for volume in Block::all(self)?.into_iter().filter(|it| it.is_volume() && it.lies_on(self, &disk)) {
            match volume.is_named(&[label]) {
                Ok(true) if volume != disk => found.push(volume.node),
                Ok(_) => {}
                Err(e) => unreadable.push(format!("{}: {e}", volume.node.display())),
            }
        }
        match &found[..] {
            [device] => Ok(device.clone()),
            [] => Err(self.not_yet(not_found(label, &disk, &unreadable))),
            several => {
                let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                let message = format!("more than one partition of {disk} is labelled {label}: {}", names.join(", "));
                Err(ambiguous(message, "Change the label of one, or name the device itself."))
            }
        }
    }

    /// The partition with this identity, on any disk of this machine.
    ///
    /// # Errors
    /// 75 when it is not there yet, 78 when it is not there or there is more than one.
    pub fn identified(&self, id: &PartId) -> Result<PathBuf> {
        self.with_identity(id).map(|part| part.node)
    }

    fn with_identity(&self, id: &PartId) -> Result<Block> {
        let mut partitions = vec![];
        let mut unreadable = vec![];
        for disk in self.boot_disks()? {
            match disk.partitions(self, id) {
                Ok(found) => partitions.extend(found.into_iter().map(|part| (part, disk.clone()))),
                Err(e) => unreadable.push(format!("{}: {e}", disk.node.display())),
            }
        }
        match &partitions[..] {
            [(part, _)] => Ok(part.clone()),
            [] => {
                let message = with_reasons(format!("there is no partition with the identity {id}"), &unreadable);
                Err(self.not_yet(Error::new(Reason::DeviceNotFound, message)))
            }
            several => {
                let disks: Vec<_> = several.iter().map(|(_, disk)| disk.to_string()).collect();
                let message = format!("more than one partition has the identity {id}: on {}", disks.join(" and on "));
                Err(ambiguous(message, COPY_REMEDY))
            }
        }
    }

    /// The partition that the bootloader says it booted.
    ///
    /// # Errors
    /// 78 when it is not on the disk.
    pub fn booted(&self, id: &PartId) -> Result<PathBuf> {
        let disk = self.own_disk()?;
        let found = disk
            .partitions(self, id)
            .context(Reason::DeviceNotFound, format_args!("read the partition table of {}", disk.node.display()))?;
        match &found[..] {
            [part] => Ok(part.node.clone()),
            _ => Err(Error::new(
                Reason::DeviceNotFound,
                format!("{disk} has no partition {id} any more, which the bootloader booted"),
            )
            .remedy("Reboot: the partition table was changed.")),
        }
    }

    /// Other disks that could be the booted one as well: they were plugged in since it was found.
    ///
    /// # Errors
    /// As for [`Self::partition`].
    pub fn twins(&self) -> Result<Vec<String>> {
        let disk = self.own_disk()?;
        let found = self.search(&self.command_line()?)?.found;
        Ok(found.iter().filter(|other| **other != disk).map(Block::to_string).collect())
    }

    /// The volume of user-data, if any counts: on the disk that was booted always; on another fixed disk as long as the
    /// device was not `configured`, or with `kubesolo.seed=fixed`; on a removable one with `kubesolo.seed=removable` alone.
    ///
    /// # Errors
    /// 78 when there is more than one.
    pub fn seed(&self, configured: bool) -> Result<Seed> {
        let line = CommandLine::parse(&self.command_line()?);
        let own = self.own_disk().inspect_err(|e| log::debug!("seed: {e}")).ok();
        let (mut found, mut ignored) = (vec![], vec![]);
        for volume in Block::all(self)?.into_iter().filter(Block::is_volume) {
            if !volume.is_named(&SEED_LABELS).unwrap_or_default() {
                continue;
            }
            let ours = own.as_ref().is_some_and(|own| volume.lies_on(self, own));
            let removable = volume.is_removable(self);
            let why = match removable {
                _ if ours => None,
                true => (!line.seed_removable).then_some(
                    "the medium is removable, and kubesolo.seed=removable is not on the kernel command line",
                ),
                false => (configured && !line.seed_fixed).then_some(
                    "this device was configured before, and kubesolo.seed=fixed is not on the kernel command line",
                ),
            };
            match why {
                None => found.push(volume.node),
                Some(why) => ignored.push(format!("the seed on {} is ignored: {why}", volume.node.display())),
            }
        }
        match &found[..] {
            [] => Ok(Seed::Ignored(ignored)),
            [device] => Ok(Seed::Found(device.clone())),
            several => {
                let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                let message = format!("more than one volume is labelled CIDATA: {}", names.join(", "));
                Err(ambiguous(message, "Remove the other one, or change its label."))
            }
        }
    }

    /// True if the content of the data folder may be read: it must be on the booted disk, whichever program mounted it, or
    /// on the partition that `kubesolo.data=` names. A folder of the root filesystem, or on no disk at all, counts as ours.
    ///
    /// # Errors
    /// 78 `foreign-data`, or as for [`Self::partition`].
    pub fn check_data(&self) -> Result<()> {
        match mounted_device(Path::new(DATA_FOLDER)) {
            Some(number) => self.check_data_on(&number),
            None => Ok(()),
        }
    }

    /// The same for data on the block device with this `MAJOR:MINOR`.
    ///
    /// # Errors
    /// As for [`Self::check_data`].
    pub fn check_data_on(&self, number: &str) -> Result<()> {
        let Some(device) = Block::by_number(self, number) else { return Ok(()) };
        let is_ours = match self.data_place()? {
            Some(Named::Identity(id)) => self.named_data(&id)? == device,
            _ => device.lies_on(self, &self.own_disk()?),
        };
        if is_ours {
            return Ok(());
        }
        let disk = device.disk(self).unwrap_or_else(|| device.clone());
        let message = format!(
            "{DATA_FOLDER} is on {}, which is not on the disk that was booted, but on {disk}: nothing there is read",
            device.node.display()
        );
        Err(Error::new(Reason::ForeignData, message).remedy(
            "Mount the right partition. Data on another disk on purpose is named by kubesolo.data=PARTUUID=… on the kernel command line.",
        ))
    }

    fn data(&self) -> Result<PathBuf> {
        match self.data_place()? {
            None => self.find(DATA_LABEL),
            Some(Named::Label(label)) => self.find(&label),
            Some(Named::Identity(id)) => self.named_data(&id).map(|device| device.node),
            Some(Named::Node(node)) => {
                let disk = self.own_disk()?;
                match Block::by_node(self, &node).filter(|device| device.lies_on(self, &disk)) {
                    Some(device) => Ok(device.node),
                    None => {
                        let message = format!("kubesolo.data= names {}, which is not on {disk}", node.display());
                        Err(self.not_yet(
                            Error::new(Reason::DeviceNotFound, message)
                                .remedy("Name a partition of another disk by its identity: kubesolo.data=PARTUUID=…"),
                        ))
                    }
                }
            }
        }
    }

    /// `kubesolo.data=` of the kernel command line.
    fn data_place(&self) -> Result<Option<Named>> {
        let line = CommandLine::parse(&self.command_line()?);
        let Some(word) = line.data else { return Ok(None) };
        let place = match (word.strip_prefix("PARTUUID="), word.strip_prefix("LABEL=")) {
            (Some(id), _) => id.to_ascii_lowercase().parse().map(Named::Identity).map_err(str::to_owned),
            (_, Some(label)) => Ok(Named::Label(label.to_owned())),
            _ if word.starts_with("/dev/") => Ok(Named::Node(self.dev.join(&word["/dev/".len()..]))),
            _ => Err("it is none of PARTUUID=…, LABEL=… and a device".to_owned()),
        };
        place.map(Some).map_err(|why| {
            let message = format!("cannot use kubesolo.data={}: {why}", text::escape(&word));
            Error::new(Reason::DeviceNotFound, message)
        })
    }

    fn boot_disks(&self) -> Result<Vec<Block>> {
        Ok(Block::all(self)?.into_iter().filter(|block| block.is_boot_disk(self)).collect())
    }

    fn own_disk(&self) -> Result<Block> {
        let text = self.command_line()?;
        let id = CommandLine::parse(&text).part.map_or(String::new(), |id| id.to_string());
        let pin = Pin::read(&self.run);
        if let Some(pinned) = pin.disk.filter(|pinned| pinned.id == id) {
            return self.pinned(&pinned).map(|disk| disk.assembled(self));
        }
        let search = self.search(&text)?;
        match &search.found[..] {
            [disk] => {
                self.keep(|pin| pin.disk = Some(self.to_pin(disk, id)));
                Ok(disk.clone())
            }
            [] => {
                let message = with_reasons("the disk that was booted is not found".to_owned(), &search.unreadable);
                Err(self.not_yet(Error::new(Reason::DeviceNotFound, message).remedy(
                    "It is the disk that the bootloader names (ks.part=), or the one with both slots, KSOLOA and KSOLOB.",
                )))
            }
            several => {
                let disks: Vec<_> = several.iter().map(Block::to_string).collect();
                let message = format!("any of these may be the disk that was booted: {}", disks.join(" and "));
                Err(ambiguous(message, COPY_REMEDY))
            }
        }
    }

    fn keep(&self, change: impl FnOnce(&mut Pin)) {
        let mut pin = Pin::read(&self.run);
        pin.since = pin.since.or_else(|| self.uptime());
        change(&mut pin);
        if let Err(e) = pin.keep(&self.run) {
            log::debug!("the disk that was booted is not kept in mind: {e}");
        }
    }

    fn to_pin(&self, device: &Block, id: String) -> Pinned {
        Pinned { number: device.number.clone(), sequence: self.sequence(device), id }
    }

    fn sequence(&self, device: &Block) -> String {
        device.disk(self).map(|disk| disk.sequence()).unwrap_or_default()
    }

    /// A device that was found before.
    fn pinned(&self, pinned: &Pinned) -> Result<Block> {
        let device = Block::by_number(self, &pinned.number).filter(|it| self.sequence(it) == pinned.sequence);
        device.ok_or_else(|| {
            let message = format!("device {}, which was found at the start, is not there any more", pinned.number);
            Error::new(Reason::DeviceNotFound, message).remedy("Attach the disk, then reboot.")
        })
    }

    /// The data partition that `kubesolo.data=` names by its identity.
    fn named_data(&self, id: &PartId) -> Result<Block> {
        let shown = id.to_string();
        if let Some(pinned) = Pin::read(&self.run).data.filter(|pinned| pinned.id == shown) {
            return self.pinned(&pinned);
        }
        let device = self.with_identity(id)?;
        self.keep(|pin| pin.data = Some(self.to_pin(&device, shown)));
        Ok(device)
    }

    /// All disks that can be the booted one, by what the bootloader says, else by the root filesystem, else by their slots.
    fn search(&self, text: &str) -> Result<Search> {
        let line = CommandLine::parse(text);
        let disks = self.boot_disks()?;
        let of_root = line.root.as_deref().and_then(|root| self.root(root));
        let mut search = Search { found: vec![], unreadable: vec![] };
        for disk in disks {
            let fits = match (&line.part, &of_root) {
                (Ok(id), _) | (_, Some(Named::Identity(id))) => {
                    disk.partitions(self, id).map(|parts| !parts.is_empty())
                }
                (_, Some(Named::Node(node))) => {
                    Ok(Block::by_node(self, node).is_some_and(|root| root.lies_on(self, &disk)))
                }
                _ => self.has_both_slots(&disk),
            };
            match fits {
                Ok(true) => search.found.push(disk),
                Ok(false) => {}
                Err(e) => search.unreadable.push(format!("{}: {e}", disk.node.display())),
            }
        }
        Ok(search)
    }

    /// The partition that `root=` names, if it names one.
    fn root(&self, root: &str) -> Option<Named> {
        if let Some(id) = root.strip_prefix("PARTUUID=") {
            return id.to_ascii_lowercase().parse().ok().map(Named::Identity);
        }
        let node = self.dev.join(root.strip_prefix("/dev/")?);
        let device = Block::by_node(self, &node)?;
        // /dev/ram0 is what an initramfs without a root filesystem may be given.
        let on_a_disk = device.disk(self).is_some_and(|disk| disk.is_boot_disk(self));
        on_a_disk.then_some(Named::Node(node))
    }

    fn has_both_slots(&self, disk: &Block) -> io::Result<bool> {
        let volumes = Block::all(self).unwrap_or_default().into_iter();
        let volumes: Vec<_> = volumes.filter(|it| it.is_volume() && it != disk && it.lies_on(self, disk)).collect();
        Ok(any_named(&volumes, SLOT_A_LABEL)? && any_named(&volumes, SLOT_B_LABEL)?)
    }

    /// For a while what is not found may still show up.
    fn not_yet(&self, error: Error) -> Error {
        let mut pin = Pin::read(&self.run);
        let Some(now) = self.uptime() else { return error };
        let since = *pin.since.get_or_insert(now);
        if now >= since + PATIENCE || pin.keep(&self.run).is_err() {
            return error;
        }
        Error::new(Reason::DiskNotReady, error.message)
            .remedy(format!("Disks have {PATIENCE} s to show up. {}", error.remedy))
    }
}

/// `MAJOR:MINOR` of the block device that a folder, or the nearest one above it that exists, is on; `None` if that is the root
/// filesystem, or no disk.
fn mounted_device(folder: &Path) -> Option<String> {
    let folder = folder.ancestors().find_map(|folder| fs::canonicalize(folder).ok())?;
    let device = fs::metadata(&folder).ok()?.dev();
    if device == fs::metadata("/").ok()?.dev() {
        return None;
    }
    let number = |device| format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if nix::sys::stat::major(device) != 0 {
        return Some(number(device));
    }
    // A filesystem with a number of its own, such as btrfs, still names its device.
    let mounts = files::read_kernel(Path::new("/proc/self/mountinfo")).ok()?;
    let source = fs::metadata(source_of(&mounts, &folder)?).ok()?;
    (source.mode() & nix::libc::S_IFMT == nix::libc::S_IFBLK).then(|| number(source.rdev()))
}

/// The source of the mount that a folder is on (kernel, `filesystems/proc.rst`, 3.5): the last one with the longest path.
fn source_of(mountinfo: &str, folder: &Path) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let (point, source) = (mount.split(' ').nth(4)?, filesystem.split(' ').nth(1)?);
        Some((Path::new(point), source)).filter(|(point, _)| folder.starts_with(point))
    });
    mounts.max_by_key(|(point, _)| point.components().count()).map(|(_, source)| source.into())
}

/// True if one of these has that label. An unreadable one only matters if none has.
fn any_named(volumes: &[Block], label: &str) -> io::Result<bool> {
    let mut unreadable = None;
    for volume in volumes {
        match volume.is_named(&[label]) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(e) => unreadable = Some(e),
        }
    }
    unreadable.map_or(Ok(false), Err)
}

fn not_found(label: &str, disk: &Block, unreadable: &[String]) -> Error {
    let message = with_reasons(format!("there is no partition with the label {label} on {disk}"), unreadable);
    Error::new(Reason::DeviceNotFound, message)
        .remedy("Name the place on the command line or in update.conf, or label the filesystem or partition.")
}

/// A link of udev's that a setting names, and that leads to nothing of use.
fn unusable_link(link: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(Reason::DeviceNotFound, format!("cannot use \"{}\": {why}", text::escape(&link.to_string_lossy())))
        .remedy("Name a partition of another disk by its identity: PARTUUID=…, or /dev/disk/by-partuuid/….")
}

fn with_reasons(message: String, unreadable: &[String]) -> String {
    if unreadable.is_empty() { message } else { format!("{message} (cannot read {})", unreadable.join(", ")) }
}

fn ambiguous(message: String, remedy: &str) -> Error {
    Error::new(Reason::DeviceAmbiguous, message).remedy(remedy)
}
