//! The bytes of GRUB's environment block.
//!
//! Format: `grub-core/lib/envblk.c` of GRUB 2. A signature line, `name=value` lines with `\` and line feed escaped by `\`,
//! comment lines, padded with `#` to the last byte of the file. There is neither a checksum nor a second copy: a store
//! changes one 512-byte sector only, and never the length of anything.
//!
//! GRUB also reads blocks that no tool of its own writes: of any size, with lines without `=`, with damage behind the
//! variables. [`Block::get`] reads each of them as GRUB does, and [`Block::stores`] leads from it, in steps of one sector, to
//! a block that GRUB can store in, too.

use std::fmt;
use std::ops::Range;

use crate::protocol::{BootState, FallbackBlock, NAMES, View};

/// Size of a block as this crate and `grub-editenv` make it, in bytes. A smaller file cannot be changed in place.
pub const SIZE: usize = 1024;
/// Size of the largest file that counts as a block here, in bytes. GRUB has no limit.
pub const MAX_SIZE: usize = 64 * 1024;
/// The part that a store may change: one sector, which a disk writes whole or not at all. The protocol's variables stand in
/// the first one.
pub const SECTOR: usize = 512;
/// The first line.
pub const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";
/// Set in a block whose real variables lie elsewhere, as Fedora's GRUB does on btrfs.
const ELSEWHERE: &str = "env_block";

/// Why bytes are not a block, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// More than [`MAX_SIZE`] bytes, or no more than the first line has.
    Size(usize),
    /// The first line is not GRUB's signature.
    Signature,
    /// The block points elsewhere (`env_block`): this file is not what GRUB reads.
    Elsewhere,
    /// The first sector has no room for these variables.
    Full {
        /// Names of the other variables there.
        others: Vec<String>,
    },
    /// A variable that is to be set is there more than once, or beyond the first sector.
    Double(String),
    /// The change would alter more than one sector, or the length.
    Sectors,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Size(size) => {
                write!(f, "it has {size} bytes instead of {} to {MAX_SIZE}", SIGNATURE.len() + 1)
            }
            Error::Signature => f.write_str("it does not start with the line \"# GRUB Environment Block\""),
            Error::Elsewhere => f.write_str("its variable env_block makes GRUB keep the variables elsewhere"),
            Error::Full { others } => {
                write!(f, "its first {SECTOR} bytes have no room beside other variables: {}", others.join(" "))
            }
            Error::Double(name) => write!(f, "the variable {} is there more than once", name.escape_default()),
            Error::Sectors => f.write_str("the change would reach beyond one sector"),
        }
    }
}

impl std::error::Error for Error {}

/// Variables to be set: name and value.
pub type Variables<'a> = &'a [(&'static str, String)];

/// A variable as GRUB reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    /// Offset of its name.
    at: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// A block that GRUB reads. Variables of others and their order survive every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    bytes: Vec<u8>,
    variables: Vec<Variable>,
}

/// The outcome of GRUB's `save_env` in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The bytes afterwards.
    pub bytes: Vec<u8>,
    /// True if GRUB, reading them again, finds the values that it stored. Else the loader file goes on without the store.
    pub holds: bool,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Signature`] or [`Error::Elsewhere`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() <= SIGNATURE.len() || bytes.len() > MAX_SIZE {
            return Err(Error::Size(bytes.len()));
        }
        if !bytes.starts_with(SIGNATURE) {
            return Err(Error::Signature);
        }
        let block = Self::of(bytes.to_vec());
        if block.variables.iter().any(|variable| variable.name == ELSEWHERE.as_bytes()) {
            return Err(Error::Elsewhere);
        }
        Ok(block)
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self { variables: read(&bytes), bytes }
    }

    /// A block of [`SIZE`] bytes with these variables only.
    ///
    /// # Errors
    /// [`Error::Full`] when they do not fit.
    pub fn create(variables: Variables<'_>) -> Result<Self, Error> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.resize(SIZE, b'#');
        Self::of(bytes).with(variables)
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

    pub(crate) fn fixed(variables: Variables<'_>) -> Self {
        Self::create(variables).expect("fixed-width variables fit into the first sector")
    }

    /// A block for `state` in place of bytes that GRUB does not take for one, of their length if a block can have it. Of
    /// these bytes it keeps the lines that are variables of others, as far as there is room.
    #[must_use]
    pub fn rebuilt(damaged: &[u8], state: &BootState) -> Self {
        let size = if damaged.len() > MAX_SIZE { SIZE } else { damaged.len().max(SIZE) };
        let mut bytes = Self::main(state).bytes;
        bytes.truncate(padding(&bytes));
        for line in lines(damaged, 0).into_iter().map(|line| &damaged[line]).filter(|line| is_plain(line)) {
            if bytes.len() + line.len() <= size {
                bytes.extend_from_slice(line);
            }
        }
        bytes.resize(size, b'#');
        Self::of(bytes)
    }

    /// All bytes, as many as the file has.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value that GRUB's `load_env` would give to `name`: of the last line that sets it. `None` also for a value
    /// that is not UTF-8: nobody who asks for a name can use it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().rev().find(|variable| variable.name == name.as_bytes())?;
        std::str::from_utf8(&found.value).ok()
    }

    /// All variables as GRUB reads them, name and value in their order.
    pub fn variables(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.variables.iter().map(|variable| (&*variable.name, &*variable.value))
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

    /// The block with `variables` set, by a change of the first sector: in place where widths allow it, else in a new order, these
    /// variables first and those of others after them.
    ///
    /// # Errors
    /// [`Error`] when the change cannot be made so. The block is unchanged.
    pub fn with(&self, variables: Variables<'_>) -> Result<Self, Error> {
        if let Some(bytes) = self.patched(variables) {
            return Ok(Self::of(bytes));
        }
        let values: Vec<_> = variables.iter().map(|(name, value)| (*name, escape(value.as_bytes()))).collect();
        let mut bytes = self.bytes.clone();
        let head = self.head(&values, |name| values.iter().any(|(n, _)| n.as_bytes() == name))?;
        bytes.get_mut(..SECTOR).ok_or(Error::Size(self.bytes.len()))?.copy_from_slice(&head);
        let next = Self::of(bytes);
        let all_once = variables.iter().find(|(name, value)| !next.has_once(name) || next.get(name) != Some(value));
        all_once.map_or(Ok(next), |(name, _)| Err(Error::Double((*name).to_owned())))
    }

    /// The blocks that lead to one with `variables` set, each by a change of one sector to the one before. Mostly it is one;
    /// none if nothing changes. Where GRUB could not store in this block, or the protocol's variables stand in it twice or
    /// beyond the first sector, the steps of [`Block::repairs`] come first.
    ///
    /// # Errors
    /// As [`Block::with`]. For a block of less than [`SIZE`] bytes always: see [`Block::grown`].
    pub fn stores(&self, variables: Variables<'_>) -> Result<Vec<Self>, Error> {
        let mut steps = self.repairs()?;
        let next = steps.last().unwrap_or(self).with(variables)?;
        if next != *steps.last().unwrap_or(self) {
            steps.push(next);
        }
        Ok(steps)
    }

    /// The blocks that lead to one that GRUB reads and stores without doubt, each by a change of one sector to the one
    /// before: none if this is one. No step changes what GRUB reads of the protocol's variables. Of the others, all that
    /// GRUB can read stay, and those behind a line without `=` can be read again.
    ///
    /// # Errors
    /// [`Error::Full`] when the first sector has no room, [`Error::Size`] below [`SIZE`].
    pub fn repairs(&self) -> Result<Vec<Self>, Error> {
        if self.bytes.len() < SIZE {
            return Err(Error::Size(self.bytes.len()));
        }
        // A line without `=` hides the name behind it from GRUB, which must not come to light.
        let hidden = self.without_hidden();
        let mut steps = self.steps_to(&hidden);
        let mut head = hidden.clone();
        if !self.is_sound_head() {
            let read = |name: &'static str| {
                let found = self.variables.iter().rev().find(|variable| variable.name == name.as_bytes())?;
                Some((name, escape(&found.value)))
            };
            let values: Vec<_> = NAMES.into_iter().filter_map(read).collect();
            head[..SECTOR].copy_from_slice(&self.head(&values, is_ours)?);
        }
        // Then the doubles that GRUB reads now: their values stand in the first sector.
        for next in [head.clone(), [&head[..SECTOR], &self.repaired_tail()[SECTOR..]].concat()] {
            let more = steps.last().unwrap_or(self).steps_to(&next);
            steps.extend(more);
        }
        Ok(steps)
    }

    /// The blocks that lead to these bytes, sector by sector.
    fn steps_to(&self, next: &[u8]) -> Vec<Self> {
        let mut bytes = self.bytes.clone();
        let mut steps = vec![];
        for at in (0..bytes.len()).step_by(SECTOR) {
            let sector = at..(at + SECTOR).min(bytes.len());
            if bytes[sector.clone()] != next[sector.clone()] {
                bytes[sector.clone()].copy_from_slice(&next[sector]);
                steps.push(Self::of(bytes.clone()));
            }
        }
        steps
    }

    /// A block of [`SIZE`] bytes in place of a smaller one, with the same variables; `None` if this one is large enough.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn grown(&self) -> Result<Option<Self>, Error> {
        if self.bytes.len() >= SIZE {
            return Ok(None);
        }
        let mut bytes = self.bytes.clone();
        // The padding of the small one, if it has any, goes on.
        bytes.resize(SIZE, b'#');
        let grown = Self::of(bytes);
        Ok(Some(grown.repairs()?.pop().unwrap_or(grown)))
    }

    /// The block after GRUB's `save_env`, when the loader file stores these variables (`grub_envblk_set`).
    #[must_use]
    pub fn saved(&self, stored: Variables<'_>) -> Saved {
        let lost = || Saved { bytes: self.bytes.clone(), holds: false };
        let value = |name: &'static str| match stored.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => Some(value.clone().into_bytes()),
            None => self.variables.iter().rev().find(|v| v.name == name.as_bytes()).map(|v| v.value.clone()),
        };
        let ours = matches!(self.view(), View::Ours(_));
        let named = |name: &&str| {
            let kubesolo_os = ["active_slot", "boot_success", "boot_counter"].contains(name);
            ours || kubesolo_os || stored.iter().any(|(n, _)| n == name)
        };
        let mut bytes = self.bytes.clone();
        let mut next = vec![];
        for (name, value) in NAMES.into_iter().filter(named).filter_map(|name| Some((name, value(name)?))) {
            if !set(&mut bytes, name.as_bytes(), &escape(&value)) {
                return lost();
            }
            next.push((name, value));
        }
        // The loader file compares these after it has read the block again.
        let compared = ["active_slot", "boot_success", "boot_counter", "ks_a", "ks_b", "ks_seal"];
        let again = read(&bytes);
        let holds = compared.into_iter().all(|name| {
            let found = again.iter().rev().find(|v| v.name == name.as_bytes()).map(|v| &v.value);
            found == value(name).as_ref()
        });
        Saved { bytes, holds }
    }

    /// Names of the variables in the first sector that are not the protocol's, for messages.
    fn others(&self) -> Vec<String> {
        let names = self.lines().into_iter().filter(|line| line.start < SECTOR).filter_map(|line| {
            let name = name_of(&self.bytes[line])?;
            (!is_ours(name)).then(|| name.escape_ascii().to_string())
        });
        names.collect()
    }

    /// The lines behind the signature, each with its line feed.
    fn lines(&self) -> Vec<Range<usize>> {
        lines(&self.bytes, SIGNATURE.len())
    }

    /// True if `name` stands at the start of one line, which is in the first sector.
    fn has_once(&self, name: &str) -> bool {
        let lines = self.lines().into_iter().filter(|line| name_of(&self.bytes[line.clone()]) == Some(name.as_bytes()));
        matches!(*lines.collect::<Vec<_>>(), [ref line] if line.end <= SECTOR)
    }

    /// The bytes with each value overwritten where it stands; `None` if one is absent, of another width, twice, or beyond the
    /// first sector, or if the order is not that of a complete store.
    fn patched(&self, variables: Variables<'_>) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        let lines = self.lines();
        let mut last = 0;
        for (name, new) in variables {
            let new = escape(new.as_bytes());
            let mut found = lines.iter().filter(|line| name_of(&bytes[(*line).clone()]) == Some(name.as_bytes()));
            let line = found.next().filter(|line| sets(&bytes[(*line).clone()], name.as_bytes()))?;
            let at = line.start + name.len() + 1;
            let value = at..line.end - 1;
            if found.next().is_some() || value.len() != new.len() || at < last || line.end > SECTOR {
                return None;
            }
            bytes[value].copy_from_slice(&new);
            last = at;
        }
        let again = read(&bytes);
        let reads = |(name, value): &(&str, String)| {
            again.iter().rev().find(|v| v.name == name.as_bytes()).is_some_and(|v| v.value == value.as_bytes())
        };
        variables.iter().all(reads).then_some(bytes)
    }

    /// True if the first sector holds each of the protocol's variables that GRUB reads, once, and no line without `=`.
    fn is_sound_head(&self) -> bool {
        let lines = self.lines();
        let sound = |line: &Range<usize>| line.start >= SECTOR || is_comment_or_variable(&self.bytes[line.clone()]);
        let once = |name: &str| self.has_once(name) || self.get(name).is_none() && !self.stands(name);
        let ends = lines.last().map_or(SIGNATURE.len(), |line| line.end);
        let padded = ends >= SECTOR || self.bytes[ends..SECTOR.min(self.bytes.len())].iter().all(|b| *b == b'#');
        padded && lines.iter().all(sound) && NAMES.into_iter().all(once)
    }

    fn stands(&self, name: &str) -> bool {
        self.lines().into_iter().any(|line| name_of(&self.bytes[line]) == Some(name.as_bytes()))
    }

    /// The bytes with those lines of the protocol's variables beyond the first sector as comments that GRUB does not read, or
    /// reads another line after.
    fn without_hidden(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let counts = |line: &Range<usize>, name: &[u8]| {
            self.variables.iter().rev().find(|variable| variable.name == name).is_some_and(|it| it.at == line.start)
        };
        for line in self.lines().into_iter().filter(|line| line.start >= SECTOR) {
            if name_of(&self.bytes[line.clone()]).is_some_and(|name| is_ours(name) && !counts(&line, name)) {
                bytes[line.start] = b'#';
            }
        }
        bytes
    }

    /// The bytes with everything beyond the first sector in order: lines of the protocol's variables and lines without `=`
    /// become comments in their place, and what GRUB cannot read at the end becomes padding.
    fn repaired_tail(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut lines = self.lines();
        loop {
            let mut next = bytes.clone();
            for line in lines.iter().filter(|line| line.start >= SECTOR) {
                let text = &bytes[line.clone()];
                // Nothing can be put into an empty line. It hides the name of the next variable from GRUB, which is not ours.
                let useless = !is_comment_or_variable(text) && text.len() > 1;
                if useless || name_of(text).is_some_and(is_ours) {
                    next[line.start] = b'#';
                }
            }
            // The `#` can take the place of the backslash before a line feed, which divides the line in two.
            if next == bytes {
                break;
            }
            bytes = next;
            lines = self::lines(&bytes, SIGNATURE.len());
        }
        let end = lines.last().map_or(SIGNATURE.len(), |line| line.end);
        if bytes[end..].iter().any(|b| *b != b'#') {
            bytes[end.max(SECTOR)..].fill(b'#');
        }
        bytes
    }

    /// The first sector with these variables first, then those of others there, but for lines that set a `replaced` name.
    /// A line that reaches into the second sector, or lies there, stays in its place; a comment fills the gap before it.
    fn head(&self, ours: &[(&'static str, Vec<u8>)], replaced: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Error> {
        let lines = self.lines();
        let stays = |text: &[u8]| match name_of(text) {
            Some(name) => !replaced(name),
            None => text.starts_with(b"#"),
        };
        let within = lines.iter().filter(|line| line.end <= SECTOR).map(|line| &self.bytes[line.clone()]);
        let mut others: Vec<_> = within.filter(|text| stays(text) && !is_filler(text)).collect();
        let crossing = lines.iter().find(|line| line.start < SECTOR && line.end > SECTOR);
        let behind = lines.last().is_some_and(|line| line.end > SECTOR);
        let anchor = crossing.map_or(SECTOR, |line| line.start);
        let mut head = SIGNATURE.to_vec();
        ours.iter().for_each(|(name, value)| head.extend([name.as_bytes(), b"=", value, b"\n"].concat()));
        // One byte cannot be filled: a comment has two.
        let fits = |others: &[&[u8]]| match anchor.checked_sub(head.len() + others.concat().len()) {
            Some(1) => !behind,
            gap => gap.is_some(),
        };
        while !fits(&others) {
            let comment = others.iter().rposition(|text| text.starts_with(b"#"));
            others.remove(comment.ok_or_else(|| Error::Full { others: self.others() })?);
        }
        head.extend(others.concat());
        if head.len() < anchor {
            head.resize(anchor, b'#');
            if behind {
                head[anchor - 1] = b'\n';
            }
        }
        if let Some(line) = crossing {
            head.extend_from_slice(&self.bytes[line.start..SECTOR]);
            if !stays(&self.bytes[line.clone()]) {
                head[anchor] = b'#';
            }
        }
        Ok(head)
    }
}

fn is_ours(name: &[u8]) -> bool {
    NAMES.iter().any(|ours| ours.as_bytes() == name)
}

/// The name that a line sets, if it is no comment, up to a NUL as GRUB reads it.
fn name_of(line: &[u8]) -> Option<&[u8]> {
    let equals = line.iter().position(|b| *b == b'=')?;
    if line.starts_with(b"#") { None } else { line[..equals].split(|b| *b == 0).next() }
}

fn sets(line: &[u8], name: &[u8]) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="))
}

/// A comment that only fills a gap.
fn is_filler(line: &[u8]) -> bool {
    line.starts_with(b"#") && line.iter().all(|b| b"#\n".contains(b))
}

fn is_comment_or_variable(line: &[u8]) -> bool {
    line.starts_with(b"#") || line.contains(&b'=')
}

/// True for a line of damaged bytes that is worth keeping: a variable of others, of printable text.
fn is_plain(line: &[u8]) -> bool {
    let text = std::str::from_utf8(line).unwrap_or_default().trim_end_matches('\n');
    let name_is_plain = |name: &[u8]| {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_.-".contains(b);
        !name.is_empty() && name.iter().all(plain) && !is_ours(name) && name != ELSEWHERE.as_bytes()
    };
    name_of(line).is_some_and(name_is_plain) && !text.is_empty() && !text.chars().any(char::is_control)
}

/// Offset of the `#` bytes that end a block.
fn padding(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != b'#').map_or(0, |last| last + 1)
}

/// The lines from `at` on, each with the line feed that ends it and that no backslash escapes (`find_next_line`). Bytes
/// after the last line feed are none.
fn lines(bytes: &[u8], at: usize) -> Vec<Range<usize>> {
    let mut lines = vec![];
    let mut start = at;
    while let Some(size) = line(bytes.get(start..).unwrap_or_default()) {
        lines.push(start..start + size);
        start += size;
    }
    lines
}

/// Bytes of the first line, with its line feed.
fn line(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().position(|b| {
        let end = *b == b'\n' && !escaped;
        escaped = *b == b'\\' && !escaped;
        end
    })?;
    Some(end + 1)
}

/// The variables as GRUB reads them (`grub_envblk_iterate`): a name goes up to `=`, over line feeds; a name or value without
/// end ends the block. GRUB cuts both at a NUL.
fn read(bytes: &[u8]) -> Vec<Variable> {
    let mut variables = vec![];
    let mut at = SIGNATURE.len().min(bytes.len());
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"#") {
            let Some(end) = line(rest) else { return variables };
            at += end;
            continue;
        }
        let Some(equals) = rest.iter().position(|b| *b == b'=') else { return variables };
        let Some(end) = line(&rest[equals + 1..]) else { return variables };
        let text = |bytes: &[u8]| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        let value = &rest[equals + 1..equals + end];
        variables.push(Variable { at, name: text(&rest[..equals]), value: text(&unescape(value)) });
        at += equals + 1 + end;
    }
    variables
}

/// Sets a variable as GRUB does (`grub_envblk_set`): in the first line of that name, moving what follows, else behind the
/// last line. False if GRUB cannot.
fn set(bytes: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    let (size, space) = (bytes.len(), padding(bytes));
    if space == 0 || bytes[space - 1] != b'\n' {
        return false;
    }
    let found = lines(&bytes[..space], SIGNATURE.len())
        .into_iter()
        .find(|line| line.start + name.len() + 1 < space && sets(&bytes[line.clone()], name));
    let (at, text) = match found {
        Some(line) => (line.start + name.len() + 1..line.end - 1, value.to_vec()),
        None => (space..space, [name, b"=", value, b"\n"].concat()),
    };
    if space - at.len() + text.len() > size {
        return false;
    }
    bytes.truncate(space);
    bytes.splice(at, text);
    bytes.resize(size, b'#');
    true
}

fn escape(value: &[u8]) -> Vec<u8> {
    value.iter().flat_map(|b| [b'\\', *b].into_iter().skip(usize::from(!b"\\\n".contains(b)))).collect()
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let keep = |b: &u8| {
        escaped = *b == b'\\' && !escaped;
        !escaped
    };
    raw.iter().copied().filter(keep).collect()
}
