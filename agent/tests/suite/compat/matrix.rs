//! Old and new meet: the agent of the running release, the agent of the next one, the bootloader's decision and the publisher
//! are each of 0.1 or of today, from either slot, and the state files pass from one to the other. Every pair updates, fails and
//! comes back.
//!
//! Devices are folders. Where the loader is of 0.1, its program `boot` decides and stores. The loader file itself needs a
//! virtual device: `make qemu-loader-0.1`.

use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::SlotId;
use bootenv::protocol::SlotState;
use kubesolo_update::release::release::Architecture;
use tempfile::TempDir;

use super::{By, both_mean_the_same};
use crate::cli_support::{self, Device, key_file, publish};
use crate::common::images;
use crate::common::registry::Registry;

/// The versions on a device.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The agent in the release that runs.
    running: By,
    /// The agent in the next release.
    next: By,
    loader: By,
    publisher: By,
    /// The slot that the device runs in when the next release comes.
    slot: SlotId,
}

struct Meeting<'a> {
    cell: Cell,
    registry: &'a Registry,
    /// Of 0.1, and of today.
    agents: [PathBuf; 2],
    device: Device,
    /// Releases in this registry until now: the tag only moves forward.
    releases: &'a mut u32,
}

fn of_0_1(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/0.1").join(program);
    assert!(path.exists(), "0.1 is not built: call build/scripts/agent-0.1.sh");
    path.canonicalize().unwrap()
}

impl<'a> Meeting<'a> {
    fn new(cell: Cell, registry: &'a Registry, releases: &'a mut u32) -> Self {
        let device = Device::new();
        let agents = [of_0_1("kubesolo-update"), device.program.clone()];
        Self { cell, registry, agents, device, releases }
    }

    /// Runs a command by this agent, from the registry or without it.
    fn by(&mut self, agent: By, arguments: &[&str], code: i32) -> cli_support::Ran {
        self.device.program.clone_from(&self.agents[agent as usize]);
        let ran = match arguments[0] {
            "apply" => self.device.from(self.registry, arguments),
            _ => self.device.here(arguments),
        };
        assert_eq!(ran.code, Some(code), "{:?}, {agent:?}: {ran:#?}", self.cell);
        ran
    }

    /// Publishes the next release as `os:stable`, and returns its version.
    fn publish(&mut self) -> String {
        *self.releases += 1;
        // No two releases of a device have the same images.
        let salt = (*self.releases % 251) as u8;
        let version = format!("{}.0.0", self.releases);
        if self.cell.publisher == By::New {
            publish(self.registry, &version, salt);
            return version;
        }
        let folder = TempDir::new().unwrap();
        let files = images::files(folder.path(), Architecture::current(), salt);
        key_file(1, &folder.path().join("key"));
        let mut program = Command::new(of_0_1("kubesolo-release"));
        program.args(["--quiet", "publish", &format!("{}/os:stable", self.registry.address), "--channel", "stable"]);
        program.args(["--version", &version, &format!("--{}", Architecture::current())]);
        program.arg(&files.kernel).arg(&files.initramfs).arg("--key").arg(folder.path().join("key"));
        let ran = program.args(["--plain-http", &self.registry.address]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        version
    }

    /// The bootloader at power-on.
    fn boot(&self) -> SlotId {
        if self.cell.loader == By::New {
            return self.device.power_on().start.unwrap().slot;
        }
        let mut boot = Command::new(of_0_1("boot"));
        boot.args(["--store", "grubenv"]);
        if self.device.path("ksenv2").exists() {
            boot.arg("ksenv2");
        }
        let ran = boot.args(["A", "B"]).current_dir(self.device.dir.path()).output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("boots: ")).unwrap();
        self.device.write("cmdline", format!("quiet panic=5 {line}\n").as_bytes());
        let (_, slot) = line.split_once("kubesolo.slot=").unwrap();
        slot[..1].parse().unwrap()
    }

    fn agrees(&mut self, step: &str) {
        both_mean_the_same(&mut self.device, &self.agents, &format!("{step}, {:?}", self.cell));
    }

    /// The next release is activated by one agent, and committed by its own; returns its slot.
    fn update(&mut self, by: By, own: By) -> SlotId {
        let version = self.publish();
        self.by(by, &["apply", "--activate"], 0);
        self.agrees("activated");
        let slot = self.boot();
        self.by(own, &["healthcheck"], 0);
        assert_eq!((self.device.env().good, self.device.version_in(slot)), (slot, Some(version)), "{:?}", self.cell);
        self.agrees("committed");
        assert_eq!(self.boot(), slot, "{:?}", self.cell);
        self.by(own, &["healthcheck"], 0);
        slot
    }

    /// A release of the other agent fails, and the running one remembers it.
    fn fail(&mut self, by: By, dies: bool) {
        let home = self.device.env().good;
        self.publish();
        self.by(by, &["apply", "--activate"], 0);
        assert_eq!(self.boot(), home.other(), "{:?}", self.cell);
        if dies {
            assert_eq!([self.boot(), self.boot()], [home.other(); 2], "{:?}", self.cell);
        } else {
            self.device.make_unhealthy();
            let other = if by == self.cell.running { self.cell.next } else { self.cell.running };
            self.by(other, &["healthcheck", "--auto-rollback-after", "1"], 1);
            self.device.make_healthy();
            self.agrees("reverted");
        }
        assert_eq!(self.boot(), home, "{:?}", self.cell);
        self.by(by, &["healthcheck"], 0);
        assert_eq!(self.device.env().slot(home.other()), SlotState::Fail, "{:?}", self.cell);
        self.agrees("came back");
        for agent in [By::Old, By::New] {
            let ran = self.by(agent, &["apply", "--json"], 75).json();
            assert_eq!(ran["error"]["reason"], "failed-before", "{:?}, {agent:?}", self.cell);
        }
    }
}

fn meet(mut meeting: Meeting<'_>) {
    let cell = meeting.cell;
    let (running, next) = (cell.running, cell.next);
    // Until the device runs in that slot, with state files of its agent.
    while meeting.update(running, running) != cell.slot {}
    meeting.fail(running, true);
    meeting.fail(running, false);
    let slot = meeting.update(running, next);
    assert_eq!(slot, cell.slot.other());
    // Back by a person's word, and forth by the next release.
    meeting.by(next, &["rollback"], 0);
    assert_eq!(meeting.boot(), cell.slot, "{cell:?}");
    meeting.by(running, &["healthcheck"], 0);
    assert_eq!(meeting.device.env().good, cell.slot, "{cell:?}");
    meeting.agrees("rolled back");
    meeting.update(running, next);
    meeting.fail(next, false);
}

#[test]
#[ignore = "takes the binary of 0.1: `make test-all` builds it and runs this"]
fn every_pair_of_old_and_new_updates_fails_and_comes_back() {
    let (registry, mut releases) = (Registry::start(), 0);
    let both = [By::Old, By::New];
    for cell in 0..32 {
        let by = |bit: usize| both[cell >> bit & 1];
        let slot = SlotId::BOTH[cell >> 4 & 1];
        let cell = Cell { running: by(0), next: by(1), loader: by(2), publisher: by(3), slot };
        meet(Meeting::new(cell, &registry, &mut releases));
    }
}
