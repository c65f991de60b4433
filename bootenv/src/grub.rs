//! The bytes of GRUB's environment block.
//!
//! Format: `grub-core/lib/envblk.c` of GRUB 2. 1024 bytes, a signature line, `name=value` lines with `\` and line feed
//! escaped by `\`, comment lines, padded with `#` to the last byte. There is neither a checksum nor a second copy: a
//! store changes one 512-byte sector only, and never the length of anything.

use std::fmt;

use crate::protocol::{BootState, FallbackBlock, View};

/// Size of the block in bytes: what GRUB's `save_env` and `grub-editenv` expect.
pub const SIZE: usize = 1024;
/// The part that a store may change: one sector, which a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// The first line.
pub const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";
/// Set in a block whose real variables lie elsewhere, as Fedora's GRUB does on btrfs.
const ELSEWHERE: &str = "env_block";

/// Why bytes are not a block, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not 1024 bytes.
    Size(usize),
    /// The first line is not GRUB's signature.
    Signature,
    /// Not padded with `#` to the last byte.
    Padding,
    /// A line without `=`, at this offset.
    Line(usize),
    /// A variable occurs twice: GRUB reads the last and writes the first.
    Twice(String),
    /// The block points elsewhere (`env_block`): this file is not what GRUB reads.
    Elsewhere,
    /// The change would alter bytes outside the first sector.
    SecondSector,
    /// The variables do not fit.
    Full,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Size(size) => write!(f, "it has {size} bytes instead of {SIZE}"),
            Error::Signature => f.write_str("it does not start with the line \"# GRUB Environment Block\""),
            Error::Padding => f.write_str("it is not padded with '#' up to its last byte"),
            Error::Line(offset) => write!(f, "the line at byte {offset} has no '='"),
            Error::Twice(name) => write!(f, "the variable {} is set twice", name.escape_default()),
            Error::Elsewhere => f.write_str("its variable env_block says that GRUB keeps the variables elsewhere"),
            Error::SecondSector => f.write_str("the change would reach beyond its first 512 bytes"),
            Error::Full => write!(f, "the variables do not fit into {SIZE} bytes"),
        }
    }
}

impl std::error::Error for Error {}

/// One line of the block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// Starts with `#`; kept as it is.
    Comment(Vec<u8>),
    /// `name=value`.
    Variable {
        name: Vec<u8>,
        /// As GRUB hands it out.
        value: Vec<u8>,
        /// As it stands in the block, escaped.
        raw: Vec<u8>,
        /// Offset of `raw`.
        at: usize,
    },
}

/// A valid block. Unknown variables, comments and their order survive every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != SIZE {
            return Err(Error::Size(bytes.len()));
        }
        if !bytes.starts_with(SIGNATURE) {
            return Err(Error::Signature);
        }
        let lines = lines(bytes)?;
        if lines.iter().any(|line| line.sets(ELSEWHERE)) {
            return Err(Error::Elsewhere);
        }
        Ok(Self { bytes: bytes.to_vec(), lines })
    }

    /// A block with these variables only.
    ///
    /// # Errors
    /// [`Error::Full`] when they do not fit.
    pub fn create(variables: &[(&'static str, String)]) -> Result<Self, Error> {
        Self::parse(&render(&[], variables)?)
    }

    /// A new main block for `state`.
    #[must_use]
    pub fn main(state: &BootState) -> Self {
        Self::fixed(&state.variables())
    }

    /// A new second file for `second`.
    #[must_use]
    pub fn second(second: &FallbackBlock) -> Self {
        Self::fixed(&second.variables())
    }

    fn fixed(variables: &[(&'static str, String)]) -> Self {
        Self::create(variables).expect("fixed-width variables fit into the first sector")
    }

    /// The 1024 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value that GRUB's `load_env` would give to `name`: of the last line that sets it. `None` also for a value
    /// that is not UTF-8: nobody who asks for a name can use it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Variable { value, .. } if line.sets(name) => Some(std::str::from_utf8(value).ok()),
            _ => None,
        })?
    }

    /// The main block's meaning.
    #[must_use]
    pub fn view(&self) -> View {
        View::read(|name| self.get(name))
    }

    /// The second file's meaning; `None` unless complete and within the alphabets.
    #[must_use]
    pub fn as_second(&self) -> Option<FallbackBlock> {
        FallbackBlock::read(|name| self.get(name))
    }

    /// The block with `variables` set: in place where widths allow it, else in a new order, these variables first
    /// and all other lines after them.
    ///
    /// # Errors
    /// [`Error`] when a variable occurs twice, or bytes beyond the first sector would change. The block is unchanged.
    pub fn with(&self, variables: &[(&'static str, String)]) -> Result<Self, Error> {
        for (name, _) in variables {
            if self.lines.iter().filter(|line| line.sets(name)).count() > 1 {
                return Err(Error::Twice((*name).to_owned()));
            }
        }
        let bytes = match self.patched(variables) {
            Some(bytes) => bytes,
            None => render(&self.lines, variables)?,
        };
        if bytes[SECTOR..] != self.bytes[SECTOR..] {
            return Err(Error::SecondSector);
        }
        Self::parse(&bytes)
    }

    /// The bytes with each value overwritten where it stands; `None` if one is absent, of another width, or beyond the
    /// first sector, or if the order is not that of a complete store.
    fn patched(&self, variables: &[(&'static str, String)]) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        let mut last = 0;
        for (name, new) in variables {
            let new = escape(new);
            let (at, width) = self.lines.iter().find_map(|line| match line {
                Line::Variable { raw, at, .. } if line.sets(name) => Some((*at, raw.len())),
                _ => None,
            })?;
            if width != new.len() || at < last || at + width > SECTOR {
                return None;
            }
            bytes[at..at + width].copy_from_slice(&new);
            last = at;
        }
        Some(bytes)
    }
}

impl Line {
    fn sets(&self, variable: &str) -> bool {
        matches!(self, Line::Variable { name, .. } if name == variable.as_bytes())
    }
}

/// Splits the block as GRUB does: up to the padding, which is the `#` bytes that end it.
fn lines(bytes: &[u8]) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    let mut at = SIGNATURE.len();
    while at < bytes.len() {
        if bytes[at..].iter().all(|b| *b == b'#') {
            return Ok(lines);
        }
        let rest = &bytes[at..];
        let end = line_end(rest).ok_or(Error::Padding)?;
        let line = &rest[..end];
        if line.starts_with(b"#") {
            lines.push(Line::Comment(line.to_vec()));
        } else {
            let equals = line.iter().position(|b| *b == b'=').ok_or(Error::Line(at))?;
            let (name, raw) = (line[..equals].to_vec(), line[equals + 1..].to_vec());
            lines.push(Line::Variable { name, value: unescape(&raw), raw, at: at + equals + 1 });
        }
        at += end + 1;
    }
    Err(Error::Padding)
}

/// The offset of the line feed that ends the first line: one that no backslash escapes.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    bytes.iter().position(|b| {
        let end = *b == b'\n' && !escaped;
        escaped = *b == b'\\' && !escaped;
        end
    })
}

fn escape(value: &str) -> Vec<u8> {
    value.bytes().flat_map(|b| [b'\\', b].into_iter().skip(usize::from(!matches!(b, b'\\' | b'\n')))).collect()
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let keep = |b: &u8| {
        escaped = *b == b'\\' && !escaped;
        !escaped
    };
    raw.iter().copied().filter(keep).collect()
}

fn render(lines: &[Line], variables: &[(&'static str, String)]) -> Result<Vec<u8>, Error> {
    let mut bytes = SIGNATURE.to_vec();
    for (name, value) in variables {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend(escape(value));
        bytes.push(b'\n');
    }
    if bytes.len() > SECTOR {
        return Err(Error::Full);
    }
    let ours = |name: &[u8]| variables.iter().any(|(n, _)| n.as_bytes() == name);
    for line in lines {
        match line {
            Line::Comment(text) => bytes.extend_from_slice(text),
            Line::Variable { name, .. } if ours(name) => continue,
            Line::Variable { name, raw, .. } => {
                bytes.extend_from_slice(name);
                bytes.push(b'=');
                bytes.extend_from_slice(raw);
            }
        }
        bytes.push(b'\n');
    }
    if bytes.len() >= SIZE {
        return Err(Error::Full);
    }
    bytes.resize(SIZE, b'#');
    Ok(bytes)
}
