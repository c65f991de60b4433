//! Where this device stands: which keys count here and now, and below which epoch it never goes again.
//!
//! `trust.json` remembers it. The signed manifests of the slots are joined to it each time, so that the loss of the file
//! takes nothing back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bootenv::SlotId;
use bootenv::protocol::{SlotState, View};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::limits;
use crate::config::Config;
use crate::device::boot::Boot;
use crate::device::slot::SlotManifest;
use crate::release::release::Release;
use crate::state::state::Proof;
use crate::state::trust::Trust;
use crate::trust::keys::KeySet;
use crate::trust::signature::Fingerprint;

/// The running image's keys, used when the settings name none.
pub const IMAGE_KEYS: &str = "/usr/share/kubesolo/keys";

/// Keys and epoch that every release is compared with.
#[derive(Debug)]
pub struct TrustPolicy {
    /// The keys that count, and how many of them it takes; `None`: there is no key at all.
    ///
    /// Without `pubkey=` they are the running image's. Nothing is installed while that image is on trial, so the keys of an
    /// image that was never committed authorise nothing.
    pub keys: Option<KeySet>,
    /// The highest security epoch that was ever committed here.
    pub epoch: u64,
    /// The security epoch of each signed release in the slots, committed or not, by the release's digest.
    pub held: BTreeMap<Digest, u64>,
    /// The keys that no release can be signed with any more, whatever image brings them.
    pub revoked: BTreeSet<Fingerprint>,
}

impl TrustPolicy {
    /// Joins settings, image, `trust.json` and the slots.
    ///
    /// # Errors
    /// 78 when keys cannot be used, 77 when too many of them are revoked.
    pub fn find(config: &Config, boot: &Boot, trust: &Trust) -> Result<Self> {
        let all = keys(config)?;
        let mut policy = Self::committed(boot, trust, all.as_ref());
        policy.keys = all.map(|all| all.needing(config.signature_threshold.keys(), &policy.revoked)).transpose()?;
        Ok(policy)
    }

    /// The same without the keys, for what needs none: an error in them is left out.
    #[must_use]
    pub fn remembered(config: &Config, boot: &Boot, trust: &Trust) -> Self {
        Self::committed(boot, trust, keys(config).ok().flatten().as_ref())
    }

    /// Committed epoch and revoked keys, from `trust.json` and from the manifests of the slots that any of the keys signed. A
    /// key that is revoked by now was not when such a slot was committed.
    fn committed(boot: &Boot, trust: &Trust, all: Option<&KeySet>) -> Self {
        let (epoch, revoked) = (trust.security_epoch, trust.revoked_keys.clone());
        let mut policy = Self { keys: None, epoch, held: BTreeMap::new(), revoked };
        let committed = committed_slots(boot);
        for id in SlotId::BOTH {
            let Some((content, all)) = boot.slots.get(id).manifest().ok().flatten().zip(all) else { continue };
            let Some(release) = proven(&content, all) else { continue };
            policy.held.insert(content.digest, release.security_epoch);
            if committed.contains(&id) {
                policy.epoch = policy.epoch.max(release.security_epoch);
                policy.revoked.extend(release.revoked_keys);
            }
        }
        policy
    }

    /// The highest security epoch that this device knows, of what was committed and of what the slots hold, without the
    /// release `but`; `None` if it knows none.
    #[must_use]
    pub fn known_epoch(&self, but: Digest) -> Option<u64> {
        let held = self.held.iter().filter(|(digest, _)| **digest != but).map(|(_, epoch)| *epoch);
        held.chain((self.epoch > 0).then_some(self.epoch)).max()
    }

    /// The keys without which nothing is installed; `None` only by `allow_unsigned=yes`, which is logged.
    ///
    /// # Errors
    /// 77 when there is no key.
    pub fn required_keys(&self, config: &Config) -> Result<Option<&KeySet>> {
        match &self.keys {
            None if config.allow_unsigned => {
                log::warn!("allow_unsigned=yes: without a key, the agent installs every offer of the source");
                Ok(None)
            }
            None => Err(Error::new(Reason::NoKey, "this device has no public key to verify a release with")
                .remedy(format!("Set pubkey= or --pubkey, or put the key into {IMAGE_KEYS} of the OS image."))),
            set => Ok(set.as_ref()),
        }
    }
}

/// True if the device could still install a release after it committed the one on trial in `slot`; if not, why.
///
/// `proof` is what was proven when it was activated.
///
/// # Errors
/// 78 when the keys cannot be read, which may pass.
pub fn locked_out(
    config: &Config,
    boot: &Boot,
    trust: &Trust,
    slot: SlotId,
    proof: Option<&Proof>,
) -> Result<Option<String>> {
    let Some(all) = keys(config)? else {
        // It took the keys of the image before to get here.
        return Ok(proof.is_some_and(|proof| proof.image_keys).then(|| "its image has no keys".into()));
    };
    let mut revoked = TrustPolicy::committed(boot, trust, Some(&all)).revoked;
    revoked.extend(proof.iter().flat_map(|proof| &proof.revoked_keys));
    // The note of the trial may have been lost, or be that of a rollback.
    let content = boot.slots.get(slot).manifest().ok().flatten();
    revoked.extend(content.and_then(|content| proven(&content, &all)).into_iter().flat_map(|r| r.revoked_keys));
    if revoked.len() > limits::REVOKED_KEYS_KEPT {
        return Ok(Some(format!("it would revoke more than {} keys in all", limits::REVOKED_KEYS_KEPT)));
    }
    let (there, left, needed) = (all.ids().count(), all.left_without(&revoked), config.signature_threshold.keys());
    let why = || format!("it would leave {left} of {there} keys, and a release needs signatures by {needed}");
    Ok((left < needed).then(why))
}

/// Changes that a commit of `release` makes permanent, if keys verify it. A release that is only claimed has neither an
/// epoch nor revoked keys, see [`Latest::claimed`](crate::release::latest::Latest::claimed).
#[must_use]
pub fn proof(config: &Config, release: &Release, keys: Option<&KeySet>) -> Option<Proof> {
    keys.is_some().then(|| Proof {
        security_epoch: release.security_epoch,
        revoked_keys: release.revoked_keys.clone(),
        image_keys: config.pubkey.is_none(),
    })
}

/// For a release that was committed before, and is tried again: its commit makes nothing permanent.
#[must_use]
pub fn known(config: &Config) -> Proof {
    let image_keys = config.pubkey.is_none() && matches!(keys(config), Ok(Some(_)));
    Proof { security_epoch: 0, revoked_keys: BTreeSet::new(), image_keys }
}

/// Slots whose release was committed: what is on trial counts for nothing yet.
fn committed_slots(boot: &Boot) -> Vec<SlotId> {
    match boot.env.view() {
        View::Ours(env) => {
            let committed = |id: &SlotId| env.slot(*id) == SlotState::Good && env.on_trial() != Some(*id);
            SlotId::BOTH.into_iter().filter(committed).collect()
        }
        View::Foreign(foreign) if foreign.success => vec![foreign.active],
        View::Foreign(_) | View::Invalid => vec![],
    }
}

/// The release of a slot, if any of the keys signed it as a whole.
fn proven(content: &SlotManifest, all: &KeySet) -> Option<Release> {
    all.verify(&content.signed, &content.signatures).is_ok().then(|| content.release().ok()).flatten()
}

/// The keys of this device, revoked ones too: `pubkey=` is the whole set, else the running image's folder. `None`: there is
/// no key at all.
///
/// # Errors
/// 78 when keys are named or there, and cannot be used.
pub fn keys(config: &Config) -> Result<Option<KeySet>> {
    match &config.pubkey {
        Some(place) => KeySet::load(place).map(Some),
        // Only what is certainly not there is "no key"; a link to nowhere or a folder that cannot be entered is an error.
        None => match std::fs::symlink_metadata(IMAGE_KEYS) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => KeySet::load(Path::new(IMAGE_KEYS)).map(Some),
        },
    }
}
