//! From the command line to an exit code.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use chrono::Utc;
use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use simple_logger::SimpleLogger;

use crate::base::console::{self, progress};
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::text;
use crate::cli::args::{Cli, Command, IntakeCommand, TrustCommand};
use crate::cli::call::{Call, lock};
use crate::cli::explain;
use crate::cli::output::{print_error, print_json_error, print_list};
use crate::cli::verbs::{
    activate, adopt, apply, check, data, disk, evidence, healthcheck, intake, reports, rollback, settings, trust,
    unattended,
};
use crate::config::Config;
use crate::device::blocks::System;
use crate::device::env;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::state::state::STATE_FILE;
use crate::update::adopt::Options;
use crate::update::attempt::{self, Called};
use crate::update::trial::WithData;
use crate::update::update::no_slot_touched;

/// Runs `kubesolo-update` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = suggesting_apply(error);
            console::note_output(error.print());
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                print_json_error(&wrong_command_line(&error), false);
            }
            return match (error.use_stderr(), console::all_printed()) {
                (true, _) => ExitCode::from(Exit::Usage.code()),
                (false, Err(lost)) => failed(&lost),
                (false, Ok(())) => ExitCode::SUCCESS,
            };
        }
    };
    console::log_to_stderr(levels(&cli));
    progress::choose(cli.progress);
    match (run(&cli), console::all_printed()) {
        (Ok(0), Err(lost)) if only_reports(&cli.command) => failed(&lost),
        (Ok(code), lost) => {
            // The work is done, and its exit code may decide on a reboot.
            lost.unwrap_or_else(|lost| log::error!("{lost}"));
            ExitCode::from(code)
        }
        (Err(error), _) => {
            let error = error.advised();
            if cli.json {
                print_json_error(&error, matches!(cli.command, Command::Check { .. }));
            }
            failed(&error)
        }
    }
}

fn failed(error: &Error) -> ExitCode {
    print_error(error);
    ExitCode::from(error.exit().code())
}

/// True if the command changes nothing: without its report it has done nothing.
fn only_reports(command: &Command) -> bool {
    match command {
        Command::Apply { dry_run, .. } => *dry_run,
        Command::Run { .. }
        | Command::Stick { .. }
        | Command::Activate { .. }
        | Command::Healthcheck { .. }
        | Command::Rollback { .. }
        | Command::Data { .. }
        | Command::Evidence { .. }
        | Command::EnvLock
        | Command::Adopt { .. }
        | Command::Trust(_) => false,
        Command::Intake(command) => !matches!(command, IntakeCommand::Drop { .. }),
        _ => true,
    }
}

/// The verbs of other update programs lead to ours.
fn suggesting_apply(mut error: clap::Error) -> clap::Error {
    let verb = error.get(ContextKind::InvalidSubcommand);
    if let Some(ContextValue::String(verb)) = verb
        && matches!(verb.as_str(), "update" | "upgrade" | "install")
    {
        let apply = StyledStr::from("did you mean 'kubesolo-update apply'?");
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![apply]));
    }
    error
}

/// The first paragraph of clap's message: the fault, without the advice on usage.
fn wrong_command_line(error: &clap::Error) -> Error {
    let told = error.render().to_string();
    let first = told.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
    let message = first.strip_prefix("error: ").unwrap_or(&first);
    Error::new(Reason::Usage, text::escape(message)).remedy("For more information, try '--help'.")
}

fn levels(cli: &Cli) -> SimpleLogger {
    use log::LevelFilter::{Debug, Error, Info, Warn};
    let ours = match (cli.quiet, cli.verbose) {
        (true, _) => Error,
        (_, 0) => Warn,
        (_, 1) => Info,
        _ => Debug,
    };
    let others = if cli.verbose > 2 { Debug } else { Warn.min(ours) };
    let logger = SimpleLogger::new().with_level(others);
    logger.with_module_level("kubesolo_update", ours).with_module_level("bootenv", ours)
}

/// The commands that need no settings, and those that report what is wrong with them.
fn run(cli: &Cli) -> Result<u8> {
    if let Command::Disk { role, check } = &cli.command {
        return disk::disk(cli, *role, *check);
    }
    match (data_is_ours(cli), &cli.command) {
        (Ok(()), _) => {}
        (Err(error), Command::Doctor) => return Ok(reports::foreign_data(cli, error)),
        (Err(error), _) => return Err(error),
    }
    match &cli.command {
        Command::Config(command) => return settings::settings(cli, command),
        Command::Explain { word } => {
            print_list(cli, &explain::explained(word.as_deref()), || explain::text(word.as_deref()));
            return Ok(0);
        }
        Command::Trust(TrustCommand::ResetTime) => return trust::reset_time(cli),
        Command::Receipt => return reports::receipts(cli),
        Command::History { last } => return if *last { reports::last(cli) } else { reports::history(cli) },
        // The settings may be why this trial fails.
        Command::Evidence { action } => return evidence::evidence(cli, action.as_ref()),
        Command::Intake(command) if !matches!(command, IntakeCommand::Add { .. }) => {
            return intake::records(cli, command);
        }
        _ => {}
    }
    let config = match (Config::load(&cli.conf, &cli.overrides()), &cli.command) {
        (config, Command::Doctor) => return Ok(reports::doctor(cli, config)),
        (Err(error), Command::Status | Command::Metrics { .. }) => return reports::status_without_settings(cli, error),
        (Err(error), Command::Data { action: None }) => return data::without_settings(cli, error),
        (config, _) => config.map_err(|error| unusable(cli, error))?,
    };
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    run_with(&Call { cli, config: &config, now: Utc::now(), started: Instant::now() })
}

fn run_with(call: &Call<'_>) -> Result<u8> {
    match &call.cli.command {
        Command::Status | Command::Metrics { .. } => reports::status(call),
        Command::Verify => reports::verify(call),
        Command::Check { lifted, exit_code, .. } => check::check(call, *lifted, *exit_code),
        Command::Apply { lifted, dry_run: true, .. } => apply::dry_run(call, *lifted),
        Command::Apply { lifted, activate, reboot, .. } => apply::apply(call, *lifted, *activate, *reboot),
        Command::Run { .. } => unattended::run(call),
        Command::Stick { device } => unattended::stick(call, device.as_deref()),
        Command::Intake(_) => intake::add(call),
        Command::Activate { lifted, reboot } => activate::activate(call, *lifted, *reboot),
        Command::Healthcheck { no_reboot, .. } => healthcheck::healthcheck(call, *no_reboot),
        Command::Rollback { reboot, with_data, yes, allow_unprotected_data } => {
            let lifted = Lifted { allow_unprotected_data: *allow_unprotected_data, ..Lifted::default() };
            rollback::rollback(call, lifted, *reboot, with_data_of(*with_data, *yes))
        }
        Command::Data { action } => data::data(call, action.as_ref()),
        Command::EnvLock => env::make_locks(call.config).map(|()| 0),
        Command::Adopt { kernel_args, loader_file, any_grub_cfg, reboot } => {
            let options = Options {
                kernel_args: kernel_args.clone(),
                loader_file: loader_file.clone(),
                any_grub_cfg: *any_grub_cfg,
                cmdline: call.cli.places.cmdline.clone(),
            };
            adopt::adopt(call, &options, *reboot)
        }
        // Above: they need no settings, or the settings may be what is wrong.
        Command::Doctor
        | Command::History { .. }
        | Command::Receipt
        | Command::Config(_)
        | Command::Trust(_)
        | Command::Explain { .. }
        | Command::Evidence { .. }
        | Command::Disk { .. } => Ok(0),
    }
}

fn with_data_of(with_data: bool, yes: bool) -> WithData {
    match (with_data, yes) {
        (false, _) => WithData::No,
        (true, false) => WithData::Asked,
        (true, true) => WithData::Confirmed,
    }
}

/// Before anything below the folder for data is read: it must be on the disk that was booted. A state that is named on the
/// command line is a person's choice, and an account that is not root reads nothing that decides anything.
fn data_is_ours(cli: &Cli) -> Result<()> {
    if cli.state != Path::new(STATE_FILE) || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    System::default().check_data()
}

/// Settings that cannot be used keep a device from updates. Monitoring must hear of that, so it is recorded as a run.
fn unusable(cli: &Cli, error: Error) -> Error {
    let (called, asked_by) = match &cli.command {
        Command::Run { .. } => (Called::Attempt, AskedBy::Timer),
        Command::Stick { .. } => (Called::Attempt, AskedBy::Stick),
        Command::Apply { dry_run: false, .. } => (Called::Attempt, AskedBy::Console),
        Command::Activate { .. } => (Called::Activation, AskedBy::Console),
        Command::Healthcheck { .. } => {
            healthcheck::could_not_look(cli, &error);
            return no_slot_touched(error);
        }
        Command::Rollback { .. } | Command::Adopt { .. } => return no_slot_touched(error),
        _ => return error,
    };
    let error = no_slot_touched(error);
    if let Ok(mut records) = lock(cli) {
        records.asked_by(asked_by);
        attempt::failed_early(&mut records, called, &error);
    }
    error
}
