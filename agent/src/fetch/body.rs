//! The bytes of one image, on their way to this device.

use bytes::Bytes;

use crate::base::error::{Error, Result};

/// An image on its way. Its size is enforced here; its digest is not: the receiver has to hash the bytes.
pub trait Body {
    /// The next bytes, or `None` after exactly as many as the blob has. Fewer or more are an error, the latter before the
    /// first surplus byte is returned.
    fn chunk(&mut self) -> Result<Option<Bytes>>;

    /// Where in the image the next bytes belong. Not 0 before the first chunk: the rest of an image that has begun.
    fn position(&self) -> u64 {
        0
    }

    /// The `ETag` of the file that the bytes are of, where its name says nothing about its content.
    fn version(&self) -> Option<String> {
        None
    }

    /// True if the bytes do not all come from one answer. Pieces that do not fit each other are then a possible cause of a wrong
    /// digest: CNCF Distribution as a cache ends an answer that breaks with the text of an error.
    fn in_pieces(&self) -> bool {
        false
    }

    /// The error of these bytes once they turned out to be wrong, by what their answers show about the party at fault.
    fn explain(&self, wrong: Error) -> Error {
        wrong
    }

    /// Bytes that came over the network until now, each as often as it came.
    fn fetched(&self) -> u64 {
        0
    }
}

/// An image of which parts are fetched, one after the other.
pub trait Parts: Body {
    /// Goes on with the bytes from `from` to before `end`, which lie behind those of the part before. Returns when the server
    /// answered; [`Body::chunk`] gives `None` at `end`.
    ///
    /// # Errors
    /// Those of the server.
    fn part(&mut self, from: u64, end: u64) -> Result<()>;

    /// True once the server sends the whole image, whatever part is asked for: every later part costs no request, and all the
    /// bytes before it.
    fn is_whole(&self) -> bool;
}

/// Where to begin, in an image that an earlier attempt began.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Bytes that are here.
    pub offset: u64,
    /// The `ETag` of the file that they are of. Another one at the server: the whole image is fetched.
    pub version: Option<String>,
    /// Bytes that this run took for this image before, see [`crate::base::limits::fetch_budget`].
    pub spent: u64,
}
