//! Patches of one earlier release: a table, and the patches in its order. Both are a signed layer of the release.
//!
//! An entry of the table, in bytes of little endian: the number of the piece in the index (4); the number of its sources
//! (1) and for each the first 16 bytes of the SHA-256 of a piece of the old image; the length of the piece before
//! compression (4), or 0 for a piece that is here as it is; the number of bytes here (4), and the first 16 bytes of their
//! SHA-256. Entries ascend, and nothing follows the last one.
//!
//! The manifest has the digest of the table, and the table has the hash of each patch: nothing is parsed before it is proven.

use std::fmt;

use bytes::Bytes;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::delta::cutter::{HASH_BYTES, Hash, hash};
use crate::delta::encoder::Deflate1;
use crate::delta::index::{Index, Piece};
use crate::delta::patch;
use crate::fetch::body::Body;
use crate::release::release::Blob;

/// A patch in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Number of the piece in the index.
    pub piece: usize,
    /// Pieces of the old image, whose contents are the source, one after the other.
    pub sources: &'a [Hash],
    /// Bytes of the piece before compression; 0 if the patch is the piece itself.
    pub raw: usize,
    /// Bytes of the patch.
    pub len: usize,
    /// Of the patch.
    pub hash: Hash,
}

impl<'a> Entry<'a> {
    /// Reads an entry and returns the bytes behind it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (piece, bytes) = number(bytes)?;
        let (count, bytes) = bytes.split_first()?;
        let (sources, bytes) = bytes.split_at_checked(usize::from(*count) * HASH_BYTES)?;
        let (raw, bytes) = number(bytes)?;
        let (len, bytes) = number(bytes)?;
        let (hash, bytes) = bytes.split_first_chunk()?;
        Some((Self { piece, sources: sources.as_chunks().0, raw, len, hash: *hash }, bytes))
    }

    /// Appends the entry to a table. Its numbers are within the limits.
    pub fn write(&self, table: &mut Vec<u8>) {
        table.extend((self.piece as u32).to_le_bytes());
        table.push(self.sources.len() as u8);
        self.sources.iter().for_each(|source| table.extend(source));
        table.extend((self.raw as u32).to_le_bytes());
        table.extend((self.len as u32).to_le_bytes());
        table.extend(self.hash);
    }

    /// The rules for an entry alone.
    fn check(&self, index: &Index) -> Result<(), &'static str> {
        let piece = index.pieces().get(self.piece).ok_or("the index has no such piece")?;
        if self.raw == 0 {
            let itself = self.sources.is_empty() && self.len == piece.len && self.hash == piece.hash;
            return if itself { Ok(()) } else { Err("it is another piece than that of the index") };
        }
        if self.raw > limits::PIECE_RAW_BYTES {
            return Err("the piece is too long");
        }
        if !(1..=limits::PATCH_SOURCES).contains(&self.sources.len()) {
            return Err("it has no sources, or too many");
        }
        if (1..piece.len).contains(&self.len) { Ok(()) } else { Err("it is not shorter than the piece") }
    }
}

/// A number of 32 bits, and the bytes behind it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number) as usize, rest))
}

/// The table of a pack. It is kept as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Table(Vec<u8>);

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Table {
    /// Reads the table of a pack of `size` bytes for the image with this index.
    ///
    /// # Errors
    /// 65 `malformed-patches` for anything that is not exactly such a table.
    pub fn parse(bytes: Vec<u8>, index: &Index, size: u64) -> Result<Self> {
        if bytes.len() as u64 > limits::PATCH_TABLE_BYTES {
            return Err(limits::exceeded("table of patches", format_args!("{} bytes", limits::PATCH_TABLE_BYTES)));
        }
        let (mut rest, mut end, mut last) = (&bytes[..], bytes.len() as u64, None);
        while !rest.is_empty() {
            let (entry, next) = Entry::read(rest).ok_or_else(|| malformed("it ends in an entry"))?;
            let ascends = last < Some(entry.piece);
            let checked = if ascends { entry.check(index) } else { Err("its piece is not behind the one before") };
            checked.map_err(|why| malformed(format_args!("the patch of piece {}: {why}", entry.piece)))?;
            last = Some(entry.piece);
            end += entry.len as u64;
            rest = next;
        }
        if last.is_none() {
            return Err(malformed("it is empty"));
        }
        if end != size {
            return Err(malformed(format_args!("its patches have {end} bytes with it, not {size}")));
        }
        Ok(Self(bytes))
    }

    /// All entries, in the order of the pieces.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (entry, next) = Entry::read(rest)?;
            rest = next;
            Some(entry)
        })
    }
}

fn malformed(why: impl fmt::Display) -> Error {
    Error::new(Reason::MalformedPatches, format!("the table of patches is not valid: {why}"))
        .remedy("Publish the release again.")
}

/// Why a piece is fetched although the pack has a patch for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallback {
    /// The booted slot does not have a source, or no longer as it was.
    Source,
    /// The sources of all patches together are too long.
    SourceLimit,
    /// The bytes of the patch are not those that the table has.
    Differs,
    /// The patch is none, although the publisher proved it.
    Broken,
    /// The result is another piece.
    Result,
    /// The pack ended early, or the server does not send it any more.
    Ended,
}

impl Fallback {
    /// The word for it in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source-missing",
            Self::SourceLimit => "source-limit",
            Self::Differs => "patch-differs",
            Self::Broken => "patch-broken",
            Self::Result => "result-differs",
            Self::Ended => "patches-ended",
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A pack on its way to this device.
pub struct Pack {
    body: Box<dyn Body>,
    /// Bytes that came and were not taken.
    here: Bytes,
    table: Table,
    /// Where the next entry is in the table.
    next: usize,
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pack").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Pack {
    /// Reads the table and proves it. `size` is that of the whole pack, `table` the first part of it by the manifest. `spent`
    /// grows by the bytes that came for nothing.
    ///
    /// # Errors
    /// Those of the download; 65 for another table, or one that is not valid.
    pub fn open(mut body: Box<dyn Body>, size: u64, table: &Blob, index: &Index, spent: &mut u64) -> Result<Self> {
        let mut here = Bytes::new();
        let table = Self::proven(&mut *body, &mut here, table).and_then(|table| Table::parse(table, index, size));
        match table {
            Ok(table) => Ok(Self { body, here, table, next: 0 }),
            Err(e) => {
                *spent += body.fetched();
                Err(e)
            }
        }
    }

    /// The bytes of the table.
    fn proven(body: &mut dyn Body, here: &mut Bytes, table: &Blob) -> Result<Vec<u8>> {
        let limit = usize::try_from(table.size).ok().filter(|size| *size as u64 <= limits::PATCH_TABLE_BYTES);
        let Some(len) = limit else {
            return Err(limits::exceeded("table of patches", format_args!("{} bytes", limits::PATCH_TABLE_BYTES)));
        };
        let mut bytes = vec![];
        read(body, here, len, &mut bytes)?;
        if Digest::of(&bytes) == table.digest {
            return Ok(bytes);
        }
        let message = "the table of patches is another one than that of the manifest";
        Err(Error::new(Reason::DigestMismatch, message).remedy("Publish the release again."))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Bytes that came over the network until now.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.body.fetched()
    }

    /// The entry for this piece, with its patch in `into`; `None` if the table has none. Pieces must be asked for in their
    /// order; the patches of others are passed over. The bytes are those of the table, or it is [`Fallback::Differs`], after
    /// which the next piece can be asked for.
    ///
    /// # Errors
    /// [`Fallback::Ended`] where the download fails: there are no more patches then.
    pub fn patch(&mut self, piece: usize, into: &mut Vec<u8>) -> Result<Option<Entry<'_>>, Fallback> {
        loop {
            let rest = self.table.0.get(self.next..).unwrap_or_default();
            let Some((entry, after)) = Entry::read(rest).filter(|(entry, _)| entry.piece <= piece) else {
                return Ok(None);
            };
            let (at, next) = (self.next, self.table.0.len() - after.len());
            let wanted = entry.piece == piece;
            into.clear();
            if let Err(e) = read(&mut *self.body, &mut self.here, entry.len, into) {
                log::warn!("no more patches, fetching the pieces: {e}");
                self.next = self.table.0.len();
                return Err(Fallback::Ended);
            }
            self.next = next;
            if wanted {
                let found = self.table.0.get(at..).and_then(Entry::read).map(|(entry, _)| entry);
                return found.filter(|entry| entry.hash == hash(into)).map(Some).ok_or(Fallback::Differs);
            }
        }
    }
}

/// Appends the next `len` bytes of a download.
fn read(body: &mut dyn Body, here: &mut Bytes, len: usize, into: &mut Vec<u8>) -> Result<()> {
    let end = into.len() + len;
    while into.len() < end {
        if here.is_empty() {
            let ended = || Error::new(Reason::SizeMismatch, "the patches end too early");
            *here = body.chunk()?.ok_or_else(ended)?;
        }
        into.extend_from_slice(&here.split_to(here.len().min(end - into.len())));
    }
    Ok(())
}

/// Gives pieces of the old image by their hash.
pub trait Sources {
    /// Appends the piece to `into`; false if it is not there, or not with this hash.
    fn read(&mut self, source: &Hash, into: &mut Vec<u8>) -> bool;
}

/// Makes pieces by patches. The publisher and the device do this by the same code.
#[derive(Debug)]
pub struct Maker {
    /// Made when it is needed.
    encoder: Option<Deflate1>,
    /// Bytes that sources may still be inflated to.
    budget: u64,
    piece: Vec<u8>,
    sources: Vec<u8>,
    raw: Vec<u8>,
    made: Vec<u8>,
}

impl Maker {
    /// For an image of `unpacked` bytes before compression: bounds the time that sources take.
    #[must_use]
    pub fn new(unpacked: u64) -> Self {
        let budget = unpacked.saturating_mul(limits::SOURCES_PER_BYTE);
        let (piece, sources, raw, made) = (vec![], vec![], vec![], vec![]);
        Self { encoder: None, budget, piece, sources, raw, made }
    }

    /// Gives its memory back until the next piece: about 1 MiB.
    pub fn rest(&mut self) {
        *self = Self { budget: self.budget, ..Self::new(0) };
    }

    /// Makes `piece` of a patch that is the one of the table.
    ///
    /// # Errors
    /// The reason why it cannot be made.
    pub fn make(
        &mut self,
        entry: &Entry<'_>,
        bytes: &[u8],
        piece: &Piece,
        from: &mut dyn Sources,
    ) -> Result<&[u8], Fallback> {
        self.made.clear();
        if entry.raw == 0 {
            self.made.extend_from_slice(bytes);
        } else {
            self.inflate(entry.sources, from)?;
            self.raw.clear();
            patch::apply(bytes, &self.sources, entry.raw, &mut self.raw).map_err(|_| Fallback::Broken)?;
            let encoder = self.encoder.get_or_insert_default();
            encoder.piece_within(&self.raw, piece.len, &mut self.made).ok_or(Fallback::Result)?;
        }
        let right = self.made.len() == piece.len && hash(&self.made) == piece.hash;
        if right { Ok(&self.made) } else { Err(Fallback::Result) }
    }

    /// The content of the sources, one after the other.
    fn inflate(&mut self, sources: &[Hash], from: &mut dyn Sources) -> Result<(), Fallback> {
        self.sources.clear();
        for source in sources {
            self.piece.clear();
            if !from.read(source, &mut self.piece) {
                return Err(Fallback::Source);
            }
            let room = limits::SOURCE_BYTES - self.sources.len();
            let (before, limit) = (self.sources.len(), room.min(limits::PIECE_RAW_BYTES));
            patch::inflate(&self.piece, limit, &mut self.sources).map_err(|_| Fallback::Source)?;
            let inflated = (self.sources.len() - before) as u64;
            self.budget = self.budget.checked_sub(inflated).ok_or(Fallback::SourceLimit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::delta::cutter::MARK;
    use crate::delta::patch::tests as by_hand;

    /// A body that sends a few bytes at a time.
    struct Sent(Vec<u8>, usize);

    impl Body for Sent {
        fn chunk(&mut self) -> Result<Option<Bytes>> {
            let left = &self.0[self.1..];
            let next = Bytes::copy_from_slice(&left[..left.len().min(7)]);
            self.1 += next.len();
            Ok(Some(next).filter(|next| !next.is_empty()))
        }

        fn fetched(&self) -> u64 {
            self.1 as u64
        }
    }

    impl Sources for BTreeMap<Hash, Vec<u8>> {
        fn read(&mut self, source: &Hash, into: &mut Vec<u8>) -> bool {
            self.get(source).inspect(|piece| into.extend_from_slice(piece)).is_some()
        }
    }

    fn piece(raw: &[u8]) -> Vec<u8> {
        let mut piece = vec![];
        Deflate1::default().piece(raw, &mut piece).unwrap();
        piece
    }

    /// An image of four pieces and its patches: the second is an old one with other bytes, the third is not in the pack,
    /// and the fourth is in it as it is.
    struct Release {
        index: Index,
        image: Vec<Vec<u8>>,
        old: BTreeMap<Hash, Vec<u8>>,
        entries: Vec<(usize, Vec<Hash>, usize, Vec<u8>)>,
    }

    impl Release {
        fn new() -> Self {
            let text = |n: u32| (0..2000).flat_map(|line| format!("{line} {n}\n").into_bytes()).collect::<Vec<_>>();
            let (first, second) = (text(1), text(2));
            let new = [&second[..5000], b"changed", &second[5000..], &first[..700]].concat();
            let image = vec![piece(b"start"), piece(&new), piece(b"other"), b"the end".to_vec()];
            let old: BTreeMap<_, _> = [&first, &second].map(|raw| (hash(&piece(raw)), piece(raw))).into();
            let seek = first.len() as i64;
            let steps = [
                by_hand::step(&[], b"", seek),
                by_hand::step(&[0; 5000], b"changed", 0),
                by_hand::step(&vec![0; second.len() - 5000], b"", -seek - second.len() as i64),
                by_hand::step(&[0; 700], b"", 0),
            ];
            let sources = vec![hash(&piece(&first)), hash(&piece(&second))];
            let entries = vec![(1, sources, new.len(), by_hand::patch(&steps)), (3, vec![], 0, image[3].clone())];
            let index = Index::of(&image.concat()[..]).unwrap().unwrap();
            assert_eq!(index.pieces().len(), image.len());
            Self { index, image, old, entries }
        }

        fn table(&self) -> Vec<u8> {
            let mut table = vec![];
            for (piece, sources, raw, bytes) in &self.entries {
                Entry { piece: *piece, sources, raw: *raw, len: bytes.len(), hash: hash(bytes) }.write(&mut table);
            }
            table
        }

        fn patches(&self) -> Vec<u8> {
            self.entries.iter().flat_map(|entry| entry.3.clone()).collect()
        }

        fn parsed(&self) -> Result<Table> {
            Table::parse(self.table(), &self.index, (self.table().len() + self.patches().len()) as u64)
        }

        /// The pack, with other bytes than those that were signed.
        fn open(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<Pack> {
            let table = Blob { digest: Digest::of(&self.table()), size: self.table().len() as u64 };
            let mut sent = [self.table(), self.patches()].concat();
            let size = sent.len() as u64;
            change(&mut sent);
            Pack::open(Box::new(Sent(sent, 0)), size, &table, &self.index, &mut 0)
        }

        /// The result for each piece: none where the table has no patch.
        fn made(&mut self, pack: &mut Pack, unpacked: u64) -> Vec<Option<Result<Vec<u8>, Fallback>>> {
            let (mut maker, mut bytes) = (Maker::new(unpacked), vec![]);
            let one = |(at, piece): (usize, &Piece)| {
                let entry = match pack.patch(at, &mut bytes) {
                    Ok(entry) => entry?,
                    Err(why) => return Some(Err(why)),
                };
                Some(maker.make(&entry, &bytes, piece, &mut self.old).map(<[u8]>::to_vec))
            };
            self.index.pieces().iter().enumerate().map(one).collect()
        }

        fn all(&self) -> Vec<Option<Result<Vec<u8>, Fallback>>> {
            vec![None, Some(Ok(self.image[1].clone())), None, Some(Ok(self.image[3].clone()))]
        }
    }

    #[test]
    fn a_pack_makes_its_pieces() {
        let mut release = Release::new();
        let mut pack = release.open(|_| {}).unwrap();
        assert_eq!(release.made(&mut pack, 1 << 20), release.all());
        assert_eq!(pack.fetched(), (release.table().len() + release.patches().len()) as u64);
        assert!(release.entries[0].3.len() * 2 < release.image[1].len(), "a patch is smaller than its piece");
    }

    #[test]
    fn patches_of_pieces_that_are_here_are_passed_over() {
        let release = Release::new();
        let (mut pack, mut bytes) = (release.open(|_| {}).unwrap(), vec![]);
        assert_eq!(pack.patch(3, &mut bytes).unwrap().map(|entry| entry.piece), Some(3));
        assert_eq!(bytes, release.image[3]);
        assert_eq!(pack.patch(3, &mut bytes), Ok(None));
    }

    #[test]
    fn a_flipped_bit_costs_the_one_piece() {
        let mut release = Release::new();
        let (table, patch, good) = (release.table().len(), release.entries[0].3.len(), release.all());
        for at in 0..table + patch + release.image[3].len() {
            let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            let mut pack = match release.open(flip) {
                Err(e) if at < table => {
                    assert_eq!(e.reason, Reason::DigestMismatch);
                    continue;
                }
                opened => opened.unwrap(),
            };
            let (mut expected, hit) = (good.clone(), if at < table + patch { 1 } else { 3 });
            expected[hit] = Some(Err(Fallback::Differs));
            assert_eq!(release.made(&mut pack, 1 << 20), expected, "byte {at}");
        }
    }

    #[test]
    fn a_pack_that_ends_early_keeps_what_it_gave() {
        let mut release = Release::new();
        let table = release.table().len();
        for len in 0..table {
            assert_eq!(release.open(|bytes| bytes.truncate(len)).unwrap_err().reason, Reason::SizeMismatch);
        }
        let patch = release.entries[0].3.len();
        for (len, first) in
            [(table, false), (table + patch - 1, false), (table + patch, true), (table + patch + 3, true)]
        {
            let mut pack = release.open(|bytes| bytes.truncate(len)).unwrap();
            let made = release.made(&mut pack, 1 << 20);
            let ended = Some(Err(Fallback::Ended));
            // Behind the end there are no patches.
            let expected = if first { [&release.all()[..3], &[ended]].concat() } else { vec![None, ended, None, None] };
            assert_eq!(made, expected, "{len} bytes");
        }
    }

    #[test]
    fn each_cause_has_its_word() {
        let first = |release: &mut Release, unpacked: u64| {
            let mut pack = release.open(|_| {}).unwrap();
            release.made(&mut pack, unpacked)[1].clone().unwrap().unwrap_err()
        };
        let mut release = Release::new();
        release.old.clear();
        assert_eq!(first(&mut release, 1 << 20), Fallback::Source);
        // The old slot has other bytes by now.
        let mut release = Release::new();
        release.old.values_mut().for_each(|piece| piece.truncate(piece.len() / 2));
        assert_eq!(first(&mut release, 1 << 20), Fallback::Source);
        // The content of both sources, once: each byte of the image may cost eight.
        let mut release = Release::new();
        let text = release.entries[0].2 as u64 - 707 + 700;
        assert_eq!(first(&mut release, text / limits::SOURCES_PER_BYTE), Fallback::SourceLimit);
        // Signed by mistake: what is in the pack is wrong.
        let mut release = Release::new();
        release.entries[0].3.pop();
        release.entries[0].3[5] ^= 1;
        assert_eq!(first(&mut release, 1 << 20), Fallback::Broken);
        let mut release = Release::new();
        release.entries[0].1.swap(0, 1);
        assert_eq!(first(&mut release, 1 << 20), Fallback::Result);
    }

    #[test]
    fn sources_have_a_limit() {
        let mut release = Release::new();
        // 320 KiB of zeros are a short piece.
        let zeros = piece(&vec![0; 320 << 10]);
        release.old.insert(hash(&zeros), zeros.clone());
        release.entries[0].1 = vec![hash(&zeros)];
        let mut pack = release.open(|_| {}).unwrap();
        assert_eq!(release.made(&mut pack, u64::MAX)[1], Some(Err(Fallback::Source)));
        let zeros = piece(&vec![0; 250 << 10]);
        release.old.insert(hash(&zeros), zeros.clone());
        release.entries[0].1 = vec![hash(&zeros); 3];
        let mut pack = release.open(|_| {}).unwrap();
        assert_eq!(release.made(&mut pack, u64::MAX)[1], Some(Err(Fallback::Source)));
    }

    #[test]
    fn what_is_not_exactly_a_table_is_refused() {
        let refused = |change: &dyn Fn(&mut Release)| {
            let mut release = Release::new();
            assert_eq!(release.parsed().unwrap().entries().count(), 2);
            change(&mut release);
            let e = release.parsed().unwrap_err();
            assert_eq!(e.reason, Reason::MalformedPatches, "{e}");
        };
        refused(&|release| release.entries.swap(0, 1));
        refused(&|release| release.entries[1].0 = 1);
        refused(&|release| release.entries[1].0 = 4);
        refused(&|release| release.entries[1].0 = 2);
        refused(&|release| release.entries[1].3 = b"the End".to_vec());
        refused(&|release| release.entries[1].1.push([0; 16]));
        refused(&|release| release.entries[0].1.clear());
        refused(&|release| release.entries[0].1 = vec![[0; 16]; limits::PATCH_SOURCES + 1]);
        refused(&|release| release.entries[0].2 = limits::PIECE_RAW_BYTES + 1);
        refused(&|release| release.entries[0].3 = vec![]);
        refused(&|release| release.entries[0].3 = vec![0; release.image[1].len()]);
        let release = Release::new();
        let (table, size) = (release.table(), (release.table().len() + release.patches().len()) as u64);
        for len in 0..table.len() {
            Table::parse(table[..len].to_vec(), &release.index, size).unwrap_err();
        }
        Table::parse(table.clone(), &release.index, size + 1).unwrap_err();
        Table::parse([&table[..], b"x"].concat(), &release.index, size + 1).unwrap_err();
        let long = vec![0; limits::PATCH_TABLE_BYTES as usize + 1];
        assert_eq!(Table::parse(long, &release.index, 0).unwrap_err().reason, Reason::LimitExceeded);
        assert!(release.image[0].ends_with(&MARK));
    }
}
