//! `state.json`, `trust.json`, `history.json`, `fetch.json`, `memory.json`, `unjudged.json`, `fleetlock.json`, the folders
//! `intake`, `receipts`, `records` and `outbox`, and their lock, side by side in one folder.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bootenv::TrialId;
use bootenv::step::{Noted, Notes, Step};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::console;
use crate::base::error::{Error, Reason, Result};
use crate::base::replace::folder_of;
use crate::base::{files, limits};
use crate::state::fetches::Fetches;
use crate::state::file::{self, Found, PRIVATE, PUBLIC, SCHEMA};
use crate::state::fleetlock::FleetLock;
use crate::state::history::{Entry, History, TrialOutcome};
use crate::state::intake::Intake;
use crate::state::memory::{Memory, Unjudged};
use crate::state::outbox::{Event, Outbox};
use crate::state::receipt::{KeptReceipt, RECEIPT_TYPE, Receipt};
use crate::state::records::Record;
use crate::state::state::{State, Trial};
use crate::state::trust::Trust;
use crate::trust::device_key::DeviceKey;

/// Where state, trust and lock are: side by side in one folder.
#[derive(Clone, Debug)]
pub struct Store {
    state: PathBuf,
}

/// Content of the files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// `state.json`, or a new one.
    pub state: State,
    /// `trust.json`, or a new one.
    pub trust: Trust,
    /// `fetch.json`, or a new one.
    pub fetches: Fetches,
    /// There was no usable `state.json`.
    pub state_lost: bool,
    /// There was no usable `trust.json`: rebuild it from the slots.
    pub trust_lost: bool,
    /// Damage, for the log.
    pub warnings: Vec<String>,
}

impl Store {
    /// `state` is the path of `state.json`.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    fn trust(&self) -> PathBuf {
        folder_of(&self.state).join("trust.json")
    }

    fn fetches(&self) -> PathBuf {
        folder_of(&self.state).join("fetch.json")
    }

    fn history(&self) -> PathBuf {
        folder_of(&self.state).join("history.json")
    }

    fn memory(&self) -> PathBuf {
        folder_of(&self.state).join("memory.json")
    }

    fn fleetlock(&self) -> PathBuf {
        folder_of(&self.state).join("fleetlock.json")
    }

    fn intakes(&self) -> PathBuf {
        folder_of(&self.state).join("intake")
    }

    fn records(&self) -> PathBuf {
        folder_of(&self.state).join("records")
    }

    fn outbox(&self) -> Outbox {
        Outbox(folder_of(&self.state).join("outbox"))
    }

    fn receipts(&self) -> PathBuf {
        folder_of(&self.state).join("receipts")
    }

    fn device_key(&self) -> PathBuf {
        folder_of(&self.state).join("device.key")
    }

    fn unjudged(&self) -> PathBuf {
        folder_of(&self.state).join("unjudged.json")
    }

    /// Says that the last health run of a trial could not look. Needs no lock, and no new block where a health run came before.
    ///
    /// # Errors
    /// 73 when it cannot be written.
    pub fn leave_unjudged(&self, note: &Unjudged) -> Result<()> {
        // A health run is repeated every few seconds, and the medium wears out.
        if self.read_unjudged().as_ref() == Some(note) {
            return Ok(());
        }
        file::write_kept(&self.unjudged(), &note.bytes())
    }

    /// Note of the last health run; a damaged note is none.
    fn read_unjudged(&self) -> Option<Unjudged> {
        match file::read::<Unjudged>(&self.unjudged(), SCHEMA) {
            Ok(found) => found.document(),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        }
    }

    /// Reads the past attempts, without a lock.
    ///
    /// # Errors
    /// 78 when the file was written by a newer version, or is damaged.
    pub fn read_history(&self) -> Result<History> {
        match file::read(&self.history(), SCHEMA)? {
            Found::Document(history) => Ok(history),
            Found::Nothing => Ok(History::default()),
            Found::Damaged(why) => {
                let message = format!("{} is damaged: {why}", self.history().display());
                Err(Error::new(Reason::HistoryDamaged, message)
                    .remedy("The next attempt sets it aside and starts a new one."))
            }
        }
    }

    /// Reads the record of the last attempt, without a lock. An attempt without a record that can be
    /// read, such as one of agent 0.1, has what the history says of it; `None` before the first attempt.
    ///
    /// # Errors
    /// Those of [`Self::read_history`].
    pub fn read_last(&self) -> Result<Option<Record>> {
        let Some(entry) = self.read_history()?.attempts.pop() else { return Ok(None) };
        let record = self.read_record(&entry.attempt.id).unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        let record = record.unwrap_or_default();
        Ok(Some(Record { entry, ..record }))
    }

    /// Reads the record of an attempt, without a lock. A damaged one counts as missing, with a warning.
    ///
    /// # Errors
    /// 78 when a newer version wrote it, or others could have.
    pub fn read_record(&self, attempt: &str) -> Result<Option<Record>> {
        let Some(name) = record_name(attempt) else { return Ok(None) };
        let path = self.records().join(name);
        Ok(match file::read(&path, SCHEMA)? {
            Found::Document(record) => Some(record),
            Found::Nothing => None,
            Found::Damaged(why) => {
                log::warn!("{} is damaged: {why}", path.display());
                None
            }
        })
    }

    /// Numbers and files of the events that wait for their receiver, the oldest first; `None` where this account may not look.
    #[must_use]
    pub fn pending_events(&self) -> Option<Vec<(u64, PathBuf)>> {
        self.outbox().pending()
    }

    /// Reads the records of examined bundles, the oldest first, without a lock. A damaged one is left out with a warning.
    ///
    /// # Errors
    /// 73 when the folder cannot be read, 78 for a record that others could have written.
    pub fn read_intakes(&self) -> Result<Vec<Intake>> {
        let mut all = read_folder::<Intake>(&self.intakes())?;
        // Several may be of one second.
        all.sort_by_key(|(written, intake)| (intake.at, *written));
        Ok(all.into_iter().map(|(_, intake)| intake).collect())
    }

    /// Reads the receipts, the oldest first, without a lock. A damaged one is left out with a warning.
    ///
    /// # Errors
    /// As for [`Self::read_intakes`].
    pub fn read_receipts(&self) -> Result<Vec<KeptReceipt>> {
        let mut all = read_folder::<KeptReceipt>(&self.receipts())?;
        all.sort_by_cached_key(|(written, kept)| (kept.signed.claimed("").ok().map(|said| said.ended_at), *written));
        Ok(all.into_iter().map(|(_, receipt)| receipt).collect())
    }

    /// The public half of the key of this device, 64 hex digits; `None` if there is none yet, or this account cannot read it.
    #[must_use]
    pub fn device_public(&self) -> Option<String> {
        let key = DeviceKey::load(&self.device_key()).inspect_err(|error| log::debug!("{error}"));
        key.ok().flatten().map(|key| key.public())
    }

    /// Reads without a lock and without changing anything, as `status` does.
    pub fn read(&self) -> Result<Loaded> {
        let mut loaded = self.load(|path, why| Ok(format!("{} is damaged: {why}", path.display())))?;
        loaded.fetches = self.read_fetches();
        Ok(loaded)
    }

    /// Reads `memory.json`, which is not for every account to read: a question that lacks it has an answer all the same.
    #[must_use]
    pub fn read_memory(&self) -> Memory {
        match file::read(&self.memory(), SCHEMA) {
            Ok(found) => found.document().unwrap_or_default(),
            Err(error) => {
                log::debug!("{error}");
                Memory::default()
            }
        }
    }

    /// It is not for every account to read, and a question that lacks it has an answer all the same.
    fn read_fetches(&self) -> Fetches {
        match file::read(&self.fetches(), SCHEMA) {
            Ok(found) => found.document().unwrap_or_default(),
            Err(error) => {
                log::debug!("{error}");
                Fetches::default()
            }
        }
    }

    /// The readable ones of both files, and the errors of the others: an unusable file does not hide the other.
    pub fn read_each(&self) -> (Loaded, Vec<Error>) {
        let damaged = |path: &Path, why: &str| Ok(format!("{} is damaged: {why}", path.display()));
        let mut loaded = Loaded::default();
        let read = [self.load_state(&mut loaded, damaged), self.load_trust(&mut loaded, damaged)];
        loaded.fetches = self.read_fetches();
        (loaded, read.into_iter().filter_map(Result::err).collect())
    }

    fn load(&self, damaged: impl Fn(&Path, &str) -> Result<String>) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        self.load_state(&mut loaded, &damaged)?;
        self.load_trust(&mut loaded, &damaged)?;
        Ok(loaded)
    }

    fn load_state(&self, loaded: &mut Loaded, damaged: impl Fn(&Path, &str) -> Result<String>) -> Result<()> {
        match read_one::<State>(&self.state, damaged, &mut loaded.warnings)? {
            Some(state) => loaded.state = state.of_this_schema(),
            None => loaded.state_lost = true,
        }
        Ok(())
    }

    fn load_trust(&self, loaded: &mut Loaded, damaged: impl Fn(&Path, &str) -> Result<String>) -> Result<()> {
        match read_one(&self.trust(), damaged, &mut loaded.warnings)? {
            Some(trust) => loaded.trust = Trust { schema: SCHEMA, ..trust },
            None => loaded.trust_lost = true,
        }
        Ok(())
    }

    /// True if a run holds the lock now. Needs no right to the lock: the kernel lists all locks by inode (`proc_locks(5)`).
    #[must_use]
    pub fn is_locked(&self) -> bool {
        let Ok(meta) = folder_of(&self.state).join("lock").metadata() else { return false };
        let locks = files::read_kernel(Path::new("/proc/locks")).unwrap_or_default();
        let mark = format!(":{}", meta.ino());
        locks.split_ascii_whitespace().any(|word| word.ends_with(&mark))
    }

    /// Takes the lock, which is held until the returned value is dropped or the process ends. Makes the folder if need be.
    ///
    /// # Errors
    /// 75 when another agent holds it; 73 when it cannot be made; 78 when others could have made it.
    pub fn lock(&self) -> Result<Lock> {
        let file = file::take_lock(&folder_of(&self.state).join("lock"))?;
        file::make_private(&self.history())?;
        Ok(Lock { store: self.clone(), _file: file })
    }
}

/// `intake/ID.json`.
#[derive(Serialize)]
struct IntakeFile<'a> {
    schema: u32,
    #[serde(flatten)]
    intake: &'a Intake,
}

/// `records/ATTEMPT.json`.
#[derive(Serialize)]
struct RecordFile {
    schema: u32,
    #[serde(flatten)]
    record: serde_json::Value,
}

/// The file name for an attempt; `None` for an id that no agent draws.
fn record_name(attempt: &str) -> Option<String> {
    let is_id = attempt.len() == 8 && attempt.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| format!("{attempt}.json"))
}

/// The error for the id of a record that is not there.
#[must_use]
pub fn intake_missing(id: &str) -> Error {
    Error::new(Reason::Usage, format!("there is no record of a bundle with the id {id}"))
        .remedy("`kubesolo-update intake list` shows the ids.")
}

/// The documents of a folder, each with the time of its file.
fn read_folder<D: DeserializeOwned>(folder: &Path) -> Result<Vec<(Option<SystemTime>, D)>> {
    let names = match files::list(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        listed => listed.map_err(|e| file::write_error(&format!("read {}", folder.display()), &e))?.entries,
    };
    let mut all = vec![];
    for path in names.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        match file::read::<D>(path, SCHEMA)? {
            Found::Document(document) => all.push((path.metadata().and_then(|meta| meta.modified()).ok(), document)),
            Found::Damaged(why) => log::warn!("{} is damaged: {why}", path.display()),
            Found::Nothing => {}
        }
    }
    Ok(all)
}

/// The document in a file; `None` where there is none that can be used. Damage goes to the warnings.
fn read_one<D: DeserializeOwned>(
    path: &Path,
    damaged: impl Fn(&Path, &str) -> Result<String>,
    warnings: &mut Vec<String>,
) -> Result<Option<D>> {
    Ok(match file::read(path, SCHEMA)? {
        Found::Document(document) => Some(document),
        Found::Nothing => None,
        Found::Damaged(why) => {
            warnings.push(damaged(path, &why)?);
            None
        }
    })
}

/// The document in a file, or an empty one. A damaged file is set aside.
fn read_or_set_aside<D: DeserializeOwned + Default>(path: &Path) -> Result<D> {
    Ok(match file::read(path, SCHEMA)? {
        Found::Document(document) => document,
        Found::Nothing => D::default(),
        Found::Damaged(why) => {
            let aside = file::set_aside(path)?;
            log::warn!("{} is damaged ({why}); kept as {}", path.display(), aside.display());
            D::default()
        }
    })
}

/// The right to change the state.
#[derive(Debug)]
pub struct Lock {
    store: Store,
    _file: File,
}

impl Lock {
    /// Reads, and sets damaged files aside.
    pub fn load(&self) -> Result<Loaded> {
        let aside = |path: &Path, why: &str| {
            let aside = file::set_aside(path)?;
            Ok(format!("{} is damaged ({why}); kept as {}", path.display(), aside.display()))
        };
        let mut loaded = self.store.load(aside)?;
        loaded.fetches = read_one(&self.store.fetches(), aside, &mut loaded.warnings)?.unwrap_or_default();
        Ok(loaded)
    }

    /// The path of `state.json`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.store.state
    }

    /// Replaces `state.json`.
    pub fn save_state(&self, state: &State) -> Result<()> {
        file::write(&self.store.state, state, PUBLIC)?;
        let trial = state.trial.as_ref().map(|trial| Noted { id: trial.id, slot: trial.slot, started: trial.started });
        console::log_step(Step::Notes(Notes { trial, not_started: state.not_started.len() }));
        Ok(())
    }

    /// Puts an attempt into `history.json`, or updates its outcome. Of attempts in a row that fail in the same way, only the last
    /// one keeps its record: a server that is down would push out the evidence of a failed trial within hours.
    pub fn record(&self, entry: Entry) -> Result<()> {
        let path = self.store.history();
        let mut history: History = read_or_set_aside(&path)?;
        let replaced = history.add(entry);
        file::write(&path, &history, PRIVATE)?;
        console::log_step(Step::History);
        let replaced = replaced.as_deref().and_then(record_name).map(|name| self.store.records().join(name));
        match replaced.filter(|path| path.symlink_metadata().is_ok()) {
            Some(path) => file::remove(&path),
            None => Ok(()),
        }
    }

    /// Changes the record of an attempt, or begins it; `change` says whether it changed anything. A damaged record is begun
    /// again.
    pub fn edit_record(&self, attempt: &str, change: impl FnOnce(&mut Record) -> bool) -> Result<()> {
        let Some(name) = record_name(attempt) else { return Ok(()) };
        let found = self.store.read_record(attempt)?;
        let is_new = found.is_none();
        let mut record = found.unwrap_or_default();
        if !change(&mut record) {
            return Ok(());
        }
        let path = file::in_private_folder(&self.store.records(), &name)?;
        file::write(&path, &RecordFile { schema: SCHEMA, record: record.fitted() }, PRIVATE)?;
        console::log_step(Step::Record);
        if is_new { self.trim_records(&path) } else { Ok(()) }
    }

    /// Deletes the oldest records above [`limits::RECORDS`], and the evidence of those above [`limits::EVIDENCES`]. `latest` is
    /// kept, whatever the clock says.
    fn trim_records(&self, latest: &Path) -> Result<()> {
        let folder = self.store.records();
        let cannot = |e| file::write_error(&format!("read {}", folder.display()), &e);
        let others = files::list(&folder).map_err(cannot)?.entries.into_iter().filter(|path| path != latest);
        let (mut all, cut_off): (Vec<_>, Vec<_>) =
            others.partition(|path| path.extension().is_some_and(|end| end == "json"));
        // A run that was killed left them, and its attempt may have no other one.
        cut_off.iter().try_for_each(|path| file::remove(path))?;
        let updated = |path: &PathBuf| file::read::<Record>(path, SCHEMA).ok()?.document()?.entry.updated_at;
        all.sort_by_cached_key(updated);
        let surplus = (all.len() + 1).saturating_sub(limits::RECORDS);
        all.drain(..surplus).try_for_each(|path| file::remove(&path))?;
        let old = (all.len() + 1).saturating_sub(limits::EVIDENCES);
        for attempt in all[..old].iter().filter_map(|path| path.file_stem()?.to_str()) {
            self.edit_record(attempt, |record| record.evidence.take().is_some())?;
        }
        Ok(())
    }

    /// Adds an event behind all that wait.
    pub fn add_event(&self, event: &Event) -> Result<()> {
        self.store.outbox().add(event)
    }

    /// An event that waits; a damaged one counts as missing, with a warning.
    pub fn event(&self, path: &Path) -> Option<Event> {
        match file::read(path, SCHEMA) {
            Ok(Found::Damaged(why)) => {
                log::warn!("{} is damaged: {why}", path.display());
                None
            }
            Ok(found) => found.document(),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        }
    }

    /// Ends the wait of an event.
    pub fn event_sent(&self, path: &Path) -> Result<()> {
        self.store.outbox().sent(path)
    }

    /// Reads `memory.json`; a damaged one is set aside.
    pub fn load_memory(&self) -> Result<Memory> {
        read_or_set_aside(&self.store.memory())
    }

    /// Replaces `memory.json`.
    pub fn save_memory(&self, memory: &Memory) -> Result<()> {
        file::write(&self.store.memory(), memory, PRIVATE)?;
        console::log_step(Step::Memory(memory.not_judged.len()));
        Ok(())
    }

    /// Why the last health run of this trial could not look; `None` if it could.
    pub fn unjudged(&self, trial: TrialId) -> Option<String> {
        self.store.read_unjudged().filter(|note| !trial.is_none() && note.trial == trial).map(|note| note.cause)
    }

    /// Says that a health run of this boot can look, and keeps a block for the day when one cannot. `trial` is that of this
    /// boot: what is noted of another one stays, for the last good slot to read.
    pub fn clear_unjudged(&self, trial: TrialId) -> Result<()> {
        match self.store.read_unjudged() {
            Some(note) if note.trial.is_none() || note.trial != trial => Ok(()),
            _ => self.leave_unjudged(&Unjudged::none()),
        }
    }

    /// Says that the health run that holds this lock could not look.
    pub fn leave_unjudged(&self, note: &Unjudged) -> Result<()> {
        self.store.leave_unjudged(note)?;
        console::log_step(Step::Unjudged(note.trial));
        Ok(())
    }

    /// The lock of a FleetLock server that this device has, or may have.
    pub fn load_fleetlock(&self) -> Result<Option<FleetLock>> {
        let path = self.store.fleetlock();
        Ok(match file::read(&path, SCHEMA)? {
            Found::Document(lock) => Some(lock),
            Found::Nothing => None,
            Found::Damaged(why) => {
                let aside = file::set_aside(&path)?;
                log::warn!("{} is damaged ({why}); kept as {}", path.display(), aside.display());
                None
            }
        })
    }

    /// Remembers a lock, or that there is none any more.
    pub fn save_fleetlock(&self, lock: Option<&FleetLock>) -> Result<()> {
        match lock {
            Some(lock) => file::write(&self.store.fleetlock(), lock, PRIVATE),
            None => file::remove(&self.store.fleetlock()),
        }
    }

    /// Writes the record of a bundle, and deletes the oldest ones above [`limits::INTAKES`].
    pub fn save_intake(&self, intake: &Intake) -> Result<()> {
        let path = file::in_private_folder(&self.store.intakes(), &format!("{}.json", intake.id))?;
        file::write(&path, &IntakeFile { schema: SCHEMA, intake }, PRIVATE)?;
        let all = self.store.read_intakes()?;
        let others = all.iter().filter(|one| one.id != intake.id);
        let above = all.len().saturating_sub(limits::INTAKES);
        others.take(above).try_for_each(|one| self.drop_intake(&one.id))
    }

    /// Deletes the record of a bundle.
    pub fn drop_intake(&self, id: &str) -> Result<()> {
        let path = self.store.intakes().join(format!("{id}.json"));
        if path.symlink_metadata().is_err() {
            return Err(intake_missing(id));
        }
        file::remove(&path)
    }

    /// Makes the key of this device, if there is none.
    pub fn make_device_key(&self) -> Result<DeviceKey> {
        let path = self.store.device_key();
        let is_new = path.symlink_metadata().is_err();
        let key = DeviceKey::load_or_make(&path)?;
        if is_new {
            console::log_step(Step::Key);
        }
        Ok(key)
    }

    /// Signs how a trial ended, and keeps the receipt. A trial has one receipt: a second one takes its place.
    pub fn leave_receipt(&self, trial: &Trial, outcome: TrialOutcome, now: DateTime<Utc>) -> Result<()> {
        let key = self.make_device_key()?;
        let receipt = Receipt {
            kind: RECEIPT_TYPE.to_owned(),
            device: key.device(),
            release: trial.identity.release,
            version: trial.version.clone(),
            outcome: outcome.into(),
            trial: trial.id,
            started_at: trial.attempt.as_ref().and_then(|attempt| attempt.started_at),
            ended_at: now,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let medium = self.load_memory()?.medium_of(trial.identity.release);
        self.save_receipt(trial.id, &KeptReceipt { signed: receipt.sign(&key)?, medium })
    }

    /// Writes a receipt, and deletes the oldest ones above [`limits::RECEIPTS`].
    pub fn save_receipt(&self, trial: TrialId, receipt: &KeptReceipt) -> Result<()> {
        let name = format!("{trial}.json");
        let folder = self.store.receipts();
        file::write(&file::in_private_folder(&folder, &name)?, receipt, PRIVATE)?;
        console::log_step(Step::Receipt);
        let all = self.store.read_receipts()?;
        let others = all.iter().filter_map(|one| one.signed.claimed("").ok()).filter(|said| said.trial != trial);
        let above = all.len().saturating_sub(limits::RECEIPTS);
        others.take(above).try_for_each(|old| file::remove(&folder.join(format!("{}.json", old.trial))))
    }

    /// Replaces `fetch.json`.
    pub fn save_fetches(&self, fetches: &Fetches) -> Result<()> {
        file::write(&self.store.fetches(), fetches, PRIVATE)
    }

    /// Replaces `trust.json`.
    pub fn save_trust(&self, trust: &Trust) -> Result<()> {
        file::write(&self.store.trust(), trust, PUBLIC)?;
        console::log_step(Step::Trust(trust.failed.len()));
        Ok(())
    }
}
