//! The differences between the running release and the one on offer, for people and scripts.

use serde::Serialize;

use crate::config::{Config, rows};
use crate::release::extras::{AgentSetting, AgentSettings, KernelArgs};
use crate::release::release::{Blob, Image, Release};
use crate::state::format::optional_seconds;
use crate::trust::signature::Fingerprint;
use crate::update::session::Evaluation;
use chrono::{DateTime, Utc};

/// Everything that an update changes. Without the running release (a factory's slot), parts of it are not known.
#[derive(Clone, Debug, Serialize)]
pub struct Changes {
    /// The kernel.
    pub kernel: ImageChange,
    /// The compressed initramfs.
    pub initramfs: ImageChange,
    /// Kernel arguments of the release; absent where both releases have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<ArgumentsChange>,
    /// The device tree; absent where both releases have the same, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<TreeChange>,
    /// Security epoch; absent if the commit does not raise it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_epoch: Option<EpochChange>,
    /// Keys that this device no longer accepts after the commit: SHA-256 of each raw key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revoked_keys: Vec<Fingerprint>,
    /// Waves; absent: all devices at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Needs of the release: loader, agent and others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// End of the support of the release on offer; absent: unknown.
    #[serde(with = "optional_seconds", skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<DateTime<Utc>>,
    /// Drift of the settings; absent if the release does not name those of its agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsChange>,
}

/// One image in both releases.
#[derive(Clone, Debug, Serialize)]
pub struct ImageChange {
    /// True if both releases have the same file; absent: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same: Option<bool>,
    /// Bytes of the file on offer, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes of the running one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_size: Option<u64>,
    /// Bytes of the unpacked initramfs on offer, if the release names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpacked_size: Option<u64>,
    /// Bytes of the running one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_unpacked_size: Option<u64>,
}

/// Words that come and go.
#[derive(Clone, Debug, Serialize)]
pub struct ArgumentsChange {
    /// Words of the release on offer that the running one does not have.
    pub added: Vec<String>,
    /// Words of the running release that the one on offer does not have.
    pub removed: Vec<String>,
}

/// A device tree in place of another.
#[derive(Clone, Debug, Serialize)]
pub struct TreeChange {
    /// The tree on offer; absent: that of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<Blob>,
    /// The tree of the running release; absent: that of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Blob>,
}

/// A higher epoch.
#[derive(Clone, Debug, Serialize)]
pub struct EpochChange {
    /// Epoch of the release on offer.
    pub offered: u64,
    /// The highest epoch that this device committed.
    pub committed: u64,
}

/// Differences between the settings of this device and those that the agent on offer knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingsChange {
    /// Keys that this device sets, and that agent does not know: they have no effect there.
    pub unknown: Vec<String>,
    /// Settings that are new there, with their defaults.
    pub new: Vec<AgentSetting>,
    /// Keys that agent cannot do without, and that this device does not set.
    pub missing: Vec<String>,
}

impl Changes {
    /// Compares what was found; `None` if the release on offer runs already.
    #[must_use]
    pub fn of(found: &Evaluation, config: &Config) -> Option<Self> {
        if found.is_running {
            return None;
        }
        let offered = found.candidate.release();
        let manifest = found.running.manifest.as_ref();
        let running = manifest.and_then(|manifest| manifest.release().ok());
        let running = running.as_ref();
        let located = found.target.and_then(|target| target.images);
        let image = |image: Image, located: Option<Blob>, running: Option<Blob>| ImageChange {
            same: running.map(|running| image.is(&running)),
            size: image.size.or(located.map(|blob| blob.size)),
            running_size: running.map(|blob| blob.size),
            unpacked_size: None,
            running_unpacked_size: None,
        };
        let [kernel, initramfs] = [located.map(|images| images[0]), located.map(|images| images[1])];
        let epoch = (found.policy.epoch, offered.security_epoch);
        Some(Self {
            kernel: image(offered.kernel, kernel, manifest.map(|manifest| manifest.kernel)),
            initramfs: ImageChange {
                unpacked_size: offered.initramfs_unpacked_size,
                running_unpacked_size: running.and_then(|running| running.initramfs_unpacked_size),
                ..image(offered.initramfs, initramfs, manifest.map(|manifest| manifest.initramfs))
            },
            kernel_args: arguments(running, offered),
            devicetree: devicetree(running, offered),
            security_epoch: (epoch.1 > epoch.0).then_some(EpochChange { offered: epoch.1, committed: epoch.0 }),
            revoked_keys: offered.revoked_keys.difference(&found.policy.revoked).copied().collect(),
            rollout: offered.rollout.as_ref().map(|rollout| rollout.waves.to_string()),
            requires: offered.requires.iter().map(ToString::to_string).collect(),
            supported_until: offered.supported_until,
            settings: offered.agent_settings.as_ref().map(|settings| SettingsChange::of(settings, config)),
        })
    }
}

fn arguments(running: Option<&Release>, offered: &Release) -> Option<ArgumentsChange> {
    let words = |args: Option<&KernelArgs>| args.map_or(vec![], |args| args.words().map(str::to_owned).collect());
    let (before, after): (Vec<String>, Vec<String>) =
        (words(running.and_then(|running| running.kernel_args.as_ref())), words(offered.kernel_args.as_ref()));
    let without = |all: &[String], others: &[String]| {
        let mut others = others.to_vec();
        let mut lacks = |word: &&String| match others.iter().position(|other| other == *word) {
            Some(at) => {
                others.remove(at);
                false
            }
            None => true,
        };
        all.iter().filter(|word| lacks(word)).cloned().collect()
    };
    (before != after).then(|| ArgumentsChange { added: without(&after, &before), removed: without(&before, &after) })
}

fn devicetree(running: Option<&Release>, offered: &Release) -> Option<TreeChange> {
    let (running, offered) = (running.and_then(|running| running.devicetree), offered.devicetree);
    (running != offered).then_some(TreeChange { offered, running })
}

impl SettingsChange {
    fn of(settings: &AgentSettings, config: &Config) -> Self {
        let knows = |key: &str| settings.iter().any(|setting| setting.key == key);
        let new = |setting: &&AgentSetting| rows::named(&setting.key).is_none();
        Self {
            unknown: config.keys.iter().filter(|key| !knows(key)).cloned().collect(),
            new: settings.iter().filter(new).cloned().collect(),
            missing: settings.missing(&config.keys).map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Conf, Overrides};

    #[test]
    fn settings_that_get_lost_are_new_or_missing_are_named_without_secrets() {
        let conf = "channel=stable\nregion=eu\nold_key=1\nempty=\ndelta=no\n";
        let conf = Conf::parse(conf.as_bytes(), "conf").unwrap();
        let config = Config::resolve(&conf, &Overrides::default().with("delta", "").with("board", "x")).unwrap();
        let settings = "channel\nregion!\ntoken!*=hidden\nlevel=3\nempty!".parse().unwrap();
        let change = SettingsChange::of(&settings, &config);
        assert_eq!(
            (change.unknown, change.missing),
            (vec!["delta".into(), "old_key".into()], vec!["token".to_owned(), "empty".into()])
        );
        let new: Vec<_> = change.new.iter().map(|one| (&*one.key, one.default.as_deref())).collect();
        assert_eq!(new, [("region", None), ("token", None), ("level", Some("3")), ("empty", None)]);
    }
}
