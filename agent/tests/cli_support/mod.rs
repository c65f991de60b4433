//! A device on folders, and the real program run on it.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod before;
pub mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bootenv::SlotId;
use bootenv::boot::{Decision, Files, PowerOn, decide, decide_with};
use bootenv::grub::{Block, SIGNATURE, SIZE};
use bootenv::loader::{self, FileId, Kind, Stage};
use bootenv::protocol::{BootState, View};
use kubesolo_release::key::{PrivateKey, PublicFormat};
use kubesolo_release::registry::Access;
use kubesolo_release::{self as publisher, Images, Metadata, Options};
use kubesolo_update::base::digest::Digest;
use kubesolo_update::release::release::Architecture;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{images, registry::Registry};

/// `nobody`: the owner of the device's folders when the tests themselves run as root.
const NOBODY: u32 = 65534;
/// Version of what the active slot holds at first; it has no manifest, as after an installation.
pub const FACTORY: &[u8] = b"factory image";

/// Two slots, a boot environment as `grub-editenv` makes it, a key, health checks: all below one folder, which is the
/// working directory of every command.
pub struct Device {
    pub dir: TempDir,
    pub program: PathBuf,
    user: Option<u32>,
    /// `--bootenv`.
    pub bootenv: &'static str,
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Content, owner and times of every file below a folder.
pub type Tree = BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)>;

impl Device {
    pub fn new() -> Self {
        let device = Self { dir: TempDir::new().unwrap(), program: program(), user: None, bootenv: "grub:grubenv" };
        for folder in ["A", "B", "S", "data", "health.d"] {
            fs::create_dir(device.path(folder)).unwrap();
        }
        for file in ["vmlinuz", "kubesolo-os.gz"] {
            device.write(&format!("A/{file}"), FACTORY);
            device.write(&format!("A/{file}.sha256"), format!("{}  {file}\n", Digest::of(FACTORY).hex()).as_bytes());
        }
        device.set_env("active_slot=A\nboot_success=1\nboot_counter=3\nother=kept\n");
        device.save_key(&key(1), "K");
        device
    }

    /// The same, used by somebody who is not root. Nothing but its own folder can be written then.
    pub fn of_ordinary_user() -> Self {
        let mut device = Self::new();
        if nix::unistd::geteuid().is_root() {
            // Where the program was built, others may not be allowed to look.
            let program = device.path("kubesolo-update");
            device.shell("cp \"$0\" kubesolo-update", &device.program);
            device.program = program;
            device.user = Some(NOBODY);
            device.hand_over(device.dir.path());
        }
        device
    }

    /// Makes a folder the ordinary user's.
    pub fn hand_over(&self, path: &Path) {
        chown(path, self.user, self.user).unwrap();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| self.hand_over(&entry.unwrap().path()));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The environment block with these lines, padded.
    pub fn set_env(&self, lines: &str) {
        let mut block = [SIGNATURE, lines.as_bytes()].concat();
        block.resize(SIZE, b'#');
        self.write("grubenv", &block);
    }

    pub fn save_key(&self, key: &PrivateKey, name: &str) {
        self.write(name, key.public_text(PublicFormat::Pem).unwrap().as_bytes());
    }

    /// The program with these arguments, as they are.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("TMPDIR", "/nowhere");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// The arguments of a command of this device that needs no source, `--cmdline` once it was booted.
    pub fn local<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        let conf = if self.path("conf").exists() { "conf" } else { "/dev/null" };
        let mut all = vec!["--conf", conf, "--state", "S/state.json"];
        all.extend(arguments);
        all.extend(["--slot-a", "A", "--slot-b", "B", "--bootenv", self.bootenv]);
        if self.path("cmdline").exists() {
            all.extend(["--cmdline", "cmdline"]);
        }
        all
    }

    /// `activate`, `status` and the like.
    pub fn here(&self, arguments: &[&str]) -> Ran {
        let mut all = self.local(arguments);
        match arguments[0] {
            "healthcheck" => all.extend(["--data-dir", "data", "--health-dir", "health.d"]),
            "activate" | "verify" => all.extend(["--pubkey", "K"]),
            _ => {}
        }
        self.run(&all)
    }

    /// `check` and `apply` from `os:stable` of a server on loopback, with the key `K`.
    pub fn from(&self, server: &impl AsRef<str>, arguments: &[&str]) -> Ran {
        self.run(&[&self.asking(server, arguments)[..], &["--pubkey", "K"]].concat())
    }

    /// The same from the folder `os` of an HTTP server.
    pub fn over_http(&self, server: &impl AsRef<str>, arguments: &[&str]) -> Ran {
        let url = format!("http://{}/os", server.as_ref());
        self.run(&[&self.local(arguments)[..], &["--server", &url, "--pubkey", "K"]].concat())
    }

    /// The arguments for it, but for the key.
    pub fn asking<'a>(&self, server: &'a impl AsRef<str>, arguments: &[&'a str]) -> Vec<&'a str> {
        let reference = String::leak(format!("{}/os", server.as_ref()));
        let source = ["--registry", reference, "--tag", "stable", "--plain-http", server.as_ref()];
        [&self.local(arguments)[..], &source].concat()
    }

    /// Acts as the bootloader at power-on: it decides, stores, and passes the result to the kernel.
    pub fn power_on(&self) -> Decision {
        let block = Block::parse(&self.env_bytes()).unwrap();
        let second = fs::read(self.path("ksenv2")).ok().and_then(|bytes| Block::parse(&bytes).ok()?.as_second());
        let files = [self.files("A"), self.files("B")];
        let on = PowerOn { main: block.view(), second, files, can_save: true };
        let tried = decide(&on).stored;
        if !tried.is_empty() {
            self.write("grubenv", &block.saved(&tried).bytes);
        }
        let decision = decide_with(&on, |stored| block.saved(stored).holds);
        let start = decision.start.expect("something to boot");
        let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
        let proto = match self.loader() {
            Some(0) => " ks.proto=1".to_owned(),
            Some(number) => format!(" ks.proto=1 ks.loader={number}"),
            None => String::new(),
        };
        let line = format!("quiet panic=5 kubesolo.slot={} ks.trial={}{fallback}{proto}\n", start.slot, start.trial);
        self.write("cmdline", line.as_bytes());
        decision
    }

    /// Number of the loader file that GRUB runs, `None` for one without the slot protocol. A try of one is over then.
    fn loader(&self) -> Option<u32> {
        let read = |name: &str| fs::read(self.path(name)).unwrap_or_default();
        if loader::kind(&read("grub.cfg")) != Kind::Staged {
            return Some(0);
        }
        let holds = |file: FileId| {
            let hash = format!("{}  {}\n", Digest::of(&read(file.script())).hex(), file.script());
            read(file.sum()) == hash.as_bytes()
        };
        let block = Block::parse(&read(loader::STAGE)).ok();
        let stage = block.as_ref().and_then(Stage::read);
        if let Some((block, stage)) = block.as_ref().zip(stage) {
            let settled = block.with(&Stage::settled(stage.good).variables()).unwrap();
            self.write(loader::STAGE, settled.bytes());
        }
        loader::number(&read(Stage::next(stage, holds).script()))
    }

    fn files(&self, slot: &str) -> Files {
        let there = |file: &str| fs::read(self.path(&format!("{slot}/{file}"))).ok();
        let one = |file: &str| {
            let content = there(file).filter(|content| !content.is_empty())?;
            Some(there(&format!("{file}.sha256"))? == format!("{}  {file}\n", Digest::of(&content).hex()).as_bytes())
        };
        match (one("vmlinuz"), one("kubesolo-os.gz")) {
            (Some(true), Some(true)) => Files::Hold,
            (Some(_), Some(_)) => Files::Load,
            _ => Files::Broken,
        }
    }

    pub fn env_bytes(&self) -> Vec<u8> {
        fs::read(self.path("grubenv")).unwrap()
    }

    /// The environment, which must be ours by now.
    pub fn env(&self) -> BootState {
        match Block::parse(&self.env_bytes()).unwrap().view() {
            View::Ours(state) => state,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("S/state.json")).unwrap()).unwrap()
    }

    pub fn phase(&self) -> String {
        self.state()["phase"].as_str().unwrap().to_owned()
    }

    pub fn version_in(&self, slot: SlotId) -> Option<String> {
        let manifest: Value =
            serde_json::from_slice(&fs::read(self.path(&format!("{slot}/manifest.json"))).ok()?).unwrap();
        Some(manifest["version"].as_str().unwrap().to_owned())
    }

    /// Everything below a folder of the device; `""` is all of it.
    pub fn tree(&self, name: &str) -> Tree {
        let mut tree = Tree::new();
        collect(&self.path(name), &mut tree);
        tree
    }

    /// Names in a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.path(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Waits until the lock is free that this process has dropped: between its fork and its exec, a program that another test
    /// starts holds it, too.
    pub fn wait_for_lock(&self) {
        if self.path("S/lock").exists() {
            let waited = Command::new("flock").args(["--wait", "10"]).arg(self.path("S/lock")).arg("true").status();
            assert!(waited.unwrap().success());
        }
    }

    /// A health check that fails from now on.
    pub fn make_unhealthy(&self) {
        let script = "printf '#!/bin/sh\\necho the node is not ready\\nexit 1\\n' >\"$0\" && chmod 755 \"$0\"";
        self.shell(script, Path::new("health.d/10-node"));
    }

    /// The activated release is booted, and a health run reverts it.
    pub fn fails_its_trial(&self) {
        self.power_on();
        self.make_unhealthy();
        let judged = self.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
        judged.says(&["the node is not ready", "reverted"]);
        self.make_healthy();
    }

    /// The same, and the previous release is back.
    pub fn fails_its_trial_and_is_back(&self) {
        self.fails_its_trial();
        self.power_on();
        self.here(&["healthcheck"]).code(0);
    }

    /// A shell script that can be run.
    pub fn script(&self, name: &str, script: &str) {
        let path = self.path(name);
        self.write("script", format!("#!/bin/sh\n{script}\n").as_bytes());
        self.shell("cat script >\"$0\" && chmod 755 \"$0\" && rm script", &path);
    }

    /// Replaces `memory.json`, as a file that the agent trusts.
    pub fn remember(&self, memory: &Value) {
        self.write("memory", memory.to_string().as_bytes());
        self.shell("install -m 600 memory \"$0\" && rm memory", &self.path("S/memory.json"));
    }

    /// The slots were read for the last time years ago.
    pub fn forget_scrub(&self) {
        self.remember(&json!({"schema": 1, "scrub": {"at": "2001-02-03T04:05:06Z"}}));
    }

    /// Makes an executable from outside: a program that this process has open for writing, and with it for a moment every
    /// child of another test, cannot be started.
    pub fn shell(&self, script: &str, argument: &Path) {
        let made = Command::new("sh").args(["-c", script]).arg(argument).current_dir(self.dir.path()).status();
        assert!(made.unwrap().success());
    }

    pub fn make_healthy(&self) {
        fs::remove_file(self.path("health.d/10-node")).unwrap();
    }
}

fn collect(path: &Path, tree: &mut Tree) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_file() { fs::read(path).unwrap() } else { vec![] };
    tree.insert(path.to_owned(), (content, meta.mode(), meta.mtime(), meta.mtime_nsec()));
    if meta.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), tree));
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// It ended with this code, and nothing panicked.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "no \"{word}\" in {self:#?}");
        }
        self
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// It failed with this exit code and reason, in `--json` and in the message for people.
    #[track_caller]
    pub fn refused(self, code: i32, reason: &str) -> Value {
        let ran = self.code(code);
        let error = ran.json()["error"].clone();
        assert_eq!(
            (error["exit_code"].as_i64(), error["reason"].as_str()),
            (Some(code.into()), Some(reason)),
            "{ran:#?}"
        );
        for part in ["message", "remedy"] {
            let text = error[part].as_str().unwrap();
            let told = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
            let same = told.contains(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            assert!(!text.is_empty() && same, "{part} in {ran:#?}");
        }
        error
    }
}

/// The agent: where cargo says it is, or, in the tests of another crate, two folders up from those.
fn program() -> PathBuf {
    if let Some(program) = option_env!("CARGO_BIN_EXE_kubesolo-update") {
        return program.into();
    }
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("kubesolo-update");
    assert!(program.exists(), "{} is missing: run cargo build -p kubesolo-update first", program.display());
    program
}

/// Runs the program with a tiny filesystem as slot B, in a mount namespace of its own; `None` where that is not allowed.
pub fn on_tiny_slot(device: &Device, options: &str, arguments: &[&str], meanwhile: &str) -> Option<Ran> {
    let script =
        "mount -t tmpfs -o $0 tiny B || exit 99; eval \"$1\"; shift; \"$@\"; code=$?; ls B >listing; exit $code";
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-rm"] });
        unshare.current_dir(device.dir.path());
        unshare
    };
    if !unshare().args(["mount", "-t", "tmpfs", "none", "B"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: no filesystem can be mounted here");
        return None;
    }
    let program = program();
    let all = [&["sh", "-c", script, options, meanwhile, program.to_str().unwrap()], arguments].concat();
    Some(unshare().args(all).output().unwrap().into())
}

/// A key made from one byte, so that runs are alike.
pub fn key(seed: u8) -> PrivateKey {
    let scratch = TempDir::new().unwrap();
    let file = scratch.path().join("key");
    key_file(seed, &file);
    PrivateKey::load(&file).unwrap()
}

/// The same as the file of a private key.
pub fn key_file(seed: u8, file: &Path) {
    // The DER of RFC 8410 around the seed.
    let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
    der.extend([seed; 32]);
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
    );
    fs::write(file, pem).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Publishes and signs a release for this device as `os:stable`, as `kubesolo-release` does. Another `salt` gives other images.
pub fn publish(registry: &Registry, version: &str, salt: u8) -> Digest {
    publish_as(registry, salt, Metadata::new(version.parse().unwrap(), "stable"), "os:stable")
}

/// The same with everything that a release can say about itself.
pub fn publish_as(registry: &Registry, salt: u8, metadata: Metadata, place: &str) -> Digest {
    let folder = TempDir::new().unwrap();
    let images: Images = images::files(folder.path(), Architecture::current(), salt);
    let access = Access { plain_http: vec![registry.address.clone()], ..Access::default() };
    // Devices must refuse on their own.
    let options = Options { access, replace: true, ..Options::default() };
    let reference = format!("{}/{place}", registry.address);
    publisher::release(&reference, &metadata, &[images], &[key(1)], &options).unwrap().manifests[0].1
}
