//! `disk`, for the init stage and units.

use serde_json::json;

use crate::base::error::Result;
use crate::cli::args::Cli;
use crate::cli::output::print;
use crate::device::blocks::System;
use crate::device::disk::Role;

pub(in crate::cli) fn disk(cli: &Cli, role: Option<Role>, check: bool) -> Result<u8> {
    let system = System::default();
    if check {
        system.check_data()?;
        return Ok(0);
    }
    let found = match role {
        Some(role) => system.partition(role)?.display().to_string(),
        None => system.boot_disk()?,
    };
    print(cli, &json!({"device": found}), || format!("{found}\n"));
    Ok(0)
}
