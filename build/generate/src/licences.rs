//! The licences of all crates that are linked into the programs: they ask to be passed on with these.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

const PROGRAMS: [&str; 3] = ["kubesolo-update", "kubesolo-cloudinit", "kubesolo-release"];
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// The needed part of the output of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    /// `None` for what is in this workspace.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None`, `"dev"` or `"build"`.
    kind: Option<String>,
}

/// A list of the crates, then each text once.
pub fn texts() -> Result<String, Box<dyn Error>> {
    let metadata = metadata()?;
    let mut list = String::new();
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    for package in linked(&metadata)? {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().ok_or_else(|| format!("{name} names no licence"))?;
        writeln!(list, "{name}: {licence}")?;
        if let Some(repository) = &package.repository {
            writeln!(list, "  {repository}")?;
        }
        let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
        let mut numbers = BTreeSet::new();
        for file in files(folder)? {
            let text = String::from_utf8_lossy(&fs::read(&file)?).trim_end().replace('\r', "");
            let next = texts.len() + 1;
            numbers.insert(*texts.entry(text).or_insert(next));
        }
        if !numbers.is_empty() {
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            writeln!(list, "  texts: {}", numbers.join(", "))?;
        }
    }
    let mut by_number: Vec<_> = texts.into_iter().map(|(text, number)| (number, text)).collect();
    by_number.sort();
    for (number, text) in by_number {
        write!(list, "\n==== text {number} ====\n\n{text}\n")?;
    }
    Ok(list)
}

fn metadata() -> Result<Metadata, Box<dyn Error>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    for target in TARGETS {
        cargo.args(["--filter-platform", target]);
    }
    let output = cargo.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The crates of others that end up in the programs, by name. Procedural macros run in the compiler alone.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>, Box<dyn Error>> {
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let mut todo: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| PROGRAMS.contains(&&*package.name))
        .map(|package| &*package.id)
        .collect();
    let mut seen = BTreeSet::new();
    let mut found = BTreeMap::new();
    while let Some(id) = todo.pop() {
        let package = packages.get(id).ok_or_else(|| format!("cargo metadata has no package {id}"))?;
        if !seen.insert(id) || package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
        {
            continue;
        }
        if package.source.is_some() {
            found.insert((&package.name, &package.version), *package);
        }
        let node = nodes.get(id).ok_or_else(|| format!("cargo metadata has no dependencies of {id}"))?;
        let linked = node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        todo.extend(linked.map(|dependency| &*dependency.pkg));
    }
    Ok(found.into_values().collect())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_ascii_uppercase();
        let is_text = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|word| name.starts_with(word));
        if is_text && entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
