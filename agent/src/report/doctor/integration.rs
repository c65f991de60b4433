//! The integration of the agent into the OS image, by the marks of this boot: who called it, and how the bootloader started
//! this system.

use bootenv::Fallback;
use chrono::{DateTime, Utc};

use super::{Findings, Verdict, Words};
use crate::config::Config;
use crate::device::blocks::{CommandLine, ParameterError, System};
use crate::device::boot::Boot;
use crate::device::seen::{Mark, Step};
use crate::policy::gate::Gate;
use crate::policy::{preflight, rules};
use crate::schedule::clock;

/// Time after the start of the kernel, in seconds, in which the init may not have called the health run yet.
const HEALTH_SOON: u64 = 120;
/// The same for the timer: an interval of 1 h and a random delay of 1 h.
const RUN_SOON: u64 = 2 * 3600;

/// The marks of this boot.
pub(super) struct Seen {
    /// Seconds since the start of the kernel.
    pub(super) uptime: u64,
    pub(super) health: Option<Mark>,
    pub(super) run: Option<Mark>,
    pub(super) deadline: Option<Mark>,
    /// End of the last run of this device, in this boot or before.
    pub(super) last_run: Option<DateTime<Utc>>,
}

impl Seen {
    pub(super) fn read(system: &System, last_run: Option<DateTime<Utc>>) -> Self {
        Self {
            uptime: system.uptime().unwrap_or_default() as u64,
            health: system.marked(Step::Health),
            run: system.marked(Step::Run),
            deadline: system.marked(Step::Deadline),
            last_run,
        }
    }
}

/// Callers of the agent in this boot.
pub(super) fn calls(all: &mut Findings, seen: &Seen) {
    let up = format!("up {}", clock::span(seen.uptime));
    let called = |mark: &Mark| {
        let by = if mark.by.is_empty() { String::new() } else { format!(" by {}", mark.by) };
        format!("called{by} {} after the start", clock::span(mark.uptime))
    };
    match &seen.health {
        Some(mark) => all.add("health run", Verdict::Ok, called(mark)),
        None if seen.uptime < HEALTH_SOON => all.add("health run", Verdict::Warn, format!("not called yet, {up}")),
        None => {
            let words = "the init of this system called no `kubesolo-update healthcheck`, so no trial would be committed. \
                         Start the step health or kubesolo-update-health.service at each boot";
            all.add("health run", Verdict::Fail, format!("{words} ({up})"));
        }
    }
    match (&seen.run, seen.last_run) {
        (Some(mark), _) => all.add("timer", Verdict::Ok, called(mark)),
        (None, Some(at)) if seen.uptime < RUN_SOON => {
            all.add("timer", Verdict::Ok, format!("not called yet, {up}; the last run ended {}", clock::shown(at)));
        }
        (None, _) => {
            let words = "no timer called `kubesolo-update run` in this boot, so there are no unattended updates. Start the \
                         step timer or kubesolo-update.timer";
            all.add("timer", Verdict::Warn, format!("{words} ({up})"));
        }
    }
    let bad = "nothing arms the deadline, so a trial that hangs in userspace would not end. Start the step deadline, or \
               enable kubesolo-update-deadline.timer";
    all.either("deadline step", seen.deadline.is_some(), Verdict::Fail, &Words { good: "armed in a trial", bad });
}

/// A bootloader that could not start the system that it was asked for.
pub(super) fn fallback(all: &mut Findings, boot: &Boot, system: &System) {
    let name = "boot";
    let Some(fallback) = boot.booted.fallback else { return };
    let slot = boot.booted.slot;
    if all.take(name, preflight::loader_hashes(boot, system)).is_none() {
        return;
    }
    let (verdict, words) = match fallback {
        Fallback::Load => (Verdict::Warn, "it could not load the active slot: see `kubesolo-update verify`"),
        Fallback::Save => (Verdict::Fail, "it cannot write the boot environment, so it cannot count tries"),
        Fallback::Env => (Verdict::Warn, "the boot environment was damaged: a healthy boot rebuilds it"),
    };
    all.add(name, verdict, format!("the bootloader fell back to slot {slot} (ks.fallback={fallback}): {words}"));
}

/// A bootloader that did not name the booted partition: `line` is its command line, `command` the one that it may lack.
pub(super) fn partition(all: &mut Findings, line: &CommandLine, command: &str) {
    if line.proto == Ok(1) && line.part == Err(ParameterError::Absent) {
        let words =
            "the bootloader does not name the booted partition (ks.part=), so the agent finds the disk by its labels";
        let cause = format!("it lacks {command}, or its script is older than 0.2");
        all.add("boot", Verdict::Warn, format!("{words}: {cause}. Install the bootloader again"));
    }
}

/// Channel and board of the settings, by the gates of an update and the release that runs.
pub(super) fn release_settings(all: &mut Findings, config: &Config, boot: &Boot) {
    let manifest = boot.slots.get(boot.booted.slot).manifest().ok().flatten();
    let Some(release) = manifest.and_then(|manifest| manifest.release().ok()) else { return };
    let (channel, board) = (config.channel.as_deref(), config.board.as_deref());
    for gate in [rules::channel(&release, channel), rules::board(&release, board)] {
        let Gate { name, open, message, .. } = gate;
        if open {
            all.add(name, Verdict::Ok, message);
        } else {
            all.add(name, Verdict::Warn, format!("by these settings the running release would be refused: {message}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(seen: &Seen) -> Vec<(&'static str, Verdict)> {
        let mut all = Findings::default();
        calls(&mut all, seen);
        all.0.iter().map(|finding| (finding.name, finding.verdict)).collect()
    }

    #[test]
    fn a_boot_without_health_run_or_deadline_fails_and_one_without_timer_warns() {
        let mark = || Some(Mark { uptime: 9, by: "health".into() });
        let sound = Seen { uptime: 7300, health: mark(), run: mark(), deadline: mark(), last_run: None };
        let names = ["health run", "timer", "deadline step"];
        let expect = |seen: &Seen, verdicts_of: [Verdict; 3]| {
            assert_eq!(verdicts(seen), names.into_iter().zip(verdicts_of).collect::<Vec<_>>());
        };
        use Verdict::{Fail, Ok, Warn};
        expect(&sound, [Ok, Ok, Ok]);
        expect(&Seen { health: None, ..sound_again(&sound) }, [Fail, Ok, Ok]);
        expect(&Seen { health: None, uptime: 60, ..sound_again(&sound) }, [Warn, Ok, Ok]);
        expect(&Seen { run: None, ..sound_again(&sound) }, [Ok, Warn, Ok]);
        let before = Seen { run: None, uptime: 60, last_run: Some(DateTime::UNIX_EPOCH), ..sound_again(&sound) };
        expect(&before, [Ok, Ok, Ok]);
        expect(&Seen { uptime: 7300, ..before }, [Ok, Warn, Ok]);
        expect(&Seen { deadline: None, ..sound_again(&sound) }, [Ok, Ok, Fail]);
    }

    #[test]
    fn a_boot_without_a_named_partition_warns_with_the_missing_command() {
        let found = |line: &str| {
            let mut all = Findings::default();
            partition(&mut all, &CommandLine::parse(line), "probe (module probe)");
            all.0.first().map(|finding| (finding.verdict, finding.message.clone()))
        };
        let line = "kubesolo.slot=A ks.trial=00000000 ks.proto=1";
        let (verdict, message) = found(line).expect("a finding");
        assert!(verdict == Verdict::Warn && message.contains("it lacks probe (module probe)"), "{message}");
        assert_eq!(found(&format!("{line} ks.part=5a3f1c2e-01")), None);
        assert_eq!(found("kubesolo.slot=A"), None, "an old loader file has a finding of its own");
    }

    fn sound_again(seen: &Seen) -> Seen {
        let Seen { uptime, health, run, deadline, last_run } = seen;
        Seen {
            uptime: *uptime,
            health: health.clone(),
            run: run.clone(),
            deadline: deadline.clone(),
            last_run: *last_run,
        }
    }
}
