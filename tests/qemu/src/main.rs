//! Runs scenarios of virtual devices.

use std::process::ExitCode;

use qemu_tests::Architecture;
use qemu_tests::machine::Firmware;
use qemu_tests::runner::{Scenario, run_all};
use qemu_tests::scenarios::{ALL, demo};

const USAGE: &str = "\
Usage: qemu-tests [--firmware bios|uefi|u-boot|uefi-arm64] [--jobs N] NAME...
  NAME: a scenario, or `quick` (what `make test` runs), or `all` (of amd64), or `arm64` (all of it).
  Each leaves its serial log in target/qemu/NAME/.
  `demo` tells the main story on the terminal.
";

const DEMO: Scenario = Scenario {
    name: "demo",
    about: "the main story, told",
    firmware: Firmware::Uefi,
    only: None,
    quick: false,
    wide: false,
    body: demo::tell,
};

fn main() -> ExitCode {
    match asked(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{USAGE}");
            for scenario in ALL {
                let quick = if scenario.quick { "quick" } else { "" };
                println!("  {:<22} {:<5} {:<5} {}", scenario.name, scenario.firmware.as_str(), quick, scenario.about);
            }
            ExitCode::SUCCESS
        }
        Ok(Some((scenarios, firmware, jobs))) => match run_all(&scenarios, firmware, jobs) {
            Ok(failed) => {
                println!("{} passed, {failed} failed", scenarios.len() - failed);
                ExitCode::from(u8::from(failed > 0))
            }
            Err(error) => {
                eprintln!("qemu-tests: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprint!("qemu-tests: {error}\n{USAGE}");
            ExitCode::from(64)
        }
    }
}

type Asked = (Vec<&'static Scenario>, Option<Firmware>, usize);

fn asked(mut args: impl Iterator<Item = String>) -> Result<Option<Asked>, String> {
    let (mut names, mut firmware, mut jobs) = (vec![], None, 2);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--firmware" => {
                firmware = match args.next().as_deref() {
                    Some("bios") => Some(Firmware::Bios),
                    Some("uefi") => Some(Firmware::Uefi),
                    Some("u-boot") => Some(Firmware::UBoot),
                    Some("uefi-arm64") => Some(Firmware::UefiArm64),
                    _ => return Err("--firmware needs bios, uefi, u-boot or uefi-arm64".to_owned()),
                };
            }
            "--jobs" => {
                let number = args.next().and_then(|n| n.parse().ok()).filter(|n| (1..=64).contains(n));
                jobs = number.ok_or("--jobs needs a number from 1 to 64")?;
            }
            option if option.starts_with('-') => return Err(format!("unknown option: {option}")),
            _ => names.push(arg),
        }
    }
    if names.is_empty() {
        return Ok(None);
    }
    if names == ["demo"] {
        return Ok(Some((vec![&DEMO], firmware, 1)));
    }
    if let Some(unknown) =
        names.iter().find(|n| !["all", "quick", "arm64"].contains(&n.as_str()) && ALL.iter().all(|s| s.name != **n))
    {
        return Err(format!("unknown scenario: {unknown}"));
    }
    let named = |name: &str| names.iter().any(|n| n == name);
    let wanted = |s: &&Scenario| {
        let arm64 = s.firmware.architecture() == Architecture::Arm64;
        named(s.name) || (named("all") && !arm64) || (s.quick && named("quick")) || (arm64 && named("arm64"))
    };
    Ok(Some((ALL.iter().filter(wanted).collect(), firmware, jobs)))
}
