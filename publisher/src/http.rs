//! A release as a tree of files for any HTTP server.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde_json::{Map, Value, json};

use super::date;
use super::delta::{self, Deltas};
use super::extras::Additions;
use super::key::PrivateKey;
use super::registry::Access;
use super::sign::{Attached, Payload, fitting};
use super::succession::{self, Next};
use super::{Images, Metadata, PIECES_TITLE, blob, check_set, initramfs, kernel};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::replace::{self, Replacement, replace};
use kubesolo_update::base::{files, limits, text};
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::release::{self, Architecture, Blob, Release};
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::Signature;

/// Folder for the files that `latest.json` names. They never change: their names follow from their content.
const FILES: &str = "files";
const LATEST_JSON: &str = "latest.json";
/// Name of a file with patches, before the start of its digest.
const PATCHES_TITLE: &str = "kubesolo-os.patches";

/// How a tree is written.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The URL that the tree will have. With it, `latest.json` has whole URLs, which the agents of KubeSolo OS up to 0.3
    /// need; without it the tree can be moved.
    pub url: Option<String>,
    /// Skip the check that the kernel is one.
    pub unchecked_kernel: bool,
    /// Replace a higher version, or other images of the same version.
    pub replace: bool,
    /// Check everything and write nothing.
    pub dry_run: bool,
    /// Earlier releases whose devices get patches: references, bundles, trees.
    pub delta_from: Vec<String>,
    /// How the registries of these releases are reached.
    pub access: Access,
}

/// Writes a release below `folder`: for each architecture a folder of that name with `latest.json`, its signature and the
/// images. Returns the digest of each `latest.json`.
///
/// A device sees the old release or the new one: what `latest.json` names has names of its own and is complete before it,
/// and it is replaced in one step. All architectures are complete before the first one is.
pub fn publish(
    folder: &Path,
    metadata: &Metadata,
    images: &[Images],
    keys: &[PrivateKey],
    options: &Options,
) -> Result<Vec<(Architecture, Digest)>> {
    check_set(images.iter().map(|images| images.architecture))?;
    let base = options.url.as_deref().map(base).transpose()?;
    // Everything that can be refused is refused before the first byte is written.
    if !options.unchecked_kernel {
        images.iter().try_for_each(|images| kernel::check(&images.kernel, images.architecture))?;
    }
    let trees = images
        .iter()
        .map(|images| Tree::new(&Place { root: folder, base: base.as_ref(), options }, metadata, images, keys))
        .collect::<Result<Vec<_>>>()?;
    let next: Vec<Next> = trees.iter().map(Tree::next).collect();
    let place = folder.display().to_string();
    let old = match published(folder) {
        Err(e) if e.reason == Reason::NotFound => vec![],
        found => found?.into_iter().map(|(release, _)| release).collect(),
    };
    if !options.replace {
        succession::check(&place, &old, metadata, &next)?;
    }
    succession::warn_of_lost(&place, &old, &next);
    if !options.dry_run {
        trees.iter().try_for_each(|tree| tree.add_files(keys))?;
        trees.iter().try_for_each(Tree::switch)?;
    }
    Ok(trees.iter().map(|tree| (tree.images.architecture, Digest::of(&tree.document))).collect())
}

fn base(url: &str) -> Result<Url> {
    let bad = |why: &str| {
        Error::new(Reason::Usage, format!("\"{}\" cannot be the URL of the tree: {why}", text::escape(url)))
            .remedy("Name the URL of the folder, as https://host.name/folder.")
    };
    let mut base = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
    let plain = base.username().is_empty() && base.password().is_none() && base.query().is_none();
    if !matches!(base.scheme(), "http" | "https") || !plain || base.fragment().is_some() {
        return Err(bad("it is not the http(s) URL of a folder"));
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(base)
}

/// Where a tree is written, and how.
struct Place<'a> {
    root: &'a Path,
    base: Option<&'a Url>,
    options: &'a Options,
}

/// Name of an initramfs in the folder of its architecture.
pub(super) fn initramfs_name(digest: Digest) -> String {
    file_name("kubesolo-os.gz", digest)
}

pub(crate) fn file_name(title: &str, digest: Digest) -> String {
    format!("{FILES}/{title}-{}", &digest.hex()[..16])
}

/// One architecture.
struct Tree<'a> {
    images: &'a Images,
    root: PathBuf,
    /// Of the architecture, below `root`.
    folder: PathBuf,
    kernel: Named,
    initramfs: Named,
    deltas: Deltas,
    extras: Additions,
    document: Vec<u8>,
    /// Name below `folder`, and content; `None` when it is unsigned.
    signature: Option<(String, Vec<u8>)>,
}

/// An image and its name below the folder.
struct Named {
    blob: Blob,
    name: String,
}

impl Named {
    fn new(path: &Path, title: &str) -> Result<Self> {
        let blob = blob(path)?;
        Ok(Self { blob, name: file_name(title, blob.digest) })
    }
}

impl<'a> Tree<'a> {
    fn new(place: &Place<'_>, metadata: &Metadata, images: &'a Images, keys: &[PrivateKey]) -> Result<Self> {
        let architecture = images.architecture.to_string();
        let initramfs::Contents { unpacked, data_layout, agent } = initramfs::check(&images.initramfs)?;
        let data_layout = metadata.data_layout.or(data_layout);
        let extras = metadata.extras.of(images.architecture, agent.as_deref())?;
        let (kernel, initramfs) =
            (Named::new(&images.kernel, "vmlinuz")?, Named::new(&images.initramfs, "kubesolo-os.gz")?);
        let from = delta::From { places: &place.options.delta_from, access: &place.options.access };
        let deltas = Deltas::new(images, initramfs.blob, unpacked, &from)?;
        let url = |name: &str| match place.base {
            Some(base) => format!("{base}{architecture}/{name}"),
            None => name.to_owned(),
        };
        let mut document = Map::new();
        let mut put = |key: &str, value: Option<Value>| document.extend(value.map(|value| (key.to_owned(), value)));
        put("version", Some(metadata.version.to_string().into()));
        put("channel", Some(metadata.channel.clone().into()));
        put("architecture", Some(architecture.clone().into()));
        put("release_date", Some(metadata.release_date.clone().into()));
        put("supported_until", metadata.supported_until.map(|date| date::rfc3339(date).into()));
        put("min_compatible_version", metadata.min_compatible_version.as_ref().map(|v| v.to_string().into()));
        put("release_notes", metadata.release_notes.clone().map(Into::into));
        put("data_layout", data_layout.map(Into::into));
        put("security_epoch", metadata.security_epoch.map(Into::into));
        put("board", metadata.board.clone().map(Into::into));
        put("revoked_keys", metadata.revoked().map(Into::into));
        put("rollout", metadata.rollout.as_ref().map(|waves| waves.to_string().into()));
        put("initramfs_unpacked_size", unpacked.map(Into::into));
        for (title, image) in [("vmlinuz", &kernel), ("initramfs", &initramfs)] {
            put(&format!("{title}_url"), Some(url(&image.name).into()));
            put(&format!("{title}_sha256"), Some(image.blob.digest.hex().into()));
            put(&format!("{title}_sig_url"), keys.first().map(|_| url(&signature_of(&image.name)).into()));
        }
        document.extend(delta_members(&deltas, &url));
        document.extend(extras.members(&url));
        // A signature in its own place: a device that has the old document never gets the new signature.
        let id = Digest::of(Value::Object(document.clone()).to_string().as_bytes()).hex();
        let name = format!("{FILES}/latest.json-{}.sig", &id[..16]);
        document.insert("metadata_sig_url".into(), url(&name).into());
        let mut document =
            serde_json::to_vec_pretty(&Value::Object(document)).context(Reason::Json, "write latest.json")?;
        document.push(b'\n');
        // The device's own parser and limits have the last word.
        let refused = |e: Error| e.context(format!("no device would accept the {architecture} release"));
        let read: Release = Latest::parse(&document).and_then(|latest| latest.release()).map_err(refused)?;
        if !read.kernel.is(&kernel.blob) || !read.initramfs.is(&initramfs.blob) {
            return Err(Error::new(Reason::DocumentDiffers, "latest.json differs from the intended release"));
        }
        let made: Vec<[u8; 64]> = keys.iter().map(|key| key.sign(&document)).collect();
        let signature = (!made.is_empty()).then(|| (name, signature_file(&made)));
        let folder = place.root.join(architecture);
        Ok(Self { images, root: place.root.to_owned(), folder, kernel, initramfs, deltas, extras, document, signature })
    }

    fn next(&self) -> Next {
        let (kernel_args, devicetree) = (self.extras.kernel_args.clone(), self.extras.tree_blob());
        let (kernel, initramfs) = (self.kernel.blob, self.initramfs.blob);
        Next { architecture: self.images.architecture, kernel, initramfs, kernel_args, devicetree }
    }

    /// Everything but `latest.json`: what devices read now is not touched.
    fn add_files(&self, keys: &[PrivateKey]) -> Result<()> {
        create_files_folder(&self.root, self.images.architecture)?;
        for (path, image) in [(&self.images.kernel, &self.kernel), (&self.images.initramfs, &self.initramfs)] {
            let target = self.folder.join(&image.name);
            if blob(&target).ok() != Some(image.blob) {
                copy(path, &target)?;
                if blob(&target)? != image.blob {
                    let message = format!("{} changed during the copy", path.display());
                    return Err(Error::new(Reason::FileChanged, message).remedy("Publish again."));
                }
            }
            if let Some(key) = keys.first() {
                let bytes = files::read_data(&target, image.blob.size)
                    .context(Reason::ImageUnreadable, format!("read {}", target.display()))?;
                put(&self.folder.join(signature_of(&image.name)), &key.sign(&bytes))?;
            }
        }
        if let Some(index) = &self.deltas.index {
            put(&self.folder.join(file_name(PIECES_TITLE, Digest::of(index))), index)?;
        }
        for pack in &self.deltas.packs {
            copy(&pack.path(), &self.folder.join(file_name(PATCHES_TITLE, pack.blob.digest)))?;
        }
        if let Some(tree) = &self.extras.tree {
            put(&self.folder.join(Additions::file_name(tree)), tree)?;
        }
        match &self.signature {
            Some((name, bytes)) => put(&self.folder.join(name), bytes),
            None => Ok(()),
        }
    }

    fn switch(&self) -> Result<()> {
        if let Some((_, bytes)) = &self.signature {
            put(&self.folder.join("latest.json.sig"), bytes)?;
        } else {
            // That of an earlier release.
            let _ = fs::remove_file(self.folder.join("latest.json.sig"));
        }
        put(&self.folder.join("latest.json"), &self.document)
    }
}

/// The members for the index of pieces and for patches.
fn delta_members(deltas: &Deltas, url: &dyn Fn(&str) -> String) -> Map<String, Value> {
    let mut members = Map::new();
    if let Some(index) = &deltas.index {
        let digest = Digest::of(index);
        members.insert("initramfs_pieces_url".into(), url(&file_name(PIECES_TITLE, digest)).into());
        members.insert("initramfs_pieces_sha256".into(), digest.hex().into());
        members.insert("initramfs_pieces_size".into(), index.len().into());
    }
    let packs = deltas.packs.iter().map(|pack| {
        json!({
            "from": pack.from,
            "from_version": pack.from_version.to_string(),
            "url": url(&file_name(PATCHES_TITLE, pack.blob.digest)),
            "sha256": pack.blob.digest.hex(),
            "size": pack.blob.size,
            "table_size": pack.table.size,
            "table_sha256": pack.table.digest.hex(),
            "encoder": release::ENCODER,
        })
    });
    let packs: Vec<Value> = packs.collect();
    if !packs.is_empty() {
        members.insert("initramfs_patches".into(), packs.into());
    }
    members
}

fn signature_of(name: &str) -> String {
    format!("{name}.sig")
}

/// One signature as its 64 bytes, which OpenSSL and old agents read; several as lines.
pub(super) fn signature_file(signatures: &[[u8; 64]]) -> Vec<u8> {
    match signatures {
        [one] => one.to_vec(),
        all => all.iter().flat_map(|one| format!("{}\n", hex::encode(one)).into_bytes()).collect(),
    }
}

/// The `latest.json` of each architecture below `folder`, as `publish` wrote it; at least one.
pub(super) fn published(folder: &Path) -> Result<Vec<(Release, Vec<u8>)>> {
    let mut found = vec![];
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        let file = folder.join(architecture.to_string()).join(LATEST_JSON);
        let raw = match files::read_data(&file, limits::LATEST_JSON_BYTES + 1) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.context(Reason::NotReadable, format!("read {}", file.display()))?,
        };
        let release = Latest::parse(&raw).and_then(|latest| latest.release());
        let release = release.map_err(|e| e.context(file.display()))?;
        if release.architecture != architecture {
            let message = format!("{} is for {}", file.display(), release.architecture);
            return Err(Error::new(Reason::WrongArchitecture, message));
        }
        found.push((release, raw));
    }
    if found.is_empty() {
        let message = format!("{} has neither amd64/latest.json nor arm64/latest.json", folder.display());
        return Err(Error::new(Reason::NotFound, message)
            .remedy("Name the folder that `kubesolo-release publish --http` wrote."));
    }
    Ok(found)
}

/// Writes what is to be signed into `target`, a file for each architecture: its `latest.json`, byte for byte.
pub fn payload(folder: &Path, target: &Path) -> Result<Vec<Payload>> {
    published(folder)?.into_iter().map(|(release, raw)| Payload::write(target, release, raw)).collect()
}

/// Adds signatures that were made elsewhere to a tree. Each must be by one of `keys`, over the `latest.json` of one
/// architecture; nothing is written unless all are. Existing signatures stay.
pub fn attach_files(folder: &Path, files: &[PathBuf], keys: &KeySet) -> Result<Vec<Attached>> {
    let found = published(folder)?;
    let messages = found.into_iter().map(|(release, raw)| (release.architecture, raw)).collect::<Vec<_>>();
    let fitting = fitting(files, &messages, keys)?;
    for (architecture, _) in &messages {
        create_files_folder(folder, *architecture)?;
    }
    for (at, (architecture, raw)) in messages.iter().enumerate() {
        let new: Vec<[u8; 64]> = fitting.iter().filter(|(of, ..)| *of == at).map(|(_, bytes, _)| *bytes).collect();
        if new.is_empty() {
            continue;
        }
        let folder = folder.join(architecture.to_string());
        let beside = folder.join(format!("{LATEST_JSON}.sig"));
        let mut all: Vec<[u8; 64]> = match files::read_data(&beside, limits::SIGNATURE_FILE_BYTES + 1) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
            read => {
                let read = read.context(Reason::NotReadable, format!("read {}", beside.display()))?;
                Signature::parse_file(&read).map_err(|e| e.context(beside.display()))?.iter().map(|s| s.bytes).collect()
            }
        };
        all.extend(new.into_iter().filter(|one| !all.contains(one)).collect::<Vec<_>>());
        let bytes = signature_file(&all);
        // Where the document says, too: a device looks there first.
        let latest = Latest::parse(raw)?;
        let named = latest.signature_url().and_then(|url| url.rsplit('/').next());
        if let Some(name) = named.filter(|name| name.starts_with(LATEST_JSON) && name.ends_with(".sig")) {
            put(&folder.join(FILES).join(name), &bytes)?;
        }
        put(&beside, &bytes)?;
    }
    Ok(fitting.into_iter().map(|(at, _, id)| (messages[at].0, Digest::of(&messages[at].1), id)).collect())
}

/// The folder for the files of an architecture, and its own.
pub(super) fn create_files_folder(root: &Path, architecture: Architecture) -> Result<()> {
    let below = Path::new(&architecture.to_string()).join(FILES);
    replace::create_folders(root, &below)
        .context(Reason::NotWritten, format!("create {}", root.join(&below).display()))
        .map_err(|e| e.remedy("Put folders in the place of links, or publish into another tree. No file was changed."))
}

/// Replaces a file that anybody may read.
pub(super) fn put(target: &Path, bytes: &[u8]) -> Result<()> {
    replace(target, bytes, 0o644).context(Reason::NotWritten, format!("write {}", target.display()))
}

fn copy(from: &Path, target: &Path) -> Result<()> {
    let mut from_file = files::open_data(from).context(Reason::ImageUnreadable, format!("read {}", from.display()))?;
    let mut write = || {
        let mut replacement = Replacement::begin(target, 0o644)?;
        std::io::copy(&mut from_file, replacement.file())?;
        replacement.finish()
    };
    write().context(Reason::NotWritten, format!("write {}", target.display()))
}
