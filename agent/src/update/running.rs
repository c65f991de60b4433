//! The release that runs on this device.

use semver::Version;

use crate::base::error::{Error, Reason, Result};
use crate::base::{files, limits};
use crate::config::Config;
use crate::device::boot::Boot;
use crate::device::slot::SlotManifest;
use crate::policy::gate::Lifted;
use crate::release::release::{self, Release};

/// The running release, as far as it is known.
#[derive(Debug)]
pub struct Running {
    /// Its version.
    pub version: Option<Version>,
    /// The manifest of the booted slot.
    pub manifest: Option<SlotManifest>,
}

impl Running {
    /// Reads the booted slot's manifest, or else the version file.
    ///
    /// # Errors
    /// 78 when `version_file` is set and has no version.
    pub fn find(config: &Config, boot: &Boot) -> Result<Self> {
        let manifest = boot.slots.get(boot.booted.slot).manifest().unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        let version = match &manifest {
            Some(manifest) => Some(manifest.version.clone()),
            None => version_by_file(config)?,
        };
        Ok(Self { version, manifest })
    }

    /// True if this release runs. An image that a factory wrote has no digest: its version decides, unless a person allowed
    /// a downgrade.
    #[must_use]
    pub fn is(&self, release: &Release, lifted: Lifted) -> bool {
        match self {
            Self { manifest: Some(manifest), .. } => manifest.digest == release.digest,
            Self { version: Some(version), .. } => {
                version.cmp_precedence(&release.version).is_eq() && !lifted.allow_downgrade
            }
            _ => false,
        }
    }
}

/// Reads the running version from `version_file`, where the booted slot has no manifest.
///
/// # Errors
/// 78 when it is set and has no version.
pub fn version_by_file(config: &Config) -> Result<Option<Version>> {
    let Some(file) = &config.version_file else { return Ok(None) };
    let bytes = files::read(file, limits::VERSION_FILE_BYTES, Reason::VersionFile)?.ok_or_else(|| {
        let message = format!("version_file={}: the file is missing", file.display());
        Error::new(Reason::VersionFile, message).remedy("Name the file with the running version.")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.trim().lines().next().unwrap_or_default();
    let unusable = |e: Error| {
        Error::new(Reason::VersionFile, format!("version_file={}: {}", file.display(), e.message))
            .remedy("Write the running version into its first line, such as 1.2.3.")
    };
    release::version(first.trim()).map(Some).map_err(unusable)
}
