//! The update agent: from a release on a server to a verified inactive boot slot.

pub mod error;
pub mod fetch;
pub mod json;
pub mod limits;
pub mod release;
pub mod source;
pub mod text;
pub mod trust;

pub use error::{Error, Exit, Result};
