//! `fw_env.config`, as libubootenv and u-boot-tools read it: where the copies of an environment lie.
//!
//! A line is `DEVICE OFFSET SIZE [SECTOR-SIZE [SECTORS [NO-LOCK]]]`, blank, or a comment. The offset is decimal, octal or
//! hexadecimal as in C, and below zero it counts from the end of the device; the other numbers are hexadecimal, with or
//! without `0x`. Not supported: the YAML form of libubootenv, and raw flash (MTD and UBI devices), which needs erasures that a
//! power cut may interrupt. Both projects pass over a line that they cannot read, and go on with another environment than was meant:
//! here it is an error.

use std::fmt;
use std::path::PathBuf;

/// Longest file that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Largest copy, in bytes: far beyond what boards use, and small enough to be held in memory.
pub const MAX_SIZE: usize = 16 * 1024 * 1024;

/// Where one copy lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Block device or file.
    pub device: PathBuf,
    /// Offset of its first byte; below zero from the end of the device.
    pub offset: i64,
    /// Bytes of the copy, with its header.
    pub size: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.offset < 0 { "-" } else { "" };
        write!(f, "{} at {sign}{:#x}", self.device.display(), self.offset.unsigned_abs())
    }
}

/// A fault, and its line in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Counted from 1; 0 is the file as a whole.
    pub line: usize,
    /// Why.
    pub why: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.why),
            line => write!(f, "line {line}: {}", self.why),
        }
    }
}

impl std::error::Error for Error {}

/// Reads the file: one place, or two of one size.
///
/// # Errors
/// [`Error`] names the line.
pub fn parse(bytes: &[u8]) -> Result<Vec<Place>, Error> {
    let whole = |why: &str| Error { line: 0, why: why.to_owned() };
    if bytes.len() > MAX_BYTES {
        return Err(whole(&format!("it has more than {MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| whole("it is not text in UTF-8"))?;
    let mut places: Vec<Place> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let wrong = |why| Error { line, why };
        let content = content.split('#').next().unwrap_or_default();
        let Some(place) = place(content).map_err(wrong)? else { continue };
        match places.as_slice() {
            [] => {}
            [first] if first.size == place.size => {}
            [_] => return Err(wrong("both copies must have one size".to_owned())),
            _ => return Err(wrong("it is a third copy, and there can be two".to_owned())),
        }
        places.push(place);
    }
    if places.is_empty() {
        return Err(whole("it names no device"));
    }
    Ok(places)
}

/// `None` for a blank line.
fn place(line: &str) -> Result<Option<Place>, String> {
    let mut words = line.split_ascii_whitespace();
    let Some(device) = words.next() else { return Ok(None) };
    check_supported(device)?;
    let mut next = |what: &str| words.next().ok_or(format!("the {what} is missing"));
    let offset = next("offset").and_then(|word| c_number(word).ok_or(not_a("offset", word)))?;
    let size = next("size").and_then(|word| hex("size", word))?;
    let sector = next("sector size").ok().map_or(Ok(size), |word| hex("sector size", word))?;
    let sectors = next("number of sectors").ok().map(|word| hex("number of sectors", word)).transpose()?;
    if let Some(word) = next("lock switch").ok().filter(|word| c_number(word).is_none()) {
        return Err(not_a("lock switch", word));
    }
    if let Ok(word) = next("end") {
        return Err(format!("there is \"{}\" after the last number", shown(word)));
    }
    if size > MAX_SIZE as u64 {
        return Err(format!("a size of {size:#x} is more than {MAX_SIZE:#x}"));
    }
    let sector = if sector == 0 { size } else { sector };
    let room = sectors.filter(|count| *count > 0).map(|count| count.saturating_mul(sector));
    if let Some(room) = room.filter(|room| *room < size) {
        return Err(format!("a size of {size:#x} does not fit into its sectors, which have {room:#x} bytes"));
    }
    // Least: a header, one variable, its end.
    if size < 16 {
        return Err(format!("a size of {size:#x} is too small for an environment"));
    }
    Ok(Some(Place { device: device.into(), offset, size: size as usize }))
}

fn check_supported(device: &str) -> Result<(), String> {
    let begins = |begin: &str| device.strip_prefix("/dev/").unwrap_or(device).starts_with(begin);
    if device == "---" || device.ends_with(':') {
        return Err("it is YAML, which the agent does not read: write lines of the form DEVICE OFFSET SIZE".to_owned());
    }
    if begins("ubi") {
        return Err(format!("{} is a UBI device, which the agent does not support: use a block device", shown(device)));
    }
    if begins("mtd") && !begins("mtdblock") {
        return Err(format!(
            "{} is an MTD device, which the agent does not support: use a block device",
            shown(device)
        ));
    }
    Ok(())
}

fn not_a(what: &str, word: &str) -> String {
    format!("the {what} \"{}\" is not a number", shown(word))
}

/// A file may have any content.
fn shown(word: &str) -> String {
    word.chars().take(40).collect::<String>().escape_default().to_string()
}

fn hex(what: &str, word: &str) -> Result<u64, String> {
    let digits = word.strip_prefix("0x").or(word.strip_prefix("0X")).unwrap_or(word);
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain).ok_or(not_a(what, word))
}

/// As `%lli` of C.
fn c_number(word: &str) -> Option<i64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, base) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = i64::from_str_radix(digits, base).ok().filter(|_| plain)?;
    Some(if negative { -number } else { number })
}
