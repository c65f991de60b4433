//! The servers that every contestant fetches from, on loopback.

use std::fs;
use std::path::Path;
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
        fs::create_dir_all(own)?;
        let log = own.join("error.log");
        let own = own.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
            .concat();
        let server = Server::start(&log, |port| {
            let config = format!(
                "daemon off; master_process off; pid {own}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; sendfile on; {paths}\
                 server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
                dir.display()
            );
            fs::write(format!("{own}/nginx.conf"), config)?;
            let mut command = Command::new(tool("nginx")?);
            command.args(["-c", &format!("{own}/nginx.conf"), "-e", "stderr"]);
            Ok(command)
        })?;
        Ok(Self { port: server.port, _server: server })
    }
}
