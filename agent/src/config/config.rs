//! The settings with their types, one field per row.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::proxy::{NoProxy, ProxySetting};
use super::values::{Auto, AutoSwitch, BootEnv, DeltaSetting, Origin, RegistryMirror, RemovableBundles, Threshold};
use crate::schedule::rollout::Wariness;
use crate::schedule::window::Window;

/// All settings, resolved.
///
/// `Config::default()` is only what the reader starts with: it has no row's default yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `server=` or `registry=`; `None` when neither is set.
    pub source: Option<Origin>,
    /// `tag=`; without it, the reference's own tag, else the channel, else [`DEFAULT_TAG`].
    pub tag: Option<String>,
    /// `channel=`: only releases of this channel.
    pub channel: Option<String>,
    /// `board=`: the board that this device is; releases for another one are refused.
    pub board: Option<String>,
    /// `maintenance_window=`
    pub maintenance_window: Window,
    /// `maintenance_zone=`: the zone of the window's times; `None` means UTC. Not looked up before it is needed: what judges
    /// a boot must not depend on it.
    pub maintenance_zone: Option<String>,
    /// `auto=`: how far `run` goes.
    pub auto: Auto,
    /// `auto_reboot=`: whether `run` reboots into what it activated.
    pub auto_reboot: bool,
    /// `removable_bundles=`: whether releases are taken from removable media.
    pub removable_bundles: RemovableBundles,
    /// `receipts=`: whether receipts are written to the media that releases came from.
    pub receipts: bool,
    /// `wariness=`: place in a phased rollout.
    pub wariness: Wariness,
    /// `machine_id_file=`: the file with this device's id, for a phased rollout.
    pub machine_id_file: PathBuf,
    /// `kubeconfig=`: credentials to ask whether the node is blocked for updates.
    pub kubeconfig: PathBuf,
    /// `node_name=`: the node of this device; `None` means any node of the cluster.
    pub node_name: Option<String>,
    /// `fleetlock_url=`: the server that permits a reboot into a trial; an http(s) URL.
    pub fleetlock_url: Option<String>,
    /// `fleetlock_group=`: the devices among which it counts; `None` means `default`.
    pub fleetlock_group: Option<String>,
    /// `node_report=`: annotations of the node say which release runs.
    pub node_report: bool,
    /// `event_url=`: the receiver of the steps of attempts; an http(s) URL.
    pub event_url: Option<String>,
    /// `hooks_dir=`: folder with the folders of hooks.
    pub hooks_dir: PathBuf,
    /// `hook_timeout=`, in seconds: for all hooks of one folder together.
    pub hook_timeout: Duration,
    /// `pre_update_dir=`: folder with executables that can put an update off, or refuse it; `None`: the one in `hooks_dir`.
    pub pre_update_dir: Option<PathBuf>,
    /// `pre_update_timeout=`, in seconds: for all of them together; `None`: `hook_timeout`.
    pub pre_update_timeout: Option<Duration>,
    /// `pubkey=`: file or folder with the public keys; it is the whole set.
    pub pubkey: Option<PathBuf>,
    /// `signature_threshold=`: keys that must sign a release, each counted once; 1 unless set.
    pub signature_threshold: Threshold,
    /// `freshness=`: when the agent asks for statements of freshness. `auto`: with each release that is new here; at every look
    /// once one was seen, or `freshness_pubkey` or `require_fresh` is set. A source without statements then costs no request
    /// while nothing is new.
    pub freshness: AutoSwitch,
    /// `freshness_pubkey=`: file or folder with the keys that sign statements of freshness, and vouch for nothing else; without
    /// it they are the keys of releases, in the same number.
    pub freshness_pubkey: Option<PathBuf>,
    /// `require_fresh=`: install only what a statement of freshness proves to be the latest release.
    pub require_fresh: bool,
    /// `registry_ca=`: PEM file with more authorities for TLS.
    pub registry_ca: Option<PathBuf>,
    /// `registry_auth=`: file of logins; `None` means the default places.
    pub registry_auth: Option<PathBuf>,
    /// `registry_auth_hosts=`: further hosts whose token servers may get a login.
    pub registry_auth_hosts: Vec<String>,
    /// `registry_token_cache=`: file that keeps tokens between runs.
    pub registry_token_cache: Option<PathBuf>,
    /// `registry_mirror=`: registries that may have what the registry of the source has, in order.
    pub registry_mirror: Vec<RegistryMirror>,
    /// `server_mirror=`: URLs of folders that may have the images of the server, in order.
    pub server_mirror: Vec<String>,
    /// `registry_cert=`: PEM file with the client certificate for the source; only with `registry_key`.
    pub registry_cert: Option<PathBuf>,
    /// `registry_key=`: PEM file with its private key.
    pub registry_key: Option<PathBuf>,
    /// `proxy=`: the proxy for the source; `None` leaves it to the environment.
    pub proxy: Option<ProxySetting>,
    /// `no_proxy=`: hosts that are reached without it; `None` leaves it to the environment.
    pub no_proxy: Option<NoProxy>,
    /// `registry_timeout=`, in seconds: for all documents of one look.
    pub registry_timeout: Duration,
    /// `max_rate=`: bytes of images per second; `None` means no limit.
    pub max_rate: Option<u64>,
    /// `delta=`
    pub delta: DeltaSetting,
    /// `plain_http=`: `host` or `host:port` that are reached without TLS.
    pub plain_http: Vec<String>,
    /// `allow_unsigned=`: counts only when there is no key at all.
    pub allow_unsigned: bool,
    /// `legacy_file_signatures=`: accept servers that sign only the images, not what they say about them.
    pub legacy_file_signatures: bool,
    /// `version_file=`: the running version, when the booted slot has no manifest.
    pub version_file: Option<PathBuf>,
    /// `slot_a=`: a folder, a block device, or `LABEL=name`; `None` means the label `KSOLOA`.
    pub slot_a: Option<String>,
    /// `slot_b=`: as `slot_a`; `None` means the label `KSOLOB`.
    pub slot_b: Option<String>,
    /// `bootenv=`; `None` means `grub/grubenv` on the partition with the label `KSOLOEFI`.
    pub bootenv: Option<BootEnv>,
    /// `healthcheck_url=`: must answer 200 within 10 s on a healthy device; an http(s) URL.
    pub healthcheck_url: Option<String>,
    /// `auto_rollback_after=`: consecutive failed health runs within one boot; 0 is off.
    pub auto_rollback_after: u32,
    /// `health_dir=`: folder with executables, each a health check.
    pub health_dir: PathBuf,
    /// `health_timeout=`, in seconds: for all checks of one run together.
    pub health_timeout: Duration,
    /// `health_kubernetes=`: when a health run looks at Kubernetes. `auto`: where it is used.
    pub health_kubernetes: AutoSwitch,
    /// `data_dir=`: must be writable on a healthy device.
    pub data_dir: PathBuf,
    /// `state_paths=`: folders below the data partition that go back with the slot; `None`: the default, `kine`.
    pub state_paths: Option<Vec<String>>,
    /// `checkpoint_keep=`, in days: how long data before a committed trial are kept.
    pub checkpoint_keep: u32,
    /// `scrub_days=`: days after which both slots are read again; 0 is never.
    pub scrub_days: u32,
    /// Keys that the files set to anything, also those that no setting has.
    pub keys: BTreeSet<String>,
    /// `loader_update=`: whether a health run replaces the loader file.
    pub loader_update: bool,
    /// Lines of the files that were ignored, with file and line, for the log.
    pub warnings: Vec<String>,
}
