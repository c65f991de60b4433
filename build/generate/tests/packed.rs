//! Everything that a package or the archive has, installed by `build/scripts/install.sh`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Installs the parts below a new folder, with empty programs.
fn installed(parts: &[&str], prefix: &str) -> (TempDir, Output) {
    let folder = TempDir::new().expect("a folder");
    let (generated, programs) = (folder.path().join("generated"), folder.path().join("dist/amd64"));
    assert!(Command::new(env!("CARGO_BIN_EXE_generate")).arg(&generated).status().expect("it runs").success());
    fs::create_dir_all(&programs).expect("a folder");
    for program in ["kubesolo-update", "kubesolo-release", "kubesolo-cloudinit"] {
        fs::write(programs.join(program), "").expect("a file");
    }
    let output = Command::new(sources().join("build/scripts/install.sh"))
        .args(parts)
        .env("DESTDIR", folder.path().join("root"))
        .env("PREFIX", prefix)
        .env("DIST", folder.path().join("dist"))
        .env("GENERATED", generated)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    (folder, output)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(kept).collect()).collect()
}

/// Links of a page that lead to nothing. Absolute ones lie below `root`.
fn broken(page: &Path, root: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("text");
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let leads = |link: &str| {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match (path.strip_prefix('/'), path.is_empty()) {
            (_, true) => page.to_owned(),
            (Some(path), _) => root.join(path),
            (None, _) => page.parent().expect("a folder").join(path),
        };
        target.exists()
            && (anchor.is_empty() || anchors(&fs::read_to_string(target).unwrap_or_default()).contains(anchor))
    };
    let local = links.filter(|link| !link.contains("://") && !link.contains(' '));
    local.filter(|link| !leads(link)).map(|link| format!("{}: {link}", page.display())).collect()
}

#[test]
fn no_link_is_broken_in_the_archive_or_in_the_packages() {
    for parts in [&["device", "initramfs", "release", "archive"][..], &["device", "initramfs", "release", "doc"]] {
        let (folder, _) = installed(parts, "/usr");
        let root = folder.path().join("root");
        let pages: Vec<_> =
            files(&root).into_iter().filter(|file| file.extension().is_some_and(|end| end == "md")).collect();
        assert!(pages.len() > 15, "{pages:?}");
        let broken: Vec<String> = pages.iter().flat_map(|page| broken(page, &root)).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
}

/// Every path below a folder of the sources that a guide names is packed, and named as it is packed.
#[test]
fn the_guides_name_files_that_are_packed() {
    let (folder, _) = installed(&["device", "initramfs", "release", "doc"], "/usr");
    let docs = folder.path().join("root/usr/share/doc/kubesolo-update-doc/docs");
    let mut named = 0;
    for guide in
        ["integration", "releasing", "first-boot", "uboot", "operating", "recovery", "fleet", "troubleshooting"]
    {
        let text = fs::read_to_string(docs.join(guide).with_extension("md")).expect("a guide");
        for source in
            ["initramfs-hooks/", "agent/systemd", "bootenv/loader", "cloud-init/examples", "push-oci-artifact"]
        {
            let packed =
                text.lines().all(|line| !line.contains(source) || line.contains("/usr/share/kubesolo-release/"));
            assert!(packed, "{guide}.md names {source}");
        }
        for path in
            text.split('`').skip(1).step_by(2).filter(|path| path.starts_with("/usr/") && path.contains("kubesolo"))
        {
            let path = path.split([' ', '*']).next().unwrap_or(path);
            // The OS image has keys and folders of its own.
            if !path.starts_with("/usr/share/kubesolo/") {
                named += 1;
                assert!(folder.path().join("root").join(&path[1..]).exists(), "{guide}.md names {path}");
            }
        }
    }
    assert!(named > 5, "{named}");
}

#[test]
fn another_prefix_is_one_for_programs_and_units() {
    let (folder, output) = installed(&["device", "initramfs", "release", "doc"], "/opt/ks");
    let root = folder.path().join("root");
    assert!(!root.join("usr").exists() && String::from_utf8_lossy(&output.stderr).contains("initramfs-tools"));
    for file in files(&root.join("opt/ks/lib")) {
        let text = fs::read_to_string(&file).expect("text");
        assert!(!text.contains("/usr/bin/kubesolo") && !text.contains("/usr/lib/kubesolo"), "{}", file.display());
    }
    let unit = fs::read_to_string(root.join("opt/ks/lib/systemd/system/kubesolo-update.service")).expect("a unit");
    assert!(unit.contains("ExecStart=/opt/ks/bin/kubesolo-update run"), "{unit}");
    assert!(
        root.join("opt/ks/bin/kubesolo-release").exists()
            && root.join("opt/ks/share/man/man7/kubesolo-release.7").exists()
    );
}
