//! Commands that only look: `status`, `metrics`, `history`, `doctor`, `verify`.

use serde::Serialize;

use crate::base::error::{Context as _, Error, ErrorReport, Exit, Reason, Result};
use crate::base::replace;
use crate::cli::args::{Cli, Command};
use crate::cli::call::Call;
use crate::cli::output::{print, print_error, print_list};
use crate::cli::show;
use crate::config::Config;
use crate::device::blocks::{self, System};
use crate::device::boot::Boot;
use crate::device::slot::Slots;
use crate::report::doctor::{self, Findings};
use crate::report::metrics;
use crate::report::status::{self, Status, Verified};
use crate::state::records::Record;
use crate::state::store::Store;
use crate::update::running;

/// `status` and `metrics`.
pub(in crate::cli) fn status(call: &Call<'_>) -> Result<u8> {
    let slots = || Slots::locate(call.config, &System::default());
    let mut status = status::find(call.find(), slots, &call.cli.state);
    let boot = call.find().ok();
    status.add_data(call.config, &call.cli.state, boot.as_ref());
    status.add_public_id(call.config, &call.cli.state, boot.as_ref());
    status.add_loader(call.config, &call.cli.state, boot.as_ref());
    if let (None, Ok(line)) = (&status.booted, blocks::command_line(call.cli.places.cmdline.as_deref())) {
        status.name_booted(&line);
    }
    status.name_running(|| running::version_by_file(call.config));
    status.add_window(call.config);
    print_status(call.cli, &status)
}

/// The same with settings that cannot be used: what else is known.
pub(in crate::cli) fn status_without_settings(cli: &Cli, error: Error) -> Result<u8> {
    let unknown = || Err(Error::new(Reason::BadConfig, "the settings are not usable"));
    print_status(cli, &status::find(Err(error), unknown, &cli.state))
}

/// As a report for people, or as a page for monitoring.
fn print_status(cli: &Cli, status: &Status) -> Result<u8> {
    let Command::Metrics { output } = &cli.command else {
        print(cli, status, || show::status(status, cli.terminal(), cli.verbose > 0));
        return Ok(0);
    };
    // The page counts unreadable sources as problems, where monitoring sees them.
    let store = Store::new(&cli.state);
    let series = metrics::series(status, &store.read_each().0, &store.read_memory());
    let page = metrics::page(&series);
    match output {
        None => print_list(cli, &series, || page),
        Some(file) => replace::replace(file, page.as_bytes(), 0o644)
            .context(Reason::Output, format_args!("write {}", file.display()))
            .map_err(|error| error.remedy("Name a file in a writable folder."))?,
    }
    Ok(0)
}

pub(in crate::cli) fn history(cli: &Cli) -> Result<u8> {
    let store = Store::new(&cli.state);
    let history = store.read_history()?;
    print_list(cli, &history.attempts, || show::history(&history, store.is_locked(), cli.terminal()));
    Ok(0)
}

/// The result of `history --last`.
#[derive(Debug, Serialize)]
struct LastDocument {
    /// The last attempt; null before the first one.
    attempt: Option<Record>,
}

pub(in crate::cli) fn last(cli: &Cli) -> Result<u8> {
    let last = LastDocument { attempt: Store::new(&cli.state).read_last()? };
    print(cli, &last, || show::record(last.attempt.as_ref(), cli.terminal(), cli.verbose > 0));
    Ok(0)
}

/// `receipt`.
pub(in crate::cli) fn receipts(cli: &Cli) -> Result<u8> {
    let all: Vec<_> = Store::new(&cli.state).read_receipts()?.into_iter().map(|kept| kept.signed).collect();
    print_list(cli, &all, || show::receipts(&all));
    Ok(0)
}

pub(in crate::cli) fn doctor(cli: &Cli, config: Result<Config>) -> u8 {
    let boot = |config: &Config| Boot::find(config, cli.places.booted, cli.places.cmdline.as_deref());
    let findings = doctor::look(&cli.conf, config, &cli.state, boot);
    print_findings(cli, &findings);
    if findings.any_failed() { Exit::Config.code() } else { 0 }
}

/// `doctor` where the data partition is that of another disk.
pub(in crate::cli) fn foreign_data(cli: &Cli, error: Error) -> u8 {
    print_findings(cli, &doctor::foreign(error));
    Exit::Config.code()
}

fn print_findings(cli: &Cli, findings: &Findings) {
    print_list(cli, &findings.0, || show::findings(findings, cli.terminal()));
}

/// The outcome of `verify`.
#[derive(Debug, Serialize)]
struct VerifyDocument<'a> {
    /// Both slots.
    slots: &'a [Verified],
    /// The failure, if a slot that the bootloader may need is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
}

pub(in crate::cli) fn verify(call: &Call<'_>) -> Result<u8> {
    let slots = status::verify(call.config, &call.find()?, &call.read()?.trust);
    let damaged = slots.iter().find(|slot| slot.needed && !slot.holds).map(|slot| {
        Error::new(Reason::SlotDamaged, format!("slot {} does not hold: {}", slot.slot, slot.message))
            .remedy("If it is not the running slot, `kubesolo-update apply` fills it again.")
    });
    let findings = VerifyDocument { slots: &slots, error: damaged.as_ref().map(Error::report) };
    print(call.cli, &findings, || slots.iter().fold(String::new(), |all, slot| format!("{all}{slot}\n")));
    damaged.as_ref().inspect(|error| print_error(error));
    Ok(damaged.map_or(0, |error| error.exit().code()))
}
