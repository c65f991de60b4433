//! The offer of a registry, for a person or a script.

use std::fmt;

use serde::Serialize;

use super::read;
use super::registry::{Access, Registry, Rights};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::text;
use kubesolo_update::release::release::{Blob, Image, Patches};
use kubesolo_update::trust::keys::KeySet;

/// A published release. As JSON, the answer of `kubesolo-release inspect --json`.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// `host/path:tag` or `host/path@digest`.
    pub reference: String,
    /// Digest of the index; absent when the reference names a single manifest.
    pub index: Option<Digest>,
    /// One for each architecture that devices can choose.
    pub manifests: Vec<Inspected>,
}

/// The release for one architecture.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Of the manifest: the identity of the release.
    pub digest: Digest,
    /// SemVer.
    pub version: String,
    /// Absent means every channel.
    pub channel: Option<String>,
    /// Absent means any.
    pub min_compatible_version: Option<String>,
    /// 0 when absent.
    pub security_epoch: u64,
    /// Absent means any.
    pub board: Option<String>,
    /// Absent means all devices at once.
    pub rollout: Option<String>,
    /// RFC 3339 if the publisher kept to it.
    pub release_date: Option<String>,
    /// For people.
    pub release_notes: Option<String>,
    /// The kernel image.
    pub kernel: Image,
    /// The compressed initramfs.
    pub initramfs: Image,
    /// In bytes.
    pub initramfs_unpacked_size: Option<u64>,
    /// The index of the pieces of the initramfs; absent where devices fetch it whole.
    pub initramfs_pieces: Option<Blob>,
    /// Patches, for devices that run an earlier release.
    pub initramfs_patches: Vec<Patches>,
    /// All that are attached.
    pub signatures: Vec<Seal>,
    /// True if a device with the given key would take the release; absent when no key was given.
    pub trusted: Option<bool>,
}

/// One signature.
#[derive(Debug, Serialize)]
pub struct Seal {
    /// The key that made it, if its publisher is right.
    pub key_id: Option<String>,
    /// True if a given key made it; absent when no key was given.
    pub verified: Option<bool>,
}

/// Reads what `reference` names and checks each signature with `keys`.
pub fn inspect(reference: &str, keys: Option<&KeySet>, access: &Access) -> Result<Inspection> {
    let registry = Registry::open(reference, access, Rights::Pull)?;
    let found = read::read(&registry)?;
    let mut manifests = vec![];
    for manifest in found.manifests {
        let signatures = read::signatures(&registry, manifest.release.digest)?;
        let release = manifest.release;
        manifests.push(Inspected {
            architecture: release.architecture.to_string(),
            digest: release.digest,
            version: release.version.to_string(),
            channel: release.channel,
            min_compatible_version: release.min_compatible_version.map(|v| v.to_string()),
            security_epoch: release.security_epoch,
            board: release.board,
            rollout: release.rollout.map(|rollout| rollout.waves.to_string()),
            release_date: release.release_date,
            release_notes: release.release_notes,
            kernel: release.kernel,
            initramfs: release.initramfs,
            initramfs_unpacked_size: release.initramfs_unpacked_size,
            initramfs_pieces: release.pieces,
            initramfs_patches: release.patches,
            trusted: keys.map(|keys| keys.verify(&manifest.raw, &signatures).is_ok()),
            signatures: signatures
                .into_iter()
                .map(|signature| Seal {
                    verified: keys.map(|keys| keys.verify(&manifest.raw, std::slice::from_ref(&signature)).is_ok()),
                    key_id: signature.key_id,
                })
                .collect(),
        });
    }
    Ok(Inspection { reference: registry.reference(), index: found.is_index.then_some(found.digest), manifests })
}

impl Inspection {
    /// An error that names the architectures without a signature by a given key.
    pub fn trusted(&self) -> Result<()> {
        let untrusted: Vec<&str> =
            self.manifests.iter().filter(|m| m.trusted == Some(false)).map(|m| m.architecture.as_str()).collect();
        if untrusted.is_empty() {
            return Ok(());
        }
        let message = format!("{}: no signature by this key for {}", self.reference, untrusted.join(", "));
        Err(Error::new(Reason::SignatureMissing, message)
            .remedy("Sign it with `kubesolo-release sign`, or name the public key of its signer."))
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", text::escape(&self.reference))?;
        match &self.index {
            Some(digest) => writeln!(f, "index {digest}")?,
            None => writeln!(f, "single manifest, no index")?,
        }
        for manifest in &self.manifests {
            write!(f, "{manifest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |value: &Option<String>, none: &str| value.as_deref().map_or(none.into(), text::escape);
        writeln!(f, "{}", self.architecture)?;
        writeln!(f, "  manifest    {}", self.digest)?;
        writeln!(f, "  version     {}", self.version)?;
        writeln!(f, "  channel     {}", or(&self.channel, "any"))?;
        writeln!(
            f,
            "  from        {}",
            self.min_compatible_version.as_deref().map_or("any version".into(), |v| format!("{v} or later"))
        )?;
        writeln!(f, "  epoch       {}", self.security_epoch)?;
        writeln!(f, "  board       {}", or(&self.board, "any"))?;
        writeln!(f, "  rollout     {}", or(&self.rollout, "all devices at once"))?;
        writeln!(f, "  date        {}", or(&self.release_date, "none"))?;
        writeln!(f, "  notes       {}", or(&self.release_notes, "none"))?;
        for (name, image) in [("kernel", &self.kernel), ("initramfs", &self.initramfs)] {
            let size = image.size.map_or("size unknown".into(), |size| format!("{size} bytes"));
            writeln!(f, "  {name:<11} {size}, {}", image.digest)?;
        }
        match self.initramfs_unpacked_size {
            Some(size) => writeln!(f, "  unpacked    {size} bytes")?,
            None => writeln!(f, "  unpacked    unknown")?,
        }
        match self.initramfs_pieces {
            Some(Blob { size, .. }) => writeln!(f, "  pieces      index of {size} bytes: devices fetch what changed")?,
            None => writeln!(f, "  pieces      none: devices fetch the whole initramfs")?,
        }
        let (whole, index) = (self.initramfs.size.unwrap_or(0), self.initramfs_pieces.map_or(0, |index| index.size));
        for Patches { blob, from_version, from, .. } in &self.initramfs_patches {
            let fetched = blob.size + index;
            let percent = fetched as f64 * 100.0 / whole as f64;
            writeln!(
                f,
                "  patches     from {from_version}: devices fetch {fetched} bytes, {percent:.2} % of the initramfs; its base is \
                 {from}"
            )?;
        }
        if self.signatures.is_empty() {
            writeln!(f, "  signature   none")?;
        }
        for signature in &self.signatures {
            let verdict = match signature.verified {
                None => "not checked (use --pubkey)",
                Some(true) => "verified",
                Some(false) => "NOT by the given key",
            };
            writeln!(f, "  signature   key {}: {verdict}", or(&signature.key_id, "not named"))?;
        }
        Ok(())
    }
}
