//! `apply`: fetches the release on offer, verifies it, writes it into the free slot, and activates it if asked to.

use bootenv::protocol::SlotState;

use crate::base::console::progress::Shown;
use crate::base::error::{Error, Reason, Result};
use crate::device::slot::{Part, Slot, SlotManifest};
use crate::fetch::body::Body;
use crate::policy::gate;
use crate::policy::hooks::Step;
use crate::release::release::Blob;
use crate::source::guarded::Guarded;
use crate::source::source::Source;
use crate::state::phase::Phase;
use crate::state::state::{self, Outcome};
use crate::trust::keys::KeySet;
use crate::trust::stream::StreamVerifier;
use crate::update::candidate::Candidate;
use crate::update::session::{Depth, Evaluation, Session, Target, advised};
use crate::update::trial;
use crate::update::update::{ApplyReport, Update, no_slot_touched};

/// Says what `apply` would do, up to the programs of `pre-update.d`. Writes nothing.
///
/// # Errors
/// Those of `apply`.
pub fn dry_run(session: &Session<'_>) -> Result<ApplyReport> {
    let rehearse = || {
        gate::pass(&[session.window()?])?;
        let found = session.evaluate(Depth::FirstClosed)?;
        let release = found.candidate.release();
        if !found.admits()? {
            return Ok(ApplyReport::new(Outcome::UpToDate, release, session.boot.booted.slot));
        }
        let target = found.free_slot()?;
        let outcome = if target.images.is_some() { Outcome::WouldStage } else { Outcome::Staged };
        Ok(ApplyReport::new(outcome, release, target.slot))
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
        Ok(ApplyReport { written: staged.written, ..activated })
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
        self.write(&mut found, target, images)?;
        self.records.state.last_offer = Some(found.candidate.last_offer());
        self.records.enter(Phase::Staged, self.now)?;
        let report = ApplyReport::new(Outcome::Staged, found.candidate.release(), target.slot);
        Ok(ApplyReport { written: true, ..report })
    }

    /// Begins an attempt, and evaluates. The window comes before any network use: an operator's window also keeps the network
    /// quiet.
    fn begin(&mut self) -> Result<Evaluation> {
        gate::pass(&[self.session().window()?])?;
        trial::settle(self.boot, self.records, self.now)?;
        self.records.state.identify()?;
        self.records.state.begin(format!("{:08x}", state::random()?), self.now);
        self.records.save()?;
        // Before the slot whose manifest has them may be written, and whatever the source offers.
        let policy = self.session().policy()?;
        self.records.raise(policy.epoch, &policy.revoked)?;
        let session = self.session();
        let clock = session.clock;
        let found = session.evaluate_by(policy, Depth::FirstClosed)?;
        self.records.keep_look(&clock, found.freshness.as_ref())?;
        if let Some(waiting) = found.waiting(self.config) {
            self.records.state.waiting = waiting;
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
    fn write(&mut self, found: &mut Evaluation, target: Target, images: [Blob; 2]) -> Result<()> {
        self.records.enter(Phase::Downloading, self.now).map_err(untouched)?;
        let manifest = SlotManifest::new(&found.candidate.offer, images, self.now);
        let transfer = Transfer::open(&mut found.candidate, images, found.policy.keys.as_ref()).map_err(untouched)?;
        self.void(target)?;
        let (booted, written) = (self.boot.booted.slot, target.slot);
        transfer.write(self.boot.slots.get(written), &manifest).map_err(|error| {
            let error = advised(error).advised();
            let remedy = format!("Slot {written} is void; slot {booted} is unchanged and boots. {}", error.remedy);
            error.remedy(remedy.trim_end().to_owned())
        })
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

/// Both images on their way into a slot.
struct Transfer<'a> {
    source: &'a mut dyn Source,
    images: [Blob; 2],
    /// Opened before anything is erased: a server that lacks the image or its signature costs no slot.
    kernel: Box<dyn Body>,
    /// Where only the images are signed.
    initramfs_verifier: Option<StreamVerifier>,
}

impl<'a> Transfer<'a> {
    fn open(candidate: &'a mut Candidate, images: [Blob; 2], keys: Option<&KeySet>) -> Result<Self> {
        let [kernel_verifier, initramfs_verifier] = match candidate.offer.file_signatures.as_ref().zip(keys) {
            Some((files, keys)) => {
                [Some(StreamVerifier::new(keys, &files.kernel)?), Some(StreamVerifier::new(keys, &files.initramfs)?)]
            }
            None => [None, None],
        };
        let source = &mut *candidate.source;
        let kernel = guarded(source.open(&images[0])?, kernel_verifier);
        Ok(Self { source, images, kernel, initramfs_verifier })
    }

    fn write(self, slot: &Slot, manifest: &SlotManifest) -> Result<()> {
        let Self { source, images, mut kernel, initramfs_verifier } = self;
        let mut writer = slot.writer()?;
        let mut progress = Shown::new("fetching", images[0].size.saturating_add(images[1].size));
        writer.part(Part::Kernel, &images[0], &mut *kernel, &mut progress)?;
        drop(kernel);
        let mut initramfs = guarded(source.open(&images[1])?, initramfs_verifier);
        writer.part(Part::Initramfs, &images[1], &mut *initramfs, &mut progress)?;
        drop(progress);
        writer.finish(manifest)
    }
}

/// The image, whose own signature must hold if that is all there is.
fn guarded(body: Box<dyn Body>, verifier: Option<StreamVerifier>) -> Box<dyn Body> {
    match verifier {
        Some(verifier) => Box::new(Guarded::new(body, verifier)),
        None => body,
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
