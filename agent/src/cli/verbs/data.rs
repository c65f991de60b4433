//! `data`: the step of each boot before any service, and a person's view of the checkpoints.

use bootenv::TrialId;
use serde::Serialize;

use crate::base::error::{Error, ErrorReport, Reason, Result};
use crate::cli::args::{Cli, DataCommand};
use crate::cli::call::Call;
use crate::cli::output::{print, print_error};
use crate::device::blocks::{self, CommandLine};
use crate::device::data::{About, Data};
use crate::device::env;
use crate::state::store::Store;
use crate::update::data::{self, Need, StepReport};
use crate::update::evidence;

/// The result of `data status`.
#[derive(Debug, Serialize)]
struct StatusDocument {
    /// The checkpoints that this version can read, the newest last.
    checkpoints: Vec<Checkpoint>,
    /// Names of those that it cannot read.
    unknown: Vec<String>,
}

/// A checkpoint of the data.
#[derive(Debug, Serialize)]
struct Checkpoint {
    /// Its folder.
    name: String,
    /// Its description; null if it has none.
    about: Option<About>,
}

/// The result of `data check`.
#[derive(Debug, Serialize)]
struct CheckDocument {
    /// The folders of `state_paths=`, relative to the data partition.
    paths: Vec<String>,
    /// Space and time that a checkpoint would need.
    need: Need,
    /// True if the next trial would be started with a checkpoint.
    protected: bool,
    /// The cause if it would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unprotected: Option<String>,
    /// The failure, if a checkpoint is not possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
}

/// The result of `data drop`.
#[derive(Debug, Serialize)]
struct DropDocument {
    /// Names of the checkpoints that were deleted.
    dropped: Vec<String>,
}

pub(in crate::cli) fn data(call: &Call<'_>, action: Option<&DataCommand>) -> Result<u8> {
    let data = Data::beside(&call.cli.state);
    match action {
        None => step(call, &data).map_err(data::no_verdict),
        Some(DataCommand::Status) => status(call, &data),
        Some(DataCommand::Check) => check(call, &data),
        Some(DataCommand::Drop { accept_newer }) => drop(call, &data, *accept_newer),
    }
}

fn step(call: &Call<'_>, data: &Data) -> Result<u8> {
    let report = match data::done(&call.cli.state) {
        Some(report) => report,
        None => {
            let report = if trial(call).map_or(Ok(false), |trial| data::is_ordinary(call.config, data, trial))? {
                StepReport::ordinary()
            } else {
                let _lock = Store::new(&call.cli.state).lock()?;
                data::step(call.config, &mut call.find()?, data)?
            };
            data::record(&call.cli.state, &report);
            // Where a follower is at work already.
            evidence::add_step(&call.cli.state, &report);
            report
        }
    };
    print(call.cli, &report, || format!("data: {}\n", report.message));
    Ok(0)
}

/// Settings that cannot be used are no reason to hold a boot that nobody announced a checkpoint for.
pub(in crate::cli) fn without_settings(cli: &Cli, error: Error) -> Result<u8> {
    let found = Data::beside(&cli.state).find()?;
    if !found.names.is_empty() || !found.unknown.is_empty() {
        return Err(error);
    }
    log::warn!("no checkpoint of the data: {error}");
    let report = StepReport::ordinary();
    print(cli, &report, || format!("data: {}\n", report.message));
    Ok(0)
}

/// The trial of this boot; `None` where only the boot environment knows it.
fn trial(call: &Call<'_>) -> Option<TrialId> {
    if env::names_boot(call.config) {
        return None;
    }
    if call.cli.places.booted.is_some() {
        return Some(TrialId::NONE);
    }
    let line = blocks::command_line(call.cli.places.cmdline.as_deref()).ok()?;
    Some(CommandLine::parse(&line).trial.unwrap_or(TrialId::NONE))
}

fn status(call: &Call<'_>, data: &Data) -> Result<u8> {
    let found = data.find()?;
    let mut all = vec![];
    let mut text = String::new();
    for name in &found.names {
        let about = data.about(*name)?;
        let made = about.as_ref().map(|about| about.at.format("%Y-%m-%d %H:%M").to_string()).unwrap_or_default();
        let base = about.as_ref().and_then(|about| about.base.as_ref()).map(|base| base.version.clone());
        text += &format!("{name}: data of {} from {made}\n", base.as_deref().unwrap_or("an unknown release"));
        all.push(Checkpoint { name: name.to_string(), about });
    }
    for name in &found.unknown {
        text += &format!("{name}: of a later version\n");
    }
    if text.is_empty() {
        text = "no checkpoints\n".into();
    }
    print(call.cli, &StatusDocument { checkpoints: all, unknown: found.unknown }, || text);
    Ok(0)
}

fn check(call: &Call<'_>, data: &Data) -> Result<u8> {
    let paths = data::paths(call.config, data);
    let need = data::need(call.config, data, call.find().ok().as_ref())?;
    let failure = need.fits().err();
    let unprotected = data::unprotected(&call.cli.state, call.config, data);
    let protected = unprotected.is_none();
    let report = CheckDocument { paths, need, protected, unprotected, error: failure.as_ref().map(Error::report) };
    print(call.cli, &report, || {
        if report.paths.is_empty() {
            return "state_paths= names no folder\n".into();
        }
        let unprotected = report.unprotected.iter().map(|why| format!("unprotected: {why}\n"));
        let unprotected = unprotected.collect::<String>();
        format!("a checkpoint of {} needs {}\n{unprotected}", report.paths.join(", "), report.need.words())
    });
    failure.as_ref().inspect(|error| print_error(error));
    Ok(failure.map_or(0, |error| error.exit().code()))
}

fn drop(call: &Call<'_>, data: &Data, newer: bool) -> Result<u8> {
    let _lock = call.lock()?;
    if newer && call.find()?.booted.trial != TrialId::NONE {
        let message = "data of a trial are only dropped in the last good system";
        return Err(Error::new(Reason::DataUnsettled, message).remedy("Run `kubesolo-update rollback --reboot` first."));
    }
    if newer {
        log::warn!("data drop --accept-newer: the device continues with the data that are there");
    }
    let dropped = data::drop(data, newer)?;
    let report = DropDocument { dropped };
    print(call.cli, &report, || match report.dropped.as_slice() {
        [] => "nothing to drop\n".into(),
        names => format!("dropped {}\n", names.join(", ")),
    });
    Ok(0)
}
