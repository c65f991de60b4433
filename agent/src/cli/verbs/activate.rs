//! `activate`.

use chrono::Utc;

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted};
use crate::cli::output::print;
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::update::attempt::{Called, recorded};
use crate::update::update::no_slot_touched;

pub(in crate::cli) fn activate(call: &Call<'_>, lifted: Lifted, reboot: bool) -> Result<u8> {
    log_lifted(lifted);
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Console);
    let applied = recorded(&mut records, Called::Activation, &Utc::now, |records| {
        let boot = &mut call.find_to_change(reboot)?;
        call.update(boot, records, lifted).activate().map_err(no_slot_touched)
    })?;
    if reboot {
        call.before_trial(&mut records)?;
    }
    print(call.cli, &applied, || show::applied(&applied, call.started.elapsed(), reboot));
    if reboot {
        call.restart_into_trial()?;
    }
    Ok(0)
}
