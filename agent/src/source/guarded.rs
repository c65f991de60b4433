//! An image that is only as good as its own signature.

use std::fmt;

use bytes::Bytes;

use crate::base::error::{Error, Result};
use crate::fetch::body::Body;
use crate::trust::stream::StreamVerifier;

/// Passes an image on, and fails at its end if no known key signed it: the receiver never sees a complete one.
pub struct Guarded {
    body: Box<dyn Body>,
    verifier: Option<StreamVerifier>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

impl Guarded {
    /// Puts the verifier in the way of `body`.
    #[must_use]
    pub fn new(body: Box<dyn Body>, verifier: StreamVerifier) -> Self {
        Self { body, verifier: Some(verifier) }
    }
}

impl Body for Guarded {
    fn explain(&self, wrong: Error) -> Error {
        self.body.explain(wrong)
    }

    fn fetched(&self) -> u64 {
        self.body.fetched()
    }

    fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.body.chunk()?;
        match (&chunk, &mut self.verifier) {
            (Some(bytes), Some(verifier)) => verifier.update(bytes),
            (None, verifier) => drop(verifier.take().map(StreamVerifier::finish).transpose()?),
            (Some(_), None) => {}
        }
        Ok(chunk)
    }
}
