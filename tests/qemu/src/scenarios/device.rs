//! Stories of the whole device: the real agent and init stage, a real registry, a real kernel.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bootenv::SlotId;
use bootenv::grub::{Block, SIZE};
use bootenv::protocol::{BootState, SlotState};

use super::{expect, state};
use crate::image::{Content, Disk, INITRAMFS, KERNEL, Plan};
use crate::machine::{Device, Firmware, Machine};
use crate::registry::{Line, Registry};
use crate::runner::Run;
use crate::{Architecture, Result, built, root, tool};

pub(super) const PUBLISHER: &str = "target/dist/amd64/kubesolo-release";
pub(crate) const BUILD: &str = "build/scripts/build-agent.sh";
/// The line of the health step once a boot is decided to be good.
pub(crate) const HEALTHY: &str = "kubesolo: healthy";
/// The line of the test image when the script of the second disk is over.
pub(crate) const SCRIPT_ENDED: &str = "guest: script ended with ";

/// Where the disk's builder puts U-Boot's environment.
pub(crate) const FW_ENV_CONFIG: &str =
    "/dev/disk/by-partlabel/KSOLOENV 0x0 0x4000\n/dev/disk/by-partlabel/KSOLOENV 0x80000 0x4000\n";

/// The fault of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// The kernel panics as soon as userspace starts.
    Panics,
    /// A check in `health.d` fails.
    Unhealthy,
    /// The kernel panics in the health check, and stays there.
    Hangs,
}

/// Additions to every image and to the device.
#[derive(Clone, Debug, Default)]
pub(super) struct More {
    /// Lines of the settings.
    pub(super) settings: String,
    /// Files, each with its path in the image.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Kernel arguments.
    pub(super) kernel_args: String,
    /// Size of the data partition in MiB, if it is not the usual one.
    pub(super) data_mib: Option<u64>,
    /// Kernel modules beside the usual ones.
    pub(super) modules: Vec<&'static str>,
}

/// A device with release 1.0.0 in slot A, a registry, and a key.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(super) run: &'a Run,
    pub(crate) registry: Arc<Registry>,
    keys: PathBuf,
    /// Public keys that the images built from now on bring along, and the private ones that sign them.
    pub(super) trusted: Vec<PathBuf>,
    pub(super) signers: Vec<PathBuf>,
    /// Keys that the releases published from now on revoke.
    pub(super) revoked: Vec<PathBuf>,
    pub(super) line: Line,
    /// A whole userland with systemd, in place of busybox.
    userland: Option<PathBuf>,
    /// The kernel of every release, with its modules beside it.
    kernel: PathBuf,
    /// The device has a hardware watchdog.
    watchdog: bool,
    more: More,
    pub(crate) disk: Disk,
}

impl<'a> Bench<'a> {
    pub(crate) fn build(run: &'a Run) -> Result<Self> {
        Self::build_as(run, None)
    }

    /// The same with another script for the bootloader, which brings its own kernel arguments.
    pub(crate) fn build_as(run: &'a Run, grub_cfg: Option<PathBuf>) -> Result<Self> {
        let mut bench = Self::without_disk(run)?;
        run.write("update.conf", bench.settings("=").as_bytes())?;
        bench.install(grub_cfg)?;
        Ok(bench)
    }

    /// A device with a hardware watchdog, and this kernel, which drives it.
    pub(super) fn with_watchdog(run: &'a Run, kernel: PathBuf) -> Result<Self> {
        let mut bench = Self { kernel, watchdog: true, ..Self::without_disk(run)? };
        run.write("update.conf", bench.settings("=").as_bytes())?;
        bench.install(None)?;
        Ok(bench)
    }

    /// A device with this kernel and no settings but these: it knows of no registry.
    pub(super) fn without_network(run: &'a Run, kernel: PathBuf, more: More) -> Result<Self> {
        let mut bench = Self { kernel, more, ..Self::without_disk(run)? };
        let version = "version_file=/etc/kubesolo/version\n";
        run.write("update.conf", format!("{version}{}", bench.more.settings).as_bytes())?;
        bench.install(None)?;
        Ok(bench)
    }

    /// A device beside another one, with the same registry and key.
    pub(super) fn beside(run: &'a Run, other: &Bench) -> Result<Self> {
        let registry = Arc::clone(&other.registry);
        let line = Line::open(&registry)?;
        let disk = Disk { path: run.file("disk.img"), size: Plan::size(), firmware: run.firmware };
        let (trusted, signers) = (other.trusted.clone(), other.signers.clone());
        let (keys, kernel) = (other.keys.clone(), run.firmware.architecture().kernel()?);
        let mut bench = Self {
            run,
            registry,
            keys,
            trusted,
            signers,
            revoked: vec![],
            line,
            userland: None,
            kernel,
            watchdog: false,
            more: More::default(),
            disk,
        };
        run.write("update.conf", bench.settings("=").as_bytes())?;
        bench.install(None)?;
        Ok(bench)
    }

    /// The same with more settings.
    pub(crate) fn build_with(run: &'a Run, more: &str) -> Result<Self> {
        Self::with(run, More { settings: more.to_owned(), ..More::default() })
    }

    pub(super) fn with(run: &'a Run, more: More) -> Result<Self> {
        let mut bench = Self { more, ..Self::without_disk(run)? };
        run.write("update.conf", format!("{}{}", bench.settings("="), bench.more.settings).as_bytes())?;
        bench.disk.size.data = bench.more.data_mib.unwrap_or(bench.disk.size.data);
        bench.install(None)?;
        Ok(bench)
    }

    /// The files that the images built from now on have beside the usual ones.
    pub(super) fn set_files(&mut self, files: Vec<(PathBuf, String)>) {
        self.more.files = files;
    }

    /// A device whose image has no settings, with busybox or this userland; gives the settings for user-data.
    pub(crate) fn unconfigured(run: &'a Run, userland: Option<PathBuf>) -> Result<(Self, String)> {
        let mut bench = Self { userland, ..Self::without_disk(run)? };
        bench.install(None)?;
        let settings = bench.settings(": ");
        Ok((bench, settings))
    }

    pub(super) fn without_disk(run: &'a Run) -> Result<Self> {
        let keys = run.file("keys");
        crate::run(Command::new(built(PUBLISHER, BUILD)?).args(["--quiet", "keygen"]).arg(&keys))?;
        Self::of_folder(run, 0)
    }

    /// The device, the key and the registry that an earlier run left in this folder. The device knows the port of its line.
    pub(crate) fn resume(run: &'a Run, port: u16) -> Result<Self> {
        Self::of_folder(run, port)
    }

    /// The port of the line, for [`Bench::resume`].
    pub(crate) fn port(&self) -> u16 {
        self.line.port()
    }

    fn of_folder(run: &'a Run, port: u16) -> Result<Self> {
        let registry = Arc::new(Registry::start(&run.file("registry"))?);
        let keys = run.file("keys");
        let line = Line::open_at(&registry, port)?;
        Ok(Self {
            run,
            registry,
            trusted: vec![keys.join("public.pem")],
            signers: vec![keys.join("private.pem")],
            revoked: vec![],
            keys,
            line,
            userland: None,
            kernel: run.firmware.architecture().kernel()?,
            watchdog: false,
            more: More::default(),
            disk: Disk { path: run.file("disk.img"), size: Plan::size(), firmware: run.firmware },
        })
    }

    /// The settings of the device, with this between key and value.
    pub(super) fn settings(&self, is: &str) -> String {
        let host = self.line.host_in_device();
        let settings = [
            ("registry", &*format!("{host}/os")),
            ("channel", "stable"),
            ("plain_http", &host),
            ("auto_rollback_after", "1"),
            ("version_file", "/etc/kubesolo/version"),
        ];
        let uboot = [("bootenv", "uboot:/etc/fw_env.config")];
        let uboot = uboot.iter().filter(|_| self.run.firmware == Firmware::UBoot);
        settings.iter().chain(uboot).map(|(key, value)| format!("{key}{is}{value}\n")).collect()
    }

    /// Publishes 1.0.0, and builds a disk with it.
    pub(super) fn install(&mut self, grub_cfg: Option<PathBuf>) -> Result<()> {
        let initramfs = self.publish("1.0.0", Flaw::None)?;
        let manifest = self.manifest_of_published()?;
        let mut plan = Plan::new(Content { manifest: Some(manifest), ..Content::new(&self.kernel, &initramfs) });
        let console = self.run.firmware.architecture().console();
        let mut args = format!("{console} quiet panic=1");
        if self.run.firmware.architecture() == Architecture::Amd64 {
            // A timer that comes late, because the host is busy, must not pass for a broken one.
            args += " no_timer_check";
        }
        if self.userland.is_some() {
            // The output of services comes on the console, and no prompt in between.
            let console = "journal+console";
            args += &format!(" systemd.default_standard_output={console} systemd.default_standard_error={console}");
            args += " systemd.mask=serial-getty@ttyS0.service";
        }
        if !self.more.kernel_args.is_empty() {
            args += &format!(" {}", self.more.kernel_args);
        }
        plan.size = self.disk.size;
        plan.kernel_args = grub_cfg.is_none().then_some(args);
        plan.firmware = self.run.firmware;
        plan.grub_cfg = grub_cfg;
        self.disk = plan.build(&self.disk.path)?;
        Ok(())
    }

    /// Builds and publishes a signed release; gives its initramfs.
    pub(crate) fn publish(&self, version: &str, flaw: Flaw) -> Result<PathBuf> {
        let initramfs = self.initramfs(version, flaw)?;
        self.push(version, &[(self.run.firmware.architecture(), &initramfs)])?;
        Ok(initramfs)
    }

    /// Builds the initramfs of a release.
    pub(super) fn initramfs(&self, version: &str, flaw: Flaw) -> Result<PathBuf> {
        let initramfs = self.run.file(&format!("{version}.gz"));
        let mut build = Command::new(root().join("build/scripts/build-initramfs.sh"));
        let architecture = self.run.firmware.architecture();
        build.arg("--test").arg("--agent").arg(architecture.agent()?);
        build.arg("--kernel").arg(self.kernel.with_file_name("")).arg("--busybox").arg(architecture.busybox()?);
        if self.run.firmware == Firmware::UBoot {
            let places = self.run.write("fw_env.config", FW_ENV_CONFIG.as_bytes())?;
            build.arg("--add").arg(format!("{}:/etc/fw_env.config", places.display()));
        }
        build.args(["--version", version]);
        for key in &self.trusted {
            build.arg("--key").arg(key);
        }
        if let Some(userland) = &self.userland {
            build.arg("--base").arg(userland);
        }
        let conf = self.run.file("update.conf");
        if conf.exists() {
            build.arg("--conf").arg(conf);
        }
        for module in &self.more.modules {
            build.args(["--module", module]);
        }
        for (file, path) in &self.more.files {
            build.arg("--add").arg(format!("{}:{path}", file.display()));
        }
        let script = match flaw {
            Flaw::None => None,
            Flaw::Panics => Some((
                "usr/lib/kubesolo-update/stage/mounts",
                "mkdir -p /proc\nmount -t proc proc /proc\necho c >/proc/sysrq-trigger\n",
            )),
            Flaw::Unhealthy => {
                Some(("etc/kubesolo/health.d/50-application", "echo 'the application does not answer'\nexit 1\n"))
            }
            Flaw::Hangs => Some((
                "etc/kubesolo/health.d/50-application",
                "echo 0 >/proc/sys/kernel/panic\necho c >/proc/sysrq-trigger\n",
            )),
        };
        if let Some((path, text)) = script {
            let file = self.run.write(&format!("{version}.script"), format!("#!/bin/sh\n{text}").as_bytes())?;
            crate::run(Command::new("chmod").arg("755").arg(&file))?;
            build.arg("--add").arg(format!("{}:/{path}", file.display()));
        }
        crate::run(build.arg(&initramfs))?;
        Ok(initramfs)
    }

    /// Makes one more key of this name: its public half, and its private one.
    pub(super) fn key(&self, name: &str) -> Result<[PathBuf; 2]> {
        let [public, private] = [format!("{name}.pub.pem"), format!("{name}.pem")].map(|file| self.keys.join(file));
        let mut keygen = Command::new(built(PUBLISHER, BUILD)?);
        keygen.args(["--quiet", "keygen", "--private"]).arg(&private).arg("--public").arg(&public);
        crate::run(&mut keygen)?;
        Ok([public, private])
    }

    /// Adds a signature by this key to what is published.
    pub(super) fn sign(&self, key: &PathBuf) -> Result<()> {
        let mut sign = Command::new(built(PUBLISHER, BUILD)?);
        sign.args(["--quiet", "sign", &format!("{}/os:stable", self.registry.host()), "--key"]).arg(key);
        crate::run(sign.args(["--plain-http", &self.registry.host()]))?;
        Ok(())
    }

    /// Publishes a signed release for these architectures under one tag.
    pub(super) fn push(&self, version: &str, images: &[(Architecture, &PathBuf)]) -> Result<()> {
        crate::run(&mut self.publishing(version, images)?).map(drop)
    }

    /// The command that publishes a signed release for these architectures, to which options may be added.
    pub(super) fn publishing(&self, version: &str, images: &[(Architecture, &PathBuf)]) -> Result<Command> {
        let mut publish = Command::new(built(PUBLISHER, BUILD)?);
        publish.args(["--quiet", "publish", &format!("{}/os", self.registry.host()), "--version", version]);
        publish.args(["--channel", "stable"]);
        for (architecture, initramfs) in images {
            let own = *architecture == self.run.firmware.architecture();
            let kernel = if own { self.kernel.clone() } else { architecture.kernel()? };
            publish.arg(format!("--{}", architecture.as_str())).arg(kernel).arg(initramfs);
        }
        for (option, keys) in [("--key", &self.signers), ("--revoke-key", &self.revoked)] {
            for key in keys {
                publish.arg(option).arg(key);
            }
        }
        publish.args(["--plain-http", &self.registry.host()]);
        Ok(publish)
    }

    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The same as `publish`, with patches for devices with the release that is published now.
    pub(crate) fn publish_patches(&self, version: &str) -> Result<PathBuf> {
        let initramfs = self.initramfs(version, Flaw::None)?;
        let mut publish = self.publishing(version, &[(self.run.firmware.architecture(), &initramfs)])?;
        crate::run(publish.args(["--delta-from", &format!("{}/os:stable", self.registry.host())]))?;
        Ok(initramfs)
    }

    /// The slot manifest that the agent writes for the published release.
    fn manifest_of_published(&self) -> Result<PathBuf> {
        let dir = self.run.file("factory");
        for slot in ["A", "B"] {
            fs::create_dir_all(dir.join(slot))?;
        }
        fs::write(dir.join("grubenv"), Block::main(&BootState::committed(SlotId::A)).bytes())?;
        let at = |name: &str| dir.join(name).display().to_string();
        let mut agent = self.run.firmware.architecture().agent_here()?;
        agent.args(["--conf", "/dev/null", "--state", &at("state.json"), "apply"]);
        agent.args(["--registry", &format!("{}/os", self.registry.host()), "--plain-http", &self.registry.host()]);
        agent.args(["--slot-a", &at("A"), "--slot-b", &at("B"), "--bootenv", &format!("grub:{}", at("grubenv"))]);
        agent.arg("--pubkey").arg(self.keys.join("public.pem"));
        crate::run(&mut agent)?;
        Ok(dir.join("B/manifest.json"))
    }

    /// Switches the device on. Once a boot is decided, it runs what `script` has for the version that is up.
    pub(crate) fn power_on(&self, script: &[(&str, &str)]) -> Result<Machine> {
        Machine::power_on(&self.device(script)?, &self.run.dir)
    }

    /// The device with that script.
    pub(crate) fn device(&self, script: &[(&str, &str)]) -> Result<Device> {
        let cases: String = script.iter().map(|(version, commands)| format!("{version}) {commands} ;;\n")).collect();
        let mut text = format!("#!guest-script\ncase $(cat /etc/kubesolo/version) in\n{cases}esac\n").into_bytes();
        text.resize(text.len().next_multiple_of(4096), 0);
        let mut device = Device::new(self.run.firmware, &self.disk.path);
        device.network = true;
        device.watchdog = self.watchdog;
        if self.userland.is_some() {
            device.memory = 1024;
        }
        device.more_disks = vec![self.run.write("script.img", &text)?];
        Ok(device)
    }

    /// Publishes 2.0.0, has the device stage and activate it, and pulls the plug.
    pub(super) fn activate(&self, flaw: Flaw) -> Result<BootState> {
        self.publish("2.0.0", flaw)?;
        let mut machine = self.power_on(&[("1.0.0", "kubesolo-update apply --activate")])?;
        succeeded(&mut machine)?;
        machine.power_cut()?;
        let activated = state(&self.disk)?;
        let on_trial = BootState {
            active: SlotId::B,
            success: false,
            b: SlotState::Good,
            trial: activated.trial,
            ..BootState::committed(SlotId::A)
        };
        expect("the environment after activation", &activated, &on_trial)?;
        Ok(activated)
    }

    /// The device is in 1.0.0, and will not install 2.0.0 again by itself.
    pub(super) fn is_back_and_remembers(&self, mut machine: Machine, activated: BootState) -> Result<()> {
        machine.wait_for("ks: boot slot=A")?;
        machine.wait_for(HEALTHY)?;
        machine.wait_for(&format!("{SCRIPT_ENDED}75"))?;
        machine.power_cut()?;
        let seen = state(&self.disk)?;
        expect("the environment afterwards", &seen, &BootState { counter: seen.counter, ..activated.back_to_good() })?;
        self.stays_in("1.0.0", SlotId::A)
    }

    /// Ordinary boots of a committed release, which write nothing to the environment.
    pub(super) fn stays_in(&self, version: &str, slot: SlotId) -> Result<()> {
        let before = self.disk.env_bytes()?;
        let mut machine = self.power_on(&[(version, "echo \"up: $(cat /etc/kubesolo/version)\"")])?;
        machine.wait_for(&format!("ks: boot slot={slot} committed"))?;
        machine.wait_for(HEALTHY)?;
        machine.wait_for(&format!("up: {version}"))?;
        machine.power_cut()?;
        expect("the environment after one more boot", &self.disk.env_bytes()?, &before)
    }
}

/// The script of the second disk ended well.
pub(crate) fn succeeded(machine: &mut Machine) -> Result<()> {
    let line = machine.wait_for(SCRIPT_ENDED)?;
    if line.contains(&format!("{SCRIPT_ENDED}0")) { Ok(()) } else { Err(format!("{line}\n{}", machine.tail()).into()) }
}

pub(super) fn commit(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    commits(&bench)?;
    bench.stays_in("2.0.0", SlotId::B)
}

/// The device installs 2.0.0 and commits it.
pub(super) fn commits(bench: &Bench) -> Result<()> {
    bench.publish("2.0.0", Flaw::None)?;
    let mut machine = bench
        .power_on(&[("1.0.0", "kubesolo-update apply --activate --reboot"), ("2.0.0", "kubesolo-update status")])?;
    machine.wait_for("ks: boot slot=A committed")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)
}

/// An account without rights that asks for the agent's locks and fills the data partition: none of it is in the trial's way.
pub(super) fn local_account(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let attack = "for lock in /var/lib/kubesolo/update/lock /var/lib/kubesolo/update/history.json; do \
                      [ -e $lock ] && ! (: <$lock) 2>/dev/null && echo pod: refused $lock; done; \
                  dd if=/dev/zero of=/var/lib/kubesolo/pod/file bs=64k 2>/dev/null || echo pod: the disk is full";
    let script = format!(
        "mkdir -m 1777 /var/lib/kubesolo/pod; kubesolo-update apply --activate || exit 1\n\
         echo 'pod:x:65534:65534::/:/bin/sh' >>/etc/passwd; echo 'pod:x:65534:' >>/etc/group\n\
         start-stop-daemon -S -p /run/pod -c pod:pod -a /bin/sh -- -c '{attack}'\nsync"
    );
    let mut machine = bench.power_on(&[("1.0.0", &script)])?;
    machine.wait_for("pod: refused /var/lib/kubesolo/update/lock")?;
    machine.wait_for("pod: the disk is full")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let mut machine = bench.power_on(&[("2.0.0", "kubesolo-update status")])?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)
}

pub(super) fn delta(run: &Run) -> Result<()> {
    let bench = Bench::build_with(run, "delta=only\n")?;
    let initramfs = bench.publish_patches("2.0.0")?;
    // A tenth of the image is enough for all documents, the index and the patches. The kernel is copied.
    bench.line.allow(fs::metadata(&initramfs)?.len() / 10)?;
    let script = [("1.0.0", "kubesolo-update apply --activate --reboot"), ("2.0.0", "kubesolo-update verify")];
    let mut machine = bench.power_on(&script)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let written = bench.disk.slot_file(SlotId::B, INITRAMFS)?;
    expect("the initramfs that the device made", &(written == fs::read(initramfs)?), &true)?;
    bench.stays_in("2.0.0", SlotId::B)
}

pub(super) fn panic(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::Panics)?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    for counter in [2, 1, 0] {
        machine.wait_for(&format!("ks: boot slot=B try counter={counter} trial={}", activated.trial))?;
    }
    machine.wait_for("ks: no tries left for slot B: returning to slot A")?;
    bench.is_back_and_remembers(machine, activated)
}

pub(super) fn unhealthy(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::Unhealthy)?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    machine.wait_for(&format!("ks: boot slot=B try counter=2 trial={}", activated.trial))?;
    machine.wait_for("the application does not answer")?;
    bench.is_back_and_remembers(machine, activated)
}

pub(super) fn corrupt_kernel(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    let mut kernel = bench.disk.slot_file(SlotId::B, KERNEL)?;
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    bench.disk.put_slot_file(SlotId::B, KERNEL, &kernel)?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    machine.wait_for("ks: slot B cannot be used")?;
    bench.is_back_and_remembers(machine, activated)
}

pub(super) fn truncated_initramfs(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    let whole = bench.disk.slot_file(SlotId::B, INITRAMFS)?;
    bench.disk.put_slot_file_and_hash(SlotId::B, INITRAMFS, &whole[..whole.len() / 2])?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    for _ in 0..3 {
        machine.wait_for("ks: boot slot=B try")?;
        machine.wait_for("Kernel panic")?;
    }
    bench.is_back_and_remembers(machine, activated)
}

pub(super) fn cut_in_apply(run: &Run) -> Result<()> {
    // By pieces there would be almost nothing to fetch.
    let bench = Bench::build_with(run, "delta=no\n")?;
    let initramfs = fs::metadata(bench.publish("2.0.0", Flaw::None)?)?.len();
    // The kernel is the one that runs, and is copied. A download goes on where the one before it ended, at most.
    let mut before = 0;
    for fetched in [initramfs / 4, initramfs / 2, initramfs - 1000] {
        bench.line.allow(fetched - before)?;
        before = fetched;
        let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply --activate --reboot")])?;
        machine.wait_for("ks: boot slot=A committed")?;
        machine.wait_for(HEALTHY)?;
        bench.line.wait_until_stalled()?;
        // So that what arrived is on its way to the disk.
        thread::sleep(Duration::from_secs(1));
        machine.power_cut()?;
        expect("the environment after the cut", &state(&bench.disk)?, &BootState::committed(SlotId::A))?;
    }
    bench.line.allow(u64::MAX)?;
    let mut machine = bench
        .power_on(&[("1.0.0", "kubesolo-update apply --activate --reboot"), ("2.0.0", "kubesolo-update verify")])?;
    machine.wait_for("ks: boot slot=A committed")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    bench.stays_in("2.0.0", SlotId::B)
}

pub(super) fn cut_after_activation(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    let mut machine = bench.power_on(&[])?;
    machine.wait_for(&format!("ks: boot slot=B try counter=2 trial={}", activated.trial))?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()?;
    bench.stays_in("2.0.0", SlotId::B)
}

/// The power goes in the trial, each time after the kernel has started and before its health check. No try is left then, and
/// the last one is not over.
pub(super) fn cut_before_commit(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let activated = bench.activate(Flaw::None)?;
    for counter in [2, 1] {
        let mut machine = bench.power_on(&[])?;
        machine.wait_for(&format!("ks: boot slot=B try counter={counter}"))?;
        machine.wait_for("restart unless it is decided within")?;
        machine.power_cut()?;
        expect("the environment in the trial", &state(&bench.disk)?, &BootState { counter, ..activated })?;
    }
    let mut machine = bench.power_on(&[])?;
    machine.wait_for("ks: boot slot=B try counter=0")?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()?;
    bench.stays_in("2.0.0", SlotId::B)
}

/// Half of the superblock's sector is of another time: the kernel does not mount such a filesystem, and its copies do not help
/// without e2fsck.
pub(super) fn torn_data(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let mut machine =
        bench.power_on(&[("1.0.0", "echo kept >/var/lib/kubesolo/kept; sync; kubesolo-update history")])?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let disk = fs::File::options().write(true).open(&bench.disk.path)?;
    disk.write_all_at(&[0xa5; 512], bench.disk.data() + 1024)?;
    let mut machine = bench.power_on(&[("1.0.0", "echo \"test: $(cat /var/lib/kubesolo/kept)\"")])?;
    machine.wait_for("(KSOLODATA): repairing it")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: kept")?;
    machine.power_cut()
}

/// The device goes through an update with another disk in front of its own, and runs with it behind. That disk has all labels
/// and a data partition with settings that would break the device. U-Boot starts the first disk that it finds: in front, the
/// other disk would be the booted one.
pub(super) fn second_disk(run: &Run) -> Result<()> {
    const WHERE: &str = "for role in data slot-a slot-b efi; do kubesolo-update disk $role; done; \
        echo \"test: data on $(sed -n 's,^\\(/dev/[a-z]*\\)[0-9] /var/lib/kubesolo .*,\\1,p' /proc/mounts)\"";
    const BEHIND: &str = "a=$(kubesolo-update disk slot-a); b=$(kubesolo-update disk slot-b); \
        kubesolo-update verify --slot-a $b --slot-b $a; echo \"test: slots swapped $?\"; \
        data=$(kubesolo-update disk data); mount -o ro /dev/vdb${data#/dev/vda} /var/lib/kubesolo; \
        kubesolo-update status; echo \"test: data of the other disk $?\"";
    let bench = Bench::build(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let foreign = run.file("foreign.img");
    fs::copy(&bench.disk.path, &foreign)?;
    crate::run(Command::new(tool("sgdisk")?).arg("-G").arg(&foreign))?;

    // From the first boot to the commit.
    let script =
        [("1.0.0", format!("{WHERE}; kubesolo-update apply --activate --reboot")), ("2.0.0", WHERE.to_owned())];
    let script: Vec<_> = script.iter().map(|(version, commands)| (*version, commands.as_str())).collect();
    let mut device = bench.device(&script)?;
    let own = if run.firmware == Firmware::UBoot {
        device.more_disks.push(foreign.clone());
        "test: data on /dev/vda"
    } else {
        device.front_disk = Some(foreign.clone());
        "test: data on /dev/vdb"
    };
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(own)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(own)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)?;

    // Behind. A person swaps the slots, and mounts the data of the other disk.
    let behind = format!("{WHERE}; {BEHIND}");
    let mut device = bench.device(&[("2.0.0", behind.as_str())])?;
    device.more_disks.insert(0, foreign);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for("test: data on /dev/vda")?;
    machine.wait_for("test: slots swapped 78")?;
    machine.wait_for("nothing there is read")?;
    machine.wait_for("test: data of the other disk 78")?;
    machine.power_cut()?;
    expect("the environment afterwards", &state(&bench.disk)?, &committed)?;

    // A copy bit by bit: nothing shows which one was booted.
    let copy = run.file("copy.img");
    fs::copy(&bench.disk.path, &copy)?;
    let before = bench.disk.env_bytes()?;
    for front in [true, false] {
        if front && run.firmware == Firmware::UBoot {
            continue;
        }
        let mut device = bench.device(&script)?;
        if front {
            device.front_disk = Some(copy.clone());
        } else {
            device.more_disks.push(copy.clone());
        }
        let mut machine = Machine::power_on(&device, &run.dir)?;
        machine.wait_for("any of these may be the disk that was booted")?;
        machine.wait_for("degraded: no partition KSOLODATA")?;
        machine.power_cut()?;
        expect("the environment beside a copy", &bench.disk.env_bytes()?, &before)?;
    }
    Ok(())
}

pub(super) fn env_damaged(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    let (main, second) = (bench.disk.env()?, bench.disk.second()?);
    for (names, says) in
        [(&["grubenv"][..], "fallback=env"), (&["ksenv2"], "committed"), (&["grubenv", "ksenv2"], "fallback=env")]
    {
        for (number, name) in names.iter().enumerate() {
            // Alike, the two could not be distinguished on the disk.
            bench.disk.overwrite(name, &[0xa0 + number as u8; SIZE])?;
        }
        let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update status")])?;
        machine.wait_for(&format!("ks: boot slot=A {says}"))?;
        if names.contains(&"grubenv") {
            machine.wait_for("rebuilt the damaged boot environment")?;
        }
        machine.wait_for(HEALTHY)?;
        succeeded(&mut machine)?;
        machine.power_cut()?;
        expect("the main block afterwards", &bench.disk.env()?.view(), &main.view())?;
        expect("the second file afterwards", &bench.disk.second()?.as_second(), &second.as_second())?;
    }
    bench.disk.remove_esp_file("grub/ksenv2")?;
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update status")])?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    expect("the second file that was gone", &bench.disk.second()?.as_second(), &second.as_second())?;
    bench.stays_in("1.0.0", SlotId::A)
}

pub(super) fn mounted_elsewhere(run: &Run) -> Result<()> {
    const HELD: &str = "mkdir /run/held; unshare -m sh -c 'mount -t ext4 /dev/vda3 /run/held && exec sleep 1000' & \
        sleep 5; kubesolo-update apply; (exit $?)";
    let bench = Bench::build(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let before = bench.disk.env()?;
    let mut machine = bench.power_on(&[("1.0.0", HELD)])?;
    machine.wait_for("is mounted elsewhere or in use")?;
    machine.wait_for("No slot was changed.")?;
    machine.wait_for(&format!("{SCRIPT_ENDED}73"))?;
    machine.power_cut()?;
    expect("the environment afterwards", &bench.disk.env()?, &before)?;
    // Nothing is left of it.
    let mut machine = bench.power_on(&[("1.0.0", "kubesolo-update apply")])?;
    succeeded(&mut machine)?;
    machine.power_cut()
}

/// A partition that has its name in the partition table and not one byte of a filesystem, as a factory may leave it.
pub(super) fn blank_slot(run: &Run) -> Result<()> {
    const APPLY: &str = "PATH=/nowhere /usr/bin/kubesolo-update apply; echo \"without mke2fs: $?\"; \
        kubesolo-update apply --activate --reboot";
    let bench = Bench::build(run)?;
    bench.publish("2.0.0", Flaw::None)?;
    let (at, size) = bench.disk.slot(SlotId::B);
    fs::File::options().write(true).open(&bench.disk.path)?.write_all_at(&vec![0; usize::try_from(size)?], at)?;
    let before = bench.disk.env()?;
    let mut machine = bench.power_on(&[("1.0.0", APPLY), ("2.0.0", "kubesolo-update verify")])?;
    machine.wait_for("No slot was changed.")?;
    machine.wait_for("without mke2fs: 73")?;
    expect("the environment after the refusal", &bench.disk.env()?, &before)?;
    machine.wait_for("recreated")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    bench.stays_in("2.0.0", SlotId::B)
}
