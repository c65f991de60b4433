//! The publisher's side: makes releases that devices accept. The program `kubesolo-release` is its command line: [`cli`]
//! and [`commands`].
#![warn(unreachable_pub)]
// Bounds of a function: see clippy.toml.
#![warn(clippy::too_many_arguments, clippy::too_many_lines)]
// Standard output is data, and standard error is written in one place: `console`.
#![warn(clippy::print_stdout, clippy::print_stderr)]
// Files are opened by `base::files`, written by `base::replace`, and programs run by `device::programs`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod answer;
pub mod attachment;
pub mod bundle;
pub mod cli;
pub mod commands;
mod contents;
pub mod copy;
pub mod credentials;
pub mod date;
mod delta;
pub mod extras;
pub mod factory;
mod failure;
pub mod freshness;
pub mod http;
pub mod initramfs;
pub mod inspect;
pub mod kernel;
pub mod key;
pub mod list;
mod read;
pub mod receipts;
mod referrer;
pub mod registry;
pub mod repack;
pub mod sign;
mod succession;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use oci_client::annotations::ORG_OPENCONTAINERS_IMAGE_TITLE;
use oci_client::manifest::OciDescriptor;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use attachment::Attachment;
use delta::Deltas;
use extras::{Additions, Extras};
use key::PrivateKey;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits};
use kubesolo_update::release::release::{self, Architecture, Blob, Release};
use kubesolo_update::schedule::rollout::Waves;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::Fingerprint;
use registry::{Access, Registry, Rights};
use succession::Next;

/// Artifact type of a release manifest. OCI asks for one when there is no config; devices ignore it.
pub const RELEASE_TYPE: &str = "application/vnd.kubesolo.os.release.v1";
/// The config of an artifact that has none, fixed by OCI 1.1.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// The name of an index of pieces as a file.
const PIECES_TITLE: &str = "kubesolo-os.pieces";

/// The files of one architecture.
#[derive(Clone, Debug)]
pub struct Images {
    /// Architecture of both files.
    pub architecture: Architecture,
    /// A Linux boot image.
    pub kernel: PathBuf,
    /// An initramfs, best compressed with gzip: devices cannot check their memory for any other compression.
    pub initramfs: PathBuf,
}

/// Metadata of a release.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Its version.
    pub version: semver::Version,
    /// The channel it is for; also the tag when the reference has none.
    pub channel: String,
    /// RFC 3339.
    pub release_date: String,
    /// End of its support.
    pub supported_until: Option<DateTime<Utc>>,
    /// Oldest version that can be updated directly.
    pub min_compatible_version: Option<semver::Version>,
    /// Layout of the checkpoints that the agent in the images writes; absent: as it is found in them.
    pub data_layout: Option<u64>,
    /// For people.
    pub release_notes: Option<String>,
    /// A device never goes back to a lower one; absent means 0.
    pub security_epoch: Option<u64>,
    /// The board that the images are made for.
    pub board: Option<String>,
    /// Keys that no device shall accept any more once it committed this release.
    pub revoked_keys: BTreeSet<Fingerprint>,
    /// Which share of the devices may take it how long after its date; absent means all at once.
    pub rollout: Option<Waves>,
    /// Everything that boots beside the images.
    pub extras: Extras,
}

impl Metadata {
    /// The list of revoked keys, as it is written.
    fn revoked(&self) -> Option<String> {
        let keys: Vec<String> = self.revoked_keys.iter().map(ToString::to_string).collect();
        (!keys.is_empty()).then(|| keys.join(","))
    }

    /// The least that a release must say, dated at the start of 1970: enough for a test.
    #[must_use]
    pub fn new(version: semver::Version, channel: impl Into<String>) -> Self {
        Self {
            version,
            channel: channel.into(),
            release_date: "1970-01-01T00:00:00Z".into(),
            supported_until: None,
            min_compatible_version: None,
            data_layout: None,
            release_notes: None,
            security_epoch: None,
            board: None,
            revoked_keys: BTreeSet::new(),
            rollout: None,
            extras: Extras::default(),
        }
    }
}

/// How a release is published.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the registry is reached.
    pub access: Access,
    /// Skip the check that the kernel is one.
    pub unchecked_kernel: bool,
    /// Tags beside the one of the reference that are moved to the release after it.
    pub also_tags: Vec<String>,
    /// Replace a higher version, or other images of the same version.
    pub replace: bool,
    /// Check everything and write nothing.
    pub dry_run: bool,
    /// Earlier releases whose devices get patches: references, bundles, trees of [`http::publish`].
    pub delta_from: Vec<String>,
    /// Documents to attach to the manifest of each architecture.
    pub attachments: Vec<Attachment>,
}

/// A published release.
#[derive(Clone, Debug)]
pub struct Published {
    /// `host/path:tag`, as a device is configured.
    pub reference: String,
    /// Of the index.
    pub index: Digest,
    /// Of the manifest of each architecture: what is signed.
    pub manifests: Vec<(Architecture, Digest)>,
}

/// Publishes a release: checks the files, uploads them, signs the manifest of each architecture with each key, and
/// moves the tag last, so that no device ever sees the tag on something unsigned or incomplete. Without keys the release
/// is unsigned.
///
/// Doing it again is safe: the same input gives the same digests, and uploads that are complete are not repeated.
///
/// # Errors
/// 77 where a tag has a higher version, or the same version with other images, unless `options.replace`.
pub fn release(
    reference: &str,
    metadata: &Metadata,
    images: &[Images],
    keys: &[PrivateKey],
    options: &Options,
) -> Result<Published> {
    // Everything that can be refused is refused before the first byte goes out.
    check_set(images.iter().map(|images| images.architecture))?;
    let prepared =
        images.iter().map(|images| Prepared::new(images, metadata, options)).collect::<Result<Vec<Prepared>>>()?;
    let registry = Registry::open(reference, &options.access, Rights::Push)?;
    if registry.digest().is_some() {
        return Err(Error::new(Reason::Usage, "a release needs a tag, not a digest"));
    }
    let tag = registry.tag().unwrap_or(&metadata.channel).to_owned();
    let tags: Vec<&String> = [&tag].into_iter().chain(&options.also_tags).collect();
    tags.iter().try_for_each(|tag| registry.check_tag(tag))?;
    let next: Vec<Next> = prepared.iter().map(Prepared::next).collect();
    for tag in &tags {
        let (place, old) = (format!("{}:{tag}", registry.name()), succession::published(&registry, tag)?);
        if !options.replace {
            succession::check(&place, &old, metadata, &next)?;
        }
        succession::warn_of_lost(&place, &old, &next);
    }
    let index = index(metadata, &prepared);
    let published = Published {
        reference: format!("{}:{tag}", registry.name()),
        index: Digest::of(&index),
        manifests: prepared.iter().map(|p| (p.images.architecture, Digest::of(&p.manifest))).collect(),
    };
    if options.dry_run {
        return Ok(published);
    }

    registry.put_bytes("config", EMPTY)?;
    for one in &prepared {
        let architecture = one.images.architecture;
        registry.put_file(&format!("{architecture} kernel"), &one.kernel, &one.images.kernel)?;
        registry.put_file(&format!("{architecture} initramfs"), &one.initramfs, &one.images.initramfs)?;
        if let Some(index) = &one.deltas.index {
            registry.put_bytes(&format!("{architecture} index of pieces"), index)?;
        }
        for pack in &one.deltas.packs {
            let what = format!("{architecture} patches from {}", pack.from_version);
            registry.put_file(&what, &pack.blob, &pack.path())?;
        }
        if let Some(tree) = &one.extras.tree {
            registry.put_bytes(&format!("{architecture} device tree"), tree)?;
        }
        registry.put_manifest(None, &one.manifest, release::OCI_MANIFEST_TYPE)?;
        for key in keys {
            sign::attach(&registry, &one.manifest, &key.sign(&one.manifest), key.id())?;
        }
        options.attachments.iter().try_for_each(|attachment| attachment.attach(&registry, &one.manifest))?;
    }
    tags.into_iter().try_for_each(|tag| registry.put_manifest(Some(tag), &index, release::OCI_INDEX_TYPE).map(drop))?;
    Ok(published)
}

/// Moves tags to a release that is published already, if each of its manifests is signed by one of the keys. Returns the
/// digest that the tags now stand for.
pub fn retag(reference: &str, tags: &[String], keys: &KeySet, access: &Access) -> Result<Digest> {
    let registry = Registry::open(reference, access, Rights::Push)?;
    tags.iter().try_for_each(|tag| registry.check_tag(tag))?;
    let found = read::read(&registry)?;
    for manifest in &found.manifests {
        keys.verify(&manifest.raw, &read::signatures(&registry, manifest.release.digest)?)
            .map_err(|e| e.context(format!("{} for {}", registry.reference(), manifest.release.architecture)))?;
    }
    for tag in tags {
        registry.put_manifest(Some(tag), &found.raw, found.media_type)?;
    }
    Ok(found.digest)
}

/// One architecture, checked, with its manifest.
struct Prepared<'a> {
    images: &'a Images,
    kernel: Blob,
    initramfs: Blob,
    deltas: Deltas,
    extras: Additions,
    manifest: Vec<u8>,
}

impl<'a> Prepared<'a> {
    fn next(&self) -> Next {
        let (kernel_args, devicetree) = (self.extras.kernel_args.clone(), self.extras.tree_blob());
        let architecture = self.images.architecture;
        Next { architecture, kernel: self.kernel, initramfs: self.initramfs, kernel_args, devicetree }
    }

    fn new(images: &'a Images, metadata: &Metadata, options: &Options) -> Result<Self> {
        if !options.unchecked_kernel {
            kernel::check(&images.kernel, images.architecture)?;
        }
        let initramfs::Contents { unpacked, data_layout, agent } = initramfs::check(&images.initramfs)?;
        let data_layout = metadata.data_layout.or(data_layout);
        let extras = metadata.extras.of(images.architecture, agent.as_deref())?;
        let (kernel, initramfs) = (blob(&images.kernel)?, blob(&images.initramfs)?);
        let from = delta::From { places: &options.delta_from, access: &options.access };
        let deltas = Deltas::new(images, initramfs, unpacked, &from)?;
        let mut layers = vec![
            descriptor(release::KERNEL_TYPE, &kernel, "vmlinuz"),
            descriptor(release::INITRAMFS_TYPE, &initramfs, "kubesolo-os.gz"),
        ];
        layers.extend(delta_layers(&deltas));
        layers.extend(extras.layer());
        let mut annotations = BTreeMap::from([
            (release::VERSION, metadata.version.to_string()),
            (release::CHANNEL, metadata.channel.clone()),
            (release::ARCHITECTURE, images.architecture.to_string()),
            (release::RELEASE_DATE, metadata.release_date.clone()),
        ]);
        let optional = [
            (release::INITRAMFS_UNPACKED_SIZE, unpacked.map(|bytes| bytes.to_string())),
            (release::MIN_COMPATIBLE_VERSION, metadata.min_compatible_version.as_ref().map(ToString::to_string)),
            (release::SUPPORTED_UNTIL, metadata.supported_until.map(date::rfc3339)),
            (release::DATA_LAYOUT, data_layout.map(|layout| layout.to_string())),
            (release::RELEASE_NOTES, metadata.release_notes.clone()),
            (release::SECURITY_EPOCH, metadata.security_epoch.map(|epoch| epoch.to_string())),
            (release::BOARD, metadata.board.clone()),
            (release::REVOKED_KEYS, metadata.revoked()),
            (release::ROLLOUT, metadata.rollout.as_ref().map(ToString::to_string)),
        ];
        annotations
            .extend(optional.into_iter().chain(extras.annotations()).filter_map(|(key, value)| Some((key, value?))));
        let manifest = document(&json!({
            "schemaVersion": 2,
            "mediaType": release::OCI_MANIFEST_TYPE,
            "artifactType": RELEASE_TYPE,
            "config": empty_config(),
            "layers": layers,
            "annotations": annotations,
        }));
        // The device's own parser and limits have the last word.
        Release::from_oci_manifest(&manifest)
            .map_err(|e| e.context(format!("no device would accept the {} release", images.architecture)))?;
        Ok(Self { images, kernel, initramfs, deltas, extras, manifest })
    }
}

/// The layers with the index of pieces and with patches.
fn delta_layers(deltas: &Deltas) -> Vec<OciDescriptor> {
    let index = deltas.index.iter().map(|index| descriptor(release::PIECES_TYPE, &Blob::of(index), PIECES_TITLE));
    let packs = deltas.packs.iter().map(|pack| {
        let mut layer =
            descriptor(release::PATCHES_TYPE, &pack.blob, &format!("kubesolo-os.from-{}", pack.from_version));
        let more = [
            (release::PATCHES_FROM, pack.from.to_string()),
            (release::PATCHES_FROM_VERSION, pack.from_version.to_string()),
            (release::PATCHES_TABLE, format!("{}:{}", pack.table.size, pack.table.digest)),
            (release::PATCHES_ENCODER, release::ENCODER.to_owned()),
        ];
        layer.annotations.get_or_insert_default().extend(more.map(|(name, value)| (name.to_owned(), value)));
        layer
    });
    index.chain(packs).collect()
}

fn check_set(architectures: impl Iterator<Item = Architecture>) -> Result<()> {
    let mut known = vec![];
    for architecture in architectures {
        if known.contains(&architecture) {
            let message = format!("the images of {architecture} are named twice");
            return Err(Error::new(Reason::DoubledImages, message));
        }
        known.push(architecture);
    }
    if known.is_empty() {
        return Err(Error::new(Reason::NoImages, "nothing to publish: no architecture is named"));
    }
    Ok(())
}

/// The index has no artifact types: skopeo before 1.14 drops those of entries, and cannot copy the digest then.
fn index(metadata: &Metadata, prepared: &[Prepared]) -> Vec<u8> {
    let manifests: Vec<Value> = prepared
        .iter()
        .map(|one| {
            json!({
                "mediaType": release::OCI_MANIFEST_TYPE,
                "digest": Digest::of(&one.manifest),
                "size": one.manifest.len(),
                "platform": { "os": "linux", "architecture": one.images.architecture.to_string() },
            })
        })
        .collect();
    document(&json!({
        "schemaVersion": 2,
        "mediaType": release::OCI_INDEX_TYPE,
        "manifests": manifests,
        "annotations": {
            (release::VERSION): metadata.version.to_string(),
            (release::CHANNEL): metadata.channel,
        },
    }))
}

/// The bytes of a document. The order of keys is that of `serde_json`'s map: sorted, hence the same every time.
fn document(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn empty_config() -> Value {
    json!({ "mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len(), "data": "e30=" })
}

fn descriptor(media_type: &str, blob: &Blob, title: &str) -> OciDescriptor {
    OciDescriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest.to_string(),
        // No file system has a larger file.
        size: i64::try_from(blob.size).unwrap_or(i64::MAX),
        annotations: Some(BTreeMap::from([(ORG_OPENCONTAINERS_IMAGE_TITLE.to_owned(), title.to_owned())])),
        ..OciDescriptor::default()
    }
}

/// Digest and size of a file, read once with bounded memory.
fn blob(path: &Path) -> Result<Blob> {
    let read = || -> std::io::Result<Blob> {
        let mut file = files::open_data(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Blob { digest: Digest(hash.finalize().into()), size }),
                read => {
                    hash.update(&buffer[..read]);
                    size += read as u64;
                }
            }
        }
    };
    read().context(Reason::ImageUnreadable, format!("read {}", path.display()))
}

/// Release notes as given on a command line: the text, or `@FILE`.
#[expect(clippy::disallowed_methods, reason = "a person may name a pipe, and waits for it")]
pub fn notes(given: String) -> Result<String> {
    let Some(path) = given.strip_prefix('@') else { return Ok(given) };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limits::RELEASE_NOTES_BYTES as u64 + 1).read_to_string(&mut text))
        .context(Reason::NotesUnreadable, format!("read the release notes {path}"))?;
    Ok(text)
}
