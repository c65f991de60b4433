//! The update agent: from a release on a server to a verified inactive boot slot.
//!
//! The folders are layers: each uses only those below it. `docs/architecture.md` has their order and content.
#![warn(unreachable_pub)]
// Bounds of a function: see clippy.toml.
#![warn(clippy::too_many_arguments, clippy::too_many_lines)]
// Standard output is data, and standard error is written in one place: `console`.
#![warn(clippy::print_stdout, clippy::print_stderr)]
// Files are opened by `base::files`, written by `base::replace`, and programs run by `device::programs`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod base;
pub mod cli;
pub mod config;
pub mod delta;
pub mod device;
pub mod fetch;
pub mod policy;
pub mod release;
pub mod report;
pub mod schedule;
pub mod source;
pub mod state;
pub mod trust;
pub mod update;

pub mod parsers;

/// The version of the programs, with the commit where the build knows it, and the target.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VERSION.get_or_init(|| {
        let commit = option_env!("KUBESOLO_COMMIT").filter(|commit| !commit.is_empty());
        let commit = commit.map_or(String::new(), |commit| format!("commit {commit}, "));
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        format!("{} ({commit}{target})", env!("CARGO_PKG_VERSION"))
    })
}

pub use base::error::{Error, Exit, Reason, Result};
