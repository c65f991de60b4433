//! An update under way, and what it reports.

use std::collections::BTreeMap;

use bootenv::{SlotId, TrialId};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::base::error::{Error, Result};
use crate::config::Config;
use crate::delta::body::{DeltaBody, Tally};
use crate::device::boot::Boot;
use crate::fetch::body::Body as _;
use crate::policy::gate::{self, Lifted};
use crate::release::release::Release;
use crate::schedule::clock::Clock;
use crate::state::history::Origins;
use crate::state::state::Outcome;
use crate::update::changes::Changes;
use crate::update::data;
use crate::update::records::LockedRecords;
use crate::update::session::{Session, TrialOf};

/// Everything that a command needs to change the device.
#[derive(Debug)]
pub struct Update<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The device as this boot finds it.
    pub boot: &'a mut Boot,
    /// Records of this run.
    pub records: &'a mut LockedRecords,
    /// Gates that a person bypasses.
    pub lifted: Lifted,
    /// Time of the system's clock.
    pub now: DateTime<Utc>,
}

/// The outcome of `apply` and `activate`.
#[derive(Debug, Serialize)]
pub struct ApplyReport {
    /// `up-to-date`, `would-stage`, `staged`, `activated`.
    pub outcome: Outcome,
    /// The release.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The slot that has it, or would get it.
    pub slot: String,
    /// The trial, once activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
    /// True if the image was fetched and written by this run.
    pub written: bool,
    /// Bytes of the images, where this run wrote them.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    /// Differences to the running release, of `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// The expected cost of `apply`, of `--dry-run`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
}

/// Where the bytes of the images would come from, each image from its first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Over the network.
    #[serde(rename = "bytes_to_fetch")]
    pub fetched: u64,
    /// From the booted slot.
    #[serde(rename = "bytes_to_reuse")]
    pub reused: u64,
    /// Made by patches.
    #[serde(rename = "bytes_to_patch")]
    pub patched: u64,
}

/// Where the bytes of the images came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// Over the network, each byte as often as it came.
    #[serde(rename = "bytes_fetched")]
    pub fetched: u64,
    /// From the booted slot, which has the same image, or pieces of it.
    #[serde(rename = "bytes_reused")]
    pub reused: u64,
    /// Made by patches.
    #[serde(rename = "bytes_patched", skip_serializing_if = "is_zero")]
    pub patched: u64,
    /// Pieces that were fetched although the booted slot or a patch was to give them, by the cause.
    #[serde(rename = "pieces_fell_back", skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<&'static str, u64>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Costs {
    /// As the history has it.
    pub(super) fn origins(&self) -> Origins {
        Origins { fetched: self.fetched, reused: self.reused, patched: self.patched }
    }

    /// Adds an image that came in pieces.
    pub(super) fn add(&mut self, body: &DeltaBody) {
        let Tally { reused, patched, fallbacks } = body.tally();
        self.fetched += body.fetched();
        self.reused += reused;
        self.patched += patched;
        for (why, pieces) in fallbacks {
            *self.fallbacks.entry(why).or_default() += pieces;
        }
    }
}

impl ApplyReport {
    pub(super) fn new(outcome: Outcome, release: &Release, slot: SlotId) -> Self {
        Self {
            outcome,
            version: release.version.to_string(),
            digest: release.digest.to_string(),
            slot: slot.to_string(),
            trial: None,
            written: false,
            costs: None,
            changes: None,
            expected: None,
        }
    }
}

impl Update<'_> {
    /// The same without the right to change anything.
    #[must_use]
    pub fn session(&self) -> Session<'_> {
        Session::new(self.config, self.boot, self.records, self.lifted, self.now)
    }
}

impl Update<'_> {
    /// Clears away checkpoints that no trial waits for.
    pub(super) fn tidy_data(&self) {
        data::tidy(self.config, self.boot, &self.records.data());
    }

    /// Drops data that were kept as long as the settings say, by a clock that can be right.
    pub(super) fn expire_data(&self) {
        let now = Clock::system(self.now, self.records.trust.last_seen).believed();
        if let Err(error) = now.and_then(|now| data::expire(self.config, &self.records.data(), now)) {
            log::info!("checkpoints are kept longer: {error}");
        }
    }

    /// True if a trial of this device gets a checkpoint of its data.
    pub(super) fn protects_data(&self) -> bool {
        data::unprotected(self.records.path(), self.config, &self.records.data()).is_none()
    }

    /// Refuses a trial whose data could not be saved.
    pub(super) fn data_ready(&self, trial: TrialOf<'_>) -> Result<()> {
        let gates = self.session().data_gates(trial);
        gate::pass(&gates)?;
        gates.iter().filter(|gate| gate.unknown).for_each(|gate| log::warn!("{}: {}", gate.name, gate.message));
        if self.protects_data() { data::make_room(self.config, self.boot, &self.records.data()) } else { Ok(()) }
    }

    /// Announces the checkpoint of a trial, before anything else names that trial.
    pub(super) fn announce_data(&self, trial: TrialId) -> Result<()> {
        if self.protects_data() {
            data::announce(self.config, self.boot, &self.records.data(), trial, self.now)?;
        }
        Ok(())
    }
}

/// Adds that the device still boots as before, which is the first question about any failure.
#[must_use]
pub fn no_slot_touched(error: Error) -> Error {
    const SAID: &str = "No slot was changed.";
    if error.remedy.ends_with(SAID) {
        return error;
    }
    let error = error.advised();
    let remedy = format!("{} {SAID}", error.remedy);
    error.remedy(remedy)
}
