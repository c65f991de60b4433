//! Releases that `kubesolo-release` publishes to a real registry, as a device, a person and the standard tools see them.
#![allow(clippy::unwrap_used)]

#[path = "../../../agent/tests/cli_support/mod.rs"]
mod cli_support;
#[path = "../../../agent/tests/common/mod.rs"]
mod common;

mod access;
mod carried;
mod delta;
mod docs;
mod extras;
mod factory;
mod login;
mod offline;
mod output;
mod pieces;
mod publish;
mod receipts;
mod repack;
mod servers;
mod signatures;
mod tools;
mod tree;
mod verify;

use std::path::Path;
use std::process::{Command, Output};

use common::registry::Registry;
use common::{bytes, images};
use kubesolo_release::inspect::{Inspection, inspect};
use kubesolo_release::key::{PrivateKey, PublicFormat};
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Images, Metadata, Options, Published, sign};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::fetch::options::FetchOptions;
use kubesolo_update::release::release::{self, Architecture};
use kubesolo_update::source::oci::OciSource;
use kubesolo_update::source::source::Source;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::{Error, Exit, Reason};
use serde_json::json;
use tempfile::TempDir;

use Architecture::{Amd64, Arm64};

fn access(registry: &Registry) -> Access {
    Access { plain_http: vec![registry.address.clone()], ..Access::default() }
}

fn metadata(version: &str) -> Metadata {
    Metadata::new(version.parse().unwrap(), "stable")
}

/// Publishes to the repository `os`.
fn publish(registry: &Registry, version: &str, images: &[Images], keys: &[PrivateKey]) -> Result<Published, Error> {
    let options = Options { access: access(registry), ..Options::default() };
    publisher::release(&format!("{}/os", registry.address), &metadata(version), images, keys, &options)
}

/// The arguments of `kubesolo-release publish` for images of amd64 without a key.
fn unsigned<'a>(registry: &'a Registry, reference: &'a str, images: &'a Images) -> Vec<&'a str> {
    let release = ["publish", reference, "--version", "1.0.0", "--channel", "stable", "--unsigned"];
    let place = ["--plain-http", &registry.address, "--amd64", path(&images.kernel), path(&images.initramfs)];
    [&release[..], &place].concat()
}

fn both(folder: &TempDir) -> [Images; 2] {
    [images::files(folder.path(), Amd64, 1), images::files(folder.path(), Arm64, 2)]
}

/// A new key, and the set of keys that a device with it has.
fn key(folder: &TempDir, name: &str) -> (PrivateKey, KeySet) {
    let key = PrivateKey::generate().unwrap();
    let public = folder.path().join(format!("{name}.pub"));
    key.save(&folder.path().join(name), &public, PublicFormat::Pem).unwrap();
    (key, KeySet::load(&public).unwrap())
}

fn look(registry: &Registry, reference: &str, keys: &KeySet) -> Result<Inspection, Error> {
    inspect(&format!("{}/{reference}", registry.address), Some(keys), &access(registry))
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    command.args(arguments).env_remove("SOURCE_DATE_EPOCH").env("DOCKER_CONFIG", "/nonexistent");
    command.envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
