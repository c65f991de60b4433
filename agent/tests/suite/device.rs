//! Labels of filesystems, and the kernel command line.

use std::fs;
use std::io::Cursor;
use std::process::Command;

use bootenv::{Fallback, SlotId, TrialId};
use kubesolo_update::base::error::Exit;
use kubesolo_update::device::blocks::{CommandLine, ParameterError, System, filesystem_label};
use proptest::prelude::*;

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
fn the_command_line_tells_slot_trial_fallback_and_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        "BOOT_IMAGE=/vmlinuz console=ttyS0 kubesolo.slot=B ks.trial=00c0ffee ks.fallback=load ks.proto=1 quiet\n";
    fs::write(dir.path().join("cmdline"), line).unwrap();
    let system = System { proc: dir.path().into(), ..System::default() };
    let line = CommandLine::parse(&system.command_line().unwrap());
    assert_eq!(line.booted().unwrap(), SlotId::B);
    assert_eq!((line.trial, line.fallback, line.proto), (Ok(TrialId(0x00c0_ffee)), Ok(Fallback::Load), Ok(1)));
    let line = CommandLine::parse("kubesolo.slot=A ks.trial=00000000 ks.proto=1");
    assert_eq!(
        (line.booted().unwrap(), line.trial, line.fallback),
        (SlotId::A, Ok(TrialId::NONE), Err(ParameterError::Absent))
    );
}

#[test]
fn absent_repeated_and_odd_parameters_are_told_apart_and_never_guessed() {
    for (text, odd, why) in [
        ("", ParameterError::Absent, "is not on the kernel command line"),
        (
            "xkubesolo.slot=A kubesolo.slots=A kubesolo.slot kubesolo=A",
            ParameterError::Absent,
            "is not on the kernel command line",
        ),
        ("kubesolo.slot=A kubesolo.slot=A", ParameterError::Repeated, "more than once"),
        ("kubesolo.slot=A kubesolo.slot=B", ParameterError::Repeated, "more than once"),
        ("kubesolo.slot=", ParameterError::Value(String::new()), "neither A nor B"),
        ("kubesolo.slot=a", ParameterError::Value("a".into()), "neither A nor B"),
        ("kubesolo.slot=AB", ParameterError::Value("AB".into()), "neither A nor B"),
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
    assert_eq!(CommandLine::parse("ks.fallback=other").fallback, Err(ParameterError::Value("other".into())));
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

#[test]
fn a_seed_removable_is_allowed_by_one_word_only() {
    assert!(CommandLine::parse("quiet kubesolo.seed=removable").seed_removable);
    for line in ["", "kubesolo.seed", "kubesolo.seed=", "kubesolo.seed=Removable", "xkubesolo.seed=removable"] {
        assert!(!CommandLine::parse(line).seed_removable, "{line}");
    }
    assert!(!CommandLine::parse("kubesolo.seed=removable kubesolo.seed=no").seed_removable, "repeated");
}
