//! A write that a registry refuses, in its own words.

use oci_client::errors::{OciEnvelope, OciErrorCode};

use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::base::text;
use kubesolo_update::fetch::answer::Answer;

/// The error of an answer that is no success. A registry names the cause in an envelope of errors (OCI distribution
/// specification, "Error Codes"); anything else may be a page of a proxy.
pub(super) fn refusal(answer: &Answer, what: &str) -> Error {
    let envelope: Option<OciEnvelope> = serde_json::from_slice(&answer.body).ok();
    let errors = envelope.map(|envelope| envelope.errors).unwrap_or_default();
    let is_denied = |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
    let denied =
        matches!(answer.status.as_u16(), 401 | 403) || errors.first().is_some_and(|error| is_denied(&error.code));
    let code = |code: &OciErrorCode| serde_json::to_value(code).ok()?.as_str().map(str::to_owned);
    let named: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", code(&error.code).unwrap_or_default(), error.message)).collect();
    let said = if named.is_empty() { String::from_utf8_lossy(&answer.body).into_owned() } else { named.join("; ") };
    let (host, status) = (answer.url.origin().ascii_serialization(), answer.status.as_u16());
    let message = format!("cannot upload {what}: {host} answers {status}: {}", text::escape(said.trim()));
    Error::new(if denied { Reason::AccessDenied } else { Reason::RegistryFailed }, message)
}
