//! Lines that break every 1 to 5 MiB, with something between the agent and its server. As long as each part is received, no
//! byte of it is fetched twice: the rest is heads of answers, handshakes, and the record of TLS that was cut.

use super::certificates::{identified, wanting};
use super::*;
use crate::common::line::Line;
use crate::common::proxy::{KINDS, LOGIN};
use crate::common::tls::{certificates, client};

const MIB: u64 = 1024 * 1024;

/// A release whose larger image has so many MiB.
fn site(mib: u64) -> Site {
    let page = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(512);
    Site::new("1.0.0", b"kernel", &(0..mib * 256).flat_map(page).collect::<Vec<_>>())
}

/// Fetches over a new line to `address`, and judges what that line carried.
#[track_caller]
fn little_twice(server: &Secure, address: &str, fetch: impl FnOnce(&str) -> Result<Vec<u8>, Error>) {
    let line = Line::start(address, |n| MIB + n * 7 % 5 * MIB + n * 1000);
    let image = fetch(&line.address).unwrap();
    assert!(image == server.initramfs());
    let (size, carried) = (image.len() as u64, line.carried());
    assert!(carried >= size && (carried - size) * 100 <= size * 3, "{carried} of {size}");
    assert!(server.resumed() > 0, "the line did not break");
}

#[test]
fn little_is_fetched_twice_from_a_server_that_wants_a_client_certificate() {
    let folder = certificates();
    client(folder.path(), "device");
    let server = Secure::serve(site(32), folder.path(), &wanting(folder.path()));
    let options = identified(folder.path(), "device");
    little_twice(&server, &server.address, |line| over_http(&options, &format!("https://{line}/os")));
    little_twice(&server, &server.address, |line| by_registry(&options, line));
}

#[test]
fn little_is_fetched_twice_through_a_proxy_with_and_without_login() {
    let folder = certificates();
    let server = Secure::serve(site(16), folder.path(), "");
    for (kind, login) in KINDS.into_iter().flat_map(|kind| ["", LOGIN].map(|login| (kind, login))) {
        let proxy = kind.start(!login.is_empty());
        let (secure, plain) = (kind.name_of(&server.address), kind.name_of(&server.nginx.address));
        let options = |line: &str| FetchOptions {
            proxy: Some(format!("http://{login}{}{line}", if login.is_empty() { "" } else { "@" }).parse().unwrap()),
            plain_http: vec![plain.clone()],
            ..options(&folder.path().join("ca.pem"))
        };
        little_twice(&server, &proxy.address, |line| over_http(&options(line), &format!("https://{secure}/os")));
        little_twice(&server, &proxy.address, |line| by_registry(&options(line), &secure));
        little_twice(&server, &proxy.address, |line| by_registry(&options(line), &plain));
    }
}
