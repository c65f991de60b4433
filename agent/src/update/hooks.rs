//! The moments of an update at which hooks run.

use bootenv::protocol::{SlotState, View};

use crate::base::error::Result;
use crate::base::limits;
use crate::policy::hooks;
use crate::release::release::Release;
use crate::state::hooks::{Facts, Moment, Step};
use crate::state::records::HookRun;
use crate::state::state::Trial;
use crate::update::running::Running;
use crate::update::update::Update;

impl Update<'_> {
    /// Asks the hooks in `pre-update.d`.
    pub(super) fn ask_hooks(&self, step: Step, running: &Running, release: &Release) -> Result<()> {
        let facts = Facts {
            moment: Moment::PreUpdate,
            step: Some(step),
            from: running.version.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: release.version.to_string(),
            digest: release.digest.to_string(),
            trial: String::new(),
            slot: String::new(),
            attempt: self.records.state.attempt.id.clone(),
        };
        hooks::ask(self.config, &facts, &|run| self.keep_run(&facts, run))
    }

    /// Runs the hooks in `pre-reboot.d` before a restart into the trial that waits for it.
    ///
    /// # Errors
    /// 75 when one says "later"; the next run asks it again.
    pub fn before_trial(&self) -> Result<()> {
        let Some(trial) = &self.records.state.trial else { return Ok(()) };
        let facts = Facts::of_trial(trial, Moment::PreReboot, Some(Step::Trial));
        hooks::prepare(self.config, &facts, &|run| self.keep_run(&facts, run))
    }

    /// Runs the hooks in `pre-reboot.d` before a restart into the last good slot, which none can hold up.
    pub fn before_revert(&self, trial: &Trial) {
        let facts = Facts::of_trial(trial, Moment::PreReboot, Some(Step::Revert));
        hooks::announce(self.config, &facts, &|run| self.keep_run(&facts, run));
    }

    /// Remembers the end of the trial that was noted before, until its hooks ran: those in `post-revert.d` belong to another
    /// boot. Nothing fails for the sake of them.
    pub fn expect_hooks(&self, before: Option<&Trial>) {
        let Some(trial) = before.filter(|_| self.records.state.trial.is_none()) else { return };
        let View::Ours(env) = self.boot.env.view() else { return };
        let moment = match env.slot(trial.slot) {
            SlotState::Fail if env.trial == trial.id => Moment::PostRevert,
            SlotState::Good if env.success && env.good == trial.slot => Moment::PostCommit,
            _ => return,
        };
        if hooks::are_there(self.config, moment) {
            self.keep_expected(Some(Facts::of_trial(trial, moment, None)));
        }
    }

    /// Runs the hooks of a trial that ended, in a healthy boot. After a power cut they run again.
    pub fn run_expected_hooks(&self) {
        let Ok(Some(facts)) = self.records.memory().map(|memory| memory.ended) else { return };
        let booted = self.boot.booted.slot.to_string();
        if facts.moment == Moment::PostRevert && facts.slot == booted {
            return;
        }
        hooks::announce(self.config, &facts, &|run| self.keep_run(&facts, run));
        self.keep_expected(None);
    }

    fn keep_expected(&self, ended: Option<Facts>) {
        let kept = self.records.memory().and_then(|mut memory| {
            memory.ended = ended;
            self.records.keep_memory(&memory)
        });
        kept.unwrap_or_else(|error| log::warn!("the hooks of this trial: {error}"));
    }

    fn keep_run(&self, facts: &Facts, run: HookRun) {
        self.records.add_evidence(&facts.attempt, |evidence| {
            evidence.hooks.push(run);
            let surplus = evidence.hooks.len().saturating_sub(limits::RECORD_HOOKS);
            evidence.hooks.drain(..surplus);
        });
    }
}
