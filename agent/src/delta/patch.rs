//! One patch: a piece of the new initramfs from pieces of the old one.
//!
//! Form: the stream of the crate `bidiff` 1.0, deflated without a header (RFC 1951). The stream begins with `0xB1DF` and
//! `0x1000`, each of 4 bytes in little endian. Its instructions follow: the length of a sum and its bytes, each of which is
//! added to the next byte of the sources; the length of a copy and its bytes; a signed distance to move in the sources.
//! Numbers are those of Protocol Buffers: 7 bits a byte, the lowest first; zigzag where they have a sign. This decoder is our
//! own because that of the crate (`bipatch`) takes a stream that ends in a number for a complete one.

use std::io::{self, BufReader, Read};

use flate2::bufread::DeflateDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use crate::base::limits;
use crate::delta::cutter::MARK;

/// The start of a stream: magic number and version.
const HEAD: [u8; 8] = [0xdf, 0xb1, 0, 0, 0, 0x10, 0, 0];
/// No number here needs more than 32 bits.
const NUMBER_BYTES: u32 = 5;
const BUFFER_BYTES: usize = 16 * 1024;

/// Bytes that a patch for a piece of `raw` bytes may inflate to.
#[must_use]
pub fn inflated_limit(raw: usize) -> u64 {
    2 * raw as u64 + 64 * 1024
}

/// Appends exactly `raw` bytes to `out`: `patch` applied to `sources`.
///
/// # Errors
/// `InvalidData` or `UnexpectedEof` for anything that is not exactly such a patch. `out` may have grown by less then.
pub fn apply(patch: &[u8], sources: &[u8], raw: usize, out: &mut Vec<u8>) -> io::Result<()> {
    if raw > limits::PIECE_RAW_BYTES {
        return Err(bad("its result is too long"));
    }
    let stream = BufReader::with_capacity(BUFFER_BYTES, DeflateDecoder::new(patch));
    let mut stream = stream.take(inflated_limit(raw));
    let mut head = [0; HEAD.len()];
    stream.read_exact(&mut head)?;
    if head != HEAD {
        return Err(bad("its start is another one"));
    }
    let end = out.len() + raw;
    let mut at = 0usize;
    while let Some(sum) = number(&mut stream, true)? {
        let start = append(&mut stream, sum, end, out)?;
        let after = at.checked_add(out.len() - start).ok_or_else(|| bad("it leaves its sources"))?;
        let old = sources.get(at..after).ok_or_else(|| bad("it leaves its sources"))?;
        out[start..].iter_mut().zip(old).for_each(|(new, old)| *new = new.wrapping_add(*old));
        let copy = number(&mut stream, false)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        append(&mut stream, copy, end, out)?;
        let step = number(&mut stream, false)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let step = (step >> 1) as i64 ^ -((step & 1) as i64); // of 35 bits
        let next = i64::try_from(after).ok().and_then(|after| usize::try_from(after.checked_add(step)?).ok());
        at = next.filter(|next| *next <= sources.len()).ok_or_else(|| bad("it leaves its sources"))?;
    }
    if out.len() == end { Ok(()) } else { Err(bad("its result is too short")) }
}

/// Appends the next `len` bytes of the stream; returns where they begin.
fn append(stream: &mut impl Read, len: u64, end: usize, out: &mut Vec<u8>) -> io::Result<usize> {
    let start = out.len();
    let len = usize::try_from(len).ok().filter(|len| *len <= end - start);
    out.resize(start + len.ok_or_else(|| bad("its result is too long"))?, 0);
    stream.read_exact(&mut out[start..])?;
    Ok(start)
}

/// The next number; `None` at the end of the stream, where that is allowed.
fn number(stream: &mut impl Read, may_end: bool) -> io::Result<Option<u64>> {
    let (mut number, mut byte) = (0, [0]);
    for place in 0..NUMBER_BYTES {
        if place == 0 && may_end && stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        if place > 0 || !may_end {
            stream.read_exact(&mut byte)?;
        }
        number |= u64::from(byte[0] & 0x7f) << (7 * place);
        if byte[0] < 0x80 {
            return Ok(Some(number));
        }
    }
    Err(bad("a number is too long"))
}

/// Appends the content of a piece to `out`: at most `limit` bytes, and none of it where the piece is not complete in itself.
///
/// # Errors
/// `InvalidData`.
pub fn inflate(piece: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    // One more than is allowed, to notice more. Memory that is not written to is not taken.
    out.reserve_exact(limit + 1);
    let mut decoder = Decompress::new(false);
    let done = decoder.decompress_vec(piece, out, FlushDecompress::Sync);
    let len = usize::try_from(decoder.total_out()).unwrap_or(usize::MAX);
    let complete = matches!(done, Ok(Status::Ok | Status::BufError))
        && decoder.total_in() == piece.len() as u64
        && piece.ends_with(&MARK)
        && (1..=limit).contains(&len);
    out.truncate(if complete { start + len } else { start });
    if complete { Ok(()) } else { Err(bad("the piece is not complete in itself")) }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::delta::encoder::Deflate1;

    pub(in crate::delta) fn deflated(stream: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(vec![], Compression::best());
        encoder.write_all(stream).unwrap();
        encoder.finish().unwrap()
    }

    fn varint(mut number: u64, out: &mut Vec<u8>) {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }

    /// One instruction.
    pub(in crate::delta) fn step(sum: &[u8], copy: &[u8], seek: i64) -> Vec<u8> {
        let mut out = vec![];
        varint(sum.len() as u64, &mut out);
        out.extend(sum);
        varint(copy.len() as u64, &mut out);
        out.extend(copy);
        varint(((seek << 1) ^ (seek >> 63)) as u64, &mut out);
        out
    }

    fn stream(steps: &[Vec<u8>]) -> Vec<u8> {
        [&HEAD[..], &steps.concat()].concat()
    }

    pub(in crate::delta) fn patch(steps: &[Vec<u8>]) -> Vec<u8> {
        deflated(&stream(steps))
    }

    fn applied(patch: &[u8], raw: usize) -> io::Result<Vec<u8>> {
        let mut out = b"kept".to_vec();
        apply(patch, b"0123456789", raw, &mut out)?;
        assert!(out.starts_with(b"kept"));
        Ok(out.split_off(4))
    }

    #[test]
    fn a_patch_adds_copies_and_moves() {
        let steps = [step(&[0, 1, 255], b"new", 5), step(&[0, 0], b"", -10), step(&[2], b"", 0)];
        assert_eq!(applied(&patch(&steps), 9).unwrap(), b"021new892");
    }

    #[test]
    fn a_patch_is_exact() {
        let steps = [step(&[0, 1, 255], b"new", 5), step(&[0, 0], b"", -10), step(&[2], b"", 0)];
        let (good, raw) = (patch(&steps), 9);
        for other in (0..20).filter(|other| *other != raw) {
            applied(&good, other).unwrap_err();
        }
        let whole = stream(&steps);
        let ends: Vec<_> = (1..=steps.len()).map(|count| stream(&steps[..count]).len()).collect();
        for len in 0..whole.len() {
            assert!(applied(&deflated(&whole[..len]), raw).is_err(), "the first {len} of {} bytes", whole.len());
            // At the end of an instruction a shorter patch ends.
            if !ends.contains(&len) && len > HEAD.len() {
                let kind = (0..raw).map(|raw| applied(&deflated(&whole[..len]), raw).map_err(|e| e.kind()));
                assert!(kind.into_iter().all(|result| result.is_err()), "{len}");
            }
        }
        for wrong in [
            patch(&[step(&[0; 11], b"", 0)]),
            patch(&[step(&[], b"", 11), step(&[0], b"", 0)]),
            patch(&[step(&[], b"", -1), step(&[0], b"", 0)]),
            patch(&[step(&[], b"", i64::from(i32::MIN)), step(&[0], b"", 0)]),
            deflated(&[&HEAD[..], &[0xff; 9], &[1]].concat()),
            deflated(b"\xdf\xb1\0\0\x01\x10\0\0\x01\x00\0\0"),
            vec![],
        ] {
            (0..12).for_each(|raw| assert!(applied(&wrong, raw).is_err()));
        }
    }

    #[test]
    fn a_patch_inflates_to_a_bounded_length() {
        let idle = |count: usize| patch(&vec![step(&[], b"", 0); count]);
        let count = inflated_limit(0) as usize / 3;
        assert_eq!(applied(&idle((inflated_limit(0) as usize - HEAD.len()) / 3), 0).unwrap(), b"");
        applied(&[idle(count), step(&[0], b"", 0)].concat(), 1).unwrap_err();
        applied(&idle(100 * count), 0).unwrap_err();
        applied(&patch(&[step(&[], &vec![7; limits::PIECE_RAW_BYTES + 1], 0)]), limits::PIECE_RAW_BYTES + 1)
            .unwrap_err();
    }

    #[test]
    fn a_piece_inflates_alone_and_within_its_limit() {
        let raw: Vec<u8> = (0..50_000u32).map(|n| ((n * n) >> 5) as u8).collect();
        let mut piece = vec![];
        Deflate1::default().piece(&raw, &mut piece).unwrap();
        let inflated = |piece: &[u8], limit: usize| {
            let mut out = b"kept".to_vec();
            let done = inflate(piece, limit, &mut out);
            assert!(done.is_ok() || out == b"kept");
            done.map(|()| out.split_off(4))
        };
        assert_eq!(inflated(&piece, raw.len()).unwrap(), raw);
        assert_eq!(inflated(&piece, raw.len() + 100).unwrap(), raw);
        inflated(&piece, raw.len() - 1).unwrap_err();
        inflated(&piece[1..], raw.len()).unwrap_err();
        inflated(&piece[..piece.len() - 1], raw.len()).unwrap_err();
        inflated(&[&piece[..], &[3, 0], b"behind the end"].concat(), raw.len()).unwrap_err();
        inflated(b"", raw.len()).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_stream_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), raw in 0..300usize) {
            let _ = applied(&deflated(&[&HEAD[..], &bytes].concat()), raw);
            let _ = applied(&bytes, raw);
            let _ = inflate(&bytes, raw, &mut vec![]);
        }
    }
}
