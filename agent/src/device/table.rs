//! The partition table of a disk, as far as it gives partitions an identity: GPT and MBR.
//!
//! Only what the kernel uses counts (its `block/partitions/efi.c` and `msdos.c`): of a GPT the primary header, and only where
//! the MBR says that there is one. The formats are those of UEFI 2.10, chapter 5.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::str::FromStr;

/// Sizes and offsets in sysfs count units of this many bytes, whatever the disk's blocks are.
pub const SECTOR: u64 = 512;
/// Most entries of a GPT. Formatters make 128.
const GPT_ENTRIES: u32 = 1024;
/// Bytes of an entry of a GPT: the one size that the kernel takes.
const GPT_ENTRY: usize = 128;
/// Bytes of the header of a GPT that have a meaning.
const GPT_HEADER: usize = 92;
/// Type of the entry of an MBR that stands for a GPT.
const PROTECTIVE: u8 = 0xee;

/// The entries of a GPT that are in use, each with its GUID as it stands in the table.
type GptEntries = Vec<([u8; 16], Entry)>;

/// The identity of a partition, `PARTUUID` for the kernel: the GUID of a GPT's entry in lower case, or for an MBR the
/// disk's signature and the number of the partition, `xxxxxxxx-nn`, both hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartId {
    /// As it stands in the table: the first three fields are little-endian.
    Gpt([u8; 16]),
    /// Signature of the disk, and number of the partition.
    Mbr(u32, u8),
}

impl FromStr for PartId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ERROR: &str = "it is neither a GUID in lower case nor xxxxxxxx-nn";
        if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')) {
            return Err(ERROR);
        }
        let fields: Vec<&str> = text.split('-').collect();
        let has = |lengths: &[usize]| fields.iter().map(|field| field.len()).eq(lengths.iter().copied());
        if has(&[8, 2]) {
            let number = u8::from_str_radix(fields[1], 16).map_err(|_| ERROR)?;
            return Ok(Self::Mbr(u32::from_str_radix(fields[0], 16).map_err(|_| ERROR)?, number));
        }
        let mut guid = [0; 16];
        if !has(&[8, 4, 4, 4, 12]) || hex::decode_to_slice(fields.concat(), &mut guid).is_err() {
            return Err(ERROR);
        }
        Ok(Self::Gpt(swapped(guid)))
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(guid) => {
                let text = hex::encode(swapped(*guid));
                write!(f, "{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
            }
            Self::Mbr(signature, number) => write!(f, "{signature:08x}-{number:02x}"),
        }
    }
}

/// A GUID as it is stored is one as it is written, and the other way round.
fn swapped(mut guid: [u8; 16]) -> [u8; 16] {
    for field in [0..4, 4..6, 6..8] {
        guid[field].reverse();
    }
    guid
}

/// Where a partition lies, in units of [`SECTOR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First unit.
    pub start: u64,
    /// Number of units.
    pub size: u64,
}

/// A partition that the table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the partition, from 1.
    pub number: u32,
    /// `None` for a logical partition of an MBR: where it lies is not in this table.
    pub extent: Option<Extent>,
}

/// The table of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// Identities and places of all entries that are in use.
    Gpt(GptEntries),
    /// The disk's signature, and the four primary partitions.
    Mbr(u32, [Option<Extent>; 4]),
}

impl Table {
    /// Reads the table of a disk with blocks of so many bytes. `None` if there is none, or none that the kernel would use.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(disk: &mut (impl Read + Seek), block: u64) -> io::Result<Option<Self>> {
        let mut mbr = [0; 512];
        if read_at(disk, 0, &mut mbr)? < mbr.len() || mbr[510..] != [0x55, 0xaa] {
            return Ok(None);
        }
        let entries = [446, 462, 478, 494].map(|at| &mbr[at..at + 16]);
        if entries.iter().any(|entry| entry[4] == PROTECTIVE) {
            return Ok(gpt(disk, block)?.map(Self::Gpt));
        }
        let extents = entries.map(|entry| {
            let [start, size] = [8, 12].map(|at| u64::from(u32_at(entry, at)));
            (size > 0).then_some(Extent { start: start * block / SECTOR, size: size * block / SECTOR })
        });
        Ok(Some(Self::Mbr(u32_at(&mbr, 440), extents)))
    }

    /// The partitions with this identity: one, unless the table is wrong.
    #[must_use]
    pub fn named(&self, id: &PartId) -> Vec<Entry> {
        match (self, id) {
            (Self::Gpt(entries), PartId::Gpt(guid)) => {
                entries.iter().filter(|(known, _)| known == guid).map(|(_, entry)| *entry).collect()
            }
            (Self::Mbr(signature, primary), PartId::Mbr(wanted, number)) if signature == wanted => match number {
                0 => vec![],
                // A number that is not in use has no partition in the kernel either.
                1..=4 => primary[usize::from(*number) - 1]
                    .map(|extent| Entry { number: u32::from(*number), extent: Some(extent) })
                    .into_iter()
                    .collect(),
                _ => vec![Entry { number: u32::from(*number), extent: None }],
            },
            _ => vec![],
        }
    }
}

/// The entries of a GPT that are in use; `None` unless both checksums are right.
fn gpt(disk: &mut (impl Read + Seek), block: u64) -> io::Result<Option<GptEntries>> {
    let mut header = vec![0; block as usize];
    if read_at(disk, block, &mut header)? < header.len() || !header.starts_with(b"EFI PART") {
        return Ok(None);
    }
    let size = u32_at(&header, 12) as usize;
    let (checksum, own_block, first_block) = (u32_at(&header, 16), u64_at(&header, 24), u64_at(&header, 72));
    let (count, entry_bytes, table_checksum) = (u32_at(&header, 80), u32_at(&header, 84), u32_at(&header, 88));
    header[16..20].fill(0);
    let sound = (GPT_HEADER..=header.len()).contains(&size)
        && crc32fast::hash(&header[..size]) == checksum
        && own_block == 1
        && (1..=GPT_ENTRIES).contains(&count)
        && entry_bytes as usize == GPT_ENTRY;
    let Some(at) = first_block.checked_mul(block).filter(|_| sound) else { return Ok(None) };
    let mut table = vec![0; count as usize * GPT_ENTRY];
    if read_at(disk, at, &mut table)? < table.len() || crc32fast::hash(&table) != table_checksum {
        return Ok(None);
    }
    let entries = (1..).zip(table.chunks_exact(GPT_ENTRY)).filter_map(|(number, entry)| {
        let guid: [u8; 16] = entry[16..32].try_into().ok()?;
        // Of no type: not in use.
        if entry[..16] == [0; 16] {
            return None;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let units = block / SECTOR;
        let size = last.checked_sub(first)?.checked_add(1)?.checked_mul(units)?;
        Some((guid, Entry { number, extent: Some(Extent { start: first.checked_mul(units)?, size }) }))
    });
    Ok(Some(entries.collect()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads so many bytes, or fewer at the end of the device.
pub(crate) fn read_at(device: &mut (impl Read + Seek), at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    device.seek(SeekFrom::Start(at))?;
    let mut length = 0;
    while length < buffer.len() {
        match device.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}
