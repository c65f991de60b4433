//! Labels without udev, and the kernel command line. The devices here are image files below a made-up `/sys` and `/dev`.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::{Fallback, Slot, TrialId};
use kubesolo_update::base::error::{Exit, Reason};
use kubesolo_update::device::blocks::{CommandLine, Odd, System, filesystem_label};
use proptest::prelude::*;

struct Machine {
    dir: tempfile::TempDir,
    system: System,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let system = System { sys: at("sys"), dev: at("dev"), proc: at("proc") };
        for folder in ["sys/class/block", "dev", "proc"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        Self { dir, system }
    }

    fn device(&self, name: &str, uevent: &str, content: &[u8]) -> PathBuf {
        let sysfs = self.dir.path().join("sys/class/block").join(name);
        fs::create_dir_all(sysfs.join("holders")).unwrap();
        fs::write(sysfs.join("uevent"), format!("MAJOR=254\nMINOR=1\nDEVNAME={name}\n{uevent}")).unwrap();
        fs::write(sysfs.join("size"), format!("{}\n", content.len().div_ceil(512))).unwrap();
        let node = self.dir.path().join("dev").join(name);
        fs::write(&node, content).unwrap();
        node
    }

    fn sysfs(&self, name: &str) -> PathBuf {
        self.dir.path().join("sys/class/block").join(name)
    }
}

fn formatted(command: &[&str], size: u64) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(command[0]).args(&command[1..]).arg(file.path()).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    fs::read(file.path()).unwrap()
}

fn ext(label: &str) -> Vec<u8> {
    formatted(&["mke2fs", "-q", "-t", "ext4", "-L", label], 1 << 20)
}

fn fat(size: u64, options: &[&str]) -> Vec<u8> {
    formatted(&[&["mformat", "-v", "KSOLOEFI"], options, &["-i"]].concat(), size)
}

fn label(bytes: &[u8]) -> Option<String> {
    filesystem_label(&mut Cursor::new(bytes)).unwrap()
}

/// The start of an optical disc with this label: its primary volume descriptor (ECMA-119, 8.4).
fn iso(label: &str) -> Vec<u8> {
    let mut bytes = vec![0; 34 * 1024];
    bytes[32 * 1024..][..6].copy_from_slice(b"\x01CD001");
    bytes[32 * 1024 + 40..][..32].copy_from_slice(format!("{label:<32}").as_bytes());
    bytes
}

#[test]
fn labels_are_read_as_the_formatters_write_them() {
    for kind in ["ext2", "ext3", "ext4"] {
        let image = formatted(&["mke2fs", "-q", "-t", kind, "-L", "KSOLOA"], 4 << 20);
        assert_eq!(label(&image).as_deref(), Some("KSOLOA"), "{kind}");
    }
    assert_eq!(label(&ext("0123456789abcdef")).as_deref(), Some("0123456789abcdef"), "the longest");
    assert_eq!(label(&ext("")), None);
    assert_eq!(label(&iso("cidata")).as_deref(), Some("cidata"), "ISO 9660");
    assert_eq!(label(&iso("")), None);
    assert_eq!(label(&iso("cidata")[..32 * 1024 + 71]), None, "cut off");
    let sectors = |mib: u64| (mib * 2048).to_string();
    assert_eq!(label(&fat(4 << 20, &["-T", &sectors(4)])).as_deref(), Some("KSOLOEFI"), "FAT12");
    assert_eq!(label(&fat(16 << 20, &["-T", &sectors(16)])).as_deref(), Some("KSOLOEFI"), "FAT16");
    assert_eq!(label(&fat(64 << 20, &["-F", "-T", &sectors(64)])).as_deref(), Some("KSOLOEFI"), "FAT32");
}

#[test]
fn the_volume_entry_of_a_fat_counts_before_the_boot_sector() {
    let mut image = fat(64 << 20, &["-F", "-T", "131072"]);
    image[71..82].copy_from_slice(b"NO NAME    ");
    assert_eq!(label(&image).as_deref(), Some("KSOLOEFI"));
    let mut image = fat(64 << 20, &["-F", "-T", "131072"]);
    let entry = image.windows(11).rposition(|window| window == b"KSOLOEFI   ").unwrap();
    assert!(entry > 512);
    image[entry] = 0xe5; // deleted
    assert_eq!(label(&image).as_deref(), Some("KSOLOEFI"), "the copy");
    image[71..82].copy_from_slice(b"NO NAME    ");
    assert_eq!(label(&image), None);
}

#[test]
fn what_is_no_filesystem_has_no_label() {
    assert_eq!(label(&[]), None);
    assert_eq!(label(&[0; 100]), None);
    assert_eq!(label(&[0xff; 4096]), None);
    let mut boot_sector = [0; 4096]; // of a disk with an MBR
    boot_sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(label(&boot_sector), None);
}

#[test]
fn a_partition_is_found_by_its_name_or_by_the_label_of_its_filesystem() {
    let machine = Machine::new();
    machine.device("vda", "DEVTYPE=disk\n", &[0; 4096]);
    machine.device("vda1", "DEVTYPE=partition\nPARTN=1\nPARTNAME=KSOLOEFI\n", &[0; 4096]);
    let a = machine.device("vda2", "DEVTYPE=partition\nPARTNAME=KSOLOA\n", &ext("KSOLOA"));
    let b = machine.device("vda3", "DEVTYPE=partition\nPARTNAME=something\n", &ext("KSOLOB"));
    assert_eq!(machine.system.find("KSOLOEFI").unwrap(), machine.dir.path().join("dev/vda1"));
    assert_eq!(machine.system.find("KSOLOA").unwrap(), a, "both ways at once is once");
    assert_eq!(machine.system.find("KSOLOB").unwrap(), b);
}

#[test]
fn no_device_and_two_devices_are_configuration_errors() {
    let machine = Machine::new();
    let one = machine.device("vda2", "PARTNAME=KSOLOA\n", &[0; 4096]);
    let two = machine.device("sda", "", &ext("KSOLOA"));
    let error = machine.system.find("KSOLOA").unwrap_err();
    assert_eq!(error.reason, Reason::DeviceAmbiguous);
    for device in [one, two] {
        assert!(error.message.contains(&device.display().to_string()), "{error}");
    }
    for near in ["KSOLOB", "KSOLO", "ksoloa", "KSOLOAA"] {
        let error = machine.system.find(near).unwrap_err();
        assert_eq!(error.reason, Reason::DeviceNotFound);
        assert!(error.message.contains(near), "{error}");
    }
}

#[test]
fn a_device_that_cannot_be_read_is_named_when_nothing_is_found() {
    let machine = Machine::new();
    let node = machine.device("sda1", "", &ext("KSOLOA"));
    fs::remove_file(&node).unwrap();
    let error = machine.system.find("KSOLOA").unwrap_err();
    assert!(error.message.contains(&format!("cannot read {}", node.display())), "{error}");
}

#[test]
fn empty_drives_floppies_and_the_disks_below_a_mapping_are_passed_over() {
    let machine = Machine::new();
    let found = machine.device("dm-0", "", &ext("KSOLOA"));
    machine.device("sda1", "", &ext("KSOLOA"));
    fs::write(machine.sysfs("sda1").join("holders/dm-0"), "").unwrap();
    machine.device("sr0", "", &ext("KSOLOA"));
    fs::write(machine.sysfs("sr0").join("size"), "0\n").unwrap();
    machine.device("fd0", "", &ext("KSOLOA"));
    fs::write(machine.sysfs("fd0").join("uevent"), "MAJOR=2\nMINOR=0\nDEVNAME=fd0\n").unwrap();
    assert_eq!(machine.system.find("KSOLOA").unwrap(), found);
}

#[test]
fn no_sysfs_is_an_error() {
    let nowhere = System { sys: Path::new("/nonexistent").into(), ..System::default() };
    assert_eq!(nowhere.find("KSOLOA").unwrap_err().exit(), Exit::Config);
}

#[test]
fn the_command_line_tells_slot_trial_fallback_and_protocol() {
    let machine = Machine::new();
    let line =
        "BOOT_IMAGE=/vmlinuz console=ttyS0 kubesolo.slot=B ks.trial=00c0ffee ks.fallback=load ks.proto=1 quiet\n";
    fs::write(machine.dir.path().join("proc/cmdline"), line).unwrap();
    let line = CommandLine::parse(&machine.system.command_line().unwrap());
    assert_eq!(line.booted().unwrap(), Slot::B);
    assert_eq!((line.trial, line.fallback, line.proto), (Ok(TrialId(0x00c0_ffee)), Ok(Fallback::Load), Ok(1)));
    let line = CommandLine::parse("kubesolo.slot=A ks.trial=00000000 ks.proto=1");
    assert_eq!((line.booted().unwrap(), line.trial, line.fallback), (Slot::A, Ok(TrialId::NONE), Err(Odd::Absent)));
}

#[test]
fn absent_repeated_and_odd_parameters_are_told_apart_and_never_guessed() {
    for (text, odd, why) in [
        ("", Odd::Absent, "is not on the kernel command line"),
        (
            "xkubesolo.slot=A kubesolo.slots=A kubesolo.slot kubesolo=A",
            Odd::Absent,
            "is not on the kernel command line",
        ),
        ("kubesolo.slot=A kubesolo.slot=A", Odd::Repeated, "more than once"),
        ("kubesolo.slot=A kubesolo.slot=B", Odd::Repeated, "more than once"),
        ("kubesolo.slot=", Odd::Value(String::new()), "neither A nor B"),
        ("kubesolo.slot=a", Odd::Value("a".into()), "neither A nor B"),
        ("kubesolo.slot=AB", Odd::Value("AB".into()), "neither A nor B"),
    ] {
        let line = CommandLine::parse(text);
        assert_eq!(line.slot, Err(odd));
        let error = line.booted().unwrap_err();
        assert!(error.exit() == Exit::Config && error.message.contains(why), "{text}: {error}");
    }
    for text in ["ks.trial=c0ffee", "ks.trial=00C0FFEE", "ks.trial=00c0ffee0", "ks.trial=00c0ffee ks.trial=00c0ffee"] {
        assert!(CommandLine::parse(text).trial.is_err(), "{text}");
    }
    for text in ["ks.proto=", "ks.proto=one", "ks.proto=1 ks.proto=1"] {
        assert!(CommandLine::parse(text).proto.is_err(), "{text}");
    }
    assert_eq!(CommandLine::parse("ks.fallback=other").fallback, Err(Odd::Value("other".into())));
}

proptest! {
    #[test]
    fn no_bytes_panic_the_label_readers(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        label(&bytes);
        let mut fat = bytes;
        fat.resize(4096, 0);
        fat[510..512].copy_from_slice(&[0x55, 0xaa]);
        fat[82..87].copy_from_slice(b"FAT32");
        label(&fat);
        fat[82..87].copy_from_slice(b"     ");
        fat[54..58].copy_from_slice(b"FAT1");
        label(&fat);
    }
}

/// A disk as the kernel shows it: below its bus, with a link in class/block.
fn shown(machine: &Machine, path: &str, removable: Option<&str>, content: &[u8]) -> PathBuf {
    let name = Path::new(path).file_name().unwrap().to_str().unwrap();
    let node = machine.device(name, "", content);
    let real = machine.dir.path().join("sys/devices").join(path);
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    fs::rename(machine.sysfs(name), &real).unwrap();
    std::os::unix::fs::symlink(&real, machine.sysfs(name)).unwrap();
    if let Some(removable) = removable {
        fs::write(real.join("removable"), format!("{removable}\n")).unwrap();
    } else {
        fs::write(real.join("partition"), "1\n").unwrap();
    }
    node
}

#[test]
fn what_somebody_could_have_brought_is_removable() {
    let machine = Machine::new();
    let disk = |path: &str, removable: &str| shown(&machine, path, Some(removable), b"");
    let removable = |device: &Path| machine.system.is_removable(device);
    assert!(!removable(&disk("pci0/virtio1/block/vda", "0")), "of a virtual machine");
    assert!(removable(&disk("pci0/ata1/block/sr0", "1")), "an optical disc");
    assert!(removable(&disk("pci0/usb1/1-1/host0/block/sda", "0")), "a disk on USB");
    let card = disk("soc/mmc0/block/mmcblk0", "0");
    assert!(!removable(&card), "soldered on");
    fs::create_dir(machine.dir.path().join("sys/devices/soc/mmc0/block/mmcblk0/device")).unwrap();
    fs::write(machine.dir.path().join("sys/devices/soc/mmc0/block/mmcblk0/device/type"), "SD\n").unwrap();
    assert!(removable(&card), "an SD card");
    assert!(removable(Path::new("/dev/nothing")), "whatever cannot be told");

    disk("pci0/usb2/2-1/block/sdb", "1");
    let seed = shown(&machine, "pci0/usb2/2-1/block/sdb/sdb1", None, b"");
    assert!(removable(&seed), "a partition is as its disk");
    shown(&machine, "pci0/usb2/2-1/block/sdb/sdb2", None, &ext("KSOLODATA"));
    assert!(!removable(&seed), "beside the data partition");
}

#[test]
fn one_of_several_labels_is_found_and_two_devices_are_ambiguous() {
    let machine = Machine::new();
    let find = || machine.system.find_any(&["CIDATA", "cidata"]);
    assert_eq!(find().unwrap(), None);
    let lower = machine.device("vdb", "", &iso("cidata"));
    assert_eq!(find().unwrap().as_ref(), Some(&lower));
    machine.device("vdb1", "PARTN=1\n", &iso("cidata"));
    fs::write(machine.sysfs("vdb1").join("start"), "0\n").unwrap();
    assert_eq!(find().unwrap(), Some(lower), "a partition that is all of its disk is not another device");
    machine.device("vdc", "", &iso("CIDATA"));
    assert_eq!(find().unwrap_err().reason, Reason::DeviceAmbiguous);
}

#[test]
fn a_removable_seed_is_allowed_by_one_word_only() {
    assert!(CommandLine::parse("quiet kubesolo.seed=removable").removable_seed);
    for line in ["", "kubesolo.seed", "kubesolo.seed=", "kubesolo.seed=Removable", "xkubesolo.seed=removable"] {
        assert!(!CommandLine::parse(line).removable_seed, "{line}");
    }
    assert!(!CommandLine::parse("kubesolo.seed=removable kubesolo.seed=no").removable_seed, "repeated");
}
