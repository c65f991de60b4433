//! Fills a slot, in an order that leaves it void or complete wherever the power goes.

use std::fs::File;
use std::io::Write;

use bootenv::step::Step;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::checksums::{self, Checksums};
use super::dir::{Dir, part_name};
use super::filesystem::{self, Condition};
use super::{FILES, MANIFEST_FILE, Part, Place, SMALL, Slot, SlotManifest};
use crate::base::console;
use crate::base::console::progress::Progress;
use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::sys;
use crate::device::mount::{self, Filesystem, Mounted};
use crate::fetch::body::Body;
use crate::release::release::Blob;

/// Bytes after which writing out starts. Two such pieces at most are waiting in memory, and the sync at the end is short.
const WRITE_OUT_BYTES: u64 = 8 * 1024 * 1024;
/// Where such a piece may end: at the largest page. One that ends within a page has it written again with the next piece,
/// and waiting for the first would be waiting for both.
const WRITE_OUT_ALIGNMENT: u64 = 64 * 1024;

/// A slot that is being filled. Void from the beginning; given up, it stays void.
#[derive(Debug)]
pub struct Writer {
    slot: Slot,
    // In this order: an open folder would keep the filesystem from being unmounted.
    dir: Dir,
    mounted: Option<Mounted>,
    written: [Option<Blob>; 2],
    checksums: Option<Checksums>,
}

impl Writer {
    pub(super) fn new(slot: &Slot) -> Result<Self> {
        let device = match &slot.place {
            Place::Folder(path) => return Self::emptied(slot, Dir::folder(path)?, None),
            Place::Device(device) => device,
        };
        // Another mount must be found before anything is erased.
        mount::claim(device, true)?;
        filesystem::check_features(device)?;
        match filesystem::condition(device)? {
            Condition::Sound => {}
            Condition::Unclean if filesystem::can_be_made(device).is_err() => {}
            Condition::Unclean | Condition::Damaged(_) => filesystem::make(device)?,
        }
        let mounted = Mounted::read_write(device, Filesystem::Ext4)?;
        let dir = Dir::mounted(mounted.path(), device)?;
        Self::emptied(slot, dir, Some(mounted))
    }

    fn emptied(slot: &Slot, dir: Dir, mounted: Option<Mounted>) -> Result<Self> {
        // In one value from here on: given up, the folder is closed before the unmount.
        let checksums = slot.checksums.then(Checksums::default);
        let writer = Self { slot: slot.clone(), dir, mounted, written: [None, None], checksums };
        let dir = &writer.dir;
        // Without hash files no bootloader and without manifest no agent takes the slot for filled: they are gone for sure
        // before an image changes.
        let (small, images) = FILES.split_at(SMALL);
        for (names, step) in [(small, Step::Unhash(slot.id)), (images, Step::Erase(slot.id))] {
            for name in names {
                dir.remove(name)?;
                dir.remove(&part_name(name))?;
            }
            dir.sync()?;
            console::log_step(step);
        }
        Ok(writer)
    }

    /// Writes one image as it arrives: each byte once, hashed on its way. The image gets the name that a bootloader looks
    /// for only when it is complete, proven and on the medium.
    pub fn part(&mut self, part: Part, blob: &Blob, body: &mut dyn Body, progress: &mut dyn Progress) -> Result<()> {
        let name = part_name(part.file());
        let file = self.dir.create(&name)?;
        if part == Part::Kernel {
            console::log_step(Step::Begin(self.slot.id));
        }
        let mut observed = Observed { body, progress, part, checksums: self.checksums.clone() };
        let result = self.stream(&name, &file, blob, &mut observed);
        let checksums = observed.checksums;
        drop(file);
        if let Err(e) = result.and_then(|()| self.dir.publish(part.file())) {
            if let Err(left) = self.dir.remove(&name) {
                log::warn!("{left}"); // it takes room until the next attempt, and nothing else
            }
            return Err(e.context(format_args!("slot {}, {}", self.slot.id, part.file())));
        }
        self.written[part as usize] = Some(*blob);
        if self.written.iter().all(Option::is_some) {
            console::log_step(Step::Images(self.slot.id));
        }
        self.checksums = checksums;
        Ok(())
    }

    fn stream(&self, name: &str, mut file: &File, blob: &Blob, body: &mut dyn Body) -> Result<()> {
        let wrong = |reason, why: String| Err(Error::new(reason, why).remedy(WRONG_BYTES_REMEDY));
        let (mut hasher, mut size) = (Sha256::new(), 0);
        let (mut started, mut finished) = (0, 0);
        while let Some(chunk) = body.chunk()? {
            size += chunk.len() as u64;
            if size > blob.size {
                return wrong(Reason::SizeMismatch, format!("more bytes arrived than the announced {}", blob.size));
            }
            file.write_all(&chunk).map_err(|e| self.dir.write_error(name, e))?;
            hasher.update(&chunk);
            let whole = size - size % WRITE_OUT_ALIGNMENT;
            if whole.saturating_sub(started) >= WRITE_OUT_BYTES {
                // The piece before this one has had time to be written while this one arrived.
                sys::start_write_out(file, started, whole - started)
                    .and_then(|()| sys::finish_write_out(file, finished, started - finished))
                    .map_err(|e| self.dir.write_error(name, e))?;
                (finished, started) = (started, whole);
            }
        }
        if size < blob.size {
            return wrong(Reason::SizeMismatch, format!("only {size} of {} bytes arrived", blob.size));
        }
        let digest = Digest(hasher.finalize().into());
        if digest != blob.digest {
            return wrong(Reason::DigestMismatch, format!("the bytes have the digest {digest}, not {}", blob.digest));
        }
        file.sync_all().map_err(|e| self.dir.write_error(name, e))
    }

    /// Completes the slot: hash files, the manifest last, all of it read back from the medium and compared.
    pub fn finish(self, manifest: &SlotManifest) -> Result<()> {
        if self.written != [Some(manifest.kernel), Some(manifest.initramfs)] {
            return Err(Error::new(Reason::Internal, "the slot lacks an image at the end of the write"));
        }
        let slot = self.slot.clone();
        let finished = self.complete(manifest);
        if let Err(e) = &finished {
            log::debug!("slot {}: {e}; emptying it", slot.id);
            // Complete or not, it must not look like a slot that holds.
            if let Err(left) = Self::new(&slot) {
                log::warn!("cannot empty slot {}: {left}", slot.id);
            }
        }
        finished.map_err(|e| e.context(format_args!("slot {}", slot.id)))
    }

    fn complete(self, manifest: &SlotManifest) -> Result<()> {
        for (part, blob) in [(Part::Kernel, manifest.kernel), (Part::Initramfs, manifest.initramfs)] {
            self.dir.put(part.hash_file(), part.hash_line(&blob.digest).as_bytes())?;
        }
        if let Some(checksums) = &self.checksums {
            self.dir.put(checksums::FILE, checksums.text().as_bytes())?;
        }
        console::log_step(Step::Hashes(self.slot.id));
        self.dir.put(MANIFEST_FILE, &manifest.encode())?;
        console::log_step(Step::Manifest(self.slot.id));
        let Self { slot, dir, mounted, .. } = self;
        drop(dir);
        if let Some(mounted) = mounted {
            mounted.unmount()?;
        }
        log::debug!("slot {}: written, reading back", slot.id);
        let found = slot.verify().map_err(|e| match e.exit() {
            Exit::Data => failed_read_back(&e.message),
            _ => e,
        })?;
        if found.encode() == manifest.encode() { Ok(()) } else { Err(failed_read_back("manifest.json differs")) }
    }
}

/// A body whose bytes advance the progress, and the checksums of the bootloader, as they pass.
struct Observed<'a> {
    body: &'a mut dyn Body,
    progress: &'a mut dyn Progress,
    part: Part,
    checksums: Option<Checksums>,
}

impl Body for Observed<'_> {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.body.chunk()?;
        if let Some(bytes) = &chunk {
            self.progress.advance(bytes.len() as u64);
            self.checksums.iter_mut().for_each(|checksums| checksums.update(self.part, bytes));
        }
        Ok(chunk)
    }
}

/// Adds hash files to a slot that is otherwise left as it is.
pub(super) fn add_hashes(slot: &Slot, hashes: &[(Part, Blob)]) -> Result<()> {
    in_place(slot, |dir| {
        hashes.iter().try_for_each(|(part, blob)| {
            // Left by a run that was cut off, or empty.
            dir.remove(&part_name(part.hash_file()))?;
            dir.remove(part.hash_file())?;
            dir.put(part.hash_file(), part.hash_line(&blob.digest).as_bytes()).inspect_err(|_| {
                let _ = dir.remove(&part_name(part.hash_file())); // the next run removes it first
            })
        })
    })
}

/// Takes them back.
pub(super) fn remove_hashes(slot: &Slot, hashes: &[(Part, Blob)]) -> Result<()> {
    in_place(slot, |dir| hashes.iter().try_for_each(|(part, _)| dir.remove(part.hash_file())).and_then(|()| dir.sync()))
}

fn in_place(slot: &Slot, change: impl FnOnce(&Dir) -> Result<()>) -> Result<()> {
    match &slot.place {
        Place::Folder(path) => change(&Dir::folder(path)?),
        Place::Device(device) => {
            mount::claim(device, true)?;
            let mounted = Mounted::read_write(device, Filesystem::Ext4)?;
            // The folder is closed again before the unmount.
            let changed = Dir::mounted(mounted.path(), device).and_then(|dir| change(&dir));
            mounted.unmount().and(changed)
        }
    }
}

const WRONG_BYTES_REMEDY: &str = "Nothing was kept. If the server has wrong bytes, publish the release again; if the network changed them, try \
     again.";

pub(super) fn failed_read_back(why: &str) -> Error {
    Error::new(Reason::ReadBackFailed, format!("the written bytes cannot be read back: {why}"))
        .remedy("See the kernel log (dmesg): the medium may be failing.")
}
