//! `disk`, for the init stage and units.

use serde::Serialize;

use crate::base::error::Result;
use crate::cli::args::Cli;
use crate::cli::output::print;
use crate::device::blocks::System;
use crate::device::disk::Role;

/// The result of `disk`.
#[derive(Debug, Serialize)]
struct DiskDocument {
    /// The booted disk, or one of its partitions.
    device: String,
}

pub(in crate::cli) fn disk(cli: &Cli, role: Option<Role>, check: bool) -> Result<u8> {
    let system = System::default();
    if check {
        system.check_data()?;
        return Ok(0);
    }
    let device = match role {
        Some(role) => system.partition(role)?.display().to_string(),
        None => system.boot_disk()?,
    };
    let found = DiskDocument { device };
    print(cli, &found, || format!("{}\n", found.device));
    Ok(0)
}
