//! `apply`: fetches the release on offer, verifies it, writes it into the free slot, and activates it if asked to.

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use bytes::Bytes;
use chrono::Utc;

use crate::base::console::progress::{Progress, Shown};
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::interrupt;
use crate::config::DeltaSetting;
use crate::delta::body::DeltaBody;
use crate::delta::prepare::{self, Delta};
use crate::device::slot::{Begun, Kept, Part, Slot, SlotManifest, Watch, Writer};
use crate::fetch::body::{Body, Start};
use crate::policy::gate;
use crate::release::release::Blob;
use crate::schedule::clock::Clock;
use crate::source::guarded::Guarded;
use crate::source::source::{self, Source};
use crate::state::fetches::Beginning;
use crate::state::hooks::Step;
use crate::state::phase::Phase;
use crate::state::state::{self, Outcome};
use crate::trust::keys::KeySet;
use crate::trust::stream::StreamVerifier;
use crate::update::candidate::Candidate;
use crate::update::changes::Changes;
use crate::update::pieces::{self, Asking};
use crate::update::records::LockedRecords;
use crate::update::session::{Depth, Evaluation, Session, Target, advised};
use crate::update::trial;
use crate::update::update::{ApplyReport, Costs, Update, no_slot_touched};

/// Says what `apply` would do, up to the programs of `pre-update.d`. Writes nothing.
///
/// # Errors
/// Those of `apply`.
pub fn dry_run(session: &Session<'_>) -> Result<ApplyReport> {
    let rehearse = || {
        gate::pass(&[session.window()?])?;
        let mut found = session.evaluate(Depth::FirstClosed)?;
        let release = found.candidate.release();
        if !found.admits()? {
            return Ok(ApplyReport::new(Outcome::UpToDate, release, session.boot.booted.slot));
        }
        let target = found.free_slot()?;
        let outcome = if target.images.is_some() { Outcome::WouldStage } else { Outcome::Staged };
        let changes = Changes::of(&found, session.config);
        let report = ApplyReport { changes, ..ApplyReport::new(outcome, release, target.slot) };
        let Some(images) = target.images else { return Ok(report) };
        let Session { config, boot, records, lifted, .. } = session;
        let asking = Asking { config, boot, running: &found.running, fetches: &records.fetches, lifted: *lifted };
        Ok(ApplyReport { expected: Some(asking.expected(&mut found.candidate, images)?), ..report })
    };
    rehearse().map_err(untouched)
}

impl Update<'_> {
    /// Stages the release on offer in the free slot. With `activate` it boots next, on trial.
    ///
    /// # Errors
    /// Each with its exit code; the remedy says whether a slot was touched.
    pub fn apply(&mut self, activate: bool) -> Result<ApplyReport> {
        let staged = self.stage()?;
        if !activate || staged.outcome != Outcome::Staged {
            return Ok(staged);
        }
        let activated = self
            .activate()
            .map_err(|error| if staged.written { only_staged(error, &staged) } else { untouched(error) })?;
        Ok(ApplyReport { written: staged.written, costs: staged.costs, ..activated })
    }

    fn stage(&mut self) -> Result<ApplyReport> {
        let mut found = self.begin().map_err(untouched)?;
        if !found.admits().map_err(untouched)? {
            return self.nothing_to_do(&found).map_err(untouched);
        }
        let target = found.free_slot().map_err(untouched)?;
        let Some(images) = target.images else { return self.already_staged(&found, target).map_err(untouched) };
        self.ask_hooks(Step::Stage, &found.running, found.candidate.release()).map_err(untouched)?;
        self.aim(&found);
        let costs = self.write(&mut found, target, images)?;
        self.records.state.attempt.bytes = Some(costs.origins());
        self.records.state.last_offer = Some(found.candidate.last_offer());
        self.records.enter(Phase::Staged, self.now)?;
        let report = ApplyReport::new(Outcome::Staged, found.candidate.release(), target.slot);
        Ok(ApplyReport { written: true, costs: Some(costs), ..report })
    }

    /// Begins an attempt, and evaluates. The window comes before any network use: an operator's window also keeps the network
    /// quiet.
    fn begin(&mut self) -> Result<Evaluation> {
        gate::pass(&[self.session().window()?])?;
        trial::settle(self.boot, self.records, self.now)?;
        self.tidy_data();
        self.records.state.identify()?;
        self.records.state.begin(format!("{:08x}", state::random()?), self.now);
        self.records.save()?;
        // Before the slot whose manifest has them may be written, and whatever the source offers.
        let policy = self.session().policy()?;
        self.records.raise(policy.epoch, &policy.revoked)?;
        let intake = self.take_in()?;
        let session = self.session();
        let clock = session.clock;
        let found = session.evaluate_by(policy, Depth::FirstClosed)?;
        self.records.keep_look(&clock, found.freshness.as_ref())?;
        self.records.keep_answer(&*found.candidate.source);
        if let Some(waiting) = found.waiting(self.config) {
            self.records.state.waiting = waiting;
        }
        // A damaged image costs no slot then.
        if let Some(intake) = intake.filter(|_| found.target.is_some_and(|target| target.images.is_some())) {
            intake.pass()?;
        }
        Ok(found)
    }

    fn nothing_to_do(&mut self, found: &Evaluation) -> Result<ApplyReport> {
        self.records.state.stand_down(self.now);
        self.records.state.last_offer = Some(found.candidate.last_offer());
        self.records.save()?;
        Ok(ApplyReport::new(Outcome::UpToDate, found.candidate.release(), self.boot.booted.slot))
    }

    /// The free slot holds the release already, complete and proven.
    fn already_staged(&mut self, found: &Evaluation, target: Target) -> Result<ApplyReport> {
        let release = found.candidate.release();
        if target.env.on_trial() == Some(target.slot) {
            let report = self.activate()?;
            self.records.state.stand_down(self.now);
            self.records.save()?;
            return Ok(report);
        }
        let again = self.records.state.has_staged(release.digest);
        if again {
            self.records.state.stand_down(self.now);
        } else {
            self.aim(found);
        }
        self.records.state.last_offer = Some(found.candidate.last_offer());
        if again {
            self.records.save()?;
        } else {
            self.records.enter(Phase::Staged, self.now)?;
        }
        Ok(ApplyReport::new(Outcome::Staged, release, target.slot))
    }

    fn aim(&mut self, found: &Evaluation) {
        let release = found.candidate.release();
        self.records.state.aim(found.running.version.as_ref(), &release.version, release.digest);
    }

    /// The write path. The environment says "void" before the first byte changes, and what is written counts only once it was
    /// read back from the medium.
    fn write(&mut self, found: &mut Evaluation, target: Target, images: [Blob; 2]) -> Result<Costs> {
        self.records.enter(Phase::Downloading, self.now).map_err(untouched)?;
        let manifest = SlotManifest::new(&found.candidate.offer, images, self.now);
        let recorded = self.records.fetches.partial.is_some();
        let begun = self.begun(&found.candidate, target, images);
        let asking = Asking {
            config: self.config,
            boot: self.boot,
            running: &found.running,
            fetches: &self.records.fetches,
            lifted: self.lifted,
        };
        // Before anything is erased, as the first image.
        let mut spent = 0;
        let offer = &found.candidate.offer;
        let tree = source::devicetree(&mut *found.candidate.source, &offer.release, &mut spent).map_err(untouched)?;
        let start = begun.iter().find(|begun| begun.part == Part::Initramfs).map_or(0, |begun| begun.offset);
        let delta = asking.prepare(&mut found.candidate, images[Part::Initramfs as usize], start, &mut spent);
        let delta = delta.map_err(untouched)?;
        let mut transfer =
            Transfer::new(&mut found.candidate, images, found.policy.keys.as_ref()).map_err(untouched)?;
        transfer.recorded = recorded;
        transfer.only = self.config.delta == DeltaSetting::Only;
        transfer.delta = delta.map(Box::new).map(ByPieces::Planned);
        transfer.spent = spent;
        transfer.tree = tree;
        let booted = self.boot.slots.get(self.boot.booted.slot);
        transfer.running = found
            .running
            .manifest
            .as_ref()
            .map(|manifest| Running { slot: booted.clone(), images: [manifest.kernel, manifest.initramfs] });
        if begun.is_empty() {
            if transfer.only {
                transfer.begin_delta(0).map_err(untouched)?;
            }
            transfer.open_first().map_err(untouched)?;
        }
        self.void(target)?;
        // Data were kept for the release that leaves this slot.
        self.tidy_data();
        let (booted, written) = (self.boot.booted.slot, target.slot);
        transfer.write(self.boot.slots.get(written), &begun, &manifest, self.records).map_err(|error| {
            let error = advised(error).advised();
            let remedy = format!("Slot {written} is void; slot {booted} is unchanged and boots. {}", error.remedy);
            error.remedy(remedy.trim_end().to_owned())
        })
    }

    /// The images that an earlier run began in the slot, by the record. Only a slot that is void already has them, and only
    /// images that count by their digest: one that counts by its own signature is read from its first byte.
    fn begun(&mut self, candidate: &Candidate, target: Target, images: [Blob; 2]) -> Vec<Begun> {
        self.records.fetches.keep_only(target.slot, &images.map(|image| image.digest));
        let void = target.env.slot(target.slot) == SlotState::Void && target.env.on_trial() != Some(target.slot);
        if !void || candidate.offer.file_signatures.is_some() {
            self.records.fetches.partial = None;
        }
        let begun = |part: Part| {
            let beginning = self.records.fetches.beginning(target.slot, images[part as usize].digest)?;
            let Beginning { offset, prefix, .. } = *beginning;
            (beginning.size == images[part as usize].size).then_some(Begun { part, offset, prefix })
        };
        Part::BOTH.into_iter().filter_map(begun).collect()
    }

    /// Stores that the free slot is void. From then on a slot is touched.
    fn void(&mut self, target: Target) -> Result<()> {
        if target.env.slot(target.slot) == SlotState::Fail {
            self.records.remember_content(self.boot, target.slot, self.now).map_err(untouched)?;
        }
        let void = target.env.invalidate(self.boot.booted.slot);
        let void = void.map_err(|e| untouched(Error::new(Reason::Trial, e.to_string())))?;
        self.boot.env.store(&void).map_err(untouched)?;
        if target.env.on_trial() == Some(target.slot) {
            // Cancelled, which is not the same as never started.
            self.records.state.trial = None;
            self.records.save()?;
        }
        Ok(())
    }
}

/// The booted slot and its images, by its manifest.
struct Running {
    slot: Slot,
    images: [Blob; 2],
}

/// Both images on their way into a slot.
struct Transfer<'a> {
    source: &'a mut dyn Source,
    images: [Blob; 2],
    /// Opened before anything is erased: a server that lacks the image or its signature costs no slot.
    first: Option<(Part, Box<dyn Body>)>,
    /// The booted slot and its content. It may have an image already.
    running: Option<Running>,
    /// The initramfs, where it comes in pieces.
    delta: Option<ByPieces>,
    /// It must not come in another way.
    only: bool,
    /// Bytes that came for it until now.
    spent: u64,
    /// The device tree of the release.
    tree: Option<Vec<u8>>,
    /// There is a record of these images, which is to go when they are complete.
    recorded: bool,
    /// Where only the images are signed.
    verifiers: [Option<StreamVerifier>; 2],
}

impl<'a> Transfer<'a> {
    fn new(candidate: &'a mut Candidate, images: [Blob; 2], keys: Option<&KeySet>) -> Result<Self> {
        let verifiers = match candidate.offer.file_signatures.as_ref().zip(keys) {
            Some((files, keys)) => {
                [Some(StreamVerifier::new(keys, &files.kernel)?), Some(StreamVerifier::new(keys, &files.initramfs)?)]
            }
            None => [None, None],
        };
        Ok(Self {
            source: &mut *candidate.source,
            images,
            first: None,
            running: None,
            delta: None,
            only: false,
            spent: 0,
            tree: None,
            recorded: false,
            verifiers,
        })
    }

    /// Sends the first request for a part of the initramfs, if it comes in pieces. The slot has so many bytes of it.
    fn begin_delta(&mut self, offset: u64) -> Result<()> {
        let Some(ByPieces::Planned(delta)) = self.delta.take_if(|delta| matches!(delta, ByPieces::Planned(_))) else {
            return Ok(());
        };
        let mut start = Start { offset, spent: self.spent, version: None };
        let begun = delta.begin(self.source, &self.images[Part::Initramfs as usize], &mut start);
        self.spent = start.spent;
        match begun {
            Ok(body) if self.only && body.is_whole() => Err(prepare::none("the server sends no part of an image")),
            Ok(body) => {
                self.delta = Some(ByPieces::Begun(Box::new(body)));
                Ok(())
            }
            Err(e) if self.only || e.reason == Reason::Interrupted => Err(pieces::refused(e)),
            Err(e) => {
                log::warn!("the initramfs is fetched whole: {e}");
                Ok(())
            }
        }
    }

    fn open_first(&mut self) -> Result<()> {
        let Some(part) = Part::BOTH.into_iter().find(|part| self.twin(*part).is_none()) else { return Ok(()) };
        if part == Part::Initramfs {
            self.begin_delta(0)?;
            if self.delta.is_some() {
                return Ok(());
            }
        }
        self.first = Some((part, self.source.open(&self.images[part as usize])?));
        Ok(())
    }

    /// The image of the booted slot with the same digest. One that counts by its own signature comes from the server.
    fn twin(&self, part: Part) -> Option<(&Slot, Part)> {
        let running = self.running.as_ref().filter(|_| self.verifiers[part as usize].is_none())?;
        let twin = Part::BOTH.into_iter().find(|twin| running.images[*twin as usize] == self.images[part as usize]);
        twin.map(|twin| (&running.slot, twin))
    }

    /// Copies an image that the booted slot has, hashed on its way; false if it has none, or a rotten one.
    fn copied(&self, part: Part, writer: &mut Writer, arrival: &mut Arrival<'_>) -> Result<bool> {
        let Some((slot, twin)) = self.twin(part) else { return Ok(false) };
        let blob = self.images[part as usize];
        let unusable = |e: Error| {
            log::warn!("cannot copy {} from slot {}, fetching it: {e}", part.file(), slot.id);
            Ok(false)
        };
        let mut body = match slot.image(twin) {
            Ok(body) => body,
            Err(e) => return unusable(e),
        };
        match writer.part(part, &blob, &mut body, arrival) {
            Ok(()) => {
                log::info!("{} is the same as in slot {}: copied", part.file(), slot.id);
                arrival.costs.reused += blob.size;
                Ok(true)
            }
            Err(e) if e.exit() == Exit::Data => unusable(e),
            Err(e) => Err(e),
        }
    }

    fn write(
        mut self,
        slot: &Slot,
        begun: &[Begun],
        manifest: &SlotManifest,
        records: &mut LockedRecords,
    ) -> Result<Costs> {
        let mut writer = slot.writer_from(begun)?;
        writer.add_tree(self.tree.take());
        let held = interrupt::Held::begin()?;
        let total = self.images[0].size.saturating_add(self.images[1].size);
        let mut arrival = Arrival {
            progress: Shown::new("fetching", total),
            slot: slot.id,
            image: None,
            wrong: false,
            recorded: self.recorded,
            costs: Costs::default(),
            records,
        };
        for part in Part::BOTH {
            self.image(part, &mut writer, &mut arrival)?;
        }
        let Arrival { progress, recorded, costs, records, .. } = arrival;
        drop((progress, held));
        writer.finish(manifest)?;
        records.fetches.partial = None;
        if recorded {
            records.save_fetches();
        }
        Ok(costs)
    }

    /// One image. Pieces may not fit each other, and the record of an earlier run may be wrong itself: an image that came in
    /// pieces and is wrong is fetched once more, from its first byte. One that counts by its own signature is not: its verifier
    /// is spent. Wrong bytes of a mirror are fetched from elsewhere.
    fn image(&mut self, part: Part, writer: &mut Writer, arrival: &mut Arrival<'_>) -> Result<()> {
        let blob = self.images[part as usize];
        (arrival.image, arrival.wrong) = (None, false);
        if writer.begun(part) < blob.size && self.copied(part, writer, arrival)? {
            return Ok(());
        }
        let spent = match self.by_pieces(part, writer, arrival)? {
            Pieces::Written => return Ok(()),
            Pieces::None => 0,
            Pieces::Wrong(spent) => spent,
        };
        let verifier = self.verifiers[part as usize].take();
        arrival.image = (self.source.is_remote() && verifier.is_none()).then_some(blob);
        let mut start = Start { spent, ..arrival.start(writer.begun(part)) };
        let mut body = match self.first.take_if(|(first, _)| *first == part) {
            Some((_, first)) => first,
            None if start.offset == blob.size => Box::new(Complete(start.offset)),
            None => self.source.resume(&blob, &start)?,
        };
        if let Some(verifier) = verifier {
            body = Box::new(Guarded::new(body, verifier));
        }
        let mut once = true;
        let mut result = writer.part(part, &blob, &mut *body, arrival);
        while let Err(e) = &result
            && e.exit() == Exit::Data
        {
            let why = match (self.is_of_mirror(arrival), body.in_pieces()) {
                (true, _) => "it came from a mirror",
                (false, true) if std::mem::take(&mut once) => "it came in pieces",
                _ => break,
            };
            log::warn!("{e}; {why}: fetching all of it once more");
            arrival.forget();
            start = Start { spent: body.fetched(), ..Start::default() };
            result = match self.source.resume(&blob, &start) {
                Ok(again) => {
                    body = again;
                    writer.part(part, &blob, &mut *body, arrival)
                }
                Err(e) => Err(e),
            };
        }
        arrival.costs.fetched += body.fetched() - spent;
        let result = arrival.judge(result, body.fetched());
        result.map_err(|e| if e.exit() == Exit::Data { body.explain(e) } else { e })
    }

    /// True if wrong bytes came from a mirror, which is not asked again.
    fn is_of_mirror(&mut self, arrival: &mut Arrival<'_>) -> bool {
        let distrusted = self.source.distrust();
        arrival.wrong |= distrusted;
        distrusted
    }

    /// The initramfs by its pieces. If the whole is wrong, the index or what sent the pieces is, and no delta of this image is
    /// tried again.
    fn by_pieces(&mut self, part: Part, writer: &mut Writer, arrival: &mut Arrival<'_>) -> Result<Pieces> {
        if part != Part::Initramfs {
            return Ok(Pieces::None);
        }
        self.begin_delta(writer.begun(part))?;
        let Some(ByPieces::Begun(mut body)) = self.delta.take() else {
            arrival.costs.fetched += self.spent;
            return Ok(if self.spent > 0 { Pieces::Wrong(self.spent) } else { Pieces::None });
        };
        let blob = self.images[part as usize];
        arrival.image = Some(blob);
        let result = writer.part(part, &blob, &mut *body, arrival);
        arrival.costs.add(&body);
        match result {
            Err(e) if e.exit() == Exit::Data => {
                arrival.forget();
                let again = self.is_of_mirror(arrival);
                if !again {
                    arrival.records.fetches.remember_no_delta(blob.digest);
                    arrival.records.save_fetches();
                }
                if self.only {
                    let next = "Set delta=yes to fetch the whole image, or wait for the next release: no delta of this \
                                image is tried again, unless --retry-failed asks for it.";
                    return Err(if again { e } else { body.explain(e).remedy(next) });
                }
                let then = if again { "" } else { ", and no delta of this image again" };
                log::warn!("{e}; fetching all of it{then}");
                Ok(Pieces::Wrong(body.fetched()))
            }
            result => arrival.judge(result, body.fetched()).map(|()| Pieces::Written),
        }
    }
}

/// The initramfs, where it comes in pieces.
enum ByPieces {
    Planned(Box<Delta>),
    Begun(Box<DeltaBody>),
}

/// The result of an image in pieces.
enum Pieces {
    /// It does not come in pieces.
    None,
    Written,
    /// It is still to be fetched, after so many bytes.
    Wrong(u64),
}

/// An image that an earlier run fetched to its end.
struct Complete(u64);

impl Body for Complete {
    fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn position(&self) -> u64 {
        self.0
    }

    fn in_pieces(&self) -> bool {
        true
    }
}

fn is_wrong(e: &Error) -> bool {
    matches!(e.reason, Reason::DigestMismatch | Reason::SizeMismatch)
}

/// Shows and records an image while it arrives.
struct Arrival<'a> {
    progress: Shown,
    slot: SlotId,
    /// The image, if it is one that can go on later.
    image: Option<Blob>,
    /// A mirror gave wrong bytes of it.
    wrong: bool,
    /// The record is in `fetch.json`, and not only in memory.
    recorded: bool,
    costs: Costs,
    records: &'a mut LockedRecords,
}

impl Arrival<'_> {
    /// Where to go on in the current image, of which the slot has so many bytes.
    fn start(&self, offset: u64) -> Start {
        let beginning = self.image.and_then(|image| self.records.fetches.beginning(self.slot, image.digest));
        let version = beginning.and_then(|beginning| beginning.version.clone());
        Start { offset, version, spent: 0 }
    }

    /// The record of the current image is wrong.
    fn forget(&mut self) {
        if let Some(image) = self.image {
            self.records.fetches.drop_beginning(image.digest);
        }
    }

    /// Remembers whether the bytes were right.
    fn judge(&mut self, result: Result<()>, fetched: u64) -> Result<()> {
        let Some(image) = self.image else { return result };
        let now = Clock::system(Utc::now(), self.records.trust.last_seen).now();
        let fetches = &mut self.records.fetches;
        let news = match &result {
            Ok(()) => {
                // Written with the first record of the next image: one that fits into a piece is soon fetched again.
                let Blob { digest, size } = image;
                fetches.note(self.slot, Beginning { digest, size, offset: size, prefix: digest, version: None });
                fetches.forget_wrong(digest)
            }
            Err(e) if fetched > 0 && (is_wrong(e) || self.wrong && e.reason != Reason::Interrupted) => {
                fetches.remember_wrong(image.digest, now);
                fetches.drop_beginning(image.digest);
                true
            }
            Err(_) => false,
        };
        if news {
            self.records.save_fetches();
        }
        result
    }
}

impl Progress for Arrival<'_> {
    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes);
    }
}

impl Watch for Arrival<'_> {
    fn keeps(&self) -> bool {
        self.image.is_some()
    }

    fn kept(&mut self, Kept { offset, prefix, version }: Kept) {
        let Some(Blob { digest, size }) = self.image else { return };
        self.records.fetches.note(self.slot, Beginning { digest, size, offset, prefix, version });
        self.records.save_fetches();
        self.recorded = true;
    }
}

fn untouched(error: Error) -> Error {
    no_slot_touched(advised(error))
}

/// Adds what an activation that was refused after a write left behind.
fn only_staged(error: Error, report: &ApplyReport) -> Error {
    let ApplyReport { slot, version, .. } = report;
    let error = error.advised();
    let remedy = format!("{} Slot {slot} has {version}, complete and not activated.", error.remedy);
    error.remedy(remedy)
}
