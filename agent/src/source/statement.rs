//! A statement of freshness as a registry keeps it: one manifest, a layer with the statement, a layer for each signature.

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::json;
use crate::release::release::{Manifest, SIGNATURE_TYPE};
use crate::release::statement::STATEMENT_TYPE;
use crate::source::artifact::key_id;

/// Where a statement is, and where its signatures are, each with the key that it names.
pub(crate) type Layers = (Digest, Vec<(Digest, Option<String>)>);

/// The layers of a statement's manifest. The caller that fetches them enforces their limits.
pub(crate) fn layers(raw: &[u8], what: &str) -> Result<Layers> {
    let malformed = |why: &str| Error::new(Reason::MalformedFreshness, format!("{what}: {why}"));
    let manifest: Manifest = json::parse(raw, what)?;
    manifest.check()?;
    if !manifest.is_of_type(STATEMENT_TYPE) {
        return Err(malformed("it has another type"));
    }
    let mut statements = manifest.layers.iter().filter(|layer| layer.media_type == STATEMENT_TYPE);
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(malformed("it must have exactly one statement"));
    };
    let signatures = manifest.layers.iter().filter(|layer| layer.media_type == SIGNATURE_TYPE);
    let signatures =
        signatures.map(|layer| Ok((layer.digest.parse()?, key_id(&layer.annotations)))).collect::<Result<_>>()?;
    Ok((statement.digest.parse()?, signatures))
}
