//! The recording of QEMU's `blklogwrites` driver: the format of dm-log-writes (Linux, drivers/md/dm-log-writes.c).

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::Result;

/// Sector of the log and of the disk in bytes, as the device is started with.
pub const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes for the disk.
    Write {
        /// Where on the disk, in bytes.
        at: usize,
        /// Where its data lies in the log.
        data: Range<usize>,
    },
    /// All that was written before is on the medium.
    Flush,
}

/// A whole recording.
#[derive(Debug)]
pub struct Log {
    bytes: Vec<u8>,
    /// In the order in which they were sent.
    pub requests: Vec<Request>,
}

impl Log {
    /// Reads a recording. The part of the last request that a power cut left is ignored.
    ///
    /// # Errors
    /// It is no recording, or has a request that a replay would get wrong.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(fs::read(path)?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes.len() < SECTOR || number(0) != MAGIC || number(8) != 1 {
            return Err("this is no log of writes".into());
        }
        let (mut requests, mut at) = (vec![], SECTOR);
        // The number of entries in the first sector is only brought up to date now and then.
        while at + SECTOR <= bytes.len() {
            let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
            at += SECTOR;
            if flags & !FLUSH != 0 {
                let kind = if flags & DISCARD != 0 { "discard" } else { "write with flags" };
                return Err(format!("a {kind} ({flags:#x}, FUA is {FUA}) is not replayed here").into());
            }
            let length = usize::try_from(sectors)? * SECTOR;
            if at + length > bytes.len() {
                break;
            }
            if flags & FLUSH != 0 {
                requests.push(Request::Flush);
            }
            if length > 0 {
                requests.push(Request::Write { at: usize::try_from(sector)? * SECTOR, data: at..at + length });
            }
            at += length;
        }
        Ok(Self { bytes, requests })
    }

    /// The same from a disk that takes no notice of flushes.
    #[must_use]
    pub fn without_flushes(&self) -> Self {
        let requests = self.requests.iter().filter(|request| **request != Request::Flush).cloned().collect();
        Self { bytes: self.bytes.clone(), requests }
    }

    /// The bytes of a write.
    #[must_use]
    pub fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_in_order_and_a_torn_end_is_left_out() {
        let sector = |words: &[u64]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.resize(SECTOR, 0);
            bytes
        };
        let mut log = sector(&[MAGIC, 1, 0, 512]);
        log.extend(sector(&[3, 2, 0, 0]));
        log.extend([7; 2 * SECTOR]);
        log.extend(sector(&[0, 0, FLUSH, 0]));
        log.extend(sector(&[9, 2, 0, 0]));
        log.extend([8; SECTOR]);
        let parsed = Log::parse(log.clone()).expect("a log");
        let write = Request::Write { at: 3 * SECTOR, data: 2 * SECTOR..4 * SECTOR };
        assert_eq!(parsed.requests, [write, Request::Flush]);
        log.extend([8; SECTOR]);
        assert_eq!(Log::parse(log).expect("a log").requests.len(), 3);
        assert!(Log::parse(sector(&[MAGIC + 1, 1])).is_err());
    }
}
