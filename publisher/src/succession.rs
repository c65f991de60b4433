//! May a release take the place of the published one? A tag or a tree that goes back, or that has two sets of images of one
//! version, splits a fleet: devices refuse both.

use kubesolo_update::base::error::{Error, Exit, Reason, Result};
use kubesolo_update::release::extras::KernelArgs;
use kubesolo_update::release::release::{Architecture, Blob, Release};

use crate::Metadata;
use crate::read;
use crate::registry::Registry;

/// Everything that boots, for one architecture, of the release that is about to be published.
pub(crate) struct Next {
    pub(crate) architecture: Architecture,
    pub(crate) kernel: Blob,
    pub(crate) initramfs: Blob,
    pub(crate) kernel_args: Option<KernelArgs>,
    pub(crate) devicetree: Option<Blob>,
}

impl Next {
    /// The part that boots otherwise in an earlier release.
    fn differs(&self, old: &Release) -> Option<&'static str> {
        match () {
            () if !old.kernel.is(&self.kernel) || !old.initramfs.is(&self.initramfs) => Some("other images"),
            () if old.kernel_args != self.kernel_args => Some("other kernel arguments"),
            () if old.devicetree != self.devicetree => Some("another device tree"),
            () => None,
        }
    }
}

/// Compares a release with the one that `place` has. The same images with other metadata, such as other waves, may replace it.
///
/// # Errors
/// 77 for a lower version, and for other images, kernel arguments or another device tree under the same version.
pub(crate) fn check(place: &str, published: &[Release], metadata: &Metadata, next: &[Next]) -> Result<()> {
    let version = &metadata.version;
    for old in published {
        let order = version.cmp_precedence(&old.version);
        if order.is_lt() {
            let message =
                format!("{place} has version {} for {}, which is above {version}", old.version, old.architecture);
            return Err(Error::new(Reason::VersionLower, message).remedy(
                "Nothing was published. Publish a higher version, or go back to a published release with \
                 `kubesolo-release tag`. Only --replace publishes a lower version.",
            ));
        }
        let of_the_same = next.iter().find(|next| next.architecture == old.architecture);
        let other = of_the_same.and_then(|next| next.differs(old));
        if let Some(other) = other.filter(|_| order.is_eq()) {
            let message = format!("{place} has version {} with {other} for {}", old.version, old.architecture);
            return Err(Error::new(Reason::VersionPublished, message).remedy(
                "Nothing was published. Publish it under a new version: devices that installed this version \
                 refuse another release of it. Only --replace publishes it.",
            ));
        }
    }
    Ok(())
}

/// The releases under a tag; none if there is no such tag. Something else under the tag is no release, and a warning says so.
///
/// # Errors
/// 69 when the registry does not answer.
pub(crate) fn published(registry: &Registry, tag: &str) -> Result<Vec<Release>> {
    match read::tagged(registry, tag) {
        Ok(None) => Ok(vec![]),
        Ok(Some(found)) => Ok(found.manifests.into_iter().map(|manifest| manifest.release).collect()),
        Err(e) if e.exit() == Exit::Unavailable && e.reason != Reason::NotFound => Err(e),
        Err(e) => {
            log::warn!("the tag {tag} of {} has no complete release, and moves to this one: {e}", registry.name());
            Ok(vec![])
        }
    }
}

/// Warns of devices that lose their source of updates.
pub(crate) fn warn_of_lost(place: &str, published: &[Release], next: &[Next]) {
    for old in published {
        if next.iter().all(|next| next.architecture != old.architecture) {
            log::warn!(
                "{place} had a release for {}, which this one lacks: those devices get no update",
                old.architecture
            );
        }
    }
}
