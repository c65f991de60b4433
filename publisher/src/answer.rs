//! The results of `kubesolo-release`: lines for people, or one JSON object for scripts. `docs/schema` is made from these
//! types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, ErrorReport};
use kubesolo_update::base::{console, text};
use kubesolo_update::cli::explain::Explained;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::state::freshness::FreshnessReport;
use kubesolo_update::{Error, Reason, Result};

/// Version of the JSON that commands print. New members do not change it.
const SCHEMA: u32 = 1;

/// The result of a command.
pub(super) struct Answer {
    text: String,
    data: Value,
    /// The result is there, and is not what was asked for.
    failure: Option<Error>,
}

impl Answer {
    pub(super) fn new(text: String, data: &impl Serialize) -> Result<Self> {
        let data = serde_json::to_value(data).context(Reason::Json, "write the answer as JSON")?;
        Ok(Self { text, data, failure: None })
    }

    /// Fails the command, in spite of its answer. The object has the failure as a member.
    pub(super) fn failing(self, failure: Option<Error>) -> Self {
        Self { failure, ..self }
    }

    /// Prints the one object, or the lines.
    pub(super) fn print(self, json: bool) -> Result<()> {
        console::print(&if json { document(self.data) } else { self.text });
        self.failure.map_or(Ok(()), Err)
    }
}

/// JSON in ASCII: texts of a release may have characters that act on a terminal, and JSON can escape them all.
fn document(mut object: Value) -> String {
    object["schema"] = json!(SCHEMA);
    format!("{}\n", text::ascii(&format!("{object:#}")))
}

/// Prints the object of a failure.
pub(super) fn print_error(error: &Error) {
    console::print(&document(serde_json::to_value(Failed { error: error.report() }).unwrap_or_default()));
}

/// Digests by the name of their architecture.
pub(super) fn by_architecture(digests: &[(Architecture, Digest)]) -> BTreeMap<String, Digest> {
    digests.iter().map(|(architecture, digest)| (architecture.to_string(), *digest)).collect()
}

/// A failure.
#[derive(Serialize)]
struct Failed {
    /// Exit code, reason, message and next step.
    error: ErrorReport,
}

/// Result of `keygen`.
#[derive(Serialize)]
pub(super) struct NewKey {
    /// Id of the key: the first 16 hex digits of the SHA-256 of the public key.
    pub key_id: String,
    /// File of the private key.
    pub private_key: PathBuf,
    /// File of the public key.
    pub public_key: PathBuf,
}

/// Result of `publish`.
#[derive(Serialize)]
pub(super) struct Published {
    /// The reference, for a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of the index, for a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// The folder, for an HTTP server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// True if nothing was written.
    pub dry_run: bool,
    /// Digest of the manifest, or of `latest.json`, by architecture.
    pub manifests: BTreeMap<String, Digest>,
}

/// Result of `sign`.
#[derive(Serialize)]
pub(super) struct Signed {
    /// Digest of the signed manifest, by architecture.
    pub signed: BTreeMap<String, Digest>,
}

/// Result of `payload`.
#[derive(Serialize)]
pub(super) struct Payloads {
    /// One file for each architecture.
    pub payloads: Vec<OnePayload>,
}

/// A file whose bytes are to be signed.
#[derive(Serialize)]
pub(super) struct OnePayload {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The file.
    pub file: PathBuf,
    /// Digest of the kernel.
    pub kernel: Digest,
    /// Digest of the initramfs.
    pub initramfs: Digest,
}

/// Result of `attach`.
#[derive(Serialize)]
pub(super) struct Attached {
    /// All signatures that were attached.
    pub signatures: Vec<OneSignature>,
}

/// A signature that was attached.
#[derive(Serialize)]
pub(super) struct OneSignature {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Digest of the signed manifest.
    pub digest: Digest,
    /// Id of the key that made it.
    pub key_id: String,
}

/// Result of `freshness`.
#[derive(Serialize)]
pub(super) struct Freshness {
    /// Channel of the statement.
    pub channel: String,
    /// Serial of the statement. Devices refuse a lower one.
    pub serial: u64,
    /// End of the statement: RFC 3339, in UTC.
    pub not_after: String,
    /// Digest of the release on offer, by architecture.
    pub digests: BTreeMap<String, Digest>,
    /// Ids of the keys that signed it.
    pub signed_by: Vec<String>,
}

/// Result of `verify`.
#[derive(Serialize)]
pub(super) struct Verified {
    /// One release for each architecture.
    pub releases: Vec<OneRelease>,
}

/// A release that a device accepts.
#[derive(Serialize)]
pub(super) struct OneRelease {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Digest of its manifest or `latest.json`.
    pub digest: Digest,
    /// SemVer.
    pub version: String,
    /// Ids of the keys that signed it.
    pub signed_by: Vec<String>,
    /// Freshness; null without a statement.
    pub freshness: Option<FreshnessReport>,
    /// Bytes of both images, which were fetched and have the signed digests; null with `--metadata-only`.
    pub image_bytes: Option<u64>,
    /// Bytes of the device tree, which was fetched and has the signed digest; null without one, and with `--metadata-only`.
    pub devicetree_bytes: Option<u64>,
}

/// Result of `tag`.
#[derive(Serialize)]
pub(super) struct Tagged {
    /// Digest of the index or manifest.
    pub digest: Digest,
    /// Tags that name it now.
    pub tags: Vec<String>,
}

/// Result of `bundle`.
#[derive(Serialize)]
pub(super) struct Bundled {
    /// The file.
    pub file: PathBuf,
    /// Digest of the manifest, by architecture.
    pub manifests: BTreeMap<String, Digest>,
}

/// Result of `copy`.
#[derive(Serialize)]
pub(super) struct Copied {
    /// The folder or reference that was filled.
    pub target: String,
    /// Digest of each release, by its reference or tag.
    pub releases: BTreeMap<String, Digest>,
    /// Number of files of the releases.
    pub files: usize,
    /// Number of these files that the target had before.
    pub present: usize,
}

/// Result of `repack`.
#[derive(Serialize)]
pub(super) struct Repacked {
    /// The file.
    pub file: PathBuf,
    /// Its size, in bytes.
    pub size: u64,
    /// Number of pieces.
    pub pieces: u64,
}

/// Result of `factory`.
#[derive(Serialize)]
pub(super) struct Factory {
    /// The folder.
    pub folder: PathBuf,
    /// Version of the release in slot A; null for unpublished images.
    pub version: Option<String>,
    /// Digest of that release; null for unpublished images.
    pub digest: Option<Digest>,
    /// Size of each slot, in MiB.
    pub slot_mib: u64,
    /// The script that makes a disk of the folder.
    pub next: PathBuf,
}

/// Result of `explain`.
#[derive(Serialize)]
pub(super) struct Reasons {
    /// The reasons that were asked for, or all of them.
    pub reasons: Vec<Explained>,
}
