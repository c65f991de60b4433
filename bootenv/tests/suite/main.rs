//! All tests of the crate that may share a process. Apart are `lock` and `uboot`, whose locks this process holds, and with them
//! each child that it starts, and `model`, which takes all processors.

#[path = "../common/mod.rs"]
mod common;

mod block;
mod medium;
mod oracle;
mod protocol;
mod recovery;
mod rpi;
mod uboot_tools;
