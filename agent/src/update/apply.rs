//! The update itself, top to bottom: check, apply, activate.

use bootenv::protocol::{SlotState, State as EnvState};
use bootenv::{Slot as Id, TrialId};
use chrono::{DateTime, Utc};
use semver::Version;
use serde::Serialize;

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::progress::{self, Shown};
use crate::base::{files, limits};
use crate::config::Config;
use crate::device::blocks::System;
use crate::device::boot::Boot;
use crate::device::slot::{Part, Slot, SlotManifest};
use crate::fetch::body::Body;
use crate::policy::freshness::{self, Seen};
use crate::policy::gate::{self, Gate, Lifted};
use crate::policy::hooks::{self, Question, Step};
use crate::policy::preflight::{self, Machine};
use crate::policy::standing::{self, Standing};
use crate::policy::{node, rules};
use crate::release::offer::Offer;
use crate::release::release::{Architecture, Blob, Release};
use crate::schedule::clock::Clock;
use crate::source::guarded::Guarded;
use crate::source::open;
use crate::source::source::{self, Source};
use crate::state::freshness::Verdict;
use crate::state::phase::Phase;
use crate::state::state::{self, LastOffer, Outcome, Trial};
use crate::trust::keys::KeySet;
use crate::trust::signature;
use crate::trust::stream::StreamVerifier;
use crate::update::memory::Memory;
use crate::update::trial;

/// What runs, as far as it can be told.
#[derive(Debug)]
pub struct Running {
    /// Its version.
    pub version: Option<Version>,
    /// The manifest of the booted slot.
    pub manifest: Option<SlotManifest>,
}

impl Running {
    /// The booted slot's manifest, else the version file.
    ///
    /// # Errors
    /// 78 when `version_file` is set and has no version.
    pub fn find(config: &Config, boot: &Boot) -> Result<Self> {
        let manifest = boot.slots.get(boot.booted.slot).manifest().unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        let version = match &manifest {
            Some(manifest) => Some(manifest.version.clone()),
            None => version_by_file(config)?,
        };
        Ok(Self { version, manifest })
    }
}

/// What `version_file` says that runs, where the booted slot does not tell.
///
/// # Errors
/// 78 when it is set and has no version.
pub fn version_by_file(config: &Config) -> Result<Option<Version>> {
    let Some(file) = &config.version_file else { return Ok(None) };
    let bytes = files::read(file, limits::VERSION_FILE_BYTES, Reason::VersionFile)?.ok_or_else(|| {
        let message = format!("version_file={}: there is no such file", file.display());
        Error::new(Reason::VersionFile, message).remedy("Name the file with the running version.")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.trim().lines().next().unwrap_or_default();
    let unusable = |e: Error| {
        Error::new(Reason::VersionFile, format!("version_file={}: {}", file.display(), e.message))
            .remedy("Let its first line be the running version, such as 1.2.3.")
    };
    crate::release::release::version(first.trim()).map(Some).map_err(unusable)
}

/// The outcome of `check`.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// `up-to-date`, `update-available`, `held` or `unknown`.
    pub verdict: Outcome,
    /// Why, when it is not `update-available`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// What is on offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<Offered>,
    /// Whether this is the latest release; absent: it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Verdict>,
    /// What of that is to be remembered, by who may.
    #[serde(skip)]
    pub seen: Option<Seen>,
    /// Every gate.
    pub gates: Vec<Gate>,
}

/// A release on offer, for people and scripts.
#[derive(Debug, Serialize)]
pub struct Offered {
    /// Its version.
    pub version: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Where it was found.
    pub origin: String,
    /// Bytes of both images, if the source says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Keys of this device that signed it; empty when there is no key here.
    pub signed_by: Vec<String>,
    /// The server signs only the images, so that all of this is its word.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// What changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_notes: Option<String>,
}

impl Offered {
    fn of(offer: &Offer, signed_by: Vec<String>) -> Self {
        Self {
            version: offer.release.version.to_string(),
            digest: offer.release.digest.to_string(),
            origin: offer.origin.clone(),
            size: size(&offer.release),
            signed_by,
            claimed: offer.file_signatures.is_some(),
            release_notes: offer.release.release_notes.clone(),
        }
    }
}

fn size(release: &Release) -> Option<u64> {
    Some(release.kernel.size?.saturating_add(release.initramfs.size?))
}

/// Looks up what is on offer, and what each gate says. Changes nothing anywhere.
///
/// # Errors
/// Whatever makes the offer unreadable or unproven: 65, 69, 77, 78.
pub fn check(config: &Config, boot: &Boot, memory: &Memory, lifted: Lifted, now: DateTime<Utc>) -> Result<Checked> {
    let running = Running::find(config, boot)?;
    let standing = Standing::find(config, boot, &memory.trust)?;
    let clock = Clock::system(now, memory.trust.last_seen);
    let keys = standing.keys.as_ref();
    let mut source = open::open(config)?;
    let document = source.look().map_err(advised)?;
    let (offer, news) = offered(config, boot, memory, &running, keys, (&mut *source, document)).map_err(advised)?;
    let signed_by = proven(&offer, keys)?;
    let freshness = freshness::look(config, &memory.trust, &standing, &clock, &mut *source, (&offer, news))?;
    let mut gates =
        vec![rules::window(config, lifted, &clock)?, rules::not_before(memory.state.not_before, clock.now())];
    gates.extend(release_gates(config, boot, memory, &running, &standing, lifted, &offer.release));
    gates.push(freshness::gate(config, freshness.as_ref()));
    gates.push(node::gate(config, lifted));
    gates.push(copies_gate(boot, lifted));
    gates.push(trial_gate(boot));
    gates.push(rules::clock(&clock, &offer.release));
    gates.push(space_gate(boot, &mut *source, &offer));
    gates.extend(device_gates(config, boot, memory, lifted, &offer.release, &clock));
    gates.push(hooks::gate(config));
    let same = is_running(&running, &offer, lifted);
    let closed = gates.iter().find(|gate| !gate.open);
    let (verdict, reason) = match closed {
        _ if freshness.as_ref().is_some_and(|seen| seen.refusal().is_some()) => {
            (Outcome::Held, Some(Reason::SerialWentBack))
        }
        _ if same => (Outcome::UpToDate, None),
        Some(gate) if gate.reason == Some(Reason::VersionUnknown) => (Outcome::Unknown, gate.reason),
        Some(gate) => (Outcome::Held, gate.reason),
        None if running.version.is_none() => (Outcome::Unknown, Some(Reason::VersionUnknown)),
        None => (Outcome::UpdateAvailable, None),
    };
    Ok(Checked {
        verdict,
        reason,
        running: running.version.map(|v| v.to_string()),
        offered: Some(Offered::of(&offer, signed_by)),
        freshness: freshness.as_ref().map(|seen| seen.verdict.clone()),
        seen: freshness,
        gates,
    })
}

/// What is on offer by this document, and whether it had to be fetched. If the document is the one from which a slot was
/// filled, the slot's own copy is as good, and nothing else is fetched.
fn offered(
    config: &Config,
    boot: &Boot,
    memory: &Memory,
    running: &Running,
    keys: Option<&KeySet>,
    (source, document): (&mut dyn Source, Digest),
) -> Result<(Offer, bool)> {
    let same = |content: &SlotManifest| {
        let led_here = LastOffer { document, release: content.digest };
        content.digest == document || memory.state.last_offer == Some(led_here)
    };
    let good = |content: &SlotManifest| match content.file_signatures {
        Some(_) => config.legacy_file_signatures,
        None => keys.is_none_or(|keys| keys.verify(&content.signed, &content.signatures).is_ok()),
    };
    let other = || boot.slots.get(boot.booted.slot.other()).manifest().ok().flatten();
    let held = running.manifest.clone().filter(same).or_else(|| other().filter(same)).filter(good);
    Ok(match held {
        Some(content) => (content.offer(source.origin())?, false),
        None => (source::offer(source, Architecture::current(), keys)?, true),
    })
}

/// Which keys signed what the release says about itself: as many as it takes, unless there is no key here, or it is a claim.
fn proven(offer: &Offer, keys: Option<&KeySet>) -> Result<Vec<String>> {
    if offer.file_signatures.is_some() {
        log::warn!("legacy_file_signatures=yes: what {} says is a claim; only the images must be signed", offer.origin);
        return Ok(vec![]);
    }
    keys.map_or(Ok(vec![]), |keys| Ok(names(&keys.verify(&offer.signed, &offer.signatures)?)))
}

fn names(keys: &[signature::KeyId]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn is_running(running: &Running, offer: &Offer, lifted: Lifted) -> bool {
    match running {
        Running { manifest: Some(manifest), .. } => manifest.digest == offer.release.digest,
        // What a factory filled has no digest. Its version says that there is nothing to do, unless a person knows better.
        Running { version: Some(version), .. } => {
            version.cmp_precedence(&offer.release.version).is_eq() && !lifted.allow_downgrade
        }
        _ => false,
    }
}

fn release_gates(
    config: &Config,
    boot: &Boot,
    memory: &Memory,
    running: &Running,
    standing: &Standing,
    lifted: Lifted,
    release: &Release,
) -> Vec<Gate> {
    let device = rules::Device {
        channel: config.channel.as_deref(),
        board: config.board.as_deref(),
        running: running.version.as_ref(),
        running_digest: running.manifest.as_ref().map(|m| m.digest),
        folders: boot.folders(),
        epoch: standing.epoch,
        known_epoch: standing.known_epoch(release.digest),
        lifted,
        failed: memory
            .trust
            .failure(&release.identity())
            .map(|f| format!("{} on {}", f.reason, f.failed_at.format("%Y-%m-%d"))),
    };
    rules::release(release, &device)
}

/// A store over the only copy is no store that survives every power cut: nothing for a timer.
fn copies_gate(boot: &Boot, lifted: Lifted) -> Gate {
    let name = "boot-environment";
    match (boot.env.is_single(), lifted.allow_single_copy) {
        (false, _) => Gate::open(name, "a store survives a power cut"),
        (true, true) => Gate::open(name, "it has one copy; allowed by --allow-single-copy"),
        (true, false) => Gate::closed(
            name,
            Reason::SingleCopy,
            format!(
                "the boot environment {} has one copy only: a power cut in a store may leave none",
                boot.env.place()
            ),
            "Give it a second copy in fw_env.config and in U-Boot, or call the command with --allow-single-copy.",
        ),
    }
}

/// Memory and waves.
fn device_gates(
    config: &Config,
    boot: &Boot,
    memory: &Memory,
    lifted: Lifted,
    release: &Release,
    clock: &Clock,
) -> [Gate; 2] {
    let id = memory.state.device_id(&config.machine_id_file);
    [
        preflight::memory_gate(release, boot, &Machine::find(&System::default())),
        rules::rollout(config, id.as_deref(), lifted, release, clock.now()),
    ]
}

/// Only for a check: `apply` asks the slot itself.
fn space_gate(boot: &Boot, source: &mut dyn Source, offer: &Offer) -> Gate {
    let name = "space";
    let Ok(target) = boot.state().and_then(|state| free_slot(&state, boot.booted.slot)) else {
        return Gate::open(name, "no slot is free to be looked at");
    };
    let place = boot.slots.get(target);
    if place.manifest().ok().flatten().is_some_and(|content| content.digest == offer.release.digest) {
        return Gate::open(name, format!("slot {target} holds it already"));
    }
    let mut needed = || -> Result<String> {
        let [kernel, initramfs] = [source.locate(offer.release.kernel)?, source.locate(offer.release.initramfs)?];
        let need = kernel.size.saturating_add(initramfs.size);
        place.check_room(need)?;
        Ok(format!("slot {target} takes {}", progress::size(need)))
    };
    Gate::unless(name, needed())
}

fn trial_gate(boot: &Boot) -> Gate {
    let name = "trial";
    match boot.state().and_then(|state| free_slot(&state, boot.booted.slot)) {
        Ok(slot) => Gate::open(name, format!("slot {slot} is free")),
        Err(error) => Gate::unless(name, Err::<String, _>(error)),
    }
}

fn free_slot(state: &EnvState, booted: Id) -> Result<Id> {
    state.target(booted).map_err(|illegal| {
        let error = Error::new(Reason::NoFreeSlot, illegal.to_string());
        match state.on_trial() {
            Some(slot) => {
                error.remedy(format!("Slot {slot} is on trial: the health hook commits or reverts it first."))
            }
            None => error.remedy("The bootloader fell back. Call `kubesolo-update healthcheck`, then try again."),
        }
    })
}

/// What `apply` shall do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Apply {
    /// Rules lifted by a person.
    pub lifted: Lifted,
    /// Write nothing.
    pub dry_run: bool,
    /// Activate what was staged.
    pub activate: bool,
}

/// The outcome of `apply` and `activate`.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// `up-to-date`, `would-stage`, `staged`, `activated`.
    pub outcome: Outcome,
    /// The release.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The slot that has it, or would get it.
    pub slot: String,
    /// The trial, once activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
    /// Whether the image was fetched and written by this run.
    pub written: bool,
}

impl Applied {
    fn new(outcome: Outcome, release: (&Version, String), slot: Id) -> Self {
        Self {
            outcome,
            version: release.0.to_string(),
            digest: release.1,
            slot: slot.to_string(),
            trial: None,
            written: false,
        }
    }
}

/// Fetches the offered release into the free slot, and on request makes it the next to boot.
///
/// # Errors
/// Each with its exit code. The active slot and the booted one are never touched; the message of an error after the
/// first write says that the free slot is void.
pub fn apply(
    config: &Config,
    boot: &mut Boot,
    memory: &mut Memory,
    what: Apply,
    now: DateTime<Utc>,
) -> Result<Applied> {
    let mut touched = false;
    try_apply(config, boot, memory, what, now, &mut touched)
        .map_err(|error| if touched { error } else { no_slot_touched(advised(error)) })
}

/// What to do about a source that gave no better advice.
fn advised(error: Error) -> Error {
    match error.exit() {
        _ if !error.remedy.is_empty() => error,
        Exit::Data => {
            error.remedy("Publish the release again if the server has it wrong; try again if the network does.")
        }
        Exit::Unavailable => error.remedy("Check what was published there, then try again."),
        _ => error,
    }
}

/// Says so: whoever reads of a failure wonders first whether the device still boots.
pub(crate) fn no_slot_touched(error: Error) -> Error {
    const SAID: &str = "No slot was touched.";
    if error.remedy.ends_with(SAID) {
        return error;
    }
    let error = error.advised();
    let remedy = format!("{} {SAID}", error.remedy);
    error.remedy(remedy)
}

/// What there is after an activation that was refused behind a write.
fn only_staged(error: Error, applied: &Applied) -> Error {
    let Applied { slot, version, .. } = applied;
    let error = error.advised();
    let remedy = format!("{} Slot {slot} holds {version}, complete and not activated.", error.remedy);
    error.remedy(remedy)
}

/// `touched` is set once the boot environment says that the free slot is void.
fn try_apply(
    config: &Config,
    boot: &mut Boot,
    memory: &mut Memory,
    what: Apply,
    now: DateTime<Utc>,
    touched: &mut bool,
) -> Result<Applied> {
    // Before any network use: an operator's window also keeps the network quiet.
    let clock = Clock::system(now, memory.trust.last_seen);
    gate::pass(&[rules::window(config, what.lifted, &clock)?])?;
    let booted = boot.booted.slot;
    if !what.dry_run {
        trial::settle(boot, memory, now)?;
    }
    let env = boot.state()?;
    let target = free_slot(&env, booted)?;
    gate::pass(&[copies_gate(boot, what.lifted)])?;
    let running = Running::find(config, boot)?;
    let standing = Standing::find(config, boot, &memory.trust)?;
    let keys = standing.required_keys(config)?;

    if !what.dry_run {
        // Before the slot that tells it may be written.
        memory.raise(standing.epoch, &standing.revoked)?;
        memory.state.identify()?;
        memory.state.begin(format!("{:08x}", state::random()?), now);
        memory.save()?;
    }
    let mut source = open::open(config)?;
    let document = source.look()?;
    if let Some(waiting) = memory.state.waits(document, config.wariness, clock.now())
        && !what.lifted.ignore_rollout
    {
        return Err(rules::not_this_wave(waiting.message.clone(), Some(waiting.until)));
    }
    let (offer, news) = offered(config, boot, memory, &running, keys, (&mut *source, document))?;
    let (release, digest) = (&offer.release, offer.release.digest);
    let by = proven(&offer, keys)?;
    let freshness = freshness::look(config, &memory.trust, &standing, &clock, &mut *source, (&offer, news))?;
    if !what.dry_run {
        memory.keep_look(&clock, freshness.as_ref())?;
    }
    if let Some(refusal) = freshness.as_ref().and_then(Seen::refusal) {
        return Err(refusal);
    }
    if !by.is_empty() {
        log::info!("{} of {} is signed by {}", release.version, offer.origin, by.join(", "));
    }
    let seen = Some(LastOffer { document, release: digest });
    if is_running(&running, &offer, what.lifted) {
        if !what.dry_run {
            memory.state.stand_down(now);
            memory.state.last_offer = seen;
            memory.save()?;
        }
        return Ok(Applied::new(Outcome::UpToDate, (&release.version, digest.to_string()), booted));
    }
    gate::pass(&release_gates(config, boot, memory, &running, &standing, what.lifted, release))?;
    gate::pass(&[freshness::gate(config, freshness.as_ref())])?;

    gate::pass(&[node::gate(config, what.lifted)])?;
    gate::pass(&[rules::clock(&clock, release)])?;

    let place = boot.slots.get(target);
    let mut applied = Applied::new(Outcome::Staged, (&release.version, digest.to_string()), target);
    // By the signatures that are in it: better ones may have been published since.
    let staged = place.manifest().ok().flatten().is_some_and(|m| m.digest == digest)
        && place.verify().is_ok_and(|content| vouched(config, place, &content, keys).is_ok());
    let images = if staged { None } else { Some([source.locate(release.kernel)?, source.locate(release.initramfs)?]) };
    if let Some([kernel, initramfs]) = &images {
        place.check_room(kernel.size.saturating_add(initramfs.size))?;
    }
    let [ram, wave] = device_gates(config, boot, memory, what.lifted, release, &clock);
    memory.state.waiting = rules::waiting(document, config.wariness, &wave);
    gate::pass(&[ram, wave])?;
    if what.dry_run {
        applied.outcome = if staged { Outcome::Staged } else { Outcome::WouldStage };
        return Ok(applied);
    }
    if staged && env.on_trial() == Some(target) {
        let applied = activate(config, boot, memory, what.lifted, now)?;
        memory.state.stand_down(now);
        memory.save()?;
        return Ok(applied);
    }
    if staged && memory.state.has_staged(digest) {
        memory.state.stand_down(now);
        memory.state.last_offer = seen;
        memory.save()?;
    } else {
        if images.is_some() {
            let from = running.version.as_ref();
            hooks::ask(config, &Question { step: Step::Stage, from, to: &release.version, digest })?;
        }
        memory.state.aim(running.version.as_ref(), &release.version, digest);
        if let Some(images) = images {
            write(boot, memory, env, &mut *source, (&offer, images, keys), now, touched)?;
            applied.written = true;
        }
        memory.state.last_offer = seen;
        memory.enter(Phase::Staged, now)?;
    }
    if !what.activate {
        return Ok(applied);
    }
    let activated = activate(config, boot, memory, what.lifted, now);
    let activated = activated.map_err(|error| if applied.written { only_staged(error, &applied) } else { error })?;
    Ok(Applied { written: applied.written, ..activated })
}

/// The write path. The environment says "void" before the first byte changes, and what is written counts only once it was
/// read back from the medium.
fn write(
    boot: &mut Boot,
    memory: &mut Memory,
    env: EnvState,
    source: &mut dyn Source,
    (offer, images, keys): (&Offer, [Blob; 2], Option<&KeySet>),
    now: DateTime<Utc>,
    touched: &mut bool,
) -> Result<()> {
    let booted = boot.booted.slot;
    let target = free_slot(&env, booted)?;
    memory.enter(Phase::Downloading, now)?;
    // Before anything is erased: a server that lacks the image or its signature costs no slot.
    let verifiers = match offer.file_signatures.as_ref().zip(keys) {
        Some((files, keys)) => {
            [Some(StreamVerifier::new(keys, &files.kernel)?), Some(StreamVerifier::new(keys, &files.initramfs)?)]
        }
        None => [None, None],
    };
    let [kernel_verifier, initramfs_verifier] = verifiers;
    let mut kernel = guarded(source.open(&images[0])?, kernel_verifier);
    if env.slot(target) == SlotState::Fail {
        memory.remember_content(boot, target, now)?;
    }
    let void = env.invalidate(booted).map_err(|e| Error::new(Reason::Trial, e.to_string()))?;
    boot.env.store(&void)?;
    *touched = true;
    if env.on_trial() == Some(target) {
        // Cancelled, which is not the same as never started.
        memory.state.trial = None;
        memory.save()?;
    }

    let written = (|| {
        let mut writer = boot.slots.get(target).writer()?;
        let mut progress = Shown::new("fetching", images[0].size.saturating_add(images[1].size));
        writer.part(Part::Kernel, &images[0], &mut *kernel, &mut progress)?;
        drop(kernel);
        let mut initramfs = guarded(source.open(&images[1])?, initramfs_verifier);
        writer.part(Part::Initramfs, &images[1], &mut *initramfs, &mut progress)?;
        drop(progress);
        writer.finish(&SlotManifest::new(offer, images, now))
    })();
    written.map_err(|error| {
        let error = advised(error).advised();
        let remedy = format!("Slot {target} is void, slot {booted} is untouched and boots. {}", error.remedy);
        error.remedy(remedy.trim_end().to_owned())
    })
}

/// The image, whose own signature must hold if that is all there is.
fn guarded(body: Box<dyn Body>, verifier: Option<StreamVerifier>) -> Box<dyn Body> {
    match verifier {
        Some(verifier) => Box::new(Guarded::new(body, verifier)),
        None => body,
    }
}

/// Whether what was found in a slot may be activated as it is.
fn vouched(config: &Config, place: &Slot, content: &SlotManifest, keys: Option<&KeySet>) -> Result<()> {
    let Some(keys) = keys else { return Ok(()) };
    if content.file_signatures.is_some() && !config.legacy_file_signatures {
        let message = format!("what slot {} holds came from a server that signs only the images", place.id);
        return Err(Error::new(Reason::SignatureMissing, message)
            .remedy("Apply a release that is signed as a whole, or set legacy_file_signatures=yes."));
    }
    place.vouched(content, keys).map(drop)
}

/// Makes the staged release the next to boot, on trial.
///
/// Everything that `apply` proved is proven again: days may lie between the two.
///
/// # Errors
/// Each with its exit code; the environment is untouched then.
pub fn activate(
    config: &Config,
    boot: &mut Boot,
    memory: &mut Memory,
    lifted: Lifted,
    now: DateTime<Utc>,
) -> Result<Applied> {
    // A failure that no run has read yet must be known to the gates.
    trial::settle(boot, memory, now)?;
    let booted = boot.booted.slot;
    let env = boot.state()?;
    let target = free_slot(&env, booted)?;
    gate::pass(&[copies_gate(boot, lifted)])?;
    let place = boot.slots.get(target);
    if place.manifest()?.is_none() {
        return Err(Error::new(Reason::NothingStaged, format!("slot {target} holds no complete release"))
            .remedy("Call `kubesolo-update apply` first."));
    }
    let content = place.verify()?;
    let release = content.release()?;
    let standing = Standing::find(config, boot, &memory.trust)?;
    memory.raise(standing.epoch, &standing.revoked)?;
    let keys = standing.required_keys(config)?;
    vouched(config, place, &content, keys)?;
    let running = Running::find(config, boot)?;
    gate::pass(&release_gates(config, boot, memory, &running, &standing, lifted, &release))?;

    let mut applied = Applied::new(Outcome::Activated, (&release.version, content.digest.to_string()), target);
    if env.on_trial() == Some(target) {
        applied.trial = Some(env.trial.to_string());
        return Ok(applied);
    }
    gate::pass(&[node::gate(config, lifted)])?;
    // Not the waves: that was decided when it was fetched, and a share only grows.
    gate::pass(&[preflight::memory_gate(&release, boot, &Machine::find(&System::default()))])?;
    if let Some(safety) = preflight::safety(boot) {
        if safety.watchdog.is_none() && !boot.folders() {
            log::warn!("{}", safety.words());
        }
        safety.required()?;
    }
    let from = running.version.as_ref();
    hooks::ask(config, &Question { step: Step::Activate, from, to: &release.version, digest: content.digest })?;
    let id = TrialId(state::random()?.max(1));
    let next = env.activate(boot.booted, id).map_err(|e| Error::new(Reason::Trial, e.to_string()))?;
    // Before the store: a trial that is not noted could fail without being remembered.
    let proof = standing::proof(config, &release, keys);
    memory.note(Trial { proof, ..trial::note(id, target, &content) }, now)?;
    boot.env.store(&next).or_else(|refusal| memory.not_stored(refusal))?;
    memory.enter(Phase::Activated, now)?;
    applied.trial = Some(id.to_string());
    Ok(applied)
}
