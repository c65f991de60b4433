//! `rollback`.

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted, restart};
use crate::cli::output::print;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::update::trial::{self, WithData};
use crate::update::update::no_slot_touched;

pub(in crate::cli) fn rollback(call: &Call<'_>, lifted: Lifted, reboot: bool, data: WithData) -> Result<u8> {
    log_lifted(lifted);
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Console);
    let mut boot = call.find_to_change(reboot)?;
    let mut update = call.update(&mut boot, &mut records, lifted);
    let back = trial::rollback(&mut update, data).map_err(no_slot_touched)?;
    print(call.cli, &back, || format!("{}\n", back.message));
    if back.reboot && reboot {
        restart(&mut boot, "rollback")?;
    }
    Ok(0)
}
