//! What the agent remembers on the data partition: `state.json` (where an update stands), `trust.json` (what must not be
//! forgotten), `history.json` (past attempts), and the lock that only one agent holds.

pub mod file;
pub mod format;
pub mod freshness;
pub mod history;
pub mod identity;
pub mod phase;
pub mod state;
pub mod store;
pub mod trust;
