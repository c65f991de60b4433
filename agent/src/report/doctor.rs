//! Is this device set up so that an update can work, and so that it survives one that does not?

mod integration;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bootenv::loader::{FileId, Kind};
use bootenv::protocol::View;
use chrono::Utc;
use nix::libc;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, Statfs, statfs};
use nix::unistd::{AccessFlags, access, geteuid};
use reqwest::Url;
use serde::Serialize;

use crate::base::console::progress::size;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::{files, replace, text};
use crate::config::{Config, Origin, conf};
use crate::device::blocks::{CommandLine, DEADLINE_MARGIN, System};
use crate::device::boot::Boot;
use crate::device::health::WANTED;
use crate::device::loader::Folder;
use crate::device::{env, programs, reboot};
use crate::fetch::client::Client;
use crate::fetch::url;
use crate::policy::{node, preflight, trust_policy};
use crate::report::status::{self, DataStatus};
use crate::schedule::clock::{self, Clock};
use crate::schedule::window::Window;
use crate::schedule::zone::Zone;
use crate::source::open;
use crate::state::hooks::Moment;
use crate::state::memory::{LOADER_FAILURES, Memory, Scrub};
use crate::state::store::{Loaded, Store};
use crate::trust::keys::KeySet;
use crate::update::adopt;
use crate::update::loader::carried;
use integration::Seen;

/// Free bytes of the data partition below which it is time to look.
const SPACE_WANTED: u64 = 16 << 20;

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and is less safe or less useful than it could be.
    Warn,
    /// Updates do not work, or not safely.
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Subject of the check.
    pub name: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The same in words, with what to do.
    pub message: String,
}

/// The two messages of a check.
struct Words<'a> {
    good: &'a str,
    bad: &'a str,
}

/// All findings, in the order of the checks.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    fn add(&mut self, name: &'static str, verdict: Verdict, message: impl Into<String>) {
        self.0.push(Finding { name, verdict, message: message.into() });
    }

    /// An error is a failure, with its next step.
    fn take<T>(&mut self, name: &'static str, result: Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                let advice = if error.remedy.is_empty() { String::new() } else { format!(". {}", error.remedy) };
                self.add(name, Verdict::Fail, format!("{}{advice}", error.message));
            })
            .ok()
    }

    fn either(&mut self, name: &'static str, good: bool, bad: Verdict, words: &Words<'_>) {
        self.add(name, if good { Verdict::Ok } else { bad }, if good { words.good } else { words.bad });
    }

    /// True if anything is a failure.
    #[must_use]
    pub fn any_failed(&self) -> bool {
        self.count(Verdict::Fail) > 0
    }

    /// Number of findings with this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

/// Looks at everything; one thing that is wrong does not keep it from looking at the others. Nothing is changed, and nobody
/// is asked over a network.
#[must_use]
pub fn look(conf: &Path, config: Result<Config>, state: &Path, boot: impl FnOnce(&Config) -> Result<Boot>) -> Findings {
    let mut all = Findings::default();
    let memory = memory(&mut all, state);
    clock(&mut all, memory.as_ref());
    let Some(config) = all.take("settings", config) else { return all };
    settings(&mut all, conf, &config);
    source(&mut all, &config);
    receivers(&mut all, &config);
    keys(&mut all, &config);
    window(&mut all, &config);
    health(&mut all, &config);
    hooks(&mut all, &config);
    node(&mut all, &config);
    if let Some(boot) = all.take("slots", boot(&config)) {
        device(&mut all, &config, &boot, memory.as_ref(), state);
    }
    all
}

/// The one finding where the data partition is that of another disk: nothing on it is read.
#[must_use]
pub fn foreign(error: Error) -> Findings {
    let mut all = Findings::default();
    all.take::<()>("data", Err(error));
    all
}

fn memory(all: &mut Findings, path: &Path) -> Option<Loaded> {
    let memory = all.take("state", Store::new(path).read())?;
    for warning in &memory.warnings {
        all.add("state", Verdict::Warn, format!("{warning}; the next run sets it aside"));
    }
    let folder = replace::folder_of(path);
    if memory.warnings.is_empty() {
        let there = existing(folder);
        let writable = access(there, AccessFlags::W_OK).is_ok();
        let (good, bad) = (path.display().to_string(), format!("this user cannot write {}", there.display()));
        all.either("state", writable, Verdict::Warn, &Words { good: &good, bad: &bad });
    }
    if let Ok(filesystem) = statfs(existing(folder)) {
        let free = status::available(&filesystem);
        let verdict = match free {
            _ if free < status::SPACE_LEAST => Verdict::Fail,
            _ if free < SPACE_WANTED => Verdict::Warn,
            _ => Verdict::Ok,
        };
        let words =
            status::full(existing(folder)).unwrap_or_else(|| format!("{} free in {}", size(free), folder.display()));
        all.add("data space", verdict, words);
        reserve(all, existing(folder), &filesystem);
    }
    Some(memory)
}

/// Blocks that only root gets: others cannot fill the partition to the last block then. Ext4 alone has them.
fn reserve(all: &mut Findings, folder: &Path, filesystem: &Statfs) {
    let Some(own) = clusters_of_the_filesystem(folder).filter(|_| filesystem.filesystem_type() == EXT4_SUPER_MAGIC)
    else {
        return;
    };
    let (free, for_others) = (filesystem.blocks_free(), filesystem.blocks_available());
    if for_others == 0 {
        return; // full for others: the free space does not show how much was kept
    }
    let block = u64::try_from(filesystem.block_size()).unwrap_or(0);
    let kept = free.saturating_sub(for_others).saturating_sub(own);
    let words = format!("{} are kept for root", size(kept.saturating_mul(block)));
    let none = "no blocks are kept for root: other programs can fill the partition, and the agent cannot write its records \
                then. Run `tune2fs -m 5` on the partition";
    all.either("data reserve", kept > 0, Verdict::Warn, &Words { good: &words, bad: none });
}

/// Blocks that ext4 keeps for itself, and `statfs` counts with those kept for root (kernel, `ABI/testing/sysfs-fs-ext4`).
fn clusters_of_the_filesystem(folder: &Path) -> Option<u64> {
    let device = folder.metadata().ok()?.dev();
    let number = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let device = Path::new(&number).read_link().ok()?;
    let file = Path::new("/sys/fs/ext4").join(device.file_name()?).join("reserved_clusters");
    files::read_kernel(&file).ok()?.trim().parse().ok()
}

fn existing(mut folder: &Path) -> &Path {
    while !folder.exists() {
        folder = replace::folder_of(folder);
        if folder == Path::new(".") {
            break;
        }
    }
    folder
}

fn clock(all: &mut Findings, memory: Option<&Loaded>) {
    let clock = Clock::system(Utc::now(), memory.and_then(|memory| memory.trust.last_seen));
    if all.take("clock", clock.for_expiry()).is_some() {
        let bad = "not synchronised: windows and waves depend on it as it is";
        all.either("clock", clock.synchronised, Verdict::Warn, &Words { good: "synchronised", bad });
    }
}

fn settings(all: &mut Findings, file: &Path, config: &Config) {
    for warning in &config.warnings {
        all.add("settings", Verdict::Warn, warning.clone());
    }
    let Some(files) = all.take("settings", conf::files(file)) else { return };
    if config.warnings.is_empty() {
        let files = files.iter().filter(|file| file.exists()).map(|file| file.display().to_string());
        let (files, missing) =
            (files.collect::<Vec<_>>().join(", "), format!("{} is missing: defaults", file.display()));
        all.either("settings", !files.is_empty(), Verdict::Warn, &Words { good: &files, bad: &missing });
    }
}

fn shown(place: &str) -> String {
    text::escape(&text::without_login(place))
}

fn source(all: &mut Findings, config: &Config) {
    // As `apply` opens it: with tag, authorities, logins and proxies, and without a request.
    if all.take("source", open::open(config)).is_some() {
        match &config.source {
            Some(Origin::Http(place) | Origin::Oci(place)) => all.add("source", Verdict::Ok, shown(place)),
            Some(Origin::Bundle(file)) => all.add("source", Verdict::Ok, file.display().to_string()),
            None => {}
        }
    }
    if !config.plain_http.is_empty() {
        all.add("source", Verdict::Warn, format!("without TLS: {}", text::escape(&config.plain_http.join(", "))));
    }
}

/// The receivers of events and of requests for locks, as far as it shows without a request. Without an event nothing waits; without
/// a lock an activation does.
fn receivers(all: &mut Findings, config: &Config) {
    let rows = [
        ("events", &config.event_url, "event_url", Verdict::Warn),
        ("fleetlock", &config.fleetlock_url, "fleetlock_url", Verdict::Fail),
    ];
    for (name, url, key, bad) in rows {
        let Some(url) = url else { continue };
        let usable = Url::parse(url).context(Reason::BadConfig, format_args!("read {key}=")).and_then(|url| {
            Client::new(&open::network(config))?.permits(&url)?;
            Ok(url::shown(&url))
        });
        match usable {
            Ok(place) => all.add(name, Verdict::Ok, place),
            Err(error) => all.add(name, bad, format!("{key}= cannot be used: {error}. {}", error.remedy)),
        }
    }
}

fn keys(all: &mut Findings, config: &Config) {
    match all.take("keys", trust_policy::keys(config)) {
        Some(Some(keys)) => {
            let ids: Vec<_> = keys.ids().map(|id| id.to_string()).collect();
            all.add("keys", Verdict::Ok, ids.join(", "));
            ignored(all, "keys", &keys);
        }
        Some(None) if config.allow_unsigned => {
            all.add(
                "keys",
                Verdict::Warn,
                "none, and allow_unsigned=yes: the agent installs every offer of the \
                source",
            );
        }
        Some(None) => all.add("keys", Verdict::Fail, "none: the agent installs nothing. Set pubkey="),
        None => {}
    }
    if let Some(place) = &config.freshness_pubkey
        && let Some(keys) = all.take("freshness", KeySet::load(place))
    {
        ignored(all, "freshness", &keys);
    }
}

fn ignored(all: &mut Findings, name: &'static str, keys: &KeySet) {
    for file in keys.passed_over() {
        let why = "not a key of this device because of its name. Remove it, or give it another name";
        all.add(name, Verdict::Warn, format!("{}: {why}", text::escape(&file.to_string_lossy())));
    }
}

fn window(all: &mut Findings, config: &Config) {
    let name = "window";
    let Some(zone) = all.take(name, Zone::open(config.maintenance_zone.as_deref())) else { return };
    let window = &config.maintenance_window;
    if *window == Window::always() {
        return all.add(name, Verdict::Ok, format!("always; auto={}", config.auto));
    }
    match window.opens_at(&zone, Utc::now()) {
        Some(at) => {
            let at = clock::shown(at);
            let message = format!("{window} {}, next open {at}; auto={}", zone.name(), config.auto);
            all.add(name, Verdict::Ok, message);
        }
        None => all.add(name, Verdict::Fail, format!("{window} never opens")),
    }
}

fn health(all: &mut Findings, config: &Config) {
    let name = "health checks";
    let url = config.healthcheck_url.is_some().then(|| "healthcheck_url".to_owned());
    match programs::folder(&config.health_dir) {
        Err(why) => all.add(name, Verdict::Fail, why),
        Ok(found) => {
            let wanted = programs::folder(&config.health_dir.join(WANTED)).unwrap_or_default();
            if found.programs.is_empty() && url.is_none() {
                let folder = config.health_dir.display();
                let words = "a boot is healthy as soon as it can write its data";
                all.add(name, Verdict::Warn, format!("no executable in {folder}: {words}"));
            } else {
                let required = found.programs.iter().map(|file| files::name(file));
                let optional = wanted.programs.iter().map(|file| format!("{WANTED}/{}", files::name(file)));
                let names: Vec<_> = url.into_iter().chain(required).chain(optional).collect();
                all.add(name, Verdict::Ok, names.join(", "));
            }
            found.warnings().for_each(|warning| all.add(name, Verdict::Warn, warning));
            wanted.warnings().for_each(|warning| all.add(name, Verdict::Warn, format!("{WANTED}/{warning}")));
        }
    }
    let data = &config.data_dir;
    let (good, bad) = (format!("{} is writable", data.display()), format!("{} is not writable", data.display()));
    all.either("data", access(data, AccessFlags::W_OK).is_ok(), Verdict::Fail, &Words { good: &good, bad: &bad });
}

fn hooks(all: &mut Findings, config: &Config) {
    let gate = crate::policy::hooks::gate(config);
    all.add("pre-update", if gate.open { Verdict::Ok } else { Verdict::Fail }, gate.message);
    for moment in Moment::ALL {
        let name = moment.name();
        match programs::folder(&crate::policy::hooks::folder(config, moment)) {
            Ok(folder) => folder.warnings().for_each(|warning| all.add(name, Verdict::Warn, warning)),
            // The gate says it.
            Err(_) if moment == Moment::PreUpdate => {}
            Err(why) => all.add(name, Verdict::Fail, why),
        }
    }
}

fn node(all: &mut Findings, config: &Config) {
    if let Some(why) = node::unusable(config) {
        let words = "the agent cannot find out whether the node is blocked for updates";
        all.add("kubeconfig", Verdict::Warn, format!("{why}; {words}"));
    }
}

/// The data of the next trial.
fn checkpoint(all: &mut Findings, config: &Config, boot: &Boot, state: &Path) {
    let name = "checkpoint";
    let Some(data) = all.take(name, DataStatus::find(config, state, Some(boot))) else { return };
    match (&data.unprotected, data.need.fits()) {
        (Some(_), _) if data.paths.is_empty() => all.add(name, Verdict::Ok, data.words()),
        (Some(_), _) => all.add(name, Verdict::Warn, format!("{}. Add the step `data` to the boot", data.words())),
        (None, fits) => _ = all.take(name, fits).map(|()| all.add(name, Verdict::Ok, data.words())),
    }
}

fn device_id(all: &mut Findings, config: &Config, boot: &Boot, memory: Option<&Loaded>) {
    let file = config.machine_id_file.display();
    let in_memory = boot.loses(&config.machine_id_file);
    let why = if in_memory { format!("{file} is lost at each reboot") } else { format!("{file} has none") };
    let known = memory.map(|memory| memory.state.clone()).unwrap_or_default();
    let message = match known.device_id(&config.machine_id_file, in_memory) {
        Some(id) if known.device_id == id => format!("kept by the agent with its state, because {why}"),
        Some(_) if !in_memory => file.to_string(),
        _ => format!("{why}: the first run creates one, and keeps it with the state"),
    };
    all.add("device id", Verdict::Ok, message);
}

fn device(all: &mut Findings, config: &Config, boot: &Boot, memory: Option<&Loaded>, state: &Path) {
    device_id(all, config, boot, memory);
    integration::fallback(all, boot, &System::default());
    running(all, config, boot);
    for twin in &boot.twins {
        let words = format!("{twin} can be the booted disk as well: take it out, nothing is changed until then");
        all.add("disk", Verdict::Warn, words);
    }
    integration::release_settings(all, config, boot);
    loader(all, config, boot);
    loader_files(all, config, boot, &Store::new(state).read_memory());
    environment(all, boot);
    room(all, boot);
    scrub(all, config, &Store::new(state).read_memory());
    checkpoint(all, config, boot, state);
    if !boot.folders() {
        machine(all, config, boot, memory, state);
    }
}

/// The release in the booted slot.
fn running(all: &mut Findings, config: &Config, boot: &Boot) {
    let running = boot.booted.slot;
    match (boot.slots.get(running).manifest(), &config.version_file) {
        (Ok(Some(content)), _) => all.add("running", Verdict::Ok, format!("{} in slot {running}", content.version)),
        (Ok(None), Some(file)) => {
            all.add("running", Verdict::Ok, format!("slot {running}, version from {}", file.display()));
        }
        (Ok(None), None) => {
            let words = "has no manifest (filled by a factory), and version_file= is not set: unattended runs wait";
            let verdict = if boot.folders() { Verdict::Ok } else { Verdict::Warn };
            all.add("running", verdict, format!("slot {running} {words}"));
        }
        (Err(error), _) => all.add("running", Verdict::Fail, error.message),
    }
}

/// Everything that a device in folders does not have.
fn machine(all: &mut Findings, config: &Config, boot: &Boot, memory: Option<&Loaded>, state: &Path) {
    if let Some(line) = &boot.line {
        integration::partition(all, &CommandLine::parse(line), boot.env.commands().part);
    }
    let lost = files::is_in_memory(replace::folder_of(state));
    let good = "the state survives a reboot";
    let bad = "the state is in memory and lost at every reboot: mount the data partition";
    all.either("data mount", !lost, Verdict::Fail, &Words { good, bad });
    if geteuid().is_root() {
        let last_run = memory.and_then(|memory| memory.state.last_run.as_ref()).map(|run| run.at);
        integration::calls(all, &Seen::read(&System::default(), last_run));
    } else {
        all.add("health run", Verdict::Warn, "only root can read who called the agent in this boot: run it as root");
    }
    let timer = reboot::under_systemd().then(deadline_timer).flatten();
    deadline(all, config, &CommandLine::parse(boot.line.as_deref().unwrap_or_default()), timer);
    if let Some(safety) = preflight::safety(boot) {
        let bad = "does not reboot: add panic=5 to the loader file";
        all.either("panic", safety.panic_seconds.is_some(), Verdict::Fail, &Words { good: "reboots", bad });
        match safety.watchdog {
            Some(name) => all.add("watchdog", Verdict::Ok, name),
            None => {
                all.add("watchdog", Verdict::Warn, "no hardware watchdog: a hang lasts until somebody cuts the power");
            }
        }
    }
    match memory.and_then(|memory| memory.state.link_shown) {
        Some(at) => all.add("env link", Verdict::Ok, format!("shown by the trial of {}", at.format("%Y-%m-%d"))),
        None => all.add(
            "env link",
            Verdict::Warn,
            "unknown whether the bootloader reads this boot environment: the first trial shows it",
        ),
    }
}

/// The last time that both slots were read again.
fn scrub(all: &mut Findings, config: &Config, memory: &Memory) {
    let name = "slots read";
    let Some(scrub @ Scrub { at, booted, .. }) = &memory.scrub else {
        if config.scrub_days == 0 {
            all.add(name, Verdict::Warn, "scrub_days=0: nobody notices when a slot rots");
        }
        return;
    };
    let date = at.format("%Y-%m-%d");
    if let Some(why) = booted {
        let next = "it may not boot again. Install a release now, then replace the medium";
        all.add(name, Verdict::Fail, format!("on {date}, the running slot was damaged: {why}; {next}"));
    }
    let fallback = scrub.fallback_damage();
    if let Some(why) = fallback {
        let next = "`kubesolo-update run` tries again once a day to repair it";
        all.add(name, Verdict::Fail, format!("on {date}, the slot to fall back to was damaged: {why}; {next}"));
    }
    if booted.is_none() && fallback.is_none() {
        all.add(name, Verdict::Ok, format!("on {date}, and whole"));
    }
}

/// `OnBootSec=` of the deadline timer in seconds, as systemd has it with all drop-ins.
fn deadline_timer() -> Option<u64> {
    let mut command = programs::tool("systemctl").ok()?;
    let output = command.args(["show", "-P", "TimersMonotonic", "kubesolo-update-deadline.timer"]).output().ok()?;
    on_boot(std::str::from_utf8(&output.stdout).ok()?)
}

/// The seconds of `OnBootUSec=`, a time span as in systemd.time(7): `{ OnBootUSec=25min ; next_elapse=25min }`.
fn on_boot(timers: &str) -> Option<u64> {
    let (_, rest) = timers.split_once("OnBootUSec=")?;
    let words = rest.split([';', '}']).next()?.split_whitespace();
    words
        .map(|word| {
            let (number, unit) = word.split_at(word.find(|c: char| !c.is_ascii_digit())?);
            let seconds = match unit {
                "s" => 1,
                "min" => 60,
                "h" => 3600,
                "d" => 86400,
                _ => return None,
            };
            number.parse::<u64>().ok()?.checked_mul(seconds)
        })
        .try_fold(0_u64, |sum, part| sum.checked_add(part?))
}

/// A trial that ends before its last health run is over would be given up although it may be healthy. Under systemd the
/// deadline is that of its timer.
fn deadline(all: &mut Findings, config: &Config, line: &CommandLine, timer: Option<u64>) {
    let checks = config.health_timeout.as_secs();
    // Either runs after the verdict, while the deadline is on, which would cut them off.
    let after_verdict = [Moment::PostCommit, Moment::PreReboot];
    let with_hooks = after_verdict.into_iter().any(|moment| crate::policy::hooks::are_there(config, moment));
    let hooks = if with_hooks { config.hook_timeout.as_secs() } else { 0 };
    let least = [checks, hooks, DEADLINE_MARGIN].into_iter().fold(line.health_window, u64::saturating_add);
    let (window, deadline) = (line.health_window, timer.unwrap_or(line.deadline));
    let hooks = if with_hooks { format!(", hook_timeout={hooks}") } else { String::new() };
    let message = format!(
        "{deadline} s; the health window of {window} s, health_timeout={checks}{hooks} and {DEADLINE_MARGIN} s need {least} s"
    );
    if deadline >= least {
        return all.add("deadline", Verdict::Ok, message);
    }
    let remedy = match timer {
        Some(_) => {
            format!("Set OnBootSec={least}s in a drop-in of kubesolo-update-deadline.timer, or lower health_timeout=")
        }
        None => format!("Add ks.deadline={least}, or lower health_timeout="),
    };
    all.add("deadline", Verdict::Warn, format!("{message}. {remedy}"));
}

/// By what started this boot, and by the file that starts the next one.
fn loader(all: &mut Findings, config: &Config, boot: &Boot) {
    let name = "loader";
    let next = adopt::next_loader(config, boot);
    let next = next.unwrap_or_else(|error| {
        all.add(name, Verdict::Warn, format!("the loader file of the next boot is unknown: {}", error.message));
        None
    });
    let outdated = next == Some(Kind::Switched) && adopt::has_outdated_switch(config, boot).unwrap_or_default();
    let ours = matches!(next, None | Some(Kind::Ours | Kind::Switched));
    let (verdict, words) = match (boot.legacy, next) {
        (false, Some(Kind::Staged)) => (Verdict::Ok, "a new file started this boot, on trial: a healthy run keeps it"),
        (true, Some(Kind::Ours | Kind::Switched)) => {
            (Verdict::Warn, "the old one started this boot, and the new one is in place: reboot")
        }
        (true, _) => (Verdict::Fail, "the old one, which cannot run a trial: run `kubesolo-update adopt`"),
        (false, _) if outdated => {
            let words = "grub.cfg was switched by version 0.1, and another disk can hide the slots from it: run \
                         `kubesolo-update adopt`";
            (Verdict::Warn, words)
        }
        (false, _) if ours => (Verdict::Ok, "uses the slot protocol, version 1"),
        (false, Some(Kind::KubeSoloOs)) => {
            let words = "one with the slot protocol started this boot, but grub.cfg leads to the old one now: \
                reboot, then run `kubesolo-update adopt`";
            (Verdict::Fail, words)
        }
        (false, _) => {
            let words = "one with the slot protocol started this boot, and grub.cfg is an unknown file: read it";
            (Verdict::Warn, words)
        }
    };
    all.add(name, verdict, words);
}

/// The two loader files, and the setting that replaces them.
fn loader_files(all: &mut Findings, config: &Config, boot: &Boot, memory: &Memory) {
    let name = "loader files";
    if config.loader_update && !env::has_loader_file(config) {
        let words = "loader_update=auto has no effect: only the loader file of GRUB is replaced in the field";
        return all.add(name, Verdict::Warn, words);
    }
    // A folder that cannot be read is a finding of `loader`.
    let Ok(Some(scripts)) = Folder::of(config, boot).and_then(|folder| folder.map_or(Ok(None), |it| it.scripts()))
    else {
        return;
    };
    if scripts.kind != Kind::Staged {
        return;
    }
    let damaged = FileId::BOTH.into_iter().find(|file| !scripts.holds(*file));
    let failures = memory.loader_failures(carried());
    if let Some(file) = damaged {
        let words = format!("{} does not match its hash; the other one boots", file.script());
        all.add(name, Verdict::Warn, words);
    } else if scripts.stage().is_none() {
        all.add(name, Verdict::Warn, "ksstage is damaged: a healthy boot writes it again");
    } else if failures >= LOADER_FAILURES {
        let words = format!(
            "the loader file of this agent failed {failures} times, and is not tried again: see the console of a boot, then \
             `kubesolo-update apply --retry-failed` permits another try"
        );
        all.add(name, Verdict::Warn, words);
    } else {
        all.add(name, Verdict::Ok, "both match their hashes");
    }
}

fn environment(all: &mut Findings, boot: &Boot) {
    let place = boot.env.place();
    let name = "environment";
    if all.take(name, boot.env.room()).is_none() {
        return;
    }
    match (boot.env.damage(), boot.env.view()) {
        (Some(damage), _) => all.add(name, Verdict::Fail, format!("{place}: {damage}")),
        (None, View::Foreign(_)) => {
            all.add(name, Verdict::Warn, format!("{place}: another program wrote last; a healthy boot takes it over"));
        }
        (None, _) if boot.env.flaw().is_some() => {
            let flaw = boot.env.flaw().unwrap_or_default();
            all.add(name, Verdict::Warn, format!("{place}: {flaw}; a healthy boot repairs it"));
        }
        (None, _) if boot.env.is_single() => {
            all.add(name, Verdict::Warn, format!("{place}: a single copy, so there are no unattended updates"));
        }
        (None, _) => all.add(name, Verdict::Ok, place),
    }
}

/// True if the free slot takes another release of the size of the running one.
fn room(all: &mut Findings, boot: &Boot) {
    let free = match boot.state().map(|state| state.target(boot.booted.slot)) {
        Ok(Ok(free)) => free,
        Ok(Err(why)) => return all.add("free slot", Verdict::Warn, why.to_string()),
        Err(error) => return all.add("free slot", Verdict::Warn, error.message),
    };
    let running = boot.slots.get(boot.booted.slot).facts().ok();
    let need = running.map_or(0, |facts| facts.kernel.unwrap_or(0).saturating_add(facts.initramfs.unwrap_or(0)));
    if all.take("free slot", boot.slots.get(free).check_room(need)).is_some() {
        let another = if need > 0 { format!("has room for {}", size(need)) } else { "is writable".into() };
        all.add("free slot", Verdict::Ok, format!("slot {free} {another}"));
    }
    if let Err(error) = boot.slots.get(free).can_be_made_anew() {
        let what = format!("a power cut during a write may leave slot {free} unusable, and {}", error.message);
        all.add("free slot", Verdict::Warn, what);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Conf, Overrides};

    #[test]
    fn a_deadline_before_the_end_of_the_last_health_run_is_a_warning() {
        let defaults = Config::resolve(&Conf::default(), &Overrides::default()).unwrap();
        for (line, checks, verdict) in [
            ("", 300, Verdict::Ok),
            ("", 301, Verdict::Warn),
            ("ks.deadline=1499", 300, Verdict::Warn),
            ("ks.deadline=1600", 400, Verdict::Ok),
            ("ks.health_window=901", 300, Verdict::Warn),
            ("ks.health_window=60 ks.deadline=660", 300, Verdict::Ok),
            ("ks.health_window=900 ks.health_window=901", 300, Verdict::Warn),
            ("ks.deadline=1600 ks.deadline=+1700", 300, Verdict::Ok),
        ] {
            let config = Config { health_timeout: Duration::from_secs(checks), ..defaults.clone() };
            let mut all = Findings::default();
            deadline(&mut all, &config, &CommandLine::parse(line), None);
            assert_eq!(all.0[0].verdict, verdict, "{line} {checks}: {}", all.0[0].message);
        }
    }

    #[test]
    fn the_deadline_leaves_time_for_the_hooks_after_a_verdict() {
        let defaults = Config::resolve(&Conf::default(), &Overrides::default()).unwrap();
        for (moment, with_hook) in [
            ("pre-update", Verdict::Ok),
            ("pre-reboot", Verdict::Warn),
            ("post-commit", Verdict::Warn),
            ("post-revert", Verdict::Ok),
        ] {
            let (folder, hook_timeout) = (tempfile::tempdir().unwrap(), Duration::from_secs(60));
            let config = Config { hooks_dir: folder.path().to_owned(), hook_timeout, ..defaults.clone() };
            let hooks = folder.path().join(format!("{moment}.d"));
            std::fs::create_dir(&hooks).unwrap();
            let hook = hooks.join("10-drain");
            std::fs::write(&hook, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let mut all = Findings::default();
            deadline(&mut all, &config, &CommandLine::parse("ks.deadline=1559"), None);
            assert_eq!(all.0[0].verdict, with_hook, "{moment}: {}", all.0[0].message);
        }
    }

    #[test]
    fn under_systemd_the_deadline_is_that_of_the_timer() {
        let config = Config::resolve(&Conf::default(), &Overrides::default()).unwrap();
        let line = CommandLine::parse("ks.health_window=1200 ks.deadline=1800");
        for (timer, verdict) in [(Some(1500), Verdict::Warn), (Some(1800), Verdict::Ok), (None, Verdict::Ok)] {
            let mut all = Findings::default();
            deadline(&mut all, &config, &line, timer);
            assert_eq!(all.0[0].verdict, verdict, "{timer:?}");
        }
        for (shown, seconds) in [
            ("{ OnBootUSec=25min ; next_elapse=0 }\n", Some(1500)),
            ("{ OnBootUSec=1h 30min 5s ; next_elapse=1h 30min 5s }\n", Some(5405)),
            ("{ OnUnitActiveSec=1h ; next_elapse=0 }\n", None),
            ("{ OnBootUSec=infinity ; next_elapse=0 }\n", None),
            ("", None),
        ] {
            assert_eq!(on_boot(shown), seconds, "{shown}");
        }
    }
}
