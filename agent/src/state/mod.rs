//! Records on the data partition: `state.json` (the phase of an update), `trust.json` (facts that must not be lost),
//! `history.json` (past attempts), `records/` (their steps and evidence), `fetch.json` (downloads), `memory.json` and `unjudged.json` (trials that no health run
//! judged), `fleetlock.json` (a lock of a FleetLock server), `outbox/` (events that wait for their receiver), `intake/` (bundles that were examined), and the lock that only one agent holds.

pub mod fetches;
pub mod file;
pub mod fleetlock;
pub mod format;
pub mod freshness;
pub mod history;
pub mod hooks;
pub mod identity;
pub mod intake;
pub mod memory;
pub mod outbox;
pub mod phase;
pub mod receipt;
pub mod records;
pub mod state;
pub mod store;
pub mod trust;
