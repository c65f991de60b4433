//! Logins to registries, as docker, podman and Kubernetes keep them in files.
//!
//! | file | form | source |
//! |---|---|---|
//! | docker's `config.json` | `{"auths": {KEY: ENTRY}, "credsStore": …, "credHelpers": …}` | docker/cli, `cli/config/configfile` |
//! | `auth.json` of podman and skopeo | the same; a key may have a path | containers-auth.json(5) |
//! | `.dockerconfigjson` of Kubernetes | the same | kubernetes.io/dockerconfigjson |
//! | `.dockercfg` of Kubernetes | `{KEY: ENTRY}` | kubernetes.io/dockercfg |
//!
//! No message has a password, a token or what such a file says of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde_json::{Map, Value};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{files, json, limits, text};

/// As Go reads it, and without padding too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The names of Docker Hub: in references, of its server, and those that docker gave it in its configuration.
const DOCKER_HUB: [&str; 3] = ["docker.io", "registry-1.docker.io", "index.docker.io"];
/// The credential of systemd with the logins.
const CREDENTIAL: &str = "registry-auth";
/// The place of the logins without a setting.
const DEFAULT: &str = "/etc/kubesolo/registry-auth.json";
/// The members that make an entry one of a login.
const MEMBERS: [&str; 5] = ["auth", "username", "password", "identitytoken", "registrytoken"];

/// The proof of an account to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user name and a password, or an access token in its place.
    Password {
        /// Name of the account; it has no colon.
        user: String,
        /// The secret.
        password: String,
    },
    /// A refresh token, which only a token server takes.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
            Self::Bearer(_) => "Bearer",
        })
    }
}

impl Login {
    /// The `Authorization` header with it, for the server that may have it. A refresh token has none.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let value = match self {
            Self::Password { user, password } => format!("Basic {}", BASE64.encode(format!("{user}:{password}"))),
            Self::Bearer(token) => format!("Bearer {token}"),
            Self::Identity(_) => return None,
        };
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The parts that no message may have.
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Password { user, password } => {
                vec![password.clone(), BASE64.encode(format!("{user}:{password}"))]
            }
            Self::Identity(token) | Self::Bearer(token) => vec![token.clone()],
        }
    }

    /// A name of the account that is no secret: the user, or the digest of a token.
    #[must_use]
    pub fn who(&self) -> String {
        match self {
            Self::Password { user, .. } => format!("user {user}"),
            Self::Identity(token) | Self::Bearer(token) => Digest::of(token.as_bytes()).to_string(),
        }
    }
}

/// The logins of one run, each for a host or a part of it.
#[derive(Clone, Default)]
pub struct Logins(Vec<Entry>);

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.name)).finish()
    }
}

#[derive(Clone)]
struct Entry {
    place: Place,
    /// The key in its file, and the file.
    name: String,
    held: Held,
}

#[derive(Clone)]
enum Held {
    Login(Login),
    /// Another program has it.
    Helper(String),
}

/// The login of one repository, with the place that it was read from.
#[derive(Clone, Debug)]
pub struct Found {
    /// The login.
    pub login: Login,
    /// Key and file.
    pub name: String,
}

/// The part of a registry that a key stands for.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    host: String,
    /// `None`: the port of the scheme.
    port: Option<u16>,
    /// The first part of repositories; empty for all of them.
    path: String,
}

impl Place {
    /// Reads `host[:port][/path]`, or a URL, which stands for its host. A path `v1` or `v2` is that of the interface.
    fn parse(key: &str) -> Option<Self> {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let (server, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
        let path = path.trim_matches('/');
        let interface = matches!(path.split('/').next(), Some("v1" | "v2"));
        let url = Url::parse(&format!("http://{server}/")).ok()?;
        let port = if server.ends_with(":80") { Some(80) } else { url.port() };
        let host = host(url.host_str().filter(|_| url.username().is_empty() && url.password().is_none())?);
        Some(Self { host, port, path: if bare.is_some() || interface { String::new() } else { path.to_owned() } })
    }

    fn is_server(&self, url: &Url) -> bool {
        let port = self.port.or(if url.scheme() == "http" { Some(80) } else { Some(443) });
        url.host_str().is_some_and(|name| host(name) == self.host) && url.port_or_known_default() == port
    }
}

/// One name for Docker Hub.
fn host(name: &str) -> String {
    if DOCKER_HUB.contains(&name) { DOCKER_HUB[0].to_owned() } else { name.to_owned() }
}

impl Logins {
    /// One login for all repositories of `host[:port]`; `name` says where it comes from.
    ///
    /// # Errors
    /// 78 for a host or a password that cannot be.
    pub fn one(server: &str, login: Login, name: &str) -> Result<Self> {
        let place = Place::parse(server).filter(|place| place.path.is_empty());
        let place = place.ok_or_else(|| bad(name, &format!("\"{}\" is not a registry", text::escape(server))))?;
        let login = checked(login).map_err(|why| bad(name, why))?;
        Ok(Self(vec![Entry { place, name: name.to_owned(), held: Held::Login(login) }]))
    }

    /// Reads the content of a file in one of the forms above; `name` is that of the file.
    ///
    /// # Errors
    /// 78 when it has none of these forms, or an entry that cannot be used.
    pub fn parse(content: &[u8], name: &str) -> Result<Self> {
        // The message of the parser could quote a secret.
        let content: Map<String, Value> =
            json::parse(content, name).map_err(|_| bad(name, "it is not a JSON object, or a key is there twice"))?;
        let modern = ["auths", "credsStore", "credHelpers"].iter().any(|member| content.contains_key(*member));
        let empty = Map::new();
        let object = |member: &str| match content.get(member) {
            None | Some(Value::Null) => Ok(&empty),
            Some(Value::Object(object)) => Ok(object),
            Some(_) => Err(bad(name, &format!("its {member} is not an object"))),
        };
        let store = content.get("credsStore").and_then(Value::as_str).filter(|store| !store.is_empty());
        let (keys, helpers) = if modern { (object("auths")?, object("credHelpers")?) } else { (&content, &empty) };
        let mut entries = BTreeMap::new();
        for (key, helper) in helpers {
            let helper = helper.as_str().unwrap_or_default();
            entries.insert(key, Some(Held::Helper(helper.to_owned())));
        }
        for (key, value) in keys {
            let at = |why: &str| bad(name, &format!("the entry of \"{}\" {why}", text::escape(key)));
            let Some(value) = value.as_object() else {
                // Other members that docker keeps beside its entries.
                if modern { return Err(at("is not an object")) } else { continue }
            };
            if !modern && !value.is_empty() && !MEMBERS.iter().any(|member| value.contains_key(*member)) {
                continue;
            }
            let held = entry(value).map_err(at)?.map(Held::Login);
            let held = held.or_else(|| store.map(|store| Held::Helper(store.to_owned())));
            let known = entries.entry(key).or_insert(None);
            *known = held.or(known.take());
        }
        let entries = entries.into_iter().filter_map(|(key, held)| Some((key, held?)));
        let named = |key: &str| format!("\"{}\" in {name}", text::escape(key));
        let entries =
            entries.filter_map(|(key, held)| Some(Entry { place: Place::parse(key)?, name: named(key), held }));
        Ok(Self(entries.collect()))
    }

    /// Reads a file that only root or this user can read.
    ///
    /// # Errors
    /// 78 when others can read or write it, or as [`Logins::parse`].
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let content = files::read_secret(path, limits::LOGINS_BYTES, Reason::BadCredentials)?;
        content.map(|content| Self::parse(&content, &path.display().to_string())).transpose()
    }

    /// The logins of a device: of the file that the settings name, else of the first default place that has one. systemd gives
    /// a service its credentials in a folder of `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    ///
    /// # Errors
    /// As [`Logins::read`]; 78 when the settings name a file that is missing.
    pub fn of_device(set: Option<&Path>) -> Result<Self> {
        if let Some(path) = set {
            let missing = || bad(&path.display().to_string(), "the file of registry_auth= is missing");
            return Self::read(path)?.ok_or_else(missing);
        }
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(CREDENTIAL));
        for path in credential.iter().map(PathBuf::as_path).chain([Path::new(DEFAULT)]) {
            if let Some(logins) = Self::read(path)? {
                return Ok(logins);
            }
        }
        Ok(Self::default())
    }

    /// Adds logins that count where these have none.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// The login for a repository of the server of `url`: of the longest key that is a part of the repository's path. A login
    /// that another program has is reported, and not used.
    #[must_use]
    pub fn find(&self, url: &Url, repository: &str) -> Option<Found> {
        let mut path = repository;
        loop {
            let here = self.0.iter().filter(|entry| entry.place.path == path && entry.place.is_server(url));
            let (mut helper, mut login) = (None, None);
            for entry in here {
                match &entry.held {
                    Held::Login(found) if login.is_none() => login = Some((found, &entry.name)),
                    Held::Helper(name) if helper.is_none() => helper = Some((name, &entry.name)),
                    _ => {}
                }
            }
            if let Some((login, name)) = login {
                return Some(Found { login: login.clone(), name: name.clone() });
            }
            if let Some((program, name)) = helper {
                log::warn!(
                    "the login of {name} is kept by the credential helper \"{}\", which this program does not run; \
                     continuing without a login",
                    text::escape(program)
                );
                return None;
            }
            if path.is_empty() {
                return None;
            }
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
}

/// The login of an entry; `None` if it has none.
fn entry(value: &Map<String, Value>) -> std::result::Result<Option<Login>, &'static str> {
    let member = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err("has a member that is not text"),
    };
    let [auth, user, password, identity, token] =
        ["auth", "username", "password", "identitytoken", "registrytoken"].map(member);
    let (auth, user, password) = (auth?, user?, password?);
    let login = match (token?, identity?, auth, user) {
        (Some(token), ..) => Login::Bearer(token),
        (None, Some(identity), ..) => Login::Identity(identity),
        (None, None, Some(auth), _) => {
            let pair = BASE64.decode(auth.trim()).ok().and_then(|pair| String::from_utf8(pair).ok());
            // Docker pads with NUL.
            let pair = pair.as_deref().map(|pair| pair.trim_end_matches('\0'));
            let (user, password) =
                pair.and_then(|pair| pair.split_once(':')).ok_or("has an auth that is not user:password in base64")?;
            Login::Password { user: user.to_owned(), password: password.to_owned() }
        }
        (None, None, None, Some(user)) => Login::Password { user, password: password.unwrap_or_default() },
        (None, None, None, None) if password.is_some() => return Err("has a password without a username"),
        (None, None, None, None) => return Ok(None),
    };
    checked(login).map(Some)
}

/// Refuses a login that no server can take, or that a careless line of shell made.
fn checked(login: Login) -> std::result::Result<Login, &'static str> {
    match &login {
        Login::Password { user, password } => {
            if user.is_empty() || user.contains(':') || user.contains(char::is_control) {
                return Err("has a user name that is empty or has a colon or a control character");
            }
            if password.ends_with(['\n', '\r']) || password.contains('\0') {
                return Err("has a password with a NUL, or with a line break at its end (printf writes none)");
            }
        }
        Login::Identity(token) | Login::Bearer(token) => {
            if token.is_empty() || token.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
                return Err("has a token with a blank or a control character");
            }
        }
    }
    Ok(login)
}

fn bad(name: &str, why: &str) -> Error {
    Error::new(Reason::BadCredentials, format!("cannot use the logins of {name}: {why}"))
        .remedy("Write it as docker's config.json; docs/operating.md has the forms.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Exit;
    use proptest::prelude::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.into(), password: password.into() })
    }

    fn find(file: &str, server: &str, repository: &str) -> Option<Login> {
        let logins = Logins::parse(file.as_bytes(), "file").unwrap();
        logins.find(&Url::parse(server).unwrap(), repository).map(|found| found.login)
    }

    #[test]
    fn the_most_specific_key_counts() {
        let file = r#"{"auths": {
            "r.example": {"username": "all", "password": "1"}, "r.example/ns": {"username": "ns", "password": "2"},
            "r.example/ns/os": {"username": "os", "password": "3"}, "other.example/ns/os": {"username": "x", "password": "4"}}}"#;
        for (repository, user) in [("os", "all"), ("ns", "ns"), ("ns/os", "os"), ("ns/os/more", "os"), ("ns/osx", "ns")]
        {
            let found = find(file, "https://r.example/v2/", repository);
            assert!(matches!(found, Some(Login::Password { user: found, .. }) if found == user), "{repository}");
        }
    }

    #[test]
    fn a_key_stands_for_one_host_and_port() {
        let entry = r#"{"auth": "dTpwOnc="}"#;
        for (key, server) in [
            ("https://example.org/v2/", "https://example.org/"),
            ("http://example.org", "https://example.org/"),
            ("example.org/v1/", "https://example.org/"),
            ("Example.ORG", "https://example.org:443/"),
            ("example.org:5000", "http://example.org:5000/"),
            ("example.org:443", "https://example.org/"),
            ("example.org:80", "http://example.org/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("https://index.docker.io/v1/", "https://registry-1.docker.io/"),
            ("docker.io", "https://registry-1.docker.io/"),
            ("registry-1.docker.io", "https://index.docker.io/"),
        ] {
            let file = format!("{{\"auths\": {{\"{key}\": {entry}}}}}");
            assert_eq!(find(&file, server, "ns/os"), password("u", "p:w"), "{key}");
            // The same without the frame: a dockercfg.
            assert_eq!(find(&format!("{{\"{key}\": {entry}}}"), server, "os"), password("u", "p:w"), "{key}");
            for other in [
                "https://example.org:5001/",
                "https://sub.example.org/",
                "https://evil.example/",
                "https://docker.io.evil/",
            ] {
                assert_eq!(find(&file, other, "ns/os"), None, "{key} {other}");
            }
        }
        for odd in ["", "*", "user:password@example.org", "example.org:99999", "exa mple.org"] {
            assert_eq!(
                find(&format!("{{\"auths\": {{\"{odd}\": {entry}}}}}"), "https://example.org/", "os"),
                None,
                "{odd}"
            );
        }
    }

    #[test]
    fn each_kind_of_entry_is_read() {
        for (entry, login) in [
            (r#"{"auth": "dTpw"}"#, password("u", "p")),
            (r#"{"auth": "dTpwAAA=", "email": "x"}"#, password("u", "p")),
            (r#"{"auth": "dTo"}"#, password("u", "")),
            (r#"{"username": "_json_key", "password": "{\n}"}"#, password("_json_key", "{\n}")),
            (r#"{"auth": "MDA6", "identitytoken": "refresh"}"#, Some(Login::Identity("refresh".into()))),
            (r#"{"registrytoken": "ready", "auth": "dTpw"}"#, Some(Login::Bearer("ready".into()))),
            (r#"{"auth": "", "identitytoken": null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(
                find(&format!(r#"{{"auths": {{"h.example": {entry}}}}}"#), "https://h.example/", "os"),
                login,
                "{entry}"
            );
        }
        assert_eq!(find("{}", "https://h.example/", "os"), None);
        assert_eq!(find(r#"{"auths": null, "psFormat": "x"}"#, "https://h.example/", "os"), None);
    }

    #[test]
    fn a_credential_helper_gives_no_login_and_is_no_error() {
        for file in [
            r#"{"auths": {"h.example": {}}, "credsStore": "desktop"}"#,
            r#"{"credHelpers": {"h.example": "ecr-login"}}"#,
            r#"{"auths": {"h.example": {}}, "credHelpers": {"h.example": "ecr-login"}}"#,
        ] {
            assert_eq!(find(file, "https://h.example/", "os"), None, "{file}");
        }
        let both = r#"{"auths": {"h.example": {"auth": "dTpw"}}, "credHelpers": {"h.example": "ecr-login"}, "credsStore": "x"}"#;
        assert_eq!(find(both, "https://h.example/", "os"), password("u", "p"));
    }

    #[test]
    fn a_broken_file_is_an_error_that_keeps_the_secret() {
        for file in [
            r#"{"auths": {"h": {"auth": "secret!"}}}"#,
            r#"{"auths": {"h": "secret!"}}"#,
            r#"{"auths": {"h": {"auth": 5, "password": "secret!"}}}"#,
            r#"{"auths": "secret!"}"#,
            r#"{"auths": {"h": {"password": "secret!"}}}"#,
            r#"{"auths": {"h": {"username": "a:b", "password": "secret!"}}}"#,
            "{\"auths\": {\"h\": {\"username\": \"a\", \"password\": \"secret!\\n\"}}}",
            "{\"auths\": {\"h\": {\"username\": \"a\", \"password\": \"sec\\u0000ret!\"}}}",
            r#"{"auths": {"h": {"registrytoken": "secret!\r\nX-Header: 1"}}}"#,
            r#"{"auths": {"h": {"auth": "dTpw"}, "h": {"auth": "secret!"}}}"#,
            r#"["secret!"]"#,
            r#"secret!"#,
        ] {
            let error = Logins::parse(file.as_bytes(), "file").unwrap_err();
            assert_eq!((error.exit(), error.reason), (Exit::Config, Reason::BadCredentials));
            assert!(!format!("{error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_debug_output_has_a_secret() {
        let file = r#"{"auths": {"a": {"auth": "dXNlcjpzZWNyZXQ="}, "b": {"identitytoken": "secret"}, "c": {"registrytoken": "secret"}}}"#;
        let logins = Logins::parse(file.as_bytes(), "file").unwrap();
        for server in ["https://a/", "https://b/", "https://c/"] {
            let found = logins.find(&Url::parse(server).unwrap(), "os").unwrap();
            let shown = format!("{found:?} {logins:?} {:?} {}", found.login.header(), found.login.who());
            assert!(!shown.contains("secret") && !shown.contains("dXNl"), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(content in "\\PC{0,80}", key in "\\PC{0,20}", auth in "[A-Za-z0-9+/=]{0,20}") {
            let _ = Logins::parse(content.as_bytes(), "file");
            let file = serde_json::json!({"auths": {(key): {"auth": auth}}}).to_string();
            if let Ok(logins) = Logins::parse(file.as_bytes(), "file") {
                let _ = logins.find(&Url::parse("https://h.example/").unwrap(), "a/b");
            }
        }
    }
}
