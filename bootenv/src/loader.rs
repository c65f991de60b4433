//! GRUB's script files: two loader files and the script that picks one of them, and how a device that has another one is
//! switched to ours by one sector.
//!
//! The first sector of `grub.cfg` is [`stage1`], which never changes again: it checks the hash of a loader file and runs it. A
//! file that is new is tried once, and [`Stage`] says so: the try is stored before the file is read, so that a file that hangs
//! is not run at the next power-on.
//!
//! A device with another `grub.cfg` is switched by one sector: both loader files, the old one as the good one, are put beside
//! it, and GRUB goes on reading it until its first sector is [`stage1`].

use crate::extras::DEVICE_BYTES;
use crate::grub::{Block, SECTOR};

/// The loader file of the slot protocol.
pub const TEXT: &str = include_str!("../loader/grub.cfg");
/// File that GRUB reads first, in its folder.
pub const ENTRY: &str = "grub.cfg";
/// The loader file's name on a device that version 0.1 switched.
pub const FILE: &str = "ksloader.cfg";
/// Its hash there, one line as `sha256sum` writes it.
pub const SUM: &str = "ksloader.sum";
/// The whole `grub.cfg` as it was there before the switch.
pub const BEFORE: &str = "ksbefore.cfg";
/// Kernel arguments of this device, and other settings of the loader file.
pub const ARGUMENTS: &str = "kernel-args.cfg";

const STAGE1: &str = include_str!("../loader/stage1.cfg");
/// Name of the block with [`Stage`], in GRUB's folder.
pub const STAGE: &str = "ksstage";

/// The sector with which version 0.1 switched a `grub.cfg`. It searches a label without a hint, so that a disk that GRUB finds
/// first can hide the slots.
const SWITCH_0_1: &str = include_str!("../loader/switch-0.1.cfg");
const _: () = assert!(STAGE1.len() < SECTOR, "it must fit into one sector, with a comment after it");
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
    /// [`stage1`], which runs one of two loader files.
    Staged,
    /// Another one, switched over to [`FILE`] by the first sector of version 0.1.
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
    if script.starts_with(&stage1()) {
        Kind::Staged
    } else if script.starts_with(&sector(SWITCH_0_1)) {
        Kind::Switched
    } else if has(OURS) {
        Kind::Ours
    } else if KUBESOLO_OS.into_iter().all(has) {
        Kind::KubeSoloOs
    } else {
        Kind::Unknown
    }
}

/// The first sector of `grub.cfg` that picks a loader file. Nothing behind it is read.
#[must_use]
pub fn stage1() -> [u8; SECTOR] {
    sector(STAGE1)
}

/// The number of a loader file, from its first line: `# kubesolo-update loader N`. A later one boots every slot that an earlier
/// one boots. Files of version 0.1 have none, and count as 0; `None` for a script that is not of the slot protocol.
#[must_use]
pub fn number(script: &[u8]) -> Option<u32> {
    if kind(script) != Kind::Ours {
        return None;
    }
    let first = script.split(|b| *b == b'\n').next().unwrap_or_default();
    let number = first.strip_prefix(b"# kubesolo-update loader ").and_then(|rest| std::str::from_utf8(rest).ok());
    Some(number.and_then(|number| number.parse().ok()).unwrap_or_default())
}

/// One of the two loader files beside [`stage1`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileId {
    /// `ksl1.cfg`.
    First,
    /// `ksl2.cfg`.
    Second,
}

impl FileId {
    /// Both.
    pub const BOTH: [FileId; 2] = [FileId::First, FileId::Second];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        if self == FileId::First { FileId::Second } else { FileId::First }
    }

    /// Its name in GRUB's folder.
    #[must_use]
    pub fn script(self) -> &'static str {
        if self == FileId::First { "ksl1.cfg" } else { "ksl2.cfg" }
    }

    /// Name of the file with its hash, one line as `sha256sum` writes it.
    #[must_use]
    pub fn sum(self) -> &'static str {
        if self == FileId::First { "ksl1.sum" } else { "ksl2.sum" }
    }

    fn digit(self) -> &'static str {
        if self == FileId::First { "1" } else { "2" }
    }

    fn of_digit(digit: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|file| file.digit() == digit)
    }
}

/// The content of [`STAGE`]: which file is good, and which one is tried at the next power-on. A store of it is one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The file that boots.
    pub good: FileId,
    /// The file that the next power-on tries, once.
    pub tried: Option<FileId>,
}

impl Stage {
    /// No try is due.
    #[must_use]
    pub fn settled(good: FileId) -> Self {
        Self { good, tried: None }
    }

    /// Reads a block; `None` unless both values are there and within their alphabets. Stage 1 takes the first file that
    /// matches its hash then.
    #[must_use]
    pub fn read(block: &Block) -> Option<Self> {
        let tried = match block.get("t")? {
            "0" => None,
            digit => Some(FileId::of_digit(digit)?),
        };
        Some(Self { good: FileId::of_digit(block.get("g")?)?, tried })
    }

    /// Its variables, each with one character.
    #[must_use]
    pub fn variables(self) -> [(&'static str, String); 2] {
        [("g", self.good.digit().to_owned()), ("t", self.tried.map_or("0", FileId::digit).to_owned())]
    }

    /// A new block with it.
    #[must_use]
    pub fn block(self) -> Block {
        Block::fixed(&self.variables())
    }

    /// The file that stage 1 runs first at the next power-on, where `holds` says which of them match their hashes. Without a
    /// block that can be read, and where no file holds, the good one or the first.
    #[must_use]
    pub fn next(stage: Option<Self>, holds: impl Fn(FileId) -> bool) -> FileId {
        let named = stage.map_or([None, None], |stage| [stage.tried, Some(stage.good)]);
        let order = named.into_iter().flatten().chain(FileId::BOTH);
        let good = stage.map_or(FileId::First, |stage| stage.good);
        order.into_iter().find(|file| holds(*file)).unwrap_or(good)
    }
}

/// A sector of this script. It ends in a comment without line feed, which takes in what is left of the old line there.
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
    fn the_first_stage_is_a_sector_that_never_changes() {
        let sector = stage1();
        assert_eq!(sector[STAGE1.len()..], vec![b'#'; SECTOR - STAGE1.len()]);
        // Devices in the field have it, and nothing replaces it there.
        assert_eq!(crc32fast::hash(&sector), 0xf41e_ca8a);
    }

    #[test]
    fn a_stage_is_read_as_it_was_written() {
        for good in FileId::BOTH {
            for tried in [None, Some(FileId::First), Some(FileId::Second)] {
                let stage = Stage { good, tried };
                assert_eq!(Stage::read(&stage.block()), Some(stage));
            }
        }
        for odd in [&[("g", "1")][..], &[("t", "0")], &[("g", "3"), ("t", "0")], &[("g", "1"), ("t", "12")]] {
            let variables: Vec<_> = odd.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            assert_eq!(Stage::read(&Block::create(&variables).unwrap()), None, "{odd:?}");
        }
    }

    #[test]
    fn the_next_file_is_the_one_on_trial_then_the_good_one_then_any_that_holds() {
        use FileId::{First, Second};
        let trial = Some(Stage { good: First, tried: Some(Second) });
        assert_eq!(Stage::next(trial, |_| true), Second);
        assert_eq!(Stage::next(trial, |file| file == First), First);
        assert_eq!(Stage::next(Some(Stage::settled(Second)), |_| true), Second);
        assert_eq!(Stage::next(Some(Stage::settled(Second)), |file| file == First), First);
        assert_eq!(Stage::next(Some(Stage::settled(Second)), |_| false), Second);
        assert_eq!(Stage::next(None, |_| true), First);
        assert_eq!(Stage::next(None, |file| file == Second), Second);
    }

    #[test]
    fn a_loader_file_has_a_number_and_those_of_0_1_have_none() {
        let numbered = format!("# kubesolo-update loader 12\n{TEXT}");
        assert_eq!(number(numbered.as_bytes()), Some(12));
        assert_eq!(number(b"# kubesolo-update loader x\nlinux ks.proto=1\n"), Some(0));
        assert_eq!(number(b"linux ks.proto=1\n"), Some(0));
        assert_eq!(number(b"menuentry Debian { linux /vmlinuz }\n"), None);
        assert_eq!(number(&stage1()), None);
    }

    #[test]
    fn scripts_are_told_apart() {
        let old = "load_env\nif [ $boot_success != 1 -a $boot_counter = 0 ]; then set active_slot=B; fi\nsave_env boot_counter\n";
        assert_eq!(kind(old.as_bytes()), Kind::KubeSoloOs);
        assert_eq!(kind(TEXT.as_bytes()), Kind::Ours);
        assert_eq!(kind(&[&stage1()[..], old.as_bytes()].concat()), Kind::Staged);
        let switched = [&sector(SWITCH_0_1)[..], old.as_bytes()].concat();
        assert_eq!(kind(&switched), Kind::Switched);
        assert_eq!(kind(&switched[1..]), Kind::KubeSoloOs);
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
