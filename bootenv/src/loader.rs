//! GRUB's script files: how a device that has another one is switched to ours by one sector.
//!
//! The new loader file, its hash and a copy of the old file are put beside the old `grub.cfg`, which GRUB goes on reading.
//! Then its first sector is overwritten with [`switch`]: a whole script of its own, after which nothing is reached. That
//! script tries out the commands that the new file needs and checks its hash, and goes on with the copy of the old one if
//! either fails: whatever GRUB is installed, the device boots as before or as wanted.

use crate::extras::DEVICE_BYTES;
use crate::grub::SECTOR;

/// The loader file of the slot protocol.
pub const TEXT: &str = include_str!("../loader/grub.cfg");
/// File that GRUB reads first, in its folder.
pub const ENTRY: &str = "grub.cfg";
/// The loader file's name once a device was switched to it.
pub const FILE: &str = "ksloader.cfg";
/// Its hash, one line as `sha256sum` writes it.
pub const SUM: &str = "ksloader.sum";
/// The whole `grub.cfg` as it was before the switch.
pub const BEFORE: &str = "ksbefore.cfg";
/// Kernel arguments of this device, and other settings of the loader file.
pub const ARGUMENTS: &str = "kernel-args.cfg";

const SWITCH: &str = include_str!("../loader/switch.cfg");
/// The same of version 0.1. It searches a label without a hint, so that a disk that GRUB finds first can hide the slots.
const SWITCH_0_1: &str = include_str!("../loader/switch-0.1.cfg");
const _: () = assert!(SWITCH.len() < SECTOR, "it must fit into one sector, with a comment after it");
const _: () = assert!(SWITCH_0_1.len() < SECTOR, "it must fit into one sector, with a comment after it");
/// Argument that only our loader file puts on the kernel command line.
const OURS: &str = "ks.proto=1";
/// Parts that KubeSolo OS's loader file needs: its variables, and how it stores them.
const KUBESOLO_OS: [&str; 4] = ["active_slot", "boot_success", "boot_counter", "save_env"];

/// Whose script a `grub.cfg` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The slot protocol's own.
    Ours,
    /// Another one, switched over to [`FILE`] by its first sector.
    Switched,
    /// KubeSolo OS's: it counts down on every boot.
    KubeSoloOs,
    /// Not known here.
    Unknown,
}

/// Determines the author of a script.
#[must_use]
pub fn kind(script: &[u8]) -> Kind {
    let has = |word: &str| script.windows(word.len()).any(|bytes| bytes == word.as_bytes());
    if script.starts_with(&switch()) || is_outdated_switch(script) {
        Kind::Switched
    } else if has(OURS) {
        Kind::Ours
    } else if KUBESOLO_OS.into_iter().all(has) {
        Kind::KubeSoloOs
    } else {
        Kind::Unknown
    }
}

/// The first sector that switches a `grub.cfg` over. It ends in a comment without line feed, which takes in what is left of
/// the old line there.
#[must_use]
pub fn switch() -> [u8; SECTOR] {
    sector(SWITCH)
}

/// True if version 0.1 switched this `grub.cfg`. Storing [`switch`] over its first sector brings it up to date.
#[must_use]
pub fn is_outdated_switch(script: &[u8]) -> bool {
    script.starts_with(&sector(SWITCH_0_1))
}

fn sector(script: &str) -> [u8; SECTOR] {
    let mut sector = [b'#'; SECTOR];
    sector[..script.len()].copy_from_slice(script.as_bytes());
    sector
}

/// The file [`ARGUMENTS`] for these kernel arguments, [`DEVICE_BYTES`] at most.
///
/// # Errors
/// The reason: an argument that a bootloader could take for something else, or too many of them.
pub fn arguments(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if let Some(word) = words.iter().find(|word| !is_plain(word)) {
        return Err(format!("a bootloader would change \"{}\"", word.escape_default()));
    }
    let words = words.join(" ");
    if words.len() > DEVICE_BYTES {
        return Err(format!("{} bytes, and {DEVICE_BYTES} are the most", words.len()));
    }
    Ok(format!("set ks_args=\"{words}\"\n"))
}

/// True for a kernel argument that every loader passes on as it is. Of quotes, `$`, `\`, `;`, `*` and their like only GRUB's
/// parser knows what they become after two expansions; U-Boot changes some of them too.
#[must_use]
pub fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || "._,:=/@+%~-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_fits_into_a_sector_and_takes_in_the_rest_of_the_line() {
        let sector = switch();
        assert!(SWITCH.ends_with('\n'));
        assert_eq!(sector[SWITCH.len()..], vec![b'#'; SECTOR - SWITCH.len()]);
    }

    #[test]
    fn scripts_are_told_apart() {
        let old = "load_env\nif [ $boot_success != 1 -a $boot_counter = 0 ]; then set active_slot=B; fi\nsave_env boot_counter\n";
        assert_eq!(kind(old.as_bytes()), Kind::KubeSoloOs);
        assert_eq!(kind(TEXT.as_bytes()), Kind::Ours);
        let switched = [&switch()[..], old.as_bytes()].concat();
        assert_eq!(kind(&switched), Kind::Switched);
        assert_eq!(kind(&switched[1..]), Kind::KubeSoloOs);
        let outdated = [&sector(SWITCH_0_1)[..], old.as_bytes()].concat();
        assert_eq!(kind(&outdated), Kind::Switched);
        assert!(is_outdated_switch(&outdated) && !is_outdated_switch(&switched));
        assert_eq!(kind(b"menuentry Debian { linux /vmlinuz }\n"), Kind::Unknown);
        assert_eq!(kind(b""), Kind::Unknown);
    }

    #[test]
    fn arguments_that_grub_would_change_are_refused() {
        assert_eq!(
            arguments(" console=ttyS0,115200n8  root=LABEL=a-b\n").as_deref(),
            Ok("set ks_args=\"console=ttyS0,115200n8 root=LABEL=a-b\"\n")
        );
        for bad in ["a=\"b", "c", "x=$y", "x=a;b", "x=*", "x=\\", "x='", "x={}", "x=\u{e4}"] {
            let line = format!("quiet {bad} splash");
            assert_eq!(arguments(&line).is_err(), bad != "c", "{bad}");
        }
        assert!(arguments(&"a".repeat(DEVICE_BYTES)).is_ok());
        assert!(arguments(&"a".repeat(DEVICE_BYTES + 1)).unwrap_err().contains("701 bytes, and 700"));
    }
}
