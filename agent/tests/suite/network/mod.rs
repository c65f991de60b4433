//! Real networks: servers with TLS of their own kind, and what stands between them and the device.

mod at_fault;
mod certificates;
mod lines;
mod proxies;

use std::net::TcpListener;
use std::path::Path;

use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::fetch::options::FetchOptions;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::http::HttpSource;
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::source::{Known, Source};
use tempfile::TempDir;

use crate::common;
use crate::common::nginx::Nginx;
use crate::common::registry::Registry;
use crate::http::{self, Site};

/// For a server with a certificate by this authority.
fn options(authority: &Path) -> FetchOptions {
    FetchOptions { registry_ca: Some(authority.to_owned()), ..http::options() }
}

/// Takes the release on offer, and fetches the larger image of it.
fn fetched(mut source: impl Source) -> Result<Vec<u8>, Error> {
    let release = source.offer(Architecture::Amd64)?.release;
    let blob = source.locate(release.initramfs)?;
    let (mut body, mut all) = (source.open(&blob)?, vec![]);
    while let Some(chunk) = body.chunk()? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn over_http(options: &FetchOptions, url: &str) -> Result<Vec<u8>, Error> {
    fetched(HttpSource::new(options, url, false)?)
}

fn by_registry(options: &FetchOptions, server: &str) -> Result<Vec<u8>, Error> {
    fetched(OciSource::new(options, &format!("{server}/os"), None, "stable")?)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, reason: Reason) -> Error {
    let e = result.map(|_| "accepted").unwrap_err();
    assert_eq!(e.reason, reason, "{e}");
    assert!(e.message.is_ascii() && !e.message.bytes().any(|b| b.is_ascii_control()), "{}", e.message);
    e
}

/// A registry and an HTTP server with the same release, behind one nginx with TLS.
struct Secure {
    nginx: Nginx,
    /// `127.0.0.1:port` of the listener with TLS.
    address: String,
    site: Site,
    _root: TempDir,
    _registry: Registry,
}

impl Secure {
    /// With `cert.pem` and `key.pem` of the folder. `more` ends the `server` section of nginx.
    fn start(certificates: &Path, more: &str) -> Self {
        Self::serve(Site::small(), certificates, more)
    }

    /// The same with this release.
    fn serve(site: Site, certificates: &Path, more: &str) -> Self {
        let root = TempDir::new().unwrap();
        std::fs::create_dir(root.path().join("os")).unwrap();
        for (path, bytes) in &site.files {
            std::fs::write(root.path().join(&path[1..]), bytes).unwrap();
        }
        let registry = Registry::start();
        let images = [&b"kernel"[..], site.get("kubesolo-os.gz")];
        let manifest = common::manifest("v1.0.0", Architecture::Amd64, images[0], images[1]);
        let manifest = registry.artifact("os", &manifest, &images);
        registry.manifest("os", "stable", "application/vnd.oci.image.manifest.v1+json", &manifest);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let at = certificates.display();
        let more = format!(
            "listen {address} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
             location /v2/ {{ proxy_pass http://{}; proxy_set_header Host $http_host; }} {more}",
            registry.address
        );
        let nginx = Nginx::start(root.path(), &more);
        Self { nginx, address, site, _root: root, _registry: registry }
    }

    /// Fetches the same by both protocols.
    fn both(&self, options: &FetchOptions) -> [Result<Vec<u8>, Error>; 2] {
        [over_http(options, &format!("https://{}/os", self.address)), by_registry(options, &self.address)]
    }

    /// How often an image was continued.
    fn resumed(&self) -> usize {
        self.nginx.served().iter().filter(|served| served.range != "-" && served.status == 206).count()
    }

    fn initramfs(&self) -> &[u8] {
        self.site.get("kubesolo-os.gz")
    }
}
