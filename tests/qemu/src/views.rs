//! Hundreds of environments, read by U-Boot itself, by its tools, by this project and by libubootenv, and written by U-Boot
//! in turn.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use bootenv::uboot::{Environment, Format};

use crate::cells::Seeded;
use crate::image::{Content, Plan, Size};
use crate::machine::{Device, Machine};
use crate::prove::log::SECTOR;
use crate::runner::Run;
use crate::{Result, built, tool};

const COUNT: usize = 240;
const SIZES: [usize; 4] = [0x200, 0x600, 0x1000, 0x4000];
/// Blocks of an environment on the disk: what is read, and behind it what U-Boot writes.
const BLOCKS: usize = 64;
const NAMES: [&str; 6] = ["t_a", "t_b", "t_long_name", "t_9", "t_z", "t_none"];
/// Where U-Boot works: the copy as it lies on the disk, and as `env import -c` reads it.
const RAW: usize = 0x4200_0000;
const PLAIN: usize = 0x4210_0000;

/// One environment.
struct Case {
    format: Format,
    bytes: Vec<u8>,
    /// Nothing in it that the tools of others read in another way.
    plain: bool,
    damaged: bool,
}

fn case(number: usize, random: &mut Seeded) -> Case {
    let size = SIZES[random.below(SIZES.len())];
    let format = if random.below(2) == 0 { Format::Single } else { Format::Redundant };
    let plain = random.below(3) > 0;
    let mut bytes = copy(size, format, &entries(plain, random), random);
    let whole = bytes.clone();
    if number % 8 == 7 {
        let at = format.header() + random.below(size - format.header());
        bytes[at] ^= 1 << random.below(8);
    } else if number % 8 == 3 && size > SECTOR {
        // A store that was cut off: sectors of one environment, then those of the one before.
        let before = [vec![format!("x_before={}", "b".repeat(size / 2))], entries(plain, random)].concat();
        let before = copy(size, format, &before, random);
        let at = SECTOR * (1 + random.below(size / SECTOR - 1));
        bytes[at..].copy_from_slice(&before[at..]);
    }
    Case { format, plain, damaged: bytes != whole, bytes }
}

fn entries(plain: bool, random: &mut Seeded) -> Vec<String> {
    let alphabet: Vec<char> = if plain { "abcXYZ019 .=#-_/:" } else { "ab \\=#\"'$;{}&|é" }.chars().collect();
    let mut entries = vec![];
    for name in NAMES.iter().take(NAMES.len() - 1) {
        if random.below(4) > 0 {
            let middle: String = (0..random.below(20)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            entries.push(format!("{name}=x{middle}y"));
        }
    }
    if !plain && random.below(2) == 0 {
        entries.push("t_a=second".to_owned());
        entries.push("t_b=".to_owned());
        entries.push("  t_9=blanks before".to_owned());
        entries.push("# t_z=comment".to_owned());
    }
    entries
}

/// The bytes of a copy, padded as `mkenvimage` or as U-Boot pads it.
fn copy(size: usize, format: Format, entries: &[String], random: &mut Seeded) -> Vec<u8> {
    let mut bytes = vec![0; format.header()];
    entries.iter().for_each(|entry| bytes.extend([entry.as_bytes(), b"\0"].concat()));
    bytes.resize(bytes.len().max(format.header() + 1) + 1, 0);
    bytes.resize(size, if random.below(2) == 0 { 0 } else { 0xff });
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[format.header()..]);
    bytes[..4].copy_from_slice(&checksum.sum().to_le_bytes());
    if format == Format::Redundant {
        bytes[4] = random.below(256) as u8;
    }
    bytes
}

/// The part of the script for one environment at this block.
fn script(number: usize, case: &Case, block: usize) -> String {
    let (size, names) = (case.bytes.len(), NAMES.join(" "));
    let blocks = size.div_ceil(512);
    let flags = case.format.header() - 4;
    let (data, plain) = (size - case.format.header(), size - flags);
    let mut text = format!("echo \"== {number}\"\nmw.b {RAW:x} 0 4000\nmw.b {PLAIN:x} 0 4000\n");
    text.extend(NAMES.map(|name| format!("setenv {name}\n")));
    let _ = writeln!(text, "virtio read {RAW:x} {block:x} {blocks:x}\ncp.b {RAW:x} {PLAIN:x} 4");
    let _ = writeln!(text, "cp.b {:x} {:x} {data:x}", RAW + 4 + flags, PLAIN + 4);
    let _ = writeln!(text, "if env import -c {PLAIN:x} {plain:x} {names}; then echo \"== good\"");
    text.extend(NAMES.map(|name| format!("printenv {name}\n")));
    let _ = writeln!(text, "mw.b {RAW:x} 0 4000\nenv export -c -s {plain:x} {RAW:x} {names}");
    let _ = writeln!(text, "virtio write {RAW:x} {:x} {blocks:x}\nelse echo \"== bad\"; fi", block + BLOCKS / 2);
    text
}

/// U-Boot, its tools, this project and libubootenv have one view of every environment.
///
/// # Errors
/// The first that they read differently.
pub fn agree(run: &Run) -> Result<()> {
    let empty = run.write("empty", b"none\n")?;
    let mut plan = Plan::new(Content::new(&empty, &empty));
    plan.firmware = run.firmware;
    plan.size = Size { esp: 34, slot: 2, data: 12 };
    let disk = plan.build(&run.file("disk.img"))?;
    let mut random = Seeded::new(7);
    let cases = (0..COUNT).map(|number| case(number, &mut random)).collect::<Vec<_>>();
    let first = disk.slot(bootenv::SlotId::B).0 as usize / 512 + 4096;
    let mut text = "virtio dev 0\n".to_owned();
    let file = File::options().read(true).write(true).open(&disk.path)?;
    for (number, case) in cases.iter().enumerate() {
        let block = first + number * BLOCKS;
        file.write_all_at(&case.bytes, block as u64 * 512)?;
        text += &script(number, case, block);
    }
    text += "echo \"== end\"\npoweroff\n";
    let source = run.write("views.cmd", text.as_bytes())?;
    let made = run.file("views.scr");
    crate::run(
        Command::new(tool("mkimage")?)
            .args(["-A", "arm64", "-T", "script", "-C", "none", "-d"])
            .arg(&source)
            .arg(&made),
    )?;
    disk.put_esp_file("boot.scr", &fs::read(&made)?)?;

    let mut machine = Machine::power_on(&Device::new(run.firmware, &disk.path), &run.dir)?;
    machine.wait_for("== 0")?;
    machine.wait_for("== end")?;
    machine.power_cut()?;
    let log = fs::read_to_string(run.file("serial.log")).unwrap_or_else(|_| {
        String::from_utf8_lossy(&fs::read(run.file("serial.log")).unwrap_or_default()).into_owned()
    });
    let said = crate::machine::plain(&log);
    let said: Vec<&str> = said.split("\n== ").collect();
    for (number, case) in cases.iter().enumerate() {
        let at = said.iter().position(|part| part.lines().next() == Some(&number.to_string()));
        let verdict = at.and_then(|at| said.get(at + 1)).ok_or_else(|| format!("environment {number} was not read"))?;
        let block = (first + number * BLOCKS) as u64 * 512;
        compare(run, case, verdict, &file, block).map_err(|why| format!("environment {number}: {why}"))?;
    }
    println!("      {COUNT} environments are read alike by U-Boot, by its tools, by us, and by libubootenv");
    Ok(())
}

fn compare(run: &Run, case: &Case, verdict: &str, disk: &File, block: u64) -> Result<()> {
    let ours = Environment::parse(&case.bytes, case.format).ok().map(|(environment, _)| environment);
    let good = verdict.starts_with("good");
    if good != ours.is_some() || good == case.damaged {
        return Err(format!("U-Boot takes it: {good}, we take it: {}", ours.is_some()).into());
    }
    let Some(ours) = ours else { return Ok(()) };
    let theirs = |name: &str| {
        let line = verdict.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(str::to_owned)
    };
    let mut written = vec![0; case.bytes.len()];
    disk.read_exact_at(&mut written, block + (BLOCKS / 2 * 512) as u64)?;
    let plain = case.bytes.len() - (case.format.header() - 4);
    let (written, _) =
        Environment::parse(&written[..plain], Format::Single).map_err(|e| format!("what U-Boot wrote: {e}"))?;
    let printed = if case.plain { printed(run, case)? } else { vec![] };
    for name in NAMES {
        let value = ours.get(name);
        if theirs(name) != value || written.get(name) != value {
            return Err(format!(
                "{name}: U-Boot has {:?}, wrote {:?}, we read {value:?}",
                theirs(name),
                written.get(name)
            )
            .into());
        }
        for (tool, printed) in &printed {
            let seen = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
            if seen != value {
                return Err(format!("{name}: {} has {seen:?}, we read {value:?}", tool.display()).into());
            }
        }
    }
    Ok(())
}

/// The output of `fw_printenv`, of libubootenv and of U-Boot.
fn printed(run: &Run, case: &Case) -> Result<Vec<(PathBuf, String)>> {
    let image = run.write("one.env", &case.bytes)?;
    let line = |path: &str| format!("{path} 0x0 {:#x}\n", case.bytes.len());
    let mut config = line(&image.display().to_string());
    if case.format == Format::Redundant {
        let other = run.write("other.env", &vec![0; case.bytes.len()])?;
        config += &line(&other.display().to_string());
    }
    let config = run.write("fw_env.config", config.as_bytes())?;
    let tools = [tool("fw_printenv")?, built("target/tools/u-boot/fw_printenv", "build/scripts/setup.sh qemu-arm64")?];
    tools
        .into_iter()
        .map(|tool| {
            let text = String::from_utf8(crate::run(Command::new(&tool).arg("-c").arg(&config))?)?;
            Ok((tool, text))
        })
        .collect()
}
