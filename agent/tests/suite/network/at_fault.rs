//! The party that a message names: the network, the clock, the certificate, the name or the login.

use super::*;
use crate::common::fault::{Fault, World, reply};
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
