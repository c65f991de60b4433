//! The encoder `deflate-1`: the same bytes from the same input, on every machine and in every version of this program.
//!
//! A device that has most of an image makes the rest of it by this encoder, so its output is a format. It is that of
//! `miniz_oxide` at level 6, whose bytes have been the same from 0.7.1 to 0.9.1. If an update changes them, the test below
//! fails: pin the old version, or name the new output `deflate-2` and keep both.

use std::fmt;

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{MZFlush, MZStatus};

const LEVEL: i32 = 6;
/// Raw deflate with the largest window (32 KiB), as zlib spells it.
const WINDOW_BITS: i32 = -15;
/// zlib's default strategy.
const STRATEGY: i32 = 0;

/// Compresses pieces of a deflate stream, each without knowledge of the others. Each ends with
/// [`MARK`](crate::delta::cutter::MARK).
pub struct Deflate1(Box<CompressorOxide>);

impl fmt::Debug for Deflate1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deflate1")
    }
}

impl Default for Deflate1 {
    fn default() -> Self {
        let flags = create_comp_flags_from_zip_params(LEVEL, WINDOW_BITS, STRATEGY);
        Self(Box::new(CompressorOxide::new(flags)))
    }
}

impl Deflate1 {
    /// Appends one piece to `out` and returns its length; `None` where the encoder expands the bytes by more than an eighth,
    /// which no content is known to cause.
    pub fn piece(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        // Nine bits for each literal, and the flush.
        self.piece_within(raw, raw.len() + raw.len() / 8 + 127, out)
    }

    /// The same for a piece of known length, in bytes; `None` where it is longer.
    pub fn piece_within(&mut self, raw: &[u8], len: usize, out: &mut Vec<u8>) -> Option<usize> {
        self.0.reset();
        let start = out.len();
        // The encoder is done where it leaves a byte of its room.
        out.resize(start + len + 1, 0);
        let done = deflate(&mut self.0, raw, &mut out[start..], MZFlush::Full);
        let complete = done.status == Ok(MZStatus::Ok)
            && done.bytes_consumed == raw.len()
            && start + done.bytes_written < out.len();
        out.truncate(if complete { start + done.bytes_written } else { start });
        complete.then_some(done.bytes_written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::delta::cutter::MARK;

    /// 4 MB of words, numbers and noise, the same on every machine.
    fn sample() -> Vec<u8> {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let words: Vec<Vec<u8>> =
            (0..2000).map(|_| (0..2 + random() % 9).map(|_| b'a' + (random() % 26) as u8).collect()).collect();
        let mut sample = vec![];
        while sample.len() < 4_000_000 {
            match random() % 8 {
                0 => sample.extend(random().to_le_bytes()),
                1 => sample.extend(std::iter::repeat_n(0, (random() % 300) as usize)),
                2 => sample.extend(random().to_string().bytes()),
                _ => sample.extend(&words[(random() % 2000 * (random() % 2000) / 2000) as usize]),
            }
        }
        sample.truncate(4_000_000);
        sample
    }

    #[test]
    fn the_encoder_gives_the_bytes_that_it_always_gave() {
        let sample = sample();
        let (mut encoder, mut out) = (Deflate1::default(), vec![]);
        for piece in [&sample[..1], &sample[..100_000], &sample[100_000..231_072], &sample] {
            let before = out.len();
            assert_eq!(encoder.piece(piece, &mut out), Some(out.len() - before));
            assert!(out.ends_with(&MARK));
            // Nothing of an earlier piece has an influence.
            let mut alone = vec![];
            Deflate1::default().piece(piece, &mut alone).unwrap();
            assert!(out[before..] == alone[..]);
            // Nor has the room.
            let (len, mut tight) = (alone.len(), vec![]);
            assert_eq!(Deflate1::default().piece_within(piece, len, &mut tight), Some(len));
            assert!(tight == alone);
            assert_eq!(Deflate1::default().piece_within(piece, len - 1, &mut tight), None);
            assert!(tight == alone);
        }
        let golden = (878_298, "91a60346c19c74a5b7a9a737f59a9471d1a18d5ea9dec6a02521f5b6b76d2806");
        assert_eq!((out.len(), Digest::of(&out).hex().as_str()), golden);
    }
}
