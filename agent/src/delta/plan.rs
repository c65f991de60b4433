//! Where each piece of an image comes from, decided before anything changes.

use crate::base::digest::Digest;
use crate::base::limits;
use crate::delta::index::{Index, Piece};
use crate::delta::known::Known;
use crate::delta::pack::Table;
use crate::release::release::Patches;

/// A range goes on over so many bytes that are not needed: a request costs as much.
const GAP_BYTES: u64 = 8 * 1024;
/// A plan that fetches this much of an image, in percent, saves nothing worth its requests.
const WORTH_PERCENT: u64 = 90;
/// Patches from another release than the booted one, by their size in percent of the bytes that ranges would cost.
const FOREIGN_PERCENT: u64 = 25;

/// The origin of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The booted slot has it.
    Copied,
    /// A patch makes it of such as the booted slot has.
    Patched,
    /// The server sends it.
    Fetched,
}

/// The origin of each piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    origins: Vec<Origin>,
    /// Number of the first piece that is not there yet.
    first: usize,
    /// Bytes of the ranges.
    pub fetched: u64,
    /// Bytes that are copied.
    pub reused: u64,
    /// Bytes that patches make.
    pub patched: u64,
    /// Number of the ranges.
    pub ranges: usize,
}

impl Plan {
    /// Plans the pieces from that with the byte at `start` on. Neighbours among the fetched ones are one range, and so are
    /// those with few bytes between them; with more than [`limits::RANGES`] of them, the gap doubles until they fit.
    #[must_use]
    pub fn new(index: &Index, known: &Known, table: Option<&Table>, start: u64) -> Self {
        let origin = |piece: &Piece| match known.len_of(&piece.hash) {
            Some(len) if len == piece.len => Origin::Copied,
            _ => Origin::Fetched,
        };
        let mut origins: Vec<Origin> = index.pieces().iter().map(origin).collect();
        for entry in table.into_iter().flat_map(Table::entries) {
            // The number of a piece, as the table was checked.
            if origins[entry.piece] == Origin::Fetched && entry.sources.iter().all(|hash| known.len_of(hash).is_some())
            {
                origins[entry.piece] = Origin::Patched;
            }
        }
        let first = index.at(start);
        let mut gap = GAP_BYTES;
        loop {
            let plan = Self::joined(index.pieces(), &origins, first, gap);
            if plan.ranges <= limits::RANGES {
                return plan;
            }
            gap *= 2;
        }
    }

    /// With ranges that go on over gaps of so many bytes.
    fn joined(pieces: &[Piece], wanted: &[Origin], first: usize, gap: u64) -> Self {
        let mut plan = Self { origins: wanted.to_vec(), first, fetched: 0, reused: 0, patched: 0, ranges: 0 };
        let mut last: Option<usize> = None;
        for at in first..pieces.len() {
            if wanted[at] != Origin::Fetched {
                continue;
            }
            match last {
                Some(last) if pieces[at].offset - pieces[last].end() <= gap => {
                    plan.origins[last + 1..at].fill(Origin::Fetched);
                }
                _ => plan.ranges += 1,
            }
            last = Some(at);
        }
        for (piece, origin) in pieces.iter().zip(&plan.origins).skip(first) {
            *match origin {
                Origin::Copied => &mut plan.reused,
                Origin::Patched => &mut plan.patched,
                Origin::Fetched => &mut plan.fetched,
            } += piece.len as u64;
        }
        plan
    }

    /// The origin of the piece of that number.
    #[must_use]
    pub fn origin(&self, piece: usize) -> Origin {
        self.origins[piece]
    }

    /// Number of the first piece of the plan.
    #[must_use]
    pub fn first(&self) -> usize {
        self.first
    }

    /// Number behind the last piece of the range that begins with this one.
    #[must_use]
    pub fn range_end(&self, piece: usize) -> usize {
        let more = self.origins[piece + 1..].iter().take_while(|origin| **origin == Origin::Fetched).count();
        piece + 1 + more
    }

    /// True if it fetches clearly less than the rest of the image. `more` counts like bytes of ranges: the index, patches.
    #[must_use]
    pub fn is_worth_it(&self, more: u64) -> bool {
        let all = self.fetched + self.reused + self.patched;
        u128::from(self.fetched + more) * 100 < u128::from(all) * u128::from(WORTH_PERCENT)
    }
}

/// The patches for a device with this initramfs and version: those made for it; else those of the nearest version, if they
/// are few enough beside the `cost` of ranges in bytes.
#[must_use]
pub fn choose<'a>(
    all: &'a [Patches],
    booted: Option<Digest>,
    version: Option<&semver::Version>,
    cost: u64,
) -> Option<&'a Patches> {
    let own = all.iter().find(|one| Some(one.from) == booted);
    own.filter(|own| own.blob.size < cost).or_else(|| {
        let version = version?;
        let distance = |one: &&Patches| {
            let v = |version: &semver::Version| [version.major, version.minor, version.patch];
            let (a, b) = (v(&one.from_version), v(version));
            [a[0].abs_diff(b[0]), a[1].abs_diff(b[1]), a[2].abs_diff(b[2])]
        };
        let nearest = all.iter().filter(|one| Some(one.from) != booted).min_by_key(distance)?;
        let few = u128::from(nearest.blob.size) * 100 <= u128::from(cost) * u128::from(FOREIGN_PERCENT);
        few.then_some(nearest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::cutter::MARK;
    use crate::delta::known::tests::Bytes;
    use crate::release::release::Blob;

    fn piece(n: usize, len: usize) -> Vec<u8> {
        [&n.to_le_bytes().map(|b| b | 1).repeat(len / 8)[..], &MARK].concat()
    }

    fn index(image: &[u8]) -> Index {
        Index::of(image).unwrap().unwrap()
    }

    fn known(image: &[u8]) -> Known {
        Known::scan(Box::new(Bytes::new(image))).unwrap()
    }

    /// An image of pieces of `len` bytes and 4, of which every second one is known.
    fn every_second(count: usize, len: usize) -> (Index, Known) {
        let pieces: Vec<Vec<u8>> = (0..count).map(|n| piece(2 * n, len)).collect();
        let old: Vec<u8> = pieces.iter().skip(1).step_by(2).flatten().copied().collect();
        (index(&pieces.concat()), known(&old))
    }

    #[test]
    fn a_short_gap_between_ranges_is_fetched_too_and_a_long_one_is_copied() {
        let of = |len| {
            let (index, known) = every_second(5, len);
            Plan::new(&index, &known, None, 0)
        };
        let (near, far) = (of(GAP_BYTES as usize - 8), of(GAP_BYTES as usize));
        assert_eq!((near.ranges, near.range_end(0), near.reused), (1, 5, 0));
        assert_eq!((far.ranges, far.range_end(0), far.reused), (3, 1, 2 * (GAP_BYTES + 4)));
        assert_eq!(far.fetched + far.reused, 5 * (GAP_BYTES + 4));
        assert_eq!((far.origin(0), far.origin(1)), (Origin::Fetched, Origin::Copied));
    }

    #[test]
    fn ranges_are_joined_until_their_number_is_within_the_limit() {
        let (index, known) = every_second(2 * limits::RANGES + 2, 16 * 1024);
        let plan = Plan::new(&index, &known, None, 0);
        assert!(plan.ranges <= limits::RANGES, "{}", plan.ranges);
        assert_eq!(Plan::new(&index, &known, None, index.pieces()[2].offset).ranges, limits::RANGES);
    }

    #[test]
    fn a_plan_begins_with_the_piece_that_is_there_in_part() {
        let (index, known) = every_second(5, 64 * 1024);
        let third = index.pieces()[2];
        for start in [third.offset, third.offset + 1, third.end() - 1] {
            let plan = Plan::new(&index, &known, None, start);
            assert_eq!((plan.first(), plan.ranges, plan.reused), (2, 2, third.len as u64));
        }
        let done = Plan::new(&index, &known, None, index.size());
        assert_eq!((done.first(), done.ranges, done.fetched), (5, 0, 0));
    }

    #[test]
    fn what_fetches_almost_everything_is_not_worth_it() {
        let plan = |fetched| Plan { origins: vec![], first: 0, fetched, reused: 1000 - fetched, patched: 0, ranges: 1 };
        assert!(plan(899).is_worth_it(0) && !plan(900).is_worth_it(0) && !plan(800).is_worth_it(100));
    }

    #[test]
    fn patches_of_the_booted_initramfs_come_first_and_then_those_of_the_nearest_version_if_they_are_few() {
        let patches = |n: u8, version: &str, size| Patches {
            blob: Blob { digest: Digest([n; 32]), size },
            from: Digest([n; 32]),
            from_version: version.parse().unwrap(),
            table: Blob { digest: Digest([0; 32]), size: 1 },
        };
        let all = [patches(1, "1.0.0", 100), patches(2, "1.2.0", 100), patches(3, "1.4.0", 100)];
        let [running, later] = ["1.1.0", "1.9.0"].map(|version| version.parse::<semver::Version>().unwrap());
        let chosen = |booted: u8, version, cost| {
            choose(&all, Some(Digest([booted; 32])), version, cost).map(|one| one.from_version.to_string())
        };
        assert_eq!(chosen(3, Some(&running), 101).as_deref(), Some("1.4.0"));
        assert_eq!(chosen(9, Some(&running), 400).as_deref(), Some("1.0.0"));
        assert_eq!(chosen(9, Some(&later), 400).as_deref(), Some("1.4.0"));
        assert_eq!(chosen(9, Some(&running), 399), None);
        assert_eq!(chosen(9, None, 400), None);
        assert_eq!(choose(&all, None, None, u64::MAX), None);
    }
}
