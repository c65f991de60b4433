//! Programs of the image that are asked before an update: `pre-update.d`.

use std::process::ExitStatus;
use std::time::Instant;

use semver::Version;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::files;
use crate::config::Config;
use crate::device::programs;
use crate::policy::gate::Gate;

/// Exit code of a program that says "not now".
const LATER: i32 = 75;
const NAME: &str = "pre-update";

/// The step that comes next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A slot is to be written.
    Stage,
    /// The staged release becomes the one that boots next.
    Activate,
}

/// Facts for the programs, each in an environment variable.
#[derive(Debug)]
pub struct Question<'a> {
    /// `KUBESOLO_UPDATE_STEP`: `stage` or `activate`.
    pub step: Step,
    /// `KUBESOLO_UPDATE_FROM`: the running version; empty if it is not known.
    pub from: Option<&'a Version>,
    /// `KUBESOLO_UPDATE_TO`: the version to come.
    pub to: &'a Version,
    /// `KUBESOLO_UPDATE_DIGEST`: the release to come.
    pub digest: Digest,
}

/// Asks every program; the first that does not say yes decides.
///
/// # Errors
/// 75 when one says "later"; 77 when one says anything else, or nothing in time; 78 when the folder cannot be read.
pub fn ask(config: &Config, question: &Question<'_>) -> Result<()> {
    let unreadable = |why| Error::new(Reason::HooksUnreadable, why).remedy("Set pre_update_dir= to a readable folder.");
    let environment = [
        ("KUBESOLO_UPDATE_STEP", if matches!(question.step, Step::Stage) { "stage" } else { "activate" }.to_owned()),
        ("KUBESOLO_UPDATE_FROM", question.from.map(ToString::to_string).unwrap_or_default()),
        ("KUBESOLO_UPDATE_TO", question.to.to_string()),
        ("KUBESOLO_UPDATE_DIGEST", question.digest.to_string()),
    ];
    let end = Instant::now() + config.pre_update_timeout;
    let folder = programs::folder(&config.pre_update_dir).map_err(unreadable)?;
    folder.unusable.iter().for_each(|hook| log::warn!("{NAME}.d/{}: {}", files::name(&hook.file), hook.why));
    for file in folder.programs {
        let name = files::name(&file);
        let left = end.saturating_duration_since(Instant::now());
        let ended = programs::run(&file, left, environment.iter().map(|(key, value)| (*key, value)))
            .map_err(|why| refused(&name, &why))?;
        verdict(&name, ended.status, &ended.said, config.pre_update_timeout.as_secs())?;
    }
    Ok(())
}

fn verdict(name: &str, status: Option<ExitStatus>, said: &str, budget: u64) -> Result<()> {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) if status.code() == Some(LATER) => {
            Err(Error::new(Reason::HookLater, format!("{NAME}.d/{name} says \"later\"{said}"))
                .remedy("The next run asks the hook again."))
        }
        Some(status) => Err(refused(name, &format!("{status}{said}"))),
        None => Err(refused(name, &format!("no answer within the {budget} s for all hooks{said}"))),
    }
}

fn refused(name: &str, why: &str) -> Error {
    Error::new(Reason::HookRefused, format!("{NAME}.d/{name} refuses the update: {why}"))
        .remedy("Read its output, or fix the hook: exit code 0 permits the update, 75 postpones it.")
}

/// The part of the answer that needs no program: a check must not start anything.
#[must_use]
pub fn gate(config: &Config) -> Gate {
    match programs::folder(&config.pre_update_dir) {
        Ok(folder) if folder.programs.is_empty() => Gate::open(NAME, "no hooks"),
        Ok(folder) => Gate::open(NAME, format!("runs before the update: {}", files::names(&folder.programs))),
        Err(why) => Gate::closed(NAME, Reason::HooksUnreadable, why, "Set pre_update_dir= to a readable folder."),
    }
}
