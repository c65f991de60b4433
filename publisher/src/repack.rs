//! An initramfs with restart points, so that a device can fetch, copy and make it in pieces.
//!
//! The result is one gzip member (RFC 1952) that every tool and every kernel reads as before. Its deflate stream is cut into
//! pieces at the borders of files, and each piece is compressed alone: a file that did not change is the same bytes in the
//! next release. The same input gives the same bytes on every machine ([`encoder`](kubesolo_update::delta::encoder)).

use std::io::{self, BufReader, BufWriter, Read as _, Write};
use std::path::Path;

use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::replace::Replacement;
use kubesolo_update::base::{files, limits};
use kubesolo_update::delta::cutter::MARK;
use kubesolo_update::delta::encoder::Deflate1;
use kubesolo_update::delta::index::Index;

use crate::initramfs::{self, HEADER_BYTES, Sink, UNPACKED_BYTES, field};

/// The sizes of pieces, in bytes before compression.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// No piece is longer, unless it is the rest of a larger entry.
    piece: u64,
    /// The rest of an entry that is not cut again. At most [`limits::PIECE_RAW_BYTES`], or no patch makes it.
    last: u64,
    /// An entry of this size stands alone, with its header.
    alone: u64,
    /// Among small entries, one of so many starts a piece. The name decides, so that other files have no influence.
    small: u32,
}

/// The sizes that cost devices the fewest bytes.
const SIZES: Sizes = Sizes { piece: 128 << 10, last: 192 << 10, alone: 32 << 10, small: 8 };
/// The sizes for an image that would have more than [`limits::PIECES`] otherwise, which is one of about 5 GiB.
const LARGE: Sizes = Sizes { piece: 256 << 10, last: 256 << 10, alone: 64 << 10, small: 16 };
/// Pieces of these sizes, at most. The other ones of an index are for an early archive and the end of the file.
const MOST_PIECES: u64 = limits::PIECES as u64 / 64 * 63;
/// Header of a gzip member without name, time and system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block of a deflate stream: fixed codes, and nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// The first two numbers of a cpio header are inode and mode; the fifth is the number of links.
const INODE: std::ops::Range<usize> = 6..14;
const LINKS: usize = 4;

/// An initramfs that was repacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repacked {
    /// Bytes of the new file.
    pub size: u64,
    /// Number of pieces.
    pub pieces: u64,
}

/// Repacks `input` into `output`. An early archive (CPU microcode) before the first gzip member stays as it is; everything
/// after it becomes one gzip member. Order, names, modes and times of the files stay; inode numbers of files with one link
/// become 0. An existing `output` is replaced once the new one is complete. Pieces are twice as long in an image that would
/// have too many for an index.
///
/// # Errors
/// 65 when `input` does not unpack, 69 when it cannot be read, 73 when `output` cannot be written.
pub fn repack(input: &Path, output: &Path) -> Result<Repacked> {
    match repack_with(SIZES, input, output, MOST_PIECES)? {
        Some(repacked) => Ok(repacked),
        None => repack_with(LARGE, input, output, u64::MAX)?
            .ok_or_else(|| Error::new(Reason::Internal, "an initramfs of endless pieces")),
    }
}

/// The same with pieces of these sizes; `None`, and nothing is written, if there are more than `most`.
fn repack_with(sizes: Sizes, input: &Path, output: &Path, most: u64) -> Result<Option<Repacked>> {
    let file = files::open_data(input).context(Reason::ImageUnreadable, format_args!("open {}", input.display()))?;
    let not_written = |e: io::Error| Error::new(Reason::NotWritten, format!("cannot write {}: {e}", output.display()));
    let mut replacement = Replacement::begin(output, 0o644).map_err(not_written)?;
    let mut packer = Packer::new(BufWriter::new(replacement.file()), sizes, most);
    let unpacked = initramfs::unpack(BufReader::new(file), UNPACKED_BYTES, &mut packer);
    if packer.pieces > most {
        return Ok(None);
    }
    if let Some(e) = packer.failed.take() {
        return Err(not_written(e));
    }
    let broken = |reason, why: &str| {
        Error::new(reason, format!("{} {why}", input.display()))
            .remedy("Nothing was written. Build the initramfs again: newc cpio, compressed with gzip.")
    };
    let unpacked = unpacked.map_err(|e| {
        let unread = e.raw_os_error().is_some();
        let reason = if unread { Reason::ImageUnreadable } else { Reason::InitramfsBroken };
        broken(reason, &format!("does not unpack: {e}"))
    })?;
    if let Some(opaque) = unpacked.opaque {
        return Err(broken(
            Reason::InitramfsBroken,
            &format!("is compressed with {opaque}, and only gzip can be repacked"),
        ));
    }
    if unpacked.gzip_members == 0 {
        return Err(broken(Reason::InitramfsBroken, "has no part that is compressed with gzip"));
    }
    let (_, size, pieces) = packer.finish().map_err(not_written)?;
    replacement.finish().map_err(not_written)?;
    Ok(Some(Repacked { size, pieces }))
}

/// Number of restart points in a file.
///
/// # Errors
/// 69 when the file cannot be read.
pub fn restart_points(path: &Path) -> Result<u64> {
    let failed = || format!("read {}", path.display());
    let mut file = files::open_data(path).context(Reason::ImageUnreadable, failed())?;
    let (mut buffer, mut kept, mut points) = (vec![0; 256 << 10], 0, 0);
    loop {
        let read = file.read(&mut buffer[kept..]).context(Reason::ImageUnreadable, failed())?;
        if read == 0 {
            return Ok(points);
        }
        let end = kept + read;
        points += buffer[..end].windows(MARK.len()).filter(|window| **window == MARK).count() as u64;
        // A mark can lie across two reads.
        kept = end.min(MARK.len() - 1);
        buffer.copy_within(end - kept..end, 0);
    }
}

/// The index of the pieces of an initramfs of `size` bytes. `None` for one with fewer than one restart point per MiB, which
/// devices can only fetch whole, or with too many pieces; with a warning.
///
/// # Errors
/// 69 when the file cannot be read; 65 when it changes meanwhile.
pub(crate) fn index(path: &Path, size: u64) -> Result<Option<Index>> {
    let points = restart_points(path)?;
    if points < size >> 20 {
        log::warn!(
            "the initramfs {} has too few restart points, so the next release shares no bytes with it: run \
             `kubesolo-release repack` before `publish`",
            path.display()
        );
    }
    if points < (size >> 20).max(1) {
        return Ok(None);
    }
    let failed = || format!("read {}", path.display());
    let file = files::open_data(path).context(Reason::ImageUnreadable, failed())?;
    let index = Index::of(BufReader::new(file)).context(Reason::ImageUnreadable, failed())?;
    match &index {
        Some(index) if index.size() != size => {
            let message = format!("{} changed while it was read", path.display());
            return Err(Error::new(Reason::FileChanged, message).remedy("Publish again."));
        }
        Some(_) => {}
        None => log::warn!(
            "the initramfs {} has more than {} pieces, so devices fetch it whole",
            path.display(),
            limits::PIECES
        ),
    }
    Ok(index)
}

struct Packer<W> {
    out: W,
    /// The error of `out`, to distinguish it from an error of the input.
    failed: Option<io::Error>,
    encoder: Deflate1,
    /// The gzip member has begun.
    begun: bool,
    piece: Vec<u8>,
    compressed: Vec<u8>,
    /// Length of the entry before.
    previous: u64,
    /// Bytes until a large entry is cut, and how many of it follow then.
    large: (u64, u64),
    crc: crc32fast::Hasher,
    unpacked: u64,
    size: u64,
    pieces: u64,
    sizes: Sizes,
    /// It ends with more pieces.
    most: u64,
}

impl<W: Write> Packer<W> {
    fn new(out: W, sizes: Sizes, most: u64) -> Self {
        Self {
            sizes,
            most,
            out,
            failed: None,
            encoder: Deflate1::default(),
            begun: false,
            piece: vec![],
            compressed: vec![],
            previous: 0,
            large: (0, 0),
            crc: crc32fast::Hasher::new(),
            unpacked: 0,
            size: 0,
            pieces: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| {
            self.failed = Some(e);
            io::Error::other("the output cannot be written")
        })
    }

    /// Ends a piece.
    fn cut(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let expanded = || io::Error::other("a piece grows when it is compressed");
        self.encoder.piece(&self.piece, &mut self.compressed).ok_or_else(expanded)?;
        self.piece.clear();
        self.pieces += 1;
        if self.pieces > self.most {
            return Err(io::Error::other("it has too many pieces"));
        }
        let compressed = std::mem::take(&mut self.compressed);
        let written = self.write(&compressed);
        self.compressed = compressed;
        self.compressed.clear();
        written
    }

    /// Bytes of the next piece of a large entry of which `left` bytes are left, and how many follow it.
    fn next_part(&self, left: u64) -> (u64, u64) {
        let part = if left <= self.sizes.last { left } else { self.sizes.piece };
        (part, left - part)
    }
}

impl<W: Write> Packer<BufWriter<W>> {
    fn finish(mut self) -> io::Result<(W, u64, u64)> {
        self.cut()?;
        self.write(&LAST_BLOCK)?;
        let (crc, unpacked) = (self.crc.clone().finalize(), self.unpacked as u32); // modulo 2^32, as the format has it
        self.write(&crc.to_le_bytes())?;
        self.write(&unpacked.to_le_bytes())?;
        let out = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((out, self.size, self.pieces))
    }
}

impl<W: Write> Sink for Packer<W> {
    fn member(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.write(&GZIP_HEADER)?;
        }
        Ok(())
    }

    fn entry(&mut self, header: &mut [u8; HEADER_BYTES], name: &[u8], len: u64) -> io::Result<()> {
        if !self.begun {
            return Ok(());
        }
        // An archive begins at a multiple of four. In a member of its own it did.
        let gap = (self.unpacked.next_multiple_of(4) - self.unpacked) as usize;
        self.bytes(&[0; 3][..gap])?;
        if field(header, LINKS).is_some_and(|links| links < 2) {
            header[INODE].fill(b'0');
        }
        let starts = len >= self.sizes.alone
            || self.previous >= self.sizes.alone
            || crc32fast::hash(name).is_multiple_of(self.sizes.small)
            || self.piece.len() as u64 + len > self.sizes.piece;
        if starts {
            self.cut()?;
        }
        self.previous = len;
        if len > self.sizes.piece {
            self.large = self.next_part(len);
        }
        Ok(())
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.begun {
            return self.write(bytes);
        }
        self.crc.update(bytes);
        self.unpacked += bytes.len() as u64;
        while !bytes.is_empty() {
            let (left, rest) = self.large;
            let room = if left > 0 { left } else { self.sizes.piece.saturating_sub(self.piece.len() as u64) };
            let take = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.piece.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if left > 0 {
                self.large.0 -= take as u64;
            }
            if take as u64 == room {
                self.cut()?;
                if left > 0 && rest > 0 {
                    self.large = self.next_part(rest);
                }
            }
        }
        Ok(())
    }
}
