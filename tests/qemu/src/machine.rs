//! One virtual device: QEMU with its serial line in a file and QMP on its standard streams.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{Architecture, Result, loaders, tool};

/// How long a device may be silent on what is awaited: some five times of what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How often the serial log is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much of the serial log a failure shows: bytes, then lines, then characters of a line.
const TAIL: (usize, usize, usize) = (30_000, 30, 160);
const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const UEFI_CODE_ARM64: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
const UEFI_VARIABLES_ARM64: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";
/// As Debian builds it, with its own environment: it finds boot.scr by itself. Below the root of the system, or of other
/// bootloaders.
const UBOOT: &str = "usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// The firmware that the device starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// EDK2.
    Uefi,
    /// U-Boot on arm64.
    #[value(name = "u-boot")]
    UBoot,
    /// EDK2 on arm64.
    UefiArm64,
}

impl Firmware {
    /// As the command line spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::UBoot => "u-boot",
            Firmware::UefiArm64 => "uefi-arm64",
        }
    }

    /// The hardware that it runs on.
    #[must_use]
    pub fn architecture(self) -> Architecture {
        match self {
            Firmware::Bios | Firmware::Uefi => Architecture::Amd64,
            Firmware::UBoot | Firmware::UefiArm64 => Architecture::Arm64,
        }
    }
}

/// The hardware.
#[derive(Clone, Debug)]
pub struct Device {
    /// The firmware that it starts with.
    pub firmware: Firmware,
    /// Its disk, raw.
    pub disk: PathBuf,
    /// Writes to the disk fail.
    pub read_only: bool,
    /// Every write and flush of the disk is added to this file, in the format of dm-log-writes.
    pub writes: Option<PathBuf>,
    /// Further raw disks, read-only, in the order in which the guest finds them, after the disk of the device.
    pub more_disks: Vec<PathBuf>,
    /// A raw disk that firmware and kernel find before the disk of the device; the device boots from its own.
    pub front_disk: Option<PathBuf>,
    /// Memory in MiB.
    pub memory: u32,
    /// A network in which the host is 10.0.2.2 and nothing else is needed.
    pub network: bool,
    /// A hardware watchdog (i6300esb) that resets.
    pub watchdog: bool,
    /// QEMU ends where the device would reset.
    pub end_on_reset: bool,
    /// More arguments for QEMU.
    pub more: Vec<String>,
}

impl Device {
    /// A device with 512 MiB and no network.
    #[must_use]
    pub fn new(firmware: Firmware, disk: &Path) -> Self {
        Self {
            firmware,
            disk: disk.to_owned(),
            read_only: false,
            writes: None,
            more_disks: vec![],
            front_disk: None,
            memory: 512,
            network: false,
            watchdog: false,
            end_on_reset: false,
            more: vec![],
        }
    }

    fn command(&self, dir: &Path) -> Result<Command> {
        let (program, machine) = match self.firmware.architecture() {
            Architecture::Amd64 => ("qemu-system-x86_64", &["-machine", "q35"][..]),
            Architecture::Arm64 => ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "cortex-a57"][..]),
        };
        let mut command = Command::new(tool(program)?);
        command.args(machine);
        // KVM opens on some machines and then hangs: emulation works everywhere.
        command.args(["-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-qmp", "stdio", "-m", &self.memory.to_string()]);
        let serial = dir.join("serial.log");
        command.arg("-chardev").arg(option("file,id=serial,append=on,path=", &serial)?);
        command.args(["-serial", "chardev:serial"]);
        let uefi = match self.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some((UEFI_CODE, UEFI_VARIABLES)),
            Firmware::UefiArm64 => Some((UEFI_CODE_ARM64, UEFI_VARIABLES_ARM64)),
            Firmware::UBoot => {
                command.arg("-bios").arg(loaders().unwrap_or("/".into()).join(UBOOT));
                None
            }
        };
        if let Some((code, empty)) = uefi {
            let variables = dir.join("uefi-variables.fd");
            if !variables.exists() {
                fs::copy(empty, &variables)?;
            }
            command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
            command.arg("-drive").arg(option("if=pflash,format=raw,file=", &variables)?);
        }
        let access = if self.read_only { "readonly=on," } else { "" };
        let drive = match &self.writes {
            None => option(&format!("if=none,id=disk0,format=raw,{access}file="), &self.disk)?,
            Some(log) => {
                let disk = option(
                    "if=none,id=disk0,driver=blklogwrites,log-sector-size=512,log-super-update-interval=1,file.filename=",
                    &self.disk,
                )?;
                option(&format!("{disk},log.filename="), log)?
            }
        };
        if let Some(disk) = &self.front_disk {
            command.arg("-drive").arg(option("if=none,id=front,format=raw,file=", disk)?);
            command.args(["-device", "virtio-blk-pci,drive=front,bootindex=2"]);
        }
        command.arg("-drive").arg(drive);
        command.args(["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]);
        for (number, disk) in self.more_disks.iter().enumerate() {
            let id = format!("more{number}");
            command.arg("-drive").arg(option(&format!("if=none,id={id},format=raw,readonly=on,file="), disk)?);
            command.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        if self.network {
            command.args(["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        if self.watchdog {
            command.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if self.end_on_reset {
            command.arg("-no-reboot");
        }
        command.args(&self.more);
        Ok(command)
    }
}

/// A comma would end the value of an option of QEMU.
fn option(before: &str, path: &Path) -> Result<String> {
    let path = path.to_str().ok_or_else(|| format!("{}: QEMU needs a path in UTF-8", path.display()))?;
    Ok(format!("{before}{}", path.replace(',', ",,")))
}

/// A device under power. Dropping it cuts the power.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    qmp: ChildStdin,
    answers: Receiver<Value>,
    serial: PathBuf,
    /// Where in the serial log the next wait begins.
    at: usize,
    /// How long a wait may last.
    pub patience: Duration,
}

impl Machine {
    /// Switches the device on. The serial line is added to `dir/serial.log`.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn power_on(device: &Device, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let serial = dir.join("serial.log");
        let mut log = OpenOptions::new().create(true).append(true).open(&serial)?;
        writeln!(log, "\n=== power on ===")?;
        let at = usize::try_from(log.metadata()?.len())?;
        let complaints = fs::File::create(dir.join("qemu.log"))?;
        let mut command = device.command(dir)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .map_err(|e| format!("cannot run {command:?}: {e}"))?;
        let (qmp, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    break;
                }
            }
        });
        let mut machine = Self { child, qmp, answers, serial, at, patience: PATIENCE };
        machine.command("qmp_capabilities").map_err(|e| {
            let said = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
            format!("QEMU does not start: {e}\n{said}")
        })?;
        Ok(machine)
    }

    /// Plugs in a device of this kind with a drive that the device was built with.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn plug_in(&mut self, driver: &str, drive: &str) -> Result<()> {
        self.command_with("device_add", &json!({ "driver": driver, "drive": drive, "id": drive }))
    }

    /// Limits reads and writes of the disk together to so many bytes per second; 0: no limit.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn slow_disk(&mut self, rate: u64) -> Result<()> {
        let limits =
            json!({ "device": "disk0", "bps": rate, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        self.command_with("block_set_io_throttle", &limits)
    }

    /// One QMP command without arguments.
    fn command(&mut self, name: &str) -> Result<()> {
        self.command_with(name, &json!({}))
    }

    fn command_with(&mut self, name: &str, arguments: &Value) -> Result<()> {
        writeln!(self.qmp, "{}", json!({ "execute": name, "arguments": arguments }))?;
        loop {
            let answer = self.answers.recv_timeout(PATIENCE).map_err(|_| format!("no answer to {name}"))?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{name}: {error}").into());
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn reset(&mut self) -> Result<()> {
        self.command("system_reset")
    }

    /// Pulls the plug: what the guest had not sent to the disk is lost.
    ///
    /// # Errors
    /// QEMU cannot be killed.
    pub fn power_cut(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until a line of the serial log contains `text`, and gives that line. The next wait begins behind it.
    ///
    /// # Errors
    /// The device ends or stays silent about it; the message shows the end of the log.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_any(&[text])
    }

    /// Like [`Machine::wait_for`], for the first line that contains any of `texts`.
    ///
    /// # Errors
    /// As [`Machine::wait_for`].
    pub fn wait_for_any(&mut self, texts: &[&str]) -> Result<String> {
        let end = Instant::now() + self.patience;
        loop {
            // Asked before the log is read, so that the last words of a device that ended are read.
            let ended = self.child.try_wait()?;
            let log = fs::read(&self.serial)?;
            let mut line_at = self.at;
            for line in log[self.at..].split_inclusive(|b| *b == b'\n') {
                line_at += line.len();
                let whole = line.ends_with(b"\n");
                let line = String::from_utf8_lossy(line);
                if whole && texts.iter().any(|text| line.contains(text)) {
                    self.at = line_at;
                    return Ok(plain(&line));
                }
            }
            let why = match ended {
                Some(status) => format!("QEMU ended ({status})"),
                None if Instant::now() > end => format!("{} s went by", self.patience.as_secs()),
                None => {
                    thread::sleep(LOOK);
                    continue;
                }
            };
            return Err(format!("waited for {texts:?} on the serial line, but {why}.\n{}", self.tail()).into());
        }
    }

    /// True while the device is on.
    ///
    /// # Errors
    /// The system does not say.
    pub fn is_on(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until QEMU ends by itself.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        Err(format!("QEMU still runs after {} s.\n{}", PATIENCE.as_secs(), self.tail()).into())
    }

    /// The console output of the device since the last wait.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(plain(&String::from_utf8_lossy(&fs::read(&self.serial)?[self.at..])))
    }

    /// The end of the serial log, as a failure shows it.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.serial)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its own end is not an error here: most scenarios end with the device still running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a serial log, indented, under its name.
#[must_use]
pub fn tail(serial: &Path) -> String {
    let log = fs::read(serial).unwrap_or_default();
    let text = plain(&String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL.0)..]));
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown: String = lines[lines.len().saturating_sub(TAIL.1)..]
        .iter()
        .map(|line| format!("    | {}\n", line.chars().take(TAIL.2).collect::<String>()))
        .collect();
    format!("The end of {}:\n{shown}", serial.display())
}

/// Without carriage returns, control characters and the escape sequences that place the cursor.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    rest.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            '\n' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}
