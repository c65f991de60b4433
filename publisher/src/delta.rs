//! The parts of a release that save devices bytes: the index of pieces, and patches from earlier releases.
//!
//! Both need an initramfs that `repack` made. Every patch was applied by the device's own code before it is published.

mod base;
mod contents;
mod pack;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits};
use kubesolo_update::delta::index::Index;
use kubesolo_update::release::release::{Architecture, Blob};

use crate::registry::Access;
use crate::{Images, repack};
use base::Base;
use contents::Contents;

/// The earlier releases, and the way to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From<'a> {
    /// References, bundles, and trees of `publish --http`.
    pub(crate) places: &'a [String],
    /// How registries are reached.
    pub(crate) access: &'a Access,
}

/// The additional parts of the release for one architecture.
#[derive(Debug, Default)]
pub(crate) struct Deltas {
    /// The index of pieces.
    pub(crate) index: Option<Vec<u8>>,
    /// One for each earlier release.
    pub(crate) packs: Vec<Pack>,
}

/// The initramfs that patches lead to.
struct Target {
    architecture: Architecture,
    digest: Digest,
    /// In bytes.
    unpacked: u64,
    contents: Contents,
}

/// Patches from one earlier release.
#[derive(Debug)]
pub(crate) struct Pack {
    /// A file without a name.
    file: File,
    pub(crate) blob: Blob,
    /// Its first bytes.
    pub(crate) table: Blob,
    /// The initramfs of the earlier release.
    pub(crate) from: Digest,
    pub(crate) from_version: semver::Version,
}

impl Pack {
    /// A path that lives as long as the pack.
    pub(crate) fn path(&self) -> PathBuf {
        proc_path(&self.file)
    }
}

fn proc_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

impl Deltas {
    /// Makes the index of an initramfs that unpacks to `unpacked` bytes, and patches for devices that run the releases at
    /// `from`. Neither where a part of it has another compression than gzip.
    ///
    /// # Errors
    /// 64 for too many releases, and those of the earlier releases and of temporary files.
    pub(crate) fn new(images: &Images, blob: Blob, unpacked: Option<u64>, from: &From<'_>) -> Result<Self> {
        if from.places.len() > limits::PATCHES {
            let message =
                format!("--delta-from is given {} times; devices take {}", from.places.len(), limits::PATCHES);
            return Err(Error::new(Reason::Usage, message).remedy("Name the last releases only."));
        }
        let Some(unpacked) = unpacked else { return Ok(Self::default()) };
        let index = repack::index(&images.initramfs, blob.size)?;
        let mut deltas = Self { index: index.as_ref().map(Index::encode), packs: vec![] };
        if from.places.is_empty() {
            return Ok(deltas);
        }
        let new = match index {
            Some(index) => Contents::read(open(&images.initramfs)?, index)
                .context(Reason::ImageUnreadable, format!("read {}", images.initramfs.display()))?,
            None => None,
        };
        let Some(new) = new else {
            log::warn!("{}: no patches, since `kubesolo-release repack` did not make it", images.initramfs.display());
            return Ok(deltas);
        };
        let target = Target { architecture: images.architecture, digest: blob.digest, unpacked, contents: new };
        for place in from.places {
            deltas.add(&target, Base::open(place, images.architecture, from.access)?)?;
        }
        Ok(deltas)
    }

    fn add(&mut self, new: &Target, base: Option<Base>) -> Result<()> {
        let Some(base) = base else { return Ok(()) };
        let none = |why: &str| log::warn!("no patches from {} for {}: {why}", base.version, new.architecture);
        if base.blob.digest == new.digest {
            log::info!("{} initramfs: the same as in {}", new.architecture, base.version);
            return Ok(());
        }
        if self.packs.iter().any(|pack| pack.from == base.blob.digest) {
            none("it has the initramfs of another release that is named");
            return Ok(());
        }
        let read = || format!("read the initramfs of {}", base.version);
        let mut file = base.file;
        file.rewind().context(Reason::ImageUnreadable, read())?;
        let index = Index::of(BufReader::new(&file)).context(Reason::ImageUnreadable, read())?;
        let old = match index.filter(|index| index.pieces().len() as u64 > base.blob.size >> 20) {
            Some(index) => Contents::read(file, index).context(Reason::ImageUnreadable, read())?,
            None => None,
        };
        let Some(old) = old else {
            none("`kubesolo-release repack` did not make its initramfs");
            return Ok(());
        };
        match pack::make(&new.contents, &old, new.unpacked)? {
            Ok(made) => {
                let percent = made.blob.size as f64 * 100.0 / new.contents.index().size() as f64;
                log::info!(
                    "{} patches from {}: {} bytes, {percent:.2} % of the initramfs; {} pieces patched, {} as they are",
                    new.architecture,
                    base.version,
                    made.blob.size,
                    made.patched,
                    made.verbatim
                );
                let pack::Made { file, blob, table, .. } = made;
                self.packs.push(Pack { file, blob, table, from: base.blob.digest, from_version: base.version });
            }
            Err(why) => none(why),
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    files::open_data(path).context(Reason::ImageUnreadable, format!("open {}", path.display()))
}

/// A file without a name, in the folder for temporary files.
#[expect(clippy::disallowed_methods, reason = "a new file that nobody else can open")]
fn scratch() -> Result<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("kubesolo-release-{}-{number}", std::process::id()));
    let create = || -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    create().context(Reason::NotWritten, format!("create a temporary file {}", path.display()))
}
