//! The terminal: arguments, the verbs, and what they print.

pub mod args;
pub mod explain;
pub mod run;
pub mod show;
