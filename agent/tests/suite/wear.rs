//! Writes and syncs of each event in the life of a device, counted in the system calls of the real program.
//! `docs/reliability.md` has the figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::cli_support::trace::{calls, can_trace, traced};
use crate::cli_support::{Device, publish};
use crate::common::registry::Registry;

/// Writes and syncs of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wear {
    /// Writes of the sector with the boot environment.
    environment: u64,
    /// Writes of the second file beside it.
    second: u64,
    /// `fsync` and `fdatasync` of all files and folders.
    syncs: u64,
    /// Bytes written beside images and boot environment.
    bytes: u64,
}

/// Runs the program, and counts.
fn worn(device: &Device, arguments: &[&str], code: i32) -> Wear {
    let output = traced(device, arguments, &[]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let here = format!("{}/", device.dir.path().display());
    let mut wear = Wear::default();
    for call in calls(device) {
        let Some(name) = call.descriptor.strip_prefix(&here) else { continue };
        // On a device this stamp of a boot is in memory. It is written by its temporary name, and its folder is synced last.
        if name.starts_with("S/data-step") || (arguments.contains(&"data") && name == "S") {
            continue;
        }
        let is_image = ["vmlinuz", "kubesolo-os.gz"].iter().any(|image| name.ends_with(&format!("{image}.part")));
        match (call.name.as_str(), name) {
            ("fsync" | "fdatasync", _) => wear.syncs += 1,
            ("write" | "pwrite64", "grubenv") => wear.environment += 1,
            ("write" | "pwrite64", "ksenv2") => wear.second += 1,
            ("write" | "pwrite64", _) if !is_image => {
                let (_, bytes) = call.rest.rsplit_once(" = ").unwrap();
                wear.bytes += bytes.trim().parse::<u64>().unwrap();
            }
            _ => {}
        }
    }
    wear
}

/// The events of the table, as they happen to a device that has both slots filled.
fn events() -> Vec<(&'static str, Wear)> {
    let (registry, device) = (Registry::start(), Device::new());
    device.write("conf", b"auto=activate\n");
    for (version, salt) in [("1.0.0", 1), ("2.0.0", 2)] {
        publish(&registry, version, salt);
        device.from(&registry, &["run"]).code(0);
        device.power_on();
        device.here(&["healthcheck"]).code(0).says(&["committed"]);
    }
    device.power_on();
    let from = |command: &'static str| [&device.asking(&registry, &[command])[..], &["--pubkey", "K"]].concat();
    let checks = ["--data-dir", "data", "--health-dir", "health.d"];
    let healthcheck = || [&device.local(&["healthcheck", "--auto-rollback-after", "1"])[..], &checks].concat();
    worn(&device, &healthcheck(), 0);
    worn(&device, &from("run"), 0);
    let mut all = vec![
        ("boot without a trial", worn(&device, &[&device.local(&["data"])[..]].concat(), 0)),
        ("health run without a trial", worn(&device, &healthcheck(), 0)),
        ("`check`", worn(&device, &from("check"), 0)),
        ("`run` without an update", worn(&device, &from("run"), 0)),
    ];
    publish(&registry, "3.0.0", 3);
    all.push(("`run` that fetches, writes and activates", worn(&device, &from("run"), 0)));
    device.power_on();
    all.push(("commit", worn(&device, &healthcheck(), 0)));
    publish(&registry, "4.0.0", 4);
    device.from(&registry, &["run"]).code(0);
    device.power_on();
    device.make_unhealthy();
    all.push(("revert", worn(&device, &healthcheck(), 1)));
    device.make_healthy();
    device.power_on();
    all.push(("first health run after a revert", worn(&device, &healthcheck(), 0)));
    all
}

/// The figures of the table: the counts exactly, the bytes as a limit that is not far away.
#[test]
fn each_event_wears_the_medium_as_the_table_says() {
    if !can_trace() {
        return;
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md")).unwrap();
    let head = "| event | environment | second file | syncs | bytes, at most |\n|---|---|---|---|---|\n";
    let (_, table) = page.split_once(head).expect("the table of wear");
    let rows: BTreeMap<&str, Vec<u64>> = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], cells[1..].iter().map(|cell| cell.replace(',', "").parse().unwrap()).collect())
        })
        .collect();
    let all = events();
    let told = all.iter().map(|(event, wear)| format!("{event}: {wear:?}\n")).collect::<String>();
    for (event, wear) in &all {
        let row = rows.get(event).unwrap_or_else(|| panic!("no row for {event} of\n{told}"));
        assert_eq!(row[..3], [wear.environment, wear.second, wear.syncs], "{event} of\n{told}");
        assert!(wear.bytes <= row[3] && (wear.bytes == 0) == (row[3] == 0), "{event} of\n{told}");
        assert!(row[3] <= 2 * wear.bytes, "the limit is far away: {event} of\n{told}");
    }
    // The bootloader and a power-on itself are counted elsewhere.
    assert!(rows.len() == all.len() + 1 && rows.contains_key("try, by the bootloader"), "{rows:?}");
}

/// Everything that the agent keeps is as it was after each run of a day without an update, but for the time of the run.
#[test]
fn an_idle_run_writes_the_time_of_the_run_and_nothing_else() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.write("conf", b"auto=activate\n");
    device.from(&registry, &["run"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    // The first run after a commit has something to say.
    device.from(&registry, &["run"]).code(0);
    let all = || {
        let mut tree = device.tree("");
        // The lock has the number of the process, in place.
        ["S", "S/lock"].iter().for_each(|name| drop(tree.remove(&device.path(name))));
        (tree.remove(&device.path("S/state.json")).unwrap().0, tree)
    };
    let (state, tree) = all();
    for _ in 0..3 {
        device.from(&registry, &["run"]).code(0);
        let (now, same) = all();
        let changed: Vec<_> = same.iter().filter(|(path, file)| tree.get(*path) != Some(file)).collect();
        assert!(changed.is_empty() && same.len() == tree.len(), "{changed:?}");
        assert_eq!(now.len(), state.len());
    }
}
