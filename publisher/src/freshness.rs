//! Statements of freshness: made for what is published now, signed, and put where devices look for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::json;

use super::key::PrivateKey;
use super::registry::{Access, Registry, Rights};
use super::{EMPTY, descriptor, document, empty_config, http, read, sign};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, json as strict, limits};
use kubesolo_update::release::release::{self, Architecture, Manifest, Release};
use kubesolo_update::release::statement::{FILE, STATEMENT_TYPE, Statement, TAG_SUFFIX};
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::KeyId;

/// Where releases are, and statements about them.
#[derive(Clone, Debug)]
pub enum Place {
    /// A tag of a registry.
    Registry(String, Access),
    /// A tree that `publish --http` wrote.
    Tree(PathBuf),
}

/// Members of a statement beside its releases.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long it holds.
    pub days: u32,
    /// Its number; otherwise the seconds since 1970, or one more than that of the statement that is there.
    pub serial: Option<u64>,
}

impl Place {
    /// A statement about what is published here now.
    pub fn statement(&self, terms: &Terms, now: DateTime<Utc>) -> Result<Statement> {
        let releases: Vec<Release> = match self {
            Self::Registry(reference, access) => {
                let registry = Registry::open(reference, access, Rights::Pull)?;
                tag(&registry)?;
                read::read(&registry)?.manifests.into_iter().map(|manifest| manifest.release).collect()
            }
            Self::Tree(folder) => {
                let published = http::published(folder)?;
                published.into_iter().map(|(release, _)| release).collect()
            }
        };
        let channel = releases.first().and_then(|release| release.channel.clone());
        let Some(channel) = channel.filter(|c| releases.iter().all(|r| r.channel.as_ref() == Some(c))) else {
            let message = "the releases have several channels, and a statement is for one";
            return Err(Error::new(Reason::NoChannel, message).remedy("Publish them with --channel."));
        };
        let last = self.published()?.map_or(0, |statement| statement.serial);
        let issued = now.trunc_subsecs(0);
        let serial = terms.serial.unwrap_or(u64::try_from(issued.timestamp()).unwrap_or(0).max(last.saturating_add(1)));
        if serial <= last {
            let message = format!("serial {serial} is not above {last}, the serial of the published statement");
            return Err(
                Error::new(Reason::Usage, message).remedy("Omit --serial: devices refuse a serial that goes back.")
            );
        }
        let digests: BTreeMap<String, Digest> =
            releases.into_iter().map(|release| (release.architecture.to_string(), release.digest)).collect();
        let not_after = issued + TimeDelta::days(terms.days.into());
        let statement = Statement { channel, serial, issued, not_after, digests };
        statement.check()?;
        Ok(statement)
    }

    /// The current statement, by any key.
    pub(super) fn published(&self) -> Result<Option<Statement>> {
        let raw = match self {
            Self::Registry(reference, access) => {
                let registry = Registry::open(reference, access, Rights::Pull)?;
                let Some(raw) = registry.manifest(&tag(&registry)?)? else { return Ok(None) };
                let manifest: Manifest = strict::parse(&raw, "the published statement")?;
                let layer = manifest.layers.iter().find(|layer| layer.media_type == STATEMENT_TYPE);
                let Some(layer) = layer else { return Ok(None) };
                registry.blob(&layer.digest.parse()?, limits::FRESHNESS_BYTES)?
            }
            Self::Tree(folder) => {
                let here = |architecture: &Architecture| folder.join(architecture.to_string()).join(FILE);
                let all = [Architecture::Amd64, Architecture::Arm64];
                match all.iter().map(here).find(|file| file.exists()) {
                    Some(file) => read_file(&file)?,
                    None => return Ok(None),
                }
            }
        };
        Statement::parse(&raw).map(Some)
    }

    /// Signs a statement with each key and publishes it.
    pub fn publish(&self, statement: &Statement, keys: &[PrivateKey]) -> Result<()> {
        let raw = statement.encode();
        let signatures: Vec<([u8; 64], KeyId)> = keys.iter().map(|key| (key.sign(&raw), key.id())).collect();
        self.put(&raw, &signatures)
    }

    /// Publishes a statement that was signed elsewhere, if the signatures are by `keys`. Returns the keys.
    pub fn attach(&self, statement: &Path, files: &[PathBuf], keys: &KeySet) -> Result<(Statement, Vec<KeyId>)> {
        let raw = read_file(statement)?;
        let parsed = Statement::parse(&raw).map_err(|e| e.context(statement.display()))?;
        let last = self.published()?.filter(|last| *last != parsed).map_or(0, |last| last.serial);
        if parsed.serial <= last {
            let message = format!("{}: serial {} is not above {last}", statement.display(), parsed.serial);
            return Err(Error::new(Reason::SerialTooLow, message)
                .remedy("Make the statement again: devices refuse a serial that goes back."));
        }
        let fitting = sign::fitting(files, &[(Architecture::current(), raw.clone())], keys)?;
        let signatures: Vec<([u8; 64], KeyId)> = fitting.into_iter().map(|(_, bytes, id)| (bytes, id)).collect();
        self.put(&raw, &signatures)?;
        Ok((parsed, signatures.into_iter().map(|(_, id)| id).collect()))
    }

    fn put(&self, raw: &[u8], signatures: &[([u8; 64], KeyId)]) -> Result<()> {
        match self {
            Self::Registry(reference, access) => {
                let registry = Registry::open(reference, access, Rights::Push)?;
                registry.put_bytes("config", EMPTY)?;
                let statement = registry.put_bytes("statement", raw)?;
                let mut layers = vec![descriptor(STATEMENT_TYPE, &statement, FILE)];
                for (bytes, id) in signatures {
                    let signature = registry.put_bytes("signature", bytes)?;
                    let mut layer = descriptor(release::SIGNATURE_TYPE, &signature, &format!("{FILE}.{id}.sig"));
                    layer.annotations.get_or_insert_default().insert(release::KEY_ID.to_owned(), id.to_string());
                    layers.push(layer);
                }
                let manifest = document(&json!({
                    "schemaVersion": 2,
                    "mediaType": release::OCI_MANIFEST_TYPE,
                    "artifactType": STATEMENT_TYPE,
                    "config": empty_config(),
                    "layers": layers,
                }));
                registry.put_manifest(Some(&tag(&registry)?), &manifest, release::OCI_MANIFEST_TYPE).map(drop)
            }
            Self::Tree(folder) => {
                let bytes: Vec<[u8; 64]> = signatures.iter().map(|(bytes, _)| *bytes).collect();
                let signature = http::signature_file(&bytes);
                for (release, _) in http::published(folder)? {
                    http::create_files_folder(folder, release.architecture)?;
                    let folder = folder.join(release.architecture.to_string());
                    http::put(&folder.join(format!("{FILE}.sig")), &signature)?;
                    http::put(&folder.join(FILE), raw)?;
                }
                Ok(())
            }
        }
    }
}

/// Writes a statement into a file, to be signed elsewhere.
pub fn write(statement: &Statement, file: &Path) -> Result<()> {
    http::put(file, &statement.encode())
}

fn tag(registry: &Registry) -> Result<String> {
    match (registry.digest(), registry.tag()) {
        (None, Some(tag)) => Ok(format!("{tag}{TAG_SUFFIX}")),
        _ => Err(Error::new(Reason::Usage, "a statement needs a tag, not a digest")),
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>> {
    let read = files::read_data(file, limits::FRESHNESS_BYTES + 1);
    read.context(Reason::NotReadable, format!("read {}", file.display()))
}
