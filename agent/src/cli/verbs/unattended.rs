//! `run`, and `stick`.

use std::path::Path;

use chrono::Utc;
use serde::Serialize;

use crate::base::error::Result;
use crate::cli::call::Call;
use crate::cli::output::print;
use crate::cli::show;
use crate::config::{Auto, RemovableBundles};
use crate::device::seen::Step;
use crate::state::records::AskedBy;
use crate::state::state::Outcome;
use crate::update::attempt::{Called, by_timer, recorded};
use crate::update::records::LockedRecords;
use crate::update::unattended::{self, Done};

/// The document of a run without a source but removable media, which have nothing.
#[derive(Debug, Serialize)]
struct NoStick {
    /// Always `up-to-date`.
    outcome: Outcome,
}

pub(in crate::cli) fn run(call: &Call<'_>) -> Result<u8> {
    let mut records = call.lock()?;
    let done = by_timer(call.config, &mut records, || call.find_by(Step::Run), &Utc::now)?;
    report(call, &mut records, done)
}

/// The same with removable media alone: with the device of an event, or with each one that is plugged in.
pub(in crate::cli) fn stick(call: &Call<'_>, device: Option<&Path>) -> Result<u8> {
    let config = call.config;
    if config.removable_bundles == RemovableBundles::No {
        log::info!("removable media are not looked at: removable_bundles=no");
        return Ok(0);
    }
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Stick);
    let done = recorded(&mut records, Called::Attempt, &Utc::now, |records| {
        unattended::run_sticks(config, &mut call.find_to_change(false)?, records, device, &Utc::now)
    })?;
    report(call, &mut records, done)
}

/// Prints what was done, and reboots where the settings say so.
fn report(call: &Call<'_>, records: &mut LockedRecords, done: Done) -> Result<u8> {
    let config = call.config;
    match done {
        Done::Checked(checked) => {
            print(call.cli, &checked, || show::checked(&checked, call.cli.terminal(), call.cli.verbose > 0));
        }
        Done::Applied(applied) => {
            let due = applied.outcome == Outcome::Activated && config.auto == Auto::Activate && config.auto_reboot;
            if due {
                call.before_trial(records)?;
            }
            // Slots in folders boot nothing.
            let restarts = due && !call.find()?.folders();
            print(call.cli, &applied, || show::applied(&applied, call.started.elapsed(), restarts));
            if restarts {
                call.restart_into_trial()?;
            }
        }
        Done::NoStick => {
            let document = NoStick { outcome: Outcome::UpToDate };
            print(call.cli, &document, || "no removable medium offers another release\n".to_owned());
        }
    }
    Ok(0)
}
