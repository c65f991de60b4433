//! Standard output and standard error of the commands: a text for people, or one JSON document for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use crate::base::console;
use crate::base::error::{Error, ErrorReport, Exit, Reason};
use crate::base::text;
use crate::cli::args::Cli;
use crate::cli::explain;
use crate::state::state::Outcome;

/// Version of the documents of this program. Members are only added to a version.
const SCHEMA: u32 = 1;

/// A document: an object that bears the version of its form.
#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// Prints a result to standard output.
pub(super) fn print(cli: &Cli, data: &impl Serialize, text: impl FnOnce() -> String) {
    print_as_is(cli, &Document { schema: SCHEMA, content: data }, text);
}

/// Prints a list to standard output, which has no member for a version.
pub(super) fn print_list(cli: &Cli, data: &[impl Serialize], text: impl FnOnce() -> String) {
    print_as_is(cli, &data, text);
}

fn print_as_is(cli: &Cli, data: &impl Serialize, text: impl FnOnce() -> String) {
    if cli.json {
        match serde_json::to_string_pretty(data) {
            Ok(json) => console::print(&format!("{}\n", text::ascii(&json))),
            Err(error) => log::error!("cannot print JSON: {error}"),
        }
    } else {
        console::print(&text());
    }
}

/// The document of a failed command.
#[derive(Debug, Serialize)]
struct ErrorDocument {
    /// The failure.
    error: ErrorReport,
    /// Of a failed check only: held or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Outcome>,
    /// Of a failed check only: the reason of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

/// Prints a failure to standard output, for scripts. An answer to a question has a verdict in any case: a script that only
/// reads the verdict must not take its absence for good news.
pub(super) fn print_json_error(error: &Error, question: bool) {
    let held = error.exit() == Exit::NotAllowed;
    let content = ErrorDocument {
        error: error.report(),
        verdict: question.then_some(if held { Outcome::Held } else { Outcome::Unknown }),
        reason: question.then_some(error.reason),
    };
    match serde_json::to_string(&Document { schema: SCHEMA, content: &content }) {
        Ok(json) => console::print(&format!("{}\n", text::ascii(&json))),
        Err(error) => log::error!("cannot print JSON: {error}"),
    }
}

/// Prints a failure to standard error, for people.
pub(super) fn print_error(error: &Error) {
    let mut words = format!("kubesolo-update: {}\n", text::printable(&error.message));
    if !error.remedy.is_empty() {
        let _ = writeln!(words, "  {}", text::printable(&error.remedy));
    }
    words.push_str(&explain::hint("kubesolo-update", error.reason));
    console::print_error(&words);
}
