//! `check`.

use crate::base::error::Result;
use crate::cli::call::{Call, log_lifted};
use crate::cli::output::print;
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::update::check::CheckReport;
use crate::update::session::{Depth, Session};

pub(in crate::cli) fn check(call: &Call<'_>, lifted: Lifted) -> Result<u8> {
    log_lifted(lifted);
    let (boot, records) = (call.find()?, call.read()?);
    let session = Session::new(call.config, &boot, &records, lifted, call.now);
    let checked = CheckReport::of(session.evaluate(Depth::EveryGate)?);
    print(call.cli, &checked, || show::checked(&checked));
    Ok(0)
}
