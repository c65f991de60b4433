//! A real registry (CNCF Distribution) on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release;
use serde_json::Value;
use tempfile::TempDir;

/// Runs until dropped; its storage is a temporary folder.
pub struct Registry {
    /// `127.0.0.1:port`
    pub address: String,
    child: Child,
    folder: TempDir,
    storage: Arc<TempDir>,
}

impl AsRef<str> for Registry {
    fn as_ref(&self) -> &str {
        &self.address
    }
}

impl Registry {
    /// Plain HTTP.
    pub fn start() -> Self {
        Self::serve(Arc::new(TempDir::new().unwrap()), "")
    }

    /// A second registry with the same content. `more` ends its configuration: more of the `http:` section, indented by
    /// two, and other sections.
    pub fn sibling(&self, more: &str) -> Self {
        Self::serve(self.storage.clone(), more)
    }

    /// A pull-through cache of another registry, empty at first.
    pub fn cache(upstream: &str) -> Self {
        Self::serve(Arc::new(TempDir::new().unwrap()), &format!("proxy:\n  remoteurl: http://{upstream}\n"))
    }

    fn serve(storage: Arc<TempDir>, more: &str) -> Self {
        let program = find("docker-registry").expect("docker-registry is needed: apt-get install docker-registry");
        // Another process can take the port between its choice and its use.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let folder = TempDir::new().unwrap();
            let config = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  \
                 filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
                storage.path().display()
            );
            std::fs::write(folder.path().join("config.yml"), config).unwrap();
            let log = std::fs::File::create(folder.path().join("log")).unwrap();
            let mut child = Command::new(&program)
                .arg("serve")
                .arg(folder.path().join("config.yml"))
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let begin = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&address).is_ok() {
                    return Self { address, child, folder, storage };
                }
                assert!(begin.elapsed() < Duration::from_secs(60), "registry does not answer");
                std::thread::sleep(Duration::from_millis(20));
            }
            eprintln!("registry: {}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
        }
        panic!("registry does not start");
    }

    /// Where its blobs lie.
    pub fn storage(&self) -> PathBuf {
        self.storage.path().join("docker/registry/v2")
    }

    /// The file that holds a blob.
    pub fn blob_file(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.storage().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Uploads a blob.
    pub fn blob(&self, repository: &str, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(begun.status, 202, "{}", begun.text());
        let location = begun.header("location").expect("location of the upload").to_owned();
        let path = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path);
        let done = self.request("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", blob);
        assert_eq!(done.status, 201, "{}", done.text());
        digest
    }

    /// Uploads a manifest or an index under a tag or its digest.
    pub fn manifest(&self, repository: &str, reference: &str, media_type: &str, body: &[u8]) -> Digest {
        let done = self.request("PUT", &format!("/v2/{repository}/manifests/{reference}"), media_type, body);
        assert_eq!(done.status, 201, "{}", done.text());
        Digest::of(body)
    }

    /// The bytes of a manifest or index, by tag or digest, as they are stored.
    pub fn read(&self, repository: &str, reference: &str) -> Vec<u8> {
        let link = self.storage().join("repositories").join(repository).join("_manifests/tags").join(reference);
        let digest = std::fs::read_to_string(link.join("current/link")).unwrap_or_else(|_| reference.to_owned());
        std::fs::read(self.blob_file(digest.parse().unwrap())).unwrap()
    }

    /// Uploads an artifact: its blobs first, then its manifest by digest.
    pub fn artifact(&self, repository: &str, manifest: &Value, blobs: &[&[u8]]) -> Vec<u8> {
        self.blob(repository, b"{}");
        for blob in blobs {
            self.blob(repository, blob);
        }
        let raw = super::bytes(manifest);
        self.manifest(repository, &Digest::of(&raw).to_string(), release::OCI_MANIFEST_TYPE, &raw);
        raw
    }

    fn request(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut raw = vec![];
        stream.read_to_end(&mut raw).unwrap();
        let head = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("HTTP answer");
        let mut lines = std::str::from_utf8(&raw[..head]).unwrap().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Answer { status, headers, body: raw[head + 4..].to_vec() }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A program of the system, or of the tools that the set-up put below `target`.
pub fn find(program: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([tools.join("usr/bin"), tools.join("usr/sbin"), tools.join("bin"), "/usr/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}
