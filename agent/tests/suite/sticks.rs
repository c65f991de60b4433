//! Removable media with releases: real filesystems on loop devices, which a made-up `/sys` shows as sticks. The kernel of
//! this machine may lack FAT and ISO 9660; the story `stick` has both on a virtual device.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bootenv::SlotId;
use kubesolo_update::base::limits;
use kubesolo_update::device::blocks::volume;
use kubesolo_update::device::mount::Filesystem;
use kubesolo_update::release::release::{ARCHITECTURE, Architecture, CHANNEL, VERSION};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::bundle::{File, blob_name, entries, files, good, tar};
use crate::cli_support::{Device, Ran, publish};
use crate::common::fault::World;
use crate::common::registry::Registry;
use crate::common::{self};
use crate::disk::{Machine, run};

/// The place of a stick on a bus.
pub(crate) const USB: &str = "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0";
const MIB: usize = 1 << 20;

/// A device on folders, in a machine whose disks are made up.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) device: Device,
    loops: Vec<PathBuf>,
}

impl Bench {
    /// With these settings; `None` without the right to mount.
    pub(crate) fn new(settings: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let (machine, device) = (Machine::new(""), Device::new());
        let part = machine.device("pci0/virtio1", "vda", 0, 1);
        machine.boot(&format!("quiet ks.part={part}"));
        fs::create_dir(machine.at("run")).unwrap();
        fs::write(machine.at("dev/console"), "").unwrap();
        device.write("conf", settings.as_bytes());
        Some(Self { machine, device, loops: vec![] })
    }

    /// Plugs in a disk with this content.
    pub(crate) fn plug(&mut self, bus: &str, node: &str, image: &Path) {
        self.plug_with(&[], bus, node, image);
    }

    /// The same with these options of losetup.
    pub(crate) fn plug_with(&mut self, options: &[&str], bus: &str, node: &str, image: &Path) {
        let minor = 32 + 16 * self.loops.len() as u32;
        self.machine.disk(bus, node, minor, &[0; 512], &[]);
        let size = format!("{}\n", image.metadata().unwrap().len() / 512);
        fs::write(self.machine.at(&format!("sys/class/block/{node}/size")), size).unwrap();
        let attached = Command::new("losetup").args(["--find", "--show"]).args(options).arg(image).output().unwrap();
        assert!(attached.status.success(), "{attached:?}");
        let real = PathBuf::from(String::from_utf8(attached.stdout).unwrap().trim());
        let number = real.metadata().unwrap().rdev();
        let shown = self.machine.at("dev").join(node);
        fs::remove_file(&shown).unwrap();
        let [major, minor] = [nix::libc::major(number), nix::libc::minor(number)].map(|number| number.to_string());
        run(Command::new("mknod").arg(&shown).args(["b", &major, &minor]));
        self.loops.push(real);
    }

    /// Pulls out a disk.
    pub(crate) fn unplug(&mut self, node: &str) {
        for shown in ["sys/class/block", "dev"] {
            fs::remove_file(self.machine.at(shown).join(node)).unwrap();
        }
        for device in self.loops.drain(..) {
            run(Command::new("losetup").arg("--detach").arg(device));
        }
    }

    /// A command in a mount namespace in which `/sys`, `/dev` and `/run` are those of the machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        const INSIDE: &str = "set -e; for place in sys dev run proc/cmdline proc/uptime; do \
            mount --bind \"$0/$place\" /$place; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", INSIDE]).arg(self.machine.dir.path()).arg(&self.device.program);
        command.args(self.device.local(arguments)).current_dir(self.device.dir.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.command(&[arguments, &["--pubkey", "K"]].concat()).output().unwrap().into()
    }

    /// Compares the words on the console since the last time.
    #[track_caller]
    pub(crate) fn told(&self, words: &[&str]) {
        let told = fs::read_to_string(self.machine.at("dev/console")).unwrap();
        fs::write(self.machine.at("dev/console"), "").unwrap();
        for word in words {
            assert!(told.contains(word), "no \"{word}\" in {told:?}");
        }
        assert!(!words.is_empty() || told.is_empty(), "{told:?}");
    }

    /// No slot and no boot environment changes.
    fn untouched<T>(&self, act: impl FnOnce() -> T) -> T {
        let state = || (self.device.tree("A"), self.device.tree("B"), self.device.env_bytes());
        let before = state();
        let result = act();
        assert_eq!(state(), before);
        result
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for device in self.loops.drain(..) {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

/// A release of this version; its images follow from the version.
fn world(version: &str, architecture: Architecture) -> World {
    let initramfs = version.as_bytes().repeat(500);
    let mut manifest = common::manifest(version, architecture, b"kernel", &initramfs);
    manifest["annotations"] = json!({VERSION: version, ARCHITECTURE: architecture.to_string(), CHANNEL: "stable"});
    World::of_manifest(&manifest, initramfs)
}

/// A signed bundle of this version.
pub(crate) fn bundle(version: &str) -> Vec<u8> {
    tar(&good(&world(version, Architecture::current())))
}

/// An ext4 filesystem with these files in its root folder.
pub(crate) fn stick(label: &str, files: &[(&str, &[u8])]) -> NamedTempFile {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    ext4(label, folder.path())
}

pub(crate) fn ext4(label: &str, folder: &Path) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(16 * MIB as u64).unwrap();
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-N", "4096", "-L", label, "-d"])
        .arg(folder)
        .arg(image.path()));
    image
}

#[test]
fn a_stick_is_used_as_far_as_the_settings_say_and_no_further() {
    let Some(mut bench) = Bench::new("auto=activate\n") else { return };
    let image = stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0")), ("TWO.TAR", &bundle("2.0.0"))]);
    bench.plug(USB, "sdb", image.path());
    let before = fs::read(image.path()).unwrap();
    bench.untouched(|| bench.run(&["stick"]).code(0));
    bench.untouched(|| bench.run(&["run", "--json"]).refused(78, "no-source"));
    bench.told(&[]);

    bench.device.write("conf", b"auto=check\nremovable_bundles=activate\n");
    let checked = bench.untouched(|| bench.run(&["run", "--json"]).code(0).json());
    assert_eq!(checked["offered"]["version"], "2.0.0", "the newest: {checked:#}");

    bench.device.write("conf", b"auto=activate\nremovable_bundles=stage\n");
    let staged = bench.run(&["run", "--json"]).code(0).json();
    assert_eq!((&staged["outcome"], &staged["version"]), (&json!("staged"), &json!("2.0.0")));
    bench.told(&["stick sdb: 2.0.0 from TWO.TAR is taken"]);
    // It went through the examination, and the next run does not repeat that.
    let examined = || bench.device.here(&["intake", "list", "--json"]).code(0).json().as_array().unwrap().len();
    assert_eq!(examined(), 1);
    assert_eq!(bench.untouched(|| bench.run(&["run", "--json"]).code(0).json())["outcome"], "staged");
    assert_eq!((examined(), bench.device.env().active), (1, SlotId::A));

    bench.device.write("conf", b"auto=activate\nremovable_bundles=activate\n");
    bench.untouched(|| bench.run(&["stick", "sdc"]).code(0).says(&["no removable medium"]));
    let activated = bench.run(&["stick", "sdb", "--json"]).code(0).json();
    assert_eq!((&activated["outcome"], bench.device.env().active), (&json!("activated"), SlotId::B));
    bench.device.power_on();
    bench.device.here(&["healthcheck"]).code(0).says(&["committed"]);

    // The newest one runs, and the other one is no way back.
    bench.untouched(|| bench.run(&["run"]).code(0).says(&["no removable medium offers another release"]));
    assert_eq!(bench.device.state()["last_run"]["outcome"], "up-to-date");
    assert!(fs::read(image.path()).unwrap() == before, "the medium was not written");
}

#[test]
fn outside_the_window_a_stick_is_left_alone() {
    let Some(mut bench) = Bench::new("auto=activate\nremovable_bundles=activate\nmaintenance_window=03:00-03:00\n")
    else {
        return;
    };
    bench.plug(USB, "sdb", stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0"))]).path());
    for verb in [&["run", "--json"][..], &["stick", "/dev/sdb", "--json"]] {
        bench.untouched(|| bench.run(verb).refused(75, "window"));
        bench.told(&["stick sdb: left alone", "window"]);
    }
    assert!(!bench.device.path("S/intake").exists(), "nothing was examined");
}

#[test]
fn only_removable_media_with_the_label_are_looked_at() {
    let Some(mut bench) = Bench::new("removable_bundles=activate\n") else { return };
    let content = [("one.tar", &*bundle("1.0.0"))];
    let (labelled, other) = (stick("KSOLOUPDATE", &content), stick("KSOLODATA", &content));
    let nothing = |bench: &Bench| {
        bench.untouched(|| bench.run(&["run"]).code(0).says(&["no removable medium"]));
        bench.told(&[]);
    };
    for (bus, image) in [("pci0/virtio2", &labelled), ("virtual", &labelled), (USB, &other)] {
        bench.plug(bus, "sdb", image.path());
        nothing(&bench);
        bench.unplug("sdb");
    }
    // A fixed bus whose device the kernel calls removable, and a card.
    for (file, text) in [("removable", "1"), ("device/type", "SD")] {
        bench.plug("pci0/sdhci", "sdb", labelled.path());
        let place = bench.machine.at("sys/class/block/sdb").join(file);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
        bench.run(&["run"]).code(0).says(&["1.0.0"]);
        bench.unplug("sdb");
    }
}

/// A device that was booted from USB has its own disk there.
#[test]
fn a_volume_of_the_disk_that_was_booted_is_no_stick() {
    let machine = Machine::new("");
    let part = machine.device(USB, "sda", 0, 1);
    machine.boot(&format!("ks.part={part}"));
    let image = stick("KSOLOUPDATE", &[]);
    fs::copy(image.path(), machine.at("dev/sda4")).unwrap();
    assert!(machine.system.sticks().unwrap().is_empty());
    let place = USB.replace("1-1", "1-2");
    machine.disk(&place, "sdb", 64, &fs::read(image.path()).unwrap(), &[]);
    assert_eq!(machine.system.sticks().unwrap()[0].device, machine.at("dev/sdb"));
}

/// By what the makers of filesystems write, not by what this program thinks of it.
#[test]
fn type_label_and_identity_of_a_volume_are_those_of_its_maker() {
    let image = NamedTempFile::new().unwrap();
    let read = || volume(&mut fs::File::open(image.path()).unwrap()).unwrap();
    for (size, bits) in [(8, "12"), (32, "16"), (64, "32")] {
        image.as_file().set_len(0).unwrap();
        image.as_file().set_len(size * MIB as u64).unwrap();
        run(Command::new("mkfs.vfat").args(["-F", bits, "-n", "KSOLOUPDATE", "-i", "1a2b3c4d"]).arg(image.path()));
        let found = read().unwrap();
        assert_eq!(
            (found.filesystem, &*found.label, &*found.id),
            (Filesystem::Vfat, "KSOLOUPDATE", "4d3c2b1a"),
            "{bits}"
        );
    }
    let ext = stick("KSOLOUPDATE", &[]);
    run(Command::new("tune2fs").args(["-U", "00112233-4455-6677-8899-aabbccddeeff"]).arg(ext.path()));
    let found = volume(&mut fs::File::open(ext.path()).unwrap()).unwrap().unwrap();
    assert_eq!((found.filesystem, &*found.id), (Filesystem::Ext4, "00112233445566778899aabbccddeeff"));
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("genisoimage").args(["-quiet", "-V", "KSOLOUPDATE", "-o"]).arg(image.path()).arg(folder.path()));
    let found = read().unwrap();
    assert_eq!((found.filesystem, &*found.label, &*found.id), (Filesystem::Iso9660, "KSOLOUPDATE", ""));
}

#[test]
fn the_newest_bundle_that_the_gates_allow_is_taken() {
    let Some(mut bench) = Bench::new("removable_bundles=stage\n") else { return };
    let unsigned = {
        let world = world("5.0.0", Architecture::current());
        tar(&files(&world, &entries(&world)[..1]))
    };
    let of_another = tar(&good(&world("4.0.0", other_architecture())));
    let damaged = {
        let world = world("3.0.0", Architecture::current());
        let all: Vec<File> = good(&world).into_iter().filter(|(name, ..)| *name != blob_name(b"kernel")).collect();
        tar(&[&all[..], &[(blob_name(b"kernel"), b'0', b"kernal".to_vec())]].concat())
    };
    let image = stick(
        "KSOLOUPDATE",
        &[
            ("a.tar", &bundle("1.0.0")),
            ("b.tar", &unsigned),
            ("c.tar", &of_another),
            ("d.tar", &damaged),
            ("e.tar", &bundle("2.0.0")),
            ("f.tar", b"no archive"),
            ("g.txt", &bundle("9.0.0")),
        ],
    );
    bench.plug(USB, "sdb", image.path());
    let staged = bench.run(&["run", "--json"]).code(0).json();
    assert_eq!((&staged["outcome"], &staged["version"]), (&json!("staged"), &json!("2.0.0")), "{staged:#}");
    bench.told(&[
        "5.0.0 from b.tar is not taken",
        "c.tar is not taken",
        "3.0.0 from d.tar is not taken",
        "digest",
        "f.tar is not taken: bundle",
        "2.0.0 from e.tar is taken",
    ]);
    // The failed attempt is in the history, and so is the record of its bundle.
    let history = bench.device.here(&["history", "--json"]).code(0).json();
    let phases: Vec<_> = history.as_array().unwrap().iter().map(|entry| entry["phase"].clone()).collect();
    assert_eq!(phases, ["failed", "staged"]);
    let records = bench.device.here(&["intake", "list", "--json"]).code(0).json();
    assert_eq!((&records[0]["verdict"], &records[1]["verdict"]), (&json!("rejected"), &json!("accepted")));
}

fn other_architecture() -> Architecture {
    [Architecture::Amd64, Architecture::Arm64].into_iter().find(|one| *one != Architecture::current()).unwrap()
}

/// The server asked to be left alone until then.
#[test]
fn a_stick_that_offers_nothing_lifts_no_retry_after() {
    let Some(bench) = Bench::new("removable_bundles=stage\n") else { return };
    bench.run(&["stick"]).code(0);
    let mut state = bench.device.state();
    state["not_before"] = json!("2040-01-01T00:00:00Z");
    bench.device.write("S/state.json", state.to_string().as_bytes());
    bench.run(&["stick"]).code(0);
    assert_eq!(bench.device.state()["not_before"], "2040-01-01T00:00:00Z");
}

#[test]
fn a_bundle_of_0_1_is_taken_from_a_stick() {
    let Some(mut bench) = Bench::new("removable_bundles=stage\n") else { return };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1");
    let read = |name: &str| fs::read(fixtures.join(name)).unwrap();
    bench.device.write("K", &read("K.pem"));
    bench.plug(USB, "sdb", stick("KSOLOUPDATE", &[("bundle.tar", &read("bundle.tar"))]).path());
    let staged = bench.run(&["run", "--json"]).code(0).json();
    assert_eq!((&staged["outcome"], &staged["version"]), (&json!("staged"), &json!("3.0.0")), "{staged:#}");
}

/// The network is asked all the same.
#[test]
fn a_stick_without_use_keeps_no_device_from_its_source() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let settings = format!(
        "removable_bundles=stage\nregistry={0}/os\ntag=stable\nplain_http={0}\n",
        AsRef::<str>::as_ref(&registry)
    );
    let Some(mut bench) = Bench::new(&settings) else { return };
    // The label is read, and nothing behind it is a filesystem.
    let mut damaged = fs::read(stick("KSOLOUPDATE", &[("one.tar", &bundle("2.0.0"))]).path()).unwrap();
    damaged[1024 + 16..1024 + 56].fill(0xff);
    damaged[4096..].fill(0xff);
    let image = NamedTempFile::new().unwrap();
    image.as_file().write_all(&damaged).unwrap();
    bench.plug(USB, "sdb", image.path());
    bench.untouched(|| bench.run(&["stick", "sdb", "--json"]).refused(73, "damaged-filesystem"));
    bench.told(&["stick sdb: cannot mount"]);
    let staged = bench.run(&["run", "--json"]).code(0).json();
    assert_eq!((&staged["outcome"], &staged["version"]), (&json!("staged"), &json!("1.0.0")));
}

#[test]
fn thousands_of_files_and_links_on_a_stick_are_not_followed_and_not_read() {
    let Some(mut bench) = Bench::new("removable_bundles=stage\n") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("good"), bundle("1.0.0")).unwrap();
    std::os::unix::fs::symlink("good", at("a.tar")).unwrap();
    std::os::unix::fs::symlink(bench.device.path("elsewhere.tar"), at("b.tar")).unwrap();
    bench.device.write("elsewhere.tar", &bundle("2.0.0"));
    fs::create_dir(at("c.tar")).unwrap();
    nix::unistd::mkfifo(&at("d.tar"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(at("d.tar").metadata().unwrap().file_type().is_fifo());
    fs::write(at("e\u{1b}[2J.tar"), "no archive").unwrap();
    bench.plug(USB, "sdb", ext4("KSOLOUPDATE", folder.path()).path());
    bench.untouched(|| bench.run(&["run"]).code(0).says(&["no removable medium"]));
    bench.told(&["e\\u{1b}[2J.tar is not taken", "it has no bundle for this device"]);
    bench.unplug("sdb");

    // Bundles first by name, and more of them than are opened.
    for number in 0..limits::STICK_ENTRIES * 2 {
        fs::write(at(&format!("{number:04}.tar")), "").unwrap();
    }
    bench.plug(USB, "sdb", ext4("KSOLOUPDATE", folder.path()).path());
    let ran = bench.untouched(|| bench.run(&["run"]).code(0));
    assert_eq!(ran.stderr.matches("is not taken").count(), limits::STICK_BUNDLES, "{ran:?}");
    bench.told(&["only the first 1024 of its files", "only the first 16 of its"]);
}

/// After a stick was pulled out in the middle, its folder is still in memory, and each read fails. A loop device whose file
/// became shorter stands for it.
#[test]
fn a_stick_that_vanishes_costs_no_slot_before_its_bundle_was_examined() {
    let Some(mut bench) = Bench::new("removable_bundles=activate\nauto=activate\n") else { return };
    let mut big = world("1.0.0", Architecture::current());
    big.files.insert("/padding".into(), ("application/octet-stream".into(), vec![7; 8 * MIB]));
    let image = stick("KSOLOUPDATE", &[("one.tar", &tar(&good(&big)))]);
    bench.plug(USB, "sdb", image.path());
    image.as_file().set_len(4 * MIB as u64).unwrap();
    let ran = bench.untouched(|| bench.run(&["stick", "sdb"]));
    assert!(ran.stderr.contains("one.tar is not taken"), "{ran:?}");
}

#[test]
fn a_stick_that_something_else_has_mounted_is_left_alone() {
    let Some(mut bench) = Bench::new("removable_bundles=stage\n") else { return };
    bench.plug(USB, "sdb", stick("KSOLOUPDATE", &[("one.tar", &bundle("1.0.0"))]).path());
    let held = Held::mount(&bench.loops[0]);
    bench.untouched(|| bench.run(&["stick", "sdb", "--json"]).refused(75, "stick-busy"));
    bench.told(&["stick sdb: ", "is mounted elsewhere or in use"]);
    drop(held);
    bench.run(&["stick", "sdb"]).code(0).says(&["1.0.0"]);
}

/// A device that a process of another namespace has mounted.
struct Held {
    child: Child,
    /// Without its folder, a mount of another namespace is gone.
    _place: tempfile::TempDir,
}

impl Held {
    fn mount(device: &Path) -> Self {
        let place = tempfile::tempdir().unwrap();
        let script = "mount -o ro \"$0\" \"$1\" && echo mounted && exec cat";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .args([device, place.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"mounted\n");
        Self { child, _place: place }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// `pre-update.d` runs between the examination and the write: the bundle is another one then. A folder stands for the medium.
#[test]
fn a_bundle_that_changes_while_it_is_read_is_found_out() {
    let device = Device::new();
    fs::create_dir(device.path("pre-update.d")).unwrap();
    fs::write(device.path("bundle.tar"), bundle("1.0.0")).unwrap();
    let whole = fs::read(device.path("bundle.tar")).unwrap();
    let at = whole.windows(11).position(|part| part == b"1.0.01.0.01").unwrap();
    device.write("conf", format!("pre_update_dir={}\n", device.path("pre-update.d").display()).as_bytes());
    let change = format!(
        "printf X | dd of={} bs=1 seek={} conv=notrunc 2>/dev/null",
        device.path("bundle.tar").display(),
        at + 1000
    );
    device.script("pre-update.d/10-change", &change);
    let ran = crate::bundle::from_bundle(&device, &["apply", "--activate", "--json"]);
    let error = ran.refused(65, "digest-mismatch");
    assert!(error["remedy"].as_str().unwrap().contains("slot A is unchanged and boots"), "{error:#}");
    assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
}
