//! The OCI source, against a real registry and against a server that breaks every promise.

use crate::common;

mod access;
mod cosign;
mod documents;
mod images;
mod login;
mod mirrors;
mod registry;
mod signatures;

use std::net::TcpStream;
use std::time::Duration;

use common::fault::{Fault, Request, World};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::config::proxy::ProxySetting;
use kubesolo_update::fetch::options::{FetchOptions, Patience};
use kubesolo_update::release::offer::Offer;
use kubesolo_update::release::release::{Architecture, Blob};
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::source::{Known, Source};

fn impatient() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        documents: Duration::from_secs(20),
        idle: Duration::from_secs(5),
        retry_pause: Duration::from_millis(10),
        retry_after_max: Duration::from_secs(3),
        ..Patience::default()
    }
}

fn options(hosts: &[&str]) -> FetchOptions {
    let plain_http = hosts.iter().map(|&host| host.to_owned()).collect();
    FetchOptions { plain_http, proxy: Some(ProxySetting::Direct), patience: impatient(), ..FetchOptions::default() }
}

fn source_with(server: &impl AsRef<str>, options: &FetchOptions) -> OciSource {
    OciSource::new(options, &format!("{}/os", server.as_ref()), None, "stable").unwrap()
}

fn source(server: &impl AsRef<str>) -> OciSource {
    source_with(server, &options(&[server.as_ref()]))
}

fn offer(server: &impl AsRef<str>) -> Result<Offer, Error> {
    source(server).offer(Architecture::Amd64)
}

fn refused<T>(result: Result<T, Error>, reason: Reason) -> Error {
    let e = result.map(|_| "accepted").unwrap_err();
    assert_eq!(e.reason, reason, "{e}");
    assert!(e.message.is_ascii() && !e.message.bytes().any(|b| b.is_ascii_control()), "{}", e.message);
    e
}

fn fetch(source: &mut OciSource, blob: &Blob) -> Result<Vec<u8>, Error> {
    let mut body = source.open(blob)?;
    let mut all = vec![];
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
        assert!(all.len() as u64 <= blob.size, "never more than the size");
    }
    Ok(all)
}

/// The release of the world, but for paths that contain `part`, which `answer` answers.
fn broken(world: &World, part: &str, answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
    let (world, part) = (world.clone(), part.to_owned());
    Fault::start(move |request, out| match request.path.contains(&part) {
        true => answer(request, out),
        false => world.answer(request, out),
    })
}

fn initramfs(world: &World) -> Blob {
    Blob { digest: Digest::of(&world.initramfs), size: world.initramfs.len() as u64 }
}

/// Downloads the initramfs from a server that answers so.
fn download(
    world: &World,
    answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static,
) -> (Result<Vec<u8>, Error>, Fault) {
    let server = broken(world, "/blobs/", answer);
    (fetch(&mut source(&server), &initramfs(world)), server)
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
