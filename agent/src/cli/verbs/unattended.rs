//! `run`.

use chrono::Utc;

use crate::base::error::{Exit, Result};
use crate::cli::call::Call;
use crate::cli::output::print;
use crate::cli::show;
use crate::config::Auto;
use crate::device::seen::Step;
use crate::policy::gate::Lifted;
use crate::state::records::AskedBy;
use crate::state::state::Outcome;
use crate::update::attempt::{Called, recorded};
use crate::update::unattended::{self, Done};

pub(in crate::cli) fn run(call: &Call<'_>) -> Result<u8> {
    let config = call.config;
    let mut records = call.lock()?;
    records.asked_by(AskedBy::Timer);
    let called = if config.auto == Auto::Check { Called::Question } else { Called::Attempt };
    let mut boot = None;
    let ran = recorded(&mut records, called, |records| {
        unattended::run(config, boot.insert(call.find_by(Step::Run)?), records, &Utc::now)
    });
    // Also where the source is gone: a slot to fall back to counts most then.
    if let Some(boot) = &mut boot {
        let answers = !ran.as_ref().is_err_and(|error| error.exit() == Exit::Unavailable);
        call.update(boot, &mut records, Lifted::default()).scrub(answers);
    }
    match ran? {
        Done::Checked(checked) => {
            print(call.cli, &checked, || show::checked(&checked, call.cli.terminal(), call.cli.verbose > 0));
        }
        Done::Applied(applied) => {
            print(call.cli, &applied, || show::applied(&applied, call.started.elapsed()));
            let due = applied.outcome == Outcome::Activated && config.auto == Auto::Activate && config.auto_reboot;
            if due && !call.find()?.folders() {
                call.restart_into_trial()?;
            }
        }
    }
    Ok(0)
}
