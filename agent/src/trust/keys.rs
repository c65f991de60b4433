//! A set of public keys: where it comes from, which of them count, and how many must agree.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey;

use crate::base::error::{Error, Reason, Result};
use crate::base::{files, limits, text};
use crate::trust::signature::{Fingerprint, KeyId, Signature};

/// Reason of an error in a key file.
const BAD: Reason = Reason::BadKey;

/// The public keys a device trusts, and how many of them it takes. Never empty.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<(Fingerprint, VerifyingKey)>,
    /// Known, and worth nothing any more.
    revoked: Vec<(Fingerprint, VerifyingKey)>,
    threshold: usize,
    place: PathBuf,
    passed_over: Vec<PathBuf>,
}

impl KeySet {
    /// Reads a key file, or each file of a folder except hidden files, leftovers ([`files::is_leftover`]) and `README*`. A file
    /// has 64 hex digits, or a PEM SubjectPublicKeyInfo.
    ///
    /// Every error here is [`Exit::Config`]: with keys, "cannot be read" must never become "there is none".
    pub fn load(place: &Path) -> Result<Self> {
        let reading = |e: std::io::Error| key_error(place, format_args!("cannot read it: {e}"));
        let meta = std::fs::symlink_metadata(place).map_err(reading)?;
        let (files, passed_over) = if meta.is_dir() {
            files::check_folder(&meta, place, BAD)?;
            let listing = files::list(place).map_err(reading)?;
            let (readme, keys): (Vec<_>, Vec<_>) = listing.entries.into_iter().partition(|file| is_readme(file));
            (keys, [readme, listing.passed_over].concat())
        } else {
            (vec![place.to_owned()], vec![])
        };
        if files.len() > limits::KEYS {
            return Err(key_error(place, format_args!("more than {} keys", limits::KEYS)));
        }
        let mut keys: Vec<(Fingerprint, VerifyingKey)> = vec![];
        for file in files {
            let config = |e: Error| Error { reason: BAD, ..e };
            let read = files::read(&file, limits::KEY_FILE_BYTES, BAD).map_err(config)?;
            let bytes = read.ok_or_else(|| key_error(&file, "it no longer exists"))?;
            let key = parse(&bytes).map_err(|why| key_error(&file, why))?;
            if !keys.iter().any(|(_, known)| *known == key) {
                keys.push((Fingerprint::of(key.as_bytes()), key));
            }
        }
        if keys.is_empty() {
            return Err(key_error(place, no_keys(&passed_over)));
        }
        Ok(Self { keys, revoked: vec![], threshold: 1, place: place.to_owned(), passed_over })
    }

    /// Files of the folder that are no keys because of their names.
    #[must_use]
    pub fn passed_over(&self) -> &[PathBuf] {
        &self.passed_over
    }

    /// The same set without the revoked keys, of which `threshold` must sign.
    ///
    /// # Errors
    /// 78 when there are not so many keys, 77 when there were, and too many are revoked.
    pub fn needing(self, threshold: usize, revoked: &BTreeSet<Fingerprint>) -> Result<Self> {
        let all = self.keys.len() + self.revoked.len();
        if threshold > all {
            let message = format!("signature_threshold={threshold}, but {} has only {all} keys", self.place.display());
            return Err(Error::new(Reason::TooFewKeys, message)
                .remedy("Lower signature_threshold=, or add the missing public keys."));
        }
        let all = self.keys.into_iter().chain(self.revoked);
        let (revoked, keys): (Vec<_>, Vec<_>) = all.partition(|(key, _)| revoked.contains(key));
        if keys.len() < threshold {
            let message = format!(
                "{} of the {} keys in {} are revoked, and a release needs signatures by {threshold}",
                revoked.len(),
                revoked.len() + keys.len(),
                self.place.display()
            );
            return Err(Error::new(Reason::KeysRevoked, message)
                .remedy("Install the public keys that replaced the revoked ones."));
        }
        Ok(Self { keys, revoked, threshold, ..self })
    }

    /// How many keys would be left if these were revoked.
    #[must_use]
    pub fn left_without(&self, revoked: &BTreeSet<Fingerprint>) -> usize {
        self.keys.iter().filter(|(key, _)| !revoked.contains(key)).count()
    }

    /// The names of the keys, in the order of their files.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|(key, _)| key.id())
    }

    /// Which keys signed exactly `message`, each once: as many as it takes.
    ///
    /// Every key is tried on every signature, since a `key_id` proves nothing. A revoked key's signature is none.
    ///
    /// # Errors
    /// 77: not signed, by too few, by an unknown or a revoked key, or changed after it was signed.
    pub fn verify(&self, message: &[u8], signatures: &[Signature]) -> Result<Vec<KeyId>> {
        Ok(self.vouching(message, signatures)?.iter().map(Fingerprint::id).collect())
    }

    /// The same, by their full names.
    ///
    /// # Errors
    /// As for [`Self::verify`].
    pub fn vouching(&self, message: &[u8], signatures: &[Signature]) -> Result<Vec<Fingerprint>> {
        if signatures.len() > limits::SIGNATURES {
            return Err(limits::exceeded("signatures", limits::SIGNATURES));
        }
        let over: Vec<_> = signatures.iter().filter_map(|s| Some((s.over(message)?, s))).collect();
        let signed_by = |keys: &[(Fingerprint, VerifyingKey)]| {
            let signed = keys.iter().filter(|(_, key)| over.iter().any(|(over, s)| s.fits(key, over)));
            signed.map(|(key, _)| *key).collect::<Vec<_>>()
        };
        let vouching = signed_by(&self.keys);
        match vouching.len() {
            0 => Err(self.refusal(signatures, &signed_by(&self.revoked))),
            n if n < self.threshold => Err(self.too_few(&vouching)),
            _ => Ok(vouching),
        }
    }

    /// The key, known or revoked, that made this signature of exactly `message`.
    #[must_use]
    pub fn signer(&self, message: &[u8], signature: &Signature) -> Option<Fingerprint> {
        let over = signature.over(message)?;
        let mut known = self.keys.iter().chain(&self.revoked);
        known.find(|(_, key)| signature.fits(key, &over)).map(|(name, _)| *name)
    }

    pub(super) fn too_few(&self, vouching: &[Fingerprint]) -> Error {
        let by = names(vouching);
        let message = format!("only {} of the {} required signatures: by {by}", vouching.len(), self.threshold);
        Error::new(Reason::SignaturesTooFew, message)
            .remedy("Add signatures by other keys of this device to the release; each key counts once.")
    }

    pub(super) fn keys(&self) -> &[(Fingerprint, VerifyingKey)] {
        &self.keys
    }

    pub(super) fn threshold(&self) -> usize {
        self.threshold
    }

    /// Why none of the signatures counts; `revoked` are the revoked keys whose signatures fit.
    pub(super) fn refusal(&self, signatures: &[Signature], revoked: &[Fingerprint]) -> Error {
        let known = self.ids().map(|id| id.to_string()).collect::<Vec<_>>();
        if !revoked.is_empty() {
            let message = format!("only revoked keys signed the release: {}", names(revoked));
            return Error::new(Reason::SignatureRevokedKey, message)
                .remedy("Sign the release with a key that is not revoked.");
        }
        if signatures.is_empty() {
            return Error::new(Reason::SignatureMissing, "the release is not signed")
                .remedy("Sign it with a key of this device; the agent installs no unsigned release.");
        }
        let hints: Vec<&str> = signatures.iter().filter_map(|s| s.key_id.as_deref()).collect();
        if let Some(hint) = hints.iter().find(|hint| known.iter().any(|id| id == *hint)) {
            let message = format!("the signature by key {hint} does not match the release: one of them was changed");
            return Error::new(Reason::SignatureInvalid, message)
                .remedy("Publish the release and its signature again. If you did not change them, find out who did.");
        }
        let by =
            if hints.is_empty() { "by unnamed keys".into() } else { format!("by {}", text::escape(&hints.join(", "))) };
        let message = format!(
            "no known key signed the release: it is signed {by}; known in {}: {}",
            self.place.display(),
            known.join(", ")
        );
        Error::new(Reason::SignatureUnknownKey, message)
            .remedy("Sign the release with a known key, or install its public key if you trust it.")
    }
}

fn is_readme(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"README"))
}

fn no_keys(passed_over: &[PathBuf]) -> String {
    if passed_over.is_empty() {
        return "the folder is empty".into();
    }
    format!("no file of the folder counts as a key; ignored because of their names: {}", files::names(passed_over))
}

fn key_error(place: &Path, why: impl fmt::Display) -> Error {
    Error::new(BAD, format!("public key {}: {why}", place.display()))
        .remedy("Name a file with 64 hex digits or a PEM public key (Ed25519), or a folder of such files.")
}

fn names(keys: &[Fingerprint]) -> String {
    keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(", ")
}

/// Reads one public key: 64 hex digits or PEM. The error never quotes the file: it may be a private key put there by
/// mistake.
pub fn parse(bytes: &[u8]) -> Result<VerifyingKey, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?.trim();
    let key = if text.contains("PRIVATE KEY") {
        return Err("it is a private key, which must never be on a device; use its public key".into());
    } else if text.starts_with("-----BEGIN") {
        VerifyingKey::from_public_key_pem(text).map_err(|_| "it is not an Ed25519 public key in PEM")?
    } else {
        let mut raw = [0; 32];
        hex::decode_to_slice(text, &mut raw).map_err(|_| "it is neither 64 hex digits nor PEM")?;
        VerifyingKey::from_bytes(&raw).map_err(|_| "it is not a point on the curve")?
    };
    // Anybody can make signatures that fit a key of small order.
    if key.is_weak() {
        return Err("it is a weak key".into());
    }
    // A private key has one public key in the prime-order group, and seven outside it that its owner can sign for. Those would
    // count as keys of their own, and survive a revocation of the first. Within the group, only weak keys have two spellings.
    if !key.to_edwards().is_torsion_free() {
        return Err("it is outside the prime-order group: no program makes such a key".into());
    }
    Ok(key)
}
