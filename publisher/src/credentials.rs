//! The logins of a publisher: from the environment, else from the files of docker and podman. Never from the command line,
//! where every process of the machine can read it, and never in a message.

use std::env::{self, VarError};
use std::path::PathBuf;
use std::sync::OnceLock;

use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits};
use kubesolo_update::fetch::login::{Login, Logins};

/// User name; with [`PASSWORD`] it comes before the files.
pub const USER: &str = "KUBESOLO_RELEASE_USER";
/// Password or access token.
pub const PASSWORD: &str = "KUBESOLO_RELEASE_PASSWORD";

/// The registry (`host[:port]`) that these two are for. Default: the first registry of the command.
pub const HOST: &str = "KUBESOLO_RELEASE_HOST";

/// The logins of this command. `registry` (`host[:port]`) is the one that it opens now: the variables are for the first one,
/// unless they name another.
///
/// # Errors
/// 78 when the variables or a file cannot be used.
pub fn logins(registry: &str) -> Result<Logins> {
    // A process runs one command.
    static FIRST: OnceLock<String> = OnceLock::new();
    let first = FIRST.get_or_init(|| registry.to_owned());
    let mut logins = match (env::var(USER), env::var(PASSWORD)) {
        (Ok(user), Ok(password)) => {
            let owner = match env::var(HOST) {
                Ok(owner) if !owner.is_empty() => owner,
                Ok(_) | Err(VarError::NotPresent) => first.clone(),
                Err(VarError::NotUnicode(_)) => return Err(config(format!("{HOST} is not text"))),
            };
            Logins::one(&owner, Login::Password { user, password }, &format!("{USER} and {PASSWORD}"))?
        }
        (Err(VarError::NotPresent), Err(VarError::NotPresent)) => Logins::default(),
        _ => return Err(config(format!("set {USER} and {PASSWORD} together, as text"))),
    };
    for path in files() {
        let content = match files::read_data(&path, limits::LOGINS_BYTES) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(Reason::BadCredentials, format!("read {}", path.display())),
        };
        logins.extend(Logins::parse(&content, &path.display().to_string())?);
    }
    Ok(logins)
}

/// The places of podman (containers-auth.json(5)) and docker, the first of which counts most. They are the user's own files,
/// often laid out by a CI system with owners and modes of its choice: these do not count.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = env::home_dir();
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    let podman = variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers"));
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let podman_config = config.map(|folder| folder.join("containers"));
    let in_folder = |folder: Option<PathBuf>, name: &str| folder.map(|folder| folder.join(name));
    [
        variable("REGISTRY_AUTH_FILE"),
        in_folder(docker, "config.json"),
        in_folder(podman, "auth.json"),
        in_folder(podman_config, "auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn config(message: String) -> Error {
    Error::new(Reason::BadCredentials, message)
}
