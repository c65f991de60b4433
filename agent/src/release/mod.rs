//! Signed documents: what they say, before anybody believes it.

pub mod devicetree;
pub mod extras;
pub mod latest;
pub mod offer;
pub mod release;
pub mod statement;
