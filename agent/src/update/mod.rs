//! The update, top to bottom.

pub mod activate;
pub mod adopt;
pub mod apply;
pub mod attempt;
pub mod candidate;
pub mod changes;
pub mod check;
pub mod data;
mod events;
pub mod evidence;
mod fleetlock;
mod hooks;
mod intake;
pub mod loader;
mod node_report;
mod pieces;
pub mod records;
pub mod running;
mod scrub;
pub mod session;
mod sticks;
pub mod trial;
pub mod unattended;
pub mod update;
