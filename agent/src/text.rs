//! Text from outside, made fit for a terminal, a log and JSON.

use crate::limits;

/// Escapes control and non-ASCII characters and cuts after [`limits::SHOWN_CHARS`].
///
/// A registry's answer must not be able to move the cursor, forge a log line or fill the disk with one message.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(limits::SHOWN_CHARS) {
        match c {
            ' '..='[' | ']'..='~' => out.push(c),
            _ => out.extend(c.escape_default()),
        }
    }
    if text.chars().nth(limits::SHOWN_CHARS).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\x1b[2J\n\u{202e}b\\"), "a\\u{1b}[2J\\n\\u{202e}b\\\\");
        assert_eq!(shown("it's \"fine\" {[~]}"), "it's \"fine\" {[~]}");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shown(&"x".repeat(limits::SHOWN_CHARS)).len(), limits::SHOWN_CHARS);
        assert_eq!(shown(&"x".repeat(limits::SHOWN_CHARS + 1)).len(), limits::SHOWN_CHARS + 3);
    }
}
