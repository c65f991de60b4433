//! Where user-data comes from: a folder of the image, or a volume with the label CIDATA.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use kubesolo_update::base::error::{Context, Error, Reason, Result};
use kubesolo_update::base::{limits, text};
use kubesolo_update::device::blocks::{System, iso_label};
use kubesolo_update::device::disk::Seed as Volume;
use kubesolo_update::device::mount::{Filesystem, Mounted};
use nix::libc;
use serde::Deserialize;

use crate::{user_data, yaml};

/// The seed folder of an image, where cloud-init looks too.
pub const SEED_FOLDER: &str = "/var/lib/cloud/seed/nocloud";
/// The instance when meta-data names none, as in cloud-init.
const NO_INSTANCE: &str = "nocloud";
/// Longest instance-id, in bytes.
const INSTANCE_BYTES: usize = 256;
/// `meta-data`, in bytes.
const META_DATA_BYTES: u64 = 64 * 1024;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The folder or device, for messages.
    pub origin: String,
    /// The instance that this user-data is for.
    pub instance: String,
    /// User-data, unpacked.
    pub user_data: Vec<u8>,
}

/// `configured` says that this device was set up before: another fixed disk does not count then.
///
/// The seed of this boot, if there is one: of `folder` alone when it is named, else of the image's folder, else of a volume.
///
/// # Errors
/// 78 for a seed that is not whole, or is open to others; 65 for one that is too large.
pub fn find(system: &System, folder: Option<&Path>, configured: bool) -> Result<Option<Seed>> {
    let default = Path::new(SEED_FOLDER);
    let folder = match folder {
        Some(folder) => Some(folder),
        None => Some(default).filter(|folder| folder.join("user-data").exists()),
    };
    if let Some(folder) = folder {
        if let Ok(Volume::Found(volume)) = system.seed(configured) {
            log::warn!("{} is ignored, since there is the seed folder {}", volume.display(), folder.display());
        }
        return read(folder, &folder.display().to_string()).map(Some);
    }
    let device = match system.seed(configured)? {
        Volume::Found(device) => device,
        Volume::Ignored(why) => {
            why.iter().for_each(|why| log::warn!("{why}"));
            return Ok(None);
        }
    };
    let mounted = Mounted::read_only(&device, filesystem(&device)?)?;
    let seed = read(mounted.path(), &device.display().to_string());
    mounted.unmount()?;
    seed.map(Some)
}

/// FAT unless it is ISO 9660.
fn filesystem(device: &Path) -> Result<Filesystem> {
    let label = File::open(device).and_then(|mut file| iso_label(&mut file));
    let label = label.context(Reason::BadSeed, format_args!("read {}", device.display()))?;
    Ok(if label.is_some() { Filesystem::Iso9660 } else { Filesystem::Vfat })
}

/// Reads the seed in `folder`, which is called `origin` in messages.
///
/// # Errors
/// As [`find`].
pub fn read(folder: &Path, origin: &str) -> Result<Seed> {
    let meta_data = file(folder, "meta-data", origin, META_DATA_BYTES)?;
    let packed = file(folder, "user-data", origin, limits::USER_DATA_BYTES)?;
    let user_data = user_data::unpack(&packed, &format!("{origin}/user-data"))?;
    Ok(Seed { origin: origin.to_owned(), instance: instance(&meta_data, &format!("{origin}/meta-data"))?, user_data })
}

/// A file that only root, or who runs this, can have written.
fn file(folder: &Path, name: &str, origin: &str, limit: u64) -> Result<Vec<u8>> {
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(Reason::BadSeed, format!("cannot read {origin}/{name}: {why}"))
            .remedy("A seed has the files user-data and meta-data. Nothing was changed.")
    };
    // O_NONBLOCK: a FIFO of that name must not hold the boot up.
    let options =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(folder.join(name));
    let file = options.map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => bad(&"it is a symbolic link"),
        _ => bad(&e),
    })?;
    let meta = file.metadata().map_err(|e| bad(&e))?;
    if !meta.is_file() {
        return Err(bad(&"it is not a regular file"));
    }
    if let Some(why) = open_to_others(&meta) {
        return Err(bad(&why));
    }
    let mut bytes = vec![];
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| bad(&e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            Reason::LimitExceeded,
            format!("{origin}/{name}: more than the limit of {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Why somebody other than root, or who runs this, may have written it.
pub(crate) fn open_to_others(meta: &std::fs::Metadata) -> Option<String> {
    let ours = [0, nix::unistd::geteuid().as_raw()];
    if !ours.contains(&meta.uid()) {
        return Some(format!("it belongs to user {}", meta.uid()));
    }
    (meta.mode() & 0o002 != 0).then(|| format!("everybody may write it (mode {:o})", meta.mode() & 0o7777))
}

#[derive(Default, Deserialize)]
struct MetaData {
    #[serde(rename = "instance-id")]
    instance: Option<String>,
}

fn instance(meta_data: &[u8], what: &str) -> Result<String> {
    let all = yaml::text(meta_data, what)?;
    let found: Option<MetaData> = yaml::parse(all, what)?;
    let instance = found.unwrap_or_default().instance.unwrap_or_else(|| NO_INSTANCE.to_owned());
    if instance.is_empty() || instance.len() > INSTANCE_BYTES || instance.contains(char::is_control) {
        return Err(yaml::bad(format!("{what}: \"{}\" is not an instance-id", text::shown(&instance))));
    }
    Ok(instance)
}
