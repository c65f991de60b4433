//! `latest.json`: the release that an HTTP server offers.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{json, limits, text};
use crate::release::extras;
use crate::release::release::{
    self, Architecture, Blob, Image, Patches, Release, null_is_empty, revoked_keys, rollout, supported_until, version,
};
use crate::trust::signature::Fingerprint;

/// A `latest.json`, as it was read. URLs are as they are written there: relative ones resolve against the document.
///
/// An absent member and an empty one are the same, since old publishers write empty ones.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Of its bytes: the identity of the release.
    digest: Digest,
    document: Document,
}

/// The JSON.
#[derive(Clone, Debug, Deserialize)]
struct Document {
    version: Option<String>,
    channel: Option<String>,
    min_compatible_version: Option<String>,
    architecture: Option<String>,
    release_notes: Option<String>,
    release_date: Option<String>,
    supported_until: Option<String>,
    data_layout: Option<u64>,
    security_epoch: Option<u64>,
    revoked_keys: Option<String>,
    board: Option<String>,
    initramfs_unpacked_size: Option<u64>,
    rollout: Option<String>,
    vmlinuz_url: Option<String>,
    vmlinuz_sha256: Option<String>,
    vmlinuz_sig_url: Option<String>,
    initramfs_url: Option<String>,
    initramfs_sha256: Option<String>,
    initramfs_sig_url: Option<String>,
    initramfs_pieces_url: Option<String>,
    initramfs_pieces_sha256: Option<String>,
    initramfs_pieces_size: Option<u64>,
    #[serde(default, deserialize_with = "null_is_empty")]
    initramfs_patches: Vec<PatchesMember>,
    kernel_args: Option<String>,
    requires: Option<String>,
    agent_settings: Option<String>,
    devicetree_url: Option<String>,
    devicetree_sha256: Option<String>,
    devicetree_size: Option<u64>,
    metadata_sig_url: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<IgnoredAny>,
    #[serde(rename = "mediaType")]
    media_type: Option<IgnoredAny>,
}

/// An element of `initramfs_patches`.
#[derive(Clone, Debug, Deserialize)]
struct PatchesMember {
    from: Option<String>,
    from_version: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
    table_size: Option<u64>,
    table_sha256: Option<String>,
    encoder: Option<String>,
}

impl PatchesMember {
    fn is_known(&self) -> bool {
        self.encoder.as_deref().is_some_and(Patches::has_known_encoder)
    }

    fn read(&self) -> Result<Patches> {
        needed("initramfs_patches.url", &self.url)?;
        Ok(Patches {
            blob: blob("initramfs_patches.sha256", &self.sha256, self.size)?,
            from: needed("initramfs_patches.from", &self.from)?.parse()?,
            from_version: version(needed("initramfs_patches.from_version", &self.from_version)?)
                .map_err(|e| e.context("initramfs_patches.from_version"))?,
            table: blob("initramfs_patches.table_sha256", &self.table_sha256, self.table_size)?,
        })
    }

    fn texts(&self) -> [(&'static str, &Option<String>); 6] {
        [
            ("initramfs_patches.from", &self.from),
            ("initramfs_patches.from_version", &self.from_version),
            ("initramfs_patches.url", &self.url),
            ("initramfs_patches.sha256", &self.sha256),
            ("initramfs_patches.table_sha256", &self.table_sha256),
            ("initramfs_patches.encoder", &self.encoder),
        ]
    }
}

impl Latest {
    /// Reads the document within the limits. The other functions require its members.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        if raw.len() as u64 > limits::LATEST_JSON_BYTES {
            return Err(limits::exceeded("latest.json", format_args!("{} bytes", limits::LATEST_JSON_BYTES)));
        }
        let document: Document = json::parse(raw, "latest.json")?;
        // Every manifest has the one or the other: no bytes with one signature are both.
        if document.schema_version.is_some() || document.media_type.is_some() {
            return Err(malformed("it is a manifest of a registry"));
        }
        document.check_lengths()?;
        Ok(Self { digest: Digest::of(raw), document })
    }

    /// The release of a document that is signed as a whole.
    pub fn release(&self) -> Result<Release> {
        let architecture = given(&self.document.architecture).ok_or_else(|| {
            missing("architecture").remedy(
                "Publish it again with its architecture. For an old server that signs only the image files, set \
                 legacy_file_signatures=yes.",
            )
        })?;
        let revoked_keys = given(&self.document.revoked_keys).map_or(Ok(BTreeSet::new()), revoked_keys)?;
        let release =
            self.release_for(architecture.parse()?, self.document.security_epoch.unwrap_or(0), revoked_keys)?;
        let document = &self.document;
        let (pieces, patches) = (document.pieces()?, document.patches()?);
        Patches::check(&patches, pieces.as_ref()).map_err(malformed)?;
        let settings = given(&document.agent_settings).map(str::parse).transpose();
        Ok(Release {
            pieces,
            patches,
            data_layout: document.data_layout.unwrap_or(0),
            kernel_args: given(&document.kernel_args).map(str::parse).transpose()?,
            devicetree: document
                .devicetree()?
                .map(|tree| release::devicetree(tree, release.architecture))
                .transpose()?,
            requires: given(&document.requires).map_or(Ok(BTreeSet::new()), extras::requires)?,
            agent_settings: settings.map_err(|why| malformed(format_args!("agent_settings {why}")))?,
            ..release
        })
    }

    /// The release that an unsigned document claims. Old documents lack the architecture, and no record that outlives this
    /// release may rest on a claim. Its images come whole, and nothing else decides how they boot.
    pub fn claimed(&self, otherwise: Architecture) -> Result<Release> {
        let architecture = given(&self.document.architecture).map_or(Ok(otherwise), str::parse)?;
        self.release_for(architecture, 0, BTreeSet::new())
    }

    fn release_for(
        &self,
        architecture: Architecture,
        security_epoch: u64,
        revoked_keys: BTreeSet<Fingerprint>,
    ) -> Result<Release> {
        let named = |member: &Option<String>| given(member).map(str::to_owned);
        Ok(Release {
            digest: self.digest,
            version: version(needed("version", &self.document.version)?)?,
            channel: named(&self.document.channel),
            min_compatible_version: given(&self.document.min_compatible_version)
                .map(|minimum| version(minimum).map_err(|e| e.context("min_compatible_version")))
                .transpose()?,
            architecture,
            release_notes: named(&self.document.release_notes),
            release_date: named(&self.document.release_date),
            supported_until: supported_until(given(&self.document.supported_until))
                .map_err(|why| malformed(format_args!("supported_until {why}")))?,
            data_layout: 0,
            security_epoch,
            revoked_keys,
            board: named(&self.document.board),
            initramfs_unpacked_size: self.document.initramfs_unpacked_size,
            rollout: rollout(given(&self.document.rollout), given(&self.document.release_date))
                .map_err(|why| malformed(format_args!("rollout: {why}")))?,
            kernel: image("vmlinuz_sha256", &self.document.vmlinuz_sha256)?,
            initramfs: image("initramfs_sha256", &self.document.initramfs_sha256)?,
            pieces: None,
            patches: vec![],
            kernel_args: None,
            devicetree: None,
            requires: BTreeSet::new(),
            agent_settings: None,
        })
    }

    /// Where the file of that digest is; `None` if the document does not name it.
    pub fn url_of(&self, wanted: Digest) -> Result<Option<&str>> {
        let document = &self.document;
        let [kernel, initramfs] = self.image_urls()?;
        let images = [(kernel, &document.vmlinuz_sha256), (initramfs, &document.initramfs_sha256)];
        let others = [
            (&document.initramfs_pieces_url, &document.initramfs_pieces_sha256),
            (&document.devicetree_url, &document.devicetree_sha256),
        ];
        let others = others.into_iter().chain(document.initramfs_patches.iter().map(|one| (&one.url, &one.sha256)));
        let others = others.filter_map(|(url, sha256)| Some((given(url)?, sha256)));
        let hex = wanted.hex();
        Ok(images.into_iter().chain(others).find(|(_, sha256)| given(sha256) == Some(&hex)).map(|(url, _)| url))
    }

    /// Where kernel and initramfs are.
    pub fn image_urls(&self) -> Result<[&str; 2]> {
        Ok([needed("vmlinuz_url", &self.document.vmlinuz_url)?, needed("initramfs_url", &self.document.initramfs_url)?])
    }

    /// Where the signatures of kernel and initramfs are, each if it is named.
    #[must_use]
    pub fn image_signature_urls(&self) -> [Option<&str>; 2] {
        [given(&self.document.vmlinuz_sig_url), given(&self.document.initramfs_sig_url)]
    }

    /// Where the signature of the document is, if it is named.
    #[must_use]
    pub fn signature_url(&self) -> Option<&str> {
        given(&self.document.metadata_sig_url)
    }
}

impl Document {
    fn pieces(&self) -> Result<Option<Blob>> {
        if given(&self.initramfs_pieces_url).is_none() {
            return Ok(None);
        }
        let blob = blob("initramfs_pieces_sha256", &self.initramfs_pieces_sha256, self.initramfs_pieces_size)?;
        release::pieces(blob).map(Some)
    }

    fn devicetree(&self) -> Result<Option<Blob>> {
        if given(&self.devicetree_url).is_none() {
            return Ok(None);
        }
        blob("devicetree_sha256", &self.devicetree_sha256, self.devicetree_size).map(Some)
    }

    fn patches(&self) -> Result<Vec<Patches>> {
        let known = self.initramfs_patches.iter().filter(|one| one.is_known());
        let all = known.map(PatchesMember::read).collect::<Result<Vec<_>>>()?;
        Patches::check_limits(&all)?;
        Ok(all)
    }

    fn check_lengths(&self) -> Result<()> {
        let texts = [
            ("channel", &self.channel),
            ("min_compatible_version", &self.min_compatible_version),
            ("architecture", &self.architecture),
            ("release_date", &self.release_date),
            ("supported_until", &self.supported_until),
            ("board", &self.board),
            ("rollout", &self.rollout),
            ("revoked_keys", &self.revoked_keys),
            ("vmlinuz_url", &self.vmlinuz_url),
            ("vmlinuz_sha256", &self.vmlinuz_sha256),
            ("vmlinuz_sig_url", &self.vmlinuz_sig_url),
            ("initramfs_url", &self.initramfs_url),
            ("initramfs_sha256", &self.initramfs_sha256),
            ("initramfs_sig_url", &self.initramfs_sig_url),
            ("initramfs_pieces_url", &self.initramfs_pieces_url),
            ("initramfs_pieces_sha256", &self.initramfs_pieces_sha256),
            ("kernel_args", &self.kernel_args),
            ("requires", &self.requires),
            ("agent_settings", &self.agent_settings),
            ("devicetree_url", &self.devicetree_url),
            ("devicetree_sha256", &self.devicetree_sha256),
            ("metadata_sig_url", &self.metadata_sig_url),
        ];
        let texts = texts.into_iter().chain(self.initramfs_patches.iter().flat_map(PatchesMember::texts));
        let notes = [("release_notes", &self.release_notes, limits::RELEASE_NOTES_BYTES)];
        let texts = texts.map(|(name, text)| (name, text, limits::ANNOTATION_BYTES)).chain(notes);
        for (name, text, limit) in texts {
            if text.as_ref().is_some_and(|text| text.len() > limit) {
                return Err(limits::exceeded(format_args!("{name} of latest.json"), format_args!("{limit} bytes")));
            }
        }
        Ok(())
    }
}

fn given(member: &Option<String>) -> Option<&str> {
    member.as_deref().filter(|text| !text.is_empty())
}

fn needed<'a>(name: &str, member: &'a Option<String>) -> Result<&'a str> {
    given(member).ok_or_else(|| missing(name).remedy("Publish it again, complete."))
}

fn image(name: &str, member: &Option<String>) -> Result<Image> {
    let hex = needed(name, member)?;
    let digest: Digest = format!("sha256:{hex}")
        .parse()
        .map_err(|_| malformed(format_args!("{name} is \"{}\", not 64 hex digits in lower case", text::escape(hex))))?;
    Ok(Image { digest, size: None })
}

/// A file whose size stands beside its digest, in a member of the same name.
fn blob(name: &str, sha256: &Option<String>, size: Option<u64>) -> Result<Blob> {
    let Image { digest, .. } = image(name, sha256)?;
    let size = size.filter(|size| (1..=limits::IMAGE_BYTES).contains(size));
    let size = size.ok_or_else(|| malformed(format_args!("the size beside {name} is not that of a file")))?;
    Ok(Blob { digest, size })
}

fn missing(name: &str) -> Error {
    malformed(format_args!("it has no {name}"))
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::MalformedLatestJson, format!("latest.json is not a valid release: {why}"))
}

#[cfg(test)]
mod tests;
