//! Records that the kernel kept over a reset, below `/sys/fs/pstore` (kernel: admin-guide/pstore-blk.rst, ramoops.rst).
//!
//! `efi_pstore` keeps a panic in 14 to 25 parts, `dmesg-efi-ID`, where ID is `(seconds * 100 + part) * 1000 + count`
//! (drivers/firmware/efi/efi-pstore.c) and part 1 is the newest. `ramoops` keeps one, `dmesg-ramoops-0`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::base::{files, text};

/// The records, joined and escaped; `None` if there are none. A record that cannot be read is a line of the text.
pub(super) fn read(folder: &Path) -> Option<String> {
    let records = in_order(records(folder));
    let read = |path: &PathBuf| match files::read_kernel(path) {
        Ok(text) => without_header(&text).lines().map(|line| text::printable(without_level(line)) + "\n").collect(),
        Err(e) => format!("cannot read {}: {e}\n", files::name(path)),
    };
    (!records.is_empty()).then(|| records.iter().map(read).collect())
}

/// Removes all records.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    records(folder).iter().try_for_each(|path| match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    })
}

fn records(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())).map(|entry| entry.path()).collect()
}

/// Others first, then panics by their time, each from its oldest part on. The kernel writes the newest part first, and may take
/// seconds for each.
fn in_order(mut records: Vec<PathBuf>) -> Vec<PathBuf> {
    records.sort_by_key(|path| written(path));
    let (mut all, mut begin, mut last) = (vec![], 0, 0);
    for path in records {
        let (_, _, part, path) = written(&path);
        // Only panics have parts, from 1.
        if part <= last || last == 0 {
            begin = all.len();
        }
        all.insert(begin, path);
        last = part;
    }
    all
}

/// True for a panic, then its seconds, its part, and its path.
fn written(path: &Path) -> (bool, u64, u64, PathBuf) {
    let name = files::name(path);
    let id = name.strip_prefix("dmesg-efi-").and_then(|id| id.split('.').next()?.parse::<u64>().ok());
    let (seconds, part) = id.map_or((0, 0), |id| (id / 100_000, id / 1000 % 100));
    (name.starts_with("dmesg-"), seconds, part, path.to_owned())
}

/// Without the level of a line, `<4>`.
fn without_level(line: &str) -> &str {
    let level = line.strip_prefix('<').and_then(|line| line.split_once('>'));
    level.filter(|(level, _)| level.bytes().all(|byte| byte.is_ascii_digit())).map_or(line, |(_, rest)| rest)
}

/// Without the line that numbers the part, `Panic#1 Part3`: the text goes on in the next one.
fn without_header(text: &str) -> &str {
    match text.split_once('\n') {
        Some((first, rest)) if first.contains('#') && first.contains(" Part") => rest,
        _ => text,
    }
}
