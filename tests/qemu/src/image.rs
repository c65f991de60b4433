//! Disks of virtual devices: built by the project's own script, changed and read without root.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootenv::SlotId;
use bootenv::extras::{self, ARGUMENTS, LIST, LIST_OF, TREE};
use bootenv::grub::{Block, SIZE};
use bootenv::protocol::View;
use bootenv::uboot::{Environment, Format, flags, newest};
use sha2::{Digest, Sha256};

use crate::machine::Firmware;
use crate::{Result, loaders, root, run, tool};

const MIB: u64 = 1024 * 1024;
/// File name of the kernel in a slot.
pub const KERNEL: &str = "vmlinuz";
/// File name of the initramfs in a slot.
pub const INITRAMFS: &str = "kubesolo-os.gz";

/// Bytes of one copy of U-Boot's environment, as the script that builds a disk has it.
pub const UBOOT_SIZE: usize = 0x4000;
/// Where the second copy begins.
pub const UBOOT_SECOND: u64 = 0x80000;

/// The content of a slot.
#[derive(Clone, Debug)]
pub struct Content {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The slot manifest, if there is to be one.
    pub manifest: Option<PathBuf>,
}

impl Content {
    /// Without a manifest.
    #[must_use]
    pub fn new(kernel: &Path, initramfs: &Path) -> Self {
        Self { kernel: kernel.to_owned(), initramfs: initramfs.to_owned(), manifest: None }
    }
}

/// A disk to be built.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Slot A, active and good.
    pub a: Content,
    /// Slot B, void whatever is in it.
    pub b: Option<Content>,
    /// Kernel command line in place of the default.
    pub kernel_args: Option<String>,
    /// Files of the data partition.
    pub data: Option<PathBuf>,
    /// The bootloader's script in place of the project's.
    pub grub_cfg: Option<PathBuf>,
    /// GRUB itself in place of what is built from the machine's.
    pub loader: Option<PathBuf>,
    /// Sizes in MiB.
    pub size: Size,
    /// The bootloader.
    pub firmware: Firmware,
}

/// Sizes of the partitions in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// EFI partition.
    pub esp: u64,
    /// Each slot.
    pub slot: u64,
    /// Data partition.
    pub data: u64,
}

impl Plan {
    /// A disk for a real kernel, slot B empty.
    #[must_use]
    pub fn new(a: Content) -> Self {
        Self {
            a,
            b: None,
            kernel_args: None,
            data: None,
            grub_cfg: None,
            loader: None,
            size: Self::size(),
            firmware: Firmware::Uefi,
        }
    }

    /// Sizes that a real kernel and initramfs fit into.
    #[must_use]
    pub fn size() -> Size {
        Size { esp: 34, slot: 64, data: 32 }
    }

    /// Builds the disk.
    ///
    /// # Errors
    /// The script fails.
    pub fn build(&self, output: &Path) -> Result<Disk> {
        let mut script = Command::new(root().join("build/scripts/build-image.sh"));
        script.env("OUTPUT", output);
        script.env("ARCH", self.firmware.architecture().as_str());
        script.env("BOOT", if self.firmware == Firmware::UBoot { "uboot" } else { "grub" });
        script.env("ESP_MIB", self.size.esp.to_string());
        script.env("SLOT_MIB", self.size.slot.to_string());
        script.env("DATA_MIB", self.size.data.to_string());
        for name in ["MANIFEST", "KERNEL_B", "INITRAMFS_B", "MANIFEST_B", "KERNEL_ARGS", "DATA", "LOADER", "GRUB_CFG"] {
            script.env_remove(name);
        }
        if let Some(dir) = loaders() {
            script.env("GRUB_LIB", dir.join("usr/lib/grub"));
        }
        for (content, suffix) in [(Some(&self.a), ""), (self.b.as_ref(), "_B")] {
            let Some(content) = content else { continue };
            script.env(format!("KERNEL{suffix}"), &content.kernel);
            script.env(format!("INITRAMFS{suffix}"), &content.initramfs);
            if let Some(manifest) = &content.manifest {
                script.env(format!("MANIFEST{suffix}"), manifest);
            }
        }
        if let Some(args) = &self.kernel_args {
            script.env("KERNEL_ARGS", args);
        }
        for (name, path) in [("DATA", &self.data), ("GRUB_CFG", &self.grub_cfg), ("LOADER", &self.loader)] {
            if let Some(path) = path {
                script.env(name, path);
            }
        }
        run(&mut script)?;
        Ok(Disk { path: output.to_owned(), size: self.size, firmware: self.firmware })
    }
}

/// A disk that was built here. Only to be touched while no device runs from it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// Sizes of its partitions.
    pub size: Size,
    /// The bootloader.
    pub firmware: Firmware,
}

impl Disk {
    /// Offset of the EFI partition in bytes.
    pub const ESP: u64 = MIB;

    /// Offset and size of a slot's partition in bytes.
    #[must_use]
    pub fn slot(&self, slot: SlotId) -> (u64, u64) {
        let before = if slot == SlotId::A { 0 } else { self.size.slot };
        ((1 + self.size.esp + before) * MIB, self.size.slot * MIB)
    }

    /// Offset of the data partition in bytes.
    #[must_use]
    pub fn data(&self) -> u64 {
        (1 + self.size.esp + 2 * self.size.slot) * MIB
    }

    /// Identity of a slot's partition, as `ks.part=` has it: its GUID in the partition table (UEFI 2.10, 5.3.3).
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn part_id(&self, slot: SlotId) -> Result<String> {
        const ENTRIES: u64 = 2 * 512;
        const ENTRY: u64 = 128;
        let index = if slot == SlotId::A { 1 } else { 2 };
        let mut guid = [0; 16];
        File::open(&self.path)?.read_exact_at(&mut guid, ENTRIES + index * ENTRY + 16)?;
        // The first three fields are little-endian.
        for field in [0..4, 4..6, 6..8] {
            guid[field].reverse();
        }
        let text = hex::encode(guid);
        let fields = [0..8, 8..12, 12..16, 16..20, 20..32].map(|field| &text[field]);
        Ok(fields.join("-"))
    }

    /// Offset of a copy of U-Boot's environment in bytes.
    #[must_use]
    pub fn copy(&self, number: usize) -> u64 {
        (1 + self.size.esp + 2 * self.size.slot + self.size.data) * MIB + number as u64 * UBOOT_SECOND
    }

    /// The bytes of both copies of U-Boot's environment.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn copies(&self) -> Result<[Vec<u8>; 2]> {
        let file = File::open(&self.path)?;
        let mut copies = [vec![0; UBOOT_SIZE], vec![0; UBOOT_SIZE]];
        for (number, copy) in copies.iter_mut().enumerate() {
            file.read_exact_at(copy, self.copy(number))?;
        }
        Ok(copies)
    }

    /// Writes over a copy of U-Boot's environment, from its first byte on.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn put_copy(&self, number: usize, bytes: &[u8]) -> Result<()> {
        Ok(File::options().write(true).open(&self.path)?.write_all_at(bytes, self.copy(number))?)
    }

    /// The content of the environment, with any bootloader.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn view(&self) -> Result<View> {
        if self.firmware != Firmware::UBoot {
            return Ok(self.env()?.view());
        }
        Ok(uboot_view(&self.copies()?))
    }

    /// All bytes of the environment.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn env_bytes(&self) -> Result<Vec<u8>> {
        if self.firmware == Firmware::UBoot { Ok(self.copies()?.concat()) } else { Ok(self.env()?.bytes().to_vec()) }
    }

    /// The main block of the environment.
    ///
    /// # Errors
    /// It cannot be read or is none.
    pub fn env(&self) -> Result<Block> {
        self.block("grubenv")
    }

    /// The second file of the environment.
    ///
    /// # Errors
    /// It cannot be read or is none.
    pub fn second(&self) -> Result<Block> {
        self.block("ksenv2")
    }

    fn block(&self, name: &str) -> Result<Block> {
        Block::parse(&self.esp_file(&format!("grub/{name}"))?).map_err(|e| format!("grub/{name}: {e}").into())
    }

    /// A file of the EFI partition.
    ///
    /// # Errors
    /// It is not there.
    pub fn esp_file(&self, path: &str) -> Result<Vec<u8>> {
        run(self.mtools("mtype")?.arg(format!("::/{path}")))
    }

    /// Replaces a file of the EFI partition.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_esp_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let file = self.path.with_extension("tmp");
        fs::write(&file, bytes)?;
        run(self.mtools("mcopy")?.arg("-o").arg(&file).arg(format!("::/{path}")))?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// Removes a file of the EFI partition.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove_esp_file(&self, path: &str) -> Result<()> {
        run(self.mtools("mdel")?.arg(format!("::/{path}")))?;
        Ok(())
    }

    fn mtools(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(tool(name)?);
        command.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(format!("{}@@{}", self.path.display(), Self::ESP));
        Ok(command)
    }

    /// Stores the main block in place, as the agent does.
    ///
    /// # Errors
    /// It is not found on the disk or cannot be written.
    pub fn set_env(&self, block: &Block) -> Result<()> {
        self.overwrite("grubenv", block.bytes())
    }

    /// Stores the second file in place.
    ///
    /// # Errors
    /// It is not found on the disk or cannot be written.
    pub fn set_second(&self, block: &Block) -> Result<()> {
        self.overwrite("ksenv2", block.bytes())
    }

    /// Writes over a file of the environment in place, whatever the bytes are.
    ///
    /// # Errors
    /// It is not found on the disk or cannot be written.
    pub fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let old = self.esp_file(&format!("grub/{name}"))?;
        let file = File::options().read(true).write(true).open(&self.path)?;
        file.write_all_at(bytes, find(&file, &old, Self::ESP, self.size.esp * MIB)?)?;
        Ok(())
    }

    /// A file of a slot.
    ///
    /// # Errors
    /// It is not there.
    pub fn slot_file(&self, slot: SlotId, name: &str) -> Result<Vec<u8>> {
        let to = self.path.with_extension("tmp");
        // debugfs always exits 0; its output decides.
        let _ = fs::remove_file(&to);
        self.debugfs(slot, false, &format!("dump /{name} {}", to.display()))?;
        let bytes = fs::read(&to).map_err(|_| format!("slot {slot} has no file {name}"))?;
        fs::remove_file(to)?;
        Ok(bytes)
    }

    /// Removes a file of a slot.
    ///
    /// # Errors
    /// The slot cannot be changed.
    pub fn remove_slot_file(&self, slot: SlotId, name: &str) -> Result<()> {
        self.debugfs(slot, true, &format!("rm /{name}"))
    }

    /// Replaces a file of a slot, without touching its hash file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_slot_file(&self, slot: SlotId, name: &str, bytes: &[u8]) -> Result<()> {
        let from = self.path.with_extension("put");
        fs::write(&from, bytes)?;
        self.remove_slot_file(slot, name)?;
        self.debugfs(slot, true, &format!("write {} /{name}", from.display()))?;
        fs::remove_file(from)?;
        if self.slot_file(slot, name)? != bytes {
            return Err(format!("slot {slot}: {name} was not written: is the slot too small?").into());
        }
        Ok(())
    }

    /// Writes a file of a slot and the hash file that describes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_slot_file_and_hash(&self, slot: SlotId, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_slot_file(slot, name, bytes)?;
        self.put_slot_file(slot, &format!("{name}.sha256"), hash_line(name, bytes).as_bytes())
    }

    /// Adds kernel arguments and a device tree to a slot with hash files, as a release has them for GRUB.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put_extras(&self, slot: SlotId, arguments: Option<&str>, tree: Option<&[u8]>) -> Result<()> {
        let arguments = arguments.map(|arguments| (ARGUMENTS, extras::grub(arguments)));
        let files: Vec<_> = arguments.into_iter().chain(tree.map(|tree| (TREE, tree.to_vec()))).collect();
        self.put_extras_of(slot, &files)
    }

    /// The same with these bytes.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put_extras_of(&self, slot: SlotId, files: &[(&str, Vec<u8>)]) -> Result<()> {
        let mut list = String::new();
        for name in [KERNEL, INITRAMFS].map(|name| format!("{name}.sha256")) {
            list += &hash_line(&name, &self.slot_file(slot, &name)?);
        }
        self.put_slot_file(slot, LIST_OF, list.as_bytes())?;
        for (name, bytes) in files {
            self.put_slot_file(slot, name, bytes)?;
            list += &hash_line(name, bytes);
        }
        self.put_slot_file(slot, LIST, list.as_bytes())
    }

    fn debugfs(&self, slot: SlotId, write: bool, request: &str) -> Result<()> {
        let mut command = Command::new(tool("debugfs")?);
        if write {
            command.arg("-w");
        }
        command.args(["-R", request]).arg(format!("{}?offset={}", self.path.display(), self.slot(slot).0));
        run(&mut command)?;
        Ok(())
    }
}

/// The copy that U-Boot would read from two copies of its environment.
#[must_use]
pub fn uboot_view(copies: &[Vec<u8>; 2]) -> View {
    let valid = [0, 1].map(|copy: usize| flags(&copies[copy], Format::Redundant).ok());
    let read = |copy: usize| Environment::parse(&copies[copy], Format::Redundant).ok();
    newest(valid).and_then(read).map_or(View::Invalid, |(environment, _)| environment.view())
}

/// The line of a hash file.
#[must_use]
pub fn hash_line(name: &str, bytes: &[u8]) -> String {
    format!("{}  {name}\n", hex::encode(Sha256::digest(bytes)))
}

/// Finds a file of one block by its content, sector by sector.
fn find(disk: &File, content: &[u8], from: u64, size: u64) -> Result<u64> {
    let mut bytes = vec![0; usize::try_from(size)?];
    disk.read_exact_at(&mut bytes, from)?;
    let mut places = (0..bytes.len() - SIZE).step_by(512).filter(|at| &bytes[*at..*at + SIZE] == content);
    match (places.next(), places.next()) {
        (Some(at), None) => Ok(from + at as u64),
        (None, _) => Err("the block is not in one piece on the disk".into()),
        _ => Err("the block is on the disk twice".into()),
    }
}
