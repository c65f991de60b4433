//! Settings: the command line over `update.conf.d/*.conf` over `update.conf` over defaults.
//!
//! Each setting is one row of [`rows`]: its name, reader, default and documentation. [`Config`] has the values with their
//! types, [`Conf`] the text with its place.

pub mod conf;
#[allow(clippy::module_inception)] // the values of all settings
pub mod config;
pub mod manual;
pub mod proxy;
pub mod report;
pub mod rows;
pub mod values;

pub use self::conf::{Conf, Overrides};
pub use self::config::Config;
pub use self::values::{Auto, AutoSwitch, BootEnv, DeltaSetting, Origin, RegistryMirror, RemovableBundles, Threshold};

/// Where the settings are unless `--conf` says otherwise.
pub const CONF_FILE: &str = "/etc/kubesolo/update.conf";
/// Tag of a release when neither a tag nor a channel is set.
pub const DEFAULT_TAG: &str = "stable";
