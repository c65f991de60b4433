//! All tests of the crate, as one program to link.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod seed;
mod user_data;
