//! Kernel arguments and a device tree of a release beside its images: `bootenv::extras`.

use bootenv::extras::{self, ARGUMENTS, LIST, LIST_OF, TREE, TREE_BYTES, UBOOT_BYTES, Uboot};

use super::checksums::Checksums;
use super::dir::Dir;
use super::{DAMAGED_REMEDY, HASH_FILE_BYTES, Part, SlotManifest, incomplete};
use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::release::extras::KernelArgs;
use crate::release::release::Blob;

/// Every file of them, in the order in which they are removed: a bootloader that finds no list takes nothing.
pub(super) const FILES: [&str; 4] = [LIST, LIST_OF, ARGUMENTS, TREE];
/// Longest list that is read, in bytes: four lines.
const LIST_BYTES: u64 = 4 * HASH_FILE_BYTES;

/// Kernel arguments and device tree of a release, for one slot.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    /// Kernel arguments, as a [`KernelArgs`] has them.
    pub arguments: Option<&'a str>,
    /// The device tree.
    pub tree: Option<&'a [u8]>,
}

impl Extras<'_> {
    /// The files, in the order in which they are written: the lists that make them count are last. `images` has the digests of
    /// kernel and initramfs; `checksums` is for U-Boot, which compares these.
    #[must_use]
    pub fn files(&self, images: [&Digest; 2], checksums: Option<&Checksums>) -> Vec<(&'static str, Vec<u8>)> {
        if self.arguments.is_none() && self.tree.is_none() {
            return vec![];
        }
        let mut files: Vec<_> = self.tree.map(|tree| (TREE, tree.to_vec())).into_iter().collect();
        if let Some(checksums) = checksums {
            files.push((ARGUMENTS, extras::uboot(self.arguments, checksums.values(), self.tree)));
            return files;
        }
        files.extend(self.arguments.map(|arguments| (ARGUMENTS, extras::grub(arguments))));
        let line = |name: &str, bytes: &[u8]| format!("{}  {name}\n", Digest::of(bytes).hex());
        let of = |(part, digest): (Part, &Digest)| line(part.hash_file(), part.hash_line(digest).as_bytes());
        let list_of: String = Part::BOTH.into_iter().zip(images).map(of).collect();
        let list = files.iter().fold(list_of.clone(), |list, (name, bytes)| list + &line(name, bytes));
        files.extend([(LIST_OF, list_of.into_bytes()), (LIST, list.into_bytes())]);
        files
    }
}

/// Checks the files as the bootloader does, after both images matched their hash files. [`Exit::Data`](crate::base::error::Exit)
/// if it would refuse the slot.
pub(super) fn check(dir: &Dir, checksums: Option<&Checksums>) -> Result<()> {
    let whole = match checksums {
        Some(checksums) => uboot(dir, checksums)?,
        None => holds(dir, LIST)? || !holds(dir, LIST_OF)?,
    };
    if whole {
        Ok(())
    } else {
        Err(damaged(dir, "kernel arguments or device tree of the release are damaged or missing"))
    }
}

/// True if a list is there, and all files that it names have their hashes.
fn holds(dir: &Dir, list: &str) -> Result<bool> {
    let Some(list) = dir.read(list, LIST_BYTES)?.filter(|list| !list.is_empty()) else { return Ok(false) };
    for line in String::from_utf8_lossy(&list).lines() {
        let named = line.split_once("  ").filter(|(_, name)| !name.contains('/'));
        let Some((digest, name)) = named else { return Ok(false) };
        match dir.hash(name, |_| ())? {
            Some(blob) if blob.digest.hex() == digest => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn uboot(dir: &Dir, checksums: &Checksums) -> Result<bool> {
    let Some(bytes) = dir.read(ARGUMENTS, UBOOT_BYTES as u64)? else { return Ok(true) };
    match extras::read_uboot(&bytes, checksums.values()) {
        Uboot::OfOthers | Uboot::Ours { tree: None } => Ok(true),
        Uboot::Damaged => Ok(false),
        Uboot::Ours { tree: Some((size, checksum)) } => {
            let tree = dir.read(TREE, TREE_BYTES as u64)?;
            Ok(tree.is_some_and(|tree| tree.len() == size && crc32fast::hash(&tree) == checksum))
        }
    }
}

/// The device tree of a release.
pub(super) fn tree(dir: &Dir, blob: &Blob) -> Result<Vec<u8>> {
    let tree = dir.read(TREE, TREE_BYTES as u64)?.ok_or_else(|| incomplete(dir, TREE))?;
    if Blob::of(&tree) == *blob {
        return Ok(tree);
    }
    Err(damaged(dir, format_args!("{TREE} does not match the release")))
}

/// Compares every file with what the release says. Nothing is compared where an older agent filled the slot: it knows no extras.
pub(super) fn compare(dir: &Dir, manifest: &SlotManifest, checksums: Option<&Checksums>) -> Result<()> {
    if !manifest.extras {
        return Ok(());
    }
    let release = manifest.release()?;
    let tree = release.devicetree.map(|blob| tree(dir, &blob)).transpose()?;
    let extras = Extras { arguments: release.kernel_args.as_ref().map(KernelArgs::as_str), tree: tree.as_deref() };
    for (name, bytes) in extras.files([&manifest.kernel.digest, &manifest.initramfs.digest], checksums) {
        let found = dir.read(name, bytes.len() as u64)?.ok_or_else(|| incomplete(dir, name))?;
        if found != bytes {
            return Err(damaged(dir, format_args!("{name} does not match the release")));
        }
    }
    Ok(())
}

fn damaged(dir: &Dir, why: impl std::fmt::Display) -> Error {
    Error::new(Reason::SlotDamaged, format!("{}: {why}", dir.shown())).remedy(DAMAGED_REMEDY)
}
