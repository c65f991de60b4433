//! The releases of a repository, for a person or a script.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::read;
use super::registry::{Access, Registry, Rights};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Exit, Reason, Result};
use kubesolo_update::base::{limits, text};
use kubesolo_update::release::statement;
use kubesolo_update::trust::keys::KeySet;

/// Tags that are read, each with several requests. Tags with signatures and statements do not count.
const TAGS: usize = 1000;

/// The answer of `kubesolo-release list --json`.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// `host/path`.
    pub repository: String,
    /// Releases, the highest version first.
    pub releases: Vec<Listed>,
    /// Tags without a complete release.
    pub other_tags: Vec<String>,
}

/// One release, under all its tags.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Digest of the index, or of the one manifest.
    pub digest: Digest,
    /// Tags that name it.
    pub tags: Vec<String>,
    /// SemVer.
    pub version: String,
    /// Channel of the release; absent means every channel.
    pub channel: Option<String>,
    /// Date of the release: RFC 3339, unless the publisher wrote another text.
    pub release_date: Option<String>,
    /// `amd64`, `arm64`.
    pub architectures: Vec<String>,
    /// One for each key.
    pub signers: Vec<Signer>,
}

/// A key that signed a release.
#[derive(Debug, Serialize)]
pub struct Signer {
    /// The key; absent where the signature names none.
    pub key_id: Option<String>,
    /// The architectures that it signed.
    pub architectures: Vec<String>,
    /// True if it is one of the given keys, and signed; false if no key was given, so that nothing was checked.
    pub verified: bool,
}

/// Reads all tags of the repository in `reference`. With `keys`, only their signatures count.
///
/// # Errors
/// 64 for a reference with a tag or digest, 65 for more than 1000 tags, 69 when the registry does not answer.
pub fn list(reference: &str, keys: Option<&KeySet>, access: &Access) -> Result<Listing> {
    let registry = Registry::open(reference, access, Rights::Pull)?;
    if registry.tag().is_some() || registry.digest().is_some() {
        return Err(Error::new(Reason::Usage, format!("{}: list takes a repository", registry.reference()))
            .remedy("Leave out the tag or digest; `inspect` shows one release."));
    }
    let mut tags = registry.tags()?;
    tags.retain(|tag| !tag.starts_with("sha256-") && !tag.ends_with(statement::TAG_SUFFIX));
    tags.sort_unstable();
    if tags.len() > TAGS {
        return Err(limits::exceeded("list of tags", format_args!("{TAGS} tags of releases")));
    }
    let (mut releases, mut other_tags): (Vec<(semver::Version, Listed)>, _) = (vec![], vec![]);
    for tag in tags {
        match read::tagged(&registry, &tag) {
            Ok(Some(found)) => match releases.iter_mut().find(|(_, known)| known.digest == found.digest) {
                Some((_, known)) => known.tags.push(tag),
                None => releases.extend(one(&registry, tag, &found, keys)?),
            },
            Err(e) if e.exit() == Exit::Unavailable && e.reason != Reason::NotFound => return Err(e),
            Ok(None) | Err(_) => other_tags.push(tag),
        }
    }
    releases.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| y.release_date.cmp(&x.release_date)));
    let releases = releases.into_iter().map(|(_, release)| release).collect();
    Ok(Listing { repository: registry.name(), releases, other_tags })
}

fn one(
    registry: &Registry,
    tag: String,
    found: &read::Published,
    keys: Option<&KeySet>,
) -> Result<Option<(semver::Version, Listed)>> {
    let Some(first) = found.manifests.first().map(|manifest| &manifest.release) else { return Ok(None) };
    let mut signers: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for manifest in &found.manifests {
        let signatures = read::signatures(registry, manifest.release.digest)?;
        let ids: Vec<Option<String>> = match keys {
            None => signatures.into_iter().map(|signature| signature.key_id).collect(),
            Some(keys) => signatures
                .iter()
                .filter_map(|one| keys.verify(&manifest.raw, std::slice::from_ref(one)).ok())
                .flatten()
                .map(|id| Some(id.to_string()))
                .collect(),
        };
        let architecture = manifest.release.architecture.to_string();
        for id in ids {
            let signed = signers.entry(id).or_default();
            if !signed.contains(&architecture) {
                signed.push(architecture.clone());
            }
        }
    }
    let listed = Listed {
        digest: found.digest,
        tags: vec![tag],
        version: first.version.to_string(),
        channel: first.channel.clone(),
        release_date: first.release_date.clone(),
        architectures: found.manifests.iter().map(|manifest| manifest.release.architecture.to_string()).collect(),
        signers: signers
            .into_iter()
            .map(|(key_id, architectures)| Signer { key_id, architectures, verified: keys.is_some() })
            .collect(),
    };
    Ok(Some((first.version.clone(), listed)))
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![["VERSION", "DATE", "ARCHITECTURES", "TAGS", "SIGNED BY"].map(str::to_owned)];
        rows.extend(self.releases.iter().map(Listed::row));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let [version, date, architectures, tags] = [width(0), width(1), width(2), width(3)];
        for [a, b, c, d, e] in &rows {
            writeln!(f, "{a:version$}  {b:date$}  {c:architectures$}  {d:tags$}  {e}")?;
        }
        if !self.other_tags.is_empty() {
            writeln!(f, "without a release: {}", text::escape(&self.other_tags.join(", ")))?;
        }
        Ok(())
    }
}

impl Listed {
    fn row(&self) -> [String; 5] {
        let signers: Vec<String> = self.signers.iter().map(|signer| signer.shown(self.architectures.len())).collect();
        [
            self.version.clone(),
            self.release_date.as_deref().map_or("none".into(), text::escape),
            self.architectures.join(" "),
            text::escape(&self.tags.join(", ")),
            if signers.is_empty() { "nobody".into() } else { signers.join(", ") },
        ]
    }
}

impl Signer {
    fn shown(&self, architectures: usize) -> String {
        let key = self.key_id.as_deref().map_or("a key without a name".into(), text::escape);
        let only = match self.architectures.len() < architectures {
            true => format!(" ({} only)", self.architectures.join(" ")),
            false => String::new(),
        };
        let unchecked = if self.verified { "" } else { " (not checked)" };
        format!("{key}{only}{unchecked}")
    }
}
