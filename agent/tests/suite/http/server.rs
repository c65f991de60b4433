//! Files that a real nginx serves, and the requests for them.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::cli_support::{self, Device};
use crate::common::fault::World;
use crate::common::nginx::Nginx;
use crate::common::{images, tls};
use kubesolo_release::{Metadata, http};
use kubesolo_update::fetch::login::Logins;
use kubesolo_update::fetch::options::Authentication;
use tempfile::TempDir;

/// Publishes for this device; `os` is its architecture's folder.
fn publish(root: &Path, version: &str, salt: u8) {
    let folder = TempDir::new().unwrap();
    let here = Architecture::current();
    let images = images::files(folder.path(), here, salt);
    // The `ETag` of nginx is the second of a change and the size: two documents of one second need two sizes.
    let release_notes = Some("x".repeat(salt.into()));
    let metadata = Metadata { release_notes, ..Metadata::new(version.parse().unwrap(), "stable") };
    let key = cli_support::key(1);
    let options = http::Options { replace: true, ..http::Options::default() };
    http::publish(root, &metadata, &[images], &[key], &options).unwrap();
    if !root.join("os").exists() {
        std::os::unix::fs::symlink(here.to_string(), root.join("os")).unwrap();
    }
    // nginx makes an `ETag` of time and size, which two releases of one second can have in common.
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::from(salt));
    std::fs::File::options().write(true).open(root.join("os/latest.json")).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_device_updates_twice_and_asks_once_when_nothing_is_new() {
    let root = TempDir::new().unwrap();
    publish(root.path(), "1.0.0", 1);
    let (server, device) = (Nginx::start(root.path(), ""), Device::new());
    for version in ["1.0.0", "1.1.0"] {
        publish(root.path(), version, version.as_bytes()[2]);
        device.over_http(&server, &["check"]).code(0).says(&[version, "signed:"]);
        let before = server.requests().len();
        device.over_http(&server, &["apply", "--dry-run"]).code(0).says(&["would write"]);
        device.over_http(&server, &["apply", "--activate"]).code(0).says(&[version]);
        let asked = server.requests()[before..].to_vec();
        assert_eq!(asked.iter().filter(|line| line.starts_with("GET /os/files/vmlinuz-")).count(), 1, "{asked:?}");
        device.power_on();
        device.here(&["healthcheck"]).code(0).says(&["committed"]);

        for arguments in [&["check", "--json"][..], &["apply", "--json"]] {
            let before = server.requests().len();
            let report = device.over_http(&server, arguments).code(0).json();
            assert!(report.to_string().contains("up-to-date"), "{report}");
            assert_eq!(server.requests()[before..], ["GET /os/latest.json"]);
        }
    }
    device.here(&["verify"]).code(0).says(&["1.0.0, signed by", "1.1.0, signed by"]);
}

/// A registry names the manifest through an index and the signatures through a list: what led where is remembered.
#[test]
fn a_registry_is_asked_once_too_when_nothing_is_new() {
    let world = World::new(1000);
    let (device, shared) = (Device::new(), Arc::new(Mutex::new(world.clone())));
    let served = shared.clone();
    let server = Fault::start(move |request, out| served.lock().unwrap().answer(request, out));
    let asked = |arguments: &[&str]| {
        let before = server.requests().len();
        let said = device.from(&server, arguments).code(0).stdout;
        (paths(&server)[before..].to_vec(), said)
    };
    let tag = vec!["/v2/os/manifests/stable".to_owned()];
    device.from(&server, &["apply"]).code(0);
    assert_eq!(asked(&["apply"]).0, tag, "staged");
    device.here(&["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    for arguments in [&["check", "--json"][..], &["apply", "--json"]] {
        let (paths, said) = asked(arguments);
        assert!(paths == tag && said.contains("up-to-date"), "{paths:?} {said}");
    }
    // A hint that is wrong or lost costs requests, and nothing else.
    let before = device.state();
    for hint in [json!(null), json!({"document": Digest([1; 32]), "release": before["last_offer"]["release"]})] {
        let mut state = before.clone();
        state["last_offer"] = hint;
        device.write("S/state.json", state.to_string().as_bytes());
        let (paths, said) = asked(&["check", "--json"]);
        assert!(paths.len() > 3 && said.contains("up-to-date"), "{paths:?} {said}");
        assert_eq!(asked(&["apply"]).0.len(), paths.len());
        assert_eq!(asked(&["check"]).0, tag);
    }
    // Another index that leads to the same release, as when an architecture is added.
    let manifest = world.manifest.clone();
    shared.lock().unwrap().tag("stable", &common::bytes(&common::index(&[("amd64", &manifest), ("arm64", b"{}")])));
    assert!(asked(&["apply"]).0.len() > 3);
    assert_eq!(asked(&["check"]).0, tag);
    // A device whose key did not sign it says so, and looks for other signatures.
    device.save_key(&cli_support::key(2), "K");
    device.from(&server, &["check", "--json"]).refused(77, "signature-unknown-key");
}

#[test]
fn what_is_staged_is_not_fetched_again() {
    let root = TempDir::new().unwrap();
    publish(root.path(), "1.0.0", 1);
    let (server, device) = (Nginx::start(root.path(), ""), Device::new());
    device.over_http(&server, &["apply"]).code(0);
    let before = server.requests().len();
    device.over_http(&server, &["apply"]).code(0).says(&["already complete in slot B"]);
    assert_eq!(server.requests()[before..], ["GET /os/latest.json"]);
    // A rotten file is.
    device.write("B/vmlinuz", b"rotten");
    device.over_http(&server, &["apply"]).code(0).says(&["written into slot B"]);
    device.here(&["verify"]).says(&["slot B holds: 1.0.0"]);
}

/// A site on nginx whose initramfs is large enough for a download in pieces.
fn large(more: &str) -> (TempDir, Nginx, Vec<u8>) {
    let initramfs: Vec<u8> = (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let site = Site::new("1.0.0", b"kernel", &initramfs);
    let root = TempDir::new().unwrap();
    std::fs::create_dir(root.path().join("os")).unwrap();
    for (path, bytes) in &site.files {
        std::fs::write(root.path().join(&path[1..]), bytes).unwrap();
    }
    let server = Nginx::start(root.path(), more);
    (root, server, initramfs)
}

/// Reads until some bytes are here, lets nginx be away for a moment, and reads the rest.
fn interrupted(server: &mut Nginx, meanwhile: impl FnOnce()) -> Result<Vec<u8>, Error> {
    let mut source = source(server);
    let offer = source.offer(Architecture::Amd64).unwrap();
    let blob = source.locate(offer.release.initramfs)?;
    let mut body = source.open(&blob)?;
    let mut all = vec![];
    while all.len() < 300_000 {
        all.extend_from_slice(&body.chunk()?.unwrap());
    }
    server.restart(meanwhile);
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[test]
fn a_broken_download_is_resumed_in_the_same_file() {
    let (_root, mut server, initramfs) = large("limit_rate 2m; limit_rate_after 300k;");
    assert!(interrupted(&mut server, || {}).unwrap() == initramfs);
    let served = server.served();
    let last = served.last().unwrap();
    assert_eq!((&last.path[..], last.status), ("/os/kubesolo-os.gz", 206));
    assert!(last.range.starts_with("bytes=") && last.if_range.starts_with('"'), "{last:?}");
}

#[test]
fn a_file_replaced_while_it_is_downloaded_is_noticed() {
    let (root, mut server, initramfs) = large("limit_rate 2m; limit_rate_after 300k;");
    let file = root.path().join("os/kubesolo-os.gz");
    let mut other = initramfs.clone();
    other[7_000_000] ^= 1;
    // The same size, another time.
    let later = std::time::SystemTime::now() + Duration::from_secs(100);
    let e = interrupted(&mut server, || {
        std::fs::write(&file, other).unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    });
    refused(e, Reason::FileReplaced);
}

#[test]
fn with_tls_it_is_never_left_and_its_authority_must_be_known() {
    let (_root, plain, _) = large("");
    let certificates = tls::certificates();
    let at = certificates.path().display();
    let root = TempDir::new().unwrap();
    std::fs::create_dir(root.path().join("os")).unwrap();
    let site = Site::small();
    for (path, bytes) in &site.files {
        std::fs::write(root.path().join(&path[1..]), bytes).unwrap();
    }
    // A second listener with TLS; the first one of this nginx has none.
    let secure = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "listen {secure} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
         location /away/ {{ return 302 http://{}/os/latest.json; }}",
        plain.address
    );
    let _server = Nginx::start(root.path(), &more);
    let trusted = FetchOptions {
        registry_ca: Some(certificates.path().join("ca.pem")),
        plain_http: vec![plain.address.clone()],
        ..options()
    };
    let mut source = HttpSource::new(&trusted, &format!("https://{secure}/os"), false).unwrap();
    let offer = source.offer(Architecture::Amd64).unwrap();
    assert_eq!(fetch(&mut source, &offer).unwrap(), site.get("kubesolo-os.gz"));
    let away = HttpSource::new(&trusted, &format!("https://{secure}/away"), false).unwrap().look(&Known::default());
    refused(away, Reason::InsecureRedirect);
    assert_eq!(plain.requests().len(), 0);
    let unknown = HttpSource::new(&options(), &format!("https://{secure}/os"), false).unwrap().look(&Known::default());
    refused(unknown, Reason::CertificateUntrusted);
}

/// The file of logins is by host and port, and an HTTP server has these too.
#[test]
fn a_login_is_for_an_http_server_too() {
    let root = TempDir::new().unwrap();
    publish(root.path(), "1.0.0", 1);
    let users = root.path().join("users");
    std::fs::write(&users, "ci:{PLAIN}hunter2-secret\n").unwrap();
    let server = Nginx::start(root.path(), &format!("auth_basic r; auth_basic_user_file {};", users.display()));
    let with = |key: &str| {
        let file = format!("{{\"auths\": {{\"{key}\": {{\"auth\": \"Y2k6aHVudGVyMi1zZWNyZXQ=\"}}}}}}");
        let logins = Logins::parse(file.as_bytes(), "the file").unwrap();
        let authentication = Authentication { logins, ..Authentication::default() };
        let options = FetchOptions { authentication, plain_http: vec![server.address.clone()], ..options() };
        let mut source = HttpSource::new(&options, &format!("http://{}/os", server.address), false).unwrap();
        let offer = source.offer(Architecture::current())?;
        fetch(&mut source, &offer)
    };
    with(&server.address).unwrap();
    refused(with("127.0.0.1:1"), Reason::AccessDenied);
    refused(with(&format!("{}/os", server.address)), Reason::AccessDenied);
}
