//! The update agent: from a release on a server to a verified inactive boot slot.

pub mod config;
pub mod device;
pub mod env;
pub mod error;
pub mod fetch;
pub mod gates;
pub mod health;
pub mod json;
pub mod limits;
pub mod mount;
pub mod progress;
pub mod publish;
pub mod release;
pub mod slot;
pub mod source;
pub mod state;
mod sys;
pub mod text;
pub mod trust;
pub mod window;

pub use error::{Error, Exit, Result};
