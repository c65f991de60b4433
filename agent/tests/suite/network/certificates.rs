//! Client certificates, against real servers that want one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::cli_support::Device;
use crate::common::registry::Registry;
use crate::common::tls::{certificates, client, openssl};
use kubesolo_update::fetch::options::ClientCertificate;

const WANTED: Reason = Reason::ClientCertificateWanted;

/// Trusts the authority of the folder, and shows the client certificate of this name.
pub fn identified(folder: &Path, name: &str) -> FetchOptions {
    let files =
        ClientCertificate { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
    FetchOptions { client_certificate: Some(files), ..options(&folder.join("ca.pem")) }
}

pub fn wanting(folder: &Path) -> String {
    format!("ssl_client_certificate {}/ca.pem; ssl_verify_client on;", folder.display())
}

#[test]
fn a_client_certificate_opens_a_registry_and_an_http_server() {
    let (folder, strangers) = (certificates(), certificates());
    let folder = folder.path();
    client(folder, "device");
    client(strangers.path(), "device");
    let server = Secure::start(folder, &wanting(folder));
    for result in server.both(&options(&folder.join("ca.pem"))) {
        let e = refused(result, WANTED);
        assert!(e.message.contains("wants a client certificate") && e.remedy.contains("registry_cert="), "{e:?}");
    }
    for result in server.both(&identified(folder, "device")) {
        assert_eq!(result.unwrap(), server.initramfs());
    }
    // By an authority that this server does not know; then the files are replaced, and the next run has the new ones.
    let options = FetchOptions { registry_ca: Some(folder.join("ca.pem")), ..identified(strangers.path(), "device") };
    for result in server.both(&options) {
        let e = refused(result, WANTED);
        assert!(e.message.contains("refuses the client certificate"), "{e}");
    }
    for file in ["device.pem", "device.key"] {
        fs::copy(folder.join(file), strangers.path().join(file)).unwrap();
    }
    for result in server.both(&options) {
        assert_eq!(result.unwrap(), server.initramfs());
    }
}

/// Its TLS ends the connection by an alert; nginx answers 400.
#[test]
fn a_registry_that_ends_tls_without_a_client_certificate_is_told_as_that() {
    let (folder, strangers) = (certificates(), certificates());
    let at = folder.path().display();
    client(strangers.path(), "device");
    let tls =
        format!("  tls:\n    certificate: {at}/cert.pem\n    key: {at}/key.pem\n    clientcas:\n      - {at}/ca.pem\n");
    let registry = Registry::start().sibling(&tls);
    let e = refused(by_registry(&options(&folder.path().join("ca.pem")), &registry.address), WANTED);
    assert!(e.message.contains("wants a client certificate (TLS alert"), "{e}");
    let options =
        FetchOptions { registry_ca: Some(folder.path().join("ca.pem")), ..identified(strangers.path(), "device") };
    let e = refused(by_registry(&options, &registry.address), WANTED);
    assert!(e.message.contains("refuses the client certificate of registry_cert (TLS alert"), "{e}");
}

#[test]
fn another_server_sees_no_client_certificate() {
    let folder = certificates();
    let folder = folder.path();
    client(folder, "device");
    let at = folder.display();
    let curious = format!(
        "ssl_client_certificate {at}/ca.pem; ssl_verify_client optional; if ($ssl_client_verify != NONE) {{ return 403; }}"
    );
    let elsewhere = Secure::start(folder, &curious);
    let away = format!(
        "{} location /away/ {{ rewrite ^/away/(.*)$ https://{}/os/$1 redirect; }}",
        wanting(folder),
        elsewhere.address
    );
    let server = Secure::start(folder, &away);
    let options = identified(folder, "device");
    let redirected = over_http(&options, &format!("https://{}/away", server.address));
    assert_eq!(redirected.unwrap(), server.initramfs());
    assert!(server.nginx.requests().iter().any(|request| request == "GET /away/latest.json"));
    assert!(elsewhere.nginx.requests().iter().any(|request| request == "GET /os/latest.json"));
    refused(over_http(&options, &format!("https://{}/os", elsewhere.address)), Reason::AccessDenied);
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_a_configuration_error() {
    let folder = certificates();
    let folder = folder.path();
    for name in ["device", "other"] {
        client(folder, name);
    }
    openssl(folder, "pkey -aes256 -passout pass:secret -in device.key -out encrypted.key");
    fs::copy(folder.join("device.pem"), folder.join("encrypted.pem")).unwrap();
    fs::copy(folder.join("device.pem"), folder.join("swapped.pem")).unwrap();
    fs::copy(folder.join("other.key"), folder.join("swapped.key")).unwrap();
    openssl(folder, "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out old.pem");
    fs::copy(folder.join("other.key"), folder.join("old.key")).unwrap();
    fs::copy(folder.join("device.key"), folder.join("no-certificate.pem")).unwrap();
    fs::copy(folder.join("device.key"), folder.join("no-certificate.key")).unwrap();
    fs::copy(folder.join("device.pem"), folder.join("no-key.pem")).unwrap();
    fs::copy(folder.join("device.pem"), folder.join("no-key.key")).unwrap();
    fs::set_permissions(folder.join("other.key"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(folder.join("no-key.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let secrets = fs::read_to_string(folder.join("device.key")).unwrap();
    let secrets: Vec<&str> = secrets.lines().filter(|line| line.len() > 40).collect();
    for (name, words) in [
        ("absent", "is not there"),
        ("other", "others can read it"),
        ("encrypted", "is encrypted"),
        ("swapped", "is not the key of"),
        ("old", "UnsupportedCertVersion"),
        ("no-certificate", "no certificate in it"),
        ("no-key", "no private key in it"),
    ] {
        // No request is sent: nobody is at that port.
        let e = refused(by_registry(&identified(folder, name), "127.0.0.1:9"), Reason::BadCredentials);
        assert!(e.message.contains(words) && !e.remedy.is_empty(), "{name}: {e:?}");
        assert!(!secrets.iter().any(|secret| e.message.contains(secret)), "{e}");
    }
}

#[test]
fn no_part_of_a_client_key_is_in_any_output() {
    let folder = certificates();
    client(folder.path(), "device");
    let server = Secure::start(folder.path(), &wanting(folder.path()));
    let device = Device::new();
    for file in ["ca.pem", "device.pem", "device.key"] {
        fs::copy(folder.path().join(file), device.path(file)).unwrap();
    }
    fs::set_permissions(device.path("device.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let key = fs::read_to_string(device.path("device.key")).unwrap();
    let settings = "registry_ca=ca.pem\nregistry_cert=device.pem\nregistry_key=device.key\n";
    let reference = format!("{}/os", server.address);
    for broken in ["", "registry_cert=ca.pem\n"] {
        let settings = if broken.is_empty() {
            settings.to_owned()
        } else {
            settings.replace("registry_cert=device.pem\n", broken)
        };
        device.write("conf", settings.as_bytes());
        for arguments in
            [&["-vvv", "check", "--json"][..], &["-vvv", "apply"], &["-vvv", "config", "show"], &["status", "--json"]]
        {
            let source = ["--registry", &reference, "--tag", "stable", "--pubkey", "K"];
            let source = if arguments.iter().any(|word| ["check", "apply"].contains(word)) { &source[..] } else { &[] };
            let arguments = [&device.local(arguments)[..], source].concat();
            let ran = device.run(if arguments.contains(&"config") {
                &["--conf", "conf", "-vvv", "config", "show"]
            } else {
                &arguments
            });
            for line in key.lines().filter(|line| line.len() > 40) {
                assert!(!ran.stdout.contains(line) && !ran.stderr.contains(line), "{ran:?}");
            }
        }
    }
}
