//! Does a URL answer? For the health of this device; nothing is fetched.

use std::path::Path;
use std::time::Duration;

use reqwest::Url;

use crate::base::error::{Context, Reason, Result};
use crate::config::proxy::ProxySetting;
use crate::fetch::client::Client;
use crate::fetch::options::{FetchOptions, Patience};
use crate::fetch::url::{host, shown};

/// Checks that it answers 200, asked directly and not through a proxy. Where it is http, its host is asked without TLS.
///
/// # Errors
/// Why not; 69, as a rule.
pub(crate) fn answers(url: &str, registry_ca: Option<&Path>, time: Duration) -> Result<()> {
    let url = Url::parse(url).context(Reason::BadConfig, "read the URL")?;
    let client = Client::new(&FetchOptions {
        registry_ca: registry_ca.map(Path::to_owned),
        plain_http: if url.scheme() == "http" { vec![host(&url)] } else { vec![] },
        proxy: Some(ProxySetting::Direct),
        patience: Patience { documents: time, ..Patience::default() },
        ..FetchOptions::default()
    })?;
    client.answers(&url, &shown(&url), client.deadline())
}
