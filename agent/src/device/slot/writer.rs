//! Fills a slot, in an order that leaves it void or complete wherever the power goes.

use bootenv::step::Step;

use super::checksums::{self, Checksums};
use super::dir::{Dir, part_name};
use super::extras::Extras;
use super::filesystem::{self, Condition};
use super::image::{Begun, ImageFile, Kept, Watch};
use super::{FILES, MANIFEST_FILE, Part, Place, Slot, SlotManifest};
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{console, interrupt};
use crate::device::mount::{self, Filesystem, Mounted};
use crate::fetch::body::Body;
use crate::release::extras::KernelArgs;
use crate::release::release::Blob;

/// A slot that is being filled. Void from the beginning; given up, it stays void.
#[derive(Debug)]
pub struct Writer {
    slot: Slot,
    // In this order: an open file or folder would keep the filesystem from being unmounted.
    begun: [Option<ImageFile>; 2],
    dir: Dir,
    mounted: Option<Mounted>,
    written: [Option<Blob>; 2],
    checksums: Option<Checksums>,
    tree: Option<Vec<u8>>,
}

impl Writer {
    /// Empties the slot, but for what an earlier run began, as far as that holds.
    pub(super) fn new(slot: &Slot, begun: &[Begun]) -> Result<Self> {
        let device = match &slot.place {
            Place::Folder(path) => return Self::emptied(slot, Dir::folder(path)?, None, begun),
            Place::Device(device) => device,
        };
        // Another mount must be found before anything is erased.
        mount::claim(device, true)?;
        filesystem::check_features(device)?;
        let mut kept = begun;
        match filesystem::condition(device)? {
            Condition::Sound => {}
            Condition::Unclean if !begun.is_empty() && filesystem::repaired(device) => {}
            Condition::Unclean if filesystem::can_be_made(device).is_err() => kept = &[],
            Condition::Unclean | Condition::Damaged(_) => {
                filesystem::make(device)?;
                kept = &[];
            }
        }
        if kept.len() < begun.len() {
            log::warn!("slot {}: what the download before this one left there is gone", slot.id);
        }
        let mounted = Mounted::read_write(device, Filesystem::Ext4)?;
        filesystem::clear_lost(mounted.path());
        let dir = Dir::mounted(mounted.path(), device)?;
        Self::emptied(slot, dir, Some(mounted), kept)
    }

    fn emptied(slot: &Slot, dir: Dir, mounted: Option<Mounted>, begun: &[Begun]) -> Result<Self> {
        // In one value from here on: given up, the folder is closed before the unmount.
        let checksums = slot.checksums.then(Checksums::default);
        let mut writer = Self {
            slot: slot.clone(),
            begun: [None, None],
            dir,
            mounted,
            written: [None, None],
            checksums,
            tree: None,
        };
        let dir = &writer.dir;
        // Without hash files no bootloader and without manifest no agent takes the slot for filled: they are gone for sure
        // before an image changes.
        let [hashes, extras, images] = FILES;
        for (names, step) in [(&[hashes, extras].concat()[..], Step::Unhash(slot.id)), (images, Step::Erase(slot.id))] {
            for name in names {
                let part = part_name(name);
                if !begun.iter().any(|begun| begun.part.file() == *name) {
                    dir.remove(name)?;
                    dir.remove(&part)?;
                } else if dir.stat(&part)?.is_some() {
                    dir.remove(name)?;
                } else {
                    dir.unpublish(name)?;
                }
            }
            dir.sync()?;
            console::log_step(step);
        }
        begun.iter().try_for_each(|begun| writer.go_on(begun))?;
        Ok(writer)
    }

    /// Continues the image of an earlier run. One that does not fit its record is removed.
    fn go_on(&mut self, begun: &Begun) -> Result<()> {
        let part = begun.part;
        let mut seen = self.checksums.clone();
        let also = |bytes: &[u8]| seen.iter_mut().for_each(|checksums| checksums.update(part, bytes));
        let image = ImageFile::reopen(&self.dir, begun, also)?;
        let file = part.file();
        match &image {
            Some(image) => {
                log::info!("slot {}, {file}: going on after {} bytes", self.slot.id, image.size());
                self.checksums = seen;
            }
            None => {
                log::warn!(
                    "slot {}, {file}: what is there is not what the record of {} bytes says; beginning at the first byte",
                    self.slot.id,
                    begun.offset
                );
                self.dir.remove(&part_name(file))?;
            }
        }
        self.begun[part as usize] = image;
        Ok(())
    }

    /// Bytes of an image that are there from an earlier run. [`Self::part`] takes a body that begins there, or at 0.
    #[must_use]
    pub fn begun(&self, part: Part) -> u64 {
        self.begun[part as usize].as_ref().map_or(0, ImageFile::size)
    }

    /// Writes one image as it arrives: each byte once, hashed on its way. The image gets the name that a bootloader looks
    /// for only when it is complete, proven and on the medium.
    ///
    /// # Errors
    /// Those of the body, 65 when the bytes are wrong, 73 when they cannot be written. Where the watcher keeps, what has come
    /// stays under a temporary name if the body failed, or a signal asked to end (75).
    pub fn part(&mut self, part: Part, blob: &Blob, body: &mut dyn Body, watch: &mut dyn Watch) -> Result<()> {
        let begun = self.begun[part as usize].take().filter(|image| image.size() == body.position());
        let mut checksums = self.checksums.clone();
        let mut image = match begun {
            Some(image) => image,
            None => {
                checksums.iter_mut().for_each(|checksums| checksums.begin(part));
                ImageFile::create(&self.dir, part)?
            }
        };
        if image.size() != body.position() {
            return Err(Error::new(Reason::Internal, "the rest of an image has nothing to go on after"));
        }
        if part == Part::Kernel {
            console::log_step(Step::Begin(self.slot.id));
        }
        watch.advance(image.size());
        let mut arriving = Arriving { body, watch, checksums };
        let result = self.stream(&mut image, blob, &mut arriving);
        let kept = match &result {
            Err(e) if arriving.watch.keeps() && matches!(e.exit(), Exit::Unavailable | Exit::NotNow) => {
                image.size() > 0 && self.keep(&mut image, &mut arriving).is_ok()
            }
            _ => false,
        };
        let checksums = arriving.checksums;
        drop(image);
        if let Err(e) = result.and_then(|()| self.dir.publish(part.file())) {
            if !kept && let Err(left) = self.dir.remove(&part_name(part.file())) {
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

    fn stream(&self, image: &mut ImageFile, blob: &Blob, arriving: &mut Arriving<'_>) -> Result<()> {
        while let Some(chunk) = arriving.body.chunk()? {
            image.write(&self.dir, &chunk, blob.size)?;
            arriving.checksums.iter_mut().for_each(|checksums| checksums.update(image.part, &chunk));
            arriving.watch.advance(chunk.len() as u64);
            if arriving.watch.keeps() && image.keep_is_due() && image.size() < blob.size {
                self.keep(image, arriving)?;
            }
            interrupt::check()?;
        }
        image.finish(&self.dir, blob)
    }

    fn keep(&self, image: &mut ImageFile, arriving: &mut Arriving<'_>) -> Result<()> {
        if let Some((offset, prefix)) = image.keep(&self.dir)? {
            arriving.watch.kept(Kept { offset, prefix, version: arriving.body.version() });
        }
        Ok(())
    }

    /// The device tree of the release, proven by its digest: [`Self::finish`] writes it beside the images.
    pub fn add_tree(&mut self, tree: Option<Vec<u8>>) {
        self.tree = tree;
    }

    /// Completes the slot: what the release adds, hash files, the manifest last, all of it read back from the medium and
    /// compared.
    pub fn finish(self, manifest: &SlotManifest) -> Result<()> {
        if self.written != [Some(manifest.kernel), Some(manifest.initramfs)] {
            return Err(Error::new(Reason::Internal, "the slot lacks an image at the end of the write"));
        }
        let slot = self.slot.clone();
        let finished = self.complete(manifest);
        if let Err(e) = &finished {
            log::debug!("slot {}: {e}; emptying it", slot.id);
            // Complete or not, it must not look like a slot that holds.
            if let Err(left) = Self::new(&slot, &[]) {
                log::warn!("cannot empty slot {}: {left}", slot.id);
            }
        }
        finished.map_err(|e| e.context(format_args!("slot {}", slot.id)))
    }

    fn complete(self, manifest: &SlotManifest) -> Result<()> {
        // Before the hash files: without these no bootloader takes the slot, and so none starts the images without what belongs
        // to them.
        if manifest.extras {
            let release = manifest.release()?;
            let arguments = release.kernel_args.as_ref().map(KernelArgs::as_str);
            let extras = Extras { arguments, tree: self.tree.as_deref() };
            let images = [&manifest.kernel.digest, &manifest.initramfs.digest];
            for (name, bytes) in extras.files(images, self.checksums.as_ref()) {
                self.dir.put(name, &bytes)?;
            }
        }
        for (part, blob) in [(Part::Kernel, manifest.kernel), (Part::Initramfs, manifest.initramfs)] {
            self.dir.put(part.hash_file(), part.hash_line(&blob.digest).as_bytes())?;
        }
        if let Some(checksums) = &self.checksums {
            self.dir.put(checksums::FILE, checksums.text().as_bytes())?;
        }
        console::log_step(Step::Hashes(self.slot.id));
        self.dir.put(MANIFEST_FILE, &manifest.encode())?;
        console::log_step(Step::Manifest(self.slot.id));
        let Self { slot, begun, dir, mounted, .. } = self;
        drop((begun, dir));
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

/// An image on its way: its bytes advance the watcher, and the checksums of the bootloader.
struct Arriving<'a> {
    body: &'a mut dyn Body,
    watch: &'a mut dyn Watch,
    checksums: Option<Checksums>,
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

pub(super) fn failed_read_back(why: &str) -> Error {
    Error::new(Reason::ReadBackFailed, format!("the written bytes cannot be read back: {why}"))
        .remedy("See the kernel log (dmesg): the medium may be failing.")
}
