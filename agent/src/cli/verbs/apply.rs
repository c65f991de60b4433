//! `apply`.

use chrono::Utc;

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted};
use crate::cli::output::print;
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::state::state::Outcome;
use crate::update::apply;
use crate::update::attempt::{Called, recorded};
use crate::update::session::Session;

/// `apply --dry-run`.
pub(in crate::cli) fn dry_run(call: &Call<'_>, lifted: Lifted) -> Result<u8> {
    log_lifted(lifted);
    let (boot, records) = (call.find()?, call.read()?);
    let planned = apply::dry_run(&Session::new(call.config, &boot, &records, lifted, call.now))?;
    print(call.cli, &planned, || show::planned(&planned, call.cli.terminal()));
    Ok(0)
}

pub(in crate::cli) fn apply(call: &Call<'_>, lifted: Lifted, activate: bool, reboot: bool) -> Result<u8> {
    log_lifted(lifted);
    // Kept to the end: nobody changes anything between the activation and the restart.
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Console);
    let applied = recorded(&mut records, Called::Attempt, &Utc::now, |records| {
        let boot = &mut call.find_to_change(reboot)?;
        let mut update = call.update(boot, records, lifted);
        update.retry_loader();
        update.apply(activate)
    })?;
    let due = reboot && applied.outcome == Outcome::Activated;
    if due {
        call.before_trial(&mut records)?;
    }
    print(call.cli, &applied, || show::applied(&applied, call.started.elapsed(), due));
    if due {
        call.restart_into_trial()?;
    }
    Ok(0)
}
