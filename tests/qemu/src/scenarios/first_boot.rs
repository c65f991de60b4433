//! From the first power-on to an update, with nothing but a seed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::Command;

use bootenv::SlotId;
use bootenv::protocol::{BootState, SlotState};

use super::device::{Bench, Flaw, HEALTHY, succeeded};
use super::{expect, state};
use crate::machine::Machine;
use crate::runner::Run;
use crate::{Result, root, tool};

const USER_DATA: &str = "user-data";
const META_DATA: &str = "meta-data";
const WRITTEN: &str = "cloud-init/update.conf is written from /dev/vdc, instance edge-7";

/// User-data with these settings, which are for the night, and how far an unattended run goes.
fn seed_files(run: &Run, settings: &str) -> Result<[PathBuf; 2]> {
    let block: String = settings.lines().map(|line| format!("  {line}\n")).collect();
    let user_data = format!(
        "#cloud-config\nhostname: edge-7\nupdates:\n{block}  maintenance_window: 02:00-04:00\n  auto: activate\n"
    );
    Ok([run.write(USER_DATA, user_data.as_bytes())?, run.write(META_DATA, b"instance-id: edge-7\n")?])
}

/// Tomorrow at noon, since no clock is believed that is behind the release: arguments for QEMU.
fn noon() -> Result<[String; 2]> {
    let noon = crate::run(Command::new("date").args(["-u", "-d", "tomorrow 12:00", "+%FT%T"]))?;
    Ok(["-rtc".to_owned(), format!("base={}", String::from_utf8_lossy(&noon).trim())])
}

/// The device is in 2.0.0, and its user-data was applied once.
fn is_updated(run: &Run, bench: &Bench) -> Result<()> {
    let said = fs::read(run.file("serial.log"))?;
    expect("times that user-data was applied", &String::from_utf8_lossy(&said).matches(WRITTEN).count(), &1)?;
    is_committed(bench)
}

fn is_committed(bench: &Bench) -> Result<()> {
    let committed = BootState { a: SlotState::Good, counter: 2, ..BootState::committed(SlotId::B) };
    expect("the environment after the commit", &state(&bench.disk)?, &committed)
}

/// The settings come from a volume with the label CIDATA. Outside the window an unattended run waits, and a person on the
/// console stages with `--force`; inside, the unattended run activates and reboots. The settings outlive all of it.
pub(super) fn seed(run: &Run) -> Result<()> {
    let (bench, settings) = Bench::unconfigured(run, None)?;
    bench.publish("2.0.0", Flaw::None)?;
    let files = seed_files(run, &settings)?;
    let volume = run.file("seed.img");
    crate::run(Command::new(tool("mformat")?).args(["-C", "-f", "1440", "-v", "CIDATA", "-i"]).arg(&volume).arg("::"))?;
    crate::run(Command::new(tool("mcopy")?).arg("-i").arg(&volume).args(files).arg("::"))?;

    let mut device = bench.device(&[
        (
            "1.0.0",
            "kubesolo-update run; echo \"test: run outside: $?\"; kubesolo-update apply; echo \"test: apply outside: $?\"; \
             kubesolo-update apply --force; echo \"test: apply --force: $?\"; \
             date -u -s \"$(date -u +%Y-%m-%d) 03:00:00\"; kubesolo-update run",
        ),
        ("2.0.0", "echo \"test: settings: $(grep -c registry= /etc/kubesolo/update.conf)\""),
    ])?;
    device.more_disks.push(volume);
    device.more.extend(noon()?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(WRITTEN)?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: run outside: 75")?;
    machine.wait_for("test: apply outside: 75")?;
    machine.wait_for("test: apply --force: 0")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: settings: 1")?;
    succeeded(&mut machine)?;
    machine.power_cut()?;
    is_updated(run, &bench)
}

/// The commands of the device before the update. The timer is the real one. A change of the clock starts the first run; the
/// calendar starts the last one: the machine-id is one for which the timer elapses five seconds after the hour.
const BEFORE: &str = r#"
run_by_timer() {
    until journalctl --no-pager -u kubesolo-update.service | grep -q 'Finished'; do sleep 1; done
    systemctl show -P Result -P ExecMainStatus kubesolo-update.service | tr '\n' ' '
}
date -u -s "$(date -u +%Y-%m-%d) 12:30:00"
echo "test: timer outside: $(run_by_timer)"
kubesolo-update apply; echo "test: apply outside: $?"
unit=kubesolo-update.service
mkdir -p /etc/credstore /run/systemd/system/$unit.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/kubesolo-update check\n' >/run/systemd/system/$unit.d/check.conf
systemctl daemon-reload
for logins in '{' '{"auths": {"registry.example": {"auth": "dTpw"}}}'; do
    (umask 077; printf '%s' "$logins" >/etc/credstore/registry-auth)
    systemctl start $unit; echo "test: check with a credential: $(systemctl show -P ExecMainStatus $unit)"
done
rm /run/systemd/system/$unit.d/check.conf
systemctl daemon-reload
kubesolo-update apply --force; echo "test: apply --force: $?"
date -u -s "$(date -u -d tomorrow +%Y-%m-%d) 01:59:30"
sleep 600
"#;

/// A Debian with systemd, set up from an ISO 9660 volume that an ordinary user made: the real timer leaves the device alone
/// outside its window, and updates it inside. The units run in their sandboxes, the health service commits.
pub(super) fn systemd(run: &Run) -> Result<()> {
    crate::run(&mut Command::new(root().join("build/scripts/fetch-debian.sh")))?;
    let (bench, settings) = Bench::unconfigured(run, Some(root().join("target/debian/root.cpio.gz")))?;
    bench.publish("2.0.0", Flaw::None)?;
    let volume = run.file("seed.img");
    let mut iso = Command::new(tool("genisoimage")?);
    let files = seed_files(run, &settings)?;
    // As an ordinary user makes it: Rock Ridge (-R) records the owner and the mode.
    for file in &files {
        chown(file, Some(1000), Some(1000))?;
        fs::set_permissions(file, Permissions::from_mode(0o664))?;
    }
    iso.args(["-quiet", "-J", "-R", "-V", "cidata", "-o"]).arg(&volume).args(files);
    crate::run(&mut iso)?;

    // A volume with the label of releases: udev starts the unit, which leaves a fixed disk alone.
    let stick = run.file("stick.img");
    crate::run(Command::new(tool("mke2fs")?).args(["-q", "-t", "ext4", "-L", "KSOLOUPDATE"]).arg(&stick).arg("8M"))?;

    let after = "for second in $(seq 60); do journalctl --no-pager -u 'kubesolo-update-stick@*' | \
                 grep -o 'Finished kubesolo-update-stick@[a-z]*' | sed 's/^/test: /' | grep . && break; sleep 1; done; \
                 systemctl is-active boot-complete.target kubesolo-update-deadline.timer | tr '\\n' ' ' | sed 's/^/test: /'; \
                 echo; journalctl --no-pager -u kubesolo-update-deadline.timer | grep -o Stopped | sed 's/^/test: deadline: /'; \
                 systemctl --failed --no-legend | sed 's/^/test: failed: /'; echo 'test: end'";
    let mut device = bench.device(&[("1.0.0", BEFORE), ("2.0.0", after)])?;
    device.more_disks.extend([volume, stick]);
    device.more.extend(noon()?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(WRITTEN)?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: timer outside: success 75")?;
    machine.wait_for("test: apply outside: 75")?;
    // The unit gets its login as a credential: one that is broken stops it.
    machine.wait_for("test: check with a credential: 78")?;
    machine.wait_for("test: check with a credential: 0")?;
    machine.wait_for("test: apply --force: 0")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    // Half of a long start on a busy machine.
    machine.wait_for("systemd[1]")?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("test: Finished kubesolo-update-stick@vd")?;
    machine.wait_for("test: active inactive")?;
    machine.wait_for("test: deadline: Stopped")?;
    let next = machine.wait_for("test: ")?;
    if !next.contains("test: end") {
        return Err(format!("a unit failed: {next}").into());
    }
    machine.power_cut()?;
    is_updated(run, &bench)
}

/// The step `timer` of the init stage starts while the clock is years ahead. The clock is set back twice, each time some
/// 100 s before the step is due: crond looks at the clock once a minute.
const CRON: &str = r#"
today=$(date -u +%Y-%m-%d)
at() { # HOUR
    date -u -s "@$(($(date -u -d "$today $1:$minute" +%s) - 100))"
}
date -u -s '2040-01-01 12:00'
setsid /usr/lib/kubesolo-update/stage/timer &
sleep 3
minute=$(cut -d ' ' -f 1 /run/kubesolo/crontabs/root)
at 12
until kubesolo-update --json status | grep -q '"reason": "window"'; do sleep 1; done
echo "test: outside at $(date -u +%H)"
at 03
"#;

/// The same with the init stage and busybox: crond calls the agent outside the window, and inside, whatever the
/// clock does.
pub(super) fn crond(run: &Run) -> Result<()> {
    let bench = Bench::build_with(run, "maintenance_window=02:00-04:00\nauto=activate\n")?;
    bench.publish("2.0.0", Flaw::None)?;
    let mut device = bench.device(&[("1.0.0", CRON)])?;
    device.more.extend(noon()?);
    let mut machine = Machine::power_on(&device, &run.dir)?;
    machine.wait_for(HEALTHY)?;
    machine.wait_for("checks for updates at minute")?;
    machine.wait_for("test: outside at 12")?;
    machine.wait_for("ks: boot slot=B try counter=2")?;
    machine.wait_for(HEALTHY)?;
    machine.power_cut()?;
    is_committed(&bench)
}
