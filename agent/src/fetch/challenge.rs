//! The challenge of a 401: where a registry wants tokens to be fetched (RFC 6750, docker's token authentication).

use reqwest::header::{self, HeaderMap};

/// A challenge for a bearer token.
#[derive(Debug)]
pub struct Bearer {
    /// URL of the token server, as the registry gave it.
    pub realm: String,
    /// Name of the registry to the token server.
    pub service: Option<String>,
    /// The right that the request needs.
    pub scope: Option<String>,
}

/// Finds the challenge for a bearer token among those of an answer.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<Bearer> {
    let challenges = headers.get_all(header::WWW_AUTHENTICATE);
    challenges.iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let challenges = http_auth::parse_challenges(value).ok()?;
        let bearer = challenges.into_iter().find(|c| c.scheme.eq_ignore_ascii_case("bearer"))?;
        let value = |name: &str| {
            let (_, value) = bearer.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
            Some(value.to_unescaped())
        };
        Some(Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
    })
}
