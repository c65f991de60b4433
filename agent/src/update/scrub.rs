//! Scrub: both slots are read again from time to time, and a damaged slot to fall back to is filled again.
//!
//! Flash loses bits in years, also where nobody writes. Without this a device finds out at the moment in which it needs the
//! slot. Nothing is activated here, and no trial begins.

use bootenv::SlotId;
use bootenv::protocol::{BootState, SlotState, View};
use chrono::{DateTime, TimeDelta, Utc};

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::interrupt;
use crate::base::text;
use crate::config::{Auto, Config};
use crate::device::boot::Boot;
use crate::device::slot::{Part, Slot, SlotManifest};
use crate::fetch::body::Body;
use crate::policy::trust_policy::TrustPolicy;
use crate::source::{open, source};
use crate::state::memory::{Memory, Scrub};
use crate::update::candidate::Candidate;
use crate::update::update::Update;

/// A damaged slot to fall back to is looked at again after this time, not only after `scrub_days`.
const AGAIN: TimeDelta = TimeDelta::days(1);
const BOTH_DAMAGED: &str = "Make a source available that has one of their releases, or install another release: \
                            `kubesolo-update apply --bundle FILE --activate`.";

impl Update<'_> {
    /// Reads both slots again if that is due and the window is open, and repairs the one that is not booted; `answers`: the
    /// source answered this run. An update does not fail for the sake of it.
    pub fn scrub(&mut self, answers: bool) {
        let open = self.session().window().is_ok_and(|window| window.open);
        if self.config.scrub_days == 0 || !open {
            return;
        }
        if let Err(error) = self.scrub_if_due(answers) {
            log::warn!("the slots are not read to the end, or not repaired: {error}");
        }
    }

    fn scrub_if_due(&mut self, answers: bool) -> Result<()> {
        let View::Ours(env) = self.boot.env.view() else { return Ok(()) };
        let now = self.session().clock.now();
        let mut memory = self.records.memory()?;
        let known = memory.scrub.take();
        if !rests(self.boot, &env) || !is_due(self.config, self.boot, known.as_ref(), now) {
            return Ok(());
        }
        let booted = self.boot.booted.slot;
        let begun = known.and_then(|scrub| scrub.refill);
        let mut scrub = Scrub { at: now, booted: damage(self.boot.slots.get(booted))?, fallback: None, refill: begun };
        if let Some(why) = &scrub.booted {
            log::error!("slot {booted} runs, and is damaged: {why}; it may not boot again. Install a release soon");
        }
        scrub.fallback = match env.slot(booted.other()) {
            SlotState::Good => damage(self.boot.slots.get(booted.other()))?,
            // An earlier run voided it to fill it again, and was cut off.
            SlotState::Void if begun.is_some() && !self.holds_another(booted.other(), begun) => {
                Some("it was not filled to the end".into())
            }
            SlotState::Void | SlotState::Fail => None,
        };
        if scrub.fallback.is_none() {
            scrub.refill = None;
        }
        let whole = scrub.fallback.is_none();
        memory.scrub = Some(scrub);
        if whole { self.records.keep_memory(&memory) } else { self.repair(&mut memory, answers) }
    }

    /// True if a release was staged in the slot after a repair of it was cut off: the manifest is written last.
    fn holds_another(&self, slot: SlotId, begun: Option<Digest>) -> bool {
        self.boot.slots.get(slot).manifest().ok().flatten().is_some_and(|content| Some(content.digest) != begun)
    }

    /// Fills the slot to fall back to again, if it is damaged and the slot that runs is not.
    fn repair(&mut self, memory: &mut Memory, answers: bool) -> Result<()> {
        let Some(scrub) = memory.scrub.as_ref() else { return Ok(()) };
        let Some(why) = scrub.fallback.clone() else { return Ok(()) };
        let slot = self.boot.booted.slot.other();
        log::error!("slot {slot}, to which this device falls back, is damaged: {why}");
        if self.config.auto == Auto::Check {
            log::warn!("slot {slot} stays as it is: auto=check permits no repair");
            return self.records.keep_memory(memory);
        }
        let refilled = match self.refill(memory, answers) {
            Ok(content) => content,
            // Cut off by a shutdown, and not failed.
            Err(error) if error.reason == Reason::Interrupted => return Err(error),
            Err(error) => {
                if let Some(scrub) = &mut memory.scrub {
                    scrub.fallback = Some(text::escape(&error.message));
                }
                self.records.keep_memory(memory)?;
                return Err(error);
            }
        };
        log::warn!("slot {slot} holds {refilled} again, and is good");
        if let Some(scrub) = &mut memory.scrub {
            (scrub.fallback, scrub.refill) = (None, None);
        }
        self.records.keep_memory(memory)
    }

    /// The slot is void before its first byte changes, and good again after it was read back. Its own release comes from the
    /// source; where that does not give it, the running release is copied, or fetched if its slot is damaged as well.
    fn refill(&mut self, memory: &mut Memory, answers: bool) -> Result<String> {
        self.boot.alone()?;
        let target = self.session().target()?;
        let place = self.boot.slots.get(target.slot).clone();
        let running = self.boot.slots.get(self.boot.booted.slot).clone();
        let known = memory.scrub.clone();
        let begun = known.as_ref().and_then(|scrub| scrub.refill);
        if place.verify().is_ok_and(|content| Some(content.digest) == begun) {
            // Cut off before the last store.
            return self.refilled(&place);
        }
        let damaged = known.and_then(|scrub| scrub.booted);
        let copied = running.manifest()?.ok_or_else(|| {
            Error::new(Reason::SlotIncomplete, format!("slot {} has no manifest: a factory filled it", running.id))
                .remedy("Run `kubesolo-update apply`.")
        })?;
        place.check_room(copied.kernel.size.saturating_add(copied.initramfs.size))?;
        let fetched = if answers { self.find_at_source(&place, &copied, damaged.is_none()) } else { None };
        if let (None, Some(why)) = (&fetched, &damaged) {
            let message = format!("slot {} is damaged as well: {why}", running.id);
            return Err(Error::new(Reason::SlotDamaged, message).remedy(BOTH_DAMAGED));
        }
        let wanted = fetched.as_ref().map_or(copied.digest, |(wanted, _)| wanted.digest);
        self.keep_refill(memory, wanted)?;
        let void = target.env.invalidate(self.boot.booted.slot);
        self.boot.env.store(&void.map_err(|why| Error::new(Reason::Trial, why.to_string()))?)?;
        // Data were kept for the release that leaves this slot.
        self.tidy_data();
        if let Some((wanted, mut candidate)) = fetched {
            match fetch(&place, &wanted, &mut candidate, self.now) {
                Ok(()) => return self.refilled(&place),
                Err(error)
                    if damaged.is_some()
                        || error.exit() == Exit::CannotWrite
                        || error.reason == Reason::Interrupted =>
                {
                    return Err(error);
                }
                Err(error) => log::warn!("cannot fetch the release of slot {}: {error}", place.id),
            }
        }
        log::warn!("slot {} gets a copy of the running release", place.id);
        if wanted != copied.digest {
            self.keep_refill(memory, copied.digest)?;
        }
        let tree = running.tree(&copied)?;
        fill(&place, &copied, tree, self.now, |part| Ok(Box::new(running.image(part)?)))?;
        self.refilled(&place)
    }

    /// Remembers the release that the slot is being filled with. The damage is noted again if that fails, so that a repair that
    /// was cut off goes on at the next run, and one that failed is due after a day.
    fn keep_refill(&self, memory: &mut Memory, release: Digest) -> Result<()> {
        if let Some(scrub) = &mut memory.scrub {
            (scrub.refill, scrub.fallback) = (Some(release), None);
        }
        self.records.keep_memory(memory)
    }

    /// The release that the slot had, or the running one if that cannot be copied; `None` if the source gives neither.
    fn find_at_source(&self, place: &Slot, running: &SlotManifest, copies: bool) -> Option<(SlotManifest, Candidate)> {
        let own = place.manifest().ok().flatten().filter(|own| own.digest != running.digest);
        let running = (!copies).then(|| running.clone());
        own.into_iter().chain(running).find_map(|wanted| match self.fetchable(&wanted) {
            Ok(candidate) => Some((wanted, candidate)),
            Err(error) => {
                log::warn!("the source does not give {} for slot {}: {error}", wanted.version, place.id);
                None
            }
        })
    }

    /// A release that was committed here, if its keys still count and the source still has it.
    fn fetchable(&self, own: &SlotManifest) -> Result<Candidate> {
        if own.file_signatures.is_some() {
            // Its images count by their own signatures, and would have to be fetched to see that.
            return Err(Error::new(Reason::SignatureMissing, "only the images of the release in the slot are signed"));
        }
        let policy = TrustPolicy::find(self.config, self.boot, &self.records.trust)?;
        let keys = policy.required_keys(self.config)?;
        let mut candidate = Candidate::read(open::open(self.config)?, own.digest, Some(own.clone()), keys)?;
        for blob in [own.kernel, own.initramfs] {
            drop(candidate.source.open(&blob)?);
        }
        Ok(candidate)
    }

    /// The last store: the slot was read back, so it is good again.
    fn refilled(&mut self, place: &Slot) -> Result<String> {
        let View::Ours(env) = self.boot.env.view() else {
            return Err(Error::new(Reason::Trial, "another program changed the boot environment meanwhile"));
        };
        let good = env.refill(self.boot.booted.slot);
        self.boot.env.store(&good.map_err(|why| Error::new(Reason::Trial, why.to_string()))?)?;
        Ok(place.manifest()?.map(|content| content.version.to_string()).unwrap_or_default())
    }
}

/// True if the booted slot is the committed one, and no trial is pending.
fn rests(boot: &Boot, env: &BootState) -> bool {
    let booted = boot.booted.slot;
    !boot.legacy && boot.booted.fallback.is_none() && env.success && env.active == booted && env.good == booted
}

/// A slot is read back when it is filled, so that counts as the first time. A clock that went back makes it due, and a repair
/// that was cut off. A fallback that could not be repaired is due each day: its source may be back, and neither the line nor
/// the medium has to bear more.
fn is_due(config: &Config, boot: &Boot, known: Option<&Scrub>, now: DateTime<Utc>) -> bool {
    if known.is_some_and(|scrub| scrub.refill.is_some() && scrub.fallback.is_none()) {
        return true;
    }
    let unrepaired = known.is_some_and(|scrub| scrub.fallback.is_some()) && config.auto != Auto::Check;
    let days = TimeDelta::days(config.scrub_days.into());
    let pause = if unrepaired { days.min(AGAIN) } else { days };
    let filled = || Some(boot.slots.get(boot.booted.slot).manifest().ok()??.written_at);
    let last = known.map(|scrub| scrub.at).or_else(filled);
    last.is_none_or(|last| last > now || now - last >= pause)
}

/// The damage of a slot, by the check that the bootloader makes, and by its manifest where it has one.
fn damage(slot: &Slot) -> Result<Option<String>> {
    let read = match slot.manifest() {
        Ok(Some(_)) => slot.verify().map(drop),
        Ok(None) => slot.hashes().map(drop),
        Err(error) => Err(error),
    };
    match read {
        Ok(()) => Ok(None),
        Err(error) if error.exit() == Exit::Data || error.reason == Reason::DamagedFilesystem => {
            Ok(Some(text::escape(&error.message)))
        }
        Err(error) => Err(error),
    }
}

/// Fills a slot with a release as its source has it.
fn fetch(place: &Slot, content: &SlotManifest, candidate: &mut Candidate, now: DateTime<Utc>) -> Result<()> {
    let Candidate { source, offer, .. } = candidate;
    let tree = source::devicetree(&mut **source, &offer.release, &mut 0)?;
    fill(place, content, tree, now, |part| source.open(&[content.kernel, content.initramfs][part as usize]))
}

/// Fills a slot with a release that was committed on this device.
fn fill(
    place: &Slot,
    content: &SlotManifest,
    tree: Option<Vec<u8>>,
    now: DateTime<Utc>,
    mut open: impl FnMut(Part) -> Result<Box<dyn Body>>,
) -> Result<()> {
    let _held = interrupt::Held::begin()?;
    let mut writer = place.writer()?;
    writer.add_tree(tree);
    for part in Part::BOTH {
        let blob = [content.kernel, content.initramfs][part as usize];
        writer.part(part, &blob, &mut *open(part)?, &mut ())?;
    }
    let written_at = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now);
    writer.finish(&SlotManifest { written_at, ..content.clone() })
}
