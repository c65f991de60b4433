//! The machine: its disks, slots, boot environment and programs.

pub mod blocks;
pub mod boot;
pub mod cmdline;
pub mod data;
pub mod disk;
pub mod env;
pub mod evidence;
pub mod health;
pub mod loader;
pub mod mount;
pub mod programs;
pub mod reboot;
pub mod seen;
pub mod slot;
pub mod table;
