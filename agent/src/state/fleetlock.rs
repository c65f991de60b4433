//! `fleetlock.json`: the lock that this device took from a FleetLock server, until it is released.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::state::file::SCHEMA;
use crate::state::format::seconds;

/// A lock, as it was asked for: the settings may change until it is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetLock {
    schema: u32,
    /// The server.
    pub url: String,
    /// The group of devices.
    pub group: String,
    /// This device.
    pub id: String,
    /// When it was asked for, by the device's clock.
    #[serde(with = "seconds")]
    pub since: DateTime<Utc>,
}

impl FleetLock {
    /// A lock that is asked for now.
    #[must_use]
    pub fn new(url: &str, group: &str, id: &str, since: DateTime<Utc>) -> Self {
        Self { schema: SCHEMA, url: url.to_owned(), group: group.to_owned(), id: id.to_owned(), since }
    }
}
