//! From the command line to what was done.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kubesolo_update::base::error::{Context, Error, Reason, Result};
use kubesolo_update::base::replace::{folder_of, replace};
use kubesolo_update::base::text::escape;
use kubesolo_update::base::{files, limits};
use kubesolo_update::config::CONF_FILE;
use kubesolo_update::device::blocks::System;
use kubesolo_update::device::disk::DATA_FOLDER;

use crate::instance::{self, Comparison, RECORD};
use crate::seed::{self, Seed};
use crate::user_data::UserData;

/// Reason of an error in a place that is written.
const UNSAFE: Reason = Reason::UnsafePlace;
/// The settings as they were placed last, beside them.
const PLACED: &str = ".update.conf.first-boot";

/// `--help`.
pub const USAGE: &str = "\
Takes the settings of kubesolo-update from the NoCloud user-data of this device, once per instance-id.

Usage: kubesolo-cloudinit [--seed DIR] [--conf FILE] [--record FILE] [--place FILE] [--check]

  --seed DIR     user-data and meta-data are here [default: /var/lib/cloud/seed/nocloud, else the volume CIDATA]
  --conf FILE    what the `updates:` block becomes [default: /etc/kubesolo/update.conf]
  --record FILE  which instance was set up here [default: /var/lib/kubesolo/cloud-init/instance]
  --place FILE   then copy the settings there, unless that was done before
  --check        print what FILE would become, and write nothing
  --help, --version

User-data is #cloud-config, plain or gzip. Without an `updates:` block the settings stay as they are.

Exit codes: 0 done, or nothing to do; 64 the command line is wrong; 65 user-data is too large; 73 a file cannot be
written; 78 user-data or its seed cannot be used. But for 0, nothing was changed.
";

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--seed`
    pub seed: Option<PathBuf>,
    /// `--conf`
    pub conf: PathBuf,
    /// `--record`
    pub record: PathBuf,
    /// `--place`
    pub place: Option<PathBuf>,
    /// `--check`
    pub check: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: None, conf: CONF_FILE.into(), record: RECORD.into(), place: None, check: false }
    }
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// There is no seed.
    NoSeed,
    /// This instance was set up before.
    Before,
    /// User-data has no settings for the agent.
    NoBlock,
    /// `--check`: this is what the file would become.
    Checked(String),
    /// The settings are written.
    Written,
}

/// Does it.
///
/// # Errors
/// As [`USAGE`] says.
pub fn run(options: &Options, system: &System) -> Result<Done> {
    if [&options.record, &options.conf].iter().any(|path| path.starts_with(DATA_FOLDER)) {
        system.check_data()?;
    }
    let Some(seed) = seed::find(system, options.seed.as_deref(), options.record.exists())? else {
        log::info!("no seed: neither {}, nor a volume with the label CIDATA", seed::SEED_FOLDER);
        return Ok(Done::NoSeed);
    };
    if !options.check && is_done(options, &seed)? {
        return Ok(Done::Before);
    }
    let user_data = UserData::parse(&seed.user_data, &format!("{}/user-data", seed.origin))?;
    if !user_data.others.is_empty() {
        log::info!("{}/user-data: ignored, for other programs: {}", seed.origin, escape(&user_data.others.join(", ")));
    }
    let conf = user_data.conf(&format!("{}, instance {}", seed.origin, seed.instance));
    if options.check {
        return Ok(Done::Checked(conf));
    }
    let done = if user_data.updates.is_empty() {
        log::info!("{} has no settings under updates: {} stays as it is", seed.origin, options.conf.display());
        Done::NoBlock
    } else {
        write(&options.conf, conf.as_bytes())?;
        log::info!("{} is written from {}, instance {}", options.conf.display(), seed.origin, escape(&seed.instance));
        Done::Written
    };
    // Last: after a power cut before this, the same is done again.
    let noted = instance::note(&options.record, &seed);
    noted.context(Reason::CannotWrite, format_args!("write {}", options.record.display()))?;
    Ok(done)
}

fn is_done(options: &Options, seed: &Seed) -> Result<bool> {
    let instance = escape(&seed.instance);
    match instance::compare(&options.record, seed)? {
        Comparison::New => return Ok(false),
        Comparison::Same => log::debug!("instance {instance} was set up before"),
        Comparison::Changed => log::warn!(
            "the user-data of {} has changed and is ignored: instance {instance} was set up before. To apply it, set a new instance-id in its meta-data",
            seed.origin
        ),
    }
    Ok(true)
}

/// Replaces `file`, unless others could have made it or its folder lead elsewhere.
fn write(file: &Path, text: &[u8]) -> Result<()> {
    let stays = |e: Error| e.remedy("Nothing was changed. Correct the place, or name another one.");
    let folder = folder_of(file);
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.context(Reason::CannotWrite, format_args!("make the folder {}", folder.display()))?;
    let what = format_args!("write {}", file.display()).to_string();
    let meta = folder.symlink_metadata().context(Reason::CannotWrite, &what)?;
    if meta.is_symlink() {
        let message = format!("cannot {what}: {} is a symbolic link", folder.display());
        return Err(stays(Error::new(UNSAFE, message)));
    }
    files::check_folder(&meta, folder, UNSAFE).and_then(|()| files::open(file, UNSAFE)).map_err(stays)?;
    replace(file, text, 0o644).context(Reason::CannotWrite, what)
}

/// Copies the settings to where the agent looks for them, once for each root filesystem: a change there stays.
///
/// # Errors
/// 78 when the settings or their place are not trusted, 73 when they cannot be written.
pub fn place(conf: &Path, place: &Path) -> Result<()> {
    let Some(settings) = files::read(conf, limits::CONF_BYTES, Reason::BadConfig)? else { return Ok(()) };
    let placed = place.with_file_name(PLACED);
    if files::read(&placed, limits::CONF_BYTES, UNSAFE)?.as_ref() == Some(&settings) {
        return Ok(());
    }
    write(place, &settings)?;
    log::info!("{} is placed from {}", place.display(), conf.display());
    write(&placed, &settings)
}
