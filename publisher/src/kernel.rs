//! Is a file a Linux kernel that the boot loader of this architecture can load? Asked before it is published.

use std::io::{self, Read as _};
use std::path::Path;

use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::files;
use kubesolo_update::release::release::Architecture;

/// How much of the file is looked at: the boot header of x86 ends at 0x268, a PE header starts within the first page.
const HEAD_BYTES: u64 = 8192;

// Microsoft PE format.
const IMAGE_FILE_MACHINE_AMD64: u64 = 0x8664;
const IMAGE_FILE_MACHINE_ARM64: u64 = 0xaa64;
const PE32_PLUS: u64 = 0x20b;

/// Refuses a file that is not a Linux image for `architecture`, or is cut short.
///
/// amd64: bzImage with a 64-bit entry (`Documentation/arch/x86/boot.rst`). arm64: Image
/// (`Documentation/arch/arm64/booting.rst`) or EFI zboot (`drivers/firmware/efi/libstub/zboot-header.S`).
pub fn check(path: &Path, architecture: Architecture) -> Result<()> {
    let refused = |reason, why: String| {
        Error::new(reason, format!("cannot publish the kernel {}: {why}", path.display())).remedy(
            "Nothing was published. Name the kernel of this architecture, or use --unsafe-unchecked-kernel if the \
             bootloader accepts this one.",
        )
    };
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let mut head = Vec::new();
        let file = files::open_data(path)?;
        let size = file.metadata()?.len();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok((head, size))
    };
    let unread = |e: io::Error| {
        refused(Reason::ImageUnreadable, e.to_string()).remedy("Nothing was published. Name a readable file.")
    };
    let (head, size) = read().map_err(unread)?;
    match architecture {
        Architecture::Amd64 => bzimage(&head, size),
        Architecture::Arm64 => arm64(&head, size),
    }
    .map_err(|why| refused(Reason::KernelUnusable, why))
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
    whole(size, (sectors + 1) * 512 + number(head, 0x1f4, 4).unwrap_or(0) * 16)?;
    if head.starts_with(b"MZ") { portable_executable(head, size, IMAGE_FILE_MACHINE_AMD64) } else { Ok(()) }
}

fn arm64(head: &[u8], size: u64) -> Result<(), String> {
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        // Without the EFI stub there is no PE header, and the length of the file is not known.
        return if head.starts_with(b"MZ") {
            portable_executable(head, size, IMAGE_FILE_MACHINE_ARM64)
        } else {
            Ok(())
        };
    }
    if head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg") {
        portable_executable(head, size, IMAGE_FILE_MACHINE_ARM64)?;
        return whole(size, number(head, 8, 4).unwrap_or(0) + number(head, 12, 4).unwrap_or(0));
    }
    Err(format!("neither an arm64 Image nor an EFI zboot image{}", looks_like(head)))
}

/// A program for UEFI: for this machine, with all its sections, and the signature for Secure Boot if it has one.
fn portable_executable(head: &[u8], size: u64, machine: u64) -> Result<(), String> {
    let broken = || "its PE header is damaged".to_owned();
    let pe = usize::try_from(number(head, 0x3c, 4).ok_or_else(broken)?).map_err(|_| broken())?;
    if head.get(pe..).is_none_or(|h| !h.starts_with(b"PE\0\0")) {
        return Err(broken());
    }
    if number(head, pe + 4, 2) != Some(machine) {
        return Err("it is an EFI program for another architecture".into());
    }
    let sections = number(head, pe + 6, 2).ok_or_else(broken)?;
    let optional = number(head, pe + 20, 2).ok_or_else(broken)?;
    for section in 0..sections {
        let at = usize::try_from(pe as u64 + 24 + optional + 40 * section).map_err(|_| broken())?;
        let (length, place) = (number(head, at + 16, 4), number(head, at + 20, 4));
        whole(size, length.ok_or_else(broken)? + place.ok_or_else(broken)?)?;
    }
    // The fifth data directory, whose address is one in the file.
    if number(head, pe + 24, 2) == Some(PE32_PLUS) && number(head, pe + 24 + 108, 4) > Some(4) {
        let (place, length) = (number(head, pe + 24 + 144, 4), number(head, pe + 24 + 148, 4));
        whole(size, place.ok_or_else(broken)? + length.ok_or_else(broken)?)?;
    }
    Ok(())
}

fn whole(size: u64, need: u64) -> Result<(), String> {
    if size < need { Err(format!("it ends too early: {size} of {need} bytes")) } else { Ok(()) }
}

/// The mistakes that happen.
fn looks_like(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => " (it is compressed with gzip; unpack it first)",
        [0x7f, b'E', b'L', b'F', ..] => " (it is an ELF file, perhaps vmlinux: use the boot image)",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An EFI program as the kernel makes them, with one section up to `length`.
    fn efi(magic_at: usize, magic: &[u8], machine: u16, length: u32) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..2].copy_from_slice(b"MZ");
        head[magic_at..magic_at + magic.len()].copy_from_slice(magic);
        head[0x3c] = 0x40;
        head[0x40..0x44].copy_from_slice(b"PE\0\0");
        head[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
        head[0x46] = 1;
        head[0x58 + 16..0x58 + 20].copy_from_slice(&(length - 512).to_le_bytes());
        head[0x58 + 20..0x58 + 24].copy_from_slice(&512u32.to_le_bytes());
        head
    }

    #[test]
    fn arm64_images_are_taken_whole_and_for_their_machine() {
        for (at, magic) in [(0x38, &b"ARM\x64"[..]), (4, b"zimg")] {
            assert_eq!(arm64(&efi(at, magic, 0xaa64, 4096), 4096), Ok(()));
            assert!(arm64(&efi(at, magic, 0xaa64, 4096), 4095).unwrap_err().contains("ends too early"));
            assert!(arm64(&efi(at, magic, 0x8664, 4096), 4096).unwrap_err().contains("another architecture"));
            for end in 0..efi(at, magic, 0xaa64, 4096).len().min(0x58 + 24) {
                assert!(arm64(&efi(at, magic, 0xaa64, 4096)[..end], 4096).is_err(), "{end}");
            }
        }
        let mut plain = vec![0; 64];
        plain[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(arm64(&plain, 64), Ok(()));
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        for (head, word) in [
            (&[0x1f, 0x8b][..], "gzip"),
            (b"\x7fELF", "ELF"),
            (b"070701", "swapped"),
            (&efi(0x38, b"ARM\x64", 0xaa64, 600), "arm64 kernel"),
        ] {
            assert!(bzimage(head, 4096).unwrap_err().contains(word), "{word}");
        }
    }
}
