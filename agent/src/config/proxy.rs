//! The settings of proxies, as text. Hosts without one are listed by the rules of Go's `httpproxy`
//! (golang.org/x/net/http/httpproxy).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

use crate::base::text;

/// `proxy=`: the proxy for all requests.
#[derive(Clone, PartialEq, Eq)]
pub enum ProxySetting {
    /// `none`: the environment names one in vain.
    Direct,
    /// An http or https URL, which may have a password.
    Url(Url),
}

impl fmt::Debug for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("none"),
            Self::Url(url) => f.write_str(&text::without_secrets(url.as_str())),
        }
    }
}

impl FromStr for ProxySetting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text == "none" { Ok(Self::Direct) } else { proxy_url(text).map(Self::Url) }
    }
}

/// Hosts that are reached without a proxy, as `no_proxy` lists them. An entry is `*` (all of them), a host (with all below
/// it), `.host` or `*.host` (all below it), an address or a network (`10.0.0.0/8`); each but a network may end in `:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    All,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// With a dot in front.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl NoProxy {
    /// Reads a list with commas or blanks between its entries; also returns the entries that are none.
    #[must_use]
    pub fn lenient(list: &str) -> (Self, Vec<&str>) {
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        let (mut read, mut refused) = (vec![], vec![]);
        for text in entries {
            match entry(text) {
                Some(entry) => read.push(entry),
                None => refused.push(text),
            }
        }
        (Self(read), refused)
    }

    /// True if requests to this host and port take no proxy. The host is as in a URL: in lower case, IPv6 in brackets.
    #[must_use]
    pub fn contains(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>().ok();
        let is_port = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        self.0.iter().any(|entry| match (entry, address) {
            (Entry::All, _) => true,
            (Entry::Network(network, bits), Some(address)) => is_within(address, *network, *bits),
            (Entry::Address(wanted, wanted_port), Some(address)) => address == *wanted && is_port(wanted_port),
            (Entry::Domain { suffix, itself, port }, None) => {
                (host.ends_with(suffix) || *itself && host == &suffix[1..]) && is_port(port)
            }
            _ => false,
        })
    }
}

impl FromStr for NoProxy {
    type Err = &'static str;

    fn from_str(list: &str) -> Result<Self, &'static str> {
        match Self::lenient(list) {
            (list, refused) if refused.is_empty() => Ok(list),
            _ => Err(
                "expected hosts: *, host, .host, *.host, an address or a network like 10.0.0.0/8; a port may follow",
            ),
        }
    }
}

fn entry(text: &str) -> Option<Entry> {
    if text == "*" {
        return Some(Entry::All);
    }
    if let Some((network, bits)) = text.split_once('/') {
        let (network, bits) = (network.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
        return (bits <= if network.is_ipv4() { 32 } else { 128 }).then_some(Entry::Network(network, bits));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Entry::Address(address, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (text, None),
    };
    if let Ok(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse() {
        return Some(Entry::Address(address, port));
    }
    let (name, itself) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
        Some(name) => (name, false),
        None => (host, true),
    };
    // As URLs have it: in lower case, and in ASCII.
    let url = Url::parse(&format!("http://{name}/")).ok()?;
    let name = url.host_str().filter(|name| name.parse::<IpAddr>().is_err() && !name.contains(['*', '[']))?;
    (url.path() == "/" && url.username().is_empty()).then(|| Entry::Domain { suffix: format!(".{name}"), itself, port })
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (address.to_bits().into(), network.to_bits().into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - u32::from(bits);
    u128::checked_shr(address ^ network, ignored).is_none_or(|rest| rest == 0)
}

/// The URL of a proxy. Without a scheme it is http.
///
/// # Errors
/// The form that was expected.
pub fn proxy_url(text: &str) -> Result<Url, &'static str> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&url).map_err(|_| "expected the URL of a proxy, http://host:port, or none")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected an http or https proxy: others (socks5) are not supported");
    }
    let rest = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    if rest || !url.has_host() { Err("expected only host and port of a proxy, http://host:port") } else { Ok(url) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn direct(list: &str, host: &str) -> bool {
        let url = Url::parse(&format!("https://{host}/")).unwrap();
        let list: NoProxy = list.parse().unwrap();
        list.contains(url.host_str().unwrap(), url.port_or_known_default().unwrap())
    }

    /// The cases of Go's own test, TestUseProxy and TestAllNoProxy, and more.
    #[test]
    fn hosts_without_a_proxy_are_listed_as_go_does() {
        let list = "foobar.com, .barbaz.net *.starred.example,192.168.1.1,192.168.1.2:81,192.168.1.3:80,10.0.0.0/30,\
                    2001:db8::52:0:1,[2001:db8::52:0:2]:443,[2001:db8::52:0:3]:80,2002:db8:a::45/64,port.example:8443,\
                    .sub.example:8443";
        for host in [
            "foobar.com",
            "FooBar.com",
            "www.foobar.com",
            "foobar.com:99",
            "www.barbaz.net",
            "a.starred.example",
            "192.168.1.1",
            "192.168.1.1:8080",
            "192.168.1.2:81",
            "10.0.0.2",
            "10.0.0.3",
            "[2001:db8::52:0:1]",
            "[2001:db8::52:0:2]:443",
            "[2002:db8:a::123]",
            "port.example:8443",
            "a.port.example:8443",
            "a.sub.example:8443",
        ] {
            assert!(direct(list, host), "{host}");
        }
        for host in [
            "barbaz.net",
            "starred.example",
            "notfoobar.com",
            "foofoobar.com",
            "baz.com",
            "192.168.1.2",
            "192.168.1.3",
            "192.168.1.4",
            "10.0.0.4",
            "[2001:db8::52:0:3]",
            "[2002:db8:a:1::123]",
            "port.example",
            "sub.example:8443",
            "a.sub.example",
        ] {
            assert!(!direct(list, host), "{host}");
        }
        assert!(
            direct("*", "a.b") && direct("*", "10.1.1.1") && direct("0.0.0.0/0", "10.1.1.1") && direct("::/0", "[::2]")
        );
        assert!(!direct("", "a.b") && !direct("0.0.0.0/0", "[::2]"));
    }

    #[test]
    fn an_entry_that_names_no_host_is_refused() {
        for list in ["127.", "10.0.0.0/33", "10.0.0/8", "http://a.b", "a.*", "**", "a:b", "a/b", "a@b", "."] {
            assert!(list.parse::<NoProxy>().is_err(), "{list}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_with_a_port_or_refused() {
        for (text, url) in [
            ("proxy.lan:3128", "http://proxy.lan:3128/"),
            ("http://user:pass%40word@proxy.lan", "http://user:pass%40word@proxy.lan/"),
            ("https://proxy.lan:8443/", "https://proxy.lan:8443/"),
            ("[::2]:3128", "http://[::2]:3128/"),
        ] {
            assert_eq!(proxy_url(text).unwrap().as_str(), url);
        }
        for text in
            ["", "http://", "proxy.lan:port", "socks5://proxy.lan", "http://proxy.lan/path", "proxy.lan?x", "a b"]
        {
            assert!(proxy_url(text).is_err(), "{text}");
        }
        let secret: ProxySetting = "http://user:hunter2@proxy.lan:3128".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "http://***@proxy.lan:3128/");
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in "\\PC{0,60}", host in "[a-z.:0-9\\[\\]]{1,20}") {
            let _ = NoProxy::lenient(&list).0.contains(&host, 443);
        }
    }
}
