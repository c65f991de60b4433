//! SHA-256 digests, as OCI and `sha256sum` write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::base::error::{Error, Reason, Result};
use crate::base::text;

/// A SHA-256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(digest: &str) -> Result<Self> {
        digest.strip_prefix("sha256:").and_then(sha256).map(Self).ok_or_else(|| {
            let message = format!("digest \"{}\" is not sha256: and 64 hex digits", text::escape(digest));
            Error::new(Reason::MalformedDigest, message)
        })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The bytes that 64 hex digits stand for. Lower case only: one digest has one spelling.
pub(crate) fn sha256(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let lower = !digits.bytes().any(|b| b.is_ascii_uppercase());
    lower.then(|| hex::decode_to_slice(digits, &mut bytes).ok()).flatten().map(|()| bytes)
}
