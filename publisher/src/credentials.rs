//! Who we are to a registry: from the environment, else from docker's configuration. Never from the command line, where
//! every process of the machine can read it, and never in a message.

use std::collections::BTreeMap;
use std::env::{self, VarError};
use std::path::PathBuf;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, text};

/// Docker's configuration, in bytes.
const DOCKER_CONFIG_BYTES: u64 = 1 << 20;

/// User name; with [`PASSWORD`] it comes before docker's configuration.
pub const USER: &str = "KUBESOLO_RELEASE_USER";
/// Password or access token.
pub const PASSWORD: &str = "KUBESOLO_RELEASE_PASSWORD";

/// The registry (`host[:port]`) that these two are for. Default: the first registry of the command.
pub const HOST: &str = "KUBESOLO_RELEASE_HOST";

/// Finds the credentials for a registry (`host[:port]`); anonymous if there are none.
///
/// # Errors
/// 78 when the variables or docker's configuration cannot be used.
pub fn find(registry: &str) -> Result<RegistryAuth> {
    // A process runs one command.
    static FIRST: OnceLock<String> = OnceLock::new();
    let first = FIRST.get_or_init(|| registry.to_owned());
    match (env::var(USER), env::var(PASSWORD)) {
        (Ok(user), Ok(password)) => {
            let owner = match env::var(HOST) {
                Ok(owner) if !owner.is_empty() => owner,
                Ok(_) | Err(VarError::NotPresent) => first.clone(),
                Err(VarError::NotUnicode(_)) => return Err(config(format!("{HOST} is not text"))),
            };
            if host(&owner) == host(registry) {
                return Ok(RegistryAuth::Basic(user, password));
            }
            log::info!("{USER} and {PASSWORD} are for {}, not for {registry}", text::escape(&owner));
        }
        (Err(_), Err(_)) => {}
        _ => return Err(config(format!("set {USER} and {PASSWORD} together, as text"))),
    }
    let Some(path) = docker_config() else { return Ok(RegistryAuth::Anonymous) };
    let text = match files::read_data(&path, DOCKER_CONFIG_BYTES) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        Err(e) => return Err(e).context(Reason::BadCredentials, format!("read {}", path.display())),
    };
    from_docker_config(&text, registry).map_err(|e| e.context(path.display()))
}

fn docker_config() -> Option<PathBuf> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| env::home_dir().map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

fn from_docker_config(text: &[u8], registry: &str) -> Result<RegistryAuth> {
    // serde's message could quote a secret: it is left out.
    let parsed: DockerConfig = serde_json::from_slice(text)
        .map_err(|e| config(format!("not docker's configuration (line {}, column {})", e.line(), e.column())))?;
    let entry = parsed.auths.into_iter().find(|(name, _)| host(name) == host(registry)).map(|(_, entry)| entry);
    match entry {
        Some(Entry { auth: Some(auth), .. }) if !auth.is_empty() => {
            let pair = STANDARD.decode(&auth).ok().and_then(|pair| String::from_utf8(pair).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let (user, password) =
                pair.ok_or_else(|| config(format!("the auth of {registry} is not user:password in base64")))?;
            Ok(RegistryAuth::Basic(user.into(), password.into()))
        }
        Some(Entry { username: Some(user), password: Some(password), .. }) => Ok(RegistryAuth::Basic(user, password)),
        _ => {
            if parsed.creds_store.is_some() || parsed.cred_helpers.keys().any(|name| host(name) == host(registry)) {
                log::warn!(
                    "docker keeps the credentials of {registry} in a helper program, which is not supported; \
                     continuing without credentials: set {USER} and {PASSWORD}"
                );
            }
            Ok(RegistryAuth::Anonymous)
        }
    }
}

/// Docker writes a registry as `host`, `https://host` or, for its own, `https://index.docker.io/v1/`.
fn host(name: &str) -> &str {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    match name.split('/').next() {
        Some("docker.io" | "registry-1.docker.io") => "index.docker.io",
        Some(host) => host,
        None => name,
    }
}

fn config(message: String) -> Error {
    Error::new(Reason::BadCredentials, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubesolo_update::base::error::Exit;

    fn basic(user: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic(user.into(), password.into())
    }

    #[test]
    fn an_entry_is_found_by_host() {
        let text = br#"{"auths": {"https://example.org/v2/": {"auth": "dTpwOnc="}, "other:5000": {"username": "a", "password": "b"}}}"#;
        assert_eq!(from_docker_config(text, "example.org").unwrap(), basic("u", "p:w"));
        assert_eq!(from_docker_config(text, "other:5000").unwrap(), basic("a", "b"));
        assert_eq!(from_docker_config(text, "other").unwrap(), RegistryAuth::Anonymous);
    }

    #[test]
    fn dockers_own_registry_has_its_old_name() {
        let text = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}"#;
        assert_eq!(from_docker_config(text, "index.docker.io").unwrap(), basic("u", "p"));
        assert_eq!(from_docker_config(text, "docker.io").unwrap(), basic("u", "p"));
    }

    #[test]
    fn a_broken_entry_is_an_error_that_keeps_the_secret() {
        for text in [&br#"{"auths": {"h": {"auth": "secret!"}}}"#[..], br#"{"auths": {"h": "secret!"}}"#] {
            let error = from_docker_config(text, "h").unwrap_err();
            assert_eq!(error.exit(), Exit::Config);
            assert!(!error.message.contains("secret"), "{error}");
        }
    }
}
