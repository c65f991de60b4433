//! May this release be installed here and now?

pub mod freshness;
pub mod gate;
pub mod hooks;
pub(crate) mod kubeconfig;
pub mod kubernetes;
pub mod kubesolo;
pub mod node;
pub mod preflight;
pub mod requires;
pub mod rules;
pub mod trust_policy;
