//! The files in an initramfs, and the pieces that have them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use kubesolo_update::base::limits;
use kubesolo_update::delta::cutter::{Hash, hash};
use kubesolo_update::delta::index::{Index, Piece};
use kubesolo_update::delta::patch;

use crate::initramfs::{self, HEADER_BYTES, Sink, UNPACKED_BYTES};

/// A gzip header without optional parts (RFC 1952, 2.3), as `repack` writes it.
const GZIP_HEADER: [u8; 4] = [0x1f, 0x8b, 8, 0];
const GZIP_HEADER_BYTES: u64 = 10;
/// Sources that are chosen by their words: with pieces of 128 KiB there is no room for more.
const FEW_PIECES: usize = 4;
/// A source has at least one of so many words of the piece, which none before it has.
const LEAST_SHARE: usize = 32;
/// How far a place in a file may have moved, in bytes.
const NEAR_BYTES: u64 = 32 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// A file in the archive. Places are bytes before compression.
struct Entry {
    name: Box<[u8]>,
    place: Range<u64>,
}

/// An initramfs that `repack` made.
pub(super) struct Contents {
    file: File,
    index: Index,
    /// Where each piece ends before compression.
    ends: Vec<u64>,
    entries: Vec<Entry>,
    by_name: HashMap<Box<[u8]>, usize>,
    /// Entries by their name without folder and version.
    by_kind: HashMap<Vec<u8>, Vec<usize>>,
    /// Numbers of the pieces that can be sources or results of patches.
    by_hash: HashMap<Hash, usize>,
    /// By the number of the piece, as they are needed.
    sketches: Mutex<HashMap<usize, Arc<Words>>>,
}

impl Contents {
    /// Reads an initramfs; `None` if it is not one gzip member as `repack` makes it.
    pub(super) fn read(mut file: File, index: Index) -> io::Result<Option<Self>> {
        file.rewind()?;
        let mut list = List::default();
        let Ok(unpacked) = initramfs::unpack(BufReader::new(&file), UNPACKED_BYTES, &mut list) else { return Ok(None) };
        let mut header = [0; GZIP_HEADER.len()];
        if unpacked.gzip_members != 1 || unpacked.opaque.is_some() {
            return Ok(None);
        }
        file.read_exact_at(&mut header, list.early)?;
        if header != GZIP_HEADER {
            return Ok(None);
        }
        let Some(ends) = ends(&file, &index, list.early + GZIP_HEADER_BYTES)? else { return Ok(None) };
        let mut contents = Self {
            file,
            ends,
            by_name: list.entries.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect(),
            by_kind: HashMap::new(),
            entries: list.entries,
            sketches: Mutex::default(),
            by_hash: index.pieces().iter().enumerate().map(|(at, piece)| (piece.hash, at)).collect(),
            index,
        };
        for (at, entry) in contents.entries.iter().enumerate() {
            contents.by_kind.entry(kind(&entry.name)).or_default().push(at);
        }
        Ok(Some(contents))
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    pub(super) fn has(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Appends the bytes of a piece.
    pub(super) fn piece(&self, piece: &Piece, into: &mut Vec<u8>) -> io::Result<()> {
        let start = into.len();
        into.resize(start + piece.len, 0);
        self.file.read_exact_at(&mut into[start..], piece.offset)?;
        if hash(&into[start..]) == piece.hash {
            Ok(())
        } else {
            Err(io::Error::other("the file changes while it is read"))
        }
    }

    /// The piece with this hash.
    pub(super) fn find(&self, hash: &Hash) -> Option<&Piece> {
        self.index.pieces().get(*self.by_hash.get(hash)?)
    }

    fn place(&self, piece: usize) -> Range<u64> {
        piece.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[piece]
    }

    /// Numbers of the pieces with the bytes of `place`.
    fn pieces_at(&self, place: &Range<u64>) -> Range<usize> {
        let first = self.ends.partition_point(|end| *end <= place.start);
        let last = self.ends.partition_point(|end| *end < place.end);
        first..self.ends.len().min(last + 1)
    }

    /// The entry of an earlier image that is most like this one.
    fn like(&self, entry: &Entry) -> Option<&Entry> {
        let len = |entry: &Entry| entry.place.end - entry.place.start;
        let similar = || {
            self.by_kind.get(&kind(&entry.name))?.iter().min_by_key(|at| {
                let other = &self.entries[**at];
                len(other).abs_diff(len(entry))
            })
        };
        let at = self.by_name.get(&entry.name).or_else(similar)?;
        self.entries.get(*at)
    }

    /// Pieces of `old` that probably have most of a piece of this image, whose content is `raw`, one after the other: those
    /// of the same file with most words in common, and those at the same place.
    pub(super) fn sources(&self, piece: usize, raw: &[u8], old: &Self) -> io::Result<Sources> {
        let place = self.place(piece);
        let first = self.entries.partition_point(|entry| entry.place.end <= place.start);
        let (mut sources, words) = (Sources::default(), Words::of(raw));
        for entry in self.entries[first..].iter().take_while(|entry| entry.place.start < place.end) {
            let Some(like) = old.like(entry) else { continue };
            let near = |at: u64| like.place.start + at.saturating_sub(entry.place.start);
            let start = near(place.start).saturating_sub(NEAR_BYTES).max(like.place.start);
            let end = (near(place.end.min(entry.place.end)) + NEAR_BYTES).min(like.place.end);
            let near = if start < end { old.pieces_at(&(start..end)) } else { 0..0 };
            let all = old.pieces_at(&like.place);
            if all.len() > FEW_PIECES {
                for at in old.similar(all, &words)? {
                    sources.add(at, old)?;
                }
            }
            for at in near {
                sources.add(at, old)?;
            }
        }
        Ok(sources)
    }

    /// Those of `pieces` that have most words, each of which none before it has.
    fn similar(&self, pieces: Range<usize>, words: &Words) -> io::Result<Vec<usize>> {
        let (mut missing, mut found) = (words.clone(), vec![]);
        let sketches = pieces.map(|at| Ok((at, self.words(at)?))).collect::<io::Result<Vec<_>>>()?;
        while found.len() < FEW_PIECES {
            let best = sketches.iter().max_by_key(|(_, sketch)| missing.common(sketch));
            let Some((at, sketch)) = best.filter(|(_, sketch)| missing.common(sketch) * LEAST_SHARE > words.0.len())
            else {
                break;
            };
            missing.remove(sketch);
            found.push(*at);
        }
        Ok(found)
    }

    /// The words of a piece. Each is inflated once.
    fn words(&self, at: usize) -> io::Result<Arc<Words>> {
        let known = |sketches: &HashMap<usize, Arc<Words>>| sketches.get(&at).cloned();
        if let Some(words) = known(&self.sketches.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(words);
        }
        let (mut bytes, mut raw) = (vec![], vec![]);
        self.piece(&self.index.pieces()[at], &mut bytes)?;
        // A piece that does not inflate alone has none.
        let _ = patch::inflate(&bytes, limits::PIECE_RAW_BYTES, &mut raw);
        let words = Arc::new(Words::of(&raw));
        self.sketches.lock().unwrap_or_else(PoisonError::into_inner).insert(at, Arc::clone(&words));
        Ok(words)
    }
}

/// A sample of the words of a piece, by their hash and in order: one of 64 sequences of eight bytes, at any place.
#[derive(Clone)]
struct Words(Vec<u32>);

impl Words {
    fn of(raw: &[u8]) -> Self {
        let hash = |word: &[u8; 8]| u64::from_le_bytes(*word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hashes = raw.array_windows().map(hash).filter(|hash| hash >> 58 == 0);
        // The upper bits of a product depend on all of its factors' bits; the first six are 0 now.
        let mut words: Vec<u32> = hashes.map(|hash| (hash >> 26) as u32).collect();
        words.sort_unstable();
        words.dedup();
        Self(words)
    }

    fn has(&self, word: u32) -> bool {
        self.0.binary_search(&word).is_ok()
    }

    fn common(&self, other: &Self) -> usize {
        self.0.iter().filter(|word| other.has(**word)).count()
    }

    fn remove(&mut self, other: &Self) {
        self.0.retain(|word| !other.has(*word));
    }
}

/// Sources of one patch.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) pieces: Vec<Hash>,
    pub(super) content: Vec<u8>,
    /// Numbers of the pieces that were looked at.
    seen: Vec<usize>,
}

impl Sources {
    /// Adds a piece of `old`, if there is room for it.
    fn add(&mut self, at: usize, old: &Contents) -> io::Result<()> {
        if self.pieces.len() == limits::PATCH_SOURCES || self.seen.contains(&at) {
            return Ok(());
        }
        self.seen.push(at);
        let (piece, mut bytes) = (&old.index.pieces()[at], vec![]);
        old.piece(piece, &mut bytes)?;
        let room = (limits::SOURCE_BYTES - self.content.len()).min(limits::PIECE_RAW_BYTES);
        if patch::inflate(&bytes, room, &mut self.content).is_ok() {
            self.pieces.push(piece.hash);
        }
        Ok(())
    }
}

/// A name without its folder, and with one mark for all digits: kernel modules and libraries have versions in theirs.
fn kind(name: &[u8]) -> Vec<u8> {
    let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let mut kind: Vec<u8> = base.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
    kind.dedup_by(|a, b| *a == b'0' && *b == b'0');
    kind
}

/// Collects the entries of the gzip member.
#[derive(Default)]
struct List {
    begun: bool,
    /// Bytes before the gzip member.
    early: u64,
    /// Bytes of the member, before compression.
    read: u64,
    entries: Vec<Entry>,
}

impl Sink for List {
    fn member(&mut self) -> io::Result<()> {
        self.begun = true;
        Ok(())
    }

    fn entry(&mut self, _header: &mut [u8; HEADER_BYTES], name: &[u8], len: u64) -> io::Result<()> {
        if self.begun {
            self.entries.push(Entry { name: name.into(), place: self.read..self.read + len });
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        *(if self.begun { &mut self.read } else { &mut self.early }) += bytes.len() as u64;
        Ok(())
    }
}

/// Where each piece ends before compression, by one pass over the deflate stream that begins at `start`. `None` if it is none.
fn ends(file: &File, index: &Index, start: u64) -> io::Result<Option<Vec<u64>>> {
    let (mut decoder, mut bytes, mut out) = (Decompress::new(false), vec![], vec![0; BUFFER_BYTES]);
    let (mut ends, mut ended) = (vec![], false);
    for piece in index.pieces() {
        let skip = usize::try_from(start.saturating_sub(piece.offset)).unwrap_or(usize::MAX).min(piece.len);
        bytes.resize(piece.len, 0);
        file.read_exact_at(&mut bytes, piece.offset)?;
        let mut rest = &bytes[skip..];
        while !ended {
            let (read, made) = (decoder.total_in(), decoder.total_out());
            let Ok(status) = decoder.decompress(rest, &mut out, FlushDecompress::None) else { return Ok(None) };
            // At most the length of the piece.
            rest = &rest[(decoder.total_in() - read) as usize..];
            ended = status == Status::StreamEnd;
            if rest.is_empty() && decoder.total_out() - made < out.len() as u64 {
                break;
            }
        }
        ends.push(decoder.total_out());
    }
    Ok(ended.then_some(ends))
}
