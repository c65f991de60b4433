//! The instance that was set up here: user-data counts once for each.

use std::fs;
use std::io;
use std::path::Path;

use kubesolo_update::base::error::{Reason, Result};
use kubesolo_update::base::files;
use kubesolo_update::base::replace::{folder_of, replace};
use kubesolo_update::device::disk::INSTANCE_RECORD;
use sha2::{Digest, Sha256};

use crate::seed::Seed;

/// The record, on the data partition.
pub const RECORD: &str = INSTANCE_RECORD;

/// Longest record, in bytes: a digest and an instance-id.
const RECORD_BYTES: u64 = 1024;

/// Comparison of a seed with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Another instance, or none.
    New,
    /// This instance with this user-data.
    Same,
    /// This instance, with other user-data.
    Changed,
}

/// The record of a seed: the digest of its user-data, a blank, its instance-id, a line feed.
fn line(seed: &Seed) -> String {
    format!("{} {}\n", hex::encode(Sha256::digest(&seed.user_data)), seed.instance)
}

/// Looks a seed up.
///
/// # Errors
/// 78 when the record is there and is not trusted.
pub fn compare(record: &Path, seed: &Seed) -> Result<Comparison> {
    let Some(noted) = files::read(record, RECORD_BYTES, Reason::BadRecord)? else { return Ok(Comparison::New) };
    if noted == line(seed).as_bytes() {
        return Ok(Comparison::Same);
    }
    let instance = noted.strip_suffix(b"\n").and_then(|noted| noted.get(65..));
    Ok(if instance == Some(seed.instance.as_bytes()) { Comparison::Changed } else { Comparison::New })
}

/// Notes a seed as done.
///
/// # Errors
/// The record cannot be written.
pub fn note(record: &Path, seed: &Seed) -> io::Result<()> {
    fs::create_dir_all(folder_of(record))?;
    replace(record, line(seed).as_bytes(), 0o644)
}
