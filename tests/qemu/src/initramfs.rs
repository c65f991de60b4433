//! An initramfs of our own: busybox and one script.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::{Result, tool};

/// The work of the device once it is up.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Nothing, for ever.
    Idle,
    /// A kernel panic.
    Panic,
}

/// Makes an initramfs that says `test: release=NAME` and the kernel command line on the console.
///
/// # Errors
/// There is no busybox.
pub fn make(release: &str, then: Then) -> Result<Vec<u8>> {
    let end = match then {
        Then::Idle => "while :; do busybox sleep 3600; done",
        Then::Panic => "echo c >/proc/sysrq-trigger",
    };
    let init = format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         busybox mount -t proc proc /proc\n\
         echo \"test: release={release} $(busybox cat /proc/cmdline)\"\n\
         {end}\n"
    );
    let busybox = fs::read(tool("busybox")?)?;
    let mut archive = Vec::new();
    for (name, mode, content) in [
        ("bin", 0o040_755, &[][..]),
        ("proc", 0o040_755, &[]),
        ("bin/busybox", 0o100_755, &busybox),
        ("init", 0o100_755, init.as_bytes()),
        ("TRAILER!!!", 0, &[]),
    ] {
        entry(&mut archive, name, mode, content);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&archive)?;
    Ok(packed.finish()?)
}

/// One file in the "newc" format (cpio(5)), padded to four bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let number = archive.len();
    let links = 1;
    archive.extend_from_slice(b"070701");
    for field in [number, mode as usize, 0, 0, links, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
