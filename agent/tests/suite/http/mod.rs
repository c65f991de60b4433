//! The `latest.json` source: against a real nginx, and against a server that breaks every promise.

use crate::common;

mod documents;
mod legacy;
mod refused;
mod server;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::Duration;

use common::fault::{self, Fault, Request};
use common::{key, sign};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::config::proxy::ProxySetting;
use kubesolo_update::fetch::options::{FetchOptions, Patience};
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::http::HttpSource;
use kubesolo_update::source::source::{Known, Source};
use serde_json::{Value, json};

/// Short times, and no proxy.
pub fn options() -> FetchOptions {
    let patience = Patience {
        connect: Duration::from_secs(5),
        documents: Duration::from_secs(20),
        idle: Duration::from_secs(5),
        retry_pause: Duration::from_millis(10),
        ..Patience::default()
    };
    FetchOptions { proxy: Some(ProxySetting::Direct), patience, ..FetchOptions::default() }
}

fn source(server: &impl AsRef<str>) -> HttpSource {
    HttpSource::new(&options(), &format!("http://{}/os", server.as_ref()), false).unwrap()
}

fn offer(server: &impl AsRef<str>) -> Result<Offer, Error> {
    source(server).offer(Architecture::Amd64)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, reason: Reason) -> Error {
    let e = result.map(|_| "accepted").unwrap_err();
    assert_eq!(e.reason, reason, "{e}");
    assert!(e.message.is_ascii() && !e.message.bytes().any(|b| b.is_ascii_control()), "{}", e.message);
    e
}

/// Fetches the initramfs of the release on offer.
fn fetch(source: &mut HttpSource, offer: &Offer) -> Result<Vec<u8>, Error> {
    let blob = source.locate(offer.release.initramfs)?;
    let mut body = source.open(&blob)?;
    let mut all = vec![];
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// A signed release below `/os`, as files of a server.
#[derive(Clone)]
pub struct Site {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Site {
    pub fn new(version: &str, kernel: &[u8], initramfs: &[u8]) -> Self {
        let mut site = Self { files: BTreeMap::new() };
        for (name, bytes) in [("vmlinuz", kernel), ("kubesolo-os.gz", initramfs)] {
            site.put(name, bytes);
            site.put(&format!("{name}.sig"), &sign(&key(1), bytes));
        }
        site.sign(&json!({
            "version": version, "channel": "stable", "architecture": Architecture::current().to_string(),
            "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": Digest::of(kernel).hex(), "vmlinuz_sig_url": "vmlinuz.sig",
            "initramfs_url": "kubesolo-os.gz", "initramfs_sha256": Digest::of(initramfs).hex(),
            "initramfs_sig_url": "kubesolo-os.gz.sig",
        }));
        site
    }

    /// A small one.
    pub fn small() -> Self {
        Self::new("1.0.0", b"kernel", &b"initramfs ".repeat(30_000))
    }

    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        self.files.insert(format!("/os/{name}"), bytes.to_vec());
    }

    pub fn get(&self, name: &str) -> &[u8] {
        &self.files[&format!("/os/{name}")]
    }

    fn document(&self) -> Value {
        serde_json::from_slice(self.get("latest.json")).unwrap()
    }

    /// Sets `latest.json`, and signs it.
    fn sign(&mut self, document: &Value) {
        let raw = document.to_string().into_bytes();
        self.put("latest.json.sig", &sign(&key(1), &raw));
        self.put("latest.json", &raw);
    }

    /// The same release with another document, signed; a member that becomes null is taken out.
    fn with(&self, change: Value) -> Self {
        let (mut site, mut document) = (self.clone(), self.document());
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(document.as_object_mut().unwrap().remove(name)),
                value => document[name] = value.clone(),
            }
        }
        site.sign(&document);
        site
    }

    fn without(&self, name: &str) -> Self {
        let mut site = self.clone();
        site.files.remove(&format!("/os/{name}"));
        site
    }

    pub fn answer(&self, request: &Request, out: &mut TcpStream) {
        let tag = self.files.get(&request.path).map(|body| format!("\"{}\"", &Digest::of(body).hex()[..12]));
        match (self.files.get(&request.path), request.from()) {
            (None, _) => fault::reply(out, 404, "", b"not here"),
            (Some(_), None) if tag.as_deref() == request.header("if-none-match") => fault::head(out, 304, ""),
            (Some(body), None) => fault::reply(out, 200, &format!("ETag: {}\r\n", tag.unwrap_or_default()), body),
            (Some(body), Some(from)) => {
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
                fault::reply(out, 206, &range, &body[from..]);
            }
        }
    }

    fn serve(&self) -> Fault {
        let site = self.clone();
        Fault::start(move |request, out| site.answer(request, out))
    }

    /// Everything as it is, but for paths that end in `part`.
    fn broken(&self, part: &str, answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
        let (site, part) = (self.clone(), part.to_owned());
        Fault::start(move |request, out| match request.path.ends_with(&part) {
            true => answer(request, out),
            false => site.answer(request, out),
        })
    }
}

/// Paths that were asked for, in order.
fn paths(server: &Fault) -> Vec<String> {
    server.requests().into_iter().map(|request| request.path).collect()
}
