//! `evidence`: the step of each boot behind `data`, which keeps what a trial leaves.

use bootenv::protocol::{TRIES, View};

use crate::base::error::{Error, Reason, Result};
use crate::cli::args::{Cli, EvidenceCommand};
use crate::config::Config;
use crate::device::blocks::{self, CommandLine};
use crate::device::boot::Boot;
use crate::device::evidence::Traces;
use crate::update::evidence;

pub(in crate::cli) fn evidence(cli: &Cli, action: Option<&EvidenceCommand>) -> Result<u8> {
    let traces = Traces::beside(&cli.state);
    let Some(announced) = traces.announced() else { return Ok(0) };
    let trial = announced.trial;
    let places = &cli.places;
    // A trial leaves evidence even if its settings or its slots are why it fails.
    let config = Config::load(&cli.conf, &cli.overrides());
    let boot = config.and_then(|config| Boot::find(&config, places.booted, places.cmdline.as_deref()));
    let boot = boot.inspect_err(|error| log::warn!("{error}")).ok();
    let booted = boot.as_ref().map(|boot| boot.booted.trial).or_else(|| {
        let line = blocks::command_line(places.cmdline.as_deref()).ok()?;
        CommandLine::parse(&line).trial.ok()
    });
    let in_trial = booted == Some(trial);
    let used = match boot.map(|boot| boot.env.view()) {
        Some(View::Ours(env)) => TRIES.saturating_sub(env.counter),
        _ => traces.begun(trial) + u8::from(in_trial),
    };
    let failed = |what: &str, e: &std::io::Error| {
        Error::new(Reason::StateNotWritable, format!("{what} trial {trial}: {e}"))
            .remedy("The trial goes on, and the record of it will lack evidence.")
    };
    match action {
        None => {
            let last = if in_trial { used.saturating_sub(1) } else { used };
            traces.harvest(trial, last).map_err(|e| failed("cannot keep the last words of the kernel in", &e))?;
        }
        Some(EvidenceCommand::Follow) if in_trial => {
            let first = evidence::first_lines(&cli.state);
            traces
                .follow(trial, used.clamp(1, TRIES), &first)
                .map_err(|e| failed("cannot follow the kernel log of", &e))?;
        }
        Some(EvidenceCommand::Follow) => {}
    }
    Ok(0)
}
