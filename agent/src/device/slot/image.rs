//! The file of one image while it is written, and the record of how far it is on the medium.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::Part;
use super::dir::{Dir, part_name};
use crate::base::console::progress::{Progress, Shown};
use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::sys;
use crate::release::release::Blob;

/// Bytes after which writing out starts, so that a sync waits for little more than the last of them.
const WRITE_OUT_BYTES: u64 = 1024 * 1024;
/// Bytes that may wait in memory while they are written out.
const WAITING_BYTES: u64 = 8 * 1024 * 1024;
/// Where such a piece may end: at the largest page. One that ends within a page has it written again with the next piece,
/// and waiting for the first would be waiting for both.
const WRITE_OUT_ALIGNMENT: u64 = 64 * 1024;
/// An image that can go on after a power cut is put on the medium after so many bytes, or after [`KEEP_TIME`].
const KEEP_BYTES: u64 = 4 * 1024 * 1024;
/// See [`KEEP_BYTES`].
const KEEP_TIME: Duration = Duration::from_secs(30);
/// One read of what an earlier run left, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The beginning of an image in a void slot, by the record of an earlier run. It counts once it was hashed.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Which image.
    pub part: Part,
    /// Bytes that are there.
    pub offset: u64,
    /// SHA-256 of these bytes.
    pub prefix: Digest,
}

/// The beginning of an image that is on the medium from now on.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Bytes.
    pub offset: u64,
    /// SHA-256 of these bytes.
    pub prefix: Digest,
    /// As of [`Body::version`](crate::fetch::body::Body::version).
    pub version: Option<String>,
}

/// Watches an image on its way into the slot.
pub trait Watch: Progress {
    /// True if the download can continue later: then the image is put on the medium piece by piece.
    fn keeps(&self) -> bool {
        false
    }

    /// Takes note of each piece.
    fn kept(&mut self, _beginning: Kept) {}
}

/// Nobody watches.
impl Watch for () {}

/// Shows the bytes, and keeps nothing.
impl Watch for Shown {}

/// An image under its temporary name.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub(super) part: Part,
    name: String,
    file: File,
    hasher: Sha256,
    size: u64,
    /// How far the writing out has started, and how far it has been waited for, in bytes.
    written_out: (u64, u64),
    kept: u64,
    kept_at: Instant,
}

impl ImageFile {
    fn new(part: Part, file: File) -> Self {
        let (name, hasher) = (part_name(part.file()), Sha256::new());
        Self { part, name, file, hasher, size: 0, written_out: (0, 0), kept: 0, kept_at: Instant::now() }
    }

    /// A new file, which replaces any other of its name.
    pub(super) fn create(dir: &Dir, part: Part) -> Result<Self> {
        let name = part_name(part.file());
        if dir.stat(&name)?.is_some() {
            dir.remove(&name)?;
        }
        Ok(Self::new(part, dir.create(&name)?))
    }

    /// The file of an earlier run, cut off behind the recorded bytes; `None` if they differ from the record. `also` sees the
    /// bytes.
    pub(super) fn reopen(dir: &Dir, begun: &Begun, mut also: impl FnMut(&[u8])) -> Result<Option<Self>> {
        let name = part_name(begun.part.file());
        let Some(file) = dir.reopen(&name)? else { return Ok(None) };
        let mut image = Self::new(begun.part, file);
        let mut goes_on = || -> io::Result<bool> {
            let (mut left, mut buffer) = ((&image.file).take(begun.offset), vec![0; READ_BYTES]);
            loop {
                match left.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => {
                        image.hasher.update(&buffer[..n]);
                        also(&buffer[..n]);
                        image.size += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if image.size != begun.offset || image.digest() != begun.prefix {
                return Ok(false);
            }
            image.file.set_len(begun.offset)?;
            image.file.seek(SeekFrom::Start(begun.offset))?;
            Ok(true)
        };
        // A medium that cannot give it back cannot go on with it either.
        if !goes_on().unwrap_or(false) {
            return Ok(None);
        }
        (image.written_out, image.kept) = ((image.size, image.size), image.size);
        Ok(Some(image))
    }

    /// Bytes until now.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// Writes the next bytes of an image of this size.
    pub(super) fn write(&mut self, dir: &Dir, chunk: &[u8], size: u64) -> Result<()> {
        self.size += chunk.len() as u64;
        if self.size > size {
            return Err(wrong(Reason::SizeMismatch, format!("more bytes arrived than the announced {size}")));
        }
        self.file.write_all(chunk).map_err(|e| dir.write_error(&self.name, e))?;
        self.hasher.update(chunk);
        let (started, finished) = self.written_out;
        let whole = self.size - self.size % WRITE_OUT_ALIGNMENT;
        if whole.saturating_sub(started) >= WRITE_OUT_BYTES {
            sys::start_write_out(&self.file, started, whole - started).map_err(|e| dir.write_error(&self.name, e))?;
            self.written_out.0 = whole;
            // The first half has had time to be written while the second one arrived.
            if whole - finished >= 2 * WAITING_BYTES {
                sys::finish_write_out(&self.file, finished, WAITING_BYTES)
                    .map_err(|e| dir.write_error(&self.name, e))?;
                self.written_out.1 = finished + WAITING_BYTES;
            }
        }
        Ok(())
    }

    /// True if it is time to put the received bytes on the medium.
    pub(super) fn keep_is_due(&self) -> bool {
        self.size - self.kept >= KEEP_BYTES || (self.size > self.kept && self.kept_at.elapsed() >= KEEP_TIME)
    }

    /// Puts the received bytes on the medium; `None` if they are there already.
    pub(super) fn keep(&mut self, dir: &Dir) -> Result<Option<(u64, Digest)>> {
        if self.size == self.kept {
            return Ok(None);
        }
        self.file.sync_data().map_err(|e| dir.write_error(&self.name, e))?;
        if self.kept == 0 {
            dir.sync()?; // its name
        }
        (self.written_out, self.kept, self.kept_at) = ((self.size, self.size), self.size, Instant::now());
        Ok(Some((self.size, self.digest())))
    }

    /// Proves that the image is complete and the right one, and puts it on the medium.
    pub(super) fn finish(&mut self, dir: &Dir, blob: &Blob) -> Result<()> {
        let (size, digest) = (self.size, self.digest());
        if size < blob.size {
            return Err(wrong(Reason::SizeMismatch, format!("only {size} of {} bytes arrived", blob.size)));
        }
        if digest != blob.digest {
            let why = format!("the bytes have the digest {digest}, not {}", blob.digest);
            return Err(wrong(Reason::DigestMismatch, why));
        }
        self.file.sync_all().map_err(|e| dir.write_error(&self.name, e))
    }
}

fn wrong(reason: Reason, why: String) -> Error {
    Error::new(reason, why).remedy(
        "Nothing was kept. If the server has wrong bytes, publish the release again; if the network changed them, try again.",
    )
}
