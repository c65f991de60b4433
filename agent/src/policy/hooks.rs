//! Hooks: programs of the image that run at the moments of an update, each moment with a folder of its own.
//!
//! A hook gets the facts as environment variables and as one JSON document on its standard input.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;
use crate::config::Config;
use crate::device::programs::{self, Ended};
use crate::policy::gate::Gate;
use crate::state::hooks::{Facts, Moment};
use crate::state::records::HookRun;

/// Exit code of a hook that says "not now".
const LATER: i32 = 75;
const NAME: &str = "pre-update";

/// The folder of a moment.
#[must_use]
pub fn folder(config: &Config, moment: Moment) -> PathBuf {
    match (moment, &config.pre_update_dir) {
        (Moment::PreUpdate, Some(folder)) => folder.clone(),
        _ => config.hooks_dir.join(format!("{}.d", moment.name())),
    }
}

/// Time for all hooks of a moment together.
fn time(config: &Config, moment: Moment) -> Duration {
    match (moment, config.pre_update_timeout) {
        (Moment::PreUpdate, Some(time)) => time,
        _ => config.hook_timeout,
    }
}

/// True if a moment has hooks.
#[must_use]
pub fn are_there(config: &Config, moment: Moment) -> bool {
    programs::folder(&folder(config, moment)).is_ok_and(|folder| !folder.programs.is_empty())
}

/// Asks every hook; the first that does not say yes decides. `note` gets each run, for the record of the attempt.
///
/// # Errors
/// 75 when one says "later"; 77 when one says anything else, or nothing in time; 78 when the folder cannot be read.
pub fn ask(config: &Config, facts: &Facts, note: &dyn Fn(HookRun)) -> Result<()> {
    each(config, facts, note, |name, trouble| match trouble {
        Trouble::Later(said) => Err(later(facts, name, &said)),
        Trouble::Failed(why) => {
            Err(Error::new(Reason::HookRefused, format!("{}.d/{name} refuses the update: {why}", facts.moment.name()))
                .remedy("Read its output, or fix the hook: exit code 0 permits the update, 75 postpones it."))
        }
    })
}

/// Runs every hook until one says "later". One that fails holds nothing up.
///
/// # Errors
/// 75 when one says "later".
pub fn prepare(config: &Config, facts: &Facts, note: &dyn Fn(HookRun)) -> Result<()> {
    let done = each(config, facts, note, |name, trouble| match trouble {
        Trouble::Later(said) => Err(later(facts, name, &said)),
        Trouble::Failed(why) => {
            log::warn!("{}.d/{name}: {why}", facts.moment.name());
            Ok(())
        }
    });
    match done {
        Err(error) if error.reason != Reason::HookLater => {
            log::warn!("{error}");
            Ok(())
        }
        done => done,
    }
}

/// Runs every hook. None holds anything up.
pub fn announce(config: &Config, facts: &Facts, note: &dyn Fn(HookRun)) {
    let done = each(config, facts, note, |name, trouble| {
        let (Trouble::Later(why) | Trouble::Failed(why)) = trouble;
        log::warn!("{}.d/{name}: {why}", facts.moment.name());
        Ok(())
    });
    done.unwrap_or_else(|error| log::warn!("{error}"));
}

/// The result of a hook that does not say yes, in words.
enum Trouble {
    Later(String),
    Failed(String),
}

fn each(
    config: &Config,
    facts: &Facts,
    note: &dyn Fn(HookRun),
    decide: impl Fn(&str, Trouble) -> Result<()>,
) -> Result<()> {
    let step = facts.moment.name();
    let unreadable = |why| {
        let setting = if facts.moment == Moment::PreUpdate { "pre_update_dir= or hooks_dir=" } else { "hooks_dir=" };
        Error::new(Reason::HooksUnreadable, why).remedy(format!("Set {setting} to a readable folder."))
    };
    let found = programs::folder(&folder(config, facts.moment)).map_err(unreadable)?;
    found.unusable.iter().for_each(|hook| log::warn!("{step}.d/{}: {}", files::name(&hook.file), hook.why));
    let mut input = serde_json::to_vec(facts).context(Reason::Internal, "write the facts for a hook")?;
    input.push(b'\n');
    let total = time(config, facts.moment);
    let end = Instant::now() + total;
    for file in found.programs {
        let name = files::name(&file);
        let left = end.saturating_duration_since(Instant::now());
        let ended = programs::run_with(&file, left, environment(facts), &input);
        note(HookRun { step: step.into(), name: name.clone(), ..in_record(&ended) });
        if let Some(trouble) = trouble(ended, total) {
            decide(&name, trouble)?;
        }
    }
    Ok(())
}

fn environment(facts: &Facts) -> [(&'static str, &str); 6] {
    [
        ("KUBESOLO_UPDATE_MOMENT", facts.moment.name()),
        ("KUBESOLO_UPDATE_STEP", facts.step.map_or("", |step| step.name())),
        ("KUBESOLO_UPDATE_FROM", &facts.from),
        ("KUBESOLO_UPDATE_TO", &facts.to),
        ("KUBESOLO_UPDATE_DIGEST", &facts.digest),
        ("KUBESOLO_UPDATE_TRIAL", &facts.trial),
    ]
}

fn trouble(ended: Result<Ended, String>, total: Duration) -> Option<Trouble> {
    let Ended { status, said, .. } = match ended {
        Ok(ended) => ended,
        Err(why) => return Some(Trouble::Failed(why)),
    };
    let tail = if said.is_empty() { String::new() } else { format!(": {said}") };
    match status {
        Some(status) if status.success() => None,
        Some(status) if status.code() == Some(LATER) => Some(Trouble::Later(format!("says \"later\"{tail}"))),
        Some(status) => Some(Trouble::Failed(format!("{status}{tail}"))),
        None => Some(Trouble::Failed(format!("no answer within the {} s for all hooks{tail}", total.as_secs()))),
    }
}

fn later(facts: &Facts, name: &str, said: &str) -> Error {
    Error::new(Reason::HookLater, format!("{}.d/{name} {said}", facts.moment.name()))
        .remedy("The next run asks the hook again.")
}

/// The end of a hook and its output.
fn in_record(ended: &Result<Ended, String>) -> HookRun {
    let (end, output) = match ended {
        Err(why) => ("not started".to_owned(), why.clone()),
        Ok(Ended { status: None, output, .. }) => ("timeout".into(), output.clone()),
        Ok(Ended { status: Some(status), output, .. }) => {
            let signal = status.signal().map(|signal| format!("signal {signal}"));
            (signal.unwrap_or_else(|| format!("exit {}", status.code().unwrap_or_default())), output.clone())
        }
    };
    HookRun { ended: end, output, ..HookRun::default() }
}

/// The part of the answer that needs no program: a check must not start anything.
#[must_use]
pub fn gate(config: &Config) -> Gate {
    match programs::folder(&folder(config, Moment::PreUpdate)) {
        Ok(folder) if folder.programs.is_empty() => Gate::open(NAME, "no hooks"),
        Ok(folder) => Gate::open(NAME, format!("runs before the update: {}", files::names(&folder.programs))),
        Err(why) => {
            Gate::closed(NAME, Reason::HooksUnreadable, why, "Set pre_update_dir= or hooks_dir= to a readable folder.")
        }
    }
}
