//! Boards whose U-Boot counts boots itself, in its environment (`CONFIG_BOOTCOUNT_ENV`).
//!
//! Such a U-Boot raises `bootcount` at each boot while `upgrade_available` is 1, and runs `altbootcmd` in place of
//! `bootcmd` when it exceeds `bootlimit`. The protocol's counter is what is left of that. The variables go with every
//! store, so that they and the protocol's change at once. `loader/bootcount.env` is the other side.

use super::Environment;
use crate::protocol::{BootState, TRIES, View};

/// 1 while U-Boot counts. A board that counts has it set, also when nothing is counted.
const UPGRADE: &str = "upgrade_available";
const COUNT: &str = "bootcount";
const LIMIT: &str = "bootlimit";

/// True if this environment is one of a board that counts.
fn counts(environment: &Environment) -> bool {
    environment.get(UPGRADE).is_some() && environment.get(LIMIT).is_some()
}

/// The view with the tries that U-Boot has counted.
#[must_use]
pub fn counted(environment: &Environment, view: View) -> View {
    match view {
        View::Ours(state)
            if !state.success && environment.get(UPGRADE).as_deref() == Some("1") && counts(environment) =>
        {
            // Hexadecimal or decimal is all the same for so few; what is no number has used up all tries.
            let count = environment.get(COUNT).map_or(Ok(0), |count| count.parse::<u8>()).unwrap_or(TRIES);
            View::Ours(BootState { counter: TRIES.saturating_sub(count), ..state })
        }
        other => other,
    }
}

/// Variables that a store of `next` sets beside those of the protocol; nothing on a board that does not count.
#[must_use]
pub fn variables(environment: &Environment, next: &BootState) -> Vec<(&'static str, String)> {
    if !counts(environment) {
        return vec![];
    }
    let count = if next.success { 0 } else { TRIES - next.counter.min(TRIES) };
    vec![(UPGRADE, u8::from(!next.success).to_string()), (COUNT, count.to_string()), (LIMIT, TRIES.to_string())]
}
