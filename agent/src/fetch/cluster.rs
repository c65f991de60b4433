//! Questions to a Kubernetes API server, with the credentials of a kubeconfig, and to KubeSolo's own socket.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Url, header};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::text;
use crate::fetch::tls::use_ring;

/// How long a whole question may take: the server is on this device, or near.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Where the server is, and who asks.
pub(crate) struct Credentials {
    pub(crate) server: Url,
    /// PEM: the only authorities that the server is believed by.
    pub(crate) authorities: Vec<u8>,
    /// PEM: certificate and key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) token: Option<String>,
}

/// The answer to a GET, of at most `limit` bytes.
///
/// # Errors
/// Why there is none, escaped.
pub(crate) fn ask(credentials: &Credentials, url: Url, accept: &str, limit: usize) -> Result<Vec<u8>, String> {
    let line = Line::to(credentials)?;
    line.get(url, &Question { accept, limit, time: PATIENCE }).map_err(|failure| failure.to_string())
}

/// One question.
pub(crate) struct Question<'a> {
    /// The forms that the answer may have.
    pub(crate) accept: &'a str,
    /// The longest answer, in bytes.
    pub(crate) limit: usize,
    /// The longest time for the whole of it.
    pub(crate) time: Duration,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The answer has this status.
    Status(u16),
    /// The answer is longer than this number of bytes.
    TooLong(usize),
    /// Anything else, escaped.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "its answer is {status}"),
            Self::TooLong(limit) => write!(f, "its answer has more than {limit} bytes"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// A server for several questions, which share a connection.
pub(crate) struct Line {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    token: Option<String>,
}

impl Line {
    /// A line to an API server.
    ///
    /// # Errors
    /// Why the credentials cannot be used, escaped.
    pub(crate) fn to(credentials: &Credentials) -> Result<Self, String> {
        Self::new(reqwest::Client::builder(), tls(credentials)?, credentials.token.clone())
    }

    /// A line to a server on a socket of this device.
    ///
    /// # Errors
    /// Why there is none, escaped.
    pub(crate) fn on_socket(socket: &Path) -> Result<Self, String> {
        // TLS with no authority: no other server is believed.
        use_ring();
        let tls = rustls::ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Self::new(reqwest::Client::builder().unix_socket(socket), tls, None)
    }

    fn new(builder: reqwest::ClientBuilder, tls: rustls::ClientConfig, token: Option<String>) -> Result<Self, String> {
        let client = builder
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
            .map_err(|e| shown(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| shown(&e))?;
        Ok(Self { client, runtime, token })
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn get(&self, url: Url, question: &Question<'_>) -> Result<Vec<u8>, Failure> {
        self.runtime.block_on(async {
            let request = self.client.get(url).header(header::ACCEPT, question.accept).timeout(question.time);
            let mut response = self.answer(request).await?;
            let mut body = vec![];
            while let Some(chunk) = response.chunk().await.map_err(lost)? {
                if body.len() + chunk.len() > question.limit {
                    return Err(Failure::TooLong(question.limit));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        })
    }

    /// Changes an object by a merge patch (RFC 7386), within `time`. The answer is not read.
    ///
    /// # Errors
    /// Why the server did not take it.
    pub(crate) fn patch(&self, url: Url, patch: String, time: Duration) -> Result<(), Failure> {
        let request = self.client.patch(url).header(header::CONTENT_TYPE, "application/merge-patch+json");
        self.runtime.block_on(self.answer(request.body(patch).timeout(time))).map(drop)
    }

    /// The answer to a request, if it is a success.
    async fn answer(&self, mut request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(lost)?;
        if response.status().is_success() { Ok(response) } else { Err(Failure::Status(response.status().as_u16())) }
    }
}

fn lost(e: reqwest::Error) -> Failure {
    Failure::Other(shown(&e.without_url()))
}

fn shown(e: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>();
    text::escape(&causes.join(": "))
}

fn tls(credentials: &Credentials) -> Result<rustls::ClientConfig, String> {
    use_ring();
    let certificates = |pem: &[u8], what: &str| {
        let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|e| format!("{what}: {}", text::escape(&e.to_string())))?;
        if all.is_empty() { Err(format!("{what}: no certificate in it")) } else { Ok(all) }
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&credentials.authorities, "certificate authority")? {
        authorities.add(certificate).map_err(|e| format!("certificate authority: {e}"))?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(authorities);
    let Some((certificate, key)) = &credentials.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate, "client certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("client key: {}", text::escape(&e.to_string())))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| format!("client certificate: {}", text::escape(&e.to_string())))
}
