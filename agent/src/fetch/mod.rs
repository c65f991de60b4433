//! HTTP, with a limit on everything.

mod blob;
pub mod challenge;
mod client;
pub(crate) mod cluster;
mod options;
mod probe;

pub use client::use_ring;
pub use options::{FetchOptions, Patience};

pub(crate) use blob::BlobBody;
pub(crate) use client::{Answer, Client, Deadline, digest_of, shown, without_login};
pub(crate) use probe::answers;
