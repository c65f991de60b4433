//! Where releases come from: a file for each kind of source.

pub mod artifact;
pub mod bundle;
pub mod cosign;
pub mod guarded;
pub mod http;
pub(crate) mod mirrors;
pub mod oci;
pub mod open;
pub mod reference;
pub mod signatures;
pub mod source;
pub mod statement;
