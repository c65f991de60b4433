//! The settings as documentation: `docs/update.conf`, and the same for a man page.

use std::fmt::Write as _;

use super::rows::{self, Setting};
use crate::base::limits;

/// Longest line of the commented file, in characters.
const WIDTH: usize = 120;

/// The rules of the format, a paragraph each.
#[must_use]
pub fn format() -> [String; 3] {
    [
        "A line is key=value, a comment that starts with #, or blank. White space around key and value has no effect. An empty \
         value resets the setting to its default. An unknown key has no effect but a warning; kubesolo-update config check \
         reports it with exit code 78. A value that cannot be used, or a key that is set twice in one file, ends every command \
         with exit code 78 and the number of the line."
            .into(),
        format!(
            "After update.conf the agent reads update.conf.d/*.conf in order of their names, at most {} files. A later file \
             replaces a setting as a whole, also a list. The command line replaces those of all files. Each file must belong \
             to root, be writable by nobody else, and have at most {} KiB.",
            limits::DROP_INS,
            limits::CONF_BYTES / 1024
        ),
        "kubesolo-update config show prints each setting in effect and the file and line that it comes from.".into(),
    ]
}

impl Setting {
    /// The value that counts without the setting, or its effect in words.
    #[must_use]
    pub fn without(&self) -> &'static str {
        if self.default.is_empty() { self.unset } else { self.default }
    }

    /// A value to start from.
    #[must_use]
    pub fn typical(&self) -> &'static str {
        if self.example.is_empty() { self.default } else { self.example }
    }

    /// All that is said about it but for its choices, with its default at the end.
    #[must_use]
    pub fn text(&self) -> String {
        let more = if self.more.is_empty() { String::new() } else { format!(" {}", self.more) };
        format!("{}{more} Default: {}.", self.help, self.without())
    }
}

/// `docs/update.conf`: every setting as a comment, so that the file changes nothing as it is.
#[must_use]
pub fn commented() -> String {
    let mut out = String::from("# /etc/kubesolo/update.conf: settings of kubesolo-update\n");
    for paragraph in format() {
        out.push_str("#\n");
        wrap(&mut out, "# ", "# ", &paragraph);
    }
    out.push_str("#\n");
    wrap(&mut out, "# ", "# ", "Each line below that starts with # and a key shows the default, or an example.");
    for section in rows::SECTIONS {
        let title = format!("# --- {} ", section.title);
        let _ = writeln!(out, "\n{title:-<WIDTH$}");
        for setting in section.settings {
            out.push('\n');
            wrap(&mut out, "# ", "# ", &setting.text());
            let width = setting.choices.iter().map(|(word, _)| word.len()).max().unwrap_or_default();
            for (word, meaning) in setting.choices {
                wrap(&mut out, &format!("#   {word:width$}  "), &format!("#   {:width$}  ", ""), meaning);
            }
            let _ = writeln!(out, "#{}={}", setting.key, setting.typical());
        }
    }
    out
}

/// A paragraph in lines of at most [`WIDTH`] characters.
fn wrap(out: &mut String, first: &str, next: &str, text: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = next.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}
