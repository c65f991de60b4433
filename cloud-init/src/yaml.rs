//! YAML from outside: bounded, without repeated keys, and with the line in every message.

use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::text::escape;
use serde::de::DeserializeOwned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, Options};
use serde_saphyr::{Budget, MessageFormatter, UserMessageFormatter};

/// Nested collections.
const DEPTH: usize = 16;
/// Scalars and collections, with what aliases stand for: user-data has other readers beside this one, and may be long.
const NODES: usize = 100_000;

/// Bytes as text. `what` names them in messages.
pub(crate) fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    let all = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        bad(format!("{what}:{line}: it is not text in UTF-8"))
    })?;
    Ok(all.strip_prefix('\u{feff}').unwrap_or(all))
}

/// One document.
pub(crate) fn parse<T: DeserializeOwned>(all: &str, what: &str) -> Result<T> {
    if let Some(line) = second_document(all) {
        return Err(bad(format!("{what}:{line}: a second document begins here"))
            .remedy("Nothing was changed. Give one document: without a line --- or ... behind its first line."));
    }
    serde_saphyr::from_str_with_options(all, options()).map_err(|e| {
        let message = escape(&UserMessageFormatter.format_message(e.without_snippet()));
        bad(match e.location() {
            Some(at) if at.line() > 0 => format!("{what}:{}: {message}", at.line()),
            _ => format!("{what}: {message}"),
        })
    })
}

/// The line on which the first document ends. A marker at the beginning of a line is never content (YAML 1.2.2, 9.1.2).
fn second_document(all: &str) -> Option<usize> {
    let is_marker = |line: &str, marker: &str| {
        line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
    };
    let mut begun = false;
    for (n, line) in all.lines().enumerate() {
        let marks = is_marker(line, "---");
        if begun && marks || begun && is_marker(line, "...") && all.lines().skip(n + 1).any(has_content) {
            return Some(n + 1);
        }
        begun |= marks || has_content(line);
    }
    None
}

/// True if a line is neither empty nor a comment nor a directive.
fn has_content(line: &str) -> bool {
    !line.trim_start().is_empty() && !line.trim_start().starts_with('#') && !line.starts_with('%')
}

fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_depth = DEPTH;
    budget.max_nodes = NODES;
    budget.max_events = 3 * NODES;
    budget.max_documents = 1;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.merge_keys = MergeKeyPolicy::AsOrdinary;
    options.with_snippet = false;
    options
}

/// The error of a document that cannot be used.
pub(crate) fn bad(message: String) -> Error {
    Error::new(Reason::BadUserData, message).remedy("Nothing was changed. Correct it, and start again.")
}
