//! The servers that every contestant fetches from, on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::server::Server;
use qemu_tests::{Result, tool};

/// A web server with a folder of files. Dropping it ends it.
pub struct Nginx {
    _server: Server,
    /// Its port.
    pub port: u16,
}

impl Nginx {
    /// Serves `dir`.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(dir: &Path, own: &Path) -> Result<Self> {
        Self::run(own, |port| format!("listen 127.0.0.1:{port}; root {};", dir.display()))
    }

    /// Serves a registry on loopback by TLS. Returns the file with its authority, too.
    ///
    /// # Errors
    /// As [`Nginx::start`]; openssl makes no certificate.
    pub fn tls(registry: u16, own: &Path) -> Result<(Self, PathBuf)> {
        fs::create_dir_all(own)?;
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| own.join(name));
        let mut openssl = Command::new(tool("openssl")?);
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "3650",
        ]);
        openssl.args(["-subj", "/CN=bench", "-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]);
        qemu_tests::run(openssl.arg(&key).arg("-out").arg(&certificate))?;
        let (shown, key) = (certificate.display().to_string(), key.display().to_string());
        let server = Self::run(own, |port| {
            format!(
                "listen 127.0.0.1:{port} ssl; ssl_certificate {shown}; ssl_certificate_key {key}; \
                 location / {{ proxy_pass http://127.0.0.1:{registry}; proxy_buffering off; proxy_http_version 1.1; }}"
            )
        })?;
        Ok((server, certificate))
    }

    /// With this content of its `server` block, for the port.
    fn run(own: &Path, block: impl Fn(u16) -> String) -> Result<Self> {
        fs::create_dir_all(own)?;
        let log = own.join("error.log");
        let own = own.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
            .concat();
        let server = Server::start(&log, |port| {
            let config = format!(
                "daemon off; master_process off; pid {own}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; sendfile on; {paths}\
                 server {{ {} }} }}\n",
                block(port)
            );
            fs::write(format!("{own}/nginx.conf"), config)?;
            let mut command = Command::new(tool("nginx")?);
            command.args(["-c", &format!("{own}/nginx.conf"), "-e", "stderr"]);
            Ok(command)
        })?;
        Ok(Self { port: server.port, _server: server })
    }
}
