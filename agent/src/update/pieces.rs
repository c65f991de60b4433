//! The decision whether an initramfs comes in pieces: by the setting, the memory and the source, then by the release.

use log::Level;

use crate::base::error::{Error, Exit, Reason, Result};
use crate::config::{Config, DeltaSetting};
use crate::delta::prepare::{self, Delta, Numbers, Wanted};
use crate::device::boot::Boot;
use crate::device::slot::Part;
use crate::policy::gate::Lifted;
use crate::release::release::Blob;
use crate::state::fetches::Fetches;
use crate::update::candidate::Candidate;
use crate::update::running::Running;
use crate::update::update::Expected;

/// The side that asks for a delta.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) config: &'a Config,
    pub(super) boot: &'a Boot,
    pub(super) running: &'a Running,
    pub(super) fetches: &'a Fetches,
    pub(super) lifted: Lifted,
}

impl Asking<'_> {
    /// The expected cost of the images.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub(super) fn expected(&self, candidate: &mut Candidate, images: [Blob; 2]) -> Result<Expected> {
        let mut expected = Expected::default();
        let delta = self.prepare(candidate, images[Part::Initramfs as usize], 0, &mut 0)?;
        for part in Part::BOTH {
            let image = &images[part as usize];
            match &delta {
                Some(delta) if part == Part::Initramfs => {
                    let Numbers { fetched, reused, patched } = delta.numbers();
                    expected.fetched += fetched;
                    expected.reused += reused;
                    expected.patched += patched;
                }
                _ if self.has(image) => expected.reused += image.size,
                _ if candidate.source.is_remote() => expected.fetched += image.size,
                _ => {}
            }
        }
        Ok(expected)
    }

    /// True if the booted slot has the image as a whole.
    fn has(&self, image: &Blob) -> bool {
        let manifest = self.running.manifest.as_ref();
        manifest.is_some_and(|manifest| [manifest.kernel, manifest.initramfs].contains(image))
    }

    /// Plans a delta of `image`, of which `start` bytes are there; `None` where the image comes whole. `spent` grows by the
    /// bytes that came for it.
    ///
    /// # Errors
    /// 75 `delta-only` where `delta=only` keeps the image from being fetched whole, or what kept the server from answering;
    /// 75 `interrupted`.
    pub(super) fn prepare(
        &self,
        candidate: &mut Candidate,
        image: Blob,
        start: u64,
        spent: &mut u64,
    ) -> Result<Option<Delta>> {
        let setting = self.config.delta;
        let here = !candidate.source.is_remote() || self.has(&image) || start == image.size;
        if setting == DeltaSetting::No || here {
            return Ok(None);
        }
        let release = &candidate.offer.release;
        let wrong_before = self.fetches.no_delta.contains(&image.digest) && !self.lifted.retry_failed;
        let delta = if wrong_before {
            Err(prepare::none("a delta of this image ended in wrong bytes before"))
        } else {
            let wanted = Wanted {
                release,
                image,
                start,
                slot: self.boot.slots.get(self.boot.booted.slot),
                manifest: self.running.manifest.as_ref().map(|manifest| manifest.initramfs.digest),
                version: self.running.version.as_ref(),
            };
            prepare::prepare(&mut *candidate.source, &wanted, spent)
        };
        match delta {
            Ok(delta) => Ok(Some(delta)),
            Err(e) if e.reason == Reason::Interrupted => Err(e),
            Err(e) if setting == DeltaSetting::Only => Err(refused(e)),
            Err(e) => {
                let level = if e.reason == Reason::DeltaOnly { Level::Info } else { Level::Warn };
                log::log!(level, "the initramfs is fetched whole: {e}");
                Ok(None)
            }
        }
    }
}

/// The error of `delta=only`. The error of a server that does not answer stays as it is.
pub(super) fn refused(why: Error) -> Error {
    match why.exit() {
        Exit::Unavailable => why,
        _ if why.reason == Reason::DeltaOnly => why,
        _ => prepare::none(why),
    }
}
