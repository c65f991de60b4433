//! Names of public keys, and signatures as they are published.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

use crate::base::digest::{self, Digest};
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::trust::{cosign, sigstore};

/// Name of a public key: first 16 hex digits of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// The name of a raw public key.
    #[must_use]
    pub fn of(key: &[u8; 32]) -> Self {
        Fingerprint::of(key).id()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The identity of a public key: SHA-256 of its 32 raw bytes. Written as 64 hex digits, of which the first 16 are its
/// [`KeyId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a raw public key.
    #[must_use]
    pub fn of(key: &[u8; 32]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// The short name, for messages.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(std::array::from_fn(|i| self.0[i]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(digits: &str) -> Result<Self> {
        digest::sha256(digits).map(Self).ok_or_else(|| {
            let message =
                format!("\"{}\" is not the SHA-256 of a public key: 64 hex digits in lower case", text::escape(digits));
            Error::new(Reason::MalformedFingerprint, message)
        })
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A signature as published. Nothing about it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key that made it, if its publisher is right; 16 hex digits. Only a hint for messages.
    pub key_id: Option<String>,
    /// Ed25519.
    pub bytes: [u8; 64],
    /// The document that cosign signed in place of the bytes, which names their digest; `None` for a signature of the bytes
    /// themselves.
    pub payload: Option<Payload>,
}

/// A document of cosign that names the digest of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A document of "simple signing", the only form of cosign 2. The signature is over its bytes.
    Simple(Vec<u8>),
    /// An in-toto statement, the form of cosign 3. The signature is over the encoding of a DSSE envelope.
    Statement(Vec<u8>),
}

impl Payload {
    /// The bytes of the document.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Simple(bytes) | Self::Statement(bytes) => bytes,
        }
    }

    /// The digest of the manifest that it names.
    ///
    /// # Errors
    /// 65 for other bytes than such a document.
    pub fn subject(&self) -> Result<Digest> {
        match self {
            Self::Simple(payload) => cosign::subject(payload),
            Self::Statement(statement) => sigstore::subject(statement),
        }
    }
}

impl Signature {
    /// The bytes that it must fit so that it vouches for `message`; `None` if it is about something else.
    pub(super) fn over<'a>(&'a self, message: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some(payload) = &self.payload else { return Some(message.into()) };
        let named = payload.subject().ok()? == Digest::of(message);
        named.then(|| match payload {
            Payload::Simple(payload) => payload.into(),
            Payload::Statement(statement) => sigstore::pae(statement).into(),
        })
    }

    /// True if `key` made it over exactly these bytes, as of [`over`](Self::over). cosign 3 signs their SHA-512 (Ed25519ph of
    /// RFC 8032), which no other signer does.
    pub(super) fn fits(&self, key: &VerifyingKey, over: &[u8]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&self.bytes);
        let hashed = || key.verify_prehashed_strict(Sha512::new_with_prefix(over), None, &signature).is_ok();
        key.verify_strict(over, &signature).is_ok() || self.payload.is_some() && hashed()
    }

    /// Reads a `.sig` file: 64 raw bytes, or lines of 128 hex digits, each a signature.
    pub fn parse_file(bytes: &[u8]) -> Result<Vec<Self>> {
        let malformed = |why: &str| Error::new(Reason::MalformedSignature, format!("not a signature: {why}"));
        if bytes.len() as u64 > limits::SIGNATURE_FILE_BYTES {
            return Err(limits::exceeded("signature file", format_args!("{} bytes", limits::SIGNATURE_FILE_BYTES)));
        }
        if let Ok(bytes) = bytes.try_into() {
            return Ok(vec![Self { key_id: None, bytes, payload: None }]);
        }
        let lines = std::str::from_utf8(bytes).map_err(|_| malformed("neither 64 bytes nor text"))?.lines();
        let one = |line: &str| {
            let mut bytes = [0; 64];
            hex::decode_to_slice(line, &mut bytes).map_err(|_| malformed("a line does not have 128 hex digits"))?;
            Ok(Self { key_id: None, bytes, payload: None })
        };
        let signatures = lines.map(str::trim).filter(|line| !line.is_empty()).map(one).collect::<Result<Vec<_>>>()?;
        if signatures.is_empty() { Err(malformed("the file is empty")) } else { Ok(signatures) }
    }
}

/// The signatures of an old server, which signs each image and not what it says about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSignatures {
    /// Of the kernel.
    pub kernel: Vec<Signature>,
    /// Of the initramfs.
    pub initramfs: Vec<Signature>,
}
