//! `healthcheck`.

use serde_json::json;

use crate::base::error::Result;
use crate::cli::call::Call;
use crate::cli::output::print;
use crate::cli::show;
use crate::device::{health, reboot};
use crate::policy::gate::Lifted;
use crate::update::trial::{self, Verdict};
use crate::update::update::no_slot_touched;

/// Exit code of a `healthcheck` that found the system unhealthy.
const UNHEALTHY: u8 = 1;

pub(in crate::cli) fn healthcheck(call: &Call<'_>, no_reboot: bool) -> Result<u8> {
    let mut records = call.lock()?;
    let mut boot = call.find().map_err(no_slot_touched)?;
    trial::seen(&boot, &mut records, call.now)?;
    let checks = health::run(call.config);
    let mut update = call.update(&mut boot, &mut records, Lifted::default());
    let judged = trial::judge(&mut update, &checks)?;
    let report =
        json!({"healthy": judged.healthy, "outcome": judged.verdict, "message": judged.message, "checks": checks});
    print(call.cli, &report, || show::health(&judged, &checks));
    if judged.verdict == Verdict::Reverted && !no_reboot && !boot.folders() {
        reboot::now("the trial was reverted")?;
    }
    Ok(if judged.healthy { 0 } else { UNHEALTHY })
}
