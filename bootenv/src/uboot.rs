//! The bytes of U-Boot's environment, one copy or two.
//!
//! Format: `env/common.c` and `lib/hashtable.c` of U-Boot. A copy is a CRC-32 of its data in little-endian order, with a
//! second copy beside it one byte of flags (a generation number), then the data: `name=value` and a NUL for each variable,
//! one more NUL, padding. The CRC covers the padding, not the flags. Where U-Boot and the tools of other projects read the
//! data differently (escapes, blanks), this reads it as U-Boot does: it boots by it. Of a variable that is set twice the
//! first counts, as for `env import` with a list of names, which is how `loader/boot.cmd` reads.

pub mod bootcount;
pub mod config;
pub mod store;

use std::fmt;

use crate::protocol::{NAMES, View};

/// How many copies there are, which decides what a copy begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One copy: a CRC in front.
    Single,
    /// Two copies: a CRC and a byte of flags in front.
    Redundant,
}

impl Format {
    /// Bytes before the data.
    #[must_use]
    pub fn header(self) -> usize {
        match self {
            Format::Single => CRC,
            Format::Redundant => CRC + 1,
        }
    }
}

/// U-Boot's script of the slot protocol, the source of `boot.scr`.
pub const SCRIPT: &str = include_str!("../loader/boot.cmd");
/// Bytes of the checksum.
const CRC: usize = 4;

/// Why bytes are not a copy of an environment, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no room for a header and the end of the data.
    Short(usize),
    /// The checksum is not that of the data.
    Crc,
    /// The checksum would be right for the other format, which is this one.
    Other(Format),
    /// The data goes on to its last byte: the size is not the one that it was written with.
    Endless,
    /// The variables do not fit: bytes that are needed, bytes that there are.
    Full(usize, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Short(size) => write!(f, "{size} bytes are too few for an environment"),
            Error::Crc => f.write_str("its checksum does not match its content"),
            Error::Other(Format::Redundant) => f.write_str("it is one of two copies, and the settings name one only"),
            Error::Other(Format::Single) => f.write_str("it is a single copy, and the settings name two"),
            Error::Endless => f.write_str("its list of variables has no end"),
            Error::Full(need, have) => write!(f, "the variables need {need} bytes, and there are {have}"),
        }
    }
}

impl std::error::Error for Error {}

/// All variables of a copy. Unknown ones and their order survive every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Each as it stands between two NULs.
    entries: Vec<Vec<u8>>,
}

impl Environment {
    /// Reads a copy; gives its flags too, which are 0 in the format that has none.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with the bytes.
    pub fn parse(bytes: &[u8], format: Format) -> Result<(Self, u8), Error> {
        let flags = flags(bytes, format)?;
        let mut rest = &bytes[format.header()..];
        let mut entries = Vec::new();
        loop {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(Error::Endless)?;
            if end == 0 {
                return Ok((Self { entries }, flags));
            }
            entries.push(rest[..end].to_vec());
            rest = &rest[end + 1..];
        }
    }

    /// The bytes of a copy.
    ///
    /// # Errors
    /// [`Error::Full`] when the variables do not fit into `size`.
    pub fn encode(&self, size: usize, format: Format, flags: u8) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; format.header()];
        for entry in &self.entries {
            bytes.extend_from_slice(entry);
            bytes.push(0);
        }
        // Also where there is no variable at all: tools look for two.
        bytes.resize(bytes.len().max(format.header() + 1) + 1, 0);
        if bytes.len() > size {
            return Err(Error::Full(bytes.len(), size));
        }
        bytes.resize(size, 0);
        let checksum = crc32fast::hash(&bytes[format.header()..]);
        bytes[..CRC].copy_from_slice(&checksum.to_le_bytes());
        if format == Format::Redundant {
            bytes[CRC] = flags;
        }
        Ok(bytes)
    }

    /// The value that U-Boot would have for `name`. `None` also for a value that is not UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let (_, value) = self.entries.iter().find_map(|entry| split(entry).filter(|(n, _)| *n == name.as_bytes()))?;
        // An empty value deletes the variable.
        String::from_utf8(unescape(value)).ok().filter(|value| !value.is_empty())
    }

    /// The meaning of the protocol's variables.
    #[must_use]
    pub fn view(&self) -> View {
        let values = NAMES.map(|name| (name, self.get(name)));
        let view = View::read(|wanted| values.iter().find(|(name, _)| *name == wanted)?.1.as_deref());
        bootcount::counted(self, view)
    }

    /// Every variable as U-Boot would have it, in the order in which they stand.
    #[must_use]
    pub fn variables(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (name, value) in self.entries.iter().filter_map(|entry| split(entry)) {
            if all.iter().all(|(known, _)| known != name) {
                all.push((name.to_vec(), unescape(value)));
            }
        }
        all.retain(|(name, value)| !name.is_empty() && !value.is_empty());
        all
    }

    /// The environment with `variables` set, each where it stands, or at the end.
    #[must_use]
    pub fn with(&self, variables: &[(&str, String)]) -> Self {
        let mut entries = self.entries.clone();
        for (name, value) in variables {
            let sets = |entry: &Vec<u8>| split(entry).is_some_and(|(n, _)| n == name.as_bytes());
            let place = entries.iter().position(sets);
            let mut number = 0;
            entries.retain(|entry| {
                number += 1;
                Some(number - 1) == place || !sets(entry)
            });
            let entry = [name.as_bytes(), b"=", &escape(value)].concat();
            match place {
                Some(place) => entries[place] = entry,
                None => entries.push(entry),
            }
        }
        Self { entries }
    }
}

/// The flags of a copy whose checksum is right.
///
/// # Errors
/// [`Error::Short`], [`Error::Crc`], [`Error::Other`].
pub fn flags(bytes: &[u8], format: Format) -> Result<u8, Error> {
    if bytes.len() < format.header() + 2 {
        return Err(Error::Short(bytes.len()));
    }
    let right = |format: Format| bytes[..CRC] == crc32fast::hash(&bytes[format.header()..]).to_le_bytes();
    match format {
        Format::Single if right(format) => Ok(0),
        Format::Redundant if right(format) => Ok(bytes[CRC]),
        Format::Single if right(Format::Redundant) => Err(Error::Other(Format::Redundant)),
        Format::Redundant if right(Format::Single) => Err(Error::Other(Format::Single)),
        Format::Single | Format::Redundant => Err(Error::Crc),
    }
}

/// Which of two copies counts, by the flags of those whose checksum is right: the higher number, but 0 comes after 255.
#[must_use]
pub fn newest(flags: [Option<u8>; 2]) -> Option<usize> {
    match flags {
        [None, None] => None,
        [Some(_), None] => Some(0),
        [None, Some(_)] => Some(1),
        [Some(255), Some(0)] => Some(1),
        [Some(0), Some(255)] => Some(0),
        [Some(first), Some(second)] => Some(usize::from(second > first)),
    }
}

/// Name and value; `None` for what U-Boot takes for a comment.
fn split(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let blanks = entry.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let entry = &entry[blanks..];
    if entry.starts_with(b"#") {
        return None;
    }
    // Without a `=` it deletes the variable of that name.
    let equals = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
    Some((&entry[..equals], entry.get(equals + 1..).unwrap_or_default()))
}

fn escape(value: &str) -> Vec<u8> {
    value.bytes().flat_map(|b| [b'\\', b].into_iter().skip(usize::from(b != b'\\'))).collect()
}

/// A backslash stands before a byte that is meant as it is; the last one stands for itself.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        value.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    value
}
