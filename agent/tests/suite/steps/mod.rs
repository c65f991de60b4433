//! The model of the slot protocol and the agent are tied: at each command the agent makes the steps that the model explores, in
//! the same order, and between two of them the system calls that make the step last. The agent logs each step when it is done.
//!
//! A step that changes its place, in the agent or in `bootenv/tests/model/agent.rs`, fails here; so does a system call.

use crate::{cli_support, cli_uboot, common};

#[allow(dead_code, reason = "mistakes are for the model's own test")]
#[path = "../../../../bootenv/tests/model/agent.rs"]
mod agent;
#[allow(dead_code, reason = "mistakes are for the model's own test")]
#[path = "../../../../bootenv/tests/model/mutations.rs"]
mod mutations;
#[allow(dead_code, reason = "the rules are for the model's own test")]
#[path = "../../../../bootenv/tests/model/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;

use agent::{Command, plan};
use bootenv::boot::{PowerOn, decide};
use bootenv::protocol::{BootState, Booted, View};
use bootenv::step::{self, Noted, Notes, Step};
use bootenv::{Fallback, SlotId, TrialId};
use cli_support::trace::{Call, calls, can_trace, traced};
use cli_support::{Device, publish};
use common::registry::Registry;
use world::{Content, Kind, Power, Release, World};

/// A real device and its model, side by side.
struct Pair {
    device: Device,
    registry: Registry,
    world: World,
}

impl Pair {
    /// Slot A runs 0.9.0, committed, and slot B was never filled; `None` where nothing can be traced.
    fn new(kind: Kind) -> Option<Self> {
        if !can_trace() {
            return None;
        }
        let device = if kind == Kind::Grub { Device::new() } else { cli_uboot::device() };
        let mut pair = Self { device, registry: Registry::start(), world: World::new(kind, 0) };
        pair.offer("0.9.0", 9);
        pair.device.from(&pair.registry, &["apply"]).code(0);
        for name in pair.device.names("B") {
            fs::rename(pair.device.path("B").join(&name), pair.device.path("A").join(&name)).unwrap();
        }
        fs::remove_dir_all(pair.device.path("S")).unwrap();
        pair.boot();
        // The environment is ours from then on, also where it was made by another program.
        pair.device.here(&["healthcheck"]).code(0);
        pair.boot();
        Some(pair)
    }

    /// The bootloader of both decides by itself.
    fn boot(&mut self) {
        let decision = match self.world.kind {
            Kind::Grub => self.device.power_on(),
            Kind::UBoot => cli_uboot::power_on(&self.device),
        };
        let world = &mut self.world;
        let files = world.slots.map(Content::files);
        let of_model = decide(&PowerOn { main: world.main.view(), second: world.second, files, can_save: true });
        let start = of_model.start.unwrap();
        assert_eq!(decision.start.map(|start| start.slot), Some(start.slot));
        if !of_model.stored.is_empty() {
            world.put_main(&of_model.stored);
        }
        let booted = Booted { slot: start.slot, trial: start.trial, fallback: start.fallback };
        world.power = Power::On { booted, release: world.slot(start.slot).runs().unwrap() };
    }

    /// A boot of the last good slot whose bootloader could not save that it counted a try.
    fn boot_without_saving(&mut self, slot: SlotId) {
        let line = format!("panic=5 kubesolo.slot={slot} ks.trial=00000000 ks.fallback=save ks.proto=1\n");
        self.device.write("cmdline", line.as_bytes());
        let booted = Booted { fallback: Some(Fallback::Save), ..Booted::ordinary(slot) };
        self.world.power = Power::On { booted, release: self.world.slot(slot).runs().unwrap() };
    }

    fn offer(&self, version: &str, salt: u8) {
        publish(&self.registry, version, salt);
    }

    /// Runs a command on both and compares every step.
    fn run(&mut self, command: Command, healthy: bool) {
        let arguments = match command {
            Command::Apply(_) => {
                [&self.device.asking(&self.registry, &["apply", "-vv"])[..], &["--pubkey", "K"]].concat()
            }
            Command::Activate => [&self.device.local(&["activate", "-vv"])[..], &["--pubkey", "K"]].concat(),
            Command::Rollback => self.device.local(&["rollback", "-vv"]),
            Command::Withdraw => self.device.local(&["data", "-vv"]),
            Command::Repair { .. } => {
                [&self.device.asking(&self.registry, &["run", "-vv"])[..], &["--pubkey", "K"]].concat()
            }
            Command::Healthcheck => {
                let words = ["healthcheck", "-vv", "--auto-rollback-after", "1"];
                [&self.device.local(&words)[..], &["--data-dir", "data", "--health-dir", "health.d"]].concat()
            }
        };
        let known = Known::of(&self.device);
        let names = |slot: &str| -> Vec<String> {
            self.device.names(slot).into_iter().map(|name| format!("{slot}/{name}")).collect()
        };
        let files: Vec<String> = [names("A"), names("B")].concat();
        let output = traced(&self.device, &arguments, &[]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{command:?}: {output:?}");
        let done = logged(&self.device);
        done.iter().for_each(|done| done.is_made_of_its_calls(self.world.kind, &files));
        let of_agent: Vec<String> = known.changes(done.into_iter().map(|done| done.step).collect());

        let mut of_model = vec![];
        for step in plan(&self.world, command, healthy, None) {
            self.world.perform(step);
            of_model.extend(shared(step, &self.world).map(|step| step.to_string()));
        }
        assert_eq!(alike(&of_agent), alike(&of_model), "{command:?}: the agent, and the model");
        let View::Ours(of_model) = self.world.main.view() else { panic!("{command:?}: {:?}", self.world.main) };
        assert_eq!(without_trial(self.state()), without_trial(of_model), "{command:?}");
    }

    /// A health run that finds the settings unusable.
    fn cannot_look(&mut self) {
        self.device.write("conf", b"nonsense\n");
        self.device.here(&["healthcheck"]).code(78);
        fs::remove_file(self.device.path("conf")).unwrap();
        self.world.unjudged = self.world.booted().map(|(booted, _)| booted.trial);
    }

    /// A flash cell lost a bit, long ago. `own`: the slot still names its release.
    fn rot(&mut self, slot: SlotId, own: bool) {
        self.device.write(&format!("{slot}/vmlinuz"), b"rotten");
        self.world.slots[slot as usize] = self.world.slot(slot).rotten();
        if !own {
            fs::remove_file(self.device.path(&format!("{slot}/manifest.json"))).unwrap();
            self.world.slots[slot as usize] = Content::Junk;
        }
        self.device.forget_scrub();
    }

    fn state(&self) -> BootState {
        if self.world.kind == Kind::Grub { self.device.env() } else { cli_uboot::state(&self.device) }
    }
}

/// The ids of the model are not those that the agent draws.
fn without_trial(state: BootState) -> BootState {
    BootState { trial: TrialId::NONE, ..state }
}

/// A step of the model as the agent logs it. A reboot is none of a device in folders.
fn shared(step: world::Step, world: &World) -> Option<Step> {
    Some(match step {
        world::Step::Second(second) => Step::Second(second),
        world::Step::Main(state) => Step::Main(state),
        world::Step::Notes(notes) => {
            let trial = notes.trial.map(|note| Noted { id: note.id, slot: note.slot, started: note.started });
            Step::Notes(Notes { trial, not_started: notes.not_started.count_ones() as usize })
        }
        world::Step::Unjudged(trial) => Step::Unjudged(trial.unwrap_or(TrialId::NONE)),
        world::Step::Memory(not_judged) => Step::Memory(usize::from(not_judged.is_some())),
        world::Step::Refilling(_) => Step::Memory(usize::from(world.not_judged.is_some())),
        world::Step::Remember(_) => Step::Trust(world.failed.count_ones() as usize),
        world::Step::Unhash(slot) => Step::Unhash(slot),
        world::Step::Erase(slot) => Step::Erase(slot),
        world::Step::Begin(slot) => Step::Begin(slot),
        world::Step::Images(slot, _) => Step::Images(slot),
        world::Step::Hashes(slot) => Step::Hashes(slot),
        world::Step::Manifest(slot) => Step::Manifest(slot),
        world::Step::ReadBack(slot) => Step::ReadBack(slot),
        world::Step::Reboot => return None,
        world::Step::HalfMain(state) => panic!("only a broken agent stores half of {state:?}"),
    })
}

/// The content of both files before a command: the agent replaces them more often than the model, which knows only the
/// deciding parts.
struct Known(Vec<String>);

impl Known {
    fn of(device: &Device) -> Self {
        let state = if device.path("S/state.json").exists() { device.state() } else { serde_json::json!({}) };
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let trial = state["trial"].as_object().map(|trial| Noted {
            id: text(&trial["id"]).parse().unwrap(),
            slot: text(&trial["slot"]).parse().unwrap(),
            started: trial["started"].as_bool().unwrap(),
        });
        let not_started = state["not_started"].as_array().map_or(0, Vec::len);
        let trust = fs::read(device.path("S/trust.json")).unwrap_or_else(|_| b"{}".to_vec());
        let trust: serde_json::Value = serde_json::from_slice(&trust).unwrap();
        let failed = trust["failed"].as_array().map_or(0, Vec::len);
        Self([Step::Notes(Notes { trial, not_started }), Step::Trust(failed)].map(|step| step.to_string()).into())
    }

    /// The steps that changed something. Nothing depends on the history, the records and the receipts.
    fn changes(mut self, steps: Vec<String>) -> Vec<String> {
        let mut changes = vec![];
        for step in steps.into_iter().filter(|step| !matches!(word(step), "history" | "record" | "key" | "receipt")) {
            match self.0.iter_mut().find(|known| word(known) == word(&step)) {
                Some(known) if *known == step => continue,
                Some(known) => known.clone_from(&step),
                None => {}
            }
            changes.push(step);
        }
        changes
    }
}

/// Which step it is.
fn word(step: &str) -> &str {
    step.split(' ').next().unwrap()
}

/// Trials by the order in which they come up.
fn alike(steps: &[String]) -> Vec<String> {
    let mut names = BTreeMap::new();
    let mut rename = |word: &str| match word.split_once('=') {
        Some((name @ ("trial" | "ks_trial"), id)) if id != "00000000" => {
            let next = names.len() + 1;
            format!("{name}={}", names.entry(id.to_owned()).or_insert(next))
        }
        _ => word.to_owned(),
    };
    steps.iter().map(|step| step.split(' ').map(&mut rename).collect::<Vec<_>>().join(" ")).collect()
}

/// A step that the agent logged, and what it did since the one before.
struct Done {
    step: String,
    calls: Vec<String>,
}

/// The steps that the agent logged, with its calls that change the device's files, or read a whole image.
fn logged(device: &Device) -> Vec<Done> {
    let mark = format!("DEBUG [{}] ", step::TARGET);
    let here = format!("{}/", device.dir.path().display());
    let (mut done, mut since) = (vec![], vec![]);
    for call in calls(device) {
        if let Some((_, text)) = call.rest.split_once(&mark).filter(|_| call.name == "write") {
            let step = text.split("\\n").next().unwrap().to_owned();
            done.push(Done { step, calls: std::mem::take(&mut since) });
        } else if let Some(act) = act(&call, &here).filter(|act| since.last() != Some(act)) {
            since.push(act);
        }
    }
    assert_eq!(since, Vec::<String>::new(), "changes behind the last step that is logged");
    done
}

/// A call in short. The lock, the probe of the data folder, and evidence are no step: nothing depends on them.
fn act(call: &Call, here: &str) -> Option<String> {
    let local = |path: &String| {
        let name = path.strip_prefix(here)?;
        let below = name.strip_prefix("S/records/").or_else(|| name.strip_prefix("S/receipts/"));
        let attempt = below.and_then(|name| name.split('.').next());
        Some(attempt.filter(|id| !id.is_empty()).map_or(name.to_owned(), |id| name.replace(id, "ID")))
    };
    let descriptor = local(&call.descriptor);
    let act = match call.name.as_str() {
        "openat" if call.rest.contains("O_CREAT") => format!("create {}", local(call.paths.first()?)?),
        "openat" if !call.rest.contains("O_WRONLY") && !call.rest.contains("O_RDWR") => {
            let name = local(call.paths.first()?)?;
            let image = name.ends_with("/vmlinuz") || name.ends_with("/kubesolo-os.gz");
            image.then(|| format!("read {name}"))?
        }
        "write" | "pwrite64" => format!("write {}", descriptor?),
        "fsync" | "fdatasync" => format!("sync {}", descriptor?),
        "rename" | "renameat" | "renameat2" => format!("rename {}", local(call.paths.last()?)?),
        "unlink" | "unlinkat" => format!("remove {}", local(call.paths.first()?)?),
        // The folders of records and receipts, made once.
        "mkdir"
            if ["/S/records", "/S/receipts"].iter().any(|end| call.paths.first().is_some_and(|p| p.ends_with(end))) =>
        {
            return None;
        }
        "mkdir" | "ftruncate" => format!("{} {}", call.name, call.rest),
        _ => return None,
    };
    let (_, name) = act.split_once(' ').unwrap();
    let of_evidence = name.trim_start_matches('"').trim_start_matches(here).starts_with("S/evidence");
    (name != "S/lock" && !name.starts_with("data/") && !of_evidence).then_some(act)
}

impl Done {
    /// The calls of a step, all of them and in this order. `files` were there before the command: others are not removed.
    fn is_made_of_its_calls(&self, kind: Kind, files: &[String]) {
        let slot = self.step.split(' ').nth(1).unwrap_or_default();
        let replaced = |name: &str| -> Vec<String> {
            ["create N.new", "write N.new", "sync N.new", "rename N", "sync S"].map(|act| act.replace('N', name)).into()
        };
        let put = |name: &str| -> Vec<String> {
            let acts = ["create F.part", "write F.part", "sync F.part", "rename F", "sync D"];
            acts.map(|act| act.replace('F', &format!("{slot}/{name}")).replace('D', slot)).into()
        };
        let stored = |name: &str| vec![format!("write {name}"), format!("sync {name}")];
        let gone = |names: &[&str]| -> Vec<String> {
            let names = names.iter().map(|name| format!("{slot}/{name}")).filter(|name| files.contains(name));
            names.map(|name| format!("remove {name}")).chain([format!("sync {slot}")]).collect()
        };
        let expected = match word(&self.step) {
            "second" => stored("ksenv2"),
            "main" if kind == Kind::UBoot => stored("env"),
            "main" => stored("grubenv"),
            "notes" => replaced("S/state.json"),
            "history" => replaced("S/history.json"),
            "key" => replaced("S/device.key"),
            kind @ ("record" | "receipt") => {
                // The first one makes the folder.
                let made = self.calls.first().filter(|call| *call == "sync S").cloned();
                let acts = [
                    "create S/F/ID.json.new",
                    "write S/F/ID.json.new",
                    "sync S/F/ID.json.new",
                    "rename S/F/ID.json",
                    "sync S/F",
                ];
                made.into_iter().chain(acts.map(|act| act.replace("S/F", &format!("S/{kind}s")))).collect()
            }
            "trust" => replaced("S/trust.json"),
            "memory" => {
                // A slot that is read and found damaged is no read-back.
                let damaged = self.calls.iter().take_while(|call| call.starts_with("read ")).cloned();
                damaged.chain(replaced("S/memory.json")).collect()
            }
            "unjudged" => stored("S/unjudged.json"),
            "unhash" => gone(&["manifest.json", "vmlinuz.sha256", "kubesolo-os.gz.sha256", "crc32.txt"]),
            "erase" => gone(&["vmlinuz", "kubesolo-os.gz"]),
            "begin" => vec![format!("create {slot}/vmlinuz.part")],
            "images" => [&put("vmlinuz")[1..], &put("kubesolo-os.gz")].concat(),
            "hashes" => {
                let for_uboot = if kind == Kind::UBoot { put("crc32.txt") } else { vec![] };
                [put("vmlinuz.sha256"), put("kubesolo-os.gz.sha256"), for_uboot].concat()
            }
            "manifest" => put("manifest.json"),
            "read-back" => vec![format!("read {slot}/vmlinuz"), format!("read {slot}/kubesolo-os.gz")],
            other => panic!("{other} is no step"),
        };
        // An image may be copied from the other slot.
        let copies = matches!(word(&self.step), "begin" | "images");
        let is_source = |call: &str| copies && call.starts_with("read ") && !call.starts_with(&format!("read {slot}/"));
        let calls: Vec<_> = self.calls.iter().filter(|call| !is_source(call)).cloned().collect();
        assert_eq!(calls, expected, "{}", self.step);
    }
}

/// Stages, activates and boots a release that is better than what runs.
fn tried(pair: &mut Pair, release: Release, version: &str) {
    pair.offer(version, release as u8);
    pair.run(Command::Apply(release), true);
    pair.run(Command::Activate, true);
    pair.boot();
}

#[test]
fn the_agent_makes_the_steps_of_the_model_at_apply_activate_and_commit() {
    for kind in [Kind::Grub, Kind::UBoot] {
        let Some(mut pair) = Pair::new(kind) else { return };
        tried(&mut pair, Release::New, "1.0.0");
        pair.run(Command::Healthcheck, true);
        assert_eq!(pair.state().good, SlotId::B);
        pair.boot();
        pair.run(Command::Healthcheck, true);
        // Over a slot that is good.
        pair.offer("2.0.0", 2);
        pair.run(Command::Apply(Release::Bad), true);
    }
}

#[test]
fn the_agent_makes_the_steps_of_the_model_at_a_repair() {
    for (kind, own) in [(Kind::Grub, true), (Kind::Grub, false), (Kind::UBoot, true)] {
        let Some(mut pair) = Pair::new(kind) else { return };
        tried(&mut pair, Release::New, "1.0.0");
        pair.run(Command::Healthcheck, true);
        pair.boot();
        pair.rot(SlotId::A, own);
        pair.run(Command::Repair { own }, true);
        pair.boot();
    }
}

#[test]
fn the_agent_makes_the_steps_of_the_model_at_a_revert() {
    for kind in [Kind::Grub, Kind::UBoot] {
        let Some(mut pair) = Pair::new(kind) else { return };
        tried(&mut pair, Release::Bad, "1.0.0");
        pair.device.make_unhealthy();
        pair.run(Command::Healthcheck, false);
        pair.boot();
        assert_eq!(pair.state().on_trial(), None);
        pair.device.make_healthy();
        pair.run(Command::Healthcheck, true);
    }
}

#[test]
fn the_agent_makes_the_steps_of_the_model_when_it_settles_a_trial() {
    for kind in [Kind::Grub, Kind::UBoot] {
        let Some(mut pair) = Pair::new(kind) else { return };
        tried(&mut pair, Release::Bad, "1.0.0");
        for _ in 0..3 {
            pair.boot();
        }
        pair.run(Command::Healthcheck, true);

        let mut pair = Pair::new(kind).unwrap();
        tried(&mut pair, Release::Bad, "1.0.0");
        pair.boot_without_saving(SlotId::A);
        pair.run(Command::Healthcheck, true);
    }
}

#[test]
fn the_agent_makes_the_steps_of_the_model_where_no_run_could_look() {
    for kind in [Kind::Grub, Kind::UBoot] {
        let Some(mut pair) = Pair::new(kind) else { return };
        tried(&mut pair, Release::New, "1.0.0");
        // One run cannot look, and the next one can.
        pair.cannot_look();
        pair.run(Command::Rollback, true);
        pair.boot();
        pair.run(Command::Healthcheck, true);

        // None can: the release is tried once more, and committed.
        let mut pair = Pair::new(kind).unwrap();
        tried(&mut pair, Release::New, "1.0.0");
        pair.cannot_look();
        for _ in 0..3 {
            pair.boot();
        }
        pair.run(Command::Healthcheck, true);
        pair.run(Command::Activate, true);
        pair.boot();
        pair.run(Command::Healthcheck, true);
        assert_eq!(pair.state().good, SlotId::B);
    }
}

#[test]
fn the_agent_makes_the_steps_of_the_model_at_a_rollback() {
    for kind in [Kind::Grub, Kind::UBoot] {
        let Some(mut pair) = Pair::new(kind) else { return };
        // Out of a running trial.
        tried(&mut pair, Release::Bad, "1.0.0");
        pair.run(Command::Rollback, true);
        pair.boot();
        // Before the first boot of a trial.
        pair.offer("2.0.0", 1);
        pair.run(Command::Apply(Release::New), true);
        pair.run(Command::Activate, true);
        pair.run(Command::Rollback, true);

        // To the release before.
        let mut pair = Pair::new(kind).unwrap();
        tried(&mut pair, Release::New, "1.0.0");
        pair.run(Command::Healthcheck, true);
        pair.boot();
        pair.run(Command::Rollback, true);
        pair.boot();
        pair.run(Command::Healthcheck, true);
        assert_eq!(pair.state().good, SlotId::A);
    }
}
