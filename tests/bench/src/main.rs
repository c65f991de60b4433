//! The cost of an update: rounds in which every contestant installs the same release once, in random order, and what each
//! cost beside a floor program in the same round.

mod contestants;
mod delta;
mod large;
mod measure;
mod relay;
mod release;
mod report;
mod servers;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use contestants::{ALL, Contestant, Course, Server};
use qemu_tests::Result;
use qemu_tests::registry::Registry;
use relay::Relay;
use report::{Field, Row};

/// Sizes in MiB, with so many rounds that all of it takes about ten minutes.
const PLAN: [(u64, usize); 3] = [(64, 9), (256, 7), (1024, 3)];

/// How often an idle check is measured.
const IDLE_CHECKS: usize = 21;

/// Measure the cost of an update beside other tools, in about ten minutes
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Put the result into docs/performance.md
    #[arg(long)]
    docs: bool,
    /// Sizes of the initramfs, each with its number of rounds [default: 64:9,256:7,1024:3]
    #[arg(long, value_name = "MIB:ROUNDS", value_delimiter = ',', value_parser = size)]
    sizes: Vec<(u64, usize)>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the agent alone, with 5 GiB
    Large,
    /// Measure updates to similar releases, beside other tools that send differences
    Delta {
        /// Images of the size of a whole OS image
        #[arg(long)]
        full: bool,
        /// Put the result into docs/performance.md
        #[arg(long)]
        docs: bool,
    },
    /// Print the cost of one command as JSON (for the benchmark itself)
    Measure {
        /// File for the output of the command
        log: PathBuf,
        /// The command with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn size(text: &str) -> std::result::Result<(u64, usize), String> {
    let pair = text.split_once(':').and_then(|(size, rounds)| Some((size.parse().ok()?, rounds.parse().ok()?)));
    pair.ok_or_else(|| "write MIB:ROUNDS, for instance 64:9".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Measure { log, command }) => measure::here(command, log).and_then(|cost| {
            println!("{}", serde_json::to_string(&cost)?);
            Ok(())
        }),
        Some(Command::Large) => large::run(),
        Some(Command::Delta { full, docs }) => delta::run_all(if *full { "full" } else { "small" }, *docs),
        None if cli.sizes.is_empty() => bench(cli.docs, &PLAN),
        None => bench(cli.docs, &cli.sizes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn bench(docs: bool, plan: &[(u64, usize)]) -> Result<()> {
    let place = release::place();
    let (www, keys, run) = (place.join("www"), place.join("keys"), place.join("run"));
    fs::create_dir_all(&www)?;
    release::keys(&keys)?;
    let registry = Registry::start(&place.join("registry"))?;
    let web = servers::Nginx::start(&www, &place.join("nginx"))?;
    let relays = [Relay::open(registry.port)?, Relay::open(web.port)?];

    let (present, absent): (Vec<_>, Vec<_>) = ALL.into_iter().partition(|contestant| contestant.missing().is_none());
    let (mut fields, mut idle) = (vec![], vec![]);
    for &(mib, rounds) in plan {
        let release = release::make(&www, &keys, &registry.host(), mib)?;
        let course = Course { release: &release, ports: [registry.port, web.port] };
        let counted = Course { release: &release, ports: [relays[0].port, relays[1].port] };
        let mut rows = vec![];
        // Once unmeasured but for the bytes fetched: also to see that it works, and to fill the servers' caches.
        for &contestant in &present {
            println!("{mib} MiB: {}", contestant.name());
            contestant.package(&release, &keys, &run.join("slot"))?;
            relays.iter().for_each(|relay| _ = relay.take());
            go(contestant, &counted, &run)?;
            for (name, digest) in [("vmlinuz", 0), ("kubesolo-os.gz", 1)] {
                let file = run.join("slot").join(name);
                if contestant != Contestant::Mender && release::sha256(&file)? != release.digests[digest] {
                    return Err(format!("{} left another {name}", contestant.name()).into());
                }
            }
            let fetched = relays.iter().map(|relay| relay.take().0).sum();
            rows.push(Row { contestant, fetched, costs: vec![] });
        }
        for round in 1..=rounds {
            println!("{mib} MiB: round {round} of {rounds}");
            for at in shuffled(rows.len()) {
                let cost = go(rows[at].contestant, &course, &run)?;
                rows[at].costs.push(cost);
            }
        }
        if fields.is_empty() {
            for &agent in present.iter().filter(|one| matches!(one, Contestant::Agent(_) | Contestant::Before(_))) {
                idle.push(idle_check(agent, &course, &counted, &relays, &run)?);
            }
        }
        let _ = fs::remove_dir_all(&run);
        fields.push(Field { mib, bytes: release.bytes, rows });
        println!("\n{}", report::table(&fields[fields.len() - 1]));
    }
    let absent: Vec<_> = absent.into_iter().filter_map(|c| Some(format!("{}: {}", c.name(), c.missing()?))).collect();
    absent.iter().for_each(|absent| println!("not measured: {absent}"));
    idle.iter().for_each(|idle| println!("{idle}"));
    report::write(&fields, &idle, &absent, docs)
}

/// The cost of a check on a device that has the offer already: most of the cost that a device ever has.
fn idle_check(
    agent: Contestant,
    course: &Course,
    counted: &Course,
    relays: &[Relay; 2],
    run: &Path,
) -> Result<report::Idle> {
    go(agent, course, run)?;
    let log = run.with_extension("log");
    relays.iter().for_each(|relay| _ = relay.take());
    measure::below(&agent.idle_check(counted)?, &log)?;
    let said = fs::read_to_string(&log)?;
    // With a hyphen in version 0.1.
    if !said.contains("up to date") && !said.contains("up-to-date") {
        return Err(format!("a check of what runs already is not idle:\n{said}").into());
    }
    let (fetched, requests) = relays.iter().map(Relay::take).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let command = agent.idle_check(course)?;
    let costs = (0..IDLE_CHECKS).map(|_| measure::below(&command, &log)).collect::<Result<_>>()?;
    Ok(report::Idle { contestant: agent, fetched, requests, costs })
}

/// One run from a clean start.
fn go(contestant: Contestant, course: &Course, run: &Path) -> Result<measure::Cost> {
    clean(run)?;
    let log = run.with_extension("log");
    let cost = measure::below(&contestant.command(course)?, &log)?;
    if matches!(contestant, Contestant::Agent(_)) && cost.before_read_back.is_none() {
        return Err(format!("the agent did not say \"{}\": see {}", measure::READ_BACK, log.display()).into());
    }
    Ok(cost)
}

/// Empties the folder of runs, and leaves no writes behind that the next one would wait for.
fn clean(run: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(run);
    for name in ["slot", "other", "stage"] {
        fs::create_dir_all(run.join(name))?;
    }
    let mut block = b"# GRUB Environment Block\nactive_slot=A\nboot_success=1\nboot_counter=3\n".to_vec();
    block.resize(1024, b'#');
    fs::write(run.join("grubenv"), block)?;
    nix::unistd::syncfs(fs::File::open(run)?)?;
    Ok(())
}

/// The numbers below `count` in random order.
fn shuffled(count: usize) -> Vec<usize> {
    let chance = RandomState::new();
    let mut numbers: Vec<_> = (0..count).collect();
    numbers.sort_by_key(|number| chance.hash_one(number));
    numbers
}

impl Contestant {
    /// The floor it is compared with.
    fn floor(self) -> Self {
        Self::Floor(match self.server() {
            Server::Registry => Server::Registry,
            Server::Web => Server::Web,
        })
    }
}
