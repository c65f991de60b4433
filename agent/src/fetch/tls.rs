//! The HTTP client with its TLS: the authorities that servers are believed by.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, limits, text};
use crate::fetch::answer::cause;
use crate::fetch::options::FetchOptions;

/// Makes `ring` the cryptography of every TLS connection of this process.
pub fn use_ring() {
    // An error means that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What speaks to servers. Without `secure` it knows no authority: reading a certificate store costs more than all the rest
/// of a check.
pub(super) fn http(options: &FetchOptions, secure: bool) -> Result<reqwest::Client> {
    use_ring();
    let authorities = if secure {
        authorities(system_authorities(), options.registry_ca.as_deref())?
    } else {
        rustls::RootCertStore::empty()
    };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context(Reason::Tls, "set up TLS")?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let mut http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // Followed in `answer`, which knows what may be sent where.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(options.patience.connect);
    if !options.proxies {
        http = http.no_proxy();
    }
    http.build().map_err(|e| Error::new(Reason::HttpClient, format!("cannot use the network: {}", cause(&e))))
}

fn system_authorities() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for e in found.errors {
        log::debug!("certificate store: {}", text::escape(&e.to_string()));
    }
    found.certs
}

/// The system's certificate authorities, or those known to browsers where the system has none, and the given ones.
fn authorities(system: Vec<CertificateDer<'_>>, registry_ca: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(system);
    if store.is_empty() {
        log::debug!("no certificate store in this system: using the built-in one");
        store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    let Some(file) = registry_ca else { return Ok(store) };
    let bad = |why: &dyn fmt::Display| {
        let message = format!("registry_ca {}: {}", file.display(), text::escape(&why.to_string()));
        Error::new(Reason::BadCa, message).remedy("Name a PEM file with the certificate of the authority.")
    };
    // Certificate stores consist of links.
    let pem =
        files::read_linked(file, limits::AUTHORITIES_BYTES, Reason::BadCa)?.ok_or_else(|| bad(&"it is not there"))?;
    let mut added = false;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        store.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
        added = true;
    }
    if added { Ok(store) } else { Err(bad(&"no certificate in it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal initramfs has no /etc/ssl.
    #[test]
    fn a_system_without_certificates_has_the_built_in_ones() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        assert_eq!(authorities(vec![], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![CertificateDer::from(vec![0])], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![built_in[0].clone()], None).unwrap().len(), 1);
    }
}
