//! A release: what a signed document says about one kernel and one initramfs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};
use crate::release::extras::{self, AgentSettings, KernelArgs, Requirement};
use crate::schedule::rollout::Rollout;
use crate::state::identity::Identity;
use crate::trust::signature::Fingerprint;

/// Layer with the kernel.
pub const KERNEL_TYPE: &str = "application/vnd.kubesolo.os.kernel.v1+octet-stream";
/// Layer with the initramfs.
pub const INITRAMFS_TYPE: &str = "application/vnd.kubesolo.os.initramfs.v1+gzip";
/// Layer with the index of the pieces of the initramfs, see [`Release::pieces`].
pub const PIECES_TYPE: &str = "application/vnd.kubesolo.os.initramfs.pieces.v1";
/// Layer with patches for pieces of the initramfs, see [`Patches`].
pub const PATCHES_TYPE: &str = "application/vnd.kubesolo.os.initramfs.patches.v1";
/// Layer with the device tree that the kernel gets, see [`Release::devicetree`].
pub const DEVICETREE_TYPE: &str = "application/vnd.kubesolo.os.devicetree.v1+dtb";
/// Artifact and layer type of a signature: 64 raw bytes, Ed25519 over the exact bytes of the manifest it refers to.
pub const SIGNATURE_TYPE: &str = "application/vnd.kubesolo.os.signature.v1+ed25519";

/// An OCI manifest.
pub const OCI_MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index; the list of referrers has this type too.
pub const OCI_INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker v2 manifest.
pub const DOCKER_MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_INDEX_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The document that an HTTP server has at `latest.json`. Only a name for what is signed: servers say `application/json`.
pub const LATEST_JSON_TYPE: &str = "application/vnd.kubesolo.os.latest.v1+json";

/// Version, SemVer, `v` optional. Mandatory.
pub const VERSION: &str = "io.kubesolo.os.version";
/// `amd64` or `arm64`. Mandatory.
pub const ARCHITECTURE: &str = "io.kubesolo.os.architecture";
/// Channel; absent means every channel.
pub const CHANNEL: &str = "io.kubesolo.os.channel";
/// Oldest version that can be updated to this one directly; absent means any.
pub const MIN_COMPATIBLE_VERSION: &str = "io.kubesolo.os.min_compatible_version";
/// Release notes, for people.
pub const RELEASE_NOTES: &str = "io.kubesolo.os.release_notes";
/// RFC 3339, for people.
pub const RELEASE_DATE: &str = "io.kubesolo.os.release_date";
/// End of the support of the release, RFC 3339; absent means unknown. It is information: nothing on a device depends on it.
pub const SUPPORTED_UNTIL: &str = "io.kubesolo.os.supported_until";
/// Layout of the checkpoints that the agent in the images writes (`bootenv::data::LAYOUT`), decimal; absent or 0: none that is
/// known of.
pub const DATA_LAYOUT: &str = "io.kubesolo.os.data_layout";
/// Security epoch, decimal; absent means 0. A device never goes back to a lower one.
pub const SECURITY_EPOCH: &str = "io.kubesolo.os.security_epoch";
/// Keys that no device shall accept any more once it committed this release, see [`revoked_keys`].
pub const REVOKED_KEYS: &str = "io.kubesolo.os.revoked_keys";
/// The board that the images are made for; absent means any.
pub const BOARD: &str = "io.kubesolo.os.board";
/// Which share of the devices may take it how long after its date; absent means all at once. See
/// [`Waves`](crate::schedule::rollout::Waves).
pub const ROLLOUT: &str = "io.kubesolo.os.rollout";
/// Size of the unpacked initramfs, decimal, in bytes.
pub const INITRAMFS_UNPACKED_SIZE: &str = "io.kubesolo.os.initramfs_unpacked_size";
/// Kernel arguments of the release, see [`KernelArgs`].
pub const KERNEL_ARGS: &str = "io.kubesolo.os.kernel_args";
/// Needs of the release, see [`requires`](extras::requires).
pub const REQUIRES: &str = "io.kubesolo.os.requires";
/// The settings that the agent in the images knows, see [`AgentSettings`].
pub const AGENT_SETTINGS: &str = "io.kubesolo.os.agent_settings";
/// On a layer of patches: digest of the earlier initramfs.
pub const PATCHES_FROM: &str = "io.kubesolo.os.patches.from";
/// On a layer of patches: version of the earlier release.
pub const PATCHES_FROM_VERSION: &str = "io.kubesolo.os.patches.from_version";
/// On a layer of patches: size and digest of the table at its start, `BYTES:sha256:HEX`.
pub const PATCHES_TABLE: &str = "io.kubesolo.os.patches.table";
/// On a layer of patches: the encoder that makes a piece of the patched bytes.
pub const PATCHES_ENCODER: &str = "io.kubesolo.os.patches.encoder";
/// The encoder that this version has. Patches for another one are ignored: the publisher may be newer.
pub const ENCODER: &str = "deflate-1";
/// On a signature: first 16 hex digits of the SHA-256 of the raw public key.
pub const KEY_ID: &str = "io.kubesolo.os.key_id";

/// A processor architecture, by its name in Go and OCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86, 64 bits.
    Amd64,
    /// Arm, 64 bits.
    Arm64,
}

impl Architecture {
    /// The one this program was built for.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn current() -> Self {
        Self::Amd64
    }

    /// The one this program was built for.
    #[cfg(target_arch = "aarch64")]
    #[must_use]
    pub fn current() -> Self {
        Self::Arm64
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "amd64" => Ok(Self::Amd64),
            "arm64" => Ok(Self::Arm64),
            _ => Err(Error::new(
                Reason::WrongArchitecture,
                format!("architecture \"{}\" is neither amd64 nor arm64", text::escape(name)),
            )
            .remedy("Publish the release again for one of the two.")),
        }
    }
}

/// A file on a server, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Size, in bytes.
    pub size: u64,
}

impl Blob {
    /// A file with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// An image as a release names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Size, in bytes; `None` when the release does not name it, so that the server has to be asked.
    pub size: Option<u64>,
}

impl Image {
    /// The image, if its size is known.
    #[must_use]
    pub fn blob(self) -> Option<Blob> {
        self.size.map(|size| Blob { digest: self.digest, size })
    }

    /// True if the release names this very file.
    #[must_use]
    pub fn is(self, blob: &Blob) -> bool {
        self.digest == blob.digest && self.size.is_none_or(|size| size == blob.size)
    }
}

impl From<Blob> for Image {
    fn from(Blob { digest, size }: Blob) -> Self {
        Self { digest, size: Some(size) }
    }
}

/// Patches that make pieces of an initramfs from pieces of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Patches {
    /// The whole layer: the table, then the patches.
    #[serde(flatten)]
    pub blob: Blob,
    /// Digest of the earlier initramfs.
    pub from: Digest,
    /// Version of the earlier release.
    #[serde(serialize_with = "as_text")]
    pub from_version: semver::Version,
    /// The first bytes of the layer.
    pub table: Blob,
}

impl Patches {
    /// True for an encoder that this version has.
    pub(super) fn has_known_encoder(name: &str) -> bool {
        name == ENCODER
    }

    /// The rules for all patches of a release.
    pub(super) fn check(all: &[Self], pieces: Option<&Blob>) -> Result<(), String> {
        let doubled = |(at, one): (usize, &Self)| all[..at].iter().any(|other| other.from == one.from);
        if all.iter().enumerate().any(doubled) {
            return Err("two layers of patches are from the same initramfs".into());
        }
        if let Some(one) = all.iter().find(|one| one.table.size > one.blob.size) {
            return Err(format!("the table of the patches from {} is longer than the patches", one.from_version));
        }
        if pieces.is_none() && !all.is_empty() {
            return Err("it has patches, but no index of pieces".into());
        }
        Ok(())
    }

    /// The limits of their number and of their tables.
    pub(super) fn check_limits(all: &[Self]) -> Result<()> {
        if all.len() > limits::PATCHES {
            return Err(limits::exceeded("patches of a release", limits::PATCHES));
        }
        if all.iter().any(|one| one.table.size > limits::PATCH_TABLE_BYTES) {
            return Err(limits::exceeded("table of patches", format_args!("{} bytes", limits::PATCH_TABLE_BYTES)));
        }
        Ok(())
    }
}

fn as_text<S: Serializer>(version: &semver::Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// Metadata of a release. Texts are as long as [`limits`] allows, and may hold any characters: escape them before
/// they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Digest of the signed document: the identity of the release.
    pub digest: Digest,
    /// SemVer.
    pub version: semver::Version,
    /// `None` means every channel.
    pub channel: Option<String>,
    /// `None` means any.
    pub min_compatible_version: Option<semver::Version>,
    /// Both images are for this one.
    pub architecture: Architecture,
    /// For people.
    pub release_notes: Option<String>,
    /// For people; RFC 3339 if the publisher kept to it.
    pub release_date: Option<String>,
    /// End of its support; `None` means unknown.
    pub supported_until: Option<DateTime<Utc>>,
    /// Layout of the checkpoints that its agent writes; 0 when absent: it may save no data.
    pub data_layout: u64,
    /// 0 when absent.
    pub security_epoch: u64,
    /// No device that committed this release accepts a signature by one of these any more.
    pub revoked_keys: BTreeSet<Fingerprint>,
    /// `None` means any.
    pub board: Option<String>,
    /// In bytes.
    pub initramfs_unpacked_size: Option<u64>,
    /// `None` means all devices at once.
    pub rollout: Option<Rollout>,
    /// The kernel image.
    pub kernel: Image,
    /// The compressed initramfs.
    pub initramfs: Image,
    /// The index of the pieces of the initramfs, so that a device fetches those that it lacks.
    pub pieces: Option<Blob>,
    /// For devices that run an earlier release; none without `pieces`.
    pub patches: Vec<Patches>,
    /// Kernel arguments beside those of the loader and of the device.
    pub kernel_args: Option<KernelArgs>,
    /// The device tree that the kernel gets instead of that of the firmware; only for arm64.
    pub devicetree: Option<Blob>,
    /// Its needs of a device.
    pub requires: BTreeSet<Requirement>,
    /// The settings that its agent knows; `None`: the release does not say.
    pub agent_settings: Option<AgentSettings>,
}

impl Release {
    /// Identity of the release.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let (kernel, initramfs) = (self.kernel.digest, self.initramfs.digest);
        Identity { release: self.digest, kernel, initramfs, extras: self.extras() }
    }

    /// Digest of its kernel arguments and its device tree; `None` if it has neither.
    fn extras(&self) -> Option<Digest> {
        let arguments = self.kernel_args.as_ref().map(KernelArgs::as_str).unwrap_or_default();
        let tree = self.devicetree.map(|tree| tree.digest.hex()).unwrap_or_default();
        self.has_extras().then(|| Digest::of(format!("{arguments}\n{tree}\n").as_bytes()))
    }

    /// True if kernel arguments or a device tree belong to its images.
    #[must_use]
    pub fn has_extras(&self) -> bool {
        self.kernel_args.is_some() || self.devicetree.is_some()
    }

    /// Reads an OCI or Docker v2 manifest: exactly one kernel, exactly one initramfs, the mandatory annotations.
    pub fn from_oci_manifest(raw: &[u8]) -> Result<Self> {
        if raw.len() as u64 > limits::MANIFEST_BYTES {
            return Err(limits::exceeded("manifest", format_args!("{} bytes", limits::MANIFEST_BYTES)));
        }
        let manifest: Manifest = json::parse(raw, "manifest")?;
        manifest.check()?;
        // A referrer's manifest (a signature, a statement about a release) is signed by the same keys and must never pass
        // for a release.
        if manifest.subject.is_some() || manifest.is_of_type(SIGNATURE_TYPE) {
            return Err(malformed("it is the manifest of a signature, not of a release"));
        }
        let blob = |media_type: &str, what: &str| {
            let layer = manifest.only(media_type, what)?;
            layer.ok_or_else(|| malformed(format_args!("no {what}: there is no layer {media_type}")))?.blob(what)
        };
        let text = |key: &str| manifest.annotations.get(key).filter(|value| !value.is_empty());
        let needed = |key: &str| text(key).ok_or_else(|| malformed(format_args!("annotation {key} is missing")));
        let decimals = |key: &str| text(key).map(|value| decimal(key, value)).transpose();
        let (pieces, patches) = (manifest.pieces()?, manifest.patches()?);
        Patches::check(&patches, pieces.as_ref()).map_err(malformed)?;
        let (number, architecture) = (version(needed(VERSION)?)?, needed(ARCHITECTURE)?.parse()?);
        Ok(Self {
            digest: Digest::of(raw),
            version: number,
            channel: text(CHANNEL).cloned(),
            min_compatible_version: text(MIN_COMPATIBLE_VERSION)
                .map(|value| version(value).map_err(|e| e.context(MIN_COMPATIBLE_VERSION)))
                .transpose()?,
            architecture,
            release_notes: text(RELEASE_NOTES).cloned(),
            release_date: text(RELEASE_DATE).cloned(),
            supported_until: supported_until(text(SUPPORTED_UNTIL).map(String::as_str))
                .map_err(|why| malformed(format_args!("annotation {SUPPORTED_UNTIL} {why}")))?,
            data_layout: decimals(DATA_LAYOUT)?.unwrap_or(0),
            security_epoch: decimals(SECURITY_EPOCH)?.unwrap_or(0),
            revoked_keys: text(REVOKED_KEYS).map_or(Ok(BTreeSet::new()), |value| revoked_keys(value))?,
            board: text(BOARD).cloned(),
            initramfs_unpacked_size: decimals(INITRAMFS_UNPACKED_SIZE)?,
            rollout: rollout(text(ROLLOUT).map(String::as_str), text(RELEASE_DATE).map(String::as_str))
                .map_err(|why| malformed(format_args!("annotation {ROLLOUT}: {why}")))?,
            kernel: blob(KERNEL_TYPE, "kernel")?.into(),
            initramfs: blob(INITRAMFS_TYPE, "initramfs")?.into(),
            pieces,
            patches,
            kernel_args: text(KERNEL_ARGS).map(|line| line.parse()).transpose()?,
            devicetree: manifest.devicetree()?.map(|tree| devicetree(tree, architecture)).transpose()?,
            requires: text(REQUIRES).map_or(Ok(BTreeSet::new()), |words| extras::requires(words))?,
            agent_settings: text(AGENT_SETTINGS)
                .map(|lines| lines.parse().map_err(|why| malformed(format_args!("annotation {AGENT_SETTINGS} {why}"))))
                .transpose()?,
        })
    }
}

/// Reads the end of support; the error says what is wrong with the text.
pub(super) fn supported_until(date: Option<&str>) -> Result<Option<DateTime<Utc>>, String> {
    let read = |date: &str| {
        let time = DateTime::parse_from_rfc3339(date).map_err(|_| date);
        time.map(|time| time.to_utc()).map_err(|date| format!("is \"{}\", not a date of RFC 3339", text::escape(date)))
    };
    date.map(read).transpose()
}

/// A plan counts from the date, and means nothing without one.
pub(super) fn rollout(waves: Option<&str>, date: Option<&str>) -> Result<Option<Rollout>, String> {
    let Some(waves) = waves else { return Ok(None) };
    let start = date.and_then(|date| DateTime::parse_from_rfc3339(date).ok());
    let start = start.ok_or("it needs a release date in the form of RFC 3339")?.to_utc();
    let waves = waves.parse().map_err(|why| format!("\"{}\": {why}", text::escape(waves)))?;
    Ok(Some(Rollout { start, waves }))
}

/// Reads a version: SemVer, with or without a leading `v`.
pub fn version(text: &str) -> Result<semver::Version> {
    if text.len() > limits::VERSION_BYTES {
        return Err(limits::exceeded("version", format_args!("{} bytes", limits::VERSION_BYTES)));
    }
    semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).map_err(|e| {
        let message =
            format!("version \"{}\" is not a semantic version: {}", text::escape(text), text::escape(&e.to_string()));
        Error::new(Reason::MalformedVersion, message)
    })
}

/// Reads a list of revoked keys: the SHA-256 of each raw public key, 64 hex digits in lower case, with commas between them.
pub fn revoked_keys(list: &str) -> Result<BTreeSet<Fingerprint>> {
    let keys: BTreeSet<Fingerprint> = list.split(',').map(str::parse).collect::<Result<_>>()?;
    if keys.len() > limits::REVOKED_KEYS {
        return Err(limits::exceeded("revoked keys", limits::REVOKED_KEYS));
    }
    Ok(keys)
}

/// The parts of an OCI or Docker v2 manifest that count here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    /// The config of OCI; releases have an empty one.
    pub config: Descriptor,
    /// The blobs.
    pub layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    /// At most [`limits::ANNOTATIONS`] once [`check`](Self::check) has passed.
    pub annotations: BTreeMap<String, String>,
    /// The manifest that this one is attached to.
    pub subject: Option<Descriptor>,
    manifests: Option<IgnoredAny>,
}

impl Manifest {
    /// Rules for every manifest.
    ///
    /// # Errors
    /// 65 when it does not: another schema or media type, an index as well, too many layers, annotations that are too long.
    pub fn check(&self) -> Result<()> {
        if self.schema_version != 2 {
            return Err(malformed(format_args!("schemaVersion is {}, not 2", self.schema_version)));
        }
        match self.media_type.as_deref() {
            None | Some(OCI_MANIFEST_TYPE | DOCKER_MANIFEST_TYPE) => {}
            Some(other) => return Err(malformed(format_args!("mediaType is \"{}\"", text::escape(other)))),
        }
        // One document that can be read as manifest and as index is two documents.
        if self.manifests.is_some() {
            return Err(malformed("it has layers and manifests"));
        }
        if self.layers.len() > limits::MANIFEST_LAYERS {
            return Err(limits::exceeded("manifest", format_args!("{} layers", limits::MANIFEST_LAYERS)));
        }
        if self.annotations.len() > limits::ANNOTATIONS {
            return Err(limits::exceeded("manifest", format_args!("{} annotations", limits::ANNOTATIONS)));
        }
        for (key, value) in &self.annotations {
            let limit = if key == RELEASE_NOTES { limits::RELEASE_NOTES_BYTES } else { limits::ANNOTATION_BYTES };
            if key.len() > limits::ANNOTATION_BYTES || value.len() > limit {
                let what = format!("annotation \"{}\" of the manifest", text::escape(key));
                return Err(limits::exceeded(what, format_args!("{limit} bytes")));
            }
        }
        Ok(())
    }

    /// The one layer of this type, if there is one.
    fn only(&self, media_type: &str, what: &str) -> Result<Option<&Descriptor>> {
        let mut found = self.layers.iter().filter(|layer| layer.media_type == media_type);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(malformed(format_args!("more than one {what}: two layers {media_type}"))),
            (layer, None) => Ok(layer),
        }
    }

    /// The layer with the index of pieces.
    fn pieces(&self) -> Result<Option<Blob>> {
        let what = "index of pieces";
        self.only(PIECES_TYPE, what)?.map(|layer| pieces(layer.blob(what)?)).transpose()
    }

    /// The layer with the device tree.
    fn devicetree(&self) -> Result<Option<Blob>> {
        let what = "device tree";
        self.only(DEVICETREE_TYPE, what)?.map(|layer| layer.blob(what)).transpose()
    }

    /// The layers with patches of an encoder that this version has.
    fn patches(&self) -> Result<Vec<Patches>> {
        let known = |layer: &&Descriptor| {
            let encoder = layer.annotations.get(PATCHES_ENCODER);
            layer.media_type == PATCHES_TYPE && encoder.is_some_and(|name| Patches::has_known_encoder(name))
        };
        let all = self.layers.iter().filter(known).map(Descriptor::patches).collect::<Result<Vec<_>>>()?;
        Patches::check_limits(&all)?;
        Ok(all)
    }

    /// Before OCI 1.1, the type of the config was the type of the artifact.
    #[must_use]
    pub fn is_of_type(&self, artifact_type: &str) -> bool {
        self.artifact_type.as_deref() == Some(artifact_type) || self.config.media_type == artifact_type
    }
}

/// An OCI descriptor. Its `urls` are left out on purpose: bytes come from the registry that was configured, or not at all.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// As it is written; not every digest is one.
    pub digest: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Of entries of an index.
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    /// Empty when there are none.
    pub annotations: BTreeMap<String, String>,
    /// Of entries of an index.
    pub platform: Option<Platform>,
}

impl Descriptor {
    fn blob(&self, what: &str) -> Result<Blob> {
        let digest = self.digest.parse().map_err(|e: Error| e.context(format_args!("manifest: {what}")))?;
        match self.size {
            0 => Err(malformed(format_args!("{what} is empty"))),
            size if size > limits::IMAGE_BYTES => {
                Err(limits::exceeded(what, format_args!("{} bytes", limits::IMAGE_BYTES)))
            }
            size => Ok(Blob { digest, size }),
        }
    }

    fn patches(&self) -> Result<Patches> {
        let needed = |key: &str| {
            let value = self.annotations.get(key).map(String::as_str);
            value.ok_or_else(|| malformed(format_args!("annotation {key} of a layer of patches is missing")))
        };
        let at = |key: &'static str| move |e: Error| e.context(format_args!("annotation {key}"));
        let table = needed(PATCHES_TABLE)?.split_once(':').and_then(|(size, digest)| {
            let size = Some(size).filter(|size| size.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
            Some(Blob { digest: digest.parse().ok()?, size })
        });
        let table = table.filter(|table| table.size > 0);
        Ok(Patches {
            blob: self.blob("layer of patches")?,
            from: needed(PATCHES_FROM)?.parse().map_err(at(PATCHES_FROM))?,
            from_version: version(needed(PATCHES_FROM_VERSION)?).map_err(at(PATCHES_FROM_VERSION))?,
            table: table.ok_or_else(|| {
                malformed(format_args!("annotation {PATCHES_TABLE} is not a size and a digest: BYTES:sha256:HEX"))
            })?,
        })
    }
}

/// An index of pieces, if it is not too large to be one.
pub(super) fn pieces(blob: Blob) -> Result<Blob> {
    if blob.size > limits::PIECES_BYTES {
        return Err(limits::exceeded("index of pieces", format_args!("{} bytes", limits::PIECES_BYTES)));
    }
    Ok(blob)
}

/// A device tree, if it can be one for this architecture.
pub(super) fn devicetree(tree: Blob, architecture: Architecture) -> Result<Blob> {
    if architecture != Architecture::Arm64 {
        let message = format!("the release for {architecture} has a device tree, which only arm64 takes");
        return Err(Error::new(Reason::MalformedDevicetree, message));
    }
    if tree.size > limits::DEVICETREE_BYTES {
        return Err(limits::exceeded("device tree", format_args!("{} bytes", limits::DEVICETREE_BYTES)));
    }
    Ok(tree)
}

/// Platform of an entry of an index. Entries for others may lack parts of it, or have an empty one.
#[derive(Clone, Debug, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub os: String,
    /// `amd64` or `arm64`, as Go names processors.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architecture: String,
    /// Which processors of the architecture can run it.
    pub variant: Option<String>,
}

/// Go's encoder writes `null` for an empty map or list.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn malformed(why: impl fmt::Display) -> Error {
    Error::new(Reason::MalformedManifest, format!("manifest is not a valid release: {why}"))
}

fn decimal(key: &str, value: &str) -> Result<u64> {
    Some(value)
        .filter(|value| value.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| malformed(format_args!("annotation {key} is \"{}\", not a decimal number", text::escape(value))))
}

#[cfg(test)]
mod tests;
