//! The decision of the first sector of `grub.cfg`, on real GRUB: which of two loader files a power-on runs.
//!
//! A row is what lies in GRUB's folder. By default file 1 is good, file 2 is to be tried once, and both are whole. Each row is
//! one power-on, or two where the file on trial hangs. A loader file of a row prints its number and restarts the device, so
//! that no kernel is needed; every byte of the disk afterwards must be as before, but for one sector of `ksstage`.

use std::fs;
use std::sync::Mutex;
use std::thread;

use bootenv::grub::{Block, SECTOR, SIZE};
use bootenv::loader::{self, FileId, Stage};

use crate::cells::Seeded;
use crate::image::{Content, Disk, Plan, Size, hash_line};
use crate::machine::{Device, Firmware, Machine};
use crate::runner::Run;
use crate::{Result, stub};

/// The file on trial, which must never be what a row ends in.
const TRIAL: Stage = Stage { good: FileId::First, tried: Some(FileId::Second) };
/// Printed by a file that boots.
const BOOTS: &str = "ks-row: ";
/// Printed by a file that is about to hang.
const HANGS: &str = "ks-hang: ";

/// The content of `ksstage` afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    /// As before.
    Same,
    /// This.
    Is(Stage),
    /// Not looked at: the values before were odd ones.
    Any,
}

/// One row: files that differ from the default, and what happens.
struct Row {
    name: &'static str,
    /// `None` removes the file.
    files: Vec<(&'static str, Option<Vec<u8>>)>,
    /// The line that is printed at the end.
    ends: String,
    after: After,
    can_store: bool,
    /// The file on trial does not come back: the power is cut, and the next power-on decides.
    hangs: bool,
    /// Through UEFI too.
    main: bool,
}

fn good(file: FileId) -> String {
    format!("# kubesolo-update loader 1\necho \"{BOOTS}{}\"\nreboot\n", file.script())
}

fn sum(file: FileId, bytes: &[u8]) -> (&'static str, Option<Vec<u8>>) {
    (file.sum(), Some(hash_line(file.script(), bytes).into_bytes()))
}

fn stage(variables: &[(&'static str, &str)]) -> Vec<u8> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Block::create(&variables).expect("a few characters").bytes().to_vec()
}

impl Row {
    /// File 1 boots, and the try of file 2 is over.
    fn new(name: &'static str, files: Vec<(&'static str, Option<Vec<u8>>)>) -> Self {
        let (ends, after) = (FileId::First.script().to_owned(), After::Is(Stage::settled(FileId::First)));
        Self { name, files, ends, after, can_store: true, hangs: false, main: false }
    }

    /// File 2 has these bytes, and its hash is right.
    fn broken(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let (file, bytes) = (FileId::Second, bytes.into());
        Self::new(name, vec![sum(file, &bytes), (file.script(), Some(bytes))])
    }

    /// File 2 prints that it hangs, and does.
    fn hanging(name: &'static str, how: &str) -> Self {
        Self { hangs: true, ..Self::broken(name, format!("echo \"{HANGS}{name}\"\n{how}\n")) }
    }

    /// Both files are good, and `ksstage` has these bytes; nothing is stored.
    fn staged(name: &'static str, bytes: Option<Vec<u8>>, ends: FileId) -> Self {
        let row = Self::new(name, vec![(loader::STAGE, bytes)]);
        Self { ends: ends.script().to_owned(), after: After::Same, ..row }
    }

    fn and(mut self, files: Vec<(&'static str, Option<Vec<u8>>)>) -> Self {
        self.files.extend(files);
        self
    }

    fn main(self) -> Self {
        Self { main: true, ..self }
    }
}

/// Files that end, or that GRUB cannot run.
fn broken() -> Vec<Row> {
    let text = loader::TEXT;
    let until = |what: &str| &text.as_bytes()[..text.find(what).expect("a part of the loader file")];
    let whole = good(FileId::Second);
    let mut junk = Seeded::new(19);
    let junk: Vec<u8> = (0..4096).map(|_| junk.below(256) as u8).collect();
    let spoils = "set d=x\nset e=x\nset f=9\nset g=9\nset n=9\nset s=x\nset t=2\nset root=x\nset prefix=x\nexport d e f g n s t root prefix\n\
        unset config_directory\nfunction configfile { true; }\nfunction hashsum { false; }\nfunction load_env { true; }\n";
    vec![
        Row::broken("cut in a function", [until("function ks_ours"), b"function ks_ours {\n    set ks_st"].concat())
            .main(),
        Row::broken("cut between functions", until("# --- The decision")).main(),
        Row::broken("cut in its last lines", &text.as_bytes()[..text.len() - 8]),
        Row::broken("an if without an end", format!("if true; then\n{whole}")).main(),
        Row::broken("a quote without an end", format!("set x=\"\n{whole}")),
        Row::broken("zeros", vec![0; 4096]).main(),
        Row::broken("junk", junk).main(),
        Row::broken("empty", "").main(),
        Row::broken("blank lines", "\n\n\n"),
        Row::broken("returns at its end", "set x=1\nreturn\n"),
        Row::broken("false at its end", "false\n"),
        Row::broken("unknown commands", "no_such_command x\nno_such_command\n"),
        Row::broken("endless recursion", "function ks_f { ks_f; }\nks_f\n").main(),
        Row::broken(
            "a kernel that is none",
            "linux $config_directory/ksl1.cfg\ninitrd $config_directory/ksl1.cfg\nboot\n",
        ),
        Row::broken("spoils what is exported and the names of commands", spoils).main(),
    ]
}

/// Files whose hash says that they are not whole.
fn unhashed() -> Vec<Row> {
    let second = FileId::Second;
    let (script, list) = (second.script(), second.sum());
    let mut bit = good(second).into_bytes();
    bit[5] ^= 1;
    let name_only = format!("{script}\n").into_bytes();
    let wrong = |file| sum(file, b"another");
    let settled = |good| (loader::STAGE, Some(Stage::settled(good).block().bytes().to_vec()));
    let unchanged = |row: Row, ends: FileId| Row { ends: ends.script().to_owned(), after: After::Same, ..row };
    vec![
        Row::new("one bit differs", vec![(script, Some(bit))]).main(),
        Row::new("the hash is missing", vec![(list, None)]).main(),
        Row::new("the file of the hash is empty", vec![(list, Some(vec![]))]).main(),
        Row::new("the file of the hash has a name only", vec![(list, Some(name_only))]),
        Row::new("the file is missing", vec![(script, None)]).main(),
        Row::new("the file and its hash are missing", vec![(script, None), (list, None)]),
        Row::new("no hash is right", vec![wrong(FileId::First), wrong(second)]).main(),
        unchanged(
            Row::new(
                "no hash is right, the second is good",
                vec![wrong(FileId::First), wrong(second), settled(second)],
            ),
            second,
        ),
        unchanged(Row::new("the good file rotted", vec![wrong(second), settled(second)]), FileId::First).main(),
        unchanged(Row::new("the first file rotted", vec![wrong(FileId::First), settled(FileId::First)]), second),
    ]
}

/// Contents of `ksstage`.
fn stages() -> Vec<Row> {
    use FileId::{First, Second};
    let of = |good, tried| Some(Stage { good, tried }.block().bytes().to_vec());
    let tried = |name, bytes, ends: FileId, good| Row {
        after: After::Is(Stage::settled(good)),
        ..Row::staged(name, bytes, ends)
    };
    let odd = |name, variables: &[(&'static str, &str)], ends| Row {
        after: After::Any,
        ..Row::staged(name, Some(stage(variables)), ends)
    };
    let mut twice = stage(&[("g", "1"), ("t", "2")]);
    let end = twice.windows(4).position(|bytes| bytes == b"t=2\n").expect("t=2") + 4;
    twice[end..end + 4].copy_from_slice(b"t=2\n");
    vec![
        tried("the second is tried", of(First, Some(Second)), Second, First).main(),
        tried("the first is tried", of(Second, Some(First)), First, Second),
        tried("the good one is tried", of(Second, Some(Second)), Second, Second),
        Row::staged("the first is good", of(First, None), First).main(),
        Row::staged("the second is good", of(Second, None), Second).main(),
        Row::staged("missing", None, First).main(),
        Row::staged("empty", Some(vec![]), First),
        Row::staged("zeros", Some(vec![0; SIZE]), First).main(),
        Row::staged("ones", Some(vec![0xff; SIZE]), First),
        Row::staged("cut", of(First, Some(Second)).map(|bytes| bytes[..20].to_vec()), First),
        Row::staged("no such file is good", Some(stage(&[("g", "3"), ("t", "0")])), First),
        odd("no such file is tried", &[("g", "2"), ("t", "7")], Second),
        odd("a word is tried", &[("g", "2"), ("t", "x y")], Second),
        odd("none is good", &[("t", "0")], First),
        odd("none is tried", &[("g", "2")], Second),
        Row { after: After::Any, ..Row::staged("t twice", Some(twice), First) },
        Row { can_store: false, ..Row::staged("the try cannot be stored", of(First, Some(Second)), First) }.main(),
    ]
}

/// Files that only a power-on ends. GRUB has no watchdog.
fn hanging() -> Vec<Row> {
    vec![
        Row::hanging("an endless loop", "while true; do true; done").main(),
        Row::hanging("a menu", "set timeout=-1\nmenuentry x { true; }"),
        Row::hanging("a pager", "set pager=1\nwhile true; do echo x; done"),
    ]
}

/// Kernels. The stub is started by BIOS only.
fn kernels() -> Vec<Row> {
    let load = |words: &str| format!("linux (hd0,gpt2)/vmlinuz {words}\ninitrd (hd0,gpt2)/kubesolo-os.gz\n");
    let first = load("of file 1") + "boot\n";
    let started = |words: &str| format!("kernel A: BOOT_IMAGE=(hd0,gpt2)/vmlinuz {words} initramfs A");
    let gives_up = Row::broken("loads a kernel and gives it up", load("and quite another line of file 2"))
        .and(vec![sum(FileId::First, first.as_bytes()), (FileId::First.script(), Some(first.into_bytes()))]);
    vec![Row { ends: started("of file 1"), ..gives_up }]
}

fn rows() -> Vec<Row> {
    [broken(), unhashed(), stages(), hanging(), kernels()].into_iter().flatten().collect()
}

/// All rows through BIOS; the main ones through any other firmware.
///
/// # Errors
/// A row that ends elsewhere.
pub fn all(run: &Run) -> Result<()> {
    let rows: Vec<_> = rows().into_iter().filter(|row| run.firmware == Firmware::Bios || row.main).collect();
    println!("      {} rows of the table", rows.len());
    let template = template(run)?;
    let queue = Mutex::new(rows.iter().enumerate());
    let failures = Mutex::new(vec![]);
    thread::scope(|scope| {
        for _ in 0..run.jobs {
            scope.spawn(|| {
                while let Some((number, row)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let played = one(run, &template, row, number);
                    if let (Err(why), Ok(mut failures)) = (played, failures.lock()) {
                        failures.push(format!("{}: {why}", row.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner()?;
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} rows differ\n{}", failures.len(), rows.len(), failures[..failures.len().min(5)].join("\n"))
        .into())
}

/// A disk with stubs in slot A, two good files, and file 2 to be tried.
fn template(run: &Run) -> Result<Disk> {
    let kernel = run.write("kernel", &stub::kernel("\nks-stub: kernel A: "))?;
    let initramfs = run.write("initramfs", b" initramfs A\n\0")?;
    let mut plan = Plan::new(Content::new(&kernel, &initramfs));
    plan.size = Size { esp: 34, slot: 2, data: 2 };
    let disk = plan.build(&run.file("template.img"))?;
    for file in FileId::BOTH {
        disk.put_esp_file(&format!("grub/{}", file.script()), good(file).as_bytes())?;
        let line = hash_line(file.script(), good(file).as_bytes());
        disk.put_esp_file(&format!("grub/{}", file.sum()), line.as_bytes())?;
    }
    disk.put_esp_file(&format!("grub/{}", loader::STAGE), TRIAL.block().bytes())?;
    Ok(disk)
}

fn one(run: &Run, template: &Disk, row: &Row, number: usize) -> Result<()> {
    let dir = run.file(&format!("row-{number:02}"));
    fs::create_dir_all(&dir)?;
    let disk = Disk { path: dir.join("disk.img"), size: template.size, firmware: template.firmware };
    fs::copy(&template.path, &disk.path)?;
    for (name, bytes) in &row.files {
        match bytes {
            Some(bytes) => disk.put_esp_file(&format!("grub/{name}"), bytes)?,
            None => disk.remove_esp_file(&format!("grub/{name}"))?,
        }
    }
    let before = fs::read(&disk.path)?;
    let mut device = Device::new(run.firmware, &disk.path);
    device.memory = if run.firmware == Firmware::Bios { 64 } else { 256 };
    device.read_only = !row.can_store;
    device.end_on_reset = true;
    device.more = stub::DEVICE.map(str::to_owned).to_vec();
    if row.hangs {
        let mut machine = Machine::power_on(&device, &dir)?;
        machine.wait_for(HANGS)?;
        machine.power_cut()?;
    }
    let mut machine = Machine::power_on(&device, &dir)?;
    machine.wait_for_end()?;
    let said = machine.said()?;
    let ends = |line: &str| Some(line.split_once(BOOTS).or_else(|| line.split_once("ks-stub: "))?.1.trim().to_owned());
    let seen = said.lines().find_map(ends);
    if seen.as_ref() != Some(&row.ends) {
        return Err(format!("{seen:?} instead of {:?}\n{}", row.ends, machine.tail()).into());
    }
    compare(&disk, &before, row.after)?;
    fs::remove_file(&disk.path)?;
    Ok(())
}

/// The disk as GRUB left it.
fn compare(disk: &Disk, before: &[u8], after: After) -> Result<()> {
    let now = fs::read(&disk.path)?;
    let differ: Vec<usize> = (0..now.len()).filter(|at| now[*at] != before[*at]).map(|at| at / SECTOR).collect();
    let (first, last) = (differ.first(), differ.last());
    if first != last || (after == After::Same && first.is_some()) {
        return Err(format!("the disk differs in the sectors {first:?} to {last:?}").into());
    }
    let After::Is(wanted) = after else { return Ok(()) };
    let block = Block::parse(&disk.esp_file(&format!("grub/{}", loader::STAGE))?).map_err(|e| e.to_string())?;
    match Stage::read(&block) {
        Some(seen) if seen == wanted => Ok(()),
        seen => Err(format!("ksstage: {seen:?} instead of {wanted:?}").into()),
    }
}
