//! The source that the settings name.

use crate::base::error::{Error, Reason, Result};
use crate::config::{Config, DEFAULT_TAG, Origin};
use crate::fetch::login::Logins;
use crate::fetch::options::{Authentication, ClientCertificate, FetchOptions, Patience, Rights};
use crate::source::source::Source;
use crate::source::{bundle, http, oci};

/// The source that the settings name.
///
/// # Errors
/// 78 when they name none, or one that cannot be used.
pub fn open(config: &Config) -> Result<Box<dyn Source>> {
    open_as(config, authentication(config)?)
}

/// The same with these logins, in place of those that the settings name.
///
/// # Errors
/// As for [`open`].
pub fn open_as(config: &Config, authentication: Authentication) -> Result<Box<dyn Source>> {
    let options = FetchOptions { authentication, ..network(config) };
    match &config.source {
        Some(Origin::Oci(reference)) => {
            let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
            Ok(Box::new(oci::OciSource::new(&options, reference, config.tag.as_deref(), default_tag)?))
        }
        Some(Origin::Http(server)) => {
            Ok(Box::new(http::HttpSource::new(&options, server, config.legacy_file_signatures)?))
        }
        Some(Origin::Bundle(file)) => {
            let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
            Ok(Box::new(bundle::BundleSource::open(file, config.tag.as_deref(), default_tag)?))
        }
        None => Err(Error::new(Reason::NoSource, "no source of releases is set")
            .remedy("Use --registry host/path, --server URL or --bundle FILE, or set registry= or server=.")),
    }
}

/// The settings of the network, without a login.
#[must_use]
pub fn network(config: &Config) -> FetchOptions {
    let client_certificate = config.registry_cert.clone().zip(config.registry_key.clone());
    FetchOptions {
        registry_ca: config.registry_ca.clone(),
        client_certificate: client_certificate.map(|(certificate, key)| ClientCertificate { certificate, key }),
        plain_http: config.plain_http.clone(),
        proxy: config.proxy.clone(),
        no_proxy: config.no_proxy.clone(),
        authentication: Authentication::default(),
        registry_mirrors: config.registry_mirror.clone(),
        server_mirrors: config.server_mirror.clone(),
        max_rate: config.max_rate,
        patience: Patience { documents: config.registry_timeout, ..Patience::default() },
    }
}

/// The logins of this run, read again each time; none for a bundle.
fn authentication(config: &Config) -> Result<Authentication> {
    if matches!(config.source, None | Some(Origin::Bundle(_))) {
        return Ok(Authentication::default());
    }
    Ok(Authentication {
        logins: Logins::of_device(config.registry_auth.as_deref())?,
        token_hosts: config.registry_auth_hosts.clone(),
        token_cache: config.registry_token_cache.clone(),
        rights: Rights::Pull,
    })
}
