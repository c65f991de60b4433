//! `activate`: makes the staged release the next to boot, on trial.

use bootenv::TrialId;

use crate::base::error::{Error, Reason, Result};
use crate::device::blocks::System;
use crate::device::slot::SlotManifest;
use crate::policy::trust_policy::{self, TrustPolicy};
use crate::policy::{gate, kubesolo, node, preflight};
use crate::release::release::Release;
use crate::state::hooks::Step;
use crate::state::phase::Phase;
use crate::state::state::{self, Outcome, Trial};
use crate::update::running::Running;
use crate::update::session::{Target, TrialOf};
use crate::update::trial;
use crate::update::update::{ApplyReport, Update};

/// A complete release in the free slot.
struct Staged {
    target: Target,
    content: SlotManifest,
    release: Release,
}

impl Update<'_> {
    /// Makes the staged release the next to boot, on trial.
    ///
    /// Everything that `apply` proved is proven again: days may lie between the two.
    ///
    /// # Errors
    /// Each with its exit code; the environment is untouched then.
    pub fn activate(&mut self) -> Result<ApplyReport> {
        // A failure that no run has read yet must be known to the gates.
        trial::settle(self.boot, self.records, self.now)?;
        self.tidy_data();
        self.conclude_evidence();
        let staged = self.staged()?;
        let policy = TrustPolicy::find(self.config, self.boot, &self.records.trust)?;
        self.records.raise(policy.epoch, &policy.revoked)?;
        let running = self.prove(&staged, &policy)?;
        let Staged { target, release, .. } = &staged;
        if target.env.on_trial() == Some(target.slot) {
            let report = ApplyReport::new(Outcome::Activated, release, target.slot);
            return Ok(ApplyReport { trial: Some(target.env.trial.to_string()), ..report });
        }
        gate::pass(&[node::gate(self.config, self.lifted)])?;
        gate::pass(&[kubesolo::gate(self.config, self.lifted)])?;
        // Not the waves: that was decided when it was fetched, and a share only grows.
        gate::pass(&[self.session().fits_memory(release)])?;
        self.data_ready(TrialOf::Next(release))?;
        self.ends_by_itself()?;
        preflight::loader_hashes(self.boot, &System::default())?;
        self.ask_hooks(Step::Activate, &running, release)?;
        self.take_fleetlock()?;
        let begun = self.begin_trial(&staged, &policy);
        if begun.is_err() {
            self.release_fleetlock();
        }
        begun
    }

    fn staged(&self) -> Result<Staged> {
        let session = self.session();
        let target = session.target()?;
        gate::pass(&[session.copies()])?;
        let place = self.boot.slots.get(target.slot);
        if place.manifest()?.is_none() {
            let message = format!("slot {} has no complete release", target.slot);
            return Err(Error::new(Reason::NothingStaged, message).remedy("Run `kubesolo-update apply` first."));
        }
        let content = place.verify()?;
        if content.lacks_extras() {
            let message = format!(
                "slot {} lacks the kernel arguments or the device tree of its release: an older agent filled it",
                target.slot
            );
            return Err(Error::new(Reason::NothingStaged, message).remedy("Run `kubesolo-update apply` again."));
        }
        let release = content.release()?;
        Ok(Staged { target, content, release })
    }

    fn prove(&self, staged: &Staged, policy: &TrustPolicy) -> Result<Running> {
        let keys = policy.required_keys(self.config)?;
        let session = self.session();
        session.vouched(self.boot.slots.get(staged.target.slot), &staged.content, keys)?;
        let running = Running::find(self.config, self.boot)?;
        gate::pass(&session.release_gates(&running, policy, &staged.release))?;
        Ok(running)
    }

    /// A trial that panics must not last for ever, and one that hangs should not.
    fn ends_by_itself(&self) -> Result<()> {
        let Some(safety) = preflight::safety(self.boot) else { return Ok(()) };
        if safety.watchdog.is_none() && !self.boot.folders() {
            log::warn!("{}", safety.words());
        }
        safety.required()
    }

    fn begin_trial(&mut self, staged: &Staged, policy: &TrustPolicy) -> Result<ApplyReport> {
        let Staged { target, content, release } = staged;
        let id = TrialId(state::random()?.max(1));
        let next = target.env.activate(self.boot.booted, id);
        let next = next.map_err(|e| Error::new(Reason::Trial, e.to_string()))?;
        // Before the store: a trial that is not noted could fail without being remembered.
        let proof = trust_policy::proof(self.config, release, policy.keys.as_ref());
        self.put_off_loader()?;
        self.announce_data(id)?;
        let trial = Trial { proof, ..trial::note(id, target.slot, content) };
        self.announce_evidence(&trial);
        self.records.note(trial, self.now)?;
        self.boot.env.store(&next).or_else(|refusal| self.records.not_stored(refusal))?;
        self.records.enter(Phase::Activated, self.now)?;
        let report = ApplyReport::new(Outcome::Activated, release, target.slot);
        Ok(ApplyReport { trial: Some(id.to_string()), ..report })
    }
}
