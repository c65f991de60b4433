//! U-Boot's environment on files: nothing that is in it is lost, a store that is cut off anywhere leaves the old state or
//! the new one, and what is no environment is refused. `uboot_tools.rs` has other projects' tools beside it.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bootenv::protocol::{BootState, Booted, View};
use bootenv::uboot::bootcount;
use bootenv::uboot::config::{self, Place};
use bootenv::uboot::store::{Error, Store};
use bootenv::uboot::{Environment, Error as FormatError, Format};
use bootenv::{SlotId, TrialId};
use common::uboot::{Bench, Geometry, SECTOR, Tools, environment};
use proptest::prelude::*;

#[test]
fn a_store_that_is_cut_off_at_any_sector_leaves_the_old_state_or_the_new_one() {
    let (old, new) = (BootState::committed(SlotId::A), BootState::committed(SlotId::B));
    let filler = [("x_filler", "y".repeat(3000))];
    let before = Environment::default().with(&filler).with(&old.variables());
    let geometry =
        Geometry { size: 0x1000, copies: vec![("env", 0), ("env", 0x1000)], file: 0x2000, sectors: "", devices: false };
    // The other copy: never written, damaged, an older state.
    let older = before.with(&[("active_slot", "B".to_owned())]).encode(0x1000, Format::Redundant, 6).expect("it fits");
    for other in [vec![0xff; 0x1000], vec![0; 0x1000], older] {
        let bench = Bench::new(&geometry);
        let places = bench.places();
        bench.put(&places[0], &before.encode(0x1000, Format::Redundant, 7).expect("it fits"));
        bench.put(&places[1], &other);
        let loaded = bench.store().load().expect("an environment");
        let next = loaded.environment.with(&new.variables());
        bench.store().store(&loaded, &next).expect("stored");
        let stored = bench.bytes().remove(&places[1].device).expect("the file");
        let counted = before.encode(0x1000, Format::Redundant, 7).expect("it fits");
        assert!(stored[..0x1000] == counted, "the copy that counted is as it was");
        let written = stored[0x1000..].to_vec();
        let sectors = other.len() / SECTOR;
        // Any sectors of the write may have arrived, in any order.
        for arrived in 0..1_u32 << sectors {
            let mut torn = other.clone();
            for sector in (0..sectors).filter(|sector| arrived & 1 << sector != 0) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                torn[range.clone()].copy_from_slice(&written[range]);
            }
            bench.put(&places[1], &torn);
            let seen = bench.store().load().expect("an environment").environment;
            assert!(seen == before || seen == next, "sectors {arrived:b}");
            assert_eq!(seen == next, torn == written, "sectors {arrived:b}");
        }
        // The next store writes over the remains of a store that was cut off.
        bench.put(&places[1], &[&written[..SECTOR], &other[SECTOR..]].concat());
        let loaded = bench.store().load().expect("an environment");
        bench.store().store(&loaded, &next).expect("stored again");
        assert_eq!(bench.store().load().expect("an environment").environment, next);
    }
}

#[test]
fn unknown_variables_and_their_order_survive_and_ours_follow() {
    let raw = b"zeta=1\0bootcmd=run a; run b\0alpha=\\\\ \0noequals\0# comment\0active_slot=B\0zz=2\0active_slot=A\0\0";
    let mut bytes = vec![0; 0x400];
    bytes[4..4 + raw.len()].copy_from_slice(raw);
    let checksum = crc(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum);
    let (read, _) = Environment::parse(&bytes, Format::Single).expect("an environment");
    assert_eq!(read.get("active_slot").as_deref(), Some("B"), "as `env import` with names reads it");
    assert_eq!(read.encode(0x400, Format::Single, 0).expect("it fits"), bytes, "as it was");
    let state = BootState::committed(SlotId::B);
    let next = read.with(&state.variables());
    let stored = next.encode(0x400, Format::Single, 0).expect("it fits");
    let names = ["bootcmd=run a; run b", "alpha=\\\\ ", "noequals", "# comment", "active_slot=B", "zz=2", "ks_v=1"];
    let places = names.map(|name| position(&stored, format!("\0{name}\0").as_bytes()));
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(stored.windows(12).filter(|w| *w == b"active_slot=").count(), 1);
    assert_eq!(next.view(), View::Ours(state));
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|w| w == wanted).unwrap_or_else(|| panic!("{}", wanted.escape_ascii()))
}

/// Of the tools' own making: `mkenvimage` and `fw_setenv` are the oracles for the checksum.
fn crc(data: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}

/// `loader/bootcount.env`, as a board's builder puts it into its environment.
fn counting() -> Environment {
    let pairs: Vec<(&str, String)> = include_str!("../loader/bootcount.env")
        .lines()
        .map(|line| line.split_once('=').map(|(name, value)| (name, value.to_owned())).expect("a variable"))
        .collect();
    Environment::default().with(&pairs)
}

/// U-Boot with `CONFIG_BOOTCOUNT_ENV`, from reset to `bootcmd` or `altbootcmd`, as its documentation says. The variables
/// that `altbootcmd` sets are read from its text.
fn boot(environment: &mut Environment) -> bool {
    let number =
        |name: &str, environment: &Environment| environment.get(name).map_or(0, |n| n.parse().expect("a number"));
    if number("upgrade_available", environment) == 1 {
        let count: u32 = number("bootcount", environment) + 1;
        *environment = environment.with(&[("bootcount", count.to_string())]);
    }
    if number("bootcount", environment) <= number("bootlimit", environment) {
        return true;
    }
    let text = environment.get("altbootcmd").expect("a command");
    let (choice, rest) = text.split_once(" fi; ").expect("a choice, then commands");
    let good = environment.get("ks_good").expect("a slot");
    let branch = choice.split(if good == "A" { "then " } else { "else " }).nth(1).and_then(|b| b.split(';').next());
    for command in branch.into_iter().chain(rest.split("; ")) {
        if let Some((name, value)) = command.strip_prefix("setenv ").and_then(|set| set.split_once(' ')) {
            let value = value.replace("${ks_good}", &good);
            *environment = environment.with(&[(name, value)]);
        }
    }
    false
}

#[test]
fn a_board_that_counts_boots_itself_shows_the_tries_that_are_left() {
    let store = |environment: &Environment, next: &BootState| {
        environment.with(&[next.variables(), bootcount::variables(environment, next)].concat())
    };
    let ours = |environment: &Environment| match environment.view() {
        View::Ours(state) => state,
        other => panic!("{other:?}"),
    };
    let mut environment = counting();
    assert!(boot(&mut environment), "an ordinary boot");
    assert_eq!(environment, counting(), "and it counts nothing");
    let staged = ours(&environment).invalidate(SlotId::A).expect("B is free");
    let activated = staged.activate(Booted::ordinary(SlotId::A), TrialId(7)).expect("B is free");
    environment = store(&environment, &activated);
    assert_eq!(ours(&environment), activated);
    for left in [2, 1, 0] {
        assert!(boot(&mut environment));
        assert_eq!(ours(&environment), BootState { counter: left, ..activated });
    }
    // Committed in the last try: nothing is counted any more.
    let trial = Booted { slot: SlotId::B, trial: TrialId(7), fallback: None };
    let mut committed = store(&environment, &ours(&environment).commit(trial).expect("the trial runs"));
    assert!(boot(&mut committed) && boot(&mut committed));
    assert_eq!((ours(&committed).good, committed.get("bootcount").as_deref()), (SlotId::B, Some("0")));
    // Or not: the fourth boot goes back, as the protocol's own step does.
    assert!(!boot(&mut environment));
    let back = BootState { counter: 3, ..activated }.back_to_good();
    assert_eq!(ours(&environment), back);
    assert!(boot(&mut environment), "and that is the end of it");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let before = bench.bytes();
    let loaded = bench.store().load().expect("an environment");
    let next = loaded.environment.with(&[("b", "x".repeat(0x200))]);
    assert!(matches!(bench.store().store(&loaded, &next), Err(Error::Format(FormatError::Full(_, 0x200)))));
    assert_eq!(bench.bytes(), before);
}

#[test]
fn with_both_checksums_wrong_nothing_is_read_and_nothing_written() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let loaded = bench.store().load().expect("an environment");
    bench.put(&bench.places()[0], &[0x5a; 64]);
    let before = bench.bytes();
    let error = bench.store().load().expect_err("both are damaged").to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(
        matches!(bench.store().store(&loaded, &loaded.environment), Err(Error::Damaged(copies)) if copies.len() == 2)
    );
    assert_eq!(bench.bytes(), before);
}

#[test]
fn a_wrong_geometry_is_refused_and_nothing_is_written() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let [env, redundant, single] = ["env", "redundant", "single"].map(|n| bench.dir.join(n).display().to_string());
    let one = environment(&[("a".to_owned(), "1".to_owned())].into()).encode(0x200, Format::Single, 0);
    fs::write(&single, one.expect("it fits")).expect("a file");
    let before = bench.bytes();
    let refused = [
        (format!("{env} 0 0x100\n{redundant} 0 0x100\n"), "checksum"),
        (format!("{env} 0 0x200\n"), "it is one of two copies"),
        (format!("{single} 0 0x200\n{redundant} 0 0x200\n"), "it is a single copy"),
        (format!("{env} 0x10 0x100\n{redundant} 0x10 0x100\n"), "checksum"),
        (format!("{env} 0 0x400\n{redundant} 0 0x400\n"), "has 512 bytes"),
        (format!("{env} -0x400 0x200\n{redundant} 0 0x200\n"), "has 512 bytes"),
        (format!("{env} 0 0x200\n{env} 0x100 0x200\n"), "has 512 bytes"),
        (format!("{env} 0 0x100\n{env} 0x80 0x100\n"), "both copies overlap"),
        (format!("{env}.absent 0 0x200\n{redundant} 0 0x200\n"), "cannot open"),
        (format!("/dev/null 0 0x200\n{redundant} 0 0x200\n"), "neither a block device nor a file"),
    ];
    for (text, wanted) in refused {
        let places = config::parse(text.as_bytes()).expect("its lines are right");
        let store = Store::new(places).with_system(&[], Path::new("/nonexistent"));
        let error = store.load().expect_err(&text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    assert_eq!(bench.bytes(), before);
}

#[test]
fn an_offset_below_zero_counts_from_the_end() {
    let bench = Bench::new(&Geometry::pair());
    let name = bench.dir.join("env").display().to_string();
    let places = config::parse(format!("{name} -0x200 0x200\n").as_bytes()).expect("a line");
    let bytes = environment(&[("a".to_owned(), "1".to_owned())].into()).encode(0x200, Format::Single, 0);
    fs::write(bench.dir.join("env"), [vec![0; 0x600], bytes.expect("it fits")].concat()).expect("a file");
    let loaded = Store::new(places).with_system(&[], &bench.dir).load().expect("an environment");
    assert_eq!(loaded.environment.get("a").as_deref(), Some("1"));
}

#[test]
fn rubbish_in_fw_env_config_is_named_with_its_line() {
    let good = "/dev/vda5 0x0 0x4000\n";
    for (text, wanted) in [
        ("", "names no device"),
        ("# nothing\n\n", "names no device"),
        ("/dev/vda5\n", "line 1: the offset is missing"),
        ("\n/dev/vda5 0x0\n", "line 2: the size is missing"),
        ("/dev/vda5 zero 0x4000\n", "line 1: the offset \"zero\" is not a number"),
        ("/dev/vda5 0x0 0x40g0\n", "the size \"0x40g0\" is not a number"),
        ("/dev/vda5 0x0 -1\n", "the size \"-1\" is not a number"),
        ("/dev/vda5 0x0 0\n", "too small"),
        ("/dev/vda5 0x0 0x4000 0x1000 2\n", "does not fit into its sectors"),
        ("/dev/vda5 0x0 0x4000 0x4000 1 0 more\n", "there is \"more\""),
        ("/dev/vda5 0x0 ffffffffffffffff0\n", "is not a number"),
        ("/dev/vda5 0x0 0x10000000\n", "more than"),
        ("# libubootenv\nuboot:\n  size: 0x4000\n", "line 2: it is YAML, which the agent does not read"),
        ("---\nuboot:\n", "line 1: it is YAML"),
        ("/dev/mtd0 0x0 0x4000 0x4000\n", "line 1: /dev/mtd0 is an MTD device, which the agent does not support"),
        ("/dev/ubi0_0 0x0 0x4000\n", "line 1: /dev/ubi0_0 is a UBI device, which the agent does not support"),
        ("/dev/ubi0:env 0x0 0x4000\n", "/dev/ubi0:env is a UBI device"),
        ("\u{1}\u{2} \u{3} 4\n", "the offset \"\\u{3}\" is not a number"),
        (&format!("{good}/dev/vda5 0x80000 0x2000\n"), "line 2: both copies must have one size"),
        (&format!("{good}{good}{good}"), "line 3: it is a third copy"),
    ] {
        let error = config::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text:?}: {error}");
    }
    assert!(config::parse(b"/dev/\xff 0 0x4000\n").is_err());
    assert!(config::parse(&vec![b'#'; config::MAX_BYTES + 1]).is_err());
    let read = |text: &str| config::parse(text.as_bytes()).expect(text);
    let place = |offset, size| Place { device: "/dev/vda5".into(), offset, size };
    assert_eq!(
        read("/dev/vda5 0x0 4000\n/dev/vda5 0x80000 0x4000 # second\n"),
        [place(0, 0x4000), place(0x80000, 0x4000)]
    );
    assert_eq!(read("/dev/mtdblock0 0 0x4000")[0].device, Path::new("/dev/mtdblock0"));
    assert_eq!(read("  /dev/vda5\t-0x4000 0x4000 0x1000 4 1"), [place(-0x4000, 0x4000)]);
    assert_eq!(read("/dev/vda5 010 0x4000 0"), [place(8, 0x4000)]);
    assert_eq!(read("/dev/vda5 4096 0X4000"), [place(4096, 0x4000)]);
}

#[test]
fn a_change_by_somebody_else_in_between_is_noticed() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let loaded = bench.store().load().expect("an environment");
    assert!(bench.tool(Tools::Libubootenv, "fw_setenv", &["a", "2"]).status.success());
    let before = bench.bytes();
    let next = loaded.environment.with(&[("a", "3".to_owned())]);
    assert!(matches!(bench.store().store(&loaded, &next), Err(Error::Changed)));
    assert_eq!(bench.bytes(), before);
}

#[test]
fn a_lock_that_another_program_holds_is_waited_for() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let lock = bench.dir.join("lock");
    // One file under two names is one lock.
    let folder = bench.dir.join("folder");
    symlink(&bench.dir, &folder).expect("a link");
    let store = Store::new(bench.places()).with_system(&[lock.clone(), folder.join("lock")], &bench.dir);
    let mut holder = Command::new("flock").arg(&lock).args(["sleep", "1"]).spawn().expect("flock of util-linux");
    while fs::File::open(&lock).ok().is_none_or(|file| file.try_lock().is_ok()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let begin = std::time::Instant::now();
    store.load().expect("an environment, once the lock is free");
    assert!(begin.elapsed() > std::time::Duration::from_millis(300), "it did not wait");
    holder.wait().expect("ended");
    let nowhere = [bench.dir.join("absent/lock")];
    Store::new(bench.places()).with_system(&nowhere, &bench.dir).load().expect("no lock where no tool can have one");
}

#[test]
fn no_account_keeps_a_store_from_its_locks() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let [link, folder] = ["link", "folder"].map(|name| bench.dir.join(name));
    symlink(bench.dir.join("elsewhere"), &link).expect("a link");
    fs::create_dir(&folder).expect("a folder");
    let store = Store::new(bench.places()).with_system(&[link.clone(), folder], &bench.dir);
    let loaded = store.load().expect("an environment");
    let replaced: Vec<_> = loaded.replaced_locks.iter().map(|lock| lock.path.clone()).collect();
    assert_eq!(replaced, [link], "no tool can lock a folder");
    assert!(!bench.dir.join("elsewhere").exists());
    assert!(store.store(&loaded, &loaded.environment).expect("stored").replaced_locks.is_empty());
}

#[test]
fn both_locks_are_held_until_the_store_is_done() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let sysfs = bench.dir.join("sys");
    // Before the store writes, it waits for the state of the write protection.
    let switches = ["env", "redundant"].map(|name| sysfs.join(name).join("force_ro"));
    for switch in &switches {
        fs::create_dir_all(switch.parent().expect("a folder")).expect("a folder");
        assert!(Command::new("mkfifo").arg(switch).status().expect("mkfifo").success());
    }
    let locks = ["one.lock", "two.lock"].map(|name| bench.dir.join(name));
    let free = || locks.each_ref().map(|lock| fs::File::open(lock).is_ok_and(|file| file.try_lock().is_ok()));
    let store = Store::new(bench.places()).with_system(&locks, &sysfs);
    let loaded = store.load().expect("an environment");
    assert_eq!(free(), [true; 2]);
    std::thread::scope(|scope| {
        let stored = scope.spawn(|| store.store(&loaded, &loaded.environment.with(&[("a", "2".to_owned())])));
        let open = || {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let mut options = fs::OpenOptions::new();
            let options = options.write(true).custom_flags(nix::libc::O_NONBLOCK);
            switches.iter().find_map(|switch| options.open(switch).ok())
        };
        let mut switch = std::iter::repeat_with(open).take(10_000).flatten().next().expect("it is asked for");
        assert_eq!(free(), [false; 2]);
        switch.write_all(b"0\n").expect("told");
        drop(switch);
        stored.join().expect("no panic").expect("stored");
    });
    assert_eq!(free(), [true; 2]);
}

#[test]
fn the_write_protection_of_an_emmc_is_lifted_for_the_store_only() {
    let bench = Bench::new(&Geometry::pair());
    bench.seed(&[("a".to_owned(), "1".to_owned())].into(), Format::Redundant);
    let sysfs = bench.dir.join("sys");
    for name in ["env", "redundant"] {
        fs::create_dir_all(sysfs.join(name)).expect("a folder");
        fs::write(sysfs.join(name).join("force_ro"), "1\n").expect("a file");
    }
    let loaded = bench.store().load().expect("an environment");
    bench.store().store(&loaded, &loaded.environment.with(&[("a", "2".to_owned())])).expect("stored");
    // Only that of the copy that was written was touched: the kernel ends what it shows with a line feed, and we do not.
    let shown = ["env", "redundant"].map(|name| fs::read_to_string(sysfs.join(name).join("force_ro")).expect("a file"));
    assert_eq!(shown, ["1\n", "1"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), redundant in any::<bool>()) {
        let format = if redundant { Format::Redundant } else { Format::Single };
        let mut bytes = bytes;
        if bytes.len() > format.header() {
            let checksum = crc(&bytes[format.header()..]);
            bytes[..4].copy_from_slice(&checksum);
        }
        if let Ok((read, flags)) = Environment::parse(&bytes, format) {
            let again = read.encode(bytes.len(), format, flags).expect("it fitted before");
            prop_assert_eq!(Environment::parse(&again, format), Ok((read, flags)));
        }
        let _ = config::parse(&bytes);
    }

    #[test]
    fn a_value_is_read_as_it_was_set(value in "\\PC{1,30}|[\\\\ #=]{1,6}", other in "[a-z]{0,5}") {
        let set = Environment::default().with(&[("a", other), ("b", value.clone()), ("a", value.clone())]);
        let bytes = set.encode(0x1000, Format::Redundant, 3).expect("it fits");
        let (read, _) = Environment::parse(&bytes, Format::Redundant).expect("an environment");
        prop_assert_eq!(read.get("b"), Some(value.clone()));
        prop_assert_eq!(read.get("a"), Some(value));
    }
}
