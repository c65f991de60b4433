//! Does a URL answer? For the health of this device; nothing is fetched.

use std::path::Path;
use std::time::Duration;

use reqwest::Url;

use super::client::{Client, shown};
use super::options::{FetchOptions, Patience};
use crate::error::{Context, Exit, Result};

/// Whether it answers 200, asked directly and not through a proxy. Where it is http, its host is asked without TLS.
///
/// # Errors
/// Why not; 69, as a rule.
pub(crate) fn answers(url: &str, registry_ca: Option<&Path>, time: Duration) -> Result<()> {
    let url = Url::parse(url).context(Exit::Config, "bad-url", "read the URL")?;
    let host = url.host_str().zip(url.port_or_known_default());
    let plain = host.filter(|_| url.scheme() == "http").map(|(host, port)| format!("{host}:{port}"));
    let client = Client::new(&FetchOptions {
        registry_ca: registry_ca.map(Path::to_owned),
        plain_http: plain.into_iter().collect(),
        proxies: false,
        patience: Patience { documents: time, ..Patience::default() },
    })?;
    client.answers(&url, &shown(&url), client.deadline())
}
