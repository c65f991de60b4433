//! Everything that a delta needs, before a slot changes: the index, the pieces of the booted slot, patches, and the plan.

use sha2::{Digest as _, Sha256};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{interrupt, limits, sys};
use crate::delta::body::{DeltaBody, Ingredients, Patching};
use crate::delta::index::Index;
use crate::delta::known::Known;
use crate::delta::pack::{Maker, Pack};
use crate::delta::plan::{self, Plan};
use crate::device::slot::{Part, Slot};
use crate::fetch::body::{Body as _, Start};
use crate::release::release::{Blob, Patches, Release};
use crate::source::source::{self, Source};

/// Bytes of an unpacked initramfs for each of its own, where the release does not say it.
const UNPACKED_PER_BYTE: u64 = 8;

/// The image that is wanted, and the image that is here.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The release.
    pub release: &'a Release,
    /// Its initramfs.
    pub image: Blob,
    /// Bytes of it that are here already.
    pub start: u64,
    /// The booted slot.
    pub slot: &'a Slot,
    /// Digest of the booted initramfs, if the slot has a manifest.
    pub manifest: Option<Digest>,
    /// The running version, if it is known.
    pub version: Option<&'a semver::Version>,
}

impl Wanted<'_> {
    /// Digest of the booted initramfs: by the manifest of the slot; else by its bytes, where a release has patches for one.
    fn booted(&self) -> Result<Option<Digest>> {
        if self.manifest.is_some() || self.release.patches.is_empty() {
            return Ok(self.manifest);
        }
        let (mut image, mut hasher) = (self.slot.image(Part::Initramfs)?, Sha256::new());
        while let Some(chunk) = image.chunk()? {
            interrupt::check()?;
            hasher.update(&chunk);
        }
        Ok(Some(Digest(hasher.finalize().into())))
    }
}

/// A delta that can begin.
#[derive(Debug)]
pub struct Delta {
    index: Index,
    known: Known,
    plan: Plan,
    patching: Option<Patching>,
    start: u64,
    /// Bytes that the index costs, and that patches cost.
    pieces: u64,
    patches: u64,
}

/// The numbers of a plan, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// To be fetched: the index, ranges and patches.
    pub fetched: u64,
    /// To be copied from the booted slot.
    pub reused: u64,
    /// To be made by patches.
    pub patched: u64,
}

/// The error of a delta that is not possible, or saves nothing.
#[must_use]
pub fn none(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::DeltaOnly, format!("no delta is possible: {why}"))
        .remedy("Wait for a release with a delta, or set delta=yes to fetch the whole image.")
}

/// Plans a delta. `spent` grows by the bytes that came for it.
///
/// # Errors
/// Each cause for which the image is better fetched whole; 75 `interrupted` ends the update.
pub fn prepare(source: &mut dyn Source, wanted: &Wanted<'_>, spent: &mut u64) -> Result<Delta> {
    let pieces = wanted.release.pieces.ok_or_else(|| none("the release has no index of pieces"))?;
    if pieces.size > limits::PIECES_BYTES {
        return Err(limits::exceeded("index of pieces", format_args!("{} bytes", limits::PIECES_BYTES)));
    }
    // Two connections and the patches have large buffers, of various sizes.
    sys::give_back_buffers();
    let bytes = source::whole(source, &pieces, "the index of pieces", spent)?;
    let index = Index::parse(&bytes, wanted.image.size)?;
    drop(bytes);
    let known = Known::scan(Box::new(wanted.slot.image(Part::Initramfs)?))?;
    let ranges = Plan::new(&index, &known, None, wanted.start);
    let mut delta =
        Delta { index, known, plan: ranges, patching: None, start: wanted.start, pieces: pieces.size, patches: 0 };
    let cost = delta.plan.fetched;
    let fitting = plan::choose(&wanted.release.patches, wanted.booted()?, wanted.version, cost);
    if let Some(patches) = fitting {
        match delta.open_patches(source, patches, spent) {
            Ok(pack) => delta.take_patches(pack, patches, wanted, spent),
            Err(e) if e.reason == Reason::Interrupted => return Err(e),
            Err(e) => log::warn!("cannot use the patches from {}: {e}", patches.from_version),
        }
    }
    if !delta.plan.is_worth_it(delta.patches) {
        let Numbers { fetched, .. } = delta.numbers();
        *spent += delta.patching.map_or(0, |patching| patching.pack.fetched());
        return Err(none(format_args!("it would fetch {fetched} of {} bytes", wanted.image.size - wanted.start)));
    }
    Ok(delta)
}

impl Delta {
    /// Fetches and proves the table of patches.
    fn open_patches(&self, source: &mut dyn Source, patches: &Patches, spent: &mut u64) -> Result<Pack> {
        let body = source.open(&patches.blob)?;
        Pack::open(body, patches.blob.size, &patches.table, &self.index, spent)
    }

    /// Plans again with patches, and keeps them if they save something.
    fn take_patches(&mut self, pack: Pack, patches: &Patches, wanted: &Wanted<'_>, spent: &mut u64) {
        let plan = Plan::new(&self.index, &self.known, Some(pack.table()), self.start);
        if plan.fetched + patches.blob.size >= self.plan.fetched {
            *spent += pack.fetched();
            return;
        }
        let unpacked = wanted.release.initramfs_unpacked_size;
        let unpacked = unpacked.unwrap_or_else(|| wanted.image.size.saturating_mul(UNPACKED_PER_BYTE));
        log::debug!("patches from {}: {} bytes", patches.from_version, patches.blob.size);
        (self.plan, self.patches) = (plan, patches.blob.size);
        self.patching = Some(Patching { pack, maker: Maker::new(unpacked) });
    }

    /// The cost of the plan.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let Plan { fetched, reused, patched, .. } = self.plan;
        Numbers { fetched: fetched + self.pieces + self.patches, reused, patched }
    }

    /// Begins, with the first request for a part of the image. `start` says what is here of it; if the request fails, it also
    /// says what came until then.
    ///
    /// # Errors
    /// Those of the server.
    pub fn begin(mut self, source: &mut dyn Source, image: &Blob, start: &mut Start) -> Result<DeltaBody> {
        if start.offset != self.start {
            let table = self.patching.as_ref().map(|patching| patching.pack.table());
            self.plan = Plan::new(&self.index, &self.known, table, start.offset);
        }
        let parts = source.parts(image)?.ok_or_else(|| none("the source has no parts of an image"))?;
        let Self { index, known, plan, patching, .. } = self;
        let Start { offset, spent, .. } = *start;
        let mut body = DeltaBody::new(Ingredients { index, known, plan, patching, parts, start: offset, spent });
        let begun = body.ask_first();
        start.spent = body.fetched();
        begun.map(|()| body)
    }
}
