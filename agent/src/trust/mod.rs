//! Public keys, and what they vouch for.

pub mod cosign;
pub mod device_key;
pub mod keys;
pub mod signature;
pub mod sigstore;
pub mod stream;
