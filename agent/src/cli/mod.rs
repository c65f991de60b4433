//! The terminal: arguments, the verbs, and what they print.

pub mod args;
mod call;
pub mod explain;
mod output;
pub mod run;
pub mod show;
mod verbs;
