//! Conditions of the machine for the next boot: its memory, and the means that end a boot that panics or hangs.

use std::fs;
use std::path::Path;

use bootenv::Fallback;
use bootenv::protocol::{SlotState, View};
use serde::Serialize;

use crate::base::console::progress::size;
use crate::base::error::{Error, Exit, Reason, Result};
use crate::base::{files, text};
use crate::device::blocks::System;
use crate::device::boot::Boot;
use crate::policy::gate::Gate;
use crate::release::release::Release;

/// Facts about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory that the kernel can use, in bytes.
    pub memory: Option<u64>,
    /// How large the root filesystem may become that the initramfs is unpacked into, in bytes.
    pub root_limit: Option<u64>,
}

impl Machine {
    /// Reads `/proc`.
    #[must_use]
    pub fn find(system: &System) -> Self {
        let read = |name: &str| files::read_kernel(&system.proc.join(name)).unwrap_or_default();
        let memory = memory(&read("meminfo"));
        Self { memory, root_limit: memory.map(|memory| root_limit(&read("mounts"), &read("cmdline"), memory)) }
    }
}

fn memory(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The kernel unpacks the initramfs into a tmpfs, which takes half of the memory and no more, or into a ramfs, which knows no
/// limit (`rootfstype=ramfs`, or a `root=`). `/proc/mounts` shows the kind, unless the system has left it.
fn root_limit(mounts: &str, cmdline: &str, memory: u64) -> u64 {
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some("/") && words.next() == Some("rootfs")).then(|| words.next().unwrap_or_default())
    });
    if let Some(options) = root {
        let limit = options.split(',').find_map(|option| option.strip_prefix("size=")?.strip_suffix('k')?.parse().ok());
        return limit.map_or(memory, |kib: u64| kib.saturating_mul(1024));
    }
    let ramfs = |word: &str| word.starts_with("root=") || word == "rootfstype=ramfs";
    if cmdline.split_ascii_whitespace().any(ramfs) { memory } else { memory / 2 }
}

/// True if the release can start in the memory of this machine: the next boot holds kernel, packed and unpacked initramfs
/// at once. Memory in use by other programs does not count, because they end before.
#[must_use]
pub fn memory_gate(release: &Release, boot: &Boot, machine: &Machine) -> Gate {
    if boot.folders() {
        return Gate::open("memory", "slots in folders do not boot");
    }
    fits(release, machine)
}

fn fits(release: &Release, machine: &Machine) -> Gate {
    let name = "memory";
    let Some(unpacked) = release.initramfs_unpacked_size else {
        return Gate::open(name, "the release does not state its unpacked size");
    };
    let Machine { memory: Some(memory), root_limit: Some(limit) } = *machine else {
        return Gate::open(name, "the memory of this machine is unknown");
    };
    let packed = [release.kernel.size, release.initramfs.size].into_iter().flatten().sum::<u64>();
    let need = unpacked.saturating_add(packed);
    let short = |message| {
        let remedy = "Publish a smaller initramfs, or give the machine more memory.";
        Gate::closed(name, Reason::Memory, message, remedy)
    };
    if unpacked > limit {
        let message = format!(
            "the unpacked initramfs has {}, and its filesystem at boot has room for {} on this machine with {} of \
             memory",
            size(unpacked),
            size(limit),
            size(memory)
        );
        return short(message);
    }
    if need > memory {
        let message = format!(
            "a boot needs {} for kernel, packed and unpacked initramfs, and this machine has {} of memory",
            size(need),
            size(memory)
        );
        return short(message);
    }
    Gate::open(name, format!("a boot needs {} of {}", size(need), size(memory)))
}

/// Means that end a failed boot before userspace can.
#[derive(Clone, Debug, Serialize)]
pub struct Safety {
    /// Seconds after which a panic restarts the machine, from the loader file; absent if it never does.
    pub panic_seconds: Option<u32>,
    /// The hardware watchdog; absent if there is none.
    pub watchdog: Option<String>,
}

impl Safety {
    /// By what this boot was started with: the next one comes from the same loader file.
    #[must_use]
    pub fn find(system: &System, cmdline: &str) -> Self {
        Self { panic_seconds: panic_seconds(cmdline), watchdog: watchdog(&system.sys) }
    }

    /// The effect of a panic and of a hang, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let panic = match self.panic_seconds {
            Some(seconds) => format!("a panic reboots after {seconds} s"),
            None => "a panic lasts until somebody cuts the power".into(),
        };
        let hang = match &self.watchdog {
            Some(watchdog) => format!("the watchdog ends a hang ({watchdog})"),
            None => {
                "a hang before the deadline starts lasts until somebody cuts the power: no hardware watchdog".into()
            }
        };
        format!("{panic}; {hang}")
    }

    /// True if a trial may be begun: without `panic=`, a release that panics would never come back.
    ///
    /// # Errors
    /// 78 when it would not.
    pub fn required(&self) -> Result<()> {
        if self.panic_seconds.is_some() {
            return Ok(());
        }
        let message = "a trial that panics would never end: the kernel command line has no panic= above 0";
        Err(Error::new(Reason::NoPanicTimeout, message)
            .remedy("Start kernels with panic=5 in the loader file (see grub/kernel-args.cfg), and reboot once."))
    }
}

/// Refuses to begin a trial with a bootloader that cannot check hashes. Such a bootloader finds no slot complete, and starts
/// the active one all the same (`ks.fallback=load`): the new release would run, and not as a trial.
///
/// The agent itself reads the slot. If its images are right although the bootloader was asked to start it and found it
/// incomplete, then the fault is the bootloader's.
///
/// # Errors
/// 78 when this bootloader cannot, or when the slot cannot be read.
pub fn loader_hashes(boot: &Boot, system: &System) -> Result<()> {
    let slot = boot.booted.slot;
    // A health run of this boot may have made the booted slot the active one.
    let asked = system.first_active().filter(|_| !boot.folders()).or(boot.active());
    let marked_bad = matches!(boot.env.view(), View::Ours(env) if env.slot(slot) != SlotState::Good);
    if boot.booted.fallback != Some(Fallback::Load) || asked != Some(slot) || marked_bad {
        return Ok(());
    }
    match boot.slots.get(slot).hashes() {
        Err(damage) if damage.exit() == Exit::Data => return Ok(()),
        found => found?,
    };
    let lacking = boot.env.commands().hash;
    let message = format!(
        "the bootloader found slot {slot} incomplete (ks.fallback=load), and it is complete: the bootloader lacks {lacking}, \
         so it cannot check hashes"
    );
    Err(Error::new(Reason::LoaderCannotHash, message).remedy("Install the bootloader again with it, and reboot."))
}

/// The same of this boot; `None` where the slots are folders, and what this machine was booted with is nobody's business.
#[must_use]
pub fn safety(boot: &Boot) -> Option<Safety> {
    boot.line.as_ref().map(|line| Safety::find(&System::default(), line))
}

/// The last one counts, as for the kernel. A negative number reboots at once.
fn panic_seconds(cmdline: &str) -> Option<u32> {
    let last = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("panic=")).next_back()?;
    match last.parse::<i64>().ok()? {
        0 => None,
        seconds => Some(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)),
    }
}

/// The first one's name. The kernel's own `softdog` is none: it hangs with the kernel.
fn watchdog(sys: &Path) -> Option<String> {
    let entries = fs::read_dir(sys.join("class/watchdog")).ok()?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.iter().find_map(|path| {
        let identity = files::read_kernel(&path.join("identity")).unwrap_or_default();
        let name = path.file_name()?.to_str()?;
        let identity = text::escape(identity.trim());
        (identity != "Software Watchdog").then(|| if identity.is_empty() { name.to_owned() } else { identity })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::release::Release;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn release(unpacked: Option<u64>) -> Release {
        let hex = "00".repeat(32);
        let unpacked =
            unpacked.map_or(String::new(), |size| format!(r#","io.kubesolo.os.initramfs_unpacked_size":"{size}""#));
        let layer = |kind: &str, size| {
            format!(r#"{{"mediaType":"application/vnd.kubesolo.os.{kind}","digest":"sha256:{hex}","size":{size}}}"#)
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"sha256:{hex}","size":2}},"layers":[{},{}],
               "annotations":{{"io.kubesolo.os.version":"1.0.0","io.kubesolo.os.architecture":"amd64"{unpacked}}}}}"#,
            layer("kernel.v1+octet-stream", 10 * MIB),
            layer("initramfs.v1+gzip", 130 * MIB),
        );
        Release::from_oci_manifest(manifest.as_bytes()).unwrap()
    }

    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let system = System {
            sys: dir.path().join("sys"),
            dev: dir.path().join("dev"),
            proc: dir.path().join("proc"),
            ..System::default()
        };
        (dir, system)
    }

    #[test]
    fn what_does_not_fit_into_the_memory_is_refused_with_both_numbers() {
        for (unpacked, memory, limit, open, words) in [
            (Some(400 * MIB), GIB, GIB / 2, true, "540.0 MiB of 1.0 GiB"),
            (Some(512 * MIB), GIB, GIB / 2, true, ""),
            // The tmpfs of the initramfs takes half.
            (Some(513 * MIB), GIB, GIB / 2, false, "has 513.0 MiB"),
            (Some(513 * MIB), GIB, GIB, true, ""),
            // Packed and unpacked are there at once.
            (Some(900 * MIB), GIB, GIB, false, "a boot needs 1.0 GiB"),
            (Some(u64::MAX), GIB, GIB, false, ""),
            (None, GIB, GIB / 2, true, "does not state"),
        ] {
            let machine = Machine { memory: Some(memory), root_limit: Some(limit) };
            let gate = fits(&release(unpacked), &machine);
            assert!(gate.open == open && gate.message.contains(words), "{unpacked:?}: {gate:?}");
            assert!(open || gate.reason == Some(Reason::Memory));
        }
        assert!(fits(&release(Some(u64::MAX)), &Machine::default()).open, "nothing is refused on a guess");
    }

    #[test]
    fn the_limit_of_the_root_filesystem_is_that_of_this_boot_or_half_of_the_memory() {
        let meminfo = "MemTotal:        1000000 kB\nMemFree:          100 kB\nMemAvailable:  200 kB\n";
        for (mounts, cmdline, limit) in [
            ("", "quiet", 500_000),
            ("proc /proc proc rw 0 0\n", "quiet root=/dev/vda", 1_000_000),
            ("", "rootfstype=ramfs", 1_000_000),
            ("none / rootfs rw,size=480000k,nr_inodes=1 0 0\n", "quiet", 480_000),
            ("rootfs / rootfs rw 0 0\n", "quiet", 1_000_000),
        ] {
            let (_dir, system) =
                system(&[("proc/meminfo", meminfo), ("proc/mounts", mounts), ("proc/cmdline", cmdline)]);
            let expected = Machine { memory: Some(1_000_000 * 1024), root_limit: Some(limit * 1024) };
            assert_eq!(Machine::find(&system), expected, "{mounts:?} {cmdline}");
        }
        assert_eq!(Machine::find(&system(&[]).1), Machine::default());
    }

    #[test]
    fn a_trial_needs_a_panic_that_reboots() {
        for (cmdline, seconds) in [
            ("quiet panic=5 kubesolo.slot=A", Some(5)),
            ("panic=5 panic=0", None),
            ("panic=0 panic=30", Some(30)),
            ("panic=-1", Some(0)),
            ("quiet", None),
            ("panic=", None),
            ("panic=soon", None),
            ("xpanic=5 panic_on_oops=1", None),
        ] {
            let safety = Safety::find(&system(&[]).1, cmdline);
            assert_eq!(safety.panic_seconds, seconds, "{cmdline}");
            match safety.required() {
                Ok(()) => assert!(seconds.is_some()),
                Err(error) => assert_eq!(error.reason, Reason::NoPanicTimeout),
            }
        }
    }

    #[test]
    fn a_watchdog_of_the_hardware_is_named_and_the_kernels_own_is_none() {
        let find = |files: &[(&str, &str)]| Safety::find(&system(files).1, "panic=5");
        assert_eq!(find(&[]).watchdog, None);
        assert_eq!(find(&[("sys/class/watchdog/watchdog0/identity", "Software Watchdog\n")]).watchdog, None);
        let both = find(&[
            ("sys/class/watchdog/watchdog0/identity", "Software Watchdog\n"),
            ("sys/class/watchdog/watchdog1/identity", "i6300ESB timer\n"),
        ]);
        assert_eq!(both.words(), "a panic reboots after 5 s; the watchdog ends a hang (i6300ESB timer)");
        assert!(find(&[]).words().contains("until somebody cuts the power: no hardware watchdog"));
    }
}
