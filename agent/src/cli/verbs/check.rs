//! `check`.

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted};
use crate::cli::output::print;
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::state::state::Outcome;
use crate::update::check::CheckReport;
use crate::update::session::{Depth, Session};

/// Exit code of `check --exit-code` if an update is available.
const AVAILABLE: u8 = 100;

pub(in crate::cli) fn check(call: &Call<'_>, lifted: Lifted, exit_code: bool) -> Result<u8> {
    log_lifted(lifted);
    let (boot, records) = (call.find()?, call.read()?);
    let session = Session::new(call.config, &boot, &records, lifted, call.now);
    let checked = CheckReport::of(session.evaluate(Depth::EveryGate)?);
    print(call.cli, &checked, || show::checked(&checked, call.cli.terminal(), call.cli.verbose > 0));
    Ok(match (checked.verdict, checked.reason) {
        (Outcome::UpdateAvailable, _) if exit_code => AVAILABLE,
        (_, Some(reason)) if exit_code => reason.exit().code(),
        _ => 0,
    })
}
