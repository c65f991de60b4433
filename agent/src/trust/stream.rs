//! Ed25519 over a whole image, which is hashed as it passes.

use ed25519_dalek::{SignatureError, VerifyingKey};

use super::{KeyId, Signature};
use crate::error::{Error, Exit, Result};
use crate::limits;

/// Verifies signatures over bytes as they pass. Each pair of key and signature hashes all of them.
pub struct StreamVerifier {
    pairs: Vec<(KeyId, ed25519_dalek::StreamVerifier)>,
}

impl StreamVerifier {
    pub(super) fn new(keys: &[(KeyId, VerifyingKey)], signatures: &[Signature]) -> Result<Self> {
        if keys.len() * signatures.len() > limits::STREAMED_PAIRS {
            return Err(limits::exceeded("keys times signatures of an image", limits::STREAMED_PAIRS)
                .remedy("Keep fewer keys on this device, or fewer signatures on the server."));
        }
        let pairs = signatures.iter().flat_map(|signature| keys.iter().map(move |key| (key, signature)));
        let pairs = pairs.filter_map(|((id, key), signature)| Some((*id, verifier(key, signature).ok()?)));
        let pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() { Err(invalid()) } else { Ok(Self { pairs }) }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.pairs.iter_mut().for_each(|(_, verifier)| verifier.update(bytes));
    }

    /// All bytes were given: which key signed them.
    ///
    /// # Errors
    /// 77 when none did.
    pub fn finish(self) -> Result<KeyId> {
        let found =
            self.pairs.into_iter().find_map(|(id, verifier)| verifier.finalize_and_verify().is_ok().then_some(id));
        found.ok_or_else(invalid)
    }
}

fn invalid() -> Error {
    Error::new(Exit::NotAllowed, "signature-invalid", "no known key signed this image")
        .remedy("Sign the file with a known key, or install its public key if you trust it.")
}

/// As strict as `verify_strict`, which cannot stream: the key is not weak (checked when it was loaded), and neither is R,
/// which is compared as bytes in the end, so that only its canonical form fits.
fn verifier(key: &VerifyingKey, signature: &Signature) -> Result<ed25519_dalek::StreamVerifier, SignatureError> {
    let mut r = [0; 32];
    r.copy_from_slice(&signature.bytes[..32]);
    let point = VerifyingKey::from_bytes(&r)?;
    if point.is_weak() || point.to_edwards().compress().to_bytes() != r {
        return Err(SignatureError::new());
    }
    key.verify_stream(&ed25519_dalek::Signature::from_bytes(&signature.bytes))
}
