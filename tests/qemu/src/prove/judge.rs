//! The release that a disk would boot, and whether that one was published.

use std::collections::HashMap;

use bootenv::SlotId;
use bootenv::boot::{Decision, Files, PowerOn, decide};
use bootenv::grub::Block;
use bootenv::protocol::{FallbackBlock, SlotState, View};
use bootenv::uboot::{Environment, Format};
use sha2::{Digest, Sha256};

use super::read::{Ext4, fat};
use crate::image::{Disk, INITRAMFS, KERNEL, UBOOT_SIZE, hash_line, uboot_view};
use crate::machine::Firmware;

type Hash = [u8; 32];

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// As the bootloader sees it.
    pub files: Files,
    /// Both files together; `None` when one is missing.
    pub hash: Option<Hash>,
}

/// A disk after a cut, as far as it matters for what happens next.
#[derive(Clone, Debug)]
pub struct Seen {
    /// GRUB's main block as it stands.
    pub block: Option<Block>,
    /// GRUB's second file as it stands.
    pub second: Vec<u8>,
    /// The decision of the bootloader.
    pub decision: Decision,
    /// The content of the slots that were looked at.
    pub contents: [Option<Content>; 2],
    /// Alike for disks that are alike in all this.
    pub key: Hash,
}

/// The environment of a disk.
struct Found {
    view: View,
    second: Option<FallbackBlock>,
    /// The promise of each part of it about slot A, slot B: any part may be the only one that is left.
    promises: Vec<[SlotState; 2]>,
    block: Option<Block>,
    second_bytes: Vec<u8>,
    bytes: Vec<u8>,
}

/// Judges disks of one recording; what is expensive is done once.
#[derive(Debug)]
pub struct Judge {
    layout: Disk,
    /// Releases that were published: both files hashed together, as in [`Content::hash`].
    published: Vec<Hash>,
    known: HashMap<(SlotId, usize), Content>,
}

/// Both files of a release, hashed together.
#[must_use]
pub fn release(kernel: &[u8], initramfs: &[u8]) -> Hash {
    Sha256::digest([Sha256::digest(kernel), Sha256::digest(initramfs)].concat()).into()
}

impl Judge {
    /// For disks with this layout.
    #[must_use]
    pub fn new(layout: Disk, published: Vec<Hash>) -> Self {
        Self { layout, published, known: HashMap::new() }
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Disk {
        &self.layout
    }

    /// A file of GRUB's folder.
    #[must_use]
    pub fn esp_file(&self, disk: &[u8], name: &str) -> Option<Vec<u8>> {
        let at = usize::try_from(Disk::ESP).ok()?;
        fat(disk.get(at..)?, &["GRUB", name])
    }

    /// A file of a slot.
    #[must_use]
    pub fn slot_file(&self, disk: &[u8], slot: SlotId, name: &str) -> Option<Vec<u8>> {
        let (at, size) = self.place(slot);
        Ext4::open(disk.get(at..at + size)?)?.file(name)
    }

    /// Where a slot lies.
    #[must_use]
    pub fn place(&self, slot: SlotId) -> (usize, usize) {
        let (at, size) = self.layout.slot(slot);
        (usize::try_from(at).expect("a small disk"), usize::try_from(size).expect("a small disk"))
    }

    fn content(&mut self, disk: &[u8], slot: SlotId, version: Option<usize>) -> Content {
        if let Some(content) = version.and_then(|version| self.known.get(&(slot, version))) {
            return *content;
        }
        let file = |name: &str| self.slot_file(disk, slot, name).filter(|bytes| !bytes.is_empty());
        let content = match (file(KERNEL), file(INITRAMFS)) {
            (Some(kernel), Some(initramfs)) if self.layout.firmware == Firmware::UBoot => {
                let checksum = |bytes: &[u8]| {
                    let mut checksum = flate2::Crc::new();
                    checksum.update(bytes);
                    checksum.sum()
                };
                let [k, i] = [checksum(&kernel), checksum(&initramfs)];
                let text = format!("kernel_crc32={k:08x}\ninitramfs_crc32={i:08x}\n");
                let holds = file("crc32.txt").is_some_and(|found| found == text.as_bytes());
                let files = match kernel.get(56..60) {
                    Some(b"ARM\x64") if holds => Files::Hold,
                    Some(b"ARM\x64") => Files::Load,
                    _ => Files::Broken,
                };
                Content { files, hash: Some(release(&kernel, &initramfs)) }
            }
            (Some(kernel), Some(initramfs)) if kernel.get(0x202..0x206) == Some(b"HdrS") => {
                let holds = |name: &str, bytes: &[u8]| {
                    file(&format!("{name}.sha256")).is_some_and(|line| line == hash_line(name, bytes).as_bytes())
                };
                let both = holds(KERNEL, &kernel) && holds(INITRAMFS, &initramfs);
                let files = if both { Files::Hold } else { Files::Load };
                Content { files, hash: Some(release(&kernel, &initramfs)) }
            }
            _ => Content { files: Files::Broken, hash: None },
        };
        if let Some(version) = version {
            self.known.insert((slot, version), content);
        }
        content
    }

    /// Judges a disk. `version` separates the content of a slot from its content after other cuts, where that is known.
    ///
    /// # Errors
    /// The device would not boot a published release, or something is promised that does not hold; in words.
    pub fn look(&mut self, disk: &[u8], version: impl Fn(SlotId) -> Option<usize>) -> Result<Seen, String> {
        let found = if self.layout.firmware == Firmware::UBoot { self.uboot(disk) } else { self.grub(disk) }?;
        let View::Ours(state) = found.view else {
            return Err(format!("the environment is not ours: {:?}", found.view));
        };

        let mut contents = [None; 2];
        // The slot that would boot first, then the other one if anything depends on it.
        let with =
            |files: [Files; 2]| decide(&PowerOn { main: found.view, second: found.second, files, can_save: true });
        let first = with([Files::Hold; 2]).start.map_or(state.active, |start| start.slot);
        for slot in [first, first.other()] {
            let marked_good = found.promises.iter().any(|slots| slots[slot as usize] == SlotState::Good);
            let files = |of| {
                let mut files = [Files::Broken; 2];
                files[first as usize] =
                    contents[first as usize].map_or(Files::Broken, |content: Content| content.files);
                files[slot as usize] = of;
                with(files)
            };
            let same = files(Files::Hold) == files(Files::Load) && files(Files::Hold) == files(Files::Broken);
            if marked_good || !same {
                let content = self.content(disk, slot, version(slot));
                contents[slot as usize] = Some(content);
                if marked_good && !self.is_published(Some(content)) {
                    return Err(format!("slot {slot} is marked good, and holds no published release: {content:?}"));
                }
            }
        }
        let files = contents.map(|content| content.map_or(Files::Broken, |content| content.files));
        let decision = with(files);
        let start = decision.start.ok_or_else(|| format!("nothing boots: {}", decision.reason))?;
        if !self.is_published(contents[start.slot as usize]) {
            return Err(format!("slot {} would boot without a published release in it", start.slot));
        }
        let mut key = Sha256::new();
        key.update(&found.bytes);
        for content in contents {
            key.update(content.and_then(|content| content.hash).unwrap_or_default());
        }
        let Found { block, second_bytes, .. } = found;
        Ok(Seen { block, second: second_bytes, decision, contents, key: key.finalize().into() })
    }

    fn grub(&self, disk: &[u8]) -> Result<Found, String> {
        let block = |name| self.esp_file(disk, name).and_then(|bytes| Block::parse(&bytes).ok());
        let main = block("GRUBENV").ok_or("the main block of the environment is none")?;
        let second_block = block("KSENV2").ok_or("the second file of the environment is no block")?;
        let second = second_block.as_second().ok_or("the second file of the environment is not valid")?;
        let mut promises = vec![[second.a, second.b]];
        if let View::Ours(state) = main.view() {
            promises.push([state.a, state.b]);
        }
        Ok(Found {
            view: main.view(),
            second: Some(second),
            promises,
            bytes: [main.bytes(), second_block.bytes()].concat(),
            second_bytes: second_block.bytes().to_vec(),
            block: Some(main),
        })
    }

    fn uboot(&self, disk: &[u8]) -> Result<Found, String> {
        let copy = |number: usize| {
            let at = usize::try_from(self.layout.copy(number)).expect("a small disk");
            disk.get(at..at + UBOOT_SIZE).map(<[u8]>::to_vec).ok_or("the disk is too small")
        };
        let copies = [copy(0)?, copy(1)?];
        let views = copies.iter().filter_map(|copy| Environment::parse(copy, Format::Redundant).ok());
        let states = views.filter_map(|(environment, _)| match environment.view() {
            View::Ours(state) => Some([state.a, state.b]),
            View::Foreign(_) | View::Invalid => None,
        });
        Ok(Found {
            view: uboot_view(&copies),
            second: None,
            promises: states.collect(),
            bytes: copies.concat(),
            second_bytes: vec![],
            block: None,
        })
    }

    fn is_published(&self, content: Option<Content>) -> bool {
        content.is_some_and(|content| {
            content.files == Files::Hold && content.hash.is_some_and(|hash| self.published.contains(&hash))
        })
    }
}
