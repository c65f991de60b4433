//! Certificates for a registry on loopback.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl").current_dir(folder).args(args.split(' ')).output();
    let done = done.expect("openssl is needed: apt-get install openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An authority (`ca.pem`), and a certificate by it for 127.0.0.1.
pub fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(path.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(path, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test -days 2"));
    openssl(path, &format!("req -new {key} -keyout key.pem -out request -subj /CN=registry"));
    openssl(path, "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem");
    folder
}

/// The configuration that makes a registry use them.
pub fn section(certificates: &TempDir) -> String {
    let path = certificates.path().display();
    format!("  tls:\n    certificate: {path}/cert.pem\n    key: {path}/key.pem\n")
}
