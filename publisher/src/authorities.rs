//! Certificate authorities for systems that have none.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::memfd::{MFdFlags, memfd_create};

use kubesolo_update::base::error::{Context as _, Reason, Result};
use kubesolo_update::fetch::tls;

/// The built-in certificate authorities as a PEM file without a name, if this system has none.
///
/// Small containers have none, and `oci-client` 0.18 needs some whatever it is configured with: its constructor also makes a
/// second HTTP client with default settings, which panics without them. Only `SSL_CERT_FILE` has an influence on that, and
/// safe code cannot change the environment of a running process. So the caller starts the program again, before it does
/// anything else, with the returned path in `SSL_CERT_FILE`. The path lives as long as the file.
pub fn missing() -> Result<Option<(PathBuf, OwnedFd)>> {
    const OURS: &str = "/proc/self/fd/";
    let again =
        std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file.as_encoded_bytes().starts_with(OURS.as_bytes()));
    if again || !tls::system_authorities().is_empty() {
        return Ok(None);
    }
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let text = STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|b| char::from(*b)));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    // Not closed on exec: the next program reads it.
    let write = || -> std::io::Result<(PathBuf, OwnedFd)> {
        let mut file = File::from(memfd_create("authorities", MFdFlags::empty())?);
        file.write_all(pem.as_bytes())?;
        Ok((format!("{OURS}{}", file.as_raw_fd()).into(), file.into()))
    };
    write().map(Some).context(Reason::NoAuthorities, "lay out the built-in certificate authorities")
}
