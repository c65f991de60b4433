//! The HTTP client with its TLS: the authorities that servers are believed by.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, limits, text};
use crate::fetch::certificate::Verifier;
use crate::fetch::options::{ClientCertificate, FetchOptions};
use crate::fetch::proxy::Proxies;

/// Files with all certificate authorities of a system, the first that is there (Go, `crypto/x509/root_linux.go`).
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Folders with a file for each (the same source).
const FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Makes `ring` the cryptography of every TLS connection of this process.
pub fn use_ring() {
    // An error means that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The servers that an HTTP client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Those without TLS.
    Plain,
    /// Any with TLS.
    Any,
    /// The source of releases, which sees the client certificate.
    Source,
}

/// Verifies servers by the authorities of system and settings. To read them costs more than all the rest of a check.
///
/// # Errors
/// 78 for a file of the settings that cannot be used.
pub(super) fn verifier(options: &FetchOptions) -> Result<Arc<Verifier>> {
    let authorities = Arc::new(authorities(system_authorities(), options.registry_ca.as_deref())?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(authorities, provider).build();
    Ok(Arc::new(Verifier(verifier.context(Reason::Tls, "set up TLS")?)))
}

/// Makes the HTTP client for these servers. Without a verifier, none with TLS is trusted.
///
/// # Errors
/// 78 for files of the settings that cannot be used.
pub(super) fn http(
    options: &FetchOptions,
    proxies: &Arc<Proxies>,
    peer: Peer,
    verifier: Option<Arc<Verifier>>,
) -> Result<reqwest::Client> {
    use_ring();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context(Reason::Tls, "set up TLS")?;
    let tls = match verifier {
        Some(verifier) => tls.dangerous().with_custom_certificate_verifier(verifier),
        None => tls.with_root_certificates(rustls::RootCertStore::empty()),
    };
    let tls = match &options.client_certificate {
        Some(files) if peer == Peer::Source => identified(tls, files)?,
        _ => tls.with_no_client_auth(),
    };
    let proxies = proxies.clone();
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // Publishers find the version of an agent by this text in its program, so it has an end of its own.
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), " (linux)"))
        // Followed in `answer`, which knows what may be sent where.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        // The environment is read in `proxy`.
        .proxy(reqwest::Proxy::custom(move |url| proxies.of(url).cloned()))
        .connect_timeout(options.patience.connect);
    http.build().map_err(|e| {
        Error::new(Reason::HttpClient, format!("cannot use the network: {}", text::escape(&e.to_string())))
    })
}

/// Adds the client certificate. Nothing of the key is in an error.
fn identified(
    tls: rustls::ConfigBuilder<rustls::ClientConfig, WantsClientCert>,
    files: &ClientCertificate,
) -> Result<rustls::ClientConfig> {
    let bad = |setting: &str, file: &Path, why: &dyn fmt::Display| {
        let message = format!("{setting} {}: {}", file.display(), text::escape(&why.to_string()));
        Error::new(Reason::BadCredentials, message)
    };
    let limit = limits::CLIENT_CERTIFICATE_BYTES;
    let missing = |setting: &str, file: &Path| {
        bad(setting, file, &"it is not there")
            .remedy(format!("Put the file there, or remove {setting} from the settings."))
    };
    let certificate = |why: &dyn fmt::Display| {
        bad("registry_cert", &files.certificate, why)
            .remedy("Name a PEM file with the client certificate, and after it its chain.")
    };
    let pem = files::read_linked(&files.certificate, limit, Reason::BadCredentials)?
        .ok_or_else(|| missing("registry_cert", &files.certificate))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|e| certificate(&e))?;
    if chain.is_empty() {
        return Err(certificate(&"no certificate in it"));
    }
    let key = |why: &dyn fmt::Display, remedy: &str| bad("registry_key", &files.key, why).remedy(remedy);
    let pem = files::read_secret(&files.key, limit, Reason::BadCredentials)?
        .ok_or_else(|| missing("registry_key", &files.key))?;
    if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
        let remedy = "Decrypt it into a file that only root can read: (umask 077; openssl pkey -in KEY -out FILE).";
        return Err(key(&"it is encrypted", remedy));
    }
    let unusable = "Name a PEM file with the private key of registry_cert: PKCS#8, PKCS#1 or SEC1.";
    // The parser's own words could quote the file.
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| key(&"no private key in it", unusable))?;
    tls.with_client_auth_cert(chain, private).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => key(
            &format_args!("it is not the key of {}", files.certificate.display()),
            "Replace both files. A run in between ends with this error and changes nothing.",
        ),
        rustls::Error::InvalidCertificate(e) => bad("registry_cert", &files.certificate, &e).remedy(
            "Issue it as an X.509 certificate of version 3, with at least one extension (openssl x509 -req -extfile FILE \
             with extendedKeyUsage=clientAuth).",
        ),
        e => key(&e, unusable),
    })
}

/// The certificate authorities of this system, of `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are set. A file that is not
/// trusted, too long or no file at all does not count, and none holds this program up.
#[must_use]
pub fn system_authorities() -> Vec<CertificateDer<'static>> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_set = set("SSL_CERT_FILE").or_else(|| set("SSL_CERT_DIR")).is_some();
    let (bundle, folders): (_, Vec<_>) = match (set("SSL_CERT_FILE"), set("SSL_CERT_DIR")) {
        (None, None) => {
            let there = BUNDLES.iter().map(PathBuf::from).find(|bundle| bundle.exists());
            (there, FOLDERS.iter().map(PathBuf::from).collect())
        }
        (bundle, folders) => {
            (bundle.map(PathBuf::from), folders.iter().flat_map(|all| std::env::split_paths(all)).collect())
        }
    };
    let mut found = BTreeMap::new();
    for file in bundle.into_iter().chain(folders.iter().flat_map(|folder: &PathBuf| entries(folder))) {
        if let Err(why) = add_authorities(&file, &mut found) {
            // A person named it; a store of the system has files of other kinds, too.
            let level = if is_set { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "certificate store: {why}");
        }
    }
    let mut certificates: Vec<_> = found.into_values().flatten().collect();
    certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    certificates
}

/// Files of a folder of certificates, in the order of their names. Folders in it are of no interest, as for OpenSSL: Debian's
/// store has one of Java's.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = entries.filter(|entry| !entry.is_dir()).take(limits::AUTHORITY_FILES).collect();
    files.sort();
    files
}

/// Adds the certificates of a file, if they are not there by another name.
fn add_authorities(file: &Path, found: &mut BTreeMap<PathBuf, Vec<CertificateDer<'static>>>) -> Result<()> {
    let Some(real) = files::resolve(file, Reason::UnsafeFile)?.filter(|real| !found.contains_key(real)) else {
        return Ok(());
    };
    let pem = files::read(&real, limits::AUTHORITIES_BYTES, Reason::UnsafeFile)?.unwrap_or_default();
    found.insert(real, CertificateDer::pem_slice_iter(&pem).flatten().collect());
    Ok(())
}

/// The system's certificate authorities, or those known to browsers where the system has none, and the given ones.
fn authorities(system: Vec<CertificateDer<'_>>, registry_ca: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(system);
    if store.is_empty() {
        log::debug!("no certificate store in this system: using the built-in one");
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
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
        let (built_in, certificates) = (webpki_roots::TLS_SERVER_ROOTS, webpki_root_certs::TLS_SERVER_ROOT_CERTS);
        assert_eq!(authorities(vec![], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![CertificateDer::from(vec![0])], None).unwrap().len(), built_in.len());
        assert_eq!(authorities(vec![certificates[0].clone()], None).unwrap().len(), 1);
    }
}
