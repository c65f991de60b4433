//! Certificates for a registry on loopback.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

pub fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl").current_dir(folder).args(args.split(' ')).output();
    let done = done.expect("openssl is needed: apt-get install openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An authority (`ca.pem`), and a certificate by it for 127.0.0.1, and for the names of this machine that proxies know.
pub fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(path.join("san"), "subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:registry.test\n").unwrap();
    openssl(path, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test -days 2"));
    openssl(path, &format!("req -new {key} -keyout key.pem -out request -subj /CN=registry"));
    openssl(path, "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem");
    folder
}

/// A certificate by the authority, and its key, for a client: `NAME.pem` and `NAME.key`.
pub fn client(folder: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(folder.join("client"), "extendedKeyUsage=clientAuth\n").unwrap();
    openssl(folder, &format!("req -new {key} -keyout {name}.key -out request -subj /CN={name}"));
    openssl(
        folder,
        &format!(
            "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile client -out {name}.pem"
        ),
    );
}

/// Makes the certificate of the server again, valid between two times (`20200101000000Z`).
pub fn valid(folder: &Path, from: &str, to: &str) {
    let policy = "[ca]\ndefault_ca=c\n[c]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\n\
                  unique_subject=no\n[p]\ncommonName=supplied\n";
    for (name, text) in [("ca.cnf", policy), ("index", ""), ("serial", "01\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    openssl(folder, "req -new -key key.pem -out request -subj /CN=registry");
    let ca = "ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in request -out cert.pem -extfile san";
    openssl(folder, &format!("{ca} -startdate {from} -enddate {to}"));
}

/// The configuration that makes a registry use them.
pub fn section(certificates: &TempDir) -> String {
    let path = certificates.path().display();
    format!("  tls:\n    certificate: {path}/cert.pem\n    key: {path}/key.pem\n")
}
