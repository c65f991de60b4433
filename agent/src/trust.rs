//! Public keys, and what they vouch for.

pub mod cosign;
mod stream;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::error::{Context, Error, Exit, Result};
use crate::release::Digest;
use crate::{limits, text};

pub use stream::StreamVerifier;

/// The running image's keys, used when the settings name none.
pub const IMAGE_KEYS: &str = "/usr/share/kubesolo/keys";

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

    /// Lower-case digits only: one key has one spelling.
    fn from_str(digits: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        let lower = !digits.bytes().any(|b| b.is_ascii_uppercase());
        lower.then(|| hex::decode_to_slice(digits, &mut bytes).ok()).flatten().map(|()| Self(bytes)).ok_or_else(|| {
            let message =
                format!("\"{}\" is not the SHA-256 of a public key: 64 hex digits in lower case", text::shown(digits));
            Error::new(Exit::Data, "malformed-fingerprint", message)
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
    /// What it is over, if that is not the signed bytes but what cosign signs in their place: a document that names their
    /// digest.
    pub payload: Option<Vec<u8>>,
}

impl Signature {
    /// The bytes that it must fit so that it vouches for `message`; `None` if it is about something else.
    fn over<'a>(&'a self, message: &'a [u8]) -> Option<&'a [u8]> {
        match &self.payload {
            None => Some(message),
            Some(payload) => (cosign::subject(payload).ok()? == Digest::of(message)).then_some(payload),
        }
    }

    /// Reads a `.sig` file: 64 raw bytes, or lines of 128 hex digits, each a signature.
    pub fn parse_file(bytes: &[u8]) -> Result<Vec<Self>> {
        let malformed = |why: &str| Error::new(Exit::Data, "malformed-signature", format!("it is no signature: {why}"));
        if bytes.len() as u64 > limits::SIGNATURE_FILE_BYTES {
            return Err(limits::exceeded("signature file", format_args!("{} bytes", limits::SIGNATURE_FILE_BYTES)));
        }
        if let Ok(bytes) = bytes.try_into() {
            return Ok(vec![Self { key_id: None, bytes, payload: None }]);
        }
        let lines = std::str::from_utf8(bytes).map_err(|_| malformed("neither 64 bytes nor text"))?.lines();
        let one = |line: &str| {
            let mut bytes = [0; 64];
            hex::decode_to_slice(line, &mut bytes).map_err(|_| malformed("a line has not 128 hex digits"))?;
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

/// The public keys a device trusts. Never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<(KeyId, VerifyingKey)>,
    place: PathBuf,
}

impl KeySet {
    /// Reads a key file, or each file of a folder but hidden ones. A file has 64 hex digits, or a PEM SubjectPublicKeyInfo.
    ///
    /// Whatever is wrong here is [`Exit::Config`]: with keys, "cannot be read" must never become "there is none".
    pub fn load(place: &Path) -> Result<Self> {
        let reading = |e: std::io::Error| key_error(place, format_args!("cannot read it: {e}"));
        let mut files = vec![];
        if std::fs::metadata(place).map_err(reading)?.is_dir() {
            for entry in std::fs::read_dir(place).map_err(reading)? {
                let entry = entry.map_err(reading)?;
                if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                    files.push(entry.path());
                }
            }
            files.sort();
        } else {
            files.push(place.to_owned());
        }
        if files.len() > limits::KEYS {
            return Err(key_error(place, format_args!("more than {} keys", limits::KEYS)));
        }
        let mut keys: Vec<(KeyId, VerifyingKey)> = vec![];
        for file in files {
            let key = parse(&read(&file)?).map_err(|why| key_error(&file, why))?;
            let id = KeyId::of(key.as_bytes());
            if !keys.iter().any(|(_, known)| *known == key) {
                keys.push((id, key));
            }
        }
        if keys.is_empty() {
            return Err(key_error(place, "the folder is empty"));
        }
        Ok(Self { keys, place: place.to_owned() })
    }

    /// The names of the keys, in the order of their files.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|(id, _)| *id)
    }

    /// Which keys signed exactly `message`: at least one, each once.
    ///
    /// Every key is tried on every signature, since a `key_id` proves nothing.
    pub fn verify(&self, message: &[u8], signatures: &[Signature]) -> Result<Vec<KeyId>> {
        if signatures.len() > limits::SIGNATURES {
            return Err(limits::exceeded("signatures", limits::SIGNATURES));
        }
        let over: Vec<_> = signatures.iter().filter_map(|s| Some((s.over(message)?, s))).collect();
        let fits = |key: &VerifyingKey, (message, s): &(&[u8], &Signature)| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&s.bytes)).is_ok()
        };
        let signed_by = |key: &VerifyingKey| over.iter().any(|one| fits(key, one));
        let vouching: Vec<KeyId> = self.keys.iter().filter(|(_, key)| signed_by(key)).map(|(id, _)| *id).collect();
        if vouching.is_empty() { Err(self.refusal(signatures)) } else { Ok(vouching) }
    }

    /// Checks signatures over bytes that are too many to be in memory at once.
    pub fn stream(&self, signatures: &[Signature]) -> Result<StreamVerifier> {
        if signatures.is_empty() {
            return Err(self.refusal(signatures));
        }
        StreamVerifier::new(&self.keys, signatures)
    }

    fn refusal(&self, signatures: &[Signature]) -> Error {
        let known = self.ids().map(|id| id.to_string()).collect::<Vec<_>>();
        if signatures.is_empty() {
            return Error::new(Exit::NotAllowed, "signature-missing", "the release is not signed")
                .remedy("Publish a signature of it, made with a key of this device; nothing unsigned is installed.");
        }
        let hints: Vec<&str> = signatures.iter().filter_map(|s| s.key_id.as_deref()).collect();
        if let Some(hint) = hints.iter().find(|hint| known.iter().any(|id| id == *hint)) {
            let message = format!("the signature by key {hint} is not of this release: one of them was changed");
            return Error::new(Exit::NotAllowed, "signature-invalid", message)
                .remedy("Publish the release and its signature again; if you did not change it, find out who did.");
        }
        let by =
            if hints.is_empty() { "by unnamed keys".into() } else { format!("by {}", text::shown(&hints.join(", "))) };
        let message = format!(
            "no known key signed the release: it is signed {by}; known in {}: {}",
            self.place.display(),
            known.join(", ")
        );
        Error::new(Exit::NotAllowed, "signature-unknown-key", message)
            .remedy("Sign the release with a known key, or install its public key if you trust it.")
    }
}

/// The keys of this device: `pubkey=` is the whole set, else the running image's folder. `None`: there is no key at all.
///
/// # Errors
/// 78 when keys are named or there, and cannot be used.
pub fn keys(config: &Config) -> Result<Option<KeySet>> {
    match &config.pubkey {
        Some(place) => KeySet::load(place).map(Some),
        // Only what is certainly not there is "no key"; a link to nowhere or a folder that cannot be entered is an error.
        None => match std::fs::symlink_metadata(IMAGE_KEYS) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => KeySet::load(Path::new(IMAGE_KEYS)).map(Some),
        },
    }
}

/// The keys without which nothing is installed; `None` only by `allow_unsigned=yes`, which is logged.
///
/// # Errors
/// 77 when there is no key, 78 when keys cannot be used.
pub fn required_keys(config: &Config) -> Result<Option<KeySet>> {
    match keys(config)? {
        None if config.allow_unsigned => {
            log::warn!("allow_unsigned=yes: without a key, whatever the source offers is installed");
            Ok(None)
        }
        None => Err(Error::new(Exit::NotAllowed, "no-key", "this device has no public key to verify a release with")
            .remedy(format!("Name it by --pubkey or pubkey=, or put it into the image's {IMAGE_KEYS}."))),
        set => Ok(set),
    }
}

fn key_error(place: &Path, why: impl fmt::Display) -> Error {
    Error::new(Exit::Config, "bad-key", format!("public key {}: {why}", place.display()))
        .remedy("Give a file of 64 hex digits or a PEM public key (Ed25519), or a folder of such files.")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    File::open(file).and_then(|f| f.take(limits::KEY_FILE_BYTES + 1).read_to_end(&mut bytes)).context(
        Exit::Config,
        "bad-key",
        format_args!("read public key {}", file.display()),
    )?;
    if bytes.len() as u64 > limits::KEY_FILE_BYTES {
        return Err(key_error(file, format_args!("more than {} bytes", limits::KEY_FILE_BYTES)));
    }
    Ok(bytes)
}

/// Reads one key. The error never quotes the file: it may be a private key put there by mistake.
pub(crate) fn parse(bytes: &[u8]) -> Result<VerifyingKey, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?.trim();
    let key = if text.contains("PRIVATE KEY") {
        return Err("it is a private key, which must never be on a device; give its public key".into());
    } else if text.starts_with("-----BEGIN") {
        VerifyingKey::from_public_key_pem(text).map_err(|_| "it is not an Ed25519 public key in PEM")?
    } else {
        let mut raw = [0; 32];
        hex::decode_to_slice(text, &mut raw).map_err(|_| "it is neither 64 hex digits nor PEM")?;
        VerifyingKey::from_bytes(&raw).map_err(|_| "it is not a point of the curve")?
    };
    // Anybody can make signatures that fit a key of small order.
    if key.is_weak() {
        return Err("it is a weak key".into());
    }
    // A second spelling of a key would have another name.
    if key.to_edwards().compress().as_bytes() != key.as_bytes() {
        return Err("it is not in its canonical form".into());
    }
    Ok(key)
}
