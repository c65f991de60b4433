//! The units, as systemd itself judges them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::TrialId;
use kubesolo_update::base::limits::DATA_SECONDS;
use kubesolo_update::config::{Conf, Config, Overrides};
use kubesolo_update::device::blocks::{CommandLine, DEADLINE, DEADLINE_MARGIN, HEALTH_WINDOW, STICK_LABEL};

/// A root filesystem with systemd's own units and ours, and something to start.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(units.parent().unwrap()).unwrap();
    let copied =
        Command::new("cp").arg("-r").args(["/lib/systemd/system/.".as_ref(), units.as_path()]).status().unwrap();
    assert!(copied.success());
    for unit in ours() {
        fs::copy(&unit, units.join(unit.file_name().unwrap())).unwrap();
    }
    for program in [
        "bin/sh",
        "usr/bin/kubesolo-update",
        "usr/bin/systemctl",
        "usr/bin/sync",
        "usr/lib/kubesolo-update/stage/checkpoint",
        "usr/lib/kubesolo-update/stage/data",
        "usr/lib/kubesolo-update/stage/evidence",
        "usr/lib/kubesolo-update/stage/health",
        "usr/lib/kubesolo-update/stage/seed",
    ] {
        let program = root.path().join(program);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

fn ours() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")).unwrap();
    let mut units: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    units.sort();
    assert!(!units.is_empty());
    units
}

fn names(kind: &str) -> Vec<String> {
    let names = ours().into_iter().map(|unit| unit.file_name().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name.ends_with(kind)).collect()
}

fn analyze(root: &Path, arguments: &[&str], units: &[String]) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    command.arg(arguments[0]).arg(format!("--root={}", root.display())).args(&arguments[1..]).args(units);
    let output =
        command.env("LC_ALL", "C.UTF-8").output().expect("systemd-analyze: build/scripts/setup.sh test installs it");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let root = root();
    let (understood, said) = analyze(root.path(), &["verify", "--man=no"], &names(""));
    assert!(understood && said.is_empty(), "{said}");
}

/// Bounds of `systemd-analyze security`: 10 is a service that may do everything. Mounting slots costs the agent its points.
#[test]
fn no_unit_may_do_more_than_its_work_needs() {
    let root = root();
    for (unit, tenths) in [
        ("kubesolo-update.service", 28),
        ("kubesolo-update-health.service", 34),
        ("kubesolo-cloudinit.service", 19),
        ("kubesolo-update-deadline.service", 40),
        ("kubesolo-update-data.service", 50),
        ("kubesolo-update-evidence.service", 40),
        ("kubesolo-update-mount.service", 60),
        ("kubesolo-update-stick@.service", 28),
    ] {
        let threshold = format!("--threshold={tenths}");
        let (held, said) = analyze(root.path(), &["security", "--offline=yes", &threshold], &[unit.to_owned()]);
        assert!(held, "{unit}: {}", said.lines().last().unwrap_or_default());
    }
    assert_eq!(names(".service").len(), 8, "every service has a bound");
}

#[test]
fn a_stick_starts_a_unit_that_is_there() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("udev/90-kubesolo-update.rules");
    let rules = fs::read_to_string(rules).unwrap();
    assert!(rules.contains(&format!("ENV{{ID_FS_LABEL}}==\"{STICK_LABEL}\"")), "{rules}");
    let (_, wanted) = rules.split_once("ENV{SYSTEMD_WANTS}+=\"").unwrap();
    let unit = wanted.split('"').next().unwrap().replace("%k", "");
    assert!(names("").contains(&unit), "{unit}");
}

#[test]
fn an_exit_that_means_not_now_is_no_failure() {
    let code = kubesolo_update::Exit::NotNow.code();
    for unit in ["kubesolo-update.service", "kubesolo-update-stick@.service"] {
        let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit)).unwrap();
        assert!(unit.lines().any(|line| line == format!("SuccessExitStatus={code}")));
    }
}

/// Units whose programs read settings or credentials.
#[test]
fn no_unit_leaves_a_core_dump_with_credentials() {
    let mut readers = 0;
    for unit in ours() {
        let text = fs::read_to_string(&unit).unwrap();
        if text.lines().any(|line| line.starts_with("ExecStart=/usr/") || line.starts_with("LoadCredential=")) {
            assert!(text.lines().any(|line| line == "LimitCORE=0"), "{}", unit.display());
            readers += 1;
        }
    }
    assert_eq!(readers, 7);
}

/// The trial that the init stage finds on this kernel command line; `None` without the right to mount.
fn stage_in_trial(line: &str) -> Option<bool> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cmdline");
    fs::write(&file, line).unwrap();
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../initramfs-hooks/usr/lib/kubesolo-update/lib.sh");
    let script = "mount --bind \"$1\" /proc/cmdline || exit 9; . \"$0\"; in_trial";
    let output = Command::new("unshare").args(["-m", "sh", "-c", script]).arg(lib).arg(&file).output().unwrap();
    match output.status.code() {
        Some(code @ (0 | 1)) if output.stderr.is_empty() => Some(code == 0),
        _ => None,
    }
}

#[test]
fn agent_and_init_stage_agree_on_what_a_trial_is() {
    for (line, trial) in [
        ("quiet ks.trial=1234abcd ks.proto=1\n", true),
        ("ks.trial=1234abcd\n", true),
        ("ks.trial=00000000 quiet\n", false),
        ("quiet\n", false),
        ("ks.trial=1234abcd ks.trial=1234abcd\n", false),
        ("ks.trial=1234abcd quiet ks.trial=00000000\n", false),
        ("ks.trial=00000000 ks.trial=1234abcd\n", false),
        ("ks.trial=1234ABCD\n", false),
        ("ks.trial=1234abc ks.trial=\n", false),
        ("ks.trial= ks.proto=1\n", false),
        ("ksxtrial=1234abcd xks.trial=1234abcd ks.trials=1234abcd\n", false),
        ("quiet\tks.trial=1234abcd\n", true),
    ] {
        let agent = CommandLine::parse(line).trial.is_ok_and(|id| id != TrialId::NONE);
        assert_eq!(agent, trial, "{line}");
        let Some(stage) = stage_in_trial(line) else { return eprintln!("skipped: not root") };
        assert_eq!(stage, trial, "{line}");
    }
}

/// The exit code of the deadline unit with this kernel command line; `None` without the right to mount.
fn deadline(line: &str) -> Option<i32> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(top.join("systemd/kubesolo-update-deadline.service")).unwrap();
    let script = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '")?.strip_suffix("'")).unwrap();
    let lib = top.join("../initramfs-hooks/usr/lib/kubesolo-update/lib.sh");
    let script =
        script.replace("/usr/lib/kubesolo-update/lib.sh", lib.to_str().unwrap()).replace("/var/lib/kubesolo", "/");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cmdline");
    fs::write(&file, line).unwrap();
    let mounted = format!("mount --bind \"$1\" /proc/cmdline || exit 9; {script}");
    let output = Command::new("unshare").args(["-m", "sh", "-c", &mounted, "sh"]).arg(&file).output().unwrap();
    output.status.code().filter(|code| *code != 9 && output.stderr.is_empty())
}

/// The unit restarts the device when its command fails.
#[test]
fn the_deadline_ends_a_trial_and_no_other_boot() {
    for (line, code) in [
        ("ks.trial=1234abcd quiet\n", 1),
        ("ks.trial=1234abcd ks.trial=5678abcd\n", 0),
        ("ks.trial=1234ABCD\n", 0),
        ("ks.trial=\n", 0),
    ] {
        let Some(ended) = deadline(line) else { return eprintln!("skipped: not root") };
        assert_eq!(ended, code, "{line}");
    }
}

/// The number of the only line that begins with these words.
fn number(text: &str, begin: &str) -> u64 {
    let mut found = text.lines().filter_map(|line| line.trim().strip_prefix(begin));
    let number = found.next().unwrap_or_else(|| panic!("{begin} in {text}"));
    assert_eq!(found.next(), None, "{begin}");
    number.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn a_trial_does_not_end_before_its_last_health_run() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(top.join(path)).unwrap();
    let stage = "initramfs-hooks/usr/lib/kubesolo-update/stage";
    let window = number(&read(&format!("{stage}/health")), "end=$(($(uptime) + $(seconds ks.health_window ");
    let deadline = number(&read(&format!("{stage}/deadline")), "after=$(($(seconds ks.deadline ");
    let minutes = number(&read("agent/systemd/kubesolo-update-deadline.timer"), "OnBootSec=");
    // Under systemd the deadline is not armed again behind the copy of the data.
    assert_eq!((window, deadline, minutes * 60), (HEALTH_WINDOW, DEADLINE, DEADLINE + DATA_SECONDS));
    assert_eq!(number(&read(&format!("{stage}/checkpoint")), "arm \"$(seconds ks.data_limit "), DATA_SECONDS);
    let guide = read("docs/integration.md");
    let documented = ["| `ks.health_window=SECONDS` | ", "| `ks.deadline=SECONDS` | "].map(|row| number(&guide, row));
    assert_eq!(documented, [window, deadline]);
    let checks = Config::resolve(&Conf::default(), &Overrides::default()).unwrap().health_timeout.as_secs();
    assert!(deadline >= window + checks + DEADLINE_MARGIN, "{deadline} {window} {checks}");
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_timer() {
    let timer =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/kubesolo-update.timer")).unwrap();
    let lines: Vec<_> = timer.lines().collect();
    assert!(lines.contains(&"OnClockChange=yes"));
    // Counted from the end of a run, so that a run by the calendar puts it off. OnBootSec= would run beside the calendar.
    let hours = number(&timer, "OnUnitInactiveSec=");
    assert!(hours >= 2 && !timer.contains("\nOnBootSec=") && !timer.contains("\nOnActiveSec="), "{timer}");
}
