//! The metadata of a release beside its images: kernel arguments, its needs, and the settings that its agent knows.
//! Each has one text, the same in an annotation of a manifest and in a member of `latest.json`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use bootenv::loader;
use serde::{Serialize, Serializer};

use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::config::rows;

/// Names of kernel arguments that a release does not set: they come from the loader, the device or the kernel itself.
const RESERVED: [&str; 6] = ["panic", "BOOT_IMAGE", "initrd", "init", "rdinit", "--"];
/// The same for beginnings of names: arguments of the slot protocol, and of the disk of this device.
const RESERVED_STARTS: [&str; 2] = ["ks.", "kubesolo."];

/// Kernel arguments of a release: words with one blank between them, in characters that no loader changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelArgs(String);

impl KernelArgs {
    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its words, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }
}

impl fmt::Display for KernelArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KernelArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for KernelArgs {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let refused = |why: fmt::Arguments<'_>| {
            Error::new(Reason::MalformedKernelArgs, format!("kernel arguments of the release: {why}")).remedy(
                "Publish the release with other arguments: words of letters, digits and ._,:=/@+%~- with one blank between \
                 them.",
            )
        };
        if line.len() > limits::KERNEL_ARGS_BYTES {
            let (found, most) = (line.len(), limits::KERNEL_ARGS_BYTES);
            return Err(refused(format_args!("{found} bytes, more than the limit of {most}")));
        }
        for word in line.split(' ') {
            let name = word.split_once('=').map_or(word, |(name, _)| name);
            if word.is_empty() {
                return Err(refused(format_args!("a blank at an end, or two in a row")));
            }
            if !loader::is_plain(word) {
                return Err(refused(format_args!(
                    "\"{}\" has a character that a loader may change",
                    text::escape(word)
                )));
            }
            if RESERVED.contains(&name) || RESERVED_STARTS.iter().any(|start| name.starts_with(start)) {
                return Err(refused(format_args!("\"{word}\" is not for a release: the loader or the device sets it")));
            }
        }
        Ok(Self(line.to_owned()))
    }
}

/// One thing that a release needs of a device. It is compared there before an update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// A loader that passes on kernel arguments of the release.
    KernelArgs,
    /// A loader that passes on a device tree.
    DeviceTree,
    /// A loader file of this number or a higher one.
    Loader(u32),
    /// An agent of this version or a later one, as major and minor number.
    Agent(u32, u32),
    /// A word that this version does not know. It may hold any characters.
    Unknown(String),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelArgs => f.write_str("kernel-args"),
            Self::DeviceTree => f.write_str("devicetree"),
            Self::Loader(number) => write!(f, "loader-{number}"),
            Self::Agent(major, minor) => write!(f, "agent-{major}.{minor}"),
            Self::Unknown(word) => f.write_str(&text::escape(word)),
        }
    }
}

impl From<&str> for Requirement {
    fn from(word: &str) -> Self {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
        let numbered = || {
            if let Some(digits) = word.strip_prefix("loader-") {
                return Some(Self::Loader(number(digits)?));
            }
            let (major, minor) = word.strip_prefix("agent-")?.split_once('.')?;
            Some(Self::Agent(number(major)?, number(minor)?))
        };
        match word {
            "kernel-args" => Self::KernelArgs,
            "devicetree" => Self::DeviceTree,
            _ => numbered().unwrap_or_else(|| Self::Unknown(word.to_owned())),
        }
    }
}

impl Serialize for Requirement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads what a release needs: words with blanks between them. A device may not know each of them.
///
/// # Errors
/// 65 for more than [`limits::REQUIREMENTS`].
pub fn requires(words: &str) -> Result<BTreeSet<Requirement>> {
    let needs: BTreeSet<Requirement> = words.split_ascii_whitespace().map(Requirement::from).collect();
    if needs.len() > limits::REQUIREMENTS {
        return Err(limits::exceeded("needs of the release", limits::REQUIREMENTS));
    }
    Ok(needs)
}

/// A setting that the agent in a release knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentSetting {
    /// Its key in `update.conf`.
    pub key: String,
    /// That agent cannot do without it.
    pub required: bool,
    /// Its value may contain a password.
    pub secret: bool,
    /// Its default, as text of `update.conf`; absent: it has none, or the setting is secret.
    pub default: Option<String>,
}

/// The settings that the agent in a release knows, in the order of its documentation: a line for each, as `key` or
/// `key=default`. The key of a required setting ends in `!`, that of a secret one in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings(Vec<AgentSetting>);

impl AgentSettings {
    /// Those of this version.
    #[must_use]
    pub fn own() -> Self {
        let one = |row: &rows::Setting| AgentSetting {
            key: row.key.to_owned(),
            required: row.required,
            secret: row.secret,
            default: Some(row.default).filter(|default| !default.is_empty() && !row.secret).map(str::to_owned),
        };
        Self(rows::all().map(one).collect())
    }

    /// Required keys that are not among these.
    pub fn missing<'a>(&'a self, set: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
        self.iter().filter(|one| one.required && !set.contains(&one.key)).map(|one| &*one.key)
    }

    /// The settings.
    pub fn iter(&self) -> impl Iterator<Item = &AgentSetting> {
        self.0.iter()
    }
}

impl fmt::Display for AgentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, AgentSetting { key, required, secret, default }) in self.iter().enumerate() {
            let line = if at == 0 { "" } else { "\n" };
            let (required, secret) = (if *required { "!" } else { "" }, if *secret { "*" } else { "" });
            write!(f, "{line}{key}{required}{secret}")?;
            if let Some(default) = default {
                write!(f, "={default}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for AgentSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let settings = text.lines().map(setting).collect::<Result<Vec<_>, _>>()?;
        let doubled = |(at, one): (usize, &AgentSetting)| settings[..at].iter().any(|other| other.key == one.key);
        match settings.iter().enumerate().find(|one| doubled(*one)) {
            Some((_, one)) => Err(format!("names the setting {} twice", one.key)),
            None => Ok(Self(settings)),
        }
    }
}

fn setting(line: &str) -> Result<AgentSetting, String> {
    let (name, default) = line.split_once('=').map_or((line, None), |(name, default)| (name, Some(default)));
    let (name, secret) = name.strip_suffix('*').map_or((name, false), |name| (name, true));
    let (key, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if key.is_empty() || key.len() > limits::KEY_BYTES || !key.bytes().all(plain) {
        return Err(format!("has the line \"{}\", which names no setting", text::escape(line)));
    }
    let default = default.filter(|default| !default.is_empty() && !secret).map(str::to_owned);
    Ok(AgentSetting { key: key.to_owned(), required, secret, default })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let error = line.parse::<KernelArgs>().unwrap_err();
        assert_eq!((error.reason, error.exit().code()), (Reason::MalformedKernelArgs, 65), "{line:?}");
        error.message
    }

    #[test]
    fn kernel_arguments_keep_every_word_that_a_loader_passes_on() {
        let line = "console=ttyS0,115200n8 quiet isolcpus=1-3 module.x=a:b/c@d+e%f~g-h_i dyndbg=--";
        let args: KernelArgs = line.parse().unwrap();
        assert_eq!((args.to_string().as_str(), args.words().count()), (line, 5));
        let longest = "a".repeat(limits::KERNEL_ARGS_BYTES);
        assert!(longest.parse::<KernelArgs>().is_ok());
    }

    #[test]
    fn kernel_arguments_that_a_loader_may_change_are_refused() {
        for word in
            ["a=\"b\"", "a='b'", "a\nb", "a\tb", "$a", "a;b", "a*", "a\\", "{a}", "a#", "a&b", "a|b", "\u{e4}", "\0"]
        {
            assert!(refused(&format!("quiet {word}")).contains("a loader may change"), "{word:?}");
        }
        for line in ["", " ", " a", "a ", "a  b"] {
            assert!(refused(line).contains("blank"), "{line:?}");
        }
        assert!(refused(&"a".repeat(limits::KERNEL_ARGS_BYTES + 1)).contains("961 bytes, more than the limit of 960"));
        refused(&"a".repeat(2048));
    }

    #[test]
    fn a_release_sets_no_argument_of_the_loader_or_of_the_device() {
        for word in [
            "ks.trial=1",
            "ks.slot",
            "kubesolo.data=PARTUUID=1-1",
            "kubesolo.slot=B",
            "panic=0",
            "panic",
            "BOOT_IMAGE=/x",
            "initrd=/x",
            "init=/bin/sh",
            "rdinit=/x",
            "--",
        ] {
            assert!(refused(&format!("quiet {word}")).contains("not for a release"), "{word}");
        }
        for word in ["panic_on_oops=1", "initcall_debug", "ks=1", "init_on_alloc=1", "kubesolo=1"] {
            assert!(word.parse::<KernelArgs>().is_ok(), "{word}");
        }
    }

    #[test]
    fn needs_are_read_and_unknown_ones_kept() {
        let words = "kernel-args devicetree loader-2 agent-0.12";
        let needs = requires(words).unwrap();
        let known =
            [Requirement::KernelArgs, Requirement::DeviceTree, Requirement::Loader(2), Requirement::Agent(0, 12)];
        assert_eq!(needs, known.into_iter().collect());
        for word in
            ["loader-", "loader-x", "loader-+2", "loader-4294967296", "agent-1", "agent-1.x", "agent-1.2.3", "tpm2"]
        {
            assert_eq!(requires(word).unwrap(), [Requirement::Unknown(word.to_owned())].into(), "{word}");
        }
        assert_eq!(Requirement::from("a\u{7}").to_string(), text::escape("a\u{7}"));
        let many = |n: usize| (0..n).map(|n| format!("loader-{n} ")).collect::<String>();
        assert_eq!(requires(&many(limits::REQUIREMENTS)).unwrap().len(), limits::REQUIREMENTS);
        assert_eq!(requires(&many(limits::REQUIREMENTS + 1)).unwrap_err().reason, Reason::LimitExceeded);
    }

    /// Agent 0.1 reads no longer annotation.
    #[test]
    fn the_own_settings_are_read_as_they_are_written_and_fit_an_annotation() {
        let own = AgentSettings::own();
        let text = own.to_string();
        assert_eq!(text.parse(), Ok(own.clone()));
        assert!(text.len() <= limits::ANNOTATION_BYTES, "{} bytes", text.len());
        for setting in own.iter() {
            let row = rows::named(&setting.key).unwrap();
            assert_eq!((setting.secret, setting.required), (row.secret, row.required), "{}", setting.key);
            let shown = setting.default.as_deref().unwrap_or_default();
            assert_eq!(shown, if row.secret { "" } else { row.default }, "{}", setting.key);
        }
    }

    #[test]
    fn a_required_setting_has_no_default() {
        assert!(rows::all().all(|row| !row.required || row.default.is_empty()));
    }

    #[test]
    fn settings_of_another_agent_are_read() {
        let read: AgentSettings = "region!\ntoken!*=hidden\nlevel=1 = 2\nplain".parse().unwrap();
        let setting = |key: &str, required, secret, default: Option<&str>| AgentSetting {
            key: key.into(),
            required,
            secret,
            default: default.map(str::to_owned),
        };
        let expected = [
            setting("region", true, false, None),
            setting("token", true, true, None),
            setting("level", false, false, Some("1 = 2")),
            setting("plain", false, false, None),
        ];
        assert!(read.iter().eq(&expected), "{read:?}");
        for wrong in ["=1", "!", "A", "a-b", "a b", "a\n\nb", "a*!", &"a".repeat(limits::KEY_BYTES + 1)] {
            assert!(wrong.parse::<AgentSettings>().unwrap_err().contains("names no setting"), "{wrong:?}");
        }
        assert!("a\nb\na=1".parse::<AgentSettings>().unwrap_err().contains("a twice"));
    }
}
