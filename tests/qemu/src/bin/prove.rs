//! The proof of power cuts, with its figures.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use qemu_tests::Result;
use qemu_tests::machine::Firmware;
use qemu_tests::prove::cuts::{self, Cuts};
use qemu_tests::prove::cycle::Cycle;
use qemu_tests::prove::{self, Effort};

const USAGE: &str = "\
Usage: prove [--u-boot] [--seed N] [--variants N] [--sample N] [--boots N] [--cuts N] [commit|revert|counter|power-cuts]...
  Without a name: all. A cut that fails is kept in target/prove/NAME/.
";

struct Asked {
    effort: Effort,
    cuts: usize,
    names: Vec<String>,
    firmware: Firmware,
}

fn main() -> ExitCode {
    let asked = match asked(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            eprint!("prove: {error}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut failed = false;
    let begin = Instant::now();
    for cycle in Cycle::ALL.into_iter().filter(|cycle| asked.wants(cycle.as_str())) {
        if let Err(error) = one_cycle(cycle, asked.effort, asked.firmware) {
            println!("FAIL  {}: {error}", cycle.as_str());
            failed = true;
        }
    }
    if asked.wants("power-cuts")
        && let Err(error) = power_cuts(asked.effort.seed, asked.cuts, asked.firmware)
    {
        println!("FAIL  power-cuts: {error}");
        failed = true;
    }
    println!("{} s", begin.elapsed().as_secs());
    ExitCode::from(u8::from(failed))
}

impl Asked {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }
}

fn asked(mut args: impl Iterator<Item = String>) -> std::result::Result<Asked, String> {
    let mut asked = Asked { effort: Effort::FULL, cuts: 50, names: vec![], firmware: Firmware::Uefi };
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<usize>().ok()).ok_or(format!("{arg} needs a number"));
        match arg.as_str() {
            "--u-boot" => asked.firmware = Firmware::UBoot,
            "--seed" => asked.effort.seed = number()? as u64,
            "--variants" => asked.effort.variants = number()?,
            "--sample" => asked.effort.sample = number()?,
            "--boots" => asked.effort.boots = number()?,
            "--cuts" => asked.cuts = number()?,
            name if Cycle::ALL.iter().any(|cycle| cycle.as_str() == name) || name == "power-cuts" => {
                asked.names.push(arg);
            }
            _ => return Err(format!("unknown: {arg}")),
        }
    }
    Ok(asked)
}

fn one_cycle(cycle: Cycle, effort: Effort, firmware: Firmware) -> Result<()> {
    let report =
        prove::prove(&prove::run(&format!("{}-{}", cycle.as_str(), firmware.as_str()), firmware)?, cycle, effort)?;
    let [whole, torn, some] = report.cuts;
    println!(
        "ok    {}: {} requests, {} flushes; {} cuts ({whole} between requests, {torn} torn, {some} partly lost), seed {}: \
         each boots a published release",
        cycle.as_str(),
        report.requests,
        report.flushes,
        whole + torn + some,
        effort.seed
    );
    for (decision, count) in &report.decisions {
        println!("      {count:>6}  {decision}");
    }
    let [tools, agent, boots] = report.sampled;
    println!(
        "      {} kinds; sampled: the bootloader's tools read {tools} alike, the agent goes on from {agent}, {boots} booted",
        report.kinds
    );
    println!("      with a disk that takes no notice of flushes, cut {} fails, as it must", report.found_out);
    if let Some(why) = report.skipped {
        println!("      SKIPPED: the agent on the disks: {why}");
    }
    Ok(())
}

/// Two devices beside each other.
fn power_cuts(seed: u64, cuts: usize, firmware: Firmware) -> Result<()> {
    let seen = thread::scope(|scope| {
        let devices: Vec<_> = [1, 2]
            .map(|number| {
                scope.spawn(move || {
                    let run = prove::run(&format!("power-cuts-{}-{number}", firmware.as_str()), firmware)?;
                    cuts::cut(&run, seed * 2 + number, cuts.div_ceil(2))
                })
            })
            .into_iter()
            .collect();
        devices
            .into_iter()
            .map(|device| device.join().map_err(|_| "a device panicked")?)
            .try_fold(Cuts::default(), |sum, seen| Ok::<_, qemu_tests::Error>(sum.and(seen?)))
    })?;
    println!(
        "ok    power-cuts: {} cuts at random moments of {} updates, seed {seed}: {} boots, all healthy",
        seen.cuts, seen.updates, seen.healthy
    );
    for (reason, count) in &seen.decisions {
        println!("      {count:>6}  {reason}");
    }
    Ok(())
}
