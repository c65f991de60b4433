//! Where user-data comes from: a folder of the image, or a volume with the label CIDATA.

use std::path::Path;

use kubesolo_update::base::error::{Context, Error, Reason, Result};
use kubesolo_update::base::{files, limits, text};
use kubesolo_update::device::blocks::{System, iso_label};
use kubesolo_update::device::disk::Seed as Volume;
use kubesolo_update::device::mount::{Filesystem, Mounted};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{user_data, yaml};

/// The seed folder of an image, where cloud-init looks too.
pub const SEED_FOLDER: &str = "/var/lib/cloud/seed/nocloud";
/// The instance when meta-data names none, as in cloud-init.
const NO_INSTANCE: &str = "nocloud";
/// Longest instance-id, in bytes.
const INSTANCE_BYTES: usize = 256;
/// Reason of an error in a seed.
const BAD: Reason = Reason::BadSeed;
/// `meta-data`, in bytes.
const META_DATA_BYTES: u64 = 64 * 1024;

/// Where a seed lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder of the image: only root and this user may have written its files.
    Folder,
    /// A volume, mounted read-only where nobody else looks: its maker chose owners and modes.
    Volume,
}

/// A seed.
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
    if let Some(warning) = system.command_line().ok().and_then(|line| elsewhere(&line)) {
        log::warn!("{warning}");
    }
    let default = Path::new(SEED_FOLDER);
    let folder = match folder {
        Some(folder) => Some(folder),
        None => Some(default).filter(|folder| folder.join("user-data").exists()),
    };
    if let Some(folder) = folder {
        if let Ok(Volume::Found(volume)) = system.seed(configured) {
            log::warn!("{} is ignored, because there is the seed folder {}", volume.display(), folder.display());
        }
        return read(folder, &folder.display().to_string(), Kind::Folder).map(Some);
    }
    let device = match system.seed(configured)? {
        Volume::Found(device) => device,
        Volume::Ignored(why) => {
            why.iter().for_each(|why| log::warn!("{why}"));
            return Ok(None);
        }
    };
    let mounted = Mounted::read_only(&device, filesystem(&device)?)?;
    let seed = read(mounted.path(), &device.display().to_string(), Kind::Volume);
    mounted.unmount()?;
    seed.map(Some)
}

/// FAT unless it is ISO 9660.
fn filesystem(device: &Path) -> Result<Filesystem> {
    let label = files::open_data(device).and_then(|mut file| iso_label(&mut file));
    let label = label.context(Reason::BadSeed, format_args!("read {}", device.display()))?;
    Ok(if label.is_some() { Filesystem::Iso9660 } else { Filesystem::Vfat })
}

/// Reads the seed in `folder`, which is called `origin` in messages.
///
/// # Errors
/// As [`find`].
pub fn read(folder: &Path, origin: &str, kind: Kind) -> Result<Seed> {
    let meta_data = file(folder, "meta-data", kind, META_DATA_BYTES)?;
    let packed = file(folder, "user-data", kind, limits::USER_DATA_BYTES)?;
    let user_data = user_data::unpack(&packed, &format!("{origin}/user-data"))?;
    Ok(Seed { origin: origin.to_owned(), instance: instance(&meta_data, &format!("{origin}/meta-data"))?, user_data })
}

fn file(folder: &Path, name: &str, kind: Kind, limit: u64) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let read = match kind {
        Kind::Folder => files::read(&path, limit, BAD),
        Kind::Volume => files::read_on_volume(&path, limit, BAD),
    };
    let missing = || Error::new(BAD, format!("{} is not there", path.display()));
    read.and_then(|bytes| bytes.ok_or_else(missing)).map_err(|e| {
        let remedy = format!("A seed has the files user-data and meta-data. Nothing was changed. {}", e.remedy);
        e.remedy(remedy.trim_end())
    })
}

/// The warning about a seed that the kernel command line names for cloud-init: `ds=nocloud;s=URL`, also quoted, and with the
/// older names `nocloud-net` and `seedfrom` (cloud-init, datasource NoCloud).
#[must_use]
pub fn elsewhere(line: &str) -> Option<String> {
    let word =
        line.split_ascii_whitespace().map(|word| word.trim_matches('"')).rfind(|word| word.starts_with("ds="))?;
    let mut parts = word.split(';');
    let is_nocloud = parts.next().is_some_and(|source| ["ds=nocloud", "ds=nocloud-net"].contains(&source));
    let names_place = parts.any(|part| part.starts_with("s=") || part.starts_with("seedfrom="));
    let shown = text::escape(&text::without_login(word));
    (is_nocloud && names_place).then(|| {
        format!(
            "the kernel argument {shown} is ignored, since no seed is read from a network here: put user-data and meta-data \
             into {SEED_FOLDER}, or on a volume with the label CIDATA"
        )
    })
}

#[derive(Default, Deserialize)]
struct MetaData {
    #[serde(rename = "instance-id")]
    instance: Option<String>,
    #[serde(rename = "instance_id")]
    misspelt: Option<IgnoredAny>,
    seedfrom: Option<String>,
}

impl MetaData {
    fn check(&self, what: &str) -> Result<()> {
        if let Some(place) = &self.seedfrom {
            let place = text::escape(&text::without_login(place));
            return Err(yaml::bad(format!("{what}: seedfrom: {place}: no seed is read from another place"))
                .remedy("Nothing was changed. Put user-data and meta-data themselves here, without seedfrom."));
        }
        if self.instance.is_none() && self.misspelt.is_some() {
            return Err(yaml::bad(format!("{what}: instance_id: unknown key"))
                .remedy("Nothing was changed. Write instance-id, as cloud-init does."));
        }
        Ok(())
    }
}

fn instance(meta_data: &[u8], what: &str) -> Result<String> {
    let all = yaml::text(meta_data, what)?;
    let found = yaml::parse::<Option<MetaData>>(all, what)?.unwrap_or_default();
    found.check(what)?;
    let instance = found.instance.unwrap_or_else(|| NO_INSTANCE.to_owned());
    if instance.is_empty() || instance.len() > INSTANCE_BYTES || instance.contains(char::is_control) {
        return Err(yaml::bad(format!("{what}: \"{}\" is not an instance-id", text::escape(&instance))));
    }
    Ok(instance)
}
