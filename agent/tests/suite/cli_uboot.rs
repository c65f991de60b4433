//! A device whose bootloader is U-Boot: two copies of its environment, and checksums instead of hashes.

use crate::{cli_support, common};

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;

use bootenv::boot::{Decision, Files, PowerOn, decide};
use bootenv::protocol::{BootState, SlotState, View};
use bootenv::uboot::store::Store;
use bootenv::uboot::{Environment, Format, config};
use bootenv::{Fallback, SlotId};
use cli_support::{Device, FACTORY, publish};
use common::registry::Registry;

const SIZE: usize = 0x1000;
const COPIES: [u64; 2] = [0, 0x8000];
const CONFIG: &str = "# two copies\nenv 0x0 0x1000\nenv 0x8000 0x1000\n";
/// A variable of the board, which no store may lose.
const BOARD: (&str, &str) = ("bootcmd", "run distro_bootcmd; echo $x");

fn checksums(kernel: &[u8], initramfs: &[u8]) -> String {
    let [kernel, initramfs] = [kernel, initramfs].map(crc32fast::hash);
    format!("kernel_crc32={kernel:08x}\ninitramfs_crc32={initramfs:08x}\n")
}

/// Release 0 in slot A, good, as a factory makes it.
pub(crate) fn device() -> Device {
    let mut device = Device::new();
    device.bootenv = "uboot:fw_env.config";
    fs::remove_file(device.path("grubenv")).unwrap();
    device.write("A/crc32.txt", checksums(FACTORY, FACTORY).as_bytes());
    device.write("fw_env.config", CONFIG.as_bytes());
    device.write("env", &[0xff; 0x10000]);
    let variables = [(BOARD.0, BOARD.1.to_owned())];
    let environment = Environment::default().with(&variables).with(&BootState::committed(SlotId::A).variables());
    put(&device, 0, &environment.encode(SIZE, Format::Redundant, 1).unwrap());
    device
}

fn put(device: &Device, copy: usize, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(device.path("env")).unwrap();
    file.write_all_at(bytes, COPIES[copy]).unwrap();
}

fn copies(device: &Device) -> [Option<Environment>; 2] {
    let bytes = fs::read(device.path("env")).unwrap();
    COPIES.map(|at| {
        let copy = &bytes[at as usize..][..SIZE];
        Environment::parse(copy, Format::Redundant).ok().map(|(environment, _)| environment)
    })
}

fn store(device: &Device) -> Store {
    let mut places = config::parse(&fs::read(device.path("fw_env.config")).unwrap()).unwrap();
    places.iter_mut().for_each(|place| place.device = device.path("env"));
    Store::new(places).with_system(&[], &device.path("sys"))
}

/// The state that U-Boot reads.
pub(crate) fn state(device: &Device) -> BootState {
    match store(device).load().unwrap().environment.view() {
        View::Ours(state) => state,
        other => panic!("{other:?}"),
    }
}

/// Both copies say the same, and whatever happens to one of them the other one does.
fn agree(device: &Device) -> BootState {
    let [first, second] = copies(device);
    assert_eq!(first, second);
    assert_eq!(first.unwrap().get(BOARD.0).as_deref(), Some(BOARD.1));
    state(device)
}

fn files(device: &Device, slot: &str) -> Files {
    let read = |file: &str| fs::read(device.path(&format!("{slot}/{file}"))).unwrap_or_default();
    let (kernel, initramfs) = (read("vmlinuz"), read("kubesolo-os.gz"));
    match (kernel.is_empty() || initramfs.is_empty(), read("crc32.txt") == checksums(&kernel, &initramfs).as_bytes()) {
        (true, _) => Files::Broken,
        (false, true) => Files::Hold,
        (false, false) => Files::Load,
    }
}

/// As `loader/boot.cmd` does.
pub(crate) fn power_on(device: &Device) -> Decision {
    let loaded = store(device).load().ok();
    let main = loaded.as_ref().map_or(View::Invalid, |loaded| loaded.environment.view());
    let files = [files(device, "A"), files(device, "B")];
    let decision = decide(&PowerOn { main, second: None, files, can_save: true });
    if !decision.stored.is_empty() {
        let loaded = loaded.unwrap();
        store(device).store(&loaded, &loaded.environment.with(&decision.stored)).unwrap();
    }
    let start = decision.start.expect("something to boot");
    let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
    let line = format!("panic=5 kubesolo.slot={} ks.trial={}{fallback} ks.proto=1\n", start.slot, start.trial);
    device.write("cmdline", line.as_bytes());
    decision
}

/// With a registry that offers 1.0.0.
fn bench() -> (Registry, Device) {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    (registry, device())
}

/// `apply` is refused with these words, and says that no slot was touched.
fn refused(device: &Device, registry: &Registry, (code, reason): (i32, &str), words: &[&str]) {
    let error = device.from(registry, &["apply", "--json"]).refused(code, reason).to_string();
    for word in words.iter().chain(&["No slot was changed"]) {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn an_update_is_committed_and_both_copies_say_so() {
    let (registry, device) = bench();
    device.from(&registry, &["apply"]).code(0);
    let staged = agree(&device);
    assert_eq!((staged.active, staged.b), (SlotId::A, SlotState::Void));
    let read = |file: &str| fs::read(device.path(&format!("B/{file}"))).unwrap();
    let wanted = checksums(&read("vmlinuz"), &read("kubesolo-os.gz"));
    assert_eq!(String::from_utf8(read("crc32.txt")).unwrap(), wanted);

    device.here(&["activate"]).code(0);
    let activated = agree(&device);
    assert_eq!((activated.on_trial(), activated.counter), (Some(SlotId::B), 3));
    assert_eq!(power_on(&device).start.unwrap().slot, SlotId::B);
    assert_eq!(state(&device).counter, 2, "U-Boot stored one copy");
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    let committed = agree(&device);
    assert_eq!((committed.good, committed.success), (SlotId::B, true));
    let before = fs::read(device.path("env")).unwrap();
    power_on(&device);
    device.here(&["healthcheck"]).code(0);
    device.here(&["status", "-v"]).code(0).says(&["environment:  ours (env at 0x0 and env at 0x8000)"]);
    assert_eq!(fs::read(device.path("env")).unwrap(), before, "an ordinary boot writes nothing");
}

#[test]
fn an_unhealthy_release_is_reverted_and_remembered() {
    let (registry, device) = bench();
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    let reverted = agree(&device);
    assert_eq!((reverted.active, reverted.b), (SlotId::A, SlotState::Fail));
    device.make_healthy();
    assert_eq!(power_on(&device).start.unwrap().slot, SlotId::A);
    device.from(&registry, &["apply", "--json"]).refused(75, "failed-before");
}

#[test]
fn the_other_copy_takes_over_whichever_is_damaged() {
    let (registry, device) = bench();
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    device.here(&["healthcheck"]).code(0);
    let committed = agree(&device);
    let whole = fs::read(device.path("env")).unwrap();
    for copy in [0, 1] {
        device.write("env", &whole);
        put(&device, copy, &[0x5a; 512]);
        let decision = power_on(&device);
        assert_eq!((decision.start.unwrap().slot, decision.start.unwrap().fallback), (SlotId::B, None));
        let status = device.here(&["status", "-v"]).code(0).says(&["environment:  ours"]);
        assert!(status.stderr.contains("one copy is damaged"), "{status:?}");
        // The next run repairs it.
        device.here(&["healthcheck"]).code(0);
        assert_eq!(agree(&device), committed);
    }
}

#[test]
fn over_two_damaged_copies_nothing_is_written() {
    let (registry, device) = bench();
    put(&device, 0, &[0x5a; 512]);
    let before = device.tree("");
    let untouched = |device: &Device| {
        for (path, seen) in &before {
            if !path.starts_with(device.path("S")) && path.is_file() {
                assert_eq!(device.tree("").get(path), Some(seen), "{}", path.display());
            }
        }
    };
    let decision = power_on(&device);
    assert_eq!(decision.start.unwrap().fallback, Some(Fallback::Env));
    refused(&device, &registry, (78, "env-invalid"), &["checksum", "The agent does not overwrite it"]);
    device.here(&["healthcheck"]).code(0).says(&["not overwritten"]);
    device.here(&["status", "-v"]).code(0).says(&["environment:  invalid: no copy can be read"]);
    untouched(&device);
}

#[test]
fn one_copy_is_nothing_for_a_timer() {
    let (registry, device) = bench();
    device.write("fw_env.config", b"env 0x0 0x1000\n");
    let variables = BootState::committed(SlotId::A).variables();
    put(&device, 0, &Environment::default().with(&variables).encode(SIZE, Format::Single, 0).unwrap());
    let before = fs::read(device.path("env")).unwrap();
    device.from(&registry, &["check"]).code(0).says(&["closed boot-environment", "held"]);
    device.from(&registry, &["apply", "--json"]).refused(75, "single-copy");
    assert_eq!(fs::read(device.path("env")).unwrap(), before);
    assert_eq!(device.names("B"), Vec::<String>::new());
    device.from(&registry, &["apply", "--allow-single-copy"]).code(0);
    device.here(&["activate", "--json"]).refused(75, "single-copy");
    device.here(&["activate", "--allow-single-copy"]).code(0);
    let bytes = fs::read(device.path("env")).unwrap();
    let (stored, _) = Environment::parse(&bytes[..SIZE], Format::Single).unwrap();
    assert!(matches!(stored.view(), View::Ours(state) if state.on_trial() == Some(SlotId::B)));
}

#[test]
fn each_copy_is_on_the_medium_before_the_other_is_written() {
    let (registry, device) = bench();
    device.from(&registry, &["apply"]).code(0);
    let activate = [&device.local(&["activate"])[..], &["--pubkey", "K"]].concat();
    let program = device.command(&activate);
    let mut strace = Command::new("strace");
    strace.args(["-y", "-e", "trace=pwrite64,fdatasync", "-o", "trace"]).arg(program.get_program());
    let Ok(ran) = strace.args(program.get_args()).current_dir(device.dir.path()).output() else {
        return println!("skipped: strace is not here");
    };
    assert!(ran.status.success(), "{ran:?}");
    let trace = fs::read_to_string(device.path("trace")).unwrap();
    let calls: Vec<&str> = trace.lines().filter(|line| line.contains("/env>")).collect();
    let calls: Vec<&str> = calls.iter().filter_map(|line| line.split('(').next()).collect();
    assert_eq!(calls, ["pwrite64", "fdatasync"].repeat(2), "{trace}");
}

#[test]
fn what_cannot_be_the_environment_is_refused_with_its_reason_and_nothing_is_written() {
    let (registry, device) = bench();
    device.write("small", &[0; 100]);
    let before = device.tree("");
    for (text, reason, said) in [
        ("", "fw-env-config", "names no device"),
        ("\u{1}\u{7f} rubbish\n", "fw-env-config", "line 1: the offset"),
        ("env 0x0\n", "fw-env-config", "line 1: the size is missing"),
        ("env 0x0 0x1000\nenv 0x8000 0x2000\n", "fw-env-config", "line 2: both copies must have one size"),
        ("absent 0x0 0x1000\nenv 0x8000 0x1000\n", "env-unreadable", "cannot open absent"),
        ("small 0x0 0x1000\nenv 0x8000 0x1000\n", "env-unreadable", "has 100 bytes"),
        ("env 0x0 0x1000\nenv 0xf800 0x1000\n", "env-unreadable", "has 65536 bytes"),
        ("env 0x0 0x1000\nenv 0x800 0x1000\n", "env-unreadable", "both copies overlap"),
        ("/dev/null 0x0 0x1000\nenv 0x8000 0x1000\n", "env-unreadable", "neither a block device nor a file"),
        ("env 0x0 0x2000\nenv 0x8000 0x2000\n", "env-invalid", "checksum"),
        ("env 0x10 0x1000\nenv 0x8010 0x1000\n", "env-invalid", "checksum"),
        ("env 0x0 0x1000\n", "env-invalid", "env at 0x0: it is one of two copies"),
    ] {
        device.write("fw_env.config", text.as_bytes());
        refused(&device, &registry, (78, reason), &[said]);
    }
    // This machine was started from no disk with slots: not found yet, or not any more after 10 s.
    device.write("fw_env.config", b"/dev/disk/by-partlabel/ABSENT 0x0 0x1000\n");
    let ran = device.from(&registry, &["apply", "--json"]);
    assert!([Some(75), Some(78)].contains(&ran.code) && ran.stderr.contains("fw_env.config: "), "{ran:?}");
    fs::remove_file(device.path("fw_env.config")).unwrap();
    refused(&device, &registry, (78, "fw-env-config"), &["cannot read fw_env.config"]);
    for name in ["env", "A/vmlinuz", "small"] {
        assert_eq!(device.tree(name), before.clone().into_iter().filter(|(path, _)| path.ends_with(name)).collect());
    }
    assert_eq!(device.names("B"), Vec::<String>::new());
}

#[test]
fn variables_that_do_not_fit_leave_slot_and_environment_alone() {
    let (registry, device) = bench();
    // Only what the board needs, so that ours are to be added.
    let full = [
        ("big", "x".repeat(SIZE - 84)),
        ("board", "edge".into()),
        ("active_slot", "A".into()),
        ("boot_success", "1".into()),
        ("boot_counter", "3".into()),
    ];
    put(&device, 0, &Environment::default().with(&full).encode(SIZE, Format::Redundant, 7).unwrap());
    let before = fs::read(device.path("env")).unwrap();
    let words = ["the variables need", "big (4017 bytes)", "board", "fw_setenv NAME"];
    refused(&device, &registry, (73, "env-full"), &words);
    let doctor = device.here(&["doctor", "--json"]).json();
    let finding = doctor.as_array().unwrap().iter().find(|one| one["name"] == "environment").unwrap().clone();
    assert!(
        finding["verdict"] == "fail" && finding["message"].as_str().unwrap().contains("fw_setenv NAME"),
        "{doctor}"
    );
    assert_eq!(fs::read(device.path("env")).unwrap(), before);
    assert_eq!(device.names("B"), Vec::<String>::new());
}

#[test]
fn an_environment_in_a_file_is_trusted_like_a_setting() {
    let (registry, device) = bench();
    let before = fs::read(device.path("env")).unwrap();
    fs::set_permissions(device.path("env"), fs::Permissions::from_mode(0o666)).unwrap();
    refused(&device, &registry, (78, "env-unreadable"), &["env is not trusted", "writable by others"]);
    fs::rename(device.path("env"), device.path("elsewhere")).unwrap();
    symlink("elsewhere", device.path("env")).unwrap();
    refused(&device, &registry, (78, "env-unreadable"), &["env is not trusted", "symbolic link"]);
    assert_eq!(fs::read(device.path("elsewhere")).unwrap(), before);
    fs::remove_file(device.path("env")).unwrap();
    nix::unistd::mkfifo(&device.path("env"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&device, &registry, (78, "env-unreadable"), &["not a regular file"]);
}

#[test]
fn a_slot_without_right_checksums_is_none() {
    let (registry, device) = bench();
    device.from(&registry, &["apply"]).code(0);
    device.write("B/crc32.txt", checksums(b"other", b"bytes").as_bytes());
    device.here(&["activate", "--json"]).refused(65, "slot-damaged");
    // It counts as not staged, and is written again.
    device.from(&registry, &["apply", "--activate"]).code(0);
    power_on(&device);
    device.here(&["healthcheck"]).code(0).says(&["slot B is committed"]);
    // U-Boot passes over an active slot whose checksums are gone, and the agent sees why.
    fs::remove_file(device.path("B/crc32.txt")).unwrap();
    assert_eq!(power_on(&device).start.unwrap().fallback, Some(Fallback::Load));
    device.here(&["healthcheck"]).code(0).says(&["slot B is damaged; slot A is active now"]);
    assert_eq!((agree(&device).good, agree(&device).b), (SlotId::A, SlotState::Void));
}

/// `env-lock` with a `/run` of its own, in which this script was run first; what the script after it says.
fn make_locks(device: &Device, before: &str, after: &str) -> Option<String> {
    let script = format!(
        "mount -t tmpfs none /run && mkdir -m 1777 /run/lock && {{ {before}\n}} || exit 9\n\"$0\" \"$@\" || exit\n{after}"
    );
    let command = device.command(&device.local(&["-v", "env-lock"]));
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", &script]).arg(command.get_program()).args(command.get_args());
    let output = unshare.current_dir(device.dir.path()).output().unwrap();
    if output.status.code() == Some(9) || String::from_utf8_lossy(&output.stderr).contains("unshare failed") {
        eprintln!("skipped: not root");
        return None;
    }
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn locks_of_uboots_tools_are_roots_and_only_made_where_uboot_is() {
    let modes = "for lock in /run/fw_printenv.lock /run/lock/fw_printenv.lock; do stat -c '%n %U %a %F' $lock; done";
    let own =
        "/run/fw_printenv.lock root 600 regular empty file\n/run/lock/fw_printenv.lock root 600 regular empty file";
    let traps = "ln -s /run/elsewhere /run/lock/fw_printenv.lock; touch /run/fw_printenv.lock; \
        chown 65534 /run/fw_printenv.lock; (exec 9</run/fw_printenv.lock; flock 9; exec sleep 60) >/dev/null 2>&1 &";
    for before in ["true", traps] {
        let after = format!("{modes}; ls /run/elsewhere 2>/dev/null; kill $! 2>/dev/null; true");
        let Some(said) = make_locks(&device(), before, &after) else { return };
        assert!(said.contains(own), "{before}: {said}");
        assert!(!said.contains("elsewhere\n"), "nothing is made behind a link: {said}");
        let warned =
            said.contains("replaced the lock /run/fw_printenv.lock: it was open to others (user 65534, mode 0644)");
        assert_eq!(warned, before == traps, "{said}");
    }
    let said = make_locks(&Device::new(), "true", "find /run -type f; echo end").unwrap();
    assert_eq!(said, "end\n", "a device with GRUB has no such locks");
}
