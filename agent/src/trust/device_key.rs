//! The key of this device, for its receipts and nothing else.

use std::fmt;
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::base::error::{Context as _, Error, Reason, Result};
use crate::base::{files, limits, replace};
use crate::trust::signature::Fingerprint;

/// An Ed25519 private key. It is never shown.
pub struct DeviceKey(SigningKey);

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceKey").field(&self.public()).finish()
    }
}

impl DeviceKey {
    /// Reads the key; `None` if there is none yet.
    ///
    /// # Errors
    /// 78 when it cannot be used, or others can read it.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read_secret(path, limits::KEY_FILE_BYTES, Reason::BadKey)? else { return Ok(None) };
        let key = std::str::from_utf8(&bytes).ok().and_then(|text| SigningKey::from_pkcs8_pem(text).ok());
        key.map(|key| Some(Self(key))).ok_or_else(|| {
            Error::new(Reason::BadKey, format!("{} is damaged", path.display()))
                .remedy("Remove the file: the device makes a new key, which is to be enrolled again.")
        })
    }

    /// Reads the key, or makes one: the old content or the new one is there, wherever the power goes. For one writer at a
    /// time.
    ///
    /// # Errors
    /// As for [`Self::load`]; 73 when it cannot be written, 70 without random numbers.
    pub fn load_or_make(path: &Path) -> Result<Self> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let mut seed = [0; 32];
        // Waits until the kernel has enough entropy.
        getrandom::getrandom(&mut seed).context(Reason::NoRandomNumbers, "create the key of this device")?;
        let key = Self(SigningKey::from_bytes(&seed));
        let pair = KeypairBytes { secret_key: seed, public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).context(Reason::Internal, "encode the key of this device")?;
        replace::replace(path, pem.as_bytes(), 0o600)
            .context(Reason::CannotWrite, format_args!("write {}", path.display()))?;
        Ok(key)
    }

    /// The public half, 64 hex digits, as a key file has it.
    #[must_use]
    pub fn public(&self) -> String {
        hex::encode(self.0.verifying_key().as_bytes())
    }

    /// The id of the device: SHA-256 of the public half.
    #[must_use]
    pub fn device(&self) -> Fingerprint {
        Fingerprint::of(self.0.verifying_key().as_bytes())
    }

    /// A pure Ed25519 signature over exactly these bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}
