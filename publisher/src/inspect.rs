//! The offer of a registry, for a person or a script.

use std::fmt;

use serde::Serialize;

use super::contents::{self, Document};
use super::freshness::Place;
use super::registry::{Access, Registry, Rights};
use super::{date, read};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, ErrorReport, Reason, Result};
use kubesolo_update::base::text;
use kubesolo_update::release::extras::AgentSetting;
use kubesolo_update::release::release::{Blob, Image, Patches, SIGNATURE_TYPE};
use kubesolo_update::source::signatures::Found;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::Signature;

/// A published release. As JSON, the answer of `kubesolo-release inspect --json`.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// `host/path:tag` or `host/path@digest`.
    pub reference: String,
    /// Digest of the index; absent when the reference names a single manifest.
    pub index: Option<Digest>,
    /// The freshness statement of the tag, not verified; absent without one.
    pub freshness: Option<Freshness>,
    /// One for each architecture that devices can choose.
    pub manifests: Vec<Inspected>,
    /// The failure of the command, if a release is not trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// The release for one architecture.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Digest of the manifest, which identifies the release.
    pub digest: Digest,
    /// SemVer.
    pub version: String,
    /// Channel of the release; absent means every channel.
    pub channel: Option<String>,
    /// The lowest version that may be updated to it; absent means any.
    pub min_compatible_version: Option<String>,
    /// Layout of the checkpoints that its agent writes; 0: it may save no data.
    pub data_layout: u64,
    /// Security epoch; 0 if the release names none.
    pub security_epoch: u64,
    /// The board that it is for; absent means any.
    pub board: Option<String>,
    /// Waves; absent means all devices at once.
    pub rollout: Option<String>,
    /// Date of the release: RFC 3339, unless the publisher wrote another text.
    pub release_date: Option<String>,
    /// End of its support, RFC 3339; absent: unknown.
    pub supported_until: Option<String>,
    /// Release notes, for people.
    pub release_notes: Option<String>,
    /// The kernel image.
    pub kernel: Image,
    /// The compressed initramfs.
    pub initramfs: Image,
    /// Size of the unpacked initramfs, in bytes; absent if the release does not name it.
    pub initramfs_unpacked_size: Option<u64>,
    /// The index of the pieces of the initramfs; absent where devices fetch it whole.
    pub initramfs_pieces: Option<Blob>,
    /// Patches, for devices that run an earlier release.
    pub initramfs_patches: Vec<Patches>,
    /// Kernel arguments; absent means none.
    pub kernel_args: Option<String>,
    /// The device tree; absent means that of the firmware.
    pub devicetree: Option<Blob>,
    /// Needs that devices compare before an update.
    pub requires: Vec<String>,
    /// Settings that its agent knows; absent: the release does not say.
    pub agent_settings: Option<Vec<AgentSetting>>,
    /// All that are attached.
    pub signatures: Vec<Seal>,
    /// Other documents that are attached: bills of materials, records of the build, unknown ones.
    pub attached: Vec<Attached>,
    /// True if a device with the given key would take the release; absent when no key was given.
    pub trusted: Option<bool>,
}

/// A document about a release. Devices ignore it.
#[derive(Debug, Serialize)]
pub struct Attached {
    /// Its type, as the document names it.
    pub artifact_type: Option<String>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of its files.
    pub size: u64,
}

/// The freshness statement of a tag.
#[derive(Debug, Serialize)]
pub struct Freshness {
    /// Grows with each statement.
    pub serial: u64,
    /// End of its validity, RFC 3339.
    pub not_after: String,
}

/// One signature.
#[derive(Debug, Serialize)]
pub struct Seal {
    /// Id of the key that is said to have made it.
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
        let found = read::attachments(&registry, manifest.release.digest)?;
        let attached = attached(&registry, manifest.release.digest, &found)?;
        let signatures: Vec<Signature> = found.into_iter().flat_map(|found| found.signatures).collect();
        let release = manifest.release;
        manifests.push(Inspected {
            architecture: release.architecture.to_string(),
            digest: release.digest,
            version: release.version.to_string(),
            channel: release.channel,
            min_compatible_version: release.min_compatible_version.map(|v| v.to_string()),
            data_layout: release.data_layout,
            security_epoch: release.security_epoch,
            board: release.board,
            rollout: release.rollout.map(|rollout| rollout.waves.to_string()),
            release_date: release.release_date,
            supported_until: release.supported_until.map(date::rfc3339),
            release_notes: release.release_notes,
            kernel: release.kernel,
            initramfs: release.initramfs,
            initramfs_unpacked_size: release.initramfs_unpacked_size,
            initramfs_pieces: release.pieces,
            initramfs_patches: release.patches,
            kernel_args: release.kernel_args.map(|line| line.to_string()),
            devicetree: release.devicetree,
            requires: release.requires.iter().map(ToString::to_string).collect(),
            agent_settings: release.agent_settings.map(|settings| settings.iter().cloned().collect()),
            attached,
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
    // Statements are about a tag.
    let freshness = registry.tag().filter(|_| registry.digest().is_none()).and_then(|_| freshness(reference, access));
    let index = found.is_index.then_some(found.digest);
    Ok(Inspection { reference: registry.reference(), index, freshness, manifests, error: None })
}

/// All that is attached to a manifest, without its signatures.
fn attached(registry: &Registry, subject: Digest, signatures: &[Found]) -> Result<Vec<Attached>> {
    let mut failure = None;
    let mut digests = contents::referrers(registry, subject, &mut failure);
    digests.retain(|digest| signatures.iter().all(|found| Digest::of(&found.manifest) != *digest));
    let mut all = vec![];
    for digest in digests {
        let Some(raw) = registry.manifest(&digest.to_string())? else { continue };
        let Ok(document) = Document::parse(&raw) else { continue };
        // A signature that cannot be read.
        let artifact_type = document.artifact_type().map(str::to_owned);
        if artifact_type.as_deref() != Some(SIGNATURE_TYPE) {
            all.push(Attached { artifact_type, digest, size: document.size() });
        }
    }
    match failure {
        Some(e) if all.is_empty() && signatures.is_empty() => Err(e),
        _ => Ok(all),
    }
}

fn freshness(reference: &str, access: &Access) -> Option<Freshness> {
    let place = Place::Registry(reference.to_owned(), access.clone());
    let statement = place.published().unwrap_or_else(|e| {
        log::warn!("cannot read the freshness statement: {e}");
        None
    });
    statement.map(|statement| Freshness { serial: statement.serial, not_after: date::rfc3339(statement.not_after) })
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
        if let Some(Freshness { serial, not_after }) = &self.freshness {
            writeln!(f, "freshness statement {serial}, until {not_after}")?;
        }
        for manifest in &self.manifests {
            write!(f, "{manifest}")?;
        }
        Ok(())
    }
}

impl Inspected {
    /// Everything that boots beside the images, with the needs of the release.
    fn write_extras(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  arguments   {}", self.kernel_args.as_deref().unwrap_or("none"))?;
        match self.devicetree {
            Some(Blob { size, digest }) => writeln!(f, "  devicetree  {size} bytes, {digest}")?,
            None => writeln!(f, "  devicetree  that of the firmware")?,
        }
        let needs = (!self.requires.is_empty()).then(|| self.requires.join(" "));
        writeln!(f, "  needs       {}", needs.as_deref().unwrap_or("nothing"))?;
        match &self.agent_settings {
            Some(all) => {
                let required = all.iter().filter(|setting| setting.required).count();
                writeln!(f, "  settings    its agent knows {}, and needs {required} of them", all.len())?;
            }
            None => writeln!(f, "  settings    unknown: the release does not name those of its agent")?,
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
        match self.data_layout {
            0 => writeln!(f, "  data        not saved, as far as the release says")?,
            layout => writeln!(f, "  data        saved before a trial, layout {layout}")?,
        }
        writeln!(f, "  epoch       {}", self.security_epoch)?;
        writeln!(f, "  board       {}", or(&self.board, "any"))?;
        writeln!(f, "  rollout     {}", or(&self.rollout, "all devices at once"))?;
        writeln!(f, "  date        {}", or(&self.release_date, "none"))?;
        writeln!(f, "  support     {}", or(&self.supported_until, "end unknown"))?;
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
        self.write_extras(f)?;
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
        for Attached { artifact_type, digest, size } in &self.attached {
            writeln!(f, "  attached    {}, {size} bytes, {digest}", or(artifact_type, "no type"))?;
        }
        Ok(())
    }
}
