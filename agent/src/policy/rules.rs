//! May this release be installed here and now? Each gate gives a verdict, even when an earlier one is closed.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use semver::Version;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};
use crate::config::{Config, DeltaSetting};
use crate::device::cmdline::Origins;
use crate::policy::gate::{Gate, Lifted};
use crate::policy::requires;
use crate::release::release::{Architecture, Blob, Patches, Release};
use crate::schedule::clock::{self, Clock};
use crate::schedule::rollout::{Place, Wariness};
use crate::schedule::window::Window;
use crate::schedule::zone::Zone;
use crate::state::fetches::WrongBytes;
use crate::state::state::Waiting;

/// Name of the gate for the waves of a phased rollout.
pub const ROLLOUT: &str = "rollout";
/// The longest that a server can keep a device from asking, whatever it says.
pub const PAUSE_MAX: Duration = Duration::from_hours(24);

/// The maintenance window.
///
/// # Errors
/// 78 when its zone cannot be used.
pub fn window(config: &Config, lifted: Lifted, clock: &Clock) -> Result<Gate> {
    let name = "maintenance-window";
    let (window, zone) = (&config.maintenance_window, Zone::open(config.maintenance_zone.as_deref())?);
    let now = match clock.believed() {
        _ if *window == Window::default() => return Ok(Gate::open(name, window.to_string())),
        Ok(now) => now,
        Err(e) if lifted.force => return Ok(Gate::open(name, format!("{}; allowed by --force", e.message))),
        Err(e) => return Ok(Gate::closed(name, e.reason, e.message, e.remedy)),
    };
    let (day, minute) = zone.wall_clock(now);
    if window.contains(day, minute) {
        return Ok(Gate::open(name, window.to_string()));
    }
    if lifted.force {
        return Ok(Gate::open(name, format!("outside {window}; allowed by --force")));
    }
    let clock = format!("{day} {:02}:{:02} {}", minute / 60, minute % 60, zone.name());
    let message = format!("it is {clock}, outside the maintenance window {window}");
    let opens_at = window.opens_at(&zone, now);
    let remedy = match opens_at {
        Some(_) => "Wait for the window, or run `kubesolo-update apply --force`.",
        None => "This window never opens: set another one, or run `kubesolo-update apply --force`.",
    };
    Ok(Gate::closed(name, Reason::Window, message, remedy).opening(opens_at))
}

/// Open if no Retry-After is in effect. A person's `apply` ignores it.
#[must_use]
pub fn not_before(until: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Gate {
    let name = "not-before";
    // Further ahead than it can be: the clock was wrong then, or is now.
    let longest = TimeDelta::from_std(PAUSE_MAX).unwrap_or_default();
    let Some(until) = until.filter(|until| now < *until && *until - now <= longest) else {
        return Gate::open(name, "no Retry-After in effect");
    };
    let shown = clock::shown(until);
    let message = format!("the server's Retry-After is in effect until {shown}");
    let remedy = "Wait, or run `kubesolo-update apply`, which ignores it.";
    Gate::closed(name, Reason::NotBefore, message, remedy).opening(Some(until))
}

/// Open if the clock can be right, for a release that asks how late it is.
#[must_use]
pub fn clock(clock: &Clock, release: &Release) -> Gate {
    let name = "clock";
    match clock.believed() {
        Ok(_) => Gate::open(name, if clock.synchronised { "synchronised" } else { "not synchronised" }),
        Err(error) if release.rollout.is_none() => {
            Gate::open(name, format!("{}; this release does not depend on it", error.message))
        }
        Err(error) => Gate::unless(name, Err::<String, _>(error)),
    }
}

/// Open if the wave of this device, which follows from `id`, has come.
#[must_use]
pub fn rollout(config: &Config, id: Option<&str>, lifted: Lifted, release: &Release, now: DateTime<Utc>) -> Gate {
    let name = ROLLOUT;
    let Some(rollout) = &release.rollout else { return Gate::open(name, "for all devices") };
    let share = rollout.share(now);
    let place = id.map(|id| Place::draw(id, release.digest).shifted(config.wariness));
    if place.map_or(share == 100, |place| place.is_within(share)) {
        return Gate::open(name, format!("{share} % of the devices may install it by now"));
    }
    let place = place.map_or("has no id yet, and so no place".to_owned(), |place| format!("is at {place}"));
    let message = format!("{share} % of the devices may install it by now, and this one {place} ({})", rollout.waves);
    if lifted.ignore_rollout {
        return Gate::open(name, format!("{message}; allowed by --ignore-rollout"));
    }
    let opens_at = id.and_then(|id| rollout.opens_at(Place::draw(id, release.digest).shifted(config.wariness)));
    Gate::unless(name, Err::<String, _>(not_this_wave(message, opens_at))).opening(opens_at)
}

/// The refusal of a device whose wave has not come.
#[must_use]
pub fn not_this_wave(message: String, opens_at: Option<DateTime<Utc>>) -> Error {
    let remedy = match opens_at {
        Some(_) => "Wait for the wave, or run `kubesolo-update apply --ignore-rollout`.",
        None => {
            "No wave of this release reaches this device: publish it with more waves, or run `kubesolo-update apply \
             --ignore-rollout`."
        }
    };
    Error::new(Reason::Rollout, message).remedy(remedy)
}

/// Record of a rollout gate that is closed and opens by itself.
#[must_use]
pub fn waiting(document: Digest, wariness: Wariness, wave: &Gate) -> Option<Waiting> {
    let until = wave.opens_at.filter(|_| !wave.open)?;
    Some(Waiting { document, wariness: wariness.percent(), until, message: wave.message.clone() })
}

/// Facts that a release is compared with.
#[derive(Debug)]
pub struct Device<'a> {
    /// The channel that this device follows; `None`: any.
    pub channel: Option<&'a str>,
    /// The board that this device is; `None`: it does not say.
    pub board: Option<&'a str>,
    /// The running version, if it is known.
    pub running: Option<&'a Version>,
    /// The running release's digest, if it is known.
    pub running_digest: Option<Digest>,
    /// Words of the kernel command line; `None`: nothing boots the slots.
    pub booted: Option<Origins>,
    /// True if the slots are folders, where an unknown running version does not hold an update back.
    pub folders: bool,
    /// The highest security epoch that was committed here.
    pub epoch: u64,
    /// The highest that is known here besides the release's own; `None`: the device knows none.
    pub known_epoch: Option<u64>,
    /// Keys that the files of this device set to anything.
    pub keys: &'a BTreeSet<String>,
    /// Gates that a person bypasses.
    pub lifted: Lifted,
    /// When and why this very release failed before.
    pub failed: Option<String>,
}

/// The gates that look at the release, in the contract's order.
#[must_use]
pub fn release(release: &Release, device: &Device<'_>) -> Vec<Gate> {
    vec![
        channel(release, device.channel),
        architecture(release),
        board(release, device.board),
        minimum(release, device),
        requires::gate(release, device.booted.as_ref()),
        settings(release, device.keys),
        security_epoch(release, device),
        version(release, device),
        failed_before(device),
    ]
}

/// Open if the release is for the channel `ours`, if it names one and the device follows one.
#[must_use]
pub fn channel(release: &Release, ours: Option<&str>) -> Gate {
    match (&release.channel, ours) {
        (Some(theirs), Some(ours)) if theirs != ours => Gate::closed(
            "channel",
            Reason::OtherChannel,
            format!("the release is for channel {}, this device follows {}", text::escape(theirs), text::escape(ours)),
            "Set channel= if this device should follow the other channel.",
        ),
        (Some(theirs), _) => Gate::open("channel", text::escape(theirs)),
        (None, _) => Gate::open("channel", "the release names none"),
    }
}

/// Open if the release is for the architecture of this program.
#[must_use]
pub fn architecture(release: &Release) -> Gate {
    let here = Architecture::current();
    if release.architecture == here {
        return Gate::open("architecture", here.to_string());
    }
    Gate::closed(
        "architecture",
        Reason::WrongArchitecture,
        format!("the release is for {}, this device is {here}", release.architecture),
        "Publish the release for this architecture too.",
    )
}

/// Open if the release is for the board `ours`, if it names one.
#[must_use]
pub fn board(release: &Release, ours: Option<&str>) -> Gate {
    let name = "board";
    let closed = |message: String, remedy: &str| Gate::closed(name, Reason::OtherBoard, message, remedy);
    match (&release.board, ours) {
        (None, _) => Gate::open(name, "the release names none"),
        (Some(theirs), Some(ours)) if theirs == ours => Gate::open(name, text::escape(theirs)),
        (Some(theirs), Some(ours)) => closed(
            format!("the release is for board {}, this device is {}", text::escape(theirs), text::escape(ours)),
            "Publish a release for this board, under a tag of its own.",
        ),
        (Some(theirs), None) => closed(
            format!("the release is for board {}, and the board of this device is not set", text::escape(theirs)),
            "Set board= if this device is of that board.",
        ),
    }
}

fn minimum(release: &Release, device: &Device<'_>) -> Gate {
    let name = "minimum-version";
    let Some(minimum) = &release.min_compatible_version else {
        return Gate::open(name, "the release has none");
    };
    match device.running {
        Some(running) if running.cmp_precedence(minimum).is_lt() => Gate::closed(
            name,
            Reason::TooOld,
            format!("the release needs version {minimum} or later, and {running} is running"),
            format!("Update to a release between {running} and {minimum} first."),
        ),
        Some(_) => Gate::open(name, format!("{minimum} or later")),
        None => Gate::closed(
            name,
            Reason::VersionUnknown,
            format!("the release needs version {minimum} or later, and the running version is unknown"),
            "Set version_file= to the file with the running version.",
        ),
    }
}

/// Open if this device sets the keys that the agent in the release cannot do without.
fn settings(release: &Release, keys: &BTreeSet<String>) -> Gate {
    let name = "settings";
    let Some(settings) = &release.agent_settings else {
        return Gate::open(name, "the release does not name the settings of its agent");
    };
    let missing: Vec<&str> = settings.missing(keys).collect();
    if missing.is_empty() {
        return Gate::open(name, "its agent lacks no setting");
    }
    Gate::closed(
        name,
        Reason::SettingMissing,
        format!("the agent of the release needs settings that this device does not have: {}", missing.join(", ")),
        "Set them in update.conf. The running agent ignores a key that it does not know.",
    )
}

fn security_epoch(release: &Release, device: &Device<'_>) -> Gate {
    let name = "security-epoch";
    let (theirs, floor) = (release.security_epoch, device.epoch);
    if let Some(known) = device.known_epoch.filter(|known| theirs > known.saturating_add(limits::EPOCH_STEP)) {
        let step = limits::EPOCH_STEP;
        return Gate::closed(
            name,
            Reason::EpochJump,
            format!("the release has security epoch {theirs}, more than {step} above {known}, the highest known here"),
            format!("Publish a release of an epoch up to {} first, and install it.", known.saturating_add(step)),
        );
    }
    if theirs >= floor {
        return Gate::open(name, format!("{theirs}, and this device committed {floor}"));
    }
    Gate::closed(
        name,
        Reason::SecurityEpoch,
        format!("the release has security epoch {theirs}, and this device committed {floor}: it has known holes"),
        "Publish a release of that epoch or a higher one: no option bypasses this gate.",
    )
}

fn version(release: &Release, device: &Device<'_>) -> Gate {
    let name = "version";
    let Some(running) = device.running else {
        if device.folders || device.lifted.allow_downgrade {
            return Gate::open(name, "the running version is unknown");
        }
        return Gate::closed(
            name,
            Reason::VersionUnknown,
            "the running version is unknown: the booted slot has no manifest",
            "Set version_file=, or run `kubesolo-update apply --allow-downgrade`.",
        );
    };
    let held = if release.version.cmp_precedence(running).is_lt() {
        (Reason::Downgrade, format!("{} is older than the running version {running}", release.version))
    } else if release.version.cmp_precedence(running).is_eq()
        && device.running_digest.is_some_and(|digest| digest != release.digest)
    {
        (Reason::SameVersion, format!("{} is the running version, and this is another release of it", release.version))
    } else {
        return Gate::open(name, format!("{} after {running}", release.version));
    };
    if device.lifted.allow_downgrade {
        return Gate::open(name, format!("{}; allowed by --allow-downgrade", held.1));
    }
    Gate::closed(name, held.0, held.1, "Run `kubesolo-update apply --allow-downgrade` to install it.")
}

/// The next step after a failed trial.
pub const AFTER_FAILURE: &str = "Publish a fixed release, or run `kubesolo-update apply --retry-failed`.";

fn failed_before(device: &Device<'_>) -> Gate {
    let name = "failed-before";
    match &device.failed {
        None => Gate::open(name, "not tried before"),
        Some(when) if device.lifted.retry_failed => Gate::open(name, format!("{when}; allowed by --retry-failed")),
        Some(when) => Gate::closed(
            name,
            Reason::FailedBefore,
            format!("this release failed on this device: {when}"),
            AFTER_FAILURE,
        ),
    }
}

/// Open if no image came with wrong bytes, or long enough ago; `wrong` is the memory of a download.
#[must_use]
pub fn bytes_failed_before(wrong: Option<&WrongBytes>, lifted: Lifted) -> Gate {
    let name = "bytes-failed-before";
    let Some(wrong) = wrong else { return Gate::open(name, "no image is known for wrong bytes") };
    let (digest, at) = (wrong.digest, clock::shown(wrong.failed_at));
    let message = format!("image {digest} came with wrong bytes, the last time at {at}");
    if lifted.retry_failed {
        return Gate::open(name, format!("{message}; allowed by --retry-failed"));
    }
    let until = wrong.opens_at();
    let shown = clock::shown(until);
    let remedy = format!(
        "Wait until {shown}: it is not fetched before. If the server has the right bytes by now, run `kubesolo-update apply \
         --retry-failed`."
    );
    Gate::closed(name, Reason::BytesFailedBefore, message, remedy).opening(Some(until))
}

/// Open if the agent in the release saves the data before a trial changes them. An agent that does not is only a risk that is
/// named where nobody chose the folders.
#[must_use]
pub fn data_unprotected(config: &Config, release: Option<&Release>, lifted: Lifted) -> Gate {
    let name = "data-unprotected";
    let layout = release.map_or(0, |release| release.data_layout);
    if layout > 0 {
        return Gate::open(name, format!("the agent of the release saves the data before its trial, layout {layout}"));
    }
    let message = "the release does not say that its agent saves the data: what its trial changes cannot be taken back";
    match (&config.state_paths, lifted.allow_unprotected_data) {
        (_, true) => Gate::open(name, format!("{message}; allowed by --allow-unprotected-data")),
        (None, _) => Gate::unknown(name, message),
        (Some(_), _) => Gate::closed(
            name,
            Reason::DataUnprotected,
            message,
            "Publish it with --data-layout 1 if its agent is 0.2 or later; else back up the data, and use \
             --allow-unprotected-data.",
        ),
    }
}

/// Open unless `delta=only` would have the whole initramfs fetched, as far as the release itself shows that. `at_hand`: nothing
/// of it is fetched. `patches` are those that fit this device.
#[must_use]
pub fn delta(setting: DeltaSetting, release: &Release, at_hand: bool, patches: Option<&Patches>) -> Gate {
    let name = "delta";
    match (release.pieces, setting) {
        _ if at_hand => Gate::open(name, "the initramfs is at hand"),
        (_, DeltaSetting::No) => Gate::open(name, "delta=no: the initramfs is fetched whole"),
        (Some(Blob { size, .. }), _) => {
            let patches = patches.map_or(String::new(), |one| {
                format!(", and patches from {} of {} bytes", one.from_version, one.blob.size)
            });
            Gate::open(name, format!("the release has an index of pieces of {size} bytes{patches}"))
        }
        (None, DeltaSetting::Yes) => {
            Gate::open(name, "the release has no index of pieces: the initramfs is fetched whole")
        }
        (None, DeltaSetting::Only) => Gate::closed(
            name,
            Reason::DeltaOnly,
            "no delta is possible: the release has no index of pieces",
            "Wait for a release with a delta, or set delta=yes to fetch the whole image.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Conf, Overrides};
    use crate::schedule::clock::build_date;

    fn config(text: &str) -> Config {
        Config::resolve(&Conf::parse(text.as_bytes(), "conf").unwrap(), &Overrides::default()).unwrap()
    }

    /// A release of the day of the build, with these waves.
    fn release(waves: &str) -> Release {
        let layer = |kind: &str| {
            let media_type = format!("application/vnd.kubesolo.os.{kind}");
            serde_json::json!({"mediaType": media_type, "digest": Digest([0; 32]), "size": 1})
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "x", "digest": Digest([0; 32]), "size": 2},
            "layers": [layer("kernel.v1+octet-stream"), layer("initramfs.v1+gzip")],
            "annotations": {
                "io.kubesolo.os.version": "1.0.0",
                "io.kubesolo.os.architecture": Architecture::current().to_string(),
                "io.kubesolo.os.release_date": build_date().to_rfc3339(),
                "io.kubesolo.os.rollout": waves,
            },
        });
        Release::from_oci_manifest(manifest.to_string().as_bytes()).unwrap()
    }

    fn after_build(hours: i64) -> Clock {
        Clock { shown: build_date() + TimeDelta::hours(hours), synchronised: false, last_seen: None }
    }

    const STOPPED: Clock = Clock { shown: DateTime::UNIX_EPOCH, synchronised: false, last_seen: None };
    const FORCE: Lifted = Lifted {
        force: true,
        retry_failed: false,
        allow_downgrade: false,
        ignore_rollout: false,
        allow_single_copy: false,
        allow_unprotected_data: false,
    };

    fn told(gate: &Gate) -> Option<(u8, &'static str)> {
        gate.refusal().map(|error| (error.exit().code(), error.reason.as_str()))
    }

    /// Exit code and reason of a closed gate; `None` for an open one. The build was at midnight.
    #[test]
    fn a_table_of_windows_and_clocks() {
        let (no, yes) = (Lifted::default(), FORCE);
        for (conf, clock, lifted, expected) in [
            ("", after_build(0), no, None),
            ("", STOPPED, no, None), // who has no window has no clock to go by
            ("maintenance_window=00:00-24:00", after_build(0), no, None),
            ("maintenance_window=02:00-04:00", after_build(1), no, Some((75, "window"))),
            ("maintenance_window=02:00-04:00", after_build(2), no, None),
            ("maintenance_window=02:00-04:00", after_build(4), no, Some((75, "window"))),
            ("maintenance_window=02:00-04:00", after_build(4), yes, None),
            ("maintenance_window=02:00-04:00\nmaintenance_zone=CET-1", after_build(1), no, None),
            ("maintenance_window=03:00-03:00", after_build(3), no, Some((75, "window"))),
            // A clock in 1970 shows a time, but not the right one.
            ("maintenance_window=00:00-24:00", STOPPED, no, Some((75, "clock"))),
            ("maintenance_window=00:00-24:00", STOPPED, yes, None),
        ] {
            assert_eq!(told(&window(&config(conf), lifted, &clock).unwrap()), expected, "{conf} {clock:?} {lifted:?}");
        }
        let error = window(&config("maintenance_zone=Nowhere/Land"), no, &after_build(0)).unwrap_err();
        assert_eq!(error.reason, Reason::BadZone);
    }

    #[test]
    fn a_window_stays_closed_while_the_clock_cannot_be_right_and_force_opens_it() {
        let all_day = "maintenance_window=00:00-24:00";
        let behind = Clock { last_seen: Some(after_build(26).shown), ..after_build(1) };
        let gate = |conf, clock: &Clock, lifted| told(&window(&config(conf), lifted, clock).unwrap());
        assert_eq!(gate(all_day, &after_build(1), Lifted::default()), None);
        assert_eq!(gate(all_day, &behind, Lifted::default()), Some((75, "clock")));
        assert_eq!(gate(all_day, &behind, FORCE), None);
        assert_eq!(gate("", &behind, Lifted::default()), None, "no window needs no clock");
    }

    #[test]
    fn a_clock_that_cannot_be_right_holds_back_only_what_asks_it() {
        assert_eq!(told(&clock(&after_build(0), &release("5%@0h"))), None);
        assert_eq!(told(&clock(&STOPPED, &release(""))), None);
        assert_eq!(told(&clock(&STOPPED, &release("5%@0h"))), Some((75, "clock")));
        let lost = Clock { last_seen: Some(build_date() + TimeDelta::days(90)), ..after_build(0) };
        assert_eq!(told(&clock(&lost, &release("5%@0h"))), Some((75, "clock")));
    }

    #[test]
    fn a_table_of_waves() {
        let ignore = Lifted { ignore_rollout: true, ..Lifted::default() };
        let none = Lifted::default();
        for (waves, wariness, hours, lifted, id, open, opens_after) in [
            ("", 100, 0, none, Some("x"), true, None),
            ("5%@0h,100%@72h", 0, 0, none, Some("x"), true, None),
            ("5%@0h,100%@72h", 0, -1, none, Some("x"), false, Some(0)),
            ("5%@0h,100%@72h", 100, 71, none, Some("x"), false, Some(72)),
            ("5%@0h,100%@72h", 100, 72, none, Some("x"), true, None),
            ("5%@0h,99%@72h", 100, 9999, none, Some("x"), false, None),
            ("5%@0h,99%@72h", 100, 0, ignore, Some("x"), true, None),
            // Without an id nobody can say which wave it is.
            ("5%@0h,100%@72h", 0, 0, none, None, false, None),
            ("5%@0h,100%@72h", 0, 72, none, None, true, None),
        ] {
            let config = config(&format!("wariness={wariness}"));
            let now = after_build(hours).shown;
            let gate = rollout(&config, id, lifted, &Release { digest: Digest([7; 32]), ..release(waves) }, now);
            assert_eq!(gate.open, open, "{waves} {wariness} {hours}: {gate:?}");
            assert_eq!(gate.opens_at, opens_after.map(|hours| after_build(hours).shown), "{waves} {wariness} {hours}");
            assert!(open || told(&gate) == Some((75, "rollout")));
        }
    }
}
