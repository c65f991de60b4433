//! Releases on removable media, for a device without a network: the newest one that the gates allow.
//!
//! A medium is hostile, and so is its filesystem. It is mounted read-only, without devices, programs and set-user-id bits, in
//! a namespace of this process. Only regular files of its root folder are opened, and a bundle counts as it does from anywhere
//! else.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use semver::Version;

use crate::base::console;
use crate::base::digest::Digest;
use crate::base::error::{Context as _, Error, Exit, Reason, Result};
use crate::base::{files, limits, replace, text};
use crate::config::{Auto, Config, DEFAULT_TAG, Origin, RemovableBundles};
use crate::device::blocks::System;
use crate::device::disk::stick::Stick;
use crate::device::mount::{self, Mounted};
use crate::policy::gate::{self, Lifted};
use crate::release::release::Architecture;
use crate::source::bundle::BundleSource;
use crate::source::source::Source;
use crate::state::receipt::{KeptReceipt, Receipt};
use crate::state::state::Outcome;
use crate::update::records::LockedRecords;
use crate::update::session::{Depth, Session};
use crate::update::update::{ApplyReport, Update};

/// The folder on a stick that receipts are written to.
const RECEIPTS: &str = "kubesolo-receipts";

/// The work of an unattended run with one source, as far as its settings say.
pub(super) type Act<'a, T> = &'a dyn Fn(&mut Update<'_>) -> Result<T>;

/// A bundle on a stick.
struct Bundle {
    path: PathBuf,
    /// For messages.
    name: String,
    /// By its own words; nothing is proven yet.
    version: Version,
}

/// Looks at the sticks, or at the one that is the device `only`, and does `act` with the newest release that the gates allow,
/// as the source. `None`: there is none, or it runs already.
///
/// # Errors
/// 75 outside the maintenance window, in which no stick is touched. With `only` the error of that stick.
pub(super) fn take<T: From<ApplyReport>>(
    update: &mut Update<'_>,
    only: Option<&Path>,
    clock: &dyn Fn() -> DateTime<Utc>,
    act: Act<'_, T>,
) -> Result<Option<T>> {
    if update.config.removable_bundles == RemovableBundles::No {
        return Ok(None);
    }
    let mut sticks = System::default().sticks()?;
    sticks.retain(|stick| only.is_none_or(|only| stick.device.file_name() == only.file_name()));
    if update.config.receipts {
        update.records.make_device_key();
        for stick in &sticks {
            deliver(update.records, stick)
                .unwrap_or_else(|error| say(&stick.name(), &format_args!("no receipt is written: {error}")));
        }
    }
    let Some(first) = sticks.first() else { return Ok(None) };
    if let Err(error) = gate::pass(&[update.session().window()?]) {
        say(&first.name(), &format_args!("left alone, {}", error.message));
        return Err(error);
    }
    for stick in &sticks {
        match from_stick(update, stick, clock, act) {
            Ok(Some(done)) => return Ok(Some(done)),
            Ok(None) => {}
            Err(error) => {
                say(&stick.name(), &error);
                if only.is_some() {
                    return Err(error);
                }
            }
        }
    }
    Ok(None)
}

/// Writes the receipts of releases that came on this stick: the only write to it. Each file is there whole, or not at all.
fn deliver(records: &LockedRecords, stick: &Stick) -> Result<()> {
    let due = if stick.volume.id.is_empty() { vec![] } else { records.receipts_for(&stick.volume.id)? };
    if due.is_empty() {
        return Ok(());
    }
    claim(stick, true)?;
    let mounted = Mounted::read_write(&stick.device, stick.volume.filesystem)?;
    let folder = mounted.path().join(RECEIPTS);
    let write = |kept: &KeptReceipt, said: &Receipt| {
        let mut bytes = serde_json::to_vec_pretty(&kept.signed).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        replace::create_folders(mounted.path(), Path::new(RECEIPTS))?;
        replace::replace(&folder.join(format!("{}-{}.json", said.device.id(), said.trial)), &bytes, 0o644)
    };
    let mut written = vec![];
    for kept in due {
        let said = kept.signed.claimed("a receipt")?;
        write(&kept, &said).context(Reason::CannotWrite, format_args!("write to {RECEIPTS} on it"))?;
        written.push((said, kept));
    }
    mounted.unmount()?;
    for (said, kept) in written {
        let (outcome, version) = (text::escape(&said.outcome.to_string()), text::escape(&said.version));
        say(&stick.name(), &format_args!("the receipt of {version} ({outcome}) is written"));
        records.delivered(said.trial, kept)?;
    }
    Ok(())
}

/// Nobody else may have it mounted. Also drops what the kernel knows of a medium that was changed meanwhile.
fn claim(stick: &Stick, writable: bool) -> Result<()> {
    mount::claim(&stick.device, writable).map_err(|error| match error.reason {
        Reason::DeviceBusy => Error { reason: Reason::StickBusy, ..error },
        _ => error,
    })
}

/// To the console of the device: a person stands in front of it.
fn say(stick: &str, what: &dyn std::fmt::Display) {
    console::announce(&format!("stick {stick}: {what}"));
}

fn from_stick<T: From<ApplyReport>>(
    update: &mut Update<'_>,
    stick: &Stick,
    clock: &dyn Fn() -> DateTime<Utc>,
    act: Act<'_, T>,
) -> Result<Option<T>> {
    claim(stick, false)?;
    let mounted = Mounted::read_only(&stick.device, stick.volume.filesystem)?;
    let taken = newest(update, stick, mounted.path(), clock, act);
    mounted.unmount().unwrap_or_else(|error| log::warn!("{error}"));
    Ok(taken)
}

/// Tries the bundles of a folder, the newest first.
fn newest<T: From<ApplyReport>>(
    update: &mut Update<'_>,
    stick: &Stick,
    folder: &Path,
    clock: &dyn Fn() -> DateTime<Utc>,
    act: Act<'_, T>,
) -> Option<T> {
    let (medium, stick) = (&stick.volume.id, &*stick.name());
    let bundles = bundles(update.config, stick, folder);
    if bundles.is_empty() {
        say(stick, &"it has no bundle for this device");
    }
    for bundle in bundles {
        let config = of_bundle(update.config, &bundle.path);
        let mut one = Update {
            config: &config,
            boot: &mut *update.boot,
            records: &mut *update.records,
            lifted: Lifted::default(),
            now: clock(),
        };
        let version = text::escape(&bundle.version.to_string());
        let shown = format!("{version} from {}", bundle.name);
        match admitted(&one.session()) {
            Ok(Offer::Runs) => {
                log::info!("stick {stick}: {shown} runs already");
                return None;
            }
            Ok(Offer::Staged(report, _)) if config.auto != Auto::Activate => return Some((*report).into()),
            Ok(Offer::Staged(_, release) | Offer::New(release)) => {
                if config.auto != Auto::Check && !medium.is_empty() {
                    one.records.carry(release, medium);
                }
                match act(&mut one) {
                    Ok(done) => {
                        say(stick, &format_args!("{shown} is taken"));
                        return Some(done);
                    }
                    Err(error) => {
                        say(stick, &format_args!("{shown} is not taken: {error}. {}", error.remedy));
                        failed(&mut one, &error);
                    }
                }
            }
            Err(error) => say(stick, &format_args!("{shown} is not taken: {error}")),
        }
    }
    None
}

/// The settings of a device whose source is this bundle.
fn of_bundle(config: &Config, path: &Path) -> Config {
    let auto = match (config.removable_bundles, config.auto) {
        (RemovableBundles::Stage, Auto::Activate) => Auto::Stage,
        (_, auto) => auto,
    };
    Config { source: Some(Origin::Bundle(path.to_owned())), tag: None, auto, ..config.clone() }
}

/// The answer of the gates about a bundle.
enum Offer {
    /// Its release runs.
    Runs,
    /// This release is complete in the free slot.
    Staged(Box<ApplyReport>, Digest),
    /// This release may be installed.
    New(Digest),
}

fn admitted(session: &Session<'_>) -> Result<Offer> {
    let found = session.evaluate(Depth::FirstClosed)?;
    if !found.admits()? {
        return Ok(Offer::Runs);
    }
    let (release, target) = (found.candidate.release(), found.free_slot()?);
    if target.images.is_some() || !session.records.state.has_staged(release.digest) {
        return Ok(Offer::New(release.digest));
    }
    Ok(Offer::Staged(Box::new(ApplyReport::new(Outcome::Staged, release, target.slot)), release.digest))
}

/// Ends the attempt with a bundle, so that the next one can begin.
fn failed(update: &mut Update<'_>, error: &Error) {
    let (records, now) = (&mut *update.records, update.now);
    if error.exit() == Exit::NotNow {
        records.state.skip(error, now);
    } else {
        records.state.fail(error, now);
        records.record();
    }
    records.save().unwrap_or_else(|error| log::warn!("{error}"));
}

/// The bundles in a folder that have a release for this architecture, the newest first.
fn bundles(config: &Config, stick: &str, folder: &Path) -> Vec<Bundle> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            say(stick, &format_args!("cannot list its files: {e}"));
            return vec![];
        }
    };
    let mut paths = vec![];
    for (number, entry) in entries.enumerate() {
        if number == limits::STICK_ENTRIES {
            say(stick, &format_args!("only the first {number} of its files are looked at"));
            break;
        }
        // A damaged folder may give an error for each entry that it pretends to have.
        let Ok(entry) = entry.inspect_err(|e| log::warn!("stick {stick}: {e}")) else { break };
        let named = Path::new(&entry.file_name()).extension().is_some_and(|end| end.eq_ignore_ascii_case("tar"));
        // No link is followed.
        if named && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    if paths.len() > limits::STICK_BUNDLES {
        say(stick, &format_args!("only the first {} of its {} bundles are opened", limits::STICK_BUNDLES, paths.len()));
    }
    let mut bundles: Vec<_> =
        paths.into_iter().take(limits::STICK_BUNDLES).filter_map(|path| opened(config, stick, path)).collect();
    bundles.sort_by(|a, b| b.version.cmp_precedence(&a.version));
    bundles
}

fn opened(config: &Config, stick: &str, path: PathBuf) -> Option<Bundle> {
    let name = files::name(&path);
    let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
    let version = BundleSource::open(&path, None, default_tag)
        .and_then(|mut source| Ok(source.offer(Architecture::current())?.release.version));
    match version {
        Ok(version) => Some(Bundle { path, name, version }),
        Err(error) => {
            say(stick, &format_args!("{name} is not taken: {error}. {}", error.remedy));
            None
        }
    }
}
