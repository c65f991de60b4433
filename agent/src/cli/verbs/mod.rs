//! The commands, each in a file of its own. Each returns its exit code.

pub(super) mod activate;
pub(super) mod adopt;
pub(super) mod apply;
pub(super) mod check;
pub(super) mod data;
pub(super) mod disk;
pub(super) mod evidence;
pub(super) mod healthcheck;
pub(super) mod intake;
pub(super) mod reports;
pub(super) mod rollback;
pub(super) mod settings;
pub(super) mod trust;
pub(super) mod unattended;
