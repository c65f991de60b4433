//! The party that a message names: the network, the clock, the certificate, the name or the login.

use super::*;
use crate::cli_support::Device;
use crate::common::fault::{Fault, World, chunk, head, reply, send};
use crate::common::tls::{certificates, openssl, valid};

#[test]
fn a_certificate_out_of_its_time_is_told_with_its_times_and_the_clock() {
    let folder = certificates();
    let folder = folder.path();
    for (from, to, words) in [
        (
            "20200101000000Z",
            "20210101000000Z",
            "expired: it is valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z",
        ),
        (
            "20990101000000Z",
            "21000101000000Z",
            "not valid yet: it is valid from 2099-01-01T00:00:00Z to 2100-01-01T00:00:00Z",
        ),
    ] {
        valid(folder, from, to);
        let server = Secure::start(folder, "");
        for result in server.both(&options(&folder.join("ca.pem"))) {
            let e = refused(result, Reason::CertificateTime);
            assert!(e.message.contains(words) && e.message.contains("the clock of this device says 20"), "{e}");
            assert!(e.remedy.contains("date -u"), "{}", e.remedy);
        }
    }
}

#[test]
fn a_self_signed_certificate_of_an_authority_is_refused_with_the_command_that_makes_a_right_one() {
    let folder = certificates();
    let folder = folder.path();
    openssl(
        folder,
        "req -x509 -new -key key.pem -out cert.pem -subj /CN=registry -days 2 -addext subjectAltName=IP:127.0.0.1",
    );
    let server = Secure::start(folder, "");
    let options = options(&folder.join("cert.pem"));
    let [e, _] = server.both(&options).map(|result| refused(result, Reason::CertificateUntrusted));
    assert!(e.message.contains("CA:TRUE"), "{e}");
    let (_, command) = e.remedy.split_once("openssl ").unwrap();
    openssl(folder, command);
    let server = Secure::start(folder, "");
    for result in server.both(&options) {
        assert_eq!(result.unwrap(), server.initramfs());
    }
}

#[test]
fn a_certificate_for_another_name_or_by_a_stranger_is_told_as_that() {
    let (folder, strangers) = (certificates(), certificates());
    let ca = folder.path().join("ca.pem");
    let server = Secure::start(strangers.path(), "");
    for result in server.both(&options(&ca)) {
        let e = refused(result, Reason::CertificateUntrusted);
        assert!(e.message.contains("no authority") && e.remedy.contains("registry_ca="), "{e:?}");
    }
    let server = Secure::start(folder.path(), "");
    let url = format!("https://{}/os", server.address.replace("127.0.0.1", "localhost"));
    let e = refused(over_http(&options(&ca), &url), Reason::CertificateUntrusted);
    assert!(e.message.contains("localhost") && e.message.contains("127.0.0.1"), "{e}");
}

/// A network with a sign-in page answers every request without TLS.
#[test]
fn a_web_page_in_place_of_a_document_is_the_networks() {
    let page = "\n<!DOCTYPE html><html><head><title>Welcome</title></head><body>Sign in</body></html>";
    let world = World::new(3000);
    for status in [200, 511] {
        let portal = Fault::start(move |_, out| reply(out, status, "Content-Type: text/html\r\n", page.as_bytes()));
        let options = FetchOptions { plain_http: vec![portal.address.clone()], ..options_without_tls() };
        let results =
            [over_http(&options, &format!("http://{}/os", portal.address)), by_registry(&options, &portal.address)];
        for result in results {
            let e = refused(result, Reason::CaptivePortal);
            assert!(e.remedy.contains("sign in to the network"), "{}", e.remedy);
        }
        // The page comes later, in place of any one document; only of some that may be missing it is as good as none.
        for part in [
            "/manifests/stable".to_owned(),
            format!("/manifests/{}", kubesolo_update::base::digest::Digest::of(&world.manifest)),
        ] {
            let world = world.clone();
            let portal = Fault::start(move |request, out| match request.path.ends_with(&part) {
                true => reply(out, status, "Content-Type: text/html\r\n", page.as_bytes()),
                false => world.answer(request, out),
            });
            let options = FetchOptions { plain_http: vec![portal.address.clone()], ..options_without_tls() };
            refused(by_registry(&options, &portal.address), Reason::CaptivePortal);
        }
    }
}

/// The page comes in place of an image: shorter, of the same length, longer, or without a length.
#[test]
fn a_web_page_in_place_of_an_image_is_the_networks_and_an_image_is_no_page_by_its_looks() {
    let world = World::new(3000);
    let path = World::path(&world.initramfs);
    let options = |server: &Fault| FetchOptions { plain_http: vec![server.address.clone()], ..options_without_tls() };
    for length in [300, 3000, 5000] {
        for (kind, begin) in [("text/html; charset=utf-8", "Welcome "), ("text/plain", "<!DOCTYPE html><html><body>")] {
            for with_length in [true, false] {
                let (honest, path) = (world.clone(), path.clone());
                let page = format!("{begin:x<length$}");
                let portal = Fault::start(move |request, out| match request.path == path {
                    true if with_length => reply(out, 200, &format!("Content-Type: {kind}\r\n"), page.as_bytes()),
                    true => {
                        head(out, 200, &format!("Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"));
                        let _ = chunk(out, page.as_bytes()) && chunk(out, b"");
                    }
                    false => honest.answer(request, out),
                });
                let device = Device::new();
                let error = device.from(&portal, &["apply", "--json"]).refused(69, "captive-portal");
                assert!(error["remedy"].as_str().unwrap().contains("sign in to the network"), "{error}");
                // A page is no reason to wait: but as many bytes as the image has are.
                let again = if length == 3000 { (75, "bytes-failed-before") } else { (69, "captive-portal") };
                device.from(&portal, &["apply", "--json"]).refused(again.0, again.1);
            }
        }
    }
    // One that ends with its connection.
    let (honest, at) = (world.clone(), path.clone());
    let portal = Fault::start(move |request, out| match request.path == at {
        true => {
            head(out, 200, "");
            send(out, b"<!DOCTYPE html><html><body>Sign in to this network, please");
        }
        false => honest.answer(request, out),
    });
    refused(by_registry(&options(&portal), &portal.address), Reason::CaptivePortal);
    // The digest decides: this image begins like a page, and its server says that it is one.
    let world = World::of(format!("<!DOCTYPE html>{}", "x".repeat(3000)).into_bytes(), "v1.0.0");
    let (honest, at) = (world.clone(), World::path(&world.initramfs));
    let server = Fault::start(move |request, out| match request.path == at {
        true => reply(out, 200, "Content-Type: text/html\r\n", &honest.initramfs),
        false => honest.answer(request, out),
    });
    Device::new().from(&server, &["apply"]).code(0);
}

fn options_without_tls() -> FetchOptions {
    FetchOptions { registry_ca: None, ..options(Path::new("")) }
}

#[test]
fn a_hidden_repository_is_told_as_missing_or_in_need_of_a_login() {
    for status in [401, 403, 404] {
        let server = Fault::start(move |_, out| reply(out, status, "", b"denied"));
        let options = FetchOptions { plain_http: vec![server.address.clone()], ..options_without_tls() };
        let e = by_registry(&options, &server.address).unwrap_err();
        assert_eq!(e.exit().code(), 69, "{e}");
        assert!(e.remedy.contains("not there") && e.remedy.contains("login"), "{status}: {e:?}");
    }
}
