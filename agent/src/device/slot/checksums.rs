//! CRC-32 of both images, for a bootloader without a hash function: U-Boot imports this file and compares.

use super::dir::Dir;
use super::{DAMAGED_REMEDY, HASH_FILE_BYTES, Part, incomplete};
use crate::base::error::{Error, Reason, Result};

/// The file beside the hash files, and like them without a meaning until it is complete.
pub const FILE: &str = "crc32.txt";

/// The checksums of the bytes that passed by.
#[derive(Clone, Debug, Default)]
pub struct Checksums([crc32fast::Hasher; 2]);

impl Checksums {
    /// Nothing of this image has passed by.
    pub fn begin(&mut self, part: Part) {
        self.0[part as usize] = crc32fast::Hasher::default();
    }

    /// Adds bytes of an image.
    pub fn update(&mut self, part: Part, bytes: &[u8]) {
        self.0[part as usize].update(bytes);
    }

    /// CRC-32 of kernel and initramfs.
    #[must_use]
    pub fn values(&self) -> [u32; 2] {
        self.0.clone().map(crc32fast::Hasher::finalize)
    }

    /// The content of the file: two variables as `env import -t` reads them, with eight hex digits each.
    #[must_use]
    pub fn text(&self) -> String {
        let [kernel, initramfs] = self.values();
        format!("kernel_crc32={kernel:08x}\ninitramfs_crc32={initramfs:08x}\n")
    }

    /// True if the file of this slot says so.
    pub(super) fn compare(&self, dir: &Dir) -> Result<()> {
        let found = dir.read(FILE, HASH_FILE_BYTES)?.ok_or_else(|| incomplete(dir, FILE))?;
        if found == self.text().as_bytes() {
            return Ok(());
        }
        let message = format!("{}: the images do not have the checksums of {FILE}", dir.shown());
        Err(Error::new(Reason::SlotDamaged, message).remedy(DAMAGED_REMEDY))
    }
}
