//! Receipts: the outcome of a trial, signed by the key of this device.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bootenv::TrialId;
use chrono::{DateTime, Utc};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::words::Recorded;
use crate::base::{json, limits};
use crate::state::file::SCHEMA;
use crate::state::format::{as_text, optional_seconds, seconds};
use crate::state::history::TrialOutcome;
use crate::trust::device_key::DeviceKey;
use crate::trust::signature::Fingerprint;

/// The type of a receipt. The key of a device signs nothing else.
pub const RECEIPT_TYPE: &str = "application/vnd.kubesolo.os.receipt.v1+json";

/// The signed document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Always [`RECEIPT_TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Id of the device: SHA-256 of its public key.
    pub device: Fingerprint,
    /// Digest of the release's manifest.
    pub release: Digest,
    /// Of the release, SemVer.
    pub version: String,
    /// How the trial ended.
    pub outcome: Recorded<TrialOutcome>,
    /// As in the boot environment, 8 hex digits.
    #[serde(with = "as_text")]
    pub trial: TrialId,
    /// Start of the attempt that the trial belongs to, by the device's clock.
    #[serde(default, with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the agent found out how the trial ended, by the device's clock.
    #[serde(with = "seconds")]
    pub ended_at: DateTime<Utc>,
    /// Version of the agent that says so.
    pub agent: String,
}

/// A receipt with its signature, as it is kept, printed and carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// 1.
    schema: u32,
    /// The exact bytes that are signed, a JSON object, in base64.
    pub receipt: String,
    /// Ed25519 over these bytes, in base64.
    pub signature: String,
    /// The key of the device, 64 hex digits. It proves nothing: a reader has the keys of its devices.
    pub public_key: String,
}

/// `receipts/TRIAL.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReceipt {
    /// The receipt.
    #[serde(flatten)]
    pub signed: SignedReceipt,
    /// Identity of the medium that the release came from, until the receipt is written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
}

impl Receipt {
    /// Signs it.
    ///
    /// # Errors
    /// 70 when it cannot be written as JSON.
    pub fn sign(&self, key: &DeviceKey) -> Result<SignedReceipt> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::new(Reason::Internal, e.to_string()))?;
        Ok(SignedReceipt {
            schema: SCHEMA,
            signature: BASE64.encode(key.sign(&bytes)),
            receipt: BASE64.encode(bytes),
            public_key: key.public(),
        })
    }
}

impl SignedReceipt {
    /// Reads a document with one receipt, or a list of them, as `receipt --json` prints it. Nothing is proven yet.
    ///
    /// # Errors
    /// 65 for anything else.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Vec<Self>> {
        if bytes.len() as u64 > limits::RECEIPTS_BYTES {
            return Err(limits::exceeded(name, format_args!("{} bytes", limits::RECEIPTS_BYTES)));
        }
        let all: Vec<Self> = match bytes.trim_ascii_start().first() {
            Some(b'[') => json::parse(bytes, name),
            _ => json::parse(bytes, name).map(|one| vec![one]),
        }
        .map_err(|e| Error { reason: Reason::MalformedReceipt, ..e })?;
        match all.iter().find(|one| one.schema > SCHEMA) {
            Some(newer) => Err(malformed(name, format_args!("it has schema {}", newer.schema))),
            None => Ok(all),
        }
    }

    /// Its content, without a proof.
    ///
    /// # Errors
    /// 65 when it is no receipt.
    pub fn claimed(&self, name: &str) -> Result<Receipt> {
        let bytes = BASE64.decode(&self.receipt).map_err(|e| malformed(name, e))?;
        let receipt: Receipt =
            json::parse(&bytes, name).map_err(|e| Error { reason: Reason::MalformedReceipt, ..e })?;
        if receipt.kind != RECEIPT_TYPE {
            return Err(malformed(name, "it has another type"));
        }
        Ok(receipt)
    }

    /// Its content, if this key signed it.
    ///
    /// # Errors
    /// 77 for another signature, 65 when it is no receipt, or that of another device.
    pub fn verify(&self, key: &VerifyingKey, name: &str) -> Result<Receipt> {
        let bytes = BASE64.decode(&self.receipt).map_err(|e| malformed(name, e))?;
        let signature = BASE64.decode(&self.signature).ok().and_then(|bytes| Signature::from_slice(&bytes).ok());
        let holds = signature.is_some_and(|signature| key.verify_strict(&bytes, &signature).is_ok());
        if !holds {
            let message = format!("{name}: the signature is not by the key of the device");
            return Err(
                Error::new(Reason::SignatureInvalid, message).remedy("Collect the receipt from the device again.")
            );
        }
        let receipt = self.claimed(name)?;
        if receipt.device != Fingerprint::of(key.as_bytes()) {
            return Err(malformed(name, "it is of another device than the one that signed it"));
        }
        Ok(receipt)
    }
}

fn malformed(name: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Reason::MalformedReceipt, format!("{name} is no receipt: {why}"))
        .remedy("Collect the receipt from the device again.")
}
