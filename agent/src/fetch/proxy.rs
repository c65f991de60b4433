//! Proxies between this device and its servers.

/// Whether the environment names a proxy.
pub(super) fn named() -> bool {
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    names.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
