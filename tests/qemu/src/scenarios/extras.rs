//! A release with kernel arguments and, with U-Boot, a device tree: on trial with it, and back with the release before.

use std::path::PathBuf;
use std::process::Command;

use bootenv::SlotId;

use super::device::{Bench, Flaw, HEALTHY, SCRIPT_ENDED, succeeded};
use super::{expect, state};
use crate::machine::Firmware;
use crate::runner::Run;
use crate::{Result, tool};

/// QEMU's own tree for the virtual board, with a name in it.
fn tree(run: &Run, name: &str) -> Result<PathBuf> {
    let (dumped, tree) = (run.file(&format!("{name}.dump")), run.file(&format!("{name}.dtb")));
    let machine = format!("virt,dumpdtb={}", dumped.display());
    let mut board = Command::new(tool("qemu-system-aarch64")?);
    crate::run(board.args([
        "-machine",
        &machine,
        "-cpu",
        "cortex-a57",
        "-m",
        "512",
        "-nodefaults",
        "-display",
        "none",
    ]))?;
    crate::run(Command::new(tool("fdtput")?).args(["-t", "s"]).arg(&dumped).args(["/", "kubesolo,test", name]))?;
    // QEMU pads its tree to 1 MiB.
    crate::run(Command::new(tool("dtc")?).args(["-q", "-I", "dtb", "-O", "dtb", "-o"]).arg(&tree).arg(&dumped))?;
    Ok(tree)
}

/// Publishes a release with an argument, and with a tree for U-Boot.
fn publish(bench: &Bench, run: &Run, version: &str, flaw: Flaw) -> Result<()> {
    let major = &version[..1];
    let initramfs = bench.initramfs(version, flaw)?;
    let architecture = run.firmware.architecture();
    let mut publish = bench.publishing(version, &[(architecture, &initramfs)])?;
    publish.args(["--kernel-args", &format!("story.release={major} loglevel=4")]);
    publish.args(["--requires", "kernel-args loader-1", "--min-compatible-version", "1.0.0"]);
    if run.firmware == Firmware::UBoot {
        publish.arg("--arm64-dtb").arg(tree(run, &format!("tree-{major}"))?);
    }
    crate::run(&mut publish).map(drop)
}

/// A script that fails unless the kernel has the argument and the tree of this release.
fn has(run: &Run, major: u8) -> String {
    let arguments = format!("grep -q ' panic=5 story.release={major} loglevel=4 ' /proc/cmdline || exit 11");
    let one = "[ $(grep -o story.release= /proc/cmdline | wc -l) = 1 ] || exit 12".to_owned();
    let origin = format!("kubesolo-update status -v | grep -q 'by release:.*story.release={major}' || exit 13");
    let tree = format!("[ \"$(tr -d '\\0' </proc/device-tree/kubesolo,test)\" = tree-{major} ] || exit 14");
    let mut all = vec![arguments, one, origin];
    if run.firmware == Firmware::UBoot {
        all.push(tree);
    }
    all.join("; ")
}

pub(super) fn on_trial(run: &Run) -> Result<()> {
    let bench = Bench::build(run)?;
    publish(&bench, run, "2.0.0", Flaw::None)?;
    let none = "! grep -q story.release /proc/cmdline || exit 10";
    let first = format!("{none}; kubesolo-update apply --activate --reboot");
    let mut machine = bench.power_on(&[("1.0.0", &first), ("2.0.0", &has(run, 2))])?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    expect("the good slot", &state(&bench.disk)?.good, &SlotId::B)?;

    // Another argument and another tree are tried, fail, and the old ones are back.
    publish(&bench, run, "3.0.0", Flaw::Unhealthy)?;
    let second = format!("{}; kubesolo-update apply --activate --reboot", has(run, 2));
    let mut machine = bench.power_on(&[("2.0.0", &second)])?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=A try counter=2")?;
    machine.wait_for("ks: boot slot=B committed")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for(&format!("{SCRIPT_ENDED}75"))?;
    machine.power_cut()?;
    expect("the good slot", &state(&bench.disk)?.good, &SlotId::B)?;

    // A release that adds nothing starts with nothing of the one that was in its slot.
    let plain = bench.initramfs("4.0.0", Flaw::None)?;
    bench.push("4.0.0", &[(run.firmware.architecture(), &plain)])?;
    let third = format!("{}; kubesolo-update apply --activate --reboot", has(run, 2));
    let mut machine = bench.power_on(&[("2.0.0", &third), ("4.0.0", none)])?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("ks: boot slot=A try counter=2")?;
    machine.wait_for(HEALTHY)?;
    succeeded(&mut machine)?;
    machine.power_cut()
}
