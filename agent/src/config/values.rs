//! Types of settings, and how their text is read. Each reader takes text without white space around it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use crate::base::limits;

/// Folders of the data partition that no checkpoint holds: those of the agent and of the first boot.
const OWN: [&str; 2] = ["update", "cloud-init"];

/// Where releases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An http or https server with a `latest.json`.
    Http(String),
    /// An OCI reference: `host/path`, `host/path:tag` or `host/path@digest`.
    Oci(String),
    /// A file with a release, for devices without a network. Only the command line can name it.
    Bundle(PathBuf),
}

impl FromStr for Origin {
    type Err = &'static str;

    /// Refuses a URL of a scheme other than http and https: it would pass for a strange OCI reference.
    fn from_str(server: &str) -> Result<Self, &'static str> {
        match server.split_once("://") {
            Some(("http" | "https", _)) => Ok(Self::Http(server.to_owned())),
            Some(_) => Err("expected an http(s) URL or an OCI reference"),
            None => Ok(Self::Oci(server.to_owned())),
        }
    }
}

impl Origin {
    /// True if the source itself chooses a release: an OCI reference with a tag or a digest, or a bundle. A colon before the
    /// last slash belongs to a port.
    pub(super) fn names_tag(&self) -> bool {
        match self {
            Self::Oci(name) => name.contains('@') || name.rsplit('/').next().is_some_and(|name| name.contains(':')),
            Self::Bundle(_) => true,
            Self::Http(_) => false,
        }
    }
}

/// An OCI reference, never a URL.
pub(super) fn registry(value: &str) -> Result<Origin, &'static str> {
    if value.contains("://") {
        return Err("expected an OCI reference, host/path without a scheme; plain_http= names a host without TLS");
    }
    Ok(Origin::Oci(value.to_owned()))
}

/// A registry that may have what the registry of the source has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryMirror {
    /// `host/path` or `host:port/path`: the repository there.
    pub place: String,
    /// It may say what a tag stands for.
    pub resolve: bool,
    /// It is a proxy that wants to know the registry, as the query `ns`.
    pub ns: bool,
}

/// Mirrors, separated by semicolons.
pub(super) fn registry_mirrors(value: &str) -> Result<Vec<RegistryMirror>, String> {
    value.split(';').map(str::trim).filter(|entry| !entry.is_empty()).map(registry_mirror).collect()
}

fn registry_mirror(entry: &str) -> Result<RegistryMirror, String> {
    let mut words = entry.split_ascii_whitespace();
    let place = words.next().unwrap_or_default();
    if !place.contains('/') || place.contains("://") || place.contains('@') {
        return Err("expected host/path or host:port/path, without a scheme, a tag or a login".into());
    }
    let mut mirror = RegistryMirror { place: place.to_owned(), ..RegistryMirror::default() };
    for word in words {
        match word {
            "resolve" => mirror.resolve = true,
            "ns" => mirror.ns = true,
            _ => return Err("expected resolve or ns after host/path, and a semicolon before the next mirror".into()),
        }
    }
    Ok(mirror)
}

/// URLs of folders, separated by blanks.
pub(super) fn server_mirrors(value: &str) -> Result<Vec<String>, &'static str> {
    value.split_ascii_whitespace().map(http_url).collect()
}

/// Location of the bootloader's variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEnv {
    /// GRUB's environment block.
    Grub(PathBuf),
    /// `fw_env.config`, which names the location of U-Boot's environment.
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
            _ => Err("expected grub:FILE, uboot:FILE or rpi:DIR"),
        }
    }
}

/// How far `run`, the unattended update, goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto {
    /// Ask the source only.
    Check,
    /// Fetch and verify the release into the free slot; a person activates it.
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
            _ => Err("expected check, stage or activate"),
        }
    }
}

impl fmt::Display for Auto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Stage => "stage",
            Self::Activate => "activate",
        })
    }
}

/// How far an unattended run goes with a release on a removable medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemovableBundles {
    /// Removable media are not looked at.
    #[default]
    No,
    /// To the free slot, and no further.
    Stage,
    /// As far as `auto=` says.
    Activate,
}

impl FromStr for RemovableBundles {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, &'static str> {
        match word {
            "no" => Ok(Self::No),
            "stage" => Ok(Self::Stage),
            "activate" => Ok(Self::Activate),
            _ => Err("expected no, stage or activate"),
        }
    }
}

/// Number of different keys that must sign a release: `1..=limits::KEYS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(usize);

impl Threshold {
    /// As in the settings; never 0.
    #[must_use]
    pub fn keys(self) -> usize {
        self.0
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self(1)
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(number: &str) -> Result<Self, String> {
        let number = number.parse().ok().filter(|number| (1..=limits::KEYS).contains(number));
        number.map(Self).ok_or_else(|| format!("expected a number from 1 to {}", limits::KEYS))
    }
}

/// A switch of which the agent knows the right position by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoSwitch {
    /// The agent decides.
    #[default]
    Auto,
    /// On.
    Yes,
    /// Off.
    No,
}

impl FromStr for AutoSwitch {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        match (value, switch(value)) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(true)) => Ok(Self::Yes),
            (_, Ok(false)) => Ok(Self::No),
            _ => Err("expected auto, yes or no"),
        }
    }
}

/// How an initramfs of pieces is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeltaSetting {
    /// By pieces, or whole where that saves little.
    #[default]
    Yes,
    /// Whole.
    No,
    /// By pieces, or not at all.
    Only,
}

impl FromStr for DeltaSetting {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, &'static str> {
        match (value, switch(value)) {
            ("only", _) => Ok(Self::Only),
            (_, Ok(true)) => Ok(Self::Yes),
            (_, Ok(false)) => Ok(Self::No),
            _ => Err("expected yes, no or only"),
        }
    }
}

/// True for `auto`.
pub(super) fn automatic(value: &str) -> Result<bool, &'static str> {
    match (value, switch(value)) {
        ("auto", _) => Ok(true),
        (_, Ok(false)) => Ok(false),
        _ => Err("expected auto or no"),
    }
}

/// Any text but none.
pub(super) fn word(value: &str) -> Result<String, &'static str> {
    if value.is_empty() { Err("expected a value") } else { Ok(value.to_owned()) }
}

/// A path as it is written; a relative one starts from the working directory.
pub(super) fn path(value: &str) -> Result<PathBuf, &'static str> {
    word(value).map(PathBuf::from)
}

pub(super) fn number(value: &str) -> Result<u32, &'static str> {
    value.parse().map_err(|_| "expected a whole number up to 4294967295")
}

/// A number within these bounds.
pub(super) fn number_within(value: &str, bounds: RangeInclusive<u32>) -> Result<u32, String> {
    let number = value.parse().ok().filter(|number| bounds.contains(number));
    number.ok_or_else(|| format!("expected a whole number from {} to {}", bounds.start(), bounds.end()))
}

/// Folders below the data partition, or `none`. None of them is the agent's own, and none is inside another.
pub(super) fn state_paths(value: &str) -> Result<Vec<String>, String> {
    if value == "none" {
        return Ok(vec![]);
    }
    let paths: Vec<String> = value.split_whitespace().map(|path| path.trim_end_matches('/').to_owned()).collect();
    if paths.len() > limits::STATE_PATHS {
        return Err(format!("expected at most {} folders", limits::STATE_PATHS));
    }
    for path in &paths {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !plain {
            return Err(format!("expected folders relative to the data partition, and {path:?} is none"));
        }
        if OWN.iter().any(|own| Path::new(path).starts_with(own)) {
            return Err(format!("the agent needs {path} itself"));
        }
        if paths.iter().filter(|other| Path::new(path).starts_with(other)).count() > 1 {
            return Err(format!("{path} is named twice, or is inside another folder"));
        }
    }
    Ok(paths)
}

/// Zero is refused: it would let nothing pass, and does not mean "no limit" either.
pub(super) fn seconds(value: &str) -> Result<Duration, &'static str> {
    let seconds = value.parse().ok().filter(|seconds: &u32| *seconds > 0);
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or("expected a whole number of seconds from 1")
}

/// Seconds within these bounds.
pub(super) fn seconds_within(value: &str, bounds: RangeInclusive<u32>) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| bounds.contains(seconds));
    let expected = || format!("expected a whole number of seconds from {} to {}", bounds.start(), bounds.end());
    seconds.map(|seconds: u32| Duration::from_secs(seconds.into())).ok_or_else(expected)
}

/// Bytes per second, at least [`limits::MAX_RATE_MIN`].
pub(super) fn rate(value: &str) -> Result<u64, &'static str> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 1024),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 1024 * 1024),
        _ => (value, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes >= limits::MAX_RATE_MIN).ok_or("expected bytes per second, at least 4K: 500K or 2M")
}

pub(super) fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("expected yes or no"),
    }
}

/// A URL as it is written.
pub(super) fn http_url(value: &str) -> Result<String, &'static str> {
    let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.map(|_| value.to_owned()).ok_or("expected an http(s) URL")
}

/// A list of hosts, separated by commas or blanks.
pub(super) fn hosts(value: &str) -> Result<Vec<String>, &'static str> {
    let hosts = value.split([',', ' ', '\t']).filter(|host| !host.is_empty());
    hosts.map(host).collect()
}

/// One `host` or `host:port`.
fn host(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(['/', '@', '?', '#', '*']) || text.contains(char::is_whitespace) {
        return Err("expected hosts of the form host or host:port");
    }
    Ok(text.to_owned())
}
