//! Identity of a release, by which trials and failures are remembered.

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;

/// The digests of a release and of its two images. Files have its members beside those of the trial or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the signed document.
    pub release: Digest,
    /// Of the kernel.
    pub kernel: Digest,
    /// Of the initramfs.
    pub initramfs: Digest,
}

impl Identity {
    /// True if both are the same release, or the same pair of images under another document.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.release == other.release || (self.kernel, self.initramfs) == (other.kernel, other.initramfs)
    }
}
