//! Examination of a bundle: everything that can be known before a slot is touched, to the last finding, in one record.

use std::path::Path;

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::config::{Config, DEFAULT_TAG, Origin};
use crate::device::slot::Part;
use crate::release::release::{Blob, Image, Release};
use crate::source::bundle::BundleSource;
use crate::state::intake::{Examined, Intake};
use crate::state::state;
use crate::update::session::Session;
use crate::update::update::Update;

/// The bundle that the command line names.
fn named(config: &Config) -> Option<&Path> {
    match &config.source {
        Some(Origin::Bundle(file)) => Some(file),
        _ => None,
    }
}

impl Update<'_> {
    /// Examines the bundle that the command line names and keeps the record; `None` for another source.
    ///
    /// # Errors
    /// 73 when the record cannot be written.
    pub fn take_in(&mut self) -> Result<Option<Intake>> {
        let Some(file) = named(self.config) else { return Ok(None) };
        let mut begun = Intake::begun(state::random()?, file.display().to_string(), self.now);
        begun.size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
        self.records.keep_intake(&begun)?;
        let mut findings = vec![];
        let release = examine(&self.session(), file, &mut findings);
        let ended = begun.ended(findings, release);
        self.records.keep_intake(&ended)?;
        Ok(Some(ended))
    }
}

/// Reads the bundle to its end. Each fault becomes a finding, and the examination goes on behind it as far as it can.
fn examine(session: &Session<'_>, file: &Path, findings: &mut Vec<Error>) -> Option<Examined> {
    let config = session.config;
    let default_tag = config.channel.as_deref().unwrap_or(DEFAULT_TAG);
    let source = match BundleSource::open(file, config.tag.as_deref(), default_tag) {
        Ok(source) => source,
        Err(error) => {
            findings.push(error);
            return None;
        }
    };
    let damage = source.damage().unwrap_or_else(|error| {
        findings.push(error);
        vec![]
    });
    let mut candidate = session.examine(Box::new(source), findings);
    let mut missing = vec![];
    let wanted: Vec<Blob> = candidate.iter().flat_map(|candidate| images(candidate.release())).collect();
    for blob in wanted {
        let there = candidate.as_mut().map_or(Ok(()), |candidate| candidate.source.open(&blob).map(drop));
        if let Err(error) = there {
            missing.push(blob.digest);
            findings.push(error);
        }
    }
    for (digest, error) in damage {
        // A document or an image that was a finding already.
        let is_known =
            |known: &Error| known.reason == Reason::DigestMismatch && known.message.ends_with(&error.message);
        if !missing.contains(&digest) && !findings.iter().any(is_known) {
            let name = candidate.as_ref().and_then(|candidate| image_name(candidate.release(), digest));
            findings.push(error.context(name.unwrap_or("a file of the bundle")));
        }
    }
    let candidate = candidate?;
    let release = candidate.release();
    Some(Examined {
        version: release.version.to_string(),
        identity: release.identity(),
        signed_by: candidate.signed_by.iter().map(ToString::to_string).collect(),
    })
}

/// Both images. A bundle has their sizes.
fn images(release: &Release) -> Vec<Blob> {
    [release.kernel, release.initramfs].into_iter().filter_map(Image::blob).collect()
}

/// The name of an image as a file of a slot; `None` for any other file.
fn image_name(release: &Release, digest: Digest) -> Option<&'static str> {
    let images = [(release.kernel, Part::Kernel), (release.initramfs, Part::Initramfs)];
    images.into_iter().find(|(image, _)| image.digest == digest).map(|(_, part)| part.file())
}
