//! When: clock, zone, window, rollout.

pub mod clock;
pub mod rollout;
pub mod window;
pub mod zone;
