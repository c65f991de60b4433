//! Real proxies between the device and its servers.

use super::*;
use crate::cli_support::{Device, Ran};
use crate::common::fault::{Fault, reply};
use crate::common::line::Line;
use crate::common::proxy::{FORBIDDEN, KINDS, Kind, LOGIN, Proxy};
use crate::common::tls::certificates;

/// By this proxy, with this login or none, to servers with TLS and to `plain` without.
fn by(proxy: &Proxy, login: &str, authority: &Path, plain: &[&str]) -> FetchOptions {
    let separator = if login.is_empty() { "" } else { "@" };
    let url = format!("http://{login}{separator}{}", proxy.address);
    let plain_http = plain.iter().map(|&host| host.to_owned()).collect();
    FetchOptions { proxy: Some(url.parse().unwrap()), plain_http, ..options(authority) }
}

#[test]
fn a_release_comes_through_a_proxy_with_and_without_login() {
    let folder = certificates();
    let server = Secure::start(folder.path(), "");
    for (kind, login) in KINDS.into_iter().flat_map(|kind| [(kind, ""), (kind, LOGIN)]) {
        let proxy = kind.start(!login.is_empty());
        let (secure, plain) = (kind.name_of(&server.address), kind.name_of(&server.nginx.address));
        let options = by(&proxy, login, &folder.path().join("ca.pem"), &[&plain]);
        for (scheme, address) in [("https", &secure), ("http", &plain)] {
            assert_eq!(
                over_http(&options, &format!("{scheme}://{address}/os")).unwrap(),
                server.initramfs(),
                "{kind:?}"
            );
            assert_eq!(by_registry(&options, address).unwrap(), server.initramfs(), "{kind:?}");
        }
        // The last request is that of an image, and squid writes a line after its answer.
        let log = proxy.log_with("/v2/os/blobs/");
        assert!(
            log.contains(&format!("CONNECT {secure}")) && log.contains("/v2/os/manifests/stable"),
            "{kind:?}: {log}"
        );
        assert!(!log.contains("Basic"), "{log}");
        // The device itself, and a host of the list, are reached although the proxy is gone.
        drop(proxy);
        let direct = FetchOptions { no_proxy: Some("*.example, 0.0.0.0".parse().unwrap()), ..options };
        let listed = format!("https://{}/os", Kind::Tinyproxy.name_of(&server.address));
        let [one, other] = server.both(&direct);
        for image in [one, other, over_http(&direct, &listed)] {
            assert_eq!(image.unwrap(), server.initramfs());
        }
    }
}

/// The connection to the proxy breaks in the middle of an image, or the one from the proxy to the server.
#[test]
fn an_image_goes_on_where_a_connection_broke_before_or_behind_a_proxy() {
    let folder = certificates();
    let server = Secure::start(folder.path(), "");
    let ca = folder.path().join("ca.pem");
    for (kind, behind, scheme) in KINDS
        .into_iter()
        .flat_map(|kind| [false, true].map(|behind| (kind, behind)))
        .flat_map(|(kind, behind)| ["https", "http"].map(|scheme| (kind, behind, scheme)))
    {
        let case = format!("{kind:?} {scheme}, behind: {behind}");
        let proxy = kind.start(false);
        let address = if scheme == "https" { &server.address } else { &server.nginx.address };
        let fetch = |from: fn(&FetchOptions, &str, &str) -> Result<Vec<u8>, Error>| {
            let before = server.resumed();
            let line = Line::broken_once(if behind { address } else { &proxy.address }, 150_000);
            let to = kind.name_of(if behind { &line.address } else { address });
            let by = if behind { &proxy.address } else { &line.address };
            let options = FetchOptions {
                proxy: Some(format!("http://{by}").parse().unwrap()),
                plain_http: if scheme == "http" { vec![to.clone()] } else { vec![] },
                ..options(&ca)
            };
            assert_eq!(from(&options, scheme, &to).unwrap(), server.initramfs(), "{case}");
            assert_eq!(server.resumed(), before + 1, "{case}");
        };
        fetch(|options, scheme, to| over_http(options, &format!("{scheme}://{to}/os")));
        fetch(|options, _, to| by_registry(options, to));
    }
}

#[test]
fn a_refusal_of_a_proxy_is_told_as_the_proxys() {
    let folder = certificates();
    let ca = folder.path().join("ca.pem");
    let refusing =
        "location /closed/ { return 403; } location /v2/closed/ { default_type application/json; return 403 '{}'; }";
    let server = Secure::start(folder.path(), refusing);
    for kind in KINDS {
        let (secure, plain) = (kind.name_of(&server.address), kind.name_of(&server.nginx.address));
        let both = |options: &FetchOptions, secure: &str, plain: &str| {
            [format!("https://{secure}/os"), format!("http://{plain}/os")].map(|url| {
                let e = refused(over_http(options, &url), Reason::ProxyRefused);
                assert!(!e.message.contains("hunter") && !e.remedy.contains("hunter"), "{e:?}");
                assert!(e.message.contains("the proxy http://127.0.0.1:"), "{e}");
                e
            })
        };
        let proxy = kind.start(true);
        for e in both(&by(&proxy, "", &ca, &[&plain]), &secure, &plain) {
            assert!(e.message.contains("answers 407: it wants a login") && e.remedy.contains("proxy="), "{e:?}");
        }
        for e in both(&by(&proxy, "user:hunter1", &ca, &[&plain]), &secure, &plain) {
            // Tinyproxy refuses a wrong login by 401, of which CONNECT shows nothing.
            let words = [
                "answers 407: it refuses the login",
                "answers 401: it refuses the login",
                "it refuses the login or the host",
            ];
            assert!(
                words[..if kind == Kind::Squid { 1 } else { 3 }].iter().any(|words| e.message.contains(words)),
                "{e:?}"
            );
        }
        let proxy = kind.start(false);
        let options = by(&proxy, "", &ca, &[FORBIDDEN, &plain]);
        let [tunnel, forwarded] = both(&options, FORBIDDEN, FORBIDDEN);
        assert!(
            tunnel.message.contains("does not connect to forbidden.test") && tunnel.remedy.contains("CONNECT"),
            "{tunnel:?}"
        );
        assert!(forwarded.message.contains("answers 403: it forbids forbidden.test"), "{forwarded:?}");
        // The server's own refusal stays the server's.
        refused(over_http(&options, &format!("http://{plain}/closed")), Reason::AccessDenied);
        let closed =
            OciSource::new(&options, &format!("{plain}/closed"), None, "stable").unwrap().look(&Known::default());
        refused(closed, Reason::AccessDenied);
        // A proxy that is not there is named, too.
        let address = proxy.address.clone();
        drop(proxy);
        for url in [format!("https://{secure}/os"), format!("http://{plain}/os")] {
            let e = refused(over_http(&options, &url), Reason::Unreachable);
            assert!(e.message.contains(&format!("the proxy http://{address}")), "{e}");
        }
    }
}

#[test]
fn no_password_of_a_proxy_is_shown_and_a_malformed_one_is_never_ignored() {
    let device = Device::new();
    let server = Fault::start(|_, out| reply(out, 404, "", b""));
    let asking = ["-vvv", "check", "--registry", "registry.example:1/os", "--pubkey", "K"];
    let hides = |ran: Ran| {
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:?}");
        ran
    };
    for (settings, code) in [
        ("proxy=http://user:hunter2@127.0.0.1:9", 69),
        ("proxy=http://user:hunter2@", 78),
        ("proxy=socks5://user:hunter2@127.0.0.1:9", 78),
        ("proxy=http://127.0.0.1:9/?hunter2", 78),
        ("no_proxy=10.0.0.0/33", 78),
    ] {
        device.write("conf", settings.as_bytes());
        hides(device.run(&device.local(&asking))).code(code);
        hides(device.run(&["--conf", "conf", "config", "show", "--json"]));
        hides(device.run(&["--conf", "conf", "config", "show"]));
        hides(device.run(&["--conf", "conf", "config", "check"])).code(if code == 78 { 78 } else { 0 });
    }
    let shown = |settings: &str| {
        device.write("conf", settings.as_bytes());
        device.run(&["--conf", "conf", "config", "show"]).code(0).stdout
    };
    assert!(shown("proxy=http://user:hunter2@proxy.lan:3128").contains("http://***@proxy.lan:3128"));
    // Of the environment, too, and before any request; a setting replaces it.
    device.write("conf", b"");
    let mut command = device.command(&[&device.asking(&server, &["check", "--json"])[..], &["--pubkey", "K"]].concat());
    let ran = hides(command.env("http_proxy", "http://user:hunter2@").output().unwrap().into());
    ran.refused(78, "bad-proxy");
    device.write("conf", b"proxy=none\n");
    let mut command = device.command(&[&device.asking(&server, &["check", "--json"])[..], &["--pubkey", "K"]].concat());
    let ran = hides(command.env("http_proxy", "http://user:hunter2@").output().unwrap().into());
    ran.refused(69, "tag-not-found");
}
