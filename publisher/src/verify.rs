//! A release as a device would judge it: the device's own code, asked from outside, for each architecture.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use crate::registry::Access;

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::config::{Config, Origin};
use kubesolo_update::fetch::options::{Authentication, Rights};
use kubesolo_update::policy::freshness::{self, FreshnessCheck};
use kubesolo_update::policy::gate;
use kubesolo_update::policy::rules;
use kubesolo_update::policy::trust_policy::{self, TrustPolicy};
use kubesolo_update::release::release::{Architecture, Image};
use kubesolo_update::schedule::clock::Clock;
use kubesolo_update::source::source::{self, Source};
use kubesolo_update::source::{open, reference};
use kubesolo_update::state::freshness::FreshnessReport;
use kubesolo_update::state::trust::Trust;
use kubesolo_update::trust::signature::KeyId;

/// A release that a device would take.
#[derive(Debug)]
pub struct Verified {
    /// Its architecture.
    pub architecture: Architecture,
    /// Its version.
    pub version: semver::Version,
    /// Of its manifest or `latest.json`.
    pub digest: Digest,
    /// The keys that signed it.
    pub keys: Vec<KeyId>,
    /// Freshness of the release; `None` where there is no statement.
    pub freshness: Option<FreshnessReport>,
    /// Bytes of both images, which were fetched and are right; `None` where they were not asked for.
    pub bytes: Option<u64>,
    /// Bytes of the device tree, which was fetched and is right; `None` where there is none, or images were not asked for.
    pub tree_bytes: Option<u64>,
}

/// Judges what the source in `config` offers, for one architecture or for each that there is. With `images`, both images are
/// fetched and their digests compared.
///
/// Leaves out rules that depend on one device: its version, its epoch, its failures, its windows.
///
/// # Errors
/// The refusal of a device, with its exit code.
pub fn verify(
    config: &Config,
    access: &Access,
    architecture: Option<Architecture>,
    images: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Verified>> {
    let authentication = &match config.source.as_ref() {
        Some(Origin::Oci(name)) => match reference::parse(name) {
            Ok(parts) => access.authentication(parts.host, Rights::Pull)?,
            // The source refuses it.
            Err(_) => Authentication::default(),
        },
        _ => Authentication::default(),
    };
    if let Some(architecture) = architecture {
        return Ok(vec![one(config, authentication, architecture, images, now)?]);
    }
    let (mut verified, mut absent) = (vec![], None);
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        match one(config, authentication, architecture, images, now) {
            Ok(release) => verified.push(release),
            // There is none, or the only one is for the other architecture.
            Err(e) if matches!(e.reason, Reason::NoSuchArchitecture | Reason::WrongArchitecture) => absent = Some(e),
            Err(e) => return Err(e.context(architecture)),
        }
    }
    match absent {
        Some(e) if verified.is_empty() => Err(e),
        _ => Ok(verified),
    }
}

fn one(
    config: &Config,
    authentication: &Authentication,
    architecture: Architecture,
    images: bool,
    now: DateTime<Utc>,
) -> Result<Verified> {
    let none = BTreeSet::new();
    let keys =
        trust_policy::keys(config)?.map(|keys| keys.needing(config.signature_threshold.keys(), &none)).transpose()?;
    let policy = TrustPolicy { keys, epoch: 0, held: BTreeMap::new(), revoked: none };
    let Some(keys) = policy.required_keys(config)? else {
        return Err(Error::new(Reason::NoVerificationKey, "no key to verify a release"));
    };
    let mut source = open::open_as(config, authentication.clone())?;
    let offer = source::offer(&mut *source, architecture, Some(keys))?;
    let by = keys.verify(&offer.signed, &offer.signatures)?;
    let clock = Clock::system(now, None);
    let check = FreshnessCheck {
        config,
        trust: &Trust::default(),
        policy: &policy,
        clock: &clock,
        release: &offer.release,
        changed: true,
    };
    let seen = check.look(&mut *source)?;
    // The source chose the architecture. The rest is about the state of one device.
    gate::pass(&[
        rules::channel(&offer.release, config.channel.as_deref()),
        rules::board(&offer.release, config.board.as_deref()),
        freshness::gate(config, seen.as_ref()),
    ])?;
    let tree = if images { source::devicetree(&mut *source, &offer.release, &mut 0)? } else { None };
    let bytes = match images {
        true => {
            let sizes = [offer.release.kernel, offer.release.initramfs].map(|image| fetch(&mut *source, image));
            let [kernel, initramfs] = sizes;
            Some(kernel? + initramfs?)
        }
        false => None,
    };
    Ok(Verified {
        architecture,
        version: offer.release.version,
        digest: offer.release.digest,
        keys: by,
        freshness: seen.map(|seen| seen.verdict),
        bytes,
        tree_bytes: tree.map(|tree| tree.len() as u64),
    })
}

/// Fetches an image to compare its digest. Returns its size.
fn fetch(source: &mut dyn Source, image: Image) -> Result<u64> {
    let blob = source.locate(image)?;
    let mut body = source.open(&blob)?;
    let mut hash = Sha256::new();
    while let Some(chunk) = body.chunk()? {
        hash.update(&chunk);
    }
    let found = Digest(hash.finalize().into());
    if found != blob.digest {
        let message = format!("image {}: the digest of its bytes is {found}", blob.digest);
        return Err(
            Error::new(Reason::DigestMismatch, message).remedy("Publish it again, and find out who changed it.")
        );
    }
    Ok(blob.size)
}
