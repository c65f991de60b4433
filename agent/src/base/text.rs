//! Text from outside, made fit for a terminal, a log and JSON.

use crate::base::limits;

/// Escapes control and non-ASCII characters and cuts after [`limits::SHOWN_CHARS`].
///
/// A registry's answer must not be able to move the cursor, forge a log line or fill the disk with one message.
#[must_use]
pub fn escape(text: &str) -> String {
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

/// The same without the user name and password of a URL in it: all that stands in a word before its last `@`, unless a
/// digest follows.
#[must_use]
pub fn without_login(text: &str) -> String {
    text.split_inclusive([' ', '\t', ',', '=']).map(word_without_login).collect()
}

fn word_without_login(word: &str) -> String {
    match word.rsplit_once('@') {
        Some((before, after)) if after.starts_with("sha256:") && !before.contains('@') => word.to_owned(),
        Some((before, after)) => {
            let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
            format!("{scheme}***@{after}")
        }
        None => word.to_owned(),
    }
}

/// A whole URL or OCI reference without user name and password, and without its query, which may be a token.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let url = word_without_login(url);
    url.split_once('?').map_or(url.clone(), |(url, _)| format!("{url}?***"))
}

/// A message as it may reach a terminal: in one line, with nothing that acts on it.
#[must_use]
pub fn printable(message: &str) -> String {
    let one = |c: char| match c {
        ' '..='~' => c.to_string(),
        _ => c.escape_default().to_string(),
    };
    message.chars().map(one).collect()
}

/// A JSON text in ASCII. JSON leaves most characters as they are, and some of them act on a terminal; it can escape them all.
#[must_use]
pub fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | ' '..='~' => out.push(c),
            _ => out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\x1b[2J\n\u{202e}b\\"), "a\\u{1b}[2J\\n\\u{202e}b\\\\");
        assert_eq!(escape("it's \"fine\" {[~]}"), "it's \"fine\" {[~]}");
    }

    #[test]
    fn a_login_is_left_out_wherever_it_stands() {
        for (text, left) in [
            ("https://user:secret@host/path", "https://***@host/path"),
            ("server=https://user:se@cret@host", "server=https://***@host"),
            ("user:secret@host:5000/os@sha256:00", "***@sha256:00"),
            ("host:5000/os@sha256:00", "host:5000/os@sha256:00"),
            ("a,user:secret@b c", "a,***@b c"),
            ("nothing://here", "nothing://here"),
        ] {
            assert_eq!(without_login(text), left);
        }
    }

    #[test]
    fn a_url_keeps_no_password_and_no_query() {
        for (url, left) in [
            ("https://user:se cr,e=t@host:8443/x?token=abc", "https://***@host:8443/x?***"),
            ("https://user:se?c@ret@host/x", "https://***@host/x"),
            ("https://host/x?mail=a@b", "https://***@b"),
            ("user:secret@host/os:v1", "***@host/os:v1"),
            ("host/os@sha256:00", "host/os@sha256:00"),
            ("http://127.0.0.1:8080/healthz", "http://127.0.0.1:8080/healthz"),
        ] {
            assert_eq!(without_secrets(url), left);
        }
    }

    #[test]
    fn a_message_is_one_line_that_does_nothing() {
        assert_eq!(printable("a\\b\n\x1b\u{202e}c"), "a\\b\\n\\u{1b}\\u{202e}c");
    }

    #[test]
    fn json_in_ascii_says_the_same() {
        let value = serde_json::json!({"a\u{7f}": "\u{1b}\u{9b}2J\u{202e}\u{1f600}\\ \"'"});
        let ascii = ascii(&serde_json::to_string_pretty(&value).unwrap());
        assert!(ascii.bytes().all(|b| b == b'\n' || matches!(b, b' '..=b'~')), "{ascii}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&ascii).unwrap(), value);
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(escape(&"x".repeat(limits::SHOWN_CHARS)).len(), limits::SHOWN_CHARS);
        assert_eq!(escape(&"x".repeat(limits::SHOWN_CHARS + 1)).len(), limits::SHOWN_CHARS + 3);
    }
}
