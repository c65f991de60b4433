//! The contents of an initramfs, read before it is published: a device that finds an error there does not boot.
//!
//! Input that the kernel accepts (`init/initramfs.c`, `Documentation/driver-api/early-userspace/buffer-format.rst`): archives in
//! newc format one after the other, each plain (the early archive with CPU microcode) or in a compressed part of its own,
//! with zeros between them. Parts in gzip are read here; of any other compression only the name is known. An archive may not
//! run on into the next gzip member. Stricter than the kernel in one thing: every archive must end with its trailer, or a
//! file cut between two entries would pass.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use memchr::memmem;

use kubesolo_update::base::error::{Error, Reason, Result};
use kubesolo_update::base::files;
use kubesolo_update::release::release::DATA_LAYOUT;

/// The largest unpacked size accepted, in bytes. All of it is memory of the device, so more is a mistake or a
/// decompression bomb.
pub const UNPACKED_BYTES: u64 = 8 << 30;
/// The longest name in an archive, in bytes with its final zero: `PATH_MAX` of Linux, beyond which the kernel skips.
const NAME_BYTES: u64 = 4096;
pub(crate) const HEADER_BYTES: usize = 110;
const BUFFER_BYTES: usize = 64 << 10;
/// The second number of a cpio header is the mode: the type of the file, and its permissions.
const MODE: usize = 1;
const TYPE_MASK: u64 = 0o170_000;
const REGULAR: u64 = 0o100_000;
const SYMLINK: u64 = 0o120_000;
const EXECUTE: u64 = 0o111;

/// The parts of an initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of all archives up to `opaque`, headers and padding included.
    pub(crate) bytes: u64,
    /// Number of gzip members.
    pub(crate) gzip_members: u32,
    /// The first part in another compression. Nothing from there on was read.
    pub(crate) opaque: Option<Opaque>,
}

/// A part whose contents are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opaque {
    compression: &'static str,
    /// In bytes from the start of the file.
    at: u64,
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from byte {} on", self.compression, self.at)
    }
}

/// Facts about an initramfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Its unpacked size; `None` if a part has another compression than gzip.
    pub(crate) unpacked: Option<u64>,
    /// Layout of the checkpoints that the agent in it writes; `None` if no such agent was found.
    pub(crate) data_layout: Option<u64>,
    /// Version of the agent in it; `None` if no agent was found.
    pub(crate) agent: Option<String>,
}

/// Reads the file at `path` to its end as the kernel would unpack it, and returns its unpacked size: the bytes of all
/// archives, headers and padding included (for one gzip member, the output of `zcat FILE | wc -c`). `None` if a part has
/// another compression than gzip; a warning names it.
///
/// # Errors
/// 65 if it is empty, does not unpack, or has no `/init` that the kernel can start; 69 if it cannot be read.
pub(crate) fn check(path: &Path) -> Result<Contents> {
    const NOTHING: &str = "Nothing was published.";
    let refused = |e: io::Error| {
        let unread = e.raw_os_error().is_some();
        let reason = if unread { Reason::ImageUnreadable } else { Reason::InitramfsBroken };
        Error::new(reason, format!("the initramfs {} does not unpack: {e}", path.display()))
            .remedy(format!("{NOTHING} Build the initramfs again: newc cpio, compressed with gzip."))
    };
    let unusable = |why: &str| {
        Error::new(Reason::BadInitramfs, format!("the initramfs {} {why}: no device could start it", path.display()))
            .remedy(format!("{NOTHING} Build the initramfs again, with an executable /init."))
    };
    let mut raw = BufReader::with_capacity(BUFFER_BYTES, files::open_data(path).map_err(refused)?);
    if raw.fill_buf().map_err(refused)?.is_empty() {
        return Err(unusable("is empty"));
    }
    let mut init = Init::default();
    let unpacked = unpack(raw, UNPACKED_BYTES, &mut init).map_err(refused)?;
    if let Some(opaque) = unpacked.opaque {
        log::warn!(
            "the initramfs {} is compressed with {opaque}, which cannot be looked into: neither its /init nor its unpacked \
             size was checked, and devices cannot check their memory. With gzip they can",
            path.display()
        );
        return Ok(init.agent.contents(None));
    }
    init.check().map_err(unusable)?;
    Ok(init.agent.contents(Some(unpacked.bytes)))
}

/// Looks for an agent, and for one that saves data. Servers get its name and version, and it reads the annotation
/// [`DATA_LAYOUT`]: both are texts of its program. Earlier agents do not have the annotation, and all that have it write
/// layout 1.
#[derive(Debug, Default)]
struct Agent {
    saves_data: bool,
    version: Option<String>,
    /// The end of the bytes before, at most [`Self::OVERLAP`].
    rest: Vec<u8>,
}

impl Agent {
    /// The start of the name by which an agent introduces itself.
    const NAME: &str = "kubesolo-update/";
    /// At least as long as each text that is looked for, in bytes.
    const OVERLAP: usize = 64;

    fn contents(self, unpacked: Option<u64>) -> Contents {
        Contents { unpacked, data_layout: self.saves_data.then_some(1), agent: self.version }
    }

    fn look(&mut self, bytes: &[u8]) {
        if self.saves_data && self.version.is_some() {
            return;
        }
        let mut border = std::mem::take(&mut self.rest);
        border.extend_from_slice(&bytes[..bytes.len().min(Self::OVERLAP)]);
        for part in [&border, bytes] {
            self.saves_data |= memmem::find(part, DATA_LAYOUT.as_bytes()).is_some();
            let mut names = memmem::find_iter(part, Self::NAME);
            self.version = self.version.take().or_else(|| names.find_map(|at| version(&part[at + Self::NAME.len()..])));
        }
        let end = if bytes.len() >= Self::OVERLAP { bytes } else { &border };
        self.rest = end[end.len().saturating_sub(Self::OVERLAP)..].to_vec();
    }
}

/// The version at the start of `bytes`. A blank ends it; in agents before 0.2 other text may follow at once, so only its three
/// numbers count.
fn version(bytes: &[u8]) -> Option<String> {
    let parsed = |end: usize| semver::Version::parse(std::str::from_utf8(&bytes[..end]).ok()?).ok();
    let end = bytes.iter().take(Agent::OVERLAP).position(|b| *b == b' ').filter(|end| bytes[*end..].starts_with(b" ("));
    let numbers = || bytes.iter().position(|b| !b.is_ascii_digit() && *b != b'.');
    end.and_then(parsed).or_else(|| parsed(numbers()?)).map(|version| version.to_string())
}

/// Looks for `/init`, the program that the kernel starts. A later entry of that name replaces an earlier one.
#[derive(Debug, Default)]
struct Init {
    mode: Option<u64>,
    agent: Agent,
}

impl Init {
    /// A symbolic link passes without a look at its target.
    fn check(&self) -> Result<(), &'static str> {
        match self.mode {
            None => Err("has no /init"),
            Some(mode) if mode & TYPE_MASK == SYMLINK => Ok(()),
            Some(mode) if mode & TYPE_MASK != REGULAR => Err("has an /init that is no file"),
            Some(mode) if mode & EXECUTE == 0 => Err("has an /init that is not executable"),
            Some(_) => Ok(()),
        }
    }
}

impl Sink for Init {
    fn entry(&mut self, header: &mut [u8; HEADER_BYTES], mut name: &[u8], _len: u64) -> io::Result<()> {
        // cpio keeps the names that it is given: init, ./init, /init.
        while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
            name = rest;
        }
        if name == b"init" {
            self.mode = field(header, MODE);
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.agent.look(bytes);
        Ok(())
    }
}

/// Takes an initramfs in pieces, in its order.
pub(crate) trait Sink {
    /// A gzip member begins. Everything before the first one is the early archive.
    fn member(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// An entry of an archive begins, of `len` bytes with header and padding. `bytes` follows with the header as it is
    /// left here.
    fn entry(&mut self, _header: &mut [u8; HEADER_BYTES], _name: &[u8], _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// Bytes of an entry, or zeros between archives.
    fn bytes(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for () {}

/// Reads an initramfs to its end, or to its first part in another compression than gzip. `limit` is the largest unpacked
/// size accepted, in bytes. `sink` takes the unpacked bytes.
pub(crate) fn unpack(raw: impl BufRead, limit: u64, sink: &mut impl Sink) -> io::Result<Unpacked> {
    let mut raw = Counted { inner: raw, read: 0, limit: u64::MAX };
    let mut found = Unpacked { bytes: 0, gzip_members: 0, opaque: None };
    loop {
        let before = raw.read;
        let next = archives(&mut raw, sink)?;
        found.bytes += raw.read - before;
        match next {
            None => return Ok(found),
            Some(0x1f) => {}
            Some(_) => {
                found.opaque = Some(opaque(&mut raw)?);
                return Ok(found);
            }
        }
        let at = raw.read;
        sink.member()?;
        let decoder = GzDecoder::new(&mut raw);
        let mut member = Counted {
            inner: BufReader::with_capacity(BUFFER_BYTES, decoder),
            read: 0,
            limit: limit.saturating_sub(found.bytes),
        };
        let rest = archives(&mut member, sink).map_err(|e| in_member(&e, at))?;
        if rest.is_some() {
            return Err(in_member(&bad("other bytes follow the last archive"), at));
        }
        found.bytes += member.read;
        found.gzip_members += 1;
    }
}

fn in_member(e: &io::Error, at: u64) -> io::Error {
    let what = if e.kind() == io::ErrorKind::UnexpectedEof { "it ends too early".to_owned() } else { e.to_string() };
    bad(&format!("in the gzip member at byte {at}: {what}"))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The compression of the next part by its first two bytes, as the kernel distinguishes them (`lib/decompress.c`).
fn opaque(raw: &mut Counted<impl BufRead>) -> io::Result<Opaque> {
    let at = raw.read;
    let mut magic = [0; 2];
    let known = raw.read_exact(&mut magic);
    let compression = match magic {
        [0x42, 0x5a] => "bzip2",
        [0x5d, 0x00] => "lzma",
        [0xfd, 0x37] => "xz",
        [0x89, 0x4c] => "lzo",
        [0x02, 0x21] => "lz4",
        [0x28, 0xb5] => "zstd",
        _ => return Err(bad(&format!("neither an archive nor a compression that Linux knows at byte {at}"))),
    };
    known.map(|()| Opaque { compression, at })
}

/// Reads archives and the zeros between them. Returns the first byte that is neither, unread, or `None` at the end.
fn archives<R: BufRead>(input: &mut Counted<R>, sink: &mut impl Sink) -> io::Result<Option<u8>> {
    loop {
        match input.peek()? {
            None => return Ok(None),
            Some(0) => input.zeros(sink)?,
            Some(b'0') if input.read.is_multiple_of(4) => archive(input, sink)?,
            Some(b'0') => return Err(bad(&format!("the archive at byte {} is not aligned to 4 bytes", input.read))),
            Some(other) => return Ok(Some(other)),
        }
    }
}

/// Reads one archive to the end of its trailer.
fn archive<R: BufRead>(input: &mut Counted<R>, sink: &mut impl Sink) -> io::Result<()> {
    loop {
        let at = input.read;
        let fail = |why: &str| bad(&format!("archive entry at byte {at}: {why}"));
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header)?;
        let with_sum = match &header[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err(fail("not a newc header")),
        };
        let (size, name_size) = (field(&header, 6), field(&header, 11));
        let (Some(size), Some(name_size), Some(sum)) = (size, name_size, field(&header, 12)) else {
            return Err(fail("a number in the header is not hexadecimal"));
        };
        if !(1..=NAME_BYTES).contains(&name_size) {
            return Err(fail("the name is empty or too long"));
        }
        let mut name = vec![0; usize::try_from(name_size).map_err(|_| fail("the name is too long"))?];
        input.read_exact(&mut name)?;
        if name.pop() != Some(0) {
            return Err(fail("the name does not end"));
        }
        let start = (HEADER_BYTES as u64 + name_size).next_multiple_of(4);
        sink.entry(&mut header, &name, start + size.next_multiple_of(4))?;
        sink.bytes(&header)?;
        sink.bytes(&name)?;
        sink.bytes(&[0])?;
        input.pad(at, sink)?;
        if name == b"TRAILER!!!" {
            return if size == 0 { Ok(()) } else { Err(fail("the trailer has content")) };
        }
        let found = input.pass(size, sink)?;
        if with_sum && u64::from(found) != sum {
            return Err(fail("the checksum does not match"));
        }
        input.pad(at, sink)?;
    }
}

/// The `index`th of the 13 numbers of a header: eight hexadecimal digits each, after the magic.
pub(crate) fn field(header: &[u8; HEADER_BYTES], index: usize) -> Option<u64> {
    let digits = header.get(6 + 8 * index..14 + 8 * index)?;
    // from_str_radix would also take a sign
    digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A reader that knows its place, and stops at a limit.
struct Counted<R> {
    inner: R,
    read: u64,
    limit: u64,
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read > self.limit {
            return Err(bad("it unpacks to more than a device can store"));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.read += amount as u64;
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> Counted<R> {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.fill_buf()?.first().copied())
    }

    fn zeros(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        loop {
            let buffer = self.fill_buf()?;
            let zeros = buffer.iter().take_while(|b| **b == 0).count();
            let more = zeros == buffer.len() && zeros > 0;
            sink.bytes(&buffer[..zeros])?;
            self.consume(zeros);
            if !more {
                return Ok(());
            }
        }
    }

    /// Passes content on and returns the sum of its bytes, as the `070702` format has it.
    fn pass(&mut self, mut size: u64, sink: &mut impl Sink) -> io::Result<u32> {
        let mut sum = 0u32;
        while size > 0 {
            let buffer = self.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let take = buffer.len().min(usize::try_from(size).unwrap_or(usize::MAX));
            sum = buffer[..take].iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            sink.bytes(&buffer[..take])?;
            self.consume(take);
            size -= take as u64;
        }
        Ok(sum)
    }

    /// Passes on to the next multiple of four, counted from the start of the entry, which is itself aligned.
    fn pad(&mut self, start: u64, sink: &mut impl Sink) -> io::Result<()> {
        self.pass((4 - (self.read - start) % 4) % 4, sink).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn entry(magic: &str, name: &str, content: &[u8], sum: u32) -> Vec<u8> {
        let mut out = format!(
            "{magic}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{sum:08x}{name}\0",
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1
        )
        .into_bytes();
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
        [entry("070701", name, content, 0), entry("070701", "TRAILER!!!", b"", 0)].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Unpacked, String> {
        unpack(bytes, 1 << 20, &mut ()).map_err(|e| e.to_string())
    }

    fn check(bytes: &[u8]) -> Result<u64, String> {
        read(bytes).map(|unpacked| unpacked.bytes)
    }

    #[test]
    fn a_gzip_archive_has_the_size_that_zcat_has() {
        let plain = [archive_of("init", b"#!/bin/sh\n"), vec![0; 300]].concat();
        assert_eq!(check(&gzip(&plain)), Ok(plain.len() as u64));
    }

    #[test]
    fn an_early_archive_and_several_members_count_together() {
        let early = [archive_of("kernel/x86/microcode/GenuineIntel.bin", &[7; 1000]), vec![0; 512]].concat();
        let main = archive_of("init", &[1; 3]);
        let file = [early.clone(), gzip(&main), vec![0; 8], gzip(&main)].concat();
        assert_eq!(check(&file), Ok((early.len() + 8 + 2 * main.len()) as u64));
    }

    #[test]
    fn cut_anywhere_it_is_refused() {
        let file = gzip(&[archive_of("init", &[1; 3000]), archive_of("second", &[2; 100])].concat());
        for end in 1..file.len() {
            assert!(check(&file[..end]).is_err(), "the first {end} of {} bytes were accepted", file.len());
        }
    }

    #[test]
    fn an_archive_without_trailer_is_refused() {
        assert!(check(&gzip(&entry("070701", "init", b"x", 0))).is_err());
    }

    #[test]
    fn a_changed_byte_is_refused() {
        // Not one byte over and over: in a run, some changed bits mean the same.
        let content: Vec<u8> = (0..3000u32).map(|n| ((n * n) >> 7) as u8).collect();
        let file = gzip(&archive_of("init", &content));
        for at in [30, file.len() / 2, file.len() - 6] {
            let mut changed = file.clone();
            changed[at] ^= 0x40;
            assert!(check(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_archive_across_two_members_is_refused() {
        let archive = archive_of("init", &[1; 300]);
        let (first, second) = archive.split_at(200);
        assert!(check(&[gzip(first), gzip(second)].concat()).is_err());
    }

    #[test]
    fn the_checksum_format_is_checked() {
        let with_sum =
            |sum| gzip(&[entry("070702", "init", &[1, 2, 255], sum), entry("070702", "TRAILER!!!", b"", 0)].concat());
        assert!(check(&with_sum(258)).is_ok());
        assert!(check(&with_sum(257)).unwrap_err().contains("checksum"));
    }

    #[test]
    fn another_compression_is_named_and_not_refused() {
        let early = archive_of("kernel/x86/microcode/GenuineIntel.bin", &[7; 1000]);
        for (magic, name) in [
            (&b"BZh9"[..], "bzip2"),
            (&[0x5d, 0, 0], "lzma"),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
            (&[0x89, b'L'], "lzo"),
            (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
            (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        ] {
            let opaque = |bytes: &[u8]| read(bytes).unwrap().opaque.unwrap().to_string();
            assert_eq!(opaque(magic), format!("{name} from byte 0 on"));
            assert_eq!(opaque(&[&early, magic].concat()), format!("{name} from byte {} on", early.len()));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [&b"junk"[..], &[0x28], &[0xfd, 0], &[0x5d, 1]] {
            assert!(check(bytes).unwrap_err().contains("byte 0"), "{bytes:?}");
        }
        assert!(check(&[gzip(&archive_of("init", b"x")), b"junk".to_vec()].concat()).is_err());
        assert!(check(&gzip(&[archive_of("init", b"x"), b"junk".to_vec()].concat())).is_err());
    }

    #[test]
    fn the_init_of_any_archive_counts_and_the_last_one_wins() {
        let of = |name: &str, mode: u32| {
            let mut archive = archive_of(name, b"x");
            archive[14..22].copy_from_slice(format!("{mode:08x}").as_bytes());
            archive
        };
        let init = |parts: &[Vec<u8>]| {
            let mut init = Init::default();
            unpack(&parts.concat()[..], 1 << 20, &mut init).unwrap();
            init.check()
        };
        let (other, good) = (gzip(&of("sbin/init", 0o100_755)), of("init", 0o100_755));
        assert_eq!(init(std::slice::from_ref(&other)), Err("has no /init"));
        assert_eq!(init(&[]), Err("has no /init"));
        for parts in [
            vec![good.clone()],
            vec![gzip(&good), other.clone()],
            vec![good.clone(), other.clone()],
            vec![other.clone(), gzip(&of("./init", 0o120_777))],
            vec![gzip(&of("/init", 0o100_100))],
        ] {
            assert_eq!(init(&parts), Ok(()));
        }
        assert_eq!(init(&[gzip(&of("init", 0o100_644))]), Err("has an /init that is not executable"));
        assert_eq!(init(&[good, gzip(&of("init", 0o040_755))]), Err("has an /init that is no file"));
    }

    #[test]
    fn an_agent_is_found_wherever_it_is() {
        let found = |parts: &[Vec<u8>]| {
            let mut init = Init::default();
            unpack(&parts.concat()[..], 1 << 20, &mut init).unwrap();
            let Contents { data_layout, agent, .. } = init.agent.contents(None);
            (data_layout, agent)
        };
        let both = [DATA_LAYOUT.as_bytes(), b"kubesolo-update/stage kubesolo-update/10.2.33GET"].concat();
        let program = |at: usize| [&vec![7; at][..], &both, &[7; 9]].concat();
        let expected = (Some(1), Some("10.2.33".to_owned()));
        // Also where it lies on both sides of a border between two reads.
        for at in (0..200_000).step_by(40_009).chain(BUFFER_BYTES - 300..BUFFER_BYTES) {
            assert_eq!(found(&[gzip(&archive_of("usr/bin/agent", &program(at)))]), expected, "{at}");
        }
        let named = |text: &[u8]| found(&[gzip(&archive_of("usr/bin/agent", text))]).1;
        assert_eq!(named(b"kubesolo-update/1.2.3-rc.4 (linux)5").as_deref(), Some("1.2.3-rc.4"));
        assert_eq!(named(b"kubesolo-update/1.2.3 (linux)5").as_deref(), Some("1.2.3"));
        assert_eq!(named(b"kubesolo-update/1.2.3and more (linux)").as_deref(), Some("1.2.3"));
        assert_eq!(found(&[gzip(&archive_of("usr/bin/agent", &DATA_LAYOUT.as_bytes()[1..]))]), (None, None));
        for text in [DATA_LAYOUT, "kubesolo-update/10.2.33GET"] {
            let (one, other) = text.as_bytes().split_at(9);
            assert_eq!(found(&[gzip(&archive_of("one", one)), gzip(&archive_of("other", other))]), (None, None));
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = gzip(&archive_of("init", &vec![0; 2 << 20]));
        assert!(bomb.len() < 1 << 20);
        assert!(check(&bomb).unwrap_err().contains("more than a device can store"));
        let zeros = gzip(&[archive_of("init", b"x"), vec![0; 2 << 20]].concat());
        assert!(check(&zeros).unwrap_err().contains("more than a device can store"));
    }
}
