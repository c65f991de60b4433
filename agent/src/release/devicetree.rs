//! A flattened device tree: whether a kernel can use it. Source: the Devicetree Specification 0.4, chapter 5.

use crate::base::error::{Error, Reason, Result};
use crate::base::limits;

const MAGIC: u32 = 0xd00d_feed;
/// The version that `dtc` writes; kernels and loaders read it by its number of compatibility, 16.
const VERSION: u32 = 17;
const COMPATIBLE: u32 = 16;
const HEADER_BYTES: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// The node of an overlay with its changes.
const OVERLAY: &[u8] = b"__overlay__";

/// Checks that `bytes` are one whole tree for a kernel, and no overlay.
///
/// # Errors
/// 65 `malformed-devicetree` with the first thing that is wrong; `limit-exceeded` for more than [`limits::DEVICETREE_BYTES`].
pub fn check(bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 > limits::DEVICETREE_BYTES {
        return Err(limits::exceeded("device tree", format_args!("{} bytes", limits::DEVICETREE_BYTES)));
    }
    walk(bytes).map_err(|why| {
        Error::new(Reason::MalformedDevicetree, format!("the file is not a device tree for a kernel: {why}"))
            .remedy("Publish a flattened tree, as dtc makes it; merge overlays into it with fdtoverlay.")
    })
}

fn walk(bytes: &[u8]) -> Result<(), String> {
    if word(bytes, 0) != Some(MAGIC) {
        return Err("it does not begin with d00dfeed".into());
    }
    let field = |at: usize| word(bytes, at * 4).ok_or("the header is cut off");
    let total = field(1)? as usize;
    if total != bytes.len() {
        return Err(format!("it has {} bytes, and its header says {total}", bytes.len()));
    }
    let (version, compatible) = (field(5)?, field(6)?);
    if version < VERSION || !(COMPATIBLE..=VERSION).contains(&compatible) {
        return Err(format!("it has version {version}, compatible with {compatible}, not version {VERSION}"));
    }
    let part = |offset: u32, size: u32| {
        let (start, size) = (offset as usize, size as usize);
        let end = start.checked_add(size).filter(|_| start >= HEADER_BYTES);
        end.and_then(|end| bytes.get(start..end)).ok_or("a part of it is outside of the file")
    };
    let (structure, strings) = (part(field(2)?, field(9)?)?, part(field(3)?, field(8)?)?);
    // The list of reserved memory: pairs of two numbers of 8 bytes, the last one of zeros.
    let reserved = bytes.get(field(4)? as usize..).unwrap_or_default();
    if field(2)? % 4 != 0 || field(4)? % 8 != 0 || !reserved.chunks_exact(16).any(|pair| pair.iter().all(|b| *b == 0)) {
        return Err("its parts are not where they can be read".into());
    }
    nodes(&mut Tokens { rest: structure }, strings)
}

/// Reads the structure to its end: one root node.
fn nodes(tokens: &mut Tokens<'_>, strings: &[u8]) -> Result<(), String> {
    let (mut depth, mut roots) = (0, 0);
    loop {
        match tokens.number()? {
            BEGIN_NODE => {
                let name = tokens.name()?;
                if name == OVERLAY {
                    return Err("it is an overlay".into());
                }
                roots += usize::from(depth == 0);
                depth += 1;
                if roots > 1 || name.is_empty() != (depth == 1) || depth > limits::DEVICETREE_DEPTH {
                    return Err("it has no single root, a node without a name, or nodes nested too deep".into());
                }
            }
            PROP if depth > 0 => {
                let (len, name) = (tokens.number()? as usize, tokens.number()? as usize);
                tokens.take(len)?;
                if !strings.get(name..).is_some_and(|name| name.contains(&0) && name[0] != 0) {
                    return Err("a property has no name".into());
                }
            }
            END_NODE if depth > 0 => depth -= 1,
            NOP => {}
            END if depth == 0 && roots == 1 => return Ok(()),
            other => return Err(format!("its structure breaks at a token {other}")),
        }
    }
}

/// Tokens of the structure, each in whole words of 4 bytes.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let padded = len.next_multiple_of(4);
        let (taken, rest) = self.rest.split_at_checked(padded).ok_or("its structure is cut off")?;
        self.rest = rest;
        Ok(&taken[..len])
    }

    fn number(&mut self) -> Result<u32, String> {
        word(self.take(4)?, 0).ok_or_else(|| "its structure is cut off".into())
    }

    fn name(&mut self) -> Result<&'a [u8], String> {
        let len = self.rest.iter().position(|b| *b == 0).ok_or("the name of a node has no end")?;
        Ok(&self.take(len + 1)?[..len])
    }
}

/// A number in network order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
