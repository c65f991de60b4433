//! U-Boot's environment on a medium: read, and stored by writing the other copy whole, synced and read back.
//!
//! The copy that counts is never written, so that a power cut leaves the old state or the new one. Where there is only
//! one copy this cannot be had, and [`Store::is_single`] says so.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;

use super::config::Place;
use super::{Environment, Error as FormatError, Format, flags, newest};
use crate::lock::{self, Replaced};
use crate::medium::read_past_cache;

/// Locks that `fw_printenv` and `fw_setenv` of u-boot-tools and of libubootenv hold while they run.
pub const LOCKS: [&str; 2] = ["/run/fw_printenv.lock", "/var/lock/fw_printenv.lock"];
/// How long another program may hold a lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the kernel shows its block devices.
const SYSFS: &str = "/sys/class/block";

/// An environment that cannot be read or stored. Nothing was written unless it says so.
#[derive(Debug)]
pub enum Error {
    /// Opening, reading, writing or syncing failed.
    Io {
        /// Operation.
        operation: &'static str,
        /// To which file or device.
        object: PathBuf,
        /// Its cause.
        cause: io::Error,
    },
    /// The device ends before the copy does.
    TooSmall {
        /// The device.
        device: PathBuf,
        /// Bytes that it has.
        have: u64,
        /// Bytes that the settings ask for.
        need: u64,
    },
    /// Both copies lie in the same bytes.
    Overlap,
    /// No copy can be read: why, for each.
    Damaged(Vec<(Place, FormatError)>),
    /// The variables do not fit.
    Format(FormatError),
    /// Somebody else stored something since it was read.
    Changed,
    /// The bytes read back differ from the written ones.
    ReadBack,
    /// Another program holds this lock.
    Locked(PathBuf),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { operation, object, cause } => write!(f, "cannot {operation} {}: {cause}", object.display()),
            Error::TooSmall { device, have, need } => {
                write!(f, "{} has {have} bytes, and the environment lies at up to byte {need}", device.display())
            }
            Error::Overlap => f.write_str("both copies overlap"),
            Error::Damaged(copies) => {
                let each: Vec<String> = copies.iter().map(|(place, why)| format!("{place}: {why}")).collect();
                write!(f, "no copy can be read ({})", each.join("; "))
            }
            Error::Format(error) => error.fmt(f),
            Error::Changed => f.write_str("another program changed it at the same time"),
            Error::ReadBack => f.write_str("the bytes read back from the medium differ from the written ones"),
            Error::Locked(path) => write!(f, "another program holds {}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

fn io<'a>(operation: &'static str, object: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |cause| Error::Io { operation, object: object.to_owned(), cause }
}

/// Makes the locks of this system, and replaces those that another account could hold.
///
/// # Errors
/// [`Error`] when another program holds one, or the filesystem fails.
pub fn make_locks() -> Result<Vec<Replaced>, Error> {
    Ok(Store::new(vec![]).lock()?.replaced)
}

/// The places of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    places: Vec<Place>,
    locks: Vec<PathBuf>,
    sysfs: PathBuf,
}

/// An environment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The copy that counts.
    pub environment: Environment,
    /// Its place.
    current: usize,
    flags: u8,
    /// The bytes of every place.
    copies: Vec<Vec<u8>>,
    /// Why another copy cannot be read.
    pub damaged: Option<FormatError>,
    /// Content of the other copy, if it can be read.
    pub older: Option<Environment>,
    /// Locks that other accounts could hold and that were replaced, for the log.
    pub replaced_locks: Vec<Replaced>,
}

impl Store {
    /// An environment in one place or two, with the locks of this system.
    #[must_use]
    pub fn new(places: Vec<Place>) -> Self {
        Self { places, locks: LOCKS.map(PathBuf::from).to_vec(), sysfs: SYSFS.into() }
    }

    /// The same with other locks, and another place for what the kernel shows of block devices.
    #[must_use]
    pub fn with_system(self, locks: &[PathBuf], sysfs: &Path) -> Self {
        Self { locks: locks.to_vec(), sysfs: sysfs.to_owned(), ..self }
    }

    /// True if there is no second copy, so that a store that is cut off leaves nothing.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.places.len() < 2
    }

    fn format(&self) -> Format {
        if self.is_single() { Format::Single } else { Format::Redundant }
    }

    /// Reads the copy that counts.
    ///
    /// # Errors
    /// [`Error`] when no copy can be read.
    pub fn load(&self) -> Result<Loaded, Error> {
        let locks = self.lock()?;
        Ok(Loaded { replaced_locks: locks.replaced, ..self.read()? })
    }

    /// Checks that each place has room for these variables. Reads and writes nothing.
    ///
    /// # Errors
    /// [`FormatError::Full`].
    pub fn fits(&self, next: &Environment) -> Result<(), FormatError> {
        self.places.iter().try_for_each(|place| next.encode(place.size, self.format(), 0).map(drop))
    }

    /// Stores `next`, by one write of the copy that does not count. Nothing is written if it does not fit, or if another
    /// program has changed anything since `current` was read.
    ///
    /// # Errors
    /// [`Error`]; with two copies the medium then holds the old or the new environment.
    pub fn store(&self, current: &Loaded, next: &Environment) -> Result<Loaded, Error> {
        let locks = self.lock()?;
        if self.read()?.copies != current.copies {
            return Err(Error::Changed);
        }
        let (format, target) = (self.format(), (current.current + 1) % self.places.len());
        let place = &self.places[target];
        let bytes = next.encode(place.size, format, current.flags.wrapping_add(1)).map_err(Error::Format)?;
        let (file, offset) = open(place, true)?;
        {
            let _writable = Unprotected::open(&self.sysfs, &place.device)?;
            file.write_all_at(&bytes, offset).map_err(io("write", &place.device))?;
            file.sync_data().map_err(io("sync", &place.device))?;
        }
        let stored = Loaded { replaced_locks: locks.replaced, ..self.read()? };
        if stored.current == target && stored.copies[target] == bytes { Ok(stored) } else { Err(Error::ReadBack) }
    }

    fn read(&self) -> Result<Loaded, Error> {
        let mut copies = Vec::new();
        let mut ranges: Vec<(PathBuf, u64, u64)> = Vec::new();
        for place in &self.places {
            let (file, offset) = open(place, false)?;
            let device = place.device.canonicalize().map_err(io("open", &place.device))?;
            let end = offset + place.size as u64;
            if ranges.iter().any(|(other, from, to)| *other == device && offset < *to && *from < end) {
                return Err(Error::Overlap);
            }
            ranges.push((device, offset, end));
            let mut bytes = vec![0; place.size];
            read_past_cache(&file, offset, &mut bytes).map_err(io("read", &place.device))?;
            copies.push(bytes);
        }
        let format = self.format();
        let checked: Vec<Result<u8, FormatError>> = copies.iter().map(|bytes| flags(bytes, format)).collect();
        let valid = |copy: usize| checked.get(copy).and_then(|flags| flags.clone().ok());
        let damaged = || {
            let one = |(place, flags): (&Place, &Result<u8, FormatError>)| Some((place.clone(), flags.clone().err()?));
            Error::Damaged(self.places.iter().zip(&checked).filter_map(one).collect())
        };
        let current = newest([valid(0), valid(1)]).ok_or_else(damaged)?;
        let parse = |copy: usize| Environment::parse(&copies[copy], format);
        // U-Boot goes by the checksum alone: the other copy is not what it would take.
        let (environment, flags) =
            parse(current).map_err(|why| Error::Damaged(vec![(self.places[current].clone(), why)]))?;
        let other = (1 - current < copies.len() && !self.is_single()).then(|| parse(1 - current));
        let (older, damaged) = match other {
            None => (None, None),
            Some(Ok((older, _))) => (Some(older), None),
            Some(Err(why)) => (None, Some(why)),
        };
        Ok(Loaded { environment, current, flags, copies, damaged, older, replaced_locks: vec![] })
    }

    /// Both locks, for as long as the files live. Where there is no folder for one, or no permission, no tool has it.
    fn lock(&self) -> Result<Locks, Error> {
        let mut locks = Locks::default();
        for path in &self.locks {
            // Both names may lead to one file: `/var/lock` is often a link to `/run`.
            if path.symlink_metadata().is_ok_and(|meta| locks.files.iter().any(|held| lock::is_same(held, &meta))) {
                continue;
            }
            match lock::take(path, PATIENCE) {
                Ok(held) => {
                    locks.files.push(held.file);
                    locks.replaced.extend(held.replaced);
                }
                Err(e) if cannot_be_there(&e) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::Locked(path.clone())),
                Err(e) => return Err(io("lock", path)(e)),
            }
        }
        Ok(locks)
    }
}

/// Locks that are held while the environment is read or stored.
#[derive(Debug, Default)]
struct Locks {
    files: Vec<File>,
    replaced: Vec<Replaced>,
}

fn cannot_be_there(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | PermissionDenied | ReadOnlyFilesystem)
}

/// Opens what a place names, and finds its first byte.
#[expect(clippy::disallowed_methods, reason = "a block device, or a file that the agent has checked")]
fn open(place: &Place, write: bool) -> Result<(File, u64), Error> {
    let device = &place.device;
    let file =
        OpenOptions::new().read(true).write(write).custom_flags(O_NONBLOCK).open(device).map_err(io("open", device))?;
    let meta = file.metadata().map_err(io("open", device))?;
    let have = if meta.is_file() {
        meta.len()
    } else if meta.file_type().is_block_device() {
        use std::io::Seek;
        (&file).seek(io::SeekFrom::End(0)).map_err(io("ask for the size of", device))?
    } else {
        let why = "it is neither a block device nor a file; flash without a block layer (MTD) is not supported";
        return Err(io("use", device)(io::Error::new(io::ErrorKind::InvalidInput, why)));
    };
    let first =
        if place.offset < 0 { have.checked_add_signed(place.offset) } else { Some(place.offset.cast_unsigned()) };
    let need = first.map_or(place.offset.unsigned_abs(), |first| first.saturating_add(place.size as u64));
    match first.filter(|_| need <= have) {
        Some(first) => Ok((file, first)),
        None => Err(Error::TooSmall { device: device.clone(), have, need }),
    }
}

/// Lifts the write protection of an eMMC boot partition for as long as it lives.
struct Unprotected(Option<PathBuf>);

impl Unprotected {
    #[expect(clippy::disallowed_methods, reason = "a switch of the kernel")]
    fn open(sysfs: &Path, device: &Path) -> Result<Self, Error> {
        let device = device.canonicalize().map_err(io("open", device))?;
        let switch = sysfs.join(device.file_name().unwrap_or_default()).join("force_ro");
        match std::fs::read_to_string(&switch) {
            Ok(on) if on.trim() == "1" => {
                std::fs::write(&switch, "0").map_err(io("write", &switch))?;
                Ok(Self(Some(switch)))
            }
            _ => Ok(Self(None)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a switch of the kernel")]
impl Drop for Unprotected {
    fn drop(&mut self) {
        // The store itself is not concerned: the device is only less protected than before.
        let _ = self.0.as_ref().map(|switch| std::fs::write(switch, "1"));
    }
}
