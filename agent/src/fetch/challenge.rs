//! The challenge of a 401: how a server wants to be asked (RFC 9110 section 11.3, RFC 6750, and the token authentication of
//! CNCF Distribution).
//!
//! The parser is lenient, because a challenge decides nothing about a release: it accepts any case, any number of blanks
//! after a scheme, unquoted values, commas at the end, and schemes that the agent does not know.

use reqwest::header::{self, HeaderMap};

/// The schemes of an answer that the agent can use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The server takes the tokens of a token server.
    pub bearer: Option<Bearer>,
    /// The server takes a user name and a password itself.
    pub basic: bool,
}

/// A challenge for a bearer token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bearer {
    /// URL of the token server, as the registry gave it.
    pub realm: String,
    /// Name of the registry to the token server.
    pub service: Option<String>,
    /// The rights that the request needs, separated by blanks.
    pub scope: Option<String>,
}

/// Reads the challenges of an answer, in all its headers.
#[must_use]
pub fn challenge(headers: &HeaderMap) -> Challenge {
    let mut found = Challenge::default();
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        read(&String::from_utf8_lossy(value.as_bytes()), &mut found);
    }
    found
}

/// Adds the challenges of one header. The first challenge for a bearer token counts, and the first parameter of a name.
pub(crate) fn read(text: &str, found: &mut Challenge) {
    for scheme in schemes(text) {
        let value = |wanted: &str| {
            let (_, value) = scheme.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
            Some(value.clone())
        };
        found.basic |= scheme.name.eq_ignore_ascii_case("basic");
        let bearer = scheme.name.eq_ignore_ascii_case("bearer") && found.bearer.is_none();
        if let Some(realm) = value("realm").filter(|_| bearer) {
            found.bearer = Some(Bearer { realm, service: value("service"), scope: value("scope") });
        }
    }
}

struct Scheme {
    name: String,
    parameters: Vec<(String, String)>,
}

/// A word followed by `=` is a parameter; any other word after a comma, and the first one, is a scheme. Anything else is a
/// token68, which no scheme of ours has.
fn schemes(text: &str) -> Vec<Scheme> {
    let (mut rest, mut found, mut separated) = (text, Vec::<Scheme>::new(), true);
    loop {
        let item = rest.trim_start_matches([' ', '\t', ',', '=', '"']);
        separated |= rest[..rest.len() - item.len()].contains(',');
        let end = item.find([' ', '\t', ',', '=', '"']).unwrap_or(item.len());
        let (word, after) = item.split_at(end);
        if word.is_empty() {
            return found;
        }
        rest = after;
        match (assigned(after), found.last_mut()) {
            (Some((value, after)), Some(scheme)) => {
                scheme.parameters.push((word.to_owned(), value));
                rest = after;
            }
            (None, _) if separated => found.push(Scheme { name: word.to_owned(), parameters: vec![] }),
            _ => {}
        }
        separated = false;
    }
}

/// The value after a `=`, and the rest. A quoted value without an end is the whole rest.
fn assigned(text: &str) -> Option<(String, &str)> {
    let value = text.trim_start_matches([' ', '\t']).strip_prefix('=')?.trim_start_matches([' ', '\t']);
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find([' ', '\t', ',', '=', '"']).unwrap_or(value.len());
        // Padding of a token68.
        return (end > 0).then(|| (value[..end].to_owned(), &value[end..]));
    };
    let (mut read, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return Some((read, &quoted[at + 1..])),
            _ => {
                read.push(c);
                escaped = false;
            }
        }
    }
    Some((read, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    fn of(values: &[&str]) -> Challenge {
        let headers = values.iter().map(|value| (header::WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap()));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| _ = map.append(name, value));
        challenge(&map)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Bearer> {
        Some(Bearer { realm: realm.into(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) })
    }

    #[test]
    fn a_challenge_is_read_however_it_is_spelled() {
        let expected = bearer("https://r/token?a=b", Some("s"), Some("repository:os:pull,push"));
        for text in [
            r#"Bearer realm="https://r/token?a=b",service="s",scope="repository:os:pull,push""#,
            r#"bearer  realm="https://r/token?a=b" , service = "s", scope="repository:os:pull,push","#,
            r#"BEARER	Realm="https://r/token?a=b",Service=s,SCOPE="repository:os:pull,push",error="invalid_token""#,
            r#"Bearer realm="https://r/token?a=b",service="s",scope="repository:os:pull,push",realm="https://other""#,
            r#"Bearer realm="https://r/\token?a=b",service="s",scope="repository:os:pull,push"#,
        ] {
            assert_eq!(of(&[text]), Challenge { bearer: expected.clone(), basic: false }, "{text}");
        }
    }

    #[test]
    fn bearer_counts_wherever_it_stands_among_other_schemes() {
        let token = bearer("/t", None, None);
        for values in [
            &["Negotiate, NTLM, Basic realm=\"x, Bearer y\", Bearer realm=\"/t\""][..],
            &["Negotiate YWJj==, Bearer realm=\"/t\", Basic realm=x"],
            &["NTLM abc", "Basic realm=\"x\"", "Bearer realm=/t"],
            &["Basic", "Bearer realm=/t, Bearer realm=/other"],
        ] {
            let found = of(values);
            assert_eq!(found.bearer.as_ref(), token.as_ref(), "{values:?}");
            assert_eq!(found.basic, values.concat().contains("Basic"), "{values:?}");
        }
        assert_eq!(of(&["Basic realm=\"Bearer realm=/t\""]), Challenge { bearer: None, basic: true });
        for nothing in ["", "Bearer", "Bearer service=s", "Negotiate Bearer realm=/t", ",,=\"", "realm=/t"] {
            assert_eq!(of(&[nothing]).bearer, None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read(text in "\\PC{0,60}|[Bearerbasic =,\"\\\\]{0,60}") {
            read(&text, &mut Challenge::default());
        }
    }
}
