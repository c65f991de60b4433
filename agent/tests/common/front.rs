//! A server in front of Debian's registry that lists referrers, and refuses uploads for a moment, as that registry cannot.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use kubesolo_update::release::release::{OCI_INDEX_TYPE, OCI_MANIFEST_TYPE};
use serde_json::{Value, json};

use super::registry::Registry;

/// By the digest of the subject.
type Lists = Arc<Mutex<BTreeMap<String, Vec<Value>>>>;

/// Starts it in front of `registry`; returns its `127.0.0.1:port`. The first uploads, as many as `busy` says, are answered
/// with 503 after their last byte.
pub fn start(registry: &Registry, busy: i32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, behind) = (listener.local_addr().unwrap().to_string(), registry.address.clone());
    let (lists, busy) = (Lists::default(), Arc::new(AtomicI32::new(busy)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (behind, lists, busy) = (behind.clone(), lists.clone(), busy.clone());
            std::thread::spawn(move || serve(&stream.unwrap(), &behind, &lists, &busy));
        }
    });
    address
}

/// One request, then the connection is closed.
fn serve(stream: &TcpStream, behind: &str, lists: &Lists, busy: &AtomicI32) {
    let mut reader = BufReader::new(stream);
    let mut head = vec![];
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push(line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request: Vec<&str> = head[0].split(' ').collect();
    let (method, path) = (request[0], request[1]);

    let mut writer = stream;
    if let Some((_, subject)) = path.split_once("/referrers/") {
        let subject = subject.split('?').next().unwrap();
        let manifests = lists.lock().unwrap().get(subject).cloned().unwrap_or_default();
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX_TYPE, "manifests": manifests}).to_string();
        let _ = write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Type: {OCI_INDEX_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{list}",
            list.len()
        );
        return;
    }
    if method == "PUT" && path.contains("/uploads/") && busy.fetch_sub(1, Ordering::SeqCst) > 0 {
        let _ = write!(writer, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    if method == "PUT" && path.contains("/manifests/") {
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        if let Some(subject) = manifest["subject"]["digest"].as_str() {
            let mut entry = super::descriptor(OCI_MANIFEST_TYPE, &body);
            entry["artifactType"] = manifest["artifactType"].clone();
            lists.lock().unwrap().entry(subject.to_owned()).or_default().push(entry);
        }
    }
    let mut backend = TcpStream::connect(behind).unwrap();
    write!(backend, "{}Connection: close\r\n\r\n", head.concat()).unwrap();
    backend.write_all(&body).unwrap();
    let _ = std::io::copy(&mut backend, &mut writer);
}
