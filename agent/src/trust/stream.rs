//! Ed25519 over a whole image, which is hashed as it passes.

use std::collections::BTreeSet;
use std::fmt;

use ed25519_dalek::{SignatureError, VerifyingKey};

use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::trust::keys::KeySet;
use crate::trust::signature::{Fingerprint, KeyId, Signature};

/// Verifies signatures over bytes as they pass. Each pair of key and signature hashes all of them.
pub struct StreamVerifier {
    keys: KeySet,
    pairs: Vec<(Fingerprint, ed25519_dalek::StreamVerifier)>,
}

impl fmt::Debug for StreamVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamVerifier").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl StreamVerifier {
    /// Checks signatures over bytes that are too many to be in memory at once.
    ///
    /// # Errors
    /// 77 when there is no signature, or none that could fit; 65 when there are too many.
    pub fn new(set: &KeySet, signatures: &[Signature]) -> Result<Self> {
        if signatures.is_empty() {
            return Err(set.refusal(signatures, &[]));
        }
        let keys = set.keys();
        if keys.len() * signatures.len() > limits::STREAMED_PAIRS {
            return Err(limits::exceeded("keys times signatures of an image", limits::STREAMED_PAIRS)
                .remedy("Keep fewer keys on this device, or fewer signatures on the server."));
        }
        let pairs = signatures.iter().flat_map(|signature| keys.iter().map(move |key| (key, signature)));
        let pairs = pairs.filter_map(|((name, key), signature)| Some((*name, verifier(key, signature).ok()?)));
        let pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() { Err(invalid()) } else { Ok(Self { keys: set.clone(), pairs }) }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.pairs.iter_mut().for_each(|(_, verifier)| verifier.update(bytes));
    }

    /// All bytes were given: which keys signed them, as many as it takes.
    ///
    /// # Errors
    /// 77 when none did, or too few.
    pub fn finish(self) -> Result<Vec<KeyId>> {
        let signed = self.pairs.into_iter().filter_map(|(key, v)| v.finalize_and_verify().is_ok().then_some(key));
        let vouching: BTreeSet<Fingerprint> = signed.collect();
        let vouching: Vec<_> = vouching.into_iter().collect();
        match vouching.len() {
            0 => Err(invalid()),
            n if n < self.keys.threshold() => Err(self.keys.too_few(&vouching)),
            _ => Ok(vouching.iter().map(Fingerprint::id).collect()),
        }
    }
}

fn invalid() -> Error {
    Error::new(Reason::SignatureInvalid, "no known key signed this image")
        .remedy("Sign the file with a known key, or install its public key if you trust it.")
}

/// As strict as `verify_strict`, which cannot stream: the key is not weak (checked when it was loaded), and neither is R,
/// which is compared as bytes in the end, so that only its canonical form fits.
fn verifier(key: &VerifyingKey, signature: &Signature) -> Result<ed25519_dalek::StreamVerifier, SignatureError> {
    let mut r = [0; 32];
    r.copy_from_slice(&signature.bytes[..32]);
    if VerifyingKey::from_bytes(&r)?.is_weak() {
        return Err(SignatureError::new());
    }
    key.verify_stream(&ed25519_dalek::Signature::from_bytes(&signature.bytes))
}
