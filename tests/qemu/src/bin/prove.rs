//! The proof of power cuts, with its figures.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use qemu_tests::Result;
use qemu_tests::machine::Firmware;
use qemu_tests::prove::cuts::{self, Cuts};
use qemu_tests::prove::cycle::Cycle;
use qemu_tests::prove::{self, Effort, years};

/// Prove that no power cut leaves a device that does not boot a published release
///
/// A cut that fails is kept in target/prove/NAME/.
#[derive(Parser)]
#[command(name = "prove")]
struct Cli {
    /// Devices on arm64 with U-Boot
    #[arg(long)]
    u_boot: bool,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = Effort::FULL.seed)]
    seed: u64,
    /// Number of ways in which each cut loses some writes
    #[arg(long, value_name = "N", default_value_t = Effort::FULL.variants)]
    variants: usize,
    /// Number of disks that the real tools read
    #[arg(long, value_name = "N", default_value_t = Effort::FULL.sample)]
    sample: usize,
    /// Number of disks that a device boots from
    #[arg(long, value_name = "N", default_value_t = Effort::FULL.boots)]
    boots: usize,
    /// Number of power cuts of a running device
    #[arg(long, value_name = "N", default_value_t = 50)]
    cuts: usize,
    /// Run so many update cycles of one device instead, which stays in target/soak-device: the next call continues
    #[arg(long, value_name = "N")]
    live: Option<u64>,
    /// The parts to run [default: all]
    #[arg(value_name = "PART", value_parser = PossibleValuesParser::new(parts()))]
    parts: Vec<String>,
}

/// The parts beside the cycles.
const DATA: &str = "data";
const POWER_CUTS: &str = "power-cuts";

fn parts() -> impl Iterator<Item = &'static str> {
    Cycle::ALL.into_iter().map(Cycle::as_str).chain([DATA, POWER_CUTS])
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (effort, firmware) = (cli.effort(), if cli.u_boot { Firmware::UBoot } else { Firmware::Uefi });
    let mut failed = false;
    let begin = Instant::now();
    if let Some(cycles) = cli.live {
        let ended = prove::lasting("soak-device", firmware).and_then(|run| years::live(&run, cli.seed, cycles));
        let failed = ended.inspect_err(|error| println!("FAIL  {error}")).is_err();
        println!("{cycles} cycles, {} s", begin.elapsed().as_secs());
        return ExitCode::from(u8::from(failed));
    }
    for cycle in Cycle::ALL.into_iter().filter(|cycle| cli.wants(cycle.as_str())) {
        if let Err(error) = one_cycle(cycle, effort, firmware) {
            println!("FAIL  {}: {error}", cycle.as_str());
            failed = true;
        }
    }
    // The bootloader has no part in it: once is enough.
    if cli.wants(DATA)
        && !cli.u_boot
        && let Err(error) = data_of_one_system(effort)
    {
        println!("FAIL  {DATA}: {error}");
        failed = true;
    }
    if cli.wants(POWER_CUTS)
        && let Err(error) = power_cuts(effort.seed, cli.cuts, firmware)
    {
        println!("FAIL  {POWER_CUTS}: {error}");
        failed = true;
    }
    println!("{} s", begin.elapsed().as_secs());
    ExitCode::from(u8::from(failed))
}

impl Cli {
    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }

    fn effort(&self) -> Effort {
        Effort { seed: self.seed, variants: self.variants, sample: self.sample, boots: self.boots }
    }
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
        "      {} kinds; sampled: the bootloader's tools read {tools} alike, the agent goes on from {agent}, {} of \
         them in the middle of a download; {boots} booted",
        report.kinds, report.resumed
    );
    println!("      with a disk that takes no notice of flushes, cut {} fails, as it must", report.found_out);
    if let Some(why) = report.skipped {
        println!("      SKIPPED: the agent on the disks: {why}");
    }
    Ok(())
}

fn data_of_one_system(effort: Effort) -> Result<()> {
    let report = prove::data::prove(&prove::run(DATA, Firmware::Bios)?, effort)?;
    let ([requests, flushes], [old, trial]) = (report.requests, report.ended);
    println!(
        "ok    {DATA}: {requests} requests, {flushes} flushes; after {old} cuts the old system starts on its own data, after \
         {trial} the trial with a checkpoint of them, seed {}",
        effort.seed
    );
    println!("      with a disk that takes no notice of flushes, cut {} fails, as it must", report.found_out);
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
