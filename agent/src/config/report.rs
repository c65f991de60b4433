//! The output of `config show` and `config check`.

use std::path::Path;

use serde::Serialize;

use super::conf::{self, Conf, Overrides, Place, Problem};
use super::rows::{self, Setting};
use crate::base::error::{Error, Result};
use crate::base::{files, limits, text};

/// One setting in effect.
#[derive(Debug, Serialize)]
pub struct Effective {
    /// Its key.
    pub key: &'static str,
    /// Its value as in `update.conf`, with passwords masked; `None` where there is no default either.
    pub value: Option<String>,
    /// The value that counts without the setting, or its effect in words.
    pub default: &'static str,
    /// Where it comes from.
    #[serde(flatten)]
    pub place: Place,
    /// Its purpose, in one sentence.
    #[serde(skip)]
    pub help: &'static str,
}

/// All settings in effect, in the order of the documentation.
///
/// # Errors
/// As of [`Config::resolve`](super::config::Config::resolve): settings that cannot be used are in no effect.
pub fn effective(conf: &Conf, over: &Overrides) -> Result<Vec<Effective>> {
    let conf = conf.clone().overridden(over);
    if let Some(problem) = conf.read().1.into_iter().next() {
        return Err(problem.error());
    }
    let bundle = conf.bundle().map(|file| Effective {
        key: "bundle",
        value: Some(file.display().to_string()),
        default: "none",
        place: Place::CommandLine,
        help: "File with a release; only the command line can name it.",
    });
    Ok(bundle.into_iter().chain(rows::all().map(|setting| one(&conf, setting))).collect())
}

fn one(conf: &Conf, setting: &'static Setting) -> Effective {
    let entry = conf.entry(setting.key);
    let value = entry.map_or(setting.default, |entry| &entry.value);
    Effective {
        key: setting.key,
        value: (!value.is_empty()).then(|| setting.masked(value)),
        default: setting.without(),
        place: entry.map_or(Place::Default, |entry| entry.place.clone()),
        help: setting.help,
    }
}

impl Effective {
    /// A file or the command line sets it.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.place != Place::Default
    }

    /// The value in one line; where there is none, its effect in parentheses.
    #[must_use]
    pub fn text(&self) -> String {
        self.value.as_deref().map_or_else(|| format!("({})", self.default), text::printable)
    }
}

/// The result of `config check`.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The files that were read, in this order.
    pub files: Vec<String>,
    /// Number of settings that they make; one that is made in two files counts twice.
    pub settings: usize,
    /// All that is wrong with them.
    pub problems: Vec<Problem>,
}

impl Checked {
    /// The first problem as an error.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.problems.first().map(Problem::error)
    }
}

/// Checks every line of the settings: of `file` alone, or of `conf` with its drop-ins. Here an unknown key is a problem, and so
/// is a value that a later file replaces.
///
/// # Errors
/// 78 for a file that is not trusted or, if it was named, is missing; 65 beyond the limits.
pub fn check(file: Option<&Path>, conf: &Path) -> Result<Checked> {
    let files = match file {
        Some(file) => vec![file.to_owned()],
        None => conf::files(conf)?,
    };
    let mut checked = Checked { files: vec![], settings: 0, problems: vec![] };
    let mut all = Conf::default();
    for path in files {
        let name = path.display().to_string();
        let Some(bytes) = files::read(&path, limits::CONF_BYTES, conf::REASON)? else {
            if file.is_some() {
                let missing = Error::new(conf::REASON, format!("{name} does not exist"));
                return Err(missing.remedy("Name a file that exists."));
            }
            continue;
        };
        let (one, lines) = Conf::parse_all(&bytes, &name)?;
        let mut problems = [lines, one.warnings.clone(), one.read().1].concat();
        problems.sort_by_key(Problem::line);
        checked.problems.append(&mut problems);
        checked.settings += one.len();
        checked.files.push(name);
        all.put_over(one);
    }
    // The same values once more, and contradictions between the files.
    let together = all.read().1.into_iter().filter(|problem| !checked.problems.contains(problem));
    let together: Vec<_> = together.collect();
    checked.problems.extend(together);
    Ok(checked)
}

impl Setting {
    /// A value as it may be shown.
    fn masked(&self, value: &str) -> String {
        if self.secret { text::without_secrets(value) } else { value.to_owned() }
    }
}
