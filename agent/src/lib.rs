//! The update agent: from a release on a server to a verified inactive boot slot.
//!
//! The folders are layers: each uses only those below it. `docs/architecture.md` has their order and content.
#![warn(unreachable_pub)]
// Standard output is data, and standard error is written in one place: `console`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod base;
pub mod cli;
pub mod config;
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

pub use base::error::{Error, Exit, Reason, Result};
