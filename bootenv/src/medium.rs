//! One block on a medium: read, and stored by one write of one sector, synced and read back.
//!
//! The file is never truncated, renamed or extended: power loss during any of these has cost devices their
//! environment. GRUB reads the sectors that the file has, so they are the unit here.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::{O_DIRECT, O_NOFOLLOW, O_NONBLOCK};

use crate::grub::{Block, Error as BlockError, MAX_SIZE, SECTOR, SIZE};
use crate::sys;

/// Alignment for direct reads and writes in bytes: enough for every device with sectors up to 4 KiB.
const ALIGN: usize = 4096;

/// Where a block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In a file, through its filesystem.
    File(PathBuf),
    /// On a block device, around the filesystem, which may stay mounted read-only.
    Device {
        /// The block device.
        device: PathBuf,
        /// Offset of the block's first byte; a multiple of the sector size.
        offset: u64,
        /// Size of the file in bytes.
        size: usize,
        /// The file that lies there, for messages.
        file: PathBuf,
    },
}

/// A block that could not be read or stored.
#[derive(Debug)]
pub enum Error {
    /// Opening or reading failed. Nothing was written.
    Io {
        /// Operation.
        operation: &'static str,
        /// Its cause.
        cause: io::Error,
    },
    /// Writing, syncing or reading back failed: the old or the new bytes are there.
    Write {
        /// Operation.
        operation: &'static str,
        /// Its cause.
        cause: io::Error,
    },
    /// The bytes are no block, or not one that can be stored. Nothing was written.
    Block(BlockError),
    /// Somebody else stored something since it was read. Nothing was written.
    Changed,
    /// The bytes read back differ from the written ones.
    ReadBack,
    /// The file does not lie in whole consecutive sectors of the device.
    Layout,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { operation, cause } | Error::Write { operation, cause } => {
                write!(f, "cannot {operation}: {cause}")
            }
            Error::Block(error) => error.fmt(f),
            Error::Changed => f.write_str("another program changed it at the same time"),
            Error::ReadBack => f.write_str("the bytes read back from the medium differ from the written ones"),
            Error::Layout => f.write_str("the file does not lie in consecutive sectors of its device"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// True if the medium may have been written to before the error.
    #[must_use]
    pub fn may_have_written(&self) -> bool {
        matches!(self, Error::Write { .. } | Error::ReadBack)
    }
}

impl From<BlockError> for Error {
    fn from(error: BlockError) -> Self {
        Error::Block(error)
    }
}

fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Io { operation, cause }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Write { operation, cause }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Medium::File(path) => path.display().fmt(f),
            Medium::Device { device, offset, file, .. } => {
                let name = file.file_name().unwrap_or_default().display();
                write!(f, "{name} on {} at byte {offset}", device.display())
            }
        }
    }
}

impl Medium {
    /// Finds the sectors of a block in `file` on `device`, on which its filesystem is mounted.
    ///
    /// # Errors
    /// [`Error::Layout`] when the block is not in consecutive sectors, [`Error::Block`] when the file has not the size of a
    /// block that can be changed in place, [`Error::Io`] when the filesystem does not report it.
    pub fn map(file: &Path, device: &Path) -> Result<Self, Error> {
        let size = file.symlink_metadata().map_err(io("open"))?.size();
        match usize::try_from(size) {
            Ok(size) if (SIZE..=MAX_SIZE).contains(&size) => Self::map_start(file, device, size),
            size => Err(BlockError::Size(size.unwrap_or(usize::MAX)).into()),
        }
    }

    /// As [`Medium::map`], for a file of which only the first sector is stored.
    ///
    /// # Errors
    /// As [`Medium::map`].
    pub fn map_sector(file: &Path, device: &Path) -> Result<Self, Error> {
        Self::map_start(file, device, SECTOR)
    }

    #[expect(clippy::disallowed_methods, reason = "the file is only mapped to its device, and no link is followed")]
    fn map_start(file: &Path, device: &Path, size: usize) -> Result<Self, Error> {
        let handle =
            OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(file).map_err(io("open"))?;
        let unit = sys::block_size(&handle).map_err(io("ask for the block size"))?;
        let mut first = None;
        for index in 0..(size as u64).div_ceil(unit) {
            let block = sys::block_of(&handle, index).map_err(io("map the file to its device"))?;
            if block == 0 || *first.get_or_insert(block) + index != block {
                return Err(Error::Layout);
            }
        }
        let offset = first.ok_or(Error::Layout)? * unit;
        Ok(Self::Device { device: device.to_owned(), offset, size, file: file.to_owned() })
    }

    /// Reads and checks the block.
    ///
    /// # Errors
    /// [`Error`] when it cannot be read or is no block.
    pub fn load(&self) -> Result<Block, Error> {
        Ok(Block::parse(&self.bytes()?)?)
    }

    /// Reads all bytes there, a block or not.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Block`] when there is more than a block can have.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        let size = match self {
            Medium::File(_) => self.open(false)?.0.metadata().map_err(io("read"))?.size(),
            Medium::Device { size, .. } => *size as u64,
        };
        match usize::try_from(size) {
            Ok(size) if size <= MAX_SIZE => self.read_start(size),
            size => Err(BlockError::Size(size.unwrap_or(usize::MAX)).into()),
        }
    }

    /// Stores `next` in place of `current`, by one write of the one sector in which they differ. Nothing is written if they
    /// are equal, or if that sector is not as in `current` any more: a run takes hours, and what another program stored
    /// meanwhile is not undone.
    ///
    /// # Errors
    /// [`Error`]; the medium then holds the old or the new block, or that of the other program.
    pub fn store(&self, current: &Block, next: &Block) -> Result<(), Error> {
        let (old, new) = (current.bytes(), next.bytes());
        let mut differ = old.chunks(SECTOR).zip(new.chunks(SECTOR)).enumerate().filter(|(_, (old, new))| old != new);
        let sector = differ.next();
        if differ.next().is_some() || old.len() != new.len() {
            return Err(BlockError::Sectors.into());
        }
        if let Some((number, (before, after))) = sector {
            let (file, offset) = self.open(true)?;
            let offset = offset + (number * SECTOR) as u64;
            if self.read_from(&file, offset, before.len())? != before {
                return Err(Error::Changed);
            }
            self.write_to(&file, offset, after)?;
        }
        self.verify(new, sector.is_some())
    }

    /// Writes a whole new block over whatever is there: for a file of the same size that is no valid block any more, whose
    /// bytes nobody can rely on.
    ///
    /// # Errors
    /// [`Error`]; the medium may then hold anything, as before. [`Error::Block`] if the size is another one.
    pub fn replace(&self, block: &Block) -> Result<(), Error> {
        if self.bytes()?.len() != block.bytes().len() {
            return Err(BlockError::Sectors.into());
        }
        self.write(block.bytes())?;
        self.verify(block.bytes(), true)
    }

    fn verify(&self, wanted: &[u8], written: bool) -> Result<(), Error> {
        match self.bytes() {
            Ok(bytes) if bytes == wanted => Ok(()),
            Err(Error::Io { operation, cause }) if written => Err(Error::Write { operation, cause }),
            Err(Error::Io { operation, cause }) => Err(Error::Io { operation, cause }),
            Ok(_) | Err(_) if written => Err(Error::ReadBack),
            Ok(_) | Err(_) => Err(Error::Changed),
        }
    }

    /// Stores `next` in place of `current` as the first sector of a file that is no block. Nothing is written if they are
    /// equal.
    ///
    /// # Errors
    /// [`Error::ReadBack`] also if the sector is not `current` before; the medium then holds it as it was, else the old or
    /// the new one.
    pub fn store_sector(&self, current: &[u8; SECTOR], next: &[u8; SECTOR]) -> Result<(), Error> {
        if self.read_start(SECTOR)? != current {
            return Err(Error::ReadBack);
        }
        if current != next {
            self.write(next)?;
        }
        if self.read_start(SECTOR)? == next {
            return Ok(());
        }
        // A mixture would be neither script.
        self.write(current)?;
        Err(Error::ReadBack)
    }

    fn read_start(&self, size: usize) -> Result<Vec<u8>, Error> {
        let (file, offset) = self.open(false)?;
        self.read_from(&file, offset, size)
    }

    fn read_from(&self, file: &File, offset: u64, size: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = match self {
            Medium::File(_) => Aligned::new(size),
            // A device is read in whole sectors, and the last one of a file reaches beyond its end.
            Medium::Device { .. } => Aligned::new(size.next_multiple_of(SECTOR)),
        };
        match self {
            Medium::File(_) => read_past_cache(file, offset, buffer.bytes_mut()),
            Medium::Device { .. } => file.read_exact_at(buffer.bytes_mut(), offset),
        }
        .map_err(io("read"))?;
        Ok(buffer.bytes_mut()[..size].to_vec())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let (file, offset) = self.open(true)?;
        self.write_to(&file, offset, bytes)
    }

    fn write_to(&self, file: &File, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut bytes = bytes.to_vec();
        let whole = bytes.len().next_multiple_of(SECTOR);
        if matches!(self, Medium::Device { .. }) && whole != bytes.len() {
            bytes.extend(self.read_from(file, offset, whole)?.split_off(bytes.len()));
        }
        let mut buffer = Aligned::new(bytes.len());
        buffer.bytes_mut().copy_from_slice(&bytes);
        file.write_all_at(buffer.bytes_mut(), offset).map_err(failed("write"))?;
        file.sync_data().map_err(failed("sync"))
    }

    #[expect(clippy::disallowed_methods, reason = "a block device, or a file that the agent has checked")]
    fn open(&self, write: bool) -> Result<(File, u64), Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        let (file, offset) = match self {
            // A pipe of that name must not hold this program up.
            Medium::File(path) => (options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path), 0),
            Medium::Device { device, offset, .. } => (options.custom_flags(O_DIRECT).open(device), *offset),
        };
        let file = file.map_err(io("open"))?;
        let kind = file.metadata().map_err(io("open"))?.file_type();
        let right = match self {
            Medium::File(_) => kind.is_file(),
            Medium::Device { .. } => kind.is_block_device(),
        };
        if right {
            Ok((file, offset))
        } else {
            Err(io("open")(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device")))
        }
    }
}

/// Drops what the page cache holds of a file, so that the next read is of the medium: what the cache holds is not what a
/// power loss leaves. Pages that are not written yet stay, so sync first.
///
/// # Errors
/// The error of `posix_fadvise`.
pub fn drop_cache(file: &File) -> io::Result<()> {
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Fills `bytes` from the medium, from `offset` on, as [`drop_cache`] makes sure.
///
/// # Errors
/// As of any read, also when the file ends before `bytes` is full.
pub fn read_past_cache(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    drop_cache(file)?;
    file.read_exact_at(bytes, offset)
}

/// A buffer whose start is aligned for direct I/O.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize) -> Self {
        let memory = vec![0; size + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, size }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.size]
    }
}
