//! The commands of the guides work as they are written.

use std::path::Path;
use std::process::Command;

use crate::common::registry::Registry;
use crate::common::{images, tls};
use kubesolo_update::release::release::Architecture;
use tempfile::TempDir;

/// The blocks between ```` ```sh ```` and ```` ``` ````.
fn blocks(document: &str) -> Vec<String> {
    let mut inside = false;
    let mut blocks = vec![];
    for line in document.lines() {
        match line.trim_start() {
            "```sh" => {
                inside = true;
                blocks.push(String::new());
            }
            "```" => inside = false,
            _ if inside => blocks.last_mut().unwrap().extend([line, "\n"]),
            _ => {}
        }
    }
    blocks
}

/// Runs a script where kernels and initramfs lie, against a registry with TLS: the commands stand without options for loopback.
fn run(script: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = TempDir::new().unwrap();
    for (architecture, suffix) in [(Architecture::Amd64, ""), (Architecture::Arm64, "-arm64")] {
        let files = images::files(folder.path(), architecture, 1);
        std::fs::rename(files.kernel, folder.path().join(format!("vmlinuz{suffix}"))).unwrap();
        std::fs::rename(files.initramfs, folder.path().join(format!("kubesolo-os{suffix}.gz"))).unwrap();
    }
    let certificates = tls::certificates();
    let registry = Registry::start().sibling(&tls::section(&certificates));
    let ours = Path::new(env!("CARGO_BIN_EXE_kubesolo-release")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [ours, root.join("target/tools/usr/bin")].into_iter().chain(std::env::split_paths(&path));
    let output = Command::new("sh")
        .args(["-euxc", script])
        .current_dir(folder.path())
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", folder.path())
        .env("REGISTRY", format!("{}/os", registry.address))
        .env("SSL_CERT_FILE", certificates.path().join("ca.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn guide(name: &str) -> Vec<String> {
    blocks(&std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).unwrap())
}

#[test]
fn the_commands_in_releasing_md_work_as_written() {
    let script = guide("releasing.md").concat();
    assert!(script.lines().count() > 20, "{script}");
    run(&script);
}

/// From a key to a disk. The last block is for the device, which the story `demo` shows.
#[test]
fn the_commands_in_integration_md_make_a_disk() {
    let blocks = guide("integration.md");
    let script: Vec<_> =
        blocks.iter().filter(|block| !block.contains("kubesolo-update ")).map(String::as_str).collect();
    assert!(script.len() == blocks.len() - 1 && script.concat().contains("make-disk.sh"), "{blocks:#?}");
    run(&format!("{}test -s disk.img", script.concat()));
}
