//! The bytes of one image, on their way to this device.

use bytes::Bytes;

use crate::base::error::Result;

/// An image on its way. Its size is enforced here; its digest is not: the receiver has to hash the bytes.
pub trait Body {
    /// The next bytes, or `None` after exactly as many as the blob has. Fewer or more are an error, the latter before the
    /// first surplus byte is returned.
    fn chunk(&mut self) -> Result<Option<Bytes>>;
}
