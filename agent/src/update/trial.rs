//! The end of a trial: commit, revert, and what an earlier boot left to settle.

use std::path::Path;

use bootenv::SlotId;
use bootenv::data::{Mark, Name};
use bootenv::protocol::{BootState, FallbackBlock, Foreign, TRIES, View};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::base::digest::Digest;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{files, text};
use crate::device::boot::Boot;
use crate::device::health::Check;
use crate::device::slot::{Slot, SlotManifest};
use crate::policy::trust_policy::{self, TrustPolicy};
use crate::policy::{gate, rules};
use crate::state::identity::Identity;
use crate::state::phase::Phase;
use crate::state::state::{self, Trial};
use crate::update::data;
use crate::update::records::{self, LockedRecords};
use crate::update::session::TrialOf;
use crate::update::update::Update;

/// Differs from boot to boot: failed runs count within one.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Result of a health run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The trial ended well: this slot is good now.
    Committed,
    /// The trial ended: back to the last good slot, a reboot is due.
    Reverted,
    /// The trial goes on.
    Waiting,
    /// A trial that ended without this system was settled.
    Settled,
    /// The environment was damaged, or written by somebody else, and is ours again.
    TakenOver,
    /// Nothing had to be done.
    Nothing,
}

/// The outcome of a health run.
#[derive(Debug)]
pub struct HealthReport {
    /// True if every check passed.
    pub healthy: bool,
    /// No check failed, and one could not be made: this boot is neither healthy nor unhealthy.
    pub unknown: bool,
    /// The result.
    pub verdict: Verdict,
    /// The same in words.
    pub message: String,
}

/// Notes that the boot of a trial reached userspace, before any check runs: whatever happens now counts as a failure of
/// this release.
///
/// # Errors
/// 78 when the bootloader did not count this try in the environment that was found: it is another one, and a verdict stored
/// there would decide nothing. 73 when the state cannot be written.
pub fn seen(boot: &Boot, records: &mut LockedRecords, now: DateTime<Utc>) -> Result<()> {
    let View::Ours(env) = boot.env.view() else { return Ok(()) };
    if env.commit(boot.booted).is_err() {
        return Ok(());
    }
    if env.counter >= TRIES {
        let message = format!(
            "the bootloader started the trial of slot {}, and did not count it in the boot environment {}",
            env.active,
            boot.env.place()
        );
        return Err(Error::new(Reason::EnvLink, message).remedy(
            "Nothing was stored; the bootloader goes back to the last good slot by itself. Check bootenv=, and remove other disks.",
        ));
    }
    let noted = records.state.trial.take().filter(|trial| trial.id == env.trial);
    // Without a note state.json was lost: the slot says which release this is.
    let content = || boot.slots.get(env.active).manifest().ok().flatten();
    let trial = noted.or_else(|| content().map(|content| note(env.trial, env.active, &content)));
    records.state.trial = trial.map(|trial| Trial { started: true, ..trial });
    // The id came back on the command line, and the bootloader's store is what was read here.
    records.state.link_shown = Some(now);
    if records.state.phase() == Phase::Verifying {
        return settled_later(records.save());
    }
    if let Some(trial) = records.state.trial.clone() {
        records.state.follow(&trial);
    }
    settled_later(records.enter(Phase::Verifying, now))
}

/// A full data partition keeps nobody from a verdict, which is a store of the boot environment: that takes no block. A later
/// run concludes from the boot environment what is not written here.
fn settled_later(written: Result<()>) -> Result<()> {
    match written {
        Err(error) if error.reason == Reason::StateNoSpace => {
            log::warn!("a later run writes the records: {error}");
            Ok(())
        }
        written => written,
    }
}

/// A trial of a slot's content, to be noted before it is in the boot environment.
#[must_use]
pub fn note(id: bootenv::TrialId, slot: SlotId, content: &SlotManifest) -> Trial {
    Trial {
        id,
        slot,
        version: content.version.to_string(),
        identity: content.identity(),
        started: false,
        proof: None,
        attempt: None,
    }
}

/// A trial of what a slot holds, read from the medium. A slot that a factory filled may have no manifest: it is named by
/// its two images then, which is also how its failure would be found again.
fn note_content(id: bootenv::TrialId, slot: &Slot) -> Result<Trial> {
    if slot.manifest()?.is_some() {
        return Ok(note(id, slot.id, &slot.verify()?));
    }
    let [kernel, initramfs] = slot.hashes()?.map(|image| image.digest);
    let identity = Identity { release: Digest::of(&[kernel.0, initramfs.0].concat()), kernel, initramfs, extras: None };
    let version = "unknown".into();
    Ok(Trial { id, slot: slot.id, version, identity, started: false, proof: None, attempt: None })
}

/// Judges this boot by its checks.
///
/// # Errors
/// 73 when environment or state cannot be written.
pub fn judge(update: &mut Update<'_>, checks: &[Check]) -> Result<HealthReport> {
    let (healthy, unknown, now) = (verdict_of(checks) == Ok(true), verdict_of(checks).is_err(), update.now);
    let (verdict, message) = if update.boot.legacy {
        legacy(update.boot, healthy)?
    } else {
        match update.boot.env.view() {
            View::Ours(env) if env.commit(update.boot.booted).is_ok() => judge_trial(update, env, checks)?,
            View::Ours(_) => settle_boot(update.boot, update.records, healthy, now)?,
            View::Foreign(foreign) => reclaim(update.boot, foreign, healthy)?,
            View::Invalid => rebuild(update.boot, update.records, healthy, now)?,
        }
    };
    update.tidy_data();
    update.conclude_evidence();
    // Even if healthy, committing it would lock the device out of updates.
    let healthy = healthy && !matches!(verdict, Verdict::Reverted | Verdict::Waiting);
    if healthy && update.records.state.health_failures > 0 {
        update.records.state.health_failures = 0;
        settled_later(update.records.save())?;
    }
    if healthy && !update.boot.legacy && matches!(update.boot.env.view(), View::Ours(_)) {
        // The verdict stands, and `doctor` reports the flaw that stays.
        update.boot.env.repair().unwrap_or_else(|error| log::warn!("{error}"));
    }
    Ok(HealthReport { healthy, unknown, verdict, message })
}

/// The health of this boot; the message of a check that could not be made where no other one failed.
fn verdict_of(checks: &[Check]) -> std::result::Result<bool, &str> {
    if checks.iter().any(Check::condemns) {
        return Ok(false);
    }
    checks.iter().find(|check| check.unknown).map_or(Ok(true), |check| Err(&check.message))
}

fn judge_trial(update: &mut Update<'_>, env: BootState, checks: &[Check]) -> Result<(Verdict, String)> {
    let slot = env.active;
    let bad: Vec<_> = checks.iter().filter(|check| check.condemns()).map(|check| check.name.clone()).collect();
    if !bad.is_empty() {
        return count_failure(update, env, &bad);
    }
    if let Err(cause) = verdict_of(checks) {
        update.records.could_not_look(env.trial, cause);
        return Ok((Verdict::Waiting, format!("slot {slot} is on trial, and this run does not judge it: {cause}")));
    }
    let proof = update.records.state.trial.as_ref().and_then(|trial| trial.proof.as_ref());
    match trust_policy::locked_out(update.config, update.boot, &update.records.trust, slot, proof) {
        Ok(None) => commit(update, env),
        Ok(Some(why)) => {
            let cause = Error::new(Reason::TrialFailed, why);
            revert(update.boot, update.records, env, &cause, update.now)?;
            Ok((Verdict::Reverted, format!("slot {slot} is reverted: {cause}; slot {} boots next", env.good)))
        }
        Err(error) => {
            log::error!("{error}");
            count_failure(update, env, &["keys".into()])
        }
    }
}

fn commit(update: &mut Update<'_>, env: BootState) -> Result<(Verdict, String)> {
    update.boot.env.store(&env.commit(update.boot.booted).map_err(illegal)?)?;
    settled_later(update.records.conclude(update.boot, update.now))?;
    Ok((Verdict::Committed, format!("slot {} is committed", env.active)))
}

/// Counts a failed run of this boot. The last one that the settings allow reverts the trial.
fn count_failure(update: &mut Update<'_>, env: BootState, bad: &[String]) -> Result<(Verdict, String)> {
    let slot = env.active;
    let boot_id = files::read_kernel(Path::new(BOOT_ID)).unwrap_or_default();
    let state = &mut update.records.state;
    if state.health_boot != boot_id.trim() {
        state.health_failures = 0;
        state.health_boot = boot_id.trim().to_owned();
    }
    state.health_failures += 1;
    let (failures, limit) = (state.health_failures, update.config.auto_rollback_after);
    if limit == 0 || failures < limit {
        settled_later(update.records.save())?;
        let rest =
            if limit == 0 { "the deadline ends the trial".into() } else { format!("run {limit} would revert it") };
        return Ok((Verdict::Waiting, format!("slot {slot} is on trial, failed run {failures}; {rest}")));
    }
    // However many checks an image has, the file that remembers this is of bounded size.
    let why = format!("unhealthy: {}", text::escape(&bad.join(", ")));
    revert(update.boot, update.records, env, &Error::new(Reason::Unhealthy, why), update.now)?;
    let message = format!("slot {slot} is reverted after failed run {failures}; slot {} boots next", env.good);
    Ok((Verdict::Reverted, message))
}

/// The store comes first: its mark and the noted trial together say what failed, even if the power goes in between.
fn revert(boot: &mut Boot, records: &mut LockedRecords, env: BootState, why: &Error, now: DateTime<Utc>) -> Result<()> {
    boot.env.store(&env.revert(boot.booted).map_err(illegal)?)?;
    settled_later(match records.state.trial.clone() {
        Some(trial) => records.failed(&trial, why, now),
        None => records.conclude(boot, now),
    })
}

/// Ends a trial that the bootloader gave up, and remembers how the last one ended. For `apply` too.
///
/// # Errors
/// 73 when environment or state cannot be written.
pub fn settle(boot: &mut Boot, records: &mut LockedRecords, now: DateTime<Utc>) -> Result<bool> {
    let settled = settle_environment(boot)?;
    records.conclude(boot, now)?;
    Ok(settled)
}

fn settle_environment(boot: &mut Boot) -> Result<bool> {
    let View::Ours(env) = boot.env.view() else { return Ok(false) };
    let settled = env.settle(boot.booted);
    if let Some(next) = &settled {
        boot.env.store(next)?;
    }
    boot.env.raise_second(&settled.unwrap_or(env))?;
    Ok(settled.is_some())
}

fn settle_boot(
    boot: &mut Boot,
    records: &mut LockedRecords,
    healthy: bool,
    now: DateTime<Utc>,
) -> Result<(Verdict, String)> {
    let settled = settle_environment(boot)?;
    settled_later(records.conclude(boot, now))?;
    if settled {
        return Ok((Verdict::Settled, "the trial of the other slot ended; the slot is marked as failed".into()));
    }
    let View::Ours(env) = boot.env.view() else { return Ok((Verdict::Nothing, String::new())) };
    let booted = boot.booted.slot;
    if let Some(slot) = env.on_trial() {
        return Ok((Verdict::Nothing, format!("slot {slot} will be tried at the next boot")));
    }
    if booted == env.active {
        return Ok((Verdict::Nothing, format!("slot {booted} is committed")));
    }
    // The bootloader passed the active slot over.
    if healthy && boot.slots.get(env.active).hashes().is_err_and(|damage| damage.exit() == Exit::Data) {
        boot.env.store(&env.take_over(booted).map_err(illegal)?)?;
        return Ok((Verdict::TakenOver, format!("slot {} is damaged; slot {booted} is active now", env.active)));
    }
    Ok((Verdict::Nothing, format!("slot {booted} runs in place of the active slot {}", env.active)))
}

fn reclaim(boot: &mut Boot, foreign: Foreign, healthy: bool) -> Result<(Verdict, String)> {
    let booted = boot.booted.slot;
    // The bootloader passes over what is marked as failed, and what does not match its hashes.
    let passed_over = || {
        foreign.fail[foreign.active as usize]
            || boot.slots.get(foreign.active).hashes().is_err_and(|damage| damage.exit() == Exit::Data)
    };
    let next = match foreign.adopt(booted) {
        Err(_) if healthy && passed_over() => foreign.take_over(booted).map_err(illegal)?,
        Ok(next) if healthy => next,
        Ok(_) => {
            return Ok((
                Verdict::Nothing,
                "another program changed the boot environment; unhealthy: not taken over".into(),
            ));
        }
        Err(why) => return Ok((Verdict::Nothing, format!("another program changed the boot environment: {why}"))),
    };
    boot.env.store(&next)?;
    Ok((Verdict::TakenOver, format!("took over the boot environment, slot {} committed", next.active)))
}

fn rebuild(
    boot: &mut Boot,
    records: &mut LockedRecords,
    healthy: bool,
    now: DateTime<Utc>,
) -> Result<(Verdict, String)> {
    let damage = boot.env.damage().unwrap_or_default();
    if !healthy {
        return Ok((Verdict::Nothing, format!("the boot environment is damaged ({damage}); unhealthy: not rebuilt")));
    }
    if !boot.env.can_be_rebuilt() {
        return Ok((Verdict::Nothing, format!("the boot environment is damaged ({damage}); not overwritten")));
    }
    let next = FallbackBlock::rebuild(boot.env.second(), boot.booted.slot);
    boot.env.store(&next)?;
    // The outcome of that trial is lost.
    if let Some(trial) = records.state.trial.as_mut() {
        trial.started = true;
    }
    settled_later(records.conclude(boot, now))?;
    Ok((Verdict::TakenOver, format!("rebuilt the damaged boot environment ({damage}), slot {} committed", next.active)))
}

/// KubeSolo OS's old grub.cfg: every boot counts down and has to be confirmed.
fn legacy(boot: &mut Boot, healthy: bool) -> Result<(Verdict, String)> {
    if !healthy {
        return Ok((Verdict::Nothing, "the old loader file counts this boot as failed".into()));
    }
    boot.env.confirm_legacy()?;
    Ok((Verdict::Nothing, "confirmed this boot for the old loader file".into()))
}

fn illegal(why: bootenv::protocol::Illegal) -> Error {
    Error::new(Reason::Trial, why.to_string())
}

/// The step that `rollback` went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackOutcome {
    /// The trial of the booted slot is over.
    Reverted,
    /// An activation was taken back before its first boot.
    Cancelled,
    /// The release in the other slot boots next, on trial.
    TrialOfPrevious,
}

/// The outcome of `rollback`.
#[derive(Debug, Serialize)]
pub struct RollbackReport {
    /// The result.
    pub outcome: RollbackOutcome,
    /// True if a reboot completes it.
    pub reboot: bool,
    /// The same in words.
    pub message: String,
    /// The next step.
    pub next: String,
}

/// Goes back one step; what is left behind is remembered, so that no unattended run returns to it. That comes before
/// the store: a power cut in between must not lose it.
///
/// # Errors
/// 64 with the plan where data were asked for and not confirmed, 75 when there is nothing to go back to, 77 when its security epoch is too low, 65 when the other slot is damaged, 73 when nothing can be written.
pub fn rollback(update: &mut Update<'_>, data: WithData) -> Result<RollbackReport> {
    let now = update.now;
    settle(update.boot, update.records, now)?;
    update.tidy_data();
    let Update { boot, records, .. } = update;
    let env = boot.state()?;
    let booted = boot.booted.slot;
    if env.revert(boot.booted).is_ok() {
        records.can_look(boot.booted.trial);
        seen(boot, records, now)?;
        let cause = Error::new(Reason::TrialFailed, "reverted by rollback");
        revert(boot, records, env, &cause, now)?;
        records.traces().end(&cause.message);
        let (message, next) = (format!("the trial of slot {booted} is over"), format!("reboot into slot {}", env.good));
        return Ok(RollbackReport { outcome: RollbackOutcome::Reverted, reboot: true, message, next });
    }
    if let Ok(next) = env.cancel(booted) {
        let left = boot.slots.get(env.active).manifest()?;
        leave(records, left, "rollback cancelled its activation", now)?;
        boot.env.store(&next)?;
        if let Some(trial) = records.state.trial.take() {
            records.state.follow(&trial);
        }
        records.enter(Phase::RolledBack, now)?;
        update.tidy_data();
        let message = format!("cancelled the activation of slot {}; slot {booted} boots next", env.active);
        let next = "kubesolo-update check".into();
        return Ok(RollbackReport { outcome: RollbackOutcome::Cancelled, reboot: false, message, next });
    }
    try_previous(update, env, data)
}

/// A trial of the release in the other slot. It starts on the data as they are now, unless a person wants those that were kept.
fn try_previous(update: &mut Update<'_>, env: BootState, data: WithData) -> Result<RollbackReport> {
    let (now, trial) = (update.now, bootenv::TrialId(state::random()?.max(1)));
    let booted = update.boot.booted.slot;
    let next = env.rollback(update.boot.booted, trial).map_err(|why| {
        Error::new(Reason::NothingToRollBack, format!("cannot roll back: {why}"))
            .remedy("See `kubesolo-update status`.")
    })?;
    let same = |slot| update.boot.slots.get(slot).manifest().ok().flatten().map(|content| content.digest);
    if same(booted).is_some_and(|digest| same(booted.other()) == Some(digest)) {
        let message =
            "cannot roll back: both slots hold the same release, since the other one was repaired with a copy";
        return Err(Error::new(Reason::NothingToRollBack, message).remedy("Apply another release."));
    }
    let wanted = wanted(update, data)?;
    let Update { config, boot, records, .. } = update;
    not_below(boot.slots.get(booted.other()), TrustPolicy::remembered(config, boot, &records.trust).epoch)?;
    let previous = note_content(trial, boot.slots.get(booted.other()))?;
    let previous = Trial { proof: Some(trust_policy::known(config)), ..previous };
    let version = previous.version.clone();
    let left = boot.slots.get(booted).manifest()?;
    update.put_off_loader()?;
    update.announce_data(trial)?;
    if let Some(kept) = wanted {
        update.records.data().rename(kept, Mark::For(trial))?;
    }
    update.records.state.turn_back(left.as_ref().map(|left| &left.version), &previous, now);
    update.announce_evidence(&previous);
    let Update { boot, records, .. } = update;
    leave(records, left, "rollback left it", now)?;
    records.note(previous, now)?;
    records.record_rollback(now);
    boot.env.store(&next).or_else(|refusal| records.not_stored(refusal))?;
    records.enter(Phase::Activated, now)?;
    let with = if wanted.is_some() { "with the data that it left" } else { "on the data as they are now" };
    let message = format!("{version} in slot {} boots next, on trial, {with}", booted.other());
    Ok(RollbackReport { outcome: RollbackOutcome::TrialOfPrevious, reboot: true, message, next: "reboot".into() })
}

/// The data that a person wants back.
fn wanted(update: &Update<'_>, wish: WithData) -> Result<Option<Name>> {
    let previous = update.boot.slots.get(update.boot.booted.slot.other()).manifest()?;
    let previous = previous.map(|content| content.release()).transpose()?;
    if wish == WithData::No {
        update.data_ready(TrialOf::Previous(previous.as_ref()))?;
        return Ok(None);
    }
    let data = update.records.data();
    data::settled(&data)?;
    let (name, about) = data::kept_for(update.boot, &data)?;
    if !update.protects_data() {
        let message = "the data of today cannot be saved: the step `kubesolo-update data` did not run in this boot";
        return Err(Error::new(Reason::DataUnsettled, message).remedy("Add the step `data` to the boot, then reboot."));
    }
    if wish == WithData::Asked {
        return Err(data::plan(&about, update.now));
    }
    gate::pass(&[rules::data_unprotected(update.config, previous.as_ref(), update.lifted)])?;
    // Not by `data_ready`: that would drop what is wanted where space is short.
    data::need(update.config, &data, Some(update.boot))?.fits_beside()?;
    Ok(Some(name))
}

/// The data that a rollback to the previous release starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithData {
    /// As they are now.
    No,
    /// Those that were kept; a person has not confirmed it.
    Asked,
    /// Those that were kept.
    Confirmed,
}

/// Nobody goes back behind a hole that was closed here, on purpose or not.
fn not_below(slot: &Slot, floor: u64) -> Result<()> {
    let release = slot.manifest()?.map(|content| content.release()).transpose()?;
    let epoch = release.map_or(0, |release| release.security_epoch);
    if epoch >= floor {
        return Ok(());
    }
    let message =
        format!("cannot roll back: slot {} has security epoch {epoch}, and this device committed {floor}", slot.id);
    Err(Error::new(Reason::SecurityEpoch, message).remedy(
        "Apply a later release instead: no option bypasses this \
        gate.",
    ))
}

fn leave(records: &mut LockedRecords, content: Option<SlotManifest>, why: &str, now: DateTime<Utc>) -> Result<()> {
    content.map_or(Ok(()), |content| records.remember(records::failure(&content, why, now)))
}
