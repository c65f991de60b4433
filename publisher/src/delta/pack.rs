//! Makes the patches from one earlier release.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};

use miniz_oxide::deflate::compress_to_vec;
use rayon::prelude::*;

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Reason, Result};
use kubesolo_update::base::limits;
use kubesolo_update::delta::cutter::{Hash, hash};
use kubesolo_update::delta::pack::{Entry, Maker, Sources, Table};
use kubesolo_update::delta::patch;
use kubesolo_update::release::release::Blob;

use super::contents::Contents;
use super::{proc_path, scratch};

/// Patches that are made at the same time before the next ones begin. It bounds memory.
const BATCH: usize = 64;
/// `miniz_oxide` at its strongest level of zlib: the same bytes on every machine.
const LEVEL: u8 = 9;

/// Patches from one earlier release.
pub(super) struct Made {
    /// Without a name.
    pub(super) file: File,
    pub(super) blob: Blob,
    pub(super) table: Blob,
    /// Number of pieces with a patch.
    pub(super) patched: usize,
    /// Number of pieces that are in the pack as they are.
    pub(super) verbatim: usize,
}

/// A piece in the pack.
struct Part {
    piece: usize,
    sources: Vec<Hash>,
    /// 0 if `bytes` are the piece.
    raw: usize,
    bytes: Vec<u8>,
    /// Bytes of the sources before compression.
    content: u64,
}

impl Sources for &Contents {
    fn read(&mut self, source: &Hash, into: &mut Vec<u8>) -> bool {
        self.find(source).is_some_and(|piece| self.piece(piece, into).is_ok())
    }
}

/// Makes the patches that lead from `old` to `new`, whose content has `unpacked` bytes. The inner error is the reason why
/// there are none.
pub(super) fn make(new: &Contents, old: &Contents, unpacked: u64) -> Result<Result<Made, &'static str>> {
    let pieces = new.index().pieces();
    let missing: Vec<usize> = (0..pieces.len()).filter(|at| !old.has(&pieces[*at].hash)).collect();
    let half = new.index().size() / 2;
    let mut budget = unpacked.saturating_mul(limits::SOURCES_PER_BYTE);
    let (mut table, mut bodies, mut patched, mut size) = (vec![], BufWriter::new(scratch()?), 0, 0);
    for batch in missing.chunks(BATCH) {
        let maker = || Maker::new(u64::MAX);
        let parts = batch.par_iter().map_init(maker, |maker, piece| part(new, old, *piece, maker));
        let parts: Vec<Part> =
            parts.collect::<io::Result<_>>().context(Reason::ImageUnreadable, "read an initramfs")?;
        for mut part in parts {
            if part.content > budget {
                part = Part::verbatim(new, part.piece).context(Reason::ImageUnreadable, "read an initramfs")?;
            }
            budget -= part.content;
            patched += usize::from(part.raw > 0);
            part.write(&mut table);
            size += part.bytes.len() as u64;
            bodies.write_all(&part.bytes).context(Reason::NotWritten, "write a temporary file")?;
        }
        if table.len() as u64 > limits::PATCH_TABLE_BYTES {
            return Ok(Err("their table is too long for devices"));
        }
        if table.len() as u64 + size > half {
            return Ok(Err("they are more than half of the initramfs"));
        }
    }
    if missing.is_empty() {
        return Ok(Err("its initramfs has every piece of this one"));
    }
    let bodies = bodies.into_inner().map_err(io::IntoInnerError::into_error);
    let bodies = bodies.context(Reason::NotWritten, "write a temporary file")?;
    let size = size + table.len() as u64;
    // The device's own parser has the last word.
    Table::parse(table.clone(), new.index(), size)?;
    let file = joined(&table, bodies).context(Reason::NotWritten, "write a temporary file")??;
    let blob = crate::blob(&proc_path(&file))?;
    let table = Blob { digest: Digest::of(&table), size: table.len() as u64 };
    Ok(Ok(Made { file, blob, table, patched, verbatim: missing.len() - patched }))
}

/// A file with the table and what follows it.
fn joined(table: &[u8], mut bodies: File) -> io::Result<Result<File>> {
    let mut file = match scratch() {
        Ok(file) => file,
        Err(e) => return Ok(Err(e)),
    };
    file.write_all(table)?;
    bodies.rewind()?;
    io::copy(&mut bodies, &mut file)?;
    Ok(Ok(file))
}

impl Part {
    fn verbatim(new: &Contents, piece: usize) -> io::Result<Self> {
        let mut bytes = vec![];
        new.piece(&new.index().pieces()[piece], &mut bytes)?;
        Ok(Self { piece, sources: vec![], raw: 0, bytes, content: 0 })
    }

    fn entry(&self) -> Entry<'_> {
        let Self { piece, sources, raw, bytes, .. } = self;
        Entry { piece: *piece, sources, raw: *raw, len: bytes.len(), hash: hash(bytes) }
    }

    fn write(&self, table: &mut Vec<u8>) {
        self.entry().write(table);
    }
}

/// The piece of that number: its patch, or the piece itself where a patch is not smaller or does not make it.
fn part(new: &Contents, old: &Contents, at: usize, maker: &mut Maker) -> io::Result<Part> {
    let verbatim = Part::verbatim(new, at)?;
    let mut raw = vec![];
    if patch::inflate(&verbatim.bytes, limits::PIECE_RAW_BYTES, &mut raw).is_err() {
        return Ok(verbatim);
    }
    let sources = new.sources(at, &raw, old)?;
    if sources.pieces.is_empty() {
        return Ok(verbatim);
    }
    let mut stream = vec![];
    bidiff::simple_diff(&sources.content, &raw, &mut stream)?;
    let content = sources.content.len() as u64;
    let bytes = compress_to_vec(&stream, LEVEL);
    let part = Part { piece: at, sources: sources.pieces, raw: raw.len(), bytes, content };
    let mut table = vec![];
    part.write(&mut table);
    let smaller = part.bytes.len() + table.len() < verbatim.bytes.len();
    let mut made = || maker.make(&part.entry(), &part.bytes, &new.index().pieces()[at], &mut &*old).is_ok();
    Ok(if smaller && made() { part } else { verbatim })
}
