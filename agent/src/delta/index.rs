//! The index of pieces of an initramfs, a signed layer of the release.
//!
//! The format, in bytes of little endian: `KSPIECE1`, the size of the image (8), the number of pieces (4), and for each piece
//! the first 16 bytes of its SHA-256 and its length (3). Nothing may follow. The pieces are the image, in order.

use std::io::{self, Read};

use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::delta::cutter::{Cutter, HASH_BYTES, Hash};

const MAGIC: [u8; 8] = *b"KSPIECE1";
const HEADER_BYTES: usize = MAGIC.len() + 8 + 4;
const ENTRY_BYTES: usize = HASH_BYTES + 3;
const READ_BYTES: usize = 128 * 1024;

/// A piece and its place in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of its bytes.
    pub hash: Hash,
    /// Of its first byte.
    pub offset: u64,
    /// In bytes; at most [`limits::PIECE_BYTES`], and never 0.
    pub len: usize,
}

impl Piece {
    /// The place of the first byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.len as u64
    }
}

/// The pieces of one image: at least one, in order, without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    size: u64,
    pieces: Vec<Piece>,
}

impl Index {
    /// Reads the index of an image of `size` bytes.
    ///
    /// # Errors
    /// 65 `malformed-pieces` for anything that is not exactly such an index, 65 `limit-exceeded` for too many pieces.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self> {
        let (header, entries) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| malformed("it ends too early"))?;
        if !header.starts_with(&MAGIC) {
            return Err(malformed("it does not begin with KSPIECE1"));
        }
        let said = number(&header[8..16]);
        if said != size {
            return Err(malformed(format_args!("it is about an image of {said} bytes, not of {size}")));
        }
        let count = number(&header[16..]);
        if count > limits::PIECES as u64 {
            return Err(limits::exceeded("index of pieces", format_args!("{} pieces", limits::PIECES)));
        }
        if entries.len() as u64 != count * ENTRY_BYTES as u64 {
            return Err(malformed(format_args!("it has {} bytes, which is not {count} pieces", bytes.len())));
        }
        let mut index = Self { size: 0, pieces: Vec::with_capacity(entries.len() / ENTRY_BYTES) };
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let (name, len) = entry.split_at(HASH_BYTES);
            let len = number(len) as usize; // of three bytes
            if !(1..=limits::PIECE_BYTES).contains(&len) {
                return Err(malformed(format_args!("a piece has {len} bytes, not 1 to {}", limits::PIECE_BYTES)));
            }
            let mut hash = [0; HASH_BYTES];
            hash.copy_from_slice(name);
            index.push(hash, len);
        }
        if index.size != size || index.pieces.is_empty() {
            return Err(malformed(format_args!("its pieces have {} bytes, not {size}", index.size)));
        }
        Ok(index)
    }

    /// Makes the index of an image; `None` if the image is empty or has too many pieces.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of(mut image: impl Read) -> io::Result<Option<Self>> {
        let (mut index, mut cutter) = (Self { size: 0, pieces: vec![] }, Cutter::default());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match image.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => cutter.feed(&buffer[..read], |cut| index.push(cut.hash, cut.len)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if index.pieces.len() > limits::PIECES {
                return Ok(None);
            }
        }
        if let Some(rest) = cutter.finish() {
            index.push(rest.hash, rest.len);
        }
        Ok(Some(index).filter(|index| (1..=limits::PIECES).contains(&index.pieces.len())))
    }

    fn push(&mut self, hash: Hash, len: usize) {
        self.pieces.push(Piece { hash, offset: self.size, len });
        self.size += len as u64;
    }

    /// The bytes of the layer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((self.pieces.len() as u32).to_le_bytes()); // within the limit
        for piece in &self.pieces {
            bytes.extend(piece.hash);
            bytes.extend(&(piece.len as u32).to_le_bytes()[..3]);
        }
        bytes
    }

    /// All pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes of the image.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of the piece with the byte at `offset`; the number of pieces, if none has it.
    #[must_use]
    pub fn at(&self, offset: u64) -> usize {
        self.pieces.partition_point(|piece| piece.end() <= offset)
    }
}

/// Up to eight bytes of little endian.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::MalformedPieces, format!("the index of pieces is not valid: {why}"))
        .remedy("Publish the release again.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::cutter::MARK;

    fn image() -> Vec<u8> {
        let mut image = vec![];
        for n in 0..100u32 {
            image.extend(n.to_string().repeat(n as usize).bytes());
            image.extend(MARK);
        }
        image.extend(b"the end");
        image
    }

    fn good() -> (Vec<u8>, u64) {
        let image = image();
        (Index::of(&image[..]).unwrap().unwrap().encode(), image.len() as u64)
    }

    #[test]
    fn an_index_is_read_as_it_is_written() {
        let (bytes, size) = good();
        let index = Index::parse(&bytes, size).unwrap();
        assert_eq!((index.size(), index.pieces().len()), (size, 101));
        assert_eq!(index.encode(), bytes);
        for piece in index.pieces() {
            let part = &image()[piece.offset as usize..piece.end() as usize];
            assert_eq!(crate::delta::cutter::hash(part), piece.hash);
        }
        assert_eq!((index.at(0), index.at(size - 1), index.at(size)), (0, 100, 101));
        let second = index.pieces()[1];
        assert_eq!((index.at(second.offset - 1), index.at(second.offset), index.at(second.end() - 1)), (0, 1, 1));
    }

    #[test]
    fn what_is_not_exactly_an_index_is_refused() {
        let (good, size) = good();
        let refused = |bytes: &[u8], size: u64, reason: &str| {
            let e = Index::parse(bytes, size).unwrap_err();
            assert_eq!(e.reason.as_str(), reason, "{e}");
        };
        refused(&good, size + 1, "malformed-pieces");
        for len in 0..good.len() {
            refused(&good[..len], size, "malformed-pieces");
        }
        refused(&[&good[..], b"x"].concat(), size, "malformed-pieces");
        let changed = |at: usize, to: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            bytes
        };
        refused(&changed(0, b"k"), size, "malformed-pieces");
        refused(&changed(16, &u32::MAX.to_le_bytes()), size, "limit-exceeded");
        // The length of the first piece: none, too long, another one.
        for len in [0, limits::PIECE_BYTES as u32 + 1, 0x00ff_ffff, 5] {
            refused(&changed(HEADER_BYTES + HASH_BYTES, &len.to_le_bytes()[..3]), size, "malformed-pieces");
        }
        refused(&[&MAGIC[..], &[0; 12]].concat(), 0, "malformed-pieces");
    }

    #[test]
    fn an_image_of_too_many_pieces_has_no_index() {
        let image = MARK.repeat(limits::PIECES);
        assert_eq!(Index::of(&image[..]).unwrap().unwrap().pieces().len(), limits::PIECES);
        assert_eq!(Index::of(&MARK.repeat(limits::PIECES + 1)[..]).unwrap(), None);
        assert_eq!(Index::of(&[&image[..], b"rest"].concat()[..]).unwrap(), None);
        assert_eq!(Index::of(&b""[..]).unwrap(), None);
    }
}
