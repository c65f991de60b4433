//! From the command line to an exit code: opens what a command needs, runs it, prints what it found.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use serde::Serialize;
use serde_json::json;
use simple_logger::SimpleLogger;

use crate::base::console::{self, say};
use crate::base::error::{Context as _, Error, Exit, Reason, Result};
use crate::base::{replace, text};
use crate::cli::args::{Cli, Command, ConfigCommand, TrustCommand};
use crate::cli::{explain, show};
use crate::config::report as settings_report;
use crate::config::{Auto, Conf, Config};
use crate::device::boot::{Boot, Known};
use crate::device::disk::Role;
use crate::device::env;
use crate::device::slot::Slots;
use crate::device::{blocks, health, reboot};
use crate::report::{doctor, metrics, status};
use crate::schedule::clock::Clock;
use crate::state::state::{Outcome, STATE_FILE};
use crate::state::store::Store;
use crate::state::trust::Trust;
use crate::update::apply;
use crate::update::attempt::{self, Called, recorded};
use crate::update::check::CheckReport;
use crate::update::records::{LockedRecords, Records};
use crate::update::session::{Depth, Session};
use crate::update::trial::{self, Verdict};
use crate::update::unattended::{self, Done};
use crate::update::update::{Update, no_slot_touched};
use crate::update::{adopt, running};

/// Exit code of a `healthcheck` that found the system unhealthy.
const UNHEALTHY: u8 = 1;

/// Runs `kubesolo-update` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = suggesting_apply(error);
            let _ = error.print();
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                say_error(&wrong_command_line(&error), false);
            }
            return ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { 0 });
        }
    };
    console::log_to_stderr(levels(&cli));
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let error = error.advised();
            if cli.json {
                say_error(&error, matches!(cli.command, Command::Check { .. }));
            }
            tell(&error);
            ExitCode::from(error.exit().code())
        }
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

/// What was `asked` has a verdict in any case: whoever only reads that shall not take none for good news.
fn say_error(error: &Error, asked: bool) {
    let mut told = json!({"error": as_json(error)});
    if asked {
        let held = error.exit() == Exit::NotAllowed;
        told["verdict"] = json!(if held { Outcome::Held } else { Outcome::Unknown });
        told["reason"] = json!(error.reason);
    }
    say(&format!("{}\n", text::ascii(&told.to_string())));
}

/// The first paragraph of what people are told: what is wrong, without the advice on usage.
fn wrong_command_line(error: &clap::Error) -> Error {
    let told = error.render().to_string();
    let first = told.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let message = first.strip_prefix("error: ").unwrap_or(&first);
    Error::new(Reason::Usage, text::shown(message)).remedy("For more information, try '--help'.")
}

/// A failure, for scripts.
fn as_json(error: &Error) -> serde_json::Value {
    json!({"exit_code": error.exit().code(), "reason": error.reason, "message": error.message, "remedy": error.remedy})
}

/// A failure, for people.
fn tell(error: &Error) {
    let mut words = format!("kubesolo-update: {}\n", text::printable(&error.message));
    if !error.remedy.is_empty() {
        let _ = writeln!(words, "  {}", text::printable(&error.remedy));
    }
    words.push_str(&explain::hint("kubesolo-update", error.reason));
    console::tell(&words);
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

fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Disk { role, check } => return disk(cli, *role, *check),
        Command::Explain { word } => {
            print(cli, &explain::explained(word.as_deref()), || explain::text(word.as_deref()));
            return Ok(0);
        }
        _ => {}
    }
    match (data_is_ours(cli), &cli.command) {
        (Ok(()), _) => {}
        (Err(error), Command::Doctor) => {
            print_findings(cli, &doctor::foreign(error));
            return Ok(Exit::Config.code());
        }
        (Err(error), _) => return Err(error),
    }
    match &cli.command {
        Command::Config(command) => return settings(cli, command),
        Command::Trust(TrustCommand::ResetTime) => return reset_time(cli),
        _ => {}
    }
    let config = match Config::load(&cli.conf, &cli.overrides()) {
        config if matches!(cli.command, Command::Doctor) => return Ok(doctor(cli, config)),
        _ if matches!(cli.command, Command::History) => return tell_history(cli),
        Err(error) if matches!(cli.command, Command::Status | Command::Metrics { .. }) => {
            let unknown = || Err(Error::new(Reason::BadConfig, "the settings cannot be used"));
            return tell_status(cli, &status::find(Err(error), unknown, &cli.state));
        }
        config => config.map_err(|error| unusable(cli, error))?,
    };
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let find = || Boot::find(&config, cli.places.booted, cli.places.cmdline.as_deref());
    let find_to_change = |reboot: bool| {
        let boot = find().map_err(no_slot_touched)?;
        if reboot && boot.folders() {
            let message = "--reboot is for a device: slots in folders boot nothing here";
            return Err(Error::new(Reason::RebootWithFolders, message).remedy("Leave it out."));
        }
        note_assumed(&boot);
        Ok(boot)
    };
    let now = Utc::now();
    match &cli.command {
        Command::Status | Command::Metrics { .. } => {
            let mut status = status::find(find(), || Slots::locate(&config, &blocks::System::default()), &cli.state);
            status.name_running(|| running::version_by_file(&config));
            return tell_status(cli, &status);
        }
        // Above: the settings may be what is wrong.
        Command::Doctor
        | Command::History
        | Command::Config(_)
        | Command::Trust(_)
        | Command::Explain { .. }
        | Command::Disk { .. } => {}
        Command::EnvLock => {
            env::make_locks(&config)?;
        }
        Command::Verify => return verify(cli, &config, &find()?, &Records::read(&cli.state)?.trust),
        Command::Check { lifted, .. } => {
            log_lifted(*lifted);
            let (boot, records) = (find()?, Records::read(&cli.state)?);
            let session = Session::new(&config, &boot, &records, *lifted, now);
            let checked = CheckReport::of(session.evaluate(Depth::EveryGate)?);
            print(cli, &checked, || show::checked(&checked));
        }
        Command::Apply { lifted, dry_run, activate, reboot, .. } => {
            log_lifted(*lifted);
            let lifted = *lifted;
            if *dry_run {
                let (boot, records) = (find()?, Records::read(&cli.state)?);
                let planned = apply::dry_run(&Session::new(&config, &boot, &records, lifted, now))?;
                print(cli, &planned, || show::applied(&planned));
                return Ok(0);
            }
            // Kept to the end: nobody changes anything between the activation and the restart.
            let mut records = lock(cli)?;
            let applied = recorded(&mut records, Called::Attempt, |records| {
                let boot = &mut find_to_change(*reboot)?;
                Update { config: &config, boot, records, lifted, now }.apply(*activate)
            })?;
            print(cli, &applied, || show::applied(&applied));
            if *reboot && applied.outcome == Outcome::Activated {
                restart(&mut find()?, "the new release is booted on trial")?;
            }
        }
        Command::Run { .. } => {
            let mut records = lock(cli)?;
            let run =
                |records: &mut LockedRecords| unattended::run(&config, &mut find_to_change(false)?, records, &Utc::now);
            let called = if config.auto == Auto::Check { Called::Question } else { Called::Attempt };
            match recorded(&mut records, called, run)? {
                Done::Checked(checked) => print(cli, &checked, || show::checked(&checked)),
                Done::Applied(applied) => {
                    print(cli, &applied, || show::applied(&applied));
                    let due =
                        applied.outcome == Outcome::Activated && config.auto == Auto::Activate && config.auto_reboot;
                    if due && !find()?.folders() {
                        restart(&mut find()?, "the new release is booted on trial")?;
                    }
                }
            }
        }
        Command::Activate { lifted, reboot } => {
            log_lifted(*lifted);
            let mut records = lock(cli)?;
            let applied = recorded(&mut records, Called::Activation, |records| {
                let boot = &mut find_to_change(*reboot)?;
                Update { config: &config, boot, records, lifted: *lifted, now }.activate().map_err(no_slot_touched)
            })?;
            print(cli, &applied, || show::applied(&applied));
            if *reboot {
                restart(&mut find()?, "the new release is booted on trial")?;
            }
        }
        Command::Healthcheck { no_reboot, .. } => return healthcheck(cli, &config, *no_reboot, now),
        Command::Adopt { kernel_args, loader_file, any_grub_cfg, reboot } => {
            let _alone = lock(cli)?;
            let options = adopt::Options {
                kernel_args: kernel_args.clone(),
                loader_file: loader_file.clone(),
                any_grub_cfg: *any_grub_cfg,
                cmdline: cli.places.cmdline.clone(),
            };
            let folder = adopt::Folder::find(&config)
                .and_then(|folder| folder.make_missing_environment(options.cmdline.as_deref()).map(|()| folder))
                .map_err(adopt::boots_as_before)?;
            let mut boot = find_to_change(*reboot)?;
            let adopted = adopt::adopt(folder, &mut boot, &options).map_err(adopt::boots_as_before)?;
            print(cli, &adopted, || format!("{}\n", adopted.message));
            if adopted.reboot && *reboot {
                reboot::now("the new loader file is in place")?;
            }
        }
        Command::Rollback { reboot } => {
            let mut records = lock(cli)?;
            let mut boot = find_to_change(*reboot)?;
            let back = trial::rollback(&config, &mut boot, &mut records, now).map_err(no_slot_touched)?;
            print(cli, &back, || format!("{}\n", back.message));
            if back.reboot && *reboot {
                restart(&mut boot, "rollback")?;
            }
        }
    }
    Ok(0)
}

/// A person vouches for the clock.
fn reset_time(cli: &Cli) -> Result<u8> {
    let mut records = lock(cli)?;
    let clock = Clock::system(Utc::now(), None);
    let (before, now) = (records.trust.last_seen, clock.believed()?);
    records.reset_time(now)?;
    let seconds = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let (before, now) = (before.map(seconds), seconds(now));
    print(cli, &json!({"before": before, "last_seen": now}), || {
        format!("the latest known time is {now}; it was {}\n", before.as_deref().unwrap_or("not known"))
    });
    Ok(0)
}

fn disk(cli: &Cli, role: Option<Role>, check: bool) -> Result<u8> {
    let system = blocks::System::default();
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

/// Before anything below the folder for data is read: it must be on the disk that was booted. A state that is named on the
/// command line is a person's choice, and an account that is not root reads nothing that decides anything.
fn data_is_ours(cli: &Cli) -> Result<()> {
    if cli.state != Path::new(STATE_FILE) || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    blocks::System::default().check_data()
}

fn settings(cli: &Cli, command: &ConfigCommand) -> Result<u8> {
    match command {
        ConfigCommand::Show { set, keys, .. } => {
            let mut all = settings_report::effective(&Conf::load(&cli.conf)?, &cli.overrides())?;
            all.retain(|one| keys.is_empty() || keys.iter().any(|key| key == one.key));
            all.retain(|one| !set || one.is_set());
            print(cli, &all, || show::settings(&all, cli.verbose > 0));
            Ok(0)
        }
        ConfigCommand::Check { file } => {
            let checked = settings_report::check(file.as_deref(), &cli.conf)?;
            let error = checked.error();
            print(cli, &checked, || show::settings_checked(&checked));
            Ok(error.map_or(0, |error| error.exit().code()))
        }
    }
}

fn healthcheck(cli: &Cli, config: &Config, no_reboot: bool, now: DateTime<Utc>) -> Result<u8> {
    let mut records = lock(cli)?;
    let boot = Boot::find(config, cli.places.booted, cli.places.cmdline.as_deref());
    let mut boot = boot.map_err(no_slot_touched)?;
    trial::seen(&boot, &mut records, now)?;
    let checks = health::run(config);
    let judged = trial::judge(config, &mut boot, &mut records, &checks, now)?;
    let report =
        json!({"healthy": judged.healthy, "outcome": judged.verdict, "message": judged.message, "checks": checks});
    print(cli, &report, || show::health(&judged, &checks));
    if judged.verdict == Verdict::Reverted && !no_reboot && !boot.folders() {
        reboot::now("the trial was reverted")?;
    }
    Ok(if judged.healthy { 0 } else { UNHEALTHY })
}

/// As a report for people, or as a page for monitoring.
fn tell_status(cli: &Cli, status: &status::Status) -> Result<u8> {
    let Command::Metrics { output } = &cli.command else {
        print(cli, status, || status.to_string());
        return Ok(0);
    };
    // What cannot be read is counted as a problem on the page; monitoring hears of it there.
    let (records, _) = Store::new(&cli.state).read_each();
    let series = metrics::series(status, &records.state, &records.trust);
    let page = metrics::page(&series);
    match output {
        None => print(cli, &series, || page),
        Some(file) => replace::replace(file, page.as_bytes(), 0o644)
            .context(Reason::Output, format_args!("write {}", file.display()))
            .map_err(|error| error.remedy("Name a file in a folder that can be written."))?,
    }
    Ok(0)
}

fn tell_history(cli: &Cli) -> Result<u8> {
    let history = Store::new(&cli.state).read_history()?;
    print(cli, &history.attempts, || show::history(&history));
    Ok(0)
}

fn print_findings(cli: &Cli, findings: &doctor::Findings) {
    print(cli, &findings.0, || findings.0.iter().fold(String::new(), |all, finding| format!("{all}{finding}\n")));
}

fn doctor(cli: &Cli, config: Result<Config>) -> u8 {
    let boot = |config: &Config| Boot::find(config, cli.places.booted, cli.places.cmdline.as_deref());
    let findings = doctor::look(&cli.conf, config, &cli.state, boot);
    print_findings(cli, &findings);
    if findings.any_failed() { Exit::Config.code() } else { 0 }
}

/// For a command that changes something. It ends here, before it has, if another one runs.
fn lock(cli: &Cli) -> Result<LockedRecords> {
    LockedRecords::lock(&cli.state).map_err(no_slot_touched)
}

/// Settings that cannot be used keep a device from updates, which whoever watches it must hear of.
fn unusable(cli: &Cli, error: Error) -> Error {
    let called = match &cli.command {
        Command::Apply { dry_run: false, .. } | Command::Run { .. } => Called::Attempt,
        Command::Activate { .. } => Called::Activation,
        Command::Healthcheck { .. } | Command::Rollback { .. } | Command::Adopt { .. } => {
            return no_slot_touched(error);
        }
        _ => return error,
    };
    let error = no_slot_touched(error);
    if let Ok(mut records) = lock(cli) {
        attempt::failed_early(&mut records, called, &error);
    }
    error
}

/// Restarts into whatever is active.
fn restart(boot: &mut Boot, why: &str) -> Result<()> {
    let argument = boot.env.arm()?;
    reboot::with(why, argument)
}

fn log_lifted(lifted: crate::policy::gate::Lifted) {
    for (name, set) in [
        ("--force", lifted.force),
        ("--retry-failed", lifted.retry_failed),
        ("--allow-downgrade", lifted.allow_downgrade),
        ("--ignore-rollout", lifted.ignore_rollout),
        ("--allow-single-copy", lifted.allow_single_copy),
    ] {
        if set {
            log::warn!("{name} was given");
        }
    }
}

fn note_assumed(boot: &Boot) {
    if boot.known == Known::Assumed {
        log::info!(
            "slot {} is assumed to be the running one, since it is active; --booted says otherwise",
            boot.booted.slot
        );
    }
}

fn print(cli: &Cli, data: &impl Serialize, text: impl FnOnce() -> String) {
    if cli.json {
        match serde_json::to_string_pretty(data) {
            Ok(json) => say(&format!("{}\n", text::ascii(&json))),
            Err(error) => log::error!("cannot print JSON: {error}"),
        }
    } else {
        say(&text());
    }
}

fn verify(cli: &Cli, config: &Config, boot: &Boot, trust: &Trust) -> Result<u8> {
    let slots = status::verify(config, boot, trust);
    let damaged = slots.iter().find(|slot| slot.needed && !slot.holds).map(|slot| {
        Error::new(Reason::SlotDamaged, format!("slot {} does not hold: {}", slot.slot, slot.message))
            .remedy("If it is not the running slot, `kubesolo-update apply` fills it anew.")
    });
    let mut findings = json!({"slots": slots});
    if let Some(error) = &damaged {
        findings["error"] = as_json(error);
    }
    print(cli, &findings, || slots.iter().fold(String::new(), |all, slot| format!("{all}{slot}\n")));
    damaged.as_ref().inspect(|error| tell(error));
    Ok(damaged.map_or(0, |error| error.exit().code()))
}
