//! `fetch.json`: the beginnings of images that an interrupted download left in a slot, images that came with wrong bytes, and
//! the last answer of the source.
//!
//! Nothing in it is believed: the bytes in the slot are hashed before they count, and at the end the digest of the whole image
//! decides. A wrong record costs a download from the first byte, and nothing else.

use bootenv::SlotId;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::state::file::SCHEMA;
use crate::state::format::{as_text, seconds};

/// Images whose wrong bytes are remembered; the oldest is forgotten for one more.
pub const WRONG_KEPT: usize = 16;
/// The first pause after wrong bytes; it doubles with each time.
pub const PAUSE: TimeDelta = TimeDelta::hours(1);
/// The longest pause.
pub const PAUSE_MAX: TimeDelta = TimeDelta::hours(24);
/// Longest `ETag` that is kept, in bytes.
const VERSION_BYTES: usize = 256;
/// How long an `ETag` stands for its document. Servers make it of size and time, which two documents can have in common.
pub const TAG_LIFE: TimeDelta = TimeDelta::hours(24);

/// Memory of downloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetches {
    pub(super) schema: u32,
    /// Beginnings of images that an interrupted download left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// Images that came with wrong bytes, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<WrongBytes>,
    /// The document of the last look at an HTTP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tagged: Option<Tagged>,
    /// Requests that the source still permits, by its last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratelimit_remaining: Option<u64>,
    /// Images of which a delta ended in wrong bytes, the oldest first: they are fetched whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_delta: Vec<Digest>,
}

/// A document of an HTTP server, and the `ETag` that came with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// Its URL.
    pub url: String,
    /// Its digest.
    pub document: Digest,
    /// A strong one: it stands for every byte.
    pub etag: String,
    /// When the document came, by the device's clock.
    #[serde(with = "seconds")]
    pub read_at: DateTime<Utc>,
}

impl Tagged {
    /// A document that came just now; `None` for an `ETag` that is not kept.
    #[must_use]
    pub fn new(url: &str, document: Digest, etag: &str, now: DateTime<Utc>) -> Option<Self> {
        let kept = etag.starts_with('"') && etag.len() <= VERSION_BYTES;
        kept.then(|| Self { url: url.to_owned(), document, etag: etag.to_owned(), read_at: now })
    }

    /// True if the `ETag` still stands for the document. None from the future counts: the clock was wrong then, or is now.
    #[must_use]
    pub fn counts(&self, now: DateTime<Utc>) -> bool {
        self.read_at <= now && now - self.read_at < TAG_LIFE
    }
}

/// The beginnings of images in a slot that is void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The slot that has them.
    #[serde(with = "as_text")]
    pub slot: SlotId,
    /// At most one for each image of a release.
    pub images: Vec<Beginning>,
}

/// The beginning of an image, on the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// Of the whole image.
    pub digest: Digest,
    /// Of the whole image, in bytes.
    pub size: u64,
    /// Bytes that are there.
    pub offset: u64,
    /// SHA-256 of these bytes.
    pub prefix: Digest,
    /// The `ETag` of the file that they are of, where its name says nothing about its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// An image that came with wrong bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongBytes {
    /// That the release names.
    pub digest: Digest,
    /// The last time, by the device's clock.
    #[serde(with = "seconds")]
    pub failed_at: DateTime<Utc>,
    /// How often in a row.
    pub times: u32,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { schema: SCHEMA, partial: None, wrong: vec![], no_delta: vec![], tagged: None, ratelimit_remaining: None }
    }
}

impl WrongBytes {
    /// When the image may be fetched again.
    #[must_use]
    pub fn opens_at(&self) -> DateTime<Utc> {
        let doubled = PAUSE * 2i32.pow(self.times.saturating_sub(1).min(16));
        self.failed_at + doubled.min(PAUSE_MAX)
    }
}

impl Fetches {
    /// The beginning of an image that a slot has, by the record.
    #[must_use]
    pub fn beginning(&self, slot: SlotId, digest: Digest) -> Option<&Beginning> {
        let images = self.partial.as_ref().filter(|partial| partial.slot == slot).map(|partial| &partial.images);
        images?.iter().find(|known| known.digest == digest && (1..=known.size).contains(&known.offset))
    }

    /// Keeps only what is about these images in this slot.
    pub fn keep_only(&mut self, slot: SlotId, images: &[Digest]) {
        if let Some(partial) = &mut self.partial {
            partial.images.retain(|known| images.contains(&known.digest));
        }
        self.partial = self.partial.take().filter(|partial| partial.slot == slot && !partial.images.is_empty());
    }

    /// Notes how far an image is in a slot, in place of what was known of it.
    pub fn note(&mut self, slot: SlotId, mut beginning: Beginning) {
        beginning.version = beginning.version.filter(|version| version.len() <= VERSION_BYTES);
        let partial = self.partial.get_or_insert(Partial { slot, images: vec![] });
        partial.slot = slot;
        partial.images.retain(|known| known.digest != beginning.digest);
        partial.images.push(beginning);
    }

    /// Forgets what a slot has of an image.
    pub fn drop_beginning(&mut self, digest: Digest) {
        if let Some(partial) = &mut self.partial {
            partial.images.retain(|known| known.digest != digest);
        }
    }

    /// The memory that keeps an image from being fetched now. None that lies ahead of the clock counts: the clock was wrong
    /// then, or is now.
    #[must_use]
    pub fn closed(&self, digest: Digest, now: DateTime<Utc>) -> Option<&WrongBytes> {
        let known = self.wrong.iter().find(|known| known.digest == digest)?;
        (known.failed_at <= now && now < known.opens_at()).then_some(known)
    }

    /// Remembers that an image came with wrong bytes.
    pub fn remember_wrong(&mut self, digest: Digest, now: DateTime<Utc>) {
        let before = self.wrong.iter().find(|known| known.digest == digest).map_or(0, |known| known.times);
        self.forget_wrong(digest);
        self.wrong.push(WrongBytes { digest, failed_at: now, times: before.saturating_add(1) });
        let surplus = self.wrong.len().saturating_sub(WRONG_KEPT);
        self.wrong.drain(..surplus);
    }

    /// Remembers that a delta of an image ended in wrong bytes.
    pub fn remember_no_delta(&mut self, digest: Digest) {
        self.no_delta.retain(|known| *known != digest);
        self.no_delta.push(digest);
        let surplus = self.no_delta.len().saturating_sub(WRONG_KEPT);
        self.no_delta.drain(..surplus);
    }

    /// Forgets it; whether there was anything.
    pub fn forget_wrong(&mut self, digest: Digest) -> bool {
        let before = self.wrong.len();
        self.wrong.retain(|known| known.digest != digest);
        self.wrong.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_counts_for_a_day_and_only_a_strong_one() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let tagged = |etag: &str| Tagged::new("http://host/latest.json", image(1), etag, now);
        let kept = tagged("\"x\"").unwrap();
        assert!(kept.counts(now) && kept.counts(now + TAG_LIFE - TimeDelta::seconds(1)));
        assert!(!kept.counts(now + TAG_LIFE) && !kept.counts(now - TimeDelta::seconds(1)));
        for odd in ["W/\"x\"", "", &format!("\"{}\"", "x".repeat(VERSION_BYTES))] {
            assert_eq!(tagged(odd), None, "{odd}");
        }
    }

    fn image(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn beginning(n: u8, offset: u64) -> Beginning {
        Beginning { digest: image(n), size: 100, offset, prefix: Digest::of(b"prefix"), version: None }
    }

    #[test]
    fn a_beginning_is_of_one_image_in_one_slot() {
        let mut fetches = Fetches::default();
        fetches.note(SlotId::B, beginning(1, 40));
        fetches.note(SlotId::B, beginning(2, 50));
        fetches.note(SlotId::B, beginning(1, 60));
        assert_eq!(fetches.beginning(SlotId::B, image(1)), Some(&beginning(1, 60)));
        assert_eq!(fetches.beginning(SlotId::A, image(1)), None);
        for odd in [0, 101, u64::MAX] {
            let mut forged = fetches.clone();
            forged.note(SlotId::B, beginning(1, odd));
            assert_eq!(forged.beginning(SlotId::B, image(1)), None, "{odd}");
        }
        let mut other_slot = fetches.clone();
        other_slot.keep_only(SlotId::A, &[image(1)]);
        assert_eq!(other_slot.partial, None);
        fetches.keep_only(SlotId::B, &[image(2), image(3)]);
        assert_eq!(fetches.partial.unwrap().images, [beginning(2, 50)]);
    }

    #[test]
    fn the_pause_after_wrong_bytes_doubles_up_to_a_day() {
        let (mut fetches, mut now) = (Fetches::default(), DateTime::UNIX_EPOCH);
        let digest = image(1);
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            fetches.remember_wrong(digest, now);
            let before = now + TimeDelta::hours(hours) - TimeDelta::seconds(1);
            assert_eq!(fetches.closed(digest, before).unwrap().opens_at(), now + TimeDelta::hours(hours));
            assert_eq!(fetches.closed(image(2), before), None);
            now += TimeDelta::hours(hours);
            assert_eq!(fetches.closed(digest, now), None);
        }
        // The clock went back.
        assert_eq!(fetches.closed(digest, DateTime::UNIX_EPOCH - TimeDelta::hours(1)), None);
        for n in 2..100 {
            fetches.remember_wrong(image(n), now);
        }
        assert_eq!(fetches.wrong.len(), WRONG_KEPT);
        assert!(!fetches.forget_wrong(digest) && fetches.forget_wrong(image(99)));
    }
}
