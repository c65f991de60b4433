//! The disk that was booted, among others. Disks are images that sgdisk makes, below a made-up `/sys` and `/dev`.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli_support::{Device, Ran, publish};
use crate::common::registry::Registry;

use kubesolo_update::base::error::Reason;
use kubesolo_update::device::blocks::System;
use kubesolo_update::device::disk::{Role, Seed};
use kubesolo_update::device::slot::{Place, Slot};
use kubesolo_update::device::table::{PartId, Table};

/// Partitions of a device: slot A, slot B, data, and one that has the label of none.
const DEVICE: [&str; 4] = ["KSOLOA", "KSOLOB", "KSOLODATA", "other"];
const MIB: u64 = 1 << 20;

pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) system: System,
}

impl Machine {
    pub(crate) fn new(line: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let system = System { sys: at("sys"), dev: at("dev"), proc: at("proc"), run: at("run") };
        for folder in ["sys/class/block", "sys/dev/block", "dev", "proc"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let machine = Self { dir, system };
        machine.boot(line);
        machine
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments of the bootloader, and nothing known of the disk.
    pub(crate) fn boot(&self, line: &str) {
        fs::write(self.at("proc/cmdline"), line).unwrap();
        self.uptime(5.0);
        let _ = fs::remove_dir_all(self.at("run"));
    }

    fn uptime(&self, seconds: f64) {
        fs::write(self.at("proc/uptime"), format!("{seconds:.2} 1.00\n")).unwrap();
    }

    /// The view of sysfs on a device, below `devices`; its number is 254 and `minor`.
    fn shown(&self, folder: &str, minor: u32, name: &str, units: u64) -> PathBuf {
        let real = self.at("sys/devices").join(folder);
        fs::create_dir_all(real.join("holders")).unwrap();
        let node = real.file_name().unwrap().to_str().unwrap();
        let name = if name.is_empty() { String::new() } else { format!("PARTNAME={name}\n") };
        fs::write(real.join("uevent"), format!("MAJOR=254\nMINOR={minor}\nDEVNAME={node}\n{name}")).unwrap();
        fs::write(real.join("size"), format!("{units}\n")).unwrap();
        for link in [format!("class/block/{node}"), format!("dev/block/254:{minor}")] {
            let link = self.at("sys").join(link);
            let _ = fs::remove_file(&link);
            symlink(&real, link).unwrap();
        }
        real
    }

    /// A disk with this content at its place on a bus, with partitions of 1 MiB each, the first at 1 MiB.
    pub(crate) fn disk(&self, bus: &str, node: &str, minor: u32, image: &[u8], partitions: &[&str]) -> PathBuf {
        fs::write(self.at("dev").join(node), image).unwrap();
        let disk = self.shown(&format!("{bus}/block/{node}"), minor, "", image.len() as u64 / 512);
        fs::create_dir_all(disk.join("queue")).unwrap();
        for (file, text) in [
            ("queue/logical_block_size", "512"),
            ("removable", "0"),
            ("diskseq", &format!("{}", minor + 1)),
            ("serial", &format!("serial-{node}")),
        ] {
            fs::write(disk.join(file), format!("{text}\n")).unwrap();
        }
        for (number, name) in (1..).zip(partitions) {
            let part = format!("{node}{number}");
            let shown = self.shown(&format!("{bus}/block/{node}/{part}"), minor + number, name, MIB / 512);
            fs::write(shown.join("partition"), format!("{number}\n")).unwrap();
            fs::write(shown.join("start"), format!("{}\n", u64::from(number) * MIB / 512)).unwrap();
            fs::write(self.at("dev").join(part), vec![0; 4096]).unwrap();
        }
        disk
    }

    /// A device as an installer makes it; gives the identity of its slot A.
    pub(crate) fn device(&self, bus: &str, node: &str, minor: u32, seed: u32) -> String {
        self.disk(bus, node, minor, &gpt(&DEVICE, seed), &DEVICE);
        id(seed, 1)
    }

    fn node(&self, name: &str) -> PathBuf {
        self.at("dev").join(name)
    }

    #[track_caller]
    fn finds(&self, role: Role, node: &str) {
        assert_eq!(self.system.partition(role).unwrap(), self.node(node));
    }

    #[track_caller]
    fn refuses(&self, role: Role, reason: Reason) -> String {
        let error = self.system.partition(role).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        error.message
    }
}

/// The whole program on a made-up machine, in a mount namespace where that one's `/sys`, `/dev` and `/run` are.
struct Commands {
    machine: Machine,
    device: Device,
}

impl Commands {
    /// A device that was booted from a partition of `vda`; `None` without the right to mount.
    fn new(slot: &str, partition: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let (machine, device) = (Machine::new(""), Device::new());
        machine.device("pci0/virtio1", "vda", 0, 1);
        // Nodes that differ by their numbers; what is on them is never asked for.
        for number in 1..=4 {
            let node = machine.node(&format!("vda{number}"));
            fs::remove_file(&node).unwrap();
            run(Command::new("mknod").arg(&node).args(["b", "254", &number.to_string()]));
        }
        let line = format!("panic=5 kubesolo.slot={slot} ks.trial=00000000 ks.proto=1 ks.part={}\n", id(1, partition));
        machine.boot(&line);
        fs::create_dir(machine.at("run")).unwrap();
        device.set_env("active_slot=A\nboot_success=1\nboot_counter=3\n");
        Some(Self { machine, device })
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        const INSIDE: &str = "set -e; for place in sys dev run proc/cmdline proc/uptime; do \
            mount --bind \"$0/$place\" /$place; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", INSIDE]).arg(self.machine.dir.path()).arg(&self.device.program);
        command.args(["--conf", "/dev/null", "--state", "S/state.json", "--bootenv", "grub:grubenv"]).args(arguments);
        command.current_dir(self.device.dir.path()).output().unwrap().into()
    }
}

#[test]
fn a_booted_slot_that_is_not_the_partition_of_the_bootloader_changes_nothing() {
    // The bootloader started partition 1, and calls it slot B.
    let Some(commands) = Commands::new("B", 1) else { return };
    let before = commands.device.env_bytes();
    for verb in ["healthcheck", "activate", "rollback", "verify"] {
        let error = commands.run(&[verb, "--json"]).refused(78, "slot-mismatch");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("slot B is /dev/vda2") && message.contains("/dev/vda1"), "{verb}: {message}");
    }
    assert_eq!(commands.device.env_bytes(), before);
    // Settings that name the slots the wrong way round.
    let commands = Commands::new("A", 1).unwrap();
    let places = ["--slot-a", "LABEL=KSOLOB", "--slot-b", "LABEL=KSOLOA"];
    commands.run(&[&["verify", "--json"][..], &places].concat()).refused(78, "slot-mismatch");
    let run = commands.run(&["verify", "--json"]);
    assert!(!run.stderr.contains("slot-mismatch"), "{run:#?}");
}

#[test]
fn nothing_that_boots_is_changed_while_another_disk_can_be_the_booted_one() {
    let Some(commands) = Commands::new("A", 1) else { return };
    // Ours, and known before the copy shows up.
    commands.run(&["disk", "data"]).code(0).says(&["/dev/vda3"]);
    commands.machine.device("pci0/virtio2", "vdb", 16, 1);
    commands.run(&["disk", "data"]).code(0).says(&["/dev/vda3"]);
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let env = commands.device.env_bytes();
    let reference = format!("{}/os", registry.as_ref());
    let source = ["--registry", &reference, "--tag", "stable", "--plain-http", registry.as_ref(), "--pubkey", "K"];
    // The made-up slots have no version.
    let apply = [&["apply", "--json", "--allow-downgrade"][..], &source].concat();
    let verbs = [&apply[..], &["activate", "--json", "--pubkey", "K"], &["rollback", "--json"], &["adopt", "--json"]];
    for verb in verbs {
        let error = commands.run(verb).refused(78, "device-ambiguous");
        assert!(error["message"].as_str().unwrap().contains("serial-vdb"), "{verb:?}: {error}");
        assert_eq!(commands.device.env_bytes(), env, "{verb:?}");
    }
}

pub(crate) fn run(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn id(seed: u32, number: u32) -> String {
    format!("{seed:08x}-0000-4000-8000-{number:012x}")
}

/// The bytes of a disk with these partitions, each of 1 MiB, whose identities follow from `seed`.
fn gpt(names: &[&str], seed: u32) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((names.len() as u64 + 2) * MIB).unwrap();
    let mut sgdisk = Command::new("sgdisk");
    sgdisk.arg("--clear");
    for (number, name) in (1..).zip(names) {
        sgdisk.arg(format!("--new={number}:{number}M:+1M")).arg(format!("--change-name={number}:{name}"));
        sgdisk.arg(format!("--partition-guid={number}:{}", id(seed, number)));
    }
    run(sgdisk.arg(file.path()));
    fs::read(file.path()).unwrap()
}

#[test]
fn the_bootloader_names_the_disk_whatever_other_disks_are_labelled() {
    for own in ["vda", "vdb"] {
        let machine = Machine::new("");
        let ids = [("vda", 0, 1), ("vdb", 16, 2)]
            .map(|(node, minor, seed)| (node, machine.device(&format!("pci0/virtio{seed}"), node, minor, seed)));
        let part = &ids.iter().find(|(node, _)| *node == own).unwrap().1;
        machine.boot(&format!("quiet ks.part={part}"));
        machine.finds(Role::SlotA, &format!("{own}1"));
        machine.finds(Role::SlotB, &format!("{own}2"));
        machine.finds(Role::Data, &format!("{own}3"));
        assert_eq!(machine.system.booted(&part.parse().unwrap()).unwrap(), machine.node(&format!("{own}1")));
        assert!(machine.system.twins().unwrap().is_empty());
        // Without it two disks are alike.
        machine.boot("quiet");
        machine.refuses(Role::Data, Reason::DeviceAmbiguous);
    }
}

/// The start of an ext filesystem with this label.
fn ext(label: &str) -> Vec<u8> {
    let mut start = vec![0; 4096];
    start[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    start[1024 + 120..][..label.len()].copy_from_slice(label.as_bytes());
    start
}

#[test]
fn a_partition_is_found_by_its_name_or_by_the_label_of_its_filesystem() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio1", "vda", 0, 1);
    machine.boot(&format!("ks.part={part}"));
    fs::write(machine.node("vda4"), ext("KSOLOENV")).unwrap();
    fs::write(machine.node("vda3"), ext("KSOLODATA")).unwrap();
    machine.finds(Role::Data, "vda3");
    machine.finds(Role::Env, "vda4");
    // An unreadable disk is named where nothing is found.
    fs::remove_file(machine.node("vda4")).unwrap();
    let message = machine.refuses(Role::Env, Reason::DiskNotReady);
    assert!(message.contains("KSOLOENV") && message.contains("vda4"), "{message}");
    // A filesystem in a mapping of the partition counts in its place.
    let mapping = machine.shown("virtual/block/dm-0", 200, "", 100);
    fs::create_dir_all(mapping.join("slaves")).unwrap();
    symlink(machine.at("sys/class/block/vda3"), mapping.join("slaves/vda3")).unwrap();
    symlink(&mapping, machine.at("sys/devices/pci0/virtio1/block/vda/vda3/holders/dm-0")).unwrap();
    fs::write(machine.node("dm-0"), ext("KSOLODATA")).unwrap();
    machine.finds(Role::Data, "dm-0");
    machine.system.check_data_on("254:200").unwrap();
}

#[test]
fn a_copy_bit_by_bit_leaves_nothing_to_go_by() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio1", "vda", 0, 1);
    let larger = [gpt(&DEVICE, 1), vec![0; 8 << 20]].concat();
    machine.disk("pci0/usb1/1-1", "sda", 16, &larger, &DEVICE);
    machine.boot(&format!("ks.part={part}"));
    let message = machine.refuses(Role::Data, Reason::DeviceAmbiguous);
    for word in ["serial-vda", "serial-sda", "pci0/virtio1", "pci0/usb1/1-1"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(!machine.at("run/disk").exists(), "nothing is kept in mind");
}

#[test]
fn what_is_plugged_in_later_changes_no_answer() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio2", "vdb", 16, 1);
    machine.boot(&format!("ks.part={part}"));
    machine.finds(Role::Data, "vdb3");
    let copy = machine.device("pci0/virtio1", "vda", 0, 1);
    assert_eq!(copy, part);
    machine.finds(Role::Data, "vdb3");
    assert!(machine.system.twins().unwrap()[0].contains("serial-vda"));
    // Another disk under the same number is not that disk.
    fs::write(machine.at("sys/devices/pci0/virtio2/block/vdb/diskseq"), "99\n").unwrap();
    machine.refuses(Role::Data, Reason::DeviceNotFound);
}

#[test]
fn without_the_bootloaders_word_the_root_filesystem_or_both_slots_tell() {
    let machine = Machine::new("quiet root=/dev/ram0");
    machine.device("pci0/virtio1", "vda", 0, 1);
    machine.disk("pci0/virtio2", "vdb", 16, &gpt(&["KSOLODATA"], 2), &["KSOLODATA"]);
    machine.finds(Role::Data, "vda3");
    machine.device("pci0/virtio3", "vdc", 32, 3);
    machine.boot("quiet root=/dev/ram0");
    machine.refuses(Role::Data, Reason::DeviceAmbiguous);
    for root in ["/dev/vdc4".to_owned(), format!("PARTUUID={}", id(3, 4).to_uppercase())] {
        machine.boot(&format!("root={root} quiet"));
        machine.finds(Role::Data, "vdc3");
    }
    // Twice is what nobody meant.
    machine.boot(&format!("ks.part={} ks.part={}", id(1, 1), id(1, 1)));
    machine.refuses(Role::Data, Reason::DeviceAmbiguous);
}

#[test]
fn a_disk_has_ten_seconds_to_show_up() {
    let machine = Machine::new(&format!("ks.part={}", id(1, 1)));
    machine.refuses(Role::Data, Reason::DiskNotReady);
    machine.uptime(14.9);
    machine.refuses(Role::Data, Reason::DiskNotReady);
    machine.uptime(15.1);
    machine.refuses(Role::Data, Reason::DeviceNotFound);
    machine.device("pci0/virtio1", "vda", 0, 1);
    machine.finds(Role::Data, "vda3");
    machine.refuses(Role::Env, Reason::DeviceNotFound);
}

#[test]
fn only_a_partition_on_which_kernel_and_table_agree_was_booted() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio1", "vda", 0, 1);
    let file = machine.at("sys/devices/pci0/virtio1/block/vda/vda1/start");
    fs::write(&file, "4096\n").unwrap();
    machine.boot(&format!("ks.part={part}"));
    machine.refuses(Role::Data, Reason::DiskNotReady);
    fs::write(&file, "2048\n").unwrap();
    machine.finds(Role::Data, "vda3");
}

#[test]
fn two_partitions_of_one_name_on_the_disk_are_ambiguous() {
    let names = ["KSOLOA", "KSOLOB", "KSOLODATA", "KSOLODATA"];
    let machine = Machine::new(&format!("ks.part={}", id(1, 1)));
    machine.disk("pci0/virtio1", "vda", 0, &gpt(&names, 1), &names);
    let message = machine.refuses(Role::Data, Reason::DeviceAmbiguous);
    assert!(message.contains("vda3") && message.contains("vda4"), "{message}");
}

#[test]
fn a_table_that_the_kernel_would_not_use_names_nothing() {
    let whole = gpt(&DEVICE, 7);
    let wanted: PartId = id(7, 2).parse().unwrap();
    let read = |bytes: &[u8]| Table::read(&mut Cursor::new(bytes), 512).unwrap();
    let entry = read(&whole).unwrap().named(&wanted)[0];
    assert_eq!((entry.number, entry.extent.unwrap().start, entry.extent.unwrap().size), (2, 4096, 2048));
    assert_eq!(wanted.to_string(), id(7, 2));
    // Header, an entry, the backup alone, no protective MBR, cut off.
    for at in [512, 528, 600, 1024 + 128 + 20, 450] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(read(&bytes).is_none_or(|table| table.named(&wanted).is_empty()), "{at}");
    }
    assert_eq!(read(&whole[..1000]), None);
    assert_eq!(read(&[0; 4096]), None);
}

#[test]
fn a_partition_of_an_mbr_is_named_by_signature_and_number() {
    let machine = Machine::new("");
    // Two primary partitions and an extended one, as `sfdisk` writes them; sgdisk makes none.
    let mut image = vec![0; 8 << 20];
    image[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    for (entry, kind, start, size) in [(0, 0x83, 2048, 2048), (1, 0x83, 4096, 2048), (2, 0x05, 6144, 8192_u32)] {
        let at = 446 + 16 * entry;
        image[at + 4] = kind;
        image[at + 8..at + 12].copy_from_slice(&u32::to_le_bytes(start));
        image[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
    }
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let names = ["KSOLOA", "KSOLODATA", "", "", "KSOLOB"];
    let disk = machine.disk("pci0/virtio1", "vda", 0, &image, &names);
    for part in ["deadbeef-01", "deadbeef-02", "deadbeef-05"] {
        machine.boot(&format!("ks.part={part}"));
        machine.finds(Role::Data, "vda2");
    }
    fs::remove_dir_all(disk.join("vda5")).unwrap();
    for part in ["deadbeef-05", "deadbeef-04", "deadbeef-00", "deadbeee-01"] {
        machine.boot(&format!("ks.part={part}"));
        machine.refuses(Role::Data, Reason::DiskNotReady);
    }
}

#[test]
fn identities_are_read_in_one_spelling_only() {
    for text in ["deadbeef-0f", "01234567-89ab-cdef-0123-456789abcdef"] {
        assert_eq!(text.parse::<PartId>().unwrap().to_string(), text);
    }
    for text in
        ["", "none", "DEADBEEF-01", "deadbeef-1", "deadbeef-001", "0123456789abcdef0123456789abcdef", "+1234567-01"]
    {
        assert!(text.parse::<PartId>().is_err(), "{text}");
    }
}

/// The same disk at this place, once seen from it and once not.
#[test]
fn only_whole_disks_of_the_machine_can_be_the_booted_one() {
    let prepared = |bus: &str, change: &dyn Fn(&Machine, &Path)| {
        let machine = Machine::new(&format!("ks.part={}", id(1, 1)));
        machine.device(bus, "vda", 0, 1);
        change(&machine, &machine.at("sys/devices").join(bus).join("block/vda"));
        machine.system.partition(Role::Data)
    };
    let put = |file: &'static str, text: &'static str| {
        move |_: &Machine, disk: &Path| {
            fs::create_dir_all(disk.join(file).parent().unwrap()).unwrap();
            fs::write(disk.join(file), text).unwrap();
        }
    };
    let none = |_: &Machine, _: &Path| ();
    for bus in ["pci0/virtio1", "virtual/nvme-subsystem/nvme-subsys0", "soc/mmc0"] {
        assert!(prepared(bus, &none).is_ok(), "{bus}");
    }
    for bus in ["virtual/block/loop", "platform/host3/session1/target3:0:0", "virtual/nvme-fabrics/ctl"] {
        assert!(prepared(bus, &none).is_err(), "{bus}");
    }
    assert!(prepared("virtual/block/md", &put("md/level", "raid1\n")).is_ok(), "an array");
    assert!(prepared("pci0/nvme0", &put("hidden", "1\n")).is_err(), "a path of NVMe");
    assert!(prepared("pci0/nvme0", &put("device/transport", "tcp\n")).is_err(), "NVMe over fabrics");
    assert!(prepared("pci0/nvme0", &put("device/transport", "pcie\n")).is_ok(), "NVMe");
    assert!(prepared("pci0/ata1", &put("size", "0\n")).is_err(), "no medium");
    assert!(prepared("pci0/ata1", &put("device/type", "5\n")).is_err(), "an optical drive");
    assert!(prepared("pci0/ata1", &put("holders/md0", "")).is_err(), "a member of an array");
}

#[test]
fn the_partitions_of_a_multipath_device_are_those_of_its_mapping() {
    let machine = Machine::new(&format!("ks.part={}", id(1, 1)));
    let image = gpt(&DEVICE, 1);
    for (node, minor) in [("sda", 0), ("sdb", 16)] {
        let path = machine.disk(&format!("pci0/host{minor}"), node, minor, &image, &DEVICE);
        fs::write(path.join("holders/dm-0"), "").unwrap();
    }
    let mapping = |minor: u32, name: &str, uuid: &str, units: u64, below: &[&str]| {
        let shown = machine.shown(&format!("virtual/block/dm-{}", minor - 100), minor, name, units);
        fs::create_dir_all(shown.join("dm")).unwrap();
        fs::create_dir_all(shown.join("slaves")).unwrap();
        fs::write(shown.join("dm/uuid"), format!("{uuid}\n")).unwrap();
        for disk in below {
            let real = fs::canonicalize(machine.at("sys/class/block").join(disk)).unwrap();
            symlink(real, shown.join("slaves").join(disk)).unwrap();
        }
        shown
    };
    let whole = mapping(100, "", "mpath-3600", image.len() as u64 / 512, &["sda", "sdb"]);
    fs::write(machine.node("dm-0"), &image).unwrap();
    fs::create_dir_all(whole.join("queue")).unwrap();
    for (number, name) in (1..).zip(DEVICE) {
        mapping(100 + number, name, &format!("part{number}-mpath-3600"), MIB / 512, &["dm-0"]);
        fs::write(machine.node(&format!("dm-{number}")), [0; 4096]).unwrap();
        let part = machine.at(&format!("sys/class/block/dm-{number}"));
        symlink(part, whole.join(format!("holders/dm-{number}"))).unwrap();
    }
    // The mapping's own partitions are not another disk above it.
    machine.finds(Role::Data, "dm-3");
    machine.system.check_data_on("254:103").unwrap();
}

#[test]
fn data_on_another_disk_is_read_only_if_it_is_named_by_its_identity() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio1", "vda", 0, 1);
    machine.disk("pci0/virtio2", "vdb", 16, &gpt(&["KSOLODATA", "big"], 2), &["KSOLODATA", "big"]);
    let check = |number: &str| machine.system.check_data_on(number).map_err(|e| e.reason);
    machine.boot(&format!("ks.part={part}"));
    assert_eq!(check("254:3"), Ok(()));
    assert_eq!(check("254:17"), Err(Reason::ForeignData));
    assert_eq!(check("254:16"), Err(Reason::ForeignData), "a disk without a table");

    machine.boot(&format!("ks.part={part} kubesolo.data=PARTUUID={}", id(2, 2)));
    machine.finds(Role::Data, "vdb2");
    assert_eq!(check("254:18"), Ok(()));
    assert_eq!(check("254:3"), Err(Reason::ForeignData), "the other one is named");
    // A copy that comes later is not asked.
    machine.disk("pci0/virtio3", "vdc", 32, &gpt(&["KSOLODATA", "big"], 2), &["KSOLODATA", "big"]);
    machine.finds(Role::Data, "vdb2");
    assert_eq!(check("254:34"), Err(Reason::ForeignData));

    for (place, node) in [("LABEL=other", "vda4"), ("/dev/vda2", "vda2")] {
        machine.boot(&format!("ks.part={part} kubesolo.data={place}"));
        machine.finds(Role::Data, node);
    }
    for place in ["LABEL=big", "/dev/vdb2"] {
        machine.boot(&format!("ks.part={part} kubesolo.data={place}"));
        machine.refuses(Role::Data, Reason::DiskNotReady);
    }
    machine.boot(&format!("ks.part={part} kubesolo.data=elsewhere"));
    machine.refuses(Role::Data, Reason::DeviceNotFound);
}

/// The slot of this setting, on the made-up machine.
fn slot_b(machine: &Machine, setting: &str) -> Result<PathBuf, Reason> {
    match Slot::locate(bootenv::SlotId::B, Some(setting), &machine.system).map_err(|error| error.reason)?.place {
        Place::Device(node) => Ok(node),
        Place::Folder(folder) => panic!("{}", folder.display()),
    }
}

/// A link as udev makes it.
fn udev_link(machine: &Machine, name: &str, node: &str) {
    let link = machine.node("disk").join(name);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&link);
    symlink(format!("../../{node}"), link).unwrap();
}

#[test]
fn links_by_name_in_the_settings_lead_to_no_foreign_disk() {
    let machine = Machine::new("");
    let part = machine.device("pci0/virtio1", "vda", 0, 1);
    machine.device("pci0/virtio2", "vdb", 16, 2);
    machine.boot(&format!("ks.part={part}"));
    // udev makes such a link for one of the disks that carry the name: here the other one.
    for kind in ["by-label", "by-partlabel"] {
        udev_link(&machine, &format!("{kind}/KSOLOB"), "vdb2");
        assert_eq!(slot_b(&machine, &format!("/dev/disk/{kind}/KSOLOB")), Ok(machine.node("vda2")), "{kind}");
        assert_eq!(slot_b(&machine, &format!("/dev//disk/./{kind}/KSOLOB")), Ok(machine.node("vda2")), "{kind}");
    }
    // The identity of a partition is named on purpose, that of a filesystem is in each copy of it.
    assert_eq!(slot_b(&machine, &format!("/dev/disk/by-partuuid/{}", id(2, 2))), Ok(machine.node("vdb2")));
    udev_link(&machine, "by-uuid/abcd", "vda2");
    assert_eq!(slot_b(&machine, "/dev/disk/by-uuid/abcd"), Ok(machine.node("vda2")));
    machine.uptime(30.0);
    udev_link(&machine, "by-uuid/abcd", "vdb2");
    for setting in ["by-uuid/abcd", "by-uuid/gone", "by-label/gone", "by-partuuid/abcd"] {
        assert_eq!(slot_b(&machine, &format!("/dev/disk/{setting}")), Err(Reason::DeviceNotFound), "{setting}");
    }
}

#[test]
fn another_disk_is_found_by_identity_on_purpose() {
    let machine = Machine::new("");
    machine.device("pci0/virtio1", "vda", 0, 1);
    machine.device("pci0/virtio2", "vdb", 16, 2);
    assert_eq!(machine.system.identified(&id(2, 2).parse().unwrap()).unwrap(), machine.node("vdb2"));
    machine.device("pci0/virtio3", "vdc", 32, 2);
    let error = machine.system.identified(&id(2, 2).parse().unwrap()).unwrap_err();
    assert_eq!(error.reason, Reason::DeviceAmbiguous, "{error}");
}

/// A volume of ISO 9660 with the label of a seed.
fn cidata() -> Vec<u8> {
    let mut image = vec![0; 100 * 512];
    image[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    image[0x8028..0x8048].copy_from_slice(format!("{:<32}", "cidata").as_bytes());
    image
}

#[test]
fn a_seed_counts_by_where_it_is_and_what_the_command_line_allows() {
    let usb = "pci0/usb1/1-1";
    for (bus, flags, configured, line, counts) in [
        ("pci0/virtio9", "0", false, "", true),
        ("pci0/virtio9", "0", true, "", false),
        ("pci0/virtio9", "0", true, "kubesolo.seed=fixed", true),
        ("pci0/virtio9", "0", true, "kubesolo.seed=removable", false),
        (usb, "0", false, "", false),
        (usb, "0", false, "kubesolo.seed=fixed", false),
        (usb, "0", true, "kubesolo.seed=removable", true),
        ("pci0/ata1", "1", false, "kubesolo.seed=yes", false),
    ] {
        let machine = Machine::new("");
        let part = machine.device("pci0/virtio1", "vda", 0, 1);
        let disk = machine.disk(bus, "vdz", 160, &cidata(), &[]);
        fs::write(disk.join("removable"), flags).unwrap();
        machine.boot(&format!("ks.part={part} {line}"));
        let found = machine.system.seed(configured).unwrap();
        match counts {
            true => assert_eq!(found, Seed::Found(machine.node("vdz")), "{bus} {line}"),
            false => assert!(matches!(&found, Seed::Ignored(why) if why.len() == 1), "{bus} {line}: {found:?}"),
        }
    }
}

#[test]
fn a_stick_keeps_no_seed_of_the_booted_disk_from_counting() {
    let names = ["KSOLOA", "KSOLOB", "CIDATA"];
    let machine = Machine::new("");
    machine.disk("pci0/usb2/2-1", "sda", 0, &gpt(&names, 1), &names);
    let stick = machine.disk("pci0/usb1/1-1", "sdb", 16, &cidata(), &[]);
    machine.boot(&format!("ks.part={}", id(1, 1)));
    assert_eq!(machine.system.seed(true).unwrap(), Seed::Found(machine.node("sda3")), "started from a stick itself");
    fs::remove_dir_all(stick).unwrap();
    machine.disk("pci0/virtio3", "vdc", 32, &cidata(), &[]);
    assert_eq!(machine.system.seed(false).unwrap_err().reason, Reason::DeviceAmbiguous);
}

#[test]
fn a_disk_that_somebody_could_have_brought_is_removable() {
    for (bus, files, removable) in [
        ("pci0/virtio1", &[][..], false),
        ("pci0/ata1", &[("removable", "1")][..], true),
        ("pci0/ata1", &[("device/type", "5")], true),
        ("pci0/usb1/1-1/host0", &[], true),
        ("soc/mmc0", &[("device/type", "MMC")], false),
        ("soc/mmc0", &[("device/type", "SD")], true),
        ("pci0/tb0", &[("../../removable", "removable")], true),
        ("pci0/tb0", &[("../../removable", "fixed")], false),
        // No device of this machine: what is below it cannot be determined.
        ("virtual/loop", &[], true),
        ("virtual/nbd", &[], true),
        ("virtual/md", &[("md/level", "raid1")], true),
        ("platform/host3/session1/target3:0:0", &[], true),
        ("pci0/nvme0", &[("device/transport", "tcp")], true),
        ("virtual/nvme-subsystem/nvme-subsys0", &[], true),
        ("virtual/nvme-subsystem/nvme-subsys0", &[("device/nvme0/transport", "pcie")], false),
    ] {
        let machine = Machine::new("");
        let part = machine.device("pci0/virtio0", "vda", 0, 1);
        let disk = machine.disk(bus, "vdz", 160, &cidata(), &[]);
        for (file, text) in files {
            fs::create_dir_all(disk.join(file).parent().unwrap()).unwrap();
            fs::write(disk.join(file), format!("{text}\n")).unwrap();
        }
        machine.boot(&format!("ks.part={part}"));
        let ignored = matches!(machine.system.seed(false).unwrap(), Seed::Ignored(_));
        assert_eq!(ignored, removable, "{bus} {files:?}");
    }
}

/// An array or a mapping of these devices, with a seed on it.
fn seed_above(machine: &Machine, below: &[&str]) -> bool {
    let shown = machine.shown("virtual/block/dm-0", 200, "", 100);
    fs::create_dir_all(shown.join("slaves")).unwrap();
    fs::write(shown.join("removable"), "0\n").unwrap();
    for device in below {
        let real = fs::canonicalize(machine.at("sys/class/block").join(device)).unwrap();
        symlink(&shown, real.join("holders/dm-0")).unwrap();
        symlink(real, shown.join("slaves").join(device)).unwrap();
    }
    fs::write(machine.node("dm-0"), cidata()).unwrap();
    match machine.system.seed(false).unwrap() {
        Seed::Found(node) => node == machine.node("dm-0"),
        Seed::Ignored(why) => {
            assert_eq!(why.len(), 1, "{why:?}");
            false
        }
    }
}

#[test]
fn an_assembled_device_is_as_removable_as_any_of_its_parts() {
    for (below, counts) in [
        (&["vdy"][..], true),
        (&["vdx1", "vdy"], true),
        (&["vdy", "sdz"], false),
        (&["vdy", "sdz1"], false),
        (&["sdz"], false),
        (&["vdy", "loop0"], false),
        (&[], false),
    ] {
        let machine = Machine::new("");
        let part = machine.device("pci0/virtio0", "vda", 0, 1);
        machine.device("pci0/virtio1", "vdx", 16, 2);
        machine.disk("pci0/virtio2", "vdy", 32, &[0; 4096], &[]);
        machine.device("pci0/usb1/1-1", "sdz", 48, 3);
        machine.disk("virtual", "loop0", 64, &[0; 4096], &[]);
        machine.boot(&format!("ks.part={part}"));
        assert_eq!(seed_above(&machine, below), counts, "{below:?}");
    }
}
