use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use bootenv::{SlotId, TrialId};
use tempfile::TempDir;

use super::*;

const TRIAL: TrialId = TrialId(0x0000_00a1);
const PATHS: [&str; 2] = ["kine", "late"];

/// A data partition, with the checkpoints of an agent.
struct Device {
    partition: TempDir,
    data: Data,
}

fn device() -> Device {
    let partition = tempfile::tempdir().unwrap();
    fs::create_dir_all(partition.path().join("update")).unwrap();
    fs::create_dir(partition.path().join("kine")).unwrap();
    let data = Data::beside(&partition.path().join("update/state.json"));
    Device { partition, data }
}

fn about() -> About {
    About {
        layout: LAYOUT,
        trial: TRIAL,
        slot: SlotId::B,
        base: None,
        noted: true,
        why: String::new(),
        paths: vec![],
        at: chrono::Utc::now(),
        took: 0,
    }
}

fn name(mark: Mark) -> Name {
    Name { trial: TRIAL, mark }
}

impl Device {
    fn path(&self, path: &str) -> PathBuf {
        self.partition.path().join(path)
    }

    fn take(&self) -> Result<About> {
        let paths = PATHS.map(str::to_owned);
        self.data.take(Order { about: about(), paths: &paths, limit: Duration::from_secs(60) })
    }

    fn restore(&self) {
        self.data.count(name(Mark::Held)).unwrap();
        self.data.rename(name(Mark::Held), Mark::Back).unwrap();
        self.data.finish(name(Mark::Back)).unwrap();
    }

    fn names(&self) -> Vec<Name> {
        self.data.find().unwrap().names
    }
}

/// The answer of find(1) about everything in a folder but its place: kind, mode, owners, size, time, links, target.
fn listed(folder: &Path) -> String {
    let shown = ["%P %y %m %U %G %n %l ", "%s %T@"];
    let mut all = String::new();
    for (kind, format) in [("d", shown[0].to_owned()), ("fpl", shown.concat())] {
        let kinds: Vec<String> = kind.chars().map(String::from).collect();
        let find = Command::new("find")
            .arg(folder)
            .args(["-type", &kinds.join(","), "-printf", &format!("{format}\n")])
            .output()
            .unwrap();
        assert!(find.status.success(), "{}", String::from_utf8_lossy(&find.stderr));
        let mut lines: Vec<_> = std::str::from_utf8(&find.stdout).unwrap().lines().collect();
        lines.sort_unstable();
        all += &lines.join("\n");
    }
    all
}

fn same_content(one: &Path, other: &Path) {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output().unwrap();
    let differs = String::from_utf8_lossy(&diff.stdout).into_owned();
    let beside_fifos = differs.lines().filter(|line| !line.contains("is a fifo")).collect::<Vec<_>>();
    assert!(beside_fifos.is_empty(), "{beside_fifos:?}");
}

#[test]
fn a_checkpoint_is_the_same_folder_to_find_and_diff() {
    let device = device();
    let kine = device.path("kine");
    let run = |script: &str| {
        assert!(Command::new("sh").arg("-ec").arg(script).current_dir(&kine).status().unwrap().success());
    };
    run("mkdir -p a/b; echo one >a/one; ln a/one a/b/linked; ln -s one a/soft; mkfifo a/pipe; chmod 6751 a/one; chmod 711 a/b
         chown 12:34 a/one a/pipe; chown -h 5:6 a/soft; touch -h -d '2001-02-03 04:05:06.789' a/one a/soft; touch -d 2002-02-02 a/b");
    run("python3 -c 'import os; os.setxattr(\"a/one\", \"user.colour\", b\"blue\")'");
    let hole = fs::File::create(kine.join("hole")).unwrap();
    hole.set_len(64 << 20).unwrap();
    hole.write_all_at(b"middle", 32 << 20).unwrap();
    let _socket = UnixListener::bind(kine.join("socket")).unwrap();
    let taken = device.take().unwrap();
    assert_eq!(device.names(), [name(Mark::Held)]);
    let copy = device.path("update/data/000000a1.held/tree/0");
    let before = listed(&kine);
    assert_eq!(listed(&copy), before);
    fs::remove_file(kine.join("socket")).unwrap();
    same_content(&kine, &copy);
    assert!(copy.join("hole").metadata().unwrap().blocks() < 1024, "holes stay holes");
    let xattr = Command::new("getfattr").args(["--only-values", "-n", "user.colour"]).arg(copy.join("a/one")).output();
    if let Ok(shown) = xattr {
        assert_eq!(shown.stdout, b"blue");
    }
    assert_eq!(taken.paths[1].folder, None);
    // The trial writes, and makes a folder of its own.
    run("rm -r a; echo newer >newer");
    fs::create_dir(device.path("late")).unwrap();
    device.restore();
    assert_eq!(listed(&kine), before);
    assert!(!device.path("late").exists(), "a folder that was not there is taken away");
    assert_eq!(device.names(), []);
    device.data.empty_trash().unwrap();
    assert_eq!(fs::read_dir(device.path("update/data")).unwrap().count(), 0);
}

/// A program with an open SQLite database in write-ahead mode, which it does not checkpoint.
fn open_database(folder: &Path, script: &str) -> Child {
    let program = format!(
        "import sqlite3, sys, time\nc = sqlite3.connect('state.db', isolation_level=None)\n\
         c.execute('pragma journal_mode=wal'); c.execute('pragma wal_autocheckpoint=0')\n{script}\n\
         print('ready', flush=True); time.sleep(60)"
    );
    let mut child =
        Command::new("python3").args(["-c", &program]).current_dir(folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    child
}

/// Ends it as a power cut would: its write-ahead log stays.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn rows(folder: &Path) -> String {
    let program = "import sqlite3\nc = sqlite3.connect('state.db')\n\
        print(c.execute('pragma integrity_check').fetchone()[0], *[r[0] for r in c.execute('select name from kine')])";
    let shown = Command::new("python3").args(["-c", program]).current_dir(folder).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_database_with_a_write_ahead_log_comes_back_as_the_old_system_left_it() {
    let device = device();
    let kine = device.path("kine");
    let writer =
        open_database(&kine, "c.execute('create table kine(name)'); c.execute(\"insert into kine values('old')\")");
    let in_use = device.take().unwrap_err();
    assert!(in_use.message.contains("python3") && in_use.message.contains("state.db"), "{in_use}");
    assert_eq!(in_use.reason, Reason::DataCheckpoint);
    kill(writer);
    assert!(kine.join("state.db-wal").metadata().unwrap().len() > 0);
    device.take().unwrap();
    kill(open_database(
        &kine,
        "c.execute(\"insert into kine values('new')\"); c.execute('alter table kine add column more')",
    ));
    device.restore();
    assert!(kine.join("state.db-wal").metadata().unwrap().len() > 0);
    assert_eq!(rows(&kine), "ok old");
}

#[test]
fn a_copy_that_was_cut_off_is_taken_again() {
    let device = device();
    fs::write(device.path("kine/file"), "first").unwrap();
    device.data.announce(&about(), Mark::Note).unwrap();
    assert_eq!(device.names(), [name(Mark::Note)]);
    device.data.rename(name(Mark::Note), Mark::New).unwrap();
    let half = device.path("update/data/000000a1.new/tree/0");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("left"), "half").unwrap();
    device.take().unwrap();
    let copy = device.path("update/data/000000a1.held/tree/0");
    assert_eq!(fs::read(copy.join("file")).unwrap(), b"first");
    assert!(!copy.join("left").exists());
}

#[test]
fn an_incomplete_checkpoint_is_refused_before_the_first_rename() {
    let device = device();
    fs::write(device.path("kine/file"), "old").unwrap();
    device.take().unwrap();
    fs::write(device.path("kine/file"), "newer").unwrap();
    fs::remove_file(device.path("update/data/000000a1.held/tree/0/file")).unwrap();
    assert_eq!(device.data.count(name(Mark::Held)).unwrap_err().reason, Reason::DataIncomplete);
    device.data.rename(name(Mark::Held), Mark::Back).unwrap();
    assert_eq!(device.data.finish(name(Mark::Back)).unwrap_err().reason, Reason::DataIncomplete);
    assert_eq!(fs::read(device.path("kine/file")).unwrap(), b"newer");
    assert_eq!(device.names(), [name(Mark::Back)]);
}

/// Each rename of a restore, and a power cut before it.
#[test]
fn a_restore_that_was_cut_off_goes_on() {
    for cut in 0..4 {
        let device = device();
        fs::write(device.path("kine/file"), "old").unwrap();
        device.take().unwrap();
        fs::write(device.path("kine/file"), "newer").unwrap();
        fs::create_dir(device.path("late")).unwrap();
        device.data.rename(name(Mark::Held), Mark::Back).unwrap();
        let back = device.path("update/data/000000a1.back");
        let moves = [("kine", "failed/0"), ("tree/0", "kine"), ("late", "failed/1")];
        fs::create_dir_all(back.join("failed")).unwrap();
        let place = |path: &str| if PATHS.contains(&path) { device.path(path) } else { back.join(path) };
        for (from, to) in &moves[..cut] {
            fs::rename(place(from), place(to)).unwrap();
        }
        device.data.finish(name(Mark::Back)).unwrap();
        assert_eq!(fs::read(device.path("kine/file")).unwrap(), b"old", "cut before rename {cut}");
        assert!(!device.path("late").exists());
        assert_eq!(device.names(), []);
    }
}

#[test]
fn links_and_files_are_no_folders_of_a_checkpoint() {
    let device = device();
    symlink("kine", device.path("link")).unwrap();
    fs::write(device.path("file"), "").unwrap();
    for path in ["link", "file", "link/below"] {
        assert_eq!(device.data.is_there(path).unwrap_err().reason, Reason::DataCheckpoint, "{path}");
    }
    assert!(device.data.is_there("kine").unwrap());
    assert!(!device.data.is_there("kine/below").unwrap());
}

#[test]
fn a_checkpoint_of_a_later_version_is_not_readable() {
    let device = device();
    device.data.announce(&About { layout: LAYOUT + 1, ..about() }, Mark::Held).unwrap();
    fs::create_dir(device.path("update/data/000000a1.later")).unwrap();
    let found = device.data.find().unwrap();
    assert_eq!(found.unknown, ["000000a1.later"]);
    assert!(!device.data.checkpoints(&found.names, None)[0].readable);
}
