//! A server that does what a real registry cannot be made to do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::{self, Architecture};
use serde_json::Value;

use super::{bytes, key, key_id, sign};

/// One request per connection, each answered by the same function, until the test ends.
pub struct Fault {
    /// `127.0.0.1:port`
    pub address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl AsRef<str> for Fault {
    fn as_ref(&self) -> &str {
        &self.address
    }
}

/// The request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As text; empty for most requests.
    pub body: String,
    /// Requests of the same method for the same path before this one.
    pub earlier: usize,
}

impl Request {
    /// By its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first byte that a `Range` asks for.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok()
    }
}

impl Request {
    /// The last byte that a `Range` asks for.
    pub fn to(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')?.1.parse().ok()
    }
}

impl Fault {
    /// `answer` writes the whole answer, or less of it; then the connection is closed.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, seen) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer, seen) = (stream.unwrap(), answer.clone(), seen.clone());
                std::thread::spawn(move || {
                    let Some(mut request) = read(&stream) else { return };
                    {
                        let mut seen = seen.lock().unwrap();
                        request.earlier =
                            seen.iter().filter(|r| (&r.method, &r.path) == (&request.method, &request.path)).count();
                        seen.push(request.clone());
                    }
                    answer(&request, &mut stream);
                });
            }
        });
        Self { address, log }
    }

    /// All requests until now.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How often something whose path contains `part` was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.path.contains(part)).count()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: Vec<(String, String)> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Request { method, path, headers, body, earlier: 0 })
}

/// Writes a whole answer. `headers` are whole lines, each with its end.
pub fn reply(out: &mut TcpStream, status: u16, headers: &str, body: &[u8]) {
    head(out, status, &format!("{headers}Content-Length: {}\r\n", body.len()));
    send(out, body);
}

/// Writes the head of an answer only.
pub fn head(out: &mut TcpStream, status: u16, headers: &str) {
    send(out, format!("HTTP/1.1 {status} Test\r\nConnection: close\r\n{headers}\r\n").as_bytes());
}

/// Writes bytes; false when the client is gone.
pub fn send(out: &mut TcpStream, bytes: &[u8]) -> bool {
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// Writes one chunk of a chunked body; an empty one ends it.
pub fn chunk(out: &mut TcpStream, bytes: &[u8]) -> bool {
    send(out, format!("{:x}\r\n", bytes.len()).as_bytes()) && send(out, bytes) && send(out, b"\r\n")
}

/// A signed release at `os:stable`, with what a test needs to know of it, as files of a server.
#[derive(Clone)]
pub struct World {
    /// Path to media type and content.
    pub files: BTreeMap<String, (String, Vec<u8>)>,
    /// The manifest for amd64.
    pub manifest: Vec<u8>,
    /// The larger image.
    pub initramfs: Vec<u8>,
}

impl World {
    /// The initramfs has this size, and no two parts of it are alike.
    pub fn new(size: usize) -> Self {
        let initramfs: Vec<u8> =
            (0..size.div_ceil(4) as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(size).collect();
        Self::of(initramfs, "v1.0.0")
    }

    /// With this initramfs, as this version.
    pub fn of(initramfs: Vec<u8>, version: &str) -> Self {
        let manifest = super::manifest(version, Architecture::Amd64, b"kernel", &initramfs);
        Self::of_manifest(&manifest, initramfs)
    }

    /// The same, with an index of pieces.
    pub fn of_pieces(initramfs: Vec<u8>, version: &str, pieces: &[u8]) -> Self {
        let mut manifest = super::manifest(version, Architecture::Amd64, b"kernel", &initramfs);
        manifest["layers"].as_array_mut().unwrap().push(super::descriptor(release::PIECES_TYPE, pieces));
        let mut world = Self::of_manifest(&manifest, initramfs);
        world.blob(pieces);
        world
    }

    /// With this manifest.
    pub fn of_manifest(manifest: &Value, initramfs: Vec<u8>) -> Self {
        Self::signed_by(manifest, initramfs, 1)
    }

    /// The same, signed by the key made from this byte.
    pub fn signed_by(manifest: &Value, initramfs: Vec<u8>, seed: u8) -> Self {
        let manifest = bytes(manifest);
        let mut world = Self { files: BTreeMap::new(), manifest: manifest.clone(), initramfs: initramfs.clone() };
        world.blob(b"kernel");
        world.blob(&initramfs);
        world.manifest(&manifest);
        world.tag("stable", &bytes(&super::index(&[("amd64", &manifest)])));
        let signature = world.signature(&manifest, seed);
        world.tag(&world.fallback_tag(), &bytes(&super::referrers(&[&signature])));
        world
    }

    /// The tag with the list of referrers.
    pub fn fallback_tag(&self) -> String {
        format!("sha256-{}", Digest::of(&self.manifest).hex())
    }

    /// Path of a blob.
    pub fn path(blob: &[u8]) -> String {
        format!("/v2/os/blobs/{}", Digest::of(blob))
    }

    /// Adds a blob.
    pub fn blob(&mut self, blob: &[u8]) {
        self.files.insert(Self::path(blob), ("application/octet-stream".into(), blob.to_vec()));
    }

    /// Adds a manifest.
    pub fn manifest(&mut self, raw: &[u8]) {
        self.files
            .insert(format!("/v2/os/manifests/{}", Digest::of(raw)), (release::OCI_MANIFEST_TYPE.into(), raw.to_vec()));
    }

    /// Adds or moves the tag of an index.
    pub fn tag(&mut self, tag: &str, index: &[u8]) {
        self.files.insert(format!("/v2/os/manifests/{tag}"), (release::OCI_INDEX_TYPE.into(), index.to_vec()));
    }

    /// Adds a signature, and gives its manifest.
    pub fn signature(&mut self, signed: &[u8], seed: u8) -> Vec<u8> {
        let signature = sign(&key(seed), signed);
        let manifest = bytes(&super::signature_manifest(signed, &signature, &key_id(&key(seed))));
        self.blob(&signature);
        self.manifest(&manifest);
        manifest
    }

    /// Answers as a registry without referrers interface does.
    pub fn answer(&self, request: &Request, out: &mut TcpStream) {
        match self.files.get(&request.path) {
            None => reply(out, 404, "", b"404 page not found"),
            Some((media_type, body)) if request.method == "HEAD" => {
                let digest = Digest::of(body);
                let said = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n");
                head(out, 200, &format!("{said}Content-Length: {}\r\n", body.len()));
            }
            Some((media_type, body)) => match request.from() {
                None => reply(out, 200, &format!("Content-Type: {media_type}\r\n"), body),
                Some(from) => {
                    let last = request.to().unwrap_or(body.len() - 1);
                    let range = format!("Content-Range: bytes {from}-{last}/{}\r\n", body.len());
                    reply(out, 206, &range, &body[from..=last]);
                }
            },
        }
    }
}
