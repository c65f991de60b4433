//! A published release in one file, for devices without a network: an OCI image layout in a tar archive.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::contents::Contents;
use super::registry::{Access, Registry, Rights};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::limits;
use kubesolo_update::base::replace::Replacement;
use kubesolo_update::release::release::{Architecture, Blob};
use kubesolo_update::source::bundle::BundleSource;
use kubesolo_update::source::source::Source as _;

const BLOCK: u64 = 512;
/// The file that marks an OCI image layout.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The largest size that a header can say, in bytes: 11 octal digits.
const FILE_BYTES: u64 = 0o777_7777_7777;

/// Writes what `reference` names into `file`: all architectures, or one, with all that is attached to them: signatures, bills
/// of materials, provenance, and types that this program does not know.
///
/// The bytes depend on the release alone. Returns what devices will take for the releases.
pub fn bundle(
    reference: &str,
    file: &Path,
    architecture: Option<Architecture>,
    access: &Access,
) -> Result<Vec<(Architecture, Digest)>> {
    let registry = Registry::open(reference, access, Rights::Pull)?;
    let (contents, collected) = Contents::collect(&registry, architecture)?;
    let archive = Archive { registry: &registry, contents };
    archive.check()?;
    archive.write(file)?;
    // The device's own reader has the last word.
    let mut written = BundleSource::open(file, None, &collected.name)?;
    let manifests = collected.manifests.into_iter();
    manifests.map(|(architecture, _)| Ok((architecture, written.offer(architecture)?.release.digest))).collect()
}

/// Content of the archive, and the registry that has the large files.
struct Archive<'a> {
    registry: &'a Registry,
    contents: Contents,
}

impl Archive<'_> {
    /// The limits of a bundle, before the first byte is written.
    fn check(&self) -> Result<()> {
        let Contents { entries, documents, blobs, .. } = &self.contents;
        if blobs.values().any(|size| *size > FILE_BYTES) {
            return Err(limits::exceeded("file in a bundle", format_args!("{FILE_BYTES} bytes")));
        }
        if entries.len() > limits::REFERRERS {
            return Err(limits::exceeded("bundle", format_args!("{} attachments", limits::REFERRERS)));
        }
        // `oci-layout` and `index.json`.
        if documents.len() + blobs.len() + 2 > limits::BUNDLE_ENTRIES {
            return Err(limits::exceeded("bundle", format_args!("{} entries", limits::BUNDLE_ENTRIES)));
        }
        Ok(())
    }

    /// Writes the archive beside its place, and then puts it there.
    fn write(&self, target: &Path) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::new(Reason::NotWritten, format!("cannot write {}: {e}", target.display()));
        let mut replacement = Replacement::begin(target, 0o644).map_err(failed)?;
        self.fill(replacement.file(), &failed)?;
        replacement.finish().map_err(failed)
    }

    fn fill(&self, file: &mut File, failed: &dyn Fn(std::io::Error) -> Error) -> Result<()> {
        let Contents { entries, documents, blobs, .. } = &self.contents;
        let mut put = |name: &str, bytes: &[u8]| {
            let padding = vec![0; padding(bytes.len() as u64)];
            file.write_all(&[&header(name, bytes.len() as u64)[..], bytes, &padding].concat()).map_err(failed)
        };
        put("oci-layout", OCI_LAYOUT)?;
        put("index.json", &Contents::index(entries))?;
        for (digest, bytes) in documents {
            put(&path(digest), bytes)?;
        }
        for (digest, size) in blobs.iter().filter(|(digest, _)| !documents.contains_key(digest)) {
            file.write_all(&header(&path(digest), *size)).map_err(failed)?;
            self.registry.blob_to(&format!("blob {digest}"), &Blob { digest: *digest, size: *size }, file)?;
            file.write_all(&vec![0; padding(*size)]).map_err(failed)?;
        }
        // The end mark.
        file.write_all(&[0; 2 * BLOCK as usize]).map_err(failed)
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn padding(size: u64) -> usize {
    // Less than a block.
    (size.next_multiple_of(BLOCK) - size) as usize
}

/// A header as of POSIX, of a file that belongs to nobody in particular and has no time: the same release is the same
/// archive.
fn header(name: &str, size: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
