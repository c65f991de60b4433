//! A slot: the place of one kernel and one initramfs, their hash files, what the release adds to them, and their manifest.

pub mod checksums;
mod dir;
pub mod extras;
mod filesystem;
mod image;
mod manifest;
mod writer;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bootenv::step::Step;
use bytes::Bytes;
use nix::sys::statvfs::FsFlags;
use nix::unistd::AccessFlags;

pub use self::image::{Begun, Kept, Watch};
pub use self::manifest::SlotManifest;
pub use self::writer::Writer;

use self::checksums::Checksums;
use self::dir::{Dir, part_name};
use self::filesystem::Condition;
use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{console, text};
use crate::config::Config;
use crate::device::blocks::{self, System};
use crate::device::env;
use crate::device::mount::{self, Filesystem, Mounted};
use crate::fetch::body::Body;
use crate::release::release::Blob;
use crate::trust::keys::KeySet;
use crate::trust::signature::{KeyId, Signature};
use crate::trust::stream::StreamVerifier;

/// Name of the slot manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The hash files and the manifest.
const HASHES: [&str; 4] = [MANIFEST_FILE, "vmlinuz.sha256", "kubesolo-os.gz.sha256", checksums::FILE];
/// Every file of a slot, in the order in which they go when it is emptied: the images last.
const FILES: [&[&str]; 3] = [&HASHES, &extras::FILES, &["vmlinuz", "kubesolo-os.gz"]];
/// Room beside the images and a device tree, in bytes: the other files, and the filesystem's own blocks for all of them.
const MARGIN_BYTES: u64 = 1024 * 1024;
/// One read of an image that is copied, in bytes.
const COPY_BYTES: usize = 256 * 1024;
/// Longest hash file that is read, in bytes.
const HASH_FILE_BYTES: u64 = 256;

/// One of the two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `vmlinuz`
    Kernel,
    /// `kubesolo-os.gz`
    Initramfs,
}

impl Part {
    /// Both, in the order in which they are written.
    pub const BOTH: [Part; 2] = [Part::Kernel, Part::Initramfs];

    /// Its file in the slot.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinuz",
            Self::Initramfs => "kubesolo-os.gz",
        }
    }

    /// The file with its hash.
    #[must_use]
    pub fn hash_file(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinuz.sha256",
            Self::Initramfs => "kubesolo-os.gz.sha256",
        }
    }

    /// The content of its hash file: one line as `sha256sum` writes it and GRUB's `hashsum --check` reads it.
    #[must_use]
    pub fn hash_line(self, digest: &Digest) -> String {
        format!("{}  {}\n", digest.hex(), self.file())
    }
}

/// Where a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder, used as it is.
    Folder(PathBuf),
    /// A block device with ext4, mounted for each use.
    Device(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Folder(path) | Self::Device(path)) = self;
        path.display().fmt(f)
    }
}

/// A slot and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the two.
    pub id: bootenv::SlotId,
    /// Where it is.
    pub place: Place,
    /// True if its bootloader compares CRC-32, because it cannot hash: U-Boot.
    pub checksums: bool,
}

/// Both slots of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Slot A.
    pub a: Slot,
    /// Slot B.
    pub b: Slot,
}

impl Slots {
    /// Finds both slots where the settings say, else by label. One place for both is refused.
    pub fn locate(config: &Config, system: &System) -> Result<Self> {
        let a = Slot::locate(bootenv::SlotId::A, config.slot_a.as_deref(), system)?;
        let b = Slot::locate(bootenv::SlotId::B, config.slot_b.as_deref(), system)?;
        if a.identity()? == b.identity()? {
            let message = format!("slots A and B are in the same place: {} and {}", a.place, b.place);
            return Err(Error::new(Reason::SlotUnusable, message).remedy("Name two different places."));
        }
        let checksums = env::compares_checksums(config);
        Ok(Self { a: Slot { checksums, ..a }, b: Slot { checksums, ..b } })
    }

    /// The slot of that name.
    #[must_use]
    pub fn get(&self, id: bootenv::SlotId) -> &Slot {
        match id {
            bootenv::SlotId::A => &self.a,
            bootenv::SlotId::B => &self.b,
        }
    }
}

/// Content of a slot at a glance, without hashing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Size of `vmlinuz` in bytes, if it is there.
    pub kernel: Option<u64>,
    /// Size of `kubesolo-os.gz` in bytes, if it is there.
    pub initramfs: Option<u64>,
    /// True if both hash files are there.
    pub hash_files: bool,
    /// `manifest.json`: `None` if there is none, the error if it cannot be used.
    pub manifest: Option<Result<SlotManifest, String>>,
}

impl Facts {
    /// True if every file is there and the images have the sizes of the manifest.
    #[must_use]
    pub fn looks_complete(&self) -> bool {
        matches!(&self.manifest, Some(Ok(manifest)) if self.hash_files
            && self.kernel == Some(manifest.kernel.size) && self.initramfs == Some(manifest.initramfs.size))
    }
}

impl Slot {
    /// The slot at a place that is named as in `slot_a=`: a folder, a block device, `PARTUUID=` with the identity of a
    /// partition on any disk, `LABEL=` with a label on the disk that was booted, or `None` for its own label there.
    pub fn locate(id: bootenv::SlotId, named: Option<&str>, system: &System) -> Result<Self> {
        let default_label = match id {
            bootenv::SlotId::A => blocks::SLOT_A_LABEL,
            bootenv::SlotId::B => blocks::SLOT_B_LABEL,
        };
        let found = match named {
            None => system.find(default_label).map(Place::Device),
            Some(named) => match (named.strip_prefix("LABEL="), named.strip_prefix("PARTUUID=")) {
                (Some(label), _) => system.find(label).map(Place::Device),
                (_, Some(identity)) => partition(identity, system).map(Place::Device),
                _ => place(named, system),
            },
        };
        let place = found.map_err(|e| e.context(format_args!("slot {id}")))?;
        Ok(Self { id, place, checksums: false })
    }

    /// Identity of the place.
    fn identity(&self) -> Result<(u64, u64)> {
        let (Place::Folder(path) | Place::Device(path)) = &self.place;
        let meta = path.metadata().map_err(|e| unusable(path, e))?;
        Ok(if meta.file_type().is_block_device() { (meta.rdev(), 0) } else { (meta.dev(), meta.ino()) })
    }

    /// Does something with the folder of the slot, without writing.
    fn read<T>(&self, f: impl FnOnce(&Dir) -> Result<T>) -> Result<T> {
        let read = || match &self.place {
            Place::Folder(path) => f(&Dir::folder(path)?),
            Place::Device(device) => {
                let mounted = Mounted::read_only(device, Filesystem::Ext4)?;
                // The folder is closed again before the unmount.
                let result = Dir::mounted(mounted.path(), device).and_then(|dir| f(&dir));
                mounted.unmount().and(result)
            }
        };
        read().map_err(|e| e.context(format_args!("slot {}", self.id)))
    }

    /// Which release the slot says it holds; `None` if it has no manifest. Nothing is hashed.
    pub fn manifest(&self) -> Result<Option<SlotManifest>> {
        self.read(manifest)
    }

    /// Which files are there. Nothing is hashed.
    pub fn facts(&self) -> Result<Facts> {
        self.read(|dir| {
            let size = |name| Ok(dir.stat(name)?.filter(is_regular).map(|stat| stat.st_size.cast_unsigned()));
            let hash_file = |part: Part| size(part.hash_file()).map(|size| size.is_some_and(|size| size > 0));
            Ok(Facts {
                kernel: size(Part::Kernel.file())?,
                initramfs: size(Part::Initramfs.file())?,
                hash_files: hash_file(Part::Kernel)?
                    && hash_file(Part::Initramfs)?
                    && (!self.checksums || size(checksums::FILE)?.is_some()),
                manifest: manifest(dir).map_err(|e| e.message).transpose(),
            })
        })
    }

    /// Does the bootloader's check of the slot: both images, read from the medium, against their hash files, and what the release
    /// adds to them.
    /// [`Exit::Data`] if it would refuse them.
    pub fn hashes(&self) -> Result<[Blob; 2]> {
        self.drop_cache()?;
        self.read(|dir| hashes(dir, self.checksums).map(|(images, _)| images))
    }

    /// Writes the hash files that a bootloader needs, where a slot was filled by who writes none. Nothing that is there changes:
    /// the one thing that may be done to a slot that runs. [`Exit::Data`] if a hash file is there and does not fit.
    pub fn complete_hashes(&self) -> Result<()> {
        self.drop_cache()?;
        let missing = self.read(|dir| {
            let mut missing = vec![];
            for part in Part::BOTH {
                let blob = dir.hash(part.file(), |_| ())?.ok_or_else(|| incomplete(dir, part.file()))?;
                match dir.read(part.hash_file(), HASH_FILE_BYTES)? {
                    Some(line) if !line.is_empty() => fits(dir, part, &blob, &line)?,
                    _ => missing.push((part, blob)),
                }
            }
            Ok(missing)
        })?;
        if missing.is_empty() {
            return Ok(());
        }
        let here = |e: Error| e.context(format_args!("slot {}", self.id));
        writer::add_hashes(self, &missing).map_err(here)?;
        self.hashes().map(drop).or_else(|e| {
            // A wrong hash file must not look like damage of the images from now on.
            writer::remove_hashes(self, &missing).map_err(here)?;
            Err(if e.exit() == Exit::Data { writer::failed_read_back(&e.message) } else { e })
        })
    }

    /// Re-hashes both images from the medium and compares them with hash files and manifest. [`Exit::Data`] if the slot does
    /// not hold a complete release.
    pub fn verify(&self) -> Result<SlotManifest> {
        self.drop_cache()?;
        self.read(|dir| {
            let manifest = manifest(dir)?.ok_or_else(|| incomplete(dir, MANIFEST_FILE))?;
            let (images, checksums) = hashes(dir, self.checksums)?;
            if images != [manifest.kernel, manifest.initramfs] {
                let message = format!("{}: the images do not match {MANIFEST_FILE}", dir.shown());
                return Err(Error::new(Reason::SlotDamaged, message).remedy(DAMAGED_REMEDY));
            }
            extras::compare(dir, &manifest, checksums.as_ref())?;
            console::log_step(Step::ReadBack(self.id));
            Ok(manifest)
        })
    }

    /// Which keys vouch for `content`, which [`Self::verify`] found here. Signatures of the images themselves are checked over
    /// what the medium has.
    pub fn vouched(&self, content: &SlotManifest, keys: &KeySet) -> Result<Vec<KeyId>> {
        let Some(files) = &content.file_signatures else { return keys.verify(&content.signed, &content.signatures) };
        let parts =
            [(Part::Kernel, &files.kernel, content.kernel), (Part::Initramfs, &files.initramfs, content.initramfs)];
        self.read(|dir| {
            let one = |(part, signatures, blob): (Part, &Vec<Signature>, Blob)| {
                let mut verifier = StreamVerifier::new(keys, signatures)?;
                if dir.hash(part.file(), |bytes| verifier.update(bytes))? != Some(blob) {
                    let message = format!("{}: {} does not match {MANIFEST_FILE}", dir.shown(), part.file());
                    return Err(Error::new(Reason::SlotDamaged, message).remedy(DAMAGED_REMEDY));
                }
                verifier.finish().map_err(|e| e.context(part.file()))
            };
            let mut vouching = parts.into_iter().map(one).collect::<Result<Vec<_>>>()?.concat();
            vouching.sort();
            vouching.dedup();
            Ok(vouching)
        })
    }

    /// Makes the next read come from the medium. A folder has no such switch: its files are read past the cache.
    fn drop_cache(&self) -> Result<()> {
        match &self.place {
            Place::Folder(_) => Ok(()),
            Place::Device(device) => {
                mount::claim(device, false).map_err(|e| e.context(format_args!("slot {}", self.id)))
            }
        }
    }

    /// True if `need` bytes of images and of a device tree can be written here in place of what the slot holds now. Asked before anything is
    /// erased.
    pub fn check_room(&self, need: u64) -> Result<()> {
        match &self.place {
            Place::Folder(path) => {
                Dir::folder(path)?;
                nix::unistd::access(path, AccessFlags::W_OK | AccessFlags::X_OK)
                    .map_err(|e| dir::write_error(&format!("write in {}", path.display()), &e.into()))
            }
            Place::Device(device) => mount::claim(device, true).and_then(|()| filesystem::check_features(device)),
        }
        .map_err(|e| e.context(format_args!("slot {}", self.id)))?;
        let free = self.free().map_err(|e| e.context(format_args!("slot {}", self.id)))?;
        let need = need.saturating_add(MARGIN_BYTES);
        if need > free {
            let message = format!(
                "slot {} is too small: {} needs {}, and has {} free without the old images",
                self.id,
                self.place,
                bytes(need),
                bytes(free)
            );
            return Err(Error::new(Reason::NoSpace, message).remedy(
                "Nothing was erased. Remove other files there, publish a smaller release, or use a larger slot.",
            ));
        }
        Ok(())
    }

    fn free(&self) -> Result<u64> {
        if let Place::Device(device) = &self.place {
            match filesystem::condition(device)? {
                Condition::Sound => {}
                Condition::Damaged(why) => return filesystem::can_be_made(device).map_err(|e| e.context(why)),
                // The agent reads everything back that it writes there, so it is worth a try.
                Condition::Unclean => match filesystem::can_be_made(device) {
                    Ok(free) => return Ok(free),
                    Err(why) => log::warn!("slot {} was not unmounted after its last write, and {why}", self.id),
                },
            }
        }
        self.read(|dir| room(dir, &self.place))
    }

    /// True if a filesystem that a power cut has made unusable could be recreated here; a folder has none.
    pub fn can_be_made_anew(&self) -> Result<()> {
        match &self.place {
            Place::Folder(_) => Ok(()),
            Place::Device(device) => filesystem::can_be_made(device).map(drop),
        }
    }

    /// Opens an image, to be read once to its end. The mount of a device lasts as long as the body.
    ///
    /// # Errors
    /// 65 when the slot does not have it.
    pub fn image(&self, part: Part) -> Result<SlotBody> {
        let open = || {
            let (dir, mounted) = match &self.place {
                Place::Folder(path) => (Dir::folder(path)?, None),
                Place::Device(device) => {
                    let mounted = Mounted::read_only(device, Filesystem::Ext4)?;
                    (Dir::mounted(mounted.path(), device)?, Some(mounted))
                }
            };
            let file = dir.open_file(part.file())?.ok_or_else(|| incomplete(&dir, part.file()))?;
            let place = format!("{} of slot {}", part.file(), self.id);
            Ok(SlotBody { file, place, _mounted: mounted })
        };
        open().map_err(|e: Error| e.context(format_args!("slot {}", self.id)))
    }

    /// The device tree of `content`, which the slot holds; `None` if it has none.
    ///
    /// # Errors
    /// 65 when the slot lacks it.
    pub fn tree(&self, content: &SlotManifest) -> Result<Option<Vec<u8>>> {
        let tree = if content.extras { content.release()?.devicetree } else { None };
        tree.map(|tree| self.read(|dir| extras::tree(dir, &tree))).transpose()
    }

    /// Empties the slot, which makes it void, and begins to fill it. Recreates a filesystem that is not trusted.
    pub fn writer(&self) -> Result<Writer> {
        self.writer_from(&[])
    }

    /// The same, but for what an earlier run began: that stays, as far as its bytes are those of the record. Only for a slot
    /// that the boot environment calls void already.
    pub fn writer_from(&self, begun: &[Begun]) -> Result<Writer> {
        Writer::new(self, begun).map_err(|e| e.context(format_args!("slot {}", self.id)))
    }
}

/// An image as a slot has it. Its size and digest are for the receiver to check.
#[derive(Debug)]
pub struct SlotBody {
    // In this order: an open file would keep the filesystem from being unmounted.
    file: File,
    place: String,
    _mounted: Option<Mounted>,
}

impl SlotBody {
    /// Reads at any place, whatever was read before; fewer bytes only at the end.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

impl Body for SlotBody {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        let mut chunk = Vec::with_capacity(COPY_BYTES);
        let read = (&self.file).take(COPY_BYTES as u64).read_to_end(&mut chunk);
        let read = read.map_err(|e| {
            Error::new(Reason::SlotUnreadable, format!("cannot read {}: {e}", self.place)).remedy(DAMAGED_REMEDY)
        })?;
        Ok((read > 0).then(|| chunk.into()))
    }
}

fn partition(identity: &str, system: &System) -> Result<PathBuf> {
    let id = identity.to_ascii_lowercase().parse();
    system.identified(&id.map_err(|why| unusable(Path::new(identity), why))?)
}

fn place(path: &str, system: &System) -> Result<Place> {
    let named = Path::new(path);
    if let Some(device) = system.by_link(named)? {
        return Ok(Place::Device(device));
    }
    let meta = named.metadata().map_err(|e| unusable(named, e))?;
    if meta.is_dir() {
        Dir::folder(named)?;
        Ok(Place::Folder(named.to_owned()))
    } else if meta.file_type().is_block_device() {
        // A link as of /dev/mapper is common; messages name the device.
        Ok(Place::Device(named.canonicalize().map_err(|e| unusable(named, e))?))
    } else {
        Err(unusable(named, "it is neither a folder nor a block device"))
    }
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    let message = format!("cannot use \"{}\": {why}", text::escape(&path.to_string_lossy()));
    Error::new(Reason::SlotUnusable, message).remedy("Name a folder or a block device that exists.")
}

fn is_regular(stat: &nix::sys::stat::FileStat) -> bool {
    stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG
}

fn manifest(dir: &Dir) -> Result<Option<SlotManifest>> {
    let Some(bytes) = dir.read(MANIFEST_FILE, manifest::MANIFEST_JSON_BYTES)? else { return Ok(None) };
    SlotManifest::parse(&bytes).map(Some).map_err(|e| e.context(dir.shown()))
}

/// Both images as they match their hash files, and their checksums where the bootloader compares these.
fn hashes(dir: &Dir, checksums: bool) -> Result<([Blob; 2], Option<Checksums>)> {
    let (mut blobs, mut sums) = (vec![], checksums.then(Checksums::default));
    for part in Part::BOTH {
        let line = dir.read(part.hash_file(), HASH_FILE_BYTES)?.ok_or_else(|| incomplete(dir, part.hash_file()))?;
        let also = |bytes: &[u8]| sums.iter_mut().for_each(|sums| sums.update(part, bytes));
        let blob = dir.hash(part.file(), also)?.ok_or_else(|| incomplete(dir, part.file()))?;
        fits(dir, part, &blob, &line)?;
        blobs.push(blob);
    }
    if let Some(sums) = &sums {
        sums.compare(dir)?;
    }
    extras::check(dir, sums.as_ref())?;
    Ok(([blobs[0], blobs[1]], sums))
}

fn fits(dir: &Dir, part: Part, blob: &Blob, line: &[u8]) -> Result<()> {
    if line == part.hash_line(&blob.digest).as_bytes() {
        return Ok(());
    }
    let (file, hash_file) = (part.file(), part.hash_file());
    let message = format!("{}: {file} has the digest {}, which differs from {hash_file}", dir.shown(), blob.digest);
    Err(Error::new(Reason::SlotDamaged, message).remedy(DAMAGED_REMEDY))
}

const DAMAGED_REMEDY: &str = "Run `kubesolo-update apply` to fill the slot again.";

fn incomplete(dir: &Dir, missing: &str) -> Error {
    let message = format!("{} is incomplete: {missing} is missing", dir.shown());
    Error::new(Reason::SlotIncomplete, message).remedy(DAMAGED_REMEDY)
}

/// Bytes that can be written once the old files of the slot are gone.
fn room(dir: &Dir, place: &Place) -> Result<u64> {
    let fs = dir.free()?;
    if fs.flags().contains(FsFlags::ST_RDONLY) && matches!(place, Place::Folder(_)) {
        return Err(dir::write_error(&format!("write in {place}"), &nix::Error::EROFS.into()));
    }
    let blocks = match place {
        Place::Folder(_) => fs.blocks_available(),
        // The agent may use the blocks reserved for root, except those that ext4 keeps for itself: two hundredths of the
        // blocks, 4096 at most (kernel, ext4_calculate_resv_clusters).
        Place::Device(_) => fs.blocks_free().saturating_sub((fs.blocks() / 50 + 1).min(4096)),
    };
    let mut free = blocks.saturating_mul(fs.fragment_size());
    for name in FILES.concat().into_iter().flat_map(|name| [name.to_owned(), part_name(name)]) {
        // The blocks of a file with a second name stay.
        if let Some(stat) = dir.stat(&name)?.filter(|stat| is_regular(stat) && stat.st_nlink == 1) {
            free = free.saturating_add(stat.st_blocks.cast_unsigned() * 512);
        }
    }
    Ok(free)
}

fn bytes(n: u64) -> String {
    format!("{:.1} MiB ({n} bytes)", n as f64 / (1024.0 * 1024.0))
}
