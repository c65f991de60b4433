//! The border between two pieces of an initramfs. The publisher and the device find the same one in the same bytes.

use sha2::{Digest as _, Sha256};

use crate::base::limits;

/// The empty stored block of a full flush (RFC 1951, 3.2.4): no later byte of a deflate stream refers to one before it.
pub const MARK: [u8; 4] = [0, 0, 0xff, 0xff];

/// A piece is known by so many bytes of its SHA-256. The digest of the whole image decides in the end.
pub const HASH_BYTES: usize = 16;

/// The name of a piece.
pub type Hash = [u8; HASH_BYTES];

/// A piece that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Of its bytes.
    pub hash: Hash,
    /// In bytes.
    pub len: usize,
}

/// The hash of a piece.
#[must_use]
pub fn hash(bytes: &[u8]) -> Hash {
    shortened(&Sha256::digest(bytes))
}

fn shortened(digest: &[u8]) -> Hash {
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&digest[..HASH_BYTES]);
    hash
}

/// Cuts a stream of bytes behind each [`MARK`], and where a piece would become longer than [`limits::PIECE_BYTES`].
#[derive(Clone, Debug, Default)]
pub struct Cutter {
    hasher: Sha256,
    len: usize,
    /// The last four bytes of the piece.
    last: u32,
}

impl Cutter {
    /// Takes the next bytes, and gives each piece that ends in them.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Cut)) {
        let (mut start, mark) = (0, u32::from_be_bytes(MARK));
        for (at, byte) in bytes.iter().enumerate() {
            self.last = self.last << 8 | u32::from(*byte);
            self.len += 1;
            if (self.last == mark && self.len >= MARK.len()) || self.len == limits::PIECE_BYTES {
                self.hasher.update(&bytes[start..=at]);
                start = at + 1;
                found(self.cut());
            }
        }
        self.hasher.update(&bytes[start..]);
    }

    /// The rest behind the last border.
    pub fn finish(mut self) -> Option<Cut> {
        (self.len > 0).then(|| self.cut())
    }

    fn cut(&mut self) -> Cut {
        self.last = 0;
        Cut { hash: shortened(&self.hasher.finalize_reset()), len: std::mem::take(&mut self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], step: usize) -> Vec<Cut> {
        let (mut cutter, mut all) = (Cutter::default(), vec![]);
        bytes.chunks(step).for_each(|part| cutter.feed(part, |cut| all.push(cut)));
        all.extend(cutter.finish());
        all
    }

    #[test]
    fn pieces_end_behind_marks_however_the_bytes_arrive() {
        let bytes = [b"one", &MARK[..], &MARK[..], b"\xff\xfftwo\0\0", &MARK[..], b"rest"].concat();
        let expected: Vec<Cut> = [&b"one\0\0\xff\xff"[..], &MARK, b"\xff\xfftwo\0\0\0\0\xff\xff", b"rest"]
            .map(|piece| Cut { hash: hash(piece), len: piece.len() })
            .into();
        for step in 1..=bytes.len() {
            assert_eq!(cut(&bytes, step), expected, "{step} bytes at a time");
        }
        assert!(cut(b"", 1).is_empty());
    }

    #[test]
    fn bytes_without_a_mark_are_cut_at_the_longest_piece() {
        let bytes = vec![7; 2 * limits::PIECE_BYTES + 5];
        let lengths: Vec<_> = cut(&bytes, 1 << 20).iter().map(|cut| cut.len).collect();
        assert_eq!(lengths, [limits::PIECE_BYTES, limits::PIECE_BYTES, 5]);
    }
}
