//! Releases of a wanted size, published to both servers once and kept between runs.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use qemu_tests::{Result, root, run, tool};
use sha2::{Digest, Sha256};

const MIB: u64 = 1024 * 1024;
/// As in a real release; the rest is initramfs.
const KERNEL_BYTES: u64 = 8 * MIB;

/// A release: its folder on the web server has the images, their sums and the signature over these.
pub struct Release {
    /// Size of both images, in MiB and roughly.
    pub mib: u64,
    /// Size of both images, in bytes.
    pub bytes: u64,
    /// The folder.
    pub dir: PathBuf,
    /// Digests in hexadecimal: kernel, initramfs.
    pub digests: [String; 2],
}

impl Release {
    /// Its tag in the registry and its folder's name.
    pub fn tag(&self) -> String {
        format!("size-{}", self.mib)
    }
}

/// The key pair of all releases: made once.
///
/// # Errors
/// A tool fails.
pub fn keys(dir: &Path) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    run(Command::new(release_tool()?).args(["--quiet", "keygen"]).arg(dir))?;
    let der = run(Command::new(tool("openssl")?)
        .args(["pkey", "-pubin", "-outform", "DER", "-in"])
        .arg(dir.join("public.pem")))?;
    // The raw key is the end of its SubjectPublicKeyInfo.
    fs::write(dir.join("public.hex"), hex::encode(&der[der.len() - 32..]))?;
    Ok(())
}

/// Makes and publishes a release, if an earlier run did not.
///
/// # Errors
/// A tool fails.
pub fn make(www: &Path, keys: &Path, registry: &str, mib: u64) -> Result<Release> {
    let mut release = Release { mib, bytes: 0, dir: PathBuf::new(), digests: Default::default() };
    release.dir = www.join(release.tag());
    let [kernel, initramfs] = ["vmlinuz", "kubesolo-os.gz"].map(|name| release.dir.join(name));
    let done = release.dir.join("published");
    if !done.exists() {
        println!("making a release of {mib} MiB");
        fs::create_dir_all(&release.dir)?;
        let mut noise = Noise(mib);
        let mut file = BufWriter::new(File::create(&kernel)?);
        noise.write(&mut file, KERNEL_BYTES)?;
        file.flush()?;
        let mut packed = GzEncoder::new(BufWriter::new(File::create(&initramfs)?), Compression::none());
        archive(&mut packed, &mut noise, mib * MIB - KERNEL_BYTES)?;
        packed.finish()?.flush()?;
        let mut sums = String::new();
        for (name, file) in [("vmlinuz", &kernel), ("kubesolo-os.gz", &initramfs)] {
            sums += &format!("{}  {name}\n", sha256(file)?);
        }
        fs::write(release.dir.join("SHA256SUMS"), sums)?;
        run(Command::new(tool("openssl")?)
            .args(["pkeyutl", "-sign", "-rawin", "-inkey"])
            .arg(keys.join("private.pem"))
            .arg("-in")
            .arg(release.dir.join("SHA256SUMS"))
            .arg("-out")
            .arg(release.dir.join("SHA256SUMS.sig")))?;
        let publish = |to: &[&std::ffi::OsStr]| {
            run(Command::new(release_tool()?)
                .args(["--quiet", "publish", "--version", "2.0.0", "--channel", "stable", "--unsafe-unchecked-kernel"])
                .args(to)
                .arg("--key")
                .arg(keys.join("private.pem"))
                .arg("--amd64")
                .args([&kernel, &initramfs]))
        };
        let reference = format!("{registry}/os:{}", release.tag());
        publish(&[reference.as_ref(), "--plain-http".as_ref(), registry.as_ref()])?;
        publish(&["--http".as_ref(), release.dir.as_ref()])?;
        fs::write(done, "")?;
    }
    release.bytes = kernel.metadata()?.len() + initramfs.metadata()?.len();
    let sums = fs::read_to_string(release.dir.join("SHA256SUMS"))?;
    for (digest, line) in release.digests.iter_mut().zip(sums.lines()) {
        line[..64].clone_into(digest);
    }
    Ok(release)
}

/// The agent's companion, as it is shipped.
///
/// # Errors
/// It was not built.
pub fn release_tool() -> Result<PathBuf> {
    qemu_tests::built("target/dist/amd64/kubesolo-release", "make agent")
}

/// The agent, as it is shipped.
///
/// # Errors
/// It was not built.
pub fn agent() -> Result<PathBuf> {
    qemu_tests::built("target/dist/amd64/kubesolo-update", "make agent")
}

/// Where all of the bench lies.
pub fn place() -> PathBuf {
    root().join("target/bench")
}

/// The digest of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    struct Hash(Sha256);
    impl Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Hash(Sha256::new());
    std::io::copy(&mut File::open(file)?, &mut hash)?;
    Ok(hex::encode(hash.0.finalize()))
}

/// An archive in the "newc" format (cpio(5)) with one file.
fn archive(to: &mut impl Write, noise: &mut Noise, size: u64) -> Result<()> {
    let entry = |name: &str, mode: u32, size: u64| {
        let mut entry = format!("070701{:08X}{mode:08X}{:016X}{:08X}{:08X}", 1, 0, 1, 0);
        entry += &format!("{size:08X}{:032X}{:08X}{:08X}{name}\0", 0, name.len() + 1, 0);
        entry.extend(std::iter::repeat_n('\0', entry.len().next_multiple_of(4) - entry.len()));
        entry
    };
    to.write_all(entry("init", 0o100_755, size).as_bytes())?;
    noise.write(to, size)?;
    to.write_all(entry("TRAILER!!!", 0, 0).as_bytes())?;
    Ok(())
}

/// Bytes that do not compress, and the same each time (xorshift64).
struct Noise(u64);

impl Noise {
    fn write(&mut self, to: &mut impl Write, bytes: u64) -> Result<()> {
        let mut block = vec![0; 64 * 1024];
        for _ in 0..bytes / block.len() as u64 {
            for word in block.chunks_exact_mut(8) {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                word.copy_from_slice(&self.0.to_le_bytes());
            }
            to.write_all(&block)?;
        }
        Ok(())
    }
}
