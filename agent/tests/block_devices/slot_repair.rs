//! The agent recreates an untrusted filesystem of a slot before it writes, and finds bytes that the medium does not keep:
//! on loop devices, with the real `mke2fs`. Without root, or where there are no loop devices, these tests say that they were
//! skipped.

use crate::{alone, cli_support, common};

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bootenv::SlotId;
use bootenv::grub::Block;
use bootenv::protocol::BootState;
use cli_support::{Device, Ran, publish};
use common::fault::{Fault, World, head, reply, send};
use common::registry::Registry;

/// A device whose slot B is a block device of 32 MiB.
struct Bench {
    device: Device,
    image: PathBuf,
    slot_b: PathBuf,
    registry: Registry,
}

impl Bench {
    /// The whole loop device is the slot, with a filesystem of that label.
    fn new(label: &str) -> Option<Self> {
        Self::with_features(label, "^has_journal")
    }

    /// The same, with these features of `mke2fs`.
    fn with_features(label: &str, features: &str) -> Option<Self> {
        let device = Device::new();
        let image = device.path("slot.img");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-O", features, "-L", label]).arg(&image));
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().ok();
        let Some(output) = output.filter(|output| output.status.success()) else {
            eprintln!("skipped: no loop device to be had (root?)");
            return None;
        };
        let slot_b = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
        device.write("grubenv", Block::main(&BootState::committed(SlotId::A)).bytes());
        let registry = Registry::start();
        publish(&registry, "1.0.0", 1);
        Some(Self { device, image, slot_b, registry })
    }

    /// Changes the bytes of the image by `debugfs`.
    fn damage(&self, request: &str) {
        run(Command::new("debugfs").args(["-w", "-R", request]).arg(&self.image));
        kubesolo_update::device::mount::claim(&self.slot_b, false).unwrap();
    }

    /// Differs once the filesystem was recreated.
    fn identity(&self) -> Vec<u8> {
        let mut superblock = vec![0; 1024];
        File::open(&self.image).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
        superblock[104..120].to_vec()
    }

    /// All but the first block, where the kernel itself notes errors that it finds.
    fn files(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap().split_off(4096)
    }

    /// `apply` to the loop device.
    fn applying(&self) -> Command {
        self.applying_from(&self.registry)
    }

    fn applying_from(&self, server: &impl AsRef<str>) -> Command {
        let place = self.slot_b.display().to_string();
        let asking = self.device.asking(server, &["apply", "--allow-downgrade", "--json"]);
        let asking: Vec<&str> = asking.iter().map(|word| if *word == "B" { &place } else { *word }).collect();
        let mut command = self.device.command(&asking);
        command.args(["--pubkey", "K"]);
        command
    }

    /// The same with this `PATH`.
    fn apply(&self, path: &Path) -> Ran {
        self.applying().env("PATH", path).output().unwrap().into()
    }

    /// The same under strace with these options, which writes each mount and unmount to the file `trace`.
    fn traced(&self, options: &[&str]) -> Command {
        let program = self.applying();
        let mut strace = Command::new("strace");
        strace.args(["-e", "trace=mount,umount2", "-o", "trace"]).args(options).arg(program.get_program());
        strace.args(program.get_args()).current_dir(self.device.dir.path());
        strace
    }

    fn apply_with_mke2fs(&self) -> Ran {
        self.apply(Path::new("/usr/sbin:/sbin:/usr/bin:/bin"))
    }

    /// By other eyes: the filesystem is clean, and the release is in it.
    fn is_filled(&self) {
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&self.slot_b));
        let manifest = run(Command::new("debugfs").args(["-R", "cat manifest.json"]).arg(&self.slot_b));
        assert!(manifest.contains("1.0.0"), "{manifest}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.slot_b).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_filesystem_that_was_unmounted_is_kept() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB") else { return };
    let before = bench.identity();
    bench.apply_with_mke2fs().code(0);
    assert_eq!(bench.identity(), before);
    bench.is_filled();
}

#[test]
fn a_filesystem_that_bootloaders_cannot_read_is_not_filled_and_the_message_has_the_way_out() {
    let _alone = alone();
    let Some(bench) = Bench::with_features("KSOLOB", "^has_journal,inline_data") else { return };
    let before = fs::read(&bench.image).unwrap();
    let told = bench.apply_with_mke2fs().code(73);
    assert!(told.stderr.contains("it uses inline_data") && told.stderr.contains("Nothing was written"), "{told:?}");
    assert!(fs::read(&bench.image).unwrap() == before, "not a byte was written");
    let place = bench.slot_b.display().to_string();
    let local = bench.device.local(&["doctor"]);
    let local: Vec<&str> = local.iter().map(|word| if *word == "B" { &place } else { *word }).collect();
    let doctor = bench.device.run(&local).stdout;
    let finding = doctor.lines().find(|line| line.contains("free slot")).unwrap();
    assert!(finding.contains("FAIL"), "{doctor}");
    let command = finding.split("again: ").nth(1).unwrap();
    run(Command::new("sh").args(["-c", command]));
    bench.apply_with_mke2fs().code(0);
    bench.is_filled();
}

#[test]
fn a_filesystem_that_cannot_be_mounted_or_was_cut_off_is_made_anew() {
    let _alone = alone();
    for damage in ["clri <2>", "ssv state 0", "ssv state 3", "ssv inodes_per_group 0"] {
        let Some(bench) = Bench::new("KSOLOB") else { return };
        bench.damage(damage);
        let before = bench.identity();
        let ran = bench.apply_with_mke2fs().code(0);
        assert!(ran.stderr.contains("recreated"), "{damage}: {ran:?}");
        assert_ne!(bench.identity(), before, "{damage}");
        assert_eq!(
            kubesolo_update::device::blocks::filesystem_label(&mut File::open(&bench.slot_b).unwrap())
                .unwrap()
                .unwrap(),
            "KSOLOB"
        );
        bench.is_filled();
    }
}

#[test]
fn a_file_that_cannot_be_looked_at_ends_in_a_new_filesystem() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB") else { return };
    bench.apply_with_mke2fs().code(0);
    publish(&bench.registry, "1.1.0", 2);
    bench.damage("sif vmlinuz block[0] 0");
    let ran = bench.apply_with_mke2fs().code(0);
    assert!(ran.stderr.contains("recreated"), "{ran:?}");
    let manifest = run(Command::new("debugfs").args(["-R", "cat manifest.json"]).arg(&bench.slot_b));
    assert!(manifest.contains("1.1.0"), "{manifest}");
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&bench.slot_b));
}

#[test]
fn a_download_goes_on_after_a_power_cut_where_e2fsck_is_and_begins_again_where_it_is_not() {
    const HALF: usize = 5_000_000;
    let _alone = alone();
    for repairs in [true, false] {
        let Some(bench) = Bench::new("KSOLOB") else { return };
        let tools = bench.device.path("bin");
        fs::create_dir(&tools).unwrap();
        for tool in if repairs { &["mke2fs", "e2fsck"][..] } else { &["mke2fs"] } {
            symlink(common::registry::find(tool).unwrap(), tools.join(tool)).unwrap();
        }
        let world = World::new(6_000_000);
        let (honest, path) = (world.clone(), World::path(&world.initramfs));
        let server = Fault::start(move |request, out| match (request.path == path, request.earlier) {
            (true, 0) => {
                head(out, 200, "Content-Length: 6000000\r\n");
                send(out, &honest.initramfs[..HALF]);
            }
            (true, 1) => reply(out, 429, "Retry-After: 3600\r\n", b""),
            _ => honest.answer(request, out),
        });
        let apply = || Ran::from(bench.applying_from(&server).env("PATH", &tools).output().unwrap());
        apply().refused(69, "rate-limited");
        // As the power goes: the filesystem was not unmounted, counts blocks that nobody has, and has a file without a name.
        bench.damage("ssv state 0");
        bench.damage("ssv free_blocks_count 7");
        bench.damage("unlink vmlinuz");
        let before = bench.identity();
        let ran = apply().code(0);
        assert_eq!(bench.identity() == before, repairs, "{ran:?}");
        let went_on = server.requests().iter().rfind(|r| r.path == World::path(&world.initramfs)).unwrap().from();
        assert_eq!(went_on, repairs.then_some(HALF), "{ran:?}");
        assert!(ran.stderr.contains(if repairs { "e2fsck checked" } else { "e2fsck is not there" }), "{ran:?}");
        assert_eq!(ran.stderr.contains("left there is gone"), !repairs, "{ran:?}");
        bench.is_filled();
        let lost = run(Command::new("debugfs").args(["-R", "ls lost+found"]).arg(&bench.slot_b));
        assert!(!lost.contains('#'), "{lost}");
    }
}

#[test]
fn busybox_makes_one_too() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB") else { return };
    bench.damage("clri <2>");
    let folder = bench.device.path("bin");
    fs::create_dir(&folder).unwrap();
    symlink("/bin/busybox", folder.join("mke2fs")).unwrap();
    bench.apply(&folder).code(0);
    bench.is_filled();
}

#[test]
fn without_mke2fs_a_damaged_slot_is_refused_and_one_that_was_cut_off_is_written_all_the_same() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB") else { return };
    bench.damage("clri <2>");
    let (files, env) = (bench.files(), bench.device.env_bytes());
    let error = bench.apply(Path::new("/nowhere")).refused(73, "damaged-filesystem");
    assert!(error["message"].as_str().unwrap().contains("mke2fs"), "{error:#}");
    assert!(error["remedy"].as_str().unwrap().contains("No slot was changed."), "{error:#}");
    assert!(files == bench.files());
    assert_eq!(bench.device.env_bytes(), env);

    let Some(bench) = Bench::new("KSOLOB") else { return };
    bench.damage("ssv state 0");
    bench.apply(Path::new("/nowhere")).code(0);
    bench.is_filled();
}

#[test]
fn the_doctor_tells_that_a_slot_could_not_be_made_anew() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB") else { return };
    let place = bench.slot_b.display().to_string();
    let local = bench.device.local(&["doctor"]);
    let local: Vec<&str> = local.iter().map(|word| if *word == "B" { &place } else { *word }).collect();
    for (path, warned) in [("/nowhere", true), ("/usr/sbin:/sbin", false)] {
        let told = Ran::from(bench.device.command(&local).env("PATH", path).output().unwrap()).stdout;
        assert_eq!(told.contains("may leave slot B unusable") && told.contains("mke2fs"), warned, "{path}: {told}");
    }
}

#[test]
fn a_device_that_does_not_say_that_it_is_a_slot_is_never_made_anew() {
    let _alone = alone();
    for label in ["PHOTOS", "KSOLODATA", ""] {
        let Some(bench) = Bench::new(label) else { return };
        bench.damage("clri <2>");
        let (files, env) = (bench.files(), bench.device.env_bytes());
        let error = bench.apply_with_mke2fs().refused(73, "damaged-filesystem");
        assert!(error["message"].as_str().unwrap().contains("has the label of a slot"), "{error:#}");
        assert!(files == bench.files(), "{label}");
        assert_eq!(bench.device.env_bytes(), env);
    }
}

/// True if strace is there; a line is printed if it is not.
fn strace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: strace is not here");
    }
    there
}

#[test]
fn a_filesystem_is_not_made_anew_because_its_medium_fails() {
    let _alone = alone();
    let Some(bench) = Bench::new("KSOLOB").filter(|_| strace()) else { return };
    let (files, env) = (bench.files(), bench.device.env_bytes());
    // The first mount makes the namespace private.
    let ran = Ran::from(bench.traced(&["-e", "inject=mount:error=EIO:when=2+"]).output().unwrap());
    assert!(!ran.stderr.contains("recreate"), "{ran:?}");
    ran.refused(73, "cannot-mount");
    let trace = fs::read_to_string(bench.device.path("trace")).unwrap();
    assert!(trace.contains("\"ext4\"") && trace.contains("EIO"), "{trace}");
    assert!(files == bench.files());
    assert_eq!(bench.device.env_bytes(), env);
}

#[test]
fn bytes_that_change_between_write_and_read_back_are_found() {
    let _alone = alone();
    if !strace() {
        return;
    }
    let Some(bench) = Bench::new("KSOLOB") else { return };
    let traced = |options: &[&str]| bench.traced(options);
    // The unmount after the write is the one that belongs to the only mount for writing.
    let before = fs::read(&bench.image).unwrap();
    run(&mut traced(&[]));
    let trace = fs::read_to_string(bench.device.path("trace")).unwrap();
    let to_write = |line: &&str| line.starts_with("mount(") && line.contains("\"ext4\"") && !line.contains("MS_RDONLY");
    let until = trace.lines().take_while(|line| !to_write(line));
    let number = until.filter(|line| line.starts_with("umount2(")).count() + 1;
    fs::write(&bench.image, &before).unwrap();
    // A run that remembers the offer looks into the slot more often.
    for name in bench.device.names("S") {
        let _ = fs::remove_file(bench.device.path("S").join(name));
    }
    kubesolo_update::device::mount::claim(&bench.slot_b, false).unwrap();
    bench.device.write("grubenv", Block::main(&BootState::committed(SlotId::A)).bytes());

    let delay = format!("inject=umount2:delay_exit=4000000:when={number}");
    let child = traced(&["-e", &delay]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    let written = || run(Command::new("debugfs").args(["-R", "cat manifest.json"]).arg(&bench.image)).contains("1.0.0");
    while !written() {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let block: u64 =
        run(Command::new("debugfs").args(["-R", "bmap vmlinuz 0"]).arg(&bench.image)).trim().parse().unwrap();
    let size = run(Command::new("dumpe2fs").arg("-h").arg(&bench.image));
    let size: u64 = size.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap().trim().parse().unwrap();
    let image = File::options().read(true).write(true).open(&bench.image).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, block * size + 100).unwrap();
    image.write_all_at(&[byte[0] ^ 1], block * size + 100).unwrap();

    let error = Ran::from(child.wait_with_output().unwrap()).refused(73, "read-back-failed");
    assert!(error["message"].as_str().unwrap().contains("vmlinuz has the digest"), "{error:#}");
    let left = run(Command::new("debugfs").args(["-R", "ls -p /"]).arg(&bench.slot_b));
    assert!(!left.contains("sha256") && !left.contains("manifest.json"), "{left}");
}
