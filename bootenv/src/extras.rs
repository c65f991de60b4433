//! The files by which a release adds kernel arguments and a device tree to its two images, in the same slot.
//!
//! `loader/grub.cfg` and `loader/boot.cmd` read them after both images matched their hashes. They belong to these images:
//! GRUB's [`LIST`] names the hash files of the images beside the files themselves, and [`LIST_OF`] the hash files alone, so that
//! a lost file differs from one that an older agent left behind. U-Boot's [`ARGUMENTS`] has the checksums of the images.

use crate::grub::{SIGNATURE, SIZE};
use crate::uboot::{Environment, Format};

/// Kernel arguments of the release.
pub const ARGUMENTS: &str = "args.env";
/// Device tree of the release, a flattened tree as the kernel reads it.
pub const TREE: &str = "board.dtb";
/// Hashes of the two hash files of the images, and of the files above, one line each as `sha256sum` writes it. For GRUB.
pub const LIST: &str = "extras.sha256";
/// Hashes of the two hash files of the images alone. For GRUB.
pub const LIST_OF: &str = "extras-of.sha256";

/// Longest kernel arguments of a release, in bytes: they lie in an environment block of GRUB, which has 1024.
pub const RELEASE_BYTES: usize = 960;
/// Longest kernel arguments of a device, in bytes.
pub const DEVICE_BYTES: usize = 700;
/// Longest kernel command line, in bytes: `COMMAND_LINE_SIZE` of the kernel is 2048 on x86 and arm64, with a NUL at the end.
pub const LINE_BYTES: usize = 2047;
/// Largest device tree, in bytes: the room that `loader/boot.cmd` has for it.
pub const TREE_BYTES: usize = 512 * 1024;
/// Bytes of [`ARGUMENTS`] for U-Boot.
pub const UBOOT_BYTES: usize = 0x800;

/// The variable with the arguments.
const VARIABLE: &str = "ks_slot_args";
const _: () = assert!(SIGNATURE.len() + VARIABLE.len() + "=\n".len() + RELEASE_BYTES <= SIZE);

/// [`ARGUMENTS`] for GRUB: an environment block with one variable. The arguments are plain words, [`RELEASE_BYTES`] at most.
#[must_use]
pub fn grub(arguments: &str) -> Vec<u8> {
    let mut bytes = [SIGNATURE, format!("{VARIABLE}={arguments}\n").as_bytes()].concat();
    bytes.resize(SIZE, b'#');
    bytes
}

/// [`ARGUMENTS`] for U-Boot: an environment with a checksum, as `mkenvimage` makes it. `of` has the CRC-32 of kernel and
/// initramfs. The arguments are plain words, [`RELEASE_BYTES`] at most.
///
/// # Panics
/// If they are longer than the file.
#[must_use]
pub fn uboot(arguments: Option<&str>, of: [u32; 2], tree: Option<&[u8]>) -> Vec<u8> {
    let mut variables = vec![("ks_of", of_images(of))];
    variables.extend(arguments.map(|arguments| (VARIABLE, arguments.to_owned())));
    if let Some(tree) = tree {
        variables.push(("dtb_crc32", format!("{:08x}", crc32fast::hash(tree))));
        variables.push(("dtb_size", format!("{:x}", tree.len())));
    }
    let environment = Environment::default().with(&variables);
    environment.encode(UBOOT_BYTES, Format::Single, 0).expect("1 KiB of variables fits into 2 KiB")
}

fn of_images([kernel, initramfs]: [u32; 2]) -> String {
    format!("{kernel:08x}{initramfs:08x}")
}

/// The state of [`ARGUMENTS`] as U-Boot finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uboot {
    /// It belongs to other images: an older agent left it behind.
    OfOthers,
    /// Length or checksum is wrong.
    Damaged,
    /// It belongs to these images.
    Ours {
        /// Size in bytes and CRC-32 of the device tree, if there is one.
        tree: Option<(usize, u32)>,
    },
}

/// Reads [`ARGUMENTS`] as U-Boot does, beside images with these checksums.
#[must_use]
pub fn read_uboot(bytes: &[u8], of: [u32; 2]) -> Uboot {
    if bytes.len() != UBOOT_BYTES {
        return Uboot::Damaged;
    }
    let Ok((environment, _)) = Environment::parse(bytes, Format::Single) else { return Uboot::Damaged };
    if environment.get("ks_of") != Some(of_images(of)) {
        return Uboot::OfOthers;
    }
    let hex = |name| environment.get(name).map(|value| u32::from_str_radix(&value, 16));
    match (hex("dtb_size"), hex("dtb_crc32")) {
        (None, None) => Uboot::Ours { tree: None },
        (Some(Ok(size)), Some(Ok(checksum))) => Uboot::Ours { tree: Some((size as usize, checksum)) },
        _ => Uboot::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grub::Block;

    #[test]
    fn a_block_for_grub_has_the_longest_arguments() {
        let longest = "a".repeat(RELEASE_BYTES);
        let block = Block::parse(&grub(&longest)).unwrap();
        assert_eq!((block.get(VARIABLE), block.bytes().len()), (Some(longest.as_str()), SIZE));
    }

    #[test]
    fn a_file_for_u_boot_belongs_to_its_images() {
        let (of, tree) = ([1, 0xdead_beef], b"tree".as_slice());
        let bytes = uboot(Some("quiet x=y"), of, Some(tree));
        assert_eq!(bytes.len(), UBOOT_BYTES);
        assert_eq!(read_uboot(&bytes, of), Uboot::Ours { tree: Some((4, crc32fast::hash(tree))) });
        assert_eq!(read_uboot(&bytes, [1, 2]), Uboot::OfOthers);
        assert_eq!(read_uboot(&bytes[1..], of), Uboot::Damaged);
        assert_eq!(read_uboot(b"", of), Uboot::Damaged);
        for at in [0, 5, UBOOT_BYTES - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            assert_eq!(read_uboot(&bytes, of), Uboot::Damaged, "byte {at}");
        }
        assert_eq!(read_uboot(&uboot(Some(&"a".repeat(RELEASE_BYTES)), of, None), of), Uboot::Ours { tree: None });
    }
}
