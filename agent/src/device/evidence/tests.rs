use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::thread;

use super::*;

const TRIAL: TrialId = TrialId(0x1234_abcd);

fn announced() -> Announced {
    Announced { trial: TRIAL, slot: SlotId::B, release: Digest::of(b"release"), attempt: "00000001".into() }
}

/// Traces beside a `state.json`, with files in the place of the kernel's.
fn traces(folder: &tempfile::TempDir) -> Traces {
    let traces = Traces::beside(&folder.path().join("state.json"));
    fs::create_dir(&traces.pstore).unwrap();
    fs::create_dir(&traces.kernel).unwrap();
    fs::write(&traces.kmsg, "").unwrap();
    traces.announce(&announced()).unwrap();
    traces
}

/// Follows this try, lets a health run say these lines, and gives the log.
fn follow(traces: &Traces, number: u8, lines: &[&str]) -> Trace {
    thread::scope(|scope| {
        let follower = scope.spawn(|| traces.follow(TRIAL, number, &["data ordinary ordinary".into()]).unwrap());
        while !follower.is_finished() && files::open_existing(&traces.pipe).is_err() {
            thread::yield_now();
        }
        lines.iter().for_each(|line| traces.say(line));
        traces.end("slot B is reverted");
        follower.join().unwrap();
    });
    traces.tries(TRIAL).swap_remove(usize::from(number) - 1)
}

#[test]
fn the_kernel_log_and_the_stages_of_a_try_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    fs::write(&traces.kmsg, "6,0,0,-;Linux version 6.1\n4,1,2500000,-;ext4: \u{1b}[2J bad\n SUBSYSTEM=block\n")
        .unwrap();
    let before = fs::metadata(traces.log(TRIAL, 2)).unwrap();
    let trace = follow(&traces, 2, &["health run", "check 10-app failed exit status: 1"]);
    let after = fs::metadata(traces.log(TRIAL, 2)).unwrap();
    assert!(
        trace.log.contains("[    0.000000] Linux version 6.1\n[    2.500000] ext4: \\u{1b}[2J bad\n"),
        "{}",
        trace.log
    );
    assert!(!trace.log.contains("SUBSYSTEM"), "{}", trace.log);
    assert_eq!(trace.said("check").collect::<Vec<_>>(), ["10-app failed exit status: 1"]);
    assert_eq!(trace.said("data").collect::<Vec<_>>(), ["ordinary ordinary"]);
    assert_eq!(trace.said("verdict").collect::<Vec<_>>(), ["slot B is reverted"]);
    assert_eq!(trace.stage(), Stage::Verdict);
    assert!(trace.seconds().is_some());
    assert_eq!((after.ino(), after.len(), after.blocks()), (before.ino(), before.len(), before.blocks()), "in place");
    // The other tries have no trace.
    assert_eq!((traces.tries(TRIAL)[0].stage(), traces.begun(TRIAL)), (Stage::NoTrace, 2));
}

#[test]
fn a_health_run_that_repeats_itself_fills_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let failed = "check 10-app failed exit status: 1";
    let trace = follow(&traces, 1, &[failed, failed, "check 10-app passed ", failed, failed]);
    assert_eq!(trace.said("check").count(), 3, "{}", trace.log);
}

#[test]
fn lines_of_the_kernel_that_were_lost_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    fs::write(&traces.kmsg, "6,10,0,-;first\n6,11,0,-;second\n6,500,0,-;third\n").unwrap();
    let trace = follow(&traces, 1, &[]);
    assert_eq!(trace.said("left").collect::<Vec<_>>(), ["out 488 lines of the kernel log: they came too fast"]);
}

/// A line of the kernel log never begins as a line of a health run does.
#[test]
fn no_text_of_others_passes_for_a_line_of_a_health_run() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let forged = "6,0,0,-;x\\x0a# 1.0 verdict committed\n# 1.0 verdict committed\n6,1,0,-;# 1.0 verdict committed\n";
    fs::write(&traces.kmsg, forged).unwrap();
    let trace = follow(&traces, 1, &["check a failed x\n# 1.0 check b passed"]);
    assert_eq!(trace.said("verdict").collect::<Vec<_>>(), ["slot B is reverted"], "{}", trace.log);
    assert_eq!(trace.said("check").collect::<Vec<_>>(), ["a failed x\\n# 1.0 check b passed"], "{}", trace.log);
}

#[test]
fn a_full_log_keeps_its_latest_lines() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let path = traces.log(TRIAL, 3);
    let mut log = follow::Log::open(files::open_existing(&path).unwrap()).unwrap();
    for part in 0..90 {
        let line = |n| format!("[    0.000000] {n:05} {}\n", "x".repeat(40));
        log.append(&(part * 100..part * 100 + 100).map(line).collect::<String>()).unwrap();
        // A power cut at any time leaves the latest ones.
        let kept = &traces.tries(TRIAL)[2].log;
        let numbers: Vec<u32> = kept.lines().map(|line| line[15..20].parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&(part * 100 + 99)));
        assert!(
            numbers.len() >= 4000.min(part as usize * 100 + 100)
                && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
        );
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), limits::EVIDENCE_LOG_BYTES as u64);
}

#[test]
fn hangs_are_panics_until_the_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let value = |name: &str| fs::read_to_string(traces.kernel.join(name)).unwrap();
    for name in ["softlockup_panic", "hung_task_panic"] {
        fs::write(traces.kernel.join(name), "0\n").unwrap();
    }
    // A named stand-in that shows when it was set.
    mkfifo_log(&traces);
    let seen = thread::scope(|scope| {
        let follower = scope.spawn(|| traces.follow(TRIAL, 1, &[]).unwrap());
        while files::open_existing(&traces.pipe).is_err() {
            thread::yield_now();
        }
        let seen = (value("softlockup_panic"), value("hung_task_panic"));
        traces.end("slot B is committed");
        follower.join().unwrap();
        seen
    });
    assert_eq!(seen, ("1\n".to_owned(), "1\n".to_owned()));
    assert_eq!((value("softlockup_panic"), value("hung_task_panic")), ("0\n".to_owned(), "0\n".to_owned()));
}

fn mkfifo_log(traces: &Traces) {
    fs::remove_file(&traces.kmsg).unwrap();
    nix::unistd::mkfifo(&traces.kmsg, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
}

#[test]
fn the_last_words_of_the_kernel_are_joined_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let record = |name: &str, text: &str| fs::write(traces.pstore.join(name), text).unwrap();
    record("dmesg-efi-176412000001001", "Panic#1 Part1\n<0>[    2.1] Kernel panic - not syncing\n");
    record("dmesg-efi-176412000102001", "Panic#1 Part2\n<4>[    2.0] \u{1b}[31mBUG\n");
    // The kernel took another second for it.
    record("dmesg-efi-176412000210001", "Panic#1 Part10\n<5>[    0.0] Linux version\n");
    record("dmesg-efi-176411999902001", "Oops#1 Part2\nbefore\n");
    record("dmesg-efi-176411999901001", "Oops#1 Part1\nearlier\n");
    record("console-ramoops-0", "of the console\n");
    traces.harvest(TRIAL, 1).unwrap();
    let trace = traces.tries(TRIAL).swap_remove(0);
    let words = "of the console\nbefore\nearlier\n[    0.0] Linux version\n[    2.0] \\u{1b}[31mBUG\n[    2.1] Kernel panic - not syncing\n";
    assert_eq!((trace.panic.as_str(), trace.stage()), (words, Stage::Kernel));
    assert_eq!(fs::read_dir(&traces.pstore).unwrap().count(), 0, "room for the next one");
    // Nothing is found again.
    traces.harvest(TRIAL, 1).unwrap();
    assert_eq!(traces.tries(TRIAL)[0].panic, words);
}

#[test]
fn last_words_are_bounded_and_their_end_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let text: String = (0..9000).map(|n| format!("{n:05} a line of a panic\n")).collect();
    fs::write(traces.pstore.join("dmesg-ramoops-0"), text).unwrap();
    traces.harvest(TRIAL, 3).unwrap();
    let panic = traces.tries(TRIAL).swap_remove(2).panic;
    assert!(panic.len() <= limits::PANIC_BYTES && panic.ends_with("08999 a line of a panic\n"));
    assert_eq!(panic.lines().next().unwrap().len(), "08999 a line of a panic".len(), "from the start of a line");
}

/// Records that were there before the first try are of no trial.
#[test]
fn an_earlier_panic_is_not_taken_for_one_of_the_trial() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let record = traces.pstore.join("dmesg-ramoops-0");
    fs::write(&record, "earlier\n").unwrap();
    traces.announce(&announced()).unwrap();
    assert!(!record.exists());
    fs::write(&record, "between\n").unwrap();
    traces.harvest(TRIAL, 0).unwrap();
    assert!(!record.exists() && traces.tries(TRIAL).iter().all(|one| one.panic.is_empty()));
}

#[test]
fn an_announcement_makes_room_and_forgets_an_earlier_trial() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    follow(&traces, 1, &[]);
    let other = Announced { trial: TrialId(1), ..announced() };
    traces.announce(&other).unwrap();
    assert_eq!(traces.announced(), Some(other));
    assert_eq!(fs::read_dir(&traces.folder).unwrap().count(), 4);
    let log = fs::metadata(traces.log(TrialId(1), 1)).unwrap();
    assert_eq!((log.len(), log.blocks() * 512, log.mode() & 0o777), (256 << 10, 256 << 10, 0o600));
    assert_eq!(fs::metadata(&traces.folder).unwrap().mode() & 0o777, 0o700);
    traces.clear().unwrap();
    assert_eq!(traces.announced(), None);
}

#[test]
fn a_follower_begins_behind_what_a_log_has() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(&folder);
    let file = files::open_existing(&traces.log(TRIAL, 1)).unwrap();
    file.write_all_at(b"[    0.000000] kept\n", 0).unwrap();
    let trace = follow(&traces, 1, &[]);
    assert!(trace.log.starts_with("[    0.000000] kept\n# "), "{}", trace.log);
}
