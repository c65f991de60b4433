//! `rollback`.

use crate::base::error::Result;
use crate::cli::call::{Call, before_trial, log_lifted, restart};
use crate::cli::output::print;
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::update::trial::{self, RollbackOutcome, WithData};
use crate::update::update::no_slot_touched;

pub(in crate::cli) fn rollback(call: &Call<'_>, lifted: Lifted, reboot: bool, data: WithData) -> Result<u8> {
    log_lifted(lifted);
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Console);
    let mut boot = call.find_to_change(reboot)?;
    let mut update = call.update(&mut boot, &mut records, lifted);
    let before = update.records.state.trial.clone();
    let back = trial::rollback(&mut update, data).map_err(no_slot_touched)?;
    let reverted = before.filter(|_| back.outcome == RollbackOutcome::Reverted);
    update.expect_hooks(reverted.as_ref());
    let restarts = back.reboot && reboot;
    match &reverted {
        Some(trial) if restarts => update.before_revert(trial),
        None if restarts => before_trial(&mut update)?,
        _ => {}
    }
    print(call.cli, &back, || format!("{}\n{}", back.message, show::next(&back.next, restarts)));
    if restarts {
        restart(&mut boot, "rollback")?;
    }
    Ok(0)
}
