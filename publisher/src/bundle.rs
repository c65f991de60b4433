//! A published release in one file, for devices without a network: an OCI image layout in a tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::registry::{Access, Registry, Rights};
use super::{document, read};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::replace::Replacement;
use kubesolo_update::base::{json as strict, limits};
use kubesolo_update::release::release::{self, Architecture, Blob, Manifest};
use kubesolo_update::release::statement;
use kubesolo_update::source::bundle::BundleSource;
use kubesolo_update::source::source::Source as _;
use kubesolo_update::trust::sigstore;

const BLOCK: u64 = 512;
/// The largest size that a header can say, in bytes: 11 octal digits.
const FILE_BYTES: u64 = 0o777_7777_7777;

/// Writes what `reference` names into `file`: all architectures, or one, with all that is attached to them.
///
/// The bytes depend on the release alone. Returns what devices will take for the releases.
pub fn bundle(
    reference: &str,
    file: &Path,
    architecture: Option<Architecture>,
    access: &Access,
) -> Result<Vec<(Architecture, Digest)>> {
    let registry = Registry::open(reference, access, Rights::Pull)?;
    let mut found = read::read(&registry)?;
    if let Some(wanted) = architecture {
        found.manifests.retain(|manifest| manifest.release.architecture == wanted);
    }
    let Some(first) = found.manifests.first() else {
        let message = format!("{} has nothing for the requested architecture", registry.reference());
        return Err(Error::new(Reason::NoSuchArchitecture, message));
    };
    let channel = first.release.channel.clone();
    let name = registry.tag().map(str::to_owned).or(channel).unwrap_or_else(|| "stable".to_owned());
    let mut layout = Layout::new(&registry);
    if found.is_index && architecture.is_none() {
        layout.name(&found.raw, found.media_type, &name);
        for manifest in &found.manifests {
            layout.artifact(&manifest.raw)?;
        }
    } else {
        layout.artifact(&first.raw)?;
        layout.name(&first.raw, release::OCI_MANIFEST_TYPE, &name);
    }
    for manifest in &found.manifests {
        layout.attached(manifest.release.digest)?;
    }
    // Statements are about a tag.
    if let Some(tag) = registry.tag() {
        let statement = format!("{tag}{}", statement::TAG_SUFFIX);
        if let Some(raw) = registry.manifest(&statement)? {
            layout.artifact(&raw)?;
            layout.name(&raw, release::OCI_MANIFEST_TYPE, &statement);
        }
    }
    layout.write(file)?;
    // The device's own reader has the last word.
    let mut written = BundleSource::open(file, None, &name)?;
    found
        .manifests
        .iter()
        .map(|m| Ok((m.release.architecture, written.offer(m.release.architecture)?.release.digest)))
        .collect()
}

/// Content of the archive.
struct Layout<'a> {
    registry: &'a Registry,
    entries: Vec<Value>,
    small: BTreeMap<Digest, Vec<u8>>,
    large: BTreeMap<Digest, u64>,
}

impl<'a> Layout<'a> {
    fn new(registry: &'a Registry) -> Self {
        Self { registry, entries: vec![], small: BTreeMap::new(), large: BTreeMap::new() }
    }

    /// An entry of `index.json`.
    fn entry(&mut self, raw: &[u8], media_type: &str) -> &mut Value {
        self.small.insert(Digest::of(raw), raw.to_vec());
        self.entries.push(json!({ "mediaType": media_type, "digest": Digest::of(raw), "size": raw.len() }));
        self.entries.last_mut().expect("one was just added")
    }

    fn name(&mut self, raw: &[u8], media_type: &str, name: &str) {
        self.entry(raw, media_type)["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }

    /// A manifest, and everything that it names.
    fn artifact(&mut self, raw: &[u8]) -> Result<()> {
        let manifest: Manifest = strict::parse(raw, "manifest")?;
        manifest.check()?;
        self.small.insert(Digest::of(raw), raw.to_vec());
        for part in manifest.layers.iter().chain([&manifest.config]) {
            if part.size > FILE_BYTES {
                return Err(limits::exceeded("file in a bundle", format_args!("{FILE_BYTES} bytes")));
            }
            self.large.insert(part.digest.parse()?, part.size);
        }
        Ok(())
    }

    /// The signatures of a manifest, in every form.
    fn attached(&mut self, subject: Digest) -> Result<()> {
        for found in read::attachments(self.registry, subject)? {
            self.artifact(&found.manifest)?;
            match &found.tag {
                Some(tag) => self.name(&found.manifest, release::OCI_MANIFEST_TYPE, tag),
                None => {
                    let manifest: Manifest = strict::parse(&found.manifest, "manifest")?;
                    let ours = manifest.is_of_type(release::SIGNATURE_TYPE);
                    let kind = if ours { release::SIGNATURE_TYPE } else { sigstore::BUNDLE_TYPE };
                    self.entry(&found.manifest, release::OCI_MANIFEST_TYPE)["artifactType"] = json!(kind);
                }
            }
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
        let index = document(&json!({
            "schemaVersion": 2,
            "mediaType": release::OCI_INDEX_TYPE,
            "manifests": self.entries,
        }));
        let mut put = |name: &str, bytes: &[u8]| {
            let padding = vec![0; padding(bytes.len() as u64)];
            file.write_all(&[&header(name, bytes.len() as u64)[..], bytes, &padding].concat()).map_err(failed)
        };
        put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        put("index.json", &index)?;
        for (digest, bytes) in &self.small {
            put(&path(digest), bytes)?;
        }
        for (digest, size) in self.large.iter().filter(|(digest, _)| !self.small.contains_key(digest)) {
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
