//! A stand-in for a registry's token server (CNCF Distribution, token authentication): docker-registry has none of its own. It
//! knows one account, and signs with a test key; the real registry verifies its tokens.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use super::fault::{Fault, Request, reply};
use super::registry::Registry;

/// The account that it knows, and the refresh token of it.
pub const USER: &str = "ci";
/// Its password.
pub const PASSWORD: &str = "hunter2-secret";
/// Base64 of both, as Basic has it.
pub const PAIR: &str = "Y2k6aHVudGVyMi1zZWNyZXQ=";
/// Its refresh token.
pub const REFRESH: &str = "hunter2-refresh";
/// An entry of an htpasswd file for it, of bcrypt.
const ENTRY: &str = "$2y$04$dnr762oOwwV7pDcEeTXveOWaB/IhESZWFvtMthpPC9JEeGHmTdGWu";

/// A registry that wants a login, on its storage.
pub struct Guarded {
    /// The registry.
    pub registry: Registry,
    /// The token server, where there is one.
    pub tokens: Option<Fault>,
    _folder: TempDir,
}

impl AsRef<str> for Guarded {
    fn as_ref(&self) -> &str {
        &self.registry.address
    }
}

impl Guarded {
    /// A registry that asks for user name and password itself.
    pub fn basic() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("htpasswd");
        std::fs::write(&file, format!("{USER}:{ENTRY}\n")).unwrap();
        let more = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        Self { registry: Registry::start().sibling(&more), tokens: None, _folder: folder }
    }

    /// A registry that takes the tokens of a token server.
    pub fn with_tokens() -> Self {
        let folder = TempDir::new().unwrap();
        let at = folder.path().to_owned();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-days", "2"])
            .args(["-subj", "/CN=tokens"])
            .current_dir(&at)
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl is needed: apt-get install openssl").success());
        let tokens = Fault::start(move |request, out| serve(&at, request, out));
        let more = format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: test\n    issuer: stand-in\n    rootcertbundle: {}\n",
            tokens.address,
            folder.path().join("cert").display()
        );
        Self { registry: Registry::start().sibling(&more), tokens: Some(tokens), _folder: folder }
    }

    /// All servers of it, for `plain_http=`.
    pub fn hosts(&self) -> Vec<String> {
        let tokens = self.tokens.iter().map(|tokens| tokens.address.clone());
        std::iter::once(self.registry.address.clone()).chain(tokens).collect()
    }

    /// docker's configuration with the account.
    pub fn docker_config(&self) -> String {
        json!({"auths": {(self.registry.address.clone()): {"auth": PAIR}}}).to_string()
    }
}

/// A token for a client that proves to be the account: by GET with Basic, or by POST with the password or the refresh token.
fn serve(folder: &Path, request: &Request, out: &mut TcpStream) {
    let (_, query) = request.path.split_once('?').unwrap_or_default();
    let asked = if request.method == "POST" { &request.body } else { query };
    let pairs: Vec<(String, String)> = reqwest::Url::parse(&format!("form:?{asked}"))
        .unwrap()
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let value = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let by_password = value("username") == Some(USER) && value("password") == Some(PASSWORD);
    let known = request.header("authorization") == Some(&format!("Basic {PAIR}"))
        || by_password
        || value("refresh_token") == Some(REFRESH);
    if !known {
        return reply(out, 401, "", b"{\"details\":\"incorrect username or password\"}");
    }
    let access: Vec<_> =
        pairs.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scopes)| scopes.split(' ')).collect();
    let token = token(folder, &access);
    reply(out, 200, "", json!({"token": "", "access_token": token, "expires_in": 300}).to_string().as_bytes());
}

/// A JSON web token of RS256 with its certificate, for these scopes.
fn token(folder: &Path, scopes: &[&str]) -> String {
    let pem = std::fs::read_to_string(folder.join("cert")).unwrap();
    let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(STANDARD.decode(&certificate).is_ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let access: Vec<_> = scopes
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            json!({"type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>()})
        })
        .collect();
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]}));
    let claims = json!({"iss": "stand-in", "sub": USER, "aud": "test", "exp": now + 300, "nbf": now - 10, "iat": now,
        "jti": "1", "access": access});
    let signed = format!("{head}.{}", part(&claims));
    // Two requests at a time need two files.
    static LOCK: Mutex<()> = Mutex::new(());
    let _alone = LOCK.lock().unwrap();
    std::fs::write(folder.join("signed"), &signed).unwrap();
    let done = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "key", "signed"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(done.stdout))
}
