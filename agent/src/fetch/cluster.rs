//! One question to a Kubernetes API server, with the credentials of a kubeconfig.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Url, header};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::text;
use crate::fetch::tls::use_ring;

/// How long the whole question may take: the server is on this device, or near.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let shown = |e: &dyn std::error::Error| {
        let causes = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>();
        text::escape(&causes.join(": "))
    };
    let tls = tls(credentials)?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(|e| shown(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| shown(&e))?;
    runtime.block_on(async {
        let mut request = client.get(url).header(header::ACCEPT, accept);
        if let Some(token) = &credentials.token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(|e| shown(&e.without_url()))?;
        if !response.status().is_success() {
            return Err(format!("its answer is {}", response.status().as_u16()));
        }
        let mut body = vec![];
        while let Some(chunk) = response.chunk().await.map_err(|e| shown(&e.without_url()))? {
            if body.len() + chunk.len() > limit {
                return Err(format!("its answer has more than {limit} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    })
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
