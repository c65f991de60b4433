//! Is a file a Linux kernel that the boot loader of this architecture can load? Asked before it is published.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::error::{Error, Exit, Result};
use crate::release::Architecture;

/// How much of the file is looked at: the boot header of x86 ends at 0x268, a PE header starts within the first page.
const HEAD_BYTES: u64 = 8192;

/// Refuses a file that is not a Linux image for `architecture`, or is cut short.
///
/// amd64: bzImage with a 64-bit entry (`Documentation/arch/x86/boot.rst`). arm64: Image
/// (`Documentation/arch/arm64/booting.rst`) or EFI zboot (`drivers/firmware/efi/libstub/zboot-header.S`).
pub fn check(path: &Path, architecture: Architecture) -> Result<()> {
    let refused = |exit, why: String| {
        Error::new(exit, "kernel-unusable", format!("the kernel {} cannot be published: {why}", path.display())).remedy(
            "Nothing was published. Give the kernel of this architecture, or --unsafe-unchecked-kernel if the boot \
             loader takes this one.",
        )
    };
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let mut head = Vec::new();
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok((head, size))
    };
    let (head, size) = read().map_err(|e| refused(Exit::Unavailable, e.to_string()))?;
    match architecture {
        Architecture::Amd64 => bzimage(&head, size),
        Architecture::Arm64 => arm64(&head, size),
    }
    .map_err(|why| refused(Exit::Data, why))
}

fn bzimage(head: &[u8], size: u64) -> Result<(), String> {
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Err(format!("not a bzImage{}", looks_like(head)));
    }
    // Protocol 2.12 brought xloadflags; kernels without it are from before 2012.
    let flags = if number(head, 0x206, 2) >= Some(0x20c) { number(head, 0x236, 2) } else { None };
    if flags.unwrap_or(0) & 1 == 0 {
        return Err("it has no 64-bit entry".into());
    }
    // A setup of 0 sectors means 4, and one more is the boot sector; syssize counts 16 bytes each.
    let sectors = match number(head, 0x1f1, 1) {
        Some(0) | None => 4,
        Some(n) => n,
    };
    let need = (sectors + 1) * 512 + number(head, 0x1f4, 4).unwrap_or(0) * 16;
    whole(size, need)
}

fn arm64(head: &[u8], size: u64) -> Result<(), String> {
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Ok(());
    }
    if head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg") {
        let pe = usize::try_from(number(head, 0x3c, 4).unwrap_or(0)).unwrap_or(0);
        const IMAGE_FILE_MACHINE_ARM64: u64 = 0xaa64;
        if head.get(pe..).is_none_or(|h| !h.starts_with(b"PE\0\0"))
            || number(head, pe + 4, 2) != Some(IMAGE_FILE_MACHINE_ARM64)
        {
            return Err("an EFI zboot image of another architecture".into());
        }
        return whole(size, number(head, 8, 4).unwrap_or(0) + number(head, 12, 4).unwrap_or(0));
    }
    Err(format!("neither an arm64 Image nor an EFI zboot image{}", looks_like(head)))
}

fn whole(size: u64, need: u64) -> Result<(), String> {
    if size < need { Err(format!("it is cut short: {size} of {need} bytes")) } else { Ok(()) }
}

/// The mistakes that happen.
fn looks_like(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => " (it is compressed with gzip; unpack it first)",
        [0x7f, b'E', b'L', b'F', ..] => " (it is an ELF file, perhaps vmlinux: the boot image is needed)",
        [b'0', b'7', b'0', b'7', b'0', ..] => " (it is an initramfs: are kernel and initramfs swapped?)",
        _ if head.get(0x202..0x206) == Some(b"HdrS") => " (it is an x86 kernel)",
        _ if head.get(0x38..0x3c) == Some(b"ARM\x64") => " (it is an arm64 kernel)",
        _ => "",
    }
}

/// A little-endian number of `bytes` bytes.
fn number(head: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = head.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
