//! Receipts of devices, which a person collected: verified, and as a table of who has what.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use ed25519_dalek::VerifyingKey;
use serde::{Serialize, Serializer};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, ErrorReport, Reason, Result};
use kubesolo_update::base::{files, limits, text};
use kubesolo_update::state::history::TrialOutcome;
use kubesolo_update::state::receipt::{Receipt, SignedReceipt};
use kubesolo_update::trust::keys;
use kubesolo_update::trust::signature::Fingerprint;

/// Files in a folder of receipts or of devices that are read.
const FILES: usize = 100_000;
/// Folders below a folder of receipts: that of a stick, that of a site.
const DEPTH: u32 = 4;

/// The answer of `kubesolo-release receipts --json`.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Receipts that hold, by device and time.
    pub receipts: Vec<Row>,
    /// Files and receipts that do not count.
    pub refused: Vec<Refused>,
    /// The failure of the command, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// A receipt that its device signed.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Name of the device: that of its key file, without the end.
    pub device: String,
    /// SHA-256 of its public key.
    pub device_id: Fingerprint,
    /// Of the release.
    pub version: String,
    /// Digest of the release's manifest.
    pub release: Digest,
    /// How the trial ended: `committed`, `failed` and others.
    pub outcome: String,
    /// True if it is the last release that this device committed: the one that it has, as far as the receipts show.
    pub current: bool,
    /// When the agent found out how the trial ended, by the device's clock.
    #[serde(serialize_with = "seconds")]
    pub ended_at: DateTime<Utc>,
    /// The trial, 8 hex digits.
    pub trial: String,
    /// Version of the agent.
    pub agent: String,
}

/// A receipt, or a file, that does not count.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// The file.
    pub file: PathBuf,
    /// The cause.
    pub error: ErrorReport,
}

fn seconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(*time))
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A device by its key.
struct Device {
    name: String,
    key: VerifyingKey,
}

impl Table {
    /// Reads the receipts in a folder and the folders in it, and verifies them with the keys in the folder `devices`, one file
    /// for each device. A receipt that is there twice counts once.
    ///
    /// # Errors
    /// 69 when a folder cannot be read, 78 for a key that cannot be used. A receipt that does not hold is none.
    pub fn read(receipts: &Path, devices: &Path) -> Result<Self> {
        let devices = load(devices)?;
        let mut found: BTreeMap<(String, DateTime<Utc>, String), Receipt> = BTreeMap::new();
        let mut refused = vec![];
        for file in documents(receipts)? {
            match read(&file, &devices) {
                Ok(all) => {
                    for one in all {
                        match one {
                            Ok((name, receipt)) => {
                                let order = (name, receipt.ended_at, receipt.trial.to_string());
                                found.insert(order, receipt);
                            }
                            Err(error) => refused.push(Refused { file: file.clone(), error: error.report() }),
                        }
                    }
                }
                Err(error) => refused.push(Refused { file, error: error.report() }),
            }
        }
        let mut rows: Vec<_> = found.into_iter().map(|((device, ..), receipt)| Row::of(device, receipt)).collect();
        let committed = TrialOutcome::Committed.as_str();
        let mut last = BTreeMap::new();
        for (number, row) in rows.iter().enumerate().filter(|(_, row)| row.outcome == committed) {
            last.insert(row.device.clone(), number);
        }
        last.into_values().for_each(|number| rows[number].current = true);
        Ok(Self { receipts: rows, refused, error: None })
    }

    /// The first refusal.
    ///
    /// # Errors
    /// 65 or 77 when a receipt or a file does not count.
    pub fn whole(&self) -> Result<()> {
        let Some(first) = self.refused.first() else { return Ok(()) };
        let error =
            Error::new(first.error.reason, format!("{} did not count: {}", count(&self.refused), first.error.message));
        Err(error.remedy(first.error.remedy.clone()))
    }

    /// The receipts as lines of comma-separated values (RFC 4180), under a line with the names.
    #[must_use]
    pub fn csv(&self) -> String {
        let line = |row: [String; 9]| row.map(|value| quoted(&value)).join(",") + "\r\n";
        let head = line(COLUMNS.map(str::to_owned));
        self.receipts.iter().fold(head, |all, row| all + &line(row.values()))
    }
}

fn count(refused: &[Refused]) -> String {
    match refused.len() {
        1 => "1 receipt".to_owned(),
        number => format!("{number} receipts"),
    }
}

const COLUMNS: [&str; 9] =
    ["device", "version", "outcome", "current", "ended_at", "release", "device_id", "trial", "agent"];

/// A value that a spreadsheet would take for a formula gets a blank in front.
fn quoted(value: &str) -> String {
    let value = if value.starts_with(['=', '+', '-', '@']) { format!(" {value}") } else { value.to_owned() };
    match value.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value,
    }
}

impl Row {
    fn of(device: String, receipt: Receipt) -> Self {
        Self {
            device,
            device_id: receipt.device,
            version: receipt.version,
            release: receipt.release,
            outcome: receipt.outcome.to_string(),
            current: false,
            ended_at: receipt.ended_at,
            trial: receipt.trial.to_string(),
            agent: receipt.agent,
        }
    }

    fn values(&self) -> [String; 9] {
        let current = if self.current { "yes" } else { "no" };
        [
            self.device.clone(),
            text::escape(&self.version),
            text::escape(&self.outcome),
            current.to_owned(),
            shown(self.ended_at),
            self.release.to_string(),
            self.device_id.to_string(),
            self.trial.clone(),
            text::escape(&self.agent),
        ]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![["DEVICE", "VERSION", "OUTCOME", "CURRENT", "ENDED"].map(str::to_owned)];
        rows.extend(self.receipts.iter().map(|row| {
            let [device, version, outcome, current, ended, ..] = row.values();
            [device, version, outcome, current, ended]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let [device, version, outcome, current] = [width(0), width(1), width(2), width(3)];
        for [a, b, c, d, e] in &rows {
            writeln!(f, "{a:device$}  {b:version$}  {c:outcome$}  {d:current$}  {e}")?;
        }
        for Refused { file, error } in &self.refused {
            writeln!(f, "does not count: {}: {}", text::escape(&file.display().to_string()), error.message)?;
        }
        Ok(())
    }
}

/// The devices, each by a file with its public key.
fn load(folder: &Path) -> Result<Vec<Device>> {
    let listed =
        files::list(folder).context(Reason::NotReadable, format_args!("list the devices in {}", folder.display()))?;
    if listed.entries.len() > FILES {
        return Err(limits::exceeded(folder.display(), format_args!("{FILES} devices")));
    }
    let one = |file: &PathBuf| {
        let bad = |why: String| {
            Error::new(Reason::BadKey, format!("{} is no public key of a device: {why}", file.display())).remedy(
                "Write the device_key of `kubesolo-update status --json` into a file with the name of the device.",
            )
        };
        let bytes = files::read_data(file, limits::KEY_FILE_BYTES).map_err(|e| bad(e.to_string()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Device { name: text::escape(&name), key: keys::parse(&bytes).map_err(bad)? })
    };
    listed.entries.iter().map(one).collect()
}

/// All files below a folder whose names end in `.json`. Links are not followed.
fn documents(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (vec![], vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = left.pop() {
        let reading = format_args!("list the receipts in {}", folder.display()).to_string();
        for entry in fs::read_dir(&folder).context(Reason::NotReadable, &reading)? {
            let entry = entry.context(Reason::NotReadable, &reading)?;
            let kind = entry.file_type().context(Reason::NotReadable, &reading)?;
            if kind.is_dir() && depth < DEPTH {
                left.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.path().extension().is_some_and(|end| end == "json") {
                found.push(entry.path());
            }
            if found.len() + left.len() > FILES {
                return Err(limits::exceeded(folder.display(), format_args!("{FILES} files")));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The receipts of a file, each with the name of its device, or the cause that it does not count.
fn read(file: &Path, devices: &[Device]) -> Result<Vec<Result<(String, Receipt)>>> {
    let name = text::escape(&file.display().to_string());
    let bytes =
        files::read_data(file, limits::RECEIPTS_BYTES + 1).context(Reason::NotReadable, format_args!("read {name}"))?;
    let verified = |signed: SignedReceipt| {
        let said = signed.claimed(&name)?.device;
        let device = devices.iter().find(|device| Fingerprint::of(device.key.as_bytes()) == said).ok_or_else(|| {
            let message = format!("{name} is of the device {said}, whose key is not known");
            Error::new(Reason::SignatureUnknownKey, message).remedy("Add the public key of that device.")
        })?;
        Ok((device.name.clone(), signed.verify(&device.key, &name)?))
    };
    Ok(SignedReceipt::parse(&bytes, &name)?.into_iter().map(verified).collect())
}
