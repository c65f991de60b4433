//! An initramfs of pieces: the device has most of them and fetches the rest.

pub mod cutter;
pub mod index;
