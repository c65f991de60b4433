//! The file of a bundle on its medium, which may be slow, or end the file where it wants.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Reason};
use crate::base::{files, limits};

/// The length of the longest file on FAT, in bytes (Microsoft's FAT specification, 4): copies of longer ones end there.
const FAT_BYTES: u64 = u32::MAX as u64;
/// How much shorter a copy may be: programs copy in blocks of at most this size.
const COPY_BYTES: u64 = 16 << 20;

/// A file, and the rate at which its medium gave it so far.
pub(super) struct Medium {
    file: File,
    /// Bytes of the file when it was opened.
    pub(super) length: u64,
    spent: Cell<Duration>,
    read: Cell<u64>,
}

impl Medium {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = files::open_data(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self { file, length: meta.len(), spent: Cell::default(), read: Cell::default() })
    }

    /// Fills the buffer with what lies there.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let begun = Instant::now();
        self.file.read_exact_at(bytes, offset)?;
        self.spent.set(self.spent.get() + begun.elapsed());
        self.read.set(self.read.get() + bytes.len() as u64);
        if is_too_slow(self.read.get(), self.spent.get()) {
            let why = format!("the medium gives less than {} KiB per second", limits::MEDIUM_RATE_MIN / 1024);
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        Ok(())
    }

    /// A reader from the first byte on.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { medium: self, at: 0 }
    }

    /// Adds the way out where a filesystem cannot hold a file as long as this one should be.
    pub(super) fn explain(&self, error: Error) -> Error {
        let cut = (FAT_BYTES.saturating_sub(COPY_BYTES)..=FAT_BYTES + 1).contains(&self.length);
        if error.reason != Reason::MalformedBundle || !cut {
            return error;
        }
        error.remedy(
            "FAT holds no file of 4 GiB or more. Make the stick again with ext4 (mkfs.ext4 -L KSOLOUPDATE), or bundle one \
             architecture (kubesolo-release bundle --architecture).",
        )
    }
}

/// The time of other work between two reads does not count.
fn is_too_slow(read: u64, spent: Duration) -> bool {
    spent >= limits::MEDIUM_WINDOW && read < spent.as_secs().saturating_mul(limits::MEDIUM_RATE_MIN)
}

/// Reads a medium in order.
pub(super) struct Reader<'a> {
    medium: &'a Medium,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let there = self.medium.length.saturating_sub(self.at).min(bytes.len() as u64) as usize;
        self.medium.read_at(&mut bytes[..there], self.at)?;
        self.at += there as u64;
        Ok(there)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_medium_has_a_minute_and_then_a_least_rate() {
        let second = Duration::from_secs(1);
        assert!(!is_too_slow(0, 59 * second));
        assert!(is_too_slow(0, 60 * second));
        assert!(!is_too_slow(60 * limits::MEDIUM_RATE_MIN, 60 * second));
        assert!(is_too_slow(60 * limits::MEDIUM_RATE_MIN, 61 * second));
        assert!(is_too_slow(u64::MAX / 2, Duration::MAX));
    }

    #[test]
    fn a_copy_that_fat_cut_off_names_the_way_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (length, cut) in [(FAT_BYTES, true), (FAT_BYTES - 4095, true), (FAT_BYTES + 4096, false), (3 << 30, false)]
        {
            file.as_file().set_len(length).unwrap();
            let medium = Medium::open(file.path()).unwrap();
            let error = medium.explain(Error::new(Reason::MalformedBundle, "it ends in the middle"));
            assert_eq!(error.remedy.contains("mkfs.ext4 -L KSOLOUPDATE"), cut, "{length}");
        }
    }
}
