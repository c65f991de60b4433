//! The headers of a tar archive (POSIX ustar, and what GNU tar and Go write for short names). Only regular files and folders:
//! a bundle has no use for anything else, and most tricks with archives need it.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use super::malformed;
use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};

const BLOCK: u64 = 512;

/// Where a file lies in the archive, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A regular file.
#[derive(Debug)]
pub(super) struct Entry {
    /// Relative, without `.` and `..`.
    pub(super) name: String,
    pub(super) extent: Extent,
}

/// All regular files of an archive of `size` bytes. Reads the headers and nothing else.
pub(super) fn entries(archive: &mut (impl Read + Seek), size: u64) -> Result<Vec<Entry>> {
    let mut entries = vec![];
    let mut offset = 0;
    for _ in 0..=limits::BUNDLE_ENTRIES {
        let header = header(archive, offset, size)?;
        if header.iter().all(|b| *b == 0) {
            return Ok(entries);
        }
        check_sum(&header, offset)?;
        let extent = Extent { offset: offset + BLOCK, size: octal(&header[124..136])? };
        if extent.size > size.saturating_sub(extent.offset) {
            return Err(malformed(format_args!("it ends in the middle of a file, at {size} bytes")));
        }
        let name = name(&header)?;
        match header[156] {
            b'0' | 0 => entries.push(Entry { name, extent }),
            b'5' if extent.size == 0 => {}
            // Records about the next file, such as its time in fractions of a second.
            b'x' | b'g' => check_records(archive, extent)?,
            kind => {
                let (kind, name) = (text::escape(&char::from(kind).to_string()), text::escape(&name));
                return Err(malformed(format_args!("{name} is neither file nor folder, but of type \"{kind}\"")));
            }
        }
        offset = extent.offset + extent.size.div_ceil(BLOCK) * BLOCK;
    }
    Err(limits::exceeded("bundle", format_args!("{} entries", limits::BUNDLE_ENTRIES)))
}

/// The bytes of a file, which the caller knows to be few.
pub(super) fn read(archive: &mut (impl Read + Seek), extent: Extent) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(extent.size).map_err(|_| malformed("it has an impossible size"))?];
    let read = archive.seek(SeekFrom::Start(extent.offset)).and_then(|_| archive.read_exact(&mut bytes));
    read.map_err(|e| failed(&e))?;
    Ok(bytes)
}

/// A read error, of the file or of the medium.
pub(super) fn failed(e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::UnexpectedEof => malformed("it became shorter during the read"),
        ErrorKind::TimedOut => Error::new(Reason::StickBusy, format!("cannot read it: {e}"))
            .remedy("Use another medium, or copy the bundle to a local disk."),
        _ => Error::new(Reason::BundleUnreadable, format!("cannot read it: {e}"))
            .remedy("Check the medium, or copy the bundle again."),
    }
}

fn header(archive: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<[u8; BLOCK as usize]> {
    let mut header = [0; BLOCK as usize];
    if size.saturating_sub(offset) < BLOCK {
        return Err(malformed(match offset {
            0 => "it is shorter than a tar archive".to_owned(),
            _ => format!("it ends without its end mark, at {size} bytes"),
        }));
    }
    let read = archive.seek(SeekFrom::Start(offset)).and_then(|_| archive.read_exact(&mut header));
    read.map_err(|e| failed(&e))?;
    if offset == 0 && header.starts_with(&[0x1f, 0x8b]) {
        return Err(malformed("it is compressed").remedy("Unpack it with gunzip, and name the tar archive."));
    }
    Ok(header)
}

/// The sum of all bytes of a header, where the sum itself counts as blanks.
fn check_sum(header: &[u8; BLOCK as usize], offset: u64) -> Result<()> {
    let sum = |range: &[u8]| range.iter().map(|b| u64::from(*b)).sum::<u64>();
    let found = sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..]);
    if octal(&header[148..156]).is_ok_and(|told| told == found) {
        return Ok(());
    }
    Err(malformed(format_args!("no header of a tar archive at byte {offset}")))
}

/// Octal digits, with blanks before and blanks or NUL behind them.
fn octal(field: &[u8]) -> Result<u64> {
    let digits = field.trim_ascii_start();
    let digits = digits.split(|b| matches!(b, 0 | b' ')).next().unwrap_or_default();
    if digits.is_empty() || !digits.iter().all(|b| matches!(b, b'0'..=b'7')) {
        return Err(malformed("a number in a header is not octal"));
    }
    Ok(digits.iter().fold(0, |sum, digit| sum * 8 + u64::from(digit - b'0')))
}

/// The whole name, without `./` at its start.
fn name(header: &[u8; BLOCK as usize]) -> Result<String> {
    let text = |field: &[u8]| {
        let field = field.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8(field.to_vec()).map_err(|_| malformed("a name is not text"))
    };
    let (mut name, prefix) = (text(&header[..100])?, &header[345..500]);
    // GNU tar has other fields there.
    if header[257..263] == *b"ustar\0" && prefix[0] != 0 {
        name = format!("{}/{name}", text(prefix)?);
    }
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(malformed(format_args!("the name {} leaves the archive", text::escape(&name))));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "." | "")).collect();
    Ok(parts.join("/"))
}

/// Refuses records that would make a file of another name or size of the next one.
fn check_records(archive: &mut (impl Read + Seek), extent: Extent) -> Result<()> {
    if extent.size > limits::ANNOTATION_BYTES as u64 {
        return Err(limits::exceeded("records in the bundle", format_args!("{} bytes", limits::ANNOTATION_BYTES)));
    }
    let bytes = read(archive, extent)?;
    for keyword in [&b"path="[..], b"linkpath=", b"size=", b"GNU.sparse", b"hdrcharset="] {
        if bytes.windows(keyword.len()).any(|window| window == keyword) {
            return Err(malformed("it has records for long names or sizes, which a bundle must not have"));
        }
    }
    Ok(())
}
