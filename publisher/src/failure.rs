//! Failures of an upload: may they pass, and how to say them.

use oci_client::errors::{OciDistributionError, OciErrorCode};

use kubesolo_update::base::text;

/// The HTTP status, or the one that the registry's own error stands for.
pub(super) fn status(e: &OciDistributionError) -> Option<u16> {
    match e {
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::RequestError(e) => e.status().map(|s| s.as_u16()),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => Some(401),
        OciDistributionError::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code)? {
            OciErrorCode::Unauthorized => Some(401),
            OciErrorCode::Denied => Some(403),
            OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound => Some(404),
            OciErrorCode::Toomanyrequests => Some(429),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn may_pass(e: &OciDistributionError) -> bool {
    match status(e) {
        Some(code) => matches!(code, 408 | 429 | 500..),
        None => matches!(e, OciDistributionError::RequestError(e) if !e.is_builder() && !e.is_decode()),
    }
}

/// The whole chain of causes on one line: reqwest's own text stops at "error sending request".
pub(super) fn describe(e: &OciDistributionError) -> String {
    let mut line = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        let more = e.to_string();
        if !line.contains(&more) {
            line = format!("{line}: {more}");
        }
        cause = e.source();
    }
    text::escape(&line)
}
