//! Proxies between this device and its servers: the one that a request takes, and its own refusals.

use std::net::IpAddr;

use reqwest::header::{self, HeaderValue};
use reqwest::{Response, StatusCode, Url};

use crate::base::error::{Error, Reason, Result};
use crate::base::text;
use crate::config::proxy::{NoProxy, ProxySetting, proxy_url};
use crate::fetch::answer::{Failure, cause, is_html};
use crate::fetch::options::FetchOptions;
use crate::fetch::url::{host, shown};

const LOGIN: StatusCode = StatusCode::PROXY_AUTHENTICATION_REQUIRED;

/// The proxies for requests with TLS and without, and the hosts that are reached without one.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<Url>,
    http: Option<Url>,
    direct: NoProxy,
}

impl Proxies {
    /// The proxy of the settings, and for the rest that of the environment.
    ///
    /// # Errors
    /// 78 for a variable that is no proxy.
    pub(super) fn new(options: &FetchOptions) -> Result<Self> {
        let get = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self::read(options.proxy.as_ref(), options.no_proxy.as_ref(), get)
    }

    fn read(
        proxy: Option<&ProxySetting>,
        no_proxy: Option<&NoProxy>,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let found = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_uppercase()];
            names.into_iter().find_map(|name| Some((get(&name).filter(|value| !value.is_empty())?, name)))
        };
        let variable = |name| match found(name) {
            // A web server gives its programs the header Proxy: of a request under that name (CVE-2016-5385).
            Some((_, name)) if name == "HTTP_PROXY" && get("REQUEST_METHOD").is_some() => Ok(None),
            Some((value, name)) => proxy_url(value.trim()).map(Some).map_err(|why| {
                // Its value may have a password.
                Error::new(Reason::BadProxy, format!("the environment variable {name} names no proxy: {why}"))
                    .remedy("Correct the variable, or set proxy= in the settings, which replaces it.")
            }),
            None => Ok(None),
        };
        let (http, https) = match proxy {
            Some(ProxySetting::Direct) => (None, None),
            Some(ProxySetting::Url(url)) => (Some(url.clone()), Some(url.clone())),
            None => {
                let all = variable("all_proxy")?;
                (variable("http_proxy")?.or_else(|| all.clone()), variable("https_proxy")?.or(all))
            }
        };
        let direct = no_proxy.cloned().unwrap_or_else(|| {
            let Some((list, name)) = found("no_proxy") else { return NoProxy::default() };
            let (direct, refused) = NoProxy::lenient(&list);
            for entry in refused {
                log::warn!("the entry \"{}\" of {name} names no host, and has no effect", text::escape(entry));
            }
            direct
        });
        Ok(Self { https, http, direct })
    }

    /// The proxy for a request. The device itself is never reached by one.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !is_loopback && !self.direct.contains(host, port))
    }

    /// True if any request takes a proxy with TLS.
    pub(super) fn have_tls(&self) -> bool {
        [&self.http, &self.https].into_iter().flatten().any(|proxy| proxy.scheme() == "https")
    }
}

/// The words of hyper-util for a failed CONNECT, whose type is not public.
fn tunnel_error(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let words = error.to_string();
    let own = words.strip_prefix("tunnel error: ").map(str::to_owned);
    own.or_else(|| tunnel_error(error.source()?))
}

/// The failure of a request that took this proxy; `None` if the proxy did its part.
pub(super) fn failure(e: &reqwest::Error, proxy: &Url, to: &Url, what: &str) -> Option<Failure> {
    let words = tunnel_error(e);
    let tried = |message: &str, remedy: &str| {
        let message = format!("cannot fetch {what}: the proxy {} {message}", shown(proxy));
        Error::new(Reason::ProxyRefused, message).remedy(remedy.to_owned())
    };
    let host = host(to);
    match words.as_deref() {
        Some("proxy authorization required") => Some(Failure::Final(refusal(proxy, LOGIN, to, what))),
        Some("unsuccessful") => {
            let message = format!(
                "does not connect to {host}: it refuses the login or the host (401, 403), or cannot reach it (502, 503)"
            );
            let remedy = format!(
                "Check the login in proxy=, have the proxy permit CONNECT to {host}, or list the host in no_proxy=."
            );
            Some(Failure::Passing(tried(&message, &remedy), None))
        }
        Some("unexpected end of file" | "proxy response headers too long" | "io error establishing tunnel") => {
            let message = format!("breaks the connection to {host}");
            Some(Failure::Passing(tried(&message, "Look at the log of the proxy."), None))
        }
        _ if e.is_connect() && (to.scheme() == "http" || words.is_some()) => {
            let message = format!("cannot fetch {what}: cannot reach the proxy {}: {}", shown(proxy), cause(e));
            let remedy = "Check that the proxy is up, and the address of it (proxy= or the environment).";
            Some(Failure::Passing(Error::new(Reason::Unreachable, message).remedy(remedy), None))
        }
        _ => None,
    }
}

/// The failure of a request that a proxy answers itself.
pub(super) fn refused(proxy: &Url, status: StatusCode, to: &Url, what: &str) -> Failure {
    let error = refusal(proxy, status, to, what);
    if status.is_server_error() { Failure::Passing(error, None) } else { Failure::Final(error) }
}

fn refusal(proxy: &Url, status: StatusCode, to: &Url, what: &str) -> Error {
    let (status, host, proxy_host) = (status.as_u16(), host(to), shown(proxy));
    let (fault, remedy) = match status {
        401 | 407 if proxy.username().is_empty() => (
            "it wants a login".to_owned(),
            "Set proxy=http://USER:PASSWORD@HOST:PORT; in user name and password, write %40 for @ and %3A for a colon."
                .to_owned(),
        ),
        401 | 407 => (
            "it refuses the login".to_owned(),
            "Check user name and password in proxy=, or in the environment.".to_owned(),
        ),
        500.. => (format!("it cannot reach {host}"), "Look at the log of the proxy.".to_owned()),
        _ => (
            format!("it forbids {host}"),
            format!("Have the proxy permit {host}, or list the host in no_proxy= if it can be reached directly."),
        ),
    };
    let message = format!("cannot fetch {what}: the proxy {proxy_host} answers {status}: {fault}");
    Error::new(Reason::ProxyRefused, message).remedy(remedy)
}

/// True if a proxy itself refuses a request without TLS, which it forwards otherwise.
pub(super) fn refuses(response: &Response) -> bool {
    let headers = response.headers();
    let server = headers.get(header::SERVER).map_or(&b""[..], HeaderValue::as_bytes);
    // Forwarded answers keep the name of their server.
    let named =
        headers.contains_key("x-squid-error") || server.starts_with(b"squid") || server.starts_with(b"tinyproxy");
    match response.status().as_u16() {
        407 => true,
        400.. if named => true,
        // Others send a page, without the Via of an answer that they forward. The 403 of a registry is JSON.
        403 => headers.get(header::VIA).is_none() && is_html(headers),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(proxy: Option<&str>, no_proxy: Option<&str>, environment: &[(&str, &str)]) -> Result<Proxies> {
        let (proxy, no_proxy) = (proxy.map(|text| text.parse().unwrap()), no_proxy.map(|text| text.parse().unwrap()));
        let get = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Proxies::read(proxy.as_ref(), no_proxy.as_ref(), get)
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&Url::parse(url).unwrap()).map(host)
    }

    #[test]
    fn settings_win_over_the_environment_one_by_one() {
        let environment = [("http_proxy", "h:1"), ("HTTPS_PROXY", "http://s:1"), ("no_proxy", "direct.example")];
        let read = proxies(None, None, &environment).unwrap();
        assert_eq!(of(&read, "http://a.example/").as_deref(), Some("h:1"));
        assert_eq!(of(&read, "https://a.example/").as_deref(), Some("s:1"));
        assert_eq!(of(&read, "https://direct.example/"), None);
        let read = proxies(Some("p:3"), None, &environment).unwrap();
        assert_eq!(of(&read, "https://a.example/").as_deref(), Some("p:3"));
        assert_eq!(of(&read, "https://direct.example/"), None);
        let read = proxies(None, Some("a.example"), &environment).unwrap();
        assert_eq!(of(&read, "https://a.example/"), None);
        assert_eq!(of(&read, "https://direct.example/").as_deref(), Some("s:1"));
        let read = proxies(Some("none"), None, &environment).unwrap();
        assert_eq!(of(&read, "http://a.example/"), None);
        let all = proxies(None, None, &[("all_proxy", "all:1"), ("http_proxy", "h:1")]).unwrap();
        assert_eq!(of(&all, "https://a.example/").as_deref(), Some("all:1"));
        assert_eq!(of(&all, "http://a.example/").as_deref(), Some("h:1"));
        let of_a_web_server = [("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(of(&proxies(None, None, &of_a_web_server).unwrap(), "http://a.example/"), None);
    }

    #[test]
    fn the_device_itself_is_reached_directly() {
        let read = proxies(Some("p:3"), Some(""), &[]).unwrap();
        for url in ["http://localhost:5000/", "https://127.0.0.1/", "http://127.9.9.9/", "https://[::1]:5000/"] {
            assert_eq!(of(&read, url), None, "{url}");
        }
        assert!(of(&read, "https://localhost.example/").is_some() && of(&read, "http://128.0.0.1/").is_some());
    }

    #[test]
    fn a_malformed_proxy_of_the_environment_is_an_error_that_shows_no_password() {
        for name in ["http_proxy", "https_proxy", "ALL_PROXY"] {
            for value in ["http://user:hunter2@", "socks5://user:hunter2@p:1", "user:hunter2@p:port"] {
                let e = proxies(None, None, &[(name, value)]).unwrap_err();
                assert!(e.reason == Reason::BadProxy && e.message.contains(name), "{e}");
                assert!(!e.message.contains("hunter2"), "{e}");
            }
            // The setting replaces it.
            proxies(Some("none"), None, &[(name, "http://")]).unwrap();
        }
    }
}
