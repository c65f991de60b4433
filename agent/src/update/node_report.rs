//! `node_report=yes`: annotations of the node of this device say which release runs, and where its update stands.

use std::collections::BTreeMap;

use bootenv::protocol::View;

use crate::policy::kubernetes;
use crate::update::running::Running;
use crate::update::update::Update;

/// Annotation: the running version.
const VERSION: &str = "updates.kubesolo.io/version";
/// Annotation: the phase of the last update, as in `status`.
const PHASE: &str = "updates.kubesolo.io/phase";
/// Annotation: the trial that is under way or boots next; absent without one.
const TRIAL: &str = "updates.kubesolo.io/trial";

impl Update<'_> {
    /// Sets the annotations, if the settings ask for it. Nothing depends on them, and the next run sets them again.
    pub fn report_node(&self) {
        if !self.config.node_report {
            return;
        }
        let version = Running::find(self.config, self.boot).ok().and_then(|running| running.version);
        let trial = match self.boot.env.view() {
            View::Ours(env) => env.on_trial().map(|_| env.trial.to_string()),
            View::Foreign(_) | View::Invalid => None,
        };
        let annotations = BTreeMap::from([
            (VERSION, version.map(|version| version.to_string())),
            (PHASE, Some(self.records.state.phase().to_string())),
            (TRIAL, trial),
        ]);
        if let Err(why) = kubernetes::annotate(self.config, &annotations) {
            log::warn!("the annotations of the node are out of date: {why}");
        }
    }
}
