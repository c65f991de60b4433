//! A page of labelled lines, as wide as the terminal and with its colours.

use crate::base::console::Terminal;

/// Columns of a label, with the blanks behind it.
const LABEL: usize = 14;
/// Columns of a verdict, with the blanks behind it.
const VERDICT: usize = 6;
/// Fewest columns for the text of a line, however narrow the terminal is.
const LEAST: usize = 20;

/// How a word is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    /// As it should be: green.
    Good,
    /// Held back, or less than it could be: yellow.
    Held,
    /// Wrong: red.
    Bad,
}

impl Tone {
    /// ECMA-48, select graphic rendition.
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Held => "33",
            Self::Bad => "1;31",
        }
    }
}

/// A page under construction.
#[derive(Debug)]
pub(in crate::cli) struct Screen {
    terminal: Terminal,
    text: String,
}

impl Screen {
    pub(in crate::cli) fn new(terminal: Terminal) -> Self {
        Self { terminal, text: String::new() }
    }

    /// The word in its colour, if the terminal has colours.
    pub(in crate::cli) fn paint(&self, tone: Tone, word: &str) -> String {
        if self.terminal.colours { format!("\x1b[{}m{word}\x1b[0m", tone.code()) } else { word.to_owned() }
    }

    /// A line without label.
    pub(in crate::cli) fn plain(&mut self, text: &str) {
        self.wrapped("", text, 2);
    }

    /// A line with a label, such as `running:`.
    pub(in crate::cli) fn line(&mut self, label: &str, text: &str) {
        self.wrapped(&format!("{label:<LABEL$}"), text, LABEL);
    }

    /// A line with a label in colour.
    pub(in crate::cli) fn toned(&mut self, label: &str, tone: Tone, text: &str) {
        let blanks = " ".repeat(LABEL.saturating_sub(label.len()));
        self.wrapped(&format!("{}{blanks}", self.paint(tone, label)), text, LABEL);
    }

    /// One item of a list, which begins with a verdict.
    pub(in crate::cli) fn item(&mut self, tone: Tone, word: &str, text: &str) {
        let blanks = " ".repeat(VERDICT.saturating_sub(word.len()));
        let under_text = VERDICT + LABEL;
        // An indent takes less than half of the terminal.
        let fits = self.terminal.columns.is_none_or(|columns| under_text * 2 < columns);
        self.wrapped(&format!("{}{blanks}", self.paint(tone, word)), text, if fits { under_text } else { VERDICT });
    }

    /// An empty line between two parts.
    pub(in crate::cli) fn part(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    pub(in crate::cli) fn finish(self) -> String {
        self.text
    }

    /// Breaks a line between words where the terminal ends. A word that is longer stays whole, so that it can be copied.
    fn wrapped(&mut self, start: &str, text: &str, indent: usize) {
        let width = self.terminal.columns.map_or(usize::MAX, |columns| columns.max(indent + LEAST));
        self.text.push_str(start);
        let mut column = visible(start);
        for (at, word) in text.split(' ').enumerate() {
            let blank = usize::from(at > 0);
            if at > 0 && column + blank + visible(word) > width {
                self.text.push('\n');
                self.text.push_str(&" ".repeat(indent));
                column = indent;
            } else if at > 0 {
                self.text.push(' ');
                column += 1;
            }
            self.text.push_str(word);
            column += visible(word);
        }
        self.text.push('\n');
    }
}

/// Columns of a text: colours have none.
fn visible(text: &str) -> usize {
    let mut in_colour = false;
    text.chars()
        .filter(|c| {
            let hidden = in_colour || *c == '\x1b';
            in_colour = hidden && *c != 'm';
            !hidden
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(columns: Option<usize>, colours: bool) -> String {
        let mut screen = Screen::new(Terminal { columns, colours });
        let word = screen.paint(Tone::Good, "good");
        screen.line("running:", &format!("1.2.0 in slot A, {word}, and some words more"));
        screen.finish()
    }

    #[test]
    fn a_line_breaks_between_words_and_a_long_word_stays_whole() {
        assert_eq!(page(None, false), "running:      1.2.0 in slot A, good, and some words more\n");
        let forty = "running:      1.2.0 in slot A, good, and\n              some words more\n";
        assert_eq!(page(Some(40), false), forty);
        assert_eq!(page(Some(1), false).lines().next(), Some("running:      1.2.0 in slot A,"));
        let mut screen = Screen::new(Terminal { columns: Some(40), colours: false });
        screen.plain(&format!("see {}", "x".repeat(60)));
        assert_eq!(screen.finish(), format!("see\n  {}\n", "x".repeat(60)));
    }

    #[test]
    fn colours_take_no_columns() {
        assert_eq!(page(Some(40), true).replace("\x1b[32m", "").replace("\x1b[0m", ""), page(Some(40), false));
        assert!(page(Some(40), true).contains("\x1b[32mgood\x1b[0m"));
    }
}
