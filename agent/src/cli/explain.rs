//! `explain`, of both programs: the meaning of reasons and exit codes, as `docs/troubleshooting.md` has it.

use std::ffi::OsStr;
use std::fmt::Write as _;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ContextKind;
use clap::{Arg, Command};
use serde::Serialize;

use crate::base::error::{Exit, Reason};

/// The exit codes as text.
const CODES: [&str; 8] = ["64", "65", "69", "70", "73", "75", "77", "78"];

/// One reason, for scripts.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// The word.
    pub reason: Reason,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// The meaning and the next step.
    pub help: &'static str,
}

/// Takes a reason or an exit code. Completion offers all of them; an error names the nearest alone, for there are some 200.
#[derive(Clone, Copy, Debug)]
pub struct Word;

impl TypedValueParser for Word {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        PossibleValuesParser::new(words()).parse_ref(command, argument, value).map_err(|mut error| {
            error.remove(ContextKind::ValidValue);
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(words().map(PossibleValue::new)))
    }
}

/// The reasons and exit codes that `explain` knows: all of them.
pub fn words() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).chain(CODES)
}

/// The reason of this name, those of this exit code, or all of them.
#[must_use]
pub fn explained(word: Option<&str>) -> Vec<Explained> {
    let asked =
        |reason: &Reason| word.is_none_or(|word| word == reason.as_str() || word.parse() == Ok(reason.exit().code()));
    let one = |reason: Reason| Explained { reason, exit_code: reason.exit().code(), help: reason.help() };
    Reason::ALL.into_iter().filter(asked).map(one).collect()
}

/// The same for people; without a word the exit codes alone.
#[must_use]
pub fn text(word: Option<&str>) -> String {
    let mut out = String::new();
    match word.map(str::parse::<Reason>) {
        Some(Ok(reason)) => {
            let _ = writeln!(out, "{reason} (exit code {}: {})", reason.exit().code(), reason.exit().meaning());
            let _ = writeln!(out, "  {}", reason.help());
        }
        _ => {
            let codes = Exit::ALL.into_iter().filter(|code| word.is_none_or(|word| word.parse() == Ok(code.code())));
            for code in codes {
                let _ = writeln!(out, "exit code {}: {}", code.code(), code.meaning());
                for one in explained(word).iter().filter(|one| word.is_some() && one.exit_code == code.code()) {
                    let _ = writeln!(out, "  {}\n      {}", one.reason, one.help);
                }
            }
        }
    }
    out
}

/// The last line of an error: the command that explains its reason.
#[must_use]
pub fn hint(program: &str, reason: Reason) -> String {
    format!("  More: {program} explain {reason}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_every_exit_code_is_explained() {
        assert_eq!(CODES.map(str::to_owned), Exit::ALL.map(|code| code.code().to_string()));
        for word in words() {
            let (found, text) = (explained(Some(word)), text(Some(word)));
            assert!(!found.is_empty() && found.iter().all(|one| text.contains(one.help)), "{word}: {text}");
        }
        assert_eq!(text(None).lines().count(), Exit::ALL.len());
        assert_eq!(explained(None).len(), Reason::ALL.len());
    }
}
