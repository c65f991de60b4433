//! Identity of a release, by which trials and failures are remembered.

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;

/// The digests of a release, of its two images, and of what it adds to them. Files have its members beside those of the trial or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the signed document.
    pub release: Digest,
    /// Of the kernel.
    pub kernel: Digest,
    /// Of the initramfs.
    pub initramfs: Digest,
    /// Of kernel arguments and device tree of the release; absent if it has neither, or was started without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extras: Option<Digest>,
}

impl Identity {
    /// True if both are the same release, or the same images with the same additions under another document.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let boots = |one: &Self| (one.kernel, one.initramfs, one.extras);
        self.release == other.release || boots(self) == boots(other)
    }
}
