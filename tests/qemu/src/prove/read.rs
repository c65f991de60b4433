//! Files of a disk as a bootloader without a journal reads them: FAT32 by 8.3 names, ext2 and ext4. As lenient as GRUB: checksums of metadata are not looked at, since GRUB does not look at them either.

/// The largest file that is read, in bytes: sizes in damaged metadata are anything.
const LARGEST: usize = 256 << 20;

/// A number in little-endian order, and nothing beyond the end of the disk.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte)))
}

/// A file of a FAT32 filesystem, its path in 8.3 names of upper case: `["GRUB", "GRUBENV"]`.
#[must_use]
pub fn fat(part: &[u8], path: &[&str]) -> Option<Vec<u8>> {
    let sector = number(part, 11, 2)?;
    let cluster_size = number(part, 13, 1)? * sector;
    let tables = number(part, 14, 2)? * sector;
    let data = tables + number(part, 16, 1)? * number(part, 36, 4)? * sector;
    let chain = |first: usize, limit: usize| {
        let (mut bytes, mut cluster) = (vec![], first);
        while (2..0x0fff_fff8).contains(&cluster) && bytes.len() < limit {
            let at = data + (cluster - 2) * cluster_size;
            bytes.extend_from_slice(part.get(at..at + cluster_size)?);
            cluster = number(part, tables + cluster * 4, 4)? & 0x0fff_ffff;
        }
        Some(bytes)
    };
    let mut cluster = number(part, 44, 4)?;
    for (depth, name) in path.iter().enumerate() {
        let folder = chain(cluster, 1 << 20)?;
        // Attributes: 0x08 is a volume label, and with it a part of a long name.
        let entry = folder
            .chunks_exact(32)
            .take_while(|entry| entry[0] != 0)
            .find(|entry| entry[11] & 0x08 == 0 && entry[..11] == short(name))?;
        cluster = number(entry, 20, 2)? << 16 | number(entry, 26, 2)?;
        if depth + 1 == path.len() {
            let size = number(entry, 28, 4)?.min(LARGEST);
            let mut bytes = chain(cluster, size)?;
            bytes.truncate(size);
            return Some(bytes);
        }
    }
    None
}

fn short(name: &str) -> [u8; 11] {
    let mut padded = [b' '; 11];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// The root folder of an ext4 filesystem.
#[derive(Debug)]
pub struct Ext4<'a> {
    part: &'a [u8],
    block: usize,
}

impl<'a> Ext4<'a> {
    /// `None` if there is no such filesystem.
    #[must_use]
    pub fn open(part: &'a [u8]) -> Option<Self> {
        (number(part, 1024 + 56, 2)? == 0xef53).then_some(())?;
        let shift = number(part, 1024 + 24, 4)?;
        (shift <= 6).then_some(Self { part, block: 1024 << shift })
    }

    /// A file of the root folder.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let folder = self.content(self.inode(2)?)?;
        let mut at = 0;
        while let (Some(inode), Some(length)) = (number(&folder, at, 4), number(&folder, at + 4, 2)) {
            let size = number(&folder, at + 6, 1)?;
            if inode != 0 && folder.get(at + 8..at + 8 + size)? == name.as_bytes() {
                return self.content(self.inode(inode)?);
            }
            // The shortest entry; less would loop for ever.
            at += length.max(8);
        }
        None
    }

    fn inode(&self, number_of: usize) -> Option<&'a [u8]> {
        let field = |at: usize, width| number(self.part, 1024 + at, width);
        let (per_group, size) = (field(40, 4)?, field(88, 2)?);
        // With 64-bit block numbers (incompatible feature 0x80) descriptors have their size.
        let descriptor = if field(96, 4)? & 0x80 != 0 { field(254, 2)? } else { 32 };
        let (group, index) = ((number_of.checked_sub(1)?).checked_div(per_group)?, (number_of - 1) % per_group);
        let at = (field(20, 4)? + 1) * self.block + group * descriptor;
        let table = number(self.part, at + 8, 4)? * self.block + index * size;
        self.part.get(table..table + size)
    }

    fn content(&self, inode: &[u8]) -> Option<Vec<u8>> {
        const EXTENTS: usize = 0x8_0000;
        let size = (number(inode, 4, 4)? | number(inode, 108, 4)? << 32).min(LARGEST);
        let map = inode.get(40..100)?;
        let mut bytes = vec![0; size];
        if number(inode, 32, 4)? & EXTENTS != 0 {
            self.extents(map, &mut bytes, 5)?;
        } else {
            let mut at = self.blocks(&map[..48], &mut bytes, 0, 0)?;
            for level in 1..=3 {
                at = self.blocks(&map[44 + 4 * level..48 + 4 * level], &mut bytes, at, level)?;
            }
        }
        Some(bytes)
    }

    /// Copies what a list of block numbers describes, from `at` of the file on, and gives where it ends.
    fn blocks(&self, list: &[u8], into: &mut [u8], mut at: usize, level: usize) -> Option<usize> {
        for entry in 0..list.len() / 4 {
            if at >= into.len() {
                break;
            }
            let from = number(list, entry * 4, 4)? * self.block;
            let covered = self.block * (self.block / 4).pow(u32::try_from(level).ok()?);
            if from != 0 && level > 0 {
                self.blocks(self.part.get(from..from + self.block)?, into, at, level - 1)?;
            } else if from != 0 {
                let end = into.len().min(at + covered);
                into[at..end].copy_from_slice(self.part.get(from..from + (end - at))?);
            }
            at += covered;
        }
        Some(at)
    }

    /// Copies what a node of the extent tree describes; holes stay zero.
    fn extents(&self, node: &[u8], into: &mut [u8], depth: usize) -> Option<()> {
        (depth > 0 && number(node, 0, 2)? == 0xf30a).then_some(())?;
        let leaf = number(node, 6, 2)? == 0;
        for entry in 1..=number(node, 2, 2)? {
            let field = |at: usize, width| number(node, entry * 12 + at, width);
            if leaf {
                let (first, count) = (field(0, 4)? * self.block, field(4, 2)?);
                let from = (field(6, 2)? << 32 | field(8, 4)?) * self.block;
                let end = into.len().min(first + count * self.block);
                if first < end {
                    into[first..end].copy_from_slice(self.part.get(from..from + (end - first))?);
                }
            } else {
                let below = (field(8, 2)? << 32 | field(4, 4)?) * self.block;
                self.extents(self.part.get(below..below + self.block)?, into, depth - 1)?;
            }
        }
        Some(())
    }
}
