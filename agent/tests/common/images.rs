//! Small files that pass for a kernel and an initramfs.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use kubesolo_release::Images;
use kubesolo_update::release::release::Architecture;

/// A file with the header of a Linux boot image and nothing to boot. `salt` makes it differ from others.
pub fn kernel(architecture: Architecture, salt: u8) -> Vec<u8> {
    let mut image = vec![salt; 8192];
    match architecture {
        Architecture::Amd64 => {
            // One setup sector, 7 KiB of protected-mode code, boot protocol 2.15 with a 64-bit entry.
            image[0x1f1] = 1;
            image[0x1f4..0x1f8].copy_from_slice(&448u32.to_le_bytes());
            image[0x202..0x206].copy_from_slice(b"HdrS");
            image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
            image[0x236] = 1;
        }
        Architecture::Arm64 => image[0x38..0x3c].copy_from_slice(b"ARM\x64"),
    }
    image
}

/// An archive in newc format with one file, `init`.
pub fn archive(init: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    for (name, content) in [("init", init), ("TRAILER!!!", &[][..])] {
        let zero = 0;
        write!(out, "070701{zero:08x}{:08x}{zero:08x}{zero:08x}{:08x}{zero:08x}", 0o100_755, 1).unwrap();
        write!(out, "{:08x}{zero:08x}{zero:08x}{zero:08x}{zero:08x}", content.len()).unwrap();
        write!(out, "{:08x}{zero:08x}{name}\0", name.len() + 1).unwrap();
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// `bytes` as one gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Kernel and initramfs as files in `folder`.
pub fn files(folder: &Path, architecture: Architecture, salt: u8) -> Images {
    let write = |name: String, bytes: Vec<u8>| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    Images {
        architecture,
        kernel: write(format!("vmlinuz-{architecture}-{salt}"), kernel(architecture, salt)),
        initramfs: write(format!("initramfs-{architecture}-{salt}.gz"), gzip(&archive(&[salt; 1000]))),
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut word).flatten().take(len).collect()
}

/// An initramfs with restart points: its one file has these bytes.
pub fn repacked(init: &[u8]) -> Vec<u8> {
    let folder = tempfile::TempDir::new().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    std::fs::write(&before, gzip(&archive(init))).unwrap();
    kubesolo_release::repack::repack(&before, &after).unwrap();
    std::fs::read(after).unwrap()
}
