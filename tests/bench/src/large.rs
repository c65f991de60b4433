//! 5 GiB through the agent: sizes and offsets beyond 2 and 4 GiB, and the same memory as for a small release. A stub
//! serves bytes that it makes up, so that nothing of that size has to be published; it breaks the connection beyond 4 GiB
//! once.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ed25519_dalek::{Signer, SigningKey};
use qemu_tests::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::contestants::{Agent, Course, Server};
use crate::{measure, release};

const INITRAMFS_BYTES: u64 = 5 << 30;
const BREAK_AT: u64 = (4 << 30) + 12345;
const KERNEL: &[u8] = b"no kernel, but the agent does not look into it";
/// The limit of the agent's memory at any size.
const PEAK_KIB: u64 = 12 * 1024;
const BLOCK: usize = 64 * 1024;

/// One block of the initramfs: no two are the same, and no offset modulo 2^32 gives the same bytes.
fn block(number: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (at, word) in block.chunks_exact_mut(8).enumerate() {
        let seed = (number << 13 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(seed ^ seed >> 29).to_le_bytes());
    }
    block
}

/// The files that the stub serves.
struct Stub {
    manifest: Vec<u8>,
    referrers: Vec<u8>,
    signature_manifest: Vec<u8>,
    signature: Vec<u8>,
    initramfs: String,
    broken: AtomicBool,
}

/// Applies the large release, and compares every byte in the slot.
///
/// # Errors
/// The agent fails, takes too much memory, or writes other bytes.
pub fn run() -> Result<()> {
    let place = release::place();
    let (run, keys) = (place.join("run"), place.join("large-keys"));
    fs::create_dir_all(&keys)?;
    println!("hashing 5 GiB");
    let mut hasher = Sha256::new();
    for number in 0..INITRAMFS_BYTES / BLOCK as u64 {
        hasher.update(block(number));
    }
    let key = SigningKey::from_bytes(&[7; 32]);
    fs::write(keys.join("public.pem"), hex::encode(key.verifying_key().as_bytes()))?;
    let initramfs = hex::encode(hasher.finalize());
    let stub = Arc::new(Stub::new(initramfs, &key));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let served = Arc::clone(&stub);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let stub = Arc::clone(&served);
            // The agent says what went wrong with a connection.
            thread::spawn(move || drop(stub.serve(client)));
        }
    });

    println!("applying them");
    let large =
        release::Release { mib: INITRAMFS_BYTES >> 20, bytes: 0, dir: place.clone(), digests: Default::default() };
    crate::clean(&run)?;
    let mut command = Agent(Server::Registry).command(&Course { release: &large, ports: [port, port] })?;
    for word in &mut command {
        *word = word.replace("/bench/keys/", "/bench/large-keys/");
    }
    let cost = measure::below(&command, &place.join("large.log"))?;
    println!("comparing what was written");
    let file = File::open(run.join("slot/kubesolo-os.gz"))?;
    let mut found = [0; BLOCK];
    for number in 0..INITRAMFS_BYTES / BLOCK as u64 {
        file.read_exact_at(&mut found, number * BLOCK as u64)?;
        if found != block(number) {
            return Err(format!("the slot has other bytes in block {number} of {BLOCK}").into());
        }
    }
    if file.metadata()?.len() != INITRAMFS_BYTES || fs::read(run.join("slot/vmlinuz"))? != KERNEL {
        return Err("the slot has images of another size".into());
    }
    drop(file);
    fs::remove_dir_all(&run)?;
    println!(
        "5 GiB, with one broken connection: {:.1} s, {:.2} CPU s, peak {:.1} MiB, written {:.4} times",
        cost.wall,
        cost.cpu,
        cost.peak as f64 / 1024.0,
        cost.written as f64 / INITRAMFS_BYTES as f64
    );
    if !stub.broken.load(Ordering::SeqCst) {
        return Err("the connection never broke".into());
    }
    if cost.peak > PEAK_KIB {
        return Err(format!("peak memory is {} KiB, more than {PEAK_KIB}", cost.peak).into());
    }
    Ok(())
}

impl Stub {
    fn new(initramfs: String, key: &SigningKey) -> Self {
        const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        const SIGNATURE: &str = "application/vnd.kubesolo.os.signature.v1+ed25519";
        let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": empty,
            "layers": [
                {"mediaType": "application/vnd.kubesolo.os.kernel.v1+octet-stream", "digest": digest(KERNEL), "size": KERNEL.len()},
                {"mediaType": "application/vnd.kubesolo.os.initramfs.v1+gzip", "digest": format!("sha256:{initramfs}"),
                 "size": INITRAMFS_BYTES},
            ],
            "annotations": {"io.kubesolo.os.version": "5.0.0", "io.kubesolo.os.channel": "stable", "io.kubesolo.os.architecture": "amd64"},
        });
        let manifest = manifest.to_string().into_bytes();
        let signature = key.sign(&manifest).to_bytes().to_vec();
        let signature_manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SIGNATURE, "config": empty,
            "layers": [{"mediaType": SIGNATURE, "digest": digest(&signature), "size": 64}],
            "subject": {"mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len()},
        });
        let signature_manifest = signature_manifest.to_string().into_bytes();
        let referrers = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": MANIFEST, "artifactType": SIGNATURE, "digest": digest(&signature_manifest),
                           "size": signature_manifest.len()}],
        });
        let referrers = referrers.to_string().into_bytes();
        Self { manifest, referrers, signature_manifest, signature, initramfs, broken: AtomicBool::new(false) }
    }

    fn serve(&self, client: TcpStream) -> Result<()> {
        let mut requests = BufReader::new(client.try_clone()?);
        let mut client = client;
        loop {
            let (mut path, mut from) = (String::new(), 0);
            let mut line = String::new();
            while requests.read_line(&mut line)? > 0 && line.trim_end() != "" {
                if let Some(rest) = line.strip_prefix("GET ") {
                    rest.split(' ').next().unwrap_or_default().clone_into(&mut path);
                } else if let Some(rest) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    from = rest.trim_end().trim_end_matches('-').parse()?;
                }
                line.clear();
            }
            if path.is_empty() {
                return Ok(());
            }
            self.answer(&mut client, &path, from)?;
        }
    }

    fn answer(&self, client: &mut TcpStream, path: &str, from: u64) -> Result<()> {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let kind = |kind: &str| format!("application/vnd.oci.image.{kind}.v1+json");
        let (kind, small) = match path.strip_prefix("/v2/os/").unwrap_or_default() {
            "manifests/size-5120" => (kind("manifest"), &self.manifest[..]),
            name if name.starts_with("referrers/") => (kind("index"), &self.referrers[..]),
            name if name.ends_with(&digest(&self.signature_manifest)) => {
                (kind("manifest"), &self.signature_manifest[..])
            }
            name if name.ends_with(&digest(&self.signature)) => {
                ("application/octet-stream".into(), &self.signature[..])
            }
            name if name.ends_with(&digest(KERNEL)) => ("application/octet-stream".into(), KERNEL),
            name if name.ends_with(&self.initramfs) => return self.large(client, from),
            _ => {
                client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(());
            }
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", small.len());
        client.write_all(head.as_bytes())?;
        client.write_all(small)?;
        Ok(())
    }

    fn large(&self, client: &mut TcpStream, from: u64) -> Result<()> {
        let left = INITRAMFS_BYTES - from;
        let head = match from {
            0 => "200 OK\r\n".to_owned(),
            _ => format!(
                "206 Partial Content\r\nContent-Range: bytes {from}-{}/{INITRAMFS_BYTES}\r\n",
                INITRAMFS_BYTES - 1
            ),
        };
        client.write_all(format!("HTTP/1.1 {head}Content-Length: {left}\r\n\r\n").as_bytes())?;
        let mut at = from;
        while at < INITRAMFS_BYTES {
            let skip = usize::try_from(at % BLOCK as u64)?;
            client.write_all(&block(at / BLOCK as u64)[skip..])?;
            at += (BLOCK - skip) as u64;
            if at >= BREAK_AT && !self.broken.swap(true, Ordering::SeqCst) {
                return Err("broken on purpose".into());
            }
        }
        Ok(())
    }
}
