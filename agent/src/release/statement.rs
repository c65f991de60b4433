//! Statements of freshness: "on this day, this is the latest release of this channel", signed. A release itself never
//! expires. An attacker who holds back newer releases cannot make an old statement valid again.
//!
//! `docs/trust.md` has the format.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits};
use crate::release::release::Architecture;
use crate::trust::signature::Signature;

/// Media type of a statement, artifact type of what carries it in a registry, and its own `type`.
pub const STATEMENT_TYPE: &str = "application/vnd.kubesolo.os.freshness.v1+json";
/// Suffix of its tag, after the tag of the releases that it is about.
pub const TAG_SUFFIX: &str = ".freshness";
/// Its name beside `latest.json`.
pub const FILE: &str = "freshness.json";
/// Longest channel, in bytes: the longest tag.
const CHANNEL_BYTES: usize = 128;
/// Longest name of an architecture, in bytes.
const ARCHITECTURE_BYTES: usize = 32;

/// A statement. Nothing of it is proven by being parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The channel that it is about.
    pub channel: String,
    /// Grows with each statement of a channel by the same key; at least 1.
    pub serial: u64,
    /// When it was made; whole seconds.
    pub issued: DateTime<Utc>,
    /// After this time it says nothing any more; whole seconds, after `issued`.
    pub not_after: DateTime<Utc>,
    /// The latest release for each architecture, by its identity: the digest of its manifest or `latest.json`.
    pub digests: BTreeMap<String, Digest>,
}

/// A statement as a source has it: bytes, and what was said to be their signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The exact bytes.
    pub statement: Vec<u8>,
    /// Over these bytes; proven is none.
    pub signatures: Vec<Signature>,
}

/// The JSON: these members, each once, and no others.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    r#type: String,
    channel: String,
    serial: u64,
    issued: String,
    not_after: String,
    digests: BTreeMap<String, Digest>,
}

impl Statement {
    /// Reads the bytes that were signed.
    ///
    /// # Errors
    /// 65 unless they are exactly a statement.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        if raw.len() as u64 > limits::FRESHNESS_BYTES {
            return Err(limits::exceeded("freshness statement", format_args!("{} bytes", limits::FRESHNESS_BYTES)));
        }
        let document: Document = json::parse(raw, "freshness statement")?;
        if document.r#type != STATEMENT_TYPE {
            return Err(malformed("its type is another one"));
        }
        let statement = Self {
            issued: time("issued", &document.issued)?,
            not_after: time("not_after", &document.not_after)?,
            channel: document.channel,
            serial: document.serial,
            digests: document.digests,
        };
        statement.check()?;
        Ok(statement)
    }

    /// Rules for every statement, also for its publisher.
    ///
    /// # Errors
    /// 65 with what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.channel.is_empty() || self.channel.len() > CHANNEL_BYTES {
            return Err(malformed("its channel is empty or too long"));
        }
        if self.serial == 0 {
            return Err(malformed("its serial is 0"));
        }
        if self.not_after <= self.issued {
            return Err(malformed("its not_after is not after its issued"));
        }
        if self.digests.is_empty() || self.digests.len() > limits::FRESHNESS_DIGESTS {
            return Err(malformed("it has no digest, or too many"));
        }
        let name =
            |name: &String| matches!(name.len(), 1..=ARCHITECTURE_BYTES) && name.bytes().all(|b| b.is_ascii_graphic());
        if self.digests.keys().all(name) { Ok(()) } else { Err(malformed("it has an invalid name of an architecture")) }
    }

    /// The bytes to be signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let seconds = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let document = Document {
            r#type: STATEMENT_TYPE.into(),
            channel: self.channel.clone(),
            serial: self.serial,
            issued: seconds(self.issued),
            not_after: seconds(self.not_after),
            digests: self.digests.clone(),
        };
        let mut bytes = serde_json::to_vec_pretty(&document).expect("strings and numbers only");
        bytes.push(b'\n');
        bytes
    }

    /// The latest release for this architecture, if the statement knows one.
    #[must_use]
    pub fn latest(&self, architecture: Architecture) -> Option<Digest> {
        self.digests.get(&architecture.to_string()).copied()
    }
}

/// RFC 3339, UTC with `Z`, whole seconds: one time has one spelling.
fn time(name: &str, text: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    time.filter(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true) == text)
        .ok_or_else(|| malformed(format_args!("its {name} is not of the form 2026-01-31T12:00:00Z")))
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::MalformedFreshness, format!("not a freshness statement: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::error::Exit;
    use crate::release::latest::Latest;
    use crate::release::release::Release;

    fn good() -> Value {
        json!({
            "type": STATEMENT_TYPE, "channel": "stable", "serial": 7,
            "issued": "2026-11-21T00:00:00Z", "not_after": "2026-12-05T00:00:00Z",
            "digests": {"amd64": Digest([1; 32]), "arm64": Digest([2; 32])},
        })
    }

    fn parse(document: &Value) -> Result<Statement> {
        Statement::parse(document.to_string().as_bytes())
    }

    #[test]
    fn what_is_encoded_is_read_again_and_is_nothing_else() {
        let statement = parse(&good()).unwrap();
        assert_eq!(statement.latest(Architecture::Amd64), Some(Digest([1; 32])));
        let bytes = statement.encode();
        assert_eq!(Statement::parse(&bytes).unwrap(), statement);
        assert!(Release::from_oci_manifest(&bytes).is_err());
        assert!(Latest::parse(&bytes).and_then(|latest| latest.release()).is_err());
    }

    #[test]
    fn whatever_is_not_exactly_a_statement_is_refused() {
        let digests = |count: usize| {
            let all = (0..count).map(|n| (format!("a{n}"), json!(Digest([1; 32]))));
            json!(all.collect::<serde_json::Map<_, _>>())
        };
        let mut most = good();
        most["digests"] = digests(limits::FRESHNESS_DIGESTS);
        parse(&most).unwrap();
        let wrong = [
            ("digests", digests(limits::FRESHNESS_DIGESTS + 1)),
            ("type", json!("application/json")),
            ("channel", json!("")),
            ("channel", json!("x".repeat(129))),
            ("serial", json!(0)),
            ("serial", json!(-1)),
            ("serial", json!("7")),
            ("issued", json!("2026-11-21T00:00:00+00:00")),
            ("issued", json!("2026-11-21T00:00:00.5Z")),
            ("issued", json!("2026-12-05T00:00:00Z")),
            ("not_after", json!("2026-11-31T00:00:00Z")),
            ("not_after", json!(1)),
            ("digests", json!({})),
            ("digests", json!({"": Digest([1; 32])})),
            ("digests", json!({"amd 64": Digest([1; 32])})),
            ("digests", json!({"amd64": "sha256:1"})),
            ("version", json!("1.0.0")),
            ("schemaVersion", json!(2)),
        ];
        for (member, value) in wrong {
            let mut document = good();
            document[member] = value;
            let e = parse(&document).unwrap_err();
            assert_eq!(e.exit(), Exit::Data, "{document}");
        }
        for member in ["type", "channel", "serial", "issued", "not_after", "digests"] {
            let mut document = good();
            document.as_object_mut().unwrap().remove(member);
            parse(&document).map(|_| member).unwrap_err();
        }
        let text = good().to_string();
        for wrong in [
            text.replacen('{', "{\"serial\":8,", 1),
            format!("{text}x"),
            format!("[{text}]"),
            json!([STATEMENT_TYPE, "c", 1, "2026-11-21T00:00:00Z", "2026-12-05T00:00:00Z", digests(1)]).to_string(),
            format!("{text}{}", " ".repeat(4096)),
        ] {
            Statement::parse(wrong.as_bytes()).map(|_| &wrong).unwrap_err();
        }
    }
}
