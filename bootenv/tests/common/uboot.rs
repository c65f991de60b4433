//! An environment of U-Boot in a folder, or on loop devices, and the tools that other projects have for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bootenv::uboot::config::{self, Place};
use bootenv::uboot::store::{Loaded, Store};
use bootenv::uboot::{Environment, Format};
use proptest::prelude::*;

/// The unit that a disk writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

/// Names and values.
pub type Variables = BTreeMap<String, String>;

/// Where the copies lie: which file, at which offset, how large the files are.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Bytes of a copy.
    pub size: usize,
    /// File and offset of each; below zero from the end.
    pub copies: Vec<(&'static str, i64)>,
    /// Bytes of each file.
    pub file: u64,
    /// The rest of a line behind the size.
    pub sectors: &'static str,
    /// The files are behind block devices.
    pub devices: bool,
}

impl Geometry {
    /// One or two copies, in one file or two, in files or on devices, at both ends of them, of each size and in each
    /// notation of sectors that all tools take. Those on devices only where there are any to be had.
    pub fn all() -> Vec<Self> {
        let places = [
            (false, vec![("env", 0)]),
            (false, vec![("env", 0x4000)]),
            (false, vec![("env", 0), ("env", 0x4000)]),
            (false, vec![("env", 0x8000), ("redundant", 0)]),
            (false, vec![("env", 0), ("redundant", 0x4000)]),
            (true, vec![("env", -0x4000)]),
            (true, vec![("env", 0), ("env", -0x4000)]),
            (true, vec![("env", -0x8000), ("redundant", -0x8000)]),
        ];
        let mut all = vec![];
        for (devices, copies) in places {
            if devices && !LoopDevice::can_be_had() {
                eprintln!("skipped: no loop device to be had (root?), {copies:?}");
                continue;
            }
            for size in [0x200, 0x400, 0x1000, 0x2345, 0x4000] {
                for sectors in ["", " 0x200 0x40", " 4000 4", " 0x1000 4", " 0x4000 1 0"] {
                    all.push(Self { size, copies: copies.clone(), file: 0x10000, sectors, devices });
                }
            }
        }
        all
    }

    /// Two copies of 512 bytes in two files that have no more.
    pub fn pair() -> Self {
        Self { size: 0x200, copies: vec![("env", 0), ("redundant", 0)], file: 0x200, sectors: "", devices: false }
    }

    /// The first bytes of its copies.
    pub fn format(&self) -> Format {
        if self.copies.len() == 1 { Format::Single } else { Format::Redundant }
    }
}

/// A block device over a file for as long as it lives.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn can_be_had() -> bool {
        tempfile::NamedTempFile::new().is_ok_and(|file| Self::over(file.path()).is_some())
    }

    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Whose tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tools {
    /// libubootenv's, which Debian has.
    Libubootenv,
    /// U-Boot's own.
    UBoot,
}

impl Tools {
    /// Both projects'.
    pub const BOTH: [Self; 2] = [Self::Libubootenv, Self::UBoot];
}

/// A folder with an environment in it.
pub struct Bench {
    _folder: tempfile::TempDir,
    devices: BTreeMap<&'static str, LoopDevice>,
    /// The folder.
    pub dir: PathBuf,
    config: PathBuf,
}

impl Bench {
    /// Empty files, and an `fw_env.config` that names them.
    pub fn new(geometry: &Geometry) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().to_owned();
        let config = dir.join("fw_env.config");
        let mut text = "# Where the environment lies\n\n".to_owned();
        let mut devices = BTreeMap::new();
        for (number, (name, offset)) in geometry.copies.iter().enumerate() {
            let file = dir.join(name);
            fs::File::create(&file).and_then(|f| f.set_len(geometry.file)).expect("a file");
            let mut place = file.clone();
            if geometry.devices {
                let device = || LoopDevice::over(&file).expect("a loop device");
                place.clone_from(&devices.entry(*name).or_insert_with(device).0);
            }
            // As people write numbers.
            let offset = if number == 0 && *offset >= 0 { format!("0x{offset:x}") } else { offset.to_string() };
            text += &format!("{}\t{offset} 0x{:x}{}\n", place.display(), geometry.size, geometry.sectors);
        }
        fs::write(&config, text).expect("a file");
        Self { _folder: folder, devices, dir, config }
    }

    /// The content of `fw_env.config`.
    pub fn places(&self) -> Vec<Place> {
        config::parse(&fs::read(&self.config).expect("the file")).expect("both tools read it")
    }

    /// The environment as this crate reads and writes it.
    pub fn store(&self) -> Store {
        Store::new(self.places()).with_system(&[self.dir.join("lock")], &self.dir.join("sys"))
    }

    fn open(place: &Place) -> (fs::File, u64) {
        use std::io::{Seek, SeekFrom};
        let mut file = fs::OpenOptions::new().read(true).write(true).open(&place.device).expect("the file");
        let from = if place.offset < 0 { SeekFrom::End(place.offset) } else { SeekFrom::Start(place.offset as u64) };
        let at = file.seek(from).expect("a place in the file");
        (file, at)
    }

    /// Writes these bytes there.
    pub fn put(&self, place: &Place, bytes: &[u8]) {
        let (file, at) = Self::open(place);
        file.write_all_at(bytes, at).expect("written");
    }

    /// The bytes of a copy.
    pub fn copy(&self, place: &Place) -> Vec<u8> {
        let (file, at) = Self::open(place);
        let mut bytes = vec![0; place.size];
        file.read_exact_at(&mut bytes, at).expect("read");
        bytes
    }

    /// The first copy holds these variables.
    pub fn seed(&self, variables: &Variables, format: Format) {
        let places = self.places();
        let bytes = environment(variables).encode(places[0].size, format, 1).expect("they fit");
        self.put(&places[0], &bytes);
    }

    /// Runs `fw_printenv` or `fw_setenv`, which must be there.
    pub fn tool(&self, tools: Tools, name: &str, args: &[&str]) -> Output {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/u-boot").join(name);
        let mut command = match tools {
            Tools::Libubootenv => Command::new(name),
            Tools::UBoot => Command::new(&own),
        };
        if tools == Tools::UBoot {
            command.arg("-l").arg(&self.dir);
        }
        match command.arg("-c").arg(&self.config).args(args).output() {
            Ok(output) => output,
            Err(error) => panic!("cannot run {name} of {tools:?} ({error}): build/scripts/setup.sh test gets it"),
        }
    }

    /// The output of `fw_printenv`, if it can read anything.
    pub fn printed(&self, tools: Tools) -> Result<Variables, String> {
        let output = self.tool(tools, "fw_printenv", &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // U-Boot's goes on with variables of its own.
        if !output.status.success() || said.contains("Bad CRC") {
            return Err(said);
        }
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        // An empty value deletes a variable for U-Boot, which is who reads it; libubootenv lists it.
        let pairs = pairs.filter(|(_, value)| !value.is_empty());
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The values that this crate and the tools of both projects read.
    pub fn views(&self) -> [Result<Variables, String>; 3] {
        let ours = self.store().load().map(|loaded| ours(&loaded)).map_err(|e| e.to_string());
        let [libubootenv, u_boot] = Tools::BOTH.map(|tools| self.printed(tools));
        [ours, libubootenv, u_boot]
    }

    /// All files, but for what is locked.
    pub fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(&self.dir).expect("the folder").map(|entry| entry.expect("an entry").path());
        files
            .filter(|path| path.is_file() && !path.to_string_lossy().ends_with("lock"))
            .map(|p| (p.clone(), fs::read(p).expect("a file")))
            .collect()
    }
}

/// These variables and no others.
pub fn environment(variables: &Variables) -> Environment {
    let pairs: Vec<(&str, String)> = variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    Environment::default().with(&pairs)
}

/// The values that this crate has read.
pub fn ours(loaded: &Loaded) -> Variables {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    loaded.environment.variables().into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// A value that every tool reads alike: a backslash is an escape for U-Boot, and none for any of the tools.
pub fn value() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.#= ;$é]{0,20}[a-z0-9]"
}

/// A few variables.
pub fn variables() -> impl Strategy<Value = Variables> {
    proptest::collection::btree_map("[a-z][a-z0-9_]{0,12}", value(), 1..8)
}
