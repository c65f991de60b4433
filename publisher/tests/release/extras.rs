//! Everything that boots beside the images, from the command line to a device.

use super::*;
use crate::cli_support;
use crate::common::nginx::Nginx;
use crate::tools::tool;
use kubesolo_update::base::limits;
use kubesolo_update::release::extras::AgentSettings;
use kubesolo_update::release::latest::Latest;
use kubesolo_update::release::release::Release;
use kubesolo_update::source::bundle::BundleSource;

const BOARD: &str = "/dts-v1/;\n/ { compatible = \"kubesolo,board\"; chosen { }; };\n";

/// The file `board.dtb`, made by dtc.
fn board(folder: &TempDir) -> Vec<u8> {
    std::fs::write(folder.path().join("board.dts"), BOARD).unwrap();
    tool("dtc", folder.path(), &["-q", "-O", "dtb", "-o", "board.dtb", "board.dts"]).unwrap();
    std::fs::read(folder.path().join("board.dtb")).unwrap()
}

/// Publishes images of both architectures to `place`, in the folder.
fn try_publish(folder: &TempDir, place: &[&str], more: &[&str]) -> Output {
    let images = both(folder);
    let [amd64, arm64] = images.each_ref().map(|images| [path(&images.kernel), path(&images.initramfs)]);
    let release = ["publish", "--channel", "stable", "--release-date", "2026-01-02T03:04:05Z"];
    let files = [&["--amd64"], &amd64[..], &["--arm64"], &arm64].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
    command.args([&release[..], &files, place, more].concat()).current_dir(folder.path());
    command.output().unwrap()
}

const ALL: [&str; 12] = [
    "--version",
    "1.0.0",
    "--kernel-args",
    "quiet console=tty0",
    "--arm64-kernel-args",
    "console=ttyAMA0,115200n8",
    "--arm64-dtb",
    "board.dtb",
    "--requires",
    "devicetree kernel-args loader-2 agent-0.2",
    "--min-compatible-version",
    "0.9.0",
];

/// Compares a release with all that [`ALL`] says.
#[track_caller]
fn has_all(release: &Release, tree: &[u8]) {
    let is_arm64 = release.architecture == Arm64;
    let args = if is_arm64 { "quiet console=tty0 console=ttyAMA0,115200n8" } else { "quiet console=tty0" };
    assert_eq!(release.kernel_args.as_ref().map(ToString::to_string).as_deref(), Some(args));
    let found = release.devicetree.map(|blob| (blob.digest, blob.size));
    assert_eq!(found, is_arm64.then(|| (Digest::of(tree), tree.len() as u64)));
    let needs: Vec<String> = release.requires.iter().map(ToString::to_string).collect();
    assert_eq!(needs, ["kernel-args", "devicetree", "loader-2", "agent-0.2"]);
}

fn fetched(source: &mut dyn Source, release: &Release) -> Vec<u8> {
    let mut body = source.open(&release.devicetree.unwrap()).unwrap();
    let mut bytes = vec![];
    while let Some(chunk) = body.chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

#[test]
fn a_registry_a_bundle_and_a_copy_carry_all_that_boots() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let tree = board(&folder);
    let (_, keys) = key(&folder, "key");
    let reference = format!("{}/os:stable", registry.address);
    let network = ["--plain-http", &registry.address];
    let done = try_publish(&folder, &[&reference, "--key", "key"], &[&ALL[..], &network].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));

    let options = FetchOptions { plain_http: vec![registry.address.clone()], ..FetchOptions::default() };
    let bundle = folder.path().join("bundle.tar");
    publisher::bundle::bundle(&reference, &bundle, None, &access(&registry)).unwrap();
    for architecture in [Amd64, Arm64] {
        let mut online = OciSource::new(&options, &format!("{}/os", registry.address), None, "stable").unwrap();
        let mut offline = BundleSource::open(&bundle, None, "stable").unwrap();
        let sources: [&mut dyn Source; 2] = [&mut online, &mut offline];
        for source in sources {
            let release = source.offer(architecture).unwrap().release;
            has_all(&release, &tree);
            if architecture == Arm64 {
                assert_eq!(fetched(source, &release), tree);
            }
        }
    }
    let copied = run(&[&["copy", &reference, path(&folder.path().join("layout"))], &network[..]].concat(), &[]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    let blob = folder.path().join("layout/blobs/sha256").join(Digest::of(&tree).hex());
    assert_eq!(std::fs::read(blob).unwrap(), tree);

    let found = look(&registry, "os:stable", &keys).unwrap().to_string();
    for line in [
        "  arguments   quiet console=tty0 console=ttyAMA0,115200n8\n",
        &format!("  devicetree  {} bytes, {}\n", tree.len(), Digest::of(&tree)),
        "  devicetree  that of the firmware\n",
        "  needs       kernel-args devicetree loader-2 agent-0.2\n",
        "  settings    unknown: the release does not name those of its agent\n",
    ] {
        assert!(found.contains(line), "no {line:?} in {found}");
    }
}

#[test]
fn the_slot_of_a_factory_has_all_that_boots() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let tree = board(&folder);
    key(&folder, "key");
    let reference = format!("{}/os:stable", registry.address);
    let network = ["--plain-http", &registry.address];
    let done = try_publish(&folder, &[&reference, "--key", "key"], &[&ALL[..], &network].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let public = folder.path().join("key.pub");
    for (boot, architecture) in [("grub", "amd64"), ("grub", "arm64"), ("uboot", "arm64")] {
        let device = folder.path().join(format!("{boot}-{architecture}"));
        let content = [path(&device), &reference, "--pubkey", path(&public)];
        let how = ["--architecture", architecture, "--boot", boot];
        let made = run(&[&["factory"], &content[..], &how, &network].concat(), &[]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let slot = device.join("slot-a");
        let arguments = text(&std::fs::read(slot.join("args.env")).unwrap());
        assert!(arguments.contains("quiet console=tty0"), "{arguments}");
        assert_eq!(arguments.contains("ttyAMA0"), architecture == "arm64", "{arguments}");
        assert_eq!(std::fs::read(slot.join("board.dtb")).ok(), (architecture == "arm64").then(|| tree.clone()));
        if boot == "grub" {
            tool("sha256sum", &slot, &["--check", "--strict", "extras.sha256"]).unwrap();
        }
    }
}

#[test]
fn a_web_server_has_all_that_boots_and_verify_compares_the_tree() {
    let folder = TempDir::new().unwrap();
    let tree = board(&folder);
    let key = cli_support::key(1);
    key.save(&folder.path().join("key"), &folder.path().join("key.pub"), PublicFormat::Pem).unwrap();
    let done = try_publish(&folder, &["--http", "www", "--key", "key"], &ALL);
    assert!(done.status.success(), "{}", text(&done.stderr));
    for architecture in [Amd64, Arm64] {
        let raw = std::fs::read(folder.path().join(format!("www/{architecture}/latest.json"))).unwrap();
        has_all(&Latest::parse(&raw).unwrap().release().unwrap(), &tree);
    }
    let nginx = Nginx::start(&folder.path().join("www"), "");
    let url = format!("http://{}/arm64", nginx.as_ref());
    let mut verify = vec!["verify", &url, "--architecture", "arm64", "--pubkey"];
    let public = folder.path().join("key.pub");
    verify.push(path(&public));
    let verified = run(&verify, &[]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let line = format!("  devicetree {} bytes, as signed\n", tree.len());
    assert!(text(&verified.stdout).contains(&line), "{}", text(&verified.stdout));
    let file = folder.path().join(format!("www/arm64/files/board.dtb-{}", &Digest::of(&tree).hex()[..16]));
    assert_eq!(std::fs::read(&file).unwrap(), tree);
    std::fs::write(&file, [&tree[..tree.len() - 1], b"\x01"].concat()).unwrap();
    let refused = run(&verify, &[]);
    let said = text(&refused.stderr);
    assert!(refused.status.code() == Some(65) && said.contains("device tree"), "{said}");
}

#[test]
fn what_no_device_would_boot_is_refused_where_it_is_made() {
    let folder = TempDir::new().unwrap();
    let tree = board(&folder);
    std::fs::write(folder.path().join("cut.dtb"), &tree[..tree.len() - 1]).unwrap();
    std::fs::write(folder.path().join("large.dtb"), vec![0; limits::DEVICETREE_BYTES as usize + 1]).unwrap();
    let (long, half) = ("a".repeat(2048), "a".repeat(500));
    for (options, code, reason) in [
        (&["--kernel-args", "a=\"b c\""][..], 65, "malformed-kernel-args"),
        (&["--kernel-args", "a\nb"], 65, "malformed-kernel-args"),
        (&["--amd64-kernel-args", "quiet ks.trial=1"], 65, "malformed-kernel-args"),
        (&["--arm64-kernel-args", &long], 65, "malformed-kernel-args"),
        (&["--kernel-args", &half, "--arm64-kernel-args", &half], 65, "malformed-kernel-args"),
        (&["--kernel-args", ""], 65, "malformed-kernel-args"),
        (&["--arm64-dtb", "board.dts"], 65, "malformed-devicetree"),
        (&["--arm64-dtb", "cut.dtb"], 65, "malformed-devicetree"),
        (&["--arm64-dtb", "large.dtb"], 65, "limit-exceeded"),
        (&["--arm64-dtb", "absent.dtb"], 69, "image-unreadable"),
        (&["--requires", "kernel-args"], 64, "usage"),
        (&["--requires", "devicetre", "--min-compatible-version", "0.9.0"], 64, "usage"),
    ] {
        let place = ["--http", "www", "--unsigned", "--version", "1.0.0", "--json"];
        let refused = try_publish(&folder, &place, options);
        let answer: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{options:?}: {answer}");
        assert_eq!(answer["error"]["reason"], reason, "{options:?}: {answer}");
        assert!(!folder.path().join("www").exists(), "{options:?}");
    }
}

#[test]
fn one_version_boots_in_one_way() {
    let folder = TempDir::new().unwrap();
    board(&folder);
    let place = ["--http", "www", "--unsigned"];
    assert!(try_publish(&folder, &place, &ALL).status.success());
    assert!(try_publish(&folder, &place, &ALL).status.success(), "the same again");
    for (at, other, words) in [(3, "quiet", "other kernel arguments"), (7, "other.dtb", "another device tree")] {
        let source = BOARD.replace("chosen", "choosen");
        std::fs::write(folder.path().join("other.dts"), source).unwrap();
        tool("dtc", folder.path(), &["-q", "-O", "dtb", "-o", "other.dtb", "other.dts"]).unwrap();
        let mut changed = ALL;
        changed[at] = other;
        let refused = try_publish(&folder, &place, &changed);
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(77) && said.contains(words), "{said}");
    }
}

/// An image with this in one of its files.
fn with_agent(folder: &TempDir, content: &str) -> Images {
    let images = images::files(folder.path(), Amd64, 7);
    let program = [&[7; 100_000][..], content.as_bytes(), &[0; 100][..]].concat();
    std::fs::write(&images.initramfs, images::gzip(&images::archive(&program))).unwrap();
    images
}

#[test]
fn a_release_names_the_settings_of_its_agent_if_this_program_knows_them() {
    let folder = TempDir::new().unwrap();
    let own = format!("kubesolo-update/{} (linux)", env!("CARGO_PKG_VERSION"));
    let warning = |version: &str| format!("the agent in the initramfs has version {version}");
    for (content, known, words) in [
        (format!("{own}9"), true, None),
        ("kubesolo-update/0.1.0GET".into(), false, Some(warning("0.1.0"))),
        ("kubesolo-update/99.0.1GET".into(), false, Some(warning("99.0.1"))),
        ("/usr/lib/kubesolo-update/stage".into(), false, None),
    ] {
        let images = with_agent(&folder, &content);
        let tree = folder.path().join("www");
        let release = ["publish", "--version", "1.0.0", "--channel", "stable", "--unsigned", "--replace"];
        let files = ["--http", path(&tree), "--amd64", path(&images.kernel), path(&images.initramfs)];
        let done = run(&[&release[..], &files].concat(), &[]);
        let said = text(&done.stderr);
        assert!(done.status.success(), "{content}: {said}");
        let warned = said.contains("the agent in the initramfs");
        assert!(words.as_ref().map_or(!warned, |words| said.contains(words)), "{content}: {said}");
        let raw = std::fs::read(tree.join("amd64/latest.json")).unwrap();
        let settings = Latest::parse(&raw).unwrap().release().unwrap().agent_settings;
        assert_eq!(settings, known.then(AgentSettings::own), "{content}");
    }
}
