//! The start of a device: slot A with a published release, the boot partition, and the scripts that make a disk of them.
//!
//! Everything that needs a tool of the machine (a partition table, filesystems, GRUB) is left to the scripts in the folder,
//! which say what is missing.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use bootenv::grub::Block;
use bootenv::loader::{FileId, Stage};
use bootenv::protocol::{BootState, FallbackBlock};
use bootenv::uboot::{self, Environment, Format};
use bootenv::{SlotId, loader};
use chrono::DateTime;
use kubesolo_update::base::console::progress::Shown;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::replace::Replacement;
use kubesolo_update::base::{files, replace};
use kubesolo_update::device::slot::checksums::{self, Checksums};
use kubesolo_update::device::slot::{Part, Place, Slot, SlotManifest};
use kubesolo_update::release::release::{Architecture, Blob};
use kubesolo_update::source::bundle::BundleSource;
use kubesolo_update::source::source::{self, Source as _};
use kubesolo_update::trust::keys::KeySet;

use super::registry::Access;
use super::{bundle, date};

const MAKE_DISK: &str = include_str!("../factory/make-disk.sh");
const MAKE_LOADER: &str = include_str!("../factory/make-loader.sh");
const MIB: u64 = 1 << 20;
/// Smallest partition that FAT32 fits into, in MiB: 65525 clusters of 512 bytes and two tables of them.
pub const EFI_MIB: u64 = 34;
/// Bytes of a copy of U-Boot's environment, and where both are on their partition: as `docs/uboot.md` names them.
const UBOOT_COPY_BYTES: usize = 0x4000;
const UBOOT_COPIES: [usize; 2] = [0, 0x8_0000];

/// How the devices boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// GRUB, by BIOS or UEFI
    Grub,
    /// U-Boot, unmodified
    Uboot,
}

impl Boot {
    fn as_str(self) -> &'static str {
        match self {
            Boot::Grub => "grub",
            Boot::Uboot => "uboot",
        }
    }
}

/// Content of slot A.
#[derive(Clone, Debug)]
pub enum Content {
    /// A published release: an OCI reference.
    Published(String),
    /// A published release in a bundle.
    Bundle(PathBuf),
    /// Images that nobody published: kernel and initramfs. The slot has no manifest.
    Unpublished([PathBuf; 2]),
}

/// A device to make.
#[derive(Clone, Debug)]
pub struct Device {
    /// Of its CPU.
    pub architecture: Architecture,
    /// Its bootloader.
    pub boot: Boot,
    /// Kernel arguments of the device, beside those of the slot protocol.
    pub kernel_args: Option<String>,
    /// Size of the boot partition in MiB, at least [`EFI_MIB`].
    pub efi_mib: u64,
    /// Size of each slot in MiB; by default two and a half times the images, at least 256.
    pub slot_mib: Option<u64>,
    /// Size of the data partition in MiB.
    pub data_mib: u64,
}

/// The result.
#[derive(Debug)]
pub struct Made {
    /// Version and digest of the release, unless it is not published.
    pub release: Option<SlotManifest>,
    /// Size of each slot in MiB.
    pub slot_mib: u64,
}

/// Fills the new or empty folder `dir`.
///
/// # Errors
/// 64 for arguments that do not fit together, 65 and 77 as a device would refuse the release, 73 when `dir` cannot be written.
pub fn factory(dir: &Path, content: &Content, keys: Option<&KeySet>, device: &Device, access: &Access) -> Result<Made> {
    let arguments = check(device)?;
    let begun = Begun::at(dir)?;
    let slot_dir = dir.join("slot-a");
    make_dir(dir, "slot-a")?;
    let slot = Slot { id: SlotId::A, place: Place::Folder(slot_dir), checksums: device.boot == Boot::Uboot };
    let (release, images) = match (content, keys) {
        (Content::Unpublished(images), _) => {
            log::warn!("slot A gets images that nobody published or signed: devices cannot prove what they run");
            (None, put_images(&slot, images)?)
        }
        (Content::Bundle(file), Some(keys)) => filled(&slot, file, device.architecture, keys)?,
        (Content::Published(reference), Some(keys)) => {
            // One way to read a release with the publisher's login, and to prove it as a device does.
            let file = dir.join("release.tar");
            bundle::bundle(reference, &file, Some(device.architecture), access)?;
            let filled = filled(&slot, &file, device.architecture, keys)?;
            std::fs::remove_file(&file).map_err(|e| not_written(&file, &e))?;
            filled
        }
        (_, None) => return Err(Error::new(Reason::Usage, "a published release needs --pubkey")),
    };
    let slot_mib = slot_mib(device, images)?;
    put_boot(dir, device.boot, arguments.as_deref())?;
    let conf = format!("architecture={}\nboot={}\n", device.architecture, device.boot.as_str());
    put(&dir.join("factory.conf"), conf.as_bytes(), 0o644)?;
    put(&dir.join("disk.sfdisk"), table(device, slot_mib).as_bytes(), 0o644)?;
    put(&dir.join("make-disk.sh"), MAKE_DISK.as_bytes(), 0o755)?;
    begun.keep();
    Ok(Made { release, slot_mib })
}

/// The file of kernel arguments for the bootloader, if there are some.
fn check(device: &Device) -> Result<Option<String>> {
    if device.architecture == Architecture::Amd64 && device.boot == Boot::Uboot {
        return Err(Error::new(Reason::Usage, "amd64 boots by grub; only arm64 boots by uboot"));
    }
    if device.efi_mib < EFI_MIB {
        let message = format!("--efi-mib {}: FAT32 needs at least {EFI_MIB}", device.efi_mib);
        return Err(Error::new(Reason::Usage, message));
    }
    let Some(line) = &device.kernel_args else { return Ok(None) };
    let grub = loader::arguments(line).map_err(|why| {
        Error::new(Reason::Usage, format!("--kernel-args: {why}"))
            .remedy("Use letters, digits and . _ , : = / @ + % ~ - only, 700 bytes at most.")
    })?;
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    Ok(Some(match device.boot {
        Boot::Grub => grub,
        Boot::Uboot => format!("ks_args={}\n", words.join(" ")),
    }))
}

/// The folder while it is being filled. It is emptied again unless it is kept, so that the same command can be repeated.
#[derive(Debug)]
struct Begun<'a> {
    dir: &'a Path,
    is_new: bool,
    kept: bool,
}

impl<'a> Begun<'a> {
    /// The folder must be empty: nothing of an earlier release may get onto the disk.
    fn at(dir: &'a Path) -> Result<Self> {
        let is_new = !dir.exists();
        std::fs::create_dir_all(dir).map_err(|e| not_written(dir, &e))?;
        let mut entries = std::fs::read_dir(dir).map_err(|e| not_written(dir, &e))?;
        if entries.next().is_some() {
            let message = format!("{} is not empty", dir.display());
            return Err(Error::new(Reason::NotWritten, message).remedy("Name a new folder. No file was changed."));
        }
        Ok(Self { dir, is_new, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }

    /// Everything in the folder is ours, because it was empty.
    fn clear(&self) -> std::io::Result<()> {
        if self.is_new {
            return std::fs::remove_dir_all(self.dir);
        }
        for entry in std::fs::read_dir(self.dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.clear()
        {
            log::warn!("{} is not empty now: {error}", self.dir.display());
        }
    }
}

/// Fills the slot with the device's own code, and proves the release with it.
fn filled(
    slot: &Slot,
    file: &Path,
    architecture: Architecture,
    keys: &KeySet,
) -> Result<(Option<SlotManifest>, [Blob; 2])> {
    let mut source = BundleSource::open(file, None, "stable")?;
    let offer = source::offer(&mut source, architecture, Some(keys))?;
    keys.verify(&offer.signed, &offer.signatures)?;
    let blobs = [source.locate(offer.release.kernel)?, source.locate(offer.release.initramfs)?];
    let tree = source::devicetree(&mut source, &offer.release, &mut 0)?;
    let mut writer = slot.writer()?;
    writer.add_tree(tree);
    let mut progress = Shown::new("writing", blobs.iter().map(|blob| blob.size).sum());
    for (part, blob) in Part::BOTH.into_iter().zip(&blobs) {
        writer.part(part, blob, &mut *source.open(blob)?, &mut progress)?;
    }
    let written_at = DateTime::parse_from_rfc3339(&date::release_date(None)?)
        .map_err(|_| Error::new(Reason::Internal, "this program wrote a date that it cannot read"))?;
    let manifest = SlotManifest::new(&offer, blobs, written_at.to_utc());
    writer.finish(&manifest)?;
    Ok((Some(manifest), blobs))
}

/// Copies images into the slot, with their hash files.
fn put_images(slot: &Slot, images: &[PathBuf; 2]) -> Result<[Blob; 2]> {
    let Place::Folder(dir) = &slot.place else {
        return Err(Error::new(Reason::Internal, "the slot of a factory is a folder"));
    };
    let mut checksums = Checksums::default();
    let [kernel, initramfs] = [0, 1].map(|n| {
        let (part, image) = (Part::BOTH[n], &images[n]);
        let blob = super::blob(image)?;
        copy(image, &dir.join(part.file()), |bytes| checksums.update(part, bytes))?;
        put(&dir.join(part.hash_file()), part.hash_line(&blob.digest).as_bytes(), 0o644)?;
        Ok(blob)
    });
    if slot.checksums {
        put(&dir.join(checksums::FILE), checksums.text().as_bytes(), 0o644)?;
    }
    Ok([kernel?, initramfs?])
}

fn copy(from: &Path, to: &Path, mut also: impl FnMut(&[u8])) -> Result<()> {
    let unreadable = |e| Error::new(Reason::ImageUnreadable, format!("read {}: {e}", from.display()));
    let mut image = files::open_data(from).map_err(unreadable)?;
    let mut copy = Replacement::begin(to, 0o644).map_err(|e| not_written(to, &e))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = image.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            return copy.finish().map_err(|e| not_written(to, &e));
        }
        also(&buffer[..read]);
        copy.file().write_all(&buffer[..read]).map_err(|e| not_written(to, &e))?;
    }
}

fn slot_mib(device: &Device, images: [Blob; 2]) -> Result<u64> {
    let need = (images.iter().map(|blob| blob.size).sum::<u64>() + MIB).div_ceil(MIB);
    match device.slot_mib {
        Some(given) if given < need => {
            let message = format!("--slot-mib {given}: the images of this release need {need}");
            Err(Error::new(Reason::Usage, message))
        }
        Some(given) => Ok(given),
        None => Ok((need * 5 / 2).next_multiple_of(64).max(256)),
    }
}

/// The boot partition's files, and what the scripts put beside them.
fn put_boot(dir: &Path, boot: Boot, arguments: Option<&str>) -> Result<()> {
    let state = BootState::committed(SlotId::A);
    let partition = dir.join("boot");
    make_dir(dir, "boot")?;
    if boot == Boot::Uboot {
        let environment = Environment::default().with(&state.variables());
        let mut image = vec![0; UBOOT_COPIES[1] + UBOOT_COPY_BYTES];
        for at in UBOOT_COPIES {
            let copy = environment.encode(UBOOT_COPY_BYTES, Format::Redundant, 1);
            let copy = copy.map_err(|e| Error::new(Reason::Internal, e.to_string()))?;
            image[at..at + UBOOT_COPY_BYTES].copy_from_slice(&copy);
        }
        put(&dir.join("uboot-env.img"), &image, 0o644)?;
        put(&dir.join("boot.cmd"), uboot::SCRIPT.as_bytes(), 0o644)?;
        return arguments.map_or(Ok(()), |text| put(&partition.join("kernel-args.txt"), text.as_bytes(), 0o644));
    }
    let grub = partition.join("grub");
    make_dir(dir, "boot/grub")?;
    put(&grub.join(loader::ENTRY), &loader::stage1(), 0o644)?;
    // The same file twice: if one rots, the other one boots.
    for file in FileId::BOTH {
        put(&grub.join(file.script()), loader::TEXT.as_bytes(), 0o644)?;
        let line = format!("{}  {}\n", Digest::of(loader::TEXT.as_bytes()).hex(), file.script());
        put(&grub.join(file.sum()), line.as_bytes(), 0o644)?;
    }
    put(&grub.join(loader::STAGE), Stage::settled(FileId::First).block().bytes(), 0o644)?;
    put(&grub.join("grubenv"), Block::main(&state).bytes(), 0o644)?;
    put(&grub.join("ksenv2"), Block::second(&FallbackBlock::of(&state)).bytes(), 0o644)?;
    put(&dir.join("make-loader.sh"), MAKE_LOADER.as_bytes(), 0o755)?;
    arguments.map_or(Ok(()), |text| put(&grub.join(loader::ARGUMENTS), text.as_bytes(), 0o644))
}

/// The script for sfdisk. Sectors have 512 bytes; types are names or GUIDs that sfdisk knows.
fn table(device: &Device, slot_mib: u64) -> String {
    let mut table = String::from("label: gpt\nunit: sectors\nfirst-lba: 34\n\n");
    let mut at = 1;
    let mut add = |number: u32, mib: u64, kind: &str, name: &str| {
        table += &format!("{number} : start={}, size={}, type={kind}, name={name}\n", at * 2048, mib * 2048);
        at += mib;
    };
    add(1, device.efi_mib, "uefi", "KSOLOEFI");
    add(2, slot_mib, "linux", "KSOLOA");
    add(3, slot_mib, "linux", "KSOLOB");
    add(4, device.data_mib, "linux", "KSOLODATA");
    match (device.boot, device.architecture) {
        (Boot::Uboot, _) => add(5, 1, "linux", "KSOLOENV"),
        (Boot::Grub, Architecture::Amd64) => {
            // GRUB's own partition for BIOS, before everything else.
            table += "5 : start=34, size=2014, type=21686148-6449-6E6F-744E-656564454649, name=BIOSBOOT\n";
        }
        (Boot::Grub, Architecture::Arm64) => {}
    }
    table
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace::replace(path, bytes, mode).map_err(|e| not_written(path, &e))
}

fn make_dir(dir: &Path, below: &str) -> Result<()> {
    replace::create_folders(dir, below.as_ref()).map_err(|e| not_written(&dir.join(below), &e))
}

fn not_written(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Reason::NotWritten, format!("cannot write {}: {e}", path.display()))
}
