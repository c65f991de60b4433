//! Documents that cosign signs in place of a manifest: they name its digest.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};

/// The one kind of payload that vouches for a manifest; cosign makes others for what it attaches.
const TYPE: &str = "cosign container image signature";

/// As of "simple signing". An unknown critical member must lead to a refusal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    /// For people.
    #[serde(rename = "optional")]
    _optional: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    /// Where the release was when it was signed; it may have been copied since.
    #[serde(rename = "identity")]
    _identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    _docker_reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

/// The digest of the manifest that a payload vouches for.
///
/// # Errors
/// 65 for whatever is not exactly such a payload.
pub fn subject(payload: &[u8]) -> Result<Digest> {
    let malformed = |why: String| Error::new(Reason::MalformedCosignPayload, format!("cosign payload: {why}"));
    if payload.len() as u64 > limits::COSIGN_PAYLOAD_BYTES {
        return Err(limits::exceeded("cosign payload", format_args!("{} bytes", limits::COSIGN_PAYLOAD_BYTES)));
    }
    let Payload { critical, .. } = json::parse(payload, "cosign payload")?;
    if critical.kind != TYPE {
        return Err(malformed(format!("its type is \"{}\", not \"{TYPE}\"", text::escape(&critical.kind))));
    }
    Ok(critical.image.docker_manifest_digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Exit;

    const DIGEST: &str = "sha256:e0f1ba1764410a89dc3abdc4518ece8d6f28b798c8f48de870df86ee253d9d44";

    /// As cosign 2.5 writes it.
    fn payload(kind: &str, digest: &str, optional: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"127.0.0.1:5917/os"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{optional}}}"#
        )
    }

    #[test]
    fn a_payload_names_one_manifest() {
        for optional in ["null", "{}", r#"{"who":"me","creator":{"a":[1]}}"#] {
            let read = subject(payload(TYPE, DIGEST, optional).as_bytes()).unwrap();
            assert_eq!(read.to_string(), DIGEST);
        }
    }

    #[test]
    fn whatever_is_not_exactly_a_payload_is_refused() {
        let good = payload(TYPE, DIGEST, "null");
        for (name, bytes) in [
            ("another type", payload("atomic container signature", DIGEST, "null")),
            ("almost the type", payload("cosign container image signature ", DIGEST, "null")),
            ("type with NUL", payload("cosign container image signature\\u0000", DIGEST, "null")),
            ("no digest", payload(TYPE, "", "null")),
            ("short digest", payload(TYPE, &DIGEST[..70], "null")),
            ("digest in capitals", payload(TYPE, &DIGEST.to_uppercase().replace("SHA", "sha"), "null")),
            ("another hash", payload(TYPE, &DIGEST.replace("sha256", "sha512"), "null")),
            ("more that is critical", good.replace(r#""type""#, r#""new":1,"type""#)),
            ("more beside it", good.replace(r#""optional""#, r#""schemaVersion":2,"optional""#)),
            (
                "digest twice",
                good.replace(r#""type""#, &format!(r#""image":{{"docker-manifest-digest":"{DIGEST}"}},"type""#)),
            ),
            ("array", format!("[{good}]")),
            ("array of the fields", format!(r#"[[["r"],["{DIGEST}"],"{TYPE}"],null]"#)),
            ("something behind it", format!("{good}{{}}")),
            ("nothing", String::new()),
        ] {
            let error = subject(bytes.as_bytes()).expect_err(name);
            assert_eq!(error.exit(), Exit::Data, "{name}");
            assert!(error.message.bytes().all(|b| matches!(b, b' '..=b'~')), "{name}: {:?}", error.message);
        }
    }

    #[test]
    fn the_limit_is_the_last_size_that_is_read() {
        let good = payload(TYPE, DIGEST, "null");
        let padded = |size: u64| good.clone() + &" ".repeat(size as usize - good.len());
        subject(padded(limits::COSIGN_PAYLOAD_BYTES).as_bytes()).unwrap();
        assert_eq!(
            subject(padded(limits::COSIGN_PAYLOAD_BYTES + 1).as_bytes()).unwrap_err().reason,
            Reason::LimitExceeded
        );
    }
}
