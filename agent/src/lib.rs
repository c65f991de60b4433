//! The update agent: from a release on a server to a verified inactive boot slot.

pub mod error;

pub use error::{Error, Exit, Result};
