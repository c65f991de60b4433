//! Signatures of cosign 3: a sigstore bundle with a DSSE envelope around an in-toto statement that names a manifest.
//!
//! Sources: <https://github.com/sigstore/protobuf-specs> (bundle), <https://github.com/secure-systems-lab/dsse> (envelope and
//! PAE), <https://github.com/in-toto/attestation> (statement, version 1).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};

/// Media type of a sigstore bundle.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The part of the media type that all versions of a bundle share.
pub const BUNDLE_TYPES: &str = "application/vnd.dev.sigstore.bundle";
/// Type of the payload in the envelope. The signature covers it too.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The one predicate that approves a manifest. Others, for example a bill of materials, only describe it.
const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Option<Material>,
    dsse_envelope: Option<Envelope>,
}

/// Logs and time stamps in it are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

/// A statement that approves a manifest, and a signature over its encoding ([`pae`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The statement, byte for byte.
    pub statement: Vec<u8>,
    /// Ed25519, or Ed25519ph.
    pub signature: [u8; 64],
}

/// Reads the approval in a bundle. Nothing about it is verified. `None` for a statement that only describes a manifest.
///
/// # Errors
/// 77 `signature-form` for a signature that needs a certificate, or that is not Ed25519; 65 for other bytes than a bundle.
pub fn approval(raw: &[u8]) -> Result<Option<Approval>> {
    if raw.len() as u64 > limits::SIGSTORE_BUNDLE_BYTES {
        return Err(limits::exceeded("sigstore bundle", format_args!("{} bytes", limits::SIGSTORE_BUNDLE_BYTES)));
    }
    let bundle: Bundle = json::parse(raw, "sigstore bundle")?;
    if bundle.media_type != BUNDLE_TYPE {
        return Err(other_form(&format!("its bundle has the type \"{}\"", text::escape(&bundle.media_type))));
    }
    if bundle.verification_material.is_some_and(|m| m.certificate.is_some() || m.x509_certificate_chain.is_some()) {
        return Err(other_form("it is made with a certificate (keyless), not with a key"));
    }
    let envelope = bundle.dsse_envelope.ok_or_else(|| other_form("its bundle has no DSSE envelope"))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(malformed(&format!("its payload has the type \"{}\"", text::escape(&envelope.payload_type))));
    }
    let statement = BASE64.decode(&envelope.payload).map_err(|_| malformed("its payload is not base64"))?;
    let Statement { predicate_type, .. } = json::parse(&statement, "in-toto statement")?;
    if predicate_type != SIGN_PREDICATE {
        log::debug!("ignoring a statement with the predicate \"{}\"", text::escape(&predicate_type));
        return Ok(None);
    }
    let [signed] = &envelope.signatures[..] else {
        return Err(malformed("its envelope must have exactly one signature"));
    };
    let bytes = BASE64.decode(&signed.sig).map_err(|_| malformed("its signature is not base64"))?;
    Ok(Some(Approval { statement, signature: ed25519(bytes)? }))
}

/// The 64 bytes of an Ed25519 signature.
///
/// # Errors
/// 77 `signature-form` for any other number of bytes.
pub fn ed25519(bytes: Vec<u8>) -> Result<[u8; 64]> {
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        other_form(&format!("it has {} bytes, not the 64 of Ed25519: its key is of another kind", bytes.len()))
    })
}

/// The digest of the manifest that a statement approves.
///
/// # Errors
/// 65 for other bytes than such a statement.
pub fn subject(statement: &[u8]) -> Result<Digest> {
    let Statement { kind, subject, predicate_type } = json::parse(statement, "in-toto statement")?;
    if kind != STATEMENT_TYPE {
        return Err(malformed(&format!("its statement has the type \"{}\"", text::escape(&kind))));
    }
    if predicate_type != SIGN_PREDICATE {
        return Err(malformed(&format!("its statement has the predicate \"{}\"", text::escape(&predicate_type))));
    }
    let [subject] = &subject[..] else {
        return Err(malformed("its statement must have exactly one subject"));
    };
    let hex = subject.digest.get("sha256").ok_or_else(|| malformed("its subject has no SHA-256 digest"))?;
    format!("sha256:{hex}").parse()
}

/// The bytes that a DSSE envelope signs for this payload: its pre-authentication encoding (PAE).
#[must_use]
pub fn pae(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// The error of a signature in a form that devices do not verify.
#[must_use]
pub fn other_form(why: &str) -> Error {
    Error::new(Reason::SignatureForm, format!("a signature is in a form that devices do not verify: {why}"))
        .remedy("Sign with an Ed25519 key: `cosign sign --key`, or `kubesolo-release sign`.")
}

fn malformed(why: &str) -> Error {
    Error::new(Reason::MalformedSignature, format!("sigstore bundle: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::error::Exit;

    const MANIFEST: &[u8] = b"{\"a\": \"manifest\"}";

    /// As cosign 3.1 writes it.
    fn statement() -> Value {
        json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"digest": {"sha256": Digest::of(MANIFEST).hex()}, "annotations": {}}],
            "predicateType": SIGN_PREDICATE,
            "predicate": {},
        })
    }

    fn bundle(payload: &[u8], signature: &[u8]) -> Value {
        json!({
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": "S6bNGMqKtYFoS8VvVOA1Fo4lh5PtVM1YAHRFzILSKeY="}},
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": BASE64.encode(signature)}],
            },
        })
    }

    fn read(bundle: &Value) -> Result<Option<Approval>> {
        approval(bundle.to_string().as_bytes())
    }

    #[test]
    fn a_statement_approves_exactly_one_manifest() {
        assert_eq!(subject(statement().to_string().as_bytes()).unwrap(), Digest::of(MANIFEST));
        let one = statement()["subject"][0].clone();
        let hex = Digest::of(MANIFEST).hex();
        for (member, value) in [
            ("_type", json!("https://in-toto.io/Statement/v0.1")),
            ("predicateType", json!("https://slsa.dev/provenance/v1")),
            ("predicateType", json!("https://sigstore.dev/cosign/sign/v1 ")),
            ("subject", json!([])),
            ("subject", json!([one, one])),
            ("subject", one.clone()),
            ("subject", json!([{"digest": {"sha512": hex}}])),
            ("subject", json!([{"digest": {"sha256": hex.to_uppercase()}}])),
            ("subject", json!([{"digest": {"sha256": &hex[1..]}}])),
            ("subject", json!([{"digest": {"sha256": format!("{hex}\u{0}")}}])),
            ("subject", json!([{"name": "os"}])),
        ] {
            let mut wrong = statement();
            wrong[member] = value;
            let error = subject(wrong.to_string().as_bytes()).expect_err(&wrong.to_string());
            assert_eq!(error.exit(), Exit::Data, "{wrong}");
        }
        let text = statement().to_string();
        for wrong in [
            format!("{text}{{}}"),
            text.replacen('{', "{\"subject\":[],", 1),
            text.replacen("\"sha256\"", "\"sha256\":\"00\",\"sha256\"", 1),
            format!("[{text}]"),
        ] {
            subject(wrong.as_bytes()).expect_err(&wrong);
        }
    }

    #[test]
    fn a_statement_that_describes_a_manifest_is_no_signature() {
        let approves = statement().to_string().into_bytes();
        let expected = Approval { statement: approves.clone(), signature: [1; 64] };
        assert_eq!(read(&bundle(&approves, &[1; 64])).unwrap(), Some(expected));
        let mut provenance = statement();
        provenance["predicateType"] = json!("https://slsa.dev/provenance/v1");
        assert_eq!(read(&bundle(provenance.to_string().as_bytes(), &[1; 64])).unwrap(), None);
    }

    #[test]
    fn another_form_of_signature_has_its_own_reason() {
        let payload = statement().to_string().into_bytes();
        let good = bundle(&payload, &[1; 64]);
        let with = |member: &str, value: Value| {
            let mut changed = good.clone();
            changed[member] = value;
            changed
        };
        for (name, bundle) in [
            ("certificate", with("verificationMaterial", json!({"certificate": {"rawBytes": ""}}))),
            ("chain", with("verificationMaterial", json!({"x509CertificateChain": {"certificates": []}}))),
            ("ECDSA", bundle(&payload, &[0x30; 71])),
            ("another version", with("mediaType", json!("application/vnd.dev.sigstore.bundle.v0.4+json"))),
            ("a message", {
                let mut changed = with("messageSignature", json!({"signature": ""}));
                changed.as_object_mut().unwrap().remove("dsseEnvelope");
                changed
            }),
        ] {
            let error = read(&bundle).expect_err(name);
            assert_eq!(error.reason, Reason::SignatureForm, "{name}: {error}");
        }
    }

    #[test]
    fn other_bytes_than_a_bundle_are_refused() {
        let payload = statement().to_string().into_bytes();
        let good = bundle(&payload, &[1; 64]);
        let with = |member: &str, value: Value| {
            let mut changed = good.clone();
            changed["dsseEnvelope"][member] = value;
            changed.to_string()
        };
        let signature = good["dsseEnvelope"]["signatures"][0].clone();
        for wrong in [
            with("payloadType", json!("application/json")),
            with("payload", json!("?")),
            with("payload", json!(null)),
            with("signatures", json!([])),
            with("signatures", json!([signature, signature])),
            with("signatures", json!([{"sig": "?"}])),
            format!("{good}{good}"),
            format!("[{good}]"),
            String::new(),
        ] {
            let error = approval(wrong.as_bytes()).expect_err(&wrong);
            assert_eq!(error.exit(), Exit::Data, "{wrong}");
            assert!(error.message.bytes().all(|b| matches!(b, b' '..=b'~')), "{:?}", error.message);
        }
    }

    #[test]
    fn the_limit_is_the_last_size_that_is_read() {
        let good = bundle(statement().to_string().as_bytes(), &[1; 64]).to_string();
        let padded = |size: u64| good.clone() + &" ".repeat(size as usize - good.len());
        approval(padded(limits::SIGSTORE_BUNDLE_BYTES).as_bytes()).unwrap();
        let error = approval(padded(limits::SIGSTORE_BUNDLE_BYTES + 1).as_bytes()).unwrap_err();
        assert_eq!(error.reason, Reason::LimitExceeded);
    }
}
