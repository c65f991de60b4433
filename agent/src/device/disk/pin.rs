//! The first answer of a boot, kept where only root can write: what is plugged in later changes nothing.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::base::error::Reason;
use crate::base::files;
use crate::base::replace::{folder_of, replace};

/// File below the folder for this program in `/run`.
const FILE: &str = "disk";
/// Longest file that is read, in bytes.
const BYTES: u64 = 4096;

/// Identity of the booted disk, as this boot found it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pin {
    /// Uptime in seconds when a disk or partition was first looked for.
    pub(super) since: Option<f64>,
    /// The disk that was booted; it was asked for by `ks.part=`.
    pub(super) disk: Option<Pinned>,
    /// The data partition of another disk; it was asked for by `kubesolo.data=`.
    pub(super) data: Option<Pinned>,
}

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    /// `MAJOR:MINOR`.
    pub(super) number: String,
    /// The kernel's serial number of its disk since power-on; empty where the kernel has none.
    pub(super) sequence: String,
    /// The identity by which it was asked for; empty without one.
    pub(super) id: String,
}

impl Pin {
    /// Reads it. One that is not there, or not root's, knows nothing.
    pub(super) fn read(run: &Path) -> Self {
        let bytes = files::read(&file(run), BYTES, Reason::UnsafeFile).unwrap_or_else(|e| {
            log::debug!("{e}");
            None
        });
        Self::parse(&String::from_utf8_lossy(&bytes.unwrap_or_default()))
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Self {
            since: value("since").and_then(|since| since.parse().ok()),
            disk: value("disk").and_then(Pinned::parse),
            data: value("data").and_then(Pinned::parse),
        }
    }

    /// Keeps it for the rest of this boot.
    ///
    /// # Errors
    /// The folder in `/run` cannot be written: this is not root.
    pub(super) fn keep(&self, run: &Path) -> io::Result<()> {
        let mut text = String::new();
        if let Some(since) = self.since {
            text += &format!("since={since:.2}\n");
        }
        for (key, pinned) in [("disk", &self.disk), ("data", &self.data)] {
            if let Some(Pinned { number, sequence, id }) = pinned {
                text += &format!("{key}={number},{sequence},{id}\n");
            }
        }
        let file = file(run);
        match DirBuilder::new().mode(0o700).create(folder_of(&file)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        replace(&file, text.as_bytes(), 0o600)
    }
}

impl Pinned {
    fn parse(text: &str) -> Option<Self> {
        let [number, sequence, id] = text.splitn(3, ',').collect::<Vec<_>>()[..] else { return None };
        Some(Self { number: number.to_owned(), sequence: sequence.to_owned(), id: id.to_owned() })
    }
}

fn file(run: &Path) -> PathBuf {
    run.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_what_is_read_and_is_readable_by_root_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run = folder.path().join("run");
        assert_eq!(Pin::read(&run), Pin::default());
        let pinned = |id: &str| Some(Pinned { number: "254:0".into(), sequence: "7".into(), id: id.into() });
        for pin in [
            Pin { since: Some(3.25), ..Pin::default() },
            Pin { disk: pinned(""), ..Pin::default() },
            Pin { since: Some(0.5), disk: pinned("deadbeef-02"), data: pinned("deadbeef-07") },
        ] {
            pin.keep(&run).expect("it can be written");
            assert_eq!(Pin::read(&run), pin);
        }
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
        assert_eq!((mode(&run), mode(&file(&run))), (0o700, 0o600));
        fs::set_permissions(file(&run), fs::Permissions::from_mode(0o666)).expect("it is ours");
        assert_eq!(Pin::read(&run), Pin::default(), "others could have written it");
    }

    #[test]
    fn a_file_that_is_not_whole_pins_no_disk() {
        for text in ["", "disk=254:0\n", "data=254:0,1\n", "since=soon\n\u{fffd}"] {
            assert_eq!(Pin::parse(text), Pin::default(), "{text:?}");
        }
    }
}
