//! First boot: the settings of the update agent from NoCloud user-data, for images without cloud-init.
//!
//! A seed is a volume with the label CIDATA, or a folder of the image. Its user-data has an `updates:` block, which becomes
//! `update.conf`, whole or not at all, once per instance.
#![warn(unreachable_pub)]
// Bounds of a function: see clippy.toml.
#![warn(clippy::too_many_arguments, clippy::too_many_lines)]
// Standard output is data, and standard error is written in one place: `console`.
#![warn(clippy::print_stdout, clippy::print_stderr)]
// Files are opened by `base::files`, written by `base::replace`, and programs run by `device::programs`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod instance;
pub mod run;
pub mod seed;
pub mod user_data;
mod yaml;
