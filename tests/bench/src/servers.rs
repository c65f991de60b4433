//! The servers that every contestant fetches from, on loopback.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use qemu_tests::{Result, tool};

const PATIENCE: Duration = Duration::from_secs(30);

/// A web server with a folder of files. Dropping it ends it.
pub struct Nginx {
    child: Child,
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
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let own = own.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {own}/pid; error_log {own}/error.log;\nevents {{}}\nhttp {{ access_log off; sendfile on; {paths}\
             server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
            dir.display()
        );
        fs::write(format!("{own}/nginx.conf"), config)?;
        let mut child = Command::new(tool("nginx")?)
            .args(["-c", &format!("{own}/nginx.conf"), "-e", &format!("{own}/error.log")])
            .stdin(Stdio::null())
            .spawn()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && child.try_wait()?.is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { child, port });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("nginx did not start: see {own}/error.log").into())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
