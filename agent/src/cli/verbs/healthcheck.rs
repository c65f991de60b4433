//! `healthcheck`.

use bootenv::protocol::View;
use serde::Serialize;

use crate::base::error::{Error, Exit, Reason, Result};
use crate::cli::args::Cli;
use crate::cli::call::Call;
use crate::cli::output::print;
use crate::cli::show;
use crate::device::blocks::{self, CommandLine};
use crate::device::evidence::Traces;
use crate::device::health::{self, Check};
use crate::device::reboot;
use crate::device::seen::Step;
use crate::policy::gate::Lifted;
use crate::policy::kubernetes;
use crate::state::memory::Unjudged;
use crate::state::store::Store;
use crate::update::trial::{self, Verdict};
use crate::update::{data, evidence};

/// Exit code of a `healthcheck` that found the system unhealthy.
const UNHEALTHY: u8 = 1;

/// The outcome of a health run.
#[derive(Debug, Serialize)]
struct HealthDocument<'a> {
    /// True if every required check passed.
    healthy: bool,
    /// The result for the slot.
    outcome: Verdict,
    /// The same in words.
    message: &'a str,
    /// Each check.
    checks: &'a [Check],
}

pub(in crate::cli) fn healthcheck(call: &Call<'_>, no_reboot: bool) -> Result<u8> {
    judge(call, no_reboot).inspect_err(|error| {
        if matches!(error.reason, Reason::Locked | Reason::StateNoSpace) && is_undecided(call) {
            could_not_look(call.cli, error);
        }
        Traces::beside(&call.cli.state).health(&format!("no verdict: {}", error.message));
    })
}

fn judge(call: &Call<'_>, no_reboot: bool) -> Result<u8> {
    let mut records = call.lock()?;
    let mut boot = call.find_by(Step::Health)?;
    records.can_look(boot.booted.trial);
    trial::seen(&boot, &mut records, call.now)?;
    records.traces().health("run");
    let mut checks = health::run(call.config, |room| kubernetes::check(call.config, room, window(call.cli)));
    checks.extend(data::check(&boot, &records.data()));
    evidence::add_checks(&records.traces(), &checks);
    let mut update = call.update(&mut boot, &mut records, Lifted::default());
    let on_trial = update.records.state.trial.clone();
    let judged = trial::judge(&mut update, &checks)?;
    update.expect_hooks(on_trial.as_ref());
    if judged.healthy {
        update.release_fleetlock();
    }
    evidence::add_verdict(&update.records.traces(), &judged);
    let report =
        HealthDocument { healthy: judged.healthy, outcome: judged.verdict, message: &judged.message, checks: &checks };
    // Slots in folders boot nothing.
    let restarts = judged.verdict == Verdict::Reverted && !no_reboot && !update.boot.folders();
    print(call.cli, &report, || show::health(&judged, &checks, restarts));
    if judged.healthy {
        update.renew_loader();
        update.send_events();
        update.report_node();
        update.run_expected_hooks();
    }
    if judged.verdict == Verdict::Reverted && !no_reboot {
        if let Some(trial) = &on_trial {
            update.before_revert(trial);
        }
        if restarts {
            reboot::now("the trial was reverted")?;
        }
    }
    Ok(match (judged.healthy, judged.unknown) {
        (true, _) => 0,
        (false, true) => Exit::CannotWrite.code(),
        (false, false) => UNHEALTHY,
    })
}

/// Time in seconds that this boot has to become healthy.
fn window(cli: &Cli) -> u64 {
    let line = blocks::command_line(cli.places.cmdline.as_deref()).unwrap_or_default();
    CommandLine::parse(&line).health_window
}

/// True until a run of this boot decides about its trial, and where the boot environment cannot be found.
fn is_undecided(call: &Call<'_>) -> bool {
    call.find().map_or(true, |boot| matches!(boot.env.view(), View::Ours(env) if env.commit(boot.booted).is_ok()))
}

/// A health run that cannot look says so, for the last good slot: nothing of this speaks against the release on trial. It
/// needs neither settings nor lock.
pub(in crate::cli) fn could_not_look(cli: &Cli, error: &Error) {
    let Ok(line) = blocks::command_line(cli.places.cmdline.as_deref()) else { return };
    let Ok(trial) = CommandLine::parse(&line).trial else { return };
    if trial.is_none() {
        return;
    }
    Traces::beside(&cli.state).health(&format!("no verdict: {}", error.message));
    if let Err(error) = Store::new(&cli.state).leave_unjudged(&Unjudged::new(trial, &error.message)) {
        log::warn!("{error}");
    }
}
