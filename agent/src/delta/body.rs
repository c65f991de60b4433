//! The pieces of an image in order, each from where it costs least.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::error::{Error, Reason, Result};
use crate::base::{interrupt, limits};
use crate::delta::cutter::hash;
use crate::delta::index::{Index, Piece};
use crate::delta::known::Known;
use crate::delta::pack::{Fallback, Maker, Pack};
use crate::delta::plan::{Origin, Plan};
use crate::fetch::body::{Body, Parts};

/// Patches on their way.
#[derive(Debug)]
pub struct Patching {
    /// The patches.
    pub pack: Pack,
    /// Applies them.
    pub maker: Maker,
}

/// The work of a delta until now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that were copied from the booted slot.
    pub reused: u64,
    /// Bytes that patches made.
    pub patched: u64,
    /// Pieces that were fetched against the plan, by the cause.
    pub fallbacks: BTreeMap<&'static str, u64>,
}

/// The parts of a body.
pub struct Ingredients {
    /// Of the image.
    pub index: Index,
    /// The booted slot.
    pub known: Known,
    /// From the piece with the byte at `start` on.
    pub plan: Plan,
    /// Patches, if the plan has any.
    pub patching: Option<Patching>,
    /// The image at the server.
    pub parts: Box<dyn Parts>,
    /// Bytes of the image that are here already.
    pub start: u64,
    /// Bytes that came for this image before.
    pub spent: u64,
}

impl std::fmt::Debug for Ingredients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingredients").field("known", &self.known).field("start", &self.start).finish_non_exhaustive()
    }
}

/// An image that is put together from pieces. Each is hashed before it counts.
pub struct DeltaBody {
    from: Ingredients,
    next: usize,
    position: u64,
    /// The end of the part that was asked for last.
    asked_to: u64,
    requests: usize,
    /// Bytes of that part that were not taken.
    here: Bytes,
    /// The last piece. The next one takes its memory, if nothing else has it: allocated for each piece, it would leave gaps
    /// between the buffers of the connections that none of them fits into.
    last: Bytes,
    patch: Vec<u8>,
    tally: Tally,
}

impl std::fmt::Debug for DeltaBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaBody").field("next", &self.next).field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl DeltaBody {
    /// Sends no request yet.
    #[must_use]
    pub fn new(from: Ingredients) -> Self {
        let (next, position) = (from.plan.first(), from.start);
        let (here, last, patch) = (Bytes::new(), Bytes::new(), vec![]);
        Self { from, next, position, asked_to: 0, requests: 0, here, last, patch, tally: Tally::default() }
    }

    /// Asks for the first range of the plan, if it has one, so that a server without the image costs no slot.
    ///
    /// # Errors
    /// Those of the server.
    pub fn ask_first(&mut self) -> Result<()> {
        let mut pieces = self.next..self.from.index.pieces().len();
        match pieces.find(|piece| self.from.plan.origin(*piece) == Origin::Fetched) {
            Some(first) => self.ask(first),
            None => Ok(()),
        }
    }

    /// The work until now.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// True if the server sends all of the image: it does not send parts.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.from.parts.is_whole()
    }

    /// Asks for the range that begins with a piece. A plan that failed too often ends in all that is missing.
    fn ask(&mut self, at: usize) -> Result<()> {
        let (pieces, enough) = (self.from.index.pieces(), self.requests >= limits::RANGES);
        let last = if enough { pieces.len() } else { self.from.plan.range_end(at) } - 1;
        self.here = Bytes::new();
        // No piece is patched before the range is over, and the connection takes as much.
        self.from.patching.iter_mut().for_each(|patching| patching.maker.rest());
        self.from.parts.part(pieces[at].offset, pieces[last].end())?;
        self.asked_to = pieces[last].end();
        self.requests += usize::from(!self.from.parts.is_whole());
        Ok(())
    }

    /// Memory for a piece.
    fn room(&mut self) -> Vec<u8> {
        let mut room = Vec::from(std::mem::take(&mut self.last));
        room.clear();
        room
    }

    /// The bytes of a piece.
    fn piece(&mut self, at: usize) -> Result<Bytes> {
        let piece = self.from.index.pieces()[at];
        let found = match self.from.plan.origin(at) {
            Origin::Fetched => return self.fetch(at, &piece),
            Origin::Copied => self.copy(&piece),
            Origin::Patched => self.patch(at, &piece),
        };
        found.or_else(|why| {
            *self.tally.fallbacks.entry(why.word()).or_default() += 1;
            log::debug!("piece {at} of the image is fetched: {why}");
            self.fetch(at, &piece)
        })
    }

    fn copy(&mut self, piece: &Piece) -> Result<Bytes, Fallback> {
        let mut bytes = self.room();
        if !self.from.known.append(&piece.hash, &mut bytes) {
            return Err(Fallback::Source);
        }
        self.tally.reused += piece.len as u64;
        Ok(bytes.into())
    }

    fn patch(&mut self, at: usize, piece: &Piece) -> Result<Bytes, Fallback> {
        let mut bytes = self.room();
        let Patching { pack, maker } = self.from.patching.as_mut().ok_or(Fallback::Ended)?;
        let entry = pack.patch(at, &mut self.patch)?.ok_or(Fallback::Ended)?;
        let made = maker.make(&entry, &self.patch, piece, &mut &self.from.known)?;
        bytes.extend_from_slice(made);
        self.tally.patched += piece.len as u64;
        Ok(bytes.into())
    }

    fn fetch(&mut self, at: usize, piece: &Piece) -> Result<Bytes> {
        let reached = self.from.parts.position() - self.here.len() as u64;
        if reached != piece.offset || self.asked_to < piece.end() {
            self.ask(at)?;
        }
        let mut bytes = self.room();
        while bytes.len() < piece.len {
            if self.here.is_empty() {
                let ended = || Error::new(Reason::SizeMismatch, "a part of the image ends too early");
                self.here = self.from.parts.chunk()?.ok_or_else(ended)?;
            }
            bytes.extend_from_slice(&self.here.split_to(self.here.len().min(piece.len - bytes.len())));
        }
        if hash(&bytes) != piece.hash {
            let message =
                format!("the bytes {} to {} of the image differ from its index of pieces", piece.offset, piece.end());
            return Err(Error::new(Reason::DigestMismatch, message)
                .remedy("Check for a proxy or cache in between; else publish the release again."));
        }
        Ok(bytes.into())
    }

    /// Bounds the bytes that come twice, over index, patches and parts together.
    fn check_budget(&self) -> Result<()> {
        let (spent, size) = (self.fetched(), self.from.index.size());
        let budget = limits::fetch_budget(size);
        if spent <= budget {
            return Ok(());
        }
        let missing = size - self.position;
        let message = format!("{spent} bytes came for an image of {size} bytes, and {missing} are still missing");
        Err(Error::new(Reason::ByteBudget, message)
            .remedy(format!("One run takes at most {budget} bytes for this image. Fix the server, or set delta=no.")))
    }
}

impl Body for DeltaBody {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(piece) = self.from.index.pieces().get(self.next).copied() else { return Ok(None) };
        interrupt::check()?;
        let mut bytes = self.piece(self.next)?;
        self.last = bytes.clone();
        self.next += 1;
        // The beginning of the first piece may be here from an earlier run.
        let known = self.position - piece.offset;
        drop(bytes.split_to(known as usize)); // less than the piece
        self.position = piece.end();
        if self.next < self.from.index.pieces().len() {
            self.check_budget()?;
        }
        Ok(Some(bytes))
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn fetched(&self) -> u64 {
        let patches = self.from.patching.as_ref().map_or(0, |patching| patching.pack.fetched());
        self.from.spent + patches + self.from.parts.fetched()
    }
}
