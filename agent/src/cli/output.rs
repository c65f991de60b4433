//! Standard output and standard error of the commands: a text for people, or one JSON document for scripts.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use crate::base::console;
use crate::base::error::{Error, Exit};
use crate::base::text;
use crate::cli::args::Cli;
use crate::cli::explain;
use crate::state::state::Outcome;

/// Prints a result to standard output.
pub(super) fn print(cli: &Cli, data: &impl Serialize, text: impl FnOnce() -> String) {
    if cli.json {
        match serde_json::to_string_pretty(data) {
            Ok(json) => console::print(&format!("{}\n", text::ascii(&json))),
            Err(error) => log::error!("cannot print JSON: {error}"),
        }
    } else {
        console::print(&text());
    }
}

/// Prints a failure to standard output, for scripts. An answer to a question has a verdict in any case: a script that only
/// reads the verdict must not take its absence for good news.
pub(super) fn print_json_error(error: &Error, question: bool) {
    let mut document = json!({"error": error.json()});
    if question {
        let held = error.exit() == Exit::NotAllowed;
        document["verdict"] = json!(if held { Outcome::Held } else { Outcome::Unknown });
        document["reason"] = json!(error.reason);
    }
    console::print(&format!("{}\n", text::ascii(&document.to_string())));
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
