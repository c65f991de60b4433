//! The commands of docs/releasing.md work as they are written.

use std::path::Path;
use std::process::Command;

use crate::common::registry::Registry;
use crate::common::{images, tls};
use kubesolo_update::release::release::Architecture;
use tempfile::TempDir;

/// The lines between ```` ```sh ```` and ```` ``` ````, of all such blocks.
fn commands(document: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for line in document.lines() {
        match line.trim_start() {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => out.extend([line, "\n"]),
            _ => {}
        }
    }
    out
}

#[test]
fn the_commands_in_releasing_md_work_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = commands(&std::fs::read_to_string(root.join("docs/releasing.md")).unwrap());
    assert!(script.lines().count() > 20, "{script}");
    let folder = TempDir::new().unwrap();
    for (architecture, suffix) in [(Architecture::Amd64, ""), (Architecture::Arm64, "-arm64")] {
        let files = images::files(folder.path(), architecture, 1);
        std::fs::rename(files.kernel, folder.path().join(format!("vmlinuz{suffix}"))).unwrap();
        std::fs::rename(files.initramfs, folder.path().join(format!("kubesolo-os{suffix}.gz"))).unwrap();
    }
    // With TLS, as a registry has it: the commands stand without options for loopback.
    let certificates = tls::certificates();
    let registry = Registry::start().sibling(&tls::section(&certificates));
    let ours = Path::new(env!("CARGO_BIN_EXE_kubesolo-release")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [ours, root.join("target/tools/usr/bin")].into_iter().chain(std::env::split_paths(&path));
    let output = Command::new("sh")
        .args(["-euxc", &script])
        .current_dir(folder.path())
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", folder.path())
        .env("REGISTRY", format!("{}/os", registry.address))
        .env("SSL_CERT_FILE", certificates.path().join("ca.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
