//! Texts for people: parts, verdicts, colours, width.

use crate::{cli_support, common};

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cli_support::{Device, Ran, publish, publish_as};
use common::fault::{Fault, World, head, send};
use common::registry::Registry;
use kubesolo_release::Metadata;

/// Columns of the screens.
const WIDTHS: [u32; 3] = [40, 80, 120];

/// The program on a terminal of that many columns, as util-linux' `script` makes one.
fn terminal(device: &Device, arguments: &[&str], columns: u32, term: &str) -> Command {
    let words: Vec<_> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("stty cols {columns} && exec {} {}", device.program.display(), words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).current_dir(device.dir.path()).stdin(Stdio::null());
    script.env_clear().env("PATH", "/usr/bin:/bin").env("TERM", term);
    script
}

fn on_terminal(device: &Device, arguments: &[&str], columns: u32, term: &str) -> String {
    let ran: Ran = terminal(device, arguments, columns, term).output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout.replace('\r', "")
}

/// `DOCS=1 cargo test -p kubesolo-update --test suite screens::` writes the page.
#[test]
fn the_screens_of_the_documentation_are_those_of_the_agent() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screens.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- screens -->\n", "<!-- end of screens -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let expected = format!("{before}{begin}{}{end}{after}", screens());
    if std::env::var_os("DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == expected,
        "docs/screens.md is out of date: DOCS=1 cargo test -p kubesolo-update --test suite screens::\n{expected}"
    );
}

/// A device from its first update to a release that fails, by what its commands show.
fn screens() -> String {
    let (registry, device) = (Registry::start(), Device::new());
    let at = &registry.address;
    let conf =
        format!("registry={at}/os\nchannel=stable\nplain_http={at}\npubkey=K\ndata_dir=data\nhealth_dir=health.d\n");
    device.write("conf", conf.as_bytes());
    let mut page = String::new();
    let shown = |title: &str, arguments: &[&str], columns: u32| {
        rest_for_days(&device);
        let text = on_terminal(&device, arguments, columns, "dumb");
        if columns == 80 {
            let serial = [arguments, &["--color", "never"]].concat();
            assert_eq!(on_terminal(&device, &serial, 0, "vt100"), text, "a serial line knows no columns: it has 80");
        }
        format!("{title}, {columns} columns:\n\n```\n{}```\n\n", masked(&of_every_machine(&text)))
    };
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    publish(&registry, "1.1.0", 2);
    for columns in WIDTHS {
        page += &shown("`check` with an update", &device.local(&["check"]), columns);
    }
    for columns in WIDTHS {
        let bar = progress(columns, "vt100");
        page += &format!("Progress of `apply`, {columns} columns:\n\n```\n{}\n```\n\n", without_rate(&bar));
    }
    let plain = progress(80, "dumb");
    page += &format!("Progress of `apply` on a serial line or in a file, every 5 s:\n\n```\n{plain}\n```\n\n");
    device.from(&registry, &["run"]).code(0);
    for columns in WIDTHS {
        page += &shown("`status` with a staged release", &device.local(&["status"]), columns);
    }
    device.here(&["activate"]).code(0);
    device.power_on();
    page += &shown("`status` during the trial", &device.local(&["status"]), 80);
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]);
    device.power_on();
    device.make_healthy();
    device.here(&["healthcheck"]).code(0);
    page += &shown("`status` after a revert", &device.local(&["status"]), 80);
    page += &shown("`check` for a release that failed", &device.local(&["check"]), 80);
    page += &shown("`history`", &device.local(&["history"]), 80);
    page += &shown("`history --last`", &device.local(&["history", "--last"]), 80);
    for columns in WIDTHS {
        page += &shown("`doctor`", &device.local(&["doctor"]), columns);
    }
    page
}

/// Progress of a download on a terminal, after 7 of 16 MiB. From there on, single bytes come until it is drawn: that happens
/// only so often.
fn progress(columns: u32, term: &str) -> String {
    const DONE: &str = "7.0 of 16.0 MiB";
    let (world, device) = (World::new(16 << 20), Device::new());
    let large = World::path(&world.initramfs);
    let server = Fault::start(move |request, out| {
        if request.path != large {
            return world.answer(request, out);
        }
        let (first, rest) = world.initramfs.split_at(7 << 20);
        head(out, 200, &format!("Content-Length: {}\r\n", world.initramfs.len()));
        let mut there = send(out, first);
        let mut bytes = rest.chunks(1);
        while there {
            std::thread::sleep(Duration::from_millis(50));
            there = send(out, bytes.next().unwrap_or_default());
        }
    });
    let arguments = [&device.asking(&server, &["apply"])[..], &["--pubkey", "K"]].concat();
    let mut child = terminal(&device, &arguments, columns, term).stdout(Stdio::piped()).spawn().unwrap();
    let (mut screen, mut bytes) = (String::new(), [0; 4096]);
    while !screen.contains(DONE) {
        let length = child.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
        assert!(length > 0, "{screen}");
        screen += &String::from_utf8_lossy(&bytes[..length]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let line = screen.split(['\r', '\n']).rfind(|line| line.contains(DONE)).unwrap();
    // A bar erases its line before it is drawn (ECMA-48, EL).
    line.trim_start_matches("\x1b[2K").trim_end().to_owned()
}

/// With the same rate and rest of time in every run.
fn without_rate(bar: &str) -> String {
    let Some((before, after)) = bar.split_once("MiB ") else { return bar.to_owned() };
    let words: Vec<_> = after.split(' ').collect();
    assert!(matches!(words[..], [_, unit, rest] if unit.ends_with("B/s") && rest.ends_with('s')), "{bar}");
    format!("{before}MiB 4.0 MiB/s 2s")
}

/// Nothing happened for three days: everything that the agent remembers is that old.
fn rest_for_days(device: &Device) {
    let then = chrono::Utc::now() - chrono::Duration::minutes(3 * 24 * 60 + 30);
    let then = then.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let records = device.names("S/records").into_iter().map(|name| format!("S/records/{name}"));
    for file in ["S/state.json".into(), "S/history.json".into()].into_iter().chain(records) {
        let text = std::fs::read_to_string(device.path(&file)).unwrap();
        let parts =
            text.split('"').map(|part| if chrono::DateTime::parse_from_rfc3339(part).is_ok() { &then } else { part });
        device.write(&file, parts.collect::<Vec<_>>().join("\"").as_bytes());
    }
}

/// Without what differs from one machine to another: findings of `doctor` about its clock, its disk and its name.
fn of_every_machine(text: &str) -> String {
    const OWN: [&str; 5] = ["data space", "data reserve", "clock", "device id", "free slot"];
    let mut own = false;
    let mut left = String::new();
    for line in text.lines() {
        let item = ["ok    ", "warn  ", "FAIL  "].iter().find_map(|verdict| line.strip_prefix(verdict));
        own = match item {
            Some(item) => OWN.iter().any(|name| item.starts_with(name)),
            None => own && line.starts_with(' '),
        };
        match () {
            () if own => {}
            () if line.ends_with("warnings") || line.ends_with("warning") => {
                let count = |verdict: &str| left.lines().filter(|line| line.starts_with(verdict)).count();
                left += &format!("{} failed, {} warnings\n", count("FAIL"), count("warn"));
            }
            () => left += &format!("{line}\n"),
        }
    }
    left
}

/// With the same port, times and digests in every run. A pattern has `9` for a digit and `#` for a hexadecimal one.
fn masked(text: &str) -> String {
    let digest = ["sha256:", &"#".repeat(64)].concat();
    let shown = ["sha256:", &"5f3a09c1".repeat(8)].concat();
    let patterns = [
        ("127.0.0.1:99999", "127.0.0.1:50000"),
        ("9999-99-99", "2026-11-25"),
        ("99:99 UTC", "03:10 UTC"),
        ("trial ########", "trial 5f3a09c1"),
        ("######## in slot", "5f3a09c1 in slot"),
        (&digest, &shown),
        ("sha256:############", "sha256:5f3a09c15f3a"),
    ];
    patterns.iter().fold(text.to_owned(), |text, (pattern, shown)| {
        let mut masked = String::new();
        let mut rest = &text[..];
        while let Some(first) = rest.chars().next() {
            let found = rest.get(..pattern.len()).filter(|found| {
                found.chars().zip(pattern.chars()).all(|(c, p)| match p {
                    '9' => c.is_ascii_digit(),
                    '#' => c.is_ascii_hexdigit(),
                    p => c == p,
                })
            });
            match found {
                Some(found) => {
                    masked += shown;
                    rest = &rest[found.len()..];
                }
                None => {
                    masked.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        masked
    })
}

fn staged() -> (Registry, Device) {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    publish(&registry, "1.1.0", 2);
    device.from(&registry, &["run"]).code(0);
    (registry, device)
}

#[test]
fn status_has_three_parts_and_the_details_on_demand() {
    let (_registry, device) = staged();
    let short = device.here(&["status"]).code(0).stdout;
    let parts: Vec<_> = short.split("\n\n").collect();
    assert_eq!(parts.len(), 3, "{short}");
    assert_eq!(parts[0], "running:      1.0.0 in slot B, good");
    assert_eq!(parts[1], "slot A:       1.1.0, staged");
    assert!(parts[2].starts_with("update:       1.1.0 is staged, 20"), "{short}");
    assert!(
        parts[2].ends_with("\nwindow:       always, open now\nnext:         kubesolo-update activate --reboot\n"),
        "{short}"
    );
    assert!(parts[2].contains(" s ago): staged\n"), "{short}");
    let long = device.here(&["status", "-v"]).code(0).stdout;
    assert!(long.contains("\nenvironment:  ours (grubenv)\nnext boot:    slot B (committed)\n"), "{long}");

    device.here(&["activate"]).code(0);
    device.here(&["status"]).code(0).says(&["slot A:       1.1.0, boots next on trial"]);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device.here(&["status"]).code(0).says(&["slot B:       1.0.0, the previous release"]);
}

#[test]
fn a_device_as_it_was_made_runs_the_factory_image() {
    let device = Device::new();
    device.here(&["status"]).code(0).says(&["running:      the factory image in slot A", "update:       none yet"]);
}

#[test]
fn a_download_that_died_is_interrupted() {
    let (_registry, device) = staged();
    let state = std::fs::read_to_string(device.path("S/state.json")).unwrap();
    device.write("S/state.json", state.replace("\"staged\"", "\"downloading\"").as_bytes());
    device.here(&["status"]).code(0).says(&["update:       the download of 1.1.0 was interrupted, 20"]);
    assert_eq!(device.here(&["status", "--json"]).json()["interrupted"], true);
    // A run is at work.
    let lock = std::fs::File::open(device.path("S/lock")).unwrap();
    lock.lock().unwrap();
    device.here(&["status"]).code(0).says(&["update:       downloading 1.1.0 now"]);
}

#[test]
fn check_begins_with_the_verdict_and_its_exit_code_is_one_on_demand() {
    let (registry, device) = (Registry::start(), Device::new());
    let ends = |code: i32| device.from(&registry, &["check", "--exit-code"]).code(code).stdout;
    publish(&registry, "1.0.0", 1);
    let first = ends(75);
    assert!(first.starts_with("unknown: an unknown version runs, 1.0.0 is offered\n"), "{first}");
    device.from(&registry, &["check"]).code(0);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let text = ends(0);
    assert!(text.starts_with("up to date: 1.0.0\n\noffered:      1.0.0 from "), "{text}");
    assert!(!text.contains("gate:") && !text.contains("next:"), "{text}");
    assert!(device.from(&registry, &["check", "-v"]).code(0).stdout.contains("gate:         open   channel"));
    publish(&registry, "1.1.0", 2);
    assert!(ends(100).starts_with("update available: 1.0.0 to 1.1.0\n"));
    publish_as(&registry, 3, Metadata::new("0.9.0".parse().unwrap(), "stable"), "os:stable");
    let held = ends(77);
    assert!(
        held.starts_with("held: 0.9.0 is held back by version\n") && held.contains("gate:         closed version"),
        "{held}"
    );
}

#[test]
fn colours_are_for_terminals_or_on_demand() {
    let (_registry, device) = staged();
    let local = device.local(&["status"]);
    let good = "\u{1b}[32mgood\u{1b}[0m";
    assert!(!device.run(&local).stdout.contains('\u{1b}'));
    assert!(device.run(&[&local[..], &["--color", "always"]].concat()).stdout.contains(good));
    assert!(on_terminal(&device, &local, 80, "xterm").contains(good));
    assert!(!on_terminal(&device, &local, 80, "dumb").contains('\u{1b}'));
    assert!(!on_terminal(&device, &[&local[..], &["--color", "never"]].concat(), 80, "xterm").contains('\u{1b}'));
    let quiet = device.command(&local).env("NO_COLOR", "1").output().unwrap();
    assert!(!quiet.stdout.contains(&0x1b));
}

#[test]
fn lines_end_where_the_terminal_ends() {
    let (_registry, device) = staged();
    for columns in [40, 80, 120] {
        let text = on_terminal(&device, &device.local(&["status", "-v"]), columns, "dumb");
        let long = text.lines().find(|line| line.len() > columns as usize);
        assert_eq!(long, None, "{columns} columns:\n{text}");
        let words: Vec<_> = text.split_whitespace().filter(|word| *word != "ago):").collect();
        assert!(words.contains(&"environment:") && words.contains(&"(grubenv)"), "{text}");
    }
}

#[test]
fn progress_for_programs_begins_at_once_and_ends_with_everything() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let ran = device.from(&registry, &["apply", "--progress", "json"]).code(0);
    let lines: Vec<serde_json::Value> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!((&first["schema"], &first["progress"], &first["done"]), (&1.into(), &"fetching".into(), &0.into()));
    assert!(last["done"] == last["total"] && last["total"].as_u64() > Some(0), "{lines:?}");
    assert!(ran.stdout.contains("fetched ") && ran.stdout.contains("B/s)\n"), "{ran:?}");
    assert!(!device.from(&registry, &["apply", "--progress", "none"]).code(0).stderr.contains("fetching"));
}

#[test]
fn the_journal_gets_priorities_and_nobody_gets_module_paths() {
    use std::os::unix::fs::MetadataExt;
    let device = Device::new();
    device.write("conf", b"chanel=x\n");
    let log = std::fs::File::create(device.path("log")).unwrap();
    let meta = log.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let run = |arguments: &[&str], stream: &str| {
        let log = std::fs::File::create(device.path("log")).unwrap();
        let mut command = device.command(&device.local(arguments));
        command.env("JOURNAL_STREAM", stream).stderr(log).status().unwrap();
        std::fs::read_to_string(device.path("log")).unwrap()
    };
    let warned = run(&["status"], &stream);
    assert!(warned.starts_with("<4>warning: conf:1: unknown key"), "{warned}");
    let refused = run(&["activate"], &stream);
    assert!(
        refused.contains("\n<3>kubesolo-update: ") && refused.lines().all(|line| line.starts_with('<')),
        "{refused}"
    );
    let elsewhere = run(&["status", "-v"], "1:1");
    assert!(elsewhere.starts_with("warning: conf:1") && !elsewhere.contains("::"), "{elsewhere}");
}

/// An ordinary account on a machine without slots, as a publisher's laptop.
#[test]
fn check_works_without_slots_and_without_root() {
    let (registry, device) = (Registry::start(), Device::of_ordinary_user());
    publish(&registry, "1.0.0", 1);
    let reference = format!("{}/os:stable", registry.address);
    let ask = |more: &[&str]| {
        let source = ["check", "--registry", &reference, "--plain-http", &registry.address];
        device.run(&[&["--conf", "/dev/null", "--state", "nowhere/state.json"], &source[..], more].concat())
    };
    let text = ask(&["--pubkey", "K"]).code(0).stdout;
    assert!(text.starts_with("unknown: 1.0.0 is offered; the slots of this machine are not seen\n"), "{text}");
    assert!(text.contains("\nsigned:       ") && text.contains("run it as root"), "{text}");
    let report = ask(&["--pubkey", "K", "--json"]).code(0).json();
    assert_eq!((&report["verdict"], &report["reason"]), (&"unknown".into(), &"device-not-found".into()));
    ask(&["--pubkey", "K", "--exit-code"]).code(78);
    // The key decides here, too.
    device.save_key(&cli_support::key(2), "other");
    ask(&["--pubkey", "other", "--json"]).refused(77, "signature-unknown-key");
    assert!(ask(&[]).code(0).stdout.contains("signed:       not checked: no key"));

    let status = device.run(&["--conf", "/dev/null", "--state", "nowhere/state.json", "status"]).code(0).stdout;
    assert!(status.contains("next:         run it as root: only root can read the disks of a device\n"), "{status}");
    device.write("line", b"kubesolo.slot=B ks.trial=00000000 ks.proto=1\n");
    let booted = ["--conf", "/dev/null", "--state", "nowhere/state.json", "--cmdline", "line", "status"];
    device.run(&booted).code(0).says(&["running:      an unknown release in slot B"]);
}
