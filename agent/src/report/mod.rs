//! Commands that only look.

pub mod doctor;
pub mod metrics;
pub mod status;
