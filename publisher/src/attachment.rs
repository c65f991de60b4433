//! Documents about a release that a publisher attaches to it: bills of materials, and records of the build. Devices ignore them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::referrer::Referrer;
use super::registry::Registry;
use super::{blob, descriptor};
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits};
use kubesolo_update::release::release::Blob;

/// The largest document that is attached, in bytes: its kind is found out in memory.
const DOCUMENT_BYTES: u64 = 64 << 20;

/// The type of a bill of materials by SPDX, as syft and trivy attach it (IANA media types).
pub const SPDX_TYPE: &str = "application/spdx+json";
/// The type of a bill of materials by CycloneDX (IANA media types).
pub const CYCLONEDX_TYPE: &str = "application/vnd.cyclonedx+json";
/// The type of an in-toto statement: the record of a build by SLSA is one.
/// <https://github.com/in-toto/attestation/blob/main/spec/v1/envelope.md>
pub const IN_TOTO_TYPE: &str = "application/vnd.in-toto+json";
/// The type of a signed envelope, as <https://github.com/secure-systems-lab/dsse> has it.
pub const DSSE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";

/// The first words of the type of an in-toto statement, of any version.
const STATEMENT: &str = "https://in-toto.io/Statement/";

/// A document to attach.
#[derive(Clone, Debug)]
pub struct Attachment {
    path: PathBuf,
    blob: Blob,
    kind: &'static str,
}

/// The members by which kinds of documents differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    spdx_version: Option<IgnoredAny>,
    bom_format: Option<String>,
    #[serde(rename = "_type")]
    statement: Option<String>,
    payload_type: Option<String>,
}

impl Attachment {
    /// A bill of materials: SPDX or CycloneDX, in JSON.
    ///
    /// # Errors
    /// 65 for another document, 69 for a file that cannot be read.
    pub fn sbom(path: &Path) -> Result<Self> {
        let marks = marks(path)?;
        let kind = match (marks.spdx_version, marks.bom_format.as_deref()) {
            (Some(_), _) => SPDX_TYPE,
            (None, Some("CycloneDX")) => CYCLONEDX_TYPE,
            _ => return Err(unknown(path, "a bill of materials", "an SPDX 2 or CycloneDX document")),
        };
        Self::new(path, kind)
    }

    /// A record of the build: an in-toto statement, or one in a signed envelope.
    ///
    /// # Errors
    /// As for [`Attachment::sbom`].
    pub fn provenance(path: &Path) -> Result<Self> {
        let marks = marks(path)?;
        let kind = match (marks.statement.as_deref(), marks.payload_type.as_deref()) {
            (Some(kind), None) if kind.starts_with(STATEMENT) => IN_TOTO_TYPE,
            (None, Some(IN_TOTO_TYPE)) => DSSE_TYPE,
            _ => return Err(unknown(path, "a record of a build", "an in-toto statement or its DSSE envelope")),
        };
        Self::new(path, kind)
    }

    fn new(path: &Path, kind: &'static str) -> Result<Self> {
        Ok(Self { path: path.to_owned(), blob: blob(path)?, kind })
    }

    /// Uploads the document and attaches it to a manifest.
    pub(super) fn attach(&self, registry: &Registry, manifest: &[u8]) -> Result<()> {
        let (what, title) = match self.kind {
            SPDX_TYPE => ("bill of materials", "sbom.spdx.json"),
            CYCLONEDX_TYPE => ("bill of materials", "sbom.cdx.json"),
            _ => ("record of the build", "provenance.json"),
        };
        let _ = registry.put_file(what, &self.blob, &self.path)?;
        let referrer = Referrer::new(manifest, self.kind, descriptor(self.kind, &self.blob, title), &json!({}));
        referrer.put(registry, &format!("the {what}"))
    }
}

fn marks(path: &Path) -> Result<Marks> {
    let read = files::read_data(path, DOCUMENT_BYTES + 1);
    let raw = read.context(Reason::NotReadable, format!("read {}", path.display()))?;
    if raw.len() as u64 > DOCUMENT_BYTES {
        return Err(limits::exceeded(path.display(), format_args!("{DOCUMENT_BYTES} bytes")));
    }
    serde_json::from_slice(&raw).map_err(|e| {
        let message = format!("{} is not a JSON object with known members: {e}", path.display());
        Error::new(Reason::MalformedAttachment, message)
    })
}

fn unknown(path: &Path, what: &str, known: &str) -> Error {
    Error::new(Reason::MalformedAttachment, format!("{} is not {what} in a known form", path.display()))
        .remedy(format!("Name {known} in JSON. For another type use `oras attach`: `bundle` and `copy` keep it."))
}
