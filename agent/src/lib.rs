//! The update agent: from a release on a server to a verified inactive boot slot.

pub mod adopt;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod device;
pub mod env;
pub mod error;
pub mod fetch;
pub mod freshness;
pub mod gates;
pub mod health;
pub mod json;
pub mod limits;
pub mod memory;
pub mod mount;
pub mod parsers;
pub mod progress;
pub mod publish;
pub mod reboot;
pub mod release;
pub mod replace;
pub mod slot;
pub mod source;
pub mod state;
pub mod status;
mod sys;
pub mod text;
pub mod trial;
pub mod trust;
pub mod unattended;
pub mod update;
pub mod window;
pub mod zone;

pub use error::{Error, Exit, Result};
