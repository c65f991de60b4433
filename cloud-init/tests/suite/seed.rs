//! The command on seed folders: what a device gets, and that bad input costs nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use flate2::Compression;
use flate2::write::GzEncoder;
use kubesolo_cloudinit::seed::{elsewhere, find};
use kubesolo_update::device::blocks::System;

const SEED: &str = "\
#cloud-config
hostname: edge-7
updates:
  registry: registry.example:5000/os   # where releases come from
  channel: stable
  maintenance_window: 02:00-04:00
  plain_http: registry.example:5000
  auto_rollback_after: 3
  tag: 1.10
  pubkey: \"/etc/kubesolo/release.pem\"
";

struct Device {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    said: String,
}

impl Device {
    fn new(user_data: impl AsRef<[u8]>) -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(device.at("seed")).unwrap();
        device.seed("user-data", user_data);
        device.seed("meta-data", "instance-id: edge-7\n");
        device
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn seed(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.at("seed").join(name), content).unwrap();
    }

    fn conf(&self) -> PathBuf {
        self.at("etc/kubesolo/update.conf")
    }

    fn record(&self) -> PathBuf {
        self.at("data/instance")
    }

    fn boot(&self) -> Ran {
        self.run(&[])
    }

    fn run(&self, more: &[&str]) -> Ran {
        let mut command = Command::cargo_bin("kubesolo-cloudinit").unwrap();
        command.arg("--seed").arg(self.at("seed")).arg("--conf").arg(self.conf());
        let output = command.arg("--record").arg(self.record()).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), said: text(output.stderr) }
    }

    /// Settings that are already there.
    fn configured(self) -> Self {
        fs::create_dir_all(self.conf().parent().unwrap()).unwrap();
        fs::write(self.conf(), "channel=before\n").unwrap();
        self
    }

    /// Refused with this code: the settings are as they were, nothing is noted, nothing is left lying about.
    fn refuses(&self, code: i32) -> String {
        let tree = |dir: &Path| {
            let mut all: Vec<_> = walk(dir).into_iter().map(|file| (fs::read(&file).ok(), file)).collect();
            all.sort();
            all
        };
        let before = tree(self.dir.path());
        let ran = self.boot();
        assert_eq!(ran.code, code, "{}", ran.said);
        let after: Vec<_> = tree(self.dir.path()).into_iter().filter(|(content, _)| content.is_some()).collect();
        assert_eq!(before.into_iter().filter(|(content, _)| content.is_some()).collect::<Vec<_>>(), after);
        assert!(ran.out.is_empty());
        ran.said
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] }).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn the_updates_block_becomes_the_settings() {
    let device = Device::new(SEED);
    let ran = device.boot();
    assert_eq!(ran.code, 0, "{}", ran.said);
    let conf = fs::read_to_string(device.conf()).unwrap();
    let settings: Vec<_> = conf.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        settings,
        [
            "registry=registry.example:5000/os",
            "channel=stable",
            "maintenance_window=02:00-04:00",
            "plain_http=registry.example:5000",
            "auto_rollback_after=3",
            "tag=1.10",
            "pubkey=/etc/kubesolo/release.pem",
        ]
    );
    assert!(conf.starts_with("# ") && conf.contains("instance edge-7"), "{conf}");
    assert!(ran.said.contains("hostname"), "what is not done is named: {}", ran.said);
    assert_eq!(fs::metadata(device.conf()).unwrap().permissions().mode() & 0o7777, 0o644);
}

#[test]
fn the_agent_reads_what_was_written_without_a_warning() {
    let device = Device::new(SEED);
    assert_eq!(device.boot().code, 0);
    let over = kubesolo_update::config::Overrides::default();
    let config = kubesolo_update::config::Config::load(&device.conf(), &over).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.tag.as_deref(), Some("1.10"));
}

#[test]
fn packed_user_data_is_read_also_in_several_members() {
    let (first, second) = SEED.as_bytes().split_at(100);
    for packed in [gzip(SEED.as_bytes()), [gzip(first), gzip(second)].concat()] {
        let device = Device::new(packed);
        assert_eq!(device.boot().code, 0);
        assert!(fs::read_to_string(device.conf()).unwrap().contains("channel=stable\n"));
    }
}

#[test]
fn an_instance_is_set_up_once() {
    let device = Device::new(SEED);
    assert_eq!(device.boot().code, 0);
    fs::write(device.conf(), "channel=mine\n").unwrap();
    let again = device.boot();
    assert_eq!((again.code, again.said.contains("warning: ")), (0, false), "{}", again.said);
    device.seed("user-data", SEED.replace("stable", "beta"));
    let changed = device.boot();
    assert!(
        changed.code == 0 && changed.said.contains("warning: ") && changed.said.contains("edge-7"),
        "{}",
        changed.said
    );
    assert_eq!(fs::read_to_string(device.conf()).unwrap(), "channel=mine\n", "what somebody set since stays");

    device.seed("meta-data", "instance-id: edge-8\n");
    assert_eq!(device.boot().code, 0);
    assert!(fs::read_to_string(device.conf()).unwrap().contains("channel=beta\n"), "a new instance");
}

#[test]
fn meta_data_is_yaml_or_json_and_may_name_no_instance() {
    for (meta_data, instance) in [
        ("{\"local-hostname\": \"a\", \"instance-id\": \"i-1\"}", "i-1"),
        ("# comment\ninstance-id: 'i 2'\n", "i 2"),
        ("", "nocloud"),
        ("local-hostname: a\n", "nocloud"),
        ("instance-id: 0017\n", "0017"),
    ] {
        let device = Device::new(SEED);
        device.seed("meta-data", meta_data);
        assert_eq!(device.boot().code, 0, "{meta_data}");
        assert!(fs::read_to_string(device.record()).unwrap().ends_with(&format!(" {instance}\n")), "{meta_data}");
    }
    for meta_data in ["instance-id: [a]\n", "instance-id: \"a\\nb\"\n", "instance-id: ''\n", ": :\n", "\u{0}"] {
        let device = Device::new(SEED).configured();
        device.seed("meta-data", meta_data);
        device.refuses(78);
    }
}

#[test]
fn without_a_block_the_settings_stay() {
    for user_data in [
        "",
        "\n",
        "#cloud-config\n",
        "#cloud-config\nhostname: a\n",
        "#cloud-config\nupdates:\n",
        "#cloud-config\nupdates: {}\n",
    ] {
        let device = Device::new(user_data).configured();
        let ran = device.boot();
        assert_eq!(ran.code, 0, "{user_data:?}: {}", ran.said);
        assert_eq!(fs::read_to_string(device.conf()).unwrap(), "channel=before\n", "{user_data:?}");
    }
}

#[test]
fn no_seed_is_nothing_to_do() {
    let device = Device::new(SEED);
    fs::remove_dir_all(device.at("seed")).unwrap();
    let ran = device.boot();
    assert_eq!(ran.code, 78, "a folder that was named must be there: {}", ran.said);
}

#[test]
fn the_example_is_what_a_device_takes() {
    let example = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/updates.yaml")).unwrap();
    let device = Device::new(example);
    let ran = device.boot();
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert!(
        fs::read_to_string(device.conf())
            .unwrap()
            .contains("\nmaintenance_window=Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00\n")
    );
}

#[test]
fn check_shows_and_writes_nothing() {
    let device = Device::new(SEED);
    let ran = device.run(&["--check"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("channel=stable\n") && !device.conf().exists() && !device.record().exists());
}

#[test]
fn what_the_agent_would_not_take_is_refused_with_key_and_line() {
    for (block, line, key) in [
        ("  chanel: stable\n", 3, "chanel"),
        ("  channel: stable\n  maintenance_window: 25:00-26:00\n", 4, "maintenance_window"),
        ("  channel: stable\n\n  # one\n  health_timeout: soon\n", 6, "health_timeout"),
        ("  channel: stable\n  channel: beta\n", 4, "channel"),
        ("  channel: [stable, beta]\n", 3, "channel"),
        ("  channel: {name: stable}\n", 3, "channel"),
        ("  allow_unsigned: maybe\n", 3, "allow_unsigned"),
        ("  plain_http: http://a/\n", 3, "plain_http"),
    ] {
        let device = Device::new(format!("#cloud-config\nupdates:\n{block}")).configured();
        let said = device.refuses(78);
        assert!(said.contains(&format!("user-data:{line}:")) && said.contains(key), "{block}: {said}");
    }
    let device = Device::new("#cloud-config\nupdates:\n  server: https://a.example\n  registry: b.example/os\n");
    let said = device.refuses(78);
    assert!(said.contains("server") && said.contains("registry"), "{said}");
}

#[test]
fn a_value_cannot_bring_a_second_line() {
    for value in [
        "\"a\\nallow_unsigned=yes\"",
        "\"a\\rallow_unsigned=yes\"",
        "|\n    a\n    allow_unsigned=yes",
        "\"a\\u0085b\"",
        "\" a\"",
        "\"a\\0\"",
    ] {
        let device = Device::new(format!("#cloud-config\nupdates:\n  tag: v1\n  channel: {value}\n")).configured();
        let said = device.refuses(78);
        assert!(said.contains("user-data:4:") && said.contains("channel"), "{value}: {said}");
        assert!(said.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~' | 0x1b)), "{said:?}");
    }
    for key in ["\"channel=a\\nallow_unsigned\"", "\"#channel\"", "\"channel=a\""] {
        Device::new(format!("#cloud-config\nupdates:\n  {key}: yes\n")).configured().refuses(78);
    }
}

#[test]
fn broken_yaml_is_told_with_its_line() {
    for (text, line) in [
        ("updates:\n  channel: \"stable\n", ":"),
        ("updates:\n\tchannel: stable\n", ":3:"),
        ("updates:\n  channel: stable\n wrong: a\n", ":"),
        ("updates: [\n", ":"),
        ("- updates\n", ":2:"),
        ("updates: later\n", ":2:"),
        ("updates: {channel: a}\nupdates: {channel: b}\n", ":3:"),
    ] {
        let said = Device::new(format!("#cloud-config\n{text}")).configured().refuses(78);
        assert!(said.contains(&format!("user-data{line}")), "{text}: {said}");
    }
    let said = Device::new(b"#cloud-config\nupdates:\n  channel: \xff\n").configured().refuses(78);
    assert!(said.contains("user-data:3:") && said.contains("UTF-8"), "{said}");
}

#[test]
fn yaml_that_grows_is_refused() {
    let deep = format!("#cloud-config\na: {}{}\n", "[".repeat(17), "]".repeat(17));
    Device::new(deep).configured().refuses(78);
    let fits = format!("#cloud-config\na: {}{}\n", "[".repeat(14), "]".repeat(14));
    assert_eq!(Device::new(fits).boot().code, 0);
    let long = |items| format!("#cloud-config\na: [{}]\n", vec!["x"; items].join(","));
    Device::new(long(100_001)).configured().refuses(78);
    assert_eq!(Device::new(long(90_000)).boot().code, 0);
    Device::new("#cloud-config\na: &a [*a]\n").configured().refuses(78);
    let mut bomb = "#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let last = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![last; 10].join(", "));
    }
    Device::new(bomb).configured().refuses(78);
}

#[test]
fn user_data_of_another_kind_is_named() {
    let base64 = |text: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let wrapped = base64(SEED.as_bytes()).as_bytes().chunks(76).collect::<Vec<_>>().join(&b'\n');
    let wrapped = String::from_utf8(wrapped).unwrap();
    for (text, word, remedy) in [
        ("Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x\n", "MIME", "text/cloud-config part"),
        ("#!/bin/sh\nreboot\n", "script", "updates: block"),
        ("## template: jinja\n#cloud-config\n", "jinja", "that it makes"),
        ("#include\nhttp://a\n", "#include", "document itself"),
        ("#include-once\nhttp://a\n", "#include", "document itself"),
        ("updates: {channel: a}\n", "not cloud-config", "#cloud-config"),
        ("#cloud-config-archive\n- a\n", "archive", "text/cloud-config part"),
        ("#cloud-boothook\n", "cloud-init", "updates: block"),
        (&base64(SEED.as_bytes()), "Base64", "base64 -d"),
        (&wrapped, "Base64", "base64 -d"),
        (&base64(&gzip(SEED.as_bytes())), "Base64", "base64 -d"),
    ] {
        let said = Device::new(text).configured().refuses(78);
        assert!(said.contains("user-data:1:") && said.contains(word) && said.contains(remedy), "{text}: {said}");
    }
}

#[test]
fn yaml_that_another_reader_would_understand_otherwise_is_named() {
    for (text, line, word) in [
        ("a: b\n---\nupdates: {channel: a}\n", "user-data:3:", "second document"),
        ("---\nupdates: {channel: a}\n--- \nb: c\n", "user-data:4:", "second document"),
        ("updates: {channel: a}\n...\nb: c\n", "user-data:3:", "second document"),
        ("base: &base {channel: a}\nupdates:\n  <<: *base\n", "user-data:4:", "merge keys"),
        ("base: &base {updates: {channel: a}}\n<<: *base\n", "line 3: <<", "merge keys"),
    ] {
        let said = Device::new(format!("#cloud-config\n{text}")).configured().refuses(78);
        assert!(said.contains(line) && said.contains(word), "{text}: {said}");
    }
    for one in ["---\nupdates: {channel: stable}\n...\n# end\n", "a: |\n  x\n  ---\n  y\nupdates: {channel: stable}\n"]
    {
        let device = Device::new(format!("#cloud-config\n{one}"));
        assert_eq!(device.boot().code, 0, "{one}");
        assert!(fs::read_to_string(device.conf()).unwrap().contains("channel=stable\n"), "{one}");
    }
}

#[test]
fn a_seed_that_lies_elsewhere_is_named() {
    for (meta_data, word) in [
        ("instance-id: a\nseedfrom: http://me:secret@seeds.example/a/\n", "seedfrom"),
        ("instance_id: edge-7\n", "Write instance-id"),
    ] {
        let device = Device::new(SEED).configured();
        device.seed("meta-data", meta_data);
        let said = device.refuses(78);
        assert!(said.contains("meta-data") && said.contains(word) && !said.contains("secret"), "{said}");
    }
    for line in
        ["ds=nocloud;s=http://a/ quiet", "x \"ds=nocloud-net;h=b;seedfrom=http://a/\"", "ds=none ds=nocloud;s=/seed/"]
    {
        let warning = elsewhere(line).unwrap_or_else(|| panic!("{line}"));
        assert!(warning.contains("ds=nocloud") && warning.contains("CIDATA"), "{warning}");
    }
    for line in ["quiet", "ds=nocloud", "ds=nocloud;h=host", "ds=nocloud;s=/a ds=none", "ids=nocloud;s=/a"] {
        assert_eq!(elsewhere(line), None, "{line}");
    }
}

#[test]
fn the_limit_counts_unpacked_bytes_and_one_more_is_too_many() {
    const LIMIT: usize = 1024 * 1024;
    let mut user_data = SEED.as_bytes().to_vec();
    user_data.resize(LIMIT, b'#');
    user_data[SEED.len()] = b'#';
    for fits in [user_data.clone(), gzip(&user_data)] {
        let ran = Device::new(fits).boot();
        assert_eq!(ran.code, 0, "{}", ran.said);
    }
    user_data.push(b'#');
    for too_big in [user_data.clone(), gzip(&user_data), gzip(&vec![0; 256 * LIMIT])] {
        let said = Device::new(too_big).configured().refuses(65);
        assert!(said.contains("1048576"), "{said}");
    }
    let device = Device::new(SEED).configured();
    device.seed("meta-data", [b"instance-id: one\n".to_vec(), vec![b'#'; 64 * 1024]].concat());
    assert!(device.refuses(65).contains("meta-data: more than the limit of 65536 bytes"));
    let cut = gzip(SEED.as_bytes());
    Device::new(&cut[..cut.len() / 2]).configured().refuses(65);
}

#[test]
fn a_seed_that_others_can_write_or_that_leads_elsewhere_is_refused() {
    let device = Device::new(SEED).configured();
    fs::set_permissions(device.at("seed/user-data"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(device.refuses(78).contains("writable by others"));

    let device = Device::new(SEED).configured();
    fs::rename(device.at("seed/user-data"), device.at("elsewhere")).unwrap();
    symlink(device.at("elsewhere"), device.at("seed/user-data")).unwrap();
    assert!(device.refuses(78).contains("symbolic link"));

    let device = Device::new(SEED).configured();
    fs::remove_file(device.at("seed/user-data")).unwrap();
    nix::unistd::mkfifo(&device.at("seed/user-data"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ran = device.boot();
    assert!(ran.code == 78 && ran.said.contains("not a regular file"), "{}", ran.said);

    let device = Device::new(SEED).configured();
    fs::remove_file(device.at("seed/meta-data")).unwrap();
    assert!(device.refuses(78).contains("meta-data"));

    if is_root() {
        let device = Device::new(SEED).configured();
        chown(device.at("seed/user-data"), Some(65534), None).unwrap();
        assert!(device.refuses(78).contains("belongs to user 65534"));
    }
}

#[test]
fn a_place_that_leads_elsewhere_or_belongs_to_others_is_not_written() {
    let device = Device::new(SEED).configured();
    fs::rename(device.conf(), device.at("elsewhere")).unwrap();
    symlink(device.at("elsewhere"), device.conf()).unwrap();
    assert!(device.refuses(78).contains("symbolic link"));
    assert!(device.conf().is_symlink());

    let device = Device::new(SEED);
    fs::create_dir_all(device.at("etc")).unwrap();
    fs::create_dir(device.at("other")).unwrap();
    symlink(device.at("other"), device.at("etc/kubesolo")).unwrap();
    assert!(device.refuses(78).contains("symbolic link"));

    let device = Device::new(SEED).configured();
    fs::set_permissions(device.at("etc/kubesolo"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(device.refuses(78).contains("writable by others"));

    let device = Device::new(SEED);
    fs::create_dir_all(device.conf()).unwrap();
    assert!(device.refuses(78).contains("not a regular file"));

    let device = Device::new(SEED);
    fs::write(device.at("etc"), "").unwrap();
    device.refuses(73);

    if is_root() {
        let device = Device::new(SEED).configured();
        chown(device.conf(), Some(65534), None).unwrap();
        assert!(device.refuses(78).contains("belongs to user 65534"));
    }
}

#[test]
fn settings_are_placed_once_for_each_root_and_a_change_there_stays() {
    let device = Device::new(SEED);
    let place = device.at("root/update.conf");
    let boot = || device.run(&["--place", place.to_str().unwrap()]);
    assert_eq!(boot().code, 0);
    let settings = fs::read(device.conf()).unwrap();
    assert_eq!(fs::read(&place).unwrap(), settings);
    fs::write(&place, "channel=mine\n").unwrap();
    assert_eq!(boot().code, 0);
    assert_eq!(fs::read(&place).unwrap(), b"channel=mine\n");
    // A root that is new at each boot, and a seed that is gone.
    fs::remove_dir_all(device.at("root")).unwrap();
    fs::remove_file(device.at("seed/user-data")).unwrap();
    assert_eq!(boot().code, 78);
    assert_eq!(fs::read(&place).unwrap(), settings);
}

#[test]
fn settings_that_others_could_have_written_are_not_placed() {
    let device = Device::new(SEED);
    let place = device.at("root/update.conf");
    let boot = || device.run(&["--place", place.to_str().unwrap()]);
    assert_eq!(device.boot().code, 0);
    fs::set_permissions(device.conf(), fs::Permissions::from_mode(0o666)).unwrap();
    let ran = boot();
    assert!(ran.code == 78 && ran.said.contains("writable by others"), "{}", ran.said);
    fs::rename(device.conf(), device.at("elsewhere")).unwrap();
    symlink(device.at("elsewhere"), device.conf()).unwrap();
    let ran = boot();
    assert!(ran.code == 78 && ran.said.contains("symbolic link"), "{}", ran.said);
    assert!(!place.exists());
}

#[test]
fn settings_that_cannot_be_noted_are_written_again() {
    let device = Device::new(SEED);
    symlink("nowhere", device.at("data")).unwrap();
    let ran = device.boot();
    assert!(ran.code == 73 && ran.said.contains("data/instance"), "{}", ran.said);
    fs::remove_file(device.at("data")).unwrap();
    assert_eq!(device.boot().code, 0);
    assert!(device.record().exists());
}

#[test]
fn a_damaged_record_is_none() {
    let device = Device::new(SEED);
    for damaged in ["", "\n", "edge-7", "\u{0}\u{0}"] {
        fs::create_dir_all(device.at("data")).unwrap();
        fs::write(device.record(), damaged).unwrap();
        let _ = fs::remove_file(device.conf());
        assert_eq!(device.boot().code, 0);
        assert!(device.conf().exists(), "{damaged:?}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    let mut command = Command::cargo_bin("kubesolo-cloudinit").unwrap();
    command.arg("--what").assert().code(64);
    let mut command = Command::cargo_bin("kubesolo-cloudinit").unwrap();
    command.arg("--seed").assert().code(64);
}

/// A volume of ISO 9660 whose label is that of a seed, on a disk that the kernel shows below this bus.
fn volume(machine: &Path, bus: &str, removable: &str) {
    let disk = machine.join("sys/devices").join(bus).join("block/sda");
    for folder in [disk.join("holders"), machine.join("sys/class/block"), machine.join("dev"), machine.join("proc")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(disk.join("uevent"), "MAJOR=8\nMINOR=0\nDEVNAME=sda\n").unwrap();
    fs::write(disk.join("size"), "100\n").unwrap();
    fs::write(disk.join("removable"), removable).unwrap();
    symlink(&disk, machine.join("sys/class/block/sda")).unwrap();
    let mut image = vec![0; 100 * 512];
    image[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    image[0x8008..0x8048].fill(b' ');
    image[0x8028..0x802e].copy_from_slice(b"cidata");
    fs::write(machine.join("dev/sda"), image).unwrap();
}

#[test]
fn a_seed_that_somebody_could_have_brought_is_ignored_unless_the_command_line_says_so() {
    for (bus, removable, configured, line, ignored) in [
        ("pci0/usb1/1-1/host0", "0\n", false, "quiet", true),
        ("pci0/ata1", "1\n", false, "quiet kubesolo.seed=yes", true),
        ("pci0/usb1/1-1/host0", "0\n", true, "quiet kubesolo.seed=removable", false),
        ("pci0/virtio1", "0\n", false, "quiet", false),
        ("pci0/virtio1", "0\n", true, "quiet", true),
        ("pci0/virtio1", "0\n", true, "quiet kubesolo.seed=fixed", false),
    ] {
        let machine = tempfile::tempdir().unwrap();
        let at = |name: &str| machine.path().join(name);
        volume(machine.path(), bus, removable);
        fs::write(at("proc/cmdline"), line).unwrap();
        let found =
            find(&System { sys: at("sys"), dev: at("dev"), proc: at("proc"), run: at("run") }, None, configured);
        match ignored {
            true => assert_eq!(found.unwrap(), None, "{bus} {line}"),
            // It would be read: here it is a file, which nobody can mount.
            false => drop(found.unwrap_err()),
        }
    }
}

#[test]
fn a_text_that_does_not_arrive_is_a_failure() {
    let device = Device::new(SEED);
    for more in ["--check", "--help"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kubesolo-cloudinit"));
        command.arg("--seed").arg(device.at("seed")).arg("--conf").arg(device.conf());
        command.arg("--record").arg(device.record()).arg(more);
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains("standard output")), (Some(73), true), "{more}: {said}");
    }
}
