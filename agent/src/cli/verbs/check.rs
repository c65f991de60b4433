//! `check`.

use nix::unistd::geteuid;

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted};
use crate::cli::output::print;
use crate::cli::show;
use crate::device::boot::is_out_of_sight;
use crate::policy::gate::Lifted;
use crate::state::state::Outcome;
use crate::update::check::{CheckReport, without_device};
use crate::update::session::{Depth, Session};

/// Exit code of `check --exit-code` if an update is available.
const AVAILABLE: u8 = 100;

pub(in crate::cli) fn check(call: &Call<'_>, lifted: Lifted, exit_code: bool) -> Result<u8> {
    log_lifted(lifted);
    let checked = match call.find() {
        Ok(boot) => {
            let records = call.read()?;
            let session = Session::new(call.config, &boot, &records, lifted, call.now);
            CheckReport::of(session.evaluate(Depth::EveryGate)?, call.config)
        }
        // A machine without slots, or an account that cannot see them. Root on a device without a source on the command
        // line gets the error: that device is not set up right.
        Err(error) if is_out_of_sight(&error) && (call.cli.names_source() || !geteuid().is_root()) => {
            without_device(call.config, call.now, &error)?
        }
        Err(error) => return Err(error),
    };
    print(call.cli, &checked, || show::checked(&checked, call.cli.terminal(), call.cli.verbose > 0));
    Ok(match (checked.verdict, checked.reason) {
        (Outcome::UpdateAvailable, _) if exit_code => AVAILABLE,
        (_, Some(reason)) if exit_code => reason.exit().code(),
        _ => 0,
    })
}
