//! An earlier release, for which devices get patches.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::release::release::{Architecture, Blob, Release};
use kubesolo_update::source::bundle::BundleSource;
use kubesolo_update::source::source::Source as _;

use super::{open, scratch};
use crate::registry::{Access, Registry, Rights};
use crate::{blob, http, read};

/// The initramfs of an earlier release.
pub(super) struct Base {
    pub(super) file: File,
    pub(super) blob: Blob,
    pub(super) version: semver::Version,
}

impl Base {
    /// Opens the release at `place`: a tree of `publish --http`, a bundle, or else a reference. `None` if it has nothing for
    /// this architecture; a warning names it.
    ///
    /// # Errors
    /// 69 where it cannot be read.
    pub(super) fn open(place: &str, architecture: Architecture, access: &Access) -> Result<Option<Self>> {
        let path = Path::new(place);
        let found = if path.is_dir() {
            Self::tree(path, architecture)
        } else if path.is_file() {
            Self::bundle(path, architecture).map(Some)
        } else {
            Self::registry(place, architecture, access)
        };
        match found.map_err(|e| e.context(format_args!("--delta-from {place}")))? {
            Some(base) => Ok(Some(base)),
            None => {
                log::warn!("{place} has no release for {architecture}: no patches from it");
                Ok(None)
            }
        }
    }

    fn tree(folder: &Path, architecture: Architecture) -> Result<Option<Self>> {
        let mut found = http::published(folder)?.into_iter().map(|(release, _)| release);
        let Some(release) = found.find(|release| release.architecture == architecture) else { return Ok(None) };
        let path = folder.join(architecture.to_string()).join(http::initramfs_name(release.initramfs.digest));
        let blob = blob(&path)?;
        if blob.digest != release.initramfs.digest {
            let message = format!("{} is not the initramfs of its release", path.display());
            return Err(Error::new(Reason::DigestMismatch, message).remedy("Name a complete tree."));
        }
        Ok(Some(Self { file: open(&path)?, blob, version: release.version }))
    }

    fn bundle(path: &Path, architecture: Architecture) -> Result<Self> {
        let mut source = BundleSource::open(path, None, "stable")?;
        let release = source.offer(architecture)?.release;
        let blob = source.locate(release.initramfs)?;
        let (mut file, mut body) = (scratch()?, source.open(&blob)?);
        while let Some(chunk) = body.chunk()? {
            file.write_all(&chunk).context(Reason::NotWritten, "write a temporary file")?;
        }
        let path = super::proc_path(&file);
        if crate::blob(&path)? != blob {
            let message = format!("the initramfs of {} is not that of its manifest", release.version);
            return Err(Error::new(Reason::DigestMismatch, message));
        }
        Ok(Self { file, blob, version: release.version })
    }

    fn registry(reference: &str, architecture: Architecture, access: &Access) -> Result<Option<Self>> {
        let registry = Registry::open(reference, access, Rights::Pull)?;
        let found = read::read(&registry)?.manifests.into_iter().map(|manifest| manifest.release);
        let Some(Release { version, initramfs, .. }) = { found }.find(|one| one.architecture == architecture) else {
            return Ok(None);
        };
        // A manifest has sizes.
        let blob = initramfs.blob().ok_or_else(|| Error::new(Reason::SizeUnknown, "its initramfs has no size"))?;
        let file = scratch()?;
        registry.blob_to(&format!("initramfs of {version}"), &blob, &file)?;
        Ok(Some(Self { file, blob, version }))
    }
}
