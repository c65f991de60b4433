//! All tests of the agent that may share a process: one program to link. Apart are `state` (its locks are held by this process,
//! and by each child that it is starting), `block_devices` (a child that is starting keeps them busy), and `faults` (long).
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../cli_support/mod.rs"]
mod cli_support;
#[path = "../common/mod.rs"]
mod common;
#[path = "../slot_support/mod.rs"]
mod slot_support;
#[path = "../common/tmpfs.rs"]
mod tmpfs;

mod adopt;
mod bundle;
mod changes;
mod cli_cycle;
mod cli_env;
mod cli_freshness;
mod cli_gates;
mod cli_refused;
mod cli_reports;
mod cli_rpi;
mod cli_trust;
mod cli_uboot;
mod cli_unattended;
mod cli_unjudged;
mod cluster;
mod compat;
mod config;
mod data;
mod delta;
mod despair;
mod device;
mod devicetree;
mod disk;
mod events;
mod evidence;
mod extras;
mod fleet;
mod fleetlock;
mod hooks;
mod http;
mod intake;
mod kubernetes;
mod layout;
mod loader;
mod network;
mod oci;
mod parsers;
mod patches;
mod receipts;
mod records;
mod requests;
mod resume;
mod rollout;
mod schema;
mod screens;
mod scrub;
mod security;
mod slot_folder;
mod soak;
mod steps;
mod sticks;
mod systemd;
mod trust;
mod wear;
