//! URLs: what of them may be shown, what two of them have in common, and which hosts may go without TLS.

use std::collections::HashSet;

use reqwest::Url;

use crate::base::error::{Error, Reason, Result};
use crate::base::text;

/// The hosts that are spoken to without TLS.
pub(super) struct PlainHosts(HashSet<(String, u16)>);

impl PlainHosts {
    /// Reads `plain_http=`, a list of hosts and `host:port`.
    pub(super) fn new(list: &[String]) -> Result<Self> {
        list.iter().map(|entry| plain_host(entry)).collect::<Result<_>>().map(Self)
    }

    /// True if the URL has no TLS and its host and port are listed.
    pub(super) fn contain(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        url.scheme() == "http" && url.host_str().zip(port).is_some_and(|(h, p)| self.0.contains(&(h.to_owned(), p)))
    }
}

fn plain_host(entry: &str) -> Result<(String, u16)> {
    let url = Url::parse(&format!("http://{entry}/")).ok();
    let url = url.filter(|url| url.path() == "/" && url.username().is_empty() && url.password().is_none());
    let url = url.filter(|url| url.query().is_none() && url.fragment().is_none());
    url.as_ref().and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?))).ok_or_else(|| {
        let message = format!("plain_http: \"{}\" is neither a host nor host:port", text::escape(entry));
        Error::new(Reason::BadHost, message)
    })
}

/// Takes user name and password out of a URL that came from outside: they would become an Authorization header. False for
/// a URL without host.
pub(crate) fn without_login(url: &mut Url) -> bool {
    url.set_username("").and_then(|()| url.set_password(None)).is_ok()
}

/// A URL without what may be secret in it: user, password and the query, which can be a signature that gives access.
pub(crate) fn shown(url: &Url) -> String {
    text::escape(&format!("{}://{}{}", url.scheme(), host(url), url.path()))
}

pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// The repository in a URL of a registry (`/v2/NAME/manifests/…`, also below another path); empty for any other URL.
pub(super) fn repository(url: &Url) -> &str {
    let Some((_, path)) = url.path().split_once("/v2/") else { return "" };
    let ends = ["/manifests/", "/blobs/", "/referrers/"].map(|kind| path.rfind(kind));
    ends.into_iter().flatten().max().map_or("", |end| &path[..end])
}

/// Scheme, host and port.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Exit;
    use proptest::prelude::*;

    #[test]
    fn what_is_secret_in_a_url_is_not_shown() {
        let url = Url::parse("https://user:password@host:8443/path?X-Amz-Signature=secret#part").unwrap();
        assert_eq!(shown(&url), "https://host:8443/path");
    }

    #[test]
    fn the_repository_is_read_from_a_url_of_a_registry() {
        for (path, name) in [
            ("/v2/os/manifests/stable", "os"),
            ("/v2/ns/blobs/os/blobs/sha256:00", "ns/blobs/os"),
            ("/cache/v2/ns/os/referrers/sha256:00?artifactType=x", "ns/os"),
            ("/v2/", ""),
            ("/os/latest.json", ""),
        ] {
            assert_eq!(repository(&Url::parse(&format!("https://host{path}")).unwrap()), name, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_list_entry_is_a_host_or_refused(entry in "\\PC{0,30}") {
            if let Err(e) = plain_host(&entry) {
                prop_assert_eq!(e.exit(), Exit::Config);
            }
        }
    }
}
