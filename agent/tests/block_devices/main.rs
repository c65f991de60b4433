//! Slots on block devices. One test at a time: a process that another test is starting holds, for a moment, every file that
//! this one has open, and so keeps devices busy.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../cli_support/mod.rs"]
mod cli_support;
#[path = "../common/mod.rs"]
mod common;
#[path = "../slot_support/mod.rs"]
mod slot_support;

mod full_disk;
mod slot_device;
mod slot_repair;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test as long as it runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
