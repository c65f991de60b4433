//! Links in the header of an answer (RFC 8288).

use reqwest::Url;
use reqwest::header::{self, HeaderMap};

/// The target of the first link with the relation `next`, resolved against the URL of the answer. A header can have several
/// links, and an answer several headers.
pub(crate) fn next(headers: &HeaderMap, base: &Url) -> Option<Url> {
    let values = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let target = values.flat_map(links).find(|(_, relations)| is_next(relations)).map(|(target, _)| target)?;
    base.join(&target).ok()
}

/// Relations are words, in any case.
fn is_next(relations: &str) -> bool {
    relations.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("next"))
}

/// Target and relations of each link, as far as the header can be read.
fn links(mut rest: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    while let Some((target, parameters)) =
        rest.trim_start_matches([' ', '\t', ',']).strip_prefix('<').and_then(|r| r.split_once('>'))
    {
        let mut relations = None;
        rest = parameters;
        while let Some(parameter) = rest.trim_start().strip_prefix(';') {
            let (name, value, after) = parameter_of(parameter.trim_start());
            if name.eq_ignore_ascii_case("rel") {
                relations.get_or_insert(value);
            }
            rest = after;
        }
        found.push((target.to_owned(), relations.unwrap_or_default()));
        rest = rest.trim_start();
        if !rest.starts_with(',') {
            break;
        }
    }
    found
}

/// Name and value of the parameter that `text` begins with, and the text behind it. The value can be quoted.
fn parameter_of(text: &str) -> (&str, String, &str) {
    let end = text.find(['=', ';', ',']).unwrap_or(text.len());
    let name = text[..end].trim_end();
    let Some(value) = text[end..].strip_prefix('=') else { return (name, String::new(), &text[end..]) };
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find([';', ',']).unwrap_or(value.len());
        return (name, value[..end].trim_end().to_owned(), &value[end..]);
    };
    let (mut out, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (name, out, &quoted[at + 1..]),
            _ => out.push(c),
        }
    }
    (name, out, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn target(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::LINK, HeaderValue::from_str(value).unwrap());
        }
        next(&headers, &Url::parse("https://host/v2/os/referrers/x?n=1").unwrap()).map(|url| url.to_string())
    }

    #[test]
    fn the_next_link_is_found_in_every_spelling() {
        let wanted = Some("https://host/p?n=2".to_owned());
        for value in [
            "</p?n=2>; rel=\"next\"",
            "</p?n=2>;rel=next",
            "</p?n=2>; REL=Next",
            "</p?n=2> ; rel = \"prev next\" ; title=\"a, <b>; rel=x\"",
            "</a>; rel=\"first\", </p?n=2>; rel=\"next\", </z>; rel=last",
            "</a>; title=\"a \\\" , <c>\"; rel=prev,</p?n=2>;rel=next",
            "</a>, </p?n=2>; rel=next",
            ", </p?n=2>; rel=next; rel=prev",
            "<https://host/p?n=2>; rel=next",
        ] {
            assert_eq!(target(&[value]), wanted, "{value}");
        }
        assert_eq!(target(&["</a>; rel=prev", "</p?n=2>; rel=next"]), wanted);
        for value in [
            "",
            "</p>",
            "</p>; rel=prev",
            "</p>; title=next",
            "/p; rel=next",
            "</p; rel=next",
            "</p>; rel=\"pre\\\"next\"",
            "</p>; rel=prev; rel=next",
        ] {
            assert_eq!(target(&[value]), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_header_has_links_or_none(value in "[<>;,=\"\\\\ a-z\t]{0,60}|[\\x20-\\x7e]{0,60}") {
            let _ = target(&[&value]);
        }
    }
}
