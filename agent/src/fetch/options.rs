//! Settings of an administrator for the way to servers.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits;
use crate::config::RegistryMirror;
use crate::config::proxy::{NoProxy, ProxySetting};
use crate::fetch::login::Logins;

/// How to reach servers.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// PEM file with the certificate authorities to trust, in addition to the system's.
    pub registry_ca: Option<PathBuf>,
    /// Shown to the source of releases if its TLS asks for one, and to no other server.
    pub client_certificate: Option<ClientCertificate>,
    /// `host` or `host:port`, exactly as in the reference: spoken to without TLS. Nothing else is.
    pub plain_http: Vec<String>,
    /// The proxy of the settings; `None` means that of the environment.
    pub proxy: Option<ProxySetting>,
    /// The hosts without a proxy of the settings; `None` means those of the environment.
    pub no_proxy: Option<NoProxy>,
    /// How to prove an account to registries.
    pub authentication: Authentication,
    /// Registries that may have what the registry of the source has.
    pub registry_mirrors: Vec<RegistryMirror>,
    /// URLs of folders that may have the images of an HTTP server.
    pub server_mirrors: Vec<String>,
    /// Limit for the bytes of images per second.
    pub max_rate: Option<u64>,
    /// How long to wait.
    pub patience: Patience,
}

/// Proofs of accounts to registries.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// The logins, each for one registry or a part of it.
    pub logins: Logins,
    /// Hosts (`host` or `host:port`) whose token servers may get a login, in addition to the registry's own.
    pub token_hosts: Vec<String>,
    /// File that keeps tokens between runs, within one boot of the system.
    pub token_cache: Option<PathBuf>,
    /// The rights to ask for.
    pub rights: Rights,
}

/// The rights that a token gives in a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rights {
    /// To read.
    #[default]
    Pull,
    /// To read and to write.
    Push,
}

/// The files of a client certificate. They are read with each run, so that a replaced file counts from the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM: the certificate, then those of the authorities between it and the one that the server knows.
    pub certificate: PathBuf,
    /// PEM: the private key, in a file that no other account can read.
    pub key: PathBuf,
}

/// How long to wait for what. The default is the documented behaviour; tests are less patient.
#[derive(Clone, Debug)]
pub struct Patience {
    /// One attempt to connect, with TLS.
    pub connect: Duration,
    /// All documents of one check, see [`limits::DOCUMENTS_TIME`].
    pub documents: Duration,
    /// A download without a byte for so long is taken up again on a new connection.
    pub idle: Duration,
    /// See [`limits::RATE_WINDOW`].
    pub rate_window: Duration,
    /// See [`limits::RATE_MIN`].
    pub rate_min: u64,
    /// The pause before the second attempt; it doubles with each.
    pub retry_pause: Duration,
    /// The longest pause a server can ask for (`Retry-After`).
    pub retry_after_max: Duration,
    /// Attempts at a document.
    pub document_attempts: u32,
    /// Attempts to begin a download.
    pub blob_attempts: u32,
    /// Attempts to go on with one, without progress. The default takes five minutes: what has come so far is lost with the
    /// last one, and a modem or an access point that restarts is back by then.
    pub resume_attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            documents: limits::DOCUMENTS_TIME,
            idle: Duration::from_secs(60),
            rate_window: limits::RATE_WINDOW,
            rate_min: limits::RATE_MIN,
            retry_pause: Duration::from_millis(500),
            retry_after_max: Duration::from_secs(60),
            document_attempts: 3,
            blob_attempts: 6,
            resume_attempts: 24,
        }
    }
}
