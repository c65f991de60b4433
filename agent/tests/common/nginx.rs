//! A real nginx on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::registry::find;

/// The path of a request that is no test's.
const MARK: &str = "/read-the-log";

/// Serves a folder until dropped.
pub struct Nginx {
    /// `127.0.0.1:port`
    pub address: String,
    child: Child,
    folder: TempDir,
}

impl AsRef<str> for Nginx {
    fn as_ref(&self) -> &str {
        &self.address
    }
}

/// One line of its log.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    pub method: String,
    pub path: String,
    pub status: u16,
    /// As it was asked for; `-` if it was not.
    pub range: String,
    pub if_range: String,
}

impl Nginx {
    /// Plain HTTP. `more` ends the `server` section.
    pub fn start(root: &Path, more: &str) -> Self {
        // Another process can take the port between its choice and its use.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let folder = TempDir::new().unwrap();
            let at = folder.path().display();
            let config = format!(
                "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
                 events {{}}
                 http {{
                   log_format t '$request_method $request_uri $status \"$http_range\" \"$http_if_range\"';
                   access_log {at}/log t; sendfile on; default_type application/octet-stream; etag on;
                   client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;
                   uwsgi_temp_path {at}/4; scgi_temp_path {at}/5;
                   server {{ listen {address}; root {}; {more} }}
                 }}",
                root.display()
            );
            std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
            if let Some(child) = run(&folder, &address) {
                return Self { address, child, folder };
            }
            eprintln!("nginx: {}", std::fs::read_to_string(folder.path().join("error.log")).unwrap_or_default());
        }
        panic!("nginx does not start");
    }

    /// Breaks all connections, and is back under the same address after `meanwhile`.
    pub fn restart(&mut self, meanwhile: impl FnOnce()) {
        self.stop();
        meanwhile();
        self.child = run(&self.folder, &self.address).expect("nginx starts again");
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The requests so far. Nginx logs a request after its last byte, but before it closes the connection of a later one.
    pub fn served(&self) -> Vec<Served> {
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let _ = write!(stream, "GET {MARK} HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_end(&mut vec![]);
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let line = |line: &str| {
            let (request, rest) = line.split_once(" \"").unwrap();
            let (range, if_range) = rest.split_once("\" \"").unwrap();
            let words: Vec<&str> = request.split(' ').collect();
            Served {
                method: words[0].into(),
                path: words[1].into(),
                status: words[2].parse().unwrap(),
                range: range.into(),
                if_range: if_range.strip_suffix('"').unwrap().replace("\\x22", "\""),
            }
        };
        log.lines().map(line).filter(|served| served.path != MARK).collect()
    }

    /// The same, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.served().iter().map(|served| format!("{} {}", served.method, served.path)).collect()
    }
}

fn run(folder: &TempDir, address: &str) -> Option<Child> {
    let program = find("nginx").expect("nginx is needed: apt-get install nginx");
    let mut child = Command::new(program)
        .args(["-p", folder.path().to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if TcpStream::connect(address).is_ok() {
            return Some(child);
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "nginx does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}
