//! Settings: command line over `update.conf` over defaults.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use crate::base::error::{Error, Exit, Result};
use crate::base::{files, limits, text};
use crate::schedule::rollout::Wariness;
use crate::schedule::window::Window;

/// Where the settings are unless `--conf` says otherwise.
pub const CONF_FILE: &str = "/etc/kubesolo/update.conf";
/// Tag that is asked for when neither a tag nor a channel is set.
pub const DEFAULT_TAG: &str = "stable";
/// Health checks that the image brings along, unless `health_dir` says otherwise.
pub const DEFAULT_HEALTH_DIR: &str = "/etc/kubesolo/health.d";
/// Time for all health checks of one run, unless `health_timeout` says otherwise.
pub const DEFAULT_HEALTH_TIMEOUT: Duration = Duration::from_secs(300);
/// Failed health runs that end a trial, unless `auto_rollback_after` says otherwise.
pub const DEFAULT_AUTO_ROLLBACK_AFTER: u32 = 3;
/// Persistent data, which a healthy device can write, unless `data_dir` says otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/kubesolo";

/// Programs that are asked before an update, unless `pre_update_dir` says otherwise.
pub const DEFAULT_PRE_UPDATE_DIR: &str = "/etc/kubesolo/pre-update.d";
/// Time for all of these programs together, unless `pre_update_timeout` says otherwise.
pub const DEFAULT_PRE_UPDATE_TIMEOUT: Duration = Duration::from_secs(300);
/// Where KubeSolo puts the credentials of its administrator, unless `kubeconfig` says otherwise.
pub const DEFAULT_KUBECONFIG: &str = "/var/lib/kubesolo/pki/admin/admin.kubeconfig";
/// The id of this machine, unless `machine_id_file` says otherwise.
pub const DEFAULT_MACHINE_ID_FILE: &str = "/etc/machine-id";

/// Where releases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An http or https server with a `latest.json`.
    Http(String),
    /// An OCI reference: `host/path`, `host/path:tag` or `host/path@digest`.
    Oci(String),
    /// A file with a release, carried here without a network. Only the command line can name it.
    Bundle(PathBuf),
}

impl FromStr for Origin {
    type Err = &'static str;

    /// A URL of a scheme other than http and https is refused, since it would pass for a strange OCI reference.
    fn from_str(server: &str) -> Result<Self, &'static str> {
        match server.split_once("://") {
            Some(("http" | "https", _)) => Ok(Self::Http(server.to_owned())),
            Some(_) => Err("it is neither an http(s) URL nor an OCI reference"),
            None => Ok(Self::Oci(server.to_owned())),
        }
    }
}

/// Where the variables of the bootloader are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEnv {
    /// GRUB's environment block.
    Grub(PathBuf),
    /// `fw_env.config`, which says where U-Boot's environment is.
    UBoot(PathBuf),
    /// The folder with a Raspberry Pi's `autoboot.txt`.
    Rpi(PathBuf),
}

impl FromStr for BootEnv {
    type Err = &'static str;

    /// Reads `grub:FILE`, `uboot:FW_ENV_CONFIG` or `rpi:DIR`.
    fn from_str(place: &str) -> Result<Self, &'static str> {
        match place.split_once(':') {
            Some(("grub", file)) if !file.is_empty() => Ok(Self::Grub(file.into())),
            Some(("uboot", file)) if !file.is_empty() => Ok(Self::UBoot(file.into())),
            Some(("rpi", folder)) if !folder.is_empty() => Ok(Self::Rpi(folder.into())),
            _ => Err("it is neither grub:FILE nor uboot:FILE nor rpi:DIR"),
        }
    }
}

/// How far `run` goes, that is an update without anybody watching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto {
    /// Only ask what is on offer.
    Check,
    /// Fetch and verify it into the free slot; a person activates it.
    #[default]
    Stage,
    /// Activate it too, and reboot unless `auto_reboot=no`.
    Activate,
}

impl FromStr for Auto {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, &'static str> {
        match word {
            "check" => Ok(Self::Check),
            "stage" => Ok(Self::Stage),
            "activate" => Ok(Self::Activate),
            _ => Err("it is none of check, stage, activate"),
        }
    }
}

impl std::fmt::Display for Auto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Stage => "stage",
            Self::Activate => "activate",
        })
    }
}

/// What the command line sets. Each field wins over the same key of the file; `server` and `registry` both replace whichever
/// of the two the file has.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the fields of `Config`
pub struct Overrides {
    pub server: Option<String>,
    pub registry: Option<String>,
    pub bundle: Option<PathBuf>,
    pub tag: Option<String>,
    pub channel: Option<String>,
    pub maintenance_window: Option<Window>,
    pub pubkey: Option<PathBuf>,
    pub registry_ca: Option<PathBuf>,
    pub plain_http: Vec<String>,
    pub slot_a: Option<String>,
    pub slot_b: Option<String>,
    pub bootenv: Option<BootEnv>,
    pub auto_rollback_after: Option<u32>,
    pub health_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
}

/// All settings, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `wariness=`: place in a phased rollout.
    pub wariness: Wariness,
    /// `machine_id_file=`: what tells this device from others in a phased rollout.
    pub machine_id_file: PathBuf,
    /// `kubeconfig=`: credentials to ask whether the node is blocked for updates.
    pub kubeconfig: PathBuf,
    /// `node_name=`: the node of this device; `None` means any node of the cluster.
    pub node_name: Option<String>,
    /// `pre_update_dir=`: folder with executables that can put an update off, or refuse it.
    pub pre_update_dir: PathBuf,
    /// `pre_update_timeout=`, in seconds: for all of them together.
    pub pre_update_timeout: Duration,
    /// `pubkey=`: file or folder with the public keys; it is the whole set.
    pub pubkey: Option<PathBuf>,
    /// `signature_threshold=`: keys that must sign a release, each counted once; 1 unless set.
    pub signature_threshold: usize,
    /// `freshness=`: whether statements of freshness are asked for.
    pub freshness: Freshness,
    /// `freshness_pubkey=`: file or folder with the keys that sign statements of freshness, and vouch for nothing else; without
    /// it they are the keys of releases, in the same number.
    pub freshness_pubkey: Option<PathBuf>,
    /// `require_fresh=`: install only what a statement of freshness proves to be the latest release.
    pub require_fresh: bool,
    /// `registry_ca=`: PEM file with more authorities for TLS.
    pub registry_ca: Option<PathBuf>,
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
    /// `data_dir=`: must be writable on a healthy device.
    pub data_dir: PathBuf,
    /// What was ignored in the file, with file and line. To be logged.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads `file` and puts `overrides` over it. A missing file is an empty one.
    pub fn load(file: &Path, overrides: &Overrides) -> Result<Self> {
        let name = file.display().to_string();
        let bytes = files::read(file, limits::CONF_BYTES, "bad-config")?.unwrap_or_default();
        Self::resolve(&Conf::parse(&bytes, &name)?, overrides)
    }

    /// Command line over file over default.
    pub fn resolve(conf: &Conf, over: &Overrides) -> Result<Self> {
        let path = |over: &Option<PathBuf>, key| over.clone().or_else(|| conf.text(key).map(PathBuf::from));
        let word = |over: &Option<String>, key| over.clone().or_else(|| conf.text(key).map(str::to_owned));
        let (source, from_command_line) = match (&over.server, &over.registry) {
            _ if over.bundle.is_some() => (over.bundle.clone().map(Origin::Bundle), true),
            (None, None) => (conf.source()?, false),
            (server, registry) => (exclusive(server.as_deref(), registry.as_deref(), "the command line")?, true),
        };
        // A reference on the command line that names a tag is more specific than a tag in the file.
        if conf.switch("require_fresh")? == Some(true) && conf.value("freshness")? == Some(Freshness::No) {
            return Err(bad(format!("{}: require_fresh=yes with freshness=no would install nothing", conf.name))
                .remedy("Remove one of the two."));
        }
        let own_tag = from_command_line && source.as_ref().is_some_and(names_tag);
        Ok(Self {
            source,
            tag: over.tag.clone().or_else(|| conf.text("tag").filter(|_| !own_tag).map(str::to_owned)),
            channel: word(&over.channel, "channel"),
            board: word(&None, "board"),
            maintenance_window: match &over.maintenance_window {
                Some(window) => window.clone(),
                None => conf.value("maintenance_window")?.unwrap_or_default(),
            },
            maintenance_zone: word(&None, "maintenance_zone"),
            auto: conf.value("auto")?.unwrap_or_default(),
            auto_reboot: conf.switch("auto_reboot")?.unwrap_or(true),
            wariness: conf.value("wariness")?.unwrap_or_default(),
            machine_id_file: path(&None, "machine_id_file").unwrap_or_else(|| DEFAULT_MACHINE_ID_FILE.into()),
            kubeconfig: path(&None, "kubeconfig").unwrap_or_else(|| DEFAULT_KUBECONFIG.into()),
            node_name: word(&None, "node_name"),
            pre_update_dir: path(&None, "pre_update_dir").unwrap_or_else(|| DEFAULT_PRE_UPDATE_DIR.into()),
            pre_update_timeout: conf.seconds("pre_update_timeout")?.unwrap_or(DEFAULT_PRE_UPDATE_TIMEOUT),
            pubkey: path(&over.pubkey, "pubkey"),
            signature_threshold: conf.value::<Threshold>("signature_threshold")?.map_or(1, |threshold| threshold.0),
            freshness: conf.value("freshness")?.unwrap_or_default(),
            freshness_pubkey: path(&None, "freshness_pubkey"),
            require_fresh: conf.switch("require_fresh")?.unwrap_or(false),
            registry_ca: path(&over.registry_ca, "registry_ca"),
            plain_http: if over.plain_http.is_empty() { conf.hosts("plain_http")? } else { over.plain_http.clone() },
            allow_unsigned: conf.switch("allow_unsigned")?.unwrap_or(false),
            legacy_file_signatures: conf.switch("legacy_file_signatures")?.unwrap_or(false),
            version_file: path(&None, "version_file"),
            slot_a: word(&over.slot_a, "slot_a"),
            slot_b: word(&over.slot_b, "slot_b"),
            bootenv: match &over.bootenv {
                Some(place) => Some(place.clone()),
                None => conf.value("bootenv")?,
            },
            healthcheck_url: conf.value::<HttpUrl>("healthcheck_url")?.map(|url| url.0),
            auto_rollback_after: match over.auto_rollback_after {
                Some(runs) => runs,
                None => conf.value::<Number>("auto_rollback_after")?.map_or(DEFAULT_AUTO_ROLLBACK_AFTER, |runs| runs.0),
            },
            health_dir: path(&over.health_dir, "health_dir").unwrap_or_else(|| DEFAULT_HEALTH_DIR.into()),
            health_timeout: conf.seconds("health_timeout")?.unwrap_or(DEFAULT_HEALTH_TIMEOUT),
            data_dir: path(&over.data_dir, "data_dir").unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            warnings: conf.warnings.clone(),
        })
    }
}

/// Whether an OCI reference has a tag or a digest; a colon before the last slash is that of a port. A bundle has names of
/// its own.
fn names_tag(source: &Origin) -> bool {
    match source {
        Origin::Oci(name) => name.contains('@') || name.rsplit('/').next().is_some_and(|name| name.contains(':')),
        Origin::Bundle(_) => true,
        Origin::Http(_) => false,
    }
}

/// At most one of the two may be set. `registry` is an OCI reference, never a URL.
fn exclusive(server: Option<&str>, registry: Option<&str>, place: &str) -> Result<Option<Origin>> {
    match (server, registry) {
        (Some(_), Some(_)) => Err(bad(format!("{place}: both server and registry are set"))
            .remedy("Keep one of them: server for an http(s) URL or an OCI reference, registry for an OCI reference.")),
        (Some(server), None) => {
            let wrong = |why| bad(format!("{place}: server=\"{}\": {why}", shown(server)));
            server.parse().map(Some).map_err(wrong)
        }
        (None, Some(registry)) if registry.contains("://") => {
            Err(bad(format!("{place}: registry: \"{}\" is a URL, not an OCI reference", shown(registry)))
                .remedy("Write host/path without a scheme; name a host without TLS in plain_http."))
        }
        (None, Some(registry)) => Ok(Some(Origin::Oci(registry.to_owned()))),
        (None, None) => Ok(None),
    }
}

/// Keys that have a meaning here.
pub const KEYS: &[&str] = &[
    "allow_unsigned",
    "auto",
    "auto_reboot",
    "auto_rollback_after",
    "board",
    "bootenv",
    "channel",
    "data_dir",
    "freshness",
    "freshness_pubkey",
    "health_dir",
    "health_timeout",
    "healthcheck_url",
    "kubeconfig",
    "legacy_file_signatures",
    "machine_id_file",
    "maintenance_window",
    "maintenance_zone",
    "node_name",
    "plain_http",
    "pre_update_dir",
    "pre_update_timeout",
    "pubkey",
    "registry",
    "registry_ca",
    "require_fresh",
    "server",
    "signature_threshold",
    "slot_a",
    "slot_b",
    "tag",
    "version_file",
    "wariness",
];

/// `update.conf`: a line is `key=value`, blank, or a `#` comment. White space around key and value does not count. An empty
/// value is as good as none.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    name: String,
    entries: Vec<Entry>,
    /// Ignored lines, with file and line.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: &'static str,
    value: String,
    line: usize,
}

impl Conf {
    /// Reads the bytes of a file that is called `name` in messages.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        if bytes.len() as u64 > limits::CONF_BYTES {
            return Err(limits::exceeded(name, format_args!("{} bytes", limits::CONF_BYTES)));
        }
        let all = std::str::from_utf8(bytes).map_err(|e| {
            let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            bad(format!("{name}:{line}: it is not text in UTF-8"))
        })?;
        // What some editors put in front.
        let all = all.strip_prefix('\u{feff}').unwrap_or(all);
        let mut conf = Self::named(name);
        for (line, content) in (1..).zip(all.lines()).map(|(line, content)| (line, content.trim())) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((key, value)) = content.split_once('=') else {
                return Err(bad(format!("{name}:{line}: \"{}\" is not of the form key=value", shown(content)))
                    .remedy("Complete the line, or put # in front of it."));
            };
            conf.add(key.trim(), value.trim(), line)?;
        }
        Ok(conf)
    }

    /// No settings yet, of a file that is called `name` in messages.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// One setting from this line.
    ///
    /// # Errors
    /// 78 for a key that was set before. One that is not known is only a warning.
    pub fn add(&mut self, key: &str, value: &str, line: usize) -> Result<()> {
        let at = format!("{}:{line}", self.name);
        let Some(key) = KEYS.iter().copied().find(|known| *known == key) else {
            self.warnings.push(format!("{at}: key \"{}\" is not known and has no effect", text::shown(key)));
            return Ok(());
        };
        if let Some(first) = self.entries.iter().find(|entry| entry.key == key) {
            let message = format!("{at}: key {key} is already set in line {}", first.line);
            return Err(bad(message).remedy("Remove one of the two lines."));
        }
        self.entries.push(Entry { key, value: value.to_owned(), line });
        Ok(())
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        debug_assert!(KEYS.contains(&key), "{key}");
        self.entries.iter().find(|entry| entry.key == key && !entry.value.is_empty())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.value.as_str())
    }

    fn value<T: FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<Option<T>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        entry
            .value
            .parse()
            .map(Some)
            .map_err(|why| bad(format!("{}:{}: {key}=\"{}\": {why}", self.name, entry.line, shown(&entry.value))))
    }

    fn seconds(&self, key: &str) -> Result<Option<Duration>> {
        Ok(self.value::<Seconds>(key)?.map(|seconds| Duration::from_secs(seconds.0.into())))
    }

    fn switch(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.value::<Switch>(key)?.map(|switch| switch.0))
    }

    fn hosts(&self, key: &str) -> Result<Vec<String>> {
        Ok(self.value::<Hosts>(key)?.map(|hosts| hosts.0).unwrap_or_default())
    }

    fn source(&self) -> Result<Option<Origin>> {
        exclusive(self.text("server"), self.text("registry"), &self.name)
    }
}

/// Whether statements of freshness are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// With each release that is new here; at every look once one was seen, or `freshness_pubkey` or `require_fresh` is set. So
    /// a source that has none costs no request while nothing is new.
    #[default]
    Auto,
    /// At every look.
    Yes,
    /// Never.
    No,
}

impl FromStr for Freshness {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        match value {
            "auto" => Ok(Self::Auto),
            "yes" | "true" | "1" => Ok(Self::Yes),
            "no" | "false" | "0" => Ok(Self::No),
            _ => Err("it is neither auto nor yes nor no"),
        }
    }
}

struct Number(u32);

impl FromStr for Number {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        value.parse().map(Self).map_err(|_| "it is not a whole number, or too large a one")
    }
}

struct Seconds(u32);

impl FromStr for Seconds {
    type Err = &'static str;

    /// No time at all would let nothing pass; it is not taken for "no limit" either.
    fn from_str(value: &str) -> Result<Self, &'static str> {
        let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
        seconds.map(Self).ok_or("it is not a whole number of seconds from 1")
    }
}

struct Threshold(usize);

impl FromStr for Threshold {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let number = value.parse().ok().filter(|number| (1..=limits::KEYS).contains(number));
        number.map(Self).ok_or_else(|| format!("it is no number from 1 to {}", limits::KEYS))
    }
}

struct Switch(bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        match value {
            "yes" | "true" | "1" => Ok(Self(true)),
            "no" | "false" | "0" => Ok(Self(false)),
            _ => Err("it is neither yes nor no"),
        }
    }
}

/// As it is written, and known to be one.
struct HttpUrl(String);

impl FromStr for HttpUrl {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(|_| Self(value.to_owned())).ok_or("it is no http(s) URL")
    }
}

struct Hosts(Vec<String>);

impl FromStr for Hosts {
    type Err = &'static str;

    /// A list with commas or blanks between its members.
    fn from_str(value: &str) -> Result<Self, &'static str> {
        let hosts = value.split([',', ' ', '\t']).filter(|host| !host.is_empty());
        hosts.map(host).collect::<Result<_, _>>().map(Self)
    }
}

/// Checks one `host[:port]`, as of `--plain-http`.
pub fn host(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(['/', '@', '?', '#', '*']) || text.contains(char::is_whitespace) {
        return Err("each host must be of the form host or host:port");
    }
    Ok(text.to_owned())
}

/// A setting in a message. It may hold a password, above all where it is wrong.
fn shown(value: &str) -> String {
    text::shown(&text::without_login(value))
}

fn bad(message: String) -> Error {
    Error::new(Exit::Config, "bad-config", message).remedy("Correct it, or take it out: then the default counts.")
}
