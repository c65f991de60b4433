//! Runs scenarios of virtual devices.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, value_parser};
use qemu_tests::Architecture;
use qemu_tests::machine::Firmware;
use qemu_tests::runner::{Scenario, run_all};
use qemu_tests::scenarios::{ALL, demo};

/// Run scenarios of virtual devices; without a name, list them
///
/// Each scenario leaves its serial log in target/qemu/NAME/.
#[derive(Parser)]
#[command(name = "qemu-tests")]
struct Cli {
    /// Start the devices with this firmware instead of the scenario's own
    #[arg(long)]
    firmware: Option<Firmware>,
    /// Number of devices that run at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// A scenario; or demo (the main story, on the terminal), quick (for `make test`), all (of amd64), arm64 (all of it)
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    names: Vec<String>,
}

const DEMO: Scenario = Scenario {
    name: "demo",
    about: "the main story, on the terminal",
    firmware: Firmware::Uefi,
    only: None,
    quick: false,
    wide: false,
    body: demo::show,
};

/// The meaning of a name on the command line.
fn names() -> impl Iterator<Item = &'static str> {
    ["demo", "quick", "all", "arm64"].into_iter().chain(ALL.iter().map(|scenario| scenario.name))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.names.is_empty() {
        for scenario in ALL {
            let quick = if scenario.quick { "quick" } else { "" };
            println!("  {:<22} {:<10} {:<5} {}", scenario.name, scenario.firmware.as_str(), quick, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    let (scenarios, jobs) = match cli.names == ["demo"] {
        true => (vec![&DEMO], 1),
        false => (ALL.iter().filter(|scenario| cli.wants(scenario)).collect(), cli.jobs),
    };
    match run_all(&scenarios, cli.firmware, jobs.into()) {
        Ok(failed) => {
            println!("{} passed, {failed} failed", scenarios.len() - failed);
            ExitCode::from(u8::from(failed > 0))
        }
        Err(error) => {
            eprintln!("qemu-tests: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn wants(&self, scenario: &Scenario) -> bool {
        let named = |name: &str| self.names.iter().any(|n| n == name);
        let arm64 = scenario.firmware.architecture() == Architecture::Arm64;
        named(scenario.name) || (scenario.quick && named("quick")) || named(if arm64 { "arm64" } else { "all" })
    }
}
