//! An initramfs of pieces: the device has most of them and fetches the rest.

pub mod body;
pub mod cutter;
pub mod encoder;
pub mod index;
pub mod known;
pub mod pack;
pub mod patch;
pub mod plan;
pub mod prepare;
