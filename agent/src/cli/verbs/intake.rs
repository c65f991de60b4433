//! `intake`: examines bundles, and shows the records.

use serde::Serialize;

use crate::base::error::Result;
use crate::cli::args::{Cli, IntakeCommand};
use crate::cli::call::{Call, lock};
use crate::cli::output::{print, print_list};
use crate::cli::show;
use crate::policy::gate::Lifted;
use crate::state::store::{Store, intake_missing};

/// The document of `intake drop`.
#[derive(Debug, Serialize)]
struct DropDocument<'a> {
    /// Id of the record that was deleted.
    dropped: &'a str,
}

/// `intake add`: exits with the code of the first finding that rejects the bundle.
pub(in crate::cli) fn add(call: &Call<'_>) -> Result<u8> {
    let mut records = call.lock()?;
    let boot = &mut call.find()?;
    let Some(taken) = call.update(boot, &mut records, Lifted::default()).take_in()? else { return Ok(0) };
    print(call.cli, &taken, || show::intake(&taken, call.cli.terminal()));
    Ok(taken.findings.iter().find(|finding| finding.rejects()).map_or(0, |finding| finding.exit_code))
}

/// The commands that need no settings.
pub(in crate::cli) fn records(cli: &Cli, command: &IntakeCommand) -> Result<u8> {
    let store = Store::new(&cli.state);
    match command {
        // It needs the settings.
        IntakeCommand::Add { .. } => {}
        IntakeCommand::List => {
            let all = store.read_intakes()?;
            print_list(cli, &all, || show::intakes(&all));
        }
        IntakeCommand::Show { id } => {
            let found =
                store.read_intakes()?.into_iter().find(|one| one.id == *id).ok_or_else(|| intake_missing(id))?;
            print(cli, &found, || show::intake(&found, cli.terminal()));
        }
        IntakeCommand::Drop { id } => {
            lock(cli)?.drop_intake(id)?;
            print(cli, &DropDocument { dropped: id }, || format!("dropped {id}\n"));
        }
    }
    Ok(0)
}
