//! The private half of a release key: made, kept in a file, used to sign.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::limits::KEY_FILE_BYTES;
use kubesolo_update::base::{files, replace};
use kubesolo_update::trust::keys;
use kubesolo_update::trust::signature::{Fingerprint, KeyId};

/// An Ed25519 private key. It is read from files only, and never shown.
pub struct PrivateKey(SigningKey);

/// How a public key is written to a file. Devices read both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicFormat {
    /// PEM `SubjectPublicKeyInfo`, as `openssl pkey -pubout` writes it.
    Pem,
    /// 64 hexadecimal digits, which the agents of KubeSolo OS up to 0.3 need.
    Hex,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.id()).finish()
    }
}

impl PrivateKey {
    /// Makes a new key from the random source of the TLS provider, which is the system's.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut seed)
            .map_err(|_| Error::new(Reason::NoRandom, "cannot create a key: no random numbers"))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a PKCS#8 PEM file as `openssl genpkey -algorithm ed25519` writes it (at most [`KEY_FILE_BYTES`] bytes). A file
    /// that others can read is refused: its key may be known already.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display();
        let file = files::open_data(path).context(Reason::KeyUnreadable, format!("read the key {place}"))?;
        let meta = file.metadata().context(Reason::KeyUnreadable, format!("read the key {place}"))?;
        let mut text = String::new();
        file.take(KEY_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .context(Reason::KeyMalformed, format!("read the key {place}"))?;
        let malformed = |why: &str| {
            Error::new(Reason::KeyMalformed, format!("{place} is not a usable private key: {why}"))
                .remedy("Use an unencrypted Ed25519 key in PKCS#8 PEM, as `kubesolo-release keygen` creates it.")
        };
        if text.len() as u64 > KEY_FILE_BYTES {
            return Err(malformed("the file is too long"));
        }
        if text.contains("ENCRYPTED PRIVATE KEY") {
            return Err(malformed("it is encrypted").remedy(format!(
                "Decrypt it into a file only you can read: (umask 077; openssl pkey -in {place} -out FILE)."
            )));
        }
        let key = SigningKey::from_pkcs8_pem(&text).map_err(|e| malformed(&e.to_string()))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message = format!("the private key {place} has mode {mode:03o}: other users can read it");
            return Err(Error::new(Reason::KeyExposed, message)
                .remedy(format!("Run `chmod 600 {place}`. Replace the key if others may have read it.")));
        }
        Ok(Self(key))
    }

    /// Writes the private key to `private` (mode 0600) and its public half to `public`. Neither may exist before:
    /// a key that is overwritten is lost, and with it every device that trusts only that key.
    pub fn save(&self, private: &Path, public: &Path, format: PublicFormat) -> Result<()> {
        // Version 1 of PKCS#8, without the public half: the one form that every OpenSSL reads.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).context(Reason::KeyEncoding, "encode the key")?;
        create(private, pem.as_bytes(), 0o600)?;
        create(public, self.public_text(format)?.as_bytes(), 0o644).inspect_err(|_| {
            // Only what was created above goes away; a private key without its public half helps nobody.
            let _ = fs::remove_file(private);
        })
    }

    /// The public half as the text of a key file.
    pub fn public_text(&self, format: PublicFormat) -> Result<String> {
        Ok(match format {
            PublicFormat::Hex => format!("{}\n", hex::encode(self.public().as_bytes())),
            PublicFormat::Pem => {
                self.public().to_public_key_pem(LineEnding::LF).context(Reason::KeyEncoding, "encode the public key")?
            }
        })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// Fingerprint by which signatures name this key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(self.public().as_bytes())
    }

    /// A pure Ed25519 signature over exactly these bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// The name of a key that is to be revoked: of the public key in a file, or as it is written, 64 hex digits.
pub fn fingerprint(given: &Path) -> Result<Fingerprint> {
    let place = given.display();
    match files::read_data(given, KEY_FILE_BYTES + 1) {
        Ok(bytes) => {
            let key = keys::parse(&bytes).map_err(|why| {
                Error::new(Reason::BadKey, format!("{place}: {why}")).remedy("Name the public key to revoke.")
            })?;
            Ok(Fingerprint::of(key.as_bytes()))
        }
        Err(e) => given.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::new(Reason::BadKey, format!("{place} is neither a readable file ({e}) nor the SHA-256 of a key"))
                .remedy("Name the public key to revoke, or its SHA-256 as 64 hex digits in lower case.")
        }),
    }
}

/// Writes a new file; refuses one that exists, also as a dangling link.
fn create(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let place = path.display();
    replace::create(path, content, mode)
        .context(Reason::KeyNotWritten, format!("write {place}"))
        .map_err(|e| e.remedy("Nothing was overwritten. Choose another file for the new key."))
}
