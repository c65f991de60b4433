//! `update.conf`, its drop-ins, and the command line over them: settings as text, each with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::Config;
use super::rows::{self, Setting};
use super::values::{AutoSwitch, Origin};
use crate::base::error::{Error, Reason, Result};
use crate::base::{files, limits, text};

/// Longest text that a message shows as the name of a setting, in bytes.
const NAME_BYTES: usize = 40;

pub(super) const REASON: Reason = Reason::BadConfig;

/// Where a setting in effect comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Place {
    /// The command line.
    CommandLine,
    /// A file.
    File {
        /// The name of the file.
        file: String,
        /// The number of the line, from 1.
        line: usize,
    },
    /// No place: it has its default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("the command line"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A line that has no effect, or keeps all settings from being used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// The fault. It never shows a value that may contain a password.
    pub message: String,
    /// The next step, as a sentence.
    pub remedy: &'static str,
}

impl Problem {
    /// The error of a command that needs the settings.
    #[must_use]
    pub fn error(&self) -> Error {
        Error::new(REASON, self.to_string()).remedy(self.remedy)
    }

    pub(super) fn line(&self) -> usize {
        if let Place::File { line, .. } = self.place { line } else { 0 }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The settings that the command line makes. Each replaces the same one of all files.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A file with a release: replaces the source of the files.
    pub bundle: Option<PathBuf>,
    settings: Vec<(&'static str, String)>,
}

impl Overrides {
    /// Makes a setting, as text of `update.conf`; an empty one resets it. `None` leaves it to the files.
    pub fn set(&mut self, key: &'static str, value: Option<impl Into<String>>) {
        self.settings.extend(value.map(|value| (key, value.into())));
    }

    /// The same, to be chained.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.set(key, Some(value));
        self
    }
}

/// The settings of a file, or of several, of which a later one wins. A line is `key=value`, blank, or a `#` comment. White
/// space around key and value does not count. An empty value resets the setting to its default.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    name: String,
    entries: Vec<Entry>,
    bundle: Option<PathBuf>,
    /// Keys that no setting has; false: reset by an empty value. Another version of the agent may know them.
    others: BTreeMap<String, bool>,
    /// Lines without an effect, to be logged.
    pub warnings: Vec<Problem>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) value: String,
    pub(super) place: Place,
}

impl Entry {
    fn is_source(&self) -> bool {
        matches!(self.setting.key, "server" | "registry")
    }

    /// The problem of a value that its reader refused.
    pub(super) fn refused(&self, why: &str) -> Problem {
        let value = if self.setting.secret { "***".into() } else { text::escape(&text::without_login(&self.value)) };
        Problem {
            place: self.place.clone(),
            message: format!("{}=\"{value}\": {why}", self.setting.key),
            remedy: "Correct the value, or remove the line to use the default.",
        }
    }
}

impl Conf {
    /// Reads `file` and its drop-ins. A missing file is an empty one.
    ///
    /// # Errors
    /// 78 for a file that is not trusted or has a line that is no setting, 65 beyond the limits.
    pub fn load(file: &Path) -> Result<Self> {
        let mut conf = Self::default();
        for file in files(file)? {
            conf.put_over(Self::of_file(&file)?);
        }
        Ok(conf)
    }

    fn of_file(file: &Path) -> Result<Self> {
        let bytes = files::read(file, limits::CONF_BYTES, REASON)?.unwrap_or_default();
        Self::parse(&bytes, &file.display().to_string())
    }

    /// Reads the bytes of a file that is called `name` in messages.
    ///
    /// # Errors
    /// 78 for the first line that is no setting, 65 beyond [`limits::CONF_BYTES`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        let (conf, problems) = Self::parse_all(bytes, name)?;
        problems.into_iter().next().map_or(Ok(conf), |problem| Err(problem.error()))
    }

    /// The same with all lines that are no settings.
    pub(super) fn parse_all(bytes: &[u8], name: &str) -> Result<(Self, Vec<Problem>)> {
        if bytes.len() as u64 > limits::CONF_BYTES {
            return Err(limits::exceeded(name, format_args!("{} bytes", limits::CONF_BYTES)));
        }
        let mut conf = Self::named(name);
        let mut problems = vec![];
        for (line, content) in (1..).zip(bytes.split(|b| *b == b'\n')) {
            match std::str::from_utf8(content) {
                // Some editors write a byte order mark in front.
                Ok(content) if line == 1 => conf.read_line(content.strip_prefix('\u{feff}').unwrap_or(content), line),
                Ok(content) => conf.read_line(content, line),
                Err(_) => Err(conf.problem(line, "not UTF-8".into(), "Save the file as UTF-8.")),
            }
            .unwrap_or_else(|problem| problems.push(problem));
        }
        Ok((conf, problems))
    }

    fn read_line(&mut self, content: &str, line: usize) -> Result<(), Problem> {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            return Ok(());
        }
        // The line is not shown: it may contain a password.
        let (key, value) = content.split_once('=').ok_or_else(|| {
            self.problem(line, "not of the form key=value".into(), "Complete the line, or put # in front of it.")
        })?;
        self.insert(key.trim(), value.trim(), line)
    }

    /// No settings yet, of a file that is called `name` in messages.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds the setting of this line. An unknown key has no effect but a warning.
    ///
    /// # Errors
    /// 78 for a key that was set before.
    pub fn add(&mut self, key: &str, value: &str, line: usize) -> Result<()> {
        self.insert(key, value, line).map_err(|problem| problem.error())
    }

    fn insert(&mut self, key: &str, value: &str, line: usize) -> Result<(), Problem> {
        let Some(setting) = rows::named(key) else {
            let message = if is_name(key) {
                self.others.insert(key.to_owned(), !value.is_empty());
                let meant = rows::nearest(key).map_or(String::new(), |key| format!(". Did you mean {key}?"));
                format!("unknown key \"{key}\" has no effect{meant}")
            } else {
                "a line that begins with no key has no effect".to_owned()
            };
            self.warnings.push(self.problem(line, message, "Correct the name of the key, or remove the line."));
            return Ok(());
        };
        if let Some(first) = self.entries.iter().find(|entry| entry.setting.key == key) {
            let message = format!("{key} is already set ({})", first.place);
            return Err(self.problem(line, message, "Remove one of the two lines."));
        }
        // No setting has such a value, and with it each would fail later, at a place that names neither file nor line.
        if value.contains(" #") || value.contains("\t#") {
            let message = format!("{key}: a comment behind the value counts as a part of the value");
            return Err(self.problem(line, message, "Put the comment on a line of its own that begins with #."));
        }
        let place = self.place(line);
        self.entries.push(Entry { setting, value: value.to_owned(), place });
        Ok(())
    }

    fn place(&self, line: usize) -> Place {
        Place::File { file: self.name.clone(), line }
    }

    fn problem(&self, line: usize, message: String, remedy: &'static str) -> Problem {
        Problem { place: self.place(line), message, remedy }
    }

    /// Puts the command line over these settings.
    #[must_use]
    pub fn overridden(mut self, over: &Overrides) -> Self {
        let entry = |(key, value): &(&'static str, String)| {
            Some(Entry { setting: rows::named(key)?, value: value.clone(), place: Place::CommandLine })
        };
        let entries = over.settings.iter().filter_map(entry).collect();
        self.put_over(Self { entries, bundle: over.bundle.clone(), ..Self::default() });
        self
    }

    /// Puts later settings over these. Each wins whole, also if it is empty. A source replaces any source from before; with
    /// a tag of its own it leaves no room for a tag from before.
    pub(super) fn put_over(&mut self, later: Self) {
        let source = later.entries.iter().find(|entry| entry.is_source() && !entry.value.is_empty());
        let names_tag = |entry: &Entry| entry.value.parse().is_ok_and(|source: Origin| source.names_tag());
        let (has_source, has_tag) = match (&later.bundle, source) {
            (None, None) => (false, false),
            (None, Some(source)) => (true, names_tag(source)),
            (Some(_), _) => (true, true),
        };
        self.entries.retain(|earlier| {
            let key = earlier.setting.key;
            let replaced = later.entries.iter().any(|entry| entry.setting.key == key);
            !(replaced || has_source && earlier.is_source() || has_tag && key == "tag")
        });
        self.entries.extend(later.entries);
        self.others.extend(later.others);
        self.warnings.extend(later.warnings);
        self.bundle = later.bundle.or(self.bundle.take());
    }

    /// Number of settings, empty ones too.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The setting of this key, if it is set to anything.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.setting.key == key && !entry.value.is_empty())
    }

    /// All keys that are set to anything.
    fn keys(&self) -> BTreeSet<String> {
        let known = self.entries.iter().filter(|entry| !entry.value.is_empty()).map(|entry| entry.setting.key);
        let others = self.others.iter().filter(|(_, set)| **set).map(|(key, _)| key.as_str());
        known.chain(others).map(str::to_owned).collect()
    }

    /// The file with a release that the command line names.
    pub(super) fn bundle(&self) -> Option<&Path> {
        self.bundle.as_deref()
    }

    /// Reads every setting, and all that is wrong with them.
    pub(super) fn read(&self) -> (Config, Vec<Problem>) {
        let mut config = Config::default();
        let mut problems = vec![];
        for setting in rows::all() {
            let entry = self.entry(setting.key);
            let value = entry.map_or(setting.default, |entry| &entry.value);
            if value.is_empty() {
                continue;
            }
            if let Err(why) = (setting.read)(&mut config, value) {
                problems.extend(entry.map(|entry| entry.refused(&why)));
            }
        }
        if let Some(file) = &self.bundle {
            config.source = Some(Origin::Bundle(file.clone()));
        }
        config.warnings = self.warnings.iter().map(ToString::to_string).collect();
        problems.extend(self.contradictions(&config));
        (config, problems)
    }

    /// Settings that are right by themselves, and wrong together.
    fn contradictions(&self, config: &Config) -> Vec<Problem> {
        let mut problems = vec![];
        if let (Some(server), Some(registry)) = (self.entry("server"), self.entry("registry")) {
            problems.push(Problem {
                place: registry.place.clone(),
                message: format!("both server and registry are set (server: {})", server.place),
                remedy: "Keep one of them: server for an http(s) URL or an OCI reference, registry for an OCI reference.",
            });
        }
        if let (Some(one), None) | (None, Some(one)) = (self.entry("registry_cert"), self.entry("registry_key")) {
            problems.push(Problem {
                place: one.place.clone(),
                message: format!("{} is set alone", one.setting.key),
                remedy: "Set both registry_cert and registry_key, or neither.",
            });
        }
        if let (Some(required), Some(asked)) = (self.entry("require_fresh"), self.entry("freshness"))
            && config.require_fresh
            && config.freshness == AutoSwitch::No
        {
            problems.push(Problem {
                place: required.place.clone(),
                message: format!("require_fresh=yes with freshness=no ({}) would install nothing", asked.place),
                remedy: "Remove one of the two.",
            });
        }
        problems
    }
}

impl Config {
    /// Reads `file` and its drop-ins, and puts `over` over them. A missing file is an empty one.
    ///
    /// # Errors
    /// As of [`Conf::load`] and [`Self::resolve`].
    pub fn load(file: &Path, over: &Overrides) -> Result<Self> {
        Self::resolve(&Conf::load(file)?, over)
    }

    /// Command line over files over defaults.
    ///
    /// # Errors
    /// 78 for the first value that cannot be used, with its place. Of a setting that is replaced, only the last value counts.
    pub fn resolve(conf: &Conf, over: &Overrides) -> Result<Self> {
        let (config, problems) = conf.clone().overridden(over).read();
        let config = Self { keys: conf.keys(), ..config };
        problems.into_iter().next().map_or(Ok(config), |problem| Err(problem.error()))
    }
}

/// The files of the settings, of which a later one wins: `file`, which may be missing, then each `.conf` file of the folder
/// `file.d` in order of their names.
///
/// # Errors
/// 78 for a folder that is not trusted, 65 for more than [`limits::DROP_INS`].
pub fn files(file: &Path) -> Result<Vec<PathBuf>> {
    Ok([file.to_owned()].into_iter().chain(drop_ins(file)?).collect())
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let unreadable = |e: io::Error| files::not_opened(&folder, REASON, &e);
    let meta = match fs::symlink_metadata(&folder) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(vec![]),
        Err(e) => return Err(unreadable(e)),
    };
    if !meta.is_dir() {
        let message = format!("{} is not a folder", folder.display());
        return Err(Error::new(REASON, message).remedy("Put a folder there, or remove it."));
    }
    files::check_folder(&meta, &folder, REASON)?;
    let mut found = vec![];
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        // As a shell reads *.conf: without hidden files, such as those of an editor.
        if name.as_encoded_bytes().ends_with(b".conf") && !name.as_encoded_bytes().starts_with(b".") {
            found.push(folder.join(name));
        }
    }
    if found.len() > limits::DROP_INS {
        return Err(limits::exceeded(folder.display(), format_args!("{} files", limits::DROP_INS)));
    }
    found.sort();
    Ok(found)
}

/// True if a text can be the name of a setting. Any other text before a `=` may contain a password, and is not shown.
fn is_name(key: &str) -> bool {
    (1..=NAME_BYTES).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}
