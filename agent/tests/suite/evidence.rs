//! Evidence of trials: whole cycles on folders, with files in the place of the kernel log and of pstore.

use crate::{cli_support, common};

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use cli_support::{Device, publish};
use common::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

/// An ordinary boot of slot A.
const LINE: &[u8] = b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n";

/// A device whose release 2.0.0 is activated.
fn activated(registry: &Registry) -> Device {
    let device = Device::new();
    device.write("cmdline", LINE);
    device.here(&["healthcheck"]).code(0);
    publish(registry, "2.0.0", 2);
    device.from(registry, &["apply", "--activate"]).code(0);
    device
}

/// The bootloader, then the step behind `data`.
fn boot(device: &Device) {
    device.power_on();
    device.here(&["evidence"]).code(0);
}

/// Follows this kernel log in the background.
fn follow(device: &Device, kernel: &str) -> Child {
    device.write("S/kmsg", kernel.as_bytes());
    started(device, device.command(&device.local(&["evidence", "follow"])))
}

fn started(device: &Device, mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    // Somebody reads the pipe.
    let pipe = device.path("S/evidence-pipe");
    let is_read = || {
        use std::os::unix::fs::OpenOptionsExt as _;
        let is_pipe = pipe.symlink_metadata().is_ok_and(|meta| meta.file_type().is_fifo());
        is_pipe && OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).is_ok()
    };
    while !is_read() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    child
}

/// The file of a try of the only trial.
fn file(device: &Device, end: &str) -> String {
    let name = device.names("S/evidence").into_iter().find(|name| name.ends_with(end)).unwrap();
    let bytes = fs::read(device.path(&format!("S/evidence/{name}"))).unwrap();
    String::from_utf8(bytes).unwrap().trim_end_matches('\0').to_owned()
}

#[test]
fn a_trial_is_followed_until_its_verdict() {
    let registry = Registry::start();
    let device = activated(&registry);
    assert_eq!(device.names("S/evidence").len(), 4);
    boot(&device);
    let mut follower = follow(&device, "6,0,1500000,-;Linux version 6.1\n");
    device.make_unhealthy();
    device.script("health.d/20-other", "echo all is well");
    device.here(&["healthcheck", "--auto-rollback-after", "2"]).code(1);
    assert!(follower.try_wait().unwrap().is_none(), "no verdict so far");
    device.here(&["healthcheck", "--auto-rollback-after", "2"]).code(1).says(&["reverted"]);
    assert!(follower.wait().unwrap().success());
    let log = file(&device, ".1.log");
    for line in [
        "[    1.500000] Linux version 6.1\n",
        " health run\n",
        " check 10-node failed exit status: 1: the node is not ready\n",
        " check 20-other passed \n",
        " output 20-other all is well\n",
        " verdict slot B is reverted after failed run 2; slot A boots next\n",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line} in {log}");
    }
    assert!(!device.path("S/evidence-pipe").exists());
}

#[test]
fn an_ordinary_boot_leaves_no_evidence() {
    let device = Device::new();
    device.write("cmdline", LINE);
    device.here(&["healthcheck"]).code(0);
    fs::create_dir(device.path("S/pstore")).unwrap();
    device.write("S/pstore/dmesg-ramoops-0", b"a panic of no trial");
    let before = device.tree("");
    device.here(&["evidence"]).code(0);
    device.here(&["evidence", "follow"]).code(0);
    assert_eq!(device.tree(""), before);
}

/// The try that the panic belongs to is the one before, and in the last good slot the last one.
#[test]
fn last_words_of_the_kernel_belong_to_the_try_that_ended_with_them() {
    let registry = Registry::start();
    let device = activated(&registry);
    fs::create_dir(device.path("S/pstore")).unwrap();
    let panics = |words: &str| device.write("S/pstore/dmesg-ramoops-0", words.as_bytes());
    panics("before the trial\n");
    boot(&device);
    for (number, words) in [(1, "first\n"), (2, "second\n"), (3, "third\n")] {
        panics(words);
        boot(&device);
        assert_eq!(file(&device, &format!(".{number}.panic")), words);
        assert_eq!(device.names("S/pstore"), [""; 0]);
    }
    assert_eq!(device.names("S/evidence").len(), 7);
}

/// They may be why the trial fails.
#[test]
fn a_trial_with_unusable_settings_leaves_evidence() {
    let registry = Registry::start();
    let device = activated(&registry);
    device.write("conf", b"maintenance_window=never\n");
    boot(&device);
    let mut follower = follow(&device, "6,0,0,-;Linux version 6.1\n");
    device.here(&["healthcheck"]).code(78);
    // An orderly restart.
    kill(Pid::from_raw(follower.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(follower.wait().unwrap().success());
    let log = file(&device, ".1.log");
    assert!(log.contains("Linux version 6.1\n") && log.contains(" health no verdict: "), "{log}");
}

/// Each sync costs a medium, whatever the kernel prints.
#[test]
fn the_log_is_synced_at_most_once_a_second() {
    let registry = Registry::start();
    let device = activated(&registry);
    boot(&device);
    mkfifo(&device.path("S/kmsg"), Mode::from_bits_truncate(0o600)).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "calls", "-e", "trace=fdatasync,pwrite64,write,ftruncate,fallocate,openat"]);
    strace.arg(&device.program).args(device.local(&["evidence", "follow"])).current_dir(device.dir.path());
    let began = Instant::now();
    let mut follower = started(&device, strace);
    let mut kernel = OpenOptions::new().write(true).open(device.path("S/kmsg")).unwrap();
    for n in 0..400 {
        writeln!(kernel, "6,{n},{n},-;line {n}").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert!(follower.wait().unwrap().success());
    let seconds = began.elapsed().as_secs() as usize;
    let calls = fs::read_to_string(device.path("calls")).unwrap();
    let syncs = calls.matches("fdatasync(").count();
    // The first one, and that of the verdict.
    assert!((2..=seconds + 2).contains(&syncs), "{syncs} in {seconds} s");
    assert!(!calls.contains("O_APPEND") && !calls.contains("ftruncate(") && !calls.contains("fallocate("), "{calls}");
    assert!(file(&device, ".1.log").contains("] line 399\n"));
}

/// 768 KiB must not keep a device from its records.
#[test]
fn no_activation_needs_the_last_block_for_its_evidence() {
    let registry = Registry::start();
    let device = Device::new();
    device.write("cmdline", LINE);
    device.here(&["healthcheck"]).code(0);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply"]).code(0);
    let arguments = device.local(&["activate", "--pubkey", "K"]);
    let script = "mount -t tmpfs -o size=4m none T && cp -a S/. T/ && mount --move T S && \"$@\" 2>&1; ls S";
    fs::create_dir(device.path("T")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", script, "sh"]).arg(&device.program).args(arguments);
    let output = unshare.current_dir(device.dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: not root");
    }
    assert!(said.contains("evidence will be missing") && !said.contains("\nevidence\n"), "{said}");
    assert!(!device.env().success, "it is activated");
}

/// The last attempt, as `history --last --json` has it.
fn evidence(device: &Device) -> serde_json::Value {
    device.here(&["history", "--last", "--json"]).code(0).json()["attempt"]["evidence"].clone()
}

#[test]
fn the_last_good_system_reports_why_a_trial_failed() {
    let registry = Registry::start();
    let device = activated(&registry);
    fs::create_dir(device.path("S/pstore")).unwrap();
    boot(&device);
    let mut follower = follow(&device, "6,0,0,-;the first try\n");
    while !file(&device, ".1.log").contains("the first try") {
        std::thread::yield_now();
    }
    // A panic ends the first try.
    follower.kill().unwrap();
    follower.wait().unwrap();
    device.write("S/pstore/dmesg-ramoops-0", b"Kernel panic - not syncing\n");
    boot(&device);
    // The second one leaves nothing. The third is judged.
    boot(&device);
    let mut follower = follow(&device, "6,0,2000000,-;the last \u{1b}[2J words\n");
    device.make_unhealthy();
    device.script("health.d/20-other", "printf 'all is \\033[2J\\nwell'");
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1).says(&["reverted"]);
    assert!(follower.wait().unwrap().success());
    assert!(evidence(&device).is_null(), "the trial itself writes none");

    boot(&device);
    device.make_healthy();
    device.here(&["healthcheck"]).code(0);
    let kept = evidence(&device);
    let tries: Vec<_> = kept["tries"].as_array().unwrap().iter().map(|one| one["stage"].as_str().unwrap()).collect();
    assert_eq!(tries, ["services", "loader or kernel: no trace", "verdict"]);
    assert_eq!(kept["tries"][0]["shown_by"], serde_json::json!(["counter", "log", "panic"]));
    assert_eq!(kept["slot"], "B");
    assert_eq!(kept["panic"], "Kernel panic - not syncing\n");
    let log = kept["log"].as_str().unwrap();
    assert!(log.contains("the last \\u{1b}[2J words\n") && !log.contains("the first try"), "{log}");
    assert_eq!(kept["verdict"], "slot B is reverted after failed run 1; slot A boots next");
    let check = |name: &str| {
        let all = kept["checks"].as_array().unwrap();
        all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} in {kept}"))
    };
    assert_eq!((&check("10-node")["passed"], &check("20-other")["passed"]), (&false.into(), &true.into()));
    assert_eq!(check("10-node")["message"], "exit status: 1: the node is not ready");
    assert_eq!(check("20-other")["output"], "all is \\u{1b}[2J\nwell");
    assert_eq!(device.here(&["status", "--json"]).code(0).json()["evidence"], kept);
    // For people, and only once: the next boot is an ordinary one.
    let shown = device.here(&["history", "--last"]).code(0).says(&[
        "2.0.0 failed its trial",
        "loader or kernel: no trace",
        "failed: 10-node: exit status: 1: the node is not ready",
        "Kernel panic - not syncing",
    ]);
    assert!(!shown.stdout.contains('\u{1b}'), "{shown:?}");
    assert!(!device.path("S/evidence").exists());
    let before = device.tree("S");
    boot(&device);
    device.here(&["evidence", "follow"]).code(0);
    assert_eq!(device.tree("S"), before);
}

/// The bootloader goes back after three tries that nobody judged.
#[test]
fn tries_without_a_trace_are_reported_as_such() {
    let registry = Registry::start();
    let device = activated(&registry);
    (0..4).for_each(|_| boot(&device));
    device.here(&["healthcheck"]).code(0);
    let kept = evidence(&device);
    assert_eq!(kept["tries"].as_array().unwrap().len(), 3);
    assert_eq!(kept["tries"][2]["stage"], "loader or kernel: no trace");
    assert_eq!(kept["tries"][2]["shown_by"], serde_json::json!(["counter"]));
    assert_eq!(kept["verdict"], "2.0.0 failed its trial: it never reached its health check");
}

/// A health run judged the trial of a system without the step `evidence`.
#[test]
fn a_trial_that_nobody_followed_is_reported_as_such() {
    let registry = Registry::start();
    let device = activated(&registry);
    device.fails_its_trial();
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let kept = evidence(&device);
    assert_eq!(kept["tries"][0]["stage"], "not followed");
    let missing = "the log of the kernel: a health run came, but the step `evidence` did not run before it";
    assert_eq!(kept["missing"], serde_json::json!([missing]));
    let shown = device.here(&["history", "--last"]).code(0).says(&["missing:", "step `evidence` did not run"]);
    assert!(!shown.stdout.contains("no trace"), "{shown:?}");
}

#[test]
fn the_data_of_a_failed_trial_are_in_its_record() {
    let registry = Registry::start();
    let device = Device::new();
    fs::create_dir(device.path("kine")).unwrap();
    device.write("kine/state", b"old");
    device.write("cmdline", LINE);
    let step = || {
        let _ = fs::remove_file(device.path("S/data-step"));
        device.here(&["data"]).code(0);
        device.here(&["evidence"]).code(0);
    };
    step();
    device.here(&["healthcheck"]).code(0);
    publish(&registry, "2.0.0", 2);
    device.from(&registry, &["apply", "--activate"]).code(0);
    device.power_on();
    step();
    let mut follower = follow(&device, "");
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    follower.wait().unwrap();
    let taken = file(&device, ".1.log");
    assert!(taken.contains(" data checkpoint of kine: 3 B"), "{taken}");
    device.power_on();
    step();
    device.make_healthy();
    device.here(&["healthcheck"]).code(0);
    let data = evidence(&device)["data"].clone();
    assert_eq!(data["outcome"], "restored");
    assert!(data["message"].as_str().unwrap().starts_with("kine back to what unknown left at"), "{data}");
}

#[test]
fn a_committed_trial_leaves_no_evidence() {
    let registry = Registry::start();
    let device = activated(&registry);
    boot(&device);
    let mut follower = follow(&device, "6,0,0,-;Linux version 6.1\n");
    device.here(&["healthcheck"]).code(0).says(&["committed"]);
    assert!(follower.wait().unwrap().success());
    assert!(!device.path("S/evidence").exists() && evidence(&device).is_null());
}

/// An activation that is taken back, too.
#[test]
fn a_trial_that_was_never_booted_leaves_no_evidence() {
    let registry = Registry::start();
    let device = activated(&registry);
    device.here(&["rollback"]).code(0).says(&["cancelled"]);
    device.here(&["healthcheck"]).code(0);
    assert!(!device.path("S/evidence").exists() && evidence(&device).is_null());
}
