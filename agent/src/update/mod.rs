//! The update, top to bottom.

pub mod adopt;
pub mod apply;
pub mod memory;
pub mod trial;
pub mod unattended;
