//! Token servers: where a login may go, the question, and the answer (CNCF Distribution, token authentication and OAuth2).

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::base::error::{Error, Reason, Result};
use crate::base::{json, text};
use crate::fetch::challenge::Bearer;
use crate::fetch::login::Login;
use crate::fetch::tokens::{LIFE_MIN, header};
use crate::fetch::url::host;

/// The registry whose token server has another name by design, and that server.
const DOCKER: (&[&str], &str) = (&["registry-1.docker.io", "index.docker.io"], "auth.docker.io");
/// The name of this program to a token server.
const CLIENT: &str = "kubesolo-update";

/// The URL of the token server that a registry names, if it may be asked; with a login, only if that login may go there.
/// `refused` is the URL that answered 401.
///
/// # Errors
/// 77 `foreign-token-server` for a login, 69 without one.
pub(super) fn server(bearer: &Bearer, refused: &Url, login: bool, listed: &[String]) -> Result<Url> {
    let shown = text::escape(&bearer.realm);
    let refuse = |why: &str| {
        let sent = if login { ": the login was not sent" } else { "" };
        let message = format!("{} names the token server {shown}, {why}{sent}", host(refused));
        Error::new(if login { Reason::ForeignTokenServer } else { Reason::AccessDenied }, message)
            .remedy("Fix the configuration of the registry, or ask its operator.")
    };
    let mut url = refused.join(&bearer.realm).map_err(|_| refuse("which is not a URL"))?;
    let name = match url.host_str() {
        Some(name) if matches!(url.scheme(), "https" | "http") => name.to_owned(),
        _ => return Err(refuse("which is not a URL of a web server")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("which has a user name in it"));
    }
    if refused.scheme() == "https" && url.scheme() != "https" {
        return Err(refuse("which has no TLS"));
    }
    let own = refused.host_str() == Some(&name);
    if !own && is_local(&url) {
        return Err(refuse("which is an address for services of this machine"));
    }
    let docker = refused.host_str().is_some_and(|registry| DOCKER.0.contains(&registry)) && name == DOCKER.1;
    let listed = listed.iter().any(|listed| *listed == name || *listed == host(&url));
    if login && !own && !docker && !listed {
        return Err(refuse("which is on another host")
            .remedy(format!("If {name} may get the login, add registry_auth_hosts={name}.")));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Link-local addresses, where clouds keep the credentials of a machine, and the name that one of them gives to it.
fn is_local(url: &Url) -> bool {
    let name = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match name.parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            let embedded = address.to_ipv4_mapped().is_some_and(|address| address.is_link_local());
            address.is_unicast_link_local() || embedded || address.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => name == "metadata.google.internal",
    }
}

/// The rights that a token server is asked for.
pub(super) struct Question<'a> {
    pub(super) server: Url,
    pub(super) service: Option<&'a str>,
    /// Scopes, separated by blanks.
    pub(super) scope: &'a str,
}

/// The URL of a GET: each scope by itself.
pub(super) fn question(question: &Question<'_>) -> Url {
    let mut url = question.server.clone();
    let scopes = question.scope.split_ascii_whitespace().map(|scope| ("scope", scope));
    for (name, value) in question.service.map(|service| ("service", service)).into_iter().chain(scopes) {
        url.query_pairs_mut().append_pair(name, value);
    }
    url
}

/// The body of a POST with a login; `None` for one that needs no token server.
pub(super) fn form(login: &Login, service: Option<&str>, scope: &str) -> Option<String> {
    let mut pairs = match login {
        Login::Identity(token) => vec![("grant_type", "refresh_token"), ("refresh_token", token.as_str())],
        Login::Password { user, password } => {
            vec![("grant_type", "password"), ("username", user.as_str()), ("password", password.as_str())]
        }
        Login::Bearer(_) => return None,
    };
    pairs.push(("client_id", CLIENT));
    pairs.extend(service.map(|service| ("service", service)));
    pairs.extend(Some(("scope", scope)).filter(|_| !scope.is_empty()));
    // The query of a URL has the same form as a body.
    let mut carrier = Url::parse("form:").ok()?;
    carrier.query_pairs_mut().extend_pairs(pairs);
    carrier.query().map(str::to_owned)
}

/// A token, and how long it is valid.
pub(crate) struct Token {
    pub(crate) token: String,
    pub(crate) life: Duration,
}

/// Reads the answer of a token server: the first token that is not empty; at least a minute.
pub(crate) fn answer(body: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Value>,
        access_token: Option<Value>,
        expires_in: Option<Value>,
    }
    // The message of the parser could quote a token.
    let answer: Answer = json::parse(body, "token").ok()?;
    let tokens = [answer.token, answer.access_token];
    let token = tokens.iter().flatten().filter_map(Value::as_str).find(|token| header(token).is_some())?.to_owned();
    let life = answer.expires_in.and_then(|life| life.as_u64()).map_or(LIFE_MIN, Duration::from_secs);
    Some(Token { token, life: life.max(LIFE_MIN) })
}
