//! The password goes to the registry's own token server, and to no other.
//!
//! `oci-client` sends it to the realm that the registry names, whatever that is. So this module fetches the token, and
//! `oci-client` gets the token only. A registry that asks for the password itself (Basic) gets it through `oci-client`.

use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::text;
use kubesolo_update::fetch::challenge::{self, Bearer};
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};

use crate::registry::Access;

/// Longest answer of a token server, in bytes.
const TOKEN_BYTES: usize = 64 << 10;
/// Redirects that are followed, all within one origin.
const REDIRECTS: usize = 5;
/// The registry whose token server has another name by design, and that server.
const DOCKER: (&str, &str) = ("index.docker.io", "auth.docker.io");

/// The way of one login.
pub(super) struct Login<'a> {
    pub(super) access: &'a Access,
    /// `host[:port]`.
    pub(super) registry: &'a str,
    pub(super) repository: &'a str,
    pub(super) operation: RegistryOperation,
}

/// An answer of the registry or of its token server, or why the password is not sent.
type Answer<T> = std::result::Result<Result<T>, OciDistributionError>;

impl Login<'_> {
    /// What `oci-client` needs to act as this user: a token where the registry has a token server.
    pub(super) async fn exchange(&self, user: &str, password: &str) -> Answer<RegistryAuth> {
        let http = http(self.access)?;
        let scheme = if self.is_plain() { "http" } else { "https" };
        let root = format!("{scheme}://{}/v2/", self.registry);
        let root = Url::parse(&root).map_err(|e| OciDistributionError::UrlParseError(e.to_string()))?;
        let answer = http.get(root.clone()).send().await?;
        let Some(bearer) = challenge::challenge(answer.headers()).bearer else {
            let asked = answer.headers().contains_key(WWW_AUTHENTICATE);
            let basic = RegistryAuth::Basic(user.to_owned(), password.to_owned());
            return Ok(Ok(if asked { basic } else { RegistryAuth::Anonymous }));
        };
        let realm = match self.realm(&bearer, &root) {
            Ok(realm) => realm,
            Err(refused) => return Ok(Err(refused)),
        };
        let answer = http.get(realm).basic_auth(user, Some(password)).send().await?;
        let token = token(answer).await?;
        Ok(Ok(RegistryAuth::Bearer(token)))
    }

    fn is_plain(&self) -> bool {
        self.access.plain_http.iter().any(|host| host == self.registry)
    }

    /// The URL to fetch a token from, if the password may go there.
    fn realm(&self, bearer: &Bearer, root: &Url) -> Result<Url> {
        let shown = text::escape(&bearer.realm);
        let refuse = |why: &str| {
            let message = format!("{} names the token server {shown}, {why}: the password was not sent", self.registry);
            Error::new(Reason::ForeignTokenServer, message)
        };
        let mut url = root.join(&bearer.realm).map_err(|_| refuse("which is not a URL"))?;
        let host = match url.host_str() {
            Some(host) if matches!(url.scheme(), "https" | "http") => host.to_owned(),
            _ => return Err(refuse("which is not a URL of a web server")),
        };
        if url.scheme() != "https" && !self.is_plain() {
            return Err(refuse("which has no TLS").remedy("Repair the registry: its token server must use https."));
        }
        if !self.is_trusted(&host, root) {
            return Err(refuse("which is on another host")
                .remedy(format!("If {host} may get the password, add --registry-auth-host {host}.")));
        }
        let _ = url.set_username("").and_then(|()| url.set_password(None)); // cannot fail: it has a host
        url.set_fragment(None);
        let rights = match self.operation {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "pull,push",
        };
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:{rights}", self.repository));
        if let Some(service) = &bearer.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        Ok(url)
    }

    /// The registry's own host, any port; docker's token server for docker's registry; a host that the user listed.
    fn is_trusted(&self, host: &str, root: &Url) -> bool {
        let own = root.host_str() == Some(host);
        own || (self.registry, host) == DOCKER || self.access.auth_hosts.iter().any(|listed| listed == host)
    }
}

/// Follows redirects within one origin only: the password must not go elsewhere.
fn http(access: &Access) -> std::result::Result<reqwest::Client, OciDistributionError> {
    let same_origin = Policy::custom(|attempt| {
        let same = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
        if same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
    });
    let mut builder = reqwest::Client::builder().redirect(same_origin).connect_timeout(crate::registry::CONNECT_TIME);
    if let Some(path) = &access.registry_ca {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&crate::registry::authorities(path)?)?);
    }
    Ok(builder.user_agent(crate::registry::USER_AGENT).build()?)
}

async fn token(mut answer: Response) -> std::result::Result<String, OciDistributionError> {
    #[derive(serde::Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let (status, url) = (answer.status(), answer.url().to_string());
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > TOKEN_BYTES {
            let why = format!("the answer of the token server has more than {TOKEN_BYTES} bytes");
            return Err(OciDistributionError::RegistryTokenDecodeError(why));
        }
    }
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(OciDistributionError::AuthenticationFailure(String::from_utf8_lossy(&body).into_owned()));
        }
        _ => {
            let message = "the token server gave no token".to_owned();
            return Err(OciDistributionError::ServerError { code: status.as_u16(), url, message });
        }
    }
    // serde's message could quote a token: it is left out.
    let token = serde_json::from_slice(&body).ok().and_then(|token: Token| token.token.or(token.access_token));
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| OciDistributionError::RegistryTokenDecodeError("the token server's answer has no token".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(registry: &str, realm: &str, access: &Access) -> Result<Url> {
        let login = Login { access, registry, repository: "os", operation: RegistryOperation::Push };
        let scheme = if login.is_plain() { "http" } else { "https" };
        let root = Url::parse(&format!("{scheme}://{registry}/v2/")).expect("a URL");
        let bearer = Bearer { realm: realm.into(), service: Some("the service".into()), scope: None };
        login.realm(&bearer, &root)
    }

    #[test]
    fn a_token_server_is_the_registrys_own_or_listed() {
        let access = Access { auth_hosts: vec!["auth.example".into()], ..Access::default() };
        let plain = Access { plain_http: vec!["r.example".into()], ..access.clone() };
        for (registry, name, access) in [
            ("r.example", "https://r.example/token", &access),
            ("r.example:5000", "https://r.example:5001/token", &access),
            ("r.example", "/token", &access),
            ("r.example", "https://auth.example/token", &access),
            ("index.docker.io", "https://auth.docker.io/token", &access),
            ("r.example", "http://r.example/token", &plain),
            ("r.example", "http://auth.example/token", &plain),
        ] {
            let url = realm(registry, name, access).expect(name);
            assert_eq!(url.query(), Some("scope=repository%3Aos%3Apull%2Cpush&service=the+service"), "{name}");
        }
        let url = realm("r.example", "https://somebody:else@r.example/token#part", &access).expect("a URL");
        assert!(url.as_str().starts_with("https://r.example/token?"), "{url}");
    }

    #[test]
    fn no_other_token_server_gets_the_password() {
        let access = Access { auth_hosts: vec!["auth.example".into()], ..Access::default() };
        let plain = Access { plain_http: vec!["r.example".into()], ..access.clone() };
        for (registry, name, access, remedy) in [
            ("r.example", "https://evil.example/token", &access, "--registry-auth-host evil.example"),
            ("r.example", "//evil.example/token", &access, "--registry-auth-host evil.example"),
            ("r.example", "https://r.example@evil.example/", &access, "--registry-auth-host evil.example"),
            ("r.example", "https://auth.docker.io/token", &access, "--registry-auth-host auth.docker.io"),
            ("r.example", "https://x.auth.example/token", &access, "--registry-auth-host x.auth.example"),
            ("r.example", "http://evil.example/token", &plain, "--registry-auth-host evil.example"),
            ("r.example", "http://r.example/token", &access, "must use https"),
            ("r.example", "http://auth.example/token", &access, "must use https"),
            ("r.example", "ftp://r.example/token", &access, ""),
            ("r.example", "data:token", &access, ""),
        ] {
            let error = realm(registry, name, access).expect_err(name);
            assert_eq!(error.reason, Reason::ForeignTokenServer, "{name}");
            assert!(error.message.contains(name) && error.remedy.contains(remedy), "{name}: {error} {}", error.remedy);
        }
    }
}
