//! One evaluation for `check`, `apply`, `apply --dry-run` and `run`: what is on offer, and whether it may be installed here
//! and now.

use bootenv::SlotId;
use bootenv::protocol::BootState;

use chrono::{DateTime, Utc};

use crate::base::console::progress;
use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::config::Config;
use crate::delta::plan;
use crate::device::blocks::System;
use crate::device::boot::Boot;
use crate::device::cmdline::Origins;
use crate::device::slot::{Slot, SlotManifest};
use crate::policy::freshness::{self, FreshnessCheck, FreshnessFinding};
use crate::policy::gate::{self, Gate, Lifted};
use crate::policy::preflight::{self, Machine};
use crate::policy::trust_policy::TrustPolicy;
use crate::policy::{hooks, kubesolo, node, rules};
use crate::release::release::{Blob, Patches, Release};
use crate::schedule::clock::Clock;
use crate::source::open;
use crate::source::source::{Known, Source};
use crate::state::state::{LastOffer, Waiting};
use crate::trust::keys::KeySet;
use crate::update::candidate::Candidate;
use crate::update::data;
use crate::update::records::Records;
use crate::update::running::Running;

/// Everything that a command knows before it asks the source. It changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The device as this boot finds it.
    pub boot: &'a Boot,
    /// Records of earlier runs.
    pub records: &'a Records,
    /// Gates that a person bypasses.
    pub lifted: Lifted,
    /// The time.
    pub clock: Clock,
}

/// How far an evaluation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Through all gates, also behind a closed one: for a person who wants to see them.
    EveryGate,
    /// To the first closed gate, and through none if the release runs already: for an update, where each question costs
    /// time or a request.
    FirstClosed,
}

/// The offer of a source to this device, and the result of each gate.
#[derive(Debug)]
pub struct Evaluation {
    /// The running release.
    pub running: Running,
    /// The keys and the security epoch that count here.
    pub policy: TrustPolicy,
    /// The release on offer.
    pub candidate: Candidate,
    /// Freshness of the offer; `None`: not asked for.
    pub freshness: Option<FreshnessFinding>,
    /// In the order of docs/operating.md; with [`Depth::FirstClosed`] only as far as they were asked.
    pub gates: Vec<Gate>,
    /// The slot that takes the release, if one is free.
    pub target: Option<Target>,
    /// The release on offer runs already.
    pub is_running: bool,
}

/// The slot that takes the release.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Which.
    pub slot: SlotId,
    /// The boot environment in which it is free.
    pub env: BootState,
    /// The images to write into it; `None`: it holds them already.
    pub images: Option<[Blob; 2]>,
}

impl Evaluation {
    /// The patches that fit the running release, as far as their size is worth it.
    #[must_use]
    pub fn patches(&self) -> Option<&Patches> {
        let release = self.candidate.release();
        let booted = self.running.manifest.as_ref().map(|manifest| manifest.initramfs.digest);
        let most = release.initramfs.size.unwrap_or(u64::MAX);
        plan::choose(&release.patches, booted, self.running.version.as_ref(), most)
    }

    /// True if the release is to be installed; not if it runs already.
    ///
    /// # Errors
    /// The refusal of the first closed gate: 75 or 77, or the error that closed it. If the release runs already, only a
    /// replayed freshness statement is refused.
    pub fn admits(&self) -> Result<bool> {
        if self.is_running {
            return self.freshness.as_ref().and_then(FreshnessFinding::refusal).map_or(Ok(false), Err);
        }
        gate::pass(&self.gates).map(|()| true)
    }

    /// The slot that takes the release.
    ///
    /// # Errors
    /// 75 when none is free, which a gate refuses first.
    pub fn free_slot(&self) -> Result<Target> {
        self.target.ok_or_else(|| Error::new(Reason::NoFreeSlot, "no slot is free"))
    }

    /// Record of a wave that this device waits for; `None`: the gate was not asked.
    #[must_use]
    pub fn waiting(&self, config: &Config) -> Option<Option<Waiting>> {
        let wave = self.gates.iter().find(|gate| gate.name == rules::ROLLOUT)?;
        Some(rules::waiting(self.candidate.document, config.wariness, wave))
    }
}

/// Asks gates in turn, as far as the depth goes.
struct Asked {
    gates: Vec<Gate>,
    depth: Depth,
}

impl Asked {
    fn ask(&mut self, gate: impl FnOnce() -> Gate) {
        if self.depth == Depth::EveryGate || self.gates.iter().all(|gate| gate.open) {
            self.gates.push(gate());
        }
    }
}

impl<'a> Session<'a> {
    /// At this time, as the system's clock shows it.
    #[must_use]
    pub fn new(config: &'a Config, boot: &'a Boot, records: &'a Records, lifted: Lifted, now: DateTime<Utc>) -> Self {
        Self { config, boot, records, lifted, clock: Clock::system(now, records.trust.last_seen) }
    }
}

impl Session<'_> {
    /// The gate that comes before any network use.
    ///
    /// # Errors
    /// 78 when its time zone cannot be used.
    pub fn window(&self) -> Result<Gate> {
        rules::window(self.config, self.lifted, &self.clock)
    }

    /// Looks up what is on offer and asks the gates about it. Changes nothing anywhere.
    ///
    /// # Errors
    /// Those that make the offer unreadable or unproven (65, 69, 77, 78). With [`Depth::FirstClosed`] also 77 when the device
    /// has no key, and 75 while it waits for its wave of the same document.
    pub fn evaluate(&self, depth: Depth) -> Result<Evaluation> {
        self.evaluate_by(self.policy()?, depth)
    }

    /// The keys and the security epoch that count here.
    ///
    /// # Errors
    /// 78 when keys cannot be used, 77 when too many of them are revoked.
    pub fn policy(&self) -> Result<TrustPolicy> {
        TrustPolicy::find(self.config, self.boot, &self.records.trust)
    }

    /// The same with a policy that is known already.
    pub(super) fn evaluate_by(&self, policy: TrustPolicy, depth: Depth) -> Result<Evaluation> {
        let window = self.window()?;
        let running = Running::find(self.config, self.boot)?;
        if depth == Depth::FirstClosed {
            policy.required_keys(self.config)?;
        }
        let mut source = open::open(self.config)?;
        let documents = self.known(&running, &policy, depth);
        let tagged = self.records.fetches.tagged.as_ref();
        let known = Known { documents: &documents, tagged, now: self.clock.now() };
        let document = source.look(&known).map_err(advised)?;
        if depth == Depth::FirstClosed {
            self.pass_wave(document)?;
        }
        let held = self.held(document, &running, &policy);
        let mut candidate = Candidate::read(source, document, held, policy.keys.as_ref()).map_err(advised)?;
        let freshness = self.freshness(&mut candidate, &policy)?;
        let is_running = running.is(candidate.release(), self.lifted);
        let mut evaluation =
            Evaluation { running, policy, candidate, freshness, gates: vec![window], target: None, is_running };
        if depth == Depth::EveryGate || !is_running {
            self.ask_gates(&mut evaluation, depth);
        }
        Ok(evaluation)
    }

    /// Evaluates what `source` offers to the end: each refusal is a finding. The result is proven only without findings.
    pub(super) fn examine(&self, mut source: Box<dyn Source>, findings: &mut Vec<Error>) -> Option<Candidate> {
        let mut kept = |error: Error| findings.push(advised(error));
        let policy = self.policy().map_err(&mut kept).ok()?;
        policy.required_keys(self.config).map_err(&mut kept).ok();
        let running = Running::find(self.config, self.boot).map_err(&mut kept).ok()?;
        let window = self.window().map_err(&mut kept).ok()?;
        let document = source.look(&Known { now: self.clock.now(), ..Known::default() }).map_err(&mut kept).ok()?;
        let mut candidate = Candidate::examine(source, document, policy.keys.as_ref(), findings)?;
        let freshness = self.freshness(&mut candidate, &policy).unwrap_or_else(|error| {
            findings.push(error);
            None
        });
        let is_running = running.is(candidate.release(), self.lifted);
        let gates = vec![window];
        let mut found = Evaluation { running, policy, candidate, freshness, gates, target: None, is_running };
        if is_running {
            findings.extend(found.admits().err());
        } else {
            self.ask_gates(&mut found, Depth::EveryGate);
            findings.extend(found.gates.iter().filter_map(Gate::refusal));
        }
        Some(found.candidate)
    }

    fn ask_gates(&self, found: &mut Evaluation, depth: Depth) {
        let (config, lifted) = (self.config, self.lifted);
        let mut asked = Asked { gates: std::mem::take(&mut found.gates), depth };
        if depth == Depth::EveryGate {
            // An update asks it before the evaluation, and only when no person asked for it.
            asked.ask(|| rules::not_before(self.records.state.not_before, self.clock.now()));
        }
        let release = found.candidate.offer.release.clone();
        for gate in self.release_gates(&found.running, &found.policy, &release) {
            asked.ask(|| gate);
        }
        asked.ask(|| self.bytes(&found.candidate));
        asked.ask(|| freshness::gate(config, found.freshness.as_ref()));
        asked.ask(|| node::gate(config, lifted));
        asked.ask(|| kubesolo::gate(config, lifted));
        asked.ask(|| self.copies());
        let target = self.target();
        found.target = target.as_ref().ok().copied();
        asked.ask(|| Gate::unless("trial", target.map(|target| format!("slot {} is free", target.slot))));
        asked.ask(|| rules::clock(&self.clock, &release));
        asked.ask(|| self.space(found, depth));
        if depth == Depth::EveryGate {
            // An activation evaluates them; a release may be fetched and verified before.
            for gate in self.data_gates(TrialOf::Next(&release)) {
                asked.ask(|| gate);
            }
        }
        asked.ask(|| self.delta(found));
        asked.ask(|| self.fits_memory(&release));
        asked.ask(|| self.wave(&release));
        asked.ask(|| hooks::gate(config));
        found.gates = asked.gates;
    }

    /// The documents that this evaluation needs only the digest of: the device waits for their wave, or a slot has their offer,
    /// proven by the keys that count now.
    fn known(&self, running: &Running, policy: &TrustPolicy, depth: Depth) -> Vec<Digest> {
        let state = &self.records.state;
        let other = self.boot.slots.get(self.boot.booted.slot.other()).manifest().ok().flatten();
        let contents = [running.manifest.as_ref(), other.as_ref()].map(|content| content.map(|content| content.digest));
        let waits = state.waiting.as_ref().map(|waiting| waiting.document);
        let waits = waits.filter(|waits| depth == Depth::FirstClosed && self.pass_wave(*waits).is_err());
        let offers = contents.into_iter().flatten().chain(state.last_offer.map(|offer| offer.document));
        let held = offers.filter(|document| self.held(*document, running, policy).is_some());
        waits.into_iter().chain(held).collect()
    }

    /// A device that waits for its wave of this very document need not read the release again.
    fn pass_wave(&self, document: Digest) -> Result<()> {
        match self.records.state.waits(document, self.config.wariness, self.clock.now()) {
            Some(waiting) if !self.lifted.ignore_rollout => {
                Err(rules::not_this_wave(waiting.message.clone(), Some(waiting.until)))
            }
            _ => Ok(()),
        }
    }

    /// The manifest of a slot that was filled from the same document, if it is still proven.
    fn held(&self, document: Digest, running: &Running, policy: &TrustPolicy) -> Option<SlotManifest> {
        let boot = self.boot;
        let same = |content: &SlotManifest| {
            let led_here = LastOffer { document, release: content.digest };
            content.digest == document || self.records.state.last_offer == Some(led_here)
        };
        let good = |content: &SlotManifest| match content.file_signatures {
            Some(_) => self.config.legacy_file_signatures,
            None => policy.keys.as_ref().is_none_or(|keys| keys.verify(&content.signed, &content.signatures).is_ok()),
        };
        let other = || boot.slots.get(boot.booted.slot.other()).manifest().ok().flatten();
        running.manifest.clone().filter(same).or_else(|| other().filter(same)).filter(good)
    }

    fn freshness(&self, candidate: &mut Candidate, policy: &TrustPolicy) -> Result<Option<FreshnessFinding>> {
        let check = FreshnessCheck {
            config: self.config,
            trust: &self.records.trust,
            policy,
            clock: &self.clock,
            release: &candidate.offer.release,
            changed: candidate.changed,
        };
        check.look(&mut *candidate.source)
    }

    /// The gates that look at what a proven release says about itself.
    #[must_use]
    pub fn release_gates(&self, running: &Running, policy: &TrustPolicy, release: &Release) -> Vec<Gate> {
        let failed = self.records.trust.failure(&release.identity());
        let device = rules::Device {
            channel: self.config.channel.as_deref(),
            board: self.config.board.as_deref(),
            running: running.version.as_ref(),
            running_digest: running.manifest.as_ref().map(|manifest| manifest.digest),
            booted: Origins::find(self.boot, running.manifest.as_ref()),
            folders: self.boot.folders(),
            epoch: policy.epoch,
            known_epoch: policy.known_epoch(release.digest),
            keys: &self.config.keys,
            lifted: self.lifted,
            failed: failed.map(|f| format!("{} on {}", f.reason, f.failed_at.format("%Y-%m-%d"))),
        };
        rules::release(release, &device)
    }

    /// Keeps wrong bytes from being fetched at every run.
    fn bytes(&self, candidate: &Candidate) -> Gate {
        let Release { kernel, initramfs, .. } = candidate.release();
        let closed = |digest| self.records.fetches.closed(digest, self.clock.now());
        let wrong = closed(kernel.digest).or_else(|| closed(initramfs.digest));
        rules::bytes_failed_before(wrong.filter(|_| candidate.source.is_remote()), self.lifted)
    }

    /// Keeps a line that costs money from a whole image.
    fn delta(&self, found: &Evaluation) -> Gate {
        let (release, manifest) = (found.candidate.release(), found.running.manifest.as_ref());
        let same = |manifest: &SlotManifest| {
            release.initramfs.is(&manifest.initramfs) || release.initramfs.is(&manifest.kernel)
        };
        let staged = found.target.is_some_and(|target| target.images.is_none());
        let at_hand = staged || !found.candidate.source.is_remote() || manifest.is_some_and(same);
        rules::delta(self.config.delta, release, at_hand, found.patches())
    }

    /// A single copy of the boot environment does not survive every power cut: no update for a timer.
    #[must_use]
    pub fn copies(&self) -> Gate {
        let name = "boot-environment";
        let env = &self.boot.env;
        match (env.is_single(), self.lifted.allow_single_copy) {
            (false, _) => Gate::open(name, "a store survives a power cut"),
            (true, true) => Gate::open(name, "single copy; allowed by --allow-single-copy"),
            (true, false) => Gate::closed(
                name,
                Reason::SingleCopy,
                format!(
                    "the boot environment {} has a single copy, which a power cut during a store may damage",
                    env.place()
                ),
                "Add a second copy in fw_env.config and in U-Boot, or use --allow-single-copy.",
            ),
        }
    }

    /// The free slot.
    ///
    /// # Errors
    /// 75 when no slot is free, 78 when the boot environment cannot be used.
    pub fn target(&self) -> Result<Target> {
        let env = self.boot.state()?;
        let slot = env.target(self.boot.booted.slot).map_err(|illegal| {
            let error = Error::new(Reason::NoFreeSlot, illegal.to_string());
            match env.on_trial() {
                Some(slot) => {
                    error.remedy(format!("Slot {slot} is on trial: a health run must commit or revert it first."))
                }
                None => error.remedy("The bootloader fell back. Run `kubesolo-update healthcheck`, then try again."),
            }
        })?;
        Ok(Target { slot, env, images: None })
    }

    /// Open if the free slot has the release already, or has room for its images. Their sizes are known afterwards.
    fn space(&self, found: &mut Evaluation, depth: Depth) -> Gate {
        let name = "space";
        let Some(target) = &mut found.target else { return Gate::open(name, "no slot is free") };
        let place = self.boot.slots.get(target.slot);
        let keys = found.policy.keys.as_ref();
        if self.holds(place, found.candidate.release().digest, keys, depth) {
            return Gate::open(name, format!("slot {} already has this release", target.slot));
        }
        let source = &mut found.candidate.source;
        let release = &found.candidate.offer.release;
        let mut locate = || -> Result<[Blob; 2]> {
            let images = [source.locate(release.kernel)?, source.locate(release.initramfs)?];
            let tree = release.devicetree.map_or(0, |tree| tree.size);
            place.check_room(images[0].size.saturating_add(images[1].size).saturating_add(tree))?;
            Ok(images)
        };
        let located = locate();
        target.images = located.as_ref().ok().copied();
        let need = |images: [Blob; 2]| progress::size(images[0].size.saturating_add(images[1].size));
        Gate::unless(name, located.map(|images| format!("slot {} has room for {}", target.slot, need(images))))
    }

    /// The gates of an activation that look at the data: no earlier trial waits for something, the release saves the data, and a
    /// checkpoint has room and time.
    #[must_use]
    pub fn data_gates(&self, trial: TrialOf<'_>) -> Vec<Gate> {
        let data = self.records.data();
        let settled = data::settled(&data).map(|()| "no data of an earlier trial wait");
        let mut gates = vec![Gate::unless("data-unsettled", settled)];
        let unprotected = data::unprotected(self.records.path(), self.config, &data);
        if let TrialOf::Next(release) = trial {
            let counts = unprotected.is_none() && !self.lifted.retry_failed;
            let withdrawn = if counts { self.records.times_withdrawn(release.digest) } else { 0 };
            let words = "the release was not withdrawn twice";
            gates.push(Gate::unless("data-checkpoint", data::not_withdrawn(withdrawn).map(|()| words)));
        }
        if let Some(why) = unprotected {
            let words = format!("no data go back with a release: {why}");
            gates.extend(["data-unprotected", "data-space"].map(|name| Gate::open(name, words.clone())));
            return gates;
        }
        gates.push(rules::data_unprotected(self.config, trial.release(), self.lifted));
        let need = data::need(self.config, &data, Some(self.boot));
        let fits = need.and_then(|need| need.fits().map(|()| format!("a checkpoint needs {}", need.words())));
        gates.push(Gate::unless("data-space", fits));
        gates
    }

    /// By the slot's manifest; an update also hashes the images, and proves them by the signatures in the slot, since better
    /// ones may have been published meanwhile.
    fn holds(&self, place: &Slot, release: Digest, keys: Option<&KeySet>, depth: Depth) -> bool {
        let content = place.manifest().ok().flatten();
        let named = content.is_some_and(|content| content.digest == release && !content.lacks_extras());
        let proven = || place.verify().is_ok_and(|content| self.vouched(place, &content, keys).is_ok());
        named && (depth == Depth::EveryGate || proven())
    }

    /// Checks that the content of a slot may be activated as it is.
    ///
    /// # Errors
    /// 77 when it is not proven.
    pub fn vouched(&self, place: &Slot, content: &SlotManifest, keys: Option<&KeySet>) -> Result<()> {
        let Some(keys) = keys else { return Ok(()) };
        if content.file_signatures.is_some() && !self.config.legacy_file_signatures {
            let message = format!("the release in slot {} came from a server that signs only the images", place.id);
            return Err(Error::new(Reason::SignatureMissing, message)
                .remedy("Apply a release that is signed as a whole, or set legacy_file_signatures=yes."));
        }
        place.vouched(content, keys).map(drop)
    }

    /// Open if the release fits into the memory of this machine.
    #[must_use]
    pub fn fits_memory(&self, release: &Release) -> Gate {
        preflight::memory_gate(release, self.boot, &Machine::find(&System::default()))
    }

    /// Open if the wave of this device has come.
    fn wave(&self, release: &Release) -> Gate {
        rules::rollout(self.config, self.device_id().as_deref(), self.lifted, release, self.clock.now())
    }

    /// The id of this device, if it has one.
    fn device_id(&self) -> Option<String> {
        let file = &self.config.machine_id_file;
        self.records.state.device_id(file, self.boot.loses(file))
    }

    /// The id of this device towards servers, if it has one.
    pub(super) fn public_id(&self) -> Option<String> {
        let file = &self.config.machine_id_file;
        self.records.state.public_id(file, self.boot.loses(file))
    }
}

/// The release that a trial would start.
#[derive(Clone, Copy, Debug)]
pub enum TrialOf<'a> {
    /// One that was fetched. Its trials may have been withdrawn before.
    Next(&'a Release),
    /// The previous one, by a person's word; a slot that a factory filled has none.
    Previous(Option<&'a Release>),
}

impl<'a> TrialOf<'a> {
    fn release(self) -> Option<&'a Release> {
        match self {
            Self::Next(release) => Some(release),
            Self::Previous(release) => release,
        }
    }
}

/// Adds what to do about a source that gave no better advice.
pub(super) fn advised(error: Error) -> Error {
    match error.exit() {
        _ if !error.remedy.is_empty() => error,
        Exit::Data => error.remedy(
            "If the server has wrong bytes, publish the release again; if the network changed them, try \
                again.",
        ),
        Exit::Unavailable => error.remedy("Compare it with the published release, then try again."),
        _ => error,
    }
}
